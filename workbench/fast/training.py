"""Style pictures + pictures to learn on -> a style model, checkpoint by checkpoint.

The folder of a model holds, beside its checkpoints, `training.safetensors`: what a stopped
training needs to go on, which is the network and the memory of its optimisers. What a step
looks at depends on the seed and the number of the step alone, so there is no other random state.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import math
import os
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from matplotlib.figure import Figure
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm import tqdm

import workbench
from workbench.checkpoints import save_tensors
from workbench.descent import Problem, loss_weights
from workbench.errors import InputError, TrainingError
from workbench.fast.models import (
    MODEL,
    Checkpoint,
    ModelFolder,
    read_folder,
    save_network,
    write_folder,
)
from workbench.fast.network import TransformationNetwork
from workbench.fast.pictures import Batch, Pictures, draw_batch, open_pictures
from workbench.files import claimed, write_bytes
from workbench.images import check_image, from_array, load_image, resize_down, save_image, to_array
from workbench.losses import (
    Losses,
    LossWeights,
    Targets,
    temporal_loss,
    to_losses,
    weighted_losses,
)
from workbench.progress import canvas
from workbench.runs import Identity, Result, finish_run
from workbench.settings import Settings, TrainingSettings
from workbench.sheets import save_gif, save_plot, save_strip
from workbench.video.flow import Motion, warp
from workbench.weights import digest, load_weights

STATE = "training.safetensors"
MAX_RESCUES = 4  # explosions, each of which halves the rate
AVERAGED = 0.99  # of the average of the network's parameters, the share that stays at a step
FALLS = 0.99  # times the lowest held-out loss so far: a checkpoint below that is progress
_BUDGET = ("training_steps", "minutes", "patience", "checkpoint_every")  # may change on the way
_UNUSED = ("steps", "optimizer", "learning_rate", "init")  # of `Settings`
# Losses fall to a tenth within some hundred steps. With the usual 0.999, Adam would divide by
# what gradients were at first for a thousand.
_BETAS = (0.9, 0.99)
_ADAM_RATE = 0.06  # times that of Muon, whose steps are for whole matrices
_FULL_RATE = 200  # steps, from which on the rate shrinks with the root of their number


@dataclass(frozen=True, eq=False)
class TrainingIterate:
    """A style model on its way.

    Attributes
    ----------
    step
        Steps taken so far; falls back to that of a checkpoint after an explosion.
    steps
        Steps that there will be at most.
    losses
        Weighted, the means over the batch that the last step looked at; None while the network
        learns to copy.
    seconds
        Of training so far, all runs together.
    checkpoint
        The one that has just been written, if there is one.
    preview
        With it: the preview picture as painted, `(1, 3, H, W)`, float32, sRGB in [0, 1].
    """

    step: int
    steps: int
    losses: Losses | None
    seconds: float
    checkpoint: Checkpoint | None = None
    preview: Tensor | None = None


def train(
    styles: Sequence[Tensor],
    on: Sequence[str | os.PathLike[str]],
    output_dir: str | os.PathLike[str],
    *,
    settings: Settings = Settings(),  # noqa: B008 (frozen)
    training: TrainingSettings = TrainingSettings(),  # noqa: B008
    preview: Tensor | None = None,
    style_names: Sequence[str] = (),
) -> Generator[TrainingIterate]:
    """Train a network to paint in a style, step by step; run again, it goes on.

    Johnson, Alahi and Fei-Fei 2016 (arXiv 1603.08155): the losses of `losses`, of what the
    network makes of pictures. Differs in what makes a short training worth while: the network
    first learns to copy, is shown crops and then whole pictures, the content loss leads for
    some time, convolutions learn by Muon (Jordan et al. 2024), which takes far fewer steps than
    Adam, and the model is the running average of the network's parameters.

    Parameters
    ----------
    styles
        Style pictures, `(1, 3, H, W)`, sRGB in [0, 1].
    on
        What to learn on: pictures, folders of them, clips, "sample:photographs",
        "sample:clip". The frames of the very clip that is to be painted are best.
    output_dir
        Folder of the model; gets checkpoints with previews and figures, and `model.json`.
    settings
        Losses and sizes, as for `optimize`: `size` is the longest side that larger pictures are
        shrunk to, and the style is seen at `style_scale` of their longest side. Steps,
        optimizer, learning_rate and init are not looked at.
    training
        See `TrainingSettings`. Its budget may be another when training goes on. Crops are at
        most of `settings.size`.
    preview
        What is painted at every checkpoint, likewise; None: a held-out picture.
    style_names
        How `model.json` is to call the style pictures.

    Yields
    ------
    TrainingIterate
        After every step and every checkpoint. Leave the loop to stop; the next call goes on at
        that step, after a kill at the last checkpoint, with the same result as if nothing had
        happened.

    Raises
    ------
    InputError
        If there is too little to train on, or the folder holds another training.
    TrainingError
        If the loss keeps exploding. Checkpoints stay.
    """
    folder, names = Path(output_dir), tuple(str(name) for name in on)
    if preview is not None:
        check_image(preview, "preview")
    with claimed(folder):
        pictures = open_pictures(names, settings.size, min(training.crop, settings.size))
        lessons = _Lessons.of(styles, pictures, preview, settings, training)
        about = ModelFolder(
            styles=tuple(style_names) or tuple(f"style {i + 1}" for i in range(len(styles))),
            on=names,
            settings={
                **{k: v for k, v in settings.as_dict().items() if k not in _UNUSED},
                **training.as_dict(),
            },
            weights={"name": settings.backbone, "sha256": load_weights(settings.backbone).sha256},
        )
        yield from _train(lessons, folder, _run_of(lessons, about), about)


def _train(
    lessons: _Lessons, folder: Path, run: Identity, about: ModelFolder
) -> Iterator[TrainingIterate]:
    learner = _Learner.new(lessons)
    learner.restore(folder, run)
    if learner.checkpoints:
        _write_model(folder, about, learner, lessons.pictures)  # a kill may have come before it
    losses = None

    def now(checkpoint: Checkpoint | None = None, preview: Tensor | None = None) -> TrainingIterate:
        return TrainingIterate(
            learner.step,
            lessons.training.training_steps,
            losses,
            learner.seconds,
            checkpoint,
            preview,
        )

    with _Reader(lessons) as reader:
        try:
            while True:
                began = time.monotonic()
                if learner.is_due():
                    checkpoint, preview = lessons.judge(learner)
                    if not (math.isfinite(checkpoint.held_out["total"]) and learner.is_finite()):
                        learner = _rescue(lessons, folder, run, learner)
                        continue
                    _write_checkpoint(folder, learner, checkpoint, preview)
                    learner.checkpoints.append(checkpoint)
                    learner.recent.clear()
                    learner.seconds += time.monotonic() - began
                    learner.save(folder, run)
                    _write_model(folder, about, learner, lessons.pictures)
                    yield now(checkpoint, preview)
                if learner.is_done():
                    return
                began = time.monotonic()
                losses = lessons.look(learner, reader.batch(learner.step))
                if losses is not None and not math.isfinite(losses.total):
                    learner = _rescue(lessons, folder, run, learner)
                    continue
                learner.take_step(losses)
                learner.seconds += time.monotonic() - began
                yield now()
        except (KeyboardInterrupt, GeneratorExit):
            learner.save(folder, run)
            raise


def _rescue(lessons: _Lessons, folder: Path, run: Identity, exploded: _Learner) -> _Learner:
    """Go back to the last checkpoint, with half the rate."""
    rescues = exploded.rescues + 1
    if rescues > MAX_RESCUES:
        raise TrainingError(
            f"training exploded {rescues} times, the last time at step {exploded.step + 1}; lower"
            f" training_rate or style_weight. Checkpoints up to there are in {folder}."
        )
    learner = _Learner.new(lessons)
    learner.restore(folder, run)
    learner.seconds, learner.rescues = exploded.seconds, rescues
    return learner


class _Reader:
    """Draws the batch of the next step while this one is looked at."""

    def __init__(self, lessons: _Lessons) -> None:
        self._lessons = lessons
        self._thread = ThreadPoolExecutor(1)
        self._drawn: dict[int, Future[Batch]] = {}

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    def batch(self, step: int) -> Batch:
        """Of a step; the next one's is begun."""
        draw = self._lessons.draw
        drawn = self._drawn.get(step) or self._thread.submit(draw, step)
        self._drawn = {step + 1: self._thread.submit(draw, step + 1)}
        return drawn.result()


# --- what is learned ---------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Lessons:
    """Pictures, targets and weights: what the learner is shown, and how it is judged."""

    problem: Problem
    grams: Mapping[str, Tensor]
    pixels: int  # of a picture
    pictures: Pictures
    held_out: Sequence[int]
    drawn: Sequence[int]
    preview: Tensor
    training: TrainingSettings

    @classmethod
    def of(
        cls,
        styles: Sequence[Tensor],
        pictures: Pictures,
        preview: Tensor | None,
        settings: Settings,
        training: TrainingSettings,
    ) -> _Lessons:
        held_out = pictures.held_out()
        judged_by = [from_array(pictures.kept(number)) for number in held_out]
        problem = Problem.of(judged_by[0], styles, settings)
        longest = round(fmean(max(picture.shape[-2:]) for picture in judged_by))
        return cls(
            problem,
            problem.style_targets(longest),
            round(fmean(picture[0, 0].numel() for picture in judged_by)),
            pictures,
            held_out,
            [number for number in range(len(pictures)) if number not in held_out],
            judged_by[0] if preview is None else resize_down(preview, settings.size),
            training,
        )

    def draw(self, step: int) -> Batch:
        """What the step after `step` others looks at."""
        seed = (self.problem.settings.seed, step)
        return draw_batch(
            self.pictures,
            self.drawn,
            self.training.batch,
            seed,
            whole=step >= self.training.whole_after,
            pairs=self.training.temporal_weight > 0,
        )

    def look(self, learner: _Learner, batch: Batch) -> Losses | None:
        """Losses of what the learner makes of a batch; their gradient is left with it.

        None while it learns to copy.
        """
        pictures = batch.pictures.to(self.problem.device)
        painted = learner.network(pictures, self.problem.network.dtype)
        learner.network.zero_grad()
        if learner.step < self.training.copy_steps:
            (painted - pictures).square().mean().backward()
            return None
        # As in `optimize`, what will be saved is what is looked at.
        painted = painted + (painted.clamp(0, 1) - painted).detach()
        weights = loss_weights(self.problem.settings)
        if weights.tv_kind != "mean-squared":
            # It is a sum over pixels, and that of a crop stands for that of a whole picture.
            weights = replace(weights, tv=weights.tv * self.pixels / pictures[0, 0].numel())
        count = len(pictures) - len(batch.motions)
        own, *companions = painted.split(count)
        terms = self._losses(own, pictures[:count], weights)
        if companions:
            change = self._change(own, companions[0], batch.motions)
            terms["temporal"] = self.training.temporal_weight * change
        more = self.content_lead(learner.step) - 1
        (_sum_of(terms, "") + more * _sum_of(terms, "content")).backward()
        return to_losses(terms)

    def content_lead(self, step: int) -> float:
        """How many times the content loss counts, so that the style comes by and by."""
        left = self.training.copy_steps + self.training.lead_steps - step
        return float(self._first_lead ** (left / self.training.lead_steps)) if left > 0 else 1.0

    @cached_property
    def _first_lead(self) -> float:
        """So many that a picture without content is as bad as one without style.

        Otherwise the style wipes out all that can be recognised within some steps, which
        hardly comes back.
        """
        weights = loss_weights(self.problem.settings)
        style, content = 0.0, 0.0
        with torch.no_grad():
            for number in self.held_out:
                picture = from_array(self.pictures.kept(number)).to(self.problem.device)
                nothing = picture.mean(dim=(2, 3), keepdim=True).expand_as(picture)
                style += _sum_of(self._losses(picture, picture, weights), "style").item()
                content += _sum_of(self._losses(nothing, picture, weights), "content").item()
        return max(1.0, style / content) if content else 1.0

    def _change(self, painted: Tensor, moved: Tensor, motions: Sequence[Motion]) -> Tensor:
        """By how much painted pictures differ from their companions, beyond the motion."""
        white = self.problem.settings.white
        changes = []
        for one, two, motion in zip(painted.split(1), moved.split(1), motions, strict=True):
            # Bilinear, as Apple's GPU has no gradient of the other.
            expected = warp(one, motion.flow.to(one.device), mode="bilinear")
            visible = motion.visible.to(one.device)
            changes.append(temporal_loss(two * white, expected * white, visible))
        return torch.stack(changes).mean()

    def judge(self, learner: _Learner) -> tuple[Checkpoint, Tensor]:
        """How the model does on the held-out pictures, and the preview."""
        dtype = self.problem.network.dtype
        judged = []
        with torch.no_grad():
            for number in self.held_out:
                picture = from_array(self.pictures.kept(number)).to(self.problem.device)
                painted = learner.average(picture, dtype).clamp(0, 1)
                weights = loss_weights(self.problem.settings)
                judged.append(to_losses(self._losses(painted, picture, weights)))
            preview = learner.average(self.preview.to(self.problem.device), dtype).clamp(0, 1).cpu()
        means = _means([losses.by_kind() for losses in judged])
        return Checkpoint(learner.step, means, _means(learner.recent), learner.seconds), preview

    def _losses(self, painted: Tensor, pictures: Tensor, weights: LossWeights) -> dict[str, Tensor]:
        """Means over pictures `(N, 3, H, W)` of the terms of their weighted losses."""
        settings, network = self.problem.settings, self.problem.network
        seen = _each(network(painted * settings.white, settings.layers))
        with torch.no_grad():
            content = _each(network(pictures * settings.white, settings.content_layers))
        each = [
            weighted_losses(picture * settings.white, own, Targets(target, self.grams), weights)[1]
            for picture, own, target in zip(painted.split(1), seen, content, strict=True)
        ]
        return {name: torch.stack([terms[name] for terms in each]).mean() for name in each[0]}


def _sum_of(terms: Mapping[str, Tensor], kind: str) -> Tensor:
    """Of the terms whose names begin so."""
    return torch.stack([term for name, term in terms.items() if name.startswith(kind)]).sum()


def _each(activations: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Activations of each picture of a batch on its own."""
    # (On the way back, each of as many slices would fill a whole gradient with zeros.)
    pieces = {layer: activation.split(1) for layer, activation in activations.items()}
    count = len(next(iter(pieces.values())))
    return [{layer: piece[i] for layer, piece in pieces.items()} for i in range(count)]


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: fmean(row[name] for row in rows) for name in rows[0]} if rows else {}


# --- who learns it -----------------------------------------------------------------------


@dataclass(eq=False)
class _Learner:
    """A network, its average, its optimisers, and what came of them."""

    network: TransformationNetwork
    average: TransformationNetwork
    muon: torch.optim.Muon
    adam: torch.optim.Adam
    training: TrainingSettings
    step: int = 0
    seconds: float = 0.0
    rescues: int = 0
    recent: list[dict[str, float]] = field(default_factory=list)  # since the last checkpoint
    checkpoints: list[Checkpoint] = field(default_factory=list)
    _stepping: bool = False

    @classmethod
    def new(cls, lessons: _Lessons) -> _Learner:
        training = lessons.training
        with torch.random.fork_rng(devices=[]):  # it is made on the CPU
            torch.manual_seed(lessons.problem.settings.seed)
            network = TransformationNetwork(training.width).to(lessons.problem.device)
        average = copy.deepcopy(network).requires_grad_(False)
        matrices = network.matrices()
        kept = {id(matrix) for matrix in matrices}
        others = [each for each in network.parameters() if id(each) not in kept]
        muon = torch.optim.Muon(matrices, weight_decay=0.0)
        return cls(network, average, muon, torch.optim.Adam(others, betas=_BETAS), training)

    def rate(self) -> float:
        """Of the next step."""
        step = max(0, self.step - self.training.copy_steps)
        shrunk = min(1.0, math.sqrt(_FULL_RATE / (1 + step)))
        return shrunk * self.training.training_rate * 0.5**self.rescues

    def take_step(self, losses: Losses | None) -> None:
        """Along the gradient that `_Lessons.look` has left."""
        self._stepping = True
        for optimizer, factor in ((self.muon, 1.0), (self.adam, _ADAM_RATE)):
            optimizer.param_groups[0]["lr"] = factor * self.rate()
            optimizer.step()
        stays = min(AVERAGED, (1 + self.step) / (10 + self.step))  # what came first was worst
        with torch.no_grad():
            pairs = zip(self.average.parameters(), self.network.parameters(), strict=True)
            for mean, parameter in pairs:
                mean.lerp_(parameter, 1 - stays)
        if losses is not None:
            self.recent.append(losses.by_kind())
        self.step += 1
        self._stepping = False

    def is_due(self) -> bool:
        """Whether it is time for a checkpoint."""
        last = self.checkpoints[-1].step if self.checkpoints else 0
        in_time = self.step % self.training.checkpoint_every == 0
        return self.step > last and (in_time or self._is_spent())

    def is_done(self) -> bool:
        """Whether there is nothing more to learn, or no time for it."""
        return self._is_spent() or _stalled(self.checkpoints) >= self.training.patience

    def _is_spent(self) -> bool:
        out_of_time = 0 < 60 * self.training.minutes <= self.seconds
        return self.step >= self.training.training_steps or out_of_time

    def is_finite(self) -> bool:
        return all(bool(each.isfinite().all()) for each in self.network.parameters())

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"muon": self.muon, "adam": self.adam}

    def save(self, folder: Path, run: Identity) -> None:
        """Keep everything that the next steps depend on, unless it is spoiled."""
        if self._stepping or not self.step or not self.is_finite():
            return
        tensors = {f"network.{name}": each for name, each in self.network.state_dict().items()}
        tensors |= {f"average.{name}": each for name, each in self.average.state_dict().items()}
        for kind, optimizer in self._optimizers().items():
            for number, memory in optimizer.state_dict()["state"].items():
                tensors |= {f"{kind}.{number}.{name}": each for name, each in memory.items()}
        values = {
            "run": run.values,
            "step": self.step,
            "seconds": self.seconds,
            "rescues": self.rescues,
            "recent": self.recent,
            "checkpoints": [asdict(each) for each in self.checkpoints],
        }
        save_tensors(tensors, folder / STATE, {"workbench": json.dumps(values)})

    def restore(self, folder: Path, run: Identity) -> None:
        """Be as when `save` was called, if it was.

        Raises
        ------
        InputError
            If the folder holds another training, or what it holds cannot be read.
        """
        path = folder / STATE
        if not path.is_file():
            if (folder / MODEL).exists():
                raise InputError(
                    f"{folder} holds a model, but {STATE}, which is needed to train it on, is"
                    " gone; use another folder."
                )
            return
        try:
            with safe_open(path, framework="pt") as file:
                values = json.loads(file.metadata()["workbench"])
                # As copies they begin where torch's own memory would, on which bits depend.
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            before = values["run"]
            if "digests" in before:  # an earlier version kept them apart
                before = {**before["digests"], **before["values"]}
            differences = run.differences(before)
            if differences:
                raise InputError(
                    f"{folder} holds another training ({'; '.join(differences)}); ask for the"
                    " same again, or use another folder."
                )
            self._fill(values, tensors)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError):
            raise InputError(
                f"{path} is damaged; delete it and use another folder to begin anew."
            ) from None

    def _fill(self, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        def part(prefix: str) -> dict[str, Tensor]:
            return {
                name.removeprefix(f"{prefix}."): each
                for name, each in tensors.items()
                if name.startswith(f"{prefix}.")
            }

        self.network.load_state_dict(part("network"))
        self.average.load_state_dict(part("average"))
        for kind, optimizer in self._optimizers().items():
            state: dict[int, dict[str, Tensor]] = {}
            for name, each in part(kind).items():
                number, _, key = name.partition(".")
                state.setdefault(int(number), {})[key] = each
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        self.step, self.seconds = values["step"], values["seconds"]
        self.recent = values["recent"]
        self.checkpoints = [Checkpoint(**each) for each in values["checkpoints"]]
        self.rescues = values["rescues"]


def _stalled(checkpoints: Sequence[Checkpoint]) -> int:
    """Checkpoints since the held-out loss last fell clearly."""
    lowest, since = math.inf, 0
    for checkpoint in checkpoints:
        total = checkpoint.held_out["total"]
        lowest, since = (total, 0) if total < FALLS * lowest else (lowest, since + 1)
    return since


def _run_of(lessons: _Lessons, about: ModelFolder) -> Identity:
    """Everything that the model depends on, but for when training ends."""
    values = {name: value for name, value in about.settings.items() if name not in _BUDGET}
    values |= {
        f"style picture {i}": digest({"style": style})
        for i, style in enumerate(lessons.problem.styles, start=1)
    }
    values |= {
        "the set of weights": about.weights["sha256"],
        "on": list(about.on),
        "number of pictures": len(lessons.pictures),
        "device": lessons.problem.device.type,
        "precision": str(lessons.problem.network.dtype).removeprefix("torch."),
        "workbench": workbench.__version__,
        "torch": torch.__version__,
    }
    return Identity(values)


# --- what is written ---------------------------------------------------------------------


def _write_checkpoint(
    folder: Path, learner: _Learner, checkpoint: Checkpoint, preview: Tensor
) -> None:
    """The model, its preview and its figures."""
    path = folder / f"{checkpoint.name}.safetensors"
    save_image(preview, path.with_suffix(".png"))
    write_bytes(path.with_suffix(".json"), json.dumps(asdict(checkpoint), indent=1).encode())
    save_network(learner.average, path)


def _write_model(folder: Path, about: ModelFolder, learner: _Learner, pictures: Pictures) -> None:
    labels = read_folder(folder).labels if (folder / MODEL).exists() else {}
    checkpoints, skipped = tuple(learner.checkpoints), tuple(pictures.skipped.values())
    write_folder(folder, replace(about, checkpoints=checkpoints, labels=labels, skipped=skipped))


def show_training(iterates: Generator[TrainingIterate]) -> Generator[TrainingIterate]:
    """Pass iterates on and draw a progress bar with the losses, of text everywhere.

    However it ends, training is stopped as it should be: it keeps its steps, and lets go of its
    folder.
    """
    with contextlib.closing(iterates):
        yield from _show_training(iterates)


def _show_training(iterates: Iterator[TrainingIterate]) -> Iterator[TrainingIterate]:
    first = next(iterates, None)  # what it prints stands above the bar
    if first is None:
        return
    with tqdm(
        desc="training", unit="step", initial=first.step, file=canvas(), ncols=88, mininterval=0.2
    ) as bar:
        held_out = ""
        for iterate in itertools.chain([first], iterates):
            bar.total = iterate.steps
            if iterate.checkpoint is not None:
                held_out = f", held-out {iterate.checkpoint.held_out['total']:.3g}"
            if iterate.losses is not None:
                loss = f"loss {iterate.losses.total:.3g}{held_out}"
                bar.set_postfix_str(loss, refresh=False)
            bar.update(iterate.step - bar.n)
            yield iterate


def finish_training(
    folder: str | os.PathLike[str], told: Mapping[str, Any] | None = None
) -> Result:
    """Draw what a training was like and write its `result.json`.

    Makes `losses.png`, `previews.png` (six checkpoints side by side) and `learning.gif` (all
    of them) from what lies in the folder.

    Parameters
    ----------
    told
        What else `result.json` is to have among its settings.

    Raises
    ------
    InputError
        If there is no model in it.
    """
    folder = Path(folder)
    model = read_folder(folder)
    shots = [to_array(load_image(folder / f"{each.name}.png")) for each in model.checkpoints]
    save_plot(plot_training(model), folder / "losses.png")
    save_gif(shots, folder / "learning.gif", fps=4)
    chosen = sorted({round(i * (len(shots) - 1) / 5) for i in range(6)})
    save_strip(
        [shots[i] for i in chosen],
        [f"step {model.checkpoints[i].step}" for i in chosen],
        folder / "previews.png",
    )
    best = model.best
    return finish_run(
        folder,
        outputs={
            "model": folder / f"{best.name}.safetensors",
            "preview": folder / f"{best.name}.png",
            "gif": folder / "learning.gif",
            "previews": folder / "previews.png",
            "losses": folder / "losses.png",
        },
        figures={
            "steps": model.checkpoints[-1].step,
            "best_step": best.step,
            **{f"held_out_{name}": value for name, value in best.held_out.items()},
        },
        settings={
            **(told or {}),
            "style": list(model.styles),
            "on": list(model.on),
            **model.settings,
        },
        weights=model.weights,
        seconds=model.checkpoints[-1].seconds,
    )


def plot_training(model: ModelFolder) -> Figure:
    """Draw the losses of a model over its steps, on a log scale: what it had seen and had not."""
    figure = Figure(figsize=(9, 4.5), layout="constrained", dpi=110)
    axes = figure.subplots()
    steps = [each.step for each in model.checkpoints]
    lines = {"total": "black", "content": "C1", "style": "C0", "tv": "tab:green"}
    for name, colour in lines.items():
        held_out = [each.held_out[name] or math.nan for each in model.checkpoints]
        axes.plot(steps, held_out, color=colour, lw=2, marker=".", label=name)
    for name, colour in {"temporal": "C3", "total": "0.6"}.items():
        training = [each.training.get(name) or math.nan for each in model.checkpoints]
        if not all(map(math.isnan, training)):
            axes.plot(steps, training, color=colour, lw=1.5, ls="--", label=f"{name} (training)")
    best = model.best
    axes.plot(best.step, best.held_out["total"], "o", ms=11, mfc="none", mec="C3", label="best")
    for label, step in model.labels.items():
        axes.axvline(step, color="0.8", lw=1, zorder=0)
        axes.text(step, 1, f" {label}", transform=axes.get_xaxis_transform(), fontsize=9, va="top")
    axes.set(yscale="log", xlabel="step", ylabel="weighted loss")
    axes.set_title("On pictures that it was not shown")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9)
    return figure
