from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from workbench.devices import choose_device, peak_megabytes, reset_peak_megabytes
from workbench.errors import InputError

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
    for name in ("cuda:77", "toaster"):
        with pytest.raises(InputError, match=f"device = '{name}'"):
            choose_device(name)
