"""Let a channel that is closed still give back and acknowledge what it delivered.

Kombu drops the connection pools of a closed channel, and makes new ones when something is left to give back or
acknowledge. When closing one channel fails, it takes the address away before it closes the next, and making a pool
raises an AttributeError that ends the worker. A disconnected pool needs no address to connect again.
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
    """Make channels keep their pools in the block."""
    stock = Untyped._disconnect_pools  # noqa: SLF001 - kombu has no public name for it

    def disconnect_pools(channel: Any) -> None:
        pools = channel._pool, channel._async_pool  # noqa: SLF001 - as above
        stock(channel)  # disconnects the pools, and drops them
        channel._pool, channel._async_pool = pools  # noqa: SLF001 - as above

    Untyped._disconnect_pools = disconnect_pools  # noqa: SLF001 - as above
    try:
        yield
    finally:
        Untyped._disconnect_pools = stock  # noqa: SLF001 - as above
