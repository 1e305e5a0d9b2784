"""mAP on cases whose answer is known, in one process and in two."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing

from ssd.common.structures import PADDING_LABEL, Batch, Detections
from ssd.data.sampler import EpochSampler
from ssd.evaluation.metrics import DetectionMetrics

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
        sampler = EpochSampler(count, shuffle=False, seed=0, rank=rank, world_size=2)
        outcomes.append(results_of([position for _, position in sampler]))
    torch.save(outcomes, Path(folder, f"{rank}.pt"))
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_have_the_results_of_one(tmp_path: Path) -> None:
    multiprocessing.start_processes(work, args=(str(tmp_path),), nprocs=2, start_method="spawn")
    alone = [results_of(list(range(count))) for count in range(1, 10)]
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt", weights_only=True) == alone
