"""Two paintings side by side in JupyterLab, judged without a mouse."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Browser, expect

if TYPE_CHECKING:
    from tests.browser.conftest import Project

pytestmark = pytest.mark.slow

PATIENCE = 300_000  # ms
TINY = {
    "contents": ["photo.jpg"],
    "styles": ["style.png", "sample:swirls"],
    "size": 96,
    "steps": [2],
    "content_layers": ["relu1_1"],
    "style_layers": ["relu1_1"],
    "precision": "float32",  # "auto" would measure first which one is faster
}


def test_pairs_are_answered_by_keyboard_alone(project: Project, browser: Browser) -> None:
    project.copy("which_is_better", **TINY)
    answers = project.root / "runs" / "which_is_better" / "answers.json"
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(PATIENCE)
    expect.set_options(timeout=PATIENCE)
    page.goto(project.url("which_is_better"))
    page.locator("#jp-bottom-panel").get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    page.locator(".lm-MenuBar-item:has-text('Run')").first.click()
    page.locator(".lm-Menu-itemLabel:text-is('Run All Cells')").click()
    panel = page.locator(".judging")
    panel.get_by_text("No difference").wait_for()
    page.get_by_text("No answer yet; 2 questions are left.").wait_for()
    cells = page.locator(".jp-Cell").count()

    panel.locator("button").first.focus()  # where Tab leads, sooner or later
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("document.activeElement.classList.contains('judging')")
    for key, answered in (
        ("Backspace", 0),
        ("ArrowRight", 1),
        ("Backspace", 0),
        ("b", 0),  # in Jupyter, a cell more
        ("x", 0),  # and this cuts it
        ("ArrowDown", 1),
        ("ArrowLeft", 2),
        ("ArrowLeft", 2),
    ):
        page.keyboard.press(key)
        expect(panel).to_contain_text(f"{answered} of 2 are answered")
    assert page.locator(".jp-Cell").count() == cells
    given = json.loads(answers.read_text("utf-8"))["answers"]
    assert [each["answer"] for each in given] == ["none", "left"]

    page.keyboard.press("Backspace")
    expect(panel).to_contain_text("1 of 2 are answered")
    page.keyboard.press("Tab")  # to the first button, where keys do the same
    page.keyboard.press("Space")
    expect(panel).to_contain_text("Run the cells below")
    page.keyboard.press("Backspace")
    expect(panel).to_contain_text("1 of 2 are answered")
    panel.locator("img:visible").last.click()
    page.keyboard.press("ArrowRight")
    expect(panel).to_contain_text("Run the cells below")
    given = json.loads(answers.read_text("utf-8"))["answers"]
    assert [each["answer"] for each in given] == ["none", "right"]
    page.locator(".jp-MarkdownCell:has-text('What the answers say')").click()
    page.locator(".lm-MenuBar-item:has-text('Run')").first.click()
    page.locator(".lm-Menu-itemLabel:text-is('Run Selected Cell and All Below')").click()
    page.get_by_alt_text("Paintings with the names of their settings").wait_for()
    page.get_by_text("in 1.5 of 2 answers").wait_for()
    page.close()
    expect.set_options(timeout=5_000)
