"""Checks what a batch file says against the notebook that it names, before anything is run."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import workbench
from workbench.errors import InputError
from workbench.files import kind
from workbench.notebook import (
    PARAMETERS,
    Parameter,
    as_meant,
    code_cells,
    find_notebook,
    read_parameters,
    texts,
    unknown_parameter,
)

PATTERN = re.compile(r"[*?\[]")
_SAMPLE = "sample:"  # as in workbench.samples, which would load torch
_OUTPUT_DIR = "output_dir"


@dataclass(frozen=True)
class Project:
    """The folder that the paths in a batch file are relative to."""

    folder: Path
    _found: dict[tuple[str, bool], Path | None] = field(default_factory=dict)

    def find(self, text: str, *, folders: bool) -> Path | None:
        """The file, or folder, that a text names; looked for on the disk once."""
        if (text, folders) not in self._found:
            self._found[text, folders] = self._find(text, folders)
        return self._found[text, folders]

    def _find(self, text: str, folders: bool) -> Path | None:
        if not text or text.startswith(_SAMPLE):
            return None
        path = self.folder / text
        try:
            found = path.is_file() or (folders and path.is_dir())
        except (OSError, ValueError):  # too long, or with characters that no file has
            return None
        return path if found else None

    def missing(self, text: str, suffix: str = "") -> str:
        """The sentence about a file that there is not, with the nearest one beside it."""
        if not text:
            return "the name of a file is an empty text."
        path = self.folder / text
        try:
            beside = [each.name for each in path.parent.iterdir() if each.name.endswith(suffix)]
        except (OSError, ValueError):
            beside = []
        shown = [name for name in beside if not name.startswith(".")]
        near = difflib.get_close_matches(path.name, shown, n=1)
        there_is_none = f"there is no file {text if text.isprintable() else show(text)}"
        if near and not PATTERN.search(text):
            return f"{there_is_none}; did you mean {Path(text).with_name(near[0]).as_posix()}?"
        return f"{there_is_none}; paths are relative to {self.folder}."


@dataclass(frozen=True)
class Call:
    """What the notebook is told, and the values that its parameters then have."""

    told: dict[str, Any]
    values: dict[str, Any]


@dataclass(frozen=True)
class Notebook:
    """A notebook as a batch sees it.

    Attributes
    ----------
    cells
        SHA-256 of its cells of code; what its text says changes no run.
    parameters
        All but `output_dir`.
    files
        Those of them that take files or folders.
    """

    path: Path
    project: Project
    cells: str
    parameters: dict[str, Parameter]
    files: frozenset[str]

    def check_name(self, where: str, name: str) -> None:
        """Refuse a parameter that there is not, or that the batch itself sets."""
        if name == _OUTPUT_DIR:
            raise InputError(f"{where}: {name} is set for each run; use `output:` to say where.")
        if name not in self.parameters:
            raise InputError(f"{where}: {unknown_parameter(name, list(self.parameters))}")

    def check(self, where: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """The values for some parameters, each as `check_value` gives it."""
        checked = {}
        for name, value in given.items():
            self.check_name(where, name)
            if not self.takes(name, value):
                value = as_meant(name, self.parameters[name], value, self.project.folder)
            checked[name] = self.check_value(where, name, value)
        return checked

    def check_value(self, where: str, name: str, value: Any) -> Any:
        """Refuse a value that the parameter does not take; an int becomes a float if need be.

        Raises
        ------
        InputError
            If there is no such parameter, the value is of another type, or names a file that
            there is not.
        """
        self.check_name(where, name)
        try:
            problem = _not_json(value)
        except RecursionError:
            problem = "a list without end"
        if problem:
            raise InputError(f"{where}: {name} is or holds {problem}.")
        annotation = self.parameters[name].annotation
        if not self.takes(name, value):
            hint = _type_hint(where, self.parameters[name], value)
            raise InputError(f"{where}: {name} must be {annotation}, not {show(value)}{hint}.")
        for text in texts(value) if name in self.files else ():
            if not (text.startswith(_SAMPLE) or self.project.find(text, folders=True)):
                pattern = PATTERN.search(text) and where != "grid"
                hint = " Patterns belong under `grid`." if pattern else ""
                raise InputError(f"{where}: {name}: {self.project.missing(text)}{hint}")
        if annotation == "float" and type(value) is int and abs(value) < 2**53:
            return float(value)  # so that 100 and 100.0 are the same run
        return value

    def takes(self, name: str, value: Any) -> bool:
        """Whether a value is of the type of the parameter.

        One that takes a file also takes a list of them, and one that takes a list of files
        also takes the folder that they are in.
        """
        if self.parameters[name].accepts(value) or name not in self.files:
            return self.parameters[name].accepts(value)
        if isinstance(value, str):
            path = self.project.find(value, folders=True)
            return path is not None and path.is_dir()
        return isinstance(value, list) and all(isinstance(item, str) for item in value)

    def call(self, told: dict[str, Any]) -> Call:
        """A call of the notebook."""
        return Call(told, self.defaults() | told)

    def defaults(self) -> dict[str, Any]:
        """The values in the parameters cell, where they can be read."""
        return {name: each.default for name, each in self.parameters.items() if each.known}

    def inputs(self, call: Call) -> dict[str, Path]:
        """The files and folders that the parameters name, as they name them."""
        found = {}
        for name, value in call.values.items():
            for text in texts(value):
                path = self.project.find(text, folders=name in self.files)
                if path:
                    found[text] = path
        return found

    def key(self, call: Call, inputs: Mapping[str, str]) -> str:
        """SHA-256 of everything that the result depends on."""
        depends = {"notebook": self.cells, "workbench": workbench.__version__}
        return _sha256({**depends, "parameters": call.values, "inputs": inputs})


def read_notebook(text: str, project: Project) -> Notebook:
    """Read what a batch needs to know of a notebook, by its path or the workbench's name for it.

    Raises
    ------
    InputError
        If there is none, or it has no parameters cell with an `output_dir`.
    """
    path = _find_notebook(text, project)
    try:
        cells = code_cells(path)
    except InputError as error:
        raise InputError(f"notebook: {error}") from None
    sources = [cell.source for cell in cells if PARAMETERS in cell.tags]
    if not sources:
        raise InputError(
            f"notebook: {text} has no parameters cell; give a code cell of it the tag `parameters`."
        )
    try:
        parameters = read_parameters(sources[0])
    except InputError as error:
        raise InputError(f"notebook: {text}: {error}") from None
    if parameters.pop(_OUTPUT_DIR, None) is None:
        raise InputError(
            f"notebook: {text} has no parameter {_OUTPUT_DIR}, by which each run is told where to"
            " write; add it to the parameters cell."
        )
    files = {name for name, each in parameters.items() if _names_files(each.default, project)}
    return Notebook(path, project, _sha256(cells), parameters, frozenset(files))


def _find_notebook(text: str, project: Project) -> Path:
    path = project.find(text, folders=False)
    if path:
        return path
    if "/" not in text and not text.endswith(".ipynb"):
        try:
            return find_notebook(text)
        except InputError:
            own = [each.stem for each in find_notebook("stylize_image").parent.glob("*.ipynb")]
            near = difflib.get_close_matches(text, own, n=1)
            if near:
                raise InputError(
                    f"notebook: there is no notebook {text}; did you mean {near[0]}?"
                ) from None
    raise InputError(f"notebook: {project.missing(text, '.ipynb')}")


def _names_files(default: Any, project: Project) -> bool:
    # A plain word, such as "content", is no folder, even if there happens to be one.
    return any(
        text.startswith(_SAMPLE) or project.find(text, folders="/" in text)
        for text in texts(default)
    )


def _not_json(value: Any) -> str:
    """What is in a value that a notebook cannot be handed; empty: nothing."""
    match value:
        case dict():
            odd = [name for name in value if not isinstance(name, str)]
            if odd:
                return f"the name {odd[0]}, which is {kind(odd[0])}; put it in quotes"
            return next(filter(None, map(_not_json, value.values())), "")
        case list():
            return next(filter(None, map(_not_json, value)), "")
        case float() if not math.isfinite(value):
            return f"{value}, which is not a finite number"
        case str() if value.encode("utf-8", "ignore").decode() != value:
            return f"{value!a}, which is not proper Unicode"
        case None | bool() | int() | float() | str():
            return ""
    return f"{value}, {kind(value)}; put it in quotes if it is meant as text"


def _type_hint(where: str, parameter: Parameter, value: Any) -> str:
    """What to do about a value of a wrong type."""
    if isinstance(value, list):
        several = where == "parameters" and not parameter.accepts([])
        return "; to try each of these, put them under `grid`" if several else ""
    if value is None:
        return "; give it a value, or take it out"
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return ""
        whole = str(int(number)) if number.is_integer() else str(number)
        plain = whole if "." in whole else whole.replace("e", ".0e")  # YAML's 1e-05 is a text
        return f"; YAML takes it for a text, so write {plain}"
    return "; put it in quotes if it is meant as text" if parameter.accepts("") else ""


def show(value: Any) -> str:
    """A value as it may be written in YAML, shortened."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):  # a date, say; it is refused elsewhere
        text = ascii(value)
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= 60 else f"{text[:57]}..."


def canonical(value: object) -> str:
    """The same text for the same value, whatever the order of names in it."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _sha256(value: object) -> str:
    return hashlib.sha256(canonical(value).encode()).hexdigest()
