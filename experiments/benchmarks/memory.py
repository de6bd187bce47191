"""Forecast and measured memory of stills, each painted in a process of its own.

    python experiments/benchmarks/memory.py [SIZE ...] [--precision float32]

A row for each size and optimizer: what `devices.still_megabytes` says, what the process took on
top of the program and its weights, and their ratio. L-BFGS fills its history.
"""

from __future__ import annotations

import argparse
import multiprocessing

import psutil
import torch

from workbench.descent import optimize
from workbench.devices import (
    HISTORY,
    choose_device,
    choose_precision,
    peak_megabytes,
    reset_peak_megabytes,
    still_megabytes,
)
from workbench.problem import Problem
from workbench.samples import load_picture
from workbench.settings import Settings


def measure(settings: Settings) -> tuple[tuple[int, int], float]:
    """`(H, W)` of the picture, and the megabytes that painting it takes."""
    photo, style = load_picture("sample:coffee"), load_picture("sample:swirls")
    Problem.of(photo, [style], settings)  # its network is kept
    before = psutil.Process().memory_info().rss / 2**20
    reset_peak_megabytes()
    for iterate in optimize(photo, [style], settings, start=photo):  # noqa: B007
        pass
    return (iterate.image.shape[2], iterate.image.shape[3]), peak_megabytes() - before


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", nargs="*", type=int, default=[256, 512, 1024])
    parser.add_argument("--precision", default="auto")
    options = parser.parse_args()
    precision = choose_precision(options.precision, choose_device("cpu"))
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {precision}\n")
    print("| | forecast, MB | measured, MB | ratio |\n| --- | ---: | ---: | ---: |")
    for size in options.sizes:
        for optimizer in ("lbfgs", "adam"):
            settings = Settings(
                size=size,
                steps=(HISTORY + 2 if optimizer == "lbfgs" else 3,),
                optimizer=optimizer,
                device="cpu",
                precision=options.precision,
            )
            with multiprocessing.get_context("spawn").Pool(1) as fresh:
                shape, taken = fresh.apply(measure, (settings,))
            forecast = still_megabytes(shape, settings, precision=precision, styles=[(size, size)])
            row = f"{shape[1]}x{shape[0]}, {optimizer}"
            print(f"| {row} | {forecast:.0f} | {taken:.0f} | {forecast / taken:.2f} |", flush=True)


if __name__ == "__main__":
    main()
