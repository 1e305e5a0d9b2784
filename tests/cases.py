"""Random objects of every kind that a dataset holds, for coder and loss; boxes are fractions of the image."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import torch
from reference import Object
from torch import Tensor

CLASSES = 3
PADDING_LABEL = -1
PADDING_BOX = (0.1, 0.1, 0.9, 0.9)  # would match if it counted as an object


def box(rng: random.Random, *, largest: float = 0.8) -> tuple[float, float, float, float]:
    width, height = rng.uniform(0.01, largest), rng.uniform(0.01, largest)
    x, y = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
    return x, y, x + width, y + height


def an_object(rng: random.Random, *, ignored: bool = False, largest: float = 0.8) -> Object:
    return box(rng, largest=largest), rng.randrange(CLASSES), ignored


def overlapping(rng: random.Random, count: int = 8) -> list[Object]:
    """Boxes that differ by a thousandth."""
    x1, y1, x2, y2 = box(rng)

    def near(edge: float) -> float:
        return edge + rng.uniform(0, 1e-3)

    return [((near(x1), near(y1), near(x2), near(y2)), rng.randrange(CLASSES), False) for _ in range(count)]


def duplicates(rng: random.Random, count: int = 5) -> list[Object]:
    one = box(rng)
    return [(one, index % CLASSES, False) for index in range(count)]


def without_area(rng: random.Random) -> list[Object]:
    """A point, a line, an inverted box, and an ordinary one."""
    x, y = rng.random(), rng.random()
    broken = [(x, y, x, y), (0.1, y, 0.9, y), (0.8, 0.8, 0.2, 0.2), (0.8, 0.2, 0.2, 0.8)]
    return [(edges, 0, False) for edges in broken] + [an_object(rng)]


KINDS: dict[str, Callable[[random.Random], list[Object]]] = {
    "none": lambda rng: [],
    "one": lambda rng: [an_object(rng)],
    "some": lambda rng: [an_object(rng) for _ in range(12)],
    "crowd": lambda rng: [an_object(rng, largest=0.3) for _ in range(120)],
    "duplicates": duplicates,
    "overlapping": overlapping,
    "more than there are priors": lambda rng: [((0.0, 0.0, 0.02, 0.02), index % CLASSES, False) for index in range(40)],
    "ignored": lambda rng: [an_object(rng, ignored=index % 2 == 0) for index in range(8)],
    "ignored only": lambda rng: [an_object(rng, ignored=True) for _ in range(3)],
    "ignored duplicate": lambda rng: [(edges, 1, flag) for edges in [box(rng)] for flag in (True, False)],
    "without area": without_area,
}


def collate(images: Sequence[Sequence[Object]], *, extra_padding: int = 0) -> dict[str, Tensor]:
    """boxes, labels and ignore of a batch, as the loss takes them, in double precision."""
    longest = max(map(len, images)) + extra_padding
    padded = [[*objects, *[(PADDING_BOX, PADDING_LABEL, False)] * (longest - len(objects))] for objects in images]
    return {
        "boxes": torch.tensor([[edges for edges, _, _ in objects] for objects in padded], dtype=torch.float64).reshape(
            len(images), longest, 4
        ),
        "labels": torch.tensor([[label for _, label, _ in objects] for objects in padded], dtype=torch.int64),
        "ignore": torch.tensor([[ignored for _, _, ignored in objects] for objects in padded], dtype=torch.bool),
    }
