"""Published weights: downloaded from a local server, verified, kept, and refused when they change."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import third_party_reference as reference
import torch
from forked import ROOT, run
from http_server import HTML, FaultyServer, serve
from torchvision.models import VGG16_Weights
from torchvision.models.detection import SSD300_VGG16_Weights
from voc_files import add, add_list, object_xml

from ssd.common.errors import CheckpointError, MachineError
from ssd.model.backbones import BACKBONES, VGG16, MobileNetV1, mobilenet_v1
from ssd.model.ssd import SSD
from ssd.weights import published, third_party
from ssd.weights.published import PUBLISHED, cache_path, fetch
from ssd.weights.third_party_layouts import VOC_NAMES
from ssd.weights.transfer import init_from, load_base

NAME = "vgg16_imagenet"
ORIGINAL = dict(PUBLISHED)  # the tests below change addresses


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with serve() as http:
        yield http


@pytest.fixture
def weights() -> bytes:
    """The tensors of the base that torchvision's file has."""
    state = {
        f"features.{key}": value for key, value in VGG16().base.state_dict().items() if int(key.split(".")[0]) < 30
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def _published(server: FaultyServer, weights: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    server.files["/weights.pth"] = weights
    checksum = hashlib.sha256(weights).hexdigest()[:8]
    entry = replace(PUBLISHED[NAME], urls=(f"{server.url}/weights.pth",), sha256=checksum)
    monkeypatch.setitem(PUBLISHED, NAME, entry)


def change(monkeypatch: pytest.MonkeyPatch, **values: object) -> None:
    monkeypatch.setitem(PUBLISHED, NAME, replace(PUBLISHED[NAME], **values))  # type: ignore[arg-type]


def test_they_are_downloaded_once_and_loaded(server: FaultyServer) -> None:
    assert load_base(VGG16(), "imagenet").endswith(" 4 fresh")
    assert load_base(VGG16(), "imagenet").endswith(" 4 fresh")
    assert server.count("/weights.pth") == 1


@pytest.mark.parametrize("content", [HTML, b"PK\x03\x04 other weights"])
def test_what_is_not_the_published_file_is_refused(server: FaultyServer, content: bytes) -> None:
    server.files["/weights.pth"] = content
    with pytest.raises(MachineError, match="checksum is not the published one"):
        fetch(NAME)
    assert not cache_path(NAME).exists()


def test_a_file_without_a_known_checksum_must_hold_weights_and_stay_the_same(
    server: FaultyServer, weights: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(monkeypatch, sha256=None)
    server.files["/weights.pth"] = HTML
    with pytest.raises(MachineError, match="holds no weights"):
        fetch(NAME)
    server.files["/weights.pth"] = weights
    path = fetch(NAME)
    assert path.with_name(f"{path.name}.sha256").read_text().strip() == hashlib.sha256(weights).hexdigest()
    path.write_bytes(weights[:-1])
    with pytest.raises(CheckpointError, match="is not the file that was published or downloaded; remove it"):
        fetch(NAME)


def test_a_copy_elsewhere_is_tried(server: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    change(monkeypatch, urls=("http://127.0.0.1:1/weights.pth", f"{server.url}/gone.pth", f"{server.url}/weights.pth"))
    assert fetch(NAME) == cache_path(NAME)


def test_no_network_is_the_machines_fault_and_says_where_to_put_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    change(monkeypatch, urls=("http://127.0.0.1:1/weights.pth",))
    with pytest.raises(MachineError, match=r"cannot be downloaded .*put vgg16_features.*into .*checkpoints") as error:
        load_base(VGG16(), "imagenet")
    assert str(error.value).endswith("give backbone.weights=FILE")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(MachineError, match="HF_HUB_OFFLINE forbids downloads"):
        fetch(NAME)


def test_backbones_name_entries_that_exist() -> None:
    assert {VGG16().imagenet_weights, MobileNetV1().imagenet_weights} < PUBLISHED.keys()
    assert MobileNetV1(width_multiplier=0.5).imagenet_weights is None
    assert {entry.backbone for entry in PUBLISHED.values()} <= BACKBONES.keys()
    assert len({entry.file_name for entry in PUBLISHED.values()}) == len(PUBLISHED)
    assert all(
        url.startswith("https://") for name in published.PUBLISHED if name != NAME for url in PUBLISHED[name].urls
    )


def test_torchvisions_entries_are_its_own() -> None:
    for name, entry in (
        ("ssd300_vgg16_coco", SSD300_VGG16_Weights.COCO_V1),
        ("vgg16_imagenet", VGG16_Weights.IMAGENET1K_FEATURES),
    ):
        assert ORIGINAL[name].urls == (entry.url,)
        assert entry.url.endswith(f"-{ORIGINAL[name].sha256}.pth")
        assert entry.url.endswith(f"/{ORIGINAL[name].file_name}")


@pytest.mark.parametrize(
    ("name", "sheet", "outputs"),
    [("vgg16_voc", reference.AMDEGROOT, 21), ("mobilenet_v1_voc", reference.QFGAOHAO_MB1, 21)],
)
def test_the_table_says_what_the_layouts_of_the_files_are(name: str, sheet: reference.Sheet, outputs: int) -> None:
    found = third_party.convert(reference.random_weights(sheet, outputs=outputs), source=cache_path(name))
    assert "PASCAL VOC" in PUBLISHED[name].classes
    assert found.recipe["class_names"] == list(VOC_NAMES)
    check(name, found.recipe)


def test_the_table_says_what_torchvisions_layout_is(torchvision_ssd: torch.nn.Module) -> None:
    found = third_party.convert(torchvision_ssd.state_dict(), source=cache_path("ssd300_vgg16_coco"))
    check("ssd300_vgg16_coco", found.recipe)


def check(name: str, recipe: dict[str, Any]) -> None:
    assert PUBLISHED[name].backbone == recipe["backbone"]["name"]
    arguments = recipe["backbone"]["arguments"]
    mean, std = ([round(value) for value in arguments[key]] for key in ("mean", "std"))
    means = str(tuple(mean)) if len(set(mean)) > 1 else str(mean[0])
    assert PUBLISHED[name].pixels == f"RGB, mean {means}, std {std[0]}"


def test_a_detector_is_taken_by_name(server: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = reference.random_weights(reference.QFGAOHAO_MB1, outputs=21)
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    server.files["/detector.pth"] = buffer.getvalue()
    entry = replace(PUBLISHED["mobilenet_v1_voc"], urls=(f"{server.url}/detector.pth",))
    monkeypatch.setitem(PUBLISHED, "mobilenet_v1_voc", entry)
    for _ in range(2):
        model = SSD(MobileNetV1(), mobilenet_v1.PRIORS, class_names=["Dog", "lamp"], image_size=300)
        lines = init_from(model, "mobilenet_v1_voc")
        assert lines[0] == "init_from=mobilenet_v1_voc: mobilenet_v1, 20 classes"
        assert lines[-1].startswith("classes: kept Dog; fresh: lamp; unused: aeroplane, ")
        assert torch.equal(model.localization_heads[0].bias, weights["regression_headers.0.bias"])
    assert server.count("/detector.pth") == 1


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_readme_has_the_same_table(name: str) -> None:
    entry = PUBLISHED[name]
    row = f"| `{name}` | {entry.classes} | {entry.pixels} | {entry.licence} | {entry.source} |"
    assert row in (ROOT / "README.md").read_text()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for split, names in {"train": ["a", "b"], "val": ["c"], "test": ["d"]}.items():
        for name in names:
            add(tmp_path / "data", name, object_xml())
        add_list(tmp_path / "data", split, names)
    return tmp_path


TINY = ["backbone=mobilenet_v1", "dataset.root=data", "steps=1", "image_size=96", "num_workers=0", "logger=null"]


def test_training_goes_on_without_weights_that_cannot_be_had(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = run(data, "train.py", *TINY, "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    assert "warning: the initial weights are random, which costs " in done.stdout
    assert "mobilenet_v1_imagenet: not in " in done.stdout
    assert "backbone.weights" in done.stdout
    again = run(data, "train.py", "resume=run", "steps=2")
    assert again.returncode == 0, again.stderr
    assert "mobilenet_v1_imagenet" not in again.stdout
    assert "changed on resume: backbone" not in again.stdout


def test_a_name_that_cannot_be_had_ends_the_run(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = run(data, "train.py", *TINY, "init_from=mobilenet_v1_voc", "hydra.run.dir=run2")
    assert (done.returncode, len(done.stderr.splitlines())) == (5, 1)
    assert done.stderr.startswith("error: mobilenet_v1_voc: not in ")
    assert run(data, "train.py", *TINY, "init_from=mobilenet_v1_coco").returncode == 3
    other = run(data, "train.py", *TINY, "init_from=ssd300_vgg16_coco")
    assert (other.returncode, len(other.stderr.splitlines())) == (2, 1)
    assert "choose backbone=vgg16" in other.stderr
