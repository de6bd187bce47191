"""Which style model paints which frame of a film, from a schedule of the clip's sections."""

from __future__ import annotations

import bisect
import difflib
import itertools
import math
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.ticker import MaxNLocator

from workbench.errors import InputError
from workbench.fast.models import MODEL, find_checkpoint, read_folder
from workbench.files import kind, parse_yaml, read_yaml
from workbench.images import Frame
from workbench.settings import CLOCK, seconds
from workbench.sheets import new_plot

# Seconds. A time may be told with two decimals, and a clip's length is known to about a frame.
_JOINT, _CLIP_END = 0.01, 0.05
_EXAMPLES = "as in 12.5-30, 1:05-2:10.5 or 30-"

PALETTE = (
    "#3b6fb6", "#e1812c", "#3a923a", "#c03d3e", "#8a63b5", "#8a5a44", "#d684bd", "#2aa5b0",
)  # fmt: skip
_ROW = 0.62  # inches
_PREVIEW = (66, 37)  # points, at most
_APART = 0.07  # of the axis, that two times on it are apart at least

Choice = Mapping[str, float]  # the models that paint a frame -> the share of each


@dataclass(frozen=True)
class Section:
    """A part of a clip and the models that paint it."""

    start: float  # seconds from the clip's beginning
    end: float
    models: tuple[str, ...]  # or finished films; one that is there twice is drawn twice as often
    key: str = field(default="", compare=False)  # what the schedule calls it


@dataclass(frozen=True)
class Schedule:
    """The sections of a whole clip, in time order, each beginning where the one before ends."""

    sections: tuple[Section, ...]

    @property
    def models(self) -> tuple[str, ...]:
        """All names without repeats, in order of appearance."""
        return tuple(dict.fromkeys(name for section in self.sections for name in section.models))


# --- reading -----------------------------------------------------------------------------


def read_schedule(source: str | os.PathLike[str] | Mapping[Any, Any], duration: float) -> Schedule:
    """Read which models paint which section of a clip, whose `duration` is in seconds.

    The source is a mapping such as `{"0-12.5": "sketch", "12.5-": ["ink", "ink@weird"]}`, the same
    as YAML text, the path of a .yaml or .yml file, or one model's name, for the whole clip.
    Sections are in seconds, `m:ss` or `h:mm:ss`; an open end is the clip's end. One that says
    nothing or two things about a part of the clip is refused.
    """
    try:
        return Schedule(_joined(_read_sections(source, duration, "model"), duration))
    except InputError as error:
        raise InputError(f"schedule: {error}") from None


def read_captions(
    source: str | os.PathLike[str] | Mapping[Any, Any], duration: float
) -> Sequence[Section]:
    """Read which texts stand below which section of a film, written like a schedule.

    Sections may have gaps between them, and there may be none.
    """
    try:
        sections = _read_sections(source, duration, "caption") if source else []
        for before, after in itertools.pairwise(sections):
            _check_apart(before, after)
    except InputError as error:
        raise InputError(f"captions: {error}") from None
    return sections


def _read_sections(
    source: str | os.PathLike[str] | Mapping[Any, Any], duration: float, what: str
) -> list[Section]:
    """Sections in time order; `what` they name."""
    if not 0 < duration < math.inf:
        raise InputError(f"duration = {duration}: give the clip's length, in seconds above 0.")
    content = _read_content(source, what)
    sections = [_read_section(key, names, duration, what) for key, names in content.items()]
    return sorted(sections, key=lambda each: (each.start, each.end))


def _read_content(
    source: str | os.PathLike[str] | Mapping[Any, Any], what: str
) -> Mapping[Any, Any]:
    """Section -> names, as they are written."""
    content: Any = source
    if isinstance(source, str) and not _is_path(source.strip()):
        content = parse_yaml(source)
        if isinstance(content, str) and "\n" in source.strip():
            raise InputError(
                f"its lines are one text, not a mapping; write each as `start-end: {what}`, with a"
                " space after the colon."
            )
    elif not isinstance(source, Mapping):
        content = _read_file(Path(str(source).strip()))
    if isinstance(content, str):
        content = {"0-": content}
    if not isinstance(content, Mapping) or not content:
        told = "empty" if content in (None, {}) else kind(content)
        raise InputError(
            f"it must be a mapping, `start-end: {what}`, or one {what}, and is {told}."
        )
    return content


def _is_path(text: str) -> bool:
    """Whether a text is the name of a file; in a schedule, a section's colon has a blank behind."""
    return text.lower().endswith((".yaml", ".yml")) and not re.search(r":\s|\n", text)


def _read_file(path: Path) -> Any:
    try:
        return read_yaml(path)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _read_section(key: Any, names: Any, duration: float, what: str) -> Section:
    if not isinstance(key, str):
        raise InputError(
            f"the key {key} is {kind(key)}, not a section (YAML takes 1:30 for the number 90);"
            f" write start-end, {_EXAMPLES}."
        )
    first, hyphen, last = (part.strip() for part in key.partition("-"))
    if not (first and hyphen):
        raise InputError(f"{key!r} is no section; write start-end, {_EXAMPLES}.")
    start = _read_time(key, first)
    end = _read_time(key, last) if last else duration
    if last and end <= start:
        raise InputError(f"section {key}: its end is not after its start; change one.")
    if start >= duration or end > duration + _CLIP_END:
        raise InputError(
            f"section {key} goes beyond the clip's end, at {_rounded(duration)} s; shorten it or"
            " take it out."
        )
    names = names if isinstance(names, list | tuple) else [] if names is None else [names]
    if not names:
        raise InputError(f"section {key} has no {what}; name one, or a list of them.")
    for name in names:
        if not isinstance(name, str) or not name.strip():
            told = "empty" if isinstance(name, str) else kind(name)
            raise InputError(
                f"section {key}: a {what} must be a text, and one is {told}; put it in quotes."
            )
    return Section(start, min(end, duration), tuple(names), key)


def _read_time(key: str, text: str) -> float:
    if not CLOCK.fullmatch(text):
        raise InputError(
            f"section {key!r}: {text!r} is no time; write seconds, m:ss or h:mm:ss, {_EXAMPLES}."
        )
    return seconds(text)


def _joined(sections: Sequence[Section], duration: float) -> tuple[Section, ...]:
    """The sections, sorted by start, without what little is between them."""
    joined: list[Section] = []
    reached = 0.0
    for section in sections:
        before = joined[-1] if joined else None
        if before:
            _check_apart(before, section)
        _check_said(reached, section.start, _JOINT)
        joined.append(section if before else replace(section, start=0.0))
        reached = section.end
    _check_said(reached, duration, _CLIP_END)
    ends = [*(section.start for section in joined[1:]), duration]
    return tuple(replace(each, end=end) for each, end in zip(joined, ends, strict=True))


def _check_apart(before: Section, after: Section) -> None:
    if after.start < before.end - _JOINT or after.start <= before.start:
        raise InputError(
            f"sections {before.key} and {after.key} overlap; let one end where the other begins."
        )


def _check_said(reached: float, start: float, tolerance: float) -> None:
    if start > reached + tolerance:
        raise InputError(
            f"nothing is said from {_rounded(reached)} to {_rounded(start)} s; add a section"
            " there, or let one beside it reach further."
        )


def _rounded(seconds: float) -> str:
    return f"{seconds:.2f}".rstrip("0").rstrip(".")


# --- models ------------------------------------------------------------------------------


def models_to_train(
    schedule: Schedule, models_dir: str | os.PathLike[str], styles: Collection[str]
) -> list[str]:
    """Names of the models of a schedule that are still to be trained.

    Those may be that there is a style picture for, `styles`; the others must lie in `models_dir`.
    """
    folder, missing = Path(models_dir), {}
    for name in schedule.models:
        own, _, which = name.partition("@")
        if own in styles and not (folder / own / "result.json").is_file():
            missing[own] = True  # its checkpoints are to come
            begun = (folder / own / MODEL).exists() and read_folder(folder / own)
            is_step = which.removeprefix("step-").isdigit()
            if which and not is_step and not (begun and begun.find(which)):
                raise InputError(
                    f"schedule: {name}: {own} is still to be trained, and nothing in it is"
                    f" labelled {which!r} yet; train it and label it first, or name a step."
                )
        elif (folder / own).exists():
            find_checkpoint(folder / name)
        else:
            there = [*styles, *(each.name for each in folder.glob("*/"))]
            near = difflib.get_close_matches(own, there, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise InputError(
                f"schedule: {folder} has no model {own!r}, and styles has no picture to train it"
                f" from{hint}"
            )
    return list(missing)


# --- choosing ----------------------------------------------------------------------------


def choose_models(
    schedule: Schedule,
    frames: int,
    fps: float | Fraction,
    *,
    seed: int = 0,
    hold: int = 1,
    crossfade: int = 0,
) -> list[Choice]:
    """Say for every frame of a film which models paint it, each with its share.

    Frame i is shown at the time i / fps. It has one or two models, the one that fades out before
    the one that fades in; their shares add up to 1. A fade that another change cuts short starts
    anew, from the model that was fading in.

    Parameters
    ----------
    seed
        Decides the draws in sections of several models, from 0 on. A draw depends on nothing else
        but the section's number and its own in the section, however long the others are.
    hold
        Frames for which a drawn model stays, from 1 on, counted from the section's first.
    crossfade
        Frames over which the model before fades out when another one comes; 0: none.
    """
    for what, value, least in (
        ("frames", frames, 1), ("seed", seed, 0), ("hold", hold, 1), ("crossfade", crossfade, 0)
    ):  # fmt: skip
        if value < least:
            raise InputError(f"{what} = {value}: give a whole number from {least} on.")
    if not 0 < fps < math.inf:
        raise InputError(f"fps = {fps}: give a number above 0.")
    starts = [section.start for section in schedule.sections]
    choices: list[Choice] = []
    section, first, changed = -1, 0, 0
    fading_out, fading_in = "", ""
    for frame in range(frames):
        # In floats, like the starts: as fractions, frame 7 at 25 fps would be before 0.28 s.
        now = max(0, bisect.bisect_right(starts, float(frame / fps)) - 1)
        if now != section:
            section, first = now, frame
        draw, held = divmod(frame - first, hold)
        if held == 0:
            models = schedule.sections[section].models
            model = models[np.random.default_rng((seed, section, draw)).integers(len(models))]
            if model != fading_in:
                fading_out, fading_in, changed = fading_in, model, frame
        share = (frame - changed + 1) / (crossfade + 1)
        if fading_out and share < 1:
            choices.append({fading_out: 1 - share, fading_in: share})
        else:
            choices.append({fading_in: 1.0})
    return choices


def describe_schedule(schedule: Schedule, choices: Sequence[Choice]) -> dict[str, float]:
    """How much of the film each model of the schedule paints; adds up to 1."""
    shares = _shares(schedule, choices).mean(1)
    return dict(zip(schedule.models, shares.tolist(), strict=True))


def _shares(schedule: Schedule, choices: Sequence[Choice]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Share of each model (rows) in each frame (columns)."""
    return np.array([[choice.get(name, 0.0) for choice in choices] for name in schedule.models])


# --- plotting ----------------------------------------------------------------------------


def plot_schedule(
    schedule: Schedule,
    choices: Sequence[Choice],
    fps: float | Fraction,
    previews: Mapping[str, Frame],
) -> Figure:
    """Draw which model paints when: a row for each, its preview and its bars over the time.

    A bar is as opaque as the share is large. Not all models need to have a preview, `(H, W, 3)`.
    """
    models, end = schedule.models, schedule.sections[-1].end
    figure, axes = new_plot(height=0.8 + _ROW * len(models))
    axes.barh(range(len(models)), end, 0.72, color="0.955", zorder=0)
    for row, (name, shares) in enumerate(zip(models, _shares(schedule, choices), strict=True)):
        colour = PALETTE[row % len(PALETTE)]
        edges = [0, *(np.flatnonzero(np.diff(shares)) + 1).tolist(), len(shares)]
        runs = [(a, b, shares[a]) for a, b in itertools.pairwise(edges) if shares[a] > 0]
        axes.broken_barh(
            [(float(a / fps), float((b - a) / fps)) for a, b, _ in runs],
            (row - 0.36, 0.72),
            facecolors=[(*to_rgb(colour), share) for _, _, share in runs],
            linewidth=0,
            label=name,
        )
        if name in previews:
            axes.add_artist(_preview_beside(row, previews[name], colour))
    axes.set(xlim=(0, end), ylim=(len(models) - 0.5, -0.5))
    pad = _PREVIEW[0] + 14 if any(name in previews for name in models) else 6
    axes.set_yticks(range(len(models)), models, parse_math=False)
    axes.tick_params(axis="y", length=0, pad=pad)
    axes.spines[["top", "right", "left"]].set_visible(False)
    _show_times(axes, schedule)
    return figure


def _preview_beside(row: int, preview: Frame, colour: str) -> AnnotationBbox:
    """A picture to the left of its row."""
    height, width = preview.shape[:2]
    zoom = min(_PREVIEW[0] / width, _PREVIEW[1] / height)
    return AnnotationBbox(
        OffsetImage(preview, zoom=zoom, interpolation="hanning", resample=True),
        (0, row),
        xybox=(-8, 0),
        xycoords=("axes fraction", "data"),
        boxcoords="offset points",
        box_alignment=(1, 0.5),
        pad=0,
        bboxprops={"edgecolor": colour, "linewidth": 1.5},
    )


def _show_times(axes: Axes, schedule: Schedule) -> None:
    """Mark the sections' borders, and the time between them in grey."""
    end = schedule.sections[-1].end
    borders = [section.start for section in schedule.sections[1:]]
    told = [0.0, end]  # what is too near to another one is not written
    for border in borders:
        axes.axvline(border, color="0.15", lw=0.8, ls=(0, (4, 3)))
        if _is_apart(border, told, end):
            told.append(border)
    in_minutes = end >= 120
    unit = 60 if in_minutes else 1
    ticks = MaxNLocator(8, steps=[1, 2, 5, 10]).tick_values(0, end / unit)
    between = [unit * tick for tick in ticks if _is_apart(unit * tick, [*told, *borders], end)]
    axes.set_xticks(told)
    axes.set_xticks(between, minor=True)
    axes.xaxis.set_major_formatter(_clock if in_minutes else lambda time, _: _rounded(time))
    axes.xaxis.set_minor_formatter(axes.xaxis.get_major_formatter())
    axes.tick_params(axis="x", which="minor", labelcolor="0.55", color="0.55", length=3.5)
    axes.set_xlabel("minutes:seconds" if in_minutes else "seconds")


def _is_apart(time: float, others: Sequence[float], end: float) -> bool:
    """Whether a time lies on the axis, with room for its label."""
    return time < end and min(abs(time - other) for other in others) > _APART * end


def _clock(time: float, _: object = None) -> str:
    minutes, rest = divmod(round(time, 1), 60)
    return f"{minutes:.0f}:{rest:04.1f}".removesuffix(".0")
