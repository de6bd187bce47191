"""A style sweep: seconds for one photograph in many styles, and what shared targets gain.

The reference paints and measures the same pictures in the same process, one after the other,
each call of `optimize` and `measure` with its own targets. The two take turns, style by style.
Nothing else may run on the machine meanwhile.

    python experiments/benchmarks/sweep.py                 # 24 styles, about 7 minutes on 2 cores
    python experiments/benchmarks/sweep.py --styles 3      # a try
"""

from __future__ import annotations

import argparse
import datetime
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor

from workbench.descent import measure, optimize
from workbench.features import Network
from workbench.images import crop_image, from_array, save_image, to_array
from workbench.samples import STYLES, load_picture, style
from workbench.series import paint_variations, sweep
from workbench.settings import Settings
from workbench.weights import load_weights

CONTENT = "sample:astronaut"
SETTINGS = Settings.from_preset("draft")
CROPS = [(0.0, 0.0, 0.6, 0.8), (0.4, 0.0, 1.0, 0.8), (0.2, 0.2, 0.8, 1.0), (0.0, 0.0, 1.0, 1.0)]


def sketches() -> Iterator[Tensor]:
    """Pictures `(1, 3, H, W)`, all different: parts of the sample styles in other colours."""
    turns = [(0, 1, 2), (1, 2, 0), (2, 0, 1), (0, 2, 1), (2, 1, 0), (1, 0, 2)]
    for number, channels in enumerate(turns):
        for crop in CROPS:
            picture = crop_image(style(STYLES[number % len(STYLES)]), crop)[:, list(channels)]
            yield picture if number < 3 else picture.flip(3)


def write_sketches(folder: Path, count: int) -> None:
    # One from each turn before the second of any, so that a few differ as much as all do.
    pictures = list(sketches())
    order = [number % 6 * 4 + number // 6 for number in range(len(pictures))]
    for number, which in enumerate(order[:count], start=1):
        save_image(pictures[which], folder / f"sketch {number}.png")


@contextmanager
def counted_looks(layers: Sequence[str]) -> Iterator[Counter[str]]:
    """Count how often the network looks at a picture for its content, by precision."""
    counted: Counter[str] = Counter()
    real = Network.__call__

    def call(network: Network, picture: Tensor, asked: Sequence[str]) -> dict[str, Tensor]:
        if tuple(asked) == tuple(layers):
            counted[str(network.dtype).removeprefix("torch.")] += 1
        return real(network, picture, asked)

    with patch.object(Network, "__call__", call):
        yield counted


def paint_alone(content: str, name: str) -> float:
    """Seconds for one picture with targets of its own, painted, saved and measured."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        photo, painting = load_picture(content), load_picture(name)
        for iterate in optimize(photo, [painting], SETTINGS):  # noqa: B007
            pass
        save_image(iterate.image, Path(folder, "picture.png"))
        measure(from_array(to_array(iterate.image)), photo, [painting], SETTINGS)
        return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--styles", type=int, default=24, help="how many, at most 24")
    count = parser.parse_args().styles
    load_weights()
    with (
        tempfile.TemporaryDirectory() as temporary,
        counted_looks(SETTINGS.content_layers) as looks,
    ):
        folder = Path(temporary)
        write_sketches(folder, count)
        variations = sweep(CONTENT, folder, SETTINGS)
        paint_alone(CONTENT, variations[0].styles[0])  # warms up, and chooses the precision
        ours, theirs, seen = 0.0, 0.0, Counter[str]()
        looks.clear()
        painted = paint_variations(variations, folder / "painted", SETTINGS)
        for variation in variations:
            started = time.perf_counter()
            next(painted)
            ours += time.perf_counter() - started
            seen += looks
            theirs += paint_alone(CONTENT, variation.styles[0])
            looks.clear()
        started = time.perf_counter()
        next(painted, None)
        ours += time.perf_counter() - started
        again = time.perf_counter()
        kept = [each.found for each in paint_variations(variations, folder / "painted", SETTINGS)]
        again = time.perf_counter() - again
    print(
        f"\n{datetime.date.today()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    print("\n| | targets of their own | workbench | ratio |\n| --- | ---: | ---: | ---: |")
    size, steps = SETTINGS.size, SETTINGS.steps[0]
    title = f"{count} styles at {size} px, {steps} steps"
    print(f"| {title} | {theirs:.0f} s | {ours:.0f} s | {ours / theirs:.3f} |")
    print(f"| the same again ({sum(kept)} pictures kept) | | {again:.1f} s | |")
    times = ", ".join(f"{number} in {precision}" for precision, number in sorted(seen.items()))
    print(f"| looks at the photograph for its content | {count} of each | {times} | |")


if __name__ == "__main__":
    main()
