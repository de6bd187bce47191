"""What a style model is trained on: pictures and the frames of clips, and crops of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from workbench import samples
from workbench.errors import InputError
from workbench.fast.keyframes import KeyFrame
from workbench.files import PICTURE_SUFFIXES, pictures_in
from workbench.images import Frame, fit, from_array, resize, to_array
from workbench.progress import bar
from workbench.video.clips import open_clip, read_frames
from workbench.video.flow import Motion, leads_outside

KEPT = 240  # pictures in memory, and frames of a clip, evenly over its length
MOST_HELD_OUT = 4
_SUFFIXES = tuple(suffix for suffix in PICTURE_SUFFIXES if suffix != ".gif")  # that is a clip here
_ATTEMPTS = 100  # at drawing a picture that can be read
_NOISE = 0.03  # root mean square of the noise on a moved picture, at most
_SHIFT, _BEND = 8.0, 2.0  # pixels that a moved picture moves as a whole, and its parts beside
_BENDS = 4  # places along a side that bend on their own
_TOLD = 5  # pictures that are left out and named, before there are just more


class Pictures:
    """What there is to train on; pictures are read when they are drawn, and kept while it fits.

    Names are of pictures, of folders of them (with all that lies below), of clips, also
    "sample:photographs" and "sample:clip". Of a clip at most `KEPT` frames are taken, evenly over
    its length; they are held in memory. Pictures whose longest side is above `size` pixels are
    shrunk to it; those whose shorter side is below `crop` are enlarged to it, by twice at most.
    What is left out is printed.
    """

    def __init__(self, names: Sequence[str], size: int, crop: int) -> None:
        self.size, self.crop = size, crop
        self.names: list[str] = []  # of pictures and of the frames of clips
        self.skipped: dict[str, str] = {}  # name -> why it cannot be used
        self._kept: dict[int, Frame] = {}
        for name in dict.fromkeys(names):
            if Path(name).is_dir():
                paths = pictures_in(Path(name), _SUFFIXES, below=True, say=print)
                found = [str(path) for path in paths]
                if not found:
                    raise InputError(
                        f"{name} is a folder without pictures; name one that has some."
                    )
            elif name != samples.PREFIX + samples.CLIP and _is_picture(name):
                found = samples.find_pictures(name)
            else:
                self._add_clip(samples.find_clip(name))
                continue
            known = set(self.names)
            self.names += [each for each in found if each not in known]

    def __len__(self) -> int:
        return len(self.names)

    def read(self, number: int) -> Frame | None:
        """Read a picture `(H, W, 3)` in 0..255; None if it cannot be used."""
        name = self.names[number]
        if number in self._kept or name in self.skipped:
            return self._kept.get(number)
        try:
            picture = samples.load_picture(name, for_size=self.size)
            frame = to_array(resize(picture, self._fit(name, picture.shape[-2:])))
        except InputError as error:
            self.skipped[name] = str(error)
            if len(self.skipped) <= _TOLD:
                print(f"Left out: {error}")
            elif len(self.skipped) == _TOLD + 1:
                print("Left out: more pictures; model.json lists them.")
            return None
        if len(self._kept) < KEPT:
            self._kept[number] = frame
        return frame

    def kept(self, number: int) -> Frame:
        """A picture that has been read before."""
        frame = self.read(number)
        assert frame is not None
        return frame

    def _fit(self, name: str, shape: Sequence[int]) -> tuple[int, int]:
        height, width = shape
        if min(height, width) < self.crop / 2:
            raise InputError(
                f"{name} is {width}x{height} pixels; crops of {self.crop} need a shorter side of"
                f" {self.crop // 2} at least: lower crop."
            )
        height, width = fit((height, width), min(self.size, max(height, width)))
        scale = max(1.0, self.crop / min(height, width))
        return round(height * scale), round(width * scale)

    def _add_clip(self, path: Path) -> None:
        """Read frames all over a clip, at most `KEPT`, and keep them in memory."""
        clip = open_clip(path)
        shape = self._fit(str(path), clip.shape)
        clip = open_clip(path, size=max(shape), stride=-(-clip.frames // KEPT))
        frames = bar(read_frames(clip), "reading", "frame", total=clip.frames)
        for number, frame in enumerate(frames):
            if frame.shape[:2] != shape:
                frame = to_array(resize(from_array(frame), shape))
            self._kept[len(self.names)] = frame
            self.names.append(f"{path} frame {number * clip.stride}")

    def held_out(self) -> list[int]:
        """Numbers of the pictures to judge by, evenly over all; never drawn from."""
        count = max(1, min(MOST_HELD_OUT, len(self) // 5))
        found: list[int] = []
        for middle in (np.arange(count) + 0.5) / count * len(self):
            nearest = sorted(range(len(self)), key=lambda n: abs(n - int(middle)))
            usable = (n for n in nearest if n not in found and self.read(n) is not None)
            found += islice(usable, 1)
        left = len(self) - len(self.skipped)
        if left < 2:
            why = f" ({next(iter(self.skipped.values())).rstrip('.')})" if self.skipped else ""
            raise InputError(
                f"{left} of {len(self)} training pictures can be used{why}; training needs at"
                " least 2, as it is judged by one that it has not seen."
            )
        return found


def _is_picture(name: str) -> bool:
    """Whether a name is that of a picture."""
    return name.startswith(samples.PREFIX) or Path(name).suffix.lower() in _SUFFIXES


# --- drawing -----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Batch:
    """What one step of training looks at.

    Where there are motions, the second half of the pictures are the companions of the first: the
    same scenes moved. Each motion is from a companion to its picture.
    """

    pictures: Tensor  # (N, 3, H, W), float32, sRGB in [0, 1]
    motions: Sequence[Motion] = ()
    keyframe: KeyFrame | None = None  # a piece of one


def draw_batch(
    pictures: Pictures,
    allowed: Sequence[int],
    count: int,
    seed: Sequence[int],
    *,
    whole: bool,
    pairs: bool,
) -> Batch:
    """Draw pictures, crop them anywhere, and turn every other one left to right.

    The same seed draws the same batch, whatever was drawn before.

    Parameters
    ----------
    allowed
        Numbers of the pictures to draw `count` from.
    whole
        Whether crops are as large as all of them can be, one alone the whole picture; else they are
        squares of `pictures.crop`.
    pairs
        Whether every picture gets a companion, which is moved by a smooth random flow and gets some
        noise: what changes from one frame of a film to the next. Such motion is known exactly, and
        a picture is enough to learn from, where frames of a film would need a flow to be estimated,
        with its errors (Wang et al. 2020, "Consistent video style transfer via relaxation and
        regularization", IEEE Transactions on Image Processing 29).
    """
    random = np.random.default_rng(seed)
    frames = [_draw_frame(pictures, allowed, random) for _ in range(count)]
    height, width = (min(sides) for sides in zip(*(f.shape[:2] for f in frames), strict=True))
    shape = (height, width) if whole else (pictures.crop, pictures.crop)
    crops = [from_array(_draw_crop(frame, shape, random)) for frame in frames]
    if not pairs:
        return Batch(torch.cat(crops))
    motions = [_draw_motion(shape, random) for _ in crops]
    moved = [
        _with_noise(motion.warp(crop), random) for crop, motion in zip(crops, motions, strict=True)
    ]
    return Batch(torch.cat([*crops, *moved]), motions)


def _draw_frame(pictures: Pictures, allowed: Sequence[int], random: np.random.Generator) -> Frame:
    for _ in range(_ATTEMPTS):
        frame = pictures.read(allowed[int(random.integers(len(allowed)))])
        if frame is not None:
            return frame
    raise InputError(
        f"of the last {_ATTEMPTS} training pictures drawn none can be used, such as"
        f" {next(iter(pictures.skipped.values()))}"
    )


def _draw_crop(frame: Frame, shape: tuple[int, int], random: np.random.Generator) -> Frame:
    (height, width), sides = shape, frame.shape[:2]
    top, left = (int(random.integers(s - c + 1)) for s, c in zip(sides, shape, strict=True))
    crop = frame[top : top + height, left : left + width]
    return crop[:, ::-1] if random.random() < 0.5 else crop


def _draw_motion(shape: tuple[int, int], random: np.random.Generator) -> Motion:
    """A smooth one, of a picture as a whole and of its parts."""
    whole = random.uniform(-_SHIFT, _SHIFT, (1, 2, 1, 1))
    parts = random.normal(0, _BEND, (1, 2, _BENDS, _BENDS))
    coarse = torch.from_numpy(whole + parts).float()
    flow = F.interpolate(coarse, shape, mode="bicubic")
    return Motion(flow, 1 - leads_outside(flow).float())


def _with_noise(picture: Tensor, random: np.random.Generator) -> Tensor:
    noise = random.normal(0, random.uniform(0, _NOISE), tuple(picture.shape))
    return (picture + torch.from_numpy(noise).float()).clamp(0, 1)
