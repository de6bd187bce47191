"""Settings of pictures, clips and training: every knob, its default, unit and effect.

Loads neither torch nor a network, so that a command line can show the defaults at once.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workbench.errors import InputError
from workbench.weights import BACKBONES

OPTIMIZERS = ("lbfgs", "adam")
POOLINGS = ("max", "average", "average-unscaled", "l2")
TV_KINDS = ("squared", "absolute", "mean-squared")
PRECISIONS = ("auto", "float32", "bfloat16")
MODES = ("per-frame", "blended", "flow-warped", "temporal")
FLOW_METHODS = ("dis", "farneback", "raft")
MIN_SIZE, MAX_SIZE = 32, 8192


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every knob of a style transfer.

    The weights mean what they mean in neural_style.lua; see `losses`.

    Attributes
    ----------
    content_weight
        Weight of the content loss, at least 0. Larger keeps more of the photograph.
    style_weight
        Weight of the style loss, at least 0. Larger gives more brushwork; beyond a
        thousand times `content_weight` the photograph dissolves.
    tv_weight
        Weight of the total variation, at least 0. Larger smooths away grain and, in the
        end, brush strokes.
    content_layers
        Layers whose activations are kept. Shallow ones (relu2_2) hold on to edges and
        pixels, deep ones (relu4_2, relu5_1) only to the arrangement of things.
    style_layers
        Layers whose Gram matrices are matched. Shallow ones give colours and grain, deep
        ones shapes and whole strokes.
    content_layer_weights
        One factor for each content layer, at least 0; none given: 1 for each.
    style_layer_weights
        One factor for each style layer, at least 0; none given: 1 for each.
    style_blend_weights
        One for each style picture, at least 0; only their proportions matter; none given:
        all the same. With masks: how strongly each region is painted.
    style_scale
        Size of the style picture relative to `size`, above 0. Larger gives larger strokes.
    size
        Longest side of the result in pixels, 32 to 8192.
    steps
        Optimisation steps at each scale, coarse to fine: the last number is for `size`,
        each one before it for half of the size behind it. A single number works at `size`
        alone. Steps at coarse scales are cheap and lay down large strokes. Scales whose
        shorter side would be under 64 pixels are left out.
    optimizer
        "lbfgs" (20 steps of Adam first) gets further in the same steps; "adam" takes less
        memory and is calmer.
    learning_rate
        Step of Adam in grey levels (0..255), above 0.
    init
        Where to start: "content", "random" (noise; takes more steps and is freer in its
        composition), or the path of a picture.
    seed
        Of the noise. Same seed, same machine: same picture.
    normalize_gradients
        Whether the gradient of every layer's loss is brought to one length (its weight),
        however large the loss is. Layers that hardly count otherwise, shallow ones above all,
        then do; the weights mean something else, and the loss may rise on the way.
    tv_kind
        How total variation is counted: "squared" as in neural_style.lua, "absolute" as in
        neural-style-pt (keeps edges and flattens the rest), or "mean-squared" as in
        anishathalye's neural_style.py (the same at every size; 100 is its default there).
    white
        What a white pixel is to the network, above 0: 255, or 256 as in neural_style.lua.
    backbone
        "vgg16" or "vgg19"; whose activations are compared. Losses of the two are on
        different scales.
    pooling
        "max", "average" or "l2"; the latter two give smoother pictures, and are rescaled so
        that weights keep their meaning. "average-unscaled" is not: as other programs have it.
    device
        "auto" (a CUDA GPU, else Apple's, else the CPU) or a torch device such as "cuda:1".
    precision
        Of the network's activations: "float32", "bfloat16", or "auto", which times both
        once and takes the faster. Losses are in float32 always.

    Raises
    ------
    InputError
        If a value makes no sense; the message names the setting.
    """

    content_weight: float = 5.0
    style_weight: float = 100.0
    tv_weight: float = 1e-3
    content_layers: tuple[str, ...] = ("relu4_2",)
    style_layers: tuple[str, ...] = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
    content_layer_weights: tuple[float, ...] = ()
    style_layer_weights: tuple[float, ...] = ()
    style_blend_weights: tuple[float, ...] = ()
    style_scale: float = 1.0
    size: int = 512
    steps: tuple[int, ...] = (60, 120)
    optimizer: str = "lbfgs"
    learning_rate: float = 10.0
    init: str = "content"
    seed: int = 0
    normalize_gradients: bool = False
    tv_kind: str = "squared"
    white: float = 255.0
    backbone: str = "vgg16"
    pooling: str = "max"
    device: str = "auto"
    precision: str = "auto"

    def __post_init__(self) -> None:
        for name in ("content_layers", "style_layers"):
            self._set(name, _tuple(name, getattr(self, name), str))
        for name in _WEIGHT_LISTS:
            weights = _tuple(name, getattr(self, name), (int, float))
            self._set(name, tuple(_number(name, weight) for weight in weights))
        steps = (self.steps,) if _is(self.steps, int) else self.steps
        self._set("steps", _tuple("steps", steps, int))
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(field.default, float):
                self._set(field.name, _number(field.name, value))
            elif isinstance(field.default, bool):
                if not isinstance(value, bool):
                    raise InputError(f"{field.name} = {value!r}: give true or false.")
            elif isinstance(field.default, int) and not _is(value, int):
                raise InputError(f"{field.name} = {value!r}: give a whole number.")
            elif isinstance(field.default, str) and not isinstance(value, str):
                raise InputError(f"{field.name} = {value!r}: give a text.")
        self._check()

    def _check(self) -> None:
        for name in ("content_weight", "style_weight", "tv_weight"):
            _check_weight(name, getattr(self, name))
        if self.content_weight == 0 and self.style_weight == 0:
            raise InputError("content_weight and style_weight are both 0: nothing to paint.")
        for name in _WEIGHT_LISTS:
            weights = getattr(self, name)
            for weight in weights:
                _check_weight(name, weight)
            if weights and sum(weights) == 0:
                raise InputError(f"{name} = {weights}: at least one must be above 0.")
        for name in ("style_scale", "learning_rate", "white"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"{name} = {value}: give a number above 0.")
        for kind in ("content", "style"):
            factors = getattr(self, f"{kind}_layer_weights")
            layers = getattr(self, f"{kind}_layers")
            if factors and len(factors) != len(layers):
                raise InputError(
                    f"{kind}_layer_weights has {len(factors)} numbers for {len(layers)}"
                    f" {kind}_layers; give one for each, or none."
                )
        if not MIN_SIZE <= self.size <= MAX_SIZE:
            raise InputError(f"size = {self.size}: give {MIN_SIZE} to {MAX_SIZE} pixels.")
        if not self.steps or min(self.steps) < 1:
            raise InputError(f"steps = {self.steps}: give one whole number above 0 a scale.")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"seed = {self.seed}: give a whole number from 0 on.")
        _check_choice("optimizer", self.optimizer, OPTIMIZERS)
        _check_choice("pooling", self.pooling, POOLINGS)
        _check_choice("tv_kind", self.tv_kind, TV_KINDS)
        _check_choice("precision", self.precision, PRECISIONS)
        _check_choice("backbone", self.backbone, tuple(BACKBONES))
        known = BACKBONES[self.backbone].layers
        for name in ("content_layers", "style_layers"):
            layers = getattr(self, name)
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

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

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

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, texts and lists, as JSON and YAML have them."""
        return _plain(self)

    @classmethod
    def from_preset(cls, preset: str, **changes: Any) -> Settings:
        """A preset with single settings changed.

        Parameters
        ----------
        preset
            "draft" (256 px, seconds), "normal" (512 px) or "fine" (768 px, more steps).
        changes
            Settings by name, which win over the preset's.

        Raises
        ------
        InputError
            If the preset or a setting is unknown, or a value makes no sense.
        """
        _check_choice("preset", preset, tuple(PRESETS))
        return cls().changed(**{**PRESETS[preset], **changes})

    @classmethod
    def from_command(cls, text: str, **changes: Any) -> Settings:
        """What a command line of another style-transfer program asks for; see `commands`.

        Raises
        ------
        InputError
            If the command is not understood, a setting is unknown, or a value makes no sense.
        """
        from workbench.commands import read_command

        return read_command(text).settings.changed(**changes)

    def changed(self, **changes: Any) -> Settings:
        """These settings with some of them changed.

        Raises
        ------
        InputError
            If a setting is unknown, or a value makes no sense.
        """
        known = [field.name for field in dataclasses.fields(self)]
        for name in changes:
            if name not in known:
                raise InputError(f"no setting {name!r}; there are {', '.join(known)}.")
        return dataclasses.replace(self, **changes)


@dataclass(frozen=True, kw_only=True)
class ClipSettings:
    """Every knob of a film that is not one of a still.

    Attributes
    ----------
    mode
        How a frame leans on the one before: "per-frame" (not at all; it flickers),
        "blended", "flow-warped" or "temporal" (the stillest).
    later_steps
        Optimisation steps of a frame that starts from the painted one before it. The first
        frame of a scene, and every frame in mode "per-frame", takes the `steps` of
        `Settings`.
    stop_change
        A later frame is done when its loss fell by less than this share in the last ten
        steps; 0 takes all `later_steps`.
    blend
        Share of the painted frame before in what a frame starts from, 0 to 1, in the modes
        "blended" and "flow-warped". Larger is stiller, and smears more.
    temporal_weight
        Of the loss that ties a frame to earlier ones in mode "temporal", at least 0. Larger
        is stiller; far too large, brush strokes stick to where the scene began. Against
        `content_weight` 5 and `style_weight` 100, 1000 is what Ruder, Dosovitskiy and Brox
        use (1 : 20 : 200).
    temporal_lags
        Which earlier frames in mode "temporal": 1 is the one before. Further ones bring
        back what was hidden for a moment.
    flow_method
        How motion is found: "dis", "farneback" or "raft".

    Raises
    ------
    InputError
        If a value makes no sense; the message names the setting.
    """

    mode: str = "temporal"
    later_steps: int = 35
    stop_change: float = 0.01
    blend: float = 0.9
    temporal_weight: float = 1000.0
    temporal_lags: tuple[int, ...] = (1, 2, 4)
    flow_method: str = "dis"

    def __post_init__(self) -> None:
        lags = _tuple("temporal_lags", self.temporal_lags, int)
        object.__setattr__(self, "temporal_lags", lags)
        for name in ("stop_change", "blend", "temporal_weight"):
            object.__setattr__(self, name, _number(name, getattr(self, name)))
        _check_choice("mode", self.mode, MODES)
        _check_choice("flow_method", self.flow_method, FLOW_METHODS)
        if not _is(self.later_steps, int) or self.later_steps < 1:
            raise InputError(f"later_steps = {self.later_steps!r}: give a whole number above 0.")
        for name in ("stop_change", "blend"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} = {getattr(self, name)}: give a number from 0 to 1.")
        _check_weight("temporal_weight", self.temporal_weight)
        if 1 not in lags or min(lags) < 1 or len(set(lags)) != len(lags) or max(lags) > 100:
            raise InputError(
                f"temporal_lags = {list(lags)}: give different whole numbers, 1 (the frame"
                " before) among them, none above 100."
            )

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, texts and lists, as JSON and YAML have them."""
        return _plain(self)


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Every knob of the training of a feed-forward style model that `Settings` has not.

    Attributes
    ----------
    width
        Of the network: a factor on its number of channels, 0.25 to 4. Larger knows finer
        strokes, and takes longer to train and to paint.
    batch
        Pictures that a step of training looks at, from 1 on. More give steadier steps that
        take longer.
    crop
        Side of the squares that are cut out of the training pictures, in pixels, from 64 on.
    copy_steps
        Steps at the beginning in which the network learns to copy pictures, which is quick; it
        keeps light and dark, and all that can be recognised, when the style comes.
    lead_steps
        Steps after those in which the content loss leads: it counts many times at first, and
        once at their end. More keep small things readable; where training ends before them, the
        style is weaker than it was asked for.
    whole_after
        Steps, after which the network looks at whole pictures. Crops are quick, and teach the
        strokes; in whole pictures, each stroke may go where it suits the picture, so that more of
        it stays. In a batch of several, they are cut to the size that all have.
    training_steps
        Steps, at most.
    training_rate
        How far a step goes, above 0; from 200 steps after `copy_steps` on it shrinks with the
        root of their number. Larger learns sooner, and explodes sooner.
    minutes
        The time that training may take, all its runs together; 0: as long as it needs.
    checkpoint_every
        Steps from one checkpoint, with its preview, to the next.
    patience
        Training ends when the held-out loss has not fallen by a hundredth for so many
        checkpoints.
    temporal_weight
        Of the loss that asks two looks at a scene that moves a little for the same painting,
        at least 0. Larger gives films that flicker less, with softer strokes. Above 0 every
        picture is painted twice in a step, which takes half as long again.

    Raises
    ------
    InputError
        If a value makes no sense; the message names the setting.
    """

    width: float = 0.5
    batch: int = 1
    crop: int = 256
    copy_steps: int = 150
    lead_steps: int = 800
    whole_after: int = 500
    training_steps: int = 4000
    training_rate: float = 0.05
    minutes: float = 15.0
    checkpoint_every: int = 100
    patience: int = 5
    temporal_weight: float = 0.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(field.default, float):
                object.__setattr__(self, field.name, _number(field.name, value))
            elif not _is(value, int) or value < (field.name not in _MAY_BE_ZERO):
                raise InputError(f"{field.name} = {value!r}: give a whole number above 0.")
        if not 0.25 <= self.width <= 4:
            raise InputError(f"width = {self.width}: give a number from 0.25 to 4.")
        if self.crop < 64:
            raise InputError(f"crop = {self.crop}: give at least 64 pixels.")
        if not 0 < self.training_rate < 1:
            raise InputError(f"training_rate = {self.training_rate}: give a number from 0 to 1.")
        _check_weight("minutes", self.minutes)
        _check_weight("temporal_weight", self.temporal_weight)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, as JSON and YAML have them."""
        return _plain(self)

    @classmethod
    def from_preset(cls, preset: str, **changes: Any) -> TrainingSettings:
        """A preset with single settings changed.

        Parameters
        ----------
        preset
            "quick" (a clip or a few pictures, a quarter of an hour on two cores) or "full" (the
            network and the batch of the paper, for a large folder and a GPU).
        changes
            Settings by name, which win over the preset's.

        Raises
        ------
        InputError
            If the preset is unknown, or a value makes no sense.
        """
        _check_choice("preset", preset, tuple(TRAINING_PRESETS))
        return cls(**{**TRAINING_PRESETS[preset], **changes})


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "draft": {"size": 256, "steps": (80,)},
    "normal": {"size": 512, "steps": (60, 120)},
    "fine": {"size": 768, "steps": (60, 90, 150)},
}


_MAY_BE_ZERO = ("copy_steps", "lead_steps", "whole_after")

TRAINING_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "quick": {},
    "full": {
        "width": 1.0,
        "batch": 4,
        "training_steps": 40_000,
        "minutes": 0.0,
        "checkpoint_every": 1000,
        "lead_steps": 4000,
        "whole_after": 40_000,
    },
}


_WEIGHT_LISTS = ("content_layer_weights", "style_layer_weights", "style_blend_weights")


def _layer_weights(
    weight: float, layers: tuple[str, ...], factors: tuple[float, ...]
) -> dict[str, float]:
    pairs = zip(layers, factors or (1.0,) * len(layers), strict=True)
    return {layer: weight * factor for layer, factor in pairs}


def _plain(settings: Settings | ClipSettings | TrainingSettings) -> dict[str, Any]:
    values = dataclasses.asdict(settings)
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def _is(value: object, kind: type | tuple[type, ...]) -> bool:
    """`isinstance`, without taking True for 1."""
    return isinstance(value, kind) and not isinstance(value, bool)


def _number(name: str, value: object) -> float:
    if not _is(value, (int, float)):
        raise InputError(f"{name} = {value!r}: give a number.")
    try:
        return float(value)  # type: ignore[arg-type]
    except OverflowError:
        raise InputError(f"{name}: a number of that size is beyond floating point.") from None


def _tuple(name: str, value: object, kind: type | tuple[type, ...]) -> tuple[Any, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise InputError(f"{name} = {value!r}: give a list.")
    for item in value:
        if not _is(item, kind):
            what = "texts" if kind is str else "whole numbers" if kind is int else "numbers"
            raise InputError(f"{name} = {list(value)!r}: give a list of {what}.")
    return tuple(value)


def _check_weight(name: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise InputError(f"{name} = {value}: give a number from 0 on.")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{name} = {value!r}: use one of {', '.join(choices)}.")
