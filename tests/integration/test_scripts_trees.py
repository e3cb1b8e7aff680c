"""Games with trees of runs: whatever is lost, doubled, cancelled, paused or fails, every run ends with its root."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator import Node, RemoteFlow
from orchestrator.store.scripts.results import ELSEWHERE, MORE, Moved
from tests.scripts_world import ENDED, RETENTION_MS, Run, flow, new_token, node, plan_of

if TYPE_CHECKING:
    from orchestrator.definition.plan import Plan
    from tests.scripts_world import World

MOVES = 40
ROUNDS = 200


def starts(name: str, child: str) -> Node[Any, Any]:
    return Node(name, RemoteFlow(child))


def _plans() -> dict[str, Plan]:
    both = flow("root").then_parallel("both", starts("ship", "shipping"), node("beside", undone="succeeded"))
    shipping = flow("shipping").then(node("pack", undone="succeeded")).then(starts("ride", "leg"))
    return {
        "root": plan_of(
            both.then(starts("drive", "leg").with_repeat(until=bool)).then(node("last", undone="succeeded"))
        ),
        "shipping": plan_of(shipping.then(node("hand", undone="succeeded"))),
        "leg": plan_of(flow("leg").then(node("go", undone="succeeded"))),
    }


PLANS = _plans()


class Game:
    """A tree, moved by chance: most work is done, some calls are lost, some are made twice."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.chance = random.Random(seed)
        self.root = world.run(PLANS["root"])
        self.is_fair = False

    def runs(self, run_id: str = "") -> list[str]:
        """The tree, parents first."""
        run_id = run_id or self.root.id
        children = self.world.store.children(run_id)
        return [run_id, *(each for child in children for each in self.runs(child))]

    def run(self, run_id: str) -> Run:
        record = self.world.store.run(run_id)
        return Run(self.world, PLANS[record.flow], run_id, self.root.started, epoch=record.epoch)

    def happens(self, share: float) -> bool:
        return not self.is_fair and self.chance.random() < share

    def follow(self, moved: Moved) -> None:
        """Do what a move asks of other runs; it may be lost on the way, or done twice."""
        scripts = self.world.scripts
        while moved.work.kind in ELSEWHERE and not self.happens(0.3):
            other, name, plan, epoch = moved.work.names
            for _ in range(1 + self.happens(0.3)):
                if moved.work.kind == "parent":
                    after = scripts.wake(other, plan, name)
                elif moved.work.kind == "undo":
                    after = scripts.undo(other, plan, token=f"{name}/{epoch}", failure=reason())
                else:
                    after = scripts.resume(other, plan, token=f"{name}/{epoch}")
            moved = after
        assert moved.work.kind != MORE

    def work_on(self, run_id: str) -> bool:
        """Make an attempt of a ready node of a run, if there is one."""
        run = self.run(run_id)
        names = [name for name, state in run.states().items() if state == "ready"]
        if not names:
            return False
        name, token = self.chance.choice(names), new_token()
        claimed = run.claim(name, token)
        if claimed.outcome != "run":
            return False
        if claimed.item.startswith(b"!"):
            is_last = (claimed.index or 0) >= self.chance.randrange(4)
            self.follow(run.close(name, token, "1") if is_last else run.turn(name, token, "1"))
        elif run.plan.nodes[name].child:
            self.spawn(run, name, token)
        elif not run.plan.nodes[name].undoes and self.happens(0.1):
            self.follow(run.fail(name, token))
        else:
            self.follow(run.commit(name, token))
        return True

    def spawn(self, run: Run, name: str, token: str) -> None:
        options: dict[str, Any] = {"most_depth": 9, "most_bytes": 100, "lasts_ms": 0, "follows": False, "number": 1}
        options |= {"send_plan": True, "input_json": b"1", "retention_ms": RETENTION_MS, "history_limit": 1000}
        options |= {"chords": True, "message_of": lambda *_: ("", ""), "child_plan": PLANS[run.plan.nodes[name].child]}
        for _ in range(2):
            spawned = self.world.scripts.children.spawn(run.id, run.plan.hash, name, token, **options)
            if spawned.outcome != "number":
                break
            options["number"] = int(spawned.detail)
        assert spawned.outcome in {"waiting", "ended"}
        self.follow(spawned)

    def wake(self) -> None:
        """Wake what has a row among the timers, whether it is due or not."""
        for row in self.world.members(self.world.keys.timers):
            run_id, _, name = row.partition("|")
            run = self.run(run_id)
            self.follow(run.wake(name) if name else run.cancel(only_late=True))

    def play(self) -> None:
        for _ in range(MOVES):
            self.work_on(self.chance.choice(self.runs()))
            if self.happens(0.3):
                self.wake()
            if self.happens(0.03):
                self.follow(self.root.cancel())
            if self.happens(0.05):
                self.world.scripts.pause(self.root.id, self.root.plan.hash, reason="")
            if self.happens(0.05) and self.root.status == "paused":
                self.follow(self.root.resume())
            if self.root.status not in ENDED and self.happens(0.05):  # an index is lost
                self.world.client.delete(self.world.keys.timers)

    def finish(self) -> None:
        """Do what workers and a leader would until the root has ended; from now on nothing fails."""
        self.is_fair = True
        for _ in range(ROUNDS):
            if self.root.status in ENDED and not self.world.members(self.world.keys.timers):
                return
            if self.root.status == "paused":
                self.follow(self.root.resume())
            for run_id in self.runs():
                self.work_on(run_id)
                self.run(run_id).look()
            self.wake()
        pytest.fail(f"the tree does not end: {[(each, self.run(each).status) for each in self.runs()]}")

    def check(self) -> None:
        statuses = {run_id: self.run(run_id).status for run_id in self.runs()}
        assert set(statuses.values()) <= ENDED
        if self.root.status != "succeeded":
            assert "succeeded" not in statuses.values(), "a child outlived the rollback"
        else:
            for run_id in (each for each, status in statuses.items() if status == "succeeded"):
                states = self.run(run_id).states()
                assert {states[name] for name in PLANS[self.world.store.run(run_id).flow].children} <= {"succeeded"}
        for run_id, status in statuses.items():
            done = Counter(name for event, name in self.run(run_id).events() if event == "succeeded")
            plain = [saga for saga in self.run(run_id).plan.sagas if not self.run(run_id).plan.nodes[saga[0]].repeats]
            for name, undo, _ in plain:
                assert done[name] - done[undo] == (status == "succeeded"), f"{name} of run {run_id}, which {status}"


def reason() -> str:
    return '{"flow_name":"f","node_name":null,"attempt":0,"type":"RunCancelled","message":"undone","traceback":""}'


@pytest.mark.parametrize("seed", range(12))
def test_a_tree_ends_with_its_root_whatever_happens(seed, world):
    game = Game(world, seed)
    game.play()
    game.finish()
    game.check()
    if game.root.status != "succeeded":
        game.root.resume()
        game.finish()
        assert game.root.status == "succeeded"
        game.check()
        undone = world.scripts.undo(game.root.id, game.root.plan.hash, token="t", failure=reason())
        game.follow(undone)
        game.finish()
        assert game.root.status == "cancelled"
        game.check()
