"""Let a worker of greenlets go on with its nodes while kombu waits between two tries to connect.

Celery imports kombu before it lets gevent or eventlet replace `time.sleep`, so that this wait, of up to half a minute,
stops every greenlet: no lease is renewed, and attempts that run are taken for lost.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kombu.utils import functional

if TYPE_CHECKING:
    from collections.abc import Iterator

Untyped: Any = functional


@contextmanager
def applied(_worker: Any) -> Iterator[None]:
    """Make kombu wait as everything else does in the block."""
    stock = Untyped.sleep
    Untyped.sleep = time.sleep
    try:
        yield
    finally:
        Untyped.sleep = stock
