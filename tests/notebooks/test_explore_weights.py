from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tools import default_parameters, run, run_cells, shown

from workbench.descent import measure
from workbench.errors import InputError
from workbench.images import crop_image, load_image
from workbench.notebook import settings_from
from workbench.runs import read_result
from workbench.samples import load_picture
from workbench.settings import Settings

QUICK = {"size": 96, "steps": [6]}


def explore(output: Path, **parameters: Any) -> Path:
    executed = output / "explore_weights.ipynb"
    run("explore_weights", executed, output, **{**QUICK, **parameters})
    return executed


def pictures(output: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (output / "pictures").glob("*.png")}


@pytest.mark.slow
def test_a_grid_of_weights_and_the_same_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid: dict[str, Any] = {"row_values": [1.0, 25.0], "column_values": [10.0, 1000.0]}
    executed = explore(tmp_path, **grid)
    assert "4/4" in capsys.readouterr().out
    assert shown(executed).count("image/webp") == 3  # inputs, sheet, trade-off
    assert "text/markdown" in shown(executed)
    result = read_result(tmp_path)
    assert result is not None
    assert {"sheet", "tradeoff", "table", "inputs"} <= set(result.outputs)
    assert len(result.outputs) == 8
    assert result.figures["pictures"] == 4
    assert result.settings["columns"] == "style_weight"

    name = "content_weight_1-style_weight_1000"
    painted = load_image(tmp_path / result.outputs[f"picture {name}"])
    ruler = Settings(content_weight=1, style_weight=1, tv_weight=1, size=96)
    photo, style = load_picture("sample:astronaut"), load_picture("sample:swirls")
    measured = measure(painted, photo, [style], ruler)
    assert result.figures[f"{name} style_loss"] == pytest.approx(measured.style_total, rel=1e-4)

    before = pictures(tmp_path)
    more = {**grid, "column_values": [10.0, 100.0, 1000.0]}
    run_cells("explore_weights", None, output_dir=str(tmp_path), **QUICK, **more)
    after = pictures(tmp_path)
    assert len(after) == 6
    assert {name: after[name] for name in before} == before


@pytest.mark.slow
def test_crops_are_compared(tmp_path: Path) -> None:
    box = [0.2, 0.0, 0.65, 0.6]
    rows = {"rows": "crop", "row_values": [[], box], "column_values": [20.0]}
    run_cells("explore_weights", None, output_dir=str(tmp_path), **QUICK, **rows)
    result = read_result(tmp_path)
    assert result is not None
    whole = load_image(tmp_path / result.outputs["picture crop_whole-style_weight_20"])
    part = load_image(tmp_path / result.outputs["picture crop_0.2_0_0.65_0.6-style_weight_20"])
    assert whole.shape == (1, 3, 96, 96)
    cropped = crop_image(load_picture("sample:astronaut"), (0.2, 0.0, 0.65, 0.6))
    assert part.shape[-1] / part.shape[-2] == pytest.approx(
        cropped.shape[-1] / cropped.shape[-2], abs=0.02
    )


def test_nonsense_is_refused_before_anything_is_painted(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'style_scale'"):
        run_cells("explore_weights", 1, columns="style_scal", output_dir=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_defaults_are_a_quick_grid() -> None:
    values = default_parameters("explore_weights")
    assert settings_from(values) == Settings.from_preset("draft")
    assert len(values["row_values"]) * len(values["column_values"]) == 9
