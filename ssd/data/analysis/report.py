"""The report of `ssd inspect`: tables in the terminal, and an HTML page with the same tables, charts and images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from markupsafe import Markup

from ssd.common.atomic_files import write_atomically
from ssd.common.console import log
from ssd.common.errors import DataError
from ssd.common.image_size import height_width
from ssd.common.tables import Table
from ssd.common.text import one_line
from ssd.data.analysis import charts
from ssd.data.analysis.duplicates import Leak
from ssd.data.analysis.prior_coverage import SIZE_NAMES, Coverage, PriorLayout
from ssd.data.augmentation import Sample
from ssd.data.index import DetectionIndex
from ssd.data.splits import Splits
from ssd.data.validation import Problem
from ssd.visualization import report_page
from ssd.visualization.draw import class_colours, draw_boxes
from ssd.visualization.report_page import Section as Section  # the command names it, too

_MAX_PROBLEMS = 1000  # on the page; problems.txt has all
_MAX_LEAKS = 24
_MAX_TERMINAL_ROWS = 24
_THUMBNAIL_PX = 230
_IGNORED_COLOUR = (136, 136, 136)


def splits_section(splits: Splits) -> Section:
    """Counts by split; also printed."""
    table = splits_table(splits)
    table.log(max_rows=_MAX_TERMINAL_ROWS)
    chart = report_page.chart(charts.boxes_per_image(splits))
    return Section("splits", "Images and classes", [report_page.columns([report_page.table(table), chart])])


def leaks_section(leaks: Sequence[Leak], splits: Splits) -> Section:
    """Pairs of images that are in two splits."""
    indexes = dict(splits.items())
    pairs = [
        Markup("").join(_thumbnail(indexes[name], position, name) for name, position in (leak.image, leak.other))
        for leak in leaks[:_MAX_LEAKS]
    ]
    text = (
        "Scores on a split are too high if its images are also in the training set: "
        "remove these from one of the splits."
    )
    if len(leaks) > _MAX_LEAKS:
        text += f" {_MAX_LEAKS} of {len(leaks)} are shown; problems.txt lists all."
    intro = report_page.paragraph(text if leaks else "None found.", warning=bool(leaks))
    return Section("leaks", f"Images in two splits: {len(leaks)}", [intro, report_page.columns(pairs)])


def boxes_section(id: str, title: str, layout: PriorLayout, boxes: Float[np.ndarray, "M 4"]) -> Section:
    """Boxes (xyxy fractions) against the priors."""
    height, width = height_width(layout.image_size)
    note = f"Boxes as the network sees them without augmentation: images are stretched to {width} x {height} pixels."
    return Section(id, title, [report_page.paragraph(note), report_page.chart(charts.boxes_and_priors(layout, boxes))])


def coverage_section(
    id: str,
    title: str,
    coverage: Coverage,
    class_names: Sequence[str],
    *,
    notes: Sequence[str],
    warnings: Sequence[str],
) -> Section:
    """The share of the boxes that priors match; also printed."""
    coverage_table(coverage, class_names, title=title, counts=False).log(max_rows=_MAX_TERMINAL_ROWS)
    for line in [*notes, *(f"warning: {line}" for line in warnings)]:
        log(line)
    lines = [*map(report_page.paragraph, notes), *(report_page.paragraph(line, warning=True) for line in warnings)]
    table = coverage_table(coverage, class_names, title=title, counts=True)
    return Section(id, title, [*lines, report_page.table(table)])


def samples_section(samples: Sequence[Sample], class_names: Sequence[str]) -> Section:
    """Augmented training images with their boxes."""
    note = (
        "Training images after augmentation, as the network sees them in the first epoch. Each class has a colour, "
        "and one of its boxes a label; boxes to ignore are gray."
    )
    drawn = [(sample.id, _draw_sample(sample, class_names)) for sample in samples]
    images = [report_page.embedded_image(image, caption=id, width=image.shape[1]) for id, image in drawn]
    return Section("samples", "Samples after augmentation", [report_page.paragraph(note), *images])


def write_report(
    folder: Path, problems: Sequence[Problem], sections: Sequence[Section], *, title: str, seconds: float
) -> None:
    """Prints the problems, and writes report.html and problems.txt to `folder`."""
    if problems:
        problems_table(problems).log()
    errors = sum(problem.fatal for problem in problems)
    effect = f"training would fail on {errors} of them" if errors else "training would run"
    summary = f"problems: {len(problems)}; {effect}; {seconds:.1f} s"
    page = report_page.page(title, subtitle=summary, sections=[_problems_section(problems), *sections])
    lines = "".join(f"{_severity(problem)}: {one_line(str(problem))}\n" for problem in problems)
    for name, text in (("report.html", page), ("problems.txt", lines)):
        write_atomically(folder / name, text.encode(errors="replace"))
    log(f"{summary}; see {folder / 'report.html'} and problems.txt")


def splits_table(splits: Splits) -> Table:
    """Images, and boxes of each class, by split."""
    indexes = [index for _, index in splits.items()]
    rows: list[list[object]] = [
        ["images", *map(len, indexes)],
        ["images without a box", *(int((np.diff(index.box_offsets) == 0).sum()) for index in indexes)],
        ["boxes", *(len(index.boxes) for index in indexes)],
        ["boxes to ignore", *(int(index.ignore.sum()) for index in indexes)],
    ]
    counts = [index.class_counts().tolist() for index in indexes]
    rows += [[f"boxes of {label}", *row] for label, *row in zip(splits.class_names, *counts, strict=True)]
    return Table("data", ["", *(name for name, _ in splits.items())], rows)


def coverage_table(coverage: Coverage, class_names: Sequence[str], *, title: str, counts: bool) -> Table:
    """The share of the boxes that priors match, by class and size; with the number of boxes if `counts`."""
    matched, boxes = (
        np.column_stack((table, table.sum(axis=1)))
        for table in (np.vstack((part.sum(axis=0), part)) for part in (coverage.matched, coverage.boxes))
    )

    def cell(matched: int, boxes: int) -> str | None:
        return (f"{matched / boxes:.0%}" + (f" of {boxes}" if counts else "")) if boxes else None

    rows = [
        [name, *map(cell, *pair)]
        for name, *pair in zip(["all", *class_names], matched.tolist(), boxes.tolist(), strict=True)
        if pair[1][-1]
    ]
    return Table(title, ["class", *SIZE_NAMES, "all sizes"], rows)


def problems_table(problems: Sequence[Problem]) -> Table:
    """Problems by rule, errors first, with the first example of each."""
    groups: dict[tuple[str, str], list[Problem]] = defaultdict(list)
    for problem in problems:
        groups[_severity(problem), problem.rule].append(problem)
    rows = [
        [severity, len(group), rule, group[0].file + (f": {group[0].value}" if group[0].value else "")]
        for (severity, rule), group in sorted(groups.items(), key=lambda item: (item[0][0], -len(item[1])))
    ]
    return Table("problems", ["severity", "count", "rule", "first"], rows)


def _problems_section(problems: Sequence[Problem]) -> report_page.Section:
    errors_first = sorted(problems, key=lambda problem: not problem.fatal)[:_MAX_PROBLEMS]
    rows = [[_severity(problem), problem.file, problem.rule, problem.value] for problem in errors_first]
    table = report_page.table(Table("problems", ["severity", "file", "rule", "value"], rows))
    parts = [table] if problems else [report_page.paragraph("None found.")]
    if len(problems) > _MAX_PROBLEMS:
        parts.append(report_page.paragraph(f"... and {len(problems) - _MAX_PROBLEMS} more: see problems.txt"))
    return Section("problems", f"Problems: {len(problems)}", parts)


def _severity(problem: Problem) -> str:
    return "error" if problem.fatal else "warning"


def _thumbnail(index: DetectionIndex, position: int, split: str) -> Markup:
    try:
        image = index.load(index.paths[position])
    except DataError:  # deleted since
        image = np.zeros((1, 1, 3), dtype=np.uint8)
    return report_page.embedded_image(image, caption=f"{split}: {index.paths[position]}", width=_THUMBNAIL_PX)


def _draw_sample(sample: Sample, class_names: Sequence[str]) -> np.ndarray:
    """One box of each class has a label; more labels would hide the objects."""
    palette = class_colours(tuple(class_names))
    labels = sample.labels.tolist()
    colours = [
        _IGNORED_COLOUR if ignored else palette[label]
        for label, ignored in zip(labels, sample.ignore.tolist(), strict=True)
    ]
    first = np.unique(sample.labels, return_index=True)[1]
    texts = [class_names[label] if position in first else "" for position, label in enumerate(labels)]
    return draw_boxes(sample.image, sample.boxes, texts, colours)
