"""The slider panel without a browser: what a person does is the setting of a widget's value."""

from __future__ import annotations

import datetime
import html
import io
import re
import shlex
import threading
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from ipywidgets import Button
from PIL import Image
from torch import Tensor

from workbench import session
from workbench.chooser import small_jpeg
from workbench.descent import stylize
from workbench.errors import InputError
from workbench.images import from_array, load_image, resize, save_image
from workbench.knobs import label
from workbench.notebook import papermill_command
from workbench.painting import Move, Painting
from workbench.remedies import REMEDIES
from workbench.runs import read_result
from workbench.settings import MAX_SIZE, Settings
from workbench.tuner import PICTURE_SIDE, Tuner, tuner

PATIENCE = 30  # seconds, within which anything here must be done
FOR_EVER = 100_000  # steps


@pytest.fixture
def pictures(photo: Tensor, painting: Tensor, tmp_path: Path) -> tuple[str, str]:
    """Paths of a photograph and a style picture."""
    paths = tmp_path / "photo.png", tmp_path / "style.png"
    for picture, path in zip((photo, painting), paths, strict=True):
        save_image(picture, path)
    return str(paths[0]), str(paths[1])


@pytest.fixture
def make(
    tiny: Settings,
    pictures: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Iterator[Callable[..., Tuner]]:
    """Opens panels, whose sessions are stopped in the end whatever happens."""
    if request.node.get_closest_marker("curves") is None:  # which take a while to draw
        monkeypatch.setattr("workbench.tuner.curves", lambda painting: b"curves")
    made: list[Tuner] = []

    def make(**changes: Any) -> Tuner:
        folder = changes.pop("output_dir", tmp_path / "out")
        content = changes.pop("content", pictures[0])
        style = changes.pop("style", pictures[1])
        made.append(tuner(content, style, tiny.changed(**changes), folder))
        return made[-1]

    yield make
    for panel in made:
        panel.session.stop()
        panel.session.wait(PATIENCE)


@pytest.fixture
def panel(make: Callable[..., Tuner]) -> Tuner:
    return make()


def settle(panel: Tuner) -> None:
    assert panel.session.wait(PATIENCE)


def run(panel: Tuner) -> None:
    panel.buttons["start"].click()
    settle(panel)


def at(panel: Tuner, step: int, do: Callable[[], object]) -> None:
    """Have something done as soon as the panel has been told of a step."""
    update = panel.session._on_update
    done = threading.Event()

    def watch() -> None:
        update()
        painting = panel.session.painting
        if painting and painting.iterate and painting.iterate.step == step and not done.is_set():
            done.set()
            do()

    panel.session._on_update = watch


def run_until(panel: Tuner, step: int) -> None:
    at(panel, step, panel.session.pause)
    run(panel)
    assert panel.session.state == "paused"
    assert panel.session.painting.iterate.step == step  # type: ignore[union-attr]


def said(panel: Tuner) -> str:
    """What the panel says, as a person reads it."""
    assert len(re.findall(r"<[^>]*>", panel.message.value)) in (0, 2, 4)  # and perhaps a link
    return html.unescape(re.sub(r"<[^>]*>", "", panel.message.value))


def caption(panel: Tuner) -> str:
    return html.unescape(re.sub(r"<[^>]*>", " ", panel.caption.value))


def decoded(data: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture


def shown_settings(panel: Tuner) -> dict[str, Any]:
    """What the widgets stand at."""
    layers = tuple(layer for layer, box in panel.style_layers.items() if box.value)
    return {
        **{name: knob.field.value for name, knob in panel.knobs.items()},
        "content_layers": tuple(name for name, box in panel.content_layers.items() if box.value),
        "style": {layer: panel.layer_weights[layer].field.value for layer in layers},
    }


def settings_as_shown(settings: Settings) -> dict[str, Any]:
    """What the widgets have to stand at."""
    names = ("content_weight", "style_weight", "tv_weight", "style_scale", "size")
    names += ("optimizer", "init", "seed", "learning_rate", "normalize_gradients")
    names += ("style_loss", "tv_kind", "white", "pooling")
    factors = settings.style_layer_weights or (1.0,) * len(settings.style_layers)
    pairs = zip(settings.style_layers, factors, strict=True)
    return {
        **{name: getattr(settings, name) for name in names},
        "steps": settings.steps[-1],
        "content_layers": settings.content_layers,
        "style": {layer: factor for layer, factor in pairs if factor > 0},
    }


def upload(content: bytes, name: str = "some.png", kind: str = "image/png") -> dict[str, Any]:
    """A file as the upload widget has it."""
    when = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    return {
        "name": name,
        "type": kind,
        "size": len(content),
        "content": memoryview(content),
        "last_modified": when,
    }


def png(colour: tuple[int, int, int] = (200, 30, 30), size: tuple[int, int] = (70, 50)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


# --- opening -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"style_weight": 123.4, "content_weight": 0.0, "tv_weight": 0.0},
        {"content_weight": 1e-7, "style_weight": 3e7, "tv_weight": 12.0},
        {"size": 300, "style_scale": 0.77},
        {"size": 32, "content_layers": ("relu1_1",), "style_layers": ("relu2_1",)},
        {"style_layer_weights": (1.0, 0.0, 2.0, 0.333, 50.0)},
        {"style_layers": ("relu5_3", "relu1_2"), "style_layer_weights": (0.0, 7.0)},
        {"content_layers": ("relu1_1", "relu3_1"), "style_blend_weights": (2.0,)},
        {"steps": (5, 7), "optimizer": "adam", "init": "random", "seed": 2**40},
        {"init": "start.png", "pooling": "l2", "learning_rate": 3.0},
    ],
    ids=str,
)
def test_a_panel_opens_on_the_settings_given_and_changes_none(
    make: Callable[..., Tuner], tiny: Settings, changes: dict[str, Any]
) -> None:
    panel, given = make(**changes), tiny.changed(**changes)
    settle(panel)
    assert panel.session.settings == given
    assert shown_settings(panel) == settings_as_shown(given)
    assert panel.session.state == "ready"
    assert said(panel) == ""


def test_without_settings_a_panel_opens_on_the_draft(pictures: tuple[str, str]) -> None:
    panel = tuner(*pictures)
    assert panel.session.settings == Settings.from_preset("draft")
    assert panel.output_dir == Path("runs/tune_weights")


def test_a_panel_shows_in_jupyter(panel: Tuner) -> None:
    bundle = panel._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert not panel.output_dir.exists()  # nothing is written before it is asked for


def test_pictures_that_are_missing_are_told_and_no_other_takes_their_place(
    make: Callable[..., Tuner], tmp_path: Path, pictures: tuple[str, str]
) -> None:
    content, style = tmp_path / "<b>gone</b>.png", tmp_path / "lost.png"
    panel = make(content=str(content), style=str(style))
    assert said(panel) == f"{content}: there is no such file. {style}: there is no such file."
    assert (panel.content.name, panel.styles.styles[0].picture.name) == (str(content), str(style))
    assert panel.content.path.value == str(content)  # to be mended there
    for press in (panel.buttons["start"], panel.buttons["save_settings"], panel.buttons["start"]):
        press.click()
        settle(panel)
        assert said(panel) == "Choose a content picture and a style picture first."
        assert panel.session.painting is None
    assert not panel.output_dir.exists()
    panel.content.path.value = pictures[0]
    run(panel)
    assert said(panel) == "Choose a content picture and a style picture first."
    panel.styles.styles[0].picture.path.value = pictures[1]
    run(panel)
    assert panel.session.state == "finished"
    assert panel.session.painting.still.content is panel.content.image  # type: ignore[union-attr]


def test_a_picture_that_was_missing_is_taken_when_it_is_there(
    make: Callable[..., Tuner], tmp_path: Path
) -> None:
    path = tmp_path / "late.png"
    panel = make(content=str(path))
    path.write_bytes(png())
    panel.content.choose(str(path))
    run(panel)
    assert panel.session.state == "finished"


def test_an_empty_name_is_no_sample(make: Callable[..., Tuner]) -> None:
    panel = make(content="")
    assert said(panel).startswith("the path is empty; type one")
    assert panel.content.image is None


def hidden(widget: Any) -> bool:
    return bool(widget.layout.display == "none")


def test_images_without_a_picture_are_hidden(make: Callable[..., Tuner], tmp_path: Path) -> None:
    panel = make(content=str(tmp_path / "gone.png"))
    images = panel.picture, panel.curves, panel.strip, panel.content.thumbnail
    assert [*map(hidden, images)] == [True] * 4
    assert not hidden(panel.styles.styles[0].picture.thumbnail)
    panel.content.path.value = "sample:astronaut"
    settle(panel)
    assert [*map(hidden, images)] == [False, True, True, False]
    run(panel)
    assert [*map(hidden, images)] == [False] * 4
    panel.content.upload.value = (upload(png()),)
    settle(panel)
    assert [*map(hidden, images)] == [False, True, True, False]


def test_the_photograph_shows_before_anything_is_painted(
    make: Callable[..., Tuner], tmp_path: Path
) -> None:
    Image.effect_noise((900, 300), 90).save(tmp_path / "wide.png")
    panel = make(content=str(tmp_path / "wide.png"))
    assert decoded(panel.picture.value).size == (PICTURE_SIDE, 213)
    assert "Press Start" in caption(panel)
    assert max(decoded(panel.content.thumbnail.value).size) <= 160
    assert max(decoded(panel.styles.styles[0].picture.thumbnail.value).size) <= 160


# --- painting ----------------------------------------------------------------------------


@pytest.mark.curves
def test_start_paints_and_the_picture_arrives(
    panel: Tuner, tiny: Settings, pictures: tuple[str, str]
) -> None:
    panel.sliders["style_weight"].value = 400.0
    run(panel)
    assert panel.session.state == "finished"
    picture = decoded(panel.picture.value)
    assert picture.format == "JPEG"
    assert picture.size == (64, 48)
    photo, painting = map(load_image, pictures)
    painted = stylize(photo, [painting], replace(tiny, style_weight=400.0))
    shown = from_array(np.asarray(picture))
    assert (resize(shown, 16) - resize(painted, 16)).abs().mean() < 0.03  # JPEG
    for part in ("finished", "step 12 ·", "64×48 px", "content weight 5 ·", "tv weight 0.001"):
        assert part in caption(panel)
    assert "style weight 400 ·" in caption(panel)
    assert "loss " in caption(panel)
    assert decoded(panel.curves.value).format == "PNG"
    assert decoded(panel.strip.value).format == "JPEG"
    assert panel.moves.value == "None yet."


@pytest.mark.parametrize("weight", [123.4, 1120.0, 10_000.0, 0.05])
def test_the_caption_names_a_weight_as_the_slider_does(
    make: Callable[..., Tuner], weight: float
) -> None:
    panel = make(style_weight=weight)
    run(panel)
    assert f"style weight {label(weight)} ·" in caption(panel)


def test_a_large_picture_is_made_small_for_the_browser(make: Callable[..., Tuner]) -> None:
    panel = make(size=800, steps=(1,), style_layers=("relu1_1",), content_layers=("relu1_1",))
    run(panel)
    assert decoded(panel.picture.value).size == (PICTURE_SIDE, 480)
    assert "800×600 px" in caption(panel)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("content_weight", 25.0),
        ("content_weight", 0.0),
        ("style_weight", 355.0),
        ("style_weight", 0.0),
        ("tv_weight", 0.0),
        ("tv_weight", 1.0),
        ("style_scale", 0.5),
        ("size", 128),
    ],
)
def test_every_slider_counts(panel: Tuner, tiny: Settings, name: str, value: float) -> None:
    panel.sliders[name].value = value
    settle(panel)
    assert panel.session.settings == tiny.changed(**{name: value})
    assert said(panel) == ""


def test_every_other_widget_counts(panel: Tuner, tiny: Settings) -> None:
    panel.knobs["optimizer"].field.value = "adam"
    panel.knobs["init"].field.value = "random"
    panel.knobs["seed"].field.value = 77
    panel.knobs["steps"].field.value = 5
    settle(panel)
    wanted = tiny.changed(optimizer="adam", init="random", seed=77, steps=(5,))
    assert panel.session.settings == wanted
    run(panel)
    painting = panel.session.painting
    assert painting is not None
    assert painting.first_settings == wanted
    assert painting.iterate.step == 5  # type: ignore[union-attr]


def test_every_knob_says_what_it_does(panel: Tuner) -> None:
    texts = {field.name: field.metadata["text"] for field in fields(Settings)}
    for name, knob in panel.knobs.items():
        tips = {part.tooltip for part in filter(None, (knob.slider, knob.field, knob.row[0]))}
        assert tips == {f"{name.replace('_', ' ')}: {texts[name]}"}


def test_every_knob_of_one_value_is_in_the_panel(panel: Tuner) -> None:
    of_the_machine = {"backbone", "device", "precision"}
    single = {field.name for field in fields(Settings) if not str(field.type).startswith("tuple")}
    assert (single - of_the_machine) | {"steps"} == {*panel.knobs}
    panel.knobs["normalize_gradients"].field.value = True
    panel.knobs["learning_rate"].field.value = -1.0
    assert said(panel) == "learning_rate = -1.0: give a number above 0."
    assert panel.knobs["learning_rate"].field.value == 10.0
    panel.knobs["pooling"].field.value = "l2"
    settings = panel.session.settings
    assert (settings.normalize_gradients, settings.pooling) == (True, "l2")


# --- values that are typed, and ways back ------------------------------------------------


def test_any_value_within_the_limits_can_be_typed(panel: Tuner, tiny: Settings) -> None:
    knob = panel.knobs["style_weight"]
    knob.field.value = 123.4
    assert panel.session.settings == tiny.changed(style_weight=123.4)
    assert knob.slider is not None
    assert knob.slider.value == 123.4
    knob.slider.value = 200.0
    assert knob.field.value == 200
    panel.knobs["size"].field.value = 300.0  # numbers come as floats from a browser
    assert panel.session.settings.size == 300
    assert type(panel.session.settings.size) is int
    assert said(panel) == ""


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("style_weight", -1.0, "style_weight = -1.0: give a number from 0 on."),
        ("style_scale", 0.0, "style_scale = 0.0: give a number above 0."),
        ("size", 1e6, f"size = 1000000: give 32 to {MAX_SIZE} pixels."),
        ("size", 200.5, "size = 200.5: give a whole number of pixels."),
        ("steps", 0.0, "steps = 0: give a whole number above 0."),
        ("seed", -5.0, "seed = -5: give a whole number from 0 on."),
    ],
)
def test_a_value_outside_the_limits_is_told_and_the_old_one_comes_back(
    panel: Tuner, tiny: Settings, name: str, value: float, sentence: str
) -> None:
    before = panel.knobs[name].field.value
    panel.knobs[name].field.value = value
    assert said(panel) == sentence
    assert panel.knobs[name].field.value == before
    assert panel.session.settings == tiny


def test_every_knob_has_a_way_back(panel: Tuner, tiny: Settings) -> None:
    assert all(knob.reset.disabled for knob in panel.knobs.values())
    assert panel.reset.disabled
    for name, value in {"style_weight": 300.0, "pooling": "l2", "steps": 7}.items():
        panel.knobs[name].field.value = value
        assert not panel.knobs[name].reset.disabled
    panel.knobs["style_weight"].reset.click()
    assert panel.session.settings == tiny.changed(pooling="l2", steps=(7,))
    panel.style_layers["relu5_1"].value = False
    panel.reset.click()
    assert panel.session.settings == tiny
    assert panel.reset.disabled
    assert shown_settings(panel) == settings_as_shown(tiny)


def test_a_preset_says_what_it_changes_and_changes_that(panel: Tuner, tiny: Settings) -> None:
    assert panel.preset.value == ""  # neither of them
    labels = {name: label for label, name in panel.preset.options}
    assert labels["fine"] == "fine: size 768, steps 60, 90, 150"
    panel.preset.value = "fine"
    assert panel.session.settings == tiny.changed(size=768, steps=(60, 90, 150))
    panel.knobs["size"].field.value = 700
    assert panel.preset.value == ""
    assert panel.session.settings.size == 700


def test_what_a_painting_takes_is_forecast(make: Callable[..., Tuner]) -> None:
    panel = make(steps=(30,))
    assert "64×48 px · 30 steps · how long is known after the first steps" in panel.forecast.value
    assert re.search(r"at most \d+\.\d GB", panel.forecast.value)
    run_until(panel, 5)
    assert re.search(r"64×48 px · 30 steps · about \d+ s", panel.forecast.value)
    assert re.search(r"step 5, 25 to go, about \d+ s · 64×48 px", caption(panel))
    panel.knobs["size"].field.value = 128
    assert "128×96 px" in panel.forecast.value


def test_the_loss_is_told_as_a_change_since_the_last_move(panel: Tuner) -> None:
    run_until(panel, 5)
    assert re.search(r"loss \S+ · since the start: .*style -\d+%", caption(panel))
    panel.sliders["style_weight"].value = 800.0
    run_until(panel, 9)
    assert re.search(r"loss \S+ · since the last move: content .*style -\d+%", caption(panel))


def test_what_to_try_is_one_press_away(panel: Tuner) -> None:
    run_until(panel, 3)
    assert panel.try_it.disabled
    panel.complaint.value = next(r for r in REMEDIES if r.knob == "style_weight")
    assert "more style weight:<br>style weight 100 → 500" in panel.advice.value
    panel.try_it.click()
    settle(panel)
    assert panel.session.painting.log == [Move(3, {"style_weight": 500.0})]  # type: ignore[union-attr]
    assert "style weight 500 → 2500" in panel.advice.value


def test_colours_of_the_photograph_come_back_while_it_is_painted(panel: Tuner) -> None:
    run_until(panel, 3)
    panel.complaint.value = next(r for r in REMEDIES if r.knob == "original_colors")
    panel.try_it.click()
    settle(panel)
    painting = panel.session.painting
    assert panel.original_colors.value == "luma"
    assert painting is not None
    assert not torch.equal(painting.shown.image, painting.iterate.image)  # type: ignore[union-attr]
    panel.buttons["save_settings"].click()
    settle(panel)
    saved = yaml.safe_load((panel.output_dir / "settings.yaml").read_text())
    assert saved["original_colors"] == "luma"
    panel.original_colors.value = "pca"  # the styles change
    settle(panel)
    assert panel.session.state == "ready"
    assert said(panel) == "Start begins with the new picture."


def test_a_step_back_can_be_undone(make: Callable[..., Tuner]) -> None:
    panel = make(steps=(30,))
    run_until(panel, 4)
    panel.sliders["style_weight"].value = 800.0
    run_until(panel, 8)
    panel.buttons["back"].click()
    settle(panel)
    assert panel.sliders["style_weight"].value == 100
    panel.buttons["forward"].click()
    settle(panel)
    assert panel.sliders["style_weight"].value == 800
    assert "step 8," in caption(panel)


def every_widget(widget: Any) -> Iterator[Any]:
    yield widget
    for child in getattr(widget, "children", ()):
        yield from every_widget(child)


def test_nothing_says_null_when_it_is_pointed_at(panel: Tuner) -> None:
    panel.styles.add()
    for widget in every_widget(panel.box):
        if getattr(widget, "description", "") and not isinstance(widget, Button):
            assert widget.tooltip is not None, widget


# --- steps and layers --------------------------------------------------------------------


def test_the_steps_of_coarse_scales_stay(make: Callable[..., Tuner]) -> None:
    panel = make(steps=(3, 4, 5))
    panel.knobs["steps"].field.value = 9
    assert panel.session.settings.steps == (3, 4, 9)


def test_layers_and_their_weights_count(panel: Tuner, tiny: Settings) -> None:
    panel.content_layers["relu2_2"].value = True
    panel.content_layers["relu4_2"].value = False
    settle(panel)
    assert panel.session.settings.content_layers == ("relu2_2",)
    panel.style_layers["relu5_1"].value = False
    panel.style_layers["relu1_2"].value = True
    settle(panel)
    layers = ("relu1_1", "relu1_2", "relu2_1", "relu3_1", "relu4_1")
    assert panel.session.settings.style_layers == layers
    assert panel.session.settings.style_layer_weights == ()
    panel.layer_weights["relu1_2"].slider.value = 2.0
    panel.layer_weights["relu5_3"].slider.value = 10.0  # is off, so nothing changes
    settle(panel)
    assert panel.session.settings.style_layer_weights == (1, 2, 1, 1, 1)
    panel.layer_weights["relu1_2"].slider.value = 1.0
    settle(panel)
    assert panel.session.settings == tiny.changed(content_layers=("relu2_2",), style_layers=layers)


def test_a_layer_with_weight_0_goes_when_another_is_touched(make: Callable[..., Tuner]) -> None:
    panel = make(style_layer_weights=(1.0, 0.0, 2.0, 1.0, 1.0))
    panel.style_layers["relu5_1"].value = False
    assert panel.session.settings.style_layers == ("relu1_1", "relu3_1", "relu4_1")
    assert panel.session.settings.style_layer_weights == (1, 2, 1)


@pytest.mark.parametrize("begun", [False, True])
def test_what_makes_no_sense_is_told_and_the_widgets_return(
    panel: Tuner, tiny: Settings, begun: bool
) -> None:
    if begun:
        run_until(panel, 3)
    panel.content_layers["relu4_2"].value = False
    assert said(panel) == "content_layers is empty; name at least one layer."
    assert panel.content_layers["relu4_2"].value
    for layer in ("relu1_1", "relu2_1", "relu3_1", "relu4_1"):
        panel.style_layers[layer].value = False
    assert said(panel) == ""
    panel.style_layers["relu5_1"].value = False
    assert said(panel) == "style_layers is empty; name at least one layer."
    assert panel.style_layers["relu5_1"].value
    panel.sliders["content_weight"].value = 0.0
    panel.sliders["style_weight"].value = 0.0
    assert said(panel) == "content_weight and style_weight are both 0: nothing to paint."
    assert panel.sliders["style_weight"].value == 100.0
    settle(panel)
    wanted = tiny.changed(style_layers=("relu5_1",), content_weight=0.0)
    assert panel.session.settings == wanted
    assert shown_settings(panel) == settings_as_shown(wanted)
    if begun:
        assert panel.session.painting.settings == wanted  # type: ignore[union-attr]
        assert panel.session.state == "paused"
    panel.sliders["content_weight"].value = 5.0
    assert said(panel) == ""


def test_buttons_can_be_pressed_when_they_do_something(panel: Tuner) -> None:
    def enabled() -> set[str]:
        return {name for name, button in panel.buttons.items() if not button.disabled}

    saving = {"save_settings", "save_picture", "save_gif", "save_run"}
    assert enabled() == {"start", "save_settings"}
    assert panel.buttons["start"].description == "Start"
    seen: list[set[str]] = []
    at(panel, 3, lambda: (seen.append(enabled()), panel.buttons["pause"].click()))
    run(panel)
    assert seen == [{"pause", "stop", "back", "forward", "replay", *saving}]
    assert enabled() == {"start", "stop", "back", "forward", "replay", *saving}
    assert panel.buttons["start"].description == "Go on"
    panel.buttons["stop"].click()
    settle(panel)
    assert enabled() == {"start", "back", "forward", "replay", *saving}
    assert panel.buttons["start"].description == "Start"
    run(panel)
    assert panel.session.state == "finished"
    assert enabled() == {"start", "back", "forward", "replay", *saving}
    panel.sliders["style_weight"].value = 3150.0
    settle(panel)
    assert enabled() == {"start", "back", "forward", "replay", *saving}


def test_a_failure_is_told_and_a_slider_goes_on(make: Callable[..., Tuner]) -> None:
    panel = make(style_weight=1e38)
    run(panel)
    assert panel.session.state == "failed"
    assert "finite number" in said(panel)
    assert "c62828" in panel.message.value
    assert panel.buttons["start"].description == "Go on"
    panel.buttons["save_gif"].click()
    panel.buttons["save_run"].click()
    settle(panel)
    assert "there is no picture yet" in said(panel)
    panel.sliders["style_weight"].value = 200.0
    settle(panel)
    assert panel.session.state == "finished"
    assert said(panel) == ""
    assert "style weight 200" in caption(panel)


def test_a_slider_moved_in_mid_run_is_in_caption_and_log(panel: Tuner) -> None:
    slider = panel.sliders["style_weight"]
    at(panel, 5, lambda: setattr(slider, "value", 800.0))
    run(panel)
    assert panel.session.painting.log == [Move(5, {"style_weight": 800.0})]  # type: ignore[union-attr]
    assert "style weight 800 ·" in caption(panel)
    assert "step 17 ·" in caption(panel)
    assert "step 5: style weight 800" in panel.moves.value


def test_step_back_moves_the_widgets_back(make: Callable[..., Tuner]) -> None:
    panel = make(steps=(40,))
    before = panel.session.settings
    run_until(panel, 12)
    panel.sliders["style_weight"].value = 800.0
    panel.sliders["size"].value = 128
    panel.style_layers["relu5_1"].value = False
    panel.layer_weights["relu1_1"].slider.value = 3.15
    panel.content_layers["relu1_1"].value = True
    panel.knobs["optimizer"].field.value = "adam"
    panel.knobs["steps"].field.value = 9
    settle(panel)
    run_until(panel, 15)
    panel.buttons["back"].click()
    settle(panel)
    assert "step 12, 28 to go" in caption(panel)
    assert panel.session.settings == before
    assert shown_settings(panel) == settings_as_shown(before)
    assert panel.session.painting.settings == before  # type: ignore[union-attr]
    assert "None yet" in panel.moves.value
    for _ in range(3):  # quick clicks, that a browser has not answered to
        panel.buttons["back"].click()
    settle(panel)
    assert "step 0, 40 to go" in caption(panel)
    assert said(panel) == "There is no earlier picture to go back to."


def test_replay_moves_the_widgets_along(make: Callable[..., Tuner]) -> None:
    panel = make(steps=(40,))
    run_until(panel, 4)
    panel.sliders["style_weight"].value = 800.0
    run_until(panel, 9)
    panel.sliders["tv_weight"].value = 0.1
    run_until(panel, 14)
    image, wanted = panel.session.painting.iterate.image, panel.session.settings  # type: ignore[union-attr]
    moved: list[float] = []
    panel.sliders["style_weight"].observe(lambda change: moved.append(change["new"]), "value")
    panel.buttons["replay"].click()
    settle(panel)
    assert moved == [100.0, 800.0]
    assert panel.session.state == "paused"
    assert torch.equal(panel.session.painting.iterate.image, image)  # type: ignore[union-attr]
    assert panel.session.settings == wanted
    assert shown_settings(panel) == settings_as_shown(wanted)
    log = panel.session.painting.log  # type: ignore[union-attr]
    assert log == [Move(4, {"style_weight": 800.0}), Move(9, {"tv_weight": 0.1})]


def test_two_panels_take_turns(make: Callable[..., Tuner]) -> None:
    one, other = make(steps=(FOR_EVER,)), make(steps=(FOR_EVER,))
    going = threading.Event()
    at(one, 3, going.set)
    one.buttons["start"].click()
    assert going.wait(PATIENCE)
    at(other, 3, other.buttons["pause"].click)
    other.buttons["start"].click()
    settle(one)
    settle(other)
    assert one.session.state == "paused"
    assert said(one) == "Paused, because another panel was started."
    assert one.buttons["start"].description == "Go on"
    assert not one.buttons["start"].disabled
    assert said(other) == ""
    assert other.session.painting.iterate.step == 3  # type: ignore[union-attr]


def test_a_move_is_seen_before_its_losses_are_known(
    make: Callable[..., Tuner], monkeypatch: pytest.MonkeyPatch
) -> None:
    panel = make(steps=(40,))
    seen: list[tuple[int, float]] = []
    monkeypatch.setattr(panel._backpressure, "free", lambda: True)  # a browser that is quick

    def note(change: dict[str, bytes]) -> None:
        painting = panel.session.painting
        assert painting is not None
        assert painting.iterate is not None
        seen.append((painting.iterate.step, painting.settings.style_weight))

    run_until(panel, 5)
    panel.picture.observe(note, "value")
    panel.sliders["style_weight"].value = 800.0
    at(panel, 8, panel.session.pause)
    run(panel)
    # Each is seen while the step before it is still the newest; at the end, the one there is.
    assert seen == [(5, 800.0), (6, 800.0), (7, 800.0)]
    newest = panel.session.painting.iterate.image  # type: ignore[union-attr]
    assert panel.picture.value == small_jpeg(newest, PICTURE_SIDE)


def test_pictures_do_not_pile_up_before_a_closed_tab(make: Callable[..., Tuner]) -> None:
    panel = make(steps=(60,))
    sent: list[int] = []
    panel.picture.observe(lambda change: sent.append(1), "value")
    run(panel)
    # Nobody answers: the start, perhaps one after a second's patience, the end.
    assert 2 <= len(sent) <= 8


def test_a_sentence_does_not_make_pictures_pile_up(make: Callable[..., Tuner]) -> None:
    panel = make(steps=(80,))
    sent: list[int] = []
    panel.picture.observe(lambda change: sent.append(1), "value")
    at(panel, 0, panel.buttons["back"].click)  # nothing earlier: the panel says so, and paints on
    run(panel)
    assert panel.session.painting.iterate.step == 80  # type: ignore[union-attr]
    assert len(sent) <= 10


# --- other pictures ----------------------------------------------------------------------


def test_an_uploaded_picture_becomes_the_content_and_is_kept(panel: Tuner) -> None:
    data = png()
    panel.content.upload.value = (upload(data, "my photo.png"),)
    settle(panel)
    (kept,) = (panel.output_dir / "uploads").iterdir()
    assert kept.read_bytes() == data
    assert kept.name.endswith("my photo.png")
    assert panel.content.name == panel.content.path.value == str(kept)
    assert torch.equal(panel.content.image, load_image(kept))
    assert decoded(panel.content.thumbnail.value).size == (70, 50)
    assert decoded(panel.picture.value).size == (70, 50)
    assert panel.content.upload.value == ()
    assert said(panel) == "Start begins with the new picture."
    run(panel)
    assert "64×46 px" in caption(panel)
    panel.buttons["save_settings"].click()
    settle(panel)
    saved = yaml.safe_load((panel.output_dir / "settings.yaml").read_text())
    assert saved["content"] == str(kept.resolve())


def test_an_uploaded_style_is_painted_with(
    panel: Tuner, tiny: Settings, pictures: tuple[str, str]
) -> None:
    panel.styles.styles[0].picture.upload.value = (upload(png((20, 200, 20)), "green.png"),)
    assert panel.content.name == pictures[0]
    run(panel)
    painted = stylize(
        load_image(pictures[0]), [load_image(panel.styles.styles[0].picture.name)], tiny
    )
    assert torch.equal(panel.session.painting.iterate.image, painted)  # type: ignore[union-attr]


def test_the_same_picture_may_be_uploaded_twice(panel: Tuner) -> None:
    for _ in range(2):
        panel.content.upload.value = (upload(png()),)
    panel.content.upload.value = (upload(png((1, 2, 3))),)  # another one of the same name
    assert len(list((panel.output_dir / "uploads").iterdir())) == 2
    assert torch.allclose(panel.content.image[0, :, 0, 0] * 255, torch.tensor([1.0, 2.0, 3.0]))


@pytest.mark.parametrize(
    "content", [b"Dear diary", b"", png()[:60], b"\0" * 5000, b"<svg xmlns='x'/>"], ids=repr
)
def test_an_upload_that_is_no_picture_is_told_and_not_kept(
    panel: Tuner, pictures: tuple[str, str], content: bytes
) -> None:
    run_until(panel, 3)
    name = "<script>alert(1)</script>.png"
    panel.content.upload.value = (upload(content, name),)
    assert said(panel).endswith(".")
    assert "script>.png" in said(panel)
    assert "<script" not in panel.message.value
    assert panel.content.name == panel.content.path.value == pictures[0]
    assert not list((panel.output_dir / "uploads").iterdir())
    assert panel.session.state == "paused"  # the painting is untouched
    panel.content.upload.value = (upload(png()),)
    assert panel.content.name != pictures[0]


@pytest.mark.parametrize(
    "name",
    [
        "../../../evil.png",
        "..\\..\\evil.png",
        "/etc/evil.png",
        "C:\\Users\\me\\evil.png",
        "..",
        ".",
        "",
        "<script>alert('x')</script>\".png",
        "a b'c\"d&e;f$(g)`h`.png",
        "Größe 絵 🎨.png",
        "no suffix",
        "sample:astronaut",
        "new\nline.png",
        "-rf",
    ],
    ids=repr,
)
def test_uploads_of_any_name_stay_in_their_folder(panel: Tuner, tmp_path: Path, name: str) -> None:
    before = set(tmp_path.rglob("*"))
    data = png((9, 90, 9))
    panel.content.upload.value = (upload(data, name),)
    uploads = panel.output_dir / "uploads"
    (kept,) = set(tmp_path.rglob("*")) - before - {panel.output_dir, uploads}
    assert kept.parent == uploads
    assert kept.read_bytes() == data
    assert panel.content.name == str(kept)
    run_until(panel, 1)
    panel.buttons["save_settings"].click()
    settle(panel)
    saved = yaml.safe_load((panel.output_dir / "settings.yaml").read_text("utf-8"))
    assert saved["content"] == str(kept.resolve())
    assert load_image(saved["content"]).shape == (1, 3, 50, 70)


def test_an_upload_with_a_very_long_name(panel: Tuner) -> None:
    panel.content.upload.value = (upload(png((9, 90, 9)), "絵" * 83 + ".png"),)  # 253 bytes
    settle(panel)
    assert said(panel) == "Start begins with the new picture."
    assert panel.content.name.endswith("絵.png")
    assert load_image(panel.content.name).shape == panel.content.image.shape
    assert panel.content.upload.value == ()


def test_an_upload_that_jupyter_would_drop_is_told_before_it_comes(panel: Tuner) -> None:
    # What a browser sends ahead of the file: a link's copy of the value, as JSON.
    def ahead(size: int) -> None:
        file = {"name": "<b>me</b>.jpg", "type": "image/jpeg", "size": size, "content": {}}
        panel.content._ahead.value = [file]

    ahead(3_000_000)
    assert said(panel) == ""
    ahead(12_400_000)
    assert said(panel).startswith("<b>me</b>.jpg has 12.4 MB, and more than 10 MB do not get")
    assert "drag the file into JupyterLab's file browser" in said(panel)
    panel.content.upload.value = (upload(png()),)  # by another connection it may come
    settle(panel)
    assert said(panel) == "Start begins with the new picture."


def test_an_upload_that_cannot_be_kept_is_told(
    make: Callable[..., Tuner], pictures: tuple[str, str], tmp_path: Path
) -> None:
    (tmp_path / "in the way").write_text("a file")
    panel = make(output_dir=tmp_path / "in the way")
    panel.content.upload.value = (upload(png()),)
    assert "cannot be written" in said(panel)
    assert panel.content.name == pictures[0]


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("nowhere/<b>photo</b>.jpg", "nowhere/<b>photo</b>.jpg: there is no such file in "),
        ("sample:monalisa", "no sample picture 'sample:monalisa'"),
        ("", "the path is empty; type one, or upload a picture."),
        ("https://x/a.jpg", "https://x/a.jpg is an address; save the picture there and give"),
        ("~/gone.jpg", f"{Path.home() / 'gone.jpg'}: there is no such file."),
        ("~nobody-of-that-name/a.jpg", "~nobody-of-that-name/a.jpg: there is no such file"),
        ("/", "folder"),
        ("x" * 5000, ""),
    ],
    ids=["missing", "sample", "empty", "address", "home", "nobody", "root", "long"],
)
def test_a_path_that_is_no_picture_is_told(
    panel: Tuner, pictures: tuple[str, str], path: str, sentence: str
) -> None:
    run_until(panel, 3)
    panel.content.path.value = path
    assert said(panel)
    assert sentence in said(panel)
    assert "<b>" not in panel.message.value
    assert panel.content.path.value == panel.content.name == pictures[0]
    settle(panel)
    assert panel.session.state == "paused"


def test_a_path_typed_is_taken(
    panel: Tuner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.png").write_bytes(png())
    panel.content.path.value = "other.png"
    assert panel.content.image.shape == (1, 3, 50, 70)
    settle(panel)
    assert panel.session.still.content is panel.content.image
    assert said(panel) == "Start begins with the new picture."
    panel.content.path.value = "sample:astronaut"
    assert panel.content.image.shape == (1, 3, 512, 512)


def test_a_path_may_begin_at_home(
    panel: Tuner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "me.png").write_bytes(png())
    panel.content.path.value = "~/me.png"
    assert panel.content.name == panel.content.path.value == str(tmp_path / "home" / "me.png")
    assert panel.content.image.shape == (1, 3, 50, 70)  # type: ignore[union-attr]


def test_a_broken_picture_is_told(panel: Tuner, tmp_path: Path, pictures: tuple[str, str]) -> None:
    broken = tmp_path / "broken.png"
    broken.write_text("no picture")
    for _ in range(2):  # the same once more
        panel.content.path.value = str(broken)
        assert "broken.png is not a picture" in said(panel)
        assert panel.content.name == panel.content.path.value == pictures[0]


def test_a_sample_is_a_click_away(panel: Tuner) -> None:
    assert "sample:coffee" in panel.content.path.options
    assert "sample:swirls" in panel.styles.styles[0].picture.path.options
    panel.content.path.value = "sample:astronaut"
    assert panel.content.name == "sample:astronaut"
    settle(panel)
    assert panel.session.still.content.shape == (1, 3, 512, 512)


def test_a_picture_chosen_in_mid_step_is_what_is_shown(
    make: Callable[..., Tuner], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "b.png").write_bytes(png())
    panel = make(steps=(FOR_EVER,))
    in_step, go_on = threading.Event(), threading.Event()
    step = Painting.step

    def slow_step(self: Painting) -> object:
        if self.iterate and self.iterate.step == 4:
            in_step.set()
            assert go_on.wait(PATIENCE)
        return step(self)

    monkeypatch.setattr(Painting, "step", slow_step)
    monkeypatch.setattr(panel._backpressure, "free", lambda: True)  # a browser that is quick
    panel.buttons["start"].click()
    assert in_step.wait(PATIENCE)
    panel.content.path.value = str(tmp_path / "b.png")
    go_on.set()
    settle(panel)
    assert panel.session.state == "ready"
    assert decoded(panel.picture.value).size == (70, 50)
    assert "Press Start" in caption(panel)
    assert said(panel) == "Start begins with the new picture."
    assert not panel.buttons["start"].disabled
    assert panel.buttons["pause"].disabled


# --- several styles ----------------------------------------------------------------------


@pytest.fixture
def masks(tmp_path: Path) -> tuple[str, str]:
    """Masks of the left and the right half."""
    paths = tmp_path / "left.png", tmp_path / "right.png"
    for path, box in zip(paths, [(0, 0, 32, 48), (32, 0, 64, 48)], strict=True):
        mask = Image.new("L", (64, 48))
        mask.paste(255, box)
        mask.save(path)
    return str(paths[0]), str(paths[1])


def test_styles_have_shares(panel: Tuner, tiny: Settings, pictures: tuple[str, str]) -> None:
    one, two = pictures[1], pictures[0]
    panel.styles.more.click()
    settle(panel)
    assert panel.styles.names == [one, "sample:swirls"]
    panel.styles.styles[1].picture.path.value = two
    share = panel.styles.styles[1].share
    assert share.slider is not None
    share.slider.value = 0.5
    assert share.field.value == 0.5
    assert panel.session.settings.style_blend_weights == (1.0, 0.5)
    share.field.value = -1.0
    assert said(panel) == "style_blend_weights = -1.0: give a number from 0 on."
    assert share.field.value == 0.5
    share.field.value = 0.25
    run(panel)
    wanted = tiny.changed(style_blend_weights=(1.0, 0.25))
    painted = stylize(load_image(pictures[0]), [load_image(one), load_image(two)], wanted)
    assert torch.equal(panel.session.painting.iterate.image, painted)  # type: ignore[union-attr]
    panel.styles.fewer.click()
    settle(panel)
    assert panel.session.settings.style_blend_weights == ()
    assert panel.styles.fewer.disabled


def test_styles_have_masks_and_the_saved_settings_have_all(
    panel: Tuner, pictures: tuple[str, str], masks: tuple[str, str]
) -> None:
    run_until(panel, 3)
    panel.styles.add()
    settle(panel)
    panel.styles.styles[0].mask.path.value = masks[0]
    assert said(panel) == "style 2 has no mask yet; give every style one, or none."
    panel.buttons["start"].click()
    settle(panel)
    assert said(panel) == "style 2 has no mask yet; give every style one, or none."
    panel.styles.styles[1].mask.path.value = masks[1]
    run(panel)
    painting = panel.session.painting
    assert painting is not None
    assert torch.equal(torch.cat([*painting.still.masks]).sum(dim=0), torch.ones(1, 48, 64))
    panel.buttons["save_settings"].click()
    settle(panel)
    saved = yaml.safe_load((panel.output_dir / "settings.yaml").read_text())
    assert saved["style"] == [pictures[1], "sample:swirls"]
    assert saved["masks"] == [*masks]


def test_a_mask_that_is_none_is_told(panel: Tuner, masks: tuple[str, str], tmp_path: Path) -> None:
    chooser = panel.styles.styles[0].mask
    chooser.path.value = masks[0]
    Image.new("L", (8, 8)).save(tmp_path / "black.png")
    chooser.path.value = str(tmp_path / "black.png")
    assert "a mask is white where its style belongs" in said(panel)
    assert chooser.path.value == masks[0]
    chooser.path.value = ""
    settle(panel)
    assert chooser.image is None
    assert panel.session.still.masks == []  # type: ignore[union-attr]


def test_a_panel_opens_with_several_styles(
    tiny: Settings, pictures: tuple[str, str], masks: tuple[str, str], tmp_path: Path
) -> None:
    styles = [pictures[1], "sample:mosaic"]
    panel = tuner(pictures[0], styles, tiny, tmp_path, masks=masks, original_colors="pca")
    assert (panel.styles.names, panel.styles.masks) == (styles, [*masks])
    still = panel.session.still
    assert still is not None
    assert (len(still.styles), len(still.masks), still.original_colors) == (2, 2, "pca")
    with pytest.raises(InputError, match="there are 2 masks for 1 style pictures"):
        tuner(*pictures, tiny, tmp_path, masks=masks)


def test_a_photograph_that_is_too_small_is_told(panel: Tuner, tmp_path: Path) -> None:
    Image.new("RGB", (300, 4)).save(tmp_path / "line.png")
    panel.content.path.value = str(tmp_path / "line.png")
    run(panel)
    assert panel.session.state == "failed"
    assert said(panel).count(".") <= 2
    assert "shorter side" in said(panel)


@pytest.mark.slow
def test_a_hundred_megapixels(panel: Tuner, tmp_path: Path, pictures: tuple[str, str]) -> None:
    path = tmp_path / "huge.png"
    Image.new("RGB", (10_000, 10_000), (90, 120, 30)).save(path)
    panel.content.path.value = str(path)
    settle(panel)
    if panel.content.name == pictures[0]:
        assert said(panel).endswith(".")
    else:
        assert decoded(panel.picture.value).size == (PICTURE_SIDE, PICTURE_SIDE)
    run(panel)
    assert panel.session.state == "finished"


# --- saving ------------------------------------------------------------------------------


def saved_settings(notebook: str, *paths: Path) -> str:
    """What is said of saved settings, with the command that paints with them."""
    names = ", ".join(map(str, paths))
    command = papermill_command(notebook, "-f", str(paths[-1]))
    return f"Saved {names}. In a terminal in {Path.cwd()}:\n{command}"


def test_the_command_for_saved_settings_can_be_pasted(
    make: Callable[..., Tuner], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "stylize_image.ipynb").touch()
    monkeypatch.chdir(tmp_path)
    panel = make(output_dir=Path("it's $HOME/here"))
    panel.buttons["save_settings"].click()
    settle(panel)
    command = shlex.split(said(panel).split("\n")[1])
    words = ["papermill", "notebooks/stylize_image.ipynb", "out.ipynb", "-f"]
    assert command == [*words, "it's $HOME/here/settings.yaml"]
    assert Path(command[-1]).is_file()


def test_settings_can_be_saved_before_anything_is_painted(
    panel: Tuner, tiny: Settings, pictures: tuple[str, str]
) -> None:
    panel.sliders["style_weight"].value = 355.0
    panel.buttons["save_settings"].click()
    settle(panel)
    path = panel.output_dir / "settings.yaml"
    assert said(panel) == saved_settings("stylize_image", path)
    saved = yaml.safe_load(path.read_text())
    assert (saved.pop("content"), saved.pop("style")) == pictures
    assert saved.pop("original_colors") == "off"
    assert Settings(**saved) == tiny.changed(style_weight=355.0)


def test_what_the_save_buttons_write(panel: Tuner, tiny: Settings) -> None:
    run_until(panel, 5)
    folder = panel.output_dir
    panel.buttons["save_settings"].click()
    settle(panel)
    assert said(panel) == saved_settings("stylize_image", folder / "settings.yaml")
    saved = yaml.safe_load((folder / "settings.yaml").read_text())
    assert saved["steps"] == [5]
    panel.sliders["style_weight"].value = 355.0
    run_until(panel, 8)
    panel.buttons["save_settings"].click()
    settle(panel)
    paths = folder / "settings.yaml", folder / "session.yaml"
    assert said(panel) == saved_settings("tune_weights", *paths)
    panel.buttons["save_gif"].click()
    settle(panel)
    assert said(panel) == f"Saved {folder / 'progress.gif'}"
    with Image.open(folder / "progress.gif") as gif:
        assert gif.n_frames > 1
    panel.buttons["save_run"].click()
    settle(panel)
    assert said(panel).startswith(f"Saved {folder / '001'}: picture.png, ")
    result = read_result(folder / "001")
    assert result is not None
    assert result.figures["steps"] == 8
    assert result.settings["content"] == panel.content.name
    assert panel.session.state == "paused"


def test_the_picture_alone_is_saved_under_a_new_name(panel: Tuner) -> None:
    run_until(panel, 3)
    for name in ("picture-001.png", "picture-002.png"):
        panel.buttons["save_picture"].click()
        settle(panel)
        assert said(panel) == f"Saved {panel.output_dir / name}. Download it"
        assert f'download="{name}"' in panel.message.value
        assert load_image(panel.output_dir / name).shape == (1, 3, 48, 64)


def test_every_pixel_can_be_seen(make: Callable[..., Tuner]) -> None:
    panel = make(size=800, steps=(1,), style_layers=("relu1_1",), content_layers=("relu1_1",))
    run(panel)
    panel.full.value = True
    settle(panel)
    assert decoded(panel.picture.value).size == (800, 600)
    panel.full.value = False
    settle(panel)
    assert decoded(panel.picture.value).size == (PICTURE_SIDE, 480)


def test_every_saved_run_has_a_folder_of_its_own(panel: Tuner) -> None:
    for number, step in enumerate((3, 7, 8), start=1):
        run_until(panel, step)
        panel.buttons["save_run"].click()
        settle(panel)
        assert said(panel).startswith(f"Saved {panel.output_dir / f'{number:03}'}: ")
    results = [read_result(panel.output_dir / f"{number:03}") for number in (1, 2, 3)]
    assert [result.figures["steps"] for result in results] == [3, 7, 8]  # type: ignore[union-attr]
    assert len(list(panel.output_dir.iterdir())) == 3


def test_a_run_can_be_saved_while_it_paints(make: Callable[..., Tuner], tiny: Settings) -> None:
    panel = make(steps=(30,))
    at(panel, 7, panel.buttons["save_run"].click)
    run(panel)
    result = read_result(panel.output_dir / "001")
    assert result is not None
    assert result.figures["steps"] == 7
    assert panel.session.state == "finished"
    assert panel.session.painting.iterate.step == 30  # type: ignore[union-attr]
    again = stylize(
        panel.content.image, [panel.styles.styles[0].picture.image], tiny.changed(steps=(30,))
    )
    assert torch.equal(panel.session.painting.iterate.image, again)  # type: ignore[union-attr]


@pytest.mark.parametrize("button", ["save_settings", "save_gif", "save_run"])
def test_a_folder_that_cannot_be_written_to_is_told(
    make: Callable[..., Tuner], tmp_path: Path, button: str
) -> None:
    (tmp_path / "in the way").write_text("a file")
    panel = make(output_dir=tmp_path / "in the way")
    run_until(panel, 3)
    panel.buttons[button].click()
    settle(panel)
    assert "cannot be written" in said(panel)
    assert said(panel).startswith(str(tmp_path / "in the way"))
    assert panel.session.state == "paused"
    panel.buttons["start"].click()
    settle(panel)
    assert panel.session.state == "finished"


def test_what_is_said_of_a_save_stays_while_it_paints(make: Callable[..., Tuner]) -> None:
    panel = make(steps=(30,))
    at(panel, 0, panel.buttons["back"].click)  # says that there is nothing earlier
    at(panel, 5, panel.buttons["save_settings"].click)
    heard: list[str] = []
    at(panel, 9, lambda: heard.append(said(panel)))
    run(panel)
    assert heard == [saved_settings("stylize_image", panel.output_dir / "settings.yaml")]


def test_the_log_shows_what_people_typed_as_text(make: Callable[..., Tuner]) -> None:
    panel = make(init="<img src=x onerror=alert(1)>.png", seed=1)
    assert panel.knobs["init"].field.value == "<img src=x onerror=alert(1)>.png"
    run(panel)
    assert panel.session.state == "failed"
    assert "<img" not in panel.message.value + panel.caption.value + panel.moves.value
    assert "there is no such file" in said(panel)


def test_the_panel_uses_one_thread_and_only_while_it_paints(panel: Tuner) -> None:
    def painters() -> int:
        return sum(thread.name == "painting" for thread in threading.enumerate())

    counts: list[int] = []
    for step in (2, 5):
        at(panel, step, lambda: counts.append(painters()))
    run(panel)
    for thread in threading.enumerate():
        if thread.name == "painting":
            thread.join(PATIENCE)
    assert counts == [1, 1]
    assert painters() == 0
    assert session.Session._now_running is not None
