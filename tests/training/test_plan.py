"""The rules of the plan: monotone in what they look at, and the same whatever the data is called."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ssd.common.images import read_image
from ssd.data.formats.shapes import read_shapes
from ssd.data.index import ImageRecord, build_index
from ssd.training.plan import (
    DataFacts,
    plan_batch_size,
    plan_first_stride,
    plan_image_size,
    plan_lr,
    plan_steps,
    plan_validations,
)

FACTS = DataFacts(
    images=160,
    classes=1,
    sides=np.full(200, 0.4),
    weights=np.full(200, 1 / 200),
    image_side_px=500.0,
    pretrained=True,
)


def with_sides(*sides: float, **more: float) -> DataFacts:
    weights = np.full(len(sides), 1 / max(1, len(sides)))
    return replace(FACTS, sides=np.sort(sides), weights=weights, **more)  # type: ignore[arg-type]


def test_the_facts_of_a_split() -> None:
    splits = read_shapes(train=12, val=0, test=0, side_px=64, seed=0)
    assert splits.train is not None
    ignored = replace(splits.train, ignore=np.ones_like(splits.train.ignore))
    facts = DataFacts.of(splits.train, pretrained=False)
    assert (facts.images, facts.classes) == (12, len(splits.class_names))
    assert facts.image_side_px == pytest.approx(64, rel=0.1)
    assert len(facts.sides) == len(splits.train.boxes)
    assert facts.weights.sum() == pytest.approx(1)
    assert (np.diff(facts.sides) >= 0).all()
    assert len(DataFacts.of(ignored, pretrained=False).sides) == 0


@pytest.mark.parametrize(
    ("facts", "size"),
    [
        (FACTS, 300),
        (with_sides(0.081), 300),  # 24.3 px at 300
        (with_sides(0.07), 384),
        (with_sides(0.05), 512),
        (with_sides(0.001), 512),  # the largest
        (with_sides(0.05, image_side_px=200.0), 300),  # the images have no more detail
        (with_sides(0.05, image_side_px=300.0), 384),
        (with_sides(), 300),
    ],
)
def test_small_boxes_enlarge_the_input(facts: DataFacts, size: int) -> None:
    assert plan_image_size(facts, default=300, stride_px=16).value == size


def test_finer_grids_need_no_larger_input() -> None:
    assert plan_image_size(with_sides(0.05), default=300, stride_px=8).value == 300
    assert plan_image_size(with_sides(0.03), default=300, stride_px=8).value == 512


def test_the_input_is_never_smaller_than_that_of_the_backbone() -> None:
    for side in (0.01, 0.1, 0.5):
        assert plan_image_size(with_sides(side), default=512, stride_px=8).value == 512


def test_a_finer_grid_is_for_small_boxes() -> None:
    assert plan_first_stride(FACTS, image_size=300).value == 16
    few, many = [0.05] * 5 + [0.5] * 95, [0.05] * 15 + [0.5] * 85
    assert plan_first_stride(with_sides(*few), image_size=300).value == 16
    assert plan_first_stride(with_sides(*many), image_size=300).value == 8
    assert plan_first_stride(with_sides(), image_size=300).value == 16


def test_classes_weigh_the_same_whatever_their_number_of_boxes() -> None:
    sides, labels = np.array([0.05] * 4 + [0.5] * 96), np.array([1] * 4 + [0] * 96)
    half = sides[:, None] / 2
    boxes = np.concatenate([0.5 - half, 0.5 - half, 0.5 + half, 0.5 + half], axis=1).astype(np.float32)
    record = ImageRecord("a", "a", (300, 300), boxes.tolist(), labels.tolist(), [False] * 100, [0] * 100)
    facts = DataFacts.of(build_index([record], class_names=["cell", "dot"], load=read_image), pretrained=True)
    assert plan_first_stride(facts, image_size=300).value == 8


def test_more_images_bring_larger_batches_and_more_steps() -> None:
    sizes, samples = [], []
    for images in (1, 10, 100, 999, 1_000, 5_000, 20_000, 10**6):
        facts = replace(FACTS, images=images)
        sizes.append(plan_batch_size(facts).value)
        samples.append(plan_steps(facts, batch_size=sizes[-1]).value * sizes[-1])
    assert sizes == sorted(sizes)
    assert samples == sorted(samples)
    assert (sizes[0], sizes[-1], samples[0], samples[-1]) == (8, 32, 8 * 1_200, 32 * 120_000)


@pytest.mark.parametrize("images", [1, 160, 3_000, 10**6])
def test_random_weights_need_more_steps(images: int) -> None:
    facts = replace(FACTS, images=images)
    random = plan_steps(replace(facts, pretrained=False), batch_size=8).value
    assert random >= plan_steps(facts, batch_size=8).value


def test_the_learning_rate_is_that_of_the_kind_of_optimizer() -> None:
    assert plan_lr("torch.optim.AdamW").value == plan_lr("torch.optim.Adam").value
    assert plan_lr("torch.optim.SGD").value > plan_lr("torch.optim.AdamW").value


@pytest.mark.parametrize("steps", [1, 2, 7, 19, 20, 100, 1_200, 1_201, 997, 2_500, 120_000])
def test_validations_are_about_twenty_and_divide_the_steps_where_they_can(steps: int) -> None:
    number = plan_validations(steps).value
    assert 1 <= number <= min(steps, 40)
    if steps in (100, 1_200, 2_500, 120_000):
        assert number == 20
        assert steps % number == 0
