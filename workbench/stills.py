"""A still that is painted and saved: for the command, the notebook and the panel.

>>> still, recorder = load("photo.jpg", ["starry.jpg"], Settings(size=384)), Recorder()
>>> checkpoints = keep(still, recorder, Path("painted.checkpoint"))
>>> for iterate in paint(still, Path("painted.png"), checkpoints):
...     recorder.add(iterate)
>>> paths = {"picture": Path("painted.png"), "gif": Path("progress.gif")}
>>> save(still, recorder, iterate, paths)
>>> checkpoints.remove()
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workbench import images, progress, runs, samples, sheets
from workbench.checkpoints import Checkpoints
from workbench.colour import check_original_colors, match_colors
from workbench.descent import Iterate, measure, optimize
from workbench.errors import OptimizationError, OutputError
from workbench.files import check_writable, refuse_overwriting
from workbench.forecast import FEW_STEPS, MOST_EFFORT, Outline, check_minutes, expect
from workbench.images import Box, Frame, from_array, save_image, to_array
from workbench.problem import Problem
from workbench.settings import Settings
from workbench.video import clips
from workbench.weights import load_weights

ENLARGED_STYLE, ENLARGED_START = 3, 4  # times, beyond which there are strokes without edges
INPUT_SIDE = 640  # px; longest side of the small pictures of what went in


@dataclass(frozen=True, eq=False)
class Still:
    """What a painting is made of."""

    content: Tensor  # the photograph, (1, 3, H, W), sRGB in [0, 1]
    styles: Sequence[Tensor]  # likewise
    settings: Settings
    masks: Sequence[Tensor] = ()  # where each style belongs, (1, 1, h, w); none: everywhere
    alpha: Tensor | None = None  # how opaque the photograph is, (1, 1, H, W); None: wholly
    original_colors: str = "off"  # one of `colour.ORIGINAL_COLORS`

    @property
    def outline(self) -> Outline:
        """What time and memory depend on; float32 where its precision is not known yet."""
        precision = torch.bfloat16 if self.settings.precision == "bfloat16" else torch.float32
        styles = tuple(images.shape_of(style) for style in self.styles)
        content = images.shape_of(self.content)
        return Outline(content, styles, self.settings, len(self.masks), precision)

    def problem(self) -> Problem:
        """The loss that is minimised; raises as `optimize` does."""
        return Problem.of(self.content, self.styles, self.settings, self.masks)

    def inputs(self) -> dict[str, Tensor]:
        """What went in: "content", "style 1", "style 2" and so on."""
        styles = {f"style {number}": each for number, each in enumerate(self.styles, start=1)}
        return {"content": self.content, **styles}


def load(
    content: str,
    styles: Sequence[str],
    settings: Settings,
    *,
    masks: Sequence[str] = (),
    crop: Box | None = None,
    original_colors: str = "off",
) -> Still:
    """Load pictures no larger than they are needed, and recolour the styles if that is asked for.

    Where a style, or the picture to start from, is too small for the size, it says what helps.
    Pictures are files, or samples by their names. Masks are white where a style belongs, one for
    each style; none: everywhere. `crop` is a part of the photograph, and of the masks: left, top,
    right, bottom from 0 to 1. `original_colors` is one of `colour.ORIGINAL_COLORS`.
    """
    check_original_colors(original_colors)
    size = settings.largest
    photo, alpha = samples.load_with_alpha(content, for_size=size, crop=crop)
    loaded = [samples.load_picture(name, for_size=size) for name in styles]
    still = Still(
        photo,
        [match_colors(style, photo, original_colors) for style in loaded],
        settings,
        [images.load_mask(name, for_size=size, crop=crop) for name in masks],
        alpha,
        original_colors,
    )
    _say_enlarged(still.outline)
    return still


def _say_enlarged(outline: Outline) -> None:
    """Print which pictures have so few pixels that the painting would be soft, and what helps."""
    settings, size = outline.settings, max(outline.shape)
    for number, style in enumerate(outline.styles, start=1):
        times = max(outline.style_shape(style, size)) / max(style)
        scale = math.floor(100 * ENLARGED_STYLE * max(style) / size) / 100
        if times > ENLARGED_STYLE and 0 < scale < settings.style_scale:
            print(
                f"Style {number} ({style[1]}x{style[0]} pixels) is enlarged {times:.1f} times,"
                f" which makes strokes large and soft; --style-scale {scale} gives sharp ones."
            )
    if settings.init not in ("content", "random"):
        side = max(images.shape_of(images.load_image(settings.init, for_size=size)))
        times = max(outline.scales[0][0]) / side
        if times > ENLARGED_START:
            missing = math.ceil(math.log2(times / ENLARGED_START))
            steps = ",".join(map(str, [*settings.steps[:1] * missing, *settings.steps]))
            print(
                f"{settings.init} is enlarged {times:.1f} times in one move, which leaves the grid"
                f" of its pixels; --steps {steps} goes there by way of smaller sizes."
            )


def say_masks(masks: Sequence[Tensor], shape: Sequence[int], what: str) -> None:
    """Print which share of a picture of that height and width each style gets."""
    if not masks:
        return
    height, width = shape
    for number, mask in enumerate(masks, start=1):
        if tuple(mask.shape[-2:]) != (height, width):
            print(
                f"Mask {number} is {mask.shape[-1]}x{mask.shape[-2]} pixels and {what}"
                f" {width}x{height}: the mask is stretched."
            )
    shares = [float(mask.mean()) for mask in images.share_masks(masks, (height, width))]
    told = [f"style {number} {share:.0%}" for number, share in enumerate(shares, start=1)]
    print(f"Of the picture: {', '.join(told)}, no style {1 - sum(shares):.0%}.", flush=True)


def check_paths(
    paths: Mapping[str, Path],
    inputs: Iterable[str],
    *,
    beside: Iterable[Path] = (),
    gif_megabytes: float | None = None,
    bits: int = 8,
) -> None:
    """Refuse before long work paths that `save` could not write to.

    `inputs` are names of all that is read, which must not be written over; `beside` is what else is
    written: snapshots, the unfinished picture, the folder of checkpoints.
    """
    for name, path in paths.items():
        if name == "gif":
            sheets.check_gif(path, max_megabytes=gif_megabytes)
        elif name == "mp4":
            clips.check_film(path)
        else:
            images.check_picture_suffix(path, bits if name == "picture" else 8)
    refuse_overwriting([*paths.values(), *beside], inputs)
    for path in paths.values():
        check_writable(path)


def keep(
    still: Still, recorder: progress.Recorder, folder: Path, *, anew: bool = False
) -> Checkpoints:
    """Checkpoints of a painting, to be removed once it is saved; `anew`: without those there.

    `recorder` is new, and goes on with the painting.
    """
    told = {"original_colors": still.original_colors}
    return Checkpoints(folder, recorder=recorder, resume=not anew, told=told)


def within(still: Still, minutes: float, checkpoints: Checkpoints) -> Still:
    """The still with the steps that give the best picture in so many minutes, and say which.

    Where one of `checkpoints` is of this still, but for its steps, these are kept.
    """
    check_minutes(minutes)
    problem = still.problem()
    steps = checkpoints.kept(problem.identity(None), "steps")
    settings = (
        still.settings.changed(steps=steps)
        if steps is not None
        else expect(problem, problem.outline).fitted(minutes).settings
    )
    chosen = ",".join(map(str, settings.steps))
    print(f"In {minutes:g} min: --size {settings.size} --steps {chosen}", flush=True)
    if settings.steps[-1] < FEW_STEPS:
        print("These are few: a smaller size would be painted better in that time.", flush=True)
    return replace(still, settings=settings)


def paint(
    still: Still,
    picture: Path,
    checkpoints: Checkpoints,
    *,
    newest: Path | None = None,
    save_every: int | None = None,
) -> Generator[Iterate]:
    """Paint with a progress bar; stopped anywhere, the same call goes on.

    The consumer adds every iterate to the recorder of `checkpoints`, which `keep` has made. If the
    loss explodes or memory runs out, the `OptimizationError` names the picture so far.

    Parameters
    ----------
    picture
        File that the painting will be saved as, which snapshots are named after.
    newest
        Keeps the picture so far while it is being painted, and when that ends before its time;
        None: `picture`.
    save_every
        Steps between two snapshots; None: no snapshots.
    """
    newest = newest or picture
    problem = still.problem()
    _check_disk(problem.outline, picture, checkpoints.folder)
    expected = expect(problem, problem.outline)
    del problem
    iterates = optimize(
        still.content, still.styles, still.settings, masks=still.masks, checkpoints=checkpoints
    )
    iterates = progress.show_progress(iterates, expected=expected)
    iterates = progress.keep_colors(iterates, still.content, still.original_colors)
    if save_every is not None:
        iterates = progress.save_every(iterates, picture, save_every)
    try:
        with contextlib.closing(progress.keep_latest(iterates, newest)) as iterates:
            yield from iterates
    except OptimizationError as error:
        kept = f" The last good picture is {newest}." if newest.is_file() else ""
        raise type(error)(f"{error}{kept}", error.last_good) from error


def _check_disk(outline: Outline, picture: Path, checkpoints: Path) -> None:
    """Refuse what the disk cannot hold; say it of checkpoints, without which a painting ends."""
    height, width = outline.shape

    def free(path: Path) -> float:
        there = next(each for each in path.absolute().parents if each.exists())
        return shutil.disk_usage(there).free / 2**30

    saved = 9 * height * width / 2**30  # in 16 bits, and the newest beside it in 8
    if free(picture) < saved:
        raise OutputError(
            f"{picture}: its disk has {free(picture):.1f} GB free, and {width}x{height} pixels take"
            f" {saved:.1f} GB; free some space or name another disk."
        )
    needed = 2 * outline.checkpoint_megabytes() / 1024  # one beside the one before
    if free(checkpoints) < needed:
        print(
            f"{checkpoints}: its disk has {free(checkpoints):.1f} GB free, and to go on after a"
            f" stop takes {needed:.1f} GB; stopped at full size, the painting would begin anew.",
            flush=True,
        )


def save(
    still: Still,
    recorder: progress.Recorder,
    iterate: Iterate,
    paths: Mapping[str, Path],
    *,
    fps: float = 5.0,
    gif_megabytes: float | None = None,
    moves: Sequence[int] = (),
    bits: int = 8,
) -> None:
    """Write the picture of the last iterate, and what else is asked for.

    Parameters
    ----------
    paths
        Name -> file. Names are "picture"; "gif" and "mp4", the progress as a film; "strip", six
        stages of it; "losses", their curves; "comparison", the inputs and the picture side by side;
        and those of `Still.inputs`, small copies.
    fps, gif_megabytes
        Frames a second of the GIF and the MP4, and the largest size of the GIF; None: any.
    moves
        Steps at which settings were changed, for the curves.
    bits
        Of a colour of the picture, as for `images.save_image`.
    """
    inputs = still.inputs()
    for name, path in paths.items():
        match name:
            case "picture":
                save_image(iterate.image, path, alpha=still.alpha, bits=bits)
            case "gif":
                sheets.save_gif(_film(recorder), path, fps=fps, max_megabytes=gif_megabytes)
            case "mp4":
                clips.save_mp4(_film(recorder), path, fps=fps)
            case "strip":
                save_image(from_array(sheets.progress_strip(recorder)), path)
            case "losses":
                sheets.save_plot(sheets.plot_losses(recorder, moves), path)
            case "comparison":
                save_side_by_side({**inputs, "painting": iterate.image}, path, height=360)
            case _:
                save_image(images.resize_down(inputs[name], INPUT_SIDE), path)


def paint_files(
    content: str,
    style: str | Sequence[str],
    wanted: Mapping[str, Path | None],
    settings: Settings,
    *,
    masks: Sequence[str] = (),
    crop: Box | None = None,
    original_colors: str = "off",
    save_every: int | None = None,
    gif_megabytes: float | None = None,
    bits: int = 8,
    anew: bool = False,
    minutes: float | None = None,
) -> Iterate:
    """Paint a still into files, all that `workbench stylize` does; returns the last iterate.

    Stopped anywhere, the same call goes on: checkpoints and `unfinished` lie beside the picture.
    After Ctrl-C, the sentence of the `KeyboardInterrupt` says how far it came.

    Styles are files, folders of them, or samples. `wanted` are paths as `save` takes them,
    "picture" among them; None: not wanted. All else is as for `load`, `within`, `paint`, `save` and
    `keep`.
    """
    paths = {name: path for name, path in wanted.items() if path is not None}
    picture, styles = paths["picture"], samples.find_pictures(style)
    newest, folder = unfinished(picture), picture.with_suffix(".checkpoint")
    most = sum(settings.steps) if minutes is None else 2 * MOST_EFFORT
    steps = range(save_every, most, save_every) if save_every else ()
    check_paths(
        paths,
        [content, *styles, *masks, settings.init],
        beside=[newest, folder, *(progress.snapshot_path(picture, step) for step in steps)],
        gif_megabytes=gif_megabytes,
        bits=bits,
    )
    still = load(content, styles, settings, masks=masks, crop=crop, original_colors=original_colors)
    say_masks(still.masks, still.content.shape[-2:], "the photograph")
    recorder = progress.Recorder()
    checkpoints = keep(still, recorder, folder, anew=anew)
    if minutes is not None:
        still = within(still, minutes, checkpoints)
    iterates = paint(still, picture, checkpoints, newest=newest, save_every=save_every)
    try:
        with contextlib.closing(iterates):
            for iterate in iterates:
                recorder.add(iterate)
    except KeyboardInterrupt:
        done = recorder.steps[-1] if recorder.steps else 0
        raise KeyboardInterrupt(f"Interrupted after {done} steps") from None
    save(still, recorder, iterate, paths, gif_megabytes=gif_megabytes, bits=bits)
    checkpoints.remove()
    return iterate


def unfinished(picture: Path) -> Path:
    """Where `paint_files` keeps the picture so far."""
    return picture.with_name(f"{picture.stem}.unfinished.png")


def save_side_by_side(pictures: Mapping[str, Tensor], path: Path, *, height: int = 300) -> None:
    """Write pictures with their names below as one, without the numbers of styles."""
    captions = [name.split()[0] for name in pictures]
    sheets.save_strip([*map(to_array, pictures.values())], captions, path, height=height)


def _film(recorder: progress.Recorder) -> list[Frame]:
    return [snapshot.frame for snapshot in recorder.snapshots()]


def finish(
    still: Still,
    folder: str | os.PathLike[str],
    paths: Mapping[str, Path],
    told: Mapping[str, Any],
    *,
    figures: Mapping[str, float],
    seconds: float | None = None,
) -> runs.Result:
    """Measure the picture as it was saved, in float32, and write `result.json`.

    `folder` is from `runs.start_run`; `paths` are what `save` has written, "picture" among them.
    `told` is everything that the run was told, and `figures` what else is counted, such as "steps".
    `seconds` is how long the run took; None: since `runs.start_run`.
    """
    picture = images.load_image(paths["picture"])
    losses = measure(picture, still.content, still.styles, still.settings, masks=still.masks)
    return runs.finish_run(
        folder,
        outputs=paths,
        figures={**losses.figures(), **figures},
        settings=told,
        weights=load_weights(still.settings.backbone).as_dict(),
        machine=still.problem().machine(),
        seconds=seconds,
    )
