"""What a run says: the data at its start, the table, the files and the next commands at its end."""

from __future__ import annotations

from pathlib import Path

from ssd.common.console import log, relative_to_cwd
from ssd.evaluation.report import metric_table


def show(scores: dict[str, float], class_names: tuple[str, ...], *, stage: str) -> None:
    """The results table; a class without objects has no score."""
    metrics = {name.removeprefix(f"{stage}/"): score for name, score in scores.items()}
    metric_table(metrics, class_names, title=f"{stage} results").log()


def show_files(folder: Path, best: Path) -> None:
    """Where everything is, and what to do next."""
    shown = relative_to_cwd(folder)
    log(f"written to {shown}:")
    for name, what in (
        (best.relative_to(folder), "best weights, with what a resumed run needs"),
        ("model.safetensors", "the release file: weights and recipe"),
        ("metrics.csv", "every logged number"),
        ("tensorboard", "the same, to look at"),
        ("train.log", "this text"),
    ):
        log(f"  {name!s:22} {what}")
    log("next:")
    log(f"  python predict.py checkpoint={shown}/model.safetensors source=FOLDER output=predictions")
    log(f"  tensorboard --logdir {shown.parent}")
