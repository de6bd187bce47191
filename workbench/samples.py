"""Samples for those who have none at hand: photographs, three painted styles and a clip.

The styles are "swirls" in thick oil strokes, "hatching" with pen and ink, "mosaic" in laid
stones. In the clip a cup of coffee flies over the astronaut and, after a cut, over a cat.
`experiments/samples` holds the programs that painted and filmed them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from workbench import images
from workbench.errors import InputError
from workbench.files import expanded, pictures_in
from workbench.images import Box, crop_image, from_array, load_image, resize

if TYPE_CHECKING:
    import torch

PHOTOGRAPH = "astronaut"
PHOTOGRAPHS = (PHOTOGRAPH, "camera", "chelsea", "coffee", "rocket")
ALL_PHOTOGRAPHS = "photographs"
STYLES = ("swirls", "hatching", "mosaic")
PREFIX = "sample:"
CLIP = "clip"
_DATA = Path(__file__).parent / "data"


def photograph(name: str = PHOTOGRAPH) -> torch.Tensor:
    """Give one of `PHOTOGRAPHS`, `(1, 3, H, W)`, float32, sRGB in [0, 1].

    They come with scikit-image and are free to use; the first shows the astronaut Eileen Collins
    (NASA, public domain), 512 pixels square.
    """
    from skimage import data

    pixels: npt.NDArray[np.uint8] = getattr(data, name)()
    return from_array(pixels if pixels.ndim == 3 else np.stack([pixels] * 3, axis=2))


def style(name: str) -> torch.Tensor:
    """Give one of `STYLES`, `(1, 3, 608, 768)`, float32, sRGB in [0, 1]."""
    if name not in STYLES:
        raise InputError(f"no sample style {name!r}; there are: {', '.join(STYLES)}")
    return load_image(_DATA / f"{name}.webp")


def find_pictures(
    names: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
) -> list[str]:
    """Names of pictures, with those in a folder, in natural order, in the folder's place.

    `names` are of files, of folders, of samples; "sample:photographs" stands for all sample
    photographs. What a folder holds beside pictures is printed; one that holds none is refused.
    """
    found: list[str] = []
    for name in [names] if isinstance(names, (str, os.PathLike)) else names:
        if name == PREFIX + ALL_PHOTOGRAPHS:
            found += [PREFIX + photograph for photograph in PHOTOGRAPHS]
        elif str(name).startswith(PREFIX) or not expanded(name).is_dir():
            found.append(os.fspath(name))
        elif pictures := pictures_in(expanded(name), say=print):
            found += map(str, pictures)
        else:
            raise InputError(f"{name} is a folder without pictures; name one that has some.")
    return found


def load_picture(
    name: str | os.PathLike[str],
    size: int | None = None,
    *,
    for_size: float | None = None,
    crop: Box | None = None,
) -> torch.Tensor:
    """Load a picture `(1, 3, H, W)`, float32, sRGB in [0, 1], from a file or the samples.

    Samples have names such as "sample:swirls" or "sample:astronaut". For `size`, `for_size` and
    `crop` see `images.load_image`.
    """
    if not (isinstance(name, str) and name.startswith(PREFIX)):
        return load_image(name, size, for_size=for_size, crop=crop)
    sample = name.removeprefix(PREFIX)
    if sample not in (*PHOTOGRAPHS, *STYLES):
        known = ", ".join(PREFIX + each for each in (*PHOTOGRAPHS, *STYLES))
        raise InputError(f"no sample picture {name!r}; there are: {known}")
    image = photograph(sample) if sample in PHOTOGRAPHS else style(sample)
    if crop is not None:
        image = crop_image(image, crop)
    return image if size is None else resize(image, size)


def load_with_alpha(
    name: str | os.PathLike[str], *, for_size: float | None = None, crop: Box | None = None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Load a picture, and how opaque it is, as `images.load_with_alpha` does."""
    if str(name).startswith(PREFIX):
        return load_picture(name, crop=crop), None
    return images.load_with_alpha(name, for_size=for_size, crop=crop)


def find_clip(name: str | os.PathLike[str]) -> Path:
    """Path of a clip: of the file itself, or of "sample:clip"; nothing is read."""
    if not (isinstance(name, str) and name.startswith(PREFIX)):
        return expanded(name)
    if name != PREFIX + CLIP:
        raise InputError(f"no sample clip {name!r}; there is: {PREFIX + CLIP}")
    return _DATA / "sample_clip.mp4"
