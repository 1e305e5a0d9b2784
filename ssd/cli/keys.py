"""Bounds and choices of settings, and types of the settings that are not constructor parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Len


@dataclass(frozen=True, slots=True)
class Key:
    """What a value must be.

    Args:
        type: of a setting that no constructor has; None: that of the constructor's parameter.
        low, high: bounds of a number; `low` itself is allowed unless `above`.
        auto: "auto" is allowed as well.
    """

    type: Any = None
    low: float = float("-inf")
    high: float = float("inf")
    above: bool = False
    auto: bool = False


def _positive(type: Any = None, high: float = float("inf")) -> Key:
    return Key(type, low=0, high=high, above=True)


_SHARE = Key(low=0, high=1)
_COUNT = Key(low=1)
_NAMES = str | list[str] | None

KEYS: dict[str, Key] = {  # COMMAND:KEY where a command differs
    "image_size": Key(int | Annotated[list[int], Len(2, 2)], low=32, high=4096, auto=True),
    "import_weights:image_size": Key(int | None, low=32, high=4096),
    "batch_size": Key(int, low=1),
    "train:batch_size": Key(int, low=1, auto=True),
    "plan": Key(bool),
    "dry_run": Key(bool),
    "budget_minutes": _positive(float | None),
    "steps": Key(int, low=1, auto=True),
    "epochs": Key(int | None, low=1),
    "validations": Key(int, low=1, auto=True),
    "num_workers": Key(int | None, low=0, high=256),
    "seed": Key(int, low=0, high=2**32 - 1),
    "resume": Key(str | None),
    "init_from": Key(str | None),
    "objective": Key(str),
    "save_every_minutes": _positive(float | None),
    "save_every_steps": Key(int | None, low=1),
    "module.freeze": Key(Literal["nothing", "base", "all_but_heads"]),
    "module.base_lr_multiplier": Key(float, low=0),
    "module.head_lr_multiplier": Key(float, low=0),
    "backbone.weights": Key(str | None),
    "backbone.first_stride": Key(auto=True),
    "backbone.width_multiplier": Key(low=0.05, high=4),
    "priors.file": Key(str | None),
    "priors.scales": Key(auto=True),
    "priors.aspect_ratios": Key(auto=True),
    "priors.steps_px": Key(auto=True),
    "priors.clip": Key(auto=True),
    "dataset.cache": Key(bool),
    "dataset.balance": _positive(float | None, high=1),
    "dataset.root": Key(str | list[str]),
    "dataset.negatives": Key(_NAMES),
    "dataset.val_share": _SHARE,
    "dataset.test_share": _SHARE,
    "dataset.seed": Key(low=0),
    "dataset.train": _COUNT,
    "dataset.val": Key(low=0),
    "dataset.test": Key(low=0),
    "dataset.side_px": Key(low=32, high=4096),
    "download.root": Key(str | list[str]),  # of several folders nothing is downloaded
    "download.max_images": _COUNT,
    "download.max_images_per_class": _COUNT,
    "download.seed": Key(low=0),
    "download.network.workers": Key(low=1, high=256),
    "download.network.tries": Key(low=1, high=100),
    "download.network.connect_timeout_s": _positive(),
    "download.network.read_timeout_s": _positive(),
    "optimizer.lr": Key(low=0, above=True, auto=True),
    "optimizer.weight_decay": Key(low=0),
    "optimizer.momentum": _SHARE,
    "scheduler.gamma": _SHARE,
    "scheduler.final": _SHARE,
    "scheduler.warmup": Key(low=0, high=0.99),
    "loss.match_threshold": _positive(high=1),
    "loss.negative_ratio": Key(low=0),
    "loss.localization_weight": Key(low=0),
    "postprocess.score_threshold": _SHARE,
    "postprocess.nms_threshold": _SHARE,
    "postprocess.topk_candidates": _COUNT,
    "postprocess.max_detections": _COUNT,
    "callbacks.ema.decay": _SHARE,
    "callbacks.visualizer.images": Key(low=0),
    "callbacks.visualizer.worst": Key(low=0),
    "callbacks.visualizer.side_px": Key(low=64, high=2048),
    "callbacks.visualizer.raw_images": Key(low=0),
    "trainer.precision": Key(Literal["auto", 32, "32-true", "16-mixed", "bf16-mixed"]),
    "trainer.num_nodes": _COUNT,
    "trainer.max_epochs": Key(int | None, low=-1),
    "trainer.max_steps": Key(low=-1),
    "trainer.val_check_interval": _positive(),
    "trainer.gradient_clip_val": Key(low=0),
    "trainer.accumulate_grad_batches": _COUNT,
    "trainer.check_val_every_n_epoch": _COUNT,
    "trainer.num_sanity_val_steps": Key(low=-1),
    "trainer.log_every_n_steps": _COUNT,
    # settings of single commands
    "checkpoint": Key(str),
    "evaluate:checkpoint": Key(str | list[str]),
    "source": Key(str),
    "output": Key(str),
    "benchmark:output": Key(str | None),
    "split": Key(Literal["train", "val", "test"]),
    "device": Key(str),
    "precision": Key(Literal["float32", "bfloat16", "float16"]),
    "save": Key(_NAMES),
    "classes": Key(_NAMES),
    "draw_threshold": Key(float | None, low=0, high=1),
    "tile": Key(int | None, low=32),  # MIN_TILE of ssd.inference.tiles
    "max_frames": Key(int | None, low=1),
    "track": Key(bool),
    "show": Key(bool),
    "resamples": Key(int, low=10, high=1_000_000),
    "worst": Key(int, low=0, high=1000),
    "images": Key(str | None),
    "quantize": Key(Literal["int8"] | None),
    "calibration_images": Key(int, low=1),
    "max_map_drop": Key(float, low=0, high=1),
    "throughput_batch": Key(int, low=1),
    "rounds": Key(int, low=1),
    "index": Key(str | None),
    "fit_priors": Key(bool | str | None),
    "stats_only": Key(bool),
    "class_names": Key(list[str] | None),
    "labels": Key(str | None),
    "channel_order": Key(Literal["rgb", "bgr"]),
}

# Paths and other text, which stay as typed
TEXT_KEYS = {
    *("resume", "init_from", "checkpoint", "source", "output", "images", "index", "labels", "save", "classes"),
    *("backbone.weights", "priors.file", "hydra.run.dir", "hydra.sweep.dir"),
    *("dataset.root", "dataset.negatives", "dataset.classes", "dataset.group_by", "dataset.images"),
    *("dataset.train_json", "dataset.val_json", "dataset.test_json", "dataset.data_yaml"),
    *("dataset.train_splits", "dataset.val_splits", "dataset.test_splits"),
}
