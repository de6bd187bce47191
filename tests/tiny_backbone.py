"""A network that is small enough for unit tests; run as a program, `workbench` that has it."""

from __future__ import annotations

import torch
from torch import Tensor

from workbench import weights

CHANNELS = (4, 6, 8, 8, 8)


def tiny_tensors() -> dict[str, Tensor]:
    """A VGG-16 with a handful of channels and fixed random weights."""
    generator = torch.Generator().manual_seed(7)
    tensors = {"mean": torch.tensor(weights.CAFFE_MEAN)}
    inputs = 3
    for layer in weights.BACKBONES["vgg16"].layers:
        channels = CHANNELS[int(layer[4]) - 1]
        name = layer.replace("relu", "conv")
        scale = (2 / (9 * inputs)) ** 0.5
        noise = torch.randn(channels, inputs, 3, 3, generator=generator)
        tensors[f"{name}.weight"] = noise * scale
        tensors[f"{name}.bias"] = torch.rand(channels, generator=generator)
        inputs = channels
    return tensors


def tiny_backbone() -> weights.Backbone:
    source = weights.Source("random numbers", tiny_tensors)
    return weights.Backbone(weights.BACKBONES["vgg16"].convolutions, (source,))


if __name__ == "__main__":
    from workbench import cli

    weights.BACKBONES["tiny"] = tiny_backbone()  # type: ignore[index]
    cli.main()
