"""Builder calls and the steps, branches and options they make, in a flow that nothing changes any more."""

from dataclasses import FrozenInstanceError
from datetime import timedelta
from typing import Any

import pytest

from orchestrator.definition.builder import FlowBuilder
from orchestrator.definition.flow import Flow
from orchestrator.definition.node import Node
from orchestrator.definition.signature import MISSING
from orchestrator.definition.steps import Parallel, Then, When
from orchestrator.definition.triggers import manual, schedule
from orchestrator.errors import ConfigurationError, FlowDefinitionError


def give() -> int:
    return 1


def is_big(state: Any) -> bool:
    return bool(state.input())


def is_small(state: Any) -> bool:
    return not is_big(state)


A, B, C, D, E, F = (Node(name, give) for name in "abcdef")


def start(name: str = "sample") -> FlowBuilder:
    return FlowBuilder(name).triggered_by(manual("api"))


def sketch(steps: tuple[Any, ...]) -> list[Any]:
    """The shape of steps: names, lists for branches."""
    shape: list[Any] = []
    for step in steps:
        if isinstance(step, Then):
            shape.append(step.node.name)
        elif isinstance(step, Parallel):
            shape.append({step.name: [node.name for node in step.members]})
        else:
            shape.append((step.name, [sketch(way) for way in step.branches], step.otherwise and sketch(step.otherwise)))
    return shape


def test_steps_stand_in_the_order_of_the_calls():
    flow = start().then(A).then_parallel("both", B, C).then(D).build()

    assert sketch(flow.steps) == ["a", {"both": ["b", "c"]}, "d"]
    assert [node.name for node in flow.nodes()] == ["a", "b", "c", "d"]
    assert [step.nodes() for step in flow.steps] == [(A,), (B, C), (D,)]


def test_a_sentence_with_branches_reads_as_it_runs():
    flow = start().then(A).when(is_big).then(B).else_when(is_small).then(C).else_().then(D).end_when().then(E).build()

    assert sketch(flow.steps) == ["a", ("when-1", [["b"], ["c"]], ["d"]), "e"]
    (block,) = flow.blocks()
    assert block.predicates == (is_big, is_small)
    assert block.nodes() == (B, C, D)
    assert [step.name for step in flow.steps] == ["a", "when-1", "e"]


def test_without_else_there_is_none():
    flow = start().when(is_big).then(A).end_when().build()

    assert sketch(flow.steps) == [("when-1", [["a"]], None)]


def test_otherwise_adds_one_step_and_closes_the_block():
    flow = start().when(is_big).then(A).otherwise(B).then(C).build()
    assert sketch(flow.steps) == [("when-1", [["a"]], ["b"]), "c"]

    flow = (
        start().when(is_big).then(A).otherwise_parallel("both", B, C, on_failure="continue", require=1).then(D).build()
    )
    assert sketch(flow.steps) == [("when-1", [["a"]], [{"both": ["b", "c"]}]), "d"]
    (step,) = next(flow.blocks()).otherwise or ()
    assert isinstance(step, Parallel)
    assert (step.on_failure, step.require) == ("continue", 1)


def test_else_belongs_to_the_innermost_block():
    flow = (
        start()
        .when(is_big)
        .when(is_small, name="inner")
        .then(A)
        .otherwise(B)
        .then(C)
        .else_()
        .when(is_small)
        .then_parallel("both", D, E)
        .end_when()
        .end_when()
        .then(F)
        .build()
    )

    assert sketch(flow.steps) == [
        ("when-1", [[("inner", [["a"]], ["b"]), "c"]], [("when-3", [[{"both": ["d", "e"]}]], None)]),
        "f",
    ]
    assert [block.name for block in flow.blocks()] == ["when-1", "inner", "when-3"]
    assert [node.name for node in flow.nodes()] == ["a", "b", "c", "d", "e", "f"]


def test_unnamed_blocks_are_counted_over_the_flow():
    flow = start().when(is_big).then(A).end_when().when(is_big, name="mine").then(B).end_when().when(is_big).then(C)

    assert [block.name for block in flow.end_when().build().blocks()] == ["when-1", "mine", "when-3"]


def test_options_are_on_the_flow():
    every_night = schedule("@daily", input=3)
    builder = start("shop").triggered_by(every_night, manual("cli")).takes(int).returns("b")
    flow = builder.on_queue("shop-queue").with_timeout(timedelta(hours=1)).then(B).build()

    assert flow.name == "shop"
    assert flow.triggers == (manual("api"), every_night, manual("cli"))
    assert (flow.input_type, flow.returns, flow.queue, flow.timeout) == (int, "b", "shop-queue", timedelta(hours=1))
    assert repr(flow) == "Flow('shop')"


def test_options_have_defaults():
    flow = start().then(A).build()

    assert (flow.input_type, flow.returns, flow.queue, flow.timeout) == (MISSING, None, None, None)
    assert flow.input_codec is None


def test_the_input_codec_reads_the_type_of_takes():
    flow = start().takes(int).then(A).build()

    assert flow.input_codec is not None
    assert flow.input_codec.load(b"7") == 7


@pytest.mark.parametrize(
    ("builder", "key"),
    [
        (lambda: start().then(A).then(B.as_("last")), "last"),
        (lambda: start().then(A).then_parallel("both", B, C), "a"),
        (lambda: start().then(A).when(is_big).then(B).end_when(), "a"),
        (lambda: start().then_parallel("both", B, C), None),
        (lambda: start().then(A).then(B).returns("a"), "a"),
        (lambda: start().then(A.as_("x")).then(B).returns(A.as_("x")), "x"),
    ],
)
def test_the_result_is_what_returns_says_or_the_last_then(builder: Any, key: str | None):
    assert builder().build().result_key == key


def test_compensations_stand_beside_their_nodes():
    undo_a, undo_b = Node("undo-a", give), Node("undo-b", give)
    paid, sent = A.on_error(undo_a), B.on_error(undo_b, when="started")
    flow = start().then(paid).when(is_big).then_parallel("both", sent, C).end_when().build()

    assert flow.compensations() == ((paid, undo_a), (sent, undo_b))
    assert flow.nodes() == (paid, sent, C)


def test_every_method_returns_the_builder():
    builder = FlowBuilder("sample")
    calls: list[Any] = [
        builder.takes(int),
        builder.returns("a"),
        builder.on_queue("q"),
        builder.with_timeout(timedelta(hours=1)),
        builder.triggered_by(),
        builder.then(A),
        builder.then_parallel("both", B),
        builder.when(is_big),
        builder.else_when(is_big),
        builder.else_(),
        builder.end_when(),
        builder.otherwise(C),
        builder.otherwise_parallel("more", D),
    ]
    assert all(returned is builder for returned in calls)


def test_a_flow_is_a_snapshot_and_the_builder_goes_on():
    builder = start().then(A)
    first = builder.build()
    second = builder.then(B).when(is_big).then(C).end_when().build()

    assert sketch(first.steps) == ["a"]
    assert sketch(second.steps) == ["a", "b", ("when-1", [["c"]], None)]
    assert first is not builder.build()


def test_an_open_block_is_looked_at_and_stays_open():
    builder = start().then(A).when(is_big).then(B).else_().when(is_small).then(C)
    with pytest.raises(FlowDefinitionError) as refusal:
        builder.build()
    assert [(each.where, each.code) for each in refusal.value.problems] == [
        ("flow sample, step when-1", "unclosed-when"),
        ("flow sample, step when-2", "unclosed-when"),
    ]

    flow = builder.end_when().then(D).end_when().then(E).build()

    assert sketch(flow.steps) == ["a", ("when-1", [["b"]], [("when-2", [["c"]], None), "d"]), "e"]


def test_a_flow_is_immutable_and_equal_only_to_itself():
    flow = start().when(is_big).then(A).end_when().build()
    with pytest.raises(FrozenInstanceError):
        flow.name = "other"  # type: ignore[misc]
    for step in (flow.steps[0], Then(A), Parallel("p", (A,)), When("w", (is_big,), ((Then(A),),))):
        with pytest.raises(FrozenInstanceError):
            setattr(step, "node", B)  # noqa: B010 - an assignment would have to fit each kind

    twin = start().when(is_big).then(A).end_when().build()
    assert flow != twin
    assert len({flow, twin, flow}) == 2


def test_nodes_with_unhashable_inputs_are_fine():
    flow = start().then(Node("a", len, {"mutable": []})).build()

    assert hash(flow)
    assert {flow.steps[0]: 1}


def test_a_canvas_needs_the_compiler(monkeypatch: pytest.MonkeyPatch):
    flow = start().then(A).build()
    monkeypatch.setattr(Flow, "_compile", None)
    with pytest.raises(ConfigurationError, match="flow sample: nothing compiles flows yet"):
        flow.canvas("run-1")

    monkeypatch.setattr(Flow, "_compile", lambda compiled, run_id: (compiled, run_id))
    assert flow.canvas("run-1") == (flow, "run-1")
