"""Writes scalars, bounded images and curves to TensorBoard, and lays out its overview page."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence

import numpy as np
import pytorch_lightning as pl
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from torch.utils.tensorboard import SummaryWriter

from ssd.common.images import ImageArray
from ssd.evaluation.score_curves import ScoreCurve
from ssd.evaluation.tide import ERRORS

MAX_IMAGE_BYTES = 100_000
_JPEG_QUALITY = 85
_SHRINK_FACTOR = 0.8
_THRESHOLDS = 127  # the maximum of the PR curves plugin
_MAX_CLASSES = 12  # lines in a chart


def tensorboard_writer(trainer: pl.Trainer) -> SummaryWriter | None:
    """The writer of the run's TensorBoard logger; None without one, and in all processes but the first."""
    loggers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
    return loggers[0].experiment if loggers and trainer.is_global_zero else None


def add_scalars(writer: SummaryWriter, values: Mapping[str, float], step: int) -> None:
    """Writes each value as a curve of its own (SummaryWriter.add_scalars makes a run of each)."""
    for name, value in values.items():
        writer.add_scalar(name, value, step)


def add_image(writer: SummaryWriter, tag: str, pixels: ImageArray, step: int) -> None:
    """Writes a JPEG of at most MAX_IMAGE_BYTES; the image is shrunk until it fits.

    SummaryWriter.add_image encodes PNG only, five times the bytes of a photo's JPEG.
    """
    image = Image.fromarray(pixels)
    while len(data := _jpeg(image)) > MAX_IMAGE_BYTES:
        image = image.resize([max(1, int(side * _SHRINK_FACTOR)) for side in image.size])
    summary = Summary.Image(width=image.width, height=image.height, colorspace=3, encoded_image_string=data)
    writer._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=tag, image=summary)]), step)


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()


def add_curve(writer: SummaryWriter, tag: str, curve: ScoreCurve, step: int) -> None:
    """Writes precision and recall by score threshold. Detection has no true negatives: their count is 0."""
    rows = curve.at(np.linspace(0, 1, _THRESHOLDS))
    hits = np.rint(curve.recall * curve.objects)[rows]
    writer.add_pr_curve_raw(
        tag,
        true_positive_counts=hits,
        false_positive_counts=curve.kept[rows] - hits,
        true_negative_counts=np.zeros_like(hits),
        false_negative_counts=curve.objects - hits,
        precision=curve.precision[rows],
        recall=curve.recall[rows],
        global_step=step,
        num_thresholds=_THRESHOLDS,
    )


def overview(class_names: Sequence[str], *, levels: int) -> dict[str, dict[str, list[str | list[str]]]]:
    """The charts of the custom scalars tab; `levels` is the number of feature maps."""
    charts = {
        "mAP": ["val/map", "val/map_50", "val/map_75"],
        "mAP by object size": ["val/map_small", "val/map_medium", "val/map_large"],
        "AP by class": [f"val/map_class/{name}" for name in class_names[:_MAX_CLASSES]],
        "average recall": ["val/mar_1", "val/mar_10", "val/mar_100"],
        "mAP@0.5 on some images: averaged and raw weights": ["ema/map_50_average", "ema/map_50_raw"],
        "AP@0.5 lost by type of error": [f"errors/{error.title}" for error in ERRORS],
        "loss": ["train/loss", "val/loss"],
        "parts of the training loss": [
            f"train/loss_{part}" for part in ("localization", "classification_positive", "classification_negative")
        ],
        "gradient norm": ["train/gradient_norm"],
        "steps skipped because gradients overflowed 16 bits": ["train/skipped_steps"],
        "fraction of objects with a prior": ["matching/objects_matched", "matching/objects_over_iou"],
        "positives per image by level": [f"matching/positives_level_{level}" for level in range(1, levels + 1)],
        "images per second": ["time/images_per_second"],
        "fraction of time: waiting for data, visualization": ["time/data_wait_share", "time/visualization_share"],
        "memory in GB": ["memory/process_gb", "memory/gpu_gb"],
    }
    return {
        "Overview": {
            title: ["Multiline", [f"^{re.escape(tag)}$" for tag in tags]]  # exactly this tag
            for title, tags in charts.items()
        }
    }
