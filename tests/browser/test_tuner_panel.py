"""The slider panel as a person has it: in JupyterLab, with mouse and keyboard."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

from workbench.images import load_image
from workbench.runs import read_result

if TYPE_CHECKING:
    from tests.browser.conftest import Project

pytestmark = pytest.mark.slow

PATIENCE = 300  # seconds, within which anything must be done, however busy the machine is
# A picture that takes long, in steps that do not.
LONG = {
    "content": "photo.jpg",
    "style": "style.png",
    "size": 128,
    "steps": [50_000],
    "content_layers": ["relu2_1"],
    "style_layers": ["relu1_1", "relu2_1"],
    "precision": "float32",  # "auto" would measure first which one is faster
}
# Width and address of a picture that can be decoded; a newer one may take its place meanwhile.
DECODED = """async img => {
    for (;;) {
        const address = img.src;
        try {
            await img.decode();
            if (img.src === address) return [img.naturalWidth, address];
        } catch (error) {
            if (img.src === address) throw error;
        }
    }
}"""
CAPTION = re.compile(
    r"(?P<state>\w+) · step (?P<step>\d+)[^·]* · \d+×\d+ px\s+"
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
        page.locator(".jp-Notebook .jp-Cell").first.wait_for()
        self.kernel_is_idle()

    def kernel_is_idle(self) -> None:
        status = self.page.locator("#jp-bottom-panel").get_by_text("Python 3 (ipykernel) | Idle")
        status.wait_for()

    def menu(self, title: str, entry: str) -> None:
        self.page.locator(f".lm-MenuBar-item:has-text('{title}')").first.click()
        self.page.locator(f".lm-Menu-itemLabel:text-is('{entry}')").click()

    def run_all(self) -> None:
        self.menu("Run", "Run All Cells")
        self.button("Start").wait_for()

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
        width, address = right.locator("img").first.evaluate(DECODED)
        assert width == 128
        return str(address)

    def slider(self, title: str) -> Locator:
        return self.page.locator(f".widget-hslider[title^='{title}:']").last

    def field(self, title: str) -> Locator:
        """What a value is typed into."""
        return self.page.locator(f"input[aria-label^='{title}:']").last

    def readout(self, title: str) -> float:
        return float(self.field(title).input_value())

    def status(self) -> Locator:
        return self.page.locator(".widget-html-content [role=status]").last

    def message(self) -> str:
        return self.status().inner_text()

    def says(self, sentence: str | re.Pattern[str]) -> None:
        expect(self.status()).to_have_text(sentence)

    def upload(self, path: Path) -> None:
        """Upload a content picture."""
        header = self.button("Photograph and colours")
        header.click()
        with self.page.expect_file_chooser() as chooser:
            self.page.locator("button.widget-upload:visible").click()
        chooser.value.set_files(path)
        header.click()

    def until(self, condition: Callable[[Caption], object]) -> Caption:
        """Wait until the caption is so."""
        end = time.monotonic() + PATIENCE
        while not ((caption := self.caption()) and condition(caption)):
            assert time.monotonic() < end, f"{caption}, and the panel says {self.message()!r}"
            self.page.wait_for_timeout(30)
        return caption

    def start(self) -> Caption:
        """Have it paint from the beginning."""
        self.stop()
        self.button("Start").click()
        return self.until(lambda c: c.state == "running" and c.step > 0)

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
def tab(context: BrowserContext, *, console: bool = False) -> Iterator[Page]:
    """A tab, closed in the end, in which no script may fail, or tell an error in the console."""
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    if console:
        page.on("console", lambda told: told.type == "error" and errors.append(told.text))
    yield page
    page.close()
    assert errors == []


@pytest.fixture(scope="module")
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": 1400, "height": 1300})
    context.set_default_timeout(PATIENCE * 1000)
    expect.set_options(timeout=PATIENCE * 1000)
    yield context
    expect.set_options(timeout=5_000)
    context.close()


@pytest.fixture(scope="module")
def opened(project: Project, context: BrowserContext) -> Iterator[Notebook]:
    """A notebook with an open panel, for the tests that leave it open."""
    project.copy("tune_weights", "shared", **LONG)
    with tab(context) as page:
        notebook = Notebook(page, project.url("shared"))
        notebook.run_all()
        assert notebook.message() == ""
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
    seen: set[float] = set()
    mouse.move(x, y)
    mouse.down()
    end = time.monotonic() + PATIENCE
    for number in itertools.count():  # to and fro
        mouse.move(x + 60 * (1 - abs(number % 40 - 20) / 20), y)
        notebook.page.wait_for_timeout(20)
        seen.add(notebook.caption().style_weight)  # type: ignore[union-attr]
        if len(seen) > 5:  # the painting follows while the slider moves
            break
        assert time.monotonic() < end, seen
    mouse.move(x + 37, y)
    mouse.up()
    notebook.page.wait_for_timeout(1000)  # until the number has followed
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
        was = now.step, now.style_weight
        back = notebook.until(lambda c, was=was: (c.step, c.style_weight) != was)
        assert back.step <= now.step
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
    notebook.until(lambda c: c.step > 32)
    notebook.button("Pause").click()
    paused = notebook.until(lambda c: c.state == "paused")
    for _ in range(3):
        notebook.button("Step back").click(no_wait_after=True, delay=0)
    first = (paused.step - 1) // 10 * 10
    notebook.until(lambda c: c.step == first - 20)


def test_after_a_restart_of_the_kernel_it_works_again(notebook: Notebook) -> None:
    notebook.menu("Kernel", "Restart Kernel…")
    notebook.page.locator(".jp-Dialog button.jp-mod-accept").click()
    notebook.kernel_is_idle()
    notebook.menu("Run", "Run All Cells")
    notebook.page.get_by_text("Press Start.", exact=True).wait_for()
    notebook.start()
    notebook.goes_on()


def test_other_cells_run_while_it_paints(notebook: Notebook) -> None:
    cell = notebook.run_cell("print(6 * 7, panel.session.state)")
    expect(cell.locator(".jp-OutputArea-output")).to_have_text("42 running")
    notebook.goes_on()


def test_the_picture_moves_while_a_long_cell_runs(notebook: Notebook, project: Project) -> None:
    wait = "[time.sleep(0.1) for _ in iter(pathlib.Path('enough').exists, True)]"
    cell = notebook.run_cell(f"import pathlib, time; {wait}; print('awake' + ' again')")
    prompt = cell.locator(".jp-InputPrompt")
    expect(prompt).to_have_text("[*]:")
    before, picture = notebook.until(lambda c: True), notebook.picture()
    notebook.until(lambda c: c.step > before.step and notebook.picture() != picture)
    expect(prompt).to_have_text("[*]:")
    (project.root / "enough").touch()
    expect(cell.locator(".jp-OutputArea-output")).to_have_text("awake again")
    notebook.goes_on()


def test_a_file_that_is_no_picture_is_told(notebook: Notebook, tmp_path: Path) -> None:
    path = tmp_path / "<b>diary.png"
    path.write_text("Dear diary")
    notebook.upload(path)
    expect(notebook.status()).to_contain_text("<b>diary.png is not a picture that can be read")
    notebook.goes_on()


def test_an_upload_that_jupyter_drops_is_told_and_the_panel_stays(
    notebook: Notebook, tmp_path: Path
) -> None:
    path = tmp_path / "camera.jpg"
    path.write_bytes(bytes(12_000_000))
    notebook.upload(path)
    notebook.says(re.compile(r"^camera\.jpg has 12\.0 MB, .*drag the file into JupyterLab's file"))
    notebook.goes_on()
    assert notebook.message().startswith("camera.jpg")


def test_a_first_time_user_finds_the_way_with_the_mouse(
    project: Project, context: BrowserContext
) -> None:
    project.copy("tune_weights", "first", **LONG, output_dir="runs/first")
    saved = project.root / "runs" / "first"
    with tab(context, console=True) as page:
        notebook = Notebook(page, project.url("first"))
        notebook.run_all()
        expect(notebook.button("Start")).to_be_in_viewport()
        expect(page.locator("img.is-painting").last).to_be_in_viewport(ratio=0.9)
        expect(page.get_by_text("128×96 px · 50000 steps")).to_be_visible()
        notebook.start()
        field = notebook.field("style weight")
        field.fill("250")
        field.press("Enter")
        notebook.until(lambda c: c.style_weight == 250)
        field.fill("-1")
        field.press("Enter")
        notebook.says("style_weight = -1.0: give a number from 0 on.")
        expect(field).to_have_value("250")
        back = page.locator("button[title='style weight: back to 100']")
        back.click()
        notebook.until(lambda c: c.style_weight == 100)
        expect(back).to_be_disabled()
        notebook.button("What should I try?").click()
        page.locator("select[title='what the picture has']").select_option(
            "too little of the style"
        )
        expect(page.get_by_text("more style weight")).to_be_visible()
        notebook.button("Do that").click()
        notebook.until(lambda c: c.style_weight == 500)
        notebook.button("Pause").click()
        paused = notebook.until(lambda c: c.state == "paused")
        notebook.button("Step back").click()
        notebook.until(lambda c: c.step < paused.step)
        notebook.button("Redo").click()
        notebook.until(lambda c: c == paused)
        notebook.button("Save picture").click()
        notebook.says(f"Saved {Path('runs/first/picture-001.png')}. Download it")
        with page.expect_download() as download:
            page.get_by_role("link", name="Download it").click()
        assert Path(download.value.path()).read_bytes() == (saved / "picture-001.png").read_bytes()
        notebook.button("Save settings").click()
        notebook.says(re.compile("session.yaml"))
        command = notebook.message().splitlines()[-1]
    paste(command.removeprefix(f"In a terminal in {project.root}: "), project.root)
    again = load_image(project.root / "runs" / "tune_weights" / "picture.png")
    assert (again == load_image(saved / "picture-001.png")).all()


def test_a_first_time_user_finds_the_way_with_the_keyboard(
    project: Project, context: BrowserContext
) -> None:
    project.copy("tune_weights", "keys", **LONG, output_dir="runs/keys")
    with tab(context, console=True) as page:
        notebook = Notebook(page, project.url("keys"))
        notebook.run_all()
        notebook.button("Start").focus()
        press = page.keyboard.press

        def tab_to(element: Locator, key: str = "Tab") -> None:
            for _ in range(60):
                if element.evaluate("element => element === document.activeElement"):
                    return
                press(key)
            raise AssertionError(element)

        press("Enter")
        notebook.until(lambda c: c.state == "running" and c.step > 0)
        handle = notebook.slider("style weight").locator(".noUi-handle").first
        expect(handle).to_have_attribute("aria-label", re.compile("^style weight: larger gives"))
        tab_to(handle)
        press("ArrowRight")
        notebook.until(lambda c: c.style_weight > 100)
        expect(handle).to_have_attribute("aria-valuetext", "112")
        tab_to(notebook.field("style weight"))
        press("Control+a")
        page.keyboard.type("250")
        press("Enter")
        notebook.until(lambda c: c.style_weight == 250)
        press("Tab")
        press("Space")  # the way back
        notebook.until(lambda c: c.style_weight == 100)
        tab_to(notebook.button("What should I try?"))
        press("Space")
        complaints = page.locator("select[title='what the picture has']")
        expect(complaints).to_be_visible()
        tab_to(complaints)
        page.keyboard.type("g")  # to "grain"
        expect(notebook.button("Do that")).to_be_enabled()
        expect(notebook.button("Do that")).to_be_enabled()
        tab_to(notebook.button("Do that"))
        press("Space")
        expect(notebook.field("tv weight")).to_have_value("0.01")
        tab_to(notebook.button("Pause"), "Shift+Tab")
        press("Space")
        notebook.until(lambda c: c.state == "paused")
        tab_to(notebook.button("Save picture"))
        press("Enter")
        notebook.says(re.compile("picture-001.png"))
    assert (project.root / "runs" / "keys" / "picture-001.png").is_file()


@pytest.mark.parametrize("width", [900, 1600])
def test_the_picture_stays_in_sight_while_knobs_are_turned(notebook: Notebook, width: int) -> None:
    notebook.page.set_viewport_size({"width": width, "height": 900})
    files = notebook.page.locator(".jp-SideBar.jp-mod-left [data-id='filebrowser']")
    files.click()
    try:
        notebook.button("Layers").click()
        notebook.button("Start").or_(notebook.button("Go on")).evaluate(
            "element => element.scrollIntoView({block: 'start'})"
        )
        notebook.field("relu5_3, factor").scroll_into_view_if_needed()
        expect(notebook.field("relu5_3, factor")).to_be_in_viewport()
        picture = notebook.page.locator("img.is-painting").last
        expect(picture).to_be_in_viewport(ratio=0.95)
        expect(notebook.button("Pause")).to_be_in_viewport()
        box = picture.bounding_box()
        assert box is not None
        assert box["x"] > width / 3
    finally:
        files.click()
        notebook.button("Layers").click()
        notebook.page.set_viewport_size({"width": 1400, "height": 1300})


def test_a_closed_tab_loses_nothing(project: Project, context: BrowserContext) -> None:
    project.copy("tune_weights", "closed", **LONG)
    url = project.url("closed")
    with tab(context) as page:
        notebook = Notebook(page, url)
        notebook.run_all()
        before = notebook.start()
    with tab(context) as page:  # nothing was saved
        notebook = Notebook(page, url)
        assert notebook.caption() is None
        notebook.run_cell("panel")
        after = notebook.until(lambda c: c.state == "running")
        assert after.step > before.step
        notebook.goes_on()
        notebook.save()
    with tab(context) as page:
        notebook = Notebook(page, url)
        again = notebook.until(lambda c: c.state == "running" and c.step > after.step)
        notebook.goes_on()
        notebook.button("Pause").click()
        paused = notebook.until(lambda c: c.state == "paused")
        assert paused.step > again.step
        notebook.stands_still()


# --- paths are those of the project, wherever Lab was started ----------------------------


@pytest.mark.parametrize("place", ["root", "notebooks", "above"])
def test_pictures_are_found_and_saved_in_the_project(
    project: Project, context: BrowserContext, place: str
) -> None:
    project.copy("tune_weights", **LONG)
    root, saved = project.root, project.root / "runs" / "tune_weights"
    with tab(context) as page:
        notebook = Notebook(page, project.url("tune_weights", place))
        notebook.run_all()
        assert notebook.message() == ""
        for image in page.locator(".jupyter-widgets img:visible").all():
            assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
        notebook.start()
        notebook.button("Pause").click()
        paused = notebook.until(lambda c: c.state == "paused")
        notebook.button("Save settings").click()
        settings = "runs/tune_weights/settings.yaml"
        command = f"papermill notebooks/stylize_image.ipynb out.ipynb -f {settings}"
        notebook.says(f"Saved {settings}. In a terminal in {root}: {command}")
        values = yaml.safe_load((root / settings).read_text())
        assert (values["content"], values["steps"]) == (str(root / "photo.jpg"), [paused.step])
        before = {*saved.iterdir()}
        notebook.button("Save run").click()
        notebook.says(re.compile(r"^Saved runs/tune_weights/\d{3}: picture"))
        (run,) = {*saved.iterdir()} - before
        assert read_result(run) is not None
    assert not (root / "notebooks" / "runs").exists()
    if place == "notebooks":
        paste(command, root)
        painted = load_image(root / "runs" / "stylize_image" / "picture.png")
        assert (painted == load_image(run / "picture.png")).all()


def paste(command: str, folder: Path) -> None:
    """Run a line in a shell in a folder."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "PYTHONPATH": os.pathsep.join(sys.path)}
    shell = subprocess.run(
        command, shell=True, cwd=folder, env=environment, capture_output=True, text=True
    )
    assert shell.returncode == 0, shell.stderr


def test_a_notebook_run_by_hand_finds_a_picture_in_the_root(
    project: Project, context: BrowserContext
) -> None:
    quick = {
        **LONG,
        "size": 64,
        "steps": [2],
        "content_layers": ["relu1_1"],
        "style_layers": ["relu1_1"],
        "gif_frames": 2,
        "output_dir": "runs/by_hand",
    }
    project.copy("stylize_image", "by_hand", **quick)
    with tab(context) as page:
        notebook = Notebook(page, project.url("by_hand", "above"))
        notebook.menu("Run", "Run All Cells")
        seen: list[str] = []
        while read_result(project.root / "runs" / "by_hand") is None:
            assert page.locator("[data-mime-type*='error']").count() == 0
            now = page.locator(".jp-Notebook").all_inner_texts()
            if now != seen:  # a cell has ended, or a bar has grown
                seen, end = now, time.monotonic() + PATIENCE
            assert time.monotonic() < end, now
            page.wait_for_timeout(200)
