"""The slider panel as a person has it: in JupyterLab, with mouse and keyboard."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
import pytest
import yaml
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

from workbench.notebook import find_notebook

if TYPE_CHECKING:
    from tests.browser.conftest import Lab

pytestmark = pytest.mark.slow

PATIENCE = 60  # seconds for anything that starts a kernel
SOON = 15  # seconds for everything else
CAPTION = re.compile(
    r"(?P<state>\w+) · step (?P<step>\d+) of \d+ · \d+×\d+ px\s+"
    r"content weight \S+ · style weight (?P<style_weight>\S+) · tv weight \S+\s+loss (?P<loss>\S+)"
)


@dataclass(frozen=True)
class Caption:
    state: str
    step: int
    style_weight: float
    loss: str


class Notebook:
    """A notebook that is open in a tab."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        page.goto(url)
        page.locator(".jp-Notebook .jp-Cell").first.wait_for(timeout=PATIENCE * 1000)
        self.kernel_is_idle()

    def kernel_is_idle(self) -> None:
        status = self.page.locator("#jp-bottom-panel").get_by_text("Python 3 (ipykernel) | Idle")
        status.wait_for(timeout=PATIENCE * 1000)

    def menu(self, title: str, entry: str) -> None:
        self.page.locator(f".lm-MenuBar-item:has-text('{title}')").first.click()
        self.page.locator(f".lm-Menu-itemLabel:text-is('{entry}')").click()

    def run_all(self) -> None:
        self.menu("Run", "Run All Cells")
        self.button("Start").wait_for(timeout=PATIENCE * 1000)

    def run_cell(self, code: str) -> Locator:
        """Add a cell at the end and run it; gives the cell."""
        self.page.locator(".jp-Notebook-footer").click()
        editor = self.page.locator(".jp-CodeCell").last.locator(".cm-content")
        editor.fill(code)
        editor.press("Control+Enter")
        return self.page.locator(".jp-CodeCell", has_text=code).last

    def save(self) -> None:
        self.menu("File", "Save Notebook")
        expect(self.page.locator(".lm-TabBar-tab.jp-mod-current.jp-mod-dirty")).to_have_count(0)

    # --- the panel ---

    def button(self, name: str) -> Locator:
        return self.page.locator(f"button.jupyter-button:has-text('{name}')").last

    def caption(self) -> Caption | None:
        """What stands below the picture; None: not yet painting."""
        texts = self.page.locator(".widget-html-content", has_text=" · step ")
        if texts.count() == 0:
            return None
        match = CAPTION.search(texts.last.inner_text())
        if match is None:
            return None
        return Caption(
            match["state"], int(match["step"]), float(match["style_weight"]), match["loss"]
        )

    def picture(self) -> str:
        """Address of the live picture, another one for every picture."""
        right = self.page.locator(".widget-html-content", has_text=" · step ").last.locator(
            "xpath=ancestor::*[contains(@class, 'widget-vbox')][1]"
        )
        picture = right.locator("img").first
        assert picture.evaluate("img => img.decode().then(() => img.naturalWidth)") == 128
        return picture.get_attribute("src") or ""

    def slider(self, title: str) -> Locator:
        return self.page.locator(f"label:text-is('{title}')").last.locator("xpath=..")

    def readout(self, title: str) -> float:
        return float(self.slider(title).locator(".widget-readout").inner_text())

    def message(self) -> str:
        return self.page.locator(".widget-html-content [role=status]").last.inner_text()

    def until(self, condition: Callable[[Caption], object], seconds: float = SOON) -> Caption:
        """Wait until the caption is so."""
        end = time.monotonic() + seconds
        while not ((caption := self.caption()) and condition(caption)):
            assert time.monotonic() < end, f"{caption}, and the panel says {self.message()!r}"
            self.page.wait_for_timeout(30)
        return caption

    def start(self) -> Caption:
        """Have it paint from the beginning."""
        self.stop()
        self.button("Start").click()
        return self.until(lambda c: c.state == "running" and c.step > 0, PATIENCE)

    def stop(self) -> None:
        if self.button("Stop").is_enabled():
            self.button("Stop").click()
            self.until(lambda c: c.state == "stopped")

    def goes_on(self) -> None:
        """See that picture and step change."""
        now, picture = self.until(lambda c: c.state == "running"), self.picture()
        self.until(lambda c: c.step > now.step + 3 and self.picture() != picture)

    def stands_still(self) -> None:
        now, picture = self.caption(), self.picture()
        self.page.wait_for_timeout(700)  # dozens of steps
        assert self.caption() == now
        assert self.picture() == picture


@contextmanager
def tab(context: BrowserContext) -> Iterator[Page]:
    """A tab, closed in the end, in which no script may fail."""
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    page.close()
    assert errors == []


@pytest.fixture(scope="module")
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": 1400, "height": 1300})
    yield context
    context.close()


def copy_notebook(folder: Path, name: str) -> None:
    """The notebook with a small picture that takes long."""
    notebook = nbformat.read(find_notebook("tune_weights"), 4)
    (cell,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    for line, shorter in (("size: int = 256", "size: int = 128"), ("= [80]", "= [50000]")):
        assert line in cell.source
        cell.source = cell.source.replace(line, shorter)
    nbformat.write(notebook, folder / f"{name}.ipynb")


@pytest.fixture(scope="module")
def opened(lab: Lab, context: BrowserContext) -> Iterator[Notebook]:
    """A notebook with an open panel, for the tests that leave it open."""
    copy_notebook(lab.folder, "shared")
    with tab(context) as page:
        notebook = Notebook(page, f"{lab.url}/lab/tree/shared.ipynb")
        notebook.run_all()
        yield notebook


@pytest.fixture
def notebook(opened: Notebook) -> Iterator[Notebook]:
    """With a painting that has just begun."""
    opened.start()
    yield opened
    opened.stop()


def test_the_picture_is_painted_before_ones_eyes(notebook: Notebook) -> None:
    notebook.goes_on()
    loss = notebook.caption().loss  # type: ignore[union-attr]
    notebook.until(lambda caption: caption.loss != loss)


def test_a_slider_follows_the_arrow_keys(notebook: Notebook) -> None:
    handle = notebook.slider("style weight").locator(".noUi-handle").first
    handle.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft"):
        before = notebook.readout("style weight")
        notebook.page.keyboard.press(key)
        notebook.until(lambda c, before=before: c.style_weight != before)
        readout = notebook.readout("style weight")
        assert (readout > before) == (key == "ArrowRight")
        notebook.until(lambda c, readout=readout: c.style_weight == readout)
    notebook.goes_on()


def test_a_slider_follows_the_mouse_to_the_end(notebook: Notebook) -> None:
    mouse = notebook.page.mouse
    handle = notebook.slider("style weight").locator(".noUi-handle").first
    handle.scroll_into_view_if_needed()
    box = handle.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    seen = set()
    mouse.move(x, y)
    mouse.down()
    for number in range(80):  # to and fro, for about two seconds
        mouse.move(x + 60 * (1 - abs(number % 40 - 20) / 20), y)
        notebook.page.wait_for_timeout(20)
        seen.add(notebook.caption().style_weight)  # type: ignore[union-attr]
    mouse.move(x + 37, y)
    mouse.up()
    assert len(seen) > 5  # the painting follows while the slider moves
    readout = notebook.readout("style weight")
    notebook.until(lambda c: c.style_weight == readout)
    assert notebook.readout("style weight") == readout
    notebook.goes_on()
    assert notebook.until(lambda c: True).style_weight == readout


def test_pause_step_back_go_on_stop(notebook: Notebook) -> None:
    notebook.until(lambda c: c.step > 12)
    before = notebook.readout("style weight")
    notebook.slider("style weight").locator(".noUi-handle").first.focus()
    notebook.page.keyboard.press("ArrowRight")
    notebook.until(lambda c: c.style_weight != before)
    notebook.button("Pause").click()
    paused = notebook.until(lambda c: c.state == "paused")
    notebook.stands_still()
    assert notebook.button("Pause").is_disabled()
    steps = [paused.step]
    while (now := notebook.until(lambda c: c.state == "paused")).style_weight != before:
        notebook.button("Step back").click()
        back = notebook.until(lambda c, now=now: c.step < now.step)
        assert back.step % 10 == 0
        assert back.state == "paused"
        steps.append(back.step)
        assert len(steps) < 30
    assert notebook.readout("style weight") == before
    notebook.stands_still()
    notebook.button("Go on").click()
    notebook.until(lambda c: c.state == "running" and c.step > steps[-1])
    notebook.button("Stop").click()
    notebook.until(lambda c: c.state == "stopped")
    notebook.stands_still()
    assert notebook.button("Stop").is_disabled()


def test_quick_clicks_on_step_back_show_where_they_lead(notebook: Notebook) -> None:
    notebook.until(lambda c: c.step > 62)
    notebook.button("Pause").click()
    paused = notebook.until(lambda c: c.state == "paused")
    for _ in range(3):
        notebook.button("Step back").click(no_wait_after=True, delay=0)
    first = (paused.step - 1) // 10 * 10
    notebook.until(lambda c: c.step == first - 20)


def test_settings_are_saved(notebook: Notebook, lab: Lab) -> None:
    notebook.until(lambda c: c.step > 3)
    path = lab.folder / "runs" / "tune_weights" / "settings.yaml"
    path.unlink(missing_ok=True)
    notebook.button("Save settings").click()
    status = notebook.page.locator(".widget-html-content [role=status]").last
    expect(status).to_have_text(re.compile(r"^Saved runs/tune_weights/settings\.yaml"))
    saved = yaml.safe_load(path.read_text())
    assert saved["content"] == "sample:astronaut"
    assert saved["style_weight"] == notebook.readout("style weight")
    notebook.goes_on()


def test_after_a_restart_of_the_kernel_it_works_again(notebook: Notebook) -> None:
    notebook.menu("Kernel", "Restart Kernel…")
    notebook.page.locator(".jp-Dialog button.jp-mod-accept").click()
    notebook.kernel_is_idle()
    notebook.menu("Run", "Run All Cells")
    notebook.page.get_by_text("Press Start.", exact=True).wait_for(timeout=PATIENCE * 1000)
    notebook.start()
    notebook.goes_on()


def test_other_cells_run_while_it_paints(notebook: Notebook) -> None:
    cell = notebook.run_cell("print(6 * 7, panel.session.state)")
    expect(cell.locator(".jp-OutputArea-output")).to_have_text("42 running", timeout=SOON * 1000)
    notebook.goes_on()


def test_the_picture_moves_while_a_long_cell_runs(notebook: Notebook) -> None:
    cell = notebook.run_cell("import time; time.sleep(5); print('awake' + ' again')")
    prompt = cell.locator(".jp-InputPrompt")
    expect(prompt).to_have_text("[*]:")
    before, picture = notebook.until(lambda c: True), notebook.picture()
    notebook.until(lambda c: c.step > before.step and notebook.picture() != picture, 4)
    expect(prompt).to_have_text("[*]:")
    expect(cell.locator(".jp-OutputArea-output")).to_have_text("awake again", timeout=SOON * 1000)
    notebook.goes_on()


def test_a_file_that_is_no_picture_is_told(notebook: Notebook, tmp_path: Path) -> None:
    path = tmp_path / "<b>diary.png"
    path.write_text("Dear diary")
    page = notebook.page
    page.locator(".jupyter-widget-Collapse-header", has_text="Content picture").last.click()
    with page.expect_file_chooser() as chooser:
        page.locator("button.widget-upload:visible").click()
    chooser.value.set_files(path)
    status = page.locator(".widget-html-content [role=status]").last
    expect(status).to_contain_text("<b>diary.png is not a picture that can be read")
    notebook.goes_on()
    page.locator(".jupyter-widget-Collapse-header", has_text="Content picture").last.click()


def test_a_closed_tab_loses_nothing(lab: Lab, context: BrowserContext) -> None:
    copy_notebook(lab.folder, "closed")
    url = f"{lab.url}/lab/tree/closed.ipynb"
    with tab(context) as page:
        notebook = Notebook(page, url)
        notebook.run_all()
        before = notebook.start()
    with tab(context) as page:  # nothing was saved
        notebook = Notebook(page, url)
        assert notebook.caption() is None
        notebook.run_cell("panel")
        after = notebook.until(lambda c: c.state == "running", PATIENCE)
        assert after.step > before.step
        notebook.goes_on()
        notebook.save()
    with tab(context) as page:
        notebook = Notebook(page, url)
        again = notebook.until(lambda c: c.state == "running" and c.step > after.step, PATIENCE)
        notebook.goes_on()
        notebook.button("Pause").click()
        paused = notebook.until(lambda c: c.state == "paused")
        assert paused.step > again.step
        notebook.stands_still()
