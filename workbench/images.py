"""Picture file <-> tensor (1, 3, H, W), float32, sRGB in [0, 1]; resizing, crops, masks."""

from __future__ import annotations

import io
import math
import os
import struct
import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import ExifTags, Image, ImageCms, TiffImagePlugin, UnidentifiedImageError
from torch import Tensor

from workbench.errors import InputError, OutputError
from workbench.files import PICTURE_SUFFIXES as PICTURE_SUFFIXES
from workbench.files import encode, expanded, reading, write_bytes

_DAMAGE = (  # what Pillow raises where a file is damaged inside
    *(OSError, EOFError, KeyError, RuntimeError, SyntaxError, TypeError, ValueError),
    struct.error,
)
# Named, so that no decoder that runs a program (EPS) is ever reached from a picture file.
_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
_KINDS = ("JPEG", "PNG", "WebP", "TIFF", "BMP", "GIF", "HEIC")
_HEIC_BRANDS = (b"hei", b"hev", b"mif1", b"msf1")
_RAW_SUFFIXES = {
    *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mef"),
    *(".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2"),
    *(".srf", ".srw", ".x3f"),
}
_RAW_HEADS = (b"II*\0\x10\0\0\0CR", b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FUJIFILM", b"FOVb")
_TIFF_HEADS = (b"II*\0", b"MM\0*")
# Tags of TIFF.
_SUBFILE_TYPE, _BITS_PER_SAMPLE, _PHOTOMETRIC, _SUB_IFDS, _DNG_VERSION = 254, 258, 262, 330, 50706
_LARGE = 2**24  # pixels; larger pictures are made smaller before they become floats
_ROWS = 256  # of a picture that are floats twice at a time
_WARNING_FILTER = threading.Lock()
_TRANSPARENT = ("PNG", "WEBP", "TIFF")
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
_SIDEWAYS = (*(_TURNS[orientation] for orientation in (5, 6, 7, 8)),)
_LUMA = (0.299, 0.587, 0.114)
Box = tuple[float, float, float, float]
_WHOLE = (0.0, 0.0, 1.0, 1.0)
Frame = npt.NDArray[np.uint8]
"""A picture `(H, W, 3)`, sRGB in 0..255."""


def load_image(
    path: str | os.PathLike[str],
    size: int | None = None,
    *,
    for_size: float | None = None,
    crop: Box | None = None,
) -> Tensor:
    """Read a picture file as `(1, 3, H, W)`, float32, sRGB in [0, 1].

    JPEG, PNG, WebP, TIFF (its largest page), BMP, GIF (its first frame), HEIC and AVIF are read.
    The picture is turned upright by its EXIF orientation, converted from its embedded ICC profile
    to sRGB and laid over white where it is transparent; greyscale, CMYK and 16-bit pictures become
    RGB.

    Parameters
    ----------
    size
        Length of the longest side in pixels that the picture is resized to, up or down; None keeps
        it as it is.
    for_size
        Longest side in pixels that it will be needed at, to save time and memory: a picture of more
        than 16 megapixels comes no larger than this. By default `size`.
    crop
        `(left, top, right, bottom)` as fractions of width and height, cut out before resizing. A
        tight crop spends the pixels on the subject.

    Raises
    ------
    InputError
        If there is no such file, or it is not a picture that can be read whole.
    """
    if size is not None and size < 1:
        raise InputError(f"size = {size}: give a number of pixels from 1 on.")
    picture = _read(path, size or for_size, crop)
    image = _over_white(picture)
    return image if size is None else resize(image, fit(picture.shape, size))


def load_with_alpha(
    path: str | os.PathLike[str], *, for_size: float | None = None, crop: Box | None = None
) -> tuple[Tensor, Tensor | None]:
    """Read a picture file as `load_image` does, and how opaque it is, for `save_image`.

    That is `(1, 1, H, W)`, float32 in [0, 1], or None if it is opaque everywhere.
    """
    picture = _read(path, for_size, crop)
    if picture.alpha is None or picture.alpha.getextrema()[0] == 255:
        return _over_white(picture), None
    return _over_white(picture), _from_channel(picture.alpha)


def _over_white(picture: _Picture) -> Tensor:
    colours = picture.colours
    if picture.alpha is not None:
        colours = Image.new("RGB", colours.size, "white")
        colours.paste(picture.colours, mask=picture.alpha)
    return from_array(np.asarray(colours))


class _Picture(NamedTuple):
    """A picture file, upright, cut out and in sRGB; `colours` is RGB, `alpha` L."""

    colours: Image.Image
    alpha: Image.Image | None
    varies: bool  # alpha, in the file as a whole
    shape: tuple[int, int]  # of what is cut out, (H, W), in the file


def _read(path: str | os.PathLike[str], for_size: float | None, crop: Box | None) -> _Picture:
    path, crop = expanded(path), _WHOLE if crop is None else crop
    with reading(path):
        if path.is_dir():
            raise InputError(f"{path} is a folder; name a picture file.")
        if path.stat().st_size == 0:
            raise InputError(f"{path} is empty (0 bytes); copy or download it again.")
        try:
            # Not by its name: Pillow would map it into memory, and get turned TIFFs wrong.
            with path.open("rb") as file, _opened(path, file) as picture:
                return _decode(picture, path, for_size, crop)
        except UnidentifiedImageError:
            problem = f"is not a picture that can be read ({', '.join(_KINDS)} or AVIF)"
        except Image.DecompressionBombError:
            millions = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
            problem = f"would unpack to more than {millions} million pixels; shrink it first"
        except _DAMAGE as error:
            if isinstance(error, OSError) and error.strerror:
                raise  # it is the disk
            problem = f"is damaged or cut short and cannot be read whole ({error}); get it again"
    raise InputError(f"{path} {problem}.")


def _opened(path: Path, file: BinaryIO) -> Image.Image:
    """Refuse camera raw files; open any other by what it holds."""
    head = file.read(64)
    file.seek(0)
    if path.suffix.lower() in _RAW_SUFFIXES or head.startswith(_RAW_HEADS) or b"ftypcrx" in head:
        raise _raw(path)
    formats: tuple[str, ...] = _FORMATS
    try:
        if head[4:8] == b"ftyp" and (b"avif" in head or b"avis" in head):
            formats, missing = ("AVIF",), "an AVIF picture, which takes Pillow 11.3"
            from PIL import AvifImagePlugin  # registers itself

            if not AvifImagePlugin.SUPPORTED:
                raise ImportError
        elif head[4:8] == b"ftyp" and head[8:].startswith(_HEIC_BRANDS):
            formats, missing = ("HEIF",), "a HEIC picture, which takes pi-heif"
            import pi_heif

            pi_heif.register_heif_opener()
    except ImportError:
        raise InputError(
            f"{path} is {missing} to read: install that with pip, or save the picture as JPEG."
        ) from None
    # Pictures up to twice Pillow's limit are meant to be read. The filter holds for all threads.
    with _WARNING_FILTER, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            picture = Image.open(file, formats=formats)
        except UnidentifiedImageError:
            if not head.startswith(_TIFF_HEADS):
                raise
            raise InputError(
                f"{path} is a TIFF of a rare kind; save it with 8 or 16 bits a channel."
            ) from None
        if isinstance(picture, TiffImagePlugin.TiffImageFile):
            _seek_largest(picture)
    return picture


def _raw(path: Path) -> InputError:
    return InputError(
        f"{path} is a camera's raw file; export it as JPEG or TIFF from a photo program."
    )


def _decode(picture: Image.Image, path: Path, for_size: float | None, crop: Box) -> _Picture:
    tags: Mapping[int, Any] = {}
    turn = None
    if isinstance(picture, TiffImagePlugin.TiffImageFile):
        tags = picture.tag_v2
        if _DNG_VERSION in tags or (tags.get(_SUBFILE_TYPE, 0) == 1 and _SUB_IFDS in tags):
            raise _raw(path)
        if picture.mode in ("F", "I"):
            kind = "floating-point" if picture.mode == "F" else "signed or 32-bit"
            raise InputError(f"{path} has {kind} pixels; save it with 8 or 16 bits a channel.")
    else:
        turn = _turn(picture)  # Pillow turns TIFFs by itself
    height, width = picture.height, picture.width
    if turn in _SIDEWAYS:
        height, width = width, height
    x0, y0, x1, y1 = _pixel_box((height, width), crop)
    shape = (y1 - y0, x1 - x0)
    enough = math.inf if for_size is None or height * width <= _LARGE else 2 * for_size
    shrink = 1
    while max(shape) >= 2 * shrink * enough:
        shrink *= 2
    if shrink > 1:
        picture.draft(None, (-(-picture.width // shrink), -(-picture.height // shrink)))
    picture.load()
    profile = picture.info.get("icc_profile")
    if turn is not None:
        picture = picture.transpose(turn)
    if picture.mode.startswith("I"):
        picture = _in_8_bits(picture, tags)
    if picture.has_transparency_data:
        kind = "LA" if picture.mode in ("L", "LA") else "RGBA"
        picture = picture if picture.mode == kind else picture.convert(kind)
    elif picture.mode not in ("RGB", "CMYK", "L"):
        picture = picture.convert("RGB")
    shrink //= max(1, round(max(height, width) / max(picture.size)))
    varies = False
    if picture.mode in ("LA", "RGBA"):
        low, high = picture.getchannel("A").getextrema()
        varies = low != high
    box = _pixel_box((picture.height, picture.width), crop)
    if shrink > 1:
        picture = picture.reduce(shrink, box)
    elif crop != _WHOLE:
        picture = picture.crop(box)
    if for_size is not None and max(picture.size) > for_size < enough < math.inf:
        picture = picture.resize(fit(shape, math.ceil(for_size))[::-1], Image.Resampling.BICUBIC)
    alpha = None
    if picture.mode in ("LA", "RGBA"):
        alpha = picture.getchannel("A")
        picture = picture.convert(picture.mode[:-1])
    return _Picture(_from_profile(picture, profile).convert("RGB"), alpha, varies, shape)


def _seek_largest(picture: TiffImagePlugin.TiffImageFile) -> None:
    """Turn to the largest page; others are thumbnails of it, or of another picture."""
    areas = []
    for page in range(picture.n_frames):
        picture.seek(page)
        areas.append(picture.width * picture.height)
    picture.seek(areas.index(max(areas)))


def _in_8_bits(picture: Image.Image, tags: Mapping[int, Any]) -> Image.Image:
    """From up to 16 bits; a TIFF says how many, and whether 0 is white."""
    white = 2 ** int(tags.get(_BITS_PER_SAMPLE, (16,))[0]) - 1
    grey = np.asarray(picture).astype(np.float64) * (255 / white)
    if tags.get(_PHOTOMETRIC) == 0:
        grey = 255 - grey
    return Image.fromarray(np.clip(np.rint(grey), 0, 255).astype(np.uint8))


def _from_channel(channel: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(channel))[None, None].to(torch.float32).div_(255)


def save_image(
    image: Tensor, path: str | os.PathLike[str], *, alpha: Tensor | None = None, bits: int = 8
) -> None:
    """Write a picture file; the suffix of `path` says the format.

    Parameters
    ----------
    image
        `(1, 3, H, W)`, sRGB; values outside [0, 1] are clipped.
    path
        Ends in .png, .jpg, .webp, .tif or .bmp. Appears under its name only when finished.
    alpha
        `(1, 1, h, w)`, how opaque the picture is, stretched to its size; see `load_with_alpha`.
        Left out where the format holds no transparency: JPEG and BMP.
    bits
        Of a colour: 8, or in a PNG or TIFF 16, for prints and for work that goes on.

    Raises
    ------
    InputError
        If the suffix is unknown, or its format has no colours of so many bits.
    OutputError
        If the file cannot be written.
    """
    check_picture_suffix(path, bits)
    kind, options = _WRITERS[Path(path).suffix.lower()]
    if bits == 16:
        write_bytes(path, _in_16_bits(image, alpha, kind))
        return
    picture = Image.fromarray(to_array(image))
    if alpha is not None and kind in _TRANSPARENT:
        opaque = resize(alpha.detach().cpu().float(), (picture.height, picture.width))
        picture.putalpha(Image.fromarray((opaque[0, 0] * 255).round().to(torch.uint8).numpy()))
    try:
        data = encode(picture, kind, **options)
    except (OSError, ValueError) as error:
        # Formats have their largest sizes.
        raise OutputError(
            f"{path}: a picture of {picture.width} x {picture.height} pixels cannot be written as"
            f" {kind} ({error})."
        ) from error
    write_bytes(path, data)


def _in_16_bits(image: Tensor, alpha: Tensor | None, kind: str) -> bytes:
    """A PNG or TIFF, which Pillow would write with 8 bits."""
    import cv2

    colours = _integers(image, np.uint16)[..., ::-1]
    if alpha is not None:
        opaque = resize(alpha.detach().cpu().float(), shape_of(image))
        colours = np.dstack([colours, _integers(opaque, np.uint16)])
    options = [cv2.IMWRITE_TIFF_COMPRESSION, 8] if kind == "TIFF" else []  # by deflate
    return cv2.imencode(f".{kind.lower()}", colours, options)[1].tobytes()


def check_picture_suffix(path: str | os.PathLike[str], bits: int = 8) -> None:
    """Raise `InputError` if `save_image` could not write to `path` with so many bits a colour."""
    suffix = Path(path).suffix.lower()
    if suffix not in _WRITERS:
        raise InputError(
            f"{path}: cannot write a picture as {suffix or 'a file without suffix'};"
            f" use one of {', '.join(_WRITERS)}."
        )
    if bits not in (8, 16):
        raise InputError(f"bits = {bits}: use 8 or 16.")
    if bits == 16 and _WRITERS[suffix][0] not in ("PNG", "TIFF"):
        raise InputError(f"{path}: {suffix} has 8 bits a colour; use .png or .tif, or bits 8.")


def from_array(array: Frame) -> Tensor:
    """8-bit picture `(H, W, 3)` in 0..255 -> tensor `(1, 3, H, W)`, float32 in [0, 1]."""
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise InputError(f"expected a (H, W, 3) uint8 array, got {array.shape} {array.dtype}.")
    channels_first = array.transpose(2, 0, 1).copy(order="C")
    return torch.from_numpy(channels_first)[None].to(torch.float32).div_(255)


def to_array(image: Tensor) -> Frame:
    """Tensor `(1, 3, H, W)` in [0, 1] -> 8-bit picture `(H, W, 3)`, clipped and rounded."""
    check_image(image, "image")
    return _integers(image, np.uint8)


def _integers(image: Tensor, kind: type[Any]) -> npt.NDArray[Any]:
    """A picture `(1, C, H, W)` in [0, 1] as `(H, W, C)` in all that a kind of integers has."""
    _, channels, height, width = image.shape
    whole = np.empty((height, width, channels), kind)
    for top in range(0, height, _ROWS):
        strip = image.detach()[0, :, top : top + _ROWS].float().clamp(0, 1)
        strip = (strip * np.iinfo(kind).max).round()
        whole[top : top + _ROWS] = strip.permute(1, 2, 0).cpu().numpy()
    return whole


def check_image(image: Tensor, name: str, channels: int = 3) -> None:
    """Raise `InputError`, naming it, unless it is a floating-point tensor (1, channels, H, W)."""
    if not isinstance(image, Tensor):
        what: object = type(image).__name__
    elif image.dim() == 4 and image.shape[:2] == (1, channels) and image.is_floating_point():
        return
    else:
        what = tuple(image.shape)
    loader = "load_mask" if channels == 1 else "load_image"
    raise InputError(
        f"{name}: expected a floating-point tensor (1, {channels}, H, W) in [0, 1], got {what};"
        f" {loader} makes one."
    )


def load_mask(
    path: str | os.PathLike[str],
    *,
    for_size: float | None = None,
    crop: Box | None = None,
    may_be_empty: bool = False,
) -> Tensor:
    """Read a picture file as a mask: white is inside, black outside, grey in between.

    It is `(1, 1, H, W)`, float32 in [0, 1]; of a coloured picture, the luminance. If some of the
    picture is more transparent than the rest, as where an editor has cut something out, what is
    opaque is inside, whatever its colours. A mask with nothing inside is refused, unless it
    `may_be_empty`, as one among those of a film. `for_size` and `crop` are those of the photograph
    that it belongs to; see `load_image`.
    """
    picture = _read(path, for_size, crop)
    if picture.varies and picture.alpha is not None:
        mask, nothing = _from_channel(picture.alpha), "transparent"
    else:
        mask, nothing = luminance(from_array(np.asarray(picture.colours))), "black"
        if picture.alpha is not None and not picture.alpha.getextrema()[1]:
            mask, nothing = 0 * mask, "transparent"
    if not (may_be_empty or mask.any()):
        raise InputError(f"{path} is {nothing} all over; a mask is white where its style belongs.")
    return mask


def share_masks(masks: Sequence[Tensor], shape: tuple[int, int]) -> tuple[Tensor, ...]:
    """Stretch masks to one shape, and let those that overlap share the place.

    Each is `(1, 1, h, w)`, of any size, in [0, 1], and becomes `(1, 1, H, W)`; nowhere do they
    then add up to more than 1.
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
    """Cut out a part of a picture `(1, 3, H, W)`.

    `crop` is `(left, top, right, bottom)` as fractions of width and height: (0, 0, 1, 1) keeps
    everything, (0.25, 0, 0.75, 1) the middle half.
    """
    x0, y0, x1, y1 = _pixel_box(shape_of(image), crop)
    return image[..., y0:y1, x0:x1]


def _pixel_box(shape: tuple[int, int], crop: Box) -> tuple[int, int, int, int]:
    """Left, top, right and bottom in pixels."""
    try:
        left, top, right, bottom = (float(edge) for edge in crop)
    except (TypeError, ValueError):
        left = top = right = bottom = -1.0
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise InputError(
            f"crop {crop!r}: give left, top, right, bottom as fractions with"
            " 0 <= left < right <= 1 and 0 <= top < bottom <= 1."
        )
    height, width = shape
    x0, y0 = min(round(left * width), width - 1), min(round(top * height), height - 1)
    x1, y1 = max(round(right * width), x0 + 1), max(round(bottom * height), y0 + 1)
    return x0, y0, x1, y1


def shape_of(image: Tensor) -> tuple[int, int]:
    """`(H, W)` of a picture `(1, C, H, W)`."""
    return int(image.shape[-2]), int(image.shape[-1])


def fit(shape: tuple[int, int], size: int) -> tuple[int, int]:
    """`(H, W)` scaled so that the longest side is `size` pixels."""
    height, width = shape
    scale = size / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def resize(image: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Resize `(1, C, H, W)` in [0, 1] with a bicubic filter, antialiased when shrinking.

    `size` is the length of the longest side in pixels, or exactly `(H, W)`.
    """
    target = fit(shape_of(image), size) if isinstance(size, int) else size
    if target == shape_of(image):
        return image
    return F.interpolate(image, target, mode="bicubic", antialias=True).clamp(0, 1)


def resize_down(image: Tensor, size: int) -> Tensor:
    """`(1, 3, H, W)` with a longest side of at most `size` pixels."""
    return resize(image, min(size, max(image.shape[-2:])))


def _turn(picture: Image.Image) -> Image.Transpose | None:
    """What turns it upright by its EXIF orientation; broken EXIF data is left out."""
    # Unlike ImageOps.exif_transpose, which also writes the EXIF data anew and fails on odd ones.
    try:
        return _TURNS.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except (OSError, SyntaxError, ValueError, struct.error):
        return None


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
