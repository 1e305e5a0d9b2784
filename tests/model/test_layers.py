from __future__ import annotations

import torch
from torch.testing import assert_close

from ssd.model.backbones.layers import L2Norm, PixelNorm


def test_l2_norm_gives_each_cell_the_length_of_its_scale() -> None:
    features = L2Norm(16, scale=20.0)(torch.randn(2, 16, 3, 5))
    assert_close(features.norm(dim=1), torch.full((2, 3, 5), 20.0))


def test_l2_norm_does_not_depend_on_the_size_of_the_features() -> None:
    layer, features = L2Norm(16, scale=20.0), torch.randn(2, 16, 3, 5)
    assert_close(layer(features), layer(1000 * features))


def test_l2_norm_of_nothing_is_nothing() -> None:
    features = torch.zeros(1, 4, 1, 1, requires_grad=True)
    out = L2Norm(4, scale=20.0)(features)
    out.sum().backward()
    assert (out == 0).all()
    assert features.grad is not None
    assert features.grad.isfinite().all()


def test_pixel_norm_subtracts_the_mean_and_divides_by_the_deviation() -> None:
    """qfgaohao's MobileNetV1: 127 and 128 of 0..255."""
    layer = PixelNorm(mean=[127.0, 127.0, 127.0], std=[128.0, 128.0, 128.0])
    images = torch.tensor([0, 127, 255], dtype=torch.uint8).view(1, 1, 1, 3).expand(1, 3, 1, 3)
    assert_close(layer(images)[0, 0, 0], torch.tensor([-127 / 128, 0.0, 1.0]))


def test_pixel_norm_treats_each_channel_on_its_own() -> None:
    layer = PixelNorm(mean=[1.0, 2.0, 3.0], std=[1.0, 1.0, 1.0])
    black = layer(torch.zeros(1, 3, 1, 1, dtype=torch.uint8))
    assert black.flatten().tolist() == [-1.0, -2.0, -3.0]
