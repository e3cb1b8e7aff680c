"""with_repeat: what the plan keeps of it, and what `build()` refuses."""

from __future__ import annotations

from datetime import timedelta

import pytest

from orchestrator import FlowBuilder, FlowDefinitionError, Node, NodeContext, Page, manual, paginate
from orchestrator.definition.fitting import misfit
from orchestrator.definition.plan import Plan
from orchestrator.definition.planning import make_plan


def count(n: int) -> int:
    return n + 1


def is_over(n: int) -> bool:
    return n > 3


def fetch(ctx: NodeContext, cursor: str | None) -> Page[int]:
    return Page(items=[])


async def ask(_: int) -> bool:
    return True


def flow(*nodes):
    builder = FlowBuilder("f").triggered_by(manual("test"))
    for each in nodes:
        builder = builder.then(each)
    return builder


def problems(builder):
    with pytest.raises(FlowDefinitionError) as caught:
        builder.build()
    return [(each.where, each.code) for each in caught.value.problems]


def test_the_plan_says_so_and_comes_back_from_text():
    repeated = Node("n", count, 0).with_repeat(is_over, every=timedelta(seconds=2), max_iterations=7)
    plan = make_plan(flow(repeated, Node("m", lambda: 1)).build(), "q")
    assert (plan.nodes["n"].repeats, plan.nodes["n"].paged) == ((2000, 7), True)
    assert not plan.nodes["m"].repeats
    assert Plan.from_text(plan.text) == plan
    assert plan.needed_format == 2, "an older worker would take it for a node that is called once"
    assert plan.fields()["pages"] == '[["n",""]]'


def test_a_plan_without_repeats_is_what_it_was():
    assert "repeats" not in make_plan(flow(Node("n", count, 0)).build(), "q").text


def test_code_that_does_not_repeat_fits_no_run_that_does():
    node = Node("n", count, 0)
    plain, repeated = (make_plan(flow(each).build(), "q") for each in (node, node.with_repeat(is_over)))
    assert misfit(plain, repeated, "n") == "there it is a node, in the run's plan a node that repeats"
    assert misfit(repeated, plain, "n") == "there it is a node that repeats, in the run's plan a node"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"every": timedelta(seconds=-1)}, "bad-repeat"),
        ({"every": 5}, "bad-repeat"),
        ({"max_iterations": 0}, "bad-repeat"),
        ({"max_iterations": 1.5}, "bad-repeat"),
        ({"until": None}, "bad-function"),
        ({"until": lambda: True}, "bad-function"),
        ({"until": ask}, "bad-function"),
    ],
)
def test_numbers_and_functions_that_cannot_work_are_refused(changes, code):
    repeated = Node("n", count, 0).with_repeat(**{"until": is_over} | changes)
    assert problems(flow(repeated)) == [("flow f, node n", code)]


def test_pages_items_and_compensations_do_not_repeat():
    mapped = flow().then_map("all", Node("n", count).with_repeat(is_over), over=lambda _: [])
    assert problems(mapped) == [("flow f, node n", "bad-repeat")]
    assert problems(flow(paginate("n", fetch).with_repeat(lambda _: True))) == [("flow f, node n", "bad-repeat")]
    undo = Node("n", lambda: 1).on_error(Node("undo", count).with_repeat(is_over))
    assert problems(flow(undo)) == [("flow f, node undo", "bad-repeat")]


def tell(n: int) -> str:
    return str(n)


def split(a: int, b: int) -> int:
    return a + b


def test_an_output_that_is_no_input_is_refused_where_both_types_are_known():
    for node in (Node("n", tell, 0), Node("n", split, {"a": 1, "b": 2})):
        repeated = node.with_repeat(lambda _: True)
        assert problems(flow(repeated)) == [("flow f, node n", "input-mismatch")]
    flow(Node("n", lambda n: n, 0).with_repeat(is_over), Node("m", lambda: "x").with_repeat(bool)).build()
