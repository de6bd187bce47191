"""Finished runs -> a static page for a blog, opened from a file or served from anywhere."""

from __future__ import annotations

import filecmp
import os
import re
import shlex
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path, PurePath
from typing import Any

import yaml
from PIL import Image

from workbench import runs
from workbench.cells import texts
from workbench.errors import InputError
from workbench.files import atomic, read_yaml, write_bytes
from workbench.images import PICTURE_SUFFIXES, Box, load_image, to_array
from workbench.pages import (
    Rows,
    figure_rows,
    plain,
    read_page,
    settings_rows,
    shown,
    slug,
    template,
    webp,
)
from workbench.progress import bar
from workbench.runs import RESULT, Result, check_result
from workbench.samples import PREFIX, load_picture
from workbench.video.clips import STILLS, open_clip, read_frames

PAGE = "index.html"
GENERATOR = "workbench gallery"
_ASSETS = "assets"
_SAID = "gallery.yaml"  # in a run's folder: what its maker has to say
_KEY = r"-[0-9a-f]{10}\."
_ASSET = re.compile(rf"[a-z0-9-]+(-whole{_KEY}\w+|{_KEY}(webp|gif|mp4|yaml))")
_STILL, _THUMBNAIL = 640, 160  # px, longest sides
_KINDS = {".mp4": "film", ".gif": "GIF"}  # of what moves
_STYLE_OUTPUT = re.compile(r"style([ _-]?\d+)?")
_CONTENT_OUTPUTS = ("content", "photograph")
_PAINTED = {"picture", "film", "sheet"}  # outputs of runs that paint a content picture


@dataclass(frozen=True)
class Asset:
    """A picture beside the page."""

    address: str  # relative to the page
    alt: str
    width: int
    height: int


@dataclass(frozen=True)
class File:
    """A GIF, a film or a whole picture beside the page, loaded when a visitor asks for it."""

    address: str
    kind: str
    bytes: int


@dataclass(frozen=True)
class Exhibit:
    """One run as the page shows it."""

    key: str  # what a link to it ends with
    title: str  # its maker's, or its folder, with what tells it from the others
    caption: str  # its maker's, or else empty
    still: Asset  # what is seen at first
    whole: File | None  # the picture in its full size
    animation: File | None  # what the still is swapped for; a film, if there is one
    for_posts: File | None  # the same for a post, where a GIF, if there is one, plays anywhere
    before: Asset | None  # the content picture, in the still's shape
    content: Asset | None  # small pictures of what went in, as far as they can be found
    styles: tuple[Asset, ...]
    settings: Rows
    settings_file: str  # address of all settings as YAML
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
    url: str = "",
) -> Gallery:
    """Show all finished runs below some folders on one static page.

    A file `gallery.yaml` in the folder of a run gives it a `title` and a `caption`, or leaves it
    out with `show: false`. A run that is part of another, as each mode of a comparison, is left
    out.

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
    url
        Address that the page will have, if that is known: posts that link to it then show a
        picture, and what is copied for a blog needs no other change.

    Raises
    ------
    InputError
        If a folder does not exist, there is no run in any of them, or `url` is no address.
    OutputError
        If the page cannot be written, or `output_dir` has an `index.html` of someone else's.
    """
    places = [Path(folder) for folder in folders]
    if not places:
        raise InputError("folders: name at least one folder with runs.")
    if url and not re.match(r"https?://[^/]", url):
        raise InputError(f"url = {url!r}: give the whole address, such as https://me.example/art/.")
    base = url if not url or url.endswith("/") else f"{url}/"
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
    shown = _without_parts(finished)
    titled = zip(shown, _titles([folder for folder, _ in shown]), strict=True)
    for (folder, result), name in bar(titled, "gallery", "run", total=len(shown)):
        try:
            said = _said(folder)
            if said.get("show", True):
                exhibits.append(_exhibit(folder, result, said, name, assets))
        except InputError as error:
            problems.append(f"{folder}: left out, because {error}")
        except RecursionError:
            problems.append(f"{folder}: left out, because {RESULT} is nested too deeply.")
    if exhibits:
        look = template("gallery.html.j2")
        html = look.render(title=title, exhibits=exhibits, base=base, generator=GENERATOR)
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
    """Name each folder by as few of its last parts as tell it from the others, numbers by two."""
    paths = [folder.resolve().parts for folder in folders]
    titles = []
    for parts in paths:
        tails = (parts[-count:] for count in range(1 + parts[-1].isdigit(), len(parts) + 1))
        tail = next(tail for tail in tails if [p[-len(tail) :] for p in paths].count(tail) == 1)
        titles.append(plain(" / ".join(tail)))
    return titles


def _without_parts(finished: Sequence[tuple[Path, Result]]) -> list[tuple[Path, Result]]:
    """Leave out runs whose folder holds an output of another one's."""
    parts = {
        home.resolve() / part
        for home, result in finished
        for output in result.outputs.values()
        for part in [*PurePath(output).parents][:-1]
    }
    return [(folder, result) for folder, result in finished if folder.resolve() not in parts]


def _said(folder: Path) -> dict[str, Any]:
    """What the maker of a run has to say about it."""
    path, kinds = folder / _SAID, {"title": str, "caption": str, "show": bool}
    try:
        said = (read_yaml(path) if path.exists() else None) or {}
    except InputError as error:
        raise InputError(f"{_SAID}: {error}") from None
    if isinstance(said, dict) and all(isinstance(said[n], kinds.get(n, ())) for n in said):
        return said
    raise InputError(f"{_SAID}: give title: TEXT, caption: TEXT, show: false, or some of them.")


def _exhibit(
    folder: Path, result: Result, said: Mapping[str, Any], title: str, assets: _Assets
) -> Exhibit:
    """Bring a run's files into the gallery; raises InputError if one cannot be read."""
    outputs = {name: folder / output for name, output in result.outputs.items()}
    settings = result.settings
    content, styles = (
        [*filter(None, texts([settings.get(name) for name in names]))]
        for names in (("content", "clip", "contents"), ("style", "styles"))
    )
    stem, key = slug(folder.resolve().name), assets.key(folder)
    name = f"{stem}-{key}"
    film, gif = (_moving(outputs, suffix) for suffix in _KINDS)
    known = (*PICTURE_SUFFIXES, *_KINDS)
    path = runs.shown({each: o for each, o in result.outputs.items() if o.lower().endswith(known)})
    whole = folder / path if path.lower().endswith((*STILLS,)) else None
    picture = _still(whole, film or gif)
    if picture is None:
        raise InputError("it has neither a picture nor a GIF or MP4.")

    def added(sources: Iterable[str], side: int, crop: Box | None = None) -> list[Asset]:
        """What went in, as far as it can be found."""
        found = (assets.add_input(source, folder, crop, side) for source in sources)
        return [asset for asset in found if asset is not None]

    def contents(side: int) -> Asset | None:
        names = [str(outputs[each]) for each in _CONTENT_OUTPUTS if each in outputs]
        found = added(names, side) or added(content[:1], side, _crop(settings.get("crop")))
        return found[0] if found else None

    still = assets.add_still(picture, name, _alt(title, path, content, styles, result))
    before = contents(_STILL) if "picture" in outputs else None
    if before and not 0.9 < before.width / before.height * still.height / still.width < 1.1:
        before = None
    named = {film: name, gif: name, whole: f"{stem}-whole-{key}"}
    files = {each: assets.add_file(each, named[each]) if each else None for each in named}
    style_outputs = [str(outputs[each]) for each in outputs if _STYLE_OUTPUT.fullmatch(each)]
    return Exhibit(
        name,
        plain(said.get("title", title)),
        plain(said.get("caption", "")),
        still,
        files[whole],
        files[film or gif],
        files[gif or film],
        before,
        contents(_THUMBNAIL),
        tuple(added(style_outputs, _THUMBNAIL) or added(styles, _THUMBNAIL)),
        settings_rows(settings, _without_folder),
        assets.add_settings(settings, name),
        figure_rows(result),
    )


def _moving(outputs: Mapping[str, Path], suffix: str) -> Path | None:
    """What moves and ends so; of several, the one that is called so, or shows them all."""
    found = {name: path for name, path in outputs.items() if path.suffix.lower() == suffix}
    names = (suffix[1:], "film", f"comparison_{suffix[1:]}", *found)
    return next((found[name] for name in names if name in found), None)


def _still(whole: Path | None, moving: Path | None) -> Image.Image | None:
    """The picture that stands for a run; of a film the frame in its middle.

    Of a GIF it is the last one, as it may begin with noise.
    """
    still = _one_frame(moving) if moving else None  # finds out if it can be read, too
    if whole:
        return Image.fromarray(to_array(load_image(whole)))
    if moving is not None and moving.suffix.lower() == ".gif":
        with (
            suppress(OSError, EOFError, SyntaxError, ValueError),  # damaged after its first frame
            Image.open(moving, formats=["GIF"]) as gif,
        ):
            gif.seek(getattr(gif, "n_frames", 1) - 1)
            still = gif.convert("RGB")
    return still


def _one_frame(moving: Path) -> Image.Image:
    if moving.suffix.lower() == ".mp4":
        clip = open_clip(moving)
        # A film that is cut short may have no middle.
        frames = chain(read_frames(clip, clip.frames // 2), read_frames(clip))
        return Image.fromarray(next(frames))
    return Image.fromarray(to_array(load_image(moving)))


# --- words -------------------------------------------------------------------------------


def _short(name: str) -> str:
    """The name of a picture, without where it lies: that is nobody's business."""
    return plain(PurePath(name.removeprefix(PREFIX)).name or name)


def _without_folder(text: str) -> str:
    return _short(text) if PurePath(text).is_absolute() else plain(text)


def _public(value: Any) -> Any:
    """A setting without where files lie."""
    if isinstance(value, dict):
        return {name: _public(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_public(each) for each in value]
    return _without_folder(value) if isinstance(value, str) else value


def _alt(
    title: str, path: str, content: Sequence[str], styles: Sequence[str], result: Result
) -> str:
    """What is to be seen; of a run that paints no content picture, what its file is called."""
    films = any(output.endswith(".mp4") for output in result.outputs.values())
    if not (films or _PAINTED & result.outputs.keys()):
        return f"{title}: {plain(PurePath(path).stem.replace('_', ' ', 1))}" if path else title
    what = _listed(content) if content else title
    if "sheet" in result.outputs and "pictures" in result.figures:
        axes = [shown(result.settings.get(axis, "")) for axis in ("rows", "columns")]
        by = f" by {axes[0]} and {axes[1]}".replace("_", " ") if all(axes) else ""
        if answers := result.figures.get("answers"):
            by = f", judged by {answers:g} answer{'s' if answers != 1 else ''}"
        what = f"{result.figures['pictures']:g} pictures of {what}{by},"
    if isinstance(result.settings.get("steadiest"), str):
        what = f"{what} and the films made of it, side by side,"
    if styles:
        return f"{what} painted in the style of {_listed(styles)}"
    return f"{what}, painted" if content else what


def _listed(names: Sequence[str]) -> str:
    """Names of pictures as a sentence has them: "a, b and c"."""
    *others, last = map(_short, names)
    return f"{', '.join(others)} and {last}" if others else last


def _crop(value: object) -> Box | None:
    try:
        left, top, right, bottom = map(float, value)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        return None
    return left, top, right, bottom


# --- files -------------------------------------------------------------------------------


class _Assets:
    """The files that the page shows, in a folder beside it; a digest ends each name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._used: set[str] = set()
        self._small = cache(_small)

    def key(self, run: Path) -> str:
        """A few letters that stay the same as long as the run stays where it is."""
        way = os.path.relpath(run.resolve(), self._folder.resolve())
        return runs.digest(os.fsencode(way))[:10]

    def add_still(self, picture: Image.Image, name: str, alt: str) -> Asset:
        return self._asset(webp(picture, (_STILL, _STILL)), name, alt)

    def add_input(self, source: str, folder: Path, crop: Box | None, side: int) -> Asset | None:
        """The same picture is written once, however many runs it went into."""
        small = self._small(source, crop, side)
        if small is None and not source.startswith(PREFIX):
            small = self._small(str(folder / source), crop, side)
        if small is None:
            return None
        alt = _short(source)
        return self._asset(small, f"{slug(PurePath(alt).stem)}-{runs.digest(small[0])[:10]}", alt)

    def add_settings(self, settings: Mapping[str, Any], name: str) -> str:
        """Write all that a run was told, as its notebook takes it, without where files lie."""
        told = {each: _public(value) for each, value in settings.items() if each != "output_dir"}
        text = yaml.safe_dump(told, sort_keys=False, default_flow_style=None, allow_unicode=True)
        return self._written(f"{name}.yaml", text.encode("utf-8", "replace"))

    def add_file(self, source: Path, name: str) -> File:
        """Copy a film, GIF or picture of any size, byte for byte."""
        suffix = source.suffix.lower()
        path = self._claim(name + suffix)
        if not (path.is_file() and filecmp.cmp(source, path, shallow=False)):
            with atomic(path) as beside:
                shutil.copyfile(source, beside)
        kind = _KINDS.get(suffix, "picture")
        return File(f"{_ASSETS}/{path.name}", kind, source.stat().st_size)

    def remove_unused(self) -> None:
        """Remove what galleries before this one showed."""
        for path in self._folder.iterdir():
            if _ASSET.fullmatch(path.name) and path.name not in self._used:
                path.unlink()

    def _asset(self, small: tuple[bytes, tuple[int, int]], name: str, alt: str) -> Asset:
        data, (width, height) = small
        return Asset(self._written(f"{name}.webp", data), alt, width, height)

    def _written(self, name: str, data: bytes) -> str:
        path = self._claim(name)
        if not (path.is_file() and path.read_bytes() == data):
            write_bytes(path, data)
        return f"{_ASSETS}/{name}"

    def _claim(self, name: str) -> Path:
        self._used.add(name)
        return self._folder / name


def _small(name: str, crop: Box | None, side: int) -> tuple[bytes, tuple[int, int]] | None:
    try:
        picture = load_picture(name, for_size=side, crop=crop)
    except InputError:
        return None
    return webp(Image.fromarray(to_array(picture)), (side, side))
