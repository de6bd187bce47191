"""Style models in files, and folders of their checkpoints.

A checkpoint is a safetensors file with JSON in its header. A folder that training has filled:

    model.json                what it was trained on and how, its checkpoints, their labels
    step-000100.safetensors   a checkpoint, with its preview and its figures beside it
    step-000100.png
    step-000100.json
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from workbench.checkpoints import save_tensors
from workbench.devices import choose_device, choose_precision
from workbench.errors import InputError
from workbench.fast.network import ExamplesNetwork, TransformationNetwork
from workbench.files import no_such_file, write_bytes

FORMAT = 1
MODEL = "model.json"
_NETWORKS = {each.program: each for each in (TransformationNetwork, ExamplesNetwork)}
STRIP_PIXELS = 4_000_000  # a larger picture is painted in strips of a quarter of that
_LABEL = re.compile(r"[^\s@/\\](?:[^@/\\]*[^\s@/\\])?")


@dataclass(frozen=True, eq=False)
class StyleModel:
    """A network that has learned a style. Call it with a picture.

    Attributes
    ----------
    network
        Its parameters are float32.
    device, dtype
        Where, and in which precision of the activations, it paints.
    """

    network: TransformationNetwork
    device: torch.device
    dtype: torch.dtype

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
        device, precision
            As in `Settings`.

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
        return cls(network.to(on).requires_grad_(False), on, choose_precision(precision, on))

    def __call__(self, pictures: Tensor) -> Tensor:
        """Paint pictures of one size, each as it would be alone.

        Parameters
        ----------
        pictures
            `(N, 3, H, W)`, sRGB in [0, 1], of any size. Larger ones than 4 megapixels are painted
            in strips, so that memory does not grow with them.

        Returns
        -------
        Tensor
            `(N, 3, H, W)`, float32, sRGB in [0, 1].
        """
        if pictures.dim() != 4 or pictures.shape[1] != 3 or not pictures.is_floating_point():
            raise InputError(
                "pictures: expected a floating-point tensor (N, 3, H, W) in [0, 1], got"
                f" {tuple(pictures.shape)}; load_image makes one."
            )
        wide = pictures.to(self.device, torch.float32)
        height, width = wide.shape[-2:]
        with torch.inference_mode():
            if height * width <= STRIP_PIXELS:
                painted: Tensor = self.network(wide, self.dtype)
            else:
                rows = max(16, STRIP_PIXELS // 4 // width // 4 * 4)
                strips = [self.network.in_strips(each, rows, self.dtype) for each in wide.split(1)]
                painted = torch.cat(strips)
            painted = painted.clamp(0, 1)
        return painted.to(pictures.device)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to a file that `load` reads; it appears when it is finished."""
        save_network(self.network, Path(path))


def save_network(network: TransformationNetwork, path: Path) -> None:
    """Write a network as a checkpoint."""
    header = {
        "kind": "style model",
        "format": FORMAT,
        "width": network.width,
        "program": network.program,
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
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("workbench", "{}"))
            kind = header.get("kind")
            if kind == "style model" and header["format"] == FORMAT:
                if not 0 < float(header["width"]) < 1000:
                    raise ValueError("no width")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                made_by = header.get("program", TransformationNetwork.program)
                with torch.device("meta"):
                    network = _NETWORKS[made_by](float(header["width"]))
                network.load_state_dict(tensors, assign=True)
                return network
    except FileNotFoundError:
        raise no_such_file(path) from None
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {(error.strerror or str(error)).lower()}."
        ) from None
    except RuntimeError:
        raise InputError(
            f"{path} does not hold a network of width {header['width']:g}; get the file again."
        ) from None
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(
            f"{path} is not a style model, or is damaged or cut short; get the file again."
        ) from None
    if kind != "style model":
        raise InputError(f"{path} is a safetensors file, but not a style model of the workbench.")
    raise InputError(
        f"{path} is a style model of format {header['format']}, and this workbench reads {FORMAT};"
        " train it again, or use the workbench that made it."
    )


# --- folders -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Checkpoint:
    """A model on its way, as it stands in `model.json`.

    Attributes
    ----------
    step
        Steps of training it has behind it.
    held_out
        "total", "content", "style", "tv": weighted losses, the means over the held-out pictures.
    training
        The same over the training pictures since the checkpoint before; empty while the network
        learned to copy.
    seconds
        Of training up to here.
    """

    step: int
    held_out: Mapping[str, float]
    training: Mapping[str, float]
    seconds: float

    @property
    def name(self) -> str:
        """Of its files, without a suffix."""
        return f"step-{self.step:06d}"


@dataclass(frozen=True)
class ModelFolder:
    """What `model.json` says.

    Attributes
    ----------
    styles, on
        Names of the style pictures, and of what the model was trained on.
    settings
        By name.
    weights
        `name` and `sha256` of the network whose activations were compared.
    checkpoints
        From the first to the last.
    labels
        Label -> step.
    skipped
        Sentences about training pictures that were left out.
    """

    styles: tuple[str, ...]
    on: tuple[str, ...]
    settings: Mapping[str, Any]
    weights: Mapping[str, str]
    checkpoints: tuple[Checkpoint, ...] = ()
    labels: Mapping[str, int] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()

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
    """Read the `model.json` of a folder.

    Raises
    ------
    InputError
        If there is none, or it is damaged, or there is no checkpoint in it.
    """
    path = Path(folder) / MODEL
    try:
        values = json.loads(path.read_text("utf-8"))
        if values.pop("format") != FORMAT:
            raise InputError(f"{path} is of another version of the workbench; train it again.")
        values.pop("best")
        checkpoints = tuple(Checkpoint(**each) for each in values.pop("checkpoints"))
        found = ModelFolder(
            styles=tuple(values.pop("styles")),
            on=tuple(values.pop("on")),
            skipped=tuple(values.pop("skipped")),
            checkpoints=checkpoints,
            **values,
        )
        assert all(each.held_out["total"] >= 0 for each in checkpoints)
    except FileNotFoundError:
        raise InputError(
            f"{folder} holds no model ({MODEL} is missing); `workbench train` makes one."
        ) from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {(error.strerror or '').lower()}.") from None
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError, RecursionError):
        raise InputError(f"{path} is damaged, or was not written by the workbench.") from None
    if not found.checkpoints:
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
    model = read_folder(folder)
    found = model.find(which)
    if found is None:
        labels = ", ".join(sorted(model.labels)) or "none yet"
        steps = ", ".join(str(each.step) for each in model.checkpoints)
        raise InputError(
            f"{name}: {folder} has no checkpoint {which!r}; labels: {labels}; steps: {steps}."
        )
    return Path(folder) / f"{found.name}.safetensors"


def label_checkpoint(folder: str | os.PathLike[str], step: int, label: str) -> None:
    """Name a checkpoint: "good", "less good", "weird". A label that another has moves over.

    Raises
    ------
    InputError
        If there is no checkpoint of that step, or the label is empty or a number, or has an @ or
        a slash in it.
    """
    model = read_folder(folder)
    if not _LABEL.fullmatch(label) or label.isdigit():
        raise InputError(f"label {label!r}: give a word or a few, without @ and slashes.")
    if model.find(str(step)) is None:
        steps = ", ".join(str(each.step) for each in model.checkpoints)
        raise InputError(f"{folder} has no checkpoint at step {step}; there are {steps}.")
    kept = {k: v for k, v in model.labels.items() if k.replace(" ", "-") != label.replace(" ", "-")}
    write_folder(Path(folder), replace(model, labels={**kept, label: step}))
