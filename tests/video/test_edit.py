from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import moviepy
import numpy as np
import pytest

from workbench.errors import InputError
from workbench.images import Frame, from_array, save_image
from workbench.runs import finish_run, start_run
from workbench.video import as_clip, edit
from workbench.video.clips import open_clip, read_frames, write_film
from workbench.video.frames import PaintedFrames, frame_path


def grey(value: int, shape: tuple[int, int] = (48, 64)) -> Frame:
    return np.full((*shape, 3), value, np.uint8)


def film(path: Path, count: int, rate: Fraction | int = 25) -> Path:
    write_film([grey(20 + 2 * number) for number in range(count)], path, rate)
    return path


def alike(some: list[Frame], others: list[Frame]) -> bool:
    return [each.tobytes() for each in some] == [each.tobytes() for each in others]


RATES = [Fraction(25), Fraction(30000, 1001), Fraction(50, 7), Fraction(43)]


@pytest.mark.parametrize("rate", RATES, ids=str)
def test_every_frame_comes_through_once_and_in_order(rate: Fraction, tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", 100, rate)
    frames = list(read_frames(open_clip(path)))
    clip = as_clip(path)
    assert clip.size == (64, 48)
    assert clip.duration == pytest.approx(float(100 / rate))
    assert alike(list(edit.frames_of(clip, rate)), frames)
    half = clip.subclipped(float(40 / rate))
    assert alike(list(edit.frames_of(half, rate)), frames[40:])
    assert alike([clip.get_frame(float(n / rate)) for n in range(100)], frames)


def test_frames_are_read_in_any_order(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", 60)
    frames = list(read_frames(open_clip(path)))
    clip = as_clip(path)
    for number in (3, 3, 50, 49, 0, 59, 20):
        assert np.array_equal(clip.get_frame((number + 0.5) / 25), frames[number])
    assert np.array_equal(clip.get_frame(9.0), frames[59])


def test_a_section_of_a_clip_at_another_size(tmp_path: Path) -> None:
    clip = open_clip(film(tmp_path / "a.mp4", 20), start=0.2, size=32)
    assert alike(list(edit.frames_of(as_clip(clip), clip.fps)), list(read_frames(clip)))


def painted(folder: Path, count: int, fps: str = "25") -> PaintedFrames:
    for number in range(count):
        save_image(from_array(grey(7 * number)), frame_path(folder, number))
    (folder / "run.json").write_text(f'{{"fps": "{fps}"}}')
    return PaintedFrames(folder, count)


def test_painted_frames_have_the_rate_of_their_clip(tmp_path: Path) -> None:
    frames = painted(tmp_path, 9, "30000/1001")
    clip = as_clip(frames)
    assert alike(list(edit.frames_of(clip, RATES[1])), list(frames.pictures()))


def finished(folder: Path, *names: str) -> Path:
    run = start_run(folder)
    outputs = {name: film(run / name, 5) for name in names}
    (run / "strip.png").touch()
    outputs["strip"] = run / "strip.png"
    finish_run(run, outputs=outputs, figures={}, settings={}, weights={})
    return folder


def test_a_run_is_the_film_that_it_made(tmp_path: Path) -> None:
    run = finished(tmp_path / "one", "film.mp4")
    assert alike(
        list(edit.frames_of(as_clip(run), 25)), list(read_frames(open_clip(run / "film.mp4")))
    )
    with pytest.raises(InputError, match=r"a\.mp4, .*b\.mkv\); name a film"):
        as_clip(finished(tmp_path / "two", "a.mp4", "b.mkv"))
    with pytest.raises(InputError, match=r"there is none"):
        as_clip(finished(tmp_path / "none"))
    with pytest.raises(InputError, match="no such file"):
        as_clip(tmp_path / "nowhere.mp4")


def test_a_fade_between_two_films(tmp_path: Path) -> None:
    dark, light = painted(tmp_path / "dark", 10), painted(tmp_path / "light", 10)
    for number in range(10):
        save_image(from_array(grey(200)), frame_path(light.folder, number))
        save_image(from_array(grey(100)), frame_path(dark.folder, number))
    fade = moviepy.vfx.CrossFadeIn(0.2)
    later = as_clip(light).with_start(0.2).with_effects([fade])
    frames = list(edit.frames_of(moviepy.CompositeVideoClip([as_clip(dark), later]), 25))
    values = [int(frame.mean()) for frame in frames]
    assert len(values) == 15
    assert values == sorted(values)
    assert (values[0], values[-1]) == (100, 200)
    assert values[7] == pytest.approx(150, abs=2)
    write_film(frames, tmp_path / "cut.mp4", 25)
    assert open_clip(tmp_path / "cut.mp4").frames == 15


def test_a_card_is_as_large_as_the_film_and_its_text_in_the_middle(tmp_path: Path) -> None:
    clip = as_clip(film(tmp_path / "a.mp4", 5))
    card = edit.card("ooo", clip, 0.4)
    frames = list(edit.frames_of(card, 25))
    assert len(frames) == 10
    assert {frame.shape for frame in frames} == {(48, 64, 3)}
    rows, columns = np.nonzero(frames[0][..., 0] > 128)
    assert rows.mean() == pytest.approx(23.5, abs=2)
    assert columns.mean() == pytest.approx(31.5, abs=2)


def test_films_stand_side_by_side_with_captions_at_one_height(tmp_path: Path) -> None:
    films: dict[str, Any] = {
        name: as_clip(painted(tmp_path / name, 6)) for name in ("per-frame", "source")
    }
    films["style"] = grey(30, (90, 60))
    films["blended"] = as_clip(painted(tmp_path / "blended", 4))
    sheet = edit.side_by_side(films, 2)
    frames = list(edit.frames_of(sheet, 25))
    assert len(frames) == 4  # as the shortest
    for number, frame in enumerate(frames):
        assert frame[8 + 24, 8 + 32].tolist() == [7 * number] * 3
        assert frame[8 + 24, 8 + 64 + 8 + 32].tolist() == [7 * number] * 3
    # "source" is lower than "per-frame", but stands on the same line.
    below = frames[0][8 + 48 : 8 + 48 + 26] < 128
    left, right = below[:, : 8 + 64 + 4].any(axis=(1, 2)), below[:, 8 + 64 + 4 :].any(axis=(1, 2))
    o = np.flatnonzero(right)
    assert {o[0], o[-1]} <= set(np.flatnonzero(left))


def test_moviepy_is_loaded_by_those_who_edit_and_reads_no_env_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("WORKBENCH_TEST_SECRET=taken over\n")
    script = (
        "import os, sys, workbench, workbench.video\n"
        "print('moviepy' in sys.modules)\n"
        "workbench.video.as_clip\n"
        "print('moviepy' in sys.modules, os.environ.get('WORKBENCH_TEST_SECRET'))\n"
        "print(os.environ.get('PYTHON_DOTENV_DISABLED'))"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "True", "None", "None"], done.stderr
