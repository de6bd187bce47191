"""Which of several settings makes the better pictures: blind questions, and what answers say.

Of two paintings of the same photograph in the same style, side by side and without names, somebody
says which is better. From the answers come strengths with their uncertainty.
"""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import ipywidgets as widgets
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from workbench.chooser import THUMBNAIL_SIDE, show_picture, small_jpeg
from workbench.errors import InputError, WorkbenchError
from workbench.files import reading, write_bytes
from workbench.knobs import button, row
from workbench.notebook import short, table
from workbench.samples import PREFIX, load_picture
from workbench.series import Painted, Variation, same_making, vary
from workbench.settings import Settings
from workbench.sheets import finish_plot, new_plot

ANSWERS = ("left", "none", "right")
BACK = "back"  # takes the last answer back
SURE = 0.95  # probability from which on a setting is said to be better
_SEEN = 1.645 + 0.842  # deviations from level that are seen, at `SURE`, four times in five
_DRAWS = 4000  # of the bootstrap
_ROUNDS, _CLOSE, _TINY = 10_000, 1e-10, 1e-300  # when strengths are good enough; almost 0

_BUTTONS = {  # what it does -> its text, and its key in the browser
    "left": ("← Left", "ArrowLeft"),
    "none": ("↓ No difference", "ArrowDown"),
    "right": ("Right →", "ArrowRight"),
    BACK: ("⌫ Take back", "Backspace"),
}
# Jupyter takes keys for commands of its own, unless what has the focus asks it not to.
_KEYS = f"""<style onload="
    const box = this.closest('.judging'), buttons = box.getElementsByTagName('button');
    box.tabIndex = 0;
    box.addEventListener('focusin', event =>
        event.target.setAttribute('data-lm-suppress-shortcuts', 'true'));
    box.onkeydown = event => {{
        const number = {[key for _, key in _BUTTONS.values()]}.indexOf(event.key);
        if (number < 0) return;
        event.preventDefault();
        if (!event.repeat) buttons[number].click();
    }}"></style>"""

Floats = npt.NDArray[np.float64]


# --- what is asked -----------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """Which of two paintings of one photograph in one style is better, and the answer."""

    content: str
    style: str
    left: int  # number of the settings that the painting on the left was made with
    right: int
    answer: str = ""  # one of `ANSWERS`; empty: none yet

    @property
    def about(self) -> tuple[str, str, frozenset[int]]:
        """What it asks, whichever painting is on the left."""
        return self.content, self.style, frozenset((self.left, self.right))


def contenders(
    contents: Sequence[str],
    styles: Sequence[str],
    settings: Settings,
    changes: Sequence[Mapping[str, Any]],
) -> list[Variation]:
    """Every photograph in every style with each of two or more changes to the settings.

    Changes are as `series.vary` takes them; pictures are files, or samples.
    """
    if not contents or not styles:
        raise InputError("contents or styles is empty; give a folder, or a list of pictures.")
    if len(changes) < 2 or not all(isinstance(each, Mapping) for each in changes):
        raise InputError(f"settings = {changes!r}: give two or more, each as {{name: value}}.")
    taken: set[str] = set()
    made = []
    for content, style in itertools.product(dict.fromkeys(contents), dict.fromkeys(styles)):
        name = "-".join(Path(each.removeprefix(PREFIX)).stem for each in (content, style))
        base = Variation(name, "", content, None, (style,), settings)
        made += [vary(base, each, taken) for each in changes]
    for (i, one), (j, other) in itertools.combinations(enumerate(made[: len(changes)], 1), 2):
        if same_making(one, other):
            raise InputError(f"settings: number {i} and {j} are the same; give each one once.")
    return made


def side_by_side(painted: Sequence[Painted]) -> dict[tuple[str, str], list[Painted]]:
    """Photograph and style -> what was painted of them, one for each of the settings."""
    sides: dict[tuple[str, str], list[Painted]] = {}
    for each in painted:
        sides.setdefault((each.variation.content, each.variation.styles[0]), []).append(each)
    return sides


def questions(painted: Sequence[Painted], seed: int) -> list[Question]:
    """Ask about all pairs that differ in their settings alone, in random order, sides too.

    `painted` are the `contenders`; those with a problem are left out.
    """
    chance = random.Random(seed)
    asked = []
    for (content, style), sides in side_by_side(painted).items():
        there = [number for number, each in enumerate(sides) if each.problem is None]
        for pair in itertools.combinations(there, 2):
            left, right = chance.sample(pair, 2)
            asked.append(Question(content, style, left, right))
    chance.shuffle(asked)
    return asked


# --- what is answered --------------------------------------------------------------------


@dataclass
class Sitting:
    """Questions and somebody's answers, which are in a file as soon as they are given.

    A sitting goes on with the answers that the file has, also with those to questions that are no
    longer asked. A file that is damaged, or of other settings, is refused.
    """

    path: Path
    compared: Sequence[Mapping[str, Any]]  # everything that the settings are, number by number
    questions: Sequence[Question] = ()
    answers: list[Question] = field(default_factory=list)  # in the order they were given

    def __post_init__(self) -> None:
        if not self.path.exists():
            return
        try:
            with reading(self.path):
                there = json.loads(self.path.read_bytes())
            self.answers = [Question(**each) for each in there["answers"]]
            others = there["settings"] != json.loads(json.dumps(self.compared))
            whole = {each.answer for each in self.answers} <= {*ANSWERS}
        except (ValueError, TypeError, KeyError, RecursionError):
            whole = others = False
        if not whole:
            raise InputError(f"{self.path} is damaged; delete it to begin anew.")
        if others:
            raise InputError(
                f"{self.path} has answers about other settings; use another output_dir, or delete"
                " it to begin anew."
            )

    @property
    def left(self) -> list[Question]:
        """Questions without an answer."""
        answered = {each.about for each in self.answers}
        return [each for each in self.questions if each.about not in answered]

    def press(self, what: str) -> None:
        """Answer the first question that is left, or take the last answer back."""
        if what == BACK:
            del self.answers[-1:]
        elif left := self.left:
            self.answers.append(replace(left[0], answer=what))
        saved = {"settings": self.compared, "answers": [vars(each) for each in self.answers]}
        write_bytes(self.path, json.dumps(saved, indent=1).encode())


def everything(variation: Variation) -> dict[str, Any]:
    """All that a painting is made with, beside its photograph and its style."""
    others = {"crop": variation.crop, "original_colors": variation.original_colors}
    return {**variation.settings.as_dict(), **others}


def as_answered(questions: Sequence[Question], answers: Sequence[str]) -> list[Question]:
    """The first questions, with answers that were given elsewhere in the same order."""
    if others := {*answers} - {*ANSWERS}:
        raise InputError(f"answers: there is no {others.pop()!r}; use {', '.join(ANSWERS)}.")
    if len(answers) > len(questions):
        raise InputError(f"answers: there are {len(answers)} to {len(questions)} questions.")
    return [replace(each, answer=word) for each, word in zip(questions, answers, strict=False)]


# --- what the answers say ----------------------------------------------------------------


def bradley_terry(wins: npt.ArrayLike) -> Floats:
    """Strengths `(..., K)` that add up to 1, of K players with `wins[..., i, j]` of i over j.

    The likeliest ones where i beats j with probability `s[i] / (s[i] + s[j])`: Bradley and Terry
    1952 ("Rank analysis of incomplete block designs", Biometrika 39), found as in Newman 2023
    ("Efficient computation of rankings from pairwise comparisons", JMLR 24). A tie is
    half a win for each.
    """
    wins = np.asarray(wins, np.float64)
    strengths = np.full(wins.shape[:-1], 1 / wins.shape[-1])
    for _ in range(_ROUNDS):
        before = strengths.copy()
        for i in range(wins.shape[-1]):
            both = np.maximum(strengths[..., i, None] + strengths, _TINY)
            won = (wins[..., i, :] * strengths / both).sum(axis=-1)
            lost = (wins[..., :, i] / both).sum(axis=-1)
            np.divide(won, lost, out=strengths[..., i], where=lost > 0)
        strengths /= strengths.sum(axis=-1, keepdims=True)
        if np.abs(strengths - before).max() < _CLOSE:
            break
    return strengths


class Verdict(NamedTuple):
    """What answers say about K settings."""

    wins: Floats  # (K, K): how often one was preferred to another; no difference: half for each
    strengths: Floats  # (K,)
    low: Floats  # (K,): 2.5% of the bootstrap is below
    high: Floats  # (K,): 2.5% is above
    best: Floats  # (K,): probability that it is the best
    better: Floats  # (K, K): probability that one is better than another


def weigh(answers: Sequence[Question], count: int, seed: int = 0) -> Verdict:
    """Find how strong each of `count` settings is, by `bradley_terry`, and how sure that is.

    Intervals and probabilities are of the Bayesian bootstrap over the answers (Rubin 1981). Every
    setting is given one win over each other one beforehand, which is Laplace's rule: so few
    answers never look certain. The strength of the one of two settings, without ties, is then
    distributed as Beta(wins + 1, losses + 1).
    """
    beforehand = [(*pair, 1.0) for pair in itertools.permutations(range(count), 2)]
    counts = Counter([*beforehand, *map(_outcome, answers)])
    outcomes = sorted(counts)
    pool = np.zeros((len(outcomes), count, count))
    for wins, (one, other, share) in zip(pool, outcomes, strict=True):
        wins[one, other], wins[other, one] = share, 1 - share
    times = np.array([counts[each] for each in outcomes], np.float64)
    weights = np.random.default_rng(seed).dirichlet(times, _DRAWS)  # of equal answers together
    draws = bradley_terry(np.tensordot(weights, pool, axes=1))
    low, high = np.quantile(draws, (0.025, 0.975), axis=0)
    total = np.tensordot(times, pool, axes=1)
    return Verdict(
        wins=total - 1 + np.eye(count),
        strengths=bradley_terry(total),
        low=low,
        high=high,
        best=np.bincount(draws.argmax(axis=1), minlength=count) / _DRAWS,
        better=(draws[:, :, None] > draws[:, None, :]).mean(axis=0),
    )


def _outcome(question: Question) -> tuple[int, int, float]:
    """One of the settings, the other, and which share of the win the one has."""
    left, right = question.left, question.right
    if question.answer == "none":
        return min(left, right), max(left, right), 0.5
    return (left, right, 1.0) if question.answer == "left" else (right, left, 1.0)


def in_words(verdict: Verdict, names: Sequence[str], left: int) -> str:
    """What can honestly be said of the two strongest; `left` questions have no answer."""
    rest = f"{left or 'no'} question{' is' if left == 1 else 's are'} left."
    if not verdict.wins.any():
        return f"No answer yet; {rest}"
    first, second = map(int, np.argsort(-verdict.strengths, kind="stable")[:2])
    preferred, probability = verdict.wins[first, second], verdict.better[first, second]
    total = preferred + verdict.wins[second, first]
    said = (
        f"preferred to {names[second]} in {short(preferred)} of {total:.0f} answers (probability"
        f" that it is better: {probability:.2f})"
    )
    if probability >= SURE:
        return f"{names[first]} is better: {said}; {rest}"
    ahead = verdict.strengths[first] / verdict.strengths[[first, second]].sum() - 0.5
    more = "they are level"
    if ahead > 1e-6:
        wanted = max(1.0, (_SEEN / 2 / ahead) ** 2 - total)
        more = f"about {short(float(f'{wanted:.1g}'))} more would show one of this size"
    return f"No difference can be seen yet: {names[first]} was {said}; {more}; {rest}"


def as_table(verdict: Verdict, names: Sequence[str]) -> str:
    """The settings in Markdown, the strongest first."""
    wins, games = verdict.wins.sum(axis=1), (verdict.wins + verdict.wins.T).sum(axis=1)
    head = ("settings", "preferred", "strength", "95% between", "probability of being the best")
    ranked = np.argsort(-verdict.strengths, kind="stable")
    rows = [
        (
            names[i],
            f"{short(wins[i])} of {games[i]:.0f}",
            *(f"{verdict.strengths[i]:.2f}", f"{verdict.low[i]:.2f} to {verdict.high[i]:.2f}"),
            f"{verdict.best[i]:.2f}",
        )
        for i in ranked
    ]
    return table(rows, head)


def figures_of(verdict: Verdict, names: Sequence[str]) -> dict[str, float]:
    """Figure name -> number, for `runs.finish_run`."""
    parts = {"strength": verdict.strengths, "low": verdict.low, "high": verdict.high}
    parts["probability best"] = verdict.best
    figures = {
        f"{name} {what}": float(values[number])
        for number, name in enumerate(names)
        for what, values in parts.items()
    }
    return {"answers": float(verdict.wins.sum()), **figures}


def plot_strengths(verdict: Verdict, names: Sequence[str]) -> Figure:
    """Draw the strength of each of the settings with its interval."""
    figure, axes = new_plot(9, 1.4 + 0.5 * len(names))
    places = np.arange(len(names))[::-1]
    axes.hlines(places, verdict.low, verdict.high, color="C0", lw=2, label="95% of the bootstrap")
    axes.plot(verdict.strengths, places, "o", color="C0", label="strength")
    axes.axvline(1 / len(names), color="0.5", lw=1, ls="--", label="all alike")
    axes.set(xlim=(0, 1), ylim=(-0.6, len(names) - 0.4), xlabel="strength; all add up to 1")
    axes.set_yticks(places, names)
    axes.set_title(f"Which is better, by {verdict.wins.sum():.0f} answers")
    finish_plot(axes)
    return figure


# --- the panel ---------------------------------------------------------------------------


def panel(sitting: Sitting, painted: Sequence[Painted]) -> widgets.VBox:
    """Show one pair after the other, without names, and take answers by buttons and keys.

    Once it has the focus, which a click or Tab gives it, arrow keys answer.
    """
    sides = side_by_side(painted)
    head = widgets.HTML()
    inputs = [widgets.Image(layout={"height": "80px"}) for _ in range(2)]
    pair = [widgets.Image(layout={"max_width": "49%"}) for _ in range(2)]

    def show() -> None:
        left, total = sitting.left, len(sitting.questions)
        head.value = f"Which painting is better? {total - len(left)} of {total} are answered."
        data = [b""] * 4
        if left:
            names = left[0].content, left[0].style
            shown = [sides[names][number].path for number in (left[0].left, left[0].right)]
            small = [load_picture(name, for_size=THUMBNAIL_SIDE) for name in names]
            data = [small_jpeg(picture, THUMBNAIL_SIDE) for picture in small]
            data += [path.read_bytes() for path in shown]
        else:
            head.value += " Run the cells below to see what the answers say."
        for image, picture in zip([*inputs, *pair], data, strict=True):
            show_picture(image, picture)

    def press(what: str) -> None:
        try:
            sitting.press(what)
            show()
        except (WorkbenchError, OSError) as error:  # which nobody would see otherwise
            head.value = escape(str(error))

    buttons = [button(text, "", partial(press, what)) for what, (text, _) in _BUTTONS.items()]
    show()
    keys = widgets.HTML(f"{_KEYS}<i>To answer by these keys, click here, or come with Tab.</i>")
    parts = [head, row(*inputs), widgets.HBox(pair), row(*buttons), keys]
    return widgets.VBox(parts).add_class("judging")
