"""Reads and writes checkpoint files, atomically and without running anything that a file names.

A checkpoint describes itself: besides the weights it holds a recipe of plain types (see `SSD.recipe`), so one file is
enough to predict. `.ckpt` files are Lightning's, with optimizer and loop state; the release file is
`model.safetensors`.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from ssd.common.atomic_files import write_atomically
from ssd.common.errors import CheckpointError, DataError
from ssd.common.text import one_line
from ssd.common.untrusted_text import parse_json
from ssd.model.ssd import SSD, build, build_outline
from ssd.weights import third_party
from ssd.weights.safe_load import check_storage, first_line, open_checkpoint, safe_load, walk

_log = logging.getLogger("ssd")
_RECIPE = "recipe"
_PREFIX = "model."  # of the network in a LightningModule's state
_MAX_HEADER_BYTES = 16 << 20
_MAX_RECIPE_NODES, _MAX_RECIPE_DEPTH = 50_000, 10
_MAX_NUMBER = 1e9
_MAX_LINE = 300
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def load(path: str | Path) -> SSD:
    """The network of a checkpoint (`.ckpt` or `.safetensors`), in evaluation mode on the CPU.

    Weights of other SSD programs are converted (see `ssd.weights.third_party`).

    Raises:
        CheckpointError: not a checkpoint, damaged, or with values that are not finite.
    """
    path = Path(path)
    recipe, state = read_checkpoint(path)
    if recipe is None:
        imported = third_party.convert(state, source=path)
        for line in imported.report:
            _log.info("%s: %s", path.name, line)
        recipe, state = imported.recipe, imported.state
    return restore(recipe, state, name=str(path))


def restore(recipe: Any, state: dict[str, Any], *, name: str) -> SSD:
    """Builds the network of a recipe and loads its weights; in evaluation mode on the CPU.

    Args:
        recipe, state: what `read_checkpoint` returns.
        name: of the file, for errors.

    Raises:
        CheckpointError: recipe or weights are invalid or do not fit each other, or a value is not finite.
    """
    if not isinstance(recipe, dict):
        raise CheckpointError(f"{name}: has no recipe, so it is not a checkpoint of this program")
    _check_recipe(recipe, name=name)
    try:
        outline = build_outline(recipe)
    except CheckpointError as error:
        raise CheckpointError(f"{name}: {one_line(str(error)[:_MAX_LINE])}") from error
    _check_shapes(outline, state, name=name)
    model = build(recipe)
    load_strict(model, state, name=name)
    return model.eval()


def _check_recipe(recipe: dict[str, Any], *, name: str) -> None:
    """Checks that a recipe has plain values of moderate size, so that it can be read and printed."""
    try:
        items = list(walk(recipe, max_items=_MAX_RECIPE_NODES, max_depth=_MAX_RECIPE_DEPTH))
    except ValueError as error:
        raise CheckpointError(f"{name}: its recipe is too large or too deep; use another checkpoint") from error
    for item in items:
        if isinstance(item, dict | list | tuple):
            continue
        if isinstance(item, str):
            if len(item) > _MAX_LINE:
                raise CheckpointError(
                    f"{name}: its recipe has a text of {len(item)} characters; use another checkpoint"
                )
        elif isinstance(item, int | float):
            if not -_MAX_NUMBER < item < _MAX_NUMBER:  # false for NaN
                raise CheckpointError(f"{name}: its recipe has a number that is not finite, or above {_MAX_NUMBER:g}")
        elif item is not None:
            kind = type(item).__name__
            raise CheckpointError(f"{name}: its recipe has a value of type {kind}; use another checkpoint")


def read_checkpoint(path: Path) -> tuple[Any, Any]:
    """(recipe, weights) of a checkpoint of this program; (None, content) of any other file.

    Raises:
        CheckpointError: the file does not exist, or is damaged.
    """
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    content = safe_load(path)
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict) and _RECIPE in content:
        return content[_RECIPE], strip_prefix(content["state_dict"])
    return None, content


def load_strict(model: SSD, state: dict[str, Tensor], *, name: str) -> None:
    """Copies weights into a network that has exactly these names and shapes.

    Raises:
        CheckpointError: a name or shape differs, or a value is not finite.
    """
    _check_shapes(model, state, name=name)
    check_finite(state, name=name)
    model.load_state_dict(state)


def _check_shapes(model: SSD, state: dict[str, Tensor], *, name: str) -> None:
    """Raises CheckpointError where names, shapes or types of weights differ from those of a network."""
    for key, value in state.items():
        if not isinstance(value, Tensor):
            shown = one_line(str(key)[:_MAX_LINE])
            raise CheckpointError(f"{name}: {shown} is {type(value).__name__}, not a tensor; use another checkpoint")
    check_storage(state, name=name)
    own = model.state_dict()
    needed, found = ({key: tuple(value.shape) for key, value in table.items()} for table in (own, state))
    differing = {key for key, _ in needed.items() ^ found.items()}
    if differing:
        key = min(differing)
        raise CheckpointError(
            f"{name}: {one_line(key[:_MAX_LINE])} has shape {found.get(key)}, the network needs {needed.get(key)} "
            f"({len(differing)} of {len(own)} tensors differ)"
        )
    for key, value in state.items():
        if own[key].is_floating_point() and value.dtype not in _FLOATS:
            raise CheckpointError(f"{name}: {key} holds {value.dtype}, the network needs {own[key].dtype}")


def check_finite(state: dict[str, Tensor], *, name: str) -> None:
    """Raises CheckpointError if a value is NaN or infinite."""
    for key, value in state.items():
        if not bool(value.isfinite().all()):
            raise CheckpointError(f"{name}: {key} holds NaN or infinity; use another file or an earlier checkpoint")


def strip_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the network in a LightningModule's state."""
    return {name[len(_PREFIX) :]: value for name, value in state.items() if str(name).startswith(_PREFIX)}


def save_release(model: SSD, path: Path) -> None:
    """Writes weights, recipe and their checksums as safetensors."""
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    recipe = json.dumps(model.recipe())
    data = save(state, metadata={_RECIPE: recipe} | _checksums(state, recipe))
    write_atomically(path, data)


def _read_safetensors(path: Path) -> tuple[Any, dict[str, Tensor]]:
    metadata = _read_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
    except Exception as error:  # as in safe_load
        raise CheckpointError(f"{path}: not a safetensors file, or damaged: {first_line(error)}") from error
    text = metadata.get(_RECIPE, "null")
    try:
        recipe = parse_json(text, name=f"{path}: {_RECIPE}")
    except DataError as error:
        raise CheckpointError(first_line(error)) from error
    for name, checksum in _checksums(state, text).items():
        if metadata.get(name, checksum) != checksum:
            raise CheckpointError(f"{path}: damaged: {name} does not match; copy the file again")
    return recipe, state


def _read_header(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file, whose header has no key twice."""
    with open_checkpoint(path) as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= _MAX_HEADER_BYTES:
            raise CheckpointError(f"{path}: not a safetensors file, or damaged: a header of {length} bytes")
        data = file.read(length)
    try:
        header = parse_json(data, name=f"{path}: header")
    except DataError as error:
        raise CheckpointError(f"{first_line(error)} (not a safetensors file, or damaged)") from error
    metadata = header.get("__metadata__") or {} if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(f"{path}: not a safetensors file, or damaged: its header is not a table of tensors")
    return metadata


def _checksums(state: dict[str, Tensor], recipe: str) -> dict[str, str]:
    """SHA-256 over names and bytes of the weights, and over the recipe."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode(errors="surrogatepass"))
        digest.update(state[name].contiguous().flatten().view(torch.uint8).numpy().data)
    return {
        "sha256": digest.hexdigest(),
        "recipe_sha256": hashlib.sha256(recipe.encode(errors="surrogatepass")).hexdigest(),
    }
