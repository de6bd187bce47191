"""Clips and pictures -> painted ones, by style models."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path

import torch
from torch import Tensor

import workbench
from workbench.colour import check_original_colors, transfer_luma
from workbench.errors import InputError
from workbench.fast.models import StyleModel
from workbench.fast.schedule import Choice
from workbench.files import claimed
from workbench.images import Frame, from_array, resize_down, save_image, to_array
from workbench.progress import bar
from workbench.samples import load_picture
from workbench.video.clips import (
    Clip,
    check_film,
    join_films,
    open_clip,
    read_frames,
    write_film,
)
from workbench.video.frames import check_same_run
from workbench.video.modes import clip_identity
from workbench.weights import digest

PART = 100  # frames of a film between places where it can go on
_GPU_BATCH = 8


def paint_film(
    clip: Clip,
    models: Mapping[str, StyleModel],
    output: str | os.PathLike[str],
    *,
    choices: Sequence[Choice] | None = None,
    original_colors: str = "off",
    batch: int | None = None,
    quality: int = 18,
) -> int:
    """Paint a clip with style models into a film with the clip's sound.

    Frames are read, painted and written one after the other, so that memory does not grow with
    the clip. Every hundred frames lie as a film of their own in a folder beside `output` until
    all are done: stopped anywhere, the same call goes on there, with the same film. One with
    another end or other choices takes over the parts in which these make no difference.

    Parameters
    ----------
    clip
        From `clips.open_clip`.
    models
        By name, all on one device.
    output
        Ends in .mp4, .mov or .mkv.
    choices
        Which models paint each frame, from `schedule.choose_models`; None: the first, all.
    original_colors
        "luma": the brightness of the painting in the colours of the clip; else "off".
    batch
        Frames that are painted at a time; what comes out is the same. None: 8 on a GPU, else 1.
    quality
        As for `clips.write_film`.

    Returns
    -------
    int
        Number of frames; fewer than `clip.frames` if the clip breaks off.

    Raises
    ------
    InputError
        If the clip cannot be read, or the folder belongs to another clip or other models.
    OutputError
        If the film cannot be written.
    """
    output = Path(output)
    check_film(output, quality=quality)
    if batch is not None and batch < 1:
        raise InputError(f"batch = {batch}: give a number of frames from 1 on.")
    _check_colors(original_colors)
    first = next(iter(models))
    choices = choices or [((first, 1.0),)] * clip.frames
    batch = batch or (_GPU_BATCH if models[first].device.type == "cuda" else 1)
    digests = {name: digest(model.network.state_dict()) for name, model in models.items()}
    told = [[(digests[name], share) for name, share in choice] for choice in choices]
    folder = output.with_suffix(".parts")
    with claimed(folder):
        model = models[first]
        identity = {
            **clip_identity(clip),
            "models": sorted(digests.values()),
            "original_colors": original_colors,
            "quality": quality,
            "precision": str(model.dtype).removeprefix("torch."),
            "device": model.device.type,
            "workbench": workbench.__version__,
        }
        check_same_run(folder, identity)
        parts = _finished_parts(folder, told)
        done = sum(parts.values())
        if done % PART == 0:  # else the clip has ended
            frames = read_frames(clip, done)
            painted = _paint_frames(frames, models, choices[done:], batch, original_colors)
            shown = bar(painted, "painting", "frame", total=clip.frames, done=done)
            for frame in shown:
                part = _part(folder, done, told)
                some = chain([frame], islice(shown, PART - 1))
                parts[part] = write_film(some, part, clip.fps, quality=quality)
                done += parts[part]
        if not parts:
            raise InputError(f"{clip.path}: no frame can be decoded; get the file again.")
        join_films(list(parts), output, clip.fps, sound=clip)
    shutil.rmtree(folder, ignore_errors=True)
    return done


def _part(folder: Path, first: int, told: Sequence[object]) -> Path:
    """Film of up to `PART` frames from `first` on; its name says what paints them."""
    choices = json.dumps(told[first : first + PART]).encode()
    return folder / f"{first:06d}-{hashlib.sha256(choices).hexdigest()[:12]}.mp4"


def _finished_parts(folder: Path, told: Sequence[object]) -> dict[Path, int]:
    """Parts that are there, from the first on -> how many frames they have."""
    parts: dict[Path, int] = {}
    while (part := _part(folder, sum(parts.values()), told)).is_file():
        parts[part] = open_clip(part).frames
    return parts


def _paint_frames(
    frames: Iterable[Frame],
    models: Mapping[str, StyleModel],
    choices: Sequence[Choice],
    batch: int,
    original_colors: str,
) -> Iterator[Frame]:
    """Frames painted as chosen, one after the other."""
    pairs = zip(frames, choices, strict=False)
    while window := list(islice(pairs, batch)):
        pictures = torch.cat([from_array(frame) for frame, _ in window])
        painted = torch.zeros_like(pictures)
        shares = [dict(choice) for _, choice in window]
        for name, model in models.items():
            if numbers := [i for i, share in enumerate(shares) if share.get(name, 0) > 0]:
                share = torch.tensor([shares[i][name] for i in numbers]).view(-1, 1, 1, 1)
                painted[numbers] += share * model(pictures[numbers])
        if original_colors == "luma":
            painted = transfer_luma(painted, pictures)
        yield from map(to_array, painted.split(1))


def _check_colors(original_colors: str) -> None:
    """Refuse what would have to be known before a model learns its style."""
    check_original_colors(original_colors)
    if original_colors not in ("off", "luma"):
        raise InputError(
            f"original_colors = {original_colors!r}: that recolours the style picture, which a"
            " model has learned already; use luma or off."
        )


def paint_pictures(
    model: StyleModel,
    pictures: Sequence[str],
    folder: str | os.PathLike[str],
    *,
    size: int | None = None,
    original_colors: str = "off",
) -> list[str]:
    """Paint pictures into a folder, `photo.jpg` into `photo.png`.

    A picture that is there already, and is no older than its source, is kept: stopped anywhere,
    the same call goes on.

    Parameters
    ----------
    pictures
        Files, or sample pictures by their names.
    folder
        For the pictures of one model and size.
    size
        Longest side in pixels, at most; None: as they are.
    original_colors
        As for `paint_film`.

    Returns
    -------
    list of str
        A sentence about each picture that cannot be painted; the others are done.

    Raises
    ------
    InputError
        If the folder holds those of another model, or two pictures would have one name.
    OutputError
        If a picture cannot be written.
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
        identity = {
            "model": digest(model.network.state_dict()),
            "size": size,
            "original_colors": original_colors,
        }
        check_same_run(folder, identity)
        for target, name in bar(targets.items(), "painting", "picture", total=len(targets)):
            source = Path(name)
            if target.is_file() and (
                not source.is_file() or source.stat().st_mtime <= target.stat().st_mtime
            ):
                continue
            try:
                save_image(paint_picture(model, name, size, original_colors), target)
            except InputError as error:
                faults.append(str(error))
    return faults


def paint_picture(
    model: StyleModel, name: str, size: int | None = None, original_colors: str = "off"
) -> Tensor:
    """Load a picture by its name and paint it; `(1, 3, H, W)`, float32, sRGB in [0, 1].

    Parameters
    ----------
    size
        Longest side in pixels, at most; None: as it is.
    original_colors
        As for `paint_film`.
    """
    _check_colors(original_colors)
    picture = load_picture(name, for_size=size)
    if size is not None:
        picture = resize_down(picture, size)
    painted = model(picture)
    return transfer_luma(painted, picture) if original_colors == "luma" else painted
