"""The order of the images; with class balance, a pass over them repeats images of rare classes more often.

The pass keeps its length.

Source: repeat-factor sampling of LVIS, arXiv 1908.03195, appendix B.2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float64, Int64
from torch.utils.data import Sampler

from ssd.data.index import DetectionIndex

Key = tuple[int, int]  # pass, position in the index (plus N each time that the pass repeats the image)


def repeat_factors(index: DetectionIndex, threshold: float) -> Float64[np.ndarray, "N"]:
    """How often each of N images is used in an epoch, on average; the sum is N.

    A class in a share f of the images has the factor max(1, sqrt(threshold / f)); an image has the largest factor of
    its classes. Ignored boxes do not count. A class in at least `threshold` of the images is not repeated.
    """
    classes = len(index.class_names)
    counted = ~index.ignore
    pairs = np.unique(index.image_of_box()[counted] * classes + index.labels[counted])
    images, labels = pairs // classes, pairs % classes
    share = np.bincount(labels, minlength=classes) / max(1, len(index))
    with np.errstate(divide="ignore"):
        class_factors = np.maximum(1, np.sqrt(threshold / share))
    factors = np.ones(len(index))
    np.maximum.at(factors, images, class_factors[labels])
    return factors * len(index) / factors.sum()


def boxes_per_epoch(index: DetectionIndex, factors: Float64[np.ndarray, "N"]) -> Float64[np.ndarray, "C"]:
    """Number of boxes of each class in an epoch, on average."""
    counted = ~index.ignore
    weights = factors[index.image_of_box()[counted]]
    return np.bincount(index.labels[counted], weights=weights, minlength=len(index.class_names))


def balanced_order(factors: Float64[np.ndarray, "N"], rng: np.random.Generator) -> Int64[np.ndarray, "N"]:
    """An epoch of N images in random order: each is used as often as its factor, rounded up or down at random.

    The first repetition of an image has its position plus N, the next one its position plus 2 N, and so on.
    """
    order, length = rng.permutation(len(factors)), len(factors)
    ends = np.minimum(np.cumsum(factors[order]) + rng.random(), length).astype(np.int64)
    ends[-1:] = length
    counts = np.diff(ends, prepend=0)
    repetition = np.arange(length) - np.repeat(ends - counts, counts)
    return rng.permutation(np.repeat(order, counts) + repetition * length)


class TrainingStream(Sampler[Key]):
    """Yields (pass, position) from an endless sequence of passes over the images, each shuffled by (seed, pass).

    An epoch is the next `batches` full batches of each rank: no image is left out, as one that an epoch does not reach
    comes first in the next, and no batch is smaller than the others.

    Args:
        length: number of images (N).
        batch_size: images per step and rank.
        batches: steps in an epoch; None for one pass, rounded up.
        factors: of `repeat_factors`, for a balanced order.
    """

    def __init__(
        self,
        length: int,
        *,
        batch_size: int,
        batches: int | None = None,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        factors: Float64[np.ndarray, "N"] | None = None,
    ) -> None:
        self.length = length
        self.factors = factors
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self._samples = batch_size * (batches or math.ceil(length / (batch_size * world_size)))
        self._resumed_epoch = 0
        self._first = 0  # position of the resumed epoch in the stream
        self._used = 0

    def resume_from(self, epoch: int, *, position: int, used: int) -> None:
        """Continues at `position` of the stream, in `epoch`, of which each rank has had `used` samples."""
        self.epoch = self._resumed_epoch = epoch
        self._first, self._used = position - used * self.world_size, used

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls it at the start of each epoch."""
        self.epoch = epoch

    def position(self, epoch: int, used: int) -> int:
        """Where the stream is when each rank has had `used` samples of `epoch`."""
        return self._first + ((epoch - self._resumed_epoch) * self._samples + used) * self.world_size

    def __len__(self) -> int:
        return self._samples

    def __iter__(self) -> Iterator[Key]:
        epoch, order, order_of = self.epoch, np.zeros(0, np.int64), -1
        for used in range(self._used if epoch == self._resumed_epoch else 0, self._samples):
            number, place = divmod(self.position(epoch, used) + self.rank, self.length)
            if number != order_of:
                order, order_of = self._order(number), number
            yield number, int(order[place])

    def _order(self, number: int) -> Int64[np.ndarray, "N"]:
        rng = np.random.default_rng((self.seed, number))
        return rng.permutation(self.length) if self.factors is None else balanced_order(self.factors, rng)


class EvaluationSampler(Sampler[Key]):
    """Yields (0, position) in the order of the index; each of `world_size` ranks gets its share.

    A rank without an image would keep the others waiting, so it gets the first image again, which the metric counts
    once.
    """

    def __init__(self, length: int, *, rank: int = 0, world_size: int = 1) -> None:
        self._positions = range(rank if rank < length else 0, length, world_size)

    def __len__(self) -> int:
        return len(self._positions)

    def __iter__(self) -> Iterator[Key]:
        return ((0, position) for position in self._positions)
