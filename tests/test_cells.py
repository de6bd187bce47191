from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tools import parameters_cell

from workbench.cells import TAKES, Parameter, as_meant, read_parameters, with_knobs, write_knobs
from workbench.errors import InputError
from workbench.notebook import find_notebook
from workbench.settings import Knobs, knob

# --- what a cell says --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        ("int", [1, -1], [True, 1.0, "1", None, [1]]),
        ("float", [1, 1.5], [True, "1", None]),
        ("str", ["", "a"], [1, None, ["a"]]),
        ("bool", [True, False], [0, 1, "true"]),
        ("list", [[], [1]], ["a", {}]),
        ("dict", [{}, {"a": 1}], [[], "a"]),
        ("tuple", [[1, 2]], [1, "ab"]),
        ("None", [None], [0, ""]),
        ("list[int]", [[], [1, 2]], [[1, "a"], [True], 1]),
        ("List[str]", [["a"]], [[1]]),
        ("dict[str, int]", [{"a": 1}], [{"a": "b"}, []]),
        ("tuple[int, str]", [[1, "a"]], [[1], ["a", 1], [1, "a", 2]]),
        ("tuple[int, ...]", [[], [1, 2, 3]], [["a"]]),
        ("tuple[()]", [[]], [[1]]),
        ("int | None", [1, None], ["a", 1.5]),
        ("str | list[str]", ["a", ["a"]], [[1], 1]),
        ("Optional[int]", [1, None], ["a"]),
        ("typing.Optional[int]", [1, None], ["a"]),
        ("Union[int, str]", [1, "a"], [1.5, None]),
        ("Literal['a', 2]", ["a", 2], ["b", 2.0, True]),
        ("'int'", [1], ["a"]),
        ("'in pixels'", [1, "a"], []),
        ("Path", [1, "a", None, []], []),
        ("Sequence[int]", [["a"], 1], []),
        ("Any", [1, "a", None], []),
        ("", [1, "a", None, []], []),
    ],
)
def test_types(annotation: str, good: list[Any], bad: list[Any]) -> None:
    parameter = read_parameters(f"a: {annotation} = 1" if annotation else "a = 1")["a"]
    assert [value for value in good if not parameter.accepts(value)] == []
    assert [value for value in bad if parameter.accepts(value)] == []


def test_parameters_cell_is_read_and_not_run() -> None:
    cell = "a: int = -1  # one\nb = c = [1, (2, 3)]\nd: str\ne = open('x')\nf = {1}\nprint(a)\n"
    assert read_parameters(cell) == {
        "a": Parameter("int", -1, known=True),
        "b": Parameter("", [1, [2, 3]], known=True),
        "c": Parameter("", [1, [2, 3]], known=True),
        "d": Parameter("str"),
        "e": Parameter(),
        "f": Parameter(),
    }


# --- what is handed in -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotation", "value", "meant"),
    [
        ("list", "me.png", ["me.png"]),
        ("list[str]", "a,b.png", ["a,b.png"]),
        ("list", "0.2,0, 1,1e0", [0.2, 0, 1, 1.0]),
        ("list", "20", [20]),
        ("list", 20, [20]),
        ("list", "[0.2, 0, 1, 1]", [0.2, 0, 1, 1]),
        ("list", "[me.png]", ["me.png"]),
        ("list", "", []),
        ("list", [], []),
        ("list", (1, 2), (1, 2)),
        ("list | None", None, None),
        ("list | None", "me.png", ["me.png"]),
        ("list | None", 3, 3),
        ("list", {"step": 4}, {"step": 4}),
        ("list", True, True),
        ("str", "a,b", "a,b"),
        ("dict", "schedule.yaml", "schedule.yaml"),
        ("", "a", "a"),
    ],
)
def test_what_is_given_is_what_is_meant(
    annotation: str, value: object, meant: object, tmp_path: Path
) -> None:
    (tmp_path / "a,b.png").touch()
    given = as_meant("crop", Parameter(annotation), value, tmp_path)
    assert given == meant
    assert repr(given) == repr(meant)


def test_several_words_for_a_list_get_the_line_to_type() -> None:
    with pytest.raises(InputError) as caught:
        as_meant("style_layers", Parameter("list"), "relu1_1,relu2_1")
    assert "-y 'style_layers: [relu1_1, relu2_1]'." in str(caught.value)


# --- knobs -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TAKES)
def test_the_notebooks_have_all_knobs_as_they_are_declared(name: str) -> None:
    """If this fails, run `python -m workbench.cells`."""
    cell = parameters_cell(find_notebook(name))
    assert with_knobs(cell, TAKES[name]) == cell
    read = read_parameters(cell)
    for without in TAKES[name].values():
        assert not without & read.keys()


@dataclass(frozen=True, kw_only=True)
class Brush(Knobs):
    """Made up."""

    width: float = knob(1.5, "larger covers more")
    dry: bool = knob(True, "leaves gaps")
    hairs: tuple[str, ...] = knob(("a", 'b"'), "of these animals")
    angle: int = knob(45, "of the handle")


CELL = """output_dir: str = "runs/x"  # where to
width: float = 3.0  # old words

hairs: list = []  # of which animals
colour: str = "red"  # of one's own
"""


def test_a_new_knob_gets_its_place_and_values_stay(tmp_path: Path) -> None:
    written = with_knobs(CELL, {Brush: frozenset({"angle"})})
    assert written.splitlines() == [
        'output_dir: str = "runs/x"  # where to',
        "width: float = 3.0  # larger covers more",
        "dry: bool = True  # leaves gaps",
        "",
        "hairs: list = []  # of these animals",
        'colour: str = "red"  # of one\'s own',
    ]
    assert 'hairs: list = ["a", "b\\""]' in with_knobs("", {Brush: frozenset()})

    path = tmp_path / "a.ipynb"
    cells: list[dict[str, Any]] = [
        {"cell_type": "code", "metadata": {}, "source": ["width = 1"]},
        {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": [CELL]},
    ]
    path.write_text(json.dumps({"cells": cells}))
    assert write_knobs(path, {Brush: frozenset({"angle"})})
    assert parameters_cell_of(path) == written
    assert not write_knobs(path, {Brush: frozenset({"angle"})})


def parameters_cell_of(path: Path) -> str:
    return "".join(json.loads(path.read_text())["cells"][1]["source"])
