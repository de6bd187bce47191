from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tools import default_parameters, run_cells

from workbench.runs import read_result

# What keeps each notebook short, beside a small size and few steps.
SHORT: dict[str, dict[str, Any]] = {
    "compare_video": {"end": 0.08, "later_steps": 2},
    "edit_film": {"end": 0.4, "captions": {}},
    "explore_weights": {"row_values": [1.0], "column_values": [10.0, 1000.0]},
    "inside_the_network": {
        "style_layers": ["relu1_1", "relu2_1"],
        "content_layers": ["relu2_2"],
        "filters": {"relu2_2": [3]},
        "filter_steps": 5,
    },
    "mix_style_models": {"end": 0.4, "schedule": "swirls", "training_steps": 2},
    "style_sweep": {"styles": ["sample:mosaic"]},
    "stylize_clip": {"end": 0.08, "later_steps": 2},
    "stylize_image": {"gif_frames": 4},
    "train_style_model": {"on": "sample:clip", "training_steps": 2, "checkpoint_every": 1},
    "tune_weights": {},
    "which_is_better": {"contents": ["sample:coffee"], "styles": ["sample:mosaic"]},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SHORT)
def test_a_small_size_and_few_steps_are_all_that_is_changed(name: str, tmp_path: Path) -> None:
    defaults = default_parameters(name)
    small = {key: value for key, value in {"size": 96, "steps": [10]}.items() if key in defaults}
    if "models_dir" in defaults:
        small["models_dir"] = str(tmp_path / "models")
    run_cells(name, None, output_dir=str(tmp_path / "run"), **SHORT[name], **small)
    result = read_result(tmp_path / "run")
    assert result is not None
    assert set(defaults) <= set(result.settings)  # everything that the run was told
    assert not (tmp_path / "run" / "unfinished").exists()


def test_no_notebook_is_left_out() -> None:
    folder = Path(__file__).parent.parent.parent / "notebooks"
    assert {path.stem for path in folder.glob("*.ipynb")} == set(SHORT)
