"""Results of an evaluation as tables, as evaluation.json, and as a page with curves and the worst images."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from markupsafe import Markup

from ssd.common.console import log
from ssd.common.tables import Table
from ssd.data.index import DetectionIndex
from ssd.evaluation import charts
from ssd.evaluation.evaluator import Comparison, Evaluation
from ssd.evaluation.score_curves import ALL_CLASSES
from ssd.evaluation.tide import ERRORS
from ssd.evaluation.worst_images import draw_errors, worst_images
from ssd.visualization import report_page
from ssd.visualization.report_page import Section

_MAP_TITLES = {
    "map": "mAP@[.5:.95]",
    "map_50": "mAP@0.5",
    "map_75": "mAP@0.75",
    "map_small": "mAP small (< 32² px)",
    "map_medium": "mAP medium",
    "map_large": "mAP large (> 96² px)",
}
_TITLES = _MAP_TITLES | {
    "voc07_map": "VOC07 mAP (11 points)",
    "voc_map": "VOC10+ mAP (area)",
    "mar_1": "AR, 1 detection",
    "mar_10": "AR, 10 detections",
    "mar_100": "AR, 100 detections",
    "mar_small": "AR small",
    "mar_medium": "AR medium",
    "mar_large": "AR large",
}
_CLASS_TITLES = {
    "name": "class",
    "objects": "objects",
    "map": "AP",
    "map_50": "AP@0.5",
    "voc07_ap": "VOC07",
    "voc_ap": "VOC10+",
    "threshold": "threshold",
    "precision": "precision",
    "recall": "recall",
}
_TERMINAL_COLUMNS = ("name", "objects", "map", "map_50", "threshold", "precision", "recall")  # fits 80 characters
_INDENT = "\N{NO-BREAK SPACE}\N{NO-BREAK SPACE}"
_IMAGE_PX = 520
_MIN_REPORTED_LOSS = 0.001
_MAX_THRESHOLD_DIFFERENCE = 0.1  # between the stored and the best one
_MAX_LISTED = 5
_NOTES = (
    "95 %: the middle 95 % over bootstrap samples of the images, which is the noise from the choice of images. "
    "Training with another seed changes the numbers, too. Time spent waiting: for images to be read."
)


def metric_table(metrics: Mapping[str, float], class_names: Sequence[str], *, title: str) -> Table:
    """mAP and the AP of each class, from metrics named as by `ssd.evaluation.metrics.coco_metrics`."""
    rows: list[list[object]] = [[text, metrics[name]] for name, text in _MAP_TITLES.items() if name in metrics]
    rows += [[f"AP {name}", metrics.get(f"map_class/{name}", "no objects")] for name in class_names]
    return Table(title, ["metric", "value"], rows)


def _results_table(evaluations: Sequence[Evaluation]) -> Table:
    rows: list[list[object]] = []
    for key, title in _TITLES.items():
        rows.append([title, *(item.metrics.get(key) for item in evaluations)])
        intervals = [item.intervals.get(key) for item in evaluations]
        if any(intervals):
            rows.append([f"{_INDENT}95 %", *(ends and f"{ends[0]:.3f}-{ends[1]:.3f}" for ends in intervals)])
    speeds = [item.speed for item in evaluations]
    rows.append(["images/s", *(f"{speed.images / speed.seconds:.1f}" for speed in speeds)])
    rows.append(["time spent waiting", *(f"{speed.waiting / speed.seconds:.0%}" for speed in speeds)])
    return Table("results", ["metric", *(item.name for item in evaluations)], rows)


def _class_table(evaluation: Evaluation, keys: Iterable[str]) -> Table:
    rows = [[getattr(result, key) for key in keys] for result in evaluation.classes]
    return Table(f"{evaluation.name}: classes", [_CLASS_TITLES[key] for key in keys], rows)


def _comparison_table(evaluations: Sequence[Evaluation], key: str) -> Table:
    """The value `key` of each class, one column per detector; all detectors have the same classes."""
    by_class = zip(*(item.classes for item in evaluations), strict=True)
    rows = [[results[0].name, *(getattr(result, key) for result in results)] for results in by_class]
    title = f"{_CLASS_TITLES[key]} by class"
    return Table(title, [title, *(item.name for item in evaluations)], rows)


def print_results(evaluations: Sequence[Evaluation], comparisons: Sequence[Comparison]) -> None:
    """Prints the tables, the costliest errors of each detector, and which detector is better."""
    _results_table(evaluations).log()
    if len(evaluations) > 1:
        _comparison_table(evaluations, "map").log()
    for evaluation in evaluations:
        _class_table(evaluation, _TERMINAL_COLUMNS).log()
        costs = [(evaluation.delta_ap[error.title], text) for error, text in ERRORS.items()]
        costs.sort(key=lambda item: -item[0])
        lost = [f"{text} {cost:.3f}" for cost, text in costs if cost >= _MIN_REPORTED_LOSS]
        log(f"{evaluation.name}: AP@0.5 lost to {', '.join(lost) or 'nothing'}")
    for comparison in comparisons:
        log(describe(comparison))


def print_thresholds(evaluation: Evaluation, stored: Mapping[str, float]) -> None:
    """Prints for each class the stored and the best score threshold with their F1, and which differ a lot."""
    rows: list[list[object]] = []
    differing = []
    for result in evaluation.classes:
        if result.name not in stored:
            continue
        curve, value, best = evaluation.curves[result.name], stored[result.name], result.threshold
        f1 = [float(curve.f1[curve.at(np.array([value]))[0]]), float(curve.f1.max())] if curve.objects else [None] * 2
        rows.append([result.name, value, f1[0], best, f1[1]])
        if best is not None and abs(value - best) >= _MAX_THRESHOLD_DIFFERENCE:
            differing.append(f"{result.name} {value:.2f} (here {best:.2f}, F1 {f1[0]:.3f} instead of {f1[1]:.3f})")
    if rows:
        columns = ["class", "in the file", "F1", "best here", "F1"]
        Table(f"{evaluation.name}: score thresholds", columns, rows).log()
    if differing:
        more = f" and {len(differing) - _MAX_LISTED} more" if len(differing) > _MAX_LISTED else ""
        listed = ", ".join(differing[:_MAX_LISTED]) + more
        log(f"warning: {evaluation.name}: score thresholds in the file differ from the best ones here: {listed}")


def describe(comparison: Comparison) -> str:
    """Which detector is better, and whether the difference exceeds the noise."""
    relation = "more than the noise" if comparison.exceeds_noise else "which is within the noise"
    return (
        f"{_TITLES[comparison.metric]}: {comparison.better} is {comparison.difference:.3f} better than "
        f"{comparison.other}, {relation} (95 %: {comparison.low:+.3f} to {comparison.high:+.3f})"
    )


def as_json(evaluations: Sequence[Evaluation], comparisons: Sequence[Comparison], metadata: dict[str, Any]) -> str:
    """Every number below the `metadata`; undefined numbers are left out or null."""
    plain = ("name", "metrics", "intervals", "threshold", "delta_ap", "error_counts")
    records = [
        {key: getattr(item, key) for key in plain}
        | {"classes": [asdict(result) for result in item.classes]}
        | {"confusion": item.confusion.tolist(), "speed": asdict(item.speed)}
        for item in evaluations
    ]
    compared = [asdict(item) | {"exceeds_noise": item.exceeds_noise} for item in comparisons]
    content = {**metadata, "evaluations": records, "comparisons": compared}
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)


def as_page(
    evaluations: Sequence[Evaluation],
    comparisons: Sequence[Comparison],
    index: DetectionIndex,
    *,
    title: str,
    subtitle: str,
    worst: int,
) -> str:
    """The report as HTML, with the `worst` images of each detector."""
    several = len(evaluations) > 1
    parts = [report_page.table(_results_table(evaluations))]
    side_by_side = []
    if several:
        curves = {item.name: item.curves[ALL_CLASSES] for item in evaluations}
        parts += [report_page.chart(draw(curves)) for draw in (charts.precision_recall, charts.f1_by_threshold)]
        tables = [report_page.table(_comparison_table(evaluations, key)) for key in ("map", "map_50")]
        side_by_side = [Section("side-by-side", "Classes side by side", [report_page.columns(tables)])]
    lines = [report_page.paragraph(describe(comparison)) for comparison in comparisons]
    results = [*lines, report_page.columns(parts), report_page.paragraph(_NOTES)]
    sections = [Section("results", "Results", results), *side_by_side]
    for number, evaluation in enumerate(evaluations):
        prefix = f"{evaluation.name}: " if several else ""
        sections += [
            Section(f"classes-{number}", f"{prefix}Classes", _class_parts(evaluation)),
            Section(f"errors-{number}", f"{prefix}Errors", _error_parts(evaluation, index.class_names)),
            Section(f"worst-{number}", f"{prefix}Worst images", _worst_parts(evaluation, index, worst)),
        ]
    return report_page.page(title, subtitle=subtitle, sections=sections)


def _class_parts(evaluation: Evaluation) -> list[Markup]:
    curves = [charts.precision_recall(evaluation.curves), charts.f1_by_threshold(evaluation.curves)]
    return [
        report_page.table(_class_table(evaluation, _CLASS_TITLES)),
        report_page.paragraph("threshold: the score with the best F1; precision and recall are those above it."),
        report_page.columns([report_page.chart(figure) for figure in curves]),
    ]


def _error_parts(evaluation: Evaluation, class_names: Sequence[str]) -> list[Markup]:
    above = f"above the score {evaluation.threshold:.2f}"
    titles = {error.title: f"{error.title}: {text}" for error, text in ERRORS.items()}
    rows = [
        [titles.get(name, name), gain, evaluation.error_counts.get(name)] for name, gain in evaluation.delta_ap.items()
    ]
    table = Table("errors", ["error", "AP@0.5 lost, all scores", f"number {above}"], rows)
    bars = report_page.chart(charts.error_bars(evaluation.delta_ap))
    matrix = report_page.chart(charts.confusion(evaluation.confusion, class_names))
    return [
        report_page.columns([bars, matrix, report_page.table(table)]),
        report_page.paragraph(
            "AP@0.5 lost: what fixing these errors alone would gain, with detections of all scores. An error can be "
            f"frequent and cost little. The numbers and the matrix count detections {above}, the score with the best "
            "F1 over all classes."
        ),
    ]


def _worst_parts(evaluation: Evaluation, index: DetectionIndex, count: int) -> list[Markup]:
    note = (
        f"Left the ground truth, right the detections above the score {evaluation.threshold:.2f}, the score with the "
        "best F1 over all classes."
    )
    legend = [
        (f"{outcome.title}: {ERRORS[outcome]}" if outcome in ERRORS else outcome.title, colour)
        for outcome, colour in charts.OUTCOME_COLOURS.items()
    ]
    results = [result.above(evaluation.threshold) for result in evaluation.image_results]
    rows = []
    for worst in worst_images(results, count=count):
        image, result = index.load(index.paths[worst.position]), results[worst.position]
        views = draw_errors(image, result, worst.errors, index.class_names, side_px=_IMAGE_PX)
        images = [report_page.embedded_image(view, width=_IMAGE_PX) for view in views]
        rows.append(report_page.image_row(images, caption=f"{index.ids[worst.position]}: {worst.errors.summary}"))
    return [report_page.paragraph(note), report_page.legend(legend), *rows]
