"""Untrusted files are refused in one line; nothing is run or written, and no memory is allocated for them."""

from __future__ import annotations

import os
import resource
import shlex
import warnings
from pathlib import Path

import pytest
from hostile import write_all
from omegaconf import OmegaConf

from ssd.cli.saved_overrides import with_saved_overrides
from ssd.common.errors import CheckpointError, ConfigError
from ssd.common.run_folder import signed
from ssd.common.saved_config import OVERRIDES_FILE
from ssd.weights import checkpoint


@pytest.fixture
def limited_memory() -> object:
    """Limits address space to 8 GiB above current use, so that a decompression bomb fails."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + 8 * 2**30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def test_hostile_checkpoints_are_refused(tmp_path: Path, limited_memory: None) -> None:
    folder, canary = tmp_path / "files", tmp_path / "canary"
    folder.mkdir()
    with warnings.catch_warnings(action="ignore"):  # torch.jit's, when the files are created
        files = list(write_all(folder, canary))
    assert len(files) >= 50
    before = sorted(path for path in tmp_path.rglob("*"))
    for path in files:
        with pytest.raises(CheckpointError) as error:
            checkpoint.load(path)
        assert str(path) in str(error.value), path
        assert "\n" not in str(error.value), path
        assert not canary.exists(), path
    assert sorted(path for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "line",
    [
        "optimizer._target_=os.system",
        "augmentation={_target_: os.mkdir, path: canary}",
        "+callbacks.evil={'_target_': os.mkdir}",
        "hydra.searchpath=[file:///tmp/evil]",
        "+hydra.launcher=evil",
        "logger.csv.path=/etc/passwd",
        "++logger.tensorboard.save_dir=/",
        "--config-dir=stranger/conf",
        "--config-path=stranger",
        "-cp=stranger",
        "dataset=evil",
        "dataset=../../stranger/evil",
        "dataset='../../stranger/evil'",
        "experiment=../../../../tmp/evil",
        "+experiment=[../../../../tmp/evil]",
        "experiment@_global_=../evil",
        "../stranger/dataset=evil",
        "stranger/dataset=evil",
        "augmentation=${oc.create:evil}",
        r"augmentation=$\{oc.create:evil\}",
        "trainer@hydra.job_logging=cpu",
        "optimizer..lr=1",
        "optimizer.lr=${oc.env:HOME}",
    ],
)
def test_saved_overrides_that_name_code_or_paths_are_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / ".hydra").mkdir()
    OmegaConf.save(OmegaConf.create(["epochs=3", line]), tmp_path / OVERRIDES_FILE)
    with pytest.raises(ConfigError, match="give it on the command line"):
        with_saved_overrides([f"resume={tmp_path}"])


@pytest.mark.parametrize(
    "line",
    [
        "epochs=3",
        "dataset=shapes",
        "experiment=null",
        "~callbacks.ema",
        "+trainer.limit_train_batches=3",
        "priors.scales=[0.1,0.25,0.4,0.55,0.7,0.85,1.0]",
        "augmentation=light",
        "dataset.classes=[traffic light,cat]",
        "objective=val/map_50",
    ],
)
def test_saved_overrides_that_set_values_are_accepted(tmp_path: Path, line: str) -> None:
    (tmp_path / ".hydra").mkdir()
    OmegaConf.save(OmegaConf.create([line]), tmp_path / OVERRIDES_FILE)
    assert with_saved_overrides([f"resume={tmp_path}"])[0] == line


OUTSIDE = [
    "dataset=voc",
    "dataset.root=/data/고양이",
    "dataset.root=data",
    "experiment=bccd_mobilenet_v1",
    "init_from=../other/model.safetensors",
    "backbone.weights=imagenet",
    "download.mirrors=[http://127.0.0.1/voc]",
    "download.training_root=x",
    "++download.network.tries=3",
    "dataset.negatives=[a]",
    "trainer.num_nodes=2",
    "+trainer.unknown=/tmp/x",
]


@pytest.mark.parametrize("line", OUTSIDE)
def test_settings_that_lead_outside_count_in_a_run_of_this_user_only(tmp_path: Path, line: str) -> None:
    (tmp_path / ".hydra").mkdir()
    OmegaConf.save(OmegaConf.create([line]), tmp_path / OVERRIDES_FILE)
    with pytest.raises(ConfigError, match="not accepted from a run that you did not start on this machine") as caught:
        with_saved_overrides([f"resume={tmp_path}", "epochs=5"])
    words = shlex.split(str(caught.value).partition("python train.py ")[2])
    assert words == [f"resume={tmp_path}", "epochs=5", line]
    assert with_saved_overrides(words)[:2] == ["epochs=5", line]
    (tmp_path / OVERRIDES_FILE).write_text(signed((tmp_path / OVERRIDES_FILE).read_text()))
    assert with_saved_overrides([f"resume={tmp_path}"])[0] == line
    with (tmp_path / OVERRIDES_FILE).open("a") as file:
        file.write("- epochs=3\n")
    with pytest.raises(ConfigError, match="not accepted from a run"):
        with_saved_overrides([f"resume={tmp_path}"])


def test_the_message_lists_all_lines_to_give_again(tmp_path: Path) -> None:
    (tmp_path / ".hydra").mkdir()
    lines = ["+callbacks.a={_target_: x}", "dataset=voc", "epochs=3", "dataset.root=/a b"]
    OmegaConf.save(OmegaConf.create(lines), tmp_path / OVERRIDES_FILE)
    with pytest.raises(ConfigError) as caught:
        with_saved_overrides([f"resume={tmp_path}"])
    words = shlex.split(str(caught.value).partition("python train.py ")[2])
    assert with_saved_overrides(words)[:4] == ["epochs=3", lines[0], lines[1], lines[3]]


@pytest.mark.parametrize("text", ["epochs: 3", "", "3"])
def test_saved_overrides_must_be_a_list(tmp_path: Path, text: str) -> None:
    (tmp_path / ".hydra").mkdir()
    (tmp_path / OVERRIDES_FILE).write_text(text)
    with pytest.raises(ConfigError, match="not a list of overrides"):
        with_saved_overrides([f"resume={tmp_path}"])


def test_a_saved_yaml_with_python_objects_is_not_run(tmp_path: Path) -> None:
    (tmp_path / ".hydra").mkdir()
    canary = tmp_path / "canary"
    (tmp_path / OVERRIDES_FILE).write_text(f"- !!python/object/apply:os.mkdir ['{canary}']\n")
    with pytest.raises(Exception, match="could not determine a constructor"):
        with_saved_overrides([f"resume={tmp_path}"])
    assert not canary.exists()
