"""Scripts of nodes that wait: how an attempt lets its node wait, and what reaches it from outside of its run."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from orchestrator.store.scripts.results import moved_of, text_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.store.scripts.results import Moved


class Outside:
    """The operations defer.lua, open_callback.lua and complete.lua; every function may raise `redis.RedisError`.

    Args:
        on_run: Calls a script on a run: its name, the run, the hash of its plan, then the arguments.
    """

    def __init__(self, on_run: Callable[..., Any]) -> None:
        self._on_run = on_run

    def wait(
        self,
        run_id: str,
        plan: str,
        node: str,
        token: str,
        *,
        waits: str,
        lasts_ms: int = 0,
        due_ms: int | None = None,
        delay_ms: int = 0,
        follows: bool = False,
    ) -> Moved:
        """Let the node of an attempt wait: defer.lua; without a time and an instant for as long as it takes."""
        due = "" if due_ms is None else due_ms
        return moved_of(self._on_run("defer", run_id, plan, node, token, waits, lasts_ms, due, delay_ms, int(follows)))

    def open_callback(self, run_id: str, plan: str, node: str, token: str, secret: str) -> str:
        """Return the secret of a node's callback: open_callback.lua; "fenced" or "unknown" if the attempt is not."""
        return text_of(self._on_run("open_callback", run_id, plan, node, token, secret)[0])

    def end_callback(
        self, run_id: str, plan: str, node: str, *, verb: str, text: bytes, secret: str, generation: int
    ) -> Moved:
        """Complete a node by its callback, or let it fail; the verb is "complete" or "fail"."""
        return self._complete(run_id, plan, "callback", node, verb, text, secret, generation)

    def _complete(self, run_id: str, plan: str, *args: Any) -> Moved:
        return moved_of(self._on_run("complete", run_id, plan, *args))

    def send_signal(
        self, run_id: str, plan: str, name: str, value: bytes, *, is_checked: bool, key: str | None = None
    ) -> Moved:
        """Give a signal to the gate that waits longest for it, or keep it in the inbox; the value is JSON."""
        digest = "" if key is None else hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        return self._complete(run_id, plan, "signal", name, "send", value, int(is_checked), digest)

    def judge_signal(self, run_id: str, plan: str, name: str, number: int, *, fits: bool, text: bytes) -> Moved:
        """Say whether an entry of the inbox fits its type: its JSON, or why it does not."""
        return self._complete(run_id, plan, "signal", name, "judge", text, int(fits), number)

    def vote(self, run_id: str, plan: str, node: str, *, verb: str, by: str, reason: str) -> Moved:
        """Count a vote; the verb is "approve" or "reject"."""
        return self._complete(run_id, plan, "approval", node, verb, json.dumps({"by": by, "reason": reason}))
