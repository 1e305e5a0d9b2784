from __future__ import annotations

import jaxtyping
import pytest
import torch

from ssd.common.structures import PADDING_LABEL, Batch, Detections, Predictions


def test_the_tests_check_shapes() -> None:
    """conftest.py installs the check; without it the annotations were mere comments."""
    Predictions(torch.zeros(2, 5, 3), torch.zeros(2, 5, 4))
    with pytest.raises(jaxtyping.TypeCheckError):
        Predictions(torch.zeros(2, 5, 3), torch.zeros(2, 6, 4))


def test_detections_above_a_score() -> None:
    found = Detections(torch.rand(3, 4), torch.tensor([0.9, 0.5, 0.1]), torch.tensor([2, 0, 1]))
    above = found.above(0.5)
    assert above.labels.tolist() == [2]
    assert torch.equal(above.boxes, found.boxes[:1])
    assert len(found.above(0.0)) == 3
    assert len(found.above(1.0)) == 0


def test_a_copied_batch_is_the_same_batch() -> None:
    batch = Batch(
        images=torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8),
        boxes=torch.rand(2, 1, 4),
        labels=torch.tensor([[0], [PADDING_LABEL]]),
        ignore=torch.zeros(2, 1, dtype=torch.bool),
        sizes=torch.tensor([[8, 9], [10, 11]]),
        ids=("a", "b"),
    )
    copy = batch.to("cpu")
    assert copy.ids == batch.ids
    assert torch.equal(copy.images, batch.images)
    assert torch.equal(copy.sizes, batch.sizes)
