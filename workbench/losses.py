"""Activations -> content, style, total-variation and temporal losses, in neural_style.lua's units.

Every loss is computed and returned in float32, whatever the activations are in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from workbench.settings import Settings


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
    # channels_last memory is the (H W, C) matrix as it stands: no copy is made.
    _, channels, height, width = activation.shape
    columns = activation.permute(0, 2, 3, 1).reshape(height * width, channels)
    if mask is None:
        gram: Tensor = _Gram.apply(columns)
        return gram / activation.numel()
    gram = _Gram.apply(columns * mask.reshape(-1, 1).sqrt().to(columns.dtype))
    return gram / (channels * mask.sum().clamp(min=1e-6))


class _Gram(torch.autograd.Function):
    """F^T F of a matrix F `(N, C)`, accumulated in float32.

    A Gram matrix is symmetric, and so is the gradient that the style loss sends back:
    d/dF <S, F^T F> = F (S + S^T) = 2 F S takes one product, where autograd takes two.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, columns: Tensor) -> Tensor:
        ctx.save_for_backward(columns)
        wide = columns.float()
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
    grams: Mapping[str, Tensor]  # layer -> Gram matrix of its style, (C, C)
    weight: float = 1.0  # of its style loss beside those of the other regions


def region_loss(activation: Tensor, layer: str, regions: Sequence[Region]) -> Tensor:
    """Style loss of a picture whose regions have different styles.

    The sum over regions of `style_loss` of the region's Gram matrix, each weighted by the
    share of the picture that the region has: two halves of the same style come to what the
    whole would. (Gatys et al. 2017, arXiv 1611.07865, section 4.1, leave that weight open.)
    """
    terms = []
    for region in regions:
        mask = region.masks[layer]
        loss = style_loss(gram_matrix(activation, mask), region.grams[layer])
        terms.append(region.weight * mask.mean() * loss)
    return torch.stack(terms).sum()


@dataclass(frozen=True)
class Targets:
    """What a picture is drawn towards."""

    content: Mapping[str, Tensor]  # layer -> activation of the content picture, (1, C, H, W)
    style: Mapping[str, Tensor]  # layer -> Gram matrix of one style or a blend, (C, C)
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


def blend(grams: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Mix Gram matrices `(C, C)` of several styles; of the weights, only proportions matter.

    As -style_blend_weights in neural_style.lua.
    """
    total = sum(weights)
    mixed = torch.zeros_like(grams[0])
    for gram, weight in zip(grams, weights, strict=True):
        mixed += (weight / total) * gram
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

    def activation(layer: str, weight: float) -> Tensor:
        if settings.normalize_gradients:
            return normalize_gradient(activations[layer], weight)
        return activations[layer]

    terms = {}
    for layer, weight in settings.content_weight_of().items():
        loss = content_loss(activation(layer, weight), targets.content[layer])
        terms[f"content {layer}"] = weight * loss
    for layer, weight in settings.style_weight_of().items():
        if targets.regions:
            loss = region_loss(activation(layer, weight), layer, targets.regions)
        else:
            loss = style_loss(gram_matrix(activation(layer, weight)), targets.style[layer])
        terms[f"style {layer}"] = weight * loss
    terms["tv"] = settings.tv_weight * tv_loss(picture, settings.tv_kind)
    if targets.temporal:
        distances = [
            target.weight * temporal_loss(picture, target.picture * settings.white, target.visible)
            for target in targets.temporal
        ]
        terms["temporal"] = torch.stack(distances).sum()
    return torch.stack(list(terms.values())).sum(), terms


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
