"""What `python -m ssd inspect` shows: tables for the terminal, sections and charts for the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.table import Table
from rich.text import Text

from ssd.common.errors import DataError
from ssd.data.analysis.duplicates import Leak
from ssd.data.analysis.prior_coverage import SIZE_NAMES, Coverage, Layout, best_iou
from ssd.data.augmentation import Sample
from ssd.data.index import DetectionIndex
from ssd.data.splits import Splits
from ssd.data.validation import Report
from ssd.visualization import report_page

_MOST_ROWS = 1000  # of problems on the page; problems.txt has all
_MOST_POINTS = 5000
_MOST_LEAKS = 24
_MOST_CLASSES = 24  # in the terminal
_NAMED = 8
_COVERAGE_HEADER = ("class", *SIZE_NAMES, "all sizes")
_GOOD, _BAD, _DARK = "#1a9850", "#e02f3c", "#1c2330"


def printable(text: str) -> str:
    """On one line, without bytes that are no UTF-8: file names may have both."""
    return " ".join(text.encode(errors="replace").decode().split())


# --- problems ----------------------------------------------------------------------------------------------------


def problems_table(report: Report) -> Table:
    """Problems by rule, for the terminal: those that training stops at first."""
    table = Table(title="problems", title_justify="left", highlight=False)
    for name in ("training", "how often", "rule", "first"):
        table.add_column(name, justify="right" if name == "how often" else "left", overflow="fold")
    counts = Counter((not problem.fatal, problem.rule) for problem in report.problems)
    for (goes_on, rule), count in sorted(counts.items(), key=lambda item: (item[0][0], -item[1])):
        first = next(problem for problem in report.problems if (not problem.fatal, problem.rule) == (goes_on, rule))
        value = f": {first.value}" if first.value else ""
        cells = ("goes on" if goes_on else "stops", str(count), rule, f"{first.file}{value}")
        table.add_row(*(Text(printable(cell)) for cell in cells))
    return table


def problems_section(report: Report) -> report_page.Section:
    """All problems by file."""
    rows = [
        ("stops" if problem.fatal else "goes on", problem.file, problem.rule, problem.value)
        for problem in sorted(report.problems, key=lambda problem: not problem.fatal)
    ]
    parts = [report_page.table(("training", "file", "rule", "value"), rows[:_MOST_ROWS])] if rows else ["None found."]
    if len(rows) > _MOST_ROWS:
        parts.append(report_page.paragraph(f"... and {len(rows) - _MOST_ROWS} more: see problems.txt"))
    return report_page.Section("problems", f"Problems: {len(rows)}", parts)


# --- images, classes, boxes ------------------------------------------------------------------------------------


def split_rows(splits: Splits) -> tuple[list[str], list[list[object]]]:
    """Header and rows: images, those without an object, and boxes of each class by split."""
    named = splits.items()
    rows: list[list[object]] = [["images", *(len(index) for _, index in named)]]
    rows.append(["images without a box", *(int((np.diff(index.box_offsets) == 0).sum()) for _, index in named)])
    rows.append(["boxes", *(len(index.boxes) for _, index in named)])
    rows.append(["boxes to ignore", *(int(index.ignore.sum()) for _, index in named)])
    counts = [index.class_counts().tolist() for _, index in named]
    rows += [[f"boxes of {label}", *row] for label, *row in zip(splits.class_names, *counts, strict=True)]
    return ["", *(name for name, _ in named)], rows


def splits_table(splits: Splits) -> Table:
    """The same for the terminal."""
    header, rows = split_rows(splits)
    table = Table(*header, title="data", title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows[:_MOST_CLASSES]:
        table.add_row(*(Text(str(cell)) for cell in row))
    table.caption = _and_more(len(rows) - _MOST_CLASSES)
    return table


def _and_more(classes: int) -> str | None:
    return f"... and {classes} more classes: see report.html" if classes > 0 else None


def splits_section(splits: Splits) -> report_page.Section:
    """Counts by split, and boxes per image."""
    figure, (axes,) = _panels(1)
    for name, index in splits.items():
        counts = np.diff(index.box_offsets) if len(index) else np.zeros(1, dtype=np.int64)
        bins = np.arange(-0.5, max(2, np.percentile(counts, 99.5)) + 1.5)
        axes.hist(counts.clip(max=bins[-1]), bins.tolist(), density=True, histtype="step", linewidth=1.8, label=name)
    axes.set(xlabel="boxes in an image", ylabel="share of the images")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, fontsize=8)
    return report_page.Section(
        "splits",
        "Images and classes",
        [report_page.columns([report_page.table(*split_rows(splits)), report_page.chart(figure)])],
    )


def boxes_section(id: str, title: str, layout: Layout, boxes: Float[np.ndarray, "M 4"]) -> report_page.Section:
    """Box shapes, sizes and ratios against the priors."""
    figure, (plane, sizes, ratios) = _panels(3)
    boxes = boxes[:_MOST_POINTS]
    width, height = (boxes[:, 2:] - boxes[:, :2]).T * layout.image_size
    _shapes_chart(plane, layout, boxes)
    scales = [scale * layout.image_size for scale in layout.spec.scales]
    _histogram(sizes, layout.sizes_px(boxes), lines=scales, label="scales of the priors")
    own = {ratio for level in layout.spec.aspect_ratios for ratio in level}
    both = sorted({1.0, *own, *(1 / ratio for ratio in own)})
    _histogram(ratios, (width / height).clip(1 / 8, 8), lines=both, label="ratios of the priors")
    sizes.set(xlabel="size (root of the area), px", ylabel="boxes")
    ratios.set(xlabel="width / height", ylabel="boxes")
    side = layout.image_size
    note = f"Boxes as the network sees them without augmentation: images stretched to {side} x {side} pixels."
    return report_page.Section(id, title, [report_page.paragraph(note), report_page.chart(figure)])


def _shapes_chart(axes: Axes, layout: Layout, boxes: Float[np.ndarray, "M 4"]) -> None:
    width, height = (boxes[:, 2:] - boxes[:, :2]).T * layout.image_size
    matched = best_iou(boxes, layout.levels) >= layout.iou_threshold
    size = float(np.clip(20_000 / max(1, len(boxes)), 5, 24))
    for mask, colour, label in ((matched, _GOOD, "can be matched"), (~matched, _BAD, "cannot")):
        # as pixels: thousands of points would make the page slow
        axes.scatter(width[mask], height[mask], s=size, color=colour, alpha=0.4, lw=0, label=label, rasterized=True)
    shapes = np.concatenate([level.shapes for level in layout.levels]) * layout.image_size
    axes.scatter(shapes[:, 0], shapes[:, 1], s=26, color=_DARK, marker="+", lw=1, label="priors")
    axes.set(xlabel="width, px", ylabel="height, px")
    axes.legend(frameon=False, fontsize=8, markerscale=1.5)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:.3g}")
    axes.yaxis.set_major_formatter("{x:.3g}")


def _histogram(axes: Axes, values: Float[np.ndarray, "M"], *, lines: Sequence[float], label: str) -> None:
    low, high = min([*lines, *values]) / 1.1, max([*lines, *values]) * 1.1
    axes.hist(values, np.geomspace(low, high, 40).tolist(), color="#9db7d9")
    for position, value in enumerate(lines):
        axes.axvline(value, color=_DARK, linewidth=0.9, linestyle=":", label=None if position else label)
    axes.legend(frameon=False, fontsize=8)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:.3g}")


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(4.6 * count, 3.5), layout="constrained")
    panels = list(figure.subplots(1, count, squeeze=False).ravel())
    for axes in panels:
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


# --- coverage ----------------------------------------------------------------------------------------------------


def coverage_rows(coverage: Coverage, class_names: Sequence[str]) -> list[list[str]]:
    """A row for each class that has boxes and one for all: share and number of boxes, by size and in all."""
    tables = (np.vstack((table, table.sum(axis=0))) for table in (coverage.matched, coverage.boxes))
    matched, boxes = (np.column_stack((table, table.sum(axis=1))).tolist() for table in tables)
    rows = [[name, *map(_share, *pair)] for name, *pair in zip([*class_names, "all"], matched, boxes, strict=True)]
    return [row for row, counts in zip(rows, boxes, strict=True) if counts[-1]]


def _share(matched: int, boxes: int) -> str:
    return f"{matched / boxes:.0%} of {boxes}" if boxes else "-"


def coverage_table(coverage: Coverage, class_names: Sequence[str], *, title: str) -> Table:
    """The shares without the numbers, for the terminal."""
    table = Table("class", *SIZE_NAMES, "all sizes", title=title, title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    *rows, everything = coverage_rows(coverage, class_names)
    for name, *cells in [*rows[:_MOST_CLASSES], everything]:
        table.add_row(Text(name), *(cell.partition(" of ")[0] for cell in cells))
    table.caption = _and_more(len(rows) - _MOST_CLASSES)
    return table


def coverage_warnings(layout: Layout, coverage: Coverage, class_names: Sequence[str], *, fitted: bool) -> list[str]:
    """The classes that the priors can hardly match, and what to do."""
    poor = coverage.poor_classes()
    if not poor:
        return []
    shares = coverage.matched.sum(axis=1) / np.maximum(coverage.boxes.sum(axis=1), 1)
    worst = sorted(poor, key=lambda label: shares[label])
    named = ", ".join(f"{100 * shares[label]:.0f} % of the {class_names[label]} boxes" for label in worst[:_NAMED])
    more = f"; {len(poor) - _NAMED} more classes are like that" if len(poor) > _NAMED else ""
    smallest = layout.spec.scales[0] * layout.image_size
    step = layout.image_size / len(layout.levels[0].centres[0])
    other = " or backbone=vgg16 (8 px)" if step > 8 else ""
    finer = (
        f"cells finer than the {step:.0f} px now, from a larger image_size{other}, help boxes under {2 * step:.0f} px"
    )
    remedy = finer if fitted else f"fit_priors=true (the smallest prior has {smallest:.0f} px now); {finer}"
    return [
        f"classes that will hardly be learnt: {named} can be matched{more}",
        f"remedy: {remedy}",
    ]


def coverage_section(
    id: str,
    title: str,
    coverage: Coverage,
    class_names: Sequence[str],
    *,
    notes: Sequence[str],
    warnings: Sequence[str],
) -> report_page.Section:
    """The table of one choice of priors."""
    lines = [*map(report_page.paragraph, notes), *(report_page.paragraph(line, warning=True) for line in warnings)]
    return report_page.Section(
        id, title, [*lines, report_page.table(_COVERAGE_HEADER, coverage_rows(coverage, class_names))]
    )


# --- images side by side ---------------------------------------------------------------------------------------


def leaks_section(leaks: Sequence[Leak], splits: Splits) -> report_page.Section:
    """Pairs of images that lie in two splits."""
    indexes = dict(splits.items())
    pairs = [
        Markup("").join(_thumbnail(indexes[name], position, name) for name, position in (leak.image, leak.other))
        for leak in leaks[:_MOST_LEAKS]
    ]
    text = "Results on a split are too good where its images were trained on: leave these out of one."
    if len(leaks) > _MOST_LEAKS:
        text += f" Shown are {_MOST_LEAKS} of {len(leaks)}; problems.txt has all."
    found = report_page.paragraph(text, warning=True) if leaks else report_page.paragraph("None found.")
    return report_page.Section("leaks", f"Images in two splits: {len(leaks)}", [found, report_page.columns(pairs)])


def _thumbnail(index: DetectionIndex, position: int, split: str) -> Markup:
    try:
        image = index.load(index.paths[position])
    except DataError:  # gone since
        image = np.zeros((1, 1, 3), dtype=np.uint8)
    return report_page.embedded_image(image, caption=f"{split}: {index.paths[position]}", width=230)


def samples_section(samples: Sequence[Sample], class_names: Sequence[str]) -> report_page.Section:
    """Augmented samples with their boxes; those to ignore are gray."""
    parts = []
    for sample in samples:
        rows = zip(sample.boxes.tolist(), sample.labels.tolist(), sample.ignore.tolist(), strict=True)
        marks = [
            report_page.Mark(tuple(box), "#888" if skip else _colour(label), "", class_names[label])
            for box, label, skip in rows
        ]
        named = np.unique(sample.labels, return_index=True)[1].tolist()  # more would bury the objects
        marks = [replace(mark, text=mark.title) if place in named else mark for place, mark in enumerate(marks)]
        parts.append(
            report_page.embedded_image(sample.image, caption=sample.id, marks=marks, width=sample.image.shape[1])
        )
    note = (
        "Training images after augmentation, as the network sees them in the first epoch. Boxes to ignore are gray. "
        "One box of each class is named; point at another to see its class."
    )
    return report_page.Section("samples", "Samples after augmentation", [report_page.paragraph(note), *parts])


def _colour(label: int) -> str:
    return f"hsl({label * 137.5 % 360:.0f} 90% 40%)"
