"""Checks the annotations of ssd at each call: those with array shapes by jaxtyping, all others by beartype alone.

jaxtyping checks everything that it is given as if it had shapes, at several times the cost of beartype.
"""

from __future__ import annotations

import functools
import inspect
from collections import Counter
from collections.abc import Callable
from types import CodeType
from typing import Any, get_args, get_type_hints

import jaxtyping
from jaxtyping import AbstractArray

# An int may stand for a float (PEP 484).
_CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(violation_type=TypeError, is_pep484_tower=True))"
_CHECKED_CLOSURES = 20  # of each nested function: every call of the outer one compiles the checks anew
_decorated: Counter[CodeType] = Counter()
_jaxtyped = jaxtyping.jaxtyped


def install() -> None:
    """Before anything of ssd is imported."""
    jaxtyping.jaxtyped = _checked  # type: ignore[assignment]  # the name by which the hook decorates
    jaxtyping.install_import_hook("ssd", _CHECKER)


def _checked(*, typechecker: Callable[..., Any]) -> Callable[[Any], Any]:
    def decorate(function: Any) -> Any:
        if inspect.isfunction(function) and "<locals>" in function.__qualname__:
            _decorated[function.__code__] += 1
            if _decorated[function.__code__] > _CHECKED_CLOSURES:
                return function
        if inspect.isfunction(function) and not _has_shapes(function):
            return _unless_disabled(function, typechecker(function))
        return _jaxtyped(function, typechecker=typechecker)

    return decorate


def _has_shapes(function: Callable[..., Any]) -> bool:
    """Also where an annotation is known to type checkers only: jaxtyping leaves it out."""
    try:
        return any(map(_names_an_array, get_type_hints(function, include_extras=True).values()))
    except Exception:
        return True


def _names_an_array(hint: Any) -> bool:
    if inspect.isclass(hint) and issubclass(hint, AbstractArray):
        return True
    return any(_names_an_array(part) for part in _parts(hint))


def _parts(hint: Any) -> list[Any]:
    return [part for arg in get_args(hint) for part in (arg if isinstance(arg, list) else [arg])]


def _unless_disabled(function: Callable[..., Any], checked: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return (function if jaxtyping.config.jaxtyping_disable else checked)(*args, **kwargs)

    return call
