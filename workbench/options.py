"""What commands share: an option for every knob, other options, and how they are stopped."""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn, Optional, get_args, get_origin, get_type_hints

import typer

from workbench.errors import InputError
from workbench.settings import Knobs

Function = Callable[..., None]
Kinds = Mapping[str, type[Knobs]]  # parameter of a command -> its class of settings
_TYPES = {"int": int, "float": float, "bool": bool, "str": str}

ARGUMENT = typer.Argument()
OUTPUT = typer.Option("--output", "-o")
STYLES = typer.Argument(
    help="One or more style pictures: files, folders of them, or sample:swirls, sample:hatching,"
    " sample:mosaic."
)
Start = Annotated[str, typer.Option(help="Where to begin in a clip, in seconds or as 00:01:30.")]
End = Annotated[str | None, typer.Option(help="Where to end, in seconds or as 00:01:30.")]
Stride = Annotated[
    int, typer.Option(help="Paint every so many of the frames; duration and sound stay.")
]
Fps = Annotated[
    float | None, typer.Option(help="Pictures a second, for a folder of pictures. [25]")
]
Steady = Annotated[
    float, typer.Option(help="Above 0, the film's flicker is stilled afterwards; try 1.")
]
Quality = Annotated[int, typer.Option(help="0 to 51; smaller is better and larger in bytes.")]


def documented(command: Function) -> Function:
    """Give the arguments and options of a command the help that its docstring has of them.

    Help is what stands below "Parameters"; what stands above it is that of the command. A
    parameter without a default is an argument, any other an option, if it is not annotated.
    """
    text, _, section = (inspect.getdoc(command) or "").partition("\nParameters\n----------\n")
    texts = dict(re.findall(r"^(\w+)\n((?: .+\n?)+)", section, re.MULTILINE))
    parameters = inspect.signature(command).parameters
    for name, hint in get_type_hints(command, include_extras=True).items():
        if name not in texts:
            continue
        option: Any = typer.Option()
        if get_origin(hint) is Annotated:
            hint, option = get_args(hint)
            option = copy.copy(option)
        elif parameters[name].default is inspect.Parameter.empty:
            option = typer.Argument()
        elif parameters[name].default is False:
            option = typer.Option(f"--{name.replace('_', '-')}")
        option.help = " ".join(texts[name].split())
        command.__annotations__[name] = Annotated[hint, option]
    command.__doc__ = text
    return command


def with_knobs(
    *, leave_out: Sequence[str] = (), **kinds: type[Knobs]
) -> Callable[[Function], Function]:
    """Give a command an option for every knob, and hand it the settings made of them.

    `with_knobs(settings=Settings)` turns `--size 256 --preset draft` and so on into the parameter
    `settings`; knobs to `leave_out` are those that the command has no use for. Presets are those of
    the last kind that has any. An option `like` of the command is another program's command line,
    which the settings then start from.
    """

    def decorate(command: Function) -> Function:
        hints = get_type_hints(command, include_extras=True)
        signature = inspect.signature(command)
        own = [
            each.replace(annotation=hints[name])
            for name, each in signature.parameters.items()
            if name not in kinds
        ]
        parameters = [*own, *_options(kinds, leave_out)]

        @functools.wraps(command)
        def wrapper(**given: Any) -> None:
            passed = {each.name: given.pop(each.name) for each in own}
            command(**passed, **_settings(kinds, given, passed.get("like")))

        wrapper.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {each.name: each.annotation for each in parameters}
        return wrapper

    return decorate


def _preset_kind(kinds: Kinds) -> type[Knobs]:
    return next(kind for kind in reversed([*kinds.values()]) if kind.PRESETS)


def _options(kinds: Kinds, leave_out: Sequence[str]) -> list[inspect.Parameter]:
    """A parameter for the preset, and one for every knob."""
    presets = _preset_kind(kinds).PRESETS
    usual = next(name for name in ("normal", "quick") if name in presets)
    text = f"Where the other options start from: {', '.join(presets)}. [{usual}]"
    options: dict[str, tuple[type, str]] = {"preset": (str, text)}
    for kind in kinds.values():
        for knob in dataclasses.fields(kind):
            value, text = knob.default, knob.metadata["text"]
            shown = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            text = f"{text[0].upper()}{text[1:]}." + f" [{shown}]" * (shown != "")
            options[knob.name] = (_TYPES.get(str(knob.type), str), text)
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[Optional[type_], typer.Option(help=text)],  # noqa: UP045
        )
        for name, (type_, text) in options.items()
        if name not in leave_out
    ]


def _settings(kinds: Kinds, given: Mapping[str, Any], like: str | None) -> dict[str, Knobs]:
    """What the options say, as the command takes it."""
    preset = given["preset"]
    if like is not None and preset is not None:
        raise InputError("--like and --preset both say where to start from; leave one out.")
    made: dict[str, Knobs] = {}
    for parameter, kind in kinds.items():
        changes = {
            knob.name: _read(knob, given[knob.name])
            for knob in dataclasses.fields(kind)
            if given.get(knob.name) is not None
        }
        if like is not None:
            made[parameter] = kind.from_command(like, **changes)  # type: ignore[attr-defined]
        elif preset is not None and kind is _preset_kind(kinds):
            made[parameter] = kind.from_preset(preset, **changes)
        else:
            made[parameter] = kind().changed(**changes)
    return made


def _read(knob: dataclasses.Field[Any], value: Any) -> Any:
    """The value of an option; lists have commas between their items."""
    if not str(knob.type).startswith("tuple"):
        return value
    kind = _TYPES[str(knob.type).removeprefix("tuple[").removesuffix(", ...]")]
    return numbers(knob.name, value, kind)


def numbers(name: str, text: str, kind: type) -> list[Any]:
    """Read "60,100" as a list of numbers, or of texts if that is their kind."""
    try:
        return [kind(part.strip()) for part in text.split(",")]
    except ValueError:
        raise InputError(
            f"--{name.replace('_', '-')} {text}: give numbers with commas between them."
        ) from None


def box(text: str) -> tuple[float, float, float, float]:
    """Read "0.2,0,0.8,1" as the value of --crop."""
    edges = numbers("crop", text, float)
    if len(edges) != 4:
        raise InputError(f"--crop {text}: give four numbers, left,top,right,bottom.")
    left, top, right, bottom = edges
    return left, top, right, bottom


def step_label(text: str) -> tuple[int, str]:
    """Read "300=less good" as the value of --label."""
    step, _, name = text.partition("=")
    if not step.strip().isdigit() or not name.strip():
        raise InputError(f"--label {text}: give a step and a name, as in 300='less good'.")
    return int(step), name.strip()


def keyframe_pair(text: str) -> tuple[str, str]:
    """Read "000120.png=painted.png" as the value of --keyframe."""
    name, _, painted = text.partition("=")
    if not name.strip() or not painted.strip():
        raise InputError(
            f"--keyframe {text}: give a frame and its painting, as in 000120.png=painted.png."
        )
    return name.strip(), painted.strip()


def interrupted(sentence: str, unfinished: Path | None = None) -> NoReturn:
    """End after Ctrl-C, saying what is kept, and how to go on."""
    if unfinished is not None and unfinished.is_file():
        sentence += f": the picture so far is {unfinished}; the same command goes on."
    elif unfinished is not None:
        sentence += ": nothing was made yet."
    print(f"\n{sentence}", file=sys.stderr)
    raise typer.Exit(130)
