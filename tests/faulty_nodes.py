"""Flows with a node whose limits, policies or functions are wrong."""

import math
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any

from orchestrator.definition.policies import Adaptive, RateLimit, RetryPolicy, SharedConcurrency, SharedRateLimiter
from orchestrator.definition.state import FlowState
from tests.faulty import SECOND, Faulty, Order, always, give, node, take, take_both


def take_order(order: Order) -> int:
    return order.id


def count() -> Iterator[int]:
    yield 1


async def count_later() -> AsyncIterator[int]:
    yield 1


async def later(_state: FlowState) -> bool:
    return True


def unresolved(value: "Nowhere") -> None:  # type: ignore[name-defined]  # noqa: F821
    """Take what no module has."""


def make_lock() -> threading.Lock:
    return threading.Lock()


def policy(**options: Any) -> Any:
    """A retry policy that is right, but for what it is given."""
    return RetryPolicy(**options)


LIMITS: tuple[Faulty, ...] = (
    Faulty(
        "heartbeat-number",
        lambda b: b.then(node().with_heartbeat_timeout(5)),
        "bad-timeout",
        "node a",
        "its heartbeat timeout is 5; use a timedelta, such as timedelta(seconds=30)",
    ),
    Faulty(
        "heartbeat-without-context",
        lambda b: b.then(node().with_heartbeat_timeout(SECOND)),
        "bad-timeout",
        "node a",
        "it has a heartbeat timeout, but nothing in it can report: take a NodeContext as first parameter",
    ),
    Faulty(
        "deadline-number",
        lambda b: b.then(node().with_deadline(5)),
        "bad-timeout",
        "node a",
        "its deadline is 5; use a timedelta, such as timedelta(seconds=30)",
    ),
    Faulty(
        "deadline-of-a-compensation",
        lambda b: b.then(node().on_error(node("undo-a").with_deadline(SECOND))),
        "bad-timeout",
        "node undo-a",
        "a compensation is tried until its attempts are used up: give it a retry policy and a timeout, and no deadline",
    ),
    Faulty(
        "max-runs-zero",
        lambda b: b.with_max_runs(0).then(node()),
        "bad-limit",
        "",
        "its maximum of runs: the number is 0; use a whole number of at least 1",
    ),
    Faulty(
        "max-runs-key",
        lambda b: b.with_max_runs(1, key="customer..id").then(node()),
        "bad-limit",
        "",
        "its maximum of runs: key is 'customer..id'; use the path of a part of the input, such as \"customer.id\"",
    ),
    Faulty(
        "max-runs-when-full",
        lambda b: b.with_max_runs(1, when_full="wait").then(node()),
        "bad-limit",
        "",
        'its maximum of runs: when_full is \'wait\'; use "queue" or "skip"',
    ),
    Faulty(
        "max-runs-unknown-part",
        lambda b: b.takes(Order).with_max_runs(1, key="customer.id").then(node()),
        "bad-limit",
        "",
        "its maximum of runs: the input has nothing at 'customer.id'; name a part of it",
    ),
    Faulty(
        "limit-zero",
        lambda b: b.then(node().with_rate_limit(0, per=SECOND)),
        "bad-limit",
        "node a",
        "its rate limit's limit is 0; use a whole number of at least 1",
    ),
    Faulty(
        "limit-half",
        lambda b: b.then(node().with_rate_limit(0.5, per=SECOND)),
        "bad-limit",
        "node a",
        "its rate limit's limit is 0.5; use a whole number of at least 1",
    ),
    Faulty(
        "limit-per",
        lambda b: b.then(node().with_rate_limit(1, per=timedelta(0))),
        "bad-limit",
        "node a",
        "its rate limit's per is 0 s; use at least a millisecond",
    ),
    Faulty(
        "limit-burst",
        lambda b: b.then(node().with_rate_limit(1, per=SECOND, burst=0)),
        "bad-limit",
        "node a",
        "its rate limit's burst is 0; use a whole number of at least 1",
    ),
    Faulty(
        "limit-number",
        lambda b: b.then(node(rate_limit=10)),
        "bad-limit",
        "node a",
        "its rate limit is 10; give it a RateLimit(...)",
    ),
    Faulty(
        "limit-rate",
        lambda b: b.then(node(rate_limit=RateLimit(10**7, SECOND))),
        "bad-limit",
        "node a",
        "its rate limit allows 10000000 starts in 0:00:01; use at most one in a microsecond",
    ),
    Faulty(
        "limit-shared",
        lambda b: b.then(node(shared_rate_limit=SharedRateLimiter("x", -1, SECOND))),
        "bad-limit",
        "node a",
        "its shared rate limit x's limit is -1; use a whole number of at least 1",
    ),
    Faulty(
        "limit-other",
        lambda b: b.then(node(shared_rate_limit=SharedRateLimiter("x", 1, SECOND))).then(
            node("b", shared_rate_limit=SharedRateLimiter("x", 2, SECOND))
        ),
        "bad-limit",
        "node b",
        "its shared rate limit x differs from another one of the same name; use one object for both",
    ),
    Faulty(
        "limit-key",
        lambda b: b.then(node().with_rate_limit(1, per=SECOND, key="tenant")),
        "bad-function",
        "node a",
        "its key function 'tenant' is not a function; use a function or lambda of one argument",
    ),
    Faulty(
        "limit-key-other",
        lambda b: b.then(node(shared_rate_limit=SharedRateLimiter("x", 1, SECOND))).then(
            node("b", shared_rate_limit=SharedRateLimiter("x", 1, SECOND, key=str))
        ),
        "bad-limit",
        "node b",
        "its shared rate limit x has a key function in one node and none in another; rename one of them",
    ),
    Faulty(
        "adaptive-number",
        lambda b: b.then(node(shared_rate_limit=SharedRateLimiter("x", 5, SECOND, adaptive=True))),  # type: ignore[arg-type]
        "bad-limit",
        "node a",
        "its shared rate limit x's adaptive is True; give it an Adaptive(floor, ceiling)",
    ),
    Faulty(
        "adaptive-floor",
        lambda b: b.then(node(shared_rate_limit=SharedRateLimiter("x", 5, SECOND, adaptive=Adaptive(0, 5)))),
        "bad-limit",
        "node a",
        "its shared rate limit x's floor is 0; use a number above 0",
    ),
    Faulty(
        "adaptive-between",
        lambda b: b.then(node(shared_rate_limit=SharedRateLimiter("x", 5, SECOND, adaptive=Adaptive(6, 8)))),
        "bad-limit",
        "node a",
        "its shared rate limit x's limit 5 is not between its floor 6 and its ceiling 8",
    ),
    Faulty(
        "slots-number",
        lambda b: b.then(node(concurrency=3)),
        "bad-limit",
        "node a",
        "its concurrency is 3; give it a SharedConcurrency(...)",
    ),
    Faulty(
        "slots-zero",
        lambda b: b.then(node().with_concurrency(SharedConcurrency("db", 0))),
        "bad-limit",
        "node a",
        "its concurrency db's limit is 0; use a whole number of at least 1",
    ),
    Faulty(
        "slots-name",
        lambda b: b.then(node().with_concurrency(SharedConcurrency("a b", 1))),
        "bad-name",
        "node a",
        "the concurrency's name 'a b' is not valid...",
    ),
    Faulty(
        "slots-other",
        lambda b: b.then(node(concurrency=SharedConcurrency("db", 1))).then(
            node("b", concurrency=SharedConcurrency("db", 2))
        ),
        "bad-limit",
        "node b",
        "its concurrency db differs from another one of the same name; use one object for both",
    ),
    Faulty(
        "timeout-zero",
        lambda b: b.then(node().with_timeout(timedelta(0))),
        "bad-timeout",
        "node a",
        "its timeout is 0 s; use at least a millisecond",
    ),
    Faulty(
        "timeout-tiny",
        lambda b: b.then(node().with_timeout(timedelta(microseconds=999))),
        "bad-timeout",
        "node a",
        "its timeout is 0.000999 s; use at least a millisecond",
    ),
    Faulty(
        "timeout-number",
        lambda b: b.then(node().with_timeout(30)),
        "bad-timeout",
        "node a",
        "its timeout is 30; use a timedelta, such as timedelta(seconds=30)",
    ),
    Faulty(
        "timeout-none",
        lambda b: b.then(node(timeout=None)),
        "bad-timeout",
        "node a",
        "its timeout is None; use a timedelta, such as timedelta(seconds=30)",
    ),
    Faulty(
        "timeout-huge",
        lambda b: b.then(node(timeout=timedelta.max)),
        "bad-timeout",
        "node a",
        "its timeout is 999999999 days; use at most 36500",
    ),
    Faulty(
        "timeout-undo",
        lambda b: b.then(node().on_error(node("b", timeout=-SECOND))),
        "bad-timeout",
        "node b",
        "its timeout is -1 s; use at least a millisecond",
    ),
    Faulty(
        "timeout-run",
        lambda b: b.then(node()).with_timeout(-SECOND),
        "bad-timeout",
        "",
        "the run's timeout is -1 s; use at least a millisecond",
    ),
    Faulty(
        "retry-attempts",
        lambda b: b.then(node(retry=policy(maximum_attempts=0))),
        "bad-retry",
        "node a",
        "its retry policy's maximum_attempts is 0; use a whole number of at least 1",
    ),
    Faulty(
        "retry-flag",
        lambda b: b.then(node(retry=policy(maximum_attempts=True))),
        "bad-retry",
        "node a",
        "its retry policy's maximum_attempts is True; use a whole number of at least 1",
    ),
    Faulty(
        "retry-shrinks",
        lambda b: b.then(node(retry=policy(backoff_coefficient=0.5))),
        "bad-retry",
        "node a",
        "its retry policy's backoff_coefficient is 0.5; use a number of at least 1",
    ),
    Faulty(
        "retry-nan",
        lambda b: b.then(node(retry=policy(backoff_coefficient=math.nan))),
        "bad-retry",
        "node a",
        "its retry policy's backoff_coefficient is nan; use a number of at least 1",
    ),
    Faulty(
        "retry-interval",
        lambda b: b.then(node(retry=policy(initial_interval=-SECOND))),
        "bad-retry",
        "node a",
        "its retry policy's initial_interval is -1 s; use at least a millisecond, or 0",
    ),
    Faulty(
        "retry-errors",
        lambda b: b.then(node(retry=policy(non_retryable=[ValueError]))),
        "bad-retry",
        "node a",
        "its retry policy's non_retryable is [<class 'ValueError'>]; use a tuple of exception classes",
    ),
    Faulty(
        "retry-number",
        lambda b: b.then(node(retry=3)),
        "bad-retry",
        "node a",
        "its retry policy is 3; give it a RetryPolicy(...)",
    ),
)

FUNCTIONS: tuple[Faulty, ...] = (
    Faulty(
        "fn-text",
        lambda b: b.then(node("a", "give")),
        "bad-function",
        "node a",
        "its function 'give': a str is not a function",
    ),
    Faulty(
        "fn-generator",
        lambda b: b.then(node("a", count)),
        "bad-function",
        "node a",
        "its function count: it is a generator; return a list, or use paginate",
    ),
    Faulty(
        "fn-async-generator",
        lambda b: b.then(node("a", count_later)),
        "bad-function",
        "node a",
        "its function count_later: it is a generator; return a list, or use paginate",
    ),
    Faulty(
        "predicate-value",
        lambda b: b.when(1).then(node()).end_when(),
        "bad-function",
        "step when-1",
        "its predicate 1 is not a function; use a function or lambda of one argument",
    ),
    Faulty(
        "predicate-async",
        lambda b: b.when(later).then(node()).end_when(),
        "bad-function",
        "step when-1",
        "its predicate later is async, which only a node's own function may be; write it with def",
    ),
    Faulty(
        "input-async",
        lambda b: b.then(node("a", take).with_input_func(later)),
        "bad-function",
        "node a",
        "its input function later is async, which only a node's own function may be; write it with def",
    ),
    Faulty(
        "input-generator",
        lambda b: b.then(node("a", take).with_input_func(lambda s: (yield s))),
        "bad-function",
        "node a",
        "its input function <lambda>.<locals>.<lambda> is a generator; return the value instead of yielding it",
    ),
    Faulty(
        "input-arguments",
        lambda b: b.then(node("a", take).with_input_func(give)),
        "bad-function",
        "node a",
        "its input function give cannot be called with one argument; give it exactly one parameter",
    ),
    Faulty(
        "classifier",
        lambda b: b.then(node().with_error_classifier(take_both)),
        "bad-function",
        "node a",
        "its error classifier take_both cannot be called with one argument; give it exactly one parameter",
    ),
    Faulty(
        "type-unknown",
        lambda b: b.then(node("a", unresolved, 1)),
        "bad-type",
        "node a",
        "its function unresolved: an annotation cannot be resolved: name 'Nowhere' is not defined; import it outside "
        "of TYPE_CHECKING",
    ),
    Faulty(
        "type-lock",
        lambda b: b.then(node("a", make_lock)),
        "bad-type",
        "node a",
        "its function make_lock: its return type: ...",
    ),
    Faulty("type-takes", lambda b: b.takes(threading.Lock).then(node()), "bad-type", "", "takes(..."),
    Faulty(
        "input-missing",
        lambda b: b.then(node("a", take)),
        "input-mismatch",
        "node a",
        "its function takes value, but it has no input; give it one, with_input(...) or with_input_func(...)",
    ),
    Faulty(
        "input-fields",
        lambda b: b.then(node("a", take_both, {"left": 1})),
        "input-mismatch",
        "node a",
        "its input does not fit its function: ...",
    ),
    Faulty(
        "input-extra",
        lambda b: b.then(node("a", give, None)),
        "input-mismatch",
        "node a",
        "it has an input, but its function has no parameter for it; add one, or remove the input",
    ),
    Faulty(
        "input-func-extra",
        lambda b: b.then(node().with_input_func(always)),
        "input-mismatch",
        "node a",
        "it has an input, but its function has no parameter for it; add one, or remove the input",
    ),
    Faulty(
        "input-invalid",
        lambda b: b.then(node("a", take_order, {"id": "x", "lines": [1]})),
        "input-mismatch",
        "node a",
        "its input does not fit its function: ...",
    ),
)
