"""Starts a network from the weights of another one: what fits is taken, the classification heads class by class."""

from __future__ import annotations

from typing import Any

import torch

from ssd.coder import BACKGROUND, column
from ssd.data.splits import place_of
from ssd.errors import CheckpointError
from ssd.model import SSD
from ssd.weights import checkpoint
from ssd.weights.legacy import BaseNetOnly
from ssd.weights.pretrained import load_base

_BASE = "backbone.base."
_HEADS = "classification_heads."
_PIXELS = ("mean", "std")
_SHOWN = 8  # names in a line


@torch.no_grad()
def start_from(model: SSD, path: str) -> list[str]:
    """Copies weights of a checkpoint, of another program's network or of a base net into `model`.

    The base net must fit. Of the rest every tensor of the same name and shape is taken; of the classification heads
    the rows of background and of the classes with the same name (in any case). The pixel normalisation comes with the
    weights that were trained with it; priors and classes stay those of `model`.

    Returns:
        Lines that say what was taken and what is fresh.

    Raises:
        CheckpointError: the file cannot be used, or has another base net.
    """
    try:
        source = checkpoint.load(path)
    except BaseNetOnly:
        return [f"init_from={path}: a base net only", load_base(model.backbone, path)]
    _refuse_other_base(model, source, path)
    lines = [f"init_from={path}: {source.backbone.name}, {len(source.class_names)} classes"]
    lines += _differences(model.recipe(), source.recipe())
    same = _same_classes(model, source)
    own, theirs = model.state_dict(), source.state_dict()
    taken = {key for key in own.keys() & theirs.keys() if own[key].shape == theirs[key].shape}
    taken = {key for key in taken if not key.startswith(_HEADS)}
    for key in taken:
        own[key].copy_(theirs[key])
    heads = _copy_classes(model, source, same)
    taken |= heads
    fresh, unused = ([key for key in state if key not in taken] for state in (own, theirs))
    counts = f"{len(taken)} of {len(own)} taken (classification heads class by class)"
    lines.append(f"tensors: {counts}; fresh: {_some(fresh)}; not used: {_some(unused)}")
    kept = same if heads else {}
    names = [name for label, name in enumerate(model.class_names) if label in kept]
    others = [name for label, name in enumerate(model.class_names) if label not in kept]
    dropped = [name for label, name in enumerate(source.class_names) if label not in kept.values()]
    lines.append(f"classes: kept {_some(names)}; fresh: {_some(others)}; not used: {_some(dropped)}")
    return lines


def _refuse_other_base(model: SSD, source: SSD, path: str) -> None:
    own, theirs = (
        {key: value.shape for key, value in network.state_dict().items() if key.startswith(_BASE)}
        for network in (model, source)
    )
    backbone = source.recipe()["backbone"]
    if own != theirs or model.backbone.name != backbone["name"]:
        choice = [f"backbone={backbone['name']}"]
        choice += [f"backbone.{key}={value}" for key, value in backbone["arguments"].items() if key not in _PIXELS]
        raise CheckpointError(f"init_from={path}: its base net does not fit this run; choose {' '.join(choice)}")


def _differences(own: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """What the weights were trained with and this run has otherwise, from the two recipes."""
    lines = []
    pixels, their_pixels = own["backbone"]["arguments"], theirs["backbone"]["arguments"]
    for key in _PIXELS:
        if pixels.get(key) != their_pixels.get(key):
            lines.append(f"pixel {key}: {their_pixels.get(key)} of the weights instead of {pixels.get(key)}")
    priors, their_priors = own["priors"], theirs["priors"]
    changed = [f"{key} {their_priors[key]}" for key in ("scales", "clip") if priors[key] != their_priors[key]]
    if changed:
        lines.append(f"priors: those of this run; the weights were trained with {', '.join(changed)}")
    return lines


def _same_classes(model: SSD, source: SSD) -> dict[int, int]:
    """Our label -> their label, for each class that both know."""
    theirs = [place_of(name, source.class_names) for name in model.class_names]
    return {label: place for label, place in enumerate(theirs) if place is not None}


def _copy_classes(model: SSD, source: SSD, same: dict[int, int]) -> set[str]:
    """Copies the rows of background and of the same classes, where anchors and channels of a level agree.

    Returns the names of these heads' tensors.
    """
    ours = [BACKGROUND, *map(column, same)]
    theirs = [BACKGROUND, *map(column, same.values())]
    copied = set()
    heads = zip(model.classification_heads, source.classification_heads, strict=False)
    for level, (head, their_head) in enumerate(heads):
        anchors = model.prior_spec.per_cell[level]
        if anchors != source.prior_spec.per_cell[level] or head.in_channels != their_head.in_channels:
            continue
        for name, tensor in head.named_parameters():
            their_rows = their_head.get_parameter(name).unflatten(0, (anchors, -1))
            tensor.unflatten(0, (anchors, -1))[:, ours] = their_rows[:, theirs]
            copied.add(f"{_HEADS}{level}.{name}")
    return copied


def _some(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "") or "none"
