from __future__ import annotations

from typing import Any

import pytest
import reference
import torch
from torch import Tensor
from torch.testing import assert_close
from torchvision.models import detection
from torchvision_ssd import assert_same_in_any_order, rows

from ssd.common.structures import Detections, Predictions
from ssd.model.postprocess import PostProcess
from ssd.model.priors import PriorSpec

SETTINGS: dict[str, Any] = {
    "score_threshold": 0.01,
    "nms_threshold": 0.45,
    "topk_candidates": 400,
    "max_detections": 200,
}


def random_predictions(priors: Tensor, *, classes: int, images: int = 1, seed: int = 0) -> Predictions:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(images, len(priors), classes + 1, generator=generator)
    return Predictions(logits, torch.randn(images, len(priors), 4, generator=generator))


def detect(predictions: Predictions, priors: Tensor, **settings: Any) -> Detections:
    (detections,) = PostProcess(**(SETTINGS | settings))(predictions, priors)
    return detections


def detect_by_loop(predictions: Predictions, priors: Tensor, **settings: Any) -> Detections:
    found = reference.postprocess(
        predictions.logits[0].tolist(), predictions.offsets[0].tolist(), priors.tolist(), **(SETTINGS | settings)
    )
    return Detections(
        boxes=torch.tensor([box for _, _, box in found]).reshape(-1, 4),
        scores=torch.tensor([score for score, _, _ in found]),
        labels=torch.tensor([label for _, label, _ in found], dtype=torch.int64),
    )


def assert_same(ours: Detections, theirs: Detections, *, atol: float = 1e-5) -> None:
    assert torch.equal(ours.labels, theirs.labels)
    assert_close(ours.scores, theirs.scores, rtol=0, atol=atol)
    assert_close(ours.boxes, theirs.boxes, rtol=0, atol=atol)


@pytest.fixture
def priors(few_priors: Tensor) -> Tensor:
    return few_priors.float()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"score_threshold": 0.5},
        {"score_threshold": 0.0, "nms_threshold": 0.0},
        {"nms_threshold": 0.9, "max_detections": 400},
        {"topk_candidates": 30},
        {"max_detections": 5},
    ],
)
def test_detections_equal_the_loop(settings: dict[str, Any], seed: int, priors: Tensor) -> None:
    predictions = random_predictions(priors, classes=4, seed=seed)
    assert_same(detect(predictions, priors, **settings), detect_by_loop(predictions, priors, **settings))


def test_600_classes_equal_the_loop(priors: Tensor) -> None:
    """Pairs of boxes with an IoU just above and just below the threshold, in the last of 600 classes.

    A float32 box shifted by 1,200 image widths is only exact to 1e-4, too coarse for the decision.
    """
    first = torch.tensor([[0.5, 0.5, 0.4, 0.4]])
    shift = 0.4 * (1 - 0.45) / (1 + 0.45)  # of two equal squares with an IoU of 0.45
    for moved_by, kept in ((shift * 0.9999, 1), (shift * 1.0001, 2)):
        pair = torch.cat((first, first + torch.tensor([[moved_by, 0.0, 0.0, 0.0]])))
        logits = torch.zeros(1, 2, 601)
        logits[0, :, 600] = torch.tensor([20.0, 19.0])
        predictions = Predictions(logits, torch.zeros(1, 2, 4))
        found = detect(predictions, pair)
        assert len(found) == kept
        assert_same(found, detect_by_loop(predictions, pair))


def test_classes_do_not_suppress_each_other() -> None:
    """600 classes with the same two boxes: each class keeps one of them."""
    priors = torch.tensor([[0.5, 0.5, 0.9, 0.9], [0.5, 0.5, 0.89, 0.9]])
    predictions = Predictions(torch.zeros(1, 2, 601), torch.zeros(1, 2, 4))
    found = detect(predictions, priors, score_threshold=0.0, topk_candidates=1200, max_detections=1200)
    assert sorted(found.labels.tolist()) == list(range(600))


def test_an_image_in_a_batch_equals_itself_alone(priors: Tensor) -> None:
    predictions = random_predictions(priors, classes=4, images=3)
    together = PostProcess(**SETTINGS)(predictions, priors)
    for index, found in enumerate(together):
        alone = Predictions(predictions.logits[index : index + 1], predictions.offsets[index : index + 1])
        assert_same(found, detect(alone, priors), atol=0)


@pytest.mark.parametrize("seed", range(5))
def test_detections_are_sorted_clipped_limited_and_above_the_threshold(seed: int, priors: Tensor) -> None:
    found = detect(random_predictions(priors, classes=4, seed=seed), priors, score_threshold=0.3, max_detections=50)
    assert 0 < len(found) <= 50
    assert (found.scores.diff() <= 0).all()
    assert found.scores.min() > 0.3
    assert found.boxes.min() >= 0
    assert found.boxes.max() <= 1
    assert set(found.labels.tolist()) <= set(range(4))


def test_topk_candidates_limits_the_input_of_nms(priors: Tensor) -> None:
    predictions = random_predictions(priors, classes=4)
    found = detect(predictions, priors, topk_candidates=7, nms_threshold=1.0)
    scores = predictions.logits.softmax(dim=-1)[..., 1:]
    assert_close(found.scores, scores.flatten().topk(7).values)


def test_topk_above_the_number_of_pairs_keeps_all_pairs(priors: Tensor) -> None:
    predictions = random_predictions(priors, classes=2)
    everything = {"topk_candidates": 10**6, "score_threshold": 0.0, "nms_threshold": 1.0, "max_detections": 10**6}
    assert len(detect(predictions, priors, **everything)) == 2 * len(priors)


def test_an_image_without_detections_gives_empty_tensors_of_the_same_types(priors: Tensor) -> None:
    found = detect(random_predictions(priors, classes=4), priors, score_threshold=1.0)
    assert (found.boxes.shape, found.scores.shape, found.labels.shape) == ((0, 4), (0,), (0,))
    assert (found.boxes.dtype, found.scores.dtype, found.labels.dtype) == (torch.float32, torch.float32, torch.int64)


def test_a_score_equal_to_the_threshold_is_removed() -> None:
    predictions = Predictions(torch.zeros(1, 1, 2), torch.zeros(1, 1, 4))
    prior = torch.tensor([[0.5, 0.5, 0.2, 0.2]])
    assert len(detect(predictions, prior, score_threshold=0.5)) == 0
    assert len(detect(predictions, prior, score_threshold=0.4999)) == 1


def test_half_precision_predictions_give_single_precision_detections(priors: Tensor) -> None:
    predictions = random_predictions(priors, classes=4)
    half = Predictions(predictions.logits.bfloat16(), predictions.offsets.bfloat16())
    rounded = Predictions(half.logits.float(), half.offsets.float())
    assert_same(detect(half, priors), detect(rounded, priors), atol=0)


@pytest.mark.parametrize("seed", range(3))
def test_detections_equal_torchvisions(
    seed: int, vgg16_300: PriorSpec, torchvision_ssd: detection.ssd.SSD, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same raw outputs through ssd300_vgg16.postprocess_detections.

    torchvision keeps 400 candidates per class, we keep a number per image: compared where neither limit applies.
    """
    priors = vgg16_300.build([(side, side) for side in (38, 19, 10, 5, 3, 1)], image_size=300)
    predictions = random_predictions(priors, classes=5, images=2, seed=seed)
    threshold = 0.97
    assert (predictions.logits.softmax(dim=-1)[..., 1:] > threshold).sum(dim=(1, 2)).max() < 1000

    ours = PostProcess(**(SETTINGS | {"score_threshold": threshold, "topk_candidates": 1000}))(predictions, priors)
    monkeypatch.setattr(torchvision_ssd, "score_thresh", threshold)
    theirs = postprocess_by_torchvision(torchvision_ssd, predictions, priors)
    for mine, their in zip(ours, theirs, strict=True):
        assert len(mine) > 50
        assert_same_in_any_order(rows(mine.labels, mine.scores, mine.boxes), their, atol=1e-5)


def postprocess_by_torchvision(model: detection.ssd.SSD, predictions: Predictions, priors: Tensor) -> list[Tensor]:
    anchors_px = torch.tensor([reference.corners(prior) for prior in priors.tolist()]) * 300
    outputs = {"bbox_regression": predictions.offsets, "cls_logits": predictions.logits}
    images = len(predictions.logits)
    found = model.postprocess_detections(outputs, [anchors_px] * images, [(300, 300)] * images)
    return [rows(image["labels"] - 1, image["scores"], image["boxes"] / 300) for image in found]
