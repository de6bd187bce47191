"""HDR and BT.2020 frames -> what a common screen shows: SDR, BT.709."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PQ, HLG = 16, 18  # transfer curves, by their codes in H.273
_PEAK = 1000.0  # nits; of the screen that a clip was mastered on, as BT.2100 has it for HLG
_WHITE = 203.0  # nits; white paper in HDR (BT.2408), and the brightest that SDR has
_TO_BT709 = (  # from BT.2020, linear light (BT.2087)
    (1.6605, -0.5876, -0.0728),
    (-0.1246, 1.1329, -0.0083),
    (-0.0182, -0.1006, 1.1187),
)
_M1, _M2, _C1, _C2, _C3 = 0.1593017578125, 78.84375, 0.8359375, 18.8515625, 18.6875  # BT.2100
_A, _B, _C = 0.17883277, 0.28466892, 0.55991073


def to_sdr(codes: NDArray[np.uint16], transfer: int) -> NDArray[np.uint8]:
    """Bring R'G'B' of BT.2020 to SDR.

    Light is worked out by BT.2100 (HLG: for a screen of 1000 nits). What BT.709 has no
    colour for is cut off. The brightest of red, green and blue is brought from 1000 to 203 nits
    by the curve of BT.2390 (section 5.4), and the other two by the same factor, so that hues
    stay. Then comes the gamma of BT.1886.

    Parameters
    ----------
    codes
        `(H, W, 3)`, full range in 0..65535.
    transfer
        `PQ`, `HLG`, or another code of H.273: SDR already, where only the colours are changed.
    """
    signal = torch.from_numpy(codes.astype(np.float32) / 65535)
    light = {PQ: _pq_light, HLG: _hlg_light}.get(transfer, _sdr_light)(signal)
    light = (light @ torch.tensor(_TO_BT709).T).clamp(min=0)
    if transfer in (PQ, HLG):
        brightest = light.amax(-1, keepdim=True).clamp(1e-6, None)
        light *= _tone(brightest.clamp(max=_PEAK)) / brightest
    shown = (light / _WHITE).clamp(0, 1) ** (1 / 2.4)
    return (255 * shown).round().to(torch.uint8).numpy()


def _tone(nits: Tensor) -> Tensor:
    """The curve of BT.2390, from a peak of 1000 nits to one of 203, with black at 0."""
    peak, most = _pq_signal(torch.tensor([_PEAK, _WHITE]))
    most = most / peak
    knee = 1.5 * most - 0.5
    signal = _pq_signal(nits) / peak
    t = (signal - knee).clamp(min=0) / (1 - knee)
    bent = torch.lerp(knee, most, 3 * t**2 - 2 * t**3) + t * (1 - t) ** 2 * (1 - knee)
    return _pq_light(torch.where(signal < knee, signal, bent) * peak)


def _pq_light(signal: Tensor) -> Tensor:
    power = signal ** (1 / _M2)
    return 10_000 * ((power - _C1).clamp(min=0) / (_C2 - _C3 * power)) ** (1 / _M1)


def _pq_signal(nits: Tensor) -> Tensor:
    power = (nits / 10_000) ** _M1
    return ((_C1 + _C2 * power) / (1 + _C3 * power)) ** _M2


def _hlg_light(signal: Tensor) -> Tensor:
    scene = torch.where(signal <= 0.5, signal**2 / 3, (((signal - _C) / _A).exp() + _B) / 12)
    luminance = scene @ torch.tensor([0.2627, 0.6780, 0.0593])
    return _PEAK * luminance[..., None] ** 0.2 * scene


def _sdr_light(signal: Tensor) -> Tensor:
    return _WHITE * signal**2.4
