"""Style pictures + pictures to learn on -> a style model, checkpoint by checkpoint.

The folder of a model holds, beside its checkpoints, `training.safetensors`: what a stopped
training needs to go on, which is the network and the memory of its optimisers. What a step
looks at depends on the seed and the number of the step alone, so there is no other random state.
"""

from __future__ import annotations

import contextlib
import copy
import math
import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from workbench import sheets
from workbench.checkpoints import DAMAGED, load_tree, save_tree
from workbench.devices import machine
from workbench.errors import InputError, TrainingError
from workbench.fast import models
from workbench.fast.keyframes import read_keyframes
from workbench.fast.models import Checkpoint, ModelFolder, read_folder
from workbench.fast.network import TransformationNetwork
from workbench.fast.pictures import Batch, Pictures
from workbench.fast.task import Task, means
from workbench.files import claimed
from workbench.images import check_image, load_image, save_image, to_array
from workbench.losses import Losses
from workbench.progress import bar
from workbench.runs import Identity, Result, digest, finish_run
from workbench.samples import find_pictures, load_picture
from workbench.settings import NOT_TRAINED, Settings, TrainingSettings
from workbench.weights import load_weights

STATE = "training.safetensors"
MAX_RESCUES = 4  # explosions, each of which halves the rate
EMA_DECAY = 0.99  # share of the running average that stays at a step
PROGRESS = 0.99  # times the lowest held-out loss so far: a checkpoint below that is progress
_MAY_CHANGE = ("training_steps", "minutes", "patience", "checkpoint_every")  # on the way
# Losses fall to a tenth within some hundred steps. With the usual 0.999, Adam would divide by
# what gradients were at first for a thousand.
_BETAS = (0.9, 0.99)
_ADAM_RATE = 0.06  # times that of Muon, whose steps are for whole matrices
_FULL_RATE = 200  # steps, from which on the rate shrinks with the root of their number


@dataclass(frozen=True, eq=False)
class TrainingIterate:
    """A style model on its way."""

    step: int  # taken so far; falls back to that of a checkpoint after an explosion
    steps: int  # that there will be at most
    losses: Losses | None  # weighted, means over the step's batch; None while it learns to copy
    seconds: float  # of training so far, all runs together
    checkpoint: Checkpoint | None = None  # the one that has just been written
    preview: Tensor | None = None  # with it: as painted, `(1, 3, H, W)`, sRGB in [0, 1]


def train(
    styles: Sequence[Tensor],
    on: Sequence[str | os.PathLike[str]],
    output_dir: str | os.PathLike[str],
    *,
    settings: Settings = Settings(),  # noqa: B008 (frozen)
    training: TrainingSettings = TrainingSettings(),  # noqa: B008
    preview: Tensor | None = None,
    style_names: Sequence[str] = (),
    keyframes: Mapping[str, str] = MappingProxyType({}),
) -> Generator[TrainingIterate]:
    """Train a network to paint in a style, step by step; run again, it goes on.

    Johnson, Alahi and Fei-Fei 2016 (arXiv 1603.08155): what is minimised are the losses of what
    the network makes of pictures. Differs in what makes a short training worth while: the
    network first learns to copy, is shown crops and then whole pictures, the content loss leads
    for some time, convolutions learn by Muon (Jordan et al. 2024), which takes far fewer steps
    than Adam, and the model is the running average of the network's parameters.

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
        See `TrainingSettings`. How long it takes may be another when training goes on. Crops
        are at most of `settings.size`.
    preview
        Picture that is painted at every checkpoint; None: a held-out one.
    style_names
        What `model.json` calls the style pictures.
    keyframes
        Frames that somebody painted, as for `keyframes.read_keyframes`: what is made of them is to
        look like that, beside all else (`keyframe_weight`). `on` is then their clip.

    Yields
    ------
    TrainingIterate
        After every step and every checkpoint. Leave the loop to stop; the next call goes on at that
        step, after a kill at the last checkpoint, with the same result as if nothing had happened.

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
        painted = read_keyframes(keyframes, names, settings.size)
        pictures = Pictures(names, settings.size, min(training.crop, settings.size))
        task = Task(styles, pictures, preview, settings, training, painted, style_names)
        used = {k: v for k, v in settings.as_dict().items() if k not in NOT_TRAINED}
        about = ModelFolder(
            styles=tuple(style_names) or tuple(f"style {i + 1}" for i in range(len(styles))),
            on=names,
            settings={**used, **training.as_dict()},
            weights=load_weights(settings.backbone).as_dict(),
        )
        yield from _train(task, folder, about)


def _train(task: Task, folder: Path, about: ModelFolder) -> Iterator[TrainingIterate]:
    identity = _identity_of(task, about)
    state = _load(folder, identity, task)
    if state.checkpoints:
        _write_model(folder, about, state, task.pictures)  # a kill may have come before it
    losses = None
    with _prefetched(task.draw) as batch_of:
        try:
            while True:
                began = time.monotonic()
                checkpoint = preview = None
                if state.is_due():
                    held_out, preview = task.evaluate(state.average)
                    is_sound = math.isfinite(held_out["total"]) and state.is_finite()
                elif state.is_done():
                    return
                else:
                    losses = task.backward(state.network, state.step, batch_of(state.step))
                    is_sound = losses is None or math.isfinite(losses.total)
                if not is_sound:
                    state = _rescued(state, _load(folder, identity, task), folder)
                    continue
                if preview is None:
                    state.take_step(losses)
                    state.seconds += time.monotonic() - began
                else:
                    checkpoint = Checkpoint(
                        state.step, held_out, means(state.recent), state.seconds
                    )
                    save_image(preview, folder / f"{checkpoint.name}.png")
                    models.save_network(state.average, folder / f"{checkpoint.name}.safetensors")
                    state.checkpoints.append(checkpoint)
                    state.recent.clear()
                    state.seconds += time.monotonic() - began
                    _save(state, folder, identity)
                    _write_model(folder, about, state, task.pictures)
                steps = task.training.training_steps
                yield TrainingIterate(state.step, steps, losses, state.seconds, checkpoint, preview)
        except (KeyboardInterrupt, GeneratorExit):
            _save(state, folder, identity)
            raise


def _rescued(exploded: _State, before: _State, folder: Path) -> _State:
    """The state of the last checkpoint, to go on from with half the rate."""
    before.seconds, before.rescues = exploded.seconds, exploded.rescues + 1
    if before.rescues > MAX_RESCUES:
        raise TrainingError(
            f"training exploded {before.rescues} times, the last time at step"
            f" {exploded.step + 1}; lower training_rate or style_weight. Checkpoints up to there"
            f" are in {folder}."
        )
    return before


@contextlib.contextmanager
def _prefetched(draw: Callable[[int], Batch]) -> Iterator[Callable[[int], Batch]]:
    """Yields what draws the batch of a step, and the next one in a thread meanwhile."""
    with ThreadPoolExecutor(1) as thread:
        begun: dict[int, Future[Batch]] = {}

        def batch_of(step: int) -> Batch:
            drawn = begun.pop(step, None) or thread.submit(draw, step)
            begun.clear()
            begun[step + 1] = thread.submit(draw, step + 1)
            return drawn.result()

        yield batch_of


# --- how far it is -----------------------------------------------------------------------


class _State:
    """A network, its running average, its optimisers, and what came of them."""

    def __init__(self, task: Task) -> None:
        self.training = task.training
        with torch.random.fork_rng(devices=[]):  # it is made on the CPU
            torch.manual_seed(task.problem.settings.seed)
            network = TransformationNetwork(self.training.width, task.sets, self.training.network)
        self.network = network.to(task.problem.device)
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        matrices = self.network.matrices()
        kept = {id(matrix) for matrix in matrices}
        others = [each for each in self.network.parameters() if id(each) not in kept]
        self.muon = torch.optim.Muon(matrices, weight_decay=0.0)
        self.adam = torch.optim.Adam(others, betas=_BETAS)
        self.step, self.seconds, self.rescues = 0, 0.0, 0
        self.recent: list[dict[str, float]] = []  # losses since the last checkpoint
        self.checkpoints: list[Checkpoint] = []
        self._stepping = False

    def rate(self) -> float:
        """Learning rate of the next step."""
        step = max(0, self.step - self.training.copy_steps)
        shrunk = min(1.0, math.sqrt(_FULL_RATE / (1 + step)))
        return shrunk * self.training.training_rate * 0.5**self.rescues

    def take_step(self, losses: Losses | None) -> None:
        """Apply both optimisers to the gradient that `Task.backward` has left."""
        self._stepping = True
        for optimizer, factor in ((self.muon, 1.0), (self.adam, _ADAM_RATE)):
            optimizer.param_groups[0]["lr"] = factor * self.rate()
            optimizer.step()
        decay = min(EMA_DECAY, (1 + self.step) / (10 + self.step))  # what came first was worst
        with torch.no_grad():
            pairs = zip(self.average.parameters(), self.network.parameters(), strict=True)
            for mean, parameter in pairs:
                mean.lerp_(parameter, 1 - decay)
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

    def is_whole(self) -> bool:
        """Whether training can go on from here: a step was taken, and not broken off."""
        return self.step > 0 and not self._stepping and self.is_finite()

    def tree(self) -> dict[str, Any]:
        """Everything that the next steps depend on."""
        parts = {name: getattr(self, name).state_dict() for name in _PARTS}
        counts = {name: getattr(self, name) for name in _COUNTS}
        return {**parts, **counts, "checkpoints": [asdict(each) for each in self.checkpoints]}

    def restore(self, tree: Mapping[str, Any]) -> None:
        """Be as when `tree` returned this."""
        for name in _PARTS:
            getattr(self, name).load_state_dict(tree[name])
        for name in _COUNTS:
            setattr(self, name, tree[name])
        self.checkpoints = [Checkpoint(**each) for each in tree["checkpoints"]]


_PARTS = ("network", "average", "muon", "adam")
_COUNTS = ("step", "seconds", "rescues", "recent")


def _stalled(checkpoints: Sequence[Checkpoint]) -> int:
    """Number of checkpoints since the held-out loss last fell clearly."""
    lowest, since = math.inf, 0
    for checkpoint in checkpoints:
        total = checkpoint.held_out["total"]
        lowest, since = (total, 0) if total < PROGRESS * lowest else (lowest, since + 1)
    return since


# --- the folder --------------------------------------------------------------------------


def _identity_of(task: Task, about: ModelFolder) -> Identity:
    """Everything that the model depends on, but for when training ends."""
    styles = enumerate(task.problem.styles, start=1)
    painted = enumerate(task.keyframes, start=1)
    unused = _MAY_CHANGE if task.keyframes else (*_MAY_CHANGE, "keyframe_weight")
    return Identity(
        {
            **{f"style picture {i}": digest(style) for i, style in styles},
            **{f"keyframe {i}": digest(torch.cat([p.source, p.painted])) for i, p in painted},
            "set of weights": about.weights["sha256"],
            **{name: value for name, value in about.settings.items() if name not in unused},
            "on": list(about.on),
            "number of pictures": len(task.pictures),
            **machine(task.problem.device, task.problem.network.dtype),
        }
    )


def _save(state: _State, folder: Path, identity: Identity) -> None:
    if state.is_whole():
        save_tree(folder / STATE, {"identity": identity.values, **state.tree()})


def _load(folder: Path, identity: Identity, task: Task) -> _State:
    """The state that was saved last, or a new one; another training's is refused."""
    path, state = folder / STATE, _State(task)
    if not path.is_file():
        if (folder / models.MODEL).exists():
            raise InputError(
                f"{folder} holds a model, but {STATE}, which is needed to train it on, is gone;"
                " use another folder."
            )
        return state
    try:
        tree = load_tree(path)
        differences = identity.differences(tree["identity"])
        if differences:
            raise InputError(
                f"{folder} holds another training ({'; '.join(differences)}); ask for the same"
                " again, or use another folder."
            )
        state.restore(tree)
    except (*DAMAGED, RuntimeError):
        raise InputError(
            f"{path} is damaged, or of an earlier version of the workbench, whose models can be"
            " painted with, but not trained on; use another folder to begin anew."
        ) from None
    return state


def _write_model(folder: Path, about: ModelFolder, state: _State, pictures: Pictures) -> None:
    labels = read_folder(folder).labels if (folder / models.MODEL).exists() else {}
    checkpoints, skipped = tuple(state.checkpoints), tuple(pictures.skipped.values())
    models.write_folder(
        folder, replace(about, checkpoints=checkpoints, labels=labels, skipped=skipped)
    )


# --- from the first step to the last picture ---------------------------------------------


def train_model(
    styles: str | Sequence[str],
    on: Sequence[str | os.PathLike[str]],
    output_dir: str | os.PathLike[str],
    *,
    settings: Settings = Settings(),  # noqa: B008
    training: TrainingSettings = TrainingSettings(),  # noqa: B008
    preview: str = "",
    keyframes: Mapping[str, str] = MappingProxyType({}),
) -> Generator[TrainingIterate]:
    """Do as `train` with pictures by their names, and draw a progress bar with the losses.

    Without styles, it is the painted keyframes whose style is learned.

    However it ends, training is stopped as it should be: it keeps its steps, and lets go of its
    folder. An empty `preview` is a held-out picture.
    """
    names = find_pictures(styles or list(keyframes.values()))
    iterates = train(
        [load_picture(name, for_size=settings.largest) for name in names],
        on,
        output_dir,
        settings=settings,
        training=training,
        preview=load_picture(preview, for_size=settings.size) if preview else None,
        style_names=names,
        keyframes=keyframes,
    )
    held_out = ""

    def where(now: TrainingIterate) -> tuple[int, int, str]:
        nonlocal held_out
        if now.checkpoint is not None:
            held_out = f", held-out {now.checkpoint.held_out['total']:.3g}"
        loss = "" if now.losses is None else f"loss {now.losses.total:.3g}{held_out}"
        return now.step, now.steps, loss

    def left(now: TrainingIterate) -> float:
        by_steps = (now.steps - now.step) * now.seconds / max(1, now.step)
        return min(by_steps, max(0.0, 60 * (training.minutes or math.inf) - now.seconds))

    with contextlib.closing(iterates):
        yield from bar(iterates, "training", "step", where=where, left=left)


def finish_training(
    folder: str | os.PathLike[str], told: Mapping[str, Any] | None = None
) -> Result:
    """Draw what a training was like and write its `result.json`, with what else it was `told`.

    Makes `losses.png`, `previews.png` (six checkpoints side by side) and `learning.gif` (all
    of them) from what lies in the folder. A page in its folder `live` is listed, too.
    """
    folder = Path(folder)
    model = read_folder(folder)
    shots = [to_array(load_image(folder / f"{each.name}.png")) for each in model.checkpoints]
    sheets.save_plot(plot_training(model), folder / "losses.png")
    sheets.save_gif(shots, folder / "learning.gif", fps=4)
    chosen = sorted({round(i * (len(shots) - 1) / 5) for i in range(6)})
    sheets.save_strip(
        [shots[i] for i in chosen],
        [f"step {model.checkpoints[i].step}" for i in chosen],
        folder / "previews.png",
    )
    best, page = model.best, folder / "live" / "index.html"
    return finish_run(
        folder,
        outputs={
            "model": folder / f"{best.name}.safetensors",
            "preview": folder / f"{best.name}.png",
            "gif": folder / "learning.gif",
            "previews": folder / "previews.png",
            "losses": folder / "losses.png",
            **({"page": page} if page.is_file() else {}),
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
    figure, axes = sheets.new_plot()
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
    sheets.finish_plot(axes)
    return figure
