"""Choosing pictures in a notebook: a path or a sample's name is typed, or a file is uploaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import traitlets
from PIL import Image
from torch import Tensor

from workbench import samples
from workbench.cells import expand_home
from workbench.errors import InputError, WorkbenchError
from workbench.files import encode, write_bytes
from workbench.images import load_mask, resize_down, shape_of, to_array
from workbench.knobs import Knob, button, grid, image, row
from workbench.notebook import UPLOADS
from workbench.runs import digest
from workbench.session import CHOOSE

THUMBNAIL_SIDE = 160
UPLOAD_BYTES = 10 * 2**20  # longest message that Jupyter's server takes from a browser


class PictureChooser:
    """Type the path of a picture or the name of a sample, or upload one.

    `box` is what to choose with, `thumbnail` shows what is chosen: `image`, which is None as
    long as there is no picture called `name`, and `alpha`, how opaque it is. What was wrong with
    the last one chosen stands in `problem`. `on_choice` or `on_problem` is called after every
    choice. A mask may be left out: its name is empty then.
    """

    def __init__(
        self, name: str, sample_names: Sequence[str], output_dir: Path, *, what: str
    ) -> None:
        self.name, self.problem, self._is_mask = name, "", what == "mask"
        self.image: Tensor | None = None
        self.alpha: Tensor | None = None
        self.on_choice: Callable[[], None] = lambda: None
        self.on_problem: Callable[[str], None] = lambda problem: None
        self._uploads = output_dir / UPLOADS
        self.thumbnail = image(what.split()[0], height="72px")
        self.size = widgets.HTML()
        self.path = widgets.Combobox(
            continuous_update=False,
            placeholder="everywhere" if self._is_mask else "path of a picture, or a sample",
            tooltip=f"{what}: path of a picture file, or one of the samples",
            options=[samples.PREFIX + sample for sample in sample_names],
            layout={"width": "auto", "flex": "1 1 150px", "min_width": "0"},
        )
        self.upload = widgets.FileUpload(
            accept="image/*",
            description="Upload",
            tooltip=f"Take a {what} of up to 10 MB from this computer",
            layout={"width": "auto"},
        )
        # What is too large for Jupyter never arrives; its name and size do, ahead of it.
        self._ahead = _FileList()
        self._link = widgets.jsdlink((self.upload, "value"), (self._ahead, "value"))
        self.choose(name)
        self.path.observe(lambda change: self.choose(change["new"]), "value")
        self._ahead.observe(lambda change: self._refuse_too_large(change["new"]), "value")
        self.upload.observe(lambda change: self._take_upload(change["new"]), "value")
        self.box = row(self.path, self.upload, self.size)

    def choose(self, name: str) -> None:
        """Take the picture of that name, or say why not and keep the one there is."""
        if name == self.name and self.image is not None:
            return
        try:
            self.name, self.image, self.alpha = self._load(name)
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
        self.size.value = "" if self.image is None else "{1}×{0} px".format(*shape_of(self.image))

    def _load(self, name: str) -> tuple[str, Tensor | None, Tensor | None]:
        """A picture by its name, how opaque it is, and the name with `~` written out."""
        if self._is_mask and not name.strip():
            return "", None, None
        if not name.strip():
            raise InputError("the path is empty; type one, or upload a picture.")
        if name.startswith(("https://", "http://")):
            raise InputError(f"{name} is an address; save the picture there and give its path.")
        name = expand_home(name)
        if self._is_mask:
            return name, load_mask(name), None
        return name, *samples.load_with_alpha(name)

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
                self._load(str(path))
            except WorkbenchError as error:
                with suppress(OSError):
                    path.unlink()
                self.on_problem(str(error).replace(str(path), file["name"]))
            else:
                self.choose(str(path))
        self.upload.value = ()  # the same file may come again


@dataclass(frozen=True, eq=False)
class Style:
    """One of several style pictures."""

    picture: PictureChooser
    mask: PictureChooser
    share: Knob
    box: widgets.Widget


class StylesChooser:
    """Choose one or more style pictures, each with its mask and its share.

    `on_choice`, `on_problem` and `on_share` are called as their names say. More masks than styles
    are refused.
    """

    def __init__(self, names: Sequence[str], masks: Sequence[str], output_dir: Path) -> None:
        self._output_dir = output_dir
        self.on_choice: Callable[[], None] = lambda: None
        self.on_problem: Callable[[str], None] = lambda problem: None
        self.on_share: Callable[[], None] = lambda: None
        self.styles: list[Style] = []
        tip = "Paint in one more style, over all of the picture or where its mask is white"
        self.more = button("Another style", tip, self.add, icon="plus")
        tip = "Take the last style away"
        self.fewer = button("Without the last", tip, self._take_away, icon="minus")
        self._rows, self.thumbnails = widgets.VBox(), row()
        self.box = widgets.VBox([self._rows, row(self.more, self.fewer)])
        if len(masks) > len(names):
            raise InputError(
                f"there are {len(masks)} masks for {len(names)} style pictures; give one for each,"
                " or none."
            )
        for number, name in enumerate(names):
            self.styles.append(self._style(name, masks[number] if number < len(masks) else ""))
        self._show()

    def add(self) -> None:
        """Add the next sample that is not among the styles."""
        there = {style.picture.name for style in self.styles}
        names = [samples.PREFIX + sample for sample in samples.STYLES]
        self.styles.append(self._style(next((n for n in names if n not in there), names[0]), ""))
        self._show()
        self.on_choice()

    @property
    def names(self) -> list[str]:
        """Names of the style pictures."""
        return [style.picture.name for style in self.styles]

    @property
    def masks(self) -> list[str]:
        """Names of the masks; none, if no style has one."""
        names = [style.mask.name for style in self.styles]
        return names if any(names) else []

    @property
    def shares(self) -> tuple[float, ...]:
        """Share of each style; none, if they are alike."""
        shares = tuple(float(style.share.field.value) for style in self.styles)
        return () if all(share == 1 for share in shares) else shares

    def show_shares(self, shares: Sequence[float]) -> None:
        """Set the widgets to the shares of as many styles."""
        for style, share in zip(self.styles, shares or [1.0] * len(self.styles), strict=False):
            style.share.show(share)

    @property
    def choosers(self) -> list[PictureChooser]:
        """What each picture and each mask is chosen with."""
        return [each for style in self.styles for each in (style.picture, style.mask)]

    def pictures(self) -> tuple[list[Tensor], list[Tensor]]:
        """The style pictures and their masks; `InputError` if one is missing."""
        styles = [style.picture.image for style in self.styles if style.picture.image is not None]
        masks = [style.mask.image for style in self.styles if style.mask.image is not None]
        if len(styles) < len(self.styles):
            raise InputError(CHOOSE)
        if masks and len(masks) < len(styles):
            missing = next(i for i, name in enumerate(self.masks, start=1) if not name)
            raise InputError(f"style {missing} has no mask yet; give every style one, or none.")
        return styles, masks

    def _style(self, name: str, mask: str) -> Style:
        picture = PictureChooser(name, samples.STYLES, self._output_dir, what="style picture")
        where = PictureChooser(mask, (), self._output_dir, what="mask")
        for chooser in (picture, where):
            chooser.on_choice = lambda: self.on_choice()
            chooser.on_problem = lambda problem: self.on_problem(problem)
        share = Knob.of("style_blend_weights", 1.0, "share")
        share.watch(lambda value: self._set_share(share, value))
        rows = [picture.box, widgets.HBox([widgets.Label("mask"), where.box, where.thumbnail])]
        return Style(picture, where, share, widgets.VBox([*rows, grid([share])]))

    def _set_share(self, share: Knob, value: float) -> None:
        if share.field.value != value:
            share.field.value = value  # which calls this again
        else:
            self.on_share()

    def _take_away(self) -> None:
        self.styles.pop()
        if not any(self.shares or [1.0]):
            self.show_shares(())
        self._show()
        self.on_choice()

    def _show(self) -> None:
        self._rows.children = [style.box for style in self.styles]
        self.thumbnails.children = [style.picture.thumbnail for style in self.styles]
        self.fewer.disabled = len(self.styles) == 1
        for style in self.styles:
            style.box.children[-1].layout.display = None if len(self.styles) > 1 else "none"


class _FileList(widgets.TagsInput):  # type: ignore[misc]
    """Names and sizes of files, without what is in them: the browser sends this as JSON."""

    value = traitlets.List(traitlets.Dict()).tag(sync=True)


def small_jpeg(image: Tensor | None, side: int) -> bytes:
    """A JPEG, no larger than that many pixels."""
    if image is None:
        return b""
    small = resize_down(image, side).expand(-1, 3, -1, -1)  # a mask is grey
    return encode(Image.fromarray(to_array(small)), "JPEG", quality=85)


def show_picture(widget: widgets.Image, data: bytes) -> None:
    """Set a picture; without one, hide the widget, which a browser would call broken."""
    widget.value = data
    widget.layout.display = None if data else "none"
