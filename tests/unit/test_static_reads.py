"""Static reads of a function, on whatever byte code this interpreter has; the function is never called."""

from collections.abc import Callable
from functools import partial
from operator import methodcaller
from typing import Any

import pytest

from orchestrator.definition.node import Node
from orchestrator.definition.static_reads import Reads, known_reads

KEY = "issues"
FETCH: Any = Node("fetch-issues", lambda: 1).as_(KEY)
FLAG = bool(KEY)


class Keys:
    issues = KEY


class Shelf:
    key = KEY

    def read(self, state: Any) -> Any:
        return state.get("m"), self.key

    def __call__(self, state: Any) -> Any:
        return state.get("c"), self.key

    @staticmethod
    def read_static(state: Any) -> Any:
        return state.get("s")

    @classmethod
    def read_class(cls, state: Any) -> Any:
        return state.get("k"), cls.key


def closing_over(key: Any, node: Any) -> Callable[[Any], Any]:
    return lambda state: (state.get(key, str), state.has(node), state.failure(node))


def in_handlers(state: Any) -> Any:
    try:
        return state.get("a")
    except KeyError:
        return state.get("b")
    finally:
        state.has("c")


def in_loops(state: Any) -> Any:
    with state.input() as lines:
        for line in lines:
            if state.has("d"):
                return line + state.get("d") + state.get("e", int)
            while state.get("f"):
                pass
    return f"{state.get('g'):>{state.get('h')}} {state.get('i')!r}"


def in_patterns(state: Any) -> Any:
    match state.get("a"):
        case {"x": value, **rest}:
            return state.get("b"), value, rest
        case [1, *others]:
            return state.get("c", str) < state.get("d") < state.get("e"), others
    return {**state.get("f"), "l": lambda: state.get("g")}, [*state.get("h")], not state.get("i"), state.get("j")[1:2]


def in_comprehensions(state: Any) -> Any:
    made = {n: state.get("a", {m: n for m in range(3) if m}) for n in state.get("b", tuple[int, ...])}
    return made, [state.get("c") for _ in made for _ in made if state.get("d")], (kept := state.get("e")), kept


def in_nested_functions(state: Any) -> Any:
    def inner() -> Any:
        return state.get("a"), [state.get("b") for _ in range(3)], (lambda: state.get(KEY))

    return inner(), sorted([{"x": 1}], key=lambda state: state.get("x") or 0)


def in_a_class(state: Any) -> Any:
    class Body:
        value = state.get("a")

    return Body


async def in_async_code(state: Any) -> Any:
    async with state.input() as lines:
        async for line in lines:
            await line(state.get("a"))
    return [state.get("b") async for _ in state.input()]


def assigned(state: Any) -> Any:
    state = dict(state)
    return state.get("a")


def deleted(state: Any) -> Any:
    found = state.get("a")
    del state
    return found


def assigned_inside(state: Any) -> Any:
    def inner() -> None:
        nonlocal state
        state = {}

    inner()
    return state.get("a")


def with_local_key(state: Any) -> Any:
    key = "a"
    return state.get(key)


def with_local_key_inside(state: Any) -> Any:
    key = state.run_id
    return [state.get(key) for _ in range(3)], (lambda: state.get(key))


def with_assigned_global(state: Any) -> Any:
    global KEY  # noqa: PLW0603 - the point
    KEY = "b"
    return state.get(KEY)


def handed_on(state: Any) -> Any:
    return with_local_key(state), state.get("a")


def kept(state: Any) -> Any:
    other = state
    return other.get("a")


def method_kept(state: Any) -> Any:
    get = state.get
    return get("a"), get("b")


def with_default(state: Any, key: str = "a") -> Any:
    return state.get(key)


def starred(*states: Any) -> Any:
    return states[0].get("a")


def empty_cell() -> Callable[[Any], Any]:
    def read(state: Any) -> Any:
        return state.get(later)

    if FLAG:
        return read
    later = "a"
    return read


def reads(gets: str = "", optional: str = "", failures: str = "", *, complete: bool = True) -> Reads:
    return Reads(frozenset(gets.split()), frozenset(optional.split()), frozenset(failures.split()), complete)


KNOWN: list[tuple[Any, Reads]] = [
    (lambda s: s.get("a"), reads("a")),
    (lambda s: s.get("a", str), reads("a")),
    (lambda s: s.get(KEY, list[str] | None), reads("issues")),
    (lambda s: s.get(FETCH), reads("issues")),
    (lambda s: (s.get_or("a", dict[str, int], {}), s.has("b")), reads(optional="a b")),
    (lambda s: (s.failure("a"), s.failure(FETCH)), reads(failures="a fetch-issues")),
    (lambda s: s.get_or(FETCH, default=None), reads(optional="issues")),
    (closing_over("a", FETCH), reads("a", "issues", "fetch-issues")),
    (lambda s: s.get("a", 1 if s.get("b") else s.get("c")), reads("a b c")),
    (lambda s: s.get_or("a", str, "x" if FLAG else None), reads(optional="a")),
    (lambda s: s.get("a") if s.has("a") else s.get("b"), reads("a b", "a")),
    (lambda s: s.get("a").get("b").get("c"), reads("a")),
    (lambda s: {"v": s.get("a"), "w": 3, **s.get("b")}, reads("a b")),
    (lambda s: FETCH("x", s.get("a"), sep="", end=s.get("b")), reads("a b")),
    (lambda s: s.input().rows and s.run_id and s.flow_name, reads()),
    (lambda _: 1, reads()),
    (in_handlers, reads("a b", "c")),
    (in_loops, reads("d e f g h i", "d")),
    (in_patterns, reads("a b c d e f g h i j")),
    (in_comprehensions, reads("a b c d e")),
    (in_nested_functions, reads("a b issues")),
    (in_a_class, reads("a")),
    (in_async_code, reads("a b")),
    (Shelf().read, reads("m")),
    (Shelf(), reads("c")),
    (Shelf.read_static, reads("s")),
    (Shelf.read_class, reads("k")),
]
UNKNOWN: list[tuple[Any, Reads]] = [
    (lambda s: s.get("a" + KEY), reads(complete=False)),
    (lambda s: s.get(KEY + "a"), reads(complete=False)),
    (lambda s: s.get(f"a{KEY}"), reads(complete=False)),
    (lambda s: s.get(KEY if FLAG else "a"), reads(complete=False)),
    (lambda s: s.get("a" if s.has("a") else "b"), reads(optional="a", complete=False)),
    (lambda s: s.get(KEY or "a"), reads(complete=False)),
    (lambda s: s.get(Keys.issues), reads(complete=False)),
    (lambda s: s.get(FETCH.name), reads(complete=False)),
    (lambda s: s.get(str(KEY)), reads(complete=False)),
    (lambda s: s.get(FLAG), reads(complete=False)),
    (lambda s: s.get(nowhere), reads(complete=False)),  # type: ignore[name-defined]  # noqa: F821
    (lambda s: s.get(*("a",)), reads(complete=False)),
    (lambda s: s.get(), reads(complete=False)),
    (lambda s: s.get(key="a"), reads(complete=False)),
    (lambda s: [s.has(key) for key in ("a", "b")], reads(complete=False)),
    (lambda s: s.keys(), reads(complete=False)),
    (lambda s: (s, s.get("a")), reads("a", complete=False)),
    (empty_cell(), reads(complete=False)),
    (assigned, reads(complete=False)),
    (deleted, reads(complete=False)),
    (assigned_inside, reads(complete=False)),
    (with_local_key, reads(complete=False)),
    (with_local_key_inside, reads(complete=False)),
    (with_assigned_global, reads(complete=False)),
    (handed_on, reads("a", complete=False)),
    (kept, reads(complete=False)),
    (method_kept, reads(complete=False)),
    (with_default, reads(complete=False)),
    (starred, reads(complete=False)),
    (partial(with_default, key="a"), reads(complete=False)),
    (methodcaller("get", "a"), reads(complete=False)),
    *((junk, reads(complete=False)) for junk in (None, 5, "get", str, Shelf, len, Shelf.__init__, object())),
]


@pytest.mark.parametrize(("function", "expected"), KNOWN)
def test_a_known_read_is_found(function: Any, expected: Reads):
    assert known_reads(function) == expected


@pytest.mark.parametrize(("function", "expected"), UNKNOWN)
def test_any_other_read_is_told_to_be_unknown(function: Any, expected: Reads):
    assert known_reads(function) == expected


def test_a_text_of_another_class_is_a_key_too():
    class Text(str):
        __slots__ = ()

    (key,) = known_reads(closing_over(Text("a"), FETCH)).gets

    assert (key, type(key)) == ("a", str)
