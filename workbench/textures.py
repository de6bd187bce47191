"""Textures and reconstructions: what the network keeps of a style, and of a photograph."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from workbench.descent import Iterate, optimize
from workbench.devices import choose_device
from workbench.errors import InputError
from workbench.features import Network, build_network
from workbench.images import check_image, resize, shape_of
from workbench.progress import Recorder, show_progress
from workbench.settings import Settings
from workbench.sheets import save_gif
from workbench.weights import block_of, load_weights

TEXTURE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
SETTINGS = Settings(size=256, steps=(80, 120), pooling="average")
"""The paper on textures pools by averages too: strokes come out smoother, and sooner."""

COMMON = (  # the settings that count here; all others have their defaults
    *("size", "steps", "optimizer", "learning_rate", "seed"),
    *("backbone", "pooling", "device", "precision"),
)
MILLION = 1e6  # losses are in millionths of what they would be without any likeness
_DEEP = 4  # the first block of convolutions whose layers are slow to match
_DEEPER = 2.0  # times the weight of the block before, from there on


def synthesize_texture(
    style: Tensor, layers: Sequence[str] = TEXTURE_LAYERS, settings: Settings = SETTINGS
) -> Iterator[Iterate]:
    """Paint, from noise, a picture with the Gram matrices of another and nothing else of it.

    Gatys, Ecker and Bethge 2015 (arXiv 1505.07376): the style loss of `losses`, summed over the
    layers. Differs from the paper in that it goes coarse to fine, and in its weights; see
    `texture_settings`. Losses are in millionths of those of noise, times the factor of the block.

    The texture gets the shape of `style`, `(1, 3, H, W)`, sRGB in [0, 1]. Of the layers whose Gram
    matrices are matched, relu1_1 alone gives the colours as grain; each deeper one larger pieces of
    the picture: edges, strokes, whole stars. Of the settings, `COMMON` and `style_scale` count.
    """
    check_image(style, "style")
    yield from optimize(style, [style], texture_settings(style, layers, settings))


def texture_settings(style: Tensor, layers: Sequence[str], settings: Settings) -> Settings:
    """What `synthesize_texture` hands to `optimize`.

    Every layer's weight is inverse to the Gram distance of the noise at full size, so that all of
    them start as equals, although their Gram matrices differ by orders of magnitude. Blocks 4 and
    5, which take the longest, then count 2 and 4 times as much. Without those two, all steps are
    taken at full size: shallow layers alone cannot see, and so would leave, the blobs that come
    from a coarse scale.
    """
    plain = plain_settings(
        settings,
        layers[:1],
        layers,
        content_weight=0.0,
        style_weight=1.0,
        tv_weight=0.0,
        style_scale=settings.style_scale,
        init="random",
    )
    noise = next(optimize(style, [style], replace(plain, steps=settings.steps[-1:])))
    blocks = [*map(block_of, layers)]
    return replace(
        plain,
        steps=settings.steps if max(blocks) >= _DEEP else (sum(settings.steps),),
        style_weight=MILLION,
        style_layer_weights=tuple(
            _DEEPER ** max(0, block - _DEEP + 1) / max(noise.losses.style[layer], 1e-12)
            for layer, block in zip(layers, blocks, strict=True)
        ),
    )


def reconstruct(
    content: Tensor, layer: str, settings: Settings = SETTINGS, *, smoothness: float = 2.0
) -> Iterator[Iterate]:
    """Paint, from noise, a picture with the activations of another at one layer.

    Mahendran and Vedaldi 2015 (arXiv 1412.0035), equation 1, with the normalised distance of
    section 3 and squared differences (beta = 2) for the total variation; coarse to fine, and with
    the gamut as a limit in place of their norm of the picture. The content loss is in millionths of
    the activations' mean square.

    The content is `(1, 3, H, W)`, sRGB in [0, 1]. Shallow layers keep every pixel, deep ones the
    things but not where exactly they are, nor their colours. `smoothness` is the weight of the
    total variation, at least 0: larger takes away the grain that a deep layer does not see, and in
    the end edges too. Of the settings, `COMMON` count.
    """
    check_image(content, "content")
    if not (math.isfinite(smoothness) and smoothness >= 0):
        raise InputError(f"smoothness = {smoothness}: give a number from 0 on.")
    picture = resize(content, settings.size)
    energy = float(activations(picture, [layer], settings)[layer].float().square().mean())
    plain = plain_settings(
        settings,
        [layer],
        [layer],
        content_weight=MILLION / max(energy, 1e-12),
        style_weight=0.0,
        tv_weight=smoothness * MILLION / (255**2 * picture.numel()),
        init="random",
    )
    yield from optimize(content, [content], plain)


def film(
    iterates: Iterable[Iterate],
    path: str | os.PathLike[str],
    title: str,
    *,
    frames: int = 24,
    fps: float = 5.0,
) -> Tensor:
    """Watch a picture come about, with a progress bar, keep it as a GIF, and return the last one.

    `title` stands before the bar; for `frames` and `fps` see `Recorder` and `save_gif`.
    """
    recorder = Recorder(frames=frames)
    for iterate in show_progress(iterates, title):
        recorder.add(iterate)
    save_gif([shot.frame for shot in recorder.snapshots()], path, fps=fps)
    return iterate.image.cpu()


def psnr(image: Tensor, reference: Tensor) -> float:
    """Peak signal-to-noise ratio in dB: above 30, they are hard to tell apart.

    Both are `(1, 3, H, W)`, sRGB in [0, 1]; the reference is resized to the image.
    """
    fitted = resize(reference, shape_of(image))
    error = float((image - fitted).square().mean())
    return -10 * math.log10(max(error, 1e-12))


def plain_settings(
    settings: Settings, content_layers: Sequence[str], style_layers: Sequence[str], **others: Any
) -> Settings:
    """The `COMMON` ones of some settings, with other layers and whatever else is named."""
    values: dict[str, Any] = {name: getattr(settings, name) for name in COMMON}
    values["content_layers"], values["style_layers"] = tuple(content_layers), tuple(style_layers)
    return Settings(**values, **others)


def load_network(
    layers: Sequence[str], settings: Settings, pooling: str, dtype: torch.dtype = torch.float32
) -> Network:
    """The network of some settings up to the deepest of the layers, on their device."""
    device = choose_device(settings.device)
    weights = load_weights(settings.backbone)
    return build_network(weights, layers, pooling=pooling, device=device, dtype=dtype)


def activations(picture: Tensor, layers: Sequence[str], settings: Settings) -> dict[str, Tensor]:
    """Activations of a picture `(1, 3, H, W)` in [0, 1], in float32."""
    return look(picture, "the picture", load_network(layers, settings, settings.pooling), layers)


def look(picture: Tensor, name: str, network: Network, layers: Sequence[str]) -> dict[str, Tensor]:
    """Activations of a picture, called `name` if it is too small or none."""
    check_image(picture, name)
    network.check_side(picture, name)
    with torch.no_grad():
        return network(255 * picture.to(network.mean.device, torch.float32), layers)
