"""States of a painting that are kept, compared and gone back to; and nine sketches of others."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from html import escape
from itertools import islice, zip_longest
from typing import Any

import ipywidgets as widgets
import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

from workbench.chooser import small_jpeg
from workbench.descent import Iterate, optimize
from workbench.errors import InputError, OptimizationError, WorkbenchError
from workbench.files import encode
from workbench.images import fit, resize_down, shape_of, to_array
from workbench.knobs import button, checkbox, row, words
from workbench.pages import compare_html, data_uri, shown
from workbench.painting import Painting, Snapshot
from workbench.progress import keep_colors
from workbench.session import CHOOSE, NO_PICTURE, Session
from workbench.settings import Settings
from workbench.stills import Still

KEPT = 12  # states, at most
KEPT_BYTES = 2**30  # of memory for all of them, as far as it is the optimiser's
SKETCHES = 9
SKETCH_SIDE, SKETCH_STEPS = 128, 35  # px of the longest side; steps that each takes
SKETCH_TURN = 7  # steps that it takes at a time, before the others have their turn
CARD_SIDE, STAGE_SIDE = 128, 640  # px; longest sides of pictures in a row, and of those compared
FACTORS = {  # knob -> how far a variation goes from the present value, times and divided
    "style_weight": 5.0,
    "content_weight": 5.0,
    "style_scale": 2.0,
    "tv_weight": 30.0,
    "style_layer_weights": 5.0,
}
USUAL = ("style_weight", "content_weight", "style_scale")  # of these
_KNOBS = {field.name: field.metadata for field in dataclasses.fields(Settings)}
Look = Callable[[str, str, Sequence[str]], str]
"""Two pictures, as URIs, and captions -> HTML."""

_FLIP = """<style>
.workbench-flip > div {{ display: grid; width: fit-content; margin-top: 4px; }}
.workbench-flip figure {{ grid-area: 1 / 1; margin: 0; }}
.workbench-flip img {{ display: block; max-width: 100%; }}
.workbench-flip :checked ~ div > :first-child,
.workbench-flip :not(:checked) ~ div > :last-child {{ visibility: hidden; }}
</style>
<label class="workbench-flip"><input type="checkbox"> flip (click, or the space bar)
<div>{}{}</div></label>"""


# --- nine sketches -----------------------------------------------------------------------


def variations(
    settings: Settings, knobs: Sequence[str], count: int = SKETCHES, seed: int = 0
) -> list[Settings]:
    """Settings around the present ones; the same seed gives the same.

    Each of the `knobs`, keys of `FACTORS`, is multiplied by a factor that is log-uniform and spread
    evenly over the variations (a Latin hypercube), and rounded to two digits within its limits. One
    that is 0 stays so.

    Raises
    ------
    InputError
        If there is no knob, or one that cannot be varied.
    """
    if not knobs or not FACTORS.keys() >= {*knobs}:
        raise InputError(f"knobs = {[*knobs]}: choose one or more of {', '.join(FACTORS)}.")
    generator = np.random.default_rng(seed)
    columns: dict[str, list[Any]] = {}
    for name in knobs:
        value = getattr(settings, name)
        if value == ():
            value = (1.0,) * len(settings.style_layers)
        rows = []
        for number in np.atleast_1d(value):
            strata = (generator.permutation(count) + generator.random(count)) / count
            factors = FACTORS[name] ** (2 * strata - 1)
            rows.append([float(f"{number * factor:.2g}") for factor in factors])
        within = np.clip(rows, _KNOBS[name]["least"], _KNOBS[name]["most"]).T.tolist()
        columns[name] = within if isinstance(value, tuple) else [only for (only,) in within]
    return [settings.changed(**{k: v[i] for k, v in columns.items()}) for i in range(count)]


def sketches(still: Still, wanted: Sequence[Settings]) -> Iterator[tuple[int, Iterate]]:
    """Paint with each of the settings in small, in turns; yields every step with whose it is.

    One whose loss explodes stays as it was then.
    """
    photo = resize_down(still.content, SKETCH_SIDE)
    largest = max(settings.style_scale for settings in wanted)
    styles = [resize_down(style, round(2 * SKETCH_SIDE * largest)) for style in still.styles]
    runs = {}
    for number, settings in enumerate(wanted):
        # L-BFGS at once: so few steps would not make up for twenty of Adam.
        start = photo if settings.init == "content" else None
        small = replace(settings, size=SKETCH_SIDE, steps=(SKETCH_STEPS,))
        iterates = optimize(photo, styles, small, start=start, masks=still.masks)
        runs[number] = keep_colors(iterates, photo, still.original_colors)
    while runs:
        for number, run in list(runs.items()):
            done = True
            try:
                for iterate in islice(run, SKETCH_TURN):
                    yield number, iterate
                    done = iterate.step == iterate.steps
            except OptimizationError:
                done = True
            if done:
                del runs[number]


# --- words -------------------------------------------------------------------------------


def differing(several: Sequence[Settings]) -> list[str]:
    """Names of the settings that are not alike in all."""
    return [name for name in _KNOBS if len({getattr(each, name) for each in several}) > 1]


def describe(settings: Settings, names: Sequence[str], before: Settings | None = None) -> str:
    """Some of the settings, and what they were before: "style weight 300 (was 100), seed 2"."""
    said = []
    for name in names:
        now, then = getattr(settings, name), getattr(before or settings, name)
        was = f" (was {shown(then) or 'none'})" if then != now else ""
        said.append(f"{words(name)} {shown(now) or 'none'}{was}")
    return ", ".join(said)


def flip_html(first: str, second: str, captions: Sequence[str]) -> str:
    """HTML of two pictures at one place, of which a click or the space bar shows the other."""
    figures = (
        f'<figure><figcaption>{escape(caption)}</figcaption><img src="{source}" alt=""></figure>'
        for source, caption in zip((first, second), captions, strict=True)
    )
    return _FLIP.format(*figures)


def _fitted(pictures: Sequence[Tensor]) -> Iterator[str]:
    """Pictures of any sizes as URIs, in one size; white fills what one of another shape leaves."""
    height, width = fit(shape_of(pictures[-1]), STAGE_SIDE)
    for each in pictures:
        picture = Image.fromarray(to_array(each))
        # Shapes of two sizes differ by what was rounded.
        alike = abs(picture.width * height / (picture.height * width) - 1) < 0.03
        if alike:
            picture = picture.resize((width, height), Image.Resampling.LANCZOS)
        else:
            picture = ImageOps.pad(picture, (width, height), color="white")
        yield data_uri(encode(picture, "JPEG", quality=90), "image/jpeg")


# --- the widgets -------------------------------------------------------------------------


class Card:
    """A picture that is a button, with words and other buttons below it."""

    def __init__(self, act: Callable[[], None], below: Sequence[widgets.Button] = ()) -> None:
        place = {"grid_area": "1 / 1", "margin": "0", "width": "auto", "height": "auto"}
        self.picture = widgets.Image(format="jpeg", layout={**place, "object_fit": "contain"})
        self.button = widgets.Button(layout=place, style={"button_color": "transparent"})
        self.button.on_click(lambda _: act())
        stacked = {"display": "grid", "width": "max-content"}
        self.frame = widgets.Box([self.picture, self.button], layout=stacked)
        self.words, self.below = widgets.HTML(), below
        children = [self.frame, self.words, row(*below)]
        self.box = widgets.VBox(children, layout={"width": f"{CARD_SIDE + 8}px"})
        self.show()

    def show(self, words: str = "", tip: str = "", *, chosen: bool = False) -> None:
        """Say what it is; one that is `chosen` has a frame. Without words, all is hidden."""
        self.words.value = f'<div style="line-height: 1.3; font-size: 11px">{escape(words)}</div>'
        self.button.tooltip = tip
        colour = "var(--jp-brand-color1, #1976d2)" if chosen else "transparent"
        self.frame.layout.border = f"2px solid {colour}"
        self.box.layout.display = None if words else "none"


@dataclass(eq=False)
class Kept:
    """A state that can be gone back to."""

    number: int
    why: str  # it was kept though nobody asked; empty: somebody did
    snapshot: Snapshot
    jpeg: bytes  # of its picture, in small

    def __str__(self) -> str:
        return f"{self.number}: step {self.snapshot.iterate.step} {self.why}".rstrip()


class States:
    """The states of a painting that are kept, in a row, and two pictures at one place.

    Two states can be marked, as A and B, to be compared. For A stands in the newest one that is not
    the present state, or the photograph; for B the painting. `box` is what to show, `stage` where
    two are compared, and `update` is to be called whenever the session's `on_update` is. What there
    is to say is handed to `say`.
    """

    def __init__(self, session: Session, say: Callable[[str], None]) -> None:
        self.session, self.say = session, say
        self.kept: list[Kept] = []  # the oldest first
        self.marked: dict[str, Kept | None] = {"A": None, "B": None}
        self._count = 0  # of all that were ever kept
        self._here: Kept | None = None  # the present state, if it is kept
        self._last: Painting | None = None  # at the last update
        self.stage = widgets.HTML()
        self.buttons = {
            text: button(text, tip, partial(act, *told), icon=icon)
            for text, icon, tip, act, *told in self._acts()
        }
        self.cards = [self._card(place) for place in range(KEPT)]
        cards = row(*(card.box for card in self.cards))
        self.box = widgets.VBox([row(*self.buttons.values()), cards])

    def _acts(self) -> tuple[tuple[Any, ...], ...]:
        """Text, icon and tip of each button, what it calls and with what."""
        return (
            ("Keep", "thumb-tack", "Keep this state", self.session.keep, self._keep),
            ("Flip A/B", "exchange", "In turn", self._compare, flip_html),
            ("Compare A/B", "columns", "With a handle", self._compare, compare_html),
            ("Photograph", "image", "Beside the painting", self._compare, compare_html, True),
            ("Continue from A", "play", "", self._go_on, "A"),
            ("Continue from B", "play", "", self._go_on, "B"),
            ("Hide", "times", "No comparison", setattr, self.stage, "value", ""),
        )

    def _card(self, place: int) -> Card:
        """That of the newest state (0) or of one before it."""
        marks = [
            button(letter, f"Mark as {letter}", partial(self._mark, letter, place))
            for letter in self.marked
        ]
        return Card(lambda: self._go_to(self.kept[-1 - place]), marks)

    # --- what is kept ---

    def update(self) -> None:
        """Follow the session; a painting that is begun anew leaves the last state of the old."""
        painting, last = self.session.painting, self._last
        self._last = painting
        if last is not None and last is not painting and (left := last.snapshot()):
            self._keep(left, "before the next start")
        if painting and self._find(painting) is not self._here:
            self._show()

    def keep_present(self, why: str, stay: Kept | None = None) -> None:
        """Keep what is about to be left, perhaps for a kept one, which is to `stay`."""
        self.session.keep(lambda snapshot: self._keep(snapshot, why, stay))

    def _find(self, state: Painting | Snapshot) -> Kept | None:
        """The same state among those kept."""
        same = (state.iterate, state.settings)
        shots = ((kept, kept.snapshot) for kept in self.kept)
        return next((kept for kept, then in shots if (then.iterate, then.settings) == same), None)

    def _keep(self, snapshot: Snapshot, why: str = "", stay: Kept | None = None) -> None:
        """Keep a state unless it is kept; the oldest go for it, first those nobody asked for."""
        if kept := self._find(snapshot):
            if not why:
                self.say(f"This state is kept already, as {kept.number}.")
            return
        self._count += 1
        jpeg = small_jpeg(snapshot.shown.image, CARD_SIDE)
        everything = [*self.kept, Kept(self._count, why, snapshot, jpeg)]
        if len(everything) > KEPT:
            stays = (everything[-1], stay, *self.marked.values())
            going = [kept for kept in everything if kept not in stays]
            everything.remove(min(going, key=lambda kept: (not kept.why, kept.number)))
        self.kept = everything
        self._give_up_memory()
        self._show()

    def _give_up_memory(self) -> None:
        """Have the oldest forget what the optimiser has learnt, if all take too much memory."""
        for old in self.kept[:-1]:
            tensors = {k: v for kept in self.kept for k, v in kept.snapshot.tensors().items()}
            if sum(tensor.nbytes for tensor in tensors.values()) <= KEPT_BYTES:
                break
            moment = replace(old.snapshot.moment, optimizer={})
            old.snapshot = replace(old.snapshot, moment=moment)

    def _show(self) -> None:
        """Bring the row up to date."""
        painting = self.session.painting
        self._here = self._find(painting) if painting else None
        settings = [kept.snapshot.settings for kept in self.kept]
        names = differing(settings)
        rows = reversed([*zip(self.kept, settings, [None, *settings], strict=False)])
        for card, state in zip_longest(self.cards, rows):
            if state is None:
                card.show()
                continue
            kept, now, before = state
            card.picture.value = kept.jpeg
            words = describe(now, names, before)
            card.show(str(kept), f"{kept}, {words}", chosen=kept is self._here)
            for mark, marked in zip(card.below, self.marked.values(), strict=True):
                mark.button_style = "primary" if marked is kept else ""

    # --- what a person does ---

    def _mark(self, letter: str, place: int) -> None:
        kept = self.kept[-1 - place]
        self.marked[letter] = None if self.marked[letter] is kept else kept
        self._show()

    def _go_to(self, kept: Kept) -> None:
        self.keep_present(f"before {kept.number}", kept)
        self.session.go_to(kept.snapshot)

    def _go_on(self, letter: str) -> None:
        if kept := self._pair()[letter]:
            self._go_to(kept)
            self.session.start()
        else:
            self.say(f"Mark a kept state as {letter} first.")

    def _pair(self) -> dict[str, Kept | None]:
        """What is compared; None: the photograph with the painting."""
        others = [kept for kept in self.kept if kept is not self._here]
        return {**self.marked, "A": self.marked["A"] or (others[-1] if others else None)}

    def _compare(self, look: Look, photograph: bool = False) -> None:
        """Show A and B at one place, or the photograph and the painting."""
        still, painting = self.session.still, self.session.painting
        painted = painting.shown if painting else None
        pictures = {
            "A = photograph": still.content if still else None,
            "B = painting": painted.image if painted else None,
        }
        if not photograph:
            pairs = zip(self._pair().items(), pictures.items(), strict=True)
            pictures = dict(
                (f"{letter} = {kept}", kept.snapshot.shown.image) if kept else other
                for (letter, kept), other in pairs
            )
        there = [each for each in pictures.values() if each is not None]
        if len(there) < 2:
            self.say(NO_PICTURE)
        else:
            first, second = _fitted(there)
            self.stage.value = look(first, second, [*pictures])


class Sketches:
    """Nine small pictures of other settings, of which one can be taken.

    `box` is what to show; `on_settings` is called after settings were taken.
    """

    def __init__(self, states: States, on_settings: Callable[[], None]) -> None:
        self.states, self.session, self._on_settings = states, states.session, on_settings
        self.wanted: list[Settings] = []
        self._varied: list[str] = []  # the knobs in which they differ
        self._painting: Iterator[tuple[int, Iterate]] | None = None  # while they are painted
        tip = "Small ones, of other settings"
        self.show = button("Show me nine", tip, self._turn, icon="th")
        tip = "Those of the next seed"
        self.others = button("Nine others", tip, self._turn_seed, icon="random")
        self.seed = widgets.BoundedIntText(
            max=2**31 - 1,
            tooltip="Seed: the same one gives the same nine",
            layout={"width": "80px"},
        )
        self.knobs = {
            name: checkbox(
                "Whether it is another in each of the nine", words(name), ticked=name in USUAL
            )
            for name in FACTORS
        }
        self.cards = [Card(partial(self._take, number)) for number in range(SKETCHES)]
        columns = {"grid_template_columns": "repeat(3, max-content)"}
        sheet = widgets.GridBox([card.box for card in self.cards], layout=columns)
        knobs = row(self.show, self.others, self.seed, *self.knobs.values())
        self.box = widgets.VBox([knobs, sheet])

    def _turn(self) -> None:
        """Begin, or end what was begun."""
        if self._painting is None:
            self._begin()
        else:
            self._end()

    def _turn_seed(self) -> None:
        self.seed.value += 1
        self._begin()

    def _begin(self) -> None:
        session = self.session
        if session.still is None:
            self.states.say(CHOOSE)
            return
        self._varied = [name for name, box in self.knobs.items() if box.value]
        try:
            self.wanted = variations(session.settings, self._varied, seed=self.seed.value)
        except InputError as error:
            self.states.say(str(error))
            return
        for card in self.cards:
            card.picture.value = small_jpeg(session.still.content, CARD_SIDE)
        self._show()
        self._painting = painting = sketches(session.still, self.wanted)
        self.show.description = "Enough"
        session.pause("Paused for the nine sketches; Go on ends them.")
        session.between_steps(lambda: self._step(painting))

    def _end(self) -> None:
        self._painting, self.show.description = None, "Show me nine"

    def _step(self, painting: Iterator[tuple[int, Iterate]]) -> None:
        """Take one step of the sketches, in the session's thread, and ask for the next."""
        if painting is not self._painting:
            return  # others were begun, or it was enough
        try:
            number, iterate = next(painting, (0, None))
        except WorkbenchError as error:
            self.states.say(str(error))
            iterate = None
        if iterate is None or self.session.state == "running":
            self._end()
            return
        self.cards[number].picture.value = small_jpeg(iterate.image, CARD_SIDE)
        self.session.between_steps(lambda: self._step(painting))

    def _take(self, number: int) -> None:
        """Go on with the settings of one of the nine."""
        self._end()
        changes = {name: getattr(self.wanted[number], name) for name in self._varied}
        why = f"before {number + 1} of nine"
        self.states.keep_present(why)
        self.session.change(**changes)
        self._on_settings()
        self.session.start()
        self._show(number)

    def _show(self, chosen: int | None = None) -> None:
        """Say what the nine are."""
        names = differing(self.wanted)
        for number, (card, settings) in enumerate(zip(self.cards, self.wanted, strict=True)):
            words = describe(settings, names)
            card.show(words, f"Take these settings: {words}", chosen=number == chosen)
