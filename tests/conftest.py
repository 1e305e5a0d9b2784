"""Shape checks for every test, and the objects that many tests share."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import hypothesis
import jaxtyping
import pytest
import torch
import type_checks
from torchvision.models import detection

os.environ["HF_HUB_OFFLINE"] = "1"  # initial weights are neither downloaded nor taken from the user's cache
os.environ["TORCH_HOME"] = str(Path(tempfile.gettempdir(), f"ssd-tests-{os.getuid()}"))
type_checks.install()  # before anything of ssd is imported

from ssd.model.priors import PriorSpec  # noqa: E402

hypothesis.settings.register_profile("ssd", derandomize=True, database=None, deadline=None, max_examples=60)
hypothesis.settings.load_profile("ssd")

torch.set_num_threads(1)  # small tensors: on a shared machine the threads wait for each other, six times the run time


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def unchecked_types() -> Iterator[None]:
    """For tests that hand over what the annotations forbid, to see our own message."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def vgg16_300() -> PriorSpec:
    """SSD300 on VOC: 8,732 priors."""
    return PriorSpec(
        scales=[0.1, 0.2, 0.37, 0.54, 0.71, 0.88, 1.05],
        aspect_ratios=[[2], [2, 3], [2, 3], [2, 3], [2], [2]],
        steps_px={300: [8, 16, 32, 64, 100, 300]},
        clip="sizes",
    )


@pytest.fixture(scope="session")
def vgg16_512() -> PriorSpec:
    """SSD512 on VOC: 24,564 priors."""
    return PriorSpec(
        scales=[0.07, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 1.05],
        aspect_ratios=[[2], [2, 3], [2, 3], [2, 3], [2, 3], [2], [2]],
        steps_px={512: [8, 16, 32, 64, 128, 256, 512]},
        clip="sizes",
    )


@pytest.fixture(scope="session")
def mobilenet_v1() -> PriorSpec:
    """MobileNetV1-SSD: 3,000 priors."""
    return PriorSpec(
        scales=[0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.1],
        aspect_ratios=[[2, 3]] * 6,
        steps_px={300: [16, 32, 64, 100, 150, 300]},
        clip="sizes",
    )


@pytest.fixture(scope="session")
def torchvision_300(vgg16_300: PriorSpec) -> PriorSpec:
    """SSD300 with torchvision's scales, which are those for COCO."""
    return replace(vgg16_300, scales=[0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05])


@pytest.fixture(scope="session")
def few_priors() -> torch.Tensor:
    """380 priors (cxcywh, double precision): few enough for the loops of reference.py.

    Double, because there the same formula gives the same bits as Python's floats, ties included.
    """
    spec = PriorSpec(scales=[0.15, 0.3, 0.5, 0.8, 1.0], aspect_ratios=[[2], [2, 3], [2, 3], [2]], clip="sizes")
    return spec.build([(8, 8), (4, 4), (2, 2), (1, 1)], image_size=64).double()


@pytest.fixture(scope="session")
def torchvision_ssd() -> detection.ssd.SSD:
    """torchvision's SSD300 for 5 classes and background; random weights, made smaller lest every score be 1."""
    torch.manual_seed(1)
    model = detection.ssd300_vgg16(weights=None, weights_backbone=None, num_classes=6).eval()
    for head in model.head.classification_head.module_list:
        head.weight.data *= 0.25
    return model
