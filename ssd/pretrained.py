"""ImageNet weights for the base net of a backbone: from torchvision and timm, or from a local file.

Layouts that are understood, by their keys: our own; `vgg16_reducedfc.pth` and torchvision for VGG16; timm, and the
`model.N` layout of the common MobileNetV1 code, and qfgaohao's `base_net`, for MobileNetV1.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ssd.checkpoint import load_file
from ssd.errors import CheckpointError, ConfigError, MachineError

_RENAMES = {
    "vgg16": (r"(?:features\.|vgg\.|base_net\.|model\.backbone\.base\.|base\.)?(\d+\.(?:weight|bias))$",),
    "mobilenet_v1": (r"(?:model\.backbone\.base|base_net|backbone\.base|base|model)\.(\d+\.\d+\.\w+)$",),
}
_TIMM_PARTS = {"conv_stem": "0.0", "bn1": "0.1"}
_TIMM_BLOCK_PARTS = {"conv_dw": 0, "bn1": 1, "conv_pw": 3, "bn2": 4}
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
    if name not in _RENAMES:
        raise ConfigError(f"backbone.weights={weights}: not known for {name}; leave it null")
    state: Any
    if weights == "imagenet":
        state = _download(name)
    elif Path(weights).is_file():
        state = load_file(weights)
    else:
        raise CheckpointError(f"backbone.weights={weights}: no such file (or write imagenet)")
    nested = state.get("state_dict") if isinstance(state, dict) else None
    state = nested if isinstance(nested, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"backbone.weights={weights}: not a table of tensors")
    return _fill(backbone.base, _rename(name, state), unused_total=len(state), name=name, source=weights)


def _rename(name: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    if "conv_stem.weight" in state:
        return _from_timm(state)
    renamed = {}
    for key, value in state.items():
        for pattern in _RENAMES[name]:
            found = re.match(pattern, key)
            if found:
                renamed[found[1]] = value
    return renamed


def _from_timm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """conv_stem and blocks.<stage>.<i> to the numbers of `base`."""
    blocks = sorted({tuple(map(int, key.split(".")[1:3])) for key in state if key.startswith("blocks.")})
    number = {block: position for position, block in enumerate(blocks, start=1)}
    renamed = {}
    for key, value in state.items():
        parts = key.split(".")
        if parts[0] in _TIMM_PARTS:
            renamed[f"{_TIMM_PARTS[parts[0]]}.{parts[1]}"] = value
        elif parts[0] == "blocks" and parts[3] in _TIMM_BLOCK_PARTS:
            block = number[int(parts[1]), int(parts[2])]
            renamed[f"{block}.{_TIMM_BLOCK_PARTS[parts[3]]}.{parts[4]}"] = value
    return renamed


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
    for key, value in taken.items():
        if value.shape != own[key].shape:
            raise CheckpointError(f"{source}: {key} is {tuple(value.shape)}, {name} has {tuple(own[key].shape)}")
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
