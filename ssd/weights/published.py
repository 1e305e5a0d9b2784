"""Published weights by name: where they are, how they are verified, and what is known of them.

A file without a published checksum is checked by its first bytes, and by the names and shapes of its tensors when it is
loaded; its own checksum is kept beside it, so that a later change is noticed.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from filelock import FileLock
from torch import hub

from ssd.common.atomic_files import write_atomically
from ssd.common.console import log
from ssd.common.downloads import download_files
from ssd.common.errors import CheckpointError, DataError, MachineError
from ssd.common.http_client import Network, RefusedError
from ssd.common.untrusted_files import open_untrusted, read_untrusted

_MAX_BYTES = 1 << 30
_STARTS = (b"PK\x03\x04", b"\x80")  # of files of torch.save, new and old
_NETWORK = Network(workers=1, tries=3, connect_timeout_s=3.0, read_timeout_s=10.0)  # no network: half a minute


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedWeights:
    """A file of weights of the network `backbone`.

    `sha256` is its start, or None where none is published; the later addresses are copies.
    """

    backbone: str
    urls: tuple[str, ...]
    file_name: str
    sha256: str | None
    classes: str
    pixels: str
    licence: str
    source: str


_VOC = "the 20 of PASCAL VOC"
PUBLISHED = {
    "vgg16_imagenet": PublishedWeights(
        backbone="vgg16",
        urls=("https://download.pytorch.org/models/vgg16_features-amdegroot-88682ab5.pth",),
        file_name="vgg16_features-amdegroot-88682ab5.pth",
        sha256="88682ab5",
        classes="none: a base net",
        pixels="RGB, mean (123, 117, 104), std 1",
        licence="BSD-3",
        source="torchvision, VGG16_Weights.IMAGENET1K_FEATURES",
    ),
    "mobilenet_v1_imagenet": PublishedWeights(
        backbone="mobilenet_v1",
        urls=("https://huggingface.co/timm/mobilenetv1_100.ra4_e3600_r224_in1k/resolve/main/model.safetensors",),
        file_name="mobilenetv1_100.ra4_e3600_r224_in1k.safetensors",
        sha256=None,
        classes="none: a base net",
        pixels="RGB, mean 127.5, std 127.5",
        licence="Apache-2.0",
        source="timm, mobilenetv1_100.ra4_e3600_r224_in1k",
    ),
    "ssd300_vgg16_coco": PublishedWeights(
        backbone="vgg16",
        urls=("https://download.pytorch.org/models/ssd300_vgg16_coco-b556d3b4.pth",),
        file_name="ssd300_vgg16_coco-b556d3b4.pth",
        sha256="b556d3b4",
        classes="the 80 of COCO, under its 90 numbers",
        pixels="RGB, mean (123, 117, 104), std 1",
        licence="BSD-3",
        source="torchvision, SSD300_VGG16_Weights.COCO_V1",
    ),
    "vgg16_voc": PublishedWeights(
        backbone="vgg16",
        urls=("https://s3.amazonaws.com/amdegroot-models/ssd300_mAP_77.43_v2.pth",),
        file_name="ssd300_mAP_77.43_v2.pth",
        sha256=None,
        classes=_VOC,
        pixels="RGB, mean (123, 117, 104), std 1",
        licence="MIT",
        source="amdegroot/ssd.pytorch, 77.43 VOC07 mAP",
    ),
    "mobilenet_v1_voc": PublishedWeights(
        backbone="mobilenet_v1",
        urls=(
            "https://storage.googleapis.com/models-hao/mobilenet-v1-ssd-mp-0_675.pth",
            "https://nvidia.box.com/shared/static/djf5w54rjvpqocsiztzaandq1m3avr7c.pth",
        ),
        file_name="mobilenet-v1-ssd-mp-0_675.pth",
        sha256=None,
        classes=_VOC,
        pixels="RGB, mean 127, std 128",
        licence="MIT",
        source="qfgaohao/pytorch-ssd, 67.5 VOC07 mAP",
    ),
}


def cache_path(name: str) -> Path:
    """Where the file is kept: the folder in which torchvision keeps its weights too; TORCH_HOME moves it."""
    return Path(hub.get_dir(), "checkpoints", PUBLISHED[name].file_name)


def fetch(name: str) -> Path:
    """The file of published weights: from the cache, which may be read-only, or downloaded into it.

    Raises:
        CheckpointError: the file in the cache is not the published one, or has changed.
        MachineError: it cannot be downloaded or stored, or the environment variable HF_HUB_OFFLINE forbids it.
    """
    entry, path = PUBLISHED[name], cache_path(name)
    if path.exists():
        _check_cached(entry, path)
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):  # processes of one run start together
            if not path.exists():
                _download(name, entry, path)
    except OSError as error:
        raise MachineError(
            f"{name}: {path.parent} cannot be written: {error.strerror or error}; put {path.name} there, or set "
            "TORCH_HOME to another folder"
        ) from error
    return path


def _check_cached(entry: PublishedWeights, path: Path) -> None:
    expected, record = entry.sha256, _record(path)
    try:
        if expected is None and record.exists():
            expected = read_untrusted(record, max_bytes=100, what="checksum").decode("ascii", "replace").strip()
        found = _sha256(path)
    except (DataError, OSError) as error:
        raise CheckpointError(f"{error}; remove it") from error
    if expected is not None and not found.startswith(expected):
        raise CheckpointError(f"{path}: is not the file that was published or downloaded; remove it")


def _download(name: str, entry: PublishedWeights, path: Path) -> None:
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        raise MachineError(f"{name}: not in {path.parent}, and HF_HUB_OFFLINE forbids downloads; put {path.name} there")
    reasons = []
    for url in entry.urls:
        try:
            failed = download_files(
                {path: url}, _NETWORK, title=name, max_bytes=_MAX_BYTES, check=partial(_check_download, entry)
            )
        except MachineError as error:  # the host does not answer
            failed = {path: str(error)}
        if not failed:
            checksum = _sha256(path)
            write_atomically(_record(path), checksum + "\n")
            log(f"{name}: downloaded to {path}, sha256 {checksum}")
            return
        reasons.append(f"{url}: {failed[path]}")
    raise MachineError(f"{name}: cannot be downloaded ({'; '.join(reasons)}); put {path.name} into {path.parent}")


def _check_download(entry: PublishedWeights, part: Path) -> None:
    """Raises RefusedError for a file that is not the published one, or holds no weights (a page in its place)."""
    if entry.sha256 is not None and not _sha256(part).startswith(entry.sha256):
        raise RefusedError("its checksum is not the published one")
    with open_untrusted(part) as file:
        start = file.read(9)
    if not start.startswith(_STARTS) and start[8:] != b"{":  # a safetensors file has the length of its header first
        raise RefusedError("holds no weights")


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _sha256(path: Path) -> str:
    with open_untrusted(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
