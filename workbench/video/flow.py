"""Optical flow between two frames: where it leads, where it cannot be trusted, its colours.

Pictures are `(1, 3, H, W)`, float32, sRGB in [0, 1]. A flow is `(1, 2, H, W)`, float32, in pixels.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pickle import UnpicklingError
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from workbench.devices import choose_device
from workbench.errors import InputError, WeightsError
from workbench.images import Frame, check_image, fit, resize, to_array
from workbench.settings import FLOW_METHODS
from workbench.weights import cache_folder, socket_timeout

_NARROW = 5  # px
_LIKENESS_SIDE, _SQUARE = 256, 8  # px; of the pictures that are searched, and of what is looked for
_ALIKE = 15.0**2  # mean square difference at which squares look alike

Field = npt.NDArray[np.float32]
"""A flow as OpenCV has it: `(H, W, 2)`."""


def flow(
    a: Tensor, b: Tensor, *, method: str = "dis", max_side: int = 512, device: str | None = None
) -> Tensor:
    """Find where each pixel of `a` lies in `b`: `a(x)` ~ `b(x + flow(x))`.

    Parameters
    ----------
    a, b
        `(1, 3, H, W)`, sRGB in [0, 1], of the same size.
    method
        "dis": dense inverse search (Kroeger et al. 2016, arXiv:1603.03590), then every pixel may
        take over a neighbour's vector that fits the pictures better, which sharpens the edges of
        what moves. "farneback": polynomial expansion (Farnebäck 2003), faster and coarser.
        "raft": the network of Teed and Deng 2020 (arXiv:2003.12039), the best and by far the
        slowest on a CPU; its weights (20 MB) are downloaded once.
    max_side
        Longest side in pixels of the search; smaller is faster and loses small things that move.
    device
        Where RAFT runs, as in `Settings`; the others run on the CPU. None: where `a` is.

    Returns
    -------
    Tensor
        `(1, 2, H, W)`, float32, in pixels, on the grid and the device of `a`; channel 0 = x to
        the right, channel 1 = y down.

    Raises
    ------
    InputError
        If the pictures are none or differ in size, or for an unknown method or `max_side` < 1.
    WeightsError
        If RAFT's weights cannot be had.
    """
    check_image(a, "a")
    check_image(b, "b")
    if a.shape != b.shape:
        raise InputError(f"b: expected the size of a, {tuple(a.shape)}, got {tuple(b.shape)}.")
    if method not in FLOW_METHODS:
        raise InputError(f"method = {method!r}: expected one of {', '.join(FLOW_METHODS)}.")
    if max_side < 1:
        raise InputError(f"max_side = {max_side}: expected at least 1 pixel.")
    height, width = int(a.shape[2]), int(a.shape[3])
    small = fit((height, width), min(max_side, max(height, width)))
    first, second = (resize(image.detach().float(), small) for image in (a, b))
    if method == "raft":
        where = a.device if device is None else choose_device(device)
        found = _raft_flow(first.to(where), second.to(where)).to(a.device)
    else:
        search = _dis_flow if method == "dis" else _farneback_flow
        # DIS needs a dozen pixels.
        field = search(*(to_array(_pad(image, least=16)) for image in (first, second)))
        found = torch.from_numpy(field.transpose(2, 0, 1).copy())[None].to(a.device)
    found = found[..., : small[0], : small[1]]
    if small != (height, width):
        found = F.interpolate(found, (height, width), mode="bilinear")
        found = found * found.new_tensor([width / small[1], height / small[0]]).view(1, 2, 1, 1)
    return found.contiguous()


def warp(image: Tensor, flow: Tensor, *, mode: str = "lanczos") -> Tensor:
    """Fetch every pixel from where its flow leads: `out(x) = image(x + flow(x))`.

    Beyond the border the outermost pixels go on.

    Parameters
    ----------
    image
        `(1, C, H, W)`, any number of channels.
    flow
        `(1, 2, H, W)`: `flow(current, previous)` brings the previous frame to the current one.
    mode
        How to sample between pixels: "lanczos", which keeps the picture sharp, and is clipped to
        the range of `image`; or "bilinear", which is softer, and has a gradient.
    """
    if image.dim() != 4 or image.shape[0] != 1 or not image.is_floating_point():
        raise InputError(
            f"image: expected a floating-point tensor (1, C, H, W), got {tuple(image.shape)}."
        )
    _check_flow(flow, "flow", image)
    if mode == "bilinear":
        return _sample(image, flow)
    x, y = (goals[0].cpu().numpy().astype(np.float32) for goals in _goals(flow))
    warped = [
        cv2.remap(channel, x, y, cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REPLICATE)
        for channel in image[0].float().cpu().numpy()
    ]
    return torch.from_numpy(np.stack(warped)[None]).to(image).clamp(image.min(), image.max())


def occlusion(forward: Tensor, backward: Tensor) -> Tensor:
    """Find where the current frame shows what the previous one did not, `(1, 1, H, W)`, bool.

    True where the two flows contradict each other (disocclusion), where the backward flow
    changes abruptly (motion boundary), and where it leads out of the picture. With the forward
    flow w, the backward flow w^ and w~(x) = w(x + w^(x)), section 4.2 of Ruder,
    Dosovitskiy, Brox 2016 (arXiv:1604.08610), after Sundaram et al. 2010, says

        |w~ + w^|² > 0.01 (|w~|² + |w^|²) + 0.5
        |grad u^|² + |grad v^|² > 0.01 |w^|² + 0.002

    Parameters
    ----------
    forward, backward
        `(1, 2, H, W)`: `flow(previous, current)` and `flow(current, previous)`.
    """
    _check_flow(backward, "backward")
    _check_flow(forward, "forward", backward)
    there = _sample(forward, backward)
    back_length = _square_length(backward)
    apart = _square_length(there + backward)
    disoccluded = apart > 0.01 * (_square_length(there) + back_length) + 0.5
    # Half the difference of the two neighbours; at the border, of one and the pixel itself.
    around = F.pad(backward, (1, 1, 1, 1), mode="replicate")
    down = (around[..., 2:, 1:-1] - around[..., :-2, 1:-1]) / 2
    right = (around[..., 1:-1, 2:] - around[..., 1:-1, :-2]) / 2
    edge = _square_length(down) + _square_length(right)
    return disoccluded | (edge > 0.01 * back_length + 0.002) | leads_outside(backward)


@dataclass(frozen=True, eq=False)
class Motion:
    """How an earlier picture gets to where things are now."""

    flow: Tensor  # (1, 2, H, W), in pixels, from the current picture to the earlier one
    visible: Tensor  # (1, 1, H, W), float32; 1 where the earlier one shows what is here, else 0
    likenesses: tuple[tuple[Tensor, Tensor], ...] = ()  # shares (1, 1, H, W) of other flows

    def warp(self, image: Tensor, *, mode: str = "lanczos") -> Tensor:
        """Bring a picture that lies as the earlier one does to where things are now."""
        moved = warp(image, self.flow, mode=mode)
        others = (share * (warp(image, flow, mode=mode) - moved) for share, flow in self.likenesses)
        return sum(others, moved)

    def then(self, further: Motion) -> Motion:
        """Follow a further motion from where this one leads to."""
        on, seen = _sample(further.flow, self.flow), _sample(further.visible, self.flow)
        return Motion(self.flow + on, self.visible * (seen > 0.5))

    def ignoring_edges(self) -> Motion:
        """The same motion, with what is hidden in places of `_NARROW` pixels or more alone.

        Narrower ones are doubtful edges of things that move rather than something new.
        """
        wide = -F.max_pool2d(self.visible - 1, _NARROW, stride=1, padding=_NARROW // 2)
        new = F.max_pool2d(wide, _NARROW, stride=1, padding=_NARROW // 2)
        return replace(self, visible=1 - new)


def find_motion(
    current: Tensor, earlier: Tensor, method: str = "dis", *, device: str | None = None
) -> Motion:
    """Find flow and occlusion between two pictures; `method` and `device` as for `flow`."""
    return find_motions(current, earlier, method, device=device)[0]


def find_motions(
    a: Tensor, b: Tensor, method: str = "dis", *, device: str | None = None
) -> tuple[Motion, Motion]:
    """Find `find_motion` of two pictures, and that the other way round, from the same two flows."""
    there, back = (flow(*pair, method=method, device=device) for pair in ((a, b), (b, a)))
    hidden = occlusion(back, there), occlusion(there, back)
    return Motion(there, 1 - hidden[0].float()), Motion(back, 1 - hidden[1].float())


def with_likenesses(motion: Motion, current: Tensor, earlier: Tensor) -> Motion:
    """Let what comes into view be fetched from where the earlier picture looks most like it.

    A painting that the motion warps then has strokes there, and of such a thing, as in image
    analogies (Hertzmann et al. 2001), square by square, and in one piece with neighbours where that
    looks alike; but for narrow edges. Squares give way to each other from middle to middle, and to
    what was seen before within two pixels: no seams are seen, and the rest stays sharp.
    """
    new = motion.ignoring_edges().visible == 0
    if not new.any():
        return motion
    height, width = map(int, new.shape[2:])
    small = fit((height, width), min(_LIKENESS_SIDE, max(height, width)))
    margin = (_SQUARE // 2,) * 4
    here, there = (
        cv2.copyMakeBorder(to_array(resize(picture, small)), *margin, cv2.BORDER_REPLICATE)
        for picture in (current, earlier)
    )
    seen = F.adaptive_max_pool2d(new.float(), small)
    wanted = F.max_pool2d(seen, _SQUARE, ceil_mode=True)[0, 0]
    vectors = torch.zeros(2, *wanted.shape)
    for row, column in wanted.nonzero().tolist():
        top, left = row * _SQUARE, column * _SQUARE
        square = here[top : top + 2 * _SQUARE, left : left + 2 * _SQUARE]
        unlike = cv2.matchTemplate(there, square, cv2.TM_SQDIFF)
        least, _, (x, y), _ = cv2.minMaxLoc(unlike)
        for beside in ((max(row - 1, 0), column), (row, max(column - 1, 0))):
            right, down = vectors[:, *beside].int().tolist()  # as its neighbour, if that does
            i, j = left + right, top + down
            inside = 0 <= j < unlike.shape[0] and 0 <= i < unlike.shape[1]
            if (right or down) and inside and unlike[j, i] <= 2 * least + _ALIKE * square.size:
                x, y = i, j
        vectors[:, row, column] = torch.tensor([x - left, y - top])
    vectors *= torch.tensor([width / small[1], height / small[0]]).view(2, 1, 1)
    squares = [
        (wanted[rows][:, columns] * down[:, None] * right, vectors[None, :, rows][..., columns])
        for (rows, down), (columns, right) in product(
            _of_two(height, small[0] / _SQUARE), _of_two(width, small[1] / _SQUARE)
        )
    ]
    covered = torch.stack([share for share, _ in squares]).sum(dim=0).clamp(min=1e-6)
    around = F.avg_pool2d(new.float(), _NARROW, stride=1, padding=_NARROW // 2)
    shown = torch.where(new, 1.0, around) / covered
    return replace(motion, likenesses=tuple((share * shown, flow) for share, flow in squares))


def _of_two(length: int, count: float) -> Iterator[tuple[Tensor, Tensor]]:
    """The two squares, of `count` in a row of pixels, that each lies between, and their shares."""
    at = (torch.arange(length) + 0.5) * count / length - 0.5
    for square in (at.floor(), at.floor() + 1):
        yield square.long().clamp(0, math.ceil(count) - 1), 1 - (at - square).abs()


def flow_to_color(flow: Tensor, *, max_flow: float | None = None) -> Frame:
    """Paint a flow: the hue is its direction, the saturation its length, white is no motion.

    Red leads to the right, and round the colour wheel: yellow-green down, cyan left, violet up.

    Parameters
    ----------
    flow
        `(1, 2, H, W)`.
    max_flow
        Length in pixels that is painted in full colour, like all longer ones; pictures with the
        same one compare. By default the longest in this flow, but for the longest hundredth.
    """
    _check_flow(flow, "flow")
    if max_flow is not None and not max_flow > 0:
        raise InputError(f"max_flow = {max_flow}: expected a length above 0 pixels.")
    x, y = flow[0].detach().float().cpu().numpy()
    length = np.hypot(x, y)
    if max_flow is None:
        max_flow = float(np.quantile(length, 0.99))
    hue = np.rad2deg(np.arctan2(y, x)) % 360
    saturation = np.clip(length / max(max_flow, 1e-6), 0, 1)
    colours = cv2.cvtColor(np.dstack([hue, saturation, np.ones_like(hue)]), cv2.COLOR_HSV2RGB)
    return np.rint(colours * 255).astype(np.uint8)


def _check_flow(flow: Tensor, name: str, like: Tensor | None = None) -> None:
    """Raise `InputError` unless it is a flow of the size of `like`."""
    size = flow.shape[2:] if like is None else like.shape[2:]
    if flow.dim() != 4 or flow.shape != (1, 2, *size) or not flow.is_floating_point():
        wanted = "(1, 2, H, W)" if like is None else str((1, 2, *size))
        raise InputError(
            f"{name}: expected a floating-point tensor {wanted}, got {flow.dtype}"
            f" {tuple(flow.shape)}."
        )


def _pad(image: Tensor, *, least: int, multiple: int = 1) -> Tensor:
    """Repeat the last column and row until each side is a multiple and not less than `least`."""
    height, width = (
        max(least, math.ceil(side / multiple) * multiple) for side in map(int, image.shape[2:])
    )
    return F.pad(image, (0, width - image.shape[3], 0, height - image.shape[2]), mode="replicate")


def _dis_flow(a: Frame, b: Frame) -> Field:
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    search.setFinestScale(0)  # the preset stops at half size, too coarse for occlusions
    search.setVariationalRefinementIterations(5)
    search.setVariationalRefinementAlpha(40.0)  # twice as smooth as the preset: sharpened below
    field = search.calc(_grey(a), _grey(b), None)  # type: ignore[call-overload]
    for step in (4, 2, 1):
        field = _take_over(a, b, field, step)
    channels = (cv2.medianBlur(np.ascontiguousarray(part), 5) for part in np.moveaxis(field, 2, 0))
    return np.dstack(list(channels)).astype(np.float32, copy=False)


def _take_over(a: Frame, b: Frame, field: Field, step: int) -> Field:
    """Let each pixel take the vector of a neighbour `step` pixels away that matches better.

    A smooth flow blurs the edge of what moves; beside the edge one of the neighbours has the
    right vector. The propagation of PatchMatch (Barnes et al. 2009), with colour differences.
    """
    height, width = field.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)

    def mismatch(vectors: Field) -> Field:
        at = x + vectors[..., 0], y + vectors[..., 1]
        there = cv2.remap(b, *at, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        total = cv2.transform(cv2.absdiff(a, there).astype(np.float32), np.ones((1, 3)))
        return np.asarray(cv2.blur(total, (3, 3)), dtype=np.float32)

    best, least = field.copy(), mismatch(field)
    around = np.pad(field, ((step, step), (step, step), (0, 0)), mode="edge")
    for down, right in product((0, step, 2 * step), repeat=2):
        candidate = around[down : down + height, right : right + width]
        cost = mismatch(candidate)
        better = cost < least
        best[better], least[better] = candidate[better], cost[better]
    return best


def _farneback_flow(a: Frame, b: Frame) -> Field:
    sizes = {"pyr_scale": 0.5, "levels": 5, "winsize": 15, "poly_n": 5, "poly_sigma": 1.2}
    field = cv2.calcOpticalFlowFarneback(  # type: ignore[call-overload]
        _grey(a), _grey(b), None, **sizes, iterations=3, flags=0
    )
    return np.asarray(field, dtype=np.float32)


def _grey(picture: Frame) -> npt.NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), dtype=np.uint8)


def _raft_flow(a: Tensor, b: Tensor) -> Tensor:
    # Its coarsest correlations, at 1/64 of the size, need two pixels: 128 in the picture.
    padded = (2 * _pad(image, least=128, multiple=8) - 1 for image in (a, b))
    with torch.no_grad():
        found: Tensor = _raft(a.device)(*padded)[-1]
    return found


@functools.cache
def _raft(device: torch.device) -> Any:
    from torchvision.models.optical_flow import Raft_Large_Weights, raft_large

    weights = Raft_Large_Weights.DEFAULT
    network = raft_large()
    try:
        with socket_timeout(20):
            # weights_only: torchvision's files are pickles; this reads tensors and nothing else.
            state = weights.get_state_dict(
                model_dir=str(cache_folder()), progress=True, check_hash=True, weights_only=True
            )
        network.load_state_dict(state)
    except (OSError, RuntimeError, EOFError, UnpicklingError) as error:
        raise WeightsError(
            f"RAFT's weights cannot be had ({error}); choose the flow method dis, or put"
            f" {weights.url} into {cache_folder()}."
        ) from error
    return network.to(device).eval().requires_grad_(False)


def _sample(image: Tensor, flow: Tensor) -> Tensor:
    """`image(x + flow(x))`, bilinear; the border goes on outside."""
    height, width = image.shape[2:]
    x, y = _goals(flow.to(image))
    # grid_sample counts from -1 to 1 between the outer edges of the outermost pixels.
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
    return F.grid_sample(image, grid, padding_mode="border", align_corners=False)


def _square_length(vectors: Tensor) -> Tensor:
    return vectors.square().sum(dim=1, keepdim=True)


def leads_outside(flow: Tensor) -> Tensor:
    """Where a flow `(1, 2, H, W)` leads beyond the outer edge of the picture: `(1, 1, H, W)`."""
    height, width = flow.shape[2:]
    x, y = _goals(flow)
    outside = (x < -0.5) | (y < -0.5) | (x > width - 0.5) | (y > height - 0.5)
    return outside[:, None]


def _goals(flow: Tensor) -> tuple[Tensor, Tensor]:
    """Where each pixel's flow leads: x and y, `(1, H, W)` each."""
    height, width = flow.shape[2:]
    x = torch.arange(width, device=flow.device)
    y = torch.arange(height, device=flow.device).view(-1, 1)
    return x + flow[:, 0], y + flow[:, 1]
