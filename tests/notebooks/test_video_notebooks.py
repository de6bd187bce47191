from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from sample_clip import clip
from tools import run_cells, shown

from workbench.cells import read_parameters
from workbench.colour import transfer_luma
from workbench.errors import InputError
from workbench.fast.models import save_network
from workbench.fast.network import TransformationNetwork
from workbench.images import from_array, load_image, save_image, to_array
from workbench.notebook import find_notebook, run_notebook
from workbench.runs import read_result
from workbench.settings import MODES
from workbench.video.clips import open_clip, read_frames, write_film
from workbench.video.frames import frame_path

QUICK = {"size": 64, "steps": [22], "later_steps": 4, "flow_method": "dis"}


@pytest.fixture
def short_clip(tmp_path: Path) -> Path:
    """Six frames of the sample clip around its cut, with sound."""
    film = clip()
    path = tmp_path / "short.mp4"
    film.sound.write_film(film.frames[film.cut - 3 : film.cut + 3], path, film.fps)
    return path


@pytest.mark.parametrize("name", ["stylize_clip", "compare_video", "mix_style_models", "edit_film"])
def test_times_are_numbers_or_texts(name: str) -> None:
    cells = json.loads(find_notebook(name).read_text("utf-8"))["cells"]
    (source,) = [
        cell["source"] for cell in cells if "parameters" in cell["metadata"].get("tags", ())
    ]
    parameters = read_parameters("".join(source))
    for time in {"start", "end", "gif_start"} & set(parameters):
        assert parameters[time].accepts(1.5)
        assert parameters[time].accepts("00:01:30")
        assert not parameters[time].accepts([1.5])


@pytest.mark.slow
def test_compare_video_makes_all_films_and_goes_on_where_it_was(
    short_clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    executed = output / "compare_video.ipynb"
    parameters: dict[str, Any] = {"clip": str(short_clip), "output_dir": str(output), **QUICK}
    run_notebook(find_notebook("compare_video"), executed, parameters)

    result = read_result(output)
    assert result is not None
    assert set(MODES) | {"comparison_mp4", "moment_gif", "flicker_png"} <= set(result.outputs)
    for name in (*MODES, "comparison_mp4"):
        film = open_clip(output / result.outputs[name])
        assert (film.frames, film.fps, film.sound) == (6, 25, True)
        assert len(list(read_frames(film))) == 6
    wide = open_clip(output / "comparison.mp4").shape[1]
    assert wide > 3 * open_clip(output / "temporal" / "film.mp4").shape[1]
    assert result.figures["frames"] == 6
    for mode in MODES:
        assert result.figures[f"{mode} warping_error"] > 0
        assert result.figures[f"{mode} peak_megabytes"] > 0
    assert result.figures["temporal warping_error"] < result.figures["per-frame warping_error"]
    assert result.settings["steadiest"] in MODES
    with Image.open(output / "moment.gif") as gif:
        assert 2 <= gif.n_frames <= 6
    kinds = shown(executed)
    assert kinds.count("image/webp") == 3  # inputs, flow, flicker
    assert kinds.count("video/mp4") == 3  # side by side, and two under one handle
    assert "image/gif" in kinds
    assert "text/markdown" in kinds
    printed = capsys.readouterr().out
    for mode in MODES:
        assert f"{mode}: 100%" in printed

    # Half of one film is lost: it is painted again, the others are not touched.
    films = {mode: (output / mode / "film.mp4").read_bytes() for mode in MODES}
    untouched = frame_path(output / "blended" / "frames", 5).stat().st_mtime_ns
    for number in (2, 3, 4, 5):
        frame_path(output / "temporal" / "frames", number).unlink()
    run_cells("compare_video", None, **parameters)
    assert {mode: (output / mode / "film.mp4").read_bytes() for mode in MODES} == films
    assert frame_path(output / "blended" / "frames", 5).stat().st_mtime_ns == untouched


@pytest.mark.slow
def test_stylize_clip_makes_one_film_of_a_section(short_clip: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    executed = output / "stylize_clip.ipynb"
    parameters = {"clip": str(short_clip), "output_dir": str(output), "mode": "flow-warped"}
    section = {"start": "00:00:00.04", "end": 0.2, "stride": 2, "gif_start": "0:00"}
    half = torch.zeros(1, 3, 48, 64)
    half[..., :32] = 1
    save_image(half, tmp_path / "half.png")
    region = {"masks": [str(tmp_path / "half.png")], "original_colors": "luma"}
    given = {**parameters, **section, **region, **QUICK}
    run_notebook(find_notebook("stylize_clip"), executed, given)
    result = read_result(output)
    assert result is not None
    assert {name: result.settings[name] for name in region} == region
    source = next(read_frames(open_clip(short_clip, start=0.04, size=64)))
    shown_first = next(read_frames(open_clip(output / "film.mp4")))
    painted = load_image(frame_path(output / "frames", 0))
    expected = to_array(transfer_luma(painted, from_array(source)))
    assert np.abs(shown_first.astype(int) - expected).mean() < 8
    assert set(result.outputs) == {"film", "gif", "strip", "inputs"}
    film = open_clip(output / "film.mp4")
    assert (film.frames, film.fps, film.sound) == (2, 12.5, True)
    assert result.settings["mode"] == "flow-warped"
    assert {"image/webp", "image/gif", "video/mp4", "text/markdown"} <= set(shown(executed))


@pytest.mark.slow
def test_another_style_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    for number, frame in enumerate(clip().frames[:3]):
        save_image(from_array(frame), pictures / f"frame_{number}.png")
    output = tmp_path / "run"
    parameters: dict[str, Any] = {"clip": str(pictures), "output_dir": str(output), **QUICK}
    parameters |= {"end": 0.08, "fps": 24}
    executed = output / "stylize_clip.ipynb"
    run_cells("stylize_clip", None, **parameters)
    assert (open_clip(output / "film.mp4").fps, open_clip(output / "film.mp4").frames) == (24, 2)
    film = (output / "film.mp4").read_bytes()
    with pytest.raises(InputError, match=r"another run: style_weight was 100\.0, is 7\.0"):
        run_notebook(find_notebook("stylize_clip"), executed, {**parameters, "style_weight": 7.0})
    assert (output / "film.mp4").read_bytes() == film
    assert read_result(output) is not None


@pytest.mark.slow
def test_edit_film_cuts_finished_films_and_what_models_paint(
    short_clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    painted = tmp_path / "ink.mp4"
    write_film((255 - frame for frame in read_frames(open_clip(short_clip))), painted, 25)
    save_network(TransformationNetwork(0.25), tmp_path / "oil.safetensors")
    parameters: dict[str, Any] = {
        "clip": str(short_clip),
        "schedule": f"0-0.12: {painted}\n0.12-: [{tmp_path / 'oil.safetensors'}]",
        "captions": {"0.12-": "oil"},
        "title": "Two sketches",
        "title_seconds": 0.08,
        "source_beside": True,
        "crossfade": 1,
        "precision": "float32",
        "output_dir": str(tmp_path / "run"),
    }
    run_notebook(find_notebook("edit_film"), tmp_path / "executed.ipynb", parameters)
    result = read_result(tmp_path / "run")
    assert result is not None
    assert {"film", "gif", "moments", "schedule"} <= set(result.outputs)
    film, source = open_clip(tmp_path / "run" / "film.mp4"), open_clip(short_clip)
    assert (film.frames, film.fps, film.sound) == (6, 25, True)
    assert film.shape[1] > 2 * source.shape[1]
    with av.open(str(short_clip)) as one, av.open(str(film.path)) as other:
        mine, theirs = ([bytes(p) for p in each.demux(audio=0)] for each in (other, one))
    assert mine[:9] == theirs[:9]
    kinds = shown(tmp_path / "executed.ipynb")
    assert kinds.count("image/webp") == 2
    assert kinds.count("video/mp4") == 1
    assert len(list((tmp_path / "run" / "painted").glob("*.mp4"))) == 1

    later = read_frames(film, 2)  # when the title is gone
    first = next(later)
    left = first[8 : 8 + source.shape[0], 8 : 8 + source.shape[1]].astype(int)
    right = first[8 : 8 + source.shape[0], -8 - source.shape[1] : -8].astype(int)
    assert np.abs(left + right - 255).mean() < 6

    with pytest.raises(InputError, match=r"schedule: nothing is said from 0\.1 to 0\.24 s"):
        run_cells("edit_film", 1, **{**parameters, "schedule": {"0-0.1": str(painted)}})
