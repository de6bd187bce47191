"""What a painting needs to go on after a stop, kept in a file beside what it makes.

`workbench-run-KEY.safetensors` holds pixels, gradient, the memory of the optimiser, and the
pictures for the GIF. KEY stands for what the painting depends on, so that runs with other
settings leave each other's files alone. Nothing in them is code, and no random state is among
it: noise is drawn once, for the start picture, from `settings.seed`.
"""

from __future__ import annotations

import contextlib
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
from workbench.runs import Identity

Tensors = Mapping[str, Tensor]

# Those of earlier versions, and unfinished ones of runs that were killed, among them.
_NAMES = re.compile(r"\.?workbench-(run|step|frames)-.*\.safetensors")
_TENSOR = "$"  # the only name of a mapping that stands for a tensor
DAMAGED = (SafetensorError, OSError, ValueError, KeyError, TypeError)


@dataclass(frozen=True, eq=False)
class Moment:
    """A painting between two steps: everything that the next ones depend on."""

    step: int  # steps taken so far over all scales
    pixels: Tensor  # (1, 3, H, W), float32, sRGB in 0..white before it is clipped
    grad: Tensor  # of the loss at `pixels`
    losses: Losses  # at `pixels`
    lowest: float  # loss since the optimiser began anew
    rate: float = 1.0  # share of their full length that steps have after explosions
    calm: int = 0  # steps since the last one
    unit: float = 1.0  # in which the optimiser is handed gradients; another after moves
    tile: int | None = None  # side in pixels of the tiles that it was seen in; None: as a whole
    # The `state_dict` of torch's optimiser; empty before its first step.
    optimizer: Mapping[str, Any] = field(default_factory=dict)


class Restorable(Protocol):
    """A consumer of the stream that has to go on with it, such as `progress.Recorder`."""

    def state(self) -> dict[str, Any]:
        """Give a tree that `save_tree` can write."""

    def restore(self, tree: Mapping[str, Any]) -> None:
        """Be as when `state` returned this tree."""


@dataclass(eq=False)
class Checkpoints:
    """Where `optimize` keeps what it needs to go on, and how often.

    Handed the same folder again, a run goes on from there. On the same machine with the same number
    of threads, what comes out equals, bit for bit on a CPU, what an unbroken run makes. A run that
    differs begins anew and says how it differs; what is there of the other stays, and can go on,
    until `remove` is called.

    With L-BFGS a checkpoint is as large as 44 pictures in float32, and as 10 of the largest (100 MB
    at 512x384 pixels, 1.5 GB at 4096x3072), with Adam as 4, and the recorder's pictures come on
    top. It is written every so many steps, sooner if they are slow, and not before the time since
    the last one makes up for that.
    """

    folder: Path  # for checkpoints of one picture alone; made when the first is written
    every: int = 50  # steps between two
    seconds: float = 300.0  # from one, after which the next need not wait for `every` steps
    recorder: Restorable | None = None  # is kept with the run, and brought back with it
    resume: bool = True  # else what is there is removed, and the run begins anew
    told: Mapping[str, Any] = field(default_factory=dict)  # what else `recorder` depends on
    share: float = 0.02  # of the time, at most, for writing; if that is slow, it is done less often
    say: Callable[[str], None] = print  # is told what was found, or could not be written
    _run: Identity = field(default_factory=lambda: Identity({}), repr=False)
    _saved_at: float = field(default=0.0, repr=False)
    _took: float = field(default=0.0, repr=False)  # seconds to write the last one
    _full: bool = field(default=False, repr=False)

    def __post_init__(self) -> None:
        self.folder = Path(self.folder)
        if self.every < 1:
            raise InputError(f"every = {self.every}: give a number of steps from 1 on.")

    def find(self, run: Identity) -> Moment | None:
        """Where to go on, with `recorder` as it was then; None: at the start."""
        check_writable(self.folder / "step" if self.folder.exists() else self.folder)
        self._run = Identity({**run.values, **self.told})
        self._saved_at = time.monotonic()
        self._delete(each for each in self._files() if not self.resume or each.name[0] == ".")
        if self._path.exists():
            try:
                tree = load_tree(self._path)
                moment = tree["moment"]
                found = Moment(**{**moment, "losses": Losses(**moment["losses"])})
                if self.recorder is not None and tree["recorder"] is not None:
                    self.recorder.restore(tree["recorder"])
            except DAMAGED:
                self.say(
                    f"{self._path} is damaged or not the workbench's; the painting begins anew."
                )
                self._delete([self._path])
            else:
                self.say(f"Going on from step {found.step} in {self.folder}.")
                return found
        self._say_what_else_is_there()
        return None

    def kept(self, run: Identity, name: str) -> Any:
        """What `name` was in a run that is there and differs in it alone; None: there is none."""
        run = Identity({**run.values, **self.told})
        for path in self._files() if self.resume else ():
            with contextlib.suppress(*DAMAGED):
                there = _outline(path)["run"]
                value = there[name]
                if not Identity({**run.values, name: value}).differences(there):
                    return value
        return None

    def keep(self, moments: Iterator[Moment]) -> Generator[Moment]:
        """Pass moments on and keep them: every so often, and the last one when it is stopped.

        A moment is kept once the consumer has come back for the next, so that `recorder` has
        had it. Stopped are: Ctrl-C, and to leave the loop.
        """
        moment: Moment | None = None
        try:
            for moment in moments:
                yield moment
                waited = time.monotonic() - self._saved_at
                due = moment.step % self.every == 0 or waited >= self.seconds
                if due and waited * self.share >= self._took:
                    self._save(moment)
        except (KeyboardInterrupt, GeneratorExit):
            if moment is not None:
                self._save(moment)
            raise

    def _save(self, moment: Moment) -> None:
        """Keep a moment, unless it or a later one has been kept."""
        if moment.step == 0 or self._full:
            return
        with contextlib.suppress(*DAMAGED):
            # A later one: another run went on before this one was closed.
            if _outline(self._path)["moment"]["step"] >= moment.step:
                return
        began = time.monotonic()
        tree = {
            "run": self._run.values,
            "moment": {**vars(moment), "losses": vars(moment.losses)},
            "recorder": self.recorder.state() if self.recorder is not None else None,
        }
        try:
            save_tree(self._path, tree)
        except OutputError as error:
            self._full = True
            self._delete([])
            self.say(f"No more checkpoints: {error}")
        self._saved_at = time.monotonic()
        self._took = self._saved_at - began

    def remove(self) -> None:
        """Delete all checkpoints, of other runs too, and the folder if nothing else is in it.

        To be called once what was made of the pictures is safe.
        """
        self._delete(self._files())

    @property
    def _path(self) -> Path:
        return self.folder / f"workbench-run-{self._run.key}.safetensors"

    def _files(self) -> list[Path]:
        return [path for path in self.folder.glob("*.safetensors") if _NAMES.fullmatch(path.name)]

    def _delete(self, paths: Iterable[Path]) -> None:
        for path in paths:
            with contextlib.suppress(OSError):
                path.unlink()
        with contextlib.suppress(OSError):
            self.folder.rmdir()  # unless something is left in it

    def _say_what_else_is_there(self) -> None:
        """Name what differs from the run that is nearest to this one."""
        others: list[list[str]] = []
        for path in self._files():
            try:
                others.append(self._run.differences(_outline(path)["run"]))
            except DAMAGED:
                others.append(["by another version"])
        if others:
            nearest = min(others, key=len)
            self.say(
                f"{self.folder} belongs to another run ({'; '.join(nearest)}); the painting begins"
                " anew. The other one can go on until this one is finished."
            )


def save_tensors(tensors: Tensors, path: Path, metadata: dict[str, str]) -> None:
    """Write a safetensors file with texts in its header; it appears when it is finished."""
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        with atomic(path) as beside:
            save_file(whole, beside, metadata=metadata)
    except SafetensorError as error:
        raise OutputError(f"{path} cannot be written: {error}.") from error


def save_tree(path: str | os.PathLike[str], tree: Mapping[str, Any]) -> None:
    """Write nested mappings and lists of tensors, and of what JSON has, as one safetensors file."""
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

    A file that is not there, cut short, changed or another program's raises one of `DAMAGED`.
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


def _outline(path: Path) -> Any:
    """What `save_tree` wrote, without looking at the tensors."""
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["tree"])


def _checksum(text: str, tensors: Tensors) -> str:
    """Of all that a file holds; ten times as fast as writing it, which zlib and hashlib are not."""
    sums = []
    for name in sorted(tensors):
        data = tensors[name].numpy().reshape(-1).view(np.uint8)
        whole = len(data) // 8 * 8
        total = int(data[:whole].view(np.uint64).sum()) + int(data[whole:].sum())
        sums.append((name, tuple(tensors[name].shape), str(tensors[name].dtype), total))
    return f"{zlib.crc32(f'{text} {sums}'.encode()):08x}"
