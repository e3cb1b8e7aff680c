"""Tell a worker's main process which pool processes it has, and which claims they are executing.

A claim that nobody works on has to end: Redis went back in time (a power loss, a replica that was behind), or a
claim's answer was lost. A pool process announces itself before its first claim, and writes its token where the main
process can read it even while a function holds the interpreter.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import billiard
from billiard.compat import mem_rss
from billiard.process import current_process
from celery.signals import worker_process_init

from orchestrator.liveness.pool_memory import (
    AT_ONCE,
    CHILD_LIMITS,
    CHILD_LIMITS_AT,
    DRAINING,
    EXPECTED_FILE,
    LIMIT,
    MISSING_FILE,
    TOKEN,
    WATCHED,
    PoolMemory,
    start_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

logger = logging.getLogger(__name__)
MISSING = (
    "flow %s: this pool process does not have it, and its nodes do not run here. With the start method %r each pool "
    "process imports the modules of the tasks anew: register the flow when its module is imported, on an app that is a "
    "global of a module"
)
_inline: set[str] = set()
_memory: PoolMemory | None = None
_place: int | None = None
_attempts = 0
_free = list(range(AT_ONCE))
_thread = threading.local()


def open_memory(*, is_forked: bool) -> PoolMemory:
    """Make the memory of a worker, in its main process, before its pool starts."""
    global _memory  # noqa: PLW0603 - a process is a worker, or a pool process of one, at most
    _memory = PoolMemory.inherited() if is_forked else PoolMemory.named()
    return _memory


def close_memory(memory: PoolMemory) -> None:
    """Give the memory of a worker back, in its main process, when its pool has ended."""
    global _memory  # noqa: PLW0603 - as above
    if _memory is memory:
        _memory = None
    memory.close()


@worker_process_init.connect
def _begin_pool_process(**_: object) -> None:
    global _memory, _place  # noqa: PLW0603 - as above
    _place = getattr(current_process(), "index", None)
    if _place is None:  # solo sends this in the worker's main process too
        return
    if billiard.get_start_method() != "fork":
        _memory = PoolMemory.of_environment()
    if _memory is not None:
        _memory.clear(_place)
        _memory.tell_birth(os.getpid(), _place)


def in_pool_process() -> bool:
    """Whether this process is a child of a prefork pool."""
    return _place is not None


def start_draining() -> None:
    """Let no attempt start in this worker any more."""
    if _memory is not None:
        _memory.bytes[DRAINING] = 1


def is_draining() -> bool:
    """Whether this worker is shutting down."""
    return _memory is not None and _memory.bytes[DRAINING] == 1


def limit_children(*, nodes: int, memory_kib: int) -> None:
    """Let pool processes begin nothing behind a message's own node once they have made so many, or take so much."""
    if _memory is not None:
        CHILD_LIMITS.pack_into(_memory.bytes, CHILD_LIMITS_AT, nodes, memory_kib)


def is_worn_out() -> bool:
    """Whether this pool process is about to be replaced, by the limits that the worker has for one."""
    if _place is None or _memory is None:
        return False
    nodes, memory_kib = CHILD_LIMITS.unpack_from(_memory.bytes, CHILD_LIMITS_AT)
    return bool(nodes and _attempts >= nodes) or bool(memory_kib and mem_rss() > memory_kib)


def takes_no_more() -> bool:
    """Whether this process is to begin no further node in a message."""
    return is_draining() or is_worn_out()


def note_watching(*, is_watched: bool) -> None:
    """Let the pool processes know whether a monitor wants events of tasks."""
    if _memory is not None:
        _memory.bytes[WATCHED] = is_watched


def is_watched() -> bool:
    """Whether a monitor wants events of tasks."""
    return _memory is not None and _memory.bytes[WATCHED] == 1


def expect_flows(names: Iterable[str]) -> None:
    """Let the pool processes compare the flows that they have with those of the main process."""
    if _memory is not None:
        _memory.write_names(EXPECTED_FILE, names)


def tell_missing_flows(names: Iterable[str]) -> None:
    """Let the main process know which of its flows this pool process does not have."""
    if _memory is not None and (missing := _memory.read_names(EXPECTED_FILE).difference(names)):
        _memory.write_names(MISSING_FILE, missing)
        logger.error(MISSING, ", ".join(sorted(missing)), billiard.get_start_method())


def missing_flows() -> frozenset[str]:
    """Flows of the main process that a pool process does not have."""
    return _memory.read_names(MISSING_FILE) if _memory is not None else frozenset()


def set_limit(instant: float) -> None:
    """Let this process be killed if this thread's attempt sets no other limit until then (monotonic clock); 0: none."""
    if _place is not None and _memory is not None:
        LIMIT.pack_into(_memory.bytes, start_of(_place, LIMIT) + _thread.index * LIMIT.size, instant)


def is_overdue(place: int) -> bool:
    """Whether an attempt of the pool process at a place is past its limit."""
    now = time.monotonic()
    return _memory is not None and any(instant and now > instant for instant in _memory.read(place, LIMIT))


def new_processes() -> dict[int, int]:
    """Process ids of the pool processes that began since the last call, and their places in the pool."""
    return _memory.births() if _memory is not None else {}


@contextmanager
def working_on(token: str) -> Iterator[int]:
    """Mark a claim's token, 32 hex digits, as being worked on by this process, from before the claim to its end.

    Yields the attempt's place; a thread that goes on with it calls `go_on_at` first.
    """
    if _place is None or _memory is None:
        _inline.add(token)
        try:
            yield 0
        finally:
            _inline.discard(token)
        return
    global _attempts  # noqa: PLW0603 - as above
    _attempts += 1
    memory, index = _memory.bytes, _free.pop()
    _thread.index = index
    start = start_of(_place, TOKEN) + index * TOKEN.size
    TOKEN.pack_into(memory, start, bytes.fromhex(token))
    try:
        yield index
    finally:
        TOKEN.pack_into(memory, start, b"")
        _free.append(index)


def go_on_at(place: int) -> None:
    """Let the limits that this thread sets be those of the attempt at a place."""
    _thread.index = place


def tokens_of(place: int | None) -> frozenset[str]:
    """Tokens that a pool process, by its place in the pool, works on; None asks for this process itself."""
    if place is None:
        return frozenset(_inline)
    return frozenset(token.hex() for token in _memory.read(place, TOKEN)) if _memory is not None else frozenset()
