"""What is printed where a detector cannot be good: little data, small objects, and results of .000."""

from __future__ import annotations

from pathlib import Path

from forked import run
from voc_files import CAT_BOX, Box, add, add_list, object_xml

SMALL = ["backbone=mobilenet_v1", "backbone.width_multiplier=0.1", "backbone.weights=null", "num_workers=0"]
SMALL += ["logger=null", "dataset.root=data", "postprocess.topk_candidates=50", "hydra.run.dir=run", "steps=2"]


def write(folder: Path, *, train: int, box: Box = CAT_BOX) -> None:
    names = {"train": [f"t{number}" for number in range(train)], "val": ["v"], "test": ["w"]}
    for split, part in names.items():
        for name in part:
            dog = [object_xml("dog", box=box)] if name in ("t0", "t1", "v") else []
            add(folder / "data", name, object_xml(box=box), *dog)
        add_list(folder / "data", split, part)


def test_three_images(tmp_path: Path) -> None:
    write(tmp_path, train=3, box=(1, 1, 6, 6))
    done = run(tmp_path, "train.py", *SMALL, "image_size=96")
    assert done.returncode == 0, done.stderr
    assert "warning: 3 training images: too few to learn from; label more" in done.stdout
    assert "mAP@0.5 is 0.000 on test; on training images it is 0." in done.stdout
    assert "likely cause: 2 optimizer steps are too few" in done.stdout
    assert "next: leave out steps, epochs and plan: the plan takes 3000 steps for this data" in done.stdout


def test_a_class_with_two_boxes(tmp_path: Path) -> None:
    write(tmp_path, train=12)
    done = run(tmp_path, "train.py", *SMALL, "dry_run=true", "image_size=96")
    assert done.returncode == 0, done.stderr
    assert "warning: too few training boxes to learn from (under 10): dog 2" in done.stdout
    assert "training images: too few" not in done.stdout


def test_objects_smaller_than_priors_can_match(tmp_path: Path) -> None:
    write(tmp_path, train=12, box=(10, 10, 11, 11))
    done = run(
        tmp_path,
        "train.py",
        *SMALL,
        "dry_run=true",
        "priors.scales=[0.2,0.34,0.48,0.62,0.76,0.9,1]",
        "backbone.first_stride=16",
    )
    assert done.returncode == 0, done.stderr
    assert "warning: priors match 0% of the training boxes; few of: cat 0%, dog 0%" in done.stdout
