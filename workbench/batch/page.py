"""How all runs of a batch stand -> a page to read at breakfast, and a table for a spreadsheet."""

from __future__ import annotations

import csv
import html
import io
import json
import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path, PurePath
from typing import Any, NamedTuple
from urllib.parse import quote

from workbench import pages
from workbench.batch.plan import Plan
from workbench.batch.record import PAGE, SUMMARY, THUMBNAIL, Record, Run
from workbench.errors import OutputError
from workbench.files import check_writable, write_bytes
from workbench.runs import Result
from workbench.runs import shown as outputs_shown

GENERATOR = "workbench batch"
_PAIR = ("content", "picture")  # outputs, of which one was painted from the other
_WEIGHTED = ("loss", "content_loss", "style_loss", "tv_loss")  # figures of a painting
_KINDS = {".mp4": "film", **dict.fromkeys((".png", ".jpg", ".jpeg", ".webp", ".bmp"), "picture")}
ORDER = ("failed", "changed", "running", "done", "waiting")  # of the page


class Cell(NamedTuple):
    """A text and, for a number, its `value`; `quiet` is what the batch file does not say."""

    text: str = ""
    value: float | None = None
    quiet: bool = False


def write_report(plan: Plan, states: Mapping[str, Record]) -> None:
    """Write `index.html` and `summary.csv` of a batch, each in one step.

    `states` says of all runs of the plan, by name, how they stand.
    """
    # A name on disk need not be valid Unicode.
    write_bytes(plan.root / PAGE, _page(plan, states).encode("utf-8", "replace"))
    # After the page, by which this is known to be ours.
    write_bytes(plan.root / SUMMARY, _summary(plan, states).encode("utf-8", "replace"))


def write_run_page(plan: Plan, run: Run, folder: Path, result: Result) -> None:
    """Write a page about a finished run, for people, into the folder that it lies in.

    If the notebook itself wrote an `index.html`, that stays.
    """
    page = folder / PAGE
    if page.exists():
        return
    first = outputs_shown(result.outputs)
    outputs = sorted(result.outputs.items(), key=lambda output: output[1] != first)
    pair = [_quoted(result.outputs[name]) for name in _PAIR if name in result.outputs]
    text = pages.template("batch/run.html.j2").render(
        generator=GENERATOR,
        name=pages.plain(run.name),
        batch=pages.plain(plan.file.stem),
        back=_quoted(os.path.relpath(plan.root / PAGE, run.output)),
        notebook=plan.notebook.name,
        pair=pair if len(pair) == len(_PAIR) else None,
        outputs=[
            (pages.plain(name), _quoted(path), _KINDS.get(PurePath(path).suffix.lower()))
            for name, path in outputs
        ],
        settings=pages.settings_rows(result.settings),
        figures=pages.figure_rows(result),
    )
    write_bytes(page, text.encode("utf-8", "replace"))


def check_report(plan: Plan) -> None:
    """Raise `OutputError` before long work, if `write_report` could not write, or may not."""
    folder = pages.plain(plan.file.stem) + ("-2" if plan.root.name == plan.file.stem else "")
    hint = f"give this batch a folder of its own, such as `output: runs/{folder}/{{...}}`."
    page, summary = plan.root / PAGE, plan.root / SUMMARY
    text = pages.read_page(page, GENERATOR, hint)
    check_writable(summary)
    if text is None and summary.exists():
        raise OutputError(f"{summary} was not made by `{GENERATOR}` and is not replaced; {hint}")
    found = re.search(r'<meta name="batch-file" content="([^"]*)">', text or "")
    if found and (other := html.unescape(found[1])) != _file(plan):
        raise OutputError(f"{page} is the page of another batch file, {other}; {hint}")


def _page(plan: Plan, states: Mapping[str, Record]) -> str:
    runs = sorted(plan.runs, key=lambda run: ORDER.index(states[run.name].kind))
    found = [states[run.name] for run in runs]
    kinds = [state.kind for state in found]
    columns = _columns(plan, runs, states)
    return str(
        pages.template("batch/page.html.j2").render(
            title=pages.plain(plan.file.stem),
            generator=GENERATOR,
            file=_file(plan),
            notebook=_named(plan.notebook, plan.project),
            command=f"{GENERATOR} {shlex.quote(_file(plan))}",
            summary=SUMMARY,
            written=datetime.now().astimezone(),
            work=pages.duration(sum(state.seconds or 0 for state in found)),
            counts={kind: kinds.count(kind) for kind in ORDER if kind in kinds},
            ranks={kind: rank for rank, kind in enumerate(ORDER)},
            heads=[
                (_head(name), any(cell.value is not None for cell in cells))
                for name, cells in columns
            ],
            rows=[
                (_row(run, state, plan.root), cells)
                for run, state, *cells in zip(runs, found, *(of for _, of in columns), strict=True)
            ],
        )
    )


def _head(name: str) -> str:
    """What stands above a column; losses of pictures with other weights cannot be compared."""
    return pages.plain(name.replace("_", " ")) + (", weighted" if name in _WEIGHTED else "")


def _columns(
    plan: Plan, runs: Sequence[Run], states: Mapping[str, Record]
) -> list[tuple[str, list[Cell]]]:
    """What the page shows of each run behind its state."""
    found = [states[run.name] for run in runs]
    columns = [(name, [_parameter(name, run) for run in runs]) for name in plan.varied]
    for name in _figure_names(plan, states):
        columns.append((name, [_number(state.figures.get(name), pages.number) for state in found]))
    columns.append(("time", [_number(state.seconds, pages.duration) for state in found]))
    if len({state.host for state in found if state.host}) > 1:
        columns.append(("machine", [Cell(pages.plain(state.host)) for state in found]))
    attempts = [state.attempts if state.attempts > 1 else None for state in found]
    if any(attempts):
        columns.append(("attempts", [_number(count, str) for count in attempts]))
    return columns


def _parameter(name: str, run: Run) -> Cell:
    if name not in run.parameters:
        return Cell("default", quiet=True)
    value = run.parameters[name]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return Cell(pages.shown(value), value if is_number else None)


def _number(value: float | None, words: Callable[[Any], str]) -> Cell:
    return Cell() if value is None else Cell(words(value), value)


def _row(run: Run, state: Record, root: Path) -> dict[str, str]:
    """What the page shows of a run beside figures; addresses are "" where there is nothing."""
    page = ""
    if state.kind in ("done", "changed"):  # older ones have no page of their own
        page = _address(state.file(PAGE), root) or f"{_address(run.output, root)}/"
    return {
        "name": pages.plain(run.name),
        "kind": state.kind,
        "says": pages.plain((state.stage if state.kind == "running" else "") or state.sentence),
        "page": page,
        "thumbnail": _address(state.file(THUMBNAIL), root),
        "shown": _address(state.file(state.shown), root),
        "notebook": _address(state.file(state.notebook), root),
    }


def _address(path: Path | None, root: Path) -> str:
    """A path's address relative to the page; "" if there is none."""
    if path is None:
        return ""
    name, above = os.fspath(path), os.fspath(root) + os.sep
    return _quoted(
        name.removeprefix(above) if name.startswith(above) else os.path.relpath(name, root)
    )


def _quoted(relative: str) -> str:
    return quote(os.fsencode(relative.replace(os.sep, "/")))


def _file(plan: Plan) -> str:
    return _named(plan.file, plan.project)


def _named(path: Path, project: Path) -> str:
    """A path as people in the project's folder call it, in valid Unicode."""
    path, project = path.resolve(), project.resolve()
    path = path.relative_to(project) if path.is_relative_to(project) else path
    return pages.plain(path.as_posix()).encode("utf-8", "replace").decode()


def _figure_names(plan: Plan, states: Mapping[str, Record]) -> list[str]:
    """The names of all figures, in the order in which they first occur."""
    return list(dict.fromkeys(name for run in plan.runs for name in states[run.name].figures))


# --- table -------------------------------------------------------------------------------


def _summary(plan: Plan, states: Mapping[str, Record]) -> str:
    """One row a run, in the plan's order."""
    fixed = {"name", "state", "seconds", "attempts", "host", "sentence"}
    figures = _figure_names(plan, states)
    varied = [f"{name} (parameter)" if name in fixed else name for name in plan.varied]
    taken = {*fixed, *varied}
    figured = [f"{name} (figure)" if name in taken else name for name in figures]
    rows: list[list[object]] = [
        ["name", "state", *varied, "seconds", "attempts", "host", *figured, "sentence"]
    ]
    for run in plan.runs:
        state = states[run.name]
        parameters = [_written(run.parameters.get(name, "")) for name in plan.varied]
        measured = [state.figures.get(name) for name in figures]
        ran = [state.seconds, state.attempts, state.host]
        rows.append(
            [run.name, state.kind, *parameters, *ran, *measured, pages.plain(state.sentence)]
        )
    text = io.StringIO()
    csv.writer(text).writerows(map(_harmless, row) for row in rows)
    return text.getvalue()


def _written(value: object) -> object:
    """Texts and numbers as they are, anything else as JSON."""
    plainly = isinstance(value, str | int | float) and not isinstance(value, bool)
    return value if plainly else json.dumps(value, ensure_ascii=False, default=str)


def _harmless(value: object) -> object:
    """Keep a spreadsheet from running a text as a formula."""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        try:
            float(value)
        except ValueError:
            return f"'{value}"
    return value
