"""The order of the images in an epoch; with class balance, images of rare classes are repeated more often.

The epoch keeps its length.

Source: repeat-factor sampling of LVIS, arXiv 1908.03195, appendix B.2.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float64, Int64
from torch.utils.data import Sampler

from ssd.data.index import DetectionIndex

Key = tuple[int, int]  # epoch, position in the index (plus N each time that the epoch repeats the image)


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
