"""Which pool processes this worker has, and which claims they really work on, as its main process can see it.

A claim that nobody works on is one to end: Redis went back in time (a power loss, a replica that was behind), or a
claim's answer was lost. A pool process tells of itself before its first claim, and writes its token where the main
process can read it even while a function holds the interpreter.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from billiard.process import current_process
from celery.signals import worker_process_init

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKEN_BYTES = 16
SLOTS = 4096
LIMIT = struct.Struct("d")  # on the clock that all processes of a machine share
BORN = struct.Struct("ii")  # process id, place in the pool
# Shared with the pool processes, which are forked after this.
_slots = mmap.mmap(-1, SLOTS * TOKEN_BYTES)
_limits = mmap.mmap(-1, SLOTS * LIMIT.size)
_births, _birth = os.pipe()
os.set_blocking(_births, False)
os.set_blocking(_birth, False)
_inline: set[str] = set()
_state: dict[str, int | None] = {"place": None}


@worker_process_init.connect
def _tell_birth(**_: object) -> None:
    place = getattr(current_process(), "index", None)
    _state["place"] = place
    if place is not None:  # solo sends this in the worker's main process too
        set_limit(0)  # of who had the place before
        with suppress(BlockingIOError):  # thousands that nobody looked at: its lease will end this one's claims
            os.write(_birth, BORN.pack(os.getpid(), place))


def in_pool_process() -> bool:
    """Whether this process is a child of a prefork pool."""
    return _state["place"] is not None


def set_limit(instant: float) -> None:
    """Let this process be killed if it does not set another limit until then (monotonic clock); 0 is no limit."""
    if (place := _state["place"]) is not None:
        LIMIT.pack_into(_limits, place % SLOTS * LIMIT.size, instant)


def is_overdue(place: int) -> bool:
    """Whether the pool process at a place is past its limit."""
    (instant,) = LIMIT.unpack_from(_limits, place % SLOTS * LIMIT.size)
    return bool(instant and time.monotonic() > instant)


def new_processes() -> dict[int, int]:
    """Process ids of the pool processes that began since the last call, and their places in the pool."""
    with suppress(BlockingIOError):
        return dict(BORN.iter_unpack(os.read(_births, 4096 * BORN.size)))
    return {}


@contextmanager
def working_on(token: str) -> Iterator[None]:
    """Mark a claim's token, 32 hex digits, as being worked on by this process, from before the claim to its end."""
    if not in_pool_process():
        _inline.add(token)
        try:
            yield
        finally:
            _inline.discard(token)
        return
    start = _start_of(_state["place"] or 0)
    _slots[start : start + TOKEN_BYTES] = bytes.fromhex(token)
    try:
        yield
    finally:
        _slots[start : start + TOKEN_BYTES] = bytes(TOKEN_BYTES)


def tokens_of(index: int | None) -> frozenset[str]:
    """Tokens that a pool process, by its place in the pool, works on; None asks for this process itself."""
    if index is None:
        return frozenset(_inline)
    start = _start_of(index)
    return frozenset({_slots[start : start + TOKEN_BYTES].hex()})


def _start_of(index: int) -> int:
    return index % SLOTS * TOKEN_BYTES
