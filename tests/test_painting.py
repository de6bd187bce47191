from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from torch import Tensor

from workbench import painting as painting_module
from workbench.descent import measure, optimize, stylize
from workbench.errors import InputError, OptimizationError
from workbench.images import resize
from workbench.painting import Move, Painting, effective
from workbench.problem import Evaluate
from workbench.samples import load_picture
from workbench.settings import Settings
from workbench.stills import Still

EXPLODES = 1e38  # as a weight
WEIGHTS = ("content_weight", "style_weight", "tv_weight")


@pytest.fixture
def square(photo: Tensor) -> Tensor:
    """A picture with a coarse scale of 64 pixels below a size of 128."""
    return resize(photo, (64, 64))


def paint(painting: Painting, step: int) -> Painting:
    """Go on until so many steps are taken."""
    while painting.iterate is None or painting.iterate.step < step:
        assert painting.step() is not None
    return painting


def picture(painting: Painting | None) -> Tensor:
    assert painting is not None
    assert painting.iterate is not None
    return painting.iterate.image


# --- Move --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("move", "flat"),
    [
        (Move(20, {"style_weight": 300.0}), {"step": 20, "style_weight": 300.0}),
        (Move(0, {"style_layers": ("relu1_1",)}), {"step": 0, "style_layers": ["relu1_1"]}),
        (Move(7), {"step": 7}),
        (Move(9, back_to=0), {"step": 9, "back_to": 0}),
    ],
)
def test_a_move_and_its_plain_form(move: Move, flat: dict[str, object]) -> None:
    assert move.as_dict() == flat
    again = Move.from_dict(yaml.safe_load(yaml.safe_dump(flat)))
    assert again.as_dict() == flat
    assert (again.step, again.back_to) == (move.step, move.back_to)


@pytest.mark.parametrize(
    "flat",
    [
        {"style_weight": 300.0},
        {"step": -1},
        {"step": 2.0},
        {"step": True},
        {"step": "3"},
        {"step": None},
        {"step": 5, "back_to": -1},
        {"step": 5, "back_to": False},
        {"step": 5, "back_to": 5},
        {"step": 5, "back_to": 6},
        {"step": 5, "back_to": 2, "style_weight": 3.0},
        3,
        None,
        [("step", 3)],
        "step",
    ],
    ids=str,
)
def test_what_is_no_move_is_refused(flat: Any) -> None:
    with pytest.raises(InputError, match="move "):
        Move.from_dict(flat)


@pytest.mark.parametrize(
    ("move", "sentence"),
    [
        ({"step": 2, "stlye_weight": 3.0}, "no setting 'stlye_weight'"),
        ({"step": 2, "style_weight": -3.0}, "style_weight = -3.0"),
        ({"step": 2, 7: 3.0}, "7"),
    ],
    ids=str,
)
def test_a_painting_refuses_moves_that_make_no_sense(
    tiny: Settings, photo: Tensor, painting: Tensor, move: dict[Any, Any], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        Painting(Still(photo, [painting], tiny), moves=[Move.from_dict(move)])


def test_what_was_gone_back_from_has_no_effect() -> None:
    weight = {"style_weight": 3.0}
    log = [Move(2, weight), Move(12, weight), Move(15, back_to=10), Move(10, weight)]
    assert effective(log) == [Move(2, weight), Move(10), Move(10, weight)]
    assert effective([*log, Move(17, back_to=0)]) == [Move(0)]
    assert effective([]) == []


def test_a_log_of_an_earlier_version_that_goes_back_is_painted(
    tiny: Settings, photo: Tensor, painting: Tensor
) -> None:
    log = [{"step": 4, "tv_weight": 0.5}, {"step": 9, "back_to": 3}, {"step": 6, "style_weight": 3}]
    still = Still(photo, [painting], tiny)
    *_, last = (work := Painting(still, moves=[Move.from_dict(move) for move in log]))
    assert (last.step, work.settings) == (6 + 12, replace(tiny, style_weight=3.0))
    *_, same = Painting(still, moves=[Move(3), Move(6, {"style_weight": 3.0})])
    *_, plain = Painting(still, moves=[Move(6, {"style_weight": 3.0})])
    assert torch.equal(same.image, last.image)
    assert torch.equal(plain.image, last.image)


# --- Painting ----------------------------------------------------------------------------


def test_without_moves_a_painting_is_what_optimize_gives(
    tiny: Settings, square: Tensor, painting: Tensor
) -> None:
    settings = replace(tiny, size=128, steps=(3, 4))
    ours = list(Painting(Still(square, [painting], settings)))
    theirs = list(optimize(square, [painting], settings))
    assert [iterate.step for iterate in ours] == list(range(8))
    assert [iterate.steps for iterate in ours] == [7] * 8
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a.image, b.image)
        assert a.losses == b.losses


def test_a_change_counts_from_the_next_step_on_the_present_picture(
    tiny: Settings, photo: Tensor, painting: Tensor
) -> None:
    work = paint(Painting(Still(photo, [painting], tiny)), 5)
    before = picture(work)
    assert work.change(style_weight=1000.0, content_weight=0.5)
    after = work.step()
    assert after is not None
    assert after.step == 6
    assert work.log == [Move(5, {"style_weight": 1000.0, "content_weight": 0.5})]
    heavy = replace(tiny, style_weight=1000.0, content_weight=0.5)
    referee = measure(after.image, photo, [painting], heavy)
    assert after.losses.total == pytest.approx(referee.total, rel=1e-4)
    assert not torch.equal(after.image, before)


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
@pytest.mark.parametrize("step", [5, 30])
def test_where_only_proportions_change_the_painting_goes_on_as_it_did(
    tiny: Settings, photo: Tensor, painting: Tensor, step: int, optimizer: str
) -> None:
    settings = replace(tiny, steps=(60,), optimizer=optimizer)
    work = paint(Painting(Still(photo, [painting], settings)), step)
    work.change(**{name: 8 * getattr(tiny, name) for name in WEIGHTS})
    unmoved = [i.image for i in optimize(photo, [painting], settings)]
    for later in range(step + 1, 45):
        paint(work, later)
        assert torch.equal(picture(work), unmoved[later])


def changes(work: Painting, moves: Iterable[dict[str, float]]) -> Tensor:
    """Mean change of the picture at each step, with a move before each."""
    seen = []
    for move in moves:
        before = picture(work)
        work.change(**move)
        work.step()
        seen.append((picture(work) - before).abs().mean())
    return torch.stack(seen)


def test_a_move_does_not_stop_the_painting(tiny: Settings, photo: Tensor, painting: Tensor) -> None:
    work = paint(Painting(Still(photo, [painting], replace(tiny, steps=(60,)))), 30)
    there = work.snapshot()
    assert there is not None
    left_alone = changes(work, [{}] * 10)
    for name in WEIGHTS:
        work.go_to(there)
        drag = [{name: getattr(tiny, name) * 1.1 ** (i + 1)} for i in range(10)]
        assert changes(work, drag).mean() > 0.5 * left_alone.mean()


def test_a_picture_keeps_its_colours_where_white_is_another(
    tiny: Settings, photo: Tensor, painting: Tensor
) -> None:
    work = paint(Painting(Still(photo, [painting], replace(tiny, steps=(60,)))), 30)
    assert changes(work, [{"white": 128.0}]) < 0.02
    assert changes(work, [{"white": 255.0}]) < 0.02


@pytest.mark.slow
def test_with_the_true_network_a_slider_is_followed_while_it_moves() -> None:
    photo, style = load_picture("sample:astronaut"), load_picture("sample:swirls")
    settings = Settings(size=96, steps=(60,), precision="float32")
    work = paint(Painting(Still(photo, [style], settings)), 30)
    there = work.snapshot()
    assert there is not None
    left_alone = changes(work, [{}] * 10)
    for name in WEIGHTS:
        for factor in (10, 0.1):
            work.go_to(there)
            start = getattr(settings, name)
            drag = [{name: start * factor ** ((i + 1) / 10)} for i in range(10)]
            seen = changes(work, drag)
            assert seen.mean() > 0.5 * left_alone.mean(), (name, factor, seen, left_alone)
            assert seen.max() < 3 * left_alone.max(), (name, factor, seen, left_alone)
    while work.step_back():
        pass
    assert work.step().step == 1  # type: ignore[union-attr]
    assert torch.equal(picture(paint(work, 30)), there.iterate.image)


def test_the_changes_between_two_steps_are_one_move(
    tiny: Settings, photo: Tensor, painting: Tensor
) -> None:
    work = paint(Painting(Still(photo, [painting], tiny)), 3)
    for weight in (200, 300, 400):
        assert work.change(style_weight=weight)
    work.change(tv_weight=0.5)
    assert work.log == [Move(3, {"style_weight": 400.0, "tv_weight": 0.5})]
    paint(work, 4)
    work.change(style_weight=500)
    assert [move.step for move in work.log] == [3, 4]


def test_a_change_to_what_is_so_already_is_none(
    tiny: Settings, photo: Tensor, painting: Tensor
) -> None:
    work = paint(Painting(Still(photo, [painting], tiny)), 3)
    assert not work.change(style_weight=100, steps=[12], content_layers=["relu4_2"])
    assert not work.change()
    assert work.log == []
    assert torch.equal(picture(paint(work, 12)), stylize(photo, [painting], tiny))


def test_before_the_first_step_a_change_is_no_move(
    tiny: Settings, photo: Tensor, painting: Tensor
) -> None:
    work = Painting(Still(photo, [painting], tiny))
    assert work.change(style_weight=300.0, seed=5)
    assert work.log == []
    assert work.first_settings == work.settings == replace(tiny, style_weight=300.0, seed=5)
    assert torch.equal(
        picture(paint(work, 12)), stylize(photo, [painting], replace(tiny, style_weight=300.0))
    )


def test_a_move_gives_the_last_scale_all_of_its_steps_anew_and_keeps_the_coarse_ones(
    tiny: Settings, square: Tensor, painting: Tensor
) -> None:
    settings = replace(tiny, size=128, steps=(4, 6))
    coarse = Painting(Still(square, [painting], settings), moves=[Move(2, {"style_weight": 300.0})])
    sizes = [(iterate.size, iterate.steps) for iterate in coarse]
    assert sizes == [(64, 10)] * 5 + [(128, 10)] * 6
    fine = Painting(Still(square, [painting], settings), moves=[Move(6, {"style_weight": 300.0})])
    sizes = [(iterate.size, iterate.steps) for iterate in fine]
    assert sizes == [(64, 10)] * 5 + [(128, 10)] * 2 + [(128, 12)] * 6


def test_a_larger_size_and_other_steps_on_the_way(
    tiny: Settings, square: Tensor, painting: Tensor
) -> None:
    work = paint(Painting(Still(square, [painting], tiny)), 5)
    work.change(size=128, steps=(3,))
    assert [(iterate.step, iterate.size) for iterate in work] == [(6, 128), (7, 128), (8, 128)]
    assert work.recorder.steps == list(range(9))
    assert work.recorder.scale_changes == [5]


def test_a_change_after_the_end_goes_on(tiny: Settings, photo: Tensor, painting: Tensor) -> None:
    work = paint(Painting(Still(photo, [painting], tiny)), 12)
    assert work.step() is None
    assert work.step() is None
    assert work.change(style_weight=400.0)
    assert [iterate.step for iterate in work] == list(range(13, 25))


@pytest.mark.parametrize("colors", ["off", "luma"])
def test_the_picture_of_a_step_is_there_before_its_losses(
    tiny: Settings,
    photo: Tensor,
    painting: Tensor,
    colors: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[Any] = []
    look = Evaluate.__call__

    def note(self: Evaluate, pixels: Tensor) -> Any:
        told.append("look")
        return look(self, pixels)

    monkeypatch.setattr(Evaluate, "__call__", note)
    still = Still(photo, [painting], tiny, original_colors=colors)
    work = Painting(still)
    work.on_picture = told.append
    work.step()
    assert told == ["look"]  # at the photograph, which is there already
    for step in range(1, 10):
        if step == 6:
            work.change(style_weight=400.0)
        del told[:]
        work.step()
        looks = [each for each in told if isinstance(each, str)]
        assert len(looks) == 1 + (step == 6)  # a move is a look more, at the picture before it
        *_, shown, _ = told
        assert torch.equal(shown, work.shown.image)  # type: ignore[union-attr]
    assert torch.equal(picture(work), picture(paint(Painting(still, moves=work.log), 9)))


def test_an_explosion_is_raised_and_a_change_goes_on(
    tiny: Settings, photo: Tensor, painting: Tensor
) -> None:
    work = paint(Painting(Still(photo, [painting], tiny)), 5)
    before = picture(work)
    work.change(style_weight=EXPLODES)
    for _ in range(2):
        with pytest.raises(OptimizationError):
            work.step()
    assert picture(work) is before
    work.change(style_weight=200.0)
    assert work.step().step == 6  # type: ignore[union-attr]
    again = Painting(Still(photo, [painting], tiny), moves=work.log)
    assert torch.equal(picture(paint(again, 6)), picture(work))


def test_stepping_back_and_forward_returns_picture_settings_and_curve(
    tiny: Settings, photo: Tensor, painting: Tensor
) -> None:
    settings = replace(tiny, steps=(40,))
    work = paint(Painting(Still(photo, [painting], settings)), 13)
    work.change(style_weight=300.0)
    work.change(tv_weight=0.5)
    paint(work, 23)
    work.change(tv_weight=0.7)
    work.change(content_weight=1.0)
    path = [
        (23, replace(settings, style_weight=300.0, tv_weight=0.5)),
        (20, replace(settings, style_weight=300.0, tv_weight=0.5)),
        (13, settings),
        (10, settings),
        (0, settings),
    ]
    whole, log, now = work.recorder.losses, [*work.log], work.settings
    for step, then in path:
        assert work.step_back()
        assert work.iterate.step == step  # type: ignore[union-attr]
        assert work.settings == then
        assert work.recorder.steps == list(range(step + 1))
        assert work.recorder.losses == whole[: step + 1]
        assert work.recorder.snapshots()[-1].step == step
        assert work.log == [move for move in log if move.step < step]
    assert not work.step_back()
    for step, then in [*path[-2::-1], (23, now)]:
        assert work.step_forward()
        assert (work.iterate.step, work.settings) == (step, then)  # type: ignore[union-attr]
    assert not work.step_forward()
    assert (work.log, work.recorder.losses) == (log, whole)


def test_where_a_painting_goes_back_to_it_goes_on_as_it_did(
    tiny: Settings, square: Tensor, painting: Tensor
) -> None:
    settings = replace(tiny, size=128, steps=(21, 10))
    work, kept, shown = Painting(Still(square, [painting], settings)), {}, {}
    for step in range(28):
        paint(work, step)
        shown[step] = picture(work)
        kept[step] = work.snapshot()
        if step in (7, 20, 24):
            work.change(style_weight=100.0 + step)
    for step in (26, 5, 20):
        work.go_to(kept[step])
        assert picture(work) is shown[step]
        assert work.log == [move for move in kept[27].log if move.step < step]
        for again in range(step, 28):
            paint(work, again)
            assert torch.equal(picture(work), shown[again])
            if again in (7, 20, 24):
                work.change(style_weight=100.0 + again)
        assert work.log[: len(kept[27].log)] == list(kept[27].log)
    work.go_to(kept[0])
    work.change(style_weight=300.0)
    fresh = stylize(square, [painting], replace(settings, style_weight=300.0))
    assert torch.equal(picture(paint(work, 31)), fresh)


def test_what_is_done_after_a_step_back_is_the_new_way_on(
    tiny: Settings, photo: Tensor, painting: Tensor
) -> None:
    work = paint(Painting(Still(photo, [painting], replace(tiny, steps=(40,)))), 13)
    old = picture(work)
    work.step_back()
    work.change(style_weight=900.0)
    assert not work.step_forward()
    paint(work, 13)
    assert not torch.equal(picture(work), old)
    assert work.recorder.steps == list(range(14))
    assert work.step_back()
    assert work.iterate.step == 10  # type: ignore[union-attr]
    assert work.settings.style_weight == 100.0
    assert work.log == []
    work.step()
    assert not work.step_forward()


def test_to_go_elsewhere_can_be_taken_back(tiny: Settings, photo: Tensor, painting: Tensor) -> None:
    work = paint(Painting(Still(photo, [painting], tiny)), 4)
    assert work.snapshot().iterate is work.iterate  # type: ignore[union-attr]
    four, way = work.snapshot(), picture(work)
    work.step_back()
    work.change(style_weight=900.0)
    paint(work, 6)
    other = picture(work)
    work.go_to(four)  # type: ignore[arg-type]
    assert (picture(work) is way, work.log) == (True, [])
    assert work.step_forward()
    assert (picture(work) is other, work.log) == (True, [Move(0, {"style_weight": 900.0})])
    assert work.step_back()
    assert (work.iterate.step, work.settings) == (0, tiny)  # type: ignore[union-attr]


def test_the_moves_of_a_drag_are_undone_as_one(
    tiny: Settings, photo: Tensor, painting: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(painting_module, "DRAG_SECONDS", 100.0)
    work = paint(Painting(Still(photo, [painting], tiny)), 3)
    for step in range(4, 8):
        work.change(style_weight=100.0 + step)
        paint(work, step)
    work.change(tv_weight=0.5)
    paint(work, 8)
    work.step_back()
    assert (work.iterate.step, work.settings.style_weight) == (7, 107.0)  # type: ignore[union-attr]
    work.step_back()
    assert (work.iterate.step, work.settings) == (3, tiny)  # type: ignore[union-attr]


def test_a_snapshot_of_other_pictures_is_refused(
    tiny: Settings, photo: Tensor, painting: Tensor
) -> None:
    work = Painting(Still(photo, [painting], tiny))
    assert work.snapshot() is None
    other = paint(Painting(Still(photo.clone(), [painting], tiny)), 0).snapshot()
    with pytest.raises(InputError, match="of other pictures"):
        work.go_to(other)  # type: ignore[arg-type]
    assert not work.step_back()


def test_snapshots_take_so_much_memory_and_no_more(
    tiny: Settings, photo: Tensor, painting: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 120 * resize(photo, (48, 64)).nbytes
    monkeypatch.setattr(painting_module, "SNAPSHOT_BYTES", limit)
    monkeypatch.setattr(painting_module, "SNAPSHOT_EVERY", 1)
    work = paint(Painting(Still(photo, [painting], replace(tiny, steps=(100,)))), 90)
    tensors = {k: v for shot in work._behind for k, v in shot.tensors().items()}
    assert 0.7 * limit < sum(each.nbytes for each in tensors.values()) <= limit
    steps = []
    while work.step_back():
        steps.append(work.iterate.step)  # type: ignore[union-attr]
    assert steps[:3] == [89, 88, 87]
    assert steps[-1] == 0
    assert len(steps) > 5


def test_a_move_after_the_end_is_refused(tiny: Settings, photo: Tensor, painting: Tensor) -> None:
    with pytest.raises(InputError, match=r"made at step 30, but the painting ends at step 12\.$"):
        Painting(Still(photo, [painting], tiny), moves=[Move(30, {"style_weight": 300.0})])


def test_by_hand_the_rest_of_a_replay_is_dropped(
    tiny: Settings, photo: Tensor, painting: Tensor
) -> None:
    moves = [Move(2, {"style_weight": 300.0}), Move(6, {"style_weight": 500.0})]
    work = paint(Painting(Still(photo, [painting], tiny), moves=moves), 4)
    work.change(tv_weight=0.5)
    list(work)
    assert work.log == [moves[0], Move(4, {"tv_weight": 0.5})]


CHANGES = (
    {"style_weight": 300.0},
    {"style_weight": 50.0, "tv_weight": 0.01},
    {"content_weight": 0.0},
    {"size": 64},
    {"size": 96},
    {"steps": (7,)},
    {"steps": (3, 5)},
    {"optimizer": "adam"},
    {"optimizer": "lbfgs"},
    {"style_layers": ("relu2_1",), "style_layer_weights": (2.0,)},
    {"style_layers": ("relu1_1", "relu4_1"), "style_layer_weights": ()},
    {"style_scale": 0.5},
    {"seed": 3},
)
GO = ("step_back", "step_forward", "keep", "go_to")
DEEDS = st.one_of(
    st.integers(1, 6), st.integers(1, 6), st.sampled_from(CHANGES), st.sampled_from(GO)
)


@given(deeds=st.lists(DEEDS, min_size=1, max_size=10), steps=st.sampled_from([(6,), (4, 6)]))
@hypothesis_settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_whatever_is_done_the_log_gives_the_same_picture(
    tiny: Settings, square: Tensor, painting: Tensor, deeds: list[Any], steps: tuple[int, ...]
) -> None:
    settings = replace(tiny, size=128, steps=steps)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(painting_module, "SNAPSHOT_EVERY", 3)
        work, kept = Painting(Still(square, [painting], settings)), None
        for deed in deeds:
            if isinstance(deed, int):
                for _ in range(deed):
                    work.step()
            elif isinstance(deed, dict):
                work.change(**deed)
            elif deed == "keep":
                kept = work.snapshot()
            elif deed == "go_to" and kept is not None:
                work.go_to(kept)
            elif deed.startswith("step"):
                getattr(work, deed)()
        work.step()  # what was changed last shows
    for log in (work.log, [Move.from_dict(move.as_dict()) for move in work.log]):
        again = Painting(Still(square, [painting], work.first_settings), moves=log)
        paint(again, work.iterate.step)  # type: ignore[union-attr]
        assert torch.equal(picture(again), picture(work))
        assert again.settings == work.settings
        assert again.iterate.losses == work.iterate.losses  # type: ignore[union-attr]
        assert again.recorder.losses == work.recorder.losses


def test_settings_so_far_give_the_picture_so_far(
    tiny: Settings, photo: Tensor, painting: Tensor
) -> None:
    settings = replace(tiny, steps=(40,))
    work = Painting(Still(photo, [painting], settings))
    assert work.settings_so_far() == settings
    paint(work, 27)
    assert work.settings_so_far() == replace(settings, steps=(27,))
    assert torch.equal(stylize(photo, [painting], work.settings_so_far()), picture(work))
    paint(work, 40)
    assert work.settings_so_far() == settings


def test_settings_so_far_of_several_scales(
    tiny: Settings, square: Tensor, painting: Tensor
) -> None:
    settings = replace(tiny, size=128, steps=(4, 6))
    work = paint(Painting(Still(square, [painting], settings)), 7)
    assert work.settings_so_far() == replace(settings, steps=(4, 3))
    assert torch.equal(stylize(square, [painting], work.settings_so_far()), picture(work))


def test_settings_so_far_where_a_coarse_scale_is_left_out(
    tiny: Settings, photo: Tensor, painting: Tensor
) -> None:
    settings = replace(tiny, steps=(4, 6))
    work = paint(Painting(Still(photo, [painting], settings)), 5)
    assert torch.equal(stylize(photo, [painting], work.settings_so_far()), picture(work))


def test_settings_so_far_in_a_coarse_scale(
    tiny: Settings, square: Tensor, painting: Tensor
) -> None:
    settings = replace(tiny, size=128, steps=(4, 6))
    work = paint(Painting(Still(square, [painting], settings)), 3)
    assert work.settings_so_far() == settings


def test_settings_so_far_after_moves_are_the_last_ones(
    tiny: Settings, photo: Tensor, painting: Tensor
) -> None:
    moves = [Move(3, {"style_weight": 300.0})]
    work = paint(Painting(Still(photo, [painting], tiny), moves=moves), 5)
    assert work.settings_so_far() == replace(tiny, style_weight=300.0)
