from __future__ import annotations

import base64
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import torch
from jupyter_client.manager import start_new_kernel
from PIL import Image
from tools import default_parameters, parameters_cell, shown

from workbench import notebook
from workbench.errors import InputError, WorkbenchError
from workbench.images import save_image
from workbench.notebook import (
    check_inputs,
    failed_notebook,
    find_notebook,
    parameters,
    run_notebook,
)
from workbench.runs import finish_run
from workbench.video.clips import open_clip, write_film

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


def write_notebook(path: Path, *cells: str, parameters: str = "answer: int = 42") -> Path:
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell) for cell in (parameters, *cells)],
        metadata={
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
        },
    )
    notebook.cells[0].metadata.tags = ["parameters"]
    nbformat.write(notebook, path)
    return path


@pytest.mark.slow
def test_cells_are_announced_and_what_is_printed_can_be_read(tmp_path: Path) -> None:
    notebook = write_notebook(tmp_path / "a.ipynb", "print(answer + 1)", "", "print('end')")
    prints = io.StringIO()
    cells: list[tuple[int, int]] = []
    run_notebook(
        notebook,
        tmp_path / "out.ipynb",
        {"answer": 4},
        prints=prints,
        on_cell=lambda number, count: cells.append((number, count)),
    )
    assert prints.getvalue() == "5\nend\n"
    assert cells == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize(
    ("cell", "sentence"),
    [
        ("import os; os._exit(7)", "a cell ended the notebook's kernel (exit code 7)."),
        ("import os; os.kill(os.getpid(), 9)", "most likely because memory ran out"),
        ("import os; os.kill(os.getpid(), 11)", "the notebook's kernel crashed (SIGSEGV)."),
        ("raise RuntimeError('x: can\\'t allocate memory: 9 bytes')", "try a smaller size."),
        ("raise KeyError('x')", "KeyError: 'x'."),
        ("raise ValueError('two\\nlines.')", "ValueError: two."),
        ("raise RuntimeError", "RuntimeError: no message."),
        ("from workbench.errors import *; raise OutputError('It is full.')", "It is full."),
    ],
)
@pytest.mark.slow
def test_how_a_notebook_ended_is_one_sentence(cell: str, sentence: str, tmp_path: Path) -> None:
    notebook = write_notebook(tmp_path / "a.ipynb", "before = 1", cell, "after = 1")
    with pytest.raises(WorkbenchError) as caught:
        run_notebook(notebook, tmp_path / "out.ipynb", {})
    assert str(caught.value).endswith(sentence) or sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert failed_notebook(tmp_path / "out.ipynb").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.ipynb", "out.failed.ipynb"]


CELL = "output_dir: str = 'runs/x'\nstyle_weight: float = 1.0\nsize: int = 4"
CHECK = "parameters = notebook.parameters(In, globals())"
VALUES = {"output_dir": "runs/x", "style_weight": 1.0, "size": 4, "of the kernel": 3}


@pytest.fixture
def headless(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test is to leave the folder that it runs in."""
    monkeypatch.setenv(notebook.HEADLESS, "1")


@pytest.mark.usefixtures("headless")
@pytest.mark.parametrize(
    "cells",
    [
        [CELL],
        [CELL, "# Parameters\nsize = 3\n"],
        [CELL, "# Parameters\nsize = 3\n", CHECK, "output_dir = 'scratch'", "%matplotlib inline"],
        [CELL, "# Parameters\nsize = 3\n", CHECK, "paint()", "# Parameters\nsize = 5\n"],
        [f"{CELL}\nstile_weight: float = 3.0", CHECK, CELL],  # mended, and run again
    ],
    ids=["by hand", "papermill", "all run, and one cell again", "injected cell again", "mended"],
)
def test_all_parameters_are_taken_from_their_cell(cells: list[str]) -> None:
    values = notebook.parameters(["", *cells, CHECK], VALUES)
    assert values == {"output_dir": "runs/x", "style_weight": 1.0, "size": 4}


@pytest.mark.usefixtures("headless")
@pytest.mark.parametrize(
    ("cells", "sentence"),
    [
        ([CELL, "# Parameters\nstlye_weight = 3\n"], "'stlye_weight'; did you mean 'style_weight'"),
        (
            [CELL, "# Parameters\nsize = 3\n", CHECK, "# Parameters\nsizes = 3\n"],
            "'sizes'; did you mean 'size'",
        ),
        ([f"{CELL}\nstile_weight: float = 3.0"], "'stile_weight'; did you mean 'style_weight'"),
        (["x = 3"], "no cell above assigns output_dir"),
    ],
)
def test_unknown_parameters_are_refused_with_the_nearest(cells: list[str], sentence: str) -> None:
    values = {**VALUES, "stile_weight": 3, "sizes": [3]}
    with pytest.raises(InputError, match=sentence):
        notebook.parameters(["", *cells, CHECK], values)


@pytest.mark.usefixtures("headless")
def test_names_of_ones_own_are_no_slips() -> None:
    own = "output_dir: str = 'x'\nstyle_weights: list = [1.0]\ncolour: str = 'red'\nsizes: int = 3"
    values = {"output_dir": "x", "style_weights": [1.0], "colour": "red", "sizes": 3}
    assert notebook.parameters(["", own, CHECK], values) == values


@pytest.mark.usefixtures("headless")
@pytest.mark.parametrize("name", sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")))
def test_no_name_in_a_notebook_of_ours_is_taken_for_a_slip(name: str) -> None:
    values = default_parameters(name)
    cell = parameters_cell(find_notebook(name))
    assert notebook.parameters(["", cell, CHECK], dict(values)).keys() == values.keys()


@pytest.mark.parametrize(
    ("start", "root"),
    [
        ("project", "project"),
        ("project/notebooks", "project"),
        ("project/notebooks/mine/deep", "project"),
        ("project/sketches/2026", "project"),
        ("elsewhere", "elsewhere"),
        ("home", "home"),
        ("home/films", "home/films"),  # somebody's folder of notebooks is not their project
        ("home/notebooks", "home"),
    ],
)
def test_the_working_folder_becomes_the_projects_root(
    start: str,
    root: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for folder in ("project/notebooks", "home/notebooks", start):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / start)
    for _ in range(2):
        assert notebook.at_root() == Path.cwd() == tmp_path / root
    printed = capsys.readouterr().out.splitlines()
    assert [str(tmp_path / root) in line for line in printed] == [True] * (start != root)


@pytest.mark.parametrize(
    ("stdin", "metadata", "environment", "modules", "program"),
    [
        (True, {"cellId": "a"}, {}, (), False),  # JupyterLab, Notebook 7
        (True, {}, {}, (), False),  # nbclassic, VS Code, a console
        (False, {}, {}, (), True),  # papermill, nbconvert, jupyter execute
        (False, {"cellId": "a"}, {}, (), False),
        (False, {}, {"SERVER_SOFTWARE": "voila/0.5.8"}, (), False),
        (False, {}, {}, ("google.colab",), False),
        (True, {}, {notebook.HEADLESS: "1"}, (), True),
        (False, {}, {notebook.HEADLESS: "1"}, ("google.colab",), True),
        (None, {}, {}, (), False),  # in doubt, somebody looks
    ],
)
def test_a_front_end_is_told_from_a_program(
    stdin: bool | None,
    metadata: dict[str, str],
    environment: dict[str, str],
    modules: tuple[str, ...],
    program: bool,
) -> None:
    content = {} if stdin is None else {"allow_stdin": stdin}
    request = {"content": content, "metadata": metadata}
    assert notebook.comes_from_program(request, environment, modules) is program


def test_a_script_is_headless() -> None:
    assert notebook.is_headless()


LOOKS = (
    "from workbench import notebook\nprint('headless' if notebook.is_headless() else 'looked at')"
)


@pytest.mark.slow
def test_programs_are_headless_and_front_ends_are_not(tmp_path: Path) -> None:
    write_notebook(tmp_path / "a.ipynb", LOOKS)
    convert = [*("nbconvert", "--execute", "--to", "notebook"), "a.ipynb", "--output"]
    voila = {"SERVER_SOFTWARE": "voila/0.5.13"}
    running = [
        subprocess.Popen([sys.executable, "-m", *words], cwd=tmp_path, env=os.environ | environment)
        for words, environment in (
            (["papermill", "a.ipynb", "papermill.ipynb"], {}),
            (["jupyter", "execute", "a.ipynb", "--output=execute.ipynb"], {}),
            (["jupyter", *convert, "convert.ipynb"], {}),
            (["jupyter", *convert, "voila.ipynb"], voila),
        )
    ]
    manager, client = start_new_kernel()  # as VS Code asks it
    try:
        said: list[str] = []
        client.execute_interactive(
            LOOKS,
            allow_stdin=True,
            output_hook=lambda message: said.append(message["content"].get("text", "")),
        )
        assert "".join(said) == "looked at\n"
    finally:
        client.stop_channels()
        manager.shutdown_kernel()
    assert [process.wait(120) for process in running] == [0] * 4
    for name in ("papermill", "execute", "convert", "voila"):
        cells = nbformat.read(tmp_path / f"{name}.ipynb", 4).cells
        (output,) = cells[-1].outputs
        assert output.text == ("looked at\n" if name == "voila" else "headless\n"), name


def numbers(closed: list[bool], interrupt_at: int) -> Iterator[int]:
    try:
        for number in range(5):
            if number == interrupt_at:
                raise KeyboardInterrupt
            yield number
    finally:
        closed.append(True)


def test_interrupting_a_stream_is_a_way_to_stop_early(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(notebook, "is_headless", lambda: False)
    taken: list[int] = []
    closed: list[bool] = []

    def stop_at_three(number: int) -> None:
        if number == 3:
            raise KeyboardInterrupt
        taken.append(number)

    def step(number: int) -> str:
        return f"step {number} of 4"

    assert notebook.until_interrupted(numbers(closed, 9), taken.append, step) == (4, True)
    assert capsys.readouterr().out == ""
    for stream, each in ((numbers(closed, 3), taken.append), (numbers(closed, 9), stop_at_three)):
        taken.clear()
        assert notebook.until_interrupted(stream, each, step) == (2, False)
        assert taken == [0, 1, 2]
        printed = capsys.readouterr().out
        assert printed.startswith("Stopped at step 2 of 4. The cells below take")
        assert printed.count("\n") == 1
    assert closed == [True] * 3
    with pytest.raises(WorkbenchError, match="stopped; to go on"):
        notebook.until_interrupted(numbers(closed, 0), taken.append, step)


def test_headless_an_interrupt_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notebook, "is_headless", lambda: True)
    with pytest.raises(KeyboardInterrupt):
        notebook.until_interrupted(numbers([], 3), print, str)


SHOW = """
import numpy as np
from PIL import Image
from workbench import notebook, progress, sheets
from workbench.video import clips
Image.effect_noise((900, 600), 90).convert("RGB").save("noise.png")
frames = [np.full((40, 60, 3), 60 * i, np.uint8) for i in range(4)]
sheets.save_gif(frames, "a.gif")
clips.save_mp4(frames, "a.mp4", fps=5.0)
notebook.show("noise.png", 'Grey "noise" <seen>')
notebook.show("a.gif", "It gets lighter")
notebook.show("a.mp4", "The same as a film")
notebook._EMBEDDED = 10
notebook.show("a.mp4", "A large film")
for _ in progress.bar(range(400), "counting", "step", total=400):
    pass
"""


@pytest.mark.slow
def test_an_executed_notebook_shows_everything_in_html(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_notebook(tmp_path / "a.ipynb", SHOW)
    executed = tmp_path / "out.ipynb"
    papermill = [sys.executable, "-m", "papermill", "a.ipynb", executed.name]
    subprocess.run(papermill, check=True, capture_output=True)
    assert [kind for kind in shown(executed) if "/" in kind] == [
        "image/webp",
        "image/gif",
        "video/mp4",
        "text/plain",  # the bar
    ]
    convert = [sys.executable, "-m", "jupyter", "nbconvert", "--to", "html", executed.name]
    done = subprocess.run(convert, check=True, capture_output=True, text=True)
    assert "lternative text" not in done.stderr
    html = executed.with_suffix(".html").read_text("utf-8")
    assert html.count("data:image/gif;base64,") == 1
    assert 'Grey "noise" <seen>' in unescape(html)
    assert html.count("counting:") == 1  # of a bar, its last line
    assert "400/400" in html
    assert "A large film: a.mp4 (0 MB)" in html


def test_what_is_shown_is_smaller_than_the_file(tmp_path: Path) -> None:
    save_image(torch.rand(1, 3, 600, 900), tmp_path / "noise.png")
    html: list[str] = []
    handle = SimpleNamespace(update=lambda data: html.append(data.data))
    notebook.show(tmp_path / "noise.png", "Noise", on=handle)
    data = re.fullmatch(r'<img alt="Noise" .*src="data:image/webp;base64,([^"]+)">', html[0])
    assert data is not None
    shown = base64.b64decode(data[1])
    assert len(shown) < (tmp_path / "noise.png").stat().st_size / 2
    with Image.open(io.BytesIO(shown)) as picture:
        assert picture.size == (900, 600)


@pytest.fixture
def displayed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """HTML that is displayed from now on."""
    html: list[str] = []
    monkeypatch.setattr("IPython.display.display", lambda data: html.append(data.data))
    return html


def test_pictures_are_compared_at_the_size_of_the_second(
    tmp_path: Path, displayed: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    save_image(torch.rand(1, 3, 30, 40), tmp_path / "a.png")
    captions = ('a "photograph"', "<b>")
    notebook.compare(tmp_path / "a.png", torch.rand(1, 3, 60, 82), captions)
    said = 'a "photograph" (40 x 30 px) is shown at the size of <b> (82 x 60 px).\n'
    assert capsys.readouterr().out == said
    pictures = re.findall(r'<img class="(\w+)" src="data:image/webp;base64,(.+?)"', displayed[0])
    assert [name for name, _ in pictures] == ["second", "first"]  # this one lies above
    for _, data in pictures:
        with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
            assert picture.size == (82, 60)
    assert 'alt="a &#34;photograph&#34;"' in displayed[0]
    assert "<b>" not in displayed[0]
    assert "<script" not in displayed[0]
    assert " id=" not in displayed[0]


def test_films_are_compared_as_far_as_both_go(
    tmp_path: Path, displayed: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for name, count, side in (("a", 5, 32), ("b", 3, 48)):
        frames = [np.full((side, side, 3), 40 * i, np.uint8) for i in range(count)]
        write_film(frames, tmp_path / f"{name}.mp4", 10)
    film = finish_run(
        tmp_path, outputs={"film": tmp_path / "b.mp4"}, figures={}, settings={}, weights={}
    )
    assert film.outputs["film"] == "b.mp4"
    notebook.compare(open_clip(tmp_path / "a.mp4", start=0.1), tmp_path, ("source", "painted"))
    said = "source (32 x 32 px) is shown at the size of painted (48 x 48 px)."
    assert capsys.readouterr().out.startswith(f"{said}\nShown are the first 0.3 s.\n")
    films = re.findall(r'<video class="\w+" src="data:video/mp4;base64,(.+?)"', displayed[0])
    for number, data in enumerate(films):
        path = tmp_path / f"shown{number}.mp4"
        path.write_bytes(base64.b64decode(data))
        shown = open_clip(path)
        assert (shown.shape, shown.fps, shown.frames) == ((48, 48), 10, 3)
    assert number == 1


@pytest.mark.parametrize(
    ("a", "b", "sentence"),
    [
        ("gone.jpg", "sample:swirls", r"gone.jpg: there is no such file"),
        ("sample:clip", "sample:swirls", r"^before is a film and after a picture"),
        ("sample:swirls", "sample:clip", r"^after is a film and before a picture"),
        (torch.rand(1, 3, 4, 6), torch.rand(1, 3, 4, 4), r"6 x 4 px\) has another shape than"),
        (torch.rand(3, 4, 4), "sample:swirls", r"expected a floating-point tensor \(1, 3, H, W"),
        (None, "sample:swirls", r"got NoneType"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(a: object, b: object, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence) as caught:
        notebook.compare(a, b)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_an_executed_notebook_may_lie_in_the_folder_of_its_run(tmp_path: Path) -> None:
    written = write_notebook(
        tmp_path / "a.ipynb", "print(output_dir)", parameters="output_dir: str = ''"
    )
    for _ in range(2):
        run_notebook(written, tmp_path / "run" / "a.ipynb", {"output_dir": str(tmp_path / "run")})


@pytest.mark.slow
def test_kernels_started_at_once_in_one_folder_do_not_meet(tmp_path: Path) -> None:
    notebook = write_notebook(tmp_path / "a.ipynb", "print(answer)")
    script = (
        "import sys\nfrom workbench.notebook import run_notebook\n"
        "run_notebook('a.ipynb', f'{sys.argv[1]}.ipynb', {'answer': int(sys.argv[1])})\n"
    )
    began = time.monotonic()
    running = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(number)],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for number in range(4)
    ]
    said = [process.communicate(timeout=120)[0] for process in running]
    assert said == ["0\n", "1\n", "2\n", "3\n"], f"after {time.monotonic() - began:.0f} s"
    assert {path.suffix for path in tmp_path.iterdir()} == {".ipynb"}
    assert notebook.is_file()


MODERN = """
import pathlib
from typing import Literal
crop: list[float] | None = None
mode: Literal["a", "b"] = "a"
sizes: tuple[int, ...] = (1, 2)
picture: pathlib.Path = pathlib.Path("a.png")
query: str = "a=b"
quoted: "int | None" = None
"""


@pytest.mark.slow
def test_any_type_hint_may_stand_in_a_parameters_cell(tmp_path: Path) -> None:
    cell = "print([crop, mode, sizes, picture, query, quoted])"
    notebook = write_notebook(tmp_path / "a.ipynb", cell, parameters=MODERN)
    given = {"crop": [0.5], "mode": "b", "sizes": [3], "picture": "b", "query": "c=d", "quoted": 4}
    prints = io.StringIO()
    run_notebook(notebook, tmp_path / "out.ipynb", given, prints=prints)
    assert prints.getvalue() == "[[0.5], 'b', [3], 'b', 'c=d', 4]\n"
    with pytest.raises(InputError, match="unknown parameter 'mod'; did you mean 'mode'"):
        run_notebook(notebook, tmp_path / "out.ipynb", {"mod": "b"})


@pytest.mark.slow
def test_braces_in_paths_and_a_long_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "{old} films {0}" / "{answer}"
    folder.mkdir(parents=True)
    notebook = write_notebook(folder / "a{b}.ipynb", "print(answer)")
    long = tmp_path / ("t" * (100 - len(str(tmp_path)) + 1))
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    output = folder / "}{.ipynb"
    run_notebook(notebook, output, {"answer": 4})
    assert json.loads(output.read_text())["metadata"]["papermill"]["output_path"].endswith(
        "/{answer}/.}{.running.ipynb"
    )
    assert sorted(folder.iterdir()) == [notebook, output]
    assert not list(long.iterdir())


@pytest.mark.slow
def test_a_stream_that_lacks_letters_gets_question_marks(tmp_path: Path) -> None:
    notebook = write_notebook(tmp_path / "a.ipynb", "print('\u00fc \u2588 \\udcff')")
    written = io.BytesIO()
    latin = io.TextIOWrapper(written, encoding="iso-8859-1")
    try:
        raise KeyError("somebody else's")
    except KeyError:  # an error that is dealt with is none of the notebook's
        run_notebook(notebook, tmp_path / "out.ipynb", {}, prints=latin)
    assert written.getvalue() == b"\xfc ? ?\n"
    assert (tmp_path / "out.ipynb").is_file()
    with pytest.raises(InputError, match="is no proper Unicode"):
        run_notebook(notebook, tmp_path / "\udcff.ipynb", {})


@pytest.mark.slow
def test_a_run_does_not_write_where_its_inputs_lie(tmp_path: Path) -> None:
    own = tmp_path / "runs" / "x" / "picture.png"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"finished")
    notebook = write_notebook(
        tmp_path / "a.ipynb",
        "from workbench import notebook\nnotebook.parameters(In, globals())",
        parameters=f"content: str = {str(own)!r}\noutput_dir: str = 'nowhere'",
    )
    for given in ({"output_dir": str(own.parent)}, {"output_dir": f"{own.parent}/../x"}):
        with pytest.raises(InputError, match=r"picture\.png is read from there"):
            run_notebook(notebook, tmp_path / "out.ipynb", given)
    with pytest.raises(InputError, match=r"picture\.png is read, and would be written over"):
        run_notebook(notebook, own, {"content": str(own)})
    assert own.read_bytes() == b"finished"
    again = {"output_dir": str(tmp_path)}  # the notebook of an earlier attempt lies in there
    failed_notebook(tmp_path / "out.ipynb").touch()
    run_notebook(notebook, tmp_path / "out.ipynb", {**again, "content": "sample:astronaut"})
    check_inputs(
        {"content": str(own), "models_dir": str(own.parent), "output_dir": str(tmp_path / "y")}
    )
    with pytest.raises(InputError, match=r"picture\.png is read"):
        check_inputs({"styles": {"a": ["b.png", str(own)]}, "output_dir": str(tmp_path)})
    upload = own.parent / "uploads" / "me.jpg"
    upload.parent.mkdir()
    upload.touch()
    check_inputs({"content": str(upload), "output_dir": str(own.parent)})


def test_a_notebook_has_the_values_that_are_meant(tmp_path: Path) -> None:
    cell = "list_ = ['']\noutput_dir: str = 'runs/x'\nmasks: list = []\ncrop: list = []"
    injected = "# Parameters\nmasks = '~/me.png'\ncrop = '0.2,0,1,1'\noutput_dir = '~/x'"
    names: dict[str, object] = {"list_": [""]}
    exec(cell, names)
    exec(injected, names)
    taken = parameters([cell, injected, ""], names)
    assert names["masks"] == taken["masks"] == [str(Path.home() / "me.png")]
    assert names["crop"] == taken["crop"] == [0.2, 0, 1, 1]
    assert names["output_dir"] == str(Path.home() / "x")
