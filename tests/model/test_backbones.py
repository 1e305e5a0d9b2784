from __future__ import annotations

import sys
from inspect import signature
from pathlib import Path

import pytest
import yaml

from ssd.model import backbones
from ssd.model.backbones import BACKBONES, VGG16, Backbone, MobileNetV1, PretrainedBackbone, find_backbones
from ssd.model.priors import PriorSpec
from ssd.model.ssd import SSD, build

OPTIONS = Path(__file__).parents[2] / "conf" / "backbone"
SOURCE = """
from torch import nn
from ssd.model.backbones import vgg16  # an imported backbone is not defined here

class Tiny(nn.Module):
    name = "tiny"
    arguments = {}

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, kernel_size=3, stride=8)

    def forward(self, images):
        return [self.convolution(images.float())]
"""


def test_the_backbones_of_the_package_are_found() -> None:
    assert BACKBONES.items() >= {"mobilenet_v1": MobileNetV1, "vgg16": VGG16}.items()


def test_a_new_file_is_a_new_backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One Python file, and nothing that lists it."""
    (tmp_path / "tiny.py").write_text(SOURCE)
    monkeypatch.setattr(backbones, "__path__", [*backbones.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "ssd.model.backbones.tiny", raising=False)
    found = find_backbones()
    assert set(found) == {*BACKBONES, "tiny"}

    monkeypatch.setitem(BACKBONES, "tiny", found["tiny"])
    spec = PriorSpec(scales=[0.2, 0.5], aspect_ratios=[[2]], clip="sizes")
    network = SSD(found["tiny"](), spec, class_names=["thing"], image_size=32)
    assert build(network.recipe()).recipe() == network.recipe()


def test_two_backbones_of_one_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("first", "second"):
        (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.setattr(backbones, "__path__", [str(tmp_path)])
    with pytest.raises(ValueError, match="two backbones are named tiny"):
        find_backbones()


@pytest.mark.parametrize("backbone", BACKBONES.values())
def test_arguments_rebuild_a_backbone_and_every_argument_has_a_default(backbone: type) -> None:
    first = backbone()
    assert all(parameter.default is not parameter.empty for parameter in signature(backbone).parameters.values())
    assert first.arguments.keys() == signature(backbone).parameters.keys()


@pytest.mark.parametrize("backbone", [MobileNetV1, VGG16])
def test_these_backbones_can_start_from_imagenet_weights(backbone: type) -> None:
    assert isinstance(backbone(), PretrainedBackbone)


@pytest.mark.parametrize(
    ("backbone", "fixture", "image_size"),
    [(VGG16(), "vgg16_300", 300), (VGG16(extras="512"), "vgg16_512", 512), (MobileNetV1(), "mobilenet_v1", 300)],
)
def test_default_priors_are_the_published_ones_and_fit(
    backbone: Backbone, fixture: str, image_size: int, request: pytest.FixtureRequest
) -> None:
    assert backbone.default_priors == request.getfixturevalue(fixture)
    assert backbone.default_image_size == image_size
    SSD(backbone, backbone.default_priors, class_names=["thing"], image_size=image_size)


@pytest.mark.parametrize("name", BACKBONES)
def test_the_config_of_a_backbone_repeats_the_defaults_of_its_constructor(name: str) -> None:
    config = yaml.safe_load((OPTIONS / f"{name}.yaml").read_text())
    arguments = {key: value for key, value in config.items() if key not in ("_target_", "weights")}
    own = BACKBONES[name]().arguments
    assert {key: own[key] if value == "auto" else value for key, value in arguments.items()} == own
