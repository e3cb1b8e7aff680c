"""Pass on messages of nodes that a worker does not know: another one may have the version of the flow that has them.

Celery deletes the message of a task that is not registered, with the rest of its chain. The node would wait until the
reconciler sends another message, and with few workers of its version among many for several of them.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from orchestrator.messaging.canvas import SINCE_HEADER
from orchestrator.messaging.passing import passed_on

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger(__name__)


@contextmanager
def unknown_nodes_passed_on(consumer: Any) -> Iterator[None]:
    """Let a worker's consumer pass on messages of nodes that are not registered, until the block ends."""
    stock = consumer.on_unknown_task

    def on_unknown_task(body: Any, message: Any, exc: BaseException) -> Any:
        headers = message.headers
        is_node = isinstance(headers, dict) and SINCE_HEADER in headers
        if not (is_node and passed_on.may_pass(str(headers.get("root_id")), str(headers.get("task")))):
            return stock(body, message, exc)
        logger.info("task %s of run %s is left to another worker", headers.get("task"), headers.get("root_id"))
        # A lost connection is logged and not raised: the message comes again, or the reconciler sends another.
        return message.reject_log_error(logger, consumer.connection_errors, requeue=True)

    consumer.on_unknown_task = on_unknown_task
    try:
        yield
    finally:
        del consumer.on_unknown_task
