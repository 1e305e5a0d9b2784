"""Checks a composed configuration before anything starts.

A setting's name and type come from the signature of the constructor that its node names (`_target_`), its value from
conf/, its bounds and choices from `ssd.cli.keys`, which also types the settings that no constructor has.
"""

from __future__ import annotations

import difflib
import inspect
import pydoc
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Unpack, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, ListConfig, OmegaConf

from ssd.cli.keys import KEYS, Key
from ssd.common.errors import ConfigError

_PACKAGE = Path(__file__).resolve().parents[1]
CONF = next(folder for folder in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if folder.is_dir())  # wheel, checkout
_HYDRA_KEYS = ("_target_", "_partial_", "_convert_", "_recursive_", "_args_")


def check(config: DictConfig, *, command: str = "train", texts: dict[str, str] | None = None) -> None:
    """Checks names, types and bounds, and that nothing mandatory is missing; gives numbers and text their types.

    Args:
        config: the composed configuration of `command`.
        texts: what the command line gives for a key, as typed: `output=2025_11_25` stays text.

    Raises:
        ConfigError: names the key, the value, the rule, and the nearest name.
    """
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise ConfigError(f"{missing[0]} is missing: give {missing[0]}=...")
    for key in sorted(_leaves(config, ""), key=lambda key: "." in key):
        _check_value(config, key, _rule(key, command), (texts or {}).get(key))


def options_of(group: str) -> list[str]:
    """The options of a group of conf/; none for what is no group."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml")) if is_group(group) else []


def is_group(key: str) -> bool:
    """Whether conf/ has a group of this name."""
    return ".." not in key and Path(CONF, key).is_dir()


def takes(config: DictConfig, key: str, value: object, *, command: str) -> bool:
    """Whether `value` has the type of the setting `key`; where any type is allowed, that of the configured value."""
    rule = _rule(key, command) or Key()
    if rule.type is None and not isinstance(OmegaConf.select(config, key.rpartition(".")[0]), DictConfig):
        return False
    try:
        expected = rule.type if rule.type is not None else _parameter_type(config, key)
        if expected is Any:
            return isinstance(OmegaConf.select(config, key), ListConfig) == isinstance(value, list)
        _convert(key, value, expected, None)
    except ConfigError:
        return False
    return True


def _rule(key: str, command: str) -> Key | None:
    return KEYS.get(f"{command}:{key}", KEYS.get(key))


def nearest(name: str, known: list[str]) -> str:
    """`; did you mean X?` if another known name is close."""
    close = difflib.get_close_matches(name, [other for other in known if other != name], n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def _leaves(node: DictConfig, prefix: str) -> Iterator[str]:
    """Dotted keys of the leaf values; a node with its own settings is not a leaf."""
    has_parameters = "_target_" in node
    for name in node:
        key = f"{prefix}{name!s}"
        child = node._get_node(str(name))
        if isinstance(child, DictConfig) and (not has_parameters or "_target_" in child):
            yield from _leaves(child, f"{key}.")
        elif isinstance(child, ListConfig) and any(isinstance(item, DictConfig) for item in child):
            for number, item in enumerate(child):
                yield from _leaves(item, f"{key}.{number}.") if isinstance(item, DictConfig) else ()
        elif name not in _HYDRA_KEYS:
            yield key


def _check_value(config: DictConfig, key: str, rule: Key | None, text: str | None) -> None:
    node = OmegaConf.select(config, key)
    value = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    if value is None and rule is None:  # an optional part that is null
        return
    prefix, _, name = key.rpartition(".")
    refers = OmegaConf.is_interpolation(OmegaConf.select(config, prefix) if prefix else config, name)
    if value == "auto" and (refers or (rule and rule.auto)):
        return
    rule = rule or Key()
    expected = rule.type if rule.type is not None else _parameter_type(config, key)
    typed = _convert(key, value, expected, text)
    for number in typed if isinstance(typed, list) else [typed]:
        if isinstance(number, int | float) and not isinstance(number, bool):
            _check_bounds(key, number, rule)
    if typed != value or (type(typed) is not type(value) and isinstance(value, str | int | float)):
        OmegaConf.update(config, key, typed)


def _parameter_type(config: DictConfig, key: str) -> Any:
    """The annotation of the constructor's parameter; Any if it has none or takes any keyword."""
    prefix, _, name = key.rpartition(".")
    node = OmegaConf.select(config, prefix) if prefix else config
    if "_target_" not in node and key in KEYS:
        raise ConfigError(f"{key}: no option of the group {prefix} is chosen: give {prefix}=...")
    if "_target_" not in node:
        known = [known for known in KEYS if known.rpartition(".")[0] == prefix]
        known += [f"{prefix}.{sibling!s}".strip(".") for sibling in node if sibling != name]
        raise ConfigError(f"{key}: no such setting{nearest(key, known)}")
    parameters = _parameters(node._target_)
    if name not in parameters and None not in parameters:
        known = [f"{prefix}.{known}" for known in parameters]
        raise ConfigError(f"{key}: no such setting of {node._target_}{nearest(key, known)}")
    return parameters.get(name, Any)


@cache
def _parameters(target: str) -> dict[str | None, Any]:
    """Annotations of the parameters of what `target` names; with the key None if it takes any keyword.

    Raises:
        ConfigError: there is no such object.
    """
    try:
        function = pydoc.locate(target)
    except pydoc.ErrorDuringImport as error:
        raise ConfigError(f"_target_={target}: cannot be imported: {error.value}") from error
    if not callable(function):
        raise ConfigError(f"_target_={target}: no such class or function")
    call = function.__init__ if inspect.isclass(function) else function
    try:
        hints = get_type_hints(call)
    except (NameError, TypeError, AttributeError):  # imported for type checkers alone, or a C function
        hints = {}
    found: dict[str | None, Any] = {}
    for parameter in inspect.signature(function).parameters.values():
        hint = hints.get(parameter.name, Any)
        if parameter.kind is not parameter.VAR_KEYWORD:
            found[parameter.name] = hint
        elif get_origin(hint) is Unpack:  # the keywords of a TypedDict
            found.update(get_type_hints(get_args(hint)[0]))
        else:
            found[None] = hint
    return found


def _convert(key: str, value: Any, expected: Any, text: str | None) -> Any:
    """`value` as the expected type; a number or a flag where text is expected becomes the text as typed."""
    from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError  # not for --help

    try:
        adapter = TypeAdapter(expected, config=ConfigDict(arbitrary_types_allowed=True, coerce_numbers_to_str=True))
    except PydanticUserError:
        return value
    as_typed = None if text is None else _as_typed(value, text)
    try:
        typed = adapter.validate_python(value)
        return _plain(typed if as_typed is None or typed == value else adapter.validate_python(as_typed))
    except ValidationError as error:
        if as_typed is not None and isinstance(value, bool | list):
            with suppress(ValidationError):
                return _plain(adapter.validate_python(as_typed))
        as_list = f": {key}=[{value}]" if isinstance(value, str) else ""
        raise ConfigError(f"{key}={value!s}: must be {_reason(error.errors(), as_list)}") from error


def _reason(errors: list[Any], as_list: str) -> str:
    settable = [item for item in errors if item["type"] != "is_instance_of"] or errors  # a Tensor is not typed by hand
    if any(item["type"] == "sequence_str" for item in settable):
        return f"a list in brackets{as_list}"
    return "; or ".join(dict.fromkeys(str(item["msg"]).removeprefix("Input should be ") for item in settable))


def _as_typed(value: Any, text: str) -> Any:
    if isinstance(value, list) and text.startswith("[") and text.endswith("]"):
        return [part.strip().strip("'\"") for part in text[1:-1].split(",")]
    return text


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _check_bounds(key: str, value: float, rule: Key) -> None:
    if not (rule.low < value <= rule.high if rule.above else rule.low <= value <= rule.high):
        lower = f"{'above' if rule.above else 'at least'} {rule.low:g}"
        upper = "" if rule.high == float("inf") else f", at most {rule.high:g}"
        raise ConfigError(f"{key}={value}: must be {lower}{upper}")
