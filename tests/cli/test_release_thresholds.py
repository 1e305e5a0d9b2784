"""The score thresholds of the release file, at the end of a training."""

from __future__ import annotations

from dataclasses import replace

import pytest
from omegaconf import OmegaConf
from shapes_detector import shapes_detector

from ssd.cli.config import CONF
from ssd.cli.train import _thresholds
from ssd.common.errors import DataError
from ssd.common.images import ImageArray
from ssd.data.formats.shapes import read_shapes
from ssd.model.priors import PriorSpec


def test_too_many_unreadable_images_cost_the_thresholds_not_the_release_file(
    mobilenet_v1: PriorSpec, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="ssd")

    def unreadable(path: str) -> ImageArray:
        raise DataError(f"{path}: truncated")

    settings = {"batch_size": 4, "num_workers": 1, "seed": 0, "trainer": {"accelerator": "cpu"}}
    config = OmegaConf.create(settings | {"postprocess": OmegaConf.load(CONF / "postprocess" / "default.yaml")})
    val = read_shapes(train=1, val=0, test=20, side_px=48, seed=0).test
    assert val is not None
    model = shapes_detector(mobilenet_v1)
    assert len(_thresholds(config, model, val) or ()) == len(model.class_names)
    assert _thresholds(config, model, replace(val, load=unreadable)) is None
    assert "warning: no score thresholds, so predict shows boxes above 0.3: " in caplog.text
