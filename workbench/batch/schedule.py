"""The runs of a plan on Dask workers: bounded in flight, tried again, reported as they finish."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Any

import psutil
from tqdm import tqdm

from workbench.batch.execute import execute
from workbench.batch.page import check_report, write_report
from workbench.batch.parameters import PATTERN
from workbench.batch.plan import Plan
from workbench.batch.record import (
    STATE_FOLDER,
    Record,
    Run,
    check_output,
    clear,
    is_claimed,
    mend,
    read_state,
    watch,
)
from workbench.errors import InputError, WorkbenchError
from workbench.files import held, is_locked, write_bytes

if TYPE_CHECKING:
    from distributed import Client, Future, Worker

_SLOT = "workbench"  # the resource of a Dask worker: how many runs it may make at a time
_GPU = "GPU"
_LOST = 3  # times that a scheduler may lose a run before it counts as failed
_PATIENCE = 30.0  # seconds without a scheduler
_LINES = 12  # of runs in flight


@dataclass(frozen=True)
class Options:
    """How a batch is worked off."""

    scheduler: str | None = None  # its address, or the JSON file it wrote; None: a local cluster
    workers: int | None = None  # of the local cluster; None: one for each GPU, else one
    retries: int = 0  # how often a run that failed is tried again
    keep_going: bool = True  # whether other runs are started when one has failed
    only: str | None = None  # pattern, or part, of the names of the runs to make; None: all
    dask_log: bool = False  # whether Dask's own messages are shown


def read_states(plan: Plan) -> dict[str, Record]:
    """How every run of a plan stands, by name."""
    return {run.name: read_state(run) for run in plan.runs}


def is_running(plan: Plan) -> bool:
    """Whether a batch is working on a plan at this moment."""
    return is_locked(plan.root / STATE_FOLDER / "lock")


def choose(plan: Plan, only: str | None) -> list[Run]:
    """Pick the runs whose names match a pattern or contain a text; InputError if none does."""
    if only is None:
        return list(plan.runs)
    pattern = only if PATTERN.search(only) else f"*{only}*"
    chosen = [run for run in plan.runs if fnmatchcase(run.name, pattern)]
    if not chosen:
        raise InputError(
            f"--only {only}: no run of {plan.file} is called so; the first is {plan.runs[0].name}."
        )
    return chosen


def run_batch(plan: Plan, options: Options = Options()) -> dict[str, Record]:
    """Make the runs of a plan that are not done yet; name of each of its runs -> how it stands.

    `index.html` and `summary.csv` in `plan.root` are kept up to date meanwhile.

    Raises
    ------
    InputError
        If another batch is working on the same plan, or `options.only` matches nothing.
    OutputError
        If the folder of the runs cannot be written to or holds something else's files.
    WorkbenchError
        If the scheduler cannot be reached or goes away; what is finished stays.
    KeyboardInterrupt
        On Ctrl-C, after the runs in flight are stopped.
    """
    chosen = choose(plan, options.only)
    check_report(plan)
    with _claimed(plan):
        for run in plan.runs:
            mend(run)
            check_output(run)
        states = read_states(plan)
        clear(run for run in plan.runs if states[run.name].kind == "done")
        todo = [run for run in chosen if states[run.name].kind != "done"]
        ready, runs = len(chosen) - len(todo), "run" if len(chosen) == 1 else "runs"
        print(f"{len(chosen)} {runs}, {ready} done already.", flush=True)
        if again := sum(run.output.exists() for run in todo):
            what = "parameters, inputs, the notebook's code or the workbench"
            print(f"{again} to be made again, as {what} changed.", flush=True)
        write_report(plan, states)
        try:
            if todo:
                _work_off(plan, todo, ready, options, states)
        finally:
            # What was in flight when the batch ended says itself how it stands.
            unsure = [run for run in todo if states[run.name].kind in ("running", "waiting")]
            states.update({run.name: read_state(run) for run in unsure})
            write_report(plan, states)
    return states


@contextmanager
def _claimed(plan: Plan) -> Iterator[None]:
    """Keep a second batch out."""
    folder = plan.root / STATE_FOLDER
    owner = folder / "owner.txt"

    def busy() -> str:
        who = ""
        with suppress(OSError, ValueError):
            who = owner.read_text("utf-8")
        status = f"`workbench batch status {plan.file}` says how it stands."
        return f"{plan.file} is being worked on already{who}; {status}"

    with held(folder / "lock", busy, seconds=1):  # `status` holds it for a moment
        write_bytes(owner, f" by process {os.getpid()} on {socket.gethostname()}".encode())
        yield


def _work_off(
    plan: Plan, todo: Sequence[Run], ready: int, options: Options, states: dict[str, Record]
) -> None:
    waiting = deque(_Attempt(run) for run in todo)
    failed = False
    report_at = 0.0
    with (
        _connected(options) as (client, threads, gpus),
        closing(_Crew(client, _with_own_notebook(plan), threads, gpus)) as crew,
        closing(_View(ready, ready + len(todo))) as view,
    ):
        print(f"Dask's dashboard: {client.dashboard_link}", file=sys.stderr)
        while waiting or crew.attempts:
            while waiting and len(crew.attempts) < crew.room():
                crew.start(waiting.popleft())
            for attempt, record in crew.ended(seconds=0.5):
                name = attempt.run.name
                if record is None:  # the scheduler lost it
                    waiting.appendleft(attempt)
                elif record.may_succeed and attempt.failures < options.retries:
                    attempt.failures += 1
                    waiting.append(attempt)
                    view.say(f"{name}: {record.sentence} It is tried again.")
                else:
                    states[name] = _settled(attempt.run, record)
                    failed |= record.kind != "done"
                    view.count(name, states[name])
            if failed and not options.keep_going:
                waiting.clear()
            stages = {attempt.run.name: watch(attempt.run) for attempt in crew.attempts}
            states.update(stages)
            view.show(stages, workers=crew.slots > 0)
            if (began := time.monotonic()) > report_at:
                write_report(plan, states)  # more rarely the longer that takes
                took = time.monotonic() - began
                report_at = began + took + max(2.0, 20 * took)


def _settled(run: Run, record: Record) -> Record:
    """How a run stands after an attempt, even where that could not be written down."""
    state = read_state(run)
    if record.kind == "failed" and state.kind != "failed":
        return replace(record, attempts=state.attempts)
    return state


def _with_own_notebook(plan: Plan) -> Plan:
    """What workers are told of a plan; its notebook is a copy, as people may edit it meanwhile."""
    path = plan.root / STATE_FOLDER / plan.notebook.name
    write_bytes(path, plan.notebook.read_bytes())
    return replace(plan, notebook=path, runs=())


@dataclass(eq=False)
class _Attempt:
    """A run on its way, and how often that has gone wrong."""

    run: Run
    failures: int = 0
    losses: int = 0
    future: Future[Record] = field(init=False)  # once it is handed to the scheduler

    @property
    def is_pending(self) -> bool:
        return self.future.status == "pending"

    def outcome(self) -> Record | None:
        """How it ended; None if the scheduler has lost it and it should start again."""
        from distributed import KilledWorker

        if self.future.status in ("cancelled", "lost"):
            self.losses += 1
            return None if self.losses <= _LOST else Record("failed", "the cluster lost it.")
        try:
            return self.future.result()
        except KilledWorker:
            sentence = "the Dask worker died each time that it made this run."
        except Exception as error:
            sentence = f"the Dask worker could not make this run ({type(error).__name__}: {error})."
        return Record("failed", sentence)


# --- what is seen of it ------------------------------------------------------------------


class _View:
    """On a terminal: a bar for the batch and a line for each run in flight; else, what changes."""

    def __init__(self, done: int, runs: int) -> None:
        self._waits = False
        # disable=None: not where nobody looks, as a log would get the bar twice a second
        self._bar = tqdm(total=runs, initial=done, desc="batch", unit="run", ncols=88, disable=None)
        self._done = done
        self._lines: list[tqdm[Any]] = []

    def close(self) -> None:
        for line in (*self._lines, self._bar):
            line.close()

    def say(self, sentence: str) -> None:
        tqdm.write(sentence, file=sys.stderr)

    def count(self, name: str, record: Record) -> None:
        self._done += 1
        if record.kind != "done":
            self.say(f"{name}: {record.sentence}")
        elif self._bar.disable:
            self.say(f"{name}: done, {self._done} of {self._bar.total}")
        self._bar.update()

    def show(self, stages: Mapping[str, Record], *, workers: bool) -> None:
        if self._bar.disable and not workers and not self._waits:
            self.say("waiting for Dask workers")
        self._waits = not workers
        running = {name: state for name, state in stages.items() if state.kind == "running"}
        texts = [f"  {name}: {state.stage or 'starting'}" for name, state in running.items()]
        if not workers:
            texts = ["  waiting for Dask workers"]
        if len(texts) > _LINES:
            texts[_LINES - 1 :] = [f"  and {len(texts) - _LINES + 1} more"]
        while len(self._lines) < len(texts):
            place = len(self._lines) + 1
            line = tqdm(total=0, bar_format="{desc}", position=place, leave=False, disable=None)
            self._lines.append(line)
        for number, line in enumerate(self._lines):
            line.set_description_str(texts[number] if number < len(texts) else "")
        self._bar.refresh()


# --- Dask --------------------------------------------------------------------------------


@contextmanager
def _connected(options: Options) -> Iterator[tuple[Client, int | None, list[str]]]:
    """A cluster, the threads that a run on it may use, if not its worker's, and its GPUs, if known.

    It is this machine's own if no other is asked for.
    """
    import dask
    from distributed import Client, LocalCluster

    level = logging.INFO if options.dask_log else logging.CRITICAL
    dask.config.set({"logging.distributed": logging.getLevelName(level).lower()})
    logging.getLogger("distributed").setLevel(level)
    if options.scheduler is None:
        gpus = _gpus()
        workers = options.workers or max(1, len(gpus))
        with ExitStack() as stack:
            with warnings.catch_warnings(), _interrupts_held_back():
                warnings.filterwarnings("ignore", "Port 8787 is already in use")  # takes another
                cluster = LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    memory_limit=0,  # a run is a process of its own
                    resources={_SLOT: 1},
                    dashboard_address="127.0.0.1:8787",
                    silence_logs=level,
                )
                stack.enter_context(cluster)  # before Ctrl-C may get through
            client = stack.enter_context(Client(cluster))
            yield client, max(1, _cores() // workers), gpus
        return
    try:
        where = "scheduler_file" if options.scheduler.endswith(".json") else "address"
        client = Client(**{where: options.scheduler}, timeout=10)
    except (OSError, ValueError) as error:
        raise WorkbenchError(
            f"no Dask scheduler answers at {options.scheduler} ({error}); is it running, and"
            " is this its address?"
        ) from None
    with client:
        yield client, None, []


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Keep Ctrl-C from the threads and processes that are started meanwhile.

    In the terminal it reaches all processes, and only the batch is to answer, afterwards.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # it would let them through again as it starts
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _gpus() -> list[str]:
    """The CUDA GPUs of this machine, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",")[:count] if visible else [str(number) for number in range(count)]


def _cores() -> int:
    """Physical cores that this process may use, as far as affinity and cgroups let it."""
    from dask.system import CPU_COUNT

    return min(psutil.cpu_count(logical=False) or CPU_COUNT, CPU_COUNT)


def _slots_plugin() -> Any:
    """Have each worker of a cluster make one run at a time, or one for each of its GPUs."""
    from distributed import WorkerPlugin

    class Slots(WorkerPlugin):
        name = "workbench-slots"

        async def setup(self, worker: Worker) -> None:
            runs = worker.state.total_resources.get(_GPU, 1)
            await worker.set_resources(**{_SLOT: runs})

    return Slots()


def _on_worker(run: Run, plan: Plan, threads: int | None, gpus: Sequence[str]) -> Record:
    """Make a run on the worker that this is called on; stop it when nobody waits for it."""
    from distributed import get_worker

    worker = get_worker()
    key = worker.get_current_task()

    def released() -> bool:
        task = worker.state.tasks.get(key)
        return task is None or task.state == "cancelled"

    gpu = gpus[int(worker.name) % len(gpus)] if gpus else None
    return execute(run, plan, threads or worker.state.nthreads, gpu=gpu, released=released)


class _Crew:
    """The workers that there are, and the runs that they are at."""

    def __init__(
        self, client: Client, plan: Plan, threads: int | None, gpus: Sequence[str]
    ) -> None:
        self._client = client
        self._told = plan, threads, gpus
        self.attempts: list[_Attempt] = []
        self.slots, self._looked = 0, 0.0  # how many runs the workers can make at a time
        self._needs = {_SLOT: 1}
        if any(_GPU in resources for resources in self._resources()):
            self._needs[_GPU] = 1

    def room(self) -> int:
        """How many runs may be in flight; asked anew every second, as workers come and go.

        Raises
        ------
        WorkbenchError
            If the scheduler is gone and does not come back.
        """
        now = time.monotonic()
        if self._client.status == "running":
            if now - self._looked > 1:
                with suppress(OSError):  # the scheduler went away just now
                    self._look()
                    self._looked = now
            return self.slots  # what waits behind a run on its worker may wait for long
        if self._client.status == "closed" or now - self._looked > _PATIENCE:
            raise WorkbenchError(
                "the Dask scheduler is gone; what is finished stays, and the same command goes"
                " on once there is one again."
            )
        return 0

    def _look(self) -> None:
        workers = self._resources()
        if not all(_SLOT in worker for worker in workers):  # at first, or after a new scheduler
            self._client.register_plugin(_slots_plugin())
            workers = self._resources()
        self.slots = sum(int(min(each.get(name, 0) for name in self._needs)) for each in workers)

    def _resources(self) -> list[Mapping[str, float]]:
        workers = self._client.scheduler_info(n_workers=-1)["workers"]
        return [worker["resources"] for worker in workers.values()]

    def start(self, attempt: _Attempt) -> None:
        """Hand a run to the scheduler."""
        key = f"{attempt.run.name}-{attempt.failures + attempt.losses}"
        attempt.future = self._client.submit(
            _on_worker, attempt.run, *self._told, key=key, pure=False, resources=self._needs
        )
        self.attempts.append(attempt)

    def ended(self, seconds: float) -> Iterator[tuple[_Attempt, Record | None]]:
        """Attempts that came to an end, and how; waits a moment for the first."""
        deadline = time.monotonic() + seconds
        while all(each.is_pending for each in self.attempts) and time.monotonic() < deadline:
            time.sleep(0.02)
        for attempt in [each for each in self.attempts if not each.is_pending]:
            self.attempts.remove(attempt)
            yield attempt, attempt.outcome()

    def close(self) -> None:
        """Have the workers stop what they are at, and wait a moment until they have."""
        self._client.cancel([each.future for each in self.attempts], force=True)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and any(is_claimed(a.run) for a in self.attempts):
            time.sleep(0.1)
