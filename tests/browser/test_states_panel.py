"""States that are kept, compared and tried in small, in JupyterLab, with mouse and keyboard."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import BrowserContext, Locator, expect
from test_tuner_panel import LONG, Notebook, context, tab

from workbench.states import SKETCHES, STAGE_SIDE

if TYPE_CHECKING:
    from tests.browser.conftest import Project

__all__ = ["context"]
pytestmark = pytest.mark.slow


def cards(notebook: Notebook, tip: str) -> Locator:
    """Pictures that are buttons, by how their tooltips begin."""
    return notebook.page.locator(f"button.jupyter-button[title^='{tip}']:visible")


def test_keep_flip_compare_show_nine_and_go_on(project: Project, context: BrowserContext) -> None:
    project.copy("tune_weights", "states", **LONG)
    with tab(context) as page:
        errors: list[str] = []
        page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        notebook = Notebook(page, project.url("states"))
        notebook.run_all()
        notebook.start()
        notebook.button("Keep").click()
        expect(cards(notebook, "1: step")).to_have_count(1)
        notebook.slider("style weight").locator(".noUi-handle").first.focus()
        page.keyboard.press("ArrowRight")
        moved = notebook.readout("style weight")
        notebook.until(lambda caption: caption.style_weight == moved)
        notebook.button("Pause").click()
        notebook.until(lambda caption: caption.state == "paused")
        notebook.button("Keep").click()
        newest = cards(notebook, "2: step")
        was = re.compile(r"^2: step \d+, style weight 112 \(was 100\)$")
        expect(newest).to_have_attribute("title", was)
        width = newest.locator("xpath=..").locator("img").evaluate("img => img.naturalWidth")
        assert width == 128

        notebook.button("Flip A/B").click()
        captions = page.locator(".workbench-flip figcaption:visible")
        expect(captions).to_have_text(re.compile(r"^A = 1: step \d+$"))
        page.locator(".workbench-flip input").focus()
        for text in ("B = painting", "A = 1", "B = painting"):
            page.keyboard.press("Space")
            expect(captions).to_have_count(1)
            expect(captions).to_contain_text(text)

        notebook.button("Compare A/B").click()
        decoded = "image => image.decode().then(() => image.naturalWidth)"
        assert page.locator(".workbench-compare img").first.evaluate(decoded) == STAGE_SIDE
        handle = page.locator(".workbench-compare input[type=range]")
        handle.focus()
        for _ in range(2):
            page.keyboard.press("ArrowLeft")
        expect(handle).to_have_value("48")
        notebook.button("Hide").click()
        expect(page.locator(".workbench-compare:visible")).to_have_count(0)

        cards(notebook, "1: step").click()
        notebook.until(lambda caption: caption.style_weight == 100)
        assert notebook.readout("style weight") == 100

        notebook.button("Show me nine").click()
        nine = cards(notebook, "Take these settings: ")
        expect(nine).to_have_count(SKETCHES)
        expect(notebook.button("Show me nine")).to_be_visible()  # again: all are there
        sheet = nine.locator("xpath=..").locator("img:visible")
        expect(sheet).to_have_count(SKETCHES)
        tip = nine.nth(4).get_attribute("title") or ""
        nine.nth(4).click()
        notebook.until(lambda caption: f"style weight {caption.style_weight:g}," in tip)
        assert f"style weight {notebook.readout('style weight'):g}," in tip
        notebook.goes_on()
        notebook.stop()
        assert errors == []
