"""The demonstration: two notebooks on the samples, as large as takes little time here."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from workbench import notebook, samples, stills
from workbench.errors import WorkbenchError
from workbench.files import refuse_overwriting, write_bytes
from workbench.forecast import FilmOutline, Outline, Pace, schedule, time_steps
from workbench.problem import Problem
from workbench.runs import RESULT, read_result
from workbench.settings import MODES, ClipSettings, Settings
from workbench.video import clips

# A tight crop spends the pixels on the face, which a larger content weight keeps; few steps and
# frames keep this short.
_PHOTOGRAPH: dict[str, Any] = {"crop": [0.08, 0.0, 0.88, 0.8], "content_weight": 10.0}
_EFFORT = 55  # of a `schedule`: 40 steps at each scale
_CLIP: dict[str, Any] = {
    "start": 1.84,
    "end": 2.24,
    "stride": 2,
    "steps": [30, 40],
    "later_steps": 14,
    "content_weight": 10.0,
    "style_scale": 0.6,
}
# What fits into the seconds, at the largest of the sizes for which it does, or else the smallest.
_PHOTOGRAPH_SIZES, _PHOTOGRAPH_SECONDS = (384, 320, 256, 192), 36
_CLIP_SIZES, _CLIP_SECONDS = (224, 192, 160, 128), 95


def _sizes(output_dir: Path) -> list[int]:
    """Of the photograph and of the films; they stay in a folder, for what was stopped to go on."""
    path = output_dir / "sizes.json"
    try:
        photograph, clip = map(int, json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        own = notebook.find_notebook("stylize_image")
        refuse_overwriting([output_dir / own.name], [own])
        outline, pace = _timed()
        photograph, clip = _photograph_size(outline, pace), _clip_size(outline, pace)
        write_bytes(path, json.dumps([photograph, clip]).encode())
    return [photograph, clip]


def _timed() -> tuple[Outline, Pace]:
    """The photograph, and how fast it is painted here."""
    settings, crop = Settings(size=384), tuple(_PHOTOGRAPH["crop"])
    still = stills.load("sample:astronaut", ["sample:swirls"], settings, crop=crop)
    problem = Problem.of(still.content, still.styles, still.settings)
    return problem.outline, time_steps(problem)


def _photograph_size(outline: Outline, pace: Pace) -> int:
    def seconds(size: int) -> float:
        return outline.changed(size=size).scheduled(_EFFORT).seconds(pace)

    return _largest(_PHOTOGRAPH_SIZES, _PHOTOGRAPH_SECONDS, seconds)


def _clip_size(still: Outline, pace: Pace) -> int:
    clip = clips.open_clip(
        samples.find_clip("sample:clip"), start=_CLIP["start"], end=_CLIP["end"], stride=2
    )
    settings = Settings(steps=_CLIP["steps"], style_scale=_CLIP["style_scale"])
    films = [
        FilmOutline(
            **{**vars(still), "content": clip.shape, "settings": settings},
            frames=clip.frames,
            film=ClipSettings(mode=mode, later_steps=_CLIP["later_steps"]),
        )
        for mode in MODES
    ]

    def seconds(size: int) -> float:
        # The first frame is painted in the first mode alone.
        sized = [film.changed(size=size) for film in films]
        return sum(film.seconds(pace, after=number > 0) for number, film in enumerate(sized))

    return _largest(_CLIP_SIZES, _CLIP_SECONDS, seconds)


def _largest(sizes: Sequence[int], budget: float, seconds: Callable[[int], float]) -> int:
    return next((size for size in sizes if seconds(size) <= budget), sizes[-1])


def paint_photograph(output_dir: Path) -> None:
    """Run notebooks/stylize_image.ipynb with its samples."""
    print("Painting the sample photograph in the style of a sample painting.", flush=True)
    size, _ = _sizes(output_dir)
    steps = list(schedule(_EFFORT, size))
    _run("stylize_image", output_dir, {**_PHOTOGRAPH, "size": size, "steps": steps})


def paint_clip(output_dir: Path) -> None:
    """Run notebooks/compare_video.ipynb with its samples, into a folder in that of the picture."""
    print(f"\nPainting a moment of the sample clip in {len(MODES)} ways.", flush=True)
    _, size = _sizes(output_dir)
    _run("compare_video", output_dir / "clip", {**_CLIP, "size": size})


def _run(name: str, folder: Path, parameters: dict[str, Any]) -> None:
    notebook.prepare_process()
    output = folder / f"{name}.ipynb"
    try:
        notebook.run_notebook(
            notebook.find_notebook(name), output, {"output_dir": str(folder), **parameters}
        )
    except WorkbenchError as error:
        failed = notebook.failed_notebook(output)
        if not failed.is_file():
            raise
        sentence = str(error).rstrip(".")
        raise type(error)(f"{sentence} (the notebook up to there: {failed}).") from None


def list_files(output_dir: Path) -> Iterator[tuple[Path, str]]:
    """All that was made, each file with what it is."""
    for folder, name in ((output_dir, "stylize_image"), (output_dir / "clip", "compare_video")):
        result = read_result(folder)
        if result is None:
            raise WorkbenchError(f"{folder}: the notebook ended without a valid result.json.")
        for what, path in result.outputs.items():
            yield folder / path, what
        yield folder / f"{name}.ipynb", "notebook, executed"
        yield folder / RESULT, "result"
