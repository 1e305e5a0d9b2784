"""Starts a network from the weights of another one: what fits is taken, the classification heads class by class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssd.common.class_names import class_index
from ssd.common.errors import CheckpointError, ConfigError, MachineError
from ssd.model.box_coder import BACKGROUND, class_column
from ssd.model.ssd import SSD
from ssd.weights import checkpoint, third_party
from ssd.weights.checkpoint import contents
from ssd.weights.third_party import BaseNetOnly
from ssd.weights.third_party_layouts import BASE_NETS

_FC_OF_DETECTION = ("31.", "33.")  # torchvision's VGG16 has no dilated fc6 and fc7: they stay fresh
_TIMM_MOBILENET = "mobilenetv1_100.ra4_e3600_r224_in1k"


def load_base(backbone: Any, weights: str) -> str:
    """Fills `backbone.base` from `imagenet` (downloads) or a file; returns a line that says what was taken.

    Raises:
        ConfigError: no ImageNet weights are known for this backbone.
        CheckpointError: the file does not fit; names the first key.
        MachineError: the download failed.
    """
    name = getattr(backbone, "name", type(backbone).__name__)
    if name not in BASE_NETS:
        raise ConfigError(f"backbone.weights={weights}: not known for {name}; leave it null")
    if weights == "imagenet":
        state = _download(name)
    elif Path(weights).is_file():
        state = third_party.tensors(contents(Path(weights))[1], source=weights)
    else:
        raise CheckpointError(f"backbone.weights={weights}: no such file (or write imagenet)")
    found, base = third_party.base_net(state) or (name, {})
    if found != name:
        raise CheckpointError(f"{weights}: is for {found}, not for {name}; choose backbone={found}")
    return _fill(backbone.base, base, unused_total=len(state), name=name, source=weights)


def _fill(base: nn.Module, state: dict[str, Tensor], *, unused_total: int, name: str, source: str) -> str:
    own = base.state_dict()
    fresh = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    allowed = _FC_OF_DETECTION if name == "vgg16" else ()
    unexpected = [key for key in fresh if not key.startswith(allowed or ("-",))]
    if unexpected:
        raise CheckpointError(
            f"{source}: no weights for {unexpected[0]} of {name} ({len(unexpected)} keys are missing)"
        )
    taken = {key: value for key, value in state.items() if key in own}
    hint = "; choose the backbone.width_multiplier of the weights" if name == "mobilenet_v1" else ""
    for key, value in taken.items():
        if value.shape != own[key].shape:
            raise CheckpointError(f"{source}: {key} is {tuple(value.shape)}, {name} has {tuple(own[key].shape)}{hint}")
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise CheckpointError(f"{source}: {key} holds NaN or infinity")
    base.load_state_dict(taken, strict=False)
    return f"{name}: {len(taken)} tensors from {source}, {unused_total - len(taken)} unused, {len(fresh)} fresh"


def _download(name: str) -> dict[str, Tensor]:
    try:
        if name == "vgg16":
            from torchvision.models import VGG16_Weights

            return dict(VGG16_Weights.IMAGENET1K_FEATURES.get_state_dict(progress=True, check_hash=True))
        try:
            import timm
        except ImportError:
            raise ConfigError("backbone.weights=imagenet needs timm: pip install 'ssd-detector[backbones]'") from None
        return dict(timm.create_model(_TIMM_MOBILENET, pretrained=True).state_dict())
    except (OSError, RuntimeError) as error:
        raise MachineError(
            f"backbone.weights=imagenet: download failed ({error}); give backbone.weights=FILE instead"
        ) from error


_BASE = "backbone.base."
_HEADS = "classification_heads."
_PIXELS = ("mean", "std")
_SHOWN = 8  # names in a line


@torch.no_grad()
def init_from_weights(model: SSD, path: str) -> list[str]:
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
    theirs = [class_index(name, source.class_names) for name in model.class_names]
    return {label: place for label, place in enumerate(theirs) if place is not None}


def _copy_classes(model: SSD, source: SSD, same: dict[int, int]) -> set[str]:
    """Copies the rows of background and of the same classes, where anchors and channels of a level agree.

    Returns the names of these heads' tensors.
    """
    ours = [BACKGROUND, *map(class_column, same)]
    theirs = [BACKGROUND, *map(class_column, same.values())]
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
