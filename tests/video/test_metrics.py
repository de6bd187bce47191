from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from workbench.colour import recolour
from workbench.descent import measure
from workbench.errors import InputError
from workbench.images import Frame, from_array, to_array
from workbench.settings import Settings
from workbench.video.clips import Clip, open_clip
from workbench.video.cuts import is_cut
from workbench.video.metrics import (
    FAR,
    FilmFigures,
    compare_films,
    sharpness,
    steadiest,
    warping_error,
    warping_errors,
)

WARM, COLD = (250, 170, 60), (20, 60, 130)


def pan(count: int, *, speed: int = 3, colour: tuple[int, int, int] = WARM) -> list[Tensor]:
    """A camera that goes right over a wall of blobs, `(1, 3, 48, 64)` each."""
    noise = np.random.default_rng(sum(colour)).uniform(0, 1, (48, 64 + speed * count))
    blobs = np.asarray(cv2.GaussianBlur(noise.astype(np.float32), (0, 0), 2))
    blobs = (blobs - blobs.min()) / (blobs.max() - blobs.min())
    wall = (127 * blobs[..., None] + np.array(colour) / 2).astype(np.uint8)
    return [from_array(wall[:, speed * i : speed * i + 64]) for i in range(count)]


def plain(value: float) -> Tensor:
    return torch.full((1, 3, 48, 64), value)


def blurred(frame: Tensor, sigma: float) -> Tensor:
    return from_array(np.asarray(cv2.GaussianBlur(to_array(frame), (0, 0), sigma), dtype=np.uint8))


def stepping(count: int, step: float) -> list[Tensor]:
    """Plain frames that become lighter by `step` each time."""
    return [plain(0.1 + step * i) for i in range(count)]


# --- warping error -----------------------------------------------------------------------


@pytest.mark.parametrize("step", [0.0, 0.05, 0.2])
def test_of_plain_frames_over_a_still_source_by_hand(step: float) -> None:
    source = pan(1) * 4
    assert warping_error(stepping(4, step), source) == pytest.approx(3 * step**2, abs=1e-7)


def test_a_channel_counts_by_itself() -> None:
    a, b = plain(0.5), plain(0.5)
    b[:, 0] += 0.1
    b[:, 1] -= 0.2
    expected = 0.1**2 + 0.2**2
    assert warping_error([a, b], pan(1) * 2) == pytest.approx(expected, rel=1e-4)


def test_it_is_the_mean_over_pairs() -> None:
    film = [plain(value) for value in (0.1, 0.2, 0.5)]
    expected = (3 * 0.1**2 + 3 * 0.3**2) / 2
    assert warping_error(film, pan(1) * 3) == pytest.approx(expected, rel=1e-4)


def test_gap_looks_further() -> None:
    source = pan(1) * 6
    assert warping_error(stepping(6, 0.05), source, gap=3) == pytest.approx(3 * 0.15**2, rel=1e-4)
    flicker = [plain(0.4 + 0.2 * (i % 2)) for i in range(6)]
    assert warping_error(flicker, source, gap=1) == pytest.approx(3 * 0.2**2, rel=1e-4)
    assert warping_error(flicker, source, gap=2) == pytest.approx(0, abs=1e-9)


def test_a_film_that_moves_with_its_source_is_still() -> None:
    source = pan(5)
    film = [1 - frame for frame in source]
    frozen = [film[0]] * 5
    assert warping_error(film, source) < 1e-3
    assert warping_error(frozen, source) > 30 * warping_error(film, source)
    backwards = film[::-1]
    assert warping_error(backwards, source) > 30 * warping_error(film, source)


def test_what_goes_out_of_the_picture_does_not_count() -> None:
    source = pan(2, speed=6)
    film = [1 - frame for frame in source]
    film[0] = film[0].clone()
    film[0][..., :6] = 0  # gone in the second
    assert warping_error(film, source) < 1e-3


def test_a_film_over_itself_is_no_stiller_than_its_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    source = pan(1) * 3
    film = [source[0] + 0.1 * torch.rand(1, 3, 48, 64, generator=generator) for _ in source]
    # Two uniform numbers from 0 to 0.1 differ by 0.1^2 / 6 in the mean square.
    assert warping_error(film, source) == pytest.approx(3 * 0.01 / 6, rel=0.1)


def test_pairs_across_a_cut_are_left_out() -> None:
    source = pan(3, speed=0) + pan(3, speed=0, colour=COLD)
    assert is_cut(to_array(source[2]), to_array(source[3]))
    film = [plain(0.2)] * 3 + [plain(0.8)] * 3
    assert warping_error(film, source) == pytest.approx(0, abs=1e-9)
    assert list(warping_errors([film], source)) == [[0], [0], [None], [0], [0]]
    assert list(warping_errors([film], source, 2)) == [[0], [None], [None], [0]]
    with pytest.raises(InputError, match="no two frames 3 apart within a scene"):
        warping_error(film, source, gap=3)


def test_several_films_share_their_source() -> None:
    source = pan(1) * 3
    pairs = list(warping_errors([stepping(3, 0.1), stepping(3, 0.2)], source))
    assert len(pairs) == 2
    for pair in pairs:
        assert pair == pytest.approx([3 * 0.1**2, 3 * 0.2**2], rel=1e-4)


def test_a_film_of_another_length_or_size_is_refused() -> None:
    source = pan(3)
    for film in (source[:2], [*source, source[0]], []):
        with pytest.raises(InputError, match="different numbers of frames"):
            warping_error(film, source)
    with pytest.raises(InputError, match="measured at the size of their source"):
        warping_error([frame[..., :-2] for frame in source], source)
    with pytest.raises(InputError, match="frame: expected"):
        warping_error([frame[0] for frame in source], source)


def test_an_error_in_a_film_is_not_taken_for_its_length() -> None:
    def film() -> Iterator[Tensor]:
        yield plain(0.5)
        raise ValueError("the second frame is broken")

    with pytest.raises(ValueError, match="the second frame is broken"):
        warping_error(film(), pan(2))


@pytest.mark.parametrize(("frames", "gap"), [(0, 1), (1, 1), (3, 3)])
def test_too_short_a_film_is_refused(frames: int, gap: int) -> None:
    source = pan(1) * frames
    with pytest.raises(InputError, match=f"no two frames {gap} apart"):
        warping_error(source, source, gap=gap)


def test_few_frames_are_held() -> None:
    alive: list[weakref.ref[Tensor]] = []

    def film() -> Iterator[Tensor]:
        for _ in range(12):
            frame = source.clone()
            alive.append(weakref.ref(frame))
            yield frame
            del frame

    source = pan(1)[0]
    most = 0
    for _ in warping_errors([film()], film(), 2):
        most = max(most, sum(each() is not None for each in alive))
    assert len(alive) == 24
    assert most <= 2 * 3 + 2


# --- sharpness ---------------------------------------------------------------------------


def test_sharpness_falls_with_blur() -> None:
    (frame,) = pan(1)
    values = [sharpness(frame), *(sharpness(blurred(frame, sigma)) for sigma in (0.7, 1.5, 3))]
    assert values == sorted(values, reverse=True)
    assert values[-1] < 0.5 * values[0]
    assert sharpness(plain(0.3)) == 0


def test_sharpness_by_hand() -> None:
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[20, 30] = 100  # Laplacian: -400 there, 100 at its four neighbours
    squares = (400**2 + 4 * 100**2) / (48 * 64)
    assert sharpness(from_array(picture)) == pytest.approx(squares, rel=1e-6)


# --- comparison --------------------------------------------------------------------------


def folder_clip(frames: Sequence[Tensor], folder: Path) -> Clip:
    folder.mkdir()
    for number, frame in enumerate(frames):
        Image.fromarray(to_array(frame)).save(folder / f"{number:03d}.png")
    return open_clip(folder)


def test_figures_of_films_and_of_their_source(
    tiny: Settings, painting: Tensor, tmp_path: Path
) -> None:
    source = pan(13)
    clip = folder_clip(source, tmp_path / "clip")
    inverted = [1 - frame for frame in source]
    # The size of the settings gives way to that of the clip.
    figures = compare_films({"inverted": inverted}, clip, [painting], replace(tiny, size=512))
    assert list(figures) == ["source", "inverted"]
    assert figures["source"].content_loss == pytest.approx(0, abs=1e-6)
    assert figures["source"].sharpness == pytest.approx(np.mean([sharpness(f) for f in source]))
    film = figures["inverted"]
    assert film.warping_error == pytest.approx(warping_error(inverted, source))
    assert film.far_warping_error == pytest.approx(warping_error(inverted, source, gap=FAR))
    assert len(film.by_frame) == 12
    assert film.sharpness == pytest.approx(figures["source"].sharpness, rel=0.05)
    losses = [measure(a, b, [painting], tiny) for a, b in zip(inverted, source, strict=True)]
    every = compare_films({"inverted": inverted}, clip, [painting], tiny, samples=13)["inverted"]
    assert every.style_loss == pytest.approx(np.mean([each.style_total for each in losses]))
    assert every.content_loss == pytest.approx(np.mean([each.content_total for each in losses]))
    three = [losses[number] for number in (0, 6, 12)]
    some = compare_films({"inverted": inverted}, clip, [painting], tiny, samples=3)["inverted"]
    assert some.style_loss == pytest.approx(np.mean([each.style_total for each in three]))


def test_losses_are_those_that_the_film_was_painted_with(
    tiny: Settings, painting: Tensor, tmp_path: Path
) -> None:
    source = pan(1) * 2 + pan(1, colour=COLD) * 2
    clip = folder_clip(source, tmp_path / "clip")
    film = [1 - frame for frame in source]
    mask = torch.zeros(1, 1, 48, 64)
    mask[..., :32] = 1
    changed = {"masks": [mask], "original_colors": "pca"}
    figures = compare_films({"film": film}, clip, [painting], tiny, **changed, samples=4)["film"]
    losses = []
    for number, (frame, content) in enumerate(zip(film, source, strict=True)):
        style = recolour(painting, painting, source[number // 2 * 2], "pca")
        losses.append(measure(frame, content, [style], tiny, masks=[mask]))
    assert figures.style_loss == pytest.approx(np.mean([each.style_total for each in losses]))
    plain_loss = compare_films({"film": film}, clip, [painting], tiny)["film"].style_loss
    assert figures.style_loss != pytest.approx(plain_loss, rel=1e-2)


def test_short_films_have_no_far_error(
    tiny: Settings, painting: Tensor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = pan(FAR)
    clip = folder_clip(short, tmp_path / "short")
    figures = compare_films({"film": short}, clip, [painting], tiny)
    assert figures["film"].far_warping_error is None
    assert figures["film"].warping_error is not None
    assert "far flicker" not in capsys.readouterr().out  # nor a bar of nothing
    single = folder_clip(short[:1], tmp_path / "single")
    figures = compare_films({"film": short[:1]}, single, [painting], tiny)
    assert figures["film"].warping_error is None
    assert figures["film"].by_frame == []


def test_errors_by_frame_leave_cuts_out(tiny: Settings, painting: Tensor, tmp_path: Path) -> None:
    source = pan(2) + pan(2, colour=COLD)
    clip = folder_clip(source, tmp_path / "clip")
    by_frame = compare_films({"film": source}, clip, [painting], tiny)["film"].by_frame
    assert [error is None for error in by_frame] == [False, True, False]


def test_films_of_different_lengths_are_refused(
    tiny: Settings, painting: Tensor, tmp_path: Path
) -> None:
    source = pan(3)
    clip = folder_clip(source, tmp_path / "clip")
    with pytest.raises(InputError, match="different numbers of frames"):
        compare_films({"a": source, "b": source[:2]}, clip, [painting], tiny)


def test_of_a_clip_that_breaks_off_what_there_is_is_measured(
    tiny: Settings, painting: Tensor, tmp_path: Path
) -> None:
    source = pan(4)
    clip = replace(folder_clip(source, tmp_path / "clip"), frames=9)
    assert len(compare_films({"a": source}, clip, [painting], tiny)["a"].by_frame) == 3
    assert len(compare_films({"a": source[:3]}, clip, [painting], tiny)["a"].by_frame) == 2


# --- choice ------------------------------------------------------------------------------


def film(
    error: float | None, *, style: float = 100, content: float = 100, sharp: float = 100
) -> FilmFigures:
    return FilmFigures(error, None, style, content, sharp, [error])


def test_a_good_still_film_wins() -> None:
    figures = {
        "source": film(0.0001),
        "per-frame": film(0.2),
        "blended": film(0.1),
        "temporal": film(0.05, style=115, content=115, sharp=70),
    }
    name, sentence = steadiest(figures)
    assert name == "temporal"
    assert sentence == "temporal flickers least: its warping error is 0.25 of per-frame's."


@pytest.mark.parametrize(
    ("loser", "lost"),
    [
        (film(0.001, style=121), "the style"),
        (film(0.001, content=121), "the content"),
        (film(0.001, sharp=64), "sharpness"),
        (film(0.001, style=200, sharp=10), "the style and sharpness"),
        (film(0.001, style=2e2, content=2e2, sharp=1), "the style and the content and sharpness"),
    ],
)
def test_stillness_that_cost_something_does_not_win(loser: FilmFigures, lost: str) -> None:
    figures = {"per-frame": film(0.2), "temporal": loser, "blended": film(0.1)}
    name, sentence = steadiest(figures)
    assert name == "blended"
    assert f"; temporal lost {lost}." in sentence


def test_without_a_winner_it_is_the_reference() -> None:
    figures = {"per-frame": film(0.2), "blended": film(0.3), "temporal": film(0.1, sharp=1)}
    name, sentence = steadiest(figures)
    assert name == "per-frame"
    assert sentence == (
        "No mode flickers less than per-frame without a loss; temporal lost sharpness."
    )
    assert steadiest({"per-frame": film(0.2)})[0] == "per-frame"


def test_another_film_may_be_the_reference() -> None:
    figures = {"a": film(0.1), "b": film(0.2), "c": film(0.15)}
    assert steadiest(figures, "b")[0] == "a"
    assert steadiest(figures, "a")[0] == "a"


def test_the_films_of_a_still_clip_cannot_be_beaten() -> None:
    figures = {"per-frame": film(0.0), "blended": film(0.001)}
    assert steadiest(figures)[0] == "per-frame"
    figures = {"per-frame": film(0.1), "blended": film(0.0), "temporal": film(0.001)}
    assert steadiest(figures)[0] == "blended"


def test_films_of_one_frame_are_as_still_as_each_other() -> None:
    name, sentence = steadiest({"per-frame": film(None), "temporal": film(None)})
    assert name == "per-frame"
    assert sentence.endswith(".")


def test_frozen_blurred_and_bare_films_cannot_win(
    tiny: Settings, painting: Tensor, tmp_path: Path
) -> None:
    source = pan(8)
    clip = folder_clip(source, tmp_path / "clip")
    pattern = from_array(tile(to_array(painting), (48, 64 + 8 * 3)))

    def painted(number: int, flicker: float) -> Tensor:
        strokes = pattern[..., 3 * number : 3 * number + 64]
        return 0.1 + 0.4 * source[number] + 0.4 * strokes + flicker * (number % 2 - 0.5)

    per_frame = [painted(number, 0.1) for number in range(8)]
    films = {
        "per-frame": per_frame,
        "still": [painted(number, 0.05) for number in range(8)],
        "frozen": [per_frame[0]] * 8,
        "blurred": [blurred(frame, 2) for frame in per_frame],
        "bare": source,
    }
    figures = compare_films(films, clip, [painting], tiny)
    name, sentence = steadiest(figures)
    assert name == "still", sentence
    assert "blurred lost" in sentence
    assert "sharpness" in sentence
    assert "bare lost the style" in sentence
    frozen = figures["frozen"].warping_error
    assert frozen is not None
    assert frozen > 2 * figures["per-frame"].warping_error


def tile(picture: Frame, shape: tuple[int, int]) -> Frame:
    times = (shape[0] // picture.shape[0] + 1, shape[1] // picture.shape[1] + 1, 1)
    return np.tile(picture, times)[: shape[0], : shape[1]]
