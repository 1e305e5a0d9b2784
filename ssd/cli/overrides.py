"""The command line before Hydra reads it: quoting, the format of a dataset, and the quickstart."""

from __future__ import annotations

import os
import re
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from ssd.cli.config import CONF, is_group, options_of
from ssd.cli.keys import TEXT_KEYS
from ssd.common.errors import ConfigError

# no flag such as --config-dir
SETTING = re.compile(r"[+~]{0,2}(?P<key>\w+(?:[./@]\w+)*)(?:=(?P<value>.*))?", re.DOTALL)
_OPTIONAL_GROUPS = ("callbacks", "dataset", "download", "experiment", "logger")
_FUNCTION = re.compile(r"(choice|range|interval|glob|sort|shuffle)\(")
_FLAGS_WITH_VALUE = {
    *("--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn", "--package", "-p", "--cfg", "-c"),
    *("--info", "-i"),
}
_ACTIONS = {flag: flag.lstrip("-")[0] for flag in ("--multirun", "-m", "--run", "-r", "--cfg", "-c", "--info", "-i")}


def key_of(override: str) -> str:
    """`optimizer.lr` of `++optimizer.lr=1`."""
    return override.lstrip("+~").partition("=")[0]


def explicit_overrides(group: str) -> list[str]:
    """The settings of `group` that the command line names."""
    if not HydraConfig.initialized():
        return []
    keys = map(key_of, HydraConfig.get().overrides.task)
    return [key.removeprefix(f"{group}.") for key in keys if key.startswith(f"{group}.")]


def texts(overrides: list[str]) -> dict[str, str]:
    """What each override gives, as typed."""
    return {key_of(override): override.partition("=")[2].strip("'\"") for override in overrides if "=" in override}


def quoted(argument: str, *, multirun: bool = False) -> str:
    """`KEY=VALUE` with quotes where Hydra would read VALUE differently from how it is typed.

    Text settings, such as paths, stay as typed: `output=2025_11_25`, `dataset.root=/x/a,b`. With `multirun` a comma
    separates values, unless there is such a file.
    """
    key, separator, value = argument.partition("=")
    if argument.startswith(("-", "~")) or not separator:
        return argument
    if value.isdecimal() and is_group(key):  # no option, and nothing that Hydra takes
        return f"{key}='{value}'"
    is_text = key.lstrip("+") in TEXT_KEYS and not _is_meant_for_hydra(value, multirun=multirun)
    if not is_text and _parses(argument):
        return argument
    if _is_list(value) and not (is_text and Path(value).exists()):
        return f"{key}=[{','.join(map(_quote_item, value[1:-1].split(',')))}]"
    return f"{key}={_quote(value)}"


def _is_meant_for_hydra(value: str, *, multirun: bool) -> bool:
    """Quoted text, null, an interpolation, or several values of a sweep."""
    if value in ("", "null", "auto") or "${" in value or is_quoted(value):
        return True
    return multirun and ("," in value or _FUNCTION.match(value) is not None) and not Path(value).exists()


def is_quoted(text: str) -> bool:
    """Whether the text is in quotes of Hydra."""
    return len(text) > 1 and text[0] == text[-1] and text[0] in "'\""


def _is_list(text: str) -> bool:
    return text.startswith("[") and text.endswith("]")


def _quote_item(text: str) -> str:
    item = text.strip()
    return item if is_quoted(item) or item in ("", "null") else _quote(item)


def with_format(arguments: list[str], *, multirun: bool) -> list[str]:
    """Adds the format of `dataset.root` as the option of the group dataset, if none or `dataset=auto` is given.

    Raises:
        ConfigError: folders of different formats, or `dataset=auto` without a folder.
        DataError: see `detect_format`.
    """
    options = [argument for argument in arguments if key_of(argument) == "dataset"]
    roots = [argument.partition("=")[2] for argument in arguments if key_of(argument) == "dataset.root"]
    if options and options[-1] != "dataset=auto":
        return arguments
    if not roots:
        if options:
            raise ConfigError("dataset=auto: give the folder, dataset.root=DIR")
        return arguments
    from ssd.data.formats.detect import NAMES, detect_format

    formats = {root: detect_format(root) for root in _roots(roots[-1], multirun=multirun)}
    if len(set(formats.values())) != 1:
        listed = ", ".join(f"{root}: {NAMES[name]}" for root, name in formats.items())
        raise ConfigError(f"dataset.root={roots[-1]}: folders of one format are needed, but {listed}")
    name = next(iter(formats.values()))
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"dataset.root={roots[-1]}: {NAMES[name]} format (dataset={name})", flush=True)
    return [f"dataset={name}", *(argument for argument in arguments if argument not in options)]


def _roots(value: str, *, multirun: bool) -> list[str]:
    if Path(value).exists():
        return [value]
    if _is_list(value):
        value, multirun = value[1:-1], True
    parts = value.split(",") if multirun else [value]
    return [part.strip()[1:-1] if is_quoted(part.strip()) else part.strip() for part in parts]


def without_null(argument: str) -> str:
    """`~GROUP` for `GROUP=null`, which Hydra refuses.

    Raises:
        ConfigError: a list of options, null among the options of a sweep, or for a group without which nothing runs.
    """
    key, _, value = argument.partition("=")
    if not re.fullmatch(r"\w+", key) or not is_group(key):
        return argument
    if _is_list(value) and key not in _OPTIONAL_GROUPS:
        raise ConfigError(f"{argument}: give one option, {key}={value[1:-1].partition(',')[0]}")
    if "null" not in value.split(","):
        return argument
    if value != "null":
        raise ConfigError(f"{argument}: null cannot be one of several options; start that run by itself")
    if key not in _OPTIONAL_GROUPS:
        raise ConfigError(f"{argument}: nothing runs without it; choose from {', '.join(options_of(key))}")
    return "dataset=none" if key == "dataset" else f"~{key}"


def check_form(arguments: list[str]) -> None:
    """Checks the form of the arguments, without regard to which settings there are.

    Raises:
        ConfigError: an argument that is no flag and sets nothing, text that is empty, a setting that is added to none
            of the groups, or flags of which only one can be.
    """
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if "=" not in argument and not argument.startswith(("-", "~")) and before not in _FLAGS_WITH_VALUE:
            raise ConfigError(f"{argument}: give KEY=VALUE or GROUP=OPTION")
        key, value = key_of(argument), argument.partition("=")[2]
        if argument.startswith("-") or before in _FLAGS_WITH_VALUE:
            continue
        if not SETTING.fullmatch(argument):
            raise ConfigError(f"{argument}: {key!r} cannot be the name of a setting; give KEY=VALUE")
        if key in TEXT_KEYS and "=" in argument and value in ("", "''", '""'):
            raise ConfigError(f"{key} is empty; give a value, or null")
        if re.fullmatch(r"\+\w+", argument.partition("=")[0]) and not is_group(key):
            raise ConfigError(f"{argument}: + adds settings to groups, such as +trainer.NAME={value}")
    actions = {_ACTIONS.get(argument.partition("=")[0]): argument for argument in arguments}
    actions.pop(None, None)
    if len(actions) > 1:
        raise ConfigError(f"{' and '.join(actions.values())}: give only one of them")


def flags_last(arguments: list[str]) -> list[str]:
    """The settings, then the flags with their values: argparse refuses settings on both sides of a flag."""
    flags: list[str] = []
    settings: list[str] = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        is_value = before in _FLAGS_WITH_VALUE and not (before in ("--info", "-i") and "=" in argument)
        (flags if is_value or argument.startswith("-") else settings).append(argument)
    return [*settings, *flags]


def with_first_options(arguments: list[str]) -> list[str]:
    """Adds the first option of each group of which a sweep runs several.

    Before the sweep Hydra composes one configuration without what is swept, and refuses settings that the default
    option of the group lacks: `-m dataset=voc,coco dataset.root=DIR`. In the jobs the later value counts.
    """
    result: list[str] = []
    for argument in arguments:
        group, _, options = argument.partition("=")
        if re.fullmatch(r"\w+(,\w+)+", options) and (CONF / group).is_dir():
            result.append(f"{group}={options.partition(',')[0]}")  # just before, as the order is that of the jobs
        result.append(argument)
    return result


def with_quickstart(arguments: list[str]) -> list[str]:
    """Adds `experiment=quickstart` if neither a dataset nor an experiment is given."""
    chosen = {key_of(argument).partition("@")[0] for argument in arguments}
    return arguments if chosen & {"dataset", "experiment"} else [*arguments, "experiment=quickstart"]


def _parses(argument: str) -> bool:
    try:
        OverridesParser.create().parse_override(argument)
    except (HydraException, RecursionError):  # the latter for deep brackets
        return False
    return True


def _quote(text: str) -> str:
    """In single quotes; a backslash is doubled only before a quote, as Hydra reads it."""
    escaped = re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), text)
    return f"'{escaped}'"
