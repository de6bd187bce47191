"""A stream of Iterates -> snapshots, GIF, progress strip, loss curves."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from workbench.colour import transfer_luma
from workbench.descent import Iterate
from workbench.errors import InputError, OutputError
from workbench.images import Frame, resize, save_image, to_array
from workbench.losses import Losses
from workbench.runs import HEADLESS

T = TypeVar("T")

_THUMBNAIL = 96  # px; change that cannot be seen at this size does not count as visible


class _Cell(io.TextIOBase):
    """What a bar is drawn on in a notebook: one output that changes, so one line stays of it."""

    encoding = "utf-8"
    _handle: Any = None

    def write(self, text: str) -> int:
        """Show the newest line in the place of the one before."""
        if line := text.strip():
            from IPython.display import display

            data = {"text/plain": line}
            if self._handle is None:
                self._handle = display(data, raw=True, display_id=True)
            else:
                self._handle.update(data, raw=True)
        return len(text)


def canvas() -> Any:
    """Where a progress bar is to be drawn, for `tqdm(file=...)`."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    in_kernel = hasattr(shell, "kernel") and HEADLESS not in os.environ
    return _Cell() if in_kernel else sys.stdout


# --- streams of iterates -----------------------------------------------------------------


def bar(
    items: Iterable[T],
    title: str,
    unit: str,
    *,
    total: int | None = None,
    done: int = 0,
    where: Callable[[T], tuple[int, int, str]] | None = None,
) -> Iterator[T]:
    """Pass items on and draw a progress bar, of text wherever it is.

    A notebook that was run headless and saved keeps text, where a widget would show up empty.

    Parameters
    ----------
    total, done
        How many items there are, with the `done` that come before these.
    where
        Item -> how far that is, of how much, and what else to say; None: items are counted.
    """
    items = iter(items)
    for first in items:  # what it prints stands above the bar
        done, total, _ = where(first) if where else (done, total, "")
        with tqdm(
            desc=title,
            unit=unit,
            total=total,
            initial=done,
            file=canvas(),
            ncols=88,
            mininterval=0.2,
        ) as line:
            for item in itertools.chain([first], items):
                if where:
                    done, line.total, text = where(item)
                    line.set_postfix_str(text, refresh=False)
                    line.update(done - line.n)
                yield item
                if not where:
                    line.update(1)


def show_progress(iterates: Iterable[Iterate], title: str = "painting") -> Iterator[Iterate]:
    """Pass iterates on and draw a progress bar with the size and the loss."""
    return bar(
        iterates,
        title,
        "step",
        where=lambda now: (
            now.step,
            now.steps,
            f"{now.size} px, loss {now.losses.total:.3g}",
        ),
    )


def keep_latest(
    iterates: Iterable[Iterate],
    path: str | os.PathLike[str],
    seconds: float = 5.0,
    share: float = 0.02,
) -> Generator[Iterate]:
    """Pass iterates on and keep the newest picture in a file until the stream ends well.

    Interrupted or failed, the picture so far lies at `path`; killed, one that is at most
    `seconds` old, or older where writing it more often would take more than `share` of the
    time. A disk that is full does not end the painting.
    """
    latest: Iterate | None = None
    saved, took = time.monotonic(), 0.0
    try:
        for iterate in iterates:
            latest = iterate
            began = time.monotonic()
            if iterate.step > 0 and began - saved >= max(seconds, took / share):
                with contextlib.suppress(OutputError):
                    save_image(iterate.image, path)
                saved = time.monotonic()
                took = saved - began
            yield iterate
    except BaseException:
        if latest is not None and latest.step > 0:
            with contextlib.suppress(OutputError):
                save_image(latest.image, path)
        raise
    Path(path).unlink(missing_ok=True)


def keep_colors(
    iterates: Iterable[Iterate], content: Tensor, original_colors: str
) -> Iterator[Iterate]:
    """Pass iterates on, in the colours of the photograph if `original_colors` is "luma".

    Parameters
    ----------
    content
        The photograph, `(1, 3, H, W)`, sRGB in [0, 1].
    """
    fitted = content
    for iterate in iterates:
        if original_colors == "luma":
            shape = (int(iterate.image.shape[-2]), int(iterate.image.shape[-1]))
            if fitted.shape[-2:] != shape:  # once a scale
                fitted = resize(content, shape)
            iterate = replace(iterate, image=transfer_luma(iterate.image, fitted))
        yield iterate


def save_every(
    iterates: Iterable[Iterate], path: str | os.PathLike[str], steps: int
) -> Iterator[Iterate]:
    """Pass iterates on and save a picture every so many steps, as -save_iter does.

    Parameters
    ----------
    path
        Of the finished picture: `painted.png` makes `painted_100.png`, `painted_200.png`, ...
    steps
        Between two pictures, above 0.
    """
    path = Path(path)
    if steps < 1:
        raise InputError(f"save_every = {steps}: give a number of steps from 1 on.")
    for iterate in iterates:
        if iterate.step % steps == 0 and 0 < iterate.step < iterate.steps:
            save_image(iterate.image, snapshot_path(path, iterate.step))
        yield iterate


def snapshot_path(path: Path, step: int) -> Path:
    """Where `save_every` saves the picture after so many steps."""
    return path.with_stem(f"{path.stem}_{step}")


@dataclass(frozen=True)
class Snapshot:
    """A picture of the run as it was after `step` steps; `frame` is `(H, W, 3)` in 0..255."""

    step: int
    frame: Frame


@dataclass
class Recorder:
    """Keeps the losses of every iterate it is handed, and chosen pictures.

    However long the run, at most three times `frames` pictures of at most `max_side` pixels
    are held, as JPEG; when there are more, those that change least go.

    Attributes
    ----------
    frames
        How many pictures `snapshots` gives, evenly spaced in visible change, so that every
        frame of a GIF shows something new.
    max_side
        Longest side in pixels of what is kept.
    steps, losses
        Of all iterates so far, in parallel lists.
    scale_changes
        Steps after which the picture grew.
    """

    frames: int = 40
    max_side: int = 640
    steps: list[int] = field(default_factory=list)
    losses: list[Losses] = field(default_factory=list)
    scale_changes: list[int] = field(default_factory=list)
    _kept: list[_Kept] = field(default_factory=list, repr=False)
    _spacing: float = field(default=0.0, repr=False)
    _size: int = field(default=0, repr=False)
    _latest: Iterate | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.frames < 2:
            raise InputError(f"frames = {self.frames}: a progress needs at least 2.")

    def add(self, iterate: Iterate) -> None:
        """Take note of one iterate, unless it is the last one again."""
        if self.steps and iterate.step == self.steps[-1]:
            self._latest = iterate
            return
        thumbnail = to_array(resize(iterate.image, _THUMBNAIL))
        position = self._position(thumbnail)
        kept = []
        if not self._kept or position - self._kept[-1].position >= self._spacing:
            kept = [_Kept(position, iterate.step, _jpeg(self._frame(iterate)), thumbnail)]
        # From here on nothing takes time, so that Ctrl-C does not leave half of it noted.
        if self.steps and iterate.size != self._size:
            self.scale_changes.append(self.steps[-1])
        self._latest, self._size = iterate, iterate.size
        self.steps.append(iterate.step)
        self.losses.append(iterate.losses)
        self._kept += kept
        if len(self._kept) > 3 * self.frames:
            self._thin_out()

    def rewind(self, iterate: Iterate) -> None:
        """Forget what came after an earlier iterate."""
        self._latest, self._size = iterate, iterate.size
        while self.steps and self.steps[-1] > iterate.step:
            self.steps.pop()
            self.losses.pop()
        self.scale_changes = [step for step in self.scale_changes if step < iterate.step]
        self._kept = [kept for kept in self._kept if kept.step <= iterate.step]

    def state(self) -> dict[str, Any]:
        """Give what `restore` needs, as `checkpoints.save_tree` writes it."""
        return {
            "steps": self.steps,
            "losses": [vars(losses) for losses in self.losses],
            "scale_changes": self.scale_changes,
            "spacing": self._spacing,
            "size": self._size,
            "kept": [
                {
                    "position": each.position,
                    "step": each.step,
                    "jpeg": torch.tensor(bytearray(each.jpeg), dtype=torch.uint8),
                    "thumbnail": torch.from_numpy(each.thumbnail),
                }
                for each in self._kept
            ],
        }

    def restore(self, tree: Mapping[str, Any]) -> None:
        """Go on as the recorder whose `state` this is; `snapshots` needs another iterate."""
        self.steps, self.scale_changes = tree["steps"], tree["scale_changes"]
        self.losses = [Losses(**losses) for losses in tree["losses"]]
        self._kept = [
            _Kept(
                each["position"],
                each["step"],
                each["jpeg"].numpy().tobytes(),
                each["thumbnail"].numpy(),
            )
            for each in tree["kept"]
        ]
        self._spacing, self._size, self._latest = tree["spacing"], tree["size"], None

    def snapshots(self, count: int | None = None) -> list[Snapshot]:
        """Choose `count` pictures (`frames` if not given), the first and the last among them."""
        if self._latest is None:
            raise InputError("nothing was recorded: hand the recorder at least one iterate.")
        count = min(count or self.frames, len(self.steps))
        last = Snapshot(self._latest.step, self._frame(self._latest))
        earlier = [kept for kept in self._kept if kept.step < last.step]
        if not earlier or count == 1:
            return [last]
        end = self._position(to_array(resize(self._latest.image, _THUMBNAIL)))
        chosen: dict[int, _Kept] = {}
        for wanted in np.linspace(earlier[0].position, max(end, earlier[-1].position), count)[:-1]:
            nearest = min(earlier, key=lambda kept: abs(kept.position - wanted))
            chosen[nearest.step] = nearest
        return [*(kept.snapshot for kept in chosen.values()), last]

    def _position(self, thumbnail: Frame) -> float:
        """How far along the run is, in visible change since the start."""
        if not self._kept:
            return 0.0
        before = self._kept[-1]
        return before.position + _visible_change(before.thumbnail, thumbnail)

    def _thin_out(self) -> None:
        length = self._kept[-1].position - self._kept[0].position
        self._spacing = length / (2 * self.frames)
        kept = self._kept[:1]
        for candidate in self._kept[1:]:
            if candidate.position - kept[-1].position >= self._spacing:
                kept.append(candidate)
        self._kept = kept

    def _frame(self, iterate: Iterate) -> Frame:
        return to_array(resize(iterate.image, min(iterate.size, self.max_side)))


@dataclass(frozen=True)
class _Kept:
    position: float
    step: int
    jpeg: bytes
    thumbnail: Frame

    @property
    def snapshot(self) -> Snapshot:
        with Image.open(io.BytesIO(self.jpeg)) as picture:
            return Snapshot(self.step, np.asarray(picture))


def _jpeg(frame: Frame) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _visible_change(a: Frame, b: Frame) -> float:
    """Mean absolute difference in grey levels; thumbnails of two scales may differ by a pixel."""
    height, width = min(a.shape[0], b.shape[0]), min(a.shape[1], b.shape[1])
    difference = a[:height, :width].astype(np.int16) - b[:height, :width].astype(np.int16)
    return float(np.abs(difference).mean())


# --- GIFs --------------------------------------------------------------------------------


# --- sheets and plots --------------------------------------------------------------------
