"""Runs of a tree that one message goes on with: so many, and only what its process could have been sent."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator import FlowBuilder, Node, RateLimit, manual
from orchestrator.definition.planning import make_plan
from orchestrator.errors import StoreUnavailable
from orchestrator.execution import store_retries, tree_runs
from orchestrator.execution.attempt import Attempt
from orchestrator.execution.node_kinds import Returned
from orchestrator.execution.tree_runs import MOST_RUNS, TreeRuns
from orchestrator.store.scripts.results import Claimed, Moved, Work


def plan_of(*, fused=True, queue="q", wide=False):
    builder = FlowBuilder("f").on_queue(queue).triggered_by(manual("test"))
    builder = builder.fused() if fused else builder
    nodes = [Node("a", lambda: 1), Node("b", lambda: 1)]
    built = builder.then_parallel("both", *nodes) if wide else builder.then(nodes[0]).then(nodes[1])
    return make_plan(built.build(), "celery")


class Engine:
    """Has the code of every node, and notes what it is to publish."""

    def __init__(self, *, knows=True, eager=False) -> None:
        self.app = SimpleNamespace(conf=SimpleNamespace(task_always_eager=eager))
        self.registry = SimpleNamespace(entry_for=lambda _plan, _node: "code" if knows else None)
        self.published: list[tuple[Any, ...]] = []
        self.store: Any = None

    def publish(self, *args: Any) -> None:
        self.published.append(args)


def tree_of(engine, plan=None, queue="q"):
    return TreeRuns(engine, plan or plan_of(), SimpleNamespace(delivery_info={"routing_key": queue}))


def work(*names, kind="nodes"):
    return Work(kind, 0, 0, names=names)


def test_a_node_of_another_fused_run_is_kept_and_handed_out():
    engine, plan = Engine(), plan_of()
    tree = tree_of(engine)
    assert tree.keep(plan, "run", 1, work("a"))
    ((source, (attempt,), left),) = tree.sources(is_over=False)
    assert (source.run_id, source.epoch, attempt.name, left.names) == ("run", 1, "a", ("a",))
    assert list(tree.sources(is_over=False)) == engine.published == []


@pytest.mark.parametrize(
    ("tree", "plan", "left"),
    [
        (tree_of(Engine()), plan_of(fused=False), work("a")),
        (tree_of(Engine(), plan_of(fused=False)), plan_of(), work("a")),
        (tree_of(Engine()), plan_of(queue="other"), work("a")),
        (tree_of(Engine(knows=False)), plan_of(), work("a")),
        (tree_of(Engine(eager=True)), plan_of(), work("a")),
        (tree_of(Engine()), plan_of(wide=True), work("a")),
        (tree_of(Engine()), plan_of(), work("a", "b")),
        (tree_of(Engine()), plan_of(), work("a", kind="saga")),
        (tree_of(Engine()), plan_of(), work()),
    ],
)
def test_what_a_message_of_its_own_is_for_is_not_kept(tree, plan, left):
    assert not tree.keep(plan, "run", 1, left)


def test_one_message_keeps_so_many():
    tree, plan = tree_of(Engine()), plan_of()
    kept = [tree.keep(plan, str(number), 1, work("a")) for number in range(MOST_RUNS + 5)]
    assert kept == [True] * MOST_RUNS + [False] * 5


@pytest.mark.parametrize("why", ["is_draining", "is_worn_out", "begins_no_runs"])
def test_a_process_that_is_to_begin_nothing_keeps_nothing(why, monkeypatch):
    monkeypatch.setattr(tree_runs, why, lambda: True)
    assert not tree_of(Engine()).keep(plan_of(), "run", 1, work("a"))


@pytest.mark.parametrize("is_over", [True, False])
def test_what_was_kept_is_published_by_a_process_that_ends(is_over, monkeypatch):
    engine, plan, left = Engine(), plan_of(), work("a")
    tree = tree_of(engine)
    assert tree.keep(plan, "run", 1, left)
    monkeypatch.setattr(tree_runs, "is_draining", lambda: not is_over)
    assert list(tree.sources(is_over=is_over)) == []
    assert engine.published == [(plan, "run", 1, left)]


def waiting_tree(children):
    """A message that has started the child "child" of the first of two nodes, and went on with it."""
    engine: Any = Engine()
    engine.store = SimpleNamespace(scripts=SimpleNamespace(children=children), guarded=nullcontext)
    tree, plan = tree_of(engine), plan_of()
    waits = Attempt(engine, plan, "a", plan.nodes["a"], run_id="parent", epoch=2)
    waits.prefetched.seen[":input"] = b"1"
    assert tree.keep_child(waits, plan, "child", 2, work("b"))
    assert [source.run_id for source, _, _ in tree.sources(is_over=False)] == ["child"]
    return tree, Attempt(engine, plan, "b", plan.nodes["b"], run_id="child", epoch=2)


class Children:
    """Knows every end as a plain one; answers in turn what it was made with, and notes what it is asked."""

    def __init__(self, *answers: Any) -> None:
        self.asked: list[dict[str, Any]] = []
        self._answers = list(answers)

    def plain_end(self, *_: Any) -> Any:
        return SimpleNamespace(follower="b")

    def end(self, *_: Any, **options: Any) -> Any:
        self.asked.append(options)
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_the_end_of_a_child_brings_the_claim_behind_it_and_that_is_made_at_any_rate(monkeypatch):
    monkeypatch.setattr(store_retries, "ASK_AGAIN_S", 0)
    children = Children(StoreUnavailable("away"), Claimed("run", 1))
    tree, last = waiting_tree(children)

    assert tree.end_child(last, Returned(b"7")) == Moved("stored")

    first, second = children.asked
    assert first == second, "a repeated call has the token that the first one may have held it with"
    assert (first["parent"][0], first["parent"][2], first["claim"].node) == ("parent", 2, "b")
    monkeypatch.setattr(tree_runs, "is_draining", lambda: True)
    ((source, (attempt,), left),) = tree.sources(is_over=True)
    assert (source.run_id, source.epoch, attempt.claimed.is_held, left) == ("parent", 2, True, None)
    assert (attempt.token, attempt.prefetched.seen["a"]) == (first["claim"].token, b"7")
    assert source.engine.published == []


def test_the_end_of_a_child_is_left_to_the_plain_commit():
    children = Children(None)
    tree, last = waiting_tree(children)
    assert tree.end_child(last, Returned(b"7")) is None, "the script has said so"
    assert tree.end_child(last, Returned(b"")) is None, "no output"
    last.run_id = "other"
    assert tree.end_child(last, Returned(b"7")) is None, "nobody waits for it here"
    assert len(children.asked) == 1
    assert list(tree.sources(is_over=False)) == []


def test_a_process_that_is_to_begin_nothing_claims_nothing_behind_a_child(monkeypatch):
    children = Children(Claimed("run", 1))
    tree, last = waiting_tree(children)
    monkeypatch.setattr(tree_runs, "is_draining", lambda: True)
    assert tree.end_child(last, Returned(b"7")) is None
    assert children.asked == []


def test_a_child_whose_first_node_was_claimed_with_its_start_is_made_at_any_rate(monkeypatch):
    children = Children()
    tree, waits = waiting_tree(children)
    plan = plan_of()
    claim = tree.claim_child(b"[1]", plan, "new", epoch=3)
    assert (claim.node, claim.timeout_ms) == ("a", plan.nodes["a"].timeout_ms)
    monkeypatch.setattr(tree_runs, "is_draining", lambda: True)
    assert tree.claim_child(b"[1]", plan, "new", epoch=3) == claim, "a repeated call has the token that may hold it"
    assert tree.claim_child(b"[1]", plan, "other", epoch=3) is None

    waits.prefetched.seen[":input"] = b"1"
    tree.hold_child(waits, "new")

    ((source, (attempt,), left),) = tree.sources(is_over=True)
    assert (source.run_id, source.epoch, attempt.token, left) == ("new", 3, claim.token, None)
    assert (attempt.claimed.is_held, attempt.prefetched.seen[":input"]) == (True, b"[1]")


def test_only_a_first_node_of_the_plainest_kind_is_claimed_with_its_run():
    tree = tree_of(Engine())
    assert tree.claim_child(b"1", plan_of(wide=True), "run", epoch=1) is None
    assert tree.claim_child(b"1", plan_of(fused=False), "run", epoch=1) is None
    limited = FlowBuilder("f").on_queue("q").triggered_by(manual("test"))
    limited = limited.then(Node("a", lambda: 1, rate_limit=RateLimit(1, per=timedelta(seconds=1)))).fused()
    assert tree.claim_child(b"1", make_plan(limited.build(), "celery"), "run", epoch=1) is None
