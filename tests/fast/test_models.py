from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from workbench.errors import InputError
from workbench.fast import models
from workbench.fast.models import (
    Checkpoint,
    ModelFolder,
    StyleModel,
    find_checkpoint,
    label_checkpoint,
    read_folder,
    save_network,
    write_folder,
)
from workbench.fast.network import TransformationNetwork

PLAIN = {"device": "cpu", "precision": "float32"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_network(TransformationNetwork(0.25), tmp_path / "ink.safetensors")
    return tmp_path / "ink.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three checkpoints, of which the second is the best."""
    folder = tmp_path / "models" / "sketch"
    kept = []
    for step, total in ((100, 9.0), (200, 4.0), (300, 5.0)):
        losses = {"total": total, "content": 1.0, "style": total - 1, "tv": 0.0, "temporal": 0.0}
        kept.append(Checkpoint(step, losses, losses, float(step)))
        torch.manual_seed(step)
        save_network(TransformationNetwork(0.25), folder / f"{kept[-1].name}.safetensors")
    about = ModelFolder(("sketch.png",), ("clip.mp4",), {}, {"name": "vgg16", "sha256": "0"})
    write_folder(folder, ModelFolder(**{**vars(about), "checkpoints": tuple(kept)}))
    return folder


def test_a_saved_model_paints_the_same(path: Path, tmp_path: Path) -> None:
    model = StyleModel.load(path, **PLAIN)
    model.save(tmp_path / "copy.safetensors")
    picture = torch.rand(2, 3, 40, 52)
    again = StyleModel.load(tmp_path / "copy.safetensors", **PLAIN)
    assert torch.equal(model(picture), again(picture))
    assert model(picture).shape == picture.shape
    assert model(picture).min() >= 0
    assert model(picture).max() <= 1
    assert (tmp_path / "copy.safetensors").read_bytes() == path.read_bytes()


def test_a_large_picture_is_painted_in_strips(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = StyleModel.load(path, **PLAIN)
    pictures = torch.rand(2, 3, 80, 64)
    whole = model(pictures)
    monkeypatch.setattr(models, "STRIP_PIXELS", 4000)
    monkeypatch.setattr(TransformationNetwork, "forward", None)
    assert (model(pictures) - whole).abs().max() < 1e-4


@pytest.mark.parametrize("wrong", [torch.rand(3, 40, 40), torch.rand(1, 1, 40, 40)])
def test_what_is_no_picture_is_refused(path: Path, wrong: torch.Tensor) -> None:
    with pytest.raises(InputError, match=r"expected .* \(N, 3, H, W\)"):
        StyleModel.load(path, **PLAIN)(wrong)


def rewrite(path: Path, **changes: object) -> None:
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["workbench"])
    save_file(load_file(path), path, {"workbench": json.dumps({**header, **changes})})


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such model"):
        StyleModel.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize("share", [0.0, 0.2, 0.99])
def test_a_truncated_file(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(InputError, match=r"ink.*is not a style model, or is damaged"):
        StyleModel.load(path)


def test_another_programs_file(path: Path) -> None:
    save_file({"x": torch.zeros(3)}, path)
    with pytest.raises(InputError, match="not a style model of the workbench"):
        StyleModel.load(path)


def test_a_pickle_is_not_loaded(tmp_path: Path) -> None:
    torch.save({"x": torch.zeros(3)}, tmp_path / "model.pth")
    with pytest.raises(InputError, match="is not a style model"):
        StyleModel.load(tmp_path / "model.pth")


def test_a_later_version(path: Path) -> None:
    rewrite(path, format=2)
    with pytest.raises(InputError, match="of format 2, and this workbench reads 1"):
        StyleModel.load(path)


@pytest.mark.parametrize("width", [0.5, 100.0, -1, "much", None])
def test_shapes_that_do_not_fit(path: Path, width: object) -> None:
    rewrite(path, width=width)
    with pytest.raises(InputError, match=r"ink\.safetensors"):
        StyleModel.load(path)


def test_a_missing_and_a_foreign_tensor(path: Path) -> None:
    with safe_open(path, "pt") as file:
        header = file.metadata()
    tensors = load_file(path)
    tensors["other"] = tensors.pop("paint.weight")
    save_file(tensors, path, header)
    with pytest.raises(InputError, match=r"does not hold a network of width 0\.25"):
        StyleModel.load(path)


def test_numbers_that_are_not_finite(path: Path) -> None:
    with safe_open(path, "pt") as file:
        header = file.metadata()
    tensors = load_file(path)
    tensors["paint.weight"][0, 0] = float("nan")
    save_file(tensors, path, header)
    with pytest.raises(InputError, match="not finite"):
        StyleModel.load(path)


# --- folders -----------------------------------------------------------------------------


def test_a_folder_stands_for_its_best_checkpoint(folder: Path) -> None:
    assert find_checkpoint(folder).name == "step-000200.safetensors"
    assert read_folder(folder).best.step == 200
    assert json.loads((folder / "model.json").read_text())["best"] == 200


def test_a_step_and_a_label_name_a_checkpoint(folder: Path) -> None:
    label_checkpoint(folder, 100, "less good")
    label_checkpoint(folder, 300, "weird")
    for which, step in (("300", 300), ("weird", 300), ("less good", 100), ("less-good", 100)):
        assert find_checkpoint(f"{folder}@{which}").name == f"step-000{step}.safetensors"
    assert find_checkpoint(folder / "step-000100.safetensors").name == "step-000100.safetensors"


def test_a_label_moves_to_another_checkpoint(folder: Path) -> None:
    label_checkpoint(folder, 100, "less good")
    label_checkpoint(folder, 200, "less-good")
    assert read_folder(folder).labels == {"less-good": 200}


def test_one_checkpoint_can_have_two_labels(folder: Path) -> None:
    label_checkpoint(folder, 100, "weird")
    label_checkpoint(folder, 100, "bad")
    assert read_folder(folder).labels == {"weird": 100, "bad": 100}


def test_an_unknown_label_lists_those_that_there_are(folder: Path) -> None:
    label_checkpoint(folder, 100, "weird")
    with pytest.raises(InputError, match=r"no checkpoint 'odd'; labels: weird; steps: 100, 200"):
        find_checkpoint(f"{folder}@odd")


@pytest.mark.parametrize("label", ["", " ", "a@b", "a/b", "300", " good"])
def test_labels_that_could_not_be_asked_for(folder: Path, label: str) -> None:
    with pytest.raises(InputError, match="give a word or a few"):
        label_checkpoint(folder, 100, label)


def test_a_label_for_a_step_that_has_no_checkpoint(folder: Path) -> None:
    with pytest.raises(InputError, match=r"no checkpoint at step 150; there are 100, 200, 300"):
        label_checkpoint(folder, 150, "good")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"format": 1}', '{"format": 1, "checkpoints": [{"step": 1}]}']
)
def test_a_damaged_model_json(folder: Path, text: str) -> None:
    (folder / "model.json").write_text(text)
    with pytest.raises(InputError, match=r"model\.json is damaged"):
        read_folder(folder)


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no model"):
        StyleModel.load(tmp_path)
