from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import workbench
from workbench import runs
from workbench.batch.plan import Plan, read_plan
from workbench.batch.record import digest
from workbench.errors import InputError

unhurried = hypothesis_settings(
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
CELL = """\
clip: str = "sample:clip"  # what ffmpeg reads
style: str = "sample:swirls"  # a picture, or a list of them
styles: list = ["sample:swirls"]  # or a folder of pictures
output_dir: str = "runs/paint"
size: int = 256
style_weight: float = 100.0
steps: list = [40, 60]
mode: str = "temporal"
sharp: bool = False
crop: list | None = None
pooling: Literal["max", "average"] = "max"
lags: list[int] = [1, 2]
init: str = "content"
table: dict = {}
odd: Path = "x"
guess = 3
started = time.time()
"""
MINIMAL = "notebook: paint.ipynb\noutput: runs/reel/{clip.stem}\n"
REEL = """
notebook: paint.ipynb
output: runs/reel/{clip.stem}-{style.stem}-{mode}
parameters: {size: 360}
grid:
  clip: clips/*.mp4
  style: [sketches/a.png, sketches/b.png]
  mode: [blended, flow-warped]
exclude:
  - {style: sketches/b.png, mode: blended}
include:
  - {clip: clips/b.mp4, style: sketches/a.png, mode: temporal, size: 60}
timeout: 3600
"""


def save_notebook(path: Path, *sources: str, tag: str = "parameters", **cell: Any) -> None:
    cells = [
        {
            "cell_type": "code",
            "source": source.splitlines(keepends=True),
            "metadata": {"tags": [tag]} if source is sources[0] else {},
            "outputs": [],
            **cell,
        }
        for source in sources
    ]
    path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4}))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A notebook, three clips of which one is hidden, two sketches and a folder of frames."""
    folder = tmp_path / "project"
    files = ("clips/b.mp4", "clips/a.mp4", "clips/.c.mp4", "clips/deep/d.mp4", "clips/notes.txt")
    for name in (*files, "sketches/a.png", "sketches/b.png", "frames/0001.png", "frames/0002.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
        os.utime(folder / name, (1e9, 1e9))
    (folder / "experiments").mkdir()
    save_notebook(folder / "paint.ipynb", CELL, "print(clip)")
    return folder


def write(project: Path, text: str) -> Path:
    file = project / "experiments" / "reel.yaml"
    file.write_text(text)
    return file


def plan(project: Path, text: str) -> Plan:
    return read_plan(write(project, text))


def plan_of(project: Path, **content: Any) -> Plan:
    whole = {"notebook": "paint.ipynb", "output": "runs/reel/{clip.stem}"} | content
    return plan(project, yaml.safe_dump(whole, sort_keys=False))


def refused(file: Path) -> str:
    """The sentence with which a batch file is refused; it names the file."""
    with pytest.raises(InputError) as caught:
        read_plan(file)
    sentence = str(caught.value)
    assert sentence.startswith(f"{file}: ")
    assert "\n" not in sentence
    assert sentence.endswith((".", "?"))
    return sentence.removeprefix(f"{file}: ")


def run_names(plan: Plan) -> list[str]:
    return [run.name for run in plan.runs]


def grid_values(plan: Plan, name: str) -> list[Any]:
    return [run.parameters[name] for run in plan.runs]


def test_whole_batch_file(project: Path) -> None:
    found = plan(project, REEL)
    assert run_names(found) == [
        "a-a-blended",
        "a-a-flow-warped",
        "a-b-flow-warped",
        "b-a-blended",
        "b-a-flow-warped",
        "b-b-flow-warped",
        "b-a-temporal",
    ]
    assert found.file == project / "experiments" / "reel.yaml"
    assert found.project == project
    assert found.notebook == project / "paint.ipynb"
    assert found.root == project / "runs" / "reel"
    assert found.timeout == 3600
    assert found.varied == ("clip", "style", "mode", "size")
    first, last = found.runs[0], found.runs[-1]
    assert first.output == project / "runs/reel/a-a-blended"
    assert first.parameters == {
        "size": 360,
        "clip": "clips/a.mp4",
        "style": "sketches/a.png",
        "mode": "blended",
    }
    assert last.parameters["size"] == 60
    assert first.inputs == {
        "clips/a.mp4": digest(project / "clips/a.mp4"),
        "sketches/a.png": digest(project / "sketches/a.png"),
    }
    assert len({run.key for run in found.runs}) == len(found.runs)


def test_project_is_the_folder_above_experiments_alone(project: Path) -> None:
    beside = project / "reel.yaml"
    beside.write_text(REEL)
    assert read_plan(beside).project == project
    assert read_plan(beside).runs == plan(project, REEL).runs


def test_relative_batch_file(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(project, REEL)
    monkeypatch.chdir(project / "experiments")
    found = read_plan("reel.yaml")
    assert found.project == project
    assert found.file.is_absolute()


def test_no_grid_is_one_run(project: Path) -> None:
    found = plan(project, MINIMAL)
    assert run_names(found) == ["clip"]
    assert (found.runs[0].parameters, found.runs[0].inputs) == ({}, {})
    assert (found.varied, found.timeout) == ((), None)


def test_no_grid_but_included_runs(project: Path) -> None:
    include = [{"clip": "clips/a.mp4"}, {"clip": "clips/b.mp4", "size": 256}]
    found = plan_of(project, include=include)
    assert run_names(found) == ["a", "b"]
    assert found.varied == ("clip",)  # 256 is the default


@unhurried
@given(
    sizes=st.lists(st.integers(1, 99), min_size=1, max_size=6, unique=True),
    modes=st.lists(st.sampled_from("abcdef"), min_size=1, max_size=6, unique=True),
)
def test_as_many_runs_as_the_product_of_the_grid(
    project: Path, sizes: list[int], modes: list[str]
) -> None:
    found = plan_of(project, output="runs/{size}/{mode}", grid={"size": sizes, "mode": modes})
    assert [tuple(run.parameters.values()) for run in found.runs] == [
        (size, mode) for size in sizes for mode in modes
    ]
    many = (name for name, values in (("size", sizes), ("mode", modes)) if len(values) > 1)
    assert found.varied == tuple(many)


# Patterns


@pytest.mark.parametrize(
    ("pattern", "files"),
    [
        ("clips/*.mp4", ["clips/a.mp4", "clips/b.mp4"]),
        ("clips/**/*.mp4", ["clips/a.mp4", "clips/b.mp4", "clips/deep/d.mp4"]),
        ("clips/[b].mp4", ["clips/b.mp4"]),
        ("./clips/?.mp4", ["clips/a.mp4", "clips/b.mp4"]),
        ("fram*/", ["frames"]),
        (["clips/deep/*", "clips/a.mp4"], ["clips/deep/d.mp4", "clips/a.mp4"]),
        ("clips/a.mp4", ["clips/a.mp4"]),
        (["clips/a.mp4", "sample:clip"], ["clips/a.mp4", "sample:clip"]),
    ],
)
def test_pattern_stands_for_sorted_files(project: Path, pattern: Any, files: list[str]) -> None:
    found = plan_of(project, grid={"clip": pattern})
    assert grid_values(found, "clip") == files


def test_absolute_pattern_gives_absolute_names(project: Path) -> None:
    found = plan_of(project, grid={"clip": f"{project}/clips/*.mp4"})
    assert grid_values(found, "clip") == [f"{project}/clips/{name}.mp4" for name in "ab"]


def test_file_with_brackets_is_no_pattern(project: Path) -> None:
    (project / "clips" / "a[1].mp4").write_text("clip")
    found = plan_of(project, grid={"clip": ["clips/a[1].mp4"]})
    assert run_names(found) == ["a[1]"]


def test_only_texts_are_patterns(project: Path) -> None:
    grid = {"lags": [[1], [2, 3]], "pooling": ["max", "average"]}
    found = plan_of(project, output="runs/reel/{lags}-{pooling}", grid=grid)
    assert run_names(found) == ["1-max", "1-average", "2-3-max", "2-3-average"]


def test_batch_does_not_feed_on_its_own_results(project: Path) -> None:
    (project / "runs" / "reel" / "a").mkdir(parents=True)
    (project / "runs" / "reel" / "a" / "film.mp4").write_text("film")
    found = plan_of(project, grid={"clip": "**/*.mp4"})
    assert run_names(found) == ["a", "b", "d"]
    found = plan_of(project, output="runs/x-{clip.parent}", grid={"clip": "runs/reel/*/*.mp4"})
    assert grid_values(found, "clip") == ["runs/reel/a/film.mp4"]


# What is wrong, by its sentence


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("", ["empty", "`notebook:`"]),
        ("# nothing\n", ["empty"]),
        ("- a\n", ["the file", "mapping", "a list"]),
        ("hello\n", ["the file", "mapping", "a text"]),
        ("a: [1\nb: 2\n", ["line 2, column 2", "not YAML"]),
        ("a: \x07\n", ["line 1, column 4", "not allowed"]),
        ("a: 1\nb: 2\na: 3\n", ["line 3, column 1", "'a' is given twice"]),
        ("a:\n  b: {c: 1, c: 2}\n", ["line 2, column 13", "'c' is given twice"]),
        ("a: 2020-02-31\n", ["line 1, column 4"]),
        ("a: !!python/object:os.system {}\n", ["line 1, column 4"]),
        ("a: 1\n---\nb: 1\n", ["line 2, column 1", "document"]),
        ("[" * 5000, ["nested too deeply"]),
        ("1: 2\n", ["the name 1 is a number", "quotes"]),
        (MINIMAL + "gird: {}\n", ["unknown key 'gird'", "did you mean 'grid'?"]),
        (MINIMAL + "zzz: {}\n", ["unknown key 'zzz'", "include"]),
        ("output: runs/x\n", ["`notebook:` is missing", "which notebook"]),
        ("notebook: paint.ipynb\noutput:\n", ["`output:` is missing", "which folder"]),
        ("notebook: [paint.ipynb]\noutput: runs/x\n", ["notebook must be a text", "a list"]),
        ("notebook: pain.ipynb\noutput: runs/x\n", ["pain.ipynb", "did you mean paint.ipynb?"]),
        ("notebook: experiments/x.ipynb\noutput: runs/x\n", ["experiments/x.ipynb"]),
        ("notebook: stylise_klip\noutput: runs/x\n", ["notebook:", "did you mean stylize_clip?"]),
        ("notebook: zzz\noutput: runs/x\n", ["there is no file zzz"]),
        ("notebook: clips/a.mp4\noutput: runs/x\n", ["clips/a.mp4", "not a Jupyter notebook"]),
        (MINIMAL + "parameters: [1]\n", ["parameters must be a mapping", "a list"]),
        (MINIMAL + "grid: text\n", ["grid must be a mapping", "a text"]),
        (MINIMAL + "include: {a: 1}\n", ["include must be a list", "a mapping"]),
        (MINIMAL + "exclude: [{mode: x}, 3]\n", ["exclude 2 must be a mapping", "a number"]),
        (MINIMAL + "include: [{}]\n", ["include 1 is empty"]),
        (MINIMAL + "timeout: 0\n", ["timeout", "above 0", "0"]),
        (MINIMAL + "timeout: true\n", ["timeout", "True"]),
        (MINIMAL + "timeout: .inf\n", ["timeout", "inf"]),
        (MINIMAL + "timeout: soon\n", ["timeout", "'soon'"]),
    ],
)
def test_bad_file(project: Path, text: str, pieces: list[str]) -> None:
    sentence = refused(write(project, text))
    assert all(piece in sentence for piece in pieces), sentence


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("parameters: {modes: x}", ["parameters: unknown parameter 'modes'", "'mode'?"]),
        ("grid: {siez: [1]}", ["grid: unknown parameter 'siez'", "'size'?"]),
        ("include: [{mode: x}, {stiyle: x}]", ["include 2: unknown parameter", "'style'?"]),
        ("grid: {size: [1]}\nexclude: [{sise: 1}]", ["exclude 1: unknown parameter", "'size'?"]),
        ("parameters: {output_dir: x}", ["output_dir", "use `output:`"]),
        ("grid: {output_dir: [x]}", ["grid: output_dir", "use `output:`"]),
        ("parameters: {size: big}", ['size must be int, not "big"; write a number']),
        ("parameters: {size: '360'}", ["size must be int", "without quotes, as in 360"]),
        (
            "parameters: {style_weight: 1e-5}",
            ["must be float", "as in 360 or 1.0e-05."],
        ),
        ("parameters: {size: true}", ["size must be int, not true."]),
        ("parameters: {size: 1.5}", ["size must be int, not 1.5."]),
        ("parameters: {sharp: 1}", ["sharp must be bool, not 1."]),
        ("parameters: {mode: no}", ["mode must be str, not false", "quotes"]),
        ("parameters: {mode:}", ["mode must be str, not null."]),
        ("parameters: {size: [1, 2]}", ["size must be int", "under `grid`"]),
        ("parameters: {steps: {a: 1}}", ['steps must be list, not {"a": 1}']),
        ("parameters: {lags: [1, x]}", ['not [1, "x"].']),
        ("parameters: {pooling: min}", ["pooling must be Literal['max', 'average']"]),
        ("parameters: {crop: 3}", ["crop must be list | None, not 3"]),
        ("parameters: {guess: 2020-01-01}", ["guess", "2020-01-01", "a date", "quotes"]),
        ("parameters: {steps: [1, .nan]}", ["steps", "JSON", "NaN"]),
        ("parameters: {table: {1: 2}}", ["table", "a name that is no text", "quotes"]),
        ("parameters: {guess: !!set {1, 2}}", ["guess", "a set"]),
        ("parameters: {steps: &a [1, *a]}", ["steps", "JSON", "[...]"]),
        ('parameters: {mode: "\\ud800"}', ["mode", "Unicode"]),
        ("parameters: {style: [a.png, 3]}", ["style must be str"]),
        ("parameters: {clip: clips/c.mp4}", ["clip", "clips/c.mp4", "did you mean clips/"]),
        ("parameters: {clip: nowhere/c.mp4}", ["no file nowhere/c.mp4", "relative to {project}"]),
        ("parameters: {clip: ''}", ["clip", "empty text"]),
        ("parameters: {style: [sketches/a.png, x]}", ["style: there is no file x"]),
        ("parameters: {clip: clips/*.mp4}", ["clip", "Patterns belong under `grid`"]),
        ("include: [{clip: clips/*.mp4}]", ["include 1: clip", "Patterns belong under `grid`"]),
        ("grid: {clip: [clips/a.mp4, q/x.mp4]}", ["grid: clip: there is no file q/x.mp4"]),
        ("grid: {clip: q/*.mp4}", ['grid: clip: no file matches "q/*.mp4"', "{project}"]),
        ("grid: {clip: fr*}", ['no file matches "fr*"', "end it in /"]),
        ('grid: {clip: "\\0*"}', ["no file matches"]),
        ("grid: {}", ["grid is empty"]),
        ("grid:", ["grid is empty"]),
        ("grid: {size: []}", ["grid: size has no values"]),
        ("grid: {size:}", ["grid: size has no values"]),
        ("grid: {size: [1, 2, 1]}", ["grid: size has the value 1 twice"]),
        ("grid: {style_weight: [1, 1.0]}", ["style_weight has the value 1.0 twice"]),
        ("grid: {clip: [clips/*.mp4, clips/a.mp4]}", ["clip has the value", "a.mp4", "twice"]),
        ("grid: {steps: [60, 120]}", ["steps takes a list", "`steps: [[60, 120]]`"]),
        ("grid: {steps: 60}", ["steps takes a list", "`steps: [[60]]`"]),
        ("grid: {styles: [sketches/a.png]}", ["styles takes a list", '[["sketches/a.png"]]']),
        ("grid: {steps: [[60], 120]}", ["steps must be list, not 120"]),
        ("grid: {size: [1]}\nparameters: {size: 1}", ["size", "keep one of them"]),
        ("grid: {size: [1]}\nexclude: [{size: 2}]", ["exclude 1 matches no run", "size 2"]),
        ("grid: {size: [1]}\nexclude: [{size: true}]", ["exclude 1 matches no run"]),
        ("grid: {size: [1]}\nexclude: [{size: 1}]", ["exclude leaves no run"]),
        ("include: [{size: 1}]\nexclude: [{size: 1}]", ["exclude 1 matches no run"]),
    ],
)
def test_bad_parameters(project: Path, text: str, pieces: list[str]) -> None:
    sentence = refused(write(project, f"{MINIMAL}{text}\n"))
    for piece in pieces:
        assert piece.replace("{project}", str(project)) in sentence, sentence


@pytest.mark.parametrize(
    ("output", "pieces"),
    [
        ("runs/{clp}", ["{clp}", "did you mean {clip}?"]),
        ("runs/{qqq}", ["{qqq}", "a parameter of the notebook"]),
        ("runs/{clip.stm}", ["{clip.stm}", "{clip.stem}"]),
        ("runs/{}", ["unknown placeholder {}"]),
        ("runs/{clip", ["brace"]),
        ("runs/clip}", ["brace"]),
        ("runs/{{clip}}", ["brace"]),
        ("runs/{output_dir}", ["unknown placeholder {output_dir}"]),
        ("runs/{started}", ["{started}", "computes", "`parameters`"]),
        ("../runs/{clip}", ["outside of the project", "absolute path"]),
        ("runs/{clip}/..", ["outside of the project"]),
        ("runs/a\nb", ["a\\nb", "a character"]),
        ("~/runs/{clip}", ["`~`", "in full"]),
        (r"runs\{clip}", ["write /"]),
        ("{clip.stem}", ["begin with a folder", "runs/{clip.stem}"]),
        ("one", ["begin with a folder", "runs/one"]),
        ("/", ["begin with a folder"]),
        (".runs/{clip}", ["begins with a dot"]),
        ("runs/.{clip}", ["begins with a dot"]),
        ("runs/.batch", ["begins with a dot"]),
        ("runs/{clip.parent}", ["empty", "another placeholder"]),
        ("runs/index.html", ["index.html", "its own file"]),
        ("runs/Summary.CSV", ["Summary.CSV", "its own file"]),
        ("runs/" + "{clip}" * 70, ["too long"]),
    ],
)
def test_bad_output(project: Path, output: str, pieces: list[str]) -> None:
    sentence = refused(
        write(project, yaml.safe_dump({"notebook": "paint.ipynb", "output": output}))
    )
    assert sentence.startswith("output: ")
    assert all(piece in sentence for piece in pieces), sentence


plain = st.none() | st.booleans() | st.integers() | st.floats() | st.dates() | st.binary()
texts = (
    st.sampled_from(["", "*", "[", "clips/*", "sample:clip", "..", "{", "\0", "a\nb"]) | st.text()
)
values = st.recursive(
    plain | texts,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(CELL.split()) | texts | st.dates(), inner, max_size=3)
        | st.sets(plain, max_size=2)
    ),
    max_leaves=8,
)
tables = st.dictionaries(st.sampled_from(["clip", "styles", "steps", "table", "guess"]), values)


@unhurried
@given(
    content=st.fixed_dictionaries(
        {},
        optional={
            "notebook": st.just("paint.ipynb") | values,
            "output": st.sampled_from(["runs/{clip}-{steps}", "runs/{table}{guess}"]) | values,
            "parameters": tables | values,
            "grid": tables | values,
            "exclude": st.lists(tables, max_size=2) | values,
            "include": st.lists(tables, max_size=2) | values,
            "timeout": values,
        },
    )
)
def test_anything_is_planned_or_refused_in_a_sentence(
    project: Path, content: dict[str, Any]
) -> None:
    whole = {"notebook": "paint.ipynb", "output": "runs/{clip}-{steps}"} | content
    file = write(project, "")
    file.write_bytes(yaml.safe_dump(whole, encoding="utf-8"))
    sentence = ""
    try:
        assert read_plan(file).runs
    except InputError as error:
        sentence = str(error)
    assert "\n" not in sentence
    sentence.encode()  # so that it can be printed


def test_unreadable_files(project: Path) -> None:
    assert "no such file" in refused(project / "none.yaml")
    assert "cannot be read" in refused(project / "clips")
    latin = write(project, "")
    latin.write_bytes("notebook: malé.ipynb".encode("latin-1"))
    assert "UTF-8" in refused(latin)


def test_byte_order_mark_is_no_matter(project: Path) -> None:
    assert plan(project, f"\ufeff{MINIMAL}").runs == plan(project, MINIMAL).runs


@pytest.mark.parametrize(
    ("content", "piece"),
    [
        ("not json", "not a Jupyter notebook"),
        ("[]", "not a Jupyter notebook"),
        ('{"worksheets": []}', "not a Jupyter notebook"),
        ('{"cells": [{"source": 3}]}', "not a Jupyter notebook"),
        ('{"cells": []}', "no parameters cell"),
    ],
)
def test_bad_notebook(project: Path, content: str, piece: str) -> None:
    (project / "paint.ipynb").write_text(content)
    assert piece in refused(write(project, MINIMAL))


def test_notebook_without_what_a_batch_needs(project: Path) -> None:
    path = project / "paint.ipynb"
    save_notebook(path, CELL, tag="other")
    assert "no parameters cell" in refused(write(project, MINIMAL))
    save_notebook(path, CELL, cell_type="markdown")
    assert "no parameters cell" in refused(write(project, MINIMAL))
    save_notebook(path, 'clip: str = "sample:clip"')
    assert "no parameter output_dir" in refused(write(project, MINIMAL))
    save_notebook(path, "%matplotlib inline")
    assert "not plain Python" in refused(write(project, MINIMAL))


def test_own_notebook_by_its_name(project: Path) -> None:
    found = plan_of(project, notebook="stylize_clip", grid={"clip": "clips/*.mp4"})
    assert found.notebook.name == "stylize_clip.ipynb"
    assert len(found.runs) == 2
    path = found.notebook.as_posix()
    assert plan_of(project, notebook=path, grid={"clip": "clips/*.mp4"}).runs == found.runs


# Types


def test_good_values_of_every_kind(project: Path) -> None:
    parameters = {
        "style_weight": 5,
        "style": ["sketches/a.png", "sample:mosaic"],
        "styles": "sketches",
        "steps": [60, 120],
        "crop": None,
        "sharp": True,
        "init": "frames/0001.png",
        "started": "now",
        "guess": [1, {"a": None}],
        "table": {"a": 1},
    }
    run = plan_of(project, parameters=parameters).runs[0]
    assert run.parameters == parameters
    assert isinstance(run.parameters["style_weight"], float)
    assert set(run.inputs) == {"sketches/a.png", "sketches", "frames/0001.png"}


def test_lists_and_folders_in_the_grid(project: Path) -> None:
    grid = {"style": [["sketches/a.png", "sketches/b.png"], "sketches/a.png"], "styles": "s*/"}
    found = plan_of(project, output="runs/{style.stem}-{styles}", grid=grid)
    assert run_names(found) == ["a-b-sketches", "a-sketches"]


# Which runs


def test_exclude_takes_patterns_and_defaults(project: Path) -> None:
    grid = {"clip": "clips/*.mp4", "mode": ["blended", "flow-warped"], "size": [1, 2]}
    found = plan_of(
        project,
        output="runs/{clip.stem}-{mode}-{size}",
        grid=grid,
        exclude=[{"clip": "*/a.*", "mode": "flow*"}, {"size": 2, "pooling": "max"}],
    )
    assert run_names(found) == ["a-blended-1", "b-blended-1", "b-flow-warped-1"]


def test_exclude_spares_what_is_included(project: Path) -> None:
    found = plan_of(
        project,
        output="runs/{size}",
        grid={"size": [1, 2]},
        exclude=[{"size": 1}],
        include=[{"size": 1}],
    )
    assert run_names(found) == ["2", "1"]


def test_include_wins_over_parameters(project: Path) -> None:
    found = plan_of(
        project,
        output="runs/{size}-{mode}",
        parameters={"size": 5, "mode": "x"},
        include=[{"size": 6}],
    )
    assert found.runs[0].parameters == {"size": 6, "mode": "x"}
    assert found.varied == ()


# Names


@pytest.mark.parametrize(
    ("field", "value", "name"),
    [
        ("{clip}", "clips/a.mp4", "clips-a.mp4"),
        ("{clip.stem}", "clips/a.mp4", "a"),
        ("{clip.name}", "clips/a.mp4", "a.mp4"),
        ("{clip.suffix}", "clips/a.mp4", "mp4"),
        ("{clip.parent}", "clips/deep/d.mp4", "deep"),
        ("{clip}", "sample:clip", "clip"),
        ("{style.stem}", ["sketches/a.png", "sample:mosaic"], "a-mosaic"),
        ("{mode}", 'a/b\\c:d*e?f"g<h>i|j\tk', "a-b-c-d-e-f-g-h-i-j-k"),
        ("{mode}", " ..a b. .", "a b"),
        ("{mode}", "x" * 100, "x" * 80),
        ("{mode}", "ü{1}", "ü{1}"),
        ("{steps}", [60, 120], "60-120"),
        ("{table}", {"a": 1, "b": [2]}, "a-1-b-2"),
        ("{style_weight}", 1000.0, "1000"),
        ("{style_weight}", 0.00001, "1e-05"),
        ("{style_weight}", 0.1234567, "0.1234567"),
        ("{sharp}", True, "true"),
        ("{crop}", None, "none"),
        ("{size.stem}", 12, "12"),
        ("{pooling}-{size}", None, "max-256"),
    ],
)
def test_values_in_names(project: Path, field: str, value: Any, name: str) -> None:
    parameter = field.strip("{}").partition(".")[0]
    given = {} if "-" in parameter or "}" in parameter else {parameter: value}
    found = plan_of(project, output=f"runs/{field}", parameters=given)
    assert run_names(found) == [name]


@unhurried
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=120))
def test_any_text_is_one_safe_folder(project: Path, text: str) -> None:
    file = write(project, "")
    content = {
        "notebook": "paint.ipynb",
        "output": "runs/x{mode}x",
        "parameters": {"mode": text},
    }
    file.write_text(yaml.safe_dump(content), "utf-8")
    run = read_plan(file).runs[0]
    assert run.output.parent == project / "runs"
    assert len(run.name) <= 82
    assert not set(run.name) & set('/\\<>:"|?*\0\n')


@pytest.mark.parametrize(
    ("output", "root", "name"),
    [
        ("runs/reel/{size}-{mode}", "runs/reel", "256-temporal"),
        ("runs/one", "runs", "one"),
        ("./runs//reel/{size}/", "runs/reel", "256"),
        ("runs/re{size}/x", "runs", "re256/x"),
        ("runs/{size}/{mode}", "runs", "256/temporal"),
        ("runs/{size}/aux.{mode}", "runs", "256/aux_.temporal"),
        ("{tmp}/out/{size}", "{tmp}/out", "256"),
        ("{tmp}/.hidden/out/{size}", "{tmp}/.hidden/out", "256"),
    ],
)
def test_root_and_name(project: Path, output: str, root: str, name: str) -> None:
    def here(text: str) -> str:
        return text.replace("{tmp}", str(project.parent))

    found = plan_of(project, output=here(output))
    assert found.root == project / here(root)
    assert run_names(found) == [name]
    assert found.runs[0].output == found.root / name


@pytest.mark.parametrize(
    ("output", "grid", "pieces"),
    [
        ("{clip.stem}", {"mode": ["x", "y"]}, ['mode "x"', 'mode "y"', "reel/clip"]),
        ("{mode}", {"clip": "clips/*.mp4"}, ["clips/a.mp4", "clips/b.mp4"]),
        ("{clip.suffix}", {"clip": "clips/*.mp4"}, ["clips/a.mp4", "clips/b.mp4", "placeholder"]),
        ("{clip.stem}", {"clip": ["clips/a.mp4", "new/a.mp4"]}, ["clips/a.mp4", "new/a.mp4"]),
        ("{clip.stem}", {"clip": ["clips/a.mp4", "clips/a.mov"]}, ["clips/a.mp4", "a.mov"]),
        ("{mode}", {"mode": ["a/b", "a:b"]}, ["reel/a-b", "write these values differently"]),
        ("{mode}", {"mode": ["x", "X"]}, ["reel/X", "upper and lower case", "differently"]),
        ("{mode}", {"mode": ["x", "X"], "size": [1, 2]}, ["size 1", "size 2"]),
    ],
)
def test_two_runs_with_the_same_output(
    project: Path, output: str, grid: dict[str, Any], pieces: list[str]
) -> None:
    (project / "new").mkdir()
    (project / "new" / "a.mp4").touch()
    (project / "clips" / "a.mov").touch()
    content = {"notebook": "paint.ipynb", "output": f"runs/reel/{output}", "grid": grid}
    sentence = refused(write(project, yaml.safe_dump(content, sort_keys=False)))
    assert all(piece in sentence for piece in pieces), sentence


def test_the_same_run_twice(project: Path) -> None:
    text = MINIMAL.replace("clip.stem", "size") + "grid: {size: [1]}\ninclude: [{size: 1}]\n"
    sentence = refused(write(project, text))
    assert "size 1" in sentence
    assert "asked for twice" in sentence


@pytest.mark.parametrize(
    ("output", "clip"),
    [
        ("frames/out/{mode}", "frames"),
        ("frames/{mode}", "frames/../frames"),
        ("runs/{mode}", "."),
        ("clips/{clip.name}", "clips/a.mp4"),
        ("clips/deep", "clips/deep/d.mp4"),
    ],
)
def test_outputs_and_inputs_stay_apart(project: Path, output: str, clip: str) -> None:
    content = {"notebook": "paint.ipynb", "output": output, "parameters": {"clip": clip}}
    sentence = refused(write(project, yaml.safe_dump(content)))
    assert sentence.startswith("output: ")
    assert clip in sentence


def test_output_may_lie_beside_inputs(project: Path) -> None:
    found = plan_of(project, output="clips/x-{clip.stem}", grid={"clip": "clips/*.mp4"})
    assert run_names(found) == ["x-a", "x-b"]


# Inputs and keys


def test_what_counts_as_input(project: Path) -> None:
    for name in ("content", "temporal"):  # words that are values, too
        (project / name).mkdir()
    found = plan_of(project, parameters={"clip": "frames"})
    assert found.runs[0].inputs == {"frames": digest(project / "frames")}
    save_notebook(project / "paint.ipynb", CELL.replace("sample:swirls", "sketches/b.png"))
    run = plan_of(project).runs[0]
    assert set(run.inputs) == {"sketches/b.png"}
    assert run.parameters == {}
    sentence = refused(write(project, MINIMAL + "parameters: {style: sketches/c.png}\n"))
    assert "sketches/c.png" in sentence


def touch_notebook(project: Path, **changes: Any) -> None:
    path = project / "paint.ipynb"
    content = json.loads(path.read_text())
    content["cells"][1].update(changes)
    path.write_text(json.dumps(content, indent=3))


KEYED = "notebook: paint.ipynb\noutput: runs/{clip.stem}\nparameters: {clip: clips/a.mp4}\n"
CHANGES: dict[str, Callable[[Path], object]] = {
    "source": lambda project: touch_notebook(project, source="print(2)"),
    "type": lambda project: touch_notebook(project, cell_type="raw"),
    "tags": lambda project: touch_notebook(project, metadata={"tags": ["x"]}),
    "input": lambda project: (project / "clips" / "a.mp4").write_text("other"),
}


def add_text(project: Path) -> None:
    path = project / "paint.ipynb"
    content = json.loads(path.read_text())
    text = {"cell_type": "markdown", "id": "text", "metadata": {}, "source": "A typo less."}
    content["cells"].insert(1, text)
    path.write_text(json.dumps(content))


NO_CHANGES: dict[str, Callable[[Path], object]] = {
    "nothing": lambda project: None,
    "text": add_text,
    "outputs": lambda project: touch_notebook(project, outputs=[{"x": 1}], execution_count=3),
    "id": lambda project: touch_notebook(project, id="abc", metadata={"collapsed": True}),
    "lines": lambda project: touch_notebook(project, source=["print", "(clip)"]),
    "touch": lambda project: (project / "clips" / "a.mp4").touch(),
    "other file": lambda project: (project / "clips" / "b.mp4").write_text("other"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_key_changes_with(project: Path, change: str) -> None:
    before = plan(project, KEYED).runs[0].key
    CHANGES[change](project)
    assert plan(project, KEYED).runs[0].key != before


@pytest.mark.parametrize("change", NO_CHANGES)
def test_key_stays_with(project: Path, change: str) -> None:
    before = plan(project, KEYED).runs[0].key
    NO_CHANGES[change](project)
    assert plan(project, KEYED).runs[0].key == before


def test_key_and_parameters(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def key(**parameters: Any) -> str:
        return plan_of(project, parameters=parameters).runs[0].key

    plain = key()
    assert key(size=256, style_weight=100) == plain  # the defaults
    assert key(size=257) != plain
    assert key(guess=1) != key(guess=True)
    assert plan_of(project, output="runs/other").runs[0].key == plain
    assert plan_of(project, timeout=3).runs[0].key == plain
    default = CELL.replace("runs/paint", "runs/other")
    save_notebook(project / "paint.ipynb", default, "print(clip)")
    assert key() != plain  # the cell reads otherwise
    save_notebook(project / "paint.ipynb", CELL, "print(clip)")
    monkeypatch.setattr(workbench, "__version__", "99")
    assert key() != plain


def test_project_that_moves_keeps_its_keys(project: Path) -> None:
    before = plan(project, REEL)
    moved = project.rename(project.with_name("moved"))
    after = read_plan(moved / "experiments" / "reel.yaml")
    assert [run.key for run in after.runs] == [run.key for run in before.runs]
    assert [run.inputs for run in after.runs] == [run.inputs for run in before.runs]


@unhurried
@given(data=st.data())
def test_order_in_the_file_does_not_change_keys(project: Path, data: st.DataObject) -> None:
    def shuffled(value: Any) -> Any:
        if isinstance(value, dict):
            names = data.draw(st.permutations(list(value)))
            return {name: shuffled(value[name]) for name in names}
        return value

    content = yaml.safe_load(REEL)
    content["parameters"]["table"] = {"a": 1, "b": 2}
    keys = {run.name: run.key for run in plan(project, yaml.safe_dump(content)).runs}
    text = yaml.safe_dump(shuffled(content), sort_keys=False)
    assert {run.name: run.key for run in plan(project, text).runs} == keys


# Digests


def test_digest_of_a_file_is_sha256_of_its_content(project: Path) -> None:
    empty = project / "empty"
    empty.touch()
    assert digest(empty).startswith("e3b0c44298fc1c14")


def test_digest_of_a_folder(project: Path) -> None:
    frames = project / "frames"
    before = digest(frames)
    (frames / ".hidden").write_text("x")
    (frames / ".checkpoints").mkdir()
    (frames / ".checkpoints" / "x").write_text("x")
    os.utime(frames / "0001.png")
    assert digest(frames) == before
    shutil.copytree(frames, project / "copy")
    assert digest(project / "copy") == before
    (frames / "0001.png").rename(frames / "0003.png")
    assert digest(frames) != before
    (frames / "0003.png").rename(frames / "0001.png")
    assert digest(frames) == before
    (frames / "deep").mkdir()
    (frames / "deep" / "0001.png").write_text("x")
    assert digest(frames) != before


def test_digest_of_nothing_is_an_input_error(project: Path) -> None:
    with pytest.raises(InputError, match=r"none\.mp4: there is no such file"):
        digest(project / "none.mp4")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were hashed."""
    names: list[str] = []
    read = runs.digest

    def count(content: Any) -> str:
        if isinstance(content, Path):
            names.append(content.name)
        return read(content)

    monkeypatch.setattr(runs, "digest", count)
    return names


def test_files_are_read_once_and_then_remembered(project: Path, reads: list[str]) -> None:
    file = write(project, REEL)
    expected = ["a.mp4", "b.mp4", "a.png", "b.png"]
    first = read_plan(file)
    assert reads == expected
    assert not (project / "runs").exists()
    reads.clear()
    assert read_plan(file, keep_digests=True) == first
    assert reads == expected
    reads.clear()
    assert read_plan(file, keep_digests=True) == first
    assert reads == []
    (project / "clips" / "a.mp4").write_text("longer than it was")
    changed = read_plan(file)
    assert reads == ["a.mp4"]
    assert changed.runs[0].key != first.runs[0].key


def test_file_of_this_moment_is_not_remembered(project: Path, reads: list[str]) -> None:
    file = write(project, KEYED)
    clip = project / "clips" / "a.mp4"
    for seconds in (time.time(), time.time() + 1e5):
        os.utime(clip, (seconds, seconds))
        for _ in range(2):
            reads.clear()
            read_plan(file, keep_digests=True)
            assert reads == ["a.mp4"]


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"a": 1}', '{"a": [1, 2]}', "\udcff"])
def test_damaged_digests_are_ignored(project: Path, reads: list[str], damage: str) -> None:
    file = write(project, KEYED)
    first = read_plan(file, keep_digests=True)
    cache = project / "runs" / ".batch" / "digests.json"
    cache.write_bytes(damage.encode("utf-8", "surrogateescape"))
    reads.clear()
    assert read_plan(file, keep_digests=True) == first
    assert reads == ["a.mp4"]
    assert list(json.loads(cache.read_text())) == [str(project / "clips/a.mp4")]


def test_wrong_file_reads_and_writes_nothing(project: Path, reads: list[str]) -> None:
    file = write(project, REEL.replace("-{mode}", ""))
    with pytest.raises(InputError):
        read_plan(file, keep_digests=True)
    assert reads == []
    assert not (project / "runs").exists()


# The module itself


def test_many_runs_have_keys_of_their_own(project: Path) -> None:
    for number in range(20):
        (project / "clips" / f"n{number}.mp4").write_text(str(number))
    grid = {"clip": "clips/n*.mp4", "size": list(range(1, 101))}
    found = plan_of(project, output="runs/{clip.stem}-{size}", grid=grid)
    assert len({run.key for run in found.runs}) == math.prod((20, 100))


def test_planning_loads_no_torch() -> None:
    code = "import sys, workbench.batch.plan; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_sample_prefix_is_that_of_the_samples() -> None:
    from workbench import samples
    from workbench.batch import parameters

    assert parameters.SAMPLE == samples.PREFIX


def test_home_and_single_values_are_what_is_meant(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(project))
    parameters = {"clip": "~/clips/a.mp4", "steps": 20}
    run = plan_of(project, parameters=parameters).runs[0]
    assert run.parameters == {"clip": str(project / "clips/a.mp4"), "steps": [20]}
    assert run.inputs == {str(project / "clips/a.mp4"): digest(project / "clips/a.mp4")}
    runs = plan_of(project, grid={"clip": "~/clips/*.mp4"}, output="runs/{clip.stem}").runs
    assert [Path(run.parameters["clip"]).parent for run in runs] == [project / "clips"] * 2
    both = plan_of(project, include=[{"clip": "~/clips/a.mp4", "steps": "20, 30"}]).runs[0]
    assert both.parameters["steps"] == [20, 30]
