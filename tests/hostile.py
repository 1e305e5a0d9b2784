"""Files that want to run code, write somewhere, or fill the memory when they are loaded as checkpoints."""

from __future__ import annotations

import builtins
import functools
import importlib
import io
import json
import operator
import os
import pickle
import runpy
import shutil
import struct
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from ssd.model.backbones import BACKBONES
from ssd.model.priors import PriorSpec
from ssd.model.ssd import SSD

Call = tuple[Callable[..., Any], tuple[Any, ...]]


class Payload:
    """Pickles as a call, which unpickling would make."""

    def __init__(self, call: Call) -> None:
        self.call = call

    def __reduce__(self) -> Call:
        return self.call


def calls(canary: Path) -> dict[str, Call]:
    """Each would leave something at `canary`."""
    text, code = str(canary), f"open({str(canary)!r}, 'w').close()"
    return {
        "os.mkdir": (os.mkdir, (text,)),
        "os.system": (os.system, (f"touch {text}",)),
        "os.popen": (os.popen, (f"touch {text}",)),
        "os.execl": (os.execl, ("/bin/touch", "touch", text)),
        "os.posix_spawn": (os.posix_spawn, ("/bin/touch", ["touch", text], {})),
        "subprocess.call": (subprocess.call, (["touch", text],)),
        "subprocess.Popen": (subprocess.Popen, (["touch", text],)),
        "eval": (builtins.eval, (code,)),
        "exec": (builtins.exec, (code,)),
        "open": (builtins.open, (text, "w")),
        "compile": (builtins.exec, (code, {})),
        "import_module": (importlib.import_module, ("antigravity",)),
        "runpy": (runpy.run_path, (text,)),
        "shutil.copy": (shutil.copy, ("/etc/hostname", text)),
        "partial": (functools.partial(os.mkdir, text), ()),
        "methodcaller": (operator.methodcaller("mkdir"), (canary,)),
        "attrgetter": (operator.attrgetter("mkdir"), (canary,)),
        "getattr": (getattr, (canary, "touch")),
        "numpy.save": (np.save, (text, 1)),
        "torch.save": (torch.save, (1, text)),
        "torch.load": (torch.load, (text,)),
        "torch.hub.load": (torch.hub.load, (text, "model")),
        "torch.jit.load": (torch.jit.load, (text,)),
        "pickle.loads": (pickle.loads, (pickle.dumps(Payload((os.mkdir, (text,)))),)),
        "setattr": (setattr, (torch.Tensor, "canary", text)),
        "map": (map, (os.mkdir, [text])),
    }


def zip_file(path: Path, entries: dict[str, bytes], *, compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)


def archive_entries(content: Any) -> dict[str, bytes]:
    """What is in the file that `torch.save` writes."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with zipfile.ZipFile(buffer) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def safetensors_file(header: bytes, data: bytes = b"", *, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def write_all(folder: Path, canary: Path) -> Iterator[Path]:
    """Writes them one by one."""
    payloads = {name: Payload(call) for name, call in calls(canary).items()}
    for name, payload in payloads.items():
        torch.save({"state_dict": {}, "recipe": payload}, folder / f"zip {name}.ckpt")
        yield folder / f"zip {name}.ckpt"
    mkdir = payloads["os.mkdir"]
    for protocol in range(6):
        path = folder / f"pickle protocol {protocol}.pth"
        path.write_bytes(pickle.dumps({"state_dict": {"a": mkdir}}, protocol=protocol))
        yield path
    torch.save({"a": mkdir}, folder / "old format.pth", _use_new_zipfile_serialization=False)
    yield folder / "old format.pth"
    for write in (_archives, _bombs, _safetensors, _misshapen):
        yield from write(folder, canary)


def _archives(folder: Path, canary: Path) -> Iterator[Path]:
    evil = pickle.dumps(Payload((os.mkdir, (str(canary),))))
    entries = archive_entries({"state_dict": {}, "recipe": None})
    variants = {
        "second pickle": entries | {"archive/constants.pkl": evil},
        "only pickle": {"archive/data.pkl": evil, "archive/version": b"3\n"},
        "code folder": entries | {"archive/code/__torch__.py": b"import os"},
        "slip": entries | {f"../../../../..{canary}": b"x"},
        "absolute": entries | {str(canary): b"x"},
    }
    for name, content in variants.items():
        zip_file(folder / f"{name}.ckpt", content)
        yield folder / f"{name}.ckpt"
    script = torch.jit.trace(torch.nn.Linear(1, 1), torch.ones(1, 1))
    torch.jit.save(script, str(folder / "torchscript.ckpt"))
    yield folder / "torchscript.ckpt"
    with tarfile.open(folder / "tar.ckpt", "w") as archive:
        information = tarfile.TarInfo(f"../../..{canary}")
        information.size = 1
        archive.addfile(information, io.BytesIO(b"x"))
    yield folder / "tar.ckpt"
    (folder / "yaml.ckpt").write_text(f"!!python/object/apply:os.mkdir ['{canary}']\n")
    yield folder / "yaml.ckpt"


def _bombs(folder: Path, canary: Path) -> Iterator[Path]:
    entries = archive_entries({"state_dict": {"model.a": torch.zeros(8)}, "recipe": None})
    zip_file(folder / "bomb.ckpt", entries | {"archive/data/9": bytes(2**26)}, compression=zipfile.ZIP_DEFLATED)
    yield folder / "bomb.ckpt"
    data = next(name for name in entries if name.endswith("data.pkl"))
    huge = entries | {data: entries[data].replace(b"K\x08", b"\x8a\x08" + struct.pack("<q", 2**40))}
    zip_file(folder / "storage larger than its data.ckpt", huge)
    yield folder / "storage larger than its data.ckpt"
    wide = torch.zeros(1).expand(2**20, 2**20)
    torch.save({"state_dict": {"model.a": wide}, "recipe": {"version": 1}}, folder / "expanded view.ckpt")
    yield folder / "expanded view.ckpt"
    nested: Any = "deep"
    for _ in range(400):
        nested = [nested]
    torch.save({"state_dict": {}, "recipe": nested}, folder / "nested.ckpt")
    yield folder / "nested.ckpt"


def _safetensors(folder: Path, canary: Path) -> Iterator[Path]:
    recipe = {"version": 1, "backbone": {"name": "MobileNetV1", "arguments": {}}, "image_size": 300}
    hostile = {
        "imports": recipe | {"backbone": {"name": "os.mkdir", "arguments": {"path": str(canary)}}},
        "target": recipe | {"_target_": "os.mkdir", "priors": {"_target_": "os.mkdir"}},
        "huge image": recipe | {"image_size": 10**9, "class_names": ["a"]},
        "wide network": recipe | {"backbone": {"name": "MobileNetV1", "arguments": {"width_multiplier": 1e6}}},
        "dunder": recipe | {"backbone": {"name": "__class__", "arguments": {}}},
    }
    for name, content in hostile.items():
        path = folder / f"{name}.safetensors"
        path.write_bytes(save({"a": torch.zeros(1)}, metadata={"recipe": json.dumps(content)}))
        yield path
    tensor = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    headers = {
        "long header": safetensors_file(b"{}", length=2**62),
        "negative": safetensors_file(json.dumps({"a": tensor | {"data_offsets": [-4, 0]}}).encode(), bytes(4)),
        "outside": safetensors_file(json.dumps({"a": tensor | {"data_offsets": [0, 2**40]}}).encode(), bytes(4)),
        "huge shape": safetensors_file(json.dumps({"a": tensor | {"shape": [2**62, 2**62]}}).encode(), bytes(4)),
        "deep": safetensors_file(b"[" * 100_000),
        "deep recipe": save({"a": torch.zeros(1)}, metadata={"recipe": "[" * 100_000}),
    }
    for name, data in headers.items():
        (folder / f"{name}.safetensors").write_bytes(data)
        yield folder / f"{name}.safetensors"


def _misshapen(folder: Path, canary: Path) -> Iterator[Path]:
    """Our own layout, with one thing that no network has."""
    torch.manual_seed(0)
    specification = PriorSpec(aspect_ratios=((2,),) * 6, scales=(0.2, 0.34, 0.48, 0.62, 0.76, 0.9, 1.0), clip="sizes")
    backbone = BACKBONES["mobilenet_v1"](width_multiplier=0.1, mean=[127.5] * 3, std=[127.5] * 3)
    model = SSD(backbone, specification, class_names=["cat", "dog"], image_size=96)
    recipe = model.recipe()
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    bias = "model.classification_heads.0.bias"
    values = {
        "text": "1.0",
        "nothing": None,
        "a list": [0.0],
        "sparse": state[bias].to_sparse(),
        "quantized": torch.quantize_per_tensor(state[bias], 0.1, 0, torch.qint8),
        "meta": state[bias].to("meta"),
        "complex": state[bias].to(torch.complex64),
        "int8": state[bias].to(torch.int8),
        "bool": state[bias].to(torch.bool),
        "float8": state[bias].to(torch.float8_e4m3fn),
        "NaN": state[bias] * float("nan"),
        "other shape": state[bias][:-1],
    }
    content = {name: {"state_dict": state | {bias: value}, "recipe": recipe} for name, value in values.items()}
    content["no weights"] = {"state_dict": {}, "recipe": recipe}
    arguments = recipe["backbone"]["arguments"]
    for name, change in {
        "endless width": {"width_multiplier": float("inf")},
        "no width": {"width_multiplier": 0.0},
        "two means": {"mean": [0.5, 0.5]},
        "text for a mean": {"mean": "abc"},
        "division by zero": {"std": [0.0, 0.0, 0.0]},
    }.items():
        other = recipe | {"backbone": recipe["backbone"] | {"arguments": arguments | change}}
        content[name] = {"state_dict": state, "recipe": other}
    for name, change in {
        "same class twice": {"class_names": ["cat", "cat"]},
        "newer": {"version": 2},
        "text for a size": {"image_size": "96"},
        "no priors": {"priors": None},
        "endless scale": {"priors": recipe["priors"] | {"scales": [float("inf")] * 7}},
        "other scales": {"priors": recipe["priors"] | {"scales": ["a"] * 7}},
    }.items():
        content[name] = {"state_dict": state, "recipe": recipe | change}
    for name, value in content.items():
        torch.save(value, folder / f"misshapen, {name}.ckpt")
        yield folder / f"misshapen, {name}.ckpt"
