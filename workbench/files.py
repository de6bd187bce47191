"""Writing files so that a final name always holds a finished file."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from workbench.errors import InputError, OutputError


@contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write beside `path`, then move into place.

    Yields a path in the same folder with the same suffix, to be written to. When the
    block ends well, that file replaces `path` in one step; when it does not, it is
    removed and whatever stood at `path` before is untouched.

    Raises
    ------
    OutputError
        If the folder cannot be made or written to, or the disk is full.
    """
    path = Path(path)
    with _output_errors(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder; name a file")
        beside = _beside(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield beside
            beside.replace(path)
        finally:
            if beside.is_file():
                beside.unlink()


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` to `path` atomically; see `atomic`."""
    with atomic(path) as beside:
        beside.write_bytes(data)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Find out before long work whether a file could be written at `path`.

    Makes the folder if there is none and leaves no file behind.

    Raises
    ------
    OutputError
        If the folder cannot be made or written to, or `path` is a folder.
    """
    path = Path(path)
    with _output_errors(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder; name a file")
        path.parent.mkdir(parents=True, exist_ok=True)
        probe = _beside(path)
        probe.touch()
        probe.unlink()


def refuse_overwriting(
    outputs: Iterable[str | os.PathLike[str]], inputs: Iterable[str | os.PathLike[str]]
) -> None:
    """Refuse, before any work, to write over what is read.

    Files are told apart by their numbers on the disk, so that links, `./` and other upper and
    lower case make no difference.

    Parameters
    ----------
    outputs
        Files that are to be written, and folders in which any file may be written over.
    inputs
        Files that are read, and folders whose files are. A name that no file has, such as that
        of a sample or an empty one, is passed over.

    Raises
    ------
    InputError
        If an output is an input or one of the files in it, or an input lies below an output.
    """
    written = {number: Path(path) for path in outputs if (number := file_number(path))}
    for path in (Path(name) for name in inputs if name and file_number(name)):
        files = [each for each in path.glob("*") if each.is_file()]
        for each in (path, *files, *path.resolve().parents):
            number = file_number(each)
            if number not in written:
                continue
            output = written[number]
            if output.is_dir():
                raise InputError(
                    f"{output} is written to, and {path} is read from there; name another folder."
                )
            other = (
                "" if os.path.normpath(output) == os.path.normpath(each) else f" {each}, which is"
            )
            raise InputError(
                f"{output} is{other} read, and would be written over; give the output another name."
            )


def file_number(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """What the disk knows a file or folder by, under any of its names; None if there is none."""
    try:
        stat = os.stat(path)  # noqa: PTH116
    except (OSError, ValueError):  # ValueError: a name with a character that no file has
        return None
    return stat.st_dev, stat.st_ino


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.stem}.{secrets.token_hex(4)}.partial{path.suffix}")


@contextmanager
def _output_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).rstrip(".").lower()
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            reason += "; free some space and run it again"
        raise OutputError(f"{path} cannot be written: {reason}.") from error


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Keep a second run out of the folder; a killed run holds no claim."""
    check_writable(folder / ".lock")
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout:
        raise InputError(
            f"{folder} is being painted into by another run; wait for it, or use another folder."
        ) from None
