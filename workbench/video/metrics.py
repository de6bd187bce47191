"""What tells films apart: flicker, style, content, sharpness; and which film to take.

Stillness alone is won by a film that is frozen, drifts away from its source or is blurred.
So every film is also measured against what the per-frame mode makes of the same clip.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, zip_longest
from statistics import fmean

import cv2
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from workbench.colour import match_colors
from workbench.descent import measure
from workbench.errors import InputError
from workbench.images import check_image, from_array, to_array
from workbench.losses import Losses
from workbench.progress import bar
from workbench.settings import Settings
from workbench.sheets import finish_plot, new_plot
from workbench.video.clips import Clip, read_frames
from workbench.video.cuts import is_cut
from workbench.video.flow import find_motion
from workbench.video.masks import Mask, read_masks

FAR = 10  # frames apart; where a film drifts, or repaints itself slowly
# What a film may lose against the per-frame one.
MOST_STYLE_LOSS = 1.2
MOST_CONTENT_LOSS = 1.2
LEAST_SHARPNESS = 0.65


def warping_error(
    frames: Iterable[Tensor], source_frames: Iterable[Tensor], *, gap: int = 1
) -> float:
    """How much a film changes where its source only moves; 0 is perfectly still.

    Lai et al. 2018 (arXiv 1808.00449), section 4.2: the mean over pairs of frames t and
    t + gap of

        sum_x M(x) |V_t(x) - V_t+gap(x + f(x))|^2 / sum_x M(x)

    where V are RGB pixels in [0, 1] whose squared differences are summed over the channels,
    f is the flow of the source from t to t + gap, and M is 1 where both frames show the
    same thing (`flow.occlusion`). Differs from the paper in that `gap` may be more than 1,
    and in that pairs with a cut between them do not count.

    Parameters
    ----------
    frames
        The film, `(1, 3, H, W)` each, sRGB in [0, 1].
    source_frames
        What it was painted from, as many and of the same size.
    gap
        How many frames lie between the two of a pair. 1 sees flicker, 10 slow change.

    Raises
    ------
    InputError
        If the two differ in length or size, or no pair is left.
    """
    error = _mean([error for (error,) in warping_errors([frames], source_frames, gap)])
    if error is None:
        raise InputError(f"the film has no two frames {gap} apart within a scene.")
    return error


def warping_errors(
    films: Sequence[Iterable[Tensor]], source_frames: Iterable[Tensor], gap: int = 1
) -> Iterator[list[float | None]]:
    """`warping_error` of several films of one source, pair by pair; the flow is found once.

    An error is None where a cut lies between, or nothing is seen in both. At most `gap + 1`
    frames of each film are held.
    """
    for number, scene in enumerate(_scenes(films, source_frames, gap)):
        if number >= gap:
            yield _errors(scene, gap)[1:]


def _scenes(
    films: Sequence[Iterable[Tensor]], source_frames: Iterable[Tensor], reach: int
) -> Iterator[Sequence[tuple[Tensor, ...]]]:
    """Each frame of the source and of its films, after those of its scene, up to `reach`."""
    scene: deque[tuple[Tensor, ...]] = deque(maxlen=reach + 1)
    for frames in zip_longest(source_frames, *films):
        if any(frame is None for frame in frames):
            raise InputError("the film and its source have different numbers of frames.")
        source, *painted = frames
        for frame in painted:
            check_image(frame, "frame")
            if frame.shape != source.shape:
                raise InputError(
                    f"a frame is {tuple(frame.shape)} and its source {tuple(source.shape)};"
                    " films are measured at the size of their source."
                )
        if scene and is_cut(to_array(scene[-1][0]), to_array(source)):
            scene.clear()
        scene.append(frames)
        yield scene


def _errors(scene: Sequence[tuple[Tensor, ...]], gap: int) -> list[float | None]:
    """Warping errors of the source and of its films between the newest frame and an earlier one."""
    if len(scene) > gap:
        now, later = scene[-1 - gap], scene[-1]
        motion = find_motion(now[0], later[0])
        if seen := motion.visible.sum():
            changes = (a - motion.warp(b) for a, b in zip(now, later, strict=True))
            return [float((motion.visible * each.square()).sum() / seen) for each in changes]
    return [None] * len(scene[-1])


def sharpness(image: Tensor) -> float:
    """Variance of the Laplacian of a grey picture `(1, 3, H, W)`; lower is blurrier."""
    grey = cv2.cvtColor(to_array(image), cv2.COLOR_RGB2GRAY).astype(np.float64)
    return float(cv2.Laplacian(grey, cv2.CV_64F).var())


@dataclass(frozen=True)
class FilmFigures:
    """What one film measures."""

    warping_error: float | None  # between neighbouring frames; None for a single frame
    far_warping_error: float | None  # between frames `FAR` apart; None for a shorter film
    style_loss: float  # weighted, in float32, the mean over frames
    content_loss: float  # likewise
    sharpness: float  # the mean over frames
    by_frame: Sequence[float | None]  # warping error to the next frame, None across cuts

    def as_dict(self) -> dict[str, float | None]:
        """Everything but `by_frame`, by name."""
        return {name: value for name, value in vars(self).items() if name != "by_frame"}


def compare_films(
    films: Mapping[str, Sequence[Tensor]],
    clip: Clip,
    styles: Sequence[Tensor],
    settings: Settings,
    *,
    masks: Sequence[Mask] = (),
    original_colors: str = "off",
    samples: int = 12,
) -> dict[str, FilmFigures]:
    """Measure films of one clip, and the clip itself, as "source".

    Parameters
    ----------
    films
        Name -> frames, `(1, 3, H, W)` each, sRGB in [0, 1], such as `frames.PaintedFrames`.
    clip, styles, settings, masks, original_colors
        What they were painted from and with.
    samples
        Losses are measured on so many frames, evenly spaced.
    """
    count = min(len(frames) for frames in films.values())
    settings = replace(settings, size=max(clip.shape))
    chosen = set(np.linspace(0, count - 1, samples).round().astype(int).tolist())
    near: list[list[float | None]] = []
    far: list[list[float | None]] = []
    losses: list[list[Losses]] = []
    sharp: list[list[float]] = []
    source = (from_array(frame) for frame in islice(read_frames(clip), count))
    scenes = zip(_scenes([*films.values()], source, FAR), read_masks(masks), strict=False)
    for number, (scene, regions) in enumerate(bar(scenes, "measuring", "frame", total=count)):
        frames = scene[-1]
        if len(scene) == 1:
            paintings = [match_colors(style, frames[0], original_colors) for style in styles]
        near.append(_errors(scene, 1))
        far.append(_errors(scene, FAR))
        sharp.append([sharpness(frame) for frame in frames])
        if number in chosen:
            look = partial(measure, masks=regions)
            losses.append([look(frame, frames[0], paintings, settings) for frame in frames])
    figures = {}
    for column, name in enumerate(("source", *films)):
        by_frame = [errors[column] for errors in near[1:]]
        figures[name] = FilmFigures(
            warping_error=_mean(by_frame),
            far_warping_error=_mean([errors[column] for errors in far]),
            style_loss=fmean(row[column].style_total for row in losses),
            content_loss=fmean(row[column].content_total for row in losses),
            sharpness=fmean(row[column] for row in sharp),
            by_frame=by_frame,
        )
    return figures


def steadiest(figures: Mapping[str, FilmFigures], reference: str = "per-frame") -> tuple[str, str]:
    """Choose the film that flickers least among those that kept style, content and sharpness.

    They are held against `reference`, which always stands for choice. Beside the film's name
    comes a sentence that says why.
    """
    base = figures[reference]
    best, least = reference, math.inf if base.warping_error is None else base.warping_error
    told = [f"No mode flickers less than {reference} without a loss"]
    for name, film in figures.items():
        error = film.warping_error
        if name in ("source", reference) or error is None:
            continue
        lost = {
            "the style": film.style_loss > MOST_STYLE_LOSS * base.style_loss,
            "the content": film.content_loss > MOST_CONTENT_LOSS * base.content_loss,
            "sharpness": film.sharpness < LEAST_SHARPNESS * base.sharpness,
        }
        if any(lost.values()):
            told.append(f"{name} lost {' and '.join(what for what in lost if lost[what])}")
        elif error < least:
            best, least = name, error
    if best != reference and base.warping_error:
        share = least / base.warping_error
        told[0] = f"{best} flickers least: its warping error is {share:.2g} of {reference}'s"
    return best, "; ".join(told) + "."


def plot_warping_errors(
    figures: Mapping[str, FilmFigures], fps: float, cuts: Sequence[int]
) -> Figure:
    """Draw the flicker of every film over time, on a log scale, and the frames after `cuts`."""
    figure, axes = new_plot(height=4.0)
    for name, film in figures.items():
        errors = np.array(film.by_frame, dtype=float)  # None becomes NaN: a gap
        line = "--" if name == "source" else "-"
        axes.plot(np.arange(len(errors)) / fps, errors, ls=line, lw=1.8, label=name)
    for cut in cuts:
        axes.axvline(cut / fps, color="0.8", lw=1, zorder=0, label="cut" if cut == cuts[0] else "")
    axes.set(yscale="log", xlabel="seconds", ylabel="warping error", title="Flicker")
    finish_plot(axes)
    return figure


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
