"""Which claims the processes of this worker really work on, so that one that nobody works on can be ended.

That happens when Redis went back in time (a power loss, a replica that was behind) or a claim's answer was lost. A pool
process writes its token where the main process can read it, even while a function holds the interpreter.
"""

from __future__ import annotations

import mmap
from contextlib import contextmanager
from typing import TYPE_CHECKING

from billiard.process import current_process

from orchestrator.time_limit import in_pool_process

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKEN_BYTES = 16
SLOTS = 4096
_slots = mmap.mmap(-1, SLOTS * TOKEN_BYTES)  # shared with the pool processes, which are forked after this
_inline: set[str] = set()


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
    start = _start_of(getattr(current_process(), "index", 0))
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
