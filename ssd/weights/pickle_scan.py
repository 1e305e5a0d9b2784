"""Checks a pickle of `torch.save` before it is read: what it names, and what reading it would cost.

PyTorch's own reader runs nothing that a file names but a list of harmless functions. Some of them still take any
amount of memory (`bytearray(2**40)`), and nested tuples that share their parts take any time to hash.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
from dataclasses import dataclass
from typing import IO, Any, cast

_MAX_OPERATIONS = 1_000_000  # a checkpoint of VGG16 with its optimizer has 10,000
_MAX_NODES = 100_000  # of a tuple with shared parts written out
_CALLED = re.compile(
    r"collections (OrderedDict|Counter)|torch (Size|device)|torch\.serialization _get_layout|_codecs encode"
    r"|torch\._utils _rebuild_(tensor|tensor_v2|tensor_v3|parameter|parameter_with_state|sparse_tensor|qtensor)"
)
_NAMED = re.compile(  # in tensors: element types; they are never called
    r"torch(\.cuda)? (\w+Storage|bool|b?complex\d+|b?float\d\w*|u?int\d\w*|bits\d\w*|qu?int\d\w*|per_\w+)"
    r"|torch\.storage (Untyped|Typed)Storage"
)
_ENCODING = "latin1"  # in which protocol 2 has bytes
_TO_MARK = {pickletools.markobject, pickletools.stackslice}


@dataclass(frozen=True, slots=True)
class _Item:
    """On the stack: a value with the number of its nodes; `value` is known for texts, names and short tuples."""

    nodes: int = 1
    value: Any = None


class _Mark:
    pass


def scan(file: io.BufferedIOBase) -> None:
    """Reads one pickle, up to its end, without building anything.

    Raises:
        pickle.UnpicklingError: it names what a file of weights has no use for; the message has `GLOBAL module.name`.
        ValueError: not a pickle, or too large.
    """
    stack: list[_Item | _Mark] = []
    memo: dict[int, _Item] = {}
    for number, (operation, argument, _) in enumerate(pickletools.genops(cast(IO[bytes], file))):
        if number > _MAX_OPERATIONS:
            raise ValueError(f"its pickle has more than {_MAX_OPERATIONS} operations")
        try:
            _follow(operation, argument, stack, memo)
        except (IndexError, AttributeError, KeyError) as error:
            raise ValueError(f"its pickle has {operation.name} without an operand") from error


def _follow(operation: Any, argument: Any, stack: list[Any], memo: dict[int, _Item]) -> None:
    """Does to the stack what an operation does."""
    name = operation.name
    if name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
        memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1]
    elif name in ("GET", "BINGET", "LONG_BINGET"):
        stack.append(memo[argument])
    elif name == "MARK":
        stack.append(_Mark())
    elif name == "DUP":
        stack.append(stack[-1])
    else:
        taken = _take(operation, stack)
        if operation.stack_after:
            stack += [_result(name, argument, taken)] * len(operation.stack_after)


def _take(operation: Any, stack: list[Any]) -> list[Any]:
    """Removes the operands from the stack."""
    taken: list[Any] = []
    before = list(operation.stack_before)
    if _TO_MARK & set(before):
        while not isinstance(stack[-1], _Mark):
            taken.append(stack.pop())
        stack.pop()
        before = [kind for kind in before if kind not in _TO_MARK]
    taken += [stack.pop() for _ in before]
    return taken[::-1]


def _result(name: str, argument: Any, taken: list[Any]) -> _Item:
    if name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
        nodes = 1 + sum(item.nodes for item in taken)
        if nodes > _MAX_NODES:
            raise ValueError(f"it has nested tuples of more than {_MAX_NODES} items")
        return _Item(nodes, tuple(item.value for item in taken) if len(taken) <= 3 else None)
    if name in ("GLOBAL", "INST", "STACK_GLOBAL"):
        named = argument if name != "STACK_GLOBAL" else f"{taken[0].value} {taken[1].value}"
        if name == "INST" or not (_CALLED.fullmatch(named) or _NAMED.fullmatch(named)):
            raise _refused(named)
        return _Item(value=named)
    if name in ("REDUCE", "NEWOBJ", "NEWOBJ_EX", "OBJ"):
        called, arguments = str(taken[0].value), taken[-1].value
        if not _CALLED.fullmatch(called) or name in ("NEWOBJ_EX", "OBJ"):
            raise _refused(called)
        if called == "_codecs encode" and (arguments or ())[1:] != (_ENCODING,):
            raise _refused(called)
    if name in ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"):
        return taken[0]  # a list or a dict: it has no hash, so its nodes need no count
    return _Item(value=argument if isinstance(argument, str) else None)


def _refused(named: str) -> pickle.UnpicklingError:
    return pickle.UnpicklingError(f"GLOBAL {'.'.join(named.split(' ', 1))}")
