"""Still pictures against what public implementations do, side by side in one process.

The reference: float32, NCHW, autograd's own Gram gradient, one scale, `torch.optim.LBFGS`
with its default history, pixels left free and clipped when the picture is saved. Network,
weights and losses are the same. The referee is `workbench.measure` on the picture as saved
with 8 bits.

    python experiments/benchmarks/still.py                 # all, about 10 minutes on 2 cores
    python experiments/benchmarks/still.py --pair photo.jpg style.jpg   # other pictures
    python experiments/benchmarks/still.py --checkpoints   # only what these cost, 2 minutes
    python experiments/benchmarks/still.py --style-losses  # only these, beside "gram", 2 minutes
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import itertools
import math
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import skimage.data
import torch
import torch.nn.functional as F
from torch import Tensor

import workbench
from workbench.checkpoints import Checkpoints
from workbench.features import Network, build_network
from workbench.images import from_array, resize, to_array
from workbench.losses import content_loss, style_loss, tv_loss
from workbench.progress import Recorder
from workbench.samples import load_picture
from workbench.settings import STYLE_LOSSES, Settings
from workbench.weights import load_weights

PAIRS = [
    ("sample:astronaut", "sample:swirls"),
    ("skimage:coffee", "sample:mosaic"),
    ("skimage:chelsea", "sample:hatching"),
]
STEPS = 120  # for the loss after the same number of steps, at 256 px
LONG_STEPS = 200  # for the time until the same loss, at 512 px


def load(name: str) -> Tensor:
    if name.startswith("skimage:"):
        return from_array(getattr(skimage.data, name.removeprefix("skimage:"))())
    return load_picture(name)


# --- the reference -----------------------------------------------------------------------


def plain_activations(network: Network, pixels: Tensor) -> dict[str, Tensor]:
    activations = {}
    x = pixels - network.mean
    for layer, weight, bias in network.convolutions:
        if layer.endswith("_1") and layer != "relu1_1":
            x = F.max_pool2d(x, 2)
        x = F.relu(F.conv2d(x, weight, bias, padding=1))
        activations[layer] = x
    return activations


def plain_gram(activation: Tensor) -> Tensor:
    rows = activation.flatten(2)[0]
    return rows @ rows.T / activation.numel()


class Reference:
    """The plain loop; `step` takes one step and returns the loss before it."""

    def __init__(
        self, content: Tensor, style: Tensor, settings: Settings, first_rate: float
    ) -> None:
        network = build_network(load_weights(), settings.layers)
        convolutions = tuple((k, w.contiguous(), b) for k, w, b in network.convolutions)
        self.network = Network(convolutions, network.mean)
        self.settings = settings
        photo = resize(content, settings.size) * 255
        with torch.no_grad():
            target = plain_activations(self.network, photo)
            self.content = {layer: target[layer] for layer in settings.content_layers}
            painting = plain_activations(self.network, resize(style, settings.size) * 255)
            self.style = {layer: plain_gram(painting[layer]) for layer in settings.style_layers}
        self.pixels = photo.contiguous().requires_grad_()
        self.optimizer = torch.optim.LBFGS([self.pixels], lr=first_rate, max_iter=1)
        self.steps = 0

    def loss(self) -> Tensor:
        self.optimizer.zero_grad()
        activations = plain_activations(self.network, self.pixels)
        total = self.settings.tv_weight * tv_loss(self.pixels)
        for layer, target in self.content.items():
            total = total + self.settings.content_weight * content_loss(activations[layer], target)
        for layer, gram in self.style.items():
            weight = self.settings.style_weight
            total = total + weight * style_loss(plain_gram(activations[layer]), gram)
        total.backward()
        return total

    def step(self) -> float:
        loss = float(self.optimizer.step(self.loss).detach())
        self.steps += 1
        if self.steps == 10:
            self.optimizer.param_groups[0]["lr"] = 1.0
        return loss

    def picture(self) -> Tensor:
        return self.pixels.detach().clamp(0, 255) / 255


def living_reference(content: Tensor, style: Tensor, settings: Settings) -> Reference:
    """A reference whose first ten steps, at the largest rate possible, do not explode it."""
    for rate in (1.0, 0.3, 0.1, 0.03, 0.01, 0.003):
        reference = Reference(content, style, settings, rate)
        losses = [reference.step() for _ in range(15)]
        if all(math.isfinite(loss) for loss in losses) and losses[-1] < 2 * losses[0]:
            print(f"  reference lives with a rate of {rate} in its first ten steps", flush=True)
            return reference
    raise SystemExit("the reference explodes at every rate")


# --- what is measured --------------------------------------------------------------------


def saved_loss(image: Tensor, content: Tensor, style: Tensor, settings: Settings) -> float:
    """Loss of the picture as an 8-bit file has it."""
    return workbench.measure(from_array(to_array(image)), content, [style], settings).total


def time_a_step(settings: Settings, content: Tensor, style: Tensor) -> dict[str, float]:
    """Median seconds a step, the three taking turns."""
    reference = Reference(content, style, settings, 0.01)
    ours = {
        precision: workbench.optimize(
            content,
            [style],
            Settings(size=settings.size, steps=(1000,), precision=precision),
        )
        for precision in ("float32", "bfloat16")
    }
    times: dict[str, list[float]] = {name: [] for name in ("reference", *ours)}
    for _ in range(36):
        start = time.perf_counter()
        reference.step()
        times["reference"].append(time.perf_counter() - start)
        for precision, iterates in ours.items():
            start = time.perf_counter()
            next(iterates)
            times[precision].append(time.perf_counter() - start)
    # The first steps set up targets and are Adam's.
    return {name: statistics.median(values[24:]) for name, values in times.items()}


def time_checkpoints(settings: Settings, content: Tensor, style: Tensor) -> tuple[float, float]:
    """Seconds of 50 steps, and of them those that the checkpoint behind them costs.

    Timed inside one run: as the difference of two runs, they would drown in noise.
    """
    spent: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder()
        checkpoints = Checkpoints(Path(folder), recorder=recorder, share=math.inf)
        iterates = workbench.optimize(content, [style], settings, checkpoints=checkpoints)
        for iterate in itertools.islice(iterates, 51):
            recorder.add(iterate)
        next(iterates)  # writes the first
        optimize_module = sys.modules["workbench.descent"]
        with timed(checkpoints, "_save", spent), timed(optimize_module, "_memory", spent):
            start = time.perf_counter()
            for iterate in itertools.islice(iterates, 50):
                recorder.add(iterate)
            seconds = time.perf_counter() - start
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
    print(f"  {size / 1e6:.0f} MB in {max(spent):.3f} s", flush=True)
    return seconds, sum(spent)


@contextlib.contextmanager
def timed(owner: Any, name: str, spent: list[float]) -> Iterator[None]:
    """Note the seconds of every call of a function."""
    function = getattr(owner, name)

    def call(*arguments: Any) -> Any:
        start = time.perf_counter()
        result = function(*arguments)
        spent.append(time.perf_counter() - start)
        return result

    setattr(owner, name, call)
    try:
        yield
    finally:
        setattr(owner, name, function)


def compare_losses(content: Tensor, style: Tensor, steps: int) -> tuple[float, float]:
    settings = Settings(size=256, steps=(steps,))
    reference = living_reference(content, style, settings)
    while reference.steps < steps:
        reference.step()
    painted = workbench.stylize(content, [style], settings)
    return (
        saved_loss(reference.picture(), content, style, settings),
        saved_loss(painted, content, style, settings),
    )


def race(content: Tensor, style: Tensor) -> tuple[float, float, float]:
    """Seconds of the reference for 200 steps at 512 px, ours to that saved loss, and that loss."""
    single = Settings(size=512, steps=(LONG_STEPS,))
    reference = living_reference(content, style, single)
    done = reference.steps
    start = time.perf_counter()
    while reference.steps < LONG_STEPS:
        reference.step()
    reference_seconds = (time.perf_counter() - start) * LONG_STEPS / (LONG_STEPS - done)
    goal = saved_loss(reference.picture(), content, style, single)

    settings = Settings(size=512, steps=(40, LONG_STEPS))
    seconds, start = 0.0, time.perf_counter()
    for iterate in workbench.optimize(content, [style], settings):
        seconds += time.perf_counter() - start
        at_full_size = iterate.step > settings.steps[0]
        near = at_full_size and iterate.losses.total < 1.1 * goal
        if near and saved_loss(iterate.image, content, style, settings) <= goal:
            return reference_seconds, seconds, goal
        start = time.perf_counter()
    raise SystemExit("ours never got there")


def peak_megabytes(who: str) -> float:
    """Peak resident memory of a process of its own that takes 120 steps at 512 px."""
    command = [sys.executable, __file__, "--memory-of", who]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_memory_of(who: str) -> None:
    content, style = (load(name) for name in PAIRS[0])
    settings = Settings(size=512, steps=(120,))
    if who == "reference":
        reference = Reference(content, style, settings, 0.01)
        for _ in range(120):
            reference.step()
    elif who != "nothing":
        workbench.stylize(content, [style], Settings(size=512, steps=(120,), precision=who))
    # Not getrusage: its peak is inherited from the process that started this one.
    status = Path("/proc/self/status").read_text()
    print(int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024)  # type: ignore[index]


def time_command(*command: str) -> float:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, *command], check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return min(times)


def title(names: tuple[str, str]) -> str:
    return " in ".join(name.split(":")[-1].split("/")[-1] for name in names)


def checkpoint_rows(content: Tensor, style: Tensor) -> Iterator[tuple[str, str, str, str]]:
    for precision in ("bfloat16", "float32"):
        settings = Settings(size=512, steps=(200,), precision=precision)
        seconds, spent = time_checkpoints(settings, content, style)
        yield (
            f"50 steps at 512 px, {precision}, without and with a checkpoint",
            f"{seconds - spent:.2f} s",
            f"{seconds:.2f} s",
            f"{seconds / (seconds - spent):.3f}",
        )


def style_loss_rows(content: Tensor, style: Tensor) -> Iterator[tuple[str, str, str, str]]:
    """Median seconds a step with each kind of style loss, the kinds taking turns."""
    for size in (256, 512):
        times: dict[str, list[float]] = {kind: [] for kind in STYLE_LOSSES}
        iterates = {
            kind: workbench.optimize(
                content, [style], Settings(size=size, steps=(1000,), style_loss=kind)
            )
            for kind in STYLE_LOSSES
        }
        for _ in range(12):
            for kind, steps in iterates.items():
                start = time.perf_counter()
                next(steps)
                times[kind].append(time.perf_counter() - start)
        gram, *others = (statistics.median(times[kind][3:]) for kind in STYLE_LOSSES)
        for kind, seconds in zip(STYLE_LOSSES[1:], others, strict=True):
            what = f'a step at {size} px, "{kind}" beside "gram"'
            yield what, f"{gram:.3f} s", f"{seconds:.3f} s", f"{seconds / gram:.2f}"


def rows(pairs: list[tuple[str, str]]) -> Iterator[tuple[str, str, str, str]]:
    """Rows of the table: what, reference, workbench, ratio."""
    content, style = (load(name) for name in pairs[0])
    times = time_a_step(Settings(size=512, steps=(1,)), content, style)
    for precision in ("bfloat16", "float32"):
        ratio = times[precision] / times["reference"]
        yield (
            f"a step at 512 px, {precision}",
            f"{times['reference']:.3f} s",
            f"{times[precision]:.3f} s",
            f"{ratio:.2f}",
        )
    yield from checkpoint_rows(content, style)
    for names in pairs:
        theirs, ours = compare_losses(load(names[0]), load(names[1]), STEPS)
        yield (
            f"loss of the saved picture after {STEPS} steps at 256 px: {title(names)}",
            f"{theirs:,.0f}",
            f"{ours:,.0f}",
            f"{ours / theirs:.2f}",
        )
    theirs, ours, goal = race(content, style)
    yield (
        f"time to a saved loss of {goal:,.0f} at 512 px: {title(pairs[0])}",
        f"{theirs:.0f} s",
        f"{ours:.1f} s",
        f"{ours / theirs:.3f}",
    )
    idle = peak_megabytes("nothing")
    theirs = peak_megabytes("reference")
    for precision in ("bfloat16", "float32"):
        ours = peak_megabytes(precision)
        yield (
            f"peak memory at 512 px, {precision} (of it {idle:.0f} MB without a run)",
            f"{theirs:.0f} MB",
            f"{ours:.0f} MB",
            f"{ours / theirs:.2f}",
        )
    yield ("`workbench --help`", "", f"{time_command('-m', 'workbench', '--help'):.2f} s", "")
    yield ("`import workbench`", "", f"{time_command('-c', 'import workbench'):.2f} s", "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pair", nargs=2, action="append", metavar=("PHOTO", "STYLE"))
    parser.add_argument("--checkpoints", action="store_true", help="only what these cost")
    parser.add_argument("--style-losses", action="store_true", help="only what these cost")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        print_memory_of(arguments.memory_of)
        return
    load_weights()
    table = []
    pairs = [tuple(pair) for pair in arguments.pair or PAIRS]
    pictures = [*map(load, pairs[0])]
    if arguments.checkpoints:
        made = checkpoint_rows(*pictures)
    elif arguments.style_losses:
        made = style_loss_rows(*pictures)
    else:
        made = rows(pairs)
    for row in made:
        print(" | ".join(row), flush=True)
        table.append(row)
    threads = torch.get_num_threads()
    print(f"\n{datetime.date.today()}, {threads} threads, torch {torch.__version__}\n")
    print("| | plain reference | workbench | ratio |\n| --- | ---: | ---: | ---: |")
    for row in table:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
