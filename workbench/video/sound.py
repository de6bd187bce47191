"""What goes with the pictures of a film: its clip's sound, subtitles and chapters."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
from av import AudioFrame, AudioStream, Packet
from av.container import InputContainer, OutputContainer
from av.subtitles.codeccontext import SubtitleCodecContext
from av.subtitles.stream import SubtitleStream
from numpy.typing import NDArray

from workbench.errors import InputError
from workbench.video.decoding import decoded, nearest, open_file, packets

if TYPE_CHECKING:
    from workbench.video.clips import Clip

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

# A stream of a film, and what goes into it: times in seconds, with packets or frames.
_Track = tuple[Any, Iterator[tuple[Fraction, Any]]]


@contextmanager
def add_tracks(
    film: OutputContainer, clip: Clip | None, path: Path
) -> Iterator[Callable[[Fraction], None]]:
    """Add what goes with the pictures; yields what writes it up to a time in seconds.

    Called after every frame, so that sound and picture lie side by side in the file and
    neither waits in memory.
    """
    with ExitStack() as stack:
        tracks: list[_Track] = []
        if clip is not None and clip.path.is_file():
            tracks = _clip_tracks(film, clip, path, stack)
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
    whole = stack.enter_context(open_file(clip.path))
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
            source = stack.enter_context(open_file(clip.path))
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
    track = film.add_stream("aac", rate=stream.rate if stream.rate in _AAC_RATES else 48000)
    track.layout = "mono" if stream.channels == 1 else "stereo"
    track.bit_rate = 192_000
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
            start, end = (nearest(time * 1000) for time in section)
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
    for packet in packets(source, stream):
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
            packet.pts = packet.dts = nearest(shown[0] * 1000)
            packet.duration = nearest((shown[1] - shown[0]) * 1000)
            yield shown[0], packet


def _copied(
    source: InputContainer, stream: AudioStream, track: AudioStream, zero: Fraction
) -> Iterator[tuple[Fraction, Packet[Any]]]:
    """Packets from `zero` seconds of the source on as they are, each with its middle."""
    alone = stream.codec_context.codec.lossless
    before: Packet[Any] | None = None
    stamp = None
    for packet in packets(source, stream):
        if packet.pts is None or (stamp is not None and packet.pts <= stamp):
            continue
        stamp = packet.pts
        length = (packet.duration or 0) * packet.time_base
        middle = packet.pts * packet.time_base - zero + length / 2
        packet.pts -= nearest(zero / packet.time_base)
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
    for packet in packets(source, stream):
        for piece in decoded(stream.codec_context, packet):
            for frame in resampler.resample(piece):
                samples = frame.to_ndarray().astype(np.float32)
                stamp = (frame.pts or 0) * (frame.time_base or Fraction(1, rate))
                at = nearest((stamp - zero) * rate)
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
