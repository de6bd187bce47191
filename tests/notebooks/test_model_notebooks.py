from __future__ import annotations

import re
import shlex
from pathlib import Path

import nbformat
import numpy as np
import pytest
import yaml
from sample_clip import clip
from tools import run_cells, shown

from workbench.errors import InputError
from workbench.fast.models import read_folder
from workbench.images import from_array, load_image, resize, to_array
from workbench.notebook import find_notebook, run_notebook
from workbench.runs import read_result
from workbench.video.clips import open_clip, read_frames, write_film

QUICK = {
    "size": 96,
    "width": 0.25,
    "crop": 64,
    "checkpoint_every": 3,
    "copy_steps": 1,
    "precision": "float32",
}


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """Twelve frames of the sample clip, with sound."""
    sample = clip()
    path = tmp_path / "short.mp4"
    sample.sound.write_film(sample.frames[:12], path, sample.fps)
    return path


@pytest.mark.slow
def test_train_style_model_shows_previews_and_goes_on_where_it_was(
    film: Path, tmp_path: Path
) -> None:
    folder, executed = tmp_path / "my models" / "ink", tmp_path / "executed.ipynb"
    parameters = {"style": "sample:hatching", "on": str(film), "output_dir": str(folder), **QUICK}
    run_cells("train_style_model", None, **parameters, training_steps=6, live_page=False)
    assert not (folder / "live").exists()
    result = read_result(folder)
    assert result is not None
    assert {"model", "gif", "losses", "previews"} <= set(result.outputs)
    assert result.figures["steps"] == 6
    assert load_image(folder / "step-000006.png").shape == (1, 3, 96, 96)

    first = (folder / "step-000003.safetensors").stat().st_mtime_ns
    more = {"training_steps": 9, "labels": {"weird": 3, "less good": 6}}
    run_notebook(find_notebook("train_style_model"), executed, {**parameters, **more})
    kinds = shown(executed)
    assert kinds.count("image/webp") == 5  # inputs, preview, losses, stages, painted
    assert kinds.count("image/gif") == 1
    result = read_result(folder)
    assert result is not None
    assert result.outputs["page"] == "live/index.html"
    model = read_folder(folder)
    assert [each.step for each in model.checkpoints] == [3, 6, 9]
    assert model.labels == {"weird": 3, "less good": 6}
    assert (folder / "step-000003.safetensors").stat().st_mtime_ns == first
    table = nbformat.read(executed, 4).cells[-5].outputs[0].data["text/markdown"]
    assert "| less good |" in table
    commands = re.search(r"```sh\n(.*)\n(.*)\n```", table)
    assert commands is not None
    assert shlex.split(commands[1])[:3] == ["workbench", "apply", str(folder)]
    assert shlex.split(commands[2])[:3] == ["workbench", "apply", f"{folder}@3"]


@pytest.mark.slow
def test_mix_style_models_trains_what_is_missing_and_follows_the_schedule(
    film: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    parameters = {
        "clip": str(film),
        "schedule": {"0-0.2": "ink", "0.2-": ["stones", "stones@2"]},
        "styles": {"ink": "sample:hatching", "stones": "sample:mosaic"},
        "models_dir": str(tmp_path / "models"),
        "output_dir": str(output),
        "training_steps": 2,
        "size": 320,
        "hold": 2,
        "crossfade": 1,
        "original_colors": "luma",
    }
    run_notebook(find_notebook("mix_style_models"), tmp_path / "executed.ipynb", parameters)
    result = read_result(output)
    assert result is not None
    assert {"film", "gif", "strip", "schedule"} <= set(result.outputs)
    painted = open_clip(output / "film.mp4")
    assert (painted.frames, painted.shape, painted.sound) == (12, (240, 320), True)
    assert len(list(read_frames(painted))) == 12
    own, kept = (next(read_frames(open_clip(path))) for path in (film, output / "film.mp4"))
    hue = [each - each.mean(2, keepdims=True) for each in (own.astype(float), kept.astype(float))]
    assert np.abs(hue[0] - hue[1]).mean() < 8  # brightness that leaves 0 to 255 is clipped
    shares = [result.figures[f"share of {name}"] for name in ("ink", "stones", "stones@2")]
    assert sum(shares) == pytest.approx(1)
    assert 5 / 12 <= shares[0] <= 6 / 12
    kinds = shown(tmp_path / "executed.ipynb")
    assert kinds.count("image/webp") == 2
    assert kinds.count("image/gif") == 1

    # The same again as YAML text: the same film, from the models that are there now.
    film_before = (output / "film.mp4").read_bytes()
    models = {path: path.stat().st_mtime_ns for path in (tmp_path / "models").rglob("*.json")}
    text = yaml.safe_dump(parameters["schedule"])
    run_cells("mix_style_models", None, **{**parameters, "schedule": text})
    assert (output / "film.mp4").read_bytes() == film_before
    assert {path: path.stat().st_mtime_ns for path in models} == models


@pytest.mark.slow
@pytest.mark.parametrize(("longest", "size", "crop"), [(320, 96, 72), (100, 640, 74)])
def test_a_small_film_is_learned_on_in_small_crops(
    tmp_path: Path, longest: int, size: int, crop: int, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = (to_array(resize(from_array(each), longest)) for each in clip().frames[:6])
    write_film(frames, tmp_path / "small.mp4", 25)
    made = run_cells(
        "mix_style_models",
        3,
        clip=str(tmp_path / "small.mp4"),
        schedule="ink",
        styles={"ink": "sample:hatching"},
        models_dir=str(tmp_path / "models"),
        output_dir=str(tmp_path / "run"),
        training_steps=1,
        size=size,
        device="cpu",
        precision="float32",
    )
    assert "Left out" not in capsys.readouterr().out
    assert min(made["source"].shape) == crop  # of 4:3, in even numbers
    assert read_folder(tmp_path / "models" / "ink").settings["crop"] == crop


@pytest.mark.parametrize(
    ("schedule", "sentence"),
    [
        ({"0-0.2": "ink", "0.3-": "ink"}, r"nothing is said from 0\.2 to 0\.3 s"),
        ({"0-0.3": "ink", "0.2-": "ink"}, "overlap"),
        ({"0-9": "ink"}, "goes beyond the clip's end"),
    ],
)
def test_a_wrong_schedule_is_refused_before_anything_is_trained(
    film: Path, tmp_path: Path, schedule: dict[str, str], sentence: str
) -> None:
    parameters = {
        "clip": str(film),
        "schedule": schedule,
        "styles": {"ink": "sample:hatching"},
        "models_dir": str(tmp_path / "models"),
        "output_dir": str(tmp_path / "run"),
    }
    with pytest.raises(InputError, match=sentence):
        run_cells("mix_style_models", 1, **parameters)
    assert not (tmp_path / "models").exists()


def test_a_model_that_is_nowhere_is_named(film: Path, tmp_path: Path) -> None:
    parameters = {
        "clip": str(film),
        "schedule": "ink",
        "styles": {},
        "models_dir": str(tmp_path / "models"),
        "output_dir": str(tmp_path / "run"),
    }
    with pytest.raises(InputError, match=r"models has no model 'ink', and styles has no picture"):
        run_cells("mix_style_models", 1, **parameters)
