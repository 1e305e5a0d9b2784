"""Runs a command: Hydra in front, one line and an exit code for a user's mistake at the end."""

from __future__ import annotations

import difflib
import errno
import importlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import hydra
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ssd.cli.config import CONF, check_ranges, register
from ssd.common import slurm
from ssd.common.errors import ConfigError, MachineError, SSDError
from ssd.common.renamed_keys import upgrade_overrides

COMMANDS = {  # name: module of ssd.cli
    "train": "train",
    "predict": "predict",
    "inspect": "inspect_data",
    "evaluate": "evaluate",
    "export": "export",
    "benchmark": "benchmark",
    "download": "download",
    "import-weights": "import_weights",
}
_USAGE = """\
ssd COMMAND [GROUP=OPTION] [KEY=VALUE] ...; ssd COMMAND --help lists the settings

train           train on a folder of labelled images, or on the built-in shapes
predict         detect objects in images, videos and camera streams
inspect         check a dataset before training
evaluate        measure detectors on a dataset
export          write a checkpoint for another runtime
benchmark       accuracy, latency and size in each runtime
download        fetch Open Images or PASCAL VOC
import-weights  convert the weights of another SSD program

ssd --version"""
_INTERRUPTED, _READER_GONE = 130, 141
_SETTING = re.compile(r"[+~]{0,2}(?P<key>\w[\w./@]*)(?:=(?P<value>.*))?", re.DOTALL)  # and no flag such as --config-dir
_UNSAFE = re.compile(r"_target_|\$\{|^[+~]*hydra|^[+~]*logger\.")  # calls, what may become one, files elsewhere
_MACHINE = {  # what libraries say: what to do
    r"MemoryError|can't allocate memory|out of memory|not enough memory|bad_alloc|insufficient memory": (
        "out of memory: halve batch_size (or image_size)"
    ),
    r"DataLoader worker.*(killed|exited|bus error)|shared memory": (
        "a loader worker was lost: memory or shared memory (/dev/shm) ran out; use num_workers=0 or fewer, a smaller "
        "batch_size, or a larger --shm-size"
    ),
}


def main(command: str | None = None) -> None:
    """Runs `command`, or the one that the first argument names."""
    whole = sys.argv
    if command is None:
        command, *arguments = sys.argv[1:] or ["--help"]
        sys.argv = [sys.argv[0], *arguments]
    if command in ("-h", "--help"):
        print(_USAGE)
    elif command == "--version":
        from ssd import __version__

        print(f"ssd {__version__}")
    elif command not in COMMANDS:
        print(f"error: {command}: no such command{_nearest(command, list(COMMANDS))}; see --help", file=sys.stderr)
        sys.exit(ConfigError.exit_code)
    else:
        module = importlib.import_module(f"ssd.cli.{COMMANDS[command]}")
        name = command.replace("-", "_")
        run(getattr(module, name), config_name=name, argv=whole)


def run(main: Callable[[DictConfig], object], *, config_name: str, argv: list[str]) -> None:
    """Composes `config_name` with the command line's overrides and calls `main` (for each job of a sweep).

    While `main` runs, sys.argv is `argv`: what Lightning starts again for the other processes of a machine.
    """
    register()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here, not to Hydra's own handler, which always exits with 1

    def checked(config: DictConfig) -> object:
        try:
            check_ranges(config)
            sys.argv = argv
            return main(config)
        except Exception as error:
            if HydraConfig.get().mode == RunMode.MULTIRUN:  # the other jobs go on; Hydra raises again at the end
                raise
            _leave(error, config_name)

    checked.__module__ = "__main__"
    try:
        sys.argv[1:] = map(readable, sys.argv[1:])
        if config_name == "train":
            sys.argv = with_saved_overrides(sys.argv)
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(checked)()
        sys.stdout.flush()  # where nobody reads it, say so here
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    except SystemExit as stop:
        sys.exit(_exit_code(stop))
    except Exception as error:
        _leave(error, config_name)


def _exit_code(stop: SystemExit) -> str | int | None:
    """Lightning turns Ctrl-C into exit code 1, and rich does so where nobody reads the output any more."""
    if isinstance(stop.__context__, KeyboardInterrupt):
        return _INTERRUPTED
    return _READER_GONE if isinstance(stop.__context__, BrokenPipeError) else stop.code


def explicit_overrides(group: str) -> list[str]:
    """The settings of `group` that the command line names."""
    if not HydraConfig.initialized():
        return []
    keys = map(_key, HydraConfig.get().overrides.task)
    return [key.removeprefix(f"{group}.") for key in keys if key.startswith(f"{group}.")]


def with_saved_overrides(argv: list[str]) -> list[str]:
    """The command line of a run that is resumed: the saved overrides, then those given now, in the run's folder.

    A cluster job that was put back into the queue resumes its run by itself.

    Raises:
        ConfigError: `resume=` names a folder that holds no run, or one whose overrides name code to call.
    """
    given = [argument for argument in argv[1:] if not argument.startswith("resume=")]
    named = next((argument.removeprefix("resume=") for argument in argv[1:] if argument.startswith("resume=")), None)
    folder = named if named is not None else slurm.requeued_run()
    if folder in (None, "", "null"):
        return argv
    from ssd.training.run_dir import CONFIG_FILE, OVERRIDES_FILE

    saved, config = Path(folder, OVERRIDES_FILE), Path(folder, CONFIG_FILE)
    if not saved.is_file():
        raise ConfigError(f"resume={folder}: no run there ({saved} is missing)")
    content = yaml.safe_load(saved.read_text(errors="replace"))
    if not isinstance(content, list):
        raise ConfigError(f"{saved}: not a list of overrides; restore it, or start a new run")
    settings = yaml.safe_load(config.read_text(errors="replace")) if config.is_file() else None
    lines = upgrade_overrides([str(line) for line in content], config=settings)
    for line in lines:
        if not _is_plain(line):
            raise ConfigError(f"{saved}: {line}: not taken from a file; give it on the command line if you trust it")
    replaced = {_key(argument) for argument in given}
    return [
        argv[0],
        *(line for line in lines if _key(line) not in replaced),
        *given,
        f"resume={folder}",
        f"hydra.run.dir={folder}",
    ]


def _is_plain(override: str) -> bool:
    """Whether it sets a value, or chooses an option that conf/ has: a file may be a stranger's."""
    setting = _SETTING.fullmatch(override)
    if setting is None or _UNSAFE.search(override):
        return False
    group = setting["key"].partition("@")[0]
    if not (CONF / group).is_dir():
        return "/" not in group
    options = {path.stem for path in (CONF / group).glob("*.yaml")} | {"null", None}
    return ".." not in group and setting["value"] in options


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def readable(argument: str) -> str:
    """`KEY=VALUE`, in quotes where Hydra cannot read VALUE, such as a path in Korean or an address with `&`."""
    key, separator, value = argument.partition("=")
    if argument.startswith("-") or not separator or _can_be_read(argument):
        return argument
    if value.startswith("[") and value.endswith("]"):
        return f"{key}=[{','.join(map(_quoted, value[1:-1].split(',')))}]"
    return f"{key}={_quoted(value)}"


def _can_be_read(argument: str) -> bool:
    try:
        OverridesParser.create().parse_override(argument)
    except HydraException:
        return False
    return True


def _quoted(text: str) -> str:
    escaped = text.strip().replace("'", "\\'")
    return f"'{escaped}'"


def _leave(error: Exception, config_name: str) -> NoReturn:
    if any(isinstance(cause, BrokenPipeError) for cause in _causes(error)):  # `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(_READER_GONE)
    code, line = explain(error, config_name=config_name)
    if line is None:
        traceback.print_exception(error)
    else:
        print(f"error: {line}", file=sys.stderr)
    sys.exit(code)


def explain(error: BaseException, *, config_name: str) -> tuple[int, str | None]:
    """(exit code, one line) for an error; no line for a bug of ours."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, SSDError):
            return cause.exit_code, _one_line(str(cause))
    for cause in causes:
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return MachineError.exit_code, f"{cause.filename or 'output'}: the disk is full; free some space"
        if isinstance(cause, OSError) and cause.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return MachineError.exit_code, f"{cause.filename}: no permission to write here ({cause.strerror})"
        for signs, remedy in _MACHINE.items():
            if re.search(signs, f"{type(cause).__name__} {cause}", re.IGNORECASE | re.DOTALL):
                return MachineError.exit_code, remedy
    if isinstance(error, HydraException | OmegaConfBaseException | yaml.YAMLError):
        return ConfigError.exit_code, _explain_config(error, config_name)
    if isinstance(error, OSError) and error.filename is not None:
        return MachineError.exit_code, f"{error.filename}: {error.strerror}; name a place that can be used"
    return 1, None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:  # contexts can form a ring
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _one_line(text: str) -> str:
    if "Original Traceback" in text:  # a loader worker sends its error as text
        text = re.sub(r"^ssd\.errors\.\w+: ", "", text.strip().splitlines()[-1])
    return " ".join(text.split())


def _explain_config(error: BaseException, config_name: str) -> str:
    text = str(error)
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        return f"{mark.name}:{mark.line + 1}: YAML: {getattr(error, 'problem', '')}"
    listed = re.search(r"Ambiguous value for argument '([^'=]+)=([^']*)'", text)
    if listed:
        return f"{listed[1]}={listed[2]}: a list goes into brackets: {listed[1]}=[{listed[2]}]"
    key = re.search(r"Could not override '([^']+)'", text) or re.search(r"full_key: (\S+)", text)
    unknown_option = re.search(
        r"Could not (?:find|load) '([^']+)'.*?Available options in '[^']+':(.*)", text, re.DOTALL
    )
    if unknown_option:
        group, _, option = unknown_option[1].rpartition("/")
        options = unknown_option[2].split("Config search path")[0].split()
        return f"{group}={option}: no such option{_nearest(option, options)}; there are {', '.join(options)}"
    unknown_key = re.search(r"Key '.*' (is )?not in ", f"{text} {error.__cause__}")
    if key and (unknown_key or "No match in the defaults list" in text):
        return f"{key[1]}: no such setting{_nearest(key[1], _known_keys(config_name))}"
    root = str(_root(error)).splitlines()[0]
    merged = re.search(r"Error merging override (\S+)", text)
    if key or merged:
        return f"{(key or merged)[1]}: {root}"  # type: ignore[index]
    return _one_line(text.split("See https")[0])


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def _known_keys(config_name: str) -> list[str]:
    """Every key of the configuration, with the groups that were chosen on the command line where they exist."""
    chosen = [argument for argument in sys.argv[1:] if re.fullmatch(r"\w+=\w+", argument)]
    for overrides in (chosen, []):
        GlobalHydra.instance().clear()
        try:
            with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
                config = hydra.compose(config_name, overrides=overrides)
        except (HydraException, OmegaConfBaseException):
            continue
        return list(_flat(OmegaConf.to_container(config), ""))
    return []


def _flat(node: object, prefix: str) -> list[str]:
    if not isinstance(node, dict):
        return []
    return [name for key, child in node.items() for name in (f"{prefix}{key}", *_flat(child, f"{prefix}{key}."))]
