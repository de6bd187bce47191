"""Two pictures or films with a handle between them, in a notebook that was exported as HTML."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
from nbconvert import HTMLExporter
from playwright.sync_api import Browser, Locator, Page, expect

from workbench import notebook

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pairs of pictures, red and blue, and one of films."""
    red, blue = torch.zeros(2, 1, 3, 240, 400)
    red[:, 0], blue[:, 2] = 1, 1
    cells = []

    def keep(html: Any) -> None:
        shown = nbformat.v4.new_output("display_data", {"text/html": html.data})
        cells.append(nbformat.v4.new_code_cell("compare", outputs=[shown]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("IPython.display.display", keep)
        for captions in (("red", "blue"), ("left", "right")):
            notebook.compare(red, blue, captions)
        notebook.compare("sample:clip", "sample:clip", ("source", "the same"))
    path = tmp_path_factory.mktemp("exported") / "notebook.html"
    path.write_text(HTMLExporter().from_notebook_node(nbformat.v4.new_notebook(cells=cells))[0])
    return path


@pytest.fixture
def comparisons(page: Page, exported: Path) -> list[Locator]:
    # What exported notebooks load for formulas, and no page from elsewhere.
    page.route(re.compile("^http"), lambda route: route.fulfill(body=""))
    page.goto(exported.as_uri())
    return page.locator(".workbench-compare").all()


def handle_of(comparison: Locator) -> Locator:
    return comparison.get_by_role("slider", name="How much is seen of")


def seen(comparison: Locator) -> float:
    """Up to where the first picture is seen, as a share of the width."""
    line, stage = (comparison.locator(each).bounding_box() for each in (".line", ".pair"))
    assert line
    assert stage
    return (line["x"] + line["width"] / 2 - stage["x"]) / stage["width"]


def colours(comparison: Locator, at: float) -> str:
    """Which colour is on top at a share of the width."""
    image = comparison.locator(".pair").screenshot()
    return comparison.page.evaluate(
        """async ([bytes, at]) => {
          const picture = await createImageBitmap(new Blob([new Uint8Array(bytes)]));
          const canvas = new OffscreenCanvas(1, 1).getContext("2d");
          const [x, y] = [at * picture.width, .9 * picture.height].map(Math.round);
          canvas.drawImage(picture, -x, -y);
          const [red, , blue] = canvas.getImageData(0, 0, 1, 1).data;
          return red > blue ? "red" : "blue";
        }""",
        [list(image), at],
    )


def test_the_handle_is_dragged_where_the_pointer_is(page: Page, comparisons: list[Locator]) -> None:
    first, other, _ = comparisons
    assert [colours(first, at) for at in (0.4, 0.6)] == ["red", "blue"]
    box = first.locator(".pair").bounding_box()
    assert box
    assert box["width"] == 400
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 100)
    page.mouse.down()
    for share in (0.6, 1.0, 0.25):
        page.mouse.move(box["x"] + share * box["width"], box["y"] + 50, steps=3)
        assert seen(first) == pytest.approx(share, abs=0.01)
    page.mouse.up()
    assert [colours(first, at) for at in (0.2, 0.3)] == ["red", "blue"]
    assert seen(other) == pytest.approx(0.5, abs=0.01)  # it stays
    expect(handle_of(first)).to_have_attribute("aria-valuetext", "25%")


def test_keys_move_it(page: Page, comparisons: list[Locator]) -> None:
    page.mouse.click(5, 5)
    while not handle_of(comparisons[0]).evaluate("handle => handle == document.activeElement"):
        page.keyboard.press("Tab")  # past the cell
    for key, share in (("ArrowRight", 0.51), ("ArrowLeft", 0.5), ("Home", 0), ("End", 1)):
        page.keyboard.press(key)
        assert seen(comparisons[0]) == pytest.approx(share, abs=0.011)
    expect(handle_of(comparisons[0])).to_have_accessible_name("How much is seen of red, over blue")


def test_what_takes_its_place_has_the_handle_there(page: Page, comparisons: list[Locator]) -> None:
    handle_of(comparisons[0]).fill("80")
    comparisons[0].evaluate("all => { all.parentNode.innerHTML = all.parentNode.innerHTML }")
    assert seen(comparisons[0]) == pytest.approx(0.8, abs=0.01)
    expect(handle_of(comparisons[0])).to_have_value("80")


def test_films_play_in_step(page: Page, comparisons: list[Locator]) -> None:
    films = comparisons[2]
    times = "all => [...all.querySelectorAll('video')].map(film => film.currentTime)"
    films.get_by_role("button", name="Play").click()
    page.wait_for_function("document.querySelectorAll('video')[1].currentTime > .5")
    second, first = films.evaluate(times)
    assert first == pytest.approx(second, abs=0.15)
    films.get_by_role("button", name="Pause").click()
    expect(films.get_by_role("button", name="Play")).to_be_visible()
    page.wait_for_function("[...document.querySelectorAll('video')].every(film => film.paused)")
    films.get_by_role("slider", name="Time").fill("0.5")
    page.wait_for_function(
        "[...document.querySelectorAll('video')].every("
        "film => Math.abs(film.currentTime - film.duration / 2) < .02)"
    )
    handle_of(films).fill("30")
    assert seen(films) == pytest.approx(0.3, abs=0.01)


def test_nobody_is_shut_out(
    page: Page, comparisons: list[Locator], violations: Callable[..., list[str]]
) -> None:
    assert len(comparisons) == 3
    assert violations(page, ".workbench-compare") == []


@pytest.mark.parametrize("width", [320, 390])
def test_on_a_phone_a_touch_moves_it(browser: Browser, exported: Path, width: int) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": 700}, has_touch=True, is_mobile=True
    )
    page = context.new_page()
    page.route(re.compile("^http"), lambda route: route.fulfill(body=""))
    page.goto(exported.as_uri())
    first = page.locator(".workbench-compare").first
    box = first.locator(".pair").bounding_box()
    assert box
    assert box["width"] < width
    page.touchscreen.tap(box["x"] + 0.75 * box["width"], box["y"] + 30)
    assert seen(first) == pytest.approx(0.75, abs=0.01)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    context.close()
