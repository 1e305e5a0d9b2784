"""Reads what `torch.save` wrote, from untrusted files: nothing that a file names is imported or run."""

from __future__ import annotations

import io
import pickle
import re
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssd.common.errors import CheckpointError, DataError
from ssd.common.text import one_line
from ssd.common.untrusted_files import open_untrusted
from ssd.weights.pickle_scan import scan

_MAX_BYTES = 16 * 2**30
_MAX_PICKLE_BYTES = 64 << 20  # of what is not the values of tensors
_MAX_ENTRIES = 100_000
_MAX_NODES, _MAX_DEPTH = 2_000_000, 100  # of the content, with shared parts written out
_SHARED_BYTES = 1 << 20  # that the tensors of a network may share: counters, for one
_MAX_LINE = 300
_ZIP = b"PK\x03\x04"
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_OLD_FORMAT = re.compile(rb"\x80[\x02-\x05](\x95.{8})?\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19\.", re.DOTALL)
_FORBIDDEN_OBJECT = re.compile(r"GLOBAL (\S+)")  # in torch.load's message, and in that of `scan`


def safe_load(path: str | Path) -> Any:
    """Reads tensors and plain types; refuses any other object without unpickling it.

    Raises:
        CheckpointError: the file is damaged or too large, or holds objects.
    """
    with open_checkpoint(path) as file:
        try:
            _check_format(file)
            file.seek(0)
            with warnings.catch_warnings(action="ignore", category=UserWarning):  # about unusual pickle protocols
                content = torch.load(file, map_location="cpu", weights_only=True)
            _check_content(content)
        except pickle.UnpicklingError as error:
            found = _FORBIDDEN_OBJECT.search(str(error))
            reason = (
                f"it holds {one_line(found[1])[:_MAX_LINE]}, and objects are never loaded"
                if found
                else "it was not written by torch.save"
            )
            raise CheckpointError(f"{path}: refused: {reason}; give a file with weights only") from error
        except Exception as error:  # damaged and foreign files raise nearly every type
            raise CheckpointError(f"{path}: not a checkpoint, or damaged: {first_line(error)}") from error
    return content


def open_checkpoint(path: str | Path) -> io.BufferedReader:
    """Opens a file of weights to be read.

    Raises:
        CheckpointError: missing, unreadable, not a regular file, or larger than any file of weights.
    """
    try:
        return io.BufferedReader(open_untrusted(path, max_bytes=_MAX_BYTES, what="checkpoint"))
    except DataError as error:
        remedy = "; give checkpoints/best.ckpt or model.safetensors of a run" if Path(path).is_dir() else ""
        raise CheckpointError(f"{error}{remedy}") from error


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where the message is empty."""
    return one_line((str(error).strip() or type(error).__name__).splitlines()[0][:_MAX_LINE])


def check_storage(state: dict[str, Tensor], *, name: str) -> None:
    """Raises CheckpointError if the tensors of a network share memory: a small file could then claim any size."""
    stored = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in state.values()}
    claimed = sum(value.numel() * value.element_size() for value in state.values())
    if claimed > sum(stored.values()) + _SHARED_BYTES:
        raise CheckpointError(
            f"{name}: its tensors have {claimed} bytes, of which {sum(stored.values())} are stored: they share memory; "
            "save copies of them (clone)"
        )


def _check_format(file: io.BufferedIOBase) -> None:
    """Checks either format of `torch.save` as far as it can be without unpickling."""
    start = file.read(64)
    file.seek(0)
    if start.startswith(_ZIP):
        with zipfile.ZipFile(file) as archive:
            _check_archive(archive, file)
    elif _OLD_FORMAT.match(start):
        _check_no_tar(file)
        for _ in range(5):  # magic number, version, system, content, keys of the storages
            scan(file)
    elif start[:1] == pickle.PROTO:
        raise pickle.UnpicklingError("no magic number")
    else:
        raise ValueError("give model.safetensors or a .ckpt of a run, an exported .onnx, or weights in a .pth")


def _check_archive(archive: zipfile.ZipFile, file: io.BufferedIOBase) -> None:
    """Checks that a zip archive is one that `torch.save` writes, and not damaged."""
    entries = archive.infolist()
    names = [entry.orig_filename for entry in entries]
    if len(entries) > _MAX_ENTRIES or archive.comment:
        raise ValueError(f"it has a comment, or more than {_MAX_ENTRIES} records")
    if len({name.casefold() for name in names}) < len(names):  # PyTorch finds a record by name, ignoring case
        raise ValueError("two of its records have the same name")
    for name in names:
        if name.startswith("/") or ".." in name.split("/") or "\\" in name or not name.isprintable():
            raise ValueError(f"its record {name[:_MAX_LINE]!r} has a name that torch.save never gives")
    if any(entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size for entry in entries):
        raise ValueError("it is compressed, and torch.save never compresses")
    _check_places(entries, file, end=archive.start_dir)
    if (damaged := archive.testzip()) is not None:  # torch.load does not notice flipped bits
        raise ValueError(f"wrong checksum of {damaged}; copy the file again")
    for entry in entries:
        if entry.filename.endswith("/byteorder") and archive.read(entry) != b"little":
            raise ValueError("it was written on a machine of another byte order; save it again on this one")
        if entry.filename.endswith(".pkl"):
            if entry.file_size > _MAX_PICKLE_BYTES:
                raise ValueError(f"{entry.filename} is larger than {_MAX_PICKLE_BYTES} bytes")
            scan(io.BytesIO(archive.read(entry)))


def _check_places(entries: list[zipfile.ZipInfo], file: io.BufferedIOBase, *, end: int) -> None:
    """Checks that the records lie one behind the other, and begin at the start of the file."""
    free = 0
    for number, entry in enumerate(sorted(entries, key=lambda entry: entry.header_offset)):
        if entry.header_offset < free or (number == 0 and entry.header_offset > 0):
            raise ValueError("its records overlap, or do not begin at the start of the file")
        file.seek(entry.header_offset)
        signature, name_length, extra_length = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
        if signature != _ZIP:
            raise ValueError(f"no record at byte {entry.header_offset}")
        free = entry.header_offset + _LOCAL_HEADER.size + name_length + extra_length + entry.compress_size
    if free > end:
        raise ValueError("its records reach into its directory")


def _check_no_tar(file: io.BufferedIOBase) -> None:
    """Refuses archives of the oldest format, which `torch.load` unpacks into a temporary folder."""
    try:
        tarfile.open(fileobj=file, mode="r:").close()
    except tarfile.TarError:
        file.seek(0)
    else:
        raise ValueError("it is a tar archive, of a version of PyTorch before 0.2; save it again with a later one")


def _check_content(content: Any) -> None:
    """Checks the size of what was read, its depth, and its tensors."""
    for item in walk(content, max_items=_MAX_NODES, max_depth=_MAX_DEPTH):
        if isinstance(item, Tensor):
            _check_tensor(item)


def walk(content: Any, *, max_items: int, max_depth: int) -> Iterator[Any]:
    """Yields a value and all values in it, keys included.

    Raises:
        ValueError: there are more than `max_items`, or they are nested deeper than `max_depth`.
    """
    todo, count = [(content, 0)], 0
    while todo:
        item, depth = todo.pop()
        count += 1
        if count > max_items or depth > max_depth:
            raise ValueError(f"its content is nested more than {max_depth} levels deep, or has too many items")
        yield item
        if isinstance(item, dict):
            todo += [(part, depth + 1) for pair in item.items() for part in pair]
        elif isinstance(item, list | tuple | set | frozenset):
            todo += [(part, depth + 1) for part in item]


def _check_tensor(tensor: Tensor) -> None:
    """Refuses tensors that are not dense CPU tensors, or have more elements than are stored."""
    if tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise ValueError("it holds a tensor that is sparse, quantized or without data")
    reach = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride < reach:
            raise ValueError(
                f"it holds a tensor of shape {list(tensor.shape)} with strides {list(tensor.stride())}, which repeats "
                "its elements; save a copy of it (clone)"
            )
        reach += (size - 1) * stride if size else 0
    last = (tensor.storage_offset() + reach) * tensor.element_size()
    if tensor.numel() and last > tensor.untyped_storage().nbytes():
        raise ValueError(f"it holds a tensor of shape {list(tensor.shape)} that is larger than its storage")
