"""Choosing a picture in a notebook: its path or a sample's name is typed, or it is uploaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import traitlets
from PIL import Image
from torch import Tensor

from workbench import samples
from workbench.cells import expand_home
from workbench.errors import InputError, WorkbenchError
from workbench.files import write_bytes
from workbench.images import load_image, resize_down, to_array
from workbench.notebook import UPLOADS, encode
from workbench.runs import digest

THUMBNAIL_SIDE = 160
UPLOAD_BYTES = 10 * 2**20  # longest message that Jupyter's server takes from a browser


class PictureChooser:
    """Type the path of a picture or the name of a sample, or upload one.

    `box` is what to choose with, `thumbnail` shows what is chosen: `image`, which is None as
    long as there is no picture called `name`. What was wrong with the last one chosen stands in
    `problem`. `on_choice` or `on_problem` is called after every choice.
    """

    def __init__(self, name: str, sample_names: Sequence[str], output_dir: Path) -> None:
        self.name, self.problem = name, ""
        self.image: Tensor | None = None
        self.on_choice: Callable[[], None] = lambda: None
        self.on_problem: Callable[[str], None] = lambda problem: None
        self._uploads = output_dir / UPLOADS
        self.thumbnail = widgets.Image(format="jpeg")
        self.path = widgets.Combobox(
            continuous_update=False,
            placeholder="path of a picture, or a sample",
            options=[samples.PREFIX + sample for sample in sample_names],
            layout={"width": "auto"},
        )
        self.upload = widgets.FileUpload(
            accept="image/*", description="Upload (up to 10 MB)", layout={"width": "auto"}
        )
        # What is too large for Jupyter never arrives; its name and size do, ahead of it.
        self._ahead = _FileList()
        self._link = widgets.jsdlink((self.upload, "value"), (self._ahead, "value"))
        self.choose(name)
        self.path.observe(lambda change: self.choose(change["new"]), "value")
        self._ahead.observe(lambda change: self._refuse_too_large(change["new"]), "value")
        self.upload.observe(lambda change: self._take_upload(change["new"]), "value")
        self.box = widgets.VBox([self.path, self.upload])

    @property
    def images(self) -> list[Tensor]:
        """The picture, if there is one."""
        return [] if self.image is None else [self.image]

    def choose(self, name: str) -> None:
        """Take the picture of that name, or say why not and keep the one there is."""
        if name == self.name and self.image is not None:
            return
        try:
            self.name, self.image = _load(name)
        except InputError as error:
            self.problem = str(error)
            self.on_problem(self.problem)
        else:
            self.problem = ""
            self.on_choice()
        self._show()

    def _show(self) -> None:
        self.path.value = self.name
        show_picture(self.thumbnail, small_jpeg(self.image, THUMBNAIL_SIDE))

    def _refuse_too_large(self, files: Sequence[dict[str, Any]]) -> None:
        for file in files:
            if file["size"] >= UPLOAD_BYTES:
                self.on_problem(
                    f"{file['name']} has {file['size'] / 1e6:.1f} MB, and more than"
                    f" {UPLOAD_BYTES / 1e6:.0f} MB do not get through Jupyter's connection: drag"
                    " the file into JupyterLab's file browser and type its path here."
                )
                self.upload.send_state("value")  # lets go of it in the browser as well

    def _take_upload(self, files: Sequence[dict[str, Any]]) -> None:
        """Keep an uploaded picture, so that saved settings can name it."""
        for file in files:
            content = bytes(file["content"])
            # Told apart by content, so that no upload ever replaces one that is in use.
            name = Path(file["name"].replace("\\", "/"))
            path = self._uploads / f"{digest(content)[:8]}-{name.stem[:60]}{name.suffix[:10]}"
            try:
                write_bytes(path, content)
                load_image(path)
            except WorkbenchError as error:
                with suppress(OSError):
                    path.unlink()
                self.on_problem(str(error).replace(str(path), file["name"]))
            else:
                self.choose(str(path))
        self.upload.value = ()  # the same file may come again


class _FileList(widgets.TagsInput):  # type: ignore[misc]
    """Names and sizes of files, without what is in them: the browser sends this as JSON."""

    value = traitlets.List(traitlets.Dict()).tag(sync=True)


def small_jpeg(image: Tensor | None, side: int) -> bytes:
    """A JPEG, no larger than that many pixels."""
    if image is None:
        return b""
    return encode(Image.fromarray(to_array(resize_down(image, side))), "JPEG", quality=85)


def show_picture(widget: widgets.Image, data: bytes) -> None:
    """Set a picture; without one, hide the widget, which a browser would call broken."""
    widget.value = data
    widget.layout.display = None if data else "none"


def _load(name: str) -> tuple[str, Tensor]:
    """A picture by its path or the name of a sample, and the name with `~` written out."""
    if not name.strip():
        raise InputError("the path is empty; type one, or upload a picture.")
    if name.startswith(("https://", "http://")):
        raise InputError(f"{name} is an address; save the picture there and give its path.")
    name = expand_home(name)
    return name, samples.load_picture(name)
