"""Deployments under live runs: a run keeps the plan it was started with, and waits for the code that it lacks."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import pytest
from celery import Celery

from orchestrator import Orchestrator, UnknownFlow
from orchestrator.server import EmbeddedServer
from tests.harness import Ledger, load_program, wait_until, workers

if TYPE_CHECKING:
    from orchestrator import FlowRun

WAITING = {"orders": "ship", "fans": "middle", "branches": "choice", "swapped": "gate"}
"""Flow to the node for which only the old tree has the code."""
UNREAD = ("models", "customers")
"""Flows whose types differ between the trees."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with EmbeddedServer(tmp_path_factory.mktemp("server")) as running:
        yield running


@dataclass
class Story:
    """What happened over three deployments: old, then new beside old, then old again.

    Attributes:
        runs: By flow.
        rolled: Runs of one flow, started from either tree by turns while both had a worker.
        statuses: Of the runs that could not go on in a deployment, at its end; by deployment and flow.
        reasons: What `explain` says of runs whose data the new tree does not know.
        unknown: What starting a flow by its name raised before any worker had announced it.
    """

    runs: dict[str, FlowRun] = field(default_factory=dict)
    rolled: list[FlowRun] = field(default_factory=list)
    statuses: dict[str, dict[str, str]] = field(default_factory=dict)
    unknown: UnknownFlow | None = None
    reasons: dict[str, list[str]] = field(default_factory=dict)

    def note(self, deployment, flows):
        self.statuses[deployment] = {flow: str(self.runs[flow].status) for flow in flows}


@pytest.fixture(scope="module")
def story(server, tmp_path_factory):
    old, new = load_program("shop_old", server.url), load_program("shop_new", server.url)
    stranger = Orchestrator(Celery("stranger", broker=server.url, backend=server.url))
    told = Story()

    @contextmanager
    def deployed(tree, *queues):
        options = ["-c", "2", "-Q", ",".join(queues)]
        folder = tmp_path_factory.mktemp(tree)
        program = f"tests.programs.shop_{tree}"
        with workers(program, server.url, folder, count=1, options=options, lease="3", reconcile_every="0.5") as (one,):
            yield
            assert one.process.poll() is None, one.log.read_text()[-4000:]

    with deployed("old", old.QUEUE):
        with pytest.raises(UnknownFlow) as caught:
            stranger.start("only-new")
        told.unknown = caught.value
        told.runs["only-new"] = new.orchestrator.start("only-new")
        told.runs["models"] = old.orchestrator.start("models")
        wait_until(lambda: told.runs["models"].state().has("make"), "the old tree has made the offer")
        wait_until(lambda: "republished" in events(told.runs["only-new"]), "the run of the new flow is looked after")
        told.note("old", ["only-new"])

    with deployed("new", old.QUEUE, old.LATER):
        told.runs |= {flow: old.orchestrator.start(flow, "last") for flow in WAITING}
        told.runs["customers"] = old.orchestrator.start("customers", {"name": "Ada"})
        told.runs["by-name"] = stranger.start("orders")
        for flow in ("only-new", "by-name"):
            told.runs[flow].wait(timeout=30)
        wait_until(lambda: all("republished" in events(told.runs[flow]) for flow in WAITING), "runs are looked after")
        told.note("new", WAITING)
        for flow in UNREAD:
            told.reasons[flow] = wait_until(partial(misfits, told.runs[flow]), f"{flow} waits for code")
        with deployed("old", old.QUEUE, old.LATER):
            told.rolled = [tree.orchestrator.start("rolled") for _ in range(10) for tree in (old, new)]
            for run in told.rolled:
                run.wait(timeout=30)

    with deployed("old", old.QUEUE, old.LATER):
        for flow in (*WAITING, *UNREAD):
            told.runs[flow].wait(timeout=60)
    return told


@pytest.fixture
def trees(server, story):
    """(tree, node) of every node function that was called."""
    return [(tree, node) for tree, node, _, _ in Ledger(server.url).lines()]


def events(run):
    return [event.event for event in run.history()]


def misfits(run):
    """Why no worker has code for it, if that is why it waits."""
    return [waiting.reason for waiting in run.explain() if "no code" in waiting.reason]


def path(run):
    """The nodes that succeeded, in order."""
    return [event.node for event in run.history() if event.event == "succeeded"]


def test_a_run_waits_for_a_worker_with_its_flow(story):
    assert story.statuses["old"] == {"only-new": "pending"}
    run = story.runs["only-new"]
    assert run.result(str) == "new novelty"
    assert events(run).count("started") == 1, "no attempt was counted for workers without the code"


def test_a_flow_that_no_worker_has_announced_cannot_be_started_by_its_name(story):
    assert str(story.unknown).startswith("there is no flow named 'only-new'; ")
    assert "orders" in story.unknown.known


def test_a_run_whose_node_is_gone_waits_and_goes_on_with_the_old_tree(story):
    assert story.statuses["new"] == dict.fromkeys(WAITING, "running") | {"branches": "pending", "swapped": "pending"}
    for flow, node in WAITING.items():
        run = story.runs[flow]
        assert run.status == "succeeded"
        assert run.error is None
        attempts = [event.attempt for event in run.history() if event.event == "started" and event.node == node]
        assert attempts == [1], "no attempt was counted for workers without the code"


def test_added_removed_renamed_and_moved_nodes_do_not_change_a_live_run(story, trees):
    run = story.runs["orders"]
    assert path(run) == ["receive", "reserve", "ship", "bill"]
    assert run.state().keys() == {"receive", "reserve", "ship", "bill"}
    assert run.output("receive") == "new receive"
    assert run.output("ship") == "old ship"
    assert run.result(str) == run.output("bill")
    assert [node for _, node in trees].count("ship") == 1


def test_a_run_started_by_name_takes_the_plan_that_was_announced_last(story):
    assert path(story.runs["by-name"]) == ["receive", "pack", "bill", "dispatch", "reserve"]


def test_a_parallel_step_waits_for_the_member_that_is_gone(story):
    run = story.runs["fans"]
    assert sorted(path(run)[:2]) == ["left", "right"]
    assert path(run)[2:] == ["middle", "joined"]
    assert run.result(list[str]) == ["left", "middle", "right"]


def test_a_decision_with_other_branches_is_not_taken_by_the_new_tree(story, trees):
    assert path(story.runs["branches"]) == ["choice", "last", "after"]
    assert ("new", "second") not in trees


def test_a_node_is_not_taken_by_a_decision_of_the_same_name(story, trees):
    assert path(story.runs["swapped"]) == ["gate", "behind"]
    assert ("old", "gate") in trees
    assert ("new", "inside") not in trees


def test_with_both_trees_at_work_every_run_keeps_its_own_path(story, trees):
    paths = [path(run) for run in story.rolled]
    assert paths[::2] == [["one", "two", "three"]] * 10
    assert paths[1::2] == [["three", "one", "two"]] * 10
    steps = {"one", "two", "three"}
    assert len([node for _, node in trees if node in steps]) == 60, "each node ran once"
    assert {tree for tree, node in trees if node in steps} == {"old", "new"}


def test_an_output_of_a_type_that_the_new_tree_does_not_know_is_left_to_the_old_one(story):
    (reason,) = story.reasons["models"]
    assert "start one with the run's version of models.judge" in reason
    assert "output 'make' is of another type there" in reason
    run = story.runs["models"]
    assert run.status == "succeeded"
    assert run.result(int) == 5
    assert events(run).count("started") == 2, "no attempt was counted for workers without the code"


def test_an_input_of_a_type_that_the_new_tree_does_not_know_is_left_to_the_old_one(story):
    (reason,) = story.reasons["customers"]
    assert "the run's input is of another type there" in reason
    run = story.runs["customers"]
    assert run.status == "succeeded"
    assert run.result(str) == "Ada"
    assert "given-back" in events(run)
    assert {event.attempt for event in run.history() if event.event == "started"} == {1}, "it costs no attempt"
