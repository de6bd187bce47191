"""A thin command line over the same functions."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

import workbench
from workbench.errors import InputError, OptimizationError, WorkbenchError
from workbench.settings import PRESETS, Settings

if TYPE_CHECKING:
    from workbench.images import Box

# Everything that loads torch is imported inside the commands: `--help` answers at once.

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Paint photographs in the style of other pictures, with neural style transfer.",
)
weights_app = typer.Typer(
    invoke_without_command=True,
    rich_markup_mode=None,
    help="List the pretrained weights: which are on this machine, and where they come from.",
)
app.add_typer(weights_app, name="weights")

DEFAULTS = Settings()


def main() -> None:
    """Run the command line; errors of the workbench become one sentence and an exit code."""
    debug = "--debug" in sys.argv
    try:
        app(args=[arg for arg in sys.argv[1:] if arg != "--debug"], prog_name="workbench")
    except WorkbenchError as error:
        if debug:
            raise
        print(f"workbench: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except Exception as error:
        if debug:
            raise
        message = str(error).strip().splitlines() or ["no message"]
        print(
            f"workbench: {type(error).__name__}: {message[0]} (add --debug for the whole story)",
            file=sys.stderr,
        )
        sys.exit(1)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"workbench {workbench.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Say the version."),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the whole traceback of an error.")
    ] = False,
) -> None:
    """Options that all commands share."""


@app.command()
def demo(
    output_dir: Annotated[
        Path, typer.Option("--output-dir", "-o", help="Folder to write to.")
    ] = Path("runs/demo"),
) -> None:
    """Paint a sample photograph: a picture, its progress GIF and MP4, a loss plot, a notebook.

    Runs notebooks/stylize_image.ipynb headless with its sample pictures.
    """
    from workbench.notebook import find_notebook, run_notebook
    from workbench.runs import read_result

    start = time.monotonic()
    print("Painting the sample photograph in the style of a sample painting.", flush=True)
    notebook = find_notebook("stylize_image")
    # A tight crop spends the pixels on the face; 400 px keeps this under a minute.
    parameters = {"output_dir": str(output_dir), "size": 400, "crop": [0.08, 0.0, 0.88, 0.8]}
    try:
        run_notebook(notebook, output_dir / notebook.name, parameters)
    except KeyboardInterrupt:
        _stop_with("Interrupted", output_dir / "picture.unfinished.png")
    result = read_result(output_dir)
    if result is None:
        raise WorkbenchError(f"{output_dir}: the notebook ended without a valid result.json.")
    print(f"\nDone in {time.monotonic() - start:.0f} s. Look at:")
    for name, path in result.outputs.items():
        print(f"  {output_dir / path}  ({name})")
    print(f"  {output_dir / notebook.name}  (notebook, executed)")
    print(f"  {output_dir / 'result.json'}  (result)")


def _help(text: str, field: str) -> str:
    value = getattr(DEFAULTS, field)
    shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
    return f"{text} [{shown if shown != '' else 'all alike'}]"


@app.command()
def stylize(
    content: Annotated[
        str, typer.Argument(help="Photograph to paint: a picture file, or sample:astronaut.")
    ],
    style: Annotated[
        list[str],
        typer.Argument(
            help="One or more style pictures: files, or sample:swirls, sample:hatching,"
            " sample:mosaic."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Picture file to write.")],
    gif: Annotated[
        Path | None, typer.Option(help="Also write the progress as a GIF to this file.")
    ] = None,
    gif_megabytes: Annotated[
        float | None, typer.Option(help="Largest size of the GIF; picks its size and colours.")
    ] = None,
    mp4: Annotated[
        Path | None, typer.Option(help="Also write the progress as an MP4 to this file.")
    ] = None,
    strip: Annotated[
        Path | None, typer.Option(help="Also write six stages side by side to this file.")
    ] = None,
    losses: Annotated[
        Path | None, typer.Option(help="Also write a plot of the losses to this picture file.")
    ] = None,
    crop: Annotated[
        str | None,
        typer.Option(
            help="Part of the photograph, as left,top,right,bottom from 0 to 1, e.g. 0.2,0,0.8,1."
        ),
    ] = None,
    preset: Annotated[
        str, typer.Option(help=f"Where the other options start from: {', '.join(PRESETS)}.")
    ] = "normal",
    size: Annotated[int | None, typer.Option(help=_help("Longest side in pixels.", "size"))] = None,
    steps: Annotated[
        str | None,
        typer.Option(
            help=_help("Steps at each scale from coarse to fine, the last at --size.", "steps")
        ),
    ] = None,
    content_weight: Annotated[
        float | None,
        typer.Option(help=_help("Larger keeps more of the photograph.", "content_weight")),
    ] = None,
    style_weight: Annotated[
        float | None, typer.Option(help=_help("Larger gives more brushwork.", "style_weight"))
    ] = None,
    tv_weight: Annotated[
        float | None, typer.Option(help=_help("Larger gives a smoother picture.", "tv_weight"))
    ] = None,
    style_scale: Annotated[
        float | None, typer.Option(help=_help("Larger gives larger strokes.", "style_scale"))
    ] = None,
    content_layers: Annotated[
        str | None, typer.Option(help=_help("Layers to keep content at.", "content_layers"))
    ] = None,
    style_layers: Annotated[
        str | None, typer.Option(help=_help("Layers to match style at.", "style_layers"))
    ] = None,
    style_layer_weights: Annotated[
        str | None,
        typer.Option(help=_help("A factor for each style layer.", "style_layer_weights")),
    ] = None,
    style_blend_weights: Annotated[
        str | None,
        typer.Option(help=_help("Share of each style picture.", "style_blend_weights")),
    ] = None,
    optimizer: Annotated[
        str | None, typer.Option(help=_help("lbfgs or adam.", "optimizer"))
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help=_help("Step of Adam in grey levels.", "learning_rate"))
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(help=_help("Start from content, random or a picture file.", "init")),
    ] = None,
    seed: Annotated[int | None, typer.Option(help=_help("Of the random start.", "seed"))] = None,
    backbone: Annotated[str | None, typer.Option(help=_help("vgg16 or vgg19.", "backbone"))] = None,
    pooling: Annotated[
        str | None, typer.Option(help=_help("max, average or l2.", "pooling"))
    ] = None,
    device: Annotated[
        str | None, typer.Option(help=_help("auto, cpu, cuda, cuda:1, mps.", "device"))
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help=_help("auto, float32 or bfloat16.", "precision"))
    ] = None,
) -> None:
    """Paint a photograph in the style of other pictures.

    Example: workbench stylize photo.jpg starry.jpg -o painted.png --size 512 --gif progress.gif
    """
    changes: dict[str, Any] = {
        "size": size,
        "steps": _numbers("steps", steps, int),
        "content_weight": content_weight,
        "style_weight": style_weight,
        "tv_weight": tv_weight,
        "style_scale": style_scale,
        "content_layers": _names(content_layers),
        "style_layers": _names(style_layers),
        "style_layer_weights": _numbers("style-layer-weights", style_layer_weights, float),
        "style_blend_weights": _numbers("style-blend-weights", style_blend_weights, float),
        "optimizer": optimizer,
        "learning_rate": learning_rate,
        "init": init,
        "seed": seed,
        "backbone": backbone,
        "pooling": pooling,
        "device": device,
        "precision": precision,
    }
    settings = Settings.from_preset(
        preset, **{name: value for name, value in changes.items() if value is not None}
    )
    _paint(
        content,
        style,
        output,
        settings,
        crop=_box(crop),
        gif=gif,
        gif_megabytes=gif_megabytes,
        mp4=mp4,
        strip=strip,
        losses=losses,
    )


def _paint(
    content: str,
    styles: list[str],
    output: Path,
    settings: Settings,
    *,
    crop: Box | None,
    gif: Path | None,
    gif_megabytes: float | None,
    mp4: Path | None,
    strip: Path | None,
    losses: Path | None,
) -> None:
    from workbench import progress
    from workbench.files import check_writable
    from workbench.images import check_picture_suffix, save_image
    from workbench.optimize import optimize
    from workbench.samples import load_picture
    from workbench.video import clips

    for picture in (output, strip, losses):
        if picture is not None:
            check_picture_suffix(picture)
    for path in (output, gif, mp4, strip, losses):
        if path is not None:
            check_writable(path)
    if gif is not None:
        progress.check_gif(gif, max_megabytes=gif_megabytes)
    if mp4 is not None:
        clips.check_film(mp4)
    photo = load_picture(content, crop=crop)
    paintings = [load_picture(style) for style in styles]
    recorder = progress.Recorder()
    start = time.monotonic()
    iterates = progress.show_progress(optimize(photo, paintings, settings))
    unfinished = output.with_name(f"{output.stem}.unfinished.png")
    try:
        for iterate in progress.keep_latest(iterates, unfinished):
            recorder.add(iterate)
    except KeyboardInterrupt:
        _stop_with(
            f"Interrupted after {recorder.steps[-1] if recorder.steps else 0} steps", unfinished
        )
    except OptimizationError as error:
        kept = f" The last good picture is {unfinished}." if unfinished.is_file() else ""
        raise WorkbenchError(f"{error}{kept}") from error
    save_image(iterate.image, output)
    frames = [snapshot.frame for snapshot in recorder.snapshots()]
    if gif is not None:
        progress.save_gif(frames, gif, max_megabytes=gif_megabytes)
    if mp4 is not None:
        clips.save_mp4(frames, mp4)
    if strip is not None:
        progress.save_progress_strip(recorder, strip)
    if losses is not None:
        progress.save_plot(progress.plot_losses(recorder), losses)
    height, width = iterate.image.shape[-2:]
    loss = iterate.losses
    print(
        f"{width}x{height} px in {time.monotonic() - start:.0f} s; loss {loss.total:.4g}"
        f" = content {loss.content_total:.4g} + style {loss.style_total:.4g} + tv {loss.tv:.4g}"
    )
    for path in (output, gif, mp4, strip, losses):
        if path is not None:
            print(f"  {path}")


def _stop_with(why: str, unfinished: Path) -> NoReturn:
    """End after Ctrl-C, saying what is kept."""
    kept = f"the picture so far is {unfinished}" if unfinished.is_file() else "nothing was made yet"
    print(f"\n{why}: {kept}.", file=sys.stderr)
    raise typer.Exit(130)


@weights_app.callback()
def weights(context: typer.Context) -> None:
    """List the pretrained weights: which are on this machine, and where they come from."""
    if context.invoked_subcommand is not None:
        return
    from workbench.weights import BACKBONES, cache_folder, cached_weights

    print(f"Weights are kept in {cache_folder()}")
    for name, backbone in BACKBONES.items():
        cached = cached_weights(name)
        if cached is None:
            sources = ", else ".join(source.title for source in backbone.sources)
            print(f"{name}: not on this machine; comes from {sources}")
        else:
            print(f"{name}: here, from {cached.source}, sha256 {cached.sha256}")


@weights_app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="vgg16 or vgg19.")] = "vgg16",
) -> None:
    """Fetch weights now, so that this machine can be offline later."""
    from workbench.weights import cache_path, load_weights

    loaded = load_weights(name)
    print(f"{name}: {cache_path(name)}, from {loaded.source}, sha256 {loaded.sha256}")


def _numbers(option: str, text: str | None, kind: type) -> list[Any] | None:
    """Read "60,100" as a list of numbers."""
    if text is None:
        return None
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--{option} {text}: give numbers with commas between them.") from None


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [part.strip() for part in text.split(",")]


def _box(text: str | None) -> Box | None:
    numbers = _numbers("crop", text, float)
    if numbers is None:
        return None
    if len(numbers) != 4:
        raise InputError(f"--crop {text}: give four numbers, left,top,right,bottom.")
    left, top, right, bottom = numbers
    return left, top, right, bottom
