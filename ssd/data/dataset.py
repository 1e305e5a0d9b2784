"""Samples by key, batches of samples, and the order in which they come."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float64
from torch.utils.data import Dataset, Sampler, get_worker_info

from ssd.common.errors import DataError
from ssd.common.images import ImageArray
from ssd.data.augmentation import Augmentation, Sample
from ssd.data.index import DetectionIndex
from ssd.data.sampler import draw
from ssd.data.validation import MAX_UNREADABLE, too_many_unreadable
from ssd.model.structures import PADDING_LABEL, Batch

_log = logging.getLogger("ssd")
Key = tuple[int, int]  # epoch, position in the index (plus its length for each time that the epoch had it before)


class DetectionDataset(Dataset[Sample]):
    """The samples of an index under an augmentation; a key says which epoch's.

    Damage inside an image shows only now: the next image of the index comes in its place. Up to MAX_UNREADABLE of
    them are put up with, and told; more are a DataError.
    """

    def __init__(self, index: DetectionIndex, augmentation: Augmentation, *, seed: int) -> None:
        self.index = index
        self.augmentation = augmentation
        self.seed = seed
        self._set_aside = torch.zeros(len(index), dtype=torch.bool).share_memory_()  # by all loader processes

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: Key) -> Sample:
        epoch, number = key
        position, image = self._load(number % len(self.index))
        rows = self.index.rows(position)
        return self.augmentation(
            image,
            boxes=self.index.boxes[rows],
            labels=self.index.labels[rows],
            ignore=self.index.ignore[rows],
            id=self.index.ids[position],
            seed=(self.seed, epoch, number),
        )

    def _load(self, position: int) -> tuple[int, ImageArray]:
        while True:
            try:
                return position, self.index.load(self.index.paths[position])
            except DataError as error:
                known = bool(self._set_aside[position])
                self._set_aside[position] = True
                if (count := int(self._set_aside.sum())) > MAX_UNREADABLE * len(self.index):
                    raise too_many_unreadable(count, len(self.index), [str(error)]) from error
                if not known:
                    _log.warning("warning: set aside: %s", error)
                position = (position + 1) % len(self.index)


class EpochSampler(Sampler[Key]):
    """Yields (epoch, position), shuffled by (seed, epoch); each of `world_size` ranks takes its share.

    `draws`, of `balance.repeat_factors`, has some images come more often than others.
    """

    def __init__(
        self,
        length: int,
        *,
        shuffle: bool,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        draws: Float64[np.ndarray, "N"] | None = None,
    ) -> None:
        self.length = length
        self.draws = draws
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self._done = (0, 0)

    def go_on(self, epoch: int, samples: int) -> None:
        """Leaves out this rank's first `samples` of `epoch`, which an interrupted run has used."""
        self.epoch = epoch
        self._done = epoch, samples

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning at the start of each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(range(self.length)[self._mine()])

    def __iter__(self) -> Iterator[Key]:
        order = np.arange(self.length)
        if self.shuffle:
            rng = np.random.default_rng((self.seed, self.epoch))
            order = rng.permutation(self.length) if self.draws is None else draw(self.draws, rng)
        epoch, (done_epoch, done) = self.epoch, self._done
        for position in order[self._mine()][done if epoch == done_epoch else 0 :]:
            yield epoch, int(position)

    def _mine(self) -> slice:
        """Training ranks must take equally many steps; in validation no image may be left out.

        A rank that would get no image takes the first one again, which the metric counts once: a rank without a
        batch would keep the others waiting.
        """
        usable = self.length - self.length % self.world_size if self.shuffle else self.length
        rank = self.rank if self.rank < usable else 0
        return slice(rank, usable, self.world_size)


def collate(samples: Sequence[Sample]) -> Batch:
    """Stacks samples; boxes are padded to the largest number. Pixels stay uint8, and lie channels-last in memory."""
    most = max(len(sample.labels) for sample in samples)
    boxes = np.zeros((len(samples), most, 4), dtype=np.float32)
    labels = np.full((len(samples), most), PADDING_LABEL, dtype=np.int64)
    ignore = np.zeros((len(samples), most), dtype=bool)
    for row, sample in enumerate(samples):
        count = len(sample.labels)
        boxes[row, :count], labels[row, :count], ignore[row, :count] = sample.boxes, sample.labels, sample.ignore
    images = torch.from_numpy(np.stack([sample.image for sample in samples]))
    batch = Batch(
        images=images.permute(0, 3, 1, 2),
        boxes=torch.from_numpy(boxes),
        labels=torch.from_numpy(labels),
        ignore=torch.from_numpy(ignore),
        sizes=torch.tensor([sample.size for sample in samples], dtype=torch.int64),
        ids=tuple(sample.id for sample in samples),
    )
    if get_worker_info() is not None:  # now: where sending it finds no room, the main process would wait for ever
        for tensor in (batch.images, batch.boxes, batch.labels, batch.ignore, batch.sizes):
            tensor.share_memory_()
    return batch
