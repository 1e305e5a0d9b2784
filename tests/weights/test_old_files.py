"""Files written by version 0.1 load and give the detections that version 0.1 gave.

`tests/fixtures/run_v0_1` is a run of version 0.1 that SIGTERM stopped after step 40 of 48; its model.safetensors is
from the same run without the stop. The detections are those of its `ssd.load` on images rendered from a seed.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors import safe_open

import ssd
from ssd.data.formats.shapes import read_shapes
from ssd.weights import checkpoint

FIXTURES = Path(__file__).parents[1] / "fixtures"
RUN = FIXTURES / "run_v0_1"
EXPECTED = json.loads((FIXTURES / "run_v0_1_detections.json").read_text())


@pytest.mark.parametrize("name", ["model.safetensors", "checkpoints/last.ckpt"])
def test_a_file_of_version_0_1_gives_the_same_detections(name: str) -> None:
    index = read_shapes(**EXPECTED["images"]).test
    assert index is not None
    detector = ssd.load(RUN / name, device="cpu", **EXPECTED["settings"])
    found = [detector(index.load(path)).records() for path in index.paths]
    for ours, theirs in zip(found, EXPECTED["detections"][name], strict=True):
        assert [item["label"] for item in ours] == [item["label"] for item in theirs]
        assert [item["class_id"] for item in ours] == [item["class_id"] for item in theirs]
        for item, expected in zip(ours, theirs, strict=True):  # rounded to four and two decimals
            assert item["score"] == pytest.approx(expected["score"], abs=1.5e-4)
            assert item["box"] == pytest.approx(expected["box"], abs=0.05)


def test_a_recipe_of_version_0_1_is_kept_as_it_is() -> None:
    with safe_open(RUN / "model.safetensors", framework="pt") as file:
        recipe = json.loads(file.metadata()["recipe"])
    assert recipe["version"] == 1
    now = json.loads(json.dumps(checkpoint.load(RUN / "model.safetensors").recipe()))
    assert now["backbone"]["arguments"].pop("first_stride") == 16  # which version 0.1 did not have
    assert now == recipe
