"""`ssd COMMAND`: the commands, their help, and shell completion."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ssd import __version__
from ssd.cli.app import COMMANDS

ROOT = Path(__file__).parents[2]


def ssd(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ssd", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_the_version_and_the_list_of_commands() -> None:
    assert ssd("--version").stdout.split() == ["ssd", __version__]
    listed = ssd().stdout
    assert all(f"  {command} " in listed for command in COMMANDS)


def test_an_unknown_command_gets_the_nearest_one() -> None:
    done = ssd("predit")
    assert (done.returncode, "did you mean predict?" in done.stderr) == (2, True)


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_closed_streams_are_no_error(tmp_path: Path, closed: str) -> None:
    command = f"{sys.executable} -m ssd inspect dataset=shapes dataset.train=2 dataset.val=1 dataset.test=1 output=out"
    done = subprocess.run(
        ["bash", "-c", f"{command} {closed}"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "out").is_dir()


def test_what_the_terminal_cannot_encode_is_escaped() -> None:
    done = ssd("猫", PYTHONIOENCODING="ascii")
    assert done.returncode == 2
    assert "\\u732b: no such command" in done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_the_settings_without_importing_torch(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "ssd", command, "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert f"ssd {command} " in done.stdout or f"python {command}.py" in done.stdout
    assert "== Configuration (KEY=VALUE) ==" in done.stdout
    assert {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()} & {"torch", "cv2", "numpy"} == set()


def test_python_files_of_the_checkout_are_the_commands_from_any_folder(tmp_path: Path) -> None:
    for name in ("train", "predict"):
        script = [sys.executable, str(ROOT / f"{name}.py"), "--help"]
        direct = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert direct.stdout == ssd(name, "--help").stdout


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ssd ", set(COMMANDS)),
        ("ssd ex", {"export"}),
        ("ssd train backbone=mob", {"backbone=mobilenet_v1", "backbone=mobilenet_v1_half"}),
        ("ssd evaluate resam", {"resamples="}),
        ("ssd import-weights channel", {"channel_order="}),
    ],
)
def test_completion(line: str, expected: set[str]) -> None:
    assert set(ssd("-sc", "query=bash", COMP_LINE=line).stdout.split()) == expected


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes_with_the_script(tmp_path: Path) -> None:
    program = tmp_path / "ssd"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m ssd "$@"\n')
    program.chmod(0o755)
    script = (
        'eval "$(ssd --shell-completion install=bash)"; COMP_LINE="ssd train optimizer.l"; COMP_POINT=21\n'
        'COMP_WORDS=($COMP_LINE); COMP_CWORD=2; hydra_bash_completion; echo "${COMPREPLY[@]}"'
    )
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == ["optimizer.lr="]
