"""Script of flow nodes: how an attempt starts a run of another flow and lets its node wait for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.store.keys import child_id
from orchestrator.store.scripts.results import Moved, Started, started_of, text_of, work_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.definition.plan import Plan
    from orchestrator.store.keys import Keys


@dataclass(frozen=True)
class Spawned(Moved):
    """The answer of `spawn`: an outcome of spawn.lua, and what to publish of the parent.

    Attributes:
        started: The child that was started, if one was, and what to publish of it.
        detail: With "number", "too deep" and "evicts": what the script adds.
    """

    started: Started | None = None
    detail: str = ""


class Children:
    """The operation spawn.lua; it may raise `redis.RedisError`.

    Args:
        keys: The keys.
        call: Calls a script with keys and arguments.
        start_call: Keys and arguments of start.lua, and those in front of them that are packed.
    """

    def __init__(self, keys: Keys, call: Callable[..., Any], start_call: Callable[..., Any]) -> None:
        self._keys = keys
        self._call = call
        self._start_call = start_call

    def spawn(
        self,
        run_id: str,
        plan: str,
        node: str,
        token: str,
        *,
        child_plan: Plan,
        number: int,
        most_depth: int,
        most_bytes: int,
        lasts_ms: int,
        delay_ms: int = 0,
        follows: bool,
        message_of: Callable[[Plan, str], tuple[str, str]],
        **options: Any,
    ) -> Spawned:
        """Start a child and let its node wait: spawn.lua; options as of a start, without tags."""
        child = child_id(run_id, node, number)
        options |= {"message": message_of(child_plan, child), "tags": {}, "idempotency_key": None}
        keys, args, fixed = self._start_call(child, child_plan, **options)
        head = (run_id, node, token, number, child, most_depth, most_bytes, lasts_ms, delay_ms, int(follows))
        return _spawned_of(self._call("spawn", (*self._keys.of_run(run_id, plan), *keys), args, fixed.behind(head)))

    def wait_for_flow(self, run_id: str, plan: str, node: str, token: str, *, delay_ms: int, follows: bool) -> Spawned:
        """Park a node, its attempt given back, whose flow nobody has announced: spawn.lua."""
        args = (run_id, node, token, 0, "", 0, 0, 0, delay_ms, int(follows))
        return _spawned_of(self._call("spawn", self._keys.of_run(run_id, plan), args))


def _spawned_of(answer: list[Any]) -> Spawned:
    outcome = text_of(answer[0])
    if len(answer) == 1:
        return Spawned(outcome)
    if not isinstance(answer[1], list):
        return Spawned(outcome, detail=text_of(answer[1]))
    return Spawned(outcome, work_of(answer[2:]), started_of(answer[1]) if answer[1] else None)
