"""What the forecast says, and what paintings and films then took, each in a process of its own.

    python experiments/benchmarks/forecast.py 256 384 512 768       # stills
    python experiments/benchmarks/forecast.py 96 128 192 256 --film # four frames of the sample clip
    python experiments/benchmarks/forecast.py 256 --cpu-time        # where other programs run, too

Steps are few at both scales, so that it does not take long; the forecast is by the same means as
for many. Memory is on top of the program and its weights.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Iterator

import psutil
import torch

from workbench.descent import optimize
from workbench.devices import peak_megabytes, reset_peak_megabytes
from workbench.forecast import Expected, time_steps
from workbench.images import from_array
from workbench.problem import Problem
from workbench.progress import Recorder
from workbench.samples import find_clip, load_picture
from workbench.settings import ClipSettings, Settings
from workbench.video import clips, modes

FRAMES = 4
STEPS = (8, 14)
FILM = ClipSettings(later_steps=14)


def measure(
    size: int, film: bool, steps: tuple[int, ...], cpu_time: bool
) -> tuple[float, float, float, float]:
    """Seconds and megabytes as forecast and as they were, of a still or a film."""
    if cpu_time:
        time.perf_counter = time.process_time
    settings, style = Settings(size=size, steps=steps), load_picture("sample:swirls")
    photo, clip = load_picture("sample:coffee"), None
    if film:
        clip = clips.open_clip(find_clip("sample:clip"), start=1.2, stride=2, size=size)
        clip = clips.open_clip(
            clip.path, start=1.2, end=1.2 + FRAMES / float(clip.fps), stride=2, size=size
        )
        photo = from_array(next(clips.read_frames(clip)))
    problem = Problem.of(photo, [style], settings)
    before = psutil.Process().memory_info().rss / 2**20
    outline = problem.outline if clip is None else modes.film_outline(problem, clip, FILM)
    time_steps(problem)  # convolutions are chosen, once on a machine
    free = problem.free()
    told = Expected(outline, time_steps(problem), free).seconds()
    megabytes = outline.megabytes(outline.shape, outline.tile(outline.shape, free))
    del problem
    reset_peak_megabytes()
    began = time.perf_counter()
    for _ in painted(photo, style, settings, clip):
        pass
    seconds, taken = time.perf_counter() - began, peak_megabytes() - before
    return told, seconds, megabytes, taken


def painted(
    photo: torch.Tensor, style: torch.Tensor, settings: Settings, clip: clips.Clip | None
) -> Iterator[object]:
    """What is painted, step by step."""
    recorder = Recorder()
    if clip is None:
        for iterate in optimize(photo, [style], settings):
            recorder.add(iterate)
            yield iterate
        return
    with tempfile.TemporaryDirectory() as folder:
        yield from modes.paint_clip(clip, [style], folder, settings, FILM)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", nargs="+", type=int)
    parser.add_argument("--film", action="store_true")
    parser.add_argument("--cpu-time", action="store_true", help="of all threads, not by the clock")
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS)
    options = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}", flush=True)
    print("| | forecast, s | took, s | ratio | forecast, MB | took, MB | ratio |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for size in options.sizes:
        with multiprocessing.get_context("spawn").Pool(1) as fresh:
            told, took, expected, taken = fresh.apply(
                measure, (size, options.film, tuple(options.steps), options.cpu_time)
            )
        row = f"{told:.1f} | {took:.1f} | {told / took:.2f}"
        memory = f"{expected:.0f} | {taken:.0f} | {expected / taken:.2f}"
        what = "film" if options.film else "still"
        print(f"| {what} at {size} px | {row} | {memory} |", flush=True)


if __name__ == "__main__":
    main()
