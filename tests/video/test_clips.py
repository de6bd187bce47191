from __future__ import annotations

import gc
import resource
import struct
import subprocess
import sys
import tracemalloc
import weakref
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import imageio_ffmpeg
import numpy as np
import pytest
from av.stream import Disposition
from av.video.reformatter import ColorRange, Colorspace
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sound import Sound
from texts import CHAPTERS, CUES, chapters, subtitles, with_subtitles

from workbench.errors import InputError, OutputError
from workbench.images import Frame
from workbench.video import clips, decoding, hdr
from workbench.video.clips import Clip, join_films, open_clip, read_frames, write_film

NTSC = Fraction(24000, 1001)
BITS = 8
CLICK = 1.0  # s; where every sound of these tests has its click


# --- clips whose frames carry their number and whose sound clicks ------------------------


def numbered(index: int, shape: tuple[int, int] = (48, 64)) -> Frame:
    """Eight stripes, the bits of `index` in black and white."""
    bits = [(index >> bit) & 1 for bit in range(BITS)]
    row = np.repeat(np.array(bits, np.uint8) * 255, shape[1] // BITS)
    row = np.pad(row, (0, shape[1] - len(row)), mode="edge")
    return np.repeat(np.repeat(row[None, :, None], shape[0], 0), 3, 2)


def number(frame: Frame) -> int:
    middle = frame[frame.shape[0] // 2]
    wide = frame.shape[1] // BITS
    values = [middle[bit * wide + wide // 2].mean() > 127 for bit in range(BITS)]
    return sum(int(value) << bit for bit, value in enumerate(values))


def numbers(source: Clip | Path, first: int = 0) -> list[int]:
    clip = source if isinstance(source, Clip) else open_clip(source)
    return [number(frame) for frame in read_frames(clip, first)]


def click(seconds: float, rate: int = 48000, at: float = CLICK) -> np.ndarray[Any, Any]:
    """Silence but for 10 ms of 1 kHz."""
    time = np.arange(round(seconds * rate)) / rate
    return np.where((time >= at) & (time < at + 0.01), 0.8 * np.sin(2000 * np.pi * time), 0)


def make(
    path: Path,
    fps: Fraction | int,
    pictures: int | Sequence[Frame],
    *,
    sound: str | None = None,
    seconds: float | None = None,
    stamps: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    turn: int = 0,
    aspect: Fraction | None = None,
    matrix: Colorspace = Colorspace.ITU601,
    tag: int | None = None,
    full: bool = False,
    options: dict[str, str] | None = None,
) -> Path:
    """Write a source clip without the code that is tested."""
    frames = [numbered(i) for i in range(pictures)] if isinstance(pictures, int) else pictures
    codec = {".webm": "libvpx-vp9", ".gif": "gif", ".avi": "mpeg4"}.get(path.suffix, "libx264")
    pixels = "rgb8" if codec == "gif" else "yuv420p"
    fast = {"libx264": {"preset": "veryfast", "crf": "12", "g": "10"}}
    fast["libvpx-vp9"] = {"deadline": "realtime", "cpu-used": "8", "g": "10"}
    with av.open(str(path), "w") as film:
        video = film.add_stream(codec, rate=fps, options=(options or fast.get(codec)))
        video.height, video.width = frames[0].shape[:2]
        video.pix_fmt = pixels
        video.codec_context.time_base = time_base or 1 / Fraction(fps)
        if codec == "mpeg4":
            video.bit_rate = 4_000_000
        if aspect:
            video.codec_context.sample_aspect_ratio = aspect
        if tag is not None:
            video.codec_context.colorspace = tag
        if full:
            video.codec_context.color_range = ColorRange.JPEG
        if turn:
            video.set_display_rotation(turn)
        if sound:
            track = film.add_stream(sound, rate=48000, options={"strict": "experimental"})
            track.layout = "stereo"
        for index, array in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(array, format="rgb24").reformat(
                format=pixels,
                dst_colorspace=matrix,
                src_color_range=ColorRange.JPEG,
                dst_color_range=ColorRange.JPEG if full or codec == "gif" else ColorRange.MPEG,
            )
            frame.pts = stamps[index] if stamps else index
            frame.time_base = video.codec_context.time_base
            film.mux(video.encode(frame))
        film.mux(video.encode())
        if sound:
            mono = click(seconds or float(len(frames) / fps)).astype(np.float32)
            both = np.stack([mono, mono])
            if sound.startswith("pcm"):
                both = (both.T.reshape(1, -1) * 32767).astype(np.int16)
            kind = "s16" if sound.startswith("pcm") else "flt" if sound == "libopus" else "fltp"
            if kind == "flt":
                both = np.ascontiguousarray(both.T.reshape(1, -1))
            played = av.AudioFrame.from_ndarray(both, format=kind, layout="stereo")
            played.rate, played.pts, played.time_base = 48000, 0, Fraction(1, 48000)
            film.mux(track.encode(played))
            film.mux(track.encode())
    return path


def heard(path: Path, track: int = 0) -> tuple[np.ndarray[Any, Any], float]:
    """Decoded samples of one channel from the first picture on, and when they begin."""
    with av.open(str(path)) as source:
        first = next(source.decode(source.streams.video[0]))
        origin = first.pts * source.streams.video[0].time_base
    with av.open(str(path)) as source:
        stream = source.streams.audio[track]
        rate = stream.rate
        begins: Fraction | None = None
        pieces: list[np.ndarray[Any, Any]] = []
        for frame in source.decode(stream):
            if begins is None:
                begins = frame.pts * frame.time_base - origin
            samples = frame.to_ndarray().astype(np.float64)
            if samples.shape[0] == 1:  # packed
                samples = samples.reshape(-1, len(frame.layout.channels)).T
            pieces.append(samples[0] / (32768 if frame.format.name.startswith("s16") else 1))
        assert begins is not None
        together = np.concatenate(pieces)
        skip = max(0, round(-float(begins) * rate))
        return together[skip:], max(0.0, float(begins))


def click_time(path: Path, track: int = 0) -> float:
    samples, begins = heard(path, track)
    return begins + int(np.argmax(np.abs(samples) > 0.2)) / 48000


def sound_end(path: Path) -> float:
    samples, begins = heard(path)
    return begins + len(samples) / 48000


def packets(path: Path, track: int = 0) -> list[bytes]:
    with av.open(str(path)) as source:
        return [bytes(packet) for packet in source.demux(audio=track) if packet.size]


def video_packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as film:
        return [bytes(packet) for packet in film.demux(film.streams.video[0]) if packet.size]


def video_stream(path: Path) -> dict[str, Any]:
    with av.open(str(path)) as source:
        stream = source.streams.video[0]
        frame = next(source.decode(stream))
        return {
            "codec": stream.codec_context.name,
            "pixels": stream.codec_context.pix_fmt,
            "rate": stream.average_rate,
            "matrix": frame.colorspace,
            "range": frame.color_range,
            "primaries": frame.color_primaries,
            "transfer": frame.color_trc,
        }


# --- reading -----------------------------------------------------------------------------


@pytest.mark.parametrize("fps", [NTSC, Fraction(25), Fraction(30), Fraction(15, 2)])
@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm", ".avi", ".ts"])
def test_a_constant_rate_comes_out_frame_for_frame(
    suffix: str, fps: Fraction, tmp_path: Path
) -> None:
    clip = open_clip(make(tmp_path / f"a{suffix}", fps, 33))
    assert clip.fps == fps
    assert clip.frames == 33
    assert clip.duration == 33 / fps
    assert clip.shape == (48, 64)
    assert not clip.sound
    assert numbers(clip) == list(range(33))


def test_a_gif_comes_out_frame_for_frame_however_long(tmp_path: Path) -> None:
    small = [numbered(i % 256, (16, 16)) for i in range(700)]
    clip = open_clip(make(tmp_path / "a.gif", 30, small))
    assert clip.fps == 30
    assert numbers(clip) == [i % 256 for i in range(700)]
    assert numbers(clip, 650) == [i % 256 for i in range(650, 700)]


def test_the_last_picture_of_a_gif_stays_as_long_as_it_should(tmp_path: Path) -> None:
    pictures = [Image.fromarray(numbered(i)) for i in range(4)]
    pictures[0].save(
        tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=[200] * 3 + [1000]
    )
    clip = open_clip(tmp_path / "a.gif")
    assert (clip.fps, clip.frames) == (5, 8)
    assert numbers(clip) == [0, 1, 2, 3, 3, 3, 3, 3]


def test_a_variable_rate_becomes_constant_with_the_same_duration(tmp_path: Path) -> None:
    gaps = [1, 1, 1, 3, 1, 1, 2, 1, 1, 1, 1, 1]
    stamps = [0, *np.cumsum(gaps).tolist()]
    stamps = [40 * stamp + (7 if stamp % 3 == 1 else -5 if stamp else 0) for stamp in stamps]
    path = make(tmp_path / "a.mkv", 25, 13, stamps=stamps, time_base=Fraction(1, 1000))
    clip = open_clip(path)
    assert float(clip.fps) == pytest.approx(25, rel=0.01)
    assert numbers(clip) == [0, 1, 2, 3, 3, 3, 4, 5, 6, 6, 7, 8, 9, 10, 11, 12]
    assert clip.frames == 16


def test_of_frames_in_the_time_of_one_the_last_is_taken(tmp_path: Path) -> None:
    stamps = [0, 40, 80, 90, 120, 160, 200, 240]
    path = make(tmp_path / "a.mkv", 25, 8, stamps=stamps, time_base=Fraction(1, 1000))
    assert numbers(path)[:5] == [0, 1, 3, 4, 5]


def test_b_frames_and_a_late_beginning(tmp_path: Path) -> None:
    late = [i + 7 for i in range(30)]
    options = {"bf": "3", "b_strategy": "0", "g": "12"}
    path = make(tmp_path / "a.mkv", 25, 30, stamps=late, options=options)
    clip = open_clip(path)
    assert clip.origin == Fraction(7, 25)
    assert clip.frames == 30
    assert numbers(clip) == list(range(30))


@pytest.mark.parametrize("turn", [90, 180, -90])
def test_phone_clips_are_turned_upright(turn: int, tmp_path: Path) -> None:
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:12] = 255  # a bar at the top
    clip = open_clip(make(tmp_path / "a.mp4", 25, [picture] * 3, turn=turn))
    (frame, *_) = read_frames(clip)
    upright = np.rot90(picture, turn // 90)
    assert clip.shape == upright.shape[:2] == frame.shape[:2]
    assert np.abs(frame.astype(int) - upright).mean() < 3


def test_turning_is_what_ffmpeg_does(tmp_path: Path) -> None:
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:20, :20] = 255
    path = make(tmp_path / "a.mp4", 25, [picture] * 2, turn=90)
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    subprocess.run([ffmpeg, "-v", "error", "-i", path, "-frames:v", "1", tmp_path / "a.png"])
    with Image.open(tmp_path / "a.png") as expected:
        frame = next(read_frames(open_clip(path)))
        assert np.abs(frame.astype(int) - np.asarray(expected.convert("RGB"))).mean() < 2


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_mirrored_clips_of_front_cameras_are_turned_right(turn: int, tmp_path: Path) -> None:
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:20, :20] = 255
    picture[:8, 40:] = 120
    path = make(tmp_path / "a.mov", 25, [picture] * 2, turn=90)
    data = path.read_bytes()
    one = 1 << 16
    ninety = struct.pack(">4i", 0, -one, 0, one)
    assert data.count(ninety) == 1
    x, y = {0: (-one, 0), 90: (0, one), 180: (one, 0), 270: (0, -one)}[turn]
    mirrored = struct.pack(">5i", x, y, 0, y, -x)
    at = data.index(ninety)
    path.write_bytes(data[:at] + mirrored + data[at + len(mirrored) :])
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    subprocess.run([ffmpeg, "-v", "error", "-i", path, "-frames:v", "1", tmp_path / "a.png"])
    clip = open_clip(path)
    frame = next(read_frames(clip))
    upright = np.rot90(picture[:, ::-1], turn // 90)
    assert clip.shape == frame.shape[:2] == upright.shape[:2]
    assert np.abs(frame.astype(int) - upright).mean() < 3
    with Image.open(tmp_path / "a.png") as expected:
        assert np.abs(frame.astype(int) - np.asarray(expected.convert("RGB"))).mean() < 2


def test_wide_pixels_become_square(tmp_path: Path) -> None:
    clip = open_clip(make(tmp_path / "a.mp4", 25, 3, aspect=Fraction(3, 2)))
    assert clip.shape == (48, 96)
    assert numbers(clip) == [0, 1, 2]
    tall = open_clip(make(tmp_path / "b.mp4", 25, 3, aspect=Fraction(1, 2), turn=90))
    assert tall.shape == (64, 96)


def test_odd_sizes_lose_their_last_row_and_column(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (47, 61, 3)).astype(np.uint8)
    Image.fromarray(picture).convert("L").save(tmp_path / "a.gif")
    clip = open_clip(tmp_path / "a.gif")
    (frame,) = read_frames(clip)
    assert clip.shape == frame.shape[:2] == (46, 60)
    grey = np.asarray(Image.fromarray(picture).convert("L"))[:46, :60, None]
    assert np.abs(frame.astype(int) - grey).max() <= 1


def test_transparent_parts_lie_over_white(tmp_path: Path) -> None:
    picture = np.zeros((32, 32, 4), np.uint8)
    picture[:16] = (200, 0, 0, 255)
    Image.fromarray(picture).save(tmp_path / "a.gif")
    (frame,) = read_frames(open_clip(tmp_path / "a.gif"))
    assert frame[24, 16].tolist() == [255, 255, 255]
    assert frame[8, 16].tolist() == [200, 0, 0]


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_transparent_parts_of_webm_lie_over_white(codec: str, tmp_path: Path) -> None:
    pictures = np.zeros((12, 48, 64, 4), np.uint8)
    pictures[:, :24] = (200, 0, 0, 255)
    with av.open(str(tmp_path / "a.webm"), "w") as film:
        options = {"auto-alt-ref": "0", "deadline": "realtime", "cpu-used": "8", "g": "4"}
        video = film.add_stream(codec, rate=25, options=options)
        video.height, video.width, video.pix_fmt = 48, 64, "yuva420p"
        video.bit_rate = 500_000
        video.metadata["alpha_mode"] = "1"
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgba").reformat(format="yuva420p")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            film.mux(video.encode(frame))
        film.mux(video.encode())
    clip = open_clip(tmp_path / "a.webm")
    frames = list(read_frames(clip))
    assert len(frames) == 12
    for frame in (*frames, next(read_frames(clip, 7))):
        assert np.abs(frame[28:].astype(int) - 255).max() <= 4
        assert np.abs(frame[:20].astype(int) - (200, 0, 0)).max() <= 12


def interlaced(path: Path, frames: int) -> Path:
    """Write a bar that moves by four pixels from field to field."""

    def field(time: int) -> Frame:
        picture = np.full((48, 64, 3), 40, np.uint8)
        picture[:, 4 * time % 40 :][:, :16] = 220
        return picture

    options = {"flags": "+ildct+ilme", "crf": "5", "g": "10"}
    with av.open(str(path), "w") as film:
        video = film.add_stream("libx264", rate=25, options=options)
        video.height, video.width, video.pix_fmt = 48, 64, "yuv420p"
        for index in range(frames):
            woven = field(2 * index)  # the lower field comes first
            woven[::2] = field(2 * index + 1)[::2]
            frame = av.VideoFrame.from_ndarray(woven).reformat(format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            film.mux(video.encode(frame))
        film.mux(video.encode())
    return path


def combs(frame: Frame) -> float:
    """How much a row differs from its neighbours more than from those two rows away."""
    grey = frame.astype(float).mean(2)
    odd = np.abs(grey[1:-1] - (grey[:-2] + grey[2:]) / 2).mean()
    return float(odd - np.abs(grey[2:] - grey[:-2]).mean() / 2)


def test_interlaced_clips_are_deinterlaced(tmp_path: Path) -> None:
    path = interlaced(tmp_path / "a.mkv", 45)
    with av.open(str(path)) as source:
        raw = [frame.to_ndarray(format="rgb24") for frame in source.decode(video=0)]
    assert min(map(combs, raw[1:])) > 10
    clip = open_clip(path)
    frames = list(read_frames(clip))
    assert (clip.fps, len(frames)) == (25, 45)
    assert max(map(combs, frames)) < 2
    for number, frame in enumerate(frames):  # each shows the moment of its first field
        bar = frame[24, :, 1] > 130
        assert abs(int(np.flatnonzero(bar)[0]) - 8 * number % 40) <= 2
    for first in (1, 29, 30, 31, 40, 44):
        later = list(read_frames(clip, first))
        assert all(np.array_equal(a, b) for a, b in zip(later, frames[first:], strict=True))


@pytest.mark.parametrize(
    ("size", "shape"), [(64, (48, 64)), (33, (24, 32)), (32, (24, 32)), (500, (90, 120))]
)
def test_size_shrinks_and_never_enlarges(size: int, shape: tuple[int, int], tmp_path: Path) -> None:
    pictures = [numbered(i, (90, 120)) for i in range(3)]
    clip = open_clip(make(tmp_path / "a.mp4", 25, pictures), size=size)
    assert clip.shape == shape
    assert numbers(clip) == [0, 1, 2]
    assert {frame.shape for frame in read_frames(clip)} == {(*shape, 3)}


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".ts", ".gif"])
def test_a_frame_is_the_same_wherever_one_begins(suffix: str, tmp_path: Path) -> None:
    clip = open_clip(make(tmp_path / f"a{suffix}", 25, 90))
    frames = list(read_frames(clip))
    for first in (0, 1, 29, 30, 31, 55, 89, 90):
        later = list(read_frames(clip, first))
        assert len(later) == 90 - first
        assert all(np.array_equal(a, b) for a, b in zip(later, frames[first:], strict=True))
    section = open_clip(clip.path, start=2.4, end=3.2, stride=3)
    assert [number(frame) for frame in read_frames(section)] == list(range(60, 80, 3))
    assert np.array_equal(next(read_frames(section, 2)), frames[66])


def test_sections_and_strides(tmp_path: Path) -> None:
    path = make(tmp_path / "a.mp4", 25, 50)
    section = open_clip(path, start=0.41, end=1.2)
    assert (section.start, section.frames, section.fps) == (Fraction(2, 5), 20, 25)
    assert numbers(section) == list(range(10, 30))
    strided = open_clip(path, stride=3)
    assert (strided.fps, strided.frames) == (Fraction(25, 3), 17)
    assert numbers(strided) == list(range(0, 50, 3))
    assert numbers(open_clip(path, start=1.99, end=9)) == [49]
    assert numbers(open_clip(path, start=1, end=1.001)) == [25]


def test_a_clip_of_one_frame(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.webm", "a.gif"):
        clip = open_clip(make(tmp_path / name, 25, 1))
        assert (clip.frames, numbers(clip)) == (1, [0])


@settings(max_examples=50, deadline=None)
@given(
    fps=st.one_of(
        st.integers(1, 120).map(Fraction),
        st.integers(1, 120).map(lambda n: Fraction(n * 1000, 1001)),
    ),
    ticks=st.sampled_from([1000, 600, 15360, 24000, 90000]),
    late=st.fractions(0, 10),
    truncated=st.booleans(),
)
def test_rounded_time_stamps_give_every_frame_once(
    fps: Fraction, ticks: int, late: Fraction, truncated: bool
) -> None:
    def stamp(index: int) -> int:
        exact = (late + index / fps) * ticks
        return int(exact) if truncated else round(exact)

    clip = Clip(Path(), (2, 2), fps, 2000, Fraction(0), 1, False, Fraction(stamp(0), ticks))
    frame = av.VideoFrame(2, 2)
    frame.time_base = Fraction(1, ticks)
    some = [*range(100), *range(1900, 2000)]
    assert [clips._slot(clip, stamp(index), frame) for index in some] == some


@pytest.mark.parametrize(
    ("written", "meant"),
    [(23.976, NTSC), (29.97, Fraction(30000, 1001)), (25.0, 25), (59.94006, Fraction(60000, 1001))],
)
def test_rates_are_what_was_meant(written: float, meant: Fraction) -> None:
    assert decoding.exact(written) == meant


# --- colours -----------------------------------------------------------------------------

COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128), (255, 255, 255), (0, 0, 0)]


def plain(colour: tuple[int, int, int], shape: tuple[int, int] = (48, 64)) -> Frame:
    return np.full((*shape, 3), colour, np.uint8)


def assert_colours(path: Path) -> None:
    for frame, colour in zip(read_frames(open_clip(path)), COLOURS, strict=True):
        assert np.abs(frame.astype(int) - colour).max() <= 4


def test_colours_come_back(tmp_path: Path) -> None:
    write_film([plain(colour) for colour in COLOURS], tmp_path / "a.mp4", 25)
    assert_colours(tmp_path / "a.mp4")
    tags = video_stream(tmp_path / "a.mp4")
    assert [tags[key] for key in ("matrix", "primaries", "transfer")] == [1, 1, 1]
    assert tags["range"] == ColorRange.MPEG


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((48, 64), {"matrix": Colorspace.ITU601}),
        ((720, 16), {"matrix": Colorspace.ITU709}),
        ((720, 16), {"matrix": Colorspace.ITU601, "tag": 6}),
        ((720, 16), {"matrix": Colorspace.ITU601, "tag": 5}),
        ((48, 64), {"matrix": Colorspace.ITU709, "tag": 1}),
        ((48, 64), {"matrix": Colorspace.ITU709, "tag": 1, "full": True}),
    ],
)
def test_the_colour_space_of_the_source_counts(
    shape: tuple[int, int], options: dict[str, Any], tmp_path: Path
) -> None:
    pictures = [plain(colour, shape) for colour in COLOURS]
    assert_colours(make(tmp_path / "a.mp4", 25, pictures, **options))


def to_sdr(codes: np.ndarray[Any, Any], transfer: str) -> np.ndarray[Any, Any]:
    """R'G'B' in [0, 1] of BT.2100 -> R'G'B' of BT.709 in [0, 1], from the standards' formulas."""
    m1, m2 = 2610 / 16384, 2523 / 4096 * 128
    c1, c2, c3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32

    def pq_to_nits(signal: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        root = signal ** (1 / m2)
        return 10_000 * (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)

    def nits_to_pq(nits: np.ndarray[Any, Any] | float) -> np.ndarray[Any, Any]:
        power = (np.asarray(nits) / 10_000) ** m1
        return ((c1 + c2 * power) / (1 + c3 * power)) ** m2

    if transfer == "PQ":
        nits = pq_to_nits(codes)
    else:  # inverse OETF, then the OOTF of a screen of 1000 nits
        a = 0.17883277
        b = 1 - 4 * a
        c = 0.5 - a * np.log(4 * a)
        scene = np.where(codes <= 0.5, codes**2 / 3, (np.exp((codes - c) / a) + b) / 12)
        luminance = scene @ [0.2627, 0.6780, 0.0593]
        nits = 1000 * luminance[..., None] ** 0.2 * scene
    to_xyz = {}
    for name, (red, green, blue) in {
        "2020": ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
        "709": ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06)),
    }.items():
        columns = np.array([(x / y, 1, (1 - x - y) / y) for x, y in (red, green, blue)]).T
        white = np.array([0.3127 / 0.3290, 1, (1 - 0.3127 - 0.3290) / 0.3290])
        to_xyz[name] = columns * np.linalg.solve(columns, white)
    nits = np.maximum(nits @ (np.linalg.inv(to_xyz["709"]) @ to_xyz["2020"]).T, 0)
    # BT.2390, from 1000 nits to 203 (white paper by BT.2408), on the largest component.
    largest = np.clip(nits.max(-1, keepdims=True), 1e-9, 1000)
    source, target = nits_to_pq(1000), nits_to_pq(203)
    e1, ceiling = nits_to_pq(largest) / source, target / source
    knee = 1.5 * ceiling - 0.5
    t = (e1 - knee) / (1 - knee)
    spline = (
        (2 * t**3 - 3 * t**2 + 1) * knee
        + (t**3 - 2 * t**2 + t) * (1 - knee)
        + (-2 * t**3 + 3 * t**2) * ceiling
    )
    toned = pq_to_nits(np.where(e1 < knee, e1, spline) * source)
    shown: np.ndarray[Any, Any] = np.clip(
        nits * toned / np.maximum(largest, nits.max(-1)[..., None]) / 203, 0, 1
    ) ** (1 / 2.4)
    return shown


@pytest.mark.parametrize("transfer", ["PQ", "HLG"])
def test_hdr_becomes_what_a_common_screen_shows(transfer: str, tmp_path: Path) -> None:
    ramp = np.repeat(np.linspace(0, 1, 64)[:, None], 3, 1)
    colours = [(r, g, b) for r in (0.2, 0.6) for g in (0.3, 0.7) for b in (0.1, 0.5)]
    codes = np.zeros((64, 64, 3))
    codes[:32] = ramp
    codes[32:] = np.repeat(np.array(colours), 8, 0)
    wide = (codes * 65535).round().astype(np.uint16)
    with av.open(str(tmp_path / "a.mkv"), "w") as film:
        video = film.add_stream("libx265", rate=25, options={"x265-params": "crf=5:log-level=0"})
        video.height, video.width, video.pix_fmt = 64, 64, "yuv420p10le"
        video.codec_context.colorspace = 9
        video.codec_context.color_primaries = 9
        video.codec_context.color_trc = 16 if transfer == "PQ" else 18
        video.codec_context.color_range = ColorRange.MPEG
        for index in range(3):
            frame = av.VideoFrame.from_ndarray(wide, format="rgb48le").reformat(
                format="yuv420p10le",
                dst_colorspace=Colorspace.BT2020,
                src_color_range=ColorRange.JPEG,
                dst_color_range=ColorRange.MPEG,
            )
            frame.pts, frame.time_base = index, Fraction(1, 25)
            film.mux(video.encode(frame))
        film.mux(video.encode())
    *_, frame = read_frames(open_clip(tmp_path / "a.mkv"))
    difference = np.abs(frame.astype(float) - 255 * to_sdr(codes, transfer))
    assert difference[:32].mean() < 3
    assert difference[32:].mean() < 6
    assert np.unique(frame[16, :, 1]).size > 45  # ten bits are not read through eight
    size = open_clip(tmp_path / "a.mkv", size=32)
    assert next(read_frames(size)).shape == (32, 32, 3)


def test_tone_mapping_is_the_standards() -> None:
    axis = np.linspace(0, 1, 18)
    codes = np.stack(np.meshgrid(axis, axis, axis), -1).reshape(18, -1, 3)
    wide = (codes * 65535).round().astype(np.uint16)
    for transfer, code in (("PQ", hdr.PQ), ("HLG", hdr.HLG)):
        difference = np.abs(hdr.to_sdr(wide, code) - 255 * to_sdr(codes, transfer))
        assert difference.mean() < 0.5
        assert difference.max() < 6
    grey = np.repeat(wide[:, :1, :1], 3, -1)
    assert np.abs(hdr.to_sdr(grey, 1) - grey / 257).max() <= 1  # BT.2020 that is SDR already


# --- folders -----------------------------------------------------------------------------


def test_a_folder_of_numbered_pictures(tmp_path: Path) -> None:
    for index in range(12):
        suffix = (".png", ".jpg", ".tif", ".webp")[index % 4]
        Image.fromarray(numbered(index)).save(tmp_path / f"shot2_{index}{suffix}", quality=95)
    (tmp_path / "notes7.txt").write_text("no picture")
    (tmp_path / ".hidden_3.png").write_text("no picture")
    clip = open_clip(tmp_path)
    assert (clip.fps, clip.frames, clip.shape, clip.sound) == (25, 12, (48, 64), False)
    assert numbers(clip) == list(range(12))
    assert numbers(clip, 9) == [9, 10, 11]
    section = open_clip(tmp_path, start=0.2, end=1, stride=3, fps=10, size=32)
    assert (section.fps, section.frames, section.start) == (Fraction(10, 3), 3, Fraction(1, 5))
    assert section.shape == (24, 32)
    assert numbers(section) == [2, 5, 8]
    assert open_clip(tmp_path, fps=23.976).fps == NTSC


def series(folder: Path, names: Sequence[str]) -> Path:
    """A folder of pictures whose stripes tell their places in a list of names."""
    folder.mkdir()
    for index, name in enumerate(names):
        Image.fromarray(numbered(index)).save(folder / name)
    return folder


@pytest.mark.parametrize(
    "names",
    [
        [f"{number}_1080p.png" for number in range(1, 13)],
        [f"frame{number:03d}-3000ms.png" for number in range(8, 13)],
        ["frame001-3000ms.png", "frame002-50ms.png", "frame003-100ms.png"],
        ["shot2_0009.png", "shot10_0001.png", "shot10_0002.png"],
        ["0.jpg", "10.png", "20.jfif", "30.jpg"],
    ],
    ids=lambda names: names[0],
)
def test_the_number_that_runs_decides(names: list[str], tmp_path: Path) -> None:
    assert numbers(series(tmp_path / "film", names)) == list(range(len(names)))


def test_missing_numbers_are_said(tmp_path: Path) -> None:
    folder = series(tmp_path / "film", [f"f_{number}.png" for number in (1, 2, 4, 5)])
    with pytest.warns(
        UserWarning, match=r"film: numbers are missing after f_2\.png; the film goes"
    ):
        assert numbers(folder) == [0, 1, 2, 3]


def test_what_a_folder_holds_beside_is_said(tmp_path: Path) -> None:
    folder = series(tmp_path / "film", ["f_1.png", "f_2.png"])
    Image.new("RGB", (8, 8)).save(folder / "cover.png")
    (folder / "f_3.nef").write_text("no picture")
    with pytest.warns(UserWarning, match="film: ") as said:
        assert numbers(folder) == [0, 1]
    sentences = " ".join(str(each.message) for each in said)
    assert "1 file is no picture that can be read (f_3.nef)" in sentences
    assert "without a number are left out: cover.png" in sentences


def test_pictures_are_named_by_a_pattern(tmp_path: Path) -> None:
    names = [f"f_{number:04d}.png" for number in (9, 10, 11)]
    folder = series(tmp_path / "film", [*names, "g_0001.png", "f_12.png", "f_0001.jpg"])
    clip = open_clip(folder / "f_%04d.png", fps=12)
    assert (clip.fps, clip.frames, numbers(clip)) == (12, 3, [0, 1, 2])
    assert numbers(open_clip(folder / "f_%d.png")) == [0, 1, 2, 4]
    with pytest.raises(InputError, match=r"h_%04d\.png: there are no numbered"):
        open_clip(folder / "h_%04d.png")


def test_photographs_are_no_film(tmp_path: Path) -> None:
    for index, shape in enumerate([(30, 40), (40, 30)]):
        Image.fromarray(numbered(index, shape)).save(tmp_path / f"IMG_204{index}.jpg")
    with pytest.raises(
        InputError, match=r"has 40x30 pixels and IMG_2041\.jpg 30x40\. .*apply MODEL"
    ):
        open_clip(tmp_path)


def test_times_of_a_section_may_be_written_as_a_clock_does(tmp_path: Path) -> None:
    path = make(tmp_path / "a.mp4", Fraction(1, 10), 12)
    assert numbers(open_clip(path, start="00:01:30", end="1:50")) == [9, 10]
    assert numbers(open_clip(path, start="90", end=100)) == [9]
    with pytest.raises(InputError, match="'1:75' is no time; write seconds, m:ss or h:mm:ss"):
        open_clip(path, start="1:75")


def test_pictures_of_a_folder_take_the_shape_of_the_first(tmp_path: Path) -> None:
    for index, shape in enumerate([(49, 65), (96, 128), (48, 64)]):
        Image.fromarray(numbered(index, shape)).save(tmp_path / f"{index}.png")
    clip = open_clip(tmp_path)
    frames = list(read_frames(clip))
    assert clip.shape == (48, 64)
    assert {frame.shape for frame in frames} == {(48, 64, 3)}
    assert np.array_equal(frames[0], numbered(0, (49, 65))[:48, :64])
    assert numbers(clip) == [0, 1, 2]


# --- what cannot be read -----------------------------------------------------------------


def test_what_is_not_a_clip(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no clip at all, but a letter")
    (tmp_path / "text.txt").write_text("no clip at all, but a letter")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "picture.png").touch()
    whole = make(tmp_path / "whole.mp4", 25, 20).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])  # its index is at the end
    cases = {
        "missing.mp4": "no such file",
        "folder": "no numbered pictures",
        "text.mp4": "not a clip that can be read, or it is cut short",
        "text.txt": "not a clip",
        "empty.mp4": "is empty",
        "cut.mp4": "cut short",
    }
    for name, message in cases.items():
        with pytest.raises(InputError, match=message) as caught:
            open_clip(tmp_path / name)
        assert name in str(caught.value)


def test_sound_with_a_cover_is_not_a_clip(tmp_path: Path) -> None:
    path, cover = tmp_path / "song.mp3", tmp_path / "cover.jpg"
    Image.fromarray(numbered(1)).save(cover)
    tone = ["-f", "lavfi", "-i", "sine=duration=1"]
    front = ["-i", cover, "-map", "0", "-map", "1", "-disposition:v", "attached_pic"]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *tone, *front, "-c:v", "copy", path]
    subprocess.run(command, check=True)
    with pytest.raises(InputError, match=r"song\.mp3 has no pictures"):
        open_clip(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": 2.0}, "ends at 2.00 s"),
        ({"start": -1.0}, "start = -1"),
        ({"start": float("nan")}, "start = nan"),
        ({"start": 1.0, "end": 1.0}, "end = 1"),
        ({"end": float("nan")}, "end = nan"),
        ({"stride": 0}, "stride = 0"),
        ({"size": 31}, "size = 31: give 32 to"),
        ({"fps": 12}, "folders of pictures only"),
    ],
)
def test_numbers_that_make_no_sense(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = make(tmp_path / "a.mp4", 25, 50)
    with pytest.raises(InputError, match=message):
        open_clip(path, **options)


def test_a_file_cut_short_yields_what_there_is(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 48, 64, 3)).astype(np.uint8)
    options = {"preset": "ultrafast", "movflags": "faststart"}
    whole = make(tmp_path / "whole.mp4", 25, list(noise), options=options)
    write_film(read_frames(open_clip(whole)), tmp_path / "cut.mp4", 25)
    data = (tmp_path / "cut.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 6 // 10])
    clip = open_clip(tmp_path / "cut.mp4")
    assert clip.frames == 40
    assert 10 < len(list(read_frames(clip))) < 35


def test_damage_in_the_middle_is_bridged(tmp_path: Path) -> None:
    path = make(tmp_path / "a.webm", 25, 50)
    with av.open(str(path)) as source:
        (broken,) = [p for p in source.demux(video=0) if p.pts == 1000]
    data = bytearray(path.read_bytes())
    position = data.index(bytes(broken))
    data[position : position + 4] = b"\0\0\0\0"
    path.write_bytes(data)
    clip = open_clip(path)
    seen = numbers(clip)
    assert len(seen) == clip.frames == 50
    assert seen[:26] == [*range(25), 24]


def test_nothing_to_decode(tmp_path: Path) -> None:
    path = make(tmp_path / "a.mp4", 25, 20)
    clip = open_clip(path)
    data = path.read_bytes()
    start, end = data.index(b"mdat") + 4, data.index(b"moov") - 4
    path.write_bytes(data[:start] + bytes(end - start) + data[end:])
    with pytest.raises(InputError, match="no frame can be decoded"):
        list(read_frames(clip))
    with pytest.raises(InputError, match="no frame can be decoded"):
        open_clip(path)


# --- writing -----------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("fps", [NTSC, Fraction(30000, 1001), Fraction(25), Fraction(25, 3)])
def test_rate_and_frames_come_back(suffix: str, fps: Fraction, tmp_path: Path) -> None:
    path = tmp_path / f"film{suffix}"
    assert write_film((numbered(i) for i in range(31)), path, fps) == 31
    clip = open_clip(path)
    assert (clip.fps, clip.frames) == (fps, 31)
    assert numbers(clip) == list(range(31))
    stream = video_stream(path)
    assert (stream["codec"], stream["pixels"], stream["rate"]) == ("h264", "yuv420p", fps)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_the_index_lies_at_the_front(tmp_path: Path) -> None:
    write_film([numbered(0)] * 3, tmp_path / "a.mp4", 25)
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_the_same_frames_give_the_same_bytes(suffix: str, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    frames = generator.integers(0, 255, (12, 96, 128, 3)).astype(np.uint8)
    sound = Sound(click(0.5, at=0.2)[None].astype(np.float32), 48000)
    for name in ("a", "b"):
        sound.write_film(frames, tmp_path / f"{name}{suffix}", 24)
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("fps", [NTSC, Fraction(25), Fraction(25, 3)])
@pytest.mark.parametrize("lengths", [[31], [7, 7, 7], [5, 5, 1], [4, 4, 2]])
def test_films_that_are_joined_lose_no_frame(
    suffix: str, fps: Fraction, lengths: list[int], tmp_path: Path
) -> None:
    parts, count = [], 0
    for length in lengths:
        parts.append(tmp_path / f"{count}.mp4")
        write_film((numbered(count + i) for i in range(length)), parts[-1], fps)
        count += length
    sound = Sound(click(count / float(fps) + 1)[None].astype(np.float32), 48000)
    path = tmp_path / f"film{suffix}"
    join_films(parts, path, fps, sound=sound.save(tmp_path / "sound.wav"))
    clip = open_clip(path)
    assert (clip.fps, clip.frames, clip.sound) == (fps, count, True)
    assert numbers(clip) == list(range(count))
    assert sound_end(path) == pytest.approx(count / float(fps), abs=0.05)
    pictures = [packet for part in parts for packet in video_packets(part)]
    assert video_packets(path) == pictures  # nothing is encoded anew


def test_joined_films_are_the_same_each_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_film([numbered(0)] * 5, tmp_path / f"{name}.mp4", 25)
    parts = [tmp_path / "a.mp4", tmp_path / "b.mp4"]
    for name in ("c", "d"):
        join_films(parts, tmp_path / f"{name}.mp4", 25)
    assert (tmp_path / "c.mp4").read_bytes() == (tmp_path / "d.mp4").read_bytes()


def test_quality_is_a_trade_against_size(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (5, 48, 64, 3)).astype(np.uint8)
    sizes = []
    for quality in (0, 18, 40):
        write_film(frames, tmp_path / "a.mp4", 25, quality=quality)
        sizes.append((tmp_path / "a.mp4").stat().st_size)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 2 * sizes[2]


def test_an_odd_film_loses_its_last_row_and_column(tmp_path: Path) -> None:
    write_film([numbered(i, (49, 67)) for i in range(3)], tmp_path / "a.mp4", 25)
    clip = open_clip(tmp_path / "a.mp4")
    assert (clip.shape, numbers(clip)) == ((48, 66), [0, 1, 2])


def test_frames_are_not_held_on_to(tmp_path: Path) -> None:
    alive = most = 0

    def gone() -> None:
        nonlocal alive
        alive -= 1

    def frames() -> Iterator[Frame]:
        nonlocal alive, most
        for index in range(600):
            frame = numbered(index % 256, (64, 64))
            weakref.finalize(frame, gone)
            alive += 1
            most = max(most, alive)
            yield frame

    gc.collect()
    tracemalloc.start()
    assert write_film(frames(), tmp_path / "a.mp4", 100) == 600
    assert sum(1 for _ in read_frames(open_clip(tmp_path / "a.mp4"))) == 600
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most <= 3
    assert peak < 2_000_000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": "film.avi"}, "ends in .mp4, .mov or .mkv"),
        ({"path": "film"}, "ends in .mp4, .mov or .mkv"),
        ({"frames": []}, "at least one frame"),
        ({"frames": [numbered(0), numbered(1, (48, 80))]}, "frame 1 has the shape"),
        ({"frames": [np.zeros((1, 9, 3), np.uint8)]}, "at least 2 x 2 pixels"),
        ({"fps": 0}, "fps = 0"),
        ({"fps": float("nan")}, "fps = nan"),
        ({"quality": 52}, "quality = 52"),
    ],
)
def test_films_refuse_nonsense(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    arguments = {"frames": [numbered(0)] * 2, "path": "film.mp4", "fps": 25, **changes}
    arguments["path"] = tmp_path / arguments["path"]
    with pytest.raises(InputError, match=message):
        write_film(**arguments)
    assert not list(tmp_path.iterdir())


def test_a_film_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"film\.mp4"):
        write_film([numbered(0)], tmp_path / "file" / "film.mp4", 25)


@pytest.mark.parametrize("error", [PermissionError(13, "not yours"), av.InvalidDataError(1, "odd")])
def test_frames_that_cannot_be_read_are_not_called_unwritable(
    error: Exception, tmp_path: Path
) -> None:
    def frames() -> Iterator[Frame]:
        yield numbered(0)
        raise error

    with pytest.raises(InputError, match=r"frames of a film cannot be read: .*(not yours|odd)"):
        write_film(frames(), tmp_path / "a.mp4", 25)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_full_disk_is_named(suffix: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (60, 96, 96, 3)).astype(np.uint8)
    path = tmp_path / f"film{suffix}"
    path.write_bytes(b"what was there before")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        with pytest.raises(OutputError, match="free some space"):
            write_film(noise, path, 25, quality=5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"what was there before"
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_an_interrupted_film_leaves_nothing(tmp_path: Path) -> None:
    def frames() -> Iterator[Frame]:
        yield from (numbered(i) for i in range(80))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_film(frames(), tmp_path / "a.mp4", 25)
    assert not list(tmp_path.iterdir())


def test_save_mp4_holds_the_last_frame_and_evens_the_sides(tmp_path: Path) -> None:
    frames = [numbered(0, (24, 32)), *(numbered(i, (49, 65)) for i in range(1, 6))]
    clips.save_mp4(frames, tmp_path / "film.mp4", fps=5, hold=2)
    clip = open_clip(tmp_path / "film.mp4")
    assert (clip.fps, clip.shape) == (5, (48, 64))
    assert numbers(clip) == [0, 1, 2, 3, 4] + [5] * 10


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("film.png", {}),
        ("film.mp4", {"fps": 0}),
        ("film.mp4", {"fps": float("nan")}),
        ("film.mp4", {"hold": -1}),
        ("film.mp4", {"frames": []}),
    ],
)
def test_save_mp4_refuses_nonsense(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError):
        clips.save_mp4(**{"frames": [numbered(0)] * 2, "path": tmp_path / name, **options})
    assert not list(tmp_path.iterdir())


# --- sound -------------------------------------------------------------------------------

FRAME = 1 / 25


@pytest.mark.parametrize(
    ("source", "film", "codec"),
    [
        (".mp4", ".mp4", "aac"),
        (".mp4", ".mkv", "aac"),
        (".mov", ".mov", "aac"),
        (".webm", ".mp4", "libopus"),
        (".webm", ".mkv", "libopus"),
        (".mkv", ".mp4", "aac"),
        (".mkv", ".mp4", "flac"),
        (".ts", ".mp4", "aac"),
        (".mov", ".mov", "pcm_s16le"),
    ],
)
def test_sound_is_copied(source: str, film: str, codec: str, tmp_path: Path) -> None:
    path = make(tmp_path / f"a{source}", 25, 50, sound=codec)
    clip = open_clip(path)
    assert clip.sound
    out = tmp_path / f"film{film}"
    write_film(read_frames(clip), out, clip.fps, sound=clip)
    assert numbers(out) == list(range(50))
    mine, theirs = packets(out), packets(path)
    if source != ".ts":  # there, packets have headers of their own
        assert mine == theirs[: len(mine)]
    assert click_time(out) == pytest.approx(click_time(path), abs=0.0015)
    assert abs(sound_end(out) - 2) <= FRAME
    if source == film != ".mkv":  # sound for sound; elsewhere, time stamps are rounded
        before, after = heard(path)[0], heard(out)[0]
        shared = min(len(before), len(after)) - 4000
        assert np.allclose(before[:shared], after[:shared], atol=1e-6)


@pytest.mark.parametrize(
    ("source", "film", "codec"),
    [
        (".mp4", ".mp4", "aac"),
        (".mp4", ".mov", "aac"),
        (".mp4", ".mkv", "aac"),
        (".webm", ".mp4", "libopus"),
        (".webm", ".mkv", "libopus"),
        (".webm", ".mov", "libopus"),
        (".mov", ".mp4", "pcm_s16le"),
        (".mkv", ".mp4", "vorbis"),
        (".ts", ".mp4", "aac"),
    ],
)
def test_a_section_keeps_its_sound_in_time(
    source: str, film: str, codec: str, tmp_path: Path
) -> None:
    path = make(tmp_path / f"a{source}", 25, 75, sound=codec)
    clip = open_clip(path, start=0.72, end=2.2)
    out = tmp_path / f"film{film}"
    write_film(read_frames(clip), out, clip.fps, sound=clip)
    assert numbers(out) == list(range(18, 55))
    assert click_time(out) == pytest.approx(click_time(path) - 0.72, abs=0.002)
    assert abs(sound_end(out) - 37 / 25) <= FRAME


def test_stride_keeps_the_sound(tmp_path: Path) -> None:
    clip = open_clip(make(tmp_path / "a.mp4", 25, 60, sound="aac"), stride=4)
    write_film(read_frames(clip), tmp_path / "film.mp4", clip.fps, sound=clip)
    assert click_time(tmp_path / "film.mp4") == pytest.approx(CLICK, abs=0.001)
    assert abs(sound_end(tmp_path / "film.mp4") - 2.4) <= FRAME


def test_sound_ends_with_the_pictures_that_were_written(tmp_path: Path) -> None:
    clip = open_clip(make(tmp_path / "a.mp4", 25, 75, sound="aac"))
    some = (numbered(i) for i in range(40))
    write_film(some, tmp_path / "film.mp4", clip.fps, sound=clip)
    assert abs(sound_end(tmp_path / "film.mp4") - 1.6) <= FRAME


def test_sound_shorter_than_the_clip(tmp_path: Path) -> None:
    clip = open_clip(make(tmp_path / "a.mp4", 25, 50, sound="aac", seconds=1.2))
    write_film(read_frames(clip), tmp_path / "film.mp4", clip.fps, sound=clip)
    assert open_clip(tmp_path / "film.mp4").frames == 50
    assert sound_end(tmp_path / "film.mp4") == pytest.approx(1.2, abs=FRAME)
    late = open_clip(clip.path, start=1.5)
    write_film(read_frames(late), tmp_path / "late.mp4", late.fps, sound=late)
    assert numbers(tmp_path / "late.mp4") == list(range(38, 50))


def test_a_clip_without_sound(tmp_path: Path) -> None:
    clip = open_clip(make(tmp_path / "a.gif", 25, 5))
    write_film(read_frames(clip), tmp_path / "film.mp4", clip.fps, sound=clip)
    assert not open_clip(tmp_path / "film.mp4").sound


def with_second_track(path: Path, order: str, seconds: int = 4) -> Path:
    """Write pictures, AAC stereo and PCM with four channels, both of them default."""
    with av.open(str(path), "w") as film:
        video = film.add_stream("libx264", rate=5)
        video.height, video.width, video.pix_fmt = 48, 64, "yuv420p"
        tracks = {}
        for kind in order.split():
            tracks[kind] = film.add_stream(kind, rate=48000)
            tracks[kind].layout = "stereo" if kind == "aac" else "4.0"
            tracks[kind].disposition = Disposition.default
        for index in range(5 * seconds):
            frame = av.VideoFrame.from_ndarray(numbered(index), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 5)
            film.mux(video.encode(frame))
        film.mux(video.encode())
        mono = click(seconds).astype(np.float32)
        four = (np.repeat(mono, 4)[None] * 32767).astype(np.int16)
        for kind, samples in {"aac": np.stack([mono, mono]), "pcm_s16le": four}.items():
            if kind in tracks:
                form = "fltp" if kind == "aac" else "s16"
                layout = tracks[kind].layout.name
                played = av.AudioFrame.from_ndarray(samples, format=form, layout=layout)
                played.rate, played.pts, played.time_base = 48000, 0, Fraction(1, 48000)
                film.mux(tracks[kind].encode(played))
                film.mux(tracks[kind].encode())
    return path


@pytest.mark.parametrize("order", ["aac pcm_s16le", "pcm_s16le aac"])
def test_a_second_track_that_cannot_be_decoded_silences_nothing(order: str, tmp_path: Path) -> None:
    path = with_second_track(tmp_path / "phone.mov", order)
    theirs = packets(path, order.split().index("aac"))
    path.write_bytes(path.read_bytes().replace(b"sowt", b"apac"))
    clip = open_clip(path)
    assert clip.sound
    with pytest.warns(UserWarning, match=r"film\.mp4 goes without sound track [12] \(.*phone\.mov"):
        write_film(read_frames(clip), tmp_path / "film.mp4", clip.fps, sound=clip)
    mine = packets(tmp_path / "film.mp4")
    assert len(mine) > 180
    assert mine == theirs[: len(mine)]
    assert click_time(tmp_path / "film.mp4") == pytest.approx(CLICK, abs=0.001)


@pytest.mark.parametrize("film", [".mp4", ".mov", ".mkv"])
def test_all_sound_tracks_are_kept(film: str, tmp_path: Path) -> None:
    clip = open_clip(with_second_track(tmp_path / "a.mov", "pcm_s16le aac"), start=0.4)
    out = tmp_path / f"film{film}"
    write_film(read_frames(clip), out, clip.fps, sound=clip)
    for track in (0, 1):
        assert click_time(out, track) == pytest.approx(CLICK - 0.4, abs=0.002)
    with av.open(str(out)) as written:
        names = [stream.codec_context.name for stream in written.streams.audio]
    assert names == ["aac" if film == ".mp4" else "pcm_s16le", "aac"]


@pytest.mark.parametrize("film", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("source", ["a.mkv subrip", "a.mkv ass", "a.mp4 mov_text"])
def test_subtitles_and_chapters_are_kept(source: str, film: str, tmp_path: Path) -> None:
    name, codec = source.split()
    path = with_subtitles(tmp_path / name, codec, [numbered(index) for index in range(20)])
    assert (subtitles(path), chapters(path)) == (CUES, CHAPTERS)
    clip = open_clip(path)
    out = tmp_path / f"film{film}"
    write_film(read_frames(clip), out, clip.fps, sound=clip)
    assert numbers(out) == list(range(20))
    assert (subtitles(out), chapters(out)) == (CUES, CHAPTERS)
    section = open_clip(path, start=0.4, end=1.5)
    write_film(read_frames(section), out, section.fps, sound=section)
    assert subtitles(out) == [(0, 0.5, "one"), (0.8, 1.1, "two")]
    assert chapters(out) == [(0, 0.1, "dawn"), (0.1, 1.1, "day")]


def test_subtitles_that_are_pictures_are_named(tmp_path: Path) -> None:
    path = with_subtitles(tmp_path / "a.mkv", "subrip")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"S_TEXT/UTF8", b"S_HDMV/PGS\0"))
    clip = open_clip(path)
    with pytest.warns(UserWarning, match=r"film\.mp4 goes without subtitle track 1 \(hdmv_pgs"):
        write_film(read_frames(clip), tmp_path / "film.mp4", clip.fps, sound=clip)
    assert chapters(tmp_path / "film.mp4") == CHAPTERS


@pytest.mark.parametrize("film", [".mp4", ".mov"])  # copied and encoded anew
def test_damaged_sound_does_not_stop_a_film(film: str, tmp_path: Path) -> None:
    path = make(tmp_path / "a.mkv", 25, 50, sound="flac")
    data = bytearray(path.read_bytes())
    for packet in packets(path)[3:9]:
        position = data.index(packet)
        data[position : position + len(packet)] = bytes(len(packet))
    path.write_bytes(data)
    clip = open_clip(path)
    out = tmp_path / f"film{film}"
    write_film(read_frames(clip), out, clip.fps, sound=clip)
    assert numbers(out) == list(range(50))


@pytest.mark.parametrize("film", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("seconds", [1.5, 2.0, 9.0])
def test_sound_of_a_file_without_pictures(film: str, seconds: float, tmp_path: Path) -> None:
    sound = Sound(np.stack([click(seconds)] * 2).astype(np.float32), 48000)
    out = tmp_path / f"film{film}"
    sound.write_film((numbered(i) for i in range(50)), out, 25)
    assert click_time(out) == pytest.approx(CLICK, abs=0.001)
    assert abs(sound_end(out) - min(seconds, 2.0)) <= FRAME


def test_sound_and_picture_lie_side_by_side(tmp_path: Path) -> None:
    path = make(tmp_path / "a.mp4", 25, 250, sound="aac", seconds=10)
    clip = open_clip(path)
    write_film(read_frames(clip), tmp_path / "film.mp4", clip.fps, sound=clip)
    kinds = []
    with av.open(str(tmp_path / "film.mp4")) as film:
        places = sorted(
            (packet.pos, packet.stream.type) for packet in film.demux() if packet.pos is not None
        )
        kinds = [kind for _, kind in places]
    longest = max(len(run) for run in "".join(kind[0] for kind in kinds).split("v"))
    assert longest < 60


@pytest.mark.slow
def test_a_film_has_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    script = (
        "import sys; from workbench import samples; from workbench.video import clips\n"
        "clip = clips.open_clip(samples.find_clip('sample:clip'), start=1.36, end=1.68)\n"
        "clips.write_film(clips.read_frames(clip), sys.argv[1], clip.fps)"
    )
    films = [tmp_path / f"{number}.mp4" for number in range(4)]
    runs = [subprocess.Popen([sys.executable, "-c", script, str(film)]) for film in films]
    assert [run.wait() for run in runs] == [0] * 4
    assert len({film.read_bytes() for film in films}) == 1


def test_a_moment_of_a_film_is_read_without_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = [np.full((32, 64, 3), 2 * i, np.uint8) for i in range(125)]
    path = tmp_path / "film.mp4"
    write_film(frames, path, 25)
    made: list[int] = []
    make = clips.picture
    monkeypatch.setattr(clips, "picture", lambda *a: made.append(1) or make(*a))

    def greys(*moment: Any, **options: Any) -> list[int]:
        shown = clips.read_moment(path, *moment, **options)
        return [round(float(frame.mean()) / 2) for frame in shown]

    assert greys(2.0, 0.2) == [50, 51, 52, 53, 54]
    assert len(made) == 5
    assert greys(0.0, 0.0) == [0]
    assert greys(99.0, 2.0) == [124]
    assert greys(4.9, 2.0)[-1] == 124
    assert clips.read_moment(path, 1.0, 0.04, size=32)[0].shape == (16, 32, 3)
