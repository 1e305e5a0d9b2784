"""python -m ssd import-weights: from another program's file to detections in an image."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import third_party_reference as reference
import torch
from composed import compose
from forked import run
from safetensors import safe_open

from ssd.cli.import_weights import import_weights
from ssd.cli.predict import predict
from ssd.common.errors import CheckpointError, ConfigError
from ssd.data.formats.shapes import save_images
from ssd.weights import checkpoint

ROOT = Path(__file__).parents[2]
PHOTOGRAPHS = ROOT.parent / "shared/data/media/photos"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With a weight file and a list of classes, as the current folder."""
    torch.save(reference.random_weights(reference.QFGAOHAO_MB1, outputs=3), tmp_path / "mb1.pth")
    (tmp_path / "names.txt").write_text("BACKGROUND\ncat\ndog\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_from_a_weight_file_to_detections(folder: Path) -> None:
    """The file, imported, predicts what it predicts directly, but for the names."""
    done = run(folder, "import-weights", "source=mb1.pth", "output=new.safetensors", "labels=names.txt")
    assert done.returncode == 0, done.stderr
    *report, last = done.stdout.splitlines()
    assert last.startswith("written to new.safetensors; next: python predict.py checkpoint=new.safetensors ")
    assert report == [
        "format: qfgaohao/pytorch-ssd mb1-ssd, 300x300 pixels",
        "classes: 2 (names.txt): cat, dog",
        "priors: squares of 60, 105, 150, 195, 240, 285, 330 px; clip all",
        "pixels: RGB; mean [127.0, 127.0, 127.0], std [128.0, 128.0, 128.0]",
        "tensors: 202 used; unused: none",
    ]
    save_images(str(folder / "images"), 1)
    for photograph in sorted(PHOTOGRAPHS.glob("*.jpg"))[:1]:  # where the reference data is at hand
        shutil.copy(photograph, folder / "images")
    exported = run(folder, "export", "checkpoint=new.safetensors", "output=new.onnx", "images=images")
    assert exported.returncode == 0, exported.stderr
    found = {}
    for name in ("new.safetensors", "mb1.pth", "new.onnx"):
        predict(compose(f"checkpoint={name}", "source=images", f"output=out_{name}", name="predict"))
        lines = Path(f"out_{name}/predictions.jsonl").read_text().splitlines()
        found[name] = [detection for line in lines for detection in json.loads(line)["detections"]]
    assert {detection["label"] for detection in found["new.safetensors"]} == {"cat", "dog"}
    numbers = [[(d["class_id"], d["score"], d["box"]) for d in detections] for detections in found.values()]
    assert numbers[0] == numbers[1] != []
    assert len(numbers[2]) == pytest.approx(len(numbers[0]), rel=0.01)
    assert json.loads(Path("new.onnx.json").read_text())["parity"]["agrees"]


def test_weights_of_others_are_measured_as_they_are(folder: Path) -> None:
    (folder / "labels.txt").write_text("BACKGROUND\ncircle\nsquare\n")
    run(folder, "import-weights", "source=mb1.pth", "output=new.safetensors", "labels=labels.txt")
    data = ["dataset=shapes", "dataset.train=2", "dataset.val=2", "dataset.test=3", "resamples=10"]
    content = {}
    for name in ("mb1.pth", "new.safetensors"):
        done = run(folder, "evaluate", f"checkpoint={name}", *data, f"output={name}_measured")
        assert done.returncode == 0, done.stderr
        content[name] = json.loads(Path(f"{name}_measured/evaluation.json").read_text())["evaluations"][0]
    assert [item["name"] for item in content["mb1.pth"]["classes"]] == ["circle", "square"]
    assert content["mb1.pth"]["metrics"] == content["new.safetensors"]["metrics"]


def test_weights_for_bgr_are_turned() -> None:
    import_weights(compose("source=mb1.pth", "channel_order=bgr", "class_names=[cat,dog]", name="import_weights"))
    with safe_open("model.safetensors", framework="pt") as file:
        first = file.get_tensor("backbone.base.0.0.weight")
    theirs = torch.load("mb1.pth", weights_only=True)["base_net.0.0.weight"]
    assert torch.equal(first[:, 0], theirs[:, 2])
    assert checkpoint.load("model.safetensors").class_names == ("cat", "dog")


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("overrides", "kind", "message"),
    [
        (["output=model.pth"], ConfigError, "output=model.pth: must end in .safetensors"),
        (["channel_order=gbr"], ConfigError, "channel_order=gbr: choose rgb or bgr"),
        (["source=nothing.pth"], CheckpointError, "nothing.pth: no such checkpoint"),
        (["source=names.txt"], CheckpointError, "names.txt: "),
        (["class_names=[cat]"], CheckpointError, "has outputs for 2 classes, class_names has 1 names"),
    ],
)
def test_mistakes_are_named_and_nothing_is_written(
    folder: Path, overrides: list[str], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        import_weights(compose("source=mb1.pth", *overrides, name="import_weights"))
    assert not list(folder.glob("*.safetensors"))
