"""Forks without workers: what is copied and begun script by script, as a client does it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orchestrator.forks import copy, find_keys, find_step, inherit
from orchestrator.store.scripts.results import Started
from tests.scripts_world import RETENTION_MS, Run, new_token

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.definition.plan import Plan
    from orchestrator.store.run_store import RunRecord
    from orchestrator.store.scripts.forking import Copied
    from orchestrator.store.scripts.results import Moved
    from tests.scripts_world import World


@dataclass
class Fork:
    """A fork that is copied and not begun yet."""

    world: World
    plan: Plan
    source: RunRecord
    at: str
    outputs: Mapping[str, Any] = field(default_factory=dict)
    id: str = field(default_factory=new_token)

    def take_over(self) -> Copied:
        """Copy what stands before the step; raises as `FlowRun.fork`."""
        _, position = find_step(self.plan, self.at)
        legacy = inherit(
            self.world.store,
            self.source,
            self.plan,
            position=position,
            given=find_keys(self.plan, self.outputs, position),
            dump=lambda _, value: json.dumps(value).encode(),
        )
        return copy(self.world.store, self.source, legacy, self.id)

    def begin(self, copied: Copied, *, chords: bool = True, input_json: bytes = b"") -> Moved:
        name, position = find_step(self.plan, self.at)
        return self.world.scripts.forking.fork(
            self.id,
            self.plan,
            self.source,
            position=position,
            at=name,
            copied=copied,
            send_plan=True,
            input_json=input_json,
            tags={},
            retention_ms=RETENTION_MS,
            history_limit=1000,
            chords=chords,
            idempotency_key=None,
        )


def fork_of(run: Run, at: str, outputs: Mapping[str, Any] | None = None, **options: Any) -> Run:
    """Fork a run; the new one is told what it has to publish as a start is."""
    made = Fork(run.world, run.plan, run.world.store.run(run.id), at, outputs or {})
    moved = made.begin(made.take_over(), **options)
    assert moved.outcome == "started", moved.outcome
    return Run(run.world, run.plan, made.id, Started("started", made.id, moved.work))
