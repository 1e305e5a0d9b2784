"""The CSV table, the crops, and the choice of outputs."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from media import HEIGHT, WIDTH, WhiteSquarePredictor, predict, read_records, write_image, write_video
from PIL import Image

from ssd.common.errors import ConfigError, DataError, MachineError
from ssd.common.images import ImageArray, read_image
from ssd.common.structures import Detections
from ssd.inference.writers import CSV_COLUMNS


class TwoHalvesPredictor(WhiteSquarePredictor):
    """Detects the left half as class 0, and the right half with a lower score as class 1."""

    def __init__(self, *class_names: str) -> None:
        self.class_names = class_names

    def _detect(self, image: ImageArray) -> Detections:
        boxes = torch.tensor([[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]])
        return Detections(boxes, torch.tensor([0.8, 0.4]), torch.tensor([0, 1]))


def rows(output: Path) -> list[dict[str, Any]]:
    with (output / "predictions.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def files(output: Path) -> list[str]:
    return sorted(file.relative_to(output).as_posix() for file in output.rglob("*") if file.is_file())


def test_csv_has_a_row_per_detection(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png")
    predict(TwoHalvesPredictor("cat", "dog"), path, tmp_path / "out", save=["csv", "json"])
    left, right = rows(tmp_path / "out")
    assert tuple(left) == CSV_COLUMNS
    assert (left["source"], left["frame"], left["label"], left["class_id"]) == (str(path), "", "cat", "0")
    assert (right["label"], right["x1"], right["y2"]) == ("dog", str(WIDTH / 2), str(float(HEIGHT)))
    assert float(right["score"]) == pytest.approx(0.4, abs=1e-4)


@pytest.mark.parametrize("name", ["=1+2", "+cmd", "-2", "@SUM(A1)", "\t=1"])
def test_formulas_are_escaped_in_csv(name: str, tmp_path: Path) -> None:
    predict(TwoHalvesPredictor(name, "dog"), write_image(tmp_path / "a.png"), tmp_path / "out", save=["csv", "json"])
    assert [row["label"] for row in rows(tmp_path / "out")] == [f"'{name}", "dog"]
    assert read_records(tmp_path / "out")[0]["detections"][0]["label"] == name


def test_crops_are_saved_by_class(tmp_path: Path) -> None:
    source = read_image(write_image(tmp_path / "in" / "sub" / "a.png"))
    write_image(tmp_path / "in" / "a.png")
    predict(
        TwoHalvesPredictor("사람", "../dog"),
        tmp_path / "in",
        tmp_path / "out",
        save=["crops", "json"],
        draw_threshold=0.5,
    )
    assert files(tmp_path / "out") == [
        "crops/사람/a.png_000.jpg",
        "crops/사람/sub/a.png_000.jpg",
        "predictions.jsonl",
    ]
    crop = read_image(tmp_path / "out" / "crops" / "사람" / "sub" / "a.png_000.jpg")
    assert crop.shape == (HEIGHT, WIDTH // 2, 3)
    assert np.abs(crop.mean(axis=(0, 1)) - source[:, : WIDTH // 2].mean(axis=(0, 1))).max() < 6


@pytest.mark.parametrize("name", ["../..", "/etc", "a/b", "..", "", "nul\0", "C:\\x"])
def test_class_names_cannot_leave_the_output_folder(name: str, tmp_path: Path) -> None:
    predict(TwoHalvesPredictor(name, "dog"), write_image(tmp_path / "a.png"), tmp_path / "out", save=["crops", "json"])
    assert len([file for file in files(tmp_path / "out") if file.startswith("crops/")]) == 2
    assert files(tmp_path) == sorted(["a.png", *(f"out/{file}" for file in files(tmp_path / "out"))])


def test_crops_of_a_video_have_the_frame_number(tmp_path: Path) -> None:
    predict(WhiteSquarePredictor(), write_video(tmp_path / "a.mp4", frames=2), tmp_path / "out", save=["crops", "json"])
    assert files(tmp_path / "out")[:2] == [f"crops/square/a.mp4_00000{number}_000.jpg" for number in (0, 1)]


def test_only_the_given_classes_are_kept(tmp_path: Path) -> None:
    source = write_image(tmp_path / "a.png")
    (record,) = predict(TwoHalvesPredictor("cat", "dog"), source, tmp_path / "out", classes=["dog"])
    assert [(item["label"], item["class_id"]) for item in record["detections"]] == [("dog", 1)]
    with pytest.raises(ConfigError, match=r"classes=dig: .*dog"):
        predict(TwoHalvesPredictor("cat", "dog"), source, tmp_path / "out", classes=["dig"])


def test_unknown_kind_of_output_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"save=photos: .*images, video, json, csv, crops"):
        predict(WhiteSquarePredictor(), write_image(tmp_path / "a.png"), tmp_path / "out", save=["json", "photos"])


@pytest.mark.parametrize("kind", ["json", "csv", "crops"])
def test_output_beside_the_sources_is_allowed_without_drawings(kind: str, tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png")
    before = path.read_bytes()
    predict(TwoHalvesPredictor("cat", "dog"), tmp_path, tmp_path, save=[kind, "json"])
    assert path.read_bytes() == before
    assert "predictions.jsonl" in files(tmp_path)


def test_saving_nothing_is_an_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_image(tmp_path / "a.png")
    with pytest.raises(ConfigError, match=r"save=\[\]: .*images, video"):
        predict(WhiteSquarePredictor(), path, tmp_path / "out", save=[])
    with pytest.raises(ConfigError, match=r"save=video: .*save=images"):
        predict(WhiteSquarePredictor(), path, tmp_path / "out", save=["video"])
    assert not (tmp_path / "out").exists()
    predict(WhiteSquarePredictor(), path, tmp_path / "out", save=["video", "json"])
    assert "save=video: the source has no video" in caplog.text


def test_records_remain_partial_after_an_error(tmp_path: Path) -> None:
    class BrokenPredictor(WhiteSquarePredictor):
        def _detect(self, image: ImageArray) -> Detections:
            if image[..., 0].mean() > 140:
                raise ValueError("our bug")
            return super()._detect(image)

    write_image(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.png").write_bytes((tmp_path / "in" / "a.png").read_bytes())
    Image.new("RGB", (20, 20), "red").save(tmp_path / "in" / "c.png")
    with pytest.raises(ValueError, match="our bug"):
        predict(BrokenPredictor(), tmp_path / "in", tmp_path / "out", batch_size=1)
    assert "predictions.jsonl" not in files(tmp_path / "out")
    assert (tmp_path / "out" / "predictions.partial.jsonl").read_text().count("\n") == 2


def test_no_readable_file_leaves_no_records(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("<html>")
    with pytest.raises(DataError, match=r"a\.png: not an image"):
        predict(WhiteSquarePredictor(), tmp_path / "a.png", tmp_path / "out")
    assert files(tmp_path / "out") == []


def test_a_window_needs_a_screen(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="pip install opencv-python"):
        predict(WhiteSquarePredictor(), write_image(tmp_path / "a.png"), tmp_path / "out", show=True)
    assert not (tmp_path / "out").exists()
