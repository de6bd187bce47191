"""The sliders: a panel in a notebook that paints while its knobs are turned."""

from __future__ import annotations

import dataclasses
import itertools
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as widgets
from PIL import Image
from torch import Tensor

from workbench import runs, samples, sheets
from workbench.captions import WEIGHTS, Backpressure, ahead, caption, curves, moves
from workbench.chooser import PictureChooser, StylesChooser, show_picture, small_jpeg
from workbench.colour import ORIGINAL_COLORS, check_original_colors, match_colors
from workbench.errors import InputError, WorkbenchError
from workbench.files import encode
from workbench.images import save_image
from workbench.knobs import (
    NAMES,
    Knob,
    button,
    checkbox,
    choice,
    grid,
    image,
    pressed,
    row,
    section,
    toggle,
    told,
)
from workbench.notebook import papermill_command
from workbench.pages import data_uri, shown
from workbench.painting import Painting
from workbench.remedies import REMEDIES
from workbench.session import CHOOSE, NO_PICTURE, Session, save_run, save_settings
from workbench.settings import Settings
from workbench.states import Sketches, States
from workbench.stills import Still
from workbench.weights import BACKBONES

PICTURE_SIDE = 640  # px; longest side of the live picture that goes to the browser
STRIP_PICTURES, STRIP_HEIGHT = 6, 120
STRIP_SECONDS, CURVES_SECONDS = 3.0, 20.0  # between two drawings while it paints
_FRONT = (*WEIGHTS, "style_scale", "size", "steps")  # knobs that are always in sight
_OF_THE_MACHINE = ("backbone", "device", "precision")
_FITTED = {
    "width": "100%",
    "max_height": "62vh",
    "object_fit": "contain",
    "object_position": "left top",
}
_FULL = {"width": "auto", "max_height": "none", "object_fit": "none"}

_BUTTONS = (  # name, text, icon, tip
    ("start", "Start", "play", "Begin, or go on after a pause"),
    ("pause", "Pause", "pause", "Hold on; Start goes on"),
    ("stop", "Stop", "stop", "End here; Start begins anew"),
    ("back", "Step back", "undo", "To the picture and the sliders of some steps ago, and pause"),
    ("forward", "Redo", "share", "To what was stepped back from"),
    ("replay", "Replay", "repeat", "The same again from the log of all moves"),
    ("save_settings", "Save settings", "save", "What made this picture, as YAML for papermill"),
    ("save_picture", "Save picture", "picture-o", "The picture as it is now, as PNG"),
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
        Picture files, or samples; `style` may be a list of them. Others can be chosen or uploaded
        in the panel.
    settings
        Where the sliders begin; None: the preset "draft".
    output_dir
        Folder that the Save buttons write to, and uploads are kept in. Every saved run gets a
        folder of its own in it: 001, 002 and so on.
    masks, original_colors
        As for `stills.load`: where each style belongs, and what is to keep the photograph's
        colours.
    """

    def __init__(
        self,
        content: str | os.PathLike[str] = "sample:astronaut",
        style: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = "sample:swirls",
        settings: Settings | None = None,
        output_dir: str | os.PathLike[str] = "runs/tune_weights",
        *,
        masks: Sequence[str] = (),
        original_colors: str = "off",
    ) -> None:
        check_original_colors(original_colors)
        settings = settings or Settings.from_preset("draft")
        self.output_dir, self._begin = Path(output_dir), settings
        self.message, self.forecast = widgets.HTML(), widgets.HTML()
        self.content = PictureChooser(
            str(content), samples.PHOTOGRAPHS, self.output_dir, what="photograph"
        )
        self.styles = StylesChooser(samples.find_pictures(style), masks, self.output_dir)
        self.original_colors = choice("original colours", ORIGINAL_COLORS, original_colors)
        self.session = Session(
            None,
            settings,
            on_update=self._update,
            on_settings=self._show_settings,
            on_picture=self._glimpse,
        )
        self._missing, self._names = "", self._names_chosen()
        try:
            self.session.still = self._still()
        except InputError as error:
            self._missing = str(error)
        self._backpressure = Backpressure()
        self._thread = threading.local()  # `sets_widgets`, which is no person then
        self._shown_state, self._glimpsed = ("", ""), False
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
        problems = [self.content.problem, *(each.problem for each in self.styles.choosers)]
        self._say(" ".join(filter(None, problems)), bad=True)

    def _repr_mimebundle_(self, **options: Any) -> Any:
        """What Jupyter shows."""
        return self.box._repr_mimebundle_(**options)

    # --- the widgets ---------------------------------------------------------------------

    def _make_buttons(self) -> None:
        session = self.session
        saving = (self._save_settings, self._save_picture, self._save_gif, self._save_run)
        acts: tuple[Callable[[], object], ...] = (
            *(self._start, session.pause, session.stop),
            *(session.step_back, session.step_forward, session.replay),
            *(partial(self._save, save) for save in saving),
        )
        self.buttons = {
            name: button(text, tip, act, icon=icon)
            for (name, text, icon, tip), act in zip(_BUTTONS, acts, strict=True)
        }
        self.buttons["start"].button_style = "primary"
        tip = "Show every pixel of the picture; scroll to see all of it"
        self.full = toggle("Full size", tip, "search-plus")

    def _make_pictures(self) -> None:
        self.picture = image("painting", **_FITTED)
        self.curves = image("losses", "png", max_width="100%")
        self.strip = image("stages", max_width="100%")
        self.caption, self.moves = widgets.HTML(), widgets.HTML()

    def _make_knobs(self, settings: Settings) -> None:
        fields = dataclasses.fields(Settings)
        one = [field.name for field in fields if not str(field.type).startswith("tuple")]
        names = [name for name in dict.fromkeys([*_FRONT, *one]) if name not in _OF_THE_MACHINE]
        self.knobs = {name: Knob.of(name, _shown(settings, name)) for name in names}
        self.sliders = {name: knob.slider for name, knob in self.knobs.items() if knob.slider}
        layers = BACKBONES[settings.backbone].layers
        self.content_layers = {layer: checkbox(f"Keep content at {layer}") for layer in layers}
        self.style_layers = {layer: checkbox(f"Match style at {layer}") for layer in layers}
        self.layer_weights = {
            layer: Knob.of("style_layer_weights", 1.0, f"{layer}, factor") for layer in layers
        }
        presets = [(f"{name}: {told(what)}", name) for name, what in Settings.PRESETS.items()]
        self.preset = choice("preset", [("own settings", ""), *presets], "")
        self.reset = button("All back", "All knobs back to where the panel began", self._all_back)
        complaints = [(remedy.complaint, remedy) for remedy in REMEDIES]
        self.complaint = choice("what the picture has", [("it has …", ""), *complaints], "")
        self.advice = widgets.HTML()
        self.try_it = button("Do that", "Make this move", self._try)

    def _lay_out(self) -> list[widgets.Widget]:
        heads = ("layer", "content", "style", "its weight", "", "")
        cells = [widgets.HTML(f"<b>{head}</b>") for head in heads]
        for layer, knob in self.layer_weights.items():
            toggles = self.content_layers[layer], self.style_layers[layer]
            cells += [widgets.Label(layer), *toggles, *knob.row[1:]]
        columns = "58px 60px 44px minmax(40px, 1fr) 60px 30px"
        table = {"grid_template_columns": columns, "align_items": "center"}
        later = widgets.HTML("<i>init and seed count from the next start</i>")
        others = [knob for name, knob in self.knobs.items() if name not in _FRONT]
        parts = {
            "What should I try?": widgets.VBox([self.complaint, self.advice, self.try_it]),
            "Photograph and colours": widgets.VBox([self.content.box, self.original_colors]),
            "Styles and masks": self.styles.box,
            "Layers": widgets.GridBox(cells, layout=table),
            "More knobs": widgets.VBox([grid(others), later]),
            "Moves so far": self.moves,
        }
        front = grid([self.knobs[name] for name in _FRONT])
        knobs = widgets.VBox(
            [
                row(self.content.thumbnail, self.styles.thumbnails),
                row(self.preset, self.reset),
                front,
                self.forecast,
                *itertools.chain(*(section(*part) for part in parts.items())),
            ]
        )
        # What is longer than the window scrolls by itself, so that the picture stays in sight.
        scrolls = {"display": "block", "max_height": "76vh", "overflow": "auto"}
        sides = {"flex": "1 1 300px", "min_width": "min(290px, 100%)", "max_width": "460px"}
        left = widgets.VBox([knobs], layout={**sides, **scrolls})
        frame = widgets.VBox([self.states.stage, self.picture], layout=scrolls)
        right = widgets.VBox(
            [frame, self.caption], layout={"flex": "2 1 380px", "min_width": "min(300px, 100%)"}
        )
        buttons = [*self.buttons.values()]
        return [
            row(row(*buttons[:-4]), row(self.full, *buttons[-4:]), justify_content="space-between"),
            self.message,
            # In a narrow window the picture stands above the knobs.
            row(
                left, right, flex_flow="row wrap-reverse", align_items="flex-end", grid_gap="0 16px"
            ),
            self.states.box,
            self.sketches.box,
            row(self.strip, self.curves, align_items="flex-start", grid_gap="0 16px"),
            widgets.HTML(NAMES),
        ]

    # --- what a person does --------------------------------------------------------------

    def _watch(self) -> None:
        for name, knob in self.knobs.items():
            knob.watch(partial(self._set, name))
        for box in self.content_layers.values():
            box.observe(lambda _: self._turn(self._content_layers()), "value")
        for box in self.style_layers.values():
            box.observe(lambda _: self._turn(self._style_layers()), "value")
        for layer, knob in self.layer_weights.items():
            knob.watch(partial(self._set_layer, layer))
        self.preset.observe(
            lambda change: self._turn(Settings.PRESETS.get(change["new"], {})), "value"
        )
        self.complaint.observe(lambda _: self._advise(), "value")
        self.full.observe(lambda _: self._show_full(), "value")
        self.original_colors.observe(lambda change: self._recolour(**change), "value")
        self.styles.on_share = lambda: self._turn({"style_blend_weights": self.styles.shares})
        for chooser in (self.content, self.styles):
            chooser.on_choice = self._choose
            chooser.on_problem = partial(self._say, bad=True)

    def _turn(self, changes: Mapping[str, Any]) -> None:
        """Make a move, unless it was the session that set the widget."""
        if getattr(self._thread, "sets_widgets", False):
            return
        try:
            self.session.change(**changes)
        except InputError as error:
            self._say(str(error), bad=True)
        else:
            self._say("")
        self._show_settings()

    def _set(self, name: str, value: Any) -> None:
        steps = (*self.session.settings.steps[:-1], value)
        self._turn({name: steps if name == "steps" else value})

    def _set_layer(self, layer: str, weight: float) -> None:
        self._turn(self._style_layers({layer: weight}))

    def _content_layers(self) -> dict[str, Any]:
        return {"content_layers": pressed(self.content_layers)}

    def _style_layers(self, turned: dict[str, float] | None = None) -> dict[str, Any]:
        layers = pressed(self.style_layers)
        factors = {layer: self.layer_weights[layer].field.value for layer in layers}
        factors |= {layer: value for layer, value in (turned or {}).items() if layer in factors}
        alike = all(factor == 1 for factor in factors.values())
        return {
            "style_layers": layers,
            "style_layer_weights": () if alike else tuple(factors.values()),
        }

    def _all_back(self) -> None:
        shares = self._begin.style_blend_weights
        same = len(shares) == len(self.styles.styles)
        self._turn({**vars(self._begin), "style_blend_weights": shares if same else ()})

    def _advise(self) -> None:
        """Say what can be tried, from the settings as they are."""
        remedy, settings = self.complaint.value, self.session.settings
        self.try_it.disabled = not remedy
        self.advice.value = ""
        if remedy:
            ((name, value),) = remedy.change(settings).items()
            now = getattr(settings, name, self.original_colors.value)
            change = f"{told({name: now})} → {shown(value)}"
            self.advice.value = f"{remedy.advice}:<br>{escape(change)}"

    def _try(self) -> None:
        changes = self.complaint.value.change(self.session.settings)
        if "original_colors" in changes:
            self.original_colors.value = changes["original_colors"]
        else:
            self._turn(changes)
        self._advise()

    def _recolour(self, old: str, new: str, **_: Any) -> None:
        if {old, new} <= {"off", "luma"}:  # which is done to the painted picture
            self.session.show_colors(new)
        else:
            self._choose()

    def _names_chosen(self) -> dict[str, Any]:
        styles, masks = self.styles.names, self.styles.masks
        one = styles[0] if len(styles) == 1 else styles
        return {"content": self.content.name, "style": one, **({"masks": masks} if masks else {})}

    def _still(self) -> Still:
        """What is chosen; `InputError` if something is missing."""
        content, colours = self.content.image, self.original_colors.value
        if content is None:
            raise InputError(CHOOSE)
        styles, masks = self.styles.pictures()
        matched = [match_colors(style, content, colours) for style in styles]
        return Still(content, matched, self.session.settings, masks, self.content.alpha, colours)

    def _choose(self) -> None:
        """Paint with what is chosen from the next start on, if nothing is missing."""
        try:
            still, self._missing = self._still(), ""
        except InputError as error:
            self._missing = str(error)
            self._say(self._missing, bad=True)
            if self.session.painting is None:
                self._show_choice()
            return
        self._names = self._names_chosen()
        self.session.choose(still)
        if self.styles.shares != self.session.settings.style_blend_weights:
            self.session.change(style_blend_weights=self.styles.shares)
        self._show_settings()

    def _start(self) -> None:
        if self._missing:
            self._say(self._missing, bad=True)
        else:
            self.session.start()

    def _show_full(self) -> None:
        self.picture.layout = _FULL if self.full.value else _FITTED
        self.session.between_steps(self._show_picture)

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
            self._next_strip, self._next_curves = now + STRIP_SECONDS, now + CURVES_SECONDS
        painting, still = session.painting, session.state != "running"
        if painting is None:
            self._show_choice()
            return
        glimpsed, self._glimpsed = self._glimpsed, False
        if painting.iterate is None or not (turned or still or glimpsed):
            return
        if turned or still:
            self._show_picture()
            self._backpressure.sent()
        self.caption.value = caption(painting, session.state, session.pace)
        if still or now >= self._next_strip:
            self._next_strip = now + STRIP_SECONDS
            self._show_forecast()
            strip = sheets.progress_strip(
                painting.recorder, count=STRIP_PICTURES, height=STRIP_HEIGHT
            )
            show_picture(self.strip, encode(Image.fromarray(strip), "JPEG", quality=85))
            self.moves.value = moves(painting)
        if still or now >= self._next_curves:
            self._next_curves = now + CURVES_SECONDS
            show_picture(self.curves, curves(painting))

    def _glimpse(self, picture: Tensor) -> None:
        """Show the picture of a step before its losses are known, unless the browser is behind."""
        if self._backpressure.free():
            self._glimpsed = True
            self._show_picture(picture)
            self._backpressure.sent()

    def _show_picture(self, picture: Tensor | None = None) -> None:
        """Show a picture, or else the painting, or else the photograph."""
        painting = self.session.painting
        if picture is None:
            picture = painting.shown.image if painting and painting.shown else self.content.image
        side = PICTURE_SIDE if picture is None or not self.full.value else max(picture.shape)
        show_picture(self.picture, small_jpeg(picture, side))

    def _show_forecast(self) -> None:
        still, settings = self.session.still, self.session.settings
        text = ahead(replace(still, settings=settings), self.session.pace) if still else ""
        self.forecast.value = text

    def _enable_buttons(self) -> None:
        state = self.session.state
        enabled = {
            "start": state != "running",
            "pause": state == "running",
            "stop": state in ("running", "paused", "failed"),
            "save_settings": True,
        }
        for name, each in self.buttons.items():
            each.disabled = not enabled.get(name, state != "ready")
        go_on = state in ("paused", "failed")
        self.buttons["start"].description = "Go on" if go_on else "Start"

    def _show_choice(self) -> None:
        """The photograph, before there is anything else to see."""
        self._show_picture()
        self.caption.value = "Press Start."
        show_picture(self.curves, b"")
        show_picture(self.strip, b"")
        self.moves.value = ""

    def _show_settings(self) -> None:
        """Set all widgets to the settings of the session."""
        settings = self.session.settings
        self._thread.sets_widgets = True
        try:
            for name, knob in self.knobs.items():
                knob.show(_shown(settings, name))
            self.styles.show_shares(settings.style_blend_weights)
            presets = Settings.PRESETS.items()
            alike = (name for name, what in presets if settings.changed(**what) == settings)
            self.preset.value = next(alike, "")
            self.reset.disabled = settings == self._begin
            self._show_forecast()
            self._advise()
            factors = settings.style_layer_weights or (1.0,) * len(settings.style_layers)
            weights = dict(zip(settings.style_layers, factors, strict=True))
            for layer, weight in self.layer_weights.items():
                self.content_layers[layer].value = layer in settings.content_layers
                # A factor of 0 is the same as not to look at the layer.
                self.style_layers[layer].value = weights.get(layer, 0) > 0
                weight.show(weights.get(layer) or 1.0)
        finally:
            self._thread.sets_widgets = False

    def _say(self, sentence: str, *, bad: bool = False, more: str = "") -> None:
        colour = "var(--jp-error-color1, #c62828)" if bad else "inherit"
        self.message.value = (
            f'<div role="status" style="color: {colour}; line-height: 1.4; white-space: pre-wrap">'
            f"{escape(sentence)}{more}</div>"
        )

    # --- what is saved -------------------------------------------------------------------

    def _save(self, save: Callable[[Painting], None]) -> None:
        """Save in the session's thread, between two steps, and say where."""

        def saving() -> None:
            try:
                painting = self.session.painting or Painting(self._still())
                if painting.shown is None and save != self._save_settings:
                    raise InputError(NO_PICTURE)
                save(painting)
            except WorkbenchError as error:
                self._say(str(error), bad=True)

        self.session.between_steps(saving)

    def _save_settings(self, painting: Painting) -> None:
        paths = save_settings(painting, self._names, self.output_dir)
        name = "stylize_image" if len(paths) == 1 else "tune_weights"
        command = papermill_command(name, "-f", str(paths[-1]))
        there = f"Saved {', '.join(map(str, paths))}."
        self._say(f"{there} In a terminal in {Path.cwd()}:\n{command}")

    def _save_picture(self, painting: Painting) -> None:
        assert painting.shown is not None
        numbered = (self.output_dir / f"picture-{number:03}.png" for number in itertools.count(1))
        path = next(path for path in numbered if not path.exists())
        save_image(painting.shown.image, path, alpha=painting.still.alpha)
        data = data_uri(path.read_bytes(), "image/png")
        link = f' <a href="{data}" download="{path.name}">Download it</a>'
        self._say(f"Saved {path}.", more=link)

    def _save_gif(self, painting: Painting) -> None:
        path = self.output_dir / "progress.gif"
        sheets.save_gif([snapshot.frame for snapshot in painting.recorder.snapshots()], path)
        self._say(f"Saved {path}")

    def _save_run(self, painting: Painting) -> None:
        folder = runs.start_run(self.output_dir / runs.NUMBER)
        save_run(painting, self._names, folder)
        self._say(f"Saved {folder.parent}: picture.png, progress.gif and what made them")


def _shown(settings: Settings, name: str) -> Any:
    """The value of a setting that its knob shows: of the steps, those of the last scale."""
    value = getattr(settings, name)
    return value[-1] if name == "steps" else value


tuner = Tuner  # as notebooks call it
