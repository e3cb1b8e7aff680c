"""Nodes: immutable values that never refuse, and the decorator that makes them."""

import dataclasses
import functools
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from orchestrator.definition.node import Node, node
from orchestrator.definition.policies import RateLimit, RetryPolicy, SharedRateLimiter
from orchestrator.definition.signature import MISSING, BadFunction

SECOND = timedelta(seconds=1)


class Order(BaseModel):
    number: int
    rush: bool = False


class Hostile:
    def __getattribute__(self, name):
        raise RuntimeError("no")

    def __repr__(self):
        raise RuntimeError("no")

    __str__ = __repr__


# --- the node itself


def order_node(number: int) -> Order:
    return Order(number=number)


def test_the_defaults_are_those_of_the_api():
    made = Node("a", order_node)
    assert made.name == made.output_key == "a"
    assert made.key is None
    assert made.fn is order_node
    assert made.input is MISSING
    assert made.input_func is None
    assert made.timeout == timedelta(minutes=5)
    assert made.retry == RetryPolicy()
    assert made.rate_limit is None
    assert made.shared_rate_limits == ()
    assert made.queue is None
    assert (made.compensation, made.compensation_when) == (None, "succeeded")
    assert made.error_classifier is None


def limit_of(name, limit=1):
    return SharedRateLimiter(name, limit, per=SECOND)


UNDO = Node("undo", order_node)


def classify(_error):
    return "terminal"


def compute(_state):
    return 5


CHANGES: dict[str, tuple[Any, dict[str, Any]]] = {
    "as_": (lambda n: n.as_("k"), {"key": "k", "output_key": "k"}),
    "with_name": (lambda n: n.with_name("b"), {"name": "b", "output_key": "b"}),
    "with_input": (lambda n: n.with_input(None), {"input": None, "input_func": None}),
    "with_input_func": (lambda n: n.with_input_func(compute), {"input": MISSING, "input_func": compute}),
    "with_timeout": (lambda n: n.with_timeout(SECOND), {"timeout": SECOND}),
    "with_retry": (lambda n: n.with_retry(RetryPolicy(maximum_attempts=1)), {"retry": RetryPolicy(maximum_attempts=1)}),
    "with_rate_limit": (lambda n: n.with_rate_limit(5, per=SECOND), {"rate_limit": RateLimit(5, SECOND)}),
    "with_burst": (lambda n: n.with_rate_limit(5, SECOND, burst=1), {"rate_limit": RateLimit(5, SECOND, 1)}),
    "with_shared": (lambda n: n.with_shared_rate_limit(limit_of("a")), {"shared_rate_limits": (limit_of("a"),)}),
    "with_queue": (lambda n: n.with_queue("q"), {"queue": "q"}),
    "on_error": (lambda n: n.on_error(UNDO, "started"), {"compensation": UNDO, "compensation_when": "started"}),
    "with_error_classifier": (lambda n: n.with_error_classifier(classify), {"error_classifier": classify}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_method_returns_a_changed_copy(change):
    before = Node("a", order_node, 3)
    untouched = dict(vars(before))
    apply, expected = CHANGES[change]
    after = apply(before)
    assert vars(before) == untouched
    assert {name: getattr(after, name) for name in expected} == expected
    same = set(untouched) - set(expected)
    assert all(getattr(after, name) is untouched[name] for name in same)


def test_the_constructor_takes_what_the_methods_take():
    made = Node(
        "a",
        order_node,
        output_key="k",
        input_func=compute,
        timeout=SECOND,
        retry=RetryPolicy(maximum_attempts=1),
        rate_limit=RateLimit(5, SECOND),
        shared_rate_limit=limit_of("a"),
        queue="q",
        on_error=UNDO,
        error_classifier=classify,
    )
    chained = (
        Node("a", order_node)
        .as_("k")
        .with_input_func(compute)
        .with_timeout(SECOND)
        .with_retry(RetryPolicy(maximum_attempts=1))
        .with_rate_limit(5, per=SECOND)
        .with_shared_rate_limit(limit_of("a"))
        .with_queue("q")
        .on_error(UNDO)
        .with_error_classifier(classify)
    )
    assert vars(made) == vars(chained)


def test_of_constant_and_function_the_last_holds():
    assert Node("a", order_node, 1).with_input_func(compute).input is MISSING
    assert Node("a", order_node).with_input_func(compute).with_input(1).input_func is None
    assert Node("a", order_node, 1, input_func=compute).input is MISSING


def test_none_is_an_input():
    assert Node("a", order_node, None).input is None
    assert repr(MISSING) == "MISSING"


def test_the_output_key_follows_the_name_until_it_is_given():
    assert Node("a", order_node).with_name("b").output_key == "b"
    assert Node("a", order_node).as_("k").with_name("b").output_key == "k"
    assert Node("a", order_node).as_("").output_key == ""


def test_several_shared_limits_hold_and_one_of_the_same_name_is_replaced():
    made = Node("a", order_node, shared_rate_limit=[limit_of("a"), limit_of("b")]).with_shared_rate_limit(
        limit_of("a", 9)
    )
    assert made.shared_rate_limits == (limit_of("b"), limit_of("a", 9))


def test_a_node_cannot_be_changed():
    made = Node("a", order_node)
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.name = "b"  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        del made.name


def test_nodes_are_compared_and_hashed_by_identity():
    one, other = Node("a", order_node, [1]), Node("a", order_node, [1])
    assert one != other
    assert len({one, other, one}) == 2


@pytest.mark.parametrize("make", [lambda: None, lambda: -1, str, list, dict, object, Hostile])
def test_nothing_raises_for_a_bad_value(make):
    bad = make()
    made = Node(
        bad,
        bad,
        bad,
        input_func=bad,
        output_key=bad,
        timeout=bad,
        retry=bad,
        rate_limit=bad,
        shared_rate_limit=bad,
        queue=bad,
        on_error=bad,
        error_classifier=bad,
    )
    made = made.as_(bad).with_name(bad).with_input(bad).with_input_func(bad).with_timeout(bad).with_retry(bad)
    made = made.with_rate_limit(bad, per=bad).with_shared_rate_limit(bad).with_queue(bad)
    made = made.on_error(bad, when=bad).with_error_classifier(bad)
    assert repr(made).startswith("Node(")
    with pytest.raises(BadFunction) as caught:
        _ = made.contract
    assert caught.value.code == "bad-function"


def test_a_node_can_be_called_as_its_function():
    assert Node("a", order_node)(7) == Order(number=7)
    assert Node("a", order_node)(number=7) == Order(number=7)


def test_a_node_of_a_node_has_its_function():
    assert Node("b", Node("a", order_node)).fn is order_node


def test_the_contract_is_read_once():
    made = Node("a", order_node)
    assert made.contract is made.contract
    assert made.as_("k").contract is made.contract


def test_a_node_reads_its_output():
    assert Node("a", order_node).output_codec.load(b'{"number":1}') == Order(number=1)


# --- the decorator


def test_the_decorator_makes_a_node_with_the_functions_name():
    @node
    def fetch_all_issues(count: int) -> int:
        return count

    assert isinstance(fetch_all_issues, Node)
    assert fetch_all_issues.name == "fetch-all-issues"
    assert fetch_all_issues(3) == 3


def test_the_decorator_takes_the_keywords_of_node():
    @node(timeout=SECOND, output_key="k", input=4)
    def fetch(count: int) -> int:
        return count

    @node(name="other")(queue="q")
    def twice(count: int) -> int:
        return count

    assert (fetch.timeout, fetch.output_key, fetch.input, fetch.name) == (SECOND, "k", 4, "fetch")
    assert (twice.name, twice.queue) == ("other", "q")
    assert node(queue="q") is not node


def test_the_decorator_takes_what_has_no_name():
    assert node(functools.partial(order_node, 1)).name == "partial"
