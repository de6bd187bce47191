"""A thin command line over the same functions."""

from __future__ import annotations

import io
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import workbench
from workbench import options
from workbench.cli_models import apply, export, train
from workbench.errors import InputError, WorkbenchError
from workbench.settings import ClipSettings, Settings

if TYPE_CHECKING:
    from workbench.batch.plan import Plan
    from workbench.batch.record import Record

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

_wanted = {"debug": False}


def main() -> None:
    """Run the command line; errors of the workbench become one sentence and an exit code."""
    warnings.showwarning = lambda message, *_: print(f"workbench: {message}", file=sys.stderr)
    _wanted["debug"] = False
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # which may lack a letter of a file's name
            stream.reconfigure(errors="replace")
    try:
        _commands()(args=sys.argv[1:], prog_name="workbench")
    except WorkbenchError as error:
        if _wanted["debug"]:
            raise
        print(f"workbench: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except Exception as error:
        if _wanted["debug"]:
            raise
        message = str(error).strip().splitlines() or ["no message"]
        sentence = f"{type(error).__name__}: {message[0]} (add --debug for the whole story)"
        if _ran_out_of_memory(error):
            sentence = "memory ran out; use a smaller size, or close other programs."
        print(f"workbench: {sentence}", file=sys.stderr)
        sys.exit(1)


def _commands() -> Any:
    """All commands, each with the option `--debug`, wherever it stands among the others."""
    group: Any = typer.main.get_command(app)
    (debug,) = (option for option in group.params if option.name == "debug")
    debug.expose_value = False
    for command in [*group.commands.values(), *group.commands["weights"].commands.values()]:
        command.params.append(debug)
    return group


def _want_debug(wanted: bool) -> None:
    _wanted["debug"] |= wanted


def _ran_out_of_memory(error: Exception) -> bool:
    if "torch" not in sys.modules:
        return isinstance(error, MemoryError)
    from workbench.devices import ran_out_of_memory

    return ran_out_of_memory(error)


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
        bool,
        typer.Option("--debug", callback=_want_debug, help="Show the whole traceback of an error."),
    ] = False,
) -> None:
    """Options that all commands share."""


@app.command()
@options.documented
def demo(
    output_dir: Annotated[Path, typer.Option("--output-dir", "-o")] = Path("runs/demo"),
) -> None:
    """Paint a sample photograph, and a sample clip in five ways.

    Runs notebooks/stylize_image.ipynb and notebooks/compare_video.ipynb headless with their
    samples: a picture, its progress GIF and MP4, films side by side, plots, the notebooks.

    Parameters
    ----------
    output_dir
        Folder to write to.
    """
    from workbench import demo

    began = time.monotonic()
    try:
        demo.paint_photograph(output_dir)
    except KeyboardInterrupt:
        options.interrupted("Interrupted", output_dir / "unfinished" / "picture.png")
    try:
        demo.paint_clip(output_dir)
    except KeyboardInterrupt:
        options.interrupted(
            f"Interrupted: {output_dir} has the picture; the same command goes on with the clip."
        )
    print(f"\nDone in {time.monotonic() - began:.0f} s. Look at:")
    for path, name in demo.list_files(output_dir):
        print(f"  {path}  ({name})")


_TABLE_ROWS = 40


@app.command()
@options.with_knobs(settings=Settings)
@options.documented
def stylize(
    settings: Settings,
    content: Annotated[str | None, options.ARGUMENT] = None,
    style: Annotated[list[str] | None, options.STYLES] = None,
    output: Annotated[Path | None, options.OUTPUT] = None,
    like: str | None = None,
    mask: list[str] | None = None,
    original_colors: str | None = None,
    gif: Path | None = None,
    gif_megabytes: float | None = None,
    mp4: Path | None = None,
    strip: Path | None = None,
    losses: Path | None = None,
    save_every: int | None = None,
    crop: str | None = None,
    minutes: float | None = None,
    bits: int = 8,
    anew: bool = False,
    resume: bool = False,
    print_settings: bool = False,
) -> None:
    """Paint a photograph in the style of other pictures.

    Stopped anywhere, the same command goes on.

    Example: workbench stylize photo.jpg starry.jpg -o painted.png --size 512 --gif progress.gif

    Example: workbench stylize --like "th neural_style.lua -style_image starry.jpg -content_image
    me.jpg -num_iterations 500 -init image -style_weight 300"

    Parameters
    ----------
    content
        Photograph to paint: a picture file, or sample:astronaut.
    output
        Picture file to write.
    like
        A command line of neural_style.lua, neural-style-pt or anishathalye's neural_style.py, in
        quotes, to do the same as; what stands beside it wins.
    mask
        A picture that is white where a style belongs; once for each style picture, in their
        order. Where masks overlap, styles share; where none is white, the photograph stays.
    original_colors
        Keep the photograph's colours: luma takes the painting's brightness only; cholesky, pca
        and monge-kantorovich recolour the style before. [off]
    gif
        Also write the progress as a GIF to this file.
    gif_megabytes
        Largest size of the GIF; picks its size and colours.
    mp4
        Also write the progress as an MP4 to this file.
    strip
        Also write six stages side by side to this file.
    losses
        Also write a plot of the losses to this picture file.
    save_every
        Also save the picture every so many steps, beside --output.
    crop
        Part of the photograph, as left,top,right,bottom from 0 to 1, e.g. 0.2,0,0.8,1.
    minutes
        Take the steps that give the best picture in so many minutes, whatever --steps says; they
        are named, and the same settings paint the same picture.
    bits
        Of a colour of the picture: 8, or 16 in a .png or .tif.
    anew
        Begin again. Else the same command goes on where it was stopped, by Ctrl-C, kill -9 or a
        power cut, to the picture that it makes without the stop. With other settings it begins
        anew and says so; what was stopped can go on until one of them is finished.
    resume
        Go on where it was stopped: always so, but for --anew.
    print_settings
        Print all settings as YAML, and stop.
    """
    if like is not None:
        from workbench import dialects

        command = dialects.read_command(like).changed(
            settings=settings,
            content=content,
            styles=style and tuple(style),
            output=output and str(output),
            original_colors=original_colors,
            save_every=save_every,
        )
        print(dialects.explain(command), flush=True)
        content, style = command.content, list(command.styles)
        output = Path(command.output or dialects.OUTPUT)
        original_colors, save_every = command.original_colors, command.save_every
        if not print_settings:
            settings = dialects.on_this_machine(settings)
    if print_settings:
        import yaml

        print(yaml.safe_dump(settings.as_dict(), sort_keys=False, default_flow_style=None), end="")
        return
    if content is None or not style or output is None:
        raise _missing(content, style)
    from workbench import stills

    paths = {"picture": output, "gif": gif, "mp4": mp4, "strip": strip, "losses": losses}
    began = time.monotonic()
    try:
        iterate = stills.paint_files(
            content,
            style,
            paths,
            settings,
            masks=mask or [],
            crop=None if crop is None else options.box(crop),
            original_colors=original_colors or "off",
            save_every=save_every,
            gif_megabytes=gif_megabytes,
            bits=bits,
            anew=anew,
            minutes=minutes,
        )
    except KeyboardInterrupt as stopped:
        options.interrupted(str(stopped) or "Interrupted", stills.unfinished(output))
    height, width = iterate.image.shape[-2:]
    print(f"{width}x{height} px in {time.monotonic() - began:.0f} s; {iterate.losses}")
    for path in filter(None, paths.values()):
        print(f"  {path}")


def _missing(content: str | None, style: list[str] | None) -> InputError:
    what = "the picture to write, with -o"
    if content is None or not style:
        what = "a photograph" if content is None else "a style picture"
    example = "workbench stylize photo.jpg starry.jpg -o painted.png"
    return InputError(f"name {what}; as in `{example}`.")


@app.command()
@options.with_knobs(settings=Settings, clip_settings=ClipSettings)
@options.documented
def video(
    clip: str,
    style: Annotated[list[str], options.STYLES],
    output: Annotated[Path, options.OUTPUT],
    settings: Settings,
    clip_settings: ClipSettings,
    mask: list[str] | None = None,
    follow: bool = False,
    original_colors: str = "off",
    start: options.Start = "0",
    end: options.End = None,
    stride: options.Stride = 1,
    fps: options.Fps = None,
    steady: options.Steady = 0.0,
    quality: options.Quality = 18,
    minutes: float | None = None,
) -> None:
    """Paint a clip in the style of pictures, with its own sound.

    Frames are kept in a folder beside the film. Stopped anywhere, the same command goes on at
    the first frame that is missing.

    Example: workbench video interview.mp4 sketch.jpg -o painted.mp4 --mode flow-warped --size 480

    Parameters
    ----------
    clip
        Clip to paint: anything that ffmpeg reads, a folder of numbered pictures,
        frames/frame_%04d.png, or sample:clip.
    output
        Film to write: .mp4, .mov or .mkv.
    mask
        A picture that is white where a style belongs, or a clip or folder of them, one for each
        frame of the clip; once for each style picture, in their order.
    follow
        Take mask pictures for masks of the first frame, and carry them along with what moves.
    original_colors
        Keep the clip's colours: luma takes the painting's brightness only; cholesky, pca and
        monge-kantorovich recolour the style for each scene.
    minutes
        Take the steps that give the best film in so many minutes, whatever --steps and
        --later-steps say; they are named.
    """
    from workbench import stills
    from workbench.colour import check_original_colors
    from workbench.files import check_writable, refuse_overwriting
    from workbench.samples import find_clip, find_pictures, load_picture
    from workbench.video import clips, modes
    from workbench.video.frames import finished_frames
    from workbench.video.masks import open_masks, read_masks

    clips.check_film(output, quality=quality)
    check_original_colors(original_colors)
    for name in style:
        if Path(name).suffix.lower() in clips.FORMATS:
            raise InputError(f"{name} is not a picture but a clip. {clips.MANY}")
    folder = output.with_suffix(".frames")
    refuse_overwriting([output, folder], [clip, *style, *(mask or ()), settings.init])
    check_writable(output)
    paintings = [load_picture(name, for_size=settings.largest) for name in find_pictures(style)]
    source = clips.open_clip(
        find_clip(clip), start=start, end=end, stride=stride, size=settings.size, fps=fps
    )
    regions = open_masks(mask or (), source, follow=follow)
    if regions:
        stills.say_masks(next(read_masks(regions)), source.shape, "the first frame")
    began = time.monotonic()
    if minutes is not None:
        settings, clip_settings = modes.within(
            source, paintings, folder, settings, clip_settings, minutes, masks=regions
        )
    try:
        frames, figures = modes.paint_film(
            source,
            paintings,
            folder,
            output,
            settings,
            clip_settings,
            masks=regions,
            original_colors=original_colors,
            steady=steady,
            quality=quality,
        )
    except KeyboardInterrupt:
        done = sum(number < source.frames for number in finished_frames(folder))
        options.interrupted(
            f"Interrupted after {done} of {source.frames} frames; the same command goes on there."
        )
    height, width = source.shape
    print(
        f"{len(frames)} frames of {width}x{height} px in {time.monotonic() - began:.0f} s"
        f" ({figures['seconds_a_frame']:.2f} s a frame), {'with' if source.sound else 'no'} sound"
    )
    print(f"  {output}")
    print(f"  {folder}/  (its frames; delete them when you are done with the film)")


for each in (train, apply, export):
    app.command()(each)


@app.command()
@options.documented
def gallery(
    folders: list[Path],
    output: Annotated[Path, options.OUTPUT] = Path("site"),
    title: str = "Gallery",
    url: str = "",
) -> None:
    """Show finished runs on a page for a blog: stills that play their GIF or film on a click.

    Everything lies in one folder, with index.html to open or to put on any web server. The
    same command again brings it up to date. A file gallery.yaml in the folder of a run may give it
    a title and a caption, or leave it out (show: false).

    Example: workbench gallery runs/ -o site --title "Portraits"

    Parameters
    ----------
    folders
        Folders of runs, or any folders above them.
    output
        Folder to write the page to.
    title
        Heading of the page.
    url
        Address that the page will have, for what is pasted elsewhere.
    """
    from workbench.gallery import build_gallery

    try:
        made = build_gallery(folders, output, title=title, url=url)
    except KeyboardInterrupt:
        options.interrupted(
            f"Interrupted: the page in {output} is as it was; the same command goes on."
        )
    for problem in made.problems:
        print(f"workbench: {problem}", file=sys.stderr)
    if made.page is None:
        raise InputError(f"{', '.join(map(str, folders))}: no run in here can be shown.")
    left_out = f" ({len(made.problems)} left out)" if made.problems else ""
    count = len(made.exhibits)
    print(f"{count} {'run' if count == 1 else 'runs'} in {made.page}{left_out}")


@app.command()
@options.documented
def batch(
    words: Annotated[list[str], typer.Argument(metavar="[status] FILE")],
    scheduler: str | None = None,
    workers: Annotated[int | None, typer.Option(min=1)] = None,
    only: str | None = None,
    retries: Annotated[int, typer.Option(min=0)] = 0,
    keep_going: bool = True,
    dry_run: bool = False,
    dask_log: bool = False,
) -> None:
    """Run a notebook over many clips, pictures and settings.

    The batch file names a notebook, the folder for each run, and what varies:

    \b
      notebook: notebooks/stylize_clip.ipynb
      output: runs/reel/{clip.stem}-{style.stem}
      parameters: {size: 360}
      grid:
        clip: clips/*.mp4
        style: [sketches/a.png, sketches/b.png]

    Paths are relative to the file's folder, or to the one above it if that is "experiments".
    Stopped anywhere, the same command goes on; what is finished is run again only if its
    parameters, input files or the notebook change. `workbench batch status FILE`, from any
    terminal, says how it stands.

    Example: workbench batch experiments/reel.yaml --workers 2

    Parameters
    ----------
    words
        The batch file (YAML).
    scheduler
        A running Dask cluster: tcp://host:8786, or the file that its scheduler wrote. [one on
        this machine]
    workers
        Runs at a time on this machine. [one for each GPU, else one]
    only
        Only runs whose name contains this, or matches it: 'a-*-temporal'.
    retries
        How often a run that failed is tried again.
    keep_going
        Whether a run that failed leaves the others going.
    dry_run
        Only list the runs and how they stand.
    dask_log
        Show Dask's own messages.
    """  # noqa: D301
    from workbench.batch import plan, schedule

    *status, file = words
    if status == ["status"]:
        planned = plan.read_plan(file)
        _say_how_it_stands(planned, schedule.read_states(planned))
        if schedule.is_running(planned):
            print("It is being worked on.")
        return
    if status:
        raise InputError(f"{' '.join(words)}: give one batch file; only `status` may precede it.")
    planned = plan.read_plan(file, keep_digests=not dry_run)
    if dry_run:
        states = schedule.read_states(planned)
        for run in schedule.choose(planned, only):
            print(f"{states[run.name].kind:8}  {run.name}")
        return
    how = schedule.Options(scheduler, workers, retries, keep_going, only, dask_log)
    chosen = [run.name for run in schedule.choose(planned, only)]
    try:
        states = schedule.run_batch(planned, how)
    except KeyboardInterrupt:
        states = schedule.read_states(planned)
        done = sum(states[name].kind == "done" for name in chosen)
        options.interrupted(
            f"Interrupted: {done} of {len(chosen)} are done; the same command goes on."
        )
    _say_how_it_stands(planned, {name: states[name] for name in chosen})
    if any(states[name].kind != "done" for name in chosen):
        raise typer.Exit(1)


def _say_how_it_stands(plan: Plan, states: Mapping[str, Record]) -> None:
    """Print a table of runs, what needs attention at its top, and where the page is."""
    order = ["failed", "changed", "running", "waiting", "done"]
    counts = {kind: sum(state.kind == kind for state in states.values()) for kind in order}
    shown = sorted(states.items(), key=lambda item: order.index(item[1].kind))[:_TABLE_ROWS]
    width = max(len(name) for name, _ in shown)
    for name, state in shown:
        took = f"{state.seconds:8.1f} s" if state.seconds is not None else " " * 10
        print(f"{state.kind:8}{took}  {name:{width}}  {state.sentence or state.stage}".rstrip())
    if len(states) > len(shown):
        print(f"and {len(states) - len(shown):,} more")
    told = ", ".join(f"{count:,} {kind}" for kind, count in counts.items() if count)
    print(f"{told}: {plan.root / 'index.html'}")


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
@options.documented
def fetch(name: Annotated[str, options.ARGUMENT] = "vgg16") -> None:
    """Fetch weights now, so that this machine can be offline later.

    Parameters
    ----------
    name
        vgg16 or vgg19.
    """
    from workbench.weights import cache_path, load_weights

    loaded = load_weights(name)
    print(f"{name}: {cache_path(name)}, from {loaded.source}, sha256 {loaded.sha256}")
