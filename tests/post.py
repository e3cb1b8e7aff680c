"""A post office that loses, copies and misorders messages: asked for by `TEST_POST`, put between Celery and the broker.

What it does with them stands in the ledger's server, so that a test gives its orders to processes that run: a list
separated by commas. `copies=<n>` delivers every message n times, `lose=<n>` loses every nth, `order=reverse` or
`order=random` lets later messages overtake earlier ones, `keep` keeps a copy of each. What it did is counted there too,
over all processes.
"""

from __future__ import annotations

import json
import os
import random
import uuid
from typing import TYPE_CHECKING, Any

from celery.signals import before_task_publish, task_postrun, task_received
from kombu.transport import redis as redis_transport

if TYPE_CHECKING:
    import redis

    from tests.harness import Ledger

VARIABLE = "TEST_POST"
ORDERS = "post:orders"
KEPT = "post:kept"


def counted(ledger: Ledger) -> dict[str, int]:
    """How many messages were sent, put, lost, turned, delivered and handled."""
    names = ("sent", "put", "lost", "turned", "delivered", "handled")
    return {name: int(ledger.client.hget("counts", f"post:{name}") or 0) for name in names}


def kept(ledger: Ledger) -> list[tuple[str, str]]:
    """Every message that was sent, with its queue, oldest first."""
    return [tuple(json.loads(entry)) for entry in ledger.client.lrange(KEPT, 0, -1)]


def deliver_again(client: redis.Redis, entries: list[tuple[str, str]]) -> None:
    """Put kept messages into their queues as new deliveries."""
    for queue, text in entries:
        client.lpush(queue, json.dumps(_copy(json.loads(text))))


def _copy(message: dict[str, Any]) -> dict[str, Any]:
    """The same message under a delivery tag of its own: an acknowledgement is of one delivery."""
    return message | {"properties": message["properties"] | {"delivery_tag": str(uuid.uuid4())}}


def open_office(ledger: Ledger) -> None:
    """Let every message that this process sends go through the office."""
    dice = random.Random(os.getpid())

    def put(channel: Any, queue: str, message: dict[str, Any], **_options: Any) -> None:
        asked = dict(each.partition("=")[::2] for each in str(ledger.client.get(ORDERS) or "").split(","))
        copies, nth, order = int(asked.get("copies", "1")), int(asked.get("lose", "0")), asked.get("order", "")
        number = ledger.count("post:sent")
        text = json.dumps(message)
        if "keep" in asked:
            ledger.client.rpush(KEPT, json.dumps([queue, text]))
        if nth and number % nth == nth // 2:
            ledger.count("post:lost")
            return
        with channel.conn_or_acquire() as client:
            for _ in range(copies):
                ledger.count("post:put")
                if order == "reverse" or (order == "random" and dice.random() < 0.5):
                    ledger.count("post:turned")
                    client.rpush(queue, json.dumps(_copy(message)))  # it is the next to be read
                else:
                    client.lpush(queue, json.dumps(_copy(message)))

    redis_transport.Channel._put = put  # type: ignore[assignment, method-assign]
    before_task_publish.connect(_listen)  # scripts push nothing themselves while somebody listens


def close_office() -> None:
    """Listen no longer, in a process that goes on to other things."""
    before_task_publish.disconnect(_listen)


def _listen(**_: Any) -> None:
    """Hear of every message."""


def count_deliveries(ledger: Ledger) -> None:
    """Let this worker count the messages that it gets, and those that it has worked on."""

    @task_received.connect(weak=False)
    def count(**_: Any) -> None:
        ledger.count("post:delivered")

    @task_postrun.connect(weak=False)
    def count_handled(**_: Any) -> None:
        ledger.count("post:handled")
