"""Template of a node's message, for a script to push where broker and run store are one Redis.

One transaction then makes the run and its message. The template is captured once for a node from what Celery and kombu
send; only ids differ from run to run. Celery sends the message itself wherever it could differ otherwise: a signal
handler listens to publishing, another library adds headers, the broker is elsewhere.
"""

from __future__ import annotations

import json
import uuid
from base64 import b64decode, b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from celery import signals

from orchestrator.messaging.canvas import SINCE_HEADER
from orchestrator.messaging.celery_addresses import address_of_channel, list_name

if TYPE_CHECKING:
    from celery.canvas import Signature

    from orchestrator.store.run_store import Store

SINCE: Final = 1_111_111_111_111
"""Stands for the instant in ms at which the node became publishable."""
SINCE_MARK: Final = "@since@"
"""Mark that the script replaces by that instant."""
# Random: no text of a user's in a message may be taken for a mark and replaced.
RUN, TASK, BODY = (f"@{uuid.uuid4()}@" for _ in range(3))
OWN: Final = frozenset({"task", "id", "root_id", "eta", "expires"})
"""Headers of a message of Celery's protocol 2, where the body does not have them."""
HEADERS: Final = frozenset(
    {
        *("lang", "task", "id", "shadow", "eta", "expires", "group", "group_index", "retries", "timelimit", "root_id"),
        *("parent_id", "argsrepr", "kwargsrepr", "origin", "ignore_result", "replaced_task_nesting"),
        *("stamped_headers", "stamps", SINCE_HEADER),
    }
)


@dataclass(frozen=True)
class Envelope:
    """A message with places for what differs from run to run.

    Attributes:
        queue: The queue that it is for.
        key: The Redis list that it is pushed to.
        text: The message, with marks for run, task and body.
        tag: Its delivery tag.
        body: Its body, with marks for the run.
        is_most_urgent: Whether none of its queue's lists is received from before this one.
    """

    queue: str
    key: str
    text: str
    tag: str
    body: str
    is_most_urgent: bool

    def addressed(self, run_id: str) -> str:
        """Return the message for a run; the script puts in the instant."""
        # The body is base64 inside of the text, so its marks are replaced before it is encoded.
        body = b64encode(self.body.replace(RUN, run_id).encode()).decode()
        text = self.text.replace(RUN, run_id).replace(TASK, str(uuid.uuid4()))
        return text.replace(self.tag, str(uuid.uuid4())).replace(BODY, body)


def is_unobserved(app: Any) -> bool:
    """Return True if no publish handler or sent-event would notice that Celery's publishing is bypassed."""
    heard = signals.before_task_publish.receivers or signals.after_task_publish.receivers
    return not heard and not app.conf.task_send_sent_event


def take_envelope(signature: Signature, producer: Any, store: Store) -> Envelope | None:
    """Let Celery send a message, intercept it, and make a template of it; None if a script cannot push it.

    Args:
        signature: The message, for the run `RUN`, publishable since `SINCE`.
        producer: A producer of the app, of this thread alone.
        store: The run store, whose user pushes it.
    """
    channel = producer.channel
    kept: list[tuple[str, dict[str, Any]]] = []
    # Another broker, or another transport for Redis: its messages are not entries of a list that a script may push.
    if not hasattr(channel, "_q_for_pri"):
        return None
    # On this channel object alone: other producers of the process go on sending.
    channel._put = lambda queue, message, **_: kept.append((queue, message))  # noqa: SLF001 - kombu has no other place
    try:
        signature.apply_async(producer=producer, task_id=TASK)
    finally:
        del channel._put  # noqa: SLF001 - as above
    address = address_of_channel(channel)
    is_here = address is not None and store.address.has_rights_of(address)
    # With x-expires on the queue kombu renews the time to live of its lists with each message; a script would not.
    if len(kept) != 1 or not is_here or channel._expires:  # noqa: SLF001 - as above
        return None
    ((queue, message),) = kept
    headers = message["headers"]
    # Another library's header, a trace id say, differs from message to message.
    if not OWN <= headers.keys() <= HEADERS or message["properties"].get("body_encoding") != "base64":
        return None
    if headers["eta"] or headers["expires"]:  # they are instants, which were right for this one message
        return None
    key = list_name(channel, queue, channel._get_message_priority(message, reverse=False))  # noqa: SLF001 - as above
    # In a cluster a script may not touch keys of two slots.
    if not store.keys.shares_slot(key):
        return None
    body = b64decode(message["body"]).decode()
    text = json.dumps(message | {"body": BODY}).replace(f'"{SINCE_HEADER}": {SINCE}', f'"{SINCE_HEADER}": {SINCE_MARK}')
    is_most_urgent = key == list_name(channel, queue, channel.priority_steps[0])
    return Envelope(queue, key, text, message["properties"]["delivery_tag"], body, is_most_urgent)
