"""Samples by key, their order, and batches of samples."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Float64
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset, Sampler, get_worker_info

from ssd.common.errors import DataError
from ssd.common.images import ImageArray
from ssd.common.structures import PADDING_LABEL, Batch
from ssd.data.augmentation import Augmentation, Sample
from ssd.data.index import DetectionIndex
from ssd.data.sampler import balanced_order
from ssd.data.validation import MAX_UNREADABLE, too_many_unreadable

_log = logging.getLogger("ssd")
Key = tuple[int, int]  # epoch, position in the index (plus N each time that the epoch repeats the image)


class DetectionDataset(Dataset[Sample]):
    """The samples of an index after augmentation; the randomness of a sample depends on its key alone.

    Damage inside an image shows only when it is decoded: the next readable image of the index then replaces it. Up to
    MAX_UNREADABLE of the images are skipped with a warning; more are a DataError.
    """

    def __init__(self, index: DetectionIndex, augmentation: Augmentation, *, seed: int = 0) -> None:
        self.index = index
        self.augmentation = augmentation
        self.seed = seed
        self._unreadable = torch.zeros(len(index), dtype=torch.bool).share_memory_()  # by all loader processes

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
        """The image at `position`, or the next readable one, with its position."""
        while True:
            try:
                return position, self.index.load(self.index.paths[position])
            except DataError as error:
                reported = bool(self._unreadable[position])
                self._unreadable[position] = True
                if (count := int(self._unreadable.sum())) > MAX_UNREADABLE * len(self.index):
                    raise too_many_unreadable(count, len(self.index), [str(error)]) from error
                if not reported:
                    _log.warning("warning: skipped image: %s", error)
                position = (position + 1) % len(self.index)


class EpochSampler(Sampler[Key]):
    """Yields (epoch, position), shuffled by (seed, epoch); each of `world_size` ranks gets its share.

    Args:
        length: number of images.
        factors: of `repeat_factors`, for a balanced order.
    """

    def __init__(
        self,
        length: int,
        *,
        shuffle: bool,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        factors: Float64[np.ndarray, "N"] | None = None,
    ) -> None:
        self.length = length
        self.factors = factors
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self._resume = (0, 0)

    def resume_from(self, epoch: int, samples: int) -> None:
        """Skips this rank's first `samples` of `epoch`, which an interrupted run has used."""
        self.epoch = epoch
        self._resume = epoch, samples

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls it at the start of each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(range(self.length)[self._share()])

    def __iter__(self) -> Iterator[Key]:
        order = np.arange(self.length)
        if self.shuffle:
            rng = np.random.default_rng((self.seed, self.epoch))
            order = rng.permutation(self.length) if self.factors is None else balanced_order(self.factors, rng)
        epoch, (resumed_epoch, used) = self.epoch, self._resume
        for position in order[self._share()][used if epoch == resumed_epoch else 0 :]:
            yield epoch, int(position)

    def _share(self) -> slice:
        """Training ranks must take the same number of steps; validation must not leave out an image.

        A rank without an image would keep the others waiting, so it gets the first image again, which the metric
        counts once.
        """
        usable = self.length - self.length % self.world_size if self.shuffle else self.length
        rank = self.rank if self.rank < usable else 0
        return slice(rank, usable, self.world_size)


def collate(samples: Sequence[Sample]) -> Batch:
    """Stacks samples and pads their boxes to the largest number. Pixels stay uint8, channels-last in memory."""
    pad = partial(pad_sequence, batch_first=True)
    batch = Batch(
        images=torch.from_numpy(np.stack([sample.image for sample in samples])).permute(0, 3, 1, 2),
        boxes=pad([torch.from_numpy(sample.boxes) for sample in samples]),
        labels=pad([torch.from_numpy(sample.labels) for sample in samples], padding_value=PADDING_LABEL).long(),
        ignore=pad([torch.from_numpy(sample.ignore) for sample in samples]),
        sizes=torch.tensor([sample.size for sample in samples], dtype=torch.int64),
        ids=tuple(sample.id for sample in samples),
    )
    if get_worker_info() is not None:  # fails here, not when sent: then the main process would wait forever
        for tensor in (batch.images, batch.boxes, batch.labels, batch.ignore, batch.sizes):
            tensor.share_memory_()
    return batch
