"""Runs a command through Hydra; a user's mistake becomes one line and an exit code.

Nothing heavy is imported here: `--help` answers in about a second.
"""

from __future__ import annotations

import importlib
import io
import os
import shlex
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from ssd.cli.config import CONF, check, nearest
from ssd.cli.explain import causes, explain
from ssd.cli.overrides import (
    check_form,
    flags_last,
    quoted,
    texts,
    with_first_options,
    with_format,
    with_quickstart,
    without_null,
)
from ssd.cli.saved_overrides import check_output_folders, with_saved_overrides
from ssd.cli.sweep import Sweep
from ssd.common.errors import ConfigError, JobError
from ssd.common.text import one_line

COMMANDS = {
    "train": "train on a folder of labelled images, or on the built-in shapes",
    "predict": "detect objects in images, videos and camera streams",
    "inspect": "check a dataset before training",
    "evaluate": "measure and compare detectors on a dataset",
    "export": "write a checkpoint for another runtime",
    "benchmark": "accuracy, latency and size in each runtime",
    "download": "fetch Open Images or PASCAL VOC",
    "import-weights": "convert the weights of another SSD program",
}
_MODULES = {"inspect": "inspect_data"}  # where the module has another name: `inspect` is in the standard library
_INTERRUPTED, _BROKEN_PIPE = 130, 141
_folders: dict[str, str] = {}


def main(command: str | None = None) -> None:
    """Runs `command`, or the one that the first argument names."""
    _prepare_streams()
    argv = sys.argv
    if command is None:
        command, *arguments = sys.argv[1:] or ["--help"]
        sys.argv = [sys.argv[0], *arguments]
    if command in ("-h", "--help"):
        print(_usage())
    elif command in ("-V", "--version"):
        from ssd import __version__

        print(f"ssd {__version__}")
    elif command in ("-sc", "--shell-completion"):
        from ssd.cli.completion import complete

        complete(list(COMMANDS))
    elif command not in COMMANDS:
        print(f"error: {command}: no such command{nearest(command, list(COMMANDS))}; see ssd --help", file=sys.stderr)
        sys.exit(ConfigError.exit_code)
    else:
        run(command.replace("-", "_"), argv=argv)


def _prepare_streams() -> None:
    """Connects standard streams that are closed (`>&-`) to nothing, and escapes what the terminal cannot encode."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:  # the next file that is opened would get this number
            os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _usage() -> str:
    commands = "\n".join(f"  {name:15} {what}" for name, what in COMMANDS.items())
    return f"""\
ssd COMMAND [GROUP=OPTION] [KEY=VALUE] ...

{commands}

ssd COMMAND --help                             lists the settings of a command
ssd --version                                  prints the version
eval "$(ssd --shell-completion install=bash)"  completes commands and settings in bash (or zsh, fish)"""


def run(name: str, *, argv: list[str]) -> None:
    """Composes the configuration `name` with the overrides of sys.argv and calls its command (for each job of a sweep).

    During the command sys.argv is `argv`, with which Lightning launches its other processes.
    """
    register_resolvers()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here, not to Hydra's own handler, which always exits with 1

    def checked(config: DictConfig) -> object:
        is_job = HydraConfig.get().mode == RunMode.MULTIRUN
        try:
            if is_job:
                sweep.start()
            check(config, command=name, texts=texts(list(HydraConfig.get().overrides.task)))
            sys.argv = argv
            return _command(name)(config)
        except Exception as error:
            if is_job and not _is_broken_pipe(error):
                sweep.fail(error, config_name=name)
                return None
            if name == "train":
                _remove_unused(Path(HydraConfig.get().runtime.output_dir))
            _exit(error, name, arguments, as_sweep)

    checked.__module__ = "__main__"
    sweep = Sweep()
    as_sweep = _with_multirun(argv, sys.argv[1:])
    arguments: list[str] = []
    try:
        check_form(sys.argv[1:])
        arguments[:] = sys.argv[1:]
        multirun = bool({"-m", "--multirun"} & set(arguments))
        if name == "train":
            arguments[:] = with_saved_overrides(arguments)
            check_output_folders(arguments)  # Hydra opens train.log there
        if name != "download":
            arguments[:] = with_format(arguments, multirun=multirun)
        if name == "train":
            arguments[:] = with_quickstart(arguments)
        arguments[:] = [without_null(quoted(argument, multirun=multirun)) for argument in arguments]  # saved ones, too
        if multirun:
            arguments[:] = with_first_options(arguments)
        sys.argv = [argv[0], *flags_last(arguments)]
        try:
            hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(checked)()
        except JobError:
            if not sweep.failed:  # the job of another process
                raise
        finally:
            sweep.print_failed()
        sweep.raise_failed()
        sys.stdout.flush()  # a closed pipe is noticed here
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    except SystemExit as stop:
        sys.exit(_exit_code(stop))
    except Exception as error:
        _exit(error, name, arguments, as_sweep)


def _command(name: str) -> Callable[[DictConfig], object]:
    """The function of a command; its module imports what is heavy, such as torch."""
    module = importlib.import_module(f"ssd.cli.{_MODULES.get(name, name)}")
    command: Callable[[DictConfig], object] = getattr(module, name)
    return command


def free_folder(path: str) -> str:
    """Creates the folder `path`, or path_2, path_3 ... if it exists: runs that start in the same second differ."""
    if path not in _folders:
        for number in range(1, 1000):
            candidate = Path(path if number == 1 else f"{path}_{number}")
            try:
                candidate.mkdir(parents=True)
            except FileExistsError:
                continue
            _folders[path] = os.fspath(candidate)
            break
    return _folders[path]


def register_resolvers() -> None:
    """What conf/ needs beside Hydra's own resolvers."""
    OmegaConf.register_new_resolver("free_folder", free_folder, replace=True)
    OmegaConf.register_new_resolver("classes_to_download", classes_to_download, replace=True)


def classes_to_download(classes: list[str], root: object) -> list[str] | None:
    """`classes`, or None for all where `root` holds a dataset that this program has not downloaded."""
    if not isinstance(root, str):
        return None
    from ssd.data.download.folder import DownloadFolder, holds_tables_only

    folder = Path(root)
    ours = not folder.is_dir() or DownloadFolder(folder, {}).has_marker or holds_tables_only(folder)
    return classes if ours else None


def _remove_unused(folder: Path) -> None:
    """Removes the folder of a run that failed before it started: only Hydra's empty log is in it."""
    log = folder / "train.log"
    with suppress(OSError):  # another process of the run may have removed it; the error to report is not this one
        if list(folder.iterdir()) == [log] and log.stat().st_size == 0:
            log.unlink()
            folder.rmdir()


def _with_multirun(argv: list[str], settings: list[str]) -> str:
    """The command line `argv`, which ends with `settings`, as a user types it for a sweep."""
    script = Path(argv[0])
    program = ["python", argv[0]] if script.suffix == ".py" else [script.name]
    if script.name == "__main__.py":
        program = ["python", "-m", "ssd"]
    return shlex.join([*program, *argv[1 : len(argv) - len(settings)], "-m", *settings])


def _exit_code(stop: SystemExit) -> str | int | None:
    """Lightning turns Ctrl-C into exit code 1, and rich does the same when the output pipe is closed."""
    if isinstance(stop.__context__, KeyboardInterrupt):
        return _INTERRUPTED
    return _BROKEN_PIPE if isinstance(stop.__context__, BrokenPipeError) else stop.code


def _is_broken_pipe(error: Exception) -> bool:
    """Whether nobody reads the output, as after `| head`."""
    return any(isinstance(cause, BrokenPipeError) for cause in causes(error))


def _exit(error: Exception, config_name: str, arguments: list[str], as_sweep: str) -> NoReturn:
    if _is_broken_pipe(error):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(_BROKEN_PIPE)
    code, line = explain(error, config_name=config_name, arguments=arguments, as_sweep=as_sweep)
    if line is None:
        traceback.print_exception(error)
    else:
        print(f"error: {one_line(line)}", file=sys.stderr)
    sys.exit(code)
