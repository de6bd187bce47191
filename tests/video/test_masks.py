from __future__ import annotations

from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from workbench.errors import InputError
from workbench.images import Frame
from workbench.video.clips import Clip, open_clip, write_film
from workbench.video.masks import open_masks, read_masks

COUNT = 6


@pytest.fixture
def clip(tmp_path: Path) -> Clip:
    """Six grey frames of 64 x 48, 25 a second."""
    write_film([np.full((48, 64, 3), 128, np.uint8)] * COUNT, tmp_path / "clip.mp4", 25)
    return open_clip(tmp_path / "clip.mp4")


def half(left: int, right: int, shape: tuple[int, int] = (48, 64)) -> Frame:
    picture = np.zeros((*shape, 3), np.uint8)
    picture[:, left:right] = 255
    return picture


def moving(count: int = COUNT) -> list[Frame]:
    """A white bar that goes right by eight pixels a frame."""
    return [half(8 * i, 8 * i + 8) for i in range(count)]


def folder_of(frames: list[Frame], folder: Path) -> Path:
    folder.mkdir()
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{number:03d}.png")
    return folder


def bar(mask: Tensor) -> tuple[int, int]:
    """The first and the last column that are white."""
    columns = (mask[0, 0].mean(dim=0) > 0.5).nonzero().flatten().tolist()
    return columns[0], columns[-1]


def test_a_picture_is_carried_along_with_what_it_covers(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    wall, thing = (
        np.asarray(cv2.GaussianBlur(random.uniform(0, 255, (96, 128, 3)), (0, 0), 2), np.uint8)
        for _ in range(2)
    )
    thing = 255 - thing // 3
    frames = []
    for number in range(COUNT):
        frame = wall.copy()
        left = 20 + 6 * number
        frame[30:70, left : left + 40] = thing[30:70, 20:60]
        frames.append(frame)
    clip = open_clip(folder_of([*frames, 255 - wall[:, ::-1] // 2], tmp_path / "clip"))
    drawn = np.zeros((96, 128, 3), np.uint8)
    drawn[30:70, 20:60] = 255
    Image.fromarray(drawn).save(tmp_path / "mask.png")
    (mask,) = open_masks([tmp_path / "mask.png"], clip, follow=True)
    carried = [region for (region,) in read_masks([mask])]
    assert len(carried) == COUNT + 1
    for number, region in enumerate(carried[:COUNT]):
        truth = torch.zeros(1, 1, 96, 128)
        truth[..., 30:70, 20 + 6 * number : 60 + 6 * number] = 1
        both, either = (truth * region).sum(), torch.maximum(truth, region).sum()
        assert both / either > 0.85
    assert torch.equal(carried[-1], carried[0])  # behind the cut
    (going_on,) = next(read_masks([mask], 4))
    assert torch.equal(going_on, carried[4])


def test_a_picture_holds_for_all_frames(clip: Clip, tmp_path: Path) -> None:
    Image.fromarray(half(0, 20, (30, 40))).save(tmp_path / "left.png")
    Image.fromarray(half(20, 40, (30, 40))).save(tmp_path / "right.PNG")
    masks = open_masks([tmp_path / "left.png", str(tmp_path / "right.PNG")], clip)
    for left, right in islice(read_masks(masks, 3), 9):
        assert left.shape == right.shape == (1, 1, 30, 40)
        assert torch.equal(left + right, torch.ones(1, 1, 30, 40))
        assert bar(left) == (0, 19)


@pytest.mark.parametrize("kind", ["folder", "film"])
def test_masks_go_along_with_the_clips_file(kind: str, clip: Clip, tmp_path: Path) -> None:
    path = folder_of(moving(), tmp_path / "masks")
    if kind == "film":
        path = tmp_path / "masks.mov"
        write_film(moving(), path, 25, quality=1)
    for first in (0, 2):
        rows = list(islice(read_masks(open_masks([path], clip), first), COUNT - first))
        assert [bar(mask) for (mask,) in rows] == [(8 * i, 8 * i + 7) for i in range(first, COUNT)]
    section = open_clip(clip.path, start=0.04, end=0.2, stride=2)
    assert section.frames == 2
    rows = list(islice(read_masks(open_masks([path], section)), 2))
    assert [bar(mask) for (mask,) in rows] == [(8, 15), (24, 31)]


def test_a_mask_may_be_empty_in_some_frames(clip: Clip, tmp_path: Path) -> None:
    frames = [half(0, 0), *moving(COUNT - 1)]
    masks = open_masks([folder_of(frames, tmp_path / "masks")], clip)
    (first,), (second,) = islice(read_masks(masks), 2)
    assert not first.any()
    assert bar(second) == (0, 7)


def test_what_is_not_transparent_in_a_clip_is_the_mask(clip: Clip, tmp_path: Path) -> None:
    path = tmp_path / "cutout.mov"
    with av.open(str(path), "w") as film:
        stream = film.add_stream("qtrle", rate=Fraction(25))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "argb"
        for frame in moving():
            pixels = np.full((48, 64, 4), 90, np.uint8)  # of one colour all over
            pixels[..., 0] = frame[..., 0]
            film.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="argb")))
        film.mux(stream.encode())
    rows = list(islice(read_masks(open_masks([path], clip)), COUNT))
    assert [bar(mask) for (mask,) in rows] == [(8 * i, 8 * i + 7) for i in range(COUNT)]


def refusal(name: Path, clip: Clip) -> str:
    with pytest.raises(InputError) as caught:
        open_masks([name], clip)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_masks_that_do_not_fit_are_one_sentence(clip: Clip, tmp_path: Path) -> None:
    short = folder_of(moving(5), tmp_path / "short")
    sentence = refusal(short, clip)
    assert f"{short} is shorter than {clip.path}: it has 5 masks" in sentence
    assert "the 6 frames" in sentence
    open_masks([short], open_clip(clip.path, end=0.2))  # as far as these are needed
    write_film(moving(), tmp_path / "slow.mp4", 12.5)
    assert "has 12.5 masks a second" in refusal(tmp_path / "slow.mp4", clip)
    assert "there is no such file" in refusal(tmp_path / "none.png", clip)
    assert "there is no such file" in refusal(tmp_path / "none.mp4", clip)
    Image.fromarray(half(0, 0)).save(tmp_path / "black.png")
    assert "is black all over" in refusal(tmp_path / "black.png", clip)


def test_masks_that_break_off_are_not_taken_for_the_end(clip: Clip, tmp_path: Path) -> None:
    masks = open_masks([folder_of(moving(), tmp_path / "masks")], clip)
    (tmp_path / "masks" / "005.png").unlink()
    rows = read_masks(masks)
    assert len(list(islice(rows, 5))) == 5
    with pytest.raises(InputError, match=r"masks breaks off: 5 of 6 masks could be read"):
        next(rows)


def test_without_masks_every_frame_has_none() -> None:
    assert list(islice(read_masks([], 4), 3)) == [(), (), ()]
