from __future__ import annotations

import re
from pathlib import Path

import pytest
from tools import default_parameters, run, run_cells, shown

from workbench.images import save_image
from workbench.judging import contenders
from workbench.notebook import settings_from
from workbench.runs import read_result
from workbench.samples import find_pictures, load_picture

TINY = {
    "size": 64,
    "steps": [2],
    "styles": ["sample:swirls"],
    "settings": [{"style_weight": 1.0}, {"style_weight": 1000.0, "original_colors": "luma"}],
}


@pytest.mark.slow
def test_a_folder_with_a_damaged_picture_is_judged_and_the_same_again(tmp_path: Path) -> None:
    photographs = tmp_path / "photographs"
    for number, name in enumerate(("astronaut", "coffee")):
        save_image(load_picture(f"sample:{name}", 80), photographs / f"{number}.png")
    whole = (photographs / "1.png").read_bytes()
    (photographs / "1.png").write_bytes(whole[:999])
    output, executed = tmp_path / "run", tmp_path / "out.ipynb"
    parameters = {**TINY, "contents": [str(photographs)]}
    run("which_is_better", executed, output, **parameters, answers=["right"])
    text = executed.read_text("utf-8")
    assert text.count("1.png is damaged or cut short") == 1
    assert re.search("was preferred to style_weight 10{0,3}.* in 1 of 1 answers", text)
    assert "no questions are left" in text
    assert shown(executed).count("image/webp") == 2
    result = read_result(output)
    assert result is not None
    assert {"strengths", "sheet"} <= result.outputs.keys()
    figures = result.figures
    assert (figures["answers"], figures["pictures"], figures["problems"]) == (1, 2, 2)
    strengths = sorted(value for name, value in figures.items() if name.endswith("strength"))
    assert strengths == pytest.approx([1 / 3, 2 / 3])

    before = {path: path.stat().st_mtime_ns for path in (output / "pictures").glob("*.png")}
    (photographs / "1.png").write_bytes(whole)
    values = run_cells("which_is_better", 3, output_dir=str(output), **parameters)
    values["sitting"].press("left")
    run_cells("which_is_better", None, output_dir=str(output), **parameters)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    again = read_result(output)
    assert again is not None
    assert again.figures["answers"] == 1
    assert again.outputs["answers"] == "answers.json"
    assert "sheet" not in again.outputs
    assert not (output / "sheet.png").exists()


def test_defaults_can_be_judged() -> None:
    values = default_parameters("which_is_better")
    pictures = [find_pictures(values[name]) for name in ("contents", "styles")]
    made = contenders(*pictures, settings_from(values), values["settings"])
    assert len(made) == len(pictures[0]) * len(pictures[1]) * len(values["settings"])
