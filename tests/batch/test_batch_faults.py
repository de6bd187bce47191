"""What a batch survives: each test runs the real command, in processes of its own."""

from __future__ import annotations

import csv
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import yaml
from test_notebook import write_notebook

pytestmark = pytest.mark.slow

PATIENCE = 60.0  # seconds until a test gives up; nothing takes so long on its own
PARTS = 3
PARAMETERS = """\
number: int = 0
weight: int = 0
output_dir: str = "runs/alone"
"""
# Its working folder is the project's: `log.txt` in there says what was really made, how often.
# A run waits for its second part as long as there is a file `hold-NUMBER`.
START = """\
import os, time
from pathlib import Path
import psutil
from PIL import Image
from workbench.files import write_bytes
from workbench.runs import finish_run, start_run

def log(*words):
    worker = psutil.Process(os.getppid()).ppid()
    with open("log.txt", "a") as file:
        file.write(" ".join(map(str, (number, time.time(), worker, *words))) + "\\n")

out = start_run(output_dir)
kept = out.parent  # where the next attempt finds it
log("starts")
"""
WORK = f"""\
for part in range({PARTS}):
    path = kept / f"part-{{part}}.png"
    while part and Path(f"hold-{{number}}").exists():
        time.sleep(0.02)
    if not path.exists():
        if weight:
            write_bytes(kept / f"part-{{part}}.bin", bytes(weight))
        beside = kept / "beside.png"
        Image.new("RGB", (16, 9), (number, part, 99)).save(beside)
        beside.replace(path)
        log("makes", part)
"""
END = f"""\
picture = Image.new("RGB", (16, 9 * {PARTS}))
for part in range({PARTS}):
    picture.paste(Image.open(kept / f"part-{{part}}.png"), (0, 9 * part))
picture.save(out / "picture.png")
finish_run(
    out, outputs={{"picture": out / "picture.png"}}, figures={{"twice": 2 * number}},
    settings={{"number": number}}, weights={{}}, seconds=1.0,
)
log("ends")
"""


# --- a project with a batch in it --------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def _temporary() -> Iterator[None]:
    """Where what is killed leaves its temporary files; sockets need a short path."""
    temporary = tempfile.TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True)
    with temporary as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", folder)
        yield


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A project with the notebook; whatever still runs in it is ended afterwards."""
    make_project(tmp_path)
    yield tmp_path
    end(tmp_path)


def make_project(folder: Path) -> None:
    write_notebook(folder / "work.ipynb", START, WORK, END, parameters=PARAMETERS)


def write_batch(folder: Path, runs: object, **more: object) -> None:
    batch: dict[str, object] = {"notebook": "work.ipynb", "output": "runs/it/{number}"}
    if isinstance(runs, int):
        batch["grid"] = {"number": list(range(1, runs + 1))}
    else:
        batch["include"] = runs
    (folder / "it.yaml").write_text(yaml.safe_dump(batch | more))


class Batch:
    """`workbench batch it.yaml` in the background, in a session of its own as in a terminal."""

    def __init__(self, folder: Path, *options: str) -> None:
        self._out, self._err = folder / "stdout.txt", folder / "stderr.txt"
        with self._out.open("w") as out, self._err.open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "workbench", "batch", "it.yaml", *options],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    @property
    def printed(self) -> str:
        return self._out.read_text()

    @property
    def said(self) -> str:
        return self._err.read_text()

    @property
    def lines(self) -> list[str]:
        """What is said on stderr, but for Dask's address and runs that are done."""
        lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[\d;]*[A-Za-z]", "", self.said))
        noise = re.compile(r"Dask's dashboard: |: done, \d+ of \d+$|waiting for Dask workers")
        return [line for line in lines if line.strip() and not noise.search(line)]

    def wait(self, code: int | None, seconds: float = PATIENCE) -> Batch:
        ended = self.process.wait(seconds)
        assert "Traceback" not in self.said, self.said
        assert code in (ended, None), f"exit code {ended}\n{self.printed}\n{self.said}"
        return self


def run(folder: Path, *options: str, code: int | None = 0) -> Batch:
    return Batch(folder, *options).wait(code)


def until(condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> float:
    """Wait for something; how long it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"not within {seconds:g} s: {what}"
        time.sleep(0.05)
    return time.monotonic() - began


def log(folder: Path, words: str, number: int | None = None) -> list[int]:
    """Numbers of the runs that did something, in the order in which they did it."""
    path = folder / "log.txt"
    rows = (
        [line.split(maxsplit=3) for line in path.read_text().splitlines()] if path.exists() else []
    )
    return [int(row[0]) for row in rows if row[3] == words and number in (None, int(row[0]))]


def starts(folder: Path) -> list[int]:
    return log(folder, "starts")


def assert_parts_made_once(folder: Path, runs: int) -> None:
    for part in range(PARTS):
        assert sorted(log(folder, f"makes {part}")) == list(range(1, runs + 1))


def at_second_part(folder: Path, number: int) -> Callable[[], bool]:
    """Whether a run that is held has made its first part."""
    return lambda: number in log(folder, "makes 0")


def processes(folder: Path) -> list[psutil.Process]:
    """What runs in a folder or has to do with it."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            told = [process.cwd(), *process.cmdline()]
            if process.pid != os.getpid() and any(str(folder) in word for word in told):
                found.append(process)
    return found


def assert_nothing_runs(folder: Path, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while left := processes(folder):
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.1)


def end(folder: Path) -> None:
    for process in processes(folder):
        with suppress(psutil.Error):
            process.kill()


def results(folder: Path) -> dict[str, bytes]:
    """All that the finished runs made, but for what says when and where."""
    found = (folder / "runs/it").glob("[0-9]*/*")
    wanted = (".png", ".webp", "result.json")
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in found
        if path.name.endswith(wanted)
    }


def stamps(folder: Path, number: int) -> dict[str, int]:
    made = (folder / f"runs/it/{number}").iterdir()
    return {path.name: path.stat().st_mtime_ns for path in made}


def summary(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "runs/it/summary.csv").open(newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def kinds(folder: Path) -> dict[str, str]:
    return {name: row["state"] for name, row in summary(folder).items()}


def assert_tidy(folder: Path) -> None:
    """Nothing of unfinished runs is left, and nothing unfinished in the others."""
    hidden = {path.name for path in (folder / "runs/it").iterdir() if path.name[0] == "."}
    assert hidden == {".batch"}
    for made in (folder / "runs/it").glob("[0-9]*"):
        assert not [path for path in made.iterdir() if path.name[0] == "." or "failed" in path.name]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Batch]:
    """Two runs that nothing happens to, beside somebody's dashboard."""
    folder = tmp_path_factory.mktemp("undisturbed")
    make_project(folder)
    write_batch(folder, 2)
    with socket.socket() as dashboard:
        with suppress(OSError):  # somebody has one
            dashboard.bind(("127.0.0.1", 8787))
            dashboard.listen()
        try:
            batch = run(folder)
            assert_nothing_runs(folder)
        finally:
            end(folder)
    return folder, batch


def test_nothing_to_tell_of_runs_that_end_well(undisturbed: tuple[Path, Batch]) -> None:
    folder, batch = undisturbed
    assert batch.lines == []
    assert batch.printed.startswith("2 runs, 0 done already.\n")
    assert "2 done: " in batch.printed
    assert_parts_made_once(folder, 2)
    assert_tidy(folder)


def test_another_dashboard_on_this_machine_needs_no_words(
    undisturbed: tuple[Path, Batch],
) -> None:
    said = undisturbed[1].said
    assert re.sub(r"[0-9.]+ s", "", said).splitlines()[1:] == ["1: done, 1 of 2", "2: done, 2 of 2"]
    assert said.startswith("Dask's dashboard: http://127.0.0.1:")
    assert "Warning" not in said


# --- processes that die ------------------------------------------------------------------


def workers_of(batch: Batch) -> list[psutil.Process]:
    """The Dask workers of a local batch that have begun."""
    found = []
    for child in psutil.Process(batch.process.pid).children():
        with suppress(psutil.Error):  # it has ended
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
    return found


def worker_of(batch: Batch) -> psutil.Process:
    """The one that makes a run."""
    return next(worker for worker in workers_of(batch) if worker.children())


def test_whatever_is_killed_costs_no_more_than_the_part_that_a_run_was_at(
    folder: Path, undisturbed: tuple[Path, Batch]
) -> None:
    write_batch(folder, 2)
    there = undisturbed[0]
    unbroken = results(there)
    shutil.copytree(there / "runs/it/1", folder / "runs/it/1")  # the first run is done already
    first = [line for line in (there / "log.txt").open() if line.startswith("1 ")]
    (folder / "log.txt").write_text("".join(first))
    (folder / "hold-2").touch()
    batch = Batch(folder, "--retries", "1")
    until(at_second_part(folder, 2), "the second run is at its second part")
    before = stamps(folder, 1)

    # The process of the run, which is tried again only once its kernel is gone.
    papermill = worker_of(batch).children()[0]
    kernel = papermill.children()[0]
    papermill.kill()
    until(lambda: starts(folder) == [1, 2, 2], "the second run is tried again")
    assert not kernel.is_running()
    again = "2: the process of this run was ended by SIGKILL. It is tried again."
    assert batch.lines == [again]

    # The worker, upon which the same batch goes on with another.
    worker = worker_of(batch)
    below = worker.children(recursive=True)
    assert len(below) == 2  # the process of the run, and its kernel
    worker.kill()
    until(lambda: not any(map(psutil.Process.is_running, below)), "its processes end", 10)
    until(lambda: starts(folder) == [1, 2, 2, 2], "the second run starts again")

    # Ctrl-C.
    os.killpg(batch.process.pid, signal.SIGINT)
    batch.wait(130, 30)
    assert_nothing_runs(folder, 5)
    assert batch.lines == [again, "Interrupted: 1 of 2 are done; the same command goes on."]
    assert kinds(folder) == {"1": "done", "2": "waiting"}

    # The batch itself.
    batch = Batch(folder)
    until(lambda: starts(folder) == [1, 2, 2, 2, 2], "the second run starts once more")
    batch.process.kill()
    batch.process.wait()
    assert_nothing_runs(folder, 10)
    assert not log(folder, "ends", 2)

    (folder / "hold-2").unlink()
    batch = run(folder)
    assert batch.printed.startswith("2 runs, 1 done already.\n")
    assert batch.lines == []
    assert starts(folder) == [1, 2, 2, 2, 2, 2]
    assert summary(folder)["2"]["attempts"] == "5"
    assert stamps(folder, 1) == before
    assert_parts_made_once(folder, 2)
    assert results(folder) == unbroken
    assert_tidy(folder)
    assert_nothing_runs(folder)


def test_ctrl_c_while_the_workers_start_is_one_sentence_too(folder: Path) -> None:
    write_batch(folder, 1)
    batch = Batch(folder, "--workers", "2")
    until(lambda: workers_of(batch), "a worker begins")
    time.sleep(0.2)  # it imports Dask
    os.killpg(batch.process.pid, signal.SIGINT)
    assert batch.process.wait(30) == 130
    assert_nothing_runs(folder, 5)
    assert batch.lines == ["Interrupted: 0 of 1 are done; the same command goes on."]
    assert starts(folder) == []


# --- disks -------------------------------------------------------------------------------


@pytest.fixture
def disk(folder: Path) -> Iterator[Path]:
    """A disk of 3 MB, where the runs go."""
    place = folder / "runs"
    place.mkdir()
    options = ["-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)]
    if subprocess.run(["mount", *options], capture_output=True).returncode != 0:
        pytest.skip("only root may mount a small disk")
    yield place
    end(folder)
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk: Path) -> None:
    with suppress(OSError), (disk / "ballast").open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            continue


def test_a_full_disk_is_said_in_one_sentence_and_leaves_what_is_finished(
    disk: Path, folder: Path, cluster: str
) -> None:
    write_batch(folder, [{"number": 1}, {"number": 2, "weight": 900_000}])
    (disk / "ballast").write_bytes(bytes(1_500_000))
    batch = run(folder, "--scheduler", cluster, code=1)
    sentence = summary(folder)["2"]["sentence"]
    assert re.fullmatch(
        r"runs/it/\.tmp-\w+/part-1\.bin cannot be written: no space left on device; free some"
        r" space and run it again\.",
        sentence,
    )
    assert batch.lines == [f"2: {sentence}"]
    assert kinds(folder) == {"1": "done", "2": "failed"}
    before = stamps(folder, 1)

    # No byte is left, not even for the page.
    (disk / "ballast").unlink()
    (folder / "hold-2").touch()
    began = len(starts(folder))
    batch = Batch(folder, "--scheduler", cluster)
    until(lambda: len(starts(folder)) > began, "the second run has started")
    fill(disk)
    (folder / "hold-2").unlink()
    batch.wait(1)
    assert batch.lines, "nothing was said"
    assert len(batch.lines) <= 2, batch.lines
    assert all("no space left on device" in line.lower() for line in batch.lines), batch.lines
    until(lambda: len(processes(folder)) == 0, "its processes end", 15)

    (disk / "ballast").unlink()
    run(folder, "--scheduler", cluster)
    assert set(kinds(folder).values()) == {"done"}
    assert stamps(folder, 1) == before
    assert starts(folder).count(1) == 1
    assert len(log(folder, "makes 0", 2)) == 1
    assert_tidy(folder)


def test_output_that_cannot_be_written_is_found_out_first(disk: Path, folder: Path) -> None:
    write_batch(folder, 2)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    batch = run(folder, code=1)
    assert re.fullmatch(
        r"workbench: \S+/runs/it\S* cannot be written: read-only file system\.\n", batch.said
    )
    assert starts(folder) == []
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    assert list(disk.iterdir()) == []


# --- clusters ----------------------------------------------------------------------------


class Cluster:
    """A Dask scheduler and its workers, started as people start them, at a fixed address."""

    def __init__(self, folder: Path, workers: int, port: int | None = None) -> None:
        self.folder = folder
        self.port = port or free_port()
        self.address = f"tcp://127.0.0.1:{self.port}"
        self._processes: list[subprocess.Popen[bytes]] = []
        options = ("--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard")
        self.scheduler = self._start("scheduler", *options)
        self.workers = [self._start_worker() for _ in range(workers)]

    def _start_worker(self) -> subprocess.Popen[bytes]:
        options = ("--host", "127.0.0.1", "--nthreads", "2", "--no-dashboard")
        return self._start("worker", self.address, *options, "--resources", "GPU=1")

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        with (self.folder / "dask.txt").open("ab") as said:
            process = subprocess.Popen(
                [sys.executable, "-m", "dask", *command],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        self._processes.append(process)
        return process

    def end(self) -> None:
        for process in self._processes:
            with suppress(psutil.Error):
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
            process.kill()
            process.wait()
        end(self.folder)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of two workers, for tests that are not about them."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"), 2)
    yield cluster.address
    cluster.end()


@pytest.fixture
def clusters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Cluster]]:
    """Starts clusters to be damaged."""
    started = []

    def start(workers: int, port: int | None = None) -> Cluster:
        started.append(Cluster(tmp_path_factory.mktemp("cluster"), workers, port))
        return started[-1]

    yield start
    for each in started:
        each.end()


def spans(folder: Path) -> dict[int, list[tuple[float, float]]]:
    """Process of a worker -> when it was at a run."""
    began: dict[int, float] = {}
    found: dict[int, list[tuple[float, float]]] = {}
    for line in (folder / "log.txt").read_text().splitlines():
        number, moment, worker, what = line.split()[:4]
        if what == "starts":
            began[int(number)] = float(moment)
        if what == "ends":
            found.setdefault(int(worker), []).append((began[int(number)], float(moment)))
    return found


def nanny_of(folder: Path, number: int) -> psutil.Process:
    """The Dask nanny above the worker that is at a run."""
    rows = [line.split() for line in (folder / "log.txt").read_text().splitlines()]
    worker = next(int(row[2]) for row in reversed(rows) if row[0] == str(number))
    nanny = psutil.Process(worker).parent()
    assert nanny is not None
    return nanny


def test_a_cluster_makes_one_run_for_each_gpu_and_may_lose_a_worker(
    folder: Path, clusters: Callable[..., Cluster]
) -> None:
    cluster = clusters(2)
    write_batch(folder, 3)
    (folder / "hold-3").touch()
    batch = Batch(folder, "--scheduler", cluster.address)
    until(at_second_part(folder, 3), "the third run is at its second part")
    nanny = nanny_of(folder, 3)
    below = nanny.children(recursive=True)
    for process in (nanny, *nanny.children()):  # of these, the run's process is no child
        process.kill()
    until(lambda: not any(map(psutil.Process.is_running, below)), "its processes end", 10)
    until(lambda: sorted(starts(folder)) == [1, 2, 3, 3], "the other worker takes the third run")
    until(lambda: len(log(folder, "ends")) == 2, "the others end")

    # Ctrl-C: the worker that is left stops what it is at, and stays.
    os.killpg(batch.process.pid, signal.SIGINT)
    batch.wait(130, 30)
    assert_nothing_runs(folder, 5)
    assert batch.lines == ["Interrupted: 2 of 3 are done; the same command goes on."]
    (folder / "hold-3").unlink()
    batch = run(folder, "--scheduler", cluster.address)
    assert batch.lines == []
    assert sorted(starts(folder)) == [1, 2, 3, 3, 3]
    assert_parts_made_once(folder, 3)
    assert set(kinds(folder).values()) == {"done"}
    for times in spans(folder).values():
        assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(sorted(times)))
    assert_tidy(folder)


def test_a_scheduler_that_comes_back_or_is_not_there(
    folder: Path, clusters: Callable[..., Cluster], tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    make_project(elsewhere)
    write_batch(elsewhere, 1)
    nowhere = f"tcp://127.0.0.1:{free_port()}"
    began = time.monotonic()
    alone = Batch(elsewhere, "--scheduler", nowhere)
    try:
        cluster = clusters(2)
        write_batch(folder, 2)
        (folder / "hold-2").touch()
        batch = Batch(folder, "--scheduler", cluster.address)
        until(at_second_part(folder, 2), "the second run is at its second part")
        until(lambda: list((folder / "runs/it").glob("[0-9]")), "another one is finished")
        cluster.scheduler.kill()
        names = [int(path.name) for path in (folder / "runs/it").glob("[0-9]")]
        finished = {number: stamps(folder, number) for number in names}

        alone.wait(1, 30 - (time.monotonic() - began))
        assert alone.lines == [line for line in alone.lines if nowhere in line]
        assert len(alone.lines) == 1
        assert alone.lines[0].startswith(f"workbench: no Dask scheduler answers at {nowhere} (")
        assert starts(elsewhere) == []
    finally:
        end(elsewhere)
    clusters(1, cluster.port)
    (folder / "hold-2").unlink()
    batch.wait(None)
    if batch.process.returncode != 0:
        assert batch.process.returncode == 1
        assert len(batch.lines) == 1, batch.lines
        assert "the same command goes on" in batch.lines[0]
        run(folder, "--scheduler", cluster.address)
    assert finished == {number: stamps(folder, number) for number in finished}
    assert set(kinds(folder).values()) == {"done"}
    assert [starts(folder).count(number) for number in finished] == [1] * len(finished)
    assert_parts_made_once(folder, 2)
    assert_tidy(folder)
    assert_nothing_runs(folder)
