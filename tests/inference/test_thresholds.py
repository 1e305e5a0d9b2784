"""The score thresholds of a detector's classes: stored in its files, and used wherever boxes are shown."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from media import predict, write_image, write_video
from shapes_detector import SETTINGS, shapes_detector, unchecked

import ssd
from ssd.common.errors import CheckpointError
from ssd.common.images import ImageArray
from ssd.common.structures import Detections
from ssd.data.formats.shapes import CLASS_NAMES, read_shapes
from ssd.evaluation.evaluator import best_thresholds
from ssd.export.onnx_graph import to_onnx
from ssd.inference import onnx_file
from ssd.inference.detector import Detector
from ssd.inference.onnx_predictor import OnnxPredictor
from ssd.inference.predictor import thresholds_of
from ssd.model.postprocess import PostProcess
from ssd.model.priors import PriorSpec
from ssd.model.ssd import build
from ssd.weights import checkpoint

THRESHOLDS = tuple(0.2 + 0.1 * number for number in range(len(CLASS_NAMES)))

GOOD = [0.5] * (len(CLASS_NAMES) - 1)


class TwoClasses:
    """Finds an a of score 0.4 and a b of 0.4 in every image; a counts from 0.3, b from 0.5."""

    class_names = ("a", "b")
    thresholds: tuple[float, ...] | None = (0.3, 0.5)

    def __call__(self, images: Sequence[ImageArray]) -> list[Detections]:
        boxes = torch.tensor([[0.1, 0.1, 0.4, 0.4], [0.5, 0.5, 0.9, 0.9]])
        return [Detections(boxes, torch.tensor([0.4, 0.4]), torch.tensor([0, 1])) for _ in images]


def test_each_class_has_its_own(tmp_path: Path) -> None:
    image = write_image(tmp_path / "a.png")
    detector = Detector(TwoClasses())
    assert detector(image).labels == ["a"]
    assert detector.thresholds == pytest.approx({"a": 0.3, "b": 0.5})
    assert Detector(TwoClasses(), score_threshold=0.1)(image).labels == ["a", "b"]


def test_without_any_all_classes_have_the_default() -> None:
    predictor = TwoClasses()
    predictor.thresholds = None
    assert thresholds_of(predictor, None).tolist() == pytest.approx([0.3, 0.3])
    assert thresholds_of(predictor, 0.7).tolist() == pytest.approx([0.7, 0.7])


def test_tracks_start_with_a_box_above_the_threshold_of_its_class(tmp_path: Path) -> None:
    pytest.importorskip("supervision")
    write_video(tmp_path / "in" / "a.mp4", frames=6)
    predictor = TwoClasses()
    predictor.thresholds = (0.1, 0.5)
    records = predict(predictor, tmp_path / "in", tmp_path / "out", track=True, draw_threshold=None)
    assert records[-1]["counts"] == {"a": 1}
    assert [item["track_id"] is None for item in records[-1]["detections"]] == [False, True]


def test_release_and_exported_files_hold_them(mobilenet_v1: PriorSpec, tmp_path: Path) -> None:
    model = shapes_detector(mobilenet_v1)
    model.thresholds = THRESHOLDS
    checkpoint.save_release(model, tmp_path / "model.safetensors")
    assert checkpoint.load(tmp_path / "model.safetensors").thresholds == THRESHOLDS
    assert tuple(ssd.load(tmp_path / "model.safetensors", device="cpu").thresholds.values()) == pytest.approx(
        THRESHOLDS
    )
    with unchecked():
        graph = to_onnx(model, PostProcess(score_threshold=0.05, **SETTINGS))
    (tmp_path / "model.onnx").write_bytes(onnx_file.seal(graph))
    assert OnnxPredictor(tmp_path / "model.onnx").thresholds == THRESHOLDS
    entry = next(item for item in graph.metadata_props if item.key == "recipe")
    entry.value = json.dumps(json.loads(entry.value) | {"thresholds": [2]})
    (tmp_path / "model.onnx").write_bytes(onnx_file.seal(graph))
    with pytest.raises(CheckpointError, match=r"thresholds \[2\]: must be a number from 0 to 1 for each class"):
        onnx_file.read(tmp_path / "model.onnx")


@pytest.mark.parametrize("thresholds", [[0.5], "0.5", [*GOOD, 1.5], [*GOOD, math.nan], [*GOOD, True], {}])
def test_others_are_refused(mobilenet_v1: PriorSpec, thresholds: object) -> None:
    recipe = shapes_detector(mobilenet_v1).recipe()
    build(recipe | {"thresholds": [*GOOD, 0.5]})
    with pytest.raises(CheckpointError, match="must be a number from 0 to 1 for each class"):
        build(recipe | {"thresholds": thresholds})


def test_the_best_score_of_a_class_separates_right_from_wrong() -> None:
    index = read_shapes(train=1, val=0, test=6, side_px=80, seed=0).test
    assert index is not None
    known = {index.load(index.paths[position]).tobytes(): index.rows(position) for position in range(len(index))}

    def predict_all(images: Sequence[ImageArray]) -> list[Detections]:
        """The truth with a score of 0.6, and below it boxes beside the objects; nothing of the last class."""
        found = []
        for image in images:
            rows = known.get(image.tobytes(), slice(0, 0))
            boxes, labels = torch.from_numpy(index.boxes[rows]), torch.from_numpy(index.labels[rows]).long()
            keep = labels < len(CLASS_NAMES) - 1
            boxes, labels = boxes[keep], labels[keep]
            scores = torch.tensor([0.6] * len(boxes) + [0.4] * len(boxes))
            found.append(Detections(torch.cat((boxes, boxes / 9)), scores, labels.repeat(2)))
        return found

    thresholds = best_thresholds(predict_all, index, batch_size=4, num_workers=0, seed=0)
    assert thresholds == pytest.approx((0.5,) * len(CLASS_NAMES))  # the last class: that of all together


def test_boxes_below_the_threshold_of_their_class_take_no_place_of_others(tmp_path: Path) -> None:
    class Sorted(TwoClasses):
        thresholds = (0.9, 0.1)

    assert Detector(Sorted(), max_detections=1)(write_image(tmp_path / "a.png")).labels == ["b"]


def test_predict_prints_those_that_it_uses(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="ssd")
    image = write_image(tmp_path / "a.png")
    predict(TwoClasses(), image, tmp_path / "out", draw_threshold=0.2)
    assert "a 0.30" not in caplog.text
    predict(TwoClasses(), image, tmp_path / "out", draw_threshold=None)
    assert "a 0.30, b 0.50" in caplog.text


def test_a_limit_holds_for_every_file(mobilenet_v1: PriorSpec, tmp_path: Path) -> None:
    model = shapes_detector(mobilenet_v1)
    model.thresholds = (0.99, *(0.01 for _ in CLASS_NAMES[1:]))
    checkpoint.save_release(model, tmp_path / "model.safetensors")
    with unchecked():
        graph = to_onnx(model, PostProcess())
    (tmp_path / "model.onnx").write_bytes(onnx_file.seal(graph))
    image = write_image(tmp_path / "a.png")
    networks = [ssd.load(tmp_path / name, max_detections=3) for name in ("model.safetensors", "model.onnx")]
    limited = [network(image) for network in networks]
    unlimited = ssd.load(tmp_path / "model.safetensors")(image)
    assert limited[0].labels == limited[1].labels == unlimited.labels[:3]
    assert limited[0].scores == pytest.approx(limited[1].scores, abs=1e-4)
