"""mAP on cases whose answer is known, in one process and in two."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import distributed, multiprocessing

from ssd.common.structures import PADDING_LABEL, Batch, Detections
from ssd.data.sampler import EvaluationSampler
from ssd.evaluation.matching import ImageResult
from ssd.evaluation.metrics import DetectionMetrics, coco_metrics

CLASSES = ("cat", "dog", "bus")


def image(number: int, *, empty: bool = False) -> tuple[Detections, Batch]:
    """One object at a place of its own; found a little off, more so for higher numbers, beside a false alarm."""
    box = torch.tensor([[0.1, 0.1, 0.5, 0.5]])
    found = torch.cat((box + 0.01 * number, torch.tensor([[0.6, 0.6, 0.9, 0.9]])))
    scores = torch.tensor([0.9 - 0.01 * number, 0.3 + 0.05 * number])
    batch = Batch(
        images=torch.zeros(1, 3, 4, 4, dtype=torch.uint8),
        boxes=box[None],
        labels=torch.tensor([[PADDING_LABEL if empty else number % 2]]),
        ignore=torch.zeros(1, 1, dtype=torch.bool),
        sizes=torch.tensor([[200, 300]]),
        ids=(f"image {number}",),
    )
    return Detections(found, scores, torch.full((2,), number % 2)), batch


def results_of(numbers: list[int]) -> dict[str, float]:
    metrics = DetectionMetrics(CLASSES)
    for number in numbers:
        detections, batch = image(number)
        metrics.add([detections], batch)
    return metrics.results()


def test_a_perfect_detection_has_map_1_and_absent_classes_have_none() -> None:
    results = results_of([0])
    assert results["map"] == pytest.approx(1.0)
    assert results["map_class/cat"] == pytest.approx(1.0)
    assert "map_class/dog" not in results
    assert "map_small" not in results


def test_a_worse_box_lowers_map_but_not_map_50() -> None:
    results = results_of([4])
    assert results["map_50"] == pytest.approx(1.0)
    assert results["map"] < 0.7


def test_without_ground_truth_there_are_no_results() -> None:
    metrics = DetectionMetrics(CLASSES)
    assert metrics.results() == {}
    detections, batch = image(0, empty=True)
    metrics.add([detections], batch)
    assert metrics.results() == {}


def test_a_detection_on_an_ignored_object_is_neither_right_nor_wrong() -> None:
    metrics = DetectionMetrics(CLASSES)
    detections, batch = image(0)
    metrics.add([detections], batch)
    crowd = Batch(batch.images, batch.boxes, batch.labels, torch.ones(1, 1, dtype=torch.bool), batch.sizes, ("crowd",))
    sure = Detections(detections.boxes[:1], torch.tensor([0.99]), detections.labels[:1])
    metrics.add([sure], crowd)
    assert metrics.results()["map"] == pytest.approx(1.0)


def random_images(seed: int) -> dict[str, ImageResult]:
    """Objects found a little off, missed, twice or in another class; ignored ones; images and classes without any."""
    rng = np.random.default_rng(seed)
    images = {}
    for number in range(int(rng.integers(1, 8))):
        count = int(rng.integers(0, 7))
        corners = rng.uniform(0, 300, (count, 2))
        boxes = np.concatenate((corners, corners + rng.uniform(4, 200, (count, 2))), axis=1).astype(np.float32)
        found = np.repeat(boxes, rng.integers(0, 3, count), axis=0)
        noise = rng.normal(0, rng.choice([0.5, 4, 15]), found.shape)
        labels = rng.integers(0, 2, count)
        images[f"{number}"] = ImageResult(
            boxes=boxes,
            labels=labels,
            ignore=rng.random(count) < 0.2,
            pred_boxes=(found + noise).astype(np.float32),
            pred_labels=rng.integers(0, 2, len(found)),
            pred_scores=rng.permutation(np.linspace(0.01, 0.99, len(found))).astype(np.float32),
        )
    return images


def pycocotools_map(images: dict[str, ImageResult]) -> list[float]:
    """map, map_50, ..., mar_large as pycocotools prints them; -1 is not defined."""
    truth: list[dict[str, object]] = []
    found: list[dict[str, object]] = []
    for number, (_, each) in enumerate(sorted(images.items())):
        for box, label, ignore in zip(each.boxes, each.labels, each.ignore, strict=True):
            truth.append(annotation(number, box, label, id=len(truth) + 1, iscrowd=int(ignore)))
        for box, label, score in zip(each.pred_boxes, each.pred_labels, each.pred_scores, strict=True):
            found.append(annotation(number, box, label, score=float(score)))
    coco = COCO()
    coco.dataset = {
        "images": [{"id": number} for number in range(len(images))],
        "categories": [
            {"id": label} for label in sorted({int(label) for each in images.values() for label in each.labels})
        ],
        "annotations": truth,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats]


def annotation(image: int, box: np.ndarray, label: int, **more: object) -> dict[str, object]:
    x1, y1, x2, y2 = map(float, box)
    size = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
    return {"image_id": image, "category_id": int(label), **size, **more}


def test_every_metric_is_that_of_pycocotools() -> None:
    names = [*(f"map{end}" for end in ("", "_50", "_75", "_small", "_medium", "_large"))]
    names += [*(f"mar{end}" for end in ("_1", "_10", "_100", "_small", "_medium", "_large"))]
    compared = 0
    for seed in range(130):
        images = random_images(seed)
        if not any(len(each.boxes) for each in images.values()) or not any(
            len(each.pred_boxes) for each in images.values()
        ):
            continue
        results = coco_metrics(images, CLASSES)
        expected = dict(zip(names, pycocotools_map(images), strict=True))
        for name, value in expected.items():
            assert results.get(name, -1) == pytest.approx(value, abs=1e-6), (seed, name)
        compared += 1
    assert compared >= 100


def test_a_recall_of_three_fifths_reaches_its_level() -> None:
    box = np.array([[10, 10, 60, 60]], dtype=np.float32)
    empty = box[:0]
    images = {
        str(number): ImageResult(
            boxes=box,
            labels=np.zeros(1, dtype=np.int64),
            ignore=np.zeros(1, dtype=np.bool_),
            pred_boxes=box if number < 3 else empty,
            pred_labels=np.zeros(int(number < 3), dtype=np.int64),
            pred_scores=np.full(int(number < 3), 0.9 - number / 10, dtype=np.float32),
        )
        for number in range(5)
    }
    results = coco_metrics(images, CLASSES)
    assert results["map"] == pytest.approx(61 / 101, abs=1e-6)
    assert results["map_class/cat"] == pytest.approx(61 / 101, abs=1e-6)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_detection_that_is_not_finite_is_an_error(value: float) -> None:
    detections, batch = image(0)
    detections.boxes[0, 0] = value
    with pytest.raises(ValueError, match="image 0: a detection is not finite"):
        DetectionMetrics(CLASSES).add([detections], batch)


def work(rank: int, folder: str) -> None:
    """One of two processes: its share of 1 to 9 images."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    outcomes = []
    for count in range(1, 10):
        sampler = EvaluationSampler(count, rank=rank, world_size=2)
        outcomes.append(results_of([position for _, position in sampler]))
    torch.save(outcomes, Path(folder, f"{rank}.pt"))
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_have_the_results_of_one(tmp_path: Path) -> None:
    multiprocessing.start_processes(work, args=(str(tmp_path),), nprocs=2, start_method="spawn")
    alone = [results_of(list(range(count))) for count in range(1, 10)]
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt", weights_only=True) == alone
