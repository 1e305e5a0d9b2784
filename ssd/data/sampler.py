"""Class balance: images of rare classes are repeated more often, while the epoch keeps its length.

Source: repeat-factor sampling of LVIS, arXiv 1908.03195, appendix B.2.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int64

from ssd.data.index import DetectionIndex


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
