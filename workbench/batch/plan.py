"""A batch file (YAML) -> the runs it stands for, each with a key that says what it depends on."""

from __future__ import annotations

import difflib
import fnmatch
import glob
import itertools
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from workbench.batch.digests import digest, read_digests
from workbench.batch.names import check_apart, name_runs, read_template
from workbench.batch.parameters import (
    PATTERN,
    Call,
    Notebook,
    Project,
    canonical,
    read_notebook,
    show,
)
from workbench.errors import InputError
from workbench.files import kind, read_yaml
from workbench.notebook import expand_home

__all__ = ["Plan", "Run", "digest", "read_plan"]

_REQUIRED = {"notebook": "which notebook is run", "output": "which folder each run goes to"}
_KEYS = (*_REQUIRED, "parameters", "grid", "exclude", "include", "timeout")
_CACHE = Path(".batch", "digests.json")  # the folder is `record.STATE_FOLDER`


@dataclass(frozen=True)
class Run:
    """One call of the notebook.

    Attributes
    ----------
    name
        Folder of the run below the plan's `root`, with forward slashes.
    output
        That folder as a path, where the finished run goes.
    parameters
        What the notebook is told, `output_dir` excepted; files are named as the batch file
        names them, relative to `Plan.project`.
    inputs
        Files and folders that the parameters name -> SHA-256 of what is in them.
    key
        SHA-256 of everything that the result depends on: the notebook, the version of the
        workbench, the parameters and the content of the inputs.
    """

    name: str
    output: Path
    parameters: Mapping[str, Any]
    inputs: Mapping[str, str]
    key: str


@dataclass(frozen=True)
class Plan:
    """What a batch file asks for.

    Attributes
    ----------
    file
        The batch file.
    project
        The folder that its paths are relative to, and that notebooks run in.
    notebook
        The notebook that is run.
    root
        The folder above all runs, which gets `index.html` and `summary.csv`.
    runs
        In the order of the grid, its last parameter changing fastest; then what is included.
    varied
        The parameters that differ between runs, in the order of the batch file.
    timeout
        Seconds that a run may take; None: any number.
    """

    file: Path
    project: Path
    notebook: Path
    root: Path
    runs: tuple[Run, ...]
    varied: tuple[str, ...]
    timeout: float | None


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
    OutputError
        If the digests cannot be written.
    """
    path = Path(os.path.abspath(file))  # noqa: PTH100 (leaves links alone)
    folder = path.parent.parent if path.parent.name == "experiments" else path.parent
    try:
        return _plan(path, Project(folder.resolve()), keep_digests)
    except InputError as error:
        raise InputError(f"{os.fspath(file)}: {error}") from None


def _plan(file: Path, project: Project, keep_digests: bool) -> Plan:
    batch = _read_batch(file)
    for key in ("parameters", "grid", "exclude", "include"):
        with suppress(KeyError, RecursionError):  # lists without end are refused below
            batch[key] = expand_home(batch[key])
    notebook = read_notebook(batch["notebook"], project)
    template = read_template(batch["output"], notebook)
    timeout = _read_timeout(batch.get("timeout"))
    fixed = notebook.check("parameters", _mapping("parameters", batch.get("parameters")))
    grid = _read_grid(batch["grid"], notebook, template.root) if "grid" in batch else {}
    for name in grid:
        if name in fixed:
            raise InputError(f"{name} is under `parameters` and under `grid`; keep one of them.")
    include = [
        notebook.check(where, entry) for where, entry in _entries("include", batch.get("include"))
    ]
    products = itertools.product(*grid.values()) if grid or not include else ()
    crossed = [notebook.call(fixed | dict(zip(grid, values, strict=True))) for values in products]
    crossed = _without(_entries("exclude", batch.get("exclude")), crossed, notebook)
    calls = crossed + [notebook.call(fixed | values) for values in include]
    if not calls:
        raise InputError("exclude leaves no run; take something out of it.")
    names = name_runs(calls, template)
    outputs = [template.root / name for name in names]
    inputs = [notebook.inputs(call) for call in calls]
    named = {text: path for found in inputs for text, path in found.items()}
    check_apart(outputs, {file.name: file, batch["notebook"]: notebook.path, **named})
    paths = {path for found in inputs for path in found.values()}
    digests = read_digests(sorted(paths), template.root / _CACHE, keep=keep_digests)
    runs = []
    for name, output, call, found in zip(names, outputs, calls, inputs, strict=True):
        read = {text: digests[path] for text, path in found.items()}
        runs.append(Run(name, output, call.told, read, notebook.key(call, read)))
    varied = _varied(grid, include, calls)
    return Plan(file, project.folder, notebook.path, template.root, tuple(runs), varied, timeout)


def _read_batch(file: Path) -> dict[str, Any]:
    """The mapping in the file, its keys checked."""
    content = read_yaml(file)
    if content is None:
        raise InputError("it is empty; it needs `notebook:` and `output:` at least.")
    batch = _mapping("the file", content)
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
    return batch


def _mapping(where: str, value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(f"{where} must be a mapping, `name: value`, and is {kind(value)}.")
    for name in value:
        if not isinstance(name, str):
            raise InputError(f"{where}: the name {name} is {kind(name)}; put it in quotes.")
    return value


def _entries(where: str, value: Any) -> list[tuple[str, dict[str, Any]]]:
    """The mappings in a list, each with what to call it."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise InputError(
            f"{where} must be a list of mappings, `- {{name: value}}`, and is {kind(value)}."
        )
    entries = []
    for number, entry in enumerate(value, 1):
        place = f"{where} {number}"
        if not entry:
            raise InputError(f"{place} is empty; name a parameter and its value, or take it out.")
        entries.append((place, _mapping(place, entry)))
    return entries


def _read_timeout(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise InputError(f"timeout must be a number of seconds above 0, not {value!r}.")
    return float(value)


def _read_grid(content: Any, notebook: Notebook, root: Path) -> dict[str, list[Any]]:
    """The values of each parameter, files in the place of patterns."""
    grid = {}
    for name, given in _mapping("grid", content).items():
        notebook.check_name("grid", name)
        values = [given] if not isinstance(given, list) else given
        if given is None or not values:
            raise InputError(f"grid: {name} has no values; give it some, or take it out.")
        values = [item for value in values for item in _expand(name, value, notebook, root)]
        _check_not_flat(name, values, notebook)
        grid[name] = [notebook.check_value("grid", name, value) for value in values]
        seen = set()
        for value in map(canonical, grid[name]):
            if value in seen:
                raise InputError(f"grid: {name} has the value {value} twice; take one out.")
            seen.add(value)
    if not grid:
        raise InputError("grid is empty; name a parameter and its values, or take it out.")
    return grid


def _check_not_flat(name: str, values: Sequence[Any], notebook: Notebook) -> None:
    """Say it, if one list is given to a parameter that takes a list for each run."""
    takes_lists = notebook.parameters[name].accepts([]) and notebook.parameters[name].annotation
    if takes_lists and not any(isinstance(value, list) for value in values):
        for value in values:
            if not notebook.takes(name, value):
                raise InputError(
                    f"grid: {name} takes a list, so each of its values must be a list itself, as in"
                    f" `{name}: [{show(values)}]`, not {show(value)}."
                )


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
        hint = f"paths are relative to {project.folder}"
        if found and not (files or value.endswith("/")):
            hint = "to take folders, end it in /"
        raise InputError(f"grid: {name}: no file matches {show(value)}; {hint}.")
    return [PurePath(text).as_posix() for text in files]


def _without(
    entries: Iterable[tuple[str, Mapping[str, Any]]], calls: list[Call], notebook: Notebook
) -> list[Call]:
    """The calls that no entry of `exclude` names."""
    dropped: set[int] = set()
    for where, entry in entries:
        for name in entry:
            notebook.check_name(where, name)
        matches = {i for i, call in enumerate(calls) if _matches(entry, call.values)}
        if not matches:
            told = ", ".join(f"{name} {show(value)}" for name, value in entry.items())
            raise InputError(
                f"{where} matches no run of the grid: {told}; change it or take it out."
            )
        dropped |= matches
    return [call for i, call in enumerate(calls) if i not in dropped]


def _matches(entry: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    for name, wanted in entry.items():
        value = values.get(name)
        same = value == wanted and isinstance(value, bool) == isinstance(wanted, bool)
        texts = isinstance(value, str) and isinstance(wanted, str)
        if not (same or (texts and fnmatch.fnmatchcase(value, wanted))):
            return False
    return True


def _varied(
    grid: Mapping[str, Sequence[Any]], include: Sequence[Mapping[str, Any]], calls: Sequence[Call]
) -> tuple[str, ...]:
    """The parameters that differ between runs."""
    varied = [name for name, values in grid.items() if len(values) > 1]
    for name in dict.fromkeys(name for entry in include for name in entry):
        values = {canonical(call.values.get(name)) for call in calls}
        if name not in varied and len(values) > 1:
            varied.append(name)
    return tuple(varied)
