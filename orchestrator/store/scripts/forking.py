"""Scripts of forks: what is copied from an ended run beside its fork, and how the fork begins with that."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from orchestrator.store.scripts.results import Moved, moved_of, text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from orchestrator.definition.plan import Plan
    from orchestrator.store.keys import Keys


class Source(Protocol):
    """The part of a run's record that its forks ask for."""

    @property
    def run_id(self) -> str:
        """The run."""

    @property
    def epoch(self) -> int:
        """Rises when it is taken up again, and then what was read of it holds no more."""


@dataclass
class Copied:
    """How many fields were copied beside a fork: records of nodes, outputs, failures, and parts by node."""

    nodes: int = 0
    outputs: int = 0
    failures: int = 0
    parts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Taken:
    """The answer of take_over.lua: "taken" or why not, how many failures were copied, and keys that are missing."""

    outcome: str
    failures: int = 0
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class TakenParts:
    """The answer of take_parts.lua.

    Attributes:
        outcome: "taken", or why not.
        place: Where the next call begins; with "compensated" and "missing" the part.
        fields: How many fields were written.
        failures: How many failures.
    """

    outcome: str
    place: int = 0
    fields: int = 0
    failures: int = 0


class Forking:
    """The operations take_over.lua, take_parts.lua and fork.lua; each may raise `redis.RedisError`.

    Args:
        keys: The keys.
        call: Calls a script with keys and arguments.
        start_call: Keys and arguments of start.lua, and those in front of them that are packed.
    """

    def __init__(self, keys: Keys, call: Callable[..., Any], start_call: Callable[..., Any]) -> None:
        self._keys = keys
        self._call = call
        self._start_call = start_call

    def take_over(
        self,
        fork: str,
        source: Source,
        *,
        lasts_ms: int,
        records: Mapping[str, str],
        given: Mapping[str, bytes],
        keys: Collection[str],
        failures: Collection[str],
    ) -> Taken:
        """Copy what a run has of some nodes beside its fork: take_over.lua."""
        own, run_id = self._keys, source.run_id
        named = [own.run(fork), own.nodes(fork), own.outputs(fork), own.failures(fork)]
        named += [own.run(run_id), own.outputs(run_id), own.failures(run_id)]
        args: list[Any] = [source.epoch, lasts_ms, len(records), len(given), len(keys), len(failures)]
        for name, value in (*records.items(), *given.items()):
            args += (name, value)
        outcome, *detail = self._call("take_over", named, [*args, *keys, *failures])
        return Taken(text_of(outcome), int(detail[0]) if detail else 0, tuple(map(text_of, detail[1:])))

    def take_parts(
        self, fork: str, source: Source, *, lasts_ms: int, node: str, first: int, count: int, kind: str
    ) -> TakenParts:
        """Copy some parts of an output beside a fork: take_parts.lua."""
        own, run_id = self._keys, source.run_id
        named = [own.run(fork), own.results(fork, node), own.failures(fork)]
        named += [own.run(run_id), own.results(run_id, node), own.failures(run_id), own.nodes(run_id)]
        outcome, *numbers = self._call("take_parts", named, [source.epoch, lasts_ms, node, first, count, kind])
        return TakenParts(text_of(outcome), *map(int, numbers))

    def fork(
        self, fork: str, plan: Plan, source: Source, *, position: int, at: str, copied: Copied, **options: Any
    ) -> Moved:
        """Begin a fork with what was copied: fork.lua; options as of a start.

        Its detail, such as the status of a source that has not ended, is behind the outcome and a blank.
        """
        keys, args, fixed = self._start_call(fork, plan, enters=False, **options)
        lane = plan.lane(options["input_json"])
        named = [
            *self._keys.of_run(fork, plan.hash),
            *keys,
            self._keys.run(source.run_id),
            self._keys.history(source.run_id),
        ]
        head = (fork, source.run_id, source.epoch, position, at, lane, json.dumps(vars(copied)))
        answer = self._call("fork", named, args, fixed.behind(head))
        if len(answer) == 2:  # noqa: PLR2004 - an outcome and what it adds
            return Moved(" ".join(map(text_of, answer)))
        return moved_of(answer)
