"""The thresholds of a file beside the best ones of the evaluated split."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssd.common.structures import Detections
from ssd.data.formats.shapes import CLASS_NAMES, read_shapes
from ssd.evaluation import evaluator
from ssd.evaluation.detect import Speed
from ssd.evaluation.evaluator import Evaluation
from ssd.evaluation.report import print_thresholds


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    """Of a detector that scores every object 0.6, and a box beside it 0.4."""
    index = read_shapes(train=1, val=0, test=12, side_px=80, seed=0).test
    assert index is not None
    found = []
    for position in range(len(index)):
        rows = index.rows(position)
        boxes, labels = torch.from_numpy(index.boxes[rows]), torch.from_numpy(index.labels[rows]).long()
        scores = torch.tensor([0.6] * len(boxes) + [0.4] * len(boxes))
        found.append(Detections(torch.cat((boxes, boxes / 9)), scores, labels.repeat(2)))
    weights = np.ones((10, len(index)), dtype=np.int64)
    return evaluator.evaluate("net", found, index, speed=Speed(12, 1.0, 0.0), weights=weights)


def test_a_threshold_far_from_the_best_is_a_warning(evaluation: Evaluation, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="ssd")
    stored = dict.fromkeys(CLASS_NAMES, 0.55) | {CLASS_NAMES[0]: 0.3}
    print_thresholds(evaluation, stored)
    (warning,) = [line for line in caplog.messages if "warning" in line]
    assert f"{CLASS_NAMES[0]} 0.30 (here 0.50, F1 0.667 instead of 1.000)" in warning
    assert CLASS_NAMES[1] not in warning
    (row,) = [line.split() for line in caplog.messages if CLASS_NAMES[1] in line]
    assert [cell for cell in row if cell[0].isdigit()] == ["0.550", "1.000", "0.500", "1.000"]


def test_nothing_is_printed_of_a_file_without_thresholds(
    evaluation: Evaluation, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="ssd")
    print_thresholds(evaluation, {})
    assert not caplog.messages
