"""How the members of a local step are worked on: functions in threads, commits in the thread that waits for them.

Whoever has returned is stored together with all that have by then, as one script; the last ones bring back the claims
of what is behind the step. A thread does one member after the other; another one is begun only while nobody returns.
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import lru_cache
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, TypeAlias

from orchestrator.execution.attempt import Ended
from orchestrator.execution.fast_path import are_plain, goes_onward, is_plain
from orchestrator.liveness.pool_processes import AT_ONCE, go_on_at, working_on
from orchestrator.store.scripts.results import Moved

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orchestrator.execution.attempt import Attempt

ANOTHER_AFTER_S = 0.0005
LOOK_AGAIN_S = 1.0
Finished: TypeAlias = "tuple[Attempt, Ended | tuple[bytes, int | None] | BaseException]"


class Together:
    """The members of one local step.

    Attributes:
        joined: The attempts at what is behind the step, claimed, once the last member is stored.
    """

    def __init__(self, members: Sequence[Attempt], behind: Callable[[], tuple[Attempt, ...]]) -> None:
        """Begin.

        Args:
            members: Claimed attempts, as many as a process works on at once.
            behind: Makes the attempts at what is behind the step, if this process can go on with it.
        """
        self.joined: tuple[Attempt, ...] = ()
        self._behind = behind
        self._ahead: tuple[Attempt, ...] = ()
        self._members = members
        self._todo: deque[tuple[Attempt, int]] = deque()
        self._left = len(members)
        self._claims: dict[Attempt, ExitStack] = {}
        self._threads: list[Future[None]] = []
        self._finished: SimpleQueue[Finished] = SimpleQueue()

    def work(self, tell: Callable[[Attempt, Ended], None]) -> None:
        """Do all of them.

        Args:
            tell: Called with each and how it ended.

        Raises:
            BaseException: The first that is no failure of a node, when all members have ended.
        """
        for member in self._members:  # from now on, whether a thread has begun with it or not
            claim = self._claims[member] = ExitStack()
            self._todo.append((member, claim.enter_context(working_on(member.token))))
        errors: list[BaseException] = []
        company: list[Finished] | None = None
        while company is None or company:
            try:
                company = self._next()
                self._end(company, tell)
            except BaseException as error:  # noqa: BLE001 - whatever it is waits until all have ended
                errors.append(error)
        for claim in self._claims.values():  # of a member whose return an error in this thread has hidden
            claim.close()
        if errors:
            raise errors[0]

    def _next(self) -> list[Finished]:
        """Whoever has returned, none if all have; begins threads for as long as nobody does."""
        company: list[Finished] = []
        while self._left and not company:
            if self._todo and not self._threads:
                self._begin_thread()
            try:
                company.append(self._finished.get(timeout=ANOTHER_AFTER_S if self._todo else LOOK_AGAIN_S))
            except Empty:
                if self._todo:
                    self._begin_thread()
                elif all(thread.done() for thread in self._threads) and self._finished.empty():
                    self._left = 0  # an error in this thread has struck between a member's return and its count
        while not self._finished.empty():
            company.append(self._finished.get())
        self._left -= len(company)
        return company

    def _end(self, company: list[Finished], tell: Callable[[Attempt, Ended], None]) -> None:
        """Store what members returned, and publish what that makes ready."""
        with ExitStack() as claims:
            for member, _ in company:
                claims.push(self._claims.pop(member))
            returned = [(member, made[0]) for member, made in company if isinstance(made, tuple)]
            ended = [(member, made) for member, made in company if isinstance(made, Ended)]
            if returned:
                members, outputs = zip(*returned, strict=True)
                stored = members[0].surely(lambda: self._store(members, outputs))
                for member, moved in zip(members, stored, strict=True):
                    ended.append((member, member.leave(moved, Ended(moved.outcome))))
            for member, how in ended:
                tell(member, how)
            for _, made in company:
                if isinstance(made, BaseException):
                    raise made

    def _begin_thread(self) -> None:
        try:
            self._threads.append(_threads(os.getpid()).submit(self._work_on))
        except RuntimeError:  # this process gets no thread any more
            self._work_on()

    def _work_on(self) -> None:
        """Call the functions of members, one after the other, until all have begun."""
        while self._todo:
            try:
                member, place = self._todo.popleft()
            except IndexError:  # another thread was faster
                return
            go_on_at(place)
            try:
                with member.store.scripts.wire.held():
                    self._finished.put((member, member.make()))
            except BaseException as error:  # noqa: BLE001 - it is raised where the step is waited for
                self._finished.put((member, error))

    def _store(self, attempts: Sequence[Attempt], outputs: Sequence[bytes]) -> list[Moved]:
        """Store what members returned.

        Raises:
            redis.RedisError: Whether it was carried out is not known.
        """
        ahead = self._ahead = self._ahead or self._behind()  # the same ones again, if the answer of a call is lost
        if not are_plain(ahead):
            ahead = ()  # the short way is only for those who are not the last
        if goes_onward(attempts, outputs, ahead):
            self.joined = ahead if ahead and ahead[0].claimed.is_held else ()
            return [Moved("stored")] * len(attempts)
        calls = [attempt.commit_call(output) for attempt, output in zip(attempts, outputs, strict=True)]
        answers = attempts[0].store.scripts.send_all(calls)
        if all(is_plain(attempt) for attempt in attempts):
            self.joined = ahead  # a lost answer may have given them their claims: they ask again
        return answers


@lru_cache(maxsize=1)
def _threads(_process: int) -> ThreadPoolExecutor:
    """The threads of this process for members of local steps; a forked process has none of its parent's."""
    return ThreadPoolExecutor(AT_ONCE, thread_name_prefix="orchestrator-member")
