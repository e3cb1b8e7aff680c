"""Take it as a lost connection when Redis refuses to write for another reason than memory.

It cannot save (MISCONF), has too few replicas (NOREPLICAS), or has become one (READONLY): redis-py calls that an answer
to the command, and a stock worker ends at its next fetch or acknowledgement. This way it connects again, asks Sentinel
again who is the master, and goes on when writes are taken.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import redis
from redis import _parsers

if TYPE_CHECKING:
    from collections.abc import Iterator

# Any: redis-py keeps its parsers to itself.
Parser: Any = _parsers.BaseParser
CODES = ("MISCONF", "NOREPLICAS", "READONLY")


class WriteRefusedError(redis.ReadOnlyError, redis.ConnectionError):
    """Redis refuses to write, as a replica does; what waits for a connection waits for it."""


@contextmanager
def applied(_worker: Any) -> Iterator[None]:
    """Name the refusals in this process."""
    stock = Parser.EXCEPTION_CLASSES
    Parser.EXCEPTION_CLASSES = stock | dict.fromkeys(CODES, WriteRefusedError)
    try:
        yield
    finally:
        Parser.EXCEPTION_CLASSES = stock
