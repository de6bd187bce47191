"""A picture that is being painted while its settings change, and the same once more."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Any

from torch import Tensor

from workbench import progress
from workbench.checkpoints import Moment
from workbench.descent import Iterate, paint
from workbench.errors import InputError
from workbench.forecast import scales
from workbench.images import shape_of
from workbench.settings import Settings
from workbench.stills import Still

SNAPSHOT_EVERY = 10  # steps between two snapshots, beside those before each move
SNAPSHOT_BYTES = 512 * 2**20  # of memory for all of them, beyond the first and the newest
NEWEST_KEPT = 4  # snapshots, whatever they take
DRAG_SECONDS = 0.3  # between two moves at neighbouring steps that are undone as one


@dataclass(frozen=True)
class Move:
    """What was changed, and when."""

    step: int  # steps that the picture had taken
    changes: Mapping[str, Any] = field(default_factory=dict)  # setting -> its new value
    back_to: int | None = None  # step that was gone back to; in logs of earlier versions only

    def as_dict(self) -> dict[str, Any]:
        """Flat, as in YAML: `{"step": 20, "style_weight": 300.0}`."""
        back = {} if self.back_to is None else {"back_to": self.back_to}
        changes = {k: list(v) if isinstance(v, tuple) else v for k, v in self.changes.items()}
        return {"step": self.step, **back, **changes}

    @classmethod
    def from_dict(cls, flat: Mapping[str, Any]) -> Move:
        """Undo `as_dict`; what is no move is refused."""
        changes = {str(k): v for k, v in flat.items()} if isinstance(flat, Mapping) else {}
        step, back_to = changes.pop("step", None), changes.pop("back_to", None)
        if type(step) is not int or step < 0:
            raise InputError(
                f"move {flat!r}: step is {step!r}; give a whole number from 0 on, as in"
                ' {"step": 20, "style_weight": 300.0}.'
            )
        earlier = type(back_to) is int and 0 <= back_to < step
        if back_to is not None and (changes or not earlier):
            raise InputError(f"move {flat!r}: back_to goes to an earlier step and changes nothing.")
        return cls(step, changes, back_to)


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A painting between two steps: going on from here, it goes on as it did, bit for bit."""

    still: Still  # with the first settings
    iterate: Iterate
    moment: Moment  # that the iterate is of, before moves at its step
    settings: Settings  # of the next step
    log: tuple[Move, ...]  # every move that leads here
    recorder: progress.Recorder  # of the way here

    @property
    def shown(self) -> Iterate:
        """The iterate, in the colours that the still is to have."""
        return _in_colors(self.iterate, self.still)

    def leads_to(self, other: Snapshot) -> bool:
        """Whether the way to the other one leads through here."""
        made, to_make = other.log[: len(self.log)], other.log[len(self.log) :]
        next_move = to_make[0].step if to_make else other.iterate.step - 1
        return (
            self.still.settings == other.still.settings
            and self.log == made
            and self.iterate.step <= next_move
        )

    def tensors(self) -> dict[int, Tensor]:
        """What takes memory; neighbours share most of it."""
        state = self.moment.optimizer.get("state", {}).get(0, {})
        lists = [value if isinstance(value, list) else [value] for value in state.values()]
        told = [self.iterate.image, self.moment.pixels, self.moment.grad, *chain(*lists)]
        return {id(each): each for each in told if isinstance(each, Tensor)}


class Painting:
    """A picture being painted, one step at a time, whose settings may change in between.

    A change goes on from the picture as it is, and with what the optimiser has learnt. It gives the
    picture the coarse scales that it has not been through, and then all steps at full size. Iterate
    over it to paint to the end.

    Given `moves`, the `log` of an earlier painting, it makes them again at their steps: the same
    picture comes about. One that makes no sense, or comes too late, is refused. To change a
    setting, or to go elsewhere, drops those yet to come.

    `on_picture` is handed the picture of each step as soon as it is taken, in the colours that the
    still is to have; its losses are known a look at it later, when `step` returns.
    """

    def __init__(self, still: Still, *, moves: Sequence[Move] = ()) -> None:
        self.still = still  # whose settings are the first
        self.settings = settings = still.settings  # of the next step
        self.first_settings = settings
        self.iterate: Iterate | None = None  # the newest
        self.log: list[Move] = []  # every move that leads to it
        self.to_come = effective(moves)  # what is left of them
        self.recorder = progress.Recorder()  # of the way here
        self.seconds = 0.0  # that all steps took
        self.on_picture: Callable[[Tensor], object] = lambda picture: None
        self._moment: Moment | None = None  # that the newest iterate is of
        self._painted: Iterator[tuple[Iterate, Moment]] | None = None
        self._made_at = 0.0  # when the last move was made, in seconds
        self._behind: list[Snapshot] = []  # of the way here, the oldest first
        self._ahead: list[Snapshot] = []  # that were gone back from, the newest last
        end = sum(settings.steps)
        for move in self.to_come:
            if move.step > end:
                raise _too_late(move, end)
            settings = settings.changed(**move.changes)
            end = sum(_steps_after(move.step, settings.steps))

    @property
    def shown(self) -> Iterate | None:
        """The newest iterate, in the colours that the still is to have."""
        return _in_colors(self.iterate, self.still) if self.iterate else None

    def _glimpse(self, picture: Tensor) -> None:
        assert self.iterate is not None
        seen = replace(self.iterate, image=picture)
        self.on_picture(_in_colors(seen, self.still).image)

    def __iter__(self) -> Iterator[Iterate]:
        while (iterate := self.step()) is not None:
            yield iterate

    def step(self) -> Iterate | None:
        """Take one step (the first shows the start picture); None when all are taken.

        An `OptimizationError` says that the loss explodes; after a change of settings, it can go
        on.
        """
        self.make_due_moves()
        began = time.monotonic()
        try:
            if self._painted is None:
                self._painted = self._go_on()
            iterate, moment = next(self._painted, (None, None))
        except BaseException:
            self._painted = None
            raise
        self.seconds += time.monotonic() - began
        if iterate is not None:
            self.iterate, self._moment = iterate, moment
            self.recorder.add(self.shown or iterate)
            self._ahead = []
            if iterate.step % SNAPSHOT_EVERY == 0:
                self._keep()
        elif self.to_come:
            raise _too_late(self.to_come[0], self.iterate.step if self.iterate else 0)
        return iterate

    def make_due_moves(self) -> None:
        """Make those of the moves to come that belong before the next step."""
        while self.to_come and self.iterate and self.to_come[0].step <= self.iterate.step:
            self._make(self.to_come.pop(0).changes)

    def change(self, **changes: Any) -> bool:
        """Set one or more settings from the next step on; False if they are so already.

        Where one is refused, nothing has changed.
        """
        changed = self.settings.changed(**changes)
        if changed == self.settings:
            return False
        self.to_come = []
        if self.iterate is None:
            self.settings = self.first_settings = changed
            self._painted = None
        else:
            # Values as Settings has them: plain numbers, texts and tuples.
            new = {name: getattr(changed, name) for name in changes}
            old = self.settings
            self._make({name: v for name, v in new.items() if v != getattr(old, name)})
        return True

    def snapshot(self) -> Snapshot | None:
        """The painting as it is now, for `go_to`; None before the first picture."""
        if self.iterate is None or self._moment is None:
            return None
        return Snapshot(
            replace(self.still, settings=self.first_settings),
            self.iterate,
            self._moment,
            self.settings,
            tuple(self.log),
            self.recorder.copy(),
        )

    def go_to(self, snapshot: Snapshot) -> None:
        """Be as at a snapshot of these pictures; `step_forward` leads back to where it was."""
        stills = self.still, snapshot.still
        ours, theirs = ([id(each) for each in (x.content, *x.styles, *x.masks)] for x in stills)
        if ours != theirs:
            raise InputError("this snapshot is of other pictures; choose those of then first.")
        now = self.snapshot()
        self._restore(snapshot)
        self._ahead += [now] if now else []

    def step_back(self) -> bool:
        """Undo: return to the newest snapshot before this; False if there is none.

        There is one before every move (those between the same two steps, and those of one drag of a
        slider, are one) and one every `SNAPSHOT_EVERY` steps; of a long way, some in the middle are
        given up.
        """
        now = self.snapshot()
        earlier = [shot for shot in self._behind if now and shot.leads_to(now)]
        if earlier:
            self.go_to(earlier[-1])
        return bool(earlier)

    def step_forward(self) -> bool:
        """Redo what was gone back from, unless a step or a change came since; False if not."""
        if not self._ahead:
            return False
        self._restore(self._ahead.pop())
        return True

    def _restore(self, then: Snapshot) -> None:
        candidates = [*self._behind, *filter(None, [self.snapshot()])]
        self._behind = [shot for shot in candidates if shot.leads_to(then)]
        self.iterate, self._moment, self.settings = then.iterate, then.moment, then.settings
        self.first_settings, self.log = then.still.settings, list(then.log)
        self.recorder = then.recorder.copy()
        self.to_come, self._painted = [], None
        self._keep()

    def _keep(self) -> None:
        """Keep a snapshot to step back to, and give up those that take too much memory."""
        now = self.snapshot()
        assert now is not None
        self._behind = [*(shot for shot in self._behind if shot.leads_to(now)), now]
        while (count := len(self._behind) - NEWEST_KEPT) > 1:
            tensors = {k: v for shot in self._behind for k, v in shot.tensors().items()}
            if sum(each.nbytes for each in tensors.values()) <= SNAPSHOT_BYTES:
                break
            steps = [shot.iterate.step for shot in self._behind]
            around = zip(steps, steps[1 : count + 1], steps[2:], strict=False)
            # The older, the sparser.
            gaps = [(after - before) / (1 + steps[-1] - step) for before, step, after in around]
            del self._behind[1 + gaps.index(min(gaps))]

    def settings_so_far(self) -> Settings:
        """With the steps that were taken, if the picture was painted without moves.

        Painting with these from the start gives the very picture that there is now (unless it
        is still at a coarse scale; then, the one that it will become).
        """
        if self.iterate is None or self.log:
            return self.settings
        taken = self.iterate.step - sum(self._plan()[:-1])
        if taken < 1:
            return self.settings
        return replace(self.settings, steps=(*self.settings.steps[:-1], taken))

    def _plan(self) -> list[int]:
        """Steps at each scale."""
        return [steps for _, steps in scales(shape_of(self.still.content), self.settings)]

    def _go_on(self) -> Iterator[tuple[Iterate, Moment]]:
        """What comes next."""
        before, now = self.first_settings, self._moment
        for move in self.log:
            if now is not None and move.step < now.step:
                before = before.changed(**move.changes)
        steps = _steps_after(self.log[-1].step, self._plan()) if self.log else self.settings.steps
        painted = paint(
            self.still.content,
            self.still.styles,
            replace(self.settings, steps=steps),
            masks=self.still.masks,
            begin=now,
            before=None if before == self.settings else before,
            glimpse=self._glimpse,
        )
        return painted if now is None else islice(painted, 1, None)  # without where it is

    def _make(self, changes: Mapping[str, Any]) -> None:
        """Make a move and log it; those between the same two steps are one."""
        assert self.iterate is not None
        step, last = self.iterate.step, self.log[-1] if self.log else Move(-2)
        waited, self._made_at = time.monotonic() - self._made_at, time.monotonic()
        if last.step == step:
            changes = {**self.log.pop().changes, **changes}
        elif step > last.step + 1 or changes.keys() != last.changes.keys() or waited > DRAG_SECONDS:
            self._keep()
        self.settings = replace(self.settings, **changes)
        self.log.append(Move(step, changes))
        self._ahead, self._painted = [], None


def _in_colors(iterate: Iterate, still: Still) -> Iterate:
    return next(progress.keep_colors([iterate], still.content, still.original_colors))


def _too_late(move: Move, end: int) -> InputError:
    sentence = f"a move is to be made at step {move.step}, but the painting ends at step {end}."
    return InputError(sentence)


def _steps_after(done: int, plan: Sequence[int]) -> tuple[int, ...]:
    """Steps at each scale after a move: the last one has all of its own from there on."""
    *coarse, last = plan
    return (*coarse, max(0, done - sum(coarse)) + last)


def effective(log: Sequence[Move]) -> list[Move]:
    """The moves that lead to the picture at the end of a log that may go back.

    Logs of earlier versions do, and have moves without changes where that was done: from there
    on the picture has all its steps anew.
    """
    kept: list[Move] = []
    for move in log:
        if move.back_to is None:
            kept.append(move)
        else:
            kept = [earlier for earlier in kept if earlier.step < move.back_to]
            kept.append(Move(move.back_to))
    return kept
