"""Names the folders of a batch's runs by their parameters."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePath
from typing import Any

from workbench.batch.parameters import Call, Notebook, canonical, show
from workbench.errors import InputError
from workbench.files import file_number, portable_name

_PAGES = ("index.html", "summary.csv")  # as in `record`, which cannot be imported here
_ASPECTS = ("stem", "name", "suffix", "parent")
_FIELD = re.compile(r"\{([^{}]*)\}")
_UNWRITABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_UNSAFE = re.compile(r'[\x00-\x1f\x7f-\x9f/\\<>:"|?*]')
_LONGEST_WORD, _LONGEST_FOLDER = 80, 255  # in characters; in bytes, on most file systems


@dataclass(frozen=True)
class Template:
    """What `output:` says.

    Attributes
    ----------
    root
        The folders before the first one that has a placeholder; or all but the last.
    parts
        The folders below that.
    """

    text: str
    root: Path
    parts: tuple[str, ...]
    notebook: Notebook

    @property
    def fields(self) -> list[str]:
        """What is in braces."""
        return _FIELD.findall(self.text)


def read_template(text: str, notebook: Notebook) -> Template:
    """Check `output:`, as far as that can be done without the values of a run.

    Raises
    ------
    InputError
        If it has an unknown placeholder, begins without a plain folder, or leaves the project
        by `..`.
    """
    if _UNWRITABLE.search(text):
        raise InputError(f"output: {text!a}: a character that no folder should have in its name.")
    if text.startswith("~"):
        raise InputError(f"output: {text}: `~` is not expanded; write the folder in full.")
    if "\\" in text:
        raise InputError(f"output: {text}: write / between folders, on Windows too.")
    if "{" in _FIELD.sub("", text) or "}" in _FIELD.sub("", text):
        raise InputError(f"output: {text}: a brace without its partner.")
    for field in _FIELD.findall(text):
        _check_field(field, notebook)
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise InputError(
            f"output: {text}: an output outside of the project; give an absolute path if you"
            " mean it."
        )
    plain = next((i for i, part in enumerate(parts) if "{" in part), len(parts) - 1)
    if plain < 1:
        raise InputError(
            f"output: {text}: begin with a folder, as in runs/{text.strip('/')}; it gets the"
            " page about all runs."
        )
    absolute = text.startswith("/") or Path(text).is_absolute()
    if not absolute and any(part.startswith(".") for part in parts[:plain]):
        raise _hidden(text)
    start = "/" if text.startswith("/") else ""
    root = notebook.project.folder / (start + "/".join(parts[:plain]))
    return Template(text, root, tuple(parts[plain:]), notebook)


def _check_field(field: str, notebook: Notebook) -> None:
    name, dot, aspect = field.partition(".")
    if name not in notebook.parameters:
        near = difflib.get_close_matches(name, notebook.parameters, n=1)
        hint = f"did you mean {{{near[0]}}}?" if near else "name a parameter of the notebook."
        raise InputError(f"output: unknown placeholder {{{field}}}; {hint}")
    if dot and aspect not in _ASPECTS:
        choices = ", ".join(f"{{{name}.{aspect}}}" for aspect in _ASPECTS)
        raise InputError(
            f"output: unknown placeholder {{{field}}}; there are {{{name}}}, {choices}."
        )


def _hidden(name: str) -> InputError:
    return InputError(
        f"output: {name}: a folder whose name begins with a dot; the batch keeps its own there."
    )


def name_runs(calls: Sequence[Call], template: Template) -> list[str]:
    """Fill in the template for each run; all names have as many folders as it has.

    Raises
    ------
    InputError
        If a name cannot be that of a folder, or two runs have the same, even if only on a file
        system that takes upper and lower case for the same.
    """
    names = [_name(call, template) for call in calls]
    taken: dict[str, int] = {}
    for number, name in enumerate(names):
        first = taken.setdefault(unicodedata.normalize("NFC", name).casefold(), number)
        if first != number:
            raise _same_name(name, names[first] == name, calls[first], calls[number], template)
    return names


def _name(call: Call, template: Template) -> str:
    parts = [
        portable_name(_FIELD.sub(lambda match: _fill(match[1], call), part))
        for part in template.parts
    ]
    name = "/".join(parts)
    for part in parts:
        if part.strip() in ("", ".", ".."):
            raise InputError(
                f"output: {template.text}: the name of a folder is empty for {_tell(call)}; add"
                " some text or another placeholder."
            )
        if part.startswith("."):
            raise _hidden(name)
        if len(part.encode()) > _LONGEST_FOLDER:
            raise InputError(f"output: {part[:60]}... is too long for the name of a folder.")
    if parts[0].casefold() in _PAGES:
        raise InputError(f"output: {name} is what the batch calls its own file; add to the name.")
    return name


def _tell(call: Call) -> str:
    return ", ".join(f"{name} {show(value)}" for name, value in call.told.items()) or "the one run"


def _fill(field: str, call: Call) -> str:
    name, _, aspect = field.partition(".")
    if name not in call.values:
        raise InputError(
            f"output: {{{field}}}: the notebook computes {name}; give it under `parameters`."
        )
    word = _UNSAFE.sub("-", _word(call.values[name], aspect)).strip(" .")
    return word[:_LONGEST_WORD].strip(" .")


def _word(value: Any, aspect: str) -> str:
    """A value as text; of a text, the aspect of the path that it is."""
    match value:
        case str():
            path = value.removeprefix("sample:")
            if aspect == "parent":
                return PurePath(path).parent.name
            return str(getattr(PurePath(path), aspect)) if aspect else path
        case list():
            return "-".join(_word(item, aspect) for item in value)
        case dict():
            return "-".join(f"{name}-{_word(item, aspect)}" for name, item in value.items())
        case float():
            return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return str(value).lower()  # 12, true, none


def _same_name(name: str, exactly: bool, one: Call, other: Call, template: Template) -> InputError:
    """The sentence about two runs that would write to the same folder."""
    missing = object()
    names = [
        each
        for each in template.notebook.parameters
        if _differ(one.values.get(each, missing), other.values.get(each, missing))
    ]
    if not names:
        return InputError(f"the run with {_tell(other)} is asked for twice; take one out.")
    runs = " and ".join(
        ", ".join(f"{each} {show(call.values.get(each))}" for each in names)
        for call in (one, other)
    )
    field = _missing_field(names, one, other, template)
    return InputError(
        f"output: the runs with {runs} would both write to {template.root.name}/{name}"
        f"{'' if exactly else ', which differs only in upper and lower case'};"
        f" {f'add {{{field}}} to it.' if field else 'write these values differently.'}"
    )


def _differ(one: Any, other: Any) -> bool:
    return type(one) is not type(other) or (one != other and canonical(one) != canonical(other))


def _missing_field(names: Sequence[str], one: Call, other: Call, template: Template) -> str | None:
    """A placeholder that would tell two runs apart."""
    used = {field.partition(".")[0] for field in template.fields}
    for name in sorted(names, key=lambda name: name in used):
        for aspect in (
            ("stem", "parent", "suffix", "") if name in template.notebook.files else ("",)
        ):
            field = f"{name}.{aspect}" if aspect else name
            both = name in one.values and name in other.values
            if both and _fill(field, one).casefold() != _fill(field, other).casefold():
                return field
    return None


def check_apart(outputs: Iterable[Path], inputs: Mapping[str, Path]) -> None:
    """Refuse outputs in a folder that is read, and files that are read in an output.

    Raises
    ------
    InputError
        If there is any, through whatever links.
    """
    number = cache(file_number)
    outputs = set(outputs)
    above = [
        each
        for folder in {output.parent.resolve() for output in outputs}
        for each in (folder, *folder.parents)
    ]
    made = {number(output) for output in outputs} - {None}
    taken = {number(folder) for folder in above} - {None} | made
    for text, path in inputs.items():
        if number(path) in taken:
            raise InputError(f"output: it would be in {text}, which is read; name another folder.")
        if not made.isdisjoint(map(number, path.resolve().parents)):
            raise InputError(f"output: {text} is in it, which is read; name another folder.")
