"""How the members of a local step share round trips: who is ready to be stored takes all with it that wait.

Nobody waits for company: the first one goes alone, and what comes while it is under way goes next, as one script. The
last ones bring back the claims of what is behind the step.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.onward import are_plain, goes_onward, is_plain
from orchestrator.scripts.answers import Moved

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.attempt import Attempt


@dataclass
class _Waiting:
    attempt: Attempt
    output: bytes
    answer: Moved | None = None
    error: BaseException | None = None


class Together:
    """The commits of one local step, from several threads."""

    def __init__(self, behind: Callable[[], tuple[Attempt, ...]]) -> None:
        """Begin.

        Args:
            behind: Makes the attempts at what is behind the step, if this process can go on with it.
        """
        self.joined: tuple[Attempt, ...] = ()
        self._behind = behind
        self._ahead: tuple[Attempt, ...] = ()
        self._sends = threading.Lock()
        self._waiting: list[_Waiting] = []  # appended to by all, taken from by who sends

    def commit(self, attempt: Attempt, output: bytes) -> Moved:
        """Store what a member returned.

        Raises:
            redis.RedisError: The call that it was sent with failed; whether it was carried out is not known.
        """
        mine = _Waiting(attempt, output)
        self._waiting.append(mine)
        with self._sends:
            if mine.answer is None and mine.error is None:
                self._send_all()
        if mine.answer is None:
            raise mine.error or AssertionError("it was sent and has no answer")
        return mine.answer

    def _send_all(self) -> None:
        company = self._waiting[:]
        del self._waiting[: len(company)]
        try:
            answers = self._store(company)
        except BaseException as error:
            for each in company:
                each.error = error
            raise
        for each, answer in zip(company, answers, strict=True):
            each.answer = answer

    def _store(self, company: list[_Waiting]) -> list[Moved]:
        attempts = [each.attempt for each in company]
        ahead = self._ahead = self._ahead or self._behind()  # the same ones again, if the answer of a call is lost
        if not are_plain(ahead):
            ahead = ()  # the short way is only for those who are not the last
        if goes_onward(attempts, [each.output for each in company], ahead):
            self.joined = ahead if ahead and ahead[0].claimed.is_held else ()
            return [Moved("stored")] * len(company)
        answers = attempts[0].store.scripts.send_all([each.attempt.commit_call(each.output) for each in company])
        if all(is_plain(attempt) for attempt in attempts):
            self.joined = ahead  # a lost answer may have given them their claims: they ask again
        return answers
