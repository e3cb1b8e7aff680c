"""Let a channel that is closed still give back and acknowledge what it delivered, and keep no connection for it.

Kombu drops the connection pools of a closed channel, and makes new ones when something is left to give back or
acknowledge. When closing one channel fails, it takes the address away before it closes the next, and making a pool
raises an AttributeError that ends the worker. A disconnected pool needs no address to connect again.

What it connects then nobody closes: each lost connection to the broker would leave some open, in CLOSE-WAIT once the
server goes, until the process is collected.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kombu.transport import virtual
from kombu.transport.redis import Channel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Untyped: Any = Channel
UntypedBase: Any = virtual.Channel


@contextmanager
def applied(_worker: Any) -> Iterator[None]:
    """Make channels keep their pools in the block, and close what those connect once the channel is closed."""
    stock = Untyped._disconnect_pools, Untyped.close  # noqa: SLF001 - kombu has no public name for it

    def disconnect_pools(channel: Any) -> None:
        pools = channel._pool, channel._async_pool  # noqa: SLF001 - as above
        stock[0](channel)  # disconnects the pools, and drops them
        channel._pool, channel._async_pool = pools  # noqa: SLF001 - as above

    Untyped._disconnect_pools = disconnect_pools  # noqa: SLF001 - as above
    Untyped.close = _leaving_nothing(stock[1], closes=True)
    Untyped.basic_ack = _leaving_nothing(UntypedBase.basic_ack)
    Untyped.basic_reject = _leaving_nothing(UntypedBase.basic_reject)
    try:
        yield
    finally:
        Untyped._disconnect_pools, Untyped.close = stock  # noqa: SLF001 - as above
        # Deleted, not put back: they are the base class's, and a copy here would hide what another patch does there.
        del Untyped.basic_ack, Untyped.basic_reject


def _leaving_nothing(stock: Callable[..., None], *, closes: bool = False) -> Callable[..., None]:
    """Do it, and close the pools of a channel that is closed, or that fails as it `closes`: nobody closes it again."""

    def act(channel: Any, *args: Any, **options: Any) -> None:
        try:
            stock(channel, *args, **options)
        finally:
            if closes or channel.closed:
                for pool in (channel._pool, channel._async_pool):  # noqa: SLF001 - as above
                    if pool is not None:
                        pool.disconnect()

    return act
