"""From images to records and images with boxes, with a network of random weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from media import HEIGHT, WIDTH, image, lines, predict
from PIL import Image

from ssd.common.errors import ConfigError, DataError, MachineError, PartialError
from ssd.common.images import IMAGE_SUFFIXES, read_image
from ssd.inference.torch_predictor import Predictor
from ssd.model.backbones import MobileNetV1
from ssd.model.postprocess import PostProcess
from ssd.model.priors import PriorSpec
from ssd.model.ssd import SSD

CLASS_NAMES = ("cat", "Hund", "猫")


@pytest.fixture(scope="module")
def network(mobilenet_v1: PriorSpec) -> SSD:
    backbone = MobileNetV1(width_multiplier=0.25, mean=[127.0] * 3, std=[128.0] * 3)
    return SSD(backbone, mobilenet_v1, class_names=CLASS_NAMES, image_size=96)


def predictor_over(network: SSD, score: float, **settings: Any) -> Predictor:
    postprocess = PostProcess(score_threshold=score, nms_threshold=0.45, topk_candidates=100, max_detections=20)
    return Predictor(network, postprocess, device="cpu", **settings)


@pytest.fixture
def finds_much(network: SSD) -> Predictor:
    return predictor_over(network, 0.01)


@pytest.fixture
def finds_nothing(network: SSD) -> Predictor:
    return predictor_over(network, 1.0)


def test_a_line_has_the_fields_of_the_design(finds_much: Predictor, tmp_path: Path) -> None:
    path = image(tmp_path / "in" / "cat.png")
    (line,) = predict(finds_much, path, tmp_path / "out")
    assert list(line) == ["source", "frame", "width", "height", "detections"]
    assert (line["source"], line["frame"], line["width"], line["height"]) == (str(path), None, WIDTH, HEIGHT)
    assert len(line["detections"]) == 20
    for item in line["detections"]:
        assert list(item) == ["label", "class_id", "score", "box"]
        assert item["label"] == CLASS_NAMES[item["class_id"]]
        x1, y1, x2, y2 = item["box"]
        assert 0 <= x1 <= x2 <= WIDTH
        assert 0 <= y1 <= y2 <= HEIGHT
        assert 0 < item["score"] <= 1
    scores = [item["score"] for item in line["detections"]]
    assert scores == sorted(scores, reverse=True)


def test_boxes_are_pixels_of_the_upright_image(finds_much: Predictor, tmp_path: Path) -> None:
    """The same image, stored upright and lying: the same lines."""
    upright = image(tmp_path / "in" / "upright.png")
    lying = tmp_path / "in" / "lying.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(upright).transpose(Image.Transpose.ROTATE_90).save(lying, exif=exif)
    one, other = predict(finds_much, tmp_path / "in", tmp_path / "out")
    assert (one["width"], one["height"]) == (WIDTH, HEIGHT)
    assert one["detections"] == other["detections"]
    assert np.array_equal(read_image(tmp_path / "out" / "lying.png"), read_image(tmp_path / "out" / "upright.png"))


def test_lines_do_not_depend_on_the_batch(finds_much: Predictor, tmp_path: Path) -> None:
    for number in range(5):
        image(tmp_path / "in" / f"{number}.png", seed=number)
    together = predict(finds_much, tmp_path / "in", tmp_path / "out", batch_size=3)
    alone = predict(finds_much, tmp_path / "in", tmp_path / "out", batch_size=1)
    assert [Path(line["source"]).name for line in together] == [f"{number}.png" for number in range(5)]
    for one, other in zip(together, alone, strict=True):
        assert len(one["detections"]) == len(other["detections"])
        assert one["detections"][0]["box"] == pytest.approx(other["detections"][0]["box"], abs=0.02)


def test_images_lie_under_the_name_of_the_source(finds_much: Predictor, tmp_path: Path) -> None:
    names = ["a.png", "sub/a.png", "sub/deep/b.png"]
    for name in names:
        image(tmp_path / "in" / name)
    predict(finds_much, tmp_path / "in", tmp_path / "out")
    written = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png"))
    assert written == names
    for name in names:
        before, after = read_image(tmp_path / "in" / name), read_image(tmp_path / "out" / name)
        assert before.shape == after.shape
        assert not np.array_equal(before, after)


def test_images_of_the_same_name_do_not_overwrite_each_other(finds_nothing: Predictor, tmp_path: Path) -> None:
    for seed, name in enumerate(("left/x.png", "right/x.png")):
        image(tmp_path / "in" / name, seed=seed)
    predict(finds_nothing, tmp_path / "in" / "*" / "x.png", tmp_path / "out")
    for name in ("left/x.png", "right/x.png"):
        assert np.array_equal(read_image(tmp_path / "out" / name), read_image(tmp_path / "in" / name))


@pytest.mark.parametrize("suffix", [*IMAGE_SUFFIXES, ".JPG"])
def test_every_kind_of_image_is_written_in_its_kind(finds_much: Predictor, suffix: str, tmp_path: Path) -> None:
    image(tmp_path / "in" / f"a{suffix}")
    predict(finds_much, tmp_path / "in", tmp_path / "out")
    with Image.open(tmp_path / "out" / f"a{suffix}") as before, Image.open(tmp_path / "in" / f"a{suffix}") as after:
        assert before.format == after.format
        assert before.size == after.size


@pytest.mark.parametrize("name", ["photo", "photo.jfif", "photo.dat", "photo."])
def test_a_image_without_a_usual_suffix_is_written_too(finds_much: Predictor, name: str, tmp_path: Path) -> None:
    os.replace(image(tmp_path / "in" / "a.png"), tmp_path / "in" / name)  # noqa: PTH105
    (line,) = predict(finds_much, tmp_path / "in" / name, tmp_path / "out")
    assert line["detections"]
    (drawn,) = [path for path in (tmp_path / "out").iterdir() if path.name != "predictions.jsonl"]
    assert drawn.name.startswith(name)
    assert read_image(drawn).shape == (HEIGHT, WIDTH, 3)


def test_the_threshold_of_drawing_leaves_the_lines_alone(finds_much: Predictor, tmp_path: Path) -> None:
    image(tmp_path / "in" / "a.png")
    (line,) = predict(finds_much, tmp_path / "in", tmp_path / "out", draw_threshold=1.0)
    assert len(line["detections"]) == 20
    assert np.array_equal(read_image(tmp_path / "out" / "a.png"), read_image(tmp_path / "in" / "a.png"))


def test_no_detections_are_a_valid_result(finds_nothing: Predictor, tmp_path: Path) -> None:
    image(tmp_path / "in" / "a.png")
    (line,) = predict(finds_nothing, tmp_path / "in", tmp_path / "out")
    assert line["detections"] == []
    assert np.array_equal(read_image(tmp_path / "out" / "a.png"), read_image(tmp_path / "in" / "a.png"))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 3000), (3000, 1)])
def test_extreme_shapes_work(finds_much: Predictor, height: int, width: int, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (width, height)).save(path)
    (line,) = predict(finds_much, path, tmp_path / "out")
    assert (line["width"], line["height"]) == (width, height)
    assert read_image(tmp_path / "out" / "a.png").shape == (height, width, 3)


def test_predictor_of_no_images_finds_nothing(finds_much: Predictor) -> None:
    assert finds_much([]) == []


# Faults


def test_bad_images_are_listed_and_the_good_ones_written(finds_much: Predictor, tmp_path: Path) -> None:
    for name in ("a.png", "c.png", "e.png"):
        image(tmp_path / "in" / name)
    (tmp_path / "in" / "b.png").write_text("<html></html>")
    (tmp_path / "in" / "d.png").touch()
    with pytest.raises(PartialError) as caught:
        predict(finds_much, tmp_path / "in", tmp_path / "out", batch_size=1)
    failed = tmp_path / "out" / "failed.txt"
    assert str(caught.value).startswith(f"2 of 5 files could not be read whole (all are in {failed}): ")
    assert f"{tmp_path}/in/b.png: not an image" in str(caught.value)
    assert f"{tmp_path}/in/d.png: empty file" in str(caught.value)
    assert [Path(line["source"]).name for line in lines(tmp_path / "out")] == ["a.png", "c.png", "e.png"]
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == ["a.png", "c.png", "e.png"]


def test_all_bad_images_are_in_a_file_until_there_are_none(finds_nothing: Predictor, tmp_path: Path) -> None:
    image(tmp_path / "in" / "a.png")
    for number in range(8):
        (tmp_path / "in" / f"b{number}.png").touch()
    with pytest.raises(PartialError, match=r"8 of 9 files .*out/failed\.txt.*; and 3 more"):
        predict(finds_nothing, tmp_path / "in", tmp_path / "out")
    listed = (tmp_path / "out" / "failed.txt").read_text().splitlines()
    assert [line.partition(": ")[0] for line in listed] == [f"{tmp_path}/in/b{number}.png" for number in range(8)]
    assert all("empty file" in line for line in listed)
    predict(finds_nothing, tmp_path / "in" / "a.png", tmp_path / "out")
    assert not (tmp_path / "out" / "failed.txt").exists()


def test_files_that_were_never_begun_are_not_counted(finds_nothing: Predictor, tmp_path: Path) -> None:
    for name in ("b.png", "c.png", "d.png", "e.png"):
        image(tmp_path / "in" / name)
    (tmp_path / "in" / "a.png").touch()
    with pytest.raises(PartialError, match="1 of 3 files could not be read whole"):
        predict(finds_nothing, tmp_path / "in", tmp_path / "out", max_frames=2)


def test_a_jpeg_damaged_inside_is_named_and_what_there_is_written(
    finds_much: Predictor, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Decoders go on in gray, and libjpeg prints a line that names no file."""
    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(noise).save(tmp_path / "in" / name)
    data = (tmp_path / "in" / "b.jpg").read_bytes()
    middle = len(data) // 2
    (tmp_path / "in" / "b.jpg").write_bytes(data[:middle] + bytes(700) + data[middle + 700 :])
    with pytest.raises(PartialError, match=r"1 of 2 files .*in/b\.jpg: damaged inside.*Corrupt.*; fetch it again"):
        predict(finds_much, tmp_path / "in", tmp_path / "out")
    assert len(lines(tmp_path / "out")) == 2
    assert (tmp_path / "out" / "b.jpg").is_file()
    assert "Corrupt JPEG data" not in capfd.readouterr().err


def test_only_bad_images_are_a_data_error(finds_much: Predictor, tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(DataError, match=r"a\.png: empty file"):
        predict(finds_much, tmp_path / "a.png", tmp_path / "out")


@pytest.mark.parametrize("in_the_way", ["out", "out/predictions.jsonl/", "out/sub"])
def test_output_that_cannot_be_written_is_an_error(finds_much: Predictor, in_the_way: str, tmp_path: Path) -> None:
    image(tmp_path / "in" / "sub" / "a.png")
    obstacle = tmp_path / in_the_way
    obstacle.parent.mkdir(exist_ok=True)
    obstacle.mkdir() if in_the_way.endswith("/") else obstacle.touch()
    with pytest.raises(MachineError, match=f"output={tmp_path / 'out'}: cannot be written: "):
        predict(finds_much, tmp_path / "in", tmp_path / "out")


def test_originals_are_never_overwritten(finds_much: Predictor, tmp_path: Path) -> None:
    path = image(tmp_path / "a.png")
    before = path.read_bytes()
    for source in (tmp_path, path, tmp_path / "*.png"):
        with pytest.raises(ConfigError, match=r"output=.* overwrite .*a\.png; give another folder"):
            predict(finds_much, source, tmp_path)
    assert path.read_bytes() == before
    assert not (tmp_path / "predictions.jsonl").exists()
