"""Five ways to paint a film, over one loop that takes frame after frame.

A frame is optimised as a still is; the modes differ in where it starts from, and the last
one in one more loss. Painted frames lie in a folder, each with its digest, and what a frame
leans on is always read back from there: a run that was killed goes on at the first missing
frame, and the film is the same as if nothing had happened.
"""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import accumulate, chain, pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from workbench.colour import check_original_colors, match_colors, match_spread
from workbench.descent import Iterate, optimize
from workbench.devices import choose_device, ran_out_of_memory, reset_peak_megabytes
from workbench.errors import InputError, MemoryExceeded, OptimizationError
from workbench.files import claimed
from workbench.forecast import Countdown, FilmOutline, check_minutes, expect
from workbench.images import Frame, from_array, load_image
from workbench.losses import TemporalTarget
from workbench.problem import Problem
from workbench.progress import bar
from workbench.runs import Result, finish_run, read_identity, same_run, start_run
from workbench.settings import MIN_SIZE, ClipSettings, Settings
from workbench.video.clips import Clip, check_film, open_clip, read_frames, write_film
from workbench.video.cuts import is_cut
from workbench.video.flow import Motion, find_motion, find_motions, with_likenesses
from workbench.video.frames import (
    MACHINE,
    FrameFigures,
    PaintedFrames,
    copy_frame,
    film_figures,
    film_identity,
    finish_frame,
    finished_frames,
    frame_path,
    in_a_row,
    recolours,
    same_stills,
)
from workbench.video.masks import Mask, read_masks
from workbench.video.steady import check_steady, steadied
from workbench.weights import load_weights

STOP_STEPS = 10  # over which `stop_change` is measured
SAME, MUCH = 0.03, 0.2  # mean difference of colours, share of the picture
NEARNESS = 2  # power of a keyframe's distance with which its share falls


# --- the modes ---------------------------------------------------------------------------


def beginning(
    settings: ClipSettings,
    frame: Tensor,
    earlier: Mapping[int, Tensor],
    motion: Callable[[int], Motion],
) -> tuple[Tensor | None, tuple[TemporalTarget, ...]]:
    """Choose what a frame starts from (None: afresh), and what it must agree with.

    - "per-frame": each frame alone (Gatys, Ecker and Bethge 2015, frame by frame).
    - "blended": the frame with the painted one before it mixed in (Gene Kogan).
    - "flow-warped": the same, with the painted frame first moved to where things are now (Lars
      Eidnes, "Painting Video with Neural Networks"). Differs in that the warp follows the flow
      from this frame back to the one before (his follows the negated flow from there to here).
    - "temporal": the moved painted frame, held close to it and to earlier ones (Ruder,
      Dosovitskiy and Brox 2016, arXiv 1604.08610, sections 4.1 to 4.3): every pixel is tied to
      the nearest of the earlier frames that shows it.
    - "keyframes": the same for every so many frames, tied to the keyframe before. Frames between
      are both keyframes around them, moved, and blended by how near they are where they show it.

    What was hidden before starts from the painting of what looks most like it, unlike in theirs
    (`flow.with_likenesses`): started from the bare frame, it would stay as it is, as the rest of
    the picture satisfies the style loss already. Painted frames (`earlier`) and motion go by how
    many frames ago it was; `motion` is called only where it is wanted.
    """
    match settings.mode:
        case "blended":
            return torch.lerp(frame, earlier[1], settings.blend), ()
        case "flow-warped":
            return torch.lerp(frame, motion(1).warp(earlier[1]), settings.blend), ()
        case "keyframes" if min(earlier) < 0:
            return _between(earlier, motion, settings.temporal_weight)
        case "temporal" | "keyframes":
            targets = []
            untied = torch.ones_like(motion(min(earlier)).visible)
            for lag in sorted(earlier):
                visible = motion(lag).visible * untied
                moved = motion(lag).warp(earlier[lag])
                targets.append(TemporalTarget(moved, visible, settings.temporal_weight))
                untied = untied - visible
            return targets[0].picture, tuple(targets)
        case _:  # per-frame
            return None, ()


def _between(
    keyframes: Mapping[int, Tensor], motion: Callable[[int], Motion], weight: float
) -> tuple[Tensor, tuple[TemporalTarget, ...]]:
    """Blend the keyframes around a frame, moved to where things are now."""
    nearest = min(keyframes, key=abs)
    mixed, shares = torch.zeros_like(keyframes[nearest]), torch.zeros(1)
    for lag, painted in keyframes.items():
        # Where neither shows what is here, the nearer one shows what looks like it.
        share = motion(lag).visible / abs(lag) ** NEARNESS + 1e-6 * (lag == nearest)
        mixed, shares = mixed + share * motion(lag).warp(painted), shares + share
    mixed = mixed / shares
    visible = torch.stack([motion(lag).visible for lag in keyframes]).amax(dim=0)
    return mixed, (TemporalTarget(mixed, visible, weight),)


# --- the loop ----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Frame:
    """A frame of the clip, and what painting it looks at."""

    number: int
    picture: Frame
    scene: Mapping[int, Frame]  # earlier ones of its scene, by how many frames ago they were
    masks: tuple[Tensor, ...]
    motions: Mapping[int, Motion] = field(default_factory=dict)  # to those, where known already


@dataclass(frozen=True, eq=False)
class ClipIterate:
    """A film on its way."""

    frame: int  # its number, from 0
    finished: int  # how many frames are
    frames: int  # how many the clip has, by its container's word
    iterate: Iterate | None  # None when the frame was found painted, or has just been finished
    figures: FrameFigures | None  # of the finished frame; None while it is being painted
    left: Countdown | None = None  # of the film; None before there is anything to paint

    @property
    def done(self) -> float:
        """Frames that are painted, with the share of this one."""
        share = 0.0 if self.iterate is None else self.iterate.step / self.iterate.steps
        return self.finished + share


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
        For every frame; `size` gives way to that of the clip.
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
        If the folder belongs to another run (the message says what differs) or is in use.
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
    with claimed(folder):
        done = {n: each for n, each in finished_frames(folder).items() if n < clip.frames}
        identity = film_identity(clip, styles, settings, clip_settings, masks, original_colors)
        same_run(folder, identity, ignoring=MACHINE)
        stills = Path(alone) if alone and same_stills(Path(alone), identity) else None
        lags = _lags(clip_settings)
        reach = max(lags, default=1)  # cuts are looked for in every mode
        begin = _where_to_begin(done, of_scene=bool(lags) or recolours(original_colors))
        for number in range(begin):
            yield ClipIterate(number, number + 1, clip.frames, None, done[number])
        left: Countdown | None = None
        started = time.monotonic()
        device = choose_device(settings.device)
        reset_peak_megabytes(device)
        frames = _frames(clip, masks, begin, reach)
        if clip_settings.mode == "keyframes":
            method, every = clip_settings.flow_method, clip_settings.keyframe_every
            frames = _keyframes_first(frames, every, method, settings.device)
        for count, each in enumerate(frames, start=begin):
            number, scene = each.number, each.scene
            if not scene:
                first = from_array(each.picture), frame_path(folder, number)
                paintings = [match_colors(style, first[0], original_colors) for style in styles]
            if number in done:
                yield ClipIterate(number, count + 1, clip.frames, None, done[number])
                continue
            same_run(folder, identity)
            figures = copy_frame(number, stills, folder) if stills and not scene else None
            if figures is None:
                before = {lag: frame_path(folder, number - lag) for lag in scene if lag in lags}
                frame = from_array(each.picture)
                paint = partial(optimize, frame, paintings, masks=each.masks)
                if left is None:
                    problem = Problem.of(frame, paintings, settings, each.masks)
                    left = expect(problem, film_outline(problem, clip, clip_settings)).say(count)
                    del problem
                with _saying_what_stays(folder):
                    for iterate in _paint_frame(
                        frame, each, before, first, paint, settings, clip_settings
                    ):
                        yield ClipIterate(number, count, clip.frames, iterate, None, left)
                seconds = time.monotonic() - started
                figures = finish_frame(folder, number, iterate, not scene, seconds)
            yield ClipIterate(number, count + 1, clip.frames, None, figures, left)
            started = time.monotonic()
            reset_peak_megabytes(device)


def _where_to_begin(done: Mapping[int, FrameFigures], *, of_scene: bool) -> int:
    """The frame to read first: one before that to paint first, or that which began its scene."""
    begin = max(0, in_a_row(done) - 1)
    while of_scene and begin > 0 and not done[begin].scene_start:
        begin -= 1
    return begin


def _frames(clip: Clip, masks: Sequence[Mask], begin: int, reach: int) -> Iterator[_Frame]:
    """Each frame, with those of its scene up to `reach` before it."""
    scene: dict[int, Frame] = {}  # by how many frames ago they were
    pictures = zip(read_frames(clip, begin), read_masks(masks, begin), strict=False)
    for number, (picture, regions) in enumerate(pictures, start=begin):
        if scene and is_cut(scene[1], picture):
            scene = {}
        yield _Frame(number, picture, scene, regions)
        scene = {1: picture, **{lag + 1: each for lag, each in scene.items() if lag < reach}}


def _keyframes_first(
    frames: Iterable[_Frame], every: int, method: str, device: str
) -> Iterator[_Frame]:
    """Frames of `_frames`, each keyframe before those that lie between it and the one before.

    Keyframes alone are left in their scenes; the one to come, by how many frames ahead it is, less
    than 0. The last frame of a scene is a keyframe. Their motions are found from frame to frame
    and follow each other: so neighbours move alike, and little is lost on the way.
    """

    def onwards(steps: Iterable[Motion]) -> list[Motion]:
        return [*accumulate(steps, lambda so_far, step: step.then(so_far))]

    def ordered(group: Sequence[_Frame]) -> Iterator[_Frame]:
        count, last = len(group), group[-1]
        first = last.scene[count]
        pairs = pairwise([first, *(each.picture for each in group)])
        find = partial(find_motions, method=method, device=device)
        found = (find(from_array(b), from_array(a)) for a, b in pairs)
        steps = [[motion.ignoring_edges() for motion in both] for both in found]  # or they add up
        backward, forward = zip(*steps, strict=True)
        back, ahead = onwards(backward), onwards(forward[:0:-1])[::-1]
        yield replace(last, scene={count: first}, motions={count: back[-1]})
        for i, each in enumerate(group[:-1], start=1):
            scene = {i: first, i - count: last.picture}
            yield replace(each, scene=scene, motions={i: back[i - 1], i - count: ahead[i - 1]})

    group: list[_Frame] = []
    for each in frames:
        if group and (len(group) == every or not each.scene):
            yield from ordered(group)
            group = []
        if each.scene:
            group.append(each)
        else:
            yield each
    if group:
        yield from ordered(group)


def film_outline(problem: Problem, clip: Clip, clip_settings: ClipSettings) -> FilmOutline:
    """What a film's time and memory depend on; the problem is that of a frame alone."""
    return FilmOutline(**vars(problem.outline), frames=clip.frames, film=clip_settings)


def within(
    clip: Clip,
    styles: Sequence[Tensor],
    folder: str | os.PathLike[str],
    settings: Settings,
    clip_settings: ClipSettings,
    minutes: float,
    *,
    masks: Sequence[Mask] = (),
) -> tuple[Settings, ClipSettings]:
    """The settings with the steps that give the best film in so many minutes; says which.

    Those of the frames that are in `folder` already are kept. All else is as for `paint_clip`.
    """
    check_minutes(minutes)
    there = read_identity(Path(folder))
    if there is not None:
        settings = settings.changed(steps=there["steps"])
        later = there.get("later_steps", clip_settings.later_steps)
        clip_settings = clip_settings.changed(later_steps=later)
    else:
        settings = replace(settings, size=max(clip.shape))
        frame, regions = from_array(next(read_frames(clip))), next(read_masks(masks))
        problem = Problem.of(frame, styles, settings, regions)
        film = expect(problem, film_outline(problem, clip, clip_settings)).fitted(minutes)
        settings, clip_settings = film.settings, film.film
    steps = ",".join(map(str, settings.steps))
    print(f"In {minutes:g} min: --steps {steps} --later-steps {clip_settings.later_steps}")
    return settings, clip_settings


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
    with contextlib.closing(iterates):
        for now in iterates:
            if now.iterate is None and now.finished < now.frames:
                yield now  # found on the disk, which says nothing of the speed
            else:
                yield from bar(chain([now], iterates), title, "frame", where=_where, left=_left)


def _left(now: ClipIterate) -> float:
    return now.left(now.done, time.monotonic()) if now.left else 0.0


def _where(now: ClipIterate) -> tuple[int, int, str]:
    at = now.iterate
    text = f"step {at.step}/{at.steps}, loss {at.losses.total:.3g}" if at else ""
    return now.finished, max(now.frames, now.frame + 1), text


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
    steady: float = 0.0,
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
        One of `settings.MODES`; None: as `clip_settings` says.
    masks, original_colors, steady, quality
        As for `paint_film`, which says what is raised.
    """
    check_film("film.mp4", quality=quality)
    check_steady(steady)
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
        steady=steady,
        quality=quality,
    )
    told = {"original_colors": original_colors, "steady": steady}
    told = {name: value for name, value in told.items() if value not in ("off", 0)}
    return finish_run(
        folder,
        outputs={"film": film},
        figures=figures,
        settings={"clip": str(clip.path), **told, **settings.as_dict(), **clip_settings.as_dict()},
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
    steady: float = 0.0,
    quality: int = 18,
) -> tuple[PaintedFrames, dict[str, float]]:
    """Paint a clip into a film with its sound, with progress bars; see `stylize_clip`.

    Parameters
    ----------
    frames
        Folder for its frames, as for `paint_clip`.
    film, masks, alone, quality
        As for `paint_clip` and `clips.write_film`, which raise what is raised.
    original_colors
        One of `colour.ORIGINAL_COLORS`, to keep the colours of the clip. "luma" gives the film
        the brightness of the painting only; the others give each style the colours that a scene
        begins with.

    steady
        Strength with which the film is stilled as it is written, by `steady.steadied`; its frames
        stay as they are.

    Returns
    -------
    PaintedFrames, dict
        Its frames, and `frames.film_figures` of them.
    """
    check_steady(steady)
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
    write_painted(painted, clip, film, steady=steady, quality=quality)
    return painted, film_figures(finished)


def write_painted(
    frames: PaintedFrames,
    clip: Clip,
    film: str | os.PathLike[str],
    *,
    steady: float = 0.0,
    quality: int = 18,
) -> None:
    """Write frames of `paint_clip` as a film with the clip's sound; there must be one at least."""
    if not frames:
        raise InputError(f"{frames.folder} has no finished frame yet; go on painting.")
    still = steadied(zip(frames.pictures(), read_frames(clip), strict=False), steady)
    pictures = bar(still, "writing", "frame", total=len(frames))
    write_film(pictures, film, clip.fps, sound=clip, quality=quality)


def shortfall(clip: Clip, frames: int) -> str | None:
    """The sentence about a clip that gave fewer frames than its file promises, if it did."""
    if clip.frames - frames < 2:  # containers round their length
        return None
    return (
        f"{clip.path} breaks off: {frames} of {clip.frames} frames could be decoded;"
        " the film is made of these."
    )


def _lags(settings: ClipSettings) -> Sequence[int]:
    """How many frames ago the frames were that the mode looks at; less than 0: how far ahead."""
    if settings.mode == "keyframes":
        return range(-settings.keyframe_every, settings.keyframe_every + 1)
    return {"per-frame": (), "temporal": settings.temporal_lags}.get(settings.mode, (1,))


def _as_at_first(painted: Tensor, source: Tensor, first: Tensor, first_painted: Path) -> Tensor:
    """Keep a shot that stands still from getting brighter or harder with every frame.

    A painted frame gets the brightness and contrast of the scene's first where both show the same.
    """
    change = F.avg_pool2d(source - first, 5, stride=1, padding=2).abs().mean(dim=1, keepdim=True)
    same = (change < SAME).float()
    if same.mean() < MUCH:
        return painted
    return match_spread(painted, load_image(first_painted), same)


def _paint_frame(
    frame: Tensor,
    each: _Frame,
    before: Mapping[int, Path],
    first: tuple[Tensor, Path],
    paint: Callable[..., Iterator[Iterate]],
    settings: Settings,
    clip_settings: ClipSettings,
) -> Iterator[Iterate]:
    """Paint a frame; `before` has the painted files of those it leans on, by their lags.

    `first` is the frame that begins the scene, and its painted file.
    """
    painted = {
        lag: _as_at_first(load_image(path), from_array(each.scene[lag]), *first)
        for lag, path in before.items()
    }
    nearest = min(before, key=abs, default=0)

    @cache
    def motion(lag: int) -> Motion:
        earlier, method = from_array(each.scene[lag]), clip_settings.flow_method
        if (found := each.motions.get(lag)) is None:
            found = find_motion(frame, earlier, method, device=settings.device)
        return with_likenesses(found, frame, earlier) if lag == nearest else found

    if not before:
        yield from paint(settings)
        return
    start, temporal = beginning(clip_settings, frame, painted, motion)
    losses: list[float] = []
    steps = clip_settings.later_steps
    if clip_settings.mode == "keyframes":
        steps = clip_settings.between_steps if min(before) < 0 else clip_settings.key_steps
    later = replace(settings, steps=(steps,))
    for iterate in paint(later, start=start, temporal=temporal):
        yield iterate
        losses.append(iterate.losses.total)
        if clip_settings.stop_change > 0 and len(losses) > STOP_STEPS:
            earlier = losses[-1 - STOP_STEPS]
            if earlier - losses[-1] < clip_settings.stop_change * earlier:
                return
