"""Printed at the end of a run: results, files, and the next commands."""

from __future__ import annotations

from pathlib import Path

from ssd.common.console import log, relative_to_cwd
from ssd.evaluation.report import metric_table


def log_results(scores: dict[str, float], class_names: tuple[str, ...], *, stage: str) -> None:
    """Prints the table of results; a class without objects has no AP."""
    metrics = {name.removeprefix(f"{stage}/"): score for name, score in scores.items()}
    metric_table(metrics, class_names, title=f"{stage} results").log()


def log_files(folder: Path, best: Path) -> None:
    """Prints the files of the run and the commands to run next."""
    shown = relative_to_cwd(folder)
    log(f"saved in {shown}:")
    for name, what in (
        (best.relative_to(folder), "best weights, with the state of the optimizer"),
        ("model.safetensors", "release file: weights and recipe"),
        ("metrics.csv", "all logged metrics"),
        ("tensorboard", "the same as curves, and images"),
        ("train.log", "this output"),
    ):
        log(f"  {name!s:22} {what}")
    log("next:")
    log(f"  python predict.py checkpoint={shown}/model.safetensors source=FOLDER output=predictions")
    log(f"  tensorboard --logdir {shown.parent}")
