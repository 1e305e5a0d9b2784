"""From a source to predictions.jsonl and pictures with boxes, with a network of random weights."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssd.backbones import MobileNetV1
from ssd.errors import ConfigError, DataError, MachineError, PartialError
from ssd.images import IMAGE_SUFFIXES, read_image
from ssd.model import SSD
from ssd.postprocess import PostProcess
from ssd.prediction import predict_pictures
from ssd.predictor import Predictor
from ssd.priors import PriorSpec
from ssd.sources import PictureFile, find_pictures

CLASS_NAMES = ("cat", "Hund", "猫")
HEIGHT, WIDTH = 45, 70


@pytest.fixture(scope="module")
def network(mobilenet_v1: PriorSpec) -> SSD:
    backbone = MobileNetV1(width_multiplier=0.25, mean=[127.0] * 3, std=[128.0] * 3)
    return SSD(backbone, mobilenet_v1, class_names=CLASS_NAMES, image_size=96)


def predictor_over(network: SSD, score: float) -> Predictor:
    postprocess = PostProcess(score_threshold=score, iou_threshold=0.45, candidates=100, max_detections=20)
    return Predictor(network, postprocess, device="cpu")


@pytest.fixture
def finds_much(network: SSD) -> Predictor:
    return predictor_over(network, 0.01)


@pytest.fixture
def finds_nothing(network: SSD) -> Predictor:
    return predictor_over(network, 1.0)


def write(path: Path, *, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def found(source: Path | str) -> list[tuple[str, str]]:
    """(path, name in the output)."""
    return [(picture.path.as_posix(), picture.name.as_posix()) for picture in find_pictures(str(source))]


def run(predictor: Predictor, source: Path | str, output: Path, **settings: Any) -> list[dict[str, Any]]:
    """The lines of predictions.jsonl."""
    predict_pictures(
        predictor,
        find_pictures(str(source)),
        output=str(output),
        **({"batch_size": 2, "draw_threshold": 0.0} | settings),
    )
    return lines(output)


def lines(output: Path) -> list[dict[str, Any]]:
    text = (output / "predictions.jsonl").read_text(encoding="utf-8")
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


# Sources


def test_a_file_is_itself(tmp_path: Path) -> None:
    path = write(tmp_path / "a" / "cat.png")
    assert found(path) == [(path.as_posix(), "cat.png")]


def test_a_folder_is_searched_to_the_bottom_for_pictures(tmp_path: Path) -> None:
    inside = ["b.PNG", "a.jpg", "sub/deeper/c.JPEG", "sub/a.jpg"]
    for name in inside:
        write(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "folder.jpg").mkdir()
    assert found(tmp_path) == [((tmp_path / name).as_posix(), name) for name in sorted(inside)]


def test_a_glob_is_expanded_in_order(tmp_path: Path) -> None:
    for name in ("b.png", "a.png", "c.jpg"):
        write(tmp_path / name)
    assert found(tmp_path / "*.png") == [((tmp_path / name).as_posix(), name) for name in ("a.png", "b.png")]


def test_pictures_of_the_same_name_keep_their_folders(tmp_path: Path) -> None:
    for name in ("left/x.png", "right/x.png", "right/deep/x.png"):
        write(tmp_path / name)
    assert [name for _, name in found(tmp_path / "*" / "x.png")] == ["left/x.png", "right/x.png"]
    assert [name for _, name in found(tmp_path / "r*" / "**" / "*.png")] == ["right/deep/x.png", "right/x.png"]
    assert [name for _, name in found(tmp_path / "right" / "**" / "*.png")] == ["deep/x.png", "x.png"]


def test_a_glob_below_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "left" / "x.png")
    monkeypatch.chdir(tmp_path)
    assert found("*/x.png") == [("left/x.png", "left/x.png")]
    assert found("./*/x.png") == [("left/x.png", "left/x.png")]


def test_a_glob_leaves_folders_out(tmp_path: Path) -> None:
    write(tmp_path / "a" / "x.png")
    write(tmp_path / "b.png")
    assert [name for _, name in found(tmp_path / "*")] == ["b.png"]


def test_a_file_whose_name_looks_like_a_glob_is_a_file(tmp_path: Path) -> None:
    path = write(tmp_path / "cat [1].png")
    assert found(path) == [(path.as_posix(), "cat [1].png")]


@pytest.mark.parametrize("source", ["missing.png", "empty", "*.png", ""])
def test_nothing_there_is_an_error(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="no picture there"):
        find_pictures(source)


# What is written


def test_a_line_has_the_fields_of_the_design(finds_much: Predictor, tmp_path: Path) -> None:
    path = write(tmp_path / "in" / "cat.png")
    (line,) = run(finds_much, path, tmp_path / "out")
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


def test_boxes_are_pixels_of_the_upright_picture(finds_much: Predictor, tmp_path: Path) -> None:
    """The same picture, stored upright and lying: the same lines."""
    upright = write(tmp_path / "in" / "upright.png")
    lying = tmp_path / "in" / "lying.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(upright).transpose(Image.Transpose.ROTATE_90).save(lying, exif=exif)
    one, other = run(finds_much, tmp_path / "in", tmp_path / "out")
    assert (one["width"], one["height"]) == (WIDTH, HEIGHT)
    assert one["detections"] == other["detections"]
    assert np.array_equal(read_image(tmp_path / "out" / "lying.png"), read_image(tmp_path / "out" / "upright.png"))


def test_lines_do_not_depend_on_the_batch(finds_much: Predictor, tmp_path: Path) -> None:
    for number in range(5):
        write(tmp_path / "in" / f"{number}.png", seed=number)
    together = run(finds_much, tmp_path / "in", tmp_path / "out", batch_size=3)
    alone = run(finds_much, tmp_path / "in", tmp_path / "out", batch_size=1)
    assert [Path(line["source"]).name for line in together] == [f"{number}.png" for number in range(5)]
    for one, other in zip(together, alone, strict=True):
        assert len(one["detections"]) == len(other["detections"])
        assert one["detections"][0]["box"] == pytest.approx(other["detections"][0]["box"], abs=0.02)


def test_pictures_lie_under_the_name_of_the_source(finds_much: Predictor, tmp_path: Path) -> None:
    names = ["a.png", "sub/a.png", "sub/deep/b.png"]
    for name in names:
        write(tmp_path / "in" / name)
    run(finds_much, tmp_path / "in", tmp_path / "out")
    written = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png"))
    assert written == names
    for name in names:
        before, after = read_image(tmp_path / "in" / name), read_image(tmp_path / "out" / name)
        assert before.shape == after.shape
        assert not np.array_equal(before, after)


def test_pictures_of_the_same_name_do_not_overwrite_each_other(finds_nothing: Predictor, tmp_path: Path) -> None:
    for seed, name in enumerate(("left/x.png", "right/x.png")):
        write(tmp_path / "in" / name, seed=seed)
    run(finds_nothing, tmp_path / "in" / "*" / "x.png", tmp_path / "out")
    for name in ("left/x.png", "right/x.png"):
        assert np.array_equal(read_image(tmp_path / "out" / name), read_image(tmp_path / "in" / name))


@pytest.mark.parametrize("suffix", [*IMAGE_SUFFIXES, ".JPG"])
def test_every_kind_of_picture_is_written_in_its_kind(finds_much: Predictor, suffix: str, tmp_path: Path) -> None:
    write(tmp_path / "in" / f"a{suffix}")
    run(finds_much, tmp_path / "in", tmp_path / "out")
    with Image.open(tmp_path / "out" / f"a{suffix}") as before, Image.open(tmp_path / "in" / f"a{suffix}") as after:
        assert before.format == after.format
        assert before.size == after.size


@pytest.mark.parametrize("name", ["photo", "photo.jfif", "photo.dat", "photo."])
def test_a_picture_without_a_usual_suffix_is_written_too(finds_much: Predictor, name: str, tmp_path: Path) -> None:
    os.replace(write(tmp_path / "in" / "a.png"), tmp_path / "in" / name)  # noqa: PTH105
    (line,) = run(finds_much, tmp_path / "in" / name, tmp_path / "out")
    assert line["detections"]
    (picture,) = [path for path in (tmp_path / "out").iterdir() if path.name != "predictions.jsonl"]
    assert picture.name.startswith(name)
    assert read_image(picture).shape == (HEIGHT, WIDTH, 3)


def test_the_threshold_of_drawing_leaves_the_lines_alone(finds_much: Predictor, tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.png")
    (line,) = run(finds_much, tmp_path / "in", tmp_path / "out", draw_threshold=1.0)
    assert len(line["detections"]) == 20
    assert np.array_equal(read_image(tmp_path / "out" / "a.png"), read_image(tmp_path / "in" / "a.png"))


def test_no_detections_are_a_valid_result(finds_nothing: Predictor, tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.png")
    (line,) = run(finds_nothing, tmp_path / "in", tmp_path / "out")
    assert line["detections"] == []
    assert np.array_equal(read_image(tmp_path / "out" / "a.png"), read_image(tmp_path / "in" / "a.png"))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 3000), (3000, 1)])
def test_extreme_shapes_work(finds_much: Predictor, height: int, width: int, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (width, height)).save(path)
    (line,) = run(finds_much, path, tmp_path / "out")
    assert (line["width"], line["height"]) == (width, height)
    assert read_image(tmp_path / "out" / "a.png").shape == (height, width, 3)


def test_predictor_of_no_pictures_finds_nothing(finds_much: Predictor) -> None:
    assert finds_much([]) == []


# Faults


def test_bad_pictures_are_listed_and_the_good_ones_written(finds_much: Predictor, tmp_path: Path) -> None:
    for name in ("a.png", "c.png", "e.png"):
        write(tmp_path / "in" / name)
    (tmp_path / "in" / "b.png").write_text("<html></html>")
    (tmp_path / "in" / "d.png").touch()
    with pytest.raises(PartialError) as caught:
        run(finds_much, tmp_path / "in", tmp_path / "out", batch_size=1)
    assert str(caught.value).startswith("2 of 5 pictures could not be read: ")
    assert f"{tmp_path}/in/b.png: not a picture" in str(caught.value)
    assert f"{tmp_path}/in/d.png: empty file" in str(caught.value)
    assert [Path(line["source"]).name for line in lines(tmp_path / "out")] == ["a.png", "c.png", "e.png"]
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == ["a.png", "c.png", "e.png"]


def test_only_bad_pictures_are_a_data_error(finds_much: Predictor, tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(DataError, match=r"1 of 1 pictures could not be read: .*a\.png: empty file"):
        run(finds_much, tmp_path / "a.png", tmp_path / "out")


def test_a_picture_that_vanished_is_a_bad_one(finds_much: Predictor, tmp_path: Path) -> None:
    gone = PictureFile(tmp_path / "gone.png", Path("gone.png"))
    with pytest.raises(DataError, match="no such picture"):
        predict_pictures(finds_much, [gone], output=str(tmp_path / "out"), batch_size=1, draw_threshold=0.5)


@pytest.mark.parametrize("in_the_way", ["out", "out/predictions.jsonl/", "out/sub"])
def test_output_that_cannot_be_written_is_an_error(finds_much: Predictor, in_the_way: str, tmp_path: Path) -> None:
    write(tmp_path / "in" / "sub" / "a.png")
    obstacle = tmp_path / in_the_way
    obstacle.parent.mkdir(exist_ok=True)
    obstacle.mkdir() if in_the_way.endswith("/") else obstacle.touch()
    with pytest.raises(MachineError, match=f"output={tmp_path / 'out'}: cannot be written: "):
        run(finds_much, tmp_path / "in", tmp_path / "out")


def test_originals_are_never_overwritten(finds_much: Predictor, tmp_path: Path) -> None:
    path = write(tmp_path / "a.png")
    before = path.read_bytes()
    for source in (tmp_path, path, tmp_path / "*.png"):
        with pytest.raises(ConfigError, match=r"output=.* overwrite .*a\.png; give another folder"):
            run(finds_much, source, tmp_path)
    assert path.read_bytes() == before
    assert not (tmp_path / "predictions.jsonl").exists()
