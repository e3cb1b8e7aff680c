"""A run with a child, moved by the scripts as workers would move both."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator import Node, RemoteFlow
from orchestrator.store.scripts.results import ELSEWHERE, Moved
from tests.scripts_world import (
    RETENTION_MS,
    Run,
    flow,
    node,
    plan_of,
)

if TYPE_CHECKING:
    from orchestrator.definition.plan import Plan
    from orchestrator.store.scripts.children import Spawned
    from tests.scripts_world import World

MOST_BYTES = 1000
TREE = ":tree"


def starts(name: str = "ship", child: str = "shipping", **options: Any) -> Node[Any, Any]:
    """A node that starts a flow."""
    return Node(name, RemoteFlow(child), **options)


def shipping(*, undone: bool = True) -> Plan:
    """The plan of the child: two nodes."""
    builder = flow("shipping").then(node("pack", undone="succeeded" if undone else None))
    return plan_of(builder.then(node("hand-over", undone="succeeded" if undone else None)))


def parent_plan(*, before: bool = False, behind: bool = True, name: str = "f") -> Plan:
    builder = flow(name)
    if before:
        builder.then(node("first", undone="succeeded"))
    builder.then(starts())
    return plan_of(builder.then(node("last", attempts=1)) if behind else builder)


@dataclass
class Tree:
    """Runs that start each other, moved as an engine would."""

    world: World

    def spawn(self, run: Run, name: str, plan: Plan, token: str = "", **changes: Any) -> tuple[Spawned, Run]:
        """Claim a node and start its child."""
        token = token or run.hold(name)
        options: dict[str, Any] = {
            "number": 1,
            "most_depth": 16,
            "most_bytes": MOST_BYTES,
            "lasts_ms": 0,
            "delay_ms": 1000,
            "follows": False,
            "message_of": lambda _plan, _run_id: ("", ""),
            "send_plan": True,
            "input_json": b"1",
            "retention_ms": RETENTION_MS,
            "history_limit": 1000,
            "chords": True,
            **changes,
        }
        spawned = self.world.scripts.children.spawn(run.id, run.plan.hash, name, token, child_plan=plan, **options)
        if spawned.outcome == "number":
            return self.spawn(run, name, plan, token, **changes | {"number": int(spawned.detail)})
        started = spawned.started
        child = self.last(run, name) if started is None else started.run_id
        return spawned, Run(self.world, plan, child, started) if child else run  # type: ignore[arg-type]

    def last(self, run: Run, name: str) -> str:
        text = self.world.client.hget(f"{self.world.keys.run(run.id)}:children", name) or b""
        return text.decode().rpartition(" ")[2]

    def follow(self, moved: Moved) -> Moved:
        """Do to other runs what a run asks, until something is to be published or nothing is left."""
        while moved.work.kind in ELSEWHERE:
            other, name, plan, epoch = moved.work.names
            scripts = self.world.scripts
            if moved.work.kind == "parent":
                moved = scripts.wake(other, plan, name)
            elif moved.work.kind == "undo":
                moved = scripts.undo(other, plan, token=f"{name}/{epoch}", failure=failure_json())
            else:
                moved = scripts.resume(other, plan, token=f"{name}/{epoch}")
        return moved

    def finish(self, child: Run) -> Moved:
        """Do the nodes of a child that was not undone before; returns what that left for its parent."""
        child.do("pack")
        return child.do("hand-over")

    def due(self) -> list[str]:
        now = self.world.store.now_ms()
        return [each.decode() for each in self.world.client.zrangebyscore(self.world.keys.timers, 0, now)]

    def tend(self) -> None:
        """Wake the rows by which children are kept as long as their root."""
        for _ in range(20):
            rows = [row.split("|") for row in self.due() if row.endswith(TREE)]
            for run_id, name in rows:
                self.world.scripts.wake(run_id, self.world.store.run(run_id).plan, name)
            if not rows:
                return
        pytest.fail("the tree is tended for ever")

    def undo(self, child: Run, *names: str) -> Moved:
        """Do compensations of a child that is rolled back."""
        epoch = int(child.field("epoch"))
        moved = Moved("")
        for name in names:
            moved = child.do(name) if child.epoch == epoch else replace(child, epoch=epoch).do(name)
        return moved


def failure_json() -> str:
    return '{"flow_name":"f","node_name":null,"attempt":0,"type":"RunCancelled","message":"undone","traceback":""}'
