from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import repeat
from pathlib import Path

import numpy as np
import pytest
import torch
from sample_clip import clip

from workbench.colour import transfer_luma
from workbench.errors import InputError
from workbench.fast import applying
from workbench.fast.applying import paint_film, paint_picture, paint_pictures
from workbench.fast.models import StyleModel
from workbench.fast.network import TransformationNetwork
from workbench.images import Frame, from_array, load_image, save_image, to_array
from workbench.video import clips
from workbench.video.clips import Clip, open_clip, read_frames, write_film


def painter(seed: int, colour: float = 0.0) -> StyleModel:
    """A model that nobody trained; larger colours are lighter."""
    torch.manual_seed(seed)
    network = TransformationNetwork(0.25).requires_grad_(False)
    network.bias.fill_(colour)
    return StyleModel(network, torch.device("cpu"), torch.float32)


@pytest.fixture
def source(tmp_path: Path) -> Clip:
    """Ten frames with sound."""
    film = clip()
    film.sound.write_film(film.frames[:10], tmp_path / "clip.mp4", film.fps)
    return open_clip(tmp_path / "clip.mp4", size=96)


@pytest.fixture(autouse=True)
def short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(applying, "PART", 4)


def frames(path: Path) -> list[Frame]:
    return list(read_frames(open_clip(path)))


def test_a_film_has_the_clips_frames_rate_shape_and_sound(source: Clip, tmp_path: Path) -> None:
    model = painter(0)
    assert paint_film(source, {"ink": model}, tmp_path / "film.mp4", quality=1) == 10
    film = open_clip(tmp_path / "film.mp4")
    assert (film.frames, film.fps, film.shape, film.sound) == (10, 25, source.shape, True)
    painted = frames(tmp_path / "film.mp4")
    assert len(painted) == 10
    for shown, frame in zip(painted, read_frames(source), strict=True):
        expected = model(from_array(frame))
        assert np.abs(shown - to_array(expected).astype(float)).mean() < 6  # of chroma
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "film.mp4"]


@pytest.mark.parametrize("suffix", [".mov", ".mkv"])
def test_other_containers(source: Clip, tmp_path: Path, suffix: str) -> None:
    output = tmp_path / f"film{suffix}"
    assert paint_film(source, {"ink": painter(0)}, output) == 10
    assert (len(frames(output)), open_clip(output).sound) == (10, True)


def test_the_batch_does_not_change_the_film(source: Clip, tmp_path: Path) -> None:
    for batch in (1, 3, 8, 100):
        paint_film(source, {"ink": painter(0)}, tmp_path / f"{batch}.mp4", batch=batch)
    films = {(tmp_path / f"{batch}.mp4").read_bytes() for batch in (1, 3, 8, 100)}
    assert len(films) == 1


def test_luma_keeps_the_colours_of_the_clip(source: Clip, tmp_path: Path) -> None:
    model = {"ink": painter(0)}
    paint_film(source, model, tmp_path / "film.mp4", quality=1)
    paint_film(source, model, tmp_path / "luma.mp4", quality=1, original_colors="luma")
    weights = np.array([0.299, 0.587, 0.114])
    films = (read_frames(source), frames(tmp_path / "film.mp4"), frames(tmp_path / "luma.mp4"))
    for own, painted, kept in zip(*films, strict=True):
        expected = np.clip(own + ((painted.astype(float) - own) @ weights)[..., None], 0, 255)
        assert np.abs(kept - expected).mean() < 6  # of chroma
        assert np.abs(kept.astype(float) - painted).mean() > 10
    with pytest.raises(InputError, match=r"original_colors = 'pca': .* use luma or off"):
        paint_film(source, model, tmp_path / "pca.mp4", original_colors="pca")
    with pytest.raises(InputError, match=r"original_colors = 'hue': use one of"):
        paint_film(source, model, tmp_path / "pca.mp4", original_colors="hue")


class Stop(Exception):
    """In place of a kill."""


def stop_after(count: int) -> Callable[..., list[Frame]]:
    paint = applying._paint_frames

    def stopped(*args: object) -> object:
        for number, frame in enumerate(paint(*args)):  # type: ignore[arg-type]
            if number == count:
                raise Stop
            yield frame

    return stopped  # type: ignore[return-value]


@pytest.mark.parametrize("steady", [0.0, 1.0])
@pytest.mark.parametrize("stops", [[2], [4], [5, 3], [9], [4, 4]])
def test_a_stopped_film_goes_on_and_is_the_same(
    source: Clip, tmp_path: Path, stops: list[int], steady: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = {"ink": painter(0)}
    paint_film(source, models, tmp_path / "whole.mp4", steady=steady)
    for stop in stops:
        with monkeypatch.context() as patch:
            patch.setattr(applying, "_paint_frames", stop_after(stop))
            with pytest.raises(Stop):
                paint_film(source, models, tmp_path / "film.mp4", steady=steady)
        assert not (tmp_path / "film.mp4").exists()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "film.parts").glob("*.mp4")}
    assert len(kept) == sum(stop // 4 for stop in stops)
    assert paint_film(source, models, tmp_path / "film.mp4", steady=steady) == 10
    assert (tmp_path / "film.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    assert not (tmp_path / "film.parts").exists()


def test_another_film_is_not_mixed_in(
    source: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(applying, "_paint_frames", stop_after(5))
        with pytest.raises(Stop):
            paint_film(source, {"ink": painter(0)}, tmp_path / "film.mp4")
    with pytest.raises(InputError, match="belongs to another run: models is"):
        paint_film(source, {"ink": painter(1)}, tmp_path / "film.mp4")


@pytest.mark.parametrize("ends", [(0.24, 0.4), (0.4, 0.24)])
def test_a_stopped_film_goes_on_with_another_end(
    source: Clip, tmp_path: Path, ends: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first part is taken over, and also if the model is called by another name."""
    first, then = (open_clip(source.path, end=end, size=96) for end in ends)
    with monkeypatch.context() as patch:
        patch.setattr(clips, "join_films", stop)
        with pytest.raises(Stop):
            paint_film(first, {"models/ink": painter(0)}, tmp_path / "film.mp4")
    parts = {path: path.stat().st_mtime_ns for path in (tmp_path / "film.parts").glob("000000-*")}
    assert len(parts) == 1
    painted = []
    with monkeypatch.context() as patch:
        patch.setattr(applying, "to_array", lambda frame: painted.append(1) or to_array(frame))
        assert paint_film(then, {"models/ink/": painter(0)}, tmp_path / "film.mp4") == then.frames
    assert len(painted) == then.frames - 4
    paint_film(then, {"ink": painter(0)}, tmp_path / "whole.mp4")
    assert (tmp_path / "film.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()


def test_parts_that_others_would_paint_are_not_taken_over(
    source: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = {"dark": painter(0, -9.0), "light": painter(1, 9.0)}
    dark, light = {"dark": 1.0}, {"light": 1.0}
    with monkeypatch.context() as patch:
        patch.setattr(clips, "join_films", stop)
        with pytest.raises(Stop):
            paint_film(source, models, tmp_path / "film.mp4", choices=[dark] * 10)
    paint_film(source, models, tmp_path / "film.mp4", choices=[dark] * 5 + [light] * 5)
    means = [frame.mean() for frame in frames(tmp_path / "film.mp4")]
    assert [mean > 128 for mean in means] == [False] * 5 + [True] * 5


def test_each_frame_is_painted_by_the_model_that_was_chosen(source: Clip, tmp_path: Path) -> None:
    models = {"dark": painter(0, -9.0), "light": painter(1, 9.0)}
    names = ["dark", "light", "light", "dark", "light", "dark", "dark", "dark", "light", "dark"]
    choices = [{name: 1.0} for name in names]
    for batch in (1, 4):
        paint_film(source, models, tmp_path / "film.mp4", choices=choices, batch=batch)
        means = [frame.mean() for frame in frames(tmp_path / "film.mp4")]
        assert [mean > 128 for mean in means] == [name == "light" for name in names]
        assert all(mean < 8 or mean > 247 for mean in means)


def test_shares_mix_the_pictures_of_two_models(source: Clip, tmp_path: Path) -> None:
    models = {"dark": painter(0, -9.0), "light": painter(1, 9.0)}
    choices = [{"dark": 1 - i / 9, "light": i / 9} for i in range(10)]
    paint_film(source, models, tmp_path / "film.mp4", choices=choices, quality=1)
    means = [frame.mean() for frame in frames(tmp_path / "film.mp4")]
    assert means == pytest.approx([255 * i / 9 for i in range(10)], abs=4)


@pytest.mark.parametrize("count", [8, 10])
def test_a_clip_that_breaks_off_gives_a_shorter_film(
    source: Clip, tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = tmp_path / "short.mp4"
    write_film((clip().frames[i] for i in range(count)), short, 25)
    longer = Clip(**{**vars(open_clip(short, size=96)), "frames": 14})
    with monkeypatch.context() as patch:
        patch.setattr(clips, "join_films", stop)
        with pytest.raises(Stop):
            paint_film(longer, {"ink": painter(0)}, tmp_path / "film.mp4")
    for _ in range(2):
        assert paint_film(longer, {"ink": painter(0)}, tmp_path / "film.mp4") == count
        assert len(frames(tmp_path / "film.mp4")) == count


def stop(*args: object, **options: object) -> None:
    raise Stop


def test_bad_numbers_are_refused_before_anything_is_written(source: Clip, tmp_path: Path) -> None:
    model = {"ink": painter(0)}
    with pytest.raises(InputError, match="batch = 0"):
        paint_film(source, model, tmp_path / "film.mp4", batch=0)
    with pytest.raises(InputError, match=r"steady = -1"):
        paint_film(source, model, tmp_path / "film.mp4", steady=-1.0)
    with pytest.raises(InputError, match="quality = 52"):
        paint_film(source, model, tmp_path / "film.mp4", quality=52)
    with pytest.raises(InputError, match=r"ends in \.mp4"):
        paint_film(source, model, tmp_path / "film.gif")
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_memory_does_not_grow_with_the_clip(tmp_path: Path) -> None:
    """Peak memory of 120 and of 300 frames, in a process that has done nothing else."""
    script = (
        "import sys, torch\n"
        "torch.set_num_threads(1)\n"
        "from workbench.devices import peak_megabytes, reset_peak_megabytes\n"
        "from workbench.fast import applying, StyleModel\n"
        "from workbench.fast.network import TransformationNetwork\n"
        "from workbench.video.clips import open_clip\n"
        "TransformationNetwork.forward = lambda self, pictures, *_: pictures\n"
        "model = StyleModel(TransformationNetwork(0.25).requires_grad_(False),\n"
        "                   torch.device('cpu'), torch.float32)\n"
        "for path in sys.argv[1:]:\n"
        "    clip = open_clip(path)\n"
        "    reset_peak_megabytes()\n"
        "    applying.paint_film(clip, {'ink': model}, path + '.out.mp4')\n"
        "    print('MB', peak_megabytes())\n"
    )
    paths = [tmp_path / f"{count}.mp4" for count in (120, 300)]
    for path in paths:  # of one colour, which is soon coded
        write_film(repeat(np.zeros((240, 320, 3), np.uint8), int(path.stem)), path, 25)
    run = subprocess.run(
        [sys.executable, "-c", script, *map(str, paths)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    few, many = map(float, re.findall("MB (.*)", run.stdout))
    assert many < few + 30


# --- pictures ----------------------------------------------------------------------------


@pytest.fixture
def album(tmp_path: Path) -> list[str]:
    for i in range(3):
        save_image(torch.rand(1, 3, 40 + i, 60), tmp_path / "album" / f"{i}.jpg")
    return [str(tmp_path / "album" / f"{i}.jpg") for i in range(3)]


def test_pictures_are_painted_and_broken_ones_named(album: list[str], tmp_path: Path) -> None:
    Path(album[1]).write_bytes(b"broken")
    faults = paint_pictures(painter(0), album, tmp_path / "painted")
    assert len(faults) == 1
    assert "1.jpg" in faults[0]
    assert sorted(path.name for path in (tmp_path / "painted").glob("*.png")) == ["0.png", "2.png"]
    assert load_image(tmp_path / "painted" / "2.png").shape == (1, 3, 42, 60)
    expected = paint_picture(painter(0), album[2])
    assert (load_image(tmp_path / "painted" / "2.png") - expected).abs().max() < 0.51 / 255


def test_painted_pictures_are_kept_unless_their_source_is_newer(
    album: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "painted"
    paint_pictures(painter(0), album, folder)
    (folder / "0.png").unlink()
    before = {n: (folder / f"{n}.png").stat().st_mtime_ns for n in (1, 2)}
    save_image(torch.zeros(1, 3, 40, 60), album[2])
    later = (folder / "2.png").stat().st_mtime + 10
    os.utime(album[2], (later, later))
    paint_pictures(painter(0), album, folder)
    assert (folder / "0.png").exists()
    assert (folder / "1.png").stat().st_mtime_ns == before[1]
    assert (folder / "2.png").stat().st_mtime_ns != before[2]
    with pytest.raises(InputError, match="another run: model is"):
        paint_pictures(painter(1), album, folder)


def test_luma_keeps_the_colours_of_pictures(album: list[str], tmp_path: Path) -> None:
    paint_pictures(painter(0), album, tmp_path / "painted", original_colors="luma")
    own, painted = load_image(album[0]), paint_picture(painter(0), album[0])
    kept = load_image(tmp_path / "painted" / "0.png")
    assert (kept - transfer_luma(painted, own)).abs().max() < 0.51 / 255
    assert (kept - painted).abs().mean() > 0.05
    with pytest.raises(InputError, match="another run: original_colors was"):
        paint_pictures(painter(0), album, tmp_path / "painted")
    with pytest.raises(InputError, match="use luma or off"):
        paint_pictures(painter(0), album, tmp_path / "pca", original_colors="pca")
    assert not (tmp_path / "pca").exists()


def test_pictures_of_one_name_are_refused(album: list[str], tmp_path: Path) -> None:
    save_image(torch.rand(1, 3, 40, 40), tmp_path / "album" / "0.png")
    with pytest.raises(InputError, match=r"would both become .*0\.png; rename one"):
        paint_pictures(painter(0), [*album, str(tmp_path / "album" / "0.png")], tmp_path / "out")


def test_pictures_are_shrunk_to_the_size(album: list[str]) -> None:
    assert paint_picture(painter(0), album[0], 30).shape == (1, 3, 20, 30)
    assert paint_picture(painter(0), album[0], 300).shape == (1, 3, 40, 60)
    assert paint_picture(painter(0), "sample:astronaut", 64).shape == (1, 3, 64, 64)
