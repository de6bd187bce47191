"""SHA-256 of what is in files and folders; remembered until their size or date changes."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tqdm import tqdm

from workbench.errors import InputError
from workbench.files import write_bytes

_CHUNK = 1 << 20
_BAR_FROM = 200_000_000  # bytes
_RACY = 2.0  # seconds in which a file may change again and keep its date

_Entry = tuple[int, int, str]  # size, date in nanoseconds, SHA-256


def digest(path: Path) -> str:
    """SHA-256 of a file's content, or of a folder: the names and contents of the files below it.

    Hidden files and folders are left out; linked folders are not followed.

    Raises
    ------
    InputError
        If there is no such file, or it cannot be read.
    """
    return _digest(path, _sha256)


def read_digests(paths: Iterable[Path], cache: Path, *, keep: bool = False) -> dict[Path, str]:
    """Digests of many files and folders, each file read once at most.

    Parameters
    ----------
    cache
        Remembers digests by the size and date of the file. A damaged one is ignored.
    keep
        Whether to write that file.

    Raises
    ------
    InputError
        If a file cannot be read.
    OutputError
        If `cache` cannot be written.
    """
    paths = list(paths)
    known = _read_cache(cache)
    files = dict.fromkeys(file for path in paths for file in _files(path))
    stamps = {file: _stamp(file) for file in files}
    kept = {
        file: known[str(file)]
        for file, stamp in stamps.items()
        if known.get(str(file), ())[:2] == stamp
    }
    made = {file: entry[2] for file, entry in kept.items()}
    unknown = [file for file in files if file not in made]
    total = sum(stamps[file][0] for file in unknown)
    quiet = None if total > _BAR_FROM else True  # None: shown on a terminal
    with tqdm(
        desc="reading", total=total, unit="B", unit_scale=True, leave=False, disable=quiet
    ) as bar:
        for file in unknown:
            settled = stamps[file][1] / 1e9 < time.time() - _RACY
            made[file] = _sha256(file, bar.update)
            if settled and _stamp(file) == stamps[file]:
                kept[file] = (*stamps[file], made[file])
    entries = {str(file): entry for file, entry in kept.items()}
    if keep and entries != known:
        write_bytes(cache, json.dumps(entries, indent=0, sort_keys=True).encode())
    return {path: _digest(path, made.__getitem__) for path in paths}


def _digest(path: Path, of_file: Callable[[Path], str]) -> str:
    if not path.is_dir():
        return of_file(path)
    whole = hashlib.sha256()
    for file in _files(path):
        name = file.relative_to(path).as_posix()
        whole.update(f"{of_file(file)} {name}\0".encode("utf-8", "surrogateescape"))
    return whole.hexdigest()


def _files(path: Path) -> list[Path]:
    """The file itself, or the files below a folder that are not hidden, sorted."""
    return sorted(_walk(path)) if path.is_dir() else [path]


def _walk(folder: Path) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        raise _unreadable(Path(error.filename), error)

    for place, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            file = Path(place, name)
            if not name.startswith(".") and file.is_file():
                yield file


def _sha256(file: Path, tell: Callable[[int], object] = lambda size: None) -> str:
    sha256 = hashlib.sha256()
    try:
        with file.open("rb") as content:
            while chunk := content.read(_CHUNK):
                sha256.update(chunk)
                tell(len(chunk))
    except OSError as error:
        raise _unreadable(file, error) from None
    return sha256.hexdigest()


def _stamp(file: Path) -> tuple[int, int]:
    try:
        stat = file.stat()
    except OSError as error:
        raise _unreadable(file, error) from None
    return stat.st_size, stat.st_mtime_ns


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}.")


def _read_cache(cache: Path) -> dict[str, _Entry]:
    try:
        rows = json.loads(cache.read_text("utf-8"))
        entries = {
            file: (int(size), int(date), str(sha)) for file, (size, date, sha) in rows.items()
        }
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}
    return entries if all(len(sha) == 64 for _, _, sha in entries.values()) else {}
