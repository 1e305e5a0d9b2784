"""Small files that claim much: refused within a second, without the memory that they claim."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile import Payload, archive_entries, safetensors_file, zip_file
from safetensors.torch import save

from ssd.common.errors import CheckpointError
from ssd.model.backbones import MobileNetV1
from ssd.model.priors import PriorSpec
from ssd.model.ssd import SSD, build_outline
from ssd.weights import checkpoint
from ssd.weights.pickle_scan import scan
from ssd.weights.safe_load import safe_load


@pytest.fixture
def model(mobilenet_v1: PriorSpec) -> SSD:
    return SSD(MobileNetV1(width_multiplier=0.1), mobilenet_v1, class_names=["cat", "dog"], image_size=96)


def lightning(recipe: Any, state: dict[str, Any]) -> dict[str, Any]:
    return {"recipe": recipe, "state_dict": {f"model.{key}": value for key, value in state.items()}}


def refused(path: Path, content: Any, message: str) -> None:
    if not isinstance(content, bytes):
        torch.save(content, path)
    else:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as error:
        checkpoint.load(path)
    assert str(error.value).startswith(str(path))
    assert len(str(error.value)) < 1000
    assert str(error.value).isprintable()


def _wide(recipe: dict[str, Any]) -> dict[str, Any]:
    recipe["backbone"]["arguments"]["width_multiplier"] = 40.0
    return recipe


def test_a_wide_network_of_stride_0_is_refused(model: SSD, tmp_path: Path) -> None:
    recipe = _wide(model.recipe())
    outline = build_outline(recipe).state_dict()
    views = {key: torch.zeros(()).expand(value.shape) for key, value in outline.items()}
    refused(tmp_path / "a.ckpt", lightning(recipe, views), "repeats its elements")


def test_a_wide_network_whose_tensors_share_their_storage_is_refused(model: SSD, tmp_path: Path) -> None:
    recipe = model.recipe() | {"image_size": 96}
    recipe["backbone"]["arguments"]["width_multiplier"] = 2.0
    outline = build_outline(recipe).state_dict()
    shared = torch.zeros(max(value.numel() for value in outline.values()))
    views = {key: shared[: value.numel()].view(value.shape) for key, value in outline.items()}
    refused(tmp_path / "a.ckpt", lightning(recipe, views), "they share memory")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width_multiplier": 40.0}, "has shape"),
        ({"width_multiplier": 1e6}, "recipe|has shape"),
        ({"width_multiplier": float("nan")}, "not finite"),
        ({"mean": [0.0, float("nan"), 0.0]}, "not finite"),
        ({"std": [1.0, float("inf"), 1.0]}, "not finite"),
        ({"mean": [0.0] * 4}, "three values"),
    ],
)
def test_the_backbone_of_a_recipe_is_bounded(model: SSD, tmp_path: Path, change: Any, message: str) -> None:
    recipe = model.recipe()
    recipe["backbone"]["arguments"] |= change
    refused(tmp_path / "a.ckpt", lightning(recipe, model.state_dict()), message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"aspect_ratios": [[2.0] * 10_000] * 6}, "too large"),
        ({"aspect_ratios": [[2.0] * 1000] * 6}, "has shape"),
        ({"scales": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, float("nan")]}, "not finite"),
        ({"steps_px": {96: [float("inf")] * 6}}, "not finite"),
        ({"steps_px": {10**30: [1.0] * 6}}, "not finite, or above"),
    ],
)
def test_the_priors_of_a_recipe_are_bounded(model: SSD, tmp_path: Path, change: Any, message: str) -> None:
    recipe = model.recipe()
    refused(tmp_path / "a.ckpt", lightning(recipe | {"priors": recipe["priors"] | change}, model.state_dict()), message)


def test_the_number_of_priors_is_bounded(model: SSD, tmp_path: Path) -> None:
    recipe = model.recipe()
    recipe |= {"image_size": 4096, "priors": recipe["priors"] | {"aspect_ratios": [[2.0] * 100] * 6}}
    refused(tmp_path / "a.ckpt", lightning(recipe, model.state_dict()), "image_size=4096 .* gives 17.* priors")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([f"class {number}" for number in range(60_000)], "too large"),
        ([f"class {number}" for number in range(20_000)], "20000 classes"),
        (["x" * 100_000, "dog"], "text of 100000 characters"),
        (["cat\x1b[2J", "dog"], r"cat\\x1b\[2J"),
        (["cat\ndog", "dog"], r"cat\\ndog"),
        (["\ud800", "dog"], r"\\ud800"),
        (["cat", "cat"], "twice"),
        (["", "dog"], "from 1 to 256"),
        ([], "list of texts"),
        ({"cat": 1}, "list of texts"),
    ],
    ids=["too many", "many", "long", "escape", "lines", "surrogate", "twice", "empty", "none", "table"],
)
def test_class_names_are_bounded(model: SSD, tmp_path: Path, names: Any, message: str) -> None:
    refused(tmp_path / "a.ckpt", lightning(model.recipe() | {"class_names": names}, model.state_dict()), message)


def _bomb(depth: int, kind: Callable[[Any], Any]) -> Any:
    item: Any = kind(["x", "x"])
    for _ in range(depth):
        item = kind([item, item])
    return item


def test_shared_parts_are_counted_as_often_as_they_are_there(tmp_path: Path, model: SSD) -> None:
    refused(tmp_path / "a.ckpt", lightning(_bomb(60, list), {}), "too many items")
    refused(tmp_path / "b.ckpt", lightning(_bomb(60, tuple), {}), "nested tuples")
    recipe = model.recipe() | {"class_names": _bomb(14, list)}
    refused(tmp_path / "c.ckpt", lightning(recipe, model.state_dict()), "class_names|recipe")


def test_a_key_that_takes_for_ever_to_hash_is_refused(tmp_path: Path) -> None:
    chain = b"K\x01" + b"2\x86" * 60  # DUP, TUPLE2
    with pytest.raises(ValueError, match="nested tuples"):
        scan(io.BytesIO(b"\x80\x02}" + chain + b"Nsa."))


def test_deep_nesting_is_refused(tmp_path: Path) -> None:
    entries = archive_entries({"a": 1})
    deep = b"\x80\x02" + b"]" * 20_000 + b"a" * 19_999 + b"."
    zip_file(tmp_path / "a.ckpt", entries | {"archive/data.pkl": deep})
    refused(tmp_path / "a.ckpt", (tmp_path / "a.ckpt").read_bytes(), "levels deep")


@pytest.mark.parametrize(
    "payload",
    [(bytearray, (2**40,)), (torch.FloatStorage, (2**40,)), (torch.FloatTensor, (2**40,)), (complex, (1, 2))],
    ids=["bytearray", "storage", "tensor", "complex"],
)
def test_functions_that_allocate_are_never_called(tmp_path: Path, payload: Any) -> None:
    entries = archive_entries({"a": 1})
    zip_file(tmp_path / "a.ckpt", entries | {"archive/data.pkl": pickle.dumps(Payload(payload), protocol=2)})
    refused(tmp_path / "a.ckpt", (tmp_path / "a.ckpt").read_bytes(), "objects are never loaded")


@pytest.mark.filterwarnings("ignore:TypedStorage:UserWarning")
@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [((4, 4), (0, 0), 0), ((4, 4), (1, 1), 0), ((2**20, 2**20), (0, 0), 0), ((4,), (1,), 6), ((2**40,), (1,), 0)],
)
def test_a_tensor_larger_than_its_storage_is_refused(tmp_path: Path, size: Any, stride: Any, offset: int) -> None:
    arguments = (torch.ones(8).storage(), offset, size, stride, False, {})
    content = {"a": Payload((torch._utils._rebuild_tensor_v2, arguments))}
    refused(tmp_path / "a.pth", content, "repeats its elements|larger than its storage|resize storage")


def test_views_of_a_storage_are_read(tmp_path: Path) -> None:
    whole = torch.arange(24.0).view(2, 3, 4)
    content = {"part": whole[:, 1:, ::2], "turned": whole.permute(2, 0, 1), "empty": whole[:0], "one": whole[0, 0, 0]}
    torch.save(content, tmp_path / "a.pth")
    read = safe_load(tmp_path / "a.pth")
    assert all(torch.equal(read[key], value) for key, value in content.items())


def _archive(changes: dict[str, bytes]) -> dict[str, bytes]:
    return archive_entries({"state_dict": {"model.a": torch.ones(8)}, "recipe": {"version": 1}}) | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"archive/byteorder": b"big"}, "byte order"),
        ({"archive/DATA.PKL": b"x"}, "same name"),
        ({"../x": b"x"}, "name that torch.save never gives"),
        ({"/etc/x": b"x"}, "name that torch.save never gives"),
        ({"archive\\..\\x": b"x"}, "name that torch.save never gives"),
        ({"archive/\x1b[2J": b"x"}, r"\\x1b\[2J"),
        ({"archive/data/0": b"x"}, "not a checkpoint, or damaged"),
    ],
)
def test_records_that_torch_never_writes_are_refused(tmp_path: Path, changes: dict[str, bytes], message: str) -> None:
    zip_file(tmp_path / "a.ckpt", _archive(changes))
    refused(tmp_path / "a.ckpt", (tmp_path / "a.ckpt").read_bytes(), message)


def test_records_twice_are_refused(tmp_path: Path) -> None:
    zip_file(tmp_path / "a.ckpt", _archive({}))
    with zipfile.ZipFile(tmp_path / "a.ckpt", "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("archive/data/0", bytes(32))
    refused(tmp_path / "a.ckpt", (tmp_path / "a.ckpt").read_bytes(), "same name")


def test_records_that_overlap_are_refused(tmp_path: Path) -> None:
    zip_file(tmp_path / "a.ckpt", _archive({"archive/data/1": bytes(32), "archive/data/2": bytes(32)}))
    data = bytearray((tmp_path / "a.ckpt").read_bytes())
    with zipfile.ZipFile(tmp_path / "a.ckpt") as archive:
        offset = archive.getinfo("archive/data/1").header_offset
    entry = data.rindex(b"archive/data/2")  # in the directory, 46 bytes behind the beginning of its entry
    data[entry - 4 : entry] = struct.pack("<I", offset)
    refused(tmp_path / "a.ckpt", bytes(data), "overlap")


def test_a_zip_archive_behind_other_bytes_is_refused(tmp_path: Path) -> None:
    zip_file(tmp_path / "a.ckpt", _archive({}))
    data = (tmp_path / "a.ckpt").read_bytes()
    refused(tmp_path / "b.ckpt", b"PK\x03\x04 front" + data, "start of the file|damaged")
    refused(tmp_path / "c.ckpt", data[:-2] + b"\x04\x00" + b"note", "comment")


_TENSOR = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{}}', "'a' is twice"),
        (b'{"__metadata__":{"recipe":"1","recipe":"2"}}', "'recipe' is twice"),
        (b'{"__metadata__":[1]}', "not a table of tensors"),
        (b'{"__metadata__":{"recipe":1}}', "not a table of tensors"),
        (b"[1]", "not a table of tensors"),
        (b'{"a":' * 50_000, "deeply|not JSON"),
        (json.dumps({"a": _TENSOR, "b": _TENSOR}).encode(), "damaged"),
    ],
)
def test_headers_of_safetensors_are_checked(tmp_path: Path, header: bytes, message: str) -> None:
    refused(tmp_path / "a.safetensors", safetensors_file(header, bytes(4)), message)


def test_the_length_of_a_header_is_bounded(tmp_path: Path) -> None:
    refused(tmp_path / "a.safetensors", safetensors_file(b"{}", length=90 << 20), "a header of")
    recipe = '{"version": 1, "version": 1}'
    refused(tmp_path / "b.safetensors", save({"a": torch.zeros(1)}, metadata={"recipe": recipe}), "'version' is twice")


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors", ".pth"])
def test_only_regular_files_are_read(tmp_path: Path, suffix: str) -> None:
    os.mkfifo(tmp_path / f"a{suffix}")
    for path, kind in ((tmp_path / f"a{suffix}", "a FIFO"), (tmp_path, "a folder")):
        with pytest.raises(CheckpointError, match=kind):
            checkpoint.load(path)
    (tmp_path / f"b{suffix}").symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match="a device"):
        checkpoint.load(tmp_path / f"b{suffix}")
