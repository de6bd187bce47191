from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import hatching
import mosaic
import numpy as np
import pytest
import torch
from PIL import Image
from sample_clip import clip

from workbench import samples
from workbench.errors import InputError
from workbench.images import from_array, load_image
from workbench.video.clips import open_clip, read_frames
from workbench.video.flow import warp


@pytest.mark.parametrize("name", samples.STYLES)
def test_style_is_a_picture(name: str) -> None:
    image = samples.style(name)
    assert image.shape == (1, 3, 608, 768)
    assert image.dtype == torch.float32
    assert image.min() >= 0
    assert image.max() <= 1


def test_photograph() -> None:
    image = samples.photograph()
    assert image.shape == (1, 3, 512, 512)
    assert image.dtype == torch.float32
    assert 0 <= image.min() < 0.1
    assert 0.9 < image.max() <= 1


@pytest.mark.parametrize("name", samples.PHOTOGRAPHS)
def test_every_photograph_is_a_picture(name: str) -> None:
    image = samples.load_picture(f"sample:{name}")
    assert image.shape[:2] == (1, 3)
    assert min(image.shape[2:]) >= 300
    assert image.std() > 0.1


def test_all_photographs_have_one_name() -> None:
    found = samples.find_pictures(["sample:swirls", "sample:photographs"])
    assert found == ["sample:swirls", *(f"sample:{name}" for name in samples.PHOTOGRAPHS)]


def test_folders_stand_for_their_pictures_in_natural_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("sketch 10.png", "sketch 9.JFIF", "a.HEIC", ".hidden.png", "b.nef", "c.svg"):
        (tmp_path / "sketches" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "sketches" / name).touch()
    (tmp_path / "sketches" / "more.png").mkdir()
    inside = [str(tmp_path / "sketches" / n) for n in ("a.HEIC", "sketch 9.JFIF", "sketch 10.png")]
    folder = tmp_path / "sketches"
    assert samples.find_pictures(folder) == inside
    assert samples.find_pictures(str(folder)) == inside
    mixed = samples.find_pictures(["x.png", folder, "sample:swirls"])
    assert mixed == ["x.png", *inside, "sample:swirls"]
    assert samples.find_pictures("x.png") == ["x.png"]
    said = set(capsys.readouterr().out.splitlines())
    assert said == {f"{folder}: 2 files are no pictures that can be read (b.nef, c.svg)."}
    (tmp_path / "raw").mkdir()
    for number in range(12):
        (tmp_path / "raw" / f"{number}.cr2").touch()
    with pytest.raises(InputError, match="raw is a folder without pictures"):
        samples.find_pictures(["x.png", tmp_path / "raw"])
    (sentence,) = capsys.readouterr().out.splitlines()
    assert sentence.endswith(
        "12 files are no pictures that can be read (0.cr2, 1.cr2, 2.cr2, 3.cr2, 4.cr2, ...)."
    )


@pytest.mark.slow
def test_the_painters_paint_what_is_there() -> None:
    for painter in (mosaic, hatching):
        painted = from_array(painter.paint())
        assert (painted - samples.style(painter.__name__)).abs().mean() < 0.01


def test_changing_a_picture_leaves_the_sample_alone() -> None:
    image = samples.style("mosaic")
    before = image.clone()
    image.zero_()
    assert torch.equal(samples.style("mosaic"), before)


@pytest.mark.parametrize("name", samples.STYLES)
def test_texture_is_everywhere(name: str) -> None:
    grey = samples.style(name)[0].mean(dim=0).numpy()
    blocks = grey.reshape(19, 32, 24, 32).swapaxes(1, 2).reshape(-1, 32 * 32)
    assert np.mean(blocks.std(axis=1) > 0.04) > 0.9


def test_hatching_is_ink_on_paper() -> None:
    image = samples.style("hatching")
    assert torch.equal(image[:, 0], image[:, 1])
    assert torch.equal(image[:, 0], image[:, 2])
    assert (image < 0.15).float().mean() > 0.1
    assert (image > 0.9).float().mean() > 0.2


@pytest.mark.parametrize("name", ["swirls", "mosaic"])
def test_painted_styles_are_colourful(name: str) -> None:
    image = samples.style(name)
    assert (image.amax(dim=1) - image.amin(dim=1)).mean() > 0.25


def test_styles_differ() -> None:
    first, second, third = (samples.style(name) for name in samples.STYLES)
    for one, other in ((first, second), (first, third), (second, third)):
        assert (one - other).abs().mean() > 0.15


def test_unknown_names_are_answered_with_the_known_ones() -> None:
    with pytest.raises(InputError) as wrong_style:
        samples.style("cubism")
    with pytest.raises(InputError) as wrong_sample:
        samples.load_picture("sample:cubism")
    for name in samples.STYLES:
        assert name in str(wrong_style.value)
        assert f"sample:{name}" in str(wrong_sample.value)
    assert f"sample:{samples.PHOTOGRAPH}" in str(wrong_sample.value)


def test_load_picture_resizes_a_sample() -> None:
    assert max(samples.load_picture("sample:swirls", size=64).shape[2:]) == 64
    assert samples.load_picture("sample:astronaut", 64).shape == (1, 3, 64, 64)
    assert torch.equal(samples.load_picture("sample:mosaic"), samples.style("mosaic"))


def test_load_picture_crops_a_sample() -> None:
    whole = samples.style("hatching")
    right_half = samples.load_picture("sample:hatching", crop=(0.5, 0.0, 1.0, 1.0))
    assert torch.equal(right_half, whole[..., 384:])


@pytest.mark.parametrize("as_text", [True, False])
def test_load_picture_reads_a_file(tmp_path: Path, as_text: bool) -> None:
    path = tmp_path / "small.png"
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    loaded = samples.load_picture(str(path) if as_text else path, 15)
    assert max(loaded.shape[2:]) == 15
    assert torch.equal(loaded, load_image(path, 15))


def test_clip_is_three_seconds_of_pictures_and_sound() -> None:
    film = clip()
    assert film is clip()
    assert film.fps == Fraction(25)
    assert len(film.frames) == 75
    assert all(frame.shape == (240, 320, 3) for frame in film.frames)
    assert all(frame.dtype == np.uint8 for frame in film.frames)
    assert film.sound.rate == 48000
    assert film.sound.samples.shape == (2, 3 * 48000)
    assert film.sound.samples.dtype == np.float32
    assert 0.5 < np.abs(film.sound.samples).max() <= 1


def test_making_the_clip_again_gives_the_same() -> None:
    again, film = clip.__wrapped__(), clip()
    assert all(map(np.array_equal, again.frames, film.frames))
    assert np.array_equal(again.sound.samples, film.sound.samples)


def test_frames_of_the_clip_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        clip().frames[0][:] = 0


def test_clip_changes_most_at_the_cut() -> None:
    film = clip()
    frames = [frame.astype(float) for frame in film.frames]
    changes = [np.abs(b - a).mean() for a, b in pairwise(frames)]
    assert int(np.argmax(changes)) + 1 == film.cut
    assert max(changes) > 2 * sorted(changes)[-2]


def test_sound_changes_at_the_cut() -> None:
    film = clip()
    at = round(film.cut / film.fps * film.sound.rate)

    def brightness(sound: np.ndarray) -> float:
        spectrum = np.abs(np.fft.rfft(sound.mean(axis=0)))
        pitches = np.fft.rfftfreq(sound.shape[1], 1 / film.sound.rate)
        return float((pitches * spectrum).sum() / spectrum.sum())

    before, after = film.sound.samples[:, :at], film.sound.samples[:, at:]
    assert brightness(after) > 1.5 * brightness(before)
    for silent in (before[:, 0], before[:, -1], after[:, 0], after[:, -1]):
        assert np.abs(silent).max() < 0.01


@pytest.mark.parametrize(("i", "j"), [(0, 1), (20, 19), (10, 16), (37, 30), (38, 39), (70, 62)])
def test_true_flow_leads_to_the_same_colours(i: int, j: int) -> None:
    film = clip()
    here, there = (from_array(film.frames[k]) for k in (i, j))
    visible = ~film.occluded(i, j).expand_as(here)
    error = (warp(there, film.flow(i, j)) - here).abs()
    assert error[visible].mean() < 0.01
    assert error[visible].quantile(0.99) < 0.06
    assert (there - here).abs()[visible].mean() > 5 * error[visible].mean()
    wrong_way = (warp(there, -film.flow(i, j)) - here).abs()
    assert wrong_way[visible].mean() > 5 * error[visible].mean()


def test_what_is_occluded_has_other_colours() -> None:
    film = clip()
    for i, j in ((15, 14), (14, 15), (60, 59)):
        here, there = (from_array(film.frames[k]) for k in (i, j))
        hidden = film.occluded(i, j).expand_as(here)
        error = (warp(there, film.flow(i, j)) - here).abs()
        assert error[hidden].mean() > 20 * error[~hidden].mean()


def test_clip_moves_several_pixels_a_frame_and_uncovers_some_of_the_picture() -> None:
    film = clip()
    for i in (*range(0, 37, 6), *range(38, 74, 6)):
        field = film.flow(i, i + 1)
        lengths = torch.linalg.vector_norm(field, dim=1)
        assert 1 < lengths.median() < 8
        assert 4 < lengths.max() < 20
        assert torch.equal(field, field.round()) is False
        assert 0.005 < film.occluded(i + 1, i).float().mean() < 0.08


def test_figure_moves_on_its_own_with_a_crisp_edge() -> None:
    film = clip()
    field = film.flow(20, 21)
    # One vector changes abruptly to the other, without any in between.
    sideways = (field[0, 0, :, 1:] - field[0, 0, :, :-1]).abs()
    assert ((sideways < 0.1) | (sideways > 5)).all()
    assert (sideways > 5).sum() > 150


def test_true_flow_to_itself_is_nothing_and_there_and_back_cancels() -> None:
    film = clip()
    assert film.flow(5, 5).abs().max() < 1e-4
    assert not film.occluded(5, 5).any()
    there, back = film.flow(3, 12), film.flow(12, 3)
    home = torch.nn.functional.max_pool2d(film.occluded(3, 12).float(), 5, 1, 2) == 0
    y, x = torch.meshgrid(torch.arange(240), torch.arange(320), indexing="ij")
    rows = (y + there[0, 1]).round().long().clamp(0, 239)
    columns = (x + there[0, 0]).round().long().clamp(0, 319)
    rest = torch.linalg.vector_norm(there[0] + back[0][:, rows, columns], dim=0)
    assert rest[home[0, 0]].quantile(0.99) < 0.1


def test_no_flow_across_the_cut_or_past_the_end() -> None:
    film = clip()
    for i, j in ((film.cut - 1, film.cut), (film.cut, film.cut - 1)):
        with pytest.raises(InputError, match="across the cut"):
            film.flow(i, j)
    for i, j in ((74, 75), (-1, 0)):
        with pytest.raises(InputError, match="frames 0 to 74"):
            film.occluded(i, j)


def test_the_sample_clip_shows_what_was_filmed() -> None:
    source, film = open_clip(samples.find_clip("sample:clip")), clip()
    assert (source.frames, source.fps) == (75, film.fps)
    for read, filmed in zip(read_frames(source), film.frames, strict=True):
        assert np.abs(read.astype(float) - filmed).mean() < 4
    with av.open(str(source.path)) as container:
        assert container.streams.audio[0].rate == film.sound.rate


def test_find_clip_leaves_other_names_alone(tmp_path: Path) -> None:
    assert samples.find_clip("holiday.mp4") == Path("holiday.mp4")
    assert samples.find_clip(tmp_path / "a.mov") == tmp_path / "a.mov"
    with pytest.raises(InputError, match="sample:clip"):
        samples.find_clip("sample:film")
