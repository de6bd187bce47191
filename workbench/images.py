"""Picture file <-> tensor (1, 3, H, W), float32, sRGB in [0, 1]; resizing, crops, colour."""

from __future__ import annotations

import io
import os
import struct
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError
from torch import Tensor

from workbench.errors import InputError, OutputError
from workbench.files import PICTURE_SUFFIXES as PICTURE_SUFFIXES
from workbench.files import no_such_file, write_bytes

# Named, so that no decoder that runs a program (EPS) is ever reached from a picture file.
_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
_WRITERS: dict[str, tuple[str, dict[str, object]]] = {
    ".png": ("PNG", {"compress_level": 6}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".webp": ("WEBP", {"quality": 95}),
    ".tif": ("TIFF", {"compression": "tiff_deflate"}),
    ".tiff": ("TIFF", {"compression": "tiff_deflate"}),
    ".bmp": ("BMP", {}),
}
# EXIF orientation -> what turns the picture upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LUMA = (0.299, 0.587, 0.114)
Box = tuple[float, float, float, float]
Frame = npt.NDArray[np.uint8]
"""A picture `(H, W, 3)`, sRGB in 0..255."""


def load_image(
    path: str | os.PathLike[str], size: int | None = None, *, crop: Box | None = None
) -> Tensor:
    """Read a picture file as sRGB.

    JPEG, PNG, WebP, TIFF, BMP and GIF (its first frame) are read. The picture is turned
    upright by its EXIF orientation, converted from its embedded ICC profile to sRGB and
    laid over white where it is transparent; greyscale, CMYK and 16-bit pictures become RGB.

    Parameters
    ----------
    path
        The picture file.
    size
        Length of the longest side in pixels that the picture is resized to, up or down;
        None keeps it as it is.
    crop
        `(left, top, right, bottom)` as fractions of width and height, cut out before
        resizing. A tight crop spends the pixels on the subject.

    Returns
    -------
    Tensor
        `(1, 3, H, W)`, float32, sRGB in [0, 1].

    Raises
    ------
    InputError
        If there is no such file, or it is not a picture that can be read whole.
    """
    path = Path(path)
    try:
        if not path.exists():
            raise no_such_file(path)
        if path.is_dir():
            raise InputError(f"{path} is a folder; name a picture file.")
        if path.stat().st_size == 0:
            raise InputError(f"{path} is empty (0 bytes); copy or download it again.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=_FORMATS) as picture:
                if picture.mode == "F":
                    raise InputError(
                        f"{path} has floating-point pixels; save it with 8 or 16 bits a channel."
                    )
                picture.load()
                image = from_array(np.asarray(_to_srgb(picture)))
    except UnidentifiedImageError:
        raise InputError(
            f"{path} is not a picture that can be read (JPEG, PNG, WebP, TIFF, BMP or GIF)."
        ) from None
    except Image.DecompressionBombError:
        raise InputError(
            f"{path} would unpack to more than {2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6} million"
            " pixels; shrink it first."
        ) from None
    except PermissionError:
        raise InputError(f"{path} may not be read; check its permissions.") from None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        if isinstance(error, OSError) and error.strerror:
            raise InputError(f"{path} cannot be read: {error.strerror.lower()}.") from None
        # Pillow reports damage inside a file as any of these.
        raise InputError(
            f"{path} is damaged or cut short and cannot be read whole ({error}); get it again."
        ) from None
    if crop is not None:
        image = crop_image(image, crop)
    if size is not None:
        image = resize(image, size)
    return image


def save_image(image: Tensor, path: str | os.PathLike[str]) -> None:
    """Write a picture as an 8-bit file; the suffix of `path` says the format.

    Parameters
    ----------
    image
        `(1, 3, H, W)`, sRGB; values outside [0, 1] are clipped.
    path
        Ends in .png, .jpg, .webp, .tif or .bmp. Appears under its name only when finished.

    Raises
    ------
    InputError
        If the suffix is unknown.
    OutputError
        If the file cannot be written.
    """
    check_picture_suffix(path)
    kind, options = _WRITERS[Path(path).suffix.lower()]
    buffer = io.BytesIO()
    picture = Image.fromarray(to_array(image))
    try:
        picture.save(buffer, kind, **options)
    except (OSError, ValueError) as error:
        # Formats have their largest sizes.
        raise OutputError(
            f"{path}: a picture of {picture.width} x {picture.height} pixels cannot be written as"
            f" {kind} ({error})."
        ) from error
    write_bytes(path, buffer.getvalue())


def check_picture_suffix(path: str | os.PathLike[str]) -> None:
    """Raise `InputError` if `save_image` could not tell a format from the name of `path`."""
    suffix = Path(path).suffix.lower()
    if suffix not in _WRITERS:
        raise InputError(
            f"{path}: cannot write a picture as {suffix or 'a file without suffix'};"
            f" use one of {', '.join(_WRITERS)}."
        )


def from_array(array: Frame) -> Tensor:
    """8-bit picture `(H, W, 3)` in 0..255 -> tensor `(1, 3, H, W)`, float32 in [0, 1]."""
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise InputError(f"expected a (H, W, 3) uint8 array, got {array.shape} {array.dtype}.")
    channels_first = array.transpose(2, 0, 1).copy(order="C")
    return torch.from_numpy(channels_first)[None].to(torch.float32) / 255


def to_array(image: Tensor) -> Frame:
    """Tensor `(1, 3, H, W)` in [0, 1] -> 8-bit picture `(H, W, 3)`, clipped and rounded."""
    check_image(image, "image")
    pixels = (image.detach()[0].float().clamp(0, 1) * 255).round().to(torch.uint8)
    return np.ascontiguousarray(pixels.permute(1, 2, 0).cpu().numpy())


def check_image(image: Tensor, name: str) -> None:
    """Raise `InputError`, naming it `name`, unless `image` is floating-point `(1, 3, H, W)`."""
    _check_tensor(image, name, channels=3, loader="load_image")


def check_mask(mask: Tensor, name: str) -> None:
    """Raise `InputError`, naming it `name`, unless `mask` is floating-point `(1, 1, H, W)`."""
    _check_tensor(mask, name, channels=1, loader="load_mask")


def _check_tensor(image: Tensor, name: str, *, channels: int, loader: str) -> None:
    if (
        not isinstance(image, Tensor)
        or image.dim() != 4
        or image.shape[:2] != (1, channels)
        or not image.is_floating_point()
    ):
        what = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
        raise InputError(
            f"{name}: expected a floating-point tensor (1, {channels}, H, W) in [0, 1], got {what};"
            f" {loader} makes one."
        )


def load_mask(
    path: str | os.PathLike[str], *, crop: Box | None = None, may_be_empty: bool = False
) -> Tensor:
    """Read a picture file as a mask: white is inside, black outside, grey in between.

    Parameters
    ----------
    path
        The picture file; of a coloured one, its luminance.
    crop
        As for the photograph that it belongs to; see `load_image`.
    may_be_empty
        Whether it may be black all over, as one among those of a film.

    Returns
    -------
    Tensor
        `(1, 1, H, W)`, float32 in [0, 1].

    Raises
    ------
    InputError
        If it cannot be read, or is black all over and may not be.
    """
    mask = luminance(load_image(path, crop=crop))
    if not (may_be_empty or mask.any()):
        raise InputError(f"{path} is black all over; a mask is white where its style belongs.")
    return mask


def share_masks(masks: Sequence[Tensor], shape: tuple[int, int]) -> tuple[Tensor, ...]:
    """Stretch masks to one shape, and let those that overlap share the place.

    Parameters
    ----------
    masks
        `(1, 1, H, W)` each, of any size, in [0, 1].
    shape
        `(H, W)` of the picture that they belong to.

    Returns
    -------
    tuple of Tensor
        `(1, 1, H, W)` each; nowhere do they add up to more than 1.
    """
    fitted = [resize(mask.float(), shape) for mask in masks]
    if not fitted:
        return ()
    crowd = torch.stack(fitted).sum(dim=0).clamp(min=1.0)
    return tuple(mask / crowd for mask in fitted)


def luminance(image: Tensor) -> Tensor:
    """How bright a picture `(1, 3, H, W)` is: Y of YUV (ITU-R BT.601), `(1, 1, H, W)`."""
    return torch.einsum("c,nchw->nhw", image.new_tensor(_LUMA), image)[:, None]


def crop_image(image: Tensor, crop: Box) -> Tensor:
    """Cut out a part of a picture.

    Parameters
    ----------
    image
        `(1, 3, H, W)`.
    crop
        `(left, top, right, bottom)` as fractions of width and height: (0, 0, 1, 1) keeps
        everything, (0.25, 0, 0.75, 1) the middle half.

    Raises
    ------
    InputError
        Unless 0 <= left < right <= 1 and 0 <= top < bottom <= 1.
    """
    try:
        left, top, right, bottom = (float(edge) for edge in crop)
    except (TypeError, ValueError):
        left = top = right = bottom = -1.0
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise InputError(
            f"crop {crop!r}: give left, top, right, bottom as fractions with"
            " 0 <= left < right <= 1 and 0 <= top < bottom <= 1."
        )
    height, width = image.shape[-2:]
    x0, y0 = min(round(left * width), width - 1), min(round(top * height), height - 1)
    x1, y1 = max(round(right * width), x0 + 1), max(round(bottom * height), y0 + 1)
    return image[..., y0:y1, x0:x1]


def fit(shape: tuple[int, int], size: int) -> tuple[int, int]:
    """`(H, W)` scaled so that the longest side is `size` pixels."""
    height, width = shape
    scale = size / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def resize(image: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Resize with a bicubic filter, antialiased when shrinking.

    Parameters
    ----------
    image
        `(1, C, H, W)`, in [0, 1].
    size
        Length of the longest side in pixels, or exactly `(H, W)`.
    """
    shape = (int(image.shape[-2]), int(image.shape[-1]))
    target = fit(shape, size) if isinstance(size, int) else size
    if target == shape:
        return image
    return F.interpolate(image, target, mode="bicubic", antialias=True).clamp(0, 1)


def resize_down(image: Tensor, size: int) -> Tensor:
    """`(1, 3, H, W)` with a longest side of at most `size` pixels."""
    return resize(image, min(size, max(image.shape[-2:])))


def recolour(
    image: Tensor, source: Tensor, target: Tensor, method: str = "monge-kantorovich"
) -> Tensor:
    """Give a picture the colours that `target` has where `source` has its own.

    A linear map of RGB that carries mean and covariance of the pixels of `source` to those
    of `target` (Gatys et al. 2017, arXiv 1611.07865, section 5.2).

    Parameters
    ----------
    image, source, target
        `(1, 3, H, W)` each, of any size, sRGB in [0, 1].
    method
        Which of these maps. "monge-kantorovich" changes colours least (Pitié and Kokaram
        2007, "The linear Monge-Kantorovitch linear colour mapping"); "pca" takes the
        spread out along the axes of the one cloud of colours and puts it in along those of
        the other; "cholesky" goes channel by channel, red first.

    Returns
    -------
    Tensor
        `(1, 3, H, W)` of `image`, clipped to [0, 1].
    """
    (mean, covariance), (new_mean, new_covariance) = map(_colour_statistics, (source, target))
    change = _COLOUR_MAPS[method](covariance, new_covariance)
    pixels = image.flatten(2)[0]
    return (change @ (pixels - mean) + new_mean).reshape(image.shape).clamp(0, 1)


def _monge_kantorovich(covariance: Tensor, new: Tensor) -> Tensor:
    root, inverse_root = _matrix_power(covariance, 0.5), _matrix_power(covariance, -0.5)
    return inverse_root @ _matrix_power(root @ new @ root, 0.5) @ inverse_root


def _pca(covariance: Tensor, new: Tensor) -> Tensor:
    return _matrix_power(new, 0.5) @ _matrix_power(covariance, -0.5)


def _cholesky(covariance: Tensor, new: Tensor) -> Tensor:
    change: Tensor = torch.linalg.cholesky(new) @ torch.linalg.cholesky(covariance).inverse()
    return change


_COLOUR_MAPS = {"cholesky": _cholesky, "pca": _pca, "monge-kantorovich": _monge_kantorovich}
ORIGINAL_COLORS = ("off", "luma", *_COLOUR_MAPS)


def check_original_colors(original_colors: str) -> None:
    """Raise `InputError` unless it is one of `ORIGINAL_COLORS`."""
    if original_colors not in ORIGINAL_COLORS:
        raise InputError(
            f"original_colors = {original_colors!r}: use one of {', '.join(ORIGINAL_COLORS)}."
        )


def match_colors(style: Tensor, content: Tensor, original_colors: str) -> Tensor:
    """Recolour a style picture before the painting, so that the photograph's colours stay.

    Gatys et al. 2017 (arXiv 1611.07865), section 5.2. "off" and "luma" leave it as it is.

    Parameters
    ----------
    style, content
        `(1, 3, H, W)`, sRGB in [0, 1].
    original_colors
        One of `ORIGINAL_COLORS`.
    """
    check_original_colors(original_colors)
    if original_colors not in _COLOUR_MAPS:
        return style
    return recolour(style, style, content, original_colors)


def transfer_luma(painted: Tensor, content: Tensor) -> Tensor:
    """The brightness of a painting in the colours of its photograph.

    Y of the one and U and V of the other, as -original_colors of neural_style.lua; Gatys et
    al. 2017 (arXiv 1611.07865), section 5.1. As YUV is linear, that is to add the difference
    of Y to all three channels of the photograph.

    Parameters
    ----------
    painted, content
        `(1, 3, H, W)`, sRGB in [0, 1]; `content` is brought to the size of `painted`.

    Returns
    -------
    Tensor
        `(1, 3, H, W)`, clipped to [0, 1].
    """
    content = resize(content.to(painted), (int(painted.shape[-2]), int(painted.shape[-1])))
    return (content + luminance(painted) - luminance(content)).clamp(0, 1)


def _colour_statistics(image: Tensor) -> tuple[Tensor, Tensor]:
    """Mean `(3, 1)` and covariance `(3, 3)`, of which no colour is quite without spread."""
    pixels = image.flatten(2)[0]
    mean = pixels.mean(dim=1, keepdim=True)
    spread = (pixels - mean) @ (pixels - mean).T / pixels.shape[1]
    return mean, spread + 1e-4 * torch.eye(3, device=image.device)


def _matrix_power(matrix: Tensor, exponent: float) -> Tensor:
    """Of a symmetric matrix without negative eigenvalues."""
    values, vectors = torch.linalg.eigh(matrix)
    power: Tensor = vectors @ torch.diag(values.clamp(min=1e-8) ** exponent) @ vectors.T
    return power


def _to_srgb(picture: Image.Image) -> Image.Image:
    """Upright 8-bit sRGB over white."""
    picture = _upright(picture)
    profile = picture.info.get("icc_profile")
    if picture.mode in ("I", "I;16", "I;16B", "I;16L", "I;16N"):
        grey = np.asarray(picture).astype(np.float64) * (255 / 65535)
        picture = Image.fromarray(np.clip(np.rint(grey), 0, 255).astype(np.uint8))
    alpha = None
    if picture.has_transparency_data:
        transparent = picture.convert("RGBA")
        alpha = transparent.getchannel("A")
        picture = transparent.convert("L" if picture.mode in ("L", "LA") else "RGB")
    elif picture.mode not in ("RGB", "CMYK", "L"):
        picture = picture.convert("RGB")
    picture = _from_profile(picture, profile).convert("RGB")
    if alpha is not None:
        white = Image.new("RGB", picture.size, "white")
        white.paste(picture, mask=alpha)
        picture = white
    return picture


def _upright(picture: Image.Image) -> Image.Image:
    """Turn by the EXIF orientation; broken EXIF data is left out."""
    # Unlike ImageOps.exif_transpose, which also writes the EXIF data anew and fails on odd ones.
    try:
        turn = _TURNS.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except (OSError, SyntaxError, ValueError, struct.error):
        return picture
    return picture if turn is None else picture.transpose(turn)


def _from_profile(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert by the embedded ICC profile; a profile that is broken or does not fit is left out."""
    if not profile:
        return picture
    try:
        converted = ImageCms.profileToProfile(
            picture,
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            outputMode="RGB",
        )
    except (ImageCms.PyCMSError, OSError, ValueError):
        return picture
    return converted or picture
