"""Three other style-transfer programs: their options, and what these are in our terms.

They are neural_style.lua of Justin Johnson, and two that are both called neural_style.py, of
neural-style-pt (ProGamerGov) and of Anish Athalye. Each has a table of its options, and a
function that turns their values into fields of `Settings` and of `dialects.Command`.
"""

from __future__ import annotations

import argparse
import difflib
import math
import re
import struct
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image

from workbench.errors import InputError
from workbench.files import pictures_in
from workbench.settings import Settings
from workbench.weights import BACKBONES

Values = dict[str, Any]
Notes = list[str]

DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212"  # what typesetting makes of a "-"
OPTION = re.compile(rf"([-{DASHES}]+)(?=[A-Za-z])")
_SAMPLE = "sample:"  # begins the name of a sample picture


# --- options of a program -----------------------------------------------------------------


@dataclass(frozen=True)
class Option:
    """What an option of another program is to us: a row of its table."""

    to: str = ""  # a field of `Settings` or `Command`, or what `convert` turns into some; "": none
    read: Callable[[str], Any] = str  # a word behind it -> the value
    default: Any = None  # None: ours
    words: int | str | None = None  # that stand behind it, as argparse counts them; None: one
    left_out: str = ""  # why it is nothing to us


@dataclass(frozen=True)
class Program:
    """A program whose commands are read."""

    title: str
    dash: str  # what its options begin with
    argparse: bool  # takes `--option=value`, and the beginning of an option for the whole
    options: Mapping[str, Option]
    # Turns values, of which some were given, into fields of `Settings` and `Command`.
    convert: Callable[[Values, Values, Notes], None]

    def spell(self, word: str) -> str:
        """An option with this program's own dashes, if a typesetter had a hand in them."""
        dashes = OPTION.match(word)
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
    "-style_image": Option("styles", _paths, ("examples/inputs/seated-nude.jpg",)),
    "-style_blend_weights": Option("style_blend_weights", _shares),
    "-content_image": Option("content", _path, "examples/inputs/tubingen.jpg"),
    "-image_size": Option("size", _whole, 512),
    "-gpu": Option(left_out=_MACHINE),
    "-content_weight": Option("content_weight", _number, 5.0),
    "-style_weight": Option("style_weight", _number, 100.0),
    "-tv_weight": Option("tv_weight", _number, 1e-3),
    "-num_iterations": Option("steps", _whole, 1000),
    "-init": Option("init", _one_of(random="random", image="content"), "random"),
    "-init_image": Option("init_image", _path),
    "-optimizer": Option("optimizer", _one_of(lbfgs="lbfgs", adam="adam"), "lbfgs"),
    "-lbfgs_num_correction": Option(read=_whole, left_out=_MEMORY),
    "-print_iter": Option(read=_whole, left_out=_MACHINE),
    "-save_iter": Option("save_every", _snapshots, 100),
    "-output_image": Option("output", _path, "out.png"),
    "-style_scale": Option("style_scale", _number),
    "-original_colors": Option("original_colors", _one_of(**{"0": "off", "1": "luma"})),
    "-pooling": Option("pooling", _POOLING, "max"),
    "-model_file": Option("backbone", _backbone, "vgg19"),
    "-backend": Option(left_out=_MACHINE),
    "-cudnn_autotune": Option(words=0, left_out=_MACHINE),
    "-seed": Option("seed", _whole, -1),
    "-content_layers": Option("content_layers", _layers, ("relu4_2",)),
    "-style_layers": Option("style_layers", _layers, Settings.style_layers),
}
_LUA_OPTIONS = {
    **_TORCH_OPTIONS,
    "-learning_rate": Option("learning_rate", _number, 10.0),
    # A flag; in some copies of the program, a number.
    "-normalize_gradients": Option(
        "normalize_gradients", _one_of(**{"0": False, "1": True}), words="?"
    ),
    "-multigpu_strategy": Option(left_out=_MACHINE),
    "-proto_file": Option(left_out=_MACHINE),
}
_PT_OPTIONS = {
    **_TORCH_OPTIONS,
    "-learning_rate": Option("learning_rate", _number, 1.0),
    "-normalize_weights": Option("normalize_weights", words=0),
    "-normalize_gradients": Option("square_weights", words=0),
    "-multidevice_strategy": Option(left_out=_MACHINE),
    "-disable_check": Option(words=0, left_out=_MACHINE),
    "-download_models": Option(words="?", left_out=_MACHINE),
}
_ATHALYE_OPTIONS = {
    "--content": Option("content", _path),
    "--styles": Option("styles", _path, words="+"),
    "--output": Option("output", _path),
    "--iterations": Option("steps", _whole, 1000),
    "--print-iterations": Option(read=_whole, left_out=_MACHINE),
    "--checkpoint-output": Option("checkpoint_output", left_out=_SNAPSHOTS),
    "--checkpoint-iterations": Option("save_every", _snapshots),
    "--progress-write": Option(words=0, left_out=_MACHINE),
    "--progress-plot": Option(words=0, left_out=_MACHINE),
    "--width": Option("width", _pixels),
    "--style-scales": Option("style_scales", _number, words="+"),
    "--network": Option("backbone", _backbone, "vgg19"),
    "--content-weight-blend": Option("content_weight_blend", _number, 1.0),
    "--content-weight": Option("content_weight", _number, 5.0),
    "--style-weight": Option("style_weight", _number, 500.0),
    "--style-layer-weight-exp": Option("style_layer_weight_exp", _number, 1.0),
    "--style-blend-weights": Option("style_blend_weights", _number, words="+"),
    "--tv-weight": Option("tv_weight", _number, 100.0),
    "--learning-rate": Option("learning_rate", _number, 10.0),
    "--beta1": Option(read=_number, left_out=_ADAM),
    "--beta2": Option(read=_number, left_out=_ADAM),
    "--eps": Option(read=_number, left_out=_ADAM),
    "--initial": Option("initial", _path),
    "--initial-noiseblend": Option("initial_noiseblend", _number),
    "--preserve-colors": Option("preserve_colors", words=0),
    "--pooling": Option("pooling", _POOLING, "max"),
    "--overwrite": Option(words=0, left_out=_MACHINE),
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
            f" {plain(content)} and style_weight = {plain(style)}."
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
        notes.append(_NOISE.format("0.001"))
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
        notes.append(_NOISE.format("0.256"))
    elif noise > 0:
        notes.append(
            f"--initial-noiseblend {plain(noise)} fades the picture that it starts from towards"
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
            f" style_scale = {', '.join(map(plain, exact))}."
        )
    if len(set(exact)) > 1:
        notes.append(
            "All style pictures have one style_scale here, the mean of theirs:"
            f" {plain(values['style_scale'])}."
        )


def _convert_blends(values: Values, notes: Notes) -> None:
    """The weights of layers and styles."""
    share, growth = values.pop("content_weight_blend"), values.pop("style_layer_weight_exp")
    if not 0 <= share <= 1:
        raise InputError(f"--content-weight-blend {plain(share)}: give a number from 0 to 1.")
    if not (math.isfinite(growth) and growth >= 0):
        raise InputError(f"--style-layer-weight-exp {plain(growth)}: give a number from 0 on.")
    shares = {"relu4_2": share, "relu5_2": 1 - share}
    values["content_layers"] = tuple(layer for layer, part in shares.items() if part > 0)
    if share not in (0, 1):
        values["content_layer_weights"] = tuple(shares.values())
    parts = [growth**number for number in range(len(Settings.style_layers))]
    values["style_layer_weights"] = tuple(part / sum(parts) for part in parts)
    notes.append(
        f"--style-weight {plain(values['style_weight'])} is shared out among the five style"
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


_NOISE = (
    "It starts from noise of {} grey levels around the mean colour, which is as good as flat;"
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
_LUA_PROGRAM = Program("neural_style.lua", "-", False, _LUA_OPTIONS, _from_lua)
_PT_PROGRAM = Program("neural_style.py (neural-style-pt)", "-", True, _PT_OPTIONS, _from_pt)
_ATHALYE_PROGRAM = Program(_ATHALYE, "--", True, _ATHALYE_OPTIONS, _from_athalye)
PROGRAMS = {
    "neural_style.lua": (_LUA_PROGRAM,),
    "neural_style.py": (_PT_PROGRAM, _ATHALYE_PROGRAM),
    "neural-style": (_PT_PROGRAM,),  # neural-style-pt, as pip installs it
}
_CROWSON = (
    "its losses are others: style as means and roots of covariances in place of Gram matrices"
    " (in its first versions, each loss over its own absolute difference), so that no weights"
    " here amount to its own"
)
REFUSED = dict.fromkeys(("style_transfer", "style_transfer.exe", "style_transfer.cli"), _CROWSON)


def plain(value: object) -> str:
    """A value as people write it: 7 rather than 7.0."""
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)
