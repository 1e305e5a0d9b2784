"""Checkpoint files: written whole or not at all, read without running anything that they name.

A checkpoint describes itself: beside the weights it has a recipe of plain types (see `SSD.recipe`), so one file is
enough to predict. `.ckpt` is Lightning's, with optimizer and loops; `model.safetensors` is the release file.
"""

from __future__ import annotations

import json
import os
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.checkpoint_io import CheckpointIO
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ssd.errors import CheckpointError
from ssd.files import write_atomically
from ssd.model import SSD, build

_RECIPE = "recipe"
_PREFIX = "model."  # the network inside the LightningModule


def load(path: str | Path) -> SSD:
    """The network in a checkpoint (`.ckpt` or `.safetensors`), in evaluation mode on the CPU.

    Raises:
        CheckpointError: not a checkpoint of ours, damaged, or not finite.
    """
    recipe, state = read(path)
    try:
        model = build(recipe)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    fill(model, state, name=str(path))
    return model.eval()


def read(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(recipe, weights of the network) of a checkpoint file.

    Raises:
        CheckpointError: as `load`.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"{path}: no such checkpoint")
    if not path.is_file():
        raise CheckpointError(f"{path}: not a file; give checkpoints/best.ckpt or model.safetensors of a run")
    recipe, state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_lightning(path)
    if not isinstance(recipe, dict):
        raise CheckpointError(f"{path}: has no recipe, so it is no checkpoint of this program")
    return recipe, state


def load_file(path: str | Path) -> Any:
    """What `torch.save` wrote: tensors and plain types only; objects are refused, not run.

    Raises:
        CheckpointError: damaged, or holds objects.
    """
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # about unusual pickle protocols
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path}: refused: {_first_line(error)}") from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path}: not a checkpoint, or damaged: {_first_line(error)}") from error


def fill(model: SSD, state: dict[str, Tensor], *, name: str) -> None:
    """Copies weights into a network of exactly these names and shapes.

    Raises:
        CheckpointError: a name or shape differs, or a value is not finite.
    """
    own = model.state_dict()
    differing = [key for key in own.keys() | state.keys() if _shape(own, key) != _shape(state, key)]
    if differing:
        key = min(differing)
        raise CheckpointError(
            f"{name}: {key} has shape {_shape(state, key)}, the network {_shape(own, key)} "
            f"({len(differing)} of {len(own)} differ)"
        )
    for key, value in state.items():
        if not bool(value.isfinite().all()):
            raise CheckpointError(f"{name}: {key} holds NaN or infinity; use an earlier checkpoint")
    model.load_state_dict(state)


def save_release(model: SSD, path: Path) -> None:
    """Writes weights and recipe as safetensors."""
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    data = save(state, metadata={_RECIPE: json.dumps(model.recipe())})
    write_atomically(path, lambda temporary: temporary.write_bytes(data))


class AtomicCheckpointIO(CheckpointIO):
    """Lightning's checkpoints, written through `write_atomically` and read without unpickling objects."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        write_atomically(Path(path), lambda temporary: torch.save(checkpoint, temporary))

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return dict(load_file(Path(path)))

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        Path(path).unlink(missing_ok=True)


def _read_safetensors(path: Path) -> tuple[Any, dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            recipe = json.loads((file.metadata() or {}).get(_RECIPE, "null"))
            return recipe, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
    except (SafetensorError, ValueError, OSError) as error:
        raise CheckpointError(f"{path}: not a safetensors file, or damaged: {_first_line(error)}") from error


def _read_lightning(path: Path) -> tuple[Any, dict[str, Tensor]]:
    content = load_file(path)
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise CheckpointError(f"{path}: has no recipe, so it is no checkpoint of this program")
    weights = content["state_dict"].items()
    return content.get(_RECIPE), {name[len(_PREFIX) :]: value for name, value in weights if name.startswith(_PREFIX)}


def _shape(state: dict[str, Tensor], key: str) -> tuple[int, ...] | None:
    return tuple(state[key].shape) if key in state else None


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
