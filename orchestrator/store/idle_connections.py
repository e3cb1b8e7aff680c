"""Close idle connections that the server has closed: each keeps a file open until it is used again, maybe never.

A pool gives out the connection that was returned last, so that those below it wait until as many are needed at once.
"""

from __future__ import annotations

from selectors import EVENT_READ, DefaultSelector
from typing import Any

from redis.connection import ConnectionPool


def close_deserted(pool: Any) -> None:
    """Close those idle connections of one of redis-py's pools, if it is one; nobody can take one out meanwhile."""
    if not isinstance(pool, ConnectionPool):
        return
    with pool._lock:  # noqa: SLF001 - redis-py's own ways connect again what they find closed
        for connection in getattr(pool, "_available_connections", ()):  # a pool that blocks has none
            sock = getattr(connection, "_sock", None)
            if sock is not None and _is_readable(sock):
                connection.disconnect()


def _is_readable(sock: Any) -> bool:
    """Whether there is something to read where nothing was asked: the end."""
    with DefaultSelector() as selector:
        selector.register(sock, EVENT_READ)
        return bool(selector.select(0))
