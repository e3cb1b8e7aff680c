"""Patch kombu and Celery in a worker that takes flows: one file for each fault, each with a switch of its own.

`Settings(patches=...)` says which of them are applied; docs/deployments.md lists them. None outlives the worker. Two
more are of the app object, from when it has flows, see `late_handlers` and `node_names`.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from orchestrator.messaging.patches import (
    client_per_channel,
    closed_channels,
    dropped_connections,
    fork_server,
    greenlet_sleep,
    held_messages,
    mute_subscriptions,
    partial_reports,
    refused_acks,
    refused_connections,
    result_connections,
    unacked_in_memory,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from orchestrator.settings import Settings

    Patch = Callable[[Any], AbstractContextManager[None]]

BEFORE_POOL: Mapping[str, Patch] = {
    "partial_reports": partial_reports.applied,
    "fork_server": fork_server.applied,
    "result_connections": result_connections.applied,
}
"""Those that a pool must find when it is made."""
AT_START: Mapping[str, Patch] = {
    "refused_acks": refused_acks.applied,
    "refused_connections": refused_connections.applied,
    "greenlet_sleep": greenlet_sleep.applied,
    "closed_channels": closed_channels.applied,
    "dropped_connections": dropped_connections.applied,
    "mute_subscriptions": mute_subscriptions.applied,
    "held_messages": held_messages.applied,
    "unacked_in_memory": unacked_in_memory.applied,
    "client_per_channel": client_per_channel.applied,
}
"""Those that the worker's first connection must find, in the order in which they are put on each other."""


@contextmanager
def patched(patches: Mapping[str, Patch], worker: Any, settings: Settings) -> Iterator[None]:
    """Apply those patches that the settings do not leave out, until the block ends."""
    with ExitStack() as stack:
        for name, patch in patches.items():
            if name in settings.patches:
                stack.enter_context(patch(worker))
        yield
