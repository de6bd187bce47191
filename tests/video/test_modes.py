from __future__ import annotations

import gc
import json
import re
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image
from sound import Sound
from torch import Tensor

from workbench.colour import recolour, transfer_luma
from workbench.descent import Iterate, optimize
from workbench.devices import choose_device
from workbench.errors import InputError, OptimizationError
from workbench.features import Network
from workbench.images import Frame, from_array, load_image, resize, to_array
from workbench.losses import Losses
from workbench.runs import Result, read_result
from workbench.settings import MODES, ClipSettings, Settings
from workbench.video import modes
from workbench.video.clips import Clip, open_clip, read_frames, write_film
from workbench.video.flow import Motion, find_motion
from workbench.video.frames import (
    FrameFigures,
    PaintedFrames,
    film_figures,
    frame_path,
)
from workbench.video.masks import open_masks
from workbench.video.modes import (
    ClipIterate,
    beginning,
    paint_clip,
    shortfall,
    show_progress,
    stylize_clip,
)

WARM, COLD = (250, 170, 60), (20, 60, 130)


def texture(height: int, width: int, seed: int = 1) -> Frame:
    """Blobs of a few pixels, grey."""
    noise = np.random.default_rng(seed).uniform(0, 1, (height, width)).astype(np.float32)
    blobs = np.asarray(cv2.GaussianBlur(noise, (0, 0), 2))
    blobs = (blobs - blobs.min()) / (blobs.max() - blobs.min())
    return np.repeat((255 * blobs).astype(np.uint8)[..., None], 3, axis=2)


def tinted(picture: Frame, colour: tuple[int, int, int]) -> Frame:
    return (picture // 2 + np.array(colour) / 2).astype(np.uint8)


def pan(
    count: int,
    *,
    speed: int = 4,
    colour: tuple[int, int, int] = WARM,
    shape: tuple[int, int] = (48, 64),
) -> list[Frame]:
    """A camera that goes right over a wall; what it shows moves left."""
    wall = tinted(texture(shape[0], shape[1] + speed * count, seed=sum(colour)), colour)
    return [wall[:, speed * i : speed * i + shape[1]] for i in range(count)]


def two_scenes(first: int, second: int) -> list[Frame]:
    return pan(first) + pan(second, colour=COLD)


def folder_clip(frames: Sequence[Frame], folder: Path, **options: Any) -> Clip:
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames):
        Image.fromarray(np.ascontiguousarray(frame)).save(folder / f"{number:03d}.png")
    return open_clip(folder, **options)


def pngs(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("[0-9]*.png"))}


@pytest.fixture
def quick(tiny: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    return replace(tiny, steps=(3,))


def later(mode: str, **changes: Any) -> ClipSettings:
    return ClipSettings(**{"mode": mode, "later_steps": 2, "temporal_lags": (1, 2), **changes})


def painted_numbers(iterates: Sequence[ClipIterate]) -> list[int]:
    return sorted({now.frame for now in iterates if now.iterate is not None})


# --- the modes ---------------------------------------------------------------------------


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def no_motion(lag: int) -> Motion:
    raise AssertionError("the motion was asked for")


def moving(
    flow: tuple[float, float] = (0, 0), visible: Tensor | None = None
) -> Callable[[int], Motion]:
    """The same motion everywhere, from however long ago."""
    everywhere = torch.tensor(flow, dtype=torch.float32).view(1, 2, 1, 1).expand(1, 2, 30, 40)
    seen = torch.ones(1, 1, 30, 40) if visible is None else visible
    return lambda lag: Motion(everywhere.contiguous(), seen)


def hidden_box(top: int, bottom: int, left: int, right: int) -> Tensor:
    visible = torch.ones(1, 1, 30, 40)
    visible[..., top:bottom, left:right] = 0
    return visible


def test_per_frame_starts_afresh() -> None:
    picture, painted = noise(1, 3, 30, 40), noise(1, 3, 30, 40, seed=1)
    settings = ClipSettings(mode="per-frame")
    assert beginning(settings, picture, {1: painted}, no_motion) == (None, ())


@pytest.mark.parametrize("blend", [0.0, 0.3, 1.0])
def test_blended_mixes_the_painted_frame_in(blend: float) -> None:
    picture, painted = noise(1, 3, 30, 40), noise(1, 3, 30, 40, seed=1)
    settings = ClipSettings(mode="blended", blend=blend)
    start, ties = beginning(settings, picture, {1: painted}, no_motion)
    assert torch.allclose(start, (1 - blend) * picture + blend * painted, atol=1e-6)
    assert ties == ()


def test_flow_warped_puts_what_is_painted_where_things_are_now() -> None:
    picture, painted = noise(1, 3, 30, 40), noise(1, 3, 30, 40, seed=1)
    # What is at x now was at x + 4 before.
    settings = ClipSettings(mode="flow-warped", blend=0.6)
    start, _ = beginning(settings, picture, {1: painted}, moving((4, -1)))
    expected = 0.4 * picture[..., 1:, :36] + 0.6 * painted[..., :-1, 4:]
    assert torch.allclose(start[..., 1:, :36], expected, atol=1e-5)


def test_the_flow_goes_from_now_back_to_before() -> None:
    before, current = pan(2, speed=6)
    painted = from_array(255 - before)
    motion = find_motion(from_array(current), from_array(before))
    expected = from_array(255 - current)
    settings = ClipSettings(mode="flow-warped", blend=1)

    def miss(flow: Tensor) -> float:
        moved = Motion(flow, motion.visible)
        start, _ = beginning(settings, from_array(current), {1: painted}, lambda lag: moved)
        return float((start - expected)[..., 8:-8, 12:-12].abs().mean())

    assert miss(motion.flow) < 0.01
    assert miss(-motion.flow) > 0.05


def test_temporal_starts_from_the_moved_frame_and_is_tied_to_it() -> None:
    picture, painted = noise(1, 3, 30, 40), noise(1, 3, 30, 40, seed=1)
    settings = ClipSettings(mode="temporal", temporal_weight=7)
    start, ties = beginning(settings, picture, {1: painted}, moving((4, 0)))
    assert torch.allclose(start[..., :36], painted[..., 4:], atol=1e-5)
    (target,) = ties
    assert torch.equal(target.picture, start)
    assert target.weight == 7


def test_temporal_ties_each_pixel_to_the_nearest_frame_that_shows_it() -> None:
    seen = {lag: (noise(1, 1, 30, 40, seed=lag) > 0.5).float() for lag in (1, 2, 4)}
    painted = {lag: noise(1, 3, 30, 40, seed=9 + lag) for lag in (4, 1, 2)}
    picture = noise(1, 3, 30, 40)
    _, targets = beginning(
        ClipSettings(mode="temporal"),
        picture,
        painted,
        lambda lag: moving(visible=seen[lag])(lag),
    )
    # Ruder et al. 2016, equation 10: c_long = max(c - sum of the c of nearer frames, 0).
    expected = [
        seen[1],
        (seen[2] - seen[1]).clamp(min=0),
        (seen[4] - seen[1] - seen[2]).clamp(min=0),
    ]
    for target, lag, mask in zip(targets, (1, 2, 4), expected, strict=True):
        assert torch.equal(target.visible, mask)
        assert torch.allclose(target.picture, painted[lag], atol=1e-5)
    ties = sum(target.visible for target in targets)
    assert torch.equal(ties, torch.maximum(torch.maximum(seen[1], seen[2]), seen[4]))


def test_frames_between_keyframes_are_blended_by_distance_where_they_are_seen() -> None:
    before, after = noise(1, 3, 30, 40), noise(1, 3, 30, 40, seed=1)
    seen = {1: torch.ones(1, 1, 30, 40), -3: torch.ones(1, 1, 30, 40)}
    seen[1][..., :10, :], seen[-3][..., 20:, :] = 0, 0
    seen[-3][..., :5, :] = 0
    settings = ClipSettings(mode="keyframes", temporal_weight=7)
    start, (target,) = beginning(
        settings,
        noise(1, 3, 30, 40, seed=2),
        {1: before, -3: after},
        lambda lag: moving(visible=seen[lag])(lag),
    )
    share = 3**modes.NEARNESS / (1 + 3**modes.NEARNESS)
    expected = share * before + (1 - share) * after
    expected[..., :10, :], expected[..., 20:, :] = after[..., :10, :], before[..., 20:, :]
    expected[..., :5, :] = before[..., :5, :]  # neither shows it: the nearer one
    assert torch.allclose(start, expected, atol=1e-4)
    assert torch.equal(target.picture, start)
    assert torch.equal(target.visible, torch.maximum(seen[1], seen[-3]))
    assert target.weight == 7


# --- the loop ----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_leaves_every_frame_with_its_figures(
    mode: str, quick: Settings, painting: Tensor, tmp_path: Path
) -> None:
    clip = folder_clip(two_scenes(3, 2), tmp_path / "clip")
    iterates = list(paint_clip(clip, [painting], tmp_path / "out", quick, later(mode)))
    names = {path.name for path in (tmp_path / "out").iterdir()} - {".lock"}
    numbered = [f"{i:06d}.{suffix}" for i in range(5) for suffix in ("png", "json")]
    assert names == {"run.json", *numbered}
    in_order = sorted((now.frame, now.figures) for now in iterates if now.figures is not None)
    finished = [figures for _, figures in in_order]
    assert [now.finished for now in iterates if now.figures is not None] == [1, 2, 3, 4, 5]
    for number, figures in enumerate(finished):
        path = tmp_path / "out" / f"{number:06d}.json"
        assert FrameFigures(**json.loads(path.read_text())) == figures
        assert load_image(path.with_suffix(".png")).shape == (1, 3, 48, 64)
        parts = [value for name, value in figures.losses.items() if name != "total"]
        assert figures.losses["total"] == pytest.approx(sum(parts))
        assert figures.seconds > 0
        assert figures.megabytes > 0
    assert [figures.scene_start for figures in finished] == [True, False, False, True, False]
    steps = {"per-frame": [3] * 5, "keyframes": [3, 4, 3, 3, 3]}
    assert [figures.steps for figures in finished] == steps.get(mode, [3, 2, 2, 3, 2])
    ties = [figures.losses["temporal"] > 0 for figures in finished]
    tied = mode in ("temporal", "keyframes")
    assert ties == [tied and not figures.scene_start for figures in finished]


def test_iterates_come_frame_by_frame_and_step_by_step(
    quick: Settings, painting: Tensor, tmp_path: Path
) -> None:
    clip = folder_clip(pan(2), tmp_path / "clip")
    iterates = paint_clip(clip, [painting], tmp_path / "out", quick, later("temporal"))
    seen = [(now.frame, now.frames, now.iterate and now.iterate.step) for now in iterates]
    first = [(0, 2, step) for step in (0, 1, 2, 3, None)]
    assert seen == first + [(1, 2, step) for step in (0, 1, 2, None)]


@pytest.mark.parametrize(
    ("scenes", "order"),
    [((1, 0), [0]), ((2, 1), [0, 1, 2]), ((8, 3), [0, 3, 1, 2, 6, 4, 5, 7, 8, 10, 9])],
)
def test_keyframes_come_before_the_frames_between(
    scenes: tuple[int, int], order: list[int], quick: Settings, painting: Tensor, tmp_path: Path
) -> None:
    clip = folder_clip(two_scenes(*scenes), tmp_path / "clip")
    clip_settings = later("keyframes", keyframe_every=3)
    iterates = list(paint_clip(clip, [painting], tmp_path / "out", quick, clip_settings))
    assert [now.frame for now in iterates if now.figures] == order
    assert [now.finished for now in iterates if now.figures] == list(range(1, len(order) + 1))


@pytest.mark.parametrize("mode", ["flow-warped", "temporal", "keyframes"])
def test_a_shot_that_stands_still_does_not_get_brighter(
    mode: str, quick: Settings, painting: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def brighter(
        content: Tensor, styles: object, settings: Settings, *, start: Tensor, **_: object
    ) -> Iterator[Iterate]:
        yield Iterate(1, 1, 64, (0.9 * start + 0.08).clamp(0, 1), Losses(0.0, {}, {}, 0.0))

    random = np.random.default_rng(0)
    noisy = [pan(1)[0] + random.integers(0, 9, (48, 64, 3), dtype=np.uint8) for _ in range(9)]
    clip = folder_clip(noisy, tmp_path / "clip")
    clip_settings = later(mode, blend=1, keyframe_every=2)
    next(iter(paint_clip(clip, [painting], tmp_path / "out", quick, clip_settings)))
    painted = paint_clip(clip, [painting], tmp_path / "out", quick, clip_settings)
    for now in painted:
        if now.figures is not None:
            monkeypatch.setattr(modes, "optimize", brighter)  # but for the first
    first, *_, last = (load_image(path) for path in sorted((tmp_path / "out").glob("*.png")))
    assert abs(last.mean() - first.mean()) < 0.05  # what a single frame adds
    assert 0.8 < last.std() / first.std() < 1.1


def test_the_style_is_looked_at_once_for_all_frames(
    quick: Settings, painting: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[torch.Size] = []
    look = Network.__call__

    def watched(network: Network, pixels: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        if not pixels.requires_grad:
            looked.append(pixels.shape)
        return look(network, pixels, layers)

    monkeypatch.setattr(Network, "__call__", watched)
    clip = folder_clip(pan(4), tmp_path / "clip")
    list(paint_clip(clip, [painting], tmp_path / "out", quick, later("blended")))
    style_shape = resize(painting, 64).shape
    assert looked.count(style_shape) == 1
    assert len(looked) == 1 + 4  # each frame, for its content


def test_per_frame_is_each_frame_as_a_still(
    quick: Settings, painting: Tensor, tmp_path: Path
) -> None:
    frames = pan(3)
    clip = folder_clip(frames, tmp_path / "clip")
    settings = replace(quick, size=512)  # gives way to the clip's
    list(paint_clip(clip, [painting], tmp_path / "out", settings, later("per-frame")))
    for number, frame in enumerate(frames):
        *_, last = optimize(from_array(frame), [painting], quick)
        saved = load_image(frame_path(tmp_path / "out", number))
        assert np.array_equal(to_array(saved), to_array(last.image))


@pytest.mark.parametrize("mode", ["blended", "flow-warped", "temporal", "keyframes"])
def test_a_cut_starts_afresh(mode: str, quick: Settings, painting: Tensor, tmp_path: Path) -> None:
    frames = two_scenes(3, 2)
    both = folder_clip(frames, tmp_path / "both")
    second = folder_clip(frames[3:], tmp_path / "second")
    for clip in (both, second):
        out = tmp_path / f"{clip.path.name}.out"
        list(paint_clip(clip, [painting], out, quick, later(mode, temporal_lags=(1, 2, 4))))
    alone = list(pngs(tmp_path / "second.out").values())
    assert list(pngs(tmp_path / "both.out").values())[3:] == alone


@pytest.mark.parametrize("mode", ["flow-warped", "temporal"])
def test_a_frame_starts_from_the_painted_one_before_where_things_are_now(
    mode: str, quick: Settings, painting: Tensor, tmp_path: Path
) -> None:
    clip = folder_clip(pan(2, speed=6), tmp_path / "clip")
    clip_settings = later(mode, blend=1)
    iterates = list(paint_clip(clip, [painting], tmp_path / "out", quick, clip_settings))
    before = load_image(frame_path(tmp_path / "out", 0))
    (start,) = [
        now.iterate.image
        for now in iterates
        if now.frame == 1 and now.iterate is not None and now.iterate.step == 0
    ]
    still_there = slice(8, 48)  # and neither edge of the picture
    moved = before[..., 14:54]
    assert (start[..., still_there] - moved).abs().mean() < 0.02
    assert (start - before).abs()[..., still_there].mean() > 0.1


def test_later_frames_stay_near_the_ones_before(
    quick: Settings, painting: Tensor, tmp_path: Path
) -> None:
    still = folder_clip(pan(1) * 3, tmp_path / "clip")
    changes = {}
    for weight in (0, 1e8):
        out = tmp_path / f"{weight}"
        clip_settings = later("temporal", later_steps=8, temporal_weight=weight)
        list(paint_clip(still, [painting], out, quick, clip_settings))
        a, b = (load_image(frame_path(out, number)) for number in (1, 2))
        changes[weight] = float((a - b).abs().mean())
    assert changes[1e8] < 0.5 * changes[0]


def fake_optimize(totals: Callable[[int], float]) -> Any:
    """Takes as many steps as it is told, with losses as they are given."""

    def run(
        content: Tensor, styles: object, settings: Settings, **options: object
    ) -> Iterator[Iterate]:
        (steps,) = settings.steps
        for step in range(steps + 1):
            losses = Losses(totals(step), {}, {}, 0.0)
            yield Iterate(step, steps, 64, content, losses)

    return run


@pytest.mark.parametrize(
    ("totals", "stop_change", "steps"),
    [
        (lambda step: 0.99**step, 0.0, 30),
        (lambda step: 1.0, 0.0, 30),
        (lambda step: 1.01**step, 0.0, 30),  # L-BFGS may climb for a while
        (lambda step: 0.999**step, 0.01, 10),  # loses 1 % in 10 steps
        (lambda step: 0.99**step, 0.01, 30),
        (lambda step: 1 / (1 + step), 0.5, 20),  # from 1/11 to 1/21
        (lambda step: 0.5**step, 1.0, 10),
    ],
)
def test_a_frame_is_done_when_its_loss_hardly_falls(
    totals: Callable[[int], float],
    stop_change: float,
    steps: int,
    quick: Settings,
    painting: Tensor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(modes, "optimize", fake_optimize(totals))
    clip = folder_clip(pan(2), tmp_path / "clip")
    settings = replace(quick, steps=(40,))
    clip_settings = later("blended", later_steps=30, stop_change=stop_change)
    iterates = list(paint_clip(clip, [painting], tmp_path / "out", settings, clip_settings))
    finished = [now.figures.steps for now in iterates if now.figures is not None]
    assert finished == [40, steps]  # the first is never cut short


def test_a_frame_that_explodes_leaves_the_ones_before(
    quick: Settings, painting: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = folder_clip(pan(3), tmp_path / "clip")
    run = (clip, [painting], tmp_path / "out", quick, later("per-frame"))
    calls: list[int] = []

    def explode_at_third(*arguments: Any, **options: Any) -> Iterator[Iterate]:
        calls.append(1)
        for iterate in optimize(*arguments, **options):
            if len(calls) == 3:
                raise OptimizationError("the loss exploded.", iterate)
            yield iterate

    with monkeypatch.context() as patch:
        patch.setattr(modes, "optimize", explode_at_third)
        with pytest.raises(OptimizationError):
            list(paint_clip(*run))
    assert len(pngs(tmp_path / "out")) == 2
    assert painted_numbers(list(paint_clip(*run))) == [2]


def test_memory_does_not_grow_with_the_clip(
    quick: Settings, painting: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[weakref.ref[Any]] = []

    def watch(thing: Any) -> Any:
        alive.append(weakref.ref(thing))
        return thing

    monkeypatch.setattr(modes, "read_frames", lambda *a: map(watch, read_frames(*a)))
    monkeypatch.setattr(modes, "load_image", lambda *a: watch(load_image(*a)))
    monkeypatch.setattr(modes, "find_motion", lambda *a, **k: watch(find_motion(*a, **k)))
    clip = folder_clip(pan(16, speed=2), tmp_path / "clip")
    settings = replace(quick, steps=(1,))
    clip_settings = later("temporal", later_steps=1, temporal_lags=(1, 2, 4))
    things: list[int] = []
    tensors: list[int] = []
    for now in paint_clip(clip, [painting], tmp_path / "out", settings, clip_settings):
        if now.figures is not None:
            things.append(sum(each() is not None for each in alive))
            if now.frame in (8, 15):
                gc.collect()
                tensors.append(sum(issubclass(type(each), Tensor) for each in gc.get_objects()))
    assert len(alive) > 16 + 2 * 15
    assert max(things) <= 5 + 3 + 3  # the scene, the painted frames and their motion
    assert tensors[1] <= tensors[0]


def test_show_progress_passes_everything_on(
    quick: Settings, painting: Tensor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = folder_clip(pan(3), tmp_path / "clip")
    run = (clip, [painting], tmp_path / "out", quick, later("temporal"))
    iterates = list(show_progress(paint_clip(*run), "temporal"))
    assert [now.frame for now in iterates if now.figures] == [0, 1, 2]
    assert "3/3" in capsys.readouterr().out
    held = paint_clip(*run)
    shown = show_progress(held, "temporal")
    next(shown)
    shown.close()  # type: ignore[attr-defined]
    assert len(list(show_progress(paint_clip(*run), "temporal"))) == 3  # though `held` is alive
    assert "3/3" in capsys.readouterr().out


# --- masks, colours, stills that are shared ----------------------------------------------


def left_and_right() -> tuple[Tensor, Tensor]:
    left = torch.zeros(1, 1, 48, 64)
    left[..., :32] = 1
    return left, 1 - left


def test_each_style_is_painted_where_its_mask_is(
    quick: Settings, painting: Tensor, tmp_path: Path
) -> None:
    clip = folder_clip(pan(2), tmp_path / "clip")
    other = painting.flip(1)
    left, right = left_and_right()
    run = ([painting, other], tmp_path / "out", quick, later("per-frame"))
    list(paint_clip(clip, *run, masks=[left, right]))
    for number, picture in enumerate(read_frames(clip)):
        *_, last = optimize(from_array(picture), [painting, other], quick, masks=[left, right])
        saved = load_image(frame_path(tmp_path / "out", number))
        assert np.array_equal(to_array(saved), to_array(last.image))


def test_masks_move_with_the_clip_and_when_going_on(
    quick: Settings, painting: Tensor, tmp_path: Path
) -> None:
    clip = folder_clip(pan(3), tmp_path / "clip")
    whites = [np.zeros((48, 64, 3), np.uint8) for _ in range(3)]
    for number, white in enumerate(whites):
        white[:, 20 * number : 20 * number + 24] = 255
    masks = open_masks([folder_clip(whites, tmp_path / "masks").path], clip)

    def paint(name: str, mode: str) -> dict[str, bytes]:
        run = ([painting], tmp_path / name, quick, later(mode))
        list(paint_clip(clip, *run, masks=masks))
        return pngs(tmp_path / name)

    for number, picture in enumerate(read_frames(clip)):
        region = from_array(whites[number])[:, :1]
        *_, last = optimize(from_array(picture), [painting], quick, masks=[region])
        paint("alone", "per-frame")
        saved = load_image(frame_path(tmp_path / "alone", number))
        assert np.array_equal(to_array(saved), to_array(last.image))
    whole = paint("out", "temporal")
    (tmp_path / "out" / "000002.png").unlink()
    assert paint("out", "temporal") == whole


def test_other_masks_are_another_run(quick: Settings, painting: Tensor, tmp_path: Path) -> None:
    clip = folder_clip(pan(2), tmp_path / "clip")
    left, right = left_and_right()
    out = tmp_path / "out"
    run = (clip, [painting], out, quick, later("per-frame"))
    list(paint_clip(*run, masks=[left]))
    before = pngs(out)
    for masks in ([right], []):
        with pytest.raises(InputError, match="another run: masks is"):
            list(paint_clip(*run, masks=masks))
    with pytest.raises(InputError, match="2 masks for 1 style pictures"):
        list(paint_clip(clip, [painting], tmp_path / "new", *run[3:], masks=[left, right]))
    list(paint_clip(clip, [painting], tmp_path / "new", *run[3:], masks=[left]))
    assert pngs(tmp_path / "new") == pngs(out) == before


@pytest.mark.parametrize("mode", ["per-frame", "temporal"])
def test_styles_get_the_colours_of_each_scene(
    mode: str, quick: Settings, painting: Tensor, tmp_path: Path
) -> None:
    frames = two_scenes(3, 3)
    clip = folder_clip(frames, tmp_path / "clip")
    run = (clip, [painting], tmp_path / "out", quick, later(mode))
    list(paint_clip(*run, original_colors="monge-kantorovich"))
    whole = pngs(tmp_path / "out")
    for name, first in (("warm", frames[:3]), ("cold", frames[3:])):
        style = recolour(painting, painting, from_array(first[0]))
        scene = folder_clip(first, tmp_path / name)
        list(paint_clip(scene, [style], tmp_path / f"{name}.out", quick, later(mode)))
        expected = list(pngs(tmp_path / f"{name}.out").values())
        assert list(whole.values())[: len(first)] == expected
        whole = dict(list(whole.items())[len(first) :])


def test_a_run_that_goes_on_in_a_scene_knows_its_colours(
    quick: Settings, painting: Tensor, tmp_path: Path
) -> None:
    fading = [(frame * (1 - 0.15 * i)).astype(np.uint8) for i, frame in enumerate(pan(5))]
    clip = folder_clip(fading, tmp_path / "clip")
    run = (clip, [painting], tmp_path / "out", quick, later("blended"))
    list(paint_clip(*run, original_colors="pca"))
    whole = pngs(tmp_path / "out")
    (tmp_path / "out" / "000004.png").unlink()
    again = list(paint_clip(*run, original_colors="pca"))
    assert painted_numbers(again) == [4]
    assert pngs(tmp_path / "out") == whole
    with pytest.raises(InputError, match=r"another run: original_colors was .pca."):
        list(paint_clip(*run))
    with pytest.raises(InputError, match="original_colors = 'sepia'"):
        list(paint_clip(*run, original_colors="sepia"))


def test_a_film_in_luma_is_painted_as_ever_and_shown_in_the_clips_colours(
    quick: Settings, painting: Tensor, tmp_path: Path
) -> None:
    clip = folder_clip(pan(4), tmp_path / "clip")
    run = (clip, [painting], tmp_path / "out", quick, later("temporal"))
    list(paint_clip(*run))
    painted = PaintedFrames(tmp_path / "out", 4)
    again = list(paint_clip(*run, original_colors="luma"))  # warps the painting, not its colours
    assert painted_numbers(again) == []
    shown = PaintedFrames(tmp_path / "out", 4, clip)
    sources = [from_array(picture) for picture in read_frames(clip)]
    for number, (now, frame, source) in enumerate(zip(shown, painted, sources, strict=True)):
        assert torch.equal(now, transfer_luma(frame, source))
        assert torch.equal(now, shown[number])
    assert len(list(shown.pictures())) == 4
    with pytest.raises(IndexError, match="frame 4 of 4"):
        shown[4]


def test_frames_that_begin_a_scene_are_taken_from_the_per_frame_film(
    quick: Settings,
    painting: Tensor,
    tmp_path: Path,
    clip: Clip,
) -> None:
    alone, other = tmp_path / "alone", replace(quick, style_weight=7)
    list(paint_clip(clip, [painting], tmp_path / "whole", quick, later("temporal")))
    list(paint_clip(clip, [painting], alone, quick, later("per-frame")))
    list(paint_clip(clip, [painting], tmp_path / "other", other, later("per-frame")))
    starts = [0, SCENES[0]]
    rest = [number for number in range(sum(SCENES)) if number not in starts]
    for name, stills, painted in (
        ("shared", alone, rest),
        ("of other weights", tmp_path / "other", [*starts, *rest]),
        ("of another mode", tmp_path / "whole", [*starts, *rest]),
        ("not there", tmp_path / "nowhere", [*starts, *rest]),
    ):
        run = (clip, [painting], tmp_path / name, quick, later("temporal"))
        iterates = list(paint_clip(*run, alone=stills))
        assert painted_numbers(iterates) == sorted(painted)
        figures = [now.figures for now in iterates if now.figures]
        assert [each.scene_start for each in figures] == [n in starts for n in range(sum(SCENES))]
        assert pngs(tmp_path / name) == pngs(tmp_path / "whole")
    (alone / "000002.png").write_bytes(b"cut short")
    run = (clip, [painting], tmp_path / "damaged", quick, later("temporal"))
    assert painted_numbers(list(paint_clip(*run, alone=alone))) == sorted([2, *rest])


# --- going on ----------------------------------------------------------------------------

SCENES = (2, 3)  # frames; the cut is among those where runs are broken off


@pytest.fixture
def clip(tmp_path: Path) -> Clip:
    return folder_clip(two_scenes(*SCENES), tmp_path / "clip")


@pytest.mark.parametrize("mode", MODES)
def test_a_run_broken_off_anywhere_goes_on_to_the_same_frames(
    mode: str, quick: Settings, painting: Tensor, tmp_path: Path, clip: Clip
) -> None:
    clip_settings = later(mode, keyframe_every=2)

    def paint(folder: Path) -> Iterator[ClipIterate]:
        return paint_clip(clip, [painting], folder, quick, clip_settings)

    order = [now.frame for now in paint(tmp_path / "whole") if now.figures]
    whole = pngs(tmp_path / "whole")
    for last, broken in enumerate(order):
        folder = tmp_path / f"broken {broken}"
        iterates = paint(folder)
        for now in iterates:
            if now.frame == broken and now.iterate is not None and now.iterate.step == 1:
                break
        iterates.close()  # type: ignore[attr-defined]
        assert list(pngs(folder)) == [f"{number:06d}.png" for number in sorted(order[:last])]
        rest = list(paint(folder))
        assert painted_numbers(rest) == sorted(order[last:])
        assert sorted(now.frame for now in rest if now.figures) == list(range(sum(SCENES)))
        assert pngs(folder) == whole
    assert painted_numbers(list(paint(tmp_path / "whole"))) == []


def test_a_run_broken_off_again_and_again(
    quick: Settings, painting: Tensor, tmp_path: Path, clip: Clip
) -> None:
    def paint(folder: Path) -> Iterator[ClipIterate]:
        return paint_clip(clip, [painting], folder, quick, later("temporal"))

    list(paint(tmp_path / "whole"))
    for _ in range(sum(SCENES)):  # each gets one frame further
        for now in paint(tmp_path / "out"):
            if now.iterate is not None and now.frame > len(pngs(tmp_path / "out")):
                break
    list(paint(tmp_path / "out"))
    assert pngs(tmp_path / "out") == pngs(tmp_path / "whole")


def test_going_on_looks_at_all_the_earlier_frames(
    quick: Settings, painting: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half_hidden(current: Tensor, earlier: Tensor, *_: object, **__: object) -> Motion:
        """Which half depends on the frames."""
        seed = int(1e4 * (current.mean() + 2 * earlier.mean()))
        visible = (noise(1, 1, 48, 64, seed=seed) > 0.5).float()
        return Motion(torch.zeros(1, 2, 48, 64), visible)

    monkeypatch.setattr(modes, "find_motion", half_hidden)
    clip = folder_clip(pan(7), tmp_path / "clip")
    weight = 1e9  # or the masks would hardly matter

    def paint(folder: Path, lags: tuple[int, ...] = (1, 2, 4)) -> Iterator[ClipIterate]:
        clip_settings = later("temporal", temporal_lags=lags, temporal_weight=weight, later_steps=6)
        return paint_clip(clip, [painting], folder, quick, clip_settings)

    for name, lags in (("whole", (1, 2, 4)), ("nearer", (1, 2))):
        list(paint(tmp_path / name, lags))
    whole = pngs(tmp_path / "whole")
    assert list(pngs(tmp_path / "nearer").values())[:4] == list(whole.values())[:4]
    assert list(pngs(tmp_path / "nearer").values())[4] != list(whole.values())[4]
    for broken in (1, 4, 6):
        for now in paint(tmp_path / f"broken {broken}"):
            if now.frame == broken:
                break
        list(paint(tmp_path / f"broken {broken}"))
        assert pngs(tmp_path / f"broken {broken}") == whole


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "picture flipped": lambda folder: flip_a_byte(folder / "000002.png"),
    "picture cut": lambda folder: (folder / "000002.png").write_bytes(b"\x89PNG"),
    "picture gone": lambda folder: (folder / "000002.png").unlink(),
    "figures cut": lambda folder: (folder / "000002.json").write_text('{"sha256": "ab'),
    "figures of another kind": lambda folder: (folder / "000002.json").write_text("[1]"),
    "figures not text": lambda folder: (folder / "000002.json").write_bytes(b"\xff\xfe\x00"),
    "figures gone": lambda folder: (folder / "000002.json").unlink(),
}


@pytest.mark.parametrize("mode", ["per-frame", "temporal"])
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=list(DAMAGE))
def test_a_damaged_frame_is_made_again(
    damage: Callable[[Path], object],
    mode: str,
    quick: Settings,
    painting: Tensor,
    tmp_path: Path,
) -> None:
    clip = folder_clip(pan(5), tmp_path / "clip")
    run = (clip, [painting], tmp_path / "out", quick, later(mode))
    list(paint_clip(*run))
    whole = pngs(tmp_path / "out")
    damage(tmp_path / "out")
    iterates = list(paint_clip(*run))
    assert painted_numbers(iterates) == [2]
    assert [now.frame for now in iterates if now.figures] == list(range(5))
    assert pngs(tmp_path / "out") == whole


def test_several_damaged_frames_are_made_again(
    quick: Settings, painting: Tensor, tmp_path: Path, clip: Clip
) -> None:
    run = (clip, [painting], tmp_path / "out", quick, later("temporal"))
    list(paint_clip(*run))
    whole = pngs(tmp_path / "out")
    for name in ("000001.png", "000002.json", "000004.png"):
        (tmp_path / "out" / name).unlink()
    assert painted_numbers(list(paint_clip(*run))) == [1, 2, 4]
    assert pngs(tmp_path / "out") == whole


def test_leftovers_do_no_harm(quick: Settings, painting: Tensor, tmp_path: Path) -> None:
    clip = folder_clip(pan(3), tmp_path / "clip")
    out = tmp_path / "out"
    run = (clip, [painting], out, quick, later("temporal"))
    list(paint_clip(*run))
    whole = pngs(out)
    for name in (".000003.ab12.partial.png", ".000001.ab12.partial.json", ".run.ab12.partial.json"):
        (out / name).write_bytes(b"half a")
    for suffix in ("png", "json"):  # as file managers copy
        (out / f"000001 (1).{suffix}").write_bytes((out / f"000001.{suffix}").read_bytes())
    (out / "000002.png").unlink()
    assert painted_numbers(list(paint_clip(*run))) == [2]
    (out / "000001 (1).png").unlink()
    assert pngs(out) == whole


# --- whose folder it is ------------------------------------------------------------------


def refusal(*run: Any) -> str:
    with pytest.raises(InputError) as caught:
        list(paint_clip(*run))
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return sentence


def test_the_folder_of_another_run_is_refused_by_what_differs(
    quick: Settings, painting: Tensor, tmp_path: Path
) -> None:
    frames = pan(3)
    clip = folder_clip(frames, tmp_path / "clip")
    other = folder_clip(frames[::-1], tmp_path / "other")
    out, clip_settings = tmp_path / "out", later("temporal")
    list(paint_clip(clip, [painting], out, quick, clip_settings))
    before = {path: path.read_bytes() for path in out.iterdir()}
    flat = painting.clone()
    flat[..., 0, 0] = 0.5
    for named, run in {
        "clip": (other, [painting], out, quick, clip_settings),
        "start": (open_clip(clip.path, start=0.04), [painting], out, quick, clip_settings),
        "stride": (open_clip(clip.path, stride=2), [painting], out, quick, clip_settings),
        "fps": (open_clip(clip.path, fps=12), [painting], out, quick, clip_settings),
        "frame size": (open_clip(clip.path, size=40), [painting], out, quick, clip_settings),
        "style": (clip, [flat], out, quick, clip_settings),
        "style_weight": (clip, [painting], out, replace(quick, style_weight=7), clip_settings),
        "steps": (clip, [painting], out, replace(quick, steps=(4,)), clip_settings),
        "mode": (clip, [painting], out, quick, later("per-frame")),
        "later_steps": (clip, [painting], out, quick, later("temporal", later_steps=3)),
        "temporal_lags": (clip, [painting], out, quick, later("temporal", temporal_lags=(1,))),
    }.items():
        sentence = refusal(*run)
        assert re.search(f"belongs to another run: {named} (was|is) ", sentence)
        assert str(out) in sentence
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_another_end_is_the_same_run(quick: Settings, painting: Tensor, tmp_path: Path) -> None:
    clip = folder_clip(pan(4), tmp_path / "clip")
    short = open_clip(clip.path, end=0.08)
    list(paint_clip(short, [painting], tmp_path / "out", quick, later("temporal")))
    iterates = list(paint_clip(clip, [painting], tmp_path / "out", quick, later("temporal")))
    assert painted_numbers(iterates) == [2, 3]


def test_a_clip_that_was_made_shorter_leaves_the_frames_behind_its_end_out(
    quick: Settings, painting: Tensor, tmp_path: Path
) -> None:
    clip = folder_clip(pan(4), tmp_path / "clip")
    list(paint_clip(clip, [painting], tmp_path / "out", quick, later("temporal")))
    short = open_clip(clip.path, end=0.08)
    iterates = list(paint_clip(short, [painting], tmp_path / "out", quick, later("temporal")))
    assert [now.frame for now in iterates] == [0, 1]


@pytest.mark.parametrize(
    ("mode", "changes"),
    [
        ("per-frame", {"later_steps": 9, "stop_change": 0.5, "flow_method": "farneback"}),
        ("blended", {"temporal_weight": 1, "temporal_lags": (1, 3), "flow_method": "farneback"}),
        ("flow-warped", {"temporal_weight": 1, "temporal_lags": (1, 3)}),
        ("temporal", {"blend": 0.1}),
    ],
)
def test_settings_that_a_mode_does_not_use_may_differ(
    mode: str, changes: dict[str, Any], quick: Settings, painting: Tensor, tmp_path: Path
) -> None:
    clip = folder_clip(pan(3), tmp_path / "clip")
    list(paint_clip(clip, [painting], tmp_path / "out", quick, later(mode)))
    other = replace(later(mode), **changes)
    assert painted_numbers(list(paint_clip(clip, [painting], tmp_path / "out", quick, other))) == []


def test_another_picture_to_start_from_is_another_run(
    quick: Settings, painting: Tensor, tmp_path: Path
) -> None:
    clip = folder_clip(pan(2), tmp_path / "clip")
    start = tmp_path / "start.png"
    settings = replace(quick, init=str(start))
    Image.fromarray(pan(1)[0]).save(start)
    list(paint_clip(clip, [painting], tmp_path / "out", settings, later("temporal")))
    Image.fromarray(255 - pan(1)[0]).save(start)
    assert "init" in refusal(clip, [painting], tmp_path / "out", settings, later("temporal"))


def test_a_folder_with_foreign_pictures_is_refused(
    quick: Settings, painting: Tensor, tmp_path: Path
) -> None:
    clip = folder_clip(pan(2), tmp_path / "clip")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "holiday.png").write_bytes(b"dear")
    sentence = refusal(clip, [painting], tmp_path / "out", quick, later("temporal"))
    assert "holds files but no run.json" in sentence
    assert (tmp_path / "out" / "holiday.png").read_bytes() == b"dear"


# Where it was painted, as run.json has it; the last is how it was written at first.
ELSEWHERE: dict[str, dict[str, str | None]] = {
    "device": {"device": "cuda"},
    "precision": {"precision": "bfloat16"},
    "torch": {"torch": "2.9.0"},
    "workbench": {"workbench": "0.0.1"},
    "words": {"device": "auto", "precision": "auto", "torch": None},
}


@pytest.mark.parametrize("elsewhere", ELSEWHERE.values(), ids=list(ELSEWHERE))
def test_only_a_finished_film_may_have_been_painted_elsewhere(
    elsewhere: dict[str, str | None], quick: Settings, painting: Tensor, tmp_path: Path
) -> None:
    clip = folder_clip(pan(3), tmp_path / "clip")
    out = tmp_path / "out"
    run = (clip, [painting], out, replace(quick, device="auto"), later("per-frame"))
    list(paint_clip(*run))
    there = json.loads((out / "run.json").read_text())
    assert there["device"] == choose_device().type
    assert (there["precision"], there["torch"]) == ("float32", torch.__version__)
    there = {name: each for name, each in {**there, **elsewhere}.items() if each is not None}
    (out / "run.json").write_text(json.dumps(there))
    before = {path: path.read_bytes() for path in out.iterdir()}
    assert len([now for now in paint_clip(*run) if now.figures]) == 3
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    (out / "000001.png").unlink()
    assert f"belongs to another run: {next(iter(elsewhere))} was " in refusal(*run)
    assert "use another folder, or delete this one" in refusal(*run)


def test_a_damaged_run_json_is_not_guessed_at(
    quick: Settings, painting: Tensor, tmp_path: Path
) -> None:
    clip = folder_clip(pan(2), tmp_path / "clip")
    run = (clip, [painting], tmp_path / "out", quick, later("temporal"))
    list(paint_clip(*run))
    (tmp_path / "out" / "run.json").write_text("{")
    assert "no run.json" in refusal(*run)


def test_a_folder_in_use_is_refused(quick: Settings, painting: Tensor, tmp_path: Path) -> None:
    clip = folder_clip(pan(2), tmp_path / "clip")
    run = (clip, [painting], tmp_path / "out", quick, later("temporal"))
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".lock"):
        assert "is being painted into by another run" in refusal(*run)
    first = paint_clip(*run)
    next(first)
    assert "is being painted into by another run" in refusal(*run)
    first.close()  # type: ignore[attr-defined]
    assert len([now for now in paint_clip(*run) if now.figures]) == 2


def test_an_interrupted_film_goes_on_while_its_traceback_is_alive(
    quick: Settings, painting: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = folder_clip(pan(3), tmp_path / "clip")

    def interrupted(iterates: Iterator[ClipIterate], title: str) -> Iterator[ClipIterate]:
        for now in iterates:
            if now.frame == 1:
                raise KeyboardInterrupt
            yield now

    def stylize() -> Result:
        clip_settings = later("temporal")
        return stylize_clip(
            clip, [painting], tmp_path / "run", settings=quick, clip_settings=clip_settings
        )

    with monkeypatch.context() as patch:
        patch.setattr(modes, "show_progress", interrupted)
        with pytest.raises(KeyboardInterrupt) as caught:  # as Jupyter does, it keeps the traceback
            stylize()
    assert len(pngs(tmp_path / "run" / "frames")) == 1
    assert stylize().figures["frames"] == 3
    assert caught.tb is not None


# --- films -------------------------------------------------------------------------------


def film_clip(
    path: Path, frames: Sequence[Frame], *, sound: bool = False, fps: Fraction | int = 25
) -> Path:
    if sound:
        time = np.arange(round(len(frames) / fps * 48000)) / 48000
        melody = Sound(np.sin(2000 * time)[None].astype(np.float32) / 2, 48000)
        melody.write_film(frames, path, fps)
    else:
        write_film(frames, path, fps)
    return path


def sound_packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as source:
        return [bytes(packet) for packet in source.demux(audio=0) if packet.size]


def test_a_film_has_the_frames_the_rate_and_the_sound_of_its_clip(
    quick: Settings, painting: Tensor, tmp_path: Path
) -> None:
    path = film_clip(tmp_path / "a.mp4", pan(5), sound=True, fps=Fraction(24000, 1001))
    result = stylize_clip(
        path, [painting], tmp_path / "run", settings=quick, clip_settings=later("temporal")
    )
    assert read_result(tmp_path / "run") == result
    film = open_clip(tmp_path / "run" / result.outputs["film"])
    assert film.fps == Fraction(24000, 1001)
    assert film.sound
    shown = list(read_frames(film))
    assert len(shown) == film.frames == 5
    assert sound_packets(film.path) == sound_packets(path)
    frames = PaintedFrames(tmp_path / "run" / "frames", 5)
    for frame, painted in zip(shown, frames.pictures(), strict=True):
        assert np.abs(frame.astype(int) - painted).mean() < 25  # colours are thinned out
    assert result.figures["frames"] == 5
    assert result.figures["scenes"] == 1
    assert result.settings["mode"] == "temporal"
    assert result.settings["clip"] == str(path)
    assert result.weights["name"] == "tiny"


def test_the_same_run_gives_the_same_film_and_going_on_does_too(
    quick: Settings, painting: Tensor, tmp_path: Path
) -> None:
    path = film_clip(tmp_path / "a.mp4", pan(4), sound=True)
    films = []
    for name in ("a", "b", "b"):
        out = tmp_path / name
        stylize_clip(path, [painting], out, settings=quick, clip_settings=later("temporal"))
        films.append((out / "film.mp4").read_bytes())
        (out / "frames" / "000002.png").unlink()
    assert films[0] == films[1] == films[2]


def test_mode_by_name_wins(quick: Settings, painting: Tensor, tmp_path: Path) -> None:
    path = film_clip(tmp_path / "a.mp4", pan(2))
    result = stylize_clip(
        path,
        [painting],
        tmp_path / "run",
        mode="blended",
        settings=quick,
        clip_settings=later("temporal"),
    )
    assert result.settings["mode"] == "blended"
    with pytest.raises(InputError, match="mode = 'wobbly'"):
        stylize_clip(path, [painting], tmp_path / "other", mode="wobbly", settings=quick)


@pytest.mark.parametrize("shape", [(48, 64), (47, 63)])
def test_a_clip_of_one_frame_without_sound(
    shape: tuple[int, int], quick: Settings, painting: Tensor, tmp_path: Path
) -> None:
    clip = folder_clip(pan(1, shape=shape), tmp_path / "clip")
    settings = later("temporal")
    run = tmp_path / "run"
    for _ in range(2):  # and again
        result = stylize_clip(clip, [painting], run, settings=quick, clip_settings=settings)
        film = open_clip(run / "film.mp4")
        assert [frame.shape for frame in read_frames(film)] == [(*clip.shape, 3)]
        assert not film.sound
        assert result.figures["frames"] == 1


def test_odd_sizes_lose_their_last_row_and_column(
    quick: Settings, painting: Tensor, tmp_path: Path
) -> None:
    folder_clip(pan(3, shape=(47, 63)), tmp_path / "clip")
    run = tmp_path / "run"
    for mode in ("flow-warped", "temporal"):
        stylize_clip(
            tmp_path / "clip", [painting], run / mode, settings=quick, clip_settings=later(mode)
        )
        film = open_clip(run / mode / "film.mp4")
        assert (film.shape, film.frames) == ((46, 62), 3)


def test_files_are_shrunk_to_the_size_of_the_settings(
    quick: Settings, painting: Tensor, tmp_path: Path
) -> None:
    path = film_clip(tmp_path / "a.mp4", pan(2, shape=(96, 128)))
    stylize_clip(
        path, [painting], tmp_path / "run", settings=quick, clip_settings=later("temporal")
    )
    assert open_clip(tmp_path / "run" / "film.mp4").shape == (48, 64)


def test_a_clip_that_breaks_off_becomes_a_film_of_what_there_is(
    quick: Settings, painting: Tensor, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (48, 64, 3), dtype=np.uint8) for _ in range(10)]
    path = film_clip(tmp_path / "a.mp4", frames)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    there = len(list(read_frames(open_clip(path))))
    assert 1 <= there <= 8
    settings = replace(quick, steps=(1,))
    for _ in range(2):  # and again
        with pytest.warns(UserWarning, match=rf"breaks off: {there} of 10 frames"):
            result = stylize_clip(
                path,
                [painting],
                tmp_path / "run",
                settings=settings,
                clip_settings=later("blended"),
            )
        assert result.figures["frames"] == there
        assert len(list(read_frames(open_clip(tmp_path / "run" / "film.mp4")))) == there


def test_a_frame_less_than_promised_is_not_worth_a_word(tmp_path: Path) -> None:
    clip = folder_clip(pan(5), tmp_path / "clip")
    assert shortfall(clip, 5) is None
    assert shortfall(clip, 4) is None
    assert "3 of 5 frames" in (shortfall(clip, 3) or "")


def test_film_figures_by_hand() -> None:
    def frame(scene_start: bool, steps: int, seconds: float, megabytes: float) -> FrameFigures:
        return FrameFigures("", scene_start, steps, {}, seconds, megabytes)

    first, second = frame(True, 80, 9.0, 500.0), frame(False, 40, 2.0, 600.0)
    third, cut = frame(False, 30, 4.0, 400.0), frame(True, 80, 9.0, 500.0)
    figures = film_figures([first, second, third, cut])
    assert figures == {
        "frames": 4,
        "scenes": 2,
        "seconds_a_frame": 3.0,  # of those that begin no scene
        "steps_a_frame": 35.0,
        "peak_megabytes": 600.0,
    }
    assert film_figures([first])["steps_a_frame"] == 80


def test_a_steadied_film_keeps_its_frames_and_says_so(
    quick: Settings, painting: Tensor, tmp_path: Path
) -> None:
    clip = folder_clip(pan(3), tmp_path / "clip")
    films = []
    for steady in (0.0, 1.0):
        result = stylize_clip(clip, [painting], tmp_path / "run", settings=quick, steady=steady)
        films.append((tmp_path / "run" / "film.mp4").read_bytes())
        assert result.settings.get("steady", 0.0) == steady
        painted = pngs(tmp_path / "run" / "frames")
    assert films[0] != films[1]
    stylize_clip(clip, [painting], tmp_path / "run", settings=quick)
    assert (tmp_path / "run" / "film.mp4").read_bytes() == films[0]
    assert pngs(tmp_path / "run" / "frames") == painted
    with pytest.raises(InputError, match="steady = -1"):
        stylize_clip(clip, [painting], tmp_path / "other", settings=quick, steady=-1.0)
    assert not (tmp_path / "other").exists()


def test_painted_frames_are_a_sequence(quick: Settings, painting: Tensor, tmp_path: Path) -> None:
    clip = folder_clip(pan(3), tmp_path / "clip")
    list(paint_clip(clip, [painting], tmp_path / "out", quick, later("per-frame")))
    frames = PaintedFrames(tmp_path / "out", 3)
    assert len(frames) == len(list(frames)) == len(list(frames.pictures())) == 3
    assert torch.equal(frames[2], load_image(frame_path(tmp_path / "out", 2)))
    with pytest.raises(IndexError, match="frame 3 of 3"):
        frames[3]
