"""Property computed once for an object, without a lock.

Before Python 3.12 `functools.cached_property` holds a lock for all objects of a class. A process that is forked while
another thread holds it would wait for ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

Value = TypeVar("Value")


class lazy(Generic[Value]):  # noqa: N801 - used as a decorator, as `property` is
    """Compute the value on first access and keep it; two threads at once may both compute it."""

    def __init__(self, compute: Callable[[Any], Value]) -> None:
        self._compute = compute
        self._name = compute.__name__
        self.__doc__ = compute.__doc__

    def __get__(self, instance: Any, owner: object = None) -> Value:
        if instance is None:
            return self  # type: ignore[return-value] # as of any property of a class
        value = instance.__dict__[self._name] = self._compute(instance)
        return value
