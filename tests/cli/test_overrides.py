"""The command line as typed: a forgotten -m, flags anywhere, lists, and settings that the chosen option lacks."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from composed import compose
from forked import run
from hydra._internal.utils import get_args_parser

from ssd.cli.config import nearest, takes
from ssd.cli.overrides import check_form, flags_last, with_first_options, without_null
from ssd.common.errors import ConfigError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "settings",
    [
        ["optimizer.lr=1e-3,1e-4"],
        ["seed=1,2"],
        ["backbone=vgg16,mobilenet_v1", "dataset=voc", "dataset.root=my data"],
        ["augmentation.transforms.0.flip_probability=0.1", "seed=range(1,3)"],
        ["backbone=vgg16,mobilenet_v1_half", "backbone.weights=null"],
    ],
)
@pytest.mark.parametrize("command", ["train.py", "train"])
def test_a_forgotten_m_is_answered_with_the_command(tmp_path: Path, settings: list[str], command: str) -> None:
    done = run(tmp_path, command, *settings)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    program = {"train.py": ["python", str(ROOT / "train.py")], "train": ["ssd", "train"]}[command]
    assert shlex.split(done.stderr.rpartition(": ")[2]) == [*program, "-m", *settings]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "code", "message"),
    [
        (["dataset=voc", "dataset.root=/x/a,b"], 3, "dataset.root=/x/a,b: no such folder"),
        (["init_from=a,b.pth"], 3, "init_from=a,b.pth: "),
        (["dataset=voc", "dataset.root=x", "dataset.classes=a,b"], 2, "brackets: dataset.classes=[a,b]"),
        (["optimizer.betas=0.9,0.99"], 2, "brackets: optimizer.betas=[0.9,0.99]"),
        (["scheduler=multistep", "scheduler.milestones=0.5,0.8"], 2, "brackets: scheduler.milestones=[0.5,0.8]"),
        (["trainer.devices=0,1"], 2, "brackets: trainer.devices=[0,1]"),
        (["optimizer.lrr=1,2"], 2, "did you mean optimizer.lr?"),
        (["backbone=vgg16,vgg"], 2, "backbone=vgg: no such option"),
        (["-m", "backbone=vgg16,vgg"], 2, "backbone=vgg: no such option"),
        (["-m", "logger=null,default"], 2, "logger=null,default: "),
        (["-m", "seed=1,2", "--cfg", "job"], 2, "-m and --cfg: "),
        (["-m", "dataset=shapes,voc", "dataset.train=24"], 2, "dataset.train: dataset=voc has no such setting"),
        (["-m", "dataset=voc,shapes", "dataset.train=24"], 2, "dataset.train: dataset=voc has no such setting"),
        (["dataset=voc", "dataset.train=24"], 2, "has no such setting; give dataset=shapes"),
        (["-m", "optimizer=adamw,sgd", "optimizer.momentum=0.9"], 2, "optimizer.momentum: optimizer=adamw has no"),
    ],
)
def test_one_line_names_the_setting_and_what_it_takes(
    tmp_path: Path, settings: list[str], code: int, message: str
) -> None:
    done = run(tmp_path, "train.py", *settings)
    assert (done.returncode, len(done.stderr.splitlines())) == (code, 1), done.stderr
    assert message in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["seed=-1", "-m", "seed=-2,-3"],
        ["seed=-1", "-m", "--config-dir", ".", "seed=-2,-3"],
        ["-m", "seed=-2,-3", "--config-dir=."],
        ["seed=-2,-3", "-m"],
    ],
)
def test_flags_may_stand_anywhere_and_the_later_value_counts(tmp_path: Path, arguments: list[str]) -> None:
    done = run(tmp_path, "train.py", *arguments, "hydra.sweep.dir=sweep")
    assert done.returncode == 2
    assert [line.partition(")")[0] for line in done.stderr.splitlines()[:2]] == ["job 0 (seed=-2", "job 1 (seed=-3"]


def test_flags_keep_their_values_and_settings_their_order() -> None:
    arguments = ["a=1", "--cfg", "job", "b=2", "-cd", "x=y", "~c", "--config-name=train", "--info", "a=3"]
    parsed = get_args_parser().parse_args(flags_last(arguments))
    assert parsed.overrides == ["a=1", "b=2", "~c", "a=3"]
    assert (parsed.cfg, parsed.config_dir, parsed.config_name, parsed.info) == ("job", "x=y", "train", "all")


@pytest.mark.parametrize("flags", [["-m", "-r"], ["--cfg", "job", "--info"], ["--multirun", "-c=job"]])
def test_flags_of_which_only_one_can_be_given(flags: list[str]) -> None:
    with pytest.raises(ConfigError, match=f"{flags[0]} and {flags[-1]}: give only one"):
        check_form(["seed=1", *flags])
    check_form(["-m", "seed=1,2", "--multirun"])


def test_a_group_of_several_options_is_composed_with_the_first() -> None:
    given = ["seed=1,2", "dataset=voc,coco", "dataset.root=a,b", "backbone=vgg16", "logger=default"]
    assert with_first_options(given) == ["seed=1,2", "dataset=voc", *given[1:]]


def test_null_is_no_option_of_a_sweep() -> None:
    with pytest.raises(ConfigError, match="logger=default,null: "):
        without_null("logger=default,null")
    assert without_null("seed=1,null") == "seed=1,null"


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("priors.scales", [0.1, 0.9], True),
        ("optimizer.lr", [1, 2], False),
        ("callbacks.ema.decay", [0.1, 0.2], False),
        ("classes", ["a", "b"], True),
        ("seed", [1, 2], False),
        ("nothing.at.all", [1, 2], False),
        ("trainer.nothing", [1, 2], False),
    ],
)
def test_which_settings_take_a_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: list[object], expected: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    assert takes(compose(), key, value, command="train") is expected


def test_what_was_given_is_never_suggested() -> None:
    assert nearest("dataset.train", ["dataset.train", "dataset.trains"]) == "; did you mean dataset.trains?"
    assert nearest("dataset.train", ["dataset.train"]) == ""
