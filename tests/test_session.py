from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from test_painting import paint, picture
from torch import Tensor

from workbench import painting as painting_module
from workbench.colour import transfer_luma
from workbench.descent import measure, stylize
from workbench.errors import InputError
from workbench.images import load_image, resize
from workbench.painting import SNAPSHOT_EVERY, Move, Painting, Snapshot
from workbench.runs import read_result
from workbench.session import Session, save_run, save_settings
from workbench.settings import Settings
from workbench.stills import Still

NAMES = {"content": "sample:astronaut", "style": "sample:swirls"}
PATIENCE = 30  # seconds, within which anything here must be done
FOR_EVER = 100_000  # steps
EXPLODES = 1e38  # as a weight
PAUSED_BY_OTHER = "Paused, because another panel was started."


class Watched(Session):
    """A session that notes what it shows, and does things as soon as a step is shown."""

    def __init__(
        self,
        content: Tensor,
        styles: Sequence[Tensor],
        settings: Settings,
        at: Mapping[int, Callable[[Watched], object]] | None = None,
    ) -> None:
        self.shown: list[tuple[str, int | None]] = []
        self.set_by_session: list[Settings] = []
        self.at = dict(at or {})
        super().__init__(
            Still(content, styles, settings),
            settings,
            on_update=self.note,
            on_settings=lambda: self.set_by_session.append(self.settings),
        )

    def note(self) -> None:
        step = self.painting.iterate.step if self.painting and self.painting.iterate else None
        self.shown.append((self.state, step))
        if self.state == "running" and step is not None:
            self.at.pop(step, lambda _: None)(self)

    def settle(self) -> None:
        assert self.wait(PATIENCE)

    @property
    def step(self) -> int:
        assert self.painting is not None
        assert self.painting.iterate is not None
        return self.painting.iterate.step

    @property
    def image(self) -> Tensor:
        assert self.painting is not None
        assert self.painting.iterate is not None
        return self.painting.iterate.image


def painting_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "painting"]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    for thread in painting_threads():
        thread.join(5)
    assert not painting_threads()


@pytest.fixture
def watched(photo: Tensor, painting: Tensor) -> Iterator[Callable[..., Watched]]:
    """Makes sessions, which are stopped in the end whatever happens."""
    made: list[Watched] = []

    def make(settings: Settings, at: Any = None, content: Tensor | None = None) -> Watched:
        made.append(Watched(photo if content is None else content, [painting], settings, at))
        return made[-1]

    yield make
    for session in made:
        session.at.clear()
        session.stop()
        session.wait(PATIENCE)


# --- Session -----------------------------------------------------------------------------


def test_a_session_paints_in_the_background_to_the_end(
    tiny: Settings, photo: Tensor, painting: Tensor, watched: Callable[..., Watched]
) -> None:
    session = watched(tiny)
    assert session.state == "ready"
    assert session.painting is None
    session.start()
    session.settle()
    assert session.state == "finished"
    assert session.message == ""
    assert session.shown[0] == ("running", None)
    assert session.shown[1:] == [*(("running", step) for step in range(13)), ("finished", 12)]
    assert torch.equal(session.image, stylize(photo, [painting], tiny))
    assert session.set_by_session == []


def test_a_session_without_pictures_waits_for_them(
    tiny: Settings, photo: Tensor, painting: Tensor
) -> None:
    session = Session(None, tiny)
    for still in (None, Still(photo, [painting], tiny)):
        if still:
            session.choose(still)
        session.start()
        session.replay()
        assert session.wait(PATIENCE)
    assert session.state == "finished"


def test_a_session_that_was_not_started_has_nothing_to_wait_for(
    tiny: Settings, watched: Callable[..., Watched]
) -> None:
    session = watched(tiny)
    assert session.wait(0)
    assert not painting_threads()


def test_a_paused_painting_stands_still_and_goes_on_as_if_unbroken(
    tiny: Settings, photo: Tensor, painting: Tensor, watched: Callable[..., Watched]
) -> None:
    settings = replace(tiny, steps=(32,))
    session = watched(settings, dict.fromkeys((0, 5, 20, 27), Session.pause))
    for step in (0, 5, 20, 27):
        session.start()
        session.settle()
        assert session.state == "paused"
        assert session.step == step
    session.start()
    session.settle()
    assert session.state == "finished"
    assert session.painting is not None
    assert session.painting.log == []
    assert torch.equal(session.image, stylize(photo, [painting], settings))


@pytest.mark.parametrize(
    ("ask", "state"), [(Session.pause, "paused"), (Session.stop, "stopped")], ids=["pause", "stop"]
)
def test_what_is_asked_for_during_a_step_is_done_right_after_it(
    tiny: Settings,
    watched: Callable[..., Watched],
    monkeypatch: pytest.MonkeyPatch,
    ask: Callable[[Session], None],
    state: str,
) -> None:
    in_step, go_on = threading.Event(), threading.Event()
    step = Painting.step

    def slow_step(self: Painting) -> object:
        if self.iterate and self.iterate.step == 4:
            in_step.set()
            assert go_on.wait(PATIENCE)
        return step(self)

    monkeypatch.setattr(Painting, "step", slow_step)
    session = watched(replace(tiny, steps=(FOR_EVER,)))
    session.start()
    assert in_step.wait(PATIENCE)
    ask(session)
    go_on.set()
    session.settle()
    assert session.state == state
    assert session.step == 5


def test_pausing_what_does_not_run_changes_nothing(
    tiny: Settings, watched: Callable[..., Watched]
) -> None:
    session = watched(tiny)
    session.pause()
    session.stop()
    session.settle()
    assert session.state == "ready"
    session.start()
    session.settle()
    session.pause()
    session.settle()
    assert session.state == "finished"


def test_after_a_stop_start_begins_anew(
    tiny: Settings, photo: Tensor, painting: Tensor, watched: Callable[..., Watched]
) -> None:
    session = watched(tiny, {5: Session.stop})
    session.start()
    session.settle()
    assert session.state == "stopped"
    assert session.step == 5
    first = session.painting
    session.change(style_weight=300.0)  # does not go on by itself
    session.settle()
    assert session.state == "stopped"
    assert session.step == 5
    session.start()
    session.settle()
    assert session.painting is not first
    assert session.state == "finished"
    heavy = replace(tiny, style_weight=300.0)
    assert session.painting is not None
    assert session.painting.first_settings == session.settings == heavy
    assert torch.equal(session.image, stylize(photo, [painting], heavy))


def test_start_after_the_end_begins_anew(
    tiny: Settings, photo: Tensor, painting: Tensor, watched: Callable[..., Watched]
) -> None:
    session = watched(tiny)
    session.start()
    session.settle()
    first = session.painting
    session.start()
    session.settle()
    assert session.painting is not first
    assert torch.equal(session.image, stylize(photo, [painting], tiny))


def test_a_change_while_it_runs_counts_from_the_very_next_step(
    tiny: Settings, photo: Tensor, painting: Tensor, watched: Callable[..., Watched]
) -> None:
    settings = replace(tiny, steps=(30,))
    session = watched(settings, {24: lambda s: s.change(style_weight=700.0)})
    session.start()
    session.settle()
    assert session.painting is not None
    assert session.painting.log == [Move(24, {"style_weight": 700.0})]
    assert session.step == 24 + 30
    moves = Painting(Still(photo, [painting], settings), moves=session.painting.log)
    after = next(iterate for iterate in moves if iterate.step == 25)
    referee = measure(after.image, photo, [painting], replace(settings, style_weight=700.0))
    assert after.losses.total == pytest.approx(referee.total, rel=1e-4)
    list(moves)
    assert session.painting.recorder.losses[25] == after.losses
    assert torch.equal(picture(moves), session.image)


def test_a_long_drag_drops_nothing_and_ends_on_the_last_value(
    tiny: Settings, watched: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[float] = []
    change = Painting.change

    def noted(self: Painting, **changes: Any) -> bool:
        taken.append(changes["style_weight"])
        return change(self, **changes)

    monkeypatch.setattr(Painting, "change", noted)
    going = threading.Event()
    session = watched(
        replace(tiny, steps=(FOR_EVER,)), {2: lambda _: going.set(), 60: Session.pause}
    )
    weights = [100.0 + number for number in range(1, 501)]

    def drag() -> None:
        assert going.wait(PATIENCE)
        for weight in weights:
            session.change(style_weight=weight)
            time.sleep(0.0002)

    hand = threading.Thread(target=drag)
    hand.start()
    session.start()
    hand.join(PATIENCE)
    session.settle()
    assert taken == weights
    assert session.painting is not None
    assert session.settings.style_weight == weights[-1]
    assert session.painting.settings == session.settings
    steps = [move.step for move in session.painting.log]
    logged = [move.changes["style_weight"] for move in session.painting.log]
    assert steps == sorted(set(steps))
    assert logged == sorted(set(logged))
    assert logged[-1] == weights[-1]


def test_a_drag_while_paused_is_one_move(tiny: Settings, watched: Callable[..., Watched]) -> None:
    session = watched(tiny, {5: Session.pause})
    session.start()
    session.settle()
    for weight in range(200, 500):
        session.change(style_weight=weight)
    session.settle()
    assert session.state == "paused"
    assert session.painting is not None
    assert session.painting.log == [Move(5, {"style_weight": 499.0})]


def test_settings_are_what_was_asked_for_last_before_it_is_done(
    tiny: Settings, watched: Callable[..., Watched]
) -> None:
    session, go_on, seen = watched(tiny), threading.Event(), []
    session.between_steps(lambda: go_on.wait(PATIENCE) and None)
    for weight in (200.0, 300.0, 400.0):
        session.change(style_weight=weight)
        session.between_steps(lambda: seen.append(session.settings.style_weight))
    assert session.settings.style_weight == 400.0
    go_on.set()
    session.settle()
    assert seen == [400.0] * 3


def test_a_slider_moved_while_a_replayed_move_is_set_keeps_both(
    tiny: Settings, watched: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = watched(tiny)
    replayed = threading.Thread(target=session._take, args=(replace(tiny, tv_weight=0.5),))
    changed = Settings.changed

    def slow(self: Settings, **changes: Any) -> Settings:
        if not replayed.ident:
            replayed.start()
            replayed.join(0.2)  # gets as far as it is let
        return changed(self, **changes)

    go_on = threading.Event()
    session.between_steps(lambda: go_on.wait(PATIENCE) and None)
    monkeypatch.setattr(Settings, "changed", slow)
    session.change(style_weight=300.0)
    replayed.join(PATIENCE)
    go_on.set()
    session.settle()
    assert session.settings == replace(tiny, style_weight=300.0, tv_weight=0.5)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"style_weight": -1.0}, "style_weight"),
        ({"style_weight": float("nan")}, "style_weight"),
        ({"content_layers": ()}, "content_layers is empty"),
        ({"content_weight": 0, "style_weight": 0}, "nothing to paint"),
        ({"tv_weight": 1.0, "size": 3}, "size = 3"),
        ({"stlye_weight": 1.0}, "no setting 'stlye_weight'"),
        ({"steps": True}, "steps"),
    ],
    ids=str,
)
def test_a_value_that_makes_no_sense_is_refused_and_nothing_changes(
    tiny: Settings,
    photo: Tensor,
    painting: Tensor,
    watched: Callable[..., Watched],
    changes: dict[str, object],
    sentence: str,
) -> None:
    work = paint(Painting(Still(photo, [painting], tiny)), 3)
    with pytest.raises(InputError, match=sentence):
        work.change(**changes)
    assert work.settings == tiny
    assert work.log == []
    session = watched(tiny, {4: Session.pause})
    session.start()
    session.settle()
    with pytest.raises(InputError, match=sentence):
        session.change(**changes)
    session.start()
    session.settle()
    assert session.settings == tiny
    assert session.state == "finished"
    assert torch.equal(session.image, stylize(photo, [painting], tiny))


def test_init_and_seed_wait_for_the_next_start(
    tiny: Settings, photo: Tensor, painting: Tensor, watched: Callable[..., Watched]
) -> None:
    session = watched(tiny, {5: lambda s: s.change(init="random", seed=7)})
    session.start()
    session.settle()
    assert session.painting is not None
    assert session.painting.log == []
    assert torch.equal(session.image, stylize(photo, [painting], tiny))
    assert session.settings == replace(tiny, init="random", seed=7)
    session.start()
    session.settle()
    assert torch.equal(session.image, stylize(photo, [painting], session.settings))


def test_a_change_after_the_end_goes_on_by_itself(
    tiny: Settings, watched: Callable[..., Watched]
) -> None:
    session = watched(tiny)
    session.start()
    session.settle()
    session.change(style_weight=300.0)
    session.settle()
    assert session.state == "finished"
    assert session.step == 24
    session.change(style_weight=300.0)
    session.settle()
    assert session.step == 24


def test_what_cannot_go_on_says_so_and_a_change_mends_it(
    tiny: Settings, watched: Callable[..., Watched]
) -> None:
    session = watched(tiny, {5: lambda s: s.change(style_weight=EXPLODES)})
    session.start()
    session.settle()
    assert session.state == "failed"
    assert session.message.count(".") == 1
    assert session.message.endswith(".")
    assert "\n" not in session.message
    assert session.step == 5
    session.start()  # the same again
    session.settle()
    assert session.state == "failed"
    assert session.step == 5
    session.change(style_weight=200.0)
    session.settle()
    assert session.state == "finished"
    assert session.message == ""
    assert session.step == 5 + 12


def test_what_cannot_even_begin_says_so_and_a_change_mends_it(
    tiny: Settings, watched: Callable[..., Watched]
) -> None:
    session = watched(replace(tiny, style_weight=EXPLODES))
    session.start()
    session.settle()
    assert session.state == "failed"
    assert "not a finite number" in session.message
    session.change(style_weight=200.0)
    session.settle()
    assert session.state == "finished"
    assert session.step == 12


def test_too_few_pixels_for_the_layers(
    tiny: Settings, photo: Tensor, watched: Callable[..., Watched]
) -> None:
    session = watched(tiny, content=resize(photo, (24, 80)), at={2: lambda s: s.change(size=32)})
    session.start()
    session.settle()
    assert session.state == "failed"
    assert session.message.startswith("the content picture becomes 32x10 pixels at size 32;")
    assert session.step == 2
    session.change(size=64)
    session.settle()
    assert session.state == "finished"


def test_an_error_of_any_kind_is_a_failure_with_one_line(
    tiny: Settings, watched: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = watched(tiny, {5: Session.pause})
    session.start()
    session.settle()

    def out_of_memory(*_: object, **__: object) -> None:
        raise RuntimeError("out of memory\nat line 3")

    with monkeypatch.context() as patch:
        patch.setattr(painting_module, "paint", out_of_memory)
        session.change(size=128)
        session.start()
        session.settle()
    assert session.state == "failed"
    assert session.message == "RuntimeError: out of memory"
    session.change(size=64)
    session.settle()
    assert session.state == "finished"


def test_a_step_back_or_forward_pauses_with_the_settings_of_then(
    tiny: Settings, watched: Callable[..., Watched]
) -> None:
    settings = replace(tiny, steps=(40,))
    moves = {
        13: lambda s: s.change(style_weight=300.0),
        24: lambda s: s.change(tv_weight=0.5),
        26: Session.step_back,
    }
    session = watched(settings, moves)
    session.start()
    session.settle()
    heavy = replace(settings, style_weight=300.0)
    assert (session.state, session.step, session.settings) == ("paused", 24, heavy)
    assert session.set_by_session == [heavy]
    for step in (20, 13, 10, 0):
        session.step_back()
        session.settle()
        assert (session.state, session.step) == ("paused", step)
        assert session.settings == (heavy if step > 13 else settings)
    session.step_back()
    session.settle()
    assert session.message == "There is no earlier picture to go back to."
    for step in (10, 13, 20, 24, 26):
        session.step_forward()
        session.settle()
        assert (session.state, session.step, session.message) == ("paused", step, "")
    assert session.settings == replace(heavy, tv_weight=0.5)
    session.step_forward()
    session.settle()
    assert session.message == "There is no later picture to go forward to."
    session.start()
    session.settle()
    assert (session.state, session.step, session.message) == ("finished", 24 + 40, "")


def test_from_a_kept_picture_it_goes_on_as_it_did(
    tiny: Settings, photo: Tensor, painting: Tensor, watched: Callable[..., Watched]
) -> None:
    kept: list[Snapshot] = []
    settings = replace(tiny, steps=(30,))
    session = watched(settings, {23: lambda s: s.keep(kept.append)})
    session.keep(kept.append)
    session.settle()
    assert session.message == "there is no picture yet; start the painting first."
    session.start()
    session.settle()
    session.change(style_weight=700.0)
    session.settle()
    session.start()  # begins anew
    session.settle()
    session.go_to(kept[0])
    session.settle()
    assert (session.state, session.step, session.settings) == ("paused", 23, settings)
    session.start()
    session.settle()
    assert torch.equal(session.image, stylize(photo, [painting], settings))
    session.choose(Still(photo.flip(3), [painting], tiny))
    session.go_to(kept[0])
    session.settle()
    assert session.state == "ready"
    session.start()
    session.settle()
    session.go_to(kept[0])
    session.settle()
    assert session.state == "finished"
    assert "other pictures" in session.message


def test_a_step_back_keeps_what_waits_for_the_next_start(
    tiny: Settings, watched: Callable[..., Watched]
) -> None:
    session = watched(tiny, {11: lambda s: s.change(seed=5, init="random"), 12: Session.step_back})
    session.start()
    session.settle()
    assert session.step == 10
    assert session.settings == replace(tiny, seed=5, init="random")


def test_a_session_that_has_not_begun_has_nothing_to_go_back_to_or_replay(
    tiny: Settings, watched: Callable[..., Watched]
) -> None:
    session = watched(tiny)
    session.step_back()
    session.settle()
    assert (session.state, session.message) == (
        "ready",
        "There is no earlier picture to go back to.",
    )
    session.replay()
    session.settle()
    assert (session.state, session.message) == ("ready", "There is nothing to replay yet.")


def moved_about(session: Watched) -> None:
    """Paint with three moves and a step back, and pause at step 35."""
    session.at = {
        4: lambda s: s.change(style_weight=300.0),
        13: lambda s: s.change(tv_weight=0.1),
        18: Session.step_back,
    }
    session.start()
    session.settle()
    session.at = {25: lambda s: s.change(content_weight=1.0), 35: Session.pause}
    session.start()
    session.settle()
    assert session.step == 35


def test_a_replay_gives_the_same_picture_and_settings(
    tiny: Settings, photo: Tensor, painting: Tensor, watched: Callable[..., Watched]
) -> None:
    settings = replace(tiny, steps=(40,))
    session = watched(settings)
    moved_about(session)
    first, image, wanted = session.painting, session.image, session.settings
    assert first is not None
    assert wanted == replace(settings, style_weight=300.0, content_weight=1.0)
    session.set_by_session.clear()
    session.replay()
    session.settle()
    assert session.painting is not first
    assert session.state == "paused"
    assert session.step == 35
    assert torch.equal(session.image, image)
    assert session.settings == wanted
    weights = [(s.style_weight, s.content_weight) for s in session.set_by_session]
    assert weights == [(100.0, 5.0), (300.0, 5.0), (300.0, 1.0)]
    assert session.painting is not None
    assert session.painting.recorder.losses == first.recorder.losses
    again = paint(Painting(Still(photo, [painting], settings), moves=first.log), 35)
    assert torch.equal(picture(again), image)
    session.replay()  # and again
    session.settle()
    assert torch.equal(session.image, image)
    session.start()
    session.settle()
    assert session.state == "finished"


def test_a_replay_of_what_is_paused_on_a_change_keeps_the_change(
    tiny: Settings, watched: Callable[..., Watched]
) -> None:
    session = watched(tiny, {8: Session.pause})
    session.start()
    session.settle()
    session.change(style_weight=300.0)
    session.replay()
    session.settle()
    assert session.step == 8
    assert session.settings.style_weight == 300.0
    session.start()
    session.settle()
    assert session.painting is not None
    assert session.painting.log == [Move(8, {"style_weight": 300.0})]
    assert session.painting.settings == session.settings


def test_a_replay_in_a_replay_is_the_whole_of_it(
    tiny: Settings, watched: Callable[..., Watched]
) -> None:
    session = watched(replace(tiny, steps=(40,)))
    moved_about(session)
    image, settings = session.image, session.settings
    session.at = {9: Session.replay}
    session.replay()
    session.settle()
    assert session.at == {}
    assert torch.equal(session.image, image)
    assert session.settings == settings


def test_a_move_in_a_replay_takes_over(tiny: Settings, watched: Callable[..., Watched]) -> None:
    session = watched(replace(tiny, steps=(40,)))
    moved_about(session)
    session.at = {8: lambda s: s.change(style_weight=50.0), 44: Session.pause}
    session.replay()
    session.settle()
    assert session.step == 44
    assert session.painting is not None
    assert session.painting.log == [
        Move(4, {"style_weight": 300.0}),
        Move(8, {"style_weight": 50.0}),
    ]
    assert session.settings.style_weight == 50.0


def test_pausing_a_replay_does_not_end_it(tiny: Settings, watched: Callable[..., Watched]) -> None:
    session = watched(replace(tiny, steps=(40,)))
    moved_about(session)
    image = session.image
    session.at = {8: Session.pause}
    session.replay()
    session.settle()
    assert (session.state, session.step) == ("paused", 8)
    session.start()
    session.settle()
    assert (session.state, session.step) == ("paused", 35)
    assert torch.equal(session.image, image)


def test_to_start_one_session_is_to_pause_the_other(
    tiny: Settings, watched: Callable[..., Watched]
) -> None:
    one = watched(replace(tiny, steps=(FOR_EVER,)))
    other = watched(replace(tiny, steps=(FOR_EVER,)))
    one_runs, other_runs, both_ran = threading.Event(), threading.Event(), threading.Event()
    one.at = {3: lambda _: one_runs.set()}
    one.start()
    assert one_runs.wait(PATIENCE)
    other.at = {4: lambda _: other_runs.set()}
    other.start()
    one.settle()
    assert one.state == "paused"
    assert one.message == PAUSED_BY_OTHER
    assert other_runs.wait(PATIENCE)
    assert other.state == "running"
    one.at = {one.step + 3: lambda _: both_ran.set()}
    one.start()
    other.settle()
    assert (other.state, other.message) == ("paused", PAUSED_BY_OTHER)
    assert both_ran.wait(PATIENCE)
    assert (one.state, one.message) == ("running", "")


def test_a_session_that_is_done_pauses_nobody(
    tiny: Settings, watched: Callable[..., Watched]
) -> None:
    one, other = watched(tiny), watched(tiny)
    one.start()
    one.settle()
    other.start()
    other.settle()
    one.settle()
    assert (one.state, one.message) == ("finished", "")
    assert (other.state, other.message) == ("finished", "")


def test_other_pictures_count_from_the_next_start(
    tiny: Settings, photo: Tensor, painting: Tensor, watched: Callable[..., Watched]
) -> None:
    session = watched(tiny, {5: lambda s: s.choose(Still(photo.flip(3), [painting.flip(1)], tiny))})
    session.start()
    session.settle()
    assert session.state == "ready"
    assert session.painting is None
    session.start()
    session.settle()
    assert torch.equal(session.image, stylize(photo.flip(3), [painting.flip(1)], tiny))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_whoever_watches_may_fail(tiny: Settings, photo: Tensor, painting: Tensor) -> None:
    def fail() -> None:
        raise OSError("nobody there")

    session = Session(Still(photo, [painting], tiny), tiny, on_update=fail)
    session.start()
    assert session.wait(PATIENCE)
    assert session.state == "failed"
    assert "nobody there" in session.message
    session.stop()
    assert session.wait(PATIENCE)


def test_a_request_that_fails_is_told_and_the_next_is_done(
    tiny: Settings, watched: Callable[..., Watched]
) -> None:
    session, done = watched(tiny), threading.Event()
    session.between_steps(lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    session.between_steps(done.set)
    session.settle()
    assert done.is_set()
    assert session.state == "failed"
    assert session.message == "ZeroDivisionError: division by zero"


def test_the_pace_is_that_of_the_last_steps(
    tiny: Settings, watched: Callable[..., Watched]
) -> None:
    session = watched(tiny)
    assert session.pace is None
    session._paces.extend([900.0, 1000.0, 5000.0])
    assert session.pace.seconds(3000) == 3


# --- what is left behind -----------------------------------------------------------------


def test_settings_of_a_plain_painting_are_saved_for_papermill(
    tiny: Settings,
    photo: Tensor,
    painting: Tensor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    work = paint(Painting(Still(photo, [painting], replace(tiny, tv_weight=1e-5))), 7)
    paths = save_settings(work, {**NAMES, "content": "Ünterlagen/photo: 1 #2.png"}, "out/deep")
    assert paths == [Path("out/deep/settings.yaml")]
    text = paths[0].read_text("utf-8")
    assert "stylize_image.ipynb" in text.splitlines()[0]
    saved = yaml.safe_load(text)
    assert saved.pop("content") == str(tmp_path / "Ünterlagen" / "photo: 1 #2.png")
    assert (saved.pop("style"), saved.pop("original_colors")) == ("sample:swirls", "off")
    assert Settings(**saved) == replace(tiny, tv_weight=1e-5, steps=(7,))
    assert torch.equal(stylize(photo, [painting], Settings(**saved)), picture(work))


def test_a_start_picture_is_saved_with_its_whole_path(
    tiny: Settings,
    photo: Tensor,
    painting: Tensor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    work = Painting(Still(photo, [painting], replace(tiny, init="start.png")))
    (path,) = save_settings(work, {"content": "a.png", "style": "b.png"}, tmp_path)
    assert yaml.safe_load(path.read_text())["init"] == str(tmp_path / "start.png")


def test_moves_are_saved_as_a_session(
    tiny: Settings, photo: Tensor, painting: Tensor, tmp_path: Path
) -> None:
    layers = ("relu1_1", "relu3_1")
    moves = [Move(3, {"style_weight": 1e-5, "style_layers": layers}), Move(6, {"size": 80})]
    work = paint(Painting(Still(photo, [painting], tiny), moves=moves), 13)
    work.step_back()
    work.change(content_weight=2)
    paint(work, 12)
    paths = save_settings(work, NAMES, tmp_path)
    assert paths == [tmp_path / "settings.yaml", tmp_path / "session.yaml"]
    assert "another" in paths[0].read_text()
    saved = yaml.safe_load(paths[1].read_text())
    assert saved.pop("last_step") == 12
    log = [Move.from_dict(move) for move in saved.pop("moves")]
    assert [move.as_dict() for move in log] == [move.as_dict() for move in work.log]
    del saved["content"], saved["style"], saved["original_colors"]
    assert Settings(**saved) == tiny
    again = paint(Painting(Still(photo, [painting], Settings(**saved)), moves=log), 12)
    assert torch.equal(picture(again), picture(work))
    assert again.settings == work.settings


def test_an_old_session_does_not_stay_beside_new_settings(
    tiny: Settings, photo: Tensor, painting: Tensor, tmp_path: Path
) -> None:
    moved = paint(Painting(Still(photo, [painting], tiny), moves=[Move(2, {"size": 80})]), 4)
    save_settings(moved, NAMES, tmp_path)
    plain = paint(Painting(Still(photo, [painting], tiny)), 4)
    save_settings(plain, NAMES, tmp_path)
    assert not (tmp_path / "session.yaml").exists()


def test_a_saved_run_is_a_folder_with_a_valid_result(
    tiny: Settings, photo: Tensor, painting: Tensor, tmp_path: Path
) -> None:
    moves = [Move(3, {"style_weight": 300.0})]
    work = paint(Painting(Still(photo, [painting], tiny), moves=moves), 14)
    returned = save_run(work, NAMES, tmp_path)
    result = read_result(tmp_path)
    assert result is not None
    assert result.outputs == returned.outputs
    names = {"picture", "gif", "strip", "losses", "content", "style 1", "settings", "session"}
    assert set(result.outputs) == names
    assert (result.figures["steps"], result.figures["moves"]) == (14, 1)
    assert result.settings["moves"] == [{"step": 3, "style_weight": 300.0}]
    assert result.settings["style_weight"] == 300.0
    assert result.seconds > 0
    saved = load_image(tmp_path / "picture.png")
    assert torch.equal((saved * 255).round(), (picture(work) * 255).round())
    referee = measure(saved, photo, [painting], replace(tiny, style_weight=300.0))
    assert result.figures["loss"] == pytest.approx(referee.total)
    with Image.open(tmp_path / "progress.gif") as gif:
        assert gif.n_frames > 1


def test_masks_and_colours_of_a_still_are_painted_with_and_saved(
    tiny: Settings, photo: Tensor, painting: Tensor, tmp_path: Path
) -> None:
    left = torch.zeros(1, 1, 48, 64)
    left[..., :32] = 1.0
    still = Still(photo, [painting, painting.flip(1)], tiny, [left, 1 - left], None, "luma")
    work = paint(Painting(still, moves=[Move(3, {"style_weight": 300.0})]), 6)
    assert work.shown is not None
    assert torch.equal(work.shown.image, transfer_luma(picture(work), photo))
    *_, plain = Painting(replace(still, masks=()), moves=[Move(3, {"style_weight": 300.0})])
    assert not torch.allclose(plain.image, picture(paint(work, 15)))
    names = {"content": "a.png", "style": ["b.png", "sample:swirls"], "masks": ["l.png", "r.png"]}
    result = save_run(work, names, tmp_path)
    assert {"style 1", "style 2"} < {*result.outputs}
    shown = load_image(tmp_path / "picture.png")
    assert torch.allclose(shown, work.shown.image, atol=0.51 / 255)
    saved = yaml.safe_load((tmp_path / "session.yaml").read_text())
    assert saved["style"] == [str(Path("b.png").resolve()), "sample:swirls"]
    assert saved["masks"] == [str(Path(name).resolve()) for name in ("l.png", "r.png")]
    assert saved["original_colors"] == result.settings["original_colors"] == "luma"


def test_a_run_can_be_saved_from_the_first_picture_on(
    tiny: Settings, photo: Tensor, painting: Tensor, tmp_path: Path
) -> None:
    work = Painting(Still(photo, [painting], tiny))
    with pytest.raises(InputError, match="there is no picture yet"):
        save_run(work, NAMES, tmp_path)
    assert not list(tmp_path.glob("*.json"))
    paint(work, 0)
    save_run(work, NAMES, tmp_path)
    assert read_result(tmp_path) is not None


def test_a_run_saved_again_is_whole_again(
    tiny: Settings, photo: Tensor, painting: Tensor, tmp_path: Path
) -> None:
    work = paint(Painting(Still(photo, [painting], tiny)), 4)
    save_run(work, NAMES, tmp_path)
    paint(work, SNAPSHOT_EVERY)
    save_run(work, NAMES, tmp_path)
    result = read_result(tmp_path)
    assert result is not None
    assert result.figures["steps"] == SNAPSHOT_EVERY
    assert not list(tmp_path.glob(".*"))
