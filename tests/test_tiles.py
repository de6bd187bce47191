from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, example, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from tiny_backbone import tiny_tensors
from torch import Tensor

from workbench import tiles
from workbench.checkpoints import Moment
from workbench.convolution import has_winograd
from workbench.descent import _begin
from workbench.features import Network, build_network
from workbench.forecast import Outline
from workbench.losses import Region, Targets, TemporalTarget, style_statistic, weighted_losses
from workbench.problem import Problem, kept_targets
from workbench.samples import load_picture
from workbench.settings import Settings
from workbench.tiles import Tiled, reach
from workbench.weights import BACKBONES, Weights

SETTINGS = Settings(
    content_layers=("relu2_2", "relu3_1"),
    style_layers=("relu1_1", "relu2_1", "relu3_2"),
    content_weight=1.0,
    style_weight=50.0,
    tv_weight=1e-3,
)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def network() -> Network:
    """A tiny one in float64, in which what is exact is equal."""
    built = build_network(Weights("vgg16", tiny_tensors(), "", ""), SETTINGS.layers)
    convolutions = tuple((k, w.double(), b.double()) for k, w, b in built.convolutions)
    return replace(built, convolutions=convolutions)


NETWORK = network()
GRID, MARGIN = 4, 16


def targets(shape: tuple[int, int], *, regions: int = 0, kind: str = "gram") -> Targets:
    """What some picture of the shape is drawn to."""
    seen = NETWORK(255 * random(1, 3, *shape, seed=1), SETTINGS.layers)
    settings = replace(SETTINGS, style_loss=kind)
    painted = NETWORK(255 * random(1, 3, 40, 44, seed=2), SETTINGS.layers)
    style = {
        layer: style_statistic([painted[each] for each in looked_at], kind)
        for layer, looked_at in settings.compared_layers().items()
    }
    places = []
    for number in range(regions):
        masks = {
            layer: random(1, 1, *seen[layer].shape[-2:], seed=3 + number).double()
            * (torch.arange(seen[layer].shape[-1]) * 2 // seen[layer].shape[-1] == number)
            for layer in style
        }
        places.append(Region(masks, style, 1.0 + number))
    temporal = [TemporalTarget(random(1, 3, *shape, seed=9), random(1, 1, *shape, seed=8), 3.0)]
    content = {layer: seen[layer] for layer in SETTINGS.content_layers}
    return Targets(content, style, places, temporal)


def both(
    shape: tuple[int, int], side: int, goal: Targets, settings: Settings = SETTINGS
) -> list[tuple[dict[str, Tensor], Tensor]]:
    """Terms and gradient of a picture, seen as a whole and in tiles."""
    results = []
    for seen_in in (None, side):
        pixels = (255 * random(1, 3, *shape, seed=5).double()).requires_grad_()
        if seen_in is None:
            activations = NETWORK(pixels, settings.layers)
            total, terms = weighted_losses(pixels, activations, goal, settings)
        else:
            total, terms = Tiled(NETWORK, seen_in).weighted_losses(pixels, goal, settings)
        total.backward()
        assert pixels.grad is not None
        results.append((terms, pixels.grad))
    return results


def assert_alike(results: list[tuple[dict[str, Tensor], Tensor]]) -> None:
    (whole, gradient), (tiled, other) = results
    assert whole.keys() == tiled.keys()
    for name, value in whole.items():
        torch.testing.assert_close(tiled[name], value, rtol=1e-6, atol=0, check_dtype=False)
    assert (gradient - other).abs().max() <= 1e-6 * gradient.abs().max()


@examples(max_examples=20, deadline=None)
@given(st.integers(4, 70), st.integers(4, 70), st.integers(1, 12))
@example(9, 93, 2)
@example(93, 9, 2)
def test_tiles_come_to_the_whole(height: int, width: int, cells: int) -> None:
    shape = height, width
    assert_alike(both(shape, GRID * cells, targets(shape)))


@pytest.mark.parametrize("kind", ["gram", "gram+mean", "cross-layer", "wasserstein"])
@pytest.mark.parametrize("regions", [0, 2])
def test_whatever_style_is_and_with_masks(kind: str, regions: int) -> None:
    shape = 45, 62
    goal = targets(shape, regions=regions, kind=kind)
    assert_alike(both(shape, 16, goal, replace(SETTINGS, style_loss=kind)))


@pytest.mark.parametrize("pooling", ["average", "l2"])
def test_whatever_pooling_is(pooling: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.NETWORK", replace(NETWORK, pooling=pooling))
    assert_alike(both((39, 50), 12, targets((39, 50))))


def test_a_margin_that_is_too_small_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert reach(NETWORK.layers) == MARGIN
    monkeypatch.setattr(tiles, "reach", lambda layers: MARGIN - 4)
    with pytest.raises(AssertionError):
        assert_alike(both((64, 64), 16, targets((64, 64))))


def test_how_far_vgg_looks() -> None:
    deep = build_network(Weights("vgg16", tiny_tensors(), "", ""), ["relu5_1"])
    assert reach(deep.layers) == 64  # 2 + 4 + 12 + 24 + 16, on a grid of 16
    assert reach(build_network(Weights("vgg16", tiny_tensors(), "", ""), ["relu1_1"]).layers) == 1


@given(st.integers(16, 300), st.integers(16, 300), st.sampled_from([16, 64, 256]))
def test_every_place_has_one_tile(height: int, width: int, side: int) -> None:
    count = torch.zeros(height, width)
    for tile in tiles.tiles((height, width), side, 64, 16):
        (top, bottom), (left, right) = tile.inner
        count[top:bottom, left:right] += 1
        assert top % 16 == left % 16 == 0
        assert bottom - top >= 16
        (above, below), (before, behind) = tile.outer
        assert (above, before) == (max(0, top - 64), max(0, left - 64))
        assert (below, behind) == (min(height, bottom + 64), min(width, right + 64))
    assert torch.equal(count, torch.ones(height, width))


def test_activations_and_statistics_of_the_whole_come_from_tiles() -> None:
    pixels = 255 * random(1, 3, 50, 41).double()
    whole, tiled = NETWORK(pixels, SETTINGS.layers), Tiled(NETWORK, 12)
    for layer, activation in tiled(pixels, SETTINGS.layers).items():
        torch.testing.assert_close(activation, whole[layer])
    for kind, looked_at in (
        ("gram+mean", [("relu3_2",), ("relu1_1",)]),
        ("cross-layer", [("relu2_1", "relu3_2"), ("relu1_1", "relu2_1")]),
    ):
        for layers, statistic in tiled.statistics(pixels, looked_at, kind).items():
            expected = style_statistic([whole[layer] for layer in layers], kind)
            torch.testing.assert_close(statistic, expected)


def test_what_is_seen_at_once_is_a_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = Network.__call__

    def call(self: Network, picture: Tensor, layers: object) -> dict[str, Tensor]:
        seen.append(max(picture.shape[-2:]))
        return real(self, picture, layers)  # type: ignore[arg-type]

    goal = targets((90, 130))
    monkeypatch.setattr(Network, "__call__", call)
    pixels = (255 * random(1, 3, 90, 130).double()).requires_grad_()
    Tiled(NETWORK, 16).weighted_losses(pixels, goal, SETTINGS)[0].backward()
    assert max(seen) == 16 + 2 * MARGIN


def seen_both_ways(problem: Problem, side: int, start: Tensor) -> list[Moment]:
    """The moment before the first step, of a picture seen as a whole and in tiles."""
    moments = []
    with pytest.MonkeyPatch.context() as patch:
        for seen_in in (None, side):
            patch.setattr(Outline, "sides", (seen_in,))
            kept_targets.clear()
            shape, _ = problem.scales[-1]
            evaluate = problem.at(shape)
            moments.append(_begin(problem, evaluate, problem.pixels(start, shape)))
    return moments


@examples(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.integers(64, 130),
    st.sampled_from([0.1, 9 / 16, 1.0, 10.0]),
    st.sampled_from([16, 48]),
    st.booleans(),
)
def test_a_frame_of_a_film_in_tiles_comes_to_the_whole(
    tiny: Settings, longest: int, ratio: float, side: int, masked: bool
) -> None:
    shape = max(1, round(longest * min(1, ratio))), max(1, round(longest / max(1, ratio)))
    frame, style = random(1, 3, *shape, seed=1), random(1, 3, 40, 30, seed=2)
    before = [TemporalTarget(random(1, 3, *shape), random(1, 1, *shape, seed=4), w) for w in (3, 9)]
    masks = [random(1, 1, *shape, seed=6), random(1, 1, *shape, seed=7)] if masked else []
    layers = {"style_layers": ("relu1_1", "relu2_1"), "content_layers": ("relu2_2",)}
    settings = replace(tiny, size=longest, **layers)  # type: ignore[arg-type]
    problem = Problem.of(frame, [style] * max(1, len(masks)), settings, masks, before)
    whole, tiled = seen_both_ways(problem, side, random(1, 3, *shape, seed=3))
    assert tiled.tile == side
    assert tiled.losses.by_kind() == pytest.approx(whole.losses.by_kind(), rel=1e-5)
    assert (tiled.grad - whole.grad).abs().max() <= 1e-5 * whole.grad.abs().max()


def true_weights_both_ways(size: int, side: int, noise: float) -> tuple[Tensor, Tensor]:
    """The gradient before the first step, and how far that in tiles is from it."""
    photo, style = load_picture("sample:astronaut")[..., :384, :], load_picture("sample:swirls")
    settings = Settings(size=size, precision="float32", device="cpu")
    start = (photo + noise * (random(*photo.shape) - 0.5)).clamp(0, 1)
    whole, tiled = seen_both_ways(Problem.of(photo, [style], settings), side, start)
    assert tiled.losses.total == pytest.approx(whole.losses.total, rel=1e-6)
    return whole.grad, tiled.grad - whole.grad


@pytest.mark.slow
def test_true_weights_in_tiles_come_to_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workbench.features.fastest", lambda convolutions, shape: ())
    gradient, away = true_weights_both_ways(512, 128, noise=0)
    assert away.abs().max() < 1e-5 * gradient.abs().max()


@pytest.mark.slow
@pytest.mark.skipif(
    not has_winograd(torch.device("cpu"), torch.float32), reason="this torch lacks NNPACK"
)
def test_winograds_rounding_turns_few_activations_on_and_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    every = BACKBONES["vgg16"].layers
    monkeypatch.setattr("workbench.features.fastest", lambda convolutions, shape: every)
    gradient, away = true_weights_both_ways(256, 64, noise=0.2)
    assert away.norm() < 2e-3 * gradient.norm()
