"""Command lines of other style-transfer programs -> Settings, and Settings -> ours.

The programs are those of `programs`. Losses then are those of the program, term by term, unless
a note says otherwise.

Loads neither torch nor a network.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

from workbench.errors import InputError, WeightsError
from workbench.programs import DASHES, OPTION, PROGRAMS, REFUSED, Notes, Program, Values, plain
from workbench.settings import Settings

OUTPUT = "painted.png"  # where the command names none

# --- what comes out -----------------------------------------------------------------------


@dataclass(frozen=True)
class Command:
    """A command line of another program, in our terms."""

    program: str  # whose it was, such as "neural_style.lua"
    settings: Settings
    content: str
    styles: tuple[str, ...]
    output: str | None = None  # the picture that it writes; None: it names none
    save_every: int | None = None  # steps from one snapshot to the next; None: no snapshots
    original_colors: str = "off"  # "luma": the colours of the photograph stay
    notes: tuple[str, ...] = ()  # sentences on what was changed or left out, and what differs

    def changed(self, **changes: Any) -> Command:
        """The same command with what is not None in place of its own."""
        told = {name: value for name, value in changes.items() if value is not None}
        return dataclasses.replace(self, **told)


def read_command(text: str) -> Command:
    """Read a command line of another program, as it is copied from a page.

    Such as "th neural_style.lua -style_image starry.jpg -content_image me.jpg". What stands before
    the program (`th`, `python3 -u`, `CUDA_VISIBLE_DEVICES=0`, `$`) and behind the command
    (`| tee log`) does not matter; neither do line continuations and typographic quotes and dashes.
    A program that is unknown or cannot be mapped, or would not take an option, is refused.
    """
    program, words = _find_program(_split(text))
    notes: Notes = []
    given = _parse(words, program, notes)
    values = {row.to: row.default for row in program.options.values() if row.to} | given
    program.convert(values, given, notes)
    values = {name: value for name, value in values.items() if value is not None}
    command = {
        field.name: values.pop(field.name)
        for field in dataclasses.fields(Command)
        if field.name in values
    }
    settings = Settings(**values)
    notes.append(
        f"It takes {settings.steps[0]} steps, all at full size; far fewer reach the same loss"
        " here, above all from coarse to fine (--steps 60,120)."
    )
    if settings.backbone == "vgg19":
        notes.append(
            "Its VGG-19 was trained in Caffe, the one here in torch, so activations and with them"
            " the balance of losses differ (vgg16 is Caffe's here too: --backbone vgg16)."
        )
    return Command(program=program.title, settings=settings, notes=tuple(notes), **command)


def explain(command: Command) -> str:
    """The same as a command line of ours and as papermill's, and all notes, for a terminal."""
    from workbench.notebook import papermill_command

    notes = "".join(f"\n- {note}" for note in command.notes)
    papermill = papermill_command("stylize_image")
    return (
        f"{command.program}, as the workbench has it:\n\n  {as_options(command)}\n\n"
        f"  {papermill} {as_parameters(command)}\n{notes}\n"
    )


def on_this_machine(settings: Settings) -> Settings:
    """Take VGG-16, and say so, where the weights of the network that is asked for are not."""
    from workbench.weights import load_weights

    try:
        load_weights(settings.backbone)
    except WeightsError as error:
        if settings.backbone == "vgg16":
            raise
        print(
            f"- {str(error)[0].upper()}{str(error)[1:]} Until then it is painted with vgg16: the"
            " same weights give a similar picture there, not the same.\n",
            flush=True,
        )
        return settings.changed(backbone="vgg16")
    return settings


def as_options(command: Command) -> str:
    """Our own command line that does the same, with no more than what is not the default.

    Such as "workbench stylize me.jpg starry.jpg -o out.png --style-weight 300", quoted for a shell.
    """
    words = ["workbench", "stylize", command.content, *command.styles]
    words += ["-o", command.output or OUTPUT]
    for name, value in _changes(command).items():
        words.append(f"--{name.replace('_', '-')}")
        if isinstance(value, tuple):
            words.append(",".join(map(plain, value)))
        elif not isinstance(value, bool):
            words.append(plain(value))
    return shlex.join(words)


def as_parameters(command: Command) -> str:
    """Parameters for papermill that have notebooks/stylize_image.ipynb do the same.

    Such as "-y '{content: me.jpg, style_weight: 300.0}'", quoted for a shell.
    """
    parameters: Values = {"content": command.content}
    parameters["style"] = command.styles[0] if len(command.styles) == 1 else command.styles
    if command.output is not None:
        parameters["output_dir"] = str(Path(command.output).with_suffix(""))
    parameters |= _changes(command)
    text = yaml.safe_dump(
        parameters, default_flow_style=True, sort_keys=False, allow_unicode=True, width=math.inf
    )
    return shlex.join(["-y", text.strip()])


def _changes(command: Command) -> Values:
    """What is not our default, beside the pictures."""
    default = Settings()
    changes = {
        field.name: getattr(command.settings, field.name)
        for field in dataclasses.fields(Settings)
        if getattr(command.settings, field.name) != getattr(default, field.name)
    }
    for name in ("original_colors", "save_every"):
        if getattr(command, name) != getattr(Command, name):
            changes[name] = getattr(command, name)
    return changes


# --- words of a command -------------------------------------------------------------------

_BLANKS = "\u00a0\u2000-\u200b\u202f\u3000\ufeff"
_DOUBLE, _SINGLE = "\u201c\u201d\u201e\u201f\u2033", "\u2018\u2019\u201a\u201b\u2032"
_END = re.compile(r"[|&;#].*|\d?>.*|<")  # of the command, though not of the text
_SEPARATOR = "\ue000"  # of folders on Windows, while a shell's escapes are undone


def _split(text: str) -> list[str]:
    if not isinstance(text, str) or not text.strip():
        raise InputError("the command is empty; paste one such as `th neural_style.lua ...`.")
    text = re.sub(f"[{_BLANKS}]", " ", text).strip().strip("`")
    text = re.sub(r"[\\^`][^\S\n]*(\n|$)", " ", text)
    text = re.sub(rf"(?<!\S)[{DASHES}](?=[\d.])", "-", text)
    for marks, quote in ((_DOUBLE, '"'), (_SINGLE, "'")):
        pair = rf"(?<![^\s=,])[{marks}]([^{marks}]*)[{marks}](?![^\s,;])"
        text = re.sub(pair, rf"{quote}\1{quote}", text)
    # No shell needs to escape a letter or a digit, so what stands before it is a folder.
    text = re.sub(r"\\(?=[^\W_])", _SEPARATOR, text)
    try:
        words = shlex.split(text)
    except ValueError:
        raise InputError(
            "the command opens a quote and does not close it; copy it again, or remove the quote."
        ) from None
    return [word.replace(_SEPARATOR, "\\") for word in words]


def _find_program(words: list[str]) -> tuple[Program, list[str]]:
    """The program that is called, and the words behind it."""
    names = [re.split(r"[/\\]", word)[-1].lower() for word in words]
    for index, name in enumerate(names):
        rest = _until_end(words[index + 1 :])
        if name in REFUSED and rest:
            raise InputError(f"{name} cannot be mapped, because {REFUSED[name]}.")
        # Without a suffix it may be a folder: `cd neural-style`.
        if name in PROGRAMS and ("." in name or (rest and OPTION.match(rest[0]))):
            if name in names[index + 1 : index + 1 + len(rest)]:
                raise InputError(f"{name} is called twice; paste one command at a time.")
            return _tell_apart(PROGRAMS[name], rest), rest
    raise InputError(
        f"{' '.join(words[:3])}: this calls no program that is understood; those are"
        " neural_style.lua, and neural_style.py of neural-style-pt or of Anish Athalye."
    )


def _until_end(words: Sequence[str]) -> list[str]:
    taken = []
    for word in words:
        if _END.fullmatch(word):
            break
        taken.append(word.removesuffix(";"))
        if word.endswith(";"):
            break
    return taken


def _tell_apart(programs: tuple[Program, ...], words: Sequence[str]) -> Program:
    """Of programs with one name, the one that knows most options, else by its dashes."""
    options = [word.partition("=")[0] for word in words if OPTION.match(word)]

    def familiar(program: Program) -> tuple[int, int]:
        spelled = [program.spell(option) for option in options]
        alike = sum(OPTION.sub(program.dash, option) == option for option in options)
        return sum(option in program.options for option in spelled), alike

    return max(programs, key=familiar)


def _parse(words: Sequence[str], program: Program, notes: Notes) -> Values:
    """Values that the command gives, by our names."""
    words = [program.spell(word) for word in words]
    if not program.argparse:
        for word in words:
            if OPTION.match(word) and word not in program.options:
                raise program.unknown(word)
    else:
        pairs = [word.split("=", 1) if OPTION.match(word) else [word] for word in words]
        words = list(itertools.chain.from_iterable(pairs))
    parser = _Parser(add_help=False)
    for name, row in program.options.items():
        how: dict[str, Any] = {"action": "append", "type": row.read, "nargs": row.words}
        if row.words == 0:
            how = {"action": "append_const", "const": True}
        elif row.words == "?":
            how["const"] = True
        parser.add_argument(name, dest=row.to or name, default=argparse.SUPPRESS, **how)
    found, others = parser.parse_known_args(words)
    if others:
        raise _not_taken(others[0], words, program)
    names = {row.to or name: name for name, row in program.options.items()}
    for to, values in vars(found).items():
        if any(value != values[-1] for value in values):
            last = values[-1] if isinstance(values[-1], list | tuple) else [values[-1]]
            said = " ".join([names[to], *map(plain, last)])
            notes.append(f"{names[to]} is given twice; the last counts, as there: {said}.")
    given = {to: values[-1] for to, values in vars(found).items()}
    for reason in dict.fromkeys(row.left_out for row in program.options.values() if row.left_out):
        left_out = [names[to] for to in given if program.options[names[to]].left_out == reason]
        if left_out:
            notes.append(f"Left out: {', '.join(left_out)} ({reason}).")
    return {
        to: tuple(value) if isinstance(value, list) else value
        for to, value in given.items()
        if to not in program.options
    }


def _not_taken(word: str, words: Sequence[str], program: Program) -> InputError:
    """The sentence about a word that the program would not take."""
    if OPTION.match(word):
        return program.unknown(word)
    before = [each for each in words[: words.index(word)] if OPTION.match(each)]
    if not before:
        return InputError(f"{word}: {program.title} takes nothing before its first option.")
    return InputError(
        f"{before[-1]}: {word} is one value too many; put quotes around one with blanks."
    )


class _Parser(argparse.ArgumentParser):
    """Says in one sentence what is wrong."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message.removeprefix('argument ')}.")
