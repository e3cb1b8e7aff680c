"""Flows that start each other on real workers: each child is a run of its own, and its parent goes on behind it."""

from __future__ import annotations

import pytest

from orchestrator import RunError, RunFailed
from tests.harness import load_program, wait_until, workers


@pytest.fixture(scope="module")
def nested(server, tmp_path_factory):
    program = load_program("nested", server.url)
    folder = tmp_path_factory.mktemp("nested")
    with workers("tests.programs.nested", server.url, folder, options=["-c", "2", "-Q", "nested"]):
        yield program


@pytest.fixture(autouse=True)
def without_help(nested):
    nested.LEDGER.client.delete("helped")


def start(nested, flow, given=None):
    return nested.orchestrator.start(flow, given)


def statuses(run):
    return [child.status.value for child in run.children()]


@pytest.mark.parametrize(
    ("flow", "given", "result", "count"),
    [
        ("order", "cup", "label of box of cup", 1),
        ("orders", "mug", "label of box of mug", 1),
        ("fused-order", "jar", "label of box of jar", 1),
        ("chained-order", "pan", "label of box of pan", 1),
        ("order-both", "pot", "label of box of pot", 1),
        ("weighed", {"item": "can"}, 14, 1),
        ("remote", None, "label of box of far", 1),
        ("fan", list("abcde"), ",".join(f"label of box of {each}" for each in "abcde"), 5),
        ("fan", [], "", 0),
        ("wired-fan", ["a", "b"], [6, 6], 2),
        ("listing", ["x", "y", "z"], 3, 1),
    ],
)
def test_a_flow_is_a_node_and_its_result_the_output(flow, given, result, count, nested):
    run = start(nested, flow, given)

    assert run.result(timeout=30) == result

    assert statuses(run) == ["succeeded"] * count
    assert {child.parent.id for child in run.children()} <= {run.id}
    rows = nested.orchestrator.runs(parent=run.id).rows
    assert {row.id for row in rows} == {child.id for child in run.children()}
    assert {row.parent for row in nested.orchestrator.runs(limit=1000).rows} == {None}


def test_a_child_that_fails_is_followed_by_another_one(nested):
    run = start(nested, "persistent", "shaky vase")
    assert run.result(timeout=30) == "label of box of shaky vase"
    assert sorted(statuses(run)) == ["failed", "succeeded"]


@pytest.mark.parametrize(("flow", "count"), [("one-message", 1), ("three-messages", 3), ("message-for-each", 4)])
def test_a_fused_flow_goes_on_with_a_fused_child_in_its_own_message(flow, count, nested):
    assert len(set(start(nested, flow).result(list[str], timeout=30))) == count


def test_a_tree_is_rolled_back_from_its_root(nested):
    run = start(nested, "order-both", "piano")

    assert run.wait(timeout=30) == "failed"

    assert run.error.node_name == "finish"
    assert statuses(run) == ["cancelled"]
    recalled, unpacked = (nested.LEDGER.names(each) for each in ("recall", "unpack"))
    assert "label of box of piano" in recalled
    assert "box of piano" in unpacked
    assert nested.LEDGER.names("unbill").count("piano") == 1


def test_a_child_that_fails_fails_its_node_and_a_lenient_step_goes_on(nested):
    run = start(nested, "order", "lead")
    with pytest.raises(RunFailed, match="nobody can carry it"):
        run.result(timeout=30)
    assert statuses(run) == ["failed"]
    lenient = start(nested, "lenient", "lead")
    assert lenient.wait(timeout=30) == "succeeded"
    assert statuses(lenient) == ["failed"]


def test_a_child_over_its_time_is_cancelled(nested):
    run = start(nested, "impatient", "slow one")
    assert run.wait(timeout=30) == "failed"
    assert run.error.type == "orchestrator.errors.NodeTimeout"
    assert statuses(run) == ["cancelled"]


def test_a_cancel_of_the_root_reaches_the_leaves(nested):
    run = start(nested, "orders", "slow two")
    leaf = wait_until(lambda: [each for child in run.children() for each in child.children()], "the tree is whole")[0]
    assert "waits for run" in {waiting.node: waiting.reason for waiting in run.explain()}["order"]

    run.cancel("enough")

    assert run.wait(timeout=30) == "cancelled"
    assert (statuses(run), leaf.status) == (["cancelled"], "cancelled")


def test_resume_and_undo_go_through_the_root(nested):
    run = start(nested, "order", "doubtful")
    assert run.wait(timeout=30) == "failed"
    (child,) = run.children()
    assert child.status == "cancelled"
    with pytest.raises(RunError, match="with the run"):
        child.resume()
    nested.LEDGER.client.set("helped", "1")

    run.resume()

    assert run.result(str, timeout=30) == "label of box of doubtful"
    assert statuses(run) == ["cancelled", "succeeded"]
    with pytest.raises(RunError, match="with the run"):
        run.children()[1].undo()
    run.undo("the customer changed her mind")
    wait_until(lambda: run.status == "cancelled", "the tree is undone")
    assert statuses(run) == ["cancelled", "cancelled"]
    tree = run.tree()
    assert [each.node for each in tree.children] == ["ship", "ship"]


def test_what_a_child_cannot_undo_is_repeated_by_the_root(nested):
    run = start(nested, "order", "stubborn piano")
    assert run.wait(timeout=30) == "compensation_failed"
    assert statuses(run) == ["compensation_failed"]
    nested.LEDGER.client.set("helped", "1")

    run.resume()

    assert run.wait(timeout=30) == "failed"
    assert statuses(run) == ["cancelled"]
    assert nested.LEDGER.names("recall").count("label of box of stubborn piano") == 2


def test_a_flow_is_repeated_with_its_own_result_and_all_of_it_is_undone(nested):
    nested.LEDGER.clear()
    run = start(nested, "mountain", 0)
    assert run.wait(timeout=30) == "failed"
    assert run.error.node_name == "jump"
    assert statuses(run) == ["cancelled"] * 3
    assert nested.LEDGER.names("climb") == ["0", "1", "2"]
    assert nested.LEDGER.names("descend") == ["3", "2", "1"]
    nested.LEDGER.client.set("helped", "1")
    run.resume()
    assert run.result(int, timeout=30) == 3
    endless = start(nested, "endless", 0)
    assert endless.wait(timeout=30) == "failed"
    assert endless.error.type == "orchestrator.errors.RepetitionError"
    assert statuses(endless) == ["cancelled"] * 2


def test_a_tree_is_only_so_deep(nested):
    run = start(nested, "deep", 0)
    assert run.wait(timeout=30) == "failed"
    depth, tree = 0, run.tree()
    while tree.children:
        assert tree.status == "failed"
        (tree,) = tree.children
        depth += 1
    assert depth == nested.orchestrator._engine.settings.max_depth
    assert "max_depth is 16" in tree.run.error.message


def test_a_flow_that_nobody_has_announced_is_waited_for(nested):
    run = start(nested, "unannounced")
    reason = wait_until(lambda: [each.reason for each in run.explain() if each.state == "parked"], "the node is parked")
    assert reason == ["waits for a worker that announces flow nowhere"]
    run.cancel()
    assert run.wait(timeout=30) == "cancelled"


def test_children_are_kept_as_long_as_their_root(nested):
    run = start(nested, "order", "vase")
    run.result(timeout=30)
    (child,) = run.children()
    client, keys = nested.orchestrator._engine.store.client, nested.orchestrator._engine.store.keys
    wait_until(lambda: client.pttl(keys.run(child.id)) > 0, "the child has its retention")
