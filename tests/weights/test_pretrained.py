"""ImageNet weights in all known layouts."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.models import vgg16

from ssd.common.errors import CheckpointError
from ssd.model.backbones import VGG16, MobileNetV1
from ssd.weights.transfer import load_base

SHARED = Path(__file__).parents[3] / "shared" / "data" / "weights" / "mobilenet_v1_1.0_imagenet_dequant.pth"


def mobilenet(width: float = 1.0) -> MobileNetV1:
    return MobileNetV1(width_multiplier=width, mean=[127.5] * 3, std=[127.5] * 3).eval()


def vgg() -> VGG16:
    return VGG16(extras="300", mean=[123.0, 117.0, 104.0], std=[1.0] * 3).eval()


def stored(state: dict[str, Tensor], path: Path) -> str:
    torch.save(state, path)
    return str(path)


def randomised(module: nn.Module) -> dict[str, Tensor]:
    """A random state, running statistics included."""
    return {
        name: torch.rand_like(value) + 0.5 if "running" in name else torch.randn_like(value) / 20
        for name, value in module.state_dict().items()
        if value.is_floating_point()
    }


def test_timm_mobilenet_gives_the_same_features(tmp_path: Path) -> None:
    source = timm.create_model("mobilenetv1_100", pretrained=False).eval()
    source.load_state_dict(randomised(source), strict=False)
    for layer in source.modules():  # timm clips activations at 6, the common MobileNetV1-SSD does not
        if isinstance(layer, nn.ReLU6):
            layer.max_val = float("inf")
        if hasattr(layer, "act") and isinstance(layer.act, nn.ReLU6):
            layer.act = nn.ReLU()
    backbone = mobilenet()
    report = load_base(backbone, stored(source.state_dict(), tmp_path / "timm.pth"))
    assert report.startswith("mobilenet_v1: ")
    assert report.endswith(" 0 fresh")
    images = torch.randn(1, 3, 64, 64)
    expected = source.forward_features(images)
    torch.testing.assert_close(backbone.base(images), expected, rtol=1e-4, atol=1e-5)


def test_torchvision_vgg16_fills_all_but_the_converted_layers(tmp_path: Path) -> None:
    source = vgg16(weights=None).features.eval()
    backbone = vgg()
    state = {f"features.{name}": value for name, value in source.state_dict().items()}
    report = load_base(backbone, stored(state, tmp_path / "vgg.pth"))
    assert report.endswith(" 4 fresh")  # fc6 and fc7
    images = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(backbone.base[:16](images), source[:16](images))


@pytest.mark.parametrize("prefix", ["", "vgg.", "features.", "base_net."])
def test_reduced_vgg_fills_everything_under_any_known_prefix(tmp_path: Path, prefix: str) -> None:
    source, backbone = randomised(vgg().base), vgg()
    report = load_base(backbone, stored({f"{prefix}{key}": value for key, value in source.items()}, tmp_path / "a.pth"))
    assert report.endswith("0 unused, 0 fresh")
    for name, value in backbone.base.state_dict().items():
        assert torch.equal(value, source[name])


@pytest.mark.parametrize("prefix", ["model.", "base_net."])
def test_mobilenet_layouts(tmp_path: Path, prefix: str) -> None:
    source, backbone = randomised(mobilenet(0.25).base), mobilenet(0.25)
    state = {f"{prefix}{key}": value for key, value in source.items()} | {"fc.weight": torch.zeros(1)}
    assert " 1 unused, 0 fresh" in load_base(backbone, stored(state, tmp_path / "a.pth"))
    assert torch.equal(backbone.base[5][3].weight, source["5.3.weight"])


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    state = {f"model.{key}": value for key, value in randomised(mobilenet(0.5).base).items()}
    with pytest.raises(CheckpointError, match=r"0\.0\.weight is \(16, 3, 3, 3\), mobilenet_v1 needs \(8, 3, 3, 3\)"):
        load_base(mobilenet(0.25), stored(state, tmp_path / "a.pth"))
    with pytest.raises(CheckpointError, match="no weights for"):
        load_base(mobilenet(0.25), stored({"fc.weight": torch.zeros(1)}, tmp_path / "b.pth"))
    with pytest.raises(CheckpointError, match="no such file"):
        load_base(mobilenet(0.25), str(tmp_path / "nothing.pth"))
    broken = {key: value * float("nan") for key, value in state.items()}
    with pytest.raises(CheckpointError, match="NaN"):
        load_base(mobilenet(0.5), stored(broken, tmp_path / "c.pth"))


@pytest.mark.skipif(not SHARED.exists(), reason="the real weights are not beside this checkout")
def test_real_imagenet_weights_fill_the_whole_base() -> None:
    assert load_base(mobilenet(), str(SHARED)).endswith("0 unused, 0 fresh")
