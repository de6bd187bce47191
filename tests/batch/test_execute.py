from __future__ import annotations

import hashlib
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import av
import nbformat
import numpy as np
import psutil
import pytest
from PIL import EpsImagePlugin, Image
from test_notebook import write_notebook

import workbench
from workbench.batch import execute as execute_module
from workbench.batch import record
from workbench.batch.execute import _Stage
from workbench.batch.plan import Plan
from workbench.batch.record import (
    STATE_FOLDER,
    Record,
    Run,
    claim,
    digest,
    is_claimed,
    read_record,
    read_state,
    write_record,
)
from workbench.notebook import running_notebook
from workbench.pages import save_thumbnail
from workbench.runs import finish_run, shown

TITLE = "paint.ipynb"
PATIENCE = 60.0  # seconds until a test gives up
PARAMETERS = 'output_dir: str = "runs/paint"\nanswer: int = 42\nstyle: str = ""\nsteps: list = [1]'
# Who works in the folder, for the tests to look after.
START = """\
import os
import time
from pathlib import Path

from workbench.runs import finish_run, start_run

folder = start_run(output_dir)
kept = folder.parent  # where the next attempt finds it
parts = len(list(kept.glob("part-*")))
(kept / f"part-{parts}").touch()
(kept / "pids.partial").write_text(f"{os.getpid()} {os.getppid()}")
(kept / "pids.partial").rename(kept / "pids")
"""
END = """\
from PIL import Image

Image.new("RGB", (640, 480), "red").save(folder / "picture.png")
threads = int(os.environ["OMP_NUM_THREADS"]) + 10 * int(os.environ["MKL_NUM_THREADS"])
settings = {"answer": answer, "steps": steps, "style": style, "output_dir": output_dir}
finish_run(
    folder,
    outputs={"picture": folder / "picture.png"},
    figures={"parts": parts, "threads": threads},
    settings={**settings, "folder": os.getcwd()},
    weights={},
    seconds=1.5,
)
"""
HANG = "time.sleep(1000)"
needs_root = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="needs to mount a small disk"
)


@dataclass(frozen=True)
class Job:
    """A run, and the plan that it is of."""

    run: Run
    plan: Plan

    @property
    def output(self) -> Path:
        return self.run.output


class Outcome(NamedTuple):
    kind: str
    sentence: str = ""
    hopeless: bool = False


def make_job(project: Path, *cells: str, name: str = "one", **changes: Any) -> Job:
    """A run of a new notebook in a project; without cells, of one that must not be run."""
    notebook = project / f"{name} notebook" / TITLE
    if cells:
        notebook.parent.mkdir()
        write_notebook(notebook, *cells, parameters=PARAMETERS)
    key = hashlib.sha256(name.encode()).hexdigest()
    run = Run(name, project / "runs" / name, {}, {}, key)
    plan = Plan(project / "it.yaml", project, notebook, project / "runs", (), (), None)
    of_plan = {each: changes.pop(each) for each in ("timeout", "version") if each in changes}
    return Job(replace(run, **changes), replace(plan, **of_plan))


def execute(job: Job, threads: int, **options: Any) -> Outcome:
    ended = execute_module.execute(job.run, job.plan, threads, **options)
    return Outcome(ended.kind, ended.sentence, ended.hopeless)


def listing(folder: Path) -> list[str]:
    """What is in a folder, but for the batch's own."""
    return sorted(path.name for path in folder.iterdir() if path.name != STATE_FOLDER)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): path.read_bytes() for path in files if STATE_FOLDER not in path.parts}


def wait_until(true: Callable[[], object], seconds: float = PATIENCE) -> bool:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def pids(folder: Path) -> list[int]:
    """Of the kernel and the process that started it, as the notebook noted them."""
    return [int(pid) for pid in (folder / "pids").read_text().split()]


def is_alive(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def all_ended(folder: Path, seconds: float = 5) -> bool:
    return wait_until(lambda: not any(map(is_alive, pids(folder))), seconds)


def kept_notebook(state: Record) -> list[str]:
    """The code in a run's notebook, without the cell that papermill adds."""
    path = state.file(state.notebook)
    assert path is not None
    cells = nbformat.read(path, as_version=4).cells
    sources = [cell.source for cell in cells if cell.cell_type == "code"]
    return [source for source in sources if not source.startswith("# Parameters")]


# --- what becomes of a run, with true kernels --------------------------------------------


@dataclass(frozen=True)
class Ended:
    """An attempt that has ended, and what it left."""

    job: Job
    outcome: Outcome

    @property
    def state(self) -> Record:
        return read_state(self.job.run)

    @property
    def work(self) -> Path:
        return self.job.run.work

    @property
    def output(self) -> Path:
        return self.job.output


CASES: dict[str, list[str]] = {
    "good": [START, END],
    "raises": [START, "raise KeyError('x')", END],
    "unusable": [START, "from workbench.errors import *; raise InputError('It is no picture.')"],
    "full": [START, "from workbench.errors import *; raise OutputError('It is full.')"],
    "file too large": [
        START,
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "from workbench.files import write_bytes; write_bytes(folder / 'a.bin', bytes(100_000))",
    ],
    "kernel ends": [START, "os._exit(7)"],
    "kernel killed": [START, "os.kill(os.getpid(), 9)"],
    "memory": [
        START,
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))\n"
        "bytearray(8 << 30)",
    ],
    "process killed": [START, "os.kill(os.getppid(), 9); time.sleep(1000)"],
    "hangs": [START, HANG, END],
    "no result": [START],
    "changed": [START, "Path('style.txt').write_text('another')", END],
}
CHANGES: dict[str, dict[str, Any]] = {
    "good": {"parameters": {"answer": 7, "steps": [2, 3], "style": "a 'b' ü.png"}},
    "hangs": {"timeout": 12.0},
    "changed": {"parameters": {"style": "style.txt"}},
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    (folder / "style.txt").write_text("as it was")
    return folder


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    """Where the processes of all runs put their temporary files."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        for name, variable in (("temporary", "TMPDIR"), ("jupyter", "JUPYTER_RUNTIME_DIR")):
            Path(folder, name).mkdir()
            patch.setenv(variable, str(Path(folder, name)))
        yield Path(folder)


@pytest.fixture(scope="module")
def ended(project: Path, scratch: Path) -> Iterator[Callable[[str], Ended]]:
    """All cases, a few of which run at the same time."""
    jobs = {
        name: make_job(project, *cells, name=name, **CHANGES.get(name, {}))
        for name, cells in CASES.items()
    }
    inputs = {"style.txt": digest(project / "style.txt")}
    jobs["changed"] = replace(jobs["changed"], run=replace(jobs["changed"].run, inputs=inputs))
    with ThreadPoolExecutor(4) as pool:
        names = sorted(jobs, key=lambda name: name != "hangs")  # it takes longest
        futures = {name: pool.submit(execute, jobs[name], 3) for name in names}
        yield lambda name: Ended(jobs[name], futures[name].result(PATIENCE))


@pytest.mark.slow
def test_good_run_is_in_its_place_with_all_that_belongs_to_it(
    ended: Callable[[str], Ended],
) -> None:
    run = ended("good")
    assert run.outcome == Outcome("done")
    expected = ["batch.json", "index.html", TITLE, "part-0", "picture.png", "pids", "result.json"]
    assert listing(run.output) == [*expected, record.THUMBNAIL]
    assert not run.work.exists()
    state = run.state
    assert (state.kind, state.attempts, state.seconds) == ("done", 1, 1.5)
    assert (state.host, state.figures) == (socket.gethostname(), {"parts": 0, "threads": 33})
    assert state.file(state.notebook) == run.output / TITLE
    assert state.file(state.shown) == run.output / "picture.png"
    with Image.open(run.output / record.THUMBNAIL) as thumbnail:
        assert (thumbnail.format, thumbnail.size) == ("WEBP", (267, 200))
    assert all_ended(run.output)


@pytest.mark.slow
def test_notebook_is_told_its_parameters_and_runs_in_the_project(
    ended: Callable[[str], Ended], project: Path
) -> None:
    run = ended("good")
    settings = json.loads((run.output / "result.json").read_text())["settings"]
    assert settings == {
        "answer": 7,
        "steps": [2, 3],
        "style": "a 'b' ü.png",
        "output_dir": f"runs/{run.work.name}",
        "folder": str(project),
    }
    assert kept_notebook(run.state) == [PARAMETERS, START, END]


FAILURES = {
    "raises": "KeyError: 'x'.",
    "unusable": "It is no picture.",
    "full": "It is full.",
    "file too large": "file too large; free some space and run it again.",
    "kernel ends": "a cell ended the notebook's kernel (exit code 7).",
    "kernel killed": "most likely because memory ran out",
    "memory": "the notebook needs more memory than there is; try a smaller size.",
    "process killed": "the process of this run was ended by SIGKILL.",
    "hangs": "it took longer than 12 s, its timeout; allow more, or ask for less.",
    "no result": "the notebook ended, but left no valid result: ",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAILURES)
def test_failed_run_says_why_and_leaves_no_process(
    name: str, ended: Callable[[str], Ended]
) -> None:
    run = ended(name)
    assert run.outcome.kind == "failed"
    assert FAILURES[name] in run.outcome.sentence
    assert "\n" not in run.outcome.sentence
    assert run.outcome.hopeless == (name == "unusable")
    state = run.state
    assert (state.kind, state.sentence) == ("failed", run.outcome.sentence)
    assert (state.attempts, state.host) == (1, socket.gethostname())
    assert state.seconds is not None
    assert 0 < state.seconds < PATIENCE
    assert not run.output.exists()
    assert (run.work / "part-0").is_file()
    assert all_ended(run.work)
    assert not is_claimed(run.job.run)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FAILURES if name != "no result"])
def test_notebook_of_a_failed_run_is_kept_as_far_as_it_came(
    name: str, ended: Callable[[str], Ended]
) -> None:
    run = ended(name)
    assert kept_notebook(run.state) == [PARAMETERS, *CASES[name]]
    assert not running_notebook(run.work / TITLE).exists()
    assert not (run.work / TITLE).exists()


@pytest.mark.slow
def test_notebook_that_ended_without_a_result_is_shown(ended: Callable[[str], Ended]) -> None:
    assert kept_notebook(ended("no result").state) == [PARAMETERS, START]


@pytest.mark.slow
def test_input_that_changed_meanwhile_is_named(ended: Callable[[str], Ended]) -> None:
    run = ended("changed")
    sentence = "style.txt changed while it ran; the same command runs it again."
    assert run.outcome == Outcome("changed", sentence)
    state = run.state
    assert (state.kind, state.sentence) == ("changed", sentence)
    assert state.shown == "picture.png"
    assert not run.work.exists()


@pytest.mark.slow
def test_runs_that_were_ended_leave_no_temporary_files(
    ended: Callable[[str], Ended], scratch: Path
) -> None:
    for name in CASES:
        ended(name)
    left = [listing(scratch / name) for name in ("temporary", "jupyter")]
    assert left == [[], []]


@pytest.mark.slow
def test_run_that_was_stopped_or_failed_goes_on_where_it_was(tmp_path: Path) -> None:
    unlucky = "if not parts:\n    time.sleep(1000)\nassert parts > 1"
    job = make_job(tmp_path, START, unlucky, END)
    work = job.run.work
    outcome = execute(job, 1, released=(work / "pids").exists)
    assert outcome == Outcome("failed", "it was stopped.")
    assert all_ended(work)
    assert read_state(job.run) == Record(attempts=1)
    assert execute(job, 1).sentence == "AssertionError: no message."
    assert read_state(job.run).attempts == 2
    assert execute(job, 1) == Outcome("done")
    state = read_state(job.run)
    assert (state.kind, state.attempts, state.figures["parts"]) == ("done", 3, 2)
    assert listing(tmp_path / "runs") == ["one"]
    assert "paint.failed.ipynb" not in listing(job.output)
    assert not [name for name in listing(job.output) if name.startswith(".")]


@pytest.mark.slow
def test_stage_is_seen_while_it_runs(tmp_path: Path) -> None:
    bar = (
        "from tqdm import tqdm\nfor _ in tqdm(range(4), desc='painting', ascii=False):\n"
        "    time.sleep(0.3)"
    )
    job = make_job(tmp_path, START, bar, END)
    seen: set[str] = set()

    def look() -> bool:
        state = read_state(job.run)
        if state.kind == "running":
            seen.add(state.stage)
        return False

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(execute, job, 1)
        assert wait_until(lambda: look() or future.done())
    assert future.result() == Outcome("done")
    assert any(stage.startswith("cell 4 of 5, painting ") for stage in seen), seen
    assert read_state(job.run).stage == ""


@pytest.fixture(scope="module")
def two_at_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, list[Outcome]]:
    project = tmp_path_factory.mktemp("two")
    count = "with open('count.txt', 'a') as file:\n    file.write('x')"
    job = make_job(project, START, count, END)
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(execute, job, 1) for _ in range(2)]
        return job, [future.result(PATIENCE) for future in futures]


@pytest.mark.slow
def test_two_at_once_run_the_notebook_once(two_at_once: tuple[Job, list[Outcome]]) -> None:
    job, outcomes = two_at_once
    assert Path(job.plan.project, "count.txt").read_text() == "x"
    assert Outcome("done") in outcomes
    assert read_state(job.run).kind == "done"
    assert listing(job.output.parent) == ["one"]


@pytest.mark.slow
def test_two_at_once_are_both_told_that_it_is_done(
    two_at_once: tuple[Job, list[Outcome]],
) -> None:
    assert two_at_once[1] == [Outcome("done")] * 2


WORKER = """\
import pickle, sys
from workbench.batch.execute import execute

execute(*pickle.loads(bytes.fromhex(sys.argv[1])), 1)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
@pytest.mark.parametrize("cell", [HANG, "while True:\n    pass"], ids=["asleep", "busy"])
def test_run_dies_with_its_worker(cell: str, tmp_path: Path) -> None:
    job = make_job(tmp_path, START, cell)
    work = job.run.work
    told = pickle.dumps((job.run, job.plan)).hex()
    worker = subprocess.Popen([sys.executable, "-c", WORKER, told])
    try:
        assert wait_until((work / "pids").exists)
        assert is_claimed(job.run)
        assert read_state(job.run).kind == "running"
        assert all(map(is_alive, pids(work)))
    finally:
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    assert all_ended(work)
    assert wait_until(lambda: not is_claimed(job.run), 5)  # once its last thread is gone
    assert read_state(job.run) == Record(attempts=1)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder in which two megabytes can be written."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
@needs_root
def test_full_disk_is_said_and_costs_no_finished_run(small_disk: Path) -> None:
    fill = (
        "file = (kept / 'a.bin').open('wb', buffering=0)\nwhile True:\n    file.write(bytes(9999))"
    )
    job = make_job(small_disk, START, fill, END)
    earlier = make_job(small_disk, name="earlier")
    finished(earlier.output, earlier)
    before = contents(earlier.output)
    outcome = execute(job, 1)
    assert outcome.kind == "failed"
    assert "no space left on device" in outcome.sentence.lower()
    assert outcome.sentence.count(".") < 4
    assert not outcome.hopeless
    assert read_state(job.run).kind in ("failed", "waiting")  # it may not be possible to note it
    assert contents(earlier.output) == before
    assert read_state(earlier.run).kind == "done"


# --- what needs no kernel ----------------------------------------------------------------


def make_record(job: Job, kind: record.Kind, **changes: Any) -> Record:
    key, output = job.run.key, job.run.output.name
    return replace(Record(kind, host="there", key=key, output=output, notebook=TITLE), **changes)


def finished(folder: Path, job: Job, kind: record.Kind = "done", **changes: Any) -> Path:
    """Write what a run leaves that has ended."""
    folder.mkdir(parents=True)
    (folder / "picture.png").write_bytes(b"the picture")
    (folder / TITLE).touch()
    outputs = {"picture": folder / "picture.png"}
    finish_run(folder, outputs=outputs, figures={}, settings={}, weights={}, seconds=7)
    write_record(folder, make_record(job, kind, attempts=3, shown="picture.png", **changes))
    return folder


@pytest.mark.parametrize("kind", ["done", "changed"])
def test_run_that_was_killed_before_it_was_moved_is_moved(
    kind: record.Kind, tmp_path: Path
) -> None:
    job = make_job(tmp_path)
    finished(job.run.work, job, kind, sentence="a remark")
    older = make_job(tmp_path, key="0" * 64)
    finished(job.output, older)
    assert execute(job, 1) == Outcome(kind, "a remark")
    assert listing(tmp_path / "runs") == ["one"]
    state = read_state(job.run)
    assert (state.kind, state.attempts, state.host) == (kind, 3, "there")


def test_run_that_was_killed_between_the_moves_is_mended(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    finished(job.run.work, job)
    finished(tmp_path / "runs" / ".old-one", make_job(tmp_path, key="0" * 64))
    assert execute(job, 1) == Outcome("done")
    assert listing(tmp_path / "runs") == ["one"]
    assert read_state(job.run).kind == "done"


def leave(job: Job, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], object]) -> Record:
    """How a run ends whose notebook leaves a result with a damage."""

    def run_notebook(*_: object, **__: object) -> None:
        Image.new("RGB", (8, 8)).save(job.run.work / "picture.png")
        outputs = {"picture": job.run.work / "picture.png"}
        finish_run(job.run.work, outputs=outputs, figures={}, settings={}, weights={}, seconds=7)
        damage(job.run.work)

    monkeypatch.setattr(execute_module, "run_notebook", run_notebook)
    return execute_module._make(job.run, job.plan)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda work: (work / "result.json").write_text('{"outputs": 1'), "result.json is damaged"),
        (lambda work: (work / "picture.png").unlink(), "picture.png, is gone"),
    ],
)
def test_damaged_result_is_a_failure(
    damage: Callable[[Path], object],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = make_job(tmp_path)
    outcome = leave(job, monkeypatch, damage)
    assert (outcome.kind, outcome.hopeless) == ("failed", False)
    assert sentence in outcome.sentence
    assert "\n" not in outcome.sentence
    state = read_state(job.run)
    assert (state.kind, state.sentence) == ("failed", outcome.sentence)
    assert (state.attempts, state.host) == (1, socket.gethostname())
    assert not job.output.exists()
    assert not is_claimed(job.run)


def test_picture_that_cannot_be_read_costs_the_thumbnail_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(tmp_path)
    ended = leave(job, monkeypatch, lambda work: (work / "picture.png").write_bytes(b"no picture"))
    assert ended.kind == "done"
    state = read_state(job.run)
    assert state.file(record.THUMBNAIL) is None
    assert state.shown == "picture.png"


def test_run_that_somebody_else_has_finished_is_left_alone(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    finished(job.output, job)
    before = contents(tmp_path)
    assert execute(job, 1) == Outcome("done")
    assert contents(tmp_path) == before
    assert listing(tmp_path / "runs") == ["one"]


@pytest.mark.parametrize("name", ["picture.png", "thesis.txt"])
def test_what_is_in_the_way_is_not_touched(name: str, tmp_path: Path) -> None:
    job = make_job(tmp_path)
    job.output.mkdir(parents=True)
    (job.output / name).write_text("long work")
    before = contents(job.output)
    outcome = execute(job, 1)
    assert outcome.kind == "failed"
    assert str(job.output) in outcome.sentence
    assert "move it away" in outcome.sentence
    assert contents(job.output) == before


def test_file_in_the_place_of_the_folder_above_is_one_sentence(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    (tmp_path / "runs").write_text("long work")
    outcome = execute(job, 1)
    assert outcome.kind == "failed"
    assert str(tmp_path / "runs") in outcome.sentence
    assert "\n" not in outcome.sentence
    assert (tmp_path / "runs").read_text() == "long work"


@needs_root
@pytest.mark.skipif(sys.platform != "linux", reason="mounts a disk")
def test_place_that_cannot_be_written_is_named_and_costs_no_finished_run(small_disk: Path) -> None:
    job = make_job(small_disk)
    earlier = make_job(small_disk, name="earlier")
    finished(earlier.output, earlier)
    before = contents(small_disk)
    remount = ["mount", "-o", "remount,ro", str(small_disk)]
    subprocess.run(remount, check=True)
    outcome = execute(job, 1)
    assert outcome.kind == "failed"
    assert str(small_disk / "runs") in outcome.sentence
    assert "read-only file system" in outcome.sentence.lower()
    assert not outcome.hopeless
    assert contents(small_disk) == before
    assert read_state(earlier.run).kind == "done"


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_permission_is_one_sentence(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    tmp_path.chmod(0o500)
    try:
        outcome = execute(job, 1)
    finally:
        tmp_path.chmod(0o700)
    assert outcome.kind == "failed"
    assert "permission denied" in outcome.sentence.lower()


def test_machine_without_the_project_is_named(tmp_path: Path) -> None:
    outcome = execute(make_job(tmp_path / "elsewhere"), 1)
    assert outcome.kind == "failed"
    assert f"{socket.gethostname()} has no folder {tmp_path / 'elsewhere'}" in outcome.sentence
    assert not outcome.hopeless  # another machine may have it
    assert listing(tmp_path) == []


def test_worker_with_another_workbench_says_so(tmp_path: Path) -> None:
    outcome = execute(make_job(tmp_path, version="0.0.1"), 1)
    sentence = f"{socket.gethostname()} has version {workbench.__version__} of the workbench, and"
    assert outcome.sentence.startswith(f"{sentence} the batch was planned by 0.0.1; install")
    assert outcome.hopeless
    assert not listing(tmp_path)


def test_process_that_cannot_begin_is_said_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\ncat > /dev/null &\nread line\necho no such module\nexit 5\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    outcome = execute(make_job(tmp_path), 1)
    sentence = "the process of this run ended with code 5 (no such module)."
    assert outcome == Outcome("failed", sentence)


def test_process_that_ends_before_it_is_told_anything_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho no such module\nexit 5\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    job = make_job(tmp_path, parameters={"style": "x" * 1_000_000})  # more than a pipe holds
    assert "no such module" in execute(job, 1).sentence


def test_who_waited_in_vain_does_not_meddle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(tmp_path)
    work = job.run.work
    work.mkdir(parents=True)
    write_record(work, make_record(job, "running", attempts=1, stage="cell 2 of 3"))
    running_notebook(work / TITLE).write_text("{}")
    monkeypatch.setattr(execute_module, "claim", lambda run, seconds: claim(run, 0.1))
    with claim(job.run, 0):
        before = contents(tmp_path)
        outcome = execute_module._make(job.run, job.plan)
        assert read_state(job.run).kind == "running"
    assert outcome.sentence == f"{job.run.output} is being made by another process."
    assert contents(tmp_path) == before


def test_failure_is_written_down_where_the_notebook_is(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    work = job.run.work
    work.mkdir(parents=True)
    kept = make_record(job, "running", attempts=2, stage="cell 2 of 3")
    write_record(work, kept)
    running_notebook(work / TITLE).write_text("{}")
    outcome = execute_module._note_failure(job.run, "It is full.", 1.23456)
    assert outcome == Record("failed", "It is full.")
    failed = replace(kept, kind="failed", sentence="It is full.", seconds=1.235)
    assert read_record(work) == replace(failed, folder=work)
    state = read_state(job.run)
    assert state.file(state.notebook) == work / "paint.failed.ipynb"
    assert state.sentence == "It is full."


def test_failure_of_a_run_that_left_nothing_is_not_written_down(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    failed = Record("failed", "It is full.")
    assert execute_module._note_failure(job.run, "It is full.", 1) == failed
    assert listing(tmp_path / "runs") == []


# --- thumbnails --------------------------------------------------------------------------


def write_film(path: Path, size: tuple[int, int] = (640, 480)) -> Path:
    with av.open(str(path), "w") as film:
        stream = film.add_stream("libx264", rate=5)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        picture = np.full((size[1], size[0], 3), (200, 30, 30), np.uint8)
        for _ in range(3):
            film.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        film.mux(stream.encode())
    return path


def write_picture(path: Path, mode: str = "RGB", size: tuple[int, int] = (640, 480)) -> Path:
    picture = Image.new("RGB", size, (200, 30, 30)).convert(mode)
    frames = {"save_all": True, "append_images": [Image.new(mode, size)]}
    picture.save(path, **(frames if path.suffix == ".gif" else {}))
    return path


def red(path: Path) -> bool:
    with Image.open(path) as picture:
        assert picture.format == "WEBP"
        r, g, b = picture.convert("RGB").resize((1, 1)).getpixel((0, 0))  # type: ignore[misc]
    return r > 170 and g < 70 and b < 70


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.gif", "a.PNG"])
def test_thumbnail_of_a_picture(name: str, tmp_path: Path) -> None:
    save_thumbnail(write_picture(tmp_path / name), tmp_path / "t.webp")
    assert red(tmp_path / "t.webp")
    with Image.open(tmp_path / "t.webp") as thumbnail:
        assert thumbnail.size == (267, 200)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "LA", "1", "I;16"])
def test_thumbnail_of_any_mode(mode: str, tmp_path: Path) -> None:
    if mode == "I;16":
        picture = Image.fromarray(np.full((48, 64), 40_000, np.uint16))
        picture.save(tmp_path / "a.png")
    else:
        write_picture(tmp_path / "a.png", mode)
    save_thumbnail(tmp_path / "a.png", tmp_path / "t.webp")
    assert (tmp_path / "t.webp").is_file()


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "MP4"])
def test_thumbnail_of_a_film(suffix: str, tmp_path: Path) -> None:
    film = write_film(tmp_path / f"a.{suffix.lower()}").rename(tmp_path / f"a.{suffix}")
    save_thumbnail(film, tmp_path / "t.webp")
    assert red(tmp_path / "t.webp")


@pytest.mark.parametrize(
    ("size", "small"),
    [((1, 1), (1, 1)), ((100, 50), (100, 50)), ((4000, 20), (320, 2)), ((20, 4000), (1, 200))],
)
def test_thumbnail_keeps_the_shape(
    size: tuple[int, int], small: tuple[int, int], tmp_path: Path
) -> None:
    save_thumbnail(write_picture(tmp_path / "a.png", size=size), tmp_path / "t.webp")
    with Image.open(tmp_path / "t.webp") as thumbnail:
        assert thumbnail.size == small


def write_sound(path: Path) -> None:
    with av.open(str(path), "w") as film:
        stream = film.add_stream("aac", rate=48000)
        sound = av.AudioFrame.from_ndarray(
            np.zeros((1, 48000), np.float32), format="fltp", layout="mono"
        )
        sound.rate = 48000
        film.mux(stream.encode(sound))
        film.mux(stream.encode())


def write_broken_chunk(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (400, 400, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    data = path.read_bytes()
    place = data.rindex(b"IDAT")
    path.write_bytes(data[:place] + b"\xbbf\x02\x87" + data[place + 4 :])


def write_unknown_codec(path: Path) -> None:
    path.write_bytes(write_film(path).read_bytes().replace(b"avc1", b"zzz1"))


UNSHOWABLE: dict[str, tuple[str, Callable[[Path], object]]] = {
    "none": ("a.png", lambda path: None),
    "a folder": ("a.png", Path.mkdir),
    "empty picture": ("a.png", Path.touch),
    "empty film": ("a.mp4", Path.touch),
    "text as picture": ("a.png", lambda path: path.write_text("no picture")),
    "text as film": ("a.mp4", lambda path: path.write_text("no film")),
    "cut picture": (
        "a.png",
        lambda path: path.write_bytes(write_picture(path).read_bytes()[:200]),
    ),
    "cut film": ("a.mp4", lambda path: path.write_bytes(write_film(path).read_bytes()[:700])),
    "another suffix": ("a.csv", lambda path: path.write_text("1,2")),
}
RAISES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "film of sound only": ("a.mp4", write_sound),
    "broken chunk": ("a.png", write_broken_chunk),
    "film in an unknown codec": ("a.mp4", write_unknown_codec),
}


@pytest.mark.parametrize(
    "case",
    [*UNSHOWABLE.values(), *RAISES.values()],
    ids=[*UNSHOWABLE, *RAISES],
)
def test_what_cannot_be_shown_has_no_thumbnail(
    case: tuple[str, Callable[[Path], object]], tmp_path: Path
) -> None:
    name, write = case
    write(tmp_path / name)
    (tmp_path / "t.webp").touch()  # of an earlier attempt
    save_thumbnail(tmp_path / name, tmp_path / "t.webp")
    assert not (tmp_path / "t.webp").exists()


def test_film_that_is_cut_anywhere_is_no_failure(tmp_path: Path) -> None:
    data = write_film(tmp_path / "a.mp4").read_bytes()
    for end in range(0, len(data), 50):
        (tmp_path / "a.mp4").write_bytes(data[:end])
        save_thumbnail(tmp_path / "a.mp4", tmp_path / "t.webp")
        if (tmp_path / "t.webp").exists():
            Image.open(tmp_path / "t.webp").verify()


def test_picture_that_needs_a_program_to_be_read_starts_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[object] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *words, **_: started.append(words))
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", "EPS")
    save_thumbnail(tmp_path / "a.png", tmp_path / "t.webp")
    assert not started
    assert not (tmp_path / "t.webp").exists()


def test_picture_that_pillow_finds_too_large_costs_the_thumbnail_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_picture(tmp_path / "sheet.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # as 180 million are by default
    save_thumbnail(tmp_path / "sheet.png", tmp_path / "t.webp")
    assert not (tmp_path / "t.webp").exists()


@pytest.mark.parametrize(
    ("outputs", "path"),
    [
        ({}, ""),
        ({"table": "a.csv"}, ""),
        ({"picture": "a.png"}, "a.png"),
        ({"other": "b.png", "picture": "a.png"}, "a.png"),
        ({"sheet": "s.png", "film": "f.mp4", "picture": "a.png"}, "a.png"),
        ({"sheet": "s.png", "film": "f.mp4"}, "f.mp4"),
        ({"gif": "g.gif", "sheet": "s.png"}, "s.png"),
        ({"still": "a.png", "gif": "g.gif"}, "g.gif"),
        ({"still": "a.png", "clip": "deep/c.MP4"}, "deep/c.MP4"),
        ({"first": "1.png", "second": "2.png"}, "1.png"),
        ({"content": "c.png", "style": "s.png", "result": "r.JPG"}, "r.JPG"),
        ({"style 1": "1.png", "style_2": "2.png", "style-3": "3.png", "style4": "4.png"}, ""),
        ({"styled": "a.png"}, "a.png"),
        ({"inputs": "in.mp4", "made": "m.webp"}, "m.webp"),
        ({"content": "c.mp4", "made": "m.png"}, "m.png"),
        ({"made": "png"}, ""),
    ],
)
def test_output_that_stands_for_a_run(outputs: dict[str, str], path: str) -> None:
    assert shown(outputs) == path


# --- where a notebook is -----------------------------------------------------------------


class Clock:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(execute_module, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


BARS = [
    ("painting:  25%|███      | 12/48 [00:03<00:09,  4.0step/s]", "painting 12/48"),
    ("\rpainting:  25%|###5     | 12/48 [00:03<00:09,  4.0step/s]", "painting 12/48"),
    ("\r 50%|█████     | 1/2 [00:00<?, ?it/s]", "1/2"),
    ("\r100%|██████████| 2/2 [00:00<00:00, 15.38it/s]\n", "2/2"),
    ("\rreading:  25%|██▌       | 12.0k/48.0k [00:00<00:00, 7.2MB/s]", "reading 12.0k/48.0k"),
    ("\rreading:   0%|          | 0.00/1.23G [00:00<?, ?B/s]", "reading 0.00/1.23G"),
    ("\ra  0%|          | 0/3 [00:00<?, ?it/s]\ra 33%|███▎      | 1/3 [00:01]", "a 1/3"),
    ("\router:   0%| | 0/2 [00:00<?]\n\rinner:  50%|█| 1/2 [00:00<?]\x1b[A", "inner 1/2"),
    ("\rkeep 50%:  25%|██▌       | 12/48 [00:00<?, ?it/s]", "keep 50% 12/48"),
    ("\ra|b:  25%|██▌       | 12/48 [00:00<?, ?it/s]", "b 12/48"),
    ("\r絵 ünï: 3 of 4:   5%|▌         | 1/20 [00:00<?]", "絵 ünï: 3 of 4 1/20"),
    ("\rgreen:  50%|\x1b[32m█████     \x1b[0m| 1/2 [00:00<?, ?it/s]", "green 1/2"),
    ("loss 3.5\n\rpainting:  25%|██▌| 12/48 [00:03<00:09]\nmore\n", "painting 12/48"),
]


@pytest.mark.parametrize(("text", "told"), BARS)
def test_last_progress_bar_is_told(text: str, told: str, clock: Clock) -> None:
    tells: list[str] = []
    stage = _Stage(tells.append)
    stage.enter(5, 9)
    clock.now += 1
    assert stage.write(text) == len(text)
    assert tells == ["cell 5 of 9", f"cell 5 of 9, {told}"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "step 12/48",
        "50% of 12/48 | done",
        "| a | 12/48 |\n|---|-------|",
        "12it [00:03,  4.0it/s]",
        "100%",
    ],
)
def test_other_text_tells_nothing(text: str, clock: Clock) -> None:
    tells: list[str] = []
    stage = _Stage(tells.append)
    clock.now += 1
    assert stage.write(text) == len(text)
    assert tells == []


def test_progress_is_told_twice_a_second_at_most_and_each_cell_at_once(clock: Clock) -> None:
    tells: list[str] = []
    stage = _Stage(tells.append)
    stage.enter(1, 2)
    for step in range(20):
        clock.now += 0.2
        stage.write(f"\rpainting:  {5 * step}%|█ | {step}/20 [00:03<00:09]")
    assert 4 <= len(tells) <= 9
    assert tells[1] == "cell 1 of 2, painting 2/20"
    stage.enter(2, 2)
    assert tells[-1] == "cell 2 of 2"


def test_stage_that_cannot_be_written_down_is_no_failure() -> None:
    def full(text: str) -> None:
        raise execute_module.OutputError("It is full.")

    _Stage(full).enter(1, 2)


@pytest.mark.parametrize(
    "text", ["x" * 4_000, " " * 500, "1" * 800, "12 " * 1_000], ids=lambda text: text[:3]
)
def test_long_line_is_looked_through_at_once(text: str) -> None:
    began = time.process_time()
    _Stage(lambda text: None).write(text)
    assert time.process_time() - began < 2  # it takes none; going back and forth, for ever
