"""What an evaluation shows: tables in the terminal, evaluation.json, and a page with curves and the worst images."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from markupsafe import Markup
from rich.table import Table

from ssd.common.console import log, log_table
from ssd.data.index import DetectionIndex
from ssd.evaluation import charts
from ssd.evaluation.evaluator import Comparison, Evaluation
from ssd.evaluation.tide import ALL_CLASSES, Kind, Verdict, worst_images
from ssd.training.summary import TITLES
from ssd.visualization import report_page

_TITLES = TITLES | {
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
    "threshold": "cut at",
    "precision": "precision",
    "recall": "recall",
}
_TERMINAL_COLUMNS = ("name", "objects", "map", "map_50", "threshold", "precision", "recall")  # 80 characters
_IMAGE_WIDTH = 520
_NOISE = (
    "95 %: the middle 95 % over resampled images, which is the noise of the choice of the images. Training again "
    "with another seed changes the numbers, too. Time spent waiting: for images to be read."
)


# --- terminal ----------------------------------------------------------------------------------------------------


def show(evaluations: Sequence[Evaluation], comparisons: Sequence[Comparison]) -> None:
    """The tables, and in a line each what costs most and which detector is better."""
    table = Table(title="results", title_justify="left")
    table.add_column("metric")
    for evaluation in evaluations:
        table.add_column(evaluation.name, justify="right", overflow="fold")
    for row in _metric_rows(evaluations):
        table.add_row(*(_text(cell) for cell in row))
    log_table(table)
    if len(evaluations) > 1:
        table = Table(title="AP by class", title_justify="left")
        table.add_column("class")
        for evaluation in evaluations:
            table.add_column(evaluation.name, justify="right", overflow="fold")
        for row in _rows_side_by_side(evaluations, "map"):
            table.add_row(*(_text(cell) for cell in row))
        log_table(table)
    for evaluation in evaluations:
        table = Table(title=f"{evaluation.name}: classes", title_justify="left")
        for key in _TERMINAL_COLUMNS:
            table.add_column(_CLASS_TITLES[key], justify="left" if key == "name" else "right")
        for row in _class_rows(evaluation, _TERMINAL_COLUMNS):
            table.add_row(*(_text(cell) for cell in row))
        log_table(table)
        worst = sorted(evaluation.costs.items(), key=lambda item: -item[1])
        lost = ", ".join(f"{name} {cost:.3f}" for name, cost in worst if name in evaluation.counts and cost >= 0.001)
        log(f"{evaluation.name}: AP@0.5 lost to {lost or 'nothing'}")
    for comparison in comparisons:
        log(describe(comparison))


def describe(comparison: Comparison) -> str:
    """Whether the difference exceeds the noise."""
    verdict = "more than the noise" if comparison.exceeds_noise else "which is within the noise"
    return (
        f"{_TITLES[comparison.metric]}: {comparison.better} is {comparison.difference:.3f} better than "
        f"{comparison.other}, {verdict} (95 %: {comparison.low:+.3f} to {comparison.high:+.3f})"
    )


def _metric_rows(evaluations: Sequence[Evaluation]) -> list[list[Any]]:
    rows: list[list[Any]] = []
    for key, title in _TITLES.items():
        rows.append([title, *(_text(evaluation.metrics.get(key)) for evaluation in evaluations)])
        if any(key in evaluation.intervals for evaluation in evaluations):
            noise = [evaluation.intervals.get(key) for evaluation in evaluations]
            rows.append(
                [
                    "\N{NO-BREAK SPACE}\N{NO-BREAK SPACE}95 %",
                    *("-" if ends is None else f"{ends[0]:.3f}-{ends[1]:.3f}" for ends in noise),
                ]
            )
    speeds = [evaluation.speed for evaluation in evaluations]
    rows.append(["images/s", *(f"{speed.images / speed.seconds:.1f}" for speed in speeds)])
    rows.append(["time spent waiting", *(f"{speed.waiting / speed.seconds:.0%}" for speed in speeds)])
    return rows


def _class_rows(evaluation: Evaluation, columns: Iterable[str]) -> list[list[Any]]:
    return [[getattr(result, key) for key in columns] for result in evaluation.classes]


def _rows_side_by_side(evaluations: Sequence[Evaluation], key: str) -> list[list[Any]]:
    """Of each class, the number `key` of each detector; all have the same classes."""
    results = zip(*(evaluation.classes for evaluation in evaluations), strict=True)
    return [[same[0].name, *(getattr(result, key) for result in same)] for same in results]


def _text(cell: object) -> str:
    if cell is None:
        return "-"
    return f"{cell:.3f}" if isinstance(cell, float) else str(cell)


# --- JSON --------------------------------------------------------------------------------------------------------


def as_json(evaluations: Sequence[Evaluation], comparisons: Sequence[Comparison], facts: dict[str, Any]) -> str:
    """Every number; what is undefined is left out or null."""
    kept = ("metrics", "intervals", "threshold", "costs", "counts")
    records = [
        {
            "name": item.name,
            **{key: getattr(item, key) for key in kept},
            "classes": [asdict(result) for result in item.classes],
            "confusion": item.confusion.tolist(),
            "speed": asdict(item.speed),
        }
        for item in evaluations
    ]
    compared = [asdict(item) | {"exceeds_noise": item.exceeds_noise} for item in comparisons]
    content = {**facts, "evaluations": records, "comparisons": compared}
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)


# --- page --------------------------------------------------------------------------------------------------------


def as_page(
    evaluations: Sequence[Evaluation],
    comparisons: Sequence[Comparison],
    index: DetectionIndex,
    *,
    title: str,
    subtitle: str,
    worst: int,
) -> str:
    """The report; complete in itself."""
    header = ["metric", *(evaluation.name for evaluation in evaluations)]
    parts = [report_page.table(header, _metric_rows(evaluations))]
    if len(evaluations) > 1:
        together = {evaluation.name: evaluation.curves[ALL_CLASSES] for evaluation in evaluations}
        lines = (charts.precision_recall(together), charts.f1_by_threshold(together))
        parts.append(Markup("<br>").join(map(report_page.chart, lines)))
    verdicts = [report_page.paragraph(describe(comparison)) for comparison in comparisons]
    sections = [
        report_page.Section(
            "results", "Results", [*verdicts, report_page.columns(parts), report_page.paragraph(_NOISE)]
        )
    ]
    if len(evaluations) > 1:
        names = [evaluation.name for evaluation in evaluations]
        tables = [
            report_page.table([f"{_CLASS_TITLES[key]} of", *names], _rows_side_by_side(evaluations, key))
            for key in ("map", "map_50")
        ]
        sections.append(report_page.Section("side-by-side", "Classes side by side", [report_page.columns(tables)]))
    for number, evaluation in enumerate(evaluations):
        sections += _sections(evaluation, index, number, worst, named=len(evaluations) > 1)
    return report_page.page(title, subtitle=subtitle, sections=sections)


def _sections(
    evaluation: Evaluation, index: DetectionIndex, number: int, worst: int, *, named: bool
) -> list[report_page.Section]:
    prefix = f"{evaluation.name}: " if named else ""
    over = f"over the score {evaluation.threshold:.2f}"
    best = "This score has the best F1 of all classes together."
    errors = [[name, cost, evaluation.counts.get(name)] for name, cost in evaluation.costs.items()]
    verdicts = worst_images([scene.above(evaluation.threshold) for scene in evaluation.scenes], count=worst)
    return [
        report_page.Section(
            f"classes-{number}",
            f"{prefix}Classes",
            [
                report_page.table(list(_CLASS_TITLES.values()), _class_rows(evaluation, _CLASS_TITLES)),
                report_page.paragraph("cut at: the score with the best F1; precision and recall are those over it."),
                report_page.columns(
                    [
                        report_page.chart(charts.precision_recall(evaluation.curves)),
                        report_page.chart(charts.f1_by_threshold(evaluation.curves)),
                    ]
                ),
            ],
        ),
        report_page.Section(
            f"errors-{number}",
            f"{prefix}Errors",
            [
                report_page.columns(
                    [
                        report_page.chart(charts.error_bars(evaluation.costs))
                        + report_page.table(["error", "AP@0.5 lost, all scores", f"number {over}"], errors),
                        report_page.chart(charts.confusion(evaluation.confusion, index.class_names)),
                    ]
                ),
                report_page.paragraph(
                    "AP@0.5 lost: what mending these errors alone would gain, with detections of all scores. An error "
                    f"can be frequent and cost little. The numbers and the matrix count detections {over}. {best}"
                ),
            ],
        ),
        report_page.Section(
            f"worst-{number}",
            f"{prefix}Worst images",
            [report_page.paragraph(f"Left what is there, right what was found {over}. {best}"), _legend()]
            + [_pair(evaluation, index, verdict) for verdict in verdicts],
        ),
    ]


def _pair(evaluation: Evaluation, index: DetectionIndex, verdict: Verdict) -> Markup:
    """The objects, and what was found, in the colour of what became of them."""
    scene = evaluation.scenes[verdict.image].above(evaluation.threshold)
    image = index.load(index.paths[verdict.image])
    scale = np.array(image.shape[:2])[[1, 0, 1, 0]]

    def marked(boxes: np.ndarray, labels: np.ndarray, kinds: np.ndarray, scores: Sequence[str]) -> Markup:
        marks = []
        for box, label, kind, score in zip(boxes / scale, labels, map(Kind, kinds.tolist()), scores, strict=True):
            text = index.class_names[label] + score
            marks.append(
                report_page.Mark(tuple(box.tolist()), charts.KIND_COLOURS[kind], text, f"{text}: {kind.title}")
            )
        errors_first = np.argsort(kinds == Kind.HIT, kind="stable")  # then the best on top
        return report_page.embedded_image(
            image, width=_IMAGE_WIDTH, marks=[marks[place] for place in errors_first.tolist()]
        )

    judged = verdict.judgement
    return report_page.row(
        [
            marked(scene.boxes, scene.labels, judged.of_objects(scene.ignore), [""] * len(scene.boxes)),
            marked(
                scene.found_boxes,
                scene.found_labels,
                judged.kinds,
                [f" {score:.0%}" for score in scene.found_scores.tolist()],
            ),
        ],
        caption=f"{index.ids[verdict.image]}: {verdict.judgement.reason}",
    )


def _legend() -> Markup:
    items = (Markup('<b style="color:{}">{}</b>').format(charts.KIND_COLOURS[kind], kind.title) for kind in Kind)
    return Markup("<p>{}</p>").format(Markup(" · ").join(items))
