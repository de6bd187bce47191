from __future__ import annotations

import pytest
import torch
from torch import Tensor

from workbench.colour import match_colors, match_spread, recolour, transfer_luma
from workbench.errors import InputError


def colours(image: Tensor) -> tuple[Tensor, Tensor]:
    pixels = image.flatten(2)[0].double()
    return pixels.mean(1), torch.cov(pixels, correction=0)


@pytest.mark.parametrize("method", ["monge-kantorovich", "pca", "cholesky"])
def test_recolour_carries_mean_and_covariance_over(method: str) -> None:
    generator = torch.Generator().manual_seed(5)
    mix = torch.tensor([[0.1, 0.03, 0.0], [0.0, 0.08, 0.05], [0.02, 0.0, 0.06]])
    source = 0.5 + 0.08 * torch.randn(1, 3, 40, 50, generator=generator)
    noise = torch.randn(1, 3, 30, 20, generator=generator)
    target = 0.5 + torch.einsum("ij,njhw->nihw", mix, noise)
    mean, covariance = colours(recolour(source, source, target, method))
    wanted_mean, wanted_covariance = colours(target)
    assert torch.allclose(mean, wanted_mean, atol=1e-3)
    assert torch.allclose(covariance, wanted_covariance, atol=3e-4)


def test_recolour_maps_are_the_ones_of_their_names() -> None:
    generator = torch.Generator().manual_seed(6)
    source = 0.5 + 0.1 * torch.randn(1, 3, 40, 50, generator=generator)
    source[:, 2] = source[:, 0] + 0.2 * (source[:, 1] - 0.5)
    mix = torch.tensor([[0.05, 0.01, 0.0], [0.02, 0.04, 0.0], [0.0, 0.01, 0.03]])
    noise = torch.randn(1, 3, 40, 50, generator=generator)
    target = 0.5 + torch.einsum("ij,njhw->nihw", mix, noise)

    def change(method: str) -> Tensor:
        """The matrix, from what becomes of three small steps away from the mean."""
        middle = source.mean(dim=(2, 3), keepdim=True)
        steps = 0.02 * torch.eye(3).T.reshape(1, 3, 1, 3)
        moved = recolour(middle + steps, source, target, method)
        return (moved - recolour(middle, source, target, method))[0, :, 0] / 0.02

    lower = change("cholesky")
    assert lower.triu(1).abs().max() < 1e-4 < lower[2, 0].abs()
    transport = change("monge-kantorovich")
    assert torch.allclose(transport, transport.T, atol=1e-4)
    assert not torch.allclose(change("pca"), transport, atol=1e-2)


def test_recolour_without_a_change_is_the_identity() -> None:
    image = torch.rand(1, 3, 20, 30, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(recolour(image, image, image), image, atol=1e-4)


def test_recolour_applies_to_another_picture() -> None:
    generator = torch.Generator().manual_seed(2)
    source = 0.3 + 0.2 * torch.rand(1, 3, 20, 30, generator=generator)
    image = 0.3 + 0.2 * torch.rand(1, 3, 8, 9, generator=generator)
    assert torch.allclose(recolour(image, source, source + 0.2), image + 0.2, atol=1e-4)


def test_recolour_of_a_plain_picture_is_plain_and_finite() -> None:
    plain = torch.full((1, 3, 8, 8), 0.4)
    noise = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    for source, target in ((plain, noise), (noise, plain), (plain, plain)):
        assert torch.isfinite(recolour(plain, source, target)).all()
    assert torch.allclose(recolour(plain, plain, 0.5 * plain), 0.5 * plain, atol=1e-5)


def test_transfer_luma_keeps_brightness_of_the_one_and_colours_of_the_other() -> None:
    generator = torch.Generator().manual_seed(4)
    painted = 0.4 + 0.2 * torch.rand(1, 3, 20, 30, generator=generator)
    content = 0.4 + 0.2 * torch.rand(1, 3, 20, 30, generator=generator)
    # Y, U and V of ITU-R BT.601, as torch's image.rgb2yuv has them.
    to_yuv = torch.tensor(
        [[0.299, 0.587, 0.114], [-0.14713, -0.28886, 0.436], [0.615, -0.51499, -0.10001]]
    )
    yuv = [
        torch.einsum("ij,njhw->nihw", to_yuv, each)
        for each in (transfer_luma(painted, content), painted, content)
    ]
    assert torch.allclose(yuv[0][:, :1], yuv[1][:, :1], atol=1e-5)
    assert torch.allclose(yuv[0][:, 1:], yuv[2][:, 1:], atol=1e-4)


def test_match_colors_recolours_the_style_only_where_it_is_asked_to() -> None:
    generator = torch.Generator().manual_seed(8)
    style = 0.4 + 0.1 * torch.rand(1, 3, 20, 30, generator=generator)
    content = 0.5 + 0.3 * torch.rand(1, 3, 25, 25, generator=generator)
    for kept in ("off", "luma"):
        assert match_colors(style, content, kept) is style
    matched, wanted = colours(match_colors(style, content, "cholesky")), colours(content)
    assert torch.allclose(matched[0], wanted[0], atol=2e-2)
    with pytest.raises(InputError, match="original_colors = 'on': use one of off, luma, chol"):
        match_colors(style, content, "on")


def test_brightness_and_contrast_are_those_of_other_places(photo: Tensor) -> None:
    target = (0.5 * photo.flip(1) + 0.2).clamp(0, 1)
    places = torch.zeros(1, 1, 60, 80)
    places[..., :30] = 1
    matched = match_spread(0.3 * photo + 0.1, target, places)
    for channel in range(3):
        own, wanted = (each[0, channel, :, :30] for each in (matched, target))
        assert own.mean().item() == pytest.approx(wanted.mean().item(), abs=0.01)
        assert own.std().item() == pytest.approx(wanted.std().item(), abs=0.01)
    assert torch.allclose(match_spread(photo, photo, places), photo, atol=1e-5)
