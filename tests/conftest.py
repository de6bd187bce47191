from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from tiny_backbone import tiny_backbone
from torch import Tensor

from workbench import convolution, forecast, weights
from workbench.features import Network
from workbench.settings import Settings

if "PYTEST_XDIST_WORKER" in os.environ:
    # The workers, and what they start, have a core each, and would fight for more.
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"

# Else jsonschema takes a second to build grammars of addresses, which nobody here has.
sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]

gc.disable()  # all that is imported and collected stays: to search it for rubbish takes seconds


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """Files that tests write need not outlive a power cut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(autouse=True)
def nothing_is_timed_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test goes by what another one has timed."""
    monkeypatch.setattr(forecast, "_newest", [])


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    """Settings for a run of a few milliseconds on a tiny backbone with its own cache."""
    monkeypatch.setenv("WORKBENCH_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setitem(weights.BACKBONES, "tiny", tiny_backbone())
    # Which convolution is faster hangs on noise where all are so small, and with it the last bits.
    monkeypatch.setattr(convolution, "SMALLEST", 2**62)
    return Settings(backbone="tiny", size=64, steps=(12,), precision="float32", device="cpu")


@pytest.fixture
def photo() -> Tensor:
    """A smooth picture, (1, 3, 60, 80)."""
    y, x = torch.meshgrid(torch.linspace(0, 1, 60), torch.linspace(0, 1, 80), indexing="ij")
    return torch.stack([x, y, 0.5 + 0.5 * torch.sin(9 * x * y)])[None]


@pytest.fixture
def painting() -> Tensor:
    """A picture of stripes and noise, (1, 3, 70, 64)."""
    generator = torch.Generator().manual_seed(3)
    y, x = torch.meshgrid(torch.arange(70), torch.arange(64), indexing="ij")
    stripes = ((x + y) // 4 % 2).float()
    noise = torch.rand(3, 70, 64, generator=generator)
    return (0.7 * stripes * torch.tensor([0.9, 0.6, 0.1]).view(3, 1, 1) + 0.3 * noise)[None]


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The layers of every look at a picture that is not being painted."""
    looks: list[tuple[str, ...]] = []
    real = Network.__call__

    def call(self: Network, picture: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        if not torch.is_grad_enabled():
            looks.append(tuple(layers))
        return real(self, picture, layers)

    monkeypatch.setattr(Network, "__call__", call)
    return looks
