from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor

from workbench import losses
from workbench.settings import STYLE_LOSSES, Settings

SHALLOW = Settings(
    content_layers=("relu1_1",), content_weight=1.0, style_layers=("relu1_1",), tv_weight=1.0
)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_content_loss_is_the_mean_squared_difference() -> None:
    a = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])
    b = torch.tensor([[[[1.0, 4.0]], [[0.0, 4.0]]]])
    assert losses.content_loss(a, b).item() == pytest.approx((0 + 4 + 9 + 0) / 4)


def test_gram_matrix_by_hand() -> None:
    activation = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])  # F = [[1, 2], [3, 4]], 4 elements
    expected = torch.tensor([[5.0, 11.0], [11.0, 25.0]]) / 4
    assert torch.equal(losses.gram_matrix(activation), expected)


@given(seed=st.integers(0, 10**6), channels=st.integers(1, 9), side=st.integers(1, 7))
def test_gram_matrix_equals_float64_and_forgets_where(seed: int, channels: int, side: int) -> None:
    activation = random(1, channels, side, side + 1, seed=seed)
    flat = activation.double().numpy().reshape(channels, -1)
    expected = flat @ flat.T / flat.size
    np.testing.assert_allclose(losses.gram_matrix(activation), expected, rtol=1e-4, atol=1e-6)
    shuffled = torch.tensor(np.random.default_rng(seed).permutation(flat, axis=1)).float()
    moved = shuffled.reshape(activation.shape)
    np.testing.assert_allclose(losses.gram_matrix(moved), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_gradient_of_the_style_loss_equals_autograd(memory: torch.memory_format) -> None:
    target = losses.gram_matrix(random(1, 5, 6, 7, seed=1))
    ours = random(1, 5, 6, 7).contiguous(memory_format=memory).requires_grad_()
    losses.style_loss(losses.gram_matrix(ours), target).backward()
    plain = random(1, 5, 6, 7).double().requires_grad_()
    rows = plain.flatten(2)[0]
    (rows @ rows.T / plain.numel() - target.double()).square().mean().backward()
    torch.testing.assert_close(ours.grad.double(), plain.grad, rtol=1e-4, atol=1e-7)


def test_style_loss_is_the_mean_over_the_matrix() -> None:
    a, b = torch.zeros(2, 2), torch.tensor([[1.0, 2.0], [2.0, 5.0]])
    assert losses.style_loss(a, b).item() == pytest.approx((1 + 4 + 4 + 25) / 4)


def test_tv_loss_by_hand() -> None:
    picture = torch.tensor([[0.0, 1.0, 9.0], [2.0, 5.0, 9.0], [9.0, 9.0, 9.0]]).expand(1, 3, 3, 3)
    # Only pixels that are in neither the last row nor the last column start a difference.
    down = [2 - 0, 5 - 1, 9 - 2, 9 - 5]
    right = [1 - 0, 9 - 1, 5 - 2, 9 - 5]
    expected = 3 * 0.5 * sum(d * d for d in down + right)
    assert losses.tv_loss(picture).item() == pytest.approx(expected)


def test_tv_gradient_is_what_neural_style_lua_adds() -> None:
    picture = (random(1, 3, 6, 5) * 50).requires_grad_()
    losses.tv_loss(picture).backward()
    p = picture.detach().double().numpy()[0]
    x_diff = p[:, :-1, :-1] - p[:, :-1, 1:]
    y_diff = p[:, :-1, :-1] - p[:, 1:, :-1]
    expected = np.zeros_like(p)
    expected[:, :-1, :-1] += x_diff + y_diff
    expected[:, :-1, 1:] -= x_diff
    expected[:, 1:, :-1] -= y_diff
    np.testing.assert_allclose(picture.grad[0], expected, rtol=1e-5, atol=1e-4)


def test_blend_counts_proportions_only() -> None:
    a, b = torch.eye(2), torch.ones(2, 2)
    assert torch.allclose(losses.blend([a, b], [1, 3]), 0.25 * a + 0.75 * b)
    assert torch.allclose(losses.blend([a, b], [2, 6]), losses.blend([a, b], [1, 3]))


def test_losses_of_bfloat16_activations_are_float32_and_near() -> None:
    activation = random(1, 8, 20, 20)
    half = activation.bfloat16()
    gram = losses.gram_matrix(half)
    assert gram.dtype == torch.float32
    torch.testing.assert_close(gram, losses.gram_matrix(half.float()), rtol=1e-5, atol=1e-6)
    assert losses.content_loss(half, activation).dtype == torch.float32


def test_weighted_terms_add_up_to_the_total() -> None:
    activations = {"relu1_1": random(1, 4, 5, 5), "relu2_1": random(1, 6, 3, 3)}
    targets = losses.Targets(
        content={"relu2_1": random(1, 6, 3, 3, seed=5)},
        style={name: torch.zeros(a.shape[1], a.shape[1]) for name, a in activations.items()},
    )
    settings = Settings(
        content_weight=2.0,
        content_layers=("relu2_1",),
        style_weight=1.0,
        style_layers=("relu1_1", "relu2_1"),
        style_layer_weights=(3.0, 0.5),
        tv_weight=0.1,
    )
    picture = random(1, 3, 5, 5) * 40
    total, terms = losses.weighted_losses(picture, activations, targets, settings)
    summary = losses.to_losses(terms)
    assert summary.total == pytest.approx(total.item(), rel=1e-6)
    parts = summary.content_total + summary.style_total + summary.tv
    assert summary.total == pytest.approx(parts)
    gram = losses.gram_matrix(activations["relu1_1"])
    assert summary.style["relu1_1"] == pytest.approx(3 * gram.square().mean().item())
    assert summary.tv == pytest.approx(0.1 * losses.tv_loss(picture).item())


def test_temporal_loss_by_hand() -> None:
    picture = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).expand(1, 3, 2, 2)
    target = torch.tensor([[1.0, 4.0], [0.0, 9.0]]).expand(1, 3, 2, 2)
    visible = torch.tensor([[1.0, 1.0], [0.5, 0.0]]).view(1, 1, 2, 2)
    # Hidden pixels count nothing, but are among the number that it is divided by.
    expected = 3 * (0 + 4 + 0.5 * 9 + 0 * 25) / 12
    assert losses.temporal_loss(picture, target, visible).item() == pytest.approx(expected)


def test_hidden_pixels_are_free_of_the_temporal_loss() -> None:
    picture = (random(1, 3, 6, 5) * 50).requires_grad_()
    target = random(1, 3, 6, 5, seed=1)
    visible = (random(1, 1, 6, 5, seed=2) > 0).float()
    losses.temporal_loss(picture, target, visible).backward()
    expected = 2 * visible * (picture.detach() - target) / picture.numel()
    torch.testing.assert_close(picture.grad, expected)
    other = torch.where(visible > 0, target, target + 1000)
    same = losses.temporal_loss(picture, target, visible)
    assert torch.equal(losses.temporal_loss(picture, other, visible), same)


def test_earlier_frames_are_weighed_and_added_up() -> None:
    activations = {"relu1_1": random(1, 4, 5, 5)}
    picture = torch.full((1, 3, 5, 5), 51.0)  # 0.2 of 255
    left = torch.zeros(1, 1, 5, 5)
    left[..., :2] = 1
    targets = losses.Targets(
        content=activations,
        style={"relu1_1": losses.gram_matrix(activations["relu1_1"])},
        temporal=[
            losses.TemporalTarget(torch.full((1, 3, 5, 5), 0.6), left, 10.0),
            losses.TemporalTarget(torch.full((1, 3, 5, 5), 0.0), 1 - left, 2.0),
        ],
    )
    total, terms = losses.weighted_losses(picture, activations, targets, SHALLOW)
    expected = 10 * 0.4 * (0.4 * 255) ** 2 + 2 * 0.6 * (0.2 * 255) ** 2
    assert terms["temporal"].item() == pytest.approx(expected)
    assert total.item() == pytest.approx(expected)
    assert losses.to_losses(terms).temporal == pytest.approx(expected)


def test_a_still_has_no_temporal_loss() -> None:
    activations = {"relu1_1": random(1, 4, 5, 5)}
    targets = losses.Targets(activations, {"relu1_1": torch.zeros(4, 4)})
    terms = losses.weighted_losses(random(1, 3, 5, 5), activations, targets, SHALLOW)[1]
    assert "temporal" not in terms
    assert losses.to_losses(terms).temporal == 0


def test_other_kinds_of_total_variation_by_hand() -> None:
    picture = torch.tensor([[0.0, 1.0, 9.0], [2.0, 5.0, 9.0]]).expand(1, 3, 2, 3)
    down, right = [2, 4, 0], [1, 8, 3, 4]
    absolute = 3 * (sum(down) + sum(right))
    assert losses.tv_loss(picture, "absolute").item() == pytest.approx(absolute)
    mean = sum(d * d for d in down) / 3 + sum(d * d for d in right) / 4
    assert losses.tv_loss(picture, "mean-squared").item() == pytest.approx(mean)


def test_a_masked_gram_matrix_is_that_of_the_region() -> None:
    activation = random(1, 5, 6, 8)
    mask = torch.zeros(1, 1, 6, 8)
    mask[..., :3] = 1
    region = losses.gram_matrix(activation[..., :3])
    torch.testing.assert_close(losses.gram_matrix(activation, mask), region)
    torch.testing.assert_close(losses.gram_matrix(activation, 0.3 * mask), region)
    assert losses.gram_matrix(activation, 0 * mask).abs().max() == 0


@given(seed=st.integers(0, 10**6))
def test_masks_that_add_up_to_one_split_the_gram_matrix(seed: int) -> None:
    activation, mask = random(1, 4, 5, 6, seed=seed), random(1, 1, 5, 6, seed=seed + 1).sigmoid()
    parts = [losses.gram_matrix(activation, each) * each.mean() for each in (mask, 1 - mask)]
    whole = losses.gram_matrix(activation)
    torch.testing.assert_close(parts[0] + parts[1], whole, rtol=1e-4, atol=1e-6)


def test_regions_count_by_their_share_and_nothing_counts_outside() -> None:
    activation = random(1, 4, 6, 8)
    left, nowhere = torch.zeros(1, 1, 6, 8), torch.zeros(1, 1, 6, 8)
    left[..., :2] = 1  # a quarter
    gram = {"relu2_1": losses.gram_matrix(random(1, 4, 6, 8, seed=9))}
    regions = [
        losses.Region({"relu2_1": left}, gram, 2.0),
        losses.Region({"relu2_1": nowhere}, gram),
    ]
    ours = activation.clone().requires_grad_()
    own = [losses.gram_matrix(ours, region.masks["relu2_1"]) for region in regions]
    loss = losses.region_loss(own, "relu2_1", regions)
    alone = losses.style_loss(losses.gram_matrix(activation[..., :2]), gram["relu2_1"])
    assert loss.item() == pytest.approx(2 * 0.25 * alone.item(), rel=1e-5)
    loss.backward()
    assert ours.grad[..., :2].abs().min() > 0
    assert ours.grad[..., 2:].abs().max() == 0


def test_normalized_gradients_have_the_length_of_their_weight() -> None:
    style = losses.gram_matrix(random(1, 4, 6, 8, seed=4))
    content = random(1, 4, 6, 8, seed=5)
    targets = losses.Targets(content={"relu1_1": content}, style={"relu1_1": style})
    normalized = replace(
        SHALLOW, content_weight=3.0, style_weight=50.0, tv_weight=0.0, normalize_gradients=True
    )
    plain = replace(normalized, normalize_gradients=False)

    def gradient(settings: Settings) -> tuple[float, torch.Tensor]:
        activation = random(1, 4, 6, 8, seed=6).requires_grad_()
        picture = torch.zeros(1, 3, 6, 8)
        total, _ = losses.weighted_losses(picture, {"relu1_1": activation}, targets, settings)
        total.backward()
        return total.item(), activation.grad

    total, both = gradient(normalized)
    assert total == gradient(plain)[0]
    for_content = gradient(replace(plain, content_weight=1.0, style_weight=0.0))[1]
    for_style = gradient(replace(plain, content_weight=0.0, style_weight=1.0))[1]
    expected = 3 * for_content / for_content.abs().sum() + 50 * for_style / for_style.abs().sum()
    torch.testing.assert_close(both, expected, rtol=1e-4, atol=1e-7)


def test_a_gradient_of_nothing_stays_nothing() -> None:
    activation = random(1, 4, 6, 8).requires_grad_()
    loss = 7 * losses.content_loss(losses.normalize_gradient(activation, 7.0), activation.detach())
    loss.backward()
    assert activation.grad.abs().max() == 0


# --- other kinds of style loss -----------------------------------------------------------

Matrix = npt.NDArray[np.float64]
unhurried = hypothesis_settings(max_examples=40, deadline=None)
KINDS = st.sampled_from(STYLE_LOSSES)


def layers(kind: str, seed: int = 0, channels: int = 5, places: int = 12) -> list[Tensor]:
    """Activations that a kind looks at, as those after a ReLU: `(1, C, H, W)` comes last."""
    deeper = random(1, channels, 3, places // 3, seed=seed).relu()
    shallower = random(1, 4, 7, 2 * (places // 3) + 1, seed=seed + 1).relu()
    return [shallower, deeper] if kind == "cross-layer" else [deeper]


def known(activations: Sequence[Tensor], kind: str, mask: Tensor | None = None) -> Tensor:
    return losses.style_statistic(activations, kind, mask)


def distance(one: Sequence[Tensor], two: Sequence[Tensor], kind: str) -> float:
    return losses.style_distance(known(one, kind), known(two, kind), kind).item()


def rows(activation: Tensor) -> Matrix:
    return activation[0].flatten(1).double().numpy()


def root(matrix: Matrix) -> Matrix:
    """Square root of a symmetric matrix without negative eigenvalues."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T


def test_gram_is_the_loss_that_it_always_was() -> None:
    one, two = layers("gram"), layers("gram", seed=5)
    before = losses.style_loss(losses.gram_matrix(one[0]), losses.gram_matrix(two[0]))
    assert distance(one, two, "gram") == before.item()


def test_moments_loss_equals_float64() -> None:
    one, two = (rows(layers("gram+mean", seed=seed)[0]) for seed in (0, 9))
    grams = [each @ each.T / each.size for each in (one, two)]
    expected = np.mean((grams[0] - grams[1]) ** 2)
    expected += 10 * np.mean((one.mean(axis=1) - two.mean(axis=1)) ** 2)
    expected += 10 * np.mean((one.std(axis=1) - two.std(axis=1)) ** 2)
    pair = [known(layers("gram+mean", seed=seed), "gram+mean") for seed in (0, 9)]
    assert losses.moments_loss(*pair).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_wasserstein_loss_equals_float64(seed: int) -> None:
    activations = [layers("wasserstein", each, places=60)[0] for each in (seed, seed + 9)]
    one, two = map(rows, activations)
    floor = 1e-3 * np.mean(two**2) * np.eye(len(one))
    first, second = (np.cov(each, bias=True) + floor for each in (one, two))
    between = root(root(second) @ first @ root(second))
    expected = np.sum((one.mean(axis=1) - two.mean(axis=1)) ** 2)
    expected += np.trace(first + second - 2 * between)
    pair = [known([each], "wasserstein") for each in activations]
    assert losses.wasserstein_loss(*pair).item() == pytest.approx(expected / len(one), rel=1e-4)


def test_wasserstein_loss_of_channels_that_do_not_correlate_by_hand() -> None:
    # Standard deviations 1 and 2, then 3 and 2; means 1 and 0, then 0 and 4.
    one = torch.tensor([[2.0, 0.0, 2.0, 0.0], [2.0, 2.0, -2.0, -2.0]]).view(1, 2, 2, 2)
    two = torch.tensor([[3.0, -3.0, 3.0, -3.0], [6.0, 6.0, 2.0, 2.0]]).view(1, 2, 2, 2)
    expected = ((3 - 1) ** 2 + (2 - 2) ** 2 + 1**2 + 4**2) / 2
    pair = [known([each], "wasserstein") for each in (one, two)]
    assert losses.wasserstein_loss(*pair).item() == pytest.approx(expected, rel=2e-3)


def test_cross_gram_matrix_repeats_the_deeper_layer() -> None:
    shallower, deeper = layers("cross-layer")
    there = deeper.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    left, right = rows(shallower[..., :6, :8]), rows(there)
    expected = left @ right.T / (np.sqrt(4 * 5) * right.shape[1])
    matrix = losses.cross_gram_matrix(shallower, deeper)
    np.testing.assert_allclose(matrix, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("side", "halved"), [(15, 1), (8, 1), (15, 3), (9, 2), (5, 5)])
def test_layers_of_any_distance_meet_on_the_deeper_grid(side: int, halved: int) -> None:
    matrix = losses.cross_gram_matrix(random(1, 2, side, side), random(1, 3, halved, halved))
    assert matrix.shape == (2, 3)


def test_a_layer_crossed_with_itself_is_its_gram_matrix() -> None:
    activation = random(1, 5, 6, 8)
    mask = random(1, 1, 6, 8, seed=3).sigmoid()
    for each in (None, mask):
        crossed = losses.cross_gram_matrix(activation, activation, each)
        torch.testing.assert_close(crossed, losses.gram_matrix(activation, each))


@pytest.mark.parametrize("kind", STYLE_LOSSES)
@pytest.mark.parametrize("masked", [False, True])
def test_gradients_are_those_of_float64(kind: str, *, masked: bool) -> None:
    activations = [each.double().requires_grad_() for each in layers(kind, places=24)]
    target = known([each.detach().double() for each in layers(kind, seed=7)], kind)
    mask = random(1, 1, 3, 8, seed=2).sigmoid().double() if masked else None

    def loss(*values: Tensor) -> Tensor:
        return losses.style_distance(known(values, kind, mask), target, kind)

    assert torch.autograd.gradcheck(loss, tuple(activations))


@unhurried
@given(kind=KINDS, seed=st.integers(0, 10**6), channels=st.integers(1, 9))
def test_a_picture_has_its_own_style(kind: str, seed: int, channels: int) -> None:
    one, other = layers(kind, seed, channels), layers(kind, seed + 3, channels)
    far = distance(one, other, kind)
    assert distance(one, one, kind) <= 1e-6 * far
    assert far >= 0


@unhurried
@given(kind=KINDS, seed=st.integers(0, 10**6))
def test_style_forgets_where(kind: str, seed: int) -> None:
    deeper = layers(kind, seed)[-1]
    both = [deeper, deeper.flip(1)] if kind == "cross-layer" else [deeper]
    order = torch.tensor(np.random.default_rng(seed).permutation(12))
    moved = [each.flatten(2)[..., order].view_as(each) for each in both]
    torch.testing.assert_close(known(moved, kind), known(both, kind), rtol=1e-4, atol=1e-5)


@unhurried
@given(kind=KINDS, seed=st.integers(0, 10**6))
def test_regions_share_the_statistic_and_the_loss(kind: str, seed: int) -> None:
    activations, target = layers(kind, seed), known(layers(kind, seed + 3), kind)
    mask = random(1, 1, 3, 4, seed=seed + 1).sigmoid()
    parts = [known(activations, kind, each) * each.mean() for each in (mask, 1 - mask)]
    torch.testing.assert_close(parts[0] + parts[1], known(activations, kind), rtol=1e-4, atol=1e-5)
    halves = [
        losses.Region({"relu2_1": torch.full((1, 1, 3, 4), share)}, {"relu2_1": target})
        for share in (0.25, 0.75)
    ]
    whole = losses.style_distance(known(activations, kind), target, kind).item()
    own = [known(activations, kind, half.masks["relu2_1"]) for half in halves]
    shared = losses.region_loss(own, "relu2_1", halves, kind).item()
    assert shared == pytest.approx(whole, rel=1e-3)


@pytest.mark.parametrize("kind", STYLE_LOSSES)
def test_channels_that_are_dead_have_finite_gradients(kind: str) -> None:
    activations = [each * 0 for each in layers(kind)]
    for each in activations:
        each.requires_grad_()
    for target in (known(layers(kind, seed=4), kind), known(layers(kind), kind) * 0):
        losses.style_distance(known(activations, kind), target, kind).backward()
        assert all(torch.isfinite(each.grad).all() for each in activations)


@pytest.mark.parametrize("kind", STYLE_LOSSES)
def test_bfloat16_activations_give_nearly_the_same_loss(kind: str) -> None:
    one, other = layers(kind, channels=32, places=300), layers(kind, 9, channels=32, places=300)
    half = [each.bfloat16() for each in one]
    assert known(half, kind).dtype == torch.float32
    assert distance(half, other, kind) == pytest.approx(distance(one, other, kind), rel=0.02)


@pytest.mark.parametrize("kind", STYLE_LOSSES)
def test_normalized_gradients_take_every_kind(kind: str) -> None:
    names = ("relu1_1", "relu2_1") if kind == "cross-layer" else ("relu2_1",)
    settings = Settings(
        style_loss=kind,
        style_layers=names,
        style_layer_weights=range(1, len(names) + 1),
        style_weight=50.0 / len(names),
        content_layers=("relu2_1",),
        content_weight=0.0,
        normalize_gradients=True,
    )
    own = dict(zip(names, layers(kind), strict=True))
    for each in own.values():
        each.requires_grad_()
    style = {"relu2_1": known(layers(kind, seed=4), kind)}
    targets = losses.Targets({"relu2_1": own["relu2_1"].detach()}, style)
    total, _ = losses.weighted_losses(torch.zeros(1, 3, 6, 8), own, targets, settings)
    total.backward()
    for each in own.values():
        assert each.grad.abs().sum().item() == pytest.approx(50.0, rel=1e-4)
