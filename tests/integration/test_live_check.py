"""Verdicts over unfinished runs: the same code, code that is gone, and types that no longer fit."""

from __future__ import annotations

from datetime import timedelta
from itertools import count

import pytest
from celery import Celery

from orchestrator import FlowBuilder, FlowState, Node, Orchestrator, Settings, SharedRateLimiter, manual
from orchestrator.cli.live import GOES_ON, GONE, NO_FIT, judge_live

NUMBERS = count()


def take(given: int) -> int:
    return given


def pack(given: int) -> str:
    return str(given)


def pack_otherwise(given: int) -> str:
    return f"a box of {given}"


def take_text(given: str) -> str:
    return given


def flow(first=take, second=pack, *, name: str = "order", last: str = "pack"):
    read = int if first is take else str
    return (
        FlowBuilder(name)
        .takes(read)
        .triggered_by(manual("test"))
        .on_queue("nobody")
        .then(Node("take", first).with_input_func(lambda state: state.input(read)))
        .then(Node(last, second).with_input_func(lambda state: state.get("take", read)))
        .build()
    )


def app_with(server, prefix: str, *flows) -> Orchestrator:
    app = Celery("live", broker=server.url, backend=server.url, set_as_current=False)
    orchestrator = Orchestrator(app, settings=Settings(prefix=prefix))
    for each in flows:
        orchestrator.register(each)
    return orchestrator


@pytest.fixture
def prefix(server):
    return f"live{next(NUMBERS)}"


def verdicts(orchestrator: Orchestrator) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(each.verdict, each.reason, each.runs) for each in judge_live(orchestrator)]


def test_the_same_code_and_another_body_let_a_run_go_on(server, prefix):
    run = app_with(server, prefix, flow()).start("order", 1)
    other_body = app_with(server, prefix, flow(second=pack_otherwise))
    assert verdicts(app_with(server, prefix, flow())) == [(GOES_ON, "", (run.id,))]
    assert [verdict for verdict, _, _ in verdicts(other_body)] == [GOES_ON]
    run.cancel()
    assert verdicts(other_body) == []


def test_a_flow_or_a_node_that_is_gone_keeps_runs_waiting(server, prefix):
    run = app_with(server, prefix, flow()).start("order", 1)
    without_flow = app_with(server, prefix, flow(name="other"))
    assert verdicts(without_flow) == [(GONE, "the app has no flow order", (run.id,))]
    without_node = app_with(server, prefix, flow(last="wrap"))
    assert verdicts(without_node) == [(GONE, "pack: it has no node of this name", (run.id,))]
    run.cancel()


def test_a_type_that_has_changed_does_not_fit_what_is_stored(server, prefix):
    run = app_with(server, prefix, flow()).start("order", 1)
    ((verdict, reason, runs),) = verdicts(app_with(server, prefix, flow(first=take_text, second=take_text)))
    assert (verdict, runs) == (NO_FIT, (run.id,))
    assert reason.startswith("take: ")
    assert "type" in reason
    run.cancel()


def name_seat() -> str:
    return "12a"


def ask() -> str:
    return "sold"


def seat_of(state: FlowState) -> str:
    return state.get("seat", str)


def tenant_of(state: FlowState) -> str:
    return state.get("tenant", str)


def limited(key=None, *, writes: tuple[str, ...] = ("seat",)):
    """A flow whose last node shares a limiter, in one bucket or in one for each key."""
    builder = FlowBuilder("seats").triggered_by(manual("test")).on_queue("nobody")
    for name in writes:
        builder.then(Node(name, name_seat))
    limiter = SharedRateLimiter("api", 5, per=timedelta(seconds=1), key=key)
    return builder.then(Node("ask", ask).with_shared_rate_limit(limiter)).build()


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (limited(seat_of), limited(lambda state: state.get("seat", str).upper()), (GOES_ON, "")),
        (limited(), limited(seat_of), (GOES_ON, "")),
        (limited(seat_of), limited(), (GONE, "ask: limiter api has no key function there")),
        (
            limited(seat_of),
            limited(tenant_of, writes=("seat", "tenant")),
            (
                NO_FIT,
                "ask: for a key of limiter api, it reads output 'tenant', which the run's plan never writes before it",
            ),
        ),
        # The run counts in one bucket, so that nobody asks for its key.
        (limited(), limited(tenant_of, writes=("seat", "tenant")), (GOES_ON, "")),
    ],
)
def test_a_key_of_a_limit_counts_where_the_run_counts_by_key(server, prefix, old, new, expected):
    run = app_with(server, prefix, old).start("seats")
    assert verdicts(app_with(server, prefix, new)) == [(*expected, (run.id,))]
    run.cancel()


def test_a_node_of_another_kind_is_code_that_is_gone(server, prefix):
    run = app_with(server, prefix, flow()).start("order", 1)
    other = (
        FlowBuilder("order")
        .takes(int)
        .triggered_by(manual("test"))
        .on_queue("nobody")
        .then(Node("take", take).with_input_func(lambda state: state.input(int)))
        .then_map("packs", Node("pack", pack), over=lambda state: [state.get("take", int)])
        .build()
    )
    told = "pack: there it is the node of a map, in the run's plan a node"
    assert verdicts(app_with(server, prefix, other)) == [(GONE, told, (run.id,))]
    run.cancel()
