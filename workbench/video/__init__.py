"""Clips: frames and sound, optical flow, five ways to paint a film, and what tells them apart.

>>> import workbench
>>> from workbench import video
>>> style = workbench.load_image("sketch.jpg")
>>> result = video.stylize_clip("interview.mp4", [style], "runs/interview", mode="temporal")
"""

from typing import Any

from workbench.video.clips import Clip, open_clip, read_frames, write_film
from workbench.video.flow import flow, flow_to_color, occlusion, warp
from workbench.video.masks import open_masks
from workbench.video.metrics import warping_error
from workbench.video.modes import paint_clip, stylize_clip

__all__ = [
    "Clip",
    "as_clip",
    "flow",
    "flow_to_color",
    "occlusion",
    "open_clip",
    "open_masks",
    "paint_clip",
    "read_frames",
    "stylize_clip",
    "warp",
    "warping_error",
    "write_clip",
    "write_film",
]


def __getattr__(name: str) -> Any:
    """Load moviepy, and what goes with it, only for those who edit films."""
    if name not in ("as_clip", "write_clip"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from workbench.video import edit

    return getattr(edit, name)
