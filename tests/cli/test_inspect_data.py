"""ssd inspect: planted problems are found by file, in every format; leaks; the page."""

from __future__ import annotations

import html
import io
import os
import re
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import voc_files
from PIL import Image
from voc_files import CAT_BOX, HEIGHT, WIDTH, add_list, object_xml, write_annotation

from ssd.common.errors import DamagedImageError
from ssd.common.images import decode_image
from ssd.data.analysis.duplicates import find_leaks, fingerprint_images
from ssd.data.validation import Report

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SMALL = ["image_size=96", "backbone=mobilenet_v1_half", "backbone.width_multiplier=0.25"]


def image(number: int) -> Image.Image:
    """Different for each number."""
    coarse = np.random.default_rng(number).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((WIDTH * 4, HEIGHT * 4), Image.Resampling.BICUBIC)


def jpeg(number: int, *, quality: int = 95) -> bytes:
    buffer = io.BytesIO()
    image(number).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def damaged(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes(700) + data[middle + 700 :]


def huge_png() -> bytes:
    """A PNG whose header has the size 20000 x 20000."""
    head = b"IHDR" + struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"")
    chunks = [
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in (head, data)
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def float_tiff() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((HEIGHT, WIDTH), dtype=np.float32)).save(buffer, "TIFF")
    return buffer.getvalue()


CAT = object_xml("cat", (11, 21, 131, 141))
ERROR, WARNING = "error", "warning"
BAD_IMAGES = {  # file: bytes, the rule reported
    "empty.jpg": (b"", "empty file"),
    "page.jpg": (b"<html>404</html>", "looks like a web page"),
    "cut.jpg": (jpeg(1)[:2000], "truncated JPEG"),
    "huge.png": (huge_png(), "over the limit"),
    "float.tif": (float_tiff(), "floating-point"),
    "missing.jpg": (None, "no such image"),
    "broken.png": (b"\x89PNG\r\n\x1a\n" + bytes(40), "not an image"),
}
BAD_OBJECTS = {  # annotation: its second object, the rule or value reported, severity, line
    "inverted": (object_xml("cat", (31, 21, 11, 41)), "(30, 20, 10, 40) px; JPEGImages/inverted.jpg", WARNING, 16),
    "flat": (object_xml("cat", (11, 21, 31, 21)), "(10, 20, 30, 20) px; JPEGImages/flat.jpg", WARNING, 16),
    "far": (object_xml("cat", (500, 500, 600, 600.5)), "(499, 499, 599, 599.5) px; JPEGImages/far.jpg", WARNING, 16),
    "reaching": (
        object_xml("cat", (150, 20, 230, 60)),
        "(149, 19, 229, 59) px; JPEGImages/reaching.jpg, 200 x 160 px",
        WARNING,
        16,
    ),
    "twice": (CAT, "(10, 20, 130, 140) px; JPEGImages/twice.jpg", WARNING, 16),
    "nan": (object_xml("cat", ("nan", 21, 31, 41)), "<xmin> is 'nan'", ERROR, 16),
    "inf": (object_xml("cat", (11, 21, "1e999", 41)), "<xmax> is '1e999'", ERROR, 18),
    "word": (object_xml("cat", (11, "x", 31, 41)), "<ymin> is 'x'", ERROR, 17),
    "unboxed": ("<object><name>cat</name></object>", "<bndbox>", ERROR, 13),
    "unnamed": (object_xml("", CAT_BOX), "<name>", ERROR, 14),
    "stranger": (object_xml("bird"), "'bird'", WARNING, 16),
}


def plant(root: Path) -> None:
    """One of each kind, each beside a good object; the training split is large, so that few broken images are."""
    folder = root / "JPEGImages"
    folder.mkdir(parents=True)
    names = ["good", "odd size", "damaged", "copied", "alike"]
    for number, name in enumerate([*names, *BAD_OBJECTS]):
        (folder / f"{name}.jpg").write_bytes(jpeg(number))
    for name, (data, _) in BAD_IMAGES.items():
        if data is not None:
            (folder / name).write_bytes(data)
    (folder / "damaged.jpg").write_bytes(damaged(jpeg(2)))
    (folder / "copy.png").write_bytes(jpeg(3))
    image(4).resize((150, 120)).point(lambda value: value * 0.8 + 20).save(folder / "near.jpg", quality=60)
    stems = [Path(name).stem for name in BAD_IMAGES]
    for name in [*names, *stems, "copy", "near"]:
        write_annotation(root / "Annotations" / f"{name}.xml", [CAT], size=(HEIGHT * 4, WIDTH * 4))
    write_annotation(root / "Annotations" / "near.xml", [object_xml("cat")], size=(120, 150))
    write_annotation(root / "Annotations" / "odd size.xml", [CAT], size=(7, 9))
    for name, (item, *_) in BAD_OBJECTS.items():
        write_annotation(root / "Annotations" / f"{name}.xml", [CAT, item], size=(HEIGHT * 4, WIDTH * 4))
    (root / "Annotations" / "no xml.xml").write_text("<annotation>\n<object>\n")
    bomb = '<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>'
    (root / "Annotations" / "bomb.xml").write_text(bomb)
    training = [*names, *stems, *BAD_OBJECTS, "no xml", "bomb", "not there", "../../slip"]
    add_list(root, "train", training)
    add_list(root, "val", ["copy", "good"])
    add_list(root, "test", ["near"])


EXPECTED = [
    *((ERROR, f"JPEGImages/{Path(name).stem}", rule) for name, (_, rule) in BAD_IMAGES.items()),
    *((stops, f": Annotations/{name}.xml:{line}: ", rule) for name, (_, rule, stops, line) in BAD_OBJECTS.items()),
    (WARNING, "JPEGImages/damaged.jpg", "damaged inside"),
    (
        WARNING,
        ": Annotations/odd size.xml:3: ",
        "9 x 7; JPEGImages/odd size.jpg, 200 x 160 px",
    ),
    (ERROR, "Annotations/no xml.xml:3", "not XML"),
    (ERROR, "Annotations/bomb.xml", "refused"),
    (ERROR, "ImageSets/Main/train.txt:26", "'not there' has no XML file"),
    (ERROR, "ImageSets/Main/train.txt:27", "'../../slip'"),
    (ERROR, "Annotations/good", "the train and in the val split"),
    (WARNING, "JPEGImages/copy.png", "the same image in the val and in the train split: JPEGImages/copied.jpg"),
    (
        WARNING,
        "JPEGImages/near.jpg",
        "nearly the same image in the test and in the train split: JPEGImages/alike.jpg",
    ),
    (WARNING, "JPEGImages/good.jpg", "the same image in the val and in the train split: JPEGImages/good.jpg"),
    *((WARNING, f"{split} split", "classes without an object: dgo") for split in ("train", "val", "test")),
    (WARNING, ": Annotations/alike.xml:16: ", "'dog'"),
    (ERROR, "", "'dgo'; did you mean 'dog'?"),
]


@pytest.fixture(scope="module")
def inspected(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The output's folder, and what was printed."""
    folder = tmp_path_factory.mktemp("inspected")
    plant(folder / "data")
    add_dog(folder / "data")
    command = [
        sys.executable,
        "-m",
        "ssd",
        "inspect",
        "dataset=voc",
        "dataset.root=data",
        "dataset.classes=[cat,dgo]",
        *SMALL,
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 3, done.stderr
    return folder / "inspection", done


def add_dog(root: Path) -> None:
    write_annotation(root / "Annotations" / "alike.xml", [CAT, object_xml("dog")], size=(HEIGHT * 4, WIDTH * 4))


@pytest.mark.parametrize(("stops", "file", "rule"), EXPECTED, ids=[f"{file} {rule}" for _, file, rule in EXPECTED])
def test_every_planted_problem_is_found(
    inspected: tuple[Path, subprocess.CompletedProcess[str]], stops: str, file: str, rule: str
) -> None:
    lines = (inspected[0] / "problems.txt").read_text().splitlines()
    assert [line for line in lines if line.startswith(f"{stops}: ") and file in line and rule in line]


def test_no_other_problem_is_found(inspected: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    lines = (inspected[0] / "problems.txt").read_text().splitlines()
    assert [line for line in lines if not any(file in line and rule in line for _, file, rule in EXPECTED)] == []
    assert len(lines) == len(EXPECTED)


def test_the_error_names_the_first_problem(
    inspected: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    done = inspected[1]
    assert re.fullmatch(r"error: training would fail \(problems: \d+, see problems.txt\), first on .*\n", done.stderr)
    assert "report.html" in done.stdout.splitlines()[-1]
    assert max(map(len, done.stdout.splitlines())) < 200


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_the_page_in_a_browser(inspected: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--dump-dom"]
    command = [str(CHROMIUM), *flags, f"file://{inspected[0] / 'report.html'}"]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    sections = re.findall(r'<section id="(\w+)">', dom)
    assert sections == ["problems", "splits", "leaks", "boxes", "coverage", "samples"]
    assert dom.count("<svg") >= 2
    assert dom.count("data:image/webp") >= 12  # samples
    assert html.escape("<xmin> is 'nan'", quote=False) in dom
    assert "JPEGImages/copied.jpg" in dom


# Images


def test_only_damaged_jpegs_are_errors() -> None:
    whole = [jpeg(number, quality=quality) for number in range(5) for quality in (30, 95)]
    buffer = io.BytesIO()
    image(9).convert("CMYK").save(buffer, "JPEG")
    for data in [*whole, buffer.getvalue()]:
        assert decode_image(data, name="a").shape == (HEIGHT * 4, WIDTH * 4, 3)
    for data in (data for data in whole if len(data) > 2500):
        with pytest.raises(DamagedImageError, match=r"^a: damaged inside.*Corrupt"):
            decode_image(damaged(data), name="a")
        assert decode_image(damaged(data), name="a", accept_damage=True).shape == (HEIGHT * 4, WIDTH * 4, 3)


def test_only_similar_images_are_leaks(tmp_path: Path) -> None:
    voc_files.write_voc(tmp_path, {"train": [str(n) for n in range(8)], "val": [str(n) for n in range(8, 16)]})
    for number in range(16):
        (tmp_path / "JPEGImages" / f"{number}.jpg").write_bytes(jpeg(number))
    (tmp_path / "JPEGImages" / "9.jpg").write_bytes(jpeg(3, quality=40))
    (tmp_path / "JPEGImages" / "12.jpg").write_bytes(jpeg(5))
    for number in (1, 15):
        Image.new("RGB", (50, 40), (90 + number, 120, 90)).save(tmp_path / "JPEGImages" / f"{number}.jpg")
    splits = voc_files.read(tmp_path)
    fingerprints = {name: fingerprint_images(name, index, Report()) for name, index in splits.items()}
    paths = {name: list(map(index.paths.__getitem__, range(len(index)))) for name, index in splits.items()}
    leaks = [(paths[a][i], paths[b][j], score == 1) for (a, i), (b, j), score in map(parts, find_leaks(fingerprints))]
    assert leaks == [("JPEGImages/12.jpg", "JPEGImages/5.jpg", True), ("JPEGImages/9.jpg", "JPEGImages/3.jpg", False)]


def parts(leak: object) -> tuple[tuple[str, int], tuple[str, int], float]:
    return leak.image, leak.other, leak.similarity  # type: ignore[attr-defined]
