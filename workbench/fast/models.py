"""Style models in files, and folders of their checkpoints.

A checkpoint is a safetensors file with JSON in its header. A folder that training has filled:

    model.json                what it was trained on and how, its checkpoints, their labels
    step-000100.safetensors   a checkpoint
    step-000100.png           its preview
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from workbench.checkpoints import save_tensors
from workbench.convolution import has_winograd
from workbench.devices import choose_device, choose_precision, remembered
from workbench.errors import InputError
from workbench.fast.network import SOURCE, ExamplesNetwork, TransformationNetwork
from workbench.files import reading, write_bytes
from workbench.settings import NETWORKS
from workbench.weights import digest

FORMAT = 2
FORMATS = (1, FORMAT)  # the first had one set of scales and shifts, without a name
MODEL = "model.json"
_NETWORKS = {each.program: each for each in (TransformationNetwork, ExamplesNetwork)}
STRIP_PIXELS = 4_000_000  # a larger picture is painted in strips of a quarter of that
_TIMED = 256  # pixels of the sides of a picture to time a network with
_LABEL = re.compile(r"[^\s@/\\](?:[^@/\\]*[^\s@/\\])?")


@dataclass(frozen=True, eq=False)
class StyleModel:
    """A network that has learned a style. Call it with a picture."""

    network: TransformationNetwork  # its parameters are float32
    device: torch.device  # that it paints on
    dtype: torch.dtype  # of the activations
    mix: Tensor | None = None  # shares of the network's sets; None: all styles alike, in full
    layout: torch.memory_format = torch.channels_last  # of the activations

    @classmethod
    def load(
        cls, name: str | os.PathLike[str], *, device: str = "auto", precision: str = "auto"
    ) -> StyleModel:
        """Read a model.

        Parameters
        ----------
        name
            A checkpoint, "models/sketch/step-000300.safetensors"; a folder of them,
            "models/sketch", for its best; or that with a label or a step behind it,
            "models/sketch@less-good", "models/sketch@300". Also a .pth file of
            fast_neural_style in pytorch/examples.

        Raises
        ------
        InputError
            If there is no such model, or the file is damaged, another program's or of a later
            version.
        """
        path = find_checkpoint(name)
        network = _read_pickle(path) if _is_pickle(path) else _read(path)
        if not all(bool(value.isfinite().all()) for value in network.state_dict().values()):
            raise InputError(f"{path} holds numbers that are not finite; get the file again.")
        on = choose_device(device)
        dtype = choose_precision(precision, on)
        network.to(on).requires_grad_(False)
        return cls(network, on, dtype, layout=_fastest_layout(network, on, dtype))

    def mixed(self, strength: float = 1.0, style_blend_weights: Sequence[float] = ()) -> StyleModel:
        """The same model, painting at a strength, and its styles in some shares.

        `model.mixed(0.5)(picture)` is half as strong. See `TransformationNetwork.mix`.
        """
        return replace(self, mix=self.network.mix(strength, style_blend_weights))

    @property
    def digest(self) -> str:
        """SHA-256 of all that tells how it paints."""
        mix = self.network.mix() if self.mix is None else self.mix
        return digest({**self.network.state_dict(), "mix": mix})

    def __call__(self, pictures: Tensor) -> Tensor:
        """Paint pictures of one size, each as it would be alone.

        What goes in and what comes out is `(N, 3, H, W)`, float32, sRGB in [0, 1], of any size.
        Larger pictures than 4 megapixels are painted in strips, so that memory does not grow with
        them.
        """
        if pictures.dim() != 4 or pictures.shape[1] != 3 or not pictures.is_floating_point():
            raise InputError(
                "pictures: expected a floating-point tensor (N, 3, H, W) in [0, 1], got"
                f" {tuple(pictures.shape)}; load_image makes one."
            )
        wide = pictures.to(self.device, torch.float32)
        (height, width), how = wide.shape[-2:], (self.dtype, self.mix, self.layout)
        with torch.inference_mode():
            if height * width <= STRIP_PIXELS:
                painted: Tensor = self.network(wide, *how)
            else:
                rows = max(16, STRIP_PIXELS // 4 // width // 4 * 4)
                strips = [self.network.in_strips(each, rows, *how) for each in wide.split(1)]
                painted = torch.cat(strips)
            return painted.clamp(0, 1).to(pictures.device)


def _fastest_layout(
    network: TransformationNetwork, device: torch.device, dtype: torch.dtype
) -> torch.memory_format:
    """The layout of activations in which a network is faster here, direct or by Winograd's."""
    if not has_winograd(device, dtype):
        return torch.channels_last
    layouts = {"direct": torch.channels_last, "winograd": torch.contiguous_format}
    picture = torch.rand(1, 3, _TIMED, _TIMED, generator=torch.Generator().manual_seed(0))

    def measure() -> str:
        times: dict[str, list[float]] = {name: [] for name in layouts}
        with torch.inference_mode():
            for name in (*layouts,) * 4:
                began = time.perf_counter()
                network(picture, dtype, None, layouts[name])
                times[name].append(time.perf_counter() - began)
        return min(times, key=lambda name: min(times[name]))

    what = f"convolutions of a {network.kind} style model of width {network.width:g}"
    return layouts[remembered(what, device, measure, layouts.__contains__)]


def save_network(network: TransformationNetwork, path: Path) -> None:
    """Write a network as a checkpoint, which appears when it is finished."""
    header = {
        "kind": "style model",
        "format": FORMAT,
        "width": network.width,
        "program": network.program,
        "network": network.kind,
        "sets": network.sets,
    }
    save_tensors(network.state_dict(), path, {"workbench": json.dumps(header)})


def _is_pickle(path: Path) -> bool:
    """Whether a file is one of `torch.save`, in today's form or that of years ago."""
    try:
        with path.open("rb") as file:
            return file.read(2) in (b"PK", b"\x80\x02")
    except OSError:
        return False  # `_read` says why


def _read_pickle(path: Path) -> ExamplesNetwork:
    """The network of another program; no code in its file is run."""
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
        with torch.device("meta"):
            network = ExamplesNetwork(tensors["conv1.conv2d.weight"].shape[0] / 32)
        network.load(tensors)
    except Exception:  # whatever a file that anybody made brings about
        raise InputError(
            f"{path} is not a style model that can be read here, but a model of another program,"
            " or damaged; use one of `workbench train`, or a .pth file of"
            f" {ExamplesNetwork.program}."
        ) from None
    return network


def _read(path: Path) -> TransformationNetwork:
    """The network of a checkpoint."""
    try:
        with reading(path), safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("workbench", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if header.get("kind") != "style model":
            raise InputError(
                f"{path} is a safetensors file, but not a style model of the workbench."
            )
        if header["format"] not in FORMATS:
            raise InputError(
                f"{path} is a style model of format {header['format']}, and this workbench reads"
                f" up to {FORMAT}; train it again, or use the workbench that made it."
            )
        width = float(header["width"])
        if not 0 < width < 1000:
            raise ValueError("no width")
        with torch.device("meta"):
            sets = tuple(map(str, header.get("sets", ["style"])))
            if sets in ((), (SOURCE,)):
                raise ValueError("no style")
            make = _NETWORKS[header.get("program", TransformationNetwork.program)]
            kind = header.get("network", "johnson")
            if kind not in NETWORKS:
                raise ValueError("no network")
            network = make(width, sets, kind)
        for name in [name for name in tensors if name.endswith((".scale", ".shift"))]:
            tensors[name] = torch.atleast_2d(tensors[name])
        network.load_state_dict(tensors, assign=True)
    except RuntimeError:
        raise InputError(
            f"{path} does not hold a network of width {width:g}; get the file again."
        ) from None
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(
            f"{path} is not a style model, or is damaged or cut short; get the file again."
        ) from None
    return network


# --- folders -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Checkpoint:
    """A model on its way, as it stands in `model.json`."""

    step: int  # steps of training behind it
    held_out: Mapping[str, float]  # "total", "content", "style", "tv": means of weighted losses
    training: Mapping[str, float]  # of training pictures since the one before; empty: none yet
    seconds: float  # of training up to here

    @property
    def name(self) -> str:
        """Name of its files, without a suffix."""
        return f"step-{self.step:06d}"


@dataclass(frozen=True)
class ModelFolder:
    """What `model.json` says."""

    styles: tuple[str, ...]  # names of the style pictures
    on: tuple[str, ...]  # names of what the model was trained on
    settings: Mapping[str, Any]
    weights: Mapping[str, str]  # `name` and `sha256` of the network that compared pictures
    checkpoints: tuple[Checkpoint, ...] = ()  # from the first to the last
    labels: Mapping[str, int] = field(default_factory=dict)  # label -> step
    skipped: tuple[str, ...] = ()  # sentences about training pictures that were left out

    @property
    def best(self) -> Checkpoint:
        """The checkpoint with the lowest held-out loss."""
        return min(self.checkpoints, key=lambda checkpoint: checkpoint.held_out["total"])

    def find(self, which: str) -> Checkpoint | None:
        """A checkpoint by its label, in which a hyphen may stand for a blank, or its step."""
        for label, step in self.labels.items():
            if which in (label, label.replace(" ", "-")):
                which = str(step)
        steps = {str(each.step): each for each in self.checkpoints}
        return steps.get(which.removeprefix("step-").lstrip("0"))


def read_folder(folder: str | os.PathLike[str]) -> ModelFolder:
    """Read the `model.json` of a folder, which has at least one checkpoint."""
    path = Path(folder) / MODEL
    if not path.exists():
        raise InputError(
            f"{folder} holds no model ({MODEL} is missing); `workbench train` makes one."
        )
    try:
        with reading(path):
            values = json.loads(path.read_text("utf-8"))
        if values.pop("format") not in FORMATS:
            raise InputError(f"{path} is of another version of the workbench; train it again.")
        del values["best"]
        for name in ("styles", "on", "skipped"):
            values[name] = tuple(values[name])
        checkpoints = tuple(Checkpoint(**each) for each in values.pop("checkpoints"))
        found = ModelFolder(checkpoints=checkpoints, **values)
        if not all(each.held_out["total"] >= 0 for each in checkpoints):
            raise ValueError("no loss")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(f"{path} is damaged, or was not written by the workbench.") from None
    if not checkpoints:
        raise InputError(f"{folder} has no checkpoint yet; train it for longer.")
    return found


def write_folder(folder: Path, model: ModelFolder) -> None:
    """Write `model.json`."""
    values = {"format": FORMAT, **asdict(model), "best": model.best.step}
    write_bytes(folder / MODEL, json.dumps(values, indent=1).encode())


def find_checkpoint(name: str | os.PathLike[str]) -> Path:
    """The file of a model; see `StyleModel.load` for what names there are."""
    path = Path(name)
    if path.is_dir():
        return path / f"{read_folder(path).best.name}.safetensors"
    folder, _, which = str(name).rpartition("@")
    if not folder or path.exists() or not Path(folder).is_dir():
        if not path.exists():
            raise InputError(f"{name}: there is no such model, neither a folder nor a file.")
        return path
    return Path(folder) / f"{_checkpoint(folder, which).name}.safetensors"


def _checkpoint(folder: str | os.PathLike[str], which: str) -> Checkpoint:
    """The checkpoint in a folder that has a label, or a step."""
    model = read_folder(folder)
    found = model.find(which)
    if found is None:
        labels = ", ".join(sorted(model.labels)) or "none yet"
        steps = ", ".join(str(each.step) for each in model.checkpoints)
        raise InputError(f"{folder} has no checkpoint {which!r}; labels: {labels}; steps: {steps}.")
    return found


def label_checkpoint(folder: str | os.PathLike[str], step: int, label: str) -> None:
    """Name a checkpoint: "good", "less good", "weird". A label that another has moves over.

    A label is no number, and has neither an @ nor a slash in it.
    """
    if not _LABEL.fullmatch(label) or label.isdigit():
        raise InputError(f"label {label!r}: give a word or a few, without @ and slashes.")
    _checkpoint(folder, str(step))
    model = read_folder(folder)
    kept = {k: v for k, v in model.labels.items() if k.replace(" ", "-") != label.replace(" ", "-")}
    write_folder(Path(folder), replace(model, labels={**kept, label: step}))
