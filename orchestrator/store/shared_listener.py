"""The ends of runs for event loops: one thread hears them for every wait of a process, on however many loops.

It subscribes to the channels of all runs that are waited for, and reads together where they stand: when a message
comes, and on a timer. Its connections are the ones of blocking code, and a loop that ends leaves nothing behind in it.
"""

from __future__ import annotations

import asyncio
import logging
import selectors
import socket
import threading
import time
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from orchestrator.errors import StoreUnavailable, UnknownRun
from orchestrator.store.standing import RUN_ID, Standing, unknown_run

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

logger = logging.getLogger(__name__)
READ_AGAIN_S = 1.0
READ_AT_ONCE = 500
CONNECT_AGAIN_S = 0.25
FIRST_READ_S = 1.0
"""What a wait with a shorter limit gets all the same, so that one of 0 s tells whether the run has ended."""
IDLE_S = 5.0
"""How long the thread outlives the last wait, so that one wait after the other does not connect anew."""


class Waiter:
    """One coroutine that waits for the end of one run; made on its event loop.

    Attributes:
        run_id: The run.
        patience: Seconds that it bears with a Redis that does not answer.
        since: When it began to wait, on the monotonic clock.
        seen: Where the run stood when it was read last; None before it was.
        outage: Why it could not be read the last time; None if it could.
    """

    def __init__(self, run_id: str, patience: float) -> None:
        self.run_id = run_id
        self.patience = patience
        self.since = time.monotonic()
        self.seen: Standing | None = None
        self.outage: StoreUnavailable | None = None
        self._loop = asyncio.get_running_loop()
        self._first: asyncio.Future[None] = self._loop.create_future()
        self._answer: asyncio.Future[Standing | Exception] = self._loop.create_future()

    async def end(self, seconds: float | None) -> Standing:
        """Wait for the end of the run.

        Args:
            seconds: The limit; None for none.

        Raises:
            TimeoutError: The run has not ended by then.
            UnknownRun: The run's record is gone.
            StoreUnavailable: Redis did not answer by then, or for as long as the waiter is patient.
        """
        limit = None if seconds is None else max(seconds, FIRST_READ_S)
        await asyncio.wait([self._first], timeout=limit)
        left = None if seconds is None else max(self.since + seconds - time.monotonic(), 0)
        await asyncio.wait([self._answer], timeout=left)
        if not self._answer.done():
            if self.seen is None or self.outage is not None:
                raise self.outage or StoreUnavailable(f"run {self.run_id}: Redis did not answer within {limit:g} s")
            raise TimeoutError(f"run {self.run_id} has not ended within {seconds} s: it is {self.seen.status}")
        answer = self._answer.result()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def take(self, answer: Standing | Exception) -> None:
        """Note where the run stands, or why that will not be known; called by the listener's thread."""
        is_first = self.seen is None
        if isinstance(answer, Standing):
            self.seen, self.outage = answer, None
        if not isinstance(answer, Standing) or answer.status.is_final:
            self._call(self._resolve, answer)
        elif is_first:
            self._call(self._resolve, None)

    def note_outage(self, error: StoreUnavailable, since: float) -> None:
        """Note that Redis has not answered since an instant; called by the listener's thread."""
        self.outage = error
        gave_up = time.monotonic() - max(since, self.since) >= self.patience
        self._call(self._resolve, error if gave_up else None)

    def is_lost(self) -> bool:
        """Whether its event loop was closed, so that nobody waits here any more."""
        return self._loop.is_closed()

    def _resolve(self, answer: Standing | Exception | None) -> None:
        if not self._first.done():
            self._first.set_result(None)
        if answer is not None and not self._answer.done():
            self._answer.set_result(answer)

    def _call(self, function: Callable[..., None], *given: Any) -> None:
        with suppress(RuntimeError):  # its loop was closed just now
            self._loop.call_soon_threadsafe(function, *given)


class SharedListener:
    """The waits of one process that hold no thread, over one client."""

    def __init__(
        self,
        client: Any,
        channel_of: Callable[[str], str],
        read: Callable[[Sequence[str]], Mapping[str, Standing | UnknownRun]],
        guarded: Callable[[], AbstractContextManager[None]],
    ) -> None:
        """Take what the thread works with.

        Args:
            client: A Redis client for blocking code.
            channel_of: The channel on which the end of a run is published.
            read: Reads where runs stand.
            guarded: Gives the errors of the client in a block their meaning.
        """
        self._client = client
        self._channel_of = channel_of
        self._read = read
        self._guarded = guarded
        self.begin()

    def begin(self) -> None:
        """Have no waits and no thread, as a process that was just forked."""
        self._lock = threading.Lock()
        self._waiters: set[Waiter] = set()
        self._thread: threading.Thread | None = None
        self._wake: socket.socket | None = None

    @contextmanager
    def waiting(self, run_id: str, *, patience: float) -> Iterator[Waiter]:
        """Listen for the end of a run during the block, which stands in a coroutine; see `Waiter`."""
        if not RUN_ID.fullmatch(str(run_id)):  # anything else could name another key
            raise unknown_run(run_id)
        waiter = Waiter(run_id, patience)
        try:
            with self._lock:
                self._waiters.add(waiter)
                self._nudge()
            yield waiter
        finally:
            with self._lock:
                self._waiters.discard(waiter)
                if self._thread is not None:
                    self._nudge()

    def _nudge(self) -> None:
        """Let the thread look at the waiters; starts it where there is none. Holds the lock."""
        if self._thread is None:
            ear, self._wake = socket.socketpair()
            for end in (ear, self._wake):
                end.settimeout(0)
            thread = threading.Thread(target=self._work, args=(ear, self._wake), name="orchestrator-waits", daemon=True)
            thread.start()
            self._thread = thread
        elif self._wake is not None:
            with suppress(BlockingIOError):  # it has not looked since many nudges
                self._wake.send(b"\0")

    def _work(self, ear: socket.socket, wake: socket.socket) -> None:
        """Listen until nobody has waited for a while."""
        subscription = _Subscription(self._client.pubsub(), ear)
        down_since: float | None = None
        idle_since = time.monotonic()
        with ear, wake:
            while True:
                waiters = self._present()
                if waiters:
                    idle_since = time.monotonic()
                elif self._may_leave(idle_since):
                    break
                try:
                    with self._guarded():
                        self._look(subscription, waiters)
                    down_since = None
                except StoreUnavailable as error:
                    down_since = down_since or time.monotonic()
                    subscription.close()
                    for waiter in waiters:
                        waiter.note_outage(error, down_since)
                    time.sleep(CONNECT_AGAIN_S)
                except Exception as error:  # noqa: BLE001 - every coroutine that waits raises it
                    subscription.close()
                    for waiter in waiters:
                        waiter.take(error)
                    time.sleep(CONNECT_AGAIN_S)
        subscription.close()

    def _present(self) -> list[Waiter]:
        with self._lock:
            self._waiters.difference_update([waiter for waiter in self._waiters if waiter.is_lost()])
            return list(self._waiters)

    def _may_leave(self, idle_since: float) -> bool:
        with self._lock:
            if self._waiters or time.monotonic() - idle_since < IDLE_S:
                return False
            self._thread = self._wake = None
            return True

    def _look(self, subscription: _Subscription, waiters: Sequence[Waiter]) -> None:
        """Give the waiters what is new of their runs, then wait for more."""
        by_channel: dict[str, list[Waiter]] = {}
        for waiter in waiters:
            by_channel.setdefault(self._channel_of(waiter.run_id), []).append(waiter)
        unread = {channel for channel, those in by_channel.items() if any(waiter.seen is None for waiter in those)}
        subscription.follow(by_channel, unread)
        due = subscription.due()
        for first in range(0, len(due), READ_AT_ONCE):
            channels = due[first : first + READ_AT_ONCE]
            found = self._read([by_channel[channel][0].run_id for channel in channels])
            for channel in channels:
                for waiter in by_channel[channel]:
                    waiter.take(found[waiter.run_id])
        subscription.sleep()


class _Subscription:
    """A subscribed connection, and when what its channels are about is to be read next."""

    def __init__(self, pubsub: Any, ear: socket.socket) -> None:
        self._pubsub = pubsub
        self._ear = ear  # what ends a sleep at once
        self._next_read: dict[str, float] = {}

    def close(self) -> None:
        """Leave every channel; the next `follow` connects anew."""
        self._next_read.clear()
        self._pubsub.reset()

    def follow(self, channels: Iterable[str], unread: Collection[str]) -> None:
        """Be subscribed to these channels and no others; somebody has read nothing yet of those that are `unread`."""
        now, wanted = time.monotonic(), set(channels)
        new, gone = wanted - self._next_read.keys(), self._next_read.keys() - wanted
        # A channel may be another waiter's since this one left it: then no confirmation comes that one reads on.
        self._next_read |= dict.fromkeys(set(unread) - new, now)
        # Read when the server has confirmed it, or soon if it does not: what ends before that publishes to nobody.
        self._next_read |= dict.fromkeys(new, now + READ_AGAIN_S)
        for channel in gone:
            del self._next_read[channel]
        if new:
            self._pubsub.subscribe(*new)
        if gone:
            self._pubsub.unsubscribe(*gone)

    def due(self) -> list[str]:
        """The channels to read for: those that have a message, and those not read for a while."""
        now = time.monotonic()
        has_more = True
        while has_more:
            heard = self._pubsub.get_message(timeout=0)
            channel = heard["channel"].decode() if heard else ""  # the answer to a health check is no message
            if channel in self._next_read and heard["type"] != "unsubscribe":
                self._next_read[channel] = now
            has_more = self._pubsub.subscribed and self._pubsub.connection.can_read(timeout=0)
        due = [channel for channel, at in self._next_read.items() if at <= now]
        self._next_read |= dict.fromkeys(due, now + READ_AGAIN_S)
        return due

    def sleep(self) -> None:
        """Wait for a message, a nudge, or the next read."""
        until = min(self._next_read.values(), default=time.monotonic() + IDLE_S)
        with selectors.DefaultSelector() as selector:
            selector.register(self._ear, selectors.EVENT_READ)
            # redis-py has no name for it; where it is not found, the timer is what is left.
            connected = getattr(self._pubsub.connection, "_sock", None)
            if connected is not None:
                selector.register(connected, selectors.EVENT_READ)
            selector.select(max(until - time.monotonic(), 0))
        with suppress(BlockingIOError):
            self._ear.recv(4096)
