"""What the project promises outside of its code."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
CONDA_NAMES = {
    "matplotlib": "matplotlib-base",
    "opencv-python": "py-opencv",
    "playwright": "playwright-python",
    "torch": "pytorch",
}


def conda_name(requirement: str) -> str:
    name, bound = re.fullmatch(r"([\w-]+)(>=[\d.]+)", requirement).groups()  # type: ignore[union-attr]
    return CONDA_NAMES.get(name, name) + bound


def test_environment_yml_has_the_dependencies_of_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["test"]
    *environment, by_pip = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    environment += by_pip["pip"]
    assert f"python{project['requires-python']}" in environment
    assert set(environment) - {"pip", f"python{project['requires-python']}"} == {
        conda_name(requirement) for requirement in wanted
    }


def quick_start() -> list[str]:
    readme = (ROOT / "README.md").read_text()
    section = re.search(r"^## Quick start$(.*?)^## ", readme, re.MULTILINE | re.DOTALL)
    assert section is not None
    return re.findall(r"^```sh\n(.*?)^```$", section[1], re.MULTILINE | re.DOTALL)


def test_quick_start_is_two_command_lines() -> None:
    run, test = quick_start()
    assert run.strip().endswith("workbench demo")
    assert " -m pytest" in test
    for command in (run, test):
        assert "\n" not in command.strip()
        assert ".venv" in command
        assert "&&" in command


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_shows_and_links_to_exists(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[\w-]+)?\)", page.read_text())
    for link in links:
        assert link.startswith("https://") or (page.parent / link).is_file(), link


def test_every_page_and_every_picture_of_the_docs_is_shown_somewhere() -> None:
    text = "".join(page.read_text() for page in PAGES)
    for file in (ROOT / "docs").rglob("*.*"):
        assert f"{file.name})" in text or f"{file.name}#" in text, file.name


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda p: p.stem)
def test_a_notebook_opens_on_what_people_look_at(path: Path) -> None:
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            folded = cell["metadata"].get("jupyter", {}).get("source_hidden", False)
            assert folded == ("parameters" not in cell["metadata"].get("tags", []))
            assert (cell["outputs"], cell["execution_count"]) == ([], None)


def test_importing_the_package_loads_neither_torch_nor_jupyter() -> None:
    script = (
        "import sys, workbench, workbench.cli, workbench.settings\n"
        "heavy = {'torch', 'torchvision', 'matplotlib', 'IPython', 'ipywidgets', 'cv2', 'onnx'}\n"
        "print(*(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


@pytest.mark.slow
def test_a_wheel_brings_notebooks_and_templates(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(tmp_path)]
    subprocess.run([*command, str(ROOT)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "workbench/_notebooks/stylize_image.ipynb" in names
    assert {"workbench/data/swirls.webp", "workbench/data/sample_clip.mp4"} <= {*names}
    pages = {"page.html.j2", "gallery.html.j2", "batch/page.html.j2"}
    assert {f"workbench/{page}" for page in pages} <= set(names)
    assert not any(name.startswith("tests/") for name in names)
