"""Checks of numbers and durations: time limits, retry policies, rate limits and slots."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from orchestrator.definition.checks.functions import read_contract, read_input_type
from orchestrator.definition.checks.locations import find_places
from orchestrator.definition.checks.messages import flow_place
from orchestrator.definition.codecs import BadType
from orchestrator.definition.gates import Gate
from orchestrator.definition.policies import Limit, RateLimit, RetryPolicy, SharedConcurrency, SharedLimit
from orchestrator.definition.signature import Contract
from orchestrator.definition.wording import call, count_fault, duration_fault, is_a, show
from orchestrator.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.definition.checks.locations import Place
    from orchestrator.definition.flow import Flow
    from orchestrator.definition.steps import AnyNode


def check_timeouts(flow: Flow) -> Iterator[Problem]:
    """Time limits are durations from a millisecond to a hundred years."""
    if flow.timeout is not None and (fault := duration_fault(flow.timeout, "timeout")):
        yield Problem(flow_place(flow), "bad-timeout", f"the run's {fault}")
    for place in find_places(flow):
        if is_a(place.node, Gate) or place.node.child is not None:  # `gates` and `children` have their own rules
            continue
        if fault := duration_fault(place.node.timeout, "timeout"):
            yield Problem(place.where, "bad-timeout", f"its {fault}")


def check_deadlines(flow: Flow) -> Iterator[Problem]:
    """A deadline is a duration, and belongs to a function that is called in a step of its own."""
    for place in find_places(flow):
        if place.node.deadline is None:
            continue
        if fault := duration_fault(place.node.deadline, "deadline"):
            yield Problem(place.where, "bad-timeout", f"its {fault}")
        elif what := _without_deadline(place):
            yield Problem(place.where, "bad-timeout", f"{what}, and no deadline")


def check_heartbeats(flow: Flow) -> Iterator[Problem]:
    """A heartbeat timeout is a duration, and belongs to a function that can report."""
    for place in find_places(flow):
        if place.node.heartbeat_timeout is None:
            continue
        contract = None if is_a(place.node, Gate) or place.node.child is not None else read_contract(place.node)
        if fault := duration_fault(place.node.heartbeat_timeout, "heartbeat timeout"):
            yield Problem(place.where, "bad-timeout", f"its {fault}")
        elif contract is None or (isinstance(contract, Contract) and not contract.takes_context):
            message = "it has a heartbeat timeout, but nothing in it can report: take a NodeContext as first parameter"
            yield Problem(place.where, "bad-timeout", message)


def _without_deadline(place: Place) -> str:
    if is_a(place.node, Gate):
        return "a gate waits no longer than its timeout: give it with_timeout(...)"
    if place.node.child is not None:
        return "a node that starts a flow has the timeout of its run: give it with_timeout(...)"
    if place.undoes is not None:
        return "a compensation is tried until its attempts are used up: give it a retry policy and a timeout"
    return "the node of a map has a timeout for each attempt" if place.is_mapped else ""


def check_max_runs(flow: Flow) -> Iterator[Problem]:
    """At most so many runs of a flow go on at once, told apart by a part of the input."""
    if flow.max_runs is None:
        return
    faults = list(flow.max_runs.faults())
    for fault in faults:
        yield Problem(flow_place(flow), "bad-limit", f"its maximum of runs: {fault}")
    if faults or flow.max_runs.key is None:
        return
    codec = read_input_type(flow)
    written = None if isinstance(codec, BadType) else codec.written()
    if written is None:
        return
    known = [written]
    for name in flow.max_runs.key.split("."):
        known = [part for each in known for part in each.parts(name) if part is not None]
    if not known:
        message = f"its maximum of runs: the input has nothing at {call(flow.max_runs.key)}; name a part of it"
        yield Problem(flow_place(flow), "bad-limit", message)


def check_retries(flow: Flow) -> Iterator[Problem]:
    """Retry policies make at least one attempt, and no delay is negative."""
    for place in find_places(flow):
        for fault in _retry_faults(place.node.retry, is_compensation=place.undoes is not None):
            yield Problem(place.where, "bad-retry", f"its retry policy{fault}")


def check_limits(flow: Flow) -> Iterator[Problem]:
    """Limits let attempts start, and shared ones with the same name have the same numbers."""
    known: dict[str, Limit] = {}
    for place in find_places(flow):
        for limit, kind, example in _given(place.node):
            if not is_a(limit, kind):
                yield Problem(place.where, "bad-limit", f"its {kind.what} is {show(limit)}; give it a {example}(...)")
                continue
            title = f"{limit.what} {call(limit.name)}" if limit.is_shared else limit.what
            faults = list(limit.faults())
            if not faults and limit.is_shared and is_a(limit.name, str):
                faults = list(_differences(limit, known.setdefault(limit.plan_name(""), limit)))
            for fault in faults:
                yield Problem(place.where, "bad-limit", f"its {title}{fault}")


def _given(node: AnyNode) -> Iterator[tuple[Any, type[Limit], str]]:
    """Yield what was given for each limit of a node, with what it has to be and the class to name."""
    if node.rate_limit is not None:
        yield node.rate_limit, RateLimit, "RateLimit"
    for limiter in node.shared_rate_limits:
        yield limiter, SharedLimit, "SharedRateLimiter"
    if node.concurrency is not None:
        yield node.concurrency, SharedConcurrency, "SharedConcurrency"


def _differences(limit: Limit, other: Limit) -> Iterator[str]:
    if limit != other:
        yield " differs from another one of the same name; use one object for both"
    elif (limit.key is None) != (other.key is None):
        yield " has a key function in one node and none in another; rename one of them"


def find_low_caps(flow: Flow) -> Iterator[str]:
    """Soft findings: retry policies whose longest delay cuts off the first one."""
    for place in find_places(flow):
        policy = place.node.retry
        if policy.maximum_interval < policy.initial_interval:
            yield (
                f"{place.where}: its retry policy never waits for its initial_interval of {policy.initial_interval}, "
                f"because its maximum_interval is {policy.maximum_interval}; raise maximum_interval"
            )


def _retry_faults(policy: object, *, is_compensation: bool) -> Iterator[str]:
    if not is_a(policy, RetryPolicy):
        yield f" is {show(policy)}; give it a RetryPolicy(...)"
        return
    faults = (
        duration_fault(policy.initial_interval, "initial_interval", is_zero_fine=True),
        duration_fault(policy.maximum_interval, "maximum_interval", is_zero_fine=True),
        _factor_fault(policy.backoff_coefficient),
        count_fault(policy.maximum_attempts, "maximum_attempts"),
        None if is_a(policy.jitter, bool) else f"jitter is {show(policy.jitter)}; use True or False",
        _errors_fault(policy.non_retryable),
        _exhaustion_fault(policy.on_exhausted, is_compensation=is_compensation),
    )
    yield from (f"'s {fault}" for fault in faults if fault)


def _exhaustion_fault(value: object, *, is_compensation: bool) -> str | None:
    if not is_a(value, str) or value not in {"fail", "pause"}:
        return f'on_exhausted is {show(value)}; use "fail" or "pause"'
    if value == "pause" and is_compensation:
        return 'on_exhausted is "pause", but a rollback does not wait for anybody; leave it out of a compensation'
    return None


def _factor_fault(value: object) -> str | None:
    if is_a(value, int, float) and not is_a(value, bool) and 1 <= value < math.inf:
        return None
    return f"backoff_coefficient is {show(value)}; use a number of at least 1"


def _errors_fault(value: object) -> str | None:
    if is_a(value, tuple) and all(is_a(each, type) and issubclass(each, BaseException) for each in value):
        return None
    return f"non_retryable is {show(value)}; use a tuple of exception classes"
