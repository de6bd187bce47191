"""Sound made by code, and films that have it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from workbench.images import Frame
from workbench.video.clips import Clip, write_film


@dataclass(frozen=True, eq=False)
class Sound:
    """Sound made by code."""

    samples: npt.NDArray[np.float32]  # (1 or 2 channels, n), in [-1, 1]
    rate: int  # samples a second

    def save(self, path: Path) -> Clip:
        """Write it as a WAV file, and give what `clips.write_film` takes for its sound."""
        layout = "mono" if len(self.samples) == 1 else "stereo"
        with av.open(str(path), "w") as file:
            track = file.add_stream("pcm_f32le", rate=self.rate, layout=layout)
            packed = np.ascontiguousarray(self.samples.T.reshape(1, -1))
            played = av.AudioFrame.from_ndarray(packed, format="flt", layout=layout)
            played.rate, played.pts, played.time_base = self.rate, 0, Fraction(1, self.rate)
            file.mux(track.encode(played))
            file.mux(track.encode())
        return Clip(path, (2, 2), Fraction(25), 1, Fraction(0), 1, sound=True)

    def write_film(self, frames: Iterable[Frame], path: Path, fps: Fraction | float) -> None:
        """Write frames as a film with this sound."""
        with tempfile.TemporaryDirectory() as folder:
            write_film(frames, path, fps, sound=self.save(Path(folder, "sound.wav")))
