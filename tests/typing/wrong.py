"""Wrong uses of the public API, one a line: each is refused by mypy and by pyright on its line, and nothing else is.

A line says so with an ignore comment for each of them, and both report a comment that silences nothing. Never run.
"""

from __future__ import annotations

from datetime import timedelta
from typing import assert_type

from celery import Celery

from orchestrator import (
    FlowBuilder,
    FlowState,
    Node,
    NodeContext,
    Orchestrator,
    RateLimit,
    RemoteFlow,
    RetryLater,
    RetryPolicy,
    SharedRateLimiter,
    const,
    manual,
    map_item,
    node,
    run_input,
    schedule,
)

SECOND = timedelta(seconds=1)


def ping() -> int:
    return 1


def double(value: int) -> int:
    return 2 * value


def in_context(ctx: NodeContext, value: int) -> str:
    return ctx.run_id * value


async def later(_state: FlowState) -> bool:
    return True


def is_big(_state: FlowState) -> bool:
    return True


doubled = Node("double", double)
child = Node("child", RemoteFlow("other", takes=int, returns=str))
builder = FlowBuilder("wrong").triggered_by(manual("api"))
flow = builder.then(Node("ping", ping)).build()

# Nodes.

Node(5, ping)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
Node("a", "ping")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
Node("a", ping, timeout=30)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
Node("a", ping, retry=3)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
Node("a", ping, retries=RetryPolicy())  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
Node("a", ping, rate_limit=10)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
Node("a", ping, shared_rate_limit=RateLimit(1, SECOND))  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
Node("a", ping, on_error=ping)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
Node("a", ping, error_classifier=ping)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
doubled.as_(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
doubled.with_timeout(30)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
doubled.with_retry(maximum_attempts=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
doubled.with_rate_limit(10)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
doubled.with_rate_limit(10, per=60)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
doubled.with_rate_limit("10", per=SECOND)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
doubled.with_shared_rate_limit(RateLimit(10, SECOND))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
doubled.with_queue(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
doubled.on_error(ping)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
doubled.on_error(doubled, when="failed")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
doubled.with_input_func(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
doubled.with_input_func(lambda: 5)  # type: ignore[arg-type, misc]  # pyright: ignore[reportArgumentType]
doubled.with_input_func(lambda state: "five")  # type: ignore[arg-type, return-value]  # pyright: ignore[reportArgumentType]
doubled.with_inputs("double")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
doubled.with_inputs({"value": 5})  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
const()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
_ = run_input[1.5]  # type: ignore[index]  # pyright: ignore[reportArgumentType]
_ = map_item.id  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
doubled.with_error_classifier(lambda error: 5)  # type: ignore[arg-type, return-value]  # pyright: ignore[reportArgumentType]
doubled.timeout = SECOND  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
node(retries=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
node(5)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]

# Values.

RetryPolicy(maximum_attempts="3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
RetryPolicy(initial_interval=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
RetryPolicy(non_retryable=(ValueError(),))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
RateLimit(10)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
RateLimit(10, per=60)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
SharedRateLimiter("api", 10)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
SharedRateLimiter("api", 10, per=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
RetryPolicy().jitter = False  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
RetryLater("busy", after="soon")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
manual()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
manual(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
schedule(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
schedule("@daily", overlap="maybe")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
schedule("@daily", catch_up=60)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

# The builder.

builder.then(ping)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
builder.then([doubled])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
builder.then_parallel(doubled)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
builder.then_parallel("both", doubled, ping)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
builder.then_parallel("both", [doubled])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
builder.then_parallel("both", doubled, on_failure="ignore")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
builder.then_parallel("both", doubled, require="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
builder.when(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
builder.when(later)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
builder.when(lambda: True)  # type: ignore[arg-type, misc]  # pyright: ignore[reportArgumentType]
builder.when(is_big, 5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
builder.else_when(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
builder.otherwise(ping)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
builder.otherwise_parallel("both", ping)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
builder.triggered_by("@daily")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
builder.with_timeout(60)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
builder.on_queue(None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
builder.returns(5)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
builder.build().then(doubled)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
flow.name = "other"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
flow.canvas()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


# What the state returns.


def read(state: FlowState) -> None:
    assert_type(state.get(doubled), str)  # type: ignore[assert-type]  # pyright: ignore[reportAssertTypeFailure]
    assert_type(state.get("double", int), str)  # type: ignore[assert-type]  # pyright: ignore[reportAssertTypeFailure]
    assert_type(state.get_or("double", int, None), int)  # type: ignore[assert-type]  # pyright: ignore[reportAssertTypeFailure]
    assert_type(state.get(Node("b", in_context)), int)  # type: ignore[assert-type]  # pyright: ignore[reportAssertTypeFailure]
    assert_type(state.input(int), str)  # type: ignore[assert-type]  # pyright: ignore[reportAssertTypeFailure]
    assert_type(state.get(child), int)  # type: ignore[assert-type]  # pyright: ignore[reportAssertTypeFailure]
    assert_type(state.get(Node("flow", flow)), str)  # type: ignore[assert-type]  # pyright: ignore[reportAssertTypeFailure]
    child.with_input("one")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    RemoteFlow(5)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    state.get(5)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    state.get()  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    state.get(ping)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    state.get_or("double", int)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    state.has(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    state.failure(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    state.run_id = "other"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    state.set("double", 5)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


# Following runs.


def follow(orchestrator: Orchestrator) -> None:
    Orchestrator(Celery(), settings={"lease": 30})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    orchestrator.start(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    orchestrator.start(flow, idempotency_key=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    orchestrator.register("wrong")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    run = orchestrator.start(flow)
    assert_type(run.result(int), str)  # type: ignore[assert-type]  # pyright: ignore[reportAssertTypeFailure]
    run.wait(timeout="60")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    run.status = "succeeded"  # type: ignore[assignment, misc]  # pyright: ignore[reportAttributeAccessIssue]
