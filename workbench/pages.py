"""What the pages of galleries and batches share: their look, their words, their small pictures."""

from __future__ import annotations

import base64
import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from workbench.errors import OutputError
from workbench.files import check_writable, encode, reading, write_bytes
from workbench.runs import Result
from workbench.settings import ClipSettings, Settings

_FILMS = (".mp4", ".mov", ".mkv")
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF")  # others may start programs to be read
_THUMBNAIL = 320, 200  # px, at most
_ALWAYS_SHOWN = {"size", "steps", "content_weight", "style_weight"}
_NOT_LISTED = re.compile(r"content|clip|styles?|output_dir|quality|save_every|(gif|sheet)_\w+")

Rows = tuple[tuple[str, str], ...]  # (name, value), ready to be read


@cache
def template(name: str) -> Any:
    """A template by its path in the package; all of them extend `page.html.j2`."""
    environment = Environment(
        loader=PackageLoader("workbench", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["megabytes"] = lambda size: f"{max(size / 1e6, 0.1):.1f} MB"
    return environment.get_template(name)


def compare_html(
    first: str, second: str, captions: Sequence[str], *, size: tuple[int, int] | None = None
) -> str:
    """HTML of two pictures or two films in one place, with a handle that is dragged between them.

    It needs neither ids nor scripts: it works wherever handlers in HTML do, and shows half of each
    where they do not. Put it into an element of its own, which remembers where the handle is, even
    when all of it is replaced.

    Parameters
    ----------
    first, second
        Addresses or data URIs; the first lies on the left, stretched over the second.
    captions
        What they are, such as "photograph" and "painting".
    size
        Width and height of the second in px, for pages that load it late; None: as it is.
    """
    films = second.startswith("data:video/") or second.lower().endswith(_FILMS)
    look = template("parts.html.j2").module
    return str(look.look() + look.compare(first, second, captions, size, films)).strip()


def data_uri(data: bytes, kind: str) -> str:
    """The bytes of a picture or film of a kind such as "image/webp" as an address."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def read_page(page: Path, generator: str, hint: str) -> str | None:
    """Find out before long work whether a page may be written, and read it; None: there is none.

    Raises
    ------
    OutputError
        If the page cannot be read or written, or was not made by the command `generator`; the
        `hint` says what to do then.
    """
    check_writable(page)
    if not page.exists():
        return None
    with reading(page):
        text = page.read_text("utf-8", "replace")
    if f'<meta name="generator" content="{generator}">' not in text:
        raise OutputError(f"{page} was not made by `{generator}` and is not replaced; {hint}")
    return text


def webp(picture: Image.Image, most: tuple[int, int]) -> tuple[bytes, tuple[int, int]]:
    """A picture as WebP, made smaller until it is `most` wide and high, and its size then."""
    small = picture.convert("RGB")
    small.thumbnail(most, Image.Resampling.LANCZOS)
    return encode(small, "WEBP", quality=80, method=6), small.size


def save_thumbnail(source: Path, path: Path) -> None:
    """Write a small picture of a picture, or of the first frame of a GIF or film.

    If it cannot be shown, there is no file at `path` afterwards.
    """
    try:
        if source.suffix.lower() in _FILMS:
            from workbench.video.clips import open_clip, read_frames

            picture = Image.fromarray(next(read_frames(open_clip(source))))
        else:
            picture = Image.open(source, formats=_FORMATS)
        with picture:
            write_bytes(path, webp(picture, _THUMBNAIL)[0])
    except Exception:  # whatever may be wrong with it: the run itself is done
        path.unlink(missing_ok=True)


def slug(text: str) -> str:
    """A name that is safe in any address and on any disk: letters a to z, digits, hyphens."""
    ascii_only = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", ascii_only).strip("-")[:40].rstrip("-") or "run"


def plain(text: str) -> str:
    """On one line, without control characters."""
    if not text.isprintable():
        text = "".join(" " if unicodedata.category(char) == "Cc" else char for char in text)
    return " ".join(text.split())


def shown(value: object, text: Callable[[str], str] = plain) -> str:
    """A parameter's value; numbers that differ in a batch file differ here, too."""
    match value:
        case list() | tuple():
            return ", ".join(shown(each, text) for each in value)
        case dict():
            pairs = ((plain(str(name)), shown(each, text)) for name, each in value.items())
            return ", ".join(f"{name}: {each}" for name, each in pairs)
        case float():
            return f"{value:.12g}"
        case None | bool():
            return json.dumps(value)
    return text(str(value))


def number(value: float) -> str:
    """With four digits, or as many as there are before the point."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e12 else f"{value:.4g}"


def duration(seconds: float) -> str:
    """In the two largest units that there are."""
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {left} s" if minutes else f"{left} s"


def settings_rows(settings: Mapping[str, Any], text: Callable[[str], str] = plain) -> Rows:
    """What was set to other than its default, and what everyone wants to know."""
    defaults = {**Settings().as_dict(), **ClipSettings().as_dict()}
    return tuple(
        (plain(name.replace("_", " ")), shown(value, text))
        for name, value in settings.items()
        if not _NOT_LISTED.fullmatch(name)
        and value not in (None, "", [], {})
        and (name in _ALWAYS_SHOWN or name not in defaults or value != defaults[name])
    )


def figure_rows(result: Result) -> Rows:
    """What a run measured, and what it took."""
    rows = [(plain(name.replace("_", " ")), number(n)) for name, n in result.figures.items()]
    rows.append(("time", duration(result.seconds)))
    if isinstance(result.weights.get("name"), str):
        rows.append(("network", plain(result.weights["name"])))
    return tuple(rows)
