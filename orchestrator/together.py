"""How commits that are ready at about the same time share a round trip: who gets to send takes all that wait.

Nobody waits for company: the first one goes alone, and what comes while it is under way goes next, as one script.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.scripts import Scripts
    from orchestrator.scripts.answers import Call, Moved


@dataclass
class _Waiting:
    call: Call[Moved]
    answer: Moved | None = None
    error: BaseException | None = None


class Together:
    """Commits on one run from several threads."""

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts
        self._sends = threading.Lock()
        self._waiting: list[_Waiting] = []  # appended to and emptied in one step each, so that it needs no lock

    def send(self, call: Call[Moved]) -> Moved:
        """Carry out a commit.

        Raises:
            redis.RedisError: The call that it was sent with failed; whether it was carried out is not known.
        """
        mine = _Waiting(call)
        self._waiting.append(mine)
        with self._sends:
            if mine.answer is None and mine.error is None:
                self._send_all()
        if mine.answer is None:
            raise mine.error or AssertionError("was sent and has no answer")
        return mine.answer

    def _send_all(self) -> None:
        company = self._waiting[:]
        del self._waiting[: len(company)]
        try:
            answers = self._scripts.send_all([each.call for each in company])
        except BaseException as error:
            for each in company:
                each.error = error
            raise
        for each, answer in zip(company, answers, strict=True):
            each.answer = answer
