"""Publisher: compiles what a transition left to publish and sends it to the broker.

A failure to send is no error of the run: the reconciler publishes again what nobody claimed.
"""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import redis
from celery.exceptions import QueueNotFound
from kombu.exceptions import KombuError, LimitExceeded, OperationalError
from kombu.pools import connections

from orchestrator.lazy import lazy
from orchestrator.messaging.canvas import ADVANCE, JUDGE, Target, compile_work, is_single, send
from orchestrator.messaging.celery_addresses import has_redis_backend
from orchestrator.messaging.message_template import RUN, SINCE, SINCE_MARK, Envelope, is_unobserved, take_envelope
from orchestrator.messaging.socket_timeouts import limited_options
from orchestrator.sparing_log import warn_sparingly
from orchestrator.store.idle_connections import close_deserted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from celery import Celery
    from celery.canvas import Signature
    from celery.events import EventDispatcher

    from orchestrator.definition.plan import Plan
    from orchestrator.store.run_store import Store
    from orchestrator.store.scripts.results import Work

logger = logging.getLogger(__name__)
BATCH = 500
"""Messages in one pipeline to the broker."""
LEARN_AGAIN_S = 10.0
"""Pause after a failure to learn how a message looks."""
POOL_WAIT_S = 10.0
"""Longest wait for a connection of the app's pool, where the app sets no `broker_pool_acquire_timeout`."""
# Kombu passes some of redis-py's errors on as they are, and raises a KombuError for a batch whose outcome is not known.
# To send again is harmless in each case: a node has one claim.
BROKER_ERRORS = (OperationalError, KombuError, redis.RedisError, OSError)


@dataclass(eq=False)
class Publisher:
    """Sends the work of runs through one Celery app."""

    app: Celery
    store: Store
    _envelopes: dict[tuple[str, str, int], Envelope | None] = field(default_factory=dict)
    _learns_after: float = 0.0

    @lazy
    def has_chords(self) -> bool:
        """Whether the app's result backend counts chords by itself, which the canvas relies on."""
        return has_redis_backend(self.app)

    def publish(self, plan: Plan, run_id: str, epoch: int, work: Work) -> None:
        """Send what a transition left to publish, if anything."""
        if work.names:
            self._send(compile_work(Target(self.app, plan, run_id, epoch), work), plan, run_id)

    def publish_all(self, works: Iterable[tuple[Plan, str, int, Work]]) -> None:
        """Send what many runs have left to publish, of each its plan, id, epoch and work, in few round trips."""
        # By the store's connections: only lists in its own Redis are pushed to here, see `take_envelope`.
        pipe = self.store.client.pipeline(transaction=False)
        for plan, run_id, epoch, work in works:
            messages = self._single_messages(plan, run_id, epoch, work)
            for key, text in messages:
                pipe.lpush(key, text)
            if not messages:
                self.publish(plan, run_id, epoch, work)
        try:
            pipe.execute()
        except BROKER_ERRORS as error:
            warn_sparingly(logger, "Redis did not take the messages of runs, they will be sent again: %s", error)

    def _single_messages(self, plan: Plan, run_id: str, epoch: int, work: Work) -> list[tuple[str, str]]:
        """The lists and messages of nodes, if each is sent on its own and this process may push it; else none."""
        found = []
        is_eager = self.app.conf.task_always_eager  # Celery would run what is only to be learned
        is_plain = work.kind == "nodes" or is_single(plan, work)
        for name in work.names if is_plain and not is_eager else ():
            if name in plan.nodes:  # not the compensation of one item
                self.learn(plan, name, epoch)
            key, text = self.known_message(plan, run_id, name, epoch)
            if not key:
                return []
            found.append((key, text.replace(SINCE_MARK, str(work.since))))
        return found

    def publish_first(self, plan: Plan, run_id: str, epoch: int, work: Work) -> None:
        """Send the start of a run from a client: one plain message.

        A chord sent by a client subscribes to a result channel for each member, so a parallel first step is left to a
        worker. Making a chain takes longer than everything else in a start, so only its first node is sent, and the
        worker that commits it sends the rest.
        """
        if not work.names:
            return
        self._send([self._first(plan, run_id, epoch, work.since)], plan, run_id)

    def ask_judge(self, plan: Plan, run_id: str, epoch: int, name: str) -> None:
        """Let a worker of the flow check what was sent for a signal by somebody without its code."""
        self._send([Target(self.app, plan, run_id, epoch).engine(JUDGE, name)], plan, run_id)

    def _first(self, plan: Plan, run_id: str, epoch: int, since: int) -> Signature:
        target = Target(self.app, plan, run_id, epoch)
        step = plan.steps[0]
        return target.node(step.nodes[0], since) if step.rules.is_single else target.engine(ADVANCE, 0)

    def first_list(self, plan: Plan, queue: str) -> str:
        """Return the Redis list of a queue for first messages of runs.

        Empty if it is not in the store's Redis, or if another list of the queue is more urgent.
        """
        self.learn(plan, "", 1)
        envelope = self._envelopes.get((plan.hash, "", 1))
        return envelope.key if envelope and envelope.queue == queue and envelope.is_most_urgent else ""

    def first_message(self, plan: Plan, run_id: str, epoch: int = 1) -> tuple[str, str]:
        """Return the list that a run's first message is pushed to by a script, and the message.

        Both are empty where only Celery can send it.
        """
        if not plan.steps[0].is_asked_for:
            return "", ""
        self.learn(plan, "", epoch)
        return self.known_message(plan, run_id, "", epoch)

    def known_message(self, plan: Plan, run_id: str, node: str, epoch: int) -> tuple[str, str]:
        """Return the message of a node, as `first_message`; also empty if this process has not learned how it looks."""
        # Asked for each message: a handler of publishing may be connected at any time.
        envelope = self._envelopes.get((plan.hash, node, epoch)) if is_unobserved(self.app) else None
        return (envelope.key, envelope.addressed(run_id)) if envelope else ("", "")

    def learn(self, plan: Plan, node: str, epoch: int) -> None:
        """Learn how Celery would send a node's message, "" for the first of a run; asks the broker, once for each.

        After a failure nothing is learned for a while, so that not every commit waits for a broker that is away.
        """
        kind = (plan.hash, node, epoch)
        if kind in self._envelopes or time.monotonic() < self._learns_after or not is_unobserved(self.app):
            return
        target = Target(self.app, plan, RUN, epoch)
        try:
            signature = target.node(node, SINCE) if node else self._first(plan, RUN, epoch, SINCE)
            with self.producer() as producer:
                # None is kept too: what a script may not push for its broker or headers stays so, and asking costs a
                # round trip.
                self._envelopes[kind] = take_envelope(signature, producer, self.store)
        except Exception as error:  # noqa: BLE001 - of the broker or of routes; sending the message will report it
            self._learns_after = time.monotonic() + LEARN_AGAIN_S
            logger.debug("flow %s: the message of %s is left to Celery: %r", plan.flow, node or "a start", error)

    @lazy
    def _limited(self) -> Any:
        """A connection with socket timeouts, where the app's own ones have none; a worker's app has them."""
        limited = limited_options(self.app)
        has_limits = limited == self.app.conf.broker_transport_options
        return None if has_limits else self.app.connection_for_write(transport_options=limited)

    def _pool(self) -> Any:
        """Return the pool of connections; the pool of producers waits for a connection without a limit."""
        if self._limited is None:
            return self.app.pool
        pool = connections[self._limited]  # looked up each time: a forked process has other pools
        # Kombu gives every pool the limit that was set last in this process, which may be another app's.
        if pool.limit != (limit := self.app.conf.broker_pool_limit or 0):
            pool.resize(limit, ignore_errors=True)
        return pool

    @contextmanager
    def producer(self) -> Iterator[Any]:
        """Take a connection out of the app's pool, with a producer on it, until the block ends.

        Raises:
            OperationalError: No connection was free in time.
        """
        pool = self._pool()
        wait_s = self.app.conf.get("broker_pool_acquire_timeout") or POOL_WAIT_S
        try:
            connection = pool.acquire(block=True, timeout=wait_s)
        except LimitExceeded as error:
            msg = (
                f"all {pool.limit} connections of the app's pool were in use for {wait_s:g} s; raise broker_pool_limit"
            )
            raise OperationalError(msg) from error
        try:
            # Celery declares the queue of each task that it sends, once for a connection.
            yield self.app.amqp.Producer(connection, auto_declare=False)
        finally:
            connection.release()

    def close_deserted(self) -> None:
        """Close idle connections to a broker or result backend in Redis that it has closed."""
        pool = self._pool()
        # Idle ones may be taken out meanwhile, and what is idle of a connection may be closed while it is in use.
        for connection in [*pool._resource.queue, *pool._dirty]:  # noqa: SLF001 - kombu tells nobody what it keeps
            transport = getattr(connection, "_transport", None)
            for channel in list(getattr(transport, "channels", None) or ()):
                close_deserted(getattr(channel, "_pool", None))
                close_deserted(getattr(channel, "_async_pool", None))
        if self.has_chords:
            close_deserted(self.app.backend.client.connection_pool)

    @contextmanager
    def dispatcher(self, hostname: str) -> Iterator[EventDispatcher]:
        """Make a sender of events on a connection as of `producer`; it does not buffer while the broker is away.

        Raises:
            OperationalError: No connection was free in time.
        """
        with self.producer() as producer:
            dispatcher = self.app.events.Dispatcher(
                producer.connection, hostname, channel=producer.channel, buffer_while_offline=False
            )
            with dispatcher as sender:
                yield sender

    def _send(self, signatures: list[Signature], plan: Plan, run_id: str) -> None:
        # Eager tasks run inside of apply_async, and what they publish would wait for the connection held here.
        if self.app.conf.task_always_eager:
            for signature in signatures:
                signature.apply_async(throw=False)  # the failure of a run is reported to the caller that waits for it
            return
        try:
            with self.producer() as producer:
                if len(signatures) == 1:
                    send(signatures[0], producer)
                    return
                # Before kombu 5.7 a producer cannot batch: each message is a round trip of its own.
                with producer.batch(BATCH) if hasattr(producer, "batch") else nullcontext():
                    for signature in signatures:
                        send(signature, producer)
        except QueueNotFound as error:
            # Sending again does not help, so it is said sparingly; `start` refuses such a flow beforehand.
            warn_sparingly(logger, "flow %s: its messages are not sent: %s", plan.flow, error)
        except BROKER_ERRORS as error:
            logger.warning(
                "flow %s run %s: the broker did not take its messages, they will be sent again: %s",
                plan.flow,
                run_id,
                error,
            )
