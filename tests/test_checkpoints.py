from __future__ import annotations

import contextlib
import math
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import psutil
import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import save_file
from test_cli import interrupt
from test_cli import workbench as workbench_command
from torch import Tensor

import workbench
from workbench import checkpoints as module
from workbench.checkpoints import Checkpoints, Moment, load_tree
from workbench.descent import WARMUP_STEPS, Iterate, optimize
from workbench.errors import InputError, OptimizationError, OutputError
from workbench.forecast import Outline
from workbench.losses import Losses, TemporalTarget
from workbench.progress import Recorder, keep_latest, show_progress
from workbench.runs import Identity
from workbench.settings import Settings
from workbench.sheets import plot_losses, save_gif

FULL = 34  # steps of `long`


@dataclass
class Painter:
    """Paints one thing again and again; `said` is what checkpoints told."""

    content: Tensor
    styles: list[Tensor]
    settings: Settings
    folder: Path
    said: list[str] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)

    def run(
        self, every: int = 10, recorder: Recorder | None = None, **options: Any
    ) -> Iterator[Iterate]:
        """A run with checkpoints, at whatever cost."""
        options = {"share": math.inf, "say": self.said.append, **options}
        checkpoints = Checkpoints(self.folder, every=every, recorder=recorder, **options)
        return optimize(
            self.content, self.styles, self.settings, checkpoints=checkpoints, **self.more
        )

    def unbroken(self) -> list[Iterate]:
        return list(optimize(self.content, self.styles, self.settings, **self.more))

    def kill(self, step: int, **options: Any) -> None:
        """Leave in the folder what `kill -9` after so many steps would."""
        frozen = self.folder.with_suffix(".frozen")
        with closing(self.run(**options)) as iterates:  # type: ignore[type-var]
            for _ in islice(iterates, step + 1):
                pass
            if self.folder.exists():
                shutil.copytree(self.folder, frozen)
        shutil.rmtree(self.folder, ignore_errors=True)
        if frozen.exists():
            frozen.rename(self.folder)

    def steps_kept(self) -> list[int]:
        """Of the checkpoints in the folder."""
        paths = self.folder.glob("workbench-run-*")
        return sorted(load_tree(path)["moment"]["step"] for path in paths)

    def file(self) -> Path:
        (path,) = self.folder.glob("workbench-run-*")
        return path


@pytest.fixture
def long(tiny: Settings, photo: Tensor, painting: Tensor, tmp_path: Path) -> Painter:
    """Two scales, with Adam and L-BFGS at the first."""
    settings = replace(tiny, size=128, steps=(WARMUP_STEPS + 4, 10))
    return Painter(photo[..., :60], [painting], settings, tmp_path / "there" / "a.checkpoint")


def assert_same(resumed: list[Iterate], unbroken: list[Iterate]) -> None:
    """Bit for bit, from where the resumed one begins."""
    first = resumed[0].step
    assert [each.step for each in resumed] == [each.step for each in unbroken[first:]]
    for ours, theirs in zip(resumed, unbroken[first:], strict=True):
        assert ours.losses == theirs.losses
        assert (ours.size, ours.steps) == (theirs.size, theirs.steps)
        assert torch.equal(ours.image, theirs.image)


# --- going on ----------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@given(
    step=st.integers(0, FULL),
    every=st.integers(1, 12),
    optimizer=st.sampled_from(["adam", "lbfgs"]),
    steps=st.sampled_from([(24, 10), (5, 29), (FULL,)]),
    killed=st.booleans(),
)
@hypothesis_settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_a_run_that_was_stopped_anywhere_comes_to_the_same_picture(
    long: Painter,
    precision: str,
    step: int,
    every: int,
    optimizer: str,
    steps: tuple[int, ...],
    killed: bool,
) -> None:
    painter = replace(long, folder=long.folder / uuid.uuid4().hex, said=[])
    painter.settings = replace(
        long.settings, precision=precision, optimizer=optimizer, steps=steps, learning_rate=4.0
    )
    unbroken = unbroken_of(painter)
    if killed:
        painter.kill(step, every=every)
        # The one that is due is written when the next step is asked for.
        kept = every * ((step - 1) // every) if step > 0 else 0
    else:
        with closing(painter.run(every=every)) as iterates:  # type: ignore[type-var]
            for _ in islice(iterates, step + 1):
                pass
        kept = step
    resumed = list(painter.run(every=every))
    assert resumed[0].step == kept
    assert_same(resumed, unbroken)


_UNBROKEN: dict[Settings, list[Iterate]] = {}


def unbroken_of(painter: Painter) -> list[Iterate]:
    """Painted once for all who have the pictures of `long`."""
    if painter.settings not in _UNBROKEN:
        _UNBROKEN[painter.settings] = painter.unbroken()
    return _UNBROKEN[painter.settings]


def test_stopped_again_and_again(long: Painter) -> None:
    unbroken = unbroken_of(long)
    begins = []
    for _ in range(8):
        with closing(long.run()) as iterates:  # type: ignore[type-var]
            few = list(islice(iterates, 5))
        assert_same(few, unbroken[: few[-1].step + 1])
        begins.append(few[0].step)
    assert begins == [0, 4, 8, 12, 16, 20, 24, 28]
    assert_same(list(long.run()), unbroken)


def explode_now_and_then(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let L-BFGS ruin the picture at the same places in every run; returns when."""
    real = torch.optim.LBFGS.step
    ruined: list[int] = []

    def step(self: torch.optim.LBFGS, closure: object) -> object:
        result = real(self, closure)
        (state,) = self.state.values()
        group = self.param_groups[0]
        if state["n_iter"] in (4, 17) and group["lr"] in (1.0, 0.5):
            ruined.append(state["n_iter"])
            with torch.no_grad():
                group["params"][0].fill_(float("nan"))
        return result

    monkeypatch.setattr(torch.optim.LBFGS, "step", step)
    return ruined


def test_explosions_and_rescues_are_gone_through_again(
    long: Painter, monkeypatch: pytest.MonkeyPatch
) -> None:
    ruined = explode_now_and_then(monkeypatch)
    long.settings = replace(long.settings, steps=(WARMUP_STEPS + 40, 20))
    unbroken = long.unbroken()
    assert len(ruined) > 4
    for step in (WARMUP_STEPS + 2, WARMUP_STEPS + 6, 37, 60, 61, 66):
        with closing(long.run()) as iterates:  # type: ignore[type-var]
            for iterate in iterates:
                if iterate.step == step:
                    break
        frozen = long.folder.with_suffix(".frozen")
        shutil.copytree(long.folder, frozen)
        assert_same(list(long.run()), unbroken)
        shutil.rmtree(long.folder)
        frozen.rename(long.folder)


@pytest.mark.parametrize("stop", [3, WARMUP_STEPS + 4, WARMUP_STEPS + 10], ids=str)
@pytest.mark.parametrize("where", ["in the step", "in the look at the picture"])
def test_ctrl_c_in_the_middle_of_a_step_loses_no_step_before(
    long: Painter, where: str, stop: int
) -> None:
    unbroken = unbroken_of(long)
    calls = iter(range(1000))

    def interrupted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            result = real(*arguments, **options)
            if next(calls) == stop:
                raise KeyboardInterrupt
            return result

        return call

    seen = []
    with pytest.MonkeyPatch.context() as patch:
        places = [(torch.optim.Adam, "step"), (torch.optim.LBFGS, "step")]
        if where == "in the look at the picture":
            places = [(Tensor, "backward")]
        for owner, name in places:
            patch.setattr(owner, name, interrupted(getattr(owner, name)))
        with pytest.raises(KeyboardInterrupt):
            seen.extend(long.run(every=1000))
    assert long.steps_kept() == [seen[-1].step]
    assert_same(list(long.run()), unbroken)


def test_start_pictures_noise_and_earlier_frames_go_on_too(
    long: Painter, photo: Tensor, painting: Tensor
) -> None:
    target = TemporalTarget(1 - photo, torch.ones(1, 1, 60, 80), 100.0)
    long.more = {"start": painting, "temporal": [target], "masks": [torch.rand(1, 1, 60, 80)]}
    for init in ("content", "random"):
        long.settings = replace(long.settings, init=init, seed=3)
        unbroken = long.unbroken()
        long.kill(27)
        assert_same(list(long.run()), unbroken)
        shutil.rmtree(long.folder)
        long.more = {}


@pytest.mark.parametrize("stop", [WARMUP_STEPS + 6, FULL])
def test_tiles_and_masks_go_on_though_memory_has_become_free(
    long: Painter, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    left = (torch.arange(60) < 25).float().expand(1, 1, 60, 60)
    long.styles += [long.styles[0].flip(1)]
    long.more = {"masks": [left, 1 - left]}
    layers = {"style_layers": ("relu1_1", "relu2_1"), "content_layers": ("relu2_2",)}
    long.settings = replace(long.settings, **layers)  # type: ignore[arg-type]
    free, needed = [100.0], {64: {None: 0}, 128: {None: 200, 80: 150, 48: 90, 32: 80}}
    monkeypatch.setattr("workbench.forecast.TILES", (80, 48, 32))
    monkeypatch.setattr("workbench.problem.free_megabytes", lambda device: free[0])
    monkeypatch.setattr(
        Outline, "megabytes", lambda self, shape, side=None: needed[max(shape)].get(side, 0)
    )
    unbroken = long.unbroken()
    long.kill(stop, every=1)
    free[0] = 1000.0
    assert load_tree(long.file())["moment"]["tile"] == 48
    assert_same(list(long.run()), unbroken)


def test_no_checkpoint_changes_no_bit(long: Painter) -> None:
    assert_same(list(long.run(every=3)), unbroken_of(long))
    assert long.said == []


def test_a_run_that_stopped_at_its_end_only_shows_it(long: Painter) -> None:
    unbroken = unbroken_of(long)
    with closing(long.run()) as iterates:  # type: ignore[type-var]
        for _ in islice(iterates, FULL + 1):
            pass
    resumed = list(long.run())
    assert [each.step for each in resumed] == [FULL]
    assert_same(resumed, unbroken)


def test_a_run_that_explodes_for_good_explodes_again(
    long: Painter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ruin(self: torch.optim.LBFGS, closure: object) -> None:
        with torch.no_grad():
            self.param_groups[0]["params"][0].fill_(float("nan"))

    monkeypatch.setattr(torch.optim.LBFGS, "step", ruin)
    sentences = []
    for _ in range(2):
        with pytest.raises(OptimizationError) as caught:
            list(long.run())
        assert caught.value.last_good.step == WARMUP_STEPS
        sentences.append(str(caught.value))
    assert sentences[0] == sentences[1]
    assert long.said == [f"Going on from step 20 in {long.folder}."]


# --- what is kept, and for how long ------------------------------------------------------


def test_one_file_is_kept_and_nothing_is_left_in_the_end(long: Painter) -> None:
    kept = []
    checkpoints = Checkpoints(long.folder, every=4, recorder=Recorder(), share=math.inf)
    for _ in optimize(long.content, long.styles, long.settings, checkpoints=checkpoints):
        kept.append(long.steps_kept())
    assert kept[0] == kept[4] == []
    assert kept[5] == kept[8] == [4]
    assert kept[9] == kept[12] == [8]
    assert kept[-1] == [32]
    checkpoints.remove()
    assert not long.folder.exists()
    checkpoints.remove()


def test_files_of_others_are_left_alone(long: Painter) -> None:
    long.folder.mkdir(parents=True)
    theirs = long.folder / "run-00000010.safetensors"
    save_file({"pixels": torch.ones(3)}, theirs)
    unfinished = long.folder / ".workbench-run-0123abcd.0f0f0f0f.partial.safetensors"
    unfinished.write_bytes(b"of a run that was killed while it wrote")
    long.kill(12, every=4)
    assert long.steps_kept() == [8]
    assert not unfinished.exists()
    Checkpoints(long.folder).remove()
    assert list(long.folder.iterdir()) == [theirs]


def test_to_begin_anew_removes_what_is_there(long: Painter) -> None:
    unbroken = unbroken_of(long)
    long.kill(20)
    resumed = list(long.run(resume=False, every=1000))
    assert_same(resumed, unbroken)
    assert resumed[0].step == 0
    assert long.said == []
    assert not long.folder.exists()


def test_writing_takes_no_more_than_its_share_of_the_time(long: Painter) -> None:
    with closing(long.run(every=1, share=1e-6)) as iterates:  # type: ignore[type-var]
        for iterate in iterates:
            if iterate.step == 12:
                assert long.steps_kept() == [1]
                break
    assert long.steps_kept() == [12]  # a stop is worth it


@pytest.mark.parametrize(
    ("step", "write", "kept"),
    [
        (90.0, 8.0, [4, 9, 14, 19]),  # a large picture: a stop costs seven minutes, not 75
        (90.0, 30.0, [4, 21]),  # on a slow disk
        (5.0, 0.1, [10, 20]),  # by the number of steps
        (0.5, 0.2, [10]),  # small, and slow to write
    ],
)
def test_slow_steps_are_kept_sooner_and_writing_stays_within_its_share(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, step: float, write: float, kept: list[int]
) -> None:
    now, written = [1000.0], list[int]()

    def save_tree(path: Path, tree: dict[str, Any]) -> None:
        written.append(tree["moment"]["step"])
        now[0] += write

    def moments() -> Iterator[Moment]:
        for number in range(24):
            yield Moment(number, torch.zeros(1), torch.zeros(1), Losses(1.0, {}, {}, 0.0), 1.0)
            now[0] += step

    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(module, "save_tree", save_tree)
    checkpoints = Checkpoints(tmp_path, every=10)
    assert checkpoints.find(Identity({})) is None
    assert len(list(checkpoints.keep(moments()))) == 24
    assert written == kept
    assert write * len(written[1:]) <= 0.02 * (now[0] - 1000.0)


def test_a_run_that_is_closed_late_takes_nothing_back(long: Painter) -> None:
    late = long.run()
    assert [next(late).step for _ in range(5)] == list(range(5))
    with closing(long.run()) as iterates:  # type: ignore[type-var]
        for _ in islice(iterates, 21):
            pass
    before = long.file().read_bytes()
    late.close()  # type: ignore[attr-defined]
    assert long.file().read_bytes() == before


def test_memory_lies_where_torch_would_put_it(long: Painter) -> None:
    with closing(long.run()) as iterates:  # type: ignore[type-var]
        for _ in islice(iterates, 24):
            pass
    run = Identity(load_tree(long.file())["run"])
    moment = Checkpoints(long.folder).find(run)
    assert moment is not None
    tensors = [moment.pixels, moment.grad, *moment.optimizer["state"][0]["old_dirs"]]
    assert {tensor.data_ptr() % 64 for tensor in tensors} == {0}


# --- recorders ---------------------------------------------------------------------------


@given(step=st.integers(0, 45), every=st.integers(1, 15), killed=st.booleans())
@hypothesis_settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_the_gif_of_a_resumed_run_is_that_of_the_unbroken_one(
    long: Painter, step: int, every: int, killed: bool
) -> None:
    painter = replace(long, folder=long.folder / uuid.uuid4().hex, said=[])
    painter.settings = replace(long.settings, steps=(20, 25), optimizer="adam")
    whole = Recorder(frames=3, max_side=100)  # so few that some are thinned out again
    for iterate in unbroken_of(painter):
        whole.add(iterate)

    recorder = Recorder(frames=3, max_side=100)
    frozen = painter.folder.with_suffix(".frozen")
    with closing(painter.run(every=every, recorder=recorder)) as iterates:  # type: ignore[type-var]
        for iterate in islice(iterates, step + 1):
            if iterate.step < step or step % 2:  # stopped before or after it was noted
                recorder.add(iterate)
        if killed and painter.folder.exists():
            shutil.copytree(painter.folder, frozen)
    if killed:
        painter.folder = frozen
    recorder = Recorder(frames=3, max_side=100)
    for iterate in painter.run(every=every, recorder=recorder):
        recorder.add(iterate)
    assert recorder.steps == whole.steps
    assert recorder.losses == whole.losses
    assert recorder.scale_changes == whole.scale_changes == [20]
    ours, theirs = recorder.snapshots(), whole.snapshots()
    assert [each.step for each in ours] == [each.step for each in theirs]
    assert all(np.array_equal(a.frame, b.frame) for a, b in zip(ours, theirs, strict=True))


def test_gif_and_plot_of_a_resumed_run_are_the_same_files(long: Painter, tmp_path: Path) -> None:
    files = []
    for name, stops in (("whole", ()), ("broken", (7, 22, 24, 25))):
        painter = replace(long, folder=tmp_path / name)
        for stop in (*stops, FULL):
            recorder = Recorder(frames=6)
            with closing(painter.run(recorder=recorder)) as iterates:  # type: ignore[type-var]
                for iterate in keep_latest(show_progress(iterates), tmp_path / "latest.png"):
                    recorder.add(iterate)
                    if iterate.step == stop:
                        break
        save_gif([shot.frame for shot in recorder.snapshots()], tmp_path / f"{name}.gif")
        plot_losses(recorder).savefig(tmp_path / f"{name}.png", metadata={})
        files.append([(tmp_path / f"{name}{end}").read_bytes() for end in (".gif", ".png")])
    assert files[0] == files[1]


def test_the_bar_begins_where_the_run_goes_on(
    long: Painter, capsys: pytest.CaptureFixture[str]
) -> None:
    long.kill(25)
    list(show_progress(long.run(say=print)))
    printed = capsys.readouterr().out
    assert printed.startswith(f"Going on from step 20 in {long.folder}.\n")
    assert f"34/{FULL}" in printed
    assert " 0/" not in printed


# --- damage ------------------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-len(data) // 3] ^= 4
    path.write_bytes(data)


def flip_in_the_header(path: Path) -> None:
    data = path.read_bytes()
    at = data.index(b'rate\\": ') + len(b'rate\\": ')
    path.write_bytes(data[:at] + (b"1" if data[at : at + 1] != b"1" else b"2") + data[at + 1 :])


def blank(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def blank_the_end(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-4096] + bytes(4096))


def replace_by_another_programs(path: Path) -> None:
    save_file({"weight": torch.ones(3)}, path, metadata={"format": "pt"})


def empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGES = [cut, flip, flip_in_the_header, blank, blank_the_end, replace_by_another_programs, empty]


@pytest.mark.parametrize("damage", DAMAGES)
def test_if_it_is_damaged_the_painting_begins_anew(
    long: Painter, damage: Callable[[Path], None]
) -> None:
    recorder = Recorder()
    with closing(long.run(every=8, recorder=recorder)) as iterates:  # type: ignore[type-var]
        for iterate in islice(iterates, 20):
            recorder.add(iterate)
    path = long.file()
    damage(path)
    recorder = Recorder()
    resumed = list(long.run(every=1000, recorder=recorder))
    assert resumed[0].step == 0
    assert_same(resumed, unbroken_of(long))
    assert recorder.steps == []
    assert long.said == [f"{path} is damaged or not the workbench's; the painting begins anew."]
    assert not long.folder.exists()


def test_a_kill_in_the_middle_of_writing_leaves_the_one_before(
    long: Painter, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder()
    iterates = long.run(every=8, recorder=recorder)
    for iterate in islice(iterates, 17):
        recorder.add(iterate)
    with monkeypatch.context() as patch:
        patch.setattr(module, "save_file", killed)
        with pytest.raises(SystemExit):
            next(iterates)
    assert long.steps_kept() == [8]
    whole, recorder = Recorder(), Recorder()
    for iterate in unbroken_of(long):
        whole.add(iterate)
    iterates = list(long.run(recorder=recorder))
    assert iterates[0].step == 8
    for iterate in iterates:
        recorder.add(iterate)
    assert recorder.losses == whole.losses
    for ours, theirs in zip(recorder.snapshots(), whole.snapshots(), strict=True):
        assert ours.step == theirs.step
        assert np.array_equal(ours.frame, theirs.frame)


def killed(tensors: object, path: Path, **options: object) -> None:
    path.write_bytes(b"half of it")
    raise SystemExit


# --- other runs --------------------------------------------------------------------------


@dataclass
class Change:
    """A difference, and the words for it."""

    says: str
    make: Callable[[Painter], object]


def other_settings(**changes: Any) -> Callable[[Painter], None]:
    def make(painter: Painter) -> None:
        painter.settings = replace(painter.settings, **changes)

    return make


CHANGES = [
    Change("style_weight was 100.0, is 300.0", other_settings(style_weight=300)),
    Change("steps was [24, 10], is [24, 11]", other_settings(steps=(24, 11))),
    Change('optimizer was "lbfgs", is "adam"', other_settings(optimizer="adam")),
    Change("seed was 0, is 1", other_settings(seed=1)),
    Change('precision was "float32", is "bfloat16"', other_settings(precision="bfloat16")),
    Change(
        "tv_weight was 0.001, is 0.0; size was 128, is 64", other_settings(size=64, tv_weight=0)
    ),
    Change("the photograph is another one", lambda p: setattr(p, "content", p.content * 0.999)),
    Change("the photograph is another one", lambda p: setattr(p, "content", p.content[..., 1:])),
    Change("style picture 1 is another one", lambda p: setattr(p, "styles", [1 - p.styles[0]])),
    Change("style picture 2 is new", lambda p: setattr(p, "styles", 2 * p.styles)),
    Change("the start picture is new", lambda p: p.more.update(start=p.content)),
    Change("mask 1 is new", lambda p: p.more.update(masks=[torch.ones(1, 1, 60, 80)])),
]


@pytest.mark.parametrize("change", CHANGES, ids=[change.says for change in CHANGES])
def test_another_run_begins_anew_says_how_it_differs_and_takes_nothing(
    long: Painter, change: Change
) -> None:
    unbroken = unbroken_of(long)
    long.kill(15)
    there = {path.name: path.read_bytes() for path in long.folder.iterdir()}
    other = replace(long, said=[], more={})
    change.make(other)
    for first in (0, 7):
        with closing(other.run(every=4)) as iterates:  # type: ignore[type-var]
            assert next(iterates).step == first
            list(islice(iterates, 7 - first))
    assert other.said == [
        f"{long.folder} belongs to another run ({change.says}); the painting begins anew. The"
        " other one can go on until this one is finished.",
        f"Going on from step 7 in {long.folder}.",
    ]
    now = {path.name: path.read_bytes() for path in long.folder.iterdir()}
    assert now.items() > there.items()
    assert_same(list(long.run()), unbroken)
    assert long.said == [f"Going on from step 10 in {long.folder}."]
    Checkpoints(long.folder).remove()
    assert not long.folder.exists()


def test_of_several_others_the_nearest_is_named(long: Painter) -> None:
    for changes in ({}, {"style_weight": 300}, {"style_weight": 300, "seed": 1}):
        replace(long, settings=replace(long.settings, **changes)).kill(15)
    long.settings = replace(long.settings, seed=1, style_weight=300, tv_weight=0)
    assert next(long.run()).step == 0
    assert "another run (tv_weight was 0.001, is 0.0);" in long.said[-1]


def test_the_file_of_an_earlier_version_is_named_and_goes_in_the_end(long: Painter) -> None:
    long.folder.mkdir(parents=True)
    theirs = long.folder / "workbench-step-0123abcd-00000010.safetensors"
    save_file({"pixels": torch.ones(3)}, theirs, metadata={"workbench": "{}"})
    (long.folder / "workbench-frames-00000010.safetensors").write_bytes(b"pictures")
    assert next(long.run()).step == 0
    assert "belongs to another run (by another version)" in long.said[0]
    Checkpoints(long.folder).remove()
    assert not long.folder.exists()


@pytest.mark.parametrize(
    ("program", "says"),
    [
        (workbench, f'workbench was "{workbench.__version__}", is "9.9.0"'),
        (torch, f'torch was "{torch.__version__}", is "9.9.0"'),
    ],
    ids=["workbench", "torch"],
)
def test_another_version_is_another_run(
    long: Painter, monkeypatch: pytest.MonkeyPatch, program: Any, says: str
) -> None:
    long.kill(15)
    monkeypatch.setattr(program, "__version__", type(program.__version__)("9.9.0"))
    assert next(long.run()).step == 0
    assert f"({says})" in long.said[0]


def test_other_weights_are_another_run(long: Painter, monkeypatch: pytest.MonkeyPatch) -> None:
    long.kill(15)
    weights = workbench.weights.load_weights("tiny")
    other = replace(weights, sha256="0" * 64)
    monkeypatch.setattr(sys.modules["workbench.problem"], "load_weights", lambda name: other)
    assert next(long.run()).step == 0
    assert "(the set of weights is another one)" in long.said[0]


def test_what_the_recorder_depends_on_is_compared_too(long: Painter) -> None:
    long.kill(15, told={"original_colors": "off", "box": (1, 2)})
    assert next(long.run(told={"original_colors": "off", "box": (1, 2)})).step == 10
    assert next(long.run(told={"original_colors": "luma", "box": (1, 2)})).step == 0
    assert 'original_colors was "off", is "luma"' in long.said[-1]
    assert next(long.run(told={"original_colors": "off"})).step == 0
    assert "box was " in long.said[-1]


def test_where_a_start_picture_lies_does_not_matter(
    long: Painter, tmp_path: Path, painting: Tensor
) -> None:
    for name in ("one.png", "two.png"):
        workbench.save_image(painting, tmp_path / name)
    workbench.save_image(1 - painting, tmp_path / "three.png")
    one, two, three = (
        replace(long, settings=replace(long.settings, init=str(tmp_path / f"{name}.png")))
        for name in ("one", "two", "three")
    )
    unbroken = one.unbroken()
    one.kill(15)
    assert_same(list(two.run()), unbroken)
    one.kill(15)
    assert next(three.run()).step == 0
    assert "(the start picture is another one)" in three.said[-1]
    assert next(long.run()).step == 0
    assert "the start picture is gone; init was" in long.said[-1]


# --- folders that cannot be written to ---------------------------------------------------


def test_a_folder_that_cannot_be_made_is_found_out_first(long: Painter, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("no folder")
    for folder in (tmp_path / "text.txt" / "checkpoint", tmp_path / "text.txt"):
        long.folder = folder
        with pytest.raises(OutputError, match=r"text\.txt.* cannot be written"):
            next(long.run())


def test_a_full_disk_costs_the_checkpoints_and_not_the_painting(
    long: Painter, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = unbroken_of(long)

    def no_room(tensors: object, path: Path, **options: object) -> None:
        path.write_bytes(b"half of it")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    iterates = long.run(every=5)
    begun = list(islice(iterates, 12))
    monkeypatch.setattr(module, "save_file", no_room)
    assert_same([*begun, *iterates], unbroken)
    (sentence,) = long.said
    assert sentence.startswith(f"No more checkpoints: {long.folder}")
    assert "cannot be written: I/O error: No space left on device (os error 28)." in sentence
    assert list(long.folder.iterdir()) == [long.file()]
    monkeypatch.setattr(module, "save_file", save_file)
    assert_same(list(long.run()), unbroken)


def test_a_disk_that_is_full_from_the_start_is_left_as_it_was(
    long: Painter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(tensors: object, path: Path, **options: object) -> None:
        path.write_bytes(b"half of it")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(module, "save_file", no_room)
    with closing(long.run(every=5)) as iterates:  # type: ignore[type-var]
        assert [each.step for each in islice(iterates, 12)][-1] == 11
    assert len(long.said) == 1
    assert not long.folder.exists()


@pytest.mark.parametrize("every", [0, -3])
def test_every_is_a_number_of_steps(tmp_path: Path, every: int) -> None:
    with pytest.raises(InputError, match=f"every = {every}: give a number of steps from 1 on."):
        Checkpoints(tmp_path, every=every)


# --- the command line --------------------------------------------------------------------

ARGUMENTS = "stylize photo.jpg style.png -o out.png --size 64 --steps 110 --gif p.gif"
COMMAND = [*ARGUMENTS.split(), "--losses", "l.png", "--device", "cpu", "--precision", "float32"]


def write_pictures(folder: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((240, 180), Image.Resampling.BICUBIC).save(folder / "photo.jpg")
    Image.fromarray(noise[::-1]).save(folder / "style.png")
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of the command line that nothing happened to."""
    folder = write_pictures(tmp_path_factory.mktemp("whole"))
    done = workbench_command(*COMMAND, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def assert_same_files(folder: Path, whole: Path) -> None:
    assert {path.name for path in folder.iterdir()} - {"printed.txt"} == {
        path.name for path in whole.iterdir()
    }
    for name in ("out.png", "p.gif", "l.png"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name


def kill_once_it_wrote(command: list[str], checkpoint: Path) -> None:
    """Start a command and kill it, and all that it started, with no chance to tidy up."""

    def wrote() -> bool:
        steps = checkpoint.glob("workbench-run-*")
        with contextlib.suppress(FileNotFoundError):
            return any(path.stat().st_mtime_ns > began for path in steps)
        return False

    checkpoint.parent.mkdir(exist_ok=True)
    began = time.time_ns()
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=checkpoint.parent,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 200
    try:
        while not wrote():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.01)
    finally:
        parent = psutil.Process(process.pid)
        for each in (*parent.children(recursive=True), parent):
            each.kill()
        process.wait()


@pytest.mark.slow
def test_killed_and_resumed_the_command_line_makes_the_same_files(
    whole: Path, tmp_path: Path
) -> None:
    folder = write_pictures(tmp_path)
    checkpoint = folder / "out.checkpoint"
    for options in (["--seed", "7"], ["--anew"], ["--resume"]):
        kill_once_it_wrote(["workbench", *COMMAND, *options], checkpoint)
        assert not (folder / "out.png").exists()
    done = workbench_command(*COMMAND, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "Going on from step 100 in out.checkpoint." in done.stdout
    assert_same_files(folder, whole)


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(whole: Path, tmp_path: Path) -> None:
    folder = write_pictures(tmp_path)
    command = [sys.executable, "-m", "workbench", *COMMAND]
    code, printed = interrupt(command, folder, r" [1-9]\d/110")
    assert code == 130, printed
    assert "out.unfinished.png; the same command goes on." in printed
    assert "Traceback" not in printed
    done = workbench_command(*COMMAND, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "Going on from step " in done.stdout
    assert_same_files(folder, whole)
