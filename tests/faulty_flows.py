"""Flows that are wrong, one fault each: what `build()` says of them, or what only a run can find out."""

import math
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pydantic import BaseModel

from orchestrator.builder import FlowBuilder
from orchestrator.context import NodeContext
from orchestrator.errors import (
    HiddenDependencyError,
    InvalidInput,
    InvalidOutput,
    MissingOutputError,
    Problem,
    Terminal,
)
from orchestrator.node import Node
from orchestrator.policies import RateLimit, RetryPolicy, SharedRateLimiter
from orchestrator.state import FlowState
from orchestrator.triggers import manual, schedule

# Takes whatever there is: what the type checkers refuse has to be refused at run time too.
Change = Callable[[Any], Any]
SECOND = timedelta(seconds=1)


@dataclass(frozen=True)
class Faulty:
    """A flow with one fault, made from a builder that is called like the row and has a trigger.

    Attributes:
        name: Of the row and of the flow.
        change: Gives the builder its steps and its fault.
        code: Of the one problem that `build()` reports; empty where only the run can find it.
        where: Of the problem, after `flow <name>, `; empty for the flow; whole where the flow's name is at fault.
        message: Of the problem; one that ends with "..." goes on in words that are not ours, or said in another row.
        raises: At run time: what the run fails with.
    """

    name: str
    change: Change
    code: str = ""
    where: str = ""
    message: str = ""
    raises: type[BaseException] | None = None

    def problem(self) -> Problem:
        """The one problem that `build()` reports."""
        if self.where.startswith("flow "):
            return Problem(self.where, self.code, self.message)
        return Problem(", ".join(filter(None, (f"flow {self.name}", self.where))), self.code, self.message)

    def builder(self) -> FlowBuilder:
        """The flow, not built yet."""
        made: FlowBuilder = self.change(FlowBuilder(self.name).triggered_by(manual("test")))
        return made


class Order(BaseModel):
    id: int
    lines: list[str] = []


def give() -> int:
    return 1


def take(value: int) -> int:
    return value


def take_order(order: Order) -> int:
    return order.id


def take_both(left: int, right: int) -> int:
    return left + right


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


def make_object() -> object:
    return object()


def fail() -> int:
    raise ConnectionError("refused")


def say_one(ctx: NodeContext) -> int:
    return ctx.node_name  # type: ignore[return-value]


def stop() -> None:
    raise Terminal("no use")


def at(state: FlowState, key: str) -> int:
    return state.get(key, int)


def divide(_state: FlowState) -> bool:
    return bool(1 // 0)


def always(_state: FlowState) -> bool:
    return True


def node(name: Any = "a", fn: Any = give, *given: Any, **options: Any) -> Any:
    """A node that is right, but for what it is given."""
    return Node(name, fn, *given, **options)


def reading(name: str, read: Callable[[FlowState], Any]) -> Any:
    """A node whose input function reads."""
    return Node(name, take).with_input_func(read)


def by_clock(cron: Any, **options: Any) -> Any:
    """A schedule that is right, but for what it is given."""
    return schedule(cron, **options)


def policy(**options: Any) -> Any:
    """A retry policy that is right, but for what it is given."""
    return RetryPolicy(**options)


def nested(builder: Any, depth: int) -> Any:
    """Blocks inside blocks."""
    for level in range(depth):
        builder.when(always).then(node(f"n{level}"))
    for _ in range(depth):
        builder.end_when()
    return builder


def plain(name: Any, **changes: Any) -> FlowBuilder:
    """A flow that is right, but for its name."""
    return FlowBuilder(name).triggered_by(*changes.get("triggers", [manual("test")])).then(node())


FOREIGN: Any = node("foreign")

NO_TRIGGER: tuple[Faulty, ...] = (
    Faulty(
        "no-trigger",
        lambda _: plain("no-trigger", triggers=[]),
        "no-trigger",
        "",
        'nothing starts it; add triggered_by(manual("api")) or a schedule(...)',
    ),
    Faulty(
        "cron-in-words",
        lambda b: b.then(node()).triggered_by(by_clock("every day")),
        "bad-trigger",
        "",
        "schedule('every day'): the cron expression 'every day' has 2 fields; write minute, hour, day, ...",
    ),
    Faulty(
        "cron-never",
        lambda b: b.then(node()).triggered_by(by_clock("0 0 31 2 *")),
        "bad-trigger",
        "",
        "schedule('0 0 31 2 *'): the cron expression '0 0 31 2 *' never fires: ...",
    ),
    Faulty(
        "cron-seconds",
        lambda b: b.then(node()).triggered_by(by_clock("0 0 * * * *")),
        "bad-trigger",
        "",
        "schedule('0 0 * * * *'): the cron expression '0 0 * * * *' has 6 fields; ...",
    ),
    Faulty(
        "cron-number",
        lambda b: b.then(node()).triggered_by(by_clock(5)),
        "bad-trigger",
        "",
        "schedule(5): the cron expression is a int, not a str; write five fields, such as '0 */4 * * *'",
    ),
    Faulty(
        "zone",
        lambda b: b.then(node()).triggered_by(by_clock("@daily", timezone="Mars/Olympus")),
        "bad-trigger",
        "",
        "schedule('@daily'): the time zone 'Mars/Olympus' is unknown; write an IANA name, such as 'Europe/Vienna'",
    ),
    Faulty(
        "overlap",
        lambda b: b.then(node()).triggered_by(by_clock("@daily", overlap="maybe")),
        "bad-trigger",
        "",
        "schedule('@daily'): overlap is neither 'skip' nor 'allow'",
    ),
    Faulty(
        "catch-up",
        lambda b: b.then(node()).triggered_by(by_clock("@daily", catch_up=-SECOND)),
        "bad-trigger",
        "",
        "schedule('@daily'): catch_up is not a timedelta of at least 0",
    ),
    Faulty(
        "cron-string",
        lambda b: b.then(node()).triggered_by("0 0 * * *"),
        "bad-trigger",
        "",
        "'0 0 * * *' is not a trigger; use manual(label) or schedule(cron)",
    ),
    Faulty(
        "label",
        lambda b: b.then(node()).triggered_by(manual("")),
        "bad-trigger",
        "",
        "the label of manual('') cannot be shown; use printable text",
    ),
    Faulty(
        "input-needed",
        lambda b: b.takes(Order).then(node()).triggered_by(by_clock("@daily")),
        "bad-trigger",
        "",
        "schedule('@daily'): the flow takes an input, so the schedule needs one, schedule(..., input=...): ...",
    ),
    Faulty(
        "input-unfit",
        lambda b: b.takes(Order).then(node()).triggered_by(by_clock("@daily", input={"id": "x"})),
        "bad-trigger",
        "",
        "schedule('@daily'): its input does not fit what the flow takes: ...",
    ),
)

NAMES: tuple[Faulty, ...] = (
    Faulty(
        "flow-name",
        lambda _: plain("Enrich Issues"),
        "bad-name",
        "flow 'Enrich Issues'",
        "the name 'Enrich Issues' cannot be used; use at most 100 of a-z, 0-9, _ and -, beginning ...",
    ),
    Faulty(
        "long-name",
        lambda _: plain("x" * 101),
        "bad-name",
        "flow 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...",
        "the name 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx... cannot be used; ...",
    ),
    Faulty(
        "name-number",
        lambda _: plain(5),
        "bad-name",
        "flow 5",
        "the name 5 cannot be used; ...",
    ),
    Faulty(
        "name-newline",
        lambda b: b.then(node("fetch\n")),
        "bad-name",
        "node 'fetch\\n'",
        "the name 'fetch\\n' cannot be used; ...",
    ),
    Faulty(
        "node-name",
        lambda b: b.then(node("Fetch")),
        "bad-name",
        "node 'Fetch'",
        "the name 'Fetch' cannot be used; ...",
    ),
    Faulty(
        "key-name",
        lambda b: b.then(node().as_("jira data")),
        "bad-name",
        "node a",
        "the output key 'jira data' cannot be used; ...",
    ),
    Faulty(
        "step-name",
        lambda b: b.then_parallel("", node()),
        "bad-name",
        "step ''",
        "the name '' cannot be used; ...",
    ),
    Faulty(
        "block-name",
        lambda b: b.when(always, name="a:b").then(node()).end_when(),
        "bad-name",
        "step 'a:b'",
        "the name 'a:b' cannot be used; ...",
    ),
    Faulty(
        "limiter-name",
        lambda b: b.then(node(shared_rate_limit=SharedRateLimiter("*", 1, SECOND))),
        "bad-name",
        "node a",
        "the shared rate limit's name '*' cannot be used; ...",
    ),
    Faulty(
        "compensation-name",
        lambda b: b.then(node().on_error(node("undo a"))),
        "bad-name",
        "node 'undo a'",
        "the name 'undo a' cannot be used; ...",
    ),
    Faulty(
        "node-queue",
        lambda b: b.then(node(queue="")),
        "bad-name",
        "node a",
        "the queue name '' cannot be used; use 1 to 255 printable characters",
    ),
    Faulty(
        "flow-queue",
        lambda b: b.then(node()).on_queue("high\r\n"),
        "bad-name",
        "",
        "the queue name 'high\\r\\n' cannot be used; use 1 to 255 printable characters",
    ),
    Faulty(
        "result-name",
        lambda b: b.then(node()).returns(5),
        "bad-name",
        "",
        "the key given to returns() 5 cannot be used; ...",
    ),
    Faulty(
        "same-node",
        lambda b: b.then(node()).then(node("b")).then(node()),
        "duplicate-node",
        "node a",
        "another node has this name, compensations included; rename one with .with_name(...)",
    ),
    Faulty(
        "same-object",
        lambda b: (one := node()) and b.then(one).then(one),
        "duplicate-node",
        "node a",
        "the same node is used twice; give one of them another name with .with_name(...)",
    ),
    Faulty(
        "undo-name",
        lambda b: b.then(node().on_error(node("b"))).then(node("b")),
        "duplicate-node",
        "node b",
        "another node has this name, compensations included; rename one with .with_name(...)",
    ),
    Faulty(
        "same-undo",
        lambda b: (undo := node("undo")) and b.then(node().on_error(undo)).then(node("b").on_error(undo)),
        "duplicate-node",
        "node undo",
        "the same compensation is used twice; give each its own with .with_name(...)",
    ),
    Faulty(
        "same-on-branches",
        lambda b: b.when(always).then(node()).otherwise(node()),
        "duplicate-node",
        "node a",
        "another node has this name, compensations included; rename one with .with_name(...)",
    ),
    Faulty(
        "block-as-node",
        lambda b: b.then(node()).when(always, name="a").then(node("b")).end_when(),
        "duplicate-node",
        "step a",
        "a node or another block has this name; give the block another one, when(predicate, name=...)",
    ),
    Faulty(
        "same-key",
        lambda b: b.then(node().as_("x")).then(node("b").as_("x")),
        "duplicate-key",
        "node b",
        "node a writes the output key x too; change one with as_(...)",
    ),
    Faulty(
        "key-and-name",
        lambda b: b.then_parallel("both", node(), node("b").as_("a")),
        "duplicate-key",
        "node b",
        "node a writes the output key a too; change one with as_(...)",
    ),
    Faulty(
        "key-after-branch",
        lambda b: b.when(always).then(node().as_("x")).otherwise(node("b").as_("x")).then(node("c").as_("x")),
        "duplicate-key",
        "node c",
        "node a writes the output key x too; change one with as_(...)",
    ),
)

SHAPES: tuple[Faulty, ...] = (
    Faulty("no-step", lambda b: b, "no-step", "", "the flow has no step; add one with then(node)"),
    Faulty(
        "empty-parallel",
        lambda b: b.then_parallel("none"),
        "empty-parallel",
        "step none",
        "the parallel step has no node; give it at least one, or remove it",
    ),
    Faulty(
        "require-all",
        lambda b: b.then_parallel("both", node(), node("b"), require=1),
        "bad-require",
        "step both",
        'require goes with on_failure="continue" only: with "fail" every node has to succeed',
    ),
    Faulty(
        "require-many",
        lambda b: b.then_parallel("both", node(), node("b"), on_failure="continue", require=3),
        "bad-require",
        "step both",
        "require=3 of 2 nodes; use 1 to 2, or leave it out to require none",
    ),
    Faulty(
        "require-none",
        lambda b: b.then_parallel("one", node(), on_failure="continue", require=0),
        "bad-require",
        "step one",
        "require=0 of 1 nodes; use 1 to 1, or leave it out to require none",
    ),
    Faulty(
        "require-text",
        lambda b: b.then_parallel("one", node(), on_failure="continue", require="1"),
        "bad-require",
        "step one",
        "require='1' is not a whole number; use 1 to 1",
    ),
    Faulty(
        "on-failure",
        lambda b: b.then_parallel("one", node(), on_failure="ignore"),
        "bad-require",
        "step one",
        'on_failure=\'ignore\' is not known; use "fail" or "continue"',
    ),
    Faulty(
        "undo-when",
        lambda b: b.then(node().on_error(node("b"), when="failed")),
        "bad-require",
        "node a",
        'on_error(when=\'failed\') is not known; use "succeeded" or "started"',
    ),
    Faulty(
        "undo-of-undo",
        lambda b: b.then(node().on_error(node("b").on_error(node("c")))),
        "bad-require",
        "node b",
        "it undoes a and has a compensation of its own, which never runs; remove it",
    ),
    Faulty(
        "unclosed",
        lambda b: b.when(always).then(node()),
        "unclosed-when",
        "step when-1",
        "the block is never closed; end it with end_when()",
    ),
    Faulty(
        "empty-branch",
        lambda b: b.when(always).else_().then(node()).end_when(),
        "empty-branch",
        "step when-1",
        "its branch 1 has no step; add one, or remove the branch",
    ),
    Faulty(
        "empty-else",
        lambda b: b.when(always).then(node()).else_().end_when(),
        "empty-branch",
        "step when-1",
        "its else-branch has no step; add one, or remove the branch",
    ),
    Faulty(
        "else-outside",
        lambda b: b.then(node()).else_().then(node("b")),
        "stray-else",
        "else_() after a",
        "there is no open when() that it could belong to; open a block before it",
    ),
    Faulty(
        "two-elses",
        lambda b: b.when(always).then(node()).else_().then(node("b")).else_().then(node("c")).end_when(),
        "stray-else",
        "else_() after b",
        "the block when-1 has its else-branch already; put this branch before it",
    ),
    Faulty(
        "else-before",
        lambda b: b.when(always).then(node()).else_().then(node("b")).else_when(always).then(node("c")).end_when(),
        "stray-else",
        "else_when() after b",
        "the block when-1 has its else-branch already; put this branch before it",
    ),
    Faulty(
        "end-outside",
        lambda b: b.then(node()).end_when(),
        "stray-else",
        "end_when() after a",
        "there is no open when() to close; remove it, or open a block",
    ),
    Faulty(
        "otherwise-outside",
        lambda b: b.otherwise(node()),
        "stray-else",
        "otherwise()",
        "there is no open when() that it could belong to; open a block before it",
    ),
    Faulty(
        "otherwise-again",
        lambda b: b.when(always).then(node()).otherwise(node("b")).otherwise(node("c")),
        "stray-else",
        "otherwise() after when-1",
        "there is no open when() that it could belong to; open a block before it",
    ),
    Faulty(
        "too-deep",
        lambda b: nested(b, 51),
        "bad-limit",
        "when() after n49",
        "blocks are nested more than 50 deep; split the flow",
    ),
    Faulty(
        "function",
        lambda b: b.then(give),
        "not-a-node",
        "node give",
        'give is not a Node; wrap the function, Node("a-name", give)',
    ),
    Faulty(
        "list",
        lambda b: b.then_parallel("both", [node(), node("b")]),
        "not-a-node",
        "step both",
        "[Node('a'), Node('b')] is not a Node; give the nodes one by one, *nodes",
    ),
    Faulty(
        "flow-as-step",
        lambda b: b.then(plain("inner").build()),
        "not-a-node",
        "node Flow('inner')",
        "Flow('inner') is not a Node; make one of a function, Node(name, function)",
    ),
    Faulty(
        "undo-function",
        lambda b: b.then(node().on_error(give)),
        "not-a-node",
        "node a",
        'on_error: give is not a Node; wrap the function, Node("a-name", give)',
    ),
)

LIMITS: tuple[Faulty, ...] = (
    Faulty(
        "limit-zero",
        lambda b: b.then(node().with_rate_limit(0, per=SECOND)),
        "bad-limit",
        "node a",
        "its rate limit's limit is 0; use a whole number from 1",
    ),
    Faulty(
        "limit-half",
        lambda b: b.then(node().with_rate_limit(0.5, per=SECOND)),
        "bad-limit",
        "node a",
        "its rate limit's limit is 0.5; use a whole number from 1",
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
        "its rate limit's burst is 0; use a whole number from 1",
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
        "its rate limit lets 10000000 start in 0:00:01; use at most one in a microsecond",
    ),
    Faulty(
        "limit-shared",
        lambda b: b.then(node(shared_rate_limit=SharedRateLimiter("x", -1, SECOND))),
        "bad-limit",
        "node a",
        "its shared rate limit x's limit is -1; use a whole number from 1",
    ),
    Faulty(
        "limit-other",
        lambda b: b.then(node(shared_rate_limit=SharedRateLimiter("x", 1, SECOND))).then(
            node("b", shared_rate_limit=SharedRateLimiter("x", 2, SECOND))
        ),
        "bad-limit",
        "node b",
        "its shared rate limit x has other numbers than another one of its name; use one limiter for both",
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
        "its retry policy's maximum_attempts is 0; use a whole number from 1",
    ),
    Faulty(
        "retry-flag",
        lambda b: b.then(node(retry=policy(maximum_attempts=True))),
        "bad-retry",
        "node a",
        "its retry policy's maximum_attempts is True; use a whole number from 1",
    ),
    Faulty(
        "retry-shrinks",
        lambda b: b.then(node(retry=policy(backoff_coefficient=0.5))),
        "bad-retry",
        "node a",
        "its retry policy's backoff_coefficient is 0.5; use a number from 1",
    ),
    Faulty(
        "retry-nan",
        lambda b: b.then(node(retry=policy(backoff_coefficient=math.nan))),
        "bad-retry",
        "node a",
        "its retry policy's backoff_coefficient is nan; use a number from 1",
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
        "its function unresolved: an annotation cannot be resolved: name 'Nowhere' is not defined",
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

READS: tuple[Faulty, ...] = (
    Faulty(
        "typo",
        lambda b: b.then(node("fetch")).then(reading("b", lambda s: s.get("fetsh"))),
        "unknown-key",
        "node b",
        "its input function reads the output fetsh, which no node writes; did you mean fetch?",
    ),
    Faulty(
        "name-as-key",
        lambda b: b.then(node().as_("x")).then(reading("b", lambda s: s.get("a"))),
        "unknown-key",
        "node b",
        "its input function reads the output a, which no node writes; the node of this name writes x",
    ),
    Faulty(
        "foreign-node",
        lambda b: b.then(reading("b", lambda s: s.get(FOREIGN))),
        "unknown-key",
        "node b",
        "its input function reads the output foreign, which no node writes; known: b",
    ),
    Faulty(
        "has-typo",
        lambda b: b.then(reading("b", lambda s: s.has("x"))),
        "unknown-key",
        "node b",
        "its input function reads the output x, which no node writes; known: b",
    ),
    Faulty(
        "failure-typo",
        lambda b: b.then(node()).then(reading("b", lambda s: s.failure("x"))),
        "unknown-key",
        "node b",
        "its input function reads the failure of x, but no node has this name; known: a, b",
    ),
    Faulty(
        "key-as-name",
        lambda b: b.then(node().as_("x")).then(reading("b", lambda s: s.failure("x"))),
        "unknown-key",
        "node b",
        "its input function reads the failure of x, but no node has this name; it is the output key of a",
    ),
    Faulty(
        "predicate-typo",
        lambda b: b.when(lambda s: s.get("x")).then(node()).end_when(),
        "unknown-key",
        "step when-1",
        "its predicate reads the output x, which no node writes; known: a",
    ),
    Faulty(
        "result-typo",
        lambda b: b.then(node("merge")).returns("merged"),
        "unknown-key",
        "",
        "returns(merged): no node writes this output key; did you mean merge?",
    ),
    Faulty(
        "later",
        lambda b: b.then(reading("a", lambda s: s.get("b"))).then(node("b")),
        "not-yet-written",
        "node a",
        "its input function reads the output b, which is written only later, by b; read it after that",
    ),
    Faulty(
        "own",
        lambda b: b.then(reading("a", lambda s: s.get_or("a", int, 0))),
        "not-yet-written",
        "node a",
        "its input function reads the output a, which is the node's own: it is written when the node has succeeded",
    ),
    Faulty(
        "own-failure",
        lambda b: b.then(reading("a", lambda s: s.failure("a"))),
        "not-yet-written",
        "node a",
        "its input function reads the failure of a, which is the node itself: it cannot have failed yet",
    ),
    Faulty(
        "own-branch",
        lambda b: b.when(lambda s: s.get("a")).then(node()).end_when(),
        "not-yet-written",
        "step when-1",
        "its predicate reads the output a, which is written only later, by a; read it after that",
    ),
    Faulty(
        "later-failure",
        lambda b: b.then(reading("a", lambda s: s.failure("b"))).then(node("b")),
        "not-yet-written",
        "node a",
        "its input function reads the failure of b, which runs only later; read it after that",
    ),
    Faulty(
        "undo-later",
        lambda b: b.then(node().on_error(reading("undo", lambda s: s.get("b")))).then(node("b")),
        "not-yet-written",
        "node undo",
        "its input function reads the output b, which is written only later, by b; read it after that",
    ),
    Faulty(
        "some-branches",
        lambda b: b.when(always).then(node()).end_when().then(reading("b", lambda s: s.get("a"))),
        "maybe-missing",
        "node b",
        "its input function reads the output a, which a may not have written; ask has() or use get_or()",
    ),
    Faulty(
        "other-branch",
        lambda b: b.when(always).then(node()).otherwise(reading("b", lambda s: s.get("a"))),
        "maybe-missing",
        "node b",
        "its input function reads the output a, which only a writes, on another branch; ask has() or use get_or()",
    ),
    Faulty(
        "best-effort",
        lambda b: b.then_parallel("all", node(), on_failure="continue").then(reading("b", lambda s: s.get("a"))),
        "maybe-missing",
        "node b",
        "its input function reads the output a, which a may not have written; ask has() or use get_or()",
    ),
    Faulty(
        "undo-started",
        lambda b: b.then(node().on_error(reading("undo", lambda s: s.get("a")), when="started")),
        "maybe-missing",
        "node undo",
        "its input function reads the output a, which a node that failed did not write; ask has() or use get_or()",
    ),
    Faulty(
        "sibling",
        lambda b: b.then_parallel("both", node(), reading("b", lambda s: s.get("a"))),
        "sibling-read",
        "node b",
        "its input function reads the output a, a RACE CONDITION: a runs at the same time; read it in a later step",
    ),
    Faulty(
        "sibling-has",
        lambda b: b.then_parallel("both", node(), reading("b", lambda s: s.has("a"))),
        "sibling-read",
        "node b",
        "its input function reads the output a, a RACE CONDITION: a runs at the same time; read it in a later step",
    ),
    Faulty(
        "sibling-failure",
        lambda b: b.then_parallel("both", node(), reading("b", lambda s: s.failure("a")), on_failure="continue"),
        "sibling-read",
        "node b",
        "its input function reads the failure of a, a RACE CONDITION: a runs at the same time; read it in a later step",
    ),
    Faulty(
        "sibling-undo",
        lambda b: b.then_parallel("both", node(), node("b").on_error(reading("undo", lambda s: s.get("a")))),
        "sibling-read",
        "node undo",
        "its input function reads the output a, a RACE CONDITION: a runs at the same time; read it in a later step",
    ),
)

ONLY_AT_RUN_TIME: tuple[Faulty, ...] = (
    Faulty("helper-reads", lambda b: b.then(reading("a", lambda s: at(s, "nothing"))), raises=MissingOutputError),
    Faulty(
        "helper-reads-sibling",
        lambda b: b.then_parallel("both", node(), reading("b", lambda s: at(s, "a"))),
        raises=HiddenDependencyError,
    ),
    Faulty(
        "reads-other-type",
        lambda b: b.then(node()).then(reading("b", lambda s: s.get("a", Order))),
        raises=InvalidInput,
    ),
    Faulty("input-raises", lambda b: b.then(reading("a", divide)), raises=ZeroDivisionError),
    Faulty("predicate-raises", lambda b: b.when(divide).then(node()).end_when(), raises=ZeroDivisionError),
    Faulty("input-is-wrong", lambda b: b.then(reading("a", lambda _: "one")), raises=InvalidInput),
    Faulty("output-nan", lambda b: b.then(node("a", lambda: math.nan)), raises=InvalidOutput),
    Faulty("output-object", lambda b: b.then(node("a", make_object)), raises=InvalidOutput),
    Faulty("output-is-wrong", lambda b: b.then(node("a", say_one)), raises=InvalidOutput),
    Faulty("says-terminal", lambda b: b.then(node("a", stop)), raises=Terminal),
    Faulty(
        "classifier-raises",
        lambda b: b.then(node("a", fail).with_error_classifier(lambda error: "retryable"[error])),
        raises=ConnectionError,
    ),
)


ROWS = NO_TRIGGER + NAMES + SHAPES + LIMITS + FUNCTIONS + READS + ONLY_AT_RUN_TIME
AT_RUN_TIME = [row for row in ROWS if not row.code]
AT_BUILD = [row for row in ROWS if row.code]
