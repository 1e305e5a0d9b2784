"""What a run says: the data at its start, the table, the files and the next commands at its end."""

from __future__ import annotations

import logging
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ssd.data.balance import boxes_per_epoch, draws_per_epoch
from ssd.data.splits import Splits
from ssd.runtime import is_first_process

_log = logging.getLogger("ssd")
TITLES = {
    "map": "mAP@[.5:.95]",
    "map_50": "mAP@0.5",
    "map_75": "mAP@0.75",
    "map_small": "mAP small (< 32² px)",
    "map_medium": "mAP medium",
    "map_large": "mAP large (> 96² px)",
}


def say(line: str) -> None:
    """A line for the terminal and train.log; one process of several speaks."""
    if is_first_process():
        _log.info(line)


def from_here(path: Path) -> Path:
    """The path as a user in the current folder would write it."""
    path = path.resolve()
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def describe_data(splits: Splits, *, balance: float | None = None) -> list[str]:
    """Pictures and boxes of each split, what balance changes, what was mended, and classes without an object."""
    lines = []
    for name, index in splits.named():
        counts = ", ".join(
            f"{label} {count}" for label, count in zip(index.class_names, index.class_counts(), strict=True)
        )
        lines.append(f"{name}: {len(index)} pictures, {len(index.boxes)} boxes ({counts})")
    if splits.train is not None and balance is not None:
        seen = boxes_per_epoch(splits.train, draws_per_epoch(splits.train, balance))
        counts = ", ".join(f"{label} {count:.0f}" for label, count in zip(splits.class_names, seen, strict=True))
        lines.append(f"dataset.balance={balance:g}: boxes seen in an epoch of training, on average: {counts}")
    lines += [f"data: {line}" for line in splits.report.summary_lines()]
    for name, index in splits.named():
        absent = [label for label, count in zip(index.class_names, index.class_counts(), strict=True) if not count]
        if absent:
            lines.append(f"warning: the {name} split has no object of {', '.join(absent)}")
    return lines


def show(scores: dict[str, float], class_names: tuple[str, ...], *, stage: str) -> None:
    """The results table; a class without objects has no score."""
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
    say_table(table)


def say_table(table: Table) -> None:
    """A table for the terminal and train.log."""
    console = Console(soft_wrap=True, markup=False, emoji=False)  # names may hold brackets
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().rstrip().splitlines():
        say(line)


def show_files(folder: Path, best: Path) -> None:
    """Where everything is, and what to do next."""
    shown = from_here(folder)
    say(f"written to {shown}:")
    for name, what in (
        (best.relative_to(folder), "best weights, with what a resumed run needs"),
        ("model.safetensors", "the release file: weights and recipe"),
        ("metrics.csv", "every logged number"),
        ("tensorboard", "the same, to look at"),
        ("train.log", "this text"),
    ):
        say(f"  {name!s:22} {what}")
    say("next:")
    say(f"  python predict.py checkpoint={shown}/model.safetensors source=FOLDER output=predictions")
    say(f"  tensorboard --logdir {shown.parent}")
