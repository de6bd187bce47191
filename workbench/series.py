"""Variations of one picture: a grid over two settings, a sweep over many styles.

Every finished variation is a picture file and, written after it, a small JSON file that says what
it was made of. What a series finds in its folder it keeps, if it is whole and of the same making.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import json
import math
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from torch import Tensor

import workbench
from workbench import notebook
from workbench.colour import check_original_colors, match_colors
from workbench.descent import measure, optimize
from workbench.errors import InputError, OptimizationError
from workbench.files import PICTURE_SUFFIXES, claimed, pictures_in, portable_name, write_bytes
from workbench.forecast import Countdown, Outline, SeriesOutline, expect
from workbench.images import Box, Frame, crop_image, from_array, load_image, save_image, to_array
from workbench.problem import Problem
from workbench.progress import bar, keep_colors
from workbench.runs import Identity, digest
from workbench.samples import PREFIX, find_pictures, load_picture
from workbench.settings import Settings
from workbench.sheets import contact_sheet, finish_plot, new_plot
from workbench.weights import load_weights

FIGURES = ("loss", "content_loss", "style_loss", "tv_loss", "steps", "seconds")
CROP, COLORS = "crop", "original_colors"  # may vary like settings, although they are none
_NAME_BYTES = 180  # what a file system takes, less what is put around it while writing
_MEASURED = (  # the settings that `measure` looks at, beside weights
    *("content_layers", "style_layers", "style_blend_weights"),
    *("style_scale", "size", "backbone", "pooling", "device"),
)
_UNIT_WEIGHTS = {"content_weight": 1.0, "style_weight": 1.0, "tv_weight": 1.0}
# Where labels stand in turn, in points from theirs: mostly clear of lines, which fall.
_CORNERS = ((6, 4, "left"), (-6, -11, "right"))

Axis = tuple[str, Sequence[Any]]
"""What changes along a side of a grid: a name, as `vary` takes it, and its values."""


@dataclass(frozen=True)
class Variation:
    """One picture of a series, before it is painted."""

    name: str  # file name without suffix; every variation of a series has its own
    caption: str  # what people read
    content: str  # photograph, as `samples.load_picture` takes it
    crop: Box | None  # part of the photograph; None: all of it
    styles: tuple[str, ...]  # as `samples.load_picture` takes them
    settings: Settings
    original_colors: str = "off"  # one of `colour.ORIGINAL_COLORS`


@dataclass(frozen=True)
class Painted:
    """A variation that is done with.

    Of its figures, "loss" is what was minimised, in the units of the variation's own weights;
    "content_loss", "style_loss" and "tv_loss" are of the picture as saved, by the ruler of
    `paint_variations`; then "steps" and "seconds".
    """

    variation: Variation
    path: Path  # its picture file
    figures: Mapping[str, float]  # empty with a problem
    problem: str | None = None  # why there is no picture, in a sentence
    found: bool = False  # whether it was there already, from an earlier run


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

    Rows and columns are a name, as `vary` takes it, and its values, such as
    `("style_weight", [10, 100])`. `crop` is the box of all else: a part of the photograph, as
    `images.crop_image` takes it; None: all of it.
    """
    for name, values in (rows, columns):
        _check_known(name)
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise InputError(f"values of {name} = {values!r}: give a list of one or more.")
    if rows[0] == columns[0]:
        raise InputError(f"rows and columns are both {rows[0]}; give two different ones.")
    base = Variation("", "", content, crop, tuple(styles), settings)
    variations: list[Variation] = []
    taken: set[str] = set()
    for row, column in itertools.product(rows[1], columns[1]):
        new = vary(base, {rows[0]: row, columns[0]: column}, taken)
        if any(same_making(new, each) for each in variations):
            raise InputError(f"{new.caption} is given twice; give each value once.")
        variations.append(new)
    return variations


def vary(base: Variation, changes: Mapping[str, Any], taken: set[str]) -> Variation:
    """The same picture with some settings changed, which its name and its caption say.

    `changes` are values of settings, of "original_colors", or of "crop": a box, or empty for the
    whole photograph. The new name begins with that of `base`, and is none of `taken`.
    """
    settings = dict(changes)
    for name in settings:
        _check_known(name)
    others = {name: settings.pop(name) for name in (CROP, COLORS) if name in settings}
    if CROP in others:
        others[CROP] = _box(others[CROP])
    check_original_colors(others.get(COLORS, base.original_colors))
    texts = [_label(name, value) for name, value in changes.items()] or ["unchanged"]
    return replace(
        base,
        name=_own_name("-".join(filter(None, [base.name, *texts])), taken),
        caption=", ".join(texts),
        settings=replace(base.settings, **settings),
        **others,
    )


def same_making(one: Variation, other: Variation) -> bool:
    """Whether two variations are the same picture, whatever they are called."""
    return replace(one, name="", caption="") == replace(other, name="", caption="")


def _check_known(name: str) -> None:
    known = [*(field.name for field in dataclasses.fields(Settings)), CROP, COLORS]
    if name not in known:
        raise InputError(notebook.unknown_parameter(name, known))


def sweep(
    content: str,
    styles: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    settings: Settings,
    crop: Box | None = None,
) -> list[Variation]:
    """One photograph in many styles, one at a time.

    Styles are a folder, of which all pictures are taken in the natural order of their names
    ("sketch 9" before "sketch 10"); a picture; or a list of either. `crop` is as for `grid`.
    """
    if isinstance(styles, (str, os.PathLike)) and not str(styles).startswith(PREFIX):
        folder = Path(styles)
        if folder.suffix.lower() not in PICTURE_SUFFIXES and not folder.is_dir():
            pictures_in(folder)  # says what is wrong
    names = find_pictures(styles)
    if not names:
        raise InputError("styles is empty; give a folder, or a list of pictures.")
    variations = []
    taken: set[str] = set()
    for number, name in enumerate(names):
        if name in names[:number]:
            raise InputError(f"styles: {name} is given twice.")
        stem = Path(name.removeprefix(PREFIX)).stem
        own = _own_name(stem, taken)
        variations.append(Variation(own, stem, content, crop, (name,), settings))
    return variations


def _box(crop: Any) -> Box | None:
    if crop is None or (isinstance(crop, Sequence) and not crop):
        return None
    crop_image(torch.empty(1, 3, 1, 1), crop)  # refuses what makes no sense
    left, top, right, bottom = map(float, crop)
    return left, top, right, bottom


def _own_name(text: str, taken: set[str]) -> str:
    """A file name like the text, with a number behind it if it is taken, be it in other case."""
    safe = re.sub(r"[^\w.+-]+", "_", text).strip("._") or "picture"
    name = portable_name(safe.encode()[:_NAME_BYTES].decode(errors="ignore"))
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    own = next(each for each in names if each.casefold() not in taken)
    taken.add(own.casefold())
    return own


# --- painting them -----------------------------------------------------------------------


def paint_variations(
    variations: Sequence[Variation],
    folder: str | os.PathLike[str],
    ruler: Settings,
    *,
    kept: str | os.PathLike[str] | None = None,
) -> Iterator[Painted]:
    """Paint a series of variations into a folder, one after the other, with a progress bar.

    A variation that cannot be painted (its style picture is damaged, its loss explodes) gets a
    sentence, and the others are painted all the same; the next run tries it again. Refused are the
    only photograph, if it cannot be used, a folder that another run paints into, and a series of
    which not one could be painted.

    Parameters
    ----------
    folder
        Gets `NAME.png` and `NAME.json` for each. Those that are there already are kept if they are
        whole and pictures, settings, ruler, weights and version are the same.
    ruler
        What numbers are compared by. However a picture was painted, its content, style and tv loss
        are measured in float32 with weight 1 and no layer factors, at the layers, the size, the
        style scale, the backbone and the pooling of these settings.
    kept
        Folder of an earlier run whose pictures are taken as well, and never touched.
    """
    looked_at = {name: getattr(ruler, name) for name in _MEASURED}
    ruler = Settings(**looked_at, precision="float32").changed(**_UNIT_WEIGHTS)
    largest = max(each.largest for each in (ruler, *(each.settings for each in variations)))
    photographs: dict[tuple[str, Box | None], Tensor] = {}
    if len({each.content for each in variations}) == 1:
        for each in variations:  # if it cannot be used, nothing is begun
            _photograph(each, photographs, largest)
    folders = [Path(folder), *([Path(kept)] if kept is not None else [])]
    backbones = {ruler.backbone, *(each.settings.backbone for each in variations)}
    weights = {name: load_weights(name).sha256 for name in backbones}
    problems = []
    with claimed(Path(folder)):
        steps = _paint_all(variations, photographs, weights, folders, ruler, largest)
        for _, _, painted, _ in bar(
            steps,
            "painting",
            "picture",
            where=lambda step: (int(step[0]), len(variations), step[1]),
            left=lambda step: step[3](step[0], time.monotonic()) if step[3] else 0.0,
        ):
            if painted is not None:
                problems += [painted.problem] if painted.problem else []
                yield painted
    if problems and len(problems) == len(variations):
        raise InputError(f"not one of the pictures could be painted: {problems[0]}")


def _paint_all(
    variations: Sequence[Variation],
    photographs: dict[tuple[str, Box | None], Tensor],
    weights: Mapping[str, str],
    folders: Sequence[Path],
    ruler: Settings,
    largest: float,
) -> Iterator[tuple[float, str, Painted | None, Countdown | None]]:
    """Yield, at each step, how many are done, which one it is, and that one if it is done with.

    And, once one is to be painted, what counts down the time that is left.
    """
    names: tuple[str, ...] = ()
    left: Countdown | None = None
    styles: list[Tensor] = []  # those in use
    given: list[Tensor] = []  # the same, in the colours that they are painted with
    for done, variation in enumerate(variations):
        caption = variation.caption[:30]
        path = folders[0] / f"{variation.name}.png"
        try:
            key = _key(variation, ruler, weights)
            painted = next(filter(None, (_find(variation, each, key) for each in folders)), None)
            if painted is None:
                if variation.styles != names:
                    styles.clear()
                    given.clear()
                    names = variation.styles
                    styles += [load_picture(name, for_size=largest) for name in names]
                colors = variation.original_colors
                content = _photograph(variation, photographs, largest)
                given[:] = [match_colors(style, content, colors) for style in styles]
                left = left or _say_ahead(content, given, variations, done)
                started = time.monotonic()
                iterates = optimize(content, given, variation.settings)
                for iterate in keep_colors(iterates, content, colors):
                    told = f"{caption}, step {iterate.step}/{iterate.steps}"
                    yield done + iterate.step / (iterate.steps + 1), told, None, left
                seconds = time.monotonic() - started
                picture = from_array(to_array(iterate.image))  # the colours that a file can hold
                measured = measure(picture, content, given, ruler)
                figures = {
                    **measured.figures(),
                    "loss": iterate.losses.total,
                    "steps": iterate.step,
                    "seconds": round(seconds, 3),
                }
                save_image(picture, path)
                whole = {"key": key, "sha256": digest(path), "figures": figures}
                write_bytes(path.with_suffix(".json"), json.dumps(whole, indent=1).encode())
                painted = Painted(variation, path, figures)
        except (InputError, OptimizationError) as error:
            painted = Painted(variation, path, {}, str(error))
        yield done + 1, caption, painted, left


def _say_ahead(
    content: Tensor, styles: Sequence[Tensor], variations: Sequence[Variation], done: int
) -> Countdown:
    """Print what those take that come behind so many, by steps of the first; counts it down."""
    problem = Problem.of(content, styles, variations[done].settings)
    each = tuple(replace(problem.outline, settings=v.settings) for v in variations)
    largest = max(each[done:], key=Outline.least_megabytes)
    return expect(problem, SeriesOutline(**vars(largest), each=each)).say(done)


def _photograph(
    variation: Variation, loaded: dict[tuple[str, Box | None], Tensor], largest: float
) -> Tensor:
    """Its part of the photograph; `loaded` has the parts that were asked for of the same one."""
    name, crop = variation.content, variation.crop
    if any(other != name for other, _ in loaded):
        loaded.clear()
    if (name, crop) not in loaded:
        loaded[name, crop] = load_picture(name, for_size=largest, crop=crop)
    return loaded[name, crop]


def with_rest(painted: Sequence[Painted], variations: Sequence[Variation]) -> list[Painted]:
    """A series that was broken off, with a sentence for each variation that is missing."""
    rest = variations[len(painted) :]
    return [*painted, *(Painted(each, Path(), {}, "It is not painted yet.") for each in rest)]


def _key(variation: Variation, ruler: Settings, weights: Mapping[str, str]) -> str:
    """What everything that the picture and its figures depend on is known by."""
    settings = variation.settings
    init = settings.init
    depends_on = {
        "content": _digest(variation.content),
        "crop": variation.crop,
        "original_colors": variation.original_colors,
        "styles": [_digest(name) for name in variation.styles],
        "settings": settings.as_dict(),
        "init": init if init in ("content", "random") else _digest(init),
        "ruler": ruler.as_dict(),
        "weights": [weights[settings.backbone], weights[ruler.backbone]],
        "workbench": workbench.__version__,
    }
    return Identity(depends_on).key


def _digest(name: str) -> str:
    """A sample is what its name says."""
    return name if name.startswith(PREFIX) else digest(name)


def _find(variation: Variation, folder: Path, key: str) -> Painted | None:
    """A picture that is there, whole and made of what `key` says."""
    path = folder / f"{variation.name}.png"
    try:
        there = json.loads(path.with_suffix(".json").read_text("utf-8"))
        if there["key"].startswith(key) and there["sha256"] == digest(path):
            figures = {name: there["figures"][name] for name in FIGURES}
            return Painted(variation, path, figures, found=True)
    except (InputError, OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return None


# --- showing them ------------------------------------------------------------------------


def grid_sheet(
    painted: Sequence[Painted], rows: Axis, columns: Axis, *, height: int = 256
) -> Frame:
    """A contact sheet of a `grid`, with its values at the edges and losses below the pictures.

    `painted` is all of the grid, whose `rows` and `columns` these are; a single row has no name.
    """
    blank = np.full((height, height, 3), 225, np.uint8)
    return contact_sheet(
        [blank if each.problem else to_array(load_image(each.path)) for each in painted],
        ["not painted" if each.problem else _losses(each) for each in painted],
        columns=len(columns[1]),
        height=height,
        row_labels=_labels(rows) if len(rows[1]) > 1 else (),
        column_labels=_labels(columns),
    )


def sweep_sheet(painted: Sequence[Painted], *, columns: int = 6, height: int = 200) -> Frame:
    """A contact sheet of a `sweep`, with the style's name and the losses below each picture.

    Those with a problem are left out. There are at most so many `columns`.
    """
    there = [each for each in painted if each.problem is None]
    captions = [f"{each.variation.caption}\n{_losses(each)}" for each in there]
    frames = [to_array(load_image(each.path)) for each in there]
    return contact_sheet(frames, captions, columns=min(columns, len(there)), height=height)


def flip_frames(painted: Sequence[Painted], *, size: int) -> list[Frame]:
    """The pictures of a series as frames of a GIF, each with its caption below.

    Those with a problem are left out. The longest side of the first has at most `size` pixels.
    """
    there = [each for each in painted if each.problem is None]
    pictures = [to_array(load_image(each.path)) for each in there]
    height, width = pictures[0].shape[:2]
    height = min(height, round(height * size / max(height, width)))
    captions = [each.variation.caption for each in there]
    return np.split(contact_sheet(pictures, captions, columns=1, height=height), len(there))


def plot_tradeoff(painted: Sequence[Painted], rows: Axis, columns: Axis, ruler: Settings) -> Figure:
    """Draw what a `grid` gains in style for what it loses of the photograph.

    Content loss against style loss, both on log scales: the nearer to the lower left corner,
    the better on both counts. The pictures of a row are joined. `ruler` is the one that
    `paint_variations` was given.
    """
    figure, axes = new_plot(9, 6)
    shades = colormaps["viridis"](np.linspace(0, 0.75, len(rows[1])))
    halo = [withStroke(linewidth=3, foreground="white")]
    for number, (label, shade) in enumerate(zip(_labels(rows), shades, strict=True)):
        row = painted[number * len(columns[1]) : (number + 1) * len(columns[1])]
        # Zero, of a picture that is the photograph itself, has no place on a log scale.
        content = [each.figures.get("content_loss") or math.nan for each in row]
        style = [each.figures.get("style_loss") or math.nan for each in row]
        axes.plot(content, style, "o-", color=shade, lw=1.6, label=label)
        for place, (value, x, y) in enumerate(zip(columns[1], content, style, strict=True)):
            if math.isfinite(x + y):
                dx, dy, align = _CORNERS[place % 2]
                text = _value(columns[0], value)
                written = axes.annotate(text, (x, y), (dx, dy), textcoords="offset points")
                written.set(color=shade, fontsize=9, ha=align, path_effects=halo)
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
        side.set_major_locator(MaxNLocator(5) if high < 4 * low else LogLocator(subs=(1, 2, 3, 5)))
        side.set_major_formatter(FuncFormatter(lambda number, _: notebook.short(number)))
        side.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.25, which="minor")
    finish_plot(axes, f"at the points:\n{columns[0]}")
    return figure


def check_figure(name: str) -> None:
    """Raise `InputError` if a series cannot be sorted by `name`: "name", or one of `FIGURES`."""
    if name not in ("name", *FIGURES):
        raise InputError(f"sort_by = {name!r}: use one of name, {', '.join(FIGURES)}.")


def sort_painted(painted: Sequence[Painted], by: str) -> list[Painted]:
    """Smallest first; those with a problem come last.

    `by` is one of `FIGURES`, or "name" for the order that they are in.
    """
    check_figure(by)
    if by == "name":
        return sorted(painted, key=lambda each: each.problem is not None)
    return sorted(painted, key=lambda each: each.figures.get(by, math.inf))


def save_table(painted: Sequence[Painted], path: str | os.PathLike[str]) -> None:
    """Write one line for each picture as CSV: caption, file, `FIGURES`, problem."""
    text = io.StringIO()
    head = ["caption", "picture", *FIGURES, "problem"]
    writer = csv.DictWriter(text, head, lineterminator="\n")
    writer.writeheader()
    for each in painted:
        names = {"caption": each.variation.caption, "problem": each.problem}
        file = {} if each.problem else {"picture": each.path.name}
        writer.writerow({**names, **file, **each.figures})
    write_bytes(path, text.getvalue().encode())


def markdown_table(painted: Sequence[Painted]) -> str:
    """The same as a table in Markdown."""
    head = ["", *(name.replace("_", " ") for name in FIGURES), "problem"]
    rows = [
        [each.variation.caption, *(each.figures.get(name) for name in FIGURES), each.problem or ""]
        for each in painted
    ]
    columns = len(head) if any(each.problem for each in painted) else len(head) - 1
    return notebook.table([row[:columns] for row in rows], head[:columns])


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


def _losses(painted: Painted) -> str:
    content, style = painted.figures["content_loss"], painted.figures["style_loss"]
    return f"content {notebook.short(content)}\nstyle {notebook.short(style)}"


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
