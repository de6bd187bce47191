from __future__ import annotations

import ast
import io
import json
import re
import shutil
import subprocess
import sys
import tokenize
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from PIL import Image
from test_checkpoints import kill_once_it_wrote
from tools import default_parameters, parameters_cell, run_cells, shown

from workbench.descent import measure
from workbench.errors import InputError, WorkbenchError
from workbench.images import load_image
from workbench.notebook import find_notebook, run_notebook, settings_from
from workbench.runs import read_result
from workbench.samples import load_picture
from workbench.settings import Settings

NOTEBOOKS = sorted((Path(__file__).parent.parent.parent / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_outputs_are_committed(notebook: Path) -> None:
    for cell in nbformat.read(notebook, 4).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_parameters_are_typed_literals_with_a_comment_each(notebook: Path) -> None:
    source = parameters_cell(notebook)
    for statement in ast.parse(source).body:
        assert isinstance(statement, ast.AnnAssign)
        assert statement.value is not None
        value = ast.literal_eval(statement.value)
        assert type(value).__name__ in ast.unparse(statement.annotation).split(" | ")
    lines = [line for line in source.splitlines() if line.strip()]
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    assert sum(token.type == tokenize.COMMENT for token in tokens) == len(lines)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_sentence_stands_before_every_step(notebook: Path) -> None:
    cells = nbformat.read(notebook, 4).cells
    for before, cell in pairwise(cells):
        if cell.cell_type == "code":
            assert before.cell_type == "markdown"
            assert before.source.rstrip().endswith(".")


def test_defaults_are_those_of_settings() -> None:
    defaults = default_parameters("stylize_image")
    assert {field.name for field in fields(Settings)} <= set(defaults)
    assert settings_from(defaults) == Settings()


def test_no_such_notebook() -> None:
    with pytest.raises(InputError, match="'paint_house'"):
        find_notebook("paint_house")


def test_run_notebook_refuses_unknown_parameters_before_it_starts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="stlye"):
        run_notebook(find_notebook("stylize_image"), tmp_path / "out.ipynb", {"stlye": 1})
    assert not list(tmp_path.iterdir())


QUICK = {"size": 128, "steps": [20, 25], "gif_frames": 8}


@pytest.mark.slow
def test_runs_headless_and_shows_everything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    executed = output / "stylize_image.ipynb"
    run_notebook(find_notebook("stylize_image"), executed, {"output_dir": str(output), **QUICK})
    result = read_result(output)
    assert result is not None
    files = {"picture", "gif", "mp4", "strip", "comparison", "losses", "content", "style 1"}
    assert set(result.outputs) == files
    assert result.weights["name"] == "vgg16"
    assert len(result.weights["sha256"]) == 64
    assert result.settings["size"] == 128
    assert {"workbench", "torch", "python"} <= set(result.versions)
    assert "45/45" in capsys.readouterr().out  # the bar came through

    kinds = shown(executed)
    assert kinds.count("image/webp") == 6  # two of them under one handle
    assert {"image/gif", "text/markdown"} <= set(kinds)
    with Image.open(output / "progress.gif") as gif:
        assert 2 <= gif.n_frames <= 8

    photo, painting = load_picture("sample:astronaut"), load_picture("sample:swirls")
    settings = Settings(size=128, steps=(20, 25))
    saved = load_image(output / "picture.png")
    assert measure(saved, photo, [painting], settings).total == pytest.approx(
        result.figures["loss"], rel=1e-4
    )


@pytest.mark.slow
def test_papermill_itself_and_the_same_picture_again(tmp_path: Path) -> None:
    Image.fromarray(np.asarray(Image.effect_noise((120, 90), 90).convert("RGB"))).save(
        tmp_path / "photo with space.png"
    )
    command = [sys.executable, "-m", "papermill", str(find_notebook("stylize_image"))]
    command += [str(tmp_path / "a.ipynb"), "-p", "content", "photo with space.png"]
    command += ["-p", "style", "sample:mosaic", "-p", "output_dir", "a"]
    command += ["-p", "size", "64", "-y", "steps: [22]", "-p", "style_weight", "300.0"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    again: dict[str, Any] = {"size": 64, "steps": [22], "style_weight": 300.0}
    again |= {"content": str(tmp_path / "photo with space.png"), "style": "sample:mosaic"}
    run_cells("stylize_image", None, output_dir=str(tmp_path / "b"), **again)
    pictures = [(tmp_path / run / "picture.png").read_bytes() for run in ("a", "b")]
    assert pictures[0] == pictures[1]
    assert read_result(tmp_path / "a").settings["style_weight"] == 300.0  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("parameter", "value", "sentence"),
    [
        ("stlye_weight", 3, "unknown parameter 'stlye_weight'; did you mean 'style_weight'?"),
        ("style_weight", -3.0, "style_weight = -3.0: give a number from 0 on."),
        ("content", "nowhere.jpg", "nowhere.jpg: there is no such file in "),
    ],
)
def test_bad_parameters_are_refused_with_a_sentence(
    parameter: str,
    value: object,
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=re.escape(sentence)):
        run_cells("stylize_image", 2, **{parameter: value})
    assert not (tmp_path / "runs" / "stylize_image" / "result.json").exists()


@pytest.mark.slow
def test_papermill_with_an_unknown_parameter_fails_with_a_sentence(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "papermill", str(find_notebook("stylize_image"))]
    command += [str(tmp_path / "out.ipynb"), "-p", "stlye_weight", "3"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    sentence = "unknown parameter 'stlye_weight'; did you mean 'style_weight'?"
    assert f"InputError: {sentence}" in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_notebook_that_fails_is_kept_under_another_name(tmp_path: Path) -> None:
    output = tmp_path / "run" / "stylize_image.ipynb"
    parameters = {"output_dir": str(tmp_path / "run"), "content": "nowhere.jpg"}
    with pytest.raises(WorkbenchError, match=r"nowhere\.jpg: there is no such file in /"):
        run_notebook(find_notebook("stylize_image"), output, parameters)
    assert [file.name for file in output.parent.iterdir()] == ["stylize_image.failed.ipynb"]


@pytest.mark.slow
def test_killed_and_run_again_it_goes_on_to_the_same_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, checkpoint = tmp_path / "killed", tmp_path / "killed" / "picture.checkpoint"
    notebook = find_notebook("stylize_image")
    parameters = {"size": 64, "steps": [80], "gif_frames": 8}
    command = ["papermill", str(notebook), str(tmp_path / "out.ipynb")]
    command += ["-y", json.dumps({"output_dir": str(folder), **parameters})]
    kill_once_it_wrote(command, checkpoint)
    assert read_result(folder) is None
    shutil.copytree(folder, tmp_path / "other")

    run_notebook(notebook, tmp_path / "out.ipynb", {"output_dir": str(folder), **parameters})
    assert not checkpoint.exists()
    assert f"Going on from step 50 in {checkpoint}." in (tmp_path / "out.ipynb").read_text("utf-8")

    def run(output: Path, **changes: object) -> str:
        """What a run right here prints."""
        capsys.readouterr()
        run_cells("stylize_image", None, **{"output_dir": str(output), **parameters, **changes})
        assert not (output / "picture.checkpoint").exists()
        return capsys.readouterr().out

    assert "Going on" not in run(tmp_path / "whole")
    for name in ("picture.png", "progress.gif", "strip.png", "losses.png"):
        assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    printed = run(tmp_path / "other", steps=[5])
    assert "belongs to another run (steps was [80], is [5]); the painting begins anew." in printed
