"""Checkpoint files: written whole or not at all, read without running anything that they name.

A checkpoint describes itself: beside the weights it has a recipe of plain types (see `SSD.recipe`), so one file is
enough to predict. `.ckpt` is Lightning's, with optimizer and loops; `model.safetensors` is the release file.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.checkpoint_io import CheckpointIO
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ssd.common.atomic_files import write_atomically
from ssd.common.errors import CheckpointError, MachineError
from ssd.model.ssd import SSD, build
from ssd.weights import third_party

_MAX_BYTES = 16 * 2**30
_FORBIDDEN = re.compile(r"GLOBAL (\S+)")  # what torch.load says of an object
DAMAGE = (  # what libraries raise for a file that is none of theirs
    RuntimeError,  # RecursionError is one
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    AssertionError,
    OverflowError,
    MemoryError,
    OSError,
    zipfile.BadZipFile,
)


def safe_load(path: str | Path) -> Any:
    """What `torch.save` wrote: tensors and plain types only; objects are refused, not run.

    Raises:
        CheckpointError: damaged, too large, or holds objects.
    """
    path = Path(path)
    try:
        _check_archive(path)
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # about unusual pickle protocols
            content = torch.load(path, map_location="cpu", weights_only=True)
        _check_tensors(content)
    except pickle.UnpicklingError as error:
        objects = _FORBIDDEN.search(str(error))
        what = f"it holds {objects[1]}, and objects are never loaded" if objects else "not what torch.save writes"
        raise CheckpointError(f"{path}: refused: {what}; give weights only") from error
    except DAMAGE as error:
        raise CheckpointError(f"{path}: not a checkpoint, or damaged: {first_line(error)}") from error
    return content


def check_size(path: Path) -> None:
    """Raises ValueError for a file that is too large to be weights."""
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"{path.stat().st_size / 2**30:.0f} GiB; at most {_MAX_BYTES / 2**30:.0f} are read")


def first_line(error: BaseException) -> str:
    """The first line of its text, or its kind."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _check_archive(path: Path) -> None:
    """`torch.save` stores without compression, so an archive that would grow is none of its."""
    check_size(path)
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            if file.read(1) != pickle.PROTO:
                raise ValueError("give model.safetensors or a .ckpt of a run, an exported .onnx, or weights in a .pth")
        return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("compressed, which torch.save never does")
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise ValueError("its entries are larger than the file")
        if (damaged := archive.testzip()) is not None:  # torch.load takes flipped bits
            raise ValueError(f"{damaged} has another checksum; copy the file again")


def _check_tensors(content: Any) -> None:
    """Those that fill memory as they are, not those of other devices and layouts."""
    if isinstance(content, Tensor):
        if content.layout is not torch.strided or content.device.type != "cpu" or content.is_quantized:
            raise ValueError("it holds a tensor that is sparse, quantized or without data")
    elif isinstance(content, dict | list | tuple):
        for item in content.values() if isinstance(content, dict) else content:
            _check_tensors(item)


_log = logging.getLogger("ssd")
_RECIPE = "recipe"
_WEIGHTS_CHECKSUM, _RECIPE_CHECKSUM = "sha256", "recipe_sha256"
_PREFIX = "model."  # the network inside the LightningModule
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def load(path: str | Path) -> SSD:
    """The network in a checkpoint (`.ckpt` or `.safetensors`), in evaluation mode on the CPU.

    That of another program is converted (see `ssd.weights.third_party`).

    Raises:
        CheckpointError: not a checkpoint of ours, damaged, or not finite.
    """
    path = Path(path)
    recipe, state = contents(path)
    if recipe is None:
        imported = third_party.convert(state, source=path)
        for line in imported.report:
            _log.info("%s: %s", path.name, line)
        recipe, state = imported.recipe, imported.state
    return restore(recipe, state, name=str(path))


def restore(recipe: Any, state: dict[str, Any], *, name: str) -> SSD:
    """The network of a recipe and its weights, in evaluation mode on the CPU; errors call the two `name`.

    Raises:
        CheckpointError: no recipe and weights of ours, or not finite.
    """
    if not isinstance(recipe, dict):
        raise CheckpointError(f"{name}: has no recipe, so it is no checkpoint of this program")
    for key, value in state.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(f"{name}: {key} is {type(value).__name__}, not a tensor; use another checkpoint")
    try:
        with torch.device("meta"):  # a hostile recipe gets no memory before its shapes are those of the weights
            check_shapes(build(recipe), state, name=name)
        model = build(recipe)
    except CheckpointError as error:
        raise CheckpointError(f"{name}: {error}" if name not in str(error) else str(error)) from error
    fill(model, state, name=name)
    return model.eval()


def contents(path: Path) -> tuple[Any, Any]:
    """(recipe, weights) of a checkpoint of ours; (None, what is in it) of another file.

    Raises:
        CheckpointError: there is no such file, or it is damaged.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: no such checkpoint")
    if not path.is_file():
        raise CheckpointError(f"{path}: not a file; give checkpoints/best.ckpt or model.safetensors of a run")
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_lightning(path)


def check_shapes(model: SSD, state: dict[str, Tensor], *, name: str) -> None:
    """Compares names, shapes and kinds of number of weights with those of a network.

    Raises:
        CheckpointError: one differs.
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
        if own[key].is_floating_point() and value.dtype not in _FLOATS:
            raise CheckpointError(f"{name}: {key} holds {value.dtype}, the network {own[key].dtype}")


def check_finite(state: dict[str, Tensor], *, name: str) -> None:
    """Looks for NaN and infinity.

    Raises:
        CheckpointError: there is one.
    """
    for key, value in state.items():
        if not bool(value.isfinite().all()):
            raise CheckpointError(f"{name}: {key} holds NaN or infinity; use an earlier checkpoint")


def fill(model: SSD, state: dict[str, Tensor], *, name: str) -> None:
    """Copies weights into a network of exactly these names and shapes.

    Raises:
        CheckpointError: a name or shape differs, or a value is not finite.
    """
    check_shapes(model, state, name=name)
    check_finite(state, name=name)
    model.load_state_dict(state)


def strip_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The network's part of a LightningModule's state."""
    return {name[len(_PREFIX) :]: value for name, value in state.items() if str(name).startswith(_PREFIX)}


def save_release(model: SSD, path: Path) -> None:
    """Writes weights, recipe and a checksum of both as safetensors."""
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    recipe = json.dumps(model.recipe())
    checksums = {_WEIGHTS_CHECKSUM: _checksum(state), _RECIPE_CHECKSUM: _text_checksum(recipe)}
    data = save(state, metadata={_RECIPE: recipe} | checksums)
    write_atomically(path, lambda temporary: temporary.write_bytes(data))


class AtomicCheckpointIO(CheckpointIO):
    """Lightning's checkpoints, written through `write_atomically` and read without unpickling objects."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        path = Path(path)
        try:
            write_atomically(path, lambda temporary: torch.save(checkpoint, temporary))
        except (OSError, RuntimeError) as error:  # the second is how torch says that the disk is full
            if "DataLoader worker" in str(error):  # the death of one is told wherever the main process is
                raise
            raise MachineError(
                f"{path}: cannot be written: {_reason(error)}; what was saved before is intact"
            ) from error

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return dict(safe_load(Path(path)))

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        Path(path).unlink(missing_ok=True)


def _read_safetensors(path: Path) -> tuple[Any, dict[str, Tensor]]:
    try:
        check_size(path)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
        text = metadata.get(_RECIPE, "null")
        recipe = json.loads(text)
    except (SafetensorError, *DAMAGE) as error:
        raise CheckpointError(f"{path}: not a safetensors file, or damaged: {first_line(error)}") from error
    for name, found in ((_WEIGHTS_CHECKSUM, _checksum(state)), (_RECIPE_CHECKSUM, _text_checksum(text))):
        if metadata.get(name, found) != found:
            raise CheckpointError(f"{path}: damaged: another checksum than its {name}; copy the file again")
    return recipe, state


def _read_lightning(path: Path) -> tuple[Any, Any]:
    content = safe_load(path)
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict) or _RECIPE not in content:
        return None, content
    return content[_RECIPE], strip_prefix(content["state_dict"])


def _text_checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _checksum(state: dict[str, Tensor]) -> str:
    """SHA-256 over names and bytes of the weights."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _reason(error: BaseException) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else "the disk is full"


def _shape(state: dict[str, Tensor], key: str) -> tuple[int, ...] | None:
    return tuple(state[key].shape) if key in state else None
