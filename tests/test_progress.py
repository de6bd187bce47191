from __future__ import annotations

import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from workbench import colour, images, progress
from workbench.descent import Iterate
from workbench.errors import InputError, OutputError
from workbench.images import resize, to_array
from workbench.losses import Losses
from workbench.progress import Recorder, bar


def losses(total: float = 10.0) -> Losses:
    return Losses(total, {"relu4_2": total / 2}, {"relu1_1": total / 2}, 0.0)


def iterate(step: int, image: torch.Tensor, steps: int = 100) -> Iterate:
    return Iterate(step, steps, max(image.shape[-2:]), image, losses(1000 / (step + 1)))


def flat(value: float, side: int = 24) -> torch.Tensor:
    return torch.full((1, 3, side, side + 8), value)


def fading(count: int) -> list[Iterate]:
    """From black to white, nearly all of it in the first steps."""
    return [iterate(step, flat(1 - math.exp(-step / 20)), count - 1) for step in range(count)]


def test_snapshots_begin_with_the_start_and_end_with_the_last() -> None:
    recorder = Recorder(frames=10)
    for each in fading(500):
        recorder.add(each)
    shots = recorder.snapshots()
    assert shots[0].step == 0
    assert shots[-1].step == 499
    assert len(shots) == 10
    steps = [shot.step for shot in shots]
    assert steps == sorted(set(steps))


def test_snapshots_are_evenly_spaced_in_visible_change() -> None:
    recorder = Recorder(frames=10)
    for each in fading(500):
        recorder.add(each)
    levels = [float(shot.frame.mean()) for shot in recorder.snapshots()]
    jumps = np.diff(levels)
    assert jumps.max() < 1.7 * 255 / 9
    assert jumps[:-1].min() > 0.4 * 255 / 9


def test_a_recorder_is_bounded_however_long_the_run() -> None:
    recorder = Recorder(frames=4, max_side=16)
    generator = torch.Generator().manual_seed(0)
    for step in range(500):
        recorder.add(iterate(step, torch.rand(1, 3, 24, 32, generator=generator)))
        assert len(recorder._kept) <= 3 * 4
    assert max(kept.snapshot().frame.shape[1] for kept in recorder._kept) == 16
    assert len(recorder.snapshots()) == 4


def test_a_recorder_of_large_pictures_takes_little_memory(painting: torch.Tensor) -> None:
    recorder = Recorder(frames=10)
    pictures = [resize(painting.roll(shift, 3), (480, 640)) for shift in range(0, 64, 8)]
    tracemalloc.start()
    try:
        for step in range(50):
            image = pictures[step % 8] * (0.5 + step / 100)
            recorder.add(iterate(step, image))
        megabytes = tracemalloc.get_traced_memory()[0] / 1e6
    finally:
        tracemalloc.stop()
    assert 0.75 < megabytes < 6  # 30 raw pictures would be 28
    shot = recorder.snapshots()[3]
    expected = to_array(pictures[shot.step % 8] * (0.5 + shot.step / 100)).astype(int)
    assert np.abs(shot.frame - expected).mean() < 4


def test_fewer_iterates_than_frames() -> None:
    recorder = Recorder(frames=40)
    for each in fading(3):
        recorder.add(each)
    assert [shot.step for shot in recorder.snapshots()] == [0, 1, 2]
    with pytest.raises(InputError, match="nothing was recorded"):
        Recorder().snapshots()


def test_scales_of_different_size_are_recorded() -> None:
    recorder = Recorder(frames=4)
    for step in range(6):
        recorder.add(iterate(step, flat(step / 6, side=20 if step < 3 else 41)))
    assert recorder.scale_changes == [2]
    assert recorder.steps == list(range(6))
    assert recorder.snapshots()[-1].frame.shape == (41, 49, 3)


def test_recorder_refuses_nonsense() -> None:
    with pytest.raises(InputError, match="frames = 1"):
        Recorder(frames=1)


def test_progress_bar_passes_iterates_on(capsys: pytest.CaptureFixture[str]) -> None:
    iterates = fading(5)
    assert list(progress.show_progress(iterates)) == iterates
    assert "4/4" in capsys.readouterr().out


def test_the_latest_picture_is_kept_when_a_run_breaks(tmp_path: Path) -> None:
    path = tmp_path / "latest.png"

    def broken() -> object:
        yield from fading(4)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(progress.keep_latest(broken(), path))  # type: ignore[arg-type]
    with Image.open(path) as picture:
        expected = round(255 * (1 - math.exp(-3 / 20)))
        assert np.asarray(picture).mean() == pytest.approx(expected, abs=1)


def test_keeping_the_latest_picture_takes_a_small_share_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, saves = [0.0], []

    def slow(image: torch.Tensor, path: Path) -> None:
        saves.append(now[0])
        now[0] += 4.0

    monkeypatch.setattr(progress, "save_image", slow)
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    for _ in progress.keep_latest(fading(1000), tmp_path / "latest.png", share=0.1):
        now[0] += 1.0
    assert saves[0] == 5.0
    assert set(np.diff(saves)) == {44.0}  # 4 s of work, 40 s apart


def test_a_picture_that_cannot_be_kept_ends_no_painting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(image: torch.Tensor, path: Path) -> None:
        raise OutputError(f"{path} cannot be written: no space left on device.")

    monkeypatch.setattr(progress, "save_image", full)
    assert len(list(progress.keep_latest(fading(4), tmp_path / "a.png", seconds=0))) == 4
    broken = (1 / (2 - each.step) and each for each in fading(4))
    with pytest.raises(ZeroDivisionError):
        list(progress.keep_latest(broken, tmp_path / "a.png", seconds=0))


def test_the_latest_picture_goes_when_a_run_ends_well(tmp_path: Path) -> None:
    path = tmp_path / "latest.png"
    for each in progress.keep_latest(fading(4), path, seconds=0):
        assert path.is_file() or each.step == 0
    assert not path.exists()


def test_frames_pass_through_the_bar(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(bar(iter("abc"), "writing", "frame", total=3)) == ["a", "b", "c"]
    assert "writing: 100%" in capsys.readouterr().out


def test_colours_are_kept_with_one_resizing_of_the_photograph_for_each_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = torch.Generator().manual_seed(5)
    photograph = torch.rand(1, 3, 90, 120, generator=generator)
    painted = [
        iterate(step, torch.rand(1, 3, side, side + 4, generator=generator))
        for step, side in enumerate([20, 20, 20, 40, 40])
    ]
    real, resized = images.resize, []

    def counting(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        if tuple(image.shape[-2:]) != size:
            resized.append(size)
        return real(image, size)

    for module in (images, progress):
        monkeypatch.setattr(module, "resize", counting)
    kept = list(progress.keep_colors(painted, photograph, "luma"))
    assert resized == [(20, 24), (40, 44)]
    for before, after in zip(painted, kept, strict=True):
        assert torch.equal(after.image, colour.transfer_luma(before.image, photograph))
    assert list(progress.keep_colors(painted, photograph, "off")) == painted
