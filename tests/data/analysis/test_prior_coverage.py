"""Prior coverage against a slow loop, published limits, and fitted priors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from composed import compose

from ssd.cli import build
from ssd.cli.inspect_data import inspect
from ssd.common.errors import ConfigError
from ssd.data.analysis.prior_coverage import (
    PriorLayout,
    best_iou,
    coverage_warnings,
    fit_priors,
    measure_coverage,
    write_priors,
)
from ssd.data.analysis.report import coverage_table
from ssd.model.boxes import cxcywh_to_xyxy, pairwise_iou
from ssd.model.priors import PriorSpec

BCCD = Path(__file__).parents[4] / "shared" / "data" / "voc" / "bccd"
MOBILENET = [(19, 19), (10, 10), (5, 5), (3, 3), (2, 2), (1, 1)]
VGG = [(38, 38), (19, 19), (10, 10), (5, 5), (3, 3), (1, 1)]


def layout_of(spec: PriorSpec, grids: list[tuple[int, int]] = MOBILENET) -> PriorLayout:
    return PriorLayout(spec, grids, image_size=300, match_threshold=0.5)


def random_boxes(count: int, *, largest: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(count)
    sides = np.exp(rng.uniform(np.log(0.01), np.log(largest), (count, 2)))
    corners = rng.uniform(0, 1, (count, 2)) * (1 - sides)
    return np.column_stack((corners, corners + sides))


@pytest.mark.parametrize("clip", ["all", "sizes", "none"])
def test_best_iou_equals_a_search_over_all_priors(vgg16_300: PriorSpec, clip: str) -> None:
    spec, boxes = replace(vgg16_300, clip=clip), random_boxes(200)
    priors = cxcywh_to_xyxy(spec.build(VGG, image_size=300).double())
    slow = pairwise_iou(torch.from_numpy(boxes), priors).max(dim=1).values.numpy()
    assert np.allclose(best_iou(boxes, layout_of(spec, VGG).levels), slow, atol=1e-12)


def squares(side_px: float) -> np.ndarray:
    """Anywhere in the image."""
    corners = np.random.default_rng(0).uniform(0, 1 - side_px / 300, (3000, 2))
    return np.column_stack((corners, corners + side_px / 300))


def test_small_squares_cannot_be_matched_by_published_priors(mobilenet_v1: PriorSpec, vgg16_300: PriorSpec) -> None:
    assert best_iou(squares(32), layout_of(mobilenet_v1).levels).max() < 0.5
    assert best_iou(squares(16), layout_of(vgg16_300, VGG).levels).max() < 0.5
    assert best_iou(squares(64), layout_of(mobilenet_v1).levels).max() > 0.5


def test_boxes_are_counted_by_class_and_size(mobilenet_v1: PriorSpec) -> None:
    boxes = np.concatenate((squares(10)[:3], squares(20)[:4], squares(200)[:5]))
    labels = np.array([0] * 3 + [1] * 9)
    coverage = measure_coverage(layout_of(mobilenet_v1), boxes, labels, num_classes=3)
    assert coverage.boxes.tolist() == [[3, 0, 0, 0, 0], [0, 4, 0, 0, 5], [0, 0, 0, 0, 0]]
    assert coverage.matched.sum(axis=1).tolist() == [0, 5, 0]
    assert coverage.share == pytest.approx(5 / 12)
    assert coverage.poor_classes() == [0]
    assert coverage_table(coverage, ["ant", "bee", "cat"], title="", counts=True).rows[2][-1] == "56% of 9"
    lines = coverage_warnings(layout_of(mobilenet_v1), coverage, ["ant", "bee", "cat"], fitted=False)
    assert "boxes of: ant (0 %)" in lines[0]
    assert "fit_priors=true" in lines[1]


def test_fitted_priors_match_more_boxes_of_the_poor_class_and_not_fewer_of_the_other(mobilenet_v1: PriorSpec) -> None:
    boxes, labels = np.concatenate((squares(30)[:400], squares(220)[:400])), np.repeat([0, 1], 400)
    before = layout_of(mobilenet_v1)
    after = replace(before, spec=fit_priors(before, boxes, labels, seed=0))
    shares = [(best_iou(boxes, layout.levels) >= 0.5).reshape(2, -1).mean(axis=1) for layout in (before, after)]
    assert shares[0][0] == 0
    assert shares[1][0] > 0.85
    assert shares[1][1] >= shares[0][1] - 0.01
    assert after.spec.per_cell == before.spec.per_cell
    assert fit_priors(before, boxes, labels, seed=0) == after.spec


def test_a_written_file_holds_the_arguments_of_the_spec(mobilenet_v1: PriorSpec, tmp_path: Path) -> None:
    spec = replace(mobilenet_v1, scales=[0.08, 0.3, 0.5, 0.65, 0.8, 0.95, 1.1], aspect_ratios=[[1.5, 3]] * 6)
    path = tmp_path / "mine.yaml"
    write_priors(spec, path, comments=["one\nline: [", "another"])
    content = yaml.safe_load(path.read_text())
    assert set(content) == {"scales", "aspect_ratios", "steps_px", "clip"}
    assert PriorSpec(**content) == spec
    config = compose(f"priors.file={path}")
    build.fill_auto(config)
    assert build.build_priors(config) == spec


# The command


def run(tmp_path: Path, *overrides: str) -> None:
    inspect(compose(*overrides, f"output={tmp_path}", name="inspect"))


@pytest.mark.parametrize("name", ["../evil", "a b", "taken"])
def test_a_bad_name_or_an_existing_file_is_an_error_before_data_is_read(name: str, tmp_path: Path) -> None:
    (tmp_path / "taken.yaml").touch()
    with pytest.raises(ConfigError, match=r"^fit_priors="):
        run(tmp_path, f"fit_priors='{name}'", "dataset=voc", "dataset.root=nowhere")
    assert [path.name for path in tmp_path.rglob("*.yaml")] == ["taken.yaml"]


@pytest.mark.skipif(not BCCD.is_dir(), reason=f"no {BCCD}")
@pytest.mark.parametrize(("fit", "file"), [("true", "priors.yaml"), ("cells", "cells.yaml")])
def test_platelets_become_matchable(fit: str, file: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    run(tmp_path, "dataset=voc", f"dataset.root={BCCD}", f"fit_priors={fit}")
    rows = [line.split() for line in caplog.messages if "Platelets" in line and "%" in line and "│" in line]
    shares = [int(cells[-2].rstrip("%")) for cells in rows]
    assert shares[0] == 0
    assert shares[1] > 50
    assert (tmp_path / file).is_file()
    assert f"priors.file={tmp_path / file}" in caplog.text
    problems = (tmp_path / "problems.txt").read_text()
    assert problems.count("box without area") == 2
    assert "BloodImage_00037.jpg: nearly the same image" in problems
