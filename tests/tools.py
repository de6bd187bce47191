"""What several tests of notebooks need."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat

from workbench.notebook import find_notebook, run_notebook


def parameters_cell(notebook: Path) -> str:
    cells = nbformat.read(notebook, 4).cells
    (source,) = [c.source for c in cells if "parameters" in c.metadata.get("tags", [])]
    return str(source)


def default_parameters(name: str) -> dict[str, Any]:
    """Parameters of one of the workbench's notebooks, with their defaults."""
    values: dict[str, Any] = {}
    exec(parameters_cell(find_notebook(name)), values)  # our own file
    return {name: value for name, value in values.items() if not name.startswith("__")}


def run_cells(name: str, count: int | None, **parameters: Any) -> dict[str, Any]:
    """Run the parameters cell of a notebook and the first cells of code behind it, right here.

    None: all of them.
    """
    cells = nbformat.read(find_notebook(name), 4).cells
    first, *rest = [cell.source for cell in cells if cell.cell_type == "code"]
    given = [f"{name} = {value!r}" for name, value in parameters.items()]
    injected = "\n".join(["# Parameters", *given])
    sources = ["", first, injected]
    values: dict[str, Any] = {"In": sources}
    exec(first, values)  # our own file
    exec(injected, values)
    for source in rest[:count]:
        sources.append(source)
        exec(source, values)
    return values


def run(name: str, executed: Path, output_dir: Path, **parameters: Any) -> None:
    """Run one of the workbench's notebooks headless."""
    given = {"output_dir": str(output_dir), **parameters}
    run_notebook(find_notebook(name), executed, given)


def shown(executed: Path) -> list[str]:
    """Kinds of what an executed notebook shows; pictures and films by what their data are."""
    kinds = []
    for cell in nbformat.read(executed, 4).cells:
        for out in cell.get("outputs", []):
            for kind, data in out.get("data", {}).items():
                if kind == "text/plain" and len(out.data) > 1:  # for those who cannot show it
                    continue
                inside = re.findall(r'src="data:([^;]+);base64,', str(data))
                kinds += inside or [kind]
    return kinds
