"""ImageNet weights for the base net of a backbone: from torchvision and timm, or from a file of any layout we know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ssd.errors import CheckpointError, ConfigError, MachineError
from ssd.weights import legacy
from ssd.weights.checkpoint import contents
from ssd.weights.legacy_layouts import BASE_NETS

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
        state = legacy.tensors(contents(Path(weights))[1], source=weights)
    else:
        raise CheckpointError(f"backbone.weights={weights}: no such file (or write imagenet)")
    found, base = legacy.base_net(state) or (name, {})
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
