"""Checks a composed configuration before anything starts.

A setting's name and type come from the signature of the constructor that its node names (`_target_`), its value from
conf/, its bounds and choices from KEYS below, which also types the settings that no constructor has.
"""

from __future__ import annotations

import difflib
import inspect
import pydoc
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_type_hints

from omegaconf import DictConfig, ListConfig, OmegaConf

from ssd.common.errors import ConfigError

_PACKAGE = Path(__file__).resolve().parents[1]
CONF = next(folder for folder in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if folder.is_dir())  # wheel, checkout
_HYDRA_KEYS = ("_target_", "_partial_", "_convert_", "_recursive_", "_args_")


@dataclass(frozen=True, slots=True)
class Key:
    """What a value must be.

    Args:
        type: of a setting that no constructor has; None: that of the constructor's parameter.
        low, high: bounds of a number; `low` itself is allowed unless `above`.
        auto: "auto" is allowed as well.
    """

    type: Any = None
    low: float = float("-inf")
    high: float = float("inf")
    above: bool = False
    auto: bool = False


def _positive(type: Any = None, high: float = float("inf")) -> Key:
    return Key(type, low=0, high=high, above=True)


_SHARE = Key(low=0, high=1)
_COUNT = Key(low=1)
_NAMES = str | list[str] | None

KEYS: dict[str, Key] = {  # COMMAND:KEY where a command differs
    "image_size": Key(int, low=32, high=4096, auto=True),
    "import_weights:image_size": Key(int | None, low=32, high=4096),
    "batch_size": Key(int, low=1),
    "epochs": Key(int, low=1),
    "num_workers": Key(int | None, low=0, high=256),
    "seed": Key(int, low=0, high=2**32 - 1),
    "resume": Key(str | None),
    "init_from": Key(str | None),
    "objective": Key(str),
    "save_every_minutes": _positive(float | None),
    "save_every_steps": Key(int | None, low=1),
    "module.freeze": Key(Literal["nothing", "base", "all_but_heads"]),
    "module.base_lr_multiplier": Key(float, low=0),
    "module.head_lr_multiplier": Key(float, low=0),
    "backbone.weights": Key(str | None),
    "backbone.width_multiplier": Key(low=0.05, high=4),
    "priors.file": Key(str | None),
    "priors.scales": Key(auto=True),
    "priors.aspect_ratios": Key(auto=True),
    "priors.steps_px": Key(auto=True),
    "priors.clip": Key(auto=True),
    "dataset.cache": Key(bool),
    "dataset.balance": _positive(float | None, high=1),
    "dataset.seed": Key(low=0),
    "dataset.train": _COUNT,
    "dataset.val": Key(low=0),
    "dataset.test": Key(low=0),
    "dataset.side_px": Key(low=32, high=4096),
    "download.max_images": _COUNT,
    "download.max_images_per_class": _COUNT,
    "download.seed": Key(low=0),
    "download.network.workers": Key(low=1, high=256),
    "download.network.tries": Key(low=1, high=100),
    "download.network.connect_timeout_s": _positive(),
    "download.network.read_timeout_s": _positive(),
    "optimizer.lr": _positive(),
    "optimizer.weight_decay": Key(low=0),
    "optimizer.momentum": _SHARE,
    "scheduler.gamma": _SHARE,
    "scheduler.final": _SHARE,
    "scheduler.warmup": Key(low=0, high=0.99),
    "loss.match_threshold": _positive(high=1),
    "loss.negative_ratio": Key(low=0),
    "loss.localization_weight": Key(low=0),
    "postprocess.score_threshold": _SHARE,
    "postprocess.nms_threshold": _SHARE,
    "postprocess.topk_candidates": _COUNT,
    "postprocess.max_detections": _COUNT,
    "callbacks.ema.decay": _SHARE,
    "callbacks.visualizer.images": Key(low=0),
    "callbacks.visualizer.worst": Key(low=0),
    "callbacks.visualizer.side_px": Key(low=64, high=2048),
    "callbacks.visualizer.raw_images": Key(low=0),
    "trainer.precision": Key(auto=True),
    "trainer.num_nodes": _COUNT,
    "trainer.max_epochs": Key(low=-1),
    "trainer.max_steps": Key(low=-1),
    "trainer.gradient_clip_val": Key(low=0),
    "trainer.accumulate_grad_batches": _COUNT,
    "trainer.check_val_every_n_epoch": _COUNT,
    "trainer.num_sanity_val_steps": Key(low=-1),
    "trainer.log_every_n_steps": _COUNT,
    # of commands
    "checkpoint": Key(str),
    "evaluate:checkpoint": Key(str | list[str]),
    "source": Key(str),
    "output": Key(str),
    "benchmark:output": Key(str | None),
    "split": Key(Literal["train", "val", "test"]),
    "device": Key(str),
    "precision": Key(Literal["float32", "bfloat16", "float16"]),
    "save": Key(_NAMES),
    "classes": Key(_NAMES),
    "draw_threshold": Key(float, low=0, high=1),
    "max_frames": Key(int | None, low=1),
    "track": Key(bool),
    "show": Key(bool),
    "resamples": Key(int, low=10, high=1_000_000),
    "worst": Key(int, low=0, high=1000),
    "images": Key(str | None),
    "quantize": Key(Literal["int8"] | None),
    "calibration_images": Key(int, low=1),
    "max_map_drop": Key(float, low=0, high=1),
    "throughput_batch": Key(int, low=1),
    "rounds": Key(int, low=1),
    "fit_priors": Key(bool | str | None),
    "stats_only": Key(bool),
    "class_names": Key(list[str] | None),
    "labels": Key(str | None),
    "channel_order": Key(Literal["rgb", "bgr"]),
}


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
        rule = KEYS.get(f"{command}:{key}", KEYS.get(key))
        _check_value(config, key, rule, (texts or {}).get(key))


def nearest(name: str, known: list[str]) -> str:
    """`; did you mean X?` where a known name is close."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def _leaves(node: DictConfig, prefix: str) -> Iterator[str]:
    """Keys of the values: what is no node of settings of its own."""
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
    if value is None and rule is None:  # a part that is left out
        return
    prefix, _, name = key.rpartition(".")
    refers = OmegaConf.is_interpolation(OmegaConf.select(config, prefix) if prefix else config, name)
    if value == "auto" and (refers or (rule and rule.auto)):
        return
    rule = rule or Key()
    expected = rule.type if rule.type is not None else _parameter_type(config, key)
    typed = _convert(key, value, expected, text)
    if isinstance(typed, int | float) and not isinstance(typed, bool):
        _check_bounds(key, typed, rule)
    if typed != value or (type(typed) is not type(value) and isinstance(value, str | int | float)):
        OmegaConf.update(config, key, typed)


def _parameter_type(config: DictConfig, key: str) -> Any:
    """The annotation of the constructor's parameter; Any where it has none or takes any keyword."""
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
    """Annotations of the parameters of what `target` names; with the key None where it takes any keyword.

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
    parameters = inspect.signature(function).parameters.values()
    return {
        None if parameter.kind is parameter.VAR_KEYWORD else parameter.name: hints.get(parameter.name, Any)
        for parameter in parameters
    }


def _convert(key: str, value: Any, expected: Any, text: str | None) -> Any:
    """`value` as the expected type; a number or a flag where text is expected becomes the text as typed."""
    from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

    try:
        adapter = TypeAdapter(expected, config=ConfigDict(arbitrary_types_allowed=True, coerce_numbers_to_str=True))
    except PydanticUserError:
        return value
    try:
        typed = adapter.validate_python(value)
        if text is None or typed == value:
            return _plain(typed)
        return _plain(adapter.validate_python(_as_typed(value, text)))
    except ValidationError as error:
        if text is not None and isinstance(value, bool | list):
            try:
                return _plain(adapter.validate_python(_as_typed(value, text)))
            except ValidationError:
                pass
        raise ConfigError(f"{key}={value!s}: must be {_reason(error.errors())}") from error


def _reason(errors: list[Any]) -> str:
    settable = [item for item in errors if item["type"] != "is_instance_of"] or errors  # a Tensor is not typed by hand
    if any(item["type"] == "sequence_str" for item in settable):
        return "a list in brackets"
    return "; or ".join(dict.fromkeys(str(item["msg"]).removeprefix("Input should be ") for item in settable))


def _as_typed(value: Any, text: str) -> Any:
    if isinstance(value, list) and text.startswith("[") and text.endswith("]"):
        return [part.strip().strip("'\"") for part in text[1:-1].split(",")]
    return text


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _check_bounds(key: str, value: float, rule: Key) -> None:
    if not (rule.low < value <= rule.high if rule.above else rule.low <= value <= rule.high):
        lower = f"{'over' if rule.above else 'from'} {rule.low:g}"
        upper = "" if rule.high == float("inf") else f" up to {rule.high:g}"
        raise ConfigError(f"{key}={value}: must be {lower}{upper}")
