from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from workbench import samples
from workbench.errors import InputError
from workbench.images import load_image


@pytest.mark.parametrize("name", samples.STYLES)
def test_style_is_a_picture(name: str) -> None:
    image = samples.style(name)
    assert image.shape == (1, 3, 608, 768)
    assert image.dtype == torch.float32
    assert image.min() >= 0
    assert image.max() <= 1


def test_photograph() -> None:
    image = samples.photograph()
    assert image.shape == (1, 3, 512, 512)
    assert image.dtype == torch.float32
    assert 0 <= image.min() < 0.1
    assert 0.9 < image.max() <= 1


@pytest.mark.parametrize("name", samples.STYLES)
def test_painting_again_gives_the_same(name: str) -> None:
    assert np.array_equal(samples._painting.__wrapped__(name), samples._painting(name))


def test_changing_a_picture_leaves_the_sample_alone() -> None:
    image = samples.style("mosaic")
    before = image.clone()
    image.zero_()
    assert torch.equal(samples.style("mosaic"), before)


@pytest.mark.parametrize("name", samples.STYLES)
def test_texture_is_everywhere(name: str) -> None:
    grey = samples.style(name)[0].mean(dim=0).numpy()
    blocks = grey.reshape(19, 32, 24, 32).swapaxes(1, 2).reshape(-1, 32 * 32)
    assert np.mean(blocks.std(axis=1) > 0.04) > 0.9


def test_hatching_is_ink_on_paper() -> None:
    image = samples.style("hatching")
    assert torch.equal(image[:, 0], image[:, 1])
    assert torch.equal(image[:, 0], image[:, 2])
    assert (image < 0.15).float().mean() > 0.1
    assert (image > 0.9).float().mean() > 0.2


@pytest.mark.parametrize("name", ["swirls", "mosaic"])
def test_painted_styles_are_colourful(name: str) -> None:
    image = samples.style(name)
    assert (image.amax(dim=1) - image.amin(dim=1)).mean() > 0.25


def test_styles_differ() -> None:
    first, second, third = (samples.style(name) for name in samples.STYLES)
    for one, other in ((first, second), (first, third), (second, third)):
        assert (one - other).abs().mean() > 0.15


def test_unknown_names_are_answered_with_the_known_ones() -> None:
    with pytest.raises(InputError) as wrong_style:
        samples.style("cubism")
    with pytest.raises(InputError) as wrong_sample:
        samples.load_picture("sample:cubism")
    for name in samples.STYLES:
        assert name in str(wrong_style.value)
        assert f"sample:{name}" in str(wrong_sample.value)
    assert f"sample:{samples.PHOTOGRAPH}" in str(wrong_sample.value)


def test_load_picture_resizes_a_sample() -> None:
    assert max(samples.load_picture("sample:swirls", size=64).shape[2:]) == 64
    assert samples.load_picture("sample:astronaut", 64).shape == (1, 3, 64, 64)
    assert torch.equal(samples.load_picture("sample:mosaic"), samples.style("mosaic"))


def test_load_picture_crops_a_sample() -> None:
    whole = samples.style("hatching")
    right_half = samples.load_picture("sample:hatching", crop=(0.5, 0.0, 1.0, 1.0))
    assert torch.equal(right_half, whole[..., 384:])


@pytest.mark.parametrize("as_text", [True, False])
def test_load_picture_reads_a_file(tmp_path: Path, as_text: bool) -> None:
    path = tmp_path / "small.png"
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    loaded = samples.load_picture(str(path) if as_text else path, 15)
    assert max(loaded.shape[2:]) == 15
    assert torch.equal(loaded, load_image(path, 15))
