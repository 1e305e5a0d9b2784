"""Checkpoints: round trip; damaged, foreign and hostile files are refused in one line."""

from __future__ import annotations

import json
import os
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ssd.common.errors import CheckpointError
from ssd.model.backbones import MobileNetV1
from ssd.model.priors import PriorSpec
from ssd.model.ssd import SSD
from ssd.weights import checkpoint


@pytest.fixture
def model(mobilenet_v1: PriorSpec) -> SSD:
    backbone = MobileNetV1(width_multiplier=0.25, mean=[127.0] * 3, std=[128.0] * 3)
    return SSD(backbone, mobilenet_v1, class_names=["cat", "dog"], image_size=96).eval()


@pytest.fixture
def release(model: SSD, tmp_path: Path) -> Path:
    checkpoint.save_release(model, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def lightning_file(model: SSD, path: Path, **changes: Any) -> Path:
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": state, "recipe": model.recipe(), **changes}, path)
    return path


def test_release_and_lightning_checkpoint_give_the_same_network(model: SSD, release: Path, tmp_path: Path) -> None:
    images = torch.randint(0, 256, (1, 3, 96, 96), dtype=torch.uint8)
    expected = model(images)
    for path in (release, lightning_file(model, tmp_path / "a.ckpt")):
        loaded = checkpoint.load(path)
        assert loaded.class_names == ("cat", "dog")
        assert not loaded.training
        assert torch.equal(loaded(images).logits, expected.logits)


def refused(path: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as error:
        checkpoint.load(path)
    assert str(path) in str(error.value) or "recipe" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"PK\x03\x04 half a zip", os.urandom(1000)])
def test_a_file_that_is_not_a_checkpoint_is_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    refused(path, "damaged|refused")


def test_a_text_file_is_not_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# Read me\n")
    refused(tmp_path / "README.md", r"not a checkpoint, or damaged: give model\.safetensors or a \.ckpt of a run")


def test_missing_file_and_folder_are_named(tmp_path: Path) -> None:
    refused(tmp_path / "nothing.ckpt", "no such checkpoint")
    refused(tmp_path, "it is a folder, not a regular file; give checkpoints/best.ckpt")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_truncated_files_are_refused(model: SSD, release: Path, tmp_path: Path, share: float) -> None:
    for path in (release, lightning_file(model, tmp_path / "a.ckpt")):
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])
        refused(path, "damaged")


def test_a_pickle_that_carries_code_is_refused_and_not_run(tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(canary),)

    torch.save({"state_dict": {}, "recipe": Payload()}, tmp_path / "zip.ckpt")
    (tmp_path / "plain.ckpt").write_bytes(pickle.dumps(Payload()))
    refused(tmp_path / "zip.ckpt", r"refused: it holds posix\.mkdir, and objects are never loaded")
    refused(tmp_path / "plain.ckpt", "refused: it was not written by torch.save; give")
    assert not canary.exists()


def test_weights_that_are_not_finite_are_refused(model: SSD, tmp_path: Path) -> None:
    model.classification_heads[0].weight.data[0, 0, 0, 0] = float("nan")
    refused(lightning_file(model, tmp_path / "a.ckpt"), r"classification_heads\.0\.weight holds NaN")


def test_shapes_and_names_must_fit(model: SSD, tmp_path: Path) -> None:
    recipe = model.recipe() | {"class_names": ["cat", "dog", "bird"]}
    refused(lightning_file(model, tmp_path / "a.ckpt", recipe=recipe), "has shape .* the network needs")
    refused(lightning_file(model, tmp_path / "b.ckpt", state_dict={}), "has shape None")


@pytest.mark.parametrize(
    "change", [{"version": 99}, {"backbone": {"name": "os.system", "arguments": {}}}, {"priors": 3}]
)
def test_foreign_recipes_are_refused(model: SSD, tmp_path: Path, change: dict[str, Any]) -> None:
    refused(lightning_file(model, tmp_path / "a.ckpt", recipe=model.recipe() | change), "recipe|backbone")


def test_files_without_a_recipe_are_refused(model: SSD, tmp_path: Path) -> None:
    torch.save(model.state_dict(), tmp_path / "a.ckpt")
    refused(tmp_path / "a.ckpt", "no recipe")
    save_file(model.state_dict(), tmp_path / "b.safetensors", metadata={"recipe": json.dumps(None)})
    refused(tmp_path / "b.safetensors", "no recipe")


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_a_flipped_bit_is_noticed(model: SSD, release: Path, tmp_path: Path, suffix: str) -> None:
    """Except in parts that are not read: names and dates in the archive, padding of the header."""
    path = release if suffix == ".safetensors" else lightning_file(model, tmp_path / "a.ckpt")
    whole = path.read_bytes()
    intact = checkpoint.load(path)
    chance = random.Random(0)
    noticed = 0
    for place in chance.sample(range(len(whole)), 60) + chance.sample(range(2000), 60):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        try:
            loaded = checkpoint.load(path)
        except CheckpointError:
            noticed += 1
        else:
            assert loaded.recipe() == intact.recipe()
            assert all(torch.equal(value, intact.state_dict()[name]) for name, value in loaded.state_dict().items())
    assert noticed > 100 if suffix == ".safetensors" else noticed > 60


def test_a_release_without_a_recipe_checksum_loads(model: SSD, release: Path, tmp_path: Path) -> None:
    with safe_open(release, framework="pt") as file:
        metadata = file.metadata()
    del metadata["recipe_sha256"]
    save_file(model.state_dict(), tmp_path / "old.safetensors", metadata=metadata)
    assert checkpoint.load(tmp_path / "old.safetensors").class_names == ("cat", "dog")
