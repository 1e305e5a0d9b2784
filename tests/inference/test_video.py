"""Reading and writing videos: every frame once and in order, rate, size, and errors of bad files."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from media import SQUARE, WhiteSquarePredictor, predict, read_records, read_video, square_x, write_video

from ssd.common.errors import ConfigError, DataError, MachineError, PartialError
from ssd.common.images import ImageArray
from ssd.common.structures import Detections
from ssd.inference.video import VideoReader, VideoWriter, is_video


def boxes(path: Path) -> list[bytes]:
    """The types of the top-level boxes of an MP4."""
    return [kind for kind, _ in split(path.read_bytes())]


def split(data: bytes) -> list[tuple[bytes, bytes]]:
    found, position = [], 0
    while position < len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        found.append((data[position + 4 : position + 8], data[position : position + length]))
        position += length
    return found


def index_first(path: Path) -> Path:
    """Moves the index of an MP4 to its front, as for streaming: then a truncated file can be opened."""
    parts = dict(split(path.read_bytes()))
    moov = bytearray(parts[b"moov"])
    table = moov.index(b"stco") + 8
    count = int.from_bytes(moov[table : table + 4], "big")
    offsets = np.frombuffer(bytes(moov[table + 4 : table + 4 + 4 * count]), ">u4") + len(moov)
    moov[table + 4 : table + 4 + 4 * count] = offsets.astype(">u4").tobytes()
    between = b"".join(part for kind, part in parts.items() if kind not in (b"ftyp", b"moov", b"mdat"))
    path.write_bytes(parts[b"ftyp"] + bytes(moov) + between + parts[b"mdat"])
    return path


def cut(path: Path, share: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def rotated(path: Path) -> Path:
    """Marks an MP4 as rotated by a quarter turn, clockwise, as phones do."""
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    one, minus_one, w = 1 << 16, (1 << 32) - (1 << 16), 1 << 30
    data[matrix : matrix + 36] = np.array([0, one, 0, minus_one, 0, 0, 0, 0, w], ">u4").tobytes()
    path.write_bytes(bytes(data))
    return path


@pytest.mark.parametrize("rate", [12.5, 25, 30000 / 1001, 60])
def test_every_frame_is_read_once_and_in_order(rate: float, tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", frames=45, rate=rate)
    reader = VideoReader(path, name="a")
    frames = list(reader)
    assert (len(frames), reader.frame_count) == (45, 45)
    assert reader.rate == pytest.approx(rate, rel=1e-4)
    for number, frame in enumerate(frames):
        left = np.nonzero(frame.min(axis=2) > 200)[1].min()
        assert abs(left - square_x(number)) <= 1
        assert frame[2, 2].argmax() == 0  # red: RGB, not BGR


@pytest.mark.parametrize("size", [(64, 180), (63, 181), (1, 1), (2, 300)])
def test_odd_side_repeats_its_last_line(size: tuple[int, int], tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "a.mp4", rate=25, size=size)
    writer.write(np.full((*size, 3), 77, np.uint8))
    writer.finish()
    frames, _ = read_video(tmp_path / "a.mp4")
    assert frames[0].shape == (size[0] + size[0] % 2, size[1] + size[1] % 2, 3)
    assert np.abs(frames[0].astype(int) - 77).max() < 12


def test_frame_of_another_size_is_resized(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "a.mp4", rate=25, size=(64, 64))
    for side in (64, 32, 100):
        writer.write(np.full((side, side, 3), 77, np.uint8))
    writer.finish()
    assert [frame.shape for frame in read_video(tmp_path / "a.mp4")[0]] == [(64, 64, 3)] * 3


def test_video_gets_its_name_when_complete(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "a.mp4", rate=25, size=(64, 64))
    writer.write(np.zeros((64, 64, 3), np.uint8))
    assert [path.name for path in tmp_path.iterdir()] == ["a.partial.mp4"]
    writer.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_rotated_video_is_read_upright(tmp_path: Path) -> None:
    path = rotated(write_video(tmp_path / "a.mp4", frames=3))
    frames = list(VideoReader(path, name="a"))
    assert {frame.shape for frame in frames} == {(180, 64, 3)}
    rows, columns = np.nonzero(frames[0].min(axis=2) > 200)
    assert abs(rows.min() - square_x(0)) <= 1
    assert abs(columns.max() - (63 - 10)) <= 1


def test_is_video_checks_the_content(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", frames=2)
    path.rename(tmp_path / "a")
    (tmp_path / "b.mp4").write_text("<html>")
    assert is_video(tmp_path / "a")
    assert not is_video(tmp_path / "b.mp4")


def test_playlist_is_refused(tmp_path: Path) -> None:
    """It could open other files and URLs."""
    path = write_video(tmp_path / "a.mp4", frames=2)
    (tmp_path / "b.mp4").write_text(f"ffconcat version 1.0\nfile {path.name}\n")
    (tmp_path / "c.mp4").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{path.name}\n#EXT-X-ENDLIST\n")
    for name in "bc":
        with pytest.raises(DataError, match="not a video"):
            VideoReader(tmp_path / f"{name}.mp4", name=name)


# predict on videos


def test_records_and_boxes_belong_to_their_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "in" / "street.mp4", frames=45)
    records = predict(WhiteSquarePredictor(), path, tmp_path / "out", batch_size=4)
    assert [record["frame"] for record in records] == list(range(45))
    assert {record["source"] for record in records} == {str(path)}
    for number, record in enumerate(records):
        x1, y1, x2, y2 = record["detections"][0]["box"]
        assert np.abs(np.subtract((x1, y1, x2, y2), (square_x(number), 10, square_x(number) + SQUARE, 22))).max() <= 1
    frames, rate = read_video(tmp_path / "out" / "street.mp4")
    assert (len(frames), rate, frames[0].shape) == (45, 12.5, (64, 180, 3))
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["predictions.jsonl", "street.mp4"]


def test_a_folder_of_videos_and_images(tmp_path: Path) -> None:
    for number in (3, 5):
        write_video(tmp_path / "in" / f"{number}.mp4", frames=number)
    write_video(tmp_path / "in" / "x.mp4", frames=2).rename(tmp_path / "in" / "y.mov")
    records = predict(WhiteSquarePredictor(), tmp_path / "in", tmp_path / "out", batch_size=4)
    assert [(Path(record["source"]).name, record["frame"]) for record in records] == [
        *(("3.mp4", frame) for frame in range(3)),
        *(("5.mp4", frame) for frame in range(5)),
        *(("y.mov", frame) for frame in range(2)),
    ]
    for name, count in (("3.mp4", 3), ("5.mp4", 5), ("y.mov.mp4", 2)):
        assert len(read_video(tmp_path / "out" / name)[0]) == count


def test_frames_as_images(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", frames=3)
    predict(WhiteSquarePredictor(), path, tmp_path / "out", save=["images", "video", "json"], max_frames=2)
    written = [file.relative_to(tmp_path / "out") for file in (tmp_path / "out").rglob("*") if file.is_file()]
    files = sorted(path.as_posix() for path in written)
    assert files == ["a.mp4", "a.mp4_frames/000000.jpg", "a.mp4_frames/000001.jpg", "predictions.jsonl"]


def test_truncated_video_gives_its_intact_part(tmp_path: Path) -> None:
    path = cut(index_first(write_video(tmp_path / "a.mp4", frames=20, size=(256, 256))), 0.6)
    with pytest.raises(PartialError, match=r"a\.mp4: \d+ of 20 frames"):
        predict(WhiteSquarePredictor(), path, tmp_path / "out")
    records = read_records(tmp_path / "out")
    assert 5 < len(records) < 20
    assert len(read_video(tmp_path / "out" / "a.mp4")[0]) == len(records)


def wiped(path: Path, begin: float, end: float) -> Path:
    """Zeroes a part of the packets; the index remains intact."""
    data = bytearray(path.read_bytes())
    packets = data.index(b"mdat") + 4
    length = len(dict(split(bytes(data)))[b"mdat"]) - 8
    first, last = packets + int(length * begin), packets + int(length * end)
    data[first:last] = bytes(last - first)
    path.write_bytes(bytes(data))
    return path


@pytest.mark.parametrize(("begin", "end"), [(0.3, 0.4), (0.6, 0.7), (0.9, 1.0)])
def test_damaged_frames_are_skipped(begin: float, end: float, tmp_path: Path) -> None:
    path = wiped(write_video(tmp_path / "a.mp4", frames=45, size=(256, 256)), begin, end)
    with pytest.raises(PartialError, match=r"a\.mp4: \d+ of 45 frames"):
        predict(WhiteSquarePredictor(), path, tmp_path / "out")
    records = read_records(tmp_path / "out")
    assert 35 < len(records) < 45
    assert len(read_video(tmp_path / "out" / "a.mp4")[0]) == len(records)


def hide_first(path: Path, frames: int, *, of: int) -> Path:
    """Hides the first frames of an MP4 by an edit list, as a clip that was trimmed without re-encoding."""
    data = bytearray(path.read_bytes())
    entry = data.index(b"elst") + 12  # the length in units of the movie, the start in units of the media
    length = int.from_bytes(data[entry : entry + 4], "big")
    duration = data.index(b"mdhd") + 20
    units = int.from_bytes(data[duration : duration + 4], "big")
    data[entry : entry + 4] = (length * (of - frames) // of).to_bytes(4, "big")
    data[entry + 4 : entry + 8] = (units * frames // of).to_bytes(4, "big")
    path.write_bytes(data)
    return path


def test_trimmed_clip_is_not_reported_as_truncated(tmp_path: Path) -> None:
    """The header counts the hidden frames as well."""
    path = hide_first(write_video(tmp_path / "a.mp4", frames=40), 10, of=40)
    reader = VideoReader(path, name="a")
    assert len(list(reader)) == 30
    assert reader.frame_count == 40
    assert len(predict(WhiteSquarePredictor(), path, tmp_path / "out")) == 30


@pytest.mark.parametrize("damage", [lambda path: cut(path, 0.6), lambda path: wiped(path, 0.9, 1.0)])
def test_trimmed_clip_that_is_damaged_is_reported(damage: Callable[[Path], Path], tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", frames=40, size=(256, 256))
    damage(hide_first(index_first(path), 10, of=40))
    with pytest.raises(PartialError, match=r"a\.mp4: \d+ of 40 frames"):
        list(VideoReader(path, name="a.mp4"))


def test_truncated_mp4_is_reported_for_a_single_missing_frame(tmp_path: Path) -> None:
    """Of other containers the frame count is an estimate, so 2 % may be missing."""
    path = index_first(write_video(tmp_path / "a.mp4", frames=60))
    data = path.read_bytes()
    last_packet = data.index(b"stsz") + 16 + 4 * 59
    path.write_bytes(data[: -int.from_bytes(data[last_packet : last_packet + 4], "big")])
    with pytest.raises(PartialError, match="59 of 60 frames"):
        list(VideoReader(path, name="a.mp4"))


@pytest.mark.parametrize("share", [0, 0.01, 0.5])
def test_video_without_index_is_a_data_error(share: float, tmp_path: Path) -> None:
    path = cut(write_video(tmp_path / "a.mp4", frames=20), share)
    assert b"moov" not in path.read_bytes()
    with pytest.raises(DataError, match=r"a\.mp4: .*index"):
        predict(WhiteSquarePredictor(), path, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_unknown_codec_is_a_data_error(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", frames=5)
    path.write_bytes(path.read_bytes().replace(b"mp4v", b"zzzz").replace(b"esds", b"zzzz"))
    with pytest.raises(DataError, match="codec"):
        predict(WhiteSquarePredictor(), path, tmp_path / "out")


def test_missing_camera_is_a_machine_error(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="source=63: no camera"):
        predict(WhiteSquarePredictor(), "63", tmp_path / "out")


def test_source_is_never_overwritten(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", frames=2)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"overwrite .*a\.mp4"):
        predict(WhiteSquarePredictor(), path, tmp_path)
    assert path.read_bytes() == before


def test_two_outputs_of_the_same_name_are_an_error(tmp_path: Path) -> None:
    write_video(tmp_path / "in" / "a.mp4", frames=2)
    (tmp_path / "in" / "a.mp4").rename(tmp_path / "in" / "a.avi")
    write_video(tmp_path / "in" / "a.avi.mp4", frames=2)
    with pytest.raises(ConfigError, match="both be written to"):
        predict(WhiteSquarePredictor(), tmp_path / "in", tmp_path / "out")


def test_unwritable_video_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        VideoWriter(tmp_path / "file" / "a.mp4", rate=25, size=(64, 64))


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
def test_full_disk_is_a_machine_error_and_leaves_no_final_file(tmp_path: Path) -> None:
    """A limit on the size of files simulates the disk: OpenCV's writer reports neither."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignore = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    writer = VideoWriter(tmp_path / "a.mp4", rate=25, size=(256, 256))
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        for _ in range(20):
            writer.write(noise)
        with pytest.raises(MachineError, match=r"a\.mp4: \d+ of 20 frames written"):
            writer.finish()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignore)
    assert not (tmp_path / "a.mp4").exists()


@pytest.mark.parametrize(("sign", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_interrupted_run_completes_its_files(sign: int, error: type, tmp_path: Path) -> None:
    class Interrupted(WhiteSquarePredictor):
        def __call__(self, images: Sequence[ImageArray]) -> list[Detections]:
            if np.array_equal(images[0], middle):
                os.kill(os.getpid(), sign)
            time.sleep(0.01)
            return super().__call__(images)

    path = write_video(tmp_path / "a.mp4", frames=20)
    middle = list(VideoReader(path, name="a"))[10]
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as predict.py does
    try:
        with pytest.raises(error):
            predict(Interrupted(), path, tmp_path / "out")
    finally:
        signal.signal(signal.SIGTERM, before)
    count = len(read_records(tmp_path / "out"))
    assert 4 < count < 20
    assert len(read_video(tmp_path / "out" / "a.mp4")[0]) == count
    assert not list((tmp_path / "out").glob("*partial*"))


@pytest.mark.parametrize(("sign", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_interrupt_between_record_and_frame_keeps_both(
    sign: int, error: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal arrives while the fifth frame of the output video is being written."""
    path = write_video(tmp_path / "a.mp4", frames=20)
    original, calls = cv2.copyMakeBorder, []

    def interrupted(*arguments: object) -> object:
        calls.append(1)
        if len(calls) == 5:
            os.kill(os.getpid(), sign)
        return original(*arguments)  # type: ignore[call-overload]

    monkeypatch.setattr(cv2, "copyMakeBorder", interrupted)
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with pytest.raises(error):
            predict(WhiteSquarePredictor(), path, tmp_path / "out")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert len(read_records(tmp_path / "out")) == 5
    assert len(read_video(tmp_path / "out" / "a.mp4")[0]) == 5
