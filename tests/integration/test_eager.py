"""Runs under `task_always_eager`: the caller starts them, and whoever waits for one makes what is due in it."""

from __future__ import annotations

import asyncio
import logging
import threading
from datetime import timedelta

import pytest
from celery import Celery

from orchestrator import (
    FlowBuilder,
    Node,
    NodeContext,
    Orchestrator,
    RetryLater,
    RetryPolicy,
    RunFailed,
    SharedConcurrency,
    SharedRateLimiter,
    manual,
)
from orchestrator.maintenance import eager_runs
from orchestrator.server import EmbeddedServer

SOON = RetryPolicy(initial_interval=timedelta(milliseconds=50), maximum_attempts=3, jitter=False)
ONCE = RetryPolicy(maximum_attempts=1)
LATE = RetryPolicy(initial_interval=timedelta(minutes=1), maximum_attempts=3)
spaced = SharedRateLimiter("eager-api", 5, per=timedelta(seconds=1), burst=1)
slots = SharedConcurrency("eager-slots", 1)


def works() -> str:
    return "done"


def fails_once(ctx: NodeContext) -> int:
    if ctx.attempt == 1:
        raise ConnectionError("once")
    return ctx.attempt


async def fails_once_later(ctx: NodeContext) -> int:
    await asyncio.sleep(0)
    return fails_once(ctx)


def is_told_to_wait(ctx: NodeContext) -> int:
    if ctx.attempt == 1:
        raise RetryLater(after=timedelta(milliseconds=50))
    return ctx.attempt


def fails_once_at_two(ctx: NodeContext, item: int) -> int:
    return fails_once(ctx) if item == 2 else item


def fails() -> None:
    raise ValueError("broken")


def thread() -> str:
    return threading.current_thread().name


def node(name, function=works, policy=SOON):
    return Node(name, function).with_retry(policy)


def flow(name):
    return FlowBuilder(name).triggered_by(manual("test"))


def many(limited):
    return [limited(Node(f"n{number}", works)) for number in range(3)]


# A flow, and how its run ends.
FLOWS = {
    "line": (flow("line").then(node("a")).then(node("b", fails_once)).then(node("c")), "succeeded"),
    "fused": (flow("fused").fused().then(node("a")).then(node("b", fails_once)).then(node("c")), "succeeded"),
    "async": (flow("async").then(node("a", fails_once_later)).then(node("b")), "succeeded"),
    "told": (flow("told").then(node("a", is_told_to_wait)), "succeeded"),
    "branch": (
        flow("branch").then(node("a")).when(lambda _: True).then(node("b", fails_once)).end_when(),
        "succeeded",
    ),
    "fan": (
        flow("fan").then_parallel("p", node("a"), node("b", fails_once), node("c", fails_once_later)).then(node("d")),
        "succeeded",
    ),
    "local": (
        flow("local").fused().then(node("x")).then_parallel("p", node("a", fails_once), node("b"), local=True),
        "succeeded",
    ),
    "best-effort": (
        flow("best-effort")
        .then_parallel("p", node("a"), node("b", fails, ONCE), on_failure="continue")
        .then(node("c")),
        "succeeded",
    ),
    "map": (flow("map").then_map("m", node("each", fails_once_at_two), over=lambda _: [1, 2, 3]), "succeeded"),
    "limited": (
        flow("limited").then_parallel("p", *many(lambda each: each.with_shared_rate_limit(spaced))),
        "succeeded",
    ),
    "slotted": (flow("slotted").then_parallel("p", *many(lambda each: each.with_concurrency(slots))), "succeeded"),
    "saga": (
        flow("saga").then(node("a").on_error(node("undo", fails_once))).then(node("b", fails, ONCE)).then(node("c")),
        "failed",
    ),
    "fan-saga": (
        flow("fan-saga").then_parallel("p", node("a").on_error(node("undo")), node("b", fails, ONCE)),
        "failed",
    ),
    "late": (flow("late").with_timeout(timedelta(milliseconds=300)).then(node("a", fails_once, LATE)), "failed"),
    "patient": (flow("patient").then(node("a", fails_once, LATE)), None),
    "thread": (flow("thread").then(node("a", thread)), "succeeded"),
}


def eager(url, **conf):
    app = Celery("eager", broker=url, backend=url, set_as_current=False)
    app.conf.update(task_always_eager=True, **conf)
    made = Orchestrator(app)
    for builder, _ in FLOWS.values():
        made.register(builder.build())
    return made


@pytest.fixture(scope="module", params=[False, True], ids=["", "propagates"])
def orchestrator(request, tmp_path_factory):
    """A client of a server on which there is no worker."""
    with EmbeddedServer(tmp_path_factory.mktemp("server")) as server:
        yield eager(server.url, task_eager_propagates=request.param)


@pytest.mark.parametrize("name", [name for name, (_, ends) in FLOWS.items() if ends])
def test_a_run_ends_with_whoever_waits_for_it(orchestrator, name):
    run = orchestrator.start(name)
    assert run.wait(timeout=20) == FLOWS[name][1]
    if run.status == "failed":
        with pytest.raises(RunFailed, match="broken" if "saga" in name else "did not end within"):
            run.result()


def test_a_compensation_is_made_with_its_retries(orchestrator):
    run = orchestrator.start("saga")
    assert run.wait(timeout=20) == "failed"
    assert [event.attempt for event in run.history() if (event.event, event.node) == ("started", "undo")] == [1, 2]


def test_a_retry_that_is_not_due_is_waited_for_and_those_of_others_are_theirs(orchestrator):
    patient, other = orchestrator.start("patient"), orchestrator.start("line")
    with pytest.raises(TimeoutError, match="it is running"):
        patient.wait(timeout=0.3)
    assert other.status == "running", "it has waited for longer than its retry takes"
    assert other.wait(timeout=20) == "succeeded"
    patient.cancel("over")
    assert patient.wait(timeout=20) == "cancelled"


@pytest.mark.parametrize("name", ["fan", "map"])
def test_workers_of_other_flows_on_the_same_redis_do_not_keep_a_run_from_its_end(sample, server, name):
    """Their reconciler publishes the retry, to a queue where nobody has the code."""
    assert eager(server.url).start(name).wait(timeout=30) == "succeeded"


def test_coroutines_wait_too_and_their_loop_goes_on(orchestrator):
    async def go():
        run = await orchestrator.start_async("async")
        assert await run.wait_async(timeout=20) == "succeeded"
        return await (await orchestrator.start_async("thread")).result_async(str)

    assert asyncio.run(go()) != threading.main_thread().name


def test_a_log_line_says_once_what_this_does_not_show(orchestrator, caplog):
    eager_runs.warn_of_eager.cache_clear()
    with caplog.at_level(logging.WARNING, logger="orchestrator"):
        for _ in range(2):
            orchestrator.start("thread").wait(timeout=20)
    (line,) = [record.getMessage() for record in caplog.records if "task_always_eager" in record.getMessage()]
    assert "locks, leases and recovery are not exercised" in line
