from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sample_clip import clip
from torch import Tensor

from workbench.errors import InputError
from workbench.fast import pictures
from workbench.fast.pictures import Pictures, draw_batch
from workbench.images import from_array, save_image
from workbench.video.clips import write_film


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six pictures of different sizes, one of them below another folder."""
    for i in range(6):
        shape = (90 + 4 * i, 140 - 8 * i)
        image = torch.rand(1, 3, *shape, generator=torch.Generator().manual_seed(i))
        save_image(image, tmp_path / "set" / ("deep/" if i == 5 else "") / f"{i}.png")
    return tmp_path / "set"


def opened(*names: object, size: int = 100, crop: int = 64) -> Pictures:
    return Pictures([str(n) for n in names], size, crop)


def test_a_folder_is_searched_with_all_below(folder: Path) -> None:
    found = opened(folder)
    assert [Path(name).stem for name in found.names] == ["0", "1", "2", "3", "4", "5"]


def test_pictures_are_shrunk_to_the_size_but_not_below_a_crop(folder: Path) -> None:
    found = opened(folder, size=100, crop=64)
    for number in range(6):
        frame = found.read(number)
        assert frame is not None
        assert max(frame.shape[:2]) == 100
    found = opened(folder, size=100, crop=96)
    for number in range(6):
        sides = found.kept(number).shape[:2]
        assert min(sides) == 96 or (min(sides) > 96 and max(sides) == 100)


def test_frames_of_a_clip_are_taken_all_over_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    film = clip()
    write_film(film.frames[:20], tmp_path / "clip.mp4", 25)
    monkeypatch.setattr(pictures, "KEPT", 7)
    found = opened(tmp_path / "clip.mp4", size=320)
    assert [name.rpartition(" ")[2] for name in found.names] == [str(n) for n in range(0, 20, 3)]
    difference = found.kept(1).astype(float) - film.frames[3]
    assert np.abs(difference).mean() < 4


def test_frames_of_a_clip_are_held_once_and_are_large_enough_for_crops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_film(clip().frames[:6], tmp_path / "clip.mp4", 25)
    found = opened(tmp_path / "clip.mp4", size=160, crop=150)
    monkeypatch.setattr(pictures, "resize", None)  # nothing is left to be made of them
    frames = [found.kept(number) for number in range(6)]
    assert {frame.shape for frame in frames} == {(150, 200, 3)}
    assert all(found.read(number) is frames[number] for number in range(6))


def test_a_clip_that_is_too_small_for_crops_is_refused_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_film(clip().frames[:6], tmp_path / "clip.mp4", 25)
    with pytest.raises(InputError, match=r"clip\.mp4 is 320x240 pixels; .* 250 at least: lower"):
        Pictures([str(tmp_path / "clip.mp4")], 640, 500)
    assert not capsys.readouterr().out


def test_what_many_pictures_lack_is_said_a_few_times(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(20):
        save_image(torch.rand(1, 3, 20, 24), tmp_path / "set" / f"{number}.png")
    found = Pictures([str(tmp_path / "set")], 100, 64)
    why = r"0 of 20 training pictures can be used \(.*\.png is 24x20 pixels; crops of 64 .*\); "
    with pytest.raises(InputError, match=why):
        found.held_out()
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 6
    assert said[-1] == "Left out: more pictures; model.json lists them."
    assert len(found.skipped) == 20


def test_sample_photographs_can_be_learned_on(tmp_path: Path) -> None:
    found = opened("sample:photographs", size=200)
    assert len(found) == 5
    assert all(found.read(n) is not None for n in range(5))


def test_broken_and_small_pictures_are_named_and_left_out(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "0.png").write_bytes((folder / "0.png").read_bytes()[:200])
    save_image(torch.rand(1, 3, 20, 500), folder / "1.png")
    found = Pictures([str(folder)], 100, 64)
    held_out = found.held_out()
    assert found.read(0) is None
    assert found.read(1) is None
    assert found.read(0) is None
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2  # each is told once
    assert any("0.png is damaged" in text for text in said)
    assert any("1.png is 500x20 pixels; crops of 64 need" in text for text in said)
    assert list(found.skipped.values()) == [text.removeprefix("Left out: ") for text in said]
    allowed = [n for n in range(6) if n not in held_out]
    assert draw_batch(found, allowed, 8, [0], whole=False, pairs=False).pictures.shape == (
        8,
        3,
        64,
        64,
    )


def test_too_few_pictures(folder: Path) -> None:
    with pytest.raises(InputError, match=r"1 of 1 training pictures .* at least 2"):
        opened(folder / "0.png").held_out()
    for name in ("1", "2", "3", "4", "deep/5"):
        (folder / f"{name}.png").write_text("no picture")
    with pytest.raises(InputError, match=r"1 of 6 training pictures"):
        opened(folder).held_out()


def test_a_folder_without_pictures(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="without pictures"):
        opened(tmp_path)


def test_something_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.mp4"):
        opened(tmp_path / "none.mp4")


def test_held_out_pictures_lie_all_over(tmp_path: Path) -> None:
    film = clip()
    write_film(film.frames[:40], tmp_path / "clip.mp4", 25)
    assert opened(tmp_path / "clip.mp4").held_out() == [5, 15, 25, 35]


def test_memory_is_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "KEPT", 2)
    found = opened(folder)
    for number in range(6):
        found.read(number)
    assert len(found._kept) == 2


def test_a_seed_draws_the_same_batch_whatever_came_before(folder: Path) -> None:
    found = opened(folder)
    first = draw_batch(found, range(6), 4, [0, 7], whole=False, pairs=True)
    draw_batch(found, range(6), 4, [0, 8], whole=False, pairs=True)
    again = draw_batch(found, range(6), 4, [0, 7], whole=False, pairs=True)
    other = draw_batch(found, range(6), 4, [1, 7], whole=False, pairs=True)
    assert torch.equal(first.pictures, again.pictures)
    assert not torch.equal(first.pictures, other.pictures)


def test_crops_are_parts_of_the_pictures_and_only_of_those_allowed(folder: Path) -> None:
    found = opened(folder)
    allowed = from_array(found.kept(2))
    mirrored = 0
    for each in draw_batch(found, [2], 12, [0], whole=False, pairs=False).pictures.split(1):
        places = [contains(allowed, each), contains(allowed.flip(3), each)]
        assert sum(places) == 1
        mirrored += places[1]
    assert 2 <= mirrored <= 10


def contains(picture: Tensor, crop: Tensor) -> bool:
    windows = picture.unfold(2, 64, 1).unfold(3, 64, 1)
    return bool((windows - crop[:, :, None, None]).abs().amax((1, 4, 5)).min() < 1e-6)


def test_a_companion_is_its_picture_moved(folder: Path) -> None:
    film = clip()  # smoother than noise
    write_film(film.frames[:4], folder / "clip.mp4", 25)
    found = opened(folder / "clip.mp4", size=320, crop=128)
    batch = draw_batch(found, [0], 3, [3], whole=False, pairs=True)
    assert len(batch.motions) == 3
    for picture, moved, motion in zip(
        batch.pictures[:3].split(1), batch.pictures[3:].split(1), batch.motions, strict=True
    ):
        apart = (motion.visible * (motion.warp(picture) - moved)).square().mean()
        unmoved = (motion.visible * (picture - moved)).square().mean()
        assert apart < 0.04**2  # the noise
        assert apart < unmoved
        assert 0.6 < motion.visible.mean() <= 1
        assert motion.flow.abs().max() > 1


def test_a_whole_picture_or_what_all_of_a_batch_have(folder: Path) -> None:
    found = opened(folder, size=140)
    alone = draw_batch(found, [0], 1, [0], whole=True, pairs=False).pictures
    picture = from_array(found.kept(0))
    assert torch.equal(alone, picture) or torch.equal(alone, picture.flip(3))
    batch = draw_batch(found, [0, 4], 8, [0], whole=True, pairs=True)
    assert batch.pictures.shape == (16, 3, 90, 108)
    assert batch.motions[0].flow.shape == (1, 2, 90, 108)
