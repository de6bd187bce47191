"""Which device and which precision to compute with, and how much memory there is."""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import platform
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import torch
import torch.nn.functional as F

import workbench
from workbench.errors import InputError, OutputError
from workbench.files import locked, write_bytes
from workbench.settings import PRECISIONS
from workbench.weights import cache_folder

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# float32 is kept unless bfloat16 is clearly faster, so that the answer does not hang on noise.
_CLEARLY_FASTER = 0.9
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
_measured: dict[tuple[Path, str], str] = {}  # by this process, wherever that could be kept


def choose_device(device: str = "auto") -> torch.device:
    """Turn a setting into a torch device; `InputError` if there is none such on this machine.

    "auto" is the first CUDA GPU, else Apple's GPU, else the CPU; anything else names a torch
    device.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen).item()  # what is "meta" holds no numbers
    except (RuntimeError, AssertionError, NotImplementedError):
        raise InputError(
            f"device = {device!r}: torch finds no such device here; use auto or cpu."
        ) from None
    return chosen


def choose_precision(precision: str, device: torch.device) -> torch.dtype:
    """Turn a setting into the dtype of the network's activations on a device.

    For "auto", float32 and bfloat16 are timed once on a few convolutions, and the faster is
    remembered for this machine.
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision = {precision!r}: use one of {', '.join(PRECISIONS)}.")
    if precision != "auto":
        return _DTYPES[precision]

    def measure() -> str:
        wide, narrow = time_convolutions([torch.float32, torch.bfloat16], device)
        return "bfloat16" if narrow < _CLEARLY_FASTER * wide else "float32"

    return _DTYPES[remembered("precision", device, measure, _DTYPES.__contains__)]


def remembered(
    what: str, device: torch.device, measure: Callable[[], str], makes_sense: Callable[[str], bool]
) -> str:
    """What was measured on this machine before; else it is measured now, and kept.

    It lies beside the weights. Another processor, torch or number of threads, and a value that
    no longer `makes_sense`, have it measured anew.
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    able, threads = torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()
    key = f"{what}, {name}, {able}, {device.type}, torch {torch.__version__}, {threads} threads"
    memory = cache_folder() / "workbench-timings.json"
    if (memory, key) in _measured:
        return _measured[memory, key]
    with contextlib.ExitStack() as alone:
        with contextlib.suppress(OutputError, OSError):  # where there are no locks, it goes without
            alone.enter_context(locked(memory.with_suffix(".lock"), seconds=60))
        try:
            known = json.loads(memory.read_text())
        except (OSError, ValueError):
            known = None
        known = known if isinstance(known, dict) else {}
        if not (isinstance(known.get(key), str) and makes_sense(known[key])):
            known[key] = measure()
            with contextlib.suppress(OutputError):  # then it is timed again next time
                write_bytes(memory, json.dumps(known, indent=1).encode())
    return _measured.setdefault((memory, key), known[key])


def machine(device: torch.device, dtype: torch.dtype) -> dict[str, str]:
    """What a picture depends on beside what it is made from: where that agrees, so do the bits."""
    return {
        "device": device.type,
        "precision": str(dtype).removeprefix("torch."),
        "workbench": workbench.__version__,
        "torch": torch.__version__,
    }


def time_convolutions(dtypes: Sequence[torch.dtype], device: torch.device) -> list[float]:
    """Seconds for a small stack of VGG-like convolutions, there and back, in each precision.

    The best of five, in turns, so that other work on the machine slows all of them. Infinite where
    the device cannot compute in that precision at all.
    """
    times: list[list[float]] = [[] for _ in dtypes]
    for _ in range(8):  # the first three warm up
        for dtype, spent in zip(dtypes, times, strict=True):
            if sum(spent) < 1.0:  # where it is emulated, one says enough
                spent.append(_convolutions_seconds(dtype, device))
    return [min(spent[3:] or spent) for spent in times]


def _convolutions_seconds(dtype: torch.dtype, device: torch.device) -> float:
    try:
        x = torch.ones(1, 64, 96, 96, device=device).to(dtype, memory_format=torch.channels_last)
        weight = torch.full((64, 64, 3, 3), 1 / 600, device=device)
        weight = weight.to(dtype, memory_format=torch.channels_last)
        x.requires_grad_()
        start = time.perf_counter()
        y = x
        for _ in range(4):
            y = F.relu_(F.conv2d(y, weight, padding=1))
        y.float().sum().backward()
        assert x.grad is not None
        x.grad.float().sum().item()  # waits for the device
    except (RuntimeError, NotImplementedError):
        return math.inf
    return time.perf_counter() - start


def reset_peak_megabytes(device: torch.device | None = None) -> None:
    """Start measuring the peak memory anew, where the system can do that."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: VmHWM
    if device is not None and device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_megabytes(device: torch.device | None = None) -> float:
    """Peak memory since `reset_peak_megabytes`: of a CUDA GPU that is named, else of the process.

    0 where the system does not tell.
    """
    if device is not None and device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
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


# --- memory that there is ------------------------------------


def free_megabytes(device: torch.device) -> float | None:
    """How much more memory this process could take; None where the system does not tell.

    On the CPU: what the machine has, swap space included, within the limits that are set for
    the process (`ulimit -v`) and its container or job (control groups).
    """
    try:
        if device.type == "cuda":
            cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
            return (torch.cuda.mem_get_info(device)[0] + cached) / 2**20
        if device.type == "mps":
            limit = torch.mps.recommended_max_memory()
            return (limit - torch.mps.current_allocated_memory()) / 2**20
        free = [_free_on_the_machine(), *_free_in_control_groups(), *_free_in_the_address_space()]
    except (OSError, RuntimeError, AttributeError, ValueError):
        return None
    return max(0.0, min(free) / 2**20)


def _free_on_the_machine() -> float:
    memory = psutil.virtual_memory()
    if sys.platform == "darwin":
        return float(memory.total)  # swap space grows as it is needed
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        swap = next(1024 * int(line.split()[1]) for line in lines if line.startswith("SwapFree"))
    except (OSError, StopIteration):
        swap = psutil.swap_memory().free
    return float(memory.available + swap)


def _free_in_control_groups(root: Path = Path("/")) -> Iterator[float]:
    """Of the groups that this process is in, and those around them, what is left of the limit."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            mount, names = "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            mount = "sys/fs/cgroup/memory"
        else:
            continue
        inner = root / mount / group.lstrip("/")
        for folder in (inner, *inner.parents):
            # In a container the path is often that of the host, and only the mount is there.
            with contextlib.suppress(OSError, ValueError):
                limit, used = (int((folder / name).read_text()) for name in names[:2])
                stat = dict(map(str.split, (folder / "memory.stat").read_text().splitlines()))
                yield float(limit - used + int(stat.get(names[2], 0)))
            if folder == root / mount:
                break


def _free_in_the_address_space() -> Iterator[float]:
    try:
        import resource
    except ImportError:  # Windows
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        # What is reserved and never used counts there too: up to 380 MB were measured.
        yield float(limit - psutil.Process().memory_info().vms - 350 * 2**20)


def trim_memory() -> None:
    """Have memory of large tensors given back to the system as soon as it is free.

    glibc learns to keep blocks of up to 32 MB for later use, and what comes to lie between them.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # of other systems
        c = ctypes.CDLL(None)
        c.mallopt(_MMAP_THRESHOLD, 4 * 2**20)
        c.mallopt(_TRIM_THRESHOLD, 64 * 2**20)


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether that is what an error of Python or torch says, on whatever device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # The last is all that oneDNN says, of too large a picture as well.
    words = r"out of memory|allocate memory|bad_alloc|ALLOC_FAILED|could not \w+ a primitive$"
    return isinstance(error, RuntimeError) and re.search(words, str(error)) is not None


def _processor() -> str:
    """Name of the CPU; Linux hides it in a file."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else f"{platform.machine()} {platform.processor()}"
