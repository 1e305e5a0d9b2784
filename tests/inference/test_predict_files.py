"""From images to records and images with boxes, with a network of random weights."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from media import HEIGHT, WIDTH, predict, read_records, write_image
from PIL import Image

from ssd.common.errors import ConfigError, DataError, MachineError, PartialError
from ssd.common.image_formats import IMAGE_SUFFIXES
from ssd.common.images import read_image
from ssd.inference.torch_predictor import TorchPredictor
from ssd.model.backbones import MobileNetV1
from ssd.model.postprocess import PostProcess
from ssd.model.priors import PriorSpec
from ssd.model.ssd import SSD

CLASS_NAMES = ("cat", "Hund", "猫")


@pytest.fixture(scope="module")
def network(mobilenet_v1: PriorSpec) -> SSD:
    backbone = MobileNetV1(width_multiplier=0.25, mean=[127.0] * 3, std=[128.0] * 3)
    return SSD(backbone, mobilenet_v1, class_names=CLASS_NAMES, image_size=96)


def make_predictor(network: SSD, score_threshold: float) -> TorchPredictor:
    postprocess = PostProcess(score_threshold=score_threshold, topk_candidates=100, max_detections=20)
    return TorchPredictor(network, postprocess, device="cpu")


@pytest.fixture
def predictor(network: SSD) -> TorchPredictor:
    return make_predictor(network, 0.01)


@pytest.fixture
def blind_predictor(network: SSD) -> TorchPredictor:
    return make_predictor(network, 1.0)


def test_record_fields(predictor: TorchPredictor, tmp_path: Path) -> None:
    path = write_image(tmp_path / "in" / "cat.png")
    (record,) = predict(predictor, path, tmp_path / "out")
    assert list(record) == ["source", "frame", "width", "height", "detections"]
    assert (record["source"], record["frame"], record["width"], record["height"]) == (str(path), None, WIDTH, HEIGHT)
    assert len(record["detections"]) == 20
    for item in record["detections"]:
        assert list(item) == ["label", "class_id", "score", "box"]
        assert item["label"] == CLASS_NAMES[item["class_id"]]
        x1, y1, x2, y2 = item["box"]
        assert 0 <= x1 <= x2 <= WIDTH
        assert 0 <= y1 <= y2 <= HEIGHT
        assert 0 < item["score"] <= 1
    scores = [item["score"] for item in record["detections"]]
    assert scores == sorted(scores, reverse=True)


def test_boxes_are_pixels_of_the_upright_image(predictor: TorchPredictor, tmp_path: Path) -> None:
    """An image stored upright and one stored rotated with EXIF give the same records."""
    upright = write_image(tmp_path / "in" / "upright.png")
    rotated = tmp_path / "in" / "rotated.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(upright).transpose(Image.Transpose.ROTATE_90).save(rotated, exif=exif)
    one, other = predict(predictor, tmp_path / "in", tmp_path / "out")
    assert (one["width"], one["height"]) == (WIDTH, HEIGHT)
    assert one["detections"] == other["detections"]
    assert np.array_equal(read_image(tmp_path / "out" / "rotated.png"), read_image(tmp_path / "out" / "upright.png"))


def test_records_do_not_depend_on_the_batch_size(predictor: TorchPredictor, tmp_path: Path) -> None:
    for number in range(5):
        write_image(tmp_path / "in" / f"{number}.png", seed=number)
    together = predict(predictor, tmp_path / "in", tmp_path / "out", batch_size=3)
    alone = predict(predictor, tmp_path / "in", tmp_path / "out", batch_size=1)
    assert [Path(record["source"]).name for record in together] == [f"{number}.png" for number in range(5)]
    for one, other in zip(together, alone, strict=True):
        assert len(one["detections"]) == len(other["detections"])
        assert one["detections"][0]["box"] == pytest.approx(other["detections"][0]["box"], abs=0.02)


def test_drawn_images_have_the_relative_path_of_the_source(predictor: TorchPredictor, tmp_path: Path) -> None:
    names = ["a.png", "sub/a.png", "sub/deep/b.png"]
    for name in names:
        write_image(tmp_path / "in" / name)
    predict(predictor, tmp_path / "in", tmp_path / "out")
    written = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png"))
    assert written == names
    for name in names:
        before, after = read_image(tmp_path / "in" / name), read_image(tmp_path / "out" / name)
        assert before.shape == after.shape
        assert not np.array_equal(before, after)


def test_images_of_the_same_name_do_not_overwrite_each_other(blind_predictor: TorchPredictor, tmp_path: Path) -> None:
    for seed, name in enumerate(("left/x.png", "right/x.png")):
        write_image(tmp_path / "in" / name, seed=seed)
    predict(blind_predictor, tmp_path / "in" / "*" / "x.png", tmp_path / "out")
    for name in ("left/x.png", "right/x.png"):
        assert np.array_equal(read_image(tmp_path / "out" / name), read_image(tmp_path / "in" / name))


@pytest.mark.parametrize("suffix", [*(suffix for suffix in IMAGE_SUFFIXES if suffix not in (".heic", ".heif")), ".JPG"])
def test_image_format_is_kept(predictor: TorchPredictor, suffix: str, tmp_path: Path) -> None:
    write_image(tmp_path / "in" / f"a{suffix}")
    predict(predictor, tmp_path / "in", tmp_path / "out")
    with Image.open(tmp_path / "out" / f"a{suffix}") as before, Image.open(tmp_path / "in" / f"a{suffix}") as after:
        assert before.format == after.format
        assert before.size == after.size


@pytest.mark.parametrize("name", ["photo", "photo.jfif", "photo.dat", "photo."])
def test_image_without_a_known_suffix_is_written(predictor: TorchPredictor, name: str, tmp_path: Path) -> None:
    os.replace(write_image(tmp_path / "in" / "a.png"), tmp_path / "in" / name)  # noqa: PTH105
    (record,) = predict(predictor, tmp_path / "in" / name, tmp_path / "out")
    assert record["detections"]
    (drawn,) = [path for path in (tmp_path / "out").iterdir() if path.name != "predictions.jsonl"]
    assert drawn.name.startswith(name)
    assert read_image(drawn).shape == (HEIGHT, WIDTH, 3)


def test_draw_threshold_does_not_affect_records(predictor: TorchPredictor, tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "a.png")
    (record,) = predict(predictor, tmp_path / "in", tmp_path / "out", draw_threshold=1.0)
    assert len(record["detections"]) == 20
    assert np.array_equal(read_image(tmp_path / "out" / "a.png"), read_image(tmp_path / "in" / "a.png"))


def test_no_detections_are_a_valid_result(blind_predictor: TorchPredictor, tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "a.png")
    (record,) = predict(blind_predictor, tmp_path / "in", tmp_path / "out")
    assert record["detections"] == []
    assert np.array_equal(read_image(tmp_path / "out" / "a.png"), read_image(tmp_path / "in" / "a.png"))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 3000), (3000, 1)])
def test_extreme_shapes_work(predictor: TorchPredictor, height: int, width: int, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (width, height)).save(path)
    (record,) = predict(predictor, path, tmp_path / "out")
    assert (record["width"], record["height"]) == (width, height)
    assert read_image(tmp_path / "out" / "a.png").shape == (height, width, 3)


def test_empty_batch(predictor: TorchPredictor) -> None:
    assert predictor([]) == []


# Faults


def test_bad_images_are_listed_and_good_ones_written(predictor: TorchPredictor, tmp_path: Path) -> None:
    for name in ("a.png", "c.png", "e.png"):
        write_image(tmp_path / "in" / name)
    (tmp_path / "in" / "b.png").write_text("<html></html>")
    (tmp_path / "in" / "d.png").touch()
    with pytest.raises(PartialError) as caught:
        predict(predictor, tmp_path / "in", tmp_path / "out", batch_size=1)
    failed = tmp_path / "out" / "failed.txt"
    assert str(caught.value).startswith("2 of 5 files ")
    assert str(failed) in str(caught.value)
    assert f"{tmp_path}/in/b.png: not an image" in str(caught.value)
    assert f"{tmp_path}/in/d.png: empty file" in str(caught.value)
    assert [Path(record["source"]).name for record in read_records(tmp_path / "out")] == ["a.png", "c.png", "e.png"]
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == ["a.png", "c.png", "e.png"]


def test_failed_file_lists_all_errors_and_is_removed_without_any(
    blind_predictor: TorchPredictor, tmp_path: Path
) -> None:
    write_image(tmp_path / "in" / "a.png")
    for number in range(8):
        (tmp_path / "in" / f"b{number}.png").touch()
    with pytest.raises(PartialError, match=r"8 of 9 files .*out/failed\.txt.*; and 3 more"):
        predict(blind_predictor, tmp_path / "in", tmp_path / "out")
    listed = (tmp_path / "out" / "failed.txt").read_text().splitlines()
    assert [line.partition(": ")[0] for line in listed] == [f"{tmp_path}/in/b{number}.png" for number in range(8)]
    assert all("empty file" in line for line in listed)
    predict(blind_predictor, tmp_path / "in" / "a.png", tmp_path / "out")
    assert not (tmp_path / "out" / "failed.txt").exists()


def test_unopened_files_are_not_counted(blind_predictor: TorchPredictor, tmp_path: Path) -> None:
    for name in ("b.png", "c.png", "d.png", "e.png"):
        write_image(tmp_path / "in" / name)
    (tmp_path / "in" / "a.png").touch()
    with pytest.raises(PartialError, match="1 of 3 files"):
        predict(blind_predictor, tmp_path / "in", tmp_path / "out", max_frames=2)


def test_damaged_jpeg_is_reported_and_its_intact_part_used(
    predictor: TorchPredictor, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Decoders continue with gray, and libjpeg prints a line without the file name."""
    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(noise).save(tmp_path / "in" / name)
    data = (tmp_path / "in" / "b.jpg").read_bytes()
    middle = len(data) // 2
    (tmp_path / "in" / "b.jpg").write_bytes(data[:middle] + bytes(700) + data[middle + 700 :])
    with pytest.raises(PartialError, match=r"1 of 2 files .*in/b\.jpg: .*Corrupt"):
        predict(predictor, tmp_path / "in", tmp_path / "out")
    assert len(read_records(tmp_path / "out")) == 2
    assert (tmp_path / "out" / "b.jpg").is_file()
    assert "Corrupt JPEG data" not in capfd.readouterr().err


def test_no_readable_image_is_a_data_error(predictor: TorchPredictor, tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(DataError, match=r"a\.png: empty file"):
        predict(predictor, tmp_path / "a.png", tmp_path / "out")


@pytest.mark.parametrize("obstacle_path", ["out", "out/predictions.jsonl/", "out/sub"])
def test_unwritable_output_is_a_machine_error(predictor: TorchPredictor, obstacle_path: str, tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "sub" / "a.png")
    obstacle = tmp_path / obstacle_path
    obstacle.parent.mkdir(exist_ok=True)
    obstacle.mkdir() if obstacle_path.endswith("/") else obstacle.touch()
    with pytest.raises(MachineError, match=f"output={tmp_path / 'out'}: cannot be written: "):
        predict(predictor, tmp_path / "in", tmp_path / "out")


def test_originals_are_never_overwritten(predictor: TorchPredictor, tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png")
    before = path.read_bytes()
    for source in (tmp_path, path, tmp_path / "*.png"):
        with pytest.raises(ConfigError, match=r"output=.* overwrite .*a\.png"):
            predict(predictor, source, tmp_path)
    assert path.read_bytes() == before
    assert not (tmp_path / "predictions.jsonl").exists()
