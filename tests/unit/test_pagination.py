"""paginate: what a function that fetches pages may look like, and what `build()` refuses of it."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery

from orchestrator import (
    FlowBuilder,
    FlowDefinitionError,
    FlowState,
    InvalidInput,
    Node,
    NodeContext,
    Orchestrator,
    Page,
    Pages,
    manual,
    node,
    paginate,
)
from orchestrator.definition.pagination import PagedNode
from orchestrator.definition.plan import Plan
from orchestrator.definition.planning import make_plan
from orchestrator.definition.signature import MISSING


def fetch(cursor: str | None) -> Page[int]:
    return Page(items=[1])


def fetch_with_input(ctx: NodeContext, cursor: str | None, given: int, other: int = 1) -> Page[int]:
    return Page(items=[given, other, len(cursor or "")])


async def fetch_later(cursor: str | None, given: int) -> Page[int]:
    return Page(items=[given])


def no_cursor() -> Page[int]:
    return Page(items=[])


def context_alone(ctx: NodeContext) -> Page[int]:
    return Page(items=[])


def text_cursor(cursor: str) -> Page[int]:
    return Page(items=[])


def number_cursor(cursor: int | None) -> Page[int]:
    return Page(items=[])


def no_page(cursor: str | None) -> list[int]:
    return []


def no_annotation(cursor):
    return Page(items=[])


class OtherPage(Page[int]):
    total: int = 0


def other_page(cursor: str | None) -> OtherPage:
    return OtherPage(items=[])


def flow(*nodes: Node[Any, Any]) -> FlowBuilder:
    builder = FlowBuilder("f").triggered_by(manual("test"))
    for each in nodes:
        builder.then(each)
    return builder


def problems(builder: FlowBuilder) -> list[tuple[str, str]]:
    with pytest.raises(FlowDefinitionError) as caught:
        builder.build()
    return [(problem.where, problem.code) for problem in caught.value.problems]


def context() -> Any:
    return NodeContext(run_id="r", flow_name="f", node_name="n", attempt=1, idempotency_key="k", logger=None)  # type: ignore[arg-type]


def test_the_cursor_is_no_input():
    contract = paginate("n", fetch).contract
    assert (contract.style, contract.needs_input, contract.input) == ("none", False, None)
    assert contract.invoke(context(), MISSING, None).items == [1]
    contract = paginate("n", fetch_with_input).contract
    assert (contract.style, contract.takes_context, contract.needs_input) == ("fields", True, True)
    assert contract.invoke(context(), {"given": 2}, "abc").items == [2, 1, 3]
    contract = paginate("n", fetch_later).contract
    assert (contract.style, contract.is_async) == ("single", True)


def test_the_output_is_all_pages():
    contract = paginate("n", fetch).contract
    assert (contract.output.annotation, contract.page.annotation) == (Pages[int], Page[int])  # type: ignore[union-attr]
    assert paginate("n", no_annotated_items).contract.output.annotation == Pages[Any]
    assert Node("n", fetch).contract.page is None


def no_annotated_items(cursor: str | None) -> Page:  # type: ignore[type-arg]
    return Page(items=[])


def test_a_decorated_function_can_be_paginated():
    made = paginate("n", node(fetch))
    assert made.fn is fetch
    flow(made).build()


def test_a_changed_copy_is_paginated_as_before():
    made = paginate("n", fetch, max_pages=2, page_size=3, cursor_source="jira").as_("key").with_queue("q")
    assert isinstance(made, PagedNode)
    assert (made.max_pages, made.page_size, made.cursor_source) == (2, 3, "jira")


def test_the_plan_says_so_and_comes_back_from_text():
    plan = make_plan(flow(paginate("n", fetch, max_pages=2, cursor_source="jira"), Node("m", lambda: 1)).build(), "q")
    facts = plan.nodes["n"]
    assert (facts.kind, facts.paged, facts.max_pages, facts.source) == ("node", True, 2, "jira")
    assert not plan.nodes["m"].paged
    assert Plan.from_text(plan.text) == plan
    assert plan.fields()["pages"] == '[["n","jira"]]'


@pytest.mark.parametrize(
    ("function", "code"),
    [
        (no_cursor, "bad-function"),
        (context_alone, "bad-function"),
        (text_cursor, "bad-function"),
        (number_cursor, "bad-function"),
        (5, "bad-function"),
        (no_page, "bad-type"),
        (no_annotation, "bad-type"),
        (other_page, "bad-type"),
    ],
)
def test_a_function_that_cannot_fetch_pages_is_refused(function, code):
    assert problems(flow(paginate("n", function))) == [("flow f, node n", code)]


@pytest.mark.parametrize("number", [0, -1, 1.5, True, "3"])
@pytest.mark.parametrize("option", ["max_pages", "page_size"])
def test_sizes_are_whole_numbers(option, number):
    assert problems(flow(paginate("n", fetch, **{option: number}))) == [("flow f, node n", "bad-batch")]


@pytest.mark.parametrize("source", ["", "Jira", "a|b", 5, "x" * 101])
def test_a_source_has_a_name(source):
    assert problems(flow(paginate("n", fetch, cursor_source=source))) == [("flow f, node n", "bad-name")]


def test_two_nodes_of_one_run_do_not_share_a_source():
    one, other = paginate("one", fetch, cursor_source="jira"), paginate("other", fetch, cursor_source="jira")
    assert problems(flow(one, other)) == [("flow f, node other", "duplicate-key")]
    branches = FlowBuilder("f").triggered_by(manual("test")).when(lambda _: True).then(one).otherwise(other)
    branches.build()


def test_an_input_is_as_for_any_node():
    assert problems(flow(paginate("n", fetch_later))) == [("flow f, node n", "input-mismatch")]
    assert problems(flow(paginate("n", fetch).with_input(5))) == [("flow f, node n", "input-mismatch")]
    flow(paginate("n", fetch_later).with_input(5)).build()


def test_neither_an_item_of_a_map_nor_a_compensation_is_paginated():
    mapped = flow().then_map("all", paginate("n", fetch_later), over=lambda _: [])
    assert problems(mapped) == [("flow f, node n", "bad-function")]
    undo = Node("n", lambda: 1).on_error(paginate("undo", fetch))
    assert problems(flow(undo)) == [("flow f, node undo", "bad-function")]


def test_a_state_reads_all_pages():
    made = paginate("n", fetch)
    stored = b'{"items":[1,2],"final_cursor":"c","page_count":2,"total_items":2}'
    state = FlowState(
        run_id="r",
        flow_name="f",
        input=None,
        input_codec=None,
        load=lambda _: {"n": stored},
        load_failure=lambda _: None,
    )
    assert state.get(made) == Pages[int](items=[1, 2], final_cursor="c", page_count=2, total_items=2)


def test_a_cursor_is_text_or_none():
    url = "redis://127.0.0.1:1/0"  # nobody is asked
    orchestrator = Orchestrator(Celery("cursors", broker=url, backend=url, set_as_current=False))
    with pytest.raises(InvalidInput):
        orchestrator.reset_cursor("f", "jira", 5)  # type: ignore[arg-type]
