from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from workbench.batch.page import GENERATOR, check_report, write_report, write_run_page
from workbench.batch.plan import Plan
from workbench.batch.record import PAGE, SUMMARY, THUMBNAIL, Record, Run
from workbench.errors import OutputError
from workbench.runs import Result

EVIL = """<script>alert(1)</script> "quoted" 'single' & 100% #1? ünï côdé 絵"""
VOID = {"meta", "link", "img", "input", "br"}


def make_plan(
    folder: Path, *runs: Run, varied: tuple[str, ...] = (), file: str = "experiments/reel.yaml"
) -> Plan:
    """A plan in a project, with its page in runs/reel."""
    root = folder / "runs/reel"
    root.mkdir(parents=True, exist_ok=True)
    notebook = folder / "notebooks/stylize_clip.ipynb"
    return Plan(folder / file, folder, notebook, root, runs, varied, None)


def make_run(folder: Path, name: str, /, **parameters: Any) -> Run:
    return Run(name, folder / "runs/reel" / name, parameters, {}, "0" * 64)


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


class Report(HTMLParser):
    """The table of a page: its heads, and for each row the text and the links of its cells."""

    def __init__(self, plan: Plan, page: Path | None = None) -> None:
        super().__init__()
        self.text = (page or plan.root / PAGE).read_text("utf-8")
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.heads: list[str] = []
        self.kinds: list[str] = []
        self.rows: list[list[str]] = []
        self.words: list[str] = []
        self._path: list[str] = []
        self.feed(self.text)
        self.close()
        assert self._path == []  # all is closed that was opened

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.elements.append((tag, attributes))
        if tag not in VOID:
            self._path.append(tag)
        if tag == "tr" and "tbody" in self._path:
            self.kinds.append(attributes["class"])
            self.rows.append([])
        elif tag in ("td", "th"):
            (self.rows[-1] if "tbody" in self._path else self.heads).append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._path.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if "td" in self._path or "th" in self._path:
            cells = self.rows[-1] if "tbody" in self._path else self.heads
            cells[-1] = " ".join(f"{cells[-1]} {data}".split())

    def attributes(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def column(self, head: str) -> list[str]:
        assert all(len(row) == len(self.heads) for row in self.rows)
        return [row[self.heads.index(head)] for row in self.rows]

    def addresses(self) -> list[str]:
        return [
            value
            for _, attributes in self.elements
            for name, value in attributes.items()
            if name in ("href", "src") and not value.startswith("data:")
        ]


def report(plan: Plan, states: dict[str, Record]) -> Report:
    write_report(plan, states)
    return Report(plan)


def table(plan: Plan) -> list[dict[str, str]]:
    with (plan.root / SUMMARY).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# --- the page ----------------------------------------------------------------------------


def test_what_somebody_must_look_at_comes_first(tmp_path: Path) -> None:
    kinds = ("waiting", "done", "failed", "running", "done", "changed", "failed")
    runs = [make_run(tmp_path, f"{number} {kind}") for number, kind in enumerate(kinds)]
    states = {
        run.name: Record(kind, f"It was {kind}.", "cell 5 of 9")  # type: ignore[arg-type]
        for run, kind in zip(runs, kinds, strict=True)
    }
    page = report(make_plan(tmp_path, *runs), states)
    assert page.kinds == ["failed", "failed", "changed", "running", "done", "done", "waiting"]
    assert page.column("state") == page.kinds
    assert page.column("run") == [
        "2 failed It was failed.",
        "6 failed It was failed.",
        "5 changed It was changed.",
        "3 running cell 5 of 9",
        "1 done It was done.",
        "4 done It was done.",
        "0 waiting It was waiting.",
    ]
    buttons = re.findall(r"<button[^>]*data-state[^>]*>(.*?)</button>", page.text)
    assert buttons == ["All 7", "2 failed", "1 changed", "1 running", "2 done", "1 waiting"]


def test_heading_says_what_ran_and_how_to_go_on(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, name) for name in ("a", "b")]
    plan = make_plan(tmp_path, *runs, file="experiments/my reel.yaml")
    states = {"a": Record("done", seconds=3600.0), "b": Record("failed", "No.", seconds=90.4)}
    page = report(plan, states)
    words = " ".join("".join(page.words).split())
    assert "<h1>my reel</h1>" in page.text
    assert "<title>my reel: 1 of 2 done</title>" in page.text
    assert "2 runs of notebooks/stylize_clip.ipynb, as experiments/my reel.yaml says." in words
    assert "1 h 1 min of work so far. Written 20" in words
    hint = "1 is not done; the same command goes on with it:"
    assert f"{hint} workbench batch 'experiments/my reel.yaml'" in words
    assert "refresh" not in page.text
    page = report(plan, {run.name: Record("done") for run in runs})
    words = " ".join("".join(page.words).split())
    assert "and all is done" in words
    assert "workbench batch '" not in words


def test_links_lead_where_they_say(tmp_path: Path) -> None:
    odd = EVIL.replace("/", "") + "/a:b"
    names = ("done", odd, "failed", "running", "no picture", os.fsdecode(b"caf\xe9"))
    runs = {name: make_run(tmp_path, name) for name in names}
    root = tmp_path / "runs/reel"
    states = {"running": Record("running")}
    for name in (names[0], odd, names[5]):
        output = runs[name].output
        for file in ("a.ipynb", THUMBNAIL, "film 1.mp4"):
            touch(output / file)
        states[name] = Record("done", notebook="a.ipynb", shown="film 1.mp4", folder=output)
    part = touch(root / ".tmp-0123/a.ipynb")
    states["failed"] = Record("failed", "It broke.", notebook=part.name, folder=part.parent)
    runs["no picture"].output.mkdir()
    states["no picture"] = Record("changed")
    page = report(make_plan(tmp_path, *runs.values()), states)
    addresses = page.addresses()
    assert len(addresses) == 3 * 4 + 1 + 1 + 1
    assert ".tmp-0123/a.ipynb" in addresses
    assert "done/film%201.mp4" in addresses
    for address in addresses:
        assert not urlsplit(address).scheme
        raw = unquote(address, errors="surrogateescape")
        assert (root / raw).is_dir() if raw.endswith("/") else (root / raw).is_file()
    # Of what is not finished there is no folder.
    assert not {"failed/", "running/"} & set(addresses)


def test_a_finished_run_has_a_page_of_its_own(tmp_path: Path) -> None:
    name = EVIL.replace("/", "") + "/a b"
    run = make_run(tmp_path, name, note=EVIL)
    plan = make_plan(tmp_path, run)
    files = {
        "content": "content.jpg",
        "film 1": "film 1.mp4",
        "picture": "picture.png",
        "t": "t.csv",
    }
    for file in files.values():
        touch(run.output / file)
    settings = {"content": "photo.jpg", "style_weight": 300.0, EVIL: EVIL}
    result = Result(files, {"loss": 1234.5}, settings, {}, {}, 83.0)
    write_run_page(plan, run, run.output, result)
    states = {name: Record("done", folder=run.output)}
    (row,) = [each for each in report(plan, states).attributes("a") if each.get("class") == "name"]
    assert unquote(row["href"]) == f"{name}/index.html"
    page = Report(plan, run.output / "index.html")
    touch(run.output / plan.notebook.name)
    touch(run.output / "result.json")
    for address in page.addresses():
        assert (run.output / unquote(address)).resolve().is_file()
    assert unquote(page.attributes("a")[1]["href"]) == "../../index.html"
    assert [image["alt"] for image in page.attributes("img")[2:]] == ["picture", "content"]
    assert [film["aria-label"] for film in page.attributes("video")] == ["film 1"]
    assert {"300", "1,234", "1 min 23 s", EVIL} <= set(page.words)
    assert page.attributes("script") == []
    assert page.attributes("input")[0]["type"] == "range"  # the handle between content and picture

    (run.output / "index.html").write_text("the notebook's own")
    write_run_page(plan, run, run.output, result)
    assert (run.output / "index.html").read_text() == "the notebook's own"


def test_thumbnails_wait_and_say_their_size(tmp_path: Path) -> None:
    run = make_run(tmp_path, "a")
    picture = touch(run.output / THUMBNAIL)
    page = report(make_plan(tmp_path, run), {"a": Record("done", folder=run.output)})
    (image,) = page.attributes("img")
    assert image["loading"] == "lazy"
    assert int(image["width"]) > int(image["height"]) > 0
    assert image["alt"] == "Result of a"
    picture.unlink()
    page = report(make_plan(tmp_path, run), {"a": Record("done", folder=run.output)})
    assert page.heads == ["run", "state", "time"]  # no column of nothing
    assert not page.attributes("img")


def test_parameters_are_columns(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path, "a", clip="x.mp4", style_weight=100.0, steps=[40, 60], masks=True),
        make_run(tmp_path, "b", clip="y.mp4", steps=[40], size=3, masks=None),
        make_run(tmp_path, "c", clip="y.mp4", style_weight=1e-9, steps={"a": [1.5]}, masks=False),
    ]
    varied = ("clip", "style_weight", "steps", "masks")
    page = report(make_plan(tmp_path, *runs, varied=varied), {r.name: Record("done") for r in runs})
    assert page.heads == ["run", "state", "clip", "style weight", "steps", "masks", "time"]
    assert page.column("style weight") == ["100", "default", "1e-09"]
    assert page.column("steps") == ["40, 60", "40", "a: 1.5"]
    assert page.column("masks") == ["true", "null", "false"]
    cells = page.attributes("td")
    assert [cell["data-value"] for cell in cells if "class" not in cell and cell] == [
        "100.0",
        "1e-09",
    ]
    assert [cell for cell in cells if cell.get("class") == "quiet"] == [{"class": "quiet"}]


def test_numbers_that_differ_look_different(tmp_path: Path) -> None:
    weights = (123456.7, 123456.8, 1000000, 0.1, -3)
    runs = [make_run(tmp_path, str(weight), weight=weight) for weight in weights]
    states = {run.name: Record("waiting") for run in runs}
    page = report(make_plan(tmp_path, *runs, varied=("weight",)), states)
    assert page.column("weight") == ["123456.7", "123456.8", "1000000", "0.1", "-3"]


def test_figures_are_columns_in_the_order_in_which_they_occur(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, name) for name in ("a", "b", "c")]
    states = {
        "a": Record("failed"),
        "b": Record("done", figures={"style_loss": 1234567.8, "frames": 48}),
        "c": Record("done", figures={"warping_error": 0.0012345, "frames": 50}),
    }
    page = report(make_plan(tmp_path, *runs), states)
    others = ["frames", "warping error", "time"]
    assert page.heads == ["run", "state", "style loss, weighted", *others]
    assert page.column("style loss, weighted") == ["", "1,234,568", ""]
    assert page.column("warping error") == ["", "", "0.001234"]
    values = [cell.get("data-value") for cell in page.attributes("td")]
    assert {"1234567.8", "0.0012345"} <= set(values)


@pytest.mark.parametrize(
    ("states", "heads"),
    [
        ([Record("done", seconds=3), Record("done", seconds=3)], []),
        ([Record("done", host="x", attempts=1), Record("done", host="x", attempts=1)], []),
        ([Record("done", host="x"), Record("done")], []),
        ([Record("done", host="x"), Record("done", host="y")], ["machine"]),
        ([Record("done", attempts=1), Record("failed", attempts=2)], ["attempts"]),
    ],
)
def test_columns_that_would_say_nothing_are_left_out(
    tmp_path: Path, states: list[Record], heads: list[str]
) -> None:
    runs = [make_run(tmp_path, name) for name in ("a", "b")]
    plan = make_plan(tmp_path, *runs)
    page = report(plan, dict(zip(("a", "b"), states, strict=True)))
    assert page.heads == ["run", "state", "time", *heads]
    if heads == ["attempts"]:
        assert page.column("attempts") == ["2", ""]


def test_a_batch_of_nothing(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    page = report(plan, {})
    assert page.rows == []
    assert "The batch file asks for no run." in page.text
    assert table(plan) == []


def test_odd_names_are_text_everywhere(tmp_path: Path) -> None:
    name = EVIL.replace("/", "") + "\nnew line"
    run = make_run(tmp_path, name, **{EVIL: EVIL, "style": "a\0b\ud800"})
    other = make_run(tmp_path, "other")
    touch(run.output / THUMBNAIL)
    odd = touch(run.output / EVIL.replace("/", "")).name
    states = {
        name: replace(
            Record("failed", EVIL, EVIL, 2, 1.0, EVIL, figures={EVIL: 1.0}, folder=run.output),
            notebook=odd,
            shown=odd,
        ),
        "other": Record("running", EVIL, EVIL, 1, None, "x"),
    }
    file = EVIL.replace("/", "") + ".yaml"
    plan = make_plan(tmp_path, run, other, varied=(EVIL, "style"), file=file)
    plain = report(make_plan(tmp_path, make_run(tmp_path, "a")), {"a": Record("done")})
    page = report(plan, states)
    for tag in ("script", "style"):
        assert len(page.attributes(tag)) == len(plain.attributes(tag))
    assert page.heads[2] == page.heads[4] == EVIL
    assert page.column(EVIL) == [EVIL, "default"]
    assert page.column("style") == ["a b?", "default"]
    assert page.column("run")[0].startswith(EVIL.replace("/", "") + " new line")
    assert page.column("machine") == [EVIL, "x"]
    names = {name for _, attributes in page.elements for name in attributes}
    assert not [name for name in names if name.startswith("on") or "quoted" in name]
    assert "alert" not in "".join(re.findall(r"<style>.*?</style>", page.text, re.DOTALL))
    check_report(plan)


def test_page_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    run = make_run(tmp_path, "a")
    page = report(make_plan(tmp_path, run), {"a": Record("waiting")})
    assert page.addresses() == [SUMMARY]
    for foreign in ("@import", "@font-face", "url(", "fetch("):
        assert foreign not in page.text


def test_torch_is_not_needed() -> None:
    program = "import sys, workbench.batch.page; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


# --- the table ---------------------------------------------------------------------------


def test_summary_is_read_back(tmp_path: Path) -> None:
    odd = f'{EVIL.replace("/", "")}, "a"\r\nb'
    runs = [
        make_run(tmp_path, "z", clip="x, y.mp4", style_weight=0.1, steps=[40, 60]),
        make_run(tmp_path, odd, clip=EVIL, masks=True),
    ]
    plan = make_plan(tmp_path, *runs, varied=("clip", "style_weight", "steps", "masks"))
    states = {
        "z": Record("done", "", "", 1, 83.25, "studio", figures={"style_loss": 1234567.125}),
        odd: Record("failed", "It\nbroke.", "cell 3", 2, None, "laptop"),
    }
    write_report(plan, states)
    first, second = table(plan)
    assert list(first) == [
        *("name", "state", "clip", "style_weight", "steps", "masks", "seconds", "attempts"),
        *("host", "style_loss", "sentence"),
    ]
    assert list(first.values()) == [
        *("z", "done", "x, y.mp4", "0.1", "[40, 60]", "", "83.25", "1"),
        *("studio", "1234567.125", ""),
    ]
    assert list(second.values()) == [
        *(odd, "failed", EVIL, "", "", "true", "", "2", "laptop", "", "It broke."),
    ]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_no_cell_is_run_as_a_formula(tmp_path: Path, start: str) -> None:
    text = f"{start}HYPERLINK(1)"
    run = make_run(tmp_path, text, **{text: text})
    plan = make_plan(tmp_path, run, varied=(text,))
    write_report(plan, {text: Record("done", text, "", 1, 1.0, text, figures={f"{text} 2": -1.5})})
    ((row),) = table(plan)
    assert {"'" + text, f"'{text} 2"} < set(row)
    assert row["name"] == row["host"] == row["'" + text] == "'" + text
    assert not row["sentence"].startswith(("=", "+", "-", "@"))
    assert row[f"'{text} 2"] == "-1.5"


@pytest.mark.parametrize("value", ["-5", "+.5", "-1e9", -5, 0.0])
def test_numbers_stay_numbers(tmp_path: Path, value: object) -> None:
    run = make_run(tmp_path, "a", weight=value)
    plan = make_plan(tmp_path, run, varied=("weight",))
    write_report(plan, {"a": Record("waiting")})
    assert table(plan)[0]["weight"] == str(value)


def test_columns_of_the_summary_are_told_apart(tmp_path: Path) -> None:
    run = make_run(tmp_path, "a", state="x", steps=3)
    plan = make_plan(tmp_path, run, varied=("state", "steps"))
    write_report(plan, {"a": Record("done", figures={"steps": 4, "seconds": 5.0})})
    (row,) = table(plan)
    assert row["state"] == "done"
    assert row["state (parameter)"] == "x"
    assert row["steps"] == "3"
    assert row["steps (figure)"] == "4"
    assert row["seconds (figure)"] == "5.0"


# --- whose page it is --------------------------------------------------------------------


def test_its_own_page_is_replaced(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, make_run(tmp_path, "a"))
    check_report(plan)
    assert list(plan.root.iterdir()) == []
    write_report(plan, {"a": Record("waiting")})
    check_report(plan)
    assert Report(plan).attributes("meta")[2] == {"name": "generator", "content": GENERATOR}
    (plan.root / SUMMARY).unlink()
    check_report(plan)


def test_a_project_that_moved_or_is_named_otherwise_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(tmp_path / "old", make_run(tmp_path / "old", "a"))
    write_report(plan, {"a": Record("waiting")})
    (tmp_path / "old").rename(tmp_path / "new")
    check_report(make_plan(tmp_path / "new"))
    monkeypatch.chdir(tmp_path / "new")
    check_report(make_plan(Path()))


@pytest.mark.parametrize("name", [PAGE, SUMMARY])
@pytest.mark.parametrize("text", ["", "<title>My blog</title>", "a,b\n1,2\n"])
def test_what_someone_else_wrote_is_not_replaced(tmp_path: Path, name: str, text: str) -> None:
    plan = make_plan(tmp_path, file="experiments/night.yaml")
    (plan.root / name).write_text(text)
    sentence = (
        f"{plan.root / name} was not made by `workbench batch` and is not replaced; give this"
        " batch a folder of its own, such as `output: runs/night/{...}`."
    )
    with pytest.raises(OutputError) as caught:
        check_report(plan)
    assert str(caught.value) == sentence
    assert [path.name for path in plan.root.iterdir()] == [name]


def test_the_page_of_another_batch_is_not_replaced(tmp_path: Path) -> None:
    write_report(make_plan(tmp_path, file=f"experiments/{EVIL.replace('/', '')}.yaml"), {})
    with pytest.raises(OutputError) as caught:
        check_report(make_plan(tmp_path))
    assert str(caught.value) == (
        f"{tmp_path / 'runs/reel' / PAGE} is the page of another batch file,"
        f" experiments/{EVIL.replace('/', '')}.yaml; give this batch a folder of its own, such as"
        " `output: runs/reel-2/{...}`."
    )


def test_the_page_of_a_gallery_is_not_ours(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    (plan.root / PAGE).write_text('<meta name="generator" content="workbench gallery">')
    with pytest.raises(OutputError, match="was not made by `workbench batch`"):
        check_report(plan)


def test_a_folder_in_its_place_is_named(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    (plan.root / PAGE).mkdir()
    with pytest.raises(OutputError, match=r"index\.html cannot be written: it is a folder"):
        check_report(plan)
    with pytest.raises(OutputError, match=r"index\.html cannot be written: it is a folder"):
        write_report(plan, {})


def test_a_full_disk_leaves_the_last_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path, "a")
    plan = make_plan(tmp_path, run)
    write_report(plan, {"a": Record("waiting")})
    before = {path: path.read_bytes() for path in plan.root.iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="free some space"):
        write_report(plan, {"a": Record("done")})
    assert {path: path.read_bytes() for path in plan.root.iterdir()} == before
