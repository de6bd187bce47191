"""The sliders: a panel in a notebook that paints while its knobs are turned."""

from __future__ import annotations

import hashlib
import io
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import traitlets
from PIL import Image
from torch import Tensor

from workbench import runs, samples, sheets
from workbench.errors import InputError, WorkbenchError
from workbench.files import pictures_in, write_bytes
from workbench.images import Frame, load_image, resize_down, to_array
from workbench.notebook import UPLOADS, papermill_command
from workbench.session import (
    CHOOSE,
    NO_PICTURE,
    Painting,
    Session,
    effective,
    save_run,
    save_settings,
)
from workbench.settings import OPTIMIZERS, Settings
from workbench.weights import BACKBONES

PICTURE_SIDE = 640  # px; longest side of the live picture that goes to the browser
THUMBNAIL_SIDE = 160
STRIP_PICTURES, STRIP_HEIGHT = 6, 120
JPEG_QUALITY = 85
FASTEST = 0.1  # seconds between two pictures to the browser
PATIENCE, LONGEST_PATIENCE = 1.0, 10.0  # seconds to wait for a browser that does not answer
UPLOAD_BYTES = 10 * 2**20  # longest message that Jupyter's server takes from a browser
CURVES_SHARE = 0.08  # of the session's time that may go into drawing curves
SCALES = (0.25, 0.35, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.12, 1.25, 1.4, 1.6, 1.8, 2.0, 2.5, 3.0)
SIZES = (128, 192, 256, 320, 384, 448, 512, 640, 768, 1024)

# Twenty stops of a slider to each power of ten: the preferred numbers R20 of ISO 3, rounded.
# fmt: off
STOPS = (1, 1.12, 1.25, 1.4, 1.6, 1.8, 2, 2.24, 2.5, 2.8,
         3.15, 3.55, 4, 4.5, 5, 5.6, 6.3, 7.1, 8, 9)
# fmt: on
_WEIGHTS = ("content_weight", "style_weight", "tv_weight")


def tuner(
    content: str | os.PathLike[str] | None = None,
    style: str | os.PathLike[str] | None = None,
    settings: Settings | None = None,
    output_dir: str | os.PathLike[str] = "runs/tune_weights",
) -> Tuner:
    """Open a panel with a slider for every knob, and paint while they are turned.

    The optimisation runs in a thread of its own, so the notebook stays free. A slider that is
    moved counts from the very next step on. To see a panel again, show the same object in
    another cell.

    Parameters
    ----------
    content, style
        Picture files, or samples such as "sample:astronaut"; None: samples. Others can be
        chosen or uploaded in the panel.
    settings
        Where the sliders begin; None: the preset "draft".
    output_dir
        Folder that the Save buttons write to, and uploads are kept in. Every saved run gets a
        folder of its own in it: 001, 002 and so on.
    """
    content = "sample:astronaut" if content is None else str(content)
    style = "sample:swirls" if style is None else str(style)
    return Tuner(content, style, settings or Settings.from_preset("draft"), Path(output_dir))


class Tuner:
    """The panel that `tuner` opens: `box` is what is shown, `session` what it drives."""

    def __init__(self, content: str, style: str, settings: Settings, output_dir: Path) -> None:
        self.output_dir = output_dir
        self.message = widgets.HTML()
        self.content = PictureChooser(content, [samples.PHOTOGRAPH], output_dir)
        self.style = PictureChooser(style, samples.STYLES, output_dir)
        self.session = Session(
            self.content.image,
            self.style.images,
            settings,
            on_update=self._update,
            on_settings=self._show_settings,
        )
        self._line = _Line()
        self._setting = threading.local()  # whether this thread sets widgets, no person
        self._shown_state = ("", "")
        self._next_curves = self._next_strip = 0.0
        self._make_widgets(settings)
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

    def _make_widgets(self, settings: Settings) -> None:
        def button(text: str, icon: str, tip: str, style: str = "") -> widgets.Button:
            layout = widgets.Layout(width="auto")
            return widgets.Button(
                description=text, icon=icon, tooltip=tip, button_style=style, layout=layout
            )

        self.start = button("Start", "play", "Begin, or go on after a pause", "primary")
        self.pause = button("Pause", "pause", "Hold on; Start goes on")
        self.stop = button("Stop", "stop", "End here; Start begins anew")
        self.back = button(
            "Step back", "undo", "To the picture and the sliders of some steps ago, and pause"
        )
        self.replay = button("Replay", "repeat", "The same again from the log of all moves")
        self.save_settings = button(
            "Save settings", "save", "What made this picture, as YAML for papermill"
        )
        self.save_gif = button("Save GIF", "film", "The progress so far")
        self.save_run = button(
            "Save run", "folder-open", "Picture, GIF, curves and settings, in a folder of their own"
        )
        self.picture = widgets.Image(format="jpeg", layout=widgets.Layout(max_width="100%"))
        self.caption = widgets.HTML()
        self.curves = widgets.Image(format="png", layout=widgets.Layout(max_width="100%"))
        self.strip = widgets.Image(format="jpeg", layout=widgets.Layout(max_width="100%"))
        self.moves = widgets.HTML()

        self.sliders = {
            "content_weight": _slider("content weight", [0.0, *_stops(-1, 3)]),
            "style_weight": _slider("style weight", [0.0, *_stops(0, 4)]),
            "tv_weight": _slider("tv weight", [0.0, *_stops(-5, 0)]),
            # Targets must be made anew for these, so they count when they are let go.
            "style_scale": _slider("style scale", SCALES, late=True),
            "size": _slider("size", SIZES, late=True),
        }
        layers = BACKBONES[settings.backbone].layers
        self.content_layers = {layer: _checkbox(f"Keep content at {layer}") for layer in layers}
        self.style_layers = {layer: _checkbox(f"Match style at {layer}") for layer in layers}
        self.layer_weights = {layer: _slider("", _stops(-2, 2)[::2]) for layer in layers}
        starts = list(dict.fromkeys(["content", "random", settings.init]))
        self.others = {
            "optimizer": widgets.Dropdown(options=OPTIMIZERS, description="optimizer"),
            "init": widgets.Dropdown(options=starts, description="init"),
            # Larger ones would be rounded in the browser.
            "seed": widgets.BoundedIntText(min=0, max=2**53 - 1, description="seed"),
        }
        self.steps = widgets.BoundedIntText(min=1, max=10**9, description="steps")

    def _lay_out(self) -> list[widgets.Widget]:
        def row(*children: widgets.Widget, **layout: str) -> widgets.HBox:
            flow = {"align_items": "center", "flex_flow": "row wrap", **layout}
            return widgets.HBox(children, layout=widgets.Layout(**flow))

        cells: list[widgets.Widget] = [
            widgets.HTML(f"<b>{title}</b>") for title in ("layer", "content", "style", "its weight")
        ]
        for layer in self.style_layers:
            cells += [widgets.Label(layer), self.content_layers[layer]]
            cells += [self.style_layers[layer], self.layer_weights[layer]]
        layers = widgets.GridBox(
            cells,
            layout=widgets.Layout(grid_template_columns="60px 60px 44px 1fr", align_items="center"),
        )
        later = widgets.HTML("<i>init and seed count from the next start</i>")
        optimiser = widgets.VBox([*self.others.values(), self.steps, later])
        more = widgets.Accordion([self.content.box, self.style.box, layers, optimiser, self.moves])
        more.titles = (
            "Content picture",
            "Style picture",
            "Layers",
            "Optimiser, start",
            "Moves so far",
        )
        left = widgets.VBox(
            [row(self.content.thumbnail, self.style.thumbnail), *self.sliders.values(), more],
            layout=widgets.Layout(flex="1 1 360px", min_width="330px", max_width="460px"),
        )
        right = widgets.VBox(
            [self.picture, self.caption, self.curves, self.strip],
            layout=widgets.Layout(flex="2 1 420px", min_width="320px"),
        )
        control = row(self.start, self.pause, self.stop, self.back, self.replay)
        saving = row(self.save_settings, self.save_gif, self.save_run)
        return [
            row(control, saving, justify_content="space-between"),
            self.message,
            row(left, right, align_items="flex-start", grid_gap="0 24px"),
        ]

    # --- what a person does --------------------------------------------------------------

    def _watch(self) -> None:
        session = self.session
        self.start.on_click(lambda _: session.start())
        self.pause.on_click(lambda _: session.pause())
        self.stop.on_click(lambda _: session.stop())
        self.back.on_click(lambda _: session.step_back())
        self.replay.on_click(lambda _: session.replay())
        self.save_settings.on_click(lambda _: self._save(self._save_settings))
        self.save_gif.on_click(lambda _: self._save(self._save_gif))
        self.save_run.on_click(lambda _: self._save(self._save_run))
        for name, widget in (self.sliders | self.others).items():
            self._on_turn(widget, partial(_value, name, widget))
        self._on_turn(
            self.steps,
            lambda: {"steps": (*session.settings.steps[:-1], self.steps.value)},
        )
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
            if getattr(self._setting, "widgets", False):
                return
            try:
                self.session.change(**changes())
            except InputError as error:
                self._show_settings()
                self._say(str(error), bad=True)
            else:
                self._say("")

        widget.observe(turned, "value")

    def _style_layers(self) -> dict[str, Any]:
        layers = _pressed(self.style_layers)
        factors = tuple(self.layer_weights[layer].value for layer in layers)
        alike = all(factor == 1 for factor in factors)
        return {"style_layers": layers, "style_layer_weights": () if alike else factors}

    def _choose(self) -> None:
        self.session.choose(self.content.image, self.style.images)

    # --- what the session shows ----------------------------------------------------------

    def _update(self) -> None:
        """Bring the browser up to date; called in the session's thread after every step."""
        session, now = self.session, time.monotonic()
        turned = (session.state, session.message) != self._shown_state
        if turned:
            self._shown_state = session.state, session.message
            self._enable_buttons()
            self._say(session.message, bad=session.state == "failed")
        painting, still = session.painting, session.state != "running"
        if painting is None:
            self._show_choice()
            return
        if painting.iterate is None or not (turned or still or self._line.free()):
            return
        _show(self.picture, _small(painting.iterate.image, PICTURE_SIDE))
        self.caption.value = _caption(painting, session.state)
        if still or now >= self._next_strip:
            self._next_strip = now + 1.0
            _show(self.strip, _jpeg(_strip(painting)))
            self.moves.value = _log(painting)
        if still or now >= self._next_curves:
            began = time.monotonic()
            _show(self.curves, _curves(painting))
            self._next_curves = began + (time.monotonic() - began) / CURVES_SHARE
        self._line.sent()

    def _enable_buttons(self) -> None:
        state = self.session.state
        begun = state not in ("ready", "running")
        self.start.disabled = state == "running"
        self.pause.disabled = state != "running"
        self.stop.disabled = state not in ("running", "paused", "failed")
        self.back.disabled = self.replay.disabled = state == "ready"
        self.start.description = "Go on" if state in ("paused", "failed") else "Start"
        self.save_gif.disabled = self.save_run.disabled = not (begun or state == "running")

    def _show_choice(self) -> None:
        """The photograph, before there is anything else to see."""
        _show(self.picture, _small(self.content.image, PICTURE_SIDE))
        self.caption.value = "Press Start."
        _show(self.curves, b"")
        _show(self.strip, b"")
        self.moves.value = ""

    def _show_settings(self) -> None:
        """Set all widgets to the settings of the session."""
        settings = self.session.settings
        with self._shown_by_session():
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

    @contextmanager
    def _shown_by_session(self) -> Iterator[None]:
        self._setting.widgets = True
        try:
            yield
        finally:
            self._setting.widgets = False

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
            if self.content.image is None or self.style.image is None:
                raise InputError(CHOOSE)
            painting = Painting(self.content.image, self.style.images, self.session.settings)
        paths = save_settings(painting, self.content.name, self.style.name, self.output_dir)
        name = "stylize_image" if len(paths) == 1 else "tune_weights"
        command = papermill_command(name, "-f", str(paths[-1]))
        return f"Saved {', '.join(map(str, paths))}. In a terminal in {Path.cwd()}:\n{command}"

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
        save_run(painting, self.content.name, self.style.name, folder)
        return f"Saved {folder.parent}: picture.png, progress.gif and what made them"


class PictureChooser:
    """Pick a picture among samples and folders, type its path, or upload it.

    Attributes
    ----------
    name
        Of the picture: its path, or a sample.
    image
        `(1, 3, H, W)`, sRGB in [0, 1]; None, as long as there is no such picture.
    box, thumbnail
        Widgets: to choose with, and to show what is chosen.
    problem
        What was wrong with the last one chosen; empty: nothing.
    on_choice, on_problem
        Called after another picture was chosen, or could not be.
    """

    def __init__(self, name: str, sample_names: Sequence[str], output_dir: Path) -> None:
        self.samples = tuple(samples.PREFIX + sample for sample in sample_names)
        self.name, self.problem = name, ""
        self.image: Tensor | None = None
        self.on_choice: Callable[[], None] = lambda: None
        self.on_problem: Callable[[str], None] = lambda problem: None
        self._uploads = output_dir / UPLOADS
        self._folder = Path.cwd()
        self._listing = False
        self.thumbnail = widgets.Image(format="jpeg")
        self.path = widgets.Text(
            continuous_update=False,
            placeholder="path of a picture",
            layout=widgets.Layout(width="auto"),
        )
        self.entries = widgets.Select(rows=7, layout=widgets.Layout(width="auto"))
        self.upload = widgets.FileUpload(
            accept="image/*",
            description="Upload (up to 10 MB)",
            layout=widgets.Layout(width="auto"),
        )
        # What is too large for Jupyter never arrives; its name and size do, ahead of it.
        self._ahead = _FileList()
        self._link = widgets.jsdlink((self.upload, "value"), (self._ahead, "value"))
        try:
            self.name, self.image = _load(name)
        except InputError as error:
            self.problem = str(error)
        self._show()
        self.path.observe(lambda change: self.choose(change["new"]), "value")
        self.entries.observe(lambda change: self._enter(change["new"]), "value")
        self._ahead.observe(lambda change: self._refuse_too_large(change["new"]), "value")
        self.upload.observe(lambda change: self._take_upload(change["new"]), "value")
        self.box = widgets.VBox([self.path, self.entries, self.upload])

    @property
    def images(self) -> list[Tensor]:
        """The picture, if there is one."""
        return [] if self.image is None else [self.image]

    def choose(self, name: str) -> None:
        """Take the picture of that name, or say why not and keep the one there is."""
        if name == self.name and self.image is not None:
            return
        try:
            self.name, self.image = _load(name)
        except InputError as error:
            self.problem = str(error)
            self.on_problem(self.problem)
        else:
            self.problem = ""
            self.on_choice()
        self._show()

    def _show(self) -> None:
        self.path.value = self.name
        _show(self.thumbnail, _small(self.image, THUMBNAIL_SIDE))
        self._listing = True  # new options choose their first by themselves
        self.entries.options = self._list_folder()
        self.entries.value = None
        self._listing = False

    def _list_folder(self) -> list[tuple[str, str]]:
        """What is shown -> what it is: samples, the folder above, folders, pictures."""
        folders, pictures = [], []
        try:
            pictures = [(path.name, str(path)) for path in pictures_in(self._folder)]
            for path in sorted(self._folder.iterdir(), key=lambda path: path.name.casefold()):
                if path.is_dir() and not path.name.startswith("."):
                    folders.append((f"\N{FILE FOLDER} {path.name}", str(path)))
        except InputError as error:
            self.on_problem(str(error))
        above = (f"\N{UPWARDS ARROW} {self._folder.parent}", str(self._folder.parent))
        return [*((sample, sample) for sample in self.samples), above, *folders, *pictures]

    def _enter(self, entry: str | None) -> None:
        if entry is None or self._listing:
            return
        if entry not in self.samples and Path(entry).is_dir():
            self._folder = Path(entry)
            self._show()
        else:
            self.choose(entry)

    def _refuse_too_large(self, files: Sequence[dict[str, Any]]) -> None:
        for file in files:
            if file["size"] >= UPLOAD_BYTES:
                self.on_problem(
                    f"{file['name']} has {file['size'] / 1e6:.1f} MB, and more than"
                    f" {UPLOAD_BYTES / 1e6:.0f} MB do not get through Jupyter's connection: drag"
                    " the file into JupyterLab's file browser and type its path here, or choose"
                    " it from the folder."
                )
                self.upload.send_state("value")  # lets go of it in the browser as well

    def _take_upload(self, files: Sequence[dict[str, Any]]) -> None:
        """Keep an uploaded picture, so that saved settings can name it."""
        for file in files:
            content = bytes(file["content"])
            # Told apart by content, so that no upload ever replaces one that is in use.
            name = Path(file["name"].replace("\\", "/"))
            digest = hashlib.sha256(content).hexdigest()[:8]
            path = self._uploads / f"{digest}-{name.stem[:60]}{name.suffix[:10]}"
            try:
                write_bytes(path, content)
                load_image(path)
            except WorkbenchError as error:
                with suppress(OSError):
                    path.unlink()
                self.on_problem(str(error).replace(str(path), file["name"]))
            else:
                self.choose(str(path))
        self.upload.value = ()  # the same file may come again


class _FileList(widgets.TagsInput):  # type: ignore[misc]
    """Names and sizes of files, without what is in them: the browser sends this as JSON."""

    value = traitlets.List(traitlets.Dict()).tag(sync=True)


class _Line:
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


def _jpeg(frame: Frame) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _small(image: Tensor | None, side: int) -> bytes:
    return b"" if image is None else _jpeg(to_array(resize_down(image, side)))


def _show(widget: widgets.Image, data: bytes) -> None:
    """Set a picture; without one, hide the widget, which a browser would call broken."""
    widget.value = data
    widget.layout.display = None if data else "none"


def _load(name: str) -> tuple[str, Tensor]:
    """A picture by its path or the name of a sample, and the name with `~` written out."""
    if not name.strip():
        raise InputError("the path is empty; type one, or choose a picture from the folder.")
    if name.startswith(("https://", "http://")):
        raise InputError(f"{name} is an address; save the picture there and give its path.")
    if name.startswith("~"):
        name = os.path.expanduser(name)  # noqa: PTH111 - leaves the `~` of nobody as it is
    return name, samples.load_picture(name)


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


def _strip(painting: Painting) -> Frame:
    snapshots = painting.recorder.snapshots(STRIP_PICTURES)
    captions = ["start" if shot.step == 0 else f"step {shot.step}" for shot in snapshots]
    return sheets.contact_sheet(
        [snapshot.frame for snapshot in snapshots], captions, height=STRIP_HEIGHT
    )


def _curves(painting: Painting) -> bytes:
    steps = [move.step for move in effective(painting.log)]
    figure = sheets.plot_losses(painting.recorder, steps)
    figure.set_size_inches(7, 3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    return buffer.getvalue()


def _log(painting: Painting) -> str:
    """Every move with its step, the newest first."""
    lines = []
    for move in reversed(painting.log):
        changes = [f"{name.replace('_', ' ')} {_text(v)}" for name, v in move.changes.items()]
        what = ", ".join(changes) if move.back_to is None else f"back to step {move.back_to}"
        lines.append(f"<li>step {move.step}: {escape(what or 'optimiser started anew')}</li>")
    return f'<ol style="margin: 0">{"".join(lines)}</ol>' if lines else "None yet."


def _text(value: object) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)


def _stops(low: int, high: int) -> list[float]:
    """Stops of a slider from 10^low to 10^high."""
    stops = [float(f"{stop}e{power}") for power in range(low, high) for stop in STOPS]
    return [*stops, 10.0**high]


def _slider(title: str, stops: Sequence[float], *, late: bool = False) -> widgets.SelectionSlider:
    """A slider with exact stops; `late` ones count when they are let go."""
    return widgets.SelectionSlider(
        options=[(_label(stop), stop) for stop in stops],
        description=title,
        continuous_update=not late,
        style={"description_width": "108px" if title else "0px"},
        layout=widgets.Layout(width="auto", min_width="0"),
    )


def _set_slider(slider: widgets.SelectionSlider, value: float) -> None:
    """Put a slider to a value, which becomes a stop if it is none yet."""
    stops = [stop for _, stop in slider.options]
    if value not in stops:
        slider.options = [(_label(stop), stop) for stop in sorted([*stops, value])]
    slider.value = value


def _label(stop: float) -> str:
    return "off" if stop == 0 else f"{stop:.6g}"


def _checkbox(tip: str) -> widgets.Checkbox:
    return widgets.Checkbox(indent=False, tooltip=tip, layout=widgets.Layout(width="30px"))


def _value(name: str, widget: widgets.Widget) -> dict[str, Any]:
    return {name: widget.value}


def _pressed(toggles: dict[str, widgets.Checkbox]) -> tuple[str, ...]:
    return tuple(layer for layer, toggle in toggles.items() if toggle.value)
