"""Initialisation from other weights: what fits is copied, classes by name, and reported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import hydra
import pytest
import third_party_reference as reference
import torch
from composed import CONF
from forked import TINY, run
from hydra.core.global_hydra import GlobalHydra
from torch import Tensor

from ssd.cli import build
from ssd.cli.app import register_resolvers
from ssd.common.errors import CheckpointError, ConfigError
from ssd.model.backbones import VGG16, MobileNetV1
from ssd.model.priors import PriorSpec
from ssd.model.ssd import SSD
from ssd.weights import checkpoint
from ssd.weights.transfer import init_from


def mobilenet(priors: PriorSpec, *class_names: str, width: float = 0.25, mean: float = 127.0) -> SSD:
    backbone = MobileNetV1(width_multiplier=width, mean=[mean] * 3, std=[128.0] * 3)
    return SSD(backbone, priors, class_names=class_names, image_size=96)


def randomised(model: SSD) -> SSD:
    """With random weights, biases and statistics."""
    for key, value in model.state_dict().items():
        if value.is_floating_point() and "pixel_norm" not in key:
            value.copy_(torch.rand_like(value))
    return model


@pytest.fixture
def source(mobilenet_v1: PriorSpec) -> SSD:
    return randomised(mobilenet(mobilenet_v1, "cat", "Dog", "bird"))


@pytest.fixture
def release(source: SSD, tmp_path: Path) -> str:
    path = tmp_path / "model.safetensors"
    checkpoint.save_release(source, path)
    return str(path)


def rows(head: torch.nn.Module, column: int, *, columns: int) -> list[Tensor]:
    """Weights and biases of one class in a head with six anchors."""
    indices = [anchor * columns + column for anchor in range(6)]
    return [parameter[indices] for parameter in head.parameters()]


def equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_heads_are_copied_class_by_class(source: SSD, release: str, mobilenet_v1: PriorSpec) -> None:
    model = mobilenet(mobilenet_v1, "fish", "dog", "CAT")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    lines = init_from(model, release)
    for head, theirs in zip(model.classification_heads, source.classification_heads, strict=True):
        for ours, their_column in ((0, 0), (2, 2), (3, 1)):  # background, dog, cat
            assert equal(rows(head, ours, columns=4), rows(theirs, their_column, columns=4))
    fresh = mobilenet(mobilenet_v1, "fish", "dog", "CAT")
    fresh.load_state_dict(before)
    for head, untouched in zip(model.classification_heads, fresh.classification_heads, strict=True):
        assert equal(rows(head, 1, columns=4), rows(untouched, 1, columns=4))  # fish
    own, theirs = model.state_dict(), source.state_dict()
    assert all(torch.equal(own[key], theirs[key]) for key in own if not key.startswith("classification_heads"))
    assert lines == [
        f"init_from={release}: mobilenet_v1, 3 classes",
        f"tensors: {len(own)} of {len(own)} copied (classification heads class by class); fresh: none; unused: none",
        "classes: kept dog, CAT; fresh: fish; unused: bird",
    ]


def test_the_same_classes_give_the_same_network(source: SSD, release: str, mobilenet_v1: PriorSpec) -> None:
    model = mobilenet(mobilenet_v1, *source.class_names)
    init_from(model, release)
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in model.state_dict().items())


def test_the_pixel_normalisation_is_copied_with_the_weights(release: str, mobilenet_v1: PriorSpec) -> None:
    model = mobilenet(mobilenet_v1, "cat", mean=100.0)
    lines = init_from(model, release)
    assert "pixel mean: [127.0, 127.0, 127.0] from the weights replaces [100.0, 100.0, 100.0]" in lines
    assert model.recipe()["backbone"]["arguments"]["mean"] == [127.0] * 3
    assert torch.equal(model.backbone.pixel_norm.mean.flatten(), torch.full((3,), 127.0))


def test_with_other_priors_heads_that_do_not_fit_stay_fresh(release: str, mobilenet_v1: PriorSpec) -> None:
    spec = replace(mobilenet_v1, aspect_ratios=[[2], *[[2, 3]] * 5], clip="all")
    model = mobilenet(spec, "cat")
    lines = init_from(model, release)
    assert "priors: those of this run; the weights were trained with clip sizes" in lines
    heads = "classification_heads.0.weight, classification_heads.0.bias, "
    heads += "localization_heads.0.weight, localization_heads.0.bias"
    assert f"fresh: {heads}; unused: {heads}" in lines[2]
    assert lines[-1] == "classes: kept cat; fresh: none; unused: Dog, bird"
    assert model.prior_spec == spec


def test_another_base_net_is_refused_and_the_fitting_one_named(
    release: str, mobilenet_v1: PriorSpec, vgg16_300: PriorSpec
) -> None:
    message = r"does not fit this run; choose backbone=mobilenet_v1 backbone.width_multiplier=0.25"
    with pytest.raises(CheckpointError, match=message):
        init_from(mobilenet(mobilenet_v1, "cat", width=0.5), release)
    vgg = VGG16(extras="300", mean=[123.0] * 3, std=[1.0] * 3)
    with pytest.raises(CheckpointError, match=message):
        init_from(SSD(vgg, vgg16_300, class_names=["cat"], image_size=128), release)


def test_ssd512_copies_what_it_shares_with_ssd300(tmp_path: Path, vgg16_512: PriorSpec) -> None:
    weights = reference.random_weights(reference.AMDEGROOT, outputs=21)
    torch.save(weights, tmp_path / "a.pth")
    vgg = VGG16(extras="512", mean=[123.0, 117.0, 104.0], std=[1.0] * 3)
    model = SSD(vgg, vgg16_512, class_names=["person"], image_size=256)
    lines = init_from(model, str(tmp_path / "a.pth"))
    assert torch.equal(model.backbone.base[33].weight, weights["vgg.33.weight"])
    assert torch.equal(model.backbone.conv4_3_norm.weight, weights["L2Norm.weight"])
    assert torch.equal(model.localization_heads[1].bias, weights["loc.1.bias"])
    assert "fresh: backbone.extras.4.0.weight, " in lines[2]
    count = len(model.state_dict())  # fresh: an extra level, and both heads of two levels
    assert lines[2].startswith(f"tensors: {count - 4 - 8} of {count} copied")


def test_a_base_net_is_loaded_into_the_base(tmp_path: Path, vgg16_300: PriorSpec) -> None:
    weights = reference.random_weights(reference.AMDEGROOT, outputs=2)
    base = {key.removeprefix("vgg."): value for key, value in weights.items() if key.startswith("vgg.")}
    torch.save(base, tmp_path / "vgg16_reducedfc.pth", _use_new_zipfile_serialization=False)
    vgg = VGG16(extras="300", mean=[123.0] * 3, std=[1.0] * 3)
    model = SSD(vgg, vgg16_300, class_names=["cat"], image_size=128)
    lines = init_from(model, str(tmp_path / "vgg16_reducedfc.pth"))
    assert lines[1].endswith("30 tensors loaded from " + str(tmp_path / "vgg16_reducedfc.pth") + ", 0 unused, 0 fresh")
    assert torch.equal(vgg.base[31].weight, base["31.weight"])


def test_training_starts_from_weights_of_another_program(tmp_path: Path) -> None:
    torch.save(reference.random_weights(reference.QFGAOHAO_MB1, outputs=3), tmp_path / "mb1.pth")
    (tmp_path / "labels.txt").write_text("BACKGROUND\nTriangle\nlorry\n")
    small = ["dataset.train=4", "dataset.val=2", "dataset.test=2", "batch_size=2", "epochs=1"]
    done = run(
        tmp_path, "train.py", *TINY, *small, "backbone.width_multiplier=1.0", "init_from=mb1.pth", "hydra.run.dir=run"
    )
    assert done.returncode == 0, done.stderr
    assert "mb1.pth: format: qfgaohao/pytorch-ssd mb1-ssd, 300x300 pixels" in done.stdout
    assert "classes: kept triangle; fresh: " in done.stdout
    (tmp_path / "mb1.pth").unlink()
    more = run(tmp_path, "train.py", "resume=run", "epochs=2")
    assert more.returncode == 0, more.stderr
    assert "init_from=" not in more.stdout


@pytest.mark.parametrize(
    ("overrides", "kind", "message"),
    [
        (["init_from=nothing.pth"], CheckpointError, "init_from=nothing.pth: no such file"),
        (["init_from=a.pth", "backbone.weights=imagenet"], ConfigError, "give one of the two"),
    ],
)
def test_invalid_initial_weights_are_refused(overrides: list[str], kind: type[Exception], message: str) -> None:
    register_resolvers()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose("train", overrides=overrides)
    GlobalHydra.instance().clear()
    with pytest.raises(kind, match=message):
        build.check_fit(config)
