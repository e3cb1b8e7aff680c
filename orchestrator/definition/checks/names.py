"""Checks of names: their form, and that each is used once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from orchestrator.definition.checks.locations import Place, find_places, find_writers, is_exclusive
from orchestrator.definition.checks.messages import flow_place, step_place
from orchestrator.definition.policies import Limit
from orchestrator.definition.wording import NAME_RULE, call, is_a, is_name, is_text, show
from orchestrator.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.definition.flow import Flow

LONGEST_QUEUE: Final = 255


def check_names(flow: Flow) -> Iterator[Problem]:
    """Names and output keys have a form that is safe in Redis keys, task names, logs and pages."""
    yield from _check_form(flow_place(flow), "name", flow.name)
    for step in flow.all_steps():
        if step.what == "step":  # else it has the name of its node
            yield from _check_form(step_place(flow, step), "name", step.name)
    for place in find_places(flow):
        yield from _check_form(place.where, "name", place.node.name)
        if place.node.key is not None:
            yield from _check_form(place.where, "output key", place.node.key)
        for limit in place.node.limits():
            if is_a(limit, Limit) and limit.is_shared:
                yield from _check_form(place.where, f"{limit.what}'s name", limit.name)
    if flow.returns is not None:
        yield from _check_form(flow_place(flow), "key given to returns()", flow.returns)


def check_queues(flow: Flow) -> Iterator[Problem]:
    """Queue names are text that every broker can hold."""
    queues = [(flow_place(flow), flow.queue), *((place.where, place.node.queue) for place in find_places(flow))]
    for where, queue in queues:
        if queue is not None and not _is_queue(queue):
            message = f"the queue name {show(queue)} is not valid; use 1 to {LONGEST_QUEUE} printable characters"
            yield Problem(where, "bad-name", message)


def check_unique_names(flow: Flow) -> Iterator[Problem]:
    """Names are unique, because a run keeps one record for each node, compensation and block by name."""
    owners: dict[str, object] = {}
    for place in find_places(flow):
        name = place.node.name
        if not is_a(name, str):
            continue
        if name in owners:
            yield Problem(place.where, "duplicate-node", _already(place, owners[name]))
        owners.setdefault(name, place.node)
    for step in flow.all_steps():
        if not step.own_kind or not is_a(step.name, str):
            continue
        if step.own_name in owners:
            yield Problem(step_place(flow, step), "duplicate-node", step.clash)
        owners.setdefault(step.own_name, step)


def check_unique_keys(flow: Flow) -> Iterator[Problem]:
    """No two nodes of one run write the same output key."""
    for key, writers in find_writers(flow).items():
        for index, writer in enumerate(writers):
            rival = next((each for each in writers[:index] if not is_exclusive(each.path, writer.path)), None)
            # Two nodes of one name have one key because of it, and check_unique_names reports that already.
            if rival is not None and not (is_text(rival.node.name, key) and is_text(writer.node.name, key)):
                message = (
                    f"node {call(rival.node.name)} writes the output key {call(key)} too; change one with as_(...)"
                )
                yield Problem(writer.where, "duplicate-key", message)


def _check_form(where: str, what: str, value: object) -> Iterator[Problem]:
    if not is_name(value):
        yield Problem(where, "bad-name", f"the {what} {show(value)} is not valid; use {NAME_RULE}")


def _is_queue(value: object) -> bool:
    return is_a(value, str) and 0 < len(value) <= LONGEST_QUEUE and value.isprintable() and value.strip() == value


def _already(place: Place, owner: object) -> str:
    if owner is place.node and place.undoes is not None:
        return "the same compensation is used twice; give each its own with .with_name(...)"
    if owner is place.node:
        return "the same node is used twice; give one of them another name with .with_name(...)"
    return "another node has this name, compensations included; rename one with .with_name(...)"
