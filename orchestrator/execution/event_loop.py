"""Run async nodes on one event loop per process, so that clients and pools which they keep live on between nodes.

The loop has a thread of its own. The thread of an attempt waits there for its coroutine, so that a time limit
interrupts it as it interrupts a function; members of a local step share the loop, while each has its thread. Where
gevent or eventlet make greenlets of threads, the loop is in one of them: their sockets serve one native thread only.
"""

from __future__ import annotations

import _thread
import asyncio
import atexit
import logging
import math
import os
import threading
import time
from collections.abc import Coroutine
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, TypeVar

from celery import signals

from orchestrator.execution.greenlets import has_greenlets, make_loop
from orchestrator.execution.node_requests import Stepwise

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

logger = logging.getLogger(__name__)
Result = TypeVar("Result")
LOOK_AGAIN_S = 0.25
CLOSE_S = 5.0
"""How long the end of a process waits for tasks that were cancelled, and for threads that they wait for."""


def run_on_loop(awaitable: Awaitable[Result], *, timeout_s: float, expired: Callable[[], BaseException]) -> Result:
    """Await something on the loop of this process, and wait for it in this thread.

    It sees the context variables of the caller. What is raised in the waiting thread, by a time limit or because the
    process has to end, cancels it and goes on when it has ended.

    Args:
        awaitable: What an async function returned.
        timeout_s: Its limit in seconds, for threads that nothing can interrupt.
        expired: Makes the error that is raised at the limit.

    Raises:
        RuntimeError: Called on the loop itself, where waiting would block it for ever.
        BaseException: What the awaitable raised.
    """
    # setdefault is atomic: of two threads that come first, both get one loop; the other has not started its thread.
    loop = _loops.get(NODES) or _loops.setdefault(NODES, NodeLoop())
    return loop.run(Call(awaitable, timeout_s, expired))  # type: ignore[no-any-return]


class NodeLoop:
    """An event loop in a thread of its own, which starts with the first call."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_started = _thread.allocate_lock()
        self._is_ready = Flag()
        self._has_ended = Flag()
        self._is_closing = False

    def run(self, call: Call) -> Any:
        """Make a call and wait for its end; as `run_on_loop`."""
        if self._loop is not None and self._loop is asyncio._get_running_loop():  # noqa: SLF001 - it never raises
            call.drop()
            raise RuntimeError("an async node may not wait here for another async node: use start_async and await it")
        try:
            loop = self._start()
            # The thread-safe way alone wakes the loop's thread out of its select.
            loop.call_soon_threadsafe(call.begin, context=copy_context())
            call.has_ended.wait()
        except BaseException:
            self._cancel(call)
            call.has_ended.wait()  # one that refuses to end is left to whatever ends the attempt from outside
            raise
        return call.result()

    def _cancel(self, call: Call) -> None:
        try:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(call.cancel)
                return
        except RuntimeError:  # it is closed
            pass
        call.drop()

    def _start(self) -> asyncio.AbstractEventLoop:
        # Never released: of all threads that come here one gets it, and starts the loop's.
        if self._is_started.acquire(blocking=False):
            # Daemon: Python joins other threads before it calls atexit, where this one is told to end.
            threading.Thread(target=self._serve, name="orchestrator-async-nodes", daemon=True).start()
        self._is_ready.wait()
        assert self._loop is not None  # noqa: S101 - it is ready
        return self._loop

    def _serve(self) -> None:
        self._loop = loop = make_loop() if has_greenlets() else asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        self._is_ready.set()
        while not self._is_closing:
            try:
                loop.run_forever()
            except BaseException:  # SystemExit of a task that a node has left behind must not end it for all others
                logger.exception("a task that an async node left behind has raised")
        try:
            loop.run_until_complete(_end_tasks())
            loop.close()
        except BaseException:  # as above, while the process ends
            logger.exception("the event loop of the async nodes was not closed in order")
        finally:
            self._has_ended.set()

    def close(self) -> None:
        """Cancel what is left on the loop, finish async generators, and end the thread, within some seconds."""
        loop = self._loop
        if loop is None:  # nothing ran on it
            return
        # Before `stop`: the thread lets its loop begin anew as long as this is not set.
        self._is_closing = True
        loop.call_soon_threadsafe(loop.stop)
        self._has_ended.wait(CLOSE_S)


class Call:
    """Something to await on the loop.

    Attributes:
        has_ended: Set when it has returned or raised.
    """

    def __init__(self, awaitable: Awaitable[Any], timeout_s: float, expired: Callable[[], BaseException]) -> None:
        self.has_ended = Flag()
        self._awaitable = awaitable
        self._timeout_s = timeout_s
        self._expired = expired
        self._task: asyncio.Task[None] | None = None
        self._result: Any = None
        self._error: BaseException | None = None

    def begin(self) -> None:
        """Start it; called by the loop."""
        # Kept: a loop refers to its tasks weakly, and one that nobody else has may be collected while it waits.
        self._task = asyncio.get_running_loop().create_task(self._run())
        self._task.add_done_callback(self._end)

    def cancel(self) -> None:
        """Cancel it, or let it never begin; called by the loop."""
        if self._task is None:
            self.drop()
        else:
            self._task.cancel()

    def drop(self) -> None:
        """End it without its having begun."""
        if isinstance(self._awaitable, Coroutine | Stepwise):
            self._awaitable.close()  # else Python warns that nobody has awaited it
        self._error = asyncio.CancelledError()
        self.has_ended.set()

    def result(self) -> Any:
        """What it returned; raises what it raised."""
        try:
            if self._error is not None:
                raise self._error
            return self._result
        finally:
            del self  # the traceback of the error holds this frame, and would hold the error

    async def _run(self) -> None:
        limit = asyncio.timeout(self._timeout_s)
        try:
            async with limit:
                self._result = await self._awaitable
        # A TimeoutError may be the function's own, of a socket say: only the limit itself knows whether it struck.
        except TimeoutError as error:
            self._error = self._expired() if limit.expired() else error
        except BaseException as error:  # noqa: BLE001 - the waiting thread raises it; SystemExit would end the loop
            self._error = error

    def _end(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():  # before its first step
            self.drop()
        else:
            self.has_ended.set()


class Flag:
    """An event that is set once, without taking a lock.

    A time limit may strike the waiting thread at any point. It could leave the lock of a `threading.Event` taken, and
    then the loop would wait for it as long as the process lives.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._wake = _thread.allocate_lock()
        self._wake.acquire()

    def set(self) -> None:
        """Wake those that wait."""
        self._is_set = True
        self._wake.release()

    def wait(self, timeout: float = math.inf) -> bool:
        """Wait until it is set; returns whether it was, within so many seconds."""
        until = time.monotonic() + timeout
        while not self._is_set and (left := until - time.monotonic()) > 0:
            # Looked at again all the same: a lock of greenlets may miss that another thread has released it.
            if self._wake.acquire(timeout=min(left, LOOK_AGAIN_S)):
                self._wake.release()  # for the next one that waits
        return self._is_set


async def _end_tasks() -> None:
    loop = asyncio.get_running_loop()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=CLOSE_S / 2)
    await loop.shutdown_asyncgens()
    await loop.shutdown_default_executor()


NODES = "nodes"
_loops: dict[str, NodeLoop] = {}
_of_the_parent: list[NodeLoop] = []  # closing one would take its files out of the parent's epoll


def _begin_in_fork() -> None:
    # The loop's thread does not exist in a forked process: a call would wait for it for ever.
    if NODES in _loops:
        _of_the_parent.append(_loops.pop(NODES))


def close_loop(**_: Any) -> None:
    """Close the loop of this process, if it has one; the next call starts another one."""
    loop = _loops.pop(NODES, None)
    if loop is not None:
        loop.close()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_begin_in_fork)
# Held strongly: Celery's signals forget a function that nothing else refers to. Not by atexit alone: a pool process
# ends by os._exit, which calls none.
signals.worker_process_shutdown.connect(close_loop, weak=False)
signals.worker_shutdown.connect(close_loop, weak=False)
atexit.register(close_loop)
