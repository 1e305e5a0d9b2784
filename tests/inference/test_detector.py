"""The Python API."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from media import HEIGHT, WIDTH, predict, read_records, write_image
from omegaconf import OmegaConf
from PIL import Image

import ssd
from ssd.cli.config import CONF
from ssd.common.errors import CheckpointError, ConfigError, DataError, MachineError
from ssd.common.images import read_image
from ssd.inference.detector import open_predictor
from ssd.inference.torch_predictor import TorchPredictor
from ssd.model.backbones import MobileNetV1
from ssd.model.postprocess import PostProcess
from ssd.model.priors import PriorSpec
from ssd.model.ssd import SSD
from ssd.weights import checkpoint


@pytest.fixture(scope="module")
def weights(mobilenet_v1: PriorSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    backbone = MobileNetV1(width_multiplier=0.25, mean=[127.0] * 3, std=[128.0] * 3)
    model = SSD(backbone, mobilenet_v1, class_names=("cat", "Hund", "猫"), image_size=96)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    model.train()(torch.randint(0, 256, (8, 3, 96, 96), dtype=torch.uint8))  # statistics, or every score is the same
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    checkpoint.save_release(model, path)
    return path


@pytest.fixture(scope="module")
def detector(weights: Path) -> ssd.Detector:
    return ssd.load(weights, score_threshold=0.01, max_detections=7, device="cpu")


def test_accepts_files_arrays_and_pillow_images(detector: ssd.Detector, tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png")
    from_path, from_text, from_array, from_pillow = detector([path, str(path), read_image(path), Image.open(path)])
    alone = detector(path)
    assert len(alone) == 7
    assert alone.source == from_text.source == str(path)
    assert from_array.source == ""
    for other in (from_text, from_array, from_pillow):
        assert np.array_equal(other.image, from_path.image)
        assert np.array_equal(other.boxes, from_path.boxes)
    assert alone.boxes == pytest.approx(from_path.boxes, abs=0.02)


def test_boxes_are_in_pixels_and_labels_are_names(detector: ssd.Detector, tmp_path: Path) -> None:
    found = detector(write_image(tmp_path / "a.png"))
    assert found.boxes.shape == (7, 4)
    assert (found.boxes >= 0).all()
    assert (found.boxes <= [WIDTH, HEIGHT, WIDTH, HEIGHT]).all()
    assert found.boxes.max() > 1
    assert (np.diff(found.scores) <= 0).all()
    assert found.labels == [("cat", "Hund", "猫")[label] for label in found.class_ids]
    assert [item["label"] for item in found.records()] == found.labels
    assert repr(found).startswith(f"<7 detections in {tmp_path / 'a.png'} of {WIDTH}x{HEIGHT}: ")


def test_results_equal_those_of_predict(detector: ssd.Detector, weights: Path, tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png")
    limited = open_predictor(weights, PostProcess(score_threshold=0.01, max_detections=7), device="cpu")
    predict(limited, path, tmp_path / "out", draw_threshold=0.01)
    assert read_records(tmp_path / "out") == [detector(path).to_dict()]
    drawn = detector(path).draw(tmp_path / "new" / "drawn.png")
    assert np.array_equal(read_image(tmp_path / "new" / "drawn.png"), drawn)
    assert np.array_equal(read_image(tmp_path / "out" / "a.png"), drawn)


def test_notebook_displays_a_png(detector: ssd.Detector, tmp_path: Path) -> None:
    assert detector(write_image(tmp_path / "a.png"))._repr_png_().startswith(b"\x89PNG")


def test_a_list_gives_a_list(detector: ssd.Detector, tmp_path: Path) -> None:
    assert detector([]) == []
    assert len(detector([write_image(tmp_path / "a.png")])) == 1


def test_defaults_equal_the_configuration(weights: Path, tmp_path: Path) -> None:
    predictor = ssd.load(weights, device="cpu")._predictor
    assert isinstance(predictor, TorchPredictor)
    assert predictor.postprocess.score_threshold == pytest.approx(0.3)
    assert predictor.postprocess.max_detections == 200
    assert OmegaConf.load(CONF / "predict.yaml").draw_threshold is None
    settings = OmegaConf.load(CONF / "postprocess" / "default.yaml")
    for name, parameter in inspect.signature(PostProcess).parameters.items():
        assert settings[name] == parameter.default
    assert len(ssd.load(weights, score_threshold=1.0, device="cpu")(write_image(tmp_path / "a.png"))) == 0


def test_half_precision_gives_nearly_the_same_scores(weights: Path, detector: ssd.Detector, tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png")
    quick = ssd.load(weights, score_threshold=0.01, max_detections=7, device="cpu", precision="bfloat16")
    half, full = quick(path).scores, detector(path).scores
    assert half[0] == pytest.approx(full[0], abs=0.1)
    assert not np.array_equal(half, full)


@pytest.mark.usefixtures("unchecked_types")
def test_unsupported_type_is_an_error(detector: ssd.Detector) -> None:
    with pytest.raises(DataError, match="bytes: give a path"):
        detector(b"abc")  # type: ignore[call-overload]


def test_errors_name_the_value(weights: Path, detector: ssd.Detector, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such image"):
        detector(tmp_path / "missing.jpg")
    with pytest.raises(DataError, match=r"array of float32 \[2, 2, 3\].*uint8 RGB"):
        detector(np.zeros((2, 2, 3), np.float32))
    for path in (tmp_path, tmp_path / "street.MP4"):
        with pytest.raises(DataError, match="not a single image"):
            detector(path)
    with pytest.raises(ConfigError, match=r"out: .*\.jpg or \.png"):
        detector(np.zeros((2, 2, 3), np.uint8)).draw(tmp_path / "out")
    with pytest.raises(DataError, match="floating-point pixels"):
        detector(Image.new("F", (4, 4)))
    with pytest.raises(DataError, match=r"http://a/b\.jpg: .*predict\.py"):
        detector("http://a/b.jpg")
    (tmp_path / "file").touch()
    with pytest.raises(MachineError, match=r"file/a\.png: cannot be written"):
        detector(np.zeros((2, 2, 3), np.uint8)).draw(tmp_path / "file" / "a.png")
    for score in (2, -0.1, float("nan")):
        with pytest.raises(ConfigError, match=f"score_threshold={score}: .* 0 and 1"):
            ssd.load(weights, score_threshold=score)
    with pytest.raises(ConfigError, match=r"max_detections=0: .* 1"):
        ssd.load(weights, max_detections=0)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        ssd.load(tmp_path / "missing.safetensors")
    with pytest.raises(ConfigError, match=r"precision=fp8: .*float32, bfloat16, float16"):
        ssd.load(weights, precision="fp8")
    with pytest.raises(ConfigError, match=r"device=gpu: .*cpu, cuda"):
        ssd.load(weights, device="gpu")
    with pytest.raises(MachineError, match=r"device=cuda:99: .*device=cpu"):
        ssd.load(weights, device="cuda:99")


def test_albumentations_does_not_check_for_updates() -> None:
    code = "import os, ssd; assert os.environ['NO_ALBUMENTATIONS_UPDATE'] == '1'"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0


def test_import_is_light_and_unknown_attributes_are_errors() -> None:
    code = "import sys, ssd, ssd.cli.app; assert not {'torch', 'cv2', 'pytorch_lightning'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'loda'"):
        ssd.loda  # noqa: B018
