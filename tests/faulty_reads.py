"""Flows with a node that reads what is not there, and flows whose fault only a run can find out."""

import math
from typing import Any

from orchestrator.definition.context import NodeContext
from orchestrator.definition.state import FlowState
from orchestrator.errors import HiddenDependencyError, InvalidInput, InvalidOutput, MissingOutputError, Terminal
from tests.faulty import Faulty, Order, always, node, reading


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


FOREIGN: Any = node("foreign")

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
        "its input function reads the output a, which no node writes; the node of this name writes the output key x",
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
        "its input function reads the output b, which b writes only later; read it in a later step",
    ),
    Faulty(
        "own",
        lambda b: b.then(reading("a", lambda s: s.get_or("a", int, 0))),
        "not-yet-written",
        "node a",
        "its input function reads the output a, which the node itself writes, after it has succeeded",
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
        "its predicate reads the output a, which a writes only later; read it in a later step",
    ),
    Faulty(
        "later-failure",
        lambda b: b.then(reading("a", lambda s: s.failure("b"))).then(node("b")),
        "not-yet-written",
        "node a",
        "its input function reads the failure of b, which runs only later; read it in a later step",
    ),
    Faulty(
        "undo-later",
        lambda b: b.then(node().on_error(reading("undo", lambda s: s.get("b")))).then(node("b")),
        "not-yet-written",
        "node undo",
        "its input function reads the output b, which b writes only later; read it in a later step",
    ),
    Faulty(
        "some-branches",
        lambda b: b.when(always).then(node()).end_when().then(reading("b", lambda s: s.get("a"))),
        "maybe-missing",
        "node b",
        "its input function reads the output a, which a may not have written; check has() or use get_or()",
    ),
    Faulty(
        "other-branch",
        lambda b: b.when(always).then(node()).otherwise(reading("b", lambda s: s.get("a"))),
        "maybe-missing",
        "node b",
        "its input function reads the output a, which only a writes, on another branch; check has() or use get_or()",
    ),
    Faulty(
        "best-effort",
        lambda b: b.then_parallel("all", node(), on_failure="continue").then(reading("b", lambda s: s.get("a"))),
        "maybe-missing",
        "node b",
        "its input function reads the output a, which a may not have written; check has() or use get_or()",
    ),
    Faulty(
        "undo-started",
        lambda b: b.then(node().on_error(reading("undo", lambda s: s.get("a")), when="started")),
        "maybe-missing",
        "node undo",
        "its input function reads the output a, which a failed node has not written; check has() or use get_or()",
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
