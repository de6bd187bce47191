"""A picture that is being painted while its settings change, and the same once more."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from workbench import progress
from workbench.descent import Iterate, optimize
from workbench.errors import InputError
from workbench.images import shape_of
from workbench.problem import scales
from workbench.settings import Settings
from workbench.stills import Still

SNAPSHOT_EVERY = 10  # steps between two pictures that can be gone back to
SNAPSHOTS_KEPT = 24  # of those, the newest


@dataclass(frozen=True)
class Move:
    """What was changed, and when."""

    step: int  # steps that the picture had taken
    changes: Mapping[str, Any] = field(default_factory=dict)  # setting -> its new value
    back_to: int | None = None  # step whose picture and settings were gone back to, if any

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


class Painting:
    """A picture being painted, one step at a time, whose settings may change in between.

    A change goes on from the picture as it is, with the optimiser's history forgotten. It gives the
    picture the coarse scales that it has not been through, and then all steps at full size. Iterate
    over it to paint to the end.

    Given `moves`, the `log` of an earlier painting, it makes them again at their steps: the same
    picture comes about. One that makes no sense, or comes too late, is refused. A call of `change`
    or `step_back` drops those yet to come.
    """

    def __init__(self, still: Still, *, moves: Sequence[Move] = ()) -> None:
        self.still = still  # whose settings are the first
        self.settings = settings = still.settings  # of the next step
        self.first_settings = settings
        self.iterate: Iterate | None = None  # the newest
        self.log: list[Move] = []  # every move so far
        self.to_come = effective(moves)  # what is left of them
        self.recorder = progress.Recorder()  # of the way here, without what was gone back from
        self.seconds = 0.0  # that all steps took
        self._snapshots: list[tuple[Iterate, Settings]] = []
        self._iterates: Iterator[Iterate] | None = None
        end = sum(settings.steps)
        for move in self.to_come:
            if move.step > end:
                raise _too_late(move, end)
            settings = settings.changed(**move.changes)
            end = move.step + sum(_steps_left(settings.steps, move.step))

    @property
    def shown(self) -> Iterate | None:
        """The newest iterate, in the colours that the still is to have."""
        if self.iterate is None:
            return None
        still = self.still
        return next(progress.keep_colors([self.iterate], still.content, still.original_colors))

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
        if self._iterates is None:
            self._iterates = self._begin()
        try:
            iterate = next(self._iterates, None)
        except BaseException:
            self._iterates = None
            if self.iterate is not None:
                self._make({})  # a move too: it goes on without the optimiser's history
            raise
        self.seconds += time.monotonic() - began
        if iterate is not None:
            self._keep(iterate)
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
            self._iterates = None
        else:
            # Values as Settings has them: plain numbers, texts and tuples.
            new = {name: getattr(changed, name) for name in changes}
            old = self.settings
            self._make({name: v for name, v in new.items() if v != getattr(old, name)})
        return True

    def step_back(self) -> bool:
        """Return to the picture, and the settings, of the newest snapshot before this one."""
        if self.iterate is None:
            return False
        now = self.iterate.step
        earlier = [shot for shot in self._snapshots if shot[0].step < now]
        if not earlier:
            return False
        self.to_come, self._snapshots = [], earlier
        self.iterate, self.settings = earlier[-1]
        self.recorder.rewind(self.shown or self.iterate)
        self.log.append(Move(now, back_to=self.iterate.step))
        self._iterates = None
        return True

    def settings_so_far(self) -> Settings:
        """With the steps that were taken, if the picture was painted without moves.

        Painting with these from the start gives the very picture that there is now (unless it
        is still at a coarse scale; then, the one that it will become).
        """
        if self.iterate is None or effective(self.log):
            return self.settings
        coarse = sum(steps for _, steps in self._plan()[:-1])
        taken = self.iterate.step - coarse
        if taken < 1:
            return self.settings
        return replace(self.settings, steps=(*self.settings.steps[:-1], taken))

    def _plan(self) -> list[tuple[tuple[int, int], int]]:
        return scales(shape_of(self.still.content), self.settings)

    def _begin(self) -> Iterator[Iterate]:
        """Iterates from here on, numbered on from here."""
        still = self.still
        if self.iterate is None:
            yield from optimize(still.content, still.styles, self.settings, masks=still.masks)
            return
        done = self.iterate.step
        left = replace(self.settings, steps=_steps_left([s for _, s in self._plan()], done))
        iterates = optimize(
            still.content, still.styles, left, start=self.iterate.image, masks=still.masks
        )
        for iterate in iterates:
            if iterate.step > 0:  # where it starts is where it was
                yield replace(iterate, step=done + iterate.step, steps=done + iterate.steps)

    def _keep(self, iterate: Iterate) -> None:
        self.iterate = iterate
        self.recorder.add(self.shown or iterate)
        if iterate.step % SNAPSHOT_EVERY == 0:
            self._snapshots.append((iterate, self.settings))
            del self._snapshots[:-SNAPSHOTS_KEPT]

    def _make(self, changes: Mapping[str, Any]) -> None:
        """Make a move and log it; those between the same two steps are one."""
        assert self.iterate is not None
        step = self.iterate.step
        self.settings = replace(self.settings, **changes)
        if self.log and self.log[-1].step == step and self.log[-1].back_to is None:
            changes = {**self.log.pop().changes, **changes}
        self.log.append(Move(step, changes))
        self._iterates = None


def _too_late(move: Move, end: int) -> InputError:
    sentence = f"a move is to be made at step {move.step}, but the painting ends at step {end}."
    return InputError(sentence)


def _steps_left(plan: Sequence[int], done: int) -> tuple[int, ...]:
    """Steps at each scale from here on, of which the last scale has all of its own."""
    left = []
    for steps in plan[:-1]:
        left.append(max(0, steps - done))
        done = max(0, done - steps)
    return (*(steps for steps in left if steps > 0), plan[-1])


def effective(log: Sequence[Move]) -> list[Move]:
    """The moves that the picture at the end of the log is made with.

    Going back to a step undoes the moves since, and forgets the optimiser's history there.
    """
    kept: list[Move] = []
    for move in log:
        if move.back_to is None:
            kept.append(move)
        else:
            kept = [earlier for earlier in kept if earlier.step < move.back_to]
            kept.append(Move(move.back_to))
    return kept
