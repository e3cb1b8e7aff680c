"""Parameters are wired by name, and `build()` knows what each node reads."""

import pytest
from pydantic import BaseModel

from orchestrator import FlowBuilder, FlowDefinitionError, Node, const, manual, run_input


class Order(BaseModel):
    item: str
    count: int


def ask_rail(item: str) -> int:
    return 40 * len(item)


def ask_road(item: str) -> int:
    return 30 * len(item)


def choose(rail: int, road: int, count: int, unit: str, discount: int = 0) -> str:
    return f"{count} x {min(rail, road) - discount} {unit}"


rail = Node("rail", ask_rail).with_inputs(item=run_input["item"])
road = Node("road", ask_road).with_inputs(item=run_input["item"])
choice = Node("choose", choose).with_inputs(rail=rail, road="road", count=run_input["count"], unit=const("euros"))
flow = (
    FlowBuilder("wiring").takes(Order).triggered_by(manual("guide")).then_parallel("offers", rail, road).then(choice)
).build()


def test_each_parameter_has_its_source(orchestrator):
    """A node gives its output, a text is an output key, `run_input` the run's input or a part of it.

    Anything else is a constant, for a text with `const`. A parameter with a default may be left out.
    """
    run = orchestrator.start(flow, Order(item="cup", count=3))
    assert run.result(str, timeout=30) == "3 x 90 euros"


def test_every_mistake_is_found_before_anything_runs():
    """`build()` knows each read without looking at code, and names all that is wrong at once."""
    wrong = choice.with_inputs(rail=rail, raod=road, road=run_input["item"], count=run_input["number"], unit="eur")
    builder = FlowBuilder("wrong").takes(Order).triggered_by(manual("guide")).then_parallel("offers", rail, road)
    with pytest.raises(FlowDefinitionError) as refused:
        builder.then(wrong).build()
    messages = [problem.message.replace(f"{__name__}.", "") for problem in refused.value.problems]
    assert messages == [
        "with_inputs(raod=...): its function has no parameter of this name; did you mean road?",
        "its input road takes int, but item of the run's input is a text, which does not fit",
        "its input count reads number of the run's input, but Order has no 'number' there; known: count, item",
        "its input unit reads the output eur, which no node writes; known: choose, rail, road",
    ]
