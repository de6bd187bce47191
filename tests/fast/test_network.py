from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from workbench.convolution import has_winograd
from workbench.fast.network import SOURCE, Convolution, TransformationNetwork, _joined
from workbench.settings import NETWORKS


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> TransformationNetwork:
    torch.manual_seed(0)
    network = TransformationNetwork(0.25, kind=request.param).requires_grad_(False)
    for name, parameter in network.named_parameters():  # as after some training
        if name.endswith(("scale", "shift", "bias")):
            parameter.copy_(1 + 0.2 * torch.randn_like(parameter))
    torch.nn.init.normal_(network.paint.weight, std=1.0)
    return network


def picture(height: int, width: int, seed: int = 0, count: int = 1) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(64, 64), (33, 70), (1, 1), (5, 200), (17, 16)])
def test_a_picture_keeps_its_size_whatever_that_is(
    network: TransformationNetwork, shape: tuple[int, int]
) -> None:
    painted = network(picture(*shape))
    assert painted.shape == (1, 3, *shape)
    assert painted.dtype == torch.float32
    assert painted.isfinite().all()


def test_black_and_white_can_be_reached_and_not_much_more(network: TransformationNetwork) -> None:
    painted = network(picture(64, 64))
    assert painted.min() >= 0.5 - 150 / 255 - 1e-6
    assert painted.max() <= 0.5 + 150 / 255 + 1e-6
    with torch.no_grad():
        network.bias.fill_(1000.0)
    assert network(picture(64, 64)).min() > 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_picture_comes_out_the_same_whatever_is_painted_with_it(
    network: TransformationNetwork, dtype: torch.dtype
) -> None:
    batch = picture(48, 64, count=5)
    together = network(batch, dtype)
    alone = torch.cat([network(each, dtype) for each in batch.split(1)])
    pair = network(batch[1:3], dtype)
    assert torch.equal(together, alone)
    assert torch.equal(together[1:3], pair)


@pytest.mark.parametrize("rows", [16, 24, 64, 400])
@pytest.mark.parametrize("shape", [(130, 60), (64, 64), (97, 33)])
def test_strips_leave_no_seam(
    network: TransformationNetwork, rows: int, shape: tuple[int, int]
) -> None:
    image = picture(*shape, seed=1)
    whole = network(image)
    strips = network.in_strips(image, rows)
    assert strips.shape == whole.shape
    assert (strips - whole).abs().max() < 1e-4


def test_instance_normalisation_takes_out_contrast(network: TransformationNetwork) -> None:
    image = picture(64, 64)
    faint = 0.5 + 0.3 * (image - 0.5)
    head, mix = network.head[0], network.mix()
    with torch.no_grad():
        one, other = (
            head.normalize(head.convolve(F.pixel_unshuffle(2 * each - 1, network.folded)), mix)
            for each in (image, faint)
        )
    assert torch.allclose(one, other, atol=0.02)


def test_every_channel_gets_the_learned_mean_and_spread(network: TransformationNetwork) -> None:
    layer = network.head[0]
    pictures = F.pixel_unshuffle(picture(40, 40, count=2), network.folded)
    normalized = layer.normalize(layer.convolve(pictures), network.mix())
    for each in normalized:
        assert torch.allclose(each.mean((1, 2)), layer.shift[0], atol=1e-3)
        assert torch.allclose(each.std((1, 2), correction=0), layer.scale[0].abs(), atol=1e-2)


@given(st.lists(st.floats(0, 5), min_size=1, max_size=4), st.floats(0, 1), st.booleans())
def test_shares_of_sets_add_up_to_one(
    weights: list[float], strength: float, has_source: bool
) -> None:
    assume(sum(weights) > 1e-3)
    names = [f"style {i}" for i in range(len(weights))]
    network = TransformationNetwork.__new__(TransformationNetwork)
    network.sets = (*([SOURCE] if has_source else []), *names)
    mix = network.mix(strength if has_source else 1.0, weights)
    assert mix.shape == (len(network.sets),)
    assert mix.min() >= 0
    assert mix.sum().item() == pytest.approx(1, abs=1e-6)
    assert mix[-1].item() * sum(weights) == pytest.approx(
        weights[-1] * (strength if has_source else 1), abs=1e-5
    )


def test_a_mix_uses_scales_and_shifts_in_between() -> None:
    network = TransformationNetwork(0.25, ("a", "b"))
    layer = network.head[0]
    with torch.no_grad():
        for sets in (layer.scale, layer.shift):
            sets[1] = torch.linspace(2, 3, sets.shape[1])
    found = layer.normalize(picture(9, 8).repeat(1, 3, 1, 1)[:, :8], torch.tensor([0.25, 0.75]))
    assert torch.allclose(found.mean((0, 2, 3)), 0.75 * layer.shift[1], atol=1e-3)
    expected = 0.25 + 0.75 * layer.scale[1]
    assert torch.allclose(found.std((0, 2, 3), correction=0), expected, atol=1e-2)


def test_between_the_picture_and_the_style_every_strength_moves_it() -> None:
    torch.manual_seed(0)
    network = TransformationNetwork(0.25, (SOURCE, "style")).requires_grad_(False)
    image = picture(40, 48)
    painted = [network(image, mix=network.mix(strength)) for strength in (0.0, 0.2, 0.6, 1.0)]
    away = [(each - image).abs().mean().item() for each in painted]
    assert away[0] == 0
    assert away == sorted(away)
    mean = network(image.repeat(2, 1, 1, 1), mix=network.mix(0.6))
    assert torch.equal(mean[1:], painted[2])


def test_winograds_convolutions_paint_the_same(network: TransformationNetwork) -> None:
    has_winograd(torch.device("cpu"), torch.float32)
    image = picture(50, 70)
    with torch.inference_mode():
        contiguous = network(image, layout=torch.contiguous_format)
        strips = network.in_strips(image, 16, layout=torch.contiguous_format)
    assert (contiguous - network(image)).abs().max() < 1e-4
    assert (strips - network(image)).abs().max() < 1e-4


def test_what_grows_is_convolved_as_if_pixels_had_been_repeated_before() -> None:
    torch.manual_seed(0)
    convolve = Convolution(4, 3, 5, grow=2).requires_grad_(False)
    x = torch.randn(1, 4, 7, 9)
    repeated = F.interpolate(F.pad(x, (1,) * 4, mode="reflect"), scale_factor=2.0)
    expected = F.conv2d(repeated, convolve.weight.view(3, 4, 5, 5))
    assert torch.allclose(convolve(x), expected, atol=1e-5)


def test_width_is_a_factor_on_channels() -> None:
    assert [layer.convolve.weight.shape[0] for layer in TransformationNetwork(1.0).head] == [
        32,
        64,
        128,
    ]
    assert [layer.convolve.weight.shape[0] for layer in TransformationNetwork(0.5).head] == [
        16,
        32,
        64,
    ]


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_parameter_learns(kind: str) -> None:
    network = TransformationNetwork(0.25, kind=kind)
    network(picture(32, 32, count=2)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


class OnApple(Tensor):
    """A tensor on the CPU that claims to be on Apple's GPU."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device("mps")


class Listener(TorchDispatchMode):
    """Refuses what Apple's GPUs cannot compute, or get wrong."""

    norms = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        made = func(*args, **(kwargs or {}))
        tensors = [each for each in tree_leaves((args, made)) if isinstance(each, Tensor)]
        assert all(each.dtype != torch.float64 for each in tensors), func
        if "batch_norm" in str(func):
            self.norms += 1
            assert all(each.is_contiguous() for each in tensors), func
        return made


@pytest.mark.parametrize("count", [1, 2])
def test_apples_gpu_gets_no_float64_and_no_channels_last_batch_normalisation(
    network: TransformationNetwork, count: int
) -> None:
    pictures = picture(40, 52, count=count)
    learner = copy.deepcopy(network).requires_grad_(True)
    with Listener() as heard:
        painted = learner(pictures.as_subclass(OnApple))
        painted.square().mean().backward()
        layers = len(network.matrices())
        assert heard.norms == 2 * layers * count  # there and back
        strips = network.in_strips(pictures[:1].as_subclass(OnApple), 16)
    expected = network(pictures)
    assert torch.allclose(painted.as_subclass(Tensor), expected, atol=1e-4)
    assert torch.allclose(strips.as_subclass(Tensor), expected[:1], atol=1e-4)


def test_statistics_of_parts_are_those_of_the_whole() -> None:
    whole = 1000 + picture(30, 17)  # a mean that is large beside the spread
    found = _joined(whole.split([4, 16, 10], dim=2))
    variance, mean = torch.var_mean(whole.double(), (0, 2, 3), correction=0)
    assert torch.allclose(found.mean.double(), mean, rtol=1e-6)
    assert torch.allclose(found.variance.double(), variance, rtol=1e-3)
