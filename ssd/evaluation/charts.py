"""Charts of the error analysis, for reports and TensorBoard. Each figure is independent: no window, no global state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ssd.evaluation.score_curves import ALL_CLASSES, ScoreCurve
from ssd.evaluation.tide import ERRORS, Outcome

OUTCOME_COLOURS = {
    Outcome.CORRECT: "#1a9850",
    Outcome.IGNORED: "#7a8494",
    Outcome.CLS: "#9334d6",
    Outcome.LOC: "#e67e00",
    Outcome.BOTH: "#8c5a2b",
    Outcome.DUPE: "#2f6fd6",
    Outcome.BKG: "#d6249f",
    Outcome.MISS: "#e02f3c",
}
_LEVELS = np.linspace(0, 1, 201)  # enough for the eye; a class of COCO has thousands of points
_MAX_COLOURED = 12  # with more lines than that, only the one of all classes is coloured
_MAX_NUMBERED = 15  # classes of a confusion matrix with numbers in its cells
_BLACK, _GRAY = "#1c2330", "#b8bfca"


def precision_recall(curves: Mapping[str, ScoreCurve]) -> Figure:
    """Interpolated precision (the best at the same or a higher recall), at IoU 0.5."""
    lines = {}
    for name, curve in curves.items():
        envelope = np.append(np.maximum.accumulate(curve.precision[:0:-1])[::-1], np.nan)  # without row 0
        lines[name] = envelope[np.searchsorted(curve.recall[1:], _LEVELS)]
    return _line_chart(lines, xlabel="recall", ylabel="precision")


def f1_by_threshold(curves: Mapping[str, ScoreCurve]) -> Figure:
    """F1 of the detections above a score, with the best threshold of each line marked."""
    lines = {name: curve.f1[curve.at(_LEVELS)] for name, curve in curves.items()}
    best = {name: (curve.best_threshold, float(curve.f1.max())) for name, curve in curves.items()}
    return _line_chart(lines, xlabel="score threshold", ylabel="F1", marked=best)


def confusion(matrix: Int[np.ndarray, "C1 C1"], class_names: Sequence[str]) -> Figure:
    """Shares of each true class as colours, counts as numbers; the last row and column are background."""
    names = [*map(_escaped, class_names), "background"]
    side = max(3.2, min(9.0, 1.6 + 0.55 * len(names)))
    figure = Figure(figsize=(side, side), layout="tight")
    axes = figure.subplots()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set(xlabel="predicted", ylabel="true")
    if len(class_names) <= _MAX_NUMBERED:
        for row, column in np.ndindex(*matrix.shape):
            colour = "white" if shares[row, column] > 0.6 else _BLACK
            axes.text(column, row, str(matrix[row, column] or "·"), ha="center", va="center", color=colour, fontsize=8)
    return figure


def error_bars(delta_ap: Mapping[str, float]) -> Figure:
    """AP that each error type costs, from `ssd.evaluation.tide.delta_ap`."""
    figure = Figure(figsize=(5.2, 3.0))
    axes = figure.subplots()
    values = [delta_ap[error.title] for error in ERRORS]
    colours = [OUTCOME_COLOURS[error] for error in ERRORS]
    bars = axes.barh([error.title for error in ERRORS], values, color=colours, height=0.62)
    axes.bar_label(bars, fmt="%.3f", padding=4, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, max([*values, 0.01]) * 1.2)
    axes.set_xlabel("gain in AP@0.5 if fixed", fontsize=9)
    _remove_frame(axes)
    return figure


def _line_chart(
    lines: Mapping[str, np.ndarray],
    *,
    xlabel: str,
    ylabel: str,
    marked: Mapping[str, tuple[float, float]] | None = None,
) -> Figure:
    """One line per class over _LEVELS, some with a point marked."""
    figure = Figure(figsize=(5.2, 3.6))
    axes = figure.subplots(gridspec_kw={"left": 0.11, "right": 0.97, "bottom": 0.14, "top": 0.92})
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel=xlabel, ylabel=ylabel)
    axes.grid(color="#e8ebf0")
    many = len(lines) > _MAX_COLOURED
    for position, (name, values) in enumerate(lines.items()):
        overall = name == ALL_CLASSES
        colour = _BLACK if overall else _GRAY if many else f"C{position % 10}"
        label = _escaped(name) if overall or not many else None
        axes.plot(_LEVELS, values, color=colour, linewidth=2.2 if overall else 1.3, label=label)
        if marked is not None:
            axes.plot(*marked[name], "o", color=colour, markersize=5)
    axes.legend(frameon=False, fontsize=8)
    _remove_frame(axes)
    return figure


def _remove_frame(axes: Axes) -> None:
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _escaped(name: str) -> str:
    """matplotlib reads text between dollars as a formula, and leaves labels that begin with an underscore out."""
    return " " + name.replace("$", r"\$")
