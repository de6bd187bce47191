"""What `workbench batch` says and leaves, where no run has to be made."""

from __future__ import annotations

import contextlib
import csv
import html
import os
import re
import socket
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from filelock import FileLock
from PIL import Image
from test_cli import workbench
from test_notebook import write_notebook

from workbench import cli
from workbench.batch import schedule
from workbench.batch.plan import Plan, read_plan
from workbench.batch.record import Kind, Record, Run, claim, publish, write_record
from workbench.errors import InputError
from workbench.runs import finish_run

PARAMETERS = """\
number: int = 0
style: str = "a.png"
output_dir: str = "runs/alone"
"""


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


Command = Callable[..., Said]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_notebook(tmp_path / "paint.ipynb", "print(number)", parameters=PARAMETERS)
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8), "red" if name == "a.png" else "blue").save(tmp_path / name)
    return tmp_path


@pytest.fixture
def batch(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Command:
    """Calls `workbench batch` in the project; nothing in here may start Dask."""

    def too_late(*arguments: object) -> None:
        raise AssertionError("Dask was started")

    def call(*words: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["workbench", "batch", *map(str, words)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capfd.readouterr()
        assert "Traceback" not in said.err
        return Said(int(ended.value.code or 0), said.out, said.err)

    monkeypatch.setattr(schedule, "_connected", too_late)
    monkeypatch.chdir(folder)
    return call


def write_batch(folder: Path, **content: Any) -> Plan:
    batch = {
        "notebook": "paint.ipynb",
        "output": "runs/it/{style.stem}-{number}",
        "grid": {"style": ["a.png", "b.png"], "number": [1, 2]},
    }
    (folder / "it.yaml").write_text(yaml.safe_dump(batch | content, sort_keys=False))
    return read_plan(folder / "it.yaml")


def finish(run: Run, kind: Kind = "done", sentence: str = "") -> None:
    """Leave what a finished run leaves."""
    work = start(run, "running")
    Image.new("RGB", (8, 8)).save(work / "picture.png")
    finish_run(
        work,
        outputs={"picture": work / "picture.png"},
        figures={"figure": 0.5},
        settings={},
        weights={},
        seconds=12.34,
    )
    write_record(work, record_of(run, kind, sentence=sentence))
    publish(run)


def record_of(run: Run, kind: Kind, **more: Any) -> Record:
    output = run.output.name
    return Record(
        kind, attempts=1, host="here", key=run.key, output=output, notebook="paint.ipynb", **more
    )


def start(run: Run, kind: Kind, sentence: str = "", stage: str = "") -> Path:
    """Leave what an unfinished run leaves."""
    run.work.mkdir(parents=True, exist_ok=True)
    write_record(run.work, record_of(run, kind, sentence=sentence, stage=stage, seconds=3.21))
    return run.work


def everything(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files} | {
        str(path.relative_to(folder)): b"" for path in folder.rglob("*") if path.is_dir()
    }


# --- what there is to be done ------------------------------------------------------------


def test_help_shows_a_batch_file_and_the_other_ways_to_call_it(folder: Path) -> None:
    said = workbench("batch", "--help", cwd=folder).stdout
    for line in ("notebook: notebooks/stylize_clip.ipynb", "grid:", "clip: clips/*.mp4"):
        assert re.search(rf"^ +{re.escape(line)}$", said, re.M)
    assert "workbench batch status FILE" in re.sub(r"\s+", " ", said)
    assert "[status] FILE" in said


def test_a_dry_run_lists_all_runs_and_leaves_nothing_behind(folder: Path, batch: Command) -> None:
    write_batch(folder)
    before = everything(folder)
    said = batch("it.yaml", "--dry-run")
    assert said == Said(0, "".join(f"waiting   {x}\n" for x in ("a-1", "a-2", "b-1", "b-2")), "")
    assert everything(folder) == before


def test_a_dry_run_says_how_each_run_stands(folder: Path, batch: Command) -> None:
    runs = write_batch(folder).runs
    finish(runs[0])
    finish(runs[1], "changed", "a.png changed while it ran; the same command runs it again.")
    start(runs[2], "failed", "ValueError: no.")
    before = everything(folder)
    said = batch("it.yaml", "--dry-run")
    assert said.lines == ["done      a-1", "changed   a-2", "failed    b-1", "waiting   b-2"]
    assert everything(folder) == before


@pytest.mark.parametrize(
    ("only", "names"),
    [
        ("a-", ["a-1", "a-2"]),
        ("1", ["a-1", "b-1"]),
        ("b-2", ["b-2"]),
        ("*-2", ["a-2", "b-2"]),
        ("[ab]-1", ["a-1", "b-1"]),
        ("?-?", ["a-1", "a-2", "b-1", "b-2"]),
    ],
)
def test_only_takes_a_part_of_the_name_or_a_pattern(
    only: str, names: list[str], folder: Path, batch: Command
) -> None:
    write_batch(folder)
    said = batch("it.yaml", "--dry-run", "--only", only)
    assert [line.split()[1] for line in said.lines] == names


@pytest.mark.parametrize("only", ["c", "-*", "a"])
@pytest.mark.parametrize("dry", [True, False])
def test_only_that_matches_nothing_is_refused(
    only: str, dry: bool, folder: Path, batch: Command
) -> None:
    write_batch(folder, output="runs/it/{number}", grid={"number": [1, 2]})
    said = batch("it.yaml", f"--only={only}", *["--dry-run"] * dry)
    assert said == Said(
        2,
        "",
        f"workbench: --only {only}: no run of {folder / 'it.yaml'} is called so; the first is 1.\n",
    )
    assert not (folder / "runs/it/index.html").exists()


# --- nothing to be done ------------------------------------------------------------------


def test_a_finished_batch_says_so_and_brings_its_page_up_to_date(
    folder: Path, batch: Command
) -> None:
    plan = write_batch(folder)
    for run in plan.runs:
        finish(run)
    before = everything(plan.root)
    said = batch("it.yaml")
    page = plan.root / "index.html"
    assert said.lines == [
        "4 runs, 4 done already.",
        *(f"done        12.3 s  {name}" for name in ("a-1", "a-2", "b-1", "b-2")),
        f"4 done: {page}",
    ]
    assert (said.code, said.err) == (0, "")
    assert "it.yaml" in page.read_text()
    with (plan.root / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["a-1", "a-2", "b-1", "b-2"]
    assert {(row["state"], row["figure"], row["seconds"]) for row in rows} == {
        ("done", "0.5", "12.34")
    }
    after = everything(plan.root)
    assert {name: after[name] for name in before} == before


def test_only_counts_what_it_names(folder: Path, batch: Command) -> None:
    plan = write_batch(folder)
    finish(plan.runs[0])
    finish(plan.runs[2])
    said = batch("it.yaml", "--only", "1")
    assert said.code == 0
    assert said.lines[0] == "2 runs, 2 done already."
    assert [line.split()[-1] for line in said.lines[1:-1]] == ["a-1", "b-1"]
    assert said.lines[-1].startswith("2 done: ")
    page = (plan.root / "index.html").read_text()  # is about all of them
    assert "a-2" in page
    assert "b-2" in page


def test_a_finished_run_that_something_was_taken_out_of_waits(folder: Path, batch: Command) -> None:
    plan = write_batch(folder)
    for run in plan.runs:
        finish(run)
    (plan.runs[0].output / "picture.png").unlink()
    (plan.runs[1].output / "result.json").write_text("{")
    (plan.runs[2].output / "batch.json").unlink()
    assert batch("it.yaml", "--dry-run").lines == [
        "waiting   a-1",
        "waiting   a-2",
        "waiting   b-1",
        "done      b-2",
    ]


def test_one_run_is_not_several(folder: Path, batch: Command) -> None:
    finish(write_batch(folder, grid={"number": [1]}).runs[0])
    assert batch("it.yaml").lines[0] == "1 run, 1 done already."


class ScriptedCrew:
    """Workers that make nothing: runs end as they are told to, the held ones last of all."""

    slots = 2

    def __init__(
        self, ends: Mapping[str, Sequence[Record | None]], held: Collection[str] = ()
    ) -> None:
        self._ends = {name: list(outcomes) for name, outcomes in ends.items()}
        self._held = held
        self.attempts: list[Any] = []
        self.started: list[str] = []

    def room(self) -> int:
        return self.slots

    def start(self, attempt: Any) -> None:
        assert len(self.attempts) < self.slots
        self.attempts.append(attempt)
        self.started.append(attempt.run.name)

    def ended(self, seconds: float) -> Iterator[tuple[Any, Record | None]]:
        free = [each for each in self.attempts if each.run.name not in self._held]
        for attempt in free or list(self.attempts):
            self.attempts.remove(attempt)
            yield attempt, self.outcome(attempt)

    def outcome(self, attempt: Any) -> Record | None:
        outcomes = self._ends.get(attempt.run.name)
        outcome = outcomes.pop(0) if outcomes else Record("done")
        if outcome and outcome.kind == "done":
            finish(attempt.run)
        elif outcome and outcome.kind == "changed":
            finish(attempt.run, "changed", outcome.sentence)
        elif outcome:
            start(attempt.run, "failed", outcome.sentence)
        return outcome

    def close(self) -> None:
        return


class LostCrew(ScriptedCrew):
    """Workers that die at once, so that the run itself can note nothing."""

    sentence = "the Dask worker died each time that it made this run."

    def outcome(self, attempt: Any) -> Record:
        start(attempt.run, "running", stage="cell 2 of 3")
        return Record("failed", self.sentence)


def hire(crew: ScriptedCrew, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a crew in Dask's place."""
    client = SimpleNamespace(dashboard_link="http://here")
    connected = contextlib.nullcontext((client, 1, ()))
    monkeypatch.setattr(schedule, "_connected", lambda options: connected)
    monkeypatch.setattr(schedule, "_Crew", lambda *_: crew)


def test_why_a_run_failed_is_told_even_if_the_run_could_not_write_it_down(
    folder: Path, batch: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    hire(LostCrew({}), monkeypatch)
    plan = write_batch(folder, grid={"number": [1]}, output="runs/it/{number}")
    finish(plan.runs[0])
    write_notebook(folder / "paint.ipynb", "print(number + 1)", parameters=PARAMETERS)
    plan = read_plan(folder / "it.yaml")
    said = batch("it.yaml")
    assert said.code == 1
    again = (
        "1 to be made again, as parameters, inputs, the notebook's code or the workbench changed."
    )
    lines = said.lines
    assert lines.pop(1) == again
    assert f"1: {LostCrew.sentence}" in said.err
    assert re.fullmatch(rf"failed +1  {re.escape(LostCrew.sentence)}", lines[1])
    assert lines[2].startswith("1 failed: ")
    assert LostCrew.sentence in (plan.root / "index.html").read_text()
    assert LostCrew.sentence in (plan.root / "summary.csv").read_text()


@pytest.fixture
def crew(monkeypatch: pytest.MonkeyPatch) -> Callable[..., ScriptedCrew]:
    def crew(ends: Mapping[str, Sequence[Record]], held: Collection[str] = ()) -> ScriptedCrew:
        hired = ScriptedCrew(ends, held)
        hire(hired, monkeypatch)
        return hired

    return crew


FAILED = Record("failed", "ValueError: no such luck.")
NO_MEMORY = Record("failed", "the notebook needs more memory than there is; try a smaller size.")
HOPELESS = Record("failed", "bad.txt is damaged.", hopeless=True)
Crew = Callable[..., ScriptedCrew]


def test_a_run_that_memory_cannot_hold_is_one_failed_run(
    folder: Path, batch: Command, crew: Crew
) -> None:
    write_batch(folder, output="runs/it/{number}", grid={"number": [1, 2, 3]})
    crew({"1": [NO_MEMORY]})
    said = batch("it.yaml")
    assert said.code == 1
    assert said.err.splitlines() == [
        "Dask's dashboard: http://here",
        f"1: {NO_MEMORY.sentence}",
        "2: done, 2 of 3",
        "3: done, 3 of 3",
    ]
    assert said.lines[-1].startswith("1 failed, 2 done: ")


def test_failed_runs_leave_the_others_alone_and_are_run_again(
    folder: Path, batch: Command, crew: Crew
) -> None:
    plan = write_batch(folder, output="runs/it/{number}", grid={"number": [1, 2, 3, 4]})
    hired = crew({"1": [HOPELESS], "3": [FAILED]})
    said = batch("it.yaml", "--workers", "2")
    assert said.code == 1
    assert [line.split()[0] for line in said.lines[1:-1]] == ["failed", "failed", "done", "done"]
    assert said.lines[-1].startswith("2 failed, 2 done: ")
    page = html.unescape((plan.root / "index.html").read_text())
    for name, record in (("1", HOPELESS), ("3", FAILED)):
        assert record.sentence in page
        assert table(plan)[name]["state"] == "failed"
        assert table(plan)[name]["sentence"] == record.sentence
        line = rf"failed .*  {name} +{re.escape(record.sentence)}"
        assert any(re.fullmatch(line, each) for each in said.lines)
        assert said.err.count(f"{name}: {record.sentence}\n") == 1
    before = {name: everything(plan.root / name) for name in "24"}

    said = batch("it.yaml")
    assert said.code == 0
    assert said.lines[0] == "4 runs, 2 done already."
    assert hired.started[4:] == ["1", "3"]
    assert {row["state"] for row in table(plan).values()} == {"done"}
    assert {name: everything(plan.root / name) for name in "24"} == before
    assert {path.name for path in plan.root.glob(".*")} == {".batch"}


def table(plan: Plan) -> dict[str, dict[str, str]]:
    with (plan.root / "summary.csv").open(newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def test_a_second_batch_is_kept_out_and_a_changed_input_is_noticed(
    folder: Path, batch: Command, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = write_batch(folder, output="runs/it/{number}", grid={"number": [1, 2]})
    sentence = "a.png changed while it ran; the same command runs it again."
    hired = crew({"2": [Record("changed", sentence)]}, held=["2"])
    refused: list[str] = []
    ended = hired.ended

    def meanwhile(seconds: float) -> Iterator[tuple[Any, Record | None]]:
        with pytest.raises(InputError) as caught:
            schedule.run_batch(plan)
        refused.append(str(caught.value))
        assert schedule.is_running(plan)
        return ended(seconds)

    monkeypatch.setattr(hired, "ended", meanwhile)
    said = batch("it.yaml")
    file = folder / "it.yaml"
    assert set(refused) == {
        f"{file} is being worked on already by process {os.getpid()} on {socket.gethostname()};"
        f" `workbench batch status {file}` says how it stands."
    }
    assert said.code == 1
    assert any(re.fullmatch(rf"changed .* 2  {re.escape(sentence)}", each) for each in said.lines)
    assert table(plan)["2"]["sentence"] == sentence
    monkeypatch.undo()
    before = everything(plan.root / "1")
    crew({})
    monkeypatch.chdir(folder)
    assert batch("it.yaml").code == 0
    assert everything(plan.root / "1") == before
    assert {row["state"] for row in table(plan).values()} == {"done"}


def test_retries_are_for_runs_that_may_end_otherwise(
    folder: Path, batch: Command, crew: Crew
) -> None:
    write_batch(folder, output="runs/it/{number}", grid={"number": [1, 2, 3, 4]})
    lost = [None, None]  # by the scheduler, which is no failure
    hired = crew({"1": [FAILED], "2": [FAILED, FAILED], "3": [HOPELESS], "4": lost})
    said = batch("it.yaml", "--retries", "1")
    assert said.code == 1
    assert sorted(hired.started) == list("11223444")
    assert [line.split()[0] for line in said.lines[1:-1]] == ["failed", "failed", "done", "done"]
    assert f"1: {FAILED.sentence} It is tried again." in said.err
    assert f"2: {FAILED.sentence}\n" in said.err
    assert f"3: {HOPELESS.sentence}\n" in said.err


def test_no_keep_going_starts_nothing_new_after_a_failure(
    folder: Path, batch: Command, crew: Crew
) -> None:
    write_batch(folder, output="runs/it/{number}", grid={"number": [1, 2, 3]})
    hired = crew({"1": [FAILED]}, held=["2"])
    said = batch("it.yaml", "--no-keep-going")
    assert said.code == 1
    assert hired.started == ["1", "2"]
    assert said.lines[-1].startswith("1 failed, 1 waiting, 1 done: ")


def test_no_worker_is_idle_while_runs_wait(folder: Path, batch: Command, crew: Crew) -> None:
    write_batch(folder, output="runs/it/{number}", grid={"number": [1, 2, 3, 4, 5]})
    hired = crew({}, held=["1"])
    said = batch("it.yaml")
    assert hired.started == ["1", "2", "3", "4", "5"]
    assert [line.split()[0] for line in said.err.splitlines()[1:]] == ["2:", "3:", "4:", "5:", "1:"]


def test_what_depends_on_a_change_is_run_again_and_nothing_else(
    folder: Path, batch: Command, crew: Crew
) -> None:
    hired = crew({})

    def made_now(style: str = "b.png") -> list[str]:
        second = {"number": 2, "style": style}
        write_batch(folder, output="runs/it/{number}", grid={"number": [1]}, include=[second])
        before = len(hired.started)
        assert batch("it.yaml").code == 0
        return hired.started[before:]

    assert made_now() == ["1", "2"]
    (folder / "a.png").touch()
    assert made_now() == []
    Image.new("RGB", (8, 8), "green").save(folder / "a.png")
    assert made_now() == ["1"]
    assert made_now("./b.png") == ["2"]
    write_notebook(folder / "paint.ipynb", "print(number + 1)", parameters=PARAMETERS)
    assert made_now("./b.png") == ["1", "2"]


# --- how it stands -----------------------------------------------------------------------


def test_status_says_how_each_run_stands(folder: Path, batch: Command) -> None:
    plan = write_batch(folder, grid={"style": ["a.png", "b.png"], "number": [1, 2, 3]})
    done, changed, failed, left, waiting, running = plan.runs
    finish(done)
    sentence = "a.png changed while it ran; the same command runs it again."
    finish(changed, "changed", sentence)
    start(failed, "failed", "ValueError: no.")
    start(left, "running", stage="cell 2 of 3")  # by a process that was killed
    before = everything(folder)
    start(running, "running", stage="cell 3 of 9, painting 12/48")
    with claim(running, 0):
        said = batch("status", "it.yaml")
    assert (said.code, said.err) == (0, "")
    assert said.lines == [
        "failed       3.2 s  a-3  ValueError: no.",
        f"changed     12.3 s  a-2  {sentence}",
        "running             b-3  cell 3 of 9, painting 12/48",
        "waiting             b-1",
        "waiting             b-2",
        "done        12.3 s  a-1",
        "1 failed, 1 changed, 1 running, 2 waiting, 1 done: " + str(plan.root / "index.html"),
    ]
    assert waiting.name == "b-2"
    after = everything(folder)
    assert {name: after[name] for name in before} == before


def test_status_before_the_first_start_makes_nothing(folder: Path, batch: Command) -> None:
    plan = write_batch(folder)
    before = everything(folder)
    said = batch("status", "it.yaml")
    assert said.lines[-1] == f"4 waiting: {plan.root / 'index.html'}"
    assert (said.code, said.err) == (0, "")
    assert everything(folder) == before


def test_status_says_whether_it_is_being_worked_on(folder: Path, batch: Command) -> None:
    plan = write_batch(folder)
    (plan.root / ".batch").mkdir(parents=True)
    lock = plan.root / ".batch/lock"
    with FileLock(lock):
        said = batch("status", "it.yaml")
        assert said.lines[-1] == "It is being worked on."
        second = batch("it.yaml")
        assert second.code == 2
        assert second.err == (
            f"workbench: {folder / 'it.yaml'} is being worked on already; `workbench batch status"
            f" {folder / 'it.yaml'}` says how it stands.\n"
        )
    assert batch("status", "it.yaml").lines[-1].startswith("4 waiting: ")
    lock.touch()  # of a batch that was killed
    assert batch("status", "it.yaml").lines[-1].startswith("4 waiting: ")


def test_a_long_table_is_cut_with_the_failures_at_its_top(folder: Path, batch: Command) -> None:
    plan = write_batch(folder, output="runs/it/{number}", grid={"number": list(range(1, 46))})
    for run in plan.runs[:42]:
        finish(run)
    for run in plan.runs[-2:]:
        start(run, "failed", f"ValueError: {run.name}.")
    said = batch("status", "it.yaml")
    assert len(said.lines) == 42
    assert said.lines[:3] == [
        "failed       3.2 s  44  ValueError: 44.",
        "failed       3.2 s  45  ValueError: 45.",
        "waiting             43",
    ]
    assert said.lines[3] == "done        12.3 s  1"
    assert said.lines[-2:] == [
        "and 5 more",
        f"2 failed, 1 waiting, 42 done: {plan.root / 'index.html'}",
    ]


def test_many_finished_runs_are_each_looked_at_a_few_times(
    folder: Path, batch: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = write_batch(folder, output="runs/it/{number}", grid={"number": list(range(100))})
    for run in plan.runs:
        finish(run)
    read: list[Path] = []
    read_text = Path.read_text

    def counted(self: Path, *arguments: Any) -> str:
        read.append(self)
        return read_text(self, *arguments)

    monkeypatch.setattr(Path, "read_text", counted)
    for words in (("status", "it.yaml"), ("it.yaml",), ("it.yaml", "--dry-run")):
        read.clear()
        said = batch(*words)
        assert said.code == 0
        assert len(read) < 10 * len(plan.runs)
        if "--dry-run" not in words:
            assert said.lines[-2] == "and 60 more"
            assert said.lines[-1].startswith("100 done: ")


# --- wrong use ---------------------------------------------------------------------------

BAD = [
    ("", "it is empty"),
    ("notebook: paint.ipynb\noutput: [", "line 2, column 10: it is not YAML"),
    ("notebook: paint.ipynb\n", "`output:` is missing"),
    ("notebook: paint.ipynb\noutput: runs/it/{number}\ngrid: {numbr: [1]}\n", "'number'?"),
    ("notebook: pain.ipynb\noutput: runs/it/{number}\n", "did you mean paint.ipynb?"),
    ("notebook: paint.ipynb\noutput: runs/it/{number}\ngrid: {number: [a]}\n", "must be int"),
]


@pytest.mark.parametrize(("text", "sentence"), BAD, ids=[sentence for _, sentence in BAD])
@pytest.mark.parametrize("words", ["", "status", "--dry-run"])
def test_a_bad_batch_file_is_one_sentence(
    text: str, sentence: str, words: str, folder: Path, batch: Command
) -> None:
    (folder / "it.yaml").write_text(text)
    before = everything(folder)
    said = batch(*words.split(), "it.yaml")
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("workbench: it.yaml: ")
    assert sentence in said.err
    assert said.err.count("\n") == 1
    assert everything(folder) == before


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("nowhere.yaml", "nowhere.yaml: there is no such file."),
        ("status nowhere.yaml", "nowhere.yaml: there is no such file."),
        ("status", "status: there is no such file."),
        ("it.yaml it.yaml", "give one batch file; only `status` may precede it."),
        ("staus it.yaml", "give one batch file; only `status` may precede it."),
        (".", ".: it cannot be read: is a directory."),
    ],
)
def test_wrong_words_are_one_sentence(
    words: str, sentence: str, folder: Path, batch: Command
) -> None:
    write_batch(folder)
    before = everything(folder)
    said = batch(*words.split())
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("workbench: ")
    assert said.err.endswith(f"{sentence}\n")
    assert said.err.count("\n") == 1
    assert everything(folder) == before


@pytest.mark.parametrize("option", [["--workers", "0"], ["--retries", "-1"], ["--workers", "x"]])
def test_wrong_options_are_refused(option: list[str], folder: Path, batch: Command) -> None:
    write_batch(folder)
    before = everything(folder)
    said = batch("it.yaml", *option)
    assert said.code == 2
    assert option[0] in said.err
    assert everything(folder) == before


def test_a_real_process_with_a_bad_file_ends_with_2(folder: Path) -> None:
    (folder / "it.yaml").write_text(BAD[1][0])
    done = workbench("batch", "it.yaml", cwd=folder)
    assert done.returncode == 2
    assert done.stderr.startswith("workbench: it.yaml: line 2, column 10: it is not YAML")
    assert done.stderr.count("\n") == 1


# --- what others put there ---------------------------------------------------------------


def test_a_folder_of_somebody_else_is_left_alone(folder: Path, batch: Command) -> None:
    plan = write_batch(folder)
    finish(plan.runs[0])
    taken = plan.runs[1].output
    taken.mkdir()
    (taken / "novel.txt").write_text("Call me Ishmael.")
    before = everything(folder)
    said = batch("it.yaml")
    assert said.code == 1
    assert said.err == (
        f"workbench: {taken} is there already and was not made by `workbench batch`; move it away,"
        " or give `output` another name.\n"
    )
    after = everything(folder)
    assert {name: after[name] for name in before} == before
    assert not (plan.root / "index.html").exists()


@pytest.mark.parametrize("name", ["index.html", "summary.csv"])
def test_a_page_of_somebody_else_is_left_alone(name: str, folder: Path, batch: Command) -> None:
    plan = write_batch(folder)
    plan.root.mkdir(parents=True)
    (plan.root / name).write_text("<h1>My holidays</h1>")
    said = batch("it.yaml")
    assert said.code == 1
    assert said.err.startswith(f"workbench: {plan.root / name} was not made by `workbench batch`")
    assert said.err.count("\n") == 1
    assert (plan.root / name).read_text() == "<h1>My holidays</h1>"
    assert [path.name for path in plan.root.iterdir() if path.name[0] != "."] == [name]


def test_the_page_of_another_batch_file_is_left_alone(folder: Path, batch: Command) -> None:
    plan = write_batch(folder)
    for run in plan.runs:
        finish(run)
    assert batch("it.yaml").code == 0
    page = (plan.root / "index.html").read_bytes()
    (folder / "it.yaml").rename(folder / "that.yaml")
    said = batch("that.yaml")
    assert said.code == 1
    assert "is the page of another batch file, it.yaml; give this batch a folder" in said.err
    assert said.err.count("\n") == 1
    assert (plan.root / "index.html").read_bytes() == page
    assert batch("status", "that.yaml").code == 0


def test_a_file_in_the_place_of_the_folder_is_found_out_first(folder: Path, batch: Command) -> None:
    plan = write_batch(folder)
    plan.root.parent.mkdir()
    plan.root.write_text("a file")
    said = batch("it.yaml")
    assert said.code == 1
    assert "cannot be written: " in said.err
    assert said.err.count("\n") == 1
    assert plan.root.read_text() == "a file"


def test_a_half_moved_run_is_put_right(folder: Path, batch: Command) -> None:
    plan = write_batch(folder)
    for run in plan.runs:
        finish(run)
    with contextlib.chdir(plan.root):
        Path("a-1").rename(".old-a-1")  # killed with the older one out of the way
    assert batch("it.yaml").code == 0
    assert (plan.root / "a-1/result.json").is_file()
    assert not (plan.root / ".old-a-1").exists()
