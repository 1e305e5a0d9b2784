"""Weights and exported files that do harm, or mean to."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import onnx_graphs
import torch
from hostile import Payload, archive_entries, safetensors_file, zip_file
from safetensors.torch import save

from hostile_inputs.cases_images import image
from hostile_inputs.harness import HostileCase
from ssd.model.backbones import MobileNetV1
from ssd.model.ssd import SSD, build_outline
from ssd.weights.checkpoint import save_release

Content = bytes | Callable[[Path], object]


@cache
def small_model() -> SSD:
    """A trained-looking detector of two classes; nothing of it may be changed."""
    torch.manual_seed(0)
    backbone = MobileNetV1(width_multiplier=0.05)
    return SSD(backbone, backbone.default_priors, class_names=["cat", "dog"], image_size=96).eval()


def recipe(**changes: Any) -> dict[str, Any]:
    return small_model().recipe() | changes


def lightning(recipe: Any, state: dict[str, Any] | None = None) -> dict[str, Any]:
    """The content of a `.ckpt`."""
    state = small_model().state_dict() if state is None else state
    return {"recipe": recipe, "state_dict": {f"model.{key}": value for key, value in state.items()}}


def predict(name: str, content: Content | Callable[[], Any]) -> Callable[[Path], list[str]]:
    """`ssd predict` with that file as its checkpoint; `content` is written, or writes itself to a path."""

    def make(folder: Path) -> list[str]:
        (folder / "in").mkdir()
        (folder / "in" / "a.jpg").write_bytes(image("JPEG"))
        path = folder / name
        path.write_bytes(content) if isinstance(content, bytes) else content(path)
        return ["predict", f"checkpoint={name}", "source=in", "output=out", "device=cpu"]

    return make


def saved(make: Callable[[], Any]) -> Callable[[Path], object]:
    return lambda path: torch.save(make(), path)


def _backbone(**changes: Any) -> dict[str, Any]:
    own = recipe()
    return own | {"backbone": own["backbone"] | {"arguments": own["backbone"]["arguments"] | changes}}


def _priors(**changes: Any) -> dict[str, Any]:
    return recipe(priors=recipe()["priors"] | changes)


def _wide() -> dict[str, Any]:
    """Claims 36 GB."""
    wide = _backbone(width_multiplier=40.0)
    views = {key: torch.zeros(()).expand(value.shape) for key, value in build_outline(wide).state_dict().items()}
    return lightning(wide, views)


def _shared() -> dict[str, Any]:
    wide = _backbone(width_multiplier=8.0)
    shapes = {key: value.shape for key, value in build_outline(wide).state_dict().items()}
    shared = torch.zeros(max(shape.numel() for shape in shapes.values()))
    return lightning(wide, {key: shared[: shape.numel()].view(shape) for key, shape in shapes.items()})


def _many_ratios() -> dict[str, Any]:
    """Ratios and image size of 500 million priors, whose heads fit the file."""
    own = recipe(image_size=4096, priors=recipe()["priors"] | {"aspect_ratios": [[2.0] * 1000] * 6})
    return lightning(own)


def _shared_list(depth: int, kind: Callable[[Any], Any]) -> Any:
    item: Any = kind(["x", "x"])
    for _ in range(depth):
        item = kind([item, item])
    return item


def _records(**changes: bytes) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        names = {key.replace("__", "/"): value for key, value in changes.items()}
        zip_file(path, archive_entries(lightning(recipe())) | {f"archive/{key}": data for key, data in names.items()})

    return write


def _named_record(name: str) -> Callable[[Path], object]:
    return lambda path: zip_file(path, archive_entries(lightning(recipe())) | {name: b"x"})


def _record_twice(path: Path) -> None:
    _records()(path)
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/data/0", bytes(32))


def _overlapping(path: Path) -> None:
    _records()(path)
    with zipfile.ZipFile(path) as archive:
        offset = archive.getinfo("archive/data/1").header_offset
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"archive/data/2")
    data[entry - 4 : entry] = struct.pack("<I", offset)
    path.write_bytes(data)


def _compressed(path: Path) -> None:
    zip_file(path, archive_entries(lightning(recipe())), compression=zipfile.ZIP_DEFLATED)


def _pickled(data: bytes) -> Callable[[Path], object]:
    return lambda path: zip_file(path, archive_entries({"a": 1}) | {"archive/data.pkl": data})


def _called(function: Any, *arguments: Any) -> Callable[[Path], object]:
    return _pickled(pickle.dumps({"state_dict": {}, "recipe": Payload((function, arguments))}, protocol=2))


def _release(change: Callable[[dict[str, str]], Any] = lambda metadata: metadata) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        save_release(small_model(), path)
        header_length = int.from_bytes(path.read_bytes()[:8], "little")
        metadata = json.loads(path.read_bytes()[8 : 8 + header_length])["__metadata__"]
        path.write_bytes(save(small_model().state_dict(), metadata=change(metadata)))

    return write


def _header(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    return safetensors_file(header, data, length=length)


def _old_format(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def _foreign(path: Path) -> None:
    """A detector of VGG16 in the names of another program, of stride 0."""
    from third_party_reference import AMDEGROOT, shapes

    torch.save({key: torch.zeros(()).expand(shape) for key, shape in shapes(AMDEGROOT, outputs=21)}, path)


def _onnx(make: Callable[[], Any]) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(make().SerializeToString())


def _outputs(values: dict[str, Any]) -> Callable[[], Any]:
    return lambda: onnx_graphs.constant(**values)


_DEEP = b"\x80\x02" + b"]" * 300_000 + b"a" * 299_999 + b"."
_TENSOR = b'{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
_CKPT: dict[str, tuple[Content | Callable[[Any], Any], str]] = {
    "a .ckpt of 36 GB with strides of 0": (saved(_wide), "repeats"),
    "a .ckpt whose tensors share one storage": (saved(_shared), "share memory"),
    "a recipe of width 40 and small weights": (saved(lambda: lightning(_backbone(width_multiplier=40.0))), "shape"),
    "a recipe of infinite width": (saved(lambda: lightning(_backbone(width_multiplier=float("inf")))), "finite"),
    "a recipe of 500 million priors": (saved(_many_ratios), "priors"),
    "a recipe of 60,000 ratios": (saved(lambda: lightning(_priors(aspect_ratios=[[2.0] * 10_000] * 6))), "recipe"),
    "a recipe of a million classes": (
        saved(lambda: lightning(recipe(class_names=[str(number) for number in range(1_000_000)]))),
        "operations",
    ),
    "a recipe of 20,000 classes": (
        saved(lambda: lightning(recipe(class_names=[str(number) for number in range(20_000)]))),
        "20000 classes",
    ),
    "a recipe with a class name of 10 MB": (saved(lambda: lightning(recipe(class_names=["x" * 10**7]))), "text of"),
    "a recipe with ESC in a class name": (saved(lambda: lightning(recipe(class_names=["a\x1b[2J", "b"]))), r"\x1b"),
    "a recipe with a lone surrogate": (saved(lambda: lightning(recipe(class_names=["\ud800", "b"]))), r"\ud800"),
    "a recipe of an image of 10^9 pixels": (saved(lambda: lightning(recipe(image_size=10**9))), "recipe"),
    "a recipe with a mean of NaN": (saved(lambda: lightning(_backbone(mean=[float("nan")] * 3))), "finite"),
    "a recipe with a std of infinity": (saved(lambda: lightning(_backbone(std=[float("inf")] * 3))), "finite"),
    "a recipe with scales of NaN": (saved(lambda: lightning(_priors(scales=[float("nan")] * 7))), "finite"),
    "a recipe with lists in lists 60 times": (saved(lambda: lightning(_shared_list(60, list), {})), "too many items"),
    "a recipe with tuples in tuples 60 times": (saved(lambda: lightning(_shared_list(60, tuple), {})), "tuples"),
    "a recipe that is a tensor": (saved(lambda: lightning(torch.ones(3))), "recipe"),
    "a pickle nested 300,000 levels": (_pickled(_DEEP), "levels deep"),
    "a pickle with a key that takes for ever to hash": (
        _pickled(b"\x80\x02}K\x01" + b"2\x86" * 60 + b"Nsa."),
        "tuples",
    ),
    "a pickle of bytearray(2^40)": (_called(bytearray, 2**40), "bytearray"),
    "a pickle of FloatStorage(2^40)": (_called(torch.FloatStorage, 2**40), "FloatStorage"),
    "a pickle of os.system": (_called(os.system, "touch ../outside/pwned"), "system"),
    "a pickle of 2 million operations": (_pickled(b"\x80\x02" + b"N0" * 1_000_000 + b"N."), "operations"),
    "a pickle without an end": (_pickled(b"\x80\x02]" + b"(" * 1000), "damaged"),
    "a .ckpt of the other byte order": (_records(byteorder=b"big"), "byte order"),
    "a .ckpt with a record twice": (_record_twice, "same name"),
    "a .ckpt with a record twice but for case": (_named_record("archive/DATA.pkl"), "same name"),
    "a .ckpt whose records overlap": (_overlapping, "overlap"),
    "a .ckpt with a record ../../outside/x": (_named_record("../../outside/x"), "name"),
    "a .ckpt with a record of an absolute name": (_named_record("/etc/x"), "name"),
    "a .ckpt with ESC in the name of a record": (_named_record("archive/\x1b[2J"), "name"),
    "a compressed .ckpt": (_compressed, "compressed"),
    "a .ckpt behind other bytes": (lambda path: path.write_bytes(b"PK\x03\x04" + _old_format({"a": 1})), "damaged"),
    "a FIFO as a .ckpt": (os.mkfifo, "a FIFO"),
    "/dev/zero as a .ckpt": (lambda path: path.symlink_to("/dev/zero"), "a device"),
    "a folder as a .ckpt": (Path.mkdir, "a folder"),
    "20 GiB of nothing as a .ckpt": (lambda path: os.truncate(path, 20 << 30) if path.touch() is None else 0, "larger"),
}
_RELEASE: dict[str, tuple[Content | Callable[[Any], Any], str]] = {
    "a header of 2^62 bytes": (_header(b"{}", length=2**62), "header of"),
    "a header of 90 MB": (_header(b"{}", length=90 << 20), "header of"),
    "a header nested 100,000 levels": (_header(b"[" * 100_000), "deeply"),
    "a header with a tensor twice": (_header(b'{"a":' + _TENSOR + b',"a":' + _TENSOR + b"}", bytes(4)), "twice"),
    "a header with overlapping tensors": (_header(b'{"a":' + _TENSOR + b',"b":' + _TENSOR + b"}", bytes(4)), "damaged"),
    "a header with recipe twice": (_header(b'{"__metadata__":{"recipe":"1","recipe":"2"}}'), "twice"),
    "a header that is a list": (_header(b"[1]"), "table of tensors"),
    "a recipe with a key twice": (
        _release(lambda metadata: {"recipe": metadata["recipe"][:-1] + ', "version": 1}'}),
        "twice",
    ),
    "a release file with another recipe": (
        _release(lambda metadata: metadata | {"recipe": metadata["recipe"].replace("cat", "cow")}),
        "does not match",
    ),
    "a FIFO as a release file": (os.mkfifo, "a FIFO"),
}
_PTH: dict[str, tuple[Content | Callable[[Any], Any], str]] = {
    "a foreign .pth of stride 0": (_foreign, "repeats"),
    "an old .pth of os.system": (_old_format({"a": Payload((os.system, ("touch ../outside/pwned",)))}), "system"),
    "an old .pth of bytearray(2^40)": (_old_format({"a": Payload((bytearray, (2**40,)))}), "bytearray"),
    "a key of 10 MB in a .pth": (saved(lambda: {"x" * 10**7: torch.zeros(1)}), "name"),
    "a key with ESC in a .pth": (saved(lambda: {"conf\x1b[2J": torch.zeros(1)}), "name"),
    "a FIFO as a .pth": (os.mkfifo, "a FIFO"),
}


def _cases(suffix: str, inputs: dict[str, tuple[Any, str]]) -> list[HostileCase]:
    return [
        HostileCase(name, predict(f"model{suffix}", content), text=text) for name, (content, text) in inputs.items()
    ]


CASES = [
    *_cases(".ckpt", _CKPT),
    *_cases(".safetensors", _RELEASE),
    *_cases(".pth", _PTH),
    *_cases(".onnx", {f"ONNX: {name}": (_onnx(make), text) for name, (make, text) in onnx_graphs.REFUSED.items()}),
    *_cases(
        ".onnx",
        {
            f"ONNX: {name}": (_onnx(_outputs(values)), "model.onnx")
            for name, (values, _) in onnx_graphs.WRONG_OUTPUTS.items()
        },
    ),
    *_cases(".onnx", {"a FIFO as an .onnx": (os.mkfifo, "a FIFO"), "an empty .onnx": (b"", "recipe")}),
]
