from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.collections import PolyCollection
from matplotlib.offsetbox import AnnotationBbox

from workbench.errors import InputError
from workbench.fast.models import Checkpoint, ModelFolder, save_network, write_folder
from workbench.fast.network import TransformationNetwork
from workbench.fast.schedule import (
    PALETTE,
    Choice,
    Schedule,
    Section,
    choose_models,
    describe_schedule,
    models_to_train,
    plot_schedule,
    read_schedule,
)

PORTRAIT = """
0-12.5: sketch-a
12.5-30: [sketch-b, sketch-b@less-good, sketch-b@weird]
30-: sketch-c
"""
SKETCHES = ("sketch-b", "sketch-b@less-good", "sketch-b@weird")


def schedule(*sections: tuple[float, tuple[str, ...]]) -> Schedule:
    """From the length in seconds and the models of each section."""
    ends = [round(sum(length for length, _ in sections[:i]), 3) for i in range(len(sections) + 1)]
    return Schedule(
        tuple(
            Section(start, end, models)
            for (start, end), (_, models) in zip(itertools.pairwise(ends), sections, strict=True)
        )
    )


def times(read: Schedule) -> list[tuple[float, float]]:
    return [(section.start, section.end) for section in read.sections]


# --- reading -----------------------------------------------------------------------------


def test_sections_of_a_text() -> None:
    read = read_schedule(PORTRAIT, 40.0)
    assert read == Schedule(
        (
            Section(0, 12.5, ("sketch-a",)),
            Section(12.5, 30, SKETCHES),
            Section(30, 40, ("sketch-c",)),
        )
    )
    assert read.models == ("sketch-a", *SKETCHES, "sketch-c")


@pytest.mark.parametrize("name", ["film.yaml", "film.yml", "FILM.YAML"])
def test_file_is_read_by_path_or_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("\ufeff" + PORTRAIT, "utf-8")
    assert read_schedule(tmp_path / name, 40.0) == read_schedule(PORTRAIT, 40.0)
    assert read_schedule(f"{tmp_path / name}\n", 40.0) == read_schedule(PORTRAIT, 40.0)


def test_mapping_is_a_schedule() -> None:
    content = {"0-12.5": ["sketch-a"], "12.5-30": SKETCHES, "30-": "sketch-c"}
    assert read_schedule(content, 40.0) == read_schedule(PORTRAIT, 40.0)


@pytest.mark.parametrize("name", ["sketch-a", "sketch-a@weird", "models/sketch.safetensors"])
def test_one_name_paints_the_whole_clip(name: str) -> None:
    assert read_schedule(name, 7.5) == Schedule((Section(0, 7.5, (name,)),))


def test_model_may_be_called_like_a_file() -> None:
    assert read_schedule("0-: film.yaml", 5).models == ("film.yaml",)


@pytest.mark.parametrize(
    ("key", "start", "end"),
    [
        ("5-8", 5, 8),
        ("5.25-8.", 5.25, 8),
        (" 5 - 8 ", 5, 8),
        ("0:05-1:08", 5, 68),
        ("1:05-2:10.5", 65, 130.5),
        ("65.1-1:10.3", 65.1, 70.3),
        ("75:00-1:15:30", 4500, 4530),
        ("1:01:01.5-1:02:00", 3661.5, 3720),
    ],
)
def test_times_may_be_written_in_many_ways(key: str, start: float, end: float) -> None:
    read = read_schedule({f"0-{start}": "a", key: "b", f"{end}-": "c"}, 5000)
    assert times(read) == [(0, start), (start, end), (end, 5000)]


def test_sections_are_sorted() -> None:
    read = read_schedule("8-1:00: c\n0-2: a\n1:00-: d\n2-8: b", 120)
    assert times(read) == [(0, 2), (2, 8), (8, 60), (60, 120)]
    assert read.models == ("a", "b", "c", "d")


def test_repeats_are_kept() -> None:
    read = read_schedule("0-1: [a, b, a]\n1-: [b, c]", 2)
    assert read.sections[0].models == ("a", "b", "a")
    assert read.models == ("a", "b", "c")


def test_tiny_differences_are_made_good() -> None:
    content = {"0.01-5": "a", "5.009-8.01": "b", "8.001-10.04": "c"}
    assert times(read_schedule(content, 10)) == [(0, 5.009), (5.009, 8.001), (8.001, 10)]
    assert times(read_schedule({"0-9.96": "a"}, 10)) == [(0, 10)]


def test_sections_without_their_colon_are_no_name() -> None:
    with pytest.raises(InputError, match=r"schedule: .*one text.*space after the colon"):
        read_schedule("0-5:a\n5-:b\n", 10)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0-5: [a", r"schedule: line 1, column 8: it is not YAML"),
        ("0-5: a\n\t5-: b", r"schedule: line 2, column 1: it is not YAML"),
        ("0-5: \x07", r"schedule: .*it is not YAML: a character"),
        ("[" * 2000, r"schedule: it is nested too deeply"),
        ("0-: 2026-02-30", r"schedule: .*day is out of range"),
        ("", r"schedule: it must be a mapping.*is empty"),
        ("{}", r"schedule: it must be a mapping.*is empty"),
        ("[a, b]", r"schedule: it must be a mapping.*is a list"),
        ("12", r"schedule: it must be a mapping.*is a number"),
        ("0-5: a\n0-5: b\n5-: c", r"schedule: line 2, column 1: '0-5' is given twice; keep one"),
        ("12: a", r"the key 12 is a number, not a section.*write start-end"),
        ("1:30: a", r"the key 90 is a number.*1:30"),
        ("-5: a", r"the key -5 is a number"),
        ("intro: a", r"'intro' is no section; write start-end"),
        ("'-5': a", r"'-5' is no section"),
        ("0-five: a", r"section '0-five': 'five' is no time; write seconds, m:ss or h:mm:ss"),
        ("0-1:5: a", r"'1:5' is no time"),
        ("0-1:75: a", r"'1:75' is no time"),
        ("0-1:5:10: a", r"'1:5:10' is no time"),
        ("0-12,5: a", r"'12,5' is no time"),
        ("0-5-10: a", r"'5-10' is no time"),
        ("0-1e1: a", r"'1e1' is no time"),
        ("0-inf: a", r"'inf' is no time"),
        ("0-٣: a", r"'٣' is no time"),
        (f"0-{'9' * 500}: a", r"is no time"),
        ("0-5: a\n5-5: b", r"section 5-5: its end is not after its start"),
        ("0-5: a\n8-5: b", r"section 8-5: its end is not after its start"),
        ("0-10.06: a", r"section 0-10\.06 goes beyond the clip's end, at 10 s"),
        ("0-10: a\n10-: b", r"section 10- goes beyond the clip's end"),
        ("0-10: a\n10.02-10.04: b", r"section 10\.02-10\.04 goes beyond"),
        ("1.5-: a", r"nothing is said from 0 to 1\.5 s; add a section"),
        ("0-2: a\n2.02-: b", r"nothing is said from 2 to 2\.02 s"),
        ("0-9.94: a", r"nothing is said from 9\.94 to 10 s"),
        ("0-5: a\n4-: b", r"sections 0-5 and 4- overlap"),
        ("0-: a\n3-4: b", r"sections 0- and 3-4 overlap"),
        ("0-5: a\n0:00-0:05: b\n5-: c", r"sections 0-5 and 0:00-0:05 overlap"),
        ("0-: []", r"section 0- has no model; name one"),
        ("0-:", r"section 0- has no model"),
        ("0-: ''", r"section 0-: a model must be a text, and one is empty"),
        ("0-: [a, 12]", r"section 0-: a model must be a text, and one is a number.*quotes"),
        ("0-: on", r"a model must be a text, and one is true or false"),
        ("0-: {a: 2}", r"a model must be a text, and one is a mapping"),
        ("0-: [[a, b]]", r"a model must be a text, and one is a list"),
    ],
)
def test_wrong_schedule_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        read_schedule(text, 10)
    assert "\n" not in str(raised.value)


def test_unreadable_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"schedule: missing\.yaml: there is no such file"):
        read_schedule("missing.yaml", 10)
    with pytest.raises(InputError, match=r"it cannot be read: is a directory"):
        read_schedule(tmp_path, 10)
    (tmp_path / "latin.yaml").write_bytes(b"0-: caf\xe9")
    with pytest.raises(InputError, match=r"latin\.yaml: it is not text in UTF-8"):
        read_schedule(tmp_path / "latin.yaml", 10)


@pytest.mark.parametrize("duration", [0, -1, float("nan"), float("inf")])
def test_clip_without_a_length_is_refused(duration: float) -> None:
    with pytest.raises(InputError, match=r"duration = .*above 0"):
        read_schedule("a", duration)


def test_models_that_are_missing_are_to_be_trained(tmp_path: Path) -> None:
    read = read_schedule({"0-1": ["ink@300", "oil"], "1-": ["oil@3", "stones"]}, 2)
    assert models_to_train(read, tmp_path, {"ink": 1, "oil": 2, "stones": 3}) == [
        "ink",
        "oil",
        "stones",
    ]
    with pytest.raises(InputError, match=r"has no model 'oil', and styles has no picture"):
        models_to_train(read, tmp_path, ["ink", "stones"])
    with pytest.raises(InputError, match=r"no model 'stones', .*; did you mean 'stone'\?"):
        models_to_train(read, tmp_path, ["ink", "oil", "stone"])
    network = TransformationNetwork(0.25)
    save_network(network, tmp_path / "oil" / "step-000003.safetensors")
    steps = (Checkpoint(3, {"total": 1.0}, {}, 1.0),)
    write_folder(tmp_path / "oil", ModelFolder(("s",), ("c",), {}, {}, checkpoints=steps))
    assert models_to_train(read, tmp_path, ["ink", "stones"]) == ["ink", "stones"]
    # Its training was stopped before the end.
    assert models_to_train(read, tmp_path, ["ink", "oil", "stones"]) == ["ink", "oil", "stones"]
    (tmp_path / "oil" / "result.json").write_text("{}")
    assert models_to_train(read, tmp_path, ["ink", "oil", "stones"]) == ["ink", "stones"]
    other = read_schedule("oil@4", 2)
    with pytest.raises(InputError, match=r"oil has no checkpoint '4'; .*steps: 3\."):
        models_to_train(other, tmp_path, ["ink"])


def test_a_label_of_a_model_that_is_still_to_be_trained_is_refused(tmp_path: Path) -> None:
    labelled = read_schedule("oil@less-good", 2)
    with pytest.raises(InputError, match=r"oil@less-good: oil is still to be trained, .*or name"):
        models_to_train(labelled, tmp_path, ["oil"])
    steps = (Checkpoint(3, {"total": 1.0}, {}, 1.0),)
    model = ModelFolder(("s",), ("c",), {}, {}, checkpoints=steps)
    write_folder(tmp_path / "oil", model)  # training was stopped
    with pytest.raises(InputError, match=r"labelled 'less-good' yet"):
        models_to_train(labelled, tmp_path, ["oil"])
    write_folder(tmp_path / "oil", replace(model, labels={"less good": 3}))
    assert models_to_train(labelled, tmp_path, ["oil"]) == ["oil"]
    assert models_to_train(read_schedule("oil@step-9", 2), tmp_path, ["oil"]) == ["oil"]


# --- choosing ----------------------------------------------------------------------------


def pairs(choices: list[Choice]) -> list[tuple[tuple[str, float], ...]]:
    """Names and shares, in their order."""
    return [tuple(choice.items()) for choice in choices]


def painters(choices: list[Choice]) -> list[str]:
    assert {len(choice) for choice in choices} == {1}
    return [name for ((name, _),) in pairs(choices)]


@pytest.mark.parametrize("fps", [25.0, Fraction(25), Fraction(30000, 1001), 24])
def test_frame_belongs_to_the_section_that_contains_its_time(fps: float | Fraction) -> None:
    borders = [7, 14, 29]  # frames
    parts = [0.0, *(float(frame / fps) for frame in borders)]
    sections = tuple(
        Section(start, end, (name,))
        for (start, end), name in zip(itertools.pairwise([*parts, 2.0]), "abcd", strict=True)
    )
    chosen = painters(choose_models(Schedule(sections), 80, fps))
    assert chosen == ["a"] * 7 + ["b"] * 7 + ["c"] * 15 + ["d"] * 51


def test_written_time_of_a_frame_is_its_section_s_first() -> None:
    read = read_schedule("0-0.28: a\n0.28-: b", 1)
    assert painters(choose_models(read, 8, Fraction(25)))[-2:] == ["a", "b"]


def test_three_models_get_a_third_each() -> None:
    counts = Counter(painters(choose_models(schedule((100, ("a", "b", "c"))), 3000, 30)))
    assert set(counts) == {"a", "b", "c"}
    assert all(900 < count < 1100 for count in counts.values())


def test_repeats_are_drawn_more_often() -> None:
    counts = Counter(painters(choose_models(schedule((100, ("a", "b", "a", "a"))), 3000, 30)))
    assert 2150 < counts["a"] < 2350


def test_seed_decides() -> None:
    film = schedule((10, ("a", "b")))
    assert choose_models(film, 250, 25, seed=7) == choose_models(film, 250, 25, seed=7)
    assert choose_models(film, 250, 25, seed=7) != choose_models(film, 250, 25, seed=8)


def test_other_sections_may_change_their_length() -> None:
    models = ("a", "b", "c")
    long = painters(choose_models(schedule((5, models), (4, models)), 225, 25, hold=3))
    short = painters(choose_models(schedule((2, models), (4, models)), 150, 25, hold=3))
    assert long[:50] == short[:50]
    assert long[125:] == short[50:]
    assert long[125:] != long[:100]


@pytest.mark.parametrize("hold", [1, 4, 7])
def test_drawn_model_stays(hold: int) -> None:
    chosen = painters(choose_models(schedule((1, ("x",)), (9, ("a", "b"))), 250, 25, hold=hold))
    section = chosen[25:]
    draws = [section[i : i + hold] for i in range(0, len(section), hold)]
    assert all(len(set(draw)) == 1 for draw in draws)
    assert {"".join(run) for _, run in itertools.groupby(section)} > {"a" * hold, "b" * hold}


def test_crossfade_by_hand() -> None:
    film = schedule((0.2, ("a",)), (0.5, ("b",)))
    assert pairs(choose_models(film, 7, 10, crossfade=3)) == [
        (("a", 1.0),),
        (("a", 1.0),),
        (("a", 0.75), ("b", 0.25)),
        (("a", 0.5), ("b", 0.5)),
        (("a", 0.25), ("b", 0.75)),
        (("b", 1.0),),
        (("b", 1.0),),
    ]


def test_change_during_a_fade_starts_anew_from_the_model_that_was_fading_in() -> None:
    film = schedule((0.1, ("a",)), (0.2, ("b",)), (0.5, ("c",)))
    assert pairs(choose_models(film, 6, 10, crossfade=3)) == [
        (("a", 1.0),),
        (("a", 0.75), ("b", 0.25)),
        (("a", 0.5), ("b", 0.5)),
        (("b", 0.75), ("c", 0.25)),
        (("b", 0.5), ("c", 0.5)),
        (("b", 0.25), ("c", 0.75)),
    ]


def test_nothing_fades_into_itself() -> None:
    film = schedule((1, ("a", "a")), (1, ("a",)))
    assert choose_models(film, 20, 10, crossfade=5) == [{"a": 1.0}] * 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": -1}, r"seed = -1: give a whole number from 0 on"),
        ({"hold": 0}, r"hold = 0: give a whole number from 1 on"),
        ({"crossfade": -1}, r"crossfade = -1: give a whole number from 0 on"),
        ({"frames": 0}, r"frames = 0: give a whole number from 1 on"),
        ({"fps": 0}, r"fps = 0: give a number above 0"),
        ({"fps": float("nan")}, r"fps = nan"),
    ],
)
def test_senseless_number_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        choose_models(schedule((1, ("a",))), **{"frames": 5, "fps": 25, **change})


films = st.lists(
    st.tuples(
        st.integers(1, 40).map(lambda tenths: tenths / 10),
        st.lists(st.sampled_from("abcde"), min_size=1, max_size=4).map(tuple),
    ),
    min_size=1,
    max_size=5,
).map(lambda sections: schedule(*sections))


@given(
    films,
    st.integers(1, 80),
    st.sampled_from([5, 10.0, Fraction(24000, 1001)]),
    st.integers(0, 2**32),
    st.integers(1, 9),
    st.integers(0, 9),
)
def test_any_choice_is_lawful(
    film: Schedule, frames: int, fps: float | Fraction, seed: int, hold: int, crossfade: int
) -> None:
    choices = choose_models(film, frames, fps, seed=seed, hold=hold, crossfade=crossfade)
    assert len(choices) == frames
    before: set[str] = set()  # whatever may fade out
    for frame, choice in enumerate(pairs(choices)):
        at = [section for section in film.sections if section.start <= float(frame / fps)][-1]
        assert 1 <= len(choice) <= 2
        assert sum(share for _, share in choice) == pytest.approx(1, abs=1e-12)
        assert all(0 < share <= 1 for _, share in choice)
        assert choice[-1][0] in at.models
        if len(choice) == 2:
            fading_out, fading_in = choice[0][0], choice[1][0]
            assert fading_out != fading_in
            assert fading_out in before
        before = {name for name, _ in choice}
    described = describe_schedule(film, choices)
    assert tuple(described) == film.models
    assert sum(described.values()) == pytest.approx(1)


def test_description_by_hand() -> None:
    film = schedule((0.2, ("a",)), (0.3, ("b",)), (5, ("c",)))
    choices = choose_models(film, 5, 10, crossfade=1)
    described = describe_schedule(film, choices)
    assert described == pytest.approx({"a": 0.5, "b": 0.5, "c": 0})


# --- plotting ----------------------------------------------------------------------------


def bars(figure: Any) -> dict[str, PolyCollection]:
    (axes,) = figure.axes
    drawn = [each for each in axes.collections if isinstance(each, PolyCollection)]
    return {str(each.get_label()): each for each in drawn}


def test_plot_has_a_bar_for_each_run_of_frames() -> None:
    film = schedule((2, ("a",)), (2, ("b",)), (2, ("a",)))
    choices = choose_models(film, 60, 10, crossfade=3)
    drawn = bars(plot_schedule(film, choices, 10, {}))
    assert {name: len(each.get_paths()) for name, each in drawn.items()} == {"a": 8, "b": 7}
    corners = drawn["a"].get_paths()[0].get_extents()
    assert (corners.x0, corners.x1) == (0, 2)
    opacities = np.asarray(drawn["b"].get_facecolor())[:, 3]
    assert opacities.tolist() == [0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25]


def test_plot_names_models_and_borders() -> None:
    read = read_schedule(PORTRAIT.replace("sketch-a", "$a_1$"), 40)
    choices = choose_models(read, 400, 10, hold=5)
    previews = {name: np.full((30, 50, 3), 99, np.uint8) for name in ("$a_1$", "sketch-b", "other")}
    figure = plot_schedule(read, choices, 10, previews)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == list(read.models)
    assert axes.yaxis_inverted()
    pictures = [each for each in axes.artists if isinstance(each, AnnotationBbox)]
    assert [picture.xy[1] for picture in pictures] == [0, 1]
    written = {label.get_text() for label in axes.get_xticklabels()}
    assert written == {"0", "12.5", "30", "40"}
    assert [float(line.get_xdata()[0]) for line in axes.lines] == [12.5, 30]
    colours = [np.asarray(each.get_facecolor())[0, 0] for each in bars(figure).values()]
    assert colours == pytest.approx([int(each[1:3], 16) / 255 for each in PALETTE[:5]])


@pytest.mark.parametrize(
    ("duration", "written"),
    [(1.0, {"0", "0.5", "0.52", "1"}), (600.0, {"0:00", "5:00", "5:12", "10:00"})],
)
def test_times_on_the_axis_do_not_collide(duration: float, written: set[str]) -> None:
    text = {f"0-{0.5 * duration}": "a", f"{0.5 * duration}-{0.52 * duration}": "b"}
    read = read_schedule({**text, f"{0.52 * duration}-": "c"}, duration)
    figure = plot_schedule(read, choose_models(read, 25, 25 / duration), 25 / duration, {})
    (axes,) = figure.axes
    labels = {label.get_text() for label in axes.get_xticklabels()}
    assert labels < written
    assert len(labels) == 3
    places = sorted([*axes.get_xticks(), *axes.get_xticks(minor=True)])
    assert np.diff(places).min() > 0.06 * duration
    assert len(axes.lines) == 2


def test_model_that_never_paints_has_an_empty_row() -> None:
    film = schedule((1, ("a",)), (1, ("b",)))
    figure = plot_schedule(film, choose_models(film, 10, 10), 10, {})
    figure.draw_without_rendering()
    assert {name: len(each.get_paths()) for name, each in bars(figure).items()} == {"a": 1, "b": 0}
