"""Films as moviepy's clips, to cut and put together, and the frames of what comes of it.

moviepy composes; `clips` reads and writes, at exact rates, with the colours and the sound of the
source.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path

import numpy as np
from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont

from workbench.errors import InputError
from workbench.images import Frame, to_array
from workbench.runs import check_result, read_identity
from workbench.sheets import contact_sheet
from workbench.video.clips import FORMATS, Clip, open_clip, read_frames
from workbench.video.frames import PaintedFrames

# moviepy would take over what a file named .env in a folder above says of the environment.
_QUIET = "PYTHON_DOTENV_DISABLED"
_asked = _QUIET in os.environ
os.environ.setdefault(_QUIET, "1")
from moviepy import ImageClip, VideoClip  # noqa: E402

if not _asked:
    del os.environ[_QUIET]

_READ_ON = 25  # frames; further ahead it is quicker to begin anew


def as_clip(run_or_film: str | os.PathLike[str] | Clip | PaintedFrames) -> VideoClip:
    """Open a film for an edit of your own: titles, cuts, fades, all that moviepy has.

    It is without sound: `write_film` adds that of a clip.

    Parameters
    ----------
    run_or_film
        Folder of a finished run, a film or a folder of pictures; or from `open_clip`, for a
        section, another size or rate; or the frames of `paint_clip`, which are not compressed.

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
        clip = open_clip(_film_of(Path(clip)))
    return _video(lambda first: read_frames(clip, first), clip.frames, clip.fps)


def _film_of(path: Path) -> Path:
    """The film that a run made; any other path is one of a film itself."""
    if not (path / "result.json").exists():
        return path
    films = [path / each for each in check_result(path).outputs.values()]
    films = [film for film in films if film.suffix in FORMATS]
    if len(films) != 1:
        names = ", ".join(map(str, films)) or "none"
        raise InputError(f"{path} is no run with one film (there is {names}); name a film.")
    return films[0]


def _video(read: Callable[[int], Iterator[Frame]], count: int, rate: Fraction) -> VideoClip:
    """A clip of the frames that `read` gives from a number on."""
    frames, newest, at = read(0), np.empty(0, np.uint8), -1

    def frame(seconds: float) -> Frame:
        nonlocal frames, newest, at
        # A thousandth of a frame more, as times at which frames begin are rounded.
        number = math.floor(Fraction(seconds) * rate + Fraction(1, 1000))
        number = min(max(number, 0), count - 1)
        if not at <= number <= at + _READ_ON:
            frames, at = read(number), number - 1
        while at < number:
            newest, at = next(frames, newest), at + 1  # where a film breaks off, its last one
        return newest

    return VideoClip(frame, duration=float(count / rate)).with_fps(float(rate))


def frames_of(clip: VideoClip, fps: Fraction | float) -> Iterator[Frame]:
    """Frames `(H, W, 3)` of a clip of moviepy, as `write_film` wants them.

    Each is taken in the middle of its time, where no rounding leads to its neighbour.
    """
    rate = Fraction(fps)
    for number in range(round(Fraction(clip.duration) * rate)):
        picture = clip.get_frame(float((number + Fraction(1, 2)) / rate))
        yield np.rint(picture).clip(0, 255).astype(np.uint8)


def card(text: str, clip: VideoClip, seconds: float) -> VideoClip:
    """Make a title of white text on black, as large as a clip."""
    font = ImageFont.truetype(findfont("DejaVu Sans"), max(8, clip.h // 10))
    picture = Image.new("RGB", clip.size)
    middle = (clip.w / 2, clip.h / 2)
    ImageDraw.Draw(picture).text(middle, text, "white", font, anchor="mm", align="center")
    return ImageClip(np.asarray(picture), duration=seconds).with_fps(clip.fps)


def side_by_side(films: Mapping[str, VideoClip | Frame], columns: int) -> VideoClip:
    """Lay clips and stills `(H, W, 3)` out in rows of `columns`, each with its name below.

    All are brought to the height of the first clip. It is as long as the shortest.
    """
    moving = [film for film in films.values() if not isinstance(film, np.ndarray)]

    def sheet(seconds: float) -> Frame:
        pictures = [
            film if isinstance(film, np.ndarray) else film.get_frame(seconds)
            for film in films.values()
        ]
        return contact_sheet(pictures, list(films), columns=columns, height=moving[0].h)

    shortest = min(moving, key=lambda film: film.duration)
    return VideoClip(sheet, duration=shortest.duration).with_fps(shortest.fps)
