"""Wiring by name: what a node reads is known, typed and drawn without a look at code.

What `build()` refuses of it is in a table, `tests.faulty_wiring`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

import pytest
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, create_model

from orchestrator import FlowBuilder, InvalidInput, MissingOutputError, Node, const, manual, map_item, run_input
from orchestrator.cli.drawing import dot, mermaid, plain
from orchestrator.definition.codecs import codec_of
from orchestrator.definition.fitting import misfit as plan_misfit
from orchestrator.definition.plan import Plan
from orchestrator.definition.planning import make_plan
from orchestrator.definition.schema_fit import misfit
from orchestrator.definition.signature import MISSING
from orchestrator.definition.state import FlowState
from orchestrator.execution.prefetched_outputs import PrefetchedOutputs
from orchestrator.web.graph import draw_graph


class Line(BaseModel):
    sku: str
    count: int = 1


class Order(BaseModel):
    lines: list[Line]
    customer: str = Field(alias="customerName")


class Lines(BaseModel):
    lines: list[Line]


@dataclass
class Quote:
    rail: int
    road: int = 7


def add(one: int, two: int = 2) -> int:
    return one + two


def flow() -> FlowBuilder:
    return FlowBuilder("f").triggered_by(manual("test"))


def state(given: bytes | None = None, **outputs: bytes) -> FlowState:
    return FlowState(
        run_id="r",
        flow_name="f",
        input=given,
        input_codec=None,
        load=lambda keys: {key: outputs[key] for key in keys or outputs if key in outputs},
        load_failure=lambda name: None,
    )


def read(node: Node[Any, Any], seen: FlowState, item: bytes = b"") -> Any:
    assert node.wiring is not None
    return node.wiring.read(seen, item)


def test_of_constant_input_function_and_wiring_the_last_given_holds():
    node = Node("a", add)
    assert node.with_input({"one": 1}).with_inputs(one=2).input is MISSING
    assert node.with_input_func(lambda s: 1).with_inputs(one=2).input_func is None
    assert node.with_inputs(one=2).with_input({"one": 1}).wiring is None
    assert node.with_inputs(one=2).with_input_func(lambda s: 1).wiring is None
    assert node.with_inputs(one=2).wiring is not None
    assert node.wiring is None


def test_parameters_are_read_from_nodes_keys_the_runs_input_and_constants():
    rail = Node("rail", add).as_("offer")

    def ship(rail: int, road: int, item: dict[str, int], how: str, limit: int = 5) -> None: ...

    node = Node("ship", ship).with_inputs(rail=rail, road="road", item=run_input, how=const("road"))
    assert read(node, state(b'{"a":1}', offer=b"4", road=b"3")) == {
        "rail": 4,
        "road": 3,
        "item": {"a": 1},
        "how": "road",
    }
    assert node.wiring is not None
    assert node.wiring.keys == (":input", "offer", "road")


def test_a_default_holds_where_the_output_or_the_part_is_missing():
    node = Node("a", add).with_inputs(one="one", two="two")
    assert read(node, state(one=b"1")) == {"one": 1}
    assert read(Node("a", add).with_inputs(one=1, two=run_input["x"]["y"]), state(b'{"x":null}')) == {"one": 1}
    with pytest.raises(MissingOutputError, match="there is no output 'one'"):
        read(node, state(two=b"1"))
    with pytest.raises(InvalidInput, match=r"one: there is no x\.y of the run's input"):
        read(Node("a", add).with_inputs(one=run_input["x"]["y"]), state(b'{"x":{}}'))


def test_null_is_a_value_and_takes_no_default():
    def take(one: int | None = 5) -> None: ...

    assert read(Node("a", take).with_inputs(one="one"), state(one=b"null")) is None
    assert read(Node("a", take).with_inputs(one="one"), state()) is MISSING


def test_fields_of_the_one_model_parameter_are_wired_by_their_names():
    def order(order: Order) -> None: ...

    def quote(given: Quote) -> None: ...

    made = read(Node("a", order).with_inputs(lines="lines", customer=const("ann")), state(lines=b'[{"sku":"x"}]'))
    assert made == Order(lines=[Line(sku="x")], customerName="ann")
    assert read(Node("a", quote).with_inputs(rail=1), state()) == Quote(1, 7)
    # The parameter's own name stands for the whole.
    whole = Node("a", order).with_inputs(order=run_input)
    assert read(whole, state(b'{"lines":[],"customerName":"bob"}')).customer == "bob"


def test_a_value_that_does_not_fit_names_its_parameter():
    with pytest.raises(InvalidInput, match="one: Input should be a valid integer"):
        read(Node("a", add).with_inputs(one="one"), state(one=b'"x"'))


def test_a_constant_is_another_object_in_every_attempt():
    def take(values: list[int], more: int = 0) -> None: ...

    node = Node("a", take).with_inputs(values=[1])
    first, second = read(node, state()), read(node, state())
    assert first == second == {"values": [1]}
    assert first["values"] is not second["values"]


def test_items_are_stored_as_the_parameter_that_takes_them_whole_has_them():
    whole = Node("a", add).with_inputs(one=map_item, two=1).wiring
    part = Node("a", add).with_inputs(one=map_item["x"]).wiring
    assert whole is not None
    assert part is not None
    assert whole.item_codec is codec_of(int)
    assert part.item_codec is codec_of(Any)
    assert read(Node("a", add).with_inputs(one=map_item["x"][1]), state(), b'{"x":[1,2]}') == {"one": 2}


def test_a_part_has_no_end_to_walk_to():
    with pytest.raises(TypeError):
        iter(run_input)


CHAIN = (
    flow()
    .then(Node("a", lambda: 1))
    .then(Node("b", lambda: 2))
    .then(Node("c", add).with_inputs(one="a", two="b"))
    .then_map("all", Node("d", add).with_inputs(one=map_item, two=run_input["n"]), over=lambda s: [1])
)


def test_a_plan_has_what_is_wired_and_comes_back_from_its_text():
    plan = make_plan(CHAIN.build(), "celery")
    assert plan.inputs == {"c": {"one": "a", "two": "b"}, "d": {"one": ":item", "two": ":input.n"}}
    assert Plan.from_text(plan.text) == plan
    assert Plan.from_text(plan.text).hash == plan.hash
    assert plan.input_schema is None


def test_a_claim_sends_along_all_that_is_wired():
    plan = make_plan(CHAIN.build(), "celery")
    asked = {name: PrefetchedOutputs(plan, plan.nodes[name]).to_ask() for name in ("a", "c", "d")}
    assert asked == {"a": (":input",), "c": (":input", "a", "b"), "d": (":input",)}


def test_drawings_label_the_edges_with_what_is_read():
    plan = make_plan(CHAIN.build(), "celery")
    assert "n1 -->|two| n2" in mermaid(plan, {}, {})
    assert "n0 -.->|one| n2" in mermaid(plan, {}, {})
    assert '"b" -> "c" [label="two"];' in dot(plan, {}, {})
    assert '"a" -> "c" [label="one", style=dashed, constraint=false];' in dot(plan, {}, {})
    assert "a -> b, c (read as one)" in plain(plan, {}, {})
    picture = draw_graph(plan)
    assert ">one, two<title>one: output a; two: output b</title>" in picture
    assert ">one, two<title>one: the item; two: n of the run&#x27;s input</title>" in picture


def test_no_name_breaks_out_of_a_drawing():
    evil = '|"]<x>'
    made: Any = create_model("Made", **{evil: (int, Field(alias="x")), "y": (int, 1)})  # type: ignore[call-overload]

    def take(given: Any) -> None: ...

    take.__annotations__["given"] = made
    node = Node("b", take).with_inputs(**{evil: "a"})
    plan = make_plan(flow().then(Node("a", lambda: 1)).then(node).build(), "celery")
    assert "-->|____x_|" in mermaid(plan, {}, {})
    assert "<x>" not in draw_graph(plan)


def test_code_whose_wiring_reads_what_the_runs_plan_never_writes_does_not_fit():
    old = make_plan(flow().then(Node("a", lambda: 1)).then(Node("c", add).with_inputs(one="a")).build(), "celery")
    new = make_plan(
        flow()
        .then(Node("a", lambda: 1))
        .then(Node("b", lambda: 2))
        .then(Node("c", add).with_inputs(one="a", two="b"))
        .build(),
        "celery",
    )
    assert plan_misfit(new, old, "c") == "it reads output 'b', which the run's plan never writes before it"
    assert plan_misfit(old, new, "c") == ""


@pytest.mark.parametrize(
    ("written", "read_as", "where"),
    [
        (int, int, ""),
        (int, float, ""),
        (bool, int, ""),
        (Any, int, ""),
        (int, Any, ""),
        (float, int, "(root)"),
        (str, int, "(root)"),
        (int, str, "(root)"),
        (str, datetime, ""),
        (datetime, str, ""),
        (Decimal, Decimal, ""),
        (int | None, int, "(root)"),
        (int, int | None, ""),
        (int | str, str | int | None, ""),
        (list[int], list[str], "[]"),
        (list[int], tuple[int, int], ""),
        (list[int], set[int], ""),
        (dict[str, int], dict[str, str], "*"),
        (Order, Lines, ""),
        (Lines, Order, "customerName"),
        (Lines, dict[str, Any], ""),
        (dict[str, Any], Lines, ""),
        (list[Line], Lines, "(root)"),
        (Literal["a"], Literal["a", "b"], ""),
        (Literal["c"], Literal["a", "b"], "(root)"),
        (str, Literal["a", "b"], ""),
        (str, Annotated[int, BeforeValidator(len)], ""),
        (str, Annotated[int, AfterValidator(abs)], "(root)"),
        (int, Annotated[int, Field(gt=3)], ""),
    ],
)
def test_types_are_compared_where_both_are_known(written, read_as, where):
    accepted = codec_of(read_as).accepted()
    found = codec_of(written).written()
    assert found is not None
    assert ("" if accepted is None else misfit(found, accepted)) == where
