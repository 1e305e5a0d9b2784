"""image_size=[HEIGHT,WIDTH] through training, resume, prediction, evaluation and export."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from forked import TINY, run
from voc_files import write_image

from ssd.weights.checkpoint import load

OBLONG = "image_size=[96,160]"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("oblong")
    done = run(path, "train.py", *TINY, OBLONG, "hydra.run.dir=run", "epochs=1")
    assert done.returncode == 0, done.stderr
    return path


def test_the_size_is_saved_and_used_again(folder: Path) -> None:
    assert yaml.safe_load((folder / "run/.hydra/config.yaml").read_text())["image_size"] == [96, 160]
    done = run(folder, "train.py", "resume=run", "epochs=2")
    assert done.returncode == 0, done.stderr
    assert "changed on resume: epochs" in done.stdout
    assert "image_size: " not in done.stdout
    assert load(folder / "run/model.safetensors").image_size == (96, 160)


def test_it_evaluates_and_exports(folder: Path) -> None:
    write_image(folder / "photo.jpg")
    for command in (
        ["evaluate", "checkpoint=run/model.safetensors", "dataset=shapes", "dataset.test=4", "output=evaluation"],
        ["export", "checkpoint=run/model.safetensors", "output=model.onnx"],  # it compares both by itself
        ["predict", "checkpoint=model.onnx", "source=photo.jpg", "output=predictions"],
        ["inspect", "dataset=shapes", "dataset.train=8", "backbone=mobilenet_v1", OBLONG],
    ):
        done = run(folder, *command)
        assert done.returncode == 0, done.stderr + done.stdout
    assert json.loads((folder / "evaluation/evaluation.json").read_text())["images"] == 4


@pytest.mark.parametrize(
    ("value", "message"),
    [("[300]", "2 items"), ("[300,20]", "at least 32"), ("[300,x]", "valid integer"), ("[300,400,500]", "2 items")],
)
def test_other_lists_are_refused(tmp_path: Path, value: str, message: str) -> None:
    done = run(tmp_path, "train.py", f"image_size={value}")
    assert done.returncode == 2
    assert done.stderr.startswith("error: image_size=")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
