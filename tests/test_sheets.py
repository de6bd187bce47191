from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence
from test_progress import fading

from workbench import sheets
from workbench.errors import InputError, OutputError
from workbench.progress import Recorder
from workbench.sheets import contact_sheet


def film(count: int, height: int = 40, width: int = 60) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 60, (height, width, 3))
    return [(noise + 15 * i % 190).astype(np.uint8) for i in range(count)]


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
    frames = film(12, 80, 120)
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
    strip = sheets.progress_strip(recorder, count=4, height=50)
    assert strip.shape == (50 + 8 + 26, 4 * round(32 * 50 / 24) + 5 * 8, 3)
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
