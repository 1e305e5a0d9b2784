"""The saved overrides of a resumed run, of which a stranger's run may set values only.

Two kinds of lines are not accepted:

- from any run, what names code to call, what is resolved when it is read, and loggers, which write elsewhere;
- from a run that this user did not start (see `ssd.common.run_folder`), what leads outside of the run folder: data
  sets, weights and other paths, downloads, and processes on other machines.

They must be given again, as the message lists them. What the command line gives replaces a saved line before it is
judged.
"""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import Any

from ssd.cli.config import CONF
from ssd.cli.overrides import SETTING, is_quoted, key_of
from ssd.common import slurm
from ssd.common.errors import ConfigError
from ssd.common.run_folder import MAX_YAML_BYTES, check_run_folder, check_sweep_folder, is_signed
from ssd.common.saved_config import CONFIG_FILE, OVERRIDES_FILE, upgrade_overrides
from ssd.common.untrusted_text import read_yaml

_MAX_LINES, _MAX_LENGTH = 1000, 20_000  # a list of 1,200 classes has 12,000 characters
_SHOWN = 20  # lines of a message
# would call code, could resolve to a call (Hydra reads `$\{` as `${`), or would write elsewhere
_UNSAFE = re.compile(r"_target_|\$\\*\{|^[+~]*hydra|^[+~]*logger\.|^[^=]*@")
_OPTIONS_WITHIN = {  # of these groups, those with which nothing outside of the run folder is read
    "dataset": ("shapes", "none", "null"),
    "download": ("null",),
    "experiment": ("quickstart", "null"),
}
_OUTSIDE = re.compile(
    r"download\..*|init_from|backbone\.weights|priors\.file"
    r"|dataset\.(root|negatives|images|group_by|data_yaml|\w+_json|\w+_splits)"
    r"|trainer\.(devices|num_nodes|strategy|plugins|profiler|default_root_dir)"
)
_WITH_SLASHES = ("objective", "dataset.classes", "dataset.class_map")  # which are no paths
_PATH = re.compile(r"[/\\~]|\.\.")


def with_saved_overrides(arguments: list[str]) -> list[str]:
    """The arguments of a resumed run: the saved overrides, then those given now, in the run's folder.

    A cluster job that was requeued resumes its run by itself.

    Raises:
        ConfigError: `resume=` names a folder that holds no run, or one with lines that must be given again.
        DataError: a file in the folder of the run is not what a run has; see `check_run_folder`.
    """
    given = [argument for argument in arguments if not argument.startswith("resume=")]
    named = next((argument.removeprefix("resume=") for argument in arguments if argument.startswith("resume=")), None)
    if named is not None and is_quoted(named):
        named = named[1:-1]
    folder = named if named is not None else slurm.requeued_run()
    if folder in (None, "", "null"):
        return arguments
    check_run_folder(Path(folder))
    lines = [line for line in _read_lines(folder) if not _is_replaced(line, given)]
    _check_lines(lines, folder, given)
    return [*lines, *given, f"resume={folder}", f"hydra.run.dir={folder}"]


def check_output_folders(arguments: list[str]) -> None:
    """Checks the folders that `hydra.run.dir` and `hydra.sweep.dir` name, which may exist.

    Raises:
        DataError: see `check_run_folder`.
    """
    for argument in arguments:
        key, _, value = argument.partition("=")
        folder = Path(value[1:-1] if is_quoted(value) else value)
        try:
            exists = folder.is_dir()
        except (OSError, ValueError):
            exists = False
        if exists and key == "hydra.run.dir":
            check_run_folder(folder)
        elif exists and key == "hydra.sweep.dir":
            check_sweep_folder(folder)


def _is_replaced(line: str, given: list[str]) -> bool:
    """Whether an argument sets the same key, or the node that the key is in."""
    key = key_of(line)
    nodes = tuple(f"{key_of(argument)}." for argument in given if argument.partition("=")[2].startswith("{"))
    return key in map(key_of, given) or key.startswith(nodes)


def _read_lines(folder: str) -> list[str]:
    path, config = Path(folder, OVERRIDES_FILE), Path(folder, CONFIG_FILE)
    if not os.path.lexists(path):
        raise ConfigError(f"resume={folder}: no run there ({path} is missing)")
    content = read_yaml(path, max_bytes=MAX_YAML_BYTES)
    if not isinstance(content, list) or not all(isinstance(line, str) for line in content):
        raise ConfigError(f"{path}: not a list of overrides; restore it, or start a new run")
    settings: Any = read_yaml(config, max_bytes=MAX_YAML_BYTES) if os.path.lexists(config) else None
    lines = upgrade_overrides(content, config=settings)
    if len(lines) > _MAX_LINES or any(len(line) > _MAX_LENGTH for line in lines):
        limits = f"{_MAX_LINES:,} lines of {_MAX_LENGTH:,} characters"
        raise ConfigError(f"{path}: larger than {limits}; restore it, or start a new run")
    return lines


def _check_lines(lines: list[str], folder: str, given: list[str]) -> None:
    unsafe = [line for line in lines if not _is_plain(line)]
    outside = [] if is_signed(Path(folder)) else [line for line in lines if _is_plain(line) and leads_outside(line)]
    if not unsafe and not outside:
        return
    where = "a file" if unsafe else "a run that you did not start on this machine"
    found = [*unsafe, *outside]
    again = shlex.join([f"resume={folder}", *given, *found])
    listed = ", ".join(found[:_SHOWN]) + (f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")
    raise ConfigError(
        f"{Path(folder, OVERRIDES_FILE)}: {listed}: not accepted from {where}; give it on the command line if you "
        f"trust it: python train.py {again}"
    )


def _is_plain(override: str) -> bool:
    """Whether it sets a value, or selects an option that conf/ has."""
    setting = SETTING.fullmatch(override)
    if setting is None or _UNSAFE.search(override):
        return False
    group = setting["key"]
    if not (CONF / group.partition("/")[0]).is_dir() or "." in group:
        return "/" not in group
    options = {path.stem for path in (CONF / group).glob("*.yaml")} | {"null", None}
    return setting["value"] in options


def leads_outside(override: str) -> bool:
    """Whether a plain setting has the program read, write or connect to anything outside of the run folder."""
    setting = SETTING.fullmatch(override)
    if setting is None:
        return True
    key, value = setting["key"], setting["value"]
    if value is None:
        return False
    if key in _OPTIONS_WITHIN:
        return value not in _OPTIONS_WITHIN[key]
    if _OUTSIDE.fullmatch(key):
        return value != "null"
    return key not in _WITH_SLASHES and _PATH.search(value) is not None
