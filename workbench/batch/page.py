"""How all runs of a batch stand -> a page to read at breakfast, and a table for a spreadsheet."""

from __future__ import annotations

import csv
import html
import io
import json
import os
import re
import shlex
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from workbench.batch.plan import Plan
from workbench.batch.record import PAGE, SUMMARY, THUMBNAIL, Record, Run
from workbench.errors import OutputError
from workbench.files import check_writable, write_bytes
from workbench.pages import duration, number, plain, read_page, shown, template

GENERATOR = "workbench batch"
ORDER = ("failed", "changed", "running", "done", "waiting")  # of the page


class Cell(NamedTuple):
    """A text and, for a number, its `value`; `quiet` is what the batch file does not say."""

    text: str = ""
    value: float | None = None
    quiet: bool = False


def write_report(plan: Plan, states: Mapping[str, Record], *, title: str | None = None) -> None:
    """Write `index.html` and `summary.csv` of a batch, each in one step.

    Parameters
    ----------
    plan
        What was asked for; its `root` is there.
    states
        Name of a run -> how it stands, for all runs of the plan.
    title
        Heading of the page; None: the batch file's name.

    Raises
    ------
    OutputError
        If one of them cannot be written.
    """
    page = _page(plan, states, plan.file.stem if title is None else title)
    # A name on disk need not be valid Unicode.
    write_bytes(plan.root / PAGE, page.encode("utf-8", "replace"))
    # After the page, by which this is known to be ours.
    write_bytes(plan.root / SUMMARY, _summary(plan, states).encode("utf-8", "replace"))


def check_report(plan: Plan) -> None:
    """Find out before long work whether `write_report` could write, and may.

    Raises
    ------
    OutputError
        If the page or the table cannot be written, or belongs to someone else or to another
        batch file.
    """
    folder = plain(plan.file.stem) + ("-2" if plan.root.name == plan.file.stem else "")
    hint = f"give this batch a folder of its own, such as `output: runs/{folder}/{{...}}`."
    page, summary = plan.root / PAGE, plan.root / SUMMARY
    text = read_page(page, GENERATOR, hint)
    check_writable(summary)
    if text is None and summary.exists():
        raise OutputError(f"{summary} was not made by `{GENERATOR}` and is not replaced; {hint}")
    owner = re.search(r'<meta name="batch-file" content="([^"]*)">', text or "")
    if owner and html.unescape(owner[1]) != _file(plan):
        raise OutputError(
            f"{page} is the page of another batch file, {html.unescape(owner[1])}; {hint}"
        )


def _page(plan: Plan, states: Mapping[str, Record], title: str) -> str:
    runs = sorted(plan.runs, key=lambda run: ORDER.index(states[run.name].kind))
    found = [states[run.name] for run in plan.runs]
    kinds = [state.kind for state in found]
    columns: list[tuple[str, Callable[[Run, Record], Cell]]] = [
        *((_label(name), partial(_parameter, name)) for name in plan.varied),
        *((_label(name), partial(_figure, name)) for name in _figure_names(plan, states)),
        ("time", _time),
    ]
    if len({state.host for state in found if state.host}) > 1:
        columns.append(("machine", lambda run, state: Cell(plain(state.host))))
    if any(state.attempts > 1 for state in found):
        columns.append(("attempts", _attempts))
    cells = [[cell(run, states[run.name]) for _, cell in columns] for run in runs]
    rows = [_row(run, states[run.name], plan.root) for run in runs]
    return str(
        template("batch/page.html.j2").render(
            title=plain(title),
            generator=GENERATOR,
            file=_file(plan),
            notebook=_named(plan.notebook, plan.project),
            command=f"{GENERATOR} {shlex.quote(_file(plan))}",
            summary=SUMMARY,
            written=datetime.now().astimezone(),
            work=duration(sum(state.seconds or 0 for state in found)),
            counts={kind: kinds.count(kind) for kind in ORDER if kind in kinds},
            ranks={kind: rank for rank, kind in enumerate(ORDER)},
            heads=[
                (label, any(row[number].value is not None for row in cells))
                for number, (label, _) in enumerate(columns)
            ],
            rows=list(zip(rows, cells, strict=True)),
        )
    )


def _row(run: Run, state: Record, root: Path) -> dict[str, str]:
    """What the page shows of a run beside figures; addresses are "" where there is nothing."""
    finished = state.kind in ("done", "changed")
    return {
        "name": plain(run.name),
        "kind": state.kind,
        "says": plain((state.stage if state.kind == "running" else "") or state.sentence),
        "folder": _address(run.output, root) + "/" if finished else "",
        "thumbnail": _address(state.file(THUMBNAIL), root),
        "shown": _address(state.file(state.shown), root),
        "notebook": _address(state.file(state.notebook), root),
    }


def _address(path: Path | None, root: Path) -> str:
    """A path's address relative to the page; "" if there is none."""
    if path is None:
        return ""
    name, above = os.fspath(path), os.fspath(root) + os.sep
    relative = name.removeprefix(above) if name.startswith(above) else os.path.relpath(name, root)
    return quote(os.fsencode(relative.replace(os.sep, "/")))


def _file(plan: Plan) -> str:
    return _named(plan.file, plan.project)


def _named(path: Path, project: Path) -> str:
    """A path as people in the project's folder call it, in valid Unicode."""
    path, project = path.resolve(), project.resolve()
    path = path.relative_to(project) if path.is_relative_to(project) else path
    return plain(path.as_posix()).encode("utf-8", "replace").decode()


def _label(name: str) -> str:
    return plain(name.replace("_", " "))


def _figure_names(plan: Plan, states: Mapping[str, Record]) -> list[str]:
    """The names of all figures, in the order in which they first occur."""
    return list(dict.fromkeys(name for run in plan.runs for name in states[run.name].figures))


def _parameter(name: str, run: Run, state: Record) -> Cell:
    if name not in run.parameters:
        return Cell("default", quiet=True)
    value = run.parameters[name]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return Cell(shown(value), value if is_number else None)


def _figure(name: str, run: Run, state: Record) -> Cell:
    value = state.figures.get(name)
    return Cell() if value is None else Cell(number(value), value)


def _time(run: Run, state: Record) -> Cell:
    return Cell() if state.seconds is None else Cell(duration(state.seconds), state.seconds)


def _attempts(run: Run, state: Record) -> Cell:
    return Cell(str(state.attempts), state.attempts) if state.attempts > 1 else Cell()


# --- table -------------------------------------------------------------------------------


def _summary(plan: Plan, states: Mapping[str, Record]) -> str:
    """One row a run, in the plan's order."""
    fixed = {"name", "state", "seconds", "attempts", "host", "sentence"}
    figures = _figure_names(plan, states)
    varied = [_unlike(name, fixed, "parameter") for name in plan.varied]
    figured = [_unlike(name, {*fixed, *varied}, "figure") for name in figures]
    rows: list[list[object]] = [
        ["name", "state", *varied, "seconds", "attempts", "host", *figured, "sentence"]
    ]
    for run in plan.runs:
        state = states[run.name]
        parameters = [_written(run.parameters.get(name, "")) for name in plan.varied]
        measured = [state.figures.get(name) for name in figures]
        ran = [state.seconds, state.attempts, state.host]
        rows.append([run.name, state.kind, *parameters, *ran, *measured, plain(state.sentence)])
    text = io.StringIO()
    csv.writer(text).writerows(map(_harmless, row) for row in rows)
    return text.getvalue()


def _unlike(name: str, taken: set[str], kind: str) -> str:
    return f"{name} ({kind})" if name in taken else name


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
