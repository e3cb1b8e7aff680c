"""Checks of triggers: a flow has one, and each of them can start it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.definition.checks.functions import read_input_type
from orchestrator.definition.checks.messages import flow_place
from orchestrator.definition.codecs import BadType
from orchestrator.definition.triggers import ManualTrigger, ScheduleTrigger, cron_problem
from orchestrator.definition.wording import LONGEST, is_a, is_text, show
from orchestrator.errors import InvalidInput, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.definition.flow import Flow


def check_triggers(flow: Flow) -> Iterator[Problem]:
    """A flow has a trigger, and every trigger can start it."""
    where = flow_place(flow)
    if not flow.triggers:
        yield Problem(
            where, "no-trigger", 'it has no trigger; add triggered_by(manual("api")) or triggered_by(schedule(...))'
        )
    for trigger in flow.triggers:
        for fault in _trigger_faults(flow, trigger):
            yield Problem(where, "bad-trigger", fault)


def _trigger_faults(flow: Flow, trigger: object) -> Iterator[str]:
    if is_a(trigger, ManualTrigger):
        if not is_a(trigger.label, str) or not trigger.label or not trigger.label.isprintable():
            yield f"the label of manual({show(trigger.label)}) cannot be shown; use printable text"
    elif is_a(trigger, ScheduleTrigger):
        name = f"schedule({show(trigger.cron)})"
        if fault := _schedule_fault(trigger):
            yield f"{name}: {fault}"
        if fault := _input_fault(flow, trigger):
            yield f"{name}: {fault}"
        if flow.max_runs is not None and is_text(trigger.overlap, "queue"):
            yield f"{name}: overlap is 'queue', and the flow has a maximum of runs, which queues them; use 'allow'"
    else:
        yield f"{show(trigger)} is not a trigger; use manual(label) or schedule(cron)"


def _schedule_fault(trigger: ScheduleTrigger) -> str | None:
    if not is_a(trigger.overlap, str):
        return f"overlap is {show(trigger.overlap)}; use 'skip', 'allow' or 'queue'"
    try:
        fault = cron_problem(trigger)
    except Exception as error:  # noqa: BLE001 - croniter raises other errors than its own for odd text
        return f"the cron expression cannot be read ({type(error).__name__}); write five fields, such as '0 */4 * * *'"
    if fault is None and trigger.catch_up > LONGEST:
        return f"catch_up is {trigger.catch_up}; use at most {LONGEST.days} days"
    return fault


def _input_fault(flow: Flow, trigger: ScheduleTrigger) -> str | None:
    codec = read_input_type(flow)
    if isinstance(codec, BadType):
        return None  # the type itself is refused where it is given
    try:
        codec.dump(trigger.input, error=InvalidInput)
    except InvalidInput as error:
        if trigger.input is None:
            return f"the flow takes an input, so the schedule needs one, schedule(..., input=...): {error.message}"
        return f"its input does not fit what the flow takes: {error.message}"
    return None
