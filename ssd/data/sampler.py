"""Class balance: images of rare classes are drawn more often, at an unchanged length of the epoch.

Source: repeat-factor sampling of LVIS, arXiv 1908.03195, appendix B.2.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int64

from ssd.data.index import DetectionIndex


def repeat_factors(index: DetectionIndex, threshold: float) -> Float64[np.ndarray, "N"]:
    """How often each image is drawn in an epoch, on average; N in all.

    A class in a share f of the images has the factor max(1, sqrt(threshold / f)), an image the largest factor of its
    classes; ignored boxes do not count. Thus a class in at least `threshold` of the images is not favoured.
    """
    classes = len(index.class_names)
    counted = ~index.ignore
    pairs = np.unique(index.image_of_box()[counted] * classes + index.labels[counted])
    images, labels = pairs // classes, pairs % classes
    share = np.bincount(labels, minlength=classes) / max(1, len(index))
    with np.errstate(divide="ignore"):
        factor = np.maximum(1, np.sqrt(threshold / share))
    draws = np.ones(len(index))
    np.maximum.at(draws, images, factor[labels])
    return draws * len(index) / draws.sum()


def boxes_per_epoch(index: DetectionIndex, draws: Float64[np.ndarray, "N"]) -> Float64[np.ndarray, "C"]:
    """How many boxes of each class an epoch shows, on average."""
    counted = ~index.ignore
    weights = draws[index.image_of_box()[counted]]
    return np.bincount(index.labels[counted], weights=weights, minlength=len(index.class_names))


def draw(draws: Float64[np.ndarray, "N"], rng: np.random.Generator) -> Int64[np.ndarray, "N"]:
    """An epoch's order: each image as often as `draws` says, rounded up or down by chance; N in all.

    The second time that an image comes its position is given plus N, the third time plus 2 N, and so on.
    """
    order, length = rng.permutation(len(draws)), len(draws)
    ends = np.minimum(np.cumsum(draws[order]) + rng.random(), length).astype(np.int64)
    ends[-1:] = length
    counts = np.diff(ends, prepend=0)
    time = np.arange(length) - np.repeat(ends - counts, counts)
    return rng.permutation(np.repeat(order, counts) + time * length)
