"""ssd evaluate: names, classes in common, the files, and mistakes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import hydra
import numpy as np
import pytest
import torch
from composed import CONF, compose
from shapes_detector import shapes_detector
from voc_files import add, object_xml

from ssd.cli.app import register_resolvers
from ssd.cli.evaluate import chosen_classes, common_classes, evaluate, short_names
from ssd.cli.predict import predict
from ssd.common.errors import ConfigError
from ssd.common.images import read_image
from ssd.data.formats.shapes import CLASS_NAMES, read_shapes, save_images
from ssd.evaluation.evaluator import mean_ap
from ssd.inference.detector import open_predictor
from ssd.inference.results import to_record
from ssd.model.backbones import MobileNetV1
from ssd.model.postprocess import PostProcess
from ssd.model.priors import PriorSpec
from ssd.model.ssd import SSD
from ssd.weights import checkpoint

ROOT = Path(__file__).parents[2]


def test_detectors_must_share_a_class() -> None:
    assert common_classes([("b", "a", "c"), ("a", "b")], ["x", "y"]) == ("b", "a")
    with pytest.raises(ConfigError, match="no class in common: x knows cat; y knows dog"):
        common_classes([("cat",), ("dog",)], ["x", "y"])


def test_short_names_are_where_the_paths_differ() -> None:
    assert short_names(["runs/a/1/model.safetensors"]) == [str(Path("1/model.safetensors"))]
    assert short_names(["r/a/model.safetensors", "r/b/model.safetensors"]) == ["a", "b"]
    assert short_names(["r/a/best.ckpt", "r/a/last.ckpt"]) == ["best.ckpt", "last.ckpt"]
    assert short_names(["/a/1/m.ckpt", "/a/2/m.ckpt", "/b/1/checkpoints/m.ckpt"]) == ["a/1", "a/2", "b/1"]
    with pytest.raises(ConfigError, match="give one file, or several different ones"):
        short_names(["a.ckpt", "./a.ckpt"])


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (None, ("car", "Bus", "dog")),
        (["BUS", "car"], ("car", "Bus")),
        (["lorry"], ("car", "Bus", "dog")),
        (["car", "bus", "dog", "cat"], ("car", "Bus", "dog")),
    ],
)
def test_classes_can_be_chosen_in_any_case(wanted: list[str] | None, expected: tuple[str, ...]) -> None:
    assert chosen_classes(("car", "Bus", "dog"), wanted) == expected


def test_common_classes_are_those_that_all_know_in_any_case() -> None:
    assert common_classes([("car", "Bus"), ("BUS", "dog", "Car")], ["a", "b"]) == ("car", "Bus")


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "100", "PYTHONPATH": str(ROOT)}
    command = [
        sys.executable,
        "-m",
        "ssd",
        "evaluate",
        "dataset=shapes",
        "dataset.train=1",
        "dataset.test=8",
        "resamples=20",
        *arguments,
    ]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240, check=False
    )


def save(path: Path, priors: PriorSpec, *, seed: int, class_names: Sequence[str] = CLASS_NAMES) -> None:
    torch.manual_seed(seed)
    backbone = MobileNetV1(width_multiplier=0.25, mean=[127.0] * 3, std=[128.0] * 3)
    model = SSD(backbone, priors, class_names=class_names, image_size=96)
    checkpoint.save_release(model.eval(), path)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, mobilenet_v1: PriorSpec) -> tuple[Path, str]:
    """The folder of two random detectors, evaluated together, and what was printed."""
    folder = tmp_path_factory.mktemp("compared")
    save(folder / "a.safetensors", mobilenet_v1, seed=0)
    save(folder / "b.safetensors", mobilenet_v1, seed=1, class_names=CLASS_NAMES[::-1])  # mapped by name
    done = run(folder, "checkpoint=[a.safetensors,b.safetensors]", "output=out", "worst=2")
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_the_terminal_has_the_tables_and_fits_into_100_columns(compared: tuple[Path, str]) -> None:
    _, output = compared
    for part in (
        "test: 8 images",
        "mAP@0.5",
        "VOC07 mAP",
        "AR, 100",
        "a.safetensors: classes",
        "triangle",
        "lost to",
    ):
        assert part in output, part
    assert "written: out/report.html" in output
    assert max(map(len, output[output.index("results\n") : output.index("lost to")].splitlines())) <= 100


def test_the_files_are_complete_and_nothing_else_is_written(compared: tuple[Path, str]) -> None:
    folder, _ = compared
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == {
        "a.safetensors",
        "b.safetensors",
        "out/evaluation.json",
        "out/report.html",
    }
    content = json.loads((folder / "out/evaluation.json").read_text())
    assert (content["split"], content["images"]) == ("test", 8)
    assert [item["name"] for item in content["evaluations"]] == ["a.safetensors", "b.safetensors"]
    assert [item["metric"] for item in content["comparisons"]] == ["map", "map_50"]
    for item in content["evaluations"]:
        assert {"map", "map_50", "voc07_map", "voc_map", "mar_100"} <= item["metrics"].keys()
        assert {row["name"] for row in item["classes"]} == set(CLASS_NAMES)
        assert np.array(item["confusion"]).shape == (6, 6)
        assert item["speed"]["images"] == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["checkpoint=a.safetensors", "dataset=shapes", "dataset.train=1", "split=dev"],
            "split=dev: .* train, val",
        ),
        (
            ["checkpoint=cats.safetensors", "dataset=shapes", "dataset.train=1"],
            "no class in common: .* cat; .* circle,",
        ),
        (
            ["checkpoint=cats.safetensors", "dataset=voc", "dataset.root=voc"],
            "no class in common: .* cat; the dataset has house",
        ),
        (
            [
                "checkpoint=a.safetensors",
                "dataset=shapes",
                "dataset.train=1",
                "dataset.test=1",
                "dataset.side_px=4096",
                "tile=40",
            ],
            "^tile=40: .* more than 4096; use tile=128 or more",
        ),
        (["checkpoint=[a.safetensors,a.safetensors]"], "checkpoint=.*: give one file, or several different ones"),
    ],
)
def test_mistakes(
    mobilenet_v1: PriorSpec, arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "a.safetensors", mobilenet_v1, seed=0)
    save(tmp_path / "cats.safetensors", mobilenet_v1, seed=0, class_names=["cat"])
    for number in range(3):
        add(tmp_path / "voc", f"image {number}", object_xml("house"))
    monkeypatch.chdir(tmp_path)
    register_resolvers()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose("evaluate", overrides=arguments)
    with pytest.raises(ConfigError, match=message):
        evaluate(config)
    assert not Path("evaluation").exists()


@pytest.fixture
def _keep_sigterm() -> Iterator[None]:
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


@pytest.mark.usefixtures("_keep_sigterm")
def test_evaluate_and_predict_use_the_same_tiles(
    mobilenet_v1: PriorSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(3)
    checkpoint.save_release(shapes_detector(mobilenet_v1), Path("a.safetensors"))
    data = {"train": 1, "val": 0, "test": 6, "side_px": 160}
    settings = [f"dataset.{name}={value}" for name, value in data.items()]
    index = read_shapes(**data, seed=0).test
    assert index is not None
    scores = {}
    for tile in (None, 90):
        tiling = [] if tile is None else [f"tile={tile}"]
        evaluate(compose("checkpoint=a.safetensors", "dataset=shapes", *settings, *tiling, name="evaluate"))
        content = json.loads(Path("evaluation/evaluation.json").read_text())
        predictor = open_predictor("a.safetensors", PostProcess(), device="cpu", tile=tile)
        scores[tile] = content["evaluations"][0]["metrics"]["map"]
        assert content["tile"] == tile
        assert scores[tile] == pytest.approx(mean_ap(predictor, index, class_names=CLASS_NAMES), abs=1e-4)
    assert scores[90] != pytest.approx(scores[None], abs=1e-4)

    save_images("images", 2)
    predict(compose("checkpoint=a.safetensors", "source=images", "tile=90", "device=cpu", name="predict"))
    for line in Path("predictions/predictions.jsonl").read_text().splitlines():
        record = json.loads(line)
        image = read_image(record["source"])
        (found,) = predictor([image])
        names = {"source": record["source"], "frame": None, "class_names": CLASS_NAMES}
        expected = to_record(found, size=image.shape[:2], **names)
        assert len(record["detections"]) == len(expected["detections"]) > 0
        for one, other in zip(record["detections"], expected["detections"], strict=True):
            assert one["box"] == pytest.approx(other["box"], abs=0.05)
