"""What goes with the pictures of a film: its clip's sound, subtitles and chapters."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from heapq import merge
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
from av import AudioFrame, AudioStream, Packet, VideoStream
from av.container import InputContainer, OutputContainer
from av.subtitles.stream import SubtitleStream
from numpy.typing import NDArray

from workbench.errors import InputError
from workbench.video.decoding import decoded, nearest, open_file, packets

if TYPE_CHECKING:
    from workbench.video.clips import Clip

_EVERYWHERE = {"aac", "mp3", "ac3", "eac3", "alac"}
_PCM = {"pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le"}
_MKV_SOUND = {"opus", "flac", "vorbis", "mp2", "dts", "truehd"}
_MKV_TEXT = {"subrip", "ass", "webvtt", "hdmv_pgs_subtitle", "dvd_subtitle", "dvb_subtitle"}
_COPIED = {  # what a film of that kind can carry; other sound is encoded anew, as AAC
    ".mp4": _EVERYWHERE | {"opus", "flac"},
    ".mov": _EVERYWHERE | _PCM | {"pcm_s16be", "pcm_s24be"},
    ".mkv": _EVERYWHERE | _PCM | _MKV_SOUND | _MKV_TEXT,
}
_TEXT = {"subrip", "ass", "webvtt", "mov_text", "text", "microdvd", "subviewer"}  # encoded anew
_AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
_AAC_FRAME = 1024  # samples
_SEEK_AHEAD = 1  # s; where sound is read from before it is needed


@dataclass(frozen=True)
class Samples:
    """Sound that was put together, to be encoded."""

    rate: int  # samples a second
    chunks: Iterable[NDArray[np.float32]]  # (2, n) each, in [-1, 1], one after the other


# When something is heard or read, in seconds; the film's stream for it; what to put in there.
Piece = tuple[Fraction, Any, Any]


def write_together(
    film: OutputContainer,
    pictures: Iterable[Packet[Any] | Sequence[Packet[Any]]],
    rate: Fraction,
    sound: Clip | Samples | None,
    path: Path,
) -> int:
    """Write pictures, and the sound, or what goes with them in a clip, for as long; says how many.

    Sound and picture lie side by side in the file, and neither waits in memory.
    """
    with ExitStack() as stack:
        tracks: list[Iterator[Piece]] = []
        if isinstance(sound, Samples):
            tracks = [_encodable(sound.chunks, _aac(film, sound.rate, "stereo"))]
        elif sound is not None and sound.path.is_file():
            tracks = _clip_tracks(film, sound, path, stack)
        pieces = merge(*tracks, key=itemgetter(0))
        waiting = next(pieces, None)
        count = 0
        for count, picture in enumerate(pictures, start=1):
            film.mux(picture)
            while waiting is not None and waiting[0] < count / rate:
                _, track, piece = waiting
                with suppress(av.InvalidDataError):  # a damaged packet; the film goes on without
                    film.mux(track.encode(piece) if isinstance(piece, AudioFrame) else piece)
                waiting = next(pieces, None)
        streams: list[VideoStream | AudioStream] = [*film.streams.video, *film.streams.audio]
        for stream in streams:
            if stream.codec_context.is_encoder:
                film.mux(stream.encode())
    return count


def _clip_tracks(
    film: OutputContainer, clip: Clip, path: Path, stack: ExitStack
) -> list[Iterator[Piece]]:
    """Add the clip's sound, subtitles and chapters; says which of them the film goes without."""
    whole = stack.enter_context(open_file(clip.path))
    film.set_chapters(list(_chapters(whole, clip)))
    if clip.sound and not any(stream.codec_context for stream in whole.streams.audio):
        raise InputError(f"{clip.path} has lost its sound; open the clip again.")
    tracks: list[Iterator[Piece]] = []
    lost = []
    for kind, streams in (("sound", whole.streams.audio), ("subtitle", whole.streams.subtitles)):
        for number, there in enumerate(streams, start=1):
            # From a file of its own, so that no track waits for another.
            stream: Any = stack.enter_context(open_file(clip.path)).streams[there.index]
            track = _add_track(film, stream, path.suffix.lower())
            if track is None:
                codec = there.codec_context and there.codec_context.codec.canonical_name
                lost.append(f"{kind} track {number} ({codec or 'of an unknown kind'})")
                continue
            track.disposition = stream.disposition
            for name in {"language", "title"} & set(stream.metadata):
                track.metadata[name] = stream.metadata[name]
            if kind == "subtitle":
                tracks.append(_subtitles(stream, track, clip))
            elif track.codec_context.is_encoder:
                chunks = _samples(stream, track.layout.name, track.rate, clip)
                tracks.append(_encodable(chunks, track))
            else:
                tracks.append(_copied(stream, track, clip))
    if lost:
        warnings.warn(f"{path} goes without {' and '.join(lost)} of {clip.path}.", stacklevel=2)
    return tracks


def _add_track(film: OutputContainer, stream: Any, kind: str) -> Any:
    """A film's stream for one of a clip: to copy it, or to encode it anew; None if neither goes."""
    if stream.codec_context is None:
        return None
    codec = stream.codec_context.codec.canonical_name
    if codec in _COPIED[kind]:
        return film.add_stream_from_template(stream)
    if isinstance(stream, AudioStream):
        return _aac(film, stream.rate, "mono" if stream.channels == 1 else "stereo")
    if codec not in _TEXT:
        return None
    text = film.add_stream("ass" if kind == ".mkv" else "mov_text")
    stream.codec_context.open(strict=False)  # reads how its text is set
    text.codec_context.subtitle_header = stream.codec_context.subtitle_header
    return text


def _aac(film: OutputContainer, rate: int, layout: str) -> AudioStream:
    track = film.add_stream("aac", rate=rate if rate in _AAC_RATES else 48000)
    track.layout = layout
    track.bit_rate = 192_000
    return track


def _chapters(source: InputContainer, clip: Clip) -> Iterator[Any]:
    for chapter in source.chapters():
        base = chapter["time_base"] or Fraction(1)
        section = _within(chapter["start"] * base, chapter["end"] * base, clip)
        if section:
            start, end = (nearest(time * 1000) for time in section)
            yield {**chapter, "start": start, "end": end, "time_base": Fraction(1, 1000)}


def _within(start: Fraction, end: Fraction, clip: Clip) -> tuple[Fraction, Fraction] | None:
    """What of a time in the source lies in the clip, in seconds of the clip."""
    start, end = max(Fraction(0), start - clip.zero), min(clip.duration, end - clip.zero)
    return (start, end) if start < end else None


def _subtitles(stream: SubtitleStream, track: SubtitleStream, clip: Clip) -> Iterator[Piece]:
    """Subtitles, each with the time when it appears."""
    for packet in packets(stream):
        start = (packet.pts or 0) * packet.time_base
        shown = _within(start, start + (packet.duration or 0) * packet.time_base, clip)
        if track.codec_context.is_encoder:
            try:
                text = stream.decode2(packet)
            except av.FFmpegError:
                continue
            if not text:  # a pause
                continue
            packet = track.codec_context.encode_subtitle(text)
        if shown:
            packet.stream, packet.time_base = track, Fraction(1, 1000)
            packet.pts = packet.dts = nearest(shown[0] * 1000)
            packet.duration = nearest((shown[1] - shown[0]) * 1000)
            yield shown[0], track, packet


def _copied(stream: AudioStream, track: AudioStream, clip: Clip) -> Iterator[Piece]:
    """Packets as they are, each with its middle."""
    alone = stream.codec_context.codec.lossless
    before: Packet[Any] | None = None
    stamp = None
    for packet in packets(stream):
        if packet.pts is None or (stamp is not None and packet.pts <= stamp):
            continue
        stamp = packet.pts
        length = (packet.duration or 0) * packet.time_base
        middle = packet.pts * packet.time_base - clip.zero + length / 2
        packet.pts -= nearest(clip.zero / packet.time_base)
        packet.dts = packet.pts
        packet.stream = track
        if middle < 0:
            before = packet if middle >= -2 * length and not alone else None
            continue
        if before is not None:  # the first packet cannot be decoded whole without it
            yield middle, track, before
            before = None
        yield middle, track, packet


def _encodable(chunks: Iterable[NDArray[np.float32]], track: AudioStream) -> Iterator[Piece]:
    """Frames of samples, each with its middle."""
    rate = track.rate
    done = 0
    for chunk in chunks:
        for start in range(0, chunk.shape[1], _AAC_FRAME):
            samples = chunk[:, start : start + _AAC_FRAME].clip(-1, 1).astype(np.float32)
            frame = AudioFrame.from_ndarray(
                np.ascontiguousarray(samples), format="fltp", layout=track.layout
            )
            frame.rate, frame.pts, frame.time_base = rate, done, Fraction(1, rate)
            yield Fraction(2 * done + frame.samples, 2 * rate), track, frame
            done += frame.samples


def read_samples(clip: Clip, rate: int, start: Fraction) -> Iterator[NDArray[np.float32]]:
    """Read a clip's first sound that can be decoded, `(2, n)` in [-1, 1], from a time on (s)."""
    clip = replace(clip, start=clip.start + start)
    with open_file(clip.path) as source:
        streams = [stream for stream in source.streams.audio if stream.codec_context]
        if streams:
            before = clip.zero - _SEEK_AHEAD
            if before > 0:
                source.seek(nearest(before * av.time_base), backward=True)
            yield from _samples(streams[0], "stereo", rate, clip)


def _samples(
    stream: AudioStream, layout: str, rate: int, clip: Clip
) -> Iterator[NDArray[np.float32]]:
    """Samples that follow each other, silence where there are none."""
    resampler = av.AudioResampler(format="fltp", layout=layout, rate=rate)
    done = 0
    for packet in packets(stream):
        for piece in decoded(stream.codec_context, packet):
            for frame in resampler.resample(piece):
                samples = frame.to_ndarray().astype(np.float32)
                stamp = (frame.pts or 0) * (frame.time_base or Fraction(1, rate))
                at = nearest((stamp - clip.zero) * rate)
                if done and abs(at - done) < rate // 50:
                    at = done  # time stamps are rounded
                while at > done:
                    silence = min(at - done, rate)
                    yield np.zeros((len(samples), silence), np.float32)
                    done += silence
                samples = samples[:, done - at :]
                done += samples.shape[1]
                yield samples
