from __future__ import annotations

import json
from pathlib import Path

import onnxruntime
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from workbench.errors import InputError
from workbench.fast import models
from workbench.fast.export import export_onnx
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
from workbench.fast.network import SOURCE, TransformationNetwork

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
    save_network(model.network, tmp_path / "copy.safetensors")
    picture = torch.rand(2, 3, 40, 52)
    again = StyleModel.load(tmp_path / "copy.safetensors", **PLAIN)
    assert torch.equal(model(picture), again(picture))
    assert model(picture).shape == picture.shape
    assert model(picture).min() >= 0
    assert model(picture).max() <= 1
    assert (tmp_path / "copy.safetensors").read_bytes() == path.read_bytes()


def test_what_is_read_is_not_made_up_before(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.init, "kaiming_normal_", None)
    StyleModel.load(path, **PLAIN)


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


def test_a_model_of_the_first_format_paints_as_before(path: Path, tmp_path: Path) -> None:
    tensors = {name: each.squeeze(0) for name, each in load_file(path).items()}
    header = {"kind": "style model", "format": 1, "width": 0.25}
    save_file(tensors, tmp_path / "old.safetensors", {"workbench": json.dumps(header)})
    picture = torch.rand(1, 3, 40, 52)
    old = StyleModel.load(tmp_path / "old.safetensors", **PLAIN)
    assert torch.equal(old(picture), StyleModel.load(path, **PLAIN)(picture))
    assert old.network.sets == ("style",)


def test_a_model_of_many_styles_and_strengths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = TransformationNetwork(0.25, (SOURCE, "ink", "oil"))
    for name, parameter in network.named_parameters():
        if name.endswith(("scale", "shift")):
            torch.nn.init.normal_(parameter, 1.0, 0.3)
    save_network(network, tmp_path / "both.safetensors")
    model = StyleModel.load(tmp_path / "both.safetensors", **PLAIN)
    assert model.network.styles == ("ink", "oil")
    picture = torch.rand(1, 3, 80, 64)
    assert torch.equal(model.mixed(0.0)(picture), picture)
    ink, oil = (model.mixed(style_blend_weights=shares) for shares in ((1, 0), (0, 2)))
    assert (ink(picture) - oil(picture)).abs().mean() > 0.001
    assert torch.equal(model(picture), model.mixed(1.0, (0.5, 0.5))(picture))
    assert model.digest == model.mixed().digest
    assert len({each.digest for each in (model, ink, oil, ink.mixed(0.5))}) == 4
    whole = ink.mixed(0.4)(picture)
    monkeypatch.setattr(models, "STRIP_PIXELS", 4000)
    assert (ink.mixed(0.4)(picture) - whole).abs().max() < 1e-4
    with pytest.raises(InputError, match=r"strength = 1.1: give a number from 0 to 1"):
        model.mixed(1.1)
    with pytest.raises(InputError, match=r"has 1 numbers, and the model knows 2 styles \(ink, oil"):
        model.mixed(style_blend_weights=[1])
    for wrong in ([0, 0], [-1, 2], [float("nan"), 1]):
        with pytest.raises(InputError, match=r"style_blend_weights = .*: give numbers from 0 on"):
            model.mixed(style_blend_weights=wrong)


def test_a_model_without_strengths_says_so(path: Path) -> None:
    with pytest.raises(InputError, match=r"strength = 0.5: .* train one with --strengths"):
        StyleModel.load(path, **PLAIN).mixed(0.5)


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


class Convolution(torch.nn.Module):
    """With the names that pytorch/examples' fast_neural_style has published."""

    def __init__(self, inputs: int, outputs: int, side: int, stride: int = 1, grow: int = 1):
        super().__init__()
        self.grow, self.padding = grow, torch.nn.ReflectionPad2d(side // 2)
        self.conv2d = torch.nn.Conv2d(inputs, outputs, side, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.grow > 1:
            x = torch.nn.functional.interpolate(x, scale_factor=self.grow, mode="nearest")
        padded: torch.Tensor = self.conv2d(self.padding(x))
        return padded


class Block(torch.nn.Module):
    def __init__(self, track: bool) -> None:
        super().__init__()
        self.conv1, self.conv2 = Convolution(128, 128, 3), Convolution(128, 128, 3)
        self.in1, self.in2 = (normalisation(128, track) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        changed: torch.Tensor = self.in2(self.conv2(self.in1(self.conv1(x)).relu()))
        return x + changed


def normalisation(channels: int, track: bool) -> torch.nn.Module:
    return torch.nn.InstanceNorm2d(channels, affine=True, track_running_stats=track)


class TransformerNet(torch.nn.Module):
    """What that program paints with: 0 to 255 in, about 0 to 255 out."""

    def __init__(self, track: bool = False) -> None:
        super().__init__()
        self.conv1, self.in1 = Convolution(3, 32, 9), normalisation(32, track)
        self.conv2, self.in2 = Convolution(32, 64, 3, stride=2), normalisation(64, track)
        self.conv3, self.in3 = Convolution(64, 128, 3, stride=2), normalisation(128, track)
        for number in range(1, 6):
            self.add_module(f"res{number}", Block(track))
        self.deconv1, self.in4 = Convolution(128, 64, 3, grow=2), normalisation(64, track)
        self.deconv2, self.in5 = Convolution(64, 32, 3, grow=2), normalisation(32, track)
        self.deconv3 = Convolution(32, 3, 9)
        torch.nn.init.normal_(self.deconv3.conv2d.weight, std=1.0)
        torch.nn.init.constant_(self.deconv3.conv2d.bias, 128.0)
        for each in self.modules():
            if isinstance(each, torch.nn.InstanceNorm2d):
                torch.nn.init.uniform_(each.weight, 0.5, 1.5)
                torch.nn.init.normal_(each.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for number in (1, 2, 3):
            x = self.get_submodule(f"in{number}")(self.get_submodule(f"conv{number}")(x)).relu()
        for number in range(1, 6):
            x = self.get_submodule(f"res{number}")(x)
        x = self.in4(self.deconv1(x)).relu()
        x = self.in5(self.deconv2(x)).relu()
        painted: torch.Tensor = self.deconv3(x)
        return painted


@pytest.mark.parametrize("old", [False, True])
def test_a_model_of_fast_neural_style_paints_as_it_does_there(tmp_path: Path, old: bool) -> None:
    torch.manual_seed(1)
    reference = TransformerNet(track=old).requires_grad_(False)
    path = tmp_path / "mosaic.pth"
    torch.save(reference.state_dict(), path, _use_new_zipfile_serialization=not old)
    assert any("running_mean" in name for name in torch.load(path)) is old
    before = torch.get_rng_state()
    model = StyleModel.load(path, **PLAIN)
    assert torch.equal(torch.get_rng_state(), before)
    assert "pytorch/examples" in model.network.program
    picture = torch.rand(1, 3, 40, 52)
    for module in reference.modules():
        module.training = True  # its normalisation is of the picture, whatever was tracked
    expected = (reference(255 * picture) / 255).clamp(0, 1)
    assert ((expected > 0) & (expected < 1)).float().mean() > 0.2
    assert (model(picture) - expected).abs().max() < 2e-4
    assert model(torch.rand(2, 3, 33, 50)).shape == (2, 3, 33, 50)
    save_network(model.network, tmp_path / "copy.safetensors")
    again = StyleModel.load(tmp_path / "copy.safetensors", **PLAIN)
    assert torch.equal(again(picture), model(picture))
    export_onnx(model, tmp_path / "mosaic.onnx")
    exported = onnxruntime.InferenceSession(tmp_path / "mosaic.onnx")
    (painted,) = exported.run(None, {"picture": picture.numpy()})
    assert (torch.from_numpy(painted) - expected).abs().max() < 2e-4


class Harmful:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("harm"),))


def test_other_models_are_named_and_nothing_in_them_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    state = TransformerNet().state_dict()
    short = {name: each for name, each in state.items() if name != "in5.bias"}
    wrong = {**state, "res2.conv1.conv2d.weight": torch.zeros(128, 64, 3, 3)}
    others = [short, {**state, "more": torch.zeros(1)}, wrong, [1], Harmful(), TransformerNet()]
    for number, other in enumerate(others):
        for modern in (False, True):
            path = tmp_path / f"{number}{modern}.pth"
            torch.save(other, path, _use_new_zipfile_serialization=modern)
            with pytest.raises(
                InputError, match=r"\.pth is not .*, but a model of another program"
            ):
                StyleModel.load(path)
    (tmp_path / "cut.pth").write_bytes((tmp_path / "0True.pth").read_bytes()[:5000])
    with pytest.raises(InputError, match=r"cut\.pth is not .* or damaged"):
        StyleModel.load("cut.pth")
    assert not (tmp_path / "harm").exists()


def test_a_later_version(path: Path) -> None:
    rewrite(path, format=3)
    with pytest.raises(InputError, match="of format 3, and this workbench reads up to 2"):
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
    with pytest.raises(InputError, match=r"no checkpoint '150'; .*steps: 100, 200, 300"):
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
