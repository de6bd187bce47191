"""Forecast and measured memory of stills, each painted in a process of its own.

    python experiments/benchmarks/memory.py [SIZE ...] [--precision float32]
    python experiments/benchmarks/memory.py 768 --tile 256 --steps 3   # seen in tiles

A row for each size and optimizer: what the forecast says, what the process took on
top of the program and its weights, their ratio, and the seconds of the last step. L-BFGS fills its
history, unless `--steps` says otherwise.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time

import psutil
import torch

from workbench.descent import optimize
from workbench.devices import (
    choose_device,
    choose_precision,
    peak_megabytes,
    reset_peak_megabytes,
)
from workbench.forecast import Outline, history
from workbench.problem import Problem
from workbench.samples import load_picture
from workbench.settings import Settings


def measure(settings: Settings, tile: int | None) -> tuple[tuple[int, int], float, float, float]:
    """`(H, W)`, megabytes as forecast and as they are, seconds of the last step."""
    Outline.sides = (tile,)  # type: ignore[assignment]
    photo, style = load_picture("sample:coffee"), load_picture("sample:swirls")
    outline = Problem.of(photo, [style], settings).outline  # its network is kept
    before = psutil.Process().memory_info().rss / 2**20
    reset_peak_megabytes()
    began = time.perf_counter()
    for iterate in optimize(photo, [style], settings, start=photo):  # noqa: B007
        seconds, began = time.perf_counter() - began, time.perf_counter()
    shape = (iterate.image.shape[2], iterate.image.shape[3])
    return shape, outline.megabytes(shape, tile), peak_megabytes() - before, seconds


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", nargs="*", type=int, default=[256, 512, 1024])
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--tile", type=int, help="side of tiles")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--optimizer", nargs="*", default=["lbfgs", "adam"])
    options = parser.parse_args()
    precision = choose_precision(options.precision, choose_device("cpu"))
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {precision}\n")
    print("| | forecast, MB | measured, MB | ratio | a step |\n| --- | ---: | ---: | ---: | ---: |")
    for size in options.sizes:
        for optimizer in options.optimizer:
            most = history((size * 3 // 4, size)) + 2 if optimizer == "lbfgs" else 3
            settings = Settings(
                size=size,
                steps=(options.steps or most,),
                optimizer=optimizer,
                device="cpu",
                precision=options.precision,
            )
            with multiprocessing.get_context("spawn").Pool(1) as fresh:
                shape, forecast, taken, seconds = fresh.apply(measure, (settings, options.tile))
            row = f"{shape[1]}x{shape[0]}, {optimizer}"
            figures = f"{forecast:.0f} | {taken:.0f} | {forecast / taken:.2f} | {seconds:.2f} s"
            print(f"| {row} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
