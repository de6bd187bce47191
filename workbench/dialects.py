"""Command lines of other style-transfer programs -> Settings, and Settings -> ours.

Three programs are read, each by a table of its options: neural_style.lua of Justin Johnson,
and two that are both called neural_style.py, of neural-style-pt (ProGamerGov) and of Anish
Athalye. Losses then are those of the program, term by term, unless a note says otherwise.

Loads neither torch nor a network.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import math
import re
import shlex
import struct
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml
from PIL import ExifTags, Image

from workbench.errors import InputError
from workbench.files import pictures_in
from workbench.settings import Settings
from workbench.weights import BACKBONES

OUTPUT = "painted.png"  # where the command names none
Values = dict[str, Any]
Notes = list[str]

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


def read_command(text: str) -> Command:
    """Read a command line of another program, as it is copied from a page.

    What stands before the program (`th`, `python3 -u`, `CUDA_VISIBLE_DEVICES=0`, `$`) and
    behind the command (`| tee log`) does not matter; neither do line continuations and
    typographic quotes and dashes.

    Parameters
    ----------
    text
        Such as "th neural_style.lua -style_image starry.jpg -content_image me.jpg".

    Raises
    ------
    InputError
        If the program is unknown or cannot be mapped, or would not take an option.
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


def as_options(command: Command) -> str:
    """Our own command line that does the same, with no more than what is not the default.

    Such as "workbench stylize me.jpg starry.jpg -o out.png --style-weight 300", quoted for a
    shell.
    """
    words = ["workbench", "stylize", command.content, *command.styles]
    words += ["-o", command.output or OUTPUT]
    for name, value in _changes(command).items():
        words.append(f"--{name.replace('_', '-')}")
        if isinstance(value, tuple):
            words.append(",".join(map(_plain, value)))
        elif not isinstance(value, bool):
            words.append(_plain(value))
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


def _plain(value: object) -> str:
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


# --- words of a command -------------------------------------------------------------------

_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212"  # what typesetting makes of a "-"
_BLANKS = "\u00a0\u2000-\u200b\u202f\u3000\ufeff"
_DOUBLE, _SINGLE = "\u201c\u201d\u201e\u201f\u2033", "\u2018\u2019\u201a\u201b\u2032"
_OPTION = re.compile(rf"([-{_DASHES}]+)(?=[A-Za-z])")
_END = re.compile(r"[|&;#].*|\d?>.*|<")  # of the command, though not of the text
_SAMPLE = "sample:"  # begins the name of a sample picture
_SEPARATOR = "\ue000"  # of folders on Windows, while a shell's escapes are undone


def _split(text: str) -> list[str]:
    if not isinstance(text, str) or not text.strip():
        raise InputError("the command is empty; paste one such as `th neural_style.lua ...`.")
    text = re.sub(f"[{_BLANKS}]", " ", text).strip().strip("`")
    text = re.sub(r"[\\^`][^\S\n]*(\n|$)", " ", text)
    text = re.sub(rf"(?<!\S)[{_DASHES}](?=[\d.])", "-", text)
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


def _find_program(words: list[str]) -> tuple[_Program, list[str]]:
    """The program that is called, and the words behind it."""
    names = [re.split(r"[/\\]", word)[-1].lower() for word in words]
    for index, name in enumerate(names):
        rest = _until_end(words[index + 1 :])
        if name in _REFUSED and rest:
            raise InputError(f"{name} cannot be mapped, because {_REFUSED[name]}.")
        # Without a suffix it may be a folder: `cd neural-style`.
        if name in _PROGRAMS and ("." in name or (rest and _OPTION.match(rest[0]))):
            if name in names[index + 1 : index + 1 + len(rest)]:
                raise InputError(f"{name} is called twice; paste one command at a time.")
            return _tell_apart(_PROGRAMS[name], rest), rest
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


def _tell_apart(programs: tuple[_Program, ...], words: Sequence[str]) -> _Program:
    """Of programs with one name, the one that knows most options, else by its dashes."""
    options = [word.partition("=")[0] for word in words if _OPTION.match(word)]

    def familiar(program: _Program) -> tuple[int, int]:
        spelled = [program.spell(option) for option in options]
        alike = sum(_OPTION.sub(program.dash, option) == option for option in options)
        return sum(option in program.options for option in spelled), alike

    return max(programs, key=familiar)


def _parse(words: Sequence[str], program: _Program, notes: Notes) -> Values:
    """Values that the command gives, by our names."""
    words = [program.spell(word) for word in words]
    if not program.argparse:
        for word in words:
            if _OPTION.match(word) and word not in program.options:
                raise program.unknown(word)
    parser = _Parser(add_help=False)
    parser.notes = notes
    for name, row in program.options.items():
        parser.add_argument(
            name,
            dest=row.to or name,
            type=row.read,
            nargs=row.words,
            const=True,
            action=_Last,
            default=argparse.SUPPRESS,
        )
    found, others = parser.parse_known_args(words)
    if others:
        before = [word for word in words[: words.index(others[0])] if _OPTION.match(word)]
        if _OPTION.match(others[0]):
            raise program.unknown(others[0])
        if not before:
            raise InputError(f"{others[0]}: {program.title} takes nothing before its first option.")
        raise InputError(
            f"{before[-1]}: {others[0]} is one value too many; put quotes around one with blanks."
        )
    given = vars(found)
    names = {row.to or name: name for name, row in program.options.items()}
    for reason in dict.fromkeys(row.left_out for row in program.options.values() if row.left_out):
        left_out = [names[to] for to in given if program.options[names[to]].left_out == reason]
        if left_out:
            notes.append(f"Left out: {', '.join(left_out)} ({reason}).")
    return {to: value for to, value in given.items() if to not in program.options}


class _Parser(argparse.ArgumentParser):
    """Says in one sentence what is wrong."""

    notes: Notes

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message.removeprefix('argument ')}.")


class _Last(argparse.Action):
    """Takes the last of the values that an option is given."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Note values that differ; a flag is True, and several values are a tuple."""
        if self.nargs in (0, "+"):
            values = tuple(values) or True
        if getattr(namespace, self.dest, values) != values:
            name = self.option_strings[0]
            shown = ",".join(map(_plain, values)) if isinstance(values, tuple) else _plain(values)
            parser.notes.append(  # type: ignore[attr-defined]
                f"{name} is given twice; the last counts, as there: {name} {shown}."
            )
        setattr(namespace, self.dest, values)


# --- options of a program -----------------------------------------------------------------


@dataclass(frozen=True)
class _Option:
    """What an option of another program is to us."""

    to: str = ""  # a field of `Settings` or `Command`, or what `convert` turns into some; "": none
    read: Callable[[str], Any] = str  # a word behind it -> the value
    default: Any = None  # None: ours
    words: int | str | None = None  # that stand behind it, as argparse counts them; None: one
    left_out: str = ""  # why it is nothing to us


@dataclass(frozen=True)
class _Program:
    """A program whose commands are read."""

    title: str
    dash: str  # what its options begin with
    argparse: bool  # takes `--option=value`, and the beginning of an option for the whole
    options: Mapping[str, _Option]
    # Turns values, of which some were given, into fields of `Settings` and `Command`.
    convert: Callable[[Values, Values, Notes], None]

    def spell(self, word: str) -> str:
        """An option with this program's own dashes, if a typesetter had a hand in them."""
        dashes = _OPTION.match(word)
        if dashes is None or set(dashes[1]) == {"-"}:
            return word
        return self.dash + word[dashes.end() :]

    def unknown(self, word: str) -> InputError:
        """The sentence about an option that this program has not."""
        nearest = difflib.get_close_matches(word, self.options, n=1, cutoff=0.0)[0]
        return InputError(f"{word}: {self.title} has no such option; the nearest is {nearest}.")


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{word} is no number") from None


def _whole(word: str) -> int:
    for number in (int, float):  # Lua takes 1e3 for one, too
        try:
            if (value := number(word)) == int(value):
                return int(value)
        except (ValueError, OverflowError):
            continue
    raise argparse.ArgumentTypeError(f"{word} is no whole number")


def _pixels(word: str) -> int:
    if (pixels := _whole(word)) < 1:
        raise argparse.ArgumentTypeError(f"{word} is no whole number above 0")
    return pixels


def _steps(word: str) -> tuple[int, ...]:
    return (_whole(word),)


def _snapshots(word: str) -> int | None:
    steps = _whole(word)
    return steps if steps > 0 else None


def _path(word: str) -> str:
    return str(Path(word).expanduser()) if word.startswith("~") else word


def _paths(word: str) -> tuple[str, ...]:
    return tuple(_path(part.strip()) for part in word.split(",") if part.strip())


def _shares(word: str) -> tuple[float, ...]:
    return () if word == "nil" else tuple(_number(part) for part in word.split(","))


def _layers(word: str) -> tuple[str, ...]:
    layers = tuple(part.strip() for part in word.split(","))
    for layer in layers:
        if layer.startswith(("conv", "pool")):
            raise argparse.ArgumentTypeError(
                f"{layer} cannot be mapped, because only activations behind a ReLU are looked at"
                " here, such as relu4_2"
            )
    return tuple(dict.fromkeys(layers))


def _one_of(**choices: Any) -> Callable[[str], Any]:
    def read(word: str) -> Any:
        if word not in choices:
            raise argparse.ArgumentTypeError(f"{word} is none of {', '.join(choices)}")
        return choices[word]

    return read


def _backbone(word: str) -> str:
    name = re.split(r"[/\\]", word)[-1].lower()
    found = (network for part, network in _NETWORKS.items() if part in name)
    network = next(found, "no network that is known here")
    if network in BACKBONES:
        return network
    raise argparse.ArgumentTypeError(
        f"{word} cannot be mapped, because it is {network}; leave it out for VGG-19"
    )


# Part of a file's name -> the network in it, or what it is.
_NETWORKS = {
    "normali": "the VGG-19 with rescaled activations, for which weights mean something else",
    "prun": "a VGG-16 with fewer channels",
    "fcn32s": "a VGG-16 that was trained further to segment pictures",
    "nyud": "a VGG-16 that was trained further to segment pictures",
    "sod": "a VGG-16 that was trained further to find objects",
    "19": "vgg19",
    "16": "vgg16",
    "nin": "Network in Network, whose layers are others",
}
_MACHINE = "about the machine, messages and files of that program only"
_MEMORY = "how much L-BFGS remembers is no setting here"
_ADAM = "of Adam, the learning rate alone is a setting here"
_SNAPSHOTS = "snapshots are named after the output here"
_POOLING = _one_of(max="max", avg="average-unscaled")

# Of neural_style.lua and neural-style-pt, which took over its options.
_TORCH_OPTIONS = {
    "-style_image": _Option("styles", _paths, ("examples/inputs/seated-nude.jpg",)),
    "-style_blend_weights": _Option("style_blend_weights", _shares),
    "-content_image": _Option("content", _path, "examples/inputs/tubingen.jpg"),
    "-image_size": _Option("size", _whole, 512),
    "-gpu": _Option(left_out=_MACHINE),
    "-content_weight": _Option("content_weight", _number, 5.0),
    "-style_weight": _Option("style_weight", _number, 100.0),
    "-tv_weight": _Option("tv_weight", _number, 1e-3),
    "-num_iterations": _Option("steps", _steps, (1000,)),
    "-init": _Option("init", _one_of(random="random", image="content"), "random"),
    "-init_image": _Option("init_image", _path),
    "-optimizer": _Option("optimizer", _one_of(lbfgs="lbfgs", adam="adam"), "lbfgs"),
    "-lbfgs_num_correction": _Option(read=_whole, left_out=_MEMORY),
    "-print_iter": _Option(read=_whole, left_out=_MACHINE),
    "-save_iter": _Option("save_every", _snapshots, 100),
    "-output_image": _Option("output", _path, "out.png"),
    "-style_scale": _Option("style_scale", _number),
    "-original_colors": _Option("original_colors", _one_of(**{"0": "off", "1": "luma"})),
    "-pooling": _Option("pooling", _POOLING, "max"),
    "-model_file": _Option("backbone", _backbone, "vgg19"),
    "-backend": _Option(left_out=_MACHINE),
    "-cudnn_autotune": _Option(words=0, left_out=_MACHINE),
    "-seed": _Option("seed", _whole, -1),
    "-content_layers": _Option("content_layers", _layers, ("relu4_2",)),
    "-style_layers": _Option("style_layers", _layers, Settings.style_layers),
}
_LUA_OPTIONS = {
    **_TORCH_OPTIONS,
    "-learning_rate": _Option("learning_rate", _number, 10.0),
    # A flag; in some copies of the program, a number.
    "-normalize_gradients": _Option(
        "normalize_gradients", _one_of(**{"0": False, "1": True}), words="?"
    ),
    "-multigpu_strategy": _Option(left_out=_MACHINE),
    "-proto_file": _Option(left_out=_MACHINE),
}
_PT_OPTIONS = {
    **_TORCH_OPTIONS,
    "-learning_rate": _Option("learning_rate", _number, 1.0),
    "-normalize_weights": _Option("normalize_weights", words=0),
    "-normalize_gradients": _Option("square_weights", words=0),
    "-multidevice_strategy": _Option(left_out=_MACHINE),
    "-disable_check": _Option(words=0, left_out=_MACHINE),
    "-download_models": _Option(words="?", left_out=_MACHINE),
}
_ATHALYE_OPTIONS = {
    "--content": _Option("content", _path),
    "--styles": _Option("styles", _path, words="+"),
    "--output": _Option("output", _path),
    "--iterations": _Option("steps", _steps, (1000,)),
    "--print-iterations": _Option(read=_whole, left_out=_MACHINE),
    "--checkpoint-output": _Option("checkpoint_output", left_out=_SNAPSHOTS),
    "--checkpoint-iterations": _Option("save_every", _snapshots),
    "--progress-write": _Option(words=0, left_out=_MACHINE),
    "--progress-plot": _Option(words=0, left_out=_MACHINE),
    "--width": _Option("width", _pixels),
    "--style-scales": _Option("style_scales", _number, words="+"),
    "--network": _Option("backbone", _backbone, "vgg19"),
    "--content-weight-blend": _Option("content_weight_blend", _number, 1.0),
    "--content-weight": _Option("content_weight", _number, 5.0),
    "--style-weight": _Option("style_weight", _number, 500.0),
    "--style-layer-weight-exp": _Option("style_layer_weight_exp", _number, 1.0),
    "--style-blend-weights": _Option("style_blend_weights", _number, words="+"),
    "--tv-weight": _Option("tv_weight", _number, 100.0),
    "--learning-rate": _Option("learning_rate", _number, 10.0),
    "--beta1": _Option(read=_number, left_out=_ADAM),
    "--beta2": _Option(read=_number, left_out=_ADAM),
    "--eps": _Option(read=_number, left_out=_ADAM),
    "--initial": _Option("initial", _path),
    "--initial-noiseblend": _Option("initial_noiseblend", _number),
    "--preserve-colors": _Option("preserve_colors", words=0),
    "--pooling": _Option("pooling", _POOLING, "max"),
    "--overwrite": _Option(words=0, left_out=_MACHINE),
}

# --- conversions --------------------------------------------------------------------------


def _from_lua(values: Values, given: Values, notes: Notes) -> None:
    values |= {"tv_kind": "squared", "white": 256.0}
    _from_torch(values, given, notes)
    _check_count("-style_blend_weights", values.get("style_blend_weights"), values["styles"])
    for name in ("content_layers", "style_layers"):
        values[name] = _layers_in_order(values[name], values["backbone"], notes)
    notes.append(
        "White is 256 there and not 255, and so it is here (white = 256): weights keep their"
        " numbers."
    )
    notes.append("The losses that it prints leave out total variation; here the total has it.")
    if values["pooling"] == "max":
        notes.append(_ROUNDING)


def _from_pt(values: Values, given: Values, notes: Notes) -> None:
    values |= {"tv_kind": "absolute", "white": 255.0}
    _from_torch(values, given, notes)
    values["styles"] = tuple(_pictures_in(values["styles"]))
    _check_count("-style_blend_weights", values.get("style_blend_weights"), values["styles"])
    power = 2 if values.pop("square_weights") else 1
    if power == 2:
        content, style = (values[f"{kind}_weight"] ** 2 for kind in ("content", "style"))
        values["content_weight"], values["style_weight"] = content, style
        notes.append(
            "-normalize_gradients normalises nothing in that program: it multiplies the gradient"
            " of each loss by its weight once more, so weights are squares here, content_weight ="
            f" {_plain(content)} and style_weight = {_plain(style)}."
        )
    if values.pop("normalize_weights"):
        for kind in ("content", "style"):
            values[f"{kind}_layer_weights"] = tuple(
                1 / _longest_side(kind, layer, values["size"]) ** power
                for layer in values[f"{kind}_layers"]
            )
        notes.append(
            "-normalize_weights divides the weight of a layer by the longest side of its target:"
            " content_layer_weights and style_layer_weights are one over that side here"
            + (", squared as the weights are." if power == 2 else ".")
        )
    notes.append("White is 255, as in its latest version; it was 256 in the first ones.")


def _from_torch(values: Values, given: Values, notes: Notes) -> None:
    """What neural_style.lua and neural-style-pt have in common."""
    for name, option in (("content", "-content_image"), ("styles", "-style_image")):
        if name not in given:
            which = values[name] if name == "content" else values[name][0]
            notes.append(f"No {option} is given: that program takes its own {which}.")
    picture = values.pop("init_image")
    if values["init"] == "random":
        if picture:
            notes.append("Left out: -init_image (without -init image it is not looked at there).")
        _note_noise(notes, "0.001 grey levels")
    elif picture:
        values["init"] = picture
    if values["seed"] < 0:
        values["seed"] = 0
        if values["init"] == "random":
            notes.append("Its noise is another one each time (-seed -1); here the seed is 0.")
    if values["optimizer"] == "lbfgs":
        if "learning_rate" in given:
            notes.append("Left out: -learning_rate (of Adam, which is not asked for).")
        del values["learning_rate"]
    _note_orientation(values["content"], notes)


def _from_athalye(values: Values, given: Values, notes: Notes) -> None:
    values |= {"tv_kind": "mean-squared", "optimizer": "adam"}
    for option, name in (("--content", "content"), ("--styles", "styles")):
        if not values[name]:
            raise InputError(f"{option} is missing, and {_ATHALYE} does not run without it.")
    _check_count("--style-blend-weights", values.get("style_blend_weights"), values["styles"])
    if ("save_every" in given) != (values.pop("checkpoint_output") is not None):
        raise InputError(
            "--checkpoint-iterations and --checkpoint-output: give both, as that program asks"
            " for, or neither."
        )
    _convert_sizes(values, notes)
    _convert_blends(values, notes)
    values["original_colors"] = "luma" if values.pop("preserve_colors") else "off"
    initial, noise = values.pop("initial"), values.pop("initial_noiseblend")
    if noise is None:
        noise = 1.0 if initial is None else 0.0
    values["init"] = "random" if noise >= 1 else initial or "content"
    if noise >= 1:
        _note_noise(notes, "0.256 grey levels")
    elif noise > 0:
        notes.append(
            f"--initial-noiseblend {_plain(noise)} fades the picture that it starts from towards"
            " the mean colour; here it starts from that picture as it is."
        )
    notes.append(
        "Read as its latest version; the first ones summed total variation rather than averaging"
        " it, and gave the whole --style-weight to every layer."
    )
    notes.append(_ROUNDING)
    _note_orientation(values["content"], notes)


def _convert_sizes(values: Values, notes: Notes) -> None:
    """Widths, which that program goes by, to longest sides."""
    content, styles = values["content"], values["styles"]
    width, stored = values.pop("width"), _stored_size(content)
    if stored is not None:
        width = width or stored[0]
        height = stored[1] * width // stored[0]
        size = max(width, height)
        notes.append(f"Its result is {width} x {height} pixels, so size = {size}.")
    elif width is not None:
        size = width
        notes.append(f"{content} cannot be read; if it is taller than wide, raise size = {size}.")
    else:
        size = Settings.size
        notes.append(
            f"Its result is as large as the photograph, which cannot be read ({content}): size ="
            f" {size}."
        )
    values["size"] = size
    scales = values.pop("style_scales") or (1.0,) * len(styles)
    _check_count("--style-scales", scales, styles)
    exact = []
    for style, scale in zip(styles, scales, strict=True):
        stored = _stored_size(style)
        if stored is None or width is None:
            notes.append(
                "Style pictures are scaled by their width there and by their longest side here,"
                f" which for {style} is taken to make no difference, as it cannot be told."
            )
            exact.append(scale)
        else:
            factor = scale * width / stored[0]
            exact.append(_style_scale(max(int(side * factor) for side in stored), size))
    values["style_scale"] = sum(exact) / len(exact) if len(set(exact)) > 1 else exact[0]
    if exact != list(scales):
        notes.append(
            "Style pictures are scaled by their width there and by their longest side here:"
            f" style_scale = {', '.join(map(_plain, exact))}."
        )
    if len(set(exact)) > 1:
        notes.append(
            "All style pictures have one style_scale here, the mean of theirs:"
            f" {_plain(values['style_scale'])}."
        )


def _convert_blends(values: Values, notes: Notes) -> None:
    """The weights of layers and styles."""
    share, growth = values.pop("content_weight_blend"), values.pop("style_layer_weight_exp")
    if not 0 <= share <= 1:
        raise InputError(f"--content-weight-blend {_plain(share)}: give a number from 0 to 1.")
    if not (math.isfinite(growth) and growth >= 0):
        raise InputError(f"--style-layer-weight-exp {_plain(growth)}: give a number from 0 on.")
    shares = {"relu4_2": share, "relu5_2": 1 - share}
    values["content_layers"] = tuple(layer for layer, part in shares.items() if part > 0)
    if share not in (0, 1):
        values["content_layer_weights"] = tuple(shares.values())
    parts = [growth**number for number in range(len(Settings.style_layers))]
    values["style_layer_weights"] = tuple(part / sum(parts) for part in parts)
    notes.append(
        f"--style-weight {_plain(values['style_weight'])} is shared out among the five style"
        " layers there; style_layer_weights add up to 1 here."
    )
    if len(values["styles"]) > 1:
        notes.append(
            "It adds up the losses of several styles, where here their targets are mixed: the"
            " gradient is the same, and the loss less by a constant."
        )


def _layers_in_order(layers: tuple[str, ...], backbone: str, notes: Notes) -> tuple[str, ...]:
    """Those of the layers that neural_style.lua meets.

    It goes through the network once and waits for one layer after the other.
    """
    known = BACKBONES[backbone].layers
    network = iter(known)
    met = tuple(layer for layer in layers if layer in network)
    if met == layers or not set(layers) <= set(known):
        return layers
    missed = ", ".join(layer for layer in layers if layer not in met)
    notes.append(f"Left out: {missed} (layers out of order are passed over there).")
    return met


def _pictures_in(names: Iterable[str]) -> Iterable[str]:
    """The pictures, of which some may be named by their folder."""
    for name in names:
        if not Path(name).is_dir():
            yield name
            continue
        pictures = pictures_in(Path(name), (".jpg", ".jpeg", ".png", ".tiff"))
        if not pictures:
            raise InputError(f"-style_image {name}: the folder has no .jpg, .png or .tiff in it.")
        yield from map(str, pictures)


def _longest_side(kind: str, layer: str, size: int) -> int:
    """Of an activation `(1, C, H, W)` ("content") or a Gram matrix `(C, C)` ("style")."""
    block = int(layer.removeprefix("relu")[:1]) if re.fullmatch(r"relu[1-5]_\d", layer) else 1
    channels = min(64 << block - 1, 512)
    return max(channels, size >> block - 1) if kind == "content" else channels


def _style_scale(longest: int, size: int) -> float:
    """The `style_scale` for which a style picture has that longest side, to six digits."""
    scale = math.floor(max(longest, 1) / size * 1e6) / 1e6
    return scale if math.ceil(scale * size) <= longest else round(scale - 1e-6, 6)


def _check_count(option: str, numbers: Sequence[float] | None, styles: Sequence[str]) -> None:
    if numbers and len(numbers) != len(styles):
        raise InputError(
            f"{option}: {len(numbers)} given for {len(styles)} style"
            f" {'picture' if len(styles) == 1 else 'pictures'}; give one for each."
        )


_ROUNDING = (
    "Where it pools an odd side, it rounds up and this rounds down: losses agree exactly where"
    " sides are multiples of 16."
)


def _note_noise(notes: Notes, deviation: str) -> None:
    notes.append(
        f"It starts from noise of {deviation} around the mean colour, which is as good as flat;"
        " init random here starts from grey with noise of 10%."
    )


def _note_orientation(path: str, notes: Notes) -> None:
    header = None if path.startswith(_SAMPLE) else _read_header(path)
    if header is not None and header[1] != 1:
        notes.append(f"{path} is turned upright here, which that program does not do.")


def _stored_size(path: str) -> tuple[int, int] | None:
    """Width and height as they are in the file; None if it cannot be read."""
    if path.startswith(_SAMPLE):
        from workbench.samples import load_picture

        height, width = load_picture(path).shape[-2:]
        return width, height
    header = _read_header(path)
    return None if header is None else header[0]


def _read_header(path: str) -> tuple[tuple[int, int], int] | None:
    """Size and EXIF orientation of a picture file; None if it cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                return picture.size, picture.getexif().get(ExifTags.Base.Orientation, 1)
    except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError):
        return None


# --- the programs -------------------------------------------------------------------------

_ATHALYE = "neural_style.py (Anish Athalye)"
_LUA_PROGRAM = _Program("neural_style.lua", "-", False, _LUA_OPTIONS, _from_lua)
_PT_PROGRAM = _Program("neural_style.py (neural-style-pt)", "-", True, _PT_OPTIONS, _from_pt)
_ATHALYE_PROGRAM = _Program(_ATHALYE, "--", True, _ATHALYE_OPTIONS, _from_athalye)
_PROGRAMS = {
    "neural_style.lua": (_LUA_PROGRAM,),
    "neural_style.py": (_PT_PROGRAM, _ATHALYE_PROGRAM),
    "neural-style": (_PT_PROGRAM,),  # neural-style-pt, as pip installs it
}
_CROWSON = (
    "its losses are others: style as means and roots of covariances in place of Gram matrices"
    " (in its first versions, each loss over its own absolute difference), so that no weights"
    " here amount to its own"
)
_REFUSED = dict.fromkeys(
    ("style_transfer", "style_transfer.exe", "style_transfer.cli"),
    _CROWSON,
)
