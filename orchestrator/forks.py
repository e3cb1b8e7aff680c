"""Fork an ended run: decide what a new run takes over from it, copy that in portions, and let the new run begin.

What is copied stands beside the fork, unseen and with an end of its own, until one script makes the run of it. So a
fork is there as a whole or not at all, and no script holds Redis for long, however much there is to take over.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from orchestrator.answers import codec_of_node, dumped
from orchestrator.definition.checks.messages import suggest
from orchestrator.definition.step_plan import END
from orchestrator.definition.wording import call
from orchestrator.errors import ConfigurationError, InvalidInput, RunError, UnknownRun
from orchestrator.fault_points import fault_point
from orchestrator.messaging.start_checks import refused_eviction
from orchestrator.starts import dump_input, open_span
from orchestrator.store.inheritance import read_past
from orchestrator.store.output_parts import LIST_OF
from orchestrator.store.run_store import STAGED_MS
from orchestrator.store.scripts.forking import Copied

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from orchestrator.definition.plan import Plan
    from orchestrator.definition.step_plan import StepPlan
    from orchestrator.engine import Engine
    from orchestrator.store.inheritance import Past
    from orchestrator.store.run_store import RunRecord, Store

UNCHANGED: Final[Any] = object()
"""Stands for the input of the run that is forked."""
UNDONE: Final = frozenset({"compensating", "compensated", "compensation_failed"})
KEPT: Final = ("state", "attempt", "generation", "choice")
"""What is taken over of a node's record; the instants are those of the other run."""
NODES_AT_ONCE, BYTES_AT_ONCE = 100, 4 * 1024 * 1024


@dataclass
class Legacy:
    """What a fork takes over.

    Attributes:
        records: Of each node: its record as JSON.
        given: Outputs in place of the source's, by key.
        keys: Output keys whose values are copied, each with its bytes.
        failures: Nodes whose failures are copied.
        parts: Nodes whose outputs are stored in parts, each with the kind and the number of the parts.
    """

    records: dict[str, str] = field(default_factory=dict)
    given: dict[str, bytes] = field(default_factory=dict)
    keys: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    parts: dict[str, tuple[str, int]] = field(default_factory=dict)


def fork_run(engine: Engine, source: RunRecord, plan: Plan, *, at: Any, given: Any, outputs: Any) -> str:
    """Fork a run and return the id of the new one; see `FlowRun.fork`."""
    if not source.status.is_final:
        message = f"the run is {source.status}; only a run that has ended can be forked, so wait for it or cancel it"
        raise _refusal(source, message)
    name, position = find_step(plan, at)
    values = find_keys(plan, outputs, position)
    store = engine.store
    data = (store.input(source.run_id) or b"") if given is UNCHANGED else dump_input(engine, source.flow, given)
    plan.lane(data)  # for what it raises: nothing is written yet
    legacy = inherit(store, source, plan, position=position, given=values, dump=partial(_dumped_output, engine, plan))
    # The id is made here, once: a call that is repeated after a lost answer is known by it.
    run_id = str(uuid.uuid4())
    engine.refuse(plan, source.priority, is_newer=True)  # an older worker would undo what is taken over
    copied = copy(store, source, legacy, run_id)
    fault_point("before_fork")
    scheduled = source.fields.get("scheduled")
    moved = engine.fork(
        plan,
        run_id,
        source,
        position=position,
        at=name,
        copied=copied,
        input_json=data,
        tags=source.tags,
        scheduled_ms=int(scheduled) if scheduled else None,
        traceparent=open_span(),
    )
    if moved.outcome not in {"started", "exists"}:
        raise _refused(source, moved.outcome)
    return run_id


def find_step(plan: Plan, at: Any) -> tuple[str, int]:
    """Return the name and the position of the step that a node, or its own name, stands for.

    Raises:
        InvalidInput: The plan has no such node or step.
    """
    name = at if isinstance(at, str) else getattr(at, "name", None)
    positions = {step.name: position for position, step in reversed(list(enumerate(plan.steps)))}
    positions |= {node.name: node.step for node in plan.nodes.values() if not node.undoes}
    if not isinstance(name, str) or name not in positions:
        raise InvalidInput(f"at: there is no node or step {call(name)}; {suggest(str(name), positions)}", plan.flow)
    step = plan.steps[positions[name]]
    # Of a map the items are computed anew.
    return name, plan.nodes[step.source].step if step.source else positions[name]


def find_keys(plan: Plan, outputs: Any, position: int) -> dict[str, Any]:
    """Return the outputs that are given, by key; in place of a key may stand a node or its name.

    Raises:
        InvalidInput: It is no mapping, or no node before the position has such a key.
    """
    if outputs is not None and not isinstance(outputs, Mapping):
        raise InvalidInput(f"outputs: it maps output keys to values, and is no {type(outputs).__name__}", plan.flow)
    before = {node.name: node.key for node in plan.nodes.values() if node.key and node.step < position}
    keys, found = set(before.values()), {}
    for wanted, value in (outputs or {}).items():
        named = wanted if isinstance(wanted, str) else getattr(wanted, "output_key", None)
        key = named if named in keys else before.get(str(named))
        if key is None:
            message = f"outputs: no node before the fork has the output key {call(named)}; {suggest(str(named), keys)}"
            raise InvalidInput(message, plan.flow)
        found[key] = value
    return found


def _dumped_output(engine: Engine, plan: Plan, name: str, value: Any) -> bytes:
    codec, what, step = codec_of_node(engine, plan, name), f"output of node {name}", plan.steps[plan.nodes[name].step]
    if not step.rules.is_map:
        return dumped(engine, value, codec, what)
    if not isinstance(value, list | tuple):
        raise InvalidInput(f"{what}: of a map it is a list, not {type(value).__name__}", plan.flow)
    items = [
        b"null" if each is None and step.go_on else dumped(engine, each, codec, f"{what}, item {number}")
        for number, each in enumerate(value)
    ]
    return dumped(engine, json.loads(b"[" + b",".join(items) + b"]"), None, what)


def inherit(
    store: Store,
    source: RunRecord,
    plan: Plan,
    *,
    position: int,
    given: Mapping[str, Any],
    dump: Callable[[str, Any], bytes],
) -> Legacy:
    """Return what a fork at a position takes over.

    Args:
        store: The run store.
        source: The run, which has ended.
        plan: Its plan.
        position: Where the fork begins.
        given: Outputs by key that stand in place of the run's.
        dump: Turns the output of a node, by its name, into JSON.

    Raises:
        RunError: The run did not go there, or something before it is undone or missing, and not given.
        InvalidInput: An output that is given does not fit, or the run did not go by its node.
    """
    return _Heir(source, plan, read_past(store, source.run_id, plan, position), given, dump).take_over(position)


class _Heir:
    """Decides, step by step on the way that a run went, what a fork takes over."""

    def __init__(
        self,
        source: RunRecord,
        plan: Plan,
        past: Past,
        given: Mapping[str, Any],
        dump: Callable[[str, Any], bytes],
    ) -> None:
        self._source = source
        self._plan = plan
        self._past = past
        self._given = given
        self._dump = dump
        self._legacy = Legacy()
        self._undone: list[str] = []
        self._missing: list[str] = []

    def take_over(self, position: int) -> Legacy:
        """Return what was done before a position; raises as `inherit`."""
        for step in self._way(position):
            if step.rules.is_map:
                self._take_map(step)
            else:
                self._take_members(step)
        if left := self._given.keys() - self._legacy.given.keys():
            message = f"outputs: the run did not go by the node of {_listed(left)}; leave it out"
            raise InvalidInput(message, self._plan.flow, self._source.run_id)
        faults = [f"node {name} was compensated" for name in self._undone]
        faults += [f"node {name} has no output" for name in self._missing]
        if faults:
            message = f"{' and '.join(faults)}; give the output, outputs={{...}}, or fork at an earlier step"
            raise _refusal(self._source, message)
        return self._legacy

    def _way(self, position: int) -> Iterator[StepPlan]:
        at = 0
        while at != position:
            if at == END or at > position:  # every way leads to higher positions only
                name = self._plan.steps[position].name
                raise _refusal(self._source, f"the run did not go by {name}, which is on another branch")
            step = self._plan.steps[at]
            yield step
            at = step.next
            if step.branches:
                choice = self._past.records.get(step.nodes[0], {}).get("choice")
                if choice is None:
                    message = f"decision {step.name} was not made; fork at it, or at an earlier step"
                    raise _refusal(self._source, message)
                at = step.branches[choice]

    def _take_members(self, step: StepPlan) -> None:
        won = sum([self._take_node(step, name) for name in step.nodes])
        if won < step.require and not self._missing and not self._undone:
            message = f"step {step.name}: {won} of its nodes succeeded, {step.require} are required"
            raise _refusal(self._source, f"{message}; give the outputs of others, outputs={{...}}")

    def _take_node(self, step: StepPlan, name: str) -> bool:
        """Take over a node; returns whether it succeeded."""
        record, key = self._past.records.get(name, {}), self._plan.nodes[name].key
        state = record.get("state")
        if key in self._given or (step.rules.is_prelude and self._is_map_given(step)):
            if key:
                self._legacy.given[key] = self._dump(name, self._given[key])
            self._write(name, {"state": "succeeded", "attempt": 0, "generation": 0} | ({} if key else {"choice": 0}))
            return True
        if state in UNDONE:
            self._undone.append(name)
        elif state == "succeeded" and (not key or key in self._past.sizes):
            self._take_output(name, key)
            self._write(name, record)
            return True
        elif state in {"failed", "unknown"} and step.go_on:
            self._legacy.failures.append(name)
            self._write(name, record)
        else:
            self._missing.append(name)
        return False

    def _is_map_given(self, prelude: StepPlan) -> bool:
        (node,) = self._plan.steps[prelude.next].nodes
        return self._plan.nodes[node].key in self._given

    def _take_map(self, step: StepPlan) -> None:
        (name,) = step.nodes
        key = self._plan.nodes[name].key
        if key in self._given:
            self._legacy.given[key] = self._dump(name, self._given[key])
        elif key in self._past.sizes:
            self._take_output(name, key)
        else:
            self._missing.append(name)

    def _take_output(self, name: str, key: str) -> None:
        if not key:
            return
        self._legacy.keys[key] = self._past.sizes[key]
        if (value := self._past.parted.get(key)) is not None:
            is_list = value.startswith(LIST_OF)
            is_undone = is_list and any(node == name for node, *_ in self._plan.sagas)
            kind = "undone" if is_undone else "items" if is_list else "pages"
            self._legacy.parts[name] = kind, int(value.split(b"|")[1])

    def _write(self, name: str, record: Mapping[str, Any]) -> None:
        kept = {each: record[each] for each in KEPT if each in record}
        self._legacy.records[name] = json.dumps(kept | {"inherited": True}, separators=(",", ":"))


def copy(store: Store, source: RunRecord, legacy: Legacy, run_id: str) -> Copied:
    """Copy what a fork takes over beside it; a process that dies here leaves what goes away by itself.

    Raises:
        RunError: The run was taken up again meanwhile, or an output of it is gone or of an item that was compensated.
        StoreError: Redis; the same call again is safe.
    """
    copied = Copied()
    for portion in _portions(legacy):
        with store.guarded():
            taken = store.scripts.forking.take_over(run_id, source, lasts_ms=STAGED_MS, **portion)
        if taken.outcome != "taken":
            raise _refused(source, taken.outcome)
        if taken.missing:
            raise _refusal(source, f"the output {_listed(taken.missing)} is gone; fork at an earlier step")
        copied.nodes += len(portion["records"])
        copied.outputs += len(portion["given"]) + len(portion["keys"])
        copied.failures += taken.failures
        fault_point("between_portions")
    for node, (kind, count) in legacy.parts.items():
        copied.parts[node] = place = 0
        while place < count:
            with store.guarded():
                parts = store.scripts.forking.take_parts(
                    run_id, source, lasts_ms=STAGED_MS, node=node, first=place, count=count, kind=kind
                )
            if parts.outcome == "compensated":
                raise _refusal(source, f"item {parts.place} of node {node} was compensated; give the whole output")
            if parts.outcome != "taken":
                raise _refused(source, parts.outcome)
            place = parts.place
            copied.parts[node] += parts.fields
            copied.failures += parts.failures
            fault_point("between_portions", node)
    return copied


def _portions(legacy: Legacy) -> Iterator[dict[str, Any]]:
    """What one script may copy: so many of each kind, and so many bytes of outputs; nothing is left out."""
    kinds: dict[str, list[tuple[str, Any, int]]] = {
        "records": [(name, text, 0) for name, text in legacy.records.items()],
        "given": [(key, value, len(value)) for key, value in legacy.given.items()],
        "keys": [(key, None, size) for key, size in legacy.keys.items()],
        "failures": [(name, None, 0) for name in legacy.failures],
    }
    while any(kinds.values()):
        room, portion = BYTES_AT_ONCE, {}
        for kind, left in kinds.items():
            taken: dict[str, Any] = {}
            while left and len(taken) < NODES_AT_ONCE and room > 0:
                name, value, size = left.pop(0)
                taken[name] = value
                room -= size
            portion[kind] = taken
        yield portion


def _refused(source: RunRecord, outcome: str) -> Exception:
    """The error of what a script answered."""
    word, _, detail = outcome.partition(" ")
    if outcome == "unknown":
        return UnknownRun("the record of the run is gone", source.flow, source.run_id)
    if word == "evicts":
        return ConfigurationError(refused_eviction(source.flow, detail))
    said = {
        "changed": "the run was taken up again meanwhile",
        "not ended": "the run was taken up again meanwhile",
        "missing": "a part of an output before the fork is gone",
    }.get(outcome.rstrip("0123456789 "), "what was copied is gone")
    return _refusal(source, f"{said}; look at it, and fork it again")


def _refusal(source: RunRecord, message: str) -> RunError:
    return RunError(message, source.flow, source.run_id)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, sorted(names)))
