"""Clip file or folder of pictures -> frames; frames and sound -> film file."""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain, pairwise
from pathlib import Path
from statistics import median
from typing import Any

import av
import numpy as np
from av import AudioFrame, AudioStream, CodecContext, Packet, VideoFrame, VideoStream
from av.container import InputContainer, OutputContainer
from av.filter import Graph
from av.stream import Disposition
from av.subtitles.codeccontext import SubtitleCodecContext
from av.subtitles.stream import SubtitleStream
from av.video.reformatter import (
    ColorPrimaries,
    ColorRange,
    Colorspace,
    Interpolation,
    VideoReformatter,
)
from numpy.typing import NDArray
from torch import Tensor

from workbench.errors import InputError, OutputError
from workbench.files import PICTURE_SUFFIXES, atomic, listed, no_such_file, pictures_in
from workbench.images import Frame, fit, from_array, load_image, load_mask, resize, to_array
from workbench.settings import MAX_SIZE, MIN_SIZE, seconds
from workbench.video import hdr

FORMATS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}
_EVERYWHERE = {"aac", "mp3", "ac3", "eac3", "alac"}
_PCM = {"pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le"}
_COPIED = {  # sound that a film of that kind can carry; any other is encoded anew, as AAC
    ".mp4": _EVERYWHERE | {"opus", "flac"},
    ".mov": _EVERYWHERE | _PCM | {"pcm_s16be", "pcm_s24be"},
    ".mkv": _EVERYWHERE | _PCM | {"opus", "flac", "vorbis", "mp2", "dts", "truehd"},
}
_TEXT = {"subrip", "ass", "webvtt", "mov_text", "text", "microdvd", "subviewer"}
_MKV_SUBTITLES = {"subrip", "ass", "webvtt", "hdmv_pgs_subtitle", "dvd_subtitle", "dvb_subtitle"}
_AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
_AAC_FRAME = 1024  # samples
_SEEK_AHEAD = 1  # s; B-frames may lie before the picture that a seek goes to
_PEEK = 120  # packets that tell the usual distance of two frames
_CHAINED = {"gif", "apng", "webp"}  # each picture builds on the last, and none is marked as key
_PICTURES = {*PICTURE_SUFFIXES} - {".gif"}
_PATTERN = re.compile(r"%0?([0-9]*)d")  # as other programs name the numbers of pictures
_LOOKED_AT = 8  # pictures of a series, before it is painted
MANY = "For several clips, give the command once for each, or see `workbench batch --help`."
_ONE_BY_ONE = (
    "To paint photographs one by one, use `workbench apply MODEL FOLDER -o painted/`, or a batch"
    " (`workbench batch --help`)."
)
_SCALING = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
_MATRICES = {  # H.273 code -> what swscale calls it
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,
}
_BT709 = 1  # H.273 code of the matrix, the primaries and the transfer alike


@dataclass(frozen=True, eq=False)
class Sound:
    """Sound made by code: `samples` (channels, n), float32 in [-1, 1], `rate` of them a second."""

    samples: NDArray[np.float32]
    rate: int


@dataclass(frozen=True)
class Clip:
    """A section of a clip file, or of a folder of numbered pictures; `open_clip` makes one.

    Attributes
    ----------
    path
        The file or folder.
    shape
        `(H, W)` of the frames as they are read: upright, square pixels, both even.
    fps
        Frames a second as they are read, after `stride`; constant.
    frames
        How many frames there should be by what the file says of itself; a damaged file
        may yield fewer.
    start
        Seconds into the source at which the first frame is shown; a multiple of the
        duration of one of the source's frames.
    stride
        Every so many of the source's frames is read.
    sound
        Whether there is sound to go with it.
    origin
        Time stamp of the source's first frame in seconds; `start` counts from there.
    """

    path: Path
    shape: tuple[int, int]
    fps: Fraction
    frames: int
    start: Fraction
    stride: int
    sound: bool
    origin: Fraction = Fraction(0)

    @property
    def duration(self) -> Fraction:
        """Length in seconds."""
        return self.frames / self.fps


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
        Longest side in pixels, 32 to 8192. Larger frames are shrunk, smaller ones left.
    fps
        Pictures a second, 25 if not given; for pictures only.

    Raises
    ------
    InputError
        If there is nothing at `path` that can be read as a clip, or a number makes no sense.
    """
    path = Path(path)
    start = seconds(start)
    end = None if end is None else seconds(end)
    if not (math.isfinite(start) and start >= 0):
        raise InputError(f"start = {start}: give seconds from 0 on.")
    if end is not None and not end > start:
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
    first = min(_nearest(Fraction(start) * whole.fps), whole.frames - 1)
    last = whole.frames
    if end is not None and end < whole.duration:
        last = max(first + 1, _nearest(Fraction(end) * whole.fps))
    height, width = whole.shape
    if size is not None and max(whole.shape) > size:
        height, width = fit(whole.shape, size)
    return replace(
        whole,
        shape=(max(2, height // 2 * 2), max(2, width // 2 * 2)),
        fps=whole.fps / stride,
        frames=math.ceil((last - first) / stride),
        start=first / whole.fps,
        stride=stride,
    )


def read_frames(clip: Clip, first: int = 0, *, masks: bool = False) -> Iterator[Frame]:
    """Read the frames of a clip one after the other; few are held at a time.

    A variable frame rate is made constant: a frame stays until the next is due, and of
    several in the time of one the last is taken. Where the file is damaged, the frame before
    stays; where it is cut short, the frames end before `clip.frames`.

    Parameters
    ----------
    clip
        From `open_clip`.
    first
        Frame to begin with; the same frame has the same pixels wherever one begins.
    masks
        Read as masks, white where a style belongs: where there is transparency, that is the mask.

    Returns
    -------
    Iterator[Frame]
        `(H, W, 3)` in 0..255 each, of the clip's shape.

    Raises
    ------
    InputError
        If no frame can be decoded, or the file is gone.
    """
    rate = clip.fps * clip.stride
    start = _nearest(clip.start * rate)
    end = start + clip.frames * clip.stride
    due = start + first * clip.stride  # slot of the next frame to yield
    if is_series(clip.path):
        for path in numbered_pictures(clip.path)[due : end : clip.stride]:
            if masks:
                picture = load_mask(path, may_be_empty=True).expand(1, 3, -1, -1)
            else:
                picture = load_image(path)
            yield _fitted(picture, clip.shape)
        return
    reformatter = VideoReformatter()
    held: VideoFrame | None = None
    slot, until = -1, 0
    for frame in _decode_to(clip, due):
        slot = slot + 1 if frame.pts is None else _slot(clip, frame.pts, frame)
        while held is not None and due < min(slot, end):
            yield _picture(held, clip, reformatter, masks)
            due += clip.stride
        if due >= end:
            return
        held = frame
        until = slot + 1
        if frame.pts is not None and frame.duration:
            until = max(until, _slot(clip, frame.pts + frame.duration, frame))
    if held is None:
        raise InputError(f"{clip.path}: no frame can be decoded; get the file again.")
    while due < min(until, end):
        yield _picture(held, clip, reformatter, masks)
        due += clip.stride


def read_moment(
    path: str | os.PathLike[str], start: float, length: float, *, size: int | None = None
) -> list[Frame]:
    """Read a moment of a film, one frame of it at least.

    Parameters
    ----------
    path
        The film.
    start, length
        In seconds. Where it begins behind the film's end, it is the last frame.
    size
        As for `open_clip`.
    """
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
    """List the pictures that have numbers in their names, `shot2_9` before `shot10_1`.

    Parameters
    ----------
    path
        A folder, or a pattern such as `frames/frame_%04d.png`.
    say
        Is handed a sentence about what the folder holds beside them.
    """
    if not path.is_dir():
        name = _PATTERN.sub(lambda told: rf"[0-9]{{{told[1] or 1},}}", re.escape(path.name))
        return [
            each for each in pictures_in(path.parent, _PICTURES) if re.fullmatch(name, each.name)
        ]
    found = pictures_in(path, _PICTURES, say=say)
    numbered = [each for each in found if re.search("[0-9]", each.stem)]
    if numbered != found:
        without = [each.name for each in found if each not in set(numbered)]
        say(f"{path}: pictures without a number are left out: {listed(without)}.")
    return numbered


def _file(path: Path) -> Clip:
    """All of a clip file; its shape is upright and square, and may be odd yet."""
    with _open(path) as source:
        stream = _video_stream(source, path)
        decoder = _decoder(stream)
        stamps: list[int] = []
        first: VideoFrame | None = None
        for packet in _packets(source, stream):
            stamp = packet.dts if packet.pts is None else packet.pts
            if stamp is not None:
                stamps.append(stamp)
            if first is None:
                first = next(iter(_decoded(decoder, packet)), None)
            elif len(stamps) >= _PEEK:
                break
        first = first or next(iter(_decoded(decoder, None)), None)
        if first is None:
            raise InputError(f"{path}: no frame can be decoded; get the file again.")
        origin = (first.pts or 0) * _time_base(stream)
        rate = _frame_rate(stream, stamps)
        length = _end(source, stream, rate) - origin if len(stamps) != 1 else 1 / rate
        height, width = _square(first, stream)
        return Clip(
            path,
            (width, height) if _turned(first)[0] else (height, width),
            rate,
            max(1, math.ceil(length * rate - Fraction(1, 2))),
            Fraction(0),
            1,
            any(stream.codec_context for stream in source.streams.audio),
            origin,
        )


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


def _open(path: Path) -> InputContainer:
    try:
        if not path.exists():
            raise no_such_file(path)
        if path.is_file() and path.stat().st_size == 0:
            raise InputError(f"{path} is empty (0 bytes); copy or download it again.")
        # An absolute name is never taken for an address; a playlist may name files only.
        return av.open(str(path.resolve()), container_options={"protocol_whitelist": "file"})
    except OSError as error:
        raise InputError(f"{path} cannot be read: {str(error.strerror).lower()}.") from None
    except av.FFmpegError:
        raise InputError(
            f"{path} is not a clip that can be read, or it is cut short; get it again."
        ) from None


def _video_stream(source: InputContainer, path: Path) -> VideoStream:
    """Find the pictures."""
    cover = Disposition.attached_pic
    found = [s for s in source.streams.video if s.codec_context and not s.disposition & cover]
    best = source.streams.best("video")
    if not found:
        raise InputError(f"{path} has no pictures in it that can be read, only sound or text.")
    return next((stream for stream in found if stream is best), found[0])


def _packets(
    source: InputContainer, stream: VideoStream | AudioStream | SubtitleStream
) -> Iterator[Packet[Any]]:
    """Packets up to the end, or to where the file breaks off."""
    try:
        for packet in source.demux(stream):
            if packet.size:
                yield packet
    except av.FFmpegError:
        return


def _decoder(stream: VideoStream) -> CodecContext:
    """What decodes a stream; the usual decoder of WebM leaves out what is transparent."""
    name = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(stream.codec_context.name)
    said = {key.lower(): value for key, value in stream.metadata.items()}
    if name is None or said.get("alpha_mode") != "1":
        return stream.codec_context
    return CodecContext.create(name, "r")


def _decoded(decoder: CodecContext, packet: Packet[Any] | None) -> list[Any]:
    """Frames of a packet, or the last ones; none where the file is damaged."""
    try:
        return list(decoder.decode(packet))  # type: ignore[attr-defined]
    except av.FFmpegError:
        return []


def _decode(clip: Clip, since: Fraction | None) -> Iterator[VideoFrame]:
    """Frames from the start, or from a key frame that lies likely before `since` seconds."""
    with _open(clip.path) as source:
        stream = _video_stream(source, clip.path)
        decoder = _decoder(stream)
        if since is not None:
            if decoder.name in _CHAINED:
                return
            try:
                source.seek(math.floor(since / _time_base(stream)), stream=stream)
            except av.FFmpegError:
                return
        whole = since is None  # what comes before a key frame lacks what it builds on
        before: VideoFrame | None = None
        frame: VideoFrame | None = None
        for packet in chain(_packets(source, stream), (None,)):
            for after in chain(_decoded(decoder, packet), () if packet else (None,)):
                if after is not None:
                    after.time_base = stream.time_base  # the last ones come without
                    whole = whole or after.key_frame
                    if not whole:
                        continue
                if frame is not None and not frame.interlaced_frame:
                    yield frame
                elif frame is not None and (before is not None or since is None):
                    yield _deinterlaced(before, frame, after)
                before, frame = frame, after


def _deinterlaced(
    before: VideoFrame | None, frame: VideoFrame, after: VideoFrame | None
) -> VideoFrame:
    """A frame of full height from two fields and their neighbours."""
    graph = Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
    )
    graph.link_nodes(source, graph.add("bwdif", "send_frame"), graph.add("buffersink")).configure()
    for index, each in enumerate((before, frame, after)):
        if each is not None:
            stamp, each.pts = each.pts, index
            graph.push(each)
            each.pts = stamp
    graph.push(None)
    if before is not None:
        graph.vpull()
    result = graph.vpull()
    result.pts, result.time_base = frame.pts, frame.time_base
    return result


def _decode_to(clip: Clip, slot: int) -> Iterator[VideoFrame]:
    """Frames from one that is shown at `slot` or before; from the very first if need be."""
    since = slot / (clip.fps * clip.stride) - _SEEK_AHEAD
    if since > 0:
        frames = _decode(clip, clip.origin + since)
        first = next(frames, None)
        if first is not None and first.pts is not None and _slot(clip, first.pts, first) <= slot:
            return chain([first], frames)
    return _decode(clip, None)


def _slot(clip: Clip, stamp: int, frame: VideoFrame) -> int:
    """Number of the source's frame, at its constant rate, that is shown at a time stamp."""
    time = stamp * Fraction(frame.time_base or 0) - clip.origin
    return _nearest(time * clip.fps * clip.stride)


def _nearest(number: Fraction) -> int:
    return math.floor(number + Fraction(1, 2))


def _time_base(stream: VideoStream | AudioStream) -> Fraction:
    return stream.time_base or Fraction(1, 1000)


def _frame_rate(stream: VideoStream, stamps: Sequence[int]) -> Fraction:
    """The rate of most frames if the container knows it, else the mean rate."""
    steps = np.diff(sorted(set(stamps)))
    time_base = _time_base(stream)
    average = stream.average_rate or Fraction(25)
    if not len(steps):
        return _exact(average)
    usual = 1 / (Fraction(median(steps.tolist())) * time_base)
    rate = stream.base_rate or average
    # (Interlaced films name the rate of their fields, and clips of phones any number.)
    if not 0.8 < rate / usual < 1.25:
        return _exact(average)
    if stream.codec_context.name == "gif" and stream.frames and stream.duration:
        # Its hundredths of a second tell 30 from 29.97 over the whole length only.
        length = stream.duration * time_base
        if abs(stream.frames / length / rate - 1) < 0.002:
            whole = Fraction(round(rate))
            near = abs(stream.frames / whole - length) <= time_base
            return whole if near else _exact(stream.frames / length)
    return _exact(rate)


def _checked_rate(fps: float | Fraction) -> Fraction:
    if not 0 < fps <= 1000:
        raise InputError(f"fps = {fps}: give a number above 0, at most 1000.")
    return _exact(fps) if isinstance(fps, float) else Fraction(fps).limit_denominator(10**6)


def _exact(rate: float | Fraction) -> Fraction:
    """The frame rate that was meant: 23.976 is 24000/1001."""
    rate = Fraction(rate)
    for standard in (Fraction(round(rate)), Fraction(round(rate * 1001 / 1000) * 1000, 1001)):
        if abs(standard - rate) < rate / 10_000:
            return standard
    return rate.limit_denominator(1001)


def _end(source: InputContainer, stream: VideoStream, rate: Fraction) -> Fraction:
    """Time stamp in seconds at which the pictures end, by the container's word."""
    if stream.duration and source.format.name != "mpeg":  # (which guesses)
        return ((stream.start_time or 0) + stream.duration) * _time_base(stream)
    if said := re.fullmatch(r"(\d+):(\d+):([\d.]+)", stream.metadata.get("DURATION", "")):
        return int(said[1]) * 3600 + int(said[2]) * 60 + Fraction(said[3])
    end = Fraction(0)  # no word of it: look at all time stamps
    with _open(Path(source.name)) as again:
        for packet in _packets(again, _video_stream(again, Path(source.name))):
            stamp = packet.dts if packet.pts is None else packet.pts
            if stamp is None:
                end += 1 / rate
            else:
                end = max(end, (stamp + (packet.duration or 0)) * _time_base(stream))
    return end


def _square(frame: VideoFrame, stream: VideoStream) -> tuple[int, int]:
    """`(H, W)` with square pixels, before turning."""
    height, width = frame.height, frame.width
    aspect = stream.sample_aspect_ratio or Fraction(1)
    if aspect > 1:
        width = round(width * aspect)
    else:
        height = round(height / aspect)
    return height, width


def _turned(frame: VideoFrame) -> tuple[bool, bool, bool]:
    """Whether rows become columns; then, whether up and down, left and right change places."""
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5]
    return (True, b < 0, c < 0) if abs(b) > abs(a) else (False, d < 0, a < 0)


def _picture(frame: VideoFrame, clip: Clip, reformatter: VideoReformatter, mask: bool) -> Frame:
    """Upright sRGB of the clip's shape; transparent parts are laid over white, or are a mask."""
    sideways, upside_down, mirrored = _turned(frame)
    height, width = clip.shape[::-1] if sideways else clip.shape
    transparent = any(component.is_alpha for component in frame.format.components)
    wide = frame.color_trc in (hdr.PQ, hdr.HLG) or frame.color_primaries == ColorPrimaries.BT2020
    by_size = Colorspace.ITU709 if frame.height >= 720 else Colorspace.ITU601
    full = frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj")
    scaled = reformatter.reformat(
        frame,
        # The odd row or column is cut off rather than squeezed in.
        width=frame.width if frame.width == width + 1 else width,
        height=frame.height if frame.height == height + 1 else height,
        format=("rgba64le" if wide else "rgba") if transparent else "rgb48le" if wide else "rgb24",
        src_colorspace=_MATRICES.get(frame.colorspace, by_size),
        src_color_range=ColorRange.JPEG if full or frame.format.is_rgb else ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG,
        interpolation=_SCALING | Interpolation.FULL_CHR_H_INT,
    )
    pixels: NDArray[Any] = scaled.to_ndarray()[:height, :width]
    colours = hdr.to_sdr(pixels[..., :3], frame.color_trc) if wide else pixels[..., :3]
    if transparent:
        alpha = pixels[..., 3:].astype(np.uint16) // (257 if wide else 1)
        if mask and alpha.min() < 255:
            colours = alpha.repeat(3, axis=2)
        else:
            colours = (colours * alpha + 255 * (255 - alpha) + 127) // 255
    if sideways:
        colours = colours.swapaxes(0, 1)
    colours = colours[:: -1 if upside_down else 1, :: -1 if mirrored else 1]
    return np.ascontiguousarray(colours, dtype=np.uint8)


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
    sound: Clip | Sound | None = None,
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
        likewise. A warning names what the film goes without. `Sound`: encoded as AAC.
    quality
        0 to 51; smaller is better and larger in bytes. 18 looks like the original, 28 is
        rough.

    Returns
    -------
    int
        Number of frames written.

    Raises
    ------
    InputError
        If there are no frames, or they cannot be read or differ in shape, or a parameter makes
        no sense.
    OutputError
        If the file cannot be written.
    """
    check_film(path, quality=quality)
    path = Path(path)
    rate = _checked_rate(fps)
    frames = _pulled(frames)
    first = next(frames, None)
    if first is None:
        raise InputError("a film needs at least one frame.")
    count = 0
    with _film(path) as film, ExitStack() as stack:
        video = _add_video(film, first.shape, rate, quality)
        write_until = stack.enter_context(_add_tracks(film, sound, path))
        reformatter = VideoReformatter()
        for frame in chain([first], frames):
            if frame.shape != first.shape:
                raise InputError(
                    f"frame {count} has the shape {frame.shape}, the first one {first.shape};"
                    " all frames of a film have one shape."
                )
            film.mux(video.encode(_encodable(frame, count, rate, reformatter)))
            count += 1
            write_until(count / rate)
        film.mux(video.encode())
    return count


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
    sound: Clip | Sound | None = None,
) -> None:
    """Put films behind each other, without encoding them anew, and add sound.

    Parameters
    ----------
    parts
        Written by `write_film` with one shape, rate and quality, and without sound; all but the
        last have at least four frames, as shorter ones are stored in another order.
    path, fps, sound
        As for `write_film`.

    Raises
    ------
    InputError, OutputError
        As `write_film`.
    """
    check_film(path)
    path, rate = Path(path), _checked_rate(fps)
    count = 0
    with _film(path) as film, ExitStack() as stack:
        first = stack.enter_context(_open(parts[0]))
        video = film.add_stream_from_template(_video_stream(first, parts[0]))
        write_until = stack.enter_context(_add_tracks(film, sound, path))
        for part in parts:
            begins = count / rate
            with _open(part) as source:
                for packet in _packets(source, _video_stream(source, part)):
                    offset = _nearest(begins / packet.time_base)
                    assert packet.pts is not None
                    assert packet.dts is not None
                    packet.pts, packet.dts = packet.pts + offset, packet.dts + offset
                    packet.stream = video
                    film.mux(packet)
                    count += 1
                    write_until(count / rate)


@contextmanager
def _film(path: Path) -> Iterator[OutputContainer]:
    """A file to put streams into, which gets its name when it is finished."""
    kind = FORMATS[path.suffix.lower()]
    # (Bit-exact: without a random identity and the version of the library.)
    options = {"fflags": "+bitexact"} | ({} if kind == "matroska" else {"movflags": "faststart"})
    with atomic(path) as beside, _output_errors(path):
        name = str(beside.resolve())
        with av.open(name, "w", format=kind, container_options=options) as film:
            yield film


def check_film(path: str | os.PathLike[str], *, quality: int = 18) -> None:
    """Raise `InputError` if `write_film` could not write to a file of that name or quality."""
    if not 0 <= quality <= 51:
        raise InputError(f"quality = {quality}: give 0 (best) to 51.")
    if Path(path).suffix.lower() not in FORMATS:
        raise InputError(f"{path}: the name of a film ends in .mp4, .mov or .mkv.")


def save_mp4(
    frames: Sequence[Frame], path: str | os.PathLike[str], *, fps: float = 5.0, hold: float = 2.0
) -> None:
    """Write the snapshots of a painting as a film.

    Parameters
    ----------
    frames
        `(H, W, 3)` each; all are brought to the size of the last, and that is cut to even
        numbers of pixels.
    path
        Ends in .mp4, .mov or .mkv.
    fps
        Frames a second, above 0.
    hold
        Seconds that the last frame stays.
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
    video.codec_context.time_base = 1 / rate
    video.codec_context.color_range = ColorRange.MPEG
    video.codec_context.colorspace = _BT709
    video.codec_context.color_primaries = _BT709
    video.codec_context.color_trc = _BT709
    video.codec_context.thread_type = "FRAME"
    video.codec_context.thread_count = 4  # fixed, because the bytes depend on it
    return video


def _encodable(
    frame: Frame, index: int, rate: Fraction, reformatter: VideoReformatter
) -> VideoFrame:
    height, width = frame.shape[0] // 2 * 2, frame.shape[1] // 2 * 2
    rgb = VideoFrame.from_ndarray(np.ascontiguousarray(frame[:height, :width]), format="rgb24")
    yuv = reformatter.reformat(
        rgb,
        format="yuv420p",
        src_color_range=ColorRange.JPEG,
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
        interpolation=_SCALING | Interpolation.FULL_CHR_H_INP,
    )
    yuv.pts, yuv.time_base = index, 1 / rate
    return yuv


@contextmanager
def _output_errors(path: Path) -> Iterator[None]:
    """Turn what ffmpeg reports into `OutputError`; `atomic` does so with errors of the disk."""
    try:
        yield
    except av.FFmpegError as error:
        if isinstance(error, OSError):
            raise
        raise OutputError(f"{path} cannot be written: {error.strerror}.") from error


# --- sound and text ----------------------------------------------------------------------

# A stream of a film, and what goes into it: times in seconds, with packets or frames.
_Track = tuple[Any, Iterator[tuple[Fraction, Any]]]


@contextmanager
def _add_tracks(
    film: OutputContainer, sound: Clip | Sound | None, path: Path
) -> Iterator[Callable[[Fraction], None]]:
    """Add what goes with the pictures; yields what writes it up to a time in seconds.

    Called after every frame, so that sound and picture lie side by side in the file and
    neither waits in memory.
    """
    with ExitStack() as stack:
        tracks: list[_Track] = []
        if isinstance(sound, Sound):
            track = _add_aac(film, sound.rate, _checked(sound))
            tracks.append((track, _pieces([sound.samples], track)))
        elif sound is not None and sound.path.is_file():
            tracks = _clip_tracks(film, sound, path, stack)
        waiting = [next(pieces, None) for _, pieces in tracks]

        def write_until(time: Fraction) -> None:
            for number, (track, pieces) in enumerate(tracks):
                while (first := waiting[number]) is not None and first[0] < time:
                    piece = first[1]
                    with suppress(av.InvalidDataError):  # the film goes on without a damaged packet
                        film.mux(track.encode(piece) if isinstance(piece, AudioFrame) else piece)
                    waiting[number] = next(pieces, None)

        yield write_until
        for track, _ in tracks:
            if isinstance(track, AudioStream) and track.codec_context.is_encoder:
                film.mux(track.encode())


def _clip_tracks(film: OutputContainer, clip: Clip, path: Path, stack: ExitStack) -> list[_Track]:
    """Add the clip's sound, subtitles and chapters; says which of them the film goes without."""
    whole = stack.enter_context(_open(clip.path))
    film.set_chapters(list(_chapters(whole, clip)))
    if clip.sound and not any(stream.codec_context for stream in whole.streams.audio):
        raise InputError(f"{clip.path} has lost its sound; open the clip again.")
    tracks: list[_Track] = []
    lost = []
    for kind, streams in (("sound", whole.streams.audio), ("subtitle", whole.streams.subtitles)):
        for number, stream in enumerate(streams, start=1):
            codec = stream.codec_context and stream.codec_context.codec.canonical_name
            add = _add_sound if kind == "sound" else _add_subtitles
            # From a file of its own, so that no track waits for another.
            source = stack.enter_context(_open(clip.path))
            track = add(film, source, stream.index, codec, path, clip) if codec else None
            if track is None:
                lost.append(f"{kind} track {number} ({codec or 'of an unknown kind'})")
                continue
            track[0].disposition = stream.disposition
            for name in {"language", "title"} & set(stream.metadata):
                track[0].metadata[name] = stream.metadata[name]
            tracks.append(track)
    if lost:
        warnings.warn(f"{path} goes without {' and '.join(lost)} of {clip.path}.", stacklevel=2)
    return tracks


def _add_sound(
    film: OutputContainer, source: InputContainer, index: int, codec: str, path: Path, clip: Clip
) -> _Track:
    """Add a stream for a stream of sound, copied if such a file can carry it."""
    stream = source.streams[index]
    assert isinstance(stream, AudioStream)
    zero = clip.origin + clip.start
    if codec in _COPIED[path.suffix.lower()]:
        track = film.add_stream_from_template(stream)
        return track, _copied(source, stream, track, zero)
    rate = stream.rate if stream.rate in _AAC_RATES else 48000
    track = _add_aac(film, rate, min(2, stream.channels))
    return track, _pieces(_samples(source, stream, track, zero), track)


def _add_subtitles(
    film: OutputContainer, source: InputContainer, index: int, codec: str, path: Path, clip: Clip
) -> _Track | None:
    """Add a stream for subtitles, copied or, if they are text, encoded anew; None if neither."""
    stream = source.streams[index]
    assert isinstance(stream, SubtitleStream)
    if path.suffix.lower() == ".mkv" and codec in _MKV_SUBTITLES:
        track = film.add_stream_from_template(stream)
        return track, _subtitles(source, stream, track, clip, None)
    if codec not in _TEXT:
        return None
    track = film.add_stream("ass" if path.suffix.lower() == ".mkv" else "mov_text")
    stream.codec_context.open(strict=False)  # reads how its text is set
    track.codec_context.subtitle_header = stream.codec_context.subtitle_header
    return track, _subtitles(source, stream, track, clip, track.codec_context)


def _chapters(source: InputContainer, clip: Clip) -> Iterator[Any]:
    for chapter in source.chapters():
        base = chapter["time_base"] or Fraction(1)
        section = _within(chapter["start"] * base, chapter["end"] * base, clip)
        if section:
            start, end = (_nearest(time * 1000) for time in section)
            yield {**chapter, "start": start, "end": end, "time_base": Fraction(1, 1000)}


def _within(start: Fraction, end: Fraction, clip: Clip) -> tuple[Fraction, Fraction] | None:
    """What of a time in the source lies in the clip, in seconds of the clip."""
    zero = clip.origin + clip.start
    start, end = max(Fraction(0), start - zero), min(clip.duration, end - zero)
    return (start, end) if start < end else None


def _subtitles(
    source: InputContainer,
    stream: SubtitleStream,
    track: SubtitleStream,
    clip: Clip,
    encoder: SubtitleCodecContext | None,
) -> Iterator[tuple[Fraction, Packet[Any]]]:
    """Subtitles, each with the time when it appears."""
    for packet in _packets(source, stream):
        start = (packet.pts or 0) * packet.time_base
        shown = _within(start, start + (packet.duration or 0) * packet.time_base, clip)
        if encoder:
            try:
                text = stream.decode2(packet)
            except av.FFmpegError:
                continue
            if not text:  # a pause
                continue
            packet = encoder.encode_subtitle(text)
        if shown:
            packet.stream, packet.time_base = track, Fraction(1, 1000)
            packet.pts = packet.dts = _nearest(shown[0] * 1000)
            packet.duration = _nearest((shown[1] - shown[0]) * 1000)
            yield shown[0], packet


def _checked(sound: Sound) -> int:
    """Number of channels."""
    shape = sound.samples.shape
    if len(shape) != 2 or shape[0] not in (1, 2):
        raise InputError(f"expected the samples of 1 or 2 channels, (channels, n), got {shape}.")
    if sound.rate not in _AAC_RATES:
        raise InputError(f"rate = {sound.rate} Hz: give one of {', '.join(map(str, _AAC_RATES))}.")
    return int(shape[0])


def _add_aac(film: OutputContainer, rate: int, channels: int) -> AudioStream:
    track = film.add_stream("aac", rate=rate)
    track.layout = "mono" if channels == 1 else "stereo"
    track.bit_rate = 192_000
    return track


def _copied(
    source: InputContainer, stream: AudioStream, track: AudioStream, zero: Fraction
) -> Iterator[tuple[Fraction, Packet[Any]]]:
    """Packets from `zero` seconds of the source on as they are, each with its middle."""
    alone = stream.codec_context.codec.lossless
    before: Packet[Any] | None = None
    stamp = None
    for packet in _packets(source, stream):
        if packet.pts is None or (stamp is not None and packet.pts <= stamp):
            continue
        stamp = packet.pts
        length = (packet.duration or 0) * packet.time_base
        middle = packet.pts * packet.time_base - zero + length / 2
        packet.pts -= _nearest(zero / packet.time_base)
        packet.dts = packet.pts
        packet.stream = track
        if middle < 0:
            before = packet if middle >= -2 * length and not alone else None
            continue
        if before is not None:  # the first packet cannot be decoded whole without it
            yield middle, before
            before = None
        yield middle, packet


def _samples(
    source: InputContainer, stream: AudioStream, track: AudioStream, zero: Fraction
) -> Iterator[NDArray[np.float32]]:
    """Decoded sound from `zero` seconds of the source on, silence where there is none."""
    rate = track.rate
    resampler = av.AudioResampler(format="fltp", layout=track.layout, rate=rate)
    done = 0
    for packet in _packets(source, stream):
        for decoded in _decoded(stream.codec_context, packet):
            for frame in resampler.resample(decoded):
                samples = frame.to_ndarray().astype(np.float32)
                stamp = (frame.pts or 0) * (frame.time_base or Fraction(1, rate))
                at = _nearest((stamp - zero) * rate)
                if done and abs(at - done) < rate // 50:
                    at = done  # time stamps are rounded
                while at > done:
                    silence = min(at - done, rate)
                    yield np.zeros((len(samples), silence), np.float32)
                    done += silence
                samples = samples[:, done - at :]
                done += samples.shape[1]
                yield samples


def _pieces(
    chunks: Iterable[NDArray[np.float32]], track: AudioStream
) -> Iterator[tuple[Fraction, AudioFrame]]:
    """Cut samples that follow each other into frames to encode, each with its middle."""
    rate = track.rate
    done = 0
    for chunk in chunks:
        for start in range(0, chunk.shape[1], _AAC_FRAME):
            samples = chunk[:, start : start + _AAC_FRAME].clip(-1, 1).astype(np.float32)
            frame = AudioFrame.from_ndarray(
                np.ascontiguousarray(samples), format="fltp", layout=track.layout
            )
            frame.rate, frame.pts, frame.time_base = rate, done, Fraction(1, rate)
            yield Fraction(2 * done + frame.samples, 2 * rate), frame
            done += frame.samples
