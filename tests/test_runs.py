from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import workbench
from workbench.errors import InputError, OutputError
from workbench.files import claimed
from workbench.runs import (
    RESULT,
    Identity,
    Result,
    check_result,
    digest,
    finish_run,
    read_result,
    same_run,
    start_run,
)
from workbench.settings import Settings

DETAILS: dict[str, Any] = {
    "figures": {"total": 12.5, "steps": 200},
    "settings": Settings().as_dict(),
    "weights": {"name": "vgg16", "sha256": "0" * 64},
    "seconds": 3.25,
}
unhurried = hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
names = st.text(min_size=1)
numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**63), 2**63)


def finished(folder: Path) -> Result:
    """A run with two outputs, one of them in a folder of its own."""
    folder = start_run(folder)
    (folder / "frames").mkdir(exist_ok=True)
    picture, frame = folder / "painted.png", folder / "frames" / "0001.png"
    picture.write_bytes(b"picture")
    frame.write_bytes(b"frame")
    return finish_run(folder, outputs={"picture": picture, "frame": frame}, **DETAILS)


def test_run_starts_in_a_new_folder(tmp_path: Path) -> None:
    folder = start_run(tmp_path / "new" / "run")
    assert folder == tmp_path / "new" / "run" / "unfinished"
    assert list(folder.iterdir()) == []
    assert start_run(folder) == folder


def files(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def make(folder: Path, *names: str, text: str) -> Result:
    """Write outputs of those names into a folder from `start_run`, and finish."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    outputs = {name: folder / name for name in names}
    return finish_run(folder, outputs=outputs, **DETAILS)


def test_a_finished_run_stays_whole_until_the_next_one_is(tmp_path: Path) -> None:
    first = make(start_run(tmp_path), "a.png", "b.png", "cells/1.png", text="old")
    before = files(tmp_path)
    assert {"a.png", "b.png", "cells/1.png", RESULT} == set(before)

    folder = start_run(str(tmp_path))
    (folder / "a.png").write_text("new")
    kept = {name: data for name, data in files(tmp_path).items() if "unfinished" not in name}
    assert kept == before
    assert read_result(tmp_path) == first

    second = make(folder, "a.png", "cells/2.png", text="new")
    now = files(tmp_path)
    # What the second run has not is gone, but cells may be wanted again.
    assert set(now) == {"a.png", "cells/1.png", "cells/2.png", RESULT}
    assert (now["a.png"], now["cells/1.png"]) == (b"new", b"old")
    assert read_result(tmp_path) == second
    assert second.outputs == {"a.png": "a.png", "cells/2.png": "cells/2.png"}


def test_what_a_broken_off_run_wrote_is_not_taken_for_the_next_ones(tmp_path: Path) -> None:
    folder = start_run(tmp_path)
    (folder / "style 2.jpg").write_text("of another run")
    (folder / "cells").mkdir()
    (folder / "cells" / "1.png").write_text("kept")
    assert start_run(tmp_path) == folder
    assert list(files(folder)) == ["cells/1.png"]


def test_the_last_cells_may_run_once_more(tmp_path: Path) -> None:
    folder = start_run(tmp_path)
    make(folder, "inputs.png", "a.png", text="once")
    folder.mkdir()
    (folder / "a.png").write_text("twice")
    outputs = {"inputs": folder / "inputs.png", "a": folder / "a.png"}
    result = finish_run(folder, outputs=outputs, **DETAILS)
    assert result.outputs == {"inputs": "inputs.png", "a": "a.png"}
    assert (tmp_path / "a.png").read_text() == "twice"
    assert not folder.exists()


def test_killed_while_files_are_moved_the_rest_is_moved_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(start_run(tmp_path), "a.png", "b.png", text="old")
    move = Path.replace

    def killed(self: Path, target: Path) -> Path:
        if self.name == "b.png":
            raise KeyboardInterrupt
        return move(self, target)

    folder = start_run(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            make(folder, "a.png", "b.png", text="new")
    assert read_result(tmp_path) is None
    start_run(tmp_path)
    result = read_result(tmp_path)
    assert result is not None
    assert {(tmp_path / path).read_text() for path in result.outputs.values()} == {"new"}


def test_numbered_runs_get_a_folder_each_and_an_unfinished_one_goes_on(tmp_path: Path) -> None:
    pattern = str(tmp_path / "{n}" / "run")
    first = start_run(pattern)
    assert first == tmp_path / "001" / "run" / "unfinished"
    assert start_run(pattern) == first
    make(first, "a.png", text="first")
    second = start_run(pattern)
    assert second == tmp_path / "002" / "run" / "unfinished"
    make(second, "a.png", text="second")
    assert set(files(tmp_path / "001" / "run")) == {"a.png", RESULT}
    (tmp_path / "003" / "run").mkdir(parents=True)  # somebody else's
    assert start_run(pattern) == tmp_path / "004" / "run" / "unfinished"


def test_a_number_in_use_by_another_process_is_left_to_it(tmp_path: Path) -> None:
    (tmp_path / "001" / "unfinished").mkdir(parents=True)
    with claimed(tmp_path / "001"):
        assert start_run(tmp_path / "{n}") == tmp_path / "002" / "unfinished"


def test_a_run_knows_how_long_it_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.monotonic", lambda: 100.0)
    folder = start_run(tmp_path)
    monkeypatch.setattr("time.monotonic", lambda: 107.5)
    details = {**DETAILS, "seconds": None}
    assert finish_run(folder, outputs={}, **details).seconds == 7.5


def test_file_is_no_folder_for_a_run(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("old")
    with pytest.raises(OutputError, match="cannot be written"):
        start_run(tmp_path / "run")
    assert (tmp_path / "run").read_text() == "old"


def test_result_says_everything(tmp_path: Path) -> None:
    finished(tmp_path)
    written = json.loads((tmp_path / "result.json").read_text("utf-8"))
    assert written.keys() == {*DETAILS, "outputs", "versions"}
    assert written["outputs"] == {"picture": "painted.png", "frame": "frames/0001.png"}
    assert {key: written[key] for key in DETAILS} == DETAILS
    assert written["versions"]["workbench"] == workbench.__version__
    assert {"python", "torch", "numpy", "pillow"} <= written["versions"].keys()


def test_outputs_may_be_named_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    finished(Path("run"))
    monkeypatch.chdir("run")
    result = read_result(tmp_path / "run")
    assert result is not None
    assert result.outputs["frame"] == "frames/0001.png"


def test_finished_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert finished(tmp_path) == read_result(tmp_path)


def test_finished_folder_may_be_moved(tmp_path: Path) -> None:
    written = finished(tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    assert read_result(tmp_path / "there") == written


@unhurried
@given(
    st.dictionaries(names, numbers),
    st.dictionaries(names, st.text() | numbers | st.lists(st.text())),
    st.integers(0, 10**9).map(lambda milliseconds: milliseconds / 1000),
)
def test_any_figures_and_settings_survive(
    tmp_path_factory: pytest.TempPathFactory,
    figures: dict[str, float],
    settings: dict[str, Any],
    seconds: float,
) -> None:
    folder = tmp_path_factory.getbasetemp() / "any-run"
    written = finish_run(
        folder, outputs={}, figures=figures, settings=settings, weights={}, seconds=seconds
    )
    assert read_result(folder) == written
    assert (written.figures, written.settings, written.seconds) == (figures, settings, seconds)


def test_missing_output_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'picture'.*painted\.png"):
        finish_run(tmp_path, outputs={"picture": tmp_path / "painted.png"}, **DETAILS)
    assert not (tmp_path / RESULT).exists()


@pytest.mark.parametrize("way", ["direct", "dots", "link"])
def test_output_outside_of_the_folder_is_refused(tmp_path: Path, way: str) -> None:
    folder = start_run(tmp_path / "run")
    outside = tmp_path / "painted.png"
    outside.write_bytes(b"picture")
    path = {
        "direct": outside,
        "dots": folder / ".." / "painted.png",
        "link": folder / "painted.png",
    }[way]
    if way == "link":
        path.symlink_to(outside)
    with pytest.raises(InputError, match=r"'picture'.*outside"):
        finish_run(folder, outputs={"picture": path}, **DETAILS)
    assert not (folder / RESULT).exists()


def test_folder_is_no_output(tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    with pytest.raises(InputError, match="'frames'"):
        finish_run(tmp_path, outputs={"frames": tmp_path / "frames"}, **DETAILS)


def test_unfinished_run_has_no_result(tmp_path: Path) -> None:
    assert read_result(tmp_path / "missing") is None
    assert read_result(start_run(tmp_path)) is None
    (tmp_path / RESULT).mkdir()
    assert read_result(tmp_path) is None


@pytest.mark.parametrize("name", ["painted.png", "frames/0001.png"])
def test_run_whose_output_is_gone_has_no_result(tmp_path: Path, name: str) -> None:
    finished(tmp_path)
    (tmp_path / name).unlink()
    assert read_result(tmp_path) is None


def test_result_cut_short_anywhere_is_none(tmp_path: Path) -> None:
    written = finished(tmp_path)
    content = (tmp_path / RESULT).read_bytes()
    for length in range(0, len(content), 7):
        (tmp_path / RESULT).write_bytes(content[:length])
        assert read_result(tmp_path) is None
    (tmp_path / RESULT).write_bytes(content)
    assert read_result(tmp_path) == written


@pytest.mark.parametrize(
    "content", [b"", b"no json", b"\xff\xfe\x00", b"[]", b"{}", b"3", b"null", b'{"name": "other"}']
)
def test_foreign_result_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / RESULT).write_bytes(content)
    assert read_result(tmp_path) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda result: result.pop("seconds"),
        lambda result: result.update(more=1),
        lambda result: result.update(outputs=["painted.png"]),
        lambda result: result.update(outputs={"picture": 3}),
        lambda result: result.update(outputs={"picture": "a" * 300}),
        lambda result: result.update(figures=[1.0]),
        lambda result: result.update(figures={"total": "12"}),
        lambda result: result.update(figures={"total": float("nan")}),
        lambda result: result.update(settings=3),
        lambda result: result.update(weights=None),
        lambda result: result.update(versions="1.0"),
        lambda result: result.update(seconds=None),
        lambda result: result.update(seconds=float("inf")),
        lambda result: result.update(seconds=10**400),
    ],
)
def test_result_with_a_wrong_entry_is_none(
    tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    finished(tmp_path)
    result = json.loads((tmp_path / RESULT).read_text("utf-8"))
    change(result)
    (tmp_path / RESULT).write_text(json.dumps(result))
    assert read_result(tmp_path) is None


def test_a_figure_that_is_not_finite_is_refused_by_name(tmp_path: Path) -> None:
    details = {**DETAILS, "figures": {"loss": float("nan")}}
    with pytest.raises(InputError, match="'loss' is nan"):
        finish_run(start_run(tmp_path), outputs={}, **details)
    assert read_result(tmp_path) is None


@pytest.mark.parametrize("way", ["absolute", "dots", "link", "linked folder"])
def test_result_with_an_output_outside_of_its_folder_is_none(tmp_path: Path, way: str) -> None:
    folder = tmp_path / "run"
    finished(folder)
    outside = tmp_path / "elsewhere" / "secret.png"
    outside.parent.mkdir()
    outside.write_bytes(b"secret")
    (folder / "link.png").symlink_to(outside)
    (folder / "linked").symlink_to(outside.parent)
    result = json.loads((folder / RESULT).read_text("utf-8"))
    result["outputs"]["picture"] = {
        "absolute": str(outside),
        "dots": "../elsewhere/secret.png",
        "link": "link.png",
        "linked folder": "linked/secret.png",
    }[way]
    (folder / RESULT).write_text(json.dumps(result))
    assert read_result(folder) is None
    with pytest.raises(InputError, match=r"'picture' lies outside of the run's folder"):
        check_result(folder)


def test_link_within_the_folder_is_an_output_like_any(tmp_path: Path) -> None:
    finished(tmp_path)
    (tmp_path / "painted.png").rename(tmp_path / "other.png")
    (tmp_path / "painted.png").symlink_to("other.png")
    assert read_result(tmp_path) is not None


def test_what_is_wrong_with_a_result_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"result\.json: there is no such file"):
        check_result(tmp_path)
    finished(tmp_path)
    (tmp_path / "painted.png").unlink()
    with pytest.raises(InputError, match=r"'picture', .*painted\.png, is gone"):
        check_result(tmp_path)
    for content in ("[" * 100_000, '{"outputs": {}', "[]"):
        (tmp_path / RESULT).write_text(content)
        with pytest.raises(InputError, match=r"is damaged, or was not written by the workbench"):
            check_result(tmp_path)


@pytest.mark.parametrize("run_json", [None, '{"clip": "ab'], ids=["lost", "torn"])
def test_parts_of_a_film_without_run_json_are_not_taken_over(
    run_json: str | None, tmp_path: Path
) -> None:
    (tmp_path / "000000.mp4").write_bytes(b"painted by whom?")
    if run_json is not None:
        (tmp_path / "run.json").write_text(run_json)
    with pytest.raises(InputError, match=r"holds files but no run\.json"):
        same_run(tmp_path, Identity({"model": "another"}))


def test_a_folder_with_a_lock_and_leftovers_is_as_good_as_new(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / ".run.ab12.partial.json").write_text("{")
    (tmp_path / "run.json").write_text("{")  # torn, before anything was made
    same_run(tmp_path, Identity({"model": "one"}))
    assert json.loads((tmp_path / "run.json").read_text()) == {"model": "one"}


@pytest.mark.parametrize("nested", [False, True])
def test_a_run_from_before_there_was_a_knob_is_the_same_run(*, nested: bool) -> None:
    """Of `style_loss`, the first to come later: what there was is what "gram" does."""

    def identity(**changes: Any) -> Identity:
        values = Settings().changed(**changes).as_dict()
        return Identity({"settings": values} if nested else values)

    before = Settings().as_dict()
    del before["style_loss"]
    old = {"settings": before} if nested else before
    assert identity().key == digest(json.dumps(old, sort_keys=True).encode())[:16]
    assert identity().differences(old) == []
    other = identity(style_loss="wasserstein")
    assert other.key != identity().key
    if not nested:
        assert other.differences(old) == ['style_loss was "gram", is "wasserstein"']
        assert identity().differences(other.values) == ['style_loss was "wasserstein", is "gram"']


def test_a_folder_from_before_there_was_a_knob_goes_on(tmp_path: Path) -> None:
    values = Settings().as_dict()
    old = {name: value for name, value in values.items() if name != "style_loss"}
    (tmp_path / "run.json").write_text(json.dumps(old))
    (tmp_path / "frame.png").touch()
    same_run(tmp_path, Identity(values))
    with pytest.raises(InputError, match='style_loss was "gram", is "cross-layer"'):
        same_run(tmp_path, Identity({**values, "style_loss": "cross-layer"}))
