"""Reference implementations of matching, loss and post-processing: plain loops over Python floats, without ssd.

Boxes are (x1, y1, x2, y2), priors (cx, cy, w, h). An object is (box, label, ignored); labels are 0..C-1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Box = Sequence[float]
Object = tuple[Box, int, bool]

BACKGROUND = 0
IGNORED = -1


def corners(prior: Box) -> Box:
    cx, cy, w, h = prior
    return cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2


def area(box: Box) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def intersection(a: Box, b: Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, width) * max(0.0, height)


def iou(a: Box, b: Box) -> float:
    union = area(a) + area(b) - intersection(a, b)
    return intersection(a, b) / union if union > 0 else 0.0


def match(objects: Sequence[Object], priors: Sequence[Box], threshold: float) -> list[tuple[int, int | None]]:
    """(class target, index of the object) of each prior; the index is None where the prior is not positive."""
    boxes = [corners(prior) for prior in priors]
    result: list[tuple[int, int | None]] = []
    for prior, matched in enumerate(_matched_objects(objects, boxes, threshold)):
        if matched is not None:
            result.append((objects[matched][1] + 1, matched))
        elif _is_covered(boxes[prior], objects, threshold):
            result.append((IGNORED, None))
        else:
            result.append((BACKGROUND, None))
    return result


def _matched_objects(objects: Sequence[Object], boxes: Sequence[Box], threshold: float) -> list[int | None]:
    real = [index for index, (_, _, ignored) in enumerate(objects) if not ignored]
    table = {(index, prior): iou(objects[index][0], boxes[prior]) for index in real for prior in range(len(boxes))}
    bipartite = bipartite_match(table)
    matched: list[int | None] = []
    for prior in range(len(boxes)):
        best = max(real, key=lambda index, prior=prior: table[index, prior], default=None)  # the first one in a tie
        if prior in bipartite:
            matched.append(bipartite[prior])
        elif best is not None and table[best, prior] >= threshold:
            matched.append(best)
        else:
            matched.append(None)
    return matched


def bipartite_match(table: dict[tuple[int, int], float]) -> dict[int, int]:
    """prior -> object. Overlapping pairs in order of decreasing IoU, each object and each prior once.

    In a tie the first object is matched first, then the first prior.
    """
    pairs = sorted((-value, index, prior) for (index, prior), value in table.items() if value > 0)
    matched: dict[int, int] = {}
    done: set[int] = set()
    for _, index, prior in pairs:
        if index not in done and prior not in matched:
            matched[prior] = index
            done.add(index)
    return matched


def _is_covered(box: Box, objects: Sequence[Object], threshold: float) -> bool:
    """Whether one ignored object covers at least `threshold` of the area of the prior."""
    return any(ignored and intersection(ignorable, box) >= area(box) * threshold for ignorable, _, ignored in objects)


def encode(box: Box, prior: Box) -> list[float]:
    cx, cy, w, h = prior
    width, height = max(box[2] - box[0], 1e-6), max(box[3] - box[1], 1e-6)
    return [
        ((box[0] + box[2]) / 2 - cx) / w / 0.1,
        ((box[1] + box[3]) / 2 - cy) / h / 0.1,
        math.log(width / w) / 0.2,
        math.log(height / h) / 0.2,
    ]


def decode(offsets: Sequence[float], prior: Box) -> Box:
    cx, cy, w, h = prior
    return corners(
        (
            cx + 0.1 * offsets[0] * w,
            cy + 0.1 * offsets[1] * h,
            w * math.exp(0.2 * offsets[2]),
            h * math.exp(0.2 * offsets[3]),
        )
    )


def softmax(logits: Sequence[float]) -> list[float]:
    powers = [math.exp(logit - max(logits)) for logit in logits]
    return [power / sum(powers) for power in powers]


def cross_entropy(logits: Sequence[float], column: int) -> float:
    return max(logits) + math.log(sum(math.exp(logit - max(logits)) for logit in logits)) - logits[column]


def smooth_l1(difference: float) -> float:
    return 0.5 * difference**2 if abs(difference) < 1 else abs(difference) - 0.5


def hard_negatives(background_losses: dict[int, float], count: int) -> list[int]:
    """The priors with the largest background loss."""
    return sorted(background_losses, key=lambda prior: -background_losses[prior])[:count]


def multibox_loss(
    images: Sequence[tuple[Sequence[Sequence[float]], Sequence[Sequence[float]], Sequence[Object]]],
    priors: Sequence[Box],
    *,
    threshold: float,
    negative_ratio: float,
) -> tuple[float, float, int]:
    """(classification, localization, positives) of a batch of (logits, offsets, objects)."""
    classification = localization = 0.0
    positives = 0
    for logits, offsets, objects in images:
        matched = match(objects, priors, threshold)
        background_losses = {}
        own_positives = 0
        for prior, (column, index) in enumerate(matched):
            if index is not None:
                own_positives += 1
                classification += cross_entropy(logits[prior], column)
                target = encode(objects[index][0], priors[prior])
                localization += sum(smooth_l1(a - b) for a, b in zip(offsets[prior], target, strict=True))
            elif column == BACKGROUND:
                background_losses[prior] = cross_entropy(logits[prior], BACKGROUND)
        for prior in hard_negatives(background_losses, int(own_positives * negative_ratio)):
            classification += background_losses[prior]
        positives += own_positives
    return classification / max(1, positives), localization / max(1, positives), positives


def nms(boxes: Sequence[Box], scores: Sequence[float], threshold: float) -> list[int]:
    kept: list[int] = []
    for index in sorted(range(len(boxes)), key=lambda index: -scores[index]):
        if all(iou(boxes[index], boxes[better]) <= threshold for better in kept):
            kept.append(index)
    return kept


def postprocess(
    logits: Sequence[Sequence[float]],
    offsets: Sequence[Sequence[float]],
    priors: Sequence[Box],
    *,
    score_threshold: float,
    nms_threshold: float,
    topk_candidates: int,
    max_detections: int,
) -> list[tuple[float, int, Box]]:
    """(score, label, box) of one image: the top (prior, class) pairs, then NMS for each class."""
    pairs = [
        (score, label, prior)
        for prior, row in enumerate(logits)
        for label, score in enumerate(softmax(row)[BACKGROUND + 1 :])
    ]
    pairs = [pair for pair in sorted(pairs, reverse=True)[:topk_candidates] if pair[0] > score_threshold]
    detections: list[tuple[float, int, Box]] = []
    for label in sorted({label for _, label, _ in pairs}):
        scores = [score for score, of, _ in pairs if of == label]
        boxes = [_clip(decode(offsets[prior], priors[prior])) for _, of, prior in pairs if of == label]
        detections += [(scores[index], label, boxes[index]) for index in nms(boxes, scores, nms_threshold)]
    return sorted(detections, key=lambda detection: -detection[0])[:max_detections]


def _clip(box: Box) -> Box:
    return tuple(min(1.0, max(0.0, edge)) for edge in box)
