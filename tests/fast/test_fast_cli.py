from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import tiny_backbone
from sample_clip import clip
from test_cli import interrupt
from torch import Tensor

from workbench import cli, weights
from workbench.colour import transfer_luma
from workbench.fast import training
from workbench.fast.models import read_folder, save_network
from workbench.fast.network import TransformationNetwork
from workbench.images import load_image, save_image
from workbench.runs import check_result
from workbench.settings import Settings
from workbench.video.clips import open_clip, read_frames

STYLE = "sample:hatching"
TINY = ["--backbone", "tiny", "--precision", "float32", "--device", "cpu"]
OPTIONS = (
    "--on clip.mp4 -o ink --size 96 --crop 64 --width 0.25 --checkpoint-every 3 --copy-steps 1"
)
SMALL = [*OPTIONS.split(), *TINY]
PROGRAM = [sys.executable, tiny_backbone.__file__]  # in a process of its own


def call(*arguments: object, cwd: Path) -> CompletedProcess[str]:
    """As `workbench`, in this process: seconds of imports are saved."""
    words = ["workbench", *map(str, arguments)]
    with (
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(StringIO()) as out,
        redirect_stderr(StringIO()) as err,
    ):
        patch.chdir(cwd)
        patch.setattr(sys, "argv", words)
        patch.setattr(warnings, "showwarning", warnings.showwarning)  # `main` sets it
        with pytest.raises(SystemExit) as end:
            cli.main()
    return CompletedProcess(words, int(end.value.code or 0), out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a clip and a model that has learned for six steps."""
    folder = tmp_path_factory.mktemp("trained")
    film = clip()
    film.sound.write_film(film.frames[:8], folder / "clip.mp4", film.fps)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_WEIGHTS", str(folder / "weights"))
        patch.setitem(weights.BACKBONES, "tiny", tiny_backbone.tiny_backbone())
        run = call("train", STYLE, *SMALL, "--training-steps", "6", cwd=folder)
    assert run.returncode == 0, run.stderr
    (folder / "printed.txt").write_text(run.stdout)
    return folder


def test_train_makes_checkpoints_previews_figures_and_a_plot(trained: Path) -> None:
    model = read_folder(trained / "ink")
    assert [each.step for each in model.checkpoints] == [3, 6]
    assert model.styles == (STYLE,)
    assert model.on == ("clip.mp4",)
    for each in model.checkpoints:
        assert load_image(trained / "ink" / f"{each.name}.png").shape == (1, 3, 72, 96)
        assert each.held_out["style"] > 0
    result = check_result(trained / "ink")
    assert {"model", "gif", "losses", "previews"} <= set(result.outputs)
    printed = (trained / "printed.txt").read_text()
    assert "6 steps in" in printed
    assert f"the best is step {model.best.step}" in printed


def test_labels_are_given_and_named(trained: Path) -> None:
    labels = ["--label", "3=less good", "--label", "6=good"]
    run = call("train", "-o", "ink", *labels, cwd=trained)
    assert run.returncode == 0, run.stderr
    assert "ink@less-good  (step 3)" in run.stdout
    assert read_folder(trained / "ink").labels == {"less good": 3, "good": 6}
    shutil.copytree(trained / "ink", trained / "my ink")
    run = call("train", "-o", "my ink", "--label", "6=odd", cwd=trained)
    assert "  'my ink@odd'  (step 6)" in run.stdout
    run = call("train", "-o", "ink", "--label", "good", cwd=trained)
    assert (run.returncode, "--label good: give a step and a name" in run.stderr) == (2, True)
    run = call("train", "-o", "ink", "--label", "7=good", cwd=trained)
    assert (run.returncode, "no checkpoint '7'" in run.stderr) == (2, True)


def test_apply_paints_a_clip_with_its_sound(trained: Path) -> None:
    run = call("apply", "ink", "clip.mp4", "-o", "painted.mp4", cwd=trained)
    assert run.returncode == 0, run.stderr
    film = open_clip(trained / "painted.mp4")
    assert (film.frames, film.shape, film.sound) == (8, (240, 320), True)
    assert len(list(read_frames(film))) == 8
    assert re.search(
        r"8 frames of 320x240 px in \d+ s \(\d+\.\d a second\), with sound", run.stdout
    )


def test_apply_paints_pictures_and_folders(trained: Path) -> None:
    run = call("apply", "ink@3", "sample:coffee", "-o", "cup.png", cwd=trained)
    assert run.returncode == 0, run.stderr
    assert load_image(trained / "cup.png").shape == (1, 3, 400, 600)
    photos = trained / "photos"
    photos.mkdir()
    (photos / "a.png").write_bytes((trained / "cup.png").read_bytes())
    (photos / "b.png").write_bytes(b"broken")
    run = call("apply", "ink", "photos", "-o", "painted", "--size", 64, cwd=trained)
    assert run.returncode == 1
    assert "b.png is not a picture" in run.stderr
    assert "1 of 2 pictures painted" in run.stdout
    assert max(load_image(trained / "painted" / "a.png").shape) == 64


@pytest.mark.parametrize(
    ("preset", "steps", "whole_after"),
    [("", 4000, 500), ("--preset quick", 4000, 500), ("--preset full", 40_000, 40_000)],
)
def test_presets_are_those_of_training(
    preset: str,
    steps: int,
    whole_after: int,
    tiny: Settings,
    photo: Tensor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in "abc":
        save_image(photo, tmp_path / "on" / f"{name}.png")
    small = "--backbone tiny --size 64 --crop 64 --width 0.25 --batch 1 --precision float32"
    monkeypatch.setattr(training._State, "is_done", lambda state: state.step == 1)
    words = f"on/a.png --on on -o m {small} --checkpoint-every 1 {preset}"
    run = call("train", *words.split(), cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    settings = read_folder(tmp_path / "m").settings
    assert (settings["training_steps"], settings["whole_after"]) == (steps, whole_after)
    assert settings["size"] == 64


@pytest.fixture
def folder(tmp_path: Path, photo: Tensor) -> Path:
    """A folder with a model that nobody trained, and two photographs in another one."""
    save_network(TransformationNetwork(0.25), tmp_path / "ink.safetensors")
    for name in "ab":
        save_image(photo, tmp_path / "photos" / f"{name}.png")
    return tmp_path


PLAIN = ("--device", "cpu", "--precision", "float32")


@pytest.mark.parametrize("output", ["painted.v2", "painted.v2/", "there.png"])
@pytest.mark.parametrize("content", ["photos", "photos/a.png photos/b.png", "photos/a.png"])
def test_a_folder_may_have_a_dot(output: str, content: str, folder: Path) -> None:
    (folder / "there.png").mkdir()
    run = call("apply", "ink.safetensors", *content.split(), "-o", output, *PLAIN, cwd=folder)
    if (output, content) == ("painted.v2", "photos/a.png"):
        assert (run.returncode, "cannot write a picture as .v2" in run.stderr) == (2, True)
        return
    assert run.returncode == 0, run.stderr
    assert load_image(folder / output / "a.png").shape == (1, 3, 60, 80)


def test_apply_keeps_colours(folder: Path, photo: Tensor) -> None:
    words = ["apply", "ink.safetensors", "photos/a.png", *PLAIN]
    assert call(*words, "-o", "plain.png", cwd=folder).returncode == 0
    run = call(*words, "-o", "luma.png", "--original-colors", "luma", cwd=folder)
    assert run.returncode == 0, run.stderr
    expected = transfer_luma(load_image(folder / "plain.png"), photo)
    assert (load_image(folder / "luma.png") - expected).abs().max() < 0.02
    run = call(*words, "-o", "pca.png", "--original-colors", "pca", cwd=folder)
    assert (run.returncode, "use luma or off" in run.stderr) == (2, True)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [("--precision half", "precision = 'half'"), ("--device meta", "device = 'meta'")],
)
def test_what_nothing_can_be_painted_with(words: str, sentence: str, folder: Path) -> None:
    run = call("apply", "ink.safetensors", "photos", "-o", "out", *words.split(), cwd=folder)
    assert run.returncode == 2, run.stderr
    assert sentence in run.stderr
    assert len(run.stderr.splitlines()) == 1
    assert not (folder / "out").exists()


BAD_TRAINING = [
    ("", "give at least one style picture"),
    ("none.png", "none.png: there is no such file in "),
    (f"{STYLE} --on none.mp4", "none.mp4: there is no such file in "),
    (f"{STYLE} --on sample:astronaut", "1 of 1 training pictures can be used"),
    (f"{STYLE} --crop 20", "crop = 20: give at least 64 pixels."),
    (f"{STYLE} --crop 2000 --size 2000", "training needs at least 2"),
    (f"{STYLE} --width 9", "width = 9.0: give a number from 0.25 to 4."),
    (f"{STYLE} --training-steps 0", "training_steps = 0"),
    (f"{STYLE} --preset draft", "preset = 'draft': use one of quick, full."),
    (f"{STYLE} --temporal-weight -1", "temporal_weight = -1.0: give a number from 0 on."),
    (f"{STYLE} --preview none.jpg", "none.jpg: there is no such file in "),
]


@pytest.mark.parametrize(("words", "sentence"), BAD_TRAINING)
def test_bad_input_to_training_gets_one_sentence(words: str, sentence: str, tmp_path: Path) -> None:
    run = call("train", *words.split(), cwd=tmp_path)
    assert run.returncode == 2, run.stderr
    assert sentence in run.stderr.splitlines()[-1]
    assert "Traceback" not in run.stderr
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("none clip.mp4 -o out.mp4", "none: there is no such model"),
        ("clip.mp4 clip.mp4 -o out.mp4", "clip.mp4 is not a style model"),
        ("ink@odd clip.mp4 -o out.mp4", "ink has no checkpoint 'odd'"),
        ("ink none.mp4 -o out.mp4", "none.mp4: there is no such file in "),
        ("ink clip.mp4 clip.mp4 -o out.mp4", "out.mp4 is a film; give one clip for it."),
        ("ink sample:coffee sample:rocket -o out.png", "out.png is one picture; for 2"),
        ("ink sample:coffee -o out.xyz", "cannot write a picture as .xyz"),
        ("ink clip.mp4 -o out.mp4 --batch 0", "batch = 0"),
        ("ink clip.mp4 -o out.mp4 --device cuda:99", "device = 'cuda:99'"),
    ],
)
def test_bad_input_to_apply_gets_one_sentence(words: str, sentence: str, trained: Path) -> None:
    run = call("apply", *words.split(), cwd=trained)
    assert run.returncode == 2, run.stderr
    assert sentence in run.stderr
    assert len(run.stderr.splitlines()) == 1
    assert not list(trained.glob("out*"))


@pytest.mark.slow
def test_ctrl_c_and_a_kill_lose_nothing(
    trained: Path, tiny: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "clip.mp4").write_bytes((trained / "clip.mp4").read_bytes())
    monkeypatch.setenv("WORKBENCH_WEIGHTS", str(tmp_path / "weights"))
    words = ["train", STYLE, *SMALL, "--training-steps"]
    code, printed = interrupt([*PROGRAM, *words, "5000"], tmp_path, r" [1-9]\d+/5000")
    assert code == 130, printed
    steps = re.search(r"Interrupted after (\d+) steps; the same command goes on there", printed)
    assert steps is not None, printed
    log = tmp_path / "second.txt"
    with log.open("w") as out:
        process = subprocess.Popen(
            [*PROGRAM, *words, "5000"], cwd=tmp_path, stdout=out, stderr=out, start_new_session=True
        )
    state = tmp_path / "ink" / "training.safetensors"
    before = state.stat().st_mtime_ns
    while state.stat().st_mtime_ns == before:
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    reached = max(
        int(step)
        for step in re.findall(r"step-0*(\d+)\.png", str(list((tmp_path / "ink").iterdir())))
    )
    assert reached >= int(steps[1])
    run = call(*words, reached + 2, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    whole = call(*words, reached + 2, "-o", "whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    made = sorted(path.name for path in (tmp_path / "ink").glob("step-*.safetensors"))
    assert made == sorted(path.name for path in (tmp_path / "whole").glob("step-*.safetensors"))
    for name in made:
        assert (tmp_path / "ink" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
