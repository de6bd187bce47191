"""Clips and pictures -> painted ones, by style models."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workbench import images, samples
from workbench.colour import check_original_colors, transfer_luma
from workbench.devices import machine
from workbench.errors import InputError
from workbench.fast.models import StyleModel
from workbench.fast.network import TransformationNetwork
from workbench.fast.schedule import Choice
from workbench.files import PICTURE_SUFFIXES, claimed, refuse_overwriting
from workbench.images import Frame, from_array, resize_down, save_image, to_array
from workbench.progress import bar
from workbench.runs import Identity, same_run
from workbench.video import clips
from workbench.video.clips import Clip
from workbench.video.frames import clip_identity
from workbench.video.steady import check_steady, steadied

PART = 100  # frames of a film between places where it can go on
_GPU_BATCH = 8
_FINE = 8  # quality of a film that will be encoded again


def paint(
    model: str,
    content: Sequence[str],
    output: str,
    *,
    size: int | None = None,
    original_colors: str = "off",
    device: str = "auto",
    precision: str = "auto",
    strength: float = 1.0,
    style_blend_weights: Sequence[float] = (),
    batch: int | None = None,
    steady: float = 0.0,
    quality: int = 18,
    **part: Any,
) -> tuple[str, Sequence[str]]:
    """Paint a clip into a film, a picture into a picture, or pictures into a folder.

    Returns what was made, in a line or two, and a sentence about each picture that cannot be
    painted. Stopped anywhere, the same call goes on. `part` is `start`, `end`, `stride` and `fps`
    of a clip, as for `clips.open_clip`; what is not said here is as for `StyleModel.load`,
    `StyleModel.mixed` and `paint_film`.

    Parameters
    ----------
    content
        A clip, or pictures and folders of them; also samples by their names.
    output
        Says what is made: a film by its suffix, a picture by its own, else a folder.
    size
        Longest side in pixels, at most; None: as it is.
    original_colors
        "luma": the brightness of the painting in the colours of the content; else "off".
    steady
        As for `paint_film`, for films alone.
    """
    target = Path(output)
    refuse_overwriting(
        [target, target.with_suffix(".parts")], [model, model.rpartition("@")[0], *content]
    )
    kind, names = _what_to_paint(content, output)
    painter = StyleModel.load(model, device=device, precision=precision)
    painter = painter.mixed(strength, style_blend_weights)
    if painter.network.program != TransformationNetwork.program:
        print(f"{model} is a model of {painter.network.program}.")
    if steady and kind != "film":
        raise InputError(
            f"steady = {steady}: {target} is no film, and has no flicker; leave it out."
        )
    if kind == "folder":
        faults = paint_pictures(painter, names, target, size=size, original_colors=original_colors)
        done = len(names) - len(faults)
        return f"{done} of {len(names)} pictures painted: {target}", faults
    if kind == "picture":
        save_image(paint_picture(painter, names[0], size, original_colors), target)
        return f"  {target}", ()
    began = time.monotonic()
    clip = clips.open_clip(samples.find_clip(names[0]), size=size, **part)
    frames = paint_film(
        clip,
        {model: painter},
        target,
        original_colors=original_colors,
        batch=batch,
        steady=steady,
        quality=quality,
    )
    seconds = time.monotonic() - began
    made = f"{frames} frames of {clip.shape[1]}x{clip.shape[0]} px in {seconds:.0f} s"
    sound = "with sound" if clip.sound else "no sound"
    return f"{made} ({frames / seconds:.1f} a second), {sound}\n  {target}", ()


def _what_to_paint(content: Sequence[str], output: str) -> tuple[str, Sequence[str]]:
    """Whether a film, a picture or a folder of them is wanted, and names of what to read."""
    target, suffix = Path(output), Path(output).suffix.lower()
    is_folder = output.endswith(("/", os.sep)) or target.is_dir() or not suffix
    if suffix in clips.FORMATS and not is_folder:
        if len(content) > 1:
            raise InputError(f"{target} is a film; give one clip for it. {clips.MANY}")
        return "film", content
    pictures = samples.find_pictures(content)
    are_many = len(pictures) > 1 or any(map(os.path.isdir, content))
    if is_folder or (are_many and suffix not in PICTURE_SUFFIXES):  # one with a dot in its name
        return "folder", pictures
    images.check_picture_suffix(target)
    if len(pictures) > 1:
        raise InputError(f"{target} is one picture; for {len(pictures)}, name a folder.")
    return "picture", pictures


# --- films -------------------------------------------------------------------------------


def paint_film(
    clip: Clip,
    models: Mapping[str, StyleModel],
    output: str | os.PathLike[str],
    *,
    choices: Sequence[Choice] | None = None,
    original_colors: str = "off",
    batch: int | None = None,
    steady: float = 0.0,
    quality: int = 18,
) -> int:
    """Paint a clip with style models into a film with the clip's sound; returns how many frames.

    Frames are read, painted and written one after the other, so that memory does not grow with the
    clip. Every hundred frames lie as a film of their own in a folder beside `output` until all are
    done: stopped anywhere, the same call goes on there, with the same film. One with another end or
    other choices takes over the parts in which these make no difference; one with another clip or
    other models is refused. There are fewer than `clip.frames` frames if the clip breaks off.

    Parameters
    ----------
    models
        Models by their names, all on one device.
    choices
        Which models paint each frame, from `schedule.choose_models`; None: the first, all.
    original_colors, quality
        As for `paint` and `clips.write_film`.
    batch
        Frames that are painted at a time; what comes out is the same. None: 8 on a GPU, else 1.
    steady
        Strength with which the flicker is stilled, by `steady.steadied`; 0: not at all.
    """
    output = Path(output)
    clips.check_film(output, quality=quality)
    check_steady(steady)
    if batch is not None and batch < 1:
        raise InputError(f"batch = {batch}: give a number of frames from 1 on.")
    _check_colors(original_colors)
    name, first = next(iter(models.items()))
    choices = choices or [{name: 1.0}] * clip.frames
    batch = batch or (_GPU_BATCH if first.device.type == "cuda" else 1)
    digests = {name: model.digest for name, model in models.items()}
    painters = [{digests[name]: share for name, share in choice.items()} for choice in choices]
    folder = output.with_suffix(".parts")
    with claimed(folder):
        identity = {
            **clip_identity(clip),
            "models": sorted(digests.values()),
            "original_colors": original_colors,
            "quality": quality,
            **({"steady": steady} if steady else {}),
            **machine(first.device, first.dtype),
        }
        same_run(folder, Identity(identity))
        parts = _finished_parts(folder, painters, steady)
        done = sum(parts.values())
        if done % PART == 0:  # else the clip has ended
            frames = clips.read_frames(clip, done)
            painted = _paint_frames(frames, models, choices[done:], batch, original_colors)
            before = None
            if steady and done:
                last = to_array(images.load_image(_last_frame([*parts][-1])))
                before = last, next(clips.read_frames(clip, done - 1))
            shown = steadied(painted, steady, before=before)
            shown = bar(shown, "painting", "frame", total=clip.frames, done=done)
            for frame in shown:
                part = _part(folder, done, painters, steady)
                some: Iterator[Frame] = chain([frame], islice(shown, PART - 1))
                if steady:
                    some = _keeping_the_last(some, part)
                parts[part] = clips.write_film(some, part, clip.fps, quality=quality)
                done += parts[part]
        if not parts:
            raise InputError(f"{clip.path}: no frame can be decoded; get the file again.")
        clips.join_films(list(parts), output, clip.fps, sound=clip)
    shutil.rmtree(folder, ignore_errors=True)
    return done


def find_film(clip: Clip, model: StyleModel, folder: Path, *, original_colors: str = "off") -> Path:
    """Find the film of a clip by a model in a folder of such; it is painted if it is not there.

    It is hardly compressed, as it is to become part of another.
    """
    about = {**clip_identity(clip), "model": model.digest, "original_colors": original_colors}
    about |= machine(model.device, model.dtype)
    film = folder / f"{Identity(about).key}.mp4"
    if not film.exists():
        paint_film(clip, {"": model}, film, original_colors=original_colors, quality=_FINE)
    return film


def _keeping_the_last(frames: Iterable[Frame], part: Path) -> Iterator[Frame]:
    """Frames of a part; the next one goes on from exactly what the last shows."""
    for frame in frames:
        yield frame
    save_image(from_array(frame), _last_frame(part))


def _last_frame(part: Path) -> Path:
    return part.with_suffix(".png")


def _part(folder: Path, first: int, painters: Sequence[Choice], steady: float) -> Path:
    """Film of up to `PART` frames from `first` on; its name says what paints them.

    Steadied ones hang on all that come before.
    """
    identity = Identity({"painters": painters[0 if steady else first : first + PART]})
    return folder / f"{first:06d}-{identity.key}.mp4"


def _finished_parts(folder: Path, painters: Sequence[Choice], steady: float) -> dict[Path, int]:
    """Parts that are there, from the first on -> how many frames they have."""
    parts: dict[Path, int] = {}
    while (part := _part(folder, sum(parts.values()), painters, steady)).is_file():
        parts[part] = clips.open_clip(part).frames
    return parts


def _paint_frames(
    frames: Iterable[Frame],
    models: Mapping[str, StyleModel],
    choices: Sequence[Choice],
    batch: int,
    original_colors: str,
) -> Iterator[tuple[Frame, Frame]]:
    """Frames painted as chosen, one after the other, each with what it was painted from."""
    pairs = zip(frames, choices, strict=False)
    while window := list(islice(pairs, batch)):
        pictures = torch.cat([from_array(frame) for frame, _ in window])
        painted = torch.zeros_like(pictures)
        for name, model in models.items():
            shares = torch.tensor([choice.get(name, 0.0) for _, choice in window])
            own = shares > 0
            if own.any():
                painted[own] += shares[own].view(-1, 1, 1, 1) * model(pictures[own])
        if original_colors == "luma":
            painted = transfer_luma(painted, pictures)
        sources = (frame for frame, _ in window)
        yield from zip(map(to_array, painted.split(1)), sources, strict=True)


def _check_colors(original_colors: str) -> None:
    """Refuse what would have to be known before a model learns its style."""
    check_original_colors(original_colors)
    if original_colors not in ("off", "luma"):
        raise InputError(
            f"original_colors = {original_colors!r}: that recolours the style picture, which a"
            " model has learned already; use luma or off."
        )


# --- pictures ----------------------------------------------------------------------------


def paint_pictures(
    model: StyleModel,
    pictures: Sequence[str],
    folder: str | os.PathLike[str],
    *,
    size: int | None = None,
    original_colors: str = "off",
) -> list[str]:
    """Paint pictures into a folder, `photo.jpg` into `photo.png`.

    The folder is for the pictures of one model and size. One that is there already, and is no older
    than its source, is kept: stopped anywhere, the same call goes on. Returns a sentence about each
    picture that cannot be painted; the others are done.
    """
    folder = Path(folder)
    _check_colors(original_colors)
    targets: dict[Path, str] = {}
    for name in pictures:
        target = folder / f"{Path(name.rpartition(':')[2]).stem}.png"
        if target in targets:
            raise InputError(
                f"{targets[target]} and {name} would both become {target}; rename one."
            )
        targets[target] = name
    faults = []
    with claimed(folder):
        identity = {"model": model.digest, "size": size, "original_colors": original_colors}
        same_run(folder, Identity(identity))
        for target, name in bar(targets.items(), "painting", "picture", total=len(targets)):
            if _is_up_to_date(target, Path(name)):
                continue
            try:
                save_image(paint_picture(model, name, size, original_colors), target)
            except InputError as error:
                faults.append(str(error))
    return faults


def _is_up_to_date(target: Path, source: Path) -> bool:
    return target.is_file() and (
        not source.is_file() or source.stat().st_mtime <= target.stat().st_mtime
    )


def paint_picture(
    model: StyleModel, name: str, size: int | None = None, original_colors: str = "off"
) -> Tensor:
    """Load a picture by its name and paint it; `(1, 3, H, W)`, float32, sRGB in [0, 1]."""
    _check_colors(original_colors)
    picture = samples.load_picture(name, for_size=size)
    if size is not None:
        picture = resize_down(picture, size)
    painted = model(picture)
    return transfer_luma(painted, picture) if original_colors == "luma" else painted
