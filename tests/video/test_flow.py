from __future__ import annotations

import importlib
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_clip import SampleClip, clip
from torch import Tensor, nn

from workbench.errors import InputError, WeightsError
from workbench.images import from_array
from workbench.video.flow import (
    Motion,
    find_motion,
    flow,
    flow_to_color,
    occlusion,
    warp,
    with_likenesses,
)

# The package gives its name to the function.
module: Any = importlib.import_module("workbench.video.flow")


def constant(x: float, y: float, height: int = 9, width: int = 12) -> Tensor:
    return torch.tensor([float(x), float(y)]).view(1, 2, 1, 1).repeat(1, 1, height, width)


def texture(height: int, width: int) -> Tensor:
    """Coloured blobs of a few pixels, (1, 3, H, W)."""
    noise = np.random.default_rng(5).uniform(0, 1, (height, width, 3)).astype(np.float32)
    blobs = torch.from_numpy(np.asarray(cv2.GaussianBlur(noise, (0, 0), 2.5)))
    blobs = (blobs - blobs.min()) / (blobs.max() - blobs.min())
    return blobs.permute(2, 0, 1)[None]


def shifted(height: int, width: int, x: int, y: int) -> tuple[Tensor, Tensor]:
    """Two cuts of one texture: what is at p in the first is at p + (x, y) in the second."""
    whole = texture(height + 40, width + 40)
    first = whole[..., 20 : 20 + height, 20 : 20 + width]
    second = whole[..., 20 - y : 20 - y + height, 20 - x : 20 - x + width]
    return first, second


# warp


def test_warping_by_nothing_changes_nothing(photo: Tensor) -> None:
    assert torch.allclose(warp(photo, torch.zeros(1, 2, 60, 80)), photo, atol=1e-4)


@given(x=st.integers(-15, 15), y=st.integers(-12, 12), channels=st.sampled_from([1, 2, 3, 7]))
@settings(max_examples=30, deadline=None)
def test_warping_by_whole_pixels_is_a_shift_and_the_border_goes_on(
    x: int, y: int, channels: int
) -> None:
    image = torch.rand(1, channels, 9, 12, generator=torch.Generator().manual_seed(channels))
    rows = (torch.arange(9) + y).clamp(0, 8)
    columns = (torch.arange(12) + x).clamp(0, 11)
    expected = image[:, :, rows][..., columns]
    assert torch.allclose(warp(image, constant(x, y)), expected, atol=1e-4)


def test_warping_by_half_a_pixel_goes_halfway() -> None:
    ramp = torch.arange(12.0).expand(1, 1, 9, 12)
    soft = warp(ramp, constant(0.5, 0.25), mode="bilinear")
    assert torch.allclose(soft[..., 2:-3], ramp[..., 2:-3] + 0.5, atol=1e-4)
    assert torch.allclose(warp(ramp, constant(0.5, 0.25))[..., 3:-4], soft[..., 3:-4], atol=0.02)


def test_warping_keeps_a_picture_sharp() -> None:
    x = torch.arange(64.0).expand(1, 1, 9, 64)
    grating = 0.5 + 0.3 * torch.sin(2 * torch.pi * x / 4)  # half a pixel is where most is lost
    moved, soft = (warp(grating, constant(0.5, 0, 9, 64), mode=m) for m in ("lanczos", "bilinear"))
    inner = (..., slice(8, -8))
    assert moved[inner].std() > 0.95 * grating[inner].std() > soft[inner].std()


def test_warping_stays_in_the_range_of_the_picture() -> None:
    image = 0.25 + 0.5 * torch.rand(1, 3, 9, 12).round()
    warped = warp(image, 3 * torch.rand(1, 2, 9, 12))
    assert warped.min() >= 0.25
    assert warped.max() <= 0.75


@pytest.mark.parametrize("method", ["dis", "farneback"])
def test_the_previous_frame_is_brought_to_the_current_one(method: str) -> None:
    previous, current = shifted(90, 120, 4, 3)
    brought = warp(previous, flow(current, previous, method=method))
    inner = (..., slice(12, -12), slice(12, -12))
    before = (previous - current)[inner].abs().mean()
    assert (brought - current)[inner].abs().mean() < 0.1 * before


# flow


@pytest.mark.parametrize("method", ["dis", "farneback"])
@pytest.mark.parametrize(("x", "y"), [(3, 0), (-3, 0), (0, 3), (0, -3), (4, -2)])
def test_flow_says_where_pixels_of_the_first_lie_in_the_second(method: str, x: int, y: int) -> None:
    found = flow(*shifted(90, 120, x, y), method=method)
    assert found.shape == (1, 2, 90, 120)
    assert found.dtype == torch.float32
    middle = found[0, :, 12:-12, 12:-12].flatten(1).median(dim=1).values
    assert torch.allclose(middle, torch.tensor([float(x), float(y)]), atol=0.1)


@pytest.mark.parametrize("method", ["dis", "farneback"])
@pytest.mark.parametrize("max_side", [70, 100])
def test_flow_found_on_smaller_pictures_is_scaled_back_up(method: str, max_side: int) -> None:
    found = flow(*shifted(141, 200, 8, -6), method=method, max_side=max_side)
    assert found.shape == (1, 2, 141, 200)
    middle = found[0, :, 20:-20, 20:-20].flatten(1).median(dim=1).values
    assert torch.allclose(middle, torch.tensor([8.0, -6.0]), atol=0.3)


@pytest.mark.parametrize("method", ["dis", "farneback"])
@pytest.mark.parametrize("shape", [(1, 1), (5, 40), (40, 5), (17, 23)])
def test_flow_of_pictures_of_any_size(method: str, shape: tuple[int, int]) -> None:
    image = torch.rand(1, 3, *shape)
    found = flow(image, image, method=method)
    assert found.shape == (1, 2, *shape)
    assert found.abs().max() < 0.5


@pytest.mark.parametrize("method", ["dis", "farneback"])
def test_flow_again_is_the_same(method: str) -> None:
    pair = shifted(90, 120, 4, -2)
    assert torch.equal(flow(*pair, method=method), flow(*pair, method=method))


def test_flow_refuses_what_it_cannot_use(photo: Tensor) -> None:
    with pytest.raises(InputError, match=r"^a: "):
        flow(photo[0], photo)
    with pytest.raises(InputError, match=r"^b: .*\(1, 3, 60, 80\).*\(1, 3, 60, 79\)"):
        flow(photo, photo[..., 1:])
    with pytest.raises(InputError, match=r"method = 'lucas'.*dis, farneback, raft"):
        flow(photo, photo, method="lucas")
    with pytest.raises(InputError, match="max_side = 0"):
        flow(photo, photo, max_side=0)


def test_wrong_shapes_are_named(photo: Tensor) -> None:
    good = torch.zeros(1, 2, 60, 80)
    with pytest.raises(InputError, match=r"^image: "):
        warp(photo[0], good)
    with pytest.raises(InputError, match=r"^flow: "):
        warp(photo, good[..., 1:])
    with pytest.raises(InputError, match=r"^backward: "):
        occlusion(good, photo)
    with pytest.raises(InputError, match=r"^forward: "):
        occlusion(good[..., 1:, :], good)
    with pytest.raises(InputError, match=r"^flow: "):
        flow_to_color(photo)


# RAFT


@pytest.fixture
def no_raft(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[Any], None]]:
    """Choose what stands in for the download of RAFT's weights."""
    monkeypatch.setenv("WORKBENCH_WEIGHTS", str(tmp_path))
    module._raft.cache_clear()

    def replace(fetch: Any) -> None:
        monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fetch)

    yield replace
    module._raft.cache_clear()


def test_raft_gets_padded_pictures_from_minus_one_to_one(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []

    def network(a: Tensor, b: Tensor) -> list[Tensor]:
        seen.extend((a, b))
        y, x = torch.meshgrid(torch.arange(a.shape[2]), torch.arange(a.shape[3]), indexing="ij")
        return [torch.zeros(1, 2, *a.shape[2:]), torch.stack([x, y])[None].float()]

    monkeypatch.setattr(module, "_raft", lambda device: network)
    image = texture(60, 150)
    found = flow(image, image, method="raft")
    assert [tuple(each.shape) for each in seen] == [(1, 3, 128, 152)] * 2
    assert torch.allclose(seen[0][..., :60, :150], 2 * image - 1)
    assert found.shape == (1, 2, 60, 150)
    assert torch.equal(found[0, 0, 0], torch.arange(150.0))
    assert torch.equal(found[0, 1, :, 0], torch.arange(60.0))


@pytest.mark.slow
def test_raft_runs_on_the_device_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[torch.device] = []

    def network(a: Tensor, b: Tensor) -> Tensor:
        looked.extend((a.device, b.device))
        return torch.zeros(1, 2, *a.shape[2:])

    monkeypatch.setattr(module, "choose_device", lambda device: torch.device(device))
    monkeypatch.setattr(module, "_raft_flow", network)
    image = texture(30, 40)
    find_motion(image, image, "raft", device="meta")
    assert {device.type for device in looked} == {"meta"}
    assert len(looked) == 4  # there and back


def test_raft_runs_on_a_tiny_picture(no_raft: Callable[[Any], None]) -> None:
    from torchvision.models.optical_flow import raft_large

    torch.manual_seed(0)
    state: dict[str, Tensor] = raft_large().state_dict()
    calls: list[dict[str, Any]] = []

    def fetch(url: str, **options: Any) -> dict[str, Tensor]:
        calls.append(options)
        return state

    no_raft(fetch)
    image = texture(30, 44)
    first = flow(image, image, method="raft")
    assert first.shape == (1, 2, 30, 44)
    assert not first.requires_grad
    assert torch.equal(first, flow(image, image, method="raft"))
    assert len(calls) == 1
    assert calls[0]["weights_only"]
    assert calls[0]["check_hash"]


def test_raft_without_weights_is_one_sentence(no_raft: Callable[[Any], None]) -> None:
    def fetch(url: str, **options: Any) -> None:
        raise urllib.error.URLError("no network")

    no_raft(fetch)
    image = texture(30, 44)
    with pytest.raises(WeightsError, match=r"no network.*method dis.*raft_large.*\.pth") as caught:
        flow(image, image, method="raft")
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_raft_with_its_own_weights_finds_a_shift() -> None:
    try:
        found = flow(*shifted(128, 160, 4, -2), method="raft")
    except WeightsError as error:
        pytest.skip(str(error))
    middle = found[0, :, 12:-12, 12:-12].flatten(1).median(dim=1).values
    assert torch.allclose(middle, torch.tensor([4.0, -2.0]), atol=0.1)


# what comes into view


def hidden(*box: slice) -> Motion:
    """No motion in a picture of 60 x 80 pixels, with a box that was not seen before."""
    visible = torch.ones(1, 1, 60, 80)
    visible[(..., *box)] = 0
    return Motion(torch.zeros(1, 2, 60, 80), visible)


@pytest.mark.parametrize("size", [1, 8])  # times that of the pictures that are searched
def test_what_comes_into_view_is_fetched_from_where_it_looks_alike(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("workbench.video.flow")
    monkeypatch.setattr(module, "_LIKENESS_SIDE", 80)
    monkeypatch.setattr(module, "_ALIKE", 0.0)
    earlier = texture(60, 80)
    current = earlier.clone()
    current[..., 8:48, 16:64] = earlier[..., 20:60, 28:76]
    enlarge = nn.Upsample(scale_factor=size)
    motion = hidden(slice(20, 28), slice(28, 44))
    motion = Motion(enlarge(motion.flow), enlarge(motion.visible))
    now, then = enlarge(current), enlarge(earlier)
    found = with_likenesses(motion, now, then)
    assert torch.equal(found.flow, motion.flow)
    assert torch.equal(found.visible, motion.visible)
    hole = (..., slice(20 * size, 28 * size), slice(28 * size, 44 * size))
    assert torch.allclose(found.warp(then)[hole], now[hole], atol=1e-6)
    assert not torch.allclose(motion.warp(then)[hole], now[hole], atol=0.1)


def test_what_looks_alike_is_fetched_in_one_piece() -> None:
    plain = torch.full((1, 3, 60, 80), 0.5)  # each square would be found in the first corner
    motion = hidden(slice(16, 40), slice(24, 56))
    pieces = with_likenesses(motion, plain, plain).likenesses
    for _, vectors in pieces:
        inside = vectors[..., 20:36, 28:52]
        assert torch.equal(inside, inside[..., :1, :1].expand_as(inside))
        assert inside.any()


def test_squares_give_way_to_each_other_and_to_what_is_around_them() -> None:
    x = torch.arange(80.0).expand(1, 3, 60, 80)
    earlier = 0.5 + 0.4 * torch.sin(x / 4)  # found in many places
    motion = hidden(slice(16, 40), slice(24, 56))
    found = with_likenesses(motion, earlier, earlier)
    shares = torch.stack([share for share, _ in found.likenesses]).sum(dim=0)[0, 0]
    assert torch.allclose(shares[16:40, 24:56], torch.ones(24, 32))  # nothing of what was there
    assert shares[28, 56:60].tolist() == pytest.approx([0.4, 0.2, 0, 0])
    assert not shares[:, 60:].any()
    columns = torch.stack([share for share, _ in found.likenesses])[:, 0, 0, 28, 28:36]
    assert columns.diff(dim=-1).abs().max() <= 1 / 8  # from middle to middle


@pytest.mark.parametrize(
    "box",
    [
        (slice(0, 0), slice(0, 0)),
        (slice(0, 60), slice(10, 14)),
        (slice(12, 16), slice(0, 80)),
        (slice(0, 60), slice(0, 2)),
    ],
    ids=["nothing", "a column", "a row", "an edge"],
)
def test_narrow_places_keep_their_flow(box: tuple[slice, slice]) -> None:
    motion, picture = hidden(*box), texture(60, 80)
    assert with_likenesses(motion, picture, picture) is motion


# occlusion, with numbers worked out by hand


def test_nothing_is_occluded_where_nothing_moves() -> None:
    occluded = occlusion(constant(0, 0), constant(0, 0))
    assert occluded.shape == (1, 1, 9, 12)
    assert occluded.dtype == torch.bool
    assert not occluded.any()


@pytest.mark.parametrize(
    ("there", "back", "expected"),
    [
        (0.71, 0.0, False),  # 0.5041 against 0.01 * 0.5041 + 0.5 = 0.5050
        (0.72, 0.0, True),  # 0.5184 against 0.01 * 0.5184 + 0.5 = 0.5052
        (-4.9, 4.0, False),  # 0.81 against 0.01 * (24.01 + 16) + 0.5 = 0.9001
        (-5.0, 4.0, True),  # 1 against 0.01 * (25 + 16) + 0.5 = 0.91
        (4.0, 4.0, True),
    ],
)
def test_flows_that_contradict_each_other(there: float, back: float, expected: bool) -> None:
    for swap in (False, True):
        forward, backward = constant(there, 0, 12, 12), constant(back, 0, 12, 12)
        if swap:
            forward, backward = forward.flip(1), backward.flip(1)
        inside = occlusion(forward, backward)[..., :8, :8]
        assert torch.equal(inside, torch.full_like(inside, expected))


def test_the_forward_flow_is_taken_where_the_backward_flow_leads() -> None:
    forward = torch.zeros(1, 2, 9, 12)
    forward[:, 0, :, 5] = -3
    occluded = occlusion(forward, constant(3, 0))
    assert not occluded[..., 2].any()  # 2 + 3 = 5
    assert occluded[..., :2].all()
    assert occluded[..., 3:].all()


def test_the_forward_flow_is_interpolated_linearly() -> None:
    forward = torch.zeros(1, 2, 9, 12)
    forward[:, 0, :, 5] = -4
    occluded = occlusion(forward, constant(2.5, 0))
    # At 3 + 2.5 = 5.5 it is -2: 0.25 against 0.01 * (4 + 6.25) + 0.5.
    assert not occluded[..., 2:4].any()
    assert occluded[..., :2].all()


@pytest.mark.parametrize(
    ("step", "columns"),
    [
        (0.08, []),  # 0.04² = 0.0016 against 0.002
        (0.09, [4]),  # 0.045² = 0.002025 against 0.002, and 0.01 * 0.09² + 0.002 = 0.002081
        (0.10, [4, 5]),  # 0.05² = 0.0025 against 0.002 and 0.0021
    ],
)
@pytest.mark.parametrize("channel", [0, 1])
@pytest.mark.parametrize("upright", [False, True])
def test_motion_boundary(step: float, columns: list[int], channel: int, upright: bool) -> None:
    backward = torch.zeros(1, 2, 12, 12)
    backward[:, channel, :, 5:] = step
    expected = torch.zeros(1, 1, 12, 12, dtype=torch.bool)
    expected[..., columns] = True
    if upright:
        backward, expected = backward.mT, expected.mT
    assert torch.equal(occlusion(torch.zeros(1, 2, 12, 12), backward), expected)


def test_what_comes_from_outside_is_occluded() -> None:
    for x, y, where in (
        (-1, 0, (..., slice(0, 1))),
        (2, 0, (..., slice(-2, None))),
        (0, -3, (..., slice(0, 3), slice(None))),
        (0, 1, (..., slice(-1, None), slice(None))),
    ):
        expected = torch.zeros(1, 1, 9, 12, dtype=torch.bool)
        expected[where] = True
        assert torch.equal(occlusion(constant(-x, -y), constant(x, y)), expected)
    # The middle of a pixel may come to lie anywhere on the picture's outermost pixels.
    assert not occlusion(constant(0.4, -0.4), constant(-0.4, 0.4)).any()


# the sample clip, whose flow is known


class Figures(NamedTuple):
    there: list[float]  # endpoint errors of previous -> current, mean over what is visible
    back: list[float]  # and of current -> previous
    f1: float  # of the occlusions, over all pairs


def figures(film: SampleClip, flows: list[tuple[int, Tensor, Tensor]]) -> Figures:
    errors: tuple[list[float], list[float]] = ([], [])
    right = found = hidden = 0
    for i, forward, backward in flows:
        for which, (estimate, a, b) in enumerate(((forward, i, i + 1), (backward, i + 1, i))):
            error = torch.linalg.vector_norm(estimate - film.flow(a, b), dim=1, keepdim=True)
            errors[which].append(error[~film.occluded(a, b)].mean().item())
        estimated, true = occlusion(forward, backward), film.occluded(i + 1, i)
        right += int((estimated & true).sum())
        found += int(estimated.sum())
        hidden += int(true.sum())
    return Figures(*errors, 2 * right / (found + hidden))


@pytest.fixture(scope="module")
def flows() -> list[tuple[int, Tensor, Tensor]]:
    film = clip()
    images = [from_array(frame) for frame in film.frames]
    return [
        (i, flow(images[i], images[i + 1]), flow(images[i + 1], images[i]))
        for i in range(0, len(images) - 1, 3)
        if i + 1 != film.cut
    ]


def test_dis_on_the_sample_clip(flows: list[tuple[int, Tensor, Tensor]]) -> None:
    reached = figures(clip(), flows)
    assert len(flows) == 25
    assert max(reached.there) < 0.25
    assert max(reached.back) < 0.25
    assert reached.f1 > 0.8


def test_flows_the_wrong_way_round_are_far_off(flows: list[tuple[int, Tensor, Tensor]]) -> None:
    swapped = [(i, backward, forward) for i, forward, backward in flows[::2]]
    reached = figures(clip(), swapped)
    assert min(reached.there) > 2
    assert min(reached.back) > 2
    assert reached.f1 < 0.3


def test_the_true_flow_gives_the_true_occlusions() -> None:
    film = clip()
    flows = [(i, film.flow(i, i + 1), film.flow(i + 1, i)) for i in range(0, 36, 5)]
    reached = figures(film, flows)
    assert max(reached.there + reached.back) == 0
    assert reached.f1 > 0.85  # the motion boundaries lie on both sides of the outline


# colours


def test_colours_of_the_four_directions_and_of_rest() -> None:
    field = torch.zeros(1, 2, 1, 6)
    field[0, :, 0] = torch.tensor([[2, -2, 0, 0, 0, 1], [0, 0, 2, -2, 0, 0]])
    colours = flow_to_color(field, max_flow=2)
    assert colours.shape == (1, 6, 3)
    assert colours.dtype == np.uint8
    right, left, down, up, rest, slow = colours[0].astype(int).tolist()
    assert right == [255, 0, 0]
    assert left == [0, 255, 255]  # the opposite hue
    assert all(abs(a + b - 255) <= 1 for a, b in zip(down, up, strict=True))
    assert down != right
    assert rest == [255, 255, 255]
    assert slow == [255, 128, 128]


def test_colours_by_default_reach_to_the_longest_but_for_outliers() -> None:
    field = constant(1, 0, 20, 20)
    field[..., 0, 0] = 1000
    assert flow_to_color(field)[10, 10].tolist() == [255, 0, 0]
    assert (flow_to_color(constant(0, 0)) == 255).all()
    assert np.array_equal(flow_to_color(field, max_flow=2), flow_to_color(field, max_flow=2.0))
    with pytest.raises(InputError, match="max_flow = 0"):
        flow_to_color(field, max_flow=0)
