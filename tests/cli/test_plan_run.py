"""A run is planned from its data: what is printed, stored, given, and used again on resume."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from forked import run
from voc_files import add, add_list, object_xml

SMALL = ["backbone=mobilenet_v1", "backbone.width_multiplier=0.1", "backbone.weights=null", "num_workers=0"]
SMALL += ["logger=null", "dataset.root=data", "postprocess.topk_candidates=50", "hydra.run.dir=run"]
LIMITS = ["steps=2", "image_size=96"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Nine images of 50 x 40 pixels with an object of 20 x 20."""
    names = [str(number) for number in range(9)]
    for name in names:
        add(tmp_path / "data", name, object_xml())
    for split, part in (("train", names[:5]), ("val", names[5:7]), ("test", names[7:])):
        add_list(tmp_path / "data", split, part)
    return tmp_path


def settings(run_folder: Path) -> dict[str, object]:
    return dict(yaml.safe_load((run_folder / ".hydra/config.yaml").read_text()))


def test_the_plan_is_printed_stored_and_used_again(folder: Path) -> None:
    done = run(folder, "train.py", *SMALL, *LIMITS)
    assert done.returncode == 0, done.stderr
    plan = yaml.safe_load((folder / "run/plan.yaml").read_text())
    assert plan.keys() == {"backbone.first_stride", "priors", "batch_size", "optimizer.lr", "validations"}
    for setting, item in plan.items():
        assert f"│ {setting} " in done.stdout
        assert item["why"]
    saved = settings(folder / "run")
    assert (saved["batch_size"], saved["steps"], saved["image_size"]) == (8, 2, 96)
    assert "auto" not in yaml.safe_dump({name: saved[name] for name in ("priors", "optimizer", "backbone", "steps")})
    for name in map(str, range(20, 40)):  # other data would give another plan
        add(folder / "data", name, object_xml(box=(1, 1, 5, 5)))
    again = run(folder, "train.py", "resume=run", "steps=3")
    assert again.returncode == 0, again.stderr
    assert "changed on resume: steps: 2 -> 3" in again.stdout
    assert not re.search(r"changed on resume: (?!steps|validations)", again.stdout)
    assert settings(folder / "run")["priors"] == saved["priors"]


def test_what_is_given_counts_and_the_rest_adapts(folder: Path) -> None:
    done = run(folder, "train.py", *SMALL, *LIMITS, "batch_size=3", "optimizer.lr=1e-4", "priors.clip=all")
    assert done.returncode == 0, done.stderr
    saved = settings(folder / "run")
    assert (saved["batch_size"], saved["optimizer"]["lr"], saved["priors"]["clip"]) == (3, 1e-4, "all")  # type: ignore[index]
    assert yaml.safe_load((folder / "run/plan.yaml").read_text()).keys() == {"backbone.first_stride", "validations"}


def test_without_a_plan_the_values_are_fixed(folder: Path) -> None:
    done = run(folder, "train.py", *SMALL, "plan=false", "trainer.max_steps=1", "image_size=96")
    assert done.returncode == 0, done.stderr
    saved = settings(folder / "run")
    assert (saved["batch_size"], saved["epochs"], saved["optimizer"]["lr"]) == (32, 30, 1e-3)  # type: ignore[index]
    assert not (folder / "run/plan.yaml").exists()


def test_a_dry_run_prints_plan_and_duration_and_trains_nothing(folder: Path) -> None:
    done = run(folder, "train.py", *SMALL, "dry_run=true")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert "│ steps " in done.stdout
    assert re.search(r"estimated duration: \d+:\d\d:\d\d, by [\d.]+ s a step", done.stdout)
    assert not (folder / "run/checkpoints").exists()
    assert run(folder, "train.py", *SMALL, *LIMITS).returncode == 0  # the folder is free


def test_a_budget_decides_the_number_of_steps(folder: Path) -> None:
    done = run(folder, "train.py", *SMALL, "image_size=96", "budget_minutes=0.05", "validations=1", "dry_run=true")
    assert done.returncode == 0, done.stderr
    assert "end in 0.05 minutes" in done.stdout


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("steps=10 epochs=3", "steps=10 epochs=3: give one of the two"),
        ("budget_minutes=1 steps=10", "leave out steps"),
        ("budget_minutes=1 epochs=10", "leave out steps"),
        ("budget_minutes=1 plan=false", "leave out steps"),
        ("steps=0", "steps=0"),
        ("steps=many", "steps=many"),
        ("validations=0", "validations=0"),
        ("batch_size=auto2", "batch_size=auto2"),
        ("backbone.first_stride=4", "backbone.first_stride=4"),
    ],
)
def test_lengths_that_exclude_each_other_and_wrong_values(folder: Path, given: str, message: str) -> None:
    done = run(folder, "train.py", *SMALL, *given.split())
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert message in done.stderr


def test_the_command_line_replaces_the_length_of_an_experiment(folder: Path) -> None:
    tiny = ["image_size=96", "backbone.width_multiplier=0.1", "dataset.train=8", "dataset.val=2", "dataset.test=0"]
    for length, expected in (("epochs=1", (1, "auto")), ("steps=3", (None, 3))):
        run_folder = length.partition("=")[0]
        done = run(folder, "train.py", *tiny, length, "num_workers=0", "logger=null", f"hydra.run.dir={run_folder}")
        assert done.returncode == 0, done.stderr
        saved = settings(folder / run_folder)
        assert (saved["epochs"], saved["steps"]) == expected


def test_small_objects_of_one_class_get_fitted_priors(folder: Path) -> None:
    """Most boxes are matched, but of one class none: the classes count alike."""
    for number in range(9):
        boxes = [object_xml(), object_xml(box=(30, 1, 50, 21)), object_xml("dot", box=(3, 3, 6, 6))]
        add(folder / "data", str(number), *boxes)
    done = run(folder, "train.py", *SMALL, "image_size=300", "dry_run=true")
    assert done.returncode == 0, done.stderr
    assert "fitted ones match" in done.stdout
