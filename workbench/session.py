"""A picture that is being painted while its settings change, in the background and again."""

from __future__ import annotations

import functools
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Concatenate, Literal, ParamSpec

import yaml
from torch import Tensor

from workbench import progress, runs, samples, sheets
from workbench.descent import Iterate, measure, optimize
from workbench.errors import InputError, WorkbenchError
from workbench.files import write_bytes
from workbench.images import load_image, resize_down, save_image
from workbench.losses import Losses
from workbench.problem import scales
from workbench.settings import Settings
from workbench.weights import load_weights

SNAPSHOT_EVERY = 10  # steps between two pictures that can be gone back to
SAVED_SIDE = 640  # px; longest side of the small pictures of content and style
SNAPSHOTS_KEPT = 24  # of those, the newest
NO_PICTURE = "there is no picture yet; start the painting first."
CHOOSE = "Choose a content picture and a style picture first."
START_ONLY = ("init", "seed")  # settings that say where a painting begins

State = Literal["ready", "running", "paused", "finished", "stopped", "failed"]


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
        """Undo `as_dict`.

        Raises
        ------
        InputError
            If there is no step, or a number is not one.
        """
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

    A change goes on from the picture as it is, with the optimiser's history forgotten. It
    gives the picture the coarse scales that it has not been through, and then all steps at
    full size. Iterate over it to paint to the end.

    Parameters
    ----------
    content
        Photograph, `(1, 3, H, W)`, sRGB in [0, 1].
    styles
        One or more style pictures, likewise.
    settings
        To begin with.
    moves
        The `log` of an earlier painting, whose moves are made again at their steps: the same
        picture comes about. A call of `change` or `step_back` drops those yet to come.

    Raises
    ------
    InputError
        If a move names an unknown setting or a value that makes no sense, or comes too late.
    """

    def __init__(
        self,
        content: Tensor,
        styles: Sequence[Tensor],
        settings: Settings,
        *,
        moves: Sequence[Move] = (),
    ) -> None:
        self.content, self.styles = content, tuple(styles)
        self.settings = settings  # of the next step
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

    def __iter__(self) -> Iterator[Iterate]:
        while (iterate := self.step()) is not None:
            yield iterate

    def step(self) -> Iterate | None:
        """Take one step (the first shows the start picture); None when all are taken.

        Raises
        ------
        InputError
            If the pictures and the settings do not go together.
        OptimizationError
            If the loss explodes; after a change of settings, it can go on.
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

        Raises
        ------
        InputError
            If there is no such setting or a value makes no sense; nothing has changed then.
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
        self.recorder.rewind(self.iterate)
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
        height, width = self.content.shape[-2:]
        return scales((height, width), self.settings)

    def _begin(self) -> Iterator[Iterate]:
        """Iterates from here on, numbered on from here."""
        if self.iterate is None:
            yield from optimize(self.content, self.styles, self.settings)
            return
        done = self.iterate.step
        left = replace(self.settings, steps=_steps_left([s for _, s in self._plan()], done))
        iterates = optimize(self.content, self.styles, left, start=self.iterate.image)
        for iterate in iterates:
            if iterate.step > 0:  # where it starts is where it was
                yield replace(iterate, step=done + iterate.step, steps=done + iterate.steps)

    def _keep(self, iterate: Iterate) -> None:
        self.iterate = iterate
        self.recorder.add(iterate)
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


P = ParamSpec("P")


def _between_steps(
    method: Callable[Concatenate[Session, P], None],
) -> Callable[Concatenate[Session, P], None]:
    """Make a method return at once, and be done in the session's thread between two steps."""

    @functools.wraps(method)
    def asked(self: Session, /, *args: P.args, **options: P.kwargs) -> None:
        self.between_steps(lambda: method(self, *args, **options))

    return asked


class Session:
    """A painting in a thread of its own: who turns the knobs never waits for it.

    Every method returns at once; what it asks for is done between two steps, in the order of
    the calls. The thread lives only while there is something to do. Of all sessions in a
    process one paints at a time: to start one is to pause the other, because two would slow
    each other down many times over.

    Parameters
    ----------
    content
        Photograph, `(1, 3, H, W)`, sRGB in [0, 1]; None: `choose` is to bring one.
    styles
        One or more style pictures, likewise; none: `choose` is to bring them.
    settings
        To begin with.
    on_update
        Called in the session's thread after every step and every change of `state`, with
        nothing else going on: it may read `painting`. What it takes, the painting waits.
    on_settings
        Called likewise when `settings` were set by other means than `change`: by going back,
        or by a replay.

    `settings` is what is wanted now, `painting` the present one or the last (None before the
    first), `message` a sentence for whoever watches, or empty. `state` is "ready" (nothing
    painted yet), "running", "paused", "finished" (all steps taken; a change of settings goes on),
    "stopped" (the next start begins anew) or "failed" (`message` says why; start and changes go
    on from the last good picture).
    """

    _now_running: ClassVar[weakref.ref[Session] | None] = None
    _turns: ClassVar[threading.Lock] = threading.Lock()

    def __init__(
        self,
        content: Tensor | None,
        styles: Sequence[Tensor],
        settings: Settings,
        *,
        on_update: Callable[[], None] = lambda: None,
        on_settings: Callable[[], None] = lambda: None,
    ) -> None:
        self.content, self.styles, self.settings = content, tuple(styles), settings
        self.state: State = "ready"
        self.message = ""
        self.painting: Painting | None = None
        self._on_update, self._on_settings = on_update, on_settings
        self._pause_at: int | None = None
        self._taken = 0  # times that `settings` were set by other means than `change`
        self._requests: deque[Callable[[], None]] = deque()
        self._lock = threading.Lock()
        self._worker: threading.Thread | None = None

    @_between_steps
    def start(self) -> None:
        """Begin, or go on after a pause or a failure."""
        if self.content is None or not self.styles:
            self._set(self.state, CHOOSE)
            return
        if self.state in ("ready", "finished", "stopped") or self.painting is None:
            self._begin(self.settings)
        self._set("running")

    @_between_steps
    def pause(self, message: str = "") -> None:
        """Hold on after the step that is being taken."""
        if self.state == "running":
            self._set("paused", message)

    @_between_steps
    def stop(self) -> None:
        """End after the step that is being taken; the picture so far stays."""
        if self.painting is not None:
            self._set("stopped")

    def change(self, **changes: Any) -> None:
        """Set one or more settings; a painting that is under way uses them from the next step on.

        `init` and `seed` wait for the next start.

        Raises
        ------
        InputError
            At once, if there is no such setting or a value makes no sense; nothing has changed
            then.
        """
        with self._lock:
            self.settings = self.settings.changed(**changes)
            taken = self._taken
        self._change(changes, taken)

    @_between_steps
    def _change(self, changes: Mapping[str, Any], taken: int) -> None:
        with self._lock:
            if taken != self._taken:  # a step back came in between; this was asked for later
                self.settings = self.settings.changed(**changes)
        if self.painting is None or self.state in ("ready", "stopped"):
            return
        now = {name: value for name, value in changes.items() if name not in START_ONLY}
        if self.painting.change(**now):
            self._pause_at = None
            if self.state in ("finished", "failed"):
                self._set("running")

    @_between_steps
    def step_back(self) -> None:
        """Return to the picture and the settings of some steps ago, and pause there."""
        if self.painting is None or not self.painting.step_back():
            self._set(self.state, "There is no earlier picture to go back to.")
            return
        start_only = {name: getattr(self.settings, name) for name in START_ONLY}
        self._take(self.painting.settings.changed(**start_only))
        self._pause_at = None
        self._set("paused")

    @_between_steps
    def replay(self) -> None:
        """Paint the same picture again from the log, up to where it is now."""
        last = self.painting
        if last is None or last.iterate is None:
            self._set(self.state, "There is nothing to replay yet.")
            return
        # Pressed in mid-replay, it is the whole of it again.
        end = last.iterate.step if self._pause_at is None else self._pause_at
        self._begin(last.first_settings, [*last.log, *last.to_come])
        self._pause_at = end
        self._set("running")

    @_between_steps
    def choose(self, content: Tensor | None = None, styles: Sequence[Tensor] = ()) -> None:
        """Take other pictures; the next start begins with them."""
        self.content = self.content if content is None else content
        self.styles = tuple(styles) or self.styles
        self.painting = None
        self._set("ready", "Start begins with the new picture.")

    def between_steps(self, request: Callable[[], None]) -> None:
        """Have something done in the session's thread, between two steps."""
        with self._lock:
            self._requests.append(request)
            if self._worker is None or not self._worker.is_alive():
                self._worker = threading.Thread(target=self._work, name="painting", daemon=True)
                self._worker.start()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until there is nothing left to do; False if that takes longer than `timeout`."""
        worker = self._worker
        if worker is not None:
            worker.join(timeout)
        return worker is None or not worker.is_alive()

    def _work(self) -> None:
        while True:
            with self._lock:
                request = self._requests.popleft() if self._requests else None
                if request is None and self.state != "running":
                    self._worker = None
                    return
            try:
                (request or self._step)()
            except WorkbenchError as error:
                self._set("failed", str(error))
            except Exception as error:
                first_line = (str(error).strip().splitlines() or [""])[0]
                self._set("failed", f"{type(error).__name__}: {first_line}")

    def _step(self) -> None:
        assert self.painting is not None
        iterate = self.painting.step()
        if iterate is not None and iterate.step == self._pause_at:
            self.painting.make_due_moves()
        if self._pause_at is not None:
            self._take(self.painting.settings)  # moves of the log are made as it goes
        if iterate is None:
            self._set("finished")
        elif iterate.step == self._pause_at:
            self._pause_at = None
            self._set("paused")
        else:
            self._on_update()

    def _begin(self, settings: Settings, moves: Sequence[Move] = ()) -> None:
        assert self.content is not None
        self._take(settings)
        self.painting = Painting(self.content, self.styles, settings, moves=moves)
        self._pause_at = None

    def _take(self, settings: Settings) -> None:
        with self._lock:
            if settings == self.settings:
                return
            self.settings = settings
            self._taken += 1
        self._on_settings()

    def _set(self, state: State, message: str = "") -> None:
        if state == "running":
            with Session._turns:
                other = Session._now_running() if Session._now_running else None
                Session._now_running = weakref.ref(self)
            if other is not None and other is not self:
                other.pause("Paused, because another panel was started.")
        self.state, self.message = state, message
        self._on_update()


# --- what a session leaves behind --------------------------------------------------------


def save_settings(
    painting: Painting, content: str, style: str, output_dir: str | os.PathLike[str]
) -> list[Path]:
    """Write settings as YAML that papermill's `-f` takes.

    `settings.yaml` is for the notebook stylize_image; for a painting without moves, it gives
    the same picture. `session.yaml`, for tune_weights, has the moves too; it is written if
    there are any.

    Parameters
    ----------
    content, style
        Names of the pictures; paths become absolute.

    Returns
    -------
    list of Path
        What was written.
    """
    names = {"content": _absolute(content), "style": _absolute(style)}
    moves = [move.as_dict() for move in effective(painting.log)]
    path = Path(output_dir) / "settings.yaml"
    note = "Settings were changed on the way; session.yaml is the whole session." if moves else ""
    _save_yaml(path, "stylize_image", {**names, **_as_parameters(painting.settings_so_far())}, note)
    session = path.with_name("session.yaml")
    if not moves:
        session.unlink(missing_ok=True)
        return [path]
    assert painting.iterate is not None
    first = _as_parameters(painting.first_settings)
    told = {"moves": moves, "last_step": painting.iterate.step}
    _save_yaml(session, "tune_weights", {**names, **first, **told})
    return [path, session]


def _save_yaml(path: Path, notebook: str, values: dict[str, Any], note: str = "") -> None:
    head = f"# For: papermill notebooks/{notebook}.ipynb out.ipynb -f {path.name}\n"
    head += f"# {note}\n" if note else ""
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, default_flow_style=None)
    write_bytes(path, (head + text).encode())


def save_run(
    painting: Painting,
    content: str,
    style: str,
    output_dir: str | os.PathLike[str],
    told: Mapping[str, Any] | None = None,
) -> runs.Result:
    """Write the picture, its progress, curves, settings and a `result.json` into a folder.

    `told` is what else `result.json` is to have among its settings.
    """
    iterate = painting.iterate
    if iterate is None:
        raise InputError(NO_PICTURE)
    folder = runs.start_run(output_dir)
    outputs = {
        "picture": folder / "picture.png",
        "gif": folder / "progress.gif",
        "strip": folder / "strip.png",
        "losses": folder / "losses.png",
        "content": folder / "content.jpg",
        "style": folder / "style.jpg",
    }
    save_image(iterate.image, outputs["picture"])
    save_image(resize_down(painting.content, SAVED_SIDE), outputs["content"])
    save_image(resize_down(painting.styles[0], SAVED_SIDE), outputs["style"])
    frames = [snapshot.frame for snapshot in painting.recorder.snapshots()]
    sheets.save_gif(frames, outputs["gif"])
    sheets.save_progress_strip(painting.recorder, outputs["strip"])
    moves = effective(painting.log)
    curves = sheets.plot_losses(painting.recorder, [move.step for move in moves])
    sheets.save_plot(curves, outputs["losses"])
    for path in save_settings(painting, content, style, folder):
        outputs[path.stem] = path
    picture = load_image(outputs["picture"])
    losses = measure(picture, painting.content, painting.styles, painting.settings)
    weights = load_weights(painting.settings.backbone)
    return runs.finish_run(
        folder,
        outputs=outputs,
        figures={**_figures(losses), "steps": iterate.step, "moves": len(moves)},
        settings={
            **(told or {}),
            "content": content,
            "style": style,
            **painting.settings_so_far().as_dict(),
            "moves": [move.as_dict() for move in moves],
        },
        weights=weights.as_dict(),
        seconds=painting.seconds,
    )


def _figures(losses: Losses) -> dict[str, float]:
    return {
        "loss": losses.total,
        "content_loss": losses.content_total,
        "style_loss": losses.style_total,
        "tv_loss": losses.tv,
    }


def _as_parameters(settings: Settings) -> dict[str, Any]:
    """Settings as a notebook takes them, wherever it runs."""
    init = settings.init
    named = init in ("content", "random")
    return {**settings.as_dict(), "init": init if named else _absolute(init)}


def _absolute(name: str) -> str:
    return name if name.startswith(samples.PREFIX) else str(Path(name).resolve())
