"""Which device and which precision to compute with."""

from __future__ import annotations

import contextlib
import functools
import json
import platform
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from workbench.errors import InputError, OutputError
from workbench.files import write_bytes
from workbench.weights import cache_folder

# float32 is kept unless bfloat16 is clearly faster, so that the answer does not hang on noise.
_CLEARLY_FASTER = 0.9


def choose_device(device: str = "auto") -> torch.device:
    """Turn a setting into a torch device.

    Parameters
    ----------
    device
        "auto": the first CUDA GPU, else Apple's GPU, else the CPU. Otherwise a torch device.

    Raises
    ------
    InputError
        If there is no such device on this machine.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise InputError(
            f"device = {device!r}: torch finds no such device here; use auto or cpu."
        ) from None
    return chosen


def choose_precision(precision: str, device: torch.device) -> torch.dtype:
    """Turn a setting into the dtype of the network's activations.

    Parameters
    ----------
    precision
        "float32", "bfloat16", or "auto": both are timed once on a few convolutions and the
        faster is remembered for this machine, beside the weights.
    device
        Where the network will run.
    """
    if precision != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
    return _faster_precision(device.type, cache_folder() / "workbench-precision.json")


@functools.lru_cache
def _faster_precision(device: str, memory: Path) -> torch.dtype:
    name = torch.cuda.get_device_name() if device == "cuda" else _processor()
    key = f"{name}, {device}, torch {torch.__version__}, {torch.get_num_threads()} threads"
    try:
        remembered = json.loads(memory.read_text())
    except (OSError, ValueError):
        remembered = None
    if not isinstance(remembered, dict):
        remembered = {}
    if remembered.get(key) not in ("float32", "bfloat16"):
        faster = time_convolutions(torch.bfloat16, device) < _CLEARLY_FASTER * time_convolutions(
            torch.float32, device
        )
        remembered[key] = "bfloat16" if faster else "float32"
        with contextlib.suppress(OutputError):  # then it is timed again next time
            write_bytes(memory, json.dumps(remembered, indent=1).encode())
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[remembered[key]]


def time_convolutions(dtype: torch.dtype, device: str) -> float:
    """Seconds for a small stack of VGG-like convolutions, there and back; the best of five.

    Infinite where the device cannot compute in that precision at all.
    """
    try:
        x = torch.rand(1, 64, 96, 96, device=device).to(dtype, memory_format=torch.channels_last)
        weight = torch.rand(64, 64, 3, 3, device=device) / 300
        weight = weight.to(dtype, memory_format=torch.channels_last)
        times = []
        for _ in range(8):  # the first three warm up
            y = x.clone().requires_grad_()
            start = time.perf_counter()
            z = y
            for _ in range(4):
                z = F.relu_(F.conv2d(z, weight, padding=1))
            z.float().sum().backward()
            assert y.grad is not None
            y.grad.float().sum().item()  # waits for the device
            times.append(time.perf_counter() - start)
    except (RuntimeError, NotImplementedError):
        return float("inf")
    return min(times[3:])


def reset_peak_megabytes() -> None:
    """Start measuring the peak memory of this process anew, where the system can do that."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: VmHWM
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_megabytes() -> float:
    """Peak memory since `reset_peak_megabytes`: of the GPU if there is one, else of the process.

    0 where the system does not tell.
    """
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    # Of the whole life of the process; in bytes on macOS, in kilobytes elsewhere.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def _processor() -> str:
    """Name of the CPU; Linux hides it in a file."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else f"{platform.machine()} {platform.processor()}"
