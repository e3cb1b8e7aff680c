"""Codecs: what becomes JSON comes back as it was, and everything else is refused with its type and path."""

import decimal
import enum
import math
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    PlainSerializer,
    Secret,
    SecretBytes,
    SecretStr,
    computed_field,
    field_serializer,
)

from orchestrator.definition.codecs import BadType, Codec, FieldsCodec, codec_of, find_culprit
from orchestrator.errors import InvalidInput, InvalidOutput

NAN = math.nan


class Price(BaseModel):
    amount: float


class Offer(BaseModel):
    amount: float | None = None
    prices: list[Price] = []


class Login(BaseModel):
    password: SecretStr


class Shown(BaseModel):
    password: SecretStr
    note: str | None = None

    @field_serializer("password", when_used="json")
    def show(self, value: SecretStr) -> str:
        return value.get_secret_value()


class Tree(BaseModel):
    branches: list["Tree"] = []


class Alias(BaseModel):
    model_config = ConfigDict(validate_by_name=True)

    inner: int = Field(alias="Outer")

    @computed_field
    def double(self) -> int:
        return 2 * self.inner


class Strings(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="strings")

    amount: float


class Constants(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="constants")

    amount: float


@dataclass
class Uncompared:
    amount: float | None = field(compare=False)


class Masked(Secret[str]):
    def _display(self) -> str:
        return "hidden"


class Colour(enum.Enum):
    RED = "red"


class Point(NamedTuple):
    x: int
    y: int


class Hostile:
    def __repr__(self):
        raise RuntimeError("no")

    __str__ = __eq__ = __hash__ = __bool__ = __repr__  # type: ignore[assignment]


class Unequal(BaseModel):
    number: int

    def __eq__(self, other):
        raise RuntimeError("no")

    __hash__ = None  # type: ignore[assignment]


class Broken(BaseModel):
    number: int

    @field_serializer("number")
    def refuse(self, value: int) -> int:
        raise RuntimeError("boom")


class Loud(Exception):
    pass


def shout(_value: object) -> object:
    raise Loud("not a ValueError")


def nested(depth, value=1):
    for _ in range(depth):
        value = [value]
    return value


def deep_tree(depth):
    tree = Tree()
    for _ in range(depth):
        tree = Tree.model_construct(branches=[tree])
    return tree


def loop_list():
    value: list[Any] = []
    value.append(value)
    return value


def loop_dict():
    value: dict[str, Any] = {"a": {}}
    value["a"]["b"] = value
    return value


WRITTEN = [
    (int, 5, b"5"),
    (int, "5", b"5"),
    (Any, {"a": [1, 2.5, None, True, "ä"]}, '{"a":[1,2.5,null,true,"ä"]}'.encode()),
    (Any, None, b"null"),
    (None, None, b"null"),
    (Price, {"amount": "1.5"}, b'{"amount":1.5}'),
    (Price, Price(amount=1), b'{"amount":1.0}'),
    (Offer, Offer(prices=[Price(amount=2)]), b'{"amount":null,"prices":[{"amount":2.0}]}'),
    (Alias, Alias(inner=3), b'{"Outer":3}'),
    (list[int], (1, 2), b"[1,2]"),
    (Iterable[int], (n for n in (1, 2)), b"[1,2]"),
    (Iterable, [1], b"[1]"),
    (bytes, b"ok", b'"ok"'),
    (Any, (1, 2), b"[1,2]"),
    (Any, "**********", b'"**********"'),
    (Any, "NaN null Infinity", b'"NaN null Infinity"'),
    (SecretStr, SecretStr("**********"), b'"**********"'),
    (SecretStr, SecretStr(""), b'""'),
    (Shown, Shown(password=SecretStr("pw")), b'{"password":"pw","note":null}'),
    (Unequal, Unequal(number=1), b'{"number":1}'),
    (Annotated[int, ["not hashable"]], 4, b"4"),
    (float, -0.0, b"-0.0"),
]


# Numbers for names: some of these values have no text.
@pytest.mark.parametrize(("annotation", "value", "data"), WRITTEN, ids=range(len(WRITTEN)))
def test_a_value_that_fits_is_written(annotation, value, data):
    assert codec_of(annotation).dump(value) == data


RETURNING = [
    (datetime, datetime(2026, 1, 2, tzinfo=UTC)),
    (timedelta, timedelta(days=1, microseconds=3)),
    (complex, 1j),
    (set[int], {1, 2}),
    (dict[int, float], {1: 2.5}),
    (Point, Point(1, 2)),
    (Uncompared, Uncompared(amount=None)),
    (Tree, deep_tree(40)),
    (Any, nested(150)),
    (Literal["a", 1], 1),
    (decimal.Decimal, decimal.Decimal("1.10")),
    (Colour, Colour.RED),
    (int, 10**4000),
]


@pytest.mark.parametrize(("annotation", "value"), RETURNING, ids=range(len(RETURNING)))
def test_a_value_comes_back_as_it_was(annotation, value):
    codec = codec_of(annotation)
    again = codec.load(codec.dump(value))
    assert again == value
    assert type(again) is type(value)


TEXT_FIELDS: dict[str, Any] = {"amount": "x"}
BAD_FIELDS: dict[str, Any] = {"amount": Hostile()}

REFUSED = [
    # NaN and infinity, which pydantic writes as null
    (float, NAN, "float", "(root): NaN"),
    (float | None, NAN, "float", "(root): NaN"),
    (Any, math.inf, "float", "(root): NaN"),
    (Any, {"a": [1, {"b": (-math.inf,)}]}, "dict", "a.1.b.0: NaN"),
    (Price, Price(amount=NAN), "test_codecs.Price", "amount: NaN"),
    (Price, {"amount": "nan"}, "test_codecs.Price", "amount: NaN"),
    (Offer, Offer(amount=NAN), "test_codecs.Offer", "amount: NaN"),
    (Offer, Offer(prices=[Price(amount=1), Price(amount=math.inf)]), "test_codecs.Offer", "prices.1.amount: NaN"),
    (list[Offer], [Offer(), Offer(amount=NAN)], "list", "1.amount: NaN"),
    (Strings, Strings(amount=NAN), "test_codecs.Strings", "amount: NaN"),
    (Constants, Constants(amount=NAN), "test_codecs.Constants", "amount: NaN"),
    (Uncompared, Uncompared(amount=NAN), "test_codecs.Uncompared", "amount: NaN"),
    (set[float], {NAN}, "set", "0: NaN"),
    (dict[str, frozenset[float]], {"a": frozenset([NAN])}, "dict", "a.0: NaN"),
    (Any, {NAN: 1}, "dict", "float.[key]: NaN"),
    (dict[float, int], {NAN: 1}, "dict", "float.[key]: NaN"),
    (Any, decimal.Decimal("Infinity"), "decimal.Decimal", "(root): NaN"),
    (decimal.Decimal, decimal.Decimal("NaN"), "decimal.Decimal", "(root): "),
    # secrets, which pydantic writes as stars
    (SecretStr, SecretStr("pw"), "SecretStr", "(root): a SecretStr"),
    (Login, Login(password=SecretStr("pw")), "test_codecs.Login", "password: a SecretStr"),
    (list[SecretBytes], [SecretBytes(b"pw")], "list", "0: a SecretBytes"),
    (Secret[int], Secret[int](5), "Secret", "(root): a Secret"),
    (Masked, Masked("pw"), "test_codecs.Masked", "(root): a Masked"),
    (dict[str, Login], {"a": Login(password=SecretStr("pw"))}, "dict", "a.password: a SecretStr"),
    (Any, {"a": SecretStr("pw")}, "dict", "a: a SecretStr"),
    # what is not text, or has no end
    (str, "a\ud800", "str", "(root): str: UnicodeEncodeError"),
    (Any, {"a": ["\udfff"]}, "dict", "a.0: str: UnicodeEncodeError"),
    (Any, {"\ud800": 1}, "dict", "(root): dict: UnicodeEncodeError"),
    (bytes, b"\xff", "bytes", "(root): bytes: invalid utf-8"),
    (Any, {"a": b"\xff"}, "dict", "a: bytes: invalid utf-8"),
    (Any, loop_list(), "list", "0: a list that contains itself"),
    (list[Any], loop_list(), "list", "a list that contains itself"),
    (Any, loop_dict(), "dict", "a.b: a dict that contains itself"),
    (Any, nested(10_000), "list", "nested deeper than 200 levels"),
    (list[Any], nested(10_000), "list", "nested deeper than 200 levels"),
    (Any, nested(240), "list", "recursion limit exceeded"),
    (Tree, deep_tree(10_000), "test_codecs.Tree", "nested deeper than 200 levels"),
    (Any, 10**5000, "int", "number out of range"),
    # what JSON has no form for
    (Any, Hostile(), "test_codecs.Hostile", "(root): "),
    (Any, {"a": [1, Hostile()]}, "dict", "a.1: "),
    (int, Hostile(), "test_codecs.Hostile", "(root): Input should be a valid integer"),
    (Any, {Point: 1}, "dict", "(root): dict: Unable to serialize"),
    (Any, print, "builtin_function_or_method", "(root): "),
    (Any, (n for n in (1, NAN)), "generator", "return a list"),
    (Any, Price.model_construct(**BAD_FIELDS), "test_codecs.Price", "amount: "),
    (Any, Uncompared(Hostile()), "test_codecs.Uncompared", "amount: "),  # type: ignore[arg-type]
    (Broken, Broken(number=1), "test_codecs.Broken", "RuntimeError: boom"),
    # what does not come back
    (int, "x", "str", "(root): Input should be a valid integer"),
    (Price, {"amount": "x"}, "dict", "amount: Input should be a valid number"),
    (Price, Price.model_construct(**TEXT_FIELDS), "test_codecs.Price", "amount: Input should be a valid number"),
    (Price, Login(password=SecretStr("pw")), "test_codecs.Login", "(root): Input should be a valid dictionary"),
    (dict[tuple[int, int], int], {(1, 2): 3}, "dict", "1,2.[key]: Input should be a valid array"),
    (Any, {1: "a", "1": "b"}, "dict", "(root): two of its keys"),
    (dict[int | str, Any], {"x": 1, 1: "a", "1": "b"}, "dict", "(root): two of its keys"),
    (Annotated[int, BeforeValidator(shout)], 1, "int", "not a ValueError"),
]


@pytest.mark.parametrize(("annotation", "value", "kind", "where"), REFUSED, ids=range(len(REFUSED)))
def test_a_value_that_would_not_come_back_is_refused(annotation, value, kind, where):
    with pytest.raises(InvalidOutput) as caught:
        codec_of(annotation).dump(value)
    assert kind in caught.value.message.partition(" of type ")[2].partition(" is ")[0].partition(" does ")[0]
    assert where in caught.value.message
    assert "pw" not in caught.value.message
    assert len(caught.value.message) < 1000


class Opaque:
    def __getattribute__(self, name):
        raise RuntimeError("no")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # pydantic's own, where it cannot raise
@pytest.mark.parametrize("annotation", [Any, int, str, Price, list[Any], Price | None])
def test_an_object_that_cannot_be_looked_at_is_refused(annotation):
    with pytest.raises(InvalidOutput, match="Opaque"):
        codec_of(annotation).dump(Opaque())
    with pytest.raises(InvalidOutput):
        codec_of(Any).dump({"a": Opaque()})


def test_every_loss_is_reported_up_to_twenty():
    with pytest.raises(InvalidOutput) as caught:
        codec_of(list[float]).dump([NAN] * 100)
    assert caught.value.message.count("NaN and infinity") == 20


def test_a_validator_that_fails_the_second_time_is_a_refusal():
    def refuse_again(value: int) -> int:
        calls.append(value)
        if len(calls) > 1:
            raise Loud("the second time")
        return value

    calls: list[int] = []
    with pytest.raises(InvalidOutput, match=r"does not come back from JSON .*the second time"):
        codec_of(Annotated[int, AfterValidator(refuse_again)]).dump(1)


def test_an_input_is_refused_as_an_input():
    with pytest.raises(InvalidInput, match="a: NaN"):
        codec_of(Any).dump({"a": NAN}, error=InvalidInput)
    with pytest.raises(InvalidInput, match="amount: Field required"):
        codec_of(Price).dump({}, error=InvalidInput)


def test_load_names_each_fields_path_and_no_value():
    codec = codec_of(list[Login])
    with pytest.raises(InvalidInput, match=r"0\.password: .*; 1\.password: ") as caught:
        codec.load(b'[{"password": ["hunter2"]}, {}]')
    assert "hunter2" not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 10_000, b'"\\ud800"', b"nul", b"\x80\x04K\x05."])
def test_load_refuses_what_is_not_json(data):
    with pytest.raises(InvalidInput, match=r"\(root\): Invalid JSON"):
        codec_of(Any).load(data)


def test_load_and_check_survive_hostile_validators():
    codec = codec_of(Annotated[int, BeforeValidator(shout)])
    with pytest.raises(InvalidInput, match="not a ValueError"):
        codec.load(b"1")
    with pytest.raises(InvalidInput, match="not a ValueError"):
        codec.check(1)


def test_check_validates_a_python_value():
    assert codec_of(Price).check({"amount": 1}) == Price(amount=1)
    with pytest.raises(InvalidInput, match="amount: Field required"):
        codec_of(Price).check({})
    with pytest.raises(InvalidInput):
        codec_of(int).check(Hostile())
    hostile = Hostile()
    assert codec_of(Any).check(hostile) is hostile


def test_codecs_are_cached():
    assert codec_of(int) is codec_of(int)
    assert codec_of(list[Price]) is codec_of(list[Price])


def test_unions_in_another_order_are_other_codecs():
    class One(BaseModel):
        a: int

    class Two(BaseModel):
        a: int

    assert type(codec_of(One | Two).load(b'{"a":1}')) is One
    assert type(codec_of(Two | One).load(b'{"a":1}')) is Two


@pytest.mark.parametrize(
    "annotation",
    [
        Hostile,
        Hostile(),
        Callable[[], int],
        Generator[int, None, None] | Hostile,
        type[int],
        type,
        5,
        "Nowhere",
        list["Nowhere"],  # type: ignore[name-defined]  # noqa: F821
        dict[str, Hostile],
        Exception,
        InstanceOf[Hostile],
    ],
    ids=lambda each: type(each).__name__,
)
def test_a_type_that_cannot_be_stored_is_refused(annotation):
    with pytest.raises(BadType, match="cannot be"):
        codec_of(annotation)
    with pytest.raises(BadType, match="cannot be"):
        Codec(annotation)


def test_a_type_with_a_form_of_its_own_in_json_is_taken():
    class Money:
        def __init__(self, cents):
            self.cents = cents

        def __eq__(self, other):
            return self.cents == other.cents

        __hash__ = None  # type: ignore[assignment]

    stored = Annotated[
        InstanceOf[Money],
        BeforeValidator(lambda value: Money(value) if isinstance(value, int) else value),
        PlainSerializer(lambda money: money.cents, return_type=int),
    ]
    codec = codec_of(stored)
    assert codec.dump(Money(5)) == b"5"


def test_schema_is_the_json_schema():
    assert codec_of(Price).schema()["properties"]["amount"]["type"] == "number"
    assert codec_of(Any).schema() == {}


def test_fields_are_written_as_their_annotations_have_them():
    codec = FieldsCodec({"at": (datetime, True), "point": (Any, False), "_x": (int, False)})
    given = {"at": datetime(2026, 1, 2, tzinfo=UTC), "_x": "3"}
    assert codec.dump(given) == b'{"at":"2026-01-02T00:00:00Z","_x":3}'
    assert codec.load(codec.dump(given)) == {"at": given["at"], "_x": 3}
    with pytest.raises(InvalidInput, match=r"^point: .*Point comes back as list"):
        codec.dump(given | {"point": Point(1, 2)}, error=InvalidInput)
    with pytest.raises(InvalidInput, match=r"type int does not fit the parameters at, point, _x: \(root\)"):
        codec.dump(5, error=InvalidInput)


def test_fields_are_named_values():
    codec = FieldsCodec({"count": (int, True), "_x": (str, False), "model_config": (Any, False)})
    assert codec.check({"count": "3"}) == {"count": 3}
    assert codec.load(b'{"count":1,"_x":"a","model_config":null}') == {"count": 1, "_x": "a", "model_config": None}
    with pytest.raises(InvalidInput, match=r"count: Input should be a valid integer.*; more: Extra inputs"):
        codec.check({"count": "x", "more": 1})
    with pytest.raises(InvalidInput, match="count: Field required"):
        codec.load(b"{}")
    with pytest.raises(InvalidInput, match=r"\(root\)"):
        codec.check([1])


plain_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
POISON = {
    "nan": NAN,
    "infinity": math.inf,
    "surrogate": "\ud800",
    "bytes": b"\xff",
    "secret": SecretStr("pw"),
    "hostile": Hostile(),
    "loop": loop_list(),
}


@given(plain_json)
def test_any_json_comes_back(value):
    codec = codec_of(Any)
    assert codec.load(codec.dump(value)) == value
    assert find_culprit(value) is None


@given(
    st.lists(st.text(alphabet="abc", min_size=1) | st.integers(0, 2), max_size=6),
    plain_json,
    st.sampled_from(sorted(POISON)),
)
def test_poison_is_found_wherever_it_is(path, sound, bad):
    value = POISON[bad]
    for step in reversed(path):
        value = {"-": sound, step: value} if isinstance(step, str) else [*[sound] * step, value]
    with pytest.raises(InvalidOutput) as caught:
        codec_of(Any).dump(value)
    assert ".".join(map(str, path)) in caught.value.message
