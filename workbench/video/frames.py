"""The folder in which the painted frames of a film lie, each with its digest.

A frame is there once its picture and, after it, its figures are written. What a run finds
there it keeps, if it is whole and of the same run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import Tensor

from workbench.colour import transfer_luma
from workbench.descent import Iterate
from workbench.devices import choose_device, choose_precision, machine, peak_megabytes
from workbench.files import write_bytes
from workbench.images import Frame, from_array, load_image, save_image, to_array
from workbench.runs import Identity, digest, read_identity
from workbench.settings import ClipSettings, Settings
from workbench.video.clips import Clip, is_series, numbered_pictures, read_frames
from workbench.video.masks import Followed, Mask
from workbench.weights import load_weights

# What a film is painted with: what is finished may come from another machine, the rest may not.
MACHINE = ("device", "precision", "workbench", "torch")


@dataclass(frozen=True)
class FrameFigures:
    """What is kept about a painted frame, in a file beside it."""

    sha256: str  # of the picture file
    scene_start: bool  # whether the frame begins a scene, the film's first among them
    steps: int  # optimisation steps it took
    losses: Mapping[str, float]  # "total", "content", "style", "tv", "temporal"; weighted
    seconds: float  # from the frame before to this one
    megabytes: float  # peak memory of the process meanwhile


def finished_frames(folder: str | os.PathLike[str]) -> dict[int, FrameFigures]:
    """Figures of the frames in a folder of `paint_clip` that are there and whole, by number."""
    done = {}
    for path in sorted(Path(folder).glob("[0-9]*.json")):
        if path.stem.isdecimal() and (frame := _read_frame(path)):
            done[int(path.stem)] = frame[0]
    return done


def in_a_row(numbers: Collection[int]) -> int:
    """How many frames there are before the first that is missing, by the numbers of those there."""
    return next(number for number in range(len(numbers) + 1) if number not in numbers)


def _read_frame(path: Path) -> tuple[FrameFigures, bytes] | None:
    """Figures and picture of a frame, by the file of its figures; None unless it is whole."""
    try:
        figures = FrameFigures(**json.loads(path.read_text("utf-8")))
        picture = path.with_suffix(".png").read_bytes()
    except (OSError, ValueError, TypeError):
        return None
    return (figures, picture) if digest(picture) == figures.sha256 else None


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


def finish_frame(
    folder: Path, number: int, iterate: Iterate, scene_start: bool, seconds: float
) -> FrameFigures:
    """Write the picture, and then the figures that say that it is whole."""
    path = frame_path(folder, number)
    save_image(iterate.image, path)
    finished = FrameFigures(
        sha256=digest(path),
        scene_start=scene_start,
        steps=iterate.step,
        losses=iterate.losses.by_kind(),
        seconds=seconds,
        megabytes=peak_megabytes(iterate.image.device),
    )
    _write_figures(folder, number, finished)
    return finished


def _write_figures(folder: Path, number: int, figures: FrameFigures) -> None:
    path = frame_path(folder, number).with_suffix(".json")
    write_bytes(path, json.dumps(asdict(figures)).encode())


@dataclass(frozen=True)
class PaintedFrames(Sequence[Tensor]):
    """The frames `(1, 3, H, W)` of a film, read when asked for from a folder of `paint_clip`."""

    folder: Path  # where they lie
    length: int  # how many
    colors_of: Clip | None = None  # whose colours they are shown in (`colour.transfer_luma`)

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
        "seconds_a_frame": fmean(frame.seconds for frame in later),
        "steps_a_frame": fmean(frame.steps for frame in later),
        "peak_megabytes": max(frame.megabytes for frame in frames),
    }


# --- whose frames they are ---------------------------------------------------------------


def film_identity(
    clip: Clip,
    styles: Sequence[Tensor],
    settings: Settings,
    clip_settings: ClipSettings,
    masks: Sequence[Mask],
    original_colors: str,
) -> Identity:
    """Everything that the painted frames depend on; `MACHINE` has what the machine adds."""
    knobs, init = clip_settings.as_dict(), settings.init
    of_keyframes = {"keyframe_every", "between_steps"}
    unused = {
        "per-frame": set(knobs) - {"mode"},
        "blended": {"temporal_weight", "temporal_lags", *of_keyframes, "flow_method"},
        "flow-warped": {"temporal_weight", "temporal_lags", *of_keyframes},
        "temporal": {"blend", *of_keyframes},
        "keyframes": {"blend", "temporal_lags"},
    }[clip_settings.mode]
    values = clip_identity(clip)
    if masks:
        values["masks"] = list(map(_digest, masks))
    if recolours(original_colors):
        values["original_colors"] = original_colors
    values["style"] = list(map(_digest, styles))
    values |= settings.as_dict()
    del values["size"]  # the frames have their own
    if init not in ("content", "random"):
        values["init"] = _digest(load_image(init))
    values |= {name: value for name, value in knobs.items() if name not in unused}
    values["weights"] = load_weights(settings.backbone).sha256
    device = choose_device(settings.device)
    return Identity(values | machine(device, choose_precision(settings.precision, device)))


def same_stills(folder: Path, identity: Identity) -> bool:
    """Whether frames there were painted as frames that begin a scene are here."""
    there = read_identity(folder) or {}
    if there.get("mode") != "per-frame":
        return False
    alike = {name: there.get(name) for name in ClipSettings().as_dict()}
    return not Identity({**identity.values, **alike}).differences(there)


def clip_identity(clip: Clip) -> dict[str, Any]:
    """Everything that frames read from a clip depend on."""
    return {
        "clip": _digest(clip),
        "start": str(clip.start),
        "stride": clip.stride,
        "fps": str(clip.fps),
        "frame size": f"{clip.shape[1]}x{clip.shape[0]}",
    }


def _digest(source: Mask) -> str:
    """SHA-256 of a picture or mask, of a clip's file, or of the names and contents of pictures."""
    if isinstance(source, Followed):
        return f"{_digest(source.picture)}, carried along"
    if isinstance(source, Tensor):
        return digest(to_array(source.expand(1, 3, -1, -1)).tobytes())
    if not is_series(source.path):
        return digest(source.path)
    inside = [f"{path.name} {digest(path)}" for path in numbered_pictures(source.path)]
    return digest("\n".join(inside).encode())


def recolours(original_colors: str) -> bool:
    """Whether styles are given the colours of a scene."""
    return original_colors not in ("off", "luma")
