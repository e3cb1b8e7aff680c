"""Acknowledge messages of nodes that run long: a broker like RabbitMQ ends the connection of who holds one for long.

A node's message is only a hint, so nothing depends on it once its node runs: recovery is the stored state's. With Redis
as broker no message is held there, see messaging/patches/unacked_in_memory.py.
"""

from __future__ import annotations

import logging
import time
from typing import Any
from weakref import WeakKeyDictionary

from celery.worker import state

from orchestrator.messaging.celery_addresses import has_redis_broker
from orchestrator.messaging.engine_task import EngineTask

logger = logging.getLogger(__name__)
HOLD_S = 10.0
"""RabbitMQ's own limit is 30 minutes, and an operator may lower it to one; it looks once a minute."""
LOOK_EVERY_S = 1.0


class EarlyAck:
    """Lets go of a worker's messages, and lets it take as many fewer as there are processes that run long.

    What is acknowledged makes room for the next message, which would wait in this worker, unacknowledged in its turn,
    while another worker may be idle.

    Args:
        worker: Celery's worker, in its main process.
    """

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        # Weak: a request that has ended is forgotten by itself, and Celery says nowhere that one has.
        self._seen: WeakKeyDictionary[Any, float] = WeakKeyDictionary()
        self._consumer: Any = None
        self._long = 0
        self._timer: Any = None

    def begin(self) -> None:
        """Look every second, where messages are held at the broker."""
        if not has_redis_broker(self._worker.app):
            self._timer = self._worker.timer.call_repeatedly(LOOK_EVERY_S, self._look_in_its_thread)

    def end(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_in_its_thread(self) -> None:
        if self._worker.consumer is not None:
            # The timer may have a thread of its own, and py-amqp's connections take no two threads.
            self._worker.consumer.call_soon(self.look)

    def look(self) -> None:
        """Let go of what is held for too long; in the thread that has the connection."""
        consumer, now = self._worker.consumer, time.monotonic()
        if self._timer is None or consumer.task_consumer is None or consumer.qos is None:
            return
        if consumer.task_consumer is not self._consumer:  # connected anew: it takes as much as at its start
            self._consumer, self._long = consumer.task_consumer, 0
        running = [request for request in list(state.active_requests) if _is_ours(request)]
        long = [request for request in running if now - self._seen.setdefault(request, now) >= HOLD_S]
        held = [request for request in long if not request.acknowledged]
        if not held and len(long) == self._long:
            return
        try:
            self._let_go(consumer, held, len(long))
        except (*consumer.connection_errors, *consumer.channel_errors) as error:
            logger.debug("messages are not acknowledged, the connection is lost: %s", error)

    def _let_go(self, consumer: Any, held: list[Any], long: int) -> None:
        try:
            processes = max(consumer.pool.num_processes, 1)
        except AttributeError:  # a worker that ends calls what was to be called once more, behind the end of its pool
            return
        # Before the acknowledgements: each makes room for a message that the broker would deliver at once.
        consumer.task_consumer.cancel()
        if prefetch := consumer.initial_prefetch_count:  # 0 is without a limit
            # While nothing is consumed: RabbitMQ applies a prefetch count to the consumers that begin after it.
            consumer.qos.value = max(1, prefetch - long * prefetch // processes)
            consumer.qos.update()
        for request in held:
            request.acknowledge()
        self._long = long
        if long < processes:
            consumer.task_consumer.consume()
            return
        # Prefetched before: another worker may be idle. The pool keeps a copy of each, which will find its node done.
        for request in set(state.reserved_requests) - set(state.active_requests):
            if _is_ours(request):
                request.reject(requeue=True)


def _is_ours(request: Any) -> bool:
    return isinstance(request.task, EngineTask)
