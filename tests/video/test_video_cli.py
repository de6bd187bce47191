from __future__ import annotations

import importlib
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import tiny_backbone
from PIL import Image
from sound import Sound
from test_cli import interrupt, workbench

from workbench import cli, forecast, weights
from workbench.colour import transfer_luma
from workbench.forecast import Pace
from workbench.images import from_array, load_image, to_array
from workbench.settings import Settings
from workbench.video import frames as frames_module
from workbench.video import modes
from workbench.video.clips import open_clip, read_frames, write_film
from workbench.video.frames import frame_path
from workbench.weights import load_weights

FRAMES = 6
TINY = ["--backbone", "tiny", "--precision", "float32", "--device", "cpu", "--size", "64"]
ARGUMENTS = "clip.mp4 style.png -o out.mp4 --steps 22 --later-steps 4"
RUN = [*ARGUMENTS.split(), *TINY]
PROGRAM = [sys.executable, tiny_backbone.__file__, "video"]  # in a process of its own


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with good and bad clips and pictures."""
    write_good(tmp_path)
    write_bad(tmp_path)
    return tmp_path


def write_good(folder: Path) -> None:
    noise = np.random.default_rng(0).uniform(0, 255, (48, 100, 3)).astype(np.float32)
    wall = np.asarray(cv2.GaussianBlur(noise, (0, 0), 2))
    wall = ((wall - wall.min()) * 255 / (wall.max() - wall.min())).astype(np.uint8)
    melody = Sound(np.sin(np.arange(60_000)[None] / 20).astype(np.float32) / 2, 48000)
    frames = [wall[:, 5 * i : 5 * i + 64] for i in range(FRAMES)]
    melody.write_film(frames, folder / "clip.mp4", 5)
    Image.fromarray(wall[:, ::-1]).save(folder / "style.png")
    Image.fromarray(255 - wall).save(folder / "other.png")


def write_bad(folder: Path) -> None:
    (folder / "text.mp4").write_text("this is no clip")
    (folder / "text.jpg").write_text("this is no picture")
    (folder / "void.mp4").touch()
    (folder / "cut.mp4").write_bytes((folder / "clip.mp4").read_bytes()[:300])
    (folder / "empty").mkdir()
    (folder / "letters").mkdir()
    Image.new("RGB", (64, 48)).save(folder / "letters" / "abc.png")
    (folder / "masks").mkdir()
    for number in range(2):
        Image.new("RGB", (64, 48), "white").save(folder / "masks" / f"{number}.png")
    for name, codec in (("sound.mp3", "libmp3lame"), ("sound.wav", "pcm_s16le")):
        write_sound(folder / name, codec)


def write_sound(path: Path, codec: str) -> None:
    with av.open(str(path), "w") as file:
        track = file.add_stream(codec, rate=48000)
        track.layout = "mono"
        kind = "s16" if codec.startswith("pcm") else "s16p"
        samples = (9000 * np.sin(np.arange(9600) / 20)).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(samples, format=kind, layout="mono")
        frame.rate = 48000
        for packet in (*track.encode(frame), *track.encode()):
            file.mux(packet)


def sound_packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as source:
        return [bytes(packet) for packet in source.demux(audio=0) if packet.size]


def frames_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("[0-9]*.png"))


# --- wrong input -------------------------------------------------------------------------

BAD = [
    ("nowhere.mp4 style.png -o out.mp4", "nowhere.mp4: there is no such file in "),
    ("sound.mp3 style.png -o out.mp4", "sound.mp3 has no pictures in it"),
    ("sound.wav style.png -o out.mp4", "sound.wav has no pictures in it"),
    ("text.mp4 style.png -o out.mp4", "text.mp4 is not a clip that can be read"),
    ("text.jpg style.png -o out.mp4", "text.jpg: no frame can be decoded"),
    ("void.mp4 style.png -o out.mp4", "void.mp4 is empty (0 bytes)"),
    ("cut.mp4 style.png -o out.mp4", "cut.mp4"),
    ("empty style.png -o out.mp4", "there are no numbered pictures in this folder"),
    ("letters style.png -o out.mp4", "there are no numbered pictures in this folder"),
    ("sample:dots style.png -o out.mp4", "no sample clip 'sample:dots'; there is: sample:clip"),
    ("clip.mp4 text.jpg -o out.mp4", "text.jpg is not a picture"),
    ("clip.mp4 clip.mp4 -o out.mp4", "clip.mp4 is not a picture"),
    ("clip.mp4 nowhere.png -o out.mp4", "nowhere.png: there is no such file in "),
    ("clip.mp4 style.png -o out.avi", "the name of a film ends in .mp4, .mov or .mkv"),
    ("clip.mp4 style.png -o out", "the name of a film ends in .mp4, .mov or .mkv"),
    ("clip.mp4 style.png -o out.mp4 --start 9", "start = 9 s: clip.mp4 ends at 1.20 s"),
    ("clip.mp4 clip.mp4 style.png -o out.mp4", "clip.mp4 is not a picture but a clip. For several"),
    ("clip.mp4 style.png -o out.mp4 --start 0:99", "'0:99' is no time; write seconds"),
    ("clip.mp4 style.png -o out.mp4 --start -1", "start = -1.0: give seconds from 0 on"),
    ("clip.mp4 style.png -o out.mp4 --start 1 --end 0.5", "end = 0.5: give seconds after"),
    ("clip.mp4 style.png -o out.mp4 --stride 0", "stride = 0"),
    ("clip.mp4 style.png -o out.mp4 --fps 12", "fps = 12.0 is for folders of pictures only"),
    ("clip.mp4 style.png -o out.mp4 --mode wobbly", "mode = 'wobbly': use one of per-frame"),
    ("clip.mp4 style.png -o out.mp4 --size 8", "size = 8: give 32 to 16384 pixels"),
    ("clip.mp4 style.png -o out.mp4 --later-steps 0", "later_steps = 0"),
    ("clip.mp4 style.png -o out.mp4 --blend 2", "blend = 2.0: give a number from 0 to 1"),
    ("clip.mp4 style.png -o out.mp4 --temporal-lags 2,4", "temporal_lags = [2, 4]"),
    ("clip.mp4 style.png -o out.mp4 --temporal-lags 1,x", "--temporal-lags 1,x: give numbers"),
    ("clip.mp4 style.png -o out.mp4 --flow-method guess", "flow_method = 'guess'"),
    ("clip.mp4 style.png -o out.mp4 --mask nowhere.png", "nowhere.png: there is no such file"),
    ("clip.mp4 style.png -o out.mp4 --mask text.jpg", "text.jpg is not a picture"),
    (
        "clip.mp4 style.png -o out.mp4 --mask masks",
        "masks is shorter than clip.mp4: it has 2 masks",
    ),
    ("clip.mp4 style.png -o out.mp4 --original-colors sepia", "original_colors = 'sepia'"),
]


@pytest.mark.parametrize(("arguments", "sentence"), BAD, ids=[arguments for arguments, _ in BAD])
def test_bad_input_gets_one_sentence_before_anything_is_made(
    arguments: str,
    sentence: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def too_late(*arguments: object) -> None:
        raise AssertionError("weights were loaded")

    for module in (frames_module, modes):
        monkeypatch.setattr(module, "load_weights", too_late)
    monkeypatch.setattr(sys, "argv", ["workbench", "video", *arguments.split()])
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    printed = capfd.readouterr().err
    assert sentence in printed
    assert printed.startswith("workbench: ")
    assert printed.count("\n") == 1
    assert ended.value.code == 2
    assert sorted(folder.rglob("*")) == before


@pytest.mark.slow
def test_a_process_with_bad_input_ends_with_2_and_no_traceback(folder: Path) -> None:
    done = workbench("video", "sound.mp3", "style.png", "-o", "out.mp4", cwd=folder)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


# --- true runs ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


Video = Callable[..., Said]


@pytest.fixture
def video(
    tiny: Settings,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Video:
    """Call `workbench video` in this process."""
    monkeypatch.chdir(folder)

    def call(*arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["workbench", "video", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return Said(int(ended.value.code or 0), *capfd.readouterr())

    return call


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("unbroken")
    write_good(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_WEIGHTS", str(folder / "weights"))
        patch.setitem(weights.BACKBONES, "tiny", tiny_backbone.tiny_backbone())
        patch.setattr(sys, "argv", ["workbench", "video", *RUN])
        patch.chdir(folder)
        with pytest.raises(SystemExit) as ended:
            cli.main()
    assert not ended.value.code
    return folder


def test_a_budget_is_that_of_the_steps_that_it_names(
    video: Video, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def paint(seconds: float, *arguments: str) -> Said:
        pace = Pace(((48.0 * 64, seconds),))
        monkeypatch.setattr(forecast, "time_steps", lambda problem: pace)
        monkeypatch.setattr(forecast, "_newest", [])
        return video(*RUN, "--end", "0.6", *arguments)

    said = paint(4.0, "--minutes", "0.1")
    assert said.code == 2
    assert "minutes = 0.1: a step at each scale takes 41 s; give more time" in said.err
    assert not (folder / "out.frames").exists()
    said = paint(0.29, "--minutes", "0.1")
    assert "In 0.1 min: --steps 6 --later-steps 3\n" in said.out
    assert "About 6 s on this machine" in said.out
    film = frame_path(folder / "out.frames", 2).read_bytes()
    frame_path(folder / "out.frames", 2).unlink()
    assert "--steps 6 --later-steps 3\n" in paint(0.1, "--minutes", "0.1").out
    assert frame_path(folder / "out.frames", 2).read_bytes() == film
    assert "belongs to another run" in paint(0.1).err
    told = ("--steps", "6", "--later-steps", "3")
    assert paint(0.1, *told).code == 0  # the same run


def test_a_clip_becomes_a_film_with_its_sound(video: Video, folder: Path) -> None:
    done = video(*RUN, "--end", "0.8")
    assert done.code == 0, done.err
    assert done.err == ""
    assert "4 frames of 64x48 px" in done.out
    assert "with sound" in done.out
    film = open_clip(folder / "out.mp4")
    assert (film.fps, film.shape, film.sound) == (5, (48, 64), True)
    assert len(list(read_frames(film))) == 4
    copied = sound_packets(folder / "out.mp4")
    assert copied == sound_packets(folder / "clip.mp4")[: len(copied)]
    assert frames_in(folder / "out.frames") == [f"{number:06d}.png" for number in range(4)]


def test_masks_and_colours_of_a_film(video: Video, folder: Path) -> None:
    half = np.zeros((48, 64, 3), np.uint8)
    half[:, :32] = 255
    Image.fromarray(half).save(folder / "half.png")
    run = [*RUN, "--init", "other.png", "--mode", "per-frame", "--original-colors", "luma"]
    run[run.index("22")] = "3"
    done = video(*run, "--mask", "half.png")
    assert done.code == 0, done.err
    assert "Of the picture: style 1 50%, no style 50%." in done.out
    sources = list(read_frames(open_clip(folder / "clip.mp4")))
    shown = read_frames(open_clip(folder / "out.mp4"))
    for number, (source, frame) in enumerate(zip(sources, shown, strict=True)):
        painted = load_image(frame_path(folder / "out.frames", number))
        expected = to_array(transfer_luma(painted, from_array(source)))
        assert np.abs(frame.astype(int) - expected).mean() < 12  # x264 thins colours out
        assert np.abs(to_array(painted).astype(int) - expected).mean() > 20
    assert "another run: masks is " in video(*run).err
    painted = (folder / "out.frames" / "000000.png").read_bytes()
    assert video(*run[:-2], "--mask", "half.png").code == 0  # other colours, the same painting
    assert (folder / "out.frames" / "000000.png").read_bytes() == painted


def test_a_mask_that_is_the_film_is_not_written_over(video: Video, folder: Path) -> None:
    mask = (folder / "clip.mp4").read_bytes()
    (folder / "mask.mp4").write_bytes(mask)
    done = video("clip.mp4", "style.png", "-o", "mask.mp4", "--mask", "mask.mp4")
    assert done.code == 2
    assert "mask.mp4" in done.err
    assert (folder / "mask.mp4").read_bytes() == mask


def test_a_film_that_cannot_be_written_is_found_out_first(video: Video) -> None:
    done = video("clip.mp4", "style.png", "-o", "text.jpg/out.mp4")
    assert done.code == 1
    assert "text.jpg/out.mp4 cannot be written" in done.err
    assert done.err.count("\n") == 1
    assert video("clip.mp4").code == 2


def run_and_kill(folder: Path, until: Callable[[], bool]) -> None:
    """Start a run and kill it, and all that it started, with no chance to tidy up."""
    process = subprocess.Popen(
        [*PROGRAM, *RUN],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    try:
        while not until():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.001)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_film(video: Video, folder: Path, unbroken: Path) -> None:
    frames = folder / "out.frames"
    killed = []
    for finished in sorted(random.sample(range(FRAMES - 1), 2)):
        run_and_kill(folder, lambda finished=finished: len(frames_in(frames)) >= finished + 1)
        killed.append(len(frames_in(frames)))
        assert not (folder / "out.mp4").exists()
    done = video(*RUN)
    assert done.code == 0, done.err
    for name in ("out.mp4", *(f"out.frames/{name}" for name in frames_in(frames))):
        same = (folder / name).read_bytes() == (unbroken / name).read_bytes()
        assert same, f"{name}, killed after frames {killed}"


def test_a_finished_run_is_not_painted_again(video: Video, folder: Path) -> None:
    def stamps() -> list[int]:
        return [path.stat().st_mtime_ns for path in sorted(folder.glob("out.frames/*.*"))]

    run = [*RUN, "--end", "0.5"]
    assert video(*run).code == 0
    film, before = (folder / "out.mp4").read_bytes(), stamps()
    assert video(*run).code == 0
    assert stamps() == before
    assert (folder / "out.mp4").read_bytes() == film


@pytest.mark.slow
def test_ctrl_c_says_how_many_frames_are_kept(video: Video, folder: Path) -> None:
    def kept() -> dict[str, bytes]:
        return {name: (frames / name).read_bytes() for name in frames_in(frames)}

    frames = folder / "out.frames"
    run = [*RUN, "--later-steps", "100", "--stop-change", "0"]
    code, printed = interrupt([*PROGRAM, *run], folder, rf" [1-4]/{FRAMES} ")
    assert code == 130, printed
    assert "Traceback" not in printed
    said = re.search(rf"Interrupted after (\d) of {FRAMES} frames; the same command", printed)
    assert said, printed
    assert len(list(frames.glob("[0-9]*.json"))) == int(said[1]) >= 1
    assert not (folder / "out.mp4").exists()
    assert not list(folder.glob(".*"))
    before = kept()
    assert video(*run).code == 0
    assert (folder / "out.mp4").exists()
    assert before.items() <= kept().items()
    assert len(kept()) == FRAMES


def test_another_style_into_the_same_film_is_refused(video: Video, folder: Path) -> None:
    run = [*RUN, "--end", "0.3"]
    assert video(*run).code == 0
    film = (folder / "out.mp4").read_bytes()
    for wrong, named in (
        (["other.png" if word == "style.png" else word for word in run], "style"),
        ([*run, "--style-weight", "50"], "style_weight"),
        ([*run, "--mode", "blended"], "mode"),
        ([*run, "--size", "48"], "frame size"),
    ):
        done = video(*wrong)
        assert done.code == 2
        assert re.search(rf"out\.frames belongs to another run: {named} (was|is) ", done.err)
        assert done.err.count("\n") == 1
    assert (folder / "out.mp4").read_bytes() == film


NO_MEMORY = RuntimeError(
    "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
)


@pytest.mark.parametrize("where", ["optimize", "find_motion"])
def test_where_memory_runs_out_the_finished_frames_stay(
    where: str, video: Video, folder: Path, unbroken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    module: Any = importlib.import_module(
        f"workbench.{'descent' if where == 'optimize' else 'video.modes'}"
    )
    name = "_paint" if where == "optimize" else where
    real = getattr(module, name)

    def without_memory(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise NO_MEMORY
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, without_memory)
        done = video(*RUN)
    assert done.code == 1
    assert done.err.startswith("workbench: memory ran out")
    assert done.err.rstrip().endswith("The finished frames are kept in out.frames.")
    assert done.err.count("\n") == 1
    assert 1 <= len(frames_in(folder / "out.frames")) < FRAMES
    assert video(*RUN).code == 0
    assert (folder / "out.mp4").read_bytes() == (unbroken / "out.mp4").read_bytes()


def test_frames_too_large_for_memory_are_refused_before_the_first(
    video: Video, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem: Any = importlib.import_module("workbench.problem")
    with monkeypatch.context() as patch:
        patch.setattr(problem, "free_megabytes", lambda device: 1.0)
        done = video(*RUN)
    assert done.code == 2
    assert "a painting of 64x48 pixels takes" in done.err
    assert done.err.count("\n") == 1
    assert video(*RUN, "--optimizer", "adam", "--end", "0.3").code == 0  # into the same folder


@contextmanager
def small_files_only(size: int) -> Iterator[None]:
    """A disk that is full for larger files."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_leaves_the_finished_frames(video: Video, folder: Path, unbroken: Path) -> None:
    largest = max(path.stat().st_size for path in (unbroken / "out.frames").iterdir())
    assert largest < 12_000 < (unbroken / "out.mp4").stat().st_size
    load_weights("tiny")  # its file is larger
    with small_files_only(12_000):
        done = video(*RUN)
    assert done.code == 1
    assert done.err.startswith("workbench: out.mp4 cannot be written: ")
    assert "free some space" in done.err
    assert done.err.count("\n") == 1
    assert not (folder / "out.mp4").exists()
    assert not list(folder.glob(".*"))
    assert len(frames_in(folder / "out.frames")) == FRAMES
    assert video(*RUN).code == 0
    assert (folder / "out.mp4").read_bytes() == (unbroken / "out.mp4").read_bytes()


def test_a_disk_full_of_frames_leaves_the_finished_ones(video: Video, folder: Path) -> None:
    (folder / "pictures").mkdir()
    for number in range(3):  # the last one takes the most bytes
        Image.new("RGB", (64, 48), "white").save(folder / "pictures" / f"{number}.png")
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "pictures" / "3.png")
    arguments = ["pictures", "style.png", "-o", "out.mp4", "--mode", "per-frame", *TINY]
    arguments += ["--steps", "1", "--style-weight", "1e-9"]
    load_weights("tiny")
    with small_files_only(8_000):
        done = video(*arguments)
    assert done.code == 1
    assert "out.frames/000003.png cannot be written" in done.err
    assert "free some space" in done.err
    assert frames_in(folder / "out.frames") == ["000000.png", "000001.png", "000002.png"]
    assert video(*arguments).code == 0
    assert len(frames_in(folder / "out.frames")) == 4


def test_a_clip_that_breaks_off_becomes_a_film_with_a_warning(video: Video, folder: Path) -> None:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, (48, 64, 3), dtype=np.uint8) for _ in range(10)]
    write_film(noise, folder / "whole.mp4", 5)
    whole = (folder / "whole.mp4").read_bytes()
    (folder / "broken.mp4").write_bytes(whole[: len(whole) * 6 // 10])
    there = len(list(read_frames(open_clip(folder / "broken.mp4"))))
    assert 1 <= there <= 8
    arguments = ["broken.mp4", "style.png", "-o", "out.mp4", "--steps", "1", *TINY]
    done = video(*arguments, "--later-steps", "1")
    assert done.code == 0
    assert f"broken.mp4 breaks off: {there} of 10 frames" in done.err
    assert done.err.count("\n") == 1
    assert len(list(read_frames(open_clip(folder / "out.mp4")))) == there
