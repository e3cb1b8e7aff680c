"""Shared memory by which a worker's main process knows its pool processes, and which claims they are executing.

A claim that no process executes has to end: Redis went back in time (a power loss, a replica that was behind), or a
claim's answer was lost. A pool process reports itself before its first claim, and writes a claim's token where the main
process can read it even while a function holds the interpreter.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import billiard
from billiard.process import current_process
from celery.signals import worker_process_init

from orchestrator.liveness.pool_memory import (
    AT_ONCE,
    DRAINING,
    EVICTING,
    EXPECTED_FILE,
    LIMIT,
    MISSING_FILE,
    TAKING,
    TOKEN,
    WATCHED,
    PoolMemory,
    start_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

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
_most: NodesPerChild | None = None  # of messages and nodes, by the worker's `max_tasks_per_child`
_free = list(range(AT_ONCE))
_thread = threading.local()


def use_memory(memory: PoolMemory) -> None:
    """Share memory with the pool processes of a worker, in its main process, before its pool starts."""
    global _memory  # noqa: PLW0603 - a process is a worker, or a pool process of one, at most
    _memory = memory


def close_memory(memory: PoolMemory) -> None:
    """Release the memory of a worker, in its main process, when its pool has ended."""
    global _memory  # noqa: PLW0603 - as above
    if _memory is memory:
        _memory = None
    memory.close()


def prepare_forks() -> None:
    """Import in a worker's main process what billiard would import in each process that is forked from it.

    With cffi installed it asks the kernel by that to end the process with its parent, and cffi first loads a parser of
    C, which takes longer than all else that a new process does.
    """
    if "cffi" in sys.modules:
        with suppress(ImportError):
            importlib.import_module("cffi.cparser")


@worker_process_init.connect
def _begin_pool_process(**_: object) -> None:
    global _memory, _most, _place  # noqa: PLW0603 - as above
    _place = getattr(current_process(), "index", None)
    if _place is None:  # solo sends this in the worker's main process too
        return
    runs: Any = getattr(current_process(), "_target", None)
    if getattr(runs, "maxtasks", None):  # it is read later than this, and billiard takes only plain numbers before
        _most = runs.maxtasks = NodesPerChild(runs.maxtasks)
    if billiard.get_start_method() != "fork":
        _memory = PoolMemory.of_environment()
    if _memory is not None:
        # Cleared first: the main process reads the place once it knows of the process.
        _memory.clear(_place)
        _memory.report_birth(os.getpid(), _place)


def in_pool_process() -> bool:
    """Return whether this process is a child of a prefork pool."""
    return _place is not None


def note_taking_flows() -> None:
    """Inform the pool processes that this worker takes flows."""
    if _memory is not None:
        _memory.bytes[TAKING] = 1


def takes_flows() -> bool:
    """Return whether this worker takes flows."""
    return _memory is not None and _memory.bytes[TAKING] == 1


def start_draining() -> None:
    """Let no further attempt start in this worker."""
    if _memory is not None:
        _memory.bytes[DRAINING] = 1


def is_draining() -> bool:
    """Return whether this worker is shutting down."""
    return _memory is not None and _memory.bytes[DRAINING] == 1


class NodesPerChild(int):
    """How many tasks a pool process runs before it is replaced, each node counting as one: a message may hold several.

    The pool compares the messages that a process has done with it, after each of them.
    """

    def __gt__(self, messages: object) -> bool:
        """Return whether the process goes on."""
        # Also asked by billiard's `completed < maxtasks`: of two operands Python asks the one of the derived class
        # first.
        return isinstance(messages, int) and int(self) > max(messages, _attempts)

    def __eq__(self, messages: object) -> bool:
        """Return whether the process has done what it may."""
        return not self > messages

    __hash__ = int.__hash__


def is_worn_out() -> bool:
    """Return whether this pool process will be replaced after its present message."""
    return _most is not None and not _most > 0


def note_watching(*, is_watched: bool) -> None:
    """Inform the pool processes whether a monitor wants task events."""
    if _memory is not None:
        _memory.bytes[WATCHED] = is_watched


def is_watched() -> bool:
    """Return whether a monitor wants task events."""
    return _memory is not None and _memory.bytes[WATCHED] == 1


def note_evicting(*, is_evicting: bool) -> None:
    """Inform the pool processes whether Redis throws keys of live runs away, so that none is begun."""
    if _memory is not None:
        _memory.bytes[EVICTING] = is_evicting


def begins_no_runs() -> bool:
    """Return whether this worker begins no run, because Redis throws keys of live runs away."""
    return _memory is not None and _memory.bytes[EVICTING] == 1


def expect_flows(names: Iterable[str]) -> None:
    """Let the pool processes compare the flows that they have with those of the main process."""
    if _memory is not None:
        _memory.write_names(EXPECTED_FILE, names)


def report_missing_flows(names: Iterable[str]) -> None:
    """Report to the main process which of its flows this pool process does not have."""
    if _memory is not None and (missing := _memory.read_names(EXPECTED_FILE).difference(names)):
        _memory.write_names(MISSING_FILE, missing)
        logger.error(MISSING, ", ".join(sorted(missing)), billiard.get_start_method())


def missing_flows() -> frozenset[str]:
    """Return the flows of the main process that a pool process does not have."""
    return _memory.read_names(MISSING_FILE) if _memory is not None else frozenset()


def set_limit(instant: float) -> None:
    """Have this process killed at an instant (monotonic clock), unless this thread sets another limit; 0: none."""
    if _place is not None and _memory is not None:
        LIMIT.pack_into(_memory.bytes, start_of(_place, LIMIT) + _thread.index * LIMIT.size, instant)


def limit_setter() -> Callable[[float], None]:
    """Return what sets the limit of this thread as `set_limit` does, for other threads to call."""
    index = getattr(_thread, "index", None)

    def set_it(instant: float) -> None:
        if _place is not None and _memory is not None and index is not None:
            LIMIT.pack_into(_memory.bytes, start_of(_place, LIMIT) + index * LIMIT.size, instant)

    return set_it


def is_overdue(place: int) -> bool:
    """Return whether an attempt of the pool process at a place is past its limit."""
    now = time.monotonic()
    return _memory is not None and any(instant and now > instant for instant in _memory.read(place, LIMIT))


def new_processes() -> dict[int, int]:
    """Return ids of the pool processes that began since the last call, with their places in the pool."""
    return _memory.births() if _memory is not None else {}


@contextmanager
def working_on(token: str) -> Iterator[int]:
    """Mark a claim's token, 32 hex digits, as executed by this process, from before the claim to its end.

    Yields the attempt's place; another thread that continues the attempt calls `use_place` first.
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
    memory, index = _memory.bytes, _free.pop()  # list.pop() is atomic: threads of a local step need no lock
    _thread.index = index
    start = start_of(_place, TOKEN) + index * TOKEN.size
    # Before the claim: one whose answer comes while the main process looks must not seem forgotten.
    TOKEN.pack_into(memory, start, bytes.fromhex(token))
    try:
        yield index
    finally:
        TOKEN.pack_into(memory, start, b"")
        # Behind the zeros: another thread that takes the place writes its own token.
        _free.append(index)


def use_place(place: int) -> None:
    """Make the limits that this thread sets those of the attempt at a place."""
    _thread.index = place


def tokens_of(place: int | None) -> frozenset[str]:
    """Return the tokens that a pool process, by its place in the pool, executes; None asks for this process itself."""
    if place is None:
        return frozenset(_inline)
    return frozenset(token.hex() for token in _memory.read(place, TOKEN)) if _memory is not None else frozenset()
