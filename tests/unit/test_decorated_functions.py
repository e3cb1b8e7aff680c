"""Functions behind decorators and dispatchers: they get their input as they take it, or the refusal says what to do."""

import functools
import logging

import pytest

from orchestrator.definition.context import NodeContext
from orchestrator.definition.signature import MISSING, BadFunction, read_contract
from orchestrator.errors import InvalidInput


def takes_input(given: int):
    return ("input", given)


def takes_both(ctx: NodeContext, given: int):
    return ("both", ctx.run_id, given)


def takes_fields(a: int, b: str = "default", *, c: float = 0.5):
    return ("fields", a, b, c)


def context():
    return NodeContext(
        run_id="r", flow_name="f", node_name="n", attempt=1, idempotency_key="k", logger=logging.getLogger("x")
    )


def wrapped(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


def supplying(function):
    """A decorator that gives its function an argument and says what it takes itself."""

    @functools.wraps(function)
    def wrapper(given, *, b=2):
        return function("supplied", given, b)

    return wrapper


def supplying_secretly(function):
    """A decorator that gives its function an argument and takes whatever comes."""

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function("supplied", *args, **kwargs)

    return wrapper


def by_position(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args)

    return wrapper


def by_keyword(function):
    @functools.wraps(function)
    def wrapper(**kwargs):
        return function(**kwargs)

    return wrapper


class Wrapping:
    """A decorator that is a class."""

    def __init__(self, function):
        functools.update_wrapper(self, function)
        self.function = function

    def __call__(self, *args, **kwargs):
        return self.function(*args, **kwargs)


def takes_a_session(session: str, given: int, b: int):
    return (session, given, b)


@functools.singledispatch
def dispatched(given: object, more: int = 1):
    return ("object", given, more)


@dispatched.register
def _(given: int, more: int = 1):
    return ("int", given, more)


@pytest.mark.parametrize(
    ("function", "style", "given", "result"),
    [
        (supplying(takes_a_session), "fields", {"given": "5"}, ("supplied", 5, 2)),
        (supplying(takes_a_session), "fields", {"given": 5, "b": 3}, ("supplied", 5, 3)),
        (by_position(takes_fields), "fields", {"a": 1, "b": "x"}, ("fields", 1, "x", 0.5)),
        (by_keyword(takes_fields), "fields", {"a": 1, "c": 2}, ("fields", 1, "default", 2.0)),
        (by_position(takes_both), "single", 5, ("both", "r", 5)),
        (Wrapping(takes_fields), "fields", {"a": 1}, ("fields", 1, "default", 0.5)),
        (dispatched, "fields", {"given": 5}, ("int", 5, 1)),
        (dispatched, "fields", {"given": "x", "more": 2}, ("object", "x", 2)),
        (functools.partial(dispatched, more=3), "single", 5, ("int", 5, 3)),
    ],
)
def test_a_decorated_function_is_called_with_its_input(function, style, given, result):
    contract = read_contract(function)
    assert contract.style == style
    assert contract.invoke(context(), contract.read(given)) == result


@pytest.mark.parametrize(
    ("function", "given", "message"),
    [
        (supplying_secretly(takes_input), MISSING, "the function takes given; give the node an input"),
        (supplying_secretly(takes_a_session), 5, "does not fit the parameters session, given, b"),
        (supplying_secretly(takes_a_session), {"given": 5, "b": 1}, "session: Field required"),
        (wrapped(takes_input), "x", "valid integer"),
    ],
)
def test_an_input_behind_a_decorator_that_may_supply_arguments_is_explained(function, given, message):
    remedy = "; if its decorator supplies some of them, call it in a function of your own that takes the others"
    with pytest.raises(InvalidInput, match=message) as caught:
        read_contract(function).read(given)
    assert caught.value.message.endswith(remedy)


def test_a_context_that_could_only_be_given_by_name_is_refused():
    def function(*, ctx: NodeContext):
        return ctx

    for each in (function, by_keyword(takes_both)):
        with pytest.raises(BadFunction, match="NodeContext is given by position"):
            read_contract(each)
