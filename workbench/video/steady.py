"""A film without its flicker, whatever painted it: each frame is drawn to the one before it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import cv2
import numpy as np
import numpy.typing as npt

from workbench.errors import InputError
from workbench.images import Frame, fit
from workbench.video.cuts import is_cut

WEIGHT = 8.0  # of the frame before at strength 1, beside that of the painting's own edges
_ALIKE = 0.05  # difference of colours in the source from which on nothing is taken over
_SWEEPS = 2
_LEAST = 16  # px; shorter sides are too short for the search, and what they show is held still
_FLOW_SIDE = 640  # px; longest side of the pictures that motion is searched in
_NEIGHBOURS = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], dtype=np.float32)

Floats = npt.NDArray[np.float32]


def check_steady(strength: float) -> None:
    """Raise `InputError` unless it is a strength for `steadied`."""
    if not (math.isfinite(strength) and strength >= 0):
        raise InputError(f"steady = {strength}: give 0 (off), or a strength such as 1.")


def steadied(
    frames: Iterable[tuple[Frame, Frame]],
    strength: float = 1.0,
    *,
    before: tuple[Frame, Frame] | None = None,
) -> Iterator[Frame]:
    """Take the flicker out of a painted film, frame by frame.

    Bonneel, Tompkin, Sunkavalli, Sun, Paris and Pfister 2015 ("Blind video temporal consistency",
    doi 10.1145/2816795.2818107), equation 3: of the painting P of V, the steady O solves

        (w - Laplacian) O_t = -Laplacian P_t + w warp(O_t-1)
        w = strength * WEIGHT * exp(-|V_t - warp(V_t-1)|^2 / (2 * 0.05^2))

    so that it has the edges of P and the colours of what was there before, where the source shows
    the same. Differs in that what averaging blurs is sharpened again, up to the contrast that the
    painting's finest strokes have; and as w outweighs the Laplacian, two sweeps of Jacobi's
    method, from P, suffice. A cut begins anew. One frame is held.

    Parameters
    ----------
    frames
        Of the painting and of its source, `(H, W, 3)` in 0..255 each.
    strength
        Larger is stiller and softer, and what moves leaves more behind; 0: as painted.
    before
        A steadied frame and its source, if the film goes on from there.
    """
    for painted, source in frames:
        if strength > 0 and before is not None and not is_cut(before[1], source):
            painted = _drawn(painted, source, *before, strength)
        before = painted, source
        yield painted


def _drawn(painted: Frame, source: Frame, before: Frame, source_before: Frame, s: float) -> Frame:
    """Draw a painted frame to the one before it."""
    x, y = _origins(source, source_before)
    then, moved = (
        cv2.remap(picture, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        for picture in (source_before, before)
    )
    change = cv2.absdiff(source, then).astype(np.float32) / 255
    square = cv2.transform(change * change, np.ones((1, 3), np.float32))
    weight = (s * WEIGHT * np.exp(square / (-2 * _ALIKE**2)))[..., None]
    wide = painted.astype(np.float32)
    drawn = weight * (moved - wide)
    correction = drawn / (4 + weight)
    for _ in range(_SWEEPS - 1):
        around = cv2.filter2D(correction, -1, _NEIGHBOURS, borderType=cv2.BORDER_REPLICATE)
        correction = (around + drawn) / (4 + weight)
    steady = wide + correction
    fine = _fine(steady)
    lost = np.linalg.norm(_fine(wide)) / max(float(np.linalg.norm(fine)), 1e-6)
    sharp = steady + max(float(lost) - 1, 0) * fine
    return np.asarray(np.rint(sharp).clip(0, 255), dtype=np.uint8)


def _fine(picture: Floats) -> Floats:
    """The finest strokes alone."""
    return np.asarray(picture - cv2.GaussianBlur(picture, (3, 3), 0), dtype=np.float32)


def _origins(current: Frame, earlier: Frame) -> tuple[Floats, Floats]:
    """Where in the earlier picture each pixel of the current one lies: x and y, `(H, W)` each.

    By a faster and coarser search than `flow.flow`; where it errs, the colours say so.
    """
    height, width = current.shape[:2]
    small = fit((height, width), min(_FLOW_SIDE, max(height, width)))[::-1]
    now, then = (
        cv2.resize(cv2.cvtColor(each, cv2.COLOR_RGB2GRAY), small, interpolation=cv2.INTER_AREA)
        for each in (current, earlier)
    )
    found = np.zeros((*now.shape, 2), np.float32)
    if min(small) >= _LEAST:
        search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        found = search.calc(now, then, found)
    x, y = cv2.split(cv2.resize(found, (width, height)))
    rows, columns = np.ogrid[:height, :width]
    right, down = width / small[0], height / small[1]
    return (columns + x * right).astype(np.float32), (rows + y * down).astype(np.float32)
