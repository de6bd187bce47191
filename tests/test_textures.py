from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from workbench import weights
from workbench.errors import InputError
from workbench.features import build_network
from workbench.filters import (
    gram_distances,
)
from workbench.images import from_array, resize, to_array
from workbench.samples import load_picture
from workbench.settings import Settings
from workbench.textures import (
    MILLION,
    SETTINGS,
    TEXTURE_LAYERS,
    film,
    psnr,
    reconstruct,
    synthesize_texture,
    texture_settings,
)

LAYERS = ("relu1_1", "relu2_1", "relu3_1")


def test_a_texture_comes_from_noise_and_nears_the_style_at_every_layer(
    tiny: Settings, painting: Tensor
) -> None:
    first, *_, last = synthesize_texture(painting, LAYERS, tiny)
    assert (first.step, last.step, last.steps) == (0, 12, 12)
    assert last.image.shape == resize(painting, 64).shape
    noise = gram_distances(first.image, painting, LAYERS, tiny)
    texture = gram_distances(last.image, painting, LAYERS, tiny)
    for layer in LAYERS:
        assert first.losses.style[layer] == pytest.approx(MILLION, rel=1e-3)
        assert last.losses.style[layer] == pytest.approx(
            MILLION * texture[layer] / noise[layer], rel=0.05
        )
        assert texture[layer] < noise[layer]


def test_a_texture_knows_nothing_of_content_and_leaves_other_settings_alone(
    tiny: Settings, painting: Tensor
) -> None:
    settings = texture_settings(painting, LAYERS, tiny.changed(seed=5, pooling="l2"))
    assert (settings.content_weight, settings.tv_weight) == (0, 0)
    assert settings.init == "random"
    assert settings.layers == LAYERS
    assert (settings.seed, settings.pooling, settings.size) == (5, "l2", 64)
    *_, last = synthesize_texture(painting, LAYERS, tiny)
    assert last.losses.total == pytest.approx(last.losses.style_total)


def test_deep_layers_count_more_and_only_they_start_coarse(
    tiny: Settings, painting: Tensor
) -> None:
    coarse = tiny.changed(steps=(3, 4))
    shallow = texture_settings(painting, LAYERS, coarse)
    deep = texture_settings(painting, TEXTURE_LAYERS, coarse)
    assert (shallow.steps, deep.steps) == ((7,), (3, 4))
    start = next(synthesize_texture(painting, TEXTURE_LAYERS, tiny))
    shares = [start.losses.style[layer] / MILLION for layer in TEXTURE_LAYERS]
    assert shares == pytest.approx([1, 1, 1, 2, 4], rel=1e-3)


def test_the_same_seed_is_the_same_texture(tiny: Settings, painting: Tensor) -> None:
    def last(seed: int) -> Tensor:
        *_, iterate = synthesize_texture(painting, LAYERS, tiny.changed(seed=seed))
        return iterate.image

    assert torch.equal(last(0), last(0))
    assert not torch.allclose(last(0), last(1), atol=0.05)


# --- reconstructions ---------------------------------------------------------------------


def test_a_reconstruction_nears_the_photograph_and_has_no_style(
    tiny: Settings, photo: Tensor
) -> None:
    first, *_, last = reconstruct(photo, "relu1_2", tiny.changed(steps=(40,)), smoothness=0.0)
    assert last.losses.style_total == 0
    assert last.losses.content["relu1_2"] < 0.3 * first.losses.content["relu1_2"]


def test_its_loss_is_relative_to_the_activations(tiny: Settings, photo: Tensor) -> None:
    first = next(reconstruct(photo, "relu2_1", tiny))
    network = build_network(weights.load_weights("tiny"), ["relu2_1"])
    ours, theirs = (
        network(255 * picture, ["relu2_1"])["relu2_1"]
        for picture in (first.image, resize(photo, 64))
    )
    expected = MILLION * (ours - theirs).square().sum() / theirs.square().sum()
    assert first.losses.content["relu2_1"] == pytest.approx(float(expected), rel=1e-3)


def test_smoothness_smooths(tiny: Settings, photo: Tensor) -> None:
    def roughness(smoothness: float) -> float:
        settings = tiny.changed(steps=(30,))
        *_, last = reconstruct(photo, "relu3_1", settings, smoothness=smoothness)
        return float(last.image.diff(dim=3).square().mean())

    assert roughness(30.0) < 0.7 * roughness(0.0)
    for nonsense in (-1.0, math.nan, math.inf):
        with pytest.raises(InputError, match="smoothness"):
            next(reconstruct(photo, "relu3_1", tiny, smoothness=nonsense))


def test_a_film_is_a_gif_and_its_end(
    tiny: Settings, photo: Tensor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.gif"
    picture = film(reconstruct(photo, "relu2_1", tiny), path, "relu2_1", frames=5)
    *_, last = reconstruct(photo, "relu2_1", tiny)
    assert torch.equal(picture, last.image)
    with Image.open(path) as gif:
        assert 2 <= gif.n_frames <= 5
    assert "relu2_1" in capsys.readouterr().out


def test_psnr() -> None:
    grey = torch.full((1, 3, 8, 8), 0.5)
    assert psnr(grey + 0.1, grey) == pytest.approx(20, abs=1e-3)
    assert psnr(grey, torch.full((1, 3, 16, 16), 0.6)) == pytest.approx(20, abs=1e-3)
    assert math.isfinite(psnr(grey, grey))


# --- with the true weights ---------------------------------------------------------------


@pytest.mark.slow
def test_a_texture_loses_nearly_all_of_the_distance_at_every_layer() -> None:
    swirls = load_picture("sample:swirls")
    settings = SETTINGS.changed(size=128, steps=(100,))
    first, *_, last = synthesize_texture(swirls, TEXTURE_LAYERS, settings)
    saved = from_array(to_array(last.image))
    noise = gram_distances(first.image, swirls, settings=settings)
    texture = gram_distances(saved, swirls, settings=settings)
    for layer in TEXTURE_LAYERS:
        assert texture[layer] < 0.04 * noise[layer], layer  # 0.01 at 256 px after 200 steps


@pytest.mark.slow
@pytest.mark.parametrize("name", ["astronaut", "swirls"])
def test_a_shallow_reconstruction_is_the_picture_and_a_deep_one_is_not(name: str) -> None:
    picture = load_picture(f"sample:{name}")
    settings = SETTINGS.changed(size=80, steps=(50,))
    likeness = []
    for layer in ("relu2_2", "relu4_2"):
        *_, last = reconstruct(picture, layer, settings)
        likeness.append(psnr(from_array(to_array(last.image)), picture))
    assert likeness[0] > 22
    assert likeness[1] < likeness[0] - 5
