"""The gallery as a visitor sees it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Dialog, Locator, Page, Request, expect

from workbench import samples
from workbench.gallery import build_gallery
from workbench.images import Frame, fit, save_image, to_array
from workbench.runs import finish_run, start_run
from workbench.sheets import save_gif
from workbench.video.clips import save_mp4

pytestmark = pytest.mark.slow

EVIL = """<script>alert(1)</script>"><img src=x onerror=alert(2)> ' & 100% #1? 絵"""


def frames(width: int = 320, height: int = 240, seed: int = 0, count: int = 4) -> list[Frame]:
    coarse = np.random.default_rng(seed).integers(0, 255, (count, 6, 8, 3), dtype=np.uint8)
    return list(coarse.repeat(height // 6, axis=1).repeat(width // 8, axis=2))


def make_run(
    folder: Path, *, gif: bool = False, film: bool = False, content: str = "sample:astronaut"
) -> None:
    start_run(folder)
    pictures = frames(seed=sum(folder.name.encode()))
    outputs = {"picture": folder / "picture.png"}
    save_image(samples.from_array(pictures[-1]), outputs["picture"])
    if gif:
        outputs["gif"] = folder / "progress.gif"
        save_gif(pictures, outputs["gif"])
    if film:
        outputs["mp4"] = folder / "progress.mp4"
        save_mp4(pictures, outputs["mp4"])
    finish_run(
        folder,
        outputs=outputs,
        figures={"loss": 1234.5},
        settings={"content": content, "style": "sample:mosaic", "style_weight": 300.0},
        weights={"name": "vgg16", "sha256": "0" * 64},
        seconds=12.0,
    )


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A web server's folder with a gallery at /blog/my site/."""
    root = tmp_path_factory.mktemp("web")
    runs = tmp_path_factory.mktemp("runs")
    make_run(runs / "1 painting", gif=True)
    make_run(runs / "2 film", film=True)
    photo = tmp_path_factory.mktemp("photos") / "photo.png"
    save_image(samples.from_array(frames(seed=7)[0]), photo)  # of the painting's shape
    make_run(runs / "3 still", content=str(photo))
    make_run(runs / "3z both", gif=True, film=True)
    make_run(runs / ("4 " + EVIL.replace("/", "")), gif=True, content=EVIL)
    build_gallery([runs], root / "blog" / "my site", title=f"Paintings {EVIL}")
    return root


# Outlives the pages of its module: one that closes with pictures on their way would see errors.
@pytest.fixture(scope="module")
def serve() -> Iterator[Callable[[Path], str]]:
    """Serve a folder; gives its address."""
    servers = []

    def start(folder: Path) -> str:
        handler = partial(Quiet, directory=str(folder))
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(params=["file", "server"])
def address(request: pytest.FixtureRequest, root: Path, serve: Callable[[Path], str]) -> str:
    """The gallery opened from a file, and from a sub-path of a server."""
    if request.param == "file":
        return (root / "blog/my site/index.html").as_uri()
    return serve(root) + "blog/my%20site/"


def asked_for(page: Page) -> list[str]:
    """The animations that are asked for from now on."""
    animations: list[str] = []

    def note(request: Request) -> None:
        if request.url.endswith((".gif", ".mp4")):
            animations.append(request.url)

    page.on("request", note)
    return animations


def dialogs_of(page: Page) -> list[str]:
    """What scripts say from now on."""
    dialogs: list[str] = []

    def note(dialog: Dialog) -> None:
        dialogs.append(dialog.message)
        dialog.dismiss()

    page.on("dialog", note)
    return dialogs


def pictures_are_there(page: Page) -> None:
    for image in page.locator("img:visible").all():
        image.scroll_into_view_if_needed()
        assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0


def test_a_click_plays_the_gif_and_another_stops_it(page: Page, address: str) -> None:
    animations = asked_for(page)
    page.goto(address)
    pictures_are_there(page)
    swap = page.get_by_role("button", name="Play the GIF").first
    expect(swap).to_have_accessible_name(
        "astronaut painted in the style of mosaic Play the GIF, 0.1 MB"
    )
    expect(swap).to_have_attribute("aria-pressed", "false")
    assert animations == []
    swap.scroll_into_view_if_needed()
    before = swap.bounding_box()
    swap.click()
    gif = swap.locator("img[src$='.gif']")
    expect(gif).to_be_visible()
    expect(swap).to_have_attribute("aria-pressed", "true")
    expect(swap).not_to_have_attribute("aria-busy", "true")
    assert gif.evaluate("image => image.naturalWidth") == 320
    assert gif.bounding_box() == before == swap.bounding_box()
    swap.click()
    expect(gif).to_have_count(0)
    expect(swap).to_have_attribute("aria-pressed", "false")
    assert len(animations) == 1


@pytest.mark.parametrize("key", ["Enter", "Space"])
def test_keys_play_and_stop(page: Page, address: str, key: str) -> None:
    page.goto(address)
    page.keyboard.press("Tab")
    swap = page.locator(".swap").first
    expect(swap).to_be_focused()
    page.keyboard.press(key)
    expect(swap.locator("img[src$='.gif']")).to_be_visible()
    page.keyboard.press(key)
    expect(swap.locator("img[src$='.gif']")).to_have_count(0)
    expect(swap).to_be_focused()


def test_a_film_plays_where_there_is_no_gif(page: Page, address: str) -> None:
    animations = asked_for(page)
    page.goto(address)
    swap = page.get_by_role("button", name="Play the film").first
    swap.click()
    film = page.locator(".stage video")
    expect(film).to_be_visible()
    page.wait_for_function("document.querySelector('video').currentTime > 0.1")
    expect(swap).not_to_have_attribute("aria-busy", "true")
    assert film.evaluate("film => film.videoWidth") == 320
    assert film.evaluate("film => film.controls")  # it may have sound
    expect(film).to_have_attribute("aria-label", "astronaut painted in the style of mosaic")
    film.click()  # goes to the controls
    expect(film).to_be_visible()
    swap.locator(".badge").click()
    expect(film).to_have_count(0)
    swap.press("Enter")
    expect(film).to_be_visible()
    swap.press("Enter")
    expect(film).to_have_count(0)
    assert {url.rpartition(".")[2] for url in animations} == {"mp4"}


def test_loading_is_shown_and_can_be_stopped(page: Page, address: str) -> None:
    page.route("**/*.gif", lambda route: None)  # a line so slow that nothing ever comes
    page.goto(address)
    swap = page.locator(".swap").first
    swap.click()
    expect(swap).to_have_attribute("aria-busy", "true")
    expect(swap.locator(".words")).to_have_text("Loading …")
    expect(swap.locator(".still")).to_be_visible()
    swap.click()
    expect(swap).to_have_attribute("aria-pressed", "false")
    expect(swap).not_to_have_attribute("aria-busy", "true")


def test_an_animation_that_is_gone_leaves_the_still(browser: Browser, root: Path) -> None:
    page = browser.new_page()  # the console says that it is gone
    page.route("**/*.gif", lambda route: route.abort())
    page.goto((root / "blog/my site/index.html").as_uri())
    swap = page.locator(".swap").first
    swap.click()
    expect(swap.locator(".words")).to_have_text("This could not be loaded; try again")
    expect(swap).to_have_attribute("aria-pressed", "false")
    page.unroute("**/*.gif")
    swap.click()
    expect(swap.locator("img[src$='.gif']")).to_be_visible()
    page.close()


def test_a_handle_lies_over_each_painting(page: Page, address: str) -> None:
    page.goto(address)
    figure = page.locator("figure").nth(2)
    handle = figure.get_by_role("slider", name="How much is seen of before")
    expect(handle).not_to_be_visible()
    figure.get_by_text("Before and after").click()
    pictures_are_there(page)
    figure.locator(".pair").scroll_into_view_if_needed()
    stage = figure.locator(".pair").bounding_box()
    assert stage
    page.mouse.move(stage["x"] + 0.5 * stage["width"], stage["y"] + 20)
    page.mouse.down()
    page.mouse.move(stage["x"] + 0.2 * stage["width"], stage["y"] + 20, steps=4)
    page.mouse.up()
    line = figure.locator(".line").bounding_box()
    assert line
    assert line["x"] + 1 - stage["x"] == pytest.approx(0.2 * stage["width"], abs=4)
    handle.press("End")
    expect(handle).to_have_value("100")
    assert page.locator("figure").nth(0).evaluate(
        "figure => getComputedStyle(figure).getPropertyValue('--workbench-at')"
    ) in ("", "50%")


def test_a_link_leads_to_one_picture_and_to_all_of_it(page: Page, address: str) -> None:
    page.goto(address)
    page.get_by_role("link", name="3z both").click()
    expect(page.locator("figure:target h2")).to_have_text("3z both")
    page.locator("figure:target").get_by_role("link", name="Whole picture").click()
    page.wait_for_url("**/assets/3z-both-whole-*.png")


def test_a_film_with_a_gif_is_a_film_here_and_a_gif_in_a_post(page: Page, address: str) -> None:
    page.goto(address)
    figure = page.locator("figure").nth(3)
    figure.get_by_role("button", name="Play the film").click()
    film = figure.locator("video")
    expect(film).to_be_visible()
    assert not film.evaluate("film => film.muted")
    assert ".gif" in snippet(page, 3).input_value()


def test_settings_and_figures_open_on_demand(page: Page, address: str) -> None:
    page.goto(address)
    weight = page.get_by_role("row", name="style weight 300").first
    expect(weight).not_to_be_visible()
    page.get_by_text("Settings and figures").first.click()
    expect(weight).to_be_visible()
    expect(page.get_by_role("row", name="loss 1,234").first).to_be_visible()


def snippet(page: Page, number: int = 0) -> Locator:
    page.get_by_text("For your blog").nth(number).click()
    return page.locator("textarea").nth(number)


@pytest.mark.parametrize("number", range(5))
def test_snippet_works_in_a_post(
    browser: Browser, page: Page, root: Path, serve: Callable[[Path], str], number: int
) -> None:
    server = serve(root)
    page.goto(f"{server}blog/my%20site/")
    text = snippet(page, number).input_value()
    assert f'src="{server}blog/my%20site/assets/' in text
    (root / "post.html").write_text(
        f"<!doctype html><meta charset=utf-8><link rel=icon href=data:,>{text}"
    )
    dialogs = dialogs_of(page)
    page.goto(f"{server}post.html")
    image = page.locator("img")
    still = image.get_attribute("src")
    assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") == 320
    image.click()
    if number in (0, 3, 4):
        expect(image).to_have_js_property("src", page.locator("a").get_attribute("href"))
        image.click()
        expect(image).to_have_js_property("src", still)
    elif number == 1:
        page.wait_for_function("document.querySelector('video').currentTime > 0.1")
    assert page.url == f"{server}post.html"
    assert dialogs == []
    # Where a blog strips scripts, the link opens the animation.
    if number == 0:
        bare = browser.new_context(java_script_enabled=False).new_page()
        bare.goto(f"{server}post.html")
        bare.locator("img").click()
        bare.wait_for_url("**/assets/*.gif")
        bare.context.close()


def test_snippet_stays_relative_in_a_file(page: Page, root: Path) -> None:
    page.goto((root / "blog/my site/index.html").as_uri())
    assert snippet(page).input_value().startswith('<a href="assets/1-painting-')


def test_snippet_is_copied(page: Page, root: Path, serve: Callable[[Path], str]) -> None:
    address = serve(root) + "blog/my%20site/"
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(address)
    text = snippet(page).input_value()
    page.get_by_role("button", name="Copy").first.click()
    expect(page.get_by_role("status").filter(has_text="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == text


def test_names_are_text_and_nothing_else(page: Page, address: str) -> None:
    dialogs = dialogs_of(page)
    page.goto(address)
    expect(page.get_by_role("heading", level=1)).to_have_text(f"Paintings {EVIL}")
    expect(page.get_by_role("heading", level=2).last).to_contain_text("<script>alert(1)<")
    for summary in page.locator("summary").all():
        summary.click()
    page.locator(".swap").last.click()
    expect(page.locator(".swap").last.locator(".moving")).to_be_visible()
    assert page.locator("script").count() == 1
    assert page.locator("[onerror]").count() == 0
    assert dialogs == []


def background(page: Page) -> tuple[int, ...]:
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return tuple(map(int, colour.removeprefix("rgb(").removesuffix(")").split(",")))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nobody_is_shut_out(
    page: Page, address: str, scheme: Any, violations: Callable[[Page], list[str]]
) -> None:
    page.emulate_media(color_scheme=scheme)
    page.goto(address)
    for summary in page.locator("summary").all():
        summary.click()
    assert violations(page) == []


def test_dark_and_light(page: Page, address: str) -> None:
    page.goto(address)
    page.emulate_media(color_scheme="light")
    assert min(background(page)) > 230
    page.emulate_media(color_scheme="dark")
    assert max(background(page)) < 40


@pytest.mark.parametrize("width", [320, 360, 900, 1600])
def test_nothing_sticks_out(page: Page, address: str, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(address)
    for summary in page.locator("summary").all():
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    boxes = [image.bounding_box() for image in page.locator(".still").all()]
    assert all(box and box["x"] >= 0 and box["x"] + box["width"] <= width for box in boxes)
    ratios = [box["width"] / box["height"] for box in boxes if box]
    assert ratios == pytest.approx([4 / 3] * len(boxes), rel=0.02)  # never cropped or stretched


def test_without_scripts_the_animation_is_a_link(browser: Browser, root: Path) -> None:
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto((root / "blog/my site/index.html").as_uri())
    page.get_by_role("link", name="Open the GIF").first.click()
    page.wait_for_url("**/assets/*.gif")
    page.context.close()


def test_a_hundred_runs_show_up_before_three_megabytes(
    page: Page, tmp_path: Path, serve: Callable[[Path], str]
) -> None:
    paintings = [to_array(samples.style(name)) for name in samples.STYLES]
    generator = np.random.default_rng(0)
    gif = tmp_path / "progress.gif"
    save_gif(frames(), gif)
    for number in range(100):
        painting = paintings[number % len(paintings)]
        height, width = fit((int(generator.integers(2, 5)), int(generator.integers(2, 5))), 512)
        top, left = (
            int(generator.integers(0, whole - part + 1))
            for whole, part in zip(painting.shape, (height, width), strict=False)
        )
        folder = start_run(tmp_path / f"runs/{number}")
        outputs = {"picture": folder / "picture.jpg", "gif": folder / "progress.gif"}
        cut = painting[top : top + height, left : left + width]
        save_image(samples.from_array(cut[:, :: 1 - 2 * (number % 2)]), outputs["picture"])
        outputs["gif"].hardlink_to(gif)
        settings = {"content": "sample:astronaut", "style": f"sample:{samples.STYLES[number % 3]}"}
        finish_run(folder, outputs=outputs, figures={}, settings=settings, weights={}, seconds=1)
    made = build_gallery([tmp_path / "runs"], tmp_path / "site")
    assert len(made.exhibits) == 100

    loaded: list[Request] = []
    page.on("requestfinished", lambda request: loaded.append(request))
    page.goto(serve(tmp_path) + "site/", wait_until="networkidle")
    page.wait_for_timeout(500)
    sizes = [request.sizes() for request in loaded]
    total = sum(size["responseBodySize"] + size["responseHeadersSize"] for size in sizes)
    print(f"{total / 1e6:.2f} MB in {len(loaded)} files before any scroll")
    assert len(loaded) > 10
    assert total < 3e6
    everything = sum(path.stat().st_size for path in (tmp_path / "site").rglob("*.webp"))
    assert everything > 3e6  # what is not seen yet is not loaded
