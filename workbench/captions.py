"""What is shown of a painting while it is painted: a caption, curves, the log of its moves."""

from __future__ import annotations

import bisect
import io
import math
import time
from dataclasses import replace
from html import escape

import ipywidgets as widgets

from workbench import sheets
from workbench.devices import choose_device, free_megabytes
from workbench.forecast import Pace, about
from workbench.knobs import label, told, words
from workbench.notebook import short
from workbench.painting import Painting
from workbench.stills import Still

FASTEST = 0.1  # seconds between two pictures to the browser
PATIENCE, LONGEST_PATIENCE = 1.0, 10.0  # seconds to wait for a browser that does not answer
WEIGHTS = ("content_weight", "style_weight", "tv_weight")


def caption(painting: Painting, state: str, pace: Pace | None) -> str:
    """How far a painting is, and with which weights; `pace` is that of its session."""
    iterate, settings = painting.iterate, painting.settings
    assert iterate is not None
    height, width = iterate.image.shape[-2:]
    left = iterate.steps - iterate.step
    outline = replace(painting.still, settings=settings).outline
    taken = sum(steps for _, steps in outline.scales) - left
    to_go = f", {left} to go" if left else ""
    if left and pace:
        to_go += f", about {about(outline.seconds(pace, after=taken))}"
    weights = (f"{words(name)} {label(getattr(settings, name))}" for name in WEIGHTS)
    return (
        '<div style="line-height: 1.5">'
        f"<b>{state}</b> · step {iterate.step}{to_go} · {width}×{height} px"
        f"<br>{' · '.join(weights)}<br>{_losses(painting)}</div>"
    )


def _losses(painting: Painting) -> str:
    """The loss, and how its parts changed since the last move."""
    recorder, made = painting.recorder, painting.log
    now = recorder.losses[-1]
    at = bisect.bisect(recorder.steps, made[-1].step) if made else 0
    then = recorder.losses[min(at, len(recorder.losses) - 1)]
    parts = {
        "content": (then.content_total, now.content_total),
        "style": (then.style_total, now.style_total),
        "tv": (then.tv, now.tv),
    }
    changes = [f"{name} {b / a - 1:+.0%}" for name, (a, b) in parts.items() if a > 0 and a != b]
    since = f" · since the {'last move' if made else 'start'}: {', '.join(changes)}"
    return f"loss {short(now.total)}{since if changes else ''}"


def curves(painting: Painting) -> bytes:
    """The curves of the losses, as PNG."""
    figure = sheets.plot_losses(painting.recorder, [move.step for move in painting.log])
    figure.set_size_inches(7, 3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    return buffer.getvalue()


def moves(painting: Painting) -> str:
    """Every move with its step, the newest first."""
    made = ((move.step, told(move.changes) or "all steps anew") for move in reversed(painting.log))
    lines = [f"<li>step {step}: {escape(what)}</li>" for step, what in made]
    return f'<ol style="margin: 0">{"".join(lines)}</ol>' if lines else "None yet."


def ahead(still: Still, pace: Pace | None) -> str:
    """What a painting will be, and take."""
    free = free_megabytes(choose_device(still.settings.device))
    outline = still.outline
    height, width = outline.shape
    time = "how long is known after the first steps"
    if pace:
        time = f"about {about(outline.seconds(pace, free=free))}"
    steps = " + ".join(map(str, still.settings.steps))
    line = f"{width}×{height} px · {steps} steps · {time} · at most {outline.memory(free)}"
    return f'<div style="line-height: 1.4">{line}</div>'


class Backpressure:
    """Keeps pictures from piling up on a slow line, or before a closed browser tab.

    The browser copies a number that goes out behind every picture into one that comes back.
    The next picture waits for that, or for as long as patience lasts.
    """

    def __init__(self) -> None:
        self._out, self._back = widgets.IntText(), widgets.IntText()
        self._link = widgets.jsdlink((self._out, "value"), (self._back, "value"))
        self._last, self._patience = -math.inf, PATIENCE

    def free(self) -> bool:
        """Whether the next picture may go out."""
        waited = time.monotonic() - self._last
        if self._back.value == self._out.value:
            self._patience = PATIENCE
            return waited >= FASTEST
        if waited < self._patience:
            return False
        self._patience = min(2 * self._patience, LONGEST_PATIENCE)
        return True

    def sent(self) -> None:
        """To be called behind every picture."""
        self._out.value += 1
        self._last = time.monotonic()
