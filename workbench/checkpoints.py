"""What a painting needs to go on after a stop, kept in files beside what it makes.

A folder holds the newest checkpoint of a run and the one before, as safetensors with JSON in the
header: `workbench-step-RUN-STEP.safetensors`, with pixels, gradient, the memory of the optimiser,
and the pictures for the GIF. RUN is a digest of what the painting depends on, so that runs with
other settings leave each other's checkpoints alone. Nothing in them is code, and no random state
is among it: noise is drawn once, for the start picture, from `settings.seed`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from workbench.errors import InputError, OutputError
from workbench.files import atomic, check_writable
from workbench.losses import Losses

Tensors = Mapping[str, Tensor]

# Unfinished files of killed runs and those of earlier versions, without a RUN, among them.
_NAMES = re.compile(
    r"\.?workbench-(step|frames)(-[0-9a-f]{8})?-\d{8}(\.\w+\.partial)?\.safetensors"
)
_TENSOR = "$"  # the only name of a mapping that stands for a tensor
_KEPT = 2
DAMAGED = (SafetensorError, OSError, ValueError, KeyError, TypeError)


@dataclass(frozen=True, eq=False)
class Moment:
    """A painting between two steps: everything that the next ones depend on.

    Attributes
    ----------
    step
        Steps taken so far over all scales.
    pixels
        `(1, 3, H, W)`, float32, sRGB in 0..255 before it is clipped.
    grad
        Of the loss at `pixels`, likewise.
    losses
        At `pixels`.
    lowest
        The lowest loss since the optimiser began anew.
    rate
        Share of their full length that steps have after explosions.
    rescues
        Explosions in a row.
    calm
        Steps since the last one.
    optimizer
        What torch's optimiser remembers, and its "lr"; empty before the first step, or where
        nobody asked for it.
    """

    step: int
    pixels: Tensor
    grad: Tensor
    losses: Losses
    lowest: float
    rate: float = 1.0
    rescues: int = 0
    calm: int = 0
    optimizer: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """What a painting depends on.

    Attributes
    ----------
    digests
        What went in, such as "the photograph" -> its SHA-256.
    values
        Settings and versions -> their values, of the kinds that JSON has.
    """

    digests: Mapping[str, str]
    values: Mapping[str, Any]

    def name(self) -> str:
        """Short digest of it all, for file names."""
        whole = json.dumps([dict(self.digests), dict(self.values)], sort_keys=True)
        return hashlib.sha256(whole.encode()).hexdigest()[:8]

    def differences(self, before: Run) -> list[str]:
        """Say how this run differs from one before, as in "style_weight was 100.0, is 300.0"."""
        told = []
        for name in dict.fromkeys([*before.digests, *self.digests]):
            then, now = before.digests.get(name), self.digests.get(name)
            if then != now:
                how = "is new" if then is None else "is gone" if now is None else "is another one"
                told.append(f"{name} {how}")
        for name in dict.fromkeys([*before.values, *self.values]):
            then, now = (json.dumps(run.values.get(name)) for run in (before, self))
            if then != now:
                told.append(f"{name} was {then}, is {now}")
        return told


class Remembers(Protocol):
    """A consumer of the stream that has to go on with it, such as `progress.Recorder`."""

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Values as JSON has them, and tensors; what has been under a name never changes."""

    def restore(self, values: Mapping[str, Any], tensors: Tensors) -> None:
        """Be as when `state` returned these."""


@dataclass(eq=False)
class Checkpoints:
    """Where `optimize` keeps what it needs to go on, and how often.

    Handed the same folder again, a run goes on from there. On the same machine with the same
    number of threads, what comes out equals, bit for bit on a CPU, what an unbroken run makes.
    A run that differs begins anew and says how it differs; what is there of the other stays,
    and can go on, until `remove` is called.

    With L-BFGS a checkpoint is as large as 44 pictures in float32 (100 MB at 512x384 pixels,
    1.7 GB at 2048x1536), with Adam as 4, and the recorder's pictures come on top.

    Attributes
    ----------
    folder
        For checkpoints alone, of one picture; made when the first is written.
    every
        Steps between two.
    recorder
        Is kept with the run, and brought back with it.
    resume
        Whether to go on from what is there; else it is removed and the run begins anew.
    told
        What else `recorder` depends on, by name; another run has other values.
    share
        Of the time, at most, that may go into writing: where that takes long, it is done less
        often than `every` says.
    say
        Is handed a sentence about what was found, or could not be written.

    Raises
    ------
    InputError
        If `every` is no number of steps.
    """

    folder: Path
    every: int = 50
    recorder: Remembers | None = None
    resume: bool = True
    told: Mapping[str, Any] = field(default_factory=dict)
    share: float = 0.01
    say: Callable[[str], None] = print
    _run: Run = field(default_factory=lambda: Run({}, {}), repr=False)
    _saved_at: float = field(default=0.0, repr=False)
    _seconds: float = field(default=0.0, repr=False)  # that the last one took
    _full: bool = field(default=False, repr=False)
    _latest: Moment | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.folder = Path(self.folder)
        if self.every < 1:
            raise InputError(f"every = {self.every}: give a number of steps from 1 on.")

    def find(self, run: Run) -> Moment | None:
        """Where to go on, with `recorder` as it was then; None: at the start.

        Raises
        ------
        OutputError
            If checkpoints could not be written.
        """
        check_writable(self.folder / "step" if self.folder.exists() else self.folder)
        values = {**run.values, **self.told}
        self._run = Run(run.digests, json.loads(json.dumps(values)))
        self._saved_at = time.monotonic()
        if not self.resume:
            self.remove()
        found = self._newest_whole()
        if found is None:
            self._remove_empty_folder()
            self._say_what_else_is_there()
            return None
        if self.recorder is not None and found.recorder is not None:
            self.recorder.restore(found.recorder, found.tensors)
        self.say(f"Going on from step {found.moment.step} in {self.folder}.")
        return found.moment

    def keep(self, moments: Iterator[Moment]) -> Generator[Moment]:
        """Pass moments on and keep them: every so often, and the last one when it is stopped.

        A moment is kept once the consumer has come back for the next, so that `recorder` has
        had it. Stopped are: Ctrl-C, and to leave the loop.
        """
        try:
            for moment in moments:
                self._latest = moment
                yield moment
                if self._is_due(moment.step):
                    self.save()
        except (KeyboardInterrupt, GeneratorExit):
            self.save()
            raise
        finally:
            self._latest = None

    def save(self) -> None:
        """Keep the latest moment now, unless it or a later one has been kept."""
        # A later one: another run went on before this one was closed.
        newest = max(map(_step_of, self._steps()), default=0)
        if self._latest is None or self._full or self._latest.step <= newest:
            return
        try:
            self._save(self._latest)
        except OutputError as error:
            self._full = True
            self._remove_empty_folder()
            self.say(f"No more checkpoints: {error}")

    def remove(self) -> None:
        """Delete all checkpoints, of other runs too, and the folder if nothing else is in it.

        To be called once what was made of the pictures is safe.
        """
        _delete(self._files())
        self._remove_empty_folder()

    def _remove_empty_folder(self) -> None:
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _is_due(self, step: int) -> bool:
        waited = time.monotonic() - self._saved_at
        return step % self.every == 0 and waited * self.share >= self._seconds

    def _save(self, moment: Moment) -> None:
        began = time.monotonic()
        values, tensors = _pack(moment)
        values |= {"run": vars(self._run), "recorder": None}
        if self.recorder is not None:
            values["recorder"], pictures = self.recorder.state()
            tensors |= {f"recorder.{name}": picture for name, picture in pictures.items()}
        name = f"workbench-step-{self._run.name()}-{moment.step:08d}.safetensors"
        _write(self.folder / name, values, tensors)
        _delete(sorted(self._steps(), key=_step_of)[:-_KEPT])
        _delete(path for path in self._files() if path.name.startswith("."))
        self._saved_at = time.monotonic()
        self._seconds = self._saved_at - began

    def _newest_whole(self) -> _Found | None:
        """The newest that can be read; those that cannot are deleted, and that is said."""
        paths = sorted(self._steps(), key=_step_of)
        while paths:
            path = paths.pop()
            try:
                return _load(path)
            except DAMAGED:
                rest = "the one before is used" if paths else "the painting begins anew"
                self.say(f"{path} is damaged or not the workbench's; {rest}.")
                path.unlink(missing_ok=True)
        return None

    def _say_what_else_is_there(self) -> None:
        """Name what differs from the run that is nearest to this one."""
        others: list[list[str]] = []
        for path in self._files():
            with contextlib.suppress(*DAMAGED), safe_open(path, framework="pt") as file:
                other = Run(**json.loads(file.metadata()["workbench"])["run"])
                others.append(self._run.differences(other) or ["by another version"])
        if others:
            nearest = min(others, key=len)
            self.say(
                f"{self.folder} belongs to another run ({'; '.join(nearest)}); the painting begins"
                " anew. The other one can go on until this one is finished."
            )

    def _steps(self) -> list[Path]:
        """Checkpoints of this run."""
        begin = f"workbench-step-{self._run.name()}-"
        return [path for path in self._files() if path.name.startswith(begin)]

    def _files(self) -> list[Path]:
        return [path for path in self.folder.glob("*.safetensors") if _NAMES.fullmatch(path.name)]


def _delete(paths: Iterable[Path]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink()


def _step_of(path: Path) -> int:
    return int(path.stem.rpartition("-")[2].partition(".")[0])


@dataclass(frozen=True, eq=False)
class _Found:
    """A checkpoint that is whole."""

    moment: Moment
    recorder: Mapping[str, Any] | None
    tensors: Tensors


def _load(path: Path) -> _Found:
    values, tensors = _read(path)
    pictures = {
        name.removeprefix("recorder."): tensors.pop(name)
        for name in list(tensors)
        if name.startswith("recorder.")
    }
    return _Found(_unpack(values, tensors), values["recorder"], pictures)


def _pack(moment: Moment) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A moment as JSON and tensors."""
    values = {**vars(moment), "losses": vars(moment.losses)}
    tensors = {name: values.pop(name) for name in ("pixels", "grad")}
    numbers: dict[str, Any] = {}
    for name, value in values.pop("optimizer").items():
        if isinstance(value, Tensor):
            tensors[f"optimizer.{name}"] = value
        elif isinstance(value, list):
            numbers[name] = [len(value)]
            tensors |= {f"optimizer.{name}.{i}": each for i, each in enumerate(value)}
        else:
            numbers[name] = value
    return {"moment": values, "optimizer": numbers}, tensors


def _unpack(values: Mapping[str, Any], tensors: Tensors) -> Moment:
    optimizer: dict[str, Any] = {}
    for name, value in values["optimizer"].items():
        if isinstance(value, list):
            value = [tensors[f"optimizer.{name}.{i}"] for i in range(value[0])]
        optimizer[name] = value
    for name, tensor in tensors.items():
        if name.startswith("optimizer.") and name.count(".") == 1:
            optimizer[name.removeprefix("optimizer.")] = tensor
    moment = {**values["moment"], "losses": Losses(**values["moment"]["losses"])}
    return Moment(pixels=tensors["pixels"], grad=tensors["grad"], optimizer=optimizer, **moment)


def _write(path: Path, values: Mapping[str, Any], tensors: Tensors) -> None:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(values)
    save_tensors(tensors, path, {"workbench": text, "checksum": _checksum(text, tensors)})


def save_tensors(tensors: Tensors, path: Path, metadata: dict[str, str]) -> None:
    """Write a safetensors file with texts in its header; it appears when it is finished.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        with atomic(path) as beside:
            save_file(whole, beside, metadata=metadata)
    except SafetensorError as error:
        raise OutputError(f"{path} cannot be written: {error}.") from error


def save_tree(path: str | os.PathLike[str], tree: Mapping[str, Any]) -> None:
    """Write nested mappings and lists of tensors, and of what JSON has, as one safetensors file.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    tensors: dict[str, Tensor] = {}

    def skeleton(node: Any) -> Any:
        if isinstance(node, Tensor):
            name = str(len(tensors))
            tensors[name] = node.detach().cpu().contiguous()
            return {_TENSOR: name}
        if isinstance(node, Mapping):
            return {str(name): skeleton(value) for name, value in node.items()}
        return [skeleton(value) for value in node] if isinstance(node, list | tuple) else node

    text = json.dumps(skeleton(tree))
    save_tensors(tensors, Path(path), {"tree": text, "checksum": _checksum(text, tensors)})


def load_tree(path: str | os.PathLike[str]) -> Any:
    """Read what `save_tree` wrote; names that are whole numbers are numbers again.

    Raises
    ------
    DAMAGED
        One of these, if the file is not there, cut short, changed or another program's.
    """
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        # As copies they begin where torch's own memory would, on which the bits of sums depend.
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    if metadata["checksum"] != _checksum(metadata["tree"], tensors):
        raise ValueError("the checksum differs")

    def whole(node: Any) -> Any:
        if isinstance(node, list):
            return [whole(value) for value in node]
        if not isinstance(node, dict):
            return node
        if _TENSOR in node:
            return tensors[node[_TENSOR]]
        return {int(name) if name.isdigit() else name: whole(v) for name, v in node.items()}

    return whole(json.loads(metadata["tree"]))


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        # As copies they begin where torch's own memory would, on which the bits of sums depend.
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    text: str = metadata["workbench"]
    if metadata["checksum"] != _checksum(text, tensors):
        raise ValueError("the checksum differs")
    values: dict[str, Any] = json.loads(text)
    return values, tensors


def _checksum(text: str, tensors: Tensors) -> str:
    """Of all that a file holds; ten times as fast as writing it, which zlib and hashlib are not."""
    sums = []
    for name in sorted(tensors):
        data = tensors[name].numpy().reshape(-1).view(np.uint8)
        whole = len(data) // 8 * 8
        total = int(data[:whole].view(np.uint64).sum()) + int(data[whole:].sum())
        sums.append((name, tuple(tensors[name].shape), str(tensors[name].dtype), total))
    return f"{zlib.crc32(f'{text} {sums}'.encode()):08x}"
