"""Where one scene ends and the next begins."""

from __future__ import annotations

import cv2
import numpy as np

from workbench.images import Frame

# Two frames with a colour distance above the first and a likeness below the second are of two
# scenes. Between real scenes they were over 0.3 and under 0.5, within them under 0.15 or over 0.5.
NEW_COLOURS, SAME_SHAPES = 0.25, 0.75


def is_cut(before: Frame, after: Frame) -> bool:
    """Whether two neighbouring frames `(H, W, 3)` belong to different scenes.

    Both must be so: other colours, wherever they are in the picture (motion, however fast,
    keeps them), and other shapes (a flash or a fade keeps them).
    """
    return _colour_distance(before, after) > NEW_COLOURS and _likeness(before, after) < SAME_SHAPES


def _colour_distance(a: Frame, b: Frame) -> float:
    """Bhattacharyya distance, 0 to 1, between the colour histograms in CIE Lab."""
    histograms = []
    for frame in (a, b):
        small = cv2.resize(frame, (64, 64), interpolation=cv2.INTER_AREA)
        lab = cv2.cvtColor(small, cv2.COLOR_RGB2LAB)
        everything = [0, 256, 0, 256, 0, 256]
        histogram = cv2.calcHist([lab], [0, 1, 2], None, [8, 24, 24], everything).reshape(8, -1)
        smooth = cv2.GaussianBlur(histogram, (3, 3), 0)  # or a little more light would matter
        histograms.append(smooth / smooth.sum())
    return cv2.compareHist(histograms[0], histograms[1], cv2.HISTCMP_BHATTACHARYYA)


def _likeness(a: Frame, b: Frame) -> float:
    """Correlation, -1 to 1, of two frames at 16 x 16 pixels; 0 if one of them is empty."""
    shapes = []
    for frame in (a, b):
        small = cv2.resize(frame, (16, 16), interpolation=cv2.INTER_AREA).astype(np.float64)
        shapes.append((small - small.mean((0, 1))).ravel())
    lengths = np.linalg.norm(shapes[0]) * np.linalg.norm(shapes[1])
    return float(shapes[0] @ shapes[1] / lengths) if lengths > 0 else 0.0
