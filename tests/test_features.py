from __future__ import annotations

import pytest
import torch
from tiny_backbone import tiny_tensors

from workbench import weights as weights_module
from workbench.errors import InputError
from workbench.features import build_network
from workbench.weights import BACKBONES, CAFFE_MEAN, Weights


@pytest.fixture
def weights() -> Weights:
    return Weights("vgg16", tiny_tensors(), "", "test")


def picture(height: int = 48, width: int = 64) -> torch.Tensor:
    return 255 * torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(1))


def test_layers_have_the_shapes_of_vgg(weights: Weights) -> None:
    layers = ("relu1_1", "relu2_2", "relu4_2", "relu5_1")
    activations = build_network(weights, layers)(picture(), layers)
    shapes = {layer: tuple(a.shape) for layer, a in activations.items()}
    assert shapes == {
        "relu1_1": (1, 4, 48, 64),
        "relu2_2": (1, 6, 24, 32),
        "relu4_2": (1, 8, 6, 8),
        "relu5_1": (1, 8, 3, 4),
    }


def test_nothing_behind_the_deepest_layer_is_kept(weights: Weights) -> None:
    network = build_network(weights, ("relu1_2", "relu2_1"))
    assert [name for name, _, _ in network.convolutions] == ["relu1_1", "relu1_2", "relu2_1"]
    assert network.smallest_side == 2


def test_activations_are_frozen_but_pass_gradients_to_the_picture(weights: Weights) -> None:
    network = build_network(weights, ("relu3_1",))
    pixels = picture().requires_grad_()
    network(pixels, ("relu3_1",))["relu3_1"].sum().backward()
    assert pixels.grad is not None
    assert not any(w.requires_grad for _, w, _ in network.convolutions)


def torchvision_features(name: str) -> tuple[torch.nn.Sequential, dict[str, torch.Tensor]]:
    """VGG as torchvision begins its training, without the large layers behind; and its state."""
    from torchvision.models import vgg  # here, as it takes long

    torch.manual_seed(0)
    features = vgg.make_layers(vgg.cfgs[{"vgg16": "D", "vgg19": "E"}[name]])
    for layer in features:
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return features.eval(), {f"features.{key}": each for key, each in features.state_dict().items()}


@pytest.mark.parametrize("name", ["vgg16", "vgg19"])
def test_equals_torchvision_with_the_same_weights(name: str) -> None:
    reference, state = torchvision_features(name)
    tensors = weights_module._named(state, name, CAFFE_MEAN)
    layers = BACKBONES[name].layers
    network = build_network(Weights(name, tensors, "", ""), layers)
    x = picture(32, 48) - torch.tensor(CAFFE_MEAN).view(1, 3, 1, 1)
    expected = []
    with torch.no_grad():
        for module in reference:
            x = module(x)
            if isinstance(module, torch.nn.ReLU):
                expected.append(x.clone())
        activations = network(picture(32, 48), layers)
    for layer, value in zip(layers, expected, strict=True):
        torch.testing.assert_close(activations[layer], value, rtol=1e-3, atol=1e-3)


def test_vgg19_takes_its_own_normalisation_into_the_first_filters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reference, state = torchvision_features("vgg19")
    monkeypatch.setattr(weights_module, "_torchvision_state", lambda _: dict(state))
    tensors = weights_module._vgg19_from_torchvision()
    network = build_network(Weights("vgg19", tensors, "", ""), ("relu1_1",))
    mean = torch.tensor((0.485, 0.456, 0.406)).view(1, 3, 1, 1)
    deviation = torch.tensor((0.229, 0.224, 0.225)).view(1, 3, 1, 1)
    with torch.no_grad():
        expected = torch.relu(reference[0]((picture() / 255 - mean) / deviation))
        ours = network(picture(), ("relu1_1",))["relu1_1"]
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pooling", ["max", "average", "l2"])
def test_pooling_of_a_constant(pooling: str, weights: Weights) -> None:
    from workbench.features import POOLING_SCALE

    network = build_network(weights, ("relu2_1",), pooling=pooling)
    pooled = network._pool(torch.full((1, 4, 6, 6), 3.0))
    assert torch.allclose(pooled, torch.full((1, 4, 3, 3), 3.0 * POOLING_SCALE[pooling]))


def test_l2_pooling_has_a_finite_gradient_at_zero(weights: Weights) -> None:
    network = build_network(weights, ("relu2_1",), pooling="l2")
    x = torch.zeros(1, 4, 4, 4, requires_grad=True)
    network._pool(x).sum().backward()
    assert torch.isfinite(x.grad).all()


def test_unknown_names_are_refused(weights: Weights) -> None:
    with pytest.raises(InputError, match=r"relu9_1.*relu1_1"):
        build_network(weights, ("relu9_1",))
    with pytest.raises(InputError, match="median"):
        build_network(weights, ("relu1_1",), pooling="median")
