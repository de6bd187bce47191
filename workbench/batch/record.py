"""What lies in the folders of a batch, and what it says about each run.

A finished run is a folder under its final name, moved there in one piece. Until then it is made
in `.tmp-KEY` beside it, where the next attempt finds what this one finished. In both, a file
says how the run stands.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from workbench import files, runs
from workbench.errors import OutputError
from workbench.files import held, is_locked, reading, write_bytes
from workbench.notebook import failed_notebook

PAGE = "index.html"
SUMMARY = "summary.csv"
STATE_FOLDER = ".batch"  # below a plan's root, and below each folder with runs in it
THUMBNAIL = "thumbnail.webp"  # in the folder of a run
_RECORD = "batch.json"
_DIGESTS = "digests.json"
_GONE = ".gone"
_RACY = 2.0  # seconds in which a file may change again and keep its date

Kind = Literal["done", "changed", "failed", "running", "waiting"]


@dataclass(frozen=True)
class Run:
    """One call of a notebook."""

    name: str  # of its folder below the plan's root, with forward slashes
    output: Path  # that folder, where the finished run goes
    parameters: Mapping[str, Any]  # what the notebook is told, `output_dir` excepted
    inputs: Mapping[str, str]  # files and folders that these name -> SHA-256 of what is in them
    key: str  # SHA-256 of everything that the result depends on

    @property
    def work(self) -> Path:
        """The folder in which it is made, until it is finished."""
        return self.output.with_name(f".tmp-{self.key[:16]}")

    @property
    def lock(self) -> Path:
        """The file that whoever makes it holds; not in the work folder, which moves meanwhile."""
        return self.output.parent / STATE_FOLDER / f"{self.key[:16]}.lock"

    @property
    def older(self) -> Path:
        """Where its predecessor lies for the moment in which the two change places."""
        return self.output.with_name(f".old-{self.output.name}")


@dataclass(frozen=True)
class Record:
    """How a run stands. Its file in the run's folder has all but the last two of these."""

    kind: Kind = "waiting"  # "changed": done, but an input changed meanwhile, so it is run again
    sentence: str = ""  # why it failed, or what is to be said of a finished run
    stage: str = ""  # where a running one is, such as "cell 5 of 9, painting 12/48"
    attempts: int = 0  # how often it was started, over all batches
    seconds: float | None = None  # that a finished run took, or the last attempt of a failed one
    host: str = ""  # the machine that it ran on
    hopeless: bool = False  # another attempt would fail in the same way
    key: str = ""  # of the run, as `Run.key`
    output: str = ""  # name of its folder once it is finished
    notebook: str = ""  # file name of the executed notebook
    shown: str = ""  # the film, GIF or picture to open, relative to the folder
    figures: Mapping[str, float] = field(default_factory=dict)  # of a finished run
    folder: Path | None = None  # that it lies in

    @property
    def may_succeed(self) -> bool:
        """Whether it failed, and another attempt need not."""
        return self.kind == "failed" and not self.hopeless

    @property
    def stored(self) -> dict[str, Any]:
        """What its file has of it."""
        return {name: getattr(self, name) for name in _STORED}

    def file(self, name: str) -> Path | None:
        """A file in the run's folder, if it is there."""
        path = self.folder / name if self.folder and name else None
        return path if path and path.is_file() else None


_STORED: dict[str, Any] = {
    **dict.fromkeys(("sentence", "stage", "host", "key", "output", "notebook", "shown"), str),
    **{"kind": str, "attempts": int, "seconds": (int, float, type(None)), "hopeless": bool},
}


def read_record(folder: Path) -> Record | None:
    """What a folder says of its run; None if it says nothing that can be read."""
    try:
        record = Record(**json.loads((folder / _RECORD).read_text("utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    for name, kinds in _STORED.items():
        value = getattr(record, name)
        if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
            return None
    written = record.kind in get_args(Kind) and record.kind != "waiting"  # which is never written
    return replace(record, figures={}, folder=folder) if written else None


def write_record(folder: Path, record: Record) -> None:
    """Write down how the run in a folder stands."""
    write_bytes(folder / _RECORD, json.dumps(record.stored, indent=1).encode())


def read_state(run: Run) -> Record:
    """How a run stands, as its folders say."""
    record = read_record(run.output)
    if record is not None and record.key == run.key:
        result = runs.read_result(run.output)
        if result is not None:  # else something was taken out of it, and it is run again
            return replace(record, seconds=result.seconds, figures=result.figures)
    record = read_record(run.work)
    if record is None or record.kind != "failed":
        is_alive = record is not None and record.kind == "running" and is_claimed(run)
        return watch(run) if is_alive else Record(attempts=record.attempts if record else 0)
    failed = failed_notebook(run.work / record.notebook)  # else it came to an end without a result
    return replace(record, notebook=failed.name) if failed.is_file() else record


def watch(run: Run) -> Record:
    """Where a run is that was handed to a worker; "waiting" until the worker begins."""
    record = read_record(run.work)
    if record is None or record.kind != "running":
        return Record(attempts=record.attempts if record else 0)
    return replace(record, seconds=None)


def claim(run: Run, seconds: float) -> AbstractContextManager[None]:
    """Be the only one who makes a run; `InputError` if another is still at it after a while."""
    return held(run.lock, lambda: f"{run.output} is being made by another process.", seconds)


def is_claimed(run: Run) -> bool:
    """Whether a process is making a run at this moment."""
    return is_locked(run.lock)


def publish(run: Run) -> None:
    """Move a finished run from its work folder to its final name, in place of an older one.

    At every moment, one of them is there in one piece, if need be where `mend` finds it.
    """
    if run.output.exists():
        _remove(run.older)
        run.output.rename(run.older)
    files.replace(run.work, run.output)
    _remove(run.older)
    clear([run])


def clear(done: Iterable[Run]) -> None:
    """Remove what other settings of finished runs left unfinished."""
    outputs = {run.output for run in done}
    for parent in {output.parent for output in outputs}:
        for work in parent.glob(".tmp-*"):
            record = read_record(work)
            lock = parent / STATE_FOLDER / f"{work.name.removeprefix('.tmp-')}.lock"
            if record and parent / record.output in outputs and not is_locked(lock):
                # Under another name first, as one that is half removed would not be known again.
                work.rename(work.with_suffix(_GONE))
        for work in parent.glob(f".tmp-*{_GONE}"):
            _remove(work)


def mend(run: Run) -> None:
    """Finish what a killed `publish` left half done."""
    if run.output.exists():
        _remove(run.older)
    elif run.older.exists():
        run.older.rename(run.output)


def check_output(run: Run) -> None:
    """Raise `OutputError` if a run's folder holds something that no batch put there."""
    if run.output.exists() and read_record(run.output) is None:
        raise OutputError(
            f"{run.output} is there already and was not made by `workbench batch`; move it away,"
            " or give `output` another name."
        )


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


# --- what went in ------------------------------------------------------------------------


def digest(path: Path, of_file: Callable[[Path], str] = runs.digest) -> str:
    """SHA-256 of a file's content, or of a folder: the names and contents of the files below it.

    Hidden files and folders are left out; linked folders are not followed.

    Parameters
    ----------
    of_file
        Gives the digest of a single file.
    """
    if not path.is_dir():
        return of_file(path)
    whole = hashlib.sha256()
    for file in _files(path):
        name = file.relative_to(path).as_posix()
        whole.update(f"{of_file(file)} {name}\0".encode("utf-8", "surrogateescape"))
    return whole.hexdigest()


def read_digests(paths: Iterable[Path], root: Path, *, keep: bool = False) -> dict[Path, str]:
    """Digests of many files and folders, each file read once at most.

    Those of files whose size and date are the same as last time are remembered in a file below
    `root`, which is written if `keep` says so.
    """
    cache = root / STATE_FOLDER / _DIGESTS
    known: dict[str, Any] = {}
    # A damaged cache is as good as none.
    with suppress(OSError, ValueError, TypeError, RecursionError):
        known = dict(json.loads(cache.read_text("utf-8")))
    kept: dict[str, list[Any]] = {}
    made: dict[Path, str] = {}

    def of_file(file: Path) -> str:
        if file in made:
            return made[file]
        stamp, entry = _stamp(file), known.get(str(file))
        if isinstance(entry, list) and len(entry) == 3 and entry[:2] == stamp:
            kept[str(file)] = entry
        else:
            settled = stamp[1] / 1e9 < time.time() - _RACY
            entry = [*stamp, runs.digest(file)]
            if settled and _stamp(file) == stamp:
                kept[str(file)] = entry
        made[file] = str(entry[2])
        return made[file]

    digests = {path: digest(path, of_file) for path in paths}
    if keep and kept != known:
        write_bytes(cache, json.dumps(kept, indent=0, sort_keys=True).encode())
    return digests


def _files(folder: Path) -> list[Path]:
    """The files below a folder that are not hidden, sorted."""

    def fail(error: OSError) -> None:
        with reading(Path(error.filename)):
            raise error

    found = []
    for place, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place, name) for name in names if not name.startswith(".")]
    return sorted(file for file in found if file.is_file())


def _stamp(file: Path) -> list[int]:
    with reading(file):
        stat = file.stat()
    return [stat.st_size, stat.st_mtime_ns]
