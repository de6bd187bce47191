"""The slider panel: how soon a moved slider shows, beside a plain step of the optimiser.

The panel runs without a browser; what stands in for it says at once that a picture arrived,
as a browser on the same machine does. A slider is moved by setting the value of its widget.
Nothing else may run on the machine meanwhile. What a person sees of a move is measured without
the panel, as the mean change of the picture from step to step in grey levels.

    python experiments/benchmarks/tuner.py        # about two minutes on 2 cores
"""

from __future__ import annotations

import datetime
import io
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import islice

import torch
from PIL import Image

from workbench.descent import optimize
from workbench.painting import Painting
from workbench.samples import load_picture
from workbench.settings import Settings
from workbench.stills import Still
from workbench.tuner import Tuner
from workbench.weights import load_weights

SETTINGS = replace(Settings.from_preset("draft"), steps=(2000,))
MOVES = 20
AT = 30  # step at which moves are made, when their change is measured
DRAG_SECONDS = 5.0
DRAG_EVENTS = 60  # a second, as a browser sends at the most


class Watched:
    """A panel whose pictures are noted as they go out."""

    def __init__(self, folder: str) -> None:
        self.panel = Tuner(settings=SETTINGS, output_dir=folder)
        # Time, step and style weight of every picture.
        self.shown: list[tuple[float, int, float]] = []
        self.bytes: list[int] = []
        line = self.panel._backpressure
        self.panel.picture.observe(self._note, "value")
        line._out.observe(lambda change: setattr(line._back, "value", change["new"]), "value")

    def _note(self, change: dict[str, bytes]) -> None:
        with Image.open(io.BytesIO(change["new"])) as picture:
            picture.load()
        painting = self.panel.session.painting
        assert painting is not None
        assert painting.iterate is not None
        self.bytes.append(len(change["new"]))
        self.shown.append(
            (time.perf_counter(), painting.iterate.step, painting.settings.style_weight)
        )

    def wait_for(self, condition: Callable[[], bool]) -> None:
        while not condition():
            time.sleep(0.002)

    def move(self, stop: int) -> float:
        """Seconds from a move of the style weight to a picture of a step with it."""
        slider = self.panel.sliders["style_weight"]
        began, seen = time.perf_counter(), len(self.shown)
        slider.index = stop
        self.wait_for(lambda: any(weight == slider.value for *_, weight in self.shown[seen:]))
        return time.perf_counter() - began


def plain_step() -> float:
    """Seconds of a step of the optimiser, alone."""
    photo, painting = load_picture("sample:astronaut"), load_picture("sample:swirls")
    iterates = optimize(photo, [painting], SETTINGS)
    for _ in islice(iterates, 25):  # beyond Adam
        pass
    began = time.perf_counter()
    for _ in islice(iterates, 20):
        pass
    return (time.perf_counter() - began) / 20


def changes(painting: Painting, moves: Iterable[dict[str, float]]) -> list[float]:
    """Mean change of the picture at each step, in grey levels, with a move before each."""
    seen = []
    for move in moves:
        assert painting.iterate is not None
        before = painting.iterate.image
        painting.change(**move)
        painting.step()
        seen.append(float((painting.iterate.image - before).abs().mean()) * 255)
    return seen


def show_changes() -> None:
    """Print what is seen of moves, and of going back, beside a painting that is left alone."""
    photo, style = load_picture("sample:astronaut"), load_picture("sample:swirls")
    painting = Painting(Still(photo, [style], SETTINGS))
    painting.step()
    start = painting.snapshot()
    assert start is not None
    fresh = changes(painting, [{}] * AT)
    there = painting.snapshot()
    assert there is not None
    alone = changes(painting, [{}] * MOVES)
    print(f"\n| mean change of the picture after step {AT}, grey levels a step | | largest |")
    print("| --- | ---: | ---: |")

    def say(what: str, seen: list[float]) -> None:
        print(f"| {what} | {statistics.mean(seen):.2f} | {max(seen):.2f} |", flush=True)

    say(f"the first {AT} steps", fresh)
    say(f"left alone for {MOVES} steps", alone)
    for name in ("style_weight", "content_weight", "tv_weight"):
        value = getattr(SETTINGS, name)
        for factor in (10.0, 0.1):
            painting.go_to(there)
            drag = [{name: value * factor ** ((i + 1) / MOVES)} for i in range(MOVES)]
            say(f"{name} dragged to {factor:g} times, a move a step", changes(painting, drag))
            painting.go_to(there)
            seen = changes(painting, [{name: value * factor}, *[{}] * 4])
            say(f"{name} moved at once: the steps {[round(each, 2) for each in seen]}", seen)
    assert painting.iterate is not None
    while painting.step_back():
        pass
    changes(painting, [{}] * AT)
    away = (painting.iterate.image - there.iterate.image).abs().mean() * 255
    print(f"| back to the start and on, away from the fresh picture | {away:.2f} | |")
    painting.go_to(start)
    print(f"| largest step after it, again | | {max(changes(painting, [{}] * AT)):.2f} |")


def main() -> None:
    load_weights()
    print(f"{datetime.date.today()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"\n| at {SETTINGS.size} px | | in plain steps |\n| --- | ---: | ---: |")
    step = plain_step()
    print(f"| a step of the optimiser alone | {step:.3f} s | 1 |")

    def say(what: str, seconds: float) -> None:
        print(f"| {what} | {seconds:.3f} s | {seconds / step:.1f} |", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        watched = Watched(folder)
        panel, session = watched.panel, watched.panel.session
        say("the panel opens, with the photograph", time.perf_counter() - began)
        began = time.perf_counter()
        panel.buttons["start"].click()
        watched.wait_for(lambda: bool(watched.shown))
        say("Start to the first picture", time.perf_counter() - began)
        watched.wait_for(lambda: watched.shown[-1][1] > 25)

        first = watched.shown[-1]
        time.sleep(3)
        last = watched.shown[-1]
        say("a step with the panel open", (last[0] - first[0]) / (last[1] - first[1]))

        middle = panel.sliders["style_weight"].index
        times = []
        for number in range(MOVES):
            times.append(watched.move(middle + 1 + number % 2))
            time.sleep(0.3)
        say(f"a slider moved to its picture, median of {MOVES}", statistics.median(times))
        say("the slowest of them", max(times))

        slider, stops = panel.sliders["style_weight"], len(panel.sliders["style_weight"].options)
        began, events, seen = time.perf_counter(), 0, len(watched.shown)
        before = watched.shown[-1][1]
        while time.perf_counter() - began < DRAG_SECONDS:
            slider.index = 1 + events % (stops - 1)
            events += 1
            time.sleep(max(0.0, began + events / DRAG_EVENTS - time.perf_counter()))
        let_go = time.perf_counter()
        watched.wait_for(lambda: watched.shown[-1][2] == slider.value)
        say("the end of a drag to its picture", time.perf_counter() - let_go)
        pictures = watched.shown[seen:]
        print(
            f"| in a drag of {DRAG_SECONDS:.0f} s, {events} values | {len(pictures)} pictures"
            f" | {watched.shown[-1][1] - before} steps |"
        )
        at_rest = session.settings.style_weight == slider.value
        print(f"| the last value is the one in use | {'yes' if at_rest else 'NO'} | |")

        slider.index = middle
        waits, extra = [], []
        for press in (panel.buttons["pause"], panel.buttons["start"], panel.buttons["stop"]):
            time.sleep(0.5)
            assert session.painting is not None
            assert session.painting.iterate is not None
            began, at = time.perf_counter(), session.painting.iterate.step
            press.click()
            if press is panel.buttons["start"]:
                continue
            session.wait()
            waits.append(time.perf_counter() - began)
            extra.append(session.painting.iterate.step - at)
        print(f"| Pause, Stop: steps taken after the press | {extra[0]}, {extra[1]} | |")
        say("the longer of both", max(waits))
        print(f"| bytes of a picture, median | {statistics.median(watched.bytes):,.0f} | |")
    show_changes()


if __name__ == "__main__":
    main()
