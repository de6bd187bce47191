"""Paint the sample pictures and film the sample clip into `workbench/data`: about 10 s.

    python experiments/samples/make.py

Each picture and the clip come out the same every time; the clip's true flow is in `sample_clip`.
"""

from __future__ import annotations

from pathlib import Path

import hatching
import mosaic
import swirls
from PIL import Image
from sample_clip import clip

DATA = Path(__file__).parents[2] / "workbench/data"

if __name__ == "__main__":
    for painter in (swirls, hatching, mosaic):
        picture = Image.fromarray(painter.paint())
        picture.save(DATA / f"{painter.__name__}.webp", lossless=True, quality=100, method=6)
    film = clip()
    film.sound.write_film(film.frames, DATA / "sample_clip.mp4", film.fps)
