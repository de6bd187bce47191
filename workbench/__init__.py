"""A Jupyter workbench for neural style transfer.

>>> import workbench
>>> photo, style = workbench.load_image("photo.jpg"), workbench.load_image("style.jpg")
>>> for iterate in workbench.optimize(photo, [style], workbench.Settings(size=384)):
...     print(iterate.step, iterate.losses.total)
>>> workbench.save_image(iterate.image, "painted.png")
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# OpenMP's threads would spin between two convolutions of torch, and take the cores from those that
# NNPACK has for its own. Read when torch is loaded.
if "torch" not in sys.modules:
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

if TYPE_CHECKING:
    from workbench import fast, video
    from workbench.descent import Iterate, measure, optimize, stylize
    from workbench.errors import WorkbenchError
    from workbench.images import load_image, save_image
    from workbench.progress import Recorder
    from workbench.settings import Settings

# Loaded when first asked for: torch takes seconds, and `workbench --help` does not need it.
_HOMES = {
    "WorkbenchError": "errors",
    "load_image": "images",
    "save_image": "images",
    "Settings": "settings",
    "Iterate": "descent",
    "measure": "descent",
    "optimize": "descent",
    "stylize": "descent",
    "Recorder": "progress",
}

__all__ = [
    "Iterate",
    "Recorder",
    "Settings",
    "WorkbenchError",
    "fast",
    "load_image",
    "measure",
    "optimize",
    "save_image",
    "stylize",
    "video",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"workbench.{_HOMES[name]}"), name)
    if name in ("fast", "video"):
        return importlib.import_module(f"workbench.{name}")
    raise AttributeError(f"module 'workbench' has no attribute {name!r}")
