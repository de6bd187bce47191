from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from workbench.colour import ORIGINAL_COLORS
from workbench.pages import shown
from workbench.remedies import REMEDIES, Remedy
from workbench.settings import Settings

DOCS = Path(__file__).parent.parent / "docs" / "knobs.md"


def option(remedy: Remedy) -> str:
    """The change as words of a command line."""
    ((name, value),) = remedy.change(Settings()).items()
    return f"--{name.replace('_', '-')} {shown(value).replace(', ', ',')}"


@pytest.mark.parametrize("remedy", REMEDIES, ids=lambda remedy: remedy.complaint)
def test_a_remedy_can_be_tried_from_wherever_the_settings_are(remedy: Remedy) -> None:
    off = Settings(content_weight=0.0, tv_weight=0.0, steps=(1,))
    for settings in (Settings(), Settings.from_preset("fine"), off):
        changes = remedy.change(settings)
        if remedy.knob == "original_colors":
            assert changes["original_colors"] in ORIGINAL_COLORS
        else:
            assert settings.changed(**changes) != settings
    assert remedy.advice[0].islower()
    assert not remedy.advice.endswith(".")


def test_factors_are_of_the_present_value() -> None:
    more = next(remedy for remedy in REMEDIES if remedy.knob == "style_weight")
    assert more.change(Settings(style_weight=33.3)) == {"style_weight": 166.0}
    longer = next(remedy for remedy in REMEDIES if remedy.knob == "steps")
    assert longer.change(replace(Settings(), steps=(60, 90, 150))) == {"steps": (120, 180, 300)}


def test_the_docs_have_the_same_table() -> None:
    rows = [f"| {each.complaint} | {each.advice}: `{option(each)}` |" for each in REMEDIES]
    assert "\n".join(rows) in DOCS.read_text("utf-8")
