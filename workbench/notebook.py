"""A notebook is a function: its parameters cell is its signature."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import logging
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.errors import InputError, WorkbenchError
from workbench.files import check_writable
from workbench.settings import ClipSettings, Settings

_INJECTED = "# Parameters"  # papermill's first line in the cell that it adds


def check_parameters(cells: Sequence[str]) -> None:
    """Refuse parameters that a notebook does not have; papermill alone would only warn.

    To be called in the cell right behind the parameters cell, as
    `check_parameters(In)`, where IPython's `In` lists the sources of the cells run so far.

    Raises
    ------
    InputError
        If papermill handed in a name that the parameters cell does not assign.
    """
    if len(cells) < 3 or not cells[-2].startswith(_INJECTED):
        return  # run by hand, or without parameters
    known = _assigned(cells[-3])
    for name in _assigned(cells[-2]):
        if name not in known:
            raise InputError(unknown_parameter(name, known))


def unknown_parameter(name: str, known: Sequence[str]) -> str:
    """The sentence about a parameter that there is not, with the nearest one that there is."""
    nearest = difflib.get_close_matches(name, known, n=1)
    hint = f" did you mean {nearest[0]!r}?" if nearest else ""
    return f"unknown parameter {name!r};{hint or ' see the parameters cell of the notebook.'}"


def _assigned(source: str) -> list[str]:
    """Names that a cell of plain assignments gives a value."""
    names = []
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            names.append(statement.target.id)
        elif isinstance(statement, ast.Assign):
            names += [target.id for target in statement.targets if isinstance(target, ast.Name)]
    return names


def settings_from(parameters: Mapping[str, Any]) -> Settings:
    """Pick the settings out of a notebook's variables, as in `settings_from(globals())`."""
    return Settings(**_fields(Settings, parameters))


def clip_settings_from(parameters: Mapping[str, Any]) -> ClipSettings:
    """Likewise, the settings of a film."""
    return ClipSettings(**_fields(ClipSettings, parameters))


def _fields(kind: type, parameters: Mapping[str, Any]) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(kind)]
    return {name: parameters[name] for name in names if name in parameters}


def is_headless() -> bool:
    """Whether nobody is looking: papermill or nbconvert runs the notebook, not a front end.

    A front end says with every request which of its cells it is for.
    """
    from IPython.core.getipython import get_ipython

    shell = get_ipython()
    kernel = getattr(shell, "kernel", None)
    if kernel is None:
        return True
    return "cellId" not in kernel.get_parent().get("metadata", {})


def find_notebook(name: str) -> Path:
    """Path of a notebook of the workbench, such as "stylize_image"."""
    here = Path(__file__).resolve().parent
    for folder in (here.parent / "notebooks", here / "_notebooks"):
        path = folder / f"{name}.ipynb"
        if path.is_file():
            return path
    raise InputError(f"there is no notebook called {name!r}.")


def run_notebook(
    notebook: str | os.PathLike[str],
    output: str | os.PathLike[str],
    parameters: Mapping[str, Any],
) -> None:
    """Run a notebook headless with papermill and keep the executed notebook.

    What the notebook prints, its progress bars among it, goes to the terminal.

    Parameters
    ----------
    notebook
        The notebook to run.
    output
        Where the executed notebook goes once it has run to its end. If it fails, it goes
        beside that with `.failed` in its name instead.
    parameters
        Values for its parameters cell.

    Raises
    ------
    InputError
        If a parameter is unknown.
    WorkbenchError
        If a cell fails or the kernel dies; the sentence is the notebook's own.
    """
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    notebook, output = Path(notebook), Path(output)
    known = list(papermill.inspect_notebook(str(notebook)))
    for name in parameters:
        if name not in known:
            raise InputError(unknown_parameter(name, known))
    check_writable(output)
    logging.getLogger("papermill").setLevel(logging.ERROR)
    # After Ctrl-C, the dead kernel would be reported a second time, as a stack trace, whenever
    # the task that watched it is collected.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    failed = output.with_suffix(f".failed{output.suffix}")
    running = output.with_name(f".{output.stem}.running{output.suffix}")
    try:
        papermill.execute_notebook(
            str(notebook),
            str(running),
            parameters=dict(parameters),
            progress_bar=False,
            stdout_file=sys.stdout,
            stderr_file=sys.stderr,
            kernel_manager_class=_quiet_kernel_manager(),
            coalesce_streams=True,  # of a progress bar, only its last state is saved
        )
    except PapermillExecutionError as error:
        running.replace(failed)
        kind = InputError if error.ename == "InputError" else WorkbenchError
        sentence = error.evalue.rstrip(".")
        raise kind(f"{sentence} (the notebook up to there: {failed}).") from None
    except (DeadKernelError, CellTimeoutError) as error:
        running.replace(failed)
        raise WorkbenchError(
            f"the kernel of {notebook.name} died, perhaps for lack of memory; try a smaller"
            f" size (the notebook up to there: {failed})."
        ) from error
    finally:
        if sys.exc_info()[0] is not None:
            running.unlink(missing_ok=True)
    running.replace(output)
    failed.unlink(missing_ok=True)


def _quiet_kernel_manager() -> type:
    """A kernel that talks over files and keeps its own log to itself."""
    from jupyter_client.manager import AsyncKernelManager

    class QuietKernelManager(AsyncKernelManager):
        # Nobody else can listen in on files, and they never collide as ports do.
        transport = "tcp" if os.name == "nt" else "ipc"

        async def start_kernel(self, **options: Any) -> None:  # type: ignore[override]
            # An interrupted kernel would print a stack trace over the one clear sentence.
            await super().start_kernel(**{**options, "stderr": subprocess.DEVNULL})

    return QuietKernelManager
