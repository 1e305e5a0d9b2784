from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssd.common.errors import DataError
from ssd.common.images import ImageArray, read_image
from ssd.common.structures import PADDING_LABEL, Batch
from ssd.data.augmentation import Augmentation, Sample, SSDWindow
from ssd.data.datamodule import DetectionDataModule
from ssd.data.dataset import collate
from ssd.data.formats.shapes import read_shapes
from ssd.data.index import DetectionIndex, ImageRecord, build_index
from ssd.data.sampler import EvaluationSampler, TrainingStream
from ssd.data.splits import Splits, describe_skipped

SIZE = 32


def sample(objects: int, *, value: int = 0, id: str = "image") -> Sample:
    return Sample(
        image=np.full((SIZE, SIZE, 3), value, dtype=np.uint8),
        boxes=np.linspace(0, 1, objects * 4, dtype=np.float32).reshape(-1, 4),
        labels=np.arange(objects, dtype=np.int32),
        ignore=np.arange(objects) % 2 == 1,
        size=(40 + value, 50),
        id=id,
    )


def zooming() -> Augmentation:
    """Draws a window from a continuum: no two samples are equal by chance."""
    window = SSDWindow(
        image_size=SIZE,
        zoom_out_probability=1.0,
        max_zoom_out=3.0,
        crop_min_ious=[None, 0.0],
        crop_scale=(0.3, 1.0),
        crop_aspect=(0.5, 2.0),
        flip_probability=0.5,
        fill=(123, 117, 104),
    )
    return Augmentation([window])


@contextmanager
def handler_to_stderr() -> Iterator[None]:
    """A log handler like that of the commands, also in loader processes."""
    log, handler = logging.getLogger("ssd"), logging.StreamHandler(os.fdopen(os.dup(2), "w"))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.stream.close()


def module(read: Any, **settings: Any) -> DetectionDataModule:
    defaults = {
        "train_augmentation": zooming(),
        "eval_augmentation": Augmentation([SSDWindow.resize(SIZE)]),
        "batch_size": 4,
        "num_workers": 0,
        "seed": 0,
    }
    return DetectionDataModule(read, **(defaults | settings))


shapes = partial(read_shapes, train=14, val=5, test=3, side_px=48, seed=0)


# Collate


def test_batch_is_padded_to_the_largest_number_of_objects() -> None:
    samples = [sample(2, value=7, id="a"), sample(0, value=8, id="b"), sample(3, value=9, id="c")]
    batch = collate(samples)
    assert batch.boxes.shape == (3, 3, 4)
    assert batch.labels.tolist() == [[0, 1, PADDING_LABEL], [PADDING_LABEL] * 3, [0, 1, 2]]
    assert batch.ignore.tolist() == [[False, True, False], [False] * 3, [False, True, False]]
    for row, one in enumerate(samples):
        count = len(one.labels)
        assert np.array_equal(batch.boxes[row, :count], one.boxes)
        assert not batch.boxes[row, count:].any()
        assert (batch.images[row] == 7 + row).all()
    assert batch.sizes.tolist() == [[47, 50], [48, 50], [49, 50]]
    assert batch.ids == ("a", "b", "c")


@pytest.mark.parametrize("objects", [[0], [0, 0, 0], [1, 0]])
def test_types_do_not_depend_on_the_number_of_objects(objects: list[int]) -> None:
    batch = collate([sample(count) for count in objects])
    assert batch.images.shape == (len(objects), 3, SIZE, SIZE)
    assert batch.boxes.shape == (len(objects), max(objects), 4)
    types = (batch.images.dtype, batch.boxes.dtype, batch.labels.dtype, batch.ignore.dtype, batch.sizes.dtype)
    assert types == (torch.uint8, torch.float32, torch.int64, torch.bool, torch.int64)


def test_pixels_are_channels_last_in_memory() -> None:
    one = sample(0)
    one.image[3, 5] = (1, 2, 3)
    batch = collate([one, sample(0)])
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.images[0, :, 3, 5].tolist() == [1, 2, 3]


# Order


def keys_of(stream: TrainingStream, epoch: int) -> list[tuple[int, int]]:
    stream.set_epoch(epoch)
    return list(stream)


def test_each_pass_is_a_permutation_that_changes_with_pass_and_seed() -> None:
    orders = []
    for seed in (0, 1):
        stream = TrainingStream(50, batch_size=10, seed=seed)
        for epoch in (0, 1, 2):
            keys = keys_of(stream, epoch)
            assert {number for number, _ in keys} == {epoch}
            assert sorted(position for _, position in keys) == list(range(50))
            assert keys == keys_of(stream, epoch)
            orders.append(tuple(keys))
    assert len(set(orders)) == 6


@pytest.mark.parametrize(("length", "batch_size", "batches"), [(9, 4, None), (9, 4, 5), (3, 8, None), (1, 2, 7)])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_no_image_is_left_out_and_every_batch_is_full(
    length: int, batch_size: int, batches: int | None, world_size: int
) -> None:
    """Epochs join into whole passes over the images, whatever the size of an epoch and the number of ranks."""
    ranks = [
        TrainingStream(length, batch_size=batch_size, batches=batches, seed=0, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    stream = []
    for epoch in range(4):
        shares = [keys_of(rank, epoch) for rank in ranks]
        assert {len(share) for share in shares} == {len(ranks[0])}
        assert len(ranks[0]) % batch_size == 0
        stream += [key for step in zip(*shares, strict=True) for key in step]
    for number in range(len(stream) // length):
        keys = stream[number * length : (number + 1) * length]
        assert sorted(keys) == [(number, position) for position in range(length)]
    if batches is None:
        assert (len(ranks[0]) - batch_size) * world_size < length <= len(ranks[0]) * world_size


def test_an_epoch_does_not_depend_on_those_before() -> None:
    first, second = (TrainingStream(50, batch_size=8, seed=0) for _ in range(2))
    for epoch in range(2):
        keys_of(first, epoch)
    assert keys_of(first, 2) == keys_of(second, 2)


@pytest.mark.parametrize("batches_done", [0, 2, 6])
def test_a_resumed_stream_goes_on_where_it_stopped(batches_done: int) -> None:
    whole = TrainingStream(21, batch_size=4, seed=0)
    used, epoch = batches_done * 4, 3
    expected = keys_of(whole, epoch)[used:] + keys_of(whole, epoch + 1)
    resumed = TrainingStream(21, batch_size=4, seed=0)
    resumed.resume_from(epoch, position=whole.position(epoch, used), used=used)
    assert keys_of(resumed, epoch) + keys_of(resumed, epoch + 1) == expected
    assert resumed.position(epoch + 1, 4) == whole.position(epoch + 1, 4)


def test_a_resume_with_other_ranks_and_batches_uses_the_next_images() -> None:
    """After 60 samples of one rank, two ranks with other batches share what follows in the stream."""
    whole = [key for epoch in range(5) for key in keys_of(TrainingStream(20, batch_size=4, seed=0), epoch)]
    ranks = [TrainingStream(20, batch_size=5, seed=0, rank=rank, world_size=2) for rank in range(2)]
    for rank in ranks:
        rank.resume_from(3, position=60, used=0)
    shares = [keys_of(rank, 3) + keys_of(rank, 4) for rank in ranks]
    assert [key for step in zip(*shares, strict=True) for key in step] == whole[60:]


def test_validation_order_is_that_of_the_index() -> None:
    assert list(EvaluationSampler(6)) == [(0, position) for position in range(6)]


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("length", range(1, 10))
def test_ranks_share_the_images_of_validation(length: int, world_size: int) -> None:
    """Every image is covered; a rank that would be left without one takes the first again."""
    ranks = [EvaluationSampler(length, rank=rank, world_size=world_size) for rank in range(world_size)]
    shares = [[position for _, position in sampler] for sampler in ranks]
    repeated = max(0, world_size - length)
    assert [len(sampler) for sampler in ranks] == [len(share) for share in shares]
    assert sorted(position for share in shares for position in share) == [0] * repeated + list(range(length))
    assert all(shares)


# Loaders


def epochs(data: DetectionDataModule, count: int = 2) -> Iterator[list[Batch]]:
    loader = data.train_dataloader()
    for epoch in range(count):
        loader.sampler.set_epoch(epoch)
        yield list(loader)


def assert_equal(first: Batch, second: Batch) -> None:
    assert first.ids == second.ids
    for name in ("images", "boxes", "labels", "ignore", "sizes"):
        assert torch.equal(getattr(first, name), getattr(second, name))


def test_workers_change_nothing() -> None:
    """Over two epochs, with persistent workers."""
    alone, helped = (list(epochs(module(shapes, num_workers=workers))) for workers in (0, 2))
    for batches, others in zip(alone, helped, strict=True):
        assert len(batches) == 4
        for batch, other in zip(batches, others, strict=True):
            assert_equal(batch, other)
    assert [batch.ids for batch in alone[0]] != [batch.ids for batch in alone[1]]


def test_an_epoch_is_the_same_whether_or_not_those_before_were_run() -> None:
    *_, last = epochs(module(shapes), 3)
    loader = module(shapes).train_dataloader()
    loader.sampler.set_epoch(2)
    for batch, other in zip(last, loader, strict=True):
        assert_equal(batch, other)


def striped(path: str) -> ImageArray:
    """The same image whatever the path."""
    return np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)


def equal_images(count: int) -> DetectionIndex:
    records = [
        ImageRecord(str(row), str(row), (40, 40), [(0.2, 0.2, 0.8, 0.8)], [0], [False], [0]) for row in range(count)
    ]
    return build_index(records, class_names=["cat"], load=striped)


def test_no_augmentation_is_drawn_twice() -> None:
    """Albumentations alone repeats its stream in each forked worker and each epoch."""
    data = module(lambda: Splits(equal_images(12), None, None), num_workers=2, batch_size=3)
    images = [image.numpy().tobytes() for batches in epochs(data) for batch in batches for image in batch.images]
    assert len(images) == 24
    assert len(set(images)) == 24


def test_every_training_batch_is_full() -> None:
    sizes = {
        train: [len(batch.ids) for batch in module(partial(shapes, train=train)).train_dataloader()]
        for train in (3, 4, 7, 8)
    }
    assert sizes == {3: [4], 4: [4], 7: [4, 4], 8: [4, 4]}


def test_validation_and_test_have_every_image_in_order_and_whole() -> None:
    data = module(shapes)
    for name, loader, count in (("val", data.val_dataloader(), 5), ("test", data.test_dataloader(), 3)):
        ids = [id for batch in loader for id in batch.ids]
        assert ids == [f"{name}/{number:06d}" for number in range(count)]
        index = getattr(data.splits, name)
        boxes = torch.cat([batch.boxes[batch.labels != PADDING_LABEL] for batch in loader])
        torch.testing.assert_close(boxes, torch.from_numpy(index.boxes))


def test_missing_splits_have_no_loader() -> None:
    data = module(partial(shapes, val=0, test=0))
    assert data.val_dataloader() == []
    assert data.test_dataloader() == []


def test_dataset_is_prepared_first_and_read_once_when_needed() -> None:
    calls: list[str] = []

    def read() -> Splits:
        calls.append("read")
        return shapes()

    data = module(read, prepare=lambda: calls.append("prepare"))
    assert calls == []
    data.prepare_data()
    assert data.class_names == data.splits.class_names
    data.train_dataloader()
    assert calls == ["prepare", "read"]


@pytest.mark.parametrize("workers", [0, 1])
def test_broken_image_is_named_also_from_a_worker(workers: int, tmp_path: Path) -> None:
    path = tmp_path / "page.jpg"
    path.write_text("<html></html>")
    record = ImageRecord(str(path), "page", (40, 40), [], [], [], [])
    index = build_index([record], class_names=["cat"], load=read_image)
    data = module(lambda: Splits(index, None, None), num_workers=workers)
    with pytest.raises(DataError, match=f"{path}: not an image") as caught:
        list(data.train_dataloader())
    traceback.clear_frames(caught.tb)  # it holds the loader, which would wait five seconds for a worker when collected


# Damage that shows late


def flawed(count: int, *damaged: int, split: str = "train") -> Splits:
    """Every image is its number; some cannot be read."""

    def load(path: str) -> ImageArray:
        if int(path) in damaged:
            raise DataError(f"{path}: damaged image")
        return np.full((4, 4, 3), int(path) % 251, dtype=np.uint8)

    records = [ImageRecord(str(n), str(n), (4, 4), [(0, 0, 1, 1)], [0], [False], [0]) for n in range(count)]
    index = build_index(records, class_names=("cat",), load=load)
    return Splits(**{"train": None, "val": None, "test": None} | {split: index})


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_is_skipped_with_one_warning(workers: int, capfd: pytest.CaptureFixture[str]) -> None:
    with handler_to_stderr():
        data = module(lambda: flawed(2000, 7, 1999), num_workers=workers, batch_size=100)
        loader = data.train_dataloader()
        for epoch in range(2):
            loader.sampler.set_epoch(epoch)
            ids = [id for batch in loader for id in batch.ids]
            assert sorted(ids, key=int) == sorted(
                ["8", "0", *(str(n) for n in range(2000) if n not in (7, 1999))], key=int
            )
    warnings = sorted(line for line in capfd.readouterr().err.splitlines() if "skipped" in line)
    assert warnings == ["warning: skipped image: 1999: damaged image", "warning: skipped image: 7: damaged image"]


@pytest.mark.parametrize("workers", [0, 2])
def test_more_than_training_skips_is_an_error(workers: int) -> None:
    loader = module(lambda: flawed(100, *range(7, 18)), num_workers=workers, batch_size=10).train_dataloader()
    with pytest.raises(DataError, match=r"11 of 100 images .* 10\): \d+: damaged"):
        list(loader)


@pytest.mark.parametrize("workers", [0, 2])
def test_skipped_images_are_listed_by_split(workers: int) -> None:
    data = module(lambda: flawed(100, 5, 50, split="val"), num_workers=workers, batch_size=10)
    list(data.val_dataloader())
    assert data.skipped_images() == {"val": ["5", "50"]}
    (line,) = describe_skipped(data.splits, data.skipped_images())
    assert line == "skipped images of val: 2: 5, 50; their objects do not count in the val results"


def test_strict_fails_at_the_first_damaged_image() -> None:
    loader = module(lambda: flawed(100, 5), strict=True, batch_size=10).train_dataloader()
    with pytest.raises(DataError, match=r"1 of 100 images .*dataset\.strict=true\): 5: damaged"):
        list(loader)


def test_an_image_that_was_replaced_since_is_not_used_with_its_old_boxes() -> None:
    def read() -> Splits:
        splits = flawed(100)
        splits.train.sizes[3] = (4, 5)
        return splits

    data = module(read, batch_size=10)
    assert "3" not in {id for batch in data.train_dataloader() for id in batch.ids}
    assert data.skipped_images() == {"train": ["3"]}


def test_validation_counts_a_substitute_once() -> None:
    data = module(lambda: flawed(1000, 5, split="val"), batch_size=100)
    ids = [id for batch in data.val_dataloader() for id in batch.ids]
    assert len(ids) == 1000
    assert set(ids) == {str(n) for n in range(1000) if n != 5}
