"""Samples by key, their order, and batches of samples."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset, get_worker_info

from ssd.common.errors import DataError
from ssd.common.images import ImageArray
from ssd.common.structures import PADDING_LABEL, Batch
from ssd.data.augmentation import Augmentation, Sample
from ssd.data.index import DetectionIndex
from ssd.data.sampler import Key
from ssd.data.validation import max_unreadable, too_many_unreadable

_log = logging.getLogger("ssd")


class DetectionDataset(Dataset[Sample]):
    """The samples of an index after augmentation; the randomness of a sample depends on its key alone.

    Damage inside an image shows only when it is decoded: the next readable image of the index then replaces it. Up to
    `max_unreadable` images are skipped with a warning; more are a DataError.

    Args:
        index: the images and their boxes.
        augmentation: of each sample.
        seed: of the augmentation.
        strict: the first unreadable image is an error.
    """

    def __init__(
        self, index: DetectionIndex, augmentation: Augmentation, *, seed: int = 0, strict: bool = False
    ) -> None:
        self.index = index
        self.augmentation = augmentation
        self.seed = seed
        self.strict = strict
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

    @property
    def skipped(self) -> list[str]:
        """The paths of the images that could not be decoded so far, by any loader process."""
        return [self.index.paths[position] for position in self._unreadable.nonzero().flatten().tolist()]

    def _load(self, position: int) -> tuple[int, ImageArray]:
        """The image at `position`, or the next readable one, with its position."""
        while True:
            try:
                return position, self._decode(position)
            except DataError as error:
                self._skip(position, error)
                position = (position + 1) % len(self.index)

    def _decode(self, position: int) -> ImageArray:
        path = self.index.paths[position]
        image = self.index.load(path)
        (height, width), (old_height, old_width) = image.shape[:2], self.index.sizes[position].tolist()
        if (height, width) != (old_height, old_width):  # its boxes are fractions of the other size
            sizes = f"{width} x {height} px, but {old_width} x {old_height} px when the dataset was read"
            raise DataError(f"{path}: {sizes}; start again to read it anew")
        return image

    def _skip(self, position: int, error: DataError) -> None:
        reported = bool(self._unreadable[position])
        self._unreadable[position] = True
        count, images = int(self._unreadable.sum()), len(self.index)
        if count > max_unreadable(images, strict=self.strict):
            others = [path for path in self.skipped if path != self.index.paths[position]]
            raise too_many_unreadable([str(error), *others], images=images, strict=self.strict) from error
        if not reported:
            _log.warning("warning: skipped image: %s", error)


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
