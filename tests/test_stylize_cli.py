"""`workbench stylize` in this process, on a tiny network."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from torch import Tensor

from workbench import cli, dialects, forecast, images, progress, weights
from workbench.colour import luminance
from workbench.descent import Iterate
from workbench.errors import WeightsError
from workbench.features import Network
from workbench.forecast import Pace
from workbench.images import load_image, resize, save_image, to_array
from workbench.notebook import papermill_command
from workbench.settings import Settings

LUA = "th neural_style.lua -style_image style.png -content_image photo.png -init image"


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


Stylize = Callable[..., Said]


@pytest.fixture
def stylize(
    tiny: Settings,
    photo: Tensor,
    painting: Tensor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Stylize:
    save_image(photo, tmp_path / "photo.png")
    save_image(painting, tmp_path / "style.png")
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, small: bool = True) -> Said:
        options = "--backbone tiny --size 64 --device cpu --precision float32" if small else ""
        monkeypatch.setattr(sys, "argv", ["workbench", "stylize", *arguments, *options.split()])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return Said(int(end.value.code or 0), *capsys.readouterr())

    return call


def test_a_pasted_command_is_painted_and_explained(stylize: Stylize) -> None:
    like = f"{LUA} -num_iterations 6 -save_iter 2 -gpu 0 -style_weight 300 -output_image old.png"
    said = stylize("--like", like, "-o", "new.png")
    assert said.code == 0, said.err
    assert "workbench stylize photo.png style.png -o new.png" in said.out
    assert "--style-weight 300" in said.out
    assert "--backbone tiny" in said.out
    command = papermill_command("stylize_image")
    assert f"  {command} -y '{{content: photo.png, " in said.out
    assert Path(command.split()[1]).is_file()  # wherever one stands
    assert "- Left out: -gpu" in said.out
    made = {path.name for path in Path().glob("*.png")} - {"photo.png", "style.png"}
    assert made == {"new.png", "new_2.png", "new_4.png"}


def test_the_command_that_is_printed_paints_the_same_picture(stylize: Stylize) -> None:
    like = f"{LUA} -num_iterations 5 -save_iter 0 -tv_weight 0.01 -pooling avg -original_colors 1"
    said = stylize("--like", like, "-o", "a.png")
    line = next(line for line in said.out.splitlines() if line.startswith("  workbench stylize"))
    printed = line.replace("-o a.png", "-o b.png").split()[2:]
    assert stylize(*printed, small=False).code == 0
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()


def test_without_an_output_it_goes_where_the_printed_command_says(stylize: Stylize) -> None:
    like = "python neural_style.py --content photo.png --styles style.png --iterations 2"
    said = stylize("--like", like)
    assert said.code == 0, said.err
    name = said.out.partition(" -o ")[2].split()[0]
    assert Path(name).is_file()


def test_settings_are_printed_as_yaml_and_nothing_is_painted(stylize: Stylize) -> None:
    said = stylize("--print-settings", "--style-weight", "7")
    assert said.code == 0, said.err
    expected = Settings(
        backbone="tiny", size=64, device="cpu", precision="float32", style_weight=7.0
    )
    assert Settings(**yaml.safe_load(said.out)) == expected
    said = stylize("--print-settings", "--like", LUA)
    assert said.code == 0
    assert "white: 256.0" in said.out
    assert {path.name for path in Path().iterdir()} == {"photo.png", "style.png"}


def test_what_stands_beside_the_command_wins(stylize: Stylize) -> None:
    said = stylize("--print-settings", "--like", f"{LUA} -style_weight 300", "--style-weight", "9")
    assert "style_weight: 9.0" in said.out
    said = stylize("--like", LUA, "--preset", "draft")
    assert said.code == 2
    assert "--like and --preset both say where to start from" in said.err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--like", f"{LUA} -styel_weight 3"], "-styel_weight: neural_style.lua has no such"),
        (["--like", "style_transfer a.jpg b.jpg"], "cannot be mapped, because"),
        ([], "name a photograph"),
        (["photo.png", "-o", "a.png"], "name a style picture"),
        (["photo.png", "style.png"], "name the picture to write, with -o"),
        (["photo.png", "empty", "-o", "a.png"], "empty is a folder without pictures"),
        (
            ["photo.png", "style.png", "-o", "a.png", "--mask", "photo.png", "--mask", "style.png"],
            "there are 2 masks for 1 style pictures",
        ),
        (["photo.png", "style.png", "-o", "a.png", "--mask", "black.png"], "black all over"),
        (
            ["photo.png", "style.png", "-o", "a.png", "--original-colors", "yes"],
            "original_colors = 'yes': use one of off, luma",
        ),
        (["photo.png", "style.png", "-o", "a.png", "--save-every", "0"], "save_every = 0"),
    ],
)
def test_bad_input_is_one_sentence(stylize: Stylize, arguments: list[str], sentence: str) -> None:
    Path("empty").mkdir()
    Image.new("L", (9, 9)).save("black.png")
    said = stylize(*arguments)
    assert said.code == 2
    assert sentence in said.err
    assert said.err.strip().count("\n") == 0
    assert not Path("a.png").exists()


def test_styles_may_be_a_folder(stylize: Stylize, painting: Tensor) -> None:
    for name in ("b.jpg", "a.png", ".hidden.png"):
        save_image(painting, Path("styles") / name)
    Path("styles/notes.txt").write_text("no picture")
    said = stylize("photo.png", "styles", "-o", "a.png", "--steps", "2")
    assert said.code == 0, said.err
    said = stylize(
        "photo.png", "styles", "-o", "a.png", "--steps", "2", "--style-blend-weights", "1,2,3"
    )
    assert "3 numbers for 2 style pictures" in said.err


def test_masks_say_what_is_painted_where(stylize: Stylize) -> None:
    mask = np.zeros((30, 80), np.uint8)
    mask[:, :40] = 255
    Image.fromarray(mask).save("left.png")
    said = stylize("photo.png", "style.png", "-o", "a.png", "--mask", "left.png", "--steps", "9")
    assert said.code == 0, said.err
    assert "Mask 1 is 80x30 pixels and the photograph 80x60: the mask is stretched." in said.out
    assert "Of the picture: style 1 50%, no style 50%." in said.out


def test_colours_of_the_photograph_can_stay(stylize: Stylize) -> None:
    base = ("photo.png", "style.png", "--steps", "9")
    assert stylize(*base, "-o", "off.png").code == 0
    assert stylize(*base, "-o", "luma.png", "--original-colors", "luma").code == 0
    assert stylize(*base, "-o", "pca.png", "--original-colors", "pca").code == 0
    photo, off, luma, pca = (
        load_image(name, 64) for name in ("photo.png", "off.png", "luma.png", "pca.png")
    )

    def colour(image: Tensor) -> Tensor:
        return image - luminance(image)

    inside = ((luma > 0.02) & (luma < 0.98)).all(dim=1, keepdim=True)
    assert ((colour(luma) - colour(photo)).abs() * inside).mean() < 0.01
    assert (colour(off) - colour(photo)).abs().mean() > 0.05
    assert (pca - off).abs().mean() > 0.02


def test_stopped_the_same_command_goes_on_and_anew_begins_again(
    stylize: Stylize, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("photo.png", "style.png", "-o", "a.png", "--steps", "30", "--gif", "a.gif")

    def stopped(*options: str, step: int = 12) -> Said:
        def interrupt(self: progress.Recorder, iterate: Iterate) -> None:
            add(self, iterate)
            if iterate.step == step:
                raise KeyboardInterrupt

        add = progress.Recorder.add
        with monkeypatch.context() as patch:
            patch.setattr(progress.Recorder, "add", interrupt)
            said = stylize(*command, *options)
        gc.collect()  # closes what the interrupt left open, while this is the folder
        return said

    said = stopped()
    assert said.code == 130
    assert "12 steps: the picture so far is a.unfinished.png; the same command goes on." in said.err
    said = stopped("--style-weight", "7", step=5)
    assert "(style_weight was 100.0, is 7.0); the painting begins anew." in said.out
    said = stopped(step=20)
    assert "Going on from step 12 in a.checkpoint." in said.out
    said = stopped("--anew", step=3)
    assert "Going on" not in said.out
    for options in ([], ["--resume"]):
        assert "Going on from step 3" in stopped(*options, step=3).out
    said = stylize(*command)
    assert said.code == 0, said.err
    assert "Going on from step 3" in said.out
    assert not Path("a.checkpoint").exists()
    resumed = Path("a.png").read_bytes(), Path("a.gif").read_bytes()
    stylize(*command)
    assert (Path("a.png").read_bytes(), Path("a.gif").read_bytes()) == resumed


def test_a_budget_is_that_of_the_steps_that_it_names(
    stylize: Stylize, monkeypatch: pytest.MonkeyPatch
) -> None:
    def paint(seconds: float, *options: str) -> Said:
        pace = Pace(((48.0 * 64, seconds),))
        monkeypatch.setattr(forecast, "time_steps", lambda problem: pace)
        monkeypatch.setattr(forecast, "_newest", [])
        return stylize("photo.png", "style.png", "-o", "a.png", *options)

    assert "These are few" not in paint(0.01, "--minutes", "0.01").out
    assert "In 0.1 min: --size 64 --steps 4\n" in paint(0.87, "--minutes", "0.1").out
    said = paint(0.87, "--minutes", "0.1").out
    assert "About 6 s on this machine" in said
    assert "These are few: a smaller size would be painted better in that time." in said
    budget = Path("a.png").read_bytes()
    assert paint(0.87, "--steps", "4").code == 0
    assert Path("a.png").read_bytes() == budget
    Path("a.png").unlink()
    said = paint(7.0, "--minutes", "0.1")
    assert said.code == 2
    assert "a step at each scale takes 24 s; give more time, or a smaller size." in said.err
    assert not list(Path().glob("a.*"))

    with monkeypatch.context() as patch:
        real = progress.Recorder.add

        def interrupt(self: progress.Recorder, iterate: Iterate) -> None:
            real(self, iterate)
            if iterate.step == 2:
                raise KeyboardInterrupt

        patch.setattr(progress.Recorder, "add", interrupt)
        assert paint(0.87, "--minutes", "0.1").code == 130
    gc.collect()
    said = paint(0.1, "--minutes", "0.1")  # a faster machine would take more steps
    assert "--steps 4\n" in said.out
    assert "Going on from step 2" in said.out
    assert Path("a.png").read_bytes() == budget


def test_memory_that_runs_out_is_a_sentence_that_names_the_picture_so_far(
    stylize: Stylize, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, left = Network.__call__, iter(range(12))

    def call(self: Network, picture: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        if next(left, None) is None:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to")
        return real(self, picture, layers)

    monkeypatch.setattr(Network, "__call__", call)
    said = stylize("photo.png", "style.png", "-o", "a.png", "--steps", "20")
    assert said.code == 1
    assert said.err.endswith(
        "workbench: memory ran out after 6 steps towards size 64; use a smaller size, or optimizer"
        " adam, or close other programs. The last good picture is a.unfinished.png.\n"
    )
    assert load_image("a.unfinished.png").shape == (1, 3, 48, 64)
    monkeypatch.setattr(progress.Recorder, "add", lambda *_: bytearray(2**62))
    monkeypatch.setattr(Network, "__call__", real)
    said = stylize("photo.png", "style.png", "-o", "b.png", "--steps", "2")
    assert (said.code, said.err) == (
        1,
        "workbench: memory ran out; use a smaller size, or close other programs.\n",
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits of the address space are Linux's")
def test_a_size_beyond_the_limit_of_the_address_space_is_refused(tmp_path: Path) -> None:
    command = f"ulimit -v 6000000; exec {sys.executable} -m workbench stylize sample:astronaut"
    command += " sample:swirls -o a.png --size 4096 --device cpu --precision float32"
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert re.fullmatch(
        r"workbench: size = 4096: a painting of 4096x4096 pixels takes \d\.\d GB of memory, and"
        r" there are \d\.\d GB; use size \d+\.\n",
        done.stderr,
    )
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits of the address space are Linux's")
def test_a_limit_that_is_hit_in_the_middle_leaves_the_picture_so_far(tmp_path: Path) -> None:
    program = """
import resource, sys, psutil
import matplotlib.figure
import workbench.cli, workbench.descent, workbench.problem, workbench.progress, workbench.samples

def limited(self, shape, tile=None):
    if max(shape) == 640:  # less than the smallest tile takes, and enough to save a picture
        limit = psutil.Process().memory_info().vms + 32 * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return at(self, shape, tile)

at, workbench.problem.Problem.at = workbench.problem.Problem.at, limited
workbench.problem.free_megabytes = lambda device: None
sys.argv = "workbench stylize sample:astronaut sample:swirls -o a.png --size 640".split()
sys.argv += "--steps 2,1,1 --device cpu --precision float32".split()
workbench.cli.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1
    for side in (512, 384, 256):
        assert f"Memory ran out; on in tiles of {side} pixels." in done.stderr
    assert "memory ran out after 3 steps towards size 640; use a smaller" in done.stderr
    assert done.stderr.endswith("The last good picture is a.unfinished.png.\n")
    assert max(load_image(tmp_path / "a.unfinished.png").shape) == 320


def test_without_vgg19_it_is_vgg16_and_said_so(
    tiny: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(name: str) -> None:
        if name == "vgg19":
            raise WeightsError("the vgg19 weights are not on this machine.")

    monkeypatch.setattr(weights, "load_weights", load)
    settings = dialects.read_command("th neural_style.lua -image_size 99").settings
    assert settings.backbone == "vgg19"
    assert dialects.on_this_machine(settings) == settings.changed(backbone="vgg16")
    said = capsys.readouterr().out
    assert said.startswith("- The vgg19 weights are not on this machine. Until then it is painted")
    assert dialects.on_this_machine(tiny) is tiny


def test_a_logo_keeps_its_transparency(stylize: Stylize, photo: Tensor) -> None:
    logo = Image.fromarray(to_array(photo)).convert("RGBA")
    logo.putalpha(Image.radial_gradient("L").resize(logo.size))
    logo.save("logo.png")
    for name in ("a.png", "a.jpg"):
        assert stylize("logo.png", "style.png", "-o", name, "--steps", "2").code == 0
    with Image.open("a.png") as painted, Image.open("a.jpg") as opaque:
        assert (painted.mode, opaque.mode) == ("RGBA", "RGB")
        kept = np.asarray(painted.getchannel("A").resize(logo.size)).astype(int)
    assert np.abs(kept - np.asarray(logo.getchannel("A"))).mean() < 6
    assert stylize("photo.png", "style.png", "-o", "b.png", "--steps", "2").code == 0
    with Image.open("b.png") as painted:
        assert painted.mode == "RGB"


def test_a_large_photograph_is_held_no_larger_than_it_is_needed(
    stylize: Stylize, photo: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_image(resize(photo, 1000), "large.jpg")
    save_image(resize(photo[:, :1].expand(-1, 3, -1, -1), 1000), "mask.png")
    monkeypatch.setattr(images, "_LARGE", 500_000)
    real, seen = progress.keep_colors, []

    def keep(
        iterates: Iterable[Iterate], content: Tensor, original_colors: str
    ) -> Iterator[Iterate]:
        seen.append(tuple(content.shape))
        return real(iterates, content, original_colors)

    monkeypatch.setattr(progress, "keep_colors", keep)
    said = stylize("large.jpg", "style.png", "-o", "a.png", "--steps", "2", "--mask", "mask.png")
    assert said.code == 0, said.err
    assert "stretched" not in said.out
    assert seen == [(1, 3, 48, 64)]
    with Image.open("a.png") as painted:
        assert painted.size == (64, 48)
