"""Checks a dataset before training: ssd inspect dataset=NAME; see --help."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from ssd.cli import build, check_run
from ssd.common import runtime
from ssd.common.console import for_shell, log
from ssd.common.errors import ConfigError, DataError
from ssd.data.analysis import duplicates, report
from ssd.data.analysis.index_lines import write_index
from ssd.data.analysis.prior_coverage import (
    MAX_BOXES,
    PriorLayout,
    coverage_warnings,
    fit_priors,
    measure_coverage,
    sample_boxes,
    write_priors,
)
from ssd.data.augmentation import Augmentation
from ssd.data.dataset import DetectionDataset
from ssd.data.splits import Splits
from ssd.data.validation import Report

_SAMPLES = 12


def inspect(config: DictConfig) -> None:
    """Prints tables; writes report.html, problems.txt, fitted priors (`fit_priors`) and what was read (`index`).

    Raises:
        DataError: at the end, if training would fail on a problem.
    """
    started = time.perf_counter()
    runtime.quiet_libraries()
    priors_file = _priors_file(config)
    build.fill_auto(config)
    layout = build.prior_layout(config)
    augmentation = instantiate(config.augmentation, _convert_="all")
    check_run.check_augmentation(config, augmentation)
    found, roots = Report(collect_all=True), build.dataset_roots(config)
    splits: Splits | None = None
    with found.collect_errors():
        splits = build.build_reader(config, cached=False)(report=found)
        splits.check_trainable()
    sections = (
        [] if splits is None or not splits.items() else _analyse(config, splits, layout, augmentation, priors_file)
    )
    if splits is not None and config.index is not None:
        write_index(splits, Path(config.index), roots=roots)
    problems = [replace(problem, file=_below(problem.file, roots)) for problem in found.problems]
    title = f"Inspection of {', '.join(roots) or 'the built-in shapes'}"
    report.write_report(Path(config.output), problems, sections, title=title, seconds=time.perf_counter() - started)
    errors = [problem for problem in problems if problem.fatal]
    if errors:
        raise DataError(f"training would fail (problems: {len(errors)}, see problems.txt), first on {errors[0]}")


def _below(file: str, roots: Sequence[str]) -> str:
    """The path below its root."""
    root = next((f"{Path(root)}/" for root in roots if file.startswith(f"{Path(root)}/")), "")
    return file.removeprefix(root) if len(roots) == 1 else file


def _analyse(
    config: DictConfig, splits: Splits, layout: PriorLayout, augmentation: Augmentation, priors_file: Path | None
) -> list[report.Section]:
    """Decodes all images; problems go to the report of `splits`."""
    counts = report.splits_section(splits)
    for note in splits.report.notes:
        log(f"data: {note}")
    strict = config.dataset.get("strict", False)
    fingerprints = {
        name: duplicates.fingerprint_images(name, index, splits.report, strict=strict) for name, index in splits.items()
    }
    leaks = duplicates.find_leaks(fingerprints)
    duplicates.report_leaks(leaks, splits)
    duplicates.report_absent_classes(splits)
    coverage = _measure_coverage(config, splits, layout, priors_file)
    name, index = splits.items()[0]
    dataset = DetectionDataset(index, augmentation, seed=config.seed)
    chosen = np.random.default_rng(config.seed).permutation(fingerprints[name].positions)[:_SAMPLES]
    samples = report.samples_section([dataset[0, int(row)] for row in chosen], splits.class_names)
    return [counts, report.leaks_section(leaks, splits), *coverage, samples]


def _measure_coverage(
    config: DictConfig, splits: Splits, layout: PriorLayout, priors_file: Path | None
) -> list[report.Section]:
    """What the priors can match, and what fitted ones could."""
    name, index = splits.items()[0]
    count = int(np.count_nonzero(~index.ignore))
    if not count:
        return []
    threshold, names = layout.match_threshold, index.class_names
    notes = [f"Share of the boxes of the {name} split whose best IoU with a prior is at least {threshold}."]
    if count > MAX_BOXES:
        notes.append(f"Measured on {MAX_BOXES} of {count} boxes, sampled with seed {config.seed}.")
    boxes, labels = sample_boxes(index, seed=config.seed)
    measure = partial(measure_coverage, boxes=boxes, labels=labels, num_classes=len(names))
    before = measure(layout)
    warnings = coverage_warnings(layout, before, names, fitted=False)
    sections = [
        report.boxes_section("boxes", "Boxes and priors", layout, boxes),
        report.coverage_section("coverage", "Prior coverage", before, names, notes=notes, warnings=warnings),
    ]
    if priors_file is None:
        return sections
    fitted = replace(layout, spec=fit_priors(layout, boxes, labels, seed=config.seed))
    after = measure(fitted)
    gain = f"{before.share:.1%} -> {after.share:.1%} of the boxes matched at IoU {threshold}"
    arguments = f"Arguments: {' '.join(HydraConfig.get().overrides.task)} (image_size={config.image_size})"
    write_priors(fitted.spec, priors_file, comments=[f"Fitted by ssd inspect: {gain}", arguments])
    notes = [f"{gain}. To train with them, give priors.file={for_shell(priors_file)} to train.py."]
    warnings = coverage_warnings(fitted, after, names, fitted=True)
    return [
        *sections,
        report.coverage_section(
            "fitted", "Coverage of the fitted priors", after, names, notes=notes, warnings=warnings
        ),
        report.boxes_section("fitted_boxes", "Boxes and fitted priors", fitted, boxes),
    ]


def _priors_file(config: DictConfig) -> Path | None:
    """The file for fitted priors, in the output folder: priors.yaml, or the name that `fit_priors` gives.

    Raises:
        ConfigError: the name is not a plain one, or the file exists: a run that resumes may still read it.
    """
    if config.fit_priors in (None, False):
        return None
    name = "priors" if config.fit_priors is True else str(config.fit_priors)
    path = Path(config.output, f"{name}.yaml")
    if not re.fullmatch(r"\w+", name):
        raise ConfigError(f"fit_priors={name}: give a name of letters, digits and _, or true")
    if path.exists():
        raise ConfigError(f"fit_priors={name}: {path} exists; give another name or output, or remove it")
    return path
