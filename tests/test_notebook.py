from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from workbench.errors import InputError, WorkbenchError
from workbench.notebook import check_inputs, failed_notebook, run_notebook


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


def test_cells_are_announced_and_what_is_printed_can_be_read(tmp_path: Path) -> None:
    import io

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
        ("raise KeyError('x')", "KeyError: 'x'."),
        ("raise ValueError('two\\nlines.')", "ValueError: two."),
        ("raise RuntimeError", "RuntimeError: no message."),
        ("from workbench.errors import *; raise OutputError('It is full.')", "It is full."),
    ],
)
def test_how_a_notebook_ended_is_one_sentence(cell: str, sentence: str, tmp_path: Path) -> None:
    notebook = write_notebook(tmp_path / "a.ipynb", "before = 1", cell, "after = 1")
    with pytest.raises(WorkbenchError) as caught:
        run_notebook(notebook, tmp_path / "out.ipynb", {})
    assert str(caught.value).endswith(sentence) or sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert failed_notebook(tmp_path / "out.ipynb").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.ipynb", "out.failed.ipynb"]


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


def test_a_run_does_not_write_where_its_inputs_lie(tmp_path: Path) -> None:
    own = tmp_path / "runs" / "x" / "picture.png"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"finished")
    notebook = write_notebook(
        tmp_path / "a.ipynb",
        "from workbench import notebook\nnotebook.check_parameters(In)",
        parameters=f"content: str = {str(own)!r}\noutput_dir: str = 'nowhere'",
    )
    for parameters in ({"output_dir": str(own.parent)}, {"output_dir": f"{own.parent}/../x"}):
        with pytest.raises(InputError, match=r"picture\.png is read from there"):
            run_notebook(notebook, tmp_path / "out.ipynb", parameters)
    with pytest.raises(InputError, match=r"picture\.png is read, and would be written over"):
        run_notebook(notebook, own, {"content": str(own)})
    assert own.read_bytes() == b"finished"
    check_inputs(
        {"content": str(own), "models_dir": str(own.parent), "output_dir": str(tmp_path / "y")}
    )
    with pytest.raises(InputError, match=r"picture\.png is read"):
        check_inputs({"styles": {"a": ["b.png", str(own)]}, "output_dir": str(tmp_path)})
    upload = own.parent / "uploads" / "me.jpg"
    upload.parent.mkdir()
    upload.touch()
    check_inputs({"content": str(upload), "output_dir": str(own.parent)})
