from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from workbench import devices
from workbench.devices import (
    choose_device,
    choose_precision,
    free_megabytes,
    peak_megabytes,
    reset_peak_megabytes,
)
from workbench.errors import InputError

CPU = torch.device("cpu")

on_linux = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists() or torch.cuda.is_available(),
    reason="the peak can be measured anew on Linux without a GPU",
)


def allocate(megabytes: int) -> None:
    np.ones((megabytes, 2**20), np.uint8)


@on_linux
def test_the_peak_is_of_the_time_since_it_was_measured_anew() -> None:
    reset_peak_megabytes()
    before = peak_megabytes()
    allocate(200)
    large = peak_megabytes()
    assert before + 150 < large < before + 400
    assert peak_megabytes() == pytest.approx(large, rel=0.02)  # it stays, though memory is free
    reset_peak_megabytes()
    assert peak_megabytes() < before + 100


def test_a_system_that_does_not_tell_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> str:
        raise PermissionError("no")

    monkeypatch.setattr(Path, "read_text", refuse)
    monkeypatch.setattr(Path, "write_text", refuse)
    reset_peak_megabytes()
    assert peak_megabytes() >= 0


def test_a_device_that_is_not_there_is_refused() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type in ("cpu", "cuda", "mps")
    for name in ("cuda:77", "toaster", "meta"):
        with pytest.raises(InputError, match=f"device = '{name}'"):
            choose_device(name)


def test_a_precision_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="precision = 'half': use one of auto, float32, bfloat16"):
        choose_precision("half", CPU)


def test_precision_and_peak_are_asked_of_the_device_that_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []

    def name(device: torch.device) -> str:
        asked.append(device)
        return "a GPU"

    def seconds(dtypes: Sequence[torch.dtype], device: torch.device) -> list[float]:
        asked.append(device)
        return [1.0 if dtype == torch.float32 else 0.5 for dtype in dtypes]

    second = torch.device("cuda:1")
    monkeypatch.setenv("WORKBENCH_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "get_device_name", name)
    monkeypatch.setattr(devices, "time_convolutions", seconds)
    assert choose_precision("auto", second) == torch.bfloat16
    assert set(asked) == {second}
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 2**20 * device.index)
    assert peak_megabytes(second) == 1


def test_a_run_on_the_cpu_leaves_the_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def touched(*arguments: object) -> None:
        raise AssertionError("a CUDA context was opened")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for function in ("max_memory_allocated", "reset_peak_memory_stats", "mem_get_info"):
        monkeypatch.setattr(torch.cuda, function, touched)
    for device in (CPU, None):
        reset_peak_megabytes(device)
        assert peak_megabytes(device) > 0
    assert free_megabytes(CPU)


# --- memory that there is ----------------------------------------------------------------


def write(root: Path, files: dict[str, object]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(str(text))


MB = 2**20


def test_limits_of_control_groups_count(tmp_path: Path) -> None:
    assert list(devices._free_in_control_groups(tmp_path)) == []
    new, old = tmp_path / "new", tmp_path / "old"
    write(
        new,
        {
            "proc/self/cgroup": "0::/user/job\n",
            "sys/fs/cgroup/user/job/memory.max": "max\n",
            "sys/fs/cgroup/user/memory.max": 900 * MB,
            "sys/fs/cgroup/user/memory.current": 500 * MB,
            "sys/fs/cgroup/user/memory.stat": f"anon 7\ninactive_file {100 * MB}\n",
        },
    )
    assert list(devices._free_in_control_groups(new)) == [500 * MB]
    write(
        old,
        {
            "proc/self/cgroup": "5:cpu:/\n4:memory:/docker/of-the-host\n0::/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": 900 * MB,
            "sys/fs/cgroup/memory/memory.usage_in_bytes": 500 * MB,
            "sys/fs/cgroup/memory/memory.stat": f"total_inactive_file {50 * MB}\n",
        },
    )
    assert list(devices._free_in_control_groups(old)) == [450 * MB]


def test_the_smallest_limit_is_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    free = free_megabytes(CPU)
    assert free is not None
    assert 50 < free < 1e7
    monkeypatch.setattr(devices, "_free_in_control_groups", lambda: iter([30 * MB, -5]))
    assert free_megabytes(CPU) == 0
    monkeypatch.setattr(devices, "_free_in_control_groups", lambda: iter([30 * MB]))
    assert free_megabytes(CPU) == 30


def test_what_is_free_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    second = torch.device("cuda:1")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (700 * MB, 900 * MB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 80 * MB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 50 * MB)
    assert free_megabytes(second) == 730
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: 1 / 0 if device else None)
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 900 * MB)
    monkeypatch.setattr(torch.mps, "current_allocated_memory", lambda: 500 * MB)
    assert free_megabytes(torch.device("mps")) == 400


def test_a_system_that_does_not_tell_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise RuntimeError("not known here")

    monkeypatch.setattr(torch.cuda, "memory_reserved", refuse)
    assert free_megabytes(torch.device("cuda")) is None


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of that library alone")
@pytest.mark.parametrize("trimmed", [False, True])
def test_memory_is_given_back_once_it_is_free(trimmed: bool) -> None:
    program = f"""
import psutil, torch
from workbench.devices import trim_memory
torch.ones(30 * 2**18)  # from which glibc learns to keep blocks of up to 30 MB
if {trimmed}:
    trim_memory()
held = [torch.ones(2**21) for _ in range(20)]  # of 8 MB
before, last = psutil.Process().memory_info().rss, torch.ones(2**18)
del held
print((before - psutil.Process().memory_info().rss) / 2**20)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert (float(done.stdout) > 150) == trimmed
