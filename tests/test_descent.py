from __future__ import annotations

import gc
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from workbench import descent
from workbench.descent import (
    ENLARGED_FIRST_STEP,
    FIRST_STEP,
    WARMUP_STEPS,
    measure,
    optimize,
    stylize,
)
from workbench.errors import InputError, MemoryExceeded, OptimizationError
from workbench.features import Network, build_network
from workbench.forecast import HISTORY, Outline, scales
from workbench.images import from_array, resize, save_image, to_array
from workbench.losses import Losses, TemporalTarget, content_loss, gram_matrix, style_loss, tv_loss
from workbench.problem import TARGETS_KEPT, Problem, kept_targets
from workbench.settings import STYLE_LOSSES, Settings
from workbench.weights import load_weights


def test_the_first_iterate_is_the_start_and_then_comes_every_step(
    tiny: Settings, photo: Tensor, painting: Tensor
) -> None:
    iterates = list(optimize(photo, [painting], tiny))
    assert [iterate.step for iterate in iterates] == list(range(13))
    assert {iterate.steps for iterate in iterates} == {12}
    assert torch.allclose(iterates[0].image, resize(photo, 64), atol=1e-6)
    assert iterates[-1].losses.total < 0.5 * iterates[0].losses.total


def test_scales_go_from_coarse_to_fine(tiny: Settings, photo: Tensor, painting: Tensor) -> None:
    settings = replace(tiny, size=256, steps=(2, 3, 4))
    iterates = list(optimize(photo, [painting], settings))
    # A quarter of 256x192 would be under 64 pixels on its shorter side and is left out.
    assert [iterate.size for iterate in iterates] == [128] * 4 + [256] * 4
    assert [iterate.step for iterate in iterates] == list(range(8))
    assert iterates[-1].image.shape == (1, 3, 192, 256)


def test_losses_belong_to_the_picture_they_come_with(
    tiny: Settings, photo: Tensor, painting: Tensor
) -> None:
    for iterate in optimize(photo, [painting], tiny):
        referee = measure(iterate.image, photo, [painting], tiny)
        assert iterate.losses.total == pytest.approx(referee.total, rel=1e-4)
        assert iterate.losses.style == pytest.approx(dict(referee.style), rel=1e-4)
        assert iterate.losses.content == pytest.approx(dict(referee.content), rel=1e-4, abs=1e-3)


def plain_loop(photo: Tensor, painting: Tensor, settings: Settings) -> list[float]:
    """Adam, then L-BFGS, on straight-through clipped pixels, with everything written out."""
    network = build_network(load_weights(settings.backbone), settings.layers)
    content_picture = resize(photo, settings.size) * 255
    with torch.no_grad():
        content = network(content_picture, settings.content_layers)
        styles = network(resize(painting, settings.size) * 255, settings.style_layers)
        grams = {layer: gram_matrix(a) for layer, a in styles.items()}
    x = content_picture.clone().requires_grad_()
    adam = torch.optim.Adam([x], lr=settings.learning_rate)
    lbfgs = torch.optim.LBFGS([x], max_iter=1, history_size=HISTORY)
    totals = []

    def closure() -> Tensor:
        x.grad = None
        y = x + (x.clamp(0, 255) - x).detach()
        activations = network(y, settings.layers)
        total = settings.tv_weight * tv_loss(y)
        for layer, target in content.items():
            total = total + settings.content_weight * content_loss(activations[layer], target)
        for layer, gram in grams.items():
            total = total + settings.style_weight * style_loss(
                gram_matrix(activations[layer]), gram
            )
        total.backward()
        totals.append(total.item())
        return total

    for step in range(settings.steps[0]):
        if step == WARMUP_STEPS:
            closure()
            totals.pop()
            assert x.grad is not None
            # torch's first step is the gradient over its sum of absolute values, times lr.
            unit = x.grad / x.grad.abs().sum()
            lbfgs.param_groups[0]["lr"] = FIRST_STEP / unit.square().mean().sqrt().item()
        (adam if step < WARMUP_STEPS else lbfgs).step(closure)
        lbfgs.param_groups[0]["lr"] = 1.0
    closure()
    return totals


@pytest.mark.parametrize("tv_weight", [0.0, 1e-3])
def test_equals_a_plain_loop(
    tiny: Settings, photo: Tensor, painting: Tensor, tv_weight: float
) -> None:
    settings = replace(tiny, steps=(WARMUP_STEPS + 6,), tv_weight=tv_weight)
    ours = [iterate.losses.total for iterate in optimize(photo, [painting], settings)]
    assert ours == pytest.approx(plain_loop(photo, painting, settings), rel=1e-3)


def test_same_seed_same_bytes(tiny: Settings, photo: Tensor, painting: Tensor) -> None:
    settings = replace(tiny, init="random", seed=5)
    first, again = (stylize(photo, [painting], settings) for _ in range(2))
    assert torch.equal(first, again)
    other = stylize(photo, [painting], replace(settings, seed=6))
    assert not torch.equal(first, other)


def test_the_saved_picture_is_the_optimised_one(
    tiny: Settings, photo: Tensor, painting: Tensor
) -> None:
    # Black and white stripes pull many pixels beyond the gamut.
    hard = (painting > 0.4).float()
    iterate = list(optimize(photo, [hard], replace(tiny, steps=(40,))))[-1]
    assert 0 <= iterate.image.min() <= iterate.image.max() <= 1
    assert ((iterate.image == 0) | (iterate.image == 1)).float().mean() > 0.05
    saved = from_array(to_array(iterate.image))
    referee = measure(saved, photo, [hard], tiny)
    assert referee.total == pytest.approx(iterate.losses.total, rel=0.02)


def test_start_and_init(tiny: Settings, photo: Tensor, painting: Tensor, tmp_path: Path) -> None:
    given = next(optimize(photo, [painting], tiny, start=painting))
    assert torch.allclose(given.image, resize(painting, (48, 64)), atol=1e-6)
    path = tmp_path / "start.png"
    save_image(painting, path)
    from_file = next(optimize(photo, [painting], replace(tiny, init=str(path))))
    assert torch.allclose(from_file.image, given.image, atol=0.02)
    noise = next(optimize(photo, [painting], replace(tiny, init="random"))).image
    assert 0.05 < noise.std() < 0.15
    with pytest.raises(InputError, match=r"nowhere\.png"):
        next(optimize(photo, [painting], replace(tiny, init="nowhere.png")))


def test_styles_blend(tiny: Settings, photo: Tensor, painting: Tensor) -> None:
    other = painting.flip(1)
    alone = stylize(photo, [painting], tiny)
    all_of_one = replace(tiny, style_blend_weights=(1, 0))
    assert torch.allclose(stylize(photo, [painting, other], all_of_one), alone, atol=1e-3)
    both = stylize(photo, [painting, other], tiny)
    assert (both - alone).abs().mean() > 1e-3


def test_style_scale_changes_what_is_aimed_at(
    tiny: Settings, photo: Tensor, painting: Tensor
) -> None:
    small = measure(photo, photo, [painting], replace(tiny, style_scale=0.5))
    large = measure(photo, photo, [painting], replace(tiny, style_scale=2.0))
    assert small.style_total != pytest.approx(large.style_total, rel=1e-3)


def test_bfloat16_gets_as_far_as_float32(tiny: Settings, photo: Tensor, painting: Tensor) -> None:
    settings = replace(tiny, steps=(WARMUP_STEPS + 20,))
    totals = [
        measure(
            stylize(photo, [painting], replace(settings, precision=precision)),
            photo,
            [painting],
            settings,
        ).total
        for precision in ("float32", "bfloat16")
    ]
    # The way there is another one at every rounding, on so small a network above all.
    assert totals[1] < 1.1 * totals[0]


def test_adam_alone_calms_down(tiny: Settings, photo: Tensor, painting: Tensor) -> None:
    settings = replace(tiny, optimizer="adam", steps=(60,), learning_rate=2.0)
    losses = [iterate.losses.total for iterate in optimize(photo, [painting], settings)]
    assert losses[-1] < 0.3 * losses[0]


def test_a_picture_that_is_perfect_already_is_left_alone(tiny: Settings, photo: Tensor) -> None:
    settings = replace(tiny, style_weight=0.0, tv_weight=0.0, steps=(30,))
    *_, last = optimize(photo, [photo], settings)
    assert (last.image - resize(photo, 64)).abs().max() < 0.1


def test_pictures_of_any_memory_layout_are_taken(
    tiny: Settings, photo: Tensor, painting: Tensor
) -> None:
    settings = replace(tiny, size=80, steps=(WARMUP_STEPS + 3,))
    turned = photo.contiguous(memory_format=torch.channels_last)
    assert stylize(turned, [painting], settings).shape == (1, 3, 60, 80)


def break_lbfgs(monkeypatch: pytest.MonkeyPatch, times: int, value: float) -> list[float]:
    """Let L-BFGS ruin the picture so many times; returns the rates it was used with."""
    rates: list[float] = []
    real = torch.optim.LBFGS.step

    def step(self: torch.optim.LBFGS, closure: object) -> object:
        rates.append(self.param_groups[0]["lr"])
        result = real(self, closure)
        if len(rates) <= times:
            with torch.no_grad():
                pixels = self.param_groups[0]["params"][0]
                pixels.copy_(value * torch.rand_like(pixels))
        return result

    monkeypatch.setattr(torch.optim.LBFGS, "step", step)
    return rates


@pytest.mark.parametrize("value", [float("nan"), 1e9])
def test_a_step_that_explodes_is_taken_back(
    tiny: Settings,
    photo: Tensor,
    painting: Tensor,
    monkeypatch: pytest.MonkeyPatch,
    value: float,
) -> None:
    settings = replace(tiny, steps=(WARMUP_STEPS + 6,))
    rates = break_lbfgs(monkeypatch, 2, value)
    iterates = list(optimize(photo, [painting], settings))
    assert [iterate.step for iterate in iterates] == list(range(WARMUP_STEPS + 7))
    first, second, third = rates[:3]
    assert (second, third) == pytest.approx((first / 2, first / 4))
    assert set(rates[3:]) == {0.25}
    assert iterates[-1].losses.total < iterates[WARMUP_STEPS].losses.total


def test_explosions_now_and_then_do_not_end_a_long_run(
    tiny: Settings, photo: Tensor, painting: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = []
    real = torch.optim.LBFGS.step

    def step(self: torch.optim.LBFGS, closure: object) -> object:
        rates.append(self.param_groups[0]["lr"])
        result = real(self, closure)
        if len(rates) % 15 == 0:
            with torch.no_grad():
                self.param_groups[0]["params"][0].fill_(float("nan"))
        return result

    monkeypatch.setattr(torch.optim.LBFGS, "step", step)
    settings = replace(tiny, steps=(WARMUP_STEPS + 180,))
    *_, last = optimize(photo, [painting], settings)
    assert last.step == WARMUP_STEPS + 180
    assert min(rates) < 1
    assert 1.0 in rates[rates.index(min(rates)) :]


def test_a_start_that_only_gets_worse_at_first_is_no_explosion(
    tiny: Settings, photo: Tensor, painting: Tensor
) -> None:
    # All that can be gained is a little smoothness, and Adam's first steps are clumsy.
    settings = replace(tiny, style_weight=0.0, tv_weight=1e-9, steps=(WARMUP_STEPS + 20,))
    losses = [iterate.losses.total for iterate in optimize(photo, [painting], settings)]
    assert losses[WARMUP_STEPS] > 2 * losses[0]
    assert losses[-1] < losses[WARMUP_STEPS]


def test_explosion_without_end_keeps_the_last_good_picture(
    tiny: Settings, photo: Tensor, painting: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_lbfgs(monkeypatch, 1000, float("nan"))
    iterates = []
    with pytest.raises(OptimizationError, match="step 21") as caught:
        iterates.extend(optimize(photo, [painting], replace(tiny, steps=(30,))))
    last_good = caught.value.last_good
    assert last_good.step == WARMUP_STEPS
    assert math.isfinite(last_good.losses.total)
    assert torch.isfinite(last_good.image).all()


def test_a_start_beyond_float32_is_an_error(
    tiny: Settings, photo: Tensor, painting: Tensor
) -> None:
    with pytest.raises(OptimizationError, match="start picture"):
        next(optimize(photo, [painting], replace(tiny, style_weight=1e38)))


def test_what_is_held_while_a_picture_is_looked_at(
    tiny: Settings, photo: Tensor, painting: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(descent, "history", lambda shape: 2)
    held: list[int] = []
    look = descent._loss_and_gradient

    def tensors() -> list[Tensor]:
        gc.collect()
        return [each for each in gc.get_objects() if type(each) is Tensor]

    others = tensors()  # of other tests; held, so that nothing takes their places in memory
    theirs = {each.untyped_storage().data_ptr() for each in others}

    def counting(pixels: Tensor, *rest: Any) -> Any:
        pictures = {
            each.untyped_storage().data_ptr()
            for each in tensors()
            if each.numel() == pixels.numel()
        }
        held.append(len(pictures - theirs))
        return look(pixels, *rest)

    monkeypatch.setattr(descent, "_loss_and_gradient", counting)
    settings = tiny.changed(steps=(7,))
    for _ in descent.paint(photo, [painting], settings, start=painting):
        pass
    # Now: pixels and direction, and two changes each of pixels and gradient. Before, if a stop
    # comes: pixels, gradient, its predecessor, and a pair that is forgotten now. And the iterate.
    assert held[-1] == 6 + 5 + 1


def test_closing_the_generator_frees_its_memory(
    tiny: Settings, photo: Tensor, painting: Tensor
) -> None:
    stylize(photo, [painting], tiny)
    before = tensors()
    iterates = optimize(photo, [painting], replace(tiny, steps=(WARMUP_STEPS + 10,)))
    for _ in range(WARMUP_STEPS + 5):
        next(iterates)
    assert tensors() > before
    iterates.close()
    assert tensors() <= before


def test_bad_pictures_are_named(tiny: Settings, photo: Tensor, painting: Tensor) -> None:
    def error(content: Tensor, styles: object, **changes: object) -> str:
        with pytest.raises(InputError) as caught:
            next(optimize(content, styles, replace(tiny, **changes)))  # type: ignore[arg-type]
        return str(caught.value)

    assert "content picture is 1x1" in error(torch.rand(1, 3, 1, 1), [painting])
    assert "style picture is 9x9" in error(photo, [torch.rand(1, 3, 9, 9)])
    assert "becomes 64x4" in error(torch.rand(1, 3, 20, 320), [painting])
    assert "styles is empty" in error(photo, [])
    assert "list of pictures" in error(photo, painting)
    assert "content: expected" in error(photo[0], [painting])
    assert "style 2: expected" in error(photo, [painting, painting[0]])
    assert "2 numbers for 1" in error(photo, [painting], style_blend_weights=(1, 2))
    assert "no such device" in error(photo, [painting], device="cuda:77")
    assert "no such device" in error(photo, [painting], device="meta")
    targets = [TemporalTarget(photo, torch.ones(60, 80), 1.0)]
    with pytest.raises(InputError, match="what is visible of temporal target 1: expected"):
        next(optimize(photo, [painting], tiny, temporal=targets))


def test_pictures_that_are_part_of_a_graph_are_taken(
    tiny: Settings, photo: Tensor, painting: Tensor
) -> None:
    expected = stylize(photo, [painting], tiny)
    photo, painting = photo.clone().requires_grad_(), painting.clone().requires_grad_()
    assert torch.equal(stylize(photo, [painting], tiny), expected)
    *_, last = optimize(photo, [painting], tiny, start=photo)
    assert not last.image.requires_grad
    assert photo.grad is None


@pytest.mark.parametrize("shape", [(60, 600), (100, 2000), (16, 300), (900, 17)])
def test_a_long_narrow_style_is_painted_at_every_scale(
    tiny: Settings, photo: Tensor, shape: tuple[int, int]
) -> None:
    narrow = torch.rand(1, 3, *shape, generator=torch.Generator().manual_seed(0))
    settings = replace(tiny, size=128, steps=(2, 2), style_scale=0.5)
    *_, last = optimize(photo[..., :60], [narrow], settings)
    assert last.step == 4
    assert math.isfinite(measure(last.image, photo[..., :60], [narrow], settings).total)


def test_names_of_the_package() -> None:
    import workbench.descent  # must not hide the function of the same name

    assert callable(workbench.optimize)
    assert workbench.Settings is Settings
    with pytest.raises(AttributeError, match="nonsense"):
        workbench.nonsense  # noqa: B018


def test_a_start_is_near_already_and_is_not_shaken_up(
    tiny: Settings, photo: Tensor, painting: Tensor
) -> None:
    finished = stylize(photo, [painting], replace(tiny, steps=(80,)))
    steps = replace(tiny, steps=(10,))
    begun = list(optimize(photo, [painting], steps, start=finished))
    shaken = list(optimize(finished, [painting], replace(steps, content_weight=0)))
    losses = [iterate.losses.total for iterate in begun]
    # Adam moves most pixels by 10 grey levels a step, whether there is something to gain or not.
    assert (begun[3].image - begun[0].image).abs().mean() < 1 / 255
    assert (shaken[3].image - shaken[0].image).abs().mean() > 5 / 255
    # Its first step may be a little too long; the next ones are not.
    assert max(losses[:4]) <= 1.05 * losses[0]
    assert losses[3] < losses[0]


def test_the_first_step_of_lbfgs_can_be_seen(
    tiny: Settings, photo: Tensor, painting: Tensor
) -> None:
    first, second = optimize(photo, [painting], replace(tiny, steps=(1,)), start=photo)
    change = (second.image - first.image).square().mean().sqrt() * 255
    assert 0.8 * FIRST_STEP < change < 1.01 * FIRST_STEP  # a little is lost at the gamut's edge


def test_a_picture_that_was_enlarged_is_moved_further_at_first(
    tiny: Settings, photo: Tensor, painting: Tensor
) -> None:
    pale = 0.25 + photo / 2  # away from the gamut's edge
    settings = replace(tiny, size=192, steps=(24, 2))
    *_, coarse, first, second = optimize(pale, [painting], settings)
    assert (coarse.size, first.size) == (96, 192)
    change = 255 * (first.image - resize(coarse.image, 192)).square().mean().sqrt()
    assert 0.8 * ENLARGED_FIRST_STEP < change < 1.01 * ENLARGED_FIRST_STEP
    assert second.losses.total < first.losses.total


def test_adam_stays_adam_with_a_start(tiny: Settings, photo: Tensor, painting: Tensor) -> None:
    settings = replace(tiny, optimizer="adam", steps=(1,), learning_rate=10.0)
    first, second = optimize(photo, [painting], settings, start=resize(photo, 64))
    inside = (first.image > 0.05) & (first.image < 0.95)
    moved = (second.image - first.image).abs()[inside]
    assert moved.median() == pytest.approx(10 / 255, rel=0.01)


def test_a_picture_is_tied_to_earlier_frames_where_they_can_be_seen(
    tiny: Settings, photo: Tensor, painting: Tensor
) -> None:
    target = resize(1 - photo, (48, 64))
    visible = torch.zeros(1, 1, 48, 64)
    visible[..., :32] = 1
    temporal = [TemporalTarget(target, visible, 1e9)]
    settings = replace(tiny, steps=(40,))
    *_, tied = optimize(photo, [painting], settings, start=target, temporal=temporal)
    *_, free = optimize(photo, [painting], settings, start=target)
    distance = (tied.image - target).abs()
    assert distance[..., :32].mean() < 1 / 255
    assert distance[..., 40:].mean() > 10 * distance[..., :32].mean()
    assert (free.image - target).abs()[..., :32].mean() > 10 / 255
    assert tied.losses.temporal > 0
    assert free.losses.temporal == 0


def test_a_picture_is_drawn_to_an_earlier_frame_at_every_scale(
    tiny: Settings, photo: Tensor, painting: Tensor
) -> None:
    settings = replace(tiny, size=192, steps=(60, 30))
    target = (1 - photo).flip(3)  # of yet another size
    temporal = [TemporalTarget(target, torch.ones(1, 1, 60, 80), 1e8)]
    iterates = list(optimize(photo, [painting], settings, temporal=temporal))
    sizes = {iterate.size: iterate for iterate in iterates}
    assert list(sizes) == [96, 192]
    for size, iterate in sizes.items():
        assert (iterate.image - resize(target, size)).abs().mean() < 0.02
    by_hand = (resize(target, 192) * 255 - iterates[-1].image * 255).square().mean()
    assert iterates[-1].losses.temporal == pytest.approx(1e8 * float(by_hand), rel=0.01)


def test_masks_are_shrunk_once_a_scale(
    tiny: Settings, photo: Tensor, painting: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    real = torch.nn.functional.interpolate

    def interpolate(*arguments: object, **options: object) -> Tensor:
        calls.append(options)
        return real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.nn.functional, "interpolate", interpolate)
    masks = [torch.rand(1, 1, 60, 80), torch.ones(1, 1, 60, 80)]
    iterates = optimize(photo, [painting, painting], tiny, masks=masks)
    next(iterates)
    before = len(calls)
    assert before > 0
    assert len(list(iterates)) == 12
    assert len(calls) == before


def test_measure_asks_for_float32_that_is_float32(
    tiny: Settings, photo: Tensor, painting: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = []
    real = Network.__call__

    def call(self: Network, picture: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        allowed.append(torch.backends.cudnn.allow_tf32)
        return real(self, picture, layers)

    monkeypatch.setattr(Network, "__call__", call)
    before = torch.backends.cudnn.allow_tf32
    measure(photo, photo, [painting], tiny)
    assert allowed == [False, False, False]  # content, style and the picture
    assert torch.backends.cudnn.allow_tf32 == before


def test_a_grid_of_content_layers_reads_the_weights_once(
    tiny: Settings, photo: Tensor, painting: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules["workbench.problem"]
    reads = []
    monkeypatch.setattr(
        module, "load_weights", lambda name: reads.append(name) or load_weights(name)
    )
    for layer in ("relu2_2", "relu3_1", "relu4_2", "relu5_1"):
        settings = replace(tiny, content_layers=(layer,))
        next(optimize(photo, [painting], settings))
    assert len(reads) == 1


# --- memory ------------------------------------------------------------------------------


def test_what_memory_cannot_hold_is_refused_before_the_first_step(
    tiny: Settings,
    photo: Tensor,
    painting: Tensor,
    monkeypatch: pytest.MonkeyPatch,
    looks: list[tuple[str, ...]],
) -> None:
    def refused(megabytes: float | None, **changes: object) -> str:
        monkeypatch.setattr(
            sys.modules["workbench.problem"], "free_megabytes", lambda device: megabytes
        )
        iterates = optimize(photo, [painting], replace(tiny, **changes))  # type: ignore[arg-type]
        with pytest.raises(InputError) as caught:
            next(iterates)
        return str(caught.value)

    large = {"size": 4096, "steps": (20, 20)}
    sentence = refused(3000, **large)
    assert re.fullmatch(
        r"size = 4096: a painting of 4096x3072 pixels takes 3\.\d GB of memory, and there are"
        r" 2\.9 GB; use size \d+ or optimizer adam\.",
        sentence,
    )
    size = int(sentence.split("use size ")[1].split()[0])
    needed = [
        Outline((60, 80), (), replace(tiny, size=side, steps=(20,))).least_megabytes()
        for side in (size, size + 32)
    ]
    assert needed[0] <= 3000 < needed[1]
    # Gradients can be brought to a length only as a whole.
    assert "takes 27.2 GB" in refused(27_000, normalize_gradients=True, **large)
    assert refused(100, **large).endswith("; use a machine with more.")
    assert looks == []


def test_what_fits_or_cannot_be_known_is_painted(
    tiny: Settings, photo: Tensor, painting: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = Outline((60, 80), ((64, 59),), tiny).megabytes((48, 64))
    for free in (None, needed + 0.1):
        monkeypatch.setattr(
            sys.modules["workbench.problem"], "free_megabytes", lambda device, free=free: free
        )
        assert next(optimize(photo, [painting], tiny)).step == 0


@pytest.mark.parametrize("masked", [False, True])
def test_what_does_not_fit_as_a_whole_is_painted_in_tiles(
    tiny: Settings,
    photo: Tensor,
    painting: Tensor,
    monkeypatch: pytest.MonkeyPatch,
    looks: list[tuple[str, ...]],
    masked: bool,
) -> None:
    half = (torch.arange(80) < 30).float().expand(1, 1, 60, 80)
    masks = [half, 1 - half] if masked else []
    styles = [painting, painting.flip(1)][: len(masks) or 1]
    problem = sys.modules["workbench.problem"]
    smooth = replace(tiny, steps=(8, 8), pooling="average")  # rounding tips no maximum over

    def paint() -> tuple[Tensor, Losses]:
        problem.kept_targets.clear()
        *_, last = optimize(photo, styles, smooth, masks=masks)
        measured = measure(last.image, photo, styles, smooth, masks=masks)
        assert measured.total == pytest.approx(last.losses.total, rel=1e-4)
        return last.image, last.losses

    whole, losses = paint()
    seen = len(looks)
    monkeypatch.setattr("workbench.forecast.TILES", (16,))
    monkeypatch.setattr(problem, "free_megabytes", lambda device: 1000.0)
    needed = {None: 1001.0, 16: 999.0}
    monkeypatch.setattr(Outline, "megabytes", lambda self, shape, side=None: needed[side])
    tiled, own = paint()
    assert len(looks) > 5 * seen
    assert own.total == pytest.approx(losses.total, rel=1e-3)
    assert ((whole - tiled).abs() < 1 / 255).float().mean() > 0.999


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"),
        RuntimeError("could not create a primitive"),
    ],
    ids=["Python", "CUDA", "CPU", "MPS", "oneDNN"],
)
@pytest.mark.parametrize("steps", [0, 3])
def test_memory_that_runs_out_keeps_the_picture_and_lets_go_of_the_rest(
    tiny: Settings,
    photo: Tensor,
    painting: Tensor,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    steps: int,
) -> None:
    real, left = Network.__call__, [2 + 1 + steps]  # content and style, start, steps

    def call(self: Network, picture: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        left[0] -= 1
        if left[0] < (steps == 0):
            raise error
        return real(self, picture, layers)

    monkeypatch.setattr(Network, "__call__", call)
    seen = []
    with pytest.raises(MemoryExceeded) as caught:
        seen.extend(optimize(photo, [painting], tiny))
    assert f"memory ran out after {steps} steps towards size 64; use a smaller size" in str(
        caught.value
    )
    assert caught.value.__context__ is None  # it would hold on to the memory
    if steps == 0:
        assert seen == []
        assert caught.value.last_good is None
    else:
        assert caught.value.last_good is seen[-1]
        assert seen[-1].step == steps


def test_where_memory_shrinks_on_the_way_tiles_go_on_with_the_same_picture(
    tiny: Settings, photo: Tensor, painting: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    shallow = {"style_layers": ("relu1_1", "relu2_1"), "content_layers": ("relu2_2",)}
    smooth = replace(tiny, steps=(8,), pooling="average", **shallow)
    *_, whole = optimize(photo, [painting], smooth)
    monkeypatch.setattr(sys.modules["workbench.forecast"], "TILES", (96, 32, 16))
    real, calls = Network.__call__, [0]

    def call(self: Network, picture: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        calls[0] += 1
        if calls[0] > 5 and picture.shape[-1] > 30:
            raise MemoryError
        return real(self, picture, layers)

    monkeypatch.setattr(Network, "__call__", call)
    with pytest.warns(UserWarning, match="Memory ran out; on in tiles of") as told:
        *_, tiled = optimize(photo, [painting], smooth)
    assert [str(each.message)[-10:] for each in told] == ["32 pixels.", "16 pixels."]
    assert calls[0] > 100
    assert tiled.losses.total == pytest.approx(whole.losses.total, rel=1e-3)
    assert ((whole.image - tiled.image).abs() < 1 / 255).float().mean() > 0.999


def test_where_memory_is_short_from_the_start_targets_come_from_tiles_too(
    tiny: Settings, photo: Tensor, painting: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    shallow = {"style_layers": ("relu1_1", "relu2_1"), "content_layers": ("relu2_2",)}
    settings = replace(tiny, steps=(1,), style_scale=1.5, **shallow)
    *_, whole = optimize(photo, [painting], settings)
    measured = measure(whole.image, photo, [painting], settings)
    monkeypatch.setattr(sys.modules["workbench.forecast"], "TILES", (80, 16))
    real = Network.__call__

    def call(self: Network, picture: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        if picture.shape[-1] > 30:
            raise MemoryError
        return real(self, picture, layers)

    monkeypatch.setattr(Network, "__call__", call)
    with pytest.warns(UserWarning, match="Memory ran out; on in tiles of") as told:
        *_, tiled = optimize(anew(photo), [anew(painting)], settings)
    assert [str(each.message)[-10:] for each in told] == ["80 pixels.", "16 pixels."]
    assert tiled.losses.total == pytest.approx(whole.losses.total, rel=1e-3)
    with pytest.warns(UserWarning, match="on in tiles of 16 pixels"):
        again = measure(whole.image, anew(photo), [anew(painting)], settings)
    assert again.total == pytest.approx(measured.total, rel=1e-4)


def test_a_scale_is_not_seen_in_larger_tiles_than_the_one_before(
    tiny: Settings, photo: Tensor, painting: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["workbench.forecast"], "TILES", (48, 32, 16))
    problem = Problem.of(photo, [painting], tiny)
    monkeypatch.setattr(Problem, "free", lambda self: None)
    assert problem.sides((48, 64)) == [None, 48, 32, 16]
    assert problem.sides((48, 64), 32) == [32, 16]
    assert problem.sides((24, 32), 32) == [None, 16]  # a smaller picture is one such tile
    monkeypatch.setattr(Problem, "free", lambda self: 1.0)
    assert problem.sides((48, 64), 32) == [16]
    whole = replace(problem, settings=replace(tiny, normalize_gradients=True))
    assert whole.sides((48, 64), 32) == [None]


def test_a_picture_file_to_start_from_is_not_shaken_up(
    tiny: Settings, photo: Tensor, painting: Tensor, tmp_path: Path
) -> None:
    finished = stylize(photo, [painting], replace(tiny, steps=(80,)))
    save_image(finished, tmp_path / "painted.png")
    steps = replace(tiny, steps=(4,))

    def change(content: Tensor, init: str) -> float:
        first, *_, last = optimize(content, [painting], replace(steps, init=init))
        return 255 * float((last.image - first.image).abs().mean())

    # Adam moves most pixels by 10 grey levels a step, whether there is something to gain or not.
    assert change(photo, str(tmp_path / "painted.png")) < 1
    assert change(finished, "content") > 5


def test_other_faults_of_torch_are_no_lack_of_memory(
    tiny: Settings, photo: Tensor, painting: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def call(*arguments: object) -> None:
        raise RuntimeError("expected scalar type Float but found BFloat16")

    monkeypatch.setattr(Network, "__call__", call)
    with pytest.raises(RuntimeError, match="expected scalar type"):
        next(optimize(photo, [painting], tiny))


# --- earlier frames ----------------------------------------------------------------------


def test_half_visible_blocks_count_half_at_half_the_size(
    tiny: Settings, photo: Tensor, painting: Tensor
) -> None:
    board = torch.ones(1, 1, 96, 128)
    board[..., ::2] = 0
    target = resize(photo, 64) * 0.5
    temporal = [TemporalTarget(target, board, 4.0)]
    start = resize(photo, 64)
    first = next(optimize(photo, [painting], tiny, start=start, temporal=temporal))
    expected = 4 * 0.5 * (start * 255 - target * 255).square().mean()
    assert first.losses.temporal == pytest.approx(float(expected), rel=1e-4)


def test_an_earlier_frame_that_is_none_is_named(
    tiny: Settings, photo: Tensor, painting: Tensor
) -> None:
    good = TemporalTarget(photo, torch.ones(1, 1, 60, 80), 1.0)
    for picture in (photo[0], photo[:, :1], (photo * 255).byte()):
        bad = replace(good, picture=picture)
        with pytest.raises(InputError, match="temporal target 2: expected"):
            next(optimize(photo, [painting], tiny, temporal=[good, bad]))


# --- what is kept between runs -----------------------------------------------------------


def test_scales_can_be_asked_for_beforehand(
    tiny: Settings, photo: Tensor, painting: Tensor
) -> None:
    settings = replace(tiny, size=256, steps=(2, 3, 4))
    assert scales((60, 80), settings) == [((96, 128), 3), ((192, 256), 4)]
    assert scales((256, 256), settings) == [((64, 64), 2), ((128, 128), 3), ((256, 256), 4)]
    assert scales((60, 80), tiny) == [((48, 64), 12)]
    for iterate in optimize(photo, [painting], settings):
        assert tuple(iterate.image.shape[-2:]) in [shape for shape, _ in scales((60, 80), settings)]


def anew(picture: Tensor) -> Tensor:
    """The same picture, of which nothing is known yet."""
    return picture.clone()


def test_targets_that_are_kept_change_no_bit(
    tiny: Settings, photo: Tensor, painting: Tensor
) -> None:
    settings = replace(tiny, size=128, steps=(6, 4), style_scale=0.8)
    for style_weight in (100.0, 3.0):
        varied = replace(settings, style_weight=style_weight)
        alone = list(optimize(anew(photo), [anew(painting)], varied))
        kept = list(optimize(photo, [painting], varied))
        assert [one.losses for one in alone] == [other.losses for other in kept]
        assert torch.equal(alone[-1].image, kept[-1].image)
        picture = alone[-1].image
        referee = measure(picture, anew(photo), [anew(painting)], varied)
        assert referee == measure(picture, photo, [painting], varied)


def test_a_change_of_weights_looks_at_nothing_again(
    tiny: Settings, photo: Tensor, painting: Tensor, looks: list[tuple[str, ...]]
) -> None:
    for changes in ({}, {"content_weight": 1.0}, {"style_weight": 1.0}, {"tv_weight": 1.0}):
        next(optimize(photo, [painting], replace(tiny, **changes)))
    assert looks == [tiny.content_layers, tiny.style_layers]
    next(optimize(photo, [painting, painting.flip(3)], tiny))
    assert looks[2:] == [tiny.style_layers]
    next(optimize(anew(photo), [painting], tiny))
    assert looks[3:] == [tiny.content_layers]


def test_a_picture_that_was_changed_is_looked_at_again(
    tiny: Settings, photo: Tensor, painting: Tensor
) -> None:
    before = next(optimize(photo, [painting], tiny)).losses
    photo.mul_(0.5)
    painting[..., :30] = 0
    changed = next(optimize(photo, [painting], tiny)).losses
    assert changed != before
    assert changed == next(optimize(anew(photo), [anew(painting)], tiny)).losses


def test_pictures_made_in_inference_mode_are_taken(
    tiny: Settings, photo: Tensor, painting: Tensor
) -> None:
    expected = stylize(photo, [painting], tiny)
    with torch.inference_mode():
        made = 1 * photo
    assert torch.equal(stylize(made, [painting], tiny), expected)


def test_only_layers_that_are_missing_are_looked_at(
    tiny: Settings, photo: Tensor, painting: Tensor, looks: list[tuple[str, ...]]
) -> None:
    two, three = ("relu1_1", "relu3_1"), ("relu2_1", "relu3_1", "relu1_1")
    for layers in (two, three, two, ("relu2_1",)):
        settings = replace(tiny, style_layers=layers)
        kept = next(optimize(photo, [painting], settings))
        assert kept.losses == next(optimize(photo, [anew(painting)], settings)).losses
    assert looks[0] == tiny.content_layers
    assert looks[1:] == [two, two, ("relu2_1",), three, two, ("relu2_1",)]


@pytest.mark.parametrize(
    "changes",
    [
        {"size": 80},
        {"pooling": "average"},
        {"precision": "bfloat16"},
        {"style_scale": 0.7},
        {"content_layers": ("relu3_1",)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_is_seen_otherwise_is_not_confused(
    tiny: Settings, photo: Tensor, painting: Tensor, changes: dict[str, object]
) -> None:
    for settings in (tiny, replace(tiny, **changes), tiny):  # type: ignore[arg-type]
        kept = next(optimize(photo, [painting], settings))
        assert kept.losses == next(optimize(anew(photo), [anew(painting)], settings)).losses


def test_content_and_style_of_one_picture_are_not_confused(tiny: Settings, photo: Tensor) -> None:
    settings = replace(tiny, content_layers=("relu2_1",), style_layers=("relu2_1",))
    kept = next(optimize(photo, [photo], settings))
    assert kept.losses == next(optimize(anew(photo), [anew(photo)], settings)).losses


def tensors() -> int:
    gc.collect()
    return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())


def test_a_picture_that_goes_takes_what_was_kept_with_it(
    tiny: Settings, photo: Tensor, painting: Tensor
) -> None:
    next(optimize(photo, [painting], tiny))
    before = tensors()
    for _ in range(3):
        next(optimize(anew(photo), [anew(painting)], tiny))
    assert tensors() == before


def test_what_is_kept_is_bounded(tiny: Settings, photo: Tensor, painting: Tensor) -> None:
    kept = []
    for count in range(1, 2 * TARGETS_KEPT + 1):
        next(optimize(photo, [painting], replace(tiny, size=64 + count)))
        if count in (1, TARGETS_KEPT, 2 * TARGETS_KEPT):
            kept.append(tensors())
    assert kept[0] < kept[1] == kept[2]


def test_large_targets_are_not_kept(
    tiny: Settings, photo: Tensor, painting: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = Problem.of(photo, [painting], tiny)
    (activation,) = problem.at((48, 64)).targets.content.values()
    monkeypatch.setattr("workbench.problem.LARGEST_KEPT", activation.nbytes)
    for size, kept in ((64, 1), (96, 1), (48, 2)):
        next(optimize(photo, [painting], tiny.changed(size=size)))
        assert len(kept_targets[photo]) == kept


# --- masks -------------------------------------------------------------------------------


def halves() -> list[Tensor]:
    left = torch.zeros(1, 1, 24, 32)
    left[..., :16] = 1
    return [left, 1 - left]


def test_each_region_takes_its_own_style(tiny: Settings, photo: Tensor, painting: Tensor) -> None:
    settings = replace(tiny, steps=(60,), content_weight=0.0)
    styles = [painting, 1 - resize(painting, (70, 90))]
    first, *_, last = optimize(photo, styles, settings, masks=halves())
    assert last.losses.style_total < 0.05 * first.losses.style_total
    part_size = replace(settings, size=48, style_scale=64 / 48)  # leaves the parts as they are
    for half, (own, other) in ((slice(0, 28), styles), (slice(36, 64), styles[::-1])):
        part = last.image[..., half]
        far = measure(part, part, [other], part_size).style_total
        assert measure(part, part, [own], part_size).style_total < 0.3 * far
    measured = measure(last.image, photo, styles, settings, masks=halves())
    assert measured.total == pytest.approx(last.losses.total, rel=0.01)


def test_a_place_without_a_mask_keeps_the_photograph(
    tiny: Settings, photo: Tensor, painting: Tensor
) -> None:
    settings = replace(tiny, steps=(40,), style_layers=("relu1_1",), content_layers=("relu1_1",))
    *_, painted = optimize(photo, [painting], settings, masks=halves()[:1])
    change = (painted.image - resize(photo, 64)).abs()
    assert change[..., 40:].mean() < 0.1 * change[..., :24].mean()


def test_masks_that_share_all_places_are_a_blend(
    tiny: Settings, photo: Tensor, painting: Tensor
) -> None:
    everywhere = [torch.ones(1, 1, 60, 80)] * 2
    styles = [painting, painting.flip(3)]
    masked = measure(photo, photo, styles, tiny, masks=everywhere)
    apart = [measure(photo, photo, [style], tiny).style_total for style in styles]
    assert masked.style_total == pytest.approx(sum(apart) / 2, rel=1e-4)
    uneven = replace(tiny, style_blend_weights=(3, 1))
    masked = measure(photo, photo, styles, uneven, masks=everywhere)
    assert masked.style_total == pytest.approx(0.75 * apart[0] + 0.25 * apart[1], rel=1e-4)


def test_masks_that_do_not_fit_are_refused(tiny: Settings, photo: Tensor, painting: Tensor) -> None:
    with pytest.raises(InputError, match="there are 2 masks for 1 style pictures"):
        next(optimize(photo, [painting], tiny, masks=halves()))
    with pytest.raises(InputError, match="mask 1: expected a floating-point tensor"):
        next(optimize(photo, [painting], tiny, masks=[photo]))


# --- what style is -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", STYLE_LOSSES)
def test_a_painting_lowers_every_kind_of_style_loss(
    tiny: Settings, photo: Tensor, painting: Tensor, kind: str
) -> None:
    settings = replace(tiny, style_loss=kind)
    first, *_, last = optimize(photo, [painting], settings)
    assert last.losses.style_total < 0.6 * first.losses.style_total
    assert last.losses.style_total == pytest.approx(
        measure(last.image, photo, [painting], settings).style_total, rel=1e-4
    )
    layers = tiny.style_layers[1:] if kind == "cross-layer" else tiny.style_layers
    assert tuple(last.losses.style) == layers


@pytest.mark.parametrize("kind", STYLE_LOSSES)
def test_every_kind_of_style_loss_blends_and_takes_masks(
    tiny: Settings, photo: Tensor, painting: Tensor, kind: str
) -> None:
    settings, styles = replace(tiny, style_loss=kind), [painting, painting.flip(3)]
    everywhere = [torch.ones(1, 1, 60, 80)]
    whole = measure(photo, photo, [painting], settings).style_total
    masked = measure(photo, photo, [painting], settings, masks=everywhere).style_total
    assert masked == pytest.approx(whole, rel=1e-4)
    blended = measure(photo, photo, styles, replace(settings, style_blend_weights=(1, 0)))
    assert blended.style_total == pytest.approx(whole, rel=1e-4)
    first, *_, last = optimize(photo, styles, settings, masks=halves())
    assert last.losses.style_total < first.losses.style_total


def test_what_is_kept_of_one_kind_of_style_loss_is_not_anothers(
    tiny: Settings, photo: Tensor, painting: Tensor
) -> None:
    for layers in (tiny.style_layers, ("relu1_1", "relu3_1"), ("relu3_1", "relu2_1")):
        for kind in STYLE_LOSSES:
            settings = replace(tiny, style_loss=kind, style_layers=layers)
            once = measure(photo, anew(photo), [anew(painting)], settings)
            assert measure(photo, photo, [painting], settings) == once


# --- what other programs have ------------------------------------------------------------


def test_content_layers_have_weights_of_their_own(
    tiny: Settings, photo: Tensor, painting: Tensor
) -> None:
    settings = replace(tiny, content_layers=("relu1_1", "relu3_1"))
    plain = measure(painting, photo, [painting], settings).content
    weighted = replace(settings, content_layer_weights=(0.5, 3.0))
    losses = measure(painting, photo, [painting], weighted).content
    assert losses["relu1_1"] == pytest.approx(0.5 * plain["relu1_1"])
    assert losses["relu3_1"] == pytest.approx(3 * plain["relu3_1"])


def test_white_is_what_the_network_sees(tiny: Settings, photo: Tensor, painting: Tensor) -> None:
    settings = replace(tiny, tv_weight=1.0)
    wider = replace(settings, white=256.0)
    plain = measure(photo, photo, [painting], settings)
    losses = measure(photo, photo, [painting], wider)
    assert losses.tv == pytest.approx(plain.tv * (256 / 255) ** 2, rel=1e-4)
    assert losses.style_total == pytest.approx(plain.style_total, rel=0.1)
    assert losses.style_total != plain.style_total
    for each in (settings, wider):
        once = measure(photo, anew(photo), [anew(painting)], each)
        assert measure(photo, photo, [painting], each) == once
    *_, last = optimize(photo, [painting], replace(wider, steps=(5,)))
    assert 0 <= last.image.min() <= last.image.max() <= 1


def test_normalized_gradients_paint_too(tiny: Settings, photo: Tensor, painting: Tensor) -> None:
    settings = replace(tiny, normalize_gradients=True, tv_weight=0.0, steps=(60,))
    first, *_, last = optimize(photo, [painting], settings)
    assert last.step == 60
    assert last.losses.style_total < 0.3 * first.losses.style_total


def test_unscaled_average_pooling_is_the_plain_mean(
    tiny: Settings, photo: Tensor, painting: Tensor
) -> None:
    settings = replace(tiny, content_layers=("relu2_1",), pooling="average-unscaled")
    network = build_network(load_weights("tiny"), ["relu1_2", "relu2_1"], pooling=settings.pooling)
    activations = network(photo * 255, ["relu1_2", "relu2_1"])
    pooled = torch.nn.functional.avg_pool2d(activations["relu1_2"], 2)
    _, weight, bias = network.convolutions[2]
    expected = torch.conv2d(pooled, weight, bias, padding=1).relu()
    torch.testing.assert_close(activations["relu2_1"], expected)
