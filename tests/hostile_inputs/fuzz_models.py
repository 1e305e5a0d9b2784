"""Mutations of a checkpoint, a release file, weights of another program and an exported file."""

from __future__ import annotations

import hashlib
import io
import random
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import torch

from hostile_inputs.cases_models import lightning, recipe, small_model
from hostile_inputs.fuzzing import Target, change_number, damage
from ssd.inference import onnx_file
from ssd.inference.onnx_predictor import OnnxPredictor
from ssd.model.postprocess import PostProcess
from ssd.weights import checkpoint, third_party


def _digest(name: str, values: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256(name.encode())
    for key in sorted(values):
        digest.update(key.encode() + values[key].contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _read_network(folder: Path) -> str:
    path = next(folder.glob("model.*"))
    model = checkpoint.load(path)
    return _digest(str(model.recipe()), model.state_dict())


def _make_checkpoint(folder: Path) -> list[Path]:
    torch.save(lightning(recipe()), folder / "model.ckpt")
    return [folder / "model.ckpt"]


def _make_release(folder: Path) -> list[Path]:
    checkpoint.save_release(small_model(), folder / "model.safetensors")
    return [folder / "model.safetensors"]


def mutate_archive(data: bytes, chance: random.Random) -> tuple[bytes, bool]:
    """Damage, or a file with right checksums whose pickle or records have been changed."""
    if chance.random() < 0.5:
        return damage(data, chance), True
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    pickled = next(name for name in entries if name.endswith("data.pkl"))
    name = pickled if chance.random() < 0.8 else chance.choice(list(entries))
    entries[name] = damage(entries[name], chance) if entries[name] else b"x"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return buffer.getvalue(), False


def _mutate_release(data: bytes, chance: random.Random) -> tuple[bytes, bool]:
    if chance.random() < 0.5:
        return damage(data, chance), True
    length = int.from_bytes(data[:8], "little")
    header = (change_number if chance.random() < 0.5 else damage)(data[8 : 8 + length], chance)
    return len(header).to_bytes(8, "little") + header + data[8 + length :], True


def _make_foreign(folder: Path) -> list[Path]:
    """The head of a network of another program: what it says is refused, but not before all of it is read."""
    state = {f"vgg.{number}.weight": torch.ones(4, 4, 3, 3) for number in (0, 2, 5)}
    torch.save(state | {"conf.0.bias": torch.zeros(84)}, folder / "model.pth")
    return [folder / "model.pth"]


def _read_foreign(folder: Path) -> str:
    path = folder / "model.pth"
    _, content = checkpoint.read_checkpoint(path)
    found = third_party.find_tensors(content, source=path)
    third_party.find_base_net(found)
    return _digest("", found)


def _make_onnx(folder: Path) -> list[Path]:
    (folder / "model.onnx").write_bytes(_exported())
    return [folder / "model.onnx"]


@cache
def _exported() -> bytes:
    from ssd.export.onnx_graph import to_onnx

    return onnx_file.seal(to_onnx(small_model(), PostProcess(topk_candidates=50)))


def _read_onnx(folder: Path) -> str:
    predictor = OnnxPredictor(folder / "model.onnx")
    (found,) = predictor([np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)])
    return _digest(str(predictor.class_names), {"b": found.boxes, "s": found.scores, "l": found.labels})


def _mutate_onnx(data: bytes, chance: random.Random) -> tuple[bytes, bool]:
    """Damage, or a file with the right checksum in which a node, a shape or a constant has been changed."""
    if chance.random() < 0.5:
        return damage(data, chance), True
    model = onnx.ModelProto.FromString(data)
    graph = model.graph
    node, other = chance.choice(graph.node), chance.choice(graph.node)
    tensor = chance.choice(graph.initializer)
    item = chance.choice([*graph.input, *graph.output])
    kind = chance.randrange(9)
    if kind == 0:
        node.op_type = other.op_type
    elif kind == 1 and node.input:
        node.input[chance.randrange(len(node.input))] = chance.choice(other.output)
    elif kind == 2 and tensor.dims:
        tensor.dims[chance.randrange(len(tensor.dims))] = chance.choice((0, -1, 1, 3, 2**31, 2**62))
    elif kind == 3 and tensor.raw_data:
        tensor.raw_data = damage(tensor.raw_data, chance)
    elif kind == 4 and node.attribute:
        attribute = chance.choice(node.attribute)
        attribute.i = chance.choice((0, -1, 7, 2**40, 2**62))
        attribute.ints[:] = [chance.choice((0, -1, 1, 2**20)) for _ in attribute.ints]
    elif kind == 5:
        graph.node.remove(node)
    elif kind == 6:
        graph.node.append(other)
    elif kind == 7 and item.type.tensor_type.shape.dim:
        chance.choice(item.type.tensor_type.shape.dim).dim_value = chance.choice((0, -1, 1, 7, 2**40))
    elif kind == 8:
        entry = chance.choice(model.metadata_props)
        entry.value = change_number(entry.value.encode(), chance).decode(errors="replace")
    return onnx_file.seal(model), False


def _mutate_old_format(data: bytes, chance: random.Random) -> tuple[bytes, bool]:
    """The format before PyTorch 1.6 has no checksum: damage to its numbers is not noticed."""
    return damage(data, chance), False


def _make_old_format(folder: Path) -> list[Path]:
    torch.save(lightning(recipe()), folder / "model.ckpt", _use_new_zipfile_serialization=False)
    return [folder / "model.ckpt"]


TARGETS = {
    "checkpoint": Target(_make_checkpoint, _read_network, mutate_archive),
    "checkpoint in the old format": Target(_make_old_format, _read_network, _mutate_old_format),
    "release file": Target(_make_release, _read_network, _mutate_release),
    "weights of another program": Target(_make_foreign, _read_foreign, mutate_archive),
    "exported file": Target(_make_onnx, _read_onnx, _mutate_onnx),
}
