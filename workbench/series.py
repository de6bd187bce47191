"""Variations of one picture: a grid over two settings, a sweep over many styles.

Every finished variation is a picture file and, written after it, a small JSON file that says
what it was made of. What a series finds in its folder it keeps, if it is whole and of the
same making.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from matplotlib.transforms import Bbox
from torch import Tensor
from tqdm import tqdm

import workbench
from workbench.descent import Iterate, TargetCache, measure, optimize
from workbench.errors import InputError, OptimizationError
from workbench.files import PICTURE_SUFFIXES, claimed, pictures_in, portable_name, write_bytes
from workbench.images import (
    Box,
    Frame,
    crop_image,
    from_array,
    load_image,
    save_image,
    to_array,
)
from workbench.notebook import unknown_parameter
from workbench.progress import canvas
from workbench.samples import PREFIX, find_pictures, load_picture
from workbench.settings import Settings
from workbench.sheets import contact_sheet
from workbench.weights import load_weights

FIGURES = ("loss", "content_loss", "style_loss", "tv_loss", "steps", "seconds")
CROP = "crop"  # may vary like a setting, although it is none
_NAME_BYTES = 180  # what a file system takes, less what is put around it while writing
# Where a label may stand beside its point: offset, and which edges of the text lie there.
_SIDES = (
    (6, 4, "left", "bottom"),
    (6, -4, "left", "top"),
    (-6, 4, "right", "bottom"),
    (-6, -4, "right", "top"),
    (0, 8, "center", "bottom"),
    (0, -8, "center", "top"),
)

Axis = tuple[str, Sequence[Any]]
"""What changes along a side of a grid: the name of a setting, or "crop", and its values."""


@dataclass(frozen=True)
class Variation:
    """One picture of a series, before it is painted.

    Attributes
    ----------
    name
        File name without suffix; every variation of a series has its own.
    caption
        What people read.
    content
        Photograph, as `samples.load_picture` takes it.
    crop
        Part of the photograph, as `images.crop_image` takes it; None: all of it.
    styles
        Style pictures, as `samples.load_picture` takes them.
    settings
        See `Settings`.
    """

    name: str
    caption: str
    content: str
    crop: Box | None
    styles: tuple[str, ...]
    settings: Settings


@dataclass(frozen=True)
class Painted:
    """A variation that is done with.

    Attributes
    ----------
    variation
        Which.
    path
        Its picture file.
    figures
        "loss" is what was minimised, in the units of the variation's own weights;
        "content_loss", "style_loss" and "tv_loss" are of the picture as saved, by the
        ruler of `paint_variations`; then "steps" and "seconds". Empty with a problem.
    problem
        Why there is no picture, in a sentence; None if there is one.
    found
        Whether it was there already, from an earlier run.
    """

    variation: Variation
    path: Path
    figures: Mapping[str, float]
    problem: str | None = None
    found: bool = False


# --- which variations --------------------------------------------------------------------


def grid(
    content: str,
    styles: Sequence[str],
    settings: Settings,
    rows: Axis,
    columns: Axis,
    crop: Box | None = None,
) -> list[Variation]:
    """All combinations of the values of two settings, row by row.

    Parameters
    ----------
    content, styles
        Pictures, as `samples.load_picture` takes them.
    settings
        Those that do not change.
    rows, columns
        Name and values of a setting, such as `("style_weight", [10, 100])`, or of "crop",
        whose values are as below or empty for the whole photograph.
    crop
        Part of the photograph, as `images.crop_image` takes it; None: all of it.

    Raises
    ------
    InputError
        If a name is unknown, a value makes no sense or something is given twice.
    """
    known = [*(field.name for field in dataclasses.fields(Settings)), CROP]
    for name, values in (rows, columns):
        if name not in known:
            raise InputError(unknown_parameter(name, known))
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise InputError(f"values of {name} = {values!r}: give a list of one or more.")
    if rows[0] == columns[0]:
        raise InputError(f"rows and columns are both {rows[0]}; give two different ones.")
    variations = []
    for row in rows[1]:
        for column in columns[1]:
            changes = {rows[0]: row, columns[0]: column}
            box = _box(changes.pop(CROP)) if CROP in changes else crop
            texts = [_label(rows[0], row), _label(columns[0], column)]
            variations.append(
                Variation(
                    _file_name("-".join(texts)),
                    ", ".join(texts),
                    content,
                    box,
                    tuple(styles),
                    replace(settings, **changes),
                )
            )
    _refuse_twins(rows, variations[:: len(columns[1])])
    _refuse_twins(columns, variations[: len(columns[1])])
    return _with_own_names(variations)


def sweep(
    content: str,
    styles: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    settings: Settings,
    crop: Box | None = None,
) -> list[Variation]:
    """One photograph in many styles, one at a time.

    Parameters
    ----------
    content
        Photograph, as `samples.load_picture` takes it.
    styles
        A folder, of which all pictures are taken in the natural order of their names
        ("sketch 9" before "sketch 10"); a picture; or a list of either.
    settings
        Of all of them.
    crop
        Part of the photograph, as `images.crop_image` takes it; None: all of it.

    Raises
    ------
    InputError
        If there is no such folder, or there are no pictures in it.
    """
    variations = []
    for name in _style_names(styles):
        stem = Path(name.removeprefix(PREFIX)).stem
        variations.append(Variation(_file_name(stem), stem, content, crop, (name,), settings))
    return _with_own_names(variations)


def _style_names(
    styles: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
) -> list[str]:
    if isinstance(styles, (str, os.PathLike)) and not str(styles).startswith(PREFIX):
        folder = Path(styles)
        if folder.suffix.lower() not in PICTURE_SUFFIXES and not folder.is_dir():
            pictures_in(folder)  # says what is wrong
    names = find_pictures(styles)
    if not names:
        raise InputError("styles is empty; give a folder, or a list of pictures.")
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"styles: {name} is given twice.")
    return names


def _box(crop: Any) -> Box | None:
    if crop is None or (isinstance(crop, Sequence) and not crop):
        return None
    crop_image(torch.empty(1, 3, 1, 1), crop)  # refuses what makes no sense
    left, top, right, bottom = map(float, crop)
    return left, top, right, bottom


def _refuse_twins(axis: Axis, variations: Sequence[Variation]) -> None:
    name, values = axis
    seen = []
    for value, variation in zip(values, variations, strict=True):
        meaning = variation.crop if name == CROP else getattr(variation.settings, name)
        if meaning in seen:
            raise InputError(f"values of {name}: {value!r} is given twice.")
        seen.append(meaning)


def _with_own_names(variations: Sequence[Variation]) -> list[Variation]:
    """The same with a number behind a name that is taken, be it in other letter case."""
    taken: set[str] = set()
    own = []
    for variation in variations:
        name, number = variation.name, 1
        while name.casefold() in taken:
            number += 1
            name = f"{variation.name}-{number}"
        taken.add(name.casefold())
        own.append(replace(variation, name=name))
    return own


def _file_name(text: str) -> str:
    safe = re.sub(r"[^\w.+-]+", "_", text).strip("._") or "picture"
    return portable_name(safe.encode()[:_NAME_BYTES].decode(errors="ignore"))


# --- painting them -----------------------------------------------------------------------


def paint_variations(
    variations: Sequence[Variation],
    folder: str | os.PathLike[str],
    ruler: Settings,
    *,
    kept: str | os.PathLike[str] | None = None,
) -> Iterator[Painted]:
    """Paint a series of variations into a folder, with a progress bar.

    A variation that cannot be painted (its style picture is damaged, its loss explodes) gets
    a sentence, and the others are painted all the same; the next run tries it again.

    Parameters
    ----------
    variations
        From `grid` or `sweep`.
    folder
        Gets `NAME.png` and `NAME.json` for each. Those that are there already are kept if
        they are whole and pictures, settings, ruler, weights and version are the same.
    ruler
        What numbers are compared by. However a picture was painted, its content, style and
        tv loss are measured in float32 with weight 1 and no layer factors, at the layers,
        the size, the style scale, the backbone and the pooling of these settings.
    kept
        Another folder whose pictures are taken as well, and never touched: those of an earlier
        run.

    Yields
    ------
    Painted
        One for each variation, in their order.

    Raises
    ------
    InputError
        If a photograph cannot be used, another run paints into the folder, or not one
        variation could be painted.
    OutputError
        If a picture cannot be written. Finished ones stay.
    """
    folder, ruler = Path(folder), _with_unit_weights(ruler)
    largest = max(each.largest for each in (ruler, *(each.settings for each in variations)))
    contents = {
        (name, crop): load_picture(name, for_size=largest, crop=crop)
        for name, crop in {(each.content, each.crop) for each in variations}
    }
    backbones = {ruler.backbone, *(each.settings.backbone for each in variations)}
    weights = {name: load_weights(name).sha256 for name in backbones}
    targets = TargetCache()
    styles: dict[tuple[str, ...], list[Tensor]] = {}  # those in use
    problems = []
    with claimed(folder), _bar(len(variations)) as bar:
        for variation in variations:
            path = folder / f"{variation.name}.png"
            bar.set_postfix_str(variation.caption[:30], refresh=False)
            content = contents[variation.content, variation.crop]
            try:
                key = _key(variation, ruler, weights)
                figures = _find(path, key)
                if figures is None and kept is not None:
                    earlier = Path(kept) / path.name
                    figures = _find(earlier, key)
                    path = path if figures is None else earlier
                found = figures is not None
                if figures is None:
                    if variation.styles not in styles:
                        styles.clear()
                        styles[variation.styles] = [
                            load_picture(name, for_size=largest) for name in variation.styles
                        ]
                    watch = _watch(bar, variation)
                    picture, figures = _paint(
                        content, styles[variation.styles], variation.settings, ruler, targets, watch
                    )
                    _save(picture, path, key, figures)
                painted = Painted(variation, path, figures, found=found)
            except (InputError, OptimizationError) as error:
                painted = Painted(variation, path, {}, str(error))
                problems.append(str(error))
            bar.initial += painted.found  # says nothing of the speed
            bar.update()
            yield painted
    if problems and len(problems) == len(variations):
        raise InputError(f"not one of the pictures could be painted: {problems[0]}")


def with_rest(painted: Sequence[Painted], variations: Sequence[Variation]) -> list[Painted]:
    """A series that was broken off, with a sentence for each variation that is missing."""
    rest = variations[len(painted) :]
    return [*painted, *(Painted(each, Path(), {}, "It is not painted yet.") for each in rest)]


def _with_unit_weights(settings: Settings) -> Settings:
    """Only what `measure` looks at, so that nothing else makes a ruler another one."""
    return Settings(
        content_weight=1.0,
        style_weight=1.0,
        tv_weight=1.0,
        content_layers=settings.content_layers,
        style_layers=settings.style_layers,
        style_blend_weights=settings.style_blend_weights,
        style_scale=settings.style_scale,
        size=settings.size,
        backbone=settings.backbone,
        pooling=settings.pooling,
        device=settings.device,
        precision="float32",
    )


def _bar(total: int) -> tqdm[Any]:
    return tqdm(
        desc="painting", total=total, unit="picture", file=canvas(), ncols=88, mininterval=0.2
    )


def _watch(bar: tqdm[Any], variation: Variation) -> Callable[[Iterate], None]:
    def show(iterate: Iterate) -> None:
        text = f"{variation.caption[:30]}, step {iterate.step}/{iterate.steps}"
        bar.set_postfix_str(text, refresh=False)
        bar.update(0)

    return show


def _paint(
    content: Tensor,
    styles: Sequence[Tensor],
    settings: Settings,
    ruler: Settings,
    targets: TargetCache,
    watch: Callable[[Iterate], None],
) -> tuple[Tensor, dict[str, float]]:
    """The picture with the colours that a file can hold, and its figures."""
    started = time.monotonic()
    for iterate in optimize(content, styles, settings, targets=targets):
        watch(iterate)
    seconds = time.monotonic() - started
    picture = from_array(to_array(iterate.image))
    measured = measure(picture, content, styles, ruler, targets=targets)
    return picture, {
        "loss": iterate.losses.total,
        "content_loss": measured.content_total,
        "style_loss": measured.style_total,
        "tv_loss": measured.tv,
        "steps": iterate.step,
        "seconds": round(seconds, 3),
    }


def _key(variation: Variation, ruler: Settings, weights: Mapping[str, str]) -> str:
    """SHA-256 of everything that the picture and its figures depend on."""
    settings = variation.settings
    init = settings.init
    made_of = {
        "content": _digest(variation.content),
        "crop": variation.crop,
        "styles": [_digest(name) for name in variation.styles],
        "settings": settings.as_dict(),
        "init": init if init in ("content", "random") else _digest(init),
        "ruler": ruler.as_dict(),
        "weights": [weights[settings.backbone], weights[ruler.backbone]],
        "workbench": workbench.__version__,
    }
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()


def _digest(name: str) -> str:
    """SHA-256 of a picture file; a sample is what its name says."""
    if name.startswith(PREFIX):
        return name
    try:
        with Path(name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{name} cannot be read: {str(error.strerror).lower()}.") from None


def _find(path: Path, key: str) -> dict[str, float] | None:
    """Figures of a picture that is there, whole and made of what `key` says."""
    try:
        there = json.loads(path.with_suffix(".json").read_text("utf-8"))
        if there["key"] != key:
            return None
        if there["sha256"] != hashlib.sha256(path.read_bytes()).hexdigest():
            return None
        return {name: there["figures"][name] for name in FIGURES}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _save(picture: Tensor, path: Path, key: str, figures: Mapping[str, float]) -> None:
    """Write the picture, and then what says that it is whole."""
    save_image(picture, path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    text = json.dumps({"key": key, "sha256": sha256, "figures": figures}, indent=1)
    write_bytes(path.with_suffix(".json"), text.encode())


# --- showing them ------------------------------------------------------------------------


def grid_sheet(
    painted: Sequence[Painted], rows: Axis, columns: Axis, *, height: int = 256
) -> Frame:
    """A contact sheet of a `grid`, with its values at the edges and losses below the pictures.

    A single row needs no name at its edge.

    Parameters
    ----------
    painted
        From `paint_variations`, all of the grid.
    rows, columns
        As they were given to `grid`.
    height
        That all pictures are brought to, in pixels.
    """
    frames = [_frame(each, height) for each in painted]
    captions = ["not painted" if each.problem else _losses(each) for each in painted]
    return contact_sheet(
        frames,
        captions,
        columns=len(columns[1]),
        height=height,
        row_labels=_labels(rows) if len(rows[1]) > 1 else (),
        column_labels=_labels(columns),
    )


def sweep_sheet(painted: Sequence[Painted], *, columns: int = 6, height: int = 200) -> Frame:
    """A contact sheet of a `sweep`, with the style's name and the losses below each picture.

    Parameters
    ----------
    painted
        From `paint_variations`; those with a problem are left out.
    columns
        Pictures in a row, at most.
    height
        That all pictures are brought to, in pixels.
    """
    there = [each for each in painted if each.problem is None]
    captions = [f"{each.variation.caption}\n{_losses(each)}" for each in there]
    frames = [_frame(each, height) for each in there]
    return contact_sheet(frames, captions, columns=min(columns, len(there)), height=height)


def flip_frames(painted: Sequence[Painted], *, size: int) -> list[Frame]:
    """The pictures of a series as frames of a GIF, each with its caption below.

    Parameters
    ----------
    painted
        From `paint_variations`; those with a problem are left out.
    size
        Longest side of a picture in pixels, at most.
    """
    there = [each for each in painted if each.problem is None]
    pictures = [to_array(load_image(each.path)) for each in there]
    height, width = pictures[0].shape[:2]
    height = min(height, round(height * size / max(height, width)))
    captions = [each.variation.caption for each in there]
    sheet = contact_sheet(pictures, captions, columns=1, height=height)
    return np.split(sheet, len(there))


def plot_tradeoff(painted: Sequence[Painted], rows: Axis, columns: Axis, ruler: Settings) -> Figure:
    """Draw what a `grid` gains in style for what it loses of the photograph.

    Content loss against style loss, both on log scales: the nearer to the lower left corner,
    the better on both counts. The pictures of a row are joined.

    Parameters
    ----------
    painted
        From `paint_variations`, all of the grid.
    rows, columns
        As they were given to `grid`.
    ruler
        As it was given to `paint_variations`.
    """
    figure = Figure(figsize=(8, 6), layout="constrained", dpi=110)
    axes = figure.subplots()
    width = len(columns[1])
    labels: list[tuple[str, float, float, Any]] = []
    shades = colormaps["viridis"](np.linspace(0, 0.75, len(rows[1])))
    for number, (label, shade) in enumerate(zip(_labels(rows), shades, strict=True)):
        row = painted[number * width : (number + 1) * width]
        # Zero, of a picture that is the photograph itself, has no place on a log scale.
        content = [each.figures.get("content_loss") or math.nan for each in row]
        style = [each.figures.get("style_loss") or math.nan for each in row]
        axes.plot(content, style, "o-", color=shade, lw=1.6, label=label)
        labels += [
            (_value(columns[0], value), x, y, shade)
            for value, x, y in zip(columns[1], content, style, strict=True)
            if math.isfinite(x + y)
        ]
    how = f"weight 1, float32, {ruler.size} px"
    axes.set(
        xscale="log",
        yscale="log",
        xlabel=f"content loss ({_value('', ruler.content_layers)}; {how})",
        ylabel=f"style loss ({_value('', ruler.style_layers)}; {how})",
        title="What style costs in content",
    )
    axes.margins(0.12)
    for side in (axes.xaxis, axes.yaxis):
        low, high = side.get_view_interval()
        side.set_major_locator(
            MaxNLocator(5)
            if high < 4 * low
            else LogLocator(subs=(1, 2, 3, 5, 7) if high < 20 * low else (1, 2, 5))
        )
        side.set_major_formatter(FuncFormatter(lambda number, _: _short(number)))
        side.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.25, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(title=f"at the points: {columns[0]}", frameon=False, fontsize=9)
    if labels:
        _write_at_points(axes, labels)
    return figure


def _write_at_points(axes: Axes, labels: Sequence[tuple[str, float, float, Any]]) -> None:
    """Write `(text, x, y, colour)` beside the points, on the side where there is room."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # only then is it known where on the page a point lies
    points = axes.transData.transform([(x, y) for _, x, y, _ in labels])
    taken = [Bbox.from_bounds(x - 6, y - 6, 12, 12) for x, y in points]
    for text, x, y, colour in labels:
        written = axes.annotate(
            text,
            (x, y),
            (6, 4),
            textcoords="offset points",
            color=colour,
            fontsize=9,
            path_effects=[withStroke(linewidth=3, foreground="white")],
        )
        boxes = []
        for dx, dy, side, edge in _SIDES:
            written.set(position=(dx, dy), ha=side, va=edge)
            boxes.append(written.get_window_extent())
        overlaps = [sum(map(box.overlaps, taken)) for box in boxes]
        best = overlaps.index(min(overlaps))
        dx, dy, side, edge = _SIDES[best]
        written.set(position=(dx, dy), ha=side, va=edge)
        taken.append(boxes[best])


def check_figure(name: str) -> None:
    """Raise `InputError` if a series cannot be sorted by `name`: "name", or one of `FIGURES`."""
    if name not in ("name", *FIGURES):
        raise InputError(f"sort_by = {name!r}: use one of name, {', '.join(FIGURES)}.")


def check_above_zero(**numbers: float) -> None:
    """Raise `InputError`, naming it, for a number that is not above 0."""
    for name, number in numbers.items():
        if not (math.isfinite(number) and number > 0):
            raise InputError(f"{name} = {number}: give a number above 0.")


def sort_painted(painted: Sequence[Painted], by: str) -> list[Painted]:
    """Smallest first; those with a problem come last.

    Parameters
    ----------
    painted
        From `paint_variations`.
    by
        One of `FIGURES`, or "name" for the order that they are in.
    """
    check_figure(by)
    if by == "name":
        return sorted(painted, key=lambda each: each.problem is not None)
    return sorted(painted, key=lambda each: each.figures.get(by, math.inf))


def save_table(painted: Sequence[Painted], path: str | os.PathLike[str]) -> None:
    """Write one line for each picture as CSV: caption, file, `FIGURES`, problem."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["caption", "picture", *FIGURES, "problem"])
    for each in painted:
        figures = [each.figures.get(name, "") for name in FIGURES]
        file = "" if each.problem else each.path.name
        writer.writerow([each.variation.caption, file, *figures, each.problem or ""])
    write_bytes(path, text.getvalue().encode())


def markdown_table(painted: Sequence[Painted]) -> str:
    """The same as a table in Markdown, with three digits of each number."""
    head, rule = ["", *FIGURES], ["---", *["---:"] * len(FIGURES)]
    if any(each.problem for each in painted):
        head, rule = [*head, "problem"], [*rule, "---"]
    rows = [[text.replace("_", " ") for text in head], rule]
    for each in painted:
        figures = [_short(each.figures[name]) if not each.problem else "" for name in FIGURES]
        texts = [
            re.sub(r"([\\`*_<>|\[\]])", r"\\\1", text)
            for text in (each.variation.caption, each.problem or "")
        ]
        rows.append([texts[0], *figures, *texts[1:]][: len(head)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def pictures_of(painted: Sequence[Painted]) -> dict[str, Path]:
    """Output name -> picture file, for `runs.finish_run`."""
    return {f"picture {each.variation.name}": each.path for each in painted if each.problem is None}


def figures_of(painted: Sequence[Painted]) -> dict[str, float]:
    """Figure name -> number, for `runs.finish_run`: of each picture, and how many there are."""
    figures = {
        f"{each.variation.name} {name}": value
        for each in painted
        for name, value in each.figures.items()
    }
    problems = sum(each.problem is not None for each in painted)
    return {"pictures": len(painted) - problems, "problems": problems, **figures}


def _frame(painted: Painted, height: int) -> Frame:
    if painted.problem is None:
        return to_array(load_image(painted.path))
    return np.full((height, height, 3), 225, np.uint8)


def _losses(painted: Painted) -> str:
    content, style = painted.figures["content_loss"], painted.figures["style_loss"]
    return f"content {_short(content)}\nstyle {_short(style)}"


def _labels(axis: Axis) -> list[str]:
    return [_label(axis[0], value) for value in axis[1]]


def _label(name: str, value: Any) -> str:
    return f"{name} {_value(name, value)}"


def _value(name: str, value: Any) -> str:
    """A value in a few letters: "5", "0.2,0,0.8,0.6", "relu1_1, 2_1", "photo.jpg"."""
    if isinstance(value, str):
        return Path(value).name
    if isinstance(value, Sequence):
        if not value:
            return "whole" if name == CROP else "none"
        texts = [_value(name, item) for item in value]
        if all(text.startswith("relu") for text in texts):
            texts[1:] = [text.removeprefix("relu") for text in texts[1:]]
        return ("," if name == CROP else ", ").join(texts)
    if isinstance(value, float) and float(f"{value:g}") == value:
        return f"{value:g}"
    return "whole" if value is None else str(value)


def _short(number: float) -> str:
    """Three digits, without an exponent unless it is needed: 12,300."""
    return f"{float(f'{number:.3g}'):,.15g}"
