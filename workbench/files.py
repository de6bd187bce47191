"""Writing files so that a final name always holds a finished file."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
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
