"""One run of a batch: papermill in a process of its own, told by the Dask worker what to do.

The worker keeps a pipe to that process. When the worker dies, however it dies, the pipe breaks,
and the process takes its kernel with it.
"""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil
from PIL import Image

import workbench
from workbench.batch.digests import digest
from workbench.batch.plan import Run
from workbench.batch.record import (
    THUMBNAIL,
    Kind,
    Record,
    check_output,
    claim,
    mend,
    publish,
    read_record,
    read_state,
    work_folder,
    write_record,
)
from workbench.errors import InputError, OutputError, WorkbenchError
from workbench.notebook import failed_notebook, run_notebook, running_notebook
from workbench.runs import RESULT, Result, check_result

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_THUMBNAIL = (320, 200)  # px, at most
_MOVING = (".mp4", ".mov", ".mkv", ".gif")
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF")  # others may start programs to be read
_PICTURES = (".png", ".jpg", ".jpeg", ".webp")
_WENT_IN = re.compile(r"content|inputs|style([ _-]?\d+)?")
# As tqdm writes it: "painting:  25%|███      | 12/48 [00:03<00:09, 4.0 step/s]".
_BAR = re.compile(r"(?P<what>[^|]*?):?\s*\d+%\|[^|]*\|\s*(?P<count>[\d.]+\w?/[\d.]+\w?)")
_LONGEST_BAR = 300  # characters; the pattern would take long on long lines


@dataclass(frozen=True)
class Job:
    """What a worker needs to know to make a run; plain values, to be sent anywhere.

    Attributes
    ----------
    name, output, parameters, inputs, key
        As in `Run`.
    project
        Folder to run in.
    notebook
        The notebook as it was when the batch began.
    title
        File name of the notebook, for the executed one.
    timeout
        Seconds that it may take; None: any number.
    version
        Of the workbench that planned it.
    """

    name: str
    output: str
    parameters: Mapping[str, Any]
    inputs: Mapping[str, str]
    key: str
    project: str
    notebook: str
    title: str
    timeout: float | None
    version: str = workbench.__version__

    @property
    def run(self) -> Run:
        """The run that is to be made."""
        return Run(self.name, Path(self.output), self.parameters, self.inputs, self.key)


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended.

    Attributes
    ----------
    kind
        "done", "changed" or "failed".
    sentence
        Why it failed.
    hopeless
        Whether another attempt would fail in the same way, as the input cannot be used.
    """

    kind: Kind
    sentence: str = ""
    hopeless: bool = False


def execute(job: Job, threads: int, released: Callable[[], bool] = lambda: False) -> Outcome:
    """Make a run in a process of its own and wait for it.

    Parameters
    ----------
    threads
        How many threads the notebook's libraries may use.
    released
        Is asked twice a second whether nobody waits for the run any more; then it is stopped.
    """
    if not Path(job.project).is_dir():
        return Outcome(
            "failed",
            f"{socket.gethostname()} has no folder {job.project}: the machines of a cluster need"
            " the same files under the same paths.",
        )
    if workbench.__version__ != job.version:
        return Outcome(
            "failed",
            f"{socket.gethostname()} has version {workbench.__version__} of the workbench, and the"
            f" batch was planned by {job.version}; install the same one on all machines.",
            hopeless=True,
        )
    began = time.monotonic()
    # Sockets and files of the kernel go when the run does, however it ends.
    with (
        tempfile.TemporaryDirectory(prefix="run-", ignore_cleanup_errors=True) as temporary,
        tempfile.TemporaryFile() as said,
    ):
        process = subprocess.Popen(
            [sys.executable, "-m", "workbench.batch.execute"],
            cwd=job.project,
            env={**os.environ, **dict.fromkeys(_THREADS, str(threads)), "TMPDIR": temporary},
            stdin=subprocess.PIPE,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C in the terminal is for the batch to answer
        )
        assert process.stdin is not None
        try:
            with suppress(BrokenPipeError):
                process.stdin.write(json.dumps(asdict(job)).encode() + b"\n")
                process.stdin.flush()
            while process.poll() is None:
                if job.timeout is not None and time.monotonic() - began > job.timeout:
                    _end(process)
                    return _note_failure(job, _took_too_long(job.timeout), job.timeout)
                if released():
                    return Outcome("failed", "it was stopped.")
                _wait(process, 0.5)
        finally:
            _end(process)
            if process.returncode < 0:
                _kill_kernel(temporary)
        said.seek(0)
        lines = said.read().decode("utf-8", "replace").splitlines()
    try:
        return Outcome(**json.loads(lines[-1]))
    except (IndexError, ValueError, TypeError):
        how = _how_it_ended(process.returncode)
        last = f" ({lines[-1]})" if lines else ""
        sentence = f"the process of this run {how}{last}."
        return _note_failure(job, sentence, time.monotonic() - began)


def _wait(process: subprocess.Popen[bytes], seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return


def _end(process: subprocess.Popen[bytes]) -> None:
    """Break the pipe, upon which the process ends its kernel and itself."""
    assert process.stdin is not None
    with suppress(BrokenPipeError):
        process.stdin.close()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        _kill_children(process.pid)
        process.kill()
        process.wait()


def _kill_kernel(temporary: str) -> None:
    """End a kernel whose process was killed; by itself it would notice after a second."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("TMPDIR") == temporary:
                process.kill()
                process.wait(5)


def _took_too_long(seconds: float) -> str:
    return f"it took longer than {seconds:g} s, its timeout; allow more, or ask for less."


def _how_it_ended(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"


def _note_failure(job: Job, sentence: str, seconds: float) -> Outcome:
    """Write down how an attempt ended that could not do so itself."""
    with suppress(WorkbenchError), claim(job.run, seconds=0):  # unless another one has begun
        _write_failure(job, sentence, seconds)
    return Outcome("failed", sentence)


def _write_failure(job: Job, sentence: str, seconds: float) -> None:
    work = work_folder(job.run)
    record = read_record(work)
    if record is None or record.kind != "running":
        return
    with suppress(OutputError, OSError):  # the disk may be what failed
        running = running_notebook(work / job.title)
        if running.is_file():
            running.replace(failed_notebook(work / job.title))
        failed = replace(record, kind="failed", sentence=sentence, seconds=round(seconds, 3))
        write_record(work, failed)


# --- in the process of the run -----------------------------------------------------------


def main() -> None:
    """Make the run that standard input describes; the outcome is the last line printed."""
    if hasattr(signal, "pthread_sigmask"):  # the batch keeps Ctrl-C from its workers
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    job = Job(**json.loads(sys.stdin.buffer.readline()))
    threading.Thread(target=_end_with_worker, daemon=True).start()
    print(json.dumps(asdict(_make(job))), flush=True)


def _end_with_worker() -> None:
    """Wait until the pipe to the worker breaks; then end the kernel, and after it this process.

    In this order, as the claim on the work folder is held until then.
    """
    while os.read(0, 1):
        continue
    _kill_children(os.getpid())
    os._exit(1)


def _kill_children(pid: int) -> None:
    with suppress(psutil.NoSuchProcess):
        children = psutil.Process(pid).children(recursive=True)
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(children, timeout=5)


def _make(job: Job) -> Outcome:
    run = job.run
    try:
        with claim(run, seconds=60):
            return _make_claimed(job, run)
    except WorkbenchError as error:
        return Outcome("failed", str(error), hopeless=isinstance(error, InputError))


def _make_claimed(job: Job, run: Run) -> Outcome:
    began = time.monotonic()
    try:
        return _make_or_raise(job, run, work_folder(run))
    except WorkbenchError as error:
        sentence, hopeless = str(error), isinstance(error, InputError)
    except Exception as error:
        first = (str(error).strip().splitlines() or ["no message"])[0].rstrip(".")
        sentence, hopeless = f"{type(error).__name__}: {first}.", False
    _write_failure(job, sentence, time.monotonic() - began)
    return Outcome("failed", sentence, hopeless)


def _make_or_raise(job: Job, run: Run, work: Path) -> Outcome:
    mend(run)
    check_output(run)
    if read_state(run).kind == "done":  # by somebody who held the claim until now
        return Outcome("done")
    before = read_record(work)
    if before is not None and before.kind in ("done", "changed"):  # killed before it was moved
        publish(run)
        return Outcome(before.kind, before.sentence)
    attempts = before.attempts + 1 if before else 1
    record = Record(run.key, run.output.name, job.title, socket.gethostname(), attempts)
    began = time.monotonic()
    _run_notebook(job, work, record)
    result = _result(work)
    shown = _shown(result.outputs)
    if shown:
        _save_thumbnail(work / shown, work / THUMBNAIL)
    changed = [name for name, sha256 in run.inputs.items() if _digest(name) != sha256]
    kind: Kind = "changed" if changed else "done"
    sentence = ""
    if changed:
        sentence = f"{', '.join(changed)} changed while it ran; the same command runs it again."
    seconds = round(time.monotonic() - began, 3)
    finished = replace(record, kind=kind, sentence=sentence, shown=shown, seconds=seconds)
    write_record(work, finished)
    publish(run)
    return Outcome(kind, sentence)


def _run_notebook(job: Job, work: Path, record: Record) -> None:
    here = Path(job.project)
    folder = work.relative_to(here) if work.is_relative_to(here) else work
    write_record(work, record)
    (work / RESULT).unlink(missing_ok=True)
    stage = _Stage(lambda text: write_record(work, replace(record, stage=text)))
    parameters = {**job.parameters, "output_dir": str(folder)}
    run_notebook(job.notebook, work / job.title, parameters, prints=stage, on_cell=stage.enter)


def _result(work: Path) -> Result:
    try:
        return check_result(work)
    except InputError as error:
        raise WorkbenchError(f"the notebook ended, but left no valid result: {error}") from None


def _digest(name: str) -> str | None:
    try:
        return digest(Path(name))
    except (OSError, InputError):
        return None


class _Stage(io.TextIOBase):
    """Where a notebook is, from the cells it enters and the progress bars it prints."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._cell = ""
        self._told = 0.0

    def enter(self, number: int, cells: int) -> None:
        """Note that a cell begins."""
        self._cell = f"cell {number} of {cells}"
        self._say(self._cell)

    def write(self, text: str) -> int:
        """Look for a progress bar in what a notebook prints."""
        if "%|" not in text or time.monotonic() - self._told < 0.5:
            return len(text)
        lines = [line for line in re.split(r"[\r\n]", text) if "%|" in line]
        if bar := _BAR.search(lines[-1][:_LONGEST_BAR]):
            what, count = bar["what"].strip(), bar["count"]
            self._say(f"{self._cell}, {what} {count}".replace(",  ", ", "))
        return len(text)

    def _say(self, text: str) -> None:
        self._told = time.monotonic()
        with suppress(OutputError):  # the run itself will find out that the disk is full
            self._tell(text)


def _shown(outputs: Mapping[str, str]) -> str:
    """The output that stands for a run: a path relative to its folder, or nothing."""
    for name in ("picture", "film", "sheet"):
        if name in outputs:
            return outputs[name]
    for suffixes in (_MOVING, _PICTURES):
        for name, path in outputs.items():
            if path.lower().endswith(suffixes) and not _WENT_IN.fullmatch(name):
                return path
    return ""


def _save_thumbnail(source: Path, path: Path) -> None:
    """Write a small picture of a picture, or of the first frame of a GIF or film."""
    try:
        if source.suffix.lower() in _MOVING[:-1]:
            import av

            with av.open(str(source)) as film:
                picture = next(film.decode(video=0)).to_image()
        else:
            picture = Image.open(source, formats=_FORMATS)
        with picture:
            small = picture.convert("RGB")
            small.thumbnail(_THUMBNAIL)
            small.save(path, "WEBP", quality=80)
    except Exception:  # whatever may be wrong with it: the run itself is done
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
