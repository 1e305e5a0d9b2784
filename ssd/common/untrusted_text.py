"""JSON and YAML that may come from a stranger, with limits on depth and aliases, and without repeated keys."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from ssd.common.errors import DataError
from ssd.common.text import decode_text
from ssd.common.untrusted_files import read_untrusted

MAX_YAML_BYTES = 16 << 20
MAX_DEPTH = 100
_MAX_NODES = 2_000_000  # of a YAML document with its aliases written out
_Item = dict[str, Any]


def read_json(path: str | Path, *, each: Callable[[_Item], _Item] | None = None) -> Any:
    """The content of a JSON file; `each` maps every object as it is parsed.

    Raises:
        DataError: see `read_untrusted` and `parse_json`.
    """
    return parse_json(read_untrusted(path), name=str(path), each=each)


def parse_json(data: bytes | str, *, name: str, each: Callable[[_Item], _Item] | None = None) -> Any:
    """The content of JSON text.

    Raises:
        DataError: not JSON, nested too deeply, or an object with the same key twice; the message begins with `name`.
    """

    def to_object(pairs: list[tuple[str, Any]]) -> _Item:
        item = dict(pairs)
        if len(item) < len(pairs):
            keys = [key for key, _ in pairs]
            raise DataError(f"{name}: the key {max(keys, key=keys.count)!r} is twice in one object; remove one")
        return item if each is None else each(item)

    try:
        return json.loads(data, object_pairs_hook=to_object)
    except json.JSONDecodeError as error:
        raise DataError(f"{name}:{error.lineno}: not JSON: {error.msg}; download or export the file again") from error
    except RecursionError as error:
        raise DataError(f"{name}: not JSON that can be read: nested too deeply; export the file again") from error
    except ValueError as error:  # not UTF-8, or a number of thousands of digits
        raise DataError(f"{name}: not JSON: {error}; download or export the file again") from error


def read_yaml(path: str | Path, *, max_bytes: int = MAX_YAML_BYTES) -> Any:
    """The content of a YAML file.

    Raises:
        DataError: see `read_untrusted` and `parse_yaml`.
    """
    return parse_yaml(decode_text(read_untrusted(path, max_bytes=max_bytes), name=str(path)), name=str(path))


def parse_yaml(text: str, *, name: str) -> Any:
    """The content of a YAML document of plain values.

    Raises:
        DataError: not YAML, nested too deeply, a repeated key, or aliases that multiply; the message begins with
            `name`.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark is not None else 1
        raise DataError(f"{name}:{line}: not YAML: {error.problem}; correct the file") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DataError(f"{name}: not YAML: {str(error).splitlines()[0]}; correct the file") from error


class _Loader(yaml.SafeLoader):
    """Limits depth and the size that a document has when every alias is written out; refuses repeated keys."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0
        self._sizes: dict[int, int] = {}  # nodes below each node, by id
        self._nodes: list[yaml.Node] = []  # kept, so that no id is used again

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """As PyYAML, within the limits."""
        event = self.peek_event()
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _refused(f"nested more than {MAX_DEPTH} levels deep", event)
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(event, yaml.AliasEvent) and id(node) not in self._sizes:
            raise _refused("an alias within its own value", event)
        if node is not None and id(node) not in self._sizes:
            self._nodes.append(node)
            self._sizes[id(node)] = size = 1 + sum(self._sizes.get(id(child), 1) for child in _children(node))
            if size > _MAX_NODES:
                raise _refused("its aliases multiply", event)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As PyYAML, for keys that differ."""
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        if len(set(keys)) < len(keys):
            twice = max(keys, key=keys.count)
            raise _refused(f"the key {twice!r} is there twice", node)
        return super().construct_mapping(node, deep=deep)


def _refused(problem: str, where: yaml.Node | yaml.Event) -> yaml.MarkedYAMLError:
    mark: Any = where.start_mark
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []
