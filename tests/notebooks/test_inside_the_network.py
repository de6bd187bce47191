from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tools import default_parameters, run, run_cells, shown

from workbench.errors import InputError
from workbench.filters import gram_distances
from workbench.images import load_image
from workbench.notebook import settings_from
from workbench.runs import read_result
from workbench.samples import load_picture
from workbench.textures import SETTINGS, psnr

QUICK = {
    "style_layers": ["relu1_1", "relu3_1"],
    "content_layers": ["relu2_2", "relu4_1"],
    "size": 96,
    "steps": [25],
    "filters": {"relu2_2": [3, 30], "relu4_1": 2},
    "filter_size": 48,
    "filter_steps": 10,
    "patches": 3,
    "patches_from": 160,
    "gif_frames": 5,
}


def look_inside(output: Path, **parameters: Any) -> Path:
    executed = output / "inside_the_network.ipynb"
    run("inside_the_network", executed, output, **{**QUICK, **parameters})
    return executed


@pytest.mark.slow
def test_everything_is_shown_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    executed = look_inside(tmp_path)
    printed = capsys.readouterr().out
    assert "25/25" in printed
    assert "10/10" in printed
    assert "relu4_1: an activation sees 60 x 60 pixels" in printed
    kinds = shown(executed)
    assert kinds.count("image/webp") == 6
    assert kinds.count("text/markdown") == 1
    assert kinds.count("image/gif") == 2

    result = read_result(tmp_path)
    assert result is not None
    chosen = result.settings["filters"]
    assert chosen["relu2_2"] == [3, 30]
    assert len(chosen["relu4_1"]) == 2
    filters = {f"filter_{layer}_{n}.png" for layer, each in chosen.items() for n in each}
    made = {path.name for path in tmp_path.iterdir()}
    assert filters < set(result.outputs) == made - {"result.json", executed.name}
    for layer in ("relu1_1", "relu3_1"):
        with Image.open(tmp_path / f"texture_{layer}.gif") as gif:
            assert 2 <= gif.n_frames <= 5

    photo, painting = load_picture("sample:astronaut"), load_picture("sample:swirls")
    settings = SETTINGS.changed(size=96)
    rebuilt = load_image(tmp_path / "content_relu2_2.png")
    assert result.figures["psnr relu2_2"] == pytest.approx(psnr(rebuilt, photo), abs=0.1)
    texture = load_image(tmp_path / "texture_relu3_1.png")
    distances = gram_distances(texture, painting, QUICK["style_layers"], settings)
    for layer, distance in distances.items():
        assert result.figures[f"texture style_loss {layer}"] == pytest.approx(distance, rel=0.05)
        assert distance < 0.2 * result.figures[f"content style_loss {layer}"]


@pytest.mark.slow
def test_nonsense_is_refused_before_anything_is_painted(tmp_path: Path) -> None:
    given = {"output_dir": str(tmp_path), "filters": {"relu2_2": [128]}}
    with pytest.raises(InputError, match="relu2_2 has no filter 128; it has 128"):
        run_cells("inside_the_network", 2, **given)


def test_defaults_are_those_of_the_package() -> None:
    settings = settings_from(default_parameters("inside_the_network"))
    assert settings.pooling == SETTINGS.pooling
    assert settings.style_layers == SETTINGS.style_layers
    assert sum(settings.steps) <= 200
