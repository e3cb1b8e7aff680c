"""Checks of functions: a node's can take its input, and the others can be called with a state."""

from __future__ import annotations

import inspect
from functools import partial
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any

from orchestrator.definition.checks.locations import find_places
from orchestrator.definition.checks.messages import flow_place, step_place
from orchestrator.definition.codecs import BadType, Codec, codec_of
from orchestrator.definition.policies import Limit
from orchestrator.definition.signature import MISSING, BadFunction, Contract
from orchestrator.definition.wording import is_a, show
from orchestrator.errors import InvalidInput, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.definition.checks.locations import Place
    from orchestrator.definition.flow import Flow
    from orchestrator.definition.steps import AnyNode


def check_functions(flow: Flow) -> Iterator[Problem]:
    """A node's function can be called with what it will be given."""
    for place in find_places(flow):
        contract = read_contract(place.node)
        if isinstance(contract, BadFunction):
            yield Problem(place.where, contract.code, f"its function {show(place.node.fn)}: {contract.message}")
        # What is wired by name is judged by `inputs`, parameter by parameter.
        elif place.node.wiring is None and (fault := _input_fault(place, contract)):
            yield Problem(place.where, "input-mismatch", fault)


def check_callbacks(flow: Flow) -> Iterator[Problem]:
    """Input functions, error classifiers and predicates are plain functions of one argument."""
    for place in find_places(flow):
        for what, function in (
            ("input function", place.node.input_func),
            ("error classifier", place.node.error_classifier),
            *(("key function", limit.key) for limit in place.node.limits() if is_a(limit, Limit)),
        ):
            if function is not None and (fault := callback_fault(function)):
                yield Problem(place.where, "bad-function", f"its {what} {show(function)} {fault}")
    for step in flow.all_steps():
        for what, function in step.functions():
            if fault := callback_fault(function):
                yield Problem(step_place(flow, step), "bad-function", f"its {what} {show(function)} {fault}")


def check_input_type(flow: Flow) -> Iterator[Problem]:
    """The type given to takes() can be read from JSON and written to it."""
    codec = read_input_type(flow)
    if isinstance(codec, BadType):
        yield Problem(flow_place(flow), "bad-type", f"takes({show(flow.input_type)}): {codec}")


def find_ignored_options(flow: Flow) -> Iterator[str]:
    """Soft findings: options of a Celery task that do not apply where it is a node's function."""
    for place in find_places(flow):
        if ignored := place.node.contract.ignored:
            options = ", ".join(ignored)
            yield (
                f"{place.where}: a node ignores the options of its Celery task "
                f"{show(place.node.fn.name)}: {options}; set the node's own policies"  # type: ignore[attr-defined]
            )


def read_contract(node: AnyNode) -> Contract | BadFunction:
    """Return what a node's function takes and returns, or the reason why it cannot be one."""
    try:
        return node.contract
    except BadFunction as fault:
        return fault
    except Exception as error:  # noqa: BLE001 - annotations and signatures are a user's code: it may raise anything
        return BadFunction("bad-function", f"its signature cannot be read: {type(error).__name__}: {show(str(error))}")


def read_input_type(flow: Flow) -> Codec[Any] | BadType:
    """Return the codec of the run's input, or the reason why there is none."""
    try:
        return flow.input_codec or codec_of(Any)
    except BadType as fault:
        return fault
    except Exception as error:  # noqa: BLE001 - a type may be a user's own class, which may raise anything
        return BadType(f"it cannot be used as a type: {type(error).__name__}")


def _input_fault(place: Place, contract: Contract) -> str | None:
    node = place.node
    has_constant = node.input is not MISSING
    if place.is_mapped:
        return _item_fault(node, contract)
    if contract.style == "none":
        if has_constant or node.input_func is not None:
            return "it has an input, but its function has no parameter for it; add one, or remove the input"
        return None
    # A compensation without an input of its own gets the output of its node.
    has_own = has_constant or node.input_func is not None or node.child is not None  # a flow gets the run's input
    if not has_own and contract.needs_input and place.undoes is None:
        names = ", ".join(parameter.name for parameter in contract.parameters)
        fault = f"its function takes {names}, but it has no input; give it one, with_input(...) or with_input_func(...)"
        return fault + contract.remedy
    if has_constant:
        try:
            contract.read(node.input)
        except InvalidInput as error:
            return f"its input does not fit its function: {error.message}"
    return None


def _item_fault(node: AnyNode, contract: Contract) -> str | None:
    if contract.style == "none":
        return "it is called for each item of a map, but its function has no parameter for it; add one"
    if node.input is not MISSING or node.input_func is not None:
        return "it is called with each item of a map; remove its own input"
    return None


def callback_fault(function: object) -> str | None:
    """What is wrong with a function of one argument, as the end of a sentence, if anything."""
    if not callable(function):
        return "is not a function; use a function or lambda of one argument"
    code = _code_of(function)
    if inspect.iscoroutinefunction(code) or inspect.isasyncgenfunction(code):
        return "is async, which only a node's own function may be; write it with def"
    if inspect.isgeneratorfunction(code):
        return "is a generator; return the value instead of yielding it"
    return None if _takes_one(function) else "cannot be called with one argument; give it exactly one parameter"


def _code_of(function: object) -> FunctionType | None:
    """Return the function whose code runs: behind partials and methods, or the `__call__` of an object."""
    while isinstance(function, partial):
        function = function.func
    if not inspect.isroutine(function) and not isinstance(function, type):
        function = getattr(type(function), "__call__", None)  # noqa: B004 - the code is wanted, not whether it is there
    if isinstance(function, MethodType):
        function = function.__func__
    return function if isinstance(function, FunctionType) else None


def _takes_one(function: object) -> bool:
    try:
        signature = inspect.signature(function)  # type: ignore[arg-type]
    except Exception:  # noqa: BLE001 - some builtins have none, and a user's object may raise anything: the run will tell
        return True
    try:
        signature.bind(None)
    except TypeError:
        return False
    return True
