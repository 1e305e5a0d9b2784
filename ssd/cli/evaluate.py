"""Measures detectors: python -m ssd evaluate checkpoint=FILE dataset=... split=test; see --help."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ssd.cli.app import explicit_overrides
from ssd.common.errors import ConfigError, MachineError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from omegaconf import DictConfig

    from ssd.data.index import DetectionIndex
    from ssd.data.splits import Splits
    from ssd.evaluation.evaluator import Evaluation
    from ssd.inference.predictor import Predictor


def evaluate(config: DictConfig) -> None:
    """Shows the tables; writes report.html and evaluation.json."""
    from omegaconf import ListConfig

    from ssd.common import runtime
    from ssd.evaluation import evaluator, report

    runtime.keep_freed_memory()
    runtime.quiet_libraries()
    paths = list(config.checkpoint) if isinstance(config.checkpoint, ListConfig) else [config.checkpoint]
    names = short_names(paths)
    predictors = [_open(config, path) for path in paths]
    common = common_classes([predictor.class_names for predictor in predictors], names)
    index = read_split(config, chosen_classes(common, config.dataset.get("classes")))
    folder = _make_folder(config.output)
    evaluations = [_measure(config, name, item, index) for name, item in zip(names, predictors, strict=True)]
    comparisons = evaluator.compare(evaluations)
    report.show(evaluations, comparisons)
    data = _describe(config)
    page = report.as_page(
        evaluations,
        comparisons,
        index,
        title=f"{', '.join(names)} on {data}",
        subtitle=f"{config.split} split: {len(index)} images, {len(index.boxes)} objects; {', '.join(paths)}",
        worst=config.worst,
    )
    facts = {"checkpoints": paths, "dataset": data, "split": config.split, "images": len(index)}
    _write(folder / "report.html", page)
    _write(folder / "evaluation.json", report.as_json(evaluations, comparisons, facts))


def short_names(paths: Sequence[str]) -> list[str]:
    """Names for the tables: where the paths differ, or the end of a single one.

    Raises:
        ConfigError: a path is there twice, or none at all.
    """
    if not paths or len({Path(path).resolve() for path in paths}) < len(paths):
        raise ConfigError(f"checkpoint={list(paths)}: give one file, or several different ones")
    parts = [Path(path).parts for path in paths]
    if len(parts) == 1:
        return [str(Path(*parts[0][-2:]))]
    while len({part[0] for part in parts}) == 1:
        parts = [part[1:] for part in parts]
    length = 1
    while len({part[:length] for part in parts}) < len(parts):
        length += 1
    return [str(Path(*part[:length])) for part in parts]


def common_classes(class_lists: Sequence[Sequence[str]], names: Sequence[str]) -> tuple[str, ...]:
    """The classes that all detectors know, in the order of the first.

    Raises:
        ConfigError: there is none.
    """
    from ssd.common.class_names import class_index
    from ssd.common.console import log

    common = tuple(
        name for name in class_lists[0] if all(class_index(name, known) is not None for known in class_lists)
    )
    if not common:
        lists = "; ".join(f"{name} knows {', '.join(known)}" for name, known in zip(names, class_lists, strict=True))
        raise ConfigError(f"checkpoint: no class in common: {lists}")
    if any(len(known) != len(common) for known in class_lists):
        log(f"compared by the classes that all know: {', '.join(common)}")
    return common


def chosen_classes(class_names: tuple[str, ...], wanted: Sequence[str] | None) -> tuple[str, ...]:
    """Those of `dataset.classes`, where it names some that the detectors know and not all."""
    from ssd.common.class_names import class_index
    from ssd.common.console import log

    chosen = tuple(name for name in class_names if class_index(name, list(wanted or ())) is not None)
    if not 0 < len(chosen) < len(class_names):
        return class_names
    log(f"dataset.classes: measured by {', '.join(chosen)} alone")
    return chosen


def read_split(config: DictConfig, class_names: tuple[str, ...]) -> DetectionIndex:
    """The split of the dataset, with the labels of the detectors.

    Raises:
        ConfigError: the dataset has no such split, or no object of these classes but of others.
    """
    from ssd.cli import build
    from ssd.common.console import log
    from ssd.data.splits import Splits, describe_data
    from ssd.evaluation.evaluator import with_classes

    if "classes" in config.dataset:
        config.dataset.classes = list(class_names)
    datamodule = build.build_datamodule(config)
    datamodule.prepare_data()
    splits = datamodule.splits
    indexes = dict(splits.items())
    if config.split not in indexes:
        raise ConfigError(f"split={config.split}: the dataset has no such split; there are {', '.join(indexes)}")
    _check_classes(splits, class_names)
    index = with_classes(indexes[config.split], class_names)
    this_one = {name: index if name == config.split else None for name in ("train", "val", "test")}
    for line in describe_data(Splits(**this_one, report=splits.report)):
        log(line)
    return index


def _check_classes(splits: Splits, class_names: tuple[str, ...]) -> None:
    """Readers that were given the classes leave others out and report it; the rest names its own."""
    from ssd.common.class_names import class_index
    from ssd.common.console import log

    known = [name for name in splits.class_names if class_index(name, class_names) is not None]
    others = [name for name in splits.class_names if name not in known]
    left_out = [line for line in splits.report.summary_lines() if "left out" in line]
    if not known or (left_out and not any(len(index.boxes) for _, index in splits.items())):
        there = left_out[0] if left_out else f"the dataset has {', '.join(others)}"
        raise ConfigError(f"no class in common: the checkpoint knows {', '.join(class_names)}; {there}")
    if others:
        log(f"left out, since the checkpoint does not know them: objects of {', '.join(others)}")


def _open(config: DictConfig, path: str) -> Predictor:
    from hydra.utils import instantiate

    from ssd.inference.detector import open_predictor

    postprocess = instantiate(config.postprocess)
    return open_predictor(path, postprocess, device=config.device, explicit_overrides=explicit_overrides("postprocess"))


def _measure(config: DictConfig, name: str, predictor: Predictor, index: DetectionIndex) -> Evaluation:
    from ssd.evaluation import evaluator
    from ssd.evaluation.matching import resampled

    threads = min(8, os.cpu_count() or 1) if config.num_workers is None else max(1, config.num_workers)
    found, speed = evaluator.detect(predictor, index, batch_size=config.batch_size, threads=threads)
    found = evaluator.relabelled(found, predictor.class_names, index.class_names)
    weights = resampled(len(index), times=config.resamples, seed=config.seed)
    return evaluator.measure(name, found, index, speed=speed, weights=weights)


def _make_folder(output: str) -> Path:
    try:
        Path(output).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MachineError(
            f"output={output}: cannot be written: {error.strerror or error}; name another folder"
        ) from error
    return Path(output)


def _write(path: Path, text: str) -> None:
    from ssd.common.atomic_files import write_atomically
    from ssd.common.console import log

    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    log(f"written: {path}")


def _describe(config: DictConfig) -> str:
    from hydra.core.hydra_config import HydraConfig

    root = config.dataset.get("root")
    return HydraConfig.get().runtime.choices["dataset"] + (f" in {root}" if root else "")
