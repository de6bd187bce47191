"""Frames and figures -> GIFs, contact sheets, strips, plots."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont

from workbench.errors import InputError
from workbench.files import encode, write_bytes
from workbench.images import Frame, from_array, save_image
from workbench.progress import Recorder

_GIF_COLOURS = (256, 128, 64, 32)
_SMALLEST_GIF = 0.2  # times full size
_PILLOW_WHITE = 252  # what Pillow rounds 255 to when it looks a colour up in a palette
_GAP = 8  # px between pictures
_FONT, _LINE = 13, 18 / 13  # px of letters, and how much more from line to line
_READ, _NARROW = 800, 130  # px that a sheet is read at, and a column has for each 13 of letters
_ROW_LABEL = 11.5  # letters, at most


# --- GIFs --------------------------------------------------------------------------------


def save_gif(
    frames: Sequence[Frame],
    path: str | os.PathLike[str],
    *,
    fps: float = 5.0,
    hold: float = 2.0,
    max_megabytes: float | None = None,
    one_palette: bool = True,
) -> None:
    """Write frames `(H, W, 3)`, brought to the size of the last, as a GIF that loops for ever.

    Parameters
    ----------
    fps
        Frames a second, above 0. A GIF counts in hundredths of a second: the rounding is spread, so
        that the whole is as long as it should be, and above 50, which browsers would slow down,
        frames are left out.
    hold
        Seconds that the last frame stays, at least.
    max_megabytes
        Of 10^6 bytes: size and colours are brought down until the file is no larger; None: full
        size, 256 colours. What cannot be brought down to it is refused.
    one_palette
        Whether all frames share one palette (median cut over frames of the whole run, refined by
        k-means, no dither): half the bytes in a film, and nothing shimmers. False, for pictures
        that have few colours in common: each has its own.
    """
    check_gif(path, max_megabytes=max_megabytes)
    if not frames:
        raise InputError("a film needs at least one frame.")
    if not 0 < fps < math.inf:
        raise InputError(f"fps = {fps}: give a number above 0.")
    if not 0 <= hold <= 600:
        raise InputError(f"hold = {hold}: give 0 to 600 seconds.")
    height, width = frames[-1].shape[:2]
    frames, hundredths = _timed(frames, fps, hold)
    most = math.inf if max_megabytes is None else max_megabytes * 1e6
    scale = 1.0
    while scale >= _SMALLEST_GIF:
        shape = max(1, round(height * scale)), max(1, round(width * scale))
        small = [_resize_frame(frame, shape) for frame in frames]
        for colours in _GIF_COLOURS:
            data = _encode_gif(small, hundredths, colours, one_palette)
            if len(data) <= most:
                write_bytes(path, data)
                return
            if len(data) > 4 * most:
                break  # fewer colours will not save that much
        scale *= min(0.85, math.sqrt(most / len(data)))  # bytes fall more slowly than pixels
    raise InputError(
        f"max_megabytes = {max_megabytes}: {len(frames)} frames do not fit even at"
        f" {_SMALLEST_GIF:.0%} of their size; take fewer frames or allow more."
    )


def check_gif(path: str | os.PathLike[str], *, max_megabytes: float | None = None) -> None:
    """Raise `InputError` if `save_gif` could not write to a file of that name or size."""
    if Path(path).suffix.lower() != ".gif":
        raise InputError(f"{path}: the name of a GIF ends in .gif.")
    if max_megabytes is not None and not (math.isfinite(max_megabytes) and max_megabytes > 0):
        raise InputError(f"max_megabytes = {max_megabytes}: give a number above 0.")


def _resize_frame(frame: Frame, shape: tuple[int, int]) -> Frame:
    if frame.shape[:2] == shape:
        return frame
    height, width = shape
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.LANCZOS))


def _timed(frames: Sequence[Frame], fps: float, hold: float) -> tuple[list[Frame], list[int]]:
    """Frames of at least two hundredths of a second each, and how many each has."""
    ends = [round(100 * number / fps) for number in range(1, len(frames) + 1)]
    ends[-1] = max(ends[-1], round(100 * (len(frames) - 1) / fps) + round(100 * hold))
    shown, hundredths, begin = [], [], 0
    for frame, end in zip(frames, ends, strict=True):
        if end - begin >= 2:
            shown.append(frame)
            hundredths.append(end - begin)
            begin = end
    if not shown:
        return [frames[-1]], [2]
    hundredths[-1] += ends[-1] - begin
    return shown, hundredths


def _encode_gif(
    frames: Sequence[Frame], hundredths: Sequence[int], colours: int, one_palette: bool
) -> bytes:
    if one_palette:
        sampled = np.linspace(0, len(frames) - 1, min(len(frames), 8)).astype(int)
        palette = _palette([frames[i] for i in sampled], colours)
        pictures = [_in_colours_of(palette, frame) for frame in frames]
    else:
        pictures = [_in_own_colours(frame, colours) for frame in frames]
    milliseconds = [10 * each for each in hundredths]
    film = {"append_images": pictures[1:], "duration": milliseconds, "loop": 0}
    return encode(pictures[0], "GIF", save_all=True, optimize=False, **film)


def _palette(frames: Sequence[Frame], colours: int) -> Image.Image:
    mosaic = Image.fromarray(np.concatenate(frames)).reduce(2)
    return mosaic.quantize(colours, Image.Quantize.MEDIANCUT, kmeans=3)


def _in_colours_of(palette: Image.Image, frame: Frame) -> Image.Image:
    return Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE)


def _in_own_colours(frame: Frame, colours: int) -> Image.Image:
    """With white itself among them, or the paper around captions would flicker."""
    palette = _palette([frame], colours - 1)
    others = (palette.getpalette() or [])[: 3 * (colours - 1)]
    palette.putpalette([*others, *[_PILLOW_WHITE] * 3])
    picture = _in_colours_of(palette, frame)
    picture.putpalette([*others, 255, 255, 255])
    return picture


# --- contact sheets ----------------------------------------------------------------------


def contact_sheet(
    frames: Sequence[Frame],
    captions: Sequence[str],
    *,
    columns: int | None = None,
    height: int = 200,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
) -> Frame:
    """Lay pictures `(H, W, 3)` of any shape out in rows, each with its caption below.

    All are brought to `height` pixels; a column is as wide as its widest picture. A row has
    `columns` pictures; None: all are in one. Row labels are texts at the left edge, column labels
    along the top; none given: no edge. Texts may have several lines; what is too wide is wrapped
    between words. Letters are larger in a wide sheet, so that they can be read where it is shown.
    """
    if not frames:
        raise InputError("a contact sheet needs at least one picture.")
    columns = columns or len(frames)
    pictures = []
    for frame in frames:
        width = max(1, round(frame.shape[1] * height / frame.shape[0]))
        pictures.append(Image.fromarray(_resize_frame(frame, (height, width))))
    widths = [max(picture.width for picture in pictures[i::columns]) for i in range(columns)]
    larger = min((sum(widths) + _GAP * (columns + 1)) / _READ, min(widths) / _NARROW)
    font = font_of(round(_FONT * max(1.0, larger)))
    below = [wrap(text, widths[i % columns], font) for i, text in enumerate(captions)]
    above = [wrap(text, width, font) for text, width in zip(column_labels, widths, strict=False)]
    beside = [wrap(text, _ROW_LABEL * font.size, font) for text in row_labels]

    left = math.ceil(max(text_width(text, font) for text in beside)) + _GAP if beside else 0
    top = max(text_height(text, font) for text in above) + _GAP if above else 0
    row_height = height + 2 * _GAP + max(text_height(text, font) for text in below)
    rows = math.ceil(len(pictures) / columns)
    size = (left + sum(widths) + _GAP * (columns + 1), top + rows * row_height)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    write = functools.partial(
        draw.multiline_text,
        fill="black",
        font=font,
        spacing=text_height("A", font) - font.getbbox("A")[3],
    )
    middles = [left + _GAP * (i + 1) + sum(widths[:i]) + widths[i] / 2 for i in range(columns)]
    for text, x in zip(above, middles, strict=False):
        write((x, top - text_height(text, font) / 2), text, anchor="mm", align="center")
    for row, text in enumerate(beside):
        y = top + row * row_height + _GAP + height / 2
        write((left, y), text, anchor="rm", align="right")
    for i, (picture, text) in enumerate(zip(pictures, below, strict=True)):
        row, column = divmod(i, columns)
        x, y = middles[column], top + row * row_height + _GAP
        sheet.paste(picture, (round(x - picture.width / 2), y))
        write(
            (x, y + height + (_GAP + text_height(text, font)) / 2),
            text,
            anchor="mm",
            align="center",
        )
    return np.asarray(sheet)


@functools.cache
def font_of(size: int) -> ImageFont.FreeTypeFont:
    """Letters of a height in pixels; Matplotlib's, which know more alphabets than Pillow's own."""
    return ImageFont.truetype(findfont("DejaVu Sans"), size)


def text_height(text: str, font: ImageFont.FreeTypeFont) -> int:
    """Pixels from the first line's top to the last one's foot, whatever letters they have."""
    return round(_LINE * font.size) * (text.count("\n") + 1)


def text_width(text: str, font: ImageFont.FreeTypeFont) -> float:
    """Pixels of the longest line."""
    return max(map(font.getlength, text.split("\n")))


def wrap(text: str, width: float, font: ImageFont.FreeTypeFont) -> str:
    """Break lines so that they have at most `width` pixels."""
    lines = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}" if line else word
            if line and text_width(longer, font) > width:
                lines.append(line)
                longer = word
            line = longer
        lines.append(line)
    return "\n".join(_shorten(line, width, font) for line in lines)


def _shorten(line: str, width: float, font: ImageFont.FreeTypeFont) -> str:
    """End a line that is too wide, a single word, in an ellipsis."""
    if text_width(line, font) <= width:
        return line
    while line and text_width(line + "…", font) > width:
        line = line[:-1]
    return line + "…"


def save_strip(
    frames: Sequence[Frame],
    captions: Sequence[str],
    path: str | os.PathLike[str],
    *,
    height: int = 200,
) -> None:
    """Write a `contact_sheet` of one row as a picture file."""
    save_image(from_array(contact_sheet(frames, captions, height=height)), path)


def progress_strip(recorder: Recorder, *, count: int = 6, height: int = 200) -> Frame:
    """Lay `count` snapshots of a run side by side, each with its step below."""
    snapshots = recorder.snapshots(count)
    captions = ["start" if shot.step == 0 else f"step {shot.step}" for shot in snapshots]
    return contact_sheet([shot.frame for shot in snapshots], captions, height=height)


# --- plots -------------------------------------------------------------------------------


def new_plot(width: float = 9.0, height: float = 4.5) -> tuple[Figure, Axes]:
    """Make an empty plot of that many inches."""
    figure = Figure(figsize=(width, height), layout="constrained", dpi=110)
    return figure, figure.subplots()


def finish_plot(axes: Axes, title: str = "") -> None:
    """Give a plot the common look: a faint grid, no box, beside it the legend with its `title`."""
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    beside = (1.0, 0.5)
    axes.legend(loc="center left", bbox_to_anchor=beside, title=title, frameon=False, fontsize=9)


def plot_losses(recorder: Recorder, moves: Sequence[int] = ()) -> Figure:
    """Draw the weighted losses over the steps, style and content by layer, on a log scale.

    Grey lines show where the picture grew, red ones the steps of `moves`, at which somebody
    changed a setting.
    """
    figure, axes = new_plot()
    steps, losses = recorder.steps, recorder.losses
    axes.plot(steps, [loss.total for loss in losses], color="black", lw=2.2, label="total")
    # Settings may change on the way: a layer counts if it ever did.
    for i, layer in enumerate(_layers(loss.content for loss in losses)):
        values = [loss.content.get(layer) or math.nan for loss in losses]
        axes.plot(steps, values, color=f"C{i + 1}", lw=1.8, ls="--", label=f"content {layer}")
    style = _layers(loss.style for loss in losses)
    shades = colormaps["Blues"](np.linspace(0.35, 0.95, len(style)))
    for shade, layer in zip(shades, style, strict=True):
        values = [loss.style.get(layer) or math.nan for loss in losses]
        axes.plot(steps, values, color=shade, lw=1.5, label=f"style {layer}")
    if any(loss.tv > 0 for loss in losses):
        tv = [loss.tv or math.nan for loss in losses]
        axes.plot(steps, tv, color="tab:green", lw=1.5, ls=":", label="total variation")
    for step in recorder.scale_changes:
        axes.axvline(step, color="0.8", lw=1, zorder=0)
    for step in moves:
        axes.axvline(step, color="tab:red", lw=0.8, alpha=0.4, zorder=0)
    axes.set(yscale="log", xlabel="step", ylabel="weighted loss", title="What is being minimised")
    positive = [loss.total for loss in losses if loss.total > 0]
    if positive:
        axes.set_ylim(bottom=min(positive) * 1e-4)
    finish_plot(axes)
    return figure


def _layers(losses: Iterable[Mapping[str, float]]) -> list[str]:
    """Layers, from shallow to deep, at which there is ever a loss."""
    return sorted({layer for loss in losses for layer, value in loss.items() if value > 0})


def save_plot(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure as a picture file; the suffix of `path` says the format."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    save_image(from_array(np.asarray(canvas.buffer_rgba())[..., :3]), path)
