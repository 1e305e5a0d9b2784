"""Reads what `torch.save` wrote, from untrusted files: nothing that a file names is imported or run."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssd.common.errors import CheckpointError

_MAX_BYTES = 16 * 2**30
_FORBIDDEN_OBJECT = re.compile(r"GLOBAL (\S+)")  # in torch.load's message


def safe_load(path: str | Path) -> Any:
    """Reads tensors and plain types; refuses any other object without unpickling it.

    Raises:
        CheckpointError: the file is damaged or too large, or holds objects.
    """
    path = Path(path)
    try:
        _check_archive(path)
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # about unusual pickle protocols
            content = torch.load(path, map_location="cpu", weights_only=True)
        _check_tensors(content)
    except pickle.UnpicklingError as error:
        found = _FORBIDDEN_OBJECT.search(str(error))
        reason = f"it holds {found[1]}, and objects are never loaded" if found else "it was not written by torch.save"
        raise CheckpointError(f"{path}: refused: {reason}; give a file with weights only") from error
    except Exception as error:  # damaged and foreign files raise nearly every type
        raise CheckpointError(f"{path}: not a checkpoint, or damaged: {first_line(error)}") from error
    return content


def check_size(path: Path) -> None:
    """Raises ValueError for a file that is too large to hold weights."""
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"{path.stat().st_size / 2**30:.0f} GiB; the limit is {_MAX_BYTES / 2**30:.0f} GiB")


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where the message is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _check_archive(path: Path) -> None:
    """Refuses archives that expand: `torch.save` does not compress, so it did not write them."""
    check_size(path)
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            if file.read(1) != pickle.PROTO:
                raise ValueError("give model.safetensors or a .ckpt of a run, an exported .onnx, or weights in a .pth")
        return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("it is compressed, and torch.save never compresses")
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise ValueError("its entries are larger than the file")
        if (damaged := archive.testzip()) is not None:  # torch.load does not notice flipped bits
            raise ValueError(f"wrong checksum of {damaged}; copy the file again")


def _check_tensors(content: Any) -> None:
    """Refuses tensors that are not dense CPU tensors."""
    if isinstance(content, Tensor):
        if content.layout is not torch.strided or content.device.type != "cpu" or content.is_quantized:
            raise ValueError("it holds a tensor that is sparse, quantized or without data")
    elif isinstance(content, dict | list | tuple):
        for item in content.values() if isinstance(content, dict) else content:
            _check_tensors(item)
