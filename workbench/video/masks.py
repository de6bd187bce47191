"""Masks of a film: where in each of its frames a style belongs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import repeat
from pathlib import Path

from torch import Tensor

from workbench.errors import InputError
from workbench.images import from_array, load_mask, luminance
from workbench.video.clips import STILLS, Clip, is_series, open_clip, read_frames

Mask = Tensor | Clip
"""`(1, 1, H, W)` in [0, 1], for all frames; or a clip, with a mask for each."""


def open_masks(names: Sequence[str | os.PathLike[str]], clip: Clip) -> list[Mask]:
    """Look at the masks of a clip: pictures, which hold for all of it, clips and folders.

    Parameters
    ----------
    names
        A file or folder for each style, white where that style belongs (`images.load_mask`). A
        clip, or a folder of numbered pictures, goes along with the clip's file from its beginning
        on, frame by frame: what `start`, `end` and `stride` leave out there is left out here.

    Raises
    ------
    InputError
        If a mask cannot be read, is shorter than the clip or has another frame rate.
    """
    return [_open(Path(name), clip) for name in names]


def _open(path: Path, clip: Clip) -> Mask:
    if path.suffix.lower() in STILLS and not is_series(path):
        return load_mask(path)
    rate = clip.rate
    whole = open_clip(path, fps=rate if is_series(path) else None)
    if whole.fps != rate:
        raise InputError(
            f"{path} has {float(whole.fps):.5g} masks a second and {clip.path} has"
            f" {float(rate):.5g} frames; give a mask for each frame."
        )
    needed = int(clip.start * rate) + (clip.frames - 1) * clip.stride + 1
    if whole.frames < needed:
        raise InputError(
            f"{path} is shorter than {clip.path}: it has {whole.frames} masks, and the"
            f" {needed} frames up to the end of the film need one each."
        )
    return replace(clip, path=path, sound=False, origin=whole.origin)


def read_masks(masks: Sequence[Mask], first: int = 0) -> Iterator[tuple[Tensor, ...]]:
    """Read the masks of one frame after the other, `(1, 1, H, W)` in [0, 1], for each style.

    Without masks, every frame has none. One that breaks off before the frames do is refused.
    """
    if not masks:
        return repeat(())
    return zip(*(_frames(mask, first) for mask in masks), strict=False)


def _frames(mask: Mask, first: int) -> Iterator[Tensor]:
    if isinstance(mask, Tensor):
        yield from repeat(mask)
        return
    number = first
    for frame in read_frames(mask, first, masks=True):
        yield luminance(from_array(frame))
        number += 1
    raise InputError(
        f"{mask.path} breaks off: {number} of {mask.frames} masks could be read; get it again."
    )
