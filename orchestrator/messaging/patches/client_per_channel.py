"""Use one client for all commands of a channel to Redis; kombu makes one for each, which takes as long as the command.

Same commands, same connections: only the object that packs them is kept.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kombu.transport.redis import Channel

if TYPE_CHECKING:
    from collections.abc import Iterator

Untyped: Any = Channel


@contextmanager
def applied(_worker: Any) -> Iterator[None]:
    """Make channels keep their client in the block."""
    stock = Untyped._create_client  # noqa: SLF001 - kombu has no public name for it

    def create_client(channel: Any, asynchronous: bool = False) -> Any:  # noqa: FBT001, FBT002 - kombu's signature
        # The one of the blocking pop, which kombu keeps by itself.
        if asynchronous:
            return stock(channel, asynchronous=True)
        pool = channel.pool  # a reconnect replaces it, and a client is bound to the pool it was made with
        if getattr(channel, "_kept_pool", None) is not pool:
            channel._kept_pool, channel._kept_client = pool, stock(channel)  # noqa: SLF001
        return channel._kept_client  # noqa: SLF001

    Untyped._create_client = create_client  # noqa: SLF001 - as above
    try:
        yield
    finally:
        Untyped._create_client = stock  # noqa: SLF001 - as above
