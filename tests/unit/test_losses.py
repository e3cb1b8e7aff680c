"""Losses: what comes back from JSON as another type or value is refused with its path, and no `__eq__` is asked."""

import dataclasses
import functools
import re
import zoneinfo
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag, IntEnum, StrEnum
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID

import pytest
from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    PlainSerializer,
    PrivateAttr,
    RootModel,
    SecretStr,
    SerializeAsAny,
    model_validator,
)
from pydantic.dataclasses import dataclass as pydantic_dataclass

from orchestrator.definition.codecs import codec_of
from orchestrator.definition.losses import UNREAD, find_losses
from orchestrator.definition.schemas import Care, care_of
from orchestrator.errors import InvalidInput, InvalidOutput

WHEN = datetime(2026, 3, 29, 1, 30, tzinfo=UTC)
VIENNA = zoneinfo.ZoneInfo("Europe/Vienna")


class Color(Enum):
    RED = 1


class Level(IntEnum):
    LOW = 1


class Mode(StrEnum):
    FAST = "fast"


class Perm(Flag):
    R = 1
    W = 2


class Point(NamedTuple):
    x: int
    at: datetime | None = None


class Animal(BaseModel):
    name: str


class Dog(Animal):
    breed: str = "pug"


class Zoo(BaseModel):
    star: Animal
    rest: dict[str, list[Animal]] = {}


class AnyZoo(BaseModel):
    star: SerializeAsAny[Animal]


class Hidden(BaseModel):
    shown: int
    kept: int = Field(default=0, exclude=True)
    deep: list[Animal] = Field(default=[], exclude=True)


class Renamed(BaseModel):
    number: int = Field(default=0, validation_alias="in", serialization_alias="out")
    other: int = Field(default=0, validation_alias=AliasChoices("a", "b"))


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")

    name: str
    anything: Any = None
    _token: str = PrivateAttr(default="")

    @functools.cached_property
    def upper(self) -> str:
        return self.name.upper()


class Twins(BaseModel):
    """A model whose parts lead back to it."""

    name: str
    at: datetime = WHEN
    _me: Any = PrivateAttr(default=None)

    @model_validator(mode="after")
    def know_itself(self):
        self._me = self
        self.__dict__["again"] = self
        return self


@dataclasses.dataclass
class Line:
    sku: str
    price: Decimal = Decimal(1)
    total: Decimal = dataclasses.field(init=False, default=Decimal(0))


@dataclasses.dataclass
class GiftLine(Line):
    gift: str = "ribbon"


@dataclasses.dataclass(frozen=True, slots=True)
class Slot:
    at: datetime


@pydantic_dataclass
class Checked:
    at: datetime
    tags: frozenset[str] = frozenset()


class Trap(BaseModel):
    """A value that fails where its `__eq__` is asked."""

    number: int
    parts: list["Trap"] = []

    def __eq__(self, other):
        raise AssertionError("asked")

    __hash__ = None  # type: ignore[assignment]


class Money:
    """A class of a user's own, with what it has computed beside what it is."""

    __slots__ = ("__dict__", "cents")

    def __init__(self, cents):
        self.cents = cents
        self._computed = object()

    @functools.cached_property
    def euros(self):
        return self.cents / 100

    def __eq__(self, other):
        raise AssertionError("asked")

    __hash__ = None  # type: ignore[assignment]


STORED_MONEY = Annotated[
    InstanceOf[Money],
    BeforeValidator(lambda value: Money(value) if isinstance(value, int) else value),
    PlainSerializer(lambda money: money.cents, return_type=int),
]
ROUNDED = Annotated[float, PlainSerializer(lambda number: round(number, 1))]
SORTED = Annotated[dict[str, int], PlainSerializer(lambda given: dict(sorted(given.items())))]


def line(total):
    made = Line("a")
    made.total = total
    return made


def priced(cents):
    money = Money(cents)
    assert money.euros == cents / 100
    return money


def shouted(name):
    made = Open(name=name)
    assert made.upper == name.upper()
    return made


def secretive(token):
    made = Open(name="a")
    made._token = token
    return made


KEPT = [
    (datetime, WHEN),
    (datetime, datetime(2026, 3, 29, 2, 30)),  # noqa: DTZ001
    (datetime, datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=5, minutes=45)))),
    (datetime | str, WHEN),
    (date | datetime, datetime(2026, 1, 1, tzinfo=UTC)),
    (time, time(23, 59, 59, 999999, tzinfo=UTC)),
    (dict[str, datetime | str | None], {"at": WHEN, "by": "me", "to": None}),
    (list[datetime], [WHEN]),
    (dict[datetime, deque[datetime]], {WHEN: deque([WHEN])}),
    (tuple[datetime, int], (WHEN, 1)),
    (frozenset[datetime], frozenset([WHEN])),
    (set[tuple[int, Point]], {(1, Point(1, WHEN)), (2, Point(2))}),
    (Point, Point(1, WHEN)),
    (Slot, Slot(WHEN)),
    (Checked, Checked(WHEN, frozenset(["a"]))),
    (Color, Color.RED),
    (Perm, Perm.R | Perm.W),
    (dict[Color | int, int], {2: 1}),
    (dict[int, str], {1: "a"}),
    (dict[date, int], {date(2026, 1, 1): 1}),
    (defaultdict[str, list[int]], defaultdict(list, {"a": [1]})),
    (Counter[str], Counter("aab")),
    (OrderedDict[str, int], OrderedDict(b=1, a=2)),
    (deque[int], deque([1, 2])),
    (Decimal, Decimal("0.10")),
    (complex, 1 + 2j),
    (UUID, UUID(int=1)),
    (IPv4Address, IPv4Address("10.0.0.1")),
    (Path, Path("/somewhere")),
    (list[int] | tuple[int, ...], [1, 2]),
    (Literal["a", 1], 1),
    (RootModel[list[int]], RootModel[list[int]]([1])),
    (Dog, Dog(name="Rex")),
    (Animal | Dog, Animal(name="Rex")),
    (Hidden, Hidden(shown=1)),
    (Line, line(Decimal(0))),
    (Open, Open(name="a", more=[1])),
    (Open, shouted("a")),
    (SORTED, {"b": 1, "a": 2}),
    (object, {"a": [1, 2.5, None]}),
    (float, 0.1 + 0.2),
    (float, -0.0),
]


@pytest.mark.parametrize(("annotation", "value"), KEPT, ids=range(len(KEPT)))
def test_what_comes_back_as_it_was_is_stored(annotation, value):
    codec = codec_of(annotation)
    again = codec.load(codec.dump(value))
    assert again == value
    assert type(again) is type(value)
    assert repr(again) == repr(value) or annotation is SORTED or isinstance(value, set | frozenset)


UTC_ALONE = "time zone Europe/Vienna comes back as its offset alone; return the time in UTC"
LOST = [
    # a member of a union that JSON does not tell
    (datetime | str, "2026-03-29T01:30:00Z", "(root): str comes back as datetime.datetime"),
    (str | datetime, WHEN, "(root): datetime.datetime comes back as str"),
    (UUID | str, str(UUID(int=1)), "(root): str comes back as uuid.UUID"),
    (Mode | str, Mode.FAST, "Mode comes back as str"),
    (list[int] | tuple[int, ...], (1, 2), "(root): tuple comes back as list"),
    (dict[str, list[int] | tuple[int, ...]], {"a": (1, 2)}, "a: tuple comes back as list"),
    (dict[str, str | datetime], {"at": WHEN}, "at: datetime.datetime comes back as str"),
    # a subclass of what is declared
    (Animal, Dog(name="Rex"), "(root): tests.unit.test_losses.Dog comes back as tests.unit.test_losses.Animal"),
    (list[Animal], [Animal(name="a"), Dog(name="Rex")], "1: tests.unit.test_losses.Dog comes back as"),
    (Zoo, Zoo(star=Dog(name="Rex")), "star: tests.unit.test_losses.Dog comes back as"),
    (Zoo, Zoo(star=Animal(name="a"), rest={"b": [Dog(name="c")]}), "rest.b.0: tests.unit.test_losses.Dog comes"),
    (AnyZoo, AnyZoo(star=Dog(name="Rex")), "star: tests.unit.test_losses.Dog comes back as"),
    (Line, GiftLine("a"), "(root): tests.unit.test_losses.GiftLine comes back as tests.unit.test_losses.Line"),
    (Animal | None, Dog(name="Rex"), "(root): tests.unit.test_losses.Dog comes back as"),
    (Sequence[int], deque([1]), "(root): collections.deque comes back as list"),
    # what a declaration leaves out
    (Hidden, Hidden(shown=1, kept=7), "kept: comes back with another value (the field is excluded from JSON)"),
    (Hidden, Hidden(shown=1, deep=[Animal(name="a")]), "deep: comes back with 0 of 1 parts (the field is excluded"),
    (Renamed, Renamed(**{"in": 5}), "number: comes back with another value (the field is written and read under"),
    (Renamed, Renamed(b=5), "other: comes back with another value (the field is written and read under"),
    (Line, line(Decimal(5)), "total: comes back with another value (the field has init=False and is not read)"),
    (Open, secretive("s3cret"), "_token: comes back with another value (private attributes are not stored)"),
    (deque[int], deque([1], maxlen=3), "(root): its maxlen does not come back"),
    (defaultdict[str, int], defaultdict(lambda: 5, a=1), "(root): its default_factory does not come back"),
    (ROUNDED, 1.25, "(root): comes back with another value"),
    # time zones
    (datetime, datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=VIENNA), UTC_ALONE),
    (Slot, Slot(datetime(2026, 1, 1, tzinfo=VIENNA)), f"at: the {UTC_ALONE}"),
    (datetime, datetime(2026, 10, 25, 2, 30, fold=1), "(root): comes back with another value"),  # noqa: DTZ001 - a naive time is the case
    # parts of no type of their own
    (dict[str, Any], {"at": WHEN}, "at: datetime.datetime comes back as str"),
    (list, [{1}], "0: set comes back as list"),
    (Open, Open(name="a", anything=Decimal(1)), "anything: decimal.Decimal comes back as str"),
    (Open, Open(name="a", more={1: 2}), "more.1.[key]: int comes back as str"),
]
UNANNOTATED = [
    (WHEN, "(root): datetime.datetime comes back as str"),
    (Decimal("0.10"), "(root): decimal.Decimal comes back as str"),
    ({1: "a"}, "1.[key]: int comes back as str"),
    ({"a": {1, 2}}, "a: set comes back as list"),
    (b"text", "(root): bytes comes back as str"),
    (Dog(name="Rex"), "(root): tests.unit.test_losses.Dog comes back as dict"),
    (Line("a"), "(root): tests.unit.test_losses.Line comes back as dict"),
    (Color.RED, "(root): tests.unit.test_losses.Color comes back as int"),
    ([Mode.FAST], "0: tests.unit.test_losses.Mode comes back as str"),
    (Point(1), "(root): tests.unit.test_losses.Point comes back as list"),
    (OrderedDict(a=1), "(root): collections.OrderedDict comes back as dict"),
    (defaultdict(int, a=1), "(root): collections.defaultdict comes back as dict"),
    (Path("/a"), " comes back as str"),
    ({"a": 1}.items(), "(root): dict_items: Unable to serialize unknown type"),
    (ValueError("x"), "(root): ValueError: Unable to serialize unknown type"),
    ([lambda: 1], "0: function: Unable to serialize unknown type"),
]


@pytest.mark.parametrize(("annotation", "value", "message"), LOST, ids=range(len(LOST)))
def test_what_would_come_back_changed_is_refused_with_its_path(annotation, value, message):
    with pytest.raises(InvalidOutput, match=re.escape(message)) as caught:
        codec_of(annotation).dump(value)
    assert "does not come back from JSON as it was: " in caught.value.message
    assert "s3cret" not in caught.value.message


def test_what_changes_its_type_is_refused_with_what_to_do():
    with pytest.raises(InvalidOutput, match="; annotate exactly what is returned: JSON tells neither a subclass nor"):
        codec_of(Animal).dump(Dog(name="Rex"))


@pytest.mark.parametrize(("value", "message"), UNANNOTATED, ids=range(len(UNANNOTATED)))
def test_without_an_annotation_only_json_is_taken(value, message):
    with pytest.raises(InvalidOutput, match=re.escape(message)) as caught:
        codec_of(Any).dump(value)
    assert caught.value.message.endswith("; annotate the return")
    with pytest.raises(InvalidInput, match="; name its type with takes"):
        codec_of(Any).dump(value, error=InvalidInput)


@pytest.mark.parametrize("annotation", [Any, object, list, dict[str, Any], Sequence[int], Mapping[str, Sequence[int]]])
def test_where_no_annotation_says_tuple_a_tuple_counts_as_a_list(annotation):
    value = {"a": (1, 2)} if "dict" in str(annotation) or "Mapping" in str(annotation) else (1, 2)
    codec = codec_of(annotation)
    assert codec.load(codec.dump(value)) in ([1, 2], {"a": [1, 2]})


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Trap, Trap(number=1, parts=[Trap(number=2)])),
        (list[Trap | int], [Trap(number=1), 2]),
        (Open, Open(name="a", anything={"a": 1})),
        (STORED_MONEY, priced(5)),
        (dict[str, STORED_MONEY], {"a": priced(5)}),
    ],
    ids=range(5),
)
def test_no_equality_of_a_user_is_asked(annotation, value):
    codec_of(annotation).dump(value)


def test_an_object_of_a_users_own_is_compared_by_its_public_attributes():
    lossy: Any = Annotated[
        InstanceOf[Money],
        BeforeValidator(lambda value: Money(value) if isinstance(value, int) else value),
        PlainSerializer(lambda _: 0, return_type=int),
    ]
    codec_of(lossy).dump(Money(0))
    with pytest.raises(InvalidOutput, match="cents: comes back with another value"):
        codec_of(lossy).dump(Money(5))


def test_a_value_that_leads_back_to_itself_comes_to_an_end():
    codec = codec_of(list[Twins])
    (again,) = codec.load(codec.dump([Twins(name="a")]))
    assert again.at.tzinfo is UTC


def test_a_value_that_cannot_be_compared_is_refused():
    class Odd:
        @property
        def public(self):
            raise RuntimeError("no")

        def __init__(self):
            self.__dict__["public"] = 1

    annotation: Any = Annotated[
        InstanceOf[Odd],
        BeforeValidator(lambda value: Odd() if value == 1 else value),
        PlainSerializer(lambda _: 1, return_type=int),
    ]
    with pytest.raises(InvalidOutput, match="cannot be compared with its JSON: no"):
        codec_of(annotation).dump(Odd())


def test_what_was_not_read_again_is_searched_for_what_json_never_holds():
    value = {1: [Decimal("NaN")], "a": {SecretStr("pw")}, "b": Point(1), "c": Color.RED, "d": Open(name="a")}
    assert [str(loss) for loss in find_losses(value, UNREAD)] == [
        "1.0: NaN and infinity are not JSON",
        "a.0: a SecretStr would be stored masked; return what may be stored",
    ]


@pytest.mark.parametrize(
    ("annotation", "care"),
    [
        (str, Care.NONE),
        (None, Care.NONE),
        (bool | None, Care.NONE),
        (Annotated[str, Field(max_length=5)], Care.NONE),
        (dict[str, list[tuple[str, bool]]], Care.NONE),
        (int, Care.BUILT_IN),
        (Any, Care.BUILT_IN),
        (dict, Care.BUILT_IN),
        (list, Care.BUILT_IN),
        (dict[int, str], Care.BUILT_IN),
        (str | int, Care.BUILT_IN),
        (list[float], Care.BUILT_IN),
        (dict[float, str], Care.EVERY_PART),
        (str | datetime, Care.EVERY_PART),
        (Animal, Care.EVERY_PART),
        (Annotated[str, PlainSerializer(str.upper)], Care.EVERY_PART),
        (Annotated[str, BeforeValidator(str)], Care.EVERY_PART),
    ],
)
def test_a_type_that_loses_nothing_is_known_before_there_is_a_value(annotation, care):
    assert care_of(codec_of(annotation)._adapter) == care
