"""Filter that gives every log record of a node its flow, run, node and attempt, whichever logger wrote it.

A worker's own handlers get it by themselves, where Celery sets up logging; other handlers by
`handler.addFilter(NodeFilter())`. It chooses no format: use `%(flow)s`, `%(run)s`, `%(node)s` and `%(attempt)s`.
"""

from __future__ import annotations

import logging
from typing import Any

from celery.signals import after_setup_logger, after_setup_task_logger

from orchestrator.definition.context import running_attempt

NOWHERE = ("", "", "", 0)
NAMES = ("run", "node", "flow", "attempt")


class NodeFilter(logging.Filter):
    """Adds `flow`, `run`, `node` and `attempt` to records; empty outside of nodes. It lets every record pass."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add what the record does not have by its own `extra`."""
        for name, value in zip(NAMES, running_attempt.get() or NOWHERE, strict=True):
            if not hasattr(record, name):
                setattr(record, name, value)
        return True


FILTER = NodeFilter()


def add_to_workers() -> None:
    """Let the handlers of each worker that this process becomes have the filter; again does nothing."""
    for signal in (after_setup_logger, after_setup_task_logger):
        signal.connect(_add_to_handlers, dispatch_uid="orchestrator.node_logs")


def _add_to_handlers(logger: Any = None, **_: Any) -> None:
    for handler in getattr(logger, "handlers", ()):
        # Of handlers, not of the logger: Python asks a logger's filter only of records that were made by that very
        # logger.
        handler.addFilter(FILTER)
