from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import moviepy
import numpy as np
import pytest
from moviepy import VideoClip
from numpy.typing import NDArray
from sound import Sound
from texts import chapters, subtitles, with_subtitles

from workbench.errors import InputError
from workbench.fast import StyleModel, applying
from workbench.fast.models import Checkpoint, ModelFolder, save_network, write_folder
from workbench.fast.network import TransformationNetwork
from workbench.fast.schedule import choose_models, read_captions, read_schedule
from workbench.images import Frame, from_array, save_image, to_array
from workbench.runs import finish_run, start_run
from workbench.video import as_clip, edit, write_clip
from workbench.video.clips import open_clip, read_frames, write_film
from workbench.video.frames import PaintedFrames, frame_path


def grey(value: int, shape: tuple[int, int] = (48, 64)) -> Frame:
    return np.full((*shape, 3), value, np.uint8)


def film(path: Path, count: int, rate: Fraction | int = 25) -> Path:
    write_film([grey(20 + 2 * number) for number in range(count)], path, rate)
    return path


def alike(some: list[Frame], others: list[Frame]) -> bool:
    return [each.tobytes() for each in some] == [each.tobytes() for each in others]


RATES = [Fraction(25), Fraction(30000, 1001), Fraction(50, 7), Fraction(24000, 1001), Fraction(60)]


@pytest.mark.parametrize("rate", RATES, ids=str)
def test_every_frame_comes_through_once_and_in_order(rate: Fraction, tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", 100, rate)
    frames = list(read_frames(open_clip(path)))
    clip = as_clip(path)
    assert clip.size == (64, 48)
    assert clip.duration == pytest.approx(float(100 / rate))
    assert alike(list(edit.frames_of(clip, rate)), frames)
    half = clip.subclipped(float(40 / rate))
    assert alike(list(edit.frames_of(half, rate)), frames[40:])
    assert alike([clip.get_frame(float(n / rate)) for n in range(100)], frames)


def test_frames_are_read_in_any_order(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", 60)
    frames = list(read_frames(open_clip(path)))
    clip = as_clip(path)
    for number in (3, 3, 50, 49, 0, 59, 20):
        assert np.array_equal(clip.get_frame((number + 0.5) / 25), frames[number])
    assert np.array_equal(clip.get_frame(9.0), frames[59])


def test_a_section_of_a_clip_at_another_size(tmp_path: Path) -> None:
    clip = open_clip(film(tmp_path / "a.mp4", 20), start=0.2, size=32)
    assert alike(list(edit.frames_of(as_clip(clip), clip.fps)), list(read_frames(clip)))


def painted(folder: Path, count: int, fps: str = "25") -> PaintedFrames:
    for number in range(count):
        save_image(from_array(grey(7 * number)), frame_path(folder, number))
    (folder / "run.json").write_text(f'{{"fps": "{fps}"}}')
    return PaintedFrames(folder, count)


def test_painted_frames_have_the_rate_of_their_clip(tmp_path: Path) -> None:
    frames = painted(tmp_path, 9, "30000/1001")
    clip = as_clip(frames)
    assert alike(list(edit.frames_of(clip, RATES[1])), list(frames.pictures()))


@pytest.mark.parametrize("rate", RATES, ids=str)
def test_a_clip_is_written_at_its_exact_rate_with_the_frames_it_has(
    rate: Fraction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = film(tmp_path / "a.mp4", 50, rate)
    written: list[Frame] = []

    def before_encoding(frames: Iterable[Frame], *args: Any, **more: Any) -> int:
        written.extend(frames)
        return write_film(written, *args, **more)

    monkeypatch.setattr(edit, "write_film", before_encoding)
    assert write_clip(as_clip(path), tmp_path / "b.mp4") == 50
    assert alike(written, list(read_frames(open_clip(path))))
    clip = open_clip(tmp_path / "b.mp4")
    assert (clip.fps, clip.frames) == (rate, 50)


def stopped(clip: VideoClip, seconds: float) -> VideoClip:
    """The same clip, up to the moment at which the kernel is interrupted."""

    def frame(t: float) -> Frame:
        if t > seconds:
            raise KeyboardInterrupt
        return np.asarray(clip.get_frame(t))

    return VideoClip(frame, duration=clip.duration).with_fps(clip.fps)


def parts_written(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Parts, of five frames each at most, as they are begun."""
    begun: list[Path] = []

    def write(frames: Iterable[Frame], path: Path, *args: Any, **more: Any) -> int:
        begun.append(path)
        return write_film(frames, path, *args, **more)

    monkeypatch.setattr(edit, "PART", 5)
    monkeypatch.setattr(edit, "write_film", write)
    return begun


@pytest.mark.parametrize("stops", [[0.1], [0.3, 0.5], [0.71], [0.8]])
def test_a_clip_that_is_stopped_goes_on_and_is_the_same(
    stops: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = parts_written(monkeypatch)
    clip = as_clip(film(tmp_path / "a.mp4", 22))
    write_clip(clip, tmp_path / "whole.mp4")
    assert len(begun) == 5
    begun.clear()
    for stop in stops:
        with pytest.raises(KeyboardInterrupt):
            write_clip(stopped(clip, stop), tmp_path / "b.mp4")
    assert write_clip(clip, tmp_path / "b.mp4") == 22
    assert len(begun) == 5  # each once
    assert (tmp_path / "b.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.mp4", "whole.mp4"]


def test_a_clip_that_was_changed_meanwhile_takes_over_what_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = parts_written(monkeypatch)
    clip = as_clip(film(tmp_path / "a.mp4", 22))
    words = edit.caption("x", clip, 0.04)
    edited = moviepy.CompositeVideoClip([clip, words.with_start(0.48)], bg_color=(0, 0, 0))
    with pytest.raises(KeyboardInterrupt):
        write_clip(stopped(clip, 0.7), tmp_path / "b.mp4")
    begun.clear()
    write_clip(edited, tmp_path / "b.mp4")  # another frame, in the third of five parts
    assert len(begun) == 3  # that, and the two that are missing
    write_clip(edited, tmp_path / "whole.mp4")
    assert (tmp_path / "b.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        write_clip(stopped(clip, 0.7), tmp_path / "c.mp4")
    begun.clear()
    write_clip(clip, tmp_path / "c.mp4", quality=30)
    assert len(begun) == 5


def test_few_large_frames_are_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = parts_written(monkeypatch)
    monkeypatch.setattr(edit, "_HELD", 4 * 48 * 64 * 3)
    write_clip(as_clip(film(tmp_path / "a.mp4", 22)), tmp_path / "b.mp4")
    assert len(begun) == 6


def test_a_folder_of_another_kind_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "b.parts").mkdir()
    (tmp_path / "b.parts" / "mine.txt").touch()
    with pytest.raises(InputError, match=r"b\.parts holds files but no run\.json"):
        write_clip(plain(9), tmp_path / "b.mp4")
    assert (tmp_path / "b.parts" / "mine.txt").exists()


# --- sound -------------------------------------------------------------------------------


def noise(seconds: float, rate: int = 48000) -> Sound:
    """Deep noise, which survives being encoded."""
    random = np.random.default_rng(1).normal(0, 0.1, (2, round(seconds * rate) + 48))
    summed = random.cumsum(axis=1)
    return Sound((summed[:, 48:] - summed[:, :-48]).astype(np.float32) / 4, rate)


def noisy(path: Path, count: int, rate: Fraction | int = 25) -> Path:
    """Write a film with noise that is copied as it is."""
    sound = noise(float(count / rate))
    sound.write_film([grey(number % 200) for number in range(count)], path, rate)
    return path


def heard(path: Path) -> tuple[NDArray[np.float32], str]:
    """Samples `(2, n)` of a film, and how they are coded."""
    with av.open(str(path)) as source:
        stream = source.streams.audio[0]
        pieces = [
            frame.to_ndarray().reshape(-1, 2).T
            if not frame.format.is_planar
            else frame.to_ndarray()
            for frame in source.decode(stream)
        ]
        return np.concatenate(pieces, axis=1), stream.codec_context.name


def test_the_sound_of_a_film_is_heard_in_any_order(tmp_path: Path) -> None:
    path = noisy(tmp_path / "a.mov", 100)  # (Matroska rounds time stamps)
    samples = noise(4).samples.T
    audio = as_clip(open_clip(path, start=0.4)).audio
    assert audio.duration == pytest.approx(3.6)
    times = np.arange(1000) / 48000
    for start in (0.0, 0.5, 3.0, 0.1, 1.7):
        first = round((0.4 + start) * 48000)
        assert np.allclose(audio.get_frame(start + times), samples[first : first + 1000], atol=1e-6)
    assert np.allclose(audio.get_frame(1.0), samples[round(1.4 * 48000)], atol=1e-6)
    assert not audio.get_frame(9 + times).any()


def test_sound_of_one_film_in_one_piece_is_copied_sample_for_sample(tmp_path: Path) -> None:
    clip = as_clip(noisy(tmp_path / "a.mkv", 50))
    samples = noise(2).samples
    titled = edit.with_title(clip, "A walk", 0.4)
    for number, edited in enumerate([clip, titled, edit.side_by_side({"a": clip, "b": clip}, 2)]):
        write_clip(edited, tmp_path / f"{number}.mkv")
        mine, codec = heard(tmp_path / f"{number}.mkv")
        assert codec == "pcm_f32le"
        assert np.array_equal(mine[:, :96000], samples)
    write_clip(titled.subclipped(0.52, 1.6), tmp_path / "cut.mkv")
    assert open_clip(tmp_path / "cut.mkv").frames == 27
    mine, codec = heard(tmp_path / "cut.mkv")
    begins = int(np.flatnonzero(samples[0] == mine[0, 0])[0])  # whole packets are copied
    assert codec == "pcm_f32le"
    assert begins / 48000 == pytest.approx(0.52, abs=0.03)
    assert np.array_equal(mine, samples[:, begins : begins + mine.shape[1]])


def with_chapters_and_two_tracks(path: Path, source: Path) -> Path:
    """The same film with its sound twice, and chapters."""
    with av.open(str(source)) as one, av.open(str(path), "w") as two:
        order = [one.streams.video[0], one.streams.audio[0], one.streams.audio[0]]
        targets = [two.add_stream_from_template(stream) for stream in order]
        second = {"start": 800, "end": 2000, "metadata": {"title": "day"}}
        first = {"start": 0, "end": 800, "metadata": {"title": "dawn"}}
        base = {"time_base": Fraction(1, 1000)}
        two.set_chapters([{"id": i, **base, **each} for i, each in enumerate((first, second))])
        for packet in one.demux():
            for stream, target in zip(order, targets, strict=True):
                if packet.size and packet.stream is stream:
                    copy = av.Packet(bytes(packet))
                    copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
                    copy.duration, copy.is_keyframe = packet.duration, packet.is_keyframe
                    copy.stream = target
                    two.mux(copy)
    return path


def test_all_tracks_and_chapters_go_with_a_sound_that_is_whole(tmp_path: Path) -> None:
    path = with_chapters_and_two_tracks(tmp_path / "b.mkv", noisy(tmp_path / "a.mkv", 50))
    write_clip(edit.with_title(as_clip(path), "A", 0.4).subclipped(0.4, 2), tmp_path / "c.mkv")
    with av.open(str(tmp_path / "c.mkv")) as film:
        assert [each.codec_context.name for each in film.streams.audio] == ["pcm_f32le"] * 2
        told = [(c["start"] * c["time_base"], c["metadata"]["title"]) for c in film.chapters()]
    assert told == [(0, "dawn"), (Fraction(2, 5), "day")]


def test_subtitles_and_chapters_of_a_clip_without_sound_go_with_it(tmp_path: Path) -> None:
    clip = as_clip(with_subtitles(tmp_path / "a.mkv", "subrip"))
    whole = edit.cut(read_schedule("a", 2.0), {"a": clip}, 10)
    write_clip(edit.with_title(whole, "A", 0.4).subclipped(0.4), tmp_path / "b.mp4")
    assert subtitles(tmp_path / "b.mp4") == [(0, 0.5, "one"), (0.8, 1.4, "two")]
    assert chapters(tmp_path / "b.mp4") == [(0, 0.1, "dawn"), (0.1, 1.6, "day")]
    assert not open_clip(tmp_path / "b.mp4").sound
    tone = moviepy.AudioClip(
        lambda t: 0.5 * np.stack([np.sin(2 * np.pi * 440 * t)] * 2, axis=-1), duration=2, fps=44100
    )
    mixed = moviepy.CompositeAudioClip([clip.audio, tone])
    write_clip(clip.with_audio(mixed), tmp_path / "c.mp4")
    samples, codec = heard(tmp_path / "c.mp4")
    assert codec == "aac"
    assert np.abs(samples[:, 5000:15000]).max() == pytest.approx(0.5, abs=0.05)


def test_sound_that_was_changed_is_put_together_anew(tmp_path: Path) -> None:
    clip = as_clip(noisy(tmp_path / "a.mkv", 50))
    quiet = clip.with_audio(clip.audio.with_effects([moviepy.afx.MultiplyVolume(0.25)]))
    samples = noise(2).samples
    pieces = moviepy.concatenate_videoclips([clip.subclipped(1, 2), clip.subclipped(0, 1)])
    both = clip.with_audio(moviepy.CompositeAudioClip([clip.audio, clip.audio.with_start(1)]))
    turned = np.concatenate([samples[:, 48000:], samples[:, :48000]], axis=1)
    late = samples + np.pad(samples, ((0, 0), (48000, 0)))[:, :96000]
    for name, edited, wanted in (
        ("quiet", quiet, 0.25 * samples), ("turned", pieces, turned), ("late", both, late)
    ):  # fmt: skip
        write_clip(edited, tmp_path / f"{name}.mkv")
        mine, codec = heard(tmp_path / f"{name}.mkv")
        assert codec == "aac"
        shift = 1024  # the encoder's first packet
        assert abs(mine.shape[1] - 96000) < 3000
        middle = slice(40000, 60000)
        lags = [np.corrcoef(mine[0, s:][middle], wanted[0][middle])[0, 1] for s in (0, shift)]
        assert max(lags) > 0.9


def test_sound_of_moviepys_own_goes_with_a_film(tmp_path: Path) -> None:
    tone = moviepy.AudioClip(lambda t: 0.5 * np.sin(2 * np.pi * 440 * t), duration=0.4, fps=44100)
    clip = as_clip(film(tmp_path / "a.mp4", 25)).with_audio(tone)
    write_clip(clip, tmp_path / "b.mp4")
    samples, codec = heard(tmp_path / "b.mp4")
    assert codec == "aac"
    assert np.abs(samples[:, 5000:15000]).max() == pytest.approx(0.5, abs=0.05)
    assert samples.shape[1] < 0.5 * 48000


def test_music_from_a_file_is_mixed_with_the_sound_of_a_film(tmp_path: Path) -> None:
    noise(12).save(tmp_path / "music.wav")
    music = moviepy.AudioFileClip(str(tmp_path / "music.wav")).with_effects(
        [moviepy.afx.MultiplyVolume(0.5)]
    )
    clip = as_clip(noisy(tmp_path / "a.mov", 300))
    for name, audio in (
        ("alone", music),
        ("both", moviepy.CompositeAudioClip([clip.audio, music])),
    ):
        write_clip(clip.with_audio(audio), tmp_path / f"{name}.mp4")
        mine, codec = heard(tmp_path / f"{name}.mp4")
        assert codec == "aac"
        factor = {"alone": 0.5, "both": 1.5}[name]
        assert mine.std() == pytest.approx(factor * noise(12).samples.std(), rel=0.1)
    music.close()


def test_a_clip_that_lacks_what_a_film_needs_is_refused(tmp_path: Path) -> None:
    still = moviepy.ImageClip(grey(9))
    with pytest.raises(InputError, match=r"b\.mp4: the clip has no duration; say clip\.with_dur"):
        write_clip(still, tmp_path / "b.mp4", 25)
    with pytest.raises(InputError, match=r"no frame rate; give fps"):
        write_clip(still.with_duration(1), tmp_path / "b.mp4")
    assert write_clip(still.with_duration(1), tmp_path / "b.mp4", 25) == 25


# --- cutting -----------------------------------------------------------------------------


def plain(value: int, seconds: float = 2.0, size: tuple[int, int] = (64, 48)) -> VideoClip:
    """A clip that fades from a grey to one that is ten levels lighter."""
    frame = lambda t: grey(round(value + 10 * t / seconds), (size[1], size[0]))  # noqa: E731
    return moviepy.VideoClip(frame, duration=seconds).with_fps(25)


def values(clip: VideoClip) -> list[int]:
    return [int(frame[24, 32, 0]) for frame in edit.frames_of(clip, 25)]


def test_films_run_on_together_and_the_schedule_says_which_is_seen() -> None:
    films = {"a": plain(50), "b": plain(150)}
    cut = edit.cut(read_schedule("0-0.8: a\n0.8-: b", 2.0), films, 25)
    assert values(cut) == values(films["a"])[:20] + values(films["b"])[20:]
    faded = values(edit.cut(read_schedule("0-0.8: a\n0.8-: b", 2.0), films, 25, crossfade=4))
    assert faded[:20] == values(films["a"])[:20]
    assert faded[24:] == values(films["b"])[24:]
    assert np.diff(faded[19:25]) == pytest.approx([20] * 5, abs=2)


def test_films_of_a_list_are_drawn_as_models_are() -> None:
    films = {"a": plain(50), "b": plain(150)}
    schedule = read_schedule("0-: [a, b]", 2.0)
    drawn = edit.cut(schedule, films, 25, seed=3, hold=5)
    chosen = [next(iter(each)) for each in choose_models(schedule, 50, 25, seed=3, hold=5)]
    assert {"a", "b"} == set(chosen)
    assert [value < 100 for value in values(drawn)] == [name == "a" for name in chosen]


def test_films_of_other_sizes_and_rates_are_fitted_and_it_is_said() -> None:
    films = {"a": plain(100), "b": plain(100, size=(32, 24)), "c": plain(100, size=(48, 48))}
    schedule = read_schedule("0-0.8: a\n0.8-1.2: b\n1.2-: c", 2.0)
    with pytest.warns(UserWarning, match="is fitted") as said:
        frames = list(edit.frames_of(edit.cut(schedule, films, 25), 25))
    assert [str(each.message).partition(" ")[0] for each in said] == ["b", "c"]
    assert "48x48 pixels and 25 frames a second; it is fitted to 64x48 and 25" in str(
        said[1].message
    )
    assert {frame.shape for frame in frames} == {(48, 64, 3)}
    assert frames[25].min() > 90
    assert (frames[40][:, :7].max(), frames[40][:, 9:-9].min() > 90) == (0, True)
    with pytest.warns(UserWarning, match="25 frames a second; it is fitted to 64x48 and 50"):
        edit.cut(read_schedule("a", 2.0), films, 50)


@pytest.mark.parametrize("start", [0.0, 1.5])
def test_a_film_that_is_shorter_than_its_section_is_refused(start: float) -> None:
    films = {"a": plain(50), "b": plain(9, 1.0).with_start(start)}
    with pytest.raises(InputError, match=r"section 0\.8- shows b, which lasts from .* to .*; shor"):
        edit.cut(read_schedule("0-0.8: a\n0.8-: b", 2.0), films, 25)


def test_a_model_paints_the_part_it_is_there_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = noisy(tmp_path / "walk.mkv", 30)
    source = open_clip(path)
    models = tmp_path / "models" / "ink"
    models.mkdir(parents=True)
    save_network(TransformationNetwork(0.25), models / "step-000001.safetensors")
    checkpoint = Checkpoint(1, {"total": 1.0}, {}, 1.0)
    write_folder(models, ModelFolder(("ink.png",), ("walk",), {}, {}, (checkpoint,)))
    name = str(models / "step-000001.safetensors")
    schedule = read_schedule({"0-0.4": str(path), "0.4-": [name, f"{models}@1"]}, 1.2)
    films = edit.open_films(schedule, source, tmp_path / "painted", precision="float32")
    (painted,) = (tmp_path / "painted").glob("*.mp4")
    assert open_clip(painted).frames == 20
    assert films[name].start == pytest.approx(0.4)
    frame = from_array(list(read_frames(source))[15])
    model = StyleModel.load(name, precision="float32")
    film = edit.cut(schedule, films, 25)
    shown = list(edit.frames_of(film, 25))
    assert np.abs(shown[15].astype(int) - to_array(model(frame))).mean() < 3
    write_clip(film, tmp_path / "film.mkv")
    assert heard(tmp_path / "film.mkv")[1] == "pcm_f32le"
    monkeypatch.setattr(applying, "paint_film", None)
    edit.open_films(schedule, source, tmp_path / "painted", precision="float32")


def test_a_run_that_is_not_finished_is_named(tmp_path: Path) -> None:
    (tmp_path / "run" / "unfinished").mkdir(parents=True)
    with pytest.raises(InputError, match=r"run is no finished run; run it to its end, or name a"):
        as_clip(tmp_path / "run")


# --- words -------------------------------------------------------------------------------


def test_captions_stand_at_the_foot_in_their_sections_on_one_line() -> None:
    clip = plain(100, size=(160, 120))
    captions = read_captions({"0-0.4": "moss", "1-": "Eiche"}, 2.0)
    frames = list(edit.frames_of(edit.with_captions(clip, captions), 25))
    changed = [number for number, frame in enumerate(frames) if np.ptp(frame) > 20]
    assert changed == [*range(10), *range(25, 50)]
    rows = [np.flatnonzero(np.ptp(frames[number], axis=(1, 2)) > 20) for number in (0, 30)]
    assert rows[0].tolist() == rows[1].tolist()
    assert 60 < rows[0][0] < rows[0][-1] < 119
    columns = np.flatnonzero(np.ptp(frames[0], axis=(0, 2)) > 20)
    assert columns[0] + columns[-1] == pytest.approx(159, abs=2)


def test_a_long_caption_is_wrapped() -> None:
    clip = plain(100, size=(160, 120))
    short, long = (edit.caption(text, clip, 1) for text in ("ink", "a sketch " * 6))
    assert short.w < long.w <= 160
    assert long.h > 1.5 * short.h


def test_a_title_gives_way_to_the_film() -> None:
    clip = plain(200)
    frames = list(edit.frames_of(edit.with_title(clip, "A", 0.8), 25))
    corner = [int(frame[0, 0, 0]) for frame in frames]
    assert corner[:10] == [0] * 10
    assert np.all(np.diff(corner[10:20]) > 0)
    assert corner[20:] == values(clip)[20:]


# --- runs --------------------------------------------------------------------------------


def finished(folder: Path, *names: str) -> Path:
    run = start_run(folder)
    outputs = {name: film(run / name, 5) for name in names}
    (run / "strip.png").touch()
    outputs["strip"] = run / "strip.png"
    finish_run(run, outputs=outputs, figures={}, settings={}, weights={})
    return folder


def test_a_run_is_the_film_that_it_made(tmp_path: Path) -> None:
    run = finished(tmp_path / "one", "film.mp4")
    assert alike(
        list(edit.frames_of(as_clip(run), 25)), list(read_frames(open_clip(run / "film.mp4")))
    )
    with pytest.raises(InputError, match=r"a\.mp4, .*b\.mkv\); name a film"):
        as_clip(finished(tmp_path / "two", "a.mp4", "b.mkv"))
    with pytest.raises(InputError, match=r"there is none"):
        as_clip(finished(tmp_path / "none"))
    with pytest.raises(InputError, match="no such file"):
        as_clip(tmp_path / "nowhere.mp4")


def test_a_fade_between_two_films(tmp_path: Path) -> None:
    dark, light = painted(tmp_path / "dark", 10), painted(tmp_path / "light", 10)
    for number in range(10):
        save_image(from_array(grey(200)), frame_path(light.folder, number))
        save_image(from_array(grey(100)), frame_path(dark.folder, number))
    fade = moviepy.vfx.CrossFadeIn(0.2)
    later = as_clip(light).with_start(0.2).with_effects([fade])
    frames = list(edit.frames_of(moviepy.CompositeVideoClip([as_clip(dark), later]), 25))
    values = [int(frame.mean()) for frame in frames]
    assert len(values) == 15
    assert values == sorted(values)
    assert (values[0], values[-1]) == (100, 200)
    assert values[7] == pytest.approx(150, abs=2)
    write_film(frames, tmp_path / "cut.mp4", 25)
    assert open_clip(tmp_path / "cut.mp4").frames == 15


def test_a_card_is_as_large_as_the_film_and_its_text_in_the_middle(tmp_path: Path) -> None:
    clip = as_clip(film(tmp_path / "a.mp4", 5))
    card = edit.card("ooo", clip, 0.4)
    frames = list(edit.frames_of(card, 25))
    assert len(frames) == 10
    assert {frame.shape for frame in frames} == {(48, 64, 3)}
    rows, columns = np.nonzero(frames[0][..., 0] > 128)
    assert rows.mean() == pytest.approx(23.5, abs=2)
    assert columns.mean() == pytest.approx(31.5, abs=2)


def test_films_stand_side_by_side_with_captions_at_one_height(tmp_path: Path) -> None:
    films: dict[str, Any] = {
        name: as_clip(painted(tmp_path / name, 6)) for name in ("per-frame", "source")
    }
    films["style"] = grey(30, (90, 60))
    films["blended"] = as_clip(painted(tmp_path / "blended", 4))
    sheet = edit.side_by_side(films, 2)
    frames = list(edit.frames_of(sheet, 25))
    assert len(frames) == 4  # as the shortest
    for number, frame in enumerate(frames):
        assert frame[8 + 24, 8 + 32].tolist() == [7 * number] * 3
        assert frame[8 + 24, 8 + 64 + 8 + 32].tolist() == [7 * number] * 3
    # "source" is lower than "per-frame", but stands on the same line.
    below = frames[0][8 + 48 : 8 + 48 + 26] < 128
    left, right = below[:, : 8 + 64 + 4].any(axis=(1, 2)), below[:, 8 + 64 + 4 :].any(axis=(1, 2))
    o = np.flatnonzero(right)
    assert {o[0], o[-1]} <= set(np.flatnonzero(left))


def test_moviepy_is_loaded_by_those_who_edit_and_reads_no_env_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("WORKBENCH_TEST_SECRET=taken over\n")
    script = (
        "import os, sys, workbench, workbench.video\n"
        "print('moviepy' in sys.modules)\n"
        "workbench.video.as_clip\n"
        "print('moviepy' in sys.modules, os.environ.get('WORKBENCH_TEST_SECRET'))\n"
        "print(os.environ.get('PYTHON_DOTENV_DISABLED'))"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "True", "None", "None"], done.stderr
