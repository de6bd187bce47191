"""Clip file or folder of pictures -> frames; frames and sound -> film file."""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain, pairwise
from pathlib import Path

import av
import numpy as np
from av import Packet, VideoFrame, VideoStream
from av.container import OutputContainer
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from torch import Tensor

from workbench.errors import InputError, OutputError
from workbench.files import PICTURE_SUFFIXES, atomic, listed, pictures_in
from workbench.images import Frame, fit, from_array, load_image, load_mask, resize, to_array
from workbench.settings import MAX_SIZE, MIN_SIZE, seconds
from workbench.video.decoding import (
    SCALING,
    decode,
    exact,
    look_at,
    nearest,
    open_file,
    packets,
    picture,
    video_stream,
)
from workbench.video.sound import Samples, write_together

FORMATS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}
_SEEK_AHEAD = 1  # s; B-frames may lie before the picture that a seek goes to
STILLS = {*PICTURE_SUFFIXES} - {".gif"}  # what ends so is one picture, and no clip
_PATTERN = re.compile(r"%0?([0-9]*)d")  # as other programs name the numbers of pictures
_LOOKED_AT = 8  # pictures of a series, before it is painted
MANY = "For several clips, give the command once for each, or see `workbench batch --help`."
_ONE_BY_ONE = (
    "To paint photographs one by one, use `workbench apply MODEL FOLDER -o painted/`, or a batch"
    " (`workbench batch --help`)."
)
_BT709 = 1  # H.273 code of the matrix, the primaries and the transfer alike


@dataclass(frozen=True)
class Clip:
    """A section of a clip file, or of a folder of numbered pictures; `open_clip` makes one."""

    path: Path  # the file or folder
    shape: tuple[int, int]  # (H, W) as read: upright, square pixels, both even
    fps: Fraction  # frames a second as they are read, after `stride`; constant
    frames: int  # by what the file says of itself; a damaged one may yield fewer
    start: Fraction  # s into the source where the first is shown; whole frames of the source
    stride: int  # every so many of the source's frames is read
    sound: bool  # whether there is sound to go with it
    origin: Fraction = Fraction(0)  # s; time stamp of the source's first frame

    @property
    def duration(self) -> Fraction:
        """Length in seconds."""
        return self.frames / self.fps

    @property
    def rate(self) -> Fraction:
        """Frames a second of the source, before `stride`."""
        return self.fps * self.stride

    @property
    def zero(self) -> Fraction:
        """Time stamp, in seconds of the source, of what the clip begins with."""
        return self.origin + self.start


# --- reading -----------------------------------------------------------------------------


def open_clip(
    path: str | os.PathLike[str],
    *,
    start: float | str = 0.0,
    end: float | str | None = None,
    stride: int = 1,
    size: int | None = None,
    fps: float | Fraction | None = None,
) -> Clip:
    """Look at a clip and choose the section, rate and size to read it in.

    Parameters
    ----------
    path
        Anything that ffmpeg reads (MP4, MOV, WebM, MKV, GIF, ...), a folder of pictures with
        numbers in their names, or a pattern for them, such as `frames/frame_%04d.png`.
    start, end
        The section, in seconds or as `00:01:30`; `end` None or too late: to the end.
    stride
        Take every so many of the frames, from 1 on. Fewer frames, same duration and sound.
    size
        Longest side in pixels, 32 to 16384. Larger frames are shrunk, smaller ones left.
    fps
        Pictures a second, 25 if not given; for pictures only.

    Raises
    ------
    InputError
        If there is nothing at `path` that can be read as a clip, or a number makes no sense.
    """
    path = Path(path)
    start = seconds(start)
    end = math.inf if end is None else seconds(end)
    if not (math.isfinite(start) and start >= 0):
        raise InputError(f"start = {start}: give seconds from 0 on.")
    if not end > start:
        raise InputError(f"end = {end}: give seconds after the start ({start:g} s).")
    if stride < 1:
        raise InputError(f"stride = {stride}: give a number of frames from 1 on.")
    if size is not None and not MIN_SIZE <= size <= MAX_SIZE:
        raise InputError(f"size = {size}: give {MIN_SIZE} to {MAX_SIZE} pixels.")
    if fps is not None and not is_series(path):
        raise InputError(
            f"fps = {fps} is for folders of pictures only; {path} has a frame rate of its own"
            " (stride takes fewer frames)."
        )
    whole = _series(path, 25 if fps is None else fps) if is_series(path) else _file(path)
    if start >= whole.duration:
        raise InputError(f"start = {start:g} s: {path} ends at {float(whole.duration):.2f} s.")
    first = min(nearest(Fraction(start) * whole.fps), whole.frames - 1)
    last = whole.frames
    if end < whole.duration:
        last = max(first + 1, nearest(Fraction(end) * whole.fps))
    longest = max(whole.shape)
    height, width = fit(whole.shape, min(size or longest, longest))
    return replace(
        whole,
        shape=(max(2, height // 2 * 2), max(2, width // 2 * 2)),
        fps=whole.fps / stride,
        frames=math.ceil((last - first) / stride),
        start=first / whole.fps,
        stride=stride,
    )


def read_frames(clip: Clip, first: int = 0, *, masks: bool = False) -> Iterator[Frame]:
    """Read the frames of a clip, `(H, W, 3)` in 0..255; few are held at a time.

    A variable frame rate is made constant: a frame stays until the next is due, and of
    several in the time of one the last is taken. Where the file is damaged, the frame before
    stays; where it is cut short, the frames end before `clip.frames`.

    Parameters
    ----------
    first
        Frame to begin with; the same frame has the same pixels wherever one begins.
    masks
        Read as masks, white where a style belongs: where there is transparency, that is the mask.

    Raises
    ------
    InputError
        If no frame can be decoded, or the file is gone.
    """
    start = nearest(clip.start * clip.rate)
    end = start + clip.frames * clip.stride
    due = start + first * clip.stride  # number of the source's frame to yield next
    if is_series(clip.path):
        for path in numbered_pictures(clip.path)[due : end : clip.stride]:
            image = load_mask(path, may_be_empty=True) if masks else load_image(path)
            yield _fitted(image.expand(1, 3, -1, -1), clip.shape)
        return
    reformatter = VideoReformatter()
    held: VideoFrame | None = None
    for slot, frame in _numbered(clip, _decode_to(clip, due)):
        while held is not None and due < min(slot, end):
            yield picture(held, clip.shape, reformatter, masks)
            due += clip.stride
        if due >= end:
            return
        held = frame or held
    if held is None:
        raise InputError(f"{clip.path}: no frame can be decoded; get the file again.")


def _numbered(clip: Clip, frames: Iterable[VideoFrame]) -> Iterator[tuple[int, VideoFrame | None]]:
    """Number each frame as of the source's at its constant rate; the last is followed by None."""
    slot, until = -1, 0
    for frame in frames:
        slot = slot + 1 if frame.pts is None else _slot(clip, frame.pts, frame)
        until = slot + 1
        if frame.pts is not None and frame.duration:
            until = max(until, _slot(clip, frame.pts + frame.duration, frame))
        yield slot, frame
    yield until, None


def read_moment(
    path: str | os.PathLike[str], start: float, length: float, *, size: int | None = None
) -> list[Frame]:
    """Read so many seconds of a film, one frame at least; behind its end, the last one."""
    film = open_clip(path)
    frame = float(1 / film.fps)
    begin = max(0.0, min(start, float(film.duration) - frame))
    return list(
        read_frames(open_clip(path, start=begin, end=begin + max(frame, length), size=size))
    )


def is_series(path: Path) -> bool:
    """Whether a clip is pictures: a folder of them, or a pattern such as `frame_%04d.png`."""
    return path.is_dir() or bool(_PATTERN.search(path.name) and not path.exists())


def numbered_pictures(
    path: Path, *, say: Callable[[str], None] = lambda sentence: None
) -> list[Path]:
    """List the pictures of a folder or a pattern that are numbered, `shot2_9` before `shot10_1`.

    `say` is handed a sentence about what the folder holds beside them.
    """
    if not path.is_dir():
        name = _PATTERN.sub(lambda told: rf"[0-9]{{{told[1] or 1},}}", re.escape(path.name))
        return [each for each in pictures_in(path.parent, STILLS) if re.fullmatch(name, each.name)]
    found = pictures_in(path, STILLS, say=say)
    numbered = [each for each in found if re.search("[0-9]", each.stem)]
    if numbered != found:
        without = [each.name for each in found if each not in set(numbered)]
        say(f"{path}: pictures without a number are left out: {listed(without)}.")
    return numbered


def _file(path: Path) -> Clip:
    shape, rate, frames, origin, sound = look_at(path)
    return Clip(path, shape, rate, frames, Fraction(0), 1, sound, origin)


def _series(path: Path, fps: float | Fraction) -> Clip:
    rate = _checked_rate(fps)
    said: list[str] = []
    paths = numbered_pictures(path, say=said.append)
    if not paths:
        raise InputError(
            f"{path}: there are no numbered pictures in this folder (like frame_0001.png)."
            f" {_ONE_BY_ONE}"
        )
    if gaps := _gaps(paths):
        said.append(
            f"{path}: numbers are missing after {listed(gaps)}; the film goes on there without a"
            " pause."
        )
    height, width = load_image(paths[0]).shape[-2:]
    for other in paths[:: math.ceil(len(paths) / _LOOKED_AT)]:
        h, w = load_image(other).shape[-2:]
        if not 0.9 < (w / h) / (width / height) < 1.1:
            raise InputError(
                f"{path} is no film: {paths[0].name} has {width}x{height} pixels and {other.name}"
                f" {w}x{h}. {_ONE_BY_ONE}"
            )
    for sentence in said:
        warnings.warn(sentence, stacklevel=3)
    return Clip(path, (height, width), rate, len(paths), Fraction(0), 1, sound=False)


def _gaps(paths: Sequence[Path]) -> list[str]:
    """Pictures behind which numbers are missing, where the others follow each other evenly."""
    steps = []
    for before, after in pairwise(paths):
        names = [re.split("([0-9]+)", each.stem) for each in (before, after)]
        differ = [(a, b) for a, b in zip(*names, strict=False) if a != b]
        if len(names[0]) == len(names[1]) and len(differ) == 1 and differ[0][0].isdecimal():
            steps.append((int(differ[0][1]) - int(differ[0][0]), before.name))
    usual = min(steps, default=(0, ""))[0]
    gaps = [name for step, name in steps if step > usual]
    return gaps if 2 * len(gaps) <= len(steps) else []


def _decode_to(clip: Clip, slot: int) -> Iterator[VideoFrame]:
    """Frames from one that is shown at `slot` or before; from the very first if need be."""
    since = slot / clip.rate - _SEEK_AHEAD
    if since > 0:
        frames = decode(clip.path, clip.origin + since)
        first = next(frames, None)
        if first is not None and first.pts is not None and _slot(clip, first.pts, first) <= slot:
            return chain([first], frames)
    return decode(clip.path, None)


def _slot(clip: Clip, stamp: int, frame: VideoFrame) -> int:
    """Number of the source's frame, at its constant rate, that is shown at a time stamp."""
    time = stamp * Fraction(frame.time_base or 0) - clip.origin
    return nearest(time * clip.rate)


def _checked_rate(fps: float | Fraction) -> Fraction:
    if not 0 < fps <= 1000:
        raise InputError(f"fps = {fps}: give a number above 0, at most 1000.")
    return exact(fps) if isinstance(fps, float) else Fraction(fps).limit_denominator(10**6)


def _fitted(image: Tensor, shape: tuple[int, int]) -> Frame:
    """A picture in the clip's shape."""
    height, width = image.shape[-2:]
    if 0 <= height - shape[0] <= 1 and 0 <= width - shape[1] <= 1:
        image = image[..., : shape[0], : shape[1]]
    return to_array(resize(image, shape))


# --- writing -----------------------------------------------------------------------------


def write_film(
    frames: Iterable[Frame],
    path: str | os.PathLike[str],
    fps: Fraction | float,
    *,
    sound: Clip | Samples | None = None,
    quality: int = 18,
) -> int:
    """Write frames as H.264 that every player shows (yuv420p, BT.709), with sound.

    Frames are taken and written one after the other. The file appears under its name only
    when it is finished; the same frames and sound give the same bytes.

    Parameters
    ----------
    frames
        `(H, W, 3)` in 0..255 each, of one shape; an odd row or column is cut off.
    path
        Ends in .mp4, .mov or .mkv.
    fps
        Frames a second, above 0 and at most 1000.
    sound
        A clip: its sound from `start` on for as long as the film is, copied as it is or,
        where that kind of file cannot carry it, encoded as AAC; its subtitles and chapters
        likewise. A warning names what the film goes without. Or samples, encoded as AAC.
    quality
        0 to 51; smaller is better and larger in bytes. 18 looks like the original, 28 is rough.

    Returns
    -------
    int
        Number of frames written.

    Raises
    ------
    InputError
        If there are no frames, they cannot be read or differ in shape, or a number is senseless.
    OutputError
        If the file cannot be written.
    """
    check_film(path, quality=quality)
    rate = _checked_rate(fps)
    frames = _pulled(frames)
    first = next(frames, None)
    if first is None:
        raise InputError("a film needs at least one frame.")
    with _film(Path(path)) as film:
        video = _add_video(film, first.shape, rate, quality)
        pictures = _encoded(chain([first], frames), video)
        return write_together(film, pictures, rate, sound, Path(path))


def _pulled(frames: Iterable[Frame]) -> Iterator[Frame]:
    """The same frames; an error in making them is not taken for one in writing the film."""
    try:
        yield from frames
    except (OSError, av.FFmpegError) as error:
        raise InputError(f"the frames of a film cannot be read: {error}.") from error


def join_films(
    parts: Sequence[Path],
    path: str | os.PathLike[str],
    fps: Fraction | float,
    *,
    sound: Clip | Samples | None = None,
) -> None:
    """Put films behind each other, without encoding them anew, and add sound.

    Parameters
    ----------
    parts
        Written by `write_film` with one shape, rate and quality, and without sound; all but the
        last have at least four frames, as shorter ones are stored in another order.
    path, fps, sound
        As for `write_film`, which raises the same errors.
    """
    check_film(path)
    rate = _checked_rate(fps)
    with _film(Path(path)) as film, open_file(parts[0]) as first:
        video = film.add_stream_from_template(video_stream(first, parts[0]))
        write_together(film, _joined(parts, video, rate), rate, sound, Path(path))


def _joined(
    parts: Sequence[Path], video: VideoStream, rate: Fraction
) -> Iterator[Packet[VideoStream]]:
    count = 0
    for part in parts:
        begins = count / rate
        with open_file(part) as source:
            for packet in packets(video_stream(source, part)):
                offset = nearest(begins / packet.time_base)
                assert packet.pts is not None
                assert packet.dts is not None
                packet.pts, packet.dts = packet.pts + offset, packet.dts + offset
                packet.stream = video
                yield packet
                count += 1


@contextmanager
def _film(path: Path) -> Iterator[OutputContainer]:
    """A file to put streams into, which gets its name when it is finished."""
    kind = FORMATS[path.suffix.lower()]
    # (Bit-exact: without a random identity and the version of the library.)
    options = {"fflags": "+bitexact"} | ({} if kind == "matroska" else {"movflags": "faststart"})
    try:
        with (
            atomic(path) as beside,
            av.open(str(beside.resolve()), "w", format=kind, container_options=options) as film,
        ):
            yield film
    except av.FFmpegError as error:  # (`atomic` says what the system reports)
        raise OutputError(f"{path} cannot be written: {error.strerror}.") from error


def check_film(path: str | os.PathLike[str], *, quality: int = 18) -> None:
    """Raise `InputError` if `write_film` could not write to a file of that name or quality."""
    if not 0 <= quality <= 51:
        raise InputError(f"quality = {quality}: give 0 (best) to 51.")
    if Path(path).suffix.lower() not in FORMATS:
        raise InputError(f"{path}: the name of a film ends in .mp4, .mov or .mkv.")


def save_mp4(
    frames: Sequence[Frame], path: str | os.PathLike[str], *, fps: float = 5.0, hold: float = 2.0
) -> None:
    """Write the snapshots of a painting, all in the size of the last, as a film.

    `hold` says for how many seconds the last frame stays.
    """
    if not 0 <= hold <= 600:
        raise InputError(f"hold = {hold}: give 0 to 600 seconds.")
    still = list(frames[-1:]) * (round(hold * _checked_rate(fps)) - 1)
    alike = (to_array(resize(from_array(f), frames[-1].shape[:2])) for f in frames)
    write_film(chain(alike, still), path, fps)


def _add_video(
    film: OutputContainer, shape: tuple[int, ...], rate: Fraction, quality: int
) -> VideoStream:
    if len(shape) != 3 or min(shape[:2]) < 2 or shape[2] != 3:
        raise InputError(f"expected frames (H, W, 3) of at least 2 x 2 pixels, got {shape}.")
    # Without mbtree, whose bytes differ from process to process.
    options = {"crf": str(quality), "mbtree": "0"}
    video = film.add_stream("libx264", rate=rate, options=options)
    video.height, video.width = shape[0] // 2 * 2, shape[1] // 2 * 2
    video.pix_fmt = "yuv420p"
    encoder = video.codec_context
    encoder.time_base = 1 / rate
    encoder.color_range = ColorRange.MPEG
    encoder.colorspace = encoder.color_primaries = encoder.color_trc = _BT709
    encoder.thread_type = "FRAME"
    encoder.thread_count = 4  # fixed, because the bytes depend on it
    return video


def _encoded(
    frames: Iterable[Frame], video: VideoStream
) -> Iterator[Sequence[Packet[VideoStream]]]:
    reformatter = VideoReformatter()
    shape: tuple[int, ...] | None = None
    for index, frame in enumerate(frames):
        shape = shape or frame.shape
        if frame.shape != shape:
            raise InputError(
                f"frame {index} has the shape {frame.shape}, the first one {shape};"
                " all frames of a film have one shape."
            )
        even = np.ascontiguousarray(frame[: video.height, : video.width])
        yuv = reformatter.reformat(
            VideoFrame.from_ndarray(even, format="rgb24"),
            format="yuv420p",
            src_color_range=ColorRange.JPEG,
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            interpolation=SCALING | Interpolation.FULL_CHR_H_INP,
        )
        yuv.pts, yuv.time_base = index, video.codec_context.time_base
        yield video.encode(yuv)
