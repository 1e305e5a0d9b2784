from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ssd.common import image_header
from ssd.common.errors import DataError
from ssd.common.image_formats import IMAGE_SUFFIXES
from ssd.common.image_header import read_size
from ssd.common.images import decode_image, read_image, warp

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
LOSSLESS = {"PNG": {}, "WEBP": {"lossless": True}, "TIFF": {}}
# How a camera stores an upright image: where its first row and column are (EXIF 2.3, section 4.6.4, Orientation)
STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda upright: upright,  # top, left
    2: lambda upright: upright[:, ::-1],  # top, right
    3: lambda upright: upright[::-1, ::-1],  # bottom, right
    4: lambda upright: upright[::-1],  # bottom, left
    5: lambda upright: upright.swapaxes(0, 1),  # left, top
    6: lambda upright: upright.swapaxes(0, 1)[::-1],  # right, top
    7: lambda upright: upright.swapaxes(0, 1)[::-1, ::-1],  # right, bottom
    8: lambda upright: upright.swapaxes(0, 1)[:, ::-1],  # left, bottom
}


def encode(image: Image.Image | np.ndarray, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(data: bytes) -> list[list[int]]:
    """The pixels of an image of one row."""
    return decode_image(data, name="image")[0].tolist()


def quadrants(height: int = 32, width: int = 48) -> np.ndarray:
    """Four colours that JPEG nearly preserves; every orientation looks different."""
    image = np.full((height, width, 3), 90, dtype=np.uint8)
    image[: height // 2, : width // 2] = (200, 40, 40)
    image[: height // 2, width // 2 :] = (40, 180, 60)
    image[height // 2 :, : width // 2] = (50, 60, 220)
    return image


def noise(height: int = 40, width: int = 56) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


# Golden pixels


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_lossless_rgb_comes_back_as_it_is(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    assert np.array_equal(decode_image(encode(noise(), kind, **options), name="image"), noise())


def test_rgb_of_a_jpeg_is_not_bgr() -> None:
    image = decode_image(encode(quadrants(), "JPEG", quality=95), name="image")
    assert np.abs(image.astype(int) - quadrants())[4:-4:8, 4:-4:8].max() <= 6


def test_gray_becomes_three_equal_channels() -> None:
    gray = np.array([[0, 128, 255]], dtype=np.uint8)
    assert pixels(encode(gray, "PNG")) == [[0] * 3, [128] * 3, [255] * 3]
    flat = np.full((16, 16), 77, dtype=np.uint8)
    assert np.array_equal(decode_image(encode(flat, "JPEG"), name="image"), np.full((16, 16, 3), 77))


def test_one_bit_becomes_black_and_white() -> None:
    assert pixels(encode(Image.fromarray(np.array([[False, True]])), "PNG")) == [[0] * 3, [255] * 3]


def test_transparency_is_blended_over_white() -> None:
    rgba = np.array([[[255, 0, 0, 255], [255, 0, 0, 0], [0, 0, 0, 51]]], dtype=np.uint8)
    assert pixels(encode(rgba, "PNG")) == [list(RED), list(WHITE), [204] * 3]  # 255 * (1 - 51/255)
    gray = np.array([[[40, 255], [40, 0]]], dtype=np.uint8)
    assert pixels(encode(Image.fromarray(gray), "PNG")) == [[40] * 3, [255] * 3]


def palette() -> Image.Image:
    image = Image.new("P", (3, 1))
    image.putpalette([*RED, *GREEN, *BLUE])
    image.putdata([0, 1, 2])
    return image


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_palette_is_looked_up(kind: str) -> None:
    assert pixels(encode(palette(), kind)) == [list(RED), list(GREEN), list(BLUE)]


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_transparent_colour_of_a_palette_is_white(kind: str) -> None:
    assert pixels(encode(palette(), kind, transparency=1)) == [list(RED), list(WHITE), list(BLUE)]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_cut_to_the_upper_eight(kind: str) -> None:
    gray = np.array([[0, 0x00FF, 0x0100, 0x80FF, 0xFFFF]], dtype=np.uint16)
    assert pixels(encode(gray, kind)) == [[value] * 3 for value in (0, 0, 1, 0x80, 0xFF)]


def test_sixteen_bits_a_channel_are_cut_to_the_upper_eight() -> None:
    bgr = np.array([[[0x10FF, 0x80FF, 0xFFFF]]], dtype=np.uint16)
    assert pixels(cv2.imencode(".png", bgr)[1].tobytes()) == [[0xFF, 0x80, 0x10]]


def test_cmyk_jpeg_becomes_rgb() -> None:
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # magenta and yellow ink
    image = decode_image(encode(cmyk, "JPEG", quality=95), name="image")
    assert np.abs(image.astype(int) - RED).max() <= 4


# Upright


@pytest.mark.parametrize("kind", LOSSLESS)
@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation_is_applied(kind: str, orientation: int, tmp_path: Path) -> None:
    upright = noise()
    path = tmp_path / "image"
    stored = np.ascontiguousarray(STORED[orientation](upright))
    path.write_bytes(encode(stored, kind, exif=exif(orientation), **LOSSLESS[kind]))
    assert np.array_equal(read_image(path), upright)
    assert read_size(path) == upright.shape[:2]


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation_of_a_jpeg_is_applied(mode: str, orientation: int, tmp_path: Path) -> None:
    upright = quadrants()
    path = tmp_path / "image.jpg"
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright))).convert(mode)
    path.write_bytes(encode(stored, "JPEG", quality=95, exif=exif(orientation)))
    expected = np.asarray(Image.fromarray(upright).convert(mode).convert("RGB")).astype(int)
    assert np.abs(read_image(path) - expected)[4:-4:8, 4:-4:8].max() <= 6
    assert read_size(path) == upright.shape[:2]


def test_orientation_of_sixteen_bits_is_applied() -> None:
    upright = np.array([[0x1000, 0x2000, 0x3000]], dtype=np.uint16)
    stored = np.ascontiguousarray(STORED[6](upright))
    assert pixels(encode(stored, "PNG", exif=exif(6))) == [[0x10] * 3, [0x20] * 3, [0x30] * 3]


@pytest.mark.parametrize("orientation", [0, 9, 4242])
def test_meaningless_orientation_turns_nothing(orientation: int, tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    path.write_bytes(encode(quadrants(), "JPEG", exif=exif(orientation)))
    assert read_image(path).shape[:2] == read_size(path) == (32, 48)


def test_size_and_image_agree_on_an_orientation_in_xmp_only(tmp_path: Path) -> None:
    """Pillow reads it there too, OpenCV does not."""
    path = tmp_path / "image.jpg"
    path.write_bytes(encode(quadrants(), "JPEG", xmp=b'<rdf:Description tiff:Orientation="6"/>'))
    assert read_image(path).shape[:2] == read_size(path)


# Sizes from headers


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("more", [{}, {"progressive": True}, {"icc_profile": bytes(9000)}, {"comment": b"hello"}])
def test_size_of_a_plain_jpeg(mode: str, more: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    path.write_bytes(encode(Image.fromarray(noise()).convert(mode), "JPEG", **more))
    assert read_size(path) == read_image(path).shape[:2]


def test_plain_jpeg_is_not_shown_to_pillow_and_exif_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_header, "_size_by_pillow", lambda file, name: (0, 0))
    for number, more in enumerate(({}, {"exif": exif(6)}, {"xmp": b"<x/>"})):
        path = tmp_path / f"{number}.jpg"
        path.write_bytes(encode(noise(), "JPEG", **more))
    assert [read_size(tmp_path / f"{number}.jpg") for number in range(3)] == [noise().shape[:2], (0, 0), (0, 0)]


def test_png_is_not_decoded_for_its_size(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    data = encode(noise(), "PNG")
    start = data.index(b"IDAT") + 4
    path.write_bytes(data[:start] + bytes(20) + data[start + 20 :])
    assert read_size(path) == noise().shape[:2]
    refused(path, "damaged")


def test_orientation_behind_the_pixels_of_a_png_is_applied(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    data, tags = encode(noise(), "PNG"), exif(6).tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(tags)) + b"eXIf" + tags + struct.pack(">I", zlib.crc32(b"eXIf" + tags))
    path.write_bytes(data[:-12] + chunk + data[-12:])
    assert read_size(path) == read_image(path).shape[:2] == noise().shape[1::-1]


# Faults: each names the file


def refused(path: Path, match: str, *, read: Callable[[Path], object] = read_image) -> None:
    with pytest.raises(DataError, match=match) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("read", [read_image, read_size])
def test_a_file_that_is_not_an_image_is_named(read: Callable[[Path], object], tmp_path: Path) -> None:
    refused(tmp_path / "missing.jpg", "no such image", read=read)
    refused(tmp_path, "cannot be read: it is a folder", read=read)
    (tmp_path / "empty.jpg").touch()
    refused(tmp_path / "empty.jpg", "empty file", read=read)
    (tmp_path / "page.jpg").write_text("\n<!DOCTYPE html><html><body>404</body></html>")
    refused(tmp_path / "page.jpg", "looks like a web page", read=read)
    (tmp_path / "junk.png").write_bytes(bytes(range(256)))
    refused(tmp_path / "junk.png", "not an image", read=read)


@pytest.mark.parametrize("read", [read_image, read_size])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_truncated_jpeg_is_named(read: Callable[[Path], object], progressive: bool, mode: str, tmp_path: Path) -> None:
    """OpenCV returns a half-gray image for it."""
    path = tmp_path / "cut.jpg"
    data = encode(Image.fromarray(noise()).convert(mode), "JPEG", progressive=progressive)
    for length in (3, 10, 100, len(data) // 2, len(data) - 100, len(data) - 2, len(data) - 1):
        path.write_bytes(data[:length])
        refused(path, "not an image|damaged|truncated", read=read)


def test_the_end_of_a_thumbnail_is_not_the_end_of_the_image(tmp_path: Path) -> None:
    thumbnail = encode(noise(8, 8), "JPEG")
    data = encode(noise(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0" + thumbnail)
    assert decode_image(data, name="whole").shape == noise().shape
    path = tmp_path / "cut.jpg"
    path.write_bytes(data[: len(data) // 2])
    refused(path, "truncated JPEG")


def test_bytes_after_a_jpeg_do_not_matter() -> None:
    """Phones append a trailer there, of any length."""
    data = encode(quadrants(), "JPEG")
    for trailer in (bytes(1000), b"SEFH" + bytes(range(1, 200)) + b"SEFT"):
        assert np.array_equal(decode_image(data + trailer, name="image"), decode_image(data, name="image"))


@pytest.mark.parametrize("read", [read_image, read_size])
def test_truncated_png_is_named(read: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "cut.png"
    data = encode(noise(), "PNG")
    for length in (4, 20, 60, len(data) // 2, len(data) - 30):
        path.write_bytes(data[:length])
        refused(path, "not an image|damaged|truncated", read=read)


@pytest.mark.filterwarnings("ignore:.*Truncated File Read")
@pytest.mark.parametrize("kind", ["WEBP", "TIFF", "BMP", "GIF", "PPM"])
def test_half_of_any_other_image_is_named(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "cut"
    data = encode(noise(), kind)
    for length in (len(data) // 50, len(data) // 4, len(data) // 2, len(data) * 3 // 4):
        path.write_bytes(data[:length])
        refused(path, "cut: ")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM"])
def test_damage_gives_an_image_or_a_data_error(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "damaged"
    data = np.frombuffer(encode(noise(16, 16), kind, **({"exif": exif(6)} if kind != "PPM" else {})), np.uint8)
    rng = np.random.default_rng(0)
    for _ in range(150):
        damaged = data.copy()
        places = rng.integers(0, min(len(data), rng.choice([64, 256, 10_000])), size=rng.integers(1, 6))
        damaged[places] = rng.integers(0, 256, size=len(places))
        path.write_bytes(damaged.tobytes())
        for read in (read_image, read_size):
            try:
                read(path)
            except DataError as error:
                assert str(path) in str(error)  # noqa: PT017


@pytest.mark.parametrize("read", [read_image, read_size])
def test_floating_point_pixels_are_refused(read: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "depth.tif"
    path.write_bytes(encode(np.ones((4, 4), dtype=np.float32), "TIFF"))
    refused(path, "floating-point.*convert to 8 bits", read=read)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint32])
@pytest.mark.parametrize("read", [read_image, read_size])
def test_a_tiff_of_unusual_pixels_is_not_called_no_image(
    read: Callable[[Path], object], dtype: type, tmp_path: Path
) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(cv2.imencode(".tif", np.ones((4, 4, 3), dtype))[1].tobytes())
    refused(path, "damaged TIFF, or its pixels are neither 8 nor 16 bits; convert to 8 bits", read=read)


def test_32_bit_pixels_go_by_their_range(tmp_path: Path) -> None:
    def stored(*values: int) -> bytes:
        return encode(np.array([values], np.int32), "TIFF")

    assert pixels(stored(0, 7, 255)) == [[0] * 3, [7] * 3, [255] * 3]
    assert pixels(stored(0, 0x0700, 0xFFFF)) == [[0] * 3, [7] * 3, [255] * 3]
    path = tmp_path / "a.tif"
    for values in ((-1, 5), (0, 0x10000)):
        path.write_bytes(stored(*values))
        refused(path, "32-bit pixels from .* have no known range; convert to 8 bits", read=read_image)


def test_a_dark_image_of_16_bits_stays_dark() -> None:
    dark = np.array([[0, 200, 255]], np.uint16)
    for suffix in (".png", ".pgm", ".tif"):
        assert pixels(cv2.imencode(suffix, dark)[1].tobytes()) == [[0] * 3] * 3


@pytest.mark.parametrize("read", [read_image, read_size])
def test_the_limit_is_a_number_of_pixels(
    read: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(encode(noise(40, 56), "PNG"))
    monkeypatch.setattr(image_header, "MAX_PIXELS", 40 * 56)
    read(path)
    monkeypatch.setattr(image_header, "MAX_PIXELS", 40 * 56 - 1)
    refused(path, "56x40 is over the limit of 2239 pixels", read=read)


def claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims a large size."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [15_000, 40_000])
def test_a_decompression_bomb_is_refused_before_decoding(side: int, tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(claiming(side, side))
    for read in (read_image, read_size):
        refused(path, "limit of .*00000000 pixels", read=read)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 20_000), (20_000, 1)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_extreme_shapes_work(height: int, width: int, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(encode(np.full((height, width, 3), 200, dtype=np.uint8), kind))
    image = read_image(path)
    assert image.shape == (height, width, 3)
    assert read_size(path) == (height, width)
    assert np.array_equal(warp(image, size=32), np.full((32, 32, 3), 200))


# Warp


def smooth(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(5 * x / width + channel) * np.cos(4 * y / height - channel) for channel in range(3)]
    return np.round(127 + 120 * np.stack(waves, axis=2)).astype(np.uint8)


@given(size=st.integers(1, 40), flip=st.booleans())
def test_whole_window_at_the_same_size_is_identity_or_its_mirror(size: int, flip: bool) -> None:
    image = noise(size, size)
    assert np.array_equal(warp(image, size=size, flip=flip), image[:, ::-1] if flip else image)


@given(size=st.integers(1, 40), height=st.integers(1, 90), width=st.integers(1, 90))
def test_flip_of_the_result_is_the_result_of_the_flip(size: int, height: int, width: int) -> None:
    image = noise(height, width)
    flipped = warp(image, size=size, flip=True)[:, ::-1].astype(int)
    assert np.abs(flipped - warp(image, size=size)).max() <= 4  # OpenCV interpolates in 32nds of a pixel


@given(st.data())
def test_window_of_whole_pixels_is_a_slice(data: st.DataObject) -> None:
    side = 64  # a power of two: its fractions are exact
    image = noise(side, side)
    size = data.draw(st.integers(1, side))
    left, top = data.draw(st.integers(0, side - size)), data.draw(st.integers(0, side - size))
    window = (left / side, top / side, (left + size) / side, (top + size) / side)
    assert np.array_equal(warp(image, window=window, size=size), image[top : top + size, left : left + size])


def test_the_fill_shows_outside_the_image_and_nowhere_else() -> None:
    image = noise(32, 32)
    result = warp(image, window=(-0.5, -0.5, 1.5, 1.5), size=64, fill=(1, 2, 3))
    assert np.array_equal(result[16:48, 16:48], image)
    outside = np.ones((64, 64), dtype=bool)
    outside[16:48, 16:48] = False
    assert (result[outside] == (1, 2, 3)).all()


@pytest.mark.parametrize(("height", "width", "size"), [(50, 50, 80), (60, 90, 50), (99, 70, 64)])
def test_smooth_images_agree_with_opencv_resize(height: int, width: int, size: int) -> None:
    image = smooth(height, width)
    expected = cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)
    assert np.abs(warp(image, size=size).astype(int) - expected).max() <= 2


@pytest.mark.parametrize(("height", "width"), [(200, 200), (333, 517), (1024, 700)])
def test_large_reductions_of_smooth_images_agree_with_averaging(height: int, width: int) -> None:
    image = smooth(height, width)
    expected = cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA)
    assert np.abs(warp(image, size=32).astype(int) - expected).max() <= 3


@pytest.mark.parametrize("side", [128, 200, 333, 1000])
def test_a_fine_checkerboard_becomes_gray(side: int) -> None:
    board = np.where(np.indices((side, side)).sum(axis=0) % 2, 255, 0).astype(np.uint8)
    result = warp(np.repeat(board[..., None], 3, axis=2), size=48).astype(int)
    assert np.abs(result - 127.5).max() <= 25
    assert abs(result.mean() - 127.5) < 2


def test_warp_leaves_its_argument_alone() -> None:
    image = noise(100, 100)
    warp(image, size=20, flip=True)[:] = 0
    assert np.array_equal(image, noise(100, 100))


@pytest.mark.parametrize(("kind", "suffix"), [("AVIF", ".avif"), ("JPEG2000", ".jp2")])
def test_avif_and_jpeg_2000_are_read_where_pillow_can(kind: str, suffix: str, tmp_path: Path) -> None:
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow has no {kind}")
    path = tmp_path / f"a{suffix}"
    Image.new("RGB", (64, 48), (200, 30, 90)).save(path, kind)
    assert read_size(path) == (48, 64)
    assert np.abs(read_image(path).astype(int) - (200, 30, 90)).max() <= 6
    assert suffix in IMAGE_SUFFIXES


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("HEIC", b"\0\0\0\x18ftypheic"),
        ("HEIC", b"\0\0\0\x24ftypmif1"),
        ("JPEG XL", b"\xff\x0a"),
        ("JPEG XL", b"\0\0\0\x0cJXL \r\n"),
    ],
)
def test_a_format_that_is_not_read_is_named(name: str, start: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(start + bytes(40))
    for read in (read_size, read_image):
        with pytest.raises(DataError, match=f"{name} image.*convert it"):
            read(path)
