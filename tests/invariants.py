"""Invariants of runs at every instant: read from Redis at once, derived again from their history, and compared.

`look_at` reads; `check_run` checks one run, `check_all` all that were read. What a `Story` comes to has to be what the
records say.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.store.history import read_entries
from orchestrator.store.keys import CHILD, family_of
from tests.story import ENDED, Story

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from redis.client import Pipeline

    from orchestrator.definition.plan import Plan
    from orchestrator.store.run_store import Store

GROUPS = tuple(family + group for family in ("", CHILD) for group in ("open", *ENDED, "paused"))
COUNTED = {"callback", "child"}
"""What is waited for behind an attempt, and counts as running."""


@dataclass
class RunView:
    """One run as Redis holds it."""

    id: str
    plan: Plan
    fields: dict[str, str]
    nodes: dict[str, dict[str, Any]]
    outputs: dict[str, bytes]
    events: list[tuple[str, str, int, str]]
    lifetimes: dict[str, int]
    has_two_histories: bool = False

    @property
    def status(self) -> str:
        return self.fields["status"]

    @property
    def has_ended(self) -> bool:
        return self.status in ENDED

    def number(self, name: str) -> int:
        return int(self.fields[name])

    def in_state(self, *states: str) -> list[str]:
        return [name for name, record in self.nodes.items() if record["state"] in states]

    def members(self) -> list[dict[str, Any]]:
        """Records of the nodes at the run's position."""
        step = self.plan.steps[self.number("position")]
        return [self.nodes[name] for name in step.nodes]


@dataclass
class View:
    """Runs and everything that they share, read in one transaction."""

    runs: dict[str, RunView]
    live: set[str]
    timers: set[str]
    expiring: set[str]
    holders: set[str]
    claims: dict[tuple[str, str], tuple[str, str]]  # run and node to holder and token
    lines: dict[str, set[str]]
    released: dict[str, set[str]]
    by_status: dict[str, set[str]]
    by_flow: dict[tuple[str, str], set[str]]
    plans: dict[str, tuple[int, int]]  # live runs that pin it, and milliseconds left


def _texts(members: Any) -> set[str]:
    return {member.decode() for member in members}


def _pairs(found: Mapping[bytes, bytes]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in found.items()}


def look_at(store: Store, plans: Mapping[str, Plan]) -> View:
    """Read the runs whose ids and plans are given."""
    keys = store.keys
    buckets = sorted({bucket for plan in plans.values() for bucket in plan.limits})
    flows = sorted({plan.flow for plan in plans.values()})
    hashes = sorted({plan.hash for plan in plans.values()})
    holders = sorted(_texts(store.client.zrange(keys.holders, 0, -1)))
    pipe = store.client.pipeline(transaction=True)
    for run_id in plans:
        _ask_for_run(store, run_id, pipe)
    for key in (keys.live, keys.timers, keys.expiring, keys.holders):
        pipe.zrange(key, 0, -1)
    for holder in holders:
        pipe.hgetall(keys.holder(holder))
    for part in (1, 2):
        for bucket in buckets:
            pipe.zrange(keys.bucket(bucket)[part], 0, -1)
    for group in GROUPS:
        pipe.zrange(keys.by_status(group), 0, -1)
    for name in flows:
        for group in GROUPS:
            pipe.zrange(keys.by_flow(name, group), 0, -1)
    for plan_hash in hashes:
        pipe.hget(keys.plan(plan_hash), "live")
        pipe.pttl(keys.plan(plan_hash))
    answers = iter(pipe.execute())
    runs = {run_id: _read_run(store, run_id, plan, answers) for run_id, plan in plans.items()}
    live, timers, expiring, known = (_texts(next(answers)) for _ in range(4))
    return View(
        runs,
        live,
        timers,
        expiring,
        known,
        dict(claim for holder in holders for claim in _claims(holder, next(answers))),
        {bucket: _texts(next(answers)) for bucket in buckets},
        {bucket: _texts(next(answers)) for bucket in buckets},
        {group: _texts(next(answers)) for group in GROUPS},
        {(name, group): _texts(next(answers)) for name in flows for group in GROUPS},
        {plan_hash: (int(next(answers) or 0), next(answers)) for plan_hash in hashes},
    )


def _keys_of(store: Store, run_id: str) -> list[str]:
    keys = store.keys
    return [keys.run(run_id), keys.nodes(run_id), keys.outputs(run_id), keys.failures(run_id), keys.history(run_id)]


def _ask_for_run(store: Store, run_id: str, pipe: Pipeline) -> None:
    own = _keys_of(store, run_id)
    for name in own[:3]:
        pipe.hgetall(name)
    pipe.lrange(own[4], 0, -1)
    pipe.xrange(store.keys.older_history(run_id))
    for name in own:
        pipe.pttl(name)


def _read_run(store: Store, run_id: str, plan: Plan, answers: Iterator[Any]) -> RunView:
    fields, nodes = _pairs(next(answers)), _pairs(next(answers))
    outputs = {name.decode(): value for name, value in next(answers).items()}
    texts, older = next(answers), next(answers)
    events = [(entry.event, entry.node, entry.attempt, entry.detail) for entry in read_entries(texts, older)]
    lifetimes = {name: next(answers) for name in _keys_of(store, run_id)}
    records = {name: json.loads(text) for name, text in nodes.items()}
    return RunView(run_id, plan, fields, records, outputs, events, lifetimes, has_two_histories=bool(texts and older))


def _claims(holder: str, found: Mapping[bytes, bytes]) -> Iterator[tuple[tuple[str, str], tuple[str, str]]]:
    for member, value in _pairs(found).items():
        run_id, _, node = member.partition("|")
        yield (run_id, node), (holder, value.partition("|")[0])


def story_of(run: RunView) -> Story:
    """Tell a run again; its decisions are read from their records."""
    choices = {name: record["choice"] for name, record in run.nodes.items() if "choice" in record}
    inherited = {name: record["state"] for name, record in run.nodes.items() if record.get("inherited")}
    story = Story(run.plan, choices, inherited)
    for event in run.events:
        story.tell(*event)
    return story


def check_records(run: RunView) -> None:
    """I2, I4, I5: the records are what the history comes to, and nothing happened that must not have."""
    story = story_of(run)
    assert not story.must_end
    was_started = any(event in {"started", "resumed", "waits", "paused"} for event, *_ in run.events)
    assert run.status == (story.status if story.verdict or was_started else "pending")
    assert set(run.in_state("running")) == story.running
    assert {name: run.nodes[name]["waits"] for name in run.in_state("waiting")} == story.waiting
    assert run.number("running") == len(story.running) + sum(kind in COUNTED for kind in story.waiting.values())
    undoing = ("compensating", "compensated", "compensation_failed")
    waiting = (story.saga or [])[story.done + 1 :]  # after a resume they keep their records until it is their turn
    nodes = {name: record for name, record in run.nodes.items() if name not in {*waiting, *story.inherited}}
    states = {name: record["ended_as" if record["state"] in undoing else "state"] for name, record in nodes.items()}
    assert {name: state for name, state in states.items() if state in story.final.values()} == story.final
    for name, record in nodes.items():
        assert record["attempt"] == story.attempts[name], name
        assert record["attempt"] < run.plan.nodes[name].attempts or record["state"] not in {"ready", "parked"}, name
        subject = run.plan.nodes[name].undoes
        assert record.get("generation", 0) == story.generations[subject or name] - (
            1 if subject and record["state"] == "succeeded" else 0
        ), name
    _check_order(run, story)
    _check_saga(run, story)
    ends = {**story.inherited, **story.final}
    keys = {run.plan.nodes[name].key for name, how in ends.items() if how == "succeeded"}
    assert set(run.outputs) == {":input"} | keys - {""}


def _check_order(run: RunView, story: Story) -> None:
    ended = [run.nodes[name] for name in story.final if name in run.nodes]
    numbers = {record["seq"] for record in ended}
    assert len(numbers) == len(ended)
    for one, two in itertools.pairwise(ended):
        # Two versions write two histories, of which entries of one millisecond are in no order.
        is_told = not run.has_two_histories or one.get("ended", -1) != two.get("ended", -2)
        assert one["seq"] < two["seq"] or not is_told, "the order of completion"
    assert max(numbers, default=0) <= run.number("seq")


def _check_saga(run: RunView, story: Story) -> None:
    if not story.verdict or story.running - {undo for _, undo, _ in run.plan.sagas}:
        assert not run.in_state("compensating", "compensated", "compensation_failed")
        return
    saga = story.expected_saga()
    states = {run.plan.nodes[undo].undoes: "compensating" for undo in saga} | story.undone
    shown = run.in_state("compensating", "compensated", "compensation_failed")
    assert {name: run.nodes[name]["state"] for name in shown} == states
    if not story.ended:
        assert run.nodes[saga[story.done]]["state"] in {"ready", "running", "parked"}


def check_join(run: RunView) -> None:
    """I3: the counters of the join are what the records of its members say."""
    if run.has_ended or run.fields.get("verdict"):
        return
    states = [record["state"] for record in run.members()]
    assert run.number("open") == sum(state in {"ready", "running", "parked", "waiting"} for state in states) > 0
    assert run.number("won") == states.count("succeeded")
    assert set(run.in_state("ready", "running", "parked", "waiting")) <= set(
        run.plan.steps[run.number("position")].nodes
    )


def check_claims(view: View, run: RunView) -> None:
    """Every running node is the open claim of one holder, and no other claim is open."""
    claims = {node: claim for (run_id, node), claim in view.claims.items() if run_id == run.id}
    running = {name: run.nodes[name] for name in run.in_state("running")}
    assert claims == {name: (record["holder"], record["token"]) for name, record in running.items()}


def check_waits(view: View, run: RunView) -> None:
    """Who waits has a timer or a place in the line of its bucket, or was let go; and nobody else has."""
    parked = {name: run.nodes[name].get("bucket") for name in run.in_state("parked")}
    timed = {f"{run.id}|{name}" for name, bucket in parked.items() if bucket is None}
    timed |= {f"{run.id}|{name}" for name in run.in_state("waiting") if "due" in run.nodes[name]}
    # By `:tree` the leader passes on to children what their root has come to.
    timers = {member for member in view.timers if member.startswith(f"{run.id}|")} - {f"{run.id}|:tree"}
    if "deadline" in run.fields and not run.has_ended:
        timed.add(f"{run.id}|")
        if run.fields.get("verdict"):  # it says nothing any more: it may stay until it is due
            timers.add(f"{run.id}|")
    assert timers == timed
    waiting = {(bucket, f"{run.id}|{name}") for name, bucket in parked.items() if bucket}
    for bucket, members in view.lines.items():
        assert {(bucket, member) for member in members if member.startswith(run.id)} <= waiting
    let_go = {member for members in view.released.values() for member in members if member.startswith(run.id)}
    assert let_go <= {f"{run.id}|{name}" for name in run.in_state("parked", "ready")}


def check_life(view: View, run: RunView) -> None:
    """I7: an ended run expires and is nowhere live; a live one lasts, and something will move it."""
    lasting = [name for name, left in run.lifetimes.items() if left == -1]
    found = {run.status} if run.has_ended else {"open", *({"paused"} & {run.status})}
    groups = {family_of(run.id) + group for group in found}
    assert {each for each, members in view.by_status.items() if run.id in members} == groups
    flow = run.plan.flow
    assert {each for each, members in view.by_flow.items() if run.id in members} == {(flow, each) for each in groups}
    expiring = f"{run.status}|{run.plan.flow}|{run.id}"
    assert {member for member in view.expiring if run.id in member} == ({expiring} if run.has_ended else set())
    assert (run.id in view.live) == (not run.has_ended)
    if run.has_ended:
        assert not lasting, "a run that has ended has keys without a TTL"
        assert not run.in_state("ready", "running", "parked", "waiting")
        return
    assert not [name for name, left in run.lifetimes.items() if left >= 0], "a live run has keys with a TTL"
    held = [name for name in run.in_state("running") if run.nodes[name]["holder"] in view.holders]
    assert held or run.in_state("ready", "parked", "waiting"), "nothing will move this run"


def check_plans(view: View) -> None:
    """A plan knows how many live runs pin it, and expires only without them."""
    for plan_hash, (live, left) in view.plans.items():
        assert live == sum(run.plan.hash == plan_hash and not run.has_ended for run in view.runs.values())
        assert (left == -1) == (live > 0)


def check_run(view: View, run: RunView) -> None:
    """Every invariant of one run; a failure tells the whole run."""
    try:
        check_records(run)
        check_join(run)
        check_claims(view, run)
        check_waits(view, run)
        check_life(view, run)
    except AssertionError as error:
        story = "\n".join(" ".join(map(str, event)) for event in run.events)
        error.add_note(f"run {run.id}: {run.fields}\n{run.nodes}\n{story}")
        raise


def check_all(view: View) -> None:
    """Every invariant of every run that was read."""
    for run in view.runs.values():
        check_run(view, run)
    check_plans(view)
