"""Files of weights from strangers, read without running anything that they name."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssd.errors import CheckpointError

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


def load(path: str | Path) -> Any:
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
