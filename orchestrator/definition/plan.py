"""Plan of a run, as data: the steps of a flow flattened to positions, with the policies of every node.

A plan is pure JSON and named by its hash: a run pins the plan it was started with, and changed code only supplies
functions. The canvas compiler turns positions into messages; the store keeps their state.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any

from orchestrator.definition.max_runs import lane_of
from orchestrator.definition.policies import SLOTS, Numbers, RetryPolicy, numbers_text
from orchestrator.definition.step_plan import END, StepPlan
from orchestrator.lazy import lazy

READ_TOGETHER = 32
LATER_FIELDS = ("repeats", "pauses", "gate", "child", "children", "deadline_ms", "heartbeat_ms")
"""Fields of a node that stand in a plan's text only where they say something, so that older plans keep their hash."""
FIRST_FORMAT, FORMAT = 1, 2
"""The newest format of plans that this version knows."""
TYPES = "x-types"
"""Word of the input's schema under which a plan's text has the types of its nodes."""
INPUTS = "x-inputs"
"""Word under which it has what their parameters are wired to."""
KEY_READS = "x-key-reads"
"""Word under which it has what the key functions of their limits read."""


def limit_title(name: str) -> str:
    """Return the name of a plan's limit for a message."""
    return f"concurrency {name[1:]}" if name.startswith(SLOTS) else f"limiter {name}"


def node_of(name: str) -> str:
    """Return the node of a name: an item of a map is called `<node>[<index>]`."""
    return name.partition("[")[0]


def in_milliseconds(span: timedelta) -> int:
    """Return whole milliseconds of a span, at least 1."""
    return max(1, round(span.total_seconds() * 1000))


@dataclass(frozen=True)
class NodePlan:
    """The engine's knowledge of a node, a branch decision or a compensation, without its code.

    Attributes:
        name: The node's name, unique in the flow.
        kind: "node", "branch", "compensation", "expand", "item" (a node of a map), or of a gate what it waits for:
            "signal", "approval", "sleep".
        task: Name of its Celery task.
        step: Position at which it runs; of a compensation, that of the node it undoes.
        key: Output key; empty for decisions and compensations.
        queue: Celery queue.
        timeout_ms: Limit of one attempt; of a gate how long it waits, 0 for as long as it takes.
        attempts: Attempts at most; of a node that starts a flow, with those that may be lost before they have done so.
        retry: First delay in ms, factor, longest delay in ms, and whether the delay has jitter.
        limits: Limits that an attempt takes a token of, all or none; `@<name>` are slots that it holds.
        gate: Of a gate: what it waits for, see `gates`.
        keyed: Those of `limits` that have a bucket for each key of the input; the others are one bucket each.
        reads: Output keys its input function is known to read; of one that is wired by name all of them, and `:input`
            where it reads the run's input.
        undoes: Of a compensation: the node it undoes.
        paged: Whether its output is stored in parts: page after page, or iteration after iteration.
        max_pages: Most pages; 0 is no limit.
        source: The `cursor_source` whose stored cursor the first page begins at; empty for none.
        pauses: Whether it stands, when its attempts are exhausted, until somebody resumes the run.
        child: Name of the flow that it starts; of a compensation, of the one whose run it undoes. Empty for none.
        children: Most runs of that flow that it starts, each where the one before has failed; 0 if there is to be one.
        repeats: Of a node that repeats: ms from an iteration to the next, and iterations at most; else empty.
        deadline_ms: Limit of the node, from the instant at which it is ready to the end of its last attempt; 0 is none.
        heartbeat_ms: Longest time between two heartbeats of an attempt; 0 is none.
    """

    name: str
    kind: str
    task: str
    step: int
    key: str
    queue: str
    timeout_ms: int
    attempts: int
    retry: tuple[int, float, int, bool] = (1000, 2.0, 60_000, True)
    limits: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    undoes: str = ""
    paged: bool = False
    max_pages: int = 0
    source: str = ""
    keyed: tuple[str, ...] = ()
    repeats: tuple[int, ...] = ()
    pauses: bool = False
    gate: Mapping[str, Any] = field(default_factory=dict)
    child: str = ""
    children: int = 0
    deadline_ms: int = 0
    heartbeat_ms: int = 0


@dataclass(frozen=True)
class Plan:
    """A flow as positions and node policies.

    Attributes:
        flow: The flow's name.
        queue: Celery queue of the engine's own tasks for this flow.
        timeout_ms: Limit of the whole run; 0 is none.
        result_key: Output key of the run's result; empty if there is none.
        steps: By position.
        nodes: By name: nodes, decisions and compensations.
        sagas: (node, compensation, when) of every node that has a compensation.
        limits: Limit to its numbers, as the scripts read them; see `policies`.
        input_schema: JSON schema of the run's input; None where any JSON will do.
        fused: Whether one message runs consecutive nodes on one queue.
        types: By node: digests of the types of its input and its output, "" for none; empty in a plan of version 0.1.0.
        inputs: By node that is wired by name: each parameter with the output key it reads, `:input.path` or
            `:item.path`.
        key_reads: By node without an input and limit: output keys that the limit's key function is known to read.
        max_runs: How many runs go on at once, see `max_runs`; empty for no limit.
        format: Of a plan that was read: the number of the format that it needs to be understood.
    """

    flow: str
    queue: str
    timeout_ms: int
    result_key: str
    steps: tuple[StepPlan, ...]
    nodes: Mapping[str, NodePlan]
    sagas: tuple[tuple[str, str, str], ...] = ()
    limits: Mapping[str, Numbers] = field(default_factory=dict)
    input_schema: Mapping[str, Any] | None = None
    fused: bool = False
    types: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    inputs: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    key_reads: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    max_runs: Mapping[str, Any] = field(default_factory=dict)
    format: int = field(default=0, compare=False)

    @lazy
    def needed_format(self) -> int:
        """The number of the format that a process has to know to work on runs of the plan."""
        is_newer = self.max_runs or any(step.gates for step in self.steps)
        is_newer = is_newer or any(getattr(node, name) for node in self.nodes.values() for name in LATER_FIELDS)
        return self.format or (FORMAT if is_newer else FIRST_FORMAT)

    @lazy
    def text(self) -> str:
        """The plan as canonical JSON."""
        raw = asdict(self)
        # Version 0.1.0 refuses a plan with a field that it does not know, and passes a schema on as it is. A plan that
        # needs nothing new has none.
        for node in raw["nodes"].values():
            for name in LATER_FIELDS:
                if not node[name]:
                    del node[name]
        passed_on = {
            word: raw.pop(name) for word, name in ((TYPES, "types"), (INPUTS, "inputs"), (KEY_READS, "key_reads"))
        }
        if any(passed_on.values()):
            raw["input_schema"] = (raw["input_schema"] or {}) | {word: said for word, said in passed_on.items() if said}
        _drop_empty(raw, "max_runs")
        del raw["format"]
        if self.needed_format > FIRST_FORMAT:
            raw["format"] = self.needed_format
        for step in raw["steps"]:
            _drop_empty(step, "gates", "waits")
        return json.dumps(raw, sort_keys=True, separators=(",", ":"))

    @lazy
    def hash(self) -> str:
        """The plan's name: 128 bits of SHA-256 over its JSON, in hex."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:32]

    @classmethod
    def from_text(cls, text: str | bytes) -> Plan:
        """Read a plan that `text` wrote."""
        raw = _known(cls, json.loads(text))
        raw["steps"] = tuple(
            StepPlan(**_known(StepPlan, step) | _tuples(step, "nodes", "branches", "gates")) for step in raw["steps"]
        )
        raw["nodes"] = {
            name: NodePlan(**_known(NodePlan, node) | _tuples(node, "retry", "limits", "reads", "keyed", "repeats"))
            for name, node in raw["nodes"].items()
        }
        raw["sagas"] = tuple((node, compensation, when) for node, compensation, when in raw["sagas"])
        raw["limits"] = {name: tuple(numbers) for name, numbers in raw["limits"].items()}
        schema = raw["input_schema"]
        types, inputs, reads = (schema.pop(word, {}) if schema else {} for word in (TYPES, INPUTS, KEY_READS))
        raw["input_schema"] = schema or None
        return cls(
            **raw,
            types={name: (takes, gives) for name, (takes, gives) in types.items()},
            inputs=inputs,
            key_reads={name: {limit: tuple(keys) for limit, keys in of.items()} for name, of in reads.items()},
        )

    def fields(self) -> dict[str, str]:
        """Return the plan as the scripts read it: one small JSON for each position and node, and the whole."""
        compensated = {node for node, _, _ in self.sagas}
        stored = {
            f"step:{position}": _dense(_drop_empty(asdict(step), "gates", "waits") | self._deadlines(step))
            for position, step in enumerate(self.steps)
        }
        for name, node in self.nodes.items():
            wanted = ("kind", "step", "key", "timeout_ms", "attempts", "limits", "undoes", "paged", "source")
            policies = {field: value for field, value in asdict(node).items() if field in wanted}
            slots = [name for name in node.limits if name.startswith(SLOTS)]
            rare = {
                "keyed": node.keyed,
                "slots": slots,
                "repeats": node.repeats,
                "pauses": node.pauses,
                "gate": node.gate,
                "child": node.child,
                "children": node.children,
                "deadline_ms": node.deadline_ms,
                "heartbeat_ms": node.heartbeat_ms,
            }
            policies |= {field: values for field, values in rare.items() if values}
            stored[f"node:{name}"] = _dense(policies | {"undone": name in compensated})
        if self.signals:
            stored["signals"] = _dense(list(self.signals))
            stored |= {f"signal:{name}": _dense(self._places_of(name)) for name in self.signals}
        if self.children:
            stored["children"] = _dense(list(self.children))
        if self.max_runs:
            stored["max_runs"] = _dense(self.max_runs)
        return stored | {
            "maps": _dense(self.maps),
            "pages": _dense(self.pages),
            "text": self.text,
            "flow": self.flow,
            "sagas": _dense(self.sagas),
            "result_key": self.result_key,
        }

    @lazy
    def signals(self) -> Mapping[str, tuple[str, ...]]:
        """The gates that wait for each signal."""
        found: dict[str, tuple[str, ...]] = {}
        for node in self.nodes.values():
            if node.kind == "signal":
                found[node.gate["of"]] = (*found.get(node.gate["of"], ()), node.name)
        return found

    @lazy
    def children(self) -> tuple[str, ...]:
        """The nodes that start runs of other flows."""
        return tuple(node.name for node in self.nodes.values() if node.child and not node.undoes)

    @lazy
    def limit_texts(self) -> dict[str, str]:
        """The numbers of each limit as the scripts read them."""
        return {name: numbers_text(numbers) for name, numbers in self.limits.items()}

    @lazy
    def begun_with(self) -> tuple[str, ...]:
        """The nodes that a run begins with, as start.lua takes them: of a gate also its kind and how long it waits."""
        first = self.steps[0]
        more = {name: f"|{self.nodes[name].kind}|{self.nodes[name].timeout_ms}" for name in first.gates}
        more |= {name: f"|deadline|{lasts}" for name, lasts in self._deadlines(first).get("deadlines", {}).items()}
        return tuple(name + more.get(name, "") for name in first.first_nodes)

    def _deadlines(self, step: StepPlan) -> dict[str, dict[str, int]]:
        found = {name: self.nodes[name].deadline_ms for name in step.nodes if self.nodes[name].deadline_ms}
        return {"deadlines": found} if found else {}

    def lane(self, input_json: bytes) -> str:
        """Return the lane of a run by its input; "" where the flow has no maximum of runs.

        Raises:
            InvalidInput: The input has nothing where the lane is read from.
        """
        return lane_of(self.flow, self.max_runs, input_json) if self.max_runs else ""

    def _places_of(self, signal: str) -> dict[str, Any]:
        """Where a signal is waited for, and every position from which a run may come there."""
        gates = [(name, self.nodes[name].step) for name in self.signals[signal]]
        positions = {step for _, step in gates}
        before: set[int] = set()
        for position in range(len(self.steps) - 1, -1, -1):  # every way leads to higher positions only
            step = self.steps[position]
            if (positions | before).intersection(step.branches or (step.next,)):
                before.add(position)
        return {"gates": gates, "before": sorted(before)}

    def next_position(self, node_plan: NodePlan, choice: int | None) -> int:
        """Return the position after a single-node step; END for members, items and compensations, which are joined."""
        step = self.steps[node_plan.step]
        return END if node_plan.undoes else step.rules.next_position(step, choice)

    @lazy
    def fast_commits(self) -> frozenset[str]:
        """Nodes and items that the fast path may commit: without limits and pages, not joined by Celery."""
        compensated = {node for node, _, _ in self.sagas}
        return frozenset(
            name
            for name, node in self._plain_nodes()
            if (step := self.steps[node.step]).rules.commits_fast(step, is_undone=name in compensated)
        )

    @lazy
    def fast_claims(self) -> frozenset[str]:
        """Nodes that the fast path may claim: without limits and pages, and no items."""
        return frozenset(name for name, node in self._plain_nodes() if self.steps[node.step].rules.claims_fast)

    def _plain_nodes(self) -> Iterator[tuple[str, NodePlan]]:
        for name, node in self.nodes.items():
            if not (node.limits or node.paged or node.undoes or node.deadline_ms or node.heartbeat_ms):
                yield name, node

    @lazy
    def pages(self) -> tuple[tuple[str, str], ...]:
        """The nodes that fetch pages, each with its `cursor_source`."""
        return tuple((node.name, node.source) for node in self.nodes.values() if node.paged)

    @lazy
    def keyed(self) -> frozenset[str]:
        """The limits that have a bucket for each key."""
        return frozenset(name for node in self.nodes.values() for name in node.keyed)

    @lazy
    def maps(self) -> tuple[str, ...]:
        """The nodes that maps call."""
        return tuple(
            node.name for node in self.nodes.values() if self.steps[node.step].rules.is_map and not node.undoes
        )

    @lazy
    def list_keys(self) -> frozenset[str]:
        """Output keys that hold the list of a map's outputs."""
        return frozenset(self.nodes[name].key for name in self.maps)

    @lazy
    def writers(self) -> Mapping[str, int]:
        """Output key to the first position that writes it."""
        first: dict[str, int] = {}
        for node in self.nodes.values():
            if node.key:
                first[node.key] = min(node.step, first.get(node.key, node.step))
        return first

    @lazy
    def certain(self) -> Sequence[frozenset[str]]:
        """Of each position: the output keys that are there whichever way a run has come to it."""
        written: list[set[str]] = [set() for _ in self.steps]
        for node in self.nodes.values():
            step = self.steps[node.step]
            if node.key and (step.rules.is_map or not step.go_on):
                written[node.step].add(node.key)
        found: list[frozenset[str] | None] = [frozenset(), *[None] * (len(self.steps) - 1)]
        for position, step in enumerate(self.steps):  # every way leads to higher positions only
            behind = (found[position] or frozenset()) | written[position]
            for follower in step.branches or (step.next,):
                if follower != END:
                    before = found[follower]
                    found[follower] = behind if before is None else before & behind
        return [keys or frozenset() for keys in found]

    @lazy
    def keys(self) -> Mapping[tuple[int, str], str]:
        """(position, output key or node name) to the node there, by which siblings are recognised."""
        named = {
            (node.step, node.name): node.name
            for node in self.nodes.values()
            if not (node.undoes or self.steps[node.step].rules.is_own)
        }
        return named | {(node.step, node.key): node.name for node in self.nodes.values() if node.key}

    def keys_read_with(self, key: str) -> tuple[str, ...]:
        """Return an output key and those of the same parallel step: a function mostly reads all of them."""
        step = self.steps[self.writers[key]] if key in self.writers else None
        if step is None or not step.rules.is_parallel or len(step.nodes) > READ_TOGETHER:
            return (key,)
        return tuple(dict.fromkeys((key, *(self.nodes[name].key for name in step.nodes))))

    def delay_ms(self, name: str, attempt: int) -> int:
        """Return milliseconds from the failure of an attempt, counted from 1, to the next one."""
        initial, factor, maximum, jitter = self.nodes[node_of(name)].retry
        policy = RetryPolicy(timedelta(milliseconds=initial), factor, timedelta(milliseconds=maximum), jitter=jitter)
        return round(policy.delay(attempt, random.random()).total_seconds() * 1000)  # noqa: S311 - jitter

    def visible(self, name: str) -> AbstractSet[str]:
        """Return the output keys a node may read: those of earlier positions, and for a compensation its node's."""
        node = self.nodes[name]
        return Visible(self, node.step, self.nodes[node.undoes].key if node.undoes else "")

    def hidden(self, name: str) -> Mapping[str, str]:
        """Return output keys and names of a node's siblings, each with the sibling's name."""
        node = self.nodes[name]
        step = self.steps[node.step]
        return Siblings(self, node.step, node.undoes or name) if step.rules.is_parallel else {}


class Visible(AbstractSet[str]):
    """The output keys written before a position, without a copy of them for each node."""

    def __init__(self, plan: Plan, position: int, own: str) -> None:
        self._plan, self._position, self._own = plan, position, own

    @classmethod
    def _from_iterable(cls, keys: Iterable[str]) -> AbstractSet[str]:  # type: ignore[override]
        return frozenset(keys)

    def __contains__(self, key: object) -> bool:
        return key == self._own or self._plan.writers.get(key, self._position) < self._position  # type: ignore[call-overload]

    def __iter__(self) -> Iterator[str]:
        return (key for key in self._plan.writers if key in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)


class Siblings(Mapping[str, str]):
    """Keys and names of the other members of a parallel step, without a copy of them for each member."""

    def __init__(self, plan: Plan, position: int, own: str) -> None:
        self._plan, self._position, self._own = plan, position, own

    def __getitem__(self, key: str) -> str:
        sibling = self._plan.keys[self._position, key]
        if sibling == self._own:
            raise KeyError(key)
        return sibling

    def __iter__(self) -> Iterator[str]:
        return (key for position, key in self._plan.keys if position == self._position and key in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _drop_empty(part: dict[str, Any], *names: str) -> dict[str, Any]:
    for name in names:
        if not part[name]:
            del part[name]
    return part


def _known(kind: type[Any], raw: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that this version knows: a newer one may have written more."""
    return {name: value for name, value in raw.items() if name in kind.__dataclass_fields__}


def _tuples(raw: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: tuple(raw[name]) for name in names if name in raw}


def _dense(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
