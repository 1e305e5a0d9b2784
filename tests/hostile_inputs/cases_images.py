"""Images and videos that do harm, or mean to."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from common.test_image_header import EPS, blank_png
from media import write_video
from PIL import Image
from torch import nn
from voc_files import object_xml, write_annotation, write_voc

from hostile_inputs.harness import HostileCase
from ssd.model.backbones import MobileNetV1
from ssd.model.ssd import SSD
from ssd.weights.checkpoint import save_release

PREDICT = ["predict", "checkpoint=model.safetensors", "source=in", "output=out", "device=cpu"]
Content = bytes | Callable[[Path], object]


@cache
def _detector() -> bytes:
    backbone = MobileNetV1(width_multiplier=0.05)
    priors = backbone.default_priors
    model = SSD(backbone, priors, class_names=["=cat", "dog"], image_size=96)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    path = Path(os.environ.get("TMPDIR", "/tmp"), f"detector.{os.getpid()}.safetensors")
    save_release(model, path)
    data = path.read_bytes()
    path.unlink()
    return data


def put(path: Path, content: Content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if callable(content):
        content(path)
    else:
        path.write_bytes(content)


def predict(name: str, content: Content, *settings: str) -> Callable[[Path], list[str]]:
    """A folder with a good image and another file."""

    def make(folder: Path) -> list[str]:
        (folder / "model.safetensors").write_bytes(_detector())
        put(folder / "in" / "good.jpg", image("JPEG"))
        put(folder / "in" / name, content)
        return [*PREDICT, *settings]

    return make


def alone(name: str, content: Content) -> Callable[[Path], list[str]]:
    """The file itself as the source."""

    def make(folder: Path) -> list[str]:
        (folder / "model.safetensors").write_bytes(_detector())
        put(folder / name, content)
        return [*PREDICT[:2], f"source={name}", *PREDICT[3:]]

    return make


def inspect(name: str, content: Content) -> Callable[[Path], list[str]]:
    """The image of an annotation in a small dataset, where the first unreadable image counts."""

    def make(folder: Path) -> list[str]:
        write_voc(folder / "data", {"train": ["a", "b"], "val": ["c"]})
        (folder / "data/JPEGImages/a.jpg").unlink()
        put(folder / "data/JPEGImages" / name, content)
        write_annotation(folder / "data/Annotations/a.xml", [object_xml()])
        return ["inspect", "dataset=voc", "dataset.root=data", "dataset.strict=true"]

    return make


@cache
def image(kind: str, *, size: tuple[int, int] = (60, 40), frames: int = 1, mode: str = "RGB") -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (frames, size[1], size[0], 3), dtype=np.uint8)
    images = [Image.fromarray(frame).convert(mode) for frame in pixels]
    buffer = io.BytesIO()
    more = {"save_all": True, "append_images": images[1:]} if frames > 1 else {}
    images[0].save(buffer, kind, **more)
    return buffer.getvalue()


def png_claiming(width: int, height: int) -> bytes:
    data = bytearray(image("PNG"))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return bytes(data)


def png_with_text(size: int) -> bytes:
    """A chunk of text that is small in the file."""
    text = b"zTXt" + b"Comment\0\0" + zlib.compress(b" " * size)
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    data = image("PNG")
    return data[:33] + chunk + data[33:]


def bmp_claiming(width: int, height: int) -> bytes:
    data = bytearray(image("BMP"))
    data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


def gif_bomb(frames: int) -> bytes:
    """Frames of one pixel, on a screen of 65,535 x 65,535."""
    screen = b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0x80, 0, 0) + bytes(6)
    frame = b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    return screen + frame * frames + b";"


def tiff_loop() -> bytes:
    """Pages whose next page is the first."""
    data = bytearray(image("TIFF"))
    offset = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, offset)[0]
    struct.pack_into("<I", data, offset + 2 + 12 * count, offset)
    return bytes(data)


def tiff_claiming(width: int, height: int) -> bytes:
    data = bytearray(image("TIFF"))
    offset = struct.unpack_from("<I", data, 4)[0]
    for entry in range(offset + 2, offset + 2 + 12 * struct.unpack_from("<H", data, offset)[0], 12):
        tag = struct.unpack_from("<H", data, entry)[0]
        if tag in (256, 257):
            struct.pack_into("<HHII", data, entry, tag, 4, 1, width if tag == 256 else height)
    return bytes(data)


def exif_bomb() -> bytes:
    """EXIF whose directory points to itself."""
    tiff = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 1) + struct.pack("<HHII", 0x8769, 4, 1, 8)
    tiff += struct.pack("<I", 8)
    segment = b"Exif\0\0" + tiff
    return b"\xff\xd8\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + image("JPEG")[2:]


def xmp_bomb() -> bytes:
    entities = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10 if n else "x" * 10}">' for n in range(9))
    text = f"http://ns.adobe.com/xap/1.0/\0<?xml version='1.0'?><!DOCTYPE x [{entities}]><x>&a8;</x>".encode()
    return b"\xff\xd8\xff\xe1" + struct.pack(">H", len(text) + 2) + text + image("JPEG")[2:]


def sparse(path: Path) -> None:
    path.write_bytes(image("JPEG"))
    with path.open("r+b") as file:
        file.truncate(1 << 40)


def svg() -> bytes:
    return b'<svg xmlns="http://www.w3.org/2000/svg"><image href="http://192.0.2.1/a.png"/></svg>'


def playlist() -> bytes:
    return b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://192.0.2.1/a.ts\n#EXT-X-ENDLIST\n"


def concat() -> bytes:
    return b"ffconcat version 1.0\nfile /etc/passwd\nfile http://192.0.2.1/a.mp4\n"


def damaged_video(path: Path) -> None:
    write_video(path, frames=30)
    data = bytearray(path.read_bytes())
    data[len(data) // 3 : len(data) // 2] = b"\xff" * (len(data) // 2 - len(data) // 3)
    path.write_bytes(data)


def truncated_video(path: Path) -> None:
    write_video(path, frames=30)
    path.write_bytes(path.read_bytes()[:600])


def linked_to(target: str) -> Content:
    return lambda path: path.symlink_to(target)


BAD = {  # name -> (file name, content)
    "EPS named .jpg": ("x.jpg", EPS),
    "PSD named .png": ("x.png", b"8BPS\0\1" + bytes(100)),
    "HTML named .jpg": ("x.jpg", b"<html><script>alert(1)</script></html>"),
    "SVG named .png": ("x.png", svg()),
    "a pickle named .jpg": ("x.jpg", b"cos\nsystem\n(S'touch owned'\ntR."),
    "a shell script named .jpg": ("x.jpg", b"#!/bin/sh\ntouch owned\n"),
    "zero bytes": ("x.jpg", b""),
    "NUL bytes": ("x.jpg", bytes(10_000)),
    "a FIFO": ("x.jpg", os.mkfifo),
    "a link to /dev/zero": ("x.jpg", linked_to("/dev/zero")),
    "a broken link": ("x.jpg", linked_to("nowhere")),
    "a PNG of 14,100 x 14,100 RGBA": ("x.png", blank_png(14_100, mode=6, channels=4)),
    "a PNG that claims 2^31 pixels a side": ("x.png", png_claiming(2**31 - 1, 2**31 - 1)),
    "a PNG of no pixels": ("x.png", png_claiming(0, 0)),
    "a PNG cut off in the middle": ("x.png", image("PNG")[:2000]),
    "a BMP that claims 50,000 pixels a side": ("x.bmp", bmp_claiming(50_000, 50_000)),
    "a BMP of negative size": ("x.bmp", bmp_claiming(-60, -(2**31))),
    "a TIFF that claims 10^6 pixels a side": ("x.tif", tiff_claiming(10**6, 10**6)),
    "a JPEG cut off in the middle": ("x.jpg", image("JPEG")[:1500]),
    "a JPEG of a terabyte": ("x.jpg", sparse),
    "a WebP with a wrong length": ("x.webp", image("WEBP")[:4] + b"\xff\xff\xff\xff" + image("WEBP")[8:]),
    "a JPEG 2000 cut off": ("x.jp2", image("JPEG2000")[:200]),
    "an AVIF cut off": ("x.avif", image("AVIF")[:300]),
}
VIDEOS = {
    "a playlist of addresses": ("x.mp4", playlist()),
    "a list of files to join": ("x.mp4", concat()),
    "text": ("x.mp4", b"not a video\n" * 100),
    "a FIFO": ("x.mp4", os.mkfifo),
    "a link to /dev/zero": ("x.mp4", linked_to("/dev/zero")),
    "zero bytes": ("x.avi", b""),
    "cut off before its index": ("x.mp4", truncated_video),
}
ODD = {  # which can be read, at least in part
    "a PNG with 200 MB of compressed text": ("x.png", png_with_text(200_000_000), (0, 4)),
    "EXIF that points to itself": ("x.jpg", exif_bomb(), (0, 4)),
    "XMP with entities that multiply": ("x.jpg", xmp_bomb(), (0, 4)),
    "a TIFF whose pages are a circle": ("x.tif", tiff_loop(), (0, 4)),
    "a GIF of 100,000 frames on a screen of 65,535 x 65,535": ("x.gif", gif_bomb(100_000), (4,)),
    "an animated WebP of 300 frames": ("x.webp", image("WEBP", frames=300), (0,)),
    "an animated PNG of 300 frames": ("x.png", image("PNG", frames=300), (0,)),
    "a damaged video": ("x.mp4", damaged_video, (0, 4)),
    "a name of control characters": ("\x1b[2J\x1b]0;x\x07.jpg", image("JPEG"), (0,)),
    "a name with a line feed": ("a\nb.jpg", image("JPEG"), (0,)),
    "a name that is no UTF-8": (os.fsdecode(b"\xff\xfe.jpg"), image("JPEG"), (0,)),
    "a name that is a formula": ("=cmd|' 'A0.jpg", image("JPEG"), (0,)),
    "a name like a flag": ("--help.jpg", image("JPEG"), (0,)),
}

CASES = [
    *(
        HostileCase(f"image in predict: {name}", predict(*item), codes=(4,), text="x." if "FIFO" not in name else "")
        for name, item in BAD.items()
    ),
    *(HostileCase(f"image in inspect: {name}", inspect("a.jpg", item[1])) for name, item in BAD.items()),
    *(HostileCase(f"video in predict: {name}", predict(*item), codes=(4,)) for name, item in VIDEOS.items()),
    *(HostileCase(f"in predict: {name}", predict(*item[:2]), codes=item[2]) for name, item in ODD.items()),
    HostileCase("a broken image with a name of control characters", predict("\x1b[2J.jpg", b""), codes=(4,)),
    HostileCase("a broken image with a name that is no UTF-8", predict(os.fsdecode(b"\xff.jpg"), b""), codes=(4,)),
    HostileCase("a FIFO as the source", alone("x.jpg", os.mkfifo), codes=(2, 3), text="x.jpg"),
    HostileCase("a device as the source", alone("x.jpg", linked_to("/dev/zero")), codes=(2, 3), text="x.jpg"),
    HostileCase("a video FIFO as the source", alone("x.mp4", os.mkfifo), codes=(2, 3), text="x.mp4"),
    HostileCase("an EPS as the source", alone("x.jpg", EPS), text="x.jpg"),
]
