"""Errors to exit codes and one line; the exit codes are listed in the README."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from pathlib import Path

import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, InstantiationException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ssd.cli.config import CONF, nearest
from ssd.common.errors import ConfigError, MachineError, SSDError
from ssd.common.saved_config import current_key

_MACHINE = {  # what libraries report: the remedy
    r"MemoryError|can't allocate memory|out of memory|not enough memory|bad_alloc|insufficient memory": (
        "out of memory: halve batch_size (or image_size)"
    ),
    r"DataLoader worker.*(killed|exited|bus error)|shared memory": (
        "a loader worker died: memory or shared memory (/dev/shm) ran out; use num_workers=0 or fewer, a smaller "
        "batch_size, or a larger --shm-size"
    ),
}


def explain(error: BaseException, *, config_name: str, arguments: list[str] | None = None) -> tuple[int, str | None]:
    """(exit code, one line) of an error; no line for a bug of ours.

    Args:
        error: with its causes.
        config_name, arguments: what Hydra composed: the command's configuration and the overrides.
    """
    all_causes = list(causes(error))
    for cause in all_causes:
        if isinstance(cause, SSDError):
            return cause.exit_code, _one_line(str(cause))
    for cause in all_causes:
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return MachineError.exit_code, f"{cause.filename or 'output'}: the disk is full; free some space"
        if isinstance(cause, OSError) and cause.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return MachineError.exit_code, f"{cause.filename}: permission denied ({cause.strerror})"
        for pattern, remedy in _MACHINE.items():
            if re.search(pattern, f"{type(cause).__name__} {cause}", re.IGNORECASE | re.DOTALL):
                return MachineError.exit_code, remedy
    if isinstance(error, HydraException | OmegaConfBaseException | yaml.YAMLError):
        return ConfigError.exit_code, _explain_config(error, config_name, arguments or [])
    if type(error).__name__ == "MisconfigurationException":  # Lightning's, which is not imported for this
        return ConfigError.exit_code, f"trainer: {_one_line(str(error))}"
    if isinstance(error, OSError) and error.filename is not None:
        return MachineError.exit_code, f"{error.filename}: {error.strerror}; give another path"
    return 1, None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and what it was raised from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:  # contexts can form a ring
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def missing_package(error: ImportError) -> str:
    """The package to install, of a module that cannot be imported."""
    return (error.name or "").partition(".")[0]


def _one_line(text: str) -> str:
    if "Original Traceback" in text:  # a loader worker sends its error as text
        text = re.sub(r"^ssd\.common\.errors\.\w+: ", "", text.strip().splitlines()[-1])
    return " ".join(text.split())


def _explain_config(error: BaseException, config_name: str, arguments: list[str]) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"{error.problem_mark.name}:{error.problem_mark.line + 1}: YAML: {error.problem}"
    if not isinstance(error, InstantiationException):
        overrides = list(_parse(arguments))
        problems = [_option_problem(override, arguments) for override in overrides]
        if not any(problems):
            known = _known_keys(config_name, arguments)
            problems = [_key_problem(override, known) for override in overrides]
        if any(problems):
            return next(filter(None, problems))
    omegaconf = [cause for cause in causes(error) if isinstance(cause, OmegaConfBaseException)]
    if omegaconf and omegaconf[-1].full_key:
        return f"{omegaconf[-1].full_key}: {_one_line(str(omegaconf[-1].msg or omegaconf[-1]).splitlines()[0])}"
    root = list(causes(error))[-1]
    return _one_line(str(root))


def _parse(arguments: list[str]) -> Iterator[Override]:
    parser = OverridesParser.create()
    for argument in arguments:
        if not argument.startswith("-"):
            try:
                yield parser.parse_override(argument)
            except HydraException:
                continue


def _option_problem(override: Override, arguments: list[str]) -> str | None:
    """A list without brackets, or an option that its group does not have."""
    key, text = override.key_or_group, override.input_line or ""
    if override.is_sweep_override() and not {"-m", "--multirun"} & set(arguments):
        name, _, values = text.partition("=")
        return f"{key}={values}: a list goes into brackets: {name}=[{values}]"
    if _is_group(key) and isinstance(option := override.value(), str):
        options = sorted(path.stem for path in (CONF / key).glob("*.yaml"))
        has_own_configs = any(argument.startswith(("--config-dir", "-cd")) for argument in arguments)
        if option not in options and not has_own_configs:
            return f"{key}={option}: no such option{nearest(option, options)}; there are {', '.join(options)}"
    return None


def _key_problem(override: Override, known: list[str]) -> str | None:
    """A key that the configuration does not have."""
    key = override.key_or_group
    if current_key(key) != key:
        return f"{key}: now called {current_key(key)}"
    if known and key not in known and not override.is_add() and not _is_group(key) and not key.startswith("hydra"):
        group, _, name = key.partition(".")
        settings = _settings_of_options(group)
        options = [f"{group}={option}" for option, names in settings.items() if name in names]
        if options:
            return f"{key}: no such setting here; give {' or '.join(options)}"
        others = [f"{group}.{other}" for names in settings.values() for other in names]
        return f"{key}: no such setting{nearest(key, [*known, *others])}"
    return None


def _settings_of_options(group: str) -> dict[str, list[str]]:
    """The names of the settings of each option of a group; empty for what is no group."""
    files = sorted((CONF / group).glob("*.yaml")) if _is_group(group) else []
    return {path.stem: [str(name) for name in OmegaConf.load(path)] for path in files}


def _is_group(key: str) -> bool:
    return ".." not in key and Path(CONF, key).is_dir()


def _known_keys(config_name: str, arguments: list[str]) -> list[str]:
    """Every key of the configuration with the group options that were given, if these exist."""
    from hydra import compose, initialize_config_dir

    groups = [argument for argument in arguments if _is_group(argument.partition("=")[0])]
    for overrides in (groups, []):
        GlobalHydra.instance().clear()
        try:
            with initialize_config_dir(str(CONF), version_base="1.3"):
                config = compose(config_name, overrides=overrides)
        except (HydraException, OmegaConfBaseException):
            continue
        return list(_flat(OmegaConf.to_container(config), ""))
    return []


def _flat(node: object, prefix: str) -> list[str]:
    if not isinstance(node, dict):
        return []
    return [name for key, child in node.items() for name in (f"{prefix}{key}", *_flat(child, f"{prefix}{key}."))]
