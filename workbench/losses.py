"""Activations -> content, style, total-variation and temporal losses, in neural_style.lua's units.

Every loss is computed and returned in float32, whatever the activations are in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from workbench.settings import Settings

# Kind of style loss -> factor with which a style weight takes as much of the photograph as with
# "gram": the content loss of three paintings at 192 px is then that of "gram" within 17%.
SCALES = {"gram+mean": 0.1, "cross-layer": 1.2, "wasserstein": 0.1}


def content_loss(activation: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference of two activations `(1, C, H, W)`.

    Gatys, Ecker and Bethge 2015 (arXiv 1508.06576), equation 1, with a mean where the paper
    has half the sum: that is `nn.MSECriterion` in neural_style.lua.
    """
    return (activation.float() - target.float()).square().mean()


def gram_matrix(activation: Tensor, mask: Tensor | None = None) -> Tensor:
    """Correlations between channels: which features occur together, wherever that is.

    Gatys, Ecker and Bethge 2015 (arXiv 1508.06576), equation 3, divided by the number of elements
    as neural_style.lua does, so that it does not depend on the picture's size: F F^T / (C H W),
    `(C, C)`, float32, where F is the activation `(1, C, H, W)` as `(C, H W)`.

    A mask, `(1, 1, H, W)`, float32 in [0, 1], says how much each place counts. With it, the matrix
    is F diag(mask) F^T / (C sum(mask)), so that the size of the region does not matter either. That
    is the guided Gram matrix of Gatys et al. 2017 (arXiv 1611.07865, equation 3) with the root of
    the mask as guidance, which is the same for 0 and 1 and lets soft masks add up.
    """
    columns, channels = _columns(activation), activation.shape[1]
    if mask is None:
        gram: Tensor = _Gram.apply(columns)
        return gram / activation.numel()
    gram = _Gram.apply(columns * mask.reshape(-1, 1).sqrt().to(columns.dtype))
    return gram / (channels * mask.sum().clamp(min=1e-6))


def _columns(activation: Tensor) -> Tensor:
    """An activation `(1, C, H, W)` as `(H W, C)`; channels_last memory is that as it stands."""
    return activation.permute(0, 2, 3, 1).flatten(0, 2)


def _wide(values: Tensor) -> Tensor:
    """Values in float32, or in float64 if they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


class _Gram(torch.autograd.Function):
    """F^T F of a matrix F `(N, C)`, accumulated in float32.

    A Gram matrix is symmetric, and so is the gradient that the style loss sends back:
    d/dF <S, F^T F> = F (S + S^T) = 2 F S takes one product, where autograd takes two.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, columns: Tensor) -> Tensor:
        ctx.save_for_backward(columns)
        wide = _wide(columns)
        return wide.T @ wide

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> Tensor:
        columns: Tensor = ctx.saved_tensors[0]  # type: ignore[attr-defined]
        symmetric = (grad + grad.T).to(columns.dtype)
        if columns.is_contiguous():
            return columns @ symmetric
        return (symmetric @ columns.T).T  # in the layout of the activation


def style_loss(gram: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference of two Gram matrices `(C, C)`.

    Gatys, Ecker and Bethge 2015 (arXiv 1508.06576), equation 4. Theirs is the sum over
    (2 C H W)^2; neural_style.lua, and with it this, takes the mean over C^2 of matrices
    that are already divided by C H W.
    """
    return (gram - target).square().mean()


def cross_gram_matrix(shallower: Tensor, activation: Tensor, mask: Tensor | None = None) -> Tensor:
    """Correlations between the channels of two layers: which features lie within which.

    Yeh and Tang 2018 (arXiv 1801.01933), section 4; Yeh, Tang, Bhattad, Zou and Forsyth 2019
    (arXiv 1910.09447). They bring the deeper layer to the shallower one's grid. Where each of its
    values is repeated for all places above it, that comes to the same as to bring the shallower
    one, E, to the deeper one's by the mean of these places, which is done here: a fraction of the
    work. E F^T / (sqrt(B C) H W), so that of a layer with itself it is `gram_matrix`.

    E is `(1, B, h, w)`; the deeper activation F `(1, C, H, W)`, with h // 2^k rows and w // 2^k
    columns; the mask `(1, 1, H, W)`; the result `(B, C)`, float32.
    """
    cell = 1 << (shallower.shape[-1] // activation.shape[-1]).bit_length() - 1
    left, right = _columns(F.avg_pool2d(shallower, cell)), _columns(activation)
    counts = torch.ones_like(right[:, :1]) if mask is None else mask.reshape(-1, 1)
    matrix = _wide(left).T @ (_wide(right) * counts)
    scale = math.sqrt(left.shape[1] * right.shape[1])
    return matrix / (scale * _wide(counts).sum().clamp(min=1e-6))


def style_statistic(activations: Sequence[Tensor], kind: str, mask: Tensor | None = None) -> Tensor:
    """What a style is known by at a layer, as `settings.style_loss` says, float32.

    Every statistic is a mean over places: those of a picture's parts, or of several styles, blend.

    Parameters
    ----------
    activations
        That of the layer, `(1, C, H, W)`; before it, for "cross-layer", that of a shallower one.
    kind
        "gram": `gram_matrix`, `(C, C)`. "cross-layer": `cross_gram_matrix`, `(B, C)`. "gram+mean"
        and "wasserstein": `gram_matrix`, and the mean of each channel as one more column,
        `(C, C + 1)`.
    mask
        How much each place counts, `(1, 1, H, W)`, float32 in [0, 1], as in `gram_matrix`.
    """
    if kind == "cross-layer":
        shallower, activation = activations
        return cross_gram_matrix(shallower, activation, mask)
    gram = gram_matrix(activations[-1], mask)
    if kind == "gram":
        return gram
    columns = _columns(activations[-1])
    if mask is None:
        means = columns.mean(dim=0, dtype=gram.dtype)
    else:
        counts = mask.reshape(-1, 1).to(columns.dtype)
        means = (columns * counts).sum(dim=0, dtype=gram.dtype) / counts.sum().clamp(min=1e-6)
    return torch.cat([gram, means[:, None]], dim=1)


def style_distance(statistic: Tensor, target: Tensor, kind: str) -> Tensor:
    """How far apart two statistics of `style_statistic` are, a scalar.

    The papers leave open what a loss weighs beside the photograph. Here, other kinds than "gram"
    are multiplied by `SCALES`, so that a style weight takes about as much of it with each.
    """
    distances = {"gram+mean": moments_loss, "wasserstein": wasserstein_loss}
    return SCALES.get(kind, 1.0) * distances.get(kind, style_loss)(statistic, target)


def moments_loss(statistic: Tensor, target: Tensor) -> Tensor:
    """Gram loss, and beside it how far the channels' means and standard deviations are apart.

    Galerne, Raad, Lezama and Morel 2023 (arXiv 2212.13459): `style_loss` plus 10 times the mean
    squared difference of means, and 10 times that of standard deviations, which are their
    program's weights in the units here. Statistics are `(C, C + 1)`, as of `style_statistic`.
    """
    means = (statistic[:, -1] - target[:, -1]).square().mean()
    spreads = (_spreads(statistic) - _spreads(target)).square().mean()
    return style_loss(statistic[:, :-1], target[:, :-1]) + 10 * (means + spreads)


def _spreads(statistic: Tensor) -> Tensor:
    """Standard deviation of each channel; 0.001 or more, as the root has no gradient at 0."""
    squares = len(statistic) * statistic.diagonal()
    return (squares - statistic[:, -1].square()).clamp(min=1e-6).sqrt()


def wasserstein_loss(statistic: Tensor, target: Tensor) -> Tensor:
    """Squared 2-Wasserstein distance of Gaussians with these means and covariances, over C.

    |m - n|^2 + tr(S + T - 2 (T^(1/2) S T^(1/2))^(1/2)): Dowson and Landau 1982
    (doi 10.1016/0047-259X(82)90077-X); for style, as in style-transfer-pytorch. Of the matrix
    under the last root, only eigenvalues are needed, and those of L^T S L are the same, where
    T = L L^T is Cholesky's. A thousandth of the target's mean square is added to every variance
    of both, as differences in channels that hardly stir are rounding. In float64 and on the CPU:
    the matrix has the square of a covariance's condition. Statistics are `(C, C + 1)`.
    """
    wide = [each.to("cpu", torch.float64) for each in (statistic, target)]
    floor = 1e-3 * wide[1].diagonal().sum() + 1e-6
    own, theirs = (
        len(each) * each[:, :-1] - each[:, -1:] * each[:, -1:].T + floor * torch.eye(len(each))
        for each in wide
    )
    root = torch.linalg.cholesky(theirs)
    values = torch.linalg.eigvalsh(root.T @ own @ root).clamp(min=floor**2)
    means = (wide[0][:, -1] - wide[1][:, -1]).square().sum()
    distance = means + own.trace() + theirs.trace() - 2 * values.sqrt().sum()
    scaled: Tensor = distance / len(own)
    return scaled.to(statistic)


def tv_loss(picture: Tensor, kind: str = "squared") -> Tensor:
    """Total variation of a picture `(1, 3, H, W)`, float32: how much neighbouring pixels differ.

    Pixels are sRGB in 0..white (255, or 256 in neural_style.lua). The kinds are:

    "squared": half the sum of squared differences to the pixel below and to the right, where the
    last row and the last column start none. Of this, exactly, neural_style.lua adds the gradient
    (it leaves the value out of the loss that it prints).
    "absolute": the sum of all absolute differences, as in neural-style-pt.
    "mean-squared": the mean of squared differences downwards and that to the right, each over its
    own number, as in anishathalye's neural_style.py.
    """
    down = picture[..., 1:, :] - picture[..., :-1, :]
    right = picture[..., 1:] - picture[..., :-1]
    if kind == "absolute":
        return down.abs().sum() + right.abs().sum()
    if kind == "mean-squared":
        return down.square().mean() + right.square().mean()
    return 0.5 * (down[..., :-1].square().sum() + right[..., :-1, :].square().sum())


@dataclass(frozen=True, eq=False)
class TemporalTarget:
    """An earlier frame of a film, brought to where things are now.

    A larger weight holds the film stiller, at the cost of brushwork that follows the scene.
    """

    picture: Tensor  # (1, 3, H, W), float32, sRGB in [0, 1]; the painted frame, warped
    visible: Tensor  # (1, 1, H, W) in [0, 1]; 0 where that frame says nothing about this one
    weight: float  # of the temporal loss, at least 0


def temporal_loss(picture: Tensor, target: Tensor, visible: Tensor) -> Tensor:
    """Mean squared difference to an earlier frame, where that can be seen.

    Ruder, Dosovitskiy and Brox 2016 (arXiv 1604.08610), section 4.2: the sum of
    `visible * (picture - target)^2` over the number of elements, hidden ones among them. (Their
    program's gradient counts the root of `visible`, which is the same for 0 and 1.) Pictures are
    `(1, 3, H, W)`, sRGB in 0..white, and `visible` is `(1, 1, H, W)` in [0, 1], all float32.
    """
    return (visible * (picture - target).square()).mean()


@dataclass(frozen=True, eq=False)
class Region:
    """A part of a picture that has a style of its own."""

    masks: Mapping[str, Tensor]  # layer -> where it lies, (1, 1, H, W) like the activation
    style: Mapping[str, Tensor]  # layer -> statistic of its style
    weight: float = 1.0  # of its style loss beside those of the other regions


def region_loss(
    statistics: Sequence[Tensor], layer: str, regions: Sequence[Region], kind: str = "gram"
) -> Tensor:
    """Style loss of a picture whose regions have different styles; `kind` as in `style_statistic`.

    `statistics` are those of the picture at the layer, one for each region, with its mask. The
    sum over regions of their `style_distance`, each weighted by the share of the picture that the
    region has: two halves of the same style come to what the whole would. (Gatys et al. 2017,
    arXiv 1611.07865, section 4.1, leave that weight open.)
    """
    terms = []
    for region, statistic in zip(regions, statistics, strict=True):
        loss = style_distance(statistic, region.style[layer], kind)
        terms.append(region.weight * region.masks[layer].mean() * loss)
    return torch.stack(terms).sum()


@dataclass(frozen=True)
class Targets:
    """What a picture is drawn towards."""

    content: Mapping[str, Tensor]  # layer -> activation of the content picture, (1, C, H, W)
    style: Mapping[str, Tensor]  # layer -> statistic of one style or a blend
    regions: Sequence[Region] = ()  # parts with styles of their own, in the place of `style`
    temporal: Sequence[TemporalTarget] = ()  # earlier frames, as large as the picture


@dataclass(frozen=True)
class Losses:
    """Weighted losses of one picture; all of them add up to `total`, which is minimised."""

    total: float
    content: Mapping[str, float]  # by layer
    style: Mapping[str, float]  # by layer
    tv: float  # total variation
    temporal: float = 0.0  # distance to the earlier frames of a film; 0 for a still

    @property
    def content_total(self) -> float:
        """Sum over the content layers."""
        return sum(self.content.values())

    @property
    def style_total(self) -> float:
        """Sum over the style layers."""
        return sum(self.style.values())

    def __str__(self) -> str:
        return (
            f"loss {self.total:.4g} = content {self.content_total:.4g}"
            f" + style {self.style_total:.4g} + tv {self.tv:.4g}"
        )

    def figures(self) -> dict[str, float]:
        """What `result.json` has of a still's losses."""
        return {
            "loss": self.total,
            "content_loss": self.content_total,
            "style_loss": self.style_total,
            "tv_loss": self.tv,
        }

    def by_kind(self) -> dict[str, float]:
        """The losses without their layers: "total", "content", "style", "tv", "temporal"."""
        return {
            "total": self.total,
            "content": self.content_total,
            "style": self.style_total,
            "tv": self.tv,
            "temporal": self.temporal,
        }


def blend(statistics: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Mix the statistics of several styles; of the weights, only proportions matter.

    As -style_blend_weights in neural_style.lua.
    """
    total = sum(weights)
    mixed = torch.zeros_like(statistics[0])
    for statistic, weight in zip(statistics, weights, strict=True):
        mixed += (weight / total) * statistic
    return mixed


def normalize_gradient(activation: Tensor, weight: float) -> Tensor:
    """The activation itself; what flows back through it gets the length `weight`.

    As -normalize_gradients in neural_style.lua: the gradient g of one layer's loss becomes
    `weight * g / (|g| + 1e-8)`, where |g| is the sum of its absolute values.
    """
    normalized: Tensor = _NormalizeGradient.apply(activation, weight)
    return normalized


class _NormalizeGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, activation: Tensor, weight: float) -> Tensor:
        ctx.weight = weight  # type: ignore[attr-defined]
        return activation.view_as(activation)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        weight: float = ctx.weight  # type: ignore[attr-defined]
        if weight == 0:
            return grad, None
        length = grad.float().abs().sum()  # of the weighted gradient
        return grad * (weight / (length + weight * 1e-8)).to(grad.dtype), None


def weighted_losses(
    picture: Tensor, activations: Mapping[str, Tensor], targets: Targets, settings: Settings
) -> tuple[Tensor, dict[str, Tensor]]:
    """All losses of a picture: their weighted sum, and its terms.

    The picture is `(1, 3, H, W)`, float32, sRGB in 0..`settings.white`; `activations` are its own,
    at every layer that `targets` names. The sum is a scalar, float32, and differentiable. Terms are
    "content relu4_2", "style relu1_1", ..., "tv", and "temporal" if there are earlier frames.
    """
    return weigh(picture, means_over_places(activations, targets, settings), targets, settings)


def means_over_places(
    activations: Mapping[str, Tensor], targets: Targets, settings: Settings
) -> dict[tuple[str, str, int], Tensor]:
    """All that the losses need of activations: content losses and style statistics.

    By what it is, its layer and the number of its region. Each is a mean over places, so that the
    mean over the parts of a picture is that of the whole.
    """

    def activation(layer: str, weight: float) -> Tensor:
        if settings.normalize_gradients:
            return normalize_gradient(activations[layer], weight)
        return activations[layer]

    means = {}
    for layer, weight in settings.content_weight_of().items():
        loss = content_loss(activation(layer, weight), targets.content[layer])
        means["content", layer, 0] = loss
    weights = settings.style_weight_of()
    for layer, looked_at in settings.compared_layers().items():
        own = [activation(each, weights[layer]) for each in looked_at]
        masks = [region.masks[layer] for region in targets.regions]
        for number, mask in enumerate(masks or [None]):
            means["style", layer, number] = style_statistic(own, settings.style_loss, mask)
    return means


def weigh(
    picture: Tensor,
    means: Mapping[tuple[str, str, int], Tensor],
    targets: Targets,
    settings: Settings,
) -> tuple[Tensor, dict[str, Tensor]]:
    """What `weighted_losses` gives, of the means that `means_over_places` gives."""
    terms = {}
    for layer, weight in settings.content_weight_of().items():
        terms[f"content {layer}"] = weight * means["content", layer, 0]
    kind, weights = settings.style_loss, settings.style_weight_of()
    for layer in settings.compared_layers():
        own = [
            mean for (what, where, _), mean in means.items() if (what, where) == ("style", layer)
        ]
        if targets.regions:
            loss = region_loss(own, layer, targets.regions, kind)
        else:
            loss = style_distance(own[0], targets.style[layer], kind)
        terms[f"style {layer}"] = weights[layer] * loss
    terms |= of_pixels(picture, targets, settings)
    return torch.stack(list(terms.values())).sum(), terms


def of_pixels(picture: Tensor, targets: Targets, settings: Settings) -> dict[str, Tensor]:
    """Those terms of `weighted_losses` for which no network is asked: "tv" and "temporal"."""
    terms = {"tv": settings.tv_weight * tv_loss(picture, settings.tv_kind)}
    if targets.temporal:
        distances = [
            target.weight * temporal_loss(picture, target.picture * settings.white, target.visible)
            for target in targets.temporal
        ]
        terms["temporal"] = torch.stack(distances).sum()
    return terms


def to_losses(terms: Mapping[str, Tensor]) -> Losses:
    """The terms of `weighted_losses` as numbers (one transfer from the device)."""
    values = dict(zip(terms, torch.stack(list(terms.values())).tolist(), strict=True))
    return Losses(
        total=sum(values.values()),
        content={k.split()[1]: v for k, v in values.items() if k.startswith("content ")},
        style={k.split()[1]: v for k, v in values.items() if k.startswith("style ")},
        tv=values["tv"],
        temporal=values.get("temporal", 0.0),
    )
