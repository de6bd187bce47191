"""A notebook is a function: its parameters cell is its signature."""

from __future__ import annotations

import dataclasses
import difflib
import io
import itertools
import logging
import math
import mimetypes
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from PIL import Image

from workbench import errors
from workbench.cells import (
    PARAMETERS,
    Parameter,
    as_meant,
    code_cells,
    expand_home,
    read_parameters,
    texts,
)
from workbench.errors import InputError, WorkbenchError
from workbench.files import check_writable, encode, expanded, refuse_overwriting, replace
from workbench.pages import compare_html, data_uri, webp
from workbench.runs import HEADLESS, UNFINISHED, Result
from workbench.settings import ClipSettings, Knobs, Settings, TrainingSettings

if TYPE_CHECKING:
    from workbench.descent import Iterate
    from workbench.video.clips import Clip

UPLOADS = "uploads"  # folder in `output_dir` of what the panel was handed
_INJECTED = "# Parameters"  # papermill's first line in the cell that it adds
_ALIKE: tuple[Any, ...] = ((int, float), (list, tuple), str)  # values that may stand in for another
_WIDTH = 960  # px that pictures are shown with, at most
_SECONDS = 30  # of films that are compared, at most
_QUALITY = 26  # of these, as `write_film` takes it
_EMBEDDED = 20e6  # bytes of a film that is shown in the notebook itself, at most

T = TypeVar("T")
K = TypeVar("K", bound=Knobs)


def at_root() -> Path:
    """Make the project's root the working folder, and say so if that changed anything.

    The root is the nearest folder, from the working folder upwards, that has a folder
    `notebooks` in it; without one, the working folder stays. Front ends start a notebook in its
    own folder, papermill where one stands: with this, the same relative path means the same file.
    """
    here = Path.cwd()
    if HEADLESS in os.environ:  # set by `run_notebook`, which starts it where it belongs
        return here
    places = (Path.home(), Path(here.anchor))  # of everything one has, if not of the notebook
    for folder in (here, *here.parents):
        notebooks = folder / "notebooks"
        if not notebooks.is_dir() or (folder in places and not here.is_relative_to(notebooks)):
            continue
        if folder != here:
            os.chdir(folder)
            print(f"Working folder, which paths are relative to: {folder}")
        return folder
    return here


def parameters(cells: Sequence[str], values: dict[str, Any]) -> dict[str, Any]:
    """Go to the project's root, and take the values of all parameters out of a notebook.

    To be called in the cell right behind the parameters cell, as `parameters(In, globals())`, where
    IPython's `In` lists the sources of the cells run so far. The parameters cell is the last one
    that assigns `output_dir` with a type (or, if none has types, without). In the notebook, too,
    each then has the value that is meant; see `as_meant`.

    Refused are a name that papermill handed in and the parameters cell does not assign, a name
    there that is a setting's with a slip in it, and the name of a file in `output_dir`.
    """
    at_root()
    read = [_read(cell) for cell in cells]
    injected = [cell.startswith(_INJECTED) for cell in cells]
    found = [i for i, names in enumerate(read) if "output_dir" in names and not injected[i]]
    if not found:
        raise InputError("no cell above assigns output_dir, as a notebook's parameters cell does.")
    at = ([i for i in found if read[i]["output_dir"].annotation] or found)[-1]
    known = read[at]
    for name in (name for i in range(at, len(cells)) if injected[i] for name in read[i]):
        if name not in known:
            raise InputError(unknown_parameter(name, list(known)))
    kinds = (Settings, ClipSettings, TrainingSettings)
    knobs = {field.name: field.default for kind in kinds for field in dataclasses.fields(kind)}
    for name in known.keys() - knobs.keys():
        for near in difflib.get_close_matches(name, knobs, n=1, cutoff=0.9):
            pair = (values[name], knobs[near])
            if any(isinstance(each, bool) for each in pair) and type(pair[0]) is not type(pair[1]):
                continue  # (a bool is an int, too)
            if any(all(isinstance(each, kind) for each in pair) for kind in _ALIKE):
                raise InputError(unknown_parameter(name, [near]))
    taken = {name: as_meant(name, known[name], expand_home(values[name])) for name in known}
    values.update(taken)
    check_inputs(taken)
    return taken


def _read(cell: str) -> dict[str, Parameter]:
    """What a cell assigns; nothing, if it is not plain Python."""
    try:
        return read_parameters(cell)
    except InputError:
        return {}


def check_inputs(parameters: Mapping[str, Any]) -> None:
    """Refuse parameters that name a file in `output_dir`, unless it was uploaded to there."""
    named = [text for text in _inputs(parameters) if Path(text).parent.name != UPLOADS]
    refuse_overwriting([parameters.get("output_dir") or ""], named)


def _inputs(parameters: Mapping[str, Any]) -> list[str]:
    """What parameters name that may be a file to read; folders to write to end in `_dir`."""
    read = [value for name, value in parameters.items() if not name.endswith("_dir")]
    return list(texts(read))


def unknown_parameter(name: str, known: Sequence[str]) -> str:
    """The sentence about a parameter that there is not, with the nearest one that there is."""
    nearest = difflib.get_close_matches(name, known, n=1)
    hint = f" did you mean {nearest[0]!r}?" if nearest else ""
    return f"unknown parameter {name!r};{hint or ' see the parameters cell of the notebook.'}"


def settings_from(parameters: Mapping[str, Any], kind: type[K] = Settings) -> K:  # type: ignore[assignment]
    """Pick the settings of a kind out of a notebook's parameters."""
    names = [field.name for field in dataclasses.fields(kind)]
    return kind(**{name: parameters[name] for name in names if name in parameters})


def check_above_zero(**numbers: float) -> None:
    """Raise `InputError`, naming it, for a parameter that is not above 0."""
    for name, number in numbers.items():
        if not 0 < number < math.inf:
            raise InputError(f"{name} = {number}: give a number above 0.")


def is_headless() -> bool:
    """Whether nobody is looking: a program runs the notebook, or there is none."""
    from IPython.core.getipython import get_ipython

    kernel = getattr(get_ipython(), "kernel", None)
    return kernel is None or comes_from_program(kernel.get_parent(), os.environ, sys.modules)


def comes_from_program(
    request: Mapping[str, Any], environment: Mapping[str, str], modules: Container[str]
) -> bool:
    """Whether the `request` to run a cell comes from papermill, nbconvert or `jupyter execute`.

    Those say with every request that nobody could answer a question, which JupyterLab, Notebook
    and VS Code never do, or they say which of their cells it is for. Voila runs a notebook as
    programs do, but for a visitor, and Colab has a way of its own to ask. In doubt, somebody looks.
    """
    if HEADLESS in environment:
        return True
    if environment.get("SERVER_SOFTWARE", "").startswith("voila") or "google.colab" in modules:
        return False
    asks = request.get("content", {}).get("allow_stdin", True)
    return not asks and "cellId" not in request.get("metadata", {})


def until_interrupted(
    stream: Iterable[T], each: Callable[[T], object], stopped: Callable[[T], str]
) -> tuple[T, bool]:
    """Hand every item of a stream to `each`, until somebody interrupts the kernel.

    That is a way to stop early: the cell ends well, and those below go on with what there is.
    Headless, it ends the run, as it always does; before `each` has had an item, it is a
    `WorkbenchError`. Returns the last item that `each` has had, and whether the stream came to its
    end.

    Parameters
    ----------
    stream
        Such as iterates; it is closed when it is interrupted, and with it what it draws from, if
        nothing else refers to that.
    stopped
        Says, of the last item that `each` has had, how far it came: "step 3 of 40".
    """
    last: list[T] = []
    try:
        for item in stream:
            each(item)
            last = [item]
    except KeyboardInterrupt:
        if is_headless():
            raise
        if isinstance(stream, Generator):
            stream.close()
        if not last:
            raise WorkbenchError("stopped; to go on, run this cell again.") from None
        print(
            f"Stopped at {stopped(last[0])}. The cells below take what there is so far;"
            " this cell again goes on."
        )
        return last[0], False
    return last[0], True


def watch(iterates: Iterable[Iterate], seconds: float = 2.0) -> Iterator[Iterate]:
    """Pass iterates on and show the newest picture every so many seconds, if somebody looks."""
    if is_headless():
        yield from iterates
        return
    from IPython.display import HTML, display

    from workbench.images import to_array

    canvas = display(HTML(""), display_id=True)
    shown = 0.0
    try:
        for iterate in iterates:
            if time.monotonic() - shown >= seconds:
                picture = Image.fromarray(to_array(iterate.image))
                alt = f"The painting after step {iterate.step}"
                canvas.update(HTML(_tag(encode(picture, "JPEG"), "image/jpeg", alt)))
                shown = time.monotonic()
            yield iterate
    finally:
        canvas.update(HTML(""))  # the cells below show it


def show(path: str | os.PathLike[str], alt: str, *, on: Any = None) -> None:
    """Show a picture, a GIF or a film in the notebook, which then needs the file no longer.

    Stills are shown as a small copy, GIFs as they are, and films with controls, unless they are so
    large that only their place is named. `alt` says what is to be seen, for those who cannot see
    it; `on` is the handle of an output that it is to take the place of.
    """
    from IPython.display import HTML, display

    from workbench.images import load_image, to_array

    path = Path(path)
    kind = mimetypes.guess_type(path)[0] or ""
    if kind.startswith("video/"):
        size = path.stat().st_size
        if size >= _EMBEDDED:
            place = Path(*(part for part in path.parts if part != UNFINISHED))  # before long
            print(f"{alt}: {place} ({size / 1e6:.0f} MB)")
            return
        html = (
            f'<video controls loop aria-label="{escape(alt)}" style="max-width: 100%"'
            f' src="{data_uri(path.read_bytes(), kind)}"></video>'
        )
    elif kind == "image/gif":
        html = _tag(path.read_bytes(), kind, alt)
    else:
        picture = Image.fromarray(to_array(load_image(path)))
        picture.thumbnail((2 * _WIDTH, 2 * _WIDTH))
        ways = (encode(picture, "WEBP", quality=80), encode(picture, "WEBP", lossless=True))
        html = _tag(min(ways, key=len), "image/webp", alt)  # a plot is smaller without losses
    (on.update if on else display)(HTML(html))


def compare(a: Any, b: Any, captions: Sequence[str] = ("before", "after")) -> None:
    """Show two pictures or two films in one place, with a handle to drag between them.

    It works with a mouse, by touch and with the arrow keys, in every front end and in exported
    HTML, which needs no file. Films play in step, with the sound of the second.

    Parameters
    ----------
    a, b
        Two pictures, each a file, a sample or `(1, 3, H, W)`, sRGB in [0, 1]; or two films, each a
        file, a folder of pictures or a `video.Clip`; or the folders of their runs. Small copies are
        shown, in the size of the second; of films the first 30 s.
    captions
        What they are, such as "photograph" and "painting".

    Raises
    ------
    InputError
        If one of them cannot be read, if one is a film and the other a picture, or if one is wider
        for its height than the other by more than a tenth.
    """
    from IPython.display import HTML, display

    from workbench.images import fit, resize, shape_of, to_array
    from workbench.video.clips import Clip

    pair = [_opened(each) for each in (a, b)]
    films = [each for each in pair if isinstance(each, Clip)]
    if len(films) == 1:
        film, still = captions if pair[0] is films[0] else (captions[1], captions[0])
        raise InputError(f"{film} is a film and {still} a picture; compare two of one kind.")
    (height, width), shape = [each.shape if films else shape_of(each) for each in pair]
    sizes = [f"{width} x {height} px", f"{shape[1]} x {shape[0]} px"]
    if not 0.9 < (width / height) / (shape[1] / shape[0]) < 1.1:
        raise InputError(
            f"{captions[0]} ({sizes[0]}) has another shape than {captions[1]} ({sizes[1]}); crop"
            " one of them."
        )
    if (height, width) != shape:
        print(f"{captions[0]} ({sizes[0]}) is shown at the size of {captions[1]} ({sizes[1]}).")
    most = _WIDTH if films else 2 * _WIDTH
    shape = fit(shape, most) if max(shape) > most else shape
    if films:
        first, second = _previews(films, shape)
    else:
        pictures = [Image.fromarray(to_array(resize(each, shape))) for each in pair]
        first, second = (data_uri(webp(each, each.size)[0], "image/webp") for each in pictures)
    display(HTML(compare_html(first, second, captions)))


def _opened(what: Any) -> Any:
    """A picture `(1, 3, H, W)` or a `Clip`, of whatever `compare` takes."""
    from workbench import runs, samples
    from workbench.images import check_image
    from workbench.video.clips import STILLS, Clip, open_clip

    if isinstance(what, Clip):
        return what
    if not isinstance(what, str | os.PathLike):
        check_image(what, "a picture to compare")
        return what
    path = samples.find_clip(what) if what == f"{samples.PREFIX}{samples.CLIP}" else expanded(what)
    if (path / runs.RESULT).exists():
        path = path / runs.shown(runs.check_result(path).outputs)
    if path.suffix.lower() in STILLS or str(path).startswith(samples.PREFIX):
        return samples.load_picture(str(path), for_size=2 * _WIDTH)
    return open_clip(path)


def _previews(films: Sequence[Clip], shape: tuple[int, int]) -> list[str]:
    """Small copies of films that every browser plays, in one shape and of one length, as URIs."""
    from workbench.progress import bar
    from workbench.video.clips import read_frames, write_film

    lengths = [float(film.duration) for film in films]
    seconds = min(_SECONDS, *lengths)
    if seconds < max(lengths):
        print(f"Shown are the first {seconds:.3g} s.")
    sources = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "preview.mp4")
        for each in films:
            count = max(1, round(seconds * float(each.fps)))
            film = dataclasses.replace(each, shape=shape, frames=count)
            frames = bar(read_frames(film), "comparison", "frame", total=count)
            sound = film if each is films[-1] and film.sound else None  # of the second
            write_film(frames, path, film.fps, sound=sound, quality=_QUALITY)
            sources.append(data_uri(path.read_bytes(), "video/mp4"))
    return sources


def show_result(result: Result, folder: Path) -> None:
    """Show the figures of a run as a table, and say where it lies."""
    from IPython.display import Markdown, display

    figures = table(result.figures.items(), ("figure", "value"))
    display(Markdown(f"{figures}\n\n{result.seconds:.0f} s, in `{folder}`"))


def table(rows: Iterable[Sequence[str | float | None]], head: Sequence[str]) -> str:
    """A table in Markdown: whole numbers as they are, others with three digits, None empty.

    Texts stand on the left, and are shown as they are, whatever Markdown would make of them.
    """
    rows = list(rows)
    texts = [any(isinstance(value, str) for value in column) for column in zip(*rows, strict=True)]
    rule = ["---" if text else "---:" for text in texts or [True] * len(head)]
    lines = [map(_cell, head), rule, *(map(_cell, row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: str | float | None) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return short(value)
    return re.sub(r"([\\`*_<>|\[\]])", r"\\\1", value or "")


def short(number: float) -> str:
    """Three digits, without an exponent unless it is needed: 12,300."""
    return f"{float(f'{number:.3g}'):,.15g}"


def _tag(data: bytes, kind: str, alt: str) -> str:
    style = f"max-width: min(100%, {_WIDTH}px)"
    return f'<img alt="{escape(alt)}" style="{style}" src="{data_uri(data, kind)}">'


def find_notebook(name: str) -> Path:
    """Path of a notebook of the workbench, such as "stylize_image"."""
    here = Path(__file__).resolve().parent
    for folder in (here.parent / "notebooks", here / "_notebooks"):
        path = folder / f"{name}.ipynb"
        if path.is_file():
            return path
    raise InputError(f"there is no notebook called {name!r}.")


def papermill_command(name: str, *words: str) -> str:
    """Line for a terminal in the working folder that runs a notebook of the workbench.

    The notebook is the one in `notebooks/` here, if there is one. `words` are what else papermill
    is told, such as "-f", "settings.yaml"; they are quoted for a shell here.
    """
    here = Path("notebooks", f"{name}.ipynb")
    path = here if here.is_file() else find_notebook(name)
    return shlex.join(["papermill", str(path), "out.ipynb", *words])


def failed_notebook(output: Path) -> Path:
    """Where `run_notebook` leaves a notebook that failed, beside its `output`."""
    return output.with_suffix(f".failed{output.suffix}")


def running_notebook(output: Path) -> Path:
    """Where `run_notebook` keeps a notebook while it runs."""
    return output.with_name(f".{output.stem}.running{output.suffix}")


def prepare_process() -> None:
    """Make a process of the workbench's own ready to run notebooks, quickly and quietly."""
    # jsonschema would compile a grammar of addresses, which takes a second and is not needed here.
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
    logging.getLogger("papermill").setLevel(logging.ERROR)
    # After Ctrl-C, the dead kernel would be reported a second time, as a stack trace, whenever
    # the task that watched it is collected.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)


def run_notebook(
    notebook: str | os.PathLike[str],
    output: str | os.PathLike[str],
    parameters: Mapping[str, Any],
    *,
    prints: io.TextIOBase | None = None,
    on_cell: Callable[[int, int], None] | None = None,
) -> None:
    """Run a notebook headless with papermill and keep the executed notebook.

    If a cell fails or the kernel dies, that is a `WorkbenchError` with the notebook's own sentence.

    Parameters
    ----------
    output
        Where the executed notebook goes once it has run to its end. If it fails, it goes to
        `failed_notebook(output)` instead.
    prints
        Gets what the notebook prints, its progress bars among it; by default, the terminal.
    on_cell
        Is told, before each cell of code, its number from 1 on, and how many there are.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    notebook, output = Path(notebook), Path(output)
    failed, running = failed_notebook(output), running_notebook(output)
    refuse_overwriting([output, failed, running], [notebook, *_inputs(parameters)])
    cells = code_cells(notebook)
    known = next((read_parameters(each.source) for each in cells if PARAMETERS in each.tags), {})
    for name in parameters:
        if name not in known:
            raise InputError(unknown_parameter(name, list(known)))
    for text in (str(output), *texts(parameters)):
        if text != text.encode("utf-8", "replace").decode():
            raise InputError(
                f"{text!a} is no proper Unicode, which a notebook can hold; rename it."
            )
    check_writable(output)
    kernels: list[Any] = []
    numbers = itertools.count(1)
    count = sum(bool(cell.source) for cell in cells) + bool(parameters)  # which get one more

    def announce(cell: Any, cell_index: int) -> None:
        if on_cell and cell.cell_type == "code" and cell.source.strip():
            on_cell(next(numbers), count)

    # Of kernels that share a folder for their sockets, one gets another's.
    sockets = tempfile.mkdtemp(prefix="workbench-")
    try:
        papermill.execute_notebook(
            _as_template(notebook),
            _as_template(running),
            parameters=dict(parameters),
            progress_bar=False,
            stdout_file=_Lenient(prints or sys.stdout),
            stderr_file=_Lenient(prints or sys.stderr),
            kernel_manager_class=_quiet_kernel_manager(sockets, kernels),
            on_cell_start=announce,
            coalesce_streams=True,  # of a progress bar, only its last state is saved
        )
    except PapermillExecutionError as error:
        running.replace(failed)
        kind = InputError if error.ename == "InputError" else WorkbenchError
        raise kind(_sentence(error.ename, error.evalue)) from None
    except DeadKernelError as error:
        running.replace(failed)
        raise WorkbenchError(_cause_of_death(kernels[-1].poll())) from error
    except BaseException:
        running.unlink(missing_ok=True)
        raise
    finally:
        shutil.rmtree(sockets, ignore_errors=True)
    replace(running, output)
    failed.unlink(missing_ok=True)


def _as_template(path: Path) -> str:
    """A path as papermill takes it, which fills in what stands in braces."""
    return str(path).replace("{", "{{").replace("}", "}}")


class _Lenient(io.TextIOBase):
    """Writes to a stream, with `?` for the characters that its encoding lacks."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        self._stream.write(text.encode(encoding, "replace").decode(encoding))
        self._stream.flush()
        return len(text)


def _sentence(kind: str, message: str) -> str:
    """What a cell raised, on one line; the workbench's own errors are sentences already."""
    if kind in ("MemoryError", "OutOfMemoryError") or "can't allocate memory" in message:
        return "the notebook needs more memory than there is; try a smaller size."
    first = (message.strip().splitlines() or ["no message"])[0].rstrip(".")
    return f"{first}." if hasattr(errors, kind) else f"{kind}: {first}."


def _cause_of_death(code: int | None) -> str:
    """Why a kernel is gone, by its exit code; negative: the signal that ended it."""
    if code == -9:
        return (
            "the notebook's kernel was killed, most likely because memory ran out; try a smaller"
            " size."
        )
    if code is not None and code < 0:
        return f"the notebook's kernel crashed ({signal.Signals(-code).name})."
    return f"a cell ended the notebook's kernel (exit code {code})."


def _quiet_kernel_manager(sockets: str, kernels: list[Any]) -> type:
    """A kernel that talks over files and keeps its own log to itself; its process is listed."""
    from jupyter_client.manager import AsyncKernelManager

    class QuietKernelManager(AsyncKernelManager):
        # Nobody else can listen in on files, and they never collide as ports do. But the name of a
        # socket ends at about 100 bytes, of which the kernel adds a few.
        transport = "tcp" if os.name == "nt" or len(os.fsencode(sockets)) > 80 else "ipc"

        async def start_kernel(self, **options: Any) -> None:  # type: ignore[override]
            if self.transport == "ipc":
                self.ip = f"{sockets}/kernel"
            # An interrupted kernel would print a stack trace over the one clear sentence.
            options["env"] = {**(options.get("env") or os.environ), HEADLESS: "1"}
            await super().start_kernel(**{**options, "stderr": subprocess.DEVNULL})
            kernels.append(self.provisioner.process)  # type: ignore[union-attr]

    return QuietKernelManager
