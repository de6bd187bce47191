"""Films as moviepy's clips: opened, cut by a schedule, captioned, side by side, and written.

moviepy composes; `clips` reads and writes, at exact rates, with the colours and the sound of the
source.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps

from workbench.errors import InputError
from workbench.fast import applying
from workbench.fast.applying import PART
from workbench.fast.models import MODEL, StyleModel
from workbench.fast.schedule import Schedule, Section, choose_models
from workbench.files import claimed, expanded, pictures_in
from workbench.images import Frame, to_array
from workbench.progress import bar
from workbench.runs import Identity, check_result, read_identity, same_run
from workbench.samples import find_clip
from workbench.sheets import contact_sheet, font_of, text_height, text_width, wrap
from workbench.video.clips import (
    FORMATS,
    Clip,
    check_film,
    join_films,
    open_clip,
    read_frames,
    write_film,
)
from workbench.video.decoding import exact, open_file
from workbench.video.frames import PaintedFrames
from workbench.video.sound import Samples, read_samples

# moviepy would take over what a file named .env in a folder above says of the environment.
_QUIET = "PYTHON_DOTENV_DISABLED"
_asked = _QUIET in os.environ
os.environ.setdefault(_QUIET, "1")
from moviepy import AudioClip, CompositeVideoClip, ImageClip, VideoClip, vfx  # noqa: E402

if not _asked:
    del os.environ[_QUIET]

_READ_ON = 25  # frames; further ahead it is quicker to begin anew
_RATE = 48000  # samples a second, of sound as moviepy has it
_CHUNK = 4096  # samples that are put together at a time
_PROBE = 0.02  # s between the times at which is asked whose sound it is
_PROBES = 50  # of these times at once
_NEARLY = 1e-6  # s
_HELD = 2**27  # bytes of frames that are held before they are written
_FADE = 0.5  # s in which a title gives way, at most
_SHADE = 150  # of 255: how opaque the ground of a caption is


# --- opening -----------------------------------------------------------------------------


def as_clip(run_or_film: str | os.PathLike[str] | Clip | PaintedFrames) -> VideoClip:
    """Open a film for an edit of your own: titles, cuts, fades, all that moviepy has.

    Its frames are read when they are asked for. It has the film's first sound, or silence where
    there are subtitles or chapters alone; that of painted frames is none.

    Parameters
    ----------
    run_or_film
        Folder of a finished run, a film, a folder of pictures or "sample:clip"; or from
        `open_clip`, for a section, another size or rate; or the frames of `paint_clip`, which are
        not compressed.

    Raises
    ------
    InputError
        If there is no film there, or a run made several: name the file then.
    """
    if isinstance(run_or_film, PaintedFrames):
        told = read_identity(run_or_film.folder) or {}
        rate, count = Fraction(told.get("fps", 25)), len(run_or_film)
        return _video(lambda first: map(to_array, run_or_film.read(first)), count, rate)
    clip = run_or_film
    if not isinstance(clip, Clip):
        clip = open_clip(_film_of(find_clip(str(clip))))
    video = _video(lambda first: read_frames(clip, first), clip.frames, clip.fps)
    if not (clip.sound or _has_words(clip.path)):
        return video
    return video.with_audio(AudioClip(_Sound(clip), video.duration, _RATE))


def _has_words(film: Path) -> bool:
    """Whether a film has subtitles or chapters; these go where its sound goes."""
    if not film.is_file():
        return False
    with open_file(film) as source:
        return bool(source.streams.subtitles or source.chapters())


def _film_of(path: Path) -> Path:
    """The film that a run made; any other path is one of a film itself."""
    if not (path / "result.json").exists():
        if path.is_dir() and not pictures_in(path):
            raise InputError(f"{path} is no finished run; run it to its end, or name a film.")
        return path
    outputs = map(Path, check_result(path).outputs.values())
    films = [path / each for each in outputs if each.suffix in FORMATS]
    if len(films) != 1:
        names = ", ".join(map(str, films)) or "none"
        raise InputError(f"{path} is no run with one film (there is {names}); name a film.")
    return films[0]


def _video(read: Callable[[int], Iterator[Frame]], count: int, rate: Fraction) -> VideoClip:
    """A clip of the frames that `read` gives from a number on."""
    frames, newest, at = read(0), np.empty(0, np.uint8), -1

    def frame(seconds: float) -> Frame:
        nonlocal frames, newest, at
        number = _number(seconds, rate, count)
        if not at <= number <= at + _READ_ON:
            frames, at = read(number), number - 1
        while at < number:
            newest, at = next(frames, newest), at + 1  # where a film breaks off, its last one
        return newest

    return VideoClip(frame, duration=float(count / rate)).with_fps(float(rate))


def _number(seconds: float, rate: Fraction, count: int) -> int:
    """Number of the frame, of so many, that is shown at a time."""
    # A thousandth of a frame more, as times at which frames begin are rounded.
    number = math.floor(Fraction(seconds) * rate + Fraction(1, 1000))
    return min(max(number, 0), count - 1)


class _Sound:
    """Sound of a clip, `(n, 2)` in [-1, 1], at any times.

    It is read on, or anew from where it is wanted. While `asked` is a list, the clip is noted there
    and the times come back instead of samples: what moviepy makes of them tells how it plays it.
    """

    asked: ClassVar[list[Clip] | None] = None

    def __init__(self, clip: Clip) -> None:
        self._clip = clip
        self._chunks: Iterator[NDArray[np.float32]] | None = None  # what comes behind the held
        self._first, self._held = 0, np.zeros((2, 0), np.float32)  # samples from a number on

    def __call__(self, seconds: float | NDArray[np.float64]) -> NDArray[Any]:
        times = np.atleast_1d(seconds)
        if self.asked is not None:
            self.asked.append(self._clip)
            heard = np.stack([times, times], axis=1)
        else:
            numbers = np.maximum(np.rint(times * _RATE).astype(int), 0)
            if len(numbers):
                self._read(int(numbers.min()), int(numbers.max()) + 1)
            heard = self._held[:, numbers - self._first].T
        return heard if np.ndim(seconds) else heard[0]

    def _read(self, first: int, end: int) -> None:
        """Hold samples from one number to another."""
        reached = self._first + self._held.shape[1]
        if self._chunks is None or not self._first <= first <= reached + _RATE:
            self._chunks = read_samples(self._clip, _RATE, Fraction(first, _RATE))
            self._first, self._held, reached = first, self._held[:, :0], first
        parts = [self._held]
        while reached < end:
            silence = np.zeros((2, end - reached), np.float32)  # behind its end
            parts.append(next(self._chunks, silence))
            reached += parts[-1].shape[1]
        gone = max(0, first - _RATE - self._first)
        self._held = np.concatenate(parts, axis=1)[:, gone:]
        self._first += gone


def open_films(
    schedule: Schedule,
    source: Clip,
    folder: str | os.PathLike[str],
    *,
    crossfade: int = 0,
    strength: float = 1.0,
    original_colors: str = "off",
    device: str = "auto",
    precision: str = "auto",
) -> dict[str, VideoClip]:
    """Open what a schedule names: finished runs, films and, as "models/ink@weird", style models.

    A model paints of the source what it is there for, into a film in `folder`, which a later call
    finds there; stopped anywhere, the same call goes on. `crossfade` is that of `cut`; the others
    are as for `applying.paint_film`, `StyleModel.load` and `mixed`.
    """
    films = {}
    for name in schedule.models:
        own = Path(name.partition("@")[0])
        if not (own / MODEL).exists() and own.suffix != ".safetensors":
            films[name] = as_clip(name)
            continue
        needed = [section for section in schedule.sections if name in section.models]
        first = math.floor(needed[0].start * source.fps)
        last = min(math.ceil(needed[-1].end * source.fps) + crossfade, source.frames)
        start = first / source.fps
        section = replace(source, start=source.start + start, frames=last - first)
        model = StyleModel.load(name, device=device, precision=precision).mixed(strength)
        film = applying.find_film(section, model, Path(folder), original_colors=original_colors)
        films[name] = as_clip(film).with_start(float(start))
    return films


# --- putting together --------------------------------------------------------------------


def cut(
    schedule: Schedule,
    films: Mapping[str, VideoClip],
    fps: Fraction | float,
    *,
    seed: int = 0,
    hold: int = 1,
    crossfade: int = 0,
) -> VideoClip:
    """Put films of one clip together, each where the schedule names it.

    All run on together, and what is shown changes. The largest gives the size; the others are
    brought to it, with black beside them where their shape is another, which is said, as other
    rates are. The sound is that of the first that has one.

    Parameters
    ----------
    schedule
        From `read_schedule`; of several films in a section, one is drawn, as of models.
    films
        What the schedule names, as from `open_films`; one may begin later (`with_start`).
    fps, seed, hold, crossfade
        As for `choose_models`.

    Raises
    ------
    InputError
        If a film does not last as long as its sections.
    """
    rate = Fraction(fps)
    count = round(Fraction(schedule.sections[-1].end) * rate)
    choices = choose_models(schedule, count, rate, seed=seed, hold=hold, crossfade=crossfade)
    _check_lengths(schedule, films, rate)
    size = max((film.size for film in films.values()), key=math.prod)
    for name, film in films.items():
        if tuple(film.size) != tuple(size) or exact(film.fps) != rate:
            warnings.warn(
                f"{name} has {film.w}x{film.h} pixels and {film.fps:.5g} frames a second; it is"
                f" fitted to {size[0]}x{size[1]} and {float(rate):.5g}.",
                stacklevel=2,
            )

    def frame(seconds: float) -> Frame:
        number = _number(seconds, rate, count)
        moment = float((number + Fraction(1, 2)) / rate)
        mixed = np.zeros((size[1], size[0], 3), np.float32)
        for name, share in choices[number].items():
            picture = films[name].get_frame(max(0.0, moment - films[name].start))
            mixed += np.float32(share) * _fitted(picture, size)
        return np.rint(mixed).astype(np.uint8)

    film = VideoClip(frame, duration=float(count / rate)).with_fps(float(rate))
    whole = [each for each in films.values() if each.start == 0 and each.end > film.end - 1 / rate]
    return film.with_audio(next((each.audio for each in whole if each.audio is not None), None))


def _check_lengths(schedule: Schedule, films: Mapping[str, VideoClip], rate: Fraction) -> None:
    for section in schedule.sections:
        for name in section.models:
            film = films[name]
            begins, ends = film.start, film.start + film.duration
            if section.start < begins - 1 / rate or section.end > ends + 1 / rate:
                raise InputError(
                    f"schedule: section {section.key} shows {name}, which lasts from {begins:.4g}"
                    f" to {ends:.4g} s; shorten the section or name another film."
                )


def _fitted(picture: NDArray[Any], size: tuple[int, int]) -> Frame:
    """A frame of `(width, height)`, with black beside it if its shape is clearly another."""
    height, width = picture.shape[:2]
    if (width, height) == tuple(size):
        return picture
    own = Image.fromarray(picture.astype(np.uint8))
    alike = 0.98 < (width / height) / (size[0] / size[1]) < 1.02
    fitted = ImageOps.fit(own, size) if alike else ImageOps.pad(own, size)
    return np.asarray(fitted)


def card(text: str, clip: VideoClip, seconds: float) -> VideoClip:
    """Make a title of white text on black, as large as a clip."""
    font = font_of(max(8, clip.h // 10))
    picture = Image.new("RGB", (clip.w, clip.h))
    lines, middle = wrap(text, 0.9 * clip.w, font), (clip.w / 2, clip.h / 2)
    ImageDraw.Draw(picture).text(middle, lines, "white", font, anchor="mm", align="center")
    return ImageClip(np.asarray(picture), duration=seconds).with_fps(clip.fps)


def with_title(clip: VideoClip, text: str, seconds: float) -> VideoClip:
    """Begin a clip with a title over its first seconds, which gives way to the picture."""
    title = card(text, clip, min(seconds, clip.duration))
    fade = vfx.CrossFadeOut(min(_FADE, title.duration / 2))
    return CompositeVideoClip([clip, title.with_effects([fade])], bg_color=(0, 0, 0))


def caption(text: str, clip: VideoClip, seconds: float) -> VideoClip:
    """Make a caption at the foot of a clip: white text on a dark ground that can be seen through.

    `with_start` says when it comes, and `CompositeVideoClip([clip, caption])` shows it.
    """
    font = font_of(max(8, clip.h // 16))
    pad = round(font.size / 2)
    lines = wrap(text, 0.9 * clip.w - 2 * pad, font)
    # As high as its lines, whatever the letters are, so that captions stand at one height.
    width, height = round(text_width(lines, font)) + 2 * pad, text_height(lines, font) + pad
    picture = Image.new("RGBA", (width, height), (0, 0, 0, _SHADE))
    middle = (width / 2, height / 2)
    ImageDraw.Draw(picture).text(middle, lines, "white", font, anchor="mm", align="center")
    place = ((clip.w - width) // 2, clip.h - height - pad)
    return ImageClip(np.asarray(picture), duration=seconds).with_position(place)


def with_captions(clip: VideoClip, captions: Sequence[Section]) -> VideoClip:
    """Show texts at the foot of a clip, each in its section (`schedule.read_captions`)."""
    shown = [
        caption("\n".join(each.models), clip, each.end - each.start).with_start(each.start)
        for each in captions
    ]
    return CompositeVideoClip([clip, *shown], bg_color=(0, 0, 0)) if shown else clip


def side_by_side(films: Mapping[str, VideoClip | Frame], columns: int) -> VideoClip:
    """Lay clips and stills `(H, W, 3)` out in rows of `columns`, each with its name below.

    All are brought to the height of the first clip. It is as long as the shortest, and has the
    sound of the first that has one.
    """
    moving = [film for film in films.values() if not isinstance(film, np.ndarray)]
    height = moving[0].h

    def sheet(seconds: float) -> Frame:
        pictures = [
            film if isinstance(film, np.ndarray) else film.get_frame(seconds)
            for film in films.values()
        ]
        return contact_sheet(pictures, list(films), columns=columns, height=height)

    shortest = min(moving, key=lambda film: film.duration)
    heard = (film.audio for film in moving if film.audio is not None)
    video = VideoClip(sheet, duration=shortest.duration).with_fps(shortest.fps)
    return video.with_audio(next(heard, None))


# --- writing -----------------------------------------------------------------------------


def write_clip(
    clip: VideoClip,
    path: str | os.PathLike[str],
    fps: Fraction | float | None = None,
    *,
    quality: int = 18,
) -> int:
    """Write a clip of moviepy as a film, with the exact rate, tagged colours and its sound.

    Sound that is a film's own (`as_clip`), from one time on, unchanged and without a gap, is copied
    as it is, with all its tracks, subtitles and chapters. Other sound is encoded as AAC.

    Every hundred frames (fewer, where they are large) lie as a film of their own in a folder beside
    `path` until all are done: stopped anywhere, the same call goes on, with the same film. What the
    clip shows otherwise by then is written anew.

    Parameters
    ----------
    clip
        Any clip that has a duration.
    path, quality
        As for `write_film`, which raises the same errors.
    fps
        Frames a second; None: the clip's own, 24000/1001 for 23.976 and so on.

    Returns
    -------
    int
        Number of frames written.
    """
    check_film(path, quality=quality)
    if clip.duration is None:
        raise InputError(f"{path}: the clip has no duration; say clip.with_duration(seconds).")
    fps = fps or getattr(clip, "fps", None)
    if not fps:
        raise InputError(f"{path}: the clip has no frame rate; give fps.")
    rate = exact(fps)
    count = round(Fraction(clip.duration) * rate)
    if count < 1:
        raise InputError(f"{path}: the clip is shorter than a frame.")
    folder = expanded(path).with_suffix(".parts")
    at_a_time = max(4, min(PART, _HELD // (3 * clip.w * clip.h)))
    with claimed(folder):
        same_run(folder, Identity({"edit": Path(path).name}))
        parts: list[Path] = []
        frames = bar(frames_of(clip, rate), "writing", "frame", total=count)
        while some := list(islice(frames, at_a_time)):
            seen = hashlib.sha256(f"{rate} {quality}".encode())
            for frame in some:
                seen.update(frame.data)
            parts.append(folder / f"{seen.hexdigest()}.mp4")
            if not parts[-1].exists():
                write_film(some, parts[-1], rate, quality=quality)
        join_films(parts, path, rate, sound=_sound_of(clip, count, rate))
    shutil.rmtree(folder, ignore_errors=True)
    return count


def frames_of(clip: VideoClip, fps: Fraction | float, first: int = 0) -> Iterator[Frame]:
    """Frames `(H, W, 3)` of a clip of moviepy from a number on, as `write_film` wants them.

    Each is taken in the middle of its time, where no rounding leads to its neighbour.
    """
    rate = Fraction(fps)
    for number in range(first, round(Fraction(clip.duration) * rate)):
        picture = clip.get_frame(float((number + Fraction(1, 2)) / rate))
        if picture.dtype != np.uint8:
            picture = np.rint(picture).clip(0, 255).astype(np.uint8)
        yield np.ascontiguousarray(picture)


def _sound_of(clip: VideoClip, count: int, rate: Fraction) -> Clip | Samples | None:
    """What `write_film` is to take a clip's sound from."""
    if clip.audio is None:
        return None
    length = float(count / rate)
    ends = length if clip.audio.duration is None else clip.audio.duration
    if ends > length - 1 / rate and (own := _own_sound(clip, length)):
        source, since = own
        start = source.start + Fraction(round(since * 10**6), 10**6)
        return replace(source, start=start, fps=rate, stride=1, frames=count)
    return Samples(_RATE, _mixed(clip, round(min(length, ends) * _RATE)))


def _own_sound(clip: VideoClip, length: float) -> tuple[Clip, float] | None:
    """The clip that the sound is of, and from which second on; None if more was done to it."""
    times = np.arange(min(_PROBE, length) / 2, length, _PROBE)
    shifts: list[float] = []
    _Sound.asked = []
    try:
        # In short pieces, as moviepy's own sounds hold some seconds; mostly the first one tells.
        for some in np.array_split(times, math.ceil(len(times) / _PROBES)):
            told = np.asarray(clip.audio.get_frame(some)).reshape(len(some), -1)
            shift = told - some[:, None]
            shifts += [float(shift.min()), float(shift.max())]
            if len(set(_Sound.asked)) != 1 or np.ptp(shifts) > _NEARLY:
                return None
        return _Sound.asked[0], shifts[0]
    finally:
        _Sound.asked = None


def _mixed(clip: VideoClip, count: int) -> Iterator[NDArray[np.float32]]:
    """Sound as moviepy puts it together, `(2, n)`."""
    for first in range(0, count, _CHUNK):
        times = np.arange(first, min(first + _CHUNK, count)) / _RATE
        heard = np.asarray(clip.audio.get_frame(times), np.float32).reshape(len(times), -1)
        yield np.repeat(heard, 2, axis=1).T if heard.shape[1] == 1 else heard[:, :2].T
