"""Explanation of a run: for each node that has not ended, what it waits for and until when.

It only reads: records, timers, wait queues, leases, Celery queues and the workers that announced themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from orchestrator.definition.fitting import NO_NODE
from orchestrator.definition.plan import limit_title, node_of
from orchestrator.definition.state import RunStatus
from orchestrator.errors import UnknownRun
from orchestrator.messaging.queue_inspection import look_at_queue
from orchestrator.messaging.start_checks import undeclared_queues
from orchestrator.store.fleet import Fleet
from orchestrator.store.keys import limit_of
from orchestrator.store.run_store import instant
from orchestrator.store.worker_rows import name_holders

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from orchestrator.definition.plan import Plan
    from orchestrator.engine import Engine
    from orchestrator.store.run_store import RunRecord

OFTEN = 2
NAMED = 5
ENDED = frozenset({"succeeded", "failed", "unknown", "skipped", "compensated", "compensation_failed"})


@dataclass(frozen=True)
class Waiting:
    """The reason why one node has not ended.

    Attributes:
        node: The node; "" for the run itself.
        state: "pending", "ready", "running", "parked", "waiting", "paused" or "compensating"; of the run itself
            "broken", "paused", or "pending" if it has not been admitted.
        reason: A sentence that says what it waits for.
        until: The instant it waits for, if that is known; aware, on Redis's clock.
        attempt: Number of the last attempt that started; 0 before the first.
    """

    node: str
    state: str
    reason: str
    until: datetime | None
    attempt: int


def explain_run(engine: Engine, record: RunRecord) -> list[Waiting]:
    """Explain every node of a run that has not ended, in the order of the flow; empty for a run that has ended.

    In front of them stands what is wrong with the run itself, if the reconciler has set it aside.
    """
    if record.status.is_final:
        return []
    with engine.store.guarded():
        aside = [engine.store.aside.get(kind, name) for kind, name in (("plan", record.plan), ("run", record.run_id))]
    broken = [
        Waiting("", "broken", f"its {part.kind} {part.name} is set aside: {part.reason}", None, 0)
        for part in aside
        if part
    ]
    plan = engine.store.plan(record.plan) or engine.known_plan(record.plan)
    if plan is None:
        return broken or [Waiting("", "broken", f"its plan {record.plan} is gone from Redis", None, 0)]
    if "queued" in record.fields:
        return broken + _explain_hold(record) + [_explain_queue(engine, record, plan)]
    try:
        return broken + _explain_hold(record) + _explain_nodes(engine, record, plan)
    except ValueError as error:  # a record that is no JSON: that is why it is set aside, or will be in a moment
        return broken or [Waiting("", "broken", f"a record of it cannot be read: {error}", None, 0)]


def _explain_hold(record: RunRecord) -> list[Waiting]:
    if record.status is not RunStatus.PAUSED or "held" not in record.fields:
        return []
    since, why = instant(record.fields["paused_at"]), record.fields["paused_for"]
    reason = f"was paused at {since:%Y-%m-%d %H:%M:%S} UTC and waits for resume()" + (f": {why}" if why else "")
    return [Waiting("", "paused", reason, None, 0)]


def _explain_queue(engine: Engine, record: RunRecord, plan: Plan) -> Waiting:
    """Say for what a run waits that has not been admitted."""
    if record.fields["queued"] == "0":
        begins = instant(record.fields["begins"])
        return Waiting("", "pending", "waits for the instant at which it begins", begins, 0)
    lane, keys, client = record.fields["lane"], engine.store.keys, engine.store.client
    with engine.store.guarded():
        rank = client.zrank(keys.queued(lane), record.run_id)
        going_on = client.zrange(keys.lane(lane), 0, 0)
    place = "waits for its turn" if rank is None else f"is number {rank + 1} of those that wait for their turn"
    full = plan.max_runs.get("full")
    if full is None:  # a schedule's lane
        full = "one run of its schedule at a time" + "".join(f", now run {each.decode()}" for each in going_on)
    return Waiting("", "pending", f"{place}: {full}", None, 0)


def _explain_nodes(engine: Engine, record: RunRecord, plan: Plan) -> list[Waiting]:
    explainer = _Explainer(engine, record, plan)
    names = [name for name, node_plan in plan.nodes.items() if not node_plan.undoes or name in explainer.records]
    items = [name for name in explainer.records if name not in plan.nodes]
    names.sort(key=lambda name: plan.nodes[name].step)  # a plan that was read back has them by name
    found = (explainer.explain(name) for name in [*names, *items])
    return [waiting for waiting in found if waiting is not None]


class _Explainer:
    def __init__(self, engine: Engine, record: RunRecord, plan: Plan) -> None:
        self.engine = engine
        self.store = engine.store
        self.fleet = Fleet(engine.store)  # not the engine's, whose workers may be those of a second ago
        self.run = record
        self.plan = plan
        self.records = self.store.nodes(record.run_id)
        self.position = int(record.fields["position"])
        self.is_ending = "verdict" in record.fields

    def explain(self, name: str) -> Waiting | None:
        """Say what a node waits for; None of one that has ended."""
        found = self._explain(name)
        undone = self.plan.nodes[node_of(name)].undoes if self.plan.nodes[node_of(name)].child else ""
        # What undoes a child is a node for the scripts alone: people read it of the node that has started the child.
        return replace(found, node=undone + name.removeprefix(node_of(name))) if found and undone else found

    def _is_told_by_child(self, name: str) -> bool:
        undo = next(undo for node, undo, _ in self.plan.sagas if node == node_of(name))
        return bool(self.plan.nodes[undo].child) and undo + name.removeprefix(node_of(name)) in self.records

    def _explain(self, name: str) -> Waiting | None:
        record: dict[str, Any] = self.records.get(name, {"state": "pending", "attempt": 0})
        state, attempt = record["state"], record.get("attempt", 0)
        if state in ENDED or (state == "compensating" and self._is_told_by_child(name)):
            return None
        if state == "pending" or name not in self.records:
            if self.plan.nodes[node_of(name)].step == self.position and name in self.plan.maps:
                return self._explain_map(name)
            return self._explain_pending(name)
        reason, until = {
            "ready": self._explain_ready,
            "running": self._explain_running,
            "parked": self._explain_parked,
            "paused": self._explain_paused,
            "waiting": self._explain_waiting,
            "compensating": self._explain_compensating,
        }[state](name, record)
        node_plan = self.plan.nodes[node_of(name)]
        if node_plan.paged and (done := self._parts_done(name)):
            reason = f"has {done} {'iterations' if node_plan.repeats else 'pages'}; {reason}"
        if "ends" in record and state in {"ready", "parked"}:
            reason += f"; has to be done by {instant(record['ends']):%Y-%m-%d %H:%M:%S} UTC"
        return Waiting(name, state, reason, until, attempt)

    def _parts_done(self, name: str) -> int:
        with self.store.guarded():
            return self.store.parts.done(self.run.run_id, name)

    def _explain_map(self, name: str) -> Waiting | None:
        """Return the progress of a map; its items that have started are explained on their own."""
        if self.is_ending:
            return None
        count, begun = int(self.run.fields["map_count"]), int(self.run.fields["map_next"])
        left = int(self.run.fields["open"])
        reason = f"{count - left} of {count} items have ended, {count - begun} have not started; "
        waits, _ = self._explain_ready(name, {})
        return Waiting(name, "ready", reason + waits, None, 0)

    def _explain_pending(self, name: str) -> Waiting | None:
        node_plan = self.plan.nodes[node_of(name)]
        if self.is_ending or node_plan.step <= self.position:
            return None  # it will not run: the run is ending, or its branch was not taken
        open_nodes = [node for node in self.plan.steps[self.position].nodes if self._is_open(node)]
        return Waiting(name, "pending", f"waits for {', '.join(open_nodes)}", None, 0)

    def _is_open(self, name: str) -> bool:
        return self.records.get(name, {}).get("state") not in ENDED

    def _explain_ready(self, name: str, record: dict[str, Any]) -> tuple[str, datetime | None]:
        node_plan = self.plan.nodes[node_of(name)]
        queue = node_plan.queue
        length = look_at_queue(self.engine.app, queue).length
        shown = f"queue {queue}" + ("" if length is None else f" of length {length}")
        shown += "" if self.run.priority is None else f" with priority {self.run.priority}"
        workers = self.fleet.consumers(self.plan, name)
        if not workers:
            undeclared = undeclared_queues(self.engine.app, self.plan).get(queue)
            return f"waits in {shown}, which no worker consumes" + (f": {undeclared}" if undeclared else ""), None
        able, unfit = self._split(workers, name)
        if not able:
            return f"waits in {shown}, {self._describe_unfit(node_plan.task, unfit)}", None
        if not any(worker.get("json", True) for worker in able):
            return f"waits in {shown}, whose workers read no JSON: add it to accept_content or set accept_json", None
        if all(node_plan.task in worker.get("missing", ()) for worker in able):
            return f"waits for {node_plan.task} in a pool process; those of {_names(able)} do not have it", None
        reason = f"waits in {shown} for one of {len(workers)} workers"
        if record.get("lost"):
            reason += f"; attempt {record['attempt']} was lost with its worker, and {self._following(name, record)}"
        if all(0 < worker.get("processes", 0) <= worker.get("busy", 0) for worker in able):
            reason += f"; every pool process of {_names(able)} is busy"
        if (looks := record.get("looks", 0)) >= OFTEN:
            reason += f"; its message was sent {looks + 1} times, and nobody has begun it"
        return reason, None

    def _split(
        self, workers: list[dict[str, Any]], name: str
    ) -> tuple[list[dict[str, Any]], dict[str, list[dict[str, Any]]]]:
        """Return the workers whose code fits a node, and the others by the reason."""
        able: list[dict[str, Any]] = []
        unfit: dict[str, list[dict[str, Any]]] = {}
        for worker in workers:
            reason = self.fleet.why_unfit(worker, self.plan, name)
            (unfit.setdefault(reason, []) if reason else able).append(worker)
        return able, unfit

    @staticmethod
    def _describe_unfit(task: str, unfit: dict[str, list[dict[str, Any]]]) -> str:
        if unfit.keys() == {NO_NODE}:
            return f"whose workers have no code for {task}"
        reasons = "; ".join(f"{_names(workers)}: {reason}" for reason, workers in unfit.items())
        return f"whose workers have no code that fits: start one with the run's version of {task} ({reasons})"

    def _following(self, name: str, record: dict[str, Any]) -> str:
        attempt, attempts = record["attempt"] + 1, self.plan.nodes[node_of(name)].attempts
        has_more = attempt <= attempts and (not self.is_ending or self.plan.nodes[node_of(name)].undoes)
        return f"attempt {attempt} of {attempts} follows" if has_more else "no attempt follows"

    def _explain_running(self, name: str, record: dict[str, Any]) -> tuple[str, datetime | None]:
        detail = f", reports {self.store.redaction.text(record['detail'])}" if "detail" in record else ""
        lease = self.store.lease_end(record["holder"])
        (holder,) = name_holders(self.store, [record["holder"]]).values()
        if lease is None or lease < self.store.now_ms():
            following = self._following(name, record)
            return f"its holder {holder} is gone; its claim will be ended, and {following}", instant(lease)
        return f"runs in {holder}, until its timeout at the latest{detail}", instant(record["deadline"])

    def _explain_parked(self, name: str, record: dict[str, Any]) -> tuple[str, datetime | None]:
        bucket = record.get("bucket")
        if bucket is None and "begins" in self.run.fields and self.run.status is RunStatus.PENDING:
            return "waits for the instant at which its run begins", instant(record["due"])
        if bucket is None:
            return self._explain_delay(name, record), instant(record["due"])
        place, due = self.store.place_in_queue(bucket, self.run.run_id, name)
        limiter = limit_title(limit_of(bucket)) + (" for its key" if bucket != limit_of(bucket) else "")
        if place is None:
            return f"was released from the wait queue of {limiter}", None
        pace = self.store.pace(bucket)
        limiter += "" if pace is None else f", which currently allows {pace:.3g} starts a second"
        return f"is number {place + 1} in the wait queue of {limiter}", instant(due)

    def _explain_delay(self, name: str, record: dict[str, Any]) -> str:
        facts = self.plan.nodes[node_of(name)]
        if record.get("unannounced"):
            return f"waits for a worker that announces flow {facts.child}"
        if not record["attempt"]:
            return "waits for its next iteration"
        error = self.store.last_failure(self.run.run_id, name)
        failed = f"; the last one failed: {error.type}: {error.message}" if error else ""
        if "made" in record:
            return f"waits to start child {record['made'] + 1} of {facts.children}{failed}"
        return f"waits for attempt {record['attempt'] + 1} of {facts.attempts}{failed}"

    def _explain_paused(self, name: str, record: dict[str, Any]) -> tuple[str, datetime | None]:
        error = self.store.last_failure(self.run.run_id, name)
        failed = f"; the last one failed: {error.type}: {error.message}" if error else ""
        return f"has used its {record['attempt']} attempts and waits for resume(){failed}", None

    def _explain_waiting(self, name: str, record: dict[str, Any]) -> tuple[str, datetime | None]:
        since, until = instant(record["since"]), instant(record.get("due"))
        gate, waits = self.plan.nodes[node_of(name)].gate, record["waits"]
        # A kind that only newer workers know is named as it is.
        what = {"callback": "waits for its callback", "sleep": "sleeps"}.get(waits, f"waits for {waits}")
        if "child" in record:
            what = self._explain_child(self.plan.nodes[node_of(name)].child, record)
        if waits == "signal":
            what = f"waits for signal {gate['of']}"
        elif waits == "approval":
            what = f"waits for approval {name}{_voters(gate, record)}"
        return f"{what} since {since:%Y-%m-%d %H:%M:%S} UTC", until

    def _explain_child(self, flow: str, record: dict[str, Any]) -> str:
        child = f"run {record['child']} of flow {flow}"
        try:
            status = self.store.standing(record["child"]).status
        except UnknownRun:
            return f"waits for {child}, whose record is gone,"
        if record["waits"] == "undo":
            return f"waits until {child}, which is {status}, is undone,"
        return f"waits for {child}, which is {status},"

    def _explain_compensating(self, name: str, _record: dict[str, Any]) -> tuple[str, datetime | None]:
        undo = next(undo for node, undo, _ in self.plan.sagas if node == node_of(name))
        return f"is being compensated by {undo}", None


def _voters(gate: Mapping[str, Any], record: dict[str, Any]) -> str:
    """Who may approve, how many have to, and who has."""
    of = f" of {', '.join(gate['approvers'])}" if gate.get("approvers") is not None else " of anybody"
    votes = [vote["by"] for vote in record.get("votes", ())]
    return f" by {gate['quorum']}{of}" + (f", {', '.join(votes)} approved it" if votes else "")


def _names(workers: list[dict[str, Any]]) -> str:
    named = ", ".join(worker.get("name", "a worker") for worker in workers[:NAMED])
    return named + (f" and {len(workers) - NAMED} more" if len(workers) > NAMED else "")
