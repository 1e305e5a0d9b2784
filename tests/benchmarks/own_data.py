"""Trains on folders with the plan, and beside it with changed settings: mAP on the test split, by set and seed.

    python tests/benchmarks/own_data.py FOLDER... [--seeds 0 1 2] [--grid] [--change NAME SETTING...] [--output DIR] \
        [-- SETTING...]

Each row is `python train.py dataset.root=FOLDER SETTING...` with a seed. `--grid` adds the fixed grid of 12 runs (3
learning rates, 2 optimizers, 2 batch sizes, with the steps of the plan); `--change` adds a row with other settings, for
an ablation, and may be repeated. What is in DIR already is not run again.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
PLAN = "plan"
METRICS = ("test/map_50", "test/map")
LEARNING_RATES = {"adamw": ("3e-4", "1e-3", "3e-3"), "sgd": ("1.5e-3", "5e-3", "1.5e-2")}
BATCH_SIZES = (8, 16)


def run(folder: Path, settings: Sequence[str]) -> dict[str, float]:
    """Trains once, unless `folder` holds the result; mAP@0.5 and mAP on the test split."""
    scores = read_scores(folder)
    if scores is None:
        command = [sys.executable, "train.py", *settings, f"hydra.run.dir={folder}"]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        scores = read_scores(folder)
    assert scores is not None, f"{folder} has no results of a test"
    return scores


def read_scores(folder: Path) -> dict[str, float] | None:
    """What a run logged of its test; None if it has not ended."""
    path = folder / "metrics.csv"
    if not path.exists():
        return None
    with path.open() as file:
        rows = [row for row in csv.DictReader(file) if row.get(METRICS[0])]
    return {name: float(rows[-1][name]) for name in METRICS} if rows else None


def grid(plan_folder: Path) -> Iterator[tuple[str, list[str]]]:
    """The 12 runs, as long as the planned one."""
    steps = yaml.safe_load((plan_folder / "plan.yaml").read_text())["steps"]["value"]
    for (optimizer, rates), batch_size in itertools.product(LEARNING_RATES.items(), BATCH_SIZES):
        for rate in rates:
            settings = [f"optimizer={optimizer}", f"optimizer.lr={rate}", f"batch_size={batch_size}", f"steps={steps}"]
            yield f"grid {optimizer} {rate} {batch_size}", settings


def main() -> None:
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--grid", action="store_true")
    parser.add_argument("--change", nargs="+", action="append", default=[])
    parser.add_argument("--output", type=Path, default=Path("runs/own_data"))
    arguments, settings = split(sys.argv[1:])
    options = parser.parse_args(arguments)
    print("| data | run | seeds | mAP@0.5 | mAP |\n|---|---|---|---|---|")
    for data in options.folders:
        place = options.output.resolve() / data.name
        planned = report(place, data, PLAN, settings, options.seeds)
        for name, *changes in options.change:
            report(place, data, name, [*settings, *changes], options.seeds)
        if options.grid:
            first = options.seeds[:1]
            others = [
                report(place, data, name, [*settings, *changes], first)
                for name, changes in grid(place / f"{PLAN} {first[0]}")
            ]
            shares = " | ".join(f"{planned[key] / max(scores[key] for scores in others):.2f}" for key in METRICS)
            print(f"| {data.name} | plan / best of the grid | | {shares} |", flush=True)


def report(place: Path, data: Path, name: str, settings: Sequence[str], seeds: Sequence[int]) -> dict[str, float]:
    """Runs all seeds, prints mean and standard deviation, and returns the means."""
    fixed = [f"dataset.root={data.resolve()}", *settings]
    runs = [run(place / f"{name} {seed}", [*fixed, f"seed={seed}"]) for seed in seeds]
    means = {key: statistics.fmean(scores[key] for scores in runs) for key in METRICS}
    spread = {key: statistics.stdev(scores[key] for scores in runs) if len(runs) > 1 else None for key in METRICS}
    cells = [f"{means[key]:.3f}" + ("" if spread[key] is None else f" ± {spread[key]:.3f}") for key in METRICS]
    print(f"| {data.name} | {name} | {len(seeds)} | {' | '.join(cells)} |", flush=True)
    return means


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The options of this program, and the settings after `--`."""
    position = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:position], arguments[position + 1 :]


if __name__ == "__main__":
    main()
