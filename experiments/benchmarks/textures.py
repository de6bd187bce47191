"""How near textures and reconstructions come to what they are made from.

A texture's distance is that of its Gram matrices (`filters.gram_distances`) from the
style's, in per cent of the distance of the noise that it started from, at each of its layers;
a reconstruction's likeness is its PSNR. 200 steps at 256 px with `textures.SETTINGS`, all
measured in float32 on pictures as saved with 8 bits.

    python experiments/benchmarks/textures.py              # about 10 minutes on 2 cores
"""

from __future__ import annotations

import datetime
import time

import torch
from torch import Tensor

from workbench.filters import gram_distances
from workbench.images import from_array, to_array
from workbench.samples import STYLES, load_picture
from workbench.textures import (
    SETTINGS,
    TEXTURE_LAYERS,
    psnr,
    reconstruct,
    synthesize_texture,
)
from workbench.weights import load_weights

CONTENT_LAYERS = ("relu1_2", "relu2_2", "relu3_2", "relu4_2", "relu5_1")


def as_saved(image: Tensor) -> Tensor:
    return from_array(to_array(image))


def print_textures() -> None:
    print("| texture of | up to | " + " | ".join(TEXTURE_LAYERS) + " | seconds |")
    print("| --- | --- |" + " ---: |" * (len(TEXTURE_LAYERS) + 1))
    for name in STYLES:
        style = load_picture(f"sample:{name}")
        # The first picture of a run at full size alone is its noise.
        noise = next(synthesize_texture(style, settings=SETTINGS.changed(steps=(1,)))).image
        before = gram_distances(noise, style)
        for count, deepest in enumerate(TEXTURE_LAYERS, start=1):
            began = time.perf_counter()
            for iterate in synthesize_texture(style, TEXTURE_LAYERS[:count]):
                last = iterate
            seconds = time.perf_counter() - began
            after = gram_distances(as_saved(last.image), style)
            ratios = [f"{after[k] / before[k]:.2%}" for k in TEXTURE_LAYERS[:count]]
            ratios += [""] * (len(TEXTURE_LAYERS) - count)
            print(f"| {name} | {deepest} | {' | '.join(ratios)} | {seconds:.0f} |", flush=True)


def print_reconstructions() -> None:
    print("| reconstruction of | " + " | ".join(CONTENT_LAYERS) + " |")
    print("| --- |" + " ---: |" * len(CONTENT_LAYERS))
    for name in ("astronaut", "swirls"):
        picture = load_picture(f"sample:{name}")
        likeness = []
        for layer in CONTENT_LAYERS:
            for iterate in reconstruct(picture, layer):
                last = iterate
            likeness.append(f"{psnr(as_saved(last.image), picture):.1f} dB")
        print(f"| {name} | {' | '.join(likeness)} |", flush=True)


def main() -> None:
    load_weights()
    threads = torch.get_num_threads()
    print(f"{datetime.date.today()}, {threads} threads, torch {torch.__version__}\n")
    print_textures()
    print()
    print_reconstructions()


if __name__ == "__main__":
    main()
