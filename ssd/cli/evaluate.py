"""Evaluates detectors on a dataset: ssd evaluate checkpoint=FILE dataset=... split=test; see --help."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from itertools import count
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig

from ssd.cli import build
from ssd.cli.overrides import explicit_overrides
from ssd.common import runtime
from ssd.common.atomic_files import write_atomically
from ssd.common.class_names import class_index
from ssd.common.console import log
from ssd.common.errors import ConfigError
from ssd.data.index import DetectionIndex
from ssd.data.splits import Splits, describe_data
from ssd.evaluation import evaluator, report
from ssd.evaluation.detect import detect, select_split
from ssd.evaluation.evaluator import Evaluation
from ssd.evaluation.matching import bootstrap_weights
from ssd.inference.detector import open_predictor
from ssd.inference.predictor import Predictor
from ssd.inference.tiles import check_tiles


def evaluate(config: DictConfig) -> None:
    """Prints the results and writes report.html and evaluation.json."""
    runtime.keep_freed_memory()
    runtime.quiet_libraries()
    paths = list(config.checkpoint) if isinstance(config.checkpoint, ListConfig) else [config.checkpoint]
    names = short_names(paths)
    postprocess, explicit = instantiate(config.postprocess), explicit_overrides("postprocess")
    tiling = {"tile": config.tile, "batch_size": config.batch_size}
    predictors = [
        open_predictor(path, postprocess, device=config.device, explicit_overrides=explicit, **tiling) for path in paths
    ]
    _, index = open_split(config, common_classes([predictor.class_names for predictor in predictors], names))
    if config.tile is not None:
        check_tiles(index.sizes, config.tile)
    folder = Path(config.output)
    folder.mkdir(parents=True, exist_ok=True)  # fails before the work, not after it
    evaluations: list[Evaluation] = []
    for name, predictor in zip(names, predictors, strict=True):
        evaluation, index = _evaluate(config, name, predictor, index)  # the first detector skips unreadable images
        evaluations.append(evaluation)
    comparisons = evaluator.compare(evaluations)
    report.print_results(evaluations, comparisons)
    for evaluation, predictor in zip(evaluations, predictors, strict=True):
        report.print_thresholds(evaluation, stored_thresholds(predictor, index.class_names))
    root = config.dataset.get("root")
    dataset = HydraConfig.get().runtime.choices["dataset"] + (f" in {root}" if root else "")
    title = f"{', '.join(names)} on {dataset}"
    tiles = f" in tiles of {config.tile} pixels" if config.tile else ""
    subtitle = f"{config.split} split: {len(index)} images{tiles}, {len(index.boxes)} objects; {', '.join(paths)}"
    page = report.as_page(evaluations, comparisons, index, title=title, subtitle=subtitle, worst=config.worst)
    metadata = {"checkpoints": paths, "dataset": dataset, "split": config.split, "images": len(index)}
    metadata |= {"tile": config.tile}
    numbers = report.as_json(evaluations, comparisons, metadata)
    for path, text in ((folder / "report.html", page), (folder / "evaluation.json", numbers)):
        write_atomically(path, text)
        log(f"written: {path}")


def _evaluate(
    config: DictConfig, name: str, predictor: Predictor, index: DetectionIndex
) -> tuple[Evaluation, DetectionIndex]:
    """The results, and the readable images that they are for."""
    reading = {"batch_size": config.batch_size, "num_workers": config.num_workers}
    detected = detect(predictor, index, class_names=predictor.class_names, **reading)
    weights = bootstrap_weights(len(detected.index), samples=config.resamples, seed=config.seed)
    results = evaluator.evaluate(name, detected.detections, detected.index, speed=detected.speed, weights=weights)
    return results, detected.index


def stored_thresholds(predictor: Predictor, class_names: Sequence[str]) -> dict[str, float]:
    """The score thresholds in the file of a detector, for the classes of a dataset; empty if it has none."""
    if predictor.thresholds is None:
        return {}
    labels = {name: class_index(name, predictor.class_names) for name in class_names}
    return {name: predictor.thresholds[label] for name, label in labels.items() if label is not None}


def short_names(paths: Sequence[str]) -> list[str]:
    """Names for the tables: the parts in which the paths differ, or the end of a single path.

    Raises:
        ConfigError: no path, or one given twice.
    """
    if not paths or len({Path(path).resolve() for path in paths}) < len(paths):
        raise ConfigError(f"checkpoint={list(paths)}: give one file, or several different ones")
    parts = [Path(path).parts for path in paths]
    if len(parts) == 1:
        return [str(Path(*parts[0][-2:]))]
    start = next(start for start in count() if len({part[start] for part in parts}) > 1)
    stop = next(stop for stop in count(start + 1) if len({part[:stop] for part in parts}) == len(parts))
    return [str(Path(*part[start:stop])) for part in parts]


def common_classes(class_lists: Sequence[Sequence[str]], names: Sequence[str]) -> tuple[str, ...]:
    """The classes that all detectors know, in the order of the first.

    Raises:
        ConfigError: there is none.
    """
    common = tuple(
        name for name in class_lists[0] if all(class_index(name, known) is not None for known in class_lists)
    )
    if not common:
        lists = "; ".join(f"{name} knows {', '.join(known)}" for name, known in zip(names, class_lists, strict=True))
        raise ConfigError(f"checkpoint: no class in common: {lists}")
    if any(len(known) != len(common) for known in class_lists):
        log(f"compared on the classes that all detectors know: {', '.join(common)}")
    return common


def chosen_classes(class_names: tuple[str, ...], requested: Sequence[str] | None) -> tuple[str, ...]:
    """The classes of a detector that `dataset.classes` requests, or all of them if it requests none or all."""
    chosen = tuple(name for name in class_names if class_index(name, list(requested or ())) is not None)
    if not 0 < len(chosen) < len(class_names):
        return class_names
    log(f"dataset.classes: evaluated on {', '.join(chosen)} only")
    return chosen


def open_split(config: DictConfig, class_names: tuple[str, ...]) -> tuple[Splits, DetectionIndex]:
    """Reads the dataset for a detector that knows `class_names`: (all splits, config.split with the detector's labels).

    The one rule that maps classes of a dataset to those of a checkpoint, for every command; see `select_split`.

    Raises:
        ConfigError: no dataset is given, or it has no such split or none of the classes.
    """
    config = deepcopy(config)
    class_names = chosen_classes(class_names, config.dataset.get("classes"))
    if "classes" in config.dataset:
        config.dataset.classes = list(class_names)
    splits = build.read_dataset(config)
    index = select_split(splits, config.split, class_names)
    this_split = {name: index if name == config.split else None for name in ("train", "val", "test")}
    for line in describe_data(Splits(**this_split, report=splits.report)):
        log(line)
    return splits, index


def read_evaluation_data(config: DictConfig, class_names: tuple[str, ...]) -> tuple[DetectionIndex, DetectionIndex]:
    """For export and benchmark: (images to calibrate int8 on, held-out images to measure mAP on).

    Raises:
        ConfigError: see `open_split`; or the split is not a held-out one.
    """
    if config.split not in ("val", "test"):
        raise ConfigError(f"split={config.split}: choose val or test; int8 is calibrated on the train split")
    splits, index = open_split(config, class_names)
    return index if splits.train is None else splits.train, index
