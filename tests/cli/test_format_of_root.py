"""dataset.root=DIR without dataset=: the format is found before the configuration is composed; text stays as typed."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from forked import run
from hydra.core.override_parser.overrides_parser import OverridesParser
from voc_files import add, object_xml, write_voc

from ssd.cli.overrides import quoted, with_format
from ssd.common.errors import ConfigError, DataError

TINY = ["image_size=96", "backbone=mobilenet_v1_half", "backbone.width_multiplier=0.25", "logger=null"]
NAMES = [
    "plain",
    "a,b",
    "lr=0.1,bs=4",
    "my run (1)",
    "한글 실행",
    "it's",
    '"x"',
    "[a]",
    "{a}",
    "$HOME",
    "2024_01",
    "a\\b",
    "a:b#c",
]


def parsed(argument: str) -> object:
    return OverridesParser.create().parse_override(argument).value()


@pytest.mark.parametrize("name", [*NAMES, "1.10", "1e3", "yes", "/x/c\\"])
@pytest.mark.parametrize("key", ["output", "dataset.root", "resume"])
def test_text_stays_as_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, key: str) -> None:
    monkeypatch.chdir(tmp_path)
    if not name.startswith("/"):
        Path(name).mkdir()
    if name == '"x"':
        assert parsed(quoted(f"{key}={name}")) == "x"  # quoted for Hydra by the user
    else:
        assert parsed(quoted(f"{key}={name}")) == name


@pytest.mark.parametrize("value", ["null", "${seed}", "'a b'"])
def test_what_is_meant_for_hydra_is_left_alone(value: str) -> None:
    assert quoted(f"output={value}") == f"output={value}"


def test_a_sweep_over_folders_needs_no_quotes() -> None:
    assert quoted("dataset.root=a,b", multirun=True) == "dataset.root=a,b"


@pytest.mark.parametrize("name", NAMES)
def test_any_folder_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    write_voc(Path(name), {"train": ["1", "2"]})
    if name == '"x"':
        return
    assert with_format([f"dataset.root={name}"], multirun=False)[0] == "dataset=voc"


def test_several_roots_must_have_one_format(tmp_path: Path) -> None:
    for name in "ab":
        write_voc(tmp_path / name, {"train": ["1"]})
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "a.json").write_text('{"images": [], "annotations": [], "categories": []}')
    a, b, c = (str(tmp_path / name) for name in "abc")
    assert with_format([f"dataset.root=[{a},{b}]"], multirun=False)[0] == "dataset=voc"
    assert with_format([f"dataset.root={a},{b}"], multirun=True)[0] == "dataset=voc"
    with pytest.raises(ConfigError, match=r"PASCAL VOC, .*COCO"):
        with_format([f"dataset.root=[{a},{c}]"], multirun=False)


def test_a_dataset_that_is_given_is_kept_and_auto_is_replaced(tmp_path: Path) -> None:
    write_voc(tmp_path, {"train": ["1"]})
    root = f"dataset.root={tmp_path}"
    assert with_format(["dataset=coco", root], multirun=False) == ["dataset=coco", root]
    assert with_format(["dataset=auto", root], multirun=False) == ["dataset=voc", root]
    assert with_format(["epochs=3"], multirun=False) == ["epochs=3"]
    with pytest.raises(ConfigError, match=r"dataset\.root=DIR"):
        with_format(["dataset=auto"], multirun=False)
    with pytest.raises(DataError, match="no such folder"):
        with_format(["dataset.root=absent"], multirun=False)


def test_a_folder_trains_without_naming_its_format(tmp_path: Path) -> None:
    root = tmp_path / "my, data (1)"
    for number in range(8):
        add(root, str(number), object_xml())
    done = run(
        tmp_path, "train.py", f"dataset.root={root}", *TINY, "trainer.max_steps=2", "batch_size=2", "num_workers=0"
    )
    assert done.returncode == 0, done.stderr
    assert f"dataset.root={root}: PASCAL VOC format" in done.stdout
    assert "quickstart" not in done.stdout


def test_printed_commands_can_be_pasted(tmp_path: Path) -> None:
    add(tmp_path / "data", "0", object_xml())
    add(tmp_path / "data", "1", object_xml())
    limits = ["trainer.max_steps=1", "batch_size=1", "num_workers=0"]
    done = run(tmp_path, "train.py", "dataset.root=data", *TINY, *limits, "hydra.run.dir=my run (1)")
    assert done.returncode == 0, done.stderr
    command = next(line for line in done.stdout.splitlines() if "predict.py" in line)
    assert "checkpoint=my run (1)/model.safetensors" in shlex.split(command)


def test_a_run_resumes_with_the_format_that_was_found(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for number in range(8):
        add(root, str(number), object_xml())
    limits = ["trainer.max_steps=2", "batch_size=2", "num_workers=0"]
    assert run(tmp_path, "train.py", f"dataset.root={root}", *TINY, *limits).returncode == 0
    (folder,) = (tmp_path / "runs").glob("mobilenet_v1_half_voc/*")
    resumed = run(tmp_path, "train.py", f"resume={folder}", "trainer.max_steps=4")
    assert resumed.returncode == 0, resumed.stderr


def test_two_formats_end_with_2_and_none_with_3(tmp_path: Path) -> None:
    root = tmp_path / "data"
    add(root, "0", object_xml())
    (root / "a.json").write_text('{"images": [], "annotations": [], "categories": []}')
    both = run(tmp_path, "inspect", f"dataset.root={root}")
    assert (both.returncode, "PASCAL VOC" in both.stderr, "COCO" in both.stderr) == (2, True, True)
    (root / "a.json").unlink()
    (root / "Annotations" / "0.xml").unlink()
    none = run(tmp_path, "train.py", f"dataset.root={root}")
    assert none.returncode == 3
    assert len(none.stderr.splitlines()) == 1
