from __future__ import annotations

import math
import warnings
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from sample_clip import clip
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from tqdm import tqdm

from workbench import measure, progress
from workbench.errors import InputError, TrainingError
from workbench.fast import training as module
from workbench.fast.models import Checkpoint, StyleModel, label_checkpoint, read_folder
from workbench.fast.pictures import Pictures
from workbench.fast.training import TrainingIterate, finish_training, train, train_model
from workbench.files import write_bytes
from workbench.images import from_array, load_image, resize, save_image, to_array
from workbench.losses import Losses
from workbench.runs import check_result
from workbench.settings import Settings, TrainingSettings
from workbench.video.clips import write_film

QUICK = TrainingSettings(
    width=0.25,
    crop=64,
    copy_steps=1,
    lead_steps=4,
    whole_after=4,
    batch=2,
    training_steps=7,
    checkpoint_every=3,
)


@pytest.fixture
def small(tiny: Settings) -> Settings:
    return replace(tiny, size=72)


@pytest.fixture
def on(tmp_path: Path, photo: Tensor) -> list[str]:
    """Three smooth pictures."""
    for i in range(3):
        save_image(photo.roll(9 * i, 3) ** (1 + 0.4 * i), tmp_path / "on" / f"{i}.png")
    return [str(tmp_path / "on")]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("step-*")}


@pytest.mark.parametrize("kind", ["gram", "wasserstein"])
def test_training_brings_the_losses_down(
    small: Settings, painting: Tensor, on: list[str], tmp_path: Path, kind: str
) -> None:
    longer = replace(QUICK, training_steps=60, checkpoint_every=20)
    # Without content, style counts in full from the start.
    only_style = replace(small, content_weight=0.0, style_loss=kind)
    for _ in train([painting], on, tmp_path / "m", settings=only_style, training=longer):
        pass
    model = read_folder(tmp_path / "m")
    totals = [each.held_out["total"] for each in model.checkpoints]
    assert [each.step for each in model.checkpoints] == [20, 40, 60]
    assert totals[2] < 0.7 * totals[0]


def test_a_checkpoint_has_a_preview_and_figures_that_measure_confirms(
    small: Settings, painting: Tensor, on: list[str], tmp_path: Path
) -> None:
    last = [*train([painting], on, tmp_path / "m", settings=small, training=QUICK)][-1]
    assert last.checkpoint is not None
    assert last.preview is not None
    assert last.step == 7
    names = {path.name for path in (tmp_path / "m").iterdir()}
    for step in (3, 6, 7):
        assert {f"step-00000{step}.{kind}" for kind in ("safetensors", "png")} <= names
    assert {"model.json", "training.safetensors"} <= names
    shown = load_image(tmp_path / "m" / "step-000007.png")
    assert (shown - last.preview).abs().max() <= 0.5001 / 255
    # One of three pictures is held out: the one in the middle.
    # From 80x60 it is shrunk to 72x54, and enlarged again to the side of a crop, 64.
    picture = from_array(to_array(resize(load_image(Path(on[0]) / "1.png"), (64, 85))))
    model = StyleModel.load(f"{tmp_path / 'm'}@7", device="cpu", precision="float32")
    losses = measure(model(picture), picture, [painting], replace(small, size=85))
    assert last.checkpoint.held_out["content"] == pytest.approx(losses.content_total, rel=1e-4)
    assert last.checkpoint.held_out["tv"] == pytest.approx(losses.tv, rel=1e-4)
    assert read_folder(tmp_path / "m").checkpoints[-1] == last.checkpoint


@pytest.mark.parametrize("temporal_weight", [0.0, 100.0])
def test_a_resumed_training_equals_an_unbroken_one(
    small: Settings, painting: Tensor, on: list[str], tmp_path: Path, temporal_weight: float
) -> None:
    training = replace(QUICK, temporal_weight=temporal_weight)

    def run(folder: Path, stop: int | None = None) -> Iterator[TrainingIterate]:
        for iterate in train([painting], on, folder, settings=small, training=training):
            yield iterate
            if iterate.step == stop:
                return

    whole = [each.losses for each in run(tmp_path / "whole") if each.checkpoint is None]
    for stops in ([1], [3, 4], [2, 6]):
        folder = tmp_path / f"{stops}"
        parts = []
        for stop in (*stops, None):
            parts += [each for each in run(folder, stop) if each.checkpoint is None]
        assert [each.losses for each in parts] == whole
        assert files(folder) == files(tmp_path / "whole")
        for each in read_folder(folder).checkpoints:
            since = whole[each.step - (each.step % 3 or 3) : each.step]
            expected = fmean(losses.total for losses in since if losses is not None)
            assert each.training["total"] == pytest.approx(expected)


def test_a_killed_training_goes_on_at_its_last_checkpoint(
    small: Settings, painting: Tensor, on: list[str], tmp_path: Path
) -> None:
    for _ in train([painting], on, tmp_path / "whole", settings=small, training=QUICK):
        pass
    kept = tmp_path / "kept"
    for iterate in train([painting], on, tmp_path / "m", settings=small, training=QUICK):
        if iterate.step == 3 and iterate.checkpoint:
            kept.write_bytes((tmp_path / "m" / "training.safetensors").read_bytes())
        if iterate.step == 5:
            break
    # As a kill would have left it: the state of step 3, and no word of it in model.json.
    (tmp_path / "m" / "training.safetensors").write_bytes(kept.read_bytes())
    (tmp_path / "m" / "model.json").unlink()
    steps = [
        each.step for each in train([painting], on, tmp_path / "m", settings=small, training=QUICK)
    ]
    assert steps[0] == 4
    assert files(tmp_path / "m") == files(tmp_path / "whole")


def test_the_same_seed_gives_the_same_model_and_another_one_another(
    small: Settings, painting: Tensor, on: list[str], tmp_path: Path
) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        settings = replace(small, seed=seed)
        for _ in train([painting], on, tmp_path / name, settings=settings, training=QUICK):
            pass
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert files(tmp_path / "a") != files(tmp_path / "c")


def test_training_can_be_extended_and_keeps_its_labels(
    small: Settings, painting: Tensor, on: list[str], tmp_path: Path
) -> None:
    def run(steps: int) -> list[int]:
        training = replace(QUICK, training_steps=steps)
        iterates = train([painting], on, tmp_path / "m", settings=small, training=training)
        return [each.step for each in iterates if each.checkpoint is None]

    assert run(3) == [1, 2, 3]
    label_checkpoint(tmp_path / "m", 3, "weird")
    assert run(3) == []
    assert run(6) == [4, 5, 6]
    model = read_folder(tmp_path / "m")
    assert [each.step for each in model.checkpoints] == [3, 6]
    assert model.labels == {"weird": 3}


def test_another_training_is_refused(
    small: Settings, painting: Tensor, on: list[str], tmp_path: Path
) -> None:
    for _ in train([painting], on, tmp_path / "m", settings=small, training=QUICK):
        pass

    def again(style: Tensor = painting, **changes: float) -> None:
        own = {k: v for k, v in changes.items() if k == "style_weight"}
        others = {k: v for k, v in changes.items() if k not in own}
        settings, training = replace(small, **own), replace(QUICK, **others)  # type: ignore[arg-type]
        next(train([style], on, tmp_path / "m", settings=settings, training=training))

    with pytest.raises(InputError, match=r"another training \(style_weight was 100.0, is 30.0\)"):
        again(style_weight=30.0)
    with pytest.raises(InputError, match=r"width was 0.25, is 0.5"):
        again(width=0.5)
    with pytest.raises(InputError, match=r"style picture 1 is another one\)"):
        again(painting.flip(2))
    before = files(tmp_path / "m")
    (tmp_path / "m" / "training.safetensors").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"training\.safetensors is damaged"):
        again()
    (tmp_path / "m" / "training.safetensors").unlink()
    with pytest.raises(InputError, match=r"holds a model, but training\.safetensors"):
        again()
    assert files(tmp_path / "m") == before


def test_training_ends_in_time(
    small: Settings, painting: Tensor, on: list[str], tmp_path: Path
) -> None:
    training = replace(QUICK, minutes=1e-6)  # a step takes longer
    iterates = [*train([painting], on, tmp_path / "m", settings=small, training=training)]
    assert [(each.step, each.checkpoint is None) for each in iterates] == [(1, True), (1, False)]


@pytest.mark.parametrize(
    ("totals", "since"),
    [([], 0), ([5.0], 0), ([5, 4.99], 1), ([5, 4], 0), ([5, 4, 4.5, 3.99], 2), ([5, 6, 4.9], 0)],
)
def test_how_long_there_was_no_progress(totals: list[float], since: int) -> None:
    checkpoints = [Checkpoint(i, {"total": total}, {}, 0.0) for i, total in enumerate(totals)]
    assert module._stalled(checkpoints) == since


def test_training_stops_when_the_held_out_loss_no_longer_falls(
    small: Settings,
    painting: Tensor,
    on: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    take_step = module._State.take_step

    def take_no_step(self: module._State, losses: Losses) -> None:
        take_step(self, losses)
        for parameter in self.average.parameters():
            parameter.zero_()

    monkeypatch.setattr(module._State, "take_step", take_no_step)
    training = replace(QUICK, training_steps=90, checkpoint_every=1, patience=4)
    iterates = [*train([painting], on, tmp_path / "m", settings=small, training=training)]
    assert iterates[-1].step == 5  # the first checkpoint, and four without progress


def test_the_network_learns_to_copy_first(
    small: Settings, painting: Tensor, on: list[str], tmp_path: Path
) -> None:
    training = replace(QUICK, copy_steps=60, training_steps=60, checkpoint_every=60)
    iterates = [*train([painting], on, tmp_path / "m", settings=small, training=training)]
    assert all(each.losses is None for each in iterates)
    model = StyleModel.load(f"{tmp_path / 'm'}@60", device="cpu", precision="float32")
    picture = load_image(Path(on[0]) / "1.png")
    assert (model(picture) - picture).square().mean() < 0.3 * picture.var()


def test_content_leads_at_first(
    small: Settings, painting: Tensor, on: list[str], tmp_path: Path
) -> None:
    def leads(settings: Settings, steps: list[int], lead_steps: int = 100) -> list[float]:
        training = replace(QUICK, copy_steps=10, lead_steps=lead_steps)
        pictures = Pictures(on, settings.size, training.crop)
        task = module.Task([painting], pictures, None, settings, training)
        return [task.content_lead(step) for step in steps]

    strong = replace(small, style_weight=1e6)
    first, half, last, later = leads(strong, [10, 60, 110, 500])
    assert first > 100  # as strong as the style
    assert half == pytest.approx(first**0.5)
    assert last == later == 1
    assert leads(strong, [10], lead_steps=0)[0] == 1
    assert leads(strong, [10, 11], lead_steps=1) == [first, 1]
    # Ten times the style weight: ten times the lead.
    assert leads(replace(small, style_weight=1e7), [10])[0] == pytest.approx(10 * first, rel=1e-4)
    # Where there is no content loss, or a style too weak to do harm, nothing leads.
    assert leads(replace(strong, content_weight=0.0), [10])[0] == 1
    assert leads(replace(small, style_weight=1e-6), [10])[0] == 1


def test_what_leads_is_learned_first(
    small: Settings, painting: Tensor, on: list[str], tmp_path: Path
) -> None:
    settings = replace(small, style_weight=1e4)

    def learned(name: str, lead_steps: int) -> dict[str, float]:
        training = replace(
            QUICK, copy_steps=20, lead_steps=lead_steps, training_steps=60, checkpoint_every=60
        )
        for _ in train([painting], on, tmp_path / name, settings=settings, training=training):
            pass
        return read_folder(tmp_path / name).checkpoints[-1].held_out

    led, plain = learned("led", 1000), learned("plain", 0)
    assert led["content"] < 0.9 * plain["content"]
    assert led["style"] > plain["style"]


def explode(monkeypatch: pytest.MonkeyPatch, steps: list[int], times: int) -> list[float]:
    """Make losses at some steps infinite, so often; lists the rates that were in force then."""
    backward, rescued, rates = module.Task.backward, module._rescued, []

    def exploded(self: module.Task, network: object, step: int, batch: object) -> Losses | None:
        losses = backward(self, network, step, batch)  # type: ignore[arg-type]
        if losses is not None and step in steps and len(rates) < times:
            return replace(losses, total=math.nan)
        return losses

    def noted(state: module._State, *others: Any) -> module._State:
        rates.append(state.rate())
        return rescued(state, *others)

    monkeypatch.setattr(module.Task, "backward", exploded)
    monkeypatch.setattr(module, "_rescued", noted)
    return rates


def test_an_explosion_goes_back_to_the_last_checkpoint_with_a_lower_rate(
    small: Settings,
    painting: Tensor,
    on: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rates = explode(monkeypatch, [4], times=2)
    iterates = train([painting], on, tmp_path / "m", settings=small, training=QUICK)
    steps = [each.step for each in iterates if each.checkpoint is None]
    assert steps == [1, 2, 3, 4, 4, 4, 5, 6, 7]
    assert rates == [0.05, 0.025]
    assert read_folder(tmp_path / "m").checkpoints[-1].step == 7


def test_an_explosion_before_the_first_checkpoint_begins_anew(
    small: Settings,
    painting: Tensor,
    on: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    explode(monkeypatch, [2], times=1)
    iterates = train([painting], on, tmp_path / "m", settings=small, training=QUICK)
    assert [each.step for each in iterates if each.checkpoint is None] == [1, 2, *range(1, 8)]


def test_a_training_that_keeps_exploding_says_so_and_keeps_its_checkpoints(
    small: Settings,
    painting: Tensor,
    on: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    explode(monkeypatch, [5], times=99)
    with pytest.raises(TrainingError, match=r"exploded 5 times, the last time at step 6; lower"):
        for _ in train([painting], on, tmp_path / "m", settings=small, training=QUICK):
            pass
    assert read_folder(tmp_path / "m").best.step == 3
    assert StyleModel.load(tmp_path / "m").network is not None


def test_parameters_that_are_not_finite_never_become_a_checkpoint(
    small: Settings,
    painting: Tensor,
    on: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    take_step = module._State.take_step
    spoiled = []

    def taken(self: module._State, losses: Losses) -> None:
        take_step(self, losses)
        if self.step == 6 and not spoiled:
            spoiled.append(self.step)
            with torch.no_grad():
                self.network.paint.weight[0, 0] = math.inf

    monkeypatch.setattr(module._State, "take_step", taken)
    iterates = train([painting], on, tmp_path / "m", settings=small, training=QUICK)
    steps = [each.step for each in iterates if each.checkpoint is None]
    assert steps == [1, 2, 3, 4, 5, 6, 4, 5, 6, 7]
    for path in (tmp_path / "m").glob("step-*.safetensors"):
        StyleModel.load(path)


def test_the_temporal_loss_is_that_of_the_companions(
    small: Settings, painting: Tensor, on: list[str], tmp_path: Path
) -> None:
    found = []
    for weight in (100.0, 200.0):
        training = replace(QUICK, temporal_weight=weight)
        folder = tmp_path / f"{weight}"
        iterates = train([painting], on, folder, settings=small, training=training)
        first = next(each for each in iterates if each.losses is not None)
        assert first.step == 2  # the first one copied
        assert first.losses is not None
        found.append(first.losses.temporal)
    assert found[0] > 0
    assert found[1] == pytest.approx(2 * found[0], rel=1e-3)


class Listener(TorchDispatchMode):
    """Refuses what has no gradient on Apple's GPUs."""

    warped = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        if "grid_sampler_2d_backward" in str(func):
            self.warped += 1
            assert args[3] == 0, "not bilinear"
        return func(*args, **(kwargs or {}))


def test_the_temporal_loss_has_a_gradient_on_apples_gpu(
    small: Settings, painting: Tensor, on: list[str], tmp_path: Path
) -> None:
    training = replace(QUICK, temporal_weight=100.0, training_steps=3)
    with Listener() as heard:
        for _ in train([painting], on, tmp_path / "m", settings=small, training=training):
            pass
    assert heard.warped == 2 * 2  # pictures, steps that do not copy


def test_gpus_that_do_not_train_are_left_alone(
    small: Settings,
    painting: Tensor,
    on: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def touched(*args: object) -> None:
        raise AssertionError

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "get_rng_state", touched)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        next(train([painting], on, tmp_path / "m", settings=small, training=QUICK))


def test_crops_are_at_most_of_the_size(
    small: Settings, painting: Tensor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_film(clip().frames[:6], tmp_path / "clip.mp4", 25)
    settings, training = replace(small, size=80), replace(QUICK, crop=256, training_steps=5)
    on = [str(tmp_path / "clip.mp4")]
    *_, last = train([painting], on, tmp_path / "m", settings=settings, training=training)
    assert last.preview is not None
    assert last.preview.shape == (1, 3, 80, 107)
    assert "Left out" not in capsys.readouterr().out


def test_the_random_state_of_others_is_not_touched(
    small: Settings, painting: Tensor, on: list[str], tmp_path: Path
) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    next(train([painting], on, tmp_path / "m", settings=small, training=QUICK))
    assert torch.equal(torch.rand(3), expected)


def test_a_folder_is_used_by_one_training_at_a_time(
    small: Settings, painting: Tensor, on: list[str], tmp_path: Path
) -> None:
    first = train([painting], on, tmp_path / "m", settings=small, training=QUICK)
    next(first)
    with pytest.raises(InputError, match="another run"):
        next(train([painting], on, tmp_path / "m", settings=small, training=QUICK))


def test_an_interrupted_training_keeps_its_steps_and_lets_go_of_its_folder(
    small: Settings,
    painting: Tensor,
    on: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where Ctrl-C comes between two steps, and its traceback is kept, as Jupyter does."""

    class Bar(tqdm):  # type: ignore[type-arg]
        def update(self, n: float | None = 1) -> bool | None:
            if self.n + (n or 0) == 2:
                raise KeyboardInterrupt
            return super().update(n)

    save_image(painting, tmp_path / "ink.png")

    def again() -> Generator[TrainingIterate]:
        ink = str(tmp_path / "ink.png")
        return train_model(ink, on, tmp_path / "m", settings=small, training=QUICK)

    iterates = again()
    with monkeypatch.context() as patch:
        patch.setattr(progress, "tqdm", Bar)
        with pytest.raises(KeyboardInterrupt) as kept:
            for _ in iterates:
                pass
    assert next(again()).step == 3
    assert kept.tb is not None


def test_what_a_finished_training_shows(
    small: Settings,
    painting: Tensor,
    on: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ink = str(tmp_path / "ink.png")
    save_image(painting, ink)
    for _ in train_model([ink], on, tmp_path / "m", settings=small, training=QUICK):
        pass
    label_checkpoint(tmp_path / "m", 3, "less good")
    result = finish_training(tmp_path / "m")
    assert check_result(tmp_path / "m") == result
    assert set(result.outputs) == {"model", "preview", "gif", "previews", "losses"}
    assert result.figures["steps"] == 7
    assert result.settings["style"] == [ink]
    assert result.settings["training_steps"] == 7
    assert "held-out" in capsys.readouterr().out
    write_bytes(tmp_path / "m" / "live" / "index.html", b"a page")
    assert finish_training(tmp_path / "m").outputs["page"] == "live/index.html"
    axes = module.plot_training(read_folder(tmp_path / "m")).axes[0]
    lines = {line.get_label(): line.get_xydata() for line in axes.lines}
    assert lines["total"][:, 0].tolist() == [3, 6, 7]
    assert [text.get_text().strip() for text in axes.texts] == ["less good"]


def test_all_strengths_are_learned(
    small: Settings, painting: Tensor, on: list[str], tmp_path: Path
) -> None:
    training = replace(QUICK, strengths=True)
    names = ["inks/ink.png"]
    for _ in train(
        [painting], on, tmp_path / "m", settings=small, training=training, style_names=names
    ):
        pass
    model = StyleModel.load(tmp_path / "m", device="cpu", precision="float32")
    assert model.network.sets == ("source", "ink")
    picture = load_image(Path(on[0]) / "1.png")
    assert torch.equal(model.mixed(0.0)(picture), picture)
    scales = [layer.scale for layer in model.network.head]
    assert all(not torch.equal(scale[0], scale[1]) for scale in scales)


def test_one_strength_in_eight_is_not_the_full_one_whatever_the_style(
    small: Settings, painting: Tensor, on: list[str]
) -> None:
    pictures = Pictures(on, small.size, QUICK.crop)
    training = replace(QUICK, strengths=True, many=True, copy_steps=40)
    task = module.Task([painting, painting], pictures, None, small, training)
    drawn = [task.strength(step) for step in range(840)]
    assert {*drawn[:40]} == {1.0}  # it learns to copy
    for number in (0, 1):
        between = [strength for strength in drawn[number::2] if strength < 1]
        assert len(between) == pytest.approx(400 / 8, rel=0.3)
        assert 0 <= min(between) < 0.1
        assert 0.9 < max(between) < 1
    assert task.strength(440) == drawn[440]
    assert module.Task([painting], pictures, None, small, QUICK).strength(2) == 1.0


def test_all_that_is_to_be_learned_begins_with_what_copies(
    small: Settings, painting: Tensor, on: list[str], tmp_path: Path
) -> None:
    training = replace(QUICK, strengths=True, many=True, copy_steps=7)
    for _ in train([painting, painting], on, tmp_path / "m", settings=small, training=training):
        pass
    network = StyleModel.load(tmp_path / "m", device="cpu", precision="float32").network
    for layer in (*network.head, *network.residual, *network.tail):
        for sets in (layer.scale, layer.shift):
            assert torch.equal(sets, sets[:1].expand_as(sets))
        assert layer.shift.abs().min() > 0  # it has learned


def test_many_styles_are_learned_each_on_its_own(
    small: Settings, painting: Tensor, on: list[str], tmp_path: Path
) -> None:
    training = replace(
        QUICK, many=True, copy_steps=5, lead_steps=0, training_steps=60, checkpoint_every=60
    )
    settings = replace(small, content_weight=0.0)
    styles, names = [painting, painting.flip(1) ** 2], ["a/ink.png", "b/ink.png"]
    iterates = train(
        styles, on, tmp_path / "m", settings=settings, training=training, style_names=names
    )
    *_, last = iterates
    assert last.preview is not None
    assert last.preview.shape[-1] == 2 * 85  # side by side
    model = StyleModel.load(tmp_path / "m", device="cpu", precision="float32")
    assert model.network.sets == ("ink 1", "ink 2")
    picture = from_array(to_array(resize(load_image(Path(on[0]) / "1.png"), (64, 85))))
    found = [
        [
            measure(model.mixed(1.0, shares)(picture), picture, [style], replace(settings, size=85))
            for style in styles
        ]
        for shares in ((1, 0), (0, 1))
    ]
    losses = [[each.style_total for each in row] for row in found]
    assert losses[0][0] < losses[1][0]  # each is the nearest to its own
    assert losses[1][1] < losses[0][1]
    assert last.checkpoint is not None
    mean = (losses[0][0] + losses[1][1]) / 2
    assert last.checkpoint.held_out["style"] == pytest.approx(mean, rel=1e-3)


def test_many_styles_are_two_or_more(
    small: Settings, painting: Tensor, on: list[str], tmp_path: Path
) -> None:
    many = replace(QUICK, many=True)
    blended = replace(small, style_blend_weights=(1.0, 2.0))
    for styles, settings in (([painting], small), ([painting, painting], blended)):
        with pytest.raises(
            InputError, match=r"many = True: .* give two or more of them, and neither"
        ):
            next(train(styles, on, tmp_path / "m", settings=settings, training=many))
