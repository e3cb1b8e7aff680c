"""A run without workers: moved script by script on the real server, under a prefix of its own.

A `World` is one prefix on one server and checks at its end what must hold whatever a test did; a `Run` is one run with
its plan, made by the builder.
"""

from __future__ import annotations

import json
import re
import secrets
import threading
import uuid
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import redis
from redis.connection import parse_url

from orchestrator import FlowBuilder, FlowDefinitionWarning, Node, Page, RetryPolicy, manual, paginate
from orchestrator.definition.planning import make_plan
from orchestrator.settings import Settings
from orchestrator.store import keys
from orchestrator.store.address import Address
from orchestrator.store.run_store import Store
from orchestrator.store.scripts import Scripts
from orchestrator.store.scripts.assembly import script_text
from orchestrator.store.scripts.commit_and_claim import Claim, Commit
from orchestrator.store.scripts.results import MORE, PageEnd
from tests import fake_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from orchestrator.definition.plan import Plan
    from orchestrator.store.scripts.results import Admitted, Claimed, Look, Moved, Seen, Started

Answer = TypeVar("Answer")
HOLDER = "worker/1"
THREADS = 100
RETENTION_MS, LEASE_MS = 600_000, 30_000
SHORT_LIVED = re.compile(r":limits:(tat|frozen):")
"""Keys that go away by themselves within seconds."""
READ: dict[str, Callable[[Any, str], object]] = {
    "none": lambda pipe, name: pipe.exists(name),
    "string": lambda pipe, name: pipe.get(name),
    "hash": lambda pipe, name: pipe.hgetall(name),
    "set": lambda pipe, name: pipe.smembers(name),
    "list": lambda pipe, name: pipe.lrange(name, 0, -1),
    "zset": lambda pipe, name: pipe.zrange(name, 0, -1, withscores=True),
    "stream": lambda pipe, name: pipe.xrange(name),
}
PORTIONS = "RECORDS_AT_ONCE, NAMES_AT_ONCE = 200, 1000"
ENDED = {"succeeded", "failed", "cancelled", "compensation_failed"}
FAILURE = '{"flow_name":"f","node_name":"n","attempt":1,"type":"builtins.OSError","message":"no","traceback":""}'


def act() -> None:
    """The function of every node: no worker ever calls it."""


def always(_state: object) -> bool:
    """The predicate of every block: tests commit the decision."""
    return True


def node(
    name: str,
    *,
    attempts: int = 3,
    undone: Literal["succeeded", "started"] | None = None,
    timeout_ms: int = 300_000,
    **options: Any,
) -> Node[Any, Any]:
    """A node; one that is `undone` has the compensation "undo-<name>" of two attempts."""
    retry = RetryPolicy(maximum_attempts=attempts)
    made: Node[Any, Any] = Node(name, act, retry=retry, timeout=timedelta(milliseconds=timeout_ms), **options)
    if undone is None:
        return made
    return made.on_error(Node(f"undo-{name}", act, retry=RetryPolicy(maximum_attempts=2)), when=undone)


def flow(name: str = "f") -> FlowBuilder:
    return FlowBuilder(name).triggered_by(manual("test"))


def plan_of(builder: FlowBuilder) -> Plan:
    with warnings.catch_warnings(category=FlowDefinitionWarning, action="ignore"):  # wide steps are wanted here
        return make_plan(builder.build(), "celery")


def line_plan(*names: str, **options: Any) -> Plan:
    """One node after the other."""
    builder = flow()
    for name in names:
        builder.then(node(name, **options))
    return plan_of(builder)


def fan_plan(count: int, *, on_failure: Any = "fail", require: int | None = None, **options: Any) -> Plan:
    """A parallel step of the members "m-0", "m-1", ... with the node "after" behind it."""
    members = [node(f"m-{number}", **options) for number in range(count)]
    return plan_of(flow().then_parallel("fan", *members, on_failure=on_failure, require=require).then(node("after")))


def act_on(item: int) -> int:
    """The function of every node that a map calls: no worker ever calls it."""
    return item


def map_plan(
    *, attempts: int = 3, undone: bool = False, limiter: Any = None, slots: Any = None, **options: Any
) -> Plan:
    """A map of the node "item" with the node "after" behind it."""
    retry = RetryPolicy(maximum_attempts=attempts)
    item: Node[Any, Any] = Node("item", act_on, retry=retry, shared_rate_limit=limiter, concurrency=slots)
    if undone:
        item = item.on_error(Node("undo-item", act))
    return plan_of(flow().then_map("all", item, over=lambda _state: [], **options).then(node("after")))


def mapped_run(world: World, count: int, **options: Any) -> Run:
    """A run that stands at its map of so many items."""
    run = world.run(map_plan(**options))
    token = run.hold("all.over")
    world.store.stage_items(run.id, token, [str(number).encode() for number in range(count)])
    run.expanded = run.commit("all.over", token, choice=count)
    return run


def fetch(cursor: str | None) -> Page[int]:
    """The function of every paginated node: no worker ever calls it."""
    return Page(items=[])


def paged(
    name: str = "sync", *, undone: Literal["succeeded", "started"] | None = None, **options: Any
) -> Node[Any, Any]:
    """A paginated node, with the compensation "undo-<name>" if it is undone."""
    made = paginate(name, fetch, **options).with_retry(RetryPolicy(maximum_attempts=3))
    return made if undone is None else made.on_error(Node(f"undo-{name}", act), when=undone)


def new_token() -> str:
    return secrets.token_hex(16)


def run_named(name: object) -> str:
    """A run id made from a name, as a schedule's tick makes it from its slot."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, str(name)))


def at_once(call: Callable[[int], Answer], count: int = THREADS) -> list[Answer]:
    """What `call(0)`, ..., `call(count - 1)` answer when as many threads make them at once."""
    barrier = threading.Barrier(count)

    def wait_and_call(number: int) -> Answer:
        barrier.wait(timeout=30)
        return call(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(wait_and_call, range(count)))


@dataclass
class Run:
    """One run and the epoch at which its messages were made."""

    world: World
    plan: Plan
    id: str
    started: Started
    epoch: int = 1
    expanded: Any = None  # of a map: what the commit of its items left to publish

    @property
    def scripts(self) -> Scripts:
        return self.world.scripts

    def claim(
        self, name: str, token: str = "", *, holder: str = HOLDER, reads: tuple[str, ...] = (), **options: Any
    ) -> Claimed:
        values: dict[str, Any] = {"epoch": self.epoch, "lease_ms": LEASE_MS, "may_sleep": False, **options}
        return self.scripts.claim(self.id, self.plan, Claim(name, token or new_token(), reads), holder=holder, **values)

    def hold(self, name: str, **options: Any) -> str:
        """Claim a node that can be claimed; returns the token."""
        token = new_token()
        claimed = self.claim(name, token, **options)
        assert claimed.outcome == "run", f"claim of {name}: {claimed.outcome}"
        return token

    def claim_to_admit(self, name: str) -> str:
        """Claim a node whose buckets depend on its input; returns the token."""
        token = new_token()
        assert self.claim(name, token).outcome == "admit"
        return token

    def admit(self, name: str, token: str, *buckets: str, may_sleep: bool = False, follows: bool = False) -> Admitted:
        return self.scripts.admit(
            self.id, self.plan.hash, name, token, buckets=buckets, may_sleep=may_sleep, follows=follows
        )

    def commit(
        self, name: str, token: str, output: bytes | None = None, *, choice: int | None = None, follows: bool = False
    ) -> Moved:
        if output is None:
            output = b"1" if name in self.plan.nodes and self.plan.nodes[name].key else b""
        return self.scripts.commit(self.id, self.plan, Commit(name, token, output, choice), follows=follows)

    def turn(
        self, name: str, token: str, items: str = "[1]", *, count: int = 1, cursor: str = '"c"', goes_on: bool = False
    ) -> Moved:
        """Store a page that has more after it."""
        page = Commit(name, token, items.encode(), page=PageEnd(count, cursor), has_more=True)
        return self.scripts.commit(self.id, self.plan, page, follows=goes_on)

    def close(
        self,
        name: str,
        token: str,
        items: str = "[1]",
        *,
        count: int = 1,
        cursor: str = "null",
        follows: bool = False,
    ) -> Moved:
        """Store the last page."""
        page = Commit(name, token, items.encode(), page=PageEnd(count, cursor))
        return self.scripts.commit(self.id, self.plan, page, follows=follows)

    def do(self, name: str, **options: Any) -> Moved:
        """Claim a node and commit it."""
        return self.commit(name, self.hold(name), **options)

    def fail(self, name: str, token: str, *, delay_ms: int = -1, follows: bool = False) -> Moved:
        return self.scripts.fail(
            self.id, self.plan.hash, name, token, failure=FAILURE, delay_ms=delay_ms, follows=follows
        )

    def break_off(self, name: str, **options: Any) -> Moved:
        """Claim a node and let it fail, for good unless there is a delay."""
        return self.fail(name, self.hold(name), **options)

    def lose(self, name: str, token: str, *, timed_out: bool = False, delay_ms: int = 0) -> Moved:
        return self.scripts.expire_claim(
            self.id, self.plan.hash, name, token, failure=FAILURE, timed_out=timed_out, delay_ms=delay_ms
        )

    def report(self, name: str, token: str, detail: str = "1") -> Moved:
        return self.scripts.report(self.id, self.plan.hash, name, token, detail)

    def wake(self, name: str) -> Moved:
        return self.scripts.wake(self.id, self.plan.hash, name)

    def announce(self, position: int | str, *, epoch: int | None = None) -> Moved:
        return self.scripts.publish_position(self.id, self.plan.hash, self.epoch if epoch is None else epoch, position)

    def cancel(self, *, verdict: str = "cancelled", only_late: bool = False) -> Moved:
        return self.scripts.cancel(self.id, self.plan.hash, verdict=verdict, failure=FAILURE, only_late=only_late)

    def resume(self) -> Moved:
        moved = self.scripts.resume(self.id, self.plan.hash, token=secrets.token_hex(16))
        if moved.outcome == "resumed":
            self.epoch += 1
        return moved

    def give_back(self, name: str, token: str, *, own: str = "own") -> Moved:
        return self.scripts.give_back(self.id, self.plan.hash, name, token, own=own, reason="it reads 'x'")

    def look(self, *, joined_ms: int = 0) -> list[Seen]:
        found: list[Seen] = []
        look: Look | None = self.scripts.inspect_run(self.id, self.plan.hash, joined_ms)
        while look is not None:
            found += [seen for seen in look.findings if seen.kind != MORE]
            look = self.scripts.look_further(self.id, self.plan.hash, look, joined_ms)
        return found

    def go_on(self) -> Moved:
        return self.scripts.go_on(self.id, self.plan.hash)

    def complete(self, moved: Moved, *, between: Callable[[], object] = lambda: None) -> Moved:
        """Do all portions that are left of a transition; returns the last answer."""
        while moved.work.kind == MORE:
            between()
            moved = replace(self.go_on(), outcome=moved.outcome)
        return moved

    def republish(self, *names: str, epoch: int | None = None, **options: int) -> Moved:
        epoch = self.epoch if epoch is None else epoch
        return self.scripts.republish(self.id, self.plan.hash, epoch, names, **options)

    def field(self, name: str) -> str:
        return (self.world.client.hget(self.world.keys.run(self.id), name) or b"").decode()

    @property
    def status(self) -> str:
        return self.field("status")

    def node(self, name: str) -> dict[str, Any]:
        return self.world.store.nodes(self.id)[name]

    def states(self) -> dict[str, str]:
        return {name: record["state"] for name, record in self.world.store.nodes(self.id).items()}

    def outputs(self) -> dict[str, bytes]:
        return self.world.store.outputs(self.id, None)

    def events(self) -> list[tuple[str, str]]:
        """Event and node, oldest first."""
        return [(entry.event, entry.node) for entry in self.world.store.history(self.id)]

    def count(self, event: str, name: str = "") -> int:
        return self.events().count((event, name))

    def undone(self) -> list[str]:
        """Compensations in the order in which they succeeded."""
        return [name for event, name in self.events() if event == "succeeded" and name.startswith("undo-")]

    def age(self, name: str, by_ms: int) -> None:
        """Let a ready node have become so, and have been published again, that much earlier."""
        record = self.node(name)
        earlier = {stamp: record[stamp] - by_ms for stamp in ("since", "again") if stamp in record}
        self.world.client.hset(self.world.keys.nodes(self.id), name, json.dumps(record | earlier))


def real_address(url: str) -> Address:
    return Address("redis_url", redis.Connection, parse_url(url))


class World:
    """The scripts on one server, under a prefix that no other test has."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.prefix = f"t-{secrets.token_hex(6)}"
        address = fake_server.address_of(url) if url.startswith(fake_server.SCHEME) else real_address(url)
        self.store = Store(address, Settings(prefix=self.prefix, retention=timedelta(milliseconds=RETENTION_MS)))
        self.client = self.store.client
        self.keys = self.store.keys
        self.scripts = self.store.scripts

    def use_small_portions(self) -> None:
        """Let the scripts touch two records at once, or a few more."""

        def text_of(name: str) -> str:
            return script_text(name).replace(PORTIONS, PORTIONS.replace("200, 1000", "2, 3"))

        self.scripts = self.store.scripts = Scripts(self.client, self.keys, text_of)

    def start(
        self,
        plan: Plan,
        *,
        run_id: str = "",
        input_json: bytes = b"",
        key: str | None = None,
        send_plan: bool = True,
        chords: bool = True,
        tags: Mapping[str, str] | None = None,
        retention_ms: int = RETENTION_MS,
        history_limit: int = 1000,
        **options: Any,
    ) -> Started:
        """Start a run, or what a second start of it answers."""
        return self.scripts.start(
            run_id or new_token(),
            plan,
            send_plan=send_plan,
            input_json=input_json,
            tags=tags or {},
            retention_ms=retention_ms,
            history_limit=history_limit,
            chords=chords,
            idempotency_key=key,
            **options,
        )

    def run(self, plan: Plan, **options: Any) -> Run:
        """Start a run that is new."""
        started = self.start(plan, **options)
        assert started.outcome == "started"
        return Run(self, plan, started.run_id, started)

    def publish(self, plan: Plan, *, retention_ms: int = RETENTION_MS) -> None:
        self.scripts.announce_flow(plan, retention_ms=retention_ms)

    def names(self) -> list[str]:
        """Every key under the prefix."""
        return sorted(key.decode() for key in self.client.scan_iter(f"{self.prefix}:*", count=1000))

    def dump(self) -> dict[str, tuple[Any, bool]]:
        """Every key with its whole value, and whether it has a TTL; DUMP may show one hash in two orders."""
        names = self.names()
        pipe = self.client.pipeline(transaction=False)
        for name in names:
            pipe.type(name)
        kinds = [kind.decode() for kind in pipe.execute()]
        for name, kind in zip(names, kinds, strict=True):
            READ[kind](pipe, name)
            pipe.pttl(name)
        answers = pipe.execute()
        found = zip(names, answers[::2], answers[1::2], strict=True)
        return {name: (value, ttl >= 0) for name, value, ttl in found if ttl != -2}  # -2: it went away meanwhile

    @contextmanager
    def unchanged(self, *, but: Sequence[str] = ()) -> Iterator[None]:
        """No key is written while the block runs, but those named."""
        before = self.dump()
        yield
        after = self.dump()
        changed = {name for name in before | after if before.get(name) != after.get(name)}
        changed = {name for name in changed if name in after or not SHORT_LIVED.search(name)}
        assert changed == set(but), f"written: {changed ^ set(but)}"

    def members(self, key: str) -> list[str]:
        """Members of a sorted set, lowest score first."""
        return [member.decode() for member in self.client.zrange(key, 0, -1)]

    def claims(self, holder: str = HOLDER) -> list[tuple[str, str]]:
        return sorted((claim.run_id, claim.node) for claim in self.store.claims(holder))

    def line(self, bucket: str) -> list[str]:
        """Who waits for a bucket."""
        return self.members(self.keys.bucket(bucket)[1])

    def released(self, bucket: str) -> list[str]:
        """Who was let go from a bucket's line and has not claimed yet."""
        return self.members(self.keys.bucket(bucket)[2])

    def plan_ttl(self, plan: Plan) -> int:
        """Milliseconds that a plan has left: -1 without limit, -2 if it is gone."""
        return int(self.client.pttl(self.keys.plan(plan.hash)))

    def check(self) -> None:
        """What must hold whatever a test did: every key is known, and what belongs to ended runs has an end."""
        names = self.names()
        patterns = known_keys(self.prefix)
        assert [name for name in names if not any(pattern.fullmatch(name) for pattern in patterns)] == []
        waiting = {
            member.split("|")[0]
            for name in names
            if re.fullmatch(rf"{self.prefix}:(timers|limits:(line|released):.*)", name)
            for member in self.members(name)
        }
        open_claims = {run_id for name in names if f"{self.prefix}:holders:" in name for run_id in self._claiming(name)}
        live = set(self.members(self.keys.live))
        for name in names:
            if found := re.fullmatch(rf"{self.prefix}:run:([^:]+)", name):
                own = [each for each in names if each == name or each.startswith(f"{name}:")]
                self._check_run(found[1], own, live=live, busy=waiting | open_claims)

    def _claiming(self, holder_key: str) -> list[str]:
        return [member.decode().split("|")[0] for member in self.client.hkeys(holder_key)]

    def _check_run(self, run_id: str, own: list[str], *, live: set[str], busy: set[str]) -> None:
        record = self.store.run(run_id)
        own += [record.fields["idem"]] if record.fields["idem"] else []
        lasting = [name for name in own if self.client.pttl(name) == -1]
        assert self.client.hexists(self.keys.plan(record.plan), "text"), "the plan lives as long as the run"
        if record.status in ENDED:
            assert record.fields["running"] == "0"
            assert lasting == [], f"keys of a run that is {record.status} have no TTL"
            assert run_id not in live | busy
            assert self._outlives(self.keys.plan(record.plan), self.keys.run(run_id))
        else:
            assert lasting == own, f"keys of a run that is {record.status} have a TTL"
            assert run_id in live
            assert self.client.pttl(self.keys.plan(record.plan)) == -1

    def _outlives(self, one: str, other: str) -> bool:
        ttl = self.client.pttl(one)
        return bool(ttl == -1 or ttl >= self.client.pttl(other))

    def close(self) -> None:
        if names := self.names():
            self.client.unlink(*names)
        self.client.close()


@contextmanager
def opened(url: str) -> Iterator[World]:
    """A prefix of its own on a server; at the end its keys are checked, then deleted."""
    made = World(url)
    try:
        yield made
        made.check()
    finally:
        made.close()


def known_keys(prefix: str) -> list[re.Pattern[str]]:
    """The table in keys.py, as patterns."""
    rows = re.findall(r"^\| ([a-z][^|]*?) \|", keys.__doc__ or "", re.MULTILINE)
    names = [name for row in rows if row != "key" for name in row.split(", ")]
    return [re.compile(re.escape(prefix) + ":" + re.sub(r"<[^>]+>", "[^:]+", name)) for name in names]
