"""A painting in the background, whose knobs are turned by somebody; and what that leaves."""

from __future__ import annotations

import functools
import math
import os
import statistics
import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Concatenate, Literal, ParamSpec

import yaml
from torch import Tensor

from workbench import runs, samples, stills
from workbench.errors import InputError, WorkbenchError
from workbench.files import write_bytes
from workbench.forecast import Pace
from workbench.painting import Move, Painting, Snapshot
from workbench.settings import Settings
from workbench.stills import Still

NO_PICTURE = "there is no picture yet; start the painting first."
CHOOSE = "Choose a content picture and a style picture first."
START_ONLY = ("init", "seed")  # settings that say where a painting begins

_FILES = {  # of a saved run
    "picture": "picture.png",
    "gif": "progress.gif",
    "strip": "strip.png",
    "losses": "losses.png",
}

_MOVED = "Settings were changed on the way, so the picture will be another; use session.yaml."

State = Literal["ready", "running", "paused", "finished", "stopped", "failed"]


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

    Every method returns at once; what it asks for is done between two steps, in the order of the
    calls. The thread lives only while there is something to do. Of all sessions in a process one
    paints at a time: to start one is to pause the other, because two would slow each other down
    many times over.

    `settings` is what is wanted now, `painting` the present one or the last (None before the
    first), `message` a sentence for whoever watches, or empty. `state` is "ready" (nothing painted
    yet), "running", "paused", "finished" (all steps taken; a change of settings goes on), "stopped"
    (the next start begins anew) or "failed" (`message` says why; start and changes go on from the
    last good picture).

    Parameters
    ----------
    still
        What to paint with; None: `choose` is to bring it. Its own settings do not count.
    on_update
        Called in the session's thread after every step and every change of `state`, with nothing
        else going on: it may read `painting`. What it takes, the painting waits.
    on_settings
        Called likewise when `settings` were set by other means than `change`: by going back, or by
        a replay.
    on_picture
        Called likewise with the picture of every step, `(1, 3, H, W)`, sRGB in [0, 1], as soon as
        the step is taken; `on_update` follows when its losses are known.
    """

    _now_running: ClassVar[weakref.ref[Session] | None] = None
    _turns: ClassVar[threading.Lock] = threading.Lock()

    def __init__(
        self,
        still: Still | None,
        settings: Settings,
        *,
        on_update: Callable[[], None] = lambda: None,
        on_settings: Callable[[], None] = lambda: None,
        on_picture: Callable[[Tensor], object] = lambda picture: None,
    ) -> None:
        self.still, self.settings = still, settings
        self.state: State = "ready"
        self.message = ""
        self.painting: Painting | None = None
        self._on_update, self._on_settings = on_update, on_settings
        self._on_picture = on_picture
        self._pause_at: int | None = None
        self._paces: deque[float] = deque(maxlen=9)  # of the last steps, pixels a second
        self._taken = 0  # times that `settings` were set by other means than `change`
        self._requests: deque[Callable[[], None]] = deque()
        self._lock = threading.Lock()
        self._worker: threading.Thread | None = None

    @_between_steps
    def start(self) -> None:
        """Begin, or go on after a pause or a failure."""
        if self.still is None:
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

        `init` and `seed` wait for the next start. A setting that makes no sense is refused at once,
        and nothing has changed then.
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
        """Undo the last move or some steps, and pause there."""
        self._travel(Painting.step_back, "There is no earlier picture to go back to.")

    @_between_steps
    def step_forward(self) -> None:
        """Redo what was undone, and pause there."""
        self._travel(Painting.step_forward, "There is no later picture to go forward to.")

    def _travel(self, way: Callable[[Painting], bool], no_way: str) -> None:
        if self.painting and way(self.painting):
            self._arrive(self.painting)
        else:
            self._set(self.state, no_way)

    @_between_steps
    def keep(self, callback: Callable[[Snapshot], None]) -> None:
        """Hand the painting as it is then to `callback`, in the session's thread."""
        snapshot = self.painting.snapshot() if self.painting is not None else None
        if snapshot is None:
            self._set(self.state, NO_PICTURE)
        else:
            callback(snapshot)

    @_between_steps
    def go_to(self, snapshot: Snapshot) -> None:
        """Return to a picture that was kept, with its settings, and pause there."""
        try:
            if self.painting is None:
                raise InputError(NO_PICTURE)
            self.painting.go_to(snapshot)
        except InputError as error:
            self._set(self.state, str(error))
        else:
            self._arrive(self.painting)

    def _arrive(self, painting: Painting) -> None:
        """Take the settings of where a painting has gone to, and pause."""
        start_only = {name: getattr(self.settings, name) for name in START_ONLY}
        self._take(painting.settings.changed(**start_only))
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
    def show_colors(self, original_colors: str) -> None:
        """Show and save what is painted with "luma" or "off" as `Still.original_colors`."""
        if self.still is not None:
            self.still = replace(self.still, original_colors=original_colors)
        if self.painting is not None:
            self.painting.still = replace(self.painting.still, original_colors=original_colors)
        self._on_update()

    @_between_steps
    def choose(self, still: Still) -> None:
        """Take other pictures; the next start begins with them."""
        self.still, self.painting = still, None
        self._set("ready", "Start begins with the new picture.")

    def between_steps(self, request: Callable[[], None]) -> None:
        """Have something done in the session's thread, between two steps."""
        with self._lock:
            self._requests.append(request)
            if self._worker is None or not self._worker.is_alive():
                self._worker = threading.Thread(target=self._work, name="painting", daemon=True)
                self._worker.start()

    @property
    def pace(self) -> Pace | None:
        """How long steps take of late; None before the first."""
        return Pace(((statistics.median(self._paces), 1.0),)) if self._paces else None

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
        before = self.painting.seconds
        iterate = self.painting.step()
        if iterate is not None and iterate.step > 1:  # the first one has to load much
            took = self.painting.seconds - before
            self._paces.append(math.prod(iterate.image.shape[-2:]) / max(took, 1e-6))
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
        assert self.still is not None
        self._take(settings)
        self.painting = Painting(replace(self.still, settings=settings), moves=moves)
        self.painting.on_picture = self._on_picture
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
    painting: Painting, names: Mapping[str, Any], output_dir: str | os.PathLike[str]
) -> list[Path]:
    """Write settings as YAML that papermill's `-f` takes, and return the files.

    `names` are those of the pictures: "content", "style" (one or a list) and "masks". Their paths
    become absolute.

    `settings.yaml` is for the notebook stylize_image; for a painting without moves, it gives the
    same picture. `session.yaml`, for tune_weights, has the moves too; it is written if there are
    any.
    """
    names = {**_absolute(dict(names)), "original_colors": painting.still.original_colors}
    moves = [move.as_dict() for move in painting.log]
    path = Path(output_dir) / "settings.yaml"
    note = _MOVED if moves else ""
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
    names: Mapping[str, Any],
    output_dir: str | os.PathLike[str],
    told: Mapping[str, Any] | None = None,
) -> runs.Result:
    """Write the picture, its progress, curves, settings and a `result.json` into a folder.

    `names` are as for `save_settings`; `told` is what else `result.json` is to have among its
    settings.
    """
    iterate = painting.shown
    if iterate is None:
        raise InputError(NO_PICTURE)
    folder = runs.start_run(output_dir)
    still = replace(painting.still, settings=painting.settings)
    moves = painting.log
    files = {**_FILES, **{name: f"{name}.jpg" for name in still.inputs()}}
    paths = {name: folder / file for name, file in files.items()}
    stills.save(still, painting.recorder, iterate, paths, moves=[move.step for move in moves])
    paths |= {path.stem: path for path in save_settings(painting, names, folder)}
    return stills.finish(
        still,
        folder,
        paths,
        {
            **(told or {}),
            **names,
            "original_colors": still.original_colors,
            **painting.settings_so_far().as_dict(),
            "moves": [move.as_dict() for move in moves],
        },
        figures={"steps": iterate.step, "moves": len(moves)},
        seconds=painting.seconds,
    )


def _as_parameters(settings: Settings) -> dict[str, Any]:
    """Settings as a notebook takes them, wherever it runs."""
    init = settings.init
    named = init in ("content", "random")
    return {**settings.as_dict(), "init": init if named else _absolute(init)}


def _absolute(name: Any) -> Any:
    """A path, or those in a list or a dictionary."""
    if isinstance(name, dict):
        return {key: _absolute(each) for key, each in name.items()}
    if isinstance(name, list):
        return [_absolute(each) for each in name]
    return name if name.startswith(samples.PREFIX) else str(Path(name).resolve())
