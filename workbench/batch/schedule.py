"""The runs of a plan on Dask workers: bounded in flight, tried again, reported as they finish."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
import time
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Any

import psutil
from filelock import Timeout
from tqdm import tqdm

from workbench.batch.execute import execute
from workbench.batch.page import check_report, write_report
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
from workbench.files import check_writable, is_locked, locked, write_bytes

if TYPE_CHECKING:
    from distributed import Client, Future, LocalCluster, Worker

_SLOT = "workbench"  # the resource of a Dask worker: how many runs it may make at a time
_GPU = "GPU"
_LOST = 3  # times that a scheduler may lose a run before it counts as failed
_PATIENCE = 30.0  # seconds without a scheduler
_LINES = 12  # of runs in flight


@dataclass(frozen=True)
class Options:
    """How a batch is worked off.

    Attributes
    ----------
    scheduler
        Address of a Dask scheduler to use, such as "tcp://host:8786", or the JSON file that it
        was told to write; None: a local cluster.
    workers
        Workers of the local cluster, which share the machine's cores; None: one for each GPU,
        else one.
    retries
        How often a run that failed is tried again.
    keep_going
        Whether the other runs are started when one has failed.
    only
        Pattern, as of files, or part of the names of the runs to make; None: all.
    dask_log
        Whether Dask's own messages are shown.
    """

    scheduler: str | None = None
    workers: int | None = None
    retries: int = 0
    keep_going: bool = True
    only: str | None = None
    dask_log: bool = False


def read_states(plan: Plan) -> dict[str, Record]:
    """How every run of a plan stands, by name."""
    return {run.name: read_state(run) for run in plan.runs}


def is_running(plan: Plan) -> bool:
    """Whether a batch is working on a plan at this moment."""
    return is_locked(plan.root / STATE_FOLDER / "lock")


def choose(plan: Plan, only: str | None) -> list[Run]:
    """Pick the runs of a plan whose names match a pattern or contain a text.

    Raises
    ------
    InputError
        If there are none.
    """
    if only is None:
        return list(plan.runs)
    pattern = only if any(char in only for char in "*?[") else f"*{only}*"
    chosen = [run for run in plan.runs if fnmatchcase(run.name, pattern)]
    if not chosen:
        raise InputError(
            f"--only {only}: no run of {plan.file} is called so; the first is {plan.runs[0].name}."
        )
    return chosen


def run_batch(plan: Plan, options: Options = Options()) -> dict[str, Record]:
    """Make the runs of a plan that are not done yet.

    `index.html` and `summary.csv` in `plan.root` are kept up to date meanwhile.

    Returns
    -------
    dict
        Name of each run of the plan -> how it stands.

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
    check_writable(plan.root / STATE_FOLDER / "lock")
    with _claimed(plan):
        for run in plan.runs:
            mend(run)
            check_output(run)
        states = read_states(plan)
        clear(run for run in plan.runs if states[run.name].kind == "done")
        todo = [run for run in chosen if states[run.name].kind != "done"]
        runs = "1 run" if len(chosen) == 1 else f"{len(chosen)} runs"
        print(f"{runs}, {len(chosen) - len(todo)} done already.", flush=True)
        if again := sum(run.output.exists() for run in todo):
            print(
                f"{again} to be made again, as parameters, inputs, the notebook's code or the"
                " workbench changed.",
                flush=True,
            )
        write_report(plan, states)
        try:
            if todo:
                _work_off(plan, todo, len(chosen), options, states)
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
    owner = folder / "owner.json"
    try:
        with locked(folder / "lock", seconds=1):  # `status` holds it for a moment
            here = {"host": socket.gethostname(), "pid": os.getpid()}
            write_bytes(owner, json.dumps(here).encode())
            yield
    except Timeout:
        try:
            other = json.loads(owner.read_text("utf-8"))
            who = f" by process {other['pid']} on {other['host']}"
        except (OSError, ValueError, TypeError, KeyError):
            who = ""
        raise InputError(
            f"{plan.file} is being worked on already{who}; `workbench batch status {plan.file}`"
            " says how it stands."
        ) from None


def _work_off(
    plan: Plan,
    todo: Sequence[Run],
    chosen: int,
    options: Options,
    states: dict[str, Record],
) -> None:
    waiting = deque(_Attempt(run) for run in todo)
    in_flight: dict[str, _Attempt] = {}
    failed = False
    report_at = 0.0
    with ExitStack() as stack:
        crew = stack.enter_context(_connected(_with_own_notebook(plan), options))
        print(f"Dask's dashboard: {crew.dashboard}", file=sys.stderr)
        view = stack.enter_context(_View(chosen - len(todo), chosen))
        stack.callback(lambda: crew.stop(in_flight.values()))
        while in_flight or (waiting and (options.keep_going or not failed)):
            while waiting and len(in_flight) < crew.room() and (options.keep_going or not failed):
                attempt = waiting.popleft()
                in_flight[attempt.run.name] = attempt
                crew.start(attempt)
            for attempt in crew.ended(list(in_flight.values()), seconds=0.5):
                name = attempt.run.name
                del in_flight[name]
                record = crew.outcome(attempt)
                if record is None:  # the scheduler lost it
                    waiting.appendleft(attempt)
                    continue
                retry = record.kind == "failed" and not record.hopeless
                if retry and attempt.failures < options.retries:
                    attempt.failures += 1
                    waiting.append(attempt)
                    view.say(f"{name}: {record.sentence} It is tried again.")
                else:
                    states[name] = _settled(attempt.run, record)
                    failed |= record.kind != "done"
                    view.count(name, states[name])
            stages = {name: watch(attempt.run) for name, attempt in in_flight.items()}
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


@dataclass
class _Attempt:
    """A run on its way, and how often that has gone wrong."""

    run: Run
    failures: int = 0
    losses: int = 0
    future: Future[Record] | None = None


# --- what is seen of it ------------------------------------------------------------------


class _View:
    """On a terminal: a bar for the batch and a line for each run in flight; else, what changes."""

    def __init__(self, done: int, runs: int) -> None:
        self._waits = False
        # disable=None: not where nobody looks, as a log would get the bar twice a second
        self._bar = tqdm(total=runs, initial=done, desc="batch", unit="run", ncols=88, disable=None)
        self._done = done
        self._lines: list[tqdm[Any]] = []

    def __enter__(self) -> _View:
        return self

    def __exit__(self, *_: object) -> None:
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
def _connected(plan: Plan, options: Options) -> Iterator[_Crew]:
    """The workers of a cluster, which is this machine's own if no other is asked for."""
    import dask
    from distributed import Client

    level = logging.INFO if options.dask_log else logging.CRITICAL
    dask.config.set({"logging.distributed": logging.getLevelName(level).lower()})
    logging.getLogger("distributed").setLevel(level)
    if options.scheduler is None:
        gpus = _gpus()
        count = options.workers or max(1, len(gpus))
        with _local_cluster(count, level) as cluster, Client(cluster) as client:
            yield _Crew(client, plan, max(1, _cores() // count), gpus)
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
        yield _Crew(client, plan)


def _local_cluster(workers: int, level: int) -> LocalCluster:
    from distributed import LocalCluster

    with warnings.catch_warnings(), _interrupts_held_back():
        warnings.filterwarnings("ignore", "Port 8787 is already in use")  # another one is taken
        return LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            memory_limit=0,  # a run is a process of its own
            resources={_SLOT: 1},
            dashboard_address="127.0.0.1:8787",
            silence_logs=level,
        )


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
        self, client: Client, plan: Plan, threads: int | None = None, gpus: Sequence[str] = ()
    ) -> None:
        self._client = client
        self._told = plan, threads, gpus  # threads that a run may use; None: as its worker has
        self.dashboard = client.dashboard_link
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
        if self._client.status == "running" and now - self._looked > 1:
            with suppress(OSError):  # the scheduler went away just now
                self._look()
                self._looked = now
        if self._client.status == "running":
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
        attempt.future = self._client.submit(
            _on_worker,
            attempt.run,
            *self._told,
            key=f"{attempt.run.name}-{attempt.failures + attempt.losses}",
            pure=False,
            resources=self._needs,
        )

    def ended(self, attempts: Sequence[_Attempt], seconds: float) -> list[_Attempt]:
        """Those that came to an end, waiting a moment for the first."""
        deadline = time.monotonic() + seconds
        while True:
            ended = [each for each in attempts if each.future and each.future.status != "pending"]
            if ended or time.monotonic() > deadline:
                return ended
            time.sleep(0.02)

    def outcome(self, attempt: _Attempt) -> Record | None:
        """How an attempt ended; None if its scheduler has lost it and it should start again."""
        from distributed import KilledWorker

        assert attempt.future is not None
        if attempt.future.status in ("cancelled", "lost"):
            attempt.losses += 1
            return None if attempt.losses <= _LOST else Record("failed", "the cluster lost it.")
        try:
            return attempt.future.result()
        except KilledWorker:
            sentence = "the Dask worker died each time that it made this run."
        except Exception as error:
            sentence = f"the Dask worker could not make this run ({type(error).__name__}: {error})."
        return Record("failed", sentence)

    def stop(self, attempts: Iterable[_Attempt]) -> None:
        """Have the workers stop what they are at, and wait a moment until they have."""
        attempts = list(attempts)
        self._client.cancel([each.future for each in attempts if each.future], force=True)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and any(is_claimed(a.run) for a in attempts):
            time.sleep(0.1)
