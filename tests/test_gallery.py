from __future__ import annotations

import html
import json
import os
import re
import shutil
import sys
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
import yaml
from PIL import Image

from workbench import cli
from workbench.errors import InputError, OutputError
from workbench.gallery import GENERATOR, Gallery, build_gallery, find_runs
from workbench.runs import RESULT, finish_run, start_run
from workbench.sheets import save_gif
from workbench.video.clips import save_mp4

EVIL = """<script>alert(1)</script> "quoted" 'single' & 100% #1? ünï côdé 絵"""


def noise(width: int = 48, height: int = 32, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.integers(0, 255, (height, width, 3), dtype=np.uint8)


def save(pixels: np.ndarray, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def make_run(folder: Path, *files: str, names: Mapping[str, str] = {}, **settings: Any) -> Path:
    """A finished run with files of such names; output names are their stems, unless given."""
    start_run(folder)
    frames = [noise(seed=seed) for seed in range(3)]
    outputs = {}
    for file in files:
        path = folder / file
        if path.suffix == ".gif":
            save_gif(frames, path)
        elif path.suffix == ".mp4":
            save_mp4(frames, path)
        elif path.suffix == ".csv":
            path.write_text("a,b\n")
        else:
            save(frames[-1], path)
        outputs[names.get(file, path.stem)] = path
    figures = {"loss": 123456.789, "steps": 12}
    weights = {"name": "vgg16", "sha256": "0" * 64}
    finish_run(
        folder, outputs=outputs, figures=figures, settings=settings, weights=weights, seconds=83.2
    )
    return folder


GIF_RUN = {"progress.gif": "gif", "progress.mp4": "mp4"}


def build(*folders: Path, site: Path, **options: Any) -> Gallery:
    return build_gallery(folders, site, **options)


def shape(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


class Elements(HTMLParser):
    """Every element of a page with its attributes, and the texts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def attributes(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def read(gallery: Gallery) -> Elements:
    assert gallery.page is not None
    return Elements(gallery.page.read_text("utf-8"))


# --- which runs --------------------------------------------------------------------------


def test_runs_are_found_at_any_depth_and_once(tmp_path: Path) -> None:
    for name in ("b/deep/run", "b", "a", ".hidden/run", "a/.hidden", "site/assets/run"):
        make_run(tmp_path / name, "picture.png")
    make_run(tmp_path, "picture.png")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    runs, problems = find_runs([tmp_path, tmp_path / "b"], leave_out=tmp_path / "site")
    assert [folder for folder, _ in runs] == [
        tmp_path,
        tmp_path / "a",
        tmp_path / "b",
        tmp_path / "b/deep/run",
    ]
    assert problems == []


def test_titles_tell_runs_apart(tmp_path: Path) -> None:
    for name in ("tuned/001", "x/one/film", "y/one/film", "y/two/film", "y/portrait"):
        make_run(tmp_path / name, "picture.png")
    gallery = build(tmp_path, site=tmp_path / "site")
    titles = [exhibit.title for exhibit in gallery.exhibits]
    others = ["x / one / film", "y / one / film", "portrait", "two / film"]
    assert titles == ["tuned / 001", *others]


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("nowhere", "nowhere: there is no such folder"),
        ("file.txt", "file.txt is a file; name the folder of a run"),
        ("empty", "empty: there is no finished run in here .*workbench demo"),
        ("site", "site is where the page goes"),
        ("site/assets", "assets is where the page goes"),
    ],
)
def test_folders_without_runs_are_named(tmp_path: Path, place: str, sentence: str) -> None:
    (tmp_path / "file.txt").touch()
    (tmp_path / "empty/.hidden").mkdir(parents=True)
    (tmp_path / "site/assets").mkdir(parents=True)
    with pytest.raises(InputError, match=sentence):
        build(tmp_path / place, site=tmp_path / "site")
    assert not list(tmp_path.rglob("index.html"))


def spoil(folder: Path, **changes: Any) -> None:
    result = json.loads((folder / RESULT).read_text())
    (folder / RESULT).write_text(json.dumps({**result, **changes}))


def test_what_cannot_be_shown_is_left_out_with_a_sentence_each(tmp_path: Path) -> None:
    make_run(tmp_path / "good", "picture.png")
    save(noise(), tmp_path / "secret.png")
    for name in ("cut", "foreign", "list", "outside", "absolute", "gone", "damaged", "new\nline"):
        make_run(tmp_path / "bad" / name, "picture.png")
    make_run(tmp_path / "bad/table", "table.csv")
    make_run(tmp_path / "bad/empty gif", "picture.png", "progress.gif")
    bad = tmp_path / "bad"
    (bad / "cut" / RESULT).write_text('{"outputs": {"pic')
    (bad / "foreign" / RESULT).write_text('{"passed": 3, "failed": 0}')
    (bad / "list" / RESULT).write_text("[1, 2]")
    spoil(bad / "outside", outputs={"picture": "../../secret.png"})
    spoil(bad / "absolute", outputs={"picture": str(tmp_path / "secret.png")})
    (bad / "gone/picture.png").unlink()
    (bad / "damaged/picture.png").write_bytes((bad / "damaged/picture.png").read_bytes()[:200])
    (bad / "new\nline/picture.png").write_text("no picture")
    (bad / "empty gif/progress.gif").write_bytes(b"")
    gallery = build(tmp_path, site=tmp_path / "site")
    assert [exhibit.title for exhibit in gallery.exhibits] == ["good"]
    expected = {
        "cut": "is damaged, or was not written by the workbench",
        "foreign": "is damaged, or was not written by the workbench",
        "list": "is damaged, or was not written by the workbench",
        "outside": "'picture' lies outside of the run's folder",
        "absolute": "'picture' lies outside of the run's folder",
        "gone": "is gone; run it again",
        "damaged": "picture.png is damaged or cut short",
        "new line": "picture.png is not a picture that can be read",
        "table": "it has neither a picture nor a GIF or MP4",
        "empty gif": "progress.gif is empty",
    }
    assert len(gallery.problems) == len(expected)
    for name, reason in expected.items():
        (problem,) = (each for each in gallery.problems if each.startswith(f"{bad / name}: "))
        assert "left out, because" in problem
        assert reason in problem
        assert "\n" not in problem
    assert len(list((tmp_path / "site/assets").glob("*.webp"))) == 1


def test_a_result_that_is_nested_hundreds_deep_stops_nothing(tmp_path: Path) -> None:
    make_run(tmp_path / "good", "picture.png")
    for depth in (300, 900, 20_000, 200_000):
        nested = json.loads((make_run(tmp_path / str(depth), "picture.png") / RESULT).read_text())
        text = json.dumps({**nested, "settings": {"note": "HERE"}})
        (tmp_path / str(depth) / RESULT).write_text(
            text.replace('"HERE"', "[" * depth + "]" * depth)
        )
    gallery = build(tmp_path, site=tmp_path / "site")
    assert "good" in [exhibit.title for exhibit in gallery.exhibits]
    shown = len(gallery.exhibits) - 1
    assert len(gallery.problems) == 4 - shown
    reason = r"result\.json is (nested too deeply|damaged, .*)\.$"
    for problem in gallery.problems:
        assert re.search(f"left out, because .*{reason}", problem)


def test_the_command_for_a_first_run_is_quoted(tmp_path: Path) -> None:
    (tmp_path / "my runs").mkdir()
    with pytest.raises(InputError, match=r"`workbench demo -o '.*/my runs/demo'` makes one"):
        build(tmp_path / "my runs", site=tmp_path / "site")


def test_folder_that_may_not_be_read_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "good", "picture.png")
    make_run(tmp_path / "closed", "picture.png")
    scandir = os.scandir

    def guarded(path: str) -> object:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    gallery = build(tmp_path, site=tmp_path / "site")
    assert [exhibit.title for exhibit in gallery.exhibits] == ["good"]
    assert gallery.problems == (
        f"{tmp_path / 'closed'}: left out, because it cannot be read: permission denied.",
    )


def test_nothing_is_written_when_nothing_can_be_shown(tmp_path: Path) -> None:
    make_run(tmp_path / "run", "table.csv")
    gallery = build(tmp_path, site=tmp_path / "site")
    assert gallery.page is None
    assert len(gallery.problems) == 1
    assert not (tmp_path / "site/index.html").exists()


# --- which files -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "names", "still", "animation"),
    [
        (["strip.png", "picture.png", "a.gif", "progress.gif"], GIF_RUN, "picture", "progress.gif"),
        (["b.jpg", "a.png", "moment.mp4", "z.gif", "y.gif"], {}, None, "moment.mp4"),
        (["x.mp4", "film.mp4", "moment.gif"], {}, None, "film.mp4"),
        (["x.mp4", "a.mp4", "m.gif"], {"a.mp4": "comparison_mp4"}, None, "a.mp4"),
        (["film.mp4", "other.mp4"], {"other.mp4": "mp4"}, None, "other.mp4"),
        (["table.csv", "sheet.webp", "flip.gif"], {"flip.gif": "gif"}, "sheet", "flip.gif"),
        (["moment.gif"], {}, None, "moment.gif"),
        (["picture.png"], {}, "picture", None),
        (["content.png", "style.png", "style 2.png", "a.bmp"], {}, "a", None),
    ],
)
def test_still_and_animation_are_chosen(
    tmp_path: Path,
    files: list[str],
    names: dict[str, str],
    still: str | None,
    animation: str | None,
) -> None:
    run = make_run(tmp_path / "run", *files, names=names)
    if still:
        (shown,) = run.glob(f"{still}.*")
        save(noise(60, 30, seed=9), shown)  # of twice the width of its height
    (exhibit,) = build(run, site=tmp_path / "site").exhibits
    assert (exhibit.still.width, exhibit.still.height) == ((60, 30) if still else (48, 32))
    if animation is None:
        assert exhibit.animation is None
    else:
        assert exhibit.animation is not None
        copied = tmp_path / "site" / exhibit.animation.address
        assert copied.read_bytes() == (run / animation).read_bytes()
        assert exhibit.animation.bytes == copied.stat().st_size
        assert exhibit.for_posts is not None
        gifs = [file for file in files if file.endswith(".gif")]
        assert exhibit.for_posts.address.endswith(".gif" if gifs else ".mp4")


def test_film_strip_is_no_still_for_a_film(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "strip.png", "film.mp4")
    save(noise(300, 32), run / "strip.png")
    (exhibit,) = build(run, site=tmp_path / "site").exhibits
    assert (exhibit.still.width, exhibit.still.height) == (48, 32)


def test_a_film_that_begins_with_a_title_is_shown_in_its_middle(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "film.mp4")
    title, red = (np.full((32, 48, 3), pixel, np.uint8) for pixel in (0, (200, 30, 30)))
    save_mp4([title] * 9 + [red] * 11, run / "film.mp4")
    (exhibit,) = build(run, site=tmp_path / "site").exhibits
    with Image.open(tmp_path / "site" / exhibit.still.address) as still:
        assert np.abs(np.asarray(still.convert("RGB")) - np.array([200.0, 30, 30])).max() < 12


def test_a_gif_that_begins_with_noise_is_shown_as_it_ends(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "strip.png", "texture.gif")
    save(noise(300, 32), run / "strip.png")  # of another shape
    save_gif([noise(), np.full((32, 48, 3), (200, 30, 30), np.uint8)], run / "texture.gif")
    (exhibit,) = build(run, site=tmp_path / "site").exhibits
    with Image.open(tmp_path / "site" / exhibit.still.address) as still:
        assert np.abs(np.asarray(still.convert("RGB")) - np.array([200.0, 30, 30])).max() < 12
    save_gif([noise(), noise(seed=1), noise(seed=2)], run / "texture.gif")
    whole = (run / "texture.gif").read_bytes()
    (run / "texture.gif").write_bytes(whole[: -len(whole) // 6])  # its first frame is there
    assert build(run, site=tmp_path / "site").exhibits


@pytest.mark.parametrize(
    ("file", "alt"),
    [
        ("picture.png", "photo.jpg painted in the style of sketch.png"),
        ("film.mp4", "photo.jpg painted in the style of sketch.png"),
        ("sheet.png", "12 pictures of photo.jpg, painted in the style of sketch.png"),
        ("texture_relu1_1.png", "run: texture relu1_1"),
    ],
)
def test_a_caption_claims_no_painting_that_there_is_not(
    tmp_path: Path, file: str, alt: str
) -> None:
    run = make_run(tmp_path / "run", file, content="photo.jpg", style="sketch.png")
    spoil(run, figures={"pictures": 12})
    (exhibit,) = build(run, site=tmp_path / "site").exhibits
    assert exhibit.still.alt == alt


@pytest.mark.parametrize(("answers", "judged"), [(1, "1 answer"), (12, "12 answers")])
def test_a_judging_is_named_by_what_was_judged(tmp_path: Path, answers: int, judged: str) -> None:
    run = make_run(tmp_path / "run", "sheet.png")
    pictures = {"contents": ["sample:astronaut", "b/cat.png"], "styles": ["sample:swirls", "x.png"]}
    spoil(run, settings=pictures, figures={"pictures": 8, "answers": answers})
    (exhibit,) = build(run, site=tmp_path / "site").exhibits
    assert exhibit.still.alt == (
        f"8 pictures of astronaut and cat.png, judged by {judged},"
        " painted in the style of swirls and x.png"
    )
    assert exhibit.content is not None
    assert exhibit.content.alt == "astronaut"


def test_inputs_are_no_stills(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "inputs.png", "photograph.png", "sheet.png")
    save(noise(20, 20), run / "sheet.png")
    save(noise(30, 20), run / "photograph.png")
    (exhibit,) = build(run, site=tmp_path / "site").exhibits
    assert (exhibit.still.width, exhibit.still.height) == (20, 20)
    assert exhibit.content is not None
    assert (exhibit.content.width, exhibit.content.height) == (30, 20)


def test_still_is_shrunk_and_says_its_size(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "picture.png")
    save(noise(900, 1200), run / "picture.png")
    gallery = build(run, site=tmp_path / "site")
    still = gallery.exhibits[0].still
    assert (still.width, still.height) == (480, 640)
    assert shape(tmp_path / "site" / still.address) == (480, 640)
    (image,) = read(gallery).attributes("img")
    assert (image["width"], image["height"], image["loading"]) == ("480", "640", "lazy")


def test_what_went_in_is_shown_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(noise(400, 200), tmp_path / "photo.jpg")
    save(noise(100, 400), tmp_path / "runs/run/near.png")
    monkeypatch.chdir(tmp_path)
    run = make_run(
        tmp_path / "runs/run",
        "picture.png",
        content="photo.jpg",
        style=["near.png", "sample:mosaic", "gone.png"],
        crop=[0.5, 0, 1, 1],
    )
    gallery = build(run, site=tmp_path / "site")
    (exhibit,) = gallery.exhibits
    assert exhibit.content is not None
    assert (exhibit.content.width, exhibit.content.height) == (160, 160)
    assert [style.alt for style in exhibit.styles] == ["near.png", "mosaic"]
    assert exhibit.styles[0].height == 160
    sentence = "photo.jpg painted in the style of near.png, mosaic and gone.png"
    assert exhibit.still.alt == sentence
    alts = [image["alt"] for image in read(gallery).attributes("img")]
    assert alts == [sentence, "Content: photo.jpg", "Style: near.png", "Style: mosaic"]


def test_outputs_that_show_what_went_in_come_first(tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "run", "picture.png", "content.png", "style.png", content="gone.jpg", style=3
    )
    save(noise(20, 30), run / "content.png")
    (exhibit,) = build(run, site=tmp_path / "site").exhibits
    assert exhibit.content is not None
    assert (exhibit.content.width, exhibit.content.height) == (20, 30)
    assert len(exhibit.styles) == 1
    assert exhibit.still.alt == "gone.jpg, painted"


@pytest.mark.parametrize("crop", [[], None, "left", [0, 0, 1], [0.9, 0, 0.1, 1], [[0], 0, 1, 1]])
def test_crop_that_makes_no_sense_is_no_obstacle(tmp_path: Path, crop: object) -> None:
    photo = save(noise(), tmp_path / "photo.png")
    run = make_run(tmp_path / "run", "picture.png", content=str(photo), crop=crop)
    assert len(build(run, site=tmp_path / "site").exhibits) == 1


def test_a_picture_that_many_runs_share_is_written_once(tmp_path: Path) -> None:
    photo = save(noise(), tmp_path / "photo.png")
    for number in range(3):
        make_run(tmp_path / f"runs/{number}", "picture.png", content=str(photo))
    build(tmp_path / "runs", site=tmp_path / "site")
    assert len(list((tmp_path / "site/assets").glob("photo-*.webp"))) == 1


# --- the page ----------------------------------------------------------------------------


def test_settings_and_figures_worth_reading(tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "run",
        "picture.png",
        style_weight=100.0,
        tv_weight=0.001,
        crop=[],
        steps=[60, 120],
        init="/home/someone/private/start.png",
        pooling="l2",
    )
    gallery = build(run, site=tmp_path / "site")
    (exhibit,) = gallery.exhibits
    assert dict(exhibit.settings) == {
        "style weight": "100",
        "steps": "60, 120",
        "init": "start.png",
        "pooling": "l2",
    }
    assert dict(exhibit.figures) == {
        "loss": "123,457",
        "steps": "12",
        "time": "1 min 23 s",
        "network": "vgg16",
    }
    assert "private" not in gallery.page.read_text()  # type: ignore[union-attr]


def addresses(elements: Elements) -> list[str]:
    return [
        value
        for _, attributes in elements.elements
        for name, value in attributes.items()
        if name in ("href", "src", "data-animation", "poster") and not value.startswith("#")
    ]


def test_what_its_maker_says_of_a_run(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        make_run(tmp_path / "runs" / name, "picture.png", content="photo.jpg")
    (tmp_path / "runs/a/gallery.yaml").write_text("title: Evening & <night>\ncaption: By the sea")
    (tmp_path / "runs/b/gallery.yaml").write_text("show: false")
    (tmp_path / "runs/c/gallery.yaml").write_text("")
    (tmp_path / "runs/d/gallery.yaml").write_text("titel: Oops")
    gallery = build(tmp_path / "runs", site=tmp_path / "site")
    assert [(each.title, each.caption) for each in gallery.exhibits] == [
        ("Evening & <night>", "By the sea"),
        ("c", ""),
    ]
    (problem,) = gallery.problems
    assert problem.endswith(
        "d: left out, because gallery.yaml: give title: TEXT, caption: TEXT, show: false, or some"
        " of them."
    )
    texts = read(gallery).texts
    assert {"Evening & <night>", "By the sea"} <= set(texts)


def test_parts_of_a_comparison_are_left_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs/modes", "per-frame/film.mp4", "comparison.mp4")
    for folder in (run / "per-frame", run / "another"):
        make_run(folder, "film.mp4")
    gallery = build(tmp_path / "runs", site=tmp_path / "site")
    assert [each.title for each in gallery.exhibits] == ["modes", "another"]


def test_each_picture_has_a_link_its_settings_and_its_whole(tmp_path: Path) -> None:
    settings = {"content": "/home/someone/photo.jpg", "style_weight": 3.0, "masks": ["/x/m.png"]}
    make_run(tmp_path / "runs/one", "picture.png", output_dir="/home/someone/runs", **settings)
    save(noise(900, 600), tmp_path / "runs/one/picture.png")
    gallery = build(tmp_path / "runs", site=tmp_path / "site")
    (exhibit,) = gallery.exhibits
    elements = read(gallery)
    (figure,) = elements.attributes("figure")
    links = [link["href"] for link in elements.attributes("a")]
    assert links == [f"#{figure['id']}", exhibit.whole.address, exhibit.settings_file]  # type: ignore[union-attr]
    assert shape(tmp_path / "site" / links[1]) == (900, 600)
    told = yaml.safe_load((tmp_path / "site" / links[2]).read_text())
    assert told == {"content": "photo.jpg", "style_weight": 3.0, "masks": ["m.png"]}


@pytest.mark.parametrize(("size", "compared"), [((96, 64), True), ((64, 96), False)])
def test_a_painting_lies_over_what_it_was_painted_from(
    tmp_path: Path, size: tuple[int, int], compared: bool
) -> None:
    photo = save(noise(*size), tmp_path / "photo.png")
    run = make_run(tmp_path / "run", "picture.png", content=str(photo))
    gallery = build(run, site=tmp_path / "site")
    (exhibit,) = gallery.exhibits
    assert (exhibit.before is not None) == compared
    handles = [each for each in read(gallery).attributes("input") if each["type"] == "range"]
    assert len(handles) == compared


def test_an_address_makes_links_whole_and_gives_posts_a_picture(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "picture.png", "progress.gif")
    gallery = build(run, site=tmp_path / "site", title="Art", url="https://me.example/art")
    (exhibit,) = gallery.exhibits
    elements = read(gallery)
    told = {each.get("property"): each.get("content") for each in elements.attributes("meta")}
    assert told["og:image"] == f"https://me.example/art/{exhibit.still.address}"
    assert (told["og:title"], told["og:url"]) == ("Art", "https://me.example/art/")
    (snippet,) = re.findall(r"<textarea[^>]*>(.*?)</textarea>", gallery.page.read_text(), re.DOTALL)  # type: ignore[union-attr]
    pasted = Elements(html.unescape(snippet))
    assert pasted.attributes("a")[0]["href"].startswith("https://me.example/art/assets/")
    assert pasted.attributes("img")[0]["src"].startswith("https://me.example/art/assets/")
    with pytest.raises(InputError, match=r"^url = 'me.example': give the whole address"):
        build(run, site=tmp_path / "site", url="me.example")


def test_page_needs_nothing_but_its_own_folder(tmp_path: Path) -> None:
    make_run(tmp_path / "runs/run", "picture.png", "progress.gif")
    make_run(tmp_path / "runs/film", "film.mp4")
    gallery = build(tmp_path / "runs", site=tmp_path / "site")
    shutil.move(tmp_path / "site", tmp_path / "elsewhere")
    page = (tmp_path / "elsewhere/index.html").read_text()
    elements = Elements(page)
    for snippet in re.findall(r"<textarea[^>]*>(.*?)</textarea>", page, re.DOTALL):
        elements.elements += Elements(html.unescape(snippet)).elements
    local = [address for address in addresses(elements) if not address.startswith("data:")]
    assert len(local) >= 3 * len(gallery.exhibits)
    for address in local:
        assert not urlsplit(address).scheme
        assert (tmp_path / "elsewhere" / unquote(address)).is_file()
    assert "@import" not in page
    assert "@font-face" not in page
    assert elements.attributes("meta")[2] == {"name": "generator", "content": GENERATOR}


def test_animations_are_not_in_the_page_itself(tmp_path: Path) -> None:
    make_run(tmp_path / "run", "picture.png", "progress.gif")
    elements = read(build(tmp_path / "run", site=tmp_path / "site"))
    assert not [image for image in elements.attributes("img") if image["src"].endswith(".gif")]
    assert not elements.attributes("video")
    (swap,) = (each for each in elements.attributes("button") if each["class"] == "swap")
    assert swap["aria-pressed"] == "false"
    assert swap["data-animation"].endswith(".gif")


@pytest.mark.parametrize("animation", ["progress.gif", "film.mp4", None])
def test_snippet_is_a_picture_that_links_to_its_animation(
    tmp_path: Path, animation: str | None
) -> None:
    run = make_run(tmp_path / "run", "picture.png", *filter(None, [animation]), content=EVIL)
    gallery = build(run, site=tmp_path / "site")
    (exhibit,) = gallery.exhibits
    page = gallery.page.read_text()  # type: ignore[union-attr]
    (escaped,) = re.findall(r"<textarea[^>]*>(.*?)</textarea>", page, re.DOTALL)
    assert "<" not in escaped
    snippet = Elements(html.unescape(escaped))
    tags = [tag for tag, _ in snippet.elements]
    assert tags == (["a", "img"] if animation else ["img"])
    (image,) = snippet.attributes("img")
    assert image["src"] == exhibit.still.address
    assert image["alt"] == exhibit.still.alt
    assert (image["width"], image["height"]) == ("48", "32")
    if animation:
        (link,) = snippet.attributes("a")
        assert link["href"] == exhibit.animation.address  # type: ignore[union-attr]
        assert "alert" not in link["onclick"]


def test_odd_names_are_text_everywhere(tmp_path: Path) -> None:
    evil = EVIL.replace("/", "")
    folder = tmp_path / "runs" / f"{evil}\nnew line"
    photo = save(noise(), tmp_path / f"{evil}.png")
    run = make_run(
        folder,
        f"{evil}.png",
        f"{evil}.gif",
        content=str(photo),
        style=f"{evil}.jpg",
        names={f"{evil}.png": "picture"},
        note=EVIL,
        **{EVIL: [EVIL, {EVIL: None}]},
    )
    gallery = build(run, site=tmp_path / "site", title=EVIL)
    elements = read(gallery)
    assert len(elements.attributes("script")) == 1
    texts = "".join(elements.texts)
    for shown in (EVIL, f"{evil} new line", f"{evil}.png painted in the style of {evil}.jpg"):
        assert shown in texts
    assert f"Content: {evil}.png" in [image["alt"] for image in elements.attributes("img")]
    for path in (tmp_path / "site/assets").iterdir():
        assert re.fullmatch(r"[a-z0-9-]+\.(webp|gif|png|yaml)", path.name)


def test_names_that_are_not_unicode(tmp_path: Path) -> None:
    run = make_run(tmp_path / os.fsdecode(b"caf\xe9"), "picture.png")
    spoil(run, settings={"note": "\ud800", "init": "\u0000"})
    gallery = build(run, site=tmp_path / "site")
    assert "caf?" in gallery.page.read_text("utf-8")  # type: ignore[union-attr]


# --- building again ----------------------------------------------------------------------


def files(site: Path) -> dict[str, bytes]:
    return {
        path.relative_to(site).as_posix(): path.read_bytes()
        for path in site.rglob("*")
        if path.is_file()
    }


def test_building_again_changes_nothing(tmp_path: Path) -> None:
    make_run(tmp_path / "run", "picture.png", "progress.gif")
    build(tmp_path / "run", site=tmp_path / "site")
    before = files(tmp_path / "site")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "site/assets").iterdir()}
    build(tmp_path, site=tmp_path / "site")
    assert files(tmp_path / "site") == before
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_building_again_follows_what_changed(tmp_path: Path) -> None:
    make_run(tmp_path / "runs/kept", "picture.png", "progress.gif")
    make_run(tmp_path / "runs/dropped", "picture.png", "progress.gif")
    first = build(tmp_path / "runs", site=tmp_path / "site")
    mine = save(noise(), tmp_path / "site/assets/dropped.webp")
    (tmp_path / "site/notes.txt").write_text("mine")
    shutil.rmtree(tmp_path / "runs/dropped")
    kept = make_run(tmp_path / "runs/kept", "picture.png", "progress.gif")
    save(noise(seed=99), kept / "picture.png")
    save_gif([noise(seed=98), noise(seed=97)], kept / "progress.gif")
    make_run(tmp_path / "runs/else/kept", "picture.png")
    before = files(tmp_path / "site")
    second = build(tmp_path / "runs", site=tmp_path / "site")
    after = files(tmp_path / "site")
    old, new = first.exhibits[1], second.exhibits[1]
    assert (old.title, new.title) == ("kept", "runs / kept")
    assert old.still.address == new.still.address  # posts go on finding it
    assert before[old.still.address] != after[old.still.address]
    assert after[new.animation.address] == (kept / "progress.gif").read_bytes()  # type: ignore[union-attr]
    dropped = first.exhibits[0]
    assert dropped.still.address in before
    assert dropped.still.address not in after
    assert dropped.animation.address not in after  # type: ignore[union-attr]
    assert mine.is_file()
    assert after["notes.txt"] == b"mine"


def test_what_others_put_beside_the_assets_stays(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "picture.png")
    assets = tmp_path / "site/assets"
    assets.mkdir(parents=True)
    for name in ("mine.txt", "mine.webp", "mine-0123456789.png", "Mine-0123456789.webp"):
        (assets / name).write_text("mine")
    (assets / "old-0123456789.webp").write_text("of a gallery before this one")
    build(run, site=tmp_path / "site")
    mine = sorted(path.name for path in assets.iterdir() if path.read_bytes() == b"mine")
    assert mine == ["Mine-0123456789.webp", "mine-0123456789.png", "mine.txt", "mine.webp"]
    assert len(list(assets.iterdir())) == 7


@pytest.mark.parametrize("page", ["", "<title>My blog</title>"])
def test_a_page_of_someone_else_is_not_replaced(tmp_path: Path, page: str) -> None:
    run = make_run(tmp_path / "run", "picture.png")
    (tmp_path / "blog").mkdir()
    (tmp_path / "blog/index.html").write_text(page)
    with pytest.raises(OutputError, match=r"index\.html was not made by `workbench gallery`"):
        build(run, site=tmp_path / "blog")
    assert files(tmp_path / "blog") == {"index.html": page.encode()}


def test_the_page_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run", "picture.png", "progress.gif")
    build(run, site=tmp_path / "site")
    page = (tmp_path / "site/index.html").read_bytes()
    make_run(tmp_path / "run/more", "picture.png", "progress.gif")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(OutputError, match="free some space"):
        build(run, site=tmp_path / "site")
    assert (tmp_path / "site/index.html").read_bytes() == page
    monkeypatch.undo()
    shutil.rmtree(run / "more")
    build(run, site=tmp_path / "site")
    assert len(list((tmp_path / "site/assets").iterdir())) == 4  # nothing is forgotten


def test_file_is_no_folder_for_a_page(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "picture.png")
    (tmp_path / "site").write_text("mine")
    with pytest.raises(OutputError, match="cannot be written"):
        build(run, site=tmp_path / "site")
    assert (tmp_path / "site").read_text() == "mine"


# --- command line ------------------------------------------------------------------------


def test_command_says_what_it_made_and_what_it_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def gallery(*words: str) -> tuple[int, list[str], str]:
        monkeypatch.setattr(sys, "argv", ["workbench", "gallery", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out.splitlines(), said.err

    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "runs/good", "picture.png")
    make_run(tmp_path / "runs/bad", "table.csv")
    code, lines, err = gallery("runs", "-o", "site", "--title", "My paintings")
    assert code == 0, err
    assert lines[-1] == "1 run in site/index.html (1 left out)"
    assert err == (
        "workbench: runs/bad: left out, because it has neither a picture nor a GIF or MP4.\n"
    )
    assert "<h1>My paintings</h1>" in (tmp_path / "site/index.html").read_text()
    (tmp_path / "runs/good/picture.png").unlink()
    code, _, err = gallery("runs", "-o", "site")
    assert code == 2
    assert err.count("\n") == 3
    assert err.endswith("workbench: runs: no run in here can be shown.\n")
