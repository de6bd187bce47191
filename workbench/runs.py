"""A run is a folder: everything it made, and a `result.json` that says what.

`result.json` is written last and in one step. A folder without a valid one is unfinished. Until
a new run is whole, it writes into the folder `unfinished`, beside what the last one made.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import re
import shutil
import time
from collections.abc import Collection, Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import workbench
from workbench.errors import InputError
from workbench.files import (
    PICTURE_SUFFIXES,
    check_writable,
    claimed,
    output_errors,
    reading,
    replace,
    write_bytes,
)
from workbench.settings import NEWER

if TYPE_CHECKING:
    from torch import Tensor

RESULT = "result.json"
IDENTITY = "run.json"  # in a folder that a run goes on in
UNFINISHED = "unfinished"
NUMBER = "{n}"
HEADLESS = "WORKBENCH_HEADLESS"  # is set in the kernels of runs that nobody watches
_WHOLE = ".finished"  # what `UNFINISHED` is called while its files are moved out of it

_began: dict[Path, float] = {}  # when the runs of this process were started, by their folder
_claims: dict[Path, ExitStack] = {}  # numbered folders that this process works in


@dataclass(frozen=True)
class Result:
    """What a finished run made."""

    outputs: Mapping[str, str]  # name -> path relative to the folder, with forward slashes
    figures: Mapping[str, float]
    settings: Mapping[str, Any]  # everything that the run was told
    weights: Mapping[str, str]  # `name` and `sha256` of the pretrained weights
    versions: Mapping[str, str]  # of the programs, and what the machine computed with
    seconds: float  # that the run took


@dataclass(frozen=True)
class Identity:
    """What a piece of work depends on: two with the same identity make the same."""

    values: Mapping[str, Any]  # as JSON has them; the `digest` of a picture stands for it

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", _as_ever(self.values))

    @property
    def key(self) -> str:
        """Short text, the same for the same values, for names of files."""
        return hashlib.sha256(self._json(self.values).encode()).hexdigest()[:16]

    def differences(self, before: Mapping[str, Any]) -> list[str]:
        """Say how this work differs from one before, as in "style_weight was 100.0, is 300.0"."""
        told = []
        for name in dict.fromkeys([*before, *self.values]):
            unsaid = NEWER.get(name)
            then, now = (self._json(values.get(name, unsaid)) for values in (before, self.values))
            if then == now:
                continue
            if _DIGEST.search(then) or _DIGEST.search(now):
                how = (
                    "is new" if then == "null" else "is gone" if now == "null" else "is another one"
                )
                told.append(f"{name} {how}")
            else:
                told.append(f"{name} was {then}, is {now}")
        return told

    @staticmethod
    def _json(value: Any) -> str:
        return json.dumps(value, sort_keys=True)


def _as_ever(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as they were before there were newer knobs, where these do what was done then."""
    return {
        name: _as_ever(value) if isinstance(value, Mapping) else value
        for name, value in values.items()
        if name not in NEWER or value != NEWER[name]
    }


_DIGEST = re.compile(r'"[0-9a-f]{64}"')
_MOVING = (".mp4", ".mov", ".mkv", ".gif")
_WENT_IN = re.compile(r"(content|photograph|inputs|style([ _-]?\d+)?)(\.\w+)?")


def digest(content: bytes | Tensor | str | os.PathLike[str]) -> str:
    """SHA-256 of bytes, of a tensor's values and shape, or of the file at a path."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    if not isinstance(content, str | os.PathLike):
        values = content.detach().cpu().contiguous().numpy()
        return digest(f"{values.dtype} {values.shape}".encode() + values.tobytes())
    with reading(Path(content)), Path(content).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def same_run(folder: Path, identity: Identity, ignoring: Collection[str] = ()) -> None:
    """Write down what a folder holds the work of, or refuse one that holds another's.

    The `InputError` names the first difference to `run.json`, `ignoring` some names; files in a
    folder without one are refused, too.
    """
    path = folder / IDENTITY
    if not any(not each.name.startswith(".") and each != path for each in folder.iterdir()):
        write_bytes(path, json.dumps(identity.values, indent=1).encode())  # nothing made here yet
        return
    there = read_identity(folder)
    if there is None:
        raise InputError(
            f"{folder} holds files but no {IDENTITY} that says what of; use another folder."
        )
    same = {name: there.get(name) for name in ignoring}
    if told := Identity({**identity.values, **same}).differences(there):
        raise InputError(
            f"{folder} belongs to another run: {told[0]}; use another folder, or delete this one."
        )


def read_identity(folder: Path) -> dict[str, Any] | None:
    """What a folder holds the work of, as `same_run` wrote it; None where nothing says so."""
    try:
        there = json.loads((folder / IDENTITY).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return there if isinstance(there, dict) else None


def start_run(output_dir: str | os.PathLike[str]) -> Path:
    """Open a folder for what a new run writes; an earlier one stays whole beside it.

    `{n}` in `output_dir` stands for a number: the run gets the first folder that there is not yet,
    from 001 on, or goes on in one that was left unfinished. What this function returned is taken as
    it is: that is `output_dir/unfinished`, and `finish_run` moves what lies in it to `output_dir`.
    What a later run is to go on with, such as frames or a checkpoint, belongs into its parent.
    """
    if Path(output_dir).name == UNFINISHED:
        return Path(output_dir)
    numbered = NUMBER in str(output_dir)
    home = _next_folder(str(output_dir)) if numbered else Path(output_dir)
    folder = home / UNFINISHED
    _put_in_place(home)
    check_writable(folder / RESULT)
    for file in folder.iterdir():
        if file.is_file():  # of a run that was broken off, with other parameters perhaps
            file.unlink()
    _began[folder.resolve()] = time.monotonic()
    return folder


def _next_folder(pattern: str) -> Path:
    """The first numbered folder in which no run has finished and nobody else is at work."""
    number = 0
    while True:
        number += 1
        home = Path(pattern.replace(NUMBER, f"{number:03}"))
        if home.exists() and ((home / RESULT).exists() or not (home / UNFINISHED).is_dir()):
            continue
        if home.resolve() in _claims:
            return home
        with ExitStack() as stack, suppress(InputError):
            stack.enter_context(claimed(home))
            _claims[home.resolve()] = stack.pop_all()
            return home


def finish_run(
    folder: str | os.PathLike[str],
    *,
    outputs: Mapping[str, str | os.PathLike[str]],
    figures: Mapping[str, float],
    settings: Mapping[str, Any],
    weights: Mapping[str, str],
    machine: Mapping[str, str] | None = None,
    seconds: float | None = None,
) -> Result:
    """Write `result.json`, and put everything in the place of what an earlier run made.

    Outputs of the earlier run that this one lacks are removed, but for those in subfolders, such as
    the pictures of a grid, which a later run may want again.

    Parameters
    ----------
    folder
        From `start_run`; any other folder is taken as it is.
    outputs
        Name -> path of a finished file inside `folder`, or kept beside it by an earlier run.
    figures, settings, weights
        See `Result`; figures that are not finite are refused.
    machine
        What it was computed with, such as the device and the precision, beside the versions.
    seconds
        How long the run took; None: since `start_run`.
    """
    folder = Path(folder)
    home = folder.parent if folder.name == UNFINISHED else folder
    relative = {}
    for name, path in outputs.items():
        path = Path(path)
        if not path.is_file() and path.is_relative_to(folder):
            path = home / path.relative_to(folder)
        if not path.is_file():
            raise InputError(f"output {name!r}: there is no file {path}.")
        inside = [each for each in (folder, home) if path.resolve().is_relative_to(each.resolve())]
        if not inside:
            raise InputError(f"output {name!r}: {path} lies outside of {home}.")
        relative[name] = path.resolve().relative_to(inside[0].resolve()).as_posix()
    for name, value in figures.items():
        if not math.isfinite(value):
            raise InputError(f"figure {name!r} is {value}, which is not a finite number.")
    if seconds is None:
        seconds = time.monotonic() - _began.get(folder.resolve(), time.monotonic())
    versions = _versions() | dict(machine or {})
    result = Result(relative, figures, settings, weights, versions, round(seconds, 3))
    write_bytes(folder / RESULT, json.dumps(asdict(result), indent=2).encode())
    if folder != home:
        _put_in_place(home)  # another one that is whole, if its process was killed just then
        with output_errors(home):
            replace(folder, home / _WHOLE)
        _put_in_place(home)
    if claim := _claims.pop(home.resolve(), None):
        claim.close()
        (home / ".lock").unlink(missing_ok=True)
    return result


def _put_in_place(home: Path) -> None:
    """Move a run that is whole, if there is one, to where its predecessor lies."""
    whole = home / _WHOLE
    if not whole.is_dir():
        return
    with output_errors(home):
        new = json.loads((whole / RESULT).read_text("utf-8"))["outputs"].values()
        before = read_result(home)
        (home / RESULT).unlink(missing_ok=True)
        for path in before.outputs.values() if before else ():
            if path not in new and "/" not in path:
                (home / path).unlink(missing_ok=True)
        for file in whole.rglob("*"):
            if file.is_file() and file != whole / RESULT:
                target = home / file.relative_to(whole)
                target.parent.mkdir(parents=True, exist_ok=True)
                file.replace(target)
        replace(whole / RESULT, home / RESULT)
        shutil.rmtree(whole)


def read_result(folder: str | os.PathLike[str]) -> Result | None:
    """Read a run's `result.json`; None if `check_result` finds anything wrong with it."""
    try:
        return check_result(folder)
    except InputError:
        return None


def check_result(folder: str | os.PathLike[str]) -> Result:
    """Read a run's `result.json`, or say what is wrong with it.

    An `InputError` says that there is none, it is damaged or another program's, or an output is
    gone or lies outside of `folder`.
    """
    folder = Path(folder)
    path = folder / RESULT
    damaged = InputError(f"{path} is damaged, or was not written by the workbench.")
    with reading(path):
        text = path.read_bytes()
    try:
        result = Result(**json.loads(text))
        finite = all(math.isfinite(value) for value in (result.seconds, *result.figures.values()))
        for name, relative in result.outputs.items():
            output = folder / relative
            if not output.is_file():
                raise InputError(f"{path}: the output {name!r}, {output}, is gone; run it again.")
            if not output.resolve().is_relative_to(folder.resolve()):
                raise InputError(f"{path}: the output {name!r} lies outside of the run's folder.")
    except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        raise damaged from None
    tables = (result.settings, result.weights, result.versions)
    if not (finite and all(isinstance(table, dict) for table in tables)):
        raise damaged
    return result


def shown(outputs: Mapping[str, str]) -> str:
    """Path of the output that stands for a run, relative to its folder; empty: there is none."""
    for name in ("picture", "film", "sheet"):
        if name in outputs:
            return outputs[name]
    made = [path for name, path in outputs.items() if not _WENT_IN.fullmatch(name)]
    for suffixes in (_MOVING, PICTURE_SUFFIXES):
        for path in made:
            if path.lower().endswith(suffixes):
                return path
    return ""


def _versions() -> dict[str, str]:
    versions = {"workbench": workbench.__version__, "python": platform.python_version()}
    for package in ("torch", "torchvision", "numpy", "pillow"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
