from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision_ssd as yardstick
from torch import Tensor, nn
from torch.testing import assert_close
from torchvision.models import detection

from ssd.common.errors import CheckpointError, ConfigError
from ssd.model.backbones import VGG16, MobileNetV1
from ssd.model.box_coder import decode
from ssd.model.postprocess import PostProcess
from ssd.model.priors import PriorSpec
from ssd.model.ssd import SSD, Freeze, build, measure
from ssd.weights import checkpoint

CLASS_NAMES = ["bird", "cat", "cow", "dog", "horse"]


def image(image_size: int, *, images: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(image_size)
    return torch.randint(0, 256, (images, 3, image_size, image_size), dtype=torch.uint8, generator=generator)


def vgg16(extras: str = "300") -> VGG16:
    return VGG16(extras=extras, mean=yardstick.MEAN, std=yardstick.STD)


def quarter_mobilenet() -> MobileNetV1:
    return MobileNetV1(width_multiplier=0.25, mean=[127.0] * 3, std=[128.0] * 3)


@pytest.fixture(scope="module")
def ssd300(torchvision_ssd: detection.ssd.SSD, tmp_path_factory: pytest.TempPathFactory) -> SSD:
    """torchvision's network, imported from its weight file. Shared: do not modify."""
    path = tmp_path_factory.mktemp("torchvision") / "ssd300.pth"
    torch.save(torchvision_ssd.state_dict(), path)
    return checkpoint.load(path)


@pytest.fixture
def small(mobilenet_v1: PriorSpec) -> SSD:
    """MobileNetV1 of a quarter's width on 128 pixels."""
    return SSD(quarter_mobilenet(), mobilenet_v1, class_names=CLASS_NAMES, image_size=128)


# Against torchvision


@torch.no_grad()
def test_predictions_equal_torchvisions(ssd300: SSD, torchvision_ssd: detection.ssd.SSD) -> None:
    images = image(300)
    transformed, _ = torchvision_ssd.transform([images[0] / 255])
    features = list(torchvision_ssd.backbone(transformed.tensors).values())
    theirs = torchvision_ssd.head(features)
    (anchors_px,) = torchvision_ssd.anchor_generator(transformed, features)
    boxes_px = torchvision_ssd.box_coder.decode_single(theirs["bbox_regression"][0], anchors_px)

    ours = ssd300(images)
    assert ours.logits.std() > 0.1
    assert_close(ours.logits, theirs["cls_logits"], rtol=1e-4, atol=1e-4)
    assert_close(ours.offsets, theirs["bbox_regression"], rtol=1e-4, atol=1e-4)
    assert_close(decode(ours.offsets[0], ssd300.priors), boxes_px / 300, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_detections_equal_torchvisions(
    ssd300: SSD, torchvision_ssd: detection.ssd.SSD, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Published settings, with a score threshold so high that neither limit applies (400 per class; 400 per image)."""
    images = image(300)
    predictions = ssd300(images)
    scores = predictions.logits.softmax(dim=-1)[..., 1:].flatten().sort(descending=True).values
    threshold = scores[190:200].mean().item()
    monkeypatch.setattr(torchvision_ssd, "score_thresh", threshold)
    post_process = PostProcess(score_threshold=threshold, nms_threshold=0.45, topk_candidates=400, max_detections=200)

    (ours,) = post_process(predictions, ssd300.priors)
    (theirs,) = torchvision_ssd([images[0] / 255])
    assert 20 < len(ours) < 180  # of 190 to 200: NMS had work
    yardstick.assert_same_in_any_order(
        yardstick.rows(ours.labels, ours.scores, ours.boxes),
        yardstick.rows(theirs["labels"] - 1, theirs["scores"], theirs["boxes"] / 300),
        atol=1e-4,
    )


def test_ssd300_for_coco_has_torchvisions_number_of_weights(vgg16_300: PriorSpec) -> None:
    """SSD300_VGG16_Weights.COCO_V1, num_params, for 90 classes and background."""
    network = SSD(vgg16(), vgg16_300, class_names=list(map(str, range(90))), image_size=300)
    assert sum(weight.numel() for weight in network.parameters()) == 35_641_826


def test_the_base_of_mobilenet_has_the_published_number_of_weights() -> None:
    """Keras: MobileNet without top has 3,228,864 parameters, of which 21,888 are BatchNorm statistics."""
    backbone = MobileNetV1(width_multiplier=1.0, mean=[127.0] * 3, std=[128.0] * 3)
    assert sum(weight.numel() for weight in backbone.base.parameters()) == 3_228_864 - 21_888


@torch.no_grad()
def test_mobilenets_first_map_comes_after_12_layers() -> None:
    """qfgaohao/pytorch-ssd, mobilenetv1_ssd.py: source_layer_indexes = [12, 14]."""
    backbone, images = quarter_mobilenet().eval(), image(128)
    first, second, *_ = backbone(images)
    features = backbone.pixel_norm(images)
    for number, layer in enumerate(backbone.base, start=1):
        features = layer(features)
        if number == 12:
            assert torch.equal(first, features)
    assert number == 14
    assert torch.equal(second, features)


def test_conv4_3_is_scaled_to_20_at_first() -> None:
    """SSD paper, section 3.1."""
    assert torch.equal(vgg16().conv4_3_norm.weight, torch.full((512,), 20.0))


# Grids


def test_grids_of_ssd300(ssd300: SSD) -> None:
    """SSD paper, figure 2."""
    assert ssd300.grids == ((38, 38), (19, 19), (10, 10), (5, 5), (3, 3), (1, 1))
    assert len(ssd300.priors) == 8_732


def test_ssd512_has_7_levels_and_24564_priors(vgg16_512: PriorSpec) -> None:
    network = SSD(vgg16("512"), vgg16_512, class_names=CLASS_NAMES, image_size=512)
    assert network.grids == ((64, 64), (32, 32), (16, 16), (8, 8), (4, 4), (2, 2), (1, 1))
    assert len(network.priors) == 24_564


def test_mobilenet_of_a_quarters_width_predicts_for_its_3000_priors(mobilenet_v1: PriorSpec) -> None:
    network = SSD(quarter_mobilenet(), mobilenet_v1, class_names=CLASS_NAMES, image_size=300).eval()
    predictions = network(image(300))
    assert network.grids == ((19, 19), (10, 10), (5, 5), (3, 3), (2, 2), (1, 1))
    assert predictions.logits.shape == (1, 3_000, 6)
    assert predictions.offsets.shape == (1, 3_000, 4)
    assert predictions.logits.isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize(
    ("make", "image_size"),
    [
        *[(quarter_mobilenet, image_size) for image_size in (128, 129, 200, 300, 321, 512)],
        *[(vgg16, image_size) for image_size in (128, 267, 300)],
        (lambda: vgg16("512"), 256),
    ],
)
def test_measured_shapes_are_those_of_a_real_forward(make: Callable[[], nn.Module], image_size: int) -> None:
    backbone = make().eval()
    features = backbone(image(image_size))
    assert measure(backbone, image_size=image_size) == [tuple(feature.shape[1:]) for feature in features]


@pytest.mark.parametrize(("extras", "sides"), [("300", [16, 8, 4, 2, 1, 1]), ("512", [16, 8, 4, 2, 1, 1, 1])])
def test_a_small_image_keeps_every_level(extras: str, sides: list[int]) -> None:
    """At 128 pixels the last grids are smaller than the kernel."""
    assert [rows for _, rows, _ in measure(vgg16(extras), image_size=128)] == sides


def test_measuring_leaves_the_backbone_as_it_was() -> None:
    """At 16 pixels, where BatchNorm cannot train on the single value of a channel."""
    backbone = quarter_mobilenet().train()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    measure(backbone, image_size=16)
    assert backbone.training
    assert_equal_states(backbone.state_dict(), before)


@pytest.mark.parametrize("image_size", [-1, 0, 1, 11])
def test_too_small_an_image_is_refused(image_size: int) -> None:
    with pytest.raises(ConfigError, match=f"image_size={image_size} does not fit VGG16.*choose a larger image_size"):
        measure(vgg16(), image_size=image_size)


def test_priors_of_another_backbone_are_refused(vgg16_512: PriorSpec) -> None:
    with pytest.raises(ConfigError, match="7 levels of priors, 6 feature maps"):
        SSD(quarter_mobilenet(), vgg16_512, class_names=CLASS_NAMES, image_size=512)


# The network


@torch.no_grad()
def test_an_image_in_a_batch_equals_itself_alone(small: SSD) -> None:
    small.eval()
    images = image(128, images=3)
    together = small(images)
    for index in range(3):
        alone = small(images[index : index + 1])
        assert_close(together.logits[index], alone.logits[0], rtol=0, atol=1e-5)
        assert_close(together.offsets[index], alone.offsets[0], rtol=0, atol=1e-5)


def test_predictions_are_in_the_order_of_the_priors(small: SSD) -> None:
    """A head that outputs its channel number: the anchors of a cell are adjacent, with K values each."""
    small.eval()
    with torch.no_grad():
        for level, head in enumerate(small.localization_heads):
            head.weight.zero_()
            head.bias.copy_(torch.arange(len(head.bias)) + 100 * level)
    offsets = small(image(128)).offsets[0]
    counts = zip(small.grids, small.prior_spec.per_cell, strict=True)
    expected = [
        torch.arange(4 * count).view(count, 4).repeat(rows * columns, 1) + 100 * level
        for level, ((rows, columns), count) in enumerate(counts)
    ]
    assert torch.equal(offsets, torch.cat(expected).float())


class OneLevel(nn.Module):
    """The minimal backbone."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, kernel_size=3, stride=8)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.convolution(images.float())]


def test_any_module_with_feature_maps_is_a_backbone() -> None:
    spec = PriorSpec(scales=[0.2, 0.5], aspect_ratios=[[2]], clip="sizes")
    network = SSD(OneLevel(), spec, class_names=["thing"], image_size=32)
    assert network.grids == ((4, 4),)
    assert network(image(32)).logits.shape == (1, 64, 2)


def test_whole_numbers_as_mean_follow_the_weights_precision() -> None:
    backbone = MobileNetV1(width_multiplier=0.25, mean=[123, 117, 104], std=[1, 1, 1]).bfloat16().eval()
    assert backbone.pixel_norm(image(128)).dtype == torch.bfloat16


# Recipe


@torch.no_grad()
def test_a_recipe_rebuilds_the_same_network(small: SSD) -> None:
    rebuilt = build(json.loads(json.dumps(small.recipe())))
    rebuilt.load_state_dict(small.state_dict())
    images = image(128)
    ours, again = small.eval()(images), rebuilt.eval()(images)
    assert torch.equal(ours.logits, again.logits)
    assert torch.equal(ours.offsets, again.offsets)
    assert torch.equal(small.priors, rebuilt.priors)
    assert rebuilt.class_names == small.class_names
    assert rebuilt.recipe() == small.recipe()


def test_a_recipe_holds_the_backbones_arguments(ssd300: SSD) -> None:
    backbone = json.loads(json.dumps(ssd300.recipe()))["backbone"]
    mean = pytest.approx(yardstick.MEAN)
    expected = {"extras": "300", "conv4_3_norm": "l2", "mean": mean, "std": yardstick.STD}
    assert backbone == {"name": "vgg16", "arguments": expected}


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "recipe version 2: this program reads version 1"),
        ({"version": None}, "recipe version None"),
        ({"backbone": {"name": "os.system", "arguments": {}}}, "'os.system' is not one of .*mobilenet_v1, .*vgg16"),
        ({"backbone": {"name": "mobilenet_v1", "arguments": {"width": 1}}}, "width"),
        ({"backbone": {"name": "mobilenet_v1"}}, "arguments"),
        ({"backbone": None}, "TypeError"),
        ({"priors": {}}, "scales"),
        ({"priors": {"scales": [0.1, 0.2], "aspect_ratios": [[2]], "clip": "sizes"}}, "1 levels of priors"),
        ({"class_names": None}, "class_names None: must be a list"),
        ({"image_size": "300"}, "image_size '300': must be from 32"),
        ({"image_size": -1}, "image_size -1: must be from 32"),
    ],
)
def test_a_wrong_recipe_is_refused(change: dict[str, Any], message: str, small: SSD) -> None:
    with pytest.raises(CheckpointError, match=message):
        build(small.recipe() | change)


@pytest.mark.parametrize("field", ["version", "backbone", "priors", "class_names", "image_size"])
def test_a_recipe_without_a_field_is_refused(field: str, small: SSD) -> None:
    recipe = small.recipe()
    del recipe[field]
    with pytest.raises(CheckpointError, match=field):
        build(recipe)


# Freezing


def assert_equal_states(state: dict[str, Tensor], before: dict[str, Tensor]) -> None:
    assert state.keys() == before.keys()
    assert [name for name, tensor in state.items() if not torch.equal(tensor, before[name])] == []


def set_statistics(network: SSD) -> None:
    """Sets BatchNorm statistics from some images; with the initial ones the features of a deep network vanish."""
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    for layer in norms:
        layer.momentum = 1.0
    network.train()(image(128, images=4))
    for layer in norms:
        layer.momentum = 0.1


def changed_by_a_training_step(network: SSD) -> set[str]:
    """Names of the weights and statistics that one step of SGD moves."""
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.train()
    optimizer = torch.optim.SGD([weight for weight in network.parameters() if weight.requires_grad], lr=0.1)
    predictions = network(image(128, images=2))
    (predictions.logits.square().sum() + predictions.offsets.square().sum()).backward()
    optimizer.step()
    return {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}


@pytest.mark.parametrize(
    ("what", "held"),
    [("nothing", ()), ("base", ("backbone.base.",)), ("all_but_heads", ("backbone.",))],
)
def test_a_training_step_moves_all_but_the_frozen(what: Freeze, held: tuple[str, ...], small: SSD) -> None:
    """Statistics of frozen BatchNorm layers included. The pixel normalisation never moves."""
    set_statistics(small)
    small.freeze(what)
    everything = {name for name in small.state_dict() if "pixel_norm" not in name}
    assert changed_by_a_training_step(small) == {name for name in everything if not name.startswith(held)}


def test_frozen_statistics_stay_frozen_after_a_validation(small: SSD) -> None:
    small.freeze("base")
    small.eval()
    small.train()
    assert not small.backbone.base.training
    assert small.backbone.extras.training


def test_a_backbone_without_base_cannot_freeze_it() -> None:
    spec = PriorSpec(scales=[0.2, 0.5], aspect_ratios=[[2]], clip="sizes")
    network = SSD(OneLevel(), spec, class_names=["thing"], image_size=32)
    with pytest.raises(ConfigError, match="OneLevel has no module named base"):
        network.freeze("base")
