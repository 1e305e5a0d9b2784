"""Fits scales and aspect ratios of priors to the boxes of a dataset; grids and numbers of priors stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from operator import methodcaller
from pathlib import Path

import numpy as np
import yaml
from jaxtyping import Float, Int

from ssd.files import write_atomically
from ssd.inspection.coverage import Layout, best_iou
from ssd.priors import PriorSpec

_BOXES = 2000  # enough for a dozen numbers
_STEPS = 24  # values tried for each scale
_GAP = 1.05  # between neighbouring scales
_SCALES = (0.01, 1.2)
_RATIOS = (1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 5.0)
_LEAST_GAIN = 1e-4
_MAX_ROUNDS = 12


def fit(layout: Layout, boxes: Float[np.ndarray, "M 4"], labels: Int[np.ndarray, "M"], *, seed: int) -> PriorSpec:
    """The spec whose priors match the most boxes (xyxy fractions) and overlap them best.

    One number is improved at a time, and what does not help stays: coarse levels keep their scales where no box is
    large. A class weighs as the square root of its boxes.
    """
    chosen = np.random.default_rng(seed).permutation(len(boxes))[:_BOXES]
    boxes, labels = boxes[chosen].astype(np.float64), labels[chosen]
    weights = 1 / np.sqrt(np.bincount(labels)[labels])
    weights /= weights.sum()

    def score(candidate: PriorSpec) -> float:
        iou = best_iou(boxes, layout.with_spec(candidate).levels)
        return float(weights @ (iou >= layout.iou_threshold) + weights @ iou)

    return _climb(layout.spec, score)


def _climb(spec: PriorSpec, score: Callable[[PriorSpec], float]) -> PriorSpec:
    best = score(spec)
    for _ in range(_MAX_ROUNDS):
        before = best
        for number in range(len(spec.scales) + _slots(spec)):
            scored = [(score(candidate), candidate) for candidate in _candidates(spec, number)]
            top, candidate = max(scored, key=lambda item: item[0], default=(best, spec))
            if top > best + _LEAST_GAIN:
                best, spec = top, candidate
        if best == before:
            break
    return spec


def _slots(spec: PriorSpec) -> int:
    """Ratios of the level that has the most: the n-th ratio is the same for all levels."""
    return max(map(len, spec.aspect_ratios), default=0)


def _candidates(spec: PriorSpec, number: int) -> Iterator[PriorSpec]:
    """The spec with other values for one of its numbers: the scales, then the ratios."""
    scales = list(spec.scales)
    if number < len(scales):
        low = scales[number - 1] * _GAP if number else _SCALES[0]
        high = scales[number + 1] / _GAP if number + 1 < len(scales) else max(_SCALES[1], scales[-1])
        for scale in np.geomspace(low, high, _STEPS).round(4).tolist() if low < high else ():
            yield replace(spec, scales=[*scales[:number], scale, *scales[number + 1 :]])
        return
    slot = number - len(scales)
    taken = {ratio for ratios in spec.aspect_ratios for ratio in ratios}
    for value in sorted(set(_RATIOS) - taken):
        fitted = [[value if place == slot else ratio for place, ratio in enumerate(old)] for old in spec.aspect_ratios]
        yield replace(spec, aspect_ratios=fitted)


def write_priors(spec: PriorSpec, path: Path, *, about: Sequence[str]) -> None:
    """An option of the group `priors`, with the lines `about` above it as comments."""
    comments = "".join(f"# {' '.join(line.split())}\n" for line in about)
    head = "defaults:\n  - /schema/priors@_here_\n_target_: ssd.priors.PriorSpec\n"
    values = yaml.safe_dump(spec.as_dict(), sort_keys=False, default_flow_style=None, width=120)
    write_atomically(path, methodcaller("write_text", comments + head + values, encoding="utf-8"))
