"""Errors to exit codes and one line; the exit codes are listed in the README."""

from __future__ import annotations

import errno
import itertools
import re
import sysconfig
import traceback
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException, InstantiationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ssd.cli.config import CONF, is_group, nearest, options_of, takes
from ssd.common.errors import ConfigError, MachineError, SSDError
from ssd.common.saved_config import current_key

_LISTED = (ValueType.SIMPLE_CHOICE_SWEEP, ValueType.CHOICE_SWEEP, ValueType.RANGE_SWEEP)  # no glob, no interval
_LIBRARIES = tuple(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))
_MACHINE = {  # what libraries report: the remedy
    r"MemoryError|can't allocate memory|out of memory|not enough memory|bad_alloc|insufficient memory": (
        "out of memory: halve batch_size (or image_size)"
    ),
    r"DataLoader worker.*(killed|exited|bus error)|shared memory": (
        "a loader worker died: memory or shared memory (/dev/shm) ran out; use num_workers=0 or fewer, a smaller "
        "batch_size, or a larger --shm-size"
    ),
}


def explain(
    error: BaseException, *, config_name: str, arguments: list[str] | None = None, as_sweep: str = ""
) -> tuple[int, str | None]:
    """(exit code, one line) of an error; no line for a bug of ours.

    Args:
        error: with its causes.
        config_name, arguments: what Hydra composed: the command's configuration and the overrides.
        as_sweep: the command line that runs the same as a sweep.
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
        return ConfigError.exit_code, _explain_config(error, config_name, arguments or [], as_sweep)
    if type(error).__name__ == "MisconfigurationException":  # Lightning's, which is not imported for this
        return ConfigError.exit_code, f"trainer: {_one_line(str(error))}"
    if isinstance(error, OSError) and error.filename is not None:
        return MachineError.exit_code, f"{error.filename}: {error.strerror}; give another path"
    if blamed := _lightning_settings(error, arguments or []):
        return ConfigError.exit_code, f"{blamed}: {type(error).__name__}: {_one_line(str(error))}"
    return 1, None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and what it was raised from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:  # contexts can form a ring
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _lightning_settings(error: BaseException, arguments: list[str]) -> str:
    """The given settings of Lightning, where it failed in its own set-up, and not in a step; "" otherwise."""
    frames = traceback.extract_tb(error.__traceback__)
    is_set_up = not any(frame.name in ("training_step", "validation_step", "test_step") for frame in frames)
    is_library = frames and frames[-1].filename.startswith(_LIBRARIES)  # and no callback of the user's own
    if is_set_up and is_library and any("/pytorch_lightning/" in Path(frame.filename).as_posix() for frame in frames):
        return " ".join(item for item in arguments if re.match(r"\+*(trainer|callbacks|logger)[.=]", item))
    return ""


def missing_package(error: ImportError) -> str:
    """The package to install, of a module that cannot be imported."""
    return (error.name or "").partition(".")[0]


def _one_line(text: str) -> str:
    if "Original Traceback" in text:  # a loader worker sends its error as text
        text = re.sub(r"^ssd\.common\.errors\.\w+: ", "", text.strip().splitlines()[-1])
    return " ".join(text.split())


def _explain_config(error: BaseException, config_name: str, arguments: list[str], as_sweep: str) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"{error.problem_mark.name}:{error.problem_mark.line + 1}: YAML: {error.problem}"
    if not isinstance(error, InstantiationException):
        jobs = _jobs(arguments)
        problems = itertools.chain.from_iterable(_problems(job, config_name) for job in jobs)
        if not {"-m", "--multirun"} & set(arguments):
            problems = itertools.chain(problems, _several_values(arguments, config_name, as_sweep))
        if problem := next(filter(None, problems), None):
            return problem
    omegaconf = [cause for cause in causes(error) if isinstance(cause, OmegaConfBaseException)]
    if omegaconf and omegaconf[-1].full_key:
        return f"{omegaconf[-1].full_key}: {_one_line(str(omegaconf[-1].msg or omegaconf[-1]).splitlines()[0])}"
    node = re.search(r"full_key: ([\w.]+)", str(error))  # where Hydra failed to instantiate
    return (f"{node[1]}: " if node else "") + _one_line(str(list(causes(error))[-1]))


def _jobs(arguments: list[str]) -> Iterator[list[str]]:
    """The overrides of each job of a sweep; of two values of a key the later one counts."""
    values: dict[str, list[str]] = {}
    for override in _parse(arguments):
        key = override.get_key_element()
        if not override.is_sweep_override():
            values[key] = [override.input_line or ""]
        elif override.value_type in _LISTED:
            values[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
    flags = [argument for argument in arguments if argument.startswith("-")]
    return ([*flags, *job] for job in itertools.product(*values.values()))


def _problems(job: list[str], config_name: str) -> Iterator[str | None]:
    """Unknown options, then unknown keys."""
    overrides = list(_parse(job))
    yield from (_option_problem(override, job) for override in overrides)
    config, chosen = _configuration(job, config_name)
    known = _flat(OmegaConf.to_container(config), "")
    yield from (_key_problem(override, config_name, known, chosen) for override in overrides)


def _several_values(arguments: list[str], config_name: str, as_sweep: str) -> Iterator[str]:
    """Settings of which several values are given without brackets or -m."""
    config, _ = _configuration(next(_jobs(arguments)), config_name)
    for override in _parse(arguments):
        key, (name, _, values) = override.key_or_group, (override.input_line or "").partition("=")
        is_list = override.value_type is ValueType.SIMPLE_CHOICE_SWEEP and not is_group(key)
        if is_list and takes(config, key, next(_parse([f"{name}=[{values}]"])).value(), command=config_name):
            yield f"{key}={values}: a list goes into brackets: {name}=[{values}]"
        elif override.is_sweep_override():
            yield f"{key}={values}: several values need -m, which starts a run for each: {as_sweep}"


def _parse(arguments: list[str]) -> Iterator[Override]:
    parser = OverridesParser.create()
    for argument in arguments:
        if not argument.startswith("-"):
            try:
                yield parser.parse_override(argument)
            except HydraException:
                continue


def _option_problem(override: Override, arguments: list[str]) -> str | None:
    """An option that its group does not have."""
    key = override.key_or_group
    if is_group(key) and not override.is_sweep_override() and isinstance(option := override.value(), str):
        options = options_of(key)
        has_own_configs = any(argument.startswith(("--config-dir", "-cd")) for argument in arguments)
        if option not in options and not has_own_configs:
            return f"{key}={option}: no such option{nearest(option, options)}; there are {', '.join(options)}"
    return None


def _key_problem(
    override: Override, config_name: str, known: list[str], chosen: Mapping[str, str | None]
) -> str | None:
    """A key that is not known; `chosen` is the option of each group."""
    key = override.key_or_group
    if current_key(key) != key:
        return f"{key}: now called {current_key(key)}"
    if not known or key in known or override.is_add() or is_group(key) or key.startswith("hydra"):
        return None
    group, _, name = key.partition(".")
    settings = {option: _settings(config_name, group, option) for option in options_of(group)}
    options = [f"{group}={option}" for option, names in settings.items() if name in names]
    if options:
        lacks = f"{group}={chosen[group]} has no such setting" if chosen.get(group) else "no such setting here"
        return f"{key}: {lacks}; give {' or '.join(options)}"
    others = [f"{group}.{other}" for names in settings.values() for other in names]
    return f"{key}: no such setting{nearest(key, [*known, *others])}"


def _settings(config_name: str, group: str, option: str) -> list[str]:
    """The names of the settings of an option of a group."""
    config = _compose(config_name, f"{group}={option}")
    node = None if config is None else config.get(group)
    return [str(name) for name in node] if isinstance(node, DictConfig) else []


def _configuration(job: list[str], config_name: str) -> tuple[DictConfig, Mapping[str, str | None]]:
    """The configuration with the options that were given, if these exist, and the chosen option of each group."""
    groups = [override for override in job if is_group(override.partition("=")[0])]
    config = _compose(config_name, *groups)
    if config is not None:
        return config, config.hydra.runtime.choices
    return _compose(config_name) or DictConfig({}), {}


@cache
def _compose(config_name: str, *groups: str) -> DictConfig | None:
    """The configuration with these options of groups, and with the node hydra; None if it cannot be composed."""
    from hydra import compose, initialize_config_dir

    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose(config_name, overrides=list(groups), return_hydra_config=True)
    except (HydraException, OmegaConfBaseException, ValueError):
        return None


def _flat(node: object, prefix: str) -> list[str]:
    """Dotted keys; of the items of a list, those of their settings."""
    if isinstance(node, list):
        return [name for number, item in enumerate(node) for name in _flat(item, f"{prefix}{number}.")]
    if not isinstance(node, dict):
        return []
    return [
        name
        for key, child in node.items()
        if (prefix, key) != ("", "hydra")
        for name in (f"{prefix}{key}", *_flat(child, f"{prefix}{key}."))
    ]
