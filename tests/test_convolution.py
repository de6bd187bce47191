from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_backbone import tiny_tensors
from torch import Tensor

from workbench import convolution, devices
from workbench.convolution import direct, fastest, fastest_stretch, winograd
from workbench.features import Network, build_network
from workbench.weights import Weights

has_nnpack = pytest.mark.skipif(
    not getattr(torch, "_nnpack_available", lambda: False)(), reason="this torch lacks NNPACK"
)
LAYERS = ("relu1_2", "relu3_1", "relu4_2")


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.fixture
def network() -> Network:
    return build_network(Weights("vgg16", tiny_tensors(), "", "test"), LAYERS)


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("WORKBENCH_WEIGHTS", str(tmp_path))
    return tmp_path / "workbench-timings.json"


# --- the algorithm -----------------------------------------------------------------------


@has_nnpack
@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([1, 3, 8, 64]),
    st.sampled_from([1, 5, 64]),
    st.integers(1, 37),
    st.integers(1, 37),
)
def test_winograd_is_the_convolution_and_its_gradient(
    channels: int, filters: int, height: int, width: int
) -> None:
    x, weight = random(1, channels, height, width), random(filters, channels, 3, 3) / 3
    bias, grad = random(filters), random(1, filters, height, width)
    x.requires_grad_()
    y = winograd(x, weight, bias)
    y.backward(grad)
    exact = x.detach().double().requires_grad_()
    expected = direct(exact, weight.double(), bias.double())
    expected.backward(grad.double())
    assert x.grad is not None
    assert exact.grad is not None
    for ours, theirs in ((y, expected), (x.grad, exact.grad)):
        error = (ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-3)
        assert error < 2e-5


@has_nnpack
def test_as_wide_as_the_network_is_and_in_any_layout() -> None:
    x, weight = random(1, 512, 19, 27), random(512, 512, 3, 3) / 70
    bias = random(512)
    expected = direct(x.double(), weight.double(), bias.double())
    last = torch.channels_last
    for picture, filters in (
        (x, weight),
        (x.to(memory_format=last), weight.to(memory_format=last)),
    ):
        ours = winograd(picture, filters, bias)
        assert (ours - expected).abs().max() < 2e-5 * expected.abs().max()
    assert torch.equal(winograd(x, weight, bias), ours)


@pytest.mark.parametrize("failure", [RuntimeError("no threads"), AttributeError("gone")])
def test_where_it_fails_the_direct_one_takes_over_and_it_is_said_once(
    monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def fail(*arguments: object, **options: object) -> Tensor:
        raise failure

    monkeypatch.setattr(torch, "_nnpack_spatial_convolution", fail)
    convolution._say.cache_clear()
    x, weight, bias = random(1, 3, 8, 8).requires_grad_(), random(4, 3, 3, 3), random(4)
    with pytest.warns(UserWarning, match="NNPACK's convolution failed") as told:
        winograd(x, weight, bias).sum().backward()
    assert len(told) == 1
    y = winograd(x, weight, bias)
    assert torch.equal(y, direct(x, weight, bias))


def test_memory_that_runs_out_is_no_failure_of_nnpack(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(torch, "_nnpack_spatial_convolution", fail)
    with pytest.raises(RuntimeError, match="allocate memory"):
        winograd(random(1, 3, 8, 8), random(4, 3, 3, 3), random(4))


@has_nnpack
@pytest.mark.parametrize("layers", [("relu2_1", "relu2_2", "relu3_1"), ("relu1_1",), ("relu4_2",)])
def test_the_network_is_the_same_by_either_algorithm(
    monkeypatch: pytest.MonkeyPatch, network: Network, layers: tuple[str, ...]
) -> None:
    monkeypatch.setattr("workbench.features.fastest", lambda convolutions, shape: layers)
    pictures = [(255 * random(1, 3, 40, 56).abs()).requires_grad_() for _ in range(2)]
    planned = network.planned((40, 56))
    assert planned.winograd == {*layers}
    for each, picture in zip((network, planned), pictures, strict=True):
        activations = each(picture, LAYERS)
        torch.stack([a.square().mean() for a in activations.values()]).sum().backward()
    one, other = (picture.grad for picture in pictures)
    assert one is not None
    assert other is not None
    assert (one - other).abs().max() < 1e-4 * one.abs().max()


# --- which of both -----------------------------------------------------------------------


def test_the_fastest_stretch_counts_changes_of_layout() -> None:
    slow, fast, none = [4.0] * 5, [2.0] * 5, [0.0] * 5
    assert fastest_stretch(slow, fast, none) == (0, 5)
    assert fastest_stretch(slow, slow, none) == (0, 0)
    assert fastest_stretch(fast, slow, none) == (0, 0)
    # The first and the last are faster directly, by more than the changes cost.
    assert fastest_stretch(slow, [9.0, 2, 2, 2, 9], [1.0] * 5) == (1, 4)
    # One in the middle is not worth two changes.
    assert fastest_stretch(slow, [9.0, 9, 3, 9, 9], [1.0] * 5) == (0, 0)
    # One that is slower stays where it is, rather than change twice more.
    assert fastest_stretch(slow, [1.0, 1, 5, 1, 1], [1.0] * 5) == (0, 5)


def test_a_plan_is_remembered_and_timed_anew_if_it_is_broken(
    monkeypatch: pytest.MonkeyPatch, network: Network, cache: Path
) -> None:
    timed = []

    def times(each: convolution.Convolution, side: int) -> tuple[float, float, float]:
        timed.append((each[0], side))
        return 4.0, 2.0 if "2_" in each[0] else 9.0, 0.1

    monkeypatch.setattr(convolution, "_times", times)
    monkeypatch.setattr(torch, "_nnpack_available", lambda: True, raising=False)
    convolutions = network.convolutions
    assert fastest(convolutions, (190, 250)) == ("relu2_1", "relu2_2")
    assert timed[:4] == [("relu1_1", 192), ("relu1_2", 192), ("relu2_1", 96), ("relu2_2", 96)]
    timed.clear()
    assert fastest(convolutions, (210, 200)) == ("relu2_1", "relu2_2")  # as large, and known
    assert not timed
    devices._measured.clear()  # another process
    assert fastest(convolutions, (190, 250)) == ("relu2_1", "relu2_2")
    assert not timed
    for broken in (
        "{",
        "[]",
        cache.read_text().replace("relu2_1", "relu9_9"),
        cache.read_text().replace('"relu2_1 relu2_2"', "7"),
    ):
        devices._measured.clear()
        timed.clear()
        cache.write_text(broken)
        assert fastest(convolutions, (190, 250)) == ("relu2_1", "relu2_2")
        assert timed
    assert fastest(convolutions, (1900, 2500)) == ("relu2_1", "relu2_2")
    assert timed[-1] == ("relu4_2", 384 // 8)
    timed.clear()
    monkeypatch.setattr(torch, "__version__", "9.9")  # another one may have become faster
    assert fastest(convolutions, (190, 250)) == ("relu2_1", "relu2_2")
    assert timed


@pytest.mark.slow
def test_processes_that_begin_at_once_take_one_plan(cache: Path) -> None:
    code = (
        "import sys, time, torch; from workbench.devices import remembered\n"
        "def measure(): time.sleep(0.5); return sys.argv[1]\n"
        "print(remembered('which', torch.device('cpu'), measure, str.isalpha))"
    )
    commands = [[sys.executable, "-c", code, name] for name in ("one", "other")]
    both = [subprocess.Popen(each, stdout=subprocess.PIPE, text=True) for each in commands]
    told = [process.communicate()[0].strip() for process in both]
    assert told[0] == told[1] in ("one", "other")


def test_what_cannot_be_taken_is_not_timed(
    monkeypatch: pytest.MonkeyPatch, network: Network, cache: Path
) -> None:
    monkeypatch.setattr(convolution, "_times", None)
    assert fastest(network.convolutions, (64, 64)) == ()
    half = tuple((name, weight.bfloat16(), bias) for name, weight, bias in network.convolutions)
    assert fastest(half, (200, 200)) == ()
    monkeypatch.setattr(torch, "_nnpack_available", lambda: False, raising=False)
    assert fastest(network.convolutions, (200, 200)) == ()
    monkeypatch.delattr(torch, "_nnpack_available")
    assert fastest(network.convolutions, (200, 200)) == ()
    assert not cache.exists()


@has_nnpack
def test_a_layer_is_timed_without_touching_random_numbers(network: Network) -> None:
    before = torch.get_rng_state()
    assert all(seconds > 0 for seconds in convolution._times(network.convolutions[1], 32))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("told", [None, "active"])
def test_threads_that_wait_leave_the_cores_unless_somebody_has_said_otherwise(
    told: str | None,
) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    if told:
        environment["OMP_WAIT_POLICY"] = told
    code = "import os, workbench; print(os.environ['OMP_WAIT_POLICY'])"
    command = [sys.executable, "-c", code]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert output.stdout.strip() == (told or "passive")
