"""What watches a stream: a progress bar, a recorder, pictures on the way."""

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
from workbench.files import encode
from workbench.forecast import Expected, about
from workbench.images import Frame, resize, save_image, shape_of, to_array
from workbench.losses import Losses
from workbench.runs import HEADLESS

T = TypeVar("T")

_COUNTED_DOWN = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
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
    left: Callable[[T], float] | None = None,
) -> Iterator[T]:
    """Pass items on and draw a progress bar, of text wherever it is.

    A notebook that was run headless and saved keeps text, where a widget would show up empty.
    `total` is how many items there are, with the `done` that come before these. `where` says how
    far an item is, of how much, and what else to say; None: items are counted. `left` says how
    many seconds are left behind an item; None: as those before would make one believe.
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
            bar_format=_COUNTED_DOWN if left else None,
        ) as line:
            for item in itertools.chain([first], items):
                if where:
                    done, line.total, text = where(item)
                    if left:
                        text = ", ".join(filter(None, [text, f"{about(left(item))} left"]))
                    line.set_postfix_str(text, refresh=False)
                    line.update(done - line.n)
                yield item
                if not where:
                    line.update(1)


def show_progress(
    iterates: Iterable[Iterate],
    title: str = "painting",
    expected: Expected[Any] | None = None,
) -> Iterator[Iterate]:
    """Pass iterates on and draw a progress bar with the size and the loss.

    What is `expected` of the painting is said before the first, and counted down.
    """
    iterates = iter(iterates)
    if (first := next(iterates, None)) is None:
        return
    countdown = expected.say(first.step) if expected else None
    yield from bar(
        itertools.chain([first], iterates),
        title,
        "step",
        where=lambda now: (now.step, now.steps, f"{now.size} px, loss {now.losses.total:.3g}"),
        left=(lambda now: countdown(now.step, time.monotonic())) if countdown else None,
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

    def save() -> None:
        if latest is not None and latest.step > 0:
            with contextlib.suppress(OutputError):
                save_image(latest.image, path)

    try:
        for latest in iterates:
            began = time.monotonic()
            if latest.step > 0 and began - saved >= max(seconds, took / share):
                save()
                saved = time.monotonic()
                took = saved - began
            yield latest
    except BaseException:
        save()
        raise
    Path(path).unlink(missing_ok=True)


def keep_colors(
    iterates: Iterable[Iterate], content: Tensor, original_colors: str
) -> Iterator[Iterate]:
    """Pass iterates on, in the colours of the photograph if `original_colors` is "luma"."""
    fitted = content
    for iterate in iterates:
        if original_colors == "luma":
            if fitted.shape != iterate.image.shape:  # once a scale
                fitted = resize(content, shape_of(iterate.image))
            iterate = replace(iterate, image=transfer_luma(iterate.image, fitted))
        yield iterate


def save_every(
    iterates: Iterable[Iterate], path: str | os.PathLike[str], steps: int
) -> Iterator[Iterate]:
    """Pass iterates on and save a picture every so many steps, as -save_iter does.

    With the finished picture's `path` painted.png, they are painted_100.png, painted_200.png, ...
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

    `snapshots` gives `frames` of them, evenly spaced in visible change, so that every frame of a
    GIF shows something new. However long the run, at most three times as many are held, as
    JPEG; when there are more, the one goes that differs least from the one before.
    """

    frames: int = 40
    max_side: int = 640  # longest side in pixels of what is kept
    steps: list[int] = field(default_factory=list)  # of all iterates so far
    sizes: list[int] = field(default_factory=list)  # likewise, longest sides in pixels
    losses: list[Losses] = field(default_factory=list)  # likewise
    _kept: list[_Kept] = field(default_factory=list, repr=False)
    _latest: Iterate | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.frames < 2:
            raise InputError(f"frames = {self.frames}: a progress needs at least 2.")

    @property
    def scale_changes(self) -> list[int]:
        """Steps after which the picture grew."""
        pairs = zip(self.steps, itertools.pairwise(self.sizes), strict=False)
        return [step for step, (size, next_size) in pairs if size != next_size]

    def add(self, iterate: Iterate) -> None:
        """Take note of one iterate, unless it is the last one again."""
        if self.steps and iterate.step == self.steps[-1]:
            self._latest = iterate
            return
        thumbnail = _thumbnail(iterate)
        position = self._position(thumbnail)
        kept = list(self._kept)
        changes = [b.position - a.position for a, b in itertools.pairwise(kept)]
        full = len(kept) == 3 * self.frames
        if not full or position - kept[-1].position > min(changes):
            if full:
                del kept[changes.index(min(changes)) + 1]
            kept.append(_Kept(position, iterate.step, _jpeg(self._frame(iterate)), thumbnail))
        # From here on nothing takes time, so that Ctrl-C does not leave half of it noted.
        self._latest, self._kept = iterate, kept
        self.steps.append(iterate.step)
        self.sizes.append(iterate.size)
        self.losses.append(iterate.losses)

    def copy(self) -> Recorder:
        """One that goes on from here by itself."""
        return replace(self, steps=[*self.steps], sizes=[*self.sizes], losses=[*self.losses])

    def state(self) -> dict[str, Any]:
        """Give what `restore` needs, as `checkpoints.save_tree` writes it."""
        return {
            "steps": self.steps,
            "sizes": self.sizes,
            "losses": [vars(losses) for losses in self.losses],
            "kept": [vars(kept) for kept in self._kept],
        }

    def restore(self, tree: Mapping[str, Any]) -> None:
        """Go on as the recorder whose `state` this is; `snapshots` needs another iterate."""
        self.steps, self.sizes, self._latest = tree["steps"], tree["sizes"], None
        self.losses = [Losses(**losses) for losses in tree["losses"]]
        self._kept = [_Kept(**kept) for kept in tree["kept"]]

    def snapshots(self, count: int | None = None) -> list[Snapshot]:
        """Choose `count` pictures (`frames` if not given), the first and the last among them."""
        if self._latest is None:
            raise InputError("nothing was recorded: hand the recorder at least one iterate.")
        count = min(count or self.frames, len(self.steps))
        last = Snapshot(self._latest.step, self._frame(self._latest))
        earlier = [kept for kept in self._kept if kept.step < last.step]
        if not earlier or count == 1:
            return [last]
        end = self._position(_thumbnail(self._latest))
        chosen: dict[int, Snapshot] = {}
        for wanted in np.linspace(earlier[0].position, max(end, earlier[-1].position), count)[:-1]:
            nearest = min(earlier, key=lambda kept: abs(kept.position - wanted))
            if nearest.step not in chosen:
                chosen[nearest.step] = nearest.snapshot()
        return [*chosen.values(), last]

    def _position(self, thumbnail: Tensor) -> float:
        """How far along the run is, in visible change since the start."""
        if not self._kept:
            return 0.0
        before = self._kept[-1]
        # Thumbnails of two scales may differ by a pixel.
        height, width = np.minimum(thumbnail.shape, before.thumbnail.shape)[:2]
        now, then = (each[:height, :width].float() for each in (thumbnail, before.thumbnail))
        return before.position + float((now - then).abs().mean())

    def _frame(self, iterate: Iterate) -> Frame:
        return to_array(resize(iterate.image, min(iterate.size, self.max_side)))


@dataclass(frozen=True, eq=False)
class _Kept:
    """A picture as it lies in a checkpoint; both tensors are of bytes."""

    position: float
    step: int
    jpeg: Tensor
    thumbnail: Tensor

    def snapshot(self) -> Snapshot:
        with Image.open(io.BytesIO(self.jpeg.numpy().tobytes())) as picture:
            return Snapshot(self.step, np.asarray(picture))


def _jpeg(frame: Frame) -> Tensor:
    data = encode(Image.fromarray(frame), "JPEG", quality=90)
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def _thumbnail(iterate: Iterate) -> Tensor:
    return torch.from_numpy(to_array(resize(iterate.image, _THUMBNAIL)))
