"""Checks what a batch file says against the notebook that it names, before anything is run."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import workbench
from workbench import runs
from workbench.cells import PARAMETERS, Parameter, as_meant, code_cells, read_parameters, texts
from workbench.errors import InputError
from workbench.files import kind
from workbench.notebook import find_notebook, unknown_parameter

SAMPLE = "sample:"  # as in workbench.samples, which would load torch
OUTPUT_DIR = "output_dir"
PATTERN = re.compile(r"[*?\[]")

Values = dict[str, Any]  # name of a parameter -> its value


class Project:
    """The folder that the paths in a batch file are relative to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hint = f"paths are relative to {folder}"
        self.find = cache(self._find)  # looks for each text on the disk once

    def _find(self, text: str, *, folders: bool) -> Path | None:
        """The file, or folder, that a text names."""
        if not text or text.startswith(SAMPLE):
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
        shown: list[str] = []
        with suppress(OSError, ValueError):
            beside = [each.name for each in path.parent.iterdir() if each.name.endswith(suffix)]
            shown = [name for name in beside if not name.startswith(".")]
        near = difflib.get_close_matches(path.name, shown, n=1)
        there_is_none = f"there is no file {text if text.isprintable() else show(text)}"
        if near and not PATTERN.search(text):
            return f"{there_is_none}; did you mean {Path(text).with_name(near[0]).as_posix()}?"
        return f"{there_is_none}; {self.hint}."


@dataclass(frozen=True)
class Notebook:
    """A notebook as a batch sees it."""

    path: Path
    project: Project
    cells: str  # SHA-256 of its cells of code; what its text says changes no run
    parameters: dict[str, Parameter]  # all but `output_dir`
    files: frozenset[str]  # those of them that take files or folders

    @property
    def defaults(self) -> Values:
        """The values in the parameters cell, where they can be read."""
        return {name: each.default for name, each in self.parameters.items() if each.known}

    def check_name(self, where: str, name: str) -> None:
        """Refuse a parameter that there is not, or that the batch itself sets."""
        if name == OUTPUT_DIR:
            raise InputError(f"{where}: {name} is set for each run; use `output:` to say where.")
        if name not in self.parameters:
            raise InputError(f"{where}: {unknown_parameter(name, list(self.parameters))}")

    def check(self, where: str, given: Values) -> Values:
        """The values for some parameters, each as `check_value` gives it."""
        checked = {}
        for name, value in given.items():
            self.check_name(where, name)
            if not self.takes(name, value):
                value = as_meant(name, self.parameters[name], value, self.project.folder)
            checked[name] = self.check_value(where, name, value)
        return checked

    def check_value(self, where: str, name: str, value: Any) -> Any:
        """Refuse a value that the parameter does not take; an int becomes a float if need be."""
        parameter = self.parameters[name]
        if problem := _not_json(value):
            raise InputError(f"{where}: {name} is or holds {problem}.")
        if not self.takes(name, value):
            hint = ""
            if isinstance(value, list) and where == "parameters" and not parameter.accepts([]):
                hint = "; to try each of these, put them under `grid`"
            elif isinstance(value, str) and parameter.accepts(1):
                hint = "; write a number without quotes, as in 360 or 1.0e-05"
            elif value is not None and parameter.accepts(""):
                hint = "; put it in quotes if it is meant as text"
            kinds = f"must be {parameter.annotation}, not {show(value)}"
            raise InputError(f"{where}: {name} {kinds}{hint}.")
        for text in texts(value) if name in self.files else ():
            if not (text.startswith(SAMPLE) or self.project.find(text, folders=True)):
                is_pattern = PATTERN.search(text) and where != "grid"
                hint = " Patterns belong under `grid`." if is_pattern else ""
                raise InputError(f"{where}: {name}: {self.project.missing(text)}{hint}")
        if parameter.annotation == "float" and type(value) is int and abs(value) < 2**53:
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

    def inputs(self, call: Values) -> dict[str, Path]:
        """The files and folders that the parameters name, as they name them."""
        found = {}
        for name, value in (self.defaults | call).items():
            for text in texts(value):
                if path := self.project.find(text, folders=name in self.files):
                    found[text] = path
        return found

    def key(self, call: Values, inputs: Mapping[str, str]) -> str:
        """SHA-256 of everything that the result depends on."""
        depends = {"notebook": self.cells, "workbench": workbench.__version__, "inputs": inputs}
        return _sha256({**depends, "parameters": self.defaults | call})


def read_notebook(text: str, project: Project) -> Notebook:
    """Read what a batch needs to know of a notebook, by its path or the workbench's name for it."""
    path = _find_notebook(text, project)
    try:
        cells = code_cells(path)
        source = next((cell.source for cell in cells if PARAMETERS in cell.tags), None)
        if source is None:
            raise InputError(f"{text} has no parameters cell, one with the tag `parameters`.")
        parameters = read_parameters(source)
    except InputError as error:
        raise InputError(f"notebook: {error}") from None
    if parameters.pop(OUTPUT_DIR, None) is None:
        raise InputError(f"notebook: {text} has no parameter {OUTPUT_DIR}, the folder to write to.")
    files = {name for name, each in parameters.items() if _names_files(each.default, project)}
    return Notebook(path, project, _sha256(cells), parameters, frozenset(files))


def _find_notebook(text: str, project: Project) -> Path:
    if path := project.find(text, folders=False):
        return path
    if "/" not in text and not text.endswith(".ipynb"):
        with suppress(InputError):
            return find_notebook(text)
        own = [each.stem for each in find_notebook("stylize_image").parent.glob("*.ipynb")]
        if near := difflib.get_close_matches(text, own, n=1):
            raise InputError(f"notebook: there is no notebook {text}; did you mean {near[0]}?")
    raise InputError(f"notebook: {project.missing(text, '.ipynb')}")


def _names_files(default: Any, project: Project) -> bool:
    # A plain word, such as "content", is no folder, even if there happens to be one.
    return any(
        text.startswith(SAMPLE) or project.find(text, folders="/" in text)
        for text in texts(default)
    )


def _not_json(value: Any) -> str:
    """What is in a value that a notebook cannot be handed; empty: nothing."""
    odd: list[Any] = []
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False, default=odd.append)
        text.encode()
        is_same = json.loads(text) == value
    except UnicodeError:
        return "a text that is not proper Unicode"
    except (ValueError, TypeError, RecursionError):
        return f"what JSON does not know, in {show(value)}"
    if odd:
        return f"{odd[0]}, {kind(odd[0])}; put it in quotes if it is meant as text"
    return "" if is_same else "a name that is no text; put it in quotes"


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
    return runs.digest(canonical(value).encode())
