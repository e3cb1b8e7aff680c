"""Nodes: immutable values that never refuse, and what is read from a function's signature."""

import asyncio
import dataclasses
import functools
import inspect
import logging
import typing
from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, NoReturn
from unittest.mock import MagicMock

import pytest
from celery import Celery, shared_task
from pydantic import BaseModel

from orchestrator import node as node_module
from orchestrator.context import NodeContext
from orchestrator.errors import InvalidInput, InvalidOutput
from orchestrator.node import MISSING, BadFunction, Node, node, read_contract
from orchestrator.policies import RateLimit, RetryPolicy, SharedRateLimiter
from orchestrator.values import codec_of

if TYPE_CHECKING:
    from decimal import Decimal

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


def context():
    return NodeContext(
        run_id="r", flow_name="f", node_name="n", attempt=1, idempotency_key="k", logger=logging.getLogger("x")
    )


def call(function, given=MISSING):
    """Call a function as the engine does."""
    contract = read_contract(function)
    return contract.invoke(context(), contract.read(given))


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


CHANGES = {
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
        (takes_a_keyword, "single", 5, ("keyword", 5)),
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


def generator() -> list[int]:
    yield 1  # type: ignore[misc]


async def async_generator():
    yield 1


class GeneratorCaller:
    def __call__(self):
        yield 1


def gives_iterator() -> Iterator[int]:
    return iter([1])


def gives_async_iterator() -> AsyncIterator[int]:
    return async_generator()


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
    with pytest.raises(BadFunction, match="cannot be inspected"):
        read_contract(HostileCaller())


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
        (only_for_linters, "cannot be resolved: name 'Decimal'"),
        (not_stored, "parameter given: .*Hostile"),
        (not_stored_return, "its return type: .*Hostile"),
        (not_stored_field, "parameter b: .*Hostile"),
        (invalid_annotation, ""),
        (syntax, "cannot be resolved"),
    ],
)
def test_a_type_that_cannot_be_used_is_explained(function, message):
    with pytest.raises(BadFunction, match=message) as caught:
        read_contract(function)
    assert caught.value.code == "bad-type"


def test_a_context_imported_for_linters_only_is_found():
    namespace: dict[str, Any] = {}
    exec("def function(ctx: 'NodeContext', given: 'int'): return (ctx.run_id, given)", namespace)  # noqa: S102
    assert call(namespace["function"], "5") == ("r", 5)


def test_a_broken_signature_is_a_bad_function():
    class Odd:
        __signature__ = "no signature"

        def __call__(self):
            return 1

    with pytest.raises(BadFunction):
        read_contract(Odd())


# --- Celery tasks


@pytest.fixture
def app():
    with Celery("test", set_as_current=False, broker="memory://") as app:
        yield app


def test_a_celery_task_is_called_as_it_is(app):
    @app.task
    def plain(given: int) -> Order:
        return Order(number=given)

    contract = read_contract(plain)
    assert (contract.style, contract.output, contract.ignored) == ("single", codec_of(Order), ())
    assert call(plain, "5") == Order(number=5)


def test_a_bound_task_has_itself_and_is_no_input(app):
    @app.task(bind=True)
    def bound(self, ctx: NodeContext, given: int):
        return self.name, ctx.run_id, given

    assert read_contract(bound).style == "single"
    assert call(bound, 5) == (bound.name, "r", 5)


def test_a_retry_of_a_task_raises_its_reason(app):
    @app.task(bind=True, max_retries=3)
    def retrying(self):
        raise self.retry(exc=ValueError("why"))

    with pytest.raises(ValueError, match="why"):
        call(retrying)


def test_options_of_a_task_that_do_not_apply_are_known(app):
    @app.task(rate_limit="5/m", time_limit=3, soft_time_limit=2, queue="q", autoretry_for=(KeyError,))
    def busy(given: int):
        raise KeyError(given)

    contract = read_contract(busy)
    assert contract.ignored == ("rate_limit", "time_limit", "soft_time_limit", "queue", "autoretry_for")
    assert contract.style == "single"
    with pytest.raises(KeyError):
        call(busy, 5)


def test_a_rate_limit_of_the_app_is_not_the_tasks_own(app):
    app.conf.task_default_rate_limit = "5/m"

    @app.task
    def plain():
        return 1

    assert read_contract(plain).ignored == ()


def test_a_shared_task_is_a_task(app):
    @shared_task
    def shared(given: int):
        return given + 1

    app.set_current()
    assert call(shared, 5) == 6


def test_a_generator_task_is_refused(app):
    @app.task
    def generating():
        yield 1

    with pytest.raises(BadFunction, match="generator"):
        read_contract(generating)


def test_a_task_may_be_decorated(app):
    @node
    @app.task
    def decorated_task(given: int) -> int:
        return given

    assert decorated_task.name == "decorated-task"
    assert decorated_task.contract.style == "single"


# --- the context


def test_a_context_asks_and_reports():
    seen: list[object] = []
    ctx = dataclasses.replace(context(), ask_cancelled=lambda: True, report=seen.append)
    assert ctx.is_cancelled()
    ctx.heartbeat({"done": 5})
    ctx.heartbeat()
    assert seen == [{"done": 5}, None]


def test_a_context_alone_is_never_cancelled():
    ctx = context()
    assert not ctx.is_cancelled()
    ctx.heartbeat("half")
    assert (ctx.scheduled_for, ctx.page_size) == (None, None)


def test_the_module_does_not_know_celery():
    assert "import celery" not in inspect.getsource(node_module)
