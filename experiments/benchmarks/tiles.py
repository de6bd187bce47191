"""How far a painting in tiles goes from that of the whole, and one that begins 1e-7 away from it.

    python experiments/benchmarks/tiles.py --size 512 --tile 128             # the first look
    python experiments/benchmarks/tiles.py --size 256 --tile 128 --steps 30 --optimizer adam

A row for each: how far apart the losses are, the gradients (the largest difference, of the largest
value; the norm of the difference, of the norm), and how many values of the picture are the same
within one level of 255. `--noise 0.2` begins with a photograph without flat places, where every
maximum is a tie; `--winograd` takes that algorithm for all convolutions.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

import workbench.features
from workbench.checkpoints import Moment
from workbench.convolution import has_winograd
from workbench.descent import paint
from workbench.forecast import Outline
from workbench.problem import Problem, kept_targets
from workbench.samples import load_picture
from workbench.settings import Settings
from workbench.weights import BACKBONES


def painted(settings: Settings, start: Tensor, tile: int | None) -> tuple[Moment, Moment]:
    """The first and the last moment of a painting that is seen in tiles, or as a whole."""
    Outline.sides = (tile,)  # type: ignore[assignment]
    Problem.start = lambda self: start  # type: ignore[method-assign]
    kept_targets.clear()
    photo = load_picture("sample:astronaut")[..., :384, :].clone()
    moments = [moment for _, moment in paint(photo, [load_picture("sample:swirls")], settings)]
    return moments[0], moments[-1]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--tile", type=int, default=128)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--optimizer", default="lbfgs")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--noise", type=float, default=0.0)
    parser.add_argument("--winograd", action="store_true")
    options = parser.parse_args()
    settings = Settings(
        size=options.size,
        steps=(options.steps,),
        optimizer=options.optimizer,
        precision=options.precision,
        device="cpu",
    )
    able = has_winograd(torch.device("cpu"), torch.float32)
    layers = BACKBONES[settings.backbone].layers if options.winograd and able else ()
    workbench.features.fastest = lambda convolutions, shape: layers  # type: ignore[attr-defined]
    photo = load_picture("sample:astronaut")[..., :384, :]
    generator = torch.Generator().manual_seed(1)
    away = photo * (1 + 1e-7 * torch.randn(photo.shape, generator=generator))
    noise = torch.rand(photo.shape, generator=generator) - 0.5
    photo = (photo + options.noise * noise).clamp(0, 1)

    print(f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads\n")
    print(f"| | first loss | gradient | norm | after {options.steps} steps, loss | within 1/255 |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    first, last = painted(settings, photo, None)
    others = {f"tiles of {options.tile}": (photo, options.tile)}
    if options.steps > 1:
        others["begun 1e-7 away"] = (away, None)
    for name, (start, tile) in others.items():
        begin, end = painted(settings, start, tile)
        apart = begin.grad - first.grad
        same = ((end.pixels.clamp(0, 255) - last.pixels.clamp(0, 255)).abs() <= 1).double().mean()
        print(
            f"| {name} | {abs(begin.losses.total / first.losses.total - 1):.1e}"
            f" | {float(apart.abs().max() / first.grad.abs().max()):.1e}"
            f" | {float(apart.norm() / first.grad.norm()):.1e}"
            f" | {abs(end.losses.total / last.losses.total - 1):.1e} | {float(same):.2%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
