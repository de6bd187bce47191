"""Four ways to paint a film, over one loop that takes frame after frame.

A frame is optimised as a still is; the modes differ in where it starts from, and the last
one in one more loss. Painted frames lie in a folder, each with its digest, and what a frame
leans on is always read back from there: a run that was killed goes on at the first missing
frame, and the film is the same as if nothing had happened.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

import workbench
from workbench.colour import check_original_colors, match_colors, recolour
from workbench.descent import Iterate, TargetCache, optimize
from workbench.devices import (
    choose_device,
    choose_precision,
    ran_out_of_memory,
    reset_peak_megabytes,
)
from workbench.errors import InputError, MemoryExceeded, OptimizationError
from workbench.files import claimed
from workbench.images import Frame, from_array, load_image, resize, to_array
from workbench.losses import TemporalTarget
from workbench.progress import bar, canvas
from workbench.runs import Result, finish_run, start_run
from workbench.settings import MIN_SIZE, ClipSettings, Settings
from workbench.video.clips import (
    Clip,
    check_film,
    numbered_pictures,
    open_clip,
    read_frames,
    write_film,
)
from workbench.video.cuts import is_cut
from workbench.video.flow import Motion, find_motion
from workbench.video.frames import (
    FrameFigures,
    PaintedFrames,
    check_same_run,
    copy_frame,
    film_figures,
    finish_frame,
    finished_frames,
    frame_path,
    read_identity,
)
from workbench.video.masks import Mask, read_masks
from workbench.weights import load_weights

STOP_STEPS = 10  # over which `stop_change` is measured
SKETCH_STEPS = 30  # at half size; with fewer, what comes into view stays pale
_NARROW = 5  # px
_ELSEWHERE = ("size", "device", "precision")  # settings that the identity has in other words


# --- the modes ---------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Now:
    """The frame that is being painted.

    Attributes
    ----------
    picture
        `(1, 3, H, W)`, float32, sRGB in [0, 1].
    make_sketch
        Gives `sketch`; called only by modes that want it.
    """

    picture: Tensor
    make_sketch: Callable[[], Tensor]

    @cached_property
    def sketch(self) -> Tensor:
        """The frame painted alone at half its size, then enlarged to `(1, 3, H, W)`."""
        return self.make_sketch()


@dataclass(frozen=True, eq=False)
class Earlier:
    """A frame of the same scene that is painted already.

    Attributes
    ----------
    painted
        `(1, 3, H, W)`, float32, sRGB in [0, 1].
    find_motion
        Gives `motion`; called only by modes that want it.
    """

    painted: Tensor
    find_motion: Callable[[], Motion]

    @cached_property
    def motion(self) -> Motion:
        """From the frame that is being painted to this one."""
        return self.find_motion()

    @cached_property
    def moved(self) -> Tensor:
        """`painted`, moved to where things are now."""
        return self.motion.warp(self.painted)


@dataclass(frozen=True, eq=False)
class Beginning:
    """Where a frame starts from (None: afresh), and which earlier frames it must agree with."""

    start: Tensor | None
    temporal: tuple[TemporalTarget, ...] = ()


# The second is the earlier frames of the scene, by how many frames ago they were.
Mode = Callable[[Now, Mapping[int, Earlier], ClipSettings], Beginning]


def per_frame(now: Now, earlier: Mapping[int, Earlier], settings: ClipSettings) -> Beginning:
    """Each frame alone (Gatys, Ecker and Bethge 2015, frame by frame)."""
    return Beginning(None)


def blended(now: Now, earlier: Mapping[int, Earlier], settings: ClipSettings) -> Beginning:
    """Start from the frame with the painted one before it mixed in (Gene Kogan)."""
    return Beginning(torch.lerp(now.picture, earlier[1].painted, settings.blend))


def flow_warped(now: Now, earlier: Mapping[int, Earlier], settings: ClipSettings) -> Beginning:
    """The same, with the painted frame first moved to where things are now.

    Lars Eidnes, "Painting Video with Neural Networks". Differs in that the warp follows the
    flow from this frame back to the one before (his follows the negated flow from there to
    here), and in what was hidden there, which starts from a sketch.
    """
    mixed = torch.lerp(now.picture, earlier[1].moved, settings.blend)
    return Beginning(_with_sketch(mixed, now, earlier[1].motion.visible))


def temporal(now: Now, earlier: Mapping[int, Earlier], settings: ClipSettings) -> Beginning:
    """Start from the moved painted frame, and stay close to it and to earlier ones.

    Ruder, Dosovitskiy and Brox 2016 (arXiv 1604.08610), sections 4.1 to 4.3: every pixel is
    tied to the nearest of the earlier frames that shows it. Differs in what was hidden,
    which starts from a sketch.
    """
    targets = []
    untied = torch.ones_like(earlier[1].motion.visible)
    for lag in sorted(earlier):
        visible = earlier[lag].motion.visible * untied
        targets.append(TemporalTarget(earlier[lag].moved, visible, settings.temporal_weight))
        untied = untied - visible
    start = _with_sketch(earlier[1].moved, now, earlier[1].motion.visible)
    return Beginning(start, tuple(targets))


def _with_sketch(picture: Tensor, now: Now, visible: Tensor) -> Tensor:
    """Put the sketch where things come into view.

    Started from the bare frame, such places would stay as they are: the rest of the picture
    satisfies the style loss already. Places narrower than `_NARROW` pixels are the doubtful
    edges of things that move rather than something new.
    """
    hidden = 1 - visible
    wide = -F.max_pool2d(-hidden, _NARROW, stride=1, padding=_NARROW // 2)
    hidden = F.max_pool2d(wide, _NARROW, stride=1, padding=_NARROW // 2)
    return torch.lerp(picture, now.sketch, hidden) if hidden.any() else picture


_MODES: Mapping[str, Mode] = {
    "per-frame": per_frame,
    "blended": blended,
    "flow-warped": flow_warped,
    "temporal": temporal,
}


# --- the loop ----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class ClipIterate:
    """A film on its way.

    Attributes
    ----------
    frame
        Number of the frame, from 0.
    frames
        How many the clip has, by its container's word.
    iterate
        The frame's own; None when the frame was found painted, or has just been finished.
    figures
        Of the finished frame; None while it is being painted.
    """

    frame: int
    frames: int
    iterate: Iterate | None
    figures: FrameFigures | None


def paint_clip(
    clip: Clip,
    styles: Sequence[Tensor],
    folder: str | os.PathLike[str],
    settings: Settings,
    clip_settings: ClipSettings,
    *,
    masks: Sequence[Mask] = (),
    original_colors: str = "off",
    alone: str | os.PathLike[str] | None = None,
) -> Generator[ClipIterate]:
    """Paint a clip frame by frame into a folder, going on where an earlier run stopped.

    Parameters
    ----------
    clip
        From `clips.open_clip`; its frames are painted at their own size.
    styles
        Style pictures, `(1, 3, H, W)`, sRGB in [0, 1].
    folder
        Gets `000000.png` and `000000.json` (see `FrameFigures`) for each frame, and
        `run.json`, which says what they are the frames of. Frames that are there are kept
        if they are whole; a damaged one is painted again.
    settings
        Of every frame; `size` gives way to that of the clip.
    clip_settings
        What frames have to do with each other.
    masks
        One for each style, from `masks.open_masks`: where that style is painted.
    original_colors
        One of `colour.ORIGINAL_COLORS`. Most give each style the colours of a scene's first
        frame; "luma" changes nothing here, but how `frames.PaintedFrames` shows the frames.
    alone
        Folder in which the same clip is painted in mode "per-frame": frames that begin a scene
        would be the same, and are taken from there.

    Yields
    ------
    ClipIterate
        After every step, and once for every finished frame.

    Raises
    ------
    InputError
        If a folder belongs to another run (the message says what differs) or is in use,
        or the clip has no frames.
    OptimizationError
        As `optimize`, or if memory runs out. Finished frames stay.
    """
    folder = Path(folder)
    if max(clip.shape) < MIN_SIZE:
        raise InputError(
            f"{clip.path} has frames of {clip.shape[1]}x{clip.shape[0]} pixels; the longer side"
            f" needs at least {MIN_SIZE}."
        )
    check_original_colors(original_colors)
    settings = replace(settings, size=max(clip.shape))
    targets = TargetCache()
    with claimed(folder):
        done = {n: each for n, each in finished_frames(folder).items() if n < clip.frames}
        first = next(number for number in range(len(done) + 1) if number not in done)
        machine = _machine(settings)
        identity = {
            **_identity(clip, styles, settings, clip_settings, masks, original_colors),
            **machine,
        }
        check_same_run(folder, identity, ignoring=machine)
        stills = None if alone is None or not _same_stills(Path(alone), identity) else Path(alone)
        for number in range(first):
            yield ClipIterate(number, clip.frames, None, done[number])
        reach = max(_lags(clip_settings), default=1)  # cuts are looked for in every mode
        scene: deque[tuple[int, Frame]] = deque(maxlen=reach)
        begin = max(0, first - reach)
        while _recolours(original_colors) and begin > 0 and not done[begin].scene_start:
            begin -= 1
        started = time.monotonic()
        device = choose_device(settings.device)
        reset_peak_megabytes(device)
        pictures = zip(read_frames(clip, begin), read_masks(masks, begin), strict=False)
        for number, (picture, regions) in enumerate(pictures, start=begin):
            if scene and is_cut(scene[-1][1], picture):
                scene.clear()
            if not scene:
                first_frame = from_array(picture)
                paintings = [match_colors(style, first_frame, original_colors) for style in styles]
            if number >= first and number in done:
                yield ClipIterate(number, clip.frames, None, done[number])
            elif number not in done:
                check_same_run(folder, identity)
                figures = None
                if stills is not None and not scene:
                    figures = copy_frame(number, stills, folder)
                if figures is None:
                    frame = from_array(picture)
                    paint = partial(optimize, frame, paintings, masks=regions, targets=targets)
                    with _saying_what_stays(folder):
                        beginning = _begin(
                            frame, number, scene, folder, paint, settings, clip_settings
                        )
                        for iterate in _paint_frame(paint, settings, clip_settings, beginning):
                            yield ClipIterate(number, clip.frames, iterate, None)
                    figures = finish_frame(
                        folder,
                        number,
                        iterate,
                        scene_start=not scene,
                        seconds=time.monotonic() - started,
                    )
                yield ClipIterate(number, clip.frames, None, figures)
                started = time.monotonic()
                reset_peak_megabytes(device)
            scene.append((number, picture))


@contextlib.contextmanager
def _saying_what_stays(folder: Path) -> Iterator[None]:
    stays = f"The finished frames are kept in {folder}."
    try:
        yield
    except OptimizationError as error:
        raise type(error)(f"{error} {stays}", error.last_good) from error
    except (MemoryError, RuntimeError) as error:
        if not ran_out_of_memory(error):
            raise
        raise MemoryExceeded(
            f"memory ran out; use a smaller size, or close other programs. {stays}", None
        ) from error


def show_progress(iterates: Generator[ClipIterate], title: str) -> Iterator[ClipIterate]:
    """Pass iterates on and draw a progress bar with the frame, its step and its loss.

    Closed, it closes them, and so gives their folder free.
    """
    options = {"unit": "frame", "file": canvas(), "ncols": 88, "mininterval": 0.2}
    with contextlib.closing(iterates), tqdm(desc=title, **options) as bar:
        painted = False
        for now in iterates:
            bar.total = max(now.frames, now.frame + 1)
            if now.iterate is not None:
                painted = True
                step, steps = now.iterate.step, now.iterate.steps
                loss = f"loss {now.iterate.losses.total:.3g}"
                bar.set_postfix_str(f"step {step}/{steps}, {loss}", refresh=False)
                bar.update(0)
            elif now.figures is not None:
                bar.initial += 0 if painted else 1  # found on disk: says nothing of the speed
                bar.update(1)
            yield now


def stylize_clip(
    clip: str | os.PathLike[str] | Clip,
    styles: Sequence[Tensor],
    output_dir: str | os.PathLike[str],
    *,
    mode: str | None = None,
    settings: Settings = Settings(),  # noqa: B008 (frozen)
    clip_settings: ClipSettings = ClipSettings(),  # noqa: B008
    masks: Sequence[Mask] = (),
    original_colors: str = "off",
    quality: int = 18,
) -> Result:
    """Paint a clip into a film with the clip's sound; run again, it goes on where it stopped.

    Parameters
    ----------
    clip
        A file or folder of pictures, shrunk to `settings.size`; or from `clips.open_clip`.
    styles
        Style pictures, `(1, 3, H, W)`, sRGB in [0, 1].
    output_dir
        Gets `film.mp4`, the folder `frames` and, when all is done, `result.json`.
    mode
        "per-frame", "blended", "flow-warped" or "temporal"; None: as `clip_settings` says.
    settings, clip_settings
        See `Settings` and `ClipSettings`.
    masks, original_colors, quality
        As for `paint_film`.

    Raises
    ------
    InputError, OptimizationError, OutputError
        As `paint_film`. Finished frames stay.
    """
    check_film("film.mp4", quality=quality)
    if not isinstance(clip, Clip):
        clip = open_clip(clip, size=settings.size)
    if mode is not None:
        clip_settings = replace(clip_settings, mode=mode)
    folder = start_run(output_dir)
    film = folder / "film.mp4"
    _, figures = paint_film(
        clip,
        styles,
        folder.parent / "frames",
        film,
        settings,
        clip_settings,
        masks=masks,
        original_colors=original_colors,
        quality=quality,
    )
    colors = {} if original_colors == "off" else {"original_colors": original_colors}
    return finish_run(
        folder,
        outputs={"film": film},
        figures=figures,
        settings={
            "clip": str(clip.path),
            **colors,
            **settings.as_dict(),
            **clip_settings.as_dict(),
        },
        weights=load_weights(settings.backbone).as_dict(),
    )


def paint_film(
    clip: Clip,
    styles: Sequence[Tensor],
    frames: str | os.PathLike[str],
    film: str | os.PathLike[str],
    settings: Settings,
    clip_settings: ClipSettings,
    *,
    masks: Sequence[Mask] = (),
    original_colors: str = "off",
    alone: str | os.PathLike[str] | None = None,
    quality: int = 18,
) -> tuple[PaintedFrames, dict[str, float]]:
    """Paint a clip into a film with its sound, with progress bars; see `stylize_clip`.

    Parameters
    ----------
    frames
        Folder for its frames, as for `paint_clip`.
    film
        Ends in .mp4, .mov or .mkv.
    masks, alone
        As for `paint_clip`.
    original_colors
        One of `colour.ORIGINAL_COLORS`, to keep the colours of the clip. "luma" gives the film
        the brightness of the painting only; the others give each style the colours that a scene
        begins with.
    quality
        Of the film, as for `clips.write_film`; smaller is better.

    Returns
    -------
    PaintedFrames, dict
        Its frames, and `frames.film_figures` of them.

    Raises
    ------
    InputError, OptimizationError, OutputError
        As `paint_clip` and `clips.write_film`. Finished frames stay.
    """
    iterates = paint_clip(
        clip,
        styles,
        frames,
        settings,
        clip_settings,
        masks=masks,
        original_colors=original_colors,
        alone=alone,
    )
    with contextlib.closing(iterates):  # or a traceback in Jupyter would keep it, and its lock
        shown = show_progress(iterates, clip_settings.mode)
        finished = [now.figures for now in shown if now.figures is not None]
    if sentence := shortfall(clip, len(finished)):
        warnings.warn(sentence, stacklevel=3)
    colors_of = clip if original_colors == "luma" else None
    painted = PaintedFrames(Path(frames), len(finished), colors_of)
    write_painted(painted, clip, film, quality=quality)
    return painted, film_figures(finished)


def write_painted(
    frames: PaintedFrames, clip: Clip, film: str | os.PathLike[str], *, quality: int = 18
) -> None:
    """Write frames of `paint_clip` as a film with the clip's sound.

    Raises
    ------
    InputError
        If there are none.
    OutputError
        If the film cannot be written.
    """
    if not frames:
        raise InputError(f"{frames.folder} has no finished frame yet; go on painting.")
    pictures = bar(frames.pictures(), "writing", "frame", total=len(frames))
    write_film(pictures, film, clip.fps, sound=clip, quality=quality)


def shortfall(clip: Clip, frames: int) -> str | None:
    """The sentence about a clip that gave fewer frames than its file promises, if it did."""
    if clip.frames - frames < 2:  # containers round their length
        return None
    return (
        f"{clip.path} breaks off: {frames} of {clip.frames} frames could be decoded;"
        " the film is made of these."
    )


def _recolours(original_colors: str) -> bool:
    """Whether styles are given the colours of a scene."""
    return original_colors not in ("off", "luma")


def _lags(settings: ClipSettings) -> tuple[int, ...]:
    """How many frames ago the frames were that the mode looks at."""
    return {"per-frame": (), "temporal": settings.temporal_lags}.get(settings.mode, (1,))


def _begin(
    frame: Tensor,
    number: int,
    scene: Sequence[tuple[int, Frame]],
    folder: Path,
    paint: Callable[..., Iterator[Iterate]],
    settings: Settings,
    clip_settings: ClipSettings,
) -> Beginning:
    """Look up the earlier frames of the scene and ask the mode."""
    if not scene:
        return Beginning(None)
    lags = _lags(clip_settings)
    method, device = clip_settings.flow_method, settings.device
    earlier: dict[int, Earlier] = {}
    for before, source in scene:
        if number - before in lags:
            find = partial(find_motion, frame, from_array(source), method, device=device)
            earlier[number - before] = Earlier(load_image(frame_path(folder, before)), find)

    def make_sketch() -> Tensor:
        start = recolour(frame, from_array(scene[-1][1]), earlier[1].painted)
        return _sketch(paint, start, settings)

    return _MODES[clip_settings.mode](Now(frame, make_sketch), earlier, clip_settings)


def _sketch(paint: Callable[..., Iterator[Iterate]], start: Tensor, settings: Settings) -> Tensor:
    """Paint a frame quickly, at half size, from the colours that painting gave the one before."""
    coarse = replace(settings, size=max(MIN_SIZE, settings.size // 2), steps=(SKETCH_STEPS,))
    try:
        *_, iterate = paint(coarse, start=start)
    except InputError:  # frame or style would be too small for the network
        *_, iterate = paint(replace(coarse, size=settings.size), start=start)
    height, width = start.shape[-2:]
    return resize(iterate.image.cpu(), (height, width))


def _paint_frame(
    paint: Callable[..., Iterator[Iterate]],
    settings: Settings,
    clip_settings: ClipSettings,
    beginning: Beginning,
) -> Iterator[Iterate]:
    if beginning.start is None:
        yield from paint(settings)
        return
    settings = replace(settings, steps=(clip_settings.later_steps,))
    losses: list[float] = []
    for iterate in paint(settings, start=beginning.start, temporal=beginning.temporal):
        yield iterate
        losses.append(iterate.losses.total)
        if clip_settings.stop_change > 0 and len(losses) > STOP_STEPS:
            before = losses[-1 - STOP_STEPS]
            if before - losses[-1] < clip_settings.stop_change * before:
                return


def _identity(
    clip: Clip,
    styles: Sequence[Tensor],
    settings: Settings,
    clip_settings: ClipSettings,
    masks: Sequence[Mask],
    original_colors: str,
) -> dict[str, Any]:
    """Everything that the painted frames depend on, but for the machine."""
    knobs, init = clip_settings.as_dict(), settings.init
    unused = {
        "per-frame": set(knobs) - {"mode"},
        "blended": {"temporal_weight", "temporal_lags", "flow_method"},
        "flow-warped": {"temporal_weight", "temporal_lags"},
        "temporal": {"blend"},
    }[clip_settings.mode]
    regions: dict[str, Any] = {"masks": [_mask_digest(mask) for mask in masks]} if masks else {}
    return {
        **clip_identity(clip),
        **regions,
        **({"original_colors": original_colors} if _recolours(original_colors) else {}),
        "style": [_picture_digest(style) for style in styles],
        **{name: value for name, value in settings.as_dict().items() if name not in _ELSEWHERE},
        "init": init if init in ("content", "random") else _picture_digest(load_image(init)),
        **{name: value for name, value in knobs.items() if name not in unused},
        "weights": load_weights(settings.backbone).sha256,
    }


def _machine(settings: Settings) -> dict[str, str]:
    """What frames are painted with: what is finished may come from another, the rest may not."""
    device = choose_device(settings.device)
    return {
        "device": device.type,
        "precision": str(choose_precision(settings.precision, device)).removeprefix("torch."),
        "workbench": workbench.__version__,
        "torch": torch.__version__,
    }


def _same_stills(folder: Path, identity: Mapping[str, Any]) -> bool:
    """Whether frames there were painted as frames that begin a scene are here."""
    there = read_identity(folder) or {}
    of_films = {field.name for field in fields(ClipSettings)}
    names = (there.keys() | identity.keys()) - of_films
    return there.get("mode") == "per-frame" and all(
        there.get(name) == identity.get(name) for name in names
    )


def clip_identity(clip: Clip) -> dict[str, Any]:
    """Everything that frames read from a clip depend on."""
    return {
        "clip": _digest(clip.path),
        "start": str(clip.start),
        "stride": clip.stride,
        "fps": str(clip.fps),
        "frame size": f"{clip.shape[1]}x{clip.shape[0]}",
    }


def _mask_digest(mask: Mask) -> str:
    return (
        _picture_digest(mask.expand(1, 3, -1, -1))
        if isinstance(mask, Tensor)
        else _digest(mask.path)
    )


def _picture_digest(picture: Tensor) -> str:
    return hashlib.sha256(to_array(picture).tobytes()).hexdigest()


def _digest(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of a folder's numbered pictures."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    inside = [f"{file.name} {_digest(file)}" for file in numbered_pictures(path)]
    return hashlib.sha256("\n".join(inside).encode()).hexdigest()
