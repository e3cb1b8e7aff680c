"""Signatures of node functions: what each takes and returns, read once.

A function is any callable: an async one, a class, a partial, or a Celery task, recognised by its shape. One that cannot
be a node's is refused with a `BadFunction`, whose text becomes the Problem's.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections import abc
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

from orchestrator.definition.codecs import BadType, Codec, FieldsCodec, codec_of
from orchestrator.definition.context import NodeContext
from orchestrator.errors import InvalidInput, text_of, type_name

if TYPE_CHECKING:
    from collections.abc import Callable

_EMPTY: Final = inspect.Parameter.empty
_ARGS: Final = inspect.Parameter.VAR_POSITIONAL
_KWARGS: Final = inspect.Parameter.VAR_KEYWORD
_VARIADIC: Final = (_ARGS, _KWARGS)
_BY_POSITION: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_UNIONS: Final = (typing.Union, types.UnionType)
_GENERATORS: Final = (abc.Generator, abc.AsyncGenerator, abc.Iterator, abc.AsyncIterator, abc.AsyncIterable)
_TASK_OPTIONS: Final = ("rate_limit", "time_limit", "soft_time_limit", "queue", "autoretry_for")


class Missing(Enum):
    """The type of `MISSING`."""

    MISSING = "missing"

    def __repr__(self) -> str:
        return self.name


MISSING: Final = Missing.MISSING
"""No value at all, where None is a value."""


class BadFunction(Exception):
    """A function cannot be a node's.

    Attributes:
        code: Of the Problem: `bad-function` or `bad-type`.
        message: Of the Problem.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Contract:
    """What a node's function takes and returns.

    Attributes:
        fn: The function; a Celery task as it is.
        takes_context: Whether its first parameter is a NodeContext.
        style: `none`: no input; `single`: the input is its one parameter; `fields`: the input maps parameter names.
        input: How its input is validated; None for `none`.
        output: How its output is stored.
        is_async: Whether calling it gives an awaitable of the output.
        parameters: Its parameters besides the context, with annotations resolved.
        is_decorated: Whether a decorator with *args or **kwargs is called first, so that its parameters are the inner
            function's, of which the decorator may supply some.
        ignored: Options of its own that do not apply, of a Celery task.
        page: How a page is validated, of a function that fetches pages; its output is all of them.
    """

    fn: Callable[..., Any]
    takes_context: bool
    style: Literal["none", "single", "fields"]
    input: Codec[Any] | None
    output: Codec[Any]
    is_async: bool
    parameters: tuple[inspect.Parameter, ...]
    ignored: tuple[str, ...]
    page: Codec[Any] | None = None
    is_decorated: bool = False

    @property
    def remedy(self) -> str:
        """What else to do about an input that does not fit, to be put behind the fault."""
        if not self.is_decorated:
            return ""
        return "; if its decorator supplies some of them, call it in a function of your own that takes the others"

    @property
    def needs_input(self) -> bool:
        """Whether the function cannot be called without an input."""
        return any(parameter.default is _EMPTY for parameter in self.parameters)

    def read(self, given: Any) -> Any:
        """Return a Python value as the function takes it; MISSING stands for no input and stays.

        Raises:
            InvalidInput: It does not fit; the message has each field's path.
        """
        return self._checked(given, lambda codec: codec.check(given))

    def load(self, data: Any) -> Any:
        """Return stored JSON as the function takes it; what `read` is for a Python value."""
        return self._checked(data, lambda codec: codec.load(data))

    def invoke(
        self, ctx: NodeContext | None, value: Any, *cursor: str | None, function: Callable[..., Any] | None = None
    ) -> Any:
        """Call the function with what `read` returned; an async one returns its awaitable.

        Args:
            ctx: The attempt; None for a function that does not take it.
            value: The input.
            cursor: Of a function that fetches pages: where the page begins.
            function: Called in place of the function, with the same arguments.
        """
        function = function or self.fn
        context = [*([ctx] if self.takes_context else []), *cursor]
        if not self.parameters or value is MISSING:
            return function(*context)
        first = self.parameters[0]
        if self.style == "single" and len(self.parameters) == 1 and first.kind in _BY_POSITION:
            return function(*context, value)
        named = dict(value) if self.style == "fields" else {first.name: value}
        # By position as far as it goes, because some callables (singledispatch) look at positions only.
        places = [each for each in self.parameters if each.kind in _BY_POSITION]
        while places and places[-1].name not in named:
            places.pop()
        return function(*context, *(named.pop(each.name, each.default) for each in places), **named)

    def _checked(self, given: Any, read: Callable[[Codec[Any]], Any]) -> Any:
        if given is MISSING:
            if self.needs_input:
                names = ", ".join(parameter.name for parameter in self.parameters)
                fault = f"the function takes {names}; give the node an input, with_input or with_input_func"
                raise InvalidInput(fault + self.remedy)
            return MISSING
        if self.input is None:
            raise InvalidInput("the function has no parameter for an input; add one, or leave the input out")
        try:
            return read(self.input)
        except InvalidInput as error:
            if not self.is_decorated:
                raise
            raise InvalidInput(error.message + self.remedy) from None


def read_contract(fn: Any) -> Contract:
    """Return what a function takes and returns.

    Raises:
        BadFunction: It cannot be a node's function.
    """
    if not callable(fn):
        raise BadFunction("bad-function", f"a {type_name(type(fn))} is not a function")
    is_task = _is_task(fn)
    target = fn.run if is_task else fn
    code = _code_of(target)
    if inspect.isgeneratorfunction(code) or inspect.isasyncgenfunction(code):
        raise BadFunction("bad-function", "it is a generator; return a list, or use paginate")
    hints = _hints_of(target, code)
    signature, is_decorated = _signature_of(target)
    parameters = _parameters_of(target, signature, hints)
    takes_context = bool(parameters) and _is_context(parameters[0].annotation)
    if takes_context:
        parameters = parameters[1:]
    output, is_awaitable = _output_of(hints.get("return", Any))
    return Contract(
        fn=fn,
        takes_context=takes_context,
        style=style_of(parameters),
        input=input_of(parameters),
        output=output,
        is_async=is_awaitable or inspect.iscoroutinefunction(code),
        parameters=parameters,
        ignored=_ignored_options(fn) if is_task else (),
        is_decorated=is_decorated,
    )


def _is_task(fn: Any) -> bool:
    # A Celery task, told by its shape: this floor does not know Celery.
    has_methods = all(callable(getattr(fn, method, None)) for method in ("apply_async", "run"))
    return has_methods and isinstance(getattr(fn, "name", None), str) and not isinstance(fn, type)


def _ignored_options(task: Any) -> tuple[str, ...]:
    conf = getattr(getattr(task, "app", None), "conf", None)
    own = {option: getattr(task, option, None) for option in _TASK_OPTIONS}
    if own["rate_limit"] == getattr(conf, "task_default_rate_limit", None):
        own["rate_limit"] = None
    return tuple(option for option, value in own.items() if value)


def _code_of(fn: Any) -> Any:
    """Return the function whose code runs first: behind partials, and the `__call__` of an object."""
    while isinstance(fn, partial):
        fn = fn.func
    return fn if isinstance(fn, type) or inspect.isroutine(fn) else type(fn).__call__


def _hints_of(target: Any, code: Any) -> dict[str, Any]:
    """Return the resolved annotations of the parameters and of `return`, of those that have one."""
    known: dict[str, Any] = {}
    if isinstance(code, type):
        # What a class returns is itself; its fields, if it has a signature of its own, are in it already.
        known = {name: each.annotation for name, each in _signature_of(target)[0].parameters.items()}
        constructor = inspect.getattr_static(code, "__init__")
        annotated: Any = code.__new__ if constructor is object.__init__ else constructor
    else:
        annotated = inspect.unwrap(target) if hasattr(target, "__wrapped__") else code
    try:
        try:
            known |= typing.get_type_hints(annotated, include_extras=True)
        except NameError:
            # Linters move an import that only annotations need under TYPE_CHECKING; for this one name nothing is lost.
            known |= typing.get_type_hints(annotated, localns={"NodeContext": NodeContext}, include_extras=True)
    except NameError as error:
        fault = f"an annotation cannot be resolved: {text_of(error)}; import it outside of TYPE_CHECKING"
        raise BadFunction("bad-type", fault) from error
    except Exception as error:
        raise BadFunction("bad-type", f"an annotation cannot be resolved: {text_of(error)}") from error
    if isinstance(code, type):
        known["return"] = code
    for name, hint in known.items():
        if isinstance(hint, str):
            raise BadFunction("bad-type", f"the annotation {hint!r} of {name} cannot be resolved")
    return {name: hint for name, hint in known.items() if hint is not _EMPTY}


def _signature_of(target: Any) -> tuple[inspect.Signature, bool]:
    """Return how a callable is called, and whether that is known only from what its decorator says that it wraps."""
    try:
        shown = inspect.signature(target)
    except (ValueError, TypeError) as error:
        raise BadFunction("bad-function", "its signature cannot be read; call it in a function of your own") from error
    try:
        own = inspect.signature(target, follow_wrapped=False)
    except (ValueError, TypeError):  # in C, such as lru_cache, which takes what it wraps takes
        return shown, False
    kinds = {each.kind for each in own.parameters.values()}
    if list(own.parameters) == list(shown.parameters):
        return shown, False
    if not kinds.intersection(_VARIADIC):
        return own, False  # the decorator names what it takes, whatever is behind it
    if kinds.issuperset(_VARIADIC):
        return shown, True
    kind = inspect.Parameter.POSITIONAL_ONLY if _ARGS in kinds else inspect.Parameter.KEYWORD_ONLY
    inner = [each.replace(kind=kind) for each in shown.parameters.values() if each.kind not in _VARIADIC]
    return shown.replace(parameters=inner), True


def _parameters_of(target: Any, signature: inspect.Signature, hints: dict[str, Any]) -> tuple[inspect.Parameter, ...]:
    # What a partial fixes by keyword stays in its signature, with a default; it is no input all the same.
    bound = target.keywords if isinstance(target, partial) else {}
    parameters = [each for each in signature.parameters.values() if each.name not in bound]
    named = [each.replace(annotation=hints.get(each.name, Any)) for each in parameters if each.kind not in _VARIADIC]
    if any(_is_context(each.annotation) for each in named[1:]):
        raise BadFunction("bad-function", "NodeContext is not its first parameter; put it first")
    if named and _is_context(named[0].annotation) and named[0].kind not in _BY_POSITION:
        raise BadFunction("bad-function", "NodeContext is given by position; take it as the first positional parameter")
    if len(named) < len(parameters) and all(_is_context(each.annotation) for each in named):
        raise BadFunction("bad-function", "it takes *args or **kwargs alone; name its parameters, or use wraps")
    return tuple(named)


def _is_context(annotation: Any) -> bool:
    """Whether it is a NodeContext, which may be optional or annotated."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _is_context(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in _UNIONS:
        return {_is_context(each) for each in typing.get_args(annotation) if each is not type(None)} == {True}
    return isinstance(annotation, type) and issubclass(annotation, NodeContext)


def _output_of(annotation: Any) -> tuple[Codec[Any], bool]:
    origin = typing.get_origin(annotation) or annotation
    if origin in _GENERATORS:
        raise BadFunction("bad-function", "it returns a generator; return a list, or use paginate")
    if origin in (typing.NoReturn, typing.Never):
        return codec_of(Any), False
    if origin in (abc.Awaitable, abc.Coroutine):
        return _codec("its return type", (typing.get_args(annotation) or (Any,))[-1]), True
    return _codec("its return type", annotation), False


def style_of(parameters: tuple[inspect.Parameter, ...]) -> Literal["none", "single", "fields"]:
    """Return how an input becomes arguments."""
    return "none" if not parameters else "single" if len(parameters) == 1 else "fields"


def input_of(parameters: tuple[inspect.Parameter, ...]) -> Codec[Any] | None:
    """Return how an input of these parameters is validated; None if there are none."""
    codecs = {each.name: _codec(f"parameter {each.name}", each.annotation) for each in parameters}
    if len(codecs) > 1:
        return FieldsCodec({each.name: (each.annotation, each.default is _EMPTY) for each in parameters})
    return next(iter(codecs.values()), None)


def _codec(what: str, annotation: Any) -> Codec[Any]:
    try:
        return codec_of(annotation)
    except BadType as error:
        raise BadFunction("bad-type", f"{what}: {error}") from error
