"""The page of a batch as somebody reads it at breakfast."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from workbench.batch.page import write_report, write_run_page
from workbench.batch.plan import Plan
from workbench.batch.record import THUMBNAIL, Record, Run
from workbench.runs import Result

pytestmark = pytest.mark.slow

EVIL = """<script>alert(1)</script>"><img src=x onerror=alert(2)> ' & 100% #1? 絵"""
CLIPS = ("footage/day 1/interview-anna-take-3.mp4", "footage/day 1/harbour.mp4", "sample:clip")
STYLES = ("styles/hatching.jpg", "styles/swirls.png", f"styles/{EVIL.replace('/', '')}.png")
WEIGHTS = (30, 100.0, 300.0, 1000)
FAILURES = (
    "footage/day 1/harbour.mp4 is damaged or cut short; copy it anew, or leave it out.",
    "The notebook was stopped after 3 h, as `timeout` says; give it more time, or paint a"
    " smaller picture.",
    "The machine ran out of memory at 1920 x 1080 px, relu5_1, frame 731 of 2,160; set `size` to"
    " 1280 or less, or ask for fewer workers at a time.",
)


def make_plan(folder: Path, runs: list[Run], *varied: str, file: str = "reel.yaml") -> Plan:
    """A plan whose page goes to `folder / runs/reel`."""
    root = folder / "runs/reel"
    root.mkdir(parents=True, exist_ok=True)
    return Plan(
        file=folder / "experiments" / file,
        project=folder,
        notebook=folder / "notebooks/stylize_clip.ipynb",
        root=root,
        runs=tuple(runs),
        varied=varied,
        timeout=None,
    )


def make_run(root: Path, name: str, **parameters: Any) -> Run:
    return Run(name, root / name, parameters, {}, "0" * 64)


@cache
def painting(source: str) -> Image.Image:
    picture = Image.fromarray(getattr(skimage.data, source)()[..., :3])
    picture.thumbnail((320, 320))
    return picture.quantize(24).convert("RGB").convert("HSV")


def thumbnail(path: Path, source: str, angle: int) -> Path:
    """Something like a painting: few colours, turned in hue."""
    path.parent.mkdir(parents=True, exist_ok=True)
    hue, saturation, value = painting(source).split()
    hue = hue.point(lambda level: (level + angle) % 256)
    Image.merge("HSV", (hue, saturation, value)).convert("RGB").save(path, quality=80)
    return path


def make_batch(folder: Path, *, runs: int = 40) -> tuple[Plan, dict[str, Record]]:
    """A night's work: some failed, some still running, names of every kind."""
    root = folder / "runs/reel"
    generator = np.random.default_rng(0)
    pictures = ("astronaut", "coffee", "chelsea")
    plan, states = [], {}
    settings = itertools.product(CLIPS, STYLES, WEIGHTS, (False, True))
    for number, (clip, style, weight, masks) in enumerate(itertools.islice(settings, runs)):
        words = [Path(clip).stem.replace("sample:", ""), Path(style).stem, f"{weight:g}"]
        name = "/".join(["-".join(words).replace("/", ""), "masked" if masks else "plain"])
        parameters = {"clip": clip, "style": style, "style_weight": weight, "masks": masks}
        if number % 5 == 4:
            del parameters["style_weight"]
        run = make_run(root, f"{number:02} {name}"[:150], **parameters)
        plan.append(run)
        folder_of = run.output
        host = ("studio", "laptop.local")[number % 2]
        seconds = float(generator.uniform(20, 9000))
        told: dict[str, Any] = {"attempts": 1, "host": host, "notebook": "stylize_clip.ipynb"}
        if number > 35:
            states[run.name] = Record()
            continue
        if number in (7, 11, 12):
            folder_of = root / f".tmp-{number}"
            told |= {"kind": "failed", "sentence": FAILURES[(7, 11, 12).index(number)]}
            told |= {"attempts": 3, "seconds": seconds}
        elif number in (30, 31):
            folder_of = root / f".tmp-{number}"
            told |= {"kind": "running", "stage": f"cell 5 of 9, painting {number * 7}/480"}
        else:
            figures = {
                "frames": 480 + number,
                "warping_error": float(generator.uniform(0.001, 0.02)),
                "style_loss": float(generator.uniform(1e3, 9e6)),
            }
            told |= {"kind": "done", "seconds": seconds, "figures": figures, "shown": "film.jpg"}
            told["attempts"] += number == 3
            for name in (THUMBNAIL, "film.jpg"):
                thumbnail(run.output / name, pictures[number % 3], number * 29)
        if number == 20:
            told |= {"kind": "changed", "sentence": f"{clip} was changed while it was painted."}
        folder_of.mkdir(parents=True, exist_ok=True)
        (folder_of / "stylize_clip.ipynb").write_text("{}")
        states[run.name] = Record(folder=folder_of, **told)
    return make_plan(folder, plan, "clip", "style", "style_weight", "masks"), states


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    plan, states = make_batch(tmp_path_factory.mktemp("project"))
    write_report(plan, states)
    return plan


@pytest.fixture
def address(batch: Plan) -> str:
    return (batch.root / "index.html").as_uri()


def names(page: Page) -> list[str]:
    return page.locator("tbody tr:visible .name").all_inner_texts()


def cells(page: Page, head: str) -> list[str]:
    """The texts of a column."""
    heads = [text.strip() for text in page.locator("thead th").all_text_contents()]
    index = heads.index(head) + 1
    return page.locator(f"tbody tr:visible > :nth-child({index})").all_inner_texts()


def head(page: Page, name: str) -> Any:
    return page.get_by_role("columnheader", name=name, exact=True)


def test_what_went_wrong_comes_first(page: Page, address: str) -> None:
    page.goto(address)
    expect(page.get_by_role("status")).to_have_text("40 runs")
    kinds = ["failed"] * 3 + ["changed"] + ["running"] * 2 + ["done"] * 30 + ["waiting"] * 4
    assert cells(page, "state") == kinds
    expect(page.locator("tbody tr").nth(2)).to_contain_text("set `size` to 1280 or less")
    expect(head(page, "state")).to_have_attribute("aria-sort", "ascending")


def test_a_click_on_a_head_sorts_and_another_turns_it_round(page: Page, address: str) -> None:
    page.goto(address)
    head(page, "style loss, weighted").get_by_role("button").click()
    expect(head(page, "style loss, weighted")).to_have_attribute("aria-sort", "ascending")
    expect(page.locator("[aria-sort]")).to_have_count(1)
    losses = [float(text.replace(",", "")) for text in cells(page, "style loss, weighted")[:31]]
    assert losses == sorted(losses)
    assert cells(page, "style loss, weighted")[31:] == [""] * 9
    head(page, "style loss, weighted").get_by_role("button").click()
    expect(head(page, "style loss, weighted")).to_have_attribute("aria-sort", "descending")
    losses = [float(text.replace(",", "")) for text in cells(page, "style loss, weighted")[:31]]
    assert losses == sorted(losses, reverse=True)
    assert cells(page, "style loss, weighted")[31:] == [""] * 9  # what is missing stays last
    head(page, "style weight").get_by_role("button").click()
    weights = cells(page, "style weight")
    assert [text for text, _ in itertools.groupby(weights)] == [
        "30",
        "100",
        "300",
        "1000",
        "default",
    ]


def test_keys_do_all_of_it(page: Page, address: str) -> None:
    page.goto(address)
    for name, key in (("3 failed", "Enter"), ("All 40", "Space")):
        page.get_by_role("button", name=name).focus()
        page.keyboard.press(key)
        expect(page.get_by_role("button", name=name)).to_have_attribute("aria-pressed", "true")
    page.get_by_role("searchbox").focus()
    page.keyboard.type("HARBOUR masked")
    expect(page.get_by_role("status")).to_have_text("9 of 40 runs shown")
    page.keyboard.press("Enter")  # is no reason to leave the page
    button = head(page, "run").get_by_role("button")
    button.focus()
    assert button.evaluate("button => getComputedStyle(button).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    assert names(page) == sorted(names(page), reverse=True)
    expect(button).to_be_focused()


def test_filters_add_up_and_are_taken_back(page: Page, address: str) -> None:
    page.goto(address)
    shown = page.get_by_role("status")
    page.get_by_role("button", name="30 done").click()
    page.get_by_role("searchbox").fill("harbour default")
    assert set(cells(page, "state")) == {"done"}
    assert set(cells(page, "style weight")) == {"default"}
    expect(shown).to_have_text(f"{len(names(page))} of 40 runs shown")
    page.get_by_role("searchbox").fill("nothing is called this")
    expect(page.get_by_text("No run is like that.")).to_be_visible()
    expect(shown).to_have_text("0 of 40 runs shown")
    page.get_by_role("searchbox").fill("")
    page.get_by_role("button", name="All 40").click()
    expect(shown).to_have_text("40 runs")
    expect(page.get_by_text("No run is like that.")).to_be_hidden()
    # Failures are found by what is said of them.
    page.get_by_role("searchbox").fill("out of memory")
    expect(shown).to_have_text("1 of 40 runs shown")


def test_pictures_are_there_and_open_what_was_made(page: Page, address: str) -> None:
    page.goto(address)
    for image in page.locator("tbody img").all():
        image.scroll_into_view_if_needed()
        assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    page.locator("tbody img").last.click()
    page.wait_for_url("**/film.jpg")


def test_nothing_jumps_when_pictures_come(page: Page, address: str) -> None:
    page.route("**/*.webp", lambda route: route.fulfill(body=b""))
    boxes = "[...document.querySelectorAll('tbody tr')].map(row => row.offsetTop)"
    page.goto(address)
    before = page.evaluate(boxes)
    page.unroute("**/*.webp")
    page.reload()
    page.locator("tbody img").first.evaluate("image => image.decode()")
    assert page.evaluate(boxes) == before


def test_names_are_text_and_nothing_else(page: Page, address: str) -> None:
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    page.goto(address)
    page.get_by_role("searchbox").fill("<script> &")
    assert set(cells(page, "style")) == {STYLES[2]}
    assert page.locator("[onerror]").count() == 0
    page.locator("tbody .picture").first.click()
    page.wait_for_url("**/film.jpg")
    assert dialogs == []


@pytest.mark.parametrize("width", [320, 360, 900, 1600])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_never_scrolls_sideways(page: Page, address: str, width: int, scheme: Any) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(address)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    levels = [int(level) for level in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    assert min(levels) > 230 if scheme == "light" else max(levels) < 40
    # All columns can be reached, if need be in a box that scrolls.
    last = page.locator("tbody tr:has(img) td:not(:empty)").last
    last.scroll_into_view_if_needed()
    expect(last).to_be_in_viewport()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nobody_is_shut_out(
    page: Page, address: str, batch: Plan, scheme: Any, violations: Callable[[Page], list[str]]
) -> None:
    page.emulate_media(color_scheme=scheme)
    page.goto(address)
    assert violations(page) == []
    run = next(run for run in batch.runs if (run.output / "film.jpg").exists())
    outputs = {"picture": "film.jpg", "content": THUMBNAIL}
    settings = {"style_weight": 300.0}
    write_run_page(batch, run, run.output, Result(outputs, {"loss": 1.0}, settings, {}, {}, 3.0))
    page.goto((run.output / "index.html").as_uri())
    expect(page.get_by_role("heading", level=1)).to_have_text(run.name)
    assert violations(page) == []
    page.set_viewport_size({"width": 360, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.get_by_role("link", name=batch.file.stem).first.click()
    expect(page.get_by_role("status")).to_have_text("40 runs")


def test_heads_stay_in_sight(page: Page, address: str) -> None:
    for width in (900, 1600):
        page.set_viewport_size({"width": width, "height": 800})
        page.goto(address)
        page.locator("tbody tr").last.scroll_into_view_if_needed()
        expect(head(page, "run")).to_be_in_viewport()


def test_without_scripts_every_run_is_there(browser: Browser, tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "runs/reel", f"run {n}", seed=n) for n in range(250)]
    plan = make_plan(tmp_path, runs, "seed")
    write_report(plan, {run.name: Record("waiting") for run in runs})
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto((plan.root / "index.html").as_uri())
    expect(page.get_by_text("run 249")).to_be_visible()
    expect(page.get_by_role("searchbox")).to_be_hidden()
    page.context.close()


def test_ten_thousand_runs_are_found_at_once(page: Page, tmp_path: Path) -> None:
    root = tmp_path / "runs/reel"
    thumbnail(root / THUMBNAIL, "coffee", 0)
    runs, states = [], {}
    for n in range(10_000):
        run = make_run(root, f"clip-{n % 500}-{n // 500}", clip=f"{n % 500}.mp4", seed=n)
        figures = {"loss": float(n * 7919 % 10_007), "frames": n}
        states[run.name] = Record("done", seconds=float(n), figures=figures, folder=root)
        runs.append(run)
    plan = make_plan(tmp_path, runs, "clip", "seed")
    write_report(plan, states)
    began = time.monotonic()
    page.goto((plan.root / "index.html").as_uri())
    expect(page.get_by_role("status")).to_have_text("10,000 runs")
    print(f"a page of 10,000 runs opens in {time.monotonic() - began:.1f} s")
    assert time.monotonic() - began < 15  # a fourth of it on a quiet machine
    took = page.get_by_role("searchbox").evaluate(
        """async (words) => {
          const start = performance.now();
          words.value = "clip-499-19 ";
          words.dispatchEvent(new Event("input"));
          await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
          return performance.now() - start;
        }"""
    )
    assert names(page) == ["clip-499-19"]
    print(f"a filter over 10,000 runs takes {took:.0f} ms")
    assert took < 3000  # a tenth of it on a quiet machine
    page.get_by_role("searchbox").fill("")
    head(page, "seed").get_by_role("button").click()
    head(page, "seed").get_by_role("button").click()
    seeds = page.locator("tbody tr > :nth-child(4)")
    assert [seeds.nth(number).inner_text() for number in range(2)] == ["9999", "9998"]
