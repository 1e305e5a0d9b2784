"""What an evaluation shows: tables in the terminal, evaluation.json, and a page with curves and the worst pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from markupsafe import Markup
from rich.table import Table

from ssd import charts, html
from ssd.analysis import ALL_CLASSES, Verdict, worst_pictures
from ssd.data.index import DetectionIndex
from ssd.draw import draw
from ssd.evaluation import Comparison, Evaluation
from ssd.results import TITLES, say, say_table
from ssd.structures import Detections
from ssd.tide import Kind

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
_NOISE = "Brackets hold the middle 95 % over resampled pictures: the noise of the choice of the test pictures."


# --- terminal ----------------------------------------------------------------------------------------------------


def show(evaluations: Sequence[Evaluation], comparisons: Sequence[Comparison]) -> None:
    """The tables, and in a line each what costs most and which detector is better."""
    table = Table(title="results", title_justify="left")
    table.add_column("metric")
    for evaluation in evaluations:
        table.add_column(evaluation.name, justify="right")
    for row in _metric_rows(evaluations):
        table.add_row(*(_text(cell) for cell in row))
    say_table(table)
    for evaluation in evaluations:
        table = Table(title=f"{evaluation.name}: classes", title_justify="left")
        for key, title in _CLASS_TITLES.items():
            table.add_column(title, justify="left" if key == "name" else "right")
        for row in _class_rows(evaluation):
            table.add_row(*(_text(cell) for cell in row))
        say_table(table)
        worst = sorted(evaluation.costs.items(), key=lambda item: -item[1])
        lost = ", ".join(f"{name} {cost:.3f}" for name, cost in worst if name in evaluation.counts and cost > 0)
        say(f"{evaluation.name}: AP@0.5 lost to {lost or 'nothing'}")
    for comparison in comparisons:
        say(describe(comparison))


def describe(comparison: Comparison) -> str:
    """Whether the difference exceeds the noise."""
    verdict = "more than the noise" if comparison.exceeds_noise else "within the noise"
    return (
        f"{_TITLES[comparison.metric]}: {comparison.better} is {comparison.difference:.3f} over {comparison.other}, "
        f"{verdict} (95 %: {comparison.low:+.3f} to {comparison.high:+.3f})"
    )


def _metric_rows(evaluations: Sequence[Evaluation]) -> list[list[object]]:
    rows: list[list[object]] = [
        [title, *(_with_interval(evaluation, key) for evaluation in evaluations)] for key, title in _TITLES.items()
    ]
    rows.append(["pictures/s", *(f"{_rate(evaluation):.1f}" for evaluation in evaluations)])
    return rows


def _class_rows(evaluation: Evaluation) -> list[list[Any]]:
    return [[getattr(result, key) for key in _CLASS_TITLES] for result in evaluation.classes]


def _with_interval(evaluation: Evaluation, key: str) -> str | None:
    if key not in evaluation.metrics:
        return None
    low, high = evaluation.intervals.get(key, (None, None))
    noise = "" if low is None else f" [{low:.3f}, {high:.3f}]"
    return f"{evaluation.metrics[key]:.3f}{noise}"


def _rate(evaluation: Evaluation) -> float:
    return evaluation.speed.pictures / evaluation.speed.seconds


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
    summary = [
        *(html.paragraph(describe(comparison)) for comparison in comparisons),
        html.table(header, _metric_rows(evaluations)),
        html.paragraph(_NOISE),
    ]
    if len(evaluations) > 1:
        together = {evaluation.name: evaluation.curves[ALL_CLASSES] for evaluation in evaluations}
        summary += [html.chart(charts.precision_recall(together)), html.chart(charts.f1_by_threshold(together))]
    sections = [html.Section("results", "Results", summary)]
    for number, evaluation in enumerate(evaluations):
        sections += _sections(evaluation, index, number, worst, named=len(evaluations) > 1)
    return html.page(title, subtitle=subtitle, sections=sections)


def _sections(
    evaluation: Evaluation, index: DetectionIndex, number: int, worst: int, *, named: bool
) -> list[html.Section]:
    prefix = f"{evaluation.name}: " if named else ""
    cut = f"Over the score {evaluation.threshold:.2f}, which has the best F1 of all classes together."
    errors = [[name, cost, evaluation.counts.get(name)] for name, cost in evaluation.costs.items()]
    verdicts = worst_pictures([scene.above(evaluation.threshold) for scene in evaluation.scenes], count=worst)
    return [
        html.Section(
            f"classes-{number}",
            f"{prefix}Classes",
            [
                html.table(list(_CLASS_TITLES.values()), _class_rows(evaluation)),
                html.paragraph("cut at: the score with the best F1; precision and recall are those over it."),
                html.chart(charts.precision_recall(evaluation.curves)),
                html.chart(charts.f1_by_threshold(evaluation.curves)),
            ],
        ),
        html.Section(
            f"errors-{number}",
            f"{prefix}Errors",
            [
                html.chart(charts.error_bars({name: evaluation.costs[name] for name in evaluation.counts})),
                html.table(["error", "AP@0.5 lost", "number"], errors),
                html.chart(charts.confusion(evaluation.confusion, index.class_names)),
                html.paragraph(f"Numbers of errors and the matrix: {cut}"),
            ],
        ),
        html.Section(
            f"worst-{number}",
            f"{prefix}Worst pictures",
            [html.paragraph(f"{cut} Left what is there, right what was found.")]
            + [_pair(evaluation, index, verdict) for verdict in verdicts],
        ),
    ]


def _pair(evaluation: Evaluation, index: DetectionIndex, verdict: Verdict) -> str:
    """The objects, and what was found; what is wrong is named."""
    scene = evaluation.scenes[verdict.picture].above(evaluation.threshold)
    image = index.load(index.paths[verdict.picture])
    names = [*index.class_names, *(f"{kind.title}: {name}" for name in index.class_names for kind in Kind)]

    def drawn(boxes: np.ndarray, labels: np.ndarray, scores: np.ndarray, kinds: np.ndarray) -> Markup:
        height, width = image.shape[:2]
        wrong = len(index.class_names) + labels * len(Kind) + kinds
        shown = Detections(
            boxes=torch.from_numpy(boxes / np.array([width, height, width, height], dtype=np.float32)),
            scores=torch.from_numpy(scores),
            labels=torch.from_numpy(np.where(kinds > Kind.LEFT_OUT, wrong, labels)),
        )
        return html.picture(draw(image, shown, names), width=520)

    missed = np.where(verdict.judgement.missed, Kind.MISSED, Kind.HIT)
    return html.row(
        [
            drawn(scene.boxes, scene.labels, np.ones(len(scene.boxes), dtype=np.float32), missed),
            drawn(scene.found_boxes, scene.found_labels, scene.found_scores, verdict.judgement.kinds),
        ],
        caption=f"{index.ids[verdict.picture]}: {verdict.reason}",
    )
