from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from workbench import files
from workbench.batch import execute, record
from workbench.batch.plan import Plan
from workbench.batch.record import (
    STATE_FOLDER,
    Kind,
    Record,
    Run,
    check_output,
    claim,
    clear,
    is_claimed,
    mend,
    publish,
    read_record,
    read_state,
    watch,
    write_record,
)
from workbench.errors import InputError, OutputError
from workbench.notebook import failed_notebook
from workbench.runs import RESULT, finish_run

TITLE = "paint.ipynb"
RECORD = "batch.json"


class Killed(BaseException):
    """Stands for the end of the process."""


def make_run(folder: Path, name: str = "one", key: str = "a" * 64) -> Run:
    return Run(name, folder / name, {}, {}, key)


def make_record(run: Run, kind: Kind = "done", **changes: Any) -> Record:
    record = Record(
        kind, attempts=2, host="here", key=run.key, output=run.output.name, notebook=TITLE
    )
    return replace(record, **changes)


def fill(folder: Path, run: Run, kind: Kind = "done", text: str = "", **changes: Any) -> Path:
    """Write what a run leaves, with its record and, if it is finished, its result."""
    (folder / "frames").mkdir(parents=True)
    for path in (folder / "picture.png", folder / "frames" / "0.png"):
        path.write_text(text)
    if kind in ("done", "changed"):
        (folder / TITLE).touch()
        outputs = {"picture": folder / "picture.png"}
        finish_run(folder, outputs=outputs, figures={"a": 1.5}, settings={}, weights={}, seconds=7)
    write_record(folder, make_record(run, kind, **changes))
    return folder


def whole(folder: Path) -> str | None:
    """What was written into a finished run that `fill` made; None if it is not in one piece."""
    names = {"batch.json", "frames", "paint.ipynb", "picture.png", "result.json"}
    if not folder.is_dir() or {path.name for path in folder.iterdir()} != names:
        return None
    frame = folder / "frames" / "0.png"
    text = (folder / "picture.png").read_text()
    return text if frame.is_file() and frame.read_text() == text else None


def listing(folder: Path) -> list[str]:
    """What is in a folder, but for the batch's own."""
    return sorted(path.name for path in folder.iterdir() if path.name != STATE_FOLDER)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


# --- how a run stands --------------------------------------------------------------------


def test_run_of_which_there_is_nothing_waits(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs")
    assert read_state(run) == Record()
    assert watch(run) == Record()
    assert not tmp_path.joinpath("runs").exists()


@pytest.mark.parametrize("kind", ["failed", "done", "changed"])
def test_run_whose_next_attempt_has_not_begun_waits(kind: Kind, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    fill(run.work, run, kind, sentence="It is full.")
    assert watch(run) == Record(attempts=2)


def test_claimed_run_says_where_it_is(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    fill(run.work, run, "running", stage="cell 2 of 3, painting 4/9")
    with claim(run, 0):
        state = read_state(run)
        assert watch(run) == state
    assert (state.kind, state.stage) == ("running", "cell 2 of 3, painting 4/9")
    assert (state.attempts, state.host, state.seconds) == (2, "here", None)


def test_run_that_was_killed_waits(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    fill(run.work, run, "running", stage="cell 2 of 3")
    with claim(run, 0):
        pass
    assert read_state(run) == Record(attempts=2)


@pytest.mark.parametrize("kind", ["done", "changed"])
def test_finished_run_that_was_not_moved_yet_waits(kind: Kind, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    fill(run.work, run, kind)
    assert read_state(run) == Record(attempts=2)


@pytest.mark.parametrize("kept", [False, True])
def test_failed_run_says_why_and_shows_its_notebook(kept: bool, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    work = fill(run.work, run, "failed", sentence="It is full.", seconds=1.5)
    notebook = failed_notebook(work / TITLE)
    if kept:
        notebook.touch()
    state = read_state(run)
    assert (state.kind, state.sentence) == ("failed", "It is full.")
    assert (state.attempts, state.seconds, state.host) == (2, 1.5, "here")
    assert state.file(state.notebook) == (notebook if kept else None)


@pytest.mark.parametrize("kind", ["done", "changed"])
def test_finished_run_shows_what_it_made(kind: Kind, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    fill(run.output, run, kind, sentence="a remark", shown="picture.png")
    (run.output / record.THUMBNAIL).touch()
    state = read_state(run)
    assert (state.kind, state.sentence) == (kind, "a remark")
    assert (state.attempts, state.seconds, state.host) == (2, 7, "here")
    assert state.figures == {"a": 1.5}
    assert state.file(state.notebook) == run.output / TITLE
    assert state.file(record.THUMBNAIL) == run.output / "thumbnail.webp"
    assert state.file(state.shown) == run.output / "picture.png"


def test_finished_run_without_pictures_or_notebook_is_finished(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    fill(run.output, run)
    (run.output / TITLE).unlink()
    state = read_state(run)
    assert state.kind == "done"
    files = (state.notebook, record.THUMBNAIL, state.shown)
    assert [state.file(name) for name in files] == [None] * 3


def test_run_with_other_parameters_waits_and_the_older_one_stays(tmp_path: Path) -> None:
    older, newer = make_run(tmp_path), make_run(tmp_path, key="b" * 64)
    fill(older.output, older)
    before = contents(tmp_path)
    assert read_state(newer) == Record()
    check_output(newer)
    mend(newer)
    assert contents(tmp_path) == before
    assert read_state(older).kind == "done"


def test_newer_run_that_failed_leaves_the_older_one_in_place(tmp_path: Path) -> None:
    older, newer = make_run(tmp_path), make_run(tmp_path, key="b" * 64)
    fill(older.output, older)
    fill(newer.work, newer, "failed", sentence="It is full.")
    assert read_state(newer).sentence == "It is full."
    assert read_state(older).kind == "done"


@pytest.mark.parametrize("name", ["picture.png", RESULT, RECORD])
def test_finished_run_that_lost_a_file_waits(name: str, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    fill(run.output, run)
    (run.output / name).unlink()
    assert read_state(run) == Record()


def test_folder_of_a_run_that_lies_elsewhere_now_is_still_that_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "here")
    fill(run.output, run, shown="picture.png")
    shutil.move(tmp_path / "here", tmp_path / "there")
    moved = make_run(tmp_path / "there")
    assert read_state(run) == Record()
    state = read_state(moved)
    assert state.file(state.shown) == moved.output / "picture.png"


DAMAGED = {
    "empty": b"",
    "cut": b'{"key": "a',
    "no text": b"\xff\xfe\x00{",
    "a list": b"[]",
    "a list of records": b'[{"key": "a"}]',
    "a number": b"5",
    "null": b"null",
    "a text": b'"key"',
    "no keys": b"{}",
    "some keys": json.dumps({"key": "a" * 64, "output": "one"}).encode(),
    "other keys": json.dumps({"key": "a" * 64, "colour": "red"}).encode(),
}
DEEP = pytest.param(nested(100_000), id="nested too deeply")


@pytest.mark.parametrize("data", [*(pytest.param(v, id=k) for k, v in DAMAGED.items()), DEEP])
@pytest.mark.parametrize("finished", [False, True])
def test_damaged_record_says_nothing(data: bytes, finished: bool, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    folder = fill(run.output if finished else run.work, run)
    (folder / RECORD).write_bytes(data)
    assert read_record(folder) is None
    assert read_state(run) == Record()
    assert watch(run) == Record()


WRONG_TYPES: dict[str, Any] = {
    "key": 5,
    "output": ["one"],
    "notebook": 5,
    "host": None,
    "attempts": "2",
    "kind": "finished",
    "sentence": ["It is full."],
    "stage": 3,
    "seconds": "long",
    "shown": {"picture": "picture.png"},
    "hopeless": 1,
}


@pytest.mark.parametrize("name", WRONG_TYPES)
def test_record_with_wrong_types_says_nothing(name: str, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    folder = fill(run.work, run, "failed")
    kept = json.loads((folder / RECORD).read_text())
    (folder / RECORD).write_text(json.dumps(kept | {name: WRONG_TYPES[name]}))
    assert read_record(folder) is None
    assert read_state(run) == Record()


@pytest.mark.parametrize("data", [*(pytest.param(v, id=k) for k, v in DAMAGED.items())])
def test_finished_run_with_a_damaged_result_waits(data: bytes, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    fill(run.output, run)
    (run.output / RESULT).write_bytes(data)
    assert read_state(run) == Record()
    check_output(run)  # it is still a run, and may be replaced


def test_record_of_a_run_that_was_finished_years_ago_is_read(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    fill(run.output, run)
    kept = {"key": run.key, "output": "one", "notebook": TITLE, "host": "there", "attempts": 1}
    more = {"kind": "done", "sentence": "", "stage": "", "seconds": 5.0, "shown": "picture.png"}
    (run.output / RECORD).write_text(json.dumps(kept | more))
    state = read_state(run)
    assert (state.kind, state.seconds, state.host) == ("done", 7, "there")
    assert state.file(state.shown) == run.output / "picture.png"


def test_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    texts = {"sentence": 'a "b"\n', "stage": "cell 1", "host": "h", "key": "k", "output": "ünï"}
    files = {"notebook": "絵.ipynb", "shown": "a/b.png"}
    written = Record("failed", attempts=3, seconds=2.5, hopeless=True, **texts, **files)
    write_record(tmp_path, written)
    assert read_record(tmp_path) == replace(written, folder=tmp_path)
    assert listing(tmp_path) == [RECORD]


def test_place_that_is_a_file_holds_no_record(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert read_record(tmp_path / "file") is None


# --- publish -----------------------------------------------------------------------------


def test_finished_run_goes_to_its_name(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    fill(run.work, run, text="newer")
    with claim(run, 0):
        publish(run)
    assert listing(tmp_path) == ["one"]
    assert whole(run.output) == "newer"
    assert read_state(run).kind == "done"


def test_finished_run_takes_the_place_of_an_older_one(tmp_path: Path) -> None:
    older, newer = make_run(tmp_path), make_run(tmp_path, key="b" * 64)
    fill(older.output, older, text="older")
    (older.output / "more.txt").touch()
    fill(newer.work, newer, text="newer")
    publish(newer)
    assert listing(tmp_path) == ["one"]
    assert whole(newer.output) == "newer"
    assert read_state(older).kind == "waiting"


def test_what_other_settings_of_a_run_left_goes_and_nothing_else(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    same = make_run(tmp_path, key="b" * 64)
    busy = make_run(tmp_path, key="c" * 64)
    other = make_run(tmp_path, "other", "d" * 64)
    longer = make_run(tmp_path, "one-2", "e" * 64)
    for each in (same, busy, other, longer):
        fill(each.work, each, "running")
    for name in (".tmp-of-somebody", "elsewhere"):
        (tmp_path / name).mkdir()
    fill(run.work, run)
    with claim(busy, 0):
        publish(run)
    kept = [each.work.name for each in (busy, other, longer)]
    assert listing(tmp_path) == sorted([*kept, ".tmp-of-somebody", "elsewhere", "one"])


def test_run_in_a_deeper_folder_clears_only_beside_itself(tmp_path: Path) -> None:
    run = make_run(tmp_path, "a/one")
    other = make_run(tmp_path, "b/one", "b" * 64)
    above = make_run(tmp_path, "one", "c" * 64)
    for each in (run, other, above):
        fill(each.work, each)
    publish(run)
    assert listing(tmp_path / "a") == ["one"]
    assert other.work.is_dir()
    assert above.work.is_dir()


@contextmanager
def killed_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Lets the process die before it changes a folder for the nth time; lists what it changes."""
    steps: list[str] = []

    def dying(name: str) -> Callable[..., Any]:
        original = getattr(os, name)

        def change(*args: Any, **options: Any) -> Any:
            if len(steps) >= step:
                raise Killed
            steps.append(name)
            return original(*args, **options)

        return change

    with monkeypatch.context() as patched:
        for name in ("rename", "replace", "unlink", "remove", "rmdir", "mkdir"):
            patched.setattr(os, name, dying(name))
        with suppress(Killed):
            yield steps


def goes_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the next batch does: mend; then make the run, if it does not stand there finished."""

    def refuse(*_: object) -> None:
        raise AssertionError("the notebook is run again")

    mend(run)
    check_output(run)
    if read_state(run).kind == "done":
        clear([run])
    else:
        with monkeypatch.context() as patched:
            patched.setattr(execute, "run_notebook", refuse)
            outcome = execute._make(run, plan_of(run))
        assert (outcome.kind, outcome.sentence) == ("done", "")


def plan_of(run: Run) -> Plan:
    folder = run.output.parent
    return Plan(folder / "it.yaml", folder, folder / TITLE, folder, (), (), None)


def prepare(folder: Path, *present: str) -> tuple[Run, Run]:
    """A folder in which a newer run is to be published."""
    older, newer = make_run(folder), make_run(folder, key="b" * 64)
    if "older" in present:
        fill(older.output, older, text="older")
    if "half of one before that" in present:
        (folder / ".old-one" / "frames").mkdir(parents=True)
        (folder / ".old-one" / "frames" / "0.png").touch()
    if "other settings" in present:
        other = make_run(folder, key="c" * 64)
        fill(other.work, other, "failed")
    fill(newer.work, newer, text="newer")
    return older, newer


def in_one_piece(older: Run, newer: Run) -> set[str | None]:
    folder = older.output.parent
    return {whole(each) for each in (newer.output, folder / ".old-one", newer.work)}


PRESENT = [(), ("older",), ("older", "half of one before that"), ("older", "other settings")]


@pytest.mark.parametrize("present", PRESENT, ids=" and ".join)
def test_publishing_survives_a_kill_at_every_step(
    present: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, finished = 0, False
    while not finished:
        folder = tmp_path / str(step)
        older, newer = prepare(folder, *present)
        with killed_at(step, monkeypatch):
            publish(newer)
            finished = True
        assert "newer" in in_one_piece(older, newer)
        # Under its name is a run in one piece, or nothing.
        assert not newer.output.exists() or whole(newer.output) in ("older", "newer")
        goes_on(newer, monkeypatch)
        assert whole(newer.output) == "newer", f"killed at step {step}"
        assert listing(folder)[-1] == "one"
        assert {".old-one", newer.work.name}.isdisjoint(listing(folder))
        step += 1
    assert step >= 2


@pytest.mark.parametrize("present", PRESENT[:3], ids=" and ".join)
def test_mending_survives_a_second_kill_at_every_step(
    present: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, finished = 0, False
    while not finished:
        second, mended = 0, False
        while not mended:
            folder = tmp_path / f"{first}-{second}"
            older, newer = prepare(folder, *present)
            with killed_at(first, monkeypatch):
                publish(newer)
                finished = True
            with killed_at(second, monkeypatch):
                goes_on(newer, monkeypatch)
                mended = True
            assert "newer" in in_one_piece(older, newer)
            goes_on(newer, monkeypatch)
            assert whole(newer.output) == "newer", f"killed at steps {first} and {second}"
            assert listing(folder) == ["one"]
            second += 1
        first += 1


def test_older_run_is_never_lost_before_the_newer_one_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older, newer = prepare(tmp_path, "older")
    seen: list[set[str | None]] = []
    for name in ("rename", "unlink", "rmdir"):
        original = getattr(os, name)

        def change(*args: Any, original: Callable[..., Any] = original, **options: Any) -> None:
            seen.append(in_one_piece(older, newer))
            original(*args, **options)

        monkeypatch.setattr(os, name, change)
    publish(newer)
    monkeypatch.undo()
    assert len(seen) > 5
    assert all("newer" in pieces for pieces in seen)
    removing = next(i for i, pieces in enumerate(seen) if "older" not in pieces)
    assert all("older" in pieces for pieces in seen[:removing])


def test_other_settings_are_cleared_even_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, finished = 0, False
    while not finished:
        folder = tmp_path / str(step)
        _, newer = prepare(folder, "other settings")
        with killed_at(step, monkeypatch):
            publish(newer)
            finished = True
        goes_on(newer, monkeypatch)
        assert listing(folder) == ["one"], f"killed at step {step}"
        step += 1


def test_folder_that_cannot_be_moved_leaves_the_older_run_to_be_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older, newer = prepare(tmp_path, "older")

    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files, "replace", refuse)
    with pytest.raises(PermissionError):
        publish(newer)
    monkeypatch.undo()
    assert in_one_piece(older, newer) == {"older", "newer", None}
    mend(older)
    assert whole(older.output) == "older"
    assert read_state(older).kind == "done"


def test_mending_what_is_whole_changes_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    mend(run)
    assert listing(tmp_path) == []
    fill(run.output, run)
    fill(run.work, run, "running")
    before = contents(tmp_path)
    mend(run)
    assert contents(tmp_path) == before


# --- whose folder it is ------------------------------------------------------------------


def test_empty_place_and_runs_of_a_batch_are_accepted(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    check_output(run)
    fill(run.output, make_run(tmp_path, key="b" * 64))
    check_output(run)


def test_file_folder_or_run_of_somebody_else_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path)

    def refused() -> None:
        before = contents(tmp_path)
        with pytest.raises(OutputError) as caught:
            check_output(run)
        assert str(run.output) in str(caught.value)
        assert "move it away" in str(caught.value)
        assert contents(tmp_path) == before

    run.output.touch()
    refused()
    run.output.unlink()
    run.output.mkdir()
    refused()
    (run.output / "thesis.txt").write_text("long work")
    refused()
    (run.output / "thesis.txt").rename(run.output / "picture.png")
    outputs = {"picture": run.output / "picture.png"}
    finish_run(run.output, outputs=outputs, figures={}, settings={}, weights={}, seconds=1)
    refused()


def test_link_to_a_run_on_another_disk_is_accepted(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs")
    fill(tmp_path / "disk" / "one", run, text="older")
    run.output.parent.mkdir()
    run.output.symlink_to(tmp_path / "disk" / "one")
    check_output(run)
    assert read_state(run).kind == "done"


# --- claims ------------------------------------------------------------------------------


def test_asking_for_a_claim_creates_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs")
    assert not is_claimed(run)
    assert listing(tmp_path) == []
    run.work.mkdir(parents=True)
    assert not is_claimed(run)
    assert listing(run.work) == []
    with claim(run, 0):
        assert is_claimed(run)
    assert not is_claimed(run)
    assert listing(run.work) == []


def test_claim_can_be_had_again(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.work.mkdir()
    for _ in range(3):
        with claim(run, 0):
            assert is_claimed(run)


def test_claim_is_given_up_when_the_work_fails(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.work.mkdir()
    with pytest.raises(ValueError, match="on the way"), claim(run, 0):
        raise ValueError("on the way")
    assert not is_claimed(run)


def test_second_claimant_gives_up_after_its_time(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.work.mkdir()
    began = time.monotonic()
    with claim(run, 0):
        with pytest.raises(InputError) as caught, claim(run, 0.2):
            pytest.fail("two are at it")
        assert is_claimed(run)
    assert time.monotonic() - began >= 0.2
    assert str(caught.value) == f"{run.output} is being made by another process."


class Second(threading.Thread):
    """Another who wants to make a run."""

    def __init__(self, run: Run) -> None:
        super().__init__(daemon=True)
        self.run_, self.got, self.error = run, False, None
        self.start()

    def run(self) -> None:
        try:
            with claim(self.run_, 20):
                self.got = True
        except BaseException as error:
            self.error = error


def test_second_claimant_waits_for_the_first(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.work.mkdir()
    with claim(run, 0):
        second = Second(run)
        second.join(0.2)
        assert second.is_alive()
    second.join(10)
    assert second.got


def test_second_claimant_may_go_on_when_the_first_has_published(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    fill(run.work, run)
    with claim(run, 0):
        second = Second(run)
        second.join(0.2)
        publish(run)
        second.join(0.5)
    second.join(10)
    assert second.error is None or isinstance(second.error, InputError)
    assert read_state(run).kind == "done"


def test_run_stays_claimed_until_it_is_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older, newer = prepare(tmp_path, "older")
    claimed: list[bool] = []

    def watched(move: Callable[[Path, Path], object]) -> Callable[[Path, Path], object]:
        def moved(source: Path, target: Path) -> object:
            claimed.append(is_claimed(newer))
            return move(source, target)

        return moved

    with claim(newer, 0):
        monkeypatch.setattr(Path, "rename", watched(Path.rename))
        monkeypatch.setattr(Path, "replace", watched(Path.replace))
        publish(newer)
        monkeypatch.undo()
    assert claimed == [True, True]
    assert read_state(older).kind == "waiting"
