"""One run of a batch: papermill in a process of its own, told by the Dask worker what to do.

The worker keeps a pipe to that process. When the worker dies, however it dies, the pipe breaks,
and the process takes its kernel with it.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil

import workbench
from workbench.batch.page import write_run_page
from workbench.batch.plan import Plan
from workbench.batch.record import (
    THUMBNAIL,
    Record,
    Run,
    check_output,
    claim,
    digest,
    mend,
    publish,
    read_record,
    read_state,
    write_record,
)
from workbench.errors import InputError, OutputError, WorkbenchError
from workbench.notebook import failed_notebook, prepare_process, run_notebook, running_notebook
from workbench.pages import save_thumbnail
from workbench.runs import RESULT, check_result, shown

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
# As tqdm writes it: "painting:  25%|███      | 12/48 [00:03<00:09, 4.0 step/s]".
_BAR = re.compile(r"(?P<what>[^|]*?):?\s*\d+%\|[^|]*\|\s*(?P<count>[\d.]+\w?/[\d.]+\w?)")
_LONGEST_BAR = 300  # characters; the pattern would take long on long lines


def execute(
    run: Run,
    plan: Plan,
    threads: int,
    *,
    gpu: str | None = None,
    released: Callable[[], bool] = lambda: False,
) -> Record:
    """Make a run of a plan in a process of its own; how it ended: "done", "changed" or "failed".

    Parameters
    ----------
    threads
        How many threads the notebook's libraries may use.
    gpu
        The CUDA GPU that it gets; None: all that there are.
    released
        Is asked twice a second whether nobody waits for the run any more; then it is stopped.
    """
    if unfit := _unfit(plan):
        return unfit
    own = dict.fromkeys(_THREADS, str(threads))
    if gpu is not None:
        own["CUDA_VISIBLE_DEVICES"] = gpu
    began = time.monotonic()
    # Sockets and files of the kernel go when the run does, however it ends.
    with (
        tempfile.TemporaryDirectory(prefix="run-", ignore_cleanup_errors=True) as temporary,
        tempfile.TemporaryFile() as said,
    ):
        process = subprocess.Popen(
            [sys.executable, "-m", "workbench.batch.execute"],
            cwd=plan.project,
            env={**os.environ, **own, "TMPDIR": temporary},
            stdin=subprocess.PIPE,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C in the terminal is for the batch to answer
        )
        assert process.stdin is not None
        ending = ""
        try:
            with suppress(BrokenPipeError):
                process.stdin.write(pickle.dumps((run, plan)))
                process.stdin.flush()
            while process.poll() is None:
                if released():
                    return Record("failed", "it was stopped.")
                if plan.timeout and time.monotonic() - began > plan.timeout:
                    ending = (
                        f"it took longer than {plan.timeout:g} s, its timeout; allow more, or ask"
                        " for less."
                    )
                    break
                with suppress(subprocess.TimeoutExpired):
                    process.wait(0.5)
        finally:
            _end(process)
            if process.returncode < 0:
                _kill_kernel(temporary)
        said.seek(0)
        lines = said.read().decode("utf-8", "replace").splitlines()
    if not ending:
        try:
            return Record(**json.loads(lines[-1]))
        except (IndexError, ValueError, TypeError):
            ending = _last_words(process.returncode, lines)
    return _note_failure(run, ending, time.monotonic() - began)


def _unfit(plan: Plan) -> Record | None:
    """Why this machine can make no run of a plan; None if it can."""
    here, own = socket.gethostname(), workbench.__version__
    if not plan.project.is_dir():
        needs = "the machines of a cluster need the same files under the same paths."
        return Record("failed", f"{here} has no folder {plan.project}: {needs}")
    if own != plan.version:
        needs = f"the batch was planned by {plan.version}; install the same one on all machines."
        sentence = f"{here} has version {own} of the workbench, and {needs}"
        return Record("failed", sentence, hopeless=True)
    return None


def _last_words(code: int, lines: list[str]) -> str:
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    return f"the process of this run {how}{f' ({lines[-1]})' if lines else ''}."


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


def _note_failure(run: Run, sentence: str, seconds: float) -> Record:
    """Write down how an attempt ended that could not do so itself."""
    with suppress(WorkbenchError), claim(run, seconds=0):  # unless another one has begun
        return _write_failure(run, Record("failed", sentence), seconds)
    return Record("failed", sentence)


def _write_failure(run: Run, failed: Record, seconds: float) -> Record:
    """Write down how a claimed attempt failed, and keep its notebook as far as it came."""
    record = read_record(run.work)
    if record is None or record.kind != "running":
        return failed
    with suppress(OutputError, OSError):  # the disk may be what failed
        notebook = run.work / record.notebook
        running = running_notebook(notebook)
        if running.is_file():
            running.replace(failed_notebook(notebook))
        kept = replace(record, kind="failed", sentence=failed.sentence, hopeless=failed.hopeless)
        write_record(run.work, replace(kept, seconds=round(seconds, 3)))
    return failed


# --- in the process of the run -----------------------------------------------------------


def main() -> None:
    """Make the run that standard input describes; how it ended is the last line printed."""
    if hasattr(signal, "pthread_sigmask"):  # the batch keeps Ctrl-C from its workers
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    run, plan = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_worker, daemon=True).start()
    prepare_process()
    print(json.dumps(_make(run, plan).stored), flush=True)


def _end_with_worker() -> None:
    """Wait until the pipe to the worker breaks; then end the kernel, and this process."""
    while os.read(0, 1):
        continue
    _kill_children(os.getpid())
    os._exit(1)  # only now, as until then it claims the work folder


def _kill_children(pid: int) -> None:
    with suppress(psutil.NoSuchProcess):
        children = psutil.Process(pid).children(recursive=True)
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(children, timeout=5)


def _make(run: Run, plan: Plan) -> Record:
    began = time.monotonic()
    try:
        with claim(run, seconds=60):
            try:
                return _make_claimed(run, plan)
            except Exception as error:
                return _write_failure(run, _told(error), time.monotonic() - began)
    except WorkbenchError as error:
        return _told(error)


def _told(error: Exception) -> Record:
    """A failure in a sentence; unusable input makes it hopeless."""
    if isinstance(error, WorkbenchError):
        return Record("failed", str(error), hopeless=isinstance(error, InputError))
    first = (str(error).strip().splitlines() or ["no message"])[0].rstrip(".")
    return Record("failed", f"{type(error).__name__}: {first}.")


def _make_claimed(run: Run, plan: Plan) -> Record:
    mend(run)
    check_output(run)
    if read_state(run).kind == "done":  # by somebody who held the claim until now
        return Record("done")
    before = read_record(run.work)
    if before is not None and before.kind in ("done", "changed"):  # killed before it was moved
        publish(run)
        return before
    record = Record(
        "running",
        key=run.key,
        output=run.output.name,
        notebook=plan.notebook.name,
        host=socket.gethostname(),
        attempts=before.attempts + 1 if before else 1,
    )
    began = time.monotonic()
    work = run.work
    write_record(work, record)
    (work / RESULT).unlink(missing_ok=True)
    folder = work.relative_to(plan.project) if work.is_relative_to(plan.project) else work
    told = {**run.parameters, "output_dir": str(folder)}
    stage = _Stage(lambda text: write_record(work, replace(record, stage=text)))
    run_notebook(plan.notebook, work / record.notebook, told, prints=stage, on_cell=stage.enter)
    try:
        result = check_result(work)
    except InputError as error:
        raise WorkbenchError(f"the notebook ended, but left no valid result: {error}") from None
    if output := shown(result.outputs):
        save_thumbnail(work / output, work / THUMBNAIL)
    write_run_page(plan, run, work, result)
    seconds = round(time.monotonic() - began, 3)
    record = replace(record, kind="done", shown=output, seconds=seconds)
    if changed := ", ".join(name for name in run.inputs if _changed(run, name)):
        sentence = f"{changed} changed while it ran; the same command runs it again."
        record = replace(record, kind="changed", sentence=sentence)
    write_record(work, record)
    publish(run)
    return record


def _changed(run: Run, name: str) -> bool:
    try:
        return digest(Path(name)) != run.inputs[name]
    except (OSError, InputError):
        return True


class _Stage(io.TextIOBase):
    """Where a notebook is, from the cells it enters and the progress bars it prints."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._cell = ""
        self._told = 0.0

    def enter(self, number: int, cells: int) -> None:
        self._cell = f"cell {number} of {cells}"
        self._say(self._cell)

    def write(self, text: str) -> int:
        lines = [line for line in re.split(r"[\r\n]", text) if "%|" in line]
        is_due = lines and time.monotonic() - self._told >= 0.5
        if is_due and (bar := _BAR.search(lines[-1][:_LONGEST_BAR])):
            what, count = bar["what"].strip(), bar["count"]
            self._say(f"{self._cell}, {what} {count}".replace(",  ", ", "))
        return len(text)

    def _say(self, text: str) -> None:
        self._told = time.monotonic()
        with suppress(OutputError):  # the run itself will find out that the disk is full
            self._tell(text)


if __name__ == "__main__":
    main()
