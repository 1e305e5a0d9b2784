"""Types and bounds of the settings of the commands beside training; those that need data take training's as well."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from ssd.schemas import Train, bounded


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
    pictures: str | None = MISSING
    quantize: str | None = MISSING
    calibration_pictures: int = bounded(1)
    split: str = MISSING
    max_map_drop: float = bounded(0, 1)


@dataclass
class Benchmark(Train):
    checkpoint: str = MISSING
    split: str = MISSING
    calibration_pictures: int = bounded(1)
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
