"""The training step, on a tiny network with real data."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from ssd.common.errors import NonFiniteLossError
from ssd.data.augmentation import Augmentation, SSDWindow
from ssd.data.datamodule import DetectionDataModule
from ssd.data.formats.shapes import read_shapes
from ssd.model.backbones import MobileNetV1
from ssd.model.loss import MultiBoxLoss
from ssd.model.postprocess import PostProcess
from ssd.model.priors import PriorSpec
from ssd.model.ssd import SSD
from ssd.training.ema import EMA
from ssd.training.finite_guard import FiniteGuard
from ssd.training.lightning_module import SSDModule
from ssd.training.lr_schedules import cosine, multistep

SIZE = 96
PIXELS = {"mean": [127.0] * 3, "std": [128.0] * 3}


def network(classes: tuple[str, ...], priors: PriorSpec) -> SSD:
    torch.manual_seed(0)
    backbone = MobileNetV1(width_multiplier=0.25, **PIXELS)
    return SSD(backbone, priors, class_names=classes, image_size=SIZE)


def module(model: SSD, *, lr: float = 1e-3, **arguments: Any) -> SSDModule:
    return SSDModule(
        model,
        loss=MultiBoxLoss(match_threshold=0.5, negative_ratio=3, localization_weight=1),
        postprocess=PostProcess(score_threshold=0.01, nms_threshold=0.45, topk_candidates=400, max_detections=100),
        optimizer=partial(torch.optim.AdamW, lr=lr, weight_decay=0.01, fused=True),
        scheduler=partial(cosine, final=0.01, warmup=0.05),
        **arguments,
    )


def data(*, train: int, batch_size: int, val: int = 4) -> DetectionDataModule:
    resize = Augmentation([SSDWindow.resize(SIZE)])
    return DetectionDataModule(
        partial(read_shapes, train=train, val=val, test=0, side_px=SIZE, seed=1),
        train_augmentation=resize,
        eval_augmentation=resize,
        batch_size=batch_size,
        num_workers=0,
        seed=0,
    )


def trainer(folder: Path, **arguments: Any) -> pl.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    defaults = {"enable_checkpointing": False, "use_distributed_sampler": False, "num_sanity_val_steps": 0}
    return pl.Trainer(default_root_dir=folder, **(quiet | defaults | arguments))


@pytest.fixture
def priors(mobilenet_v1: PriorSpec) -> PriorSpec:
    return mobilenet_v1


def overfit(folder: Path, priors: PriorSpec) -> dict[str, float]:
    """Trains on four images and validates on the same four."""
    images = data(train=4, batch_size=4)
    splits = images.splits
    object.__setattr__(splits, "val", splits.train)
    lightning = trainer(folder, max_epochs=150, check_val_every_n_epoch=150)
    lightning.fit(module(network(splits.class_names, priors), lr=3e-3), images)
    return {name: float(value) for name, value in lightning.callback_metrics.items()}


def test_overfitting_four_images_reaches_a_perfect_map_50(tmp_path: Path, priors: PriorSpec) -> None:
    metrics = overfit(tmp_path, priors)
    assert metrics["val/map_50"] == pytest.approx(1.0, abs=1e-6)
    assert metrics["val/loss"] < 0.5


def test_metric_names_are_those_of_the_design(tmp_path: Path, priors: PriorSpec) -> None:
    images = data(train=4, batch_size=2)
    lightning = trainer(tmp_path, max_epochs=1)
    lightning.fit(module(network(images.class_names, priors)), images)
    logged = set(lightning.callback_metrics)
    for stage in ("train", "val"):
        assert {f"{stage}/loss", f"{stage}/loss_classification", f"{stage}/loss_localization"} <= logged
    assert {"val/map", "val/map_50", "val/map_75"} <= logged
    present = {images.class_names[label] for label in images.splits.val.labels}  # type: ignore[union-attr]
    assert {name for name in logged if "map_class" in name} == {f"val/map_class/{name}" for name in present}


def test_a_non_finite_loss_stops_before_the_update_and_names_step_and_images(tmp_path: Path, priors: PriorSpec) -> None:
    images = data(train=8, batch_size=2)
    training = module(network(images.class_names, priors))
    poisoned: list[torch.Tensor] = []

    def poison(*_: Any) -> None:
        if training.global_step == 2:
            poisoned.extend(parameter.detach().clone() for parameter in training.parameters())
            training.loss.localization_weight = float("nan")

    callback = pl.Callback()
    callback.on_train_batch_start = poison  # type: ignore[method-assign]
    with pytest.raises(NonFiniteLossError, match=r"step 3: .* images train/0000\d\d, train/0000\d\d"):
        trainer(tmp_path, max_epochs=1, callbacks=[callback]).fit(training, images)
    assert poisoned
    for before, after in zip(poisoned, training.parameters(), strict=True):
        assert torch.equal(before, after)


def test_the_guard_lets_finite_values_through() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1)
    FiniteGuard().check(optimizer, [torch.tensor(1.0), torch.tensor(2.0)], step=1, ids=("a",))
    with pytest.raises(NonFiniteLossError, match="step 2"):
        FiniteGuard().check(optimizer, [torch.tensor(1.0), torch.tensor(float("inf"))], step=2, ids=("a",))


def test_parameter_groups_cover_every_weight_once_and_spare_norms_and_biases(priors: PriorSpec) -> None:
    training = module(network(("a", "b"), priors), base_lr_multiplier=0.1, head_lr_multiplier=2.0)
    groups = training.parameter_groups()
    parameters = [parameter for group in groups for parameter in group["params"]]
    assert len(parameters) == len(set(parameters)) == len(list(training.model.parameters()))
    for group in groups:
        spared = group.get("weight_decay") == 0.0
        assert all((parameter.ndim == 1) == spared for parameter in group["params"])
    multipliers = {group["name"]: group["lr_multiplier"] for group in groups}
    assert multipliers["base"] == 0.1
    assert multipliers["heads"] == 2.0
    assert multipliers["extras"] == 1.0


def test_ema_validates_and_saves_the_average(tmp_path: Path, priors: PriorSpec) -> None:
    images = data(train=8, batch_size=2)
    training = module(network(images.class_names, priors))
    ema = EMA(decay=0.9)
    seen: list[torch.Tensor] = []
    original = training.validation_step
    training.validation_step = lambda *batch: (seen.append(_weight(training).clone()), original(*batch))[0]  # type: ignore
    lightning = trainer(tmp_path, max_epochs=2, callbacks=[ema])
    lightning.fit(training, images)
    raw = _weight(training)
    assert not torch.equal(seen[-1], raw)
    lightning.save_checkpoint(tmp_path / "a.ckpt")
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)
    key = "model.classification_heads.0.weight"
    assert torch.equal(saved["state_dict"][key], seen[-1])
    assert torch.equal(saved["raw_state_dict"][key], raw)


def _weight(training: SSDModule) -> torch.Tensor:
    return training.model.classification_heads[0].weight.detach()


def test_schedules_follow_the_shares_of_the_run() -> None:
    def factors(schedule: Any, **arguments: Any) -> list[float]:
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        scheduler = schedule(optimizer, total_steps=100, **arguments)
        values = []
        for _ in range(100):
            values.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        return values

    steps = factors(multistep, milestones=[0.6667, 0.8333], gamma=0.1, warmup=0.0)
    assert (steps[0], steps[66], steps[67], steps[84]) == pytest.approx((1, 1, 0.1, 0.01))
    waves = factors(cosine, final=0.01, warmup=0.1)
    assert waves[0] == pytest.approx(0.01)
    assert waves[10] == max(waves) == pytest.approx(1.0)
    assert waves[-1] == pytest.approx(0.01, abs=1e-3)
    assert waves[10:] == sorted(waves[10:], reverse=True)
