from __future__ import annotations

import json
import tarfile
import urllib.request
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from workbench import cli
from workbench.errors import InputError, OutputError
from workbench.fast import export, live
from workbench.fast.export import export_onnx, short_name
from workbench.fast.live import build_page
from workbench.fast.models import StyleModel, save_network
from workbench.fast.network import SOURCE, ExamplesNetwork, TransformationNetwork
from workbench.images import resize
from workbench.samples import photograph

ONE, STRENGTHS, MANY = ("style",), (SOURCE, "ink"), ("sketches/ink.png", "sample:oil", "chalk")
SIZES = [(1, 1), (7, 40), (16, 16), (33, 50), (64, 48), (97, 31), (120, 160), (135, 101)]
SIZES += [(150, 3), (180, 240)]


def model(
    program: type[TransformationNetwork] = TransformationNetwork, sets=ONE, kind: str = "light"
) -> StyleModel:
    """A network that has learned nothing, whose scales and shifts differ from set to set."""
    torch.manual_seed(0)
    network = program(0.25, sets, kind).requires_grad_(False)
    for name, parameter in network.named_parameters():
        if name.endswith(("scale", "shift")):
            torch.nn.init.normal_(parameter, 0.5, 0.5)
    if program is ExamplesNetwork:
        network.bias.fill_(120)  # of 0 to 255
        network.paint.weight.mul_(20)
    return StyleModel(network, torch.device("cpu"), torch.float32)


def run(path: Path, picture: Tensor, mix: Tensor | None = None) -> Tensor:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    given = {"picture": picture.numpy()} | ({} if mix is None else {"mix": mix.numpy()})
    return torch.from_numpy(session.run(None, given)[0])


@pytest.mark.parametrize(
    ("program", "kind"),
    [
        (TransformationNetwork, "light"),
        (TransformationNetwork, "johnson"),
        (ExamplesNetwork, "johnson"),
    ],
)
def test_what_is_exported_paints_pictures_of_any_size_alike(
    program: type[TransformationNetwork], kind: str, tmp_path: Path
) -> None:
    painter = model(program, kind=kind)
    export_onnx(painter, tmp_path / "ink.onnx", name="ink", license="CC BY 4.0")
    for height, width in SIZES:
        picture = resize(photograph(), 300)[..., :height, :width]
        painted = run(tmp_path / "ink.onnx", picture)
        assert painted.shape == picture.shape
        assert (painted - painter(picture)).abs().max() < 0.1 / 255
        assert height * width < 500 or painted.std() > 0.01
    told = onnx.load(tmp_path / "ink.onnx")
    assert {each.key: each.value for each in told.metadata_props} == {
        "name": "ink",
        "program": program.program,
        "license": "CC BY 4.0",
        "sets": '["style"]',
    }
    assert [(each.domain, each.version) for each in told.opset_import] == [("", export.OPSET)]


@pytest.mark.parametrize("sets", [STRENGTHS, MANY, (SOURCE, *MANY)])
def test_the_mix_of_sets_is_an_input(sets: tuple[str, ...], tmp_path: Path) -> None:
    painter = model(sets=sets)
    export_onnx(painter, tmp_path / "ink.onnx")
    picture = resize(photograph(), 90)
    styles = len(painter.network.styles)
    mixed = [painter.mixed(1, torch.eye(styles)[-1].tolist()), painter.mixed(1, [1.0] * styles)]
    if sets[0] == SOURCE:
        mixed += [painter.mixed(0.3), painter.mixed(0)]
    for each in mixed:
        assert (run(tmp_path / "ink.onnx", picture, each.mix) - each(picture)).abs().max() < 1e-4
    if sets[0] == SOURCE:
        assert (run(tmp_path / "ink.onnx", picture, mixed[-1].mix) - picture).abs().max() < 1e-6
    told = {each.key: each.value for each in onnx.load(tmp_path / "ink.onnx").metadata_props}
    assert json.loads(told["sets"]) == [short_name(each) for each in sets]
    assert told["license"] == "not stated"


def test_what_paints_otherwise_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "EPSILON", 1.0)
    with pytest.raises(OutputError, match=r"ink.onnx would paint otherwise than the model, by"):
        export_onnx(model(), tmp_path / "ink.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("models/sketch", "sketch"),
        ("/home/me/models/sketch@less-good", "sketch less-good"),
        ("models/sketch/step-000300.safetensors", "step-000300"),
        ("sample:swirls", "swirls"),
        ("candy.pth", "candy"),
        ("models/sketch/", "sketch"),
        ("art/starry_night.jpg", "starry night"),
    ],
)
def test_names_do_not_tell_where_files_lie(name: str, short: str) -> None:
    assert short_name(name) == short


# --- the page ----------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two models, and a package of what runs them."""
    save_network(model(sets=STRENGTHS).network, tmp_path / "ink.safetensors")
    save_network(model(sets=MANY).network, tmp_path / "three.safetensors")
    with tarfile.open(tmp_path / "package.tgz", "w:gz") as package:
        for name in live._RUNTIME.values():
            (tmp_path / "member").write_bytes(b"made of " + name.encode())
            package.add(tmp_path / "member", f"package/dist/{name}")
    monkeypatch.setattr(live, "_package", lambda: tmp_path / "package.tgz")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files(folder: Path) -> set[str]:
    return {each.relative_to(folder).as_posix() for each in folder.rglob("*") if each.is_file()}


def test_a_page_is_one_folder_and_is_brought_up_to_date(here: Path) -> None:
    names = [str(here / "ink.safetensors"), "three.safetensors", "./three.safetensors"]
    page = build_page(names, "site", title='"Ink" & <oil>', license="CC BY 4.0")
    text = page.read_text()
    site = files(here / "site")
    models = {each for each in site if each.startswith("models/")}
    assert len(models) == 2 + 4  # and a picture in each style
    assert all(each in text for each in models)
    assert site - models == {
        *("index.html", "sample.webp", "worker.js"),
        *(f"runtime/{name}" for name in live._RUNTIME),
    }
    assert "&#34;Ink&#34; &amp; &lt;oil&gt;" in text
    assert "CC BY 4.0" in text
    assert str(here) not in text
    styles = json.loads(text.partition("const styles = ")[2].partition(";\n")[0])
    assert [each["label"] for each in styles] == ["ink", "ink", "oil", "chalk"]
    assert [each["strengths"] for each in styles] == [True, False, False, False]
    assert [each["blends"] for each in styles] == [False, True, True, True]
    (here / "site" / "models" / "mine.onnx").write_text("kept")
    build_page(names[:1], "site")
    kept = {each for each in files(here / "site") if each.startswith("models/")}
    assert kept == {
        *(each for each in models if each.startswith("models/ink-")),
        "models/mine.onnx",
    }


def test_a_page_is_served_to_this_machine(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("here")
    address = live.serve(tmp_path / "index.html")
    assert address.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(address) as response:
        assert response.read() == b"here"


def test_the_page_of_somebody_else_is_left_alone(here: Path) -> None:
    (here / "site").mkdir()
    (here / "site" / "index.html").write_text("my diary")
    with pytest.raises(OutputError, match=r"was not made by `workbench export` .* another folder"):
        build_page(["ink.safetensors"], "site")
    assert files(here / "site") == {"index.html"}


def test_a_model_that_is_none_is_refused_before_any_work(here: Path) -> None:
    (here / "broken.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"broken.safetensors is not a style model"):
        build_page(["ink.safetensors", "broken.safetensors"], "site")
    assert files(here / "site") == set()


def test_without_npm_it_is_said_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKBENCH_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(
        OutputError, match=r"not on this machine .* \(there is no npm here\); .*pip"
    ):
        live._package()


def test_a_package_that_was_changed_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKBENCH_WEIGHTS", str(tmp_path))
    (tmp_path / "onnxruntime-web-1.30.0.tgz").write_bytes(b"something else")
    npm = tmp_path / "npm"
    npm.write_text(
        "#!/bin/sh\necho 'npm error code E404' >&2\necho forged > $4/onnxruntime-web-1.30.0.tgz\n"
    )
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(OutputError, match=r"could not be fetched \(code E404\)"):
        live._package()


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["workbench", "export", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


def test_the_command(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "ink.safetensors", "-o", "ink.onnx") == 0
    assert np.isfinite(run(here / "ink.onnx", torch.rand(1, 3, 20, 20), torch.eye(2)[1])).all()
    assert call(monkeypatch, "ink.safetensors", "three.safetensors", "-o", "site") == 0
    assert "2 models on site/index.html" in capsys.readouterr().out
    assert call(monkeypatch, "ink.safetensors", "three.safetensors", "-o", "both.onnx") == 2
    assert "both.onnx is one model; for 2, name a folder" in capsys.readouterr().err
    assert call(monkeypatch, "ink.onnx", "-o", "ink.onnx") == 2
    assert "would be written over" in capsys.readouterr().err
