"""The demonstration: two notebooks on the samples, with little to do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workbench import notebook
from workbench.errors import WorkbenchError
from workbench.runs import RESULT, read_result

# A tight crop spends the pixels on the face; few steps and frames keep this short.
_PHOTOGRAPH = {"size": 320, "steps": [50, 60], "crop": [0.08, 0.0, 0.88, 0.8]}
_CLIP = {
    "start": 1.2,
    "end": 1.6,
    "stride": 2,
    "size": 192,
    "steps": [30, 40],
    "later_steps": 14,
    "content_weight": 10.0,
    "style_scale": 0.6,
}


def paint_photograph(output_dir: Path) -> None:
    """Run notebooks/stylize_image.ipynb with its samples."""
    print("Painting the sample photograph in the style of a sample painting.", flush=True)
    _run("stylize_image", output_dir, _PHOTOGRAPH)


def paint_clip(output_dir: Path) -> None:
    """Run notebooks/compare_video.ipynb with its samples, into a folder in that of the picture."""
    print("\nPainting a moment of the sample clip in five ways.", flush=True)
    _run("compare_video", output_dir / "clip", _CLIP)


def _run(name: str, folder: Path, parameters: dict[str, Any]) -> None:
    notebook.prepare_process()
    output = folder / f"{name}.ipynb"
    try:
        notebook.run_notebook(
            notebook.find_notebook(name), output, {"output_dir": str(folder), **parameters}
        )
    except WorkbenchError as error:
        failed = notebook.failed_notebook(output)
        if not failed.is_file():
            raise
        sentence = str(error).rstrip(".")
        raise type(error)(f"{sentence} (the notebook up to there: {failed}).") from None


def list_files(output_dir: Path) -> Iterator[tuple[Path, str]]:
    """All that was made, each file with what it is."""
    for folder, name in ((output_dir, "stylize_image"), (output_dir / "clip", "compare_video")):
        result = read_result(folder)
        if result is None:
            raise WorkbenchError(f"{folder}: the notebook ended without a valid result.json.")
        for what, path in result.outputs.items():
            yield folder / path, what
        yield folder / f"{name}.ipynb", "notebook, executed"
        yield folder / RESULT, "result"
