"""Animations and multi-page files: every frame is detected, and what is missing is reported."""

from __future__ import annotations

import io
import struct
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from media import (
    HEIGHT,
    SQUARE,
    WIDTH,
    WhiteSquarePredictor,
    predict,
    read_records,
    read_video,
    square_at,
    square_x,
    write_animation,
    write_image,
    write_video,
)
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

import ssd.common.image_header
from ssd.common.animations import frame_kind
from ssd.common.errors import ConfigError, DataError, PartialError
from ssd.common.images import read_image
from ssd.inference.animation import AnimationReader
from ssd.inference.detector import Detector
from ssd.inference.sources import count_frames, find_media

ANIMATED = ("gif", "png", "apng", "webp", "avif")
DURATIONS_MS = [100, 200, 100, 50, 70]


def files(output: Path) -> list[str]:
    return sorted(file.relative_to(output).as_posix() for file in output.rglob("*") if file.is_file())


def reader(path: Path) -> AnimationReader:
    return AnimationReader(path, pages=path.suffix == ".tif", name=path.name)


def noise(count: int) -> list[Image.Image]:
    """Frames that compress badly, so that a share of the file is about that share of the frames."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, HEIGHT, WIDTH, 3), dtype=np.uint8)
    return [Image.fromarray(frame) for frame in pixels]


def write_noise(path: Path, *, frames: int = 5) -> Path:
    first, *others = noise(frames)
    first.save(path, save_all=True, append_images=others)
    return path


def cut(path: Path, share: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


# All frames, once and in order


@pytest.mark.parametrize("suffix", ANIMATED)
def test_every_frame_of_an_animation_has_its_record_and_its_place_in_the_video(suffix: str, tmp_path: Path) -> None:
    path = write_animation(tmp_path / "in" / f"a.{suffix}", frames=5, durations_ms=DURATIONS_MS)
    records = predict(WhiteSquarePredictor(), path, tmp_path / "out")
    assert [record["frame"] for record in records] == list(range(5))
    assert [record["time_s"] for record in records] == pytest.approx([0, 0.1, 0.3, 0.4, 0.45])
    assert {record["source"] for record in records} == {str(path)}
    for number, record in enumerate(records):
        box = record["detections"][0]["box"]
        assert np.abs(np.subtract(box, (square_x(number), 10, square_x(number) + SQUARE, 22))).max() <= 2
    frames, rate = read_video(tmp_path / "out" / f"a.{suffix}.mp4")
    assert (len(frames), frames[0].shape) == (5, (64, 180, 3))
    assert rate == pytest.approx(10 if suffix == "avif" else 5 / 0.52, abs=0.01)
    assert files(tmp_path / "out") == [f"a.{suffix}.mp4", "predictions.jsonl"]


def test_every_page_of_a_tiff_has_its_record_and_its_image(tmp_path: Path) -> None:
    pages = [square_at(square_x(page), size=(64, 180 + page)) for page in range(3)]
    first, *others = map(Image.fromarray, pages)
    (tmp_path / "in").mkdir()
    first.save(tmp_path / "in" / "scan.tif", save_all=True, append_images=others)
    records = predict(WhiteSquarePredictor(), tmp_path / "in" / "scan.tif", tmp_path / "out")
    assert [(record["frame"], record["width"]) for record in records] == [(0, 180), (1, 181), (2, 182)]
    assert [record["detections"][0]["box"][0] for record in records] == [square_x(page) for page in range(3)]
    assert all("time_s" not in record for record in records)
    assert files(tmp_path / "out") == ["predictions.jsonl", *(f"scan.tif_frames/00000{page}.jpg" for page in range(3))]
    assert read_image(tmp_path / "out" / "scan.tif_frames" / "000002.jpg").shape == (64, 182, 3)


def test_pages_of_another_depth_and_orientation_are_read_as_single_images_are(tmp_path: Path) -> None:
    gray = Image.fromarray(np.array([[0x1000, 0x2000, 0x3000]], np.uint16))
    colour = Image.fromarray(np.array([[[200, 0, 0], [0, 200, 0]]], np.uint8))
    tags = ImageFileDirectory_v2()
    tags[274] = 6  # turned by a quarter
    colour.encoderinfo = {"tiffinfo": tags}
    gray.save(tmp_path / "a.tif", save_all=True, append_images=[colour])
    first, second = (frame.image for frame in reader(tmp_path / "a.tif"))
    assert first.tolist() == [[[0x10] * 3, [0x20] * 3, [0x30] * 3]]
    assert second.tolist() == [[[200, 0, 0]], [[0, 200, 0]]]


def test_frames_are_composed_as_they_are_displayed(tmp_path: Path) -> None:
    """A frame may hold only what changes, and transparent parts are white, as in single images."""
    path = tmp_path / "a.gif"
    red = Image.new("P", (4, 1), 0)
    red.putpalette([255, 0, 0, 0, 0, 255])
    dot = Image.new("P", (4, 1), 1)
    dot.putpalette([255, 0, 0, 0, 0, 255])
    dot.putpixel((0, 0), 0)
    red.save(path, save_all=True, append_images=[dot], disposal=2, transparency=1)
    first, second = (frame.image[0].tolist() for frame in reader(path))
    assert first == [[255, 0, 0]] * 4
    assert second == [[255, 0, 0], *[[255, 255, 255]] * 3]


def test_animations_in_a_folder_beside_images_and_videos(tmp_path: Path) -> None:
    write_animation(tmp_path / "in" / "a.gif", frames=3)
    write_image(tmp_path / "in" / "b.gif")
    write_animation(tmp_path / "in" / "c.tif", frames=2)
    write_animation(tmp_path / "in" / "d.apng", frames=4)
    write_video(tmp_path / "in" / "e.mp4", frames=2)
    media = find_media(str(tmp_path / "in"), downloads=tmp_path)
    assert [medium.kind for medium in media] == ["animation", "image", "pages", "animation", "video"]
    assert count_frames(media) is None  # the pages are not counted
    assert count_frames([medium for medium in media if medium.kind != "pages"]) == 3 + 1 + 4 + 2
    records = predict(WhiteSquarePredictor(), tmp_path / "in", tmp_path / "out", batch_size=4)
    assert [(Path(record["source"]).name, record["frame"]) for record in records] == [
        *(("a.gif", frame) for frame in range(3)),
        ("b.gif", None),
        *(("c.tif", frame) for frame in range(2)),
        *(("d.apng", frame) for frame in range(4)),
        *(("e.mp4", frame) for frame in range(2)),
    ]
    assert files(tmp_path / "out") == [
        *("a.gif.mp4", "b.gif", "c.tif_frames/000000.jpg", "c.tif_frames/000001.jpg", "d.apng.mp4", "e.mp4"),
        "predictions.jsonl",
    ]


def test_frames_as_images_and_crops(tmp_path: Path) -> None:
    path = write_animation(tmp_path / "a.gif", frames=3)
    predict(WhiteSquarePredictor(), path, tmp_path / "out", save=["images", "crops", "json"], max_frames=2)
    numbers = (0, 1)
    assert files(tmp_path / "out") == [
        *(f"a.gif_frames/00000{number}.jpg" for number in numbers),
        *(f"crops/square/a.gif_00000{number}_000.jpg" for number in numbers),
        "predictions.jsonl",
    ]


@pytest.mark.parametrize("suffix", [*ANIMATED, "tif", "jpg"])
def test_a_single_frame_is_an_image(suffix: str, tmp_path: Path) -> None:
    path = write_image(tmp_path / "in" / f"a.{suffix}")
    assert frame_kind(path) == "image"
    (record,) = predict(WhiteSquarePredictor(), path, tmp_path / "out")
    assert record["frame"] is None
    assert "time_s" not in record
    assert files(tmp_path / "out") == [f"a.{suffix}", "predictions.jsonl"]


def test_reduced_copies_and_masks_are_no_pages(tmp_path: Path) -> None:
    """As in pyramids of maps and of microscopes, and in scans with thumbnails."""
    full, other, *reduced = noise(4)
    for page, kind in ((full, 0), (reduced[0], 1), (reduced[1], 4), (other, 2)):
        tags = ImageFileDirectory_v2()
        tags[254] = kind
        page.encoderinfo = {"tiffinfo": tags}
    full.save(tmp_path / "one.tif", save_all=True, append_images=reduced, tiffinfo={254: 0})
    full.save(tmp_path / "two.tif", save_all=True, append_images=[reduced[0], other], tiffinfo={254: 0})
    with Image.open(tmp_path / "one.tif") as image:
        assert image.n_frames == 3
    assert frame_kind(tmp_path / "one.tif") == "image"
    assert frame_kind(tmp_path / "two.tif") == "pages"
    assert [frame.number for frame in reader(tmp_path / "two.tif")] == [0, 1]
    for frame, page in zip(reader(tmp_path / "two.tif"), (full, other), strict=True):
        assert np.array_equal(frame.image, page)


def test_the_image_that_stands_for_an_apng_is_not_a_frame(tmp_path: Path) -> None:
    first, *others = noise(3)
    first.save(tmp_path / "a.png", save_all=True, append_images=others, default_image=True)
    for frame, other in zip(reader(tmp_path / "a.png"), others, strict=True):
        assert np.array_equal(frame.image, other)


def test_preview_behind_a_photo_is_not_a_page(tmp_path: Path) -> None:
    """A JPEG with several images (MPO) is a photo with its preview or its depth."""
    first, *others = noise(2)
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=others)
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.n_frames == 2
    assert frame_kind(tmp_path / "a.jpg") == "image"


@pytest.mark.parametrize(("duration_ms", "rate"), [(0, 10), (10, 10), (20, 50), (40, 25), (60_000, 0.1)])
def test_rate_is_that_of_browsers_and_can_be_written(duration_ms: int, rate: float, tmp_path: Path) -> None:
    path = write_animation(tmp_path / "a.gif", frames=3, durations_ms=[duration_ms] * 3)
    records = predict(WhiteSquarePredictor(), path, tmp_path / "out")
    duration_s = 1 / rate if duration_ms < 60_000 else 60
    assert [record["time_s"] for record in records] == pytest.approx([0, duration_s, 2 * duration_s])
    assert read_video(tmp_path / "out" / "a.gif.mp4")[1] == pytest.approx(rate)


def test_objects_of_an_animation_are_tracked(tmp_path: Path) -> None:
    path = write_animation(tmp_path / "a.gif", frames=4)
    records = predict(WhiteSquarePredictor(), path, tmp_path / "out", track=True)
    assert {record["detections"][0]["track_id"] for record in records} == {1}


def test_python_interface_takes_frames_and_refuses_the_file(tmp_path: Path) -> None:
    detect = Detector(WhiteSquarePredictor())
    for name in ("a.gif", "a.tif"):
        path = write_animation(tmp_path / name, frames=3)
        with pytest.raises(DataError, match=f"{name}: several frames.*ImageSequence"):
            detect(path)
        with Image.open(path) as image:
            frames = [image.seek(number) or image.copy() for number in range(3)]
        assert [result.boxes[0][0] for result in detect(frames)] == pytest.approx([square_x(n) for n in range(3)])


def test_output_names_do_not_meet_the_sources(tmp_path: Path) -> None:
    path = write_animation(tmp_path / "a.tif", frames=2)
    before = path.read_bytes()
    predict(WhiteSquarePredictor(), path, tmp_path)
    assert path.read_bytes() == before
    assert files(tmp_path) == ["a.tif", "a.tif_frames/000000.jpg", "a.tif_frames/000001.jpg", "predictions.jsonl"]
    write_animation(tmp_path / "in" / "b.gif", frames=2)
    write_video(tmp_path / "in" / "b.gif.mp4", frames=2)
    with pytest.raises(ConfigError, match="both be written to"):
        predict(WhiteSquarePredictor(), tmp_path / "in", tmp_path / "out")


# Faults


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
@pytest.mark.parametrize("share", [0.5, 0.7, 0.95])
def test_truncated_animation_gives_its_intact_frames(suffix: str, share: float, tmp_path: Path) -> None:
    path = cut(write_noise(tmp_path / f"a.{suffix}"), share)
    intact = int(5 * share)
    total = "5" if suffix == "png" else f"at least {intact + 1}"  # only the header of an APNG has the total
    with pytest.raises(PartialError, match=rf"a\.{suffix}: {intact} of {total} frames; .*(truncated|damaged)"):
        predict(WhiteSquarePredictor(), path, tmp_path / "out")
    assert [record["frame"] for record in read_records(tmp_path / "out")] == list(range(intact))
    assert len(read_video(tmp_path / "out" / f"a.{suffix}.mp4")[0]) == intact


def gif_frames(data: bytes) -> Iterator[int]:
    """The positions of the frames, with their extensions."""
    start = data.find(b"!\xf9\x04")
    while start >= 0:
        yield start
        start = data.find(b"!\xf9\x04", start + 1)


@pytest.mark.parametrize("offset", [0, 1, 3, 8, 10, 20])
def test_gif_that_ends_between_two_frames_or_in_a_header_is_truncated(offset: int, tmp_path: Path) -> None:
    path = write_animation(tmp_path / "a.gif", frames=5)
    data = path.read_bytes()
    path.write_bytes(data[: list(gif_frames(data))[3] + offset])
    with pytest.raises(PartialError, match=r"a\.gif: 3 of at least [34] frames"):
        predict(WhiteSquarePredictor(), path, tmp_path / "out")
    assert len(read_records(tmp_path / "out")) == 3


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_truncated_tiff_gives_its_intact_pages(tmp_path: Path) -> None:
    path = cut(write_noise(tmp_path / "a.tif"), 0.7)
    with pytest.raises(PartialError, match=r"a\.tif: 3 of at least 4 frames; "):
        predict(WhiteSquarePredictor(), path, tmp_path / "out")
    assert [record["frame"] for record in read_records(tmp_path / "out")] == [0, 1, 2]


def test_damaged_page_is_skipped(tmp_path: Path) -> None:
    first, *others = noise(4)
    others[1] = Image.fromarray(np.zeros((3, 3), np.float32))
    first.save(tmp_path / "a.tif", save_all=True, append_images=others)
    with pytest.raises(PartialError, match=r"a\.tif: 3 of 4 frames; floating-point"):
        predict(WhiteSquarePredictor(), tmp_path / "a.tif", tmp_path / "out")
    assert [record["frame"] for record in read_records(tmp_path / "out")] == [0, 1, 3]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("suffix", ["gif", "png", "tif", "webp"])
def test_animation_without_an_intact_frame_is_a_data_error(suffix: str, tmp_path: Path) -> None:
    path = cut(write_noise(tmp_path / f"a.{suffix}"), 0.1)
    with pytest.raises(DataError, match=rf"a\.{suffix}: "):
        predict(WhiteSquarePredictor(), path, tmp_path / "out")


@pytest.mark.parametrize("suffix", ["gif", "png", "tif"])
def test_limit_of_pixels_holds_for_each_frame(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if suffix == "gif":  # its second frame enlarges the image
        write_animation(tmp_path / "a.gif", frames=3)
        data = bytearray((tmp_path / "a.gif").read_bytes())
        frame = data.index(b",", list(gif_frames(bytes(data)))[1])
        data[frame + 1 : frame + 3] = struct.pack("<H", 60_000)
        (tmp_path / "a.gif").write_bytes(data)
    else:
        small, large = Image.new("RGB", (10, 10)), Image.new("RGB", (200, 300))
        first, others = (small, [large, small]) if suffix == "tif" else (large, [large, small])
        first.save(tmp_path / f"a.{suffix}", save_all=True, append_images=others)
    monkeypatch.setattr(ssd.common.image_header, "MAX_PIXELS", 64 * 180)
    error = DataError if suffix == "png" else PartialError
    with pytest.raises(error, match="is over the limit of 11520 pixels"):
        predict(WhiteSquarePredictor(), tmp_path / f"a.{suffix}", tmp_path / "out")
    if suffix != "png":
        assert [record["frame"] for record in read_records(tmp_path / "out")] == ([0, 2] if suffix == "tif" else [0])


def many_frames(count: int) -> bytes:
    """A GIF whose frames take a few bytes each."""
    buffer = io.BytesIO()
    frame = Image.new("L", (200, 200))
    frame.save(buffer, "GIF", save_all=True, append_images=[Image.new("L", (200, 200), 1)], duration=50)
    data = buffer.getvalue()
    second = list(gif_frames(data))[-1]
    return data[:second] + data[second:-1] * count + b";"


def test_memory_does_not_grow_with_the_number_of_frames(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    path.write_bytes(many_frames(500))
    tracemalloc.start()
    frames = reader(path)
    assert frames.frame_count == 501
    assert sum(1 for _ in frames) == 501
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * 200 * 200 * 3


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif", "avif"])
def test_damage_anywhere_ends_in_frames_or_an_error_that_names_the_file(suffix: str, tmp_path: Path) -> None:
    """Never in an exception of Pillow, and never in an endless loop."""
    data = write_noise(tmp_path / f"good.{suffix}", frames=3).read_bytes()
    generator = np.random.default_rng(0)
    path = tmp_path / f"a.{suffix}"
    for _ in range(150):
        damaged = bytearray(data)
        end = len(data) if generator.random() < 0.5 else min(200, len(data))
        for position in generator.integers(0, end, generator.integers(1, 6)).tolist():
            damaged[position] = int(generator.integers(0, 256))
        path.write_bytes(damaged[: int(generator.integers(len(data) // 2, len(data) + 1))])
        frame_kind(path)
        try:
            message = f"a.{suffix}: {len(list(reader(path)))} frames"
        except (DataError, PartialError) as error:
            message = str(error)
        assert f"a.{suffix}: " in message
