from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from workbench.errors import InputError
from workbench.settings import (
    FLOW_METHODS,
    MODES,
    OPTIMIZERS,
    POOLINGS,
    PRECISIONS,
    STYLE_LOSSES,
    ClipSettings,
    Settings,
    TrainingSettings,
)
from workbench.weights import BACKBONES

unhurried = hypothesis_settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
NAN, INF = float("nan"), float("inf")
weights = st.floats(0, 1e6) | st.integers(0, 1000)


@st.composite
def valid_settings(draw: st.DrawFn) -> Settings:
    backbone = draw(st.sampled_from(sorted(BACKBONES)))
    known = st.sampled_from(BACKBONES[backbone].layers)
    layers = st.lists(known, min_size=1, max_size=5, unique=True)
    style_layers = draw(layers)
    factors = st.tuples(*[weights.filter(bool)] * len(style_layers))
    return Settings(
        content_weight=draw(weights),
        style_weight=draw(weights.filter(bool)),
        tv_weight=draw(weights),
        content_layers=draw(layers),
        style_layers=style_layers,
        style_layer_weights=draw(st.just([]) | factors),
        style_blend_weights=draw(st.lists(weights.filter(bool), max_size=3)),
        style_scale=draw(st.floats(0.01, 10)),
        size=draw(st.integers(32, 16384)),
        steps=draw(st.integers(1, 999) | st.lists(st.integers(1, 999), min_size=1, max_size=4)),
        optimizer=draw(st.sampled_from(OPTIMIZERS)),
        learning_rate=draw(st.floats(1e-9, 1e9)),
        init=draw(st.text()),
        seed=draw(st.integers(0, 2**63 - 1)),
        backbone=backbone,
        pooling=draw(st.sampled_from(POOLINGS)),
        style_loss=draw(st.sampled_from([each for each in STYLE_LOSSES if each != "cross-layer"])),
        device=draw(st.text()),
        precision=draw(st.sampled_from(PRECISIONS)),
    )


def refusal(**changes: Any) -> str:
    with pytest.raises(InputError) as caught:
        Settings(**changes)
    assert caught.value.exit_code == 2
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return sentence


def test_defaults_are_the_documented_ones() -> None:
    settings = Settings()
    assert (settings.content_weight, settings.style_weight, settings.tv_weight) == (5, 100, 1e-3)
    assert settings.content_layers == ("relu4_2",)
    assert settings.style_layers == ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
    assert settings.size == 512
    assert (settings.backbone, settings.pooling) == ("vgg16", "max")
    assert (settings.optimizer, settings.learning_rate) == ("lbfgs", 10)
    assert (settings.init, settings.seed, settings.style_scale) == ("content", 0, 1)
    assert (settings.device, settings.precision) == ("auto", "auto")


def test_every_setting_is_documented() -> None:
    documentation = (Settings.__doc__ or "").splitlines()
    for field in dataclasses.fields(Settings):
        assert f"    {field.name}" in documentation


def test_one_number_of_steps_is_one_scale() -> None:
    assert Settings(steps=70).steps == (70,)


def test_lists_become_tuples() -> None:
    settings = Settings(
        content_layers=["relu3_1"],
        style_layers=["relu1_1", "relu2_1"],
        style_layer_weights=[1, 2],
        style_blend_weights=[3],
        steps=[10, 20],
    )
    assert settings.content_layers == ("relu3_1",)
    assert settings.style_layers == ("relu1_1", "relu2_1")
    assert settings.style_layer_weights == (1.0, 2.0)
    assert settings.style_blend_weights == (3.0,)
    assert settings.steps == (10, 20)
    assert len({settings, dataclasses.replace(settings)}) == 1


def test_whole_numbers_will_do_for_weights() -> None:
    settings = Settings(content_weight=3, learning_rate=2)
    assert isinstance(settings.content_weight, float)
    assert isinstance(settings.learning_rate, float)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().size = 100


@pytest.mark.parametrize("name", ["content_weight", "style_weight"])
def test_one_of_the_main_weights_may_be_zero(name: str) -> None:
    assert getattr(Settings(**{name: 0}), name) == 0


@pytest.mark.parametrize("size", [32, 16384])
def test_bounds_of_size_belong_to_it(size: int) -> None:
    assert Settings(size=size).size == size


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[
            (name, value)
            for name in ("content_weight", "style_weight", "tv_weight")
            for value in (-1, -1e-9, NAN, INF, -INF, True, "5", None, [5])
        ],
        *[
            (name, value)
            for name in ("style_scale", "learning_rate")
            for value in (0, -1, NAN, INF, False, "fast")
        ],
        *[
            (name, value)
            for name in ("content_layers", "style_layers")
            for value in ([], ["relu9_9"], ["RELU1_1"], "relu1_1", [1], None, ["relu1_1"] * 2)
        ],
        ("style_layer_weights", [1, 2]),
        ("style_layer_weights", [1] * 6),
        ("style_layer_weights", [1, 1, 1, 1, -1]),
        ("style_layer_weights", [1, 1, 1, 1, NAN]),
        ("style_layer_weights", [0] * 5),
        ("style_layer_weights", [True] * 5),
        ("style_layer_weights", "11111"),
        ("style_layer_weights", 1.0),
        ("style_blend_weights", [0, 0]),
        ("style_blend_weights", [1, INF]),
        ("style_blend_weights", ["1"]),
        ("style_blend_weights", [[1]]),
        ("size", 31),
        ("size", 16385),
        ("size", -512),
        ("size", 512.0),
        ("size", "512"),
        ("size", True),
        ("steps", []),
        ("steps", 0),
        ("steps", -5),
        ("steps", [100, 0]),
        ("steps", [100.0]),
        ("steps", 10.5),
        ("steps", "100"),
        ("steps", ["100"]),
        ("steps", True),
        ("steps", [True]),
        ("seed", -1),
        ("seed", 2**63),
        ("seed", 1.5),
        ("seed", False),
        ("optimizer", "sgd"),
        ("optimizer", "LBFGS"),
        ("optimizer", 1),
        ("pooling", "min"),
        ("style_loss", "grams"),
        ("style_loss", None),
        ("precision", "float16"),
        ("backbone", "resnet50"),
        ("backbone", None),
        ("device", 0),
        ("init", 7),
    ],
)
def test_senseless_value_is_refused_by_name(name: str, value: object) -> None:
    assert name in refusal(**{name: value})


@pytest.mark.parametrize("name", ["content_layers", "style_layers"])
def test_text_is_not_taken_for_a_list_of_letters(name: str) -> None:
    assert "give a list" in refusal(**{name: "relu1_1"})


def test_two_zero_weights_leave_nothing_to_paint() -> None:
    sentence = refusal(content_weight=0, style_weight=0)
    assert "content_weight" in sentence
    assert "style_weight" in sentence


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("optimizer", OPTIMIZERS),
        ("pooling", POOLINGS),
        ("style_loss", STYLE_LOSSES),
        ("precision", PRECISIONS),
        ("backbone", BACKBONES),
    ],
)
def test_unknown_choice_is_answered_with_the_known_ones(name: str, choices: list[str]) -> None:
    sentence = refusal(**{name: "other"})
    assert "'other'" in sentence
    assert all(choice in sentence for choice in choices)


def test_layer_belongs_to_its_backbone() -> None:
    assert Settings(backbone="vgg19", content_layers=["relu4_4"]).content_layers == ("relu4_4",)
    sentence = refusal(backbone="vgg16", content_layers=["relu4_4"])
    assert "relu4_4" in sentence
    assert "vgg16" in sentence


def test_each_style_layer_has_its_own_weight() -> None:
    layers = ["relu1_1", "relu2_1"]
    settings = Settings(style_weight=10, style_layers=layers, style_layer_weights=[1, 0.5])
    assert settings.style_weight_of() == {"relu1_1": 10, "relu2_1": 5}
    alike = Settings(style_weight=10, style_layers=layers)
    assert alike.style_weight_of() == {"relu1_1": 10, "relu2_1": 10}


def test_pairs_of_layers_go_from_shallow_to_deep() -> None:
    names = ("relu4_1", "relu1_1", "relu3_1")
    crossed = Settings(style_loss="cross-layer", style_layers=names)
    pairs = {"relu3_1": ("relu1_1", "relu3_1"), "relu4_1": ("relu3_1", "relu4_1")}
    assert crossed.compared_layers() == pairs
    plain = Settings(style_layers=names)
    assert plain.compared_layers() == {name: (name,) for name in names}


def test_one_style_layer_makes_no_pair() -> None:
    sentence = refusal(style_loss="cross-layer", style_layers=["relu3_1"])
    assert sentence.startswith('style_loss = "cross-layer"')
    assert "relu3_1 alone; name two or more" in sentence


def test_layer_of_both_kinds_is_looked_at_once() -> None:
    settings = Settings(content_layers=["relu2_1"], style_layers=["relu1_1", "relu2_1"])
    assert settings.layers == ("relu2_1", "relu1_1")


@unhurried
@given(valid_settings())
def test_settings_survive_json_and_yaml(settings: Settings) -> None:
    values = settings.as_dict()
    assert json.loads(json.dumps(values)) == values
    assert Settings(**json.loads(json.dumps(values))) == settings
    assert Settings(**yaml.safe_load(yaml.safe_dump(values))) == settings


def test_presets_grow_from_draft_to_fine() -> None:
    sizes = [Settings.from_preset(preset).size for preset in ("draft", "normal", "fine")]
    assert sizes == [256, 512, 768]
    assert set(Settings.PRESETS) == {"draft", "normal", "fine", "enlarge"}


def test_normal_preset_is_the_default() -> None:
    assert Settings.from_preset("normal") == Settings()


def test_single_settings_win_over_the_preset() -> None:
    settings = Settings.from_preset("draft", size=300, content_weight=7)
    assert (settings.size, settings.content_weight) == (300, 7)
    assert settings.steps == Settings.from_preset("draft").steps


def test_unknown_preset_is_answered_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"'huge'.*draft, normal, fine"):
        Settings.from_preset("huge")


def test_unknown_setting_is_answered_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"'stile_weight'.*style_weight"):
        Settings.from_preset("draft", stile_weight=3)


def test_preset_does_not_excuse_a_senseless_value() -> None:
    with pytest.raises(InputError, match="size"):
        Settings.from_preset("draft", size=1)


@pytest.mark.parametrize("module", ["workbench", "workbench.settings"])
def test_importing_does_not_load_torch(module: str) -> None:
    code = f"import sys, {module}; print(sorted({{'torch', 'torchvision'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_number_beyond_floating_point_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="style_weight"):
        Settings(style_weight=10**400)
    with pytest.raises(InputError, match="style_layer_weights"):
        Settings(style_layer_weights=(1, 1, 1, 1, "1"))


# --- of films ----------------------------------------------------------------------------


@st.composite
def valid_clip_settings(draw: st.DrawFn) -> ClipSettings:
    lags = draw(st.lists(st.integers(2, 100), max_size=4, unique=True))
    return ClipSettings(
        mode=draw(st.sampled_from(MODES)),
        later_steps=draw(st.integers(1, 999)),
        stop_change=draw(st.floats(0, 1) | st.integers(0, 1)),
        blend=draw(st.floats(0, 1)),
        temporal_weight=draw(weights),
        temporal_lags=draw(st.permutations([1, *lags])),
        flow_method=draw(st.sampled_from(FLOW_METHODS)),
    )


def clip_refusal(**changes: Any) -> str:
    with pytest.raises(InputError) as caught:
        ClipSettings(**changes)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return sentence


def test_a_film_is_painted_as_still_as_can_be_by_default() -> None:
    settings = ClipSettings()
    assert (settings.mode, settings.flow_method) == ("temporal", "dis")
    assert (settings.temporal_weight, settings.temporal_lags) == (1000, (1, 2, 4))  # Ruder's
    assert settings.blend == 0.9
    assert 10 < settings.later_steps < sum(Settings().steps)
    assert 0 < settings.stop_change < 0.1


def test_every_setting_of_films_is_documented() -> None:
    documentation = (ClipSettings.__doc__ or "").splitlines()
    for field in dataclasses.fields(ClipSettings):
        assert f"    {field.name}" in documentation


def test_settings_of_films_are_frozen_numbers_and_tuples() -> None:
    settings = ClipSettings(blend=1, stop_change=0, temporal_weight=5, temporal_lags=[2, 1])
    assert settings.temporal_lags == (2, 1)
    for name in ("blend", "stop_change", "temporal_weight"):
        assert isinstance(getattr(settings, name), float)
    assert len({settings, dataclasses.replace(settings)}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.blend = 0.5  # type: ignore[misc]


@unhurried
@given(valid_clip_settings())
def test_settings_of_films_survive_json_and_yaml(settings: ClipSettings) -> None:
    values = settings.as_dict()
    assert json.loads(json.dumps(values)) == values
    assert ClipSettings(**json.loads(json.dumps(values))) == settings
    assert ClipSettings(**yaml.safe_load(yaml.safe_dump(values))) == settings


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("mode", "wobbly", "use one of per-frame, blended, flow-warped, temporal"),
        ("mode", "Temporal", "use one of"),
        ("mode", "per_frame", "use one of"),
        ("mode", None, "use one of"),
        ("flow_method", "horn-schunck", "use one of dis, farneback, raft"),
        ("flow_method", 1, "use one of"),
        *[
            ("later_steps", value, "give a whole number above 0")
            for value in (0, -1, 2.0, "40", True, None, [40])
        ],
        *[
            (name, value, "give a number from 0 to 1")
            for name in ("stop_change", "blend")
            for value in (-0.1, 1.1, 2, NAN, INF)
        ],
        *[
            (name, value, "give a number")
            for name in ("stop_change", "blend", "temporal_weight")
            for value in ("1", None, True, [1])
        ],
        *[("temporal_weight", value, "give a number from 0 on") for value in (-1, NAN, INF)],
        ("temporal_weight", 10**400, "beyond floating point"),
        *[
            ("temporal_lags", value, "give different whole numbers, 1 (the frame before) among")
            for value in ([], [2, 4], [1, 1], [0, 1], [1, -2], [1, 101])
        ],
        *[("temporal_lags", value, "give a list") for value in ("1", "124", 1, None, {1, 2})],
        *[
            ("temporal_lags", value, "give a list of whole numbers")
            for value in ([1.0], [1, "2"], [True, 2], [[1]])
        ],
    ],
)
def test_a_senseless_setting_of_films_is_refused_by_name(
    name: str, value: object, sentence: str
) -> None:
    said = clip_refusal(**{name: value})
    assert said.startswith(name)
    assert sentence in said


# --- training ----------------------------------------------------------------------------


def test_every_setting_of_training_is_documented() -> None:
    documentation = (TrainingSettings.__doc__ or "").splitlines()
    for field in dataclasses.fields(TrainingSettings):
        assert f"    {field.name}" in documentation


def test_settings_of_training_survive_json() -> None:
    settings = TrainingSettings(width=1, minutes=0, batch=3)
    assert TrainingSettings(**json.loads(json.dumps(settings.as_dict()))) == settings
    assert isinstance(settings.width, float)


def test_presets_of_training() -> None:
    assert TrainingSettings.from_preset("quick") == TrainingSettings()
    full = TrainingSettings.from_preset("full", batch=8)
    assert (full.batch, full.width, full.minutes) == (8, 1.0, 0.0)
    for preset in TrainingSettings.PRESETS:
        TrainingSettings.from_preset(preset)
    with pytest.raises(InputError, match="preset = 'draft': use one of quick, full"):
        TrainingSettings.from_preset("draft")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("width", 0.1),
        ("width", NAN),
        ("width", "wide"),
        ("batch", 0),
        ("batch", 1.5),
        ("batch", True),
        ("crop", 63),
        ("lead_steps", -1),
        ("whole_after", -1),
        ("training_steps", -1),
        ("training_rate", 0.0),
        ("training_rate", 1.0),
        ("training_rate", NAN),
        ("minutes", -1.0),
        ("minutes", INF),
        ("checkpoint_every", 0),
        ("patience", 0),
        ("temporal_weight", -1.0),
        ("temporal_weight", NAN),
    ],
)
def test_a_senseless_setting_of_training_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(InputError, match=f"^{name} = "):
        TrainingSettings(**{name: value})  # type: ignore[arg-type]


def test_steps_of_films_by_keyframes() -> None:
    film = ClipSettings(mode="keyframes", later_steps=28, keyframe_every=8, between_steps=4)
    assert film.key_steps == 42
    assert film.mean_steps == (42 + 7 * 4) / 8
