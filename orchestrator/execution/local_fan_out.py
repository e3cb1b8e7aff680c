"""Run the members of a local step: functions in threads, commits in the thread that waits for them.

Results that arrive together are committed in one call; the last also returns the claims of the next step. A thread runs
one member after the other; another one is started only while no member returns.
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, TypeAlias

from orchestrator.liveness.interruption import is_ending
from orchestrator.liveness.pool_memory import AT_ONCE
from orchestrator.liveness.pool_processes import use_place, working_on

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orchestrator.execution.attempt import Attempt, Made

    Arrived: TypeAlias = list[tuple[Attempt, Made]]
    Settle: TypeAlias = Callable[[Arrived], tuple[Attempt, ...]]

ANOTHER_AFTER_S = 0.0005
LOOK_AGAIN_S = 1.0
_executors: dict[int, ThreadPoolExecutor] = {}  # by process id


class LocalFanOut:
    """The members of one local step."""

    def __init__(self, members: Sequence[Attempt], settle: Settle) -> None:
        """Take the members.

        Args:
            members: Attempts that are held, at most as many as a process works on at once.
            settle: Stores how members ended, and returns the attempts behind the step once the last one is stored.
        """
        self._settle = settle
        self._members = members
        self._todo: deque[tuple[Attempt, int]] = deque()
        self._left = len(members)
        self._claims: dict[Attempt, ExitStack] = {}
        self._threads: list[Future[None]] = []
        self._finished: SimpleQueue[tuple[Attempt, Made | BaseException]] = SimpleQueue()

    def run(self) -> tuple[Attempt, ...]:
        """Run all of them.

        Returns:
            The attempts behind the step that this process goes on with.

        Raises:
            BaseException: The first that is no failure of a node, when all members have ended, or at once if it ends
                the process.
        """
        for member in self._members:  # from now on, whether a thread has begun with it or not
            claim = self._claims[member] = ExitStack()
            self._todo.append((member, claim.enter_context(working_on(member.token))))
        errors: list[BaseException] = []
        behind: tuple[Attempt, ...] = ()
        # Errors may strike here between two members (a signal of Celery's), but not more often than there are members:
        # one that comes back each time would spin for ever. What is left then is ended by the lease renewer.
        while self._left and len(errors) <= len(self._members):
            try:
                behind = self._end(self._next(errors)) or behind
            except BaseException as error:  # noqa: BLE001 - whatever it is waits until all have ended
                errors.append(error)
                if is_ending():  # the process was told to end: it takes its threads along, and members are lost
                    break
        # A token that stays marked would keep its claim from ever being ended as forgotten.
        for claim in self._claims.values():  # of a member whose return an error in this thread has hidden
            claim.close()
        if errors:
            raise errors[0]
        return behind

    def _next(self, errors: list[BaseException]) -> Arrived:
        """The members that have returned since the last time; starts threads for as long as none does."""
        finished: list[tuple[Attempt, Made | BaseException]] = []
        while self._left and not finished:
            # One thread does for functions that return at once; handing a member to another costs more than it.
            if self._todo and not self._threads:
                self._start_thread()
            try:
                finished.append(self._finished.get(timeout=ANOTHER_AFTER_S if self._todo else LOOK_AGAIN_S))
            except Empty:
                if self._todo:
                    self._start_thread()
                elif all(thread.done() for thread in self._threads) and self._finished.empty():
                    self._left = 0  # an error in this thread has struck between a member's return and its count
        # Members that returned meanwhile share the round trip.
        while not self._finished.empty():
            finished.append(self._finished.get())
        self._left -= len(finished)
        arrived: Arrived = []
        for member, made in finished:
            if isinstance(made, BaseException):
                errors.append(made)
                self._claims.pop(member).close()
            else:
                arrived.append((member, made))
        return arrived

    def _end(self, arrived: Arrived) -> tuple[Attempt, ...]:
        with ExitStack() as claims:
            for member, _ in arrived:
                claims.push(self._claims.pop(member))
            return self._settle(arrived) if arrived else ()

    def _start_thread(self) -> None:
        try:
            self._threads.append(_threads().submit(self._run_members))
        # An interpreter that shuts down, or a limit of the container: slower in this thread, but not lost.
        except RuntimeError:  # this process gets no thread any more
            self._run_members()

    def _run_members(self) -> None:
        """Make members, one after the other, until all have begun."""
        while self._todo:
            try:
                member, place = self._todo.popleft()
            except IndexError:  # another thread was faster
                return
            use_place(place)  # time limits in shared memory are kept by place, and threads by number have none
            try:
                with member.store.scripts.wire.held():
                    self._finished.put((member, member.make()))
            except BaseException as error:  # noqa: BLE001 - it is raised where the step is waited for
                self._finished.put((member, error))


def _threads() -> ThreadPoolExecutor:
    """The threads of this process for members of local steps; a forked process has none of its parent's."""
    pid = os.getpid()
    if (threads := _executors.get(pid)) is None:
        threads = _executors[pid] = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="orchestrator-member")
    return threads


def end_threads(patience_s: float) -> None:
    """End the threads of this process, when a worker in it ends; one that is busy is left to end by itself."""
    if (executor := _executors.pop(os.getpid(), None)) is not None:
        # Not waiting: a function that never returns would hold the worker's end beyond its grace.
        executor.shutdown(wait=False)
        for thread in executor._threads:  # noqa: SLF001 - it can be waited for without a limit only
            thread.join(patience_s)
