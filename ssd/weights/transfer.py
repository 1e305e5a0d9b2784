"""Initialises a network from other weights: tensors that fit are copied, classification heads class by class."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssd.common.class_names import class_index
from ssd.common.errors import CheckpointError, ConfigError, MachineError
from ssd.model.backbones import PretrainedBackbone
from ssd.model.box_coder import BACKGROUND, class_column
from ssd.model.ssd import SSD
from ssd.weights import checkpoint, published, third_party
from ssd.weights.third_party import BaseNetOnly

IMAGENET = "imagenet"  # the value of backbone.weights for published ones
_BASE = "backbone.base."
_HEADS = "classification_heads."
_PIXELS = ("mean", "std")
_MAX_LISTED = 8  # names per line


def load_base(backbone: nn.Module, weights: str) -> str:
    """Loads `backbone.base` from a file, or from `imagenet` (see `published`); returns a report line.

    Raises:
        ConfigError: there are no ImageNet weights of this backbone.
        CheckpointError: the file does not exist or does not fit; names the file and the first key.
        MachineError: the download failed.
    """
    name = getattr(backbone, "name", type(backbone).__name__)
    if not isinstance(backbone, PretrainedBackbone):
        raise ConfigError(f"backbone.weights={weights}: {name} has no ImageNet weights; leave it null")
    path = _fetch_imagenet(backbone, name) if weights == IMAGENET else Path(weights)
    if not path.is_file():
        raise CheckpointError(f"backbone.weights={weights}: no such file; give a file, or imagenet")
    state = third_party.find_tensors(checkpoint.read_checkpoint(path)[1], source=path)
    found, base_state = third_party.find_base_net(state) or (name, {})
    if found != name:
        raise CheckpointError(f"{path}: holds weights of {found}, not of {name}; choose backbone={found}")
    loaded, fresh = _load_base_state(backbone, base_state, name=name, source=str(path))
    return f"{name}: {loaded} tensors loaded from {weights}, {len(state) - loaded} unused, {fresh} fresh"


def _fetch_imagenet(backbone: PretrainedBackbone, name: str) -> Path:
    """The file of the ImageNet weights, downloaded unless it is in the cache."""
    entry = backbone.imagenet_weights
    if entry is None:
        raise ConfigError(f"backbone.weights=imagenet: none are published for this {name}; leave it null")
    try:
        return published.fetch(entry)
    except MachineError as error:
        raise MachineError(f"backbone.weights=imagenet: {error}, or give backbone.weights=FILE") from error


def _load_base_state(
    backbone: PretrainedBackbone, state: dict[str, Tensor], *, name: str, source: str
) -> tuple[int, int]:
    """(number of tensors loaded, number left fresh)."""
    own = backbone.base.state_dict()
    fresh = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    missing = [key for key in fresh if not key.startswith(backbone.fresh_base_keys)]
    if missing:
        raise CheckpointError(f"{source}: no weights for {missing[0]} of {name} ({len(missing)} keys are missing)")
    loaded = {key: value for key, value in state.items() if key in own}
    for key, value in loaded.items():
        if value.shape != own[key].shape:
            raise CheckpointError(
                f"{source}: {key} is {tuple(value.shape)}, {name} needs {tuple(own[key].shape)}; "
                "give the backbone.* settings that the weights were trained with"
            )
    checkpoint.check_finite(loaded, name=source)
    backbone.base.load_state_dict(loaded, strict=False)
    return len(loaded), len(fresh)


@torch.no_grad()
def init_from(model: SSD, path: str) -> list[str]:
    """Copies weights of a checkpoint, of another program's network or of a base net into `model`.

    `path` is a file, or a name of `published`.

    The base net must fit. Of the rest, every tensor of the same name and shape is copied; of the classification heads,
    the rows of background and of classes with the same name (ignoring case). The pixel normalisation is copied with
    the weights that were trained with it; priors and classes stay those of `model`.

    Returns:
        Report lines: what was copied, what is fresh, what is unused.

    Raises:
        CheckpointError: the file cannot be used, or has another base net.
    """
    file = published.fetch(path) if path in published.PUBLISHED and not Path(path).is_file() else Path(path)
    try:
        source = checkpoint.load(file)
    except BaseNetOnly:
        return [f"init_from={path}: a base net without a detector", load_base(model.backbone, str(file))]
    _check_same_base(model, source, path)
    differences = _compare_recipes(model.recipe(), source.recipe())
    header = f"init_from={path}: {source.backbone.name}, {len(source.class_names)} classes"
    return [header, *differences, *_copy_weights(model, source)]


def _copy_weights(model: SSD, source: SSD) -> tuple[str, str]:
    """Copies what fits; returns report lines about tensors and classes."""
    own, theirs = model.state_dict(), source.state_dict()
    copied = {key for key in own.keys() & theirs.keys() if own[key].shape == theirs[key].shape}
    copied = {key for key in copied if not key.startswith(_HEADS)}
    for key in copied:
        own[key].copy_(theirs[key])
    labels = {name: class_index(name, source.class_names) for name in model.class_names}
    matches = {name: source.class_names[label] for name, label in labels.items() if label is not None}
    heads = _copy_class_rows(model, source, matches)
    copied |= heads
    kept = matches if heads else {}
    return (
        f"tensors: {len(copied)} of {len(own)} copied (classification heads class by class); "
        + _report_rest(own, theirs, copied, copied),
        f"classes: kept {_join(kept)}; " + _report_rest(model.class_names, source.class_names, kept, kept.values()),
    )


def _check_same_base(model: SSD, source: SSD, path: str) -> None:
    own, theirs = (
        {key: value.shape for key, value in network.state_dict().items() if key.startswith(_BASE)}
        for network in (model, source)
    )
    backbone = source.recipe()["backbone"]
    if own != theirs or model.backbone.name != backbone["name"]:
        choice = [f"backbone={backbone['name']}"]
        choice += [f"backbone.{key}={value}" for key, value in backbone["arguments"].items() if key not in _PIXELS]
        raise CheckpointError(f"init_from={path}: its base net does not fit this run; choose {' '.join(choice)}")


def _compare_recipes(own: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """A line for each setting with which the weights were trained and that this run changes."""
    lines = []
    pixels, their_pixels = own["backbone"]["arguments"], theirs["backbone"]["arguments"]
    for key in _PIXELS:
        if pixels.get(key) != their_pixels.get(key):
            lines.append(f"pixel {key}: {their_pixels.get(key)} from the weights replaces {pixels.get(key)}")
    priors, their_priors = own["priors"], theirs["priors"]
    changed = [f"{key} {their_priors[key]}" for key in ("scales", "clip") if priors[key] != their_priors[key]]
    if changed:
        lines.append(f"priors: those of this run; the weights were trained with {', '.join(changed)}")
    return lines


def _copy_class_rows(model: SSD, source: SSD, matches: Mapping[str, str]) -> set[str]:
    """Copies the rows of background and of matching classes, on levels with equal anchors and channels.

    Args:
        matches: class in `model` -> class in `source`.

    Returns:
        Names of the tensors of these heads.
    """
    columns = [BACKGROUND, *(class_column(model.class_names.index(name)) for name in matches)]
    their_columns = [BACKGROUND, *(class_column(source.class_names.index(name)) for name in matches.values())]
    copied = set()
    heads = zip(model.classification_heads, source.classification_heads, strict=False)
    for level, (head, their_head) in enumerate(heads):
        anchors = model.prior_spec.per_cell[level]
        if anchors != source.prior_spec.per_cell[level] or head.in_channels != their_head.in_channels:
            continue
        for name, tensor in head.named_parameters():
            their_rows = their_head.get_parameter(name).unflatten(0, (anchors, -1))
            tensor.unflatten(0, (anchors, -1))[:, columns] = their_rows[:, their_columns]
            copied.add(f"{_HEADS}{level}.{name}")
    return copied


def _report_rest(own: Iterable[str], theirs: Iterable[str], copied: Collection[str], used: Collection[str]) -> str:
    fresh, unused = [name for name in own if name not in copied], [name for name in theirs if name not in used]
    return f"fresh: {_join(fresh)}; unused: {_join(unused)}"


def _join(names: Iterable[str]) -> str:
    """The first names, and how many more there are."""
    names = list(names)
    more = len(names) - _MAX_LISTED
    return ", ".join(names[:_MAX_LISTED]) + (f" and {more} more" if more > 0 else "") or "none"
