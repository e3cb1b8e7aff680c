"""A property that is computed once for an object, without a lock.

`functools.cached_property` holds one for all objects of a class before Python 3.12, which a process that is forked
meanwhile would wait for in vain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

Value = TypeVar("Value")


class lazy(Generic[Value]):  # noqa: N801 - used as a decorator, as `property` is
    """Compute at the first look and keep the value; two threads at once may both compute it."""

    def __init__(self, compute: Callable[[Any], Value]) -> None:
        self._compute = compute
        self._name = compute.__name__
        self.__doc__ = compute.__doc__

    def __get__(self, instance: Any, owner: object = None) -> Value:
        if instance is None:
            return self  # type: ignore[return-value] # as of any property of a class
        value = instance.__dict__[self._name] = self._compute(instance)
        return value
