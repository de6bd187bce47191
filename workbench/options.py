"""Knobs -> options of a command."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Optional, get_type_hints

import typer

from workbench.errors import InputError
from workbench.settings import Knobs

Function = Callable[..., None]
_KINDS = {"int": int, "float": float, "bool": bool, "str": str}


def with_knobs(
    *, leave_out: Sequence[str] = (), **kinds: type[Knobs]
) -> Callable[[Function], Function]:
    """Give a command an option for every knob, and hand it the settings made of them.

    `with_knobs(settings=Settings)` turns `--size 256 --preset draft` and so on into the
    parameter `settings`. Presets are those of the last kind that has any.

    Parameters
    ----------
    leave_out
        Knobs that the command has no use for.
    kinds
        Parameter of the command -> its class of settings.
    """
    presets = next(kind.PRESETS for kind in reversed(kinds.values()) if kind.PRESETS)
    knobs = {
        each.name: each
        for kind in kinds.values()
        for each in dataclasses.fields(kind)
        if each.name not in leave_out
    }

    def decorate(command: Function) -> Function:
        hints = get_type_hints(command, include_extras=True)
        own = [
            parameter.replace(annotation=hints[parameter.name])
            for parameter in inspect.signature(command).parameters.values()
            if parameter.name not in kinds
        ]
        usual = next(name for name in ("normal", "quick") if name in presets)
        choice = f"Where the other options start from: {', '.join(presets)}. [{usual}]"
        parameters = [*own, _option("preset", str, choice), *map(_option_of, knobs.values())]

        @functools.wraps(command)
        def wrapper(**given: Any) -> None:
            preset, like = given.pop("preset"), given.get("like")
            if like is not None and preset is not None:
                raise InputError("--like and --preset both say where to start from; leave one out.")
            told = {name: given.pop(name) for name in knobs}
            for parameter, kind in kinds.items():
                changes = {
                    each.name: _read(each, told[each.name])
                    for each in dataclasses.fields(kind)
                    if told.get(each.name) is not None
                }
                if like is not None:
                    given[parameter] = kind.from_command(like, **changes)  # type: ignore[attr-defined]
                elif preset is not None and kind.PRESETS is presets:
                    given[parameter] = kind.from_preset(preset, **changes)
                else:
                    given[parameter] = kind().changed(**changes)
            command(**given)

        wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {each.name: each.annotation for each in parameters}
        return wrapper

    return decorate


def _option_of(each: dataclasses.Field[Any]) -> inspect.Parameter:
    text: str = each.metadata["text"]
    value = each.default
    shown = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    text = f"{text[0].upper()}{text[1:]}." + f" [{shown}]" * (shown != "")
    return _option(each.name, _KINDS.get(str(each.type), str), text)


def _option(name: str, kind: type, text: str) -> inspect.Parameter:
    annotation: Any = Annotated[Optional[kind], typer.Option(help=text)]  # noqa: UP045
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, keyword, default=None, annotation=annotation)


def _read(each: dataclasses.Field[Any], value: Any) -> Any:
    """The value of an option; lists have commas between their items."""
    if not str(each.type).startswith("tuple"):
        return value
    kind = _KINDS[str(each.type).removeprefix("tuple[").removesuffix(", ...]")]
    return numbers(each.name, value, kind)


def numbers(name: str, text: str, kind: type) -> list[Any]:
    """Read "60,100" as a list of numbers, or of texts if that is their kind.

    Raises
    ------
    InputError
        If one of them is none; the sentence names the option.
    """
    try:
        return [kind(part.strip()) for part in text.split(",")]
    except ValueError:
        raise InputError(
            f"--{name.replace('_', '-')} {text}: give numbers with commas between them."
        ) from None
