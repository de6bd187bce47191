"""The colours of one picture in another."""

from __future__ import annotations

import torch
from torch import Tensor

from workbench.errors import InputError
from workbench.images import luminance, resize, shape_of


def recolour(
    image: Tensor, source: Tensor, target: Tensor, method: str = "monge-kantorovich"
) -> Tensor:
    """Give a picture the colours that `target` has where `source` has its own.

    A linear map of RGB that carries mean and covariance of the pixels of `source` to those of
    `target` (Gatys et al. 2017, arXiv 1611.07865, section 5.2). All are `(1, 3, H, W)`, of any
    size, sRGB in [0, 1].

    Of these maps, "monge-kantorovich" changes colours least (Pitié and Kokaram 2007, "The linear
    Monge-Kantorovitch linear colour mapping"); "pca" takes the spread out along the axes of the one
    cloud of colours and puts it in along those of the other; "cholesky" goes channel by channel,
    red first.
    """
    (mean, covariance), (new_mean, new_covariance) = map(_colour_statistics, (source, target))
    change = _COLOUR_MAPS[method](covariance, new_covariance)
    pixels = image.flatten(2)[0]
    return (change @ (pixels - mean) + new_mean).reshape(image.shape).clamp(0, 1)


def _monge_kantorovich(covariance: Tensor, new: Tensor) -> Tensor:
    root, inverse_root = _matrix_power(covariance, 0.5), _matrix_power(covariance, -0.5)
    return inverse_root @ _matrix_power(root @ new @ root, 0.5) @ inverse_root


def _pca(covariance: Tensor, new: Tensor) -> Tensor:
    return _matrix_power(new, 0.5) @ _matrix_power(covariance, -0.5)


def _cholesky(covariance: Tensor, new: Tensor) -> Tensor:
    change: Tensor = torch.linalg.cholesky(new) @ torch.linalg.cholesky(covariance).inverse()
    return change


_COLOUR_MAPS = {"cholesky": _cholesky, "pca": _pca, "monge-kantorovich": _monge_kantorovich}


ORIGINAL_COLORS = ("off", "luma", *_COLOUR_MAPS)


def check_original_colors(original_colors: str) -> None:
    """Raise `InputError` unless it is one of `ORIGINAL_COLORS`."""
    if original_colors not in ORIGINAL_COLORS:
        raise InputError(
            f"original_colors = {original_colors!r}: use one of {', '.join(ORIGINAL_COLORS)}."
        )


def match_colors(style: Tensor, content: Tensor, original_colors: str) -> Tensor:
    """Recolour a style picture before the painting, so that the photograph's colours stay.

    Gatys et al. 2017 (arXiv 1611.07865), section 5.2. "off" and "luma" leave it as it is. Both
    pictures are `(1, 3, H, W)`, sRGB in [0, 1].
    """
    check_original_colors(original_colors)
    if original_colors not in _COLOUR_MAPS:
        return style
    return recolour(style, style, content, original_colors)


def match_spread(image: Tensor, target: Tensor, places: Tensor) -> Tensor:
    """Give a picture the brightness and the contrast that another has in some places.

    A linear map of each channel, that carries mean and standard deviation over. Both are
    `(1, 3, H, W)`, sRGB in [0, 1], and `places` is `(1, 1, H, W)`: how much each counts.
    """

    def statistics(picture: Tensor) -> tuple[Tensor, Tensor]:
        mean = (picture * places).mean(dim=(2, 3), keepdim=True) / places.mean()
        square = ((picture - mean).square() * places).mean(dim=(2, 3), keepdim=True)
        return mean, (square / places.mean()).sqrt().clamp(min=1e-3)

    (mean, spread), (new_mean, new_spread) = map(statistics, (image, target))
    return ((image - mean) * (new_spread / spread) + new_mean).clamp(0, 1)


def transfer_luma(painted: Tensor, content: Tensor) -> Tensor:
    """The brightness of a painting in the colours of its photograph.

    Y of the one and U and V of the other, as -original_colors of neural_style.lua; Gatys et al.
    2017 (arXiv 1611.07865), section 5.1. As YUV is linear, that is to add the difference of Y to
    all three channels of the photograph. Both are `(1, 3, H, W)`, sRGB in [0, 1]; `content` is
    brought to the size of `painted`, and what is returned is clipped.
    """
    content = resize(content.to(painted), shape_of(painted))
    return (content + luminance(painted) - luminance(content)).clamp(0, 1)


def _colour_statistics(image: Tensor) -> tuple[Tensor, Tensor]:
    """Mean `(3, 1)` and covariance `(3, 3)`, of which no colour is quite without spread."""
    pixels = image.flatten(2)[0]
    mean = pixels.mean(dim=1, keepdim=True)
    spread = (pixels - mean) @ (pixels - mean).T / pixels.shape[1]
    return mean, spread + 1e-4 * torch.eye(3, device=image.device)


def _matrix_power(matrix: Tensor, exponent: float) -> Tensor:
    """A power of a symmetric matrix without negative eigenvalues."""
    values, vectors = torch.linalg.eigh(matrix)
    power: Tensor = vectors @ torch.diag(values.clamp(min=1e-8) ** exponent) @ vectors.T
    return power
