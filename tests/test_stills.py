from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import Tensor

from workbench import runs, stills
from workbench.descent import measure
from workbench.errors import InputError, OutputError
from workbench.images import load_image, save_image
from workbench.progress import Recorder
from workbench.settings import Settings


@pytest.fixture
def still(tiny: Settings, photo: Tensor, painting: Tensor, tmp_path: Path) -> stills.Still:
    """Three pictures that lie in a folder as `photo.png`, `style.png` and `other.png`."""
    save_image(photo, tmp_path / "photo.png")
    names = ("style.png", "other.png")
    for name in names:
        save_image(painting, tmp_path / name)
    return stills.load(
        str(tmp_path / "photo.png"),
        [str(tmp_path / name) for name in names],
        tiny.changed(steps=6),
        crop=(0, 0, 0.5, 1),
    )


def test_what_is_saved_is_what_was_asked_for(still: stills.Still, tmp_path: Path) -> None:
    assert still.content.shape == (1, 3, 60, 40)
    folder = runs.start_run(tmp_path / "run")
    recorder = Recorder()
    checkpoints = stills.keep(still, recorder, tmp_path / "run" / "picture.checkpoint")
    for iterate in stills.paint(still, folder / "picture.png", checkpoints, save_every=4):
        recorder.add(iterate)
    assert (folder / "picture_4.png").is_file()
    assert not (folder / "picture.png").exists()  # it is whole
    names = ("picture", "comparison", "strip", "losses", *still.inputs())
    paths = {name: folder / f"{name}.png" for name in names} | {"gif": folder / "progress.gif"}
    stills.save(still, recorder, iterate, paths, fps=10, gif_megabytes=1)
    result = stills.finish(still, folder, paths, {"size": 64}, figures={"steps": iterate.step})
    assert set(result.outputs) == {*names, "gif"}
    assert {"content", "style 1", "style 2"} < set(names)
    home = tmp_path / "run"
    measured = measure(
        load_image(home / "picture.png"), still.content, still.styles, still.settings
    )
    assert result.figures == {**measured.figures(), "steps": 6}
    with Image.open(home / "progress.gif") as gif:
        assert gif.info["duration"] == 100


def test_a_style_of_too_few_pixels_is_named(
    still: stills.Still, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_image(torch.rand(1, 3, 120, 160), tmp_path / "small.png")

    def said(**changes: float) -> str:
        settings = still.settings.changed(**changes)
        stills.load(str(tmp_path / "photo.png"), [str(tmp_path / "small.png")], settings)
        return capsys.readouterr().out

    assert said(size=480) == said(size=512, style_scale=0.5) == ""
    assert said(size=512) == (
        "Style 1 (160x120 pixels) is enlarged 3.2 times, which makes strokes large and soft;"
        " --style-scale 0.93 gives sharp ones.\n"
    )
    assert said(size=512, style_scale=0.93) == ""


@pytest.mark.parametrize(
    ("size", "steps", "told"),
    [(320, "30", ""), (336, "30", "30,30"), (672, "20,30", "20,20,30"), (1296, "9", "9,9,9,9")],
)
def test_a_start_picture_of_too_few_pixels_is_given_scales(
    size: int,
    steps: str,
    told: str,
    still: stills.Still,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    init = str(tmp_path / "photo.png")  # of 80x60 pixels

    def said(steps: str) -> str:
        outline = still.outline.changed(size=size, steps=[*map(int, steps.split(","))], init=init)
        stills._say_enlarged(replace(outline, styles=()))
        return capsys.readouterr().out

    before = said(steps)
    if told:
        assert f"photo.png is enlarged {size / 80 / 2 ** steps.count(','):.1f} times in" in before
        assert f"--steps {told} goes there" in before
    assert said(told or steps) == ""


@pytest.mark.parametrize(
    ("paths", "sentence"),
    [
        ({"picture": "a.mp4"}, "cannot write a picture as .mp4"),
        ({"picture": "a.png", "gif": "a.png"}, "the name of a GIF ends in .gif"),
        ({"picture": "a.png", "mp4": "a.gif"}, "the name of a film ends in .mp4"),
        ({"picture": "a.png", "strip": "photo.png"}, "photo.png is read"),
    ],
)
def test_paths_are_checked_first(paths: dict[str, str], sentence: str, tmp_path: Path) -> None:
    (tmp_path / "photo.png").touch()
    wanted = {name: tmp_path / path for name, path in paths.items()}
    with pytest.raises(InputError, match=sentence):
        stills.check_paths(wanted, [str(tmp_path / "photo.png")])


def test_a_disk_that_is_too_small_is_told_before_the_start(
    still: stills.Still,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    picture, folder = tmp_path / "new" / "a.png", tmp_path / "new" / "a.checkpoint"
    large = replace(still, settings=replace(still.settings, size=4096)).outline
    megabytes = large.shape[0] * large.shape[1] / 2**20
    assert large.checkpoint_megabytes() == pytest.approx(10 * 12 * megabytes)
    usage = SimpleNamespace(free=20.1 * 12 * megabytes * 2**20)
    monkeypatch.setattr(stills.shutil, "disk_usage", lambda path: usage)
    stills._check_disk(large, picture, folder)
    assert capsys.readouterr().out == ""
    usage.free = 10 * 12 * megabytes * 2**20
    stills._check_disk(large, picture, folder)
    assert "GB free, and to go on after a stop takes" in capsys.readouterr().out
    usage.free = 8 * megabytes * 2**20
    with pytest.raises(OutputError, match=r"a.png: its disk has 0.1 GB free, and 2731x4096"):
        stills._check_disk(large, picture, folder)
