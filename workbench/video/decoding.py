"""A clip's file -> its frames with their time stamps, upright and in sRGB."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

import av
import numpy as np
from av import AudioStream, CodecContext, Packet, VideoFrame, VideoStream
from av.container import InputContainer
from av.filter import Graph
from av.stream import Disposition, Stream
from av.video.reformatter import (
    ColorPrimaries,
    ColorRange,
    Colorspace,
    Interpolation,
    VideoReformatter,
)
from numpy.typing import NDArray

from workbench.errors import InputError
from workbench.files import reading
from workbench.images import Frame
from workbench.video import hdr

SCALING = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
_PEEK = 120  # packets that tell the usual distance of two frames
_CHAINED = {"gif", "apng", "webp"}  # each picture builds on the last, and none is marked as key
# Code of a matrix in H.273 -> its number in swscale, which knows two of them by another.
_MATRICES = {code: Colorspace({6: 5, 10: 9}.get(code, code)) for code in (1, 4, 5, 6, 7, 9, 10)}


def open_file(path: Path) -> InputContainer:
    """Open a file that ffmpeg reads, or say in a sentence why it cannot be."""
    with reading(path):
        if path.stat().st_size == 0 and path.is_file():
            raise InputError(f"{path} is empty (0 bytes); copy or download it again.")
        try:
            # An absolute name is never taken for an address; a playlist may name files only.
            return av.open(str(path.resolve()), container_options={"protocol_whitelist": "file"})
        except av.FFmpegError as error:
            if isinstance(error, OSError):
                raise
            raise InputError(
                f"{path} is not a clip that can be read, or it is cut short; get it again."
            ) from None


def video_stream(source: InputContainer, path: Path) -> VideoStream:
    """Find the pictures."""
    cover = Disposition.attached_pic
    found = [s for s in source.streams.video if s.codec_context and not s.disposition & cover]
    best = source.streams.best("video")
    if not found:
        raise InputError(f"{path} has no pictures in it that can be read, only sound or text.")
    return next((stream for stream in found if stream is best), found[0])


def packets(stream: Stream) -> Iterator[Packet[Any]]:
    """Packets up to the end of a file, or to where it breaks off."""
    source = stream.container
    assert isinstance(source, InputContainer)
    with suppress(av.FFmpegError):
        yield from (packet for packet in source.demux(stream) if packet.size)


def _decoder(stream: VideoStream) -> CodecContext:
    """What decodes a stream; the usual decoder of WebM leaves out what is transparent."""
    name = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(stream.codec_context.name)
    said = {key.lower(): value for key, value in stream.metadata.items()}
    if name is None or said.get("alpha_mode") != "1":
        return stream.codec_context
    return CodecContext.create(name, "r")


def decoded(decoder: CodecContext, packet: Packet[Any] | None) -> list[Any]:
    """Frames of a packet, or the last ones; none where the file is damaged."""
    try:
        return list(decoder.decode(packet))  # type: ignore[attr-defined]
    except av.FFmpegError:
        return []


def look_at(path: Path) -> tuple[tuple[int, int], Fraction, int, Fraction, bool]:
    """Look at a file: shape, rate, number of frames, time stamp of the first (s), sound.

    The shape `(H, W)` is upright, with square pixels, and may be odd.
    """
    with open_file(path) as source:
        stream = video_stream(source, path)
        decoder = _decoder(stream)
        stamps: list[int] = []
        first: VideoFrame | None = None
        for packet in packets(stream):
            stamp = packet.dts if packet.pts is None else packet.pts
            if stamp is not None:
                stamps.append(stamp)
            if first is None:
                first = next(iter(decoded(decoder, packet)), None)
            elif len(stamps) >= _PEEK:
                break
        first = first or next(iter(decoded(decoder, None)), None)
        if first is None:
            raise InputError(f"{path}: no frame can be decoded; get the file again.")
        origin = (first.pts or 0) * _time_base(stream)
        rate = _frame_rate(stream, stamps)
        length = _end(source, stream, rate) - origin if len(stamps) != 1 else 1 / rate
        height, width = _square(first, stream)
        shape = (width, height) if _turned(first)[0] else (height, width)
        frames = max(1, math.ceil(length * rate - Fraction(1, 2)))
        sound = any(stream.codec_context for stream in source.streams.audio)
        return shape, rate, frames, origin, sound


def _time_base(stream: VideoStream | AudioStream) -> Fraction:
    return stream.time_base or Fraction(1, 1000)


def _frame_rate(stream: VideoStream, stamps: Sequence[int]) -> Fraction:
    """The rate of most frames if the container knows it, else the mean rate."""
    steps = np.diff(sorted(set(stamps)))
    time_base = _time_base(stream)
    average = stream.average_rate or Fraction(25)
    if not len(steps):
        return exact(average)
    usual = 1 / (Fraction(median(steps.tolist())) * time_base)
    rate = stream.base_rate or average
    # (Interlaced films name the rate of their fields, and clips of phones any number.)
    if not 0.8 < rate / usual < 1.25:
        return exact(average)
    if stream.codec_context.name == "gif" and stream.frames and stream.duration:
        # Its hundredths of a second tell 30 from 29.97 over the whole length only.
        length = stream.duration * time_base
        if abs(stream.frames / length / rate - 1) < 0.002:
            whole = Fraction(round(rate))
            near = abs(stream.frames / whole - length) <= time_base
            return whole if near else exact(stream.frames / length)
    return exact(rate)


def exact(rate: float | Fraction) -> Fraction:
    """The frame rate that was meant: 23.976 is 24000/1001."""
    rate = Fraction(rate)
    for standard in (Fraction(round(rate)), Fraction(round(rate * 1001 / 1000) * 1000, 1001)):
        if abs(standard - rate) < rate / 10_000:
            return standard
    return rate.limit_denominator(1001)


def nearest(number: Fraction) -> int:
    """Round to a whole number, halves up."""
    return math.floor(number + Fraction(1, 2))


def _end(source: InputContainer, stream: VideoStream, rate: Fraction) -> Fraction:
    """Time stamp in seconds at which the pictures end, by the container's word."""
    if stream.duration and source.format.name != "mpeg":  # (which guesses)
        return ((stream.start_time or 0) + stream.duration) * _time_base(stream)
    if said := re.fullmatch(r"(\d+):(\d+):([\d.]+)", stream.metadata.get("DURATION", "")):
        return int(said[1]) * 3600 + int(said[2]) * 60 + Fraction(said[3])
    end = Fraction(0)  # no word of it: look at all time stamps
    with open_file(Path(source.name)) as again:
        for packet in packets(video_stream(again, Path(source.name))):
            stamp = packet.dts if packet.pts is None else packet.pts
            if stamp is None:
                end += 1 / rate
            else:
                end = max(end, (stamp + (packet.duration or 0)) * _time_base(stream))
    return end


def _square(frame: VideoFrame, stream: VideoStream) -> tuple[int, int]:
    """`(H, W)` with square pixels, before turning."""
    one = Fraction(1)
    aspect = stream.sample_aspect_ratio or one
    return round(frame.height / min(aspect, one)), round(frame.width * max(aspect, one))


def _turned(frame: VideoFrame) -> tuple[bool, bool, bool]:
    """Whether rows become columns; then, whether up and down, left and right change places."""
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5]
    return (True, b < 0, c < 0) if abs(b) > abs(a) else (False, d < 0, a < 0)


def decode(path: Path, since: Fraction | None) -> Iterator[VideoFrame]:
    """Frames from the start, or from a key frame that lies likely before `since` seconds."""
    with open_file(path) as source:
        stream = video_stream(source, path)
        decoder = _decoder(stream)
        if since is not None:
            if decoder.name in _CHAINED:
                return
            try:
                source.seek(math.floor(since / _time_base(stream)), stream=stream)
            except av.FFmpegError:
                return
        frames = _decoded_stream(stream, decoder, whole=since is None)
        before, frame = None, next(frames, None)
        while frame is not None:
            after = next(frames, None)
            if not frame.interlaced_frame:
                yield frame
            elif before is not None or since is None:
                yield _deinterlaced(before, frame, after)
            before, frame = frame, after


def _decoded_stream(
    stream: VideoStream, decoder: CodecContext, *, whole: bool
) -> Iterator[VideoFrame]:
    for packet in chain(packets(stream), (None,)):
        for frame in decoded(decoder, packet):
            frame.time_base = stream.time_base  # the last ones come without
            whole = whole or frame.key_frame
            if whole:  # what comes before a key frame lacks what it builds on
                yield frame


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


def picture(
    frame: VideoFrame, shape: tuple[int, int], reformatter: VideoReformatter, mask: bool
) -> Frame:
    """Upright sRGB of a shape `(H, W)`; transparent parts are laid over white, or are a mask."""
    sideways, upside_down, mirrored = _turned(frame)
    height, width = shape[::-1] if sideways else shape
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
        interpolation=SCALING | Interpolation.FULL_CHR_H_INT,
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
