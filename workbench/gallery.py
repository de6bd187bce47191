"""Finished runs -> a static page for a blog, opened from a file or served from anywhere."""

from __future__ import annotations

import filecmp
import hashlib
import io
import json
import os
import re
import shlex
import shutil
import sys
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from workbench.errors import InputError, OutputError
from workbench.files import atomic, check_writable, write_bytes
from workbench.images import PICTURE_SUFFIXES, Box, from_array, load_image, resize, to_array
from workbench.runs import RESULT, Result, check_result
from workbench.samples import PREFIX, load_picture
from workbench.settings import ClipSettings, Settings
from workbench.video.clips import open_clip, read_frames
from workbench.words import duration, number, plain

PAGE = "index.html"
GENERATOR = "workbench gallery"
_ASSETS = "assets"
_MANIFEST = ".made-by-gallery.json"
_STILL, _THUMBNAIL = 640, 160  # px, longest sides
_QUALITY = 80  # of the WebP files
_PICTURES = {*PICTURE_SUFFIXES} - {".gif"}
_ANIMATIONS = {".gif": "GIF", ".mp4": "film"}  # in the order of preference
_STYLE_OUTPUT = re.compile(r"style([ _-]?\d+)?")
_CONTENT_OUTPUTS = ("content", "photograph")
_WENT_IN = re.compile(rf"({'|'.join(_CONTENT_OUTPUTS)}|inputs|{_STYLE_OUTPUT.pattern})(\.\w+)?")
_PAINTED = {"picture", "film", "sheet"}  # outputs of runs that paint a content picture
_ALWAYS_SHOWN = {"size", "steps", "content_weight", "style_weight"}
_SHOWN_AS_PICTURES = {"content", "clip", "style", "styles"}
_OF_FILES = re.compile(r"output_dir|quality|save_every|(gif|sheet)_\w+")  # not of what they show

Rows = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Asset:
    """A file beside the page: its `address` relative to that, and what is worth saying of it."""

    address: str
    alt: str
    width: int
    height: int


@dataclass(frozen=True)
class Animation:
    """A GIF or a film; `kind` says which, `bytes` what it costs to load."""

    address: str
    kind: str
    bytes: int


@dataclass(frozen=True)
class Exhibit:
    """One run as the page shows it.

    Attributes
    ----------
    title
        The name of the run's folder, with as many of its parents as tell it from the others.
    still
        What is seen at first.
    animation
        What the still is swapped for when a visitor asks for it.
    content, styles
        Small pictures of what went in, as far as they can be found.
    settings, figures
        `(name, value)`, ready to be read.
    """

    title: str
    still: Asset
    animation: Animation | None
    content: Asset | None
    styles: tuple[Asset, ...]
    settings: Rows
    figures: Rows


@dataclass(frozen=True)
class Gallery:
    """What `build_gallery` made.

    Attributes
    ----------
    page
        The page; None if every run was left out, and then no page was written.
    exhibits
        In the order of the page.
    problems
        A sentence for each run that was left out.
    """

    page: Path | None
    exhibits: tuple[Exhibit, ...]
    problems: tuple[str, ...]


def build_gallery(
    folders: Iterable[str | os.PathLike[str]],
    output_dir: str | os.PathLike[str],
    *,
    title: str = "Gallery",
) -> Gallery:
    """Show all finished runs below some folders on one static page.

    Parameters
    ----------
    folders
        Where to look, at any depth.
    output_dir
        Gets `index.html` and what it shows in `assets/`; the folder can be put on any web
        server, at any address. Building again replaces what changed and removes what is no
        longer used; an asset keeps its name as long as its run stays where it is.
    title
        Heading of the page.

    Raises
    ------
    InputError
        If a folder does not exist, or there is no run in any of them.
    OutputError
        If the page cannot be written, or `output_dir` has an `index.html` of someone else's.
    """
    places = [Path(folder) for folder in folders]
    if not places:
        raise InputError("folders: name at least one folder with runs.")
    output_dir = Path(output_dir)
    page = output_dir / PAGE
    runs, problems = find_runs(places, leave_out=output_dir)
    if not runs and not problems:
        raise InputError(
            f"{', '.join(map(str, places))}: there is no finished run in here (no {RESULT});"
            f" `workbench demo -o {shlex.quote(str(places[0] / 'demo'))}` makes one."
        )
    _check_page(page)
    assets = _Assets(output_dir / _ASSETS)
    thumbnail = cache(_thumbnail)
    exhibits = []
    titles = _titles([folder for folder, _ in runs])
    bar = tqdm(runs, "gallery", unit="run", file=sys.stdout, ncols=88, mininterval=0.2)
    for (folder, result), name in zip(bar, titles, strict=True):
        try:
            exhibits.append(_exhibit(folder, result, name, assets, thumbnail))
        except InputError as error:
            problems.append(f"{folder}: left out, because {error}")
        except RecursionError:
            problems.append(f"{folder}: left out, because {RESULT} is nested too deeply.")
    problems = [plain(problem) for problem in problems]
    if not exhibits:
        return Gallery(None, (), tuple(problems))
    html = _template().render(title=title, exhibits=exhibits, generator=GENERATOR)
    # A name on disk need not be valid Unicode.
    write_bytes(page, html.encode("utf-8", "replace"))
    assets.remove_unused()
    return Gallery(page, tuple(exhibits), tuple(problems))


# --- runs --------------------------------------------------------------------------------


def find_runs(
    folders: Iterable[str | os.PathLike[str]],
    *,
    leave_out: str | os.PathLike[str] | None = None,
) -> tuple[list[tuple[Path, Result]], list[str]]:
    """Find finished runs in folders and below them; hidden folders are not looked into.

    Parameters
    ----------
    leave_out
        A folder not to look into.

    Returns
    -------
    runs : list of (Path, Result)
        Sorted by path, each once.
    problems : list of str
        A sentence for every `result.json` that is not valid and every folder that cannot be
        read.

    Raises
    ------
    InputError
        If one of the folders is none, or lies inside of `leave_out`.
    """
    avoided = None if leave_out is None else Path(leave_out).resolve()
    found: dict[Path, Path] = {}
    problems: list[str] = []

    def unreadable(error: OSError) -> None:
        reason = (error.strerror or str(error)).lower()
        problems.append(f"{error.filename}: left out, because it cannot be read: {reason}.")

    for folder in map(Path, folders):
        if not folder.exists():
            raise InputError(f"{folder}: there is no such folder.")
        if not folder.is_dir():
            raise InputError(f"{folder} is a file; name the folder of a run or one above it.")
        if avoided is not None and folder.resolve().is_relative_to(avoided):
            raise InputError(f"{folder} is where the page goes; name a folder with runs.")
        for name, subfolders, files in os.walk(folder, onerror=unreadable):
            here = Path(name)
            subfolders[:] = [
                sub
                for sub in sorted(subfolders)
                if not sub.startswith(".") and (here / sub).resolve() != avoided
            ]
            if RESULT in files:
                found.setdefault(here.resolve(), here)
    runs = []
    for _, here in sorted(found.items()):
        try:
            runs.append((here, check_result(here)))
        except InputError as error:
            problems.append(f"{here}: left out, because {error}")
    return runs, problems


def _titles(folders: Sequence[Path]) -> list[str]:
    """Name each folder by as few of its last parts as tell it from the others."""
    paths = [folder.resolve().parts for folder in folders]
    titles = []
    for parts in paths:
        for count in range(1, len(parts) + 1):
            tail = parts[-count:]
            if sum(other[-count:] == tail for other in paths) == 1:
                break
        titles.append(plain(" / ".join(tail)))
    return titles


def _exhibit(
    folder: Path,
    result: Result,
    title: str,
    assets: _Assets,
    thumbnail: Callable[[str, Box | None], Tensor | None],
) -> Exhibit:
    """Bring a run's files into the gallery; raises InputError if one cannot be read."""
    outputs = {name: folder / output for name, output in result.outputs.items()}
    settings = result.settings
    content = _texts(settings.get("content") or settings.get("clip"))[:1]
    styles = _texts(settings.get("style") or settings.get("styles"))
    asset = f"{_slug(folder.resolve().name)}-{assets.key(folder)}"

    moving = _animation(outputs)
    opening = None if moving is None else _still_of(moving)
    still = _still(outputs, opening)
    if still is None:
        raise InputError("it has neither a picture nor a GIF or MP4.")
    animation = None
    if moving is not None:
        suffix = moving.suffix.lower()
        address = assets.copy(moving, asset + suffix)
        animation = Animation(address, _ANIMATIONS[suffix], moving.stat().st_size)

    def small(names: Iterable[str | Path], crop: Box | None = None) -> list[Asset]:
        """What went in, as far as it can be found."""
        found = []
        for name in names:
            image = thumbnail(str(name), crop)
            if image is None and not str(name).startswith(PREFIX):
                image = thumbnail(str(folder / name), crop)
            if image is not None:
                found.append(assets.add_thumbnail(image, _short(str(name))))
        return found

    content_output = [outputs[name] for name in _CONTENT_OUTPUTS if name in outputs]
    style_outputs = [outputs[name] for name in outputs if _STYLE_OUTPUT.fullmatch(name)]
    contents = small(content_output) or small(content, _crop(settings.get("crop")))
    return Exhibit(
        title,
        assets.add_picture(still, asset + ".webp", _alt(title, content, styles, result)),
        animation,
        contents[0] if contents else None,
        tuple(small(style_outputs) or small(styles)),
        _settings(settings),
        _figures(result),
    )


def _animation(outputs: Mapping[str, Path]) -> Path | None:
    for suffix in _ANIMATIONS:
        named = outputs.get(suffix[1:])
        for path in ([named] if named else []) + list(outputs.values()):
            if path.suffix.lower() == suffix:
                return path
    return None


def _still_of(animation: Path) -> Tensor:
    """First frame of a film; the last of a GIF, which may begin with noise."""
    if animation.suffix.lower() == ".mp4":
        return from_array(next(read_frames(open_clip(animation))))
    still = load_image(animation)
    with (
        suppress(OSError, EOFError, SyntaxError, ValueError),  # damaged after its first frame
        Image.open(animation, formats=["GIF"]) as gif,
    ):
        gif.seek(getattr(gif, "n_frames", 1) - 1)
        still = from_array(np.asarray(gif.convert("RGB")))
    return still


def _still(outputs: Mapping[str, Path], opening: Tensor | None) -> Tensor | None:
    """The picture that stands for a run.

    A film strip is no stand-in for a film: where shapes differ much, a frame is shown.
    """
    if "picture" in outputs and outputs["picture"].suffix.lower() in _PICTURES:
        return load_image(outputs["picture"])
    for name, path in outputs.items():
        if path.suffix.lower() in _PICTURES and not _WENT_IN.fullmatch(name):
            picture = load_image(path)
            suits = opening is None or 0.5 <= _ratio(picture) / _ratio(opening) <= 2
            return picture if suits else opening
    return opening


def _ratio(image: Tensor) -> float:
    return image.shape[-1] / image.shape[-2]


def _thumbnail(name: str, crop: Box | None) -> Tensor | None:
    try:
        return _at_most(load_picture(name, for_size=_THUMBNAIL, crop=crop), _THUMBNAIL)
    except InputError:
        return None


def _at_most(image: Tensor, size: int) -> Tensor:
    return resize(image, size) if max(image.shape[-2:]) > size else image


# --- words -------------------------------------------------------------------------------


def _slug(text: str) -> str:
    ascii_only = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", ascii_only).strip("-")[:40].rstrip("-") or "run"


def _texts(value: object) -> list[str]:
    """A name or a list of names."""
    values = value if isinstance(value, list) else [value]
    return [each for each in values if isinstance(each, str) and each]


def _short(name: str) -> str:
    """The name of a picture, without where it lies: that is nobody's business."""
    return plain(PurePath(name.removeprefix(PREFIX)).name or name)


def _alt(title: str, content: Sequence[str], styles: Sequence[str], result: Result) -> str:
    """What is to be seen; a run that paints no content picture has its title alone."""
    films = any(output.endswith(".mp4") for output in result.outputs.values())
    if not (films or _PAINTED & result.outputs.keys()):
        return title
    what = _short(content[0]) if content else title
    if "sheet" in result.outputs and "pictures" in result.figures:
        what = f"{result.figures['pictures']:g} pictures of {what},"
    if styles:
        *others, last = map(_short, styles)
        names = f"{', '.join(others)} and {last}" if others else last
        return f"{what} painted in the style of {names}"
    return f"{what}, painted" if content else what


def _crop(value: object) -> Box | None:
    try:
        left, top, right, bottom = map(float, value)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        return None
    return left, top, right, bottom


def _settings(settings: Mapping[str, Any]) -> Rows:
    """What was set to other than its default, and what everyone wants to know."""
    defaults = {**Settings().as_dict(), **ClipSettings().as_dict()}
    return tuple(
        (plain(name.replace("_", " ")), _shown(value))
        for name, value in settings.items()
        if name not in _SHOWN_AS_PICTURES
        and not _OF_FILES.fullmatch(name)
        and value not in (None, "", [], {})
        and (name in _ALWAYS_SHOWN or name not in defaults or value != defaults[name])
    )


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    if isinstance(value, dict):
        return ", ".join(f"{plain(name)}: {_shown(each)}" for name, each in value.items())
    if isinstance(value, str):
        return _short(value) if PurePath(value).is_absolute() else plain(value)
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def _figures(result: Result) -> Rows:
    rows = [(plain(name.replace("_", " ")), number(n)) for name, n in result.figures.items()]
    rows.append(("time", duration(result.seconds)))
    if isinstance(result.weights.get("name"), str):
        rows.append(("network", plain(result.weights["name"])))
    return tuple(rows)


# --- files -------------------------------------------------------------------------------


class _Assets:
    """The files that the page shows, in a folder beside it.

    A list of them, in a hidden file, tells them from what others may have put there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._manifest = folder / _MANIFEST
        self._known = self._read_manifest()
        self._used: set[str] = set()

    def key(self, run: Path) -> str:
        """A few letters that stay the same as long as the run stays where it is."""
        way = os.path.relpath(run.resolve(), self._folder.resolve())
        return _digest(os.fsencode(way))

    def add_picture(self, image: Tensor, name: str, alt: str) -> Asset:
        image = _at_most(image, _STILL)
        self._write(_webp(image), name)
        return self._asset(name, alt, image)

    def add_thumbnail(self, image: Tensor, alt: str) -> Asset:
        """The same picture is written once, however many runs it went into."""
        data = _webp(image)
        name = f"{_slug(PurePath(alt).stem)}-{_digest(data)}.webp"
        self._write(data, name)
        return self._asset(name, alt, image)

    def copy(self, source: Path, name: str) -> str:
        """Copy a file of any size, byte for byte, and give its address."""
        path = self._claim(name)
        if not (path.is_file() and filecmp.cmp(source, path, shallow=False)):
            with atomic(path) as beside:
                shutil.copyfile(source, beside)
        return f"{_ASSETS}/{name}"

    def remove_unused(self) -> None:
        for name in self._known - self._used:
            (self._folder / name).unlink(missing_ok=True)
        self._known = self._used
        self._write_manifest()

    def _write(self, data: bytes, name: str) -> None:
        path = self._claim(name)
        if not (path.is_file() and path.read_bytes() == data):
            write_bytes(path, data)

    def _asset(self, name: str, alt: str, image: Tensor) -> Asset:
        height, width = image.shape[-2:]
        return Asset(f"{_ASSETS}/{name}", alt, width, height)

    def _claim(self, name: str) -> Path:
        """List a file before it is written, so that none is forgotten, whatever happens."""
        self._used.add(name)
        if name not in self._known:
            self._known |= {name}
            self._write_manifest()
        return self._folder / name

    def _read_manifest(self) -> set[str]:
        try:
            names = json.loads(self._manifest.read_text("utf-8"))
            return {name for name in names if re.fullmatch(r"[a-z0-9-]+\.(webp|gif|mp4)", name)}
        except (OSError, ValueError, TypeError):
            return set()

    def _write_manifest(self) -> None:
        write_bytes(self._manifest, json.dumps(sorted(self._known), indent=0).encode())


def _webp(image: Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(to_array(image)).save(buffer, "WEBP", quality=_QUALITY, method=6)
    return buffer.getvalue()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:10]


def _check_page(page: Path) -> None:
    """Raise `OutputError` if the page cannot be written, or is not ours to replace."""
    check_writable(page)
    marker = f'<meta name="generator" content="{GENERATOR}">'.encode()
    if page.exists() and marker not in page.read_bytes():
        raise OutputError(
            f"{page} was not made by `workbench gallery` and is not replaced; name another folder."
        )


@cache
def _template() -> Any:
    environment = Environment(
        loader=PackageLoader("workbench", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["megabytes"] = lambda size: f"{max(size / 1e6, 0.1):.1f} MB"
    return environment.get_template("gallery.html.j2")
