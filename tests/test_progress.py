from __future__ import annotations

import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from workbench import colour, images, progress, sheets
from workbench.descent import Iterate
from workbench.errors import InputError, OutputError
from workbench.images import resize, to_array
from workbench.losses import Losses
from workbench.progress import Recorder, bar
from workbench.sheets import contact_sheet


def losses(total: float = 10.0) -> Losses:
    return Losses(total, {"relu4_2": total / 2}, {"relu1_1": total / 2}, 0.0)


def iterate(step: int, image: torch.Tensor, steps: int = 100) -> Iterate:
    return Iterate(step, steps, max(image.shape[-2:]), image, losses(1000 / (step + 1)))


def flat(value: float, side: int = 24) -> torch.Tensor:
    return torch.full((1, 3, side, side + 8), value)


def fading(count: int) -> list[Iterate]:
    """From black to white, nearly all of it in the first steps."""
    return [iterate(step, flat(1 - math.exp(-step / 20)), count - 1) for step in range(count)]


def film(count: int, height: int = 40, width: int = 60) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 60, (height, width, 3))
    return [(noise + 15 * i % 190).astype(np.uint8) for i in range(count)]


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
    for step in range(2000):
        recorder.add(iterate(step, torch.rand(1, 3, 24, 32, generator=generator)))
        assert len(recorder._kept) <= 3 * 4
    assert max(kept.snapshot.frame.shape[1] for kept in recorder._kept) == 16
    assert len(recorder.snapshots()) == 4


def test_a_recorder_of_large_pictures_takes_little_memory(painting: torch.Tensor) -> None:
    recorder = Recorder()
    pictures = [resize(painting.roll(shift, 3), (480, 640)) for shift in range(0, 64, 8)]
    tracemalloc.start()
    try:
        for step in range(200):
            image = pictures[step % 8] * (0.5 + step / 400)
            recorder.add(iterate(step, image))
        megabytes = tracemalloc.get_traced_memory()[0] / 1e6
    finally:
        tracemalloc.stop()
    assert 3 < megabytes < 24  # 120 raw pictures would be 110
    shot = recorder.snapshots()[3]
    expected = to_array(pictures[shot.step % 8] * (0.5 + shot.step / 400)).astype(int)
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


def test_gif_has_its_frames_durations_and_loop(tmp_path: Path) -> None:
    path = tmp_path / "film.gif"
    sheets.save_gif(film(6), path, fps=5, hold=2)
    with Image.open(path) as gif:
        durations = [frame.info["duration"] for frame in ImageSequence.Iterator(gif)]
        assert gif.info["loop"] == 0
        assert gif.size == (60, 40)
    assert durations == [200] * 5 + [2000]


@pytest.mark.parametrize(
    "fps", [12, 15, 24000 / 1001, 24, 25, 30000 / 1001, 30, 35, 40, 50, 60000 / 1001, 200]
)
def test_a_gif_is_as_long_as_the_clip(fps: float, tmp_path: Path) -> None:
    path = tmp_path / "film.gif"
    # Each frame differs from its neighbours, or Pillow would make one of them.
    frames = [np.full((4, 4, 3), 4 * i, np.uint8) for i in range(61)]
    sheets.save_gif(frames, path, fps=fps, hold=0, one_palette=False)
    with Image.open(path) as gif:
        durations = [frame.info["duration"] for frame in ImageSequence.Iterator(gif)]
    assert sum(durations) == pytest.approx(1000 * 61 / fps, abs=10)
    assert max(durations) <= 10 * math.ceil(max(100 / fps, 3))
    assert min(durations) >= 20  # browsers make a hundredth ten
    if fps <= 50:
        assert len(durations) == 61


def test_a_gif_of_one_frame_is_a_gif(tmp_path: Path) -> None:
    sheets.save_gif(film(1), tmp_path / "film.gif", fps=1000, hold=0)
    with Image.open(tmp_path / "film.gif") as gif:
        assert gif.n_frames == 1


def test_gif_colours_are_near(tmp_path: Path) -> None:
    path = tmp_path / "film.gif"
    frames = film(6)
    sheets.save_gif(frames, path)
    with Image.open(path) as gif:
        for frame, decoded in zip(frames, ImageSequence.Iterator(gif), strict=True):
            difference = np.asarray(decoded.convert("RGB")).astype(int) - frame
            assert np.abs(difference).mean() < 12


def test_pictures_with_few_colours_in_common_have_a_palette_each(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    shade = generator.integers(0, 64, (30, 40, 1))
    colours = generator.integers(0, 190, (40, 1, 1, 3))
    frames = [(shade + colour).astype(np.uint8) for colour in colours]
    for frame in frames:
        frame[25:] = 255
    worst = {}
    for one_palette in (True, False):
        path = tmp_path / f"{one_palette}.gif"
        sheets.save_gif(frames, path, one_palette=one_palette)
        with Image.open(path) as gif:
            decoded = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(gif)]
        pairs = zip(frames, decoded, strict=True)
        worst[one_palette] = max(np.abs(a.astype(int) - b).mean() for a, b in pairs)
    assert worst[False] < 3 < 10 < worst[True]
    assert all((frame[25:] == 255).all() for frame in decoded)


def test_gif_frames_of_coarse_scales_grow_to_the_last(tmp_path: Path) -> None:
    path = tmp_path / "film.gif"
    sheets.save_gif([*film(2, 20, 30), *film(2)], path)
    with Image.open(path) as gif:
        assert gif.size == (60, 40)
        assert gif.n_frames == 4


def test_gif_keeps_to_its_megabytes(tmp_path: Path) -> None:
    path = tmp_path / "film.gif"
    frames = film(12, 200, 300)
    sheets.save_gif(frames, path)
    free = path.stat().st_size
    sheets.save_gif(frames, path, max_megabytes=free / 3e6)
    assert free / 30 < path.stat().st_size <= free / 3
    with pytest.raises(InputError, match="do not fit"):
        sheets.save_gif(frames, path, max_megabytes=1e-5)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("film.png", {}),
        ("film.gif", {"fps": 0}),
        ("film.gif", {"fps": float("nan")}),
        ("film.gif", {"fps": float("inf")}),
        ("film.gif", {"hold": -1}),
        ("film.gif", {"frames": []}),
    ],
)
def test_a_gif_refuses_nonsense(name: str, options: dict, tmp_path: Path) -> None:  # type: ignore[type-arg]
    with pytest.raises(InputError):
        sheets.save_gif(**{"frames": film(2), "path": tmp_path / name, **options})
    assert not list(tmp_path.iterdir())


def test_a_gif_that_cannot_be_written(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("in the way")
    with pytest.raises(OutputError, match=r"film\.gif"):
        sheets.save_gif(film(2), blocker / "film.gif")


def test_strip_and_plot_are_pictures(tmp_path: Path) -> None:
    recorder = Recorder(frames=8)
    for each in fading(30):
        recorder.add(each)
    sheets.save_progress_strip(recorder, tmp_path / "strip.png", count=4, height=50)
    with Image.open(tmp_path / "strip.png") as strip:
        width = 4 * round(32 * 50 / 24) + 5 * 8
        assert strip.size == (width, 50 + 8 + 26)
    sheets.save_plot(sheets.plot_losses(recorder), tmp_path / "losses.png")
    with Image.open(tmp_path / "losses.png") as plot:
        assert np.asarray(plot.convert("L")).std() > 5


def test_a_plot_is_in_the_format_that_its_name_says(tmp_path: Path) -> None:
    recorder = Recorder()
    for each in fading(5):
        recorder.add(each)
    sheets.save_plot(sheets.plot_losses(recorder), tmp_path / "losses.jpg")
    with Image.open(tmp_path / "losses.jpg") as plot:
        assert plot.format == "JPEG"


def test_plot_draws_every_loss_by_layer() -> None:
    recorder = Recorder()
    for each in fading(5):
        recorder.add(each)
    (axes,) = sheets.plot_losses(recorder).axes
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert {"total", "content relu4_2", "style relu1_1"} <= set(lines)
    assert list(lines["total"].get_ydata()) == [1000, 500, 1000 / 3, 250, 200]


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


def test_a_contact_sheet_puts_every_picture_in_its_place() -> None:
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    pictures = [np.full((20, 30, 3), colour, np.uint8) for colour in colours]
    sheet = contact_sheet(pictures, ["a", "b", "c"], columns=2, height=40)
    assert sheet.shape == (2 * (40 + 8 + 26), 2 * 60 + 3 * 8, 3)
    for shade, (x, y) in zip(colours, [(38, 28), (106, 28), (38, 102)], strict=True):
        assert tuple(sheet[y, x]) == shade
    assert sheet[60, 38 - 10 : 38 + 10].min() < 100  # a caption below the first
    assert (sheet[85:120, 80:] == 255).all()  # nothing in the fourth place


def test_a_contact_sheet_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="at least one picture"):
        contact_sheet([], [])


def test_a_contact_sheet_has_labels_at_its_edges_if_they_are_given() -> None:
    pictures = [np.full((20, 40, 3), 0, np.uint8)] * 4
    bare = contact_sheet(pictures, [""] * 4, columns=2, height=60)
    labels = {"row_labels": ["one", "two"], "column_labels": ["left", "right"]}
    sheet = contact_sheet(pictures, [""] * 4, columns=2, height=60, **labels)
    top, left = 26, sheet.shape[1] - bare.shape[1]
    assert sheet.shape[0] == bare.shape[0] + top
    assert 20 < left < 60
    assert (sheet[top:, left:] == bare).all()
    assert (sheet[:top, :left] == 255).all()
    for part in (sheet[:top, left : left + 128], sheet[:top, left + 128 :]):
        assert part.min() < 100
    for part in (sheet[top : top + 68, :left], sheet[top + 94 : top + 162, :left]):
        assert part.min() < 100
    assert (sheet[top + 68 : top + 94, :left] == 255).all()


def test_texts_on_a_contact_sheet_stay_below_their_pictures() -> None:
    pictures = [np.full((50, 90, 3), 255, np.uint8)] * 3
    captions = ["two\nlines", "words that are wrapped", "Donaudampfschifffahrtsgesellschaft"]
    sheet = contact_sheet(pictures, captions, height=50)
    assert sheet.shape[0] == 50 + 8 + 8 + 2 * 18
    assert sheet.min() < 100
    for gap in (0, 98, 196, 294):
        assert (sheet[:, gap : gap + 8] == 255).all()


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
