"""Which pool processes this worker has, and which claims they really work on, as its main process can see it.

A claim that nobody works on is one to end: Redis went back in time (a power loss, a replica that was behind), or a
claim's answer was lost. A pool process tells of itself before its first claim, and writes its token where the main
process can read it even while a function holds the interpreter.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from billiard.process import current_process
from celery.signals import worker_process_init

if TYPE_CHECKING:
    from collections.abc import Iterator

AT_ONCE = 32
"""Attempts that one pool process works on at the same time, at most."""
PLACES = 4096
TOKEN = struct.Struct("16s")
LIMIT = struct.Struct("d")  # on the clock that all processes of a machine share
BORN = struct.Struct("ii")  # process id, place in the pool
# Shared with the pool processes, which are forked after this; of each place as many as it may work on at once.
_tokens = mmap.mmap(-1, PLACES * AT_ONCE * TOKEN.size)
_limits = mmap.mmap(-1, PLACES * AT_ONCE * LIMIT.size)
_births, _birth = os.pipe()
os.set_blocking(_births, False)
os.set_blocking(_birth, False)
_inline: set[str] = set()
_state: dict[str, int | None] = {"place": None}
_free = list(range(AT_ONCE))
_thread = threading.local()


@worker_process_init.connect
def _tell_birth(**_: object) -> None:
    place = getattr(current_process(), "index", None)
    _state["place"] = place
    if place is not None:  # solo sends this in the worker's main process too
        for memory, kind in ((_tokens, TOKEN), (_limits, LIMIT)):  # of who had the place before
            start, size = _start_of(place, kind), AT_ONCE * kind.size
            memory[start : start + size] = bytes(size)
        with suppress(BlockingIOError):  # thousands that nobody looked at: its lease will end this one's claims
            os.write(_birth, BORN.pack(os.getpid(), place))


def in_pool_process() -> bool:
    """Whether this process is a child of a prefork pool."""
    return _state["place"] is not None


def set_limit(instant: float) -> None:
    """Let this process be killed if this thread's attempt sets no other limit until then (monotonic clock); 0: none."""
    if (place := _state["place"]) is not None:
        LIMIT.pack_into(_limits, _start_of(place, LIMIT) + _thread.index * LIMIT.size, instant)


def is_overdue(place: int) -> bool:
    """Whether an attempt of the pool process at a place is past its limit."""
    now = time.monotonic()
    return any(instant and now > instant for instant in _read(_limits, LIMIT, place))


def new_processes() -> dict[int, int]:
    """Process ids of the pool processes that began since the last call, and their places in the pool."""
    with suppress(BlockingIOError):
        return dict(BORN.iter_unpack(os.read(_births, 4096 * BORN.size)))
    return {}


@contextmanager
def working_on(token: str) -> Iterator[int]:
    """Mark a claim's token, 32 hex digits, as being worked on by this process, from before the claim to its end.

    Yields the attempt's place; a thread that goes on with it calls `go_on_at` first.
    """
    if not in_pool_process():
        _inline.add(token)
        try:
            yield 0
        finally:
            _inline.discard(token)
        return
    index = _thread.index = _free.pop()
    start = _start_of(_state["place"] or 0, TOKEN) + index * TOKEN.size
    TOKEN.pack_into(_tokens, start, bytes.fromhex(token))
    try:
        yield index
    finally:
        TOKEN.pack_into(_tokens, start, b"")
        _free.append(index)


def go_on_at(place: int) -> None:
    """Let the limits that this thread sets be those of the attempt at a place."""
    _thread.index = place


def tokens_of(index: int | None) -> frozenset[str]:
    """Tokens that a pool process, by its place in the pool, works on; None asks for this process itself."""
    if index is None:
        return frozenset(_inline)
    return frozenset(token.hex() for token in _read(_tokens, TOKEN, index))


def _start_of(place: int, kind: struct.Struct) -> int:
    return place % PLACES * AT_ONCE * kind.size


def _read(memory: mmap.mmap, kind: struct.Struct, place: int) -> Iterator[Any]:
    start = _start_of(place, kind)
    return (value for (value,) in kind.iter_unpack(memory[start : start + AT_ONCE * kind.size]))
