"""The ends of runs for event loops: one thread hears them for every wait of a process, on however many loops.

It subscribes to the channels of all runs that are waited for, and reads together where they stand: when a message
comes, and on a timer. Its connections are the ones of blocking code, and a loop that ends leaves nothing behind in it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import selectors
import socket
import threading
import time
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from orchestrator.errors import StoreUnavailable, UnknownRun
from orchestrator.store.standing import RUN_ID, Standing, unknown_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

logger = logging.getLogger(__name__)
READ_AGAIN_S = 1.0
READ_AT_ONCE = 500
SCAN_AGAIN_S = 0.1
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
        # Not wait_for: at its limit it cancels the future, and a cancelled one counts as done.
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
        # A second call may be on its way to the loop already, and a future that is set twice raises.
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
        # New, too: at the fork another thread may have held the old one, and in the child nobody would release it.
        self._lock = threading.Lock()
        self._waiting: dict[str, set[Waiter]] = {}  # by channel
        self._changed: set[str] = set()  # channels that the thread has to look at
        self._thread: threading.Thread | None = None
        self._wake: socket.socket | None = None

    @contextmanager
    def waiting(self, run_id: str, *, patience: float) -> Iterator[Waiter]:
        """Listen for the end of a run during the block, which stands in a coroutine; see `Waiter`."""
        if not RUN_ID.fullmatch(str(run_id)):  # anything else could name another key
            raise unknown_run(run_id)
        waiter, channel = Waiter(run_id, patience), self._channel_of(run_id)
        try:
            with self._lock:
                self._waiting.setdefault(channel, set()).add(waiter)
                self._changed.add(channel)
                self._nudge()
            yield waiter
        finally:
            with self._lock:
                self._drop(channel, waiter)
                if self._thread is not None:
                    self._nudge()

    def waiters(self) -> list[Waiter]:
        """Everybody that waits now."""
        with self._lock:
            return [waiter for those in self._waiting.values() for waiter in those]

    def _drop(self, channel: str, waiter: Waiter) -> None:
        those = self._waiting.get(channel, set())
        those.discard(waiter)
        if not those:
            self._waiting.pop(channel, None)
            self._changed.add(channel)

    def _nudge(self) -> None:
        """Let the thread look at what has changed; starts it where there is none. Holds the lock."""
        if self._thread is None:
            ear, self._wake = socket.socketpair()
            for end in (ear, self._wake):
                # It is written to on event loops, under the lock: a full buffer must not block them.
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
        with ear, wake:
            while not self._may_leave(subscription):
                try:
                    with self._guarded():
                        self._look(subscription)
                    down_since = None
                except StoreUnavailable as error:
                    down_since = down_since or time.monotonic()
                    self._begin_anew(subscription)
                    for waiter in self.waiters():
                        waiter.note_outage(error, down_since)
                except Exception as error:  # noqa: BLE001 - every coroutine that waits raises it
                    self._begin_anew(subscription)
                    for waiter in self.waiters():
                        waiter.take(error)
        subscription.close()

    def _may_leave(self, subscription: _Subscription) -> bool:
        with self._lock:
            # Decided under the lock in which waits begin: one that begins now finds this thread at work, or none and
            # starts another.
            if self._waiting or not subscription.was_idle(IDLE_S):
                return False
            self._thread = self._wake = None
            self._changed.clear()
            return True

    def _begin_anew(self, subscription: _Subscription) -> None:
        subscription.close()
        with self._lock:
            self._changed.update(self._waiting)
        time.sleep(CONNECT_AGAIN_S)

    def _look(self, subscription: _Subscription) -> None:
        """Give the waiters what is new of their runs, then wait for more."""
        with self._lock:
            changed = {channel: channel in self._waiting for channel in self._changed}
            self._changed.clear()
        subscription.follow(changed)
        due = list(subscription.due())
        for first in range(0, len(due), READ_AT_ONCE):
            waiters = self._waiters_of(due[first : first + READ_AT_ONCE])
            found = self._read([those[0].run_id for those in waiters])
            for those in waiters:
                for waiter in those:
                    waiter.take(found[waiter.run_id])
        subscription.sleep()

    def _waiters_of(self, channels: Sequence[str]) -> list[list[Waiter]]:
        """Those that wait for each channel, and whose event loop has not been closed without a word."""
        with self._lock:
            for channel in channels:
                for waiter in [waiter for waiter in self._waiting.get(channel, ()) if waiter.is_lost()]:
                    self._drop(channel, waiter)
            return [list(self._waiting[channel]) for channel in channels if channel in self._waiting]


class _Subscription:
    """A subscribed connection, and when what its channels are about is to be read next."""

    def __init__(self, pubsub: Any, ear: socket.socket) -> None:
        self._pubsub = pubsub
        self._ear = ear  # what ends a sleep at once
        self._next_read: dict[str, float] = {}
        self._unread: set[str] = set()  # to be read at once
        self._scan_at = math.inf  # when some of the others are due
        self._used = time.monotonic()

    def was_idle(self, seconds: float) -> bool:
        """Whether nothing was followed for so long."""
        return not self._next_read and time.monotonic() - self._used >= seconds

    def close(self) -> None:
        """Leave every channel; the next `follow` connects anew."""
        self._next_read.clear()
        self._unread.clear()
        self._scan_at = math.inf
        self._pubsub.reset()

    def follow(self, changed: Mapping[str, bool]) -> None:
        """Be subscribed to the channels that are wanted, and no longer to the others."""
        now = time.monotonic()
        self._used = now if changed else self._used
        wanted = {channel for channel, is_wanted in changed.items() if is_wanted}
        new = {channel for channel in wanted if channel not in self._next_read}
        gone = {channel for channel in changed if channel in self._next_read and channel not in wanted}
        # Somebody new may wait where another one has just left: then no confirmation comes that one reads on.
        self._unread |= wanted - new
        # Read when the server has confirmed it, or soon if it does not: what ends before that publishes to nobody.
        self._next_read |= dict.fromkeys(new, now + READ_AGAIN_S)
        for channel in gone:
            del self._next_read[channel]
        if new:
            self._scan_at = min(self._scan_at, now + READ_AGAIN_S)
            self._pubsub.subscribe(*new)
        if gone:
            self._pubsub.unsubscribe(*gone)

    def due(self) -> set[str]:
        """The channels to read for: those that have a message, and those not read for a while."""
        now = time.monotonic()
        due, self._unread = self._unread, set()
        has_more = True
        while has_more:
            heard = self._pubsub.get_message(timeout=0)
            if heard and heard["type"] != "unsubscribe":  # the answer to a health check is no message
                due.add(heard["channel"].decode())
            has_more = self._pubsub.subscribed and self._pubsub.connection.can_read(timeout=0)
        due = {channel for channel in due if channel in self._next_read}
        if now >= self._scan_at:
            due.update(channel for channel, at in self._next_read.items() if at <= now)
        self._next_read |= dict.fromkeys(due, now + READ_AGAIN_S)
        if now >= self._scan_at:
            # Thousands of waits are not looked through for each of them.
            self._scan_at = max(min(self._next_read.values(), default=math.inf), now + SCAN_AGAIN_S)
        return due

    def sleep(self) -> None:
        """Wait for a message, a nudge, or the next read."""
        until = min(self._scan_at, time.monotonic() + IDLE_S)
        with selectors.DefaultSelector() as selector:
            selector.register(self._ear, selectors.EVENT_READ)
            # redis-py has no name for it; where it is not found, the timer is what is left. While nothing is
            # subscribed nobody reads it: what it holds, such as the end of a server, would end each sleep at once.
            connected = getattr(self._pubsub.connection, "_sock", None)
            if connected is not None and self._pubsub.subscribed:
                selector.register(connected, selectors.EVENT_READ)
            selector.select(max(until - time.monotonic(), 0))
        with suppress(BlockingIOError):
            self._ear.recv(4096)
