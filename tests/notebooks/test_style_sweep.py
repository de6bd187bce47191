from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tools import default_parameters, run_cells, shown
from tools import run as run_headless

from workbench import series
from workbench.errors import InputError
from workbench.images import save_image
from workbench.notebook import settings_from
from workbench.runs import read_result
from workbench.samples import STYLES, load_picture
from workbench.settings import Settings

QUICK = {"size": 96, "steps": [6]}


def run(output: Path, **parameters: Any) -> Path:
    executed = output / "style_sweep.ipynb"
    run_headless("style_sweep", executed, output, **{**QUICK, **parameters})
    return executed


def pictures(output: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (output / "pictures").glob("*.png")}


@pytest.fixture
def sketchbook(tmp_path: Path) -> Path:
    """Three sketches, a damaged one and a file that is no picture."""
    folder = tmp_path / "sketchbook"
    for number, name in zip((1, 2, 10), STYLES, strict=True):
        save_image(load_picture(f"sample:{name}", 150), folder / f"page {number}.png")
    (folder / "page 3.png").write_bytes((folder / "page 2.png").read_bytes()[:999])
    (folder / "thoughts.txt").write_text("no picture")
    return folder


@pytest.mark.slow
def test_a_folder_with_a_bad_file_and_the_same_again(
    sketchbook: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    executed = run(output, styles=str(sketchbook), sort_by="content_loss")
    assert "4/4" in capsys.readouterr().out
    assert shown(executed).count("image/webp") == 2  # photograph, sheet
    assert "image/gif" in shown(executed)
    assert "page 3.png is damaged" in executed.read_text()

    result = read_result(output)
    assert result is not None
    assert {"sheet", "gif", "table", "photograph"} <= set(result.outputs)
    assert {"picture page_1", "picture page_2", "picture page_10"} <= set(result.outputs)
    assert (result.figures["pictures"], result.figures["problems"]) == (3, 1)
    with Image.open(output / "flip.gif") as gif:
        assert gif.n_frames == 3
        assert gif.info["duration"] == 800
    with (output / "table.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    losses = [float(line["content_loss"]) for line in lines[:3]]
    assert losses == sorted(losses)
    assert lines[3]["caption"] == "page 3"

    before = pictures(output)
    save_image(load_picture("sample:mosaic", 150), sketchbook / "page 3.png")
    run_cells("style_sweep", None, output_dir=str(output), styles=str(sketchbook), **QUICK)
    after = pictures(output)
    assert len(after) == 4
    assert {name: after[name] for name in before} == before
    again = read_result(output)
    assert again is not None
    assert again.figures["problems"] == 0


@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on(sketchbook: Path, tmp_path: Path) -> None:
    (sketchbook / "page 3.png").unlink()
    folder = tmp_path / "killed"
    parameters = {"styles": str(sketchbook), **QUICK, "steps": [12]}
    script = (
        "import json, sys\n"
        "from workbench import series\n"
        "from workbench.settings import Settings\n"
        "settings = Settings(size=96, steps=(12,))\n"
        "variations = series.sweep('sample:astronaut', sys.argv[1], settings)\n"
        "for _ in series.paint_variations(variations, sys.argv[2], settings):\n"
        "    print('\\nfinished', flush=True)\n"
    )
    command = [sys.executable, "-c", script, str(sketchbook), str(folder / "pictures")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any(line.startswith("finished") for line in process.stdout)
        os.kill(process.pid, signal.SIGKILL)
    before = pictures(folder)
    assert 1 <= len(before) < 3
    run(folder, **parameters)
    after = pictures(folder)
    assert len(after) == 3
    assert {name: after[name] for name in before} == before

    settings = Settings(size=96, steps=(12,))
    variations = series.sweep("sample:astronaut", str(sketchbook), settings)
    for each in series.paint_variations(variations, tmp_path / "whole", settings):
        assert (folder / "pictures" / each.path.name).read_bytes() == each.path.read_bytes()


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty is a folder without pictures"):
        run_cells("style_sweep", 1, styles=str(tmp_path / "empty"))


def test_defaults_are_the_samples_in_a_draft() -> None:
    values = default_parameters("style_sweep")
    assert settings_from(values) == Settings.from_preset("draft")
    assert values["styles"] == [f"sample:{name}" for name in STYLES]
