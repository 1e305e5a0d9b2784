"""Looks at a dataset before training: python -m ssd inspect dataset=NAME; see --help."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from functools import partial
from operator import methodcaller
from pathlib import Path
from typing import TYPE_CHECKING

from ssd.cli.config import CONF
from ssd.common.errors import ConfigError, DataError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from ssd.data.analysis.prior_coverage import Coverage, Layout
    from ssd.data.splits import Splits
    from ssd.data.validation import Report
    from ssd.visualization.report_page import Section


_MOST_BOXES = 100_000  # more are sampled for the coverage
_SAMPLES = 12


def inspect(config: DictConfig) -> None:
    """Shows tables; writes report.html, problems.txt and, if asked, fitted priors.

    Raises:
        DataError: at the end, where there is something that training would stop at.
    """
    from ssd.cli import build
    from ssd.common import console, runtime
    from ssd.data.analysis import report as inspection_report
    from ssd.data.analysis.prior_coverage import Layout
    from ssd.data.validation import Report

    started = time.perf_counter()
    runtime.quiet_libraries()
    priors = _priors_file(config)
    build.fill_auto(config)
    spec, grids = build.check_fit(config)
    layout = Layout.lay(spec, grids, image_size=config.image_size, iou_threshold=config.loss.match_threshold)
    report = Report(collect_all=True)
    splits: Splits | None = None
    with report.collect_errors():
        splits = build.build_reader(config, cached=False)(report=report)
    sections = []
    if splits is not None:
        *images, samples = _look(config, splits)
        sections = [*images, *_cover(config, splits, layout, priors), samples]
    root = f"{Path(config.dataset.get('root', ''))}/"
    report.problems = [replace(problem, file=problem.file.removeprefix(root)) for problem in report.problems]
    if report.problems:
        console.log_table(inspection_report.problems_table(report))
    sections.insert(0, inspection_report.problems_section(report))
    _write(config, sections, report, seconds=time.perf_counter() - started)


def _look(config: DictConfig, splits: Splits) -> list[Section]:
    """What the images show."""
    import numpy as np
    from hydra.utils import instantiate

    from ssd.common import console
    from ssd.data.analysis import duplicates
    from ssd.data.analysis import report as inspection_report
    from ssd.data.dataset import DetectionDataset

    console.log_table(inspection_report.splits_table(splits))
    looks = {name: duplicates.look(name, index, splits.report) for name, index in splits.items()}
    leaks = duplicates.find_leaks(looks)
    duplicates.note_leaks(leaks, splits, splits.report)
    duplicates.note_classes(splits, splits.report)
    name, index = splits.items()[0]
    dataset = DetectionDataset(index, instantiate(config.augmentation, _convert_="all"), seed=config.seed)
    chosen = np.random.default_rng(config.seed).permutation(looks[name].positions)[:_SAMPLES]
    return [
        inspection_report.splits_section(splits),
        inspection_report.leaks_section(leaks, splits),
        inspection_report.samples_section([dataset[0, int(row)] for row in chosen], splits.class_names),
    ]


def _cover(config: DictConfig, splits: Splits, layout: Layout, priors: Path | None) -> list[Section]:
    """What the priors can match, and what fitted ones could."""
    import numpy as np

    from ssd.common import console
    from ssd.data.analysis import report as inspection_report
    from ssd.data.analysis.prior_coverage import fit, measure_coverage, write_priors

    name, index = splits.items()[0]
    rows = np.flatnonzero(~index.ignore)
    notes = [f"Share of the boxes of the {name} split whose best IoU with a prior is {layout.iou_threshold} or more."]
    if not len(rows):
        return []
    if len(rows) > _MOST_BOXES:
        notes.append(f"Measured on {_MOST_BOXES} of {len(rows)} boxes, drawn with seed {config.seed}.")
    rows = np.random.default_rng(config.seed).permutation(rows)[:_MOST_BOXES]
    boxes, labels = index.boxes[rows].astype(np.float64), index.labels[rows]
    measure = partial(measure_coverage, boxes=boxes, labels=labels, classes=len(index.class_names))
    before = measure(layout)
    sections = [
        inspection_report.boxes_section("boxes", "Boxes and priors", layout, boxes),
        _coverage_section("coverage", "Prior coverage", layout, before, splits, notes),
    ]
    if priors is not None:
        fitted = layout.with_spec(fit(layout, boxes, labels, seed=config.seed))
        after = measure(fitted)
        about = f"{before.share:.1%} -> {after.share:.1%} of the boxes matched at IoU {layout.iou_threshold}"
        write_priors(fitted.spec, priors, about=[f"Fitted by python -m ssd inspect: {about}", *_how(config)])
        notes = [f"{about}. Written to {console.relative_to_cwd(priors)}: give priors={priors.stem} to train.py."]
        sections.append(_coverage_section("fitted", "Coverage of the fitted priors", fitted, after, splits, notes))
        sections.append(inspection_report.boxes_section("fitted_boxes", "Boxes and fitted priors", fitted, boxes))
    return sections


def _coverage_section(
    id: str, title: str, layout: Layout, coverage: Coverage, splits: Splits, notes: list[str]
) -> Section:
    """Says and returns it."""
    from ssd.common import console
    from ssd.data.analysis import report as inspection_report

    names = splits.class_names
    warnings = inspection_report.coverage_warnings(layout, coverage, names, fitted=id == "fitted")
    console.log_table(inspection_report.coverage_table(coverage, names, title=title))
    for line in [*notes, *(f"warning: {line}" for line in warnings)]:
        console.log(line)
    return inspection_report.coverage_section(id, title, coverage, names, notes=notes, warnings=warnings)


def _priors_file(config: DictConfig) -> Path | None:
    """Where fitted priors go.

    Raises:
        ConfigError: the name is none, or is taken.
    """
    from hydra.core.hydra_config import HydraConfig

    if config.fit_priors in (None, False):
        return None
    choices = HydraConfig.get().runtime.choices
    folder = Path(config.dataset.get("root") or choices["dataset"]).resolve().name
    name = f"{re.sub(r'[^a-z0-9]+', '_', folder.lower())}_{choices['backbone']}"
    name = name if config.fit_priors is True else str(config.fit_priors)
    path = CONF / "priors" / f"{name}.yaml"
    if not re.fullmatch(r"\w+", name):
        raise ConfigError(f"fit_priors={name}: give a name of letters, digits and _, or true")
    if path.exists():
        raise ConfigError(f"fit_priors={name}: {path} exists; give another name, or remove it")
    return path


def _how(config: DictConfig) -> list[str]:
    from hydra.core.hydra_config import HydraConfig

    return [f"Arguments: {' '.join(HydraConfig.get().overrides.task)} (image_size={config.image_size})"]


def _write(config: DictConfig, sections: list[Section], report: Report, *, seconds: float) -> None:
    from ssd.common import console
    from ssd.common.atomic_files import write_atomically
    from ssd.data.analysis import report as inspection_report
    from ssd.visualization import report_page

    stopping = [problem for problem in report.problems if problem.fatal]
    verdict = f"training would stop at {len(stopping)}" if stopping else "training would run"
    title = f"Inspection of {config.dataset.get('root', 'the embedded shapes')}"
    summary = f"problems: {len(report.problems)}; {verdict}; {seconds:.1f} s"
    lines = [
        f"{'stops' if item.fatal else 'goes on'}: {inspection_report.printable(str(item))}" for item in report.problems
    ]
    texts = {
        "report.html": report_page.page(title, subtitle=summary, sections=sections),
        "problems.txt": "".join(f"{line}\n" for line in lines),
    }
    for name, text in texts.items():
        write_atomically(Path(config.output, name), methodcaller("write_bytes", text.encode(errors="replace")))
    console.log(f"{summary}; see {Path(config.output, 'report.html')} and problems.txt")
    if stopping:
        raise DataError(f"{len(stopping)} problems that training would stop at, the first: {stopping[0]}")
