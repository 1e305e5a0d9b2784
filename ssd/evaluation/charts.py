"""Charts of the error analysis, for reports and TensorBoard. Figures of their own: no window, no global state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ssd.evaluation.tide import ALL_CLASSES, ERRORS, Kind, ScoreCurve

_LEVELS = np.linspace(0, 1, 201)  # enough for the eye; a class of COCO has thousands of points
_NAMED = 12  # more lines than colours help nobody: the others are gray
_NUMBERED = 15  # classes of a confusion matrix with numbers in its cells
_BLACK, _GRAY = "#1c2330", "#b8bfca"
KIND_COLOURS = {
    Kind.HIT: "#1a9850",
    Kind.LEFT_OUT: "#7a8494",
    Kind.WRONG_CLASS: "#9334d6",
    Kind.POOR_BOX: "#e67e00",
    Kind.BOTH: "#8c5a2b",
    Kind.DUPLICATE: "#2f6fd6",
    Kind.BACKGROUND: "#d6249f",
    Kind.MISSED: "#e02f3c",
}


def precision_recall(curves: Mapping[str, ScoreCurve]) -> Figure:
    """Precision at this recall or a higher one, at IoU 0.5."""
    figure, axes = _panel("recall", "precision")
    for position, (name, curve) in enumerate(curves.items()):
        envelope = np.append(np.maximum.accumulate(curve.precision[:0:-1])[::-1], np.nan)  # without the row of none
        reached = envelope[np.searchsorted(curve.recall[1:], _LEVELS)]
        _line(axes, _LEVELS, reached, name, position, len(curves))
    axes.legend(frameon=False, fontsize=8)
    return figure


def f1_by_threshold(curves: Mapping[str, ScoreCurve]) -> Figure:
    """F1 of what is over a score, with the best threshold of each line marked."""
    figure, axes = _panel("score threshold", "F1")
    for position, (name, curve) in enumerate(curves.items()):
        line = _line(axes, _LEVELS, curve.f1[curve.at(_LEVELS)], name, position, len(curves))
        axes.plot(curve.best_threshold, curve.f1.max(), "o", color=line, markersize=5)
    axes.legend(frameon=False, fontsize=8)
    return figure


def confusion(matrix: Int[np.ndarray, "C1 C1"], class_names: Sequence[str]) -> Figure:
    """Shares of each true class by colour, counts as numbers; the last row and column are background."""
    names = [*map(_plain, class_names), "background"]
    side = max(3.2, min(9.0, 1.6 + 0.55 * len(names)))
    figure = Figure(figsize=(side, side), layout="tight")
    axes = figure.subplots()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set(xlabel="found", ylabel="true")
    if len(class_names) <= _NUMBERED:
        for row, column in np.ndindex(*matrix.shape):
            colour = "white" if shares[row, column] > 0.6 else _BLACK
            axes.text(column, row, str(matrix[row, column] or "·"), ha="center", va="center", color=colour, fontsize=8)
    return figure


def error_bars(costs: Mapping[str, float]) -> Figure:
    """AP at IoU 0.5 that each kind of error costs, from `ssd.evaluation.tide.error_costs`."""
    figure = Figure(figsize=(5.2, 3.0))
    axes = figure.subplots()
    values = [costs[kind.title] for kind in ERRORS]
    colours = [KIND_COLOURS[kind] for kind in ERRORS]
    bars = axes.barh([kind.title for kind in ERRORS], values, color=colours, height=0.62)
    axes.bar_label(bars, fmt="%.3f", padding=4, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, max([*values, 0.01]) * 1.2)
    axes.set_xlabel("AP@0.5 that mending them would gain", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _panel(xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.2, 3.6))
    axes = figure.subplots(gridspec_kw={"left": 0.11, "right": 0.97, "bottom": 0.14, "top": 0.92})
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel=xlabel, ylabel=ylabel)
    axes.grid(color="#e8ebf0")
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _line(axes: Axes, x: np.ndarray, y: np.ndarray, name: str, position: int, count: int) -> str:
    """Returns its colour."""
    common, many = name == ALL_CLASSES, count > _NAMED
    colour = _BLACK if common else _GRAY if many else f"C{position % 10}"
    label = _plain(name) if common or not many else None
    axes.plot(x, y, color=colour, linewidth=2.2 if common else 1.3, label=label)
    return colour


def _plain(name: str) -> str:
    """Dollars would start a formula, and a name that begins with an underscore would not be in the legend."""
    return " " + name.replace("$", r"\$")
