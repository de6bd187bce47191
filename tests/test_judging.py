from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ipywidgets import Button, Image, Widget

from workbench import judging
from workbench.errors import InputError
from workbench.images import save_image
from workbench.judging import (
    ANSWERS,
    Question,
    Sitting,
    as_answered,
    bradley_terry,
    contenders,
    in_words,
    questions,
    weigh,
)
from workbench.series import Painted
from workbench.settings import Settings

CHANGES: list[dict[str, Any]] = [{"style_weight": 30.0}, {"style_weight": 300.0}]
NAMES = ["A", "B", "C"]
COMPARED = [{"size": 64}, {"size": 96}]


def answered(*answers: str, left: int = 0, right: int = 1) -> list[Question]:
    return [Question(f"{i}.jpg", "s.jpg", left, right, each) for i, each in enumerate(answers)]


# --- statistics --------------------------------------------------------------------------


@given(st.integers(1, 50), st.integers(1, 50))
def test_the_strengths_of_two_are_as_their_wins(one: int, other: int) -> None:
    first, second = bradley_terry([[0, one], [other, 0]])
    assert first / second == pytest.approx(one / other)
    assert first + second == pytest.approx(1)


def test_strengths_of_three_are_those_worked_out_by_hand() -> None:
    """With 4 : 2 : 1, wins of 4 to 2, 4 to 2 and 4 to 1 are just what is expected."""
    wins = [[0, 4, 4], [2, 0, 4], [1, 2, 0]]
    assert bradley_terry(wins) == pytest.approx(np.array([4, 2, 1]) / 7, abs=1e-9)
    stacked = bradley_terry([wins, np.transpose(wins)])
    assert stacked[1] == pytest.approx(np.array([1, 2, 4]) / 7, abs=1e-9)


def test_strengths_without_games_are_alike_and_who_never_wins_has_none() -> None:
    assert bradley_terry(np.zeros((3, 3))) == pytest.approx([1 / 3] * 3)
    assert bradley_terry([[0, 6], [0, 0]]) == pytest.approx([1, 0])


@pytest.mark.parametrize("count", [0, 1, 3, 6])
def test_probabilities_are_those_of_the_beta_distribution(count: int) -> None:
    """After n wins and no loss, a strength is below x with probability x^(n+1)."""
    verdict = weigh(answered(*["left"] * count), 2)
    assert verdict.better[0, 1] == pytest.approx(1 - 0.5 ** (count + 1), abs=0.025)
    assert verdict.low[0] == pytest.approx(0.025 ** (1 / (count + 1)), abs=0.025)
    assert verdict.high[0] == pytest.approx(0.975 ** (1 / (count + 1)), abs=0.025)
    assert verdict.strengths[0] == pytest.approx((count + 1) / (count + 2))
    assert verdict.best.sum() == pytest.approx(1)


def test_a_tie_is_half_a_win_for_each() -> None:
    verdict = weigh(answered("none", "none", "left"), 2)
    assert verdict.wins.tolist() == [[0, 2], [1, 0]]
    assert verdict.strengths[0] == pytest.approx(3 / 5)


questioned = st.builds(
    lambda pair, answer: Question("p.jpg", "s.jpg", *pair, answer),
    st.permutations(range(3)).map(lambda order: order[:2]),
    st.sampled_from(ANSWERS),
)


@settings(max_examples=20, deadline=None)
@given(st.lists(questioned, max_size=12), st.randoms(use_true_random=False))
def test_neither_order_nor_sides_matter(answers: list[Question], chance: random.Random) -> None:
    swapped = {"left": "right", "right": "left", "none": "none"}
    others = [
        replace(each, left=each.right, right=each.left, answer=swapped[each.answer])
        if chance.random() < 0.5
        else each
        for each in answers
    ]
    chance.shuffle(others)
    with patch.object(judging, "_DRAWS", 20):
        for one, other in zip(weigh(answers, 3), weigh(others, 3), strict=True):
            assert np.array_equal(one, other)


@pytest.mark.parametrize(
    ("answers", "sentence"),
    [
        ([], "No answer yet; 4 questions are left."),
        (["left"], r"No difference can be seen yet: A was preferred to B in 1 of 1 .*0\.7"),
        (["left"] * 6 + ["none"], r"^A is better: preferred to B in 6\.5 of 7 answers \(.*0\.9"),
        (["right"] * 6, "^B is better: preferred to A in 6 of 6"),
        (["left", "right"], "in 1 of 2 answers .*; they are level; 4 questions"),
        (["left"] * 7 + ["right"] * 5, r"7 of 12 answers .*0\.[67]\d\); about 300 more would show"),
    ],
)
def test_the_sentence_is_honest(answers: list[str], sentence: str) -> None:
    assert re.search(sentence, in_words(weigh(answered(*answers), 2), NAMES, 4))


def test_of_three_the_two_strongest_are_compared() -> None:
    answers = answered(*["left"] * 9, left=2, right=0) + answered(*["left"] * 9, left=2, right=1)
    answers += answered(*["left"] * 5, left=1, right=0)
    verdict = weigh(answers, 3)
    assert in_words(verdict, NAMES, 1).startswith("C is better: preferred to B in 9 of 9 answers")
    assert in_words(verdict, NAMES, 1).endswith("1 question is left.")
    table = judging.as_table(verdict, NAMES).splitlines()
    assert [line.split(" | ")[0] for line in table[2:]] == ["| C", "| B", "| A"]
    figures = judging.figures_of(verdict, NAMES)
    assert figures["answers"] == 23
    assert figures["C low"] < figures["C strength"] < figures["C high"]
    axes = judging.plot_strengths(verdict, NAMES).axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == NAMES


# --- what is asked -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ([{"size": 64}], "settings = .*: give two or more"),
        (["size", "steps"], "give two or more"),
        ([{"size": 64}, {"size": 96}, {"size": 64}], "number 1 and 3 are the same"),
        ([{}, {"style_weight": 100.0}], "number 1 and 2 are the same"),
        ([{}, {"style_wieght": 1.0}], "did you mean 'style_weight'"),
        ([{}, {"original_colors": "luna"}], "original_colors = 'luna': use one of off"),
        ([{}, {"size": 1}], "size = 1: give"),
    ],
)
def test_settings_that_cannot_be_compared_are_refused(changes: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        contenders(["p.jpg"], ["s.jpg"], Settings(), changes)


def test_no_picture_is_refused() -> None:
    with pytest.raises(InputError, match="contents or styles is empty"):
        contenders([], ["s.jpg"], Settings(), CHANGES)


def test_every_photograph_is_painted_in_every_style_with_each_setting() -> None:
    changes = [{}, {"original_colors": "luma", "crop": [0, 0, 0.5, 1]}]
    made = contenders(["a/p.jpg", "b/p.jpg", "a/p.jpg"], ["sample:mosaic"], Settings(), changes)
    assert [each.caption for each in made[:2]] == [
        "unchanged",
        "original_colors luma, crop 0,0,0.5,1",
    ]
    assert (made[1].original_colors, made[1].crop) == ("luma", (0, 0, 0.5, 1))
    assert [each.content for each in made] == ["a/p.jpg"] * 2 + ["b/p.jpg"] * 2
    assert len({each.name for each in made}) == 4
    assert made[0].name == "p-mosaic-unchanged"


@pytest.fixture
def painted(tmp_path: Path) -> list[Painted]:
    """Two photographs in three styles with three settings; one of the 18 is missing."""
    changes = [{}, *CHANGES]
    contents = [str(tmp_path / name) for name in ("a.png", "b.png")]
    styles = ["sample:swirls", "sample:mosaic", "sample:hatching"]
    made = []
    for number, each in enumerate(contenders(contents, styles, Settings(), changes)):
        path = tmp_path / f"{each.name}.png"
        save_image(torch.full((1, 3, 8, 8), number / 20), path)
        made.append(Painted(each, path, {}, "It exploded." if number == 4 else None))
    for content in contents:
        save_image(torch.rand(1, 3, 40, 60), content)
    return made


def test_all_pairs_are_asked_once_in_random_order_and_sides(painted: list[Painted]) -> None:
    asked = questions(painted, 0)
    assert len(asked) == len({each.about for each in asked}) == 5 * 3 + 1
    assert {each.left < each.right for each in asked} == {True, False}
    assert asked == questions(painted, 0) != questions(painted, 1)
    assert [each.content for each in asked] != sorted(each.content for each in asked)


def test_one_picture_is_one_question() -> None:
    made = contenders(["p.jpg"], ["s.jpg"], Settings(), CHANGES)
    (only,) = questions([Painted(each, Path(), {}) for each in made], 0)
    assert only.about == ("p.jpg", "s.jpg", frozenset({0, 1}))


# --- what is answered --------------------------------------------------------------------


def test_answers_are_kept_and_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "answers.json"
    asked = answered("", "", "")
    sitting = Sitting(path, COMPARED, asked)
    sitting.press("back")
    for answer in ("left", "none", "right"):
        sitting.press(answer)
        assert Sitting(path, COMPARED, asked).answers == sitting.answers
    assert sitting.left == []
    sitting.press("left")  # to no question
    assert [each.answer for each in sitting.answers] == ["left", "none", "right"]
    sitting.press("back")
    again = Sitting(path, COMPARED, asked)
    assert [each.answer for each in again.answers] == ["left", "none"]
    assert again.left == [asked[2]]


def test_more_pictures_leave_answers_as_they_are(tmp_path: Path) -> None:
    first, second, third = answered("", "", "")
    sitting = Sitting(tmp_path / "answers.json", COMPARED, [first, second])
    sitting.press("left")
    swapped = replace(first, left=1, right=0)
    again = Sitting(sitting.path, COMPARED, [third, swapped])
    assert again.left == [third]
    assert weigh(again.answers, 2).wins[0, 1] == 1


@pytest.mark.parametrize(
    "damaged",
    ["", "[]", '{"settings": [], "answers": [{"left": 3}]}', '{"answers": []}', "\xff"],
)
def test_a_damaged_file_of_answers_is_one_sentence(damaged: str, tmp_path: Path) -> None:
    path = tmp_path / "answers.json"
    path.write_text(damaged, encoding="latin-1")
    with pytest.raises(InputError, match=r"answers\.json is damaged; delete it"):
        Sitting(path, COMPARED)
    wrong = {"settings": COMPARED, "answers": [vars(answered("perhaps")[0])]}
    path.write_text(json.dumps(wrong))
    with pytest.raises(InputError, match="is damaged"):
        Sitting(path, COMPARED, answered(""))


def test_answers_about_other_settings_are_refused(tmp_path: Path) -> None:
    sitting = Sitting(tmp_path / "answers.json", COMPARED, answered(""))
    sitting.press("left")
    with pytest.raises(InputError, match="has answers about other settings"):
        Sitting(sitting.path, COMPARED[::-1], answered(""))


def test_answers_from_elsewhere_are_in_the_order_of_the_questions() -> None:
    asked = answered("", "", "")
    assert as_answered(asked, ["none", "left"]) == answered("none", "left")
    with pytest.raises(InputError, match="answers: there is no 'perhaps'; use left, none, right"):
        as_answered(asked, ["perhaps"])
    with pytest.raises(InputError, match="there are 4 to 3 questions"):
        as_answered(asked, ["left"] * 4)


# --- the panel ---------------------------------------------------------------------------


def parts(widget: Widget, kind: type[Widget]) -> list[Any]:
    inside = [each for child in getattr(widget, "children", ()) for each in parts(child, kind)]
    return [widget] * isinstance(widget, kind) + inside


def test_the_panel_shows_pairs_without_names(painted: list[Painted], tmp_path: Path) -> None:
    asked = questions(painted, 0)[:2]
    sitting = Sitting(tmp_path / "answers.json", [], asked)
    panel = judging.panel(sitting, painted)
    left, none, right, back = parts(panel, Button)
    head = panel.children[0]
    photograph, style, one, other = parts(panel, Image)

    def shown() -> list[bytes]:
        return [one.value, other.value]

    sides = judging.side_by_side(painted)
    for number, button in enumerate((left, right)):
        pair = sides[asked[number].content, asked[number].style]
        numbers = asked[number].left, asked[number].right
        assert shown() == [pair[each].path.read_bytes() for each in numbers]
        assert photograph.value
        assert style.value
        assert f"{number} of 2 are answered" in head.value
        button.click()
    assert [each.answer for each in sitting.answers] == ["left", "right"]
    assert one.layout.display == "none"
    assert "Run the cells below" in head.value
    none.click()
    assert len(sitting.answers) == 2
    back.click()
    assert one.layout.display is None
    assert "1 of 2 are answered" in head.value
    text = " ".join(str(each.value) for each in parts(panel, type(head)))
    assert "style_weight" not in text


def test_what_cannot_be_saved_is_told(painted: list[Painted], tmp_path: Path) -> None:
    (tmp_path / "<runs>").write_text("a file")
    sitting = Sitting(tmp_path / "<runs>" / "answers.json", [], questions(painted, 0))
    panel = judging.panel(sitting, painted)
    parts(panel, Button)[0].click()
    assert "&lt;runs&gt;/answers.json cannot be written" in panel.children[0].value
