"""Fit of a worker's code with the plan of a run: two plans say whether a node of one may be run by the other's code."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel, Field

from orchestrator import FlowBuilder, Node, SharedRateLimiter, Terminal, manual
from orchestrator.definition.codecs import codec_of
from orchestrator.definition.fitting import RUN_INPUT, Fits, misfit, misread
from orchestrator.definition.plan import Plan
from orchestrator.definition.planning import make_plan
from orchestrator.execution.attempt_handle import AttemptHandle

if TYPE_CHECKING:
    from collections.abc import Callable


class Offer(BaseModel):
    """What something costs."""

    price: int


class Priced(BaseModel):
    """The same fields under another name, with other texts."""

    price: int = Field(description="in cents", title="Its price")


class Longer(BaseModel):
    price: int
    currency: str


class Basket(BaseModel):
    offers: list[Offer]
    best: Offer | None = None


class Cart(BaseModel):
    offers: list[Priced]
    best: Priced | None = None


def one() -> int:
    return 1


def other_one() -> int:
    return 2


def take(given: int) -> int:
    return given


def flow() -> FlowBuilder:
    return FlowBuilder("f").triggered_by(manual("test"))


def reading(key: str, fn: Callable[..., Any] = take, name: str = "b") -> Node[Any, Any]:
    return Node(name, fn).with_input_func(lambda state: state.get(key))


def plan(builder: FlowBuilder) -> Plan:
    return make_plan(builder.build(), "celery")


NEVER_WRITTEN = "it reads output 'x', which the run's plan never writes before it"
OLD = plan(flow().then(Node("a", one)).then(reading("a")))


@pytest.mark.parametrize(
    ("new", "reason"),
    [
        (flow().then(Node("a", one)).then(reading("a", lambda given: given)), "its input is of another type there"),
        (flow().then(Node("a", one)).then(reading("a", name="c")), "it has no node of this name"),
        (flow().then(Node("a", one)), "it has no node of this name"),
        (flow().then(Node("x", one)).then(reading("x")), NEVER_WRITTEN),
        (flow().then(Node("a", other_one)).then(reading("a")), ""),
        (flow().then(Node("x", one)).then(Node("a", one)).then(reading("a")), ""),
        (flow().then(Node("a", one)).then_map("m", Node("b", take), over=lambda state: [1]),
         "there it is the node of a map, in the run's plan a node"),
        (flow().then(Node("a", one)).when(lambda state: True, "b").then(Node("c", one)).end_when(),
         "there it is a branch decision, in the run's plan a node"),
    ],
)  # fmt: skip
def test_code_fits_by_its_name_its_kind_its_types_and_what_it_reads(new, reason):
    assert misfit(plan(new), OLD, "b") == reason


def text() -> str:
    return "1"


def returns_text(given: int) -> str:
    return str(given)


def test_an_output_of_another_type_does_not_fit_nor_does_who_reads_it():
    new = plan(flow().then(Node("a", text)).then(reading("a", returns_text)))
    assert misfit(new, OLD, "a") == "its output is of another type there"
    assert misfit(new, OLD, "b") == "its output is of another type there"
    same = plan(flow().then(Node("a", text)).then(reading("a")))
    assert misfit(same, OLD, "b") == "output 'a' is of another type there"


def test_a_plan_fits_itself_and_what_is_read_from_its_text():
    again = Plan.from_text(OLD.text)
    assert again == OLD
    assert again.hash == OLD.hash
    assert [misfit(again, OLD, name) for name in OLD.nodes] == ["", ""]


def test_a_decision_with_other_branches_does_not_fit():
    def when(*more: str) -> FlowBuilder:
        builder = flow().when(lambda state: True, "choice").then(Node("a", one))
        for name in more:
            builder = builder.else_when(lambda state: True).then(Node(name, one))
        return builder.end_when()

    assert misfit(plan(when("b")), plan(when()), "choice") == "there it has another number of branches"
    assert misfit(plan(when()), plan(when()), "choice") == ""


def test_the_items_of_a_map_are_what_its_node_takes():
    def each(fn: Callable[..., Any]) -> Plan:
        return plan(flow().then_map("m", Node("b", fn), over=lambda state: [1]))

    assert misfit(each(len), each(take), "m.over") == "its output is of another type there"
    assert misfit(each(take), each(take), "m.over") == ""


def test_a_compensation_reads_what_its_node_wrote_and_returns_what_it_likes():
    def undone(fn: Callable[..., Any]) -> Plan:
        undo = reading("a", fn, "undo")
        return plan(flow().then(Node("a", one).on_error(undo)).then(Node("b", one)))

    assert misfit(undone(returns_text), undone(take), "undo") == ""
    assert misfit(undone(len), undone(take), "undo") == "its input is of another type there"


def test_a_plan_of_the_first_version_says_no_types():
    schema = OLD.text[OLD.text.index('"input_schema":') : OLD.text.index(',"limits"')]
    text = OLD.text.replace(schema, '"input_schema":null')
    first = Plan.from_text(text)
    assert first.types == {}
    assert first.text == text, "it keeps its hash"
    assert misfit(plan(flow().then(Node("a", text_of)).then(reading("a", returns_text))), first, "b") == ""
    assert misfit(plan(flow().then(Node("x", one)).then(reading("x"))), first, "b") != ""


def text_of() -> str:
    return ""


def test_a_read_that_fails_at_run_time_is_judged_by_its_key():
    new = plan(flow().then(Node("x", one)).then(Node("a", text)).then(reading("a")))
    assert misread(new, OLD, "b", "x") == NEVER_WRITTEN
    assert misread(new, OLD, "b", "a") == "output 'a' is of another type there"
    assert misread(new, OLD, "b", "nobody") == "", "its own plan does not write it either"
    assert misread(OLD, OLD, "b", "a") == ""
    takes = plan(flow().takes(Offer).then(Node("a", one)).then(reading("a")))
    assert misread(takes, OLD, "b", RUN_INPUT) == "the run's input is of another type there"


def test_an_output_of_a_branch_may_be_absent_for_code_that_the_plan_does_not_have():
    branch = flow().then(Node("a", one)).when(lambda state: True, "choice").then(Node("x", one)).end_when()
    pinned = plan(branch.then(reading("a")))
    new = plan(flow().then(Node("a", one)).then(Node("x", one)).then(reading("x")))
    assert misread(new, pinned, "b", "x") == "it reads output 'x', which may be absent in the run's plan"


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        (Offer, Priced, True),
        (Basket, Cart, True),
        (Offer, Longer, False),
        (list[Offer], list[Longer], False),
        (int, str, False),
        (int | str, int | str, True),
        (dict[str, int], dict[str, str], False),
    ],
)
def test_types_are_the_same_if_their_json_is_whatever_they_are_called(one, other, is_same):
    assert (codec_of(one).digest == codec_of(other).digest) is is_same


def test_what_attempts_have_found_stays_known():
    fits, new = Fits(), plan(flow().then(Node("x", one)).then(Node("a", one)).then(reading("a")))
    assert fits.misfit(new, OLD, "b") == ""
    fits.note(new, OLD, "b", "it reads 'x'")
    assert fits.misfit(new, OLD, "b") == "it reads 'x'"
    assert fits.misfit(new, OLD, "a") == ""


def limited(key: Callable[..., Any] | None, *names: str) -> Plan:
    """A node with limiters, between one that writes "a" and one that has none."""
    node = Node("b", one)
    for name in names:
        node = node.with_shared_rate_limit(SharedRateLimiter(name, 5, per=timedelta(seconds=1), key=key))
    return plan(flow().then(Node("a", text)).then(node).then(Node("c", one)))


def test_what_a_key_function_reads_stands_in_the_plan_and_in_its_text():
    keyed = limited(lambda state: state.get("a", str), "api")
    assert keyed.key_reads == {"b": {"api": ("a",)}}
    assert Plan.from_text(keyed.text) == keyed
    assert limited(None, "api").key_reads == limited(lambda state: state.input(str), "api").key_reads == {}
    item = Node("n", take).with_shared_rate_limit(
        SharedRateLimiter("api", 5, per=timedelta(seconds=1), key=lambda item: item.get("a"))
    )
    assert plan(flow().then_map("m", item, over=lambda state: [1])).key_reads == {}, "it gets the item"


def bucket(own: Plan, pinned: Plan, name: str, key: str | None) -> str:
    store: Any = None
    return AttemptHandle(store, pinned, own, "run", "c", "token")._bucket(name, key).partition("#")[0]


def test_code_of_another_version_takes_tokens_by_the_plan_of_the_run():
    plain, keyed, more = (
        limited(None, "api"),
        limited(lambda state: "k", "api"),
        limited(lambda state: "k", "api", "web"),
    )
    for one_plan, other in ((plain, keyed), (keyed, plain)):
        assert bucket(one_plan, other, "api", "k") == bucket(one_plan, other, "api", None) == "api"
    assert bucket(more, keyed, "web", "k") == bucket(more, keyed, "web", None) == "web"
    with pytest.raises(Terminal, match="no key function"):
        bucket(plain, plain, "api", "k")
    with pytest.raises(Terminal, match="give it a key"):
        bucket(keyed, keyed, "api", None)
    with pytest.raises(Terminal, match="no limiter of this name; it has api"):
        bucket(plain, plain, "web", None)
