"""Parameters cells: what they say and take, and their knob lines, written from the settings.

`python -m workbench.cells` brings the lines of knobs in the workbench's notebooks up to date.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from workbench.errors import InputError
from workbench.files import parse_yaml, reading, write_bytes
from workbench.settings import NOT_TRAINED, ClipSettings, Knobs, Settings, TrainingSettings

PARAMETERS = "parameters"  # tag of the parameters cell

# Notebook -> the settings that it takes whole, but for some.
TAKES: dict[str, dict[type[Knobs], frozenset[str]]] = {
    "compare_video": {Settings: frozenset(), ClipSettings: frozenset({"mode"})},
    "explore_weights": {Settings: frozenset()},
    "style_sweep": {Settings: frozenset({"style_blend_weights"})},
    "stylize_clip": {Settings: frozenset(), ClipSettings: frozenset()},
    "stylize_image": {Settings: frozenset()},
    "train_style_model": {TrainingSettings: frozenset(), Settings: frozenset(NOT_TRAINED)},
    "tune_weights": {Settings: frozenset()},
    "which_is_better": {Settings: frozenset({"style_blend_weights"})},
}


class Cell(NamedTuple):
    """A cell of code."""

    source: str
    tags: list[str]


@dataclasses.dataclass(frozen=True)
class Parameter:
    """What a parameters cell says about one of its names."""

    annotation: str = ""  # the type, as it is written there; empty: none
    default: Any = None  # the value, if it is `known`
    known: bool = False  # whether the value is a literal that JSON can hold

    def accepts(self, value: object) -> bool:
        """Whether the type allows a value read from JSON or YAML.

        A list will do for a tuple and an int for a float, but not a bool for an int. A type
        that is not one of Python's plain ones allows everything.
        """
        try:
            kind = ast.parse(self.annotation, mode="eval").body
        except SyntaxError:  # none, or a remark in quotes
            return True
        return _allows(kind, value)


# --- reading -----------------------------------------------------------------------------


def code_cells(notebook: Path) -> list[Cell]:
    """The cells of code in a notebook's file."""
    try:
        with reading(notebook):
            document = json.loads(notebook.read_text("utf-8"))
        return [
            Cell("".join(cell["source"]), cell.get("metadata", {}).get("tags", []))
            for cell in document["cells"]
            if cell["cell_type"] == "code"
        ]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise InputError(f"{notebook} is not a Jupyter notebook, or damaged.") from None


def read_parameters(source: str) -> dict[str, Parameter]:
    """Read a parameters cell without running it."""
    try:
        statements = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError):
        raise InputError("the parameters cell is not plain Python.") from None
    parameters = {}
    for statement in statements:
        match statement:
            case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=value):
                parameters[name] = _parameter(ast.unparse(annotation), value)
            case ast.Assign(targets=targets, value=value):
                names = [target.id for target in targets if isinstance(target, ast.Name)]
                parameters.update(dict.fromkeys(names, _parameter("", value)))
    return parameters


def _parameter(annotation: str, value: ast.expr | None) -> Parameter:
    if value is None:
        return Parameter(annotation)
    try:
        default = json.loads(json.dumps(ast.literal_eval(value)))
    except (ValueError, TypeError, RecursionError):
        return Parameter(annotation)
    return Parameter(annotation, default, known=True)


_PLAIN: dict[str, Any] = {
    "bool": bool,
    "int": int,
    "float": (int, float),
    "str": str,
    "list": list,
    "tuple": list,
    "dict": dict,
}


def _allows(kind: ast.expr, value: Any) -> bool:
    """Whether a type, as it is written, allows a value."""
    match kind:
        case ast.Constant(value=None):
            return value is None
        case ast.Constant(value=str(quoted)):
            return Parameter(quoted).accepts(value)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _allows(left, value) or _allows(right, value)
        case ast.Name(id=name) | ast.Attribute(attr=name):
            plain = _PLAIN.get(name.lower())
            is_bool = isinstance(value, bool)
            return plain is None or (isinstance(value, plain) and is_bool == (plain is bool))
        case ast.Subscript(value=ast.Name(id=name) | ast.Attribute(attr=name), slice=inner):
            kinds = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            return _allows_inside(name.lower(), kinds, value)
    return True


def _allows_inside(name: str, kinds: Sequence[ast.expr], value: Any) -> bool:
    """Whether `name[kinds]` allows a value."""
    if name == "optional":
        return value is None or _allows(kinds[0], value)
    if name == "union":
        return any(_allows(kind, value) for kind in kinds)
    if name == "literal":
        return any(ast.unparse(kind) == repr(value) for kind in kinds)
    if name not in ("list", "tuple", "dict"):
        return True
    if not isinstance(value, _PLAIN[name]):
        return False
    items = list(value.values()) if name == "dict" else value
    if name != "tuple" or (kinds and ast.unparse(kinds[-1]) == "..."):
        kinds = [kinds[-1] if name == "dict" else kinds[0]] * len(items)
    return len(items) == len(kinds) and all(map(_allows, kinds, items))


# --- values that are handed in -----------------------------------------------------------


def as_meant(name: str, parameter: Parameter, value: Any, folder: Path = Path()) -> Any:
    """A value as it is meant: for a list, a single one is a list of it.

    So `-p masks me.png` and `-p crop 0.2,0,0.8,1` do what they seem to do. A text for a list that
    has commas in it, and is neither numbers nor the name of a file in `folder`, is refused.
    """
    is_list = re.match(r"list\b(\[.*\]$|$)?", parameter.annotation)
    if not is_list or not isinstance(value, str | int | float) or isinstance(value, bool):
        return value
    if not isinstance(value, str):
        return [value] if is_list.end() == len(parameter.annotation) else value
    there = (folder / value).exists()
    if value.startswith("[") and not there:
        return parse_yaml(value)
    parts = [part.strip() for part in value.split(",")] if value else []
    with suppress(ValueError):
        return [float(part) if re.search("[.en]", part) else int(part) for part in parts]
    if len(parts) > 1 and not there:
        raise InputError(
            f"{name} = {value!r}: give a list, with papermill as -y '{name}: [{', '.join(parts)}]'."
        )
    return [value]


def expand_home(value: Any) -> Any:
    """The same value, with the home folder in each text that begins with `~`."""
    if isinstance(value, str):
        return os.path.expanduser(value)  # noqa: PTH111 (a Path would take `./` away)
    if isinstance(value, list):
        return [expand_home(item) for item in value]
    if isinstance(value, dict):
        return {name: expand_home(item) for name, item in value.items()}
    return value


def texts(value: Any) -> Iterator[str]:
    """All texts in a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple | Mapping):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from texts(item)


# --- writing -----------------------------------------------------------------------------


def with_knobs(cell: str, takes: Mapping[type[Knobs], frozenset[str]]) -> str:
    """A parameters cell with the lines of all knobs as `settings` has them.

    Values stay; a knob that the cell lacks gets its default, and its place behind the one
    before it.
    """
    lines, values = cell.splitlines(), read_parameters(cell)
    for kind, without in takes.items():
        at = len(lines) - 1
        for field in dataclasses.fields(kind):
            if field.name in without:
                continue
            default = values[field.name].default if field.name in values else field.default
            written = json.dumps(default) if not isinstance(default, bool) else repr(default)
            annotation = "list" if str(field.type).startswith("tuple") else field.type
            line = f"{field.name}: {annotation} = {written}  # {field.metadata['text']}"
            if field.name in values:
                at = next(i for i, old in enumerate(lines) if old.startswith(f"{field.name}: "))
                lines[at] = line
            else:
                at += 1
                lines.insert(at, line)
    return "\n".join(lines)


def write_knobs(notebook: Path, takes: Mapping[type[Knobs], frozenset[str]]) -> bool:
    """Bring the knobs in a notebook's parameters cell up to date; whether that changed it."""
    text = notebook.read_text("utf-8")
    document = json.loads(text)
    for cell in document["cells"]:
        if PARAMETERS in cell["metadata"].get("tags", []):
            cell["source"] = with_knobs("".join(cell["source"]), takes).splitlines(keepends=True)
    written = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    if written != text:
        write_bytes(notebook, written.encode())
    return written != text


if __name__ == "__main__":
    for name, takes in TAKES.items():
        path = Path("notebooks", f"{name}.ipynb")
        print(f"{path}: {'written' if write_knobs(path, takes) else 'up to date'}")
