"""A batch file (YAML) -> the runs it stands for, each with a key that says what it depends on."""

from __future__ import annotations

import difflib
import fnmatch
import glob
import itertools
import math
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePath
from typing import Any

import workbench
from workbench.batch.parameters import (
    PATTERN,
    SAMPLE,
    Notebook,
    Project,
    Values,
    canonical,
    read_notebook,
    show,
)
from workbench.batch.record import PAGE, SUMMARY, Run, read_digests
from workbench.cells import expand_home
from workbench.errors import InputError
from workbench.files import file_number, kind, portable_name, read_yaml

_REQUIRED = {"notebook": "which notebook is run", "output": "which folder each run goes to"}
_KEYS = (*_REQUIRED, "parameters", "grid", "exclude", "include", "timeout")
_ASPECTS = ("stem", "name", "suffix", "parent")
_FIELD = re.compile(r"\{([^{}]*)\}")
_UNWRITABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_UNSAFE = re.compile(r'[\x00-\x1f\x7f-\x9f/\\<>:"|?*]')
_LONGEST_WORD, _LONGEST_FOLDER = 80, 255  # in characters; in bytes, on most file systems


@dataclass(frozen=True)
class Plan:
    """What a batch file asks for."""

    file: Path  # the batch file
    project: Path  # the folder that its paths are relative to, and that notebooks run in
    notebook: Path
    root: Path  # the folder above all runs, which gets `index.html` and `summary.csv`
    runs: tuple[Run, ...]  # in the order of the grid, its last parameter changing fastest
    varied: tuple[str, ...]  # the parameters that differ between runs
    timeout: float | None  # seconds that a run may take; None: any number
    version: str = workbench.__version__  # of the workbench that made the plan


def read_plan(file: str | os.PathLike[str], *, keep_digests: bool = False) -> Plan:
    """Read a batch file and check all of it, before anything is run.

    Paths in it are relative to the folder that it lies in, or to the one above if that folder
    is called `experiments`.

    Parameters
    ----------
    keep_digests
        Whether to write down the digests of the inputs below the plan's `root`, so that large
        files are not read again next time.

    Raises
    ------
    InputError
        If anything is wrong with the file; the sentence says where.
    """
    path = Path(os.path.abspath(file))  # noqa: PTH100 (leaves links alone)
    folder = path.parent.parent if path.parent.name == "experiments" else path.parent
    try:
        return _plan(path, Project(folder.resolve()), keep_digests)
    except InputError as error:
        raise InputError(f"{os.fspath(file)}: {error}") from None


def _plan(file: Path, project: Project, keep_digests: bool) -> Plan:
    batch = _read_batch(file)
    notebook = read_notebook(batch["notebook"], project)
    root, parts = _read_output(batch["output"], notebook)
    timeout = _read_timeout(batch.get("timeout"))
    fixed = notebook.check("parameters", _mapping("parameters", batch.get("parameters")))
    grid = _read_grid(batch["grid"], notebook, root) if "grid" in batch else {}
    for name in grid:
        if name in fixed:
            raise InputError(f"{name} is under `parameters` and under `grid`; keep one of them.")
    include = [
        notebook.check(where, entry) for where, entry in _entries("include", batch.get("include"))
    ]
    products = itertools.product(*grid.values()) if grid or not include else ()
    calls = [fixed | dict(zip(grid, values, strict=True)) for values in products]
    calls = _without(_entries("exclude", batch.get("exclude")), calls, notebook)
    calls += [fixed | values for values in include]
    if not calls:
        raise InputError("exclude leaves no run; take something out of it.")
    names = _name_runs(calls, root, parts, notebook)
    outputs = [root / name for name in names]
    inputs = [notebook.inputs(call) for call in calls]
    named = {text: path for found in inputs for text, path in found.items()}
    _check_apart(outputs, {file.name: file, batch["notebook"]: notebook.path, **named})
    digests = read_digests(sorted(set(named.values())), root, keep=keep_digests)
    planned = []
    for name, output, call, found in zip(names, outputs, calls, inputs, strict=True):
        read = {text: digests[path] for text, path in found.items()}
        planned.append(Run(name, output, call, read, notebook.key(call, read)))
    given = dict.fromkeys([*grid, *(name for entry in include for name in entry)])
    values = [notebook.defaults | call for call in calls]
    varied = tuple(name for name in given if len({canonical(v.get(name)) for v in values}) > 1)
    return Plan(file, project.folder, notebook.path, root, tuple(planned), varied, timeout)


# --- what stands in the file -------------------------------------------------------------


def _read_batch(file: Path) -> Values:
    """The mapping in the file, its keys checked."""
    batch = _mapping("the file", read_yaml(file))
    if not batch:
        raise InputError("it is empty; it needs `notebook:` and `output:` at least.")
    for key in batch:
        if key not in _KEYS:
            near = difflib.get_close_matches(key, _KEYS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(_KEYS)}."
            raise InputError(f"unknown key {key!r}; {hint}")
    for key, use in _REQUIRED.items():
        value = batch.get(key)
        if value is None or value == "":
            raise InputError(f"`{key}:` is missing; it says {use}.")
        if not isinstance(value, str):
            raise InputError(f"{key} must be a text, and is {kind(value)}; it says {use}.")
    for key in batch.keys() - _REQUIRED.keys():
        with suppress(RecursionError):  # lists without end are refused later
            batch[key] = expand_home(batch[key])
    return batch


def _mapping(where: str, value: Any) -> Values:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(f"{where} must be a mapping, `name: value`, and is {kind(value)}.")
    for name in value:
        if not isinstance(name, str):
            raise InputError(f"{where}: the name {name} is {kind(name)}; put it in quotes.")
    return value


def _entries(where: str, value: Any) -> list[tuple[str, Values]]:
    """The mappings in a list, each with what to call it."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise InputError(f"{where} must be a list, `- {{name: value}}`, and is {kind(value)}.")
    entries = [(f"{where} {number}", entry) for number, entry in enumerate(value, 1)]
    for place, entry in entries:
        if not _mapping(place, entry):
            raise InputError(f"{place} is empty; name a parameter and its value, or take it out.")
    return entries


def _read_timeout(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise InputError(f"timeout must be a number of seconds above 0, not {value!r}.")
    return float(value)


def _read_grid(content: Any, notebook: Notebook, root: Path) -> dict[str, list[Any]]:
    """The values of each parameter, files in the place of patterns."""
    grid: dict[str, list[Any]] = {}
    for name, given in _mapping("grid", content).items():
        notebook.check_name("grid", name)
        values = [given] if not isinstance(given, list) else given
        if given is None or not values:
            raise InputError(f"grid: {name} has no values; give it some, or take it out.")
        values = [item for value in values for item in _expand(name, value, notebook, root)]
        parameter = notebook.parameters[name]
        takes_lists = parameter.accepts([]) and parameter.annotation
        flat = takes_lists and not any(isinstance(value, list) for value in values)
        if flat and not all(notebook.takes(name, value) for value in values):
            example = f"`{name}: [{show(values)}]`"
            raise InputError(f"grid: {name} takes a list, so write a list of lists, {example}.")
        grid[name] = [notebook.check_value("grid", name, value) for value in values]
        for value, count in Counter(map(canonical, grid[name])).items():
            if count > 1:
                raise InputError(f"grid: {name} has the value {value} twice; take one out.")
    if not grid:
        raise InputError("grid is empty; name a parameter and its values, or take it out.")
    return grid


def _expand(name: str, value: Any, notebook: Notebook, root: Path) -> list[Any]:
    """The files that a pattern stands for; anything else is itself.

    What is in `root` is left out, so that a batch does not feed on its own results, unless the
    pattern names a folder in there.
    """
    project = notebook.project
    if (
        not (isinstance(value, str) and PATTERN.search(value))
        or not (notebook.takes(name, "") or name in notebook.files)
        or project.find(value, folders=True)
    ):
        return [value]
    try:
        found = sorted(glob.glob(value, root_dir=project.folder, recursive=True))  # noqa: PTH207
    except ValueError:  # a character that no file has
        found = []
    wanted = os.path.isdir if value.endswith("/") else os.path.isfile
    files = [text for text in found if wanted(project.folder / text)]
    fixed = project.folder / PATTERN.split(value)[0].rpartition("/")[0]
    if not fixed.is_relative_to(root):
        files = [text for text in files if not (project.folder / text).is_relative_to(root)]
    if not files:
        is_folder = found and not value.endswith("/")
        hint = "to take folders, end it in /" if is_folder else project.hint
        raise InputError(f"grid: {name}: no file matches {show(value)}; {hint}.")
    return [PurePath(text).as_posix() for text in files]


def _without(
    entries: Iterable[tuple[str, Values]], calls: list[Values], notebook: Notebook
) -> list[Values]:
    """The calls that no entry of `exclude` names."""
    values = [notebook.defaults | call for call in calls]
    dropped: set[int] = set()
    for where, entry in entries:
        for name in entry:
            notebook.check_name(where, name)
        matches = {
            number
            for number, each in enumerate(values)
            if all(_same(each.get(name), wanted) for name, wanted in entry.items())
        }
        if not matches:
            raise InputError(f"{where} matches no run of the grid: {_tell(entry)}; take it out.")
        dropped |= matches
    return [call for number, call in enumerate(calls) if number not in dropped]


def _same(value: Any, wanted: Any) -> bool:
    """Whether a parameter has the value that an entry names; a text may be a pattern."""
    if isinstance(value, str) and isinstance(wanted, str):
        return value == wanted or fnmatch.fnmatchcase(value, wanted)
    return bool(value == wanted) and isinstance(value, bool) == isinstance(wanted, bool)


# --- the folders that it goes to ---------------------------------------------------------


def _read_output(text: str, notebook: Notebook) -> tuple[Path, list[str]]:
    """The folders before the first one with a placeholder, and those from there on."""
    if _UNWRITABLE.search(text):
        raise InputError(f"output: {text!a}: a character that no folder should have in its name.")
    if text.startswith("~"):
        raise InputError(f"output: {text}: `~` is not expanded; write the folder in full.")
    if "\\" in text:
        raise InputError(f"output: {text}: write / between folders, on Windows too.")
    if re.search("[{}]", _FIELD.sub("", text)):
        raise InputError(f"output: {text}: a brace without its partner.")
    for field in _FIELD.findall(text):
        name, dot, aspect = field.partition(".")
        if name not in notebook.parameters:
            near = difflib.get_close_matches(name, notebook.parameters, n=1)
            hint = f"did you mean {{{near[0]}}}?" if near else "name a parameter of the notebook."
            raise InputError(f"output: unknown placeholder {{{field}}}; {hint}")
        if dot and aspect not in _ASPECTS:
            choices = ", ".join(f"{{{name}.{each}}}" for each in _ASPECTS)
            raise InputError(f"output: {{{field}}}: there are {{{name}}}, {choices}.")
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise InputError(f"output: {text}: outside of the project; give an absolute path.")
    plain = next((i for i, part in enumerate(parts) if "{" in part), len(parts) - 1)
    if plain < 1:
        raise InputError(f"output: {text}: begin with a folder, as in runs/{text.strip('/')}.")
    start = "/" if text.startswith("/") else ""
    if not Path(text).is_absolute() and any(part.startswith(".") for part in parts[:plain]):
        raise _hidden(text)
    return notebook.project.folder / (start + "/".join(parts[:plain])), parts[plain:]


def _hidden(name: str) -> InputError:
    return InputError(f"output: {name}: a folder begins with a dot, as the batch's own do.")


def _name_runs(
    calls: Sequence[Values], root: Path, parts: Sequence[str], notebook: Notebook
) -> list[str]:
    """Names of all runs; no two are the same where upper and lower case are, too."""
    names = [_name(call, parts, notebook) for call in calls]
    taken: dict[str, Values] = {}
    for name, call in zip(names, calls, strict=True):
        other = taken.setdefault(unicodedata.normalize("NFC", name).casefold(), call)
        if other is call:
            continue
        one, two = notebook.defaults | other, notebook.defaults | call
        apart = [each for each in two if canonical(one.get(each)) != canonical(two[each])]
        if not apart:
            raise InputError(f"the run with {_tell(call)} is asked for twice; take one out.")
        these, those = (_tell({each: run.get(each) for each in apart}) for run in (one, two))
        raise InputError(
            f"output: {these} and {those} would share {root.name}/{name}, but for upper and"
            " lower case; add a placeholder, or write these values differently."
        )
    return names


def _name(call: Values, parts: Sequence[str], notebook: Notebook) -> str:
    values = notebook.defaults | call

    def fill(match: re.Match[str]) -> str:
        name, _, aspect = match[1].partition(".")
        if name not in values:
            raise InputError(f"output: the notebook computes {match[0]}; give it in `parameters`.")
        word = _UNSAFE.sub("-", _word(values[name], aspect)).strip(" .")
        return word[:_LONGEST_WORD].strip(" .")

    filled = [portable_name(_FIELD.sub(fill, part)) for part in parts]
    name = "/".join(filled)
    for part in filled:
        if part.strip() in ("", ".", ".."):
            raise InputError(f"output: a name is empty for {_tell(call)}; add another placeholder.")
        if part.startswith("."):
            raise _hidden(name)
        if len(part.encode()) > _LONGEST_FOLDER:
            raise InputError(f"output: {part[:60]}... is too long for the name of a folder.")
    if filled[0].casefold() in (PAGE, SUMMARY):
        raise InputError(f"output: {name} is what the batch calls its own file; add to it.")
    return name


def _word(value: Any, aspect: str) -> str:
    """A value as text; of a text, the aspect of the path that it is."""
    match value:
        case str():
            path = PurePath(value.removeprefix(SAMPLE))
            if aspect == "parent":
                return path.parent.name
            return str(getattr(path, aspect)) if aspect else value.removeprefix(SAMPLE)
        case list():
            return "-".join(_word(item, aspect) for item in value)
        case dict():
            return "-".join(f"{name}-{_word(item, aspect)}" for name, item in value.items())
        case float():
            return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return str(value).lower()  # 12, true, none


def _check_apart(outputs: Iterable[Path], inputs: Mapping[str, Path]) -> None:
    """Refuse outputs in a folder that is read, and files that are read in an output."""
    number = cache(file_number)
    made = {number(output) for output in outputs} - {None}
    above = {output.parent.resolve() for output in outputs}
    above |= {place for folder in above for place in folder.parents}
    taken = made | {number(place) for place in above} - {None}
    for text, path in inputs.items():
        if number(path) in taken or not made.isdisjoint(map(number, path.resolve().parents)):
            raise InputError(f"output: {text} is read, in it or around it; name another folder.")


def _tell(call: Values) -> str:
    return ", ".join(f"{name} {show(value)}" for name, value in call.items()) or "the defaults"
