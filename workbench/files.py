"""Files: written whole, locked, listed, and read with a clear error; YAML among them."""

from __future__ import annotations

import errno
import io
import os
import re
import secrets
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from filelock import FileLock, Timeout

from workbench.errors import InputError, OutputError

if TYPE_CHECKING:
    from PIL.Image import Image

PICTURE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif"),
    *(".heic", ".heif", ".avif"),
)
_NAMED = 5  # of the files that a sentence is about


@contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write beside `path`, then move into place; what cannot be written is an `OutputError`.

    Yields a path in the same folder with the same suffix, to be written to. When the block ends
    well, that file replaces `path` in one step, and is on the disk itself by then; when it does
    not, it is removed and whatever stood at `path` before is untouched.
    """
    path = expanded(path)
    with output_errors(path):
        beside = _beside(path)
        try:
            yield beside
            replace(beside, path)
        finally:
            if beside.is_file():
                beside.unlink()


def replace(source: Path, target: Path) -> None:
    """Give a finished file or folder its final name, which even a power cut leaves whole."""
    _sync(source)
    source.replace(target)
    _sync(target.parent)


def _sync(path: Path) -> None:
    """Have the disk take what was written to a file, or the names in a folder."""
    is_folder = path.is_dir()
    if is_folder and os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not is_folder or error.errno != errno.EINVAL:  # some network disks sync files alone
            raise
    finally:
        os.close(descriptor)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` to `path` atomically; see `atomic`."""
    with atomic(path) as beside:
        beside.write_bytes(data)


def encode(picture: Image, kind: str, **options: Any) -> bytes:
    """The bytes of a picture's file of a kind that Pillow writes, such as "JPEG"."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise `OutputError` before long work if no file could be written at `path`.

    Makes the folder if there is none and leaves no file behind.
    """
    path = expanded(path)
    with output_errors(path):
        probe = _beside(path)
        probe.touch()
        probe.unlink()


def refuse_overwriting(
    outputs: Iterable[str | os.PathLike[str]], inputs: Iterable[str | os.PathLike[str]]
) -> None:
    """Refuse, before any work, to write over what is read.

    Outputs are files that are to be written, and folders in which any file may be written over;
    inputs are files that are read, and folders whose files are. A name that no file has, such as
    that of a sample or an empty one, is passed over. Files are told apart by their numbers on the
    disk, so that links, `./` and other upper and lower case make no difference.
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


def expanded(path: str | os.PathLike[str]) -> Path:
    """A path as people type it; `~` is the home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # nobody has that home
        return Path(path)


def pictures_in(
    folder: Path,
    suffixes: Iterable[str] = PICTURE_SUFFIXES,
    *,
    below: bool = False,
    say: Callable[[str], None] = lambda sentence: None,
) -> list[Path]:
    """List the pictures in a folder, hidden ones left out, "sketch 9" before "sketch 10".

    `suffixes` are in lower case; `below` says whether folders in the folder are looked into, too.
    `say` is handed a sentence that counts and names the files that are no pictures.
    """
    try:
        found = [
            path
            for path in (folder.rglob("*") if below else folder.iterdir())
            if not any(part.startswith(".") for part in path.relative_to(folder).parts)
            and not path.is_dir()
        ]
    except NotADirectoryError:
        raise InputError(f"{folder} is a file; name a folder of pictures.") from None
    except OSError as error:
        raise InputError(f"{folder}: the folder cannot be read: {_reason(error)}.") from None
    found.sort(key=lambda path: [*map(_natural, path.relative_to(folder).parts)])
    others = [path.name for path in found if path.suffix.lower() not in suffixes]
    if others:
        files = (
            "1 file is no picture" if len(others) == 1 else f"{len(others)} files are no pictures"
        )
        say(f"{folder}: {files} that can be read ({listed(others)}).")
    return [path for path in found if path.suffix.lower() in suffixes]


def listed(names: Sequence[str]) -> str:
    """The first of some names; dots stand for the others."""
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


def _natural(name: str) -> tuple[list[tuple[str, int]], str]:
    """What to sort names by, so that numbers in them count as numbers."""
    parts = re.findall(r"([^0-9]*)([0-9]*)", name.casefold())
    return [(text, int(digits or -1)) for text, digits in parts], name


def no_such_file(path: Path) -> InputError:
    """The sentence about a file that is not there, with the folder that it was looked for in."""
    where = "" if path.is_absolute() else f" in {Path.cwd()}"
    return InputError(f"{path}: there is no such file{where}.")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn errors of the operating system into an `InputError` about a file that is read."""
    try:
        yield
    except FileNotFoundError:
        raise no_such_file(path) from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {_reason(error)}.") from None


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).rstrip(".").lower()


_RESERVED = re.compile(
    r"(con|prn|aux|nul|com[0-9\u00b9\u00b2\u00b3]|lpt[0-9\u00b9\u00b2\u00b3])(\..*)?", re.I
)


def portable_name(name: str) -> str:
    """The same name, with a `_` where Windows takes it for a device, such as `aux.png`."""
    return _RESERVED.sub(r"\1_\2", name) if _RESERVED.fullmatch(name) else name


def _beside(path: Path) -> Path:
    """Where a file is written until it is finished; its folder is made."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "it is a folder; name a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.stem}.{secrets.token_hex(4)}.partial{path.suffix}")


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn errors of the operating system into an `OutputError` about `path`."""
    try:
        yield
    except Timeout:  # of a lock, which is an OSError too
        raise
    except OSError as error:
        reason = _reason(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            reason += "; free some space and run it again"
        raise OutputError(f"{path} cannot be written: {reason}.") from error


@contextmanager
def locked(path: Path, seconds: float = 0) -> Iterator[None]:
    """Hold a file's lock, which a process that is killed lets go of.

    If another process holds it still after so many seconds (below 0: for ever), that is a
    `filelock.Timeout`; if the file cannot be written, or the disk has no locks, an `OutputError`.
    """
    lock = FileLock(path, timeout=seconds)
    with output_errors(path), warnings.catch_warnings():
        # Some versions would make a file instead, which a killed process leaves behind.
        warnings.filterwarnings("error", "flock not supported")
        try:
            lock.acquire()
        except (NotImplementedError, UserWarning):
            raise OSError(errno.ENOLCK, _NO_LOCKS) from None
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise OSError(error.errno, _NO_LOCKS) from None
            raise
    try:
        yield
    finally:
        lock.release()


_NO_LOCKS = "its disk has no file locks, which keep runs apart; write to another disk"


def is_locked(path: Path) -> bool:
    """Whether a process holds a file's lock at this moment."""
    if not path.exists():
        return False
    try:
        with locked(path):
            return False
    except (Timeout, OutputError):
        return True


@contextmanager
def held(lock: Path, taken: Callable[[], str], seconds: float = 0) -> Iterator[None]:
    """Hold a lock; `taken` says the `InputError` if another process still does after a while.

    The folder of the lock is made, and nobody who is killed holds one.
    """
    check_writable(lock)
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(lock, seconds))
        except Timeout:
            raise InputError(taken()) from None
        yield


def claimed(folder: Path) -> AbstractContextManager[None]:
    """Keep a second run out of the folder."""
    busy = f"{folder} is being painted into by another run; wait for it, or use another folder."
    return held(folder / ".lock", lambda: busy)


# --- YAML that people write, in which a mistake gets one sentence with its place ---------


def read_yaml(file: Path) -> Any:
    """What a YAML file says: mappings, lists, texts, numbers, nothing that is executed.

    The sentence of an `InputError` does not name the file.
    """
    try:
        text = file.read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError("it is not text in UTF-8; save it as that.") from None
    except (FileNotFoundError, ValueError):  # ValueError: a name with a character that no file has
        raise InputError("there is no such file.") from None
    except OSError as error:
        raise InputError(f"it cannot be read: {_reason(error)}.") from None
    return parse_yaml(text)


def parse_yaml(text: str) -> Any:
    """What a YAML text says; a name given twice is refused, as the last would win silently."""
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column, problem = mark.line, mark.column, error.problem or error.context
    except yaml.reader.ReaderError as error:
        before = text[: error.position].split("\n")
        line, column, problem = len(before) - 1, len(before[-1]), "a character that is not allowed"
    except RecursionError:
        raise InputError("it is nested too deeply.") from None
    raise InputError(f"{_place(line, column)}: it is not YAML: {problem}.")


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for name, _ in node.value:
            if isinstance(name, yaml.ScalarNode):
                if name.value in seen:
                    place = _place(name.start_mark.line, name.start_mark.column)
                    raise InputError(f"{place}: {name.value!r} is given twice; keep one of them.")
                seen.add(name.value)
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except ValueError as error:  # such as the 30th of February
            mark = node.start_mark
            raise yaml.MarkedYAMLError(problem=str(error), problem_mark=mark) from None


def _place(line: int, column: int) -> str:
    return f"line {line + 1}, column {column + 1}"


def kind(value: object) -> str:
    """What a value read from YAML is, in words."""
    if isinstance(value, bool):
        return "true or false"
    kinds = {str: "a text", list: "a list", dict: "a mapping", int: "a number", float: "a number"}
    return "empty" if value is None else kinds.get(type(value), f"a {type(value).__name__}")
