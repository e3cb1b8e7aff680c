"""spawn.lua, wake.lua, undo.lua and resume.lua of a tree: a child is a run of its own, and its parent goes on once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator import Node, RemoteFlow
from orchestrator.store.keys import child_id
from orchestrator.store.scripts.results import ELSEWHERE, Moved
from tests.scripts_world import (
    RETENTION_MS,
    Run,
    at_once,
    flow,
    line_plan,
    mapped_run,
    new_token,
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


@pytest.fixture
def tree(world):
    made = Tree(world)
    yield made
    made.tend()


def test_a_child_and_the_wait_for_it_are_one_step(world, tree):
    run = world.run(parent_plan(), tags={"shop": "x"})
    token = run.hold("ship")

    spawned, child = tree.spawn(run, "ship", shipping(), token)

    assert (spawned.outcome, spawned.started.outcome) == ("waiting", "started")
    assert child.id == child_id(run.id, "ship", 1)
    record = run.node("ship")
    assert (record["state"], record["waits"], record["attempt"], record["child"]) == ("waiting", "child", 1, child.id)
    assert run.field("running") == "1", "its wait counts"
    assert (child.field("parent"), child.field("parent_node"), child.field("root")) == (run.id, "ship", run.id)
    assert (child.field("depth"), child.field("tags"), child.status) == ("1", '{"shop": "x"}', "pending")
    assert world.store.children(run.id) == [child.id]
    assert run.claim("ship").outcome == "held"
    assert world.claims() == []
    with world.unchanged():
        again, _ = tree.spawn(run, "ship", shipping(), token)
    assert (again.outcome, again.started) == ("waiting", None)
    run.cancel()
    child.cancel(only_late=True)
    tree.follow(Moved("", world.scripts.wake(run.id, run.plan.hash, "ship").work))
    assert (run.status, child.status, run.node("ship")["state"]) == ("cancelled", "cancelled", "skipped")


def test_the_end_of_a_child_wakes_its_parent_once(world, tree):
    run = world.run(parent_plan())
    _, child = tree.spawn(run, "ship", shipping(undone=False))

    moved = tree.finish(child)

    assert (moved.work.kind, moved.work.names) == ("parent", (run.id, "ship", run.plan.hash, "1"))
    assert tree.due() == [f"{run.id}|ship"]
    moved = tree.follow(moved)
    assert (moved.outcome, moved.work.names) == ("ended", ("last",))
    assert run.outputs()["ship"] == b"1"
    assert run.node("ship")["state"] == "succeeded"
    with world.unchanged():
        assert run.wake("ship").outcome == "asleep"
    assert tree.due() == []
    run.do("last")
    assert run.status == "succeeded"


def test_a_wake_before_the_end_and_a_lost_one_do_no_harm(world, tree):
    run = world.run(parent_plan(behind=False))
    _, child = tree.spawn(run, "ship", shipping())
    with world.unchanged():
        assert run.wake("ship").work.names == ()

    tree.finish(child)
    world.client.zrem(world.keys.timers, f"{run.id}|ship")

    assert run.look() == []
    assert tree.due() == [f"{run.id}|ship"]
    assert tree.follow(run.wake("ship")).outcome == "ended"
    assert run.status == "succeeded"


def test_a_hundred_starts_at_once_make_one_child(world, tree):
    run = world.run(parent_plan())
    token, plan = run.hold("ship"), shipping()

    made = at_once(lambda _: tree.spawn(run, "ship", plan, token)[0])

    assert [each.outcome for each in made] == ["waiting"] * 100
    assert len([each for each in made if each.started]) == 1
    assert len(world.store.children(run.id)) == 1
    child = Run(world, plan, world.store.children(run.id)[0], made[0].started)
    tree.follow(tree.finish(child))
    run.do("last")


def test_the_failure_of_a_child_is_its_node_s(world, tree):
    run = world.run(parent_plan(before=True))
    run.do("first")
    _, child = tree.spawn(run, "ship", shipping())
    child.do("pack")
    child.break_off("hand-over")

    moved = tree.follow(child.do("undo-pack"))

    assert (moved.work.kind, moved.work.names) == ("saga", ("undo-first",))
    error = world.store.run(run.id).error
    assert error.type == "orchestrator.errors.RunFailed"
    assert child.id in error.message
    run.do("undo-first")
    assert (run.status, child.status) == ("failed", "failed")


def test_a_child_that_succeeded_is_undone_in_the_order_of_ends(world, tree):
    run = world.run(parent_plan(before=True))
    run.do("first")
    _, child = tree.spawn(run, "ship", shipping())
    tree.follow(tree.finish(child))

    moved = run.break_off("last")

    assert (moved.work.kind, moved.work.names[:2]) == ("undo", (child.id, "ship.undo"))
    moved = tree.follow(moved)
    assert (moved.work.kind, moved.work.names) == ("saga", ("undo-hand-over", "undo-pack"))
    assert (run.node("ship")["state"], run.node("ship.undo")["state"]) == ("compensating", "waiting")
    assert run.look() == []
    moved = tree.follow(tree.undo(child, "undo-hand-over", "undo-pack"))
    assert (moved.work.kind, moved.work.names) == ("saga", ("undo-first",))
    assert (child.status, run.node("ship")["state"]) == ("cancelled", "compensated")
    run.do("undo-first")
    assert run.status == "failed"


def test_a_lost_undo_is_asked_again(world, tree):
    run = world.run(parent_plan())
    _, child = tree.spawn(run, "ship", shipping())
    tree.follow(tree.finish(child))
    run.break_off("last")
    world.client.zadd(world.keys.timers, {f"{run.id}|ship.undo": 1})

    moved = run.wake("ship.undo")

    assert moved.work.kind == "undo"
    tree.follow(moved)
    assert run.wake("ship.undo").work.kind == ""
    tree.follow(tree.undo(child, "undo-hand-over", "undo-pack"))
    assert run.status == "failed"


def test_a_saga_chain_ends_in_front_of_a_child(world, tree):
    builder = flow().then(node("a", undone="succeeded")).then(starts()).then(node("b", undone="succeeded"))
    run = world.run(plan_of(builder.then(node("c", attempts=1))))
    run.do("a")
    _, child = tree.spawn(run, "ship", shipping(undone=False))
    tree.follow(tree.finish(child))
    run.do("b")

    moved = run.break_off("c")

    assert moved.work.names == ("undo-b",)
    moved = tree.follow(run.do("undo-b"))
    assert moved.work.names == ("undo-a",), "a child without compensations is undone at once"
    run.do("undo-a")
    assert (run.status, child.status) == ("failed", "cancelled")


def test_what_a_child_could_not_undo_is_its_root_s_and_resume_repeats_only_that(world, tree):
    run = world.run(parent_plan())
    _, child = tree.spawn(run, "ship", shipping())
    tree.follow(tree.finish(child))
    tree.follow(run.break_off("last"))
    child.epoch = 2
    child.break_off("undo-hand-over")
    tree.follow(child.do("undo-pack"))
    assert (child.status, run.status) == ("compensation_failed", "compensation_failed")

    moved = tree.follow(run.resume())

    assert moved.work.names == ("undo-hand-over",)
    child.epoch = 3
    tree.follow(child.do("undo-hand-over"))
    assert (child.status, run.status, run.node("ship")["state"]) == ("cancelled", "failed", "compensated")


def test_a_child_that_fails_and_cannot_undo_makes_its_root_end_so(world, tree):
    run = world.run(parent_plan())
    _, child = tree.spawn(run, "ship", shipping())
    child.do("pack")
    child.break_off("hand-over")
    tree.follow(child.break_off("undo-pack"))
    assert (child.status, run.status) == ("compensation_failed", "compensation_failed")

    moved = tree.follow(run.resume())

    assert moved.work.names == ("undo-pack",)
    child.epoch = 2
    tree.follow(child.do("undo-pack"))
    assert (child.status, run.status) == ("failed", "failed")


def test_a_run_that_is_ending_ends_its_open_children_first(world, tree):
    run = world.run(plan_of(flow().then_parallel("both", starts(), node("beside", attempts=1)).then(node("last"))))
    _, child = tree.spawn(run, "ship", shipping())
    child.do("pack")

    run.break_off("beside")

    assert (run.node("ship")["state"], run.status) == ("waiting", "compensating")
    assert tree.due() == [f"{child.id}|"]
    child.cancel(only_late=True)
    moved = tree.follow(child.do("undo-pack"))
    assert (moved.work.kind, run.node("ship")["state"], run.status) == ("", "failed", "failed")


def test_a_child_that_still_succeeds_in_an_ending_run_is_rolled_back(world, tree):
    run = world.run(plan_of(flow().then_parallel("both", starts(), node("beside", attempts=1)).then(node("last"))))
    _, child = tree.spawn(run, "ship", shipping(undone=False))
    child.do("pack")
    token = child.hold("hand-over")
    run.break_off("beside")

    tree.follow(child.commit("hand-over", token))

    assert (run.node("ship")["state"], child.status, run.status) == ("compensated", "cancelled", "failed")


def test_nothing_is_started_in_a_run_that_is_ending(world, tree):
    run = world.run(parent_plan())
    token = run.hold("ship")
    run.cancel()

    spawned, _ = tree.spawn(run, "ship", shipping(), token)

    assert (spawned.outcome, spawned.started) == ("ended", None)
    assert (run.node("ship")["state"], run.status) == ("skipped", "cancelled")
    assert world.store.children(run.id) == []


def test_resume_takes_up_the_last_child_and_one_that_was_undone_is_followed_by_another(world, tree):
    run = world.run(parent_plan())
    _, child = tree.spawn(run, "ship", shipping(undone=False))
    child.do("pack")
    tree.follow(child.break_off("hand-over"))
    assert run.status == "failed"

    run.resume()
    spawned, same = tree.spawn(run, "ship", shipping(undone=False))

    assert (spawned.outcome, spawned.started, same.id) == ("waiting", None, child.id)
    assert spawned.work.kind == "resume"
    tree.follow(Moved("", spawned.work))
    child.epoch = 2
    tree.follow(child.do("hand-over"))
    tree.follow(run.break_off("last"))
    assert (run.status, child.status) == ("failed", "cancelled")

    run.resume()
    spawned, other = tree.spawn(run, "ship", shipping(undone=False))

    assert other.id == child_id(run.id, "ship", 2)
    tree.follow(tree.finish(other))
    run.do("last")
    assert run.status == "succeeded"
    assert world.store.children(run.id) == [child.id, other.id]


def test_children_are_kept_as_long_as_their_root(world, tree):
    run = world.run(plan_of(flow("top").then(starts("order", "f"))))
    _, middle = tree.spawn(run, "order", parent_plan())
    _, child = tree.spawn(middle, "ship", shipping(undone=False))
    tree.follow(tree.finish(child))
    tree.tend()
    assert world.client.pttl(world.keys.run(child.id)) == -1
    assert world.plan_ttl(child.plan) == -1
    assert world.scripts.delete_run(child.id, child.plan.hash) == "kept"
    tree.follow(middle.do("last"))

    assert run.status == "succeeded"
    tree.tend()

    assert world.client.pttl(world.keys.run(child.id)) > 0
    assert world.plan_ttl(child.plan) > 0
    undone = world.scripts.undo(run.id, run.plan.hash, token="t", failure=failure_json())
    tree.tend()
    assert world.client.pttl(world.keys.run(child.id)) == -1
    assert world.plan_ttl(child.plan) == -1
    tree.follow(undone)
    assert (run.status, middle.status, child.status) == ("cancelled", "cancelled", "cancelled")


def test_what_cannot_be_started_is_no_child(world, tree):
    run = world.run(parent_plan())
    token = run.hold("ship")
    with world.unchanged():
        deep, _ = tree.spawn(run, "ship", shipping(), token, most_depth=0)
        assert (deep.outcome, deep.detail) == ("too deep", "1")
        gone, _ = tree.spawn(run, "ship", shipping(), token, send_plan=False)
        assert gone.outcome == "no plan"
    key = (run.id, run.plan.hash, "ship")

    parked = world.scripts.children.wait_for_flow(*key, token, delay_ms=5000, follows=False)

    assert parked.outcome == "parked"
    record = run.node("ship")
    assert (record["state"], record["attempt"], record["unannounced"]) == ("parked", 0, True)
    assert world.scripts.children.wait_for_flow(*key, token, delay_ms=5000, follows=False).outcome == "fenced"
    run.cancel()
    assert run.node("ship")["state"] == "skipped"


def test_a_result_that_is_too_large_fails_its_node(world, tree):
    run = world.run(parent_plan())
    _, child = tree.spawn(run, "ship", line_plan("only"))

    tree.follow(child.commit("only", child.hold("only"), b'"' + b"x" * MOST_BYTES + b'"'))

    assert (run.status, child.status) == ("failed", "cancelled"), "the child is undone"
    assert world.store.run(run.id).error.type == "orchestrator.errors.PayloadTooLarge"


def test_the_result_of_a_map_is_put_together(world, tree):
    run = world.run(parent_plan())
    mapped = mapped_run(world, 0)
    plan = plan_of(flow("listed").then_map("all", Node("item", len), over=lambda _state: []))
    mapped.cancel()
    _, child = tree.spawn(run, "ship", plan)
    token = child.hold("all.over")
    world.store.stage_items(child.id, token, [b"0", b"1", b"2"])
    child.commit("all.over", token, choice=3)
    moved = Moved("")
    for _ in range(3):
        claimed = "t" * 31 + str(_)
        found = child.claim("item", claimed)
        moved = child.commit(f"item[{found.index}]", claimed, str(found.index * 10).encode())

    tree.follow(moved)

    assert run.outputs()["ship"] == b"[0,10,20]"
    run.do("last")


def test_a_map_of_children_keeps_its_width(world, tree):
    plan = plan_of(flow().then_map("all", starts("ship"), over=lambda _state: [], max_concurrency=2).then(node("last")))
    run = world.run(plan)
    token = run.hold("all.over")
    world.store.stage_items(run.id, token, [b"0", b"1", b"2"])
    run.commit("all.over", token, choice=3)
    children = []
    for number in range(2):
        item = f"{number}" * 32
        assert run.claim("ship", item).index == number
        children.append(tree.spawn(run, f"ship[{number}]", shipping(undone=False), item)[1])
    assert run.claim("ship").outcome == "full"

    moved = tree.follow(tree.finish(children[0]))

    assert moved.work.names == ("ship",), "the next item is asked for"
    assert run.claim("ship", "2" * 32).index == 2
    children.append(tree.spawn(run, "ship[2]", shipping(undone=False), "2" * 32)[1])
    tree.follow(tree.finish(children[1]))
    moved = tree.follow(tree.finish(children[2]))
    assert moved.work.names == ("last",)
    tree.follow(run.break_off("last", delay_ms=-1))
    assert [child.status for child in children] == ["cancelled"] * 3
    assert run.status == "failed"


def climbing() -> Plan:
    """A flow node that repeats, between a node that can be undone and one that may fail."""
    climb = starts("climb", "shipping").with_repeat(until=bool)
    return plan_of(flow().then(node("first", undone="succeeded")).then(climb).then(node("last", attempts=1)))


def climb(tree: Tree, run: Run, iteration: int, *, is_last: bool = False) -> Run:
    """Make an iteration: its child, and the attempt that says whether there is another one."""
    token = new_token()
    claimed = run.claim("climb", token)
    assert (claimed.index, claimed.item) == (iteration, b"1" if iteration else b"null")
    _, child = tree.spawn(run, "climb", shipping(), token)
    assert tree.follow(tree.finish(child)).work.names == ("climb",)
    token = new_token()
    judged = run.claim("climb", token)
    assert (judged.outcome, judged.index, judged.item) == ("run", iteration, b"!1")
    moved = run.close("climb", token, "1") if is_last else run.turn("climb", token, "1")
    assert moved.work.names == (("last",) if is_last else ("climb",))
    return child


def test_the_iterations_of_a_flow_node_are_children_and_all_of_them_are_undone(world, tree):
    run = world.run(climbing())
    run.do("first")
    children = [climb(tree, run, number, is_last=number == 2) for number in range(3)]
    assert run.outputs()["climb"] == b"1"
    assert [each.decode() for each in world.client.hkeys(f"{world.keys.run(run.id)}:children")].count("climb|") == 0

    moved = tree.follow(run.break_off("last"))

    for child in reversed(children):
        assert moved.work.names == ("undo-hand-over", "undo-pack")
        moved = tree.follow(tree.undo(child, "undo-hand-over", "undo-pack"))
    assert moved.work.names == ("undo-first",)
    run.do("undo-first")
    assert (run.status, [child.status for child in children]) == ("failed", ["cancelled"] * 3)
    run.resume()
    run.do("first")
    again = climb(tree, run, 0, is_last=True)
    assert again.id == child_id(run.id, "climb", 4)
    run.do("last")
    assert run.status == "succeeded"


def test_a_repetition_that_ends_early_undoes_what_it_has_done(world, tree):
    run = world.run(climbing())
    run.do("first")
    child = climb(tree, run, 0)
    token = run.hold("climb")
    _, second = tree.spawn(run, "climb", shipping(), token)
    second.break_off("pack")

    moved = tree.follow(Moved("", world.scripts.wake(run.id, run.plan.hash, "climb").work))

    assert moved.work.names == ("undo-hand-over", "undo-pack")
    tree.follow(tree.undo(child, "undo-hand-over", "undo-pack"))
    run.do("undo-first")
    assert (run.status, child.status, second.status) == ("failed", "cancelled", "failed")


def test_resume_goes_on_with_the_iteration_that_is_missing(world, tree):
    run = world.run(plan_of(flow().then(starts("climb").on_error(node("undo-climb")).with_repeat(until=bool))))
    first = climb_alone(tree, run)
    token = run.hold("climb")
    _, second = tree.spawn(run, "climb", shipping(undone=False), token)
    tree.follow(second.break_off("pack"))
    assert (run.status, first.status) == ("failed", "succeeded")

    run.resume()
    spawned, same = tree.spawn(run, "climb", shipping(undone=False))

    assert (spawned.work.kind, same.id) == ("resume", second.id)
    tree.follow(Moved("", spawned.work))
    second.epoch = 2
    tree.follow(tree.finish(second))
    run.close("climb", run.hold("climb"), "1")
    assert run.status == "succeeded"


def climb_alone(tree: Tree, run: Run) -> Run:
    token = run.hold("climb")
    _, child = tree.spawn(run, "climb", shipping(undone=False), token)
    tree.follow(tree.finish(child))
    run.turn("climb", run.hold("climb"), "1")
    return child


def test_a_child_is_held_as_long_as_its_parent(world, tree):
    run = world.run(plan_of(flow("top").then(starts("order", "f"))))
    _, middle = tree.spawn(run, "order", parent_plan())
    _, child = tree.spawn(middle, "ship", shipping(undone=False))

    assert world.scripts.pause(run.id, run.plan.hash, reason="wait") == "paused"
    tree.tend()

    assert [each.status for each in (run, middle, child)] == ["paused"] * 3
    assert child.claim("pack").outcome == "paused"
    run.resume()
    tree.tend()
    assert [each.status for each in (run, middle, child)] == ["running"] * 3
    assert child.node("pack")["state"] == "ready"
    tree.follow(tree.finish(child))
    tree.follow(middle.do("last"))
    assert run.status == "succeeded"


def test_a_child_that_is_started_while_its_parent_is_held_is_held_too(world, tree):
    run = world.run(parent_plan(behind=False))
    token = run.hold("ship")
    world.scripts.pause(run.id, run.plan.hash, reason="wait")

    _, child = tree.spawn(run, "ship", shipping(undone=False), token)
    tree.tend()

    assert (child.status, child.claim("pack").outcome) == ("paused", "paused")
    child.resume()
    tree.follow(tree.finish(child))
    assert (child.status, run.status) == ("succeeded", "succeeded"), "it may be resumed by itself"


def test_a_child_of_a_run_that_was_abandoned_is_not_kept_for_ever(world, tree):
    run = world.run(parent_plan())
    _, child = tree.spawn(run, "ship", shipping(undone=False))
    options = {"verdict": "failed", "failure": failure_json()}
    world.scripts.abandon(run.id, run.plan.hash, ["ship"], is_last=False, **options)
    world.scripts.abandon(run.id, run.plan.hash, [], is_last=True, **options)
    assert (run.status, run.node("ship")["state"]) == ("failed", "unknown")
    tree.tend()

    assert f"{child.id}|" in tree.due()
    tree.follow(child.cancel(only_late=True))
    tree.tend()

    assert child.status == "cancelled"
    assert run.wake("ship").outcome == "asleep"
    assert world.client.pttl(world.keys.run(child.id)) > 0
