"""Batches: what a run costs beyond papermill, a plan that is all done, one worker and two.

The reference calls papermill in this process, one notebook after the other. Nothing else may run
on the machine meanwhile.

    python experiments/benchmarks/batch.py    # about 7 minutes on 2 cores
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import papermill
import yaml

from workbench.batch.plan import read_plan
from workbench.batch.record import Record, write_record
from workbench.batch.schedule import Options, run_batch
from workbench.notebook import find_notebook
from workbench.weights import load_weights

WAITING = [
    "number: int = 0  # tells runs apart\n"
    "seconds: float = 0.0  # to wait\n"
    'output_dir: str = "runs/waiting"  # folder that everything is written to',
    "import time\nfrom workbench import runs\n"
    "output = runs.start_run(output_dir)\n"
    "time.sleep(seconds)\n"
    '(output / "number.txt").write_text(str(number))\n'
    'runs.finish_run(output, outputs={"number": output / "number.txt"}, figures={},'
    ' settings={}, weights={"name": "none", "sha256": ""}, seconds=seconds)',
]
PAINTING = {"size": 96, "steps": [20], "gif_frames": 4}
RUNS = 8
DONE = 10_000


def write_notebook(folder: Path) -> Path:
    """The notebook that mostly waits."""
    cells = [nbformat.v4.new_code_cell(source) for source in WAITING]
    cells[0].metadata.tags = ["parameters"]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path = folder / "waiting.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


def write_batch(
    folder: Path, name: str, notebook: Path, grid: str, count: int, **more: object
) -> Path:
    """A batch file of so many runs."""
    batch = {
        "notebook": str(notebook),
        "output": f"runs/{name}/{{{grid}}}",
        "parameters": more,
        "grid": {grid: list(range(count))},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(batch))
    return path


def time_batch(file: Path, workers: int) -> float:
    plan = read_plan(file)
    began = time.perf_counter()
    states = run_batch(plan, Options(workers=workers))
    seconds = time.perf_counter() - began
    assert all(state.kind == "done" for state in states.values())
    return seconds


def time_papermill(folder: Path, notebook: Path) -> float:
    began = time.perf_counter()
    for number in range(RUNS):
        output = folder / "papermill" / str(number)
        output.mkdir(parents=True)
        parameters = {"number": number, "output_dir": str(output)}
        papermill.execute_notebook(
            str(notebook), str(output / "out.ipynb"), parameters, progress_bar=False
        )
    return time.perf_counter() - began


def finish_all(file: Path) -> None:
    """Have all runs of a batch done, without running any."""
    result = {
        "outputs": {"number": "number.txt"},
        "figures": {"loss": 1.0},
        "settings": {},
        "weights": {},
        "versions": {},
        "seconds": 1.0,
    }
    for run in read_plan(file).runs:
        run.output.mkdir(parents=True)
        (run.output / "number.txt").touch()
        (run.output / "result.json").write_text(json.dumps(result))
        record = Record("done", attempts=1, key=run.key, output=run.output.name)
        write_record(run.output, record)


def time_command(file: Path) -> float:
    began = time.perf_counter()
    command = [sys.executable, "-m", "workbench", "batch", str(file)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert f"{DONE} runs, {DONE} done already" in said
    return time.perf_counter() - began


def main() -> None:
    """Measure and print a table."""
    load_weights()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        waiting = write_notebook(folder)
        direct = time_papermill(folder, waiting)
        alone = time_batch(write_batch(folder, "alone", waiting, "number", RUNS), 1)
        slow = {"seconds": 10.0}
        one = time_batch(write_batch(folder, "one", waiting, "number", RUNS, **slow), 1)
        two = time_batch(write_batch(folder, "two", waiting, "number", RUNS, **slow), 2)
        paint = find_notebook("stylize_image")
        small = [
            time_batch(write_batch(folder, f"small{n}", paint, "seed", RUNS, **PAINTING), n)
            for n in (1, 2)
        ]
        done = write_batch(folder, "done", waiting, "number", DONE)
        finish_all(done)
        first, again = time_command(done), time_command(done)
    print(f"\n{datetime.date.today()}, {os.cpu_count()} cores")
    print("\n| | | |\n| --- | ---: | --- |")
    overhead = (alone - direct) / RUNS
    print(f"| {RUNS} runs that do nothing, papermill in one process | {direct:.1f} s | |")
    print(f"| the same, one worker | {alone:.1f} s | {overhead:.2f} s more a run |")
    print(f"| {RUNS} runs that wait for 10 s, one worker | {one:.1f} s | |")
    print(f"| the same, two workers | {two:.1f} s | {two / one:.2f} of it |")
    print(f"| {RUNS} small paintings, one worker | {small[0]:.1f} s | |")
    print(f"| the same, two workers | {small[1]:.1f} s | {small[1] / small[0]:.2f} of it |")
    print(f"| {DONE:,} runs, all done: until that is said | {first:.1f} s | again {again:.1f} s |")


if __name__ == "__main__":
    main()
