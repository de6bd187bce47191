"""A run is a folder: everything it made, and a `result.json` that says what.

`result.json` is written last and in one step. A folder without a valid one is unfinished.
"""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import workbench
from workbench.errors import InputError
from workbench.files import check_writable, write_bytes

RESULT = "result.json"


@dataclass(frozen=True)
class Result:
    """What a finished run made.

    Attributes
    ----------
    outputs
        Name -> path relative to the folder, with forward slashes.
    figures
        Name -> number.
    settings
        Everything that the run was told.
    weights
        `name` and `sha256` of the pretrained weights.
    versions
        Program -> version.
    seconds
        How long the run took.
    """

    outputs: Mapping[str, str]
    figures: Mapping[str, float]
    settings: Mapping[str, Any]
    weights: Mapping[str, str]
    versions: Mapping[str, str]
    seconds: float


def start_run(folder: str | os.PathLike[str]) -> Path:
    """Open a folder for a run; whatever it says of an earlier one no longer counts.

    Raises
    ------
    OutputError
        If the folder cannot be made or written to.
    """
    folder = Path(folder)
    check_writable(folder / RESULT)
    (folder / RESULT).unlink(missing_ok=True)
    return folder


def finish_run(
    folder: str | os.PathLike[str],
    *,
    outputs: Mapping[str, str | os.PathLike[str]],
    figures: Mapping[str, float],
    settings: Mapping[str, Any],
    weights: Mapping[str, str],
    seconds: float,
) -> Result:
    """Write `result.json`, after everything else.

    Parameters
    ----------
    outputs
        Name -> path of a finished file inside `folder`.

    Raises
    ------
    InputError
        If an output is missing or lies outside of `folder`, or a figure is not finite.
    """
    folder = Path(folder)
    relative = {}
    for name, path in outputs.items():
        if not Path(path).is_file():
            raise InputError(f"output {name!r}: there is no file {path}.")
        if not Path(path).resolve().is_relative_to(folder.resolve()):
            raise InputError(f"output {name!r}: {path} lies outside of {folder}.")
        relative[name] = Path(path).resolve().relative_to(folder.resolve()).as_posix()
    for name, value in figures.items():
        if not math.isfinite(value):
            raise InputError(f"figure {name!r} is {value}, which is not a finite number.")
    result = Result(relative, figures, settings, weights, _versions(), round(seconds, 3))
    write_bytes(folder / RESULT, json.dumps(asdict(result), indent=2).encode())
    return result


def read_result(folder: str | os.PathLike[str]) -> Result | None:
    """Read a run's `result.json`; None if `check_result` finds anything wrong with it."""
    try:
        return check_result(folder)
    except InputError:
        return None


def check_result(folder: str | os.PathLike[str]) -> Result:
    """Read a run's `result.json`, or say what is wrong with it.

    Raises
    ------
    InputError
        If there is none, it is damaged or another program's, or an output is gone or lies
        outside of `folder`.
    """
    folder = Path(folder)
    path = folder / RESULT
    damaged = InputError(f"{path} is damaged, or was not written by the workbench.")
    try:
        result = Result(**json.loads(path.read_text("utf-8")))
        finite = all(math.isfinite(value) for value in (result.seconds, *result.figures.values()))
        for name, relative in result.outputs.items():
            output = folder / relative
            if not output.is_file():
                raise InputError(f"{path}: the output {name!r}, {output}, is gone; run it again.")
            if not output.resolve().is_relative_to(folder.resolve()):
                raise InputError(f"{path}: the output {name!r} lies outside of the run's folder.")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {(error.strerror or '').lower()}.") from None
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        raise damaged from None
    tables = (result.settings, result.weights, result.versions)
    if not (finite and all(isinstance(table, dict) for table in tables)):
        raise damaged
    return result


def _versions() -> dict[str, str]:
    versions = {"workbench": workbench.__version__, "python": platform.python_version()}
    for package in ("torch", "torchvision", "numpy", "pillow"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
