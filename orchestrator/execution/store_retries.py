"""Repeat calls to the store while Redis is away.

What a function did must be neither forgotten nor taken for its failure, so most calls of an attempt wait for as long as
it takes. A claim gives up after a while: its message is only a hint.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from orchestrator.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta

    from orchestrator.store.run_store import Store

logger = logging.getLogger(__name__)
Answer = TypeVar("Answer")
Place: TypeAlias = tuple[str, str, str]
"""Flow, run and node, for a line of the log."""
ASK_AGAIN_S = 0.25


def retry_until_stored(store: Store, place: Place, call: Callable[[], Answer]) -> Answer:
    """Repeat a call until Redis answers."""
    # Without an end: the lease is renewed by the main process meanwhile, so nobody else makes the attempt again. A warm
    # shutdown ends it after its grace.
    while True:
        try:
            with store.guarded():
                return call()
        except StoreError as error:
            logger.warning("flow %s run %s node %s: waits until Redis is back: %s", *place, error)
            time.sleep(ASK_AGAIN_S)


def retry_for(store: Store, patience: timedelta, call: Callable[[], Answer]) -> Answer:
    """Repeat a call until Redis answers, for so long.

    Raises:
        StoreError: It did not answer in time.
    """
    # With an end: nothing is lost yet, and a process that waits for one run's claim does no other work.
    deadline = time.monotonic() + patience.total_seconds()
    while True:
        try:
            with store.guarded():
                return call()
        except StoreError:
            if time.monotonic() > deadline:
                raise
            time.sleep(ASK_AGAIN_S)
