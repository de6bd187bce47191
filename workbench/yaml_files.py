"""YAML that people write, read so that a mistake in it gets one sentence with its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from workbench.errors import InputError


def read_yaml(file: Path) -> Any:
    """What a YAML file says: mappings, lists, texts, numbers, nothing that is executed.

    Raises
    ------
    InputError
        As `parse_yaml`, and if the file cannot be read. The sentence does not name the file.
    """
    try:
        text = file.read_text("utf-8-sig")
    except FileNotFoundError:
        raise InputError("there is no such file.") from None
    except OSError as error:
        raise InputError(f"it cannot be read: {(error.strerror or str(error)).lower()}.") from None
    except UnicodeDecodeError:
        raise InputError("it is not text in UTF-8; save it as that.") from None
    except ValueError:  # a name with a character that no file has
        raise InputError("there is no such file.") from None
    return parse_yaml(text)


def parse_yaml(text: str) -> Any:
    """What a YAML text says.

    Raises
    ------
    InputError
        If it is not YAML, or gives a name twice, of which the last would win without a word.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column, problem = mark.line, mark.column, error.problem or error.context
    except yaml.reader.ReaderError as error:
        before = text[: error.position].split("\n")
        line, column, problem = len(before) - 1, len(before[-1]), "a character that is not allowed"
    except RecursionError:
        raise InputError("it is nested too deeply.") from None
    raise InputError(f"{_place(line, column)}: it is not YAML: {problem}.")


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for name, _ in node.value:
            if isinstance(name, yaml.ScalarNode):
                if name.value in seen:
                    place = _place(name.start_mark.line, name.start_mark.column)
                    raise InputError(f"{place}: {name.value!r} is given twice; keep one of them.")
                seen.add(name.value)
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except ValueError as error:  # such as the 30th of February
            mark = node.start_mark
            raise yaml.MarkedYAMLError(problem=str(error), problem_mark=mark) from None


def _place(line: int, column: int) -> str:
    return f"line {line + 1}, column {column + 1}"


def kind(value: object) -> str:
    """What a value read from YAML is, in words."""
    if isinstance(value, bool):
        return "true or false"
    kinds = {str: "a text", list: "a list", dict: "a mapping", int: "a number", float: "a number"}
    return "empty" if value is None else kinds.get(type(value), f"a {type(value).__name__}")
