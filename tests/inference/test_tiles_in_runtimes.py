"""Tiles give the same in PyTorch, in an exported file and in the Python interface."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shapes_detector import IMAGES, SETTINGS, shapes_detector, unchecked

import ssd
from ssd.common.errors import ConfigError
from ssd.data.formats.shapes import render
from ssd.export import parity
from ssd.export.onnx_graph import to_onnx
from ssd.inference.detector import open_predictor
from ssd.inference.onnx_predictor import OnnxPredictor
from ssd.inference.tiles import (
    TiledPredictor,
)
from ssd.inference.torch_predictor import TorchPredictor
from ssd.model.postprocess import PostProcess
from ssd.model.priors import PriorSpec
from ssd.model.ssd import SSD
from ssd.weights import checkpoint


@pytest.fixture(scope="module")
def model(mobilenet_v1: PriorSpec) -> SSD:
    return shapes_detector(mobilenet_v1)


@pytest.fixture(scope="module")
def files(model: SSD, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint and its export."""
    folder = tmp_path_factory.mktemp("files")
    checkpoint.save_release(model, folder / "model.safetensors")
    with unchecked():
        graph = to_onnx(model, PostProcess(score_threshold=0.05, **SETTINGS))
    (folder / "model.onnx").write_bytes(graph.SerializeToString())
    return folder / "model.safetensors", folder / "model.onnx"


def test_a_tile_as_large_as_the_images_gives_their_plain_detections(model: SSD) -> None:
    assert max(max(image.shape) for image in IMAGES) <= 140
    plain = TorchPredictor(model, PostProcess(score_threshold=0.05, **SETTINGS), device="cpu")
    for one, other in zip(
        plain(IMAGES), TiledPredictor(plain, PostProcess(**SETTINGS), tile=140, batch_size=4)(IMAGES), strict=True
    ):
        assert torch.equal(one.boxes, other.boxes)
        assert torch.equal(one.scores, other.scores)
        assert torch.equal(one.labels, other.labels)


def test_both_runtimes_give_the_same_in_tiles(files: tuple[Path, Path]) -> None:
    postprocess = PostProcess(score_threshold=0.05, **SETTINGS)
    network, exported = (open_predictor(path, postprocess, device="cpu", tile=80, batch_size=4) for path in files)
    images = [render(f"test/{number:06d}", side_px=200, seed=1) for number in range(6)]
    result = parity.compare(network, exported, images)
    assert result.agrees, result
    assert result.detections > 10


def test_an_exported_file_merges_with_its_own_settings(files: tuple[Path, Path]) -> None:
    narrowed = OnnxPredictor(files[1]).narrow(PostProcess(nms_threshold=0.9, max_detections=200))
    assert (narrowed.nms_threshold, narrowed.max_detections) == (0.45, SETTINGS["max_detections"])
    assert OnnxPredictor(files[1]).narrow(PostProcess(max_detections=3)).max_detections == 3


def test_the_python_api_has_tiles(files: tuple[Path, Path]) -> None:
    image = render("test/000001", side_px=240, seed=2)
    for path in files:
        settings: dict[str, Any] = {"score_threshold": 0.06, "max_detections": 30, "device": "cpu"}
        postprocess = PostProcess(score_threshold=0.06, max_detections=30)
        found = ssd.load(path, tile=100, **settings)(image)
        (expected,) = open_predictor(path, postprocess, device="cpu", tile=100)([image])
        assert torch.equal(found.detections.boxes, expected.boxes)
        assert len(found) != len(ssd.load(path, **settings)(image)) or not np.array_equal(
            found.boxes, ssd.load(path, **settings)(image).boxes
        )
    with pytest.raises(ConfigError, match="tile=20: "):
        ssd.load(files[0], tile=20)
