"""The sliders: a panel in a notebook that paints while its knobs are turned."""

from __future__ import annotations

import dataclasses
import io
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as widgets
from PIL import Image

from workbench import runs, samples, sheets
from workbench.chooser import PictureChooser, show_picture, small_jpeg
from workbench.errors import InputError, WorkbenchError
from workbench.notebook import encode, papermill_command
from workbench.painting import Painting
from workbench.session import CHOOSE, NO_PICTURE, Session, save_run, save_settings
from workbench.settings import Settings
from workbench.states import Sketches, States
from workbench.stills import Still
from workbench.weights import BACKBONES

PICTURE_SIDE = 640  # px; longest side of the live picture that goes to the browser
STRIP_PICTURES, STRIP_HEIGHT = 6, 120
FASTEST = 0.1  # seconds between two pictures to the browser
PATIENCE, LONGEST_PATIENCE = 1.0, 10.0  # seconds to wait for a browser that does not answer
CURVES_SHARE = 0.08  # of the session's time that may go into drawing curves
SCALES = (0.25, 0.35, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.12, 1.25, 1.4, 1.6, 1.8, 2.0, 2.5, 3.0)
SIZES = (128, 192, 256, 320, 384, 448, 512, 640, 768, 1024)

# Twenty stops of a slider to each power of ten: the preferred numbers R20 of ISO 3, rounded.
# fmt: off
STOPS = (1, 1.12, 1.25, 1.4, 1.6, 1.8, 2, 2.24, 2.5, 2.8,
         3.15, 3.55, 4, 4.5, 5, 5.6, 6.3, 7.1, 8, 9)
# fmt: on
_WEIGHTS = ("content_weight", "style_weight", "tv_weight")
_KNOBS = {field.name: field.metadata for field in dataclasses.fields(Settings)}
# Knobs with widgets of their own, those for several pictures, and those of the machine.
_ELSEWHERE = (
    *("content_layers", "style_layers", "content_layer_weights", "style_layer_weights", "steps"),
    *("style_blend_weights", "backbone", "device", "precision"),
)

_BUTTONS = (  # name, text, icon, tip
    ("start", "Start", "play", "Begin, or go on after a pause"),
    ("pause", "Pause", "pause", "Hold on; Start goes on"),
    ("stop", "Stop", "stop", "End here; Start begins anew"),
    ("back", "Step back", "undo", "To the picture and the sliders of some steps ago, and pause"),
    ("replay", "Replay", "repeat", "The same again from the log of all moves"),
    ("save_settings", "Save settings", "save", "What made this picture, as YAML for papermill"),
    ("save_gif", "Save GIF", "film", "The progress so far"),
    ("save_run", "Save run", "folder-open", "Picture, GIF, curves and settings, in a new folder"),
)


class Tuner:
    """A panel with a slider for every knob, which paints while they are turned.

    The painting has a thread of its own, so the notebook stays free. A slider that is moved
    counts from the very next step on. To see a panel again, show the same object in another cell.

    Parameters
    ----------
    content, style
        Picture files, or samples. Others can be chosen or uploaded in the panel.
    settings
        Where the sliders begin; None: the preset "draft".
    output_dir
        Folder that the Save buttons write to, and uploads are kept in. Every saved run gets a
        folder of its own in it: 001, 002 and so on.
    """

    def __init__(
        self,
        content: str | os.PathLike[str] = "sample:astronaut",
        style: str | os.PathLike[str] = "sample:swirls",
        settings: Settings | None = None,
        output_dir: str | os.PathLike[str] = "runs/tune_weights",
    ) -> None:
        settings = settings or Settings.from_preset("draft")
        self.output_dir = Path(output_dir)
        self.message = widgets.HTML()
        self.content = PictureChooser(str(content), [samples.PHOTOGRAPH], self.output_dir)
        self.style = PictureChooser(str(style), samples.STYLES, self.output_dir)
        self.session = Session(
            self._still(settings),
            settings,
            on_update=self._update,
            on_settings=self._show_settings,
        )
        self._backpressure = _Backpressure()
        self._thread = threading.local()  # `sets_widgets`, which is no person then
        self._shown_state = ("", "")
        self._next_curves = self._next_strip = 0.0
        self._make_buttons()
        self._make_pictures()
        self._make_knobs(settings)
        self.states = States(self.session, self._say)
        self.sketches = Sketches(self.states, self._show_settings)
        self._show_settings()
        self._show_choice()
        self._enable_buttons()
        self._watch()
        self.box = widgets.VBox(self._lay_out())
        self._say(" ".join(filter(None, (self.content.problem, self.style.problem))), bad=True)

    def _repr_mimebundle_(self, **options: Any) -> Any:
        """What Jupyter shows."""
        return self.box._repr_mimebundle_(**options)

    # --- the widgets ---------------------------------------------------------------------

    def _make_buttons(self) -> None:
        session = self.session
        painting = (session.start, session.pause, session.stop, session.step_back, session.replay)
        saving = (self._save_settings, self._save_gif, self._save_run)
        actions = [*painting, *(partial(self._save, save) for save in saving)]
        self.buttons = {}
        for (name, text, icon, tip), act in zip(_BUTTONS, actions, strict=True):
            button = widgets.Button(
                description=text, icon=icon, tooltip=tip, layout={"width": "auto"}
            )
            button.on_click(lambda _, act=act: act())
            self.buttons[name] = button
        self.buttons["start"].button_style = "primary"

    def _make_pictures(self) -> None:
        self.picture, self.curves, self.strip = (
            widgets.Image(format=kind, layout={"max_width": "100%"})
            for kind in ("jpeg", "png", "jpeg")
        )
        self.caption, self.moves = widgets.HTML(), widgets.HTML()

    def _make_knobs(self, settings: Settings) -> None:
        self.sliders = {
            "content_weight": _slider("content_weight", [0.0, *_stops(-1, 3)]),
            "style_weight": _slider("style_weight", [0.0, *_stops(0, 4)]),
            "tv_weight": _slider("tv_weight", [0.0, *_stops(-5, 0)]),
            # Targets must be made anew for these, so they count when they are let go.
            "style_scale": _slider("style_scale", SCALES, continuous_update=False),
            "size": _slider("size", SIZES, continuous_update=False),
        }
        layers = BACKBONES[settings.backbone].layers
        self.content_layers = {layer: _checkbox(f"Keep content at {layer}") for layer in layers}
        self.style_layers = {layer: _checkbox(f"Match style at {layer}") for layer in layers}
        self.layer_weights = {layer: _slider("", _stops(-2, 2)[::2]) for layer in layers}
        fields = [field.name for field in dataclasses.fields(Settings)]
        others = [name for name in fields if name not in (*self.sliders, *_ELSEWHERE)]
        self.others = {name: _widget(name, getattr(settings, name)) for name in others}
        self.steps = _whole_number("steps")

    def _lay_out(self) -> list[widgets.Widget]:
        def row(*children: widgets.Widget, **layout: str) -> widgets.HBox:
            flow = {"align_items": "center", "flex_flow": "row wrap", **layout}
            return widgets.HBox(children, layout=flow)

        heads = ("layer", "content", "style", "its weight")
        cells = [widgets.HTML(f"<b>{head}</b>") for head in heads]
        for layer, weight in self.layer_weights.items():
            toggles = self.content_layers[layer], self.style_layers[layer]
            cells += [widgets.Label(layer), *toggles, weight]
        grid = {"grid_template_columns": "60px 60px 44px 1fr", "align_items": "center"}
        later = widgets.HTML("<i>init and seed count from the next start</i>")
        parts = {
            "Content picture": self.content.box,
            "Style picture": self.style.box,
            "Layers": widgets.GridBox(cells, layout=grid),
            "More knobs": widgets.VBox([*self.others.values(), self.steps, later]),
            "Moves so far": self.moves,
        }
        more = widgets.Accordion([*parts.values()], titles=[*parts])
        left = widgets.VBox(
            [row(self.content.thumbnail, self.style.thumbnail), *self.sliders.values(), more],
            layout={"flex": "1 1 360px", "min_width": "330px", "max_width": "460px"},
        )
        right = widgets.VBox(
            [
                self.picture,
                self.caption,
                self.states.box,
                self.sketches.box,
                self.curves,
                self.strip,
            ],
            layout={"flex": "2 1 420px", "min_width": "320px"},
        )
        buttons = [*self.buttons.values()]
        return [
            row(row(*buttons[:5]), row(*buttons[5:]), justify_content="space-between"),
            self.message,
            row(left, right, align_items="flex-start", grid_gap="0 24px"),
        ]

    # --- what a person does --------------------------------------------------------------

    def _watch(self) -> None:
        for name, widget in (self.sliders | self.others).items():
            self._on_turn(widget, partial(_value, name, widget))
        self._on_turn(self.steps, self._steps)
        for toggle in self.content_layers.values():
            self._on_turn(toggle, lambda: {"content_layers": _pressed(self.content_layers)})
        for widget in (*self.style_layers.values(), *self.layer_weights.values()):
            self._on_turn(widget, self._style_layers)
        for chooser in (self.content, self.style):
            chooser.on_choice = self._choose
            chooser.on_problem = lambda problem: self._say(problem, bad=True)

    def _on_turn(self, widget: widgets.Widget, changes: Callable[[], dict[str, Any]]) -> None:
        """Have `changes` made when a person, not the session, sets the widget."""

        def turned(_: object) -> None:
            if getattr(self._thread, "sets_widgets", False):
                return
            try:
                self.session.change(**changes())
            except InputError as error:
                self._show_settings()
                self._say(str(error), bad=True)
            else:
                self._say("")

        widget.observe(turned, "value")

    def _steps(self) -> dict[str, Any]:
        return {"steps": (*self.session.settings.steps[:-1], self.steps.value)}

    def _style_layers(self) -> dict[str, Any]:
        layers = _pressed(self.style_layers)
        factors = tuple(self.layer_weights[layer].value for layer in layers)
        alike = all(factor == 1 for factor in factors)
        return {"style_layers": layers, "style_layer_weights": () if alike else factors}

    def _still(self, settings: Settings) -> Still | None:
        if self.content.image is None or self.style.image is None:
            return None
        return Still(self.content.image, self.style.images, settings)

    def _choose(self) -> None:
        if still := self._still(self.session.settings):
            self.session.choose(still)

    # --- what the session shows ----------------------------------------------------------

    def _update(self) -> None:
        """Bring the browser up to date; called in the session's thread after every step."""
        session, now = self.session, time.monotonic()
        self.states.update()
        turned = (session.state, session.message) != self._shown_state
        if turned:
            self._shown_state = session.state, session.message
            self._enable_buttons()
            self._say(session.message, bad=session.state == "failed")
        painting, still = session.painting, session.state != "running"
        if painting is None:
            self._show_choice()
            return
        if painting.iterate is None or not (turned or still or self._backpressure.free()):
            return
        assert painting.shown is not None
        show_picture(self.picture, small_jpeg(painting.shown.image, PICTURE_SIDE))
        self.caption.value = _caption(painting, session.state)
        if still or now >= self._next_strip:
            self._next_strip = now + 1.0
            strip = sheets.progress_strip(
                painting.recorder, count=STRIP_PICTURES, height=STRIP_HEIGHT
            )
            show_picture(self.strip, encode(Image.fromarray(strip), "JPEG", quality=85))
            self.moves.value = _log(painting)
        if still or now >= self._next_curves:
            began = time.monotonic()
            show_picture(self.curves, _curves(painting))
            self._next_curves = began + (time.monotonic() - began) / CURVES_SHARE
        self._backpressure.sent()

    def _enable_buttons(self) -> None:
        state = self.session.state
        enabled = {
            "start": state != "running",
            "pause": state == "running",
            "stop": state in ("running", "paused", "failed"),
            "save_settings": True,
        }
        for name, button in self.buttons.items():
            button.disabled = not enabled.get(name, state != "ready")
        go_on = state in ("paused", "failed")
        self.buttons["start"].description = "Go on" if go_on else "Start"

    def _show_choice(self) -> None:
        """The photograph, before there is anything else to see."""
        show_picture(self.picture, small_jpeg(self.content.image, PICTURE_SIDE))
        self.caption.value = "Press Start."
        show_picture(self.curves, b"")
        show_picture(self.strip, b"")
        self.moves.value = ""

    def _show_settings(self) -> None:
        """Set all widgets to the settings of the session."""
        settings = self.session.settings
        self._thread.sets_widgets = True
        try:
            for name, slider in self.sliders.items():
                _set_slider(slider, getattr(settings, name))
            for name, widget in self.others.items():
                widget.value = getattr(settings, name)
            self.steps.value = settings.steps[-1]
            factors = settings.style_layer_weights or (1.0,) * len(settings.style_layers)
            weights = dict(zip(settings.style_layers, factors, strict=True))
            for layer, weight in self.layer_weights.items():
                self.content_layers[layer].value = layer in settings.content_layers
                # A factor of 0 is the same as not to look at the layer.
                self.style_layers[layer].value = weights.get(layer, 0) > 0
                _set_slider(weight, weights.get(layer) or 1.0)
        finally:
            self._thread.sets_widgets = False

    def _say(self, sentence: str, *, bad: bool = False) -> None:
        colour = "var(--jp-error-color1, #c62828)" if bad else "inherit"
        self.message.value = (
            f'<div role="status" style="color: {colour}; line-height: 1.4; white-space: pre-wrap">'
            f"{escape(sentence)}</div>"
        )

    # --- what is saved -------------------------------------------------------------------

    def _save(self, save: Callable[[], str]) -> None:
        """Save in the session's thread, between two steps, and say where."""

        def saving() -> None:
            try:
                self._say(save())
            except WorkbenchError as error:
                self._say(str(error), bad=True)

        self.session.between_steps(saving)

    def _save_settings(self) -> str:
        painting = self.session.painting
        if painting is None:
            if (still := self._still(self.session.settings)) is None:
                raise InputError(CHOOSE)
            painting = Painting(still)
        paths = save_settings(painting, self._names(), self.output_dir)
        name = "stylize_image" if len(paths) == 1 else "tune_weights"
        command = papermill_command(name, "-f", str(paths[-1]))
        return f"Saved {', '.join(map(str, paths))}. In a terminal in {Path.cwd()}:\n{command}"

    def _names(self) -> dict[str, str]:
        return {"content": self.content.name, "style": self.style.name}

    def _save_gif(self) -> str:
        assert self.session.painting is not None
        path = self.output_dir / "progress.gif"
        frames = [snapshot.frame for snapshot in self.session.painting.recorder.snapshots()]
        sheets.save_gif(frames, path)
        return f"Saved {path}"

    def _save_run(self) -> str:
        painting = self.session.painting
        if painting is None or painting.iterate is None:
            raise InputError(NO_PICTURE)
        folder = runs.start_run(self.output_dir / runs.NUMBER)
        save_run(painting, self._names(), folder)
        return f"Saved {folder.parent}: picture.png, progress.gif and what made them"


class _Backpressure:
    """Keeps pictures from piling up on a slow line, or before a closed browser tab.

    The browser copies a number that goes out behind every picture into one that comes back.
    The next picture waits for that, or for as long as patience lasts.
    """

    def __init__(self) -> None:
        self._out, self._back = widgets.IntText(), widgets.IntText()
        self._link = widgets.jsdlink((self._out, "value"), (self._back, "value"))
        self._last, self._patience = -math.inf, PATIENCE

    def free(self) -> bool:
        """Whether the next picture may go out."""
        waited = time.monotonic() - self._last
        if self._back.value == self._out.value:
            self._patience = PATIENCE
            return waited >= FASTEST
        if waited < self._patience:
            return False
        self._patience = min(2 * self._patience, LONGEST_PATIENCE)
        return True

    def sent(self) -> None:
        """To be called behind every picture."""
        self._out.value += 1
        self._last = time.monotonic()


# --- small pieces of the panel -----------------------------------------------------------


def _caption(painting: Painting, state: str) -> str:
    iterate, settings = painting.iterate, painting.settings
    assert iterate is not None
    height, width = iterate.image.shape[-2:]
    weights = (f"{name.replace('_', ' ')} {_label(getattr(settings, name))}" for name in _WEIGHTS)
    losses = iterate.losses
    return (
        '<div style="line-height: 1.5">'
        f"<b>{state}</b> · step {iterate.step} of {iterate.steps} · {width}×{height} px"
        f"<br>{' · '.join(weights)}"
        f"<br>loss {losses.total:,.0f} = content {losses.content_total:,.0f}"
        f" + style {losses.style_total:,.0f} + tv {losses.tv:,.0f}</div>"
    )


def _curves(painting: Painting) -> bytes:
    figure = sheets.plot_losses(painting.recorder, [move.step for move in painting.log])
    figure.set_size_inches(7, 3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    return buffer.getvalue()


def _log(painting: Painting) -> str:
    """Every move with its step, the newest first."""
    lines = []
    for move in reversed(painting.log):
        changes = [f"{name.replace('_', ' ')} {_text(v)}" for name, v in move.changes.items()]
        lines.append(f"<li>step {move.step}: {escape(', '.join(changes) or 'all steps anew')}</li>")
    return f'<ol style="margin: 0">{"".join(lines)}</ol>' if lines else "None yet."


def _text(value: object) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)


def _stops(low: int, high: int) -> list[float]:
    """Stops of a slider from 10^low to 10^high."""
    stops = [float(f"{stop}e{power}") for power in range(low, high) for stop in STOPS]
    return [*stops, 10.0**high]


_NO_WORDS = {"tooltip": "factor of the layer's style loss", "style": {"description_width": "0px"}}


def _slider(
    knob: str, stops: Sequence[float], *, continuous_update: bool = True
) -> widgets.SelectionSlider:
    """A slider with exact stops."""
    return widgets.SelectionSlider(
        options=[(_label(stop), stop) for stop in stops],
        continuous_update=continuous_update,
        layout={"width": "auto", "min_width": "0"},
        **(_words(knob) if knob else _NO_WORDS),
    )


def _widget(knob: str, value: Any) -> widgets.ValueWidget:
    """What a knob that has no place of its own is set with, by what values it takes."""
    among = _KNOBS[knob]["among"]
    if knob == "init":
        among = dict.fromkeys(["content", "random", value])
    if among:
        return widgets.Dropdown(options=[*among], **_words(knob))
    if isinstance(value, bool):
        return widgets.Checkbox(indent=False, **_words(knob))
    return _whole_number(knob) if isinstance(value, int) else widgets.FloatText(**_words(knob))


def _whole_number(knob: str) -> widgets.BoundedIntText:
    limits = _KNOBS[knob]
    most = min(limits["most"], 2**53 - 1)  # larger ones would be rounded in the browser
    return widgets.BoundedIntText(min=limits["least"], max=most, **_words(knob))


def _words(knob: str) -> dict[str, Any]:
    """How a knob is called, and what it does."""
    style = {"description_width": "128px"}
    return {"description": knob.replace("_", " "), "tooltip": _KNOBS[knob]["text"], "style": style}


def _set_slider(slider: widgets.SelectionSlider, value: float) -> None:
    """Put a slider to a value, which becomes a stop if it is none yet."""
    stops = [stop for _, stop in slider.options]
    if value not in stops:
        slider.options = [(_label(stop), stop) for stop in sorted([*stops, value])]
    slider.value = value


def _label(stop: float) -> str:
    return "off" if stop == 0 else f"{stop:.6g}"


def _checkbox(tip: str) -> widgets.Checkbox:
    return widgets.Checkbox(indent=False, tooltip=tip, layout={"width": "30px"})


def _value(name: str, widget: widgets.Widget) -> dict[str, Any]:
    return {name: widget.value}


def _pressed(toggles: dict[str, widgets.Checkbox]) -> tuple[str, ...]:
    return tuple(layer for layer, toggle in toggles.items() if toggle.value)


tuner = Tuner  # as notebooks call it
