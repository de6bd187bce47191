"""Frames that somebody painted, by hand or with `stylize`, for a network to learn from.

Texler et al. 2020 ("Interactive video stylization using few-shot patch-based training", ACM
Transactions on Graphics 39): a network that has to reproduce patches of a painted frame carries the
painter's choices over to all others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from workbench import samples
from workbench.errors import InputError
from workbench.features import Network
from workbench.images import from_array, load_image, resize, resize_down
from workbench.losses import content_loss
from workbench.settings import Settings
from workbench.video.clips import Clip, open_clip, read_frames

LAYERS = ("relu1_1", "relu2_1", "relu3_1")  # where what is painted is to look like the painting
_ALIKE = 0.06  # mean difference of a picture from the frame of which it is a copy, at most


@dataclass(frozen=True, eq=False)
class KeyFrame:
    """A frame and what somebody made of it, both `(1, 3, H, W)`, sRGB in [0, 1]."""

    source: Tensor
    painted: Tensor


def read_keyframes(painted: Mapping[str, str], on: Sequence[str], size: int) -> list[KeyFrame]:
    """Read painted frames of a clip, and the frames themselves.

    Parameters
    ----------
    painted
        Name of a frame -> picture file. The number in the name says which frame it is, counted from
        0, such as 000120.png; if there is a file of that name, it is compared with the clip, so
        that numbers of other programs, which count from 1, will do.
    on
        The clip, alone.
    size
        Longest side in pixels that larger frames are shrunk to.

    Raises
    ------
    InputError
        If a name is not that of a frame of the clip, or a picture has another size than its frame.
    """
    if not painted:
        return []
    if len(on) != 1 or on[0] == samples.PREFIX + samples.ALL_PHOTOGRAPHS:
        raise InputError("keyframes: name the clip that they are of as all there is to learn on.")
    clip, pairs = open_clip(samples.find_clip(on[0])), []
    for name, file in painted.items():
        frame, picture = _read_frame(name, clip), load_image(file)
        (height, width), sides = clip.shape, picture.shape[-2:]
        if not (0 <= sides[0] - height <= 1 and 0 <= sides[1] - width <= 1):
            raise InputError(
                f"keyframe {file} has {sides[1]}x{sides[0]} pixels, and frames of {clip.path}"
                f" {width}x{height}; paint a frame in its own size."
            )
        both = (resize_down(each, size) for each in (frame, picture[..., :height, :width]))
        pairs.append(KeyFrame(*both))
    return pairs


def _read_frame(name: str, clip: Clip) -> Tensor:
    """The frame of a clip with the number that a name ends with."""
    found = re.findall("[0-9]+", Path(name).stem)
    if not found:
        raise InputError(f"keyframe {name}: no number in the name says which frame it is.")
    number = int(found[-1])
    is_copy = Path(name).is_file()
    first = max(0, number - 1) if is_copy else number
    frames = (
        [from_array(each) for each in islice(read_frames(clip, first), number + 1 - first)]
        if first < clip.frames
        else []
    )
    if is_copy:
        copy = resize(load_image(name), clip.shape)
        frames = [each for each in frames if (each - copy).abs().mean() <= _ALIKE]
        frames.sort(key=lambda each: float((each - copy).abs().mean()))
    if not frames:
        raise InputError(
            f"keyframe {name} is no frame of {clip.path}, which has frames 0 to {clip.frames - 1}."
        )
    return frames[0]


def draw_keyframe(keyframes: Sequence[KeyFrame], crop: int, seed: Sequence[int]) -> KeyFrame:
    """Draw a keyframe, and the same square of `crop` pixels of both pictures."""
    random = np.random.default_rng(seed)
    pair = keyframes[int(random.integers(len(keyframes)))]
    both = torch.cat([pair.source, pair.painted])
    top, left = (int(random.integers(max(0, side - crop) + 1)) for side in both.shape[-2:])
    return KeyFrame(*both[..., top : top + crop, left : left + crop].split(1))


def keyframe_loss(network: Network, made: Tensor, wanted: Tensor, settings: Settings) -> Tensor:
    """How far a picture is from the painted one: of pixels in 0..`white`, and of activations.

    The mean of the mean squared differences, each for a picture `(1, 3, H, W)`.
    """
    made, wanted = made * settings.white, wanted * settings.white
    seen = network(made, LAYERS)
    with torch.no_grad():
        target = network(wanted, LAYERS)
    losses = [content_loss(made, wanted)]
    losses += [content_loss(seen[layer], target[layer]) for layer in LAYERS]
    return torch.stack(losses).mean()
