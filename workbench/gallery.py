"""Finished runs -> a static page for a blog, opened from a file or served from anywhere."""

from __future__ import annotations

import filecmp
import os
import re
import shlex
import shutil
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePath
from typing import Any

from PIL import Image

from workbench import runs
from workbench.cells import texts
from workbench.errors import InputError
from workbench.files import atomic, write_bytes
from workbench.images import PICTURE_SUFFIXES, Box, load_image, to_array
from workbench.pages import duration, number, plain, read_page, shown, template, webp
from workbench.progress import bar
from workbench.runs import RESULT, Result, check_result
from workbench.samples import PREFIX, load_picture
from workbench.settings import ClipSettings, Settings
from workbench.video.clips import open_clip, read_frames

PAGE = "index.html"
GENERATOR = "workbench gallery"
_ASSETS = "assets"
_ASSET = re.compile(r"[a-z0-9-]+-[0-9a-f]{10}\.(webp|gif|mp4)")
_STILL, _THUMBNAIL = 640, 160  # px, longest sides
_ANIMATIONS = {".gif": "GIF", ".mp4": "film"}  # in the order of preference
_STYLE_OUTPUT = re.compile(r"style([ _-]?\d+)?")
_CONTENT_OUTPUTS = ("content", "photograph")
_PAINTED = {"picture", "film", "sheet"}  # outputs of runs that paint a content picture
_ALWAYS_SHOWN = {"size", "steps", "content_weight", "style_weight"}
_NOT_LISTED = re.compile(r"content|clip|styles?|output_dir|quality|save_every|(gif|sheet)_\w+")

Rows = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Asset:
    """A picture beside the page."""

    address: str  # relative to the page
    alt: str
    width: int
    height: int


@dataclass(frozen=True)
class Animation:
    """A GIF or a film beside the page."""

    address: str
    kind: str
    bytes: int  # that a visitor loads


@dataclass(frozen=True)
class Exhibit:
    """One run as the page shows it."""

    title: str  # the run's folder, with as many of its parents as tell it from the others
    still: Asset  # what is seen at first
    animation: Animation | None  # what it is swapped for when a visitor asks for it
    content: Asset | None  # small pictures of what went in, as far as they can be found
    styles: tuple[Asset, ...]
    settings: Rows  # (name, value), ready to be read
    figures: Rows


@dataclass(frozen=True)
class Gallery:
    """What `build_gallery` made."""

    page: Path | None  # None if every run was left out; then no page was written
    exhibits: tuple[Exhibit, ...]  # in the order of the page
    problems: tuple[str, ...]  # a sentence for each run that was left out


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
    page = Path(output_dir, PAGE)
    finished, problems = find_runs(places, leave_out=output_dir)
    if not finished and not problems:
        raise InputError(
            f"{', '.join(map(str, places))}: there is no finished run in here (no {RESULT});"
            f" `workbench demo -o {shlex.quote(str(places[0] / 'demo'))}` makes one."
        )
    read_page(page, GENERATOR, "name another folder.")
    assets = _Assets(page.with_name(_ASSETS))
    exhibits = []
    titled = zip(finished, _titles([folder for folder, _ in finished]), strict=True)
    for (folder, result), name in bar(titled, "gallery", "run", total=len(finished)):
        try:
            exhibits.append(_exhibit(folder, result, name, assets))
        except InputError as error:
            problems.append(f"{folder}: left out, because {error}")
        except RecursionError:
            problems.append(f"{folder}: left out, because {RESULT} is nested too deeply.")
    if exhibits:
        look = template("gallery.html.j2")
        html = look.render(title=title, exhibits=exhibits, generator=GENERATOR)
        # A name on disk need not be valid Unicode.
        write_bytes(page, html.encode("utf-8", "replace"))
        assets.remove_unused()
    return Gallery(page if exhibits else None, tuple(exhibits), tuple(map(plain, problems)))


# --- runs --------------------------------------------------------------------------------


def find_runs(
    folders: Iterable[str | os.PathLike[str]],
    *,
    leave_out: str | os.PathLike[str] | None = None,
) -> tuple[list[tuple[Path, Result]], list[str]]:
    """Find finished runs in folders and below them, sorted by path, each once.

    Hidden folders and `leave_out` are not looked into. Also returned is a sentence for every
    `result.json` that is not valid and every folder that cannot be read.

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
    finished = []
    for _, here in sorted(found.items()):
        try:
            finished.append((here, check_result(here)))
        except InputError as error:
            problems.append(f"{here}: left out, because {error}")
    return finished, problems


def _titles(folders: Sequence[Path]) -> list[str]:
    """Name each folder by as few of its last parts as tell it from the others."""
    paths = [folder.resolve().parts for folder in folders]
    titles = []
    for parts in paths:
        tails = (parts[-count:] for count in range(1, len(parts) + 1))
        tail = next(tail for tail in tails if [p[-len(tail) :] for p in paths].count(tail) == 1)
        titles.append(plain(" / ".join(tail)))
    return titles


def _exhibit(folder: Path, result: Result, title: str, assets: _Assets) -> Exhibit:
    """Bring a run's files into the gallery; raises InputError if one cannot be read."""
    outputs = {name: folder / output for name, output in result.outputs.items()}
    settings = result.settings
    content = [*filter(None, texts(settings.get("content") or settings.get("clip")))][:1]
    styles = [*filter(None, texts(settings.get("style") or settings.get("styles")))]
    name = f"{_slug(folder.resolve().name)}-{assets.key(folder)}"
    moving = _animation(outputs)
    still = _still(folder, result, moving)
    if still is None:
        raise InputError("it has neither a picture nor a GIF or MP4.")
    alt = _alt(title, content, styles, result)

    def small(sources: Iterable[str], crop: Box | None = None) -> list[Asset]:
        """What went in, as far as it can be found."""
        found = (assets.add_thumbnail(source, folder, crop) for source in sources)
        return [asset for asset in found if asset is not None]

    content_outputs = [str(outputs[each]) for each in _CONTENT_OUTPUTS if each in outputs]
    style_outputs = [str(outputs[each]) for each in outputs if _STYLE_OUTPUT.fullmatch(each)]
    contents = small(content_outputs) or small(content, _crop(settings.get("crop")))
    return Exhibit(
        title,
        assets.add_still(still, name, alt),
        assets.add_animation(moving, name) if moving else None,
        contents[0] if contents else None,
        tuple(small(style_outputs) or small(styles)),
        _settings(settings),
        _figures(result),
    )


def _animation(outputs: Mapping[str, Path]) -> Path | None:
    """The GIF, or else the film; of several, the one that is called so."""
    for suffix in _ANIMATIONS:
        found = {name: path for name, path in outputs.items() if path.suffix.lower() == suffix}
        if found:
            return found.get(suffix[1:]) or next(iter(found.values()))
    return None


def _still(folder: Path, result: Result, moving: Path | None) -> Image.Image | None:
    """The picture that stands for a run; of a film its first frame.

    Of a GIF it is the last one, as it may begin with noise.
    """
    still = _first_frame(moving) if moving else None  # finds out if it can be read, too
    known = (*PICTURE_SUFFIXES, *_ANIMATIONS)
    outputs = {name: path for name, path in result.outputs.items() if path.lower().endswith(known)}
    path = runs.shown(outputs)
    if path.lower().endswith(PICTURE_SUFFIXES) and not path.lower().endswith(".gif"):
        return Image.fromarray(to_array(load_image(folder / path)))
    if moving is not None and moving.suffix.lower() == ".gif":
        with (
            suppress(OSError, EOFError, SyntaxError, ValueError),  # damaged after its first frame
            Image.open(moving, formats=["GIF"]) as gif,
        ):
            gif.seek(getattr(gif, "n_frames", 1) - 1)
            still = gif.convert("RGB")
    return still


def _first_frame(moving: Path) -> Image.Image:
    if moving.suffix.lower() == ".mp4":
        return Image.fromarray(next(read_frames(open_clip(moving))))
    return Image.fromarray(to_array(load_image(moving)))


# --- words -------------------------------------------------------------------------------


def _slug(text: str) -> str:
    ascii_only = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", ascii_only).strip("-")[:40].rstrip("-") or "run"


def _short(name: str) -> str:
    """The name of a picture, without where it lies: that is nobody's business."""
    return plain(PurePath(name.removeprefix(PREFIX)).name or name)


def _without_folder(text: str) -> str:
    return _short(text) if PurePath(text).is_absolute() else plain(text)


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
        (plain(name.replace("_", " ")), shown(value, _without_folder))
        for name, value in settings.items()
        if not _NOT_LISTED.fullmatch(name)
        and value not in (None, "", [], {})
        and (name in _ALWAYS_SHOWN or name not in defaults or value != defaults[name])
    )


def _figures(result: Result) -> Rows:
    rows = [(plain(name.replace("_", " ")), number(n)) for name, n in result.figures.items()]
    rows.append(("time", duration(result.seconds)))
    if isinstance(result.weights.get("name"), str):
        rows.append(("network", plain(result.weights["name"])))
    return tuple(rows)


# --- files -------------------------------------------------------------------------------


class _Assets:
    """The files that the page shows, in a folder beside it; a digest ends each name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._used: set[str] = set()
        self._thumbnail = cache(_thumbnail)

    def key(self, run: Path) -> str:
        """A few letters that stay the same as long as the run stays where it is."""
        way = os.path.relpath(run.resolve(), self._folder.resolve())
        return runs.digest(os.fsencode(way))[:10]

    def add_still(self, picture: Image.Image, name: str, alt: str) -> Asset:
        return self._asset(webp(picture, (_STILL, _STILL)), name, alt)

    def add_thumbnail(self, source: str, folder: Path, crop: Box | None) -> Asset | None:
        """The same picture is written once, however many runs it went into."""
        small = self._thumbnail(source, crop)
        if small is None and not source.startswith(PREFIX):
            small = self._thumbnail(str(folder / source), crop)
        if small is None:
            return None
        alt = _short(source)
        return self._asset(small, f"{_slug(PurePath(alt).stem)}-{runs.digest(small[0])[:10]}", alt)

    def add_animation(self, source: Path, name: str) -> Animation:
        """Copy a film or GIF of any size, byte for byte."""
        suffix = source.suffix.lower()
        path = self._claim(name + suffix)
        if not (path.is_file() and filecmp.cmp(source, path, shallow=False)):
            with atomic(path) as beside:
                shutil.copyfile(source, beside)
        return Animation(f"{_ASSETS}/{path.name}", _ANIMATIONS[suffix], source.stat().st_size)

    def remove_unused(self) -> None:
        """Remove what galleries before this one showed."""
        for path in self._folder.iterdir():
            if _ASSET.fullmatch(path.name) and path.name not in self._used:
                path.unlink()

    def _asset(self, small: tuple[bytes, tuple[int, int]], name: str, alt: str) -> Asset:
        data, (width, height) = small
        path = self._claim(f"{name}.webp")
        if not (path.is_file() and path.read_bytes() == data):
            write_bytes(path, data)
        return Asset(f"{_ASSETS}/{path.name}", alt, width, height)

    def _claim(self, name: str) -> Path:
        self._used.add(name)
        return self._folder / name


def _thumbnail(name: str, crop: Box | None) -> tuple[bytes, tuple[int, int]] | None:
    try:
        picture = load_picture(name, for_size=_THUMBNAIL, crop=crop)
    except InputError:
        return None
    return webp(Image.fromarray(to_array(picture)), (_THUMBNAIL, _THUMBNAIL))
