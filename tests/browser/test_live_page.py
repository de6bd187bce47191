"""The page that paints the camera, as a visitor sees it."""

from __future__ import annotations

import base64
import io
import re
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from workbench.fast.live import build_page
from workbench.fast.models import StyleModel, save_network
from workbench.fast.network import SOURCE, TransformationNetwork
from workbench.images import Frame, from_array, to_array
from workbench.samples import find_clip

pytestmark = pytest.mark.slow

PAINTED = {"timeout": 60_000}  # what it may take until the first picture on a busy machine


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page in a folder of somebody's site, with a model that knows strengths, and one of two."""
    root = tmp_path_factory.mktemp("root")
    torch.manual_seed(0)
    names = []
    for name, sets in (("ink", (SOURCE, "ink")), ("two", ("oil", "chalk"))):
        network = TransformationNetwork(0.25, sets).requires_grad_(False)
        network.paint.weight.mul_(20)
        for layer in (*network.head, *network.residual, *network.tail):
            layer.scale.copy_(torch.rand_like(layer.scale))
        names.append(str(root / f"{name}.safetensors"))
        save_network(network, Path(names[-1]))
    return build_page(names, root / "my site" / "live", title="Ink").parent


@pytest.fixture(scope="module")
def site(folder: Path) -> Iterator[str]:
    """Address of that page."""
    handler = partial(Quiet, directory=str(folder.parents[1]))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}/my%20site/live/"
        server.shutdown()


def pixels(page: Page, which: str) -> Frame:
    """What a canvas shows."""
    uri = page.locator(f"canvas.{which}").evaluate("canvas => canvas.toDataURL()")
    data = base64.b64decode(uri.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def until(page: Page, holds: Callable[[], bool]) -> None:
    for _ in range(300):
        if holds():
            return
        page.wait_for_timeout(100)
    raise AssertionError("it does not come to hold")


def far(page: Page) -> float:
    """How far the painting is from what it was painted from, of 255."""
    return float(np.abs(pixels(page, "first").astype(float) - pixels(page, "second")).mean())


def png(width: int, height: int) -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


def test_the_camera_is_painted_and_nothing_is_asked_of_any_other_host(
    page: Page, site: str
) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.context.grant_permissions(["camera"])
    page.goto(site)
    rate = page.locator("#rate")
    expect(rate).to_have_text("512 × 512 px, painted with WebAssembly", **PAINTED)
    assert far(page) > 10
    page.get_by_role("button", name="Camera").click()
    expect(rate).to_contain_text("frames a second, 320 × 240 px", **PAINTED)
    expect(page.get_by_role("button", name="Camera")).to_have_attribute("aria-pressed", "true")
    seen = []
    for _ in range(3):
        seen.append(pixels(page, "first"))
        assert pixels(page, "second").mean() > 20
        assert far(page) > 10
        page.wait_for_timeout(400)
    assert not np.array_equal(seen[0], seen[2])  # it moves
    page.get_by_role("button", name="Camera").click()
    expect(rate).to_have_text("512 × 512 px, painted with WebAssembly", **PAINTED)
    hosts = {urlsplit(url).netloc for url in asked if not url.startswith(("data:", "blob:"))}
    assert hosts == {urlsplit(site).netloc}
    assert not [url for url in asked if "/live/" not in url and url.startswith("http")]


def test_strength_counts_and_styles_are_chosen(page: Page, site: str) -> None:
    page.goto(site)
    expect(page.locator("#rate")).to_contain_text("512 × 512 px", **PAINTED)
    strength = page.get_by_role("slider", name="Strength")
    whole = far(page)
    strength.fill("50")
    until(page, lambda: 1 < far(page) < 0.95 * whole)
    strength.fill("0")
    until(page, lambda: far(page) < 0.6)  # the picture itself, but for rounding
    expect(page.get_by_text("0%", exact=True)).to_be_visible()
    oil, chalk = (page.get_by_role("button", name=name) for name in ("oil", "chalk"))
    oil.click()
    expect(oil).to_have_attribute("aria-pressed", "true")
    expect(strength).to_be_hidden()
    until(page, lambda: far(page) > 5)
    painted = pixels(page, "second").astype(float)
    chalk.click()
    until(page, lambda: float(np.abs(painted - pixels(page, "second")).mean()) > 1)


def test_styles_of_one_model_are_blended_as_their_sliders_say(
    page: Page, site: str, folder: Path
) -> None:
    page.goto(site)
    expect(page.locator("#rate")).to_contain_text("512 × 512 px", **PAINTED)
    expect(page.get_by_role("slider", name=re.compile("^Share of"))).to_have_count(2)
    oil, chalk = (page.get_by_role("slider", name=f"Share of {name}") for name in ("oil", "chalk"))
    model = StyleModel.load(folder.parents[1] / "two.safetensors", precision="float32")
    source = from_array(pixels(page, "first"))
    alone = [to_array(model.mixed(1.0, shares)(source)) for shares in ((1, 0), (3, 1))]
    assert np.abs(alone[0].astype(float) - alone[1]).mean() > 3

    def like(shares: tuple[float, float]) -> bool:
        wanted = to_array(model.mixed(1.0, shares)(source)).astype(float)
        return float(np.abs(wanted - pixels(page, "second")).mean()) < 0.6

    def pressed() -> list[str]:
        return page.locator("[aria-pressed=true] >> visible=true").all_inner_texts()

    chalk.fill("30")  # of another model than what is painted
    until(page, lambda: like((0, 1)))
    assert pressed() == ["chalk"]
    oil.fill("90")
    until(page, lambda: like((3, 1)))
    assert pressed() == ["oil", "chalk"]
    chalk.fill("0")
    until(page, lambda: like((1, 0)))
    oil.fill("0")  # there must be one
    expect(oil).to_have_value("1")
    page.get_by_role("button", name="chalk").click()
    until(page, lambda: like((0, 1)))
    assert pressed() == ["chalk"]
    assert (oil.input_value(), chalk.input_value()) == ("0", "100")


def test_without_a_camera_pictures_and_films_are_painted(page: Page, site: str) -> None:
    page.goto(site)
    page.get_by_role("button", name="Camera").click()  # which nobody has allowed
    said = page.locator("#problem")
    expect(said).to_contain_text("The camera is not allowed for this page")
    expect(said).to_contain_text("Pictures and films can be painted without it.")
    page.evaluate(
        """() => { navigator.mediaDevices.getUserMedia =
          () => Promise.reject(new DOMException("none", "NotFoundError")); }"""
    )
    page.get_by_role("button", name="Camera").click()
    expect(said).to_contain_text("No camera is to be found.")

    page.evaluate(
        """bytes => {
          const files = new DataTransfer();
          files.items.add(new File([new Uint8Array(bytes)], "photo.png", { type: "image/png" }));
          document.dispatchEvent(new DragEvent("drop", { dataTransfer: files, bubbles: true }));
        }""",
        list(png(201, 130)),
    )
    rate = page.locator("#rate")
    expect(rate).to_contain_text("201 × 130 px", **PAINTED)
    expect(said).to_be_empty()
    assert far(page) > 10
    with page.expect_download() as download:
        page.get_by_role("button", name="Save the picture").click()
    assert download.value.suggested_filename == "painted.png"
    saved = np.asarray(Image.open(download.value.path()).convert("RGB"))
    assert np.array_equal(saved, pixels(page, "second"))

    page.set_input_files("#file", {"name": "x.png", "mimeType": "image/png", "buffer": b"none"})
    expect(said).to_contain_text("x.png cannot be read by this browser: take a JPEG")
    page.set_input_files("#file", str(find_clip("sample:clip")))
    expect(rate).to_contain_text("frames a second, 320 × 240 px", **PAINTED)
    record = page.get_by_role("button", name="Record a film")
    record.click()
    page.wait_for_timeout(1500)
    with page.expect_download() as download:
        page.get_by_role("button", name="Stop, and save the film").click()
    assert Path(download.value.path()).stat().st_size > 1000


def test_the_page_is_for_everybody(
    browser: Browser, site: str, violations: Callable[..., list[str]]
) -> None:
    for width, scheme in ((320, "dark"), (1280, "light")):
        context = browser.new_context(viewport={"width": width, "height": 700}, color_scheme=scheme)
        page = context.new_page()
        page.goto(site)
        expect(page.locator("#rate")).to_contain_text(" px", **PAINTED)
        assert violations(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        context.close()


def test_a_folder_that_lacks_a_file_says_which(browser: Browser, site: str) -> None:
    page = browser.new_page()
    page.route("**/*.onnx", lambda route: route.fulfill(status=404))
    page.goto(site)
    expect(page.locator("#problem")).to_contain_text(
        "Nothing can be painted: models/ink-", **PAINTED
    )
    expect(page.locator("#problem")).to_contain_text("could not be loaded (404)")
    page.close()


def test_opened_as_a_file_it_says_what_to_do(page: Page, folder: Path) -> None:
    page.goto((folder / "index.html").as_uri())
    expect(page.locator("#problem")).to_contain_text("`python -m http.server`")
