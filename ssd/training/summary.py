"""Printed at the end of a run: results, files, and the next commands."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from ssd.common.console import log, log_table, relative_to_cwd

TITLES = {
    "map": "mAP@[.5:.95]",
    "map_50": "mAP@0.5",
    "map_75": "mAP@0.75",
    "map_small": "mAP small (< 32² px)",
    "map_medium": "mAP medium",
    "map_large": "mAP large (> 96² px)",
}


def log_results(scores: dict[str, float], class_names: tuple[str, ...], *, stage: str) -> None:
    """Prints the table of results; a class without objects has no AP."""
    table = Table(title=f"{stage} results", title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, title in TITLES.items():
        if f"{stage}/{name}" in scores:
            table.add_row(title, f"{scores[f'{stage}/{name}']:.3f}")
    table.add_section()
    for name in class_names:
        score = scores.get(f"{stage}/map_class/{name}")
        table.add_row(f"AP {name}", "no objects" if score is None else f"{score:.3f}")
    log_table(table)


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
