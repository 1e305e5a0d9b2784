"""What TensorBoard takes beside scalars: bounded pictures, precision-recall curves, the overview's layout."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence

import numpy as np
import pytorch_lightning as pl
from matplotlib.figure import Figure
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from torch.utils.tensorboard import SummaryWriter

from ssd.evaluation.analysis import ScoreCurve
from ssd.evaluation.tide import ERRORS
from ssd.images import Picture

MAX_BYTES = 100_000  # of a picture
_QUALITY = 85
_SHRINK = 0.8
_DPI = 100
_THRESHOLDS = 127  # the plugin's most
_NAMED_CLASSES = 12  # lines in a chart

Layout = dict[str, dict[str, list[str | list[str]]]]


def writer_of(trainer: pl.Trainer) -> SummaryWriter | None:
    """That of the run's TensorBoard logger; None without one, and in all processes but the first."""
    loggers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
    return loggers[0].experiment if loggers and trainer.is_global_zero else None


def add_scalars(writer: SummaryWriter, values: Mapping[str, float], step: int) -> None:
    """Under their names."""
    for name, value in values.items():
        writer.add_scalar(name, value, step)


def add_picture(writer: SummaryWriter, tag: str, picture: Picture, step: int) -> None:
    """A JPEG of at most MAX_BYTES; the picture shrinks until it fits."""
    image, data = Image.fromarray(picture), b""
    while not data or len(data) > MAX_BYTES:
        if data:
            image = image.resize((max(1, int(image.width * _SHRINK)), max(1, int(image.height * _SHRINK))))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=_QUALITY)
        data = buffer.getvalue()
    _add_image(writer, tag, data, image.size, step)


def add_figure(writer: SummaryWriter, tag: str, figure: Figure, step: int) -> None:
    """A chart as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    width, height = (figure.get_size_inches() * _DPI).astype(int)
    _add_image(writer, tag, buffer.getvalue(), (int(width), int(height)), step)


def add_curve(writer: SummaryWriter, tag: str, curve: ScoreCurve, step: int) -> None:
    """Precision and recall by score threshold. There are no true negatives in detection: their count is 0."""
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


def overview(class_names: Sequence[str], *, levels: int) -> Layout:
    """The charts of the custom scalars tab."""
    charts = {
        "mAP": ["val/map", "val/map_50", "val/map_75"],
        "mAP by size of the objects": ["val/map_small", "val/map_medium", "val/map_large"],
        "AP by class": [f"val/map_class/{name}" for name in class_names[:_NAMED_CLASSES]],
        "average recall": ["val/mar_1", "val/mar_10", "val/mar_100"],
        "mAP@0.5 of some pictures: averaged and raw weights": ["ema/map_50_average", "ema/map_50_raw"],
        "AP@0.5 lost by kind of error": [f"errors/{kind.title}" for kind in ERRORS],
        "loss": ["train/loss", "val/loss"],
        "parts of the training loss": [
            "train/loss_localization",
            "train/loss_classification_positive",
            "train/loss_classification_negative",
        ],
        "gradient norm": ["train/gradient_norm"],
        "steps skipped, their gradients too large for 16 bits": ["train/skipped_steps"],
        "share of objects with a prior": ["matching/objects_matched", "matching/objects_over_iou"],
        "positives of a picture by level": [f"matching/positives_level_{level}" for level in range(1, levels + 1)],
        "pictures a second": ["time/pictures_per_second"],
        "share of the time: waiting for data, watching": ["time/data_wait_share", "time/watching_share"],
        "memory in GB": ["memory/process_gb", "memory/gpu_gb"],
    }
    exact = {title: [f"^{re.escape(tag)}$" for tag in tags] for title, tags in charts.items()}
    return {"Overview": {title: ["Multiline", tags] for title, tags in exact.items()}}


def _add_image(writer: SummaryWriter, tag: str, data: bytes, size: tuple[int, int], step: int) -> None:
    """Encoded here: SummaryWriter.add_image knows only PNG, five times the bytes for a photograph."""
    image = Summary.Image(width=size[0], height=size[1], colorspace=3, encoded_image_string=data)
    writer._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)
