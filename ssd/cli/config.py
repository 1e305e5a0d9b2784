"""Makes the schemas known to Hydra, and checks what a schema cannot: ranges, and what is missing.

Nothing heavy is imported here: `--help` answers in about a second.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from ssd.cli.schemas import COMMANDS, SCHEMAS
from ssd.common.errors import ConfigError

_PACKAGE = Path(__file__).resolve().parents[1]
CONF = next(folder for folder in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if folder.is_dir())  # wheel, checkout


_folders: dict[str, str] = {}


def register() -> None:
    """Makes the schemas and the `free_folder` resolver known to Hydra."""
    store = ConfigStore.instance()
    for name, schema in {**SCHEMAS, **COMMANDS}.items():
        group, _, option = f"schema/{name}".rpartition("/")
        store.store(group=group, name=option, node=schema)
    OmegaConf.register_new_resolver("free_folder", free_folder, replace=True)


def free_folder(path: str) -> str:
    """Makes the folder `path`, or path_2, path_3 ... where it exists: runs of the same second do not meet."""
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


def check_ranges(config: DictConfig) -> None:
    """Checks the numbers against the bounds of the schemas, and that nothing mandatory is missing.

    Raises:
        ConfigError: names the key, the value and the bounds.
    """
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise ConfigError(f"{missing[0]} is missing: give {missing[0]}=...")
    for node, prefix in _typed_nodes(config, ""):
        for item in fields(OmegaConf.get_type(node)):  # type: ignore[arg-type]
            value = node.get(item.name)
            if value is None or "bounds" not in item.metadata:
                continue
            low, high, open_low = item.metadata["bounds"]
            if not (low < value <= high if open_low else low <= value <= high):
                bracket = "over" if open_low else "from"
                upper = "" if high == float("inf") else f" up to {high:g}"
                raise ConfigError(f"{prefix}{item.name}={value}: must be {bracket} {low:g}{upper}")


def _typed_nodes(node: DictConfig, prefix: str) -> Iterator[tuple[DictConfig, str]]:
    if hasattr(OmegaConf.get_type(node), "__dataclass_fields__"):
        yield node, prefix
    for key in node:
        child = node._get_node(key)
        if isinstance(child, DictConfig):
            yield from _typed_nodes(child, f"{prefix}{key!s}.")
