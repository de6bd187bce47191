"""Losses under a converted command are those that the program itself publishes.

Its formulas are written out here once more, in float64 and with nothing of `losses` or
`features`: convolutions from the weights, its scale of pixels, its pooling, its sums.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from workbench.descent import measure, optimize
from workbench.dialects import read_command
from workbench.features import build_network
from workbench.images import load_image, resize, save_image
from workbench.losses import Targets, gram_matrix, tv_loss, weighted_losses
from workbench.samples import load_picture
from workbench.settings import Settings
from workbench.weights import BACKBONES, Weights, load_weights

Terms = dict[str, Tensor]
CLOSE = 1e-5  # float32 against float64


# --- the programs -------------------------------------------------------------------------


PARTS = ("weight", "bias")
STYLE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")


def gram(activation: Tensor) -> Tensor:
    rows = activation.flatten(2)[0]
    return rows @ rows.T / rows.numel()


@dataclasses.dataclass
class Program:
    """What the three have in common; pictures are `(1, 3, H, W)`, float64, in [0, 1]."""

    weights: Weights
    content: Tensor
    styles: Sequence[Tensor]
    pooling: str
    white = 255.0

    def rounds_up(self) -> bool:
        """Whether half of an odd side is rounded up."""
        return False

    def terms(self, picture: Tensor) -> Terms:
        """Weighted losses, by our names."""
        raise NotImplementedError

    def constants(self) -> dict[str, float]:
        """By how much its losses exceed ours, whatever the picture."""
        return {}

    def activations(self, picture: Tensor) -> dict[str, Tensor]:
        x = picture * self.white - self.weights.tensors["mean"].double().view(1, 3, 1, 1)
        pool = F.max_pool2d if self.pooling == "max" else F.avg_pool2d
        found: dict[str, Tensor] = {}
        for layer in BACKBONES["vgg16"].layers:
            if layer.endswith("_1") and layer != "relu1_1":
                x = pool(x, kernel_size=2, stride=2, ceil_mode=self.rounds_up())
            name = layer.replace("relu", "conv")
            weight, bias = (self.weights.tensors[f"{name}.{part}"].double() for part in PARTS)
            x = found[layer] = F.conv2d(x, weight, bias, padding=1).relu()
            if layer == "relu5_2":
                break
        return found

    @functools.cached_property
    def target(self) -> dict[str, Tensor]:
        return self.activations(self.content)

    @functools.cached_property
    def grams(self) -> list[dict[str, Tensor]]:
        """Of each style, by layer."""
        seen = [self.activations(style) for style in self.styles]
        return [{layer: gram(each[layer]) for layer in STYLE_LAYERS} for each in seen]


class Lua(Program):
    """neural_style.lua: -content_weight 7 -style_weight 900 -tv_weight 0.02."""

    white = 256.0

    def rounds_up(self) -> bool:
        return self.pooling == "max"  # as loadcaffe sets it; nn.SpatialAveragePooling does not

    def terms(self, picture: Tensor) -> Terms:
        now, wanted = self.activations(picture), self.grams[0]
        difference = now["relu4_2"] - self.target["relu4_2"]
        terms = {"content relu4_2": 7 * difference.square().mean()}
        for layer in STYLE_LAYERS:
            terms[f"style {layer}"] = 900 * (gram(now[layer]) - wanted[layer]).square().mean()
        # It has the gradient only; this is what that is the gradient of.
        pixels = picture * self.white
        corner = pixels[:, :, :-1, :-1]
        right, down = corner - pixels[:, :, :-1, 1:], corner - pixels[:, :, 1:, :-1]
        terms["tv"] = 0.02 / 2 * (right.square().sum() + down.square().sum())
        return terms


class Pt(Program):
    """neural-style-pt: -normalize_weights -style_blend_weights 3,1, two content layers."""

    def terms(self, picture: Tensor) -> Terms:
        now, terms = self.activations(picture), {}
        for layer in ("relu2_2", "relu4_2"):
            strength = 5 / max(self.target[layer].shape)
            terms[f"content {layer}"] = strength * F.mse_loss(now[layer], self.target[layer])
        for layer in STYLE_LAYERS:
            wanted = 0.75 * self.grams[0][layer] + 0.25 * self.grams[1][layer]
            strength = 1e5 / max(wanted.shape)
            terms[f"style {layer}"] = strength * F.mse_loss(gram(now[layer]), wanted)
        pixels = picture * self.white
        terms["tv"] = 0.001 * (pixels.diff(dim=2).abs().sum() + pixels.diff(dim=3).abs().sum())
        return terms


class Athalye(Program):
    """Anish Athalye's: --content-weight-blend 0.7 --style-layer-weight-exp 2, blends 3 1."""

    def rounds_up(self) -> bool:
        return True  # TensorFlow's padding "SAME"

    def terms(self, picture: Tensor) -> Terms:
        def l2(x: Tensor) -> Tensor:
            return x.square().sum() / 2

        now, terms = self.activations(picture), {}
        for layer, part in (("relu4_2", 0.7), ("relu5_2", 1.0 - 0.7)):
            difference = now[layer] - self.target[layer]
            terms[f"content {layer}"] = part * 5 * 2 * l2(difference) / difference.numel()
        parts = {layer: 2.0**number for number, layer in enumerate(STYLE_LAYERS)}
        for layer, part in parts.items():
            differences = [gram(now[layer]) - wanted[layer] for wanted in self.grams]
            losses = [2 * l2(each) / each.numel() for each in differences]
            mixed = 0.75 * losses[0] + 0.25 * losses[1]
            terms[f"style {layer}"] = 500 * part / sum(parts.values()) * mixed
        pixels = picture * self.white
        down, right = pixels.diff(dim=2), pixels.diff(dim=3)
        terms["tv"] = 100 * 2 * (l2(down) / down.numel() + l2(right) / right.numel())
        return terms

    def constants(self) -> dict[str, float]:
        # A sum over styles of losses, less the loss to their mixed target.
        constants = {}
        for number, layer in enumerate(STYLE_LAYERS):
            spread = (self.grams[0][layer] - self.grams[1][layer]).square().mean()
            constants[f"style {layer}"] = 500 * 2**number / 31 * 0.75 * 0.25 * float(spread)
        return constants


# --- losses -------------------------------------------------------------------------------

COMMANDS: dict[str, tuple[str, type[Program], str, tuple[int, int]]] = {
    "lua": (
        "th neural_style.lua -content_image {content} -style_image {first} -image_size 96"
        " -content_weight 7 -style_weight 900 -tv_weight 0.02 -init image",
        Lua,
        "max",
        (96, 96),
    ),
    "lua, averages": (
        "th neural_style.lua -content_image {content} -style_image {first} -image_size 96"
        " -content_weight 7 -style_weight 900 -tv_weight 0.02 -init image -pooling avg",
        Lua,
        "avg",
        (83, 96),
    ),
    "pt": (
        "python neural_style.py -content_image {content} -style_image {first},{second}"
        " -image_size 96 -style_weight 1e5 -normalize_weights -style_blend_weights 3,1"
        " -content_layers relu2_2,relu4_2 -init image",
        Pt,
        "max",
        (83, 96),
    ),
    "athalye": (
        "python neural_style.py --content {content} --styles {first} {second} --output out.png"
        " --width 96 --content-weight-blend 0.7 --style-layer-weight-exp 2"
        " --style-blend-weights 3 1 --initial {content}",
        Athalye,
        "max",
        (96, 96),
    ),
}


@dataclasses.dataclass
class Case:
    """Losses of ten pictures by name, under a converted command and as the program has them."""

    ours: dict[str, dict[str, float]]
    totals: dict[str, float]
    theirs: dict[str, dict[str, float]]
    constants: dict[str, float]


@pytest.fixture(params=COMMANDS, scope="module")
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    text, program, pooling, shape = COMMANDS[request.param]
    folder = tmp_path_factory.mktemp("pictures")
    pictures = {
        "content": resize(load_picture("sample:astronaut"), shape),
        "first": resize(load_picture("sample:swirls"), (80, 96)),
        "second": resize(load_picture("sample:mosaic"), (64, 96)),
    }
    paths = {name: str(folder / f"{name}.png") for name in pictures}
    for name, picture in pictures.items():
        save_image(picture, paths[name])
    command = read_command(text.format(**paths))
    assert (command.content, command.settings.size) == (paths["content"], 96)
    content, *styles = (load_image(path) for path in (command.content, *command.styles))
    settings = command.settings.changed(
        backbone="vgg16", precision="float32", device="cpu", steps=15
    )
    wide = [style.double() for style in styles]
    reference = program(load_weights("vgg16"), content.double(), wide, pooling)
    found = Case({}, {}, {}, reference.constants())
    for name, picture in candidates(content, styles, settings).items():
        losses = measure(picture, content, styles, settings)
        found.totals[name] = losses.total
        found.ours[name] = {
            **{f"content {layer}": loss for layer, loss in losses.content.items()},
            **{f"style {layer}": loss for layer, loss in losses.style.items()},
            "tv": losses.tv,
        }
        terms = reference.terms(picture.double())
        found.theirs[name] = {term: float(loss) for term, loss in terms.items()}
    return found


def candidates(content: Tensor, styles: list[Tensor], settings: Settings) -> dict[str, Tensor]:
    """Ten pictures, of which the first is where the optimisation starts."""
    style = resize(styles[0], (content.shape[-2], content.shape[-1]))
    iterates = [iterate.image for iterate in optimize(content, styles, settings)]
    noise = torch.rand(content.shape, generator=torch.Generator().manual_seed(1))
    blurred = F.avg_pool2d(F.pad(content, (2, 2, 2, 2), mode="replicate"), 5, stride=1)
    return {
        "start": iterates[0],
        "5 steps": iterates[5],
        "10 steps": iterates[10],
        "15 steps": iterates[15],
        "noise": noise,
        "noisy": (iterates[15] + 0.1 * (noise - 0.5)).clamp(0, 1),
        "blurred": blurred,
        "style": style,
        "half style": (content + style) / 2,
        "grey": torch.full_like(content, 0.5),
    }


@pytest.mark.slow
def test_every_term_is_the_programs(case: Case) -> None:
    assert len(case.ours) == 10
    for name, theirs in case.theirs.items():
        wanted = {term: loss - case.constants.get(term, 0.0) for term, loss in theirs.items()}
        assert case.ours[name] == pytest.approx(wanted, rel=CLOSE, abs=1e-12), name


@pytest.mark.slow
def test_pictures_are_ranked_as_by_the_program(case: Case) -> None:
    theirs = {name: sum(terms.values()) for name, terms in case.theirs.items()}
    assert sorted(case.totals, key=case.totals.__getitem__) == sorted(
        theirs, key=theirs.__getitem__
    )


# --- gradients ----------------------------------------------------------------------------


@dataclasses.dataclass
class Toy:
    """What a small network sees of three pictures, under the settings of a command."""

    settings: Settings
    pixels: Tensor
    now: Mapping[str, Tensor]
    content: Mapping[str, Tensor]
    grams: Mapping[str, Tensor]

    @classmethod
    def of(cls, text: str, tiny: Settings, photo: Tensor, painting: Tensor) -> Toy:
        settings = Settings.from_command(text, backbone=tiny.backbone)
        network = build_network(load_weights(settings.backbone), settings.layers)
        pixels = (photo.flip(-1) * settings.white).requires_grad_()
        kept, painted = (
            network(picture * settings.white, settings.layers) for picture in (photo, painting)
        )
        grams = {layer: gram_matrix(painted[layer]) for layer in settings.style_layers}
        content = {layer: kept[layer] for layer in settings.content_layers}
        return cls(settings, pixels, network(pixels, settings.layers), content, grams)

    def gradient(self) -> Tensor:
        """Of the pixels, as `optimize` has it."""
        targets = Targets(self.content, self.grams)
        total, _ = weighted_losses(self.pixels, self.now, targets, self.settings)
        return torch.autograd.grad(total, self.pixels, retain_graph=True)[0]

    def losses(self) -> list[tuple[str, Tensor, Tensor]]:
        """Kind, activation and unweighted loss of every layer."""
        found = []
        for layer, target in self.content.items():
            found.append(("content", self.now[layer], F.mse_loss(self.now[layer], target)))
        for layer, target in self.grams.items():
            found.append(("style", self.now[layer], F.mse_loss(gram(self.now[layer]), target)))
        return found


class RescaleGradient(torch.autograd.Function):
    """Of a loss in neural-style-pt with -normalize_gradients: what comes back is one number."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad / (grad.norm() + 1e-8) * ctx.strength * ctx.strength, None


def test_gradients_of_pt_that_are_called_normalised(
    tiny: Settings, photo: Tensor, painting: Tensor
) -> None:
    text = (
        "python neural_style.py -content_weight 3 -style_weight 40 -tv_weight 0"
        " -content_layers relu2_2,relu4_2 -normalize_gradients"
    )
    toy = Toy.of(text, tiny, photo, painting)
    strengths = {"content": 3.0, "style": 40.0}
    total = torch.stack(
        [
            strengths[kind] * RescaleGradient.apply(loss, strengths[kind])
            for kind, _, loss in toy.losses()
        ]
    ).sum()
    theirs = torch.autograd.grad(total, toy.pixels, retain_graph=True)[0]
    torch.testing.assert_close(
        toy.gradient(), theirs, rtol=1e-4, atol=1e-6 * float(theirs.abs().max())
    )


def test_gradients_of_lua_are_normalised(tiny: Settings, photo: Tensor, painting: Tensor) -> None:
    text = (
        "th neural_style.lua -content_weight 3 -style_weight 40 -tv_weight 0"
        " -content_layers relu2_2,relu4_2 -normalize_gradients"
    )
    toy = Toy.of(text, tiny, photo, painting)
    strengths = {"content": 3.0, "style": 40.0}
    theirs = torch.zeros_like(toy.pixels)
    for kind, activation, loss in toy.losses():
        (grad,) = torch.autograd.grad(loss, activation, retain_graph=True)
        grad = strengths[kind] * grad / (grad.abs().sum() + 1e-8)
        theirs += torch.autograd.grad(activation, toy.pixels, grad, retain_graph=True)[0]
    torch.testing.assert_close(
        toy.gradient(), theirs, rtol=1e-4, atol=1e-6 * float(theirs.abs().max())
    )


def test_total_variation_of_lua_is_what_its_gradient_belongs_to(photo: Tensor) -> None:
    settings = Settings.from_command("th neural_style.lua -tv_weight 0.02")
    pixels = (photo.double() * 256).requires_grad_()
    loss = settings.tv_weight * tv_loss(settings.white / 256 * pixels, settings.tv_kind)
    (ours,) = torch.autograd.grad(loss, pixels)
    theirs = torch.zeros_like(pixels)
    x = pixels.detach()
    here = np.s_[..., :-1, :-1]
    for there in (np.s_[..., :-1, 1:], np.s_[..., 1:, :-1]):
        difference = x[here] - x[there]
        theirs[here] += difference
        theirs[there] -= difference
    torch.testing.assert_close(ours, 0.02 * theirs)
