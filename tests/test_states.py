"""What is kept of a painting, compared, and tried in small; a person is a click on a widget."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from workbench import states as states_module
from workbench.descent import optimize
from workbench.errors import InputError
from workbench.painting import Painting
from workbench.session import CHOOSE, NO_PICTURE, Session
from workbench.settings import Settings
from workbench.states import (
    FACTORS,
    KEPT,
    SKETCHES,
    STAGE_SIDE,
    Sketches,
    States,
    describe,
    differing,
    flip_html,
    sketches,
    variations,
)
from workbench.stills import Still

PATIENCE = 30  # seconds, within which anything here must be done
FOR_EVER = 100_000  # steps


class Desk:
    """A session with what a person sees of its states."""

    def __init__(self, photo: Tensor | None, painting: Tensor, settings: Settings) -> None:
        self.said: list[str] = []
        self.shown: list[Settings] = []
        self.at: dict[int, Callable[[], object]] = {}
        still = None if photo is None else Still(photo, [painting], settings)
        self.session = Session(still, settings, on_update=self.update)
        self.states = States(self.session, self.said.append)
        self.sketches = Sketches(self.states, lambda: self.shown.append(self.session.settings))

    def update(self) -> None:
        self.states.update()
        painting = self.session.painting
        if painting and painting.iterate and self.session.state == "running":
            self.at.pop(painting.iterate.step, lambda: None)()

    def settle(self) -> None:
        assert self.session.wait(PATIENCE)

    def start(self) -> None:
        self.session.start()
        self.settle()

    def paint_to(self, step: int) -> None:
        """Paint on and pause at a step."""
        self.at[step] = self.session.pause
        self.start()
        assert self.iterate.step == step

    def press(self, button: str) -> None:
        self.states.buttons[button].click()
        self.settle()

    def click(self, number: int) -> None:
        """On the picture of a kept state."""
        self.card(number).button.click()
        self.settle()

    def mark(self, number: int, letter: str) -> None:
        self.card(number).below["AB".index(letter)].click()

    def card(self, number: int) -> Any:
        (card,) = [
            card for card in self.cards() if number == int(card.button.tooltip.split(":")[0])
        ]
        return card

    def cards(self) -> list[Any]:
        """Those that are to be seen, from left to right."""
        return [card for card in self.states.cards if card.box.layout.display is None]

    def sheet(self) -> list[Any]:
        return [card for card in self.sketches.cards if card.box.layout.display is None]

    @property
    def painting(self) -> Painting:
        assert self.session.painting is not None
        return self.session.painting

    @property
    def iterate(self) -> Any:
        assert self.painting.iterate is not None
        return self.painting.iterate

    def numbers(self) -> list[int]:
        return [kept.number for kept in self.states.kept]

    def captions(self) -> list[str]:
        """Of the pictures that are compared."""
        html = self.states.stage.value
        return re.findall(r"<figcaption>([^<]*)", html) or re.findall(r'alt="([^"]*)"', html)[::-1]


@pytest.fixture
def sit(photo: Tensor, painting: Tensor, tiny: Settings) -> Iterator[Callable[..., Desk]]:
    """Makes desks, whose sessions are stopped in the end whatever happens."""
    made: list[Desk] = []

    def sit(photo: Tensor | None = photo, **changes: Any) -> Desk:
        made.append(Desk(photo, painting, tiny.changed(**changes)))
        return made[-1]

    yield sit
    for desk in made:
        desk.at.clear()
        desk.sketches._end()
        desk.session.stop()
        desk.session.wait(PATIENCE)


@pytest.fixture
def desk(sit: Callable[..., Desk]) -> Desk:
    return sit()


# --- variations --------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_nine() -> None:
    nine = variations(Settings(), ["style_weight", "content_weight"], seed=3)
    assert len(nine) == SKETCHES
    assert nine == variations(Settings(), ["style_weight", "content_weight"], seed=3)
    assert nine != variations(Settings(), ["style_weight", "content_weight"], seed=4)
    assert len({each.style_weight for each in nine}) == SKETCHES


def test_only_the_chosen_knobs_vary() -> None:
    settings = Settings(style_weight=70.0, seed=5, pooling="average")
    for knob in FACTORS:
        assert differing([settings, *variations(settings, [knob])]) == [knob]


def test_factors_are_spread_evenly_on_both_sides() -> None:
    settings = Settings(style_weight=100.0)
    weights = sorted(each.style_weight for each in variations(settings, ["style_weight"], 90))
    ratios = np.log(np.array(weights) / 100) / np.log(FACTORS["style_weight"])
    expected = (2 * np.arange(90) + 1) / 90 - 1
    assert np.abs(ratios - expected).max() < 0.06  # a stratum, and what is rounded


def test_variations_stay_within_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    (knob,) = [each for each in dataclasses.fields(Settings) if each.name == "style_weight"]
    limits = {**knob.metadata, "least": 90.0, "most": 120.0}
    monkeypatch.setitem(states_module._KNOBS, "style_weight", limits)
    weights = [each.style_weight for each in variations(Settings(), ["style_weight"])]
    assert (min(weights), max(weights)) == (90.0, 120.0)


def test_what_is_switched_off_stays_off() -> None:
    settings = Settings(content_weight=0, style_layer_weights=(0, 1, 1, 0, 2))
    for each in variations(settings, ["content_weight", "style_layer_weights"]):
        assert each.content_weight == 0
        assert [weight == 0 for weight in each.style_layer_weights] == [
            True,
            False,
            False,
            True,
            False,
        ]


@pytest.mark.parametrize("knobs", [[], ["size"], ["style_weight", "nothing"]])
def test_a_knob_that_cannot_be_varied_is_refused(knobs: list[str]) -> None:
    with pytest.raises(InputError, match=r"knobs = \[.*\]: choose one or more of style_weight, "):
        variations(Settings(), knobs)


# --- sketches ----------------------------------------------------------------------------


def test_sketches_take_turns_and_are_as_painted_alone(
    photo: Tensor, painting: Tensor, tiny: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(states_module, "SKETCH_STEPS", 4)
    monkeypatch.setattr(states_module, "SKETCH_TURN", 3)
    monkeypatch.setattr(states_module, "SKETCH_SIDE", 48)
    wanted = variations(tiny, ["style_weight"], 2)
    painted = list(sketches(Still(photo, [painting], tiny), wanted))
    assert [number for number, _ in painted] == [0] * 3 + [1] * 3 + [0] * 2 + [1] * 2
    for number, settings in enumerate(wanted):
        small = settings.changed(size=48, steps=4)
        *_, alone = optimize(photo, [painting], small, start=photo)
        last = [iterate for who, iterate in painted if who == number][-1]
        assert last.step == 4
        assert torch.equal(last.image, alone.image)


def test_one_that_explodes_does_not_end_the_others(
    photo: Tensor, painting: Tensor, tiny: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(states_module, "SKETCH_STEPS", 3)
    wanted = [tiny.changed(style_weight=1e38), tiny]
    painted = list(sketches(Still(photo, [painting], tiny), wanted))
    assert [iterate.step for number, iterate in painted if number == 1] == [0, 1, 2, 3]


def test_targets_are_shared(
    photo: Tensor, painting: Tensor, tiny: Settings, looks: list[Any]
) -> None:
    wanted = variations(tiny, ["style_weight"], 4)
    painted = sketches(Still(photo, [painting], tiny), wanted)
    for number, _ in painted:
        if number == 3:
            break
    assert len(looks) == 2  # of the photograph and of the style


# --- words -------------------------------------------------------------------------------


def test_a_state_is_described_by_what_differs() -> None:
    a = Settings(style_weight=100)
    b = a.changed(style_weight=300, style_layer_weights=(1, 0.5, 1, 1, 1))
    names = differing([a, b])
    assert describe(a, names) == "style weight 100, style layer weights none"
    assert describe(b, names, a) == (
        "style weight 300 (was 100), style layer weights 1, 0.5, 1, 1, 1 (was none)"
    )
    assert describe(a, differing([a, a])) == ""


def test_captions_are_no_html() -> None:
    html = flip_html("data:1", "data:2", ["<b>", "&"])
    assert "<b>" not in html
    assert re.findall("<figcaption>([^<]*)", html) == ["&lt;b&gt;", "&amp;"]


# --- states ------------------------------------------------------------------------------


def test_there_is_nothing_to_keep_before_the_first_picture(desk: Desk) -> None:
    desk.press("Keep")
    assert desk.session.message == NO_PICTURE
    for button in ("Flip A/B", "Compare A/B", "Photograph"):
        desk.said.clear()
        desk.press(button)
        assert desk.said == [NO_PICTURE]
    assert desk.cards() == []


def test_a_kept_state_shows_its_picture_and_what_differs(desk: Desk) -> None:
    desk.start()
    desk.press("Keep")
    desk.session.change(style_weight=300)
    desk.settle()
    desk.press("Keep")
    newest, first = desk.cards()
    assert first.button.tooltip == "1: step 12, style weight 100"
    assert newest.button.tooltip == "2: step 24, style weight 300 (was 100)"
    assert first.picture.value != newest.picture.value
    desk.press("Keep")
    assert desk.said[-1] == "This state is kept already, as 2."
    assert desk.numbers() == [1, 2]


def test_from_a_kept_state_it_goes_on_as_it_would_have(desk: Desk) -> None:
    desk.paint_to(5)
    desk.press("Keep")
    kept = desk.iterate.image
    desk.start()
    end = desk.iterate.image
    desk.click(1)
    assert (desk.session.state, desk.iterate.step) == ("paused", 5)
    assert torch.equal(desk.iterate.image, kept)
    desk.start()
    assert torch.equal(desk.iterate.image, end)


def test_going_to_another_state_loses_nothing(desk: Desk) -> None:
    desk.paint_to(5)
    desk.press("Keep")
    desk.session.change(style_weight=300)
    desk.paint_to(9)
    left = desk.iterate.image
    desk.click(1)
    assert desk.session.settings.style_weight == 100
    assert [str(kept) for kept in desk.states.kept] == ["1: step 5", "2: step 9 before 1"]
    desk.click(2)
    assert torch.equal(desk.iterate.image, left)
    assert desk.session.settings.style_weight == 300
    assert desk.numbers() == [1, 2]  # both were kept already


def test_a_new_start_leaves_the_last_state(desk: Desk) -> None:
    desk.start()
    last = desk.iterate.image
    desk.start()
    (kept,) = desk.states.kept
    assert str(kept) == "1: step 12 before the next start"
    assert torch.equal(kept.snapshot.iterate.image, last)
    desk.click(1)
    assert desk.session.state == "paused"
    assert torch.equal(desk.iterate.image, last)


def test_the_frame_says_where_one_is(desk: Desk) -> None:
    desk.paint_to(3)
    desk.press("Keep")
    assert "transparent" not in desk.card(1).frame.layout.border_top
    desk.paint_to(4)
    assert "transparent" in desk.card(1).frame.layout.border_top
    desk.click(1)
    assert "transparent" not in desk.card(1).frame.layout.border_top
    assert "transparent" in desk.card(2).frame.layout.border_top


def test_the_oldest_go_but_not_those_marked_nor_the_one_gone_to(
    desk: Desk,
) -> None:
    desk.session.change(steps=FOR_EVER)
    for step in range(1, KEPT + 1):
        desk.paint_to(step)
        desk.press("Keep")
        if step == 1:
            desk.mark(1, "B")
    assert desk.numbers() == [*range(1, KEPT + 1)]
    desk.paint_to(KEPT + 1)
    desk.press("Keep")
    assert desk.numbers() == [1, *range(3, KEPT + 2)]
    desk.paint_to(KEPT + 2)
    desk.click(3)  # the oldest that may go, but for this
    assert desk.numbers() == [1, 3, *range(5, KEPT + 3)]
    assert desk.iterate.step == 3
    desk.paint_to(4)
    desk.press("Keep")  # in the place of the one that nobody asked for
    assert desk.numbers() == [1, 3, *range(5, KEPT + 2), KEPT + 3]
    assert len(desk.cards()) == KEPT


def test_memory_is_bounded_and_the_newest_keep_all(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(states_module, "KEPT_BYTES", 0)
    desk.session.change(steps=40)
    for step in (22, 24, 26):
        desk.paint_to(step)
        desk.press("Keep")
    memories = [bool(kept.snapshot.moment.optimizer) for kept in desk.states.kept]
    assert memories == [False, False, True]
    desk.click(1)
    desk.start()
    assert desk.session.state == "finished"


def test_a_and_b_are_compared_in_either_way(desk: Desk) -> None:
    desk.paint_to(3)
    desk.press("Photograph")
    assert desk.captions() == ["A = photograph", "B = painting"]
    desk.press("Hide")
    assert desk.states.stage.value == ""
    desk.press("Flip A/B")
    assert desk.captions() == ["A = photograph", "B = painting"]
    desk.press("Keep")
    desk.paint_to(5)
    desk.press("Compare A/B")
    assert desk.captions() == ["A = 1: step 3", "B = painting"]
    desk.press("Keep")
    desk.press("Flip A/B")
    assert desk.captions() == ["A = 1: step 3", "B = painting"]  # not the painting with itself
    desk.mark(2, "A")
    desk.mark(1, "B")
    desk.press("Flip A/B")
    assert desk.captions() == ["A = 2: step 5", "B = 1: step 3"]
    assert [button.button_style for button in desk.card(2).below] == ["primary", ""]
    desk.press("Continue from B")
    assert desk.session.state == "finished"
    assert desk.said == []
    assert desk.painting.recorder.steps == [*range(13)]
    desk.mark(1, "B")  # once more is not any more
    desk.press("Continue from B")
    assert desk.said == ["Mark a kept state as B first."]
    assert [button.button_style for button in desk.card(1).below] == ["", ""]


def test_pictures_of_other_sizes_are_fitted() -> None:
    def sizes(*shapes: tuple[int, int]) -> list[tuple[int, int]]:
        pictures = [torch.zeros(1, 3, *shape) for shape in shapes]
        return [decoded(uri).size for uri in states_module._fitted(pictures)]

    assert sizes((30, 40), (61, 80)) == [(STAGE_SIDE, STAGE_SIDE * 61 // 80)] * 2
    assert sizes((900, 1200), (30, 40)) == [(STAGE_SIDE, STAGE_SIDE * 3 // 4)] * 2
    # Of another shape: all of it is to be seen.
    upright, _ = states_module._fitted([torch.zeros(1, 3, 80, 40), torch.zeros(1, 3, 40, 80)])
    columns = np.asarray(decoded(upright).convert("L")).mean(0)
    assert decoded(upright).size == (STAGE_SIDE, STAGE_SIDE // 2)
    sampled = columns[[0, STAGE_SIDE // 3, STAGE_SIDE // 2, STAGE_SIDE * 2 // 3, -1]]
    assert sampled.round().tolist() == [255, 255, 0, 255, 255]


def decoded(uri: str) -> Image.Image:
    kind, data = uri.split(";base64,")
    assert kind == "data:image/jpeg"
    return Image.open(io.BytesIO(base64.b64decode(data)))


# --- nine sketches, as a person has them -------------------------------------------------


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sketches of few steps."""
    monkeypatch.setattr(states_module, "SKETCH_STEPS", 2)


@pytest.mark.usefixtures("short")
def test_nine_are_shown_and_the_painting_waits(desk: Desk) -> None:
    desk.session.change(steps=FOR_EVER)
    desk.at[3] = desk.sketches.show.click
    desk.start()
    assert desk.session.state == "paused"
    assert desk.iterate.step == 3
    pictures = {card.picture.value for card in desk.sheet()}
    assert len(pictures) == SKETCHES
    words = [re.sub("<[^>]*>", "", card.words.value) for card in desk.sheet()]
    assert all(
        re.fullmatch(r"content weight \S+, style weight \S+, style scale \S+", each)
        for each in words
    )
    desk.sketches.show.click()
    desk.settle()
    assert {card.picture.value for card in desk.sheet()} == pictures  # the same seed
    desk.sketches.others.click()
    desk.settle()
    assert pictures != {card.picture.value for card in desk.sheet()}
    assert desk.sketches.seed.value == 1


@pytest.mark.usefixtures("short")
def test_the_settings_of_one_are_taken_and_painted_with(desk: Desk) -> None:
    desk.paint_to(3)
    desk.sketches.show.click()
    desk.settle()
    desk.session.change(tv_weight=0.5)  # is none of those that were varied
    desk.sheet()[4].button.click()
    desk.settle()
    wanted = desk.sketches.wanted[4].changed(tv_weight=0.5)
    assert desk.session.settings == desk.painting.settings == desk.shown[-1] == wanted
    assert desk.session.state == "finished"
    assert desk.painting.recorder.steps[:5] == [0, 1, 2, 3, 4]  # it went on
    assert [str(kept) for kept in desk.states.kept] == ["1: step 3 before 5 of nine"]
    frames = ["transparent" not in card.frame.layout.border_top for card in desk.sheet()]
    assert frames == [number == 4 for number in range(SKETCHES)]


def test_sketches_before_the_first_start(desk: Desk) -> None:
    desk.sketches.show.click()
    photograph = desk.sheet()[-1].picture.value
    seen(desk, lambda: desk.sheet()[0].picture.value != photograph)
    desk.sheet()[2].button.click()
    desk.settle()
    assert desk.session.state == "finished"
    assert desk.painting.first_settings == desk.sketches.wanted[2]
    assert desk.states.kept == []  # there was nothing that could be lost


@pytest.mark.parametrize("end", ["enough", "go on"])
def test_sketches_end_between_two_steps(desk: Desk, end: str) -> None:
    desk.paint_to(3)
    desk.sketches.show.click()
    photograph = desk.sheet()[-1].picture.value
    seen(desk, lambda: desk.sheet()[0].picture.value != photograph)
    assert desk.sketches.show.description == "Enough"
    if end == "enough":
        desk.sketches.show.click()
    else:
        desk.session.start()
    desk.settle()
    assert desk.session.state == ("paused" if end == "enough" else "finished")
    assert desk.sketches.show.description == "Show me nine"
    assert desk.sheet()[-1].picture.value == photograph  # not all were painted


def seen(desk: Desk, what: Callable[[], object]) -> None:
    """Wait for something that the session's thread brings about."""
    end = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_what_cannot_be_sketched_is_said(sit: Callable[..., Desk]) -> None:
    desk = sit(None)
    desk.sketches.show.click()
    assert desk.said == [CHOOSE]
    desk = sit()
    for box in desk.sketches.knobs.values():
        box.value = False
    desk.sketches.show.click()
    assert desk.said == [f"knobs = []: choose one or more of {', '.join(FACTORS)}."]
    desk = sit(torch.zeros(1, 3, 20, 400))
    desk.sketches.show.click()
    desk.settle()
    assert "needs at least" in desk.said[-1]
    assert desk.session.state == "ready"
