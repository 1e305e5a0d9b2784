"""Drawing images of rare classes more often."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_dataset import equal_images, module, striped, zooming

from ssd.data.dataset import DetectionDataset
from ssd.data.formats.shapes import read_shapes
from ssd.data.index import DetectionIndex, ImageRecord, PackedStrings, build_index
from ssd.data.sampler import TrainingStream, balanced_order, boxes_per_epoch, repeat_factors
from ssd.data.splits import Splits, describe_data

BOX = (0.1, 0.1, 0.9, 0.9)
LABELS = st.lists(st.lists(st.integers(0, 2), max_size=3), min_size=1, max_size=40)


def index_of(*images: list[int], ignored: tuple[int, ...] = ()) -> DetectionIndex:
    """Images with boxes of these labels; ignored are all boxes of the images named."""
    records = [
        ImageRecord(
            str(row), str(row), (40, 40), [BOX] * len(labels), labels, [row in ignored] * len(labels), [0] * len(labels)
        )
        for row, labels in enumerate(images)
    ]
    return build_index(records, class_names=["cat", "dog", "owl"], load=striped)


def test_factors_are_those_of_the_paper() -> None:
    """cat in 8 of 10 images, dog in 2, owl in 1; threshold 0.4: sqrt(0.4 / 0.2) and sqrt(0.4 / 0.1)."""
    index = index_of(*[[0]] * 7, [0, 1, 1], [1, 2], [])
    factors = np.array([1] * 7 + [2**0.5, 2, 1])
    assert np.allclose(repeat_factors(index, 0.4), factors * 10 / factors.sum())


def test_ignored_boxes_do_not_count() -> None:
    factors = repeat_factors(index_of([0], [0], [0, 1], [0, 1], ignored=(3,)), 1.0)
    assert np.allclose(factors / factors[0], [1, 1, (4 / 1) ** 0.5 / (4 / 3) ** 0.5, 1 / (4 / 3) ** 0.5])


@given(LABELS)
def test_no_class_under_the_threshold_changes_nothing(images: list[list[int]]) -> None:
    factors = repeat_factors(index_of(*images), 1 / len(images))
    assert factors.tolist() == [1] * len(images)
    assert sorted(balanced_order(factors, np.random.default_rng(0)).tolist()) == list(range(len(images)))


@given(LABELS, st.floats(1e-3, 1), st.integers(0, 99))
def test_each_image_comes_as_often_as_it_should_rounded_up_or_down(
    images: list[list[int]], threshold: float, seed: int
) -> None:
    factors = repeat_factors(index_of(*images), threshold)
    keys = balanced_order(factors, np.random.default_rng(seed))
    length = len(images)
    assert len(set(keys.tolist())) == len(keys) == length
    counts = np.bincount(keys % length, minlength=length)
    assert (np.abs(counts - factors) < 1 + 1e-9).all()
    assert (np.bincount(keys % length, weights=keys // length, minlength=length) == counts * (counts - 1) / 2).all()


def test_the_average_of_many_epochs_matches_the_factors() -> None:
    index = index_of(*[[0, 0]] * 30, [1], [1, 2], [2, 2])
    factors = repeat_factors(index, 0.5)
    epochs = [balanced_order(factors, np.random.default_rng(seed)) % len(index) for seed in range(3000)]
    assert np.allclose(np.bincount(np.concatenate(epochs), minlength=33) / 3000, factors, atol=0.06)
    shown = index.take(np.concatenate(epochs)).class_counts() / 3000
    assert np.allclose(boxes_per_epoch(index, factors), shown, rtol=0.02)
    assert boxes_per_epoch(index, np.ones(33)).tolist() == index.class_counts().tolist()


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_share_a_balanced_stream(world_size: int) -> None:
    index = index_of(*[[0]] * 20, [1], [2])
    factors = repeat_factors(index, 0.5)

    def stream(rank: int, world_size: int, factors: np.ndarray | None) -> list[tuple[int, int]]:
        return list(
            TrainingStream(22, batch_size=4, seed=0, rank=rank, world_size=world_size, batches=3, factors=factors)
        )

    shares = [stream(rank, world_size, factors) for rank in range(world_size)]
    assert [len(share) for share in shares] == [12] * world_size
    together = [key for step in zip(*shares, strict=True) for key in step]
    assert len(set(together)) == len(together)
    assert together[:12] == stream(0, 1, factors)
    assert together[:12] != stream(0, 1, None)


def test_an_image_drawn_twice_is_augmented_in_two_ways() -> None:
    index = equal_images(3)
    data = DetectionDataset(index, zooming(), seed=0)
    first, second, again = data[0, 1], data[0, 1 + len(index)], data[0, 1]
    assert first.id == second.id == "1"
    assert not np.array_equal(first.image, second.image)
    assert np.array_equal(first.image, again.image)


def test_training_is_balanced_and_validation_is_not() -> None:
    train, val = index_of(*[[0]] * 30, [1], [2]), replace(index_of([0], [0], [0], [1]), ids=PackedStrings.pack("abcd"))
    data = module(lambda: Splits(train, val, None), balance=0.5)
    loader = data.train_dataloader()
    seen = Counter(id for batch in loader for id in batch.ids)
    assert seen.total() == 32
    assert min(seen["30"], seen["31"]) >= 2
    assert [id for batch in data.val_dataloader() for id in batch.ids] == list("abcd")


def test_the_log_has_the_boxes_per_epoch() -> None:
    splits = read_shapes(train=40, val=0, test=0, side_px=32, seed=0)
    lines = describe_data(splits, balance=1.0)
    assert lines[1].startswith("dataset.balance=1: boxes in an epoch of training, on average: circle ")
    assert len(lines) == 1 + len(describe_data(splits))
