"""Checks of `build()`: what they refuse, what they let pass, and that nothing makes them crash."""

import warnings
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any
from unittest.mock import MagicMock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from orchestrator.definition.builder import FlowBuilder
from orchestrator.definition.context import NodeContext
from orchestrator.definition.flow import Flow
from orchestrator.definition.node import Node
from orchestrator.definition.policies import RateLimit, RetryPolicy, SharedRateLimiter
from orchestrator.definition.state import FlowState
from orchestrator.definition.triggers import manual, schedule
from orchestrator.errors import FlowDefinitionError, FlowDefinitionWarning, Problem
from tests.faulty import Faulty, always, give, node, reading, take, take_both
from tests.faulty_flows import AT_BUILD, AT_RUN_TIME

CODES = {
    *("no-step", "no-trigger", "bad-trigger", "bad-name", "duplicate-node", "duplicate-key", "empty-parallel"),
    *("bad-require", "unclosed-when", "empty-branch", "stray-else", "bad-limit", "bad-timeout", "bad-retry"),
    *("not-a-node", "bad-function", "bad-type", "input-mismatch", "unknown-key", "not-yet-written"),
    *("maybe-missing", "sibling-read", "bad-batch", "too-wide", "bad-child"),
}
SECOND = timedelta(seconds=1)


def problems_of(builder: FlowBuilder) -> tuple[Problem, ...]:
    with pytest.raises(FlowDefinitionError) as refusal:
        builder.build()
    assert str(refusal.value).splitlines() == [f"{each.where}: {each.message}" for each in refusal.value.problems]
    return refusal.value.problems


def start(**options: Any) -> Any:
    return FlowBuilder(options.get("name", "legal")).triggered_by(manual("test"))


@pytest.mark.parametrize("row", AT_BUILD, ids=lambda row: row.name)
def test_a_faulty_flow_is_refused_with_its_one_problem(row: Faulty):
    (found,) = problems_of(row.builder())

    expected = row.problem()
    assert (found.where, found.code) == (expected.where, expected.code)
    if expected.message.endswith("..."):
        assert found.message.startswith(expected.message.removesuffix("..."))
        assert len(found.message) > len(expected.message) - len("...")
    else:
        assert found.message == expected.message


def test_the_table_has_every_code_and_each_row_once():
    assert {row.code for row in AT_BUILD} == CODES
    assert len(AT_BUILD) >= 40
    names = [row.name for row in (*AT_BUILD, *AT_RUN_TIME)]
    assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize("row", AT_RUN_TIME, ids=lambda row: row.name)
def test_what_only_a_run_can_find_is_built(row: Faulty):
    assert row.builder().build().name == row.name
    assert row.raises is not None


def test_every_problem_is_told_at_once():
    # Given a flow with a fault of nearly every kind
    builder: Any = FlowBuilder("Shop")
    builder.then(give).then(node().with_timeout(timedelta(0))).then_parallel("none").when(5).else_().then(node())
    builder.then(reading("b", lambda s: s.get("typo"))).on_queue("\0").with_timeout(3).takes(MagicMock())

    # When it is built
    found = problems_of(builder)

    # Then each of them is there, once
    assert sorted(problem.code for problem in found) == [
        "bad-function",
        "bad-name",
        "bad-name",
        "bad-timeout",
        "bad-timeout",
        "bad-type",
        "duplicate-node",
        "empty-branch",
        "empty-parallel",
        "no-trigger",
        "not-a-node",
        "unclosed-when",
        "unknown-key",
    ]
    assert len(set(found)) == len(found)


def test_a_problem_is_told_once_however_often_its_node_is_used():
    slow: Any = node().with_timeout(timedelta(0))

    assert [each.code for each in problems_of(start().then(slow).then(slow).then(slow))] == [
        "duplicate-node",
        "bad-timeout",
    ]


def test_a_problem_of_a_compensation_names_it_and_not_its_node():
    (problem,) = problems_of(start().then(node("pay").on_error(Node("refund", count_up))))

    assert (problem.where, problem.code) == ("flow legal, node refund", "bad-function")


def count_up() -> Any:
    yield 1


class Order(BaseModel):
    id: int


async def take_later(order: Order) -> Order:
    return order


def take_in_context(ctx: NodeContext, order: Order) -> str:
    return f"{ctx.run_id}{order.id}"


def take_or_not(order: Order | None = None) -> int:
    return order.id if order else 0


def take_left(left: int, right: int = 2) -> int:
    return left + right


def read_both(state: FlowState) -> int:
    return state.get_or("a", int, 0) + (state.get("a", int) if state.has("a") else 0)


class Reader:
    def __call__(self, state: FlowState) -> Any:
        return state.get("a")

    def read(self, state: FlowState) -> Any:
        return state.get("a")


def read_with(extra: int, state: FlowState) -> int:
    return state.get("a", int) + extra


def parallel(*nodes: Any, **options: Any) -> Any:
    return start().then_parallel("both", *nodes, **options)


def undo(read: Callable[[FlowState], Any]) -> Any:
    return reading("undo", read)


A, B = node("a"), node("b")
KEYED = A.as_("x")
LIMITER = SharedRateLimiter("api", 5, per=SECOND)

LEGAL: dict[str, Callable[[], Any]] = {
    "no input": lambda: start().then(A),
    "None is an input": lambda: start().then(node("a", lambda _: 1, None)),
    "an input from a mapping": lambda: start().then(node("a", take_later, {"id": "7"})),
    "a context and an input": lambda: start().then(node("a", take_in_context, Order(id=1))),
    "a context alone": lambda: start().then(node("a", lambda_of_context)),
    "several parameters": lambda: start().then(node("a", take_both, {"left": 1, "right": 2})),
    "a parameter left to its default": lambda: start().then(node("a", take_left, {"left": 1})),
    "no input for a default": lambda: start().then(node("a", take_or_not)),
    "a partial": lambda: start().then(node("a", partial(take_both, right=1), 1)),
    "a class": lambda: start().then(node("a", Order, 7)),
    "names at the edge": lambda: start(name="0").then(node("x" * 100).as_("9-_")).then(node("a-")),
    "a key like another node's name": lambda: start().then(A.as_("x")).then(B.as_("a")),
    "two parallel steps of one name": lambda: parallel(A).then_parallel("both", B),
    "a step called like its node": lambda: start().then_parallel("a", A, B),
    "an earlier output": lambda: start().then(A).then(reading("b", lambda s: s.get("a", int))),
    "an earlier output by node": lambda: start().then(A.as_("x")).then(reading("b", lambda s: s.get(KEYED))),
    "an earlier failure": lambda: parallel(A, on_failure="continue").then(
        reading("b", lambda s: s.failure("a") and s.failure(A))
    ),
    "a failure that cannot be": lambda: start().then(A).then(reading("b", lambda s: s.failure("a"))),
    "every branch writes it": lambda: (
        start()
        .when(always)
        .then(A.as_("x"))
        .else_when(always)
        .when(always)
        .then(node("c").as_("x"))
        .otherwise(node("d").as_("x"))
        .else_()
        .then_parallel("both", B.as_("x"), node("e"))
        .end_when()
        .then(reading("f", lambda s: s.get("x", int)))
    ),
    "the same branch wrote it": lambda: (
        start().when(always).then(A).then(reading("b", lambda s: s.get("a"))).otherwise(node("c"))
    ),
    "the predicate's own predecessors": lambda: start().then(A).when(lambda s: s.get("a") > 0).then(B).end_when(),
    "asked for with get_or": lambda: start().when(always).then(A).end_when().then(reading("b", read_both)),
    "asked for with has": lambda: parallel(A, on_failure="continue").then(
        reading("b", lambda s: s.get("a") if s.has("a") else 0)
    ),
    "asked for on another branch": lambda: (
        start().when(always).then(A).otherwise(reading("b", lambda s: s.get_or("a", int, 0)))
    ),
    "failure of another branch": lambda: start().when(always).then(A).otherwise(reading("b", lambda s: s.failure("a"))),
    "all of a best effort are required": lambda: parallel(A, B, on_failure="continue", require=2).then(
        reading("c", lambda s: s.get("a"))
    ),
    "some of a best effort are required": lambda: parallel(A, B, on_failure="continue", require=1).then(
        reading("c", lambda s: s.get_or("a", int, 0))
    ),
    "siblings read what was before": lambda: (
        start().then(A).then_parallel("both", reading("b", lambda s: s.get("a")), reading("c", lambda s: s.get("a")))
    ),
    "a sibling's name is an earlier key": lambda: (
        start().then(A.as_("b")).then_parallel("both", reading("c", lambda s: s.get("b")), B.as_("x"))
    ),
    "undo reads its node": lambda: start().then(A.on_error(undo(lambda s: s.get("a")))),
    "undo in a step reads its node": lambda: parallel(A.on_error(undo(lambda s: s.get("a"))), B),
    "undo reads what its node saw": lambda: (
        start().then(A).then(reading("b", lambda s: s.get("a")).on_error(undo(lambda s: s.get("a"))))
    ),
    "undo gets the output": lambda: start().then(A.on_error(node("undo", take))),
    "undo without a parameter": lambda: start().then(A.on_error(node("undo", lambda: None))),
    "undo of what started asks first": lambda: start().then(
        A.on_error(undo(lambda s: s.get("a") if s.has("a") else 0), when="started")
    ),
    "undo reads its node's failure": lambda: start().then(A.on_error(undo(lambda s: s.failure("a")), when="started")),
    "a computed key": lambda: start().then(reading("a", lambda s: s.get("b" + str(s.run_id)))),
    "a key in a local variable": lambda: start().then(reading("a", read_local)),
    "a key of a default": lambda: start().then(reading("a", read_default)),
    "another thing's get": lambda: start().then(reading("a", lambda s: {"b": s.run_id}.get("b"))),
    "a shadowed state": lambda: start().then(
        reading("a", lambda s: sorted([{"b": s.run_id}], key=lambda s: str(s.get("b"))))
    ),
    "a method as input function": lambda: start().then(A).then(reading("b", Reader().read)),
    "an object as input function": lambda: start().then(A).then(reading("b", Reader())),
    "a partial as input function": lambda: start().then(A).then(reading("b", partial(read_with, 3))),
    "a builtin as input function": lambda: start().then(node("a", lambda text: text).with_input_func(str)),
    "a result of a node": lambda: start().then(A.as_("x")).returns(A.as_("x")),
    "a result of some branches": lambda: start().when(always).then(A).end_when().returns("a"),
    "equal limiters": lambda: (
        start()
        .then(A.with_shared_rate_limit(LIMITER))
        .then(B.with_shared_rate_limit(SharedRateLimiter("api", 5, SECOND)))
    ),
    "limits at the edge": lambda: start().then(
        A.with_rate_limit(10**6, per=SECOND, burst=1)
        .with_timeout(timedelta(milliseconds=1))
        .with_retry(RetryPolicy(timedelta(0), 1, timedelta(0), 1, non_retryable=(ValueError, KeyError)))
    ),
    "any input for a schedule": lambda: start().triggered_by(schedule("@hourly", input={"any": [1]})).then(A),
    "an optional input for a schedule": lambda: start().takes(Order | None).triggered_by(schedule("@daily")).then(A),
    "an input for a schedule": lambda: (
        start()
        .takes(Order)
        .triggered_by(schedule("0 4 * * mon-fri", "Europe/Berlin", "allow", SECOND, {"id": 1}))
        .then(A)
    ),
    "blocks in blocks": lambda: nested(50),
    "a queue with dots": lambda: start().on_queue("eu.high/1").then(A.with_queue("Größe")),
}


def lambda_of_context(ctx: NodeContext) -> int:
    return ctx.attempt


def read_default(state: FlowState, key: str = "b") -> Any:
    return state.get(key)


def read_local(state: FlowState) -> Any:
    key = "b"
    return state.get(key)


def nested(depth: int) -> Any:
    builder = start()
    for level in range(depth):
        builder.when(always).then(node(f"n{level}"))
    for _ in range(depth):
        builder.end_when()
    return builder


@pytest.mark.parametrize("name", LEGAL)
def test_a_legal_flow_is_built_without_a_word(name: str):
    # Warnings are errors here, so a false one fails too.
    assert isinstance(LEGAL[name]().build(), Flow)


def test_a_wide_step_is_a_soft_finding():
    nodes = [node(f"n{number}") for number in range(51)]
    with warnings.catch_warnings(record=True, action="always") as caught:
        parallel(*nodes[:50]).build()
        flow = parallel(*nodes).build()

    (warning,) = caught
    assert warning.category is FlowDefinitionWarning
    assert warning.filename == __file__
    assert str(warning.message).startswith("flow legal, step both: 51 nodes at once")
    assert "then_map" in str(warning.message)
    assert len(flow.nodes()) == 51


def test_a_cap_below_the_first_delay_is_a_soft_finding():
    with pytest.warns(FlowDefinitionWarning, match="node a: .*never waits for its initial_interval"):
        start().then(A.with_retry(RetryPolicy(initial_interval=timedelta(minutes=5)))).build()


def test_options_of_a_celery_task_are_a_soft_finding():
    task: Any = MagicMock(spec=["apply_async", "run", "name", "rate_limit", "__call__"])
    task.run, task.name, task.rate_limit = give, "shop.give", "10/m"

    with pytest.warns(FlowDefinitionWarning, match=r"node a: .*'shop.give': rate_limit; set"):
        start().then(node("a", task)).build()


def test_soft_findings_wait_until_there_is_no_problem():
    assert [
        each.code
        for each in problems_of(parallel(*(node(f"n{n}") for n in range(60))).then(reading("x", always)).then(give))
    ]


def test_building_never_calls_a_user_function():
    called: list[object] = []

    def never(value: Any) -> Any:
        called.append(value)

    flow = (
        start()
        .when(never)
        .then(node("a", never).with_input_func(never).with_error_classifier(never))
        .otherwise(node("b", called.clear).on_error(node("undo", never)))
        .build()
    )

    assert len(flow.nodes()) == 2
    assert called == []


# Junk: whatever stands where a name, a number, a node or a function belongs.


class Hostile:
    __hash__ = None  # type: ignore[assignment]

    def _refuse(self, *_: Any) -> Any:
        raise RuntimeError("hostile")

    __eq__ = __bool__ = __len__ = __str__ = __iter__ = __getattr__ = __contains__ = _refuse


class HostileType(type):
    def __getattr__(cls, name: str) -> Any:
        raise RuntimeError(name)


class HostileModel(metaclass=HostileType):
    @classmethod
    def __get_pydantic_core_schema__(cls, *_: Any) -> Any:
        raise RuntimeError("hostile")


class HostileSignature:
    __signature__ = 5

    def __call__(self) -> None:
        """Do nothing."""


def reads_everything(state: Any) -> Any:
    return (
        state.get("a"),
        state.get("a-1"),
        state.get_or("b", int, 3),
        state.has("c"),
        state.failure("a"),
        state.get(HOSTILE),
    )


def takes_the_hostile(value: HostileModel) -> HostileModel:
    return value


def loops_for_ever() -> list[Any]:
    loop: list[Any] = []
    loop.append(loop)
    return loop


HOSTILE = Hostile()
VALUES = [
    *(HOSTILE, HostileModel, HostileSignature(), reads_everything, takes_the_hostile, loops_for_ever(), count_up),
    *(take_later, take_both, give, len, print, int, type, object(), {}, [], (), {"a": 1}, 10**5000, -(10**5000)),
    *(float("nan"), float("inf"), "a", "a-1", "\ud800", "x" * 1000, timedelta.max, timedelta.min, ..., NotImplemented),
    *(MagicMock(), MagicMock(spec=str), MagicMock(spec=timedelta), MagicMock(spec=RetryPolicy)),
    *(list[int], 3 + 4j, memoryview(b"x"), range(3), FlowBuilder("x"), Exception, ValueError(), SECOND, "@daily"),
    *("L * * * *", "* * * * * *", "succeeded", "started", "continue", A, A.on_error(A), KEYED, LIMITER),
]
junk = st.sampled_from(VALUES) | st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.binary(max_size=3), st.timedeltas())
)
retries = junk | st.builds(RetryPolicy, junk, junk, junk, junk, junk, junk)
limits = junk | st.builds(RateLimit, junk, junk, junk)
shared = junk | st.builds(SharedRateLimiter, junk, junk, junk, junk)
triggers = junk | st.builds(manual, junk) | st.builds(schedule, junk, junk, junk, junk, junk)


def undone(made: Any, compensation: Any, when: Any) -> Any:
    return made.on_error(compensation, when)


nodes: st.SearchStrategy[Any] = junk | st.just(MagicMock(spec=Node)) | st.deferred(lambda: junk_nodes)
junk_nodes: st.SearchStrategy[Any] = st.builds(
    undone,
    st.builds(
        node,
        junk,
        junk,
        junk,
        input_func=junk,
        output_key=junk,
        timeout=junk,
        retry=retries,
        rate_limit=limits,
        shared_rate_limit=shared | st.lists(shared, max_size=2),
        queue=junk,
        error_classifier=junk,
    ),
    nodes,
    junk,
)
ONE_ARGUMENT = [
    "then",
    "otherwise",
    "takes",
    "returns",
    "on_queue",
    "with_timeout",
    "when",
    "else_when",
    "triggered_by",
]
nothing: st.SearchStrategy[dict[str, Any]] = st.just({})
calls = st.one_of(
    st.tuples(st.sampled_from(ONE_ARGUMENT), st.tuples(nodes), nothing),
    st.tuples(st.just("triggered_by"), st.tuples(triggers), nothing),
    st.tuples(st.sampled_from(["else_", "end_when"]), st.just(()), nothing),
    st.tuples(st.just("when"), st.tuples(junk, junk), nothing),
    st.tuples(
        st.sampled_from(["then_parallel", "otherwise_parallel"]),
        st.lists(nodes, min_size=1, max_size=4).map(tuple),
        st.fixed_dictionaries({}, optional={"on_failure": junk, "require": junk}),
    ),
)


def outcome_of(builder: FlowBuilder) -> Flow | FlowDefinitionError:
    with warnings.catch_warnings(action="ignore"):
        try:
            return builder.build()
        except FlowDefinitionError as refusal:
            return refusal


@settings(max_examples=60)  # each run draws others
@given(name=junk, called=st.lists(calls, max_size=8))
@example(name=None, called=[("takes", ("\ud800",), {})])
@example(name="f", called=[("then", (node(HOSTILE, give, input_func=reads_everything),), {})])
def test_junk_is_refused_and_never_crashes(name: Any, called: list[tuple[str, tuple[Any, ...], dict[str, Any]]]):
    builder = FlowBuilder(name)
    for method, arguments, options in called:
        assert getattr(builder, method)(*arguments, **options) is builder
    outcome = outcome_of(builder)
    if isinstance(outcome, FlowDefinitionError):
        assert len(str(outcome).splitlines()) == len(outcome.problems) > 0
        assert str(outcome).encode()
        assert {problem.code for problem in outcome.problems} <= CODES
    else:
        assert outcome.nodes()


@pytest.mark.parametrize("value", [Hostile, type("Mute", (), {"__repr__": lambda _: 1 / 0})])
def test_a_value_that_cannot_be_shown_is_named_by_its_type(value: type):
    builder: Any = start().then(value())
    (problem,) = problems_of(builder)
    assert problem.code == "not-a-node"
    assert value.__name__ in problem.message
