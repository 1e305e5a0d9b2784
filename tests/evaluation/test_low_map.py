"""A detector that finds nothing is explained: labels changed in known ways, and a detector that knows the true ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from ssd.common.images import ImageArray
from ssd.common.structures import Detections, Predict
from ssd.data.formats.shapes import read_shapes
from ssd.data.index import DetectionIndex
from ssd.evaluation.low_map import LowMap, explain


@pytest.fixture(scope="module")
def splits() -> tuple[DetectionIndex, DetectionIndex]:
    found = read_shapes(train=8, val=0, test=8, side_px=80, seed=0)
    assert found.train is not None
    assert found.test is not None
    return found.train, found.test


def oracle(*indexes: DetectionIndex) -> Predict:
    """A detector that knows the objects of some images, and finds nothing on others."""
    known = {}
    for index in indexes:
        for position in range(len(index)):
            known[index.load(index.paths[position]).tobytes()] = (index, index.rows(position))

    def predict(images: Sequence[ImageArray]) -> list[Detections]:
        found = []
        for image in images:
            index, rows = known.get(image.tobytes(), (indexes[0], slice(0, 0)))
            boxes, labels = torch.from_numpy(index.boxes[rows]), torch.from_numpy(index.labels[rows]).long()
            found.append(Detections(boxes, torch.linspace(0.9, 0.8, len(boxes)), labels))
        return found

    return predict


def nothing(images: Sequence[ImageArray]) -> list[Detections]:
    empty = torch.zeros(0)
    return [Detections(empty.reshape(0, 4), empty, empty.long()) for _ in images]


def next_class(index: DetectionIndex) -> DetectionIndex:
    return replace(index, labels=(index.labels + 1) % len(index.class_names))


def shifted(index: DetectionIndex) -> DetectionIndex:
    size = np.tile(index.boxes[:, 2:] - index.boxes[:, :2], 2)
    return replace(index, boxes=index.boxes + 0.4 * size)


def same(index: DetectionIndex) -> DetectionIndex:
    return index


@pytest.mark.parametrize(
    ("train_known", "change", "cause"),
    [
        (True, next_class, "found, under other names"),
        (True, shifted, "lie beside the objects"),
        (False, same, "learned nothing"),
    ],
)
def test_the_cause_is_found(
    splits: tuple[DetectionIndex, DetectionIndex],
    train_known: bool,
    change: Callable[[DetectionIndex], DetectionIndex],
    cause: str,
) -> None:
    train, test = splits
    predict = oracle(train, test) if train_known else nothing
    found = LowMap.measure(predict, train, change(test), batch_size=4, seed=0)
    assert found.unseen < 0.05
    assert found.train == pytest.approx(1.0 if train_known else 0.0)
    lines = explain(found, stage="test", coverage=1.0, steps=1000, planned_steps=1200, pretrained=True)
    assert len(lines) == 3
    assert cause in lines[1]


def test_images_unlike_the_training_images(splits: tuple[DetectionIndex, DetectionIndex]) -> None:
    train, test = splits
    found = LowMap.measure(oracle(train), train, test, batch_size=4, seed=0)
    lines = explain(found, stage="test", coverage=1.0, steps=1000, planned_steps=1200, pretrained=True)
    assert lines[0] == "mAP@0.5 is 0.000 on test; on training images it is 1.000"
    assert "knows the training images and not those of test" in lines[1]


@pytest.mark.parametrize(
    ("coverage", "steps", "pretrained", "cause"),
    [
        (0.2, 1000, True, "priors match 20%"),
        (0.9, 100, True, "100 optimizer steps are too few"),
        (0.9, 1000, False, "random weights"),
        (0.9, 1000, True, "the learning rate does not fit"),
    ],
)
def test_why_nothing_was_learned(coverage: float, steps: int, pretrained: bool, cause: str) -> None:
    found = LowMap(train=0.01, unseen=0.0, any_class=0.02, near=0.03)
    lines = explain(found, stage="val", coverage=coverage, steps=steps, planned_steps=1200, pretrained=pretrained)
    assert cause in lines[1]
    assert lines[2].startswith("next: ")
