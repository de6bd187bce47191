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
    origins = _origins(source, source_before)
    then, moved = (
        cv2.remap(picture, *origins, how, borderMode=cv2.BORDER_REPLICATE)
        for picture, how in ((source_before, cv2.INTER_LINEAR), (before, cv2.INTER_CUBIC))
    )
    change = cv2.subtract(source, then, dtype=cv2.CV_32F)
    square = np.einsum("hwc,hwc->hw", change, change)
    weight = s * WEIGHT * np.exp(square / (-2 * (255 * _ALIKE) ** 2))
    for goals, side in zip(origins, source.shape[1::-1], strict=True):
        weight[(goals < 0) | (goals > side - 1)] = 0  # was not in the picture
    weight = cv2.merge([weight] * 3)
    wide = painted.astype(np.float32)
    drawn = weight * cv2.subtract(moved, painted, dtype=cv2.CV_32F)
    weight += 4
    around = cv2.filter2D(drawn / weight, -1, _NEIGHBOURS, borderType=cv2.BORDER_REPLICATE)
    steady = wide + (around + drawn) / weight
    fine = _fine(steady)
    lost = cv2.norm(_fine(wide)) / max(cv2.norm(fine), 1e-6)
    sharp = cv2.addWeighted(steady, 1, fine, max(lost - 1, 0), 0, dtype=cv2.CV_8U)  # rounds, clips
    return np.asarray(sharp, dtype=np.uint8)


def _fine(picture: Floats) -> Floats:
    """The finest strokes alone."""
    return np.asarray(cv2.subtract(picture, cv2.GaussianBlur(picture, (3, 3), 0)), dtype=np.float32)


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
    x *= width / small[0]
    y *= height / small[1]
    x += np.arange(width, dtype=np.float32)
    y += np.arange(height, dtype=np.float32)[:, None]
    return x, y
