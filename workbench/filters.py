"""What the network's filters answer to, in a picture and by themselves, and its Gram matrices.

Filters are those of the network as it was trained, with max pooling and before the ReLU.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from workbench.descent import measure
from workbench.devices import choose_device, choose_precision
from workbench.errors import InputError
from workbench.features import Network
from workbench.images import Frame, check_image, resize, to_array
from workbench.losses import gram_matrix
from workbench.settings import Settings
from workbench.sheets import contact_sheet
from workbench.textures import (
    SETTINGS,
    TEXTURE_LAYERS,
    activations,
    load_network,
    look,
    plain_settings,
)
from workbench.weights import find_backbone

PATCH_EDGE = 124  # grey level, about the network's mean colour, beyond the edge of a picture

# Colours as brightness, red against blue, and green against both, of which the pixels of
# photographs are nearly uncorrelated (Ohta, Kanade and Sakai 1980); each row is as long as
# its spread there, relative to that of brightness.
_COLOURS = torch.tensor([[1.0, 1.0, 1.0], [0.37, 0.0, -0.37], [-0.07, 0.14, -0.07]])
_CONTRAST = 0.2  # of the noise that a filter's picture starts from, in units of the logit
_SHOWN_FIELDS = 4  # receptive fields side by side, at most, in a filter's picture on a sheet
_RATE = 0.05  # of Adam, on Fourier coefficients


# --- filters -----------------------------------------------------------------------------


@dataclass(frozen=True)
class ReceptiveField:
    """The pixels that one activation depends on: a square.

    Convention: that of the activation in row 0 and column 0 begins at pixel (`offset`, `offset`),
    counted from the picture's upper left corner, and each further row or column moves it by
    `stride`. The offset is negative, since the convolutions look beyond the edge of the picture.
    """

    side: int  # of the square, in pixels
    stride: int
    offset: int

    def corner(self, row: int, column: int) -> tuple[int, int]:
        """Row and column of its upper left pixel."""
        return self.offset + row * self.stride, self.offset + column * self.stride


def receptive_field(layer: str, backbone: str = "vgg16") -> ReceptiveField:
    """Work out what an activation of a layer sees of the picture."""
    known = find_backbone(backbone).layers
    if layer not in known:
        raise InputError(f"no layer {layer!r} in {backbone}; there are {', '.join(known)}.")
    side, stride, offset = 1, 1, 0
    for name in known[: known.index(layer) + 1]:
        if name.endswith("_1") and name != "relu1_1":  # the pooling before it, 2x2
            side, stride = side + stride, 2 * stride
        side, offset = side + 2 * stride, offset - stride  # the convolution, 3x3
    return ReceptiveField(side, stride, offset)


def excite(
    layer: str,
    filters: Sequence[int],
    settings: Settings = SETTINGS,
    *,
    size: int = 128,
    steps: int = 80,
) -> Iterator[Tensor]:
    """Paint what filters answer to most, each in a picture of its own; yields them after each step.

    Activation maximisation after Erhan et al. 2009, for the mean over all places, so that the
    picture fills with what the filter looks for. As in Olah, Mordvintsev and Schubert 2017
    (doi:10.23915/distill.00007), Adam works on Fourier coefficients over frequency and on
    decorrelated colours, in which steps have the proportions of natural pictures, and the picture
    is shifted at random before every look. Here it is shifted around its edges, which costs nothing
    and makes the pictures tiles: they can be laid side by side.

    Filters of a layer, such as "relu3_3", have numbers from 0 on. The pictures are
    `(N, 3, size, size)`, sRGB in [0, 1], with `size` at least 32. More steps make them bolder, and
    in the end garish. Of the settings, `seed`, `backbone`, `device` and `precision` count.
    """
    if size < 32 or steps < 1:
        raise InputError(f"size = {size}, steps = {steps}: give at least 32 pixels and 1 step.")
    device = choose_device(settings.device)
    precision = choose_precision(settings.precision, device)
    network = _filters_only(load_network([layer], settings, "max", precision), filters)
    generator = torch.Generator().manual_seed(settings.seed)
    shape = (len(filters), 3, size, size // 2 + 1, 2)
    coefficients = _CONTRAST * torch.randn(shape, generator=generator)
    coefficients = coefficients.to(device).requires_grad_()
    optimizer = torch.optim.Adam([coefficients], lr=_RATE)
    for _ in range(steps):
        shift = torch.randint(size, (2,), generator=generator).tolist()
        shifted = torch.roll(_from_spectrum(coefficients, size), shift, dims=(2, 3))
        answers = network(255 * shifted, (layer,))[layer].float().mean(dim=(2, 3))  # (N, 2 N)
        own = answers[:, ::2].diagonal() - answers[:, 1::2].diagonal()
        optimizer.zero_grad()
        (-own.sum()).backward()
        optimizer.step()
        yield _from_spectrum(coefficients.detach(), size).cpu()


@dataclass(frozen=True, eq=False)
class Patch:
    """A part of a picture that a filter answers to."""

    picture: int  # which of the pictures, from 0 on
    top: int  # of its upper left pixel, which may lie outside of the picture
    left: int  # likewise
    answer: float  # the filter's activation
    image: Tensor  # (1, 3, side, side), grey where the picture does not reach


def strongest_patches(
    pictures: Sequence[Tensor],
    layer: str,
    filters: Sequence[int],
    count: int = 6,
    settings: Settings = SETTINGS,
) -> dict[int, list[Patch]]:
    """Find the parts of pictures that filters answer to most: filter -> its patches.

    In the manner of Zeiler and Fergus 2014 (arXiv 1311.2901), figure 2. Places less than a quarter
    of a receptive field from the edge of a picture are left out if it has others: there, filters
    answer to the edge.

    Pictures are `(1, 3, H, W)` each, sRGB in [0, 1], looked at in their own size. A filter gets
    `count` patches that do not overlap, the strongest first; fewer where the pictures have no room
    for more, or it stays silent. Of the settings, `backbone` and `device` count.
    """
    if count < 1:
        raise InputError(f"count = {count}: give a whole number above 0.")
    field = receptive_field(layer, settings.backbone)
    network = _filters_only(load_network([layer], settings, "max"), filters)
    maps = _maps(pictures, network, field)
    found: dict[int, list[Patch]] = {}
    for index, number in enumerate(filters):
        answers = [answer[2 * index].clone() for answer in maps]
        found[number] = []
        while len(found[number]) < count:
            which = max(range(len(answers)), key=lambda i: float(answers[i].max()))
            here = answers[which]
            row, column = divmod(int(here.argmax()), here.shape[1])
            answer = float(here[row, column])
            if answer <= 0:
                break
            top, left = field.corner(row, column)
            image = _cut_out(pictures[which], top, left, field.side)
            found[number].append(Patch(which, top, left, answer, image))
            reach = -(-field.side // field.stride)  # from there on, fields do not overlap
            rows = slice(max(0, row - reach + 1), row + reach)
            columns = slice(max(0, column - reach + 1), column + reach)
            here[rows, columns] = -math.inf
    return found


def choose_filters(
    pictures: Sequence[Tensor],
    filters: Mapping[str, int | Sequence[int]],
    settings: Settings = SETTINGS,
) -> dict[str, list[int]]:
    """Choose filters that have something to say about pictures: layer -> their numbers.

    Of the half of a layer's filters with the strongest answers, those whose strongest answer stands
    out most from all of their own (in standard deviations): detectors of one thing, rather than of
    every edge. `filters` says for each layer how many to choose, or has the numbers of those that
    are chosen already. Pictures and settings are as for `strongest_patches`.
    """
    chosen = {}
    for layer, wanted in filters.items():
        network = load_network([layer], settings, "max")
        if isinstance(wanted, (list, tuple)):
            _filters_only(network, wanted)  # are there any such?
            chosen[layer] = list(wanted)
            continue
        there = len(network.convolutions[-1][2])
        if not isinstance(wanted, int) or not 1 <= wanted <= there:
            raise InputError(f"{layer}: give 1 to {there} filters, or a list of their numbers.")
        maps = _maps(pictures, network, receptive_field(layer, settings.backbone))
        answers = torch.cat([answer.flatten(1) for answer in maps], dim=1)
        answers = answers[:, answers[0].isfinite()]
        strongest = answers.amax(dim=1)
        spread = answers.std(dim=1, correction=0).clamp(min=1e-6)
        stands_out = (strongest - answers.mean(dim=1)) / spread
        stands_out[strongest < strongest.median()] = -1
        chosen[layer] = stands_out.argsort(descending=True)[:wanted].tolist()
    return chosen


def filter_sheet(
    excited: Tensor, patches: Mapping[int, Sequence[Patch]], *, height: int = 112
) -> Frame:
    """Lay out, a row for each filter, its picture and the patches that excite it most.

    Of a picture much larger than the patches, only a part is shown, so that what it has in common
    with them can be seen. `excited` is `(N, 3, H, W)`, the last that `excite` gave for the same
    filters; all pictures are brought to `height` pixels.
    """
    columns = 1 + max([1, *map(len, patches.values())])
    frames = [np.full((height, height, 3), 255, np.uint8)] * (columns * len(patches))
    captions = [""] * len(frames)
    for number, (picture, row) in enumerate(zip(excited, patches.values(), strict=True)):
        first = number * columns
        shown = _SHOWN_FIELDS * row[0].image.shape[-1] if row else None
        frames[first] = to_array(picture[None, :, :shown, :shown])
        for place, patch in enumerate(row, start=first + 1):
            frames[place], captions[place] = to_array(patch.image), f"{patch.answer:,.0f}"
    return contact_sheet(
        frames,
        captions,
        columns=columns,
        height=height,
        row_labels=[f"filter {number}" for number in patches],
        column_labels=["painted for it", "found", *[""] * (columns - 2)],
    )


# --- Gram matrices -----------------------------------------------------------------------


def gram_distances(
    a: Tensor, b: Tensor, layers: Sequence[str] = TEXTURE_LAYERS, settings: Settings = SETTINGS
) -> dict[str, float]:
    """How far apart two pictures are in style: `losses.style_loss` by layer.

    Both are `(1, 3, H, W)`, sRGB in [0, 1], and are brought to `settings.size`.
    """
    plain = plain_settings(settings, layers[:1], layers, content_weight=0.0, style_weight=1.0)
    return dict(measure(a, a, [b], plain).style)


def gram_matrices(
    picture: Tensor, layers: Sequence[str] = TEXTURE_LAYERS, settings: Settings = SETTINGS
) -> dict[str, Tensor]:
    """Layer -> Gram matrix `(C, C)` of a picture brought to `settings.size`, float32."""
    check_image(picture, "picture")
    seen = activations(resize(picture, settings.size), layers, settings)
    return {layer: gram_matrix(seen[layer]).cpu() for layer in layers}


def plot_grams(grams: Mapping[str, Mapping[str, Tensor]], *, channels: int = 48) -> Figure:
    """Draw Gram matrices as heat maps: a row for each picture, a column for each layer.

    A bright spot off the diagonal says that two filters answer at the same places. All maps of a
    layer have the same channels in the same order, the strongest in any of the pictures first, at
    most `channels`, and the same colours: the root of the entry, up to the largest of them. `grams`
    has, for each picture's name, what `gram_matrices` gives.
    """
    names, layers = list(grams), list(next(iter(grams.values())))
    figure = Figure(
        figsize=(2.1 * len(layers) + 0.6, 2.1 * len(names) + 0.5), layout="constrained", dpi=110
    )
    panels = figure.subplots(len(names), len(layers), squeeze=False)
    for column, layer in enumerate(layers):
        together = torch.stack([grams[name][layer] for name in names]).clamp(min=0).sqrt()
        power = together.diagonal(dim1=1, dim2=2).amax(dim=0)
        strongest = power.argsort(descending=True)[:channels]
        shown = together[:, strongest][:, :, strongest]
        for axes, name, heat in zip(panels[:, column], names, shown, strict=True):
            axes.imshow(heat.numpy(), cmap="magma", vmin=0, vmax=float(shown.max()))
            axes.set(xticks=[], yticks=[])
            if column == 0:
                axes.set_ylabel(name)
        panels[0, column].set_title(layer, fontsize=11)
    return figure


# --- common ------------------------------------------------------------------------------


def _filters_only(network: Network, filters: Sequence[int]) -> Network:
    """The same network with only these filters in its last layer, each followed by its negative.

    What a ReLU leaves of a filter and of its negative is all there was before it, so that a filter
    which is silent everywhere can still be told where to go.
    """
    *trunk, (layer, weight, bias) = network.convolutions
    if not filters:
        raise InputError(f"{layer}: give the number of at least one filter.")
    for number in filters:
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < len(bias):
            raise InputError(
                f"{layer} has no filter {number!r}; it has {len(bias)}, numbered from 0 on."
            )
    chosen = list(filters)
    if len(set(chosen)) != len(chosen):
        raise InputError(f"{layer}: filters {chosen}: one is named twice.")
    weight = torch.stack([weight[chosen], -weight[chosen]], dim=1).flatten(0, 1)
    bias = torch.stack([bias[chosen], -bias[chosen]], dim=1).flatten()
    weight = weight.contiguous(memory_format=torch.channels_last)
    return replace(network, convolutions=(*trunk, (layer, weight, bias)))


def _maps(pictures: Sequence[Tensor], network: Network, field: ReceptiveField) -> list[Tensor]:
    """Activations `(C, h, w)` of each picture; those near its edges are set to -inf."""
    if not pictures:
        raise InputError("pictures is empty; give at least one.")
    layer = network.convolutions[-1][0]
    edge = max(0, round(field.side / (4 * field.stride) - 0.5))
    maps = []
    for number, picture in enumerate(pictures, start=1):
        activation = look(picture, f"picture {number}", network, [layer])[layer][0].float().cpu()
        for across in (activation, activation.transpose(1, 2)):
            if across.shape[1] > 2 * edge:
                across[:, :edge] = across[:, across.shape[1] - edge :] = -math.inf
        maps.append(activation)
    return maps


def _from_spectrum(coefficients: Tensor, size: int) -> Tensor:
    """Fourier coefficients `(N, 3, size, size // 2 + 1, 2)` -> pictures in [0, 1].

    All coefficients with spread 1 would give pixels (before the sigmoid) with spread 1.
    """
    rows = torch.fft.fftfreq(size, device=coefficients.device)[:, None]
    columns = torch.fft.rfftfreq(size, device=coefficients.device)
    scale = 1 / (rows.square() + columns.square()).sqrt().clamp(min=1 / size)
    scale = scale / scale.square().mean().sqrt()
    spectrum = torch.view_as_complex(coefficients) * scale
    channels = torch.fft.irfft2(spectrum, s=(size, size), norm="ortho")
    colours = torch.einsum("nchw,cd->ndhw", channels, _COLOURS.to(channels.device))
    return torch.sigmoid(colours)


def _cut_out(picture: Tensor, top: int, left: int, side: int) -> Tensor:
    """A square `(1, 3, side, side)` of a picture, of which it may lie outside."""
    height, width = picture.shape[-2:]
    right, bottom = left + side - width, top + side - height
    around = [max(0, beyond) for beyond in (-left, right, -top, bottom)]
    inside = picture[..., max(0, top) : top + side, max(0, left) : left + side]
    return F.pad(inside, around, value=PATCH_EDGE / 255)
