"""Static reads: the outputs that a function of the state is known to read, found in its byte code without calling it.

A read is known when the function, or one nested in it, calls `get`, `get_or`, `has` or `failure` on the function's own
first parameter with a key that is a literal, a Node, a closure variable or a global. The checks report faulty reads;
the plan uses known ones to prefetch outputs.
"""

from __future__ import annotations

import dis
from dataclasses import dataclass, field
from types import CodeType, FunctionType, MethodType
from typing import TYPE_CHECKING, Final

from orchestrator.definition.node import Node

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from collections.abc import Set as AbstractSet

READERS: Final = frozenset({"get", "get_or", "has", "failure"})
HARMLESS: Final = frozenset({"input", "run_id", "flow_name"})

JUMPS: Final = frozenset((*dis.hasjrel, *dis.hasjabs))
NEVER_FALLS_THROUGH: Final = ("JUMP_FORWARD", "JUMP_BACKWARD", "RETURN_", "RAISE_VARARGS", "RERAISE")
LEAVES_STACK: Final = frozenset(
    {"NOP", "RESUME", "MAKE_CELL", "COPY_FREE_VARS", "PRECALL", "KW_NAMES", "EXTENDED_ARG", "CACHE", "NOT_TAKEN"}
)
PUSHES_NOTHING: Final = ("STORE_", "DELETE_", "POP_", "LIST_", "SET_ADD", "SET_UPDATE", "MAP_ADD", "DICT_", "END_")
BINDS_LOCAL: Final = ("STORE_FAST", "DELETE_FAST", "STORE_DEREF", "DELETE_DEREF", "LOAD_FAST_AND_CLEAR")
BINDS_OUTSIDE: Final = ("STORE_GLOBAL", "DELETE_GLOBAL", "STORE_DEREF", "DELETE_DEREF")


@dataclass(frozen=True)
class Reads:
    """The known reads of a function of the state.

    Attributes:
        gets: Output keys it calls `get` with.
        optional: Output keys it calls `get_or` or `has` with.
        failures: Node names it calls `failure` with.
        complete: Whether it cannot read anything else; False for every use of the state that is not one of the above.
    """

    gets: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()
    failures: frozenset[str] = frozenset()
    complete: bool = False


def known_reads(function: object) -> Reads:
    """Find the reads of a function that takes the state as its first parameter; never calls it and never raises.

    Args:
        function: A function, lambda, bound method or object with `__call__`; of anything else nothing is known.
    """
    found = _find_state(function)
    if found is None:
        return Reads()
    plain, state = found
    rebound = frozenset(_rebound(plain.__code__))
    scopes = tuple(_scopes(plain.__code__, state, _closure(plain, rebound)))
    if any(_binds(scope.code, state) for scope in scopes):
        return Reads()
    finder = _Finder(state, plain.__globals__, rebound)
    for scope in scopes:
        finder.follow(scope)
    sole_reads = [next(iter(use.reads)) for use in finder.uses if len(use.reads) == 1]
    known = [(reader, key) for reader, key in sole_reads if key is not None]
    return Reads(
        gets=frozenset(key for reader, key in known if reader == "get"),
        optional=frozenset(key for reader, key in known if reader in ("get_or", "has")),
        failures=frozenset(key for reader, key in known if reader == "failure"),
        complete=len(known) == len(finder.uses),
    )


def _find_state(function: object) -> tuple[FunctionType, str] | None:
    """Return the plain function behind a callable, and the name of the parameter that gets the state."""
    position = 0
    if not isinstance(function, FunctionType | MethodType):
        function, position = getattr(type(function), "__call__", None), 1  # noqa: B004 - the code is wanted, not whether
    elif isinstance(function, MethodType):
        function, position = function.__func__, 1
    if not isinstance(function, FunctionType) or function.__code__.co_argcount <= position:
        return None
    return function, function.__code__.co_varnames[position]


def _closure(function: FunctionType, rebound: AbstractSet[str]) -> dict[str, object]:
    """Return the values of a function's closure variables, except those that the function itself assigns."""
    values = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            value = cell.cell_contents
        except ValueError:  # the variable has no value yet
            continue
        if name not in rebound:
            values[name] = value
    return values


@dataclass(frozen=True)
class _Scope:
    code: CodeType
    closure: Mapping[str, object]


def _scopes(code: CodeType, state: str, closure: Mapping[str, object]) -> Iterator[_Scope]:
    """Yield a function's code and that of every nested function that sees its first parameter."""
    yield _Scope(code, closure)
    handed_down = {name: value for name, value in closure.items() if name not in code.co_cellvars}
    for inner in code.co_consts:
        if isinstance(inner, CodeType) and state in inner.co_freevars:
            yield from _scopes(inner, state, {n: value for n, value in handed_down.items() if n in inner.co_freevars})


def _rebound(code: CodeType) -> Iterator[str]:
    """Yield the names of globals and closure variables that a function, or one nested in it, assigns."""
    for step in dis.get_instructions(code):
        if step.opname.startswith(BINDS_OUTSIDE):
            yield from _names(step)
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _rebound(inner)


def _names(step: dis.Instruction) -> tuple[str, ...]:
    return step.argval if isinstance(step.argval, tuple) else (step.argval,)


def _binds(code: CodeType, name: str) -> bool:
    """Return whether the code assigns the variable, so that it need not be the state any more."""
    return any(
        name in (_names(step)[:1] if step.opname == "STORE_FAST_LOAD_FAST" else _names(step))
        for step in dis.get_instructions(code)
        if step.opname.startswith(BINDS_LOCAL)
    )


@dataclass(eq=False)
class _Use:
    """One place where the code loads the state: its value on the stack, and the reads seen from there.

    The compiler may emit the end of an expression twice, once for each branch: a read whose key differs between them
    has a computed key.
    """

    reads: set[tuple[str, str | None]] = field(default_factory=set)


@dataclass(frozen=True, eq=False)
class _Reader:
    """One of the state's methods, on the stack."""

    name: str
    use: _Use


OTHER: Final = object()


@dataclass
class _Finder:
    """Simulates the interpreter's stack for the values that matter: the state, its methods, and possible keys.

    The stack is a list with unknown values below its end, so that code reached by jumps that are not followed
    (exception handlers, loops) can start with an empty one. Only forward jumps are followed: an expression that spans a
    loop leaves the values below it on the stack alone.
    """

    state: str
    globals: Mapping[str, object]
    rebound: AbstractSet[str]
    uses: list[_Use] = field(default_factory=list)
    stack: list[object] = field(default_factory=list)
    scope: _Scope = field(init=False)
    keywords: tuple[str, ...] = ()

    def follow(self, scope: _Scope) -> None:
        """Walk through one code object."""
        self.scope, self.stack, self.keywords = scope, [], ()
        arrivals: dict[int, list[object]] = {}
        is_reached = True
        for step in dis.get_instructions(scope.code):
            arrived = arrivals.pop(step.offset, None)
            if arrived is not None:
                self.stack = _join(self.stack, arrived) if is_reached else arrived
                is_reached = True
            if step.opcode in JUMPS:
                jumped = self._after_jump(step)
                arrivals[step.argval] = _join(jumped, arrivals.get(step.argval, jumped))
            self._take(step)
            if step.opname.startswith(NEVER_FALLS_THROUGH):
                self.stack, is_reached = [], False

    def _after_jump(self, step: dis.Instruction) -> list[object]:
        effect = dis.stack_effect(step.opcode, step.arg, jump=True)
        return self.stack[: len(self.stack) + effect] if effect < 0 else [*self.stack, *[OTHER] * effect]

    def _pop(self, count: int = 1) -> list[object]:
        """Pop values off the stack, the topmost last."""
        missing = max(0, count - len(self.stack))
        taken = self.stack[len(self.stack) - (count - missing) :]
        del self.stack[len(self.stack) - (count - missing) :]
        return [OTHER] * missing + taken

    def _take(self, step: dis.Instruction) -> None:
        name = step.opname
        if name == "KW_NAMES":
            self.keywords = self.scope.code.co_consts[step.arg or 0]
        elif name in LEAVES_STACK:
            return
        elif name in ("LOAD_ATTR", "LOAD_METHOD"):
            self._load_attribute(step)
        elif name in ("CALL", "CALL_KW"):
            self._call(step.arg or 0, is_keyword=name == "CALL_KW")
        elif name == "STORE_FAST_LOAD_FAST":
            self._pop()
            self.stack.append(self._variable(_names(step)[1], is_fast=True))
        elif name == "LOAD_FROM_DICT_OR_DEREF":
            self._pop()
            self.stack.append(self._variable(step.argval, is_fast=False))
        elif name.startswith(("LOAD_FAST", "LOAD_DEREF", "LOAD_CLASSDEREF")):
            self.stack += [self._variable(variable, is_fast="FAST" in name) for variable in _names(step)]
        elif name == "SWAP":
            self._swap(step.arg or 0)
        else:
            self._do_anything_else(step)

    def _do_anything_else(self, step: dis.Instruction) -> None:
        effect = dis.stack_effect(step.opcode, step.arg, jump=False)
        if effect > 0:
            self.stack += [OTHER] * effect
            if effect == 1:
                self.stack[-1] = self._constant(step)
            return
        pushed = 0 if step.opname.startswith(PUSHES_NOTHING) or step.opcode in JUMPS else 1
        self._pop(pushed - effect)
        self.stack += [OTHER] * pushed

    def _constant(self, step: dis.Instruction) -> object:
        if step.opname == "LOAD_CONST":
            return step.argval
        is_constant = step.opname in ("LOAD_GLOBAL", "LOAD_NAME") and step.argval not in self.rebound
        return self.globals.get(step.argval, OTHER) if is_constant else OTHER

    def _variable(self, name: str, *, is_fast: bool) -> object:
        code = self.scope.code
        # From 3.13 on LOAD_FAST of a cell loads the cell itself, to pass it to a nested function: not a use.
        if is_fast and (name in code.co_cellvars or name in code.co_freevars):
            return OTHER
        if name == self.state:
            self.uses.append(_Use())
            return self.uses[-1]
        return OTHER if is_fast else self.scope.closure.get(name, OTHER)

    def _load_attribute(self, step: dis.Instruction) -> None:
        effect = dis.stack_effect(step.opcode, step.arg, jump=False)
        (owner,) = self._pop()
        self.stack += [OTHER] * (effect + 1)
        if isinstance(owner, _Use) and step.argval in READERS:
            self.stack[-1 - effect] = _Reader(step.argval, owner)
        elif isinstance(owner, _Use):
            owner.reads.add((step.argval, "" if step.argval in HARMLESS else None))

    def _call(self, count: int, *, is_keyword: bool) -> None:
        if is_keyword:
            (names,) = self._pop()
            self.keywords = names if isinstance(names, tuple) else ()
        arguments = self._pop(count)
        key = arguments[0] if count > len(self.keywords) else None
        self.keywords = ()
        for reader in self._pop(2):
            if isinstance(reader, _Reader):
                reader.use.reads.add((reader.name, _key_text(key, reader.name)))
        self.stack.append(OTHER)

    def _swap(self, depth: int) -> None:
        items = self._pop(depth)
        items[0], items[-1] = items[-1], items[0]
        self.stack += items


def _key_text(key: object, reader: str) -> str | None:
    if isinstance(key, Node):
        key = key.name if reader == "failure" else key.output_key
    return str.__str__(key) if isinstance(key, str) else None


def _join(one: list[object], other: list[object]) -> list[object]:
    """Merge the stacks of two branches that meet: values that are the same in both are known."""
    shared = min(len(one), len(other))
    pairs = zip(one[len(one) - shared :], other[len(other) - shared :], strict=True)
    return [mine if mine is theirs else OTHER for mine, theirs in pairs]
