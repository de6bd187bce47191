"""Textures and reconstructions: what the network keeps of a style, and of a photograph."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from workbench.descent import Iterate, TargetCache, optimize
from workbench.devices import choose_device
from workbench.errors import InputError
from workbench.features import Network, build_network
from workbench.images import check_image, resize
from workbench.progress import Recorder, show_progress
from workbench.settings import Settings
from workbench.sheets import save_gif
from workbench.weights import load_weights

TEXTURE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")


SETTINGS = Settings(size=256, steps=(80, 120), pooling="average")
"""The paper on textures pools by averages too: strokes come out smoother, and sooner."""


COMMON = (
    "size",
    "steps",
    "optimizer",
    "learning_rate",
    "seed",
    "backbone",
    "pooling",
    "device",
    "precision",
)


MILLION = 1e6  # losses are in millionths of what they would be without any likeness
DEEP = 4  # the first block of convolutions whose layers are slow to match


DEEPER = 2.0  # times the weight of the block before, from there on


def synthesize_texture(
    style: Tensor,
    layers: Sequence[str] = TEXTURE_LAYERS,
    settings: Settings = SETTINGS,
    *,
    targets: TargetCache | None = None,
) -> Iterator[Iterate]:
    """Paint, from noise, a picture with the Gram matrices of another and nothing else of it.

    Gatys, Ecker and Bethge 2015 (arXiv 1505.07376): the style loss of `losses`, summed over
    the layers. Differs from the paper in that it goes coarse to fine, and in its weights;
    see `texture_settings`.

    Parameters
    ----------
    style
        `(1, 3, H, W)`, sRGB in [0, 1]; the texture gets its shape.
    layers
        Whose Gram matrices are matched. relu1_1 alone gives the colours as grain; each
        deeper one larger pieces of the picture: edges, strokes, whole stars.
    settings
        Of these, `COMMON` and `style_scale` count.
    targets
        See `optimize`.

    Yields
    ------
    Iterate
        Its losses are in millionths of those of noise, times the factor of the block.

    Raises
    ------
    InputError
        If there is no such layer, or the picture is too small for it.
    """
    check_image(style, "style")
    yield from optimize(style, [style], texture_settings(style, layers, settings), targets=targets)


def texture_settings(style: Tensor, layers: Sequence[str], settings: Settings) -> Settings:
    """What `synthesize_texture` hands to `optimize`.

    Every layer's weight is inverse to the Gram distance of the noise at full size, so that
    all of them start as equals, although their Gram matrices differ by orders of magnitude.
    Blocks 4 and 5, which take the longest, then count 2 and 4 times as much. Without those
    two, all steps are taken at full size: shallow layers alone cannot see, and so would
    leave, the blobs that come from a coarse scale.
    """
    plain = plain_settings(
        settings,
        content_weight=0.0,
        style_weight=1.0,
        tv_weight=0.0,
        content_layers=tuple(layers[:1]),
        style_layers=tuple(layers),
        style_scale=settings.style_scale,
        init="random",
    )
    noise = next(optimize(style, [style], replace(plain, steps=settings.steps[-1:])))
    deep = max(map(_block, layers)) >= DEEP
    return replace(
        plain,
        steps=settings.steps if deep else (sum(settings.steps),),
        style_weight=MILLION,
        style_layer_weights=tuple(
            DEEPER ** max(0, _block(layer) - DEEP + 1) / max(noise.losses.style[layer], 1e-12)
            for layer in layers
        ),
    )


def textures(
    style: Tensor, layers: Sequence[str] = TEXTURE_LAYERS, settings: Settings = SETTINGS
) -> Iterator[tuple[str, Iterator[Iterate]]]:
    """Textures with more and more of the layers, from the first alone to all of them.

    Yields
    ------
    layer : str
        The last of the layers that are matched.
    iterates : Iterator of Iterate
        As from `synthesize_texture`; to be used up before the next.
    """
    targets = TargetCache()
    for count, layer in enumerate(layers, start=1):
        yield layer, synthesize_texture(style, layers[:count], settings, targets=targets)


def reconstruct(
    content: Tensor, layer: str, settings: Settings = SETTINGS, *, smoothness: float = 2.0
) -> Iterator[Iterate]:
    """Paint, from noise, a picture with the activations of another at one layer.

    Mahendran and Vedaldi 2015 (arXiv 1412.0035), equation 1, with the normalised distance
    of section 3 and squared differences (beta = 2) for the total variation; coarse to fine,
    and with the gamut as a limit in place of their norm of the picture.

    Parameters
    ----------
    content
        `(1, 3, H, W)`, sRGB in [0, 1].
    layer
        Shallow ones keep every pixel, deep ones the things but not where exactly they are,
        nor their colours.
    settings
        Of these, `COMMON` count.
    smoothness
        Weight of the total variation, at least 0. Larger takes away the grain that a deep
        layer does not see, and in the end edges too.

    Yields
    ------
    Iterate
        Its content loss is in millionths of the activations' mean square.

    Raises
    ------
    InputError
        If there is no such layer, the picture is too small for it or `smoothness` is none.
    """
    check_image(content, "content")
    if not (math.isfinite(smoothness) and smoothness >= 0):
        raise InputError(f"smoothness = {smoothness}: give a number from 0 on.")
    plain = plain_settings(
        settings,
        content_weight=1.0,
        style_weight=0.0,
        content_layers=(layer,),
        style_layers=(layer,),
        init="random",
    )
    picture = resize(content, settings.size)
    energy = float(look(picture, (layer,), plain)[layer].float().square().mean())
    yield from optimize(
        content,
        [content],
        replace(
            plain,
            content_weight=MILLION / max(energy, 1e-12),
            tv_weight=smoothness * MILLION / (255**2 * picture.numel()),
        ),
    )


def reconstructions(
    content: Tensor, layers: Sequence[str], settings: Settings = SETTINGS, **options: float
) -> Iterator[tuple[str, Iterator[Iterate]]]:
    """`reconstruct` for one layer after the other; like `textures`."""
    for layer in layers:
        yield layer, reconstruct(content, layer, settings, **options)


def film(
    iterates: Iterable[Iterate],
    path: str | os.PathLike[str],
    title: str,
    *,
    frames: int = 24,
    fps: float = 5.0,
) -> Tensor:
    """Watch a picture come about, with a progress bar, and keep it as a GIF.

    Parameters
    ----------
    path
        Of the GIF.
    title
        Stands before the progress bar.
    frames, fps
        See `Recorder` and `save_gif`.

    Returns
    -------
    Tensor
        The last picture, `(1, 3, H, W)`.
    """
    recorder = Recorder(frames=frames)
    for iterate in show_progress(iterates, title):
        recorder.add(iterate)
    save_gif([shot.frame for shot in recorder.snapshots()], path, fps=fps)
    return iterate.image.cpu()


def psnr(image: Tensor, reference: Tensor) -> float:
    """Peak signal-to-noise ratio in dB: above 30, they are hard to tell apart.

    Parameters
    ----------
    image, reference
        `(1, 3, H, W)`, sRGB in [0, 1]; the reference is resized to the image.
    """
    fitted = resize(reference, (int(image.shape[-2]), int(image.shape[-1])))
    error = float((image - fitted).square().mean())
    return -10 * math.log10(max(error, 1e-12))


def plain_settings(settings: Settings, **others: Any) -> Settings:
    """The `COMMON` ones of some settings, and others of our own."""
    return Settings(**{name: getattr(settings, name) for name in COMMON}, **others)


def _block(layer: str) -> int:
    return int(layer.removeprefix("relu").split("_")[0])


def check_size(picture: Tensor, network: Network, name: str) -> None:
    """Refuse a picture that is too small for the layers of a network."""
    height, width = picture.shape[-2:]
    if min(height, width) < network.smallest_side:
        raise InputError(
            f"{name} is {width}x{height} pixels; its shorter side needs at least"
            f" {network.smallest_side} for the layers asked for."
        )


def look(picture: Tensor, layers: Sequence[str], settings: Settings) -> dict[str, Tensor]:
    """Activations of a picture `(1, 3, H, W)` in [0, 1], in float32."""
    device = choose_device(settings.device)
    weights = load_weights(settings.backbone)
    network = build_network(weights, layers, pooling=settings.pooling, device=device)
    check_size(picture, network, "the picture")
    with torch.no_grad():
        return network(255 * picture.to(device, torch.float32), layers)


def network_to(layer: str, settings: Settings, dtype: torch.dtype) -> Network:
    """The network up to a layer, as it was trained: with max pooling."""
    weights, device = load_weights(settings.backbone), choose_device(settings.device)
    return build_network(weights, (layer,), device=device, dtype=dtype)
