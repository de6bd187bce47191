"""What to try when a picture is not right: a table in docs/knobs.md, and a button of the panel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from workbench.settings import Settings


@dataclass(frozen=True)
class Remedy:
    """A change of one setting, against something that a person sees in the picture."""

    complaint: str  # what it has, as in "it has grain"
    advice: str  # what to do, as a sentence without capital and full stop
    knob: str  # a setting, or "original_colors"
    value: Any = None  # what it is set to; None: the present value times `factor`
    factor: float = 1.0

    def change(self, settings: Settings) -> dict[str, Any]:
        """What is to be changed, from these settings."""
        if self.value is not None:
            return {self.knob: self.value}
        now = getattr(settings, self.knob) or getattr(Settings(), self.knob)
        if isinstance(now, tuple):
            return {self.knob: tuple(round(self.factor * each) for each in now)}
        return {self.knob: float(f"{self.factor * now:.3g}")}


REMEDIES = (
    Remedy("too little of the style", "more style weight", "style_weight", factor=5),
    Remedy("too little of the photograph", "more content weight", "content_weight", factor=4),
    Remedy(
        "edges and faces that melt away",
        "keep the photograph at a shallower layer, which holds on to edges",
        "content_layers",
        ("relu3_2",),
    ),
    Remedy("strokes that are too small", "a larger style picture", "style_scale", factor=1.5),
    Remedy("strokes that are too large", "a smaller style picture", "style_scale", factor=0.7),
    Remedy("grain", "more smoothing by total variation", "tv_weight", factor=10),
    Remedy("strokes that are too soft", "less of that smoothing", "tv_weight", factor=0.1),
    Remedy("blotches", "average pooling, which gives a calmer picture", "pooling", "average"),
    Remedy("an unfinished look", "twice as many steps", "steps", factor=2),
    Remedy(
        "colours that are not the photograph's",
        "the brightness of the painting in the colours of the photograph",
        "original_colors",
        "luma",
    ),
)
