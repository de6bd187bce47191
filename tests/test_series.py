from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from workbench import forecast, notebook, series
from workbench.colour import match_colors
from workbench.descent import Iterate, measure, optimize
from workbench.errors import InputError, OutputError
from workbench.forecast import Pace
from workbench.images import crop_image, load_image, save_image
from workbench.progress import keep_colors
from workbench.runs import finish_run
from workbench.series import Painted, Variation, grid, paint_variations, same_making, sweep, vary
from workbench.settings import Settings

WEIGHTS = ("content_weight", (1.0, 25.0)), ("style_weight", (10.0, 1000.0))


@pytest.fixture
def content(photo: Tensor, tmp_path: Path) -> str:
    save_image(photo, tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


@pytest.fixture
def style(painting: Tensor, tmp_path: Path) -> str:
    save_image(painting, tmp_path / "painting.png")
    return str(tmp_path / "painting.png")


@pytest.fixture
def sketches(painting: Tensor, tmp_path: Path) -> Path:
    """Three sketches, one damaged file and some that are no pictures."""
    folder = tmp_path / "sketches"
    save_image(painting, folder / "sketch 2.png")
    save_image(painting.flip(1), folder / "sketch 10.JPG")
    save_image(1 - painting, folder / "Sketch 1.png")
    (folder / "sketch 3.png").write_bytes((folder / "sketch 2.png").read_bytes()[:900])
    (folder / "notes.txt").write_text("no picture")
    (folder / ".DS_Store").write_bytes(b"\0")
    (folder / "._sketch 1.png").write_bytes(b"\0")
    (folder / "more.png").mkdir()
    return folder


def paint(variations: Sequence[Variation], folder: Path, ruler: Settings) -> list[Painted]:
    return list(paint_variations(variations, folder, ruler))


def written(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.png")}


# --- which variations --------------------------------------------------------------------


def test_a_grid_has_all_combinations_row_by_row() -> None:
    variations = grid("photo.jpg", ["a.jpg", "b.jpg"], Settings(size=64), *WEIGHTS)
    weights = [(v.settings.content_weight, v.settings.style_weight) for v in variations]
    assert weights == [(1, 10), (1, 1000), (25, 10), (25, 1000)]
    assert {v.settings.size for v in variations} == {64}
    assert {(v.content, v.styles, v.crop) for v in variations} == {
        ("photo.jpg", ("a.jpg", "b.jpg"), None)
    }
    assert variations[1].name == "content_weight_1-style_weight_1000"
    assert variations[1].caption == "content_weight 1, style_weight 1000"


def test_a_grid_over_lists_paths_and_crops_has_short_labels() -> None:
    crop = ("crop", [[], [0.2, 0, 0.8, 0.6]])
    layers = ("style_layers", [["relu1_1", "relu2_1"], ["relu4_1"]])
    variations = grid("p.jpg", ["s.jpg"], Settings(), crop, layers)
    assert [v.crop for v in variations] == [None, None, (0.2, 0, 0.8, 0.6), (0.2, 0, 0.8, 0.6)]
    assert variations[0].caption == "crop whole, style_layers relu1_1, 2_1"
    assert variations[3].name == "crop_0.2_0_0.8_0.6-style_layers_relu4_1"
    starts = grid(
        "p.jpg",
        ["s.jpg"],
        Settings(),
        ("init", ["content", "here/start.png", "there/start.png"]),
        ("steps", [80, [60, 120]]),
    )
    assert starts[1].caption == "init content, steps 60, 120"
    assert starts[1].settings.steps == (60, 120)
    assert starts[2].name == "init_start.png-steps_80"
    assert len({v.name for v in starts}) == 6


@pytest.mark.parametrize(
    ("rows", "columns", "sentence"),
    [
        (("style_wieght", [1.0]), ("size", [64]), "did you mean 'style_weight'"),
        (("crpo", [[]]), ("size", [64]), "did you mean 'crop'"),
        (("content_weight", [1.0, -2.0]), ("size", [64]), r"content_weight = -2\.0: give"),
        (("size", [64, "large"]), ("pooling", ["max"]), "size = 'large': give a whole number"),
        (("pooling", ["max"]), ("content_layers", [["relu9_9"]]), "no layer 'relu9_9'"),
        (("size", []), ("pooling", ["max"]), r"values of size = \[\]: give a list"),
        (("pooling", "max"), ("size", [64]), "values of pooling = 'max': give a list"),
        (("size", [64]), ("size", [96]), "rows and columns are both size"),
        (("steps", [80, [80]]), ("size", [64]), "steps 80, size 64 is given twice"),
        (("size", [64]), ("tv_weight", [0, 1, 0.0]), "size 64, tv_weight 0 is given twice"),
        (("crop", [[], None]), ("size", [64]), "crop whole, size 64 is given twice"),
        (("crop", [[0.5, 0, 0.2, 1]]), ("size", [64]), r"crop \[0\.5, 0, 0\.2, 1\]: give left"),
        (("crop", [3]), ("size", [64]), "crop 3: give left"),
        (("content_weight", [1.0, 0.0]), ("style_weight", [0.0]), "both 0"),
    ],
)
def test_a_grid_refuses_nonsense(rows: Any, columns: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        grid("photo.jpg", ["style.jpg"], Settings(), rows, columns)


def test_a_sweep_takes_the_pictures_of_a_folder_in_natural_order(sketches: Path) -> None:
    variations = sweep("photo.jpg", sketches, Settings(), (0, 0, 0.5, 1))
    captions = ["Sketch 1", "sketch 2", "sketch 3", "sketch 10"]
    assert [v.caption for v in variations] == captions
    assert [v.name for v in variations] == [text.replace(" ", "_") for text in captions]
    assert variations[3].styles == (str(sketches / "sketch 10.JPG"),)
    assert {v.crop for v in variations} == {(0, 0, 0.5, 1)}


def test_a_sweep_takes_a_list_as_it_is() -> None:
    variations = sweep("photo.jpg", ["sample:swirls", "b/x.png", "a/X.jpg"], Settings())
    assert [v.name for v in variations] == ["swirls", "x", "X-2"]  # one file on many systems
    assert [v.caption for v in variations] == ["swirls", "x", "X"]


def test_odd_names_become_safe_file_names() -> None:
    odd = ["a/Ünï çödé & *.png", "a/..png", "a/" + "画" * 80 + ".png"]
    names = [v.name for v in sweep("photo.jpg", odd, Settings())]
    assert names[0] == "Ünï_çödé"
    assert names[1] == "picture"
    assert all(len(os.fsencode(name)) <= 180 for name in names)


def test_a_sweep_refuses_nonsense(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    for styles, sentence in [
        (tmp_path, "is a folder without pictures"),
        (tmp_path / "nowhere", "the folder cannot be read: no such file"),
        (tmp_path / "notes.txt", "is a file; name a folder"),
        ([], "styles is empty"),
        (["a.png", "b.png", "a.png"], r"a\.png is given twice"),
    ]:
        with pytest.raises(InputError, match=sentence):
            sweep("photo.jpg", styles, Settings())


# --- painting them -----------------------------------------------------------------------


def test_pictures_and_figures_are_those_of_optimize_and_measure(
    tiny: Settings, content: str, style: str, tmp_path: Path
) -> None:
    variations = grid(content, [style], tiny, *WEIGHTS)
    painted = paint(variations, tmp_path / "out", tiny)
    assert [each.variation for each in painted] == variations
    ruler = replace(tiny, content_weight=1, style_weight=1, tv_weight=1)
    photo, painting = load_image(content), load_image(style)
    for each in painted:
        assert each.problem is None
        assert not each.found
        *_, last = optimize(photo, [painting], each.variation.settings)
        saved = load_image(each.path)
        assert (saved - last.image).abs().max() <= 0.5 / 255 + 1e-6
        measured = measure(saved, photo, [painting], ruler)
        assert each.figures["content_loss"] == pytest.approx(measured.content_total)
        assert each.figures["style_loss"] == pytest.approx(measured.style_total)
        assert each.figures["tv_loss"] == pytest.approx(measured.tv)
        assert each.figures["loss"] == last.losses.total
        assert each.figures["steps"] == 12
        assert each.figures["seconds"] > 0


def test_the_ruler_is_the_same_whatever_varies(
    tiny: Settings, content: str, style: str, tmp_path: Path
) -> None:
    base = replace(tiny, style_layer_weights=(1, 2, 3, 4, 5), steps=(1,))
    axes = ("size", [48, 64]), ("style_layers", [["relu1_1"], list(tiny.style_layers)])
    variations = grid(content, [style], replace(base, style_layer_weights=()), *axes)
    painted = paint(variations, tmp_path / "out", base)
    ruler = replace(tiny, content_weight=1, style_weight=1, tv_weight=1)
    for each in painted:
        measured = measure(load_image(each.path), load_image(content), [load_image(style)], ruler)
        assert each.figures["style_loss"] == pytest.approx(measured.style_total)


def test_content_is_looked_at_once_in_a_series(
    tiny: Settings, content: str, style: str, tmp_path: Path, looks: list[tuple[str, ...]]
) -> None:
    paint(grid(content, [style], tiny, *WEIGHTS), tmp_path / "out", tiny)
    assert looks.count(tiny.content_layers) == 1
    assert looks.count(tiny.style_layers) == 1


def test_content_is_looked_at_once_for_all_styles_and_each_crop(
    tiny: Settings, content: str, sketches: Path, tmp_path: Path, looks: list[tuple[str, ...]]
) -> None:
    paint(sweep(content, sketches, tiny), tmp_path / "out", tiny)
    assert looks.count(tiny.content_layers) == 1
    assert looks.count(tiny.style_layers) == 3  # of four, one is damaged

    looks.clear()
    crops = ("crop", [[], [0, 0, 0.7, 1]])
    variations = grid(content, [str(sketches / "sketch 2.png")], tiny, WEIGHTS[0], crops)
    paint(variations, tmp_path / "crops", tiny)
    assert looks.count(tiny.content_layers) == 2


def test_style_pictures_are_not_in_memory_together(
    tiny: Settings, content: str, sketches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gc
    import weakref

    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most = 0
    real = series.load_picture

    def load(name: str, **options: Any) -> Tensor:
        nonlocal most
        picture = real(name, **options)
        if Path(name).parent == sketches:
            gc.collect()
            alive.add(picture)
            most = max(most, len(alive))
        return picture

    monkeypatch.setattr(series, "load_picture", load)
    paint(sweep(content, sketches, replace(tiny, steps=(2,))), tmp_path / "out", tiny)
    assert most == 1


def test_a_crop_is_painted_as_if_it_were_the_photograph(
    tiny: Settings, content: str, style: str, tmp_path: Path
) -> None:
    box = (0.25, 0.0, 1.0, 1.0)
    (each,) = paint(sweep(content, [style], tiny, box), tmp_path / "out", tiny)
    *_, last = optimize(crop_image(load_image(content), box), [load_image(style)], tiny)
    saved = load_image(each.path)
    assert saved.shape == last.image.shape == (1, 3, 64, 64)
    assert (saved - last.image).abs().max() <= 0.5 / 255 + 1e-6


def test_a_series_says_what_is_left_of_it_takes(
    tiny: Settings,
    content: str,
    style: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pace = Pace(((48.0 * 64, 1.0),))  # a second a step, of which there are twelve
    monkeypatch.setattr(forecast, "time_steps", lambda problem: pace)
    monkeypatch.setattr(forecast, "_newest", [])
    variations = grid(content, [style], tiny, *WEIGHTS)
    paint(variations, tmp_path / "out", tiny)
    assert "About 63 s on this machine, 0.3 GB of memory." in capsys.readouterr().out
    (tmp_path / f"out/{variations[-1].name}.json").unlink()
    paint(variations, tmp_path / "out", tiny)
    assert "About 16 s on this machine" in capsys.readouterr().out
    paint(variations, tmp_path / "out", tiny)
    assert "About" not in capsys.readouterr().out


def test_what_is_there_is_kept(tiny: Settings, content: str, style: str, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    variations = grid(content, [style], tiny, *WEIGHTS)
    first = paint(variations, folder, tiny)
    before = written(folder)
    again = paint(variations, folder, tiny)
    assert written(folder) == before
    assert [each.figures for each in again] == [each.figures for each in first]
    assert all(each.found for each in again)

    # One value more costs only its own pictures; base weights have no say in a ruler.
    wider = ("style_weight", [10.0, 100.0, 1000.0])
    more = grid(content, [style], tiny, WEIGHTS[0], wider)
    painted = paint(more, folder, replace(tiny, style_weight=7.0))
    assert [each.found for each in painted] == [True, False, True] * 2

    # A photograph that is called otherwise is the same.
    Path(content).rename(tmp_path / "renamed.png")
    renamed = grid(str(tmp_path / "renamed.png"), [style], tiny, *WEIGHTS)
    assert all(each.found for each in paint(renamed, folder, tiny))


def test_what_something_depends_on_is_painted_anew(
    tiny: Settings, content: str, sketches: Path, tmp_path: Path, photo: Tensor, painting: Tensor
) -> None:
    folder = tmp_path / "out"
    (sketches / "sketch 3.png").unlink()

    def anew(**changes: Any) -> list[str]:
        settings = replace(tiny, **changes)
        painted = paint(sweep(content, sketches, settings), folder, settings)
        return [each.variation.caption for each in painted if not each.found]

    everything = ["Sketch 1", "sketch 2", "sketch 10"]
    assert anew() == everything
    assert anew() == []
    save_image(painting.flip(3), sketches / "sketch 2.png")
    assert anew() == ["sketch 2"]
    assert anew(style_weight=7.0) == everything
    assert anew(style_weight=7.0, seed=1) == everything
    assert anew() == everything
    save_image(photo.flip(3), content)
    assert anew() == everything
    save_image(painting, tmp_path / "start.png")
    assert anew(init=str(tmp_path / "start.png")) == everything
    save_image(painting.flip(2), tmp_path / "start.png")
    assert anew(init=str(tmp_path / "start.png")) == everything
    assert anew(init=str(tmp_path / "start.png")) == []


@pytest.mark.parametrize("damage", ["picture", "no picture", "figures", "no figures", "other"])
def test_what_is_not_whole_is_painted_anew_and_is_the_same(
    tiny: Settings, content: str, style: str, tmp_path: Path, damage: str
) -> None:
    folder = tmp_path / "out"
    variations = sweep(content, [style, content], replace(tiny, steps=(2,)))
    first, _ = paint(variations, folder, tiny)
    picture, figures = first.path, first.path.with_suffix(".json")
    bytes_before = picture.read_bytes()
    if damage == "picture":
        picture.write_bytes(bytes_before[:-20])
    elif damage == "figures":
        figures.write_text(figures.read_text()[:-9])
    elif damage == "other":
        figures.write_text('["something else"]')
    else:
        (picture if damage == "no picture" else figures).unlink()
    again = paint(variations, folder, tiny)
    assert [each.found for each in again] == [False, True]
    assert picture.read_bytes() == bytes_before
    assert json.loads(figures.read_text())["figures"].keys() == set(series.FIGURES)


def test_the_colours_of_the_photograph_may_vary(
    tiny: Settings, content: str, style: str, tmp_path: Path
) -> None:
    ways = ("original_colors", ["off", "luma", "pca"])
    painted = paint(grid(content, [style], tiny, ways, ("size", [64])), tmp_path / "out", tiny)
    assert painted[2].variation.caption == "original_colors pca, size 64"
    for each in painted:
        how = each.variation.original_colors
        photograph, own = load_image(content), load_image(style)
        *_, last = keep_colors(
            optimize(photograph, [match_colors(own, photograph, how)], tiny), photograph, how
        )
        assert (load_image(each.path) - last.image).abs().max() <= 0.5 / 255 + 1e-6


def test_one_of_several_photographs_may_be_bad(
    tiny: Settings, content: str, style: str, tmp_path: Path
) -> None:
    base = Variation("a", "", content, None, (style,), replace(tiny, steps=(2,)))
    bad = replace(base, content=str(tmp_path / "nowhere.png"))
    taken: set[str] = set()
    made = [vary(each, {"tv_weight": tv}, taken) for each in (base, bad, base) for tv in (0.0, 1.0)]
    painted = paint(made, tmp_path / "out", tiny)
    assert ["nowhere.png" in (each.problem or "") for each in painted] == [0, 0, 1, 1, 0, 0]
    assert len({each.path for each in painted}) == 6
    assert same_making(made[0], made[4])
    assert not same_making(made[0], made[1])


def test_a_bad_file_costs_one_line(
    tiny: Settings, content: str, sketches: Path, tmp_path: Path
) -> None:
    painted = paint(sweep(content, sketches, tiny), tmp_path / "out", tiny)
    problems = {each.variation.caption: each.problem for each in painted}
    assert [name for name, problem in problems.items() if problem] == ["sketch 3"]
    assert "sketch 3.png is damaged or cut short" in str(problems["sketch 3"])
    assert set(written(tmp_path / "out")) == {"Sketch_1.png", "sketch_2.png", "sketch_10.png"}


def test_an_explosion_costs_one_line(
    tiny: Settings, content: str, style: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variations = grid(content, [style], tiny, ("style_weight", [1.0, 1e38]), ("size", [64]))
    fine, exploded = paint(variations, tmp_path / "out", tiny)
    assert fine.problem is None
    assert "lower the weights" in str(exploded.problem)
    assert exploded.figures == {}
    assert not exploded.path.exists()


def test_a_bad_photograph_ends_all_at_once(
    tiny: Settings, style: str, content: str, tmp_path: Path
) -> None:
    Path(content).write_bytes(b"")
    with pytest.raises(InputError, match=r"photo\.png is empty"):
        next(paint_variations(sweep(content, [style], tiny), tmp_path / "out", tiny))
    assert not (tmp_path / "out").exists()


def test_nothing_at_all_is_an_error(tiny: Settings, content: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not one of the pictures.*nowhere\.png"):
        paint(sweep(content, ["nowhere.png", "no.png"], tiny), tmp_path / "out", tiny)


def test_a_series_that_was_stopped_goes_on(
    tiny: Settings, content: str, style: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variations = grid(content, [style], tiny, *WEIGHTS)
    whole = paint(variations, tmp_path / "whole", tiny)
    folder = tmp_path / "stopped"
    done = list(islice(paint_variations(variations, folder, tiny), 2))  # then it is closed
    assert [each.found for each in done] == [False, False]

    def interrupted(*arguments: Any, **options: Any) -> Iterate:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(series, "measure", interrupted)  # the third is painted, but not measured
        with pytest.raises(KeyboardInterrupt):
            paint(variations, folder, tiny)
    assert len(written(folder)) == 2
    painted = paint(variations, folder, tiny)
    assert [each.found for each in painted] == [True, True, False, False]
    for one, other in zip(whole, painted, strict=True):
        assert one.path.read_bytes() == other.path.read_bytes()


def test_a_second_run_keeps_out_of_the_folder(
    tiny: Settings, content: str, style: str, tmp_path: Path
) -> None:
    variations = grid(content, [style], tiny, *WEIGHTS)
    running = paint_variations(variations, tmp_path / "out", tiny)
    next(running)
    with pytest.raises(InputError, match="another run"):
        paint(variations, tmp_path / "out", tiny)
    running.close()
    assert len(paint(variations, tmp_path / "out", tiny)) == 4


def test_a_folder_that_cannot_be_written_to(
    tiny: Settings, content: str, style: str, tmp_path: Path
) -> None:
    (tmp_path / "blocker").write_text("in the way")
    with pytest.raises(OutputError, match="blocker"):
        paint(sweep(content, [style], tiny), tmp_path / "blocker" / "out", tiny)


def test_the_bar_counts_pictures(
    tiny: Settings, content: str, style: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paint(grid(content, [style], tiny, *WEIGHTS), tmp_path / "out", tiny)
    printed = capsys.readouterr().out
    assert "painting: 100%" in printed
    assert "4/4" in printed
    assert "content_weight 25, style_wei" in printed


# --- showing them ------------------------------------------------------------------------


def make_up(
    variations: Sequence[Variation], folder: Path, problem: int | None = None
) -> list[Painted]:
    """Grey pictures, lighter from one to the next, with losses that fall."""
    painted = []
    for i, variation in enumerate(variations):
        if i == problem:
            painted.append(Painted(variation, folder / "none.png", {}, "it | is damaged."))
            continue
        path = folder / f"{variation.name}.png"
        save_image(torch.full((1, 3, 30, 40), (i + 1) / 10), path)
        values = [1e6 / (i + 1), 1000.0 * (i + 1), 123456.0 / (i + 1), 5.0, 80, 1.5]
        painted.append(Painted(variation, path, dict(zip(series.FIGURES, values, strict=True))))
    return painted


def test_a_grid_sheet_has_labels_at_its_edges(tmp_path: Path) -> None:
    variations = grid("p.jpg", ["s.jpg"], Settings(), *WEIGHTS)
    sheet = series.grid_sheet(make_up(variations, tmp_path, problem=1), *WEIGHTS, height=90)
    height, width = sheet.shape[:2]
    row_height, edge = 90 + 8 + 8 + 2 * 18, 8 + 18
    assert height == edge + 2 * row_height
    left = width - 3 * 8 - 2 * 120
    assert left > 80  # room for "content_weight 25"
    middles = [left + 8 + 60, left + 16 + 180]
    for (row, column), value in {(0, 0): 26, (0, 1): 225, (1, 0): 76, (1, 1): 102}.items():
        assert abs(int(sheet[edge + row * row_height + 53, middles[column], 0]) - value) <= 1
    assert sheet[:edge, left:].min() < 100
    for row in range(2):
        assert sheet[edge + row * row_height : edge + row * row_height + 98, :left].min() < 100
    assert (sheet[:edge, :left] == 255).all()


def test_a_sweep_sheet_leaves_problems_out(tmp_path: Path) -> None:
    variations = sweep("p.jpg", [f"{i}.jpg" for i in range(5)], Settings())
    painted = make_up(variations, tmp_path, problem=2)
    sheet = series.sweep_sheet(painted, columns=3, height=90)
    assert sheet.shape == (2 * (90 + 8 + 8 + 3 * 18), 3 * 120 + 4 * 8, 3)
    assert series.sweep_sheet(painted, columns=9, height=90).shape[1] == 4 * 120 + 5 * 8
    frames = series.flip_frames(painted, size=20)
    assert len(frames) == 4
    assert {frame.shape for frame in frames} == {(15 + 8 + 26, 20 + 16, 3)}
    assert series.flip_frames(painted, size=500)[0].shape == (30 + 8 + 26, 40 + 16, 3)


def test_the_tradeoff_has_a_line_for_each_row_and_a_label_at_each_point(tmp_path: Path) -> None:
    painted = make_up(grid("p.jpg", ["s.jpg"], Settings(), *WEIGHTS), tmp_path)
    (axes,) = series.plot_tradeoff(painted, *WEIGHTS, Settings()).axes
    assert axes.get_xscale() == axes.get_yscale() == "log"
    first, second = axes.get_lines()
    assert (first.get_label(), second.get_label()) == ("content_weight 1", "content_weight 25")
    assert list(second.get_xdata()) == [3000, 4000]
    assert list(second.get_ydata()) == [123456 / 3, 123456 / 4]
    assert [text.get_text() for text in axes.texts] == ["10", "1000"] * 2
    assert axes.get_xlabel() == "content loss (relu4_2; weight 1, float32, 512 px)"
    assert "relu1_1, 2_1, 3_1, 4_1, 5_1; weight 1" in axes.get_ylabel()


def test_the_tradeoff_leaves_out_what_a_log_scale_cannot_show(tmp_path: Path) -> None:
    painted = make_up(grid("p.jpg", ["s.jpg"], Settings(), *WEIGHTS), tmp_path, problem=3)
    painted[0] = replace(painted[0], figures={**painted[0].figures, "content_loss": 0.0})
    figure = series.plot_tradeoff(painted, *WEIGHTS, Settings())
    assert [text.get_text() for text in figure.axes[0].texts] == ["1000", "10"]
    figure.canvas.draw()


def test_a_table_is_sorted_with_problems_at_its_end(tmp_path: Path) -> None:
    variations = sweep("p.jpg", ["a.jpg", "b.jpg", "c*d.jpg"], Settings())
    painted = make_up(variations, tmp_path, problem=1)
    ranked = series.sort_painted(painted, "style_loss")
    assert [each.variation.caption for each in ranked] == ["c*d", "a", "b"]
    ranked = series.sort_painted(painted, "content_loss")
    assert [each.variation.caption for each in ranked] == ["a", "c*d", "b"]
    assert [each.variation.caption for each in series.sort_painted(painted, "name")][-1] == "b"
    with pytest.raises(InputError, match="sort_by = 'beauty': use one of name, loss"):
        series.check_figure("beauty")

    series.save_table(ranked, tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["caption"] for line in lines] == ["a", "c*d", "b"]
    assert float(lines[1]["style_loss"]) == pytest.approx(123456 / 3)
    assert lines[1]["picture"] == "c_d.png"
    assert lines[2]["problem"] == "it | is damaged."

    head, _, first, second, third = series.markdown_table(ranked).splitlines()
    names = "loss | content loss | style loss | tv loss | steps | seconds"
    assert head == f"|  | {names} | problem |"
    assert first == "| a | 1,000,000 | 1,000 | 123,000 | 5 | 80 | 1.5 |  |"
    assert second.startswith("| c\\*d | 333,000 |")
    assert third == "| b |  |  |  |  |  |  | it \\| is damaged. |"
    fine = series.markdown_table(ranked[:1]).splitlines()
    assert fine[0] == f"|  | {names} |"
    assert fine[2] == "| a | 1,000,000 | 1,000 | 123,000 | 5 | 80 | 1.5 |"


def test_a_run_lists_its_pictures_and_figures(tmp_path: Path) -> None:
    painted = make_up(sweep("p.jpg", ["a.jpg", "b.jpg"], Settings()), tmp_path, problem=1)
    result = finish_run(
        tmp_path,
        outputs=series.pictures_of(painted),
        figures=series.figures_of(painted),
        settings={},
        weights={},
        seconds=1,
    )
    assert result.outputs == {"picture a": "a.png"}
    assert result.figures["pictures"] == result.figures["problems"] == 1
    assert result.figures["a style_loss"] == 123456


@pytest.mark.parametrize("number", [0, -1, math.nan, math.inf])
def test_numbers_for_looks_are_above_zero(number: float) -> None:
    with pytest.raises(InputError, match="gif_seconds = "):
        notebook.check_above_zero(sheet_height=3, gif_seconds=number)
