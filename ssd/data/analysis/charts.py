"""Charts of a dataset's boxes, alone and against the priors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ssd.data.analysis.prior_coverage import PriorLayout
from ssd.data.splits import Splits

_MAX_POINTS = 5000
_MATCHED, _UNMATCHED, _DARK, _BLUE = "#1a9850", "#e02f3c", "#1c2330", "#9db7d9"


def boxes_per_image(splits: Splits) -> Figure:
    """Histograms of the number of boxes in an image, one line per split."""
    figure, (axes,) = _panels(1)
    for name, index in splits.items():
        counts = np.diff(index.box_offsets) if len(index) else np.zeros(1, dtype=np.int64)
        bins = np.arange(-0.5, max(2, np.percentile(counts, 99.5)) + 1.5)
        axes.hist(counts.clip(max=bins[-1]), bins.tolist(), density=True, histtype="step", linewidth=1.8, label=name)
    axes.set(xlabel="boxes in an image", ylabel="share of the images")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, fontsize=8)
    return figure


def boxes_and_priors(layout: PriorLayout, boxes: Float[np.ndarray, "M 4"]) -> Figure:
    """Shapes, sizes and aspect ratios of boxes (xyxy fractions) against those of the priors."""
    figure, (plane, sizes, ratios) = _panels(3)
    boxes = boxes[:_MAX_POINTS]
    width, height = layout.shapes_px(boxes[:, 2:] - boxes[:, :2]).T
    _draw_shapes(plane, layout, boxes)
    scales = layout.scales_px
    _draw_histogram(sizes, layout.sizes_px(boxes), lines=scales, label="scales of the priors")
    wide = {ratio for level in layout.spec.aspect_ratios for ratio in level}
    both = sorted({1.0, *wide, *(1 / ratio for ratio in wide)})
    _draw_histogram(ratios, (width / height).clip(1 / 8, 8), lines=both, label="ratios of the priors")
    sizes.set(xlabel="size (root of the area), px", ylabel="boxes")
    ratios.set(xlabel="width / height", ylabel="boxes")
    return figure


def _draw_shapes(axes: Axes, layout: PriorLayout, boxes: Float[np.ndarray, "M 4"]) -> None:
    width, height = layout.shapes_px(boxes[:, 2:] - boxes[:, :2]).T
    matched = layout.matched(boxes)
    size = float(np.clip(20_000 / max(1, len(boxes)), 5, 24))
    for mask, colour, label in ((matched, _MATCHED, "matched"), (~matched, _UNMATCHED, "not matched")):
        # as pixels: thousands of SVG points would make the page slow
        axes.scatter(width[mask], height[mask], s=size, color=colour, alpha=0.4, lw=0, label=label, rasterized=True)
    shapes = layout.shapes_px(np.concatenate([level.shapes for level in layout.levels]))
    axes.scatter(shapes[:, 0], shapes[:, 1], s=26, color=_DARK, marker="+", lw=1, label="priors")
    axes.set(xlabel="width, px", ylabel="height, px")
    axes.legend(frameon=False, fontsize=8, markerscale=1.5)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:.3g}")
    axes.yaxis.set_major_formatter("{x:.3g}")


def _draw_histogram(axes: Axes, values: Float[np.ndarray, "M"], *, lines: Sequence[float], label: str) -> None:
    low, high = min([*lines, *values]) / 1.1, max([*lines, *values]) * 1.1
    axes.hist(values, np.geomspace(low, high, 40).tolist(), color=_BLUE)
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
