"""Sample pictures for those who have none at hand: a photograph and three painted styles.

The styles are painted by code: "swirls" in thick oil strokes, "hatching" with pen and ink,
"mosaic" in laid stones; `workbench.paintings` holds the painters.
"""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from workbench.errors import InputError
from workbench.images import Box, crop_image, from_array, load_image, resize
from workbench.paintings import hatching, mosaic, swirls

if TYPE_CHECKING:
    import torch

PAINTERS = {"swirls": swirls.paint, "hatching": hatching.paint, "mosaic": mosaic.paint}
PHOTOGRAPH = "astronaut"
STYLES = tuple(PAINTERS)
PREFIX = "sample:"


def photograph() -> torch.Tensor:
    """Give the sample photograph: the astronaut Eileen Collins (NASA, public domain).

    Returns
    -------
    torch.Tensor
        Shape (1, 3, 512, 512), float32 sRGB in [0, 1].
    """
    from skimage import data

    pixels: npt.NDArray[np.uint8] = data.astronaut()
    return from_array(pixels)


def style(name: str) -> torch.Tensor:
    """Paint one of the sample style pictures; the same name always gives the same picture.

    Parameters
    ----------
    name : str
        One of `STYLES`.

    Returns
    -------
    torch.Tensor
        Shape (1, 3, 608, 768), float32 sRGB in [0, 1].

    Raises
    ------
    InputError
        If there is no style of that name.
    """
    if name not in STYLES:
        raise InputError(f"no sample style {name!r}; there are: {', '.join(STYLES)}")
    return from_array(_painting(name))


def load_picture(
    name: str | os.PathLike[str],
    size: int | None = None,
    *,
    crop: Box | None = None,
) -> torch.Tensor:
    """Load a picture from a file, or a sample picture by its name.

    Parameters
    ----------
    name : str or os.PathLike
        "sample:astronaut", "sample:swirls", "sample:hatching", "sample:mosaic" or a file path.
    size : int, optional
        Longest side in pixels; by default the picture keeps its own.
    crop : tuple of float, optional
        Box to cut out before resizing, as `workbench.images.crop_image` takes it.

    Returns
    -------
    torch.Tensor
        Shape (1, 3, H, W), float32 sRGB in [0, 1].

    Raises
    ------
    InputError
        If there is no sample of that name, or the file cannot be read.
    """
    if not (isinstance(name, str) and name.startswith(PREFIX)):
        return load_image(name, size, crop=crop)
    sample = name.removeprefix(PREFIX)
    if sample != PHOTOGRAPH and sample not in STYLES:
        known = ", ".join(PREFIX + each for each in (PHOTOGRAPH, *STYLES))
        raise InputError(f"no sample picture {name!r}; there are: {known}")
    image = photograph() if sample == PHOTOGRAPH else style(sample)
    if crop is not None:
        image = crop_image(image, crop)
    return image if size is None else resize(image, size)


@cache
def _painting(name: str) -> npt.NDArray[np.uint8]:
    return PAINTERS[name]()
