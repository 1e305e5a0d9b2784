"""train.py resume=RUN_DIR: in the same folder, with what may change, and no further where it cannot go on."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import run
from test_train import TINY
from voc_files import add, object_xml, write_voc

from ssd.cli.overrides import quoted, without_null
from ssd.cli.saved_overrides import with_saved_overrides


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four epochs; it stays as it is."""
    folder = tmp_path_factory.mktemp("resume")
    done = run(folder, "train.py", *TINY, "dataset.train=4", "epochs=4", "hydra.run.dir=ended")
    assert done.returncode == 0, done.stderr
    return folder / "ended"


def test_resume_goes_on_in_the_same_folder_with_the_saved_settings(tmp_path: Path) -> None:
    first = run(tmp_path, "train.py", *TINY, "hydra.run.dir=run", "epochs=2")
    assert first.returncode == 0, first.stderr
    more = run(tmp_path, "train.py", "resume=run", "epochs=3")
    assert more.returncode == 0, more.stderr
    assert "changed on resume: epochs: 2 -> 3" in more.stdout
    rows = (tmp_path / "run/metrics.csv").read_text().splitlines()
    steps = [int(row.split(",")[0]) for row in rows[1:]]
    assert max(steps) == 6
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


def test_a_run_whose_callbacks_keep_nothing_is_resumed(tmp_path: Path) -> None:
    bare = ["dataset.val=0", *(f"~callbacks.{name}" for name in ("ema", "visualizer"))]
    first = run(tmp_path, "train.py", *TINY, *bare, "dataset.train=4", "hydra.run.dir=run")
    assert first.returncode == 0, first.stderr
    more = run(tmp_path, "train.py", "resume=run", "epochs=2")
    assert more.returncode == 0, more.stderr


def test_resume_refuses_another_seed(ended: Path) -> None:
    done = run(ended.parent, "train.py", "resume=ended", "seed=7")
    assert done.returncode == 2
    assert "error: resume: " in done.stderr
    assert "seed was 0 and cannot become 7" in done.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["epochs=2"], "error: epochs=2: the run has completed 3 epochs"),
        (["image_size=64", "backbone.width_multiplier=0.2"], "error: resume: backbone.width_multiplier was 0.25 and "),
        (["priors.clip=all"], "error: resume: priors.clip was sizes and cannot become all; start a new run"),
        (["priors.scales=[0.1,0.2,0.3,0.4,0.5,0.6,0.7]"], "error: resume: priors.scales was ["),
        (["optimizer=sgd"], "error: resume: optimizer._target_ was torch.optim.AdamW and cannot become torch.optim."),
        (["module.freeze=base"], "error: resume: module.freeze was nothing and cannot become base; start a new run"),
    ],
)
def test_a_resume_that_cannot_work_is_told(ended: Path, changes: list[str], message: str) -> None:
    saved = [(ended / ".hydra" / name).read_text() for name in ("config.yaml", "overrides.yaml")]
    again = run(ended.parent, "train.py", "resume=ended", *changes)
    assert again.returncode == 2
    assert saved == [(ended / ".hydra" / name).read_text() for name in ("config.yaml", "overrides.yaml")]
    assert again.stderr.startswith(message)


def test_a_resume_with_other_classes_is_refused(tmp_path: Path) -> None:
    write_voc(tmp_path / "data", {"train": ["a", "b"], "val": ["c"]})
    settings = ["dataset=voc", "dataset.root=data", "dataset.cache=false", "backbone=mobilenet_v1", "batch_size=2"]
    small = ["backbone.width_multiplier=0.1", "image_size=96", "num_workers=0", "hydra.run.dir=run", "epochs=1"]
    first = run(tmp_path, "train.py", *settings, *small)
    assert first.returncode == 0, first.stderr
    asked = run(tmp_path, "train.py", "resume=run", "dataset.classes=[dog]")
    assert asked.stderr == "error: resume: dataset.classes was None and cannot become ['dog']; start a new run\n"
    add(tmp_path / "data", "b", object_xml("dog"))
    found = run(tmp_path, "train.py", "resume=run", "epochs=2")
    assert found.stderr.startswith("error: resume: the run has classes ['cat'], the data has ['cat', 'dog']")
    assert (asked.returncode, found.returncode) == (2, 2)


@pytest.mark.parametrize("place", ["here", "moved", "without best.ckpt"])
def test_the_best_weights_stay_the_best_wherever_the_run_is_resumed(tmp_path: Path, place: str) -> None:
    folder = tmp_path / "run"
    first = run(tmp_path, "train.py", *TINY, "dataset.train=4", "hydra.run.dir=run")
    assert first.returncode == 0, first.stderr
    content = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    best = next(state for name, state in content["callbacks"].items() if name.startswith("BestCheckpoint"))
    score = torch.tensor(0.99)
    best |= {"best_model_score": score, "kth_value": score}
    best["best_k_models"] = dict.fromkeys(best["best_k_models"], score)
    torch.save(content, folder / "checkpoints/last.ckpt")
    before = (folder / "checkpoints/best.ckpt").read_bytes()
    if place == "moved":
        folder = folder.rename(tmp_path / "elsewhere")
    elif place == "without best.ckpt":
        (folder / "checkpoints/best.ckpt").unlink()
    done = run(tmp_path, "train.py", f"resume={folder.name}", "epochs=2")
    assert done.returncode == 0, done.stderr
    assert "dirpath" not in done.stderr
    assert "logger" not in done.stdout  # its paths are no change of the settings
    kept = (folder / "checkpoints/best.ckpt").read_bytes() == before
    assert kept is (place != "without best.ckpt")


def _without_most_weights(content: dict[str, Any]) -> None:
    content["state_dict"] = dict(list(content["state_dict"].items())[:5])


def _set(part: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content.update({part: value})


def _poison(part: str) -> Callable[[dict[str, Any]], None]:
    return lambda content: content[part]["model.localization_heads.3.weight"].fill_(float("nan"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_poison("state_dict"), "localization_heads.3.weight holds NaN"),
        (_poison("raw_state_dict"), "raw_state_dict: localization_heads.3.weight holds NaN"),
        (lambda content: content["optimizer_states"][0]["state"][3]["exp_avg"].fill_(np.inf), "optimizer: exp_avg of"),
        (_set("optimizer_states", []), "a part is missing"),
        (_set("optimizer_states", [3]), "not the state of an optimizer"),
        (_set("epoch", "two"), "a part is missing"),
        (_set("raw_state_dict", {}), "raw_state_dict: "),
        (lambda content: content.pop("loops"), "a part is missing"),
        (lambda content: content.pop("recipe"), "a part is missing"),
        (_without_most_weights, "has shape None"),
    ],
)
def test_a_damaged_recovery_point_is_refused(
    ended: Path, tmp_path: Path, damage: Callable[[dict[str, Any]], None], message: str
) -> None:
    folder = shutil.copytree(ended, tmp_path / "run")
    content = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    damage(content)
    torch.save(content, folder / "checkpoints/last.ckpt")
    done = run(tmp_path, "train.py", "resume=run", "epochs=6")
    assert done.returncode == 3
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_run_that_used_up_its_time_is_not_resumed_for_nothing(ended: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(ended, tmp_path / "run")
    content = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    content["callbacks"]["Timer"] = {"time_elapsed": {"train": 61.0}}  # as of a run with max_time
    torch.save(content, folder / "checkpoints/last.ckpt")
    done = run(tmp_path, "train.py", "resume=run", "epochs=5", "trainer.max_time=00:00:01:00")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "trainer.max_time=00:00:01:00: the run has used it up (61 s); give a longer" in done.stderr
    done = run(tmp_path, "train.py", "resume=run", "epochs=5", "trainer.max_time=null")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["lr=0.1,bs=4", "한글 실행", "my run (1)", "2025_11", "it's"])
def test_the_folder_of_a_run_may_have_any_name(ended: Path, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(ended, tmp_path / name)
    quote = '"' if "'" in name else "'"
    for epochs, typed in ((5, name), (6, str(folder)), (7, f"{quote}{folder}{quote}")):
        done = run(tmp_path, "train.py", f"resume={typed}", f"epochs={epochs}")
        assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {name}


def test_a_saved_group_of_null_is_left_out(tmp_path: Path) -> None:
    """Version 0.1 wrote `download=null`, which was a plain setting then; Hydra refuses it for a group."""
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra/overrides.yaml").write_text("[dataset=shapes, download=null, epochs=3]")
    resumed = [without_null(quoted(line)) for line in with_saved_overrides([f"resume={tmp_path}"])]
    assert resumed[:3] == ["dataset=shapes", "~download", "epochs=3"]


@pytest.mark.parametrize(
    "callback",
    [
        ["+callbacks.timer={_target_: pytorch_lightning.callbacks.Timer, duration: '00:01:00:00'}"],
        ["+callbacks.timer._target_=pytorch_lightning.callbacks.Timer", "+callbacks.timer.duration='00:01:00:00'"],
    ],
)
def test_a_callback_that_was_added_is_added_again(tmp_path: Path, callback: list[str]) -> None:
    first = run(tmp_path, "train.py", *TINY, "dataset.train=4", *callback, "hydra.run.dir=run")
    assert first.returncode == 0, first.stderr
    refused = run(tmp_path, "train.py", "resume=run", "epochs=2")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
    again = shlex.split(refused.stderr.partition("python train.py ")[2])
    assert again == ["resume=run", "epochs=2", callback[0]]
    taken = run(tmp_path, "train.py", "resume=run", "epochs=2", *callback)
    assert taken.returncode == 0, taken.stderr
    as_listed = run(tmp_path, "train.py", "resume=run", "epochs=3", callback[0])
    assert as_listed.returncode == 0, as_listed.stderr


def test_a_logger_that_was_added_is_added_again(tmp_path: Path) -> None:
    logger = "+logger.other={_target_: pytorch_lightning.loggers.CSVLogger, save_dir: other}"
    first = run(tmp_path, "train.py", *TINY, "dataset.train=4", logger, "hydra.run.dir=run")
    assert first.returncode == 0, first.stderr
    refused = run(tmp_path, "train.py", "resume=run", "epochs=2")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
    taken = run(tmp_path, "train.py", "resume=run", "epochs=2", logger)
    assert taken.returncode == 0, taken.stderr


def test_a_run_of_this_user_on_data_elsewhere_is_resumed_without_its_settings(tmp_path: Path) -> None:
    write_voc(tmp_path / "data", {"train": ["a", "b"], "val": ["c"]})
    settings = ["dataset=voc", f"dataset.root={tmp_path}/data", "backbone=mobilenet_v1", "batch_size=2"]
    small = ["backbone.width_multiplier=0.1", "image_size=96", "num_workers=0", "hydra.run.dir=run", "epochs=1"]
    first = run(tmp_path, "train.py", *settings, *small)
    assert first.returncode == 0, first.stderr
    own = run(tmp_path, "train.py", "resume=run", "epochs=2")
    assert own.returncode == 0, own.stderr
    overrides = tmp_path / "run/.hydra/overrides.yaml"
    *text, digit, end = overrides.read_text()
    overrides.write_text("".join([*text, "1" if digit == "0" else "0", end]))  # another digest, whatever it was
    refused = run(tmp_path, "train.py", "resume=run", "epochs=3")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
    again = shlex.split(refused.stderr.partition("python train.py ")[2])
    assert [item.replace("'", "") for item in again] == ["resume=run", "epochs=3", *settings[:2]]
    for arguments in (again, ["resume=run", "epochs=4"]):  # it is this user's run then
        done = run(tmp_path, "train.py", *arguments)
        assert done.returncode == 0, done.stderr
