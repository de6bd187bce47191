"""Masks of a film: where in each of its frames a style belongs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, repeat
from pathlib import Path

from torch import Tensor

from workbench.errors import InputError
from workbench.images import Frame, from_array, load_mask, luminance, resize
from workbench.video.clips import STILLS, Clip, is_series, open_clip, read_frames
from workbench.video.cuts import is_cut
from workbench.video.flow import find_motion, with_likenesses

_CONTRAST = 1.2  # of a mask that is carried along, from frame to frame: its edge stays sharp


@dataclass(frozen=True, eq=False)
class Followed:
    """A mask of a clip's first frame, which goes along with what it covers."""

    picture: Tensor  # (1, 1, H, W) in [0, 1]
    clip: Clip


Mask = Tensor | Clip | Followed
"""`(1, 1, H, W)` in [0, 1], for all frames; a clip, with a mask for each; or the first one's."""


def open_masks(
    names: Sequence[str | os.PathLike[str]], clip: Clip, *, follow: bool = False
) -> list[Mask]:
    """Look at the masks of a clip: pictures, which hold for all of it, clips and folders.

    Parameters
    ----------
    names
        A file or folder for each style, white where that style belongs (`images.load_mask`). A
        clip, or a folder of numbered pictures, goes along with the clip's file from its beginning
        on, frame by frame: what `start`, `end` and `stride` leave out there is left out here.
    follow
        Take pictures for masks of the first frame, and carry them along with what moves there.
        Every cut begins with the picture as it is.

    Raises
    ------
    InputError
        If a mask cannot be read, is shorter than the clip or has another frame rate.
    """
    return [_open(Path(name), clip, follow) for name in names]


def _open(path: Path, clip: Clip, follow: bool) -> Mask:
    if path.suffix.lower() in STILLS and not is_series(path):
        return Followed(load_mask(path), clip) if follow else load_mask(path)
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
    if isinstance(mask, Followed):
        yield from islice(_carried_along(mask), first, None)
        return
    number = first
    for frame in read_frames(mask, first, masks=True):
        yield luminance(from_array(frame))
        number += 1
    raise InputError(
        f"{mask.path} breaks off: {number} of {mask.frames} masks could be read; get it again."
    )


def _carried_along(mask: Followed) -> Iterator[Tensor]:
    """The masks of all frames; what comes into view belongs where what looks like it does."""
    drawn = carried = resize(mask.picture, mask.clip.shape)
    before: Frame | None = None
    for frame in read_frames(mask.clip):
        if before is not None and is_cut(before, frame):
            carried = drawn
        elif before is not None:
            now, then = from_array(frame), from_array(before)
            motion = with_likenesses(find_motion(now, then), now, then)
            moved = motion.warp(carried, mode="bilinear")
            carried = (_CONTRAST * (moved - 0.5) + 0.5).clamp(0, 1)
        yield carried
        before = frame
