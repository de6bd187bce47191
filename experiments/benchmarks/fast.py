"""Feed-forward style models: how near they come to `optimize`, how still, and how fast.

The clip is `bikes.mp4` (see `video.py`), 250 frames of 640x272. Of every fifty frames one is judged
by, and models are shown neither that nor the two on each side of it. The style is a picture of your
own, such as The Scream. Models and pictures stay in the output folder; what is there is not trained
again.

    python experiments/benchmarks/fast.py the_scream.jpg               # 40 minutes on 2 cores
    python experiments/benchmarks/fast.py the_scream.jpg quality       # or temporal, or speed
"""

from __future__ import annotations

import argparse
import datetime
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from statistics import fmean, median

import torch
from torch import Tensor
from video import real_clip

from workbench.descent import measure, stylize
from workbench.devices import choose_device
from workbench.fast import StyleModel, applying, train
from workbench.fast.models import read_folder, save_network
from workbench.fast.network import TransformationNetwork
from workbench.fast.training import finish_training, train_model
from workbench.images import from_array, load_image, save_image, to_array
from workbench.losses import Losses
from workbench.settings import NETWORKS, Settings, TrainingSettings
from workbench.sheets import save_strip
from workbench.video.clips import Clip, open_clip, read_frames
from workbench.video.metrics import warping_error

SETTINGS = Settings(size=640)
TRAINING = TrainingSettings()  # quick
TEMPORAL_WEIGHT = 2000.0
STEPS = 100  # of the reference
EVERY, BESIDE = 50, 2  # frames: one in so many is held out, with so many on each side
REPEATS = 7


def frames_of(clip: Clip) -> list[Tensor]:
    return [from_array(frame) for frame in read_frames(clip)]


def held_out(number: int) -> bool:
    return number % EVERY == EVERY // 2


def learned(style: Path, output: Path, training: TrainingSettings) -> StyleModel:
    """Train on the frames that are not held out, unless that has been done."""
    pictures = output / "pictures"
    for number, frame in enumerate(read_frames(open_clip(real_clip("bikes")))):
        path = pictures / f"{number:04d}.png"
        near = any(held_out(n) for n in range(number - BESIDE, number + BESIDE + 1))
        if not (near or path.exists()):
            save_image(from_array(frame), path)
    folder = output / ("temporal" if training.temporal_weight else "quick")
    for _ in train_model(str(style), [str(pictures)], folder, settings=SETTINGS, training=training):
        pass
    finish_training(folder)
    model = read_folder(folder)
    last = model.checkpoints[-1]
    print(
        f"\n{folder.name}: {last.step} steps in {last.seconds / 60:.1f} min, best {model.best.step}"
    )
    return StyleModel.load(folder)


def row(*cells: object) -> None:
    print(f"| {' | '.join(str(cell) for cell in cells)} |", flush=True)


def parts(losses: Iterable[Losses]) -> dict[str, float]:
    each = list(losses)
    return {
        "total": fmean(one.total for one in each),
        "content": fmean(one.content_total for one in each),
        "style": fmean(one.style_total for one in each),
        "tv": fmean(one.tv for one in each),
    }


def judged(pictures: Iterable[Tensor], frames: Iterable[Tensor], style: Tensor) -> dict[str, float]:
    pairs = zip(pictures, frames, strict=True)
    return parts(measure(one, frame, [style], SETTINGS) for one, frame in pairs)


def print_quality(style: Path, output: Path, training: TrainingSettings) -> None:
    """Held-out loss of a quick training against that of `optimize`, from the content picture."""
    model = learned(style, output, training)
    painting = load_image(style)
    frames = [
        frame for i, frame in enumerate(frames_of(open_clip(real_clip("bikes")))) if held_out(i)
    ]
    settings = SETTINGS.changed(steps=(STEPS,))
    began = time.perf_counter()
    references = [stylize(frame, [painting], settings) for frame in frames]
    seconds = (time.perf_counter() - began) / len(frames)
    painted = [model(frame) for frame in frames]
    row("frames that were held out", "total", "content", "style", "tv")
    row("---", *["---:"] * 4)
    results: dict[str, Mapping[str, float]] = {}
    for name, pictures in (
        ("as they are", frames),
        (f"optimize, {STEPS} steps, {seconds:.0f} s a frame", references),
        ("model", painted),
    ):
        results[name] = judged(pictures, frames, painting)
        row(name, *(f"{value:,.0f}" for value in results[name].values()))
    _, reference, own = results.values()
    row("model / optimize", *(f"{own[key] / reference[key]:.2f}" for key in own))
    for number in range(len(frames)):
        save_strip(
            [to_array(each[number]) for each in (frames, references, painted)],
            ["frame", f"optimize, {STEPS} steps", "model, one pass"],
            output / f"beside-{number}.png",
            height=272,
        )


def print_temporal(style: Path, output: Path, training: TrainingSettings) -> None:
    """Flicker of the whole film, losses of held-out frames, with the temporal loss and without.

    Both after as many steps of training.
    """
    painting = load_image(style)
    frames = frames_of(open_clip(real_clip("bikes")))
    chosen = [number for number in range(len(frames)) if held_out(number)]
    for weight in (0.0, TEMPORAL_WEIGHT):
        learned(style, output, replace(training, temporal_weight=weight))
    steps = [
        {checkpoint.step for checkpoint in read_folder(output / name).checkpoints}
        for name in ("quick", "temporal")
    ]
    step = max(steps[0] & steps[1])
    row(f"model after {step} steps", "warping error", "10 frames apart", "style", "content")
    row("---", *["---:"] * 4)
    found = []
    for name in ("quick", "temporal"):
        model = StyleModel.load(f"{output / name}@{step}")
        film = [model(frame) for frame in frames]
        losses = judged([film[i] for i in chosen], [frames[i] for i in chosen], painting)
        errors = [warping_error(film, frames), warping_error(film, frames, gap=10)]
        found.append([*errors, losses["style"], losses["content"]])
        row(name, *(f"{e:.4f}" for e in errors), *(f"{v:,.0f}" for v in found[-1][2:]))
    row("ratio", *(f"{b / a:.2f}" for a, b in zip(*found, strict=True)))
    source = [warping_error(frames, frames), warping_error(frames, frames, gap=10)]
    row("the clip itself", *(f"{error:.4f}" for error in source), "", "")


def print_speed(style: Path, output: Path, training: TrainingSettings) -> None:
    """Frames a second from file to file, and steps of training a second."""
    device = choose_device()
    clip = open_clip(real_clip("bikes"))
    large = torch.rand(1, 3, 1080, 1920, device=device)
    row("network", "640x272 film, frames/s", "1080p, frames/s", "training, steps/s")
    row("---", *["---:"] * 3)
    for kind in NETWORKS:
        save_network(TransformationNetwork(0.5, kind=kind), output / f"{kind}.safetensors")
        model = StyleModel.load(output / f"{kind}.safetensors")
        rates = []
        for _ in range(3):
            began = time.perf_counter()
            count = applying.paint_film(clip, {"model": model}, output / "speed.mp4")
            rates.append(count / (time.perf_counter() - began))
        training = replace(training, network=kind, training_steps=25, copy_steps=0, whole_after=0)
        folder = output / f"speed-{kind}-{datetime.datetime.now():%H%M%S}"
        stamps = [
            iterate.seconds
            for iterate in train(
                [load_image(style)],
                ["sample:photographs"],
                folder,
                settings=SETTINGS,
                training=training,
            )
            if iterate.checkpoint is None
        ]
        steps = [after - before for before, after in pairwise(stamps[4:])]
        row(
            kind,
            f"{median(rates):.1f}",
            f"{1 / paint_time(model, large):.1f}",
            f"{1 / median(steps):.2f}",
        )
    pictures = torch.cat([from_array(frame) for frame in islice(read_frames(clip), 8)])
    together = model(pictures)
    alone = torch.cat([model(picture) for picture in pictures.split(1)])
    print(
        f"\nbatch of 8 against one by one: {255 * (together - alone).abs().max():.3f} grey levels"
    )


def paint_time(model: StyleModel, picture: Tensor) -> float:
    """Seconds; the median of some."""
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        model(picture).sum().item()  # waits for the device
        times.append(time.perf_counter() - began)
    return median(times[2:])


PARTS = {"quality": print_quality, "temporal": print_temporal, "speed": print_speed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("style", type=Path)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=list(PARTS))
    parser.add_argument("--minutes", type=float, default=TRAINING.minutes, help="of each training")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/benchmarks/fast"))
    given = parser.parse_args()
    device = choose_device()
    name = (
        torch.cuda.get_device_name()
        if device.type == "cuda"
        else f"{torch.get_num_threads()} threads"
    )
    print(f"{datetime.date.today()}, {name}, torch {torch.__version__}\n")
    for part in given.parts:
        PARTS[part](given.style, given.output, replace(TRAINING, minutes=given.minutes))
        print()


if __name__ == "__main__":
    main()
