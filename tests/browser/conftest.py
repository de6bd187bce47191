"""A Chromium for the tests that look at pages, and a JupyterLab for those of notebooks."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nbformat
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

import workbench
from workbench.notebook import find_notebook

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-quic",
    "--no-first-run",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",  # a camera; who may use it is up to each test
)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium; without one on this machine the test is skipped."""
    names = ("chromium", "chromium-browser", "google-chrome")
    chromium = next(filter(None, map(shutil.which, names)), None)
    if chromium is None:
        pytest.skip(f"there is no browser on this machine ({', '.join(names)})")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=[*FLAGS])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of its own; errors in its console fail the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))

    def listen(message: ConsoleMessage) -> None:
        # Of a picture by itself, the browser asks the server for an icon.
        if message.type == "error" and not message.location["url"].endswith("/favicon.ico"):
            errors.append(message.text)

    page.on("console", listen)
    yield page
    context.close()
    assert errors == []


@pytest.fixture
def violations() -> Callable[..., list[str]]:
    """Tell what on a page, or in a part of it, shuts people out (axe-core: serious, critical)."""

    def found(page: Page, part: str | None = None) -> list[str]:
        told = Axe().run(page, context=part).response["violations"]
        return [
            f"{each['id']}: {node['html']}"
            for each in told
            if each["impact"] in ("serious", "critical")
            for node in each["nodes"]
        ]

    return found


@dataclass(frozen=True)
class Project:
    """A folder with `notebooks/` in it, as people have it, and Labs that were started nearby.

    Attributes
    ----------
    root
        The project's folder, with `photo.jpg` and `style.png` in it.
    lab
        Place that a Lab is started in ("root", "notebooks", "above") -> its address. The server
        is started by the first who asks.
    """

    root: Path
    lab: Callable[[str], str]

    def url(self, notebook: str, place: str = "root") -> str:
        """Address of a notebook that lies in `notebooks/`, in a workspace of its own.

        Else Lab would open the notebooks of earlier tests as well, and one of them might be on top.
        """
        here = quote(self.root.name)
        folder = {"root": "notebooks/", "notebooks": "", "above": f"{here}/notebooks/"}[place]
        return f"{self.lab(place)}/lab/workspaces/{notebook}/tree/{folder}{notebook}.ipynb"

    def copy(self, notebook: str, name: str | None = None, **parameters: Any) -> None:
        """Put a notebook of the workbench into `notebooks/`, with some parameters set by hand."""
        document = nbformat.read(find_notebook(notebook), 4)
        (cell,) = [c for c in document.cells if "parameters" in c.metadata.get("tags", [])]
        for parameter, value in parameters.items():
            line = re.compile(rf"^({parameter}: \w+ = ).*?(  #.*)?$", re.MULTILINE)
            cell.source, count = line.subn(lambda m, v=value: f"{m[1]}{v!r}{m[2]}", cell.source)
            assert count == 1, parameter
        nbformat.write(document, self.root / "notebooks" / f"{name or notebook}.ipynb")


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A project in a folder with a blank in its name; what it serves has nobody's settings."""
    above = tmp_path_factory.mktemp("above")
    root = above / "my project"
    notebooks = find_notebook("tune_weights").parent
    shutil.copytree(notebooks, root / "notebooks", ignore=shutil.ignore_patterns(".*"))
    pixels = np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels).resize((160, 120), Image.Resampling.BICUBIC)
    picture.save(root / "photo.jpg")
    picture.transpose(Image.Transpose.ROTATE_90).save(root / "style.png")
    places = {"root": root, "notebooks": root / "notebooks", "above": above}
    with ExitStack() as servers:
        lab = cache(lambda place: servers.enter_context(_lab(places[place])))
        yield Project(root, lab)


@contextmanager
def _lab(folder: Path) -> Iterator[str]:
    """A JupyterLab started in a folder; gives its address."""
    home = Path(tempfile.mkdtemp(prefix="jupyter-"))
    for plugin, settings in {
        # Nobody is to be asked whether they want news, or which of two versions to keep.
        "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
        "docmanager-extension/plugin": {"autosave": False},
    }.items():
        path = home / "settings" / "@jupyterlab" / f"{plugin}.jupyterlab-settings"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(settings))
    names = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "IPYTHONDIR": "ipython"}
    names |= {"JUPYTER_RUNTIME_DIR": "runtime", "JUPYTERLAB_SETTINGS_DIR": "settings"}
    names |= {"JUPYTERLAB_WORKSPACES_DIR": "workspaces"}
    environment = os.environ | {name: str(home / folder) for name, folder in names.items()}
    package = str(Path(workbench.__file__).parents[1])  # wherever the tests were started
    environment["PYTHONPATH"] = os.pathsep.join([package, os.environ.get("PYTHONPATH", "")])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += ["--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}"]
    command += ["--ServerApp.port_retries=0", "--IdentityProvider.token="]
    command += ["--LabApp.news_url=None"]
    log = home / "log"
    with log.open("w") as output:
        server = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=output
        )
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 300
        while not _answers(f"{url}/api"):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield url
    finally:
        server.terminate()  # and with it all kernels
        server.wait(30)
        shutil.rmtree(home, ignore_errors=True)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False
