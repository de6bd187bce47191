from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import papermill.cli
import pytest
import typer
import yaml
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from workbench import programs
from workbench.dialects import Command, as_options, as_parameters, read_command
from workbench.errors import InputError
from workbench.options import with_knobs
from workbench.settings import Settings
from workbench.weights import BACKBONES

unhurried = hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
LUA = "th neural_style.lua -content_image me.jpg -style_image starry.jpg"
PT = "python neural_style.py -content_image me.jpg -style_image starry.jpg"
ATHALYE = "python neural_style.py --content me.jpg --styles starry.jpg --output out.jpg"
FIVE = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")


def refusal(text: str) -> str:
    with pytest.raises(InputError) as caught:
        read_command(text)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return sentence


def notes(text: str) -> str:
    said = read_command(text).notes
    assert all(note.endswith(".") and "\n" not in note for note in said)
    assert len(set(said)) == len(said)
    return "\n".join(said)


def picture(path: Path, width: int, height: int, **how: Any) -> str:
    Image.new("RGB", (width, height)).save(path, **how)
    return str(path)


def test_a_command_from_an_old_blog_post() -> None:
    command = read_command(
        "th neural_style.lua -style_image starry.jpg -content_image me.jpg -gpu 0 -backend cudnn"
        " -cudnn_autotune -optimizer lbfgs -num_iterations 1000 -init image -style_weight 300"
        " -content_weight 1 -tv_weight .003"
    )
    assert command.program == "neural_style.lua"
    assert (command.content, command.styles, command.output) == (
        "me.jpg",
        ("starry.jpg",),
        "out.png",
    )
    assert (command.save_every, command.original_colors) == (100, "off")
    assert command.settings == Settings(
        content_weight=1,
        style_weight=300,
        tv_weight=0.003,
        steps=1000,
        init="content",
        white=256,
        backbone="vgg19",
    )


def test_settings_are_read_and_changed() -> None:
    settings = Settings.from_command(f"{LUA} -style_weight 300", backbone="vgg16", size=256)
    assert (settings.style_weight, settings.backbone, settings.size) == (300, "vgg16", 256)
    with pytest.raises(InputError, match="no setting 'stile_weight'"):
        Settings.from_command(LUA, stile_weight=3)


# --- defaults -----------------------------------------------------------------------------


@pytest.mark.parametrize("text", [LUA, PT])
def test_torch_defaults(text: str) -> None:
    command = read_command(text)
    settings = command.settings
    assert (settings.content_weight, settings.style_weight, settings.tv_weight) == (5, 100, 1e-3)
    assert (settings.steps, settings.size, settings.init) == ((1000,), 512, "random")
    assert (settings.optimizer, settings.pooling, settings.backbone) == ("lbfgs", "max", "vgg19")
    assert (settings.content_layers, settings.style_layers) == (("relu4_2",), FIVE)
    assert (command.save_every, command.output, command.original_colors) == (100, "out.png", "off")


def test_what_differs_between_lua_and_pt() -> None:
    lua, pt = read_command(LUA).settings, read_command(PT).settings
    assert (lua.white, lua.tv_kind) == (256, "squared")
    assert (pt.white, pt.tv_kind) == (255, "absolute")
    for text, rate in ((LUA, 10), (PT, 1)):
        assert read_command(f"{text} -optimizer adam").settings.learning_rate == rate


def test_athalye_defaults() -> None:
    command = read_command(ATHALYE)
    settings = command.settings
    assert (settings.content_weight, settings.style_weight, settings.tv_weight) == (5, 500, 100)
    assert settings.style_layer_weights == (0.2,) * 5
    assert (settings.content_layers, settings.style_layers) == (("relu4_2",), FIVE)
    assert (settings.steps, settings.init, settings.pooling) == ((1000,), "random", "max")
    assert (settings.optimizer, settings.learning_rate) == ("adam", 10)
    assert (settings.tv_kind, settings.white, settings.backbone) == ("mean-squared", 255, "vgg19")
    assert (command.save_every, command.output, command.original_colors) == (None, "out.jpg", "off")


def test_pictures_that_are_not_named_are_those_of_the_program() -> None:
    command = read_command("th neural_style.lua")
    assert command.content == "examples/inputs/tubingen.jpg"
    assert command.styles == ("examples/inputs/seated-nude.jpg",)
    said = notes("th neural_style.lua")
    assert "No -content_image is given: that program takes its own examples/inputs/tub" in said
    assert "No -style_image is given: that program takes its own examples/inputs/sea" in said


@pytest.mark.parametrize("missing", ["--content", "--styles"])
def test_athalye_does_not_run_without_pictures(missing: str) -> None:
    words = ATHALYE.split()
    at = words.index(missing)
    assert refusal(" ".join(words[:at] + words[at + 2 :])).startswith(f"{missing} is missing")


# --- every option -------------------------------------------------------------------------

TORCH: list[tuple[str, dict[str, Any]]] = [
    ("-content_image you.jpg", {"content": "you.jpg"}),
    ("-style_image a.jpg,b.jpg", {"styles": ("a.jpg", "b.jpg")}),
    ("-style_blend_weights 3", {"style_blend_weights": (3,)}),
    ("-image_size 256", {"size": 256}),
    ("-gpu -1", {}),
    ("-content_weight 1e2", {"content_weight": 100}),
    ("-style_weight 15e2", {"style_weight": 1500}),
    ("-tv_weight 0", {"tv_weight": 0}),
    ("-num_iterations 5e2", {"steps": (500,)}),
    ("-init image", {"init": "content"}),
    ("-init_image x.png -init image", {"init": "x.png"}),
    ("-optimizer adam", {"optimizer": "adam"}),
    ("-learning_rate 2 -optimizer adam", {"learning_rate": 2}),
    ("-lbfgs_num_correction 50", {}),
    ("-print_iter 10", {}),
    ("-save_iter 20", {"save_every": 20}),
    ("-output_image ~/painted.png", {"output": str(Path.home() / "painted.png")}),
    ("-style_scale 0.5", {"style_scale": 0.5}),
    ("-original_colors 1", {"original_colors": "luma"}),
    ("-pooling avg", {"pooling": "average-unscaled"}),
    ("-model_file models/VGG_ILSVRC_16_layers.caffemodel", {"backbone": "vgg16"}),
    ("-backend cudnn", {}),
    ("-cudnn_autotune", {}),
    ("-seed 9007199254740993", {"seed": 9007199254740993}),
    ("-content_layers relu2_2,relu4_2", {"content_layers": ("relu2_2", "relu4_2")}),
    ("-style_layers relu1_1,relu2_1", {"style_layers": ("relu1_1", "relu2_1")}),
]
LUA_ONLY: list[tuple[str, dict[str, Any]]] = [
    ("-normalize_gradients", {"normalize_gradients": True}),
    ("-multigpu_strategy 3,6", {}),
    ("-proto_file models/VGG_ILSVRC_19_layers_deploy.prototxt", {}),
]
PT_ONLY: list[tuple[str, dict[str, Any]]] = [
    (
        "-normalize_weights",
        {
            "content_layer_weights": (1 / 512,),
            "style_layer_weights": (1 / 64, 1 / 128, 1 / 256, 1 / 512, 1 / 512),
        },
    ),
    ("-normalize_gradients", {"content_weight": 25, "style_weight": 1e4}),
    ("-multidevice_strategy 4,7", {}),
    ("-disable_check", {}),
    ("-download_models all", {}),
]
ATHALYES: list[tuple[str, dict[str, Any]]] = [
    ("--content you.jpg", {"content": "you.jpg"}),
    ("--styles a.jpg b.jpg", {"styles": ("a.jpg", "b.jpg")}),
    ("--output o.png", {"output": "o.png"}),
    ("--iterations 300", {"steps": (300,)}),
    ("--print-iterations 10", {}),
    ("--checkpoint-output x_%d.jpg --checkpoint-iterations 50", {"save_every": 50}),
    ("--checkpoint-iterations 25 --checkpoint-output {}.jpg", {"save_every": 25}),
    ("--progress-write", {}),
    ("--progress-plot", {}),
    ("--width 400", {"size": 400}),
    ("--style-scales 0.5", {"style_scale": 0.5}),
    ("--network imagenet-vgg-verydeep-19.mat", {"backbone": "vgg19"}),
    (
        "--content-weight-blend 0.75",
        {"content_layers": ("relu4_2", "relu5_2"), "content_layer_weights": (0.75, 0.25)},
    ),
    ("--content-weight 7", {"content_weight": 7}),
    ("--style-weight 100", {"style_weight": 100, "style_layer_weights": (0.2,) * 5}),
    (
        "--style-layer-weight-exp 2",
        {"style_layer_weights": (1 / 31, 2 / 31, 4 / 31, 8 / 31, 16 / 31)},
    ),
    ("--style-blend-weights 0.3", {"style_blend_weights": (0.3,)}),
    ("--tv-weight 50", {"tv_weight": 50}),
    ("--learning-rate 1.5", {"learning_rate": 1.5}),
    ("--beta1 0.8", {}),
    ("--beta2 0.99", {}),
    ("--eps 1e-7", {}),
    ("--initial x.png", {"init": "x.png"}),
    ("--initial-noiseblend 0", {"init": "content"}),
    ("--preserve-colors", {"original_colors": "luma"}),
    ("--pooling avg", {"pooling": "average-unscaled"}),
    ("--overwrite", {}),
]


@pytest.mark.parametrize(
    ("base", "options", "changes"),
    [
        *[(LUA, *case) for case in TORCH + LUA_ONLY],
        *[(PT, *case) for case in TORCH + PT_ONLY],
        *[(ATHALYE, *case) for case in ATHALYES],
    ],
)
def test_every_option(base: str, options: str, changes: dict[str, Any]) -> None:
    """It changes what it says, and nothing else."""

    def flat(command: Command) -> dict[str, Any]:
        return {**vars(command), **vars(command.settings)}

    before, after = flat(read_command(base)), flat(read_command(f"{base} {options}"))
    for name in ("settings", "notes"):
        del before[name], after[name]
    if "optimizer" in changes or "learning_rate" in changes:
        for name in ("optimizer", "learning_rate"):
            before[name] = after[name]
    for name, value in changes.items():
        assert after[name] == pytest.approx(value)
    assert {name for name in after if after[name] != before[name]} <= set(changes)
    assert notes(f"{base} {options}")


@pytest.mark.parametrize(
    ("program", "cases"),
    [
        (programs._LUA_PROGRAM, TORCH + LUA_ONLY),
        (programs._PT_PROGRAM, TORCH + PT_ONLY),
        (programs._ATHALYE_PROGRAM, ATHALYES),
    ],
)
def test_no_option_is_forgotten(program: Any, cases: list[tuple[str, dict[str, Any]]]) -> None:
    assert {options.split()[0] for options, _ in cases} == set(program.options)


# --- how commands are written -------------------------------------------------------------


@pytest.mark.parametrize(
    "before",
    [
        "th ",
        "luajit ",
        "qlua ",
        "$ th ",
        "time th ",
        "~/torch/install/bin/th ./neural-style/",
        "cd neural-style && CUDA_VISIBLE_DEVICES=0 th ",
        "cd neural-style; th ",
        "nohup nice -n 10 th ",
        "!th ",
        "docker run --rm -v /tmp:/data neural-style th ",
        "",
        "user@host:~/neural-style$ th ",
    ],
)
def test_what_stands_before_the_program_does_not_matter(before: str) -> None:
    command = read_command(f"{before}neural_style.lua -image_size 300")
    assert (command.program, command.settings.size) == ("neural_style.lua", 300)


@pytest.mark.parametrize(
    "behind",
    ["| tee log", "> log.txt 2>&1 &", "2>err", "&& echo done", "; ls", "# nice one", "&", ";"],
)
def test_what_stands_behind_the_command_does_not_matter(behind: str) -> None:
    assert read_command(f"{LUA} -image_size 300 {behind}").settings.size == 300
    assert read_command(f"{LUA} -image_size 300; th other.lua -x 3").settings.size == 300


@pytest.mark.parametrize(
    ("text", "program"),
    [
        (PT, "neural_style.py (neural-style-pt)"),
        (PT.replace("python", "python3 -u"), "neural_style.py (neural-style-pt)"),
        ("!python neural-style-pt/neural_style.py", "neural_style.py (neural-style-pt)"),
        ("neural-style -style_image a.jpg", "neural_style.py (neural-style-pt)"),
        (ATHALYE, "neural_style.py (Anish Athalye)"),
        (
            r"C:\Python37\python.exe .\neural_style.py" + ATHALYE[22:],
            "neural_style.py (Anish Athalye)",
        ),
        (ATHALYE.replace("--", "\u2014"), "neural_style.py (Anish Athalye)"),
        (ATHALYE.replace("--", "\u2013"), "neural_style.py (Anish Athalye)"),
        (PT.replace(" -", " \u2013"), "neural_style.py (neural-style-pt)"),
        (LUA.replace(" -", " \u2212"), "neural_style.lua"),
    ],
)
def test_programs_are_told_apart(text: str, program: str) -> None:
    assert read_command(text).program == program


@pytest.mark.parametrize(
    "text",
    [
        "th neural_style.lua \\\n  -content_image my.jpg \\\n  -style_weight 300",
        "th neural_style.lua \\  \n  -content_image my.jpg \\\t\r\n  -style_weight 300 \\",
        "th neural_style.lua ^\n  -content_image my.jpg ^ \n  -style_weight 300",
        "th neural_style.lua `\n  -content_image my.jpg `\n  -style_weight 300",
        "th neural_style.lua\n-content_image my.jpg\n-style_weight 300\n",
        "th\u00a0neural_style.lua \u2013content_image my.jpg \u2014style_weight 300",
        "th neural_style.lua -content_image \u201cmy.jpg\u201d -style_weight \u2018300\u2019",
        "th neural_style.lua -content_image \u201dmy.jpg\u201d -style_weight '300'",
        r"th neural\_style.lua -content\_image my.jpg -style\_weight 300",
        "`th neural_style.lua -content_image my.jpg -style_weight 300`",
        "```\nth neural_style.lua -content_image my.jpg -style_weight 300\n```\n",
        '  th neural_style.lua -content_image "my.jpg" -style_weight 3e2  ',
    ],
)
def test_copied_text_is_understood(text: str) -> None:
    command = read_command(text)
    assert (command.content, command.settings.style_weight) == ("my.jpg", 300)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ('"my photo.jpg"', "my photo.jpg"),
        ("\u201cmy photo.jpg\u201d", "my photo.jpg"),
        (r"my\ photo.jpg", "my photo.jpg"),
        (r"C:\pics\2020\me.jpg", r"C:\pics\2020\me.jpg"),
        (r'"C:\my pics\me.jpg"', r"C:\my pics\me.jpg"),
        ("l\u2019\u00e9t\u00e9.jpg", "l\u2019\u00e9t\u00e9.jpg"),
        ("<image.jpg>", "<image.jpg>"),
        ("a#1.jpg", "a#1.jpg"),
        ("~/me.jpg", str(Path.home() / "me.jpg")),
    ],
)
def test_names_of_pictures(written: str, meant: str) -> None:
    assert read_command(f"th neural_style.lua -content_image {written} -gpu 0").content == meant


def test_negative_numbers_are_values() -> None:
    for minus in ("-", "\u2212", "\u2013"):
        assert read_command(f"{PT} -seed {minus}1 -gpu {minus}1").settings.seed == 0


def test_argparse_takes_equals_signs_and_beginnings() -> None:
    settings = read_command(f"{ATHALYE} --wid=300 --content-weight=7 --learn 3").settings
    assert (settings.size, settings.content_weight, settings.learning_rate) == (300, 7, 3)
    settings = read_command(f"{PT} -image_s=300 -num 7 -init image").settings
    assert (settings.size, settings.steps, settings.init) == (300, (7,), "content")
    assert "-image_size=300: neural_style.lua has no such" in refusal(f"{LUA} -image_size=300")
    assert "-image_s: neural_style.lua has no such option" in refusal(f"{LUA} -image_s 300")


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (f"{ATHALYE} --style a.jpg", "--style could match --styles, --style-scales,"),
        (f"{PT} -content 3", "-content could match -content_image, -content_weight, -c"),
    ],
)
def test_an_ambiguous_beginning_is_refused(text: str, options: str) -> None:
    assert options in refusal(text)


# --- what is wrong ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "options", "sentence"),
    [
        (
            LUA,
            "-style_wieght 3",
            "-style_wieght: neural_style.lua has no such option; the nearest is -style_weight.",
        ),
        (
            LUA,
            "--style_weight 3",
            "--style_weight: neural_style.lua has no such option; the nearest is -style_weight.",
        ),
        (
            LUA,
            "-normalize_weights",
            "-normalize_weights: neural_style.lua has no such option; the nearest is -",
        ),
        (
            PT,
            "-proto_file x",
            "-proto_file: neural_style.py (neural-style-pt) has no such option; the nearest is -",
        ),
        (ATHALYE, "--content_weight 3", "the nearest is --content-weight."),
        (ATHALYE, "-width 3", "the nearest is --width."),
        (LUA, "-style_weight", "-style_weight: expected one argument."),
        (LUA, "-style_weight -gpu 0", "-style_weight: expected one argument."),
        (ATHALYE, "--styles --width 3", "--styles: expected at least one argument."),
        (LUA, "-style_weight much", "-style_weight: much is no number."),
        (LUA, "-image_size 25.5", "-image_size: 25.5 is no whole number."),
        (PT, "-num_iterations many", "-num_iterations: many is no whole number."),
        (PT, "-num_iterations nan", "-num_iterations: nan is no whole number."),
        (ATHALYE, "--style-scales 1 x", "--style-scales: x is no number."),
        (ATHALYE, "--width 0", "--width: 0 is no whole number above 0."),
        (LUA, "-style_blend_weights 1,x", "-style_blend_weights: x is no number."),
        (LUA, "-pooling average", "-pooling: average is none of max, avg."),
        (PT, "-init content", "-init: content is none of random, image."),
        (PT, "-optimizer sgd", "-optimizer: sgd is none of lbfgs, adam."),
        (LUA, "-original_colors 2", "-original_colors: 2 is none of 0, 1."),
        (LUA, "-normalize_gradients 0.5", "-normalize_gradients: 0.5 is none of 0, 1."),
        (PT, "-cudnn_autotune 1", "-cudnn_autotune: 1 is one value too many"),
        (
            PT,
            "-content_image my photo.jpg",
            "-content_image: photo.jpg is one value too many; put quotes",
        ),
        (
            LUA,
            "-content_layers conv4_2",
            "conv4_2 cannot be mapped, because only activations behind a ReLU",
        ),
        (
            LUA,
            "-style_layers relu1_1,pool2",
            "pool2 cannot be mapped, because only activations behind a ReLU",
        ),
        (LUA, "-style_layers relu1_1,relu9_9", "there is no layer 'relu9_9' in vgg19"),
        (PT, "-normalize_weights -style_layers relux", "there is no layer 'relux' in vgg19"),
        (PT, "-model_file vgg16-00b39a1b.pth -style_layers relu3_4", "'relu3_4' in vgg16"),
        (
            LUA,
            "-style_blend_weights 1,2,3 -style_image a.jpg,b.jpg",
            "3 given for 2 style pictures; give one for each.",
        ),
        (
            PT,
            "-style_blend_weights 1,2",
            "-style_blend_weights: 2 given for 1 style picture; give one for each.",
        ),
        (
            ATHALYE,
            "--style-blend-weights 1 2",
            "--style-blend-weights: 2 given for 1 style picture; give",
        ),
        (
            ATHALYE,
            "--style-scales 1 2",
            "--style-scales: 2 given for 1 style picture; give one for each.",
        ),
        (
            ATHALYE,
            "--checkpoint-iterations 3",
            "--checkpoint-iterations and --checkpoint-output: give both",
        ),
        (
            ATHALYE,
            "--checkpoint-output x%d.png",
            "--checkpoint-iterations and --checkpoint-output: give both",
        ),
        (
            ATHALYE,
            "--content-weight-blend 1.5",
            "--content-weight-blend 1.5: give a number from 0 to 1.",
        ),
        (
            ATHALYE,
            "--style-layer-weight-exp -1",
            "--style-layer-weight-exp -1: give a number from 0 on.",
        ),
        (LUA, "-image_size 10", "size = 10: give 32 to 16384 pixels."),
        (LUA, "-content_weight 0 -style_weight 0", "nothing to paint"),
        (LUA, "-content_image 'me.jpg", "opens a quote and does not close it"),
    ],
)
def test_what_is_wrong_is_said(base: str, options: str, sentence: str) -> None:
    assert sentence in refusal(f"{base} {options}")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("th neural_style.lua a.jpg -gpu 0", "a.jpg: neural_style.lua takes nothing before its"),
        ("th fast_neural_style.lua -model x.t7", "th fast_neural_style.lua -model: this calls no"),
        (f"{LUA} -gpu 0\n{LUA} -gpu 1", "neural_style.lua is called twice; paste one command"),
        ("cd neural-style && ls -l", "this calls no program that is understood"),
        ("", "the command is empty"),
        (" \n", "the command is empty"),
    ],
)
def test_commands_that_are_none(text: str, sentence: str) -> None:
    assert sentence in refusal(text)


@pytest.mark.parametrize(
    "model",
    [
        "models/nin_imagenet_conv.caffemodel",
        "models/nin_imagenet.pth",
        "models/vgg_normalised.caffemodel",
        "models/channel_pruning.pth",
        "models/vgg16-nyud-fcn32s-color-heavy.pth",
        "models/VGG16_SOD_finetune.pth",
        "models/resnet50.pth",
        "models/googlenet.caffemodel",
    ],
)
def test_networks_that_are_not_known_here(model: str) -> None:
    sentence = refusal(f"{PT} -model_file {model}")
    assert sentence.startswith(f"-model_file: {model} cannot be mapped, because ")


@pytest.mark.parametrize(
    ("model", "backbone"),
    [
        ("models/VGG_ILSVRC_19_layers.caffemodel", "vgg19"),
        ("VGG_ILSVRC_16_layers.caffemodel", "vgg16"),
        ("models/vgg19-d01eb7cb.pth", "vgg19"),
        ("my_training/vgg19_training.pth", "vgg19"),
        (r"C:\nin\vgg16-00b39a1b.pth", "vgg16"),
    ],
)
def test_networks_that_are_known_here(model: str, backbone: str) -> None:
    assert read_command(f"{LUA} -model_file {model}").settings.backbone == backbone


@pytest.mark.parametrize(
    "text",
    [
        "style_transfer me.jpg starry.jpg -o out.png -s 512",
        "python -m style_transfer.cli me.jpg starry.jpg",
        r"C:\env\Scripts\style_transfer.exe me.jpg starry.jpg",
    ],
)
def test_a_program_with_other_losses_is_refused(text: str) -> None:
    sentence = refusal(text)
    assert "cannot be mapped, because its losses are others" in sentence
    assert "covariances" in sentence


# --- notes --------------------------------------------------------------------------------


def test_what_is_about_the_machine_is_named_once() -> None:
    text = f"{LUA} -gpu 0 -backend cudnn -cudnn_autotune -print_iter 10 -lbfgs_num_correction 9"
    said = notes(text)
    assert "Left out: -gpu, -backend, -cudnn_autotune, -print_iter (about the machine" in said
    assert "Left out: -lbfgs_num_correction (how much L-BFGS remembers" in said
    assert "Left out: --beta1, --eps (of Adam" in notes(f"{ATHALYE} --beta1 0.9 --eps 1e-8")
    assert "Left out" not in notes(LUA)


def test_the_last_of_two_counts() -> None:
    text = f"{LUA} -style_weight 3 -style_weight 4 -gpu 0 -gpu 1"
    assert read_command(text).settings.style_weight == 4
    assert "-style_weight is given twice; the last counts, as there: -style_weight 4." in notes(
        text
    )
    assert "-gpu is given twice" in notes(text)
    assert "twice" not in notes(f"{LUA} -style_weight 3 -style_weight 3.0 -gpu 0 -backend nn")


@pytest.mark.parametrize("base", [LUA, PT])
def test_a_start_picture_needs_init_image(base: str) -> None:
    for init in ("", " -init random"):
        text = f"{base} -init_image x.png{init}"
        assert read_command(text).settings.init == "random"
        assert "Left out: -init_image (without -init image" in notes(text)
    assert "init_image" not in notes(f"{base} -init_image x.png -init image")


def test_noise_and_its_seed_are_explained() -> None:
    for base in (LUA, PT):
        assert "noise of 0.001 grey levels" in notes(base)
        assert "(-seed -1); here the seed is 0." in notes(base)
        assert "seed" not in notes(f"{base} -seed 4")
        assert "noise" not in notes(f"{base} -init image")
    assert "noise of 0.256 grey levels" in notes(ATHALYE)


def test_a_learning_rate_is_of_adam() -> None:
    for base in (LUA, PT):
        assert read_command(f"{base} -learning_rate 3").settings.learning_rate == 10
        assert "Left out: -learning_rate (of Adam" in notes(f"{base} -learning_rate 3")
        assert "-learning_rate" not in notes(f"{base} -learning_rate 3 -optimizer adam")


def test_what_always_differs_is_said() -> None:
    assert "White is 256 there" in notes(LUA)
    assert "leave out total variation" in notes(LUA)
    assert "multiples of 16" in notes(LUA)
    assert "multiples of 16" not in notes(f"{LUA} -pooling avg")
    assert "White is 255, as in its latest version" in notes(PT)
    assert "multiples of 16" in notes(f"{ATHALYE} --pooling avg")
    for base in (LUA, PT, ATHALYE):
        assert "It takes 1000 steps, all at full size; far fewer" in notes(base)
        assert "Its VGG-19 was trained in Caffe" in notes(base)
    assert "VGG-19" not in notes(f"{LUA} -model_file VGG_ILSVRC_16_layers.caffemodel")


def test_no_snapshots() -> None:
    assert read_command(f"{LUA} -save_iter 0").save_every is None


def test_lua_passes_over_layers_out_of_order() -> None:
    text = f"{LUA} -style_layers relu2_1,relu1_1,relu3_1"
    assert read_command(text).settings.style_layers == ("relu2_1",)
    assert "Left out: relu1_1, relu3_1 (layers out of order" in notes(text)
    text = text.replace(LUA, PT)
    assert read_command(text).settings.style_layers == ("relu2_1", "relu1_1", "relu3_1")


def test_gradients_of_pt_are_scaled_rather_than_normalised() -> None:
    text = f"{PT} -content_weight 3 -style_weight 20 -normalize_gradients"
    settings = read_command(text).settings
    assert (settings.content_weight, settings.style_weight) == (9, 400)
    assert not settings.normalize_gradients
    assert "content_weight = 9 and style_weight = 400" in notes(text)
    settings = read_command(f"{text} -normalize_weights").settings
    assert settings.style_layer_weights[0] == pytest.approx(64**-2)
    assert settings.content_layer_weights == pytest.approx((512**-2,))
    assert "squared as the weights are" in notes(f"{text} -normalize_weights")


def test_shallow_content_layers_of_pt_are_divided_by_the_size_of_the_picture() -> None:
    text = f"{PT} -normalize_weights -image_size 700 -content_layers relu1_2,relu2_2,relu3_1"
    assert read_command(text).settings.content_layer_weights == pytest.approx(
        (1 / 700, 1 / 350, 1 / 256)
    )


def test_a_folder_of_styles_in_pt(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "notes.txt"):
        (tmp_path / name).touch()
    text = f"{PT} -style_image first.jpg,{tmp_path} -style_blend_weights 1,2,3"
    assert read_command(text).styles == ("first.jpg", f"{tmp_path}/a.JPG", f"{tmp_path}/b.png")
    (tmp_path / "empty").mkdir()
    assert "the folder has no .jpg" in refusal(f"{PT} -style_image {tmp_path}/empty")


def test_blends_of_athalye() -> None:
    settings = read_command(f"{ATHALYE} --content-weight-blend 0").settings
    assert (settings.content_layers, settings.content_layer_weights) == (("relu5_2",), ())
    settings = read_command(f"{ATHALYE} --style-layer-weight-exp 0").settings
    assert settings.style_layer_weights == (1, 0, 0, 0, 0)
    assert "--style-weight 500 is shared out" in notes(ATHALYE)
    assert "the gradient is the same" in notes(f"{ATHALYE} --styles a.jpg b.jpg")
    assert "the gradient is the same" not in notes(ATHALYE)


@pytest.mark.parametrize(
    ("options", "init"),
    [
        ("", "random"),
        ("--initial x.png", "x.png"),
        ("--initial x.png --initial-noiseblend 0.2", "x.png"),
        ("--initial x.png --initial-noiseblend 1", "random"),
        ("--initial-noiseblend 0.2", "content"),
        ("--initial-noiseblend 1", "random"),
    ],
)
def test_starts_of_athalye(options: str, init: str) -> None:
    text = f"{ATHALYE} {options}"
    assert read_command(text).settings.init == init
    assert ("--initial-noiseblend 0.2 fades" in notes(text)) == ("0.2" in options)


@pytest.mark.parametrize(
    ("shape", "option", "size", "said"),
    [
        ((640, 480), "", 640, "Its result is 640 x 480 pixels, so size = 640."),
        ((480, 640), "", 640, "Its result is 480 x 640 pixels, so size = 640."),
        ((640, 480), "--width 320", 320, "Its result is 320 x 240 pixels, so size = 320."),
        ((480, 641), "--width 300", 400, "Its result is 300 x 400 pixels, so size = 400."),
    ],
)
def test_widths_of_athalye(
    tmp_path: Path, shape: tuple[int, int], option: str, size: int, said: str
) -> None:
    content = picture(tmp_path / "me.png", *shape)
    text = f"{ATHALYE} --content {content} {option}"
    assert read_command(text).settings.size == size
    assert said in notes(text)


def test_widths_of_athalye_without_the_photograph() -> None:
    assert read_command(f"{ATHALYE} --width 300").settings.size == 300
    assert "if it is taller than wide, raise size = 300." in notes(f"{ATHALYE} --width 300")
    assert read_command(ATHALYE).settings.size == 512
    assert "cannot be read (me.jpg): size = 512." in notes(ATHALYE)


@pytest.mark.parametrize("width", [123, 300, 400, 512])
@pytest.mark.parametrize("shape", [(640, 480), (480, 641), (97, 301), (500, 500)])
@pytest.mark.parametrize("scale", [0.3, 0.55, 1.0, 1.7])
def test_style_scales_of_athalye(
    tmp_path: Path, width: int, shape: tuple[int, int], scale: float
) -> None:
    """The longest side that our style_scale leads to is the one that it has there."""
    content = picture(tmp_path / "me.png", 480, 640)
    style = picture(tmp_path / "style.png", *shape)
    text = f"{ATHALYE} --content {content} --styles {style} --style-scales {scale}"
    settings = read_command(f"{text} --width {width}").settings
    factor = scale * width / shape[0]
    longest = max(int(side * factor) for side in shape)
    assert -(-settings.style_scale * settings.size // 1) == longest


def test_several_style_scales_of_athalye(tmp_path: Path) -> None:
    content = picture(tmp_path / "me.png", 200, 100)
    wide, tall = picture(tmp_path / "w.png", 300, 150), picture(tmp_path / "t.png", 100, 200)
    text = f"{ATHALYE} --content {content} --styles {wide} {tall}"
    assert read_command(text).settings.style_scale == 1.5
    assert "longest side here: style_scale = 1, 2." in notes(text)
    assert "All style pictures have one style_scale here, the mean of theirs: 1.5." in notes(text)
    text += " --style-scales 1 0.5"
    assert read_command(text).settings.style_scale == 1
    assert "one style_scale" not in notes(text)


def test_a_style_that_cannot_be_read() -> None:
    assert "which for starry.jpg is taken to make no difference" in notes(ATHALYE)


@pytest.mark.parametrize("base", [LUA, PT, ATHALYE])
def test_photographs_that_a_camera_turned(tmp_path: Path, base: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = picture(tmp_path / "me.jpg", 40, 60, exif=exif)
    upright = picture(tmp_path / "upright.jpg", 40, 60)
    said = notes(base.replace("me.jpg", turned))
    assert f"{turned} is turned upright here, which that program does not do." in said
    assert "upright here" not in notes(base.replace("me.jpg", upright))


def test_broken_pictures_are_pictures_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "me.jpg").write_bytes(b"\xff\xd8\xff\xe1\x00")
    assert "cannot be read" in notes(f"{ATHALYE} --content {tmp_path}/me.jpg")


def test_sample_pictures_have_a_size() -> None:
    text = f"{ATHALYE} --content sample:astronaut --styles sample:astronaut"
    settings = read_command(text).settings
    assert (settings.size, settings.style_scale) == (512, 1)


# --- our own commands ---------------------------------------------------------------------


def test_as_options_shows_what_is_not_the_default() -> None:
    command = read_command(
        f"{LUA} -style_image 'my style.jpg,b.jpg' -init image -style_weight 300 -tv_weight 1e-5"
        " -original_colors 1 -normalize_gradients -save_iter 50 -image_size 512"
        " -style_blend_weights 1,2.5 -output_image me.png"
    )
    assert as_options(command) == (
        "workbench stylize me.jpg 'my style.jpg' b.jpg -o me.png --style-weight 300"
        " --tv-weight 1e-05 --steps 1000 --style-blend-weights 1,2.5 --normalize-gradients"
        " --white 256 --backbone vgg19 --original-colors luma --save-every 50"
    )


def test_as_parameters_are_papermills() -> None:
    command = read_command(
        f"{LUA} -style_image 'my style.jpg,b.jpg' -init image -style_weight 300 -tv_weight 1e-5"
        " -original_colors 1 -normalize_gradients -save_iter 50 -output_image runs/me.png"
    )
    assert parameters(as_parameters(command)) == {
        "content": "me.jpg",
        "style": ["my style.jpg", "b.jpg"],
        "output_dir": "runs/me",
        "style_weight": 300.0,
        "tv_weight": 1e-5,
        "steps": [1000],
        "normalize_gradients": True,
        "white": 256.0,
        "backbone": "vgg19",
        "original_colors": "luma",
        "save_every": 50,
    }
    assert as_parameters(command).startswith("-y '{content: me.jpg, style: [my style.jpg, b.jpg],")


def parameters(text: str) -> dict[str, Any]:
    """What papermill makes of its command line."""
    words = shlex.split(text)
    found: dict[str, Any] = {}
    while words:
        option = words.pop(0)
        if option == "-y":
            found |= yaml.safe_load(words.pop(0))
        else:
            name, value = words.pop(0), words.pop(0)
            found[name] = papermill.cli._resolve_type(value) if option == "-p" else value
    return found


weights = st.floats(0, 1e6, exclude_min=True) | st.integers(1, 1000)
names = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1).filter(
    lambda name: not name.startswith("-")
)


@st.composite
def any_command(draw: st.DrawFn) -> Command:
    backbone = draw(st.sampled_from(["vgg16", "vgg19"]))
    layers = st.lists(
        st.sampled_from(BACKBONES[backbone].layers), min_size=1, max_size=5, unique=True
    )
    content, style = draw(layers), draw(layers)
    styles = draw(st.lists(names, min_size=1, max_size=3))
    settings = Settings(
        content_weight=draw(weights),
        style_weight=draw(weights),
        tv_weight=draw(st.floats(0, 1)),
        content_layers=content,
        style_layers=style,
        content_layer_weights=draw(st.just([]) | st.tuples(*[weights] * len(content))),
        style_layer_weights=draw(st.just([]) | st.tuples(*[weights] * len(style))),
        style_blend_weights=draw(st.just([]) | st.tuples(*[weights] * len(styles))),
        style_scale=draw(st.floats(0.01, 10)),
        size=draw(st.integers(32, 16384)),
        steps=draw(st.lists(st.integers(1, 999), min_size=1, max_size=3)),
        init=draw(names),
        seed=draw(st.integers(0, 2**63 - 1)),
        normalize_gradients=draw(st.booleans()),
        white=draw(st.sampled_from([255, 256])),
        backbone=backbone,
    )
    return Command(
        program="any",
        settings=settings,
        content=draw(names),
        styles=tuple(styles),
        output=draw(st.none() | st.just("out/a b.png")),
        save_every=draw(st.none() | st.integers(1, 99)),
        original_colors=draw(st.sampled_from(["off", "luma"])),
    )


@unhurried
@given(any_command())
@example(Command("any", Settings(init="1e5", style_weight=1e-05), "123", ("None",)))
def test_parameters_come_back(command: Command) -> None:
    found = parameters(as_parameters(command))
    assert found.pop("content") == command.content
    style = found.pop("style")
    assert (style if isinstance(style, list) else [style]) == list(command.styles)
    assert found.pop("output_dir", None) == (command.output and "out/a b")
    assert found.pop("save_every", None) == command.save_every
    assert found.pop("original_colors", "off") == command.original_colors
    assert Settings(**found) == command.settings


@unhurried
@given(any_command())
def test_options_come_back(command: Command) -> None:
    """Through the options of our own command line."""
    app, found = typer.Typer(), {}

    @app.command()
    @with_knobs(settings=Settings)
    def stylize(
        settings: Settings,
        content: str,
        style: list[str],
        output: Annotated[str, typer.Option("-o")],
        save_every: int | None = None,
        original_colors: str = "off",
    ) -> None:
        found.update(locals())

    words = shlex.split(as_options(command))
    assert words[:2] == ["workbench", "stylize"]
    app(args=words[2:], standalone_mode=False)
    assert found["settings"] == command.settings
    assert (found["content"], tuple(found["style"])) == (command.content, tuple(command.styles))
    assert found["output"] == (command.output or "painted.png")
    assert found["save_every"] == command.save_every
    assert found["original_colors"] == command.original_colors


def test_reading_a_command_loads_no_torch() -> None:
    code = f"""
import sys
from workbench.settings import Settings
Settings.from_command({LUA!r})
sys.exit("torch" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
