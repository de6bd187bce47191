"""The network that paints a picture in one pass."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workbench.convolution import nnpack
from workbench.errors import InputError

SOURCE = "source"  # the set of scales and shifts with which a picture is left as it is

_CHANNELS = (32, 64, 128)  # at full, half and quarter size
_RESIDUAL_BLOCKS = 5
SHRINK = 4  # sides are divided by this inside, and padded to a multiple of it
SMALLEST = 16  # pixels; smaller sides are padded to it
_HEAD_REACH = 8  # pixels beyond its place that the head sees, rounded up
_TAIL_REACH = 2  # likewise the tail, in pixels of quarter size
# For the first and the second of two pixels that were one: which of its own place (the middle) and
# the two beside it the five of a convolution fall on.
_PLACES = torch.tensor(
    [
        [[1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]],
        [[1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 1]],
    ]
).float()
EPSILON = 1e-5  # added to variances, as in the paper's program
# A step of Adam moves every parameter by about as much. The last convolution sums up 81 places of
# many channels, so that all colours would jump; its parameters count this much less.
LAST_LAYER_SCALE = {"johnson": 0.03, "light": 0.1}


class TransformationNetwork(nn.Module):
    """Pictures in, painted pictures out.

    The image transformation network of Johnson, Alahi and Fei-Fei 2016 (arXiv 1603.08155,
    supplementary table 1), with instance normalisation (Ulyanov, Vedaldi and Lempitsky 2016, arXiv
    1607.08022), which takes a picture's own contrast out and puts the style's in. Differs from the
    paper in that every convolution pads by reflection, so that borders are painted like the rest
    and residual blocks need no cropping, and in that the picture grows again by repeating pixels
    before a convolution, which leaves no checkerboard (Odena, Dumoulin and Olah 2016,
    "Deconvolution and checkerboard artifacts").

    That is the one called "johnson". In the "light" one no layer works at full size: squares of 4x4
    pixels are the channels of what goes in, and what grows again does so in the channels, to come
    apart behind the convolution (Shi et al. 2016, arXiv 1609.05158).

    One network knows several styles by conditional instance normalisation (Dumoulin, Shlens and
    Kudlur 2017, arXiv 1610.07629): all that is learned for each is a set of scales and shifts, and
    the sets in between paint in blends of the styles.

    Parameters
    ----------
    width
        A factor on the number of channels, above 0. The paper has 1; 0.5 paints twice as fast and
        knows fewer strokes.
    sets
        Names of the sets of scales and shifts: those of the styles. Behind a first one that is
        called `SOURCE`, a picture can be painted at any strength from as it is to the full style.
    kind
        "light" or "johnson".
    """

    program = "the workbench"  # that such a network is trained by

    def __init__(
        self, width: float = 1.0, sets: Sequence[str] = ("style",), kind: str = "johnson"
    ) -> None:
        super().__init__()
        self.width, self.kind, self.sets = width, kind, tuple(sets)
        self.folded = SHRINK if kind == "light" else 1  # sides of the squares that become channels
        full, half, quarter = (8 * max(1, round(channels * width / 8)) for channels in _CHANNELS)
        if kind == "light":
            head = [Convolution(3 * SHRINK**2, quarter, 3)]
            tail = [Convolution(quarter, full, 5, grow=2), Convolution(full, 3, 5, grow=2)]
        else:
            head = [
                Convolution(3, full, 9),
                Convolution(full, half, 3, stride=2),
                Convolution(half, quarter, 3, stride=2),
            ]
            tail = [
                Convolution(quarter, half, 3, grow=2),
                Convolution(half, full, 3, grow=2),
                Convolution(full, 3, 9),
            ]
        inner = [Convolution(quarter, quarter, 3) for _ in range(2 * _RESIDUAL_BLOCKS)]
        self.head, self.residual = self._layers(*head), self._layers(*inner)
        self.tail, self.paint = self._layers(*tail[:-1]), tail[-1]
        self.bias = nn.Parameter(torch.zeros(3))  # of the colours

    def _layers(self, *convolutions: Convolution) -> Sequence[Layer]:
        layers = (Layer(convolve, len(self.sets)) for convolve in convolutions)
        return nn.ModuleList(layers)  # type: ignore[return-value]

    @property
    def styles(self) -> tuple[str, ...]:
        """Names of the styles."""
        return self.sets[self.sets[0] == SOURCE :]

    def alone(self, number: int) -> list[float]:
        """Shares of the styles of which one, counted from 0, is all."""
        return [float(i == number) for i in range(len(self.styles))]

    def mix(self, strength: float = 1.0, style_blend_weights: Sequence[float] = ()) -> Tensor:
        """Shares of the sets, `(K,)`, which add up to 1.

        `strength` goes from 0, the picture as it is, to 1, the full style. `style_blend_weights`
        are the shares of the styles, which need not add up to 1; none: the same of each. An
        InputError if the network was not trained for that, or they make no sense.
        """
        styles, weights = self.styles, tuple(style_blend_weights)
        weights = weights or (1.0,) * len(styles)
        if len(weights) != len(styles):
            raise InputError(
                f"style_blend_weights has {len(weights)} numbers, and the model knows {len(styles)}"
                f" style{'s' * (len(styles) > 1)} ({', '.join(styles)}); give one for each."
            )
        if not (min(weights) >= 0 and 0 < sum(weights) < math.inf):
            raise InputError(
                f"style_blend_weights = {list(weights)}: give numbers from 0 on, one above 0."
            )
        if not 0 <= strength <= 1:
            raise InputError(f"strength = {strength}: give a number from 0 to 1.")
        if strength < 1 and styles == self.sets:
            raise InputError(
                f"strength = {strength}: the model paints at full strength only; train one with"
                " --strengths."
            )
        of_styles = strength * torch.tensor(weights) / sum(weights)
        return of_styles if styles == self.sets else F.pad(of_styles, (1, 0), value=1 - strength)

    def matrices(self) -> list[nn.Parameter]:
        """Weights of the convolutions that are normalised, one row per channel."""
        layers = (*self.head, *self.residual, *self.tail)
        return [layer.convolve.weight for layer in layers]

    def forward(
        self,
        pictures: Tensor,
        dtype: torch.dtype = torch.float32,
        mix: Tensor | None = None,
        layout: torch.memory_format = torch.channels_last,
    ) -> Tensor:
        """Paint pictures; each comes out the same whatever others are painted with it.

        To the last bit on a CPU, and but for rounding on a GPU. Pictures are `(N, 3, H, W)`,
        float32, sRGB in [0, 1], of any size. Painted ones may leave [0, 1] by 0.09, so that black
        and white can be reached: 0.5 + tanh(x) * 150 / 255, as in the paper's program. `dtype` is
        the precision of the activations; parameters and statistics are float32 always. `mix` are
        the shares of the sets, as `mix` gives them; None: all styles alike, at full strength.
        With the contiguous `layout`, convolutions without a gradient are Winograd's.
        """
        mix = self._mix(mix)
        if len(pictures) > 1 and pictures.device.type == "cpu":
            # Convolutions of a batch may add up in another order, and are no faster here.
            return torch.cat([self(each, dtype, mix, layout) for each in pictures.split(1)])
        x = self._prepare(pictures, dtype, layout)
        x = self._transform(_through(self.head, x, mix), mix)
        return self._finish(self.paint(_through(self.tail, x, mix)), pictures, mix)

    def in_strips(
        self,
        picture: Tensor,
        rows: int,
        dtype: torch.dtype = torch.float32,
        mix: Tensor | None = None,
        layout: torch.memory_format = torch.channels_last,
    ) -> Tensor:
        """Paint one picture in less memory and about twice the time.

        The layers at full and half size, which take most of the memory, are worked through in
        strips that overlap, of so many rows, a multiple of 4. Statistics are of the whole picture,
        put together from those of the strips, so that no seam shows: what comes out is that of
        `forward` but for rounding.
        """
        mix = self._mix(mix)
        x = self._prepare(picture, dtype, layout)
        x = _in_strips(self.head, x, mix, rows // self.folded, _HEAD_REACH)
        x = self._transform(x, mix)
        x = _in_strips(self.tail, x, mix, rows // SHRINK, _TAIL_REACH, self.paint)
        return self._finish(x, picture, mix)

    def _mix(self, mix: Tensor | None) -> Tensor:
        return (self.mix() if mix is None else mix).to(self.bias.device)

    def _prepare(self, pictures: Tensor, dtype: torch.dtype, layout: torch.memory_format) -> Tensor:
        """In [-1, 1], with sides that the network can halve twice."""
        height, width = pictures.shape[-2:]
        down, right = (SHRINK * -(-max(side, SMALLEST) // SHRINK) for side in (height, width))
        x = 2 * pictures.to(dtype) - 1
        x = F.pad(x, (0, right - width, 0, down - height), mode="replicate")
        return F.pixel_unshuffle(x, self.folded).contiguous(memory_format=layout)

    def _transform(self, x: Tensor, mix: Tensor) -> Tensor:
        """The residual blocks, at a quarter of the size."""
        for first, second in zip(self.residual[::2], self.residual[1::2], strict=True):
            x = x + second(first(x, mix).relu(), mix)
        return x

    def _finish(self, x: Tensor, pictures: Tensor, mix: Tensor) -> Tensor:
        """Colours of what `paint` gives, without what `_prepare` padded."""
        height, width = pictures.shape[-2:]
        painted = self._to_colours(x.float())[..., :height, :width].contiguous()
        if self.styles == self.sets:
            return painted
        # At strength 0 the picture itself is left. The square leaves the network more say between.
        kept = mix[0].square()
        return kept * pictures + (1 - kept) * painted

    def _to_colours(self, x: Tensor) -> Tensor:
        return 0.5 + torch.tanh(LAST_LAYER_SCALE[self.kind] * x + self.bias.view(3, 1, 1)) * (
            150 / 255
        )


class ExamplesNetwork(TransformationNetwork):
    """The network of fast_neural_style in pytorch/examples.

    It differs in that it is told 0 to 255, adds biases, and ends without a tanh. What is added
    before a normalisation makes no difference, so that only the last bias is left.
    """

    program = "fast_neural_style of pytorch/examples"

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over the parameters of that program; a KeyError or RuntimeError if they are not."""
        left = {
            name: each.float()
            for name, each in tensors.items()
            if not re.search(r"\.(running_mean|running_var|num_batches_tracked)$", name)
        }
        theirs = [
            *((f"conv{i}", f"in{i}") for i in (1, 2, 3)),
            *((f"res{i}.conv{k}", f"res{i}.in{k}") for i in range(1, 6) for k in (1, 2)),
            *(("deconv1", "in4"), ("deconv2", "in5")),
        ]
        ours = [name for name, module in self.named_modules() if isinstance(module, Layer)]
        state = {}
        for layer, (convolution, norm) in zip(ours, theirs, strict=True):
            weight = left.pop(f"{convolution}.conv2d.weight")
            state[f"{layer}.convolve.weight"] = weight.flatten(1)
            state[f"{layer}.scale"] = left.pop(f"{norm}.weight")[None]
            state[f"{layer}.shift"] = left.pop(f"{norm}.bias")[None]
            del left[f"{convolution}.conv2d.bias"]
        state["head.0.convolve.weight"] = state["head.0.convolve.weight"] * 127.5  # from [-1, 1]
        state["paint.weight"] = left.pop("deconv3.conv2d.weight").flatten(1)
        state["bias"] = left.pop("deconv3.conv2d.bias")
        if left:
            raise KeyError(*left)
        self.load_state_dict(state, assign=True)

    def _to_colours(self, x: Tensor) -> Tensor:
        return (x + self.bias.view(3, 1, 1)) / 255


class _Statistics(NamedTuple):
    """What one layer's convolution gives over a picture: `(C,)` each, float32."""

    mean: Tensor
    variance: Tensor


class Convolution(nn.Module):
    """A convolution that pads by reflection, after repeating every pixel `grow` times.

    One of 5x5 that grows is worked out before pixels are repeated, where it has 3x3 places for each
    of the four pixels that come out of one, and lie in channels until they are `spread`.
    """

    def __init__(
        self, inputs: int, outputs: int, side: int, *, stride: int = 1, grow: int = 1
    ) -> None:
        super().__init__()
        self.shape, self.stride, self.grow = (outputs, inputs, side, side), stride, grow
        self.spread = 2 if (side, grow) == (5, 2) else 1
        # A matrix, as Muon takes it: one row for each channel that comes out.
        self.weight = nn.Parameter(torch.empty(outputs, inputs * side * side))
        if not self.weight.is_meta:  # nothing to fill, and 2 s of imports to ask
            nn.init.kaiming_normal_(self.weight, nonlinearity="relu")

    def filters(self) -> Tensor:
        """The weight as it is worked with, `(O, I, H, W)`."""
        weight = self.weight.view(self.shape)
        if self.spread == 1:
            return weight
        places = _PLACES.to(weight.device)
        return torch.einsum("pak,qbl,oikl->opqiab", places, places, weight).flatten(0, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Apply it to `(N, inputs, H, W)`."""
        if self.grow > self.spread:
            x = F.interpolate(x, scale_factor=float(self.grow), mode="nearest")
        weight = self.filters().to(x.dtype)
        side = weight.shape[-1]
        x = F.pad(x, (side // 2,) * 4, mode="reflect")
        able = (side, self.stride, x.dtype) == (3, 1, torch.float32) and x.device.type == "cpu"
        if able and x.is_contiguous() and not torch.is_grad_enabled():
            x = nnpack(x, weight.contiguous(), None, padding=0)
        else:
            weight = weight.contiguous(memory_format=torch.channels_last)
            x = F.conv2d(x, weight, stride=self.stride)
        return F.pixel_shuffle(x, self.spread) if self.spread > 1 else x


class Layer(nn.Module):
    """A convolution and its conditional instance normalisation, with `sets` of scales and shifts.

    "Conditional": which scales and shifts are used is said by a `mix` `(K,)` of the sets.
    """

    def __init__(self, convolve: Convolution, sets: int = 1) -> None:
        super().__init__()
        self.convolve = convolve
        self.scale = nn.Parameter(torch.ones(sets, convolve.shape[0]))
        self.shift = nn.Parameter(torch.zeros(sets, convolve.shape[0]))

    def forward(self, x: Tensor, mix: Tensor, known: _Statistics | None = None) -> Tensor:
        """Apply it to `(N, C, H, W)`, with the scales and shifts that `mix` makes of the sets."""
        return self.normalize(self.convolve(x), mix, known)

    def normalize(self, x: Tensor, mix: Tensor, known: _Statistics | None = None) -> Tensor:
        """Give every channel of every picture the learned mean and spread."""
        if x.device.type == "mps":  # where gradients on channels_last were wrong until mid-2026
            x = x.contiguous()
        scale, shift = mix @ self.scale, mix @ self.shift
        if known is not None:
            return F.batch_norm(x, known.mean, known.variance, scale, shift, eps=EPSILON)
        # Instance normalisation is group normalisation with a channel a group, and batch
        # normalisation of one picture. On a CPU each is several times as fast as the other in its
        # own layout, and both are faster than torch's instance_norm.
        if x.device.type == "cpu" and x.is_contiguous():
            return F.group_norm(x, len(scale), scale, shift, eps=EPSILON)
        each = [
            F.batch_norm(picture, None, None, scale, shift, training=True, eps=EPSILON)
            for picture in x.split(1)
        ]
        return each[0] if len(each) == 1 else torch.cat(each)


def _through(
    layers: Sequence[Layer], x: Tensor, mix: Tensor, known: Sequence[_Statistics] = ()
) -> Tensor:
    """Activation behind layers and their ReLUs, with the statistics of each if they are known."""
    each: Sequence[_Statistics | None] = known or [None] * len(layers)
    for layer, statistics in zip(layers, each, strict=True):
        x = layer(x, mix, statistics).relu()
    return x


def _in_strips(
    layers: Sequence[Layer],
    whole: Tensor,
    mix: Tensor,
    rows: int,
    reach: int,
    last: Callable[[Tensor], Tensor] = lambda x: x,
) -> Tensor:
    """Activation behind layers and a last one, made in strips."""
    known: list[_Statistics] = []

    def convolved(strip: Tensor) -> Tensor:
        before = _through(layers[: len(known)], strip, mix, known)
        made: Tensor = layers[len(known)].convolve(before)
        return made

    while len(known) < len(layers):  # one after the other, as each builds on those before
        known.append(_joined(_strips(convolved, whole, rows, reach)))
    made = _strips(lambda strip: last(_through(layers, strip, mix, known)), whole, rows, reach)
    return torch.cat(list(made), dim=2)


def _strips(
    function: Callable[[Tensor], Tensor], whole: Tensor, rows: int, reach: int
) -> Iterator[Tensor]:
    """What a function makes of strips of `whole`, each of which it sees with `reach` rows more."""
    height = whole.shape[2]
    for first in range(0, height, rows):
        last = min(first + rows, height)
        above = min(reach, first)
        strip = whole[:, :, first - above : last + reach]
        made = function(strip)
        grown, by = made.shape[2], strip.shape[2]
        yield made[:, :, above * grown // by : (above + last - first) * grown // by]


def _joined(parts: Iterable[Tensor]) -> _Statistics:
    """Mean and variance of parts `(1, C, h, W)` of one activation."""
    counts, variances, means = [], [], []
    for part in parts:
        variance, mean = torch.var_mean(part.float(), dim=(0, 2, 3), correction=0)
        counts.append(part[0, 0].numel())
        variances.append(variance)
        means.append(mean)
    # Put together as by Chan, Golub and LeVeque 1979, for which float32 is enough.
    each = torch.stack(means)
    shares = each.new_tensor(counts).view(-1, 1) / sum(counts)
    mean = (shares * each).sum(0)
    spread = torch.stack(variances) + (each - mean).square()
    return _Statistics(mean, (shares * spread).sum(0))
