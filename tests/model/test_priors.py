from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.testing import assert_close
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD

from ssd.common.errors import ConfigError
from ssd.model.boxes import cxcywh_to_xyxy
from ssd.model.priors import PriorSpec

VGG16_300_GRIDS = [(side, side) for side in (38, 19, 10, 5, 3, 1)]
VGG16_512_GRIDS = [(side, side) for side in (64, 32, 16, 8, 4, 2, 1)]
MOBILENET_V1_GRIDS = [(side, side) for side in (19, 10, 5, 3, 2, 1)]


@pytest.mark.parametrize(
    ("fixture", "grids", "image_size", "count"),
    [
        ("vgg16_300", VGG16_300_GRIDS, 300, 8_732),  # SSD paper, section 3.1
        ("vgg16_512", VGG16_512_GRIDS, 512, 24_564),  # the authors' slides, ECCV 2016
        ("mobilenet_v1", MOBILENET_V1_GRIDS, 300, 3_000),  # qfgaohao/pytorch-ssd, mobilenetv1_ssd_config.py
    ],
)
def test_number_of_priors_is_the_published_one(
    fixture: str, grids: list[tuple[int, int]], image_size: int, count: int, request: pytest.FixtureRequest
) -> None:
    assert request.getfixturevalue(fixture).build(grids, image_size=image_size).shape == (count, 4)


def test_first_and_last_cell_of_ssd300(vgg16_300: PriorSpec) -> None:
    """By hand, from prior_box_layer.cpp of Caffe SSD: the steps are 8 and 300 pixels, the small squares 30 and 264."""
    priors = vgg16_300.build(VGG16_300_GRIDS, image_size=300)
    root = math.sqrt(2)
    first = torch.tensor(
        [
            [4 / 300, 4 / 300, 0.1, 0.1],
            [4 / 300, 4 / 300, math.sqrt(0.1 * 0.2), math.sqrt(0.1 * 0.2)],
            [4 / 300, 4 / 300, 0.1 * root, 0.1 / root],
            [4 / 300, 4 / 300, 0.1 / root, 0.1 * root],
        ]
    )
    last = torch.tensor(
        [
            [0.5, 0.5, 0.88, 0.88],
            [0.5, 0.5, math.sqrt(0.88 * 1.05), math.sqrt(0.88 * 1.05)],
            [0.5, 0.5, 1.0, 0.88 / root],  # 0.88 * root = 1.24, clipped
            [0.5, 0.5, 0.88 / root, 1.0],
        ]
    )
    assert_close(priors[:4], first)
    assert_close(priors[-4:], last)


def test_caffes_own_numbers() -> None:
    """weiliu89/caffe, test_prior_box_layer.cpp: sizes 4 to 9 and ratio 2 on a 10 x 10 grid over 100 pixels."""
    spec = PriorSpec(scales=[0.04, 0.09], aspect_ratios=[[2]], clip="none")
    boxes = cxcywh_to_xyxy(spec.build([(10, 10)], image_size=100))
    root = math.sqrt(2)
    first = torch.tensor(
        [
            [0.03, 0.03, 0.07, 0.07],
            [0.02, 0.02, 0.08, 0.08],
            [0.05 - 0.02 * root, 0.05 - 0.01 * root, 0.05 + 0.02 * root, 0.05 + 0.01 * root],
            [0.05 - 0.01 * root, 0.05 - 0.02 * root, 0.05 + 0.01 * root, 0.05 + 0.02 * root],
        ]
    )
    assert_close(boxes[:4], first, rtol=0, atol=1e-6)
    assert_close(boxes[4 * 10 * 4 + 4 * 4], torch.tensor([0.43, 0.43, 0.47, 0.47]), rtol=0, atol=1e-6)


def test_torchvisions_own_numbers() -> None:
    """pytorch/vision, test_models_detection_anchor_utils.py: one cell over 15 pixels."""
    spec = PriorSpec(scales=[0.15, 0.9], aspect_ratios=[[2]], clip="sizes")
    boxes_px = cxcywh_to_xyxy(spec.build([(1, 1)], image_size=15)) * 15
    expected = [
        [6.3750, 6.3750, 8.6250, 8.6250],
        [4.7443, 4.7443, 10.2557, 10.2557],
        [5.9090, 6.7045, 9.0910, 8.2955],
        [6.7045, 5.9090, 8.2955, 9.0910],
    ]
    assert_close(boxes_px, torch.tensor(expected), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("fixture", "grids", "image_size"),
    [
        ("vgg16_300", VGG16_300_GRIDS, 300),
        ("vgg16_512", VGG16_512_GRIDS, 512),
        ("mobilenet_v1", MOBILENET_V1_GRIDS, 300),
    ],
)
def test_clip_sizes_equals_torchvision(
    fixture: str, grids: list[tuple[int, int]], image_size: int, request: pytest.FixtureRequest
) -> None:
    spec = request.getfixturevalue(fixture)
    generator = DefaultBoxGenerator(
        [list(ratios) for ratios in spec.aspect_ratios],
        scales=list(spec.scales),
        steps=list(spec.steps_px[image_size]),
        clip=True,
    )
    theirs = generator._grid_default_boxes(grids, [image_size, image_size])
    assert_close(spec.build(grids, image_size=image_size), theirs, rtol=0, atol=1e-6)


def test_priors_equal_those_of_ssd300_vgg16(torchvision_300: PriorSpec, torchvision_ssd: SSD) -> None:
    theirs = torchvision_ssd.anchor_generator._grid_default_boxes(VGG16_300_GRIDS, [300, 300])
    assert_close(torchvision_300.build(VGG16_300_GRIDS, image_size=300), theirs, rtol=0, atol=1e-6)


def test_clip_all_moves_the_centres_of_114_of_8732(vgg16_300: PriorSpec) -> None:
    """The published steps put the last cells of the 10 x 10 grid (step 32) outside the image."""
    sizes = vgg16_300.build(VGG16_300_GRIDS, image_size=300)
    everything = replace(vgg16_300, clip="all").build(VGG16_300_GRIDS, image_size=300)
    moved = (sizes[:, :2] != everything[:, :2]).any(dim=1)
    first_of_level_3 = 38 * 38 * 4 + 19 * 19 * 6
    assert moved.sum() == 114
    assert moved[first_of_level_3 : first_of_level_3 + 10 * 10 * 6].sum() == 114
    assert torch.equal(sizes[:, 2:], everything[:, 2:])


def test_clip_none_only_differs_where_a_side_is_over_1(vgg16_300: PriorSpec) -> None:
    sizes = vgg16_300.build(VGG16_300_GRIDS, image_size=300)
    nothing = replace(vgg16_300, clip="none").build(VGG16_300_GRIDS, image_size=300)
    assert nothing.max() > 1
    assert torch.equal(sizes[:, :2], nothing[:, :2])
    assert torch.equal(sizes[:, 2:], nothing[:, 2:].clamp(max=1))


def test_a_side_without_published_steps_gets_derived_ones(vgg16_300: PriorSpec) -> None:
    """ceil(side / cells): 512 px on grids 64, 32, 16, 8, 6, 4 gives 8, 16, 32, 64, 86, 128."""
    grids = [(side, side) for side in (64, 32, 16, 8, 6, 4)]
    priors = vgg16_300.build(grids, image_size=512)
    first = [0]
    for (rows, columns), count in zip(grids[:-1], vgg16_300.per_cell, strict=False):
        first.append(first[-1] + rows * columns * count)
    steps_px = priors[first, 0] * 2 * 512
    assert_close(steps_px, torch.tensor([8.0, 16.0, 32.0, 64.0, 86.0, 128.0]))


def test_the_priors_of_an_oblong_input_are_squares_in_its_pixels(vgg16_300: PriorSpec) -> None:
    grids = [(38, 67), (19, 34), (10, 17), (5, 9), (3, 7), (1, 5)]
    spec = replace(vgg16_300, clip="none")
    priors = spec.build(grids, image_size=(300, 533)) * torch.tensor([533, 300, 533, 300])
    square = spec.build([(rows, rows) for rows, _ in grids], image_size=300) * 300
    assert_close(priors[:4, 2:], square[:4, 2:])  # the sides in pixels are those of the square input
    assert_close(priors[0, :2], torch.tensor([4.0, 4.0]))
    assert_close(priors[4, :2] - priors[0, :2], torch.tensor([8.0, 0.0]))
    assert_close(priors[4 * 67, :2] - priors[0, :2], torch.tensor([0.0, 8.0]))
    assert spec.build(grids[:1] * 6, image_size=(300, 300)).equal(spec.build(grids[:1] * 6, image_size=300))


def test_cells_go_row_by_row() -> None:
    spec = PriorSpec(scales=[0.1, 0.2], aspect_ratios=[[]], clip="none", steps_px={4: [2]})
    centres = spec.build([(2, 3)], image_size=4)[::2, :2]
    assert_close(
        centres,
        torch.tensor([[0.25, 0.25], [0.75, 0.25], [1.25, 0.25], [0.25, 0.75], [0.75, 0.75], [1.25, 0.75]]),
    )


def test_another_number_of_feature_maps_is_refused_with_both_counts(vgg16_300: PriorSpec) -> None:
    with pytest.raises(ConfigError, match="6 levels of priors, 7 feature maps"):
        vgg16_300.build(VGG16_512_GRIDS, image_size=512)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scales": [0.1, 0.2]}, "2 entries, priors.aspect_ratios 6"),
        ({"scales": [0.1, 0.2, 0.37, 0.37, 0.71, 0.88, 1.05]}, "ascending"),
        ({"scales": [0.2, 0.1, 0.37, 0.54, 0.71, 0.88, 1.05]}, "ascending"),
        ({"scales": [0, 0.2, 0.37, 0.54, 0.71, 0.88, 1.05]}, "above 0"),
        ({"scales": [math.nan, 0.2, 0.37, 0.54, 0.71, 0.88, 1.05]}, "above 0"),
        ({"scales": ["small", 0.2, 0.37, 0.54, 0.71, 0.88, 1.05]}, "hold numbers"),
        ({"aspect_ratios": [[2], [2, -3], [2, 3], [2, 3], [2], [2]]}, "aspect_ratios"),
        ({"aspect_ratios": [[2], [2, 0], [2, 3], [2, 3], [2], [2]]}, "aspect_ratios"),
        ({"steps_px": {300: [8, 16, 32]}}, "steps_px"),
        ({"clip": "everything"}, "choose all, sizes or none"),
    ],
)
def test_a_wrong_spec_is_refused(vgg16_300: PriorSpec, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PriorSpec(**(vgg16_300.as_dict() | change))


def test_a_spec_survives_json(vgg16_300: PriorSpec) -> None:
    assert PriorSpec(**json.loads(json.dumps(vgg16_300.as_dict()))) == vgg16_300
