from __future__ import annotations

import contextlib
import io
import os
import re
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageCms
from torch import Tensor

from workbench import images
from workbench.errors import InputError, OutputError
from workbench.images import (
    Box,
    crop_image,
    fit,
    from_array,
    load_image,
    load_mask,
    load_with_alpha,
    resize,
    save_image,
    share_masks,
    to_array,
)

unhurried = hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
NOISE = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
pictures = arrays(np.uint8, st.tuples(st.integers(1, 6), st.integers(1, 6), st.just(3)))
fractions = st.floats(0, 1)
spans = st.tuples(fractions, fractions).map(sorted).filter(lambda edges: edges[0] < edges[1])


def smooth() -> Tensor:
    """Gradients, one in each channel, which lossy formats keep well."""
    y, x = torch.meshgrid(torch.linspace(0, 1, 48), torch.linspace(0, 1, 64), indexing="ij")
    return torch.stack([x, y, (x + y) / 2])[None]


def pixels(path: Path) -> np.ndarray:
    return to_array(load_image(path))


def pixel(path: Path) -> tuple[int, ...]:
    """Colour of a picture that has only one."""
    array = pixels(path)
    assert (array == array[0, 0]).all()
    return tuple(array[0, 0].tolist())


def refusal(path: str | Path) -> str:
    """The one sentence with which `load_image` refuses a file."""
    with pytest.raises(InputError) as caught:
        load_image(path)
    assert caught.value.exit_code == 2
    return checked(str(caught.value), path)


def checked(sentence: str, path: str | Path) -> str:
    assert str(path) in sentence
    assert "\n" not in sentence
    assert ". " not in sentence
    assert sentence.endswith(".")
    return sentence


# Tensors and arrays


@unhurried
@given(pictures)
def test_array_survives_the_way_to_a_tensor_and_back(array: np.ndarray) -> None:
    image = from_array(array)
    assert image.shape == (1, 3, *array.shape[:2])
    assert image.dtype == torch.float32
    assert 0 <= image.min() <= image.max() <= 1
    assert np.array_equal(to_array(image), array)


def test_tensor_does_not_share_memory_with_its_array() -> None:
    array = np.zeros((2, 2, 3), dtype=np.uint8)
    image = from_array(array)
    image += 1
    assert not array.any()


def test_values_are_clipped_and_rounded() -> None:
    image = torch.tensor([-0.5, 0.4 / 255, 0.6 / 255, 1.5]).expand(1, 3, 1, 4)
    assert to_array(image)[0, :, 0].tolist() == [0, 0, 1, 255]


def test_gradients_and_half_precision_are_no_hindrance() -> None:
    image = torch.full((1, 3, 2, 2), 0.5, dtype=torch.bfloat16, requires_grad=True)
    assert (to_array(image) == 128).all()


@pytest.mark.parametrize(
    "array", [np.zeros((2, 2), np.uint8), np.zeros((2, 2, 4), np.uint8), np.zeros((2, 2, 3))]
)
def test_other_arrays_are_refused(array: np.ndarray) -> None:
    with pytest.raises(InputError, match="uint8"):
        from_array(array)


@pytest.mark.parametrize(
    "image",
    [
        torch.zeros(3, 2, 2),
        torch.zeros(2, 3, 2, 2),
        torch.zeros(1, 1, 2, 2),
        torch.zeros(1, 3, 2, 2, dtype=torch.uint8),
        NOISE,
    ],
)
def test_other_tensors_are_not_saved(tmp_path: Path, image: Tensor) -> None:
    with pytest.raises(InputError, match=r"\(1, 3, H, W\)"):
        save_image(image, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


# Saving


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff", ".bmp", ".PNG"])
def test_lossless_formats_keep_every_pixel(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    save_image(from_array(NOISE), path)
    assert np.array_equal(pixels(path), NOISE)


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".webp"])
def test_lossy_formats_stay_close(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    save_image(smooth(), path)
    assert (load_image(path) - smooth()).abs().mean() < 0.01


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [(".png", "PNG"), (".jpg", "JPEG"), (".webp", "WEBP"), (".tif", "TIFF"), (".bmp", "BMP")],
)
def test_suffix_says_the_format(tmp_path: Path, suffix: str, kind: str) -> None:
    path = tmp_path / f"a{suffix}"
    save_image(smooth(), path)
    with Image.open(path) as picture:
        assert (picture.format, picture.mode, picture.size) == (kind, "RGB", (64, 48))


def test_folders_are_made_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.png"
    save_image(smooth(), path)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("name", ["a.gif", "a.xyz", "a", ".png"])
def test_unknown_suffix_is_refused_with_the_known_ones(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"\.png, \.jpg") as caught:
        save_image(smooth(), tmp_path / name)
    checked(str(caught.value), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    path = tmp_path / "file" / "a.png"
    with pytest.raises(OutputError) as caught:
        save_image(smooth(), path)
    assert caught.value.exit_code == 1
    checked(str(caught.value), path)


@pytest.mark.parametrize("suffix", [".webp", ".jpg"])
def test_picture_too_large_for_its_format_is_an_output_error(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    with pytest.raises(OutputError) as caught:
        save_image(torch.zeros(1, 3, 1, 70000), path)
    checked(str(caught.value), path)
    assert not list(tmp_path.iterdir())


# What pictures may hold

# How an upright picture is stored for each EXIF orientation: the standard's "row 0 is the
# visual top, right, ... and column 0 the visual left, ...", spelled out for arrays.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation_turns_upright(tmp_path: Path, orientation: int, suffix: str) -> None:
    upright = np.full((32, 48, 3), 40, dtype=np.uint8)
    upright[:16, :24] = 220  # Only the top left corner is bright.
    path = tmp_path / f"a{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    stored.save(path, exif=exif, quality=100)
    loaded = load_image(path)
    assert loaded.shape == (1, 3, 32, 48)
    assert (loaded - from_array(upright)).abs().max() < 0.04


def test_exif_that_cannot_be_written_again_does_no_harm(tmp_path: Path) -> None:
    entries = [
        struct.pack(">HHIf", 0x0100, 11, 1, 20.0),  # width, but as a float
        struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0),  # orientation
    ]
    tiff = b"MM\0*" + struct.pack(">IH", 8, len(entries)) + b"".join(entries) + bytes(4)
    path = tmp_path / "a.jpg"
    Image.fromarray(NOISE).save(path, exif=b"Exif\0\0" + tiff)
    assert load_image(path).shape == (1, 3, 20, 12)


def test_broken_exif_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(NOISE).save(path, exif=b"Exif\0\0" + b"nonsense" * 4)
    assert load_image(path).shape == (1, 3, 12, 20)


def icc_profile(space: bytes, gamma: float, order: str = "rgb") -> bytes:
    """ICC v2 profile with a plain gamma curve and, for RGB, the primaries of sRGB in `order`."""
    primaries = {  # relative to D50
        "r": (0.4360747, 0.2225045, 0.0139322),
        "g": (0.3850649, 0.7168786, 0.0971045),
        "b": (0.1430804, 0.0606169, 0.7141733),
    }

    def xyz(values: tuple[float, ...]) -> bytes:
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in values))

    curve = b"curv\0\0\0\0" + struct.pack(">IHxx", 1, round(gamma * 256))
    tags = {b"wtpt": xyz((0.9642, 1.0, 0.8249))}
    if space == b"RGB ":
        for channel, primary in zip("rgb", order, strict=True):
            tags[channel.encode() + b"XYZ"] = xyz(primaries[primary])
            tags[channel.encode() + b"TRC"] = curve
    else:
        tags[b"kTRC"] = curve
    offset, table, data = 128 + 4 + 12 * len(tags), b"", b""
    for name, tag in tags.items():
        table += struct.pack(">4sII", name, offset + len(data), len(tag))
        data += tag
    header = bytearray(128)
    header[:4] = struct.pack(">I", offset + len(data))
    header[8:12] = b"\2\x40\0\0"
    header[12:24] = b"mntr" + space + b"XYZ "
    header[36:40] = b"acsp"
    header[68:80] = struct.pack(">3i", 63190, 65536, 54061)
    return bytes(header) + struct.pack(">I", len(tags)) + table + data


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_linear_profile_is_converted_to_srgb(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    picture = Image.new("RGB", (2, 2), (0, 128, 255))
    picture.save(path, icc_profile=icc_profile(b"RGB ", 1.0))
    assert np.abs(np.subtract(pixel(path), (0, 188, 255))).max() <= 1


def test_profile_of_other_primaries_is_converted_to_srgb(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    red = Image.new("RGB", (2, 2), (255, 0, 0))
    red.save(path, icc_profile=icc_profile(b"RGB ", 2.2, order="grb"))
    assert np.abs(np.subtract(pixel(path), (0, 255, 0))).max() <= 1


@pytest.mark.parametrize(
    ("mode", "colour"), [("RGBA", (128, 128, 128, 255)), ("LA", (128, 255)), ("L", 128)]
)
def test_profile_counts_for_grey_and_transparent_pictures(
    tmp_path: Path, mode: str, colour: int | tuple[int, ...]
) -> None:
    path = tmp_path / "a.png"
    space = b"RGB " if mode == "RGBA" else b"GRAY"
    Image.new(mode, (2, 2), colour).save(path, icc_profile=icc_profile(space, 1.0))
    assert np.abs(np.subtract(pixel(path), 188)).max() <= 1


def test_srgb_profile_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(NOISE).save(path, icc_profile=profile)
    assert np.abs(pixels(path).astype(int) - NOISE).max() <= 1


@pytest.mark.parametrize(
    "profile",
    [
        b"nonsense" * 40,
        icc_profile(b"RGB ", 1.0)[:150],
        icc_profile(b"GRAY", 1.0),
        ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes(),
    ],
    ids=["nonsense", "cut short", "of a grey picture", "of a Lab picture"],
)
def test_profile_that_does_not_fit_is_left_out(tmp_path: Path, profile: bytes) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(NOISE).save(path, icc_profile=profile)
    assert np.array_equal(pixels(path), NOISE)


@pytest.mark.parametrize(
    ("mode", "colour", "seen"),
    [
        ("RGBA", (200, 0, 0, 0), (255, 255, 255)),
        ("RGBA", (200, 0, 0, 255), (200, 0, 0)),
        ("RGBA", (0, 0, 0, 128), (127, 127, 127)),
        ("LA", (10, 0), (255, 255, 255)),
        ("LA", (0, 128), (127, 127, 127)),
    ],
)
def test_transparent_pictures_lie_over_white(
    tmp_path: Path, mode: str, colour: tuple[int, ...], seen: tuple[int, ...]
) -> None:
    path = tmp_path / "a.png"
    Image.new(mode, (3, 2), colour).save(path)
    assert pixel(path) == seen


@pytest.mark.parametrize("suffix", [".png", ".gif"])
def test_transparent_palette_entry_lies_over_white(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    picture = Image.new("P", (2, 1))
    picture.putpixel((1, 0), 1)
    picture.putpalette([200, 0, 0, 0, 0, 200])
    picture.save(path, transparency=0)
    assert pixels(path).tolist() == [[[255, 255, 255], [0, 0, 200]]]


@pytest.mark.parametrize(("mode", "key"), [("RGB", (7, 7, 7)), ("L", 7)])
def test_transparent_colour_lies_over_white(
    tmp_path: Path, mode: str, key: int | tuple[int, ...]
) -> None:
    path = tmp_path / "a.png"
    picture = Image.new(mode, (2, 1), key)
    picture.putpixel((1, 0), 90 if mode == "L" else (90, 90, 90))
    picture.save(path, transparency=key)
    assert pixels(path)[0, :, 0].tolist() == [255, 90]


@pytest.mark.parametrize(("mode", "seen"), [("L", [0, 128, 255]), ("1", [0, 255, 255])])
def test_grey_becomes_rgb(tmp_path: Path, mode: str, seen: list[int]) -> None:
    path = tmp_path / "a.png"
    grey = Image.fromarray(np.array([[0, 128, 255]], dtype=np.uint8))
    grey.convert(mode, dither=Image.Dither.NONE).save(path)
    assert pixels(path)[0].tolist() == [[value] * 3 for value in seen]


@pytest.mark.parametrize("suffix", [".tif", ".jpg"])
@pytest.mark.parametrize(
    ("ink", "seen"),
    [
        ((0, 0, 0, 0), (255, 255, 255)),
        ((0, 0, 0, 255), (0, 0, 0)),
        ((0, 255, 255, 0), (255, 0, 0)),
        ((255, 255, 0, 0), (0, 0, 255)),
    ],
)
def test_cmyk_becomes_rgb(
    tmp_path: Path, ink: tuple[int, ...], seen: tuple[int, ...], suffix: str
) -> None:
    path = tmp_path / f"a{suffix}"
    Image.new("CMYK", (8, 8), ink).save(path)
    assert np.abs(np.subtract(pixel(path), seen)).max() <= 2


@pytest.mark.parametrize(("suffix", "kind"), [(".png", "<u2"), (".tif", "<u2"), (".tif", ">u2")])
def test_16_bit_grey_is_scaled_to_8(tmp_path: Path, suffix: str, kind: str) -> None:
    path = tmp_path / f"a{suffix}"
    values = np.arange(256).reshape(16, 16)
    Image.fromarray((values * 257).astype(kind)).save(path)
    assert np.array_equal(pixels(path), np.stack([values] * 3, axis=-1))


def test_floating_point_picture_is_refused_with_a_way_out(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(np.zeros((4, 4), dtype=np.float32)).save(path)
    assert "8 or 16 bits" in refusal(path)


def test_first_frame_of_a_gif_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    red, blue = (Image.new("RGB", (4, 4), colour) for colour in ("red", "blue"))
    red.save(path, save_all=True, append_images=[blue])
    assert pixel(path) == (255, 0, 0)


def test_content_and_not_the_suffix_says_what_a_file_is(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(NOISE).save(path, "PNG")
    assert np.array_equal(pixels(path), NOISE)


# What phones, cameras and editors write


def iso_box(kind: bytes, *parts: bytes, version: int | None = None) -> bytes:
    body = (
        b"".join(parts) if version is None else struct.pack(">I", version << 24) + b"".join(parts)
    )
    return struct.pack(">I4s", 8 + len(body), kind) + body


def heic(picture: np.ndarray, quarters: int = 0, orientation: int = 1, icc: bytes = b"") -> bytes:
    """A picture as phones write it: HEVC, turned to the left by the container and by EXIF."""
    height, width = picture.shape[:2]
    rgb = av.VideoFrame.from_ndarray(picture, format="rgb24")
    encoder = av.CodecContext.create("libx265", "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv444p"
    encoder.time_base = Fraction(1)
    colours = "range=full:colormatrix=smpte170m:colorprim=bt709:transfer=iec61966-2-1"
    encoder.options = {"x265-params": f"log-level=none:lossless=1:{colours}"}
    frame = rgb.reformat(format="yuv444p", dst_colorspace="ITU601", dst_color_range="JPEG")
    stream = b"".join(map(bytes, [*encoder.encode(frame), *encoder.encode()]))
    units = re.split(b"\0\0\0?\1", stream)[1:]
    kinds = {unit[0] >> 1: unit for unit in units}
    sets = b"".join(
        struct.pack(">BHH", 0x80 | kind, 1, len(kinds[kind])) + kinds[kind] for kind in (32, 33, 34)
    )
    profile = kinds[33].replace(b"\0\0\3", b"\0\0")[3:15]
    bits = struct.pack(">HBBBBHBB", 0xF000, 0xFC, 0xFF, 0xF8, 0xF8, 0, 0x0F, 3)
    slices = [struct.pack(">I", len(unit)) + unit for unit in units if unit[0] >> 1 < 32]
    exif = Image.Exif()
    exif[0x0112] = orientation
    items = [b"".join(slices), struct.pack(">I", 6) + exif.tobytes()]
    properties = [
        iso_box(b"hvcC", b"\1", profile, bits, sets),
        iso_box(b"ispe", struct.pack(">II", width, height), version=0),
        iso_box(b"irot", bytes([quarters])),
        iso_box(b"colr", b"prof", icc) if icc else b"",
    ]
    used = bytes(range(0x81, 0x81 + len([each for each in properties if each])))

    def head(begins: int) -> bytes:
        kinds = (struct.pack(">HH4sx", n, 0, kind) for n, kind in ((1, b"hvc1"), (2, b"Exif")))
        places = (
            struct.pack(">HHHII", n + 1, 0, 1, begins + n * len(items[0]), len(item))
            for n, item in enumerate(items)
        )
        infos = (iso_box(b"infe", kind, version=2) for kind in kinds)
        return iso_box(b"ftyp", b"heic", bytes(4), b"mif1heic") + iso_box(
            b"meta",
            iso_box(b"hdlr", struct.pack(">I4s13x", 0, b"pict"), version=0),
            iso_box(b"pitm", struct.pack(">H", 1), version=0),
            iso_box(b"iinf", struct.pack(">H", 2), *infos, version=0),
            iso_box(b"iref", iso_box(b"cdsc", struct.pack(">HHH", 2, 1, 1)), version=0),
            iso_box(
                b"iprp",
                iso_box(b"ipco", *properties),
                iso_box(b"ipma", struct.pack(">IHB", 1, 1, len(used)), used, version=0),
            ),
            iso_box(b"iloc", struct.pack(">BBH", 0x44, 0, 2), *places, version=0),
            version=0,
        )

    return head(len(head(0)) + 8) + iso_box(b"mdat", *items)


@pytest.mark.parametrize(("quarters", "orientation"), [(0, 1), (3, 6), (1, 8), (2, 3)])
def test_heic_of_a_phone_is_turned_once(tmp_path: Path, quarters: int, orientation: int) -> None:
    picture = to_array(smooth())
    path = tmp_path / "IMG_0001.HEIC"
    path.write_bytes(heic(picture, quarters, orientation))
    difference = pixels(path).astype(int) - np.rot90(picture, quarters)
    assert np.abs(difference).max() <= 3


def test_heic_is_converted_by_its_profile(tmp_path: Path) -> None:
    path = tmp_path / "a.heif"
    path.write_bytes(heic(np.full((64, 64, 3), 55, np.uint8), icc=icc_profile(b"RGB ", 1.0)))
    assert np.abs(pixels(path).astype(int) - 128).max() <= 2


def test_heic_without_its_library_is_refused_with_a_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.heic"
    path.write_bytes(heic(np.zeros((64, 64, 3), np.uint8)))
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    assert "pi-heif" in refusal(path)
    assert "JPEG" in refusal(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_heic_cut_short_is_refused(tmp_path: Path, share: float) -> None:
    content = heic(to_array(smooth()))
    (tmp_path / "a.heic").write_bytes(content[: int(share * len(content))])
    refusal(tmp_path / "a.heic")


@pytest.mark.parametrize("orientation", [1, 6])
def test_avif_is_read_upright(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = to_array(smooth())
    Image.fromarray(picture).save(tmp_path / "a.avif", quality=100, subsampling="4:4:4", exif=exif)
    upright = picture if orientation == 1 else np.rot90(picture, 3)
    assert np.abs(pixels(tmp_path / "a.avif").astype(int) - upright).max() <= 6


def test_jfif_is_jpeg(tmp_path: Path) -> None:
    Image.fromarray(to_array(smooth())).save(tmp_path / "a.jfif", "JPEG", quality=100)
    assert (load_image(tmp_path / "a.jfif") - smooth()).abs().max() < 0.04


def tiff(pixels: np.ndarray, *more: tuple[int, int, int, int], bits: int = 0) -> bytes:
    """One page of grey; `more` are tags `(number, type, count, value)`."""
    tags = {
        tag[0]: tag
        for tag in [
            (256, 3, 1, pixels.shape[1]),
            (257, 3, 1, pixels.shape[0]),
            (258, 3, 1, bits or 8 * pixels.dtype.itemsize),
            (259, 3, 1, 1),
            (262, 3, 1, 1),
            (273, 4, 1, 8),
            (277, 3, 1, 1),
            (278, 4, 1, pixels.shape[0]),
            (279, 4, 1, pixels.nbytes),
            *more,
        ]
    }
    directory = b"".join(struct.pack("<HHII", *tags[number]) for number in sorted(tags))
    start = struct.pack("<I", 8 + pixels.nbytes)
    return b"II*\0" + start + pixels.tobytes() + struct.pack("<H", len(tags)) + directory + bytes(4)


RAMP = np.linspace(0, 1, 256)[None].repeat(2, axis=0)


def test_16_bit_tiff_in_which_0_is_white_is_the_same_ramp(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(np.rint(65535 * (1 - RAMP)).astype("<u2"), (262, 3, 1, 0)))
    assert np.array_equal(pixels(path)[0, :, 0], np.arange(256))


def test_12_bit_tiff_is_the_same_ramp(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    pairs = np.rint(4095 * RAMP).astype(int).reshape(-1, 2)
    packed = np.stack(
        [pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], axis=1
    )
    content = packed.astype(np.uint8).reshape(2, -1)
    path.write_bytes(tiff(content, (256, 3, 1, 256), bits=12))
    assert np.abs(pixels(path)[0, :, 0] - np.arange(256)).max() <= 1


@pytest.mark.parametrize(
    ("kind", "sample_format"),
    [("<u4", 1), ("<i4", 2), ("<i2", 2), ("<f4", 3), ("<f8", 3)],
)
def test_tiff_of_other_numbers_is_refused_with_a_way_out(
    tmp_path: Path, kind: str, sample_format: int
) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(tiff((100 * RAMP).astype(kind), (339, 3, 1, sample_format)))
    assert "save it with 8 or 16 bits a channel" in refusal(path)


@pytest.mark.parametrize("compression", [None, "tiff_deflate"])
@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_turned_tiffs_come_upright(tmp_path: Path, mode: str, compression: str | None) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(NOISE).convert(mode)
    stored.save(tmp_path / "a.tif", exif=exif, compression=compression)
    upright = np.rot90(np.asarray(stored.convert("RGB")), 3)
    assert np.array_equal(pixels(tmp_path / "a.tif"), upright)
    assert load_image(tmp_path / "a.tif", 10).shape == (1, 3, 10, 6)


@pytest.mark.parametrize("first", [True, False])
def test_largest_page_of_a_tiff_is_read(tmp_path: Path, first: bool) -> None:
    thumbnail, picture = Image.new("RGB", (16, 12), "red"), Image.new("RGB", (64, 48), "blue")
    pages = [picture, thumbnail] if first else [thumbnail, picture]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    assert load_image(tmp_path / "a.tif").shape == (1, 3, 48, 64)
    assert pixel(tmp_path / "a.tif") == (0, 0, 255)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("DSC_0001.NEF", tiff(np.zeros((12, 16), np.uint8))),
        ("a.dng", tiff(np.zeros((12, 16), np.uint8))),
        ("dng.tif", tiff(np.zeros((12, 16), np.uint8), (50706, 1, 4, 0x0401))),
        ("nef.tif", tiff(np.zeros((12, 16), np.uint8), (254, 4, 1, 1), (330, 4, 1, 8))),
        ("cr2.jpg", b"II*\0\x10\0\0\0CR\2\0" + bytes(99)),
        ("cr3.jpg", iso_box(b"ftyp", b"crx ", bytes(99))),
        ("raf.jpg", b"FUJIFILMCCD-RAW 0201" + bytes(99)),
        ("orf.jpg", b"IIRO" + bytes(99)),
        ("rw2.jpg", b"IIU\0" + bytes(99)),
    ],
)
def test_camera_raw_is_refused_with_a_way_out(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert "raw file; export it as JPEG or TIFF" in refusal(tmp_path / name)


# Large pictures


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("crop", [None, (0.5, 0.25, 1, 0.75), (0.1, 0.1, 0.13, 0.2)])
def test_a_large_picture_comes_smaller_and_looks_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, crop: Box | None
) -> None:
    path = tmp_path / f"a{suffix}"
    exif = Image.Exif()
    exif[0x0112] = 6
    y, x = np.mgrid[:333, :600] / 40
    waves = np.stack([np.sin(x) / 2 + 0.5, np.cos(y) / 2 + 0.5, np.sin(x + y) / 2 + 0.5], axis=-1)
    Image.fromarray((255 * waves).astype(np.uint8)).save(path, exif=exif, quality=95)
    exact, whole = load_image(path, 32, crop=crop), load_image(path, crop=crop)
    assert torch.equal(load_image(path, crop=crop, for_size=32), whole)
    monkeypatch.setattr(images, "_LARGE", 99_999)
    small, part = load_image(path, 32, crop=crop), load_image(path, crop=crop, for_size=32)
    assert small.shape == exact.shape
    assert (small - exact).abs().max() < 0.05
    longest = max(whole.shape[2:])
    assert max(part.shape[2:]) == min(32, longest)
    assert (resize(part, 32) - exact).abs().max() < 0.05
    assert torch.equal(load_image(path, crop=crop), whole)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read there")
@pytest.mark.parametrize("sides", [(13376, 10032)])
def test_134_megapixels_take_less_than_a_gigabyte(tmp_path: Path, sides: tuple[int, int]) -> None:
    Image.new("RGB", sides, "teal").save(tmp_path / "a.jpg")
    script = (
        "import sys; from workbench import load_image\n"
        "print(*load_image(sys.argv[1], 1024).shape)\n"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "a.jpg")]
    shape, peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )[:2]
    assert shape == "1 3 768 1024"
    assert int(peak) < 1_000_000


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read there")
def test_100_megapixels_are_saved_beside_one_copy_in_8_bits(tmp_path: Path) -> None:
    script = (
        "import sys, torch; from workbench import save_image\n"
        "from workbench.devices import peak_megabytes, reset_peak_megabytes\n"
        "image = torch.zeros(1, 3, 1000, 1000).expand(1, 3, 1000, 1000).repeat(1, 1, 10, 10)\n"
        "reset_peak_megabytes(); before = peak_megabytes(); save_image(image, sys.argv[1])\n"
        "print(peak_megabytes() - before)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "a.jpg")]
    more = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert float(more) < 8 * 100  # megabytes; a float copy alone is 1200


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("opaque", [None, 0.25])
def test_16_bits_keep_what_8_would_round(tmp_path: Path, suffix: str, opaque: float | None) -> None:
    ramp = (
        torch.linspace(0, 1, 3000).expand(1, 3, 2, 3000)
        * torch.tensor([1, 0.5, 0.25])[None, :, None, None]
    )
    alpha = None if opaque is None else torch.full((1, 1, 1, 1), opaque)
    save_image(ramp, tmp_path / f"a{suffix}", alpha=alpha, bits=16)
    read = cv2.imread(str(tmp_path / f"a{suffix}"), cv2.IMREAD_UNCHANGED)
    assert (read.dtype, read.shape[2]) == (np.uint16, 3 if opaque is None else 4)
    colours = read[..., :3][..., ::-1] / 65535
    assert abs(colours - ramp[0].permute(1, 2, 0).numpy()).max() < 0.6 / 65535
    if opaque is None:
        assert (load_image(tmp_path / f"a{suffix}") - ramp).abs().max() < 1.1 / 255
    else:
        assert abs(read[..., 3] / 65535 - opaque).max() < 1e-5


def test_16_bits_where_there_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a.jpg: .jpg has 8 bits a colour; use .png or .tif"):
        save_image(smooth(), tmp_path / "a.jpg", bits=16)
    with pytest.raises(InputError, match="bits = 12: use 8 or 16"):
        save_image(smooth(), tmp_path / "a.png", bits=12)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [0, -5])
def test_no_picture_has_no_pixels(tmp_path: Path, size: int) -> None:
    save_image(smooth(), tmp_path / "a.png")
    with pytest.raises(InputError, match=f"size = {size}: give a number of pixels from 1"):
        load_image(tmp_path / "a.png", size)


def test_reading_in_threads_leaves_warnings_as_they_are(tmp_path: Path) -> None:
    save_image(smooth(), tmp_path / "a.png")
    before = list(warnings.filters)
    threads = [
        threading.Thread(target=lambda: [load_image(tmp_path / "a.png") for _ in range(30)])
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before


def test_home_is_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    save_image(smooth(), "~/new/a{b}.png")
    assert (tmp_path / "new" / "a{b}.png").is_file()
    assert load_image("~/new/a{b}.png").shape == smooth().shape
    assert load_mask("~/new/a{b}.png").shape == (1, 1, 48, 64)
    assert "a{b}" in refusal(tmp_path / "a{b}.jpg")
    refusal("~nobody-has-this-name/a.png")
    with pytest.raises(InputError, match="there is no such file"):
        load_image(os.fsdecode(b"/tmp/no\xff.png"))


# Transparency kept


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif", ".jpg", ".bmp"])
def test_transparency_is_kept_where_the_format_holds_it(tmp_path: Path, suffix: str) -> None:
    logo = np.full((24, 32, 4), 200, np.uint8)
    logo[..., 3] = np.linspace(0, 255, 32).astype(np.uint8)
    Image.fromarray(logo).save(tmp_path / "logo.png")
    _, alpha = load_with_alpha(tmp_path / "logo.png")
    assert alpha is not None
    assert torch.equal(alpha[0, 0], torch.from_numpy(logo[..., 3]) / 255)
    _, right = load_with_alpha(tmp_path / "logo.png", crop=(0.5, 0, 1, 1))
    assert right is not None
    assert torch.equal(right, alpha[..., 16:])
    path = tmp_path / f"a{suffix}"
    save_image(smooth(), path, alpha=alpha)
    with Image.open(path) as saved:
        assert saved.size == (64, 48)
        assert (saved.mode == "RGBA") == (suffix in (".png", ".webp", ".tif"))
        if saved.mode == "RGBA":
            kept = np.asarray(saved.getchannel("A")) / 255
            assert np.abs(kept - resize(alpha, (48, 64)).numpy()[0, 0]).max() < 0.01


def test_opaque_pictures_have_no_alpha(tmp_path: Path) -> None:
    Image.fromarray(NOISE).save(tmp_path / "a.png")
    Image.fromarray(NOISE).convert("RGBA").save(tmp_path / "b.png")
    assert load_with_alpha(tmp_path / "a.png")[1] is None
    assert load_with_alpha(tmp_path / "b.png")[1] is None


# Sizes and crops


@unhurried
@given(st.integers(1, 20000), st.integers(1, 20000), st.integers(1, 16384))
def test_fit_keeps_proportions_within_half_a_pixel(height: int, width: int, size: int) -> None:
    fitted = fit((height, width), size)
    scale = size / max(height, width)
    assert max(fitted) == size
    for side, before in zip(fitted, (height, width), strict=True):
        assert side == 1 or abs(side - before * scale) <= 0.5 + 1e-6
        assert side >= 1


@pytest.mark.parametrize("size", [8, 20, 33])
def test_longest_side_gets_the_size(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(NOISE).save(path)
    assert load_image(path, size).shape == (1, 3, round(12 * size / 20), size)


def test_fine_checkerboard_shrinks_to_grey() -> None:
    board = (torch.arange(256)[:, None] + torch.arange(256)) % 2
    small = resize(board.expand(1, 3, 256, 256).float(), 37)
    assert small.shape == (1, 3, 37, 37)
    assert (small - 0.5).abs().max() < 0.02


def test_resizing_stays_within_black_and_white() -> None:
    edge = torch.zeros(1, 3, 8, 8)
    edge[..., 4:] = 1
    large = resize(edge, (31, 50))
    assert large.shape == (1, 3, 31, 50)
    assert large.min() == 0
    assert large.max() == 1


def test_same_size_changes_nothing() -> None:
    assert torch.equal(resize(from_array(NOISE), 20), from_array(NOISE))


@unhurried
@given(st.data(), st.integers(1, 40), st.integers(1, 40))
def test_crop_at_pixel_edges_is_a_slice(data: st.DataObject, height: int, width: int) -> None:
    x0, y0 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    x1, y1 = data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height))
    image = torch.arange(3.0 * height * width).reshape(1, 3, height, width)
    part = crop_image(image, (x0 / width, y0 / height, x1 / width, y1 / height))
    assert torch.equal(part, image[..., y0:y1, x0:x1])


@unhurried
@given(spans, spans, st.integers(1, 40), st.integers(1, 40))
def test_crop_has_its_share_of_pixels_and_at_least_one(
    across: list[float], down: list[float], height: int, width: int
) -> None:
    crop = (across[0], down[0], across[1], down[1])
    part = crop_image(torch.zeros(1, 3, height, width), crop)
    for side, edges, whole in zip(part.shape[2:], (down, across), (height, width), strict=True):
        assert 1 <= side <= whole
        assert abs(side - (edges[1] - edges[0]) * whole) <= 1


def test_crop_is_cut_before_resizing(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(NOISE).save(path)
    part = load_image(path, 10, crop=(0.5, 0, 1, 1))
    assert torch.equal(part, resize(from_array(NOISE[:, 10:]), 10))
    assert part.shape == (1, 3, 10, 8)


@pytest.mark.parametrize(
    "crop",
    [
        (0.5, 0, 0.5, 1),
        (0, 0.6, 1, 0.4),
        (-0.1, 0, 1, 1),
        (0, 0, 1, 1.1),
        (0, 0, 640, 480),
        (float("nan"), 0, 1, 1),
        (0, 0, 1),
        (0, 0, 1, 1, 1),
        ("left", 0, 1, 1),
        None,
    ],
)
def test_crop_that_is_no_box_of_fractions_is_refused(crop: object) -> None:
    with pytest.raises(InputError, match="fractions"):
        crop_image(from_array(NOISE), crop)


# Files that cannot be read


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, kind)
    return buffer.getvalue()


def png_chunk(name: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + checksum


def test_missing_file_is_named(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "missing.png")
    assert "no such file" in refusal(str(tmp_path / "missing.png"))


def test_folder_is_no_picture(tmp_path: Path) -> None:
    assert "folder" in refusal(tmp_path)


def test_empty_file_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    assert "empty" in refusal(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jpg", b"This is a text and no picture.\n" * 20),
        ("a.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"),
        ("a.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"),
        ("a.jpg", b"%PDF-1.4\n1 0 obj\n<< /Type /Catalog >>\nendobj\n%%EOF\n"),
        ("a.png", b"P6 1 1 255\nabc"),
    ],
    ids=["text", "eps", "eps named png", "pdf", "ppm"],
)
def test_other_content_is_refused_whatever_its_name(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    assert "not a picture that can be read (JPEG, PNG" in refusal(tmp_path / name)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "BMP", "WEBP"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_picture_cut_short_is_refused(tmp_path: Path, kind: str, share: float) -> None:
    path = tmp_path / "a"
    content = encoded(kind)
    path.write_bytes(content[: int(share * len(content))])
    refusal(path)


def test_cut_short_is_said_in_words(tmp_path: Path) -> None:
    for kind in ("JPEG", "PNG"):
        path = tmp_path / kind
        path.write_bytes(encoded(kind)[:-2000])
        assert "cut short" in refusal(path)


@pytest.mark.filterwarnings("ignore::UserWarning")
@unhurried
@given(st.data(), st.sampled_from(["JPEG", "PNG", "TIFF", "GIF", "WEBP", "BMP"]))
def test_damage_never_shows_as_another_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, kind: str
) -> None:
    content = bytearray(encoded(kind))
    for place in data.draw(st.lists(st.integers(0, 200), min_size=1, max_size=3)):
        content[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content)
    with contextlib.suppress(InputError):
        assert load_image(path).shape[:2] == (1, 3)


def test_picture_that_unpacks_without_bounds_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    size = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + size + png_chunk(b"IDAT", zlib.compress(bytes(99))))
    assert "million pixels" in refusal(path)


def test_picture_up_to_the_bound_is_read_without_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(NOISE).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 12 * 20 // 2)
    assert np.array_equal(pixels(path), NOISE)
    assert not list(recwarn)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 12 * 20 // 2 - 1)
    assert "shrink it" in refusal(path)


def test_name_that_no_file_can_have_is_refused() -> None:
    refusal("a" * 300 + ".png")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read everything")
def test_file_without_permission_is_named(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "a.png"
    save_image(smooth(), path)
    path.chmod(0)
    assert "permission denied" in refusal(path)
    path.parent.chmod(0)
    try:
        assert "permission denied" in refusal(path)
    finally:
        path.parent.chmod(0o700)


def test_floating_point_pixels_are_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "float.tif"
    Image.fromarray(np.ones((20, 20), np.float32)).save(path)
    with pytest.raises(InputError, match=r"float\.tif has floating-point pixels; save it with 8"):
        load_image(path)


# --- masks -------------------------------------------------------------------------------


def test_masks_are_read_as_brightness_and_must_not_be_black(tmp_path: Path) -> None:
    picture = np.zeros((4, 6, 3), np.uint8)
    picture[:, :3] = 255
    picture[:, 3] = (255, 0, 0)
    Image.fromarray(picture).save(tmp_path / "mask.png")
    mask = load_mask(tmp_path / "mask.png")
    assert mask.shape == (1, 1, 4, 6)
    assert torch.allclose(mask[0, 0, 0], torch.tensor([1, 1, 1, 0.299, 0, 0]), atol=1e-3)
    assert load_mask(tmp_path / "mask.png", crop=(0, 0, 0.5, 1)).min() > 0.999
    Image.fromarray(0 * picture).save(tmp_path / "black.png")
    with pytest.raises(InputError, match=r"black\.png is black all over; a mask is white where"):
        load_mask(tmp_path / "black.png")


def test_what_is_cut_out_is_the_mask(tmp_path: Path) -> None:
    cut = np.full((6, 8, 4), 30, np.uint8)
    cut[..., 3] = 0
    cut[:3, :4, 3] = 255
    cut[:3, 4, 3] = 128
    path = tmp_path / "cut.png"
    Image.fromarray(cut).save(path)
    expected = torch.from_numpy(cut[..., 3]) / 255
    assert torch.equal(load_mask(path)[0, 0], expected)
    assert torch.equal(load_mask(path, crop=(0, 0, 0.5, 0.5)), torch.ones(1, 1, 3, 4))
    with pytest.raises(InputError, match=r"cut\.png is transparent all over"):
        load_mask(path, crop=(0, 0.5, 1, 1))
    Image.fromarray(cut[..., [0, 3]]).save(path)  # grey
    assert torch.equal(load_mask(path)[0, 0], expected)
    cut[..., 3] = 0
    Image.fromarray(cut).save(path)
    with pytest.raises(InputError, match=r"cut\.png is transparent all over"):
        load_mask(path)
    cut[..., :3], cut[:3, :4, :3], cut[..., 3] = 0, 255, 200
    Image.fromarray(cut).save(path)
    assert torch.equal(load_mask(path)[0, 0] > 0.5, torch.from_numpy(cut[..., 0]) > 127)


@given(seed=st.integers(0, 1000), many=st.integers(1, 4))
def test_shared_masks_never_add_up_to_more_than_one(seed: int, many: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    sides = [int(torch.randint(2, 40, (), generator=generator)) for _ in range(2 * many)]
    masks = [torch.rand(1, 1, *sides[2 * k : 2 * k + 2], generator=generator) for k in range(many)]
    shared = share_masks(masks, (12, 17))
    assert [mask.shape for mask in shared] == [(1, 1, 12, 17)] * many
    assert torch.stack(shared).sum(dim=0).max() <= 1 + 1e-6
    assert torch.stack(shared).min() >= 0


def test_a_mask_alone_stays_as_it_is() -> None:
    mask = torch.rand(1, 1, 9, 8)
    assert torch.equal(share_masks([mask], (9, 8))[0], mask)
    assert share_masks([], (9, 8)) == ()
