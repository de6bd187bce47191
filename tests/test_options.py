from __future__ import annotations

import inspect
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from workbench.errors import InputError
from workbench.options import documented, numbers, with_knobs
from workbench.settings import ClipSettings, Knobs, Settings, TrainingSettings


def call(words: str, **kinds: Any) -> dict[str, Knobs]:
    """What a command with knobs of these kinds is handed for `words`."""
    app, found = typer.Typer(), {}

    def command(**given: Knobs) -> None:
        found.update(given)

    named = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in kinds]
    command.__signature__ = inspect.Signature(named)  # type: ignore[attr-defined]
    app.command()(with_knobs(**kinds)(command))
    app(args=words.split(), standalone_mode=False)
    return found


def test_without_options_settings_are_the_defaults() -> None:
    assert call("", settings=Settings, clip=ClipSettings) == {
        "settings": Settings(),
        "clip": ClipSettings(),
    }


def test_options_become_settings_and_lists_have_commas() -> None:
    given = call(
        "--steps 30,70 --style-layers relu1_1,relu2_1 --style-layer-weights 1,0.5 --size 99"
        " --normalize-gradients --temporal-lags 1,3 --mode blended",
        settings=Settings,
        clip=ClipSettings,
    )
    assert given["settings"] == Settings(
        steps=(30, 70),
        style_layers=("relu1_1", "relu2_1"),
        style_layer_weights=(1, 0.5),
        size=99,
        normalize_gradients=True,
    )
    assert given["clip"] == ClipSettings(temporal_lags=(1, 3), mode="blended")


@pytest.mark.parametrize("preset", TrainingSettings.PRESETS)
def test_presets_of_training_leave_settings_of_pictures_alone(preset: str) -> None:
    given = call(f"--preset {preset} --size 300", settings=Settings, training=TrainingSettings)
    assert given["settings"] == Settings(size=300)
    assert given["training"] == TrainingSettings.from_preset(preset)


def test_single_options_win_over_the_preset() -> None:
    given = call("--preset draft --size 300", settings=Settings)
    assert given["settings"] == Settings.from_preset("draft", size=300)


def test_an_unknown_preset_is_answered_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="preset = 'large': use one of draft, normal, fine"):
        call("--preset large", settings=Settings)


def test_knobs_that_are_left_out_are_no_options() -> None:
    app = typer.Typer()
    app.command()(with_knobs(settings=Settings, leave_out=("init",))(lambda settings: None))
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).output
    assert "--size" in shown
    assert "--init" not in shown


def test_help_has_text_and_default_of_every_knob() -> None:
    app = typer.Typer(rich_markup_mode=None)
    app.command()(with_knobs(settings=Settings, clip=ClipSettings)(lambda settings, clip: None))
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "400"}).output
    assert "Larger gives more brushwork. [100.0]" in " ".join(shown.split())
    assert "[1,2,4]" in shown


def test_what_are_no_numbers_is_refused_by_name() -> None:
    assert numbers("steps", "60, 120", int) == [60, 120]
    with pytest.raises(InputError, match=r"^--style-layer-weights 1;2: give numbers with commas"):
        numbers("style_layer_weights", "1;2", float)


def test_help_is_the_docstrings() -> None:
    app = typer.Typer(rich_markup_mode=None)

    @app.command()
    @with_knobs(settings=Settings)
    @documented
    def paint(
        settings: Settings,
        name: str,
        colours: Annotated[int, typer.Option("-c", min=1)] = 3,
        again: bool = False,
    ) -> None:
        """Paint something.

        Parameters
        ----------
        name
            What it is called, in
            two lines.
        colours
            How many.
        again
            Whether it is painted twice.
        """

    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).output
    assert "Parameters" not in shown
    for line in (
        "Paint something.",
        "name <str>  What it is called, in two lines.  [required]",
        "-c <int range>",
        "How many.  [default: 3; x>=1]",
    ):
        assert line in shown
    assert "--no-again" not in shown
    assert CliRunner().invoke(app, ["x", "-c", "0"]).exit_code == 2
    assert CliRunner().invoke(app, ["x", "--again"]).exit_code == 0
