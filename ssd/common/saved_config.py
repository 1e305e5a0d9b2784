"""The saved configuration of a run: its files, and the keys and classes in it that were renamed since version 0.1.

Imports nothing heavy: the command line needs it before anything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

OVERRIDES_FILE = ".hydra/overrides.yaml"  # in a run folder
CONFIG_FILE = ".hydra/config.yaml"
RENAMED_KEYS = {  # a key below a renamed node follows its node
    "calibration_pictures": "calibration_images",
    "callbacks.pace": "callbacks.throughput",
    "callbacks.watch": "callbacks.visualizer",
    "callbacks.watch.pictures": "callbacks.visualizer.images",
    "callbacks.watch.raw_pictures": "callbacks.visualizer.raw_images",
    "download.pictures_url": "download.images_url",
    "loss.iou_threshold": "loss.match_threshold",
    "pictures": "images",
    "postprocess.candidates": "postprocess.topk_candidates",
    "postprocess.iou_threshold": "postprocess.nms_threshold",
}
RENAMED_TARGETS = {
    "ssd.backbones.MobileNetV1": "ssd.model.backbones.MobileNetV1",
    "ssd.backbones.VGG16": "ssd.model.backbones.VGG16",
    "ssd.data.coco.read_coco": "ssd.data.formats.coco.read_coco",
    "ssd.data.openimages.read_openimages": "ssd.data.formats.openimages.read_openimages",
    "ssd.data.shapes.read_shapes": "ssd.data.formats.shapes.read_shapes",
    "ssd.data.voc.read_voc": "ssd.data.formats.voc.read_voc",
    "ssd.downloads.fetch.Network": "ssd.common.http_client.Network",
    "ssd.downloads.openimages.OpenImagesDownload": "ssd.data.download.openimages.OpenImagesDownload",
    "ssd.downloads.voc.Archive": "ssd.data.download.voc.Archive",
    "ssd.downloads.voc.VocDownload": "ssd.data.download.voc.VocDownload",
    "ssd.ema.EMA": "ssd.training.ema.EMA",
    "ssd.losses.MultiBoxLoss": "ssd.model.loss.MultiBoxLoss",
    "ssd.monitoring.csv_logger.CsvLogger": "ssd.training.csv_logger.CsvLogger",
    "ssd.monitoring.pace.Pace": "ssd.training.progress_bar.Throughput",
    "ssd.monitoring.progress.Progress": "ssd.training.progress_bar.TrainingProgress",
    "ssd.monitoring.watch.Watch": "ssd.training.tensorboard.ValidationVisualizer",
    "ssd.postprocess.PostProcess": "ssd.model.postprocess.PostProcess",
    "ssd.priors.PriorSpec": "ssd.model.priors.PriorSpec",
    "ssd.schedules.cosine": "ssd.training.lr_schedules.cosine",
    "ssd.schedules.multistep": "ssd.training.lr_schedules.multistep",
}
# In version 0.1 an option of `dataset` also chose how to train: a run that it wrote gets these as overrides.
_IMPLIED_BY_DATASET = {
    "shapes": "backbone=mobilenet_v1_half augmentation=none image_size=128 batch_size=8 epochs=5 optimizer.lr=3e-3",
    "voc": "optimizer=sgd scheduler=multistep image_size=300 batch_size=32 epochs=232",
    "coco": "optimizer=sgd scheduler=multistep image_size=300 batch_size=32 epochs=65",
    "openimages": "optimizer=adamw scheduler=cosine image_size=300 batch_size=32 epochs=30",
}


def current_key(key: str) -> str:
    """Today's name of a config key, which is `key` itself unless it or a node above it was renamed."""
    for old in sorted(RENAMED_KEYS, key=len, reverse=True):
        if key == old or key.startswith(f"{old}."):
            return RENAMED_KEYS[old] + key.removeprefix(old)
    return key


def upgrade_overrides(overrides: Sequence[str], *, config: Any) -> list[str]:
    """The saved overrides of a run with today's keys.

    A run of version 0.1 also gets what its `dataset` option implied, and the values of its `priors` option, which may
    have been a file of its own.

    Args:
        overrides: lines such as `epochs=3` or `~callbacks.ema`.
        config: the run's saved configuration, from which its version shows.
    """
    lines = [_upgrade(line) for line in overrides]
    postprocess = config.get("postprocess") if isinstance(config, dict) else None
    if not isinstance(postprocess, dict) or "candidates" not in postprocess:  # not of version 0.1
        return lines
    settings = dict(line.lstrip("+~").partition("=")[::2] for line in lines)
    implied: list[str] = []
    if settings.get("experiment", "null") == "null":
        implied += _IMPLIED_BY_DATASET.get(settings.get("dataset", "shapes"), "").split()
    if "priors" in settings and isinstance(priors := config.get("priors"), dict):
        implied += [f"priors.{name}={str(value).replace(' ', '')}" for name, value in priors.items()]
    added = [line for line in implied if line.partition("=")[0] not in {*settings, "priors._target_"}]
    return [*added, *(line for line in lines if not line.startswith("priors="))]


def _upgrade(override: str) -> str:
    key, equals, value = override.partition("=")
    name = key.lstrip("+~")
    return f"{key.removesuffix(name)}{current_key(name)}{equals}{value}"
