"""Commands of style models."""

from __future__ import annotations

import contextlib
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from workbench import options
from workbench.errors import InputError
from workbench.settings import NOT_TRAINED, Settings, TrainingSettings

# As in `cli`, what loads torch is imported inside the commands.


@options.with_knobs(settings=Settings, training=TrainingSettings, leave_out=NOT_TRAINED)
@options.documented
def train(
    training: TrainingSettings,
    settings: Settings,
    style: Annotated[list[str] | None, options.STYLES] = None,
    on: list[str] | None = None,
    keyframe: list[str] | None = None,
    output: Annotated[Path, options.OUTPUT] = Path("models/model"),
    preview: str | None = None,
    label: list[str] | None = None,
) -> None:
    """Train a model that paints in the style of pictures at frames per second.

    Every hundred steps a checkpoint is written to the model's folder, with a preview. Stopped
    anywhere, the same command goes on; with more --training-steps or --minutes, also when it
    has ended.

    Example: workbench train sketch.png --on interview.mp4 -o models/sketch

    Example: workbench train --on walk.mp4 --keyframe 000120.png=painted.png -o models/walk

    Example: workbench train -o models/sketch --label 1200=good --label 300=weird

    Parameters
    ----------
    on
        What to learn on: a clip, a picture or a folder of pictures; may be given more than once.
        Best is the clip that is to be painted. [sample:photographs]
    keyframe
        A frame of the clip in --on and what somebody painted over it, as in
        000120.png=painted.png, of one size; may be given more than once. Its number counts from 0,
        or the frame is looked for around it if there is such a file. Without style pictures, it is
        the style.
    output
        Folder of the model.
    preview
        Picture to paint at every checkpoint. [one that is held out]
    label
        Name a checkpoint of the model in --output, as in 300='less good'; may be given more than
        once. Without style pictures nothing else is done.
    """
    from workbench.fast.models import label_checkpoint, read_folder
    from workbench.fast.training import finish_training, train_model
    from workbench.files import refuse_overwriting
    from workbench.samples import find_pictures

    labels = [options.step_label(text) for text in label or ()]
    painted = dict(map(options.keyframe_pair, keyframe or ()))
    learns = bool(style or painted)
    if not learns and not labels:
        raise InputError("give at least one style picture to learn, a --keyframe or a --label.")
    if learns:
        names = find_pictures(style or [])
        refuse_overwriting([output], [*names, *painted.values(), *(on or ()), preview or ""])
        iterates = train_model(
            names,
            on or ["sample:photographs"],
            output,
            settings=settings,
            training=training,
            preview=preview or "",
            keyframes=painted,
        )
        step = 0
        try:
            with contextlib.closing(iterates) as shown:
                for iterate in shown:
                    step = iterate.step
        except KeyboardInterrupt:
            options.interrupted(f"Interrupted after {step} steps; the same command goes on there.")
    for step, name in labels:
        label_checkpoint(output, step, name)
    result = finish_training(output)
    model = read_folder(output)
    if learns:
        print(
            f"{result.figures['steps']:.0f} steps in {result.seconds:.0f} s; the best is step"
            f" {model.best.step}, with a held-out loss of {model.best.held_out['total']:.4g}"
        )
        if model.skipped:
            print(f"{len(model.skipped)} training pictures could not be used: see model.json")
    for name, step in model.labels.items():
        checkpoint = f"{output}@{name.replace(' ', '-')}"
        print(f"  {shlex.quote(checkpoint)}  (step {step})")
    for name, path in result.outputs.items():
        print(f"  {output / path}  ({name})")


@options.documented
def apply(
    model: str,
    content: list[str],
    output: Annotated[str, options.OUTPUT],
    size: int | None = None,
    start: options.Start = "0",
    end: options.End = None,
    stride: options.Stride = 1,
    fps: options.Fps = None,
    original_colors: str = "off",
    strength: float = 1.0,
    style_blend_weights: str | None = None,
    batch: int | None = None,
    steady: options.Steady = 0.0,
    quality: options.Quality = 18,
    device: str = "auto",
    precision: str = "auto",
) -> None:
    """Paint a clip, with its own sound, or pictures with a model that `train` has made.

    Stopped anywhere, the same command goes on.

    Example: workbench apply models/sketch interview.mp4 -o painted.mp4

    Example: workbench apply models/sketch@less-good photos/ -o painted/

    Example: workbench apply models/three interview.mp4 -o half.mp4 --strength 0.5

    Parameters
    ----------
    model
        Model: its folder, with @label or @step behind it for one of its checkpoints, or a
        checkpoint's file; also a .pth file of fast_neural_style in pytorch/examples.
    content
        A clip, or pictures and folders of them; also sample:clip.
    output
        Film (.mp4, .mov, .mkv) or picture to write; for several pictures, a folder.
    size
        Longest side in pixels, at most. [as it is]
    original_colors
        Keep the colours of the clip or picture: luma takes the painting's brightness only. [off]
    strength
        Of the style, from 0, the picture as it is, to 1; below 1 for models of --strengths.
    style_blend_weights
        Shares of the styles of a model of --many, in their order, such as 3,0,1. [all alike]
    batch
        Frames painted at a time. [8 on a GPU, else 1]
    device
        auto, cpu, cuda, cuda:1, mps.
    precision
        auto, float32 or bfloat16.
    """
    from workbench.fast.applying import paint

    text = style_blend_weights
    shares = [] if text is None else options.numbers("style_blend_weights", text, float)
    try:
        made, faults = paint(
            model,
            content,
            output,
            size=size,
            original_colors=original_colors,
            device=device,
            precision=precision,
            strength=strength,
            style_blend_weights=shares,
            batch=batch,
            steady=steady,
            quality=quality,
            start=start,
            end=end,
            stride=stride,
            fps=fps,
        )
    except KeyboardInterrupt:
        options.interrupted("Interrupted; the same command goes on.")
    for fault in faults:
        print(f"workbench: {fault}", file=sys.stderr)
    print(made)
    if faults:
        raise typer.Exit(1)


@options.documented
def export(
    models: list[str], output: Annotated[str, options.OUTPUT], title: str = "", license: str = ""
) -> None:
    """Give models away: as ONNX, or as a web page that paints the camera.

    The page lies in one folder, with all that it needs; any web server shows it, and so does
    `python -m http.server`. It paints the visitor's camera, pictures and films in their browser.

    Example: workbench export models/sketch -o sketch.onnx

    Example: workbench export models/sketch models/oil@less-good -o site/live

    Parameters
    ----------
    models
        Models, as for `apply`; of a page, visitors choose one.
    output
        Model to write (.onnx), or folder for the page.
    title
        Heading of the page. [Painted live]
    license
        What others may do with the models, such as "CC BY 4.0"; noted in them and on the page.
    """
    from workbench.fast.live import share

    print(share(models, output, title=title, license=license))
