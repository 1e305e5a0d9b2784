"""Evaluation of detectors whose results are known; classes by name; tables, JSON and the page."""

from __future__ import annotations

import json
import logging
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssd.common.errors import ConfigError
from ssd.common.images import ImageArray
from ssd.common.structures import Detections
from ssd.data.augmentation import Augmentation, SSDWindow
from ssd.data.dataset import DetectionDataset, collate
from ssd.data.formats.shapes import CLASS_NAMES, read_shapes
from ssd.data.index import DetectionIndex
from ssd.data.splits import Splits
from ssd.evaluation import evaluator
from ssd.evaluation.detect import Speed, detect, select_split, with_classes
from ssd.evaluation.evaluator import Evaluation, compare, mean_ap
from ssd.evaluation.matching import bootstrap_weights
from ssd.evaluation.metrics import DetectionMetrics
from ssd.evaluation.report import as_json, as_page, describe, print_results

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

SPEED = Speed(images=12, seconds=2.0, waiting=0.5)


@pytest.fixture(scope="module")
def index() -> DetectionIndex:
    found = read_shapes(train=1, val=0, test=12, side_px=80, seed=0).test
    assert found is not None
    return found


def truth(index: DetectionIndex, position: int, *, shift: float = 0.0) -> Detections:
    """A detector that is right, or off by a share of the image."""
    rows = index.rows(position)
    boxes, labels = torch.from_numpy(index.boxes[rows]), torch.from_numpy(index.labels[rows]).long()
    return Detections(boxes + shift, torch.linspace(0.9, 0.8, len(boxes)), labels)


def measured(index: DetectionIndex, name: str = "a", *, shift: float = 0.0) -> Evaluation:
    found = [truth(index, position, shift=shift) for position in range(len(index))]
    return evaluator.evaluate(
        name, found, index, speed=SPEED, weights=bootstrap_weights(len(index), samples=50, seed=0)
    )


def test_the_truth_scores_1_in_everything(index: DetectionIndex) -> None:
    result = measured(index)
    for name in ("map", "map_50", "voc07_map", "voc_map", "mar_100"):
        assert result.metrics[name] == pytest.approx(1.0), name
    assert result.intervals["map"] == (pytest.approx(1.0), pytest.approx(1.0))
    assert sum(item.objects for item in result.classes) == len(index.boxes)
    assert all(item.precision == item.recall == 1.0 for item in result.classes)
    assert result.confusion.sum() == np.trace(result.confusion) == len(index.boxes)
    assert not any(result.delta_ap.values())
    assert not any(result.error_counts.values())


def test_without_ground_truth_metrics_are_undefined(index: DetectionIndex) -> None:
    empty = index.keep_boxes(np.zeros(len(index.boxes), dtype=bool))
    result = evaluator.evaluate(
        "a",
        [truth(index, position) for position in range(len(index))],
        empty,
        speed=SPEED,
        weights=bootstrap_weights(len(index), samples=20, seed=0),
    )
    assert (result.metrics, result.intervals) == ({}, {})
    assert {item.map for item in result.classes} == {None}
    assert result.error_counts["Bkg"] == len(index.boxes)
    assert compare([result, measured(empty)]) == []
    record = json.loads(as_json([result], [], {}))["evaluations"][0]
    assert record["classes"][0]["map"] is None
    page = as_page([result], [], empty, title="t", subtitle="s", worst=1)
    assert '<td class="number">-</td>' in page


def test_a_better_detector_exceeds_the_noise_and_the_same_one_does_not(index: DetectionIndex) -> None:
    good, poor = measured(index, "good"), measured(index, "poor", shift=0.08)
    by_map, by_map_50 = compare([poor, good])
    assert (by_map.better, by_map.other, by_map.exceeds_noise) == ("good", "poor", True)
    assert by_map.difference == pytest.approx(good.metrics["map"] - poor.metrics["map"])
    assert by_map.low <= by_map.difference <= by_map.high
    assert "good is" in describe(by_map)
    assert by_map_50.metric == "map_50"
    same = compare([good, measured(index, "again")])
    assert [item.exceeds_noise for item in same] == [False, False]
    assert "within the noise" in describe(same[0])


def test_three_detectors_are_compared_in_pairs_and_class_by_class(
    index: DetectionIndex, caplog: pytest.LogCaptureFixture
) -> None:
    three = [measured(index, name, shift=shift) for name, shift in (("fair", 0.04), ("good", 0.0), ("poor", 0.08))]
    pairs = [(item.better, item.other) for item in compare(three) if item.metric == "map"]
    assert pairs == [("good", "fair"), ("good", "poor"), ("fair", "poor")]
    with caplog.at_level(logging.INFO, logger="ssd"):
        print_results(three, compare(three))
    table = caplog.text[caplog.text.index("AP by class") : caplog.text.index("fair: classes")]
    page = as_page(three, compare(three), index, title="t", subtitle="s", worst=1)
    for place, name in enumerate(index.class_names):
        numbers = [f"{item.classes[place].map:.3f}" for item in three]
        assert re.search(rf"{name} .*{' .*'.join(numbers)} ", table)
        assert f"<td>{name}</td>" + "".join(f'<td class="number">{number}</td>' for number in numbers) in page


def test_bootstrap_samples_agree_with_torchmetrics(index: DetectionIndex) -> None:
    result = measured(index, shift=0.03)
    weights = np.ones((1, len(index)), dtype=np.int64)
    found = [truth(index, position, shift=0.03) for position in range(len(index))]
    once = evaluator.evaluate("a", found, index, speed=SPEED, weights=weights)
    for name in ("map", "map_50"):
        assert once.samples[name].item() == pytest.approx(result.metrics[name], abs=5e-3)
        low, high = result.intervals[name]
        assert low <= result.metrics[name] <= high


def test_names_of_any_kind_are_shown_as_they_are(index: DetectionIndex, caplog: pytest.LogCaptureFixture) -> None:
    names = ("猫", "[red]$\\bad$", "<script>", "_hidden", ":cat:")
    result = measured(replace(index, class_names=names), "a[/b]$", shift=0.05)
    with caplog.at_level(logging.INFO, logger="ssd"):
        print_results([result], [])
    page = as_page([result], [], replace(index, class_names=names), title="t", subtitle="s", worst=1)
    for name in names:
        assert f" {name} " in caplog.text
        assert page.count(str(escape(name))) > 2, name  # the table and the charts
    assert "<script>" not in page


def test_mean_ap_is_that_of_the_validation_during_training(index: DetectionIndex) -> None:
    """The same detections, as batches of resized images through DetectionMetrics and as original images here."""
    torch.manual_seed(0)
    found = {index.ids[position]: noisy(truth(index, position)) for position in range(len(index))}
    images = {index.load(index.paths[position]).tobytes(): index.ids[position] for position in range(len(index))}
    empty = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))

    def predict(batch: Sequence[ImageArray]) -> list[Detections]:
        return [found[images[image.tobytes()]] if image.tobytes() in images else empty for image in batch]

    metrics = DetectionMetrics(index.class_names)
    dataset = DetectionDataset(index, Augmentation([SSDWindow.resize(32)]), seed=0)
    for start in range(0, len(index), 5):
        batch = collate([dataset[0, position] for position in range(start, min(start + 5, len(index)))])
        metrics.add([found[name] for name in batch.ids], batch)
    validation = metrics.results()
    value = mean_ap(predict, index, class_names=index.class_names, batch_size=3, num_workers=1)
    assert value == validation["map"]
    assert 0.05 < validation["map"] < 0.95
    shuffled = tuple(reversed(index.class_names))
    renamed = [replace(item, labels=len(shuffled) - 1 - item.labels) for item in found.values()]
    found |= dict(zip(found, renamed, strict=True))
    assert mean_ap(predict, index, class_names=shuffled, batch_size=3, num_workers=1) == value
    evaluation = evaluator.evaluate(
        "a",
        detect(predict, index, class_names=shuffled, batch_size=2, num_workers=0).detections,
        index,
        speed=SPEED,
        weights=bootstrap_weights(len(index), samples=3, seed=0),
    )
    assert {name: evaluation.metrics[name] for name in validation} == validation


def noisy(detections: Detections) -> Detections:
    """The same detections, moved by up to a tenth of the image, and as many wrong ones."""
    moved = detections.boxes + 0.1 * torch.rand(len(detections), 1)
    boxes = torch.cat((moved, torch.rand_like(moved).sort(dim=1).values))
    order = torch.rand(len(boxes)).sort(descending=True)
    return Detections(boxes[order.indices], order.values, detections.labels.repeat(2)[order.indices])


def test_labels_are_mapped_by_name(index: DetectionIndex) -> None:
    names = ("star", "dog", "circle")
    mapped = with_classes(index, names)
    wanted = np.isin(index.labels, [CLASS_NAMES.index("star"), CLASS_NAMES.index("circle")])
    assert [names[label] for label in mapped.labels] == [CLASS_NAMES[label] for label in index.labels[wanted]]
    assert len(mapped) == len(index)
    detections = Detections(torch.rand(3, 4), torch.rand(3), torch.tensor([2, 0, 1]))
    found = detect(
        lambda images: [detections] * len(images),
        mapped,
        class_names=("a", "star", "dog"),
        batch_size=4,
        num_workers=1,
    ).detections
    assert [item.labels.tolist() for item in found] == [[1, 0]] * len(index)  # dog and star; a is skipped


def test_a_split_is_selected_for_the_classes_of_a_detector(
    index: DetectionIndex, caplog: pytest.LogCaptureFixture
) -> None:
    splits = Splits(train=None, val=None, test=index)
    with caplog.at_level(logging.INFO, logger="ssd"):
        selected = select_split(splits, "test", ("Star", "dog"))
    assert selected.class_names == ("Star", "dog")
    assert len(selected.boxes) == (index.labels == CLASS_NAMES.index("star")).sum()
    assert "skipped: circle" in caplog.text
    with pytest.raises(ConfigError, match=r"split=val: .* test"):
        select_split(splits, "val", CLASS_NAMES)
    with pytest.raises(ConfigError, match=r"no class in common: .* dog; .* circle"):
        select_split(splits, "test", ("dog",))


@pytest.mark.parametrize(("batch_size", "num_workers"), [(1, 0), (5, 3), (100, None)])
def test_detections_are_in_the_order_of_the_images(
    index: DetectionIndex, batch_size: int, num_workers: int | None
) -> None:
    def sizes(images: Sequence[ImageArray]) -> list[Detections]:
        """One box per image, which holds the size of the image."""
        rows = [torch.tensor([[0.0, 0.0, *image.shape[:2]]]) for image in images]
        return [Detections(row, torch.ones(1), torch.zeros(1, dtype=torch.int64)) for row in rows]

    found = detect(sizes, index, class_names=CLASS_NAMES, batch_size=batch_size, num_workers=num_workers)
    speed = found.speed
    assert [item.boxes[0, 2:].tolist() for item in found.detections] == index.sizes.tolist()
    assert speed.images == len(index)
    assert 0 < speed.waiting < speed.seconds


def test_labels_are_mapped_by_name_in_any_case(index: DetectionIndex) -> None:
    shouted = replace(index, class_names=tuple(name.upper() for name in index.class_names))
    mapped = with_classes(shouted, CLASS_NAMES[::-1])
    assert [CLASS_NAMES[::-1][label] for label in mapped.labels] == [CLASS_NAMES[label] for label in index.labels]


PROBE = """<script>addEventListener("load", () => { document.title = JSON.stringify({
  wide: document.documentElement.scrollWidth > innerWidth,
  broken: [...document.images].filter(image => !image.naturalWidth).length,
  sections: [...document.querySelectorAll("section")].map(part => part.id),
  charts: document.querySelectorAll("section > .columns svg").length,
  images: document.images.length,
  tops: [...document.querySelectorAll("figure.row img")].slice(0, 2).map(image => image.getBoundingClientRect().top),
  outside: [...document.querySelectorAll("[src],[href]")].filter(part => /^(https?:)?\\/\\//.test(part.src)).length,
}) })</script>"""


def browse(page: str, folder: Path, *, width: int) -> dict[str, Any]:
    (folder / "probed.html").write_text(page.replace("</body>", f"{PROBE}</body>"))
    assert CHROMIUM is not None
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}", f"--window-size={width},900"]
    command = [CHROMIUM, *options, "--dump-dom", f"file://{folder}/probed.html"]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    title = re.search("<title>(.*?)</title>", dom)
    assert title is not None
    return json.loads(title[1].replace("&amp;", "&").replace("&quot;", '"'))


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
@pytest.mark.parametrize("width", [1200, 500])
def test_a_browser_shows_curves_matrix_and_worst_images(index: DetectionIndex, tmp_path: Path, width: int) -> None:
    evaluations = [measured(index, "good <b>", shift=0.02), measured(index, "poor", shift=0.2)]
    page = as_page(evaluations, compare(evaluations), index, title="t", subtitle="s", worst=3)
    seen = browse(page, tmp_path, width=width)
    assert seen["sections"] == [
        "results",
        "side-by-side",
        *(f"{part}-{n}" for n in (0, 1) for part in ("classes", "errors", "worst")),
    ]
    assert seen["charts"] == 2 + 2 * (2 + 1 + 1)
    assert 2 * 3 <= seen["images"] <= 2 * 2 * 3
    assert (seen["wide"], seen["broken"], seen["outside"]) == (False, 0, 0)
    assert "count detections above the score" in page
    assert re.search(
        r'<th class="number">AP@0.5 lost, all scores</th><th class="number">number above the score 0', page
    )
    assert (seen["tops"][0] == seen["tops"][1]) == (width == 1200)  # side by side where there is room
