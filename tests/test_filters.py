from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from workbench import weights
from workbench.errors import InputError
from workbench.features import Network, build_network
from workbench.filters import (
    PATCH_EDGE,
    choose_filters,
    excite,
    filter_sheet,
    gram_distances,
    gram_matrices,
    plot_grams,
    receptive_field,
    strongest_patches,
)
from workbench.images import resize
from workbench.losses import gram_matrix, style_loss
from workbench.samples import load_picture
from workbench.settings import Settings
from workbench.sheets import save_plot
from workbench.textures import (
    reconstruct,
    synthesize_texture,
)

LAYERS = ("relu1_1", "relu2_1", "relu3_1")


def test_unknown_layers_are_refused(tiny: Settings, painting: Tensor) -> None:
    tries = [
        lambda: next(synthesize_texture(painting, ["relu9_9"], tiny)),
        lambda: next(reconstruct(painting, "relu9_9", tiny)),
        lambda: receptive_field("relu9_9"),
        lambda: next(excite("relu9_9", [0], tiny)),
        lambda: strongest_patches([painting], "relu9_9", [0], 1, tiny),
        lambda: choose_filters([painting], {"relu9_9": 1}, tiny),
        lambda: gram_distances(painting, painting, ["relu9_9"], tiny),
        lambda: gram_matrices(painting, ["relu9_9"], tiny),
    ]
    for attempt in tries:
        with pytest.raises(InputError, match=r"relu9_9.*relu1_1"):
            attempt()


def test_pictures_that_are_too_small_are_refused(tiny: Settings) -> None:
    small = torch.rand(1, 3, 8, 12)
    tries = [
        lambda: next(synthesize_texture(small, ["relu5_1"], tiny)),
        lambda: next(reconstruct(small, "relu5_1", tiny.changed(size=32))),
        lambda: strongest_patches([small], "relu5_1", [0], 1, tiny),
    ]
    for attempt in tries:
        with pytest.raises(InputError, match="at least 16"):
            attempt()


# --- receptive fields --------------------------------------------------------------------


@pytest.mark.parametrize("backbone", ["vgg16", "vgg19"])
@pytest.mark.parametrize("pixel", [(100, 157), (96, 0)])
def test_receptive_fields_are_what_a_changed_pixel_changes(
    backbone: str, pixel: tuple[int, int]
) -> None:
    layers = weights.BACKBONES[backbone].layers
    convolutions = tuple(
        (layer, torch.ones(1, 3 if layer == "relu1_1" else 1, 3, 3), torch.zeros(1))
        for layer in layers
    )
    network = Network(convolutions, torch.zeros(1, 3, 1, 1))
    picture = torch.zeros(1, 3, 256, 256)
    picture[..., pixel[0], pixel[1]] = 1.0
    for layer, activation in network(picture, layers).items():
        field = receptive_field(layer, backbone)
        changed = activation[0, 0] > 0
        sees = torch.zeros_like(changed)
        for row in range(changed.shape[0]):
            for column in range(changed.shape[1]):
                top, left = field.corner(row, column)
                sees[row, column] = (
                    top <= pixel[0] < top + field.side and left <= pixel[1] < left + field.side
                )
        assert torch.equal(changed, sees), layer


def test_receptive_fields_of_vgg16() -> None:
    field = receptive_field("relu5_3")
    assert (field.side, field.stride, field.offset) == (196, 16, -90)
    assert receptive_field("relu1_1").side == 3


# --- filters -----------------------------------------------------------------------------


def test_filters_get_pictures_that_excite_them(tiny: Settings) -> None:
    filters = [5, 0, 3]
    steps = list(excite("relu2_1", filters, tiny, size=32, steps=15))
    assert len(steps) == 15
    assert steps[-1].shape == (3, 3, 32, 32)
    assert 0 <= float(steps[-1].min()) <= float(steps[-1].max()) <= 1
    tiny_weights = weights.load_weights("tiny")
    network = build_network(tiny_weights, ["relu1_2"])
    kernel, bias = (tiny_weights.tensors[f"conv2_1.{part}"] for part in ("weight", "bias"))

    def answers(pictures: Tensor) -> Tensor:
        pooled = F.max_pool2d(network(255 * pictures, ["relu1_2"])["relu1_2"], 2)
        return F.conv2d(pooled, kernel, bias, padding=1).mean(dim=(2, 3))[:, filters]

    before, after = answers(steps[0]), answers(steps[-1])
    assert (after.diagonal() > before.diagonal()).all()
    assert after.diagonal().tolist() == after.amax(dim=0).tolist()  # each better than the others


def test_a_silent_filter_wakes_up(tiny: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = dict(weights.load_weights("tiny").tensors)
    tensors["conv1_1.bias"] = tensors["conv1_1.bias"] - 60
    silent = weights.Weights("tiny", tensors, "", "")
    monkeypatch.setattr("workbench.textures.load_weights", lambda _: silent)
    network = build_network(silent, ["relu1_1"])
    *_, pictures = excite("relu1_1", [0], tiny, size=32, steps=60)
    assert (
        float(network(torch.full((1, 3, 32, 32), 127.0), ["relu1_1"])["relu1_1"][:, 0].max()) == 0
    )
    assert float(network(255 * pictures, ["relu1_1"])["relu1_1"][:, 0].mean()) > 0


def test_the_same_seed_gives_the_same_filters(tiny: Settings) -> None:
    def last(seed: int) -> Tensor:
        *_, pictures = excite("relu2_1", [1], tiny.changed(seed=seed), size=32, steps=3)
        return pictures

    assert torch.equal(last(0), last(0))
    assert not torch.equal(last(0), last(1))


@pytest.mark.parametrize("number", [6, -1, True, 1.5, "3"])
def test_filters_that_are_not_there_are_refused(
    number: object, tiny: Settings, painting: Tensor
) -> None:
    wanted: list[int] = [0, number]  # type: ignore[list-item]
    sentence = "relu2_1 has no filter .*; it has 6"
    with pytest.raises(InputError, match=sentence):
        next(excite("relu2_1", wanted, tiny))
    with pytest.raises(InputError, match=sentence):
        strongest_patches([painting], "relu2_1", wanted, 1, tiny)
    with pytest.raises(InputError, match=sentence):
        choose_filters([painting], {"relu2_1": wanted}, tiny)


def test_nonsense_is_refused(tiny: Settings, painting: Tensor) -> None:
    with pytest.raises(InputError, match="at least one filter"):
        next(excite("relu2_1", [], tiny))
    with pytest.raises(InputError, match="at least 32 pixels"):
        next(excite("relu2_1", [0], tiny, size=16))
    with pytest.raises(InputError, match="count = 0"):
        strongest_patches([painting], "relu2_1", [0], 0, tiny)
    with pytest.raises(InputError, match="pictures is empty"):
        strongest_patches([], "relu2_1", [0], 1, tiny)
    with pytest.raises(InputError, match="named twice"):
        choose_filters([painting], {"relu2_1": [3, 3]}, tiny)
    for count in (0, 7, 2.5, "3"):
        with pytest.raises(InputError, match="give 1 to 6 filters"):
            choose_filters([painting], {"relu2_1": count}, tiny)  # type: ignore[dict-item]


MEAN = torch.tensor(weights.CAFFE_MEAN).view(1, 3, 1, 1) / 255


@pytest.fixture
def cross(tiny: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A backbone whose filter 2 of relu1_1 answers to bright crosses and to nothing else."""
    tensors = dict(weights.load_weights("tiny").tensors)
    pattern = torch.tensor([[-1.0, 1, -1], [1, 1, 1], [-1, 1, -1]]).expand(3, 3, 3)
    tensors["conv1_1.weight"] = tensors["conv1_1.weight"].clone()
    tensors["conv1_1.bias"] = tensors["conv1_1.bias"].clone()
    tensors["conv1_1.weight"][2], tensors["conv1_1.bias"][2] = pattern, -1500.0
    planted = weights.Weights("tiny", tensors, "", "")
    monkeypatch.setattr("workbench.textures.load_weights", lambda _: planted)
    return tiny


def with_crosses(*places: tuple[int, int]) -> Tensor:
    """A dark picture of 40 x 50 pixels with crosses that have their corners there."""
    picture = torch.zeros(1, 3, 40, 50)
    for i, (top, left) in enumerate(places):
        brightness = 1 - 0.01 * i
        picture[..., top + 1, left : left + 3] = brightness
        picture[..., top : top + 3, left + 1] = brightness
    return picture


def test_planted_patterns_are_found_strongest_first(cross: Settings) -> None:
    pictures = [with_crosses(), with_crosses((11, 20), (30, 7)), with_crosses((5, 40))]
    patches = strongest_patches(pictures, "relu1_1", [2], 9, cross)[2]
    places = [(patch.picture, patch.top, patch.left) for patch in patches]
    assert sorted(places[:2]) == [(1, 11, 20), (2, 5, 40)]
    assert places[2:] == [(1, 30, 7)]  # the filter is silent everywhere else
    assert patches[0].answer > patches[2].answer > 0
    assert torch.equal(patches[2].image, pictures[1][..., 30:33, 7:10])
    assert choose_filters(pictures, {"relu1_1": 1}, cross) == {"relu1_1": [2]}


def test_a_patch_is_all_that_its_activation_depends_on(tiny: Settings) -> None:
    picture = torch.rand(1, 3, 120, 100, generator=torch.Generator().manual_seed(0))
    network = build_network(weights.load_weights("tiny"), ["relu2_2"])
    field = receptive_field("relu2_2")
    row = column = -field.offset // field.stride
    assert field.corner(row, column) == (0, 0)
    found = strongest_patches([picture, 1 - picture], "relu2_2", [0, 4], 8, tiny)
    within = 0
    for number, patches in found.items():
        assert len(patches) == 8
        for patch in patches:
            assert patch.image.shape == (1, 3, field.side, field.side)
            if min(patch.top, patch.left) >= 0 and not (patch.image == PATCH_EDGE / 255).any():
                alone = network(255 * patch.image, ["relu2_2"])["relu2_2"][0, number, row, column]
                assert float(alone) == pytest.approx(patch.answer, rel=1e-4)
                within += 1
    assert within >= 10


def test_patches_of_one_picture_do_not_overlap(tiny: Settings, painting: Tensor) -> None:
    side = receptive_field("relu2_1").side
    patches = strongest_patches([painting], "relu2_1", [1], 1000, tiny)[1]
    assert 4 < len(patches) <= (70 // side + 2) * (64 // side + 2)
    for i, a in enumerate(patches):
        for b in patches[:i]:
            assert abs(a.top - b.top) >= side or abs(a.left - b.left) >= side
            assert b.answer >= a.answer


def test_patches_beyond_the_edge_are_grey_and_taken_only_if_there_are_no_others(
    tiny: Settings,
) -> None:
    picture = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    side = receptive_field("relu4_1").side
    patch = strongest_patches([picture], "relu4_1", [0], 1, tiny)[0][0]
    inside = patch.image[..., -patch.top : 16 - patch.top, -patch.left : 16 - patch.left]
    assert torch.equal(inside, picture)
    assert patch.image.numel() - inside.numel() == int((patch.image == PATCH_EDGE / 255).sum())

    large = torch.rand(1, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    for patch in strongest_patches([large], "relu4_1", [0], 9, tiny)[0]:
        for corner in (patch.top, patch.left):
            assert -0.3 * side < corner < 160 - 0.7 * side


def test_chosen_filters(tiny: Settings, painting: Tensor) -> None:
    chosen = choose_filters([painting], {"relu2_1": 4, "relu1_1": [3, 1]}, tiny)
    assert chosen["relu1_1"] == [3, 1]
    assert len(set(chosen["relu2_1"])) == 4
    assert set(chosen["relu2_1"]) <= set(range(6))


def test_a_sheet_has_a_row_for_each_filter_even_a_silent_one(
    tiny: Settings, painting: Tensor
) -> None:
    patches = strongest_patches([painting], "relu2_1", [0, 1], 3, tiny)
    excited = torch.rand(2, 3, 32, 32)
    full = filter_sheet(excited, patches, height=40)
    silent = filter_sheet(excited, {**patches, 1: []}, height=40)
    assert full.shape == silent.shape
    assert (silent == 255).sum() > (full == 255).sum()
    assert filter_sheet(excited, {0: [], 1: []}, height=40).shape[0] == full.shape[0]


# --- Gram matrices -----------------------------------------------------------------------


def test_gram_distances_are_the_style_loss(tiny: Settings, photo: Tensor, painting: Tensor) -> None:
    distances = gram_distances(photo, painting, LAYERS, tiny.changed(style_scale=2.0))
    network = build_network(weights.load_weights("tiny"), LAYERS)
    a, b = (network(255 * resize(picture, 64), LAYERS) for picture in (photo, painting))
    for layer in LAYERS:
        expected = style_loss(gram_matrix(a[layer]), gram_matrix(b[layer]))
        assert distances[layer] == pytest.approx(float(expected), rel=1e-4)
        gram = gram_matrices(photo, LAYERS, tiny)[layer]
        torch.testing.assert_close(gram, gram_matrix(a[layer]))
    assert set(gram_distances(painting, painting, LAYERS, tiny).values()) == {0.0}


def test_plots(tiny: Settings, photo: Tensor, painting: Tensor, tmp_path: Path) -> None:
    pictures = {"photo": photo, "painting": painting}
    grams = {name: gram_matrices(each, LAYERS, tiny) for name, each in pictures.items()}
    heat = plot_grams(grams, channels=5)
    assert len(heat.axes) == 6
    assert heat.axes[0].images[0].get_array().shape == (4, 4)  # relu1_1 has no more
    assert heat.axes[1].images[0].get_array().shape == (5, 5)
    save_plot(heat, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5000


# --- with the true weights ---------------------------------------------------------------


@pytest.mark.slow
def test_filters_get_patterns_that_are_neither_noise_nor_flat_nor_burnt_out() -> None:
    filters = [20, 69]
    *_, pictures = excite("relu3_3", filters, size=64, steps=60)
    network = build_network(weights.load_weights(), ["relu3_3"])
    photo = resize(load_picture("sample:astronaut"), 64)
    answers = [
        network(255 * picture, ["relu3_3"])["relu3_3"].mean(dim=(2, 3))[:, filters]
        for picture in (pictures, photo)
    ]
    assert (answers[0].diagonal() > 4 * answers[1][0]).all()
    assert float(pictures.std(dim=(1, 2, 3)).min()) > 0.1
    assert float(((pictures < 0.01) | (pictures > 0.99)).float().mean()) < 0.1
    neighbours = torch.corrcoef(
        torch.stack([pictures[..., 1:].flatten(), pictures[..., :-1].flatten()])
    )[0, 1]
    assert float(neighbours) > 0.5
