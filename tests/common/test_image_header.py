"""What is refused before an image is decoded."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image, features

from ssd.common.errors import DataError
from ssd.common.image_header import is_image, open_image, read_size
from ssd.common.images import read_image

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"


def blank_png(side: int, *, mode: int, channels: int) -> bytes:
    """A small file of many pixels, all 0."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    compressor, row = zlib.compressobj(9), bytes(side * channels + 1)
    data = b"".join(compressor.compress(row) for _ in range(side)) + compressor.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, mode, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_no_format_that_starts_a_program_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.init()

    def refuse(*_: object) -> None:
        raise AssertionError("Pillow tried another format")

    for name in ("EPS", "WMF", "FPX", "MIC", "PSD", "PCD", "FITS", "GRIB", "HDF5"):
        if name in Image.OPEN:
            monkeypatch.setitem(Image.OPEN, name, (refuse, lambda _: True))
    path = tmp_path / "a.jpg"
    path.write_bytes(EPS)
    for read in (read_image, read_size):
        with pytest.raises(DataError, match=r"a\.jpg: not an image"):
            read(path)
    assert not is_image(path)


def test_fifos_and_devices_are_no_images(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    for read in (read_image, read_size, is_image):
        with pytest.raises(DataError, match="it is a FIFO"):
            read(tmp_path / "a.jpg")
        with pytest.raises(DataError, match="it is a device"):
            read("/dev/zero")


def test_transparent_images_have_a_lower_limit(tmp_path: Path) -> None:
    """Blending needs several copies of four channels: 14,100 x 14,100 pixels would take 4.6 GB."""
    path = tmp_path / "a.png"
    path.write_bytes(blank_png(14_100, mode=6, channels=4))
    assert path.stat().st_size < 1_000_000
    for read in (read_image, read_size):
        with pytest.raises(DataError, match=r"a\.png: 14100x14100 with transparency is over the limit"):
            read(path)
    with Path(path).open("wb") as file:
        file.write(blank_png(14_100, mode=0, channels=1))
    assert read_size(path) == (14_100, 14_100)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM", "AVIF", "JPEG2000"])
def test_the_formats_of_photographs_are_read(kind: str, tmp_path: Path) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a", kind)
    assert is_image(tmp_path / "a")
    assert read_size(tmp_path / "a") == (30, 40)
    with (tmp_path / "a").open("rb", buffering=0) as file:
        assert open_image(file, "a").format == kind
