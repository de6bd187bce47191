"""Frames and figures -> GIFs, contact sheets, strips, loss curves."""

from __future__ import annotations

import functools
import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont

from workbench.errors import InputError
from workbench.files import write_bytes
from workbench.images import Frame, fit, from_array, save_image
from workbench.progress import Recorder

_GIF_COLOURS = (256, 128, 64, 32)


_GIF_SCALES = (1.0, 0.8, 0.65, 0.5, 0.4, 0.3, 0.2)


_ROW_LABEL_WIDTH = 150  # px, at most


def save_gif(
    frames: Sequence[Frame],
    path: str | os.PathLike[str],
    *,
    fps: float = 5.0,
    hold: float = 2.0,
    max_megabytes: float | None = None,
    one_palette: bool = True,
) -> None:
    """Write frames as a GIF that loops for ever.

    Parameters
    ----------
    frames
        `(H, W, 3)` each; all are brought to the size of the last.
    path
        Ends in .gif.
    fps
        Frames a second, above 0. A GIF counts in hundredths of a second: the rounding is spread,
        so that the whole is as long as it should be, and above 50, which browsers would slow
        down, frames are left out.
    hold
        Seconds that the last frame stays, at least.
    max_megabytes
        The largest size and palette that fit into this many megabytes (10^6 bytes) are
        chosen; None: full size, 256 colours.
    one_palette
        Whether all frames share one palette (median cut over frames of the whole run, refined
        by k-means, no dither): half the bytes in a film, and nothing shimmers. False, for
        pictures that have few colours in common: each has its own.

    Raises
    ------
    InputError
        If there are no frames, a number makes no sense or nothing fits `max_megabytes`.
    OutputError
        If the file cannot be written.
    """
    check_gif(path, max_megabytes=max_megabytes)
    _check_film(frames, fps, hold)
    frames, hundredths = _timed(_same_size(frames), fps, hold)
    if max_megabytes is None:
        write_bytes(path, _encode_gif(frames, hundredths, 256, one_palette))
        return
    for scale in _GIF_SCALES:
        size = max(16, round(max(frames[0].shape[:2]) * scale))
        shape = fit((frames[0].shape[0], frames[0].shape[1]), size)
        small = [_resize_frame(frame, shape) for frame in frames]
        for colours in _GIF_COLOURS:
            data = _encode_gif(small, hundredths, colours, one_palette)
            if len(data) <= max_megabytes * 1e6:
                write_bytes(path, data)
                return
            if len(data) > 4 * max_megabytes * 1e6:
                break  # fewer colours will not save that much
    raise InputError(
        f"max_megabytes = {max_megabytes}: {len(frames)} frames do not fit even at"
        f" {size} px; take fewer frames or allow more."
    )


def check_gif(path: str | os.PathLike[str], *, max_megabytes: float | None = None) -> None:
    """Raise `InputError` if `save_gif` could not write to a file of that name or size."""
    if Path(path).suffix.lower() != ".gif":
        raise InputError(f"{path}: the name of a GIF ends in .gif.")
    if max_megabytes is not None and not (math.isfinite(max_megabytes) and max_megabytes > 0):
        raise InputError(f"max_megabytes = {max_megabytes}: give a number above 0.")


def _check_film(frames: Sequence[Frame], fps: float, hold: float) -> None:
    if not frames:
        raise InputError("a film needs at least one frame.")
    if not 0 < fps < math.inf:
        raise InputError(f"fps = {fps}: give a number above 0.")
    if not 0 <= hold <= 600:
        raise InputError(f"hold = {hold}: give 0 to 600 seconds.")


def _same_size(frames: Sequence[Frame]) -> list[Frame]:
    height, width = frames[-1].shape[:2]
    return [_resize_frame(frame, (height, width)) for frame in frames]


def _resize_frame(frame: Frame, shape: tuple[int, int]) -> Frame:
    if frame.shape[:2] == shape:
        return frame
    height, width = shape
    picture = Image.fromarray(frame).resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(picture)


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
    buffer = io.BytesIO()
    pictures[0].save(
        buffer,
        "GIF",
        save_all=True,
        append_images=pictures[1:],
        duration=[10 * each for each in hundredths],
        loop=0,
        optimize=False,
    )
    return buffer.getvalue()


def _palette(frames: Sequence[Frame], colours: int) -> Image.Image:
    mosaic = Image.fromarray(np.concatenate(frames)).reduce(2)
    return mosaic.quantize(colours, Image.Quantize.MEDIANCUT, kmeans=3)


def _in_colours_of(palette: Image.Image, frame: Frame) -> Image.Image:
    return Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE)


def _in_own_colours(frame: Frame, colours: int) -> Image.Image:
    """With white itself among them, or the paper around captions would flicker."""
    palette = _palette([frame], colours - 1)
    others = (palette.getpalette() or [])[: 3 * (colours - 1)]
    palette.putpalette([*others, 252, 252, 252])  # Pillow rounds 255 down to that to look it up
    picture = _in_colours_of(palette, frame)
    picture.putpalette([*others, 255, 255, 255])
    return picture


def contact_sheet(
    frames: Sequence[Frame],
    captions: Sequence[str],
    *,
    columns: int | None = None,
    height: int = 200,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
) -> Frame:
    """Lay pictures out in rows, each with its caption below.

    Texts may have several lines; what is too wide is wrapped between words.

    Parameters
    ----------
    frames
        `(H, W, 3)` each, of any shape.
    captions
        One for each.
    columns
        Pictures in a row; None: all in one.
    height
        That all pictures are brought to, in pixels.
    row_labels
        One for each row, at the left edge; none given: no edge.
    column_labels
        One for each column, along the top; likewise.

    Returns
    -------
    Frame
        The sheet, `(H, W, 3)`; its columns are as wide as their widest picture.
    """
    if not frames:
        raise InputError("a contact sheet needs at least one picture.")
    gap, line = 8, 18
    columns = columns or len(frames)
    pictures = []
    for frame in frames:
        width = max(1, round(frame.shape[1] * height / frame.shape[0]))
        pictures.append(Image.fromarray(_resize_frame(frame, (height, width))))
    widths = [max(picture.width for picture in pictures[i::columns]) for i in range(columns)]
    rows = math.ceil(len(pictures) / columns)

    below = [_wrap(text, widths[i % columns]) for i, text in enumerate(captions)]
    above = [_wrap(text, width) for text, width in zip(column_labels, widths, strict=False)]
    beside = [_wrap(text, _ROW_LABEL_WIDTH) for text in row_labels]
    caption_height = gap + line * max(map(len, below))
    top_edge = gap + line * max(map(len, above)) if above else 0
    lines = [text for label in beside for text in label]
    left_edge = math.ceil(max(_font().getlength(text) for text in lines)) + gap if lines else 0

    row_height = height + gap + caption_height
    sheet_width = left_edge + sum(widths) + gap * (columns + 1)
    sheet = Image.new("RGB", (sheet_width, top_edge + rows * row_height), "white")
    draw = ImageDraw.Draw(sheet)

    def write(lines: Sequence[str], x: float, y: float, anchor: str) -> None:
        """Lines of text, the first one at the height `y`."""
        for i, text in enumerate(lines):
            draw.text((x, y + line * i), text, fill="black", font=_font(), anchor=anchor)

    for column, label in enumerate(above):
        middle = left_edge + sum(widths[:column]) + gap * (column + 1) + widths[column] / 2
        write(label, middle, top_edge - line * (len(label) - 0.5), "mm")
    for row, label in enumerate(beside):
        first = gap + height / 2 - line * (len(label) - 1) / 2
        write(label, left_edge, top_edge + row * row_height + first, "rm")
    for i, (picture, caption) in enumerate(zip(pictures, below, strict=True)):
        row, column = divmod(i, columns)
        middle = left_edge + sum(widths[:column]) + gap * (column + 1) + widths[column] / 2
        top = top_edge + row * row_height + gap
        sheet.paste(picture, (round(middle - picture.width / 2), top))
        write(caption, middle, top + height + (gap + line) / 2, "mm")
    return np.asarray(sheet)


@functools.cache
def _font() -> ImageFont.FreeTypeFont:
    """Matplotlib's, which knows more alphabets than Pillow's own."""
    return ImageFont.truetype(findfont("DejaVu Sans"), 13)


def _wrap(text: str, width: float) -> list[str]:
    """Lines of at most `width` pixels; a word that is wider alone ends in an ellipsis."""
    lines = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}" if line else word
            if line and _font().getlength(longer) > width:
                lines.append(line)
                line = word
            else:
                line = longer
        lines.append(line)
    return [_shorten(line, width) for line in lines]


def _shorten(text: str, width: float) -> str:
    if _font().getlength(text) <= width:
        return text
    while text and _font().getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def save_strip(
    frames: Sequence[Frame],
    captions: Sequence[str],
    path: str | os.PathLike[str],
    *,
    height: int = 200,
) -> None:
    """Write a `contact_sheet` of one row as a picture file."""
    save_image(from_array(contact_sheet(frames, captions, height=height)), path)


def save_progress_strip(
    recorder: Recorder, path: str | os.PathLike[str], *, count: int = 6, height: int = 200
) -> None:
    """Write `count` snapshots of a run side by side, each with its step below."""
    snapshots = recorder.snapshots(count)
    captions = ["start" if shot.step == 0 else f"step {shot.step}" for shot in snapshots]
    save_strip([shot.frame for shot in snapshots], captions, path, height=height)


def plot_losses(recorder: Recorder, moves: Sequence[int] = ()) -> Figure:
    """Draw the weighted losses over the steps, style and content by layer, on a log scale.

    Grey lines show where the picture grew, red ones the steps of `moves`, at which somebody
    changed a setting.
    """
    figure = Figure(figsize=(9, 4.5), layout="constrained", dpi=110)
    axes = figure.subplots()
    steps, losses = recorder.steps, recorder.losses
    axes.plot(steps, [loss.total for loss in losses], color="black", lw=2.2, label="total")
    # Settings may change on the way: a layer counts if it ever did.
    content = _layers(loss.content for loss in losses)
    for i, layer in enumerate(content):
        values = [loss.content.get(layer) or math.nan for loss in losses]
        axes.plot(steps, values, color=f"C{i + 1}", lw=1.8, ls="--", label=f"content {layer}")
    style = _layers(loss.style for loss in losses)
    shades = np.linspace(0.35, 0.95, max(1, len(style)))
    for shade, layer in zip(shades, style, strict=False):
        values = [loss.style.get(layer) or math.nan for loss in losses]
        axes.plot(steps, values, color=colormaps["Blues"](shade), lw=1.5, label=f"style {layer}")
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
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9)
    return figure


def _layers(losses: Iterable[Mapping[str, float]]) -> list[str]:
    """Layers, from shallow to deep, at which there is ever a loss."""
    return sorted({layer for loss in losses for layer, value in loss.items() if value > 0})


def save_plot(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure as a picture file; the suffix of `path` says the format."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    with Image.open(buffer) as picture:
        save_image(from_array(np.asarray(picture.convert("RGB"))), path)
