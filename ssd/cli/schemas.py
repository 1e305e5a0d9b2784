"""Types and bounds of the configuration, as dataclasses; values live in conf/, once.

Hydra merges each file of conf/ onto its schema here, so a wrong type or an unknown name fails before anything starts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


def bounded(low: float, high: float = float("inf"), *, open_low: bool = False) -> Any:
    """A number from `low` (or above it, if `open_low`) to `high`."""
    return field(default=MISSING, metadata={"bounds": (low, high, open_low)})


@dataclass
class Train:
    backbone: Any = MISSING
    priors: Any = MISSING
    dataset: Any = MISSING
    download: Any = MISSING
    augmentation: Any = MISSING
    optimizer: Any = MISSING
    scheduler: Any = MISSING
    loss: Any = MISSING
    postprocess: Any = MISSING
    module: Any = MISSING
    trainer: Any = MISSING
    callbacks: Any = MISSING
    logger: Any = MISSING
    image_size: int = bounded(32, 4096)
    batch_size: int = bounded(1)
    epochs: int = bounded(1)
    num_workers: int | None = bounded(0, 256)
    seed: int = bounded(0, 2**32 - 1)
    resume: str | None = MISSING
    init_from: str | None = MISSING
    objective: str = MISSING
    save_every_minutes: float | None = bounded(0, open_low=True)
    save_every_steps: int | None = bounded(1)


@dataclass
class Module:
    freeze: str = MISSING
    base_lr_multiplier: float = bounded(0)
    head_lr_multiplier: float = bounded(0)


@dataclass
class Backbone:
    _target_: str = MISSING
    weights: str | None = MISSING
    mean: list[float] = MISSING
    std: list[float] = MISSING


@dataclass
class VGG16(Backbone):
    extras: str = MISSING
    conv4_3_norm: str = MISSING


@dataclass
class MobileNetV1(Backbone):
    width_multiplier: float = bounded(0.05, 4)


@dataclass
class Priors:
    _target_: str = MISSING
    scales: list[float] = MISSING
    aspect_ratios: list[Any] = MISSING
    steps_px: dict[int, Any] = MISSING
    clip: str = MISSING


@dataclass
class Dataset:
    _target_: str = MISSING
    _partial_: bool = True
    cache: bool = MISSING
    balance: float | None = bounded(0, 1, open_low=True)


@dataclass
class Shapes(Dataset):
    train: int = bounded(1)
    val: int = bounded(0)
    test: int = bounded(0)
    side_px: int = bounded(32, 4096)
    seed: int = bounded(0)


@dataclass
class Folder(Dataset):
    root: str = MISSING
    classes: list[str] | None = MISSING
    strict: bool = MISSING


@dataclass
class Voc(Folder):
    train_splits: list[str] | None = MISSING
    val_splits: list[str] | None = MISSING
    test_splits: list[str] | None = MISSING
    seed: int = bounded(0)


@dataclass
class Coco(Folder):
    train_json: str | None = MISSING
    val_json: str | None = MISSING
    test_json: str | None = MISSING
    images: str | None = MISSING
    seed: int = bounded(0)


@dataclass
class OpenImages(Folder):
    expand_hierarchy: bool = MISSING
    include_depictions: bool = MISSING


@dataclass
class Network:
    _target_: str = MISSING
    workers: int = bounded(1, 256)
    tries: int = bounded(1, 100)
    connect_timeout_s: float = bounded(0, open_low=True)
    read_timeout_s: float = bounded(0, open_low=True)


@dataclass
class DownloadOpenImages:
    _target_: str = MISSING
    root: str = MISSING
    classes: list[str] | None = MISSING
    expand_hierarchy: bool = MISSING
    include_depictions: bool = MISSING
    splits: list[str] = MISSING
    max_images: int | None = bounded(1)
    max_images_per_class: int | None = bounded(1)
    balance: bool = MISSING
    seed: int = bounded(0)
    annotations_url: str = MISSING
    images_url: str = MISSING
    network: Network = field(default_factory=Network)


@dataclass
class Archive:
    _target_: str = MISSING
    name: str = MISSING
    folder: str = MISSING
    bytes: int = bounded(1)
    md5: str = MISSING


@dataclass
class DownloadVoc:
    _target_: str = MISSING
    root: str = MISSING
    training_root: str = MISSING
    archives: list[Archive] = MISSING
    mirrors: list[str] = MISSING
    network: Network = field(default_factory=Network)


@dataclass
class Optimizer:
    _target_: str = MISSING
    _partial_: bool = True
    lr: float = bounded(0, open_low=True)
    weight_decay: float = bounded(0)
    fused: bool = MISSING


@dataclass
class SGD(Optimizer):
    momentum: float = bounded(0, 1)
    nesterov: bool = MISSING


@dataclass
class AdamW(Optimizer):
    betas: list[float] = MISSING


@dataclass
class Multistep:
    _target_: str = MISSING
    _partial_: bool = True
    milestones: list[float] = MISSING
    gamma: float = bounded(0, 1)
    warmup: float = bounded(0, 1)


@dataclass
class Cosine:
    _target_: str = MISSING
    _partial_: bool = True
    final: float = bounded(0, 1)
    warmup: float = bounded(0, 0.99)


@dataclass
class MultiBox:
    _target_: str = MISSING
    iou_threshold: float = bounded(0, 1, open_low=True)
    negative_ratio: float = bounded(0)
    localization_weight: float = bounded(0)


@dataclass
class PostProcess:
    _target_: str = MISSING
    score_threshold: float = bounded(0, 1)
    iou_threshold: float = bounded(0, 1)
    candidates: int = bounded(1)
    max_detections: int = bounded(1)


@dataclass
class Trainer:
    """The arguments of Lightning's Trainer that a user may want to set."""

    _target_: str = MISSING
    accelerator: str = MISSING
    devices: Any = MISSING
    num_nodes: int = bounded(1)
    strategy: str = MISSING
    precision: str = MISSING
    max_epochs: int = bounded(-1)
    max_steps: int = bounded(-1)
    max_time: str | None = MISSING
    gradient_clip_val: float | None = bounded(0)
    accumulate_grad_batches: int = bounded(1)
    check_val_every_n_epoch: int | None = bounded(1)
    val_check_interval: Any = MISSING
    limit_train_batches: Any = MISSING
    limit_val_batches: Any = MISSING
    limit_test_batches: Any = MISSING
    num_sanity_val_steps: int = bounded(-1)
    log_every_n_steps: int = bounded(1)
    deterministic: Any = MISSING
    benchmark: bool = MISSING
    sync_batchnorm: bool = MISSING
    profiler: str | None = MISSING


@dataclass
class Ema:
    _target_: str = MISSING
    decay: float = bounded(0, 1)


@dataclass
class Visualizer:
    _target_: str = MISSING
    images: int = bounded(0)
    worst: int = bounded(0)
    side_px: int = bounded(64, 2048)
    raw_images: int = bounded(0)


SCHEMAS: dict[str, type] = {
    "train": Train,
    "module": Module,
    "backbone/vgg16": VGG16,
    "backbone/mobilenet_v1": MobileNetV1,
    "priors": Priors,
    "dataset/shapes": Shapes,
    "dataset/voc": Voc,
    "dataset/coco": Coco,
    "dataset/openimages": OpenImages,
    "download/openimages": DownloadOpenImages,
    "download/voc": DownloadVoc,
    "optimizer/sgd": SGD,
    "optimizer/adamw": AdamW,
    "scheduler/multistep": Multistep,
    "scheduler/cosine": Cosine,
    "loss": MultiBox,
    "postprocess": PostProcess,
    "trainer": Trainer,
    "ema": Ema,
    "visualizer": Visualizer,
}


@dataclass
class Download(Train):
    stats_only: bool = MISSING


@dataclass
class Evaluate(Train):
    checkpoint: Any = MISSING
    split: str = MISSING
    output: str = MISSING
    device: str = MISSING
    resamples: int = bounded(10, 1_000_000)
    worst: int = bounded(0, 1000)


@dataclass
class Predict:
    checkpoint: str = MISSING
    source: str = MISSING
    output: str = MISSING
    postprocess: Any = MISSING
    save: Any = MISSING  # a name, a list of names, or null
    classes: Any = MISSING  # the same
    draw_threshold: float = bounded(0, 1)
    max_frames: int | None = bounded(1)
    track: bool = MISSING
    show: bool = MISSING
    batch_size: int = bounded(1)
    device: str = MISSING
    precision: str = MISSING


@dataclass
class ImportWeights:
    source: str = MISSING
    output: str = MISSING
    class_names: list[str] | None = MISSING
    labels: str | None = MISSING
    channel_order: str = MISSING
    image_size: int | None = bounded(32, 4096)


@dataclass
class Export(Train):
    checkpoint: str = MISSING
    output: str = MISSING
    images: str | None = MISSING
    quantize: str | None = MISSING
    calibration_images: int = bounded(1)
    split: str = MISSING
    max_map_drop: float = bounded(0, 1)


@dataclass
class Benchmark(Train):
    checkpoint: str = MISSING
    split: str = MISSING
    calibration_images: int = bounded(1)
    throughput_batch: int = bounded(1)
    rounds: int = bounded(1)
    output: str | None = MISSING


@dataclass
class Inspect(Train):
    output: str = MISSING
    fit_priors: Any = MISSING


COMMANDS: dict[str, type] = {
    "download": Download,
    "evaluate": Evaluate,
    "predict": Predict,
    "inspect": Inspect,
    "import_weights": ImportWeights,
    "export": Export,
    "benchmark": Benchmark,
}
