"""Settings of pictures, clips and training: every knob, its default, effect and limits.

A knob is written here and nowhere else: checks, options of commands and the lines of
parameters cells come from its declaration. Loads neither torch nor a network, so that a
command line can show the defaults at once.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, ClassVar, Self

from workbench.errors import InputError
from workbench.weights import BACKBONES

OPTIMIZERS = ("lbfgs", "adam")
POOLINGS = ("max", "average", "average-unscaled", "l2")
TV_KINDS = ("squared", "absolute", "mean-squared")
STYLE_LOSSES = ("gram", "gram+mean", "cross-layer", "wasserstein")
PRECISIONS = ("auto", "float32", "bfloat16")
MODES = ("per-frame", "blended", "flow-warped", "temporal", "keyframes")
NETWORKS = ("light", "johnson")
FLOW_METHODS = ("dis", "farneback", "raft")
MIN_SIZE, MAX_SIZE = 32, 16384
SIZES = (128, 192, 256, 320, 384, 448, 512, 640, 768, 1024)  # px; the usual ones
NOT_TRAINED = ("steps", "optimizer", "learning_rate", "init")  # knobs of stills, not of training
NEWER = {"style_loss": "gram"}  # knobs that earlier versions had not -> what these did
CLOCK = re.compile(  # of a time: hours, minutes and seconds
    r"(?:(?:([0-9]{1,9}):(?=[0-5][0-9]:))?([0-9]{1,9}):(?=[0-5][0-9](?![0-9])))?"
    r"([0-9]{1,9}(?:\.[0-9]{0,9})?)"
)


def seconds(time: float | str) -> float:
    """Read a time: seconds, `m:ss` or `h:mm:ss`; anything else is an `InputError`."""
    try:
        if not isinstance(time, str) or ":" not in time:
            return float(time)
        match = CLOCK.fullmatch(time.strip())
        hours, minutes, rest = (Fraction(part or 0) for part in match.groups())  # type: ignore[union-attr]
    except (TypeError, ValueError, AttributeError):
        raise InputError(
            f"{time!r} is no time; write seconds, m:ss or h:mm:ss, as in 90 or 00:01:30."
        ) from None
    return float(3600 * hours + 60 * minutes + rest)  # 1:05.1 is exactly what 65.1 is


# Twenty stops of a slider to each power of ten: the preferred numbers R20 of ISO 3, rounded.
# fmt: off
_R20 = (1, 1.12, 1.25, 1.4, 1.6, 1.8, 2, 2.24, 2.5, 2.8,
        3.15, 3.55, 4, 4.5, 5, 5.6, 6.3, 7.1, 8, 9)
# fmt: on


def decades(low: int, high: int) -> tuple[float, ...]:
    """Stops of a slider from 10^low to 10^high, evenly spaced by their proportions."""
    stops = (float(f"{stop}e{power}") for power in range(low, high) for stop in _R20)
    return (*stops, 10.0**high)


def knob(
    default: Any,
    text: str,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
    among: Collection[str] = (),
    unit: str = "",
    stops: Sequence[float] = (),
) -> Any:
    """A field of settings, with all that is said of it.

    `text` says what it does to the picture, in a sentence without capital and full stop. The limits
    `least`, `above` (values lie above it) and `most` hold for each item of a tuple; `among` are the
    texts that it may be (none: any), and `unit` is what a whole number counts, such as "pixels".
    A slider for it has `stops`, its usual values; none: it needs no slider.
    """
    limits = {"least": least, "above": above, "most": most, "among": among, "unit": unit}
    return field(default=default, metadata={"text": text, "stops": stops, **limits})


@dataclass(frozen=True, kw_only=True)
class Knobs:
    """Settings whose fields are made by `knob`; a value that makes no sense is refused."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def __init_subclass__(cls) -> None:
        """Describe the knobs in the class's docstring, for `help`."""
        declared = [(name, each) for name, each in vars(cls).items() if name in cls.__annotations__]
        texts = [
            f"    {name}\n        {each.metadata['text'][0].upper()}{each.metadata['text'][1:]}."
            for name, each in declared
            if isinstance(each, dataclasses.Field)
        ]
        raises = "Raises\n    ------\n    InputError\n        If a value makes no sense."
        attributes = "\n".join(["Attributes\n    ----------", *texts])
        cls.__doc__ = f"{cls.__doc__}\n\n    {attributes}\n\n    {raises}\n"

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            check = _checked_tuple if each.type.startswith("tuple") else _checked
            object.__setattr__(self, each.name, check(each, getattr(self, each.name)))

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, texts and lists, as JSON and YAML have them."""
        values = dataclasses.asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    def changed(self, **changes: Any) -> Self:
        """These settings with some of them changed; `InputError` if one makes no sense."""
        known = [each.name for each in dataclasses.fields(self)]
        for name in changes:
            if name not in known:
                raise InputError(f"no setting {name!r}; there are {', '.join(known)}.")
        return dataclasses.replace(self, **changes)

    @classmethod
    def from_preset(cls, preset: str, **changes: Any) -> Self:
        """A preset with single settings changed, which win over the preset's.

        Presets of stills are "draft" (256 px, seconds), "normal" (512 px), "fine" (768 px, more
        steps) and "enlarge" (2048 px, few steps, for a finished picture as `init`); those of
        training "quick" (a clip or a few pictures, a quarter of an hour on two cores) and "full"
        (the network and the batch of the paper, for a large folder and a GPU).
        """
        if preset not in cls.PRESETS:
            raise InputError(f"preset = {preset!r}: use one of {', '.join(cls.PRESETS)}.")
        return cls().changed(**{**cls.PRESETS[preset], **changes})


@dataclass(frozen=True, kw_only=True)
class Settings(Knobs):
    """Every knob of a style transfer; the weights mean what they mean in neural_style.lua."""

    PRESETS: ClassVar = {
        "draft": {"size": 256, "steps": (40, 40)},
        "normal": {"size": 512, "steps": (60, 120)},
        "fine": {"size": 768, "steps": (60, 90, 150)},
        "enlarge": {"size": 2048, "steps": (30,)},
    }

    content_weight: float = knob(
        5.0, "larger keeps more of the photograph", least=0, stops=(0, *decades(-1, 3))
    )
    style_weight: float = knob(
        100.0, "larger gives more brushwork", least=0, stops=(0, *decades(0, 4))
    )
    tv_weight: float = knob(
        1e-3,
        "larger smooths away grain and, in the end, strokes",
        least=0,
        stops=(0, *decades(-5, 0)),
    )
    style_scale: float = knob(
        1.0,
        "of the style picture relative to `size`; larger gives larger strokes",
        above=0,
        stops=(*decades(-1, 0)[8:], *decades(0, 1)[1:11]),
    )
    size: int = knob(
        512,
        "longest side in pixels of the result, or of pictures to learn from",
        least=MIN_SIZE,
        most=MAX_SIZE,
        unit="pixels",
        stops=SIZES,
    )
    steps: tuple[int, ...] = knob(
        (60, 120),
        "coarse to fine: the last at `size`, each before it at half",
        least=1,
        stops=(10, 20, 30, 40, 60, 80, 100, 120, 150, 200, 300, 400, 600, 1000),
    )

    content_layers: tuple[str, ...] = knob(
        ("relu4_2",), "where content is kept; shallow ones hold on to edges"
    )
    style_layers: tuple[str, ...] = knob(
        ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1"), "from grain to motifs"
    )
    style_loss: str = knob(
        "gram",
        'what style is: "gram", "gram+mean", "cross-layer" or "wasserstein"',
        among=STYLE_LOSSES,
    )
    content_layer_weights: tuple[float, ...] = knob(
        (), "a factor for each content layer; none: 1 for each", least=0
    )
    style_layer_weights: tuple[float, ...] = knob(
        (), "a factor for each style layer; none: 1 for each", least=0, stops=decades(-2, 2)[::2]
    )
    style_blend_weights: tuple[float, ...] = knob(
        (),
        "share of each style picture, or with masks its strength; none: 1",
        least=0,
        stops=[tenths / 10 for tenths in range(11)],
    )
    init: str = knob("content", 'start from "content", "random" (noise) or a picture file')
    seed: int = knob(
        0, "of all that is random; same seed, same machine: same result", least=0, most=2**63 - 1
    )
    optimizer: str = knob("lbfgs", '"lbfgs", or "adam", which takes less memory', among=OPTIMIZERS)
    learning_rate: float = knob(10.0, "step of Adam in grey levels", above=0)
    normalize_gradients: bool = knob(
        False, "bring every layer's gradient to the length of its weight"
    )
    tv_kind: str = knob(
        "squared", '"squared", "absolute" (keeps edges) or "mean-squared"', among=TV_KINDS
    )
    white: float = knob(255.0, "what white is to the network; 256 in neural_style.lua", above=0)
    backbone: str = knob(
        "vgg16", 'whose activations are compared: "vgg16" or "vgg19"', among=BACKBONES
    )
    pooling: str = knob(
        "max", '"max", "average" or "l2" (smoother pictures), or "average-unscaled"', among=POOLINGS
    )
    device: str = knob("auto", '"auto", "cpu", "cuda", "cuda:1", "mps"')
    precision: str = knob(
        "auto", 'of the activations: "auto", "float32" or "bfloat16"', among=PRECISIONS
    )

    @property
    def largest(self) -> float:
        """Longest side in pixels at which a photograph or a style picture is looked at."""
        return self.size * max(1.0, self.style_scale)

    def __post_init__(self) -> None:
        if _is(self.steps, int):
            object.__setattr__(self, "steps", (self.steps,))
        super().__post_init__()
        if not self.steps:
            raise InputError("steps is empty; give a whole number above 0 for each scale.")
        if self.content_weight == 0 and self.style_weight == 0:
            raise InputError("content_weight and style_weight are both 0: nothing to paint.")
        for name in ("content_layer_weights", "style_layer_weights", "style_blend_weights"):
            factors = getattr(self, name)
            if factors and sum(factors) == 0:
                raise InputError(f"{name} = {factors}: at least one must be above 0.")
        known = BACKBONES[self.backbone].layers
        for kind in ("content", "style"):
            name, layers = f"{kind}_layers", getattr(self, f"{kind}_layers")
            factors = getattr(self, f"{kind}_layer_weights")
            if not layers:
                raise InputError(f"{name} is empty; name at least one layer.")
            for layer in layers:
                if layer not in known:
                    raise InputError(
                        f"{name}: there is no layer {layer!r} in {self.backbone};"
                        f" there are {', '.join(known)}."
                    )
            if len(set(layers)) != len(layers):
                raise InputError(f"{name} = {layers}: a layer is named twice.")
            if factors and len(factors) != len(layers):
                raise InputError(
                    f"{kind}_layer_weights has {len(factors)} numbers for {len(layers)} {name};"
                    " give one for each, or none."
                )
        if not self.compared_layers():
            raise InputError(
                'style_loss = "cross-layer" compares pairs of style layers, and style_layers has'
                f" {self.style_layers[0]} alone; name two or more."
            )

    @property
    def layers(self) -> tuple[str, ...]:
        """All layers that are looked at, without repeats."""
        return tuple(dict.fromkeys(self.content_layers + self.style_layers))

    def content_weight_of(self) -> dict[str, float]:
        """Content layer -> its whole weight, `content_weight` times the layer's own factor."""
        return _layer_weights(self.content_weight, self.content_layers, self.content_layer_weights)

    def style_weight_of(self) -> dict[str, float]:
        """Style layer -> its whole weight, `style_weight` times the layer's own factor."""
        return _layer_weights(self.style_weight, self.style_layers, self.style_layer_weights)

    def compared_layers(self) -> dict[str, tuple[str, ...]]:
        """Style layer -> the layers, from shallow to deep, that its style loss looks at.

        That is itself, or with "cross-layer" the style layer before it and itself; of the
        shallowest, there is no loss then.
        """
        if self.style_loss != "cross-layer":
            return {layer: (layer,) for layer in self.style_layers}
        ordered = sorted(self.style_layers, key=BACKBONES[self.backbone].layers.index)
        return {pair[1]: pair for pair in itertools.pairwise(ordered)}

    @classmethod
    def from_command(cls, text: str, **changes: Any) -> Settings:
        """What a command line of another style-transfer program asks for; see `dialects`."""
        from workbench.dialects import read_command

        return read_command(text).settings.changed(**changes)


@dataclass(frozen=True, kw_only=True)
class ClipSettings(Knobs):
    """Every knob of a film that is not one of a still."""

    mode: str = knob(
        "temporal",
        '"per-frame", "blended", "flow-warped", "temporal", or quick "keyframes"',
        among=MODES,
    )
    later_steps: int = knob(
        28, "steps of a frame that starts from the painted one before it", least=1
    )
    stop_change: float = knob(
        0.01, "a later frame is done when its loss falls by less in ten steps", least=0, most=1
    )
    blend: float = knob(
        0.9, 'share of the painted frame before, in "blended" and "flow-warped"', least=0, most=1
    )
    # Ruder, Dosovitskiy and Brox have 1000 to a content weight of 5 and a style weight of 100.
    temporal_weight: float = knob(
        1000.0, 'larger is stiller, in "temporal"; far too large, strokes stick', least=0
    )
    temporal_lags: tuple[int, ...] = knob(
        (1, 2, 4), 'earlier frames to agree with, in "temporal"; 1 is the one before'
    )
    keyframe_every: int = knob(
        8, 'frames from one that is painted to the next, in "keyframes"', least=2, most=100
    )
    between_steps: int = knob(
        4, 'steps of a frame between those, in "keyframes"; more bring back the style', least=1
    )
    flow_method: str = knob(
        "dis", 'how motion is found: "dis", "farneback" or "raft"', among=FLOW_METHODS
    )

    @property
    def key_steps(self) -> int:
        """Steps of a keyframe: half as many more, as more has come into view."""
        return round(1.5 * self.later_steps)

    @property
    def mean_steps(self) -> float:
        """Steps a frame of a film by keyframes."""
        return (
            self.key_steps + (self.keyframe_every - 1) * self.between_steps
        ) / self.keyframe_every

    def __post_init__(self) -> None:
        super().__post_init__()
        lags = self.temporal_lags
        if 1 not in lags or min(lags) < 1 or len(set(lags)) != len(lags) or max(lags) > 100:
            raise InputError(
                f"temporal_lags = {list(lags)}: give different whole numbers, 1 (the frame"
                " before) among them, none above 100."
            )


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(Knobs):
    """Every knob of the training of a feed-forward style model that `Settings` has not."""

    PRESETS: ClassVar = {
        "quick": {},
        "full": {
            "network": "johnson",
            "width": 1.0,
            "batch": 4,
            "training_steps": 40_000,
            "minutes": 0.0,
            "checkpoint_every": 1000,
            "lead_steps": 4000,
            "whole_after": 40_000,
        },
    }

    network: str = knob(
        "light", '"light" or "johnson", which is the larger and slower one', among=NETWORKS
    )
    width: float = knob(
        0.5, "of the network; larger knows finer strokes, and takes longer", least=0.25, most=4
    )
    batch: int = knob(1, "pictures that a step of training looks at; more: steadier", least=1)
    crop: int = knob(
        256, "side of the squares cut out of the training pictures", least=64, unit="pixels"
    )
    keyframe_weight: float = knob(
        200.0, "larger sticks to what was painted, in frames like the painted ones", least=0
    )
    copy_steps: int = knob(
        150, "first steps, in which the network learns to copy pictures, which is quick", least=0
    )
    lead_steps: int = knob(
        800, "steps after those, in which the content loss leads; more keep small things", least=0
    )
    whole_after: int = knob(
        500, "steps, after which whole pictures are looked at instead of crops", least=0
    )
    training_steps: int = knob(4000, "steps of training, at most", least=1)
    training_rate: float = knob(
        0.05,
        "how far a step goes; larger learns sooner, and explodes sooner",
        above=0,
        most=math.nextafter(1.0, 0.0),
    )
    minutes: float = knob(15.0, "time for training, all runs together; 0: no limit", least=0)
    checkpoint_every: int = knob(
        100, "steps from one checkpoint, with its preview, to the next", least=1
    )
    patience: int = knob(5, "training ends after so many checkpoints without progress", least=1)
    temporal_weight: float = knob(
        0.0, "above 0: films that flicker less, with softer strokes; try 2000", least=0
    )
    strengths: bool = knob(False, "learn all strengths from the picture as it is to the full style")
    many: bool = knob(False, "learn each style picture on its own, to be blended when painting")


def _checked(each: dataclasses.Field[Any], value: object) -> Any:
    """A value of a knob, or an item of one that is a tuple, as its type has it."""
    kind = each.type.removeprefix("tuple[").removesuffix(", ...]")
    limits, known = each.metadata, each.metadata["among"]
    if known and value not in tuple(known):
        raise InputError(f"{each.name} = {value!r}: use one of {', '.join(known)}.")
    if kind in ("str", "bool"):
        if not isinstance(value, {"str": str, "bool": bool}[kind]):
            what = "a text" if kind == "str" else "true or false"
            raise InputError(f"{each.name} = {value!r}: give {what}.")
        return value
    if not _is(value, int if kind == "int" else (int, float)):
        what = f"a whole number of {limits['unit']}" if limits["unit"] else _range(each)
        raise InputError(f"{each.name} = {value!r}: give {what}.")
    try:
        number = float(value)  # type: ignore[arg-type]
    except OverflowError:
        raise InputError(f"{each.name}: a number of that size is beyond floating point.") from None
    least, above, most = limits["least"], limits["above"], limits["most"]
    if not (math.isfinite(number) and least <= value <= most and value > above):
        raise InputError(f"{each.name} = {value}: give {_range(each)}.")
    return value if kind == "int" else number


def _checked_tuple(each: dataclasses.Field[Any], value: object) -> tuple[Any, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise InputError(f"{each.name} = {value!r}: give a list.")
    kinds = {"tuple[str, ...]": (str, "texts"), "tuple[int, ...]": (int, "whole numbers")}
    kind, what = kinds.get(str(each.type), ((int, float), "numbers"))
    if not all(_is(item, kind) for item in value):
        raise InputError(f"{each.name} = {list(value)!r}: give a list of {what}.")
    return tuple(_checked(each, item) for item in value)


def _range(each: dataclasses.Field[Any]) -> str:
    """The values that a knob takes, in words."""
    least, above, most, unit = (each.metadata[key] for key in ("least", "above", "most", "unit"))
    what = "a whole number" if "int" in str(each.type) else "a number"
    if unit:
        return f"{least} to {most} {unit}" if most < math.inf else f"at least {least} {unit}"
    if most < 2**53:
        return f"{what} from {max(least, above):g} to {most:g}"
    if above == 0 or least == 1:
        return f"{what} above 0"
    return f"{what} from {least:g} on" if least > -math.inf else what


def _layer_weights(
    weight: float, layers: tuple[str, ...], factors: tuple[float, ...]
) -> dict[str, float]:
    pairs = zip(layers, factors or (1.0,) * len(layers), strict=True)
    return {layer: weight * factor for layer, factor in pairs}


def _is(value: object, kind: type | tuple[type, ...]) -> bool:
    """`isinstance`, without taking True for 1."""
    return isinstance(value, kind) and not isinstance(value, bool)
