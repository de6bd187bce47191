from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from workbench.errors import InputError
from workbench.fast.keyframes import KeyFrame, draw_keyframe, keyframe_loss, read_keyframes
from workbench.fast.models import StyleModel
from workbench.fast.training import train
from workbench.images import from_array, load_image, save_image, to_array
from workbench.options import keyframe_pair
from workbench.problem import Problem
from workbench.settings import Settings, TrainingSettings
from workbench.video.clips import open_clip, read_frames, write_film


@pytest.fixture
def clip(tmp_path: Path, photo: Tensor) -> Path:
    """Eight frames, 64x48, each clearly another."""
    frames = [to_array(photo[..., :48, :64].roll(11 * i, 3) * (1 - 0.1 * i)) for i in range(8)]
    write_film(frames, tmp_path / "walk.mp4", 25, quality=4)
    return tmp_path / "walk.mp4"


def frame(clip: Path, number: int) -> Tensor:
    return from_array(list(read_frames(open_clip(clip)))[number])


@pytest.fixture
def painted(tmp_path: Path, clip: Path) -> Path:
    """Frame 5 in its opposite colours."""
    save_image(1 - frame(clip, 5), tmp_path / "painted.png")
    return tmp_path / "painted.png"


def test_the_number_in_a_name_says_which_frame_was_painted(clip: Path, painted: Path) -> None:
    (pair,) = read_keyframes({"frames/000005.png": str(painted)}, [str(clip)], 512)
    assert torch.equal(pair.source, frame(clip, 5))
    assert (pair.painted + pair.source - 1).abs().max() < 0.01
    (small,) = read_keyframes({"000005.png": str(painted)}, [str(clip)], 32)
    assert small.source.shape == small.painted.shape == (1, 3, 24, 32)


def test_a_copy_of_a_frame_is_found_where_others_count_from_one(
    clip: Path, painted: Path, tmp_path: Path
) -> None:
    save_image(frame(clip, 5), tmp_path / "frame_0006.jpg")
    (pair,) = read_keyframes({str(tmp_path / "frame_0006.jpg"): str(painted)}, [str(clip)], 512)
    assert torch.equal(pair.source, frame(clip, 5))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("face.png", "keyframe face.png: no number in the name says which frame it is"),
        ("000008.png", r"keyframe 000008.png is no frame of .*walk.mp4, which has frames 0 to 7"),
        ("000900.png", r"is no frame of .*walk.mp4"),
    ],
)
def test_names_that_are_of_no_frame_are_refused(
    name: str, message: str, clip: Path, painted: Path
) -> None:
    with pytest.raises(InputError, match=message):
        read_keyframes({name: str(painted)}, [str(clip)], 512)


def test_pictures_that_do_not_fit_the_clip_are_refused(
    clip: Path, painted: Path, tmp_path: Path
) -> None:
    other = tmp_path / "000005.png"
    save_image(1 - frame(clip, 5), other)
    with pytest.raises(InputError, match=r"000005.png is no frame of .*walk.mp4"):
        read_keyframes({str(other): str(painted)}, [str(clip)], 512)
    save_image(frame(clip, 5)[..., :40, :], tmp_path / "low.png")
    told = f"keyframe {tmp_path / 'low.png'} has 64x40 pixels, and frames of {clip} 64x48; paint"
    with pytest.raises(InputError, match=re.escape(told)):
        read_keyframes({"5.png": str(tmp_path / "low.png")}, [str(clip)], 512)
    for on in ([str(clip), str(clip)], ["sample:photographs"]):
        with pytest.raises(InputError, match="name the clip that they are of as all there is"):
            read_keyframes({"5.png": str(painted)}, on, 512)
    with pytest.raises(InputError, match=r"gone\.png"):
        read_keyframes({"5.png": str(tmp_path / "gone.png")}, [str(clip)], 512)


def test_the_same_square_is_cut_out_of_both_pictures() -> None:
    source = torch.rand(1, 3, 50, 70)
    pairs = [KeyFrame(source, 1 - source), KeyFrame(source / 2, 1 - source / 2)]
    drawn = [draw_keyframe(pairs, 32, (0, step)) for step in range(20)]
    for pair in drawn:
        assert pair.source.shape == (1, 3, 32, 32)
        assert torch.equal(1 - pair.source, pair.painted)
    assert len({float(pair.source[0, 0, 0, 0]) for pair in drawn}) > 15
    again = draw_keyframe(pairs, 32, (0, 7))
    assert torch.equal(again.source, drawn[7].source)
    assert draw_keyframe(pairs, 60, (0, 0)).source.shape == (1, 3, 50, 60)


def test_the_loss_is_the_mean_over_pixels_and_layers(
    tiny: Settings, photo: Tensor, painting: Tensor
) -> None:
    network = Problem.of(photo, [painting], tiny).network
    assert float(keyframe_loss(network, photo, photo, tiny)) == 0
    other = photo.roll(5, 3)
    layers = ("relu1_1", "relu2_1", "relu3_1")
    one, two = (network(each * 255, layers) for each in (photo, other))
    parts = [(255 * (photo - other)).double().square().mean()]
    parts += [(one[layer].double() - two[layer].double()).square().mean() for layer in layers]
    got = float(keyframe_loss(network, photo, other, tiny))
    assert got == pytest.approx(float(sum(parts)) / 4, rel=1e-5)


SHORT = TrainingSettings(
    width=0.25, crop=64, copy_steps=0, lead_steps=1, training_steps=10, checkpoint_every=10
)


def test_what_was_painted_comes_out_of_its_frame(
    tiny: Settings, clip: Path, painted: Path, tmp_path: Path
) -> None:
    told, wanted = {"000005.png": str(painted)}, load_image(painted)
    tiny, far = replace(tiny, content_weight=0.0, style_weight=1.0), []
    for weight in (0.0, 20.0):
        training = replace(SHORT, keyframe_weight=weight)
        folder = tmp_path / f"m{weight:.0f}"
        for _ in train(
            [wanted], [str(clip)], folder, settings=tiny, training=training, keyframes=told
        ):
            pass
        model = StyleModel.load(folder / "step-000010.safetensors", precision="float32")
        far.append(float((model(frame(clip, 5)) - wanted).abs().mean()))
    assert far[1] < 0.8 * far[0]

    save_image(frame(clip, 5) / 2, painted)
    with pytest.raises(InputError, match="keyframe 1 is another one"):
        next(train([wanted], [str(clip)], folder, settings=tiny, training=training, keyframes=told))


def test_without_keyframes_nothing_depends_on_their_weight(
    tiny: Settings, clip: Path, painting: Tensor, tmp_path: Path
) -> None:
    for weight, steps in ((20.0, 1), (50.0, 2)):
        training = replace(SHORT, keyframe_weight=weight, training_steps=steps)
        *_, last = train([painting], [str(clip)], tmp_path / "m", settings=tiny, training=training)
        assert last.step == steps


def test_a_pair_on_the_command_line() -> None:
    assert keyframe_pair("000120.png=my painting.png") == ("000120.png", "my painting.png")
    for text in ("000120.png", "=painted.png", "000120.png="):
        with pytest.raises(InputError, match=r"give a frame and its painting, as in 000"):
            keyframe_pair(text)
