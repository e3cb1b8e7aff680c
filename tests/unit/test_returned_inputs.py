"""An annotated input function returns what its node takes: what is refused, and what is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, TypedDict

import pytest
from pydantic import BaseModel, BeforeValidator

from orchestrator import FlowBuilder, FlowDefinitionError, FlowState, Node, NodeContext, manual


class Order(BaseModel):
    item: str


class Rush(Order):
    hours: int = 1


class Other(BaseModel):
    name: str


class Both(TypedDict):
    left: int
    right: str


@dataclass
class Point:
    x: int


def taking(kind: Any):
    def act(value) -> None: ...

    act.__annotations__ = {"value": kind, "return": None}
    return act


def returning(kind: Any):
    def give(state): ...

    give.__annotations__ = {"return": kind}
    return give


def two(left: int, right: str = "") -> None: ...


def with_context(ctx: NodeContext, value: str) -> None: ...


def build(function, input_function):
    node = Node("a", function).with_input_func(input_function)
    return FlowBuilder("f").triggered_by(manual("test")).then(node).build()


WRONG = [
    (str, int),
    (int, str),
    (str, None),
    (list[int], str),
    (list[int], list[str]),
    (Order, int),
    (Order, Other),
    (dict[str, int], list[int]),
    (int | None, str | list[int]),
    (Literal["a", "b"], Literal["c"]),
    (Point, str),
]
RIGHT = [
    (str, Any),
    (Any, int),
    (object, int),
    (str, str),
    (float, int),
    (int | None, int),
    (int, int | None),
    (int, int | str),
    (str | int, int),
    (Order, Rush),
    (Rush, Order),
    (Order, dict[str, str]),
    (Order, dict[str, Any]),
    (dict[str, Any], Order),
    (Sequence[int], list[int]),
    (list[int], tuple[int, ...]),
    (Mapping[str, int], dict[str, int]),
    (list, list[int]),
    (Literal["a"], str),
    (Literal["a", "b"], Literal["a"]),
    (Point, dict[str, int]),
    (Annotated[int, BeforeValidator(len)], str),
]


@pytest.mark.parametrize(("taken", "returned"), WRONG, ids=str)
def test_what_cannot_fit_is_refused_by_build(taken, returned):
    with pytest.raises(FlowDefinitionError, match=r"its input function .*give.* returns .*, but its function takes"):
        build(taking(taken), returning(returned))


@pytest.mark.parametrize(("taken", "returned"), RIGHT, ids=str)
def test_what_may_fit_is_left_to_the_run(taken, returned):
    build(taking(taken), returning(returned))


@pytest.mark.parametrize("returned", [Any, dict, dict[str, Any], Mapping[str, object], Both, None | dict[str, Any]])
def test_several_parameters_take_a_mapping(returned):
    build(two, returning(returned))


@pytest.mark.parametrize("returned", [int, str, list[int]])
def test_several_parameters_take_nothing_else(returned):
    with pytest.raises(FlowDefinitionError, match="takes a mapping with left, right"):
        build(two, returning(returned))


def test_functions_without_a_known_return_are_not_judged():
    def typed(extra: int, state: FlowState) -> int:
        return extra

    unresolved = returning("Nowhere")
    for function in (lambda state: 1, unresolved, partial(typed, 1)):
        build(taking(str), function)
    build(with_context, lambda state: 1)
    with pytest.raises(FlowDefinitionError, match="returns int"):
        build(with_context, returning(int))
