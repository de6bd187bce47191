from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from tools import default_parameters, run_cells, shown

from workbench.errors import InputError
from workbench.notebook import find_notebook, run_notebook, settings_from
from workbench.painting import Painting
from workbench.runs import read_result
from workbench.samples import load_picture
from workbench.session import Session, save_run
from workbench.settings import Settings
from workbench.stills import Still

PATIENCE = 60  # seconds
STYLE = "sample:mosaic"


def test_defaults_are_the_draft_and_no_moves() -> None:
    defaults = default_parameters("tune_weights")
    assert settings_from(defaults) == Settings.from_preset("draft")
    assert defaults["moves"] == []


@pytest.mark.slow
def test_headless_the_moves_are_made_and_everything_is_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    moves = [
        {"step": 3, "style_weight": 800.0},
        {"step": 5, "style_layers": ["relu2_1", "relu4_1"], "size": 160},
    ]
    parameters = {"output_dir": str(output), "size": 96, "steps": [6], "moves": moves}
    executed = tmp_path / "out.ipynb"
    run_notebook(find_notebook("tune_weights"), executed, parameters)
    result = read_result(output)
    assert result is not None
    names = {"picture", "gif", "strip", "losses", "content", "style 1", "settings", "session"}
    assert set(result.outputs) == names
    assert (result.figures["steps"], result.figures["moves"]) == (11, 2)
    assert result.settings["moves"] == moves
    assert (result.settings["style_weight"], result.settings["size"]) == (800.0, 160)
    assert yaml.safe_load((output / "session.yaml").read_text())["moves"] == moves
    assert "11/11" in capsys.readouterr().out
    kinds = shown(executed)
    assert (kinds.count("image/webp"), kinds.count("image/gif")) == (3, 1)
    assert not any("widget" in kind for kind in kinds)  # nobody could turn them


def papermill(folder: Path, notebook: str, *options: str) -> subprocess.CompletedProcess[str]:
    """The command line that people type."""
    command = [sys.executable, "-m", "papermill", str(find_notebook(notebook)), "out.ipynb"]
    return subprocess.run([*command, *options], cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("moves", "sentence"),
    [
        ([{"style_weight": 3.0}], "step is None; give a whole number"),
        ([{"step": 2, "stlye_weight": 3.0}], "no setting 'stlye_weight'"),
        ([{"step": 99, "style_weight": 3.0}], "made at step 99, but the painting ends at step 2"),
    ],
    ids=["no step", "no such setting", "too late"],
)
def test_moves_that_cannot_be_made_fail_with_a_sentence(
    tmp_path: Path, moves: list[dict[str, object]], sentence: str
) -> None:
    parameters = {"output_dir": str(tmp_path), "size": 64, "steps": [2], "moves": moves}
    with pytest.raises(InputError, match=sentence):
        run_cells("tune_weights", 3, **parameters)
    assert not list(tmp_path.rglob("*.*"))


def paint(folder: Path, *deeds: tuple[int, Callable[[Session], None]]) -> Painting:
    """Paint with one deed after another, each at its step, and save the run."""
    photo, painting = load_picture("sample:astronaut"), load_picture(STYLE)
    to_do = list(deeds)

    def watch() -> None:
        iterate = session.painting.iterate if session.painting else None
        if iterate and to_do and session.state == "running" and iterate.step == to_do[0][0]:
            to_do.pop(0)[1](session)

    settings = Settings(size=128, steps=(3, 30), style_weight=150.0, seed=3)
    session = Session(Still(photo, [painting], settings), settings, on_update=watch)
    while to_do:
        session.start()
        assert session.wait(PATIENCE)
        assert session.state == "paused", session.message
    assert session.painting is not None
    save_run(session.painting, {"content": "sample:astronaut", "style": STYLE}, folder)
    return session.painting


@pytest.mark.slow
def test_saved_settings_give_the_very_picture_in_stylize_image(tmp_path: Path) -> None:
    paint(tmp_path / "panel", (9, Session.pause), (24, Session.pause))
    assert not (tmp_path / "panel" / "session.yaml").exists()
    done = papermill(
        tmp_path, "stylize_image", "-f", "panel/settings.yaml", "-p", "output_dir", "again"
    )
    assert done.returncode == 0, done.stderr
    pictures = [(tmp_path / run / "picture.png").read_bytes() for run in ("panel", "again")]
    assert pictures[0] == pictures[1]
    result = read_result(tmp_path / "again")
    assert result is not None
    assert result.figures["steps"] == 24
    assert result.settings["steps"] == [3, 21]


@pytest.mark.slow
def test_a_saved_session_gives_the_very_picture_in_tune_weights(tmp_path: Path) -> None:
    painting = paint(
        tmp_path / "panel",
        (5, lambda session: session.change(style_weight=400.0, style_scale=0.5)),
        (13, Session.step_back),
        (17, lambda session: session.change(style_layers=["relu1_1"], content_weight=1)),
        (24, Session.pause),
    )
    assert [move.step for move in painting.log] == [5, 17]
    done = papermill(
        tmp_path, "tune_weights", "-f", "panel/session.yaml", "-p", "output_dir", "again"
    )
    assert done.returncode == 0, done.stderr
    pictures = [(tmp_path / run / "picture.png").read_bytes() for run in ("panel", "again")]
    assert pictures[0] == pictures[1]
    result = read_result(tmp_path / "again")
    assert result is not None
    assert (result.figures["steps"], result.figures["moves"]) == (24, 2)
