"""How all runs of a batch stand -> a page to read at breakfast, and a table for a spreadsheet."""

from __future__ import annotations

import csv
import html
import io
import json
import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from workbench.batch.plan import Plan, Run
from workbench.batch.record import PAGE, SUMMARY, State
from workbench.errors import OutputError
from workbench.files import check_writable, write_bytes
from workbench.words import duration, number, plain

GENERATOR = "workbench batch"
ORDER = ("failed", "changed", "running", "done", "waiting")  # of the page
_CHOICES = 12  # a parameter with more values is looked for in words
_AT_ONCE = 200  # rows that are laid out at first; the rest when somebody gets there
_HEAD = 1 << 14  # bytes of a page that say whose it is


@dataclass(frozen=True)
class Column:
    """A column of the page.

    Attributes
    ----------
    key
        What it is called in the page's address; letters and what the batch file says.
    label
        Its heading.
    group
        "picture", "run", "state", "parameter", "figure" or "other".
    choices
        The values that visitors can choose from, if these are few.
    number
        Whether there are numbers in it.
    """

    key: str
    label: str
    group: str
    choices: tuple[str, ...] = ()
    number: bool = False


@dataclass(frozen=True)
class Cell:
    """A text and, for a number, its `value`; `quiet` is what the batch file does not say."""

    text: str = ""
    value: float | None = None
    quiet: bool = False


@dataclass(frozen=True)
class Row:
    """One run as the page shows it; addresses are relative to the page, "" if there is none."""

    name: str
    kind: str
    says: str
    folder: str
    thumbnail: str
    shown: str
    notebook: str
    cells: tuple[Cell, ...]


def write_report(plan: Plan, states: Mapping[str, State], *, title: str | None = None) -> None:
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
    page, summary = plan.root / PAGE, plan.root / SUMMARY
    check_writable(page)
    check_writable(summary)
    if not page.exists():
        if summary.exists():
            raise OutputError(f"{summary} {_not_ours(plan)}")
        return
    try:
        with page.open("rb") as file:
            head = file.read(_HEAD).decode("utf-8", "replace")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise OutputError(f"{page} cannot be read: {reason}.") from None
    owner = re.search(r'<meta name="batch-file" content="([^"]*)">', head)
    if f'<meta name="generator" content="{GENERATOR}">' not in head or not owner:
        raise OutputError(f"{page} {_not_ours(plan)}")
    if html.unescape(owner[1]) != _file(plan):
        whose = f"is the page of another batch file, {html.unescape(owner[1])}"
        raise OutputError(f"{page} {whose}; {_own_folder(plan)}")


def _not_ours(plan: Plan) -> str:
    return f"was not made by `{GENERATOR}` and is not replaced; {_own_folder(plan)}"


def _own_folder(plan: Plan) -> str:
    name = plain(plan.file.stem)
    if plan.root.name == plan.file.stem:
        name += "-2"
    return f"give this batch a folder of its own, such as `output: runs/{name}/{{...}}`."


# --- page --------------------------------------------------------------------------------


def _page(plan: Plan, states: Mapping[str, State], title: str) -> str:
    ranks = {kind: rank for rank, kind in enumerate(ORDER)}
    runs = sorted(plan.runs, key=lambda run: ranks[states[run.name].kind])
    in_order = [states[run.name] for run in plan.runs]
    figures = _figures(in_order)
    several_hosts = len({state.host for state in in_order if state.host}) > 1
    tried_again = any(state.attempts > 1 for state in in_order)
    pictures = any(state.thumbnail for state in in_order)

    columns = [
        *([Column("picture", "Picture", "picture")] if pictures else []),
        Column("run", "run", "run"),
        Column("state", "state", "state"),
        *(_varied(plan.runs, name) for name in plan.varied),
        *(Column(f"f.{plain(name)}", _label(name), "figure", number=True) for name in figures),
        Column("time", "time", "other", number=True),
        *([Column("machine", "machine", "other")] if several_hosts else []),
        *([Column("attempts", "attempts", "other", number=True)] if tried_again else []),
    ]

    def row(run: Run) -> Row:
        state = states[run.name]
        cells = [_parameter(run, name) for name in plan.varied]
        cells += [_figure(state.figures.get(name)) for name in figures]
        cells.append(_time(state.seconds))
        if several_hosts:
            cells.append(Cell(plain(state.host)))
        if tried_again:
            often = state.attempts > 1
            cells.append(Cell(str(state.attempts), state.attempts) if often else Cell())
        finished = state.kind in ("done", "changed")
        says = state.stage or state.sentence if state.kind == "running" else state.sentence
        return Row(
            name=plain(run.name),
            kind=state.kind,
            says=plain(says),
            folder=_address(run.output, plan.root) + "/" if finished else "",
            thumbnail=_address(state.thumbnail, plan.root),
            shown=_address(state.shown, plan.root),
            notebook=_address(state.notebook, plan.root),
            cells=tuple(cells),
        )

    kinds = [state.kind for state in in_order]
    return str(
        _template().render(
            title=plain(title),
            generator=GENERATOR,
            file=_file(plan),
            notebook=_named(plan.notebook, plan.project),
            command=f"{GENERATOR} {shlex.quote(_file(plan))}",
            summary=SUMMARY,
            written=datetime.now().astimezone(),
            work=duration(sum(state.seconds or 0 for state in in_order)),
            counts={kind: kinds.count(kind) for kind in ORDER if kind in kinds},
            ranks=ranks,
            columns=columns,
            pictures=pictures,
            at_once=_AT_ONCE,
            rows=[row(run) for run in runs],
        )
    )


def _file(plan: Plan) -> str:
    return _named(plan.file, plan.project)


def _named(path: Path, project: Path) -> str:
    """A path as people in the project's folder call it, in valid Unicode."""
    path, project = path.resolve(), project.resolve()
    path = path.relative_to(project) if path.is_relative_to(project) else path
    return plain(path.as_posix()).encode("utf-8", "replace").decode()


def _label(name: str) -> str:
    return plain(name.replace("_", " "))


def _address(path: Path | None, root: Path) -> str:
    """A path's address relative to the page; "" if there is none."""
    if path is None:
        return ""
    name, above = os.fspath(path), os.fspath(root) + os.sep
    relative = name.removeprefix(above) if name.startswith(above) else os.path.relpath(name, root)
    return quote(os.fsencode(relative.replace(os.sep, "/")))


def _figures(states: Iterable[State]) -> tuple[str, ...]:
    """The names of all figures, in the order in which they first occur."""
    return tuple({name: None for state in states for name in state.figures})


def _varied(runs: Sequence[Run], name: str) -> Column:
    cells = [_parameter(run, name) for run in runs]
    texts = tuple({cell.text: None for cell in cells})
    choices = texts if 2 <= len(texts) <= _CHOICES else ()
    numbers = any(cell.value is not None for cell in cells)
    return Column(f"p.{plain(name)}", _label(name), "parameter", choices, numbers)


def _parameter(run: Run, name: str) -> Cell:
    if name not in run.parameters:
        return Cell("default", quiet=True)
    value = run.parameters[name]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Cell(_shown(value), value)
    return Cell(_shown(value))


def _shown(value: object) -> str:
    """A parameter's value; numbers that differ in the batch file differ here, too."""
    match value:
        case str():
            return plain(value)
        case list() | tuple():
            return ", ".join(map(_shown, value))
        case dict():
            return ", ".join(f"{plain(str(name))}: {_shown(each)}" for name, each in value.items())
        case float():
            return f"{value:.12g}"
        case None | bool():
            return json.dumps(value)
    return plain(str(value))


def _figure(value: float | None) -> Cell:
    return Cell() if value is None else Cell(number(value), value)


def _time(seconds: float | None) -> Cell:
    return Cell() if seconds is None else Cell(duration(seconds), seconds)


def _css(text: str) -> str:
    r"""The inside of a string in CSS: all but letters and digits as `\HEX `."""
    return re.sub(r"[^0-9A-Za-z]", lambda char: f"\\{ord(char[0]):x} ", text)


@cache
def _template() -> Any:
    environment = Environment(
        loader=PackageLoader("workbench", "batch"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["css"] = _css
    return environment.get_template("report.html.j2")


# --- table -------------------------------------------------------------------------------


def _summary(plan: Plan, states: Mapping[str, State]) -> str:
    """One row a run, in the plan's order."""
    figures = _figures(states[run.name] for run in plan.runs)
    fixed = {"name", "state", "seconds", "attempts", "host", "sentence"}
    varied = [_unlike(name, fixed, "parameter") for name in plan.varied]
    figured = [_unlike(name, {*fixed, *varied}, "figure") for name in figures]
    text = io.StringIO()
    writer = csv.writer(text)
    heads = ["name", "state", *varied, "seconds", "attempts", "host", *figured, "sentence"]
    writer.writerow(map(_harmless, heads))
    for run in plan.runs:
        state = states[run.name]
        cells = [
            run.name,
            state.kind,
            *(_written(run.parameters.get(name, "")) for name in plan.varied),
            state.seconds,
            state.attempts,
            state.host,
            *(state.figures.get(name) for name in figures),
            plain(state.sentence),
        ]
        writer.writerow(map(_harmless, cells))
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
