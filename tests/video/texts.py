"""Clips with subtitles and chapters, and what there is of them in a film."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.subtitles.subtitle import SubtitleSet

from workbench.images import Frame

PICTURES = [np.full((48, 64, 3), 9 * index, np.uint8) for index in range(20)]
CUES = [(0.2, 0.9, "one"), (1.2, 1.8, "two")]  # from, to (s), text
CHAPTERS = [(0.0, 0.5, "dawn"), (0.5, 2.0, "day")]


def with_subtitles(path: Path, codec: str, pictures: Sequence[Frame] = PICTURES) -> Path:
    """Write two seconds of pictures with subtitles in German, and chapters."""
    milli = Fraction(1, 1000)
    with av.open(str(path), "w") as film:
        video = film.add_stream("libx264", rate=10)
        video.height, video.width, video.pix_fmt = 48, 64, "yuv420p"
        track = film.add_stream(codec)
        track.metadata["language"] = "ger"
        track.codec_context.subtitle_header = (
            b"[Script Info]\r\nScriptType: v4.00+\r\n\r\n[Events]\r\nFormat: Layer, Start, End,"
            b" Style, Name, MarginL, MarginR, MarginV, Effect, Text\r\n"
        )
        film.set_chapters(
            [
                {
                    "id": number,
                    "start": round(start * 1000),
                    "end": round(end * 1000),
                    "time_base": milli,
                    "metadata": {"title": title},
                }
                for number, (start, end, title) in enumerate(CHAPTERS)
            ]
        )
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 10)
            film.mux(video.encode(frame))
        film.mux(video.encode())
        for number, (start, end, text) in enumerate(CUES):
            line = f"{number},0,Default,,0,0,0,,{text}".encode()
            shown = SubtitleSet.create(line, 0, round((end - start) * 1000))
            packet = track.codec_context.encode_subtitle(shown)
            packet.stream, packet.time_base = track, milli
            packet.pts = packet.dts = round(start * 1000)
            packet.duration = round((end - start) * 1000)
            film.mux(packet)
    return path


def subtitles(path: Path) -> list[tuple[float, float, str]]:
    with av.open(str(path)) as film:
        (stream,) = film.streams.subtitles
        assert stream.language == "ger"
        cues = []
        for packet in film.demux(stream):
            if packet.size and (shown := stream.decode2(packet)):
                start = float(packet.pts * packet.time_base)
                text = re.sub(r"{.*?}", "", shown[0].dialogue.decode())
                cues.append((start, start + float(packet.duration * packet.time_base), text))
    return [(round(start, 2), round(end, 2), text) for start, end, text in cues]


def chapters(path: Path) -> list[tuple[float, float, str]]:
    with av.open(str(path)) as film:
        return [
            (
                round(float(each["start"] * each["time_base"]), 2),
                round(float(each["end"] * each["time_base"]), 2),
                each["metadata"]["title"],
            )
            for each in film.chapters()
        ]
