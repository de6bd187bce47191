"""The folder in which the painted frames of a film lie, each with its digest.

A frame is there once its picture and, after it, its figures are written. What a run finds
there it keeps, if it is whole and of the same run.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from torch import Tensor

from workbench.colour import transfer_luma
from workbench.descent import Iterate
from workbench.devices import peak_megabytes
from workbench.errors import InputError
from workbench.files import write_bytes
from workbench.images import Frame, from_array, load_image, save_image, to_array
from workbench.video.clips import Clip, read_frames

_RUN = "run.json"


@dataclass(frozen=True)
class FrameFigures:
    """What is kept about a painted frame, in a file beside it.

    Attributes
    ----------
    sha256
        Of the picture file.
    scene_start
        Whether the frame begins a scene, the film's first among them.
    steps
        Optimisation steps it took.
    losses
        "total", "content", "style", "tv", "temporal"; weighted, at the precision of the run.
    seconds
        From the frame before to this one.
    megabytes
        Peak memory of the process meanwhile.
    """

    sha256: str
    scene_start: bool
    steps: int
    losses: Mapping[str, float]
    seconds: float
    megabytes: float


def check_same_run(
    folder: Path, identity: Mapping[str, Any], ignoring: Collection[str] = ()
) -> None:
    """Write down what a folder holds the work of, or refuse one that holds another's.

    Parameters
    ----------
    identity
        Everything that the work depends on.
    ignoring
        Names in it that may differ.

    Raises
    ------
    InputError
        If `run.json` says something else (the message names the first difference), or there
        are files without it.
    """
    path = folder / _RUN
    if not any(not each.name.startswith(".") and each != path for each in folder.iterdir()):
        write_bytes(path, json.dumps(identity, indent=1).encode())  # nothing was made here yet
        return
    there = read_identity(folder)
    if there is None:
        raise InputError(
            f"{folder} holds files but no run.json that says what of; use another folder."
        )
    for name in (*identity, *there):
        if there.get(name) != identity.get(name) and name not in ignoring:
            raise InputError(
                f"{folder} belongs to another run: {name} is {there.get(name)!r} there and"
                f" {identity.get(name)!r} here; use another folder, or delete this one."
            )


def read_identity(folder: Path) -> dict[str, Any] | None:
    """What a folder holds the work of; None where nothing says so."""
    try:
        there = json.loads((folder / _RUN).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return there if isinstance(there, dict) else None


def finished_frames(folder: str | os.PathLike[str]) -> dict[int, FrameFigures]:
    """Figures of the frames in a folder of `paint_clip` that are there and whole, by number."""
    done = {}
    for path in sorted(Path(folder).glob("[0-9]*.json")):
        if path.stem.isdecimal() and (frame := _read_frame(path)):
            done[int(path.stem)] = frame[0]
    return done


def _read_frame(path: Path) -> tuple[FrameFigures, bytes] | None:
    """Figures and picture of a frame, by the file of its figures; None unless it is whole."""
    try:
        figures = FrameFigures(**json.loads(path.read_text("utf-8")))
        picture = path.with_suffix(".png").read_bytes()
    except (OSError, ValueError, TypeError):
        return None
    return (figures, picture) if hashlib.sha256(picture).hexdigest() == figures.sha256 else None


def copy_frame(number: int, source: Path, target: Path) -> FrameFigures | None:
    """Take a frame over from another folder; None if it is not there, or not whole."""
    frame = _read_frame(frame_path(source, number).with_suffix(".json"))
    if frame is None:
        return None
    write_bytes(frame_path(target, number), frame[1])
    _write_figures(target, number, frame[0])
    return frame[0]


def frame_path(folder: str | os.PathLike[str], number: int) -> Path:
    """Where `paint_clip` puts a painted frame."""
    return Path(folder) / f"{number:06d}.png"


def finish_frame(folder: Path, number: int, iterate: Iterate, **figures: Any) -> FrameFigures:
    """Write the picture, and then the figures that say that it is whole."""
    path = frame_path(folder, number)
    save_image(iterate.image, path)
    finished = FrameFigures(
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        steps=iterate.step,
        losses=iterate.losses.by_kind(),
        megabytes=peak_megabytes(iterate.image.device),
        **figures,
    )
    _write_figures(folder, number, finished)
    return finished


def _write_figures(folder: Path, number: int, figures: FrameFigures) -> None:
    path = frame_path(folder, number).with_suffix(".json")
    write_bytes(path, json.dumps(asdict(figures)).encode())


@dataclass(frozen=True)
class PaintedFrames(Sequence[Tensor]):
    """The frames `(1, 3, H, W)` of a film, read when asked for from a folder of `paint_clip`.

    Attributes
    ----------
    folder
        Where they lie.
    length
        How many.
    colors_of
        Clip whose colours they are shown in, frame by frame (`colour.transfer_luma`); None: as
        they were painted.
    """

    folder: Path
    length: int
    colors_of: Clip | None = None

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Tensor:  # type: ignore[override]
        if not 0 <= index < self.length:
            raise IndexError(f"frame {index} of {self.length}")
        return next(self.read(index))

    def __iter__(self) -> Iterator[Tensor]:
        return self.read()

    def read(self, first: int = 0) -> Iterator[Tensor]:
        """Read one frame after the other, from `first` on."""
        painted = (load_image(frame_path(self.folder, n)) for n in range(first, self.length))
        if self.colors_of is None:
            yield from painted
            return
        for frame, source in zip(painted, read_frames(self.colors_of, first), strict=False):
            yield transfer_luma(frame, from_array(source))

    def pictures(self) -> Iterator[Frame]:
        """All frames `(H, W, 3)` in 0..255, one after the other."""
        return (to_array(frame) for frame in self)


def film_figures(frames: Sequence[FrameFigures]) -> dict[str, float]:
    """What painting a film took: frames, scenes, seconds and steps a frame, peak memory."""
    later = [frame for frame in frames if not frame.scene_start] or frames
    return {
        "frames": len(frames),
        "scenes": sum(frame.scene_start for frame in frames),
        "seconds_a_frame": median(frame.seconds for frame in later),
        "steps_a_frame": median(frame.steps for frame in later),
        "peak_megabytes": max(frame.megabytes for frame in frames),
    }
