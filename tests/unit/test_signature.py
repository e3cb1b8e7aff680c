"""Signatures of functions: what is read from them, and how the function is called with its input."""

import asyncio
import dataclasses
import functools
import inspect
import logging
import typing
from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterator
from typing import TYPE_CHECKING, Annotated, Any, NoReturn
from unittest.mock import MagicMock

import pytest
from pydantic import BaseModel
from pydantic_core import core_schema

from orchestrator.definition.codecs import codec_of
from orchestrator.definition.context import NodeContext
from orchestrator.definition.node import Node
from orchestrator.definition.signature import MISSING, BadFunction, read_contract
from orchestrator.errors import InvalidInput, InvalidOutput

if TYPE_CHECKING:
    from decimal import Decimal


class Order(BaseModel):
    number: int
    rush: bool = False


class Hostile:
    def __getattribute__(self, name):
        raise RuntimeError("no")

    def __repr__(self):
        raise RuntimeError("no")

    __str__ = __repr__


def context():
    return NodeContext(
        run_id="r", flow_name="f", node_name="n", attempt=1, idempotency_key="k", logger=logging.getLogger("x")
    )


def call(function, given=MISSING):
    """Call a function as the engine does."""
    contract = read_contract(function)
    return contract.invoke(context(), contract.read(given))


# --- the kinds of function


def takes_nothing():
    return "nothing"


def takes_input(given: int):
    return ("input", given)


def takes_context(ctx: NodeContext):
    return ("context", ctx.run_id)


def takes_both(ctx: NodeContext, given: int):
    return ("both", ctx.run_id, given)


def takes_fields(a: int, b: str = "default", *, c: float = 0.5):
    return ("fields", a, b, c)


def takes_context_and_fields(ctx: NodeContext, a: int, b: int):
    return ("context and fields", ctx.run_id, a, b)


def takes_anything(given):
    return ("anything", given)


def takes_a_string_annotation(ctx: "NodeContext", given: "int"):
    return ("strings", ctx.run_id, given)


def takes_a_default(given: int = 3):
    return ("default", given)


def takes_positions(a: int, b: int = 2, /, c: int = 3):
    return ("positions", a, b, c)


def takes_a_keyword(*, given: int):
    return ("keyword", given)


def takes_more(given: int, *args, **kwargs):
    return ("more", given, args, kwargs)


def takes_awkward_names(_x: int, model_config: int, self: int):
    return ("awkward", _x, model_config, self)


def takes_an_optional_context(ctx: NodeContext | None, given: int):
    return ("optional", ctx and ctx.run_id, given)


def takes_an_annotated_context(ctx: Annotated[NodeContext, "note"], given: int):
    return ("annotated", ctx.run_id, given)


class Caller:
    def __call__(self, given: int):
        return ("caller", given)

    def method(self, ctx: NodeContext, given: int):
        return ("method", ctx.run_id, given)

    @classmethod
    def of_class(cls, given: int):
        return ("class method", given)

    @staticmethod
    def static(given: int):
        return ("static", given)


def wrapped(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


@dataclasses.dataclass
class Point:
    x: int
    y: "int" = 0


class Made:
    def __new__(cls, number: "int"):
        made = super().__new__(cls)
        made.number = number  # type: ignore[attr-defined]
        return made

    def __eq__(self, other):
        return vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]

    @classmethod
    def __get_pydantic_core_schema__(cls, _source, _handler):
        return core_schema.no_info_plain_validator_function(
            cls,
            serialization=core_schema.plain_serializer_function_ser_schema(
                vars, return_schema=core_schema.dict_schema()
            ),
        )


class SignedOff:
    __signature__ = inspect.Signature([inspect.Parameter("x", inspect.Parameter.KEYWORD_ONLY, annotation="Nowhere")])


class One(BaseModel):
    number: int


@pytest.mark.parametrize(
    ("function", "style", "given", "result"),
    [
        (takes_nothing, "none", MISSING, "nothing"),
        (takes_input, "single", "5", ("input", 5)),
        (takes_context, "none", MISSING, ("context", "r")),
        (takes_both, "single", 5, ("both", "r", 5)),
        (takes_fields, "fields", {"a": "1"}, ("fields", 1, "default", 0.5)),
        (takes_fields, "fields", {"a": 1, "b": "x", "c": "2"}, ("fields", 1, "x", 2.0)),
        (takes_context_and_fields, "fields", {"b": 2, "a": 1}, ("context and fields", "r", 1, 2)),
        (takes_anything, "single", {"a": 1}, ("anything", {"a": 1})),
        (takes_anything, "single", None, ("anything", None)),
        (takes_a_string_annotation, "single", 5, ("strings", "r", 5)),
        (takes_a_default, "single", MISSING, ("default", 3)),
        (takes_a_default, "single", 4, ("default", 4)),
        (takes_positions, "fields", {"a": 1}, ("positions", 1, 2, 3)),
        (takes_positions, "fields", {"a": 1, "b": 5, "c": 6}, ("positions", 1, 5, 6)),
        (takes_positions, "fields", {"a": 1, "c": 6}, ("positions", 1, 2, 6)),
        (takes_a_keyword, "single", 5, ("keyword", 5)),
        (takes_an_optional_context, "single", 5, ("optional", "r", 5)),
        (takes_an_annotated_context, "single", 5, ("annotated", "r", 5)),
        (takes_more, "single", 5, ("more", 5, (), {})),
        (takes_awkward_names, "fields", {"_x": 1, "model_config": 2, "self": 3}, ("awkward", 1, 2, 3)),
        (lambda: 1, "none", MISSING, 1),
        (lambda given: given + 1, "single", 1, 2),
        (Caller(), "single", 5, ("caller", 5)),
        (Caller().method, "single", 5, ("method", "r", 5)),
        (Caller.of_class, "single", 5, ("class method", 5)),
        (Caller.static, "single", 5, ("static", 5)),
        (wrapped(takes_both), "single", 5, ("both", "r", 5)),
        (functools.lru_cache(takes_a_string_annotation), "single", 5, ("strings", "r", 5)),
        (functools.partial(takes_fields, 1), "fields", {"b": "x"}, ("fields", 1, "x", 0.5)),
        (functools.partial(takes_fields, b="x", c=1.0), "single", 1, ("fields", 1, "x", 1.0)),
        (functools.partial(takes_both, given=5), "none", MISSING, ("both", "r", 5)),
        (functools.partial(functools.partial(takes_fields, c=1.0), b="x"), "single", "1", ("fields", 1, "x", 1.0)),
        (functools.partial(Caller(), 5), "none", MISSING, ("caller", 5)),
        (Point, "fields", {"x": "1"}, Point(1, 0)),
        (One, "single", "5", One(number=5)),
        (Made, "single", "5", Made(5)),
        (Order, "fields", {"number": 1}, Order(number=1)),
        (len, "single", [1, 2], 2),
        (str.upper, "single", "a", "A"),
    ],
)
def test_a_function_is_called_with_its_input(function, style, given, result):
    contract = read_contract(function)
    assert contract.style == style
    assert contract.needs_input == (given is not MISSING and contract.needs_input)
    assert contract.invoke(context(), contract.read(given)) == result


def test_a_value_can_be_invoked_with_twice():
    contract = read_contract(takes_positions)
    value = contract.read({"a": 1, "b": 2})
    assert contract.invoke(context(), value) == contract.invoke(context(), value)


@pytest.mark.parametrize(
    ("function", "data", "result"),
    [
        (takes_input, b"5", ("input", 5)),
        (takes_fields, b'{"a":1,"b":"x"}', ("fields", 1, "x", 0.5)),
        (takes_a_default, MISSING, ("default", 3)),
    ],
)
def test_stored_json_is_read_like_a_value(function, data, result):
    contract = read_contract(function)
    assert contract.invoke(context(), contract.load(data)) == result


@pytest.mark.parametrize(
    ("function", "given", "message"),
    [
        (takes_input, MISSING, "the function takes given; give the node an input"),
        (takes_fields, MISSING, "the function takes a, b, c"),
        (takes_nothing, 5, "no parameter for an input"),
        (takes_input, "x", r"\(root\): Input should be a valid integer"),
        (takes_input, None, r"\(root\): Input should be a valid integer"),
        (takes_fields, {"a": "x", "d": 1}, "a: Input should be a valid integer.*; d: Extra inputs"),
        (takes_fields, {}, "a: Field required"),
        (takes_fields, 5, r"\(root\): "),
        (takes_fields, [1, 2], r"\(root\): "),
    ],
)
def test_an_input_that_does_not_fit_is_explained(function, given, message):
    with pytest.raises(InvalidInput, match=message):
        read_contract(function).read(given)


def test_a_hostile_input_is_explained():
    with pytest.raises(InvalidInput, match=r"\(root\): |cannot be checked"):
        read_contract(takes_input).read(Hostile())


def test_an_input_is_also_ignored_by_what_takes_none():
    assert read_contract(takes_nothing).invoke(context(), None) == "nothing"


def test_no_annotation_is_any():
    contract = read_contract(takes_anything)
    assert contract.input is codec_of(Any)
    assert contract.output is codec_of(Any)


def test_the_parameters_have_their_types():
    parameters = read_contract(takes_a_string_annotation).parameters
    assert [(each.name, each.annotation) for each in parameters] == [("given", int)]


# --- outputs


def gives(annotation):
    def function():
        return None

    if annotation is not inspect.Parameter.empty:
        function.__annotations__["return"] = annotation
    return function


@pytest.mark.parametrize(
    ("annotation", "output"),
    [
        (inspect.Parameter.empty, Any),
        (None, type(None)),
        (Order, Order),
        ("Order", Order),
        (list[Order], list[Order]),
        (NoReturn, Any),
        (typing.Never, Any),
        (Annotated[int, "note"], Annotated[int, "note"]),
    ],
)
def test_the_output_is_that_of_the_annotation(annotation, output):
    contract = read_contract(gives(annotation))
    assert contract.output.annotation == output
    assert not contract.is_async


def test_a_class_gives_itself():
    assert read_contract(Order).output.annotation is Order
    assert read_contract(Point).output.annotation is Point


def test_a_mapping_that_validates_is_accepted_as_the_model():
    def make() -> Order:
        return {"number": "3"}  # type: ignore[return-value]

    contract = read_contract(make)
    assert contract.output.dump(make()) == b'{"number":3,"rush":false}'
    with pytest.raises(InvalidOutput, match="number: Field required"):
        contract.output.dump({})


async def answer(given: int) -> Order:
    return Order(number=given)


class AsyncCaller:
    async def __call__(self, given: int) -> Order:
        return Order(number=given)


def gives_awaitable(given: int) -> Awaitable[Order]:
    return answer(given)


def gives_coroutine(given: int) -> Coroutine[Any, Any, Order]:
    return answer(given)


@pytest.mark.parametrize(
    "function",
    [answer, AsyncCaller(), gives_awaitable, gives_coroutine, functools.partial(answer), AsyncCaller().__call__],
)
def test_async_functions_give_an_awaitable(function):
    contract = read_contract(function)
    assert contract.is_async
    assert contract.output is codec_of(Order)
    assert asyncio.run(contract.invoke(context(), contract.read("7"))) == Order(number=7)


# --- what is refused


def generator() -> list[int]:  # type: ignore[misc]
    yield 1


async def async_generator():
    yield 1


class GeneratorCaller:
    def __call__(self):
        yield 1


def gives_iterator() -> Iterator[int]:
    return iter([1])


def gives_async_iterator() -> AsyncIterator[int]:
    raise NotImplementedError


def context_second(given: int, ctx: NodeContext):
    return given, ctx


def context_and_variadic(ctx: NodeContext, **given):
    return ctx, given


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (None, "a NoneType is not a function"),
        (5, "a int is not a function"),
        ("fetch", "a str is not a function"),
        (generator, "generator"),
        (async_generator, "generator"),
        (GeneratorCaller(), "generator"),
        (functools.partial(generator), "generator"),
        (gives_iterator, "generator"),
        (gives_async_iterator, "generator"),
        (context_second, "put it first"),
        (lambda *args: args, r"\*args or \*\*kwargs alone"),
        (lambda **kwargs: kwargs, r"\*args or \*\*kwargs alone"),
        (context_and_variadic, r"\*args or \*\*kwargs alone"),
        (dict, "signature cannot be read"),
        (MagicMock(), r"\*args or \*\*kwargs alone"),
        (Hostile, "its return type: .*Hostile"),
    ],
    ids=range(16),
)
def test_what_cannot_be_a_node_is_explained(function, message):
    with pytest.raises(BadFunction, match=message):
        read_contract(function)


class HostileCaller(Hostile):
    def __call__(self):
        return 1


def test_a_hostile_object_is_explained():
    with pytest.raises(BadFunction, match="is not a function"):
        read_contract(Hostile())
    with pytest.raises(BadFunction, match="it cannot be inspected: no"):
        _ = Node("a", HostileCaller()).contract


def unresolved(given: "Nowhere"):  # type: ignore[name-defined]  # noqa: F821
    return given


def unresolved_return() -> "Nowhere":  # type: ignore[name-defined]  # noqa: F821
    pass


def only_for_linters(ctx: "NodeContext", given: "Decimal"):
    return ctx, given


def not_stored(given: Hostile):
    return given


def not_stored_return() -> Hostile:
    return Hostile()


def not_stored_field(a: int, b: Hostile):
    return a, b


def invalid_annotation(given: 5):  # type: ignore[valid-type]
    return given


def syntax(given: "1 +"):  # type: ignore[valid-type]  # noqa: F722
    return given


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (unresolved, "cannot be resolved: name 'Nowhere'"),
        (unresolved_return, "cannot be resolved: name 'Nowhere'"),
        (only_for_linters, "cannot be resolved: name 'Decimal' is not defined; import it outside of TYPE_CHECKING"),
        (not_stored, "parameter given: .*Hostile"),
        (not_stored_return, "its return type: .*Hostile"),
        (not_stored_field, "parameter b: .*Hostile"),
        (invalid_annotation, "parameter given: |cannot be resolved"),
        (syntax, "cannot be resolved"),
        (SignedOff, "the annotation 'Nowhere' of x cannot be resolved"),
    ],
)
def test_a_type_that_cannot_be_used_is_explained(function, message):
    with pytest.raises(BadFunction, match=message) as caught:
        read_contract(function)
    assert caught.value.code == "bad-type"


def test_a_context_imported_for_linters_only_is_found():
    namespace: dict[str, Any] = {}
    exec("def function(ctx: 'NodeContext', given: 'int'): return (ctx.run_id, given)", namespace)
    assert call(namespace["function"], "5") == ("r", 5)


def test_a_broken_signature_is_a_bad_function():
    class Odd:
        __signature__ = "no signature"

        def __call__(self):
            return 1

    with pytest.raises(BadFunction):
        read_contract(Odd())
