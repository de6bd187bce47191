"""What lies in the folders of a batch, and what it says about each run.

A finished run is a folder under its final name, moved there in one piece. Until then it is made
in `.tmp-KEY` beside it, where the next attempt finds what this one finished. In both, a file
says how the run stands.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from filelock import Timeout

from workbench.batch.plan import Run
from workbench.errors import InputError, OutputError
from workbench.files import check_writable, is_locked, locked, replace, write_bytes
from workbench.notebook import failed_notebook
from workbench.runs import Result, check_result

PAGE = "index.html"
SUMMARY = "summary.csv"
STATE_FOLDER = ".batch"  # below a plan's root
THUMBNAIL = "thumbnail.webp"  # in the folder of a run
_RECORD = "batch.json"
_GONE = ".gone"

Kind = Literal["done", "changed", "failed", "running", "waiting"]


@dataclass(frozen=True)
class State:
    """How a run stands.

    Attributes
    ----------
    kind
        "done"; "changed": done, but an input changed meanwhile, so that it is run again next
        time; "failed"; "running"; "waiting".
    sentence
        Why it failed, or what is to be said of a finished run.
    stage
        Where a running one is, such as "cell 5 of 9, painting 12/48".
    attempts
        How often it was started, over all batches.
    seconds
        How long a finished run took, as its `result.json` says; a failed one, its last attempt.
    host
        The machine that it ran on.
    figures
        Of a finished run: name -> number.
    notebook
        The executed notebook, as far as it came; None if there is none.
    thumbnail
        A small picture of a finished run; None if it made no picture.
    shown
        What a click on the thumbnail opens: the film, GIF or picture.
    """

    kind: Kind
    sentence: str = ""
    stage: str = ""
    attempts: int = 0
    seconds: float | None = None
    host: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)
    notebook: Path | None = None
    thumbnail: Path | None = None
    shown: Path | None = None


@dataclass(frozen=True)
class Record:
    """What is kept about a run, in a file in its folder.

    Attributes
    ----------
    key
        Of the run, as `Run.key`.
    output
        Name of its folder once it is finished.
    kind, sentence, stage, attempts, host
        As in `State`.
    notebook
        File name of the executed notebook.
    seconds
        From the start of the last attempt.
    shown
        The output to open, relative to the folder.
    """

    key: str
    output: str
    notebook: str
    host: str
    attempts: int
    kind: Kind = "running"
    sentence: str = ""
    stage: str = ""
    seconds: float = 0.0
    shown: str = ""


_TYPES: dict[str, Any] = {"attempts": int, "seconds": (int, float)}  # the others are texts


def work_folder(run: Run) -> Path:
    """Where a run is made, until it is finished."""
    return run.output.with_name(f".tmp-{run.key[:16]}")


def read_record(folder: Path) -> Record | None:
    """What a folder says of its run; None if it says nothing that can be read."""
    try:
        record = Record(**json.loads((folder / _RECORD).read_text("utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    for each in fields(Record):
        value = getattr(record, each.name)
        if isinstance(value, bool) or not isinstance(value, _TYPES.get(each.name, str)):
            return None
    return record if record.kind in get_args(Kind) else None


def write_record(folder: Path, record: Record) -> None:
    """Write down how the run in a folder stands."""
    write_bytes(folder / _RECORD, json.dumps(asdict(record), indent=1).encode())


def read_state(run: Run) -> State:
    """How a run stands, as its folders say."""
    record = read_record(run.output)
    if record is not None and record.key == run.key:
        try:
            return _finished(run.output, record, check_result(run.output))
        except InputError:
            pass  # something was taken out of it: it is run again
    work = work_folder(run)
    record = read_record(work)
    if record is None or record.kind in ("done", "changed"):
        return State("waiting", attempts=record.attempts if record else 0)
    if record.kind == "running":
        return watch(run) if is_claimed(run) else State("waiting", attempts=record.attempts)
    ended = work / record.notebook  # to its end, but without a result
    notebooks = [path for path in (failed_notebook(ended), ended) if path.is_file()]
    return State(
        "failed",
        sentence=record.sentence,
        attempts=record.attempts,
        seconds=record.seconds,
        host=record.host,
        notebook=notebooks[0] if notebooks else None,
    )


def watch(run: Run) -> State:
    """Where a run is that was handed to a worker; "waiting" until the worker begins."""
    record = read_record(work_folder(run))
    if record is None or record.kind != "running":
        return State("waiting", attempts=record.attempts if record else 0)
    return State("running", stage=record.stage, attempts=record.attempts, host=record.host)


def _finished(folder: Path, record: Record, result: Result) -> State:
    notebook, thumbnail = folder / record.notebook, folder / THUMBNAIL
    return State(
        record.kind,
        sentence=record.sentence,
        attempts=record.attempts,
        seconds=result.seconds,
        host=record.host,
        figures=result.figures,
        notebook=notebook if notebook.is_file() else None,
        thumbnail=thumbnail if thumbnail.is_file() else None,
        shown=folder / record.shown if record.shown else None,
    )


@contextmanager
def claim(run: Run, seconds: float) -> Iterator[None]:
    """Be the only one who makes a run; an earlier attempt that is about to end is waited for.

    Raises
    ------
    InputError
        If another process is still at it after so many seconds.
    """
    lock = _lock(work_folder(run))
    check_writable(lock)
    try:
        with locked(lock, seconds):
            yield
    except Timeout:
        raise InputError(f"{run.output} is being made by another process.") from None


def is_claimed(run: Run) -> bool:
    """Whether a process is making a run at this moment."""
    return is_locked(_lock(work_folder(run)))


def _lock(work: Path) -> Path:
    # Not in the work folder, which moves while it is claimed.
    return work.parent / STATE_FOLDER / f"{work.name.removeprefix('.tmp-')}.lock"


def publish(run: Run) -> None:
    """Move a finished run from its work folder to its final name, in place of an older one.

    At every moment, either the older or the newer one is there in one piece, if need be beside
    its name, where `mend` finds it. What other settings of the run left unfinished goes.
    """
    work, older = work_folder(run), _older(run)
    if run.output.exists():
        _remove(older)
        run.output.rename(older)
    replace(work, run.output)
    _remove(older)
    clear([run])


def clear(done: Iterable[Run]) -> None:
    """Remove what other settings of finished runs left unfinished."""
    names: dict[Path, set[str]] = {}
    for run in done:
        names.setdefault(run.output.parent, set()).add(run.output.name)
    for parent, finished in names.items():
        for work in parent.glob(".tmp-*"):
            record = read_record(work)
            if record and record.output in finished and not is_locked(_lock(work)):
                # Under another name first, as one that is half removed would not be known again.
                work.rename(work.with_suffix(_GONE))
        for work in parent.glob(f".tmp-*{_GONE}"):
            _remove(work)


def mend(run: Run) -> None:
    """Finish what a killed `publish` left half done."""
    older = _older(run)
    if not older.exists():
        return
    if run.output.exists():
        _remove(older)
    else:
        older.rename(run.output)


def check_output(run: Run) -> None:
    """Raise `OutputError` if a run's folder holds something that no batch put there."""
    if run.output.exists() and read_record(run.output) is None:
        raise OutputError(
            f"{run.output} is there already and was not made by `workbench batch`; move it away,"
            " or give `output` another name."
        )


def _older(run: Run) -> Path:
    return run.output.with_name(f".old-{run.output.name}")


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
