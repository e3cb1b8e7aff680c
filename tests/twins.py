"""Two prefixes on one server that are told the same: one with the fast paths of the scripts, one without them.

Time is a hash in Redis that a test sets, read where the scripts read the server's clock, so that both see the same
instant. After every step everything that both have stored is compared, and every answer.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from orchestrator import Adaptive, SharedConcurrency, SharedRateLimiter
from orchestrator.store.history import read_entries
from orchestrator.store.keys import bucket_of
from orchestrator.store.scripts import Scripts
from orchestrator.store.scripts.assembly import script_text
from orchestrator.store.scripts.results import Claimed
from tests.machine import SHAPES
from tests.scripts_world import Run, World, act_on, flow, new_token, node, paged, plan_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator import Node
    from orchestrator.definition.plan import Plan
    from orchestrator.store.keys import Keys

Answer = TypeVar("Answer")
DUMP = """
local found = {}
for number, prefix in ipairs(ARGV) do
  found[number] = {}
  for _, key in ipairs(redis.call('KEYS', prefix .. ':*')) do
    local kind, value = redis.call('TYPE', key).ok, nil
    if kind == 'hash' then
      value = redis.call('HGETALL', key)
    elseif kind == 'string' then
      value = {redis.call('GET', key)}
    elseif kind == 'set' then
      value = redis.call('SMEMBERS', key)
    elseif kind == 'list' then
      value = redis.call('LRANGE', key, 0, -1)
    elseif kind == 'zset' then
      value = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
    else
      value = redis.call('XRANGE', key, '-', '+')
    end
    table.insert(found[number], {key, kind, redis.call('PTTL', key), value})
  end
end
return found
"""
"""Reads all that is stored under some prefixes in one round trip: of each key its type, its TTL in ms and its value."""
FAST_PATHS = {"commit_and_claim": 3, "spawn": 1}
LATER_MS = 4000
FAST_PATH = re.compile(r"^repeat\n.*?^until true\n", re.MULTILINE | re.DOTALL)
TIME = "redis.call('TIME')"
TTL_MS = 20_000
"""Lifetimes begin on the server's own clock, so they may differ by as much as a step takes, and not by a retention."""
API = SharedRateLimiter("calls", 2, per=timedelta(hours=1), adaptive=Adaptive(1, 4))
KEYED = SharedRateLimiter("tenants", 1, per=timedelta(hours=1), key=str)
DESKS = SharedConcurrency("desks", 1)
BUCKETS = [bucket_of("tenants", key) for key in "ab"]


def item_node(**options: Any) -> Node[Any, Any]:
    made = node("item", **options)
    return type(made)("item", act_on, retry=made.retry, shared_rate_limit=made.shared_rate_limits)


def _shapes() -> list[Plan]:
    local = flow("local").fused().then(node("a", undone="succeeded"))
    local.then_parallel("all", *[node(f"m-{n}", attempts=2) for n in range(3)], local=True)
    local.then_parallel(
        "more", *[node(f"n-{n}", undone="started") for n in range(2)], local=True, on_failure="continue"
    )
    local.then(node("b")).then(node("c", attempts=2))
    mixed = flow("mixed").fused().then(node("a")).then(node("b", shared_rate_limit=API)).then(node("c"))
    mixed.then_parallel("all", node("x"), node("y", concurrency=DESKS), local=True).then(node("d"))
    items = (
        flow("items")
        .then(node("a"))
        .then_map("all", item_node(), over=lambda _state: [], max_concurrency=3, batch_size=2)
    )
    items.then(node("after"))
    undone = flow("undone").then_map("all", item_node().on_error(node("undo-item")), over=lambda _state: [])
    undone.then(node("after", attempts=1))
    pages = flow("pages").fused().then(node("a")).then(paged(cursor_source="origin")).then(node("b"))
    keyed = flow("keyed").then(node("a")).then_parallel("all", *[node(f"k-{n}", shared_rate_limit=KEYED) for n in "ab"])
    choice = flow("fused-choice").fused().then(node("a")).when(lambda _state: True).then(node("b"))
    choice.else_().then(node("c")).end_when().then(node("d"))
    return [plan_of(builder) for builder in (local, mixed, items, undone, pages, keyed, choice)]


PLANS = [*_shapes(), *SHAPES]


class CountedScripts(Scripts):
    """Scripts that count how often a fast path has answered, and for what."""

    def __init__(self, client: Any, keys: Keys, text_of: Callable[[str], str]) -> None:
        super().__init__(client, keys, text_of)
        self.seen: Counter[str] = Counter()
        self._kinds: list[str] = []

    def commit_and_claim(self, run_id: str, plan: Plan, commits: Any, claims: Any, **options: Any) -> Any:
        kind = ("commit" if commits else "") + (" and " if commits and claims else "") + ("claim" if claims else "")
        self._kinds = [
            kind,
            *["several"] * (len(commits) > 1),
            *["items"] * ("[" in "".join(each.node for each in commits)),
        ]
        return super().commit_and_claim(run_id, plan, commits, claims, **options)

    def _call(self, name: str, *args: Any) -> Any:
        answer = super()._call(name, *args)
        if name == "commit_and_claim" and answer is not None:
            self.seen.update(f"{'fast' if isinstance(answer, bytes) else 'slow'} {kind}" for kind in self._kinds)
        return answer


@dataclass(frozen=True)
class Pair:
    """One run in both worlds."""

    fast: Run
    slow: Run

    @property
    def id(self) -> str:
        return self.slow.id

    @property
    def plan(self) -> Plan:
        return self.slow.plan


class Twins:
    """Both worlds.

    Args:
        url: The server.
        change: Makes a fault in the fast paths.
    """

    def __init__(self, url: str, change: Callable[[str], str]) -> None:
        self.fast, self.slow = World(url), World(url)
        self.runs: list[Pair] = []
        self._state: dict[str, Any] = {}
        self._clock = f"{self.slow.prefix}-clock"
        self._now_us = self.slow.store.now_ms() * 1000
        fast = CountedScripts(self.fast.client, self.fast.keys, lambda name: self._timed(fast_text(name, change)))
        self.fast.scripts, self._seen = fast, fast.seen
        self.slow.scripts = Scripts(self.slow.client, self.slow.keys, lambda name: self._timed(slow_text(name)))
        self.pass_time(0)

    def _timed(self, text: str) -> str:
        return text.replace(TIME, f"redis.call('HMGET', '{self._clock}', 'seconds', 'micros')")

    def pass_time(self, ms: int) -> None:
        """Set both clocks forward."""
        self._now_us += ms * 1000 + 1
        seconds, micros = divmod(self._now_us, 1_000_000)
        self.slow.client.hset(self._clock, mapping={"seconds": seconds, "micros": micros})

    def both(self, call: Callable[[World], Answer]) -> Answer:
        """What a call answers in both worlds."""
        fast, slow = call(self.fast), call(self.slow)
        assert plain(fast) == plain(slow), f"with the fast path {fast}, without {slow}"
        return slow

    def on(self, pair: Pair, call: Callable[[Run], Answer]) -> Answer:
        """What a call on a run answers in both worlds."""
        return self.both(lambda world: call(pair.fast if world is self.fast else pair.slow))

    def start(self, plan: Plan, **options: Any) -> Pair:
        run_id = new_token()
        started = [world.start(plan, run_id=run_id, **options) for world in (self.fast, self.slow)]
        assert started[0] == started[1]
        pair = Pair(
            *[Run(world, plan, run_id, each) for world, each in zip((self.fast, self.slow), started, strict=True)]
        )
        self.runs.append(pair)
        return pair

    def fields(self, pair: Pair) -> dict[str, str]:
        """What is stored of a run, at the last comparison."""
        return dict(self._state[f"run:{pair.id}"])

    def nodes(self, pair: Pair, *states: str) -> dict[str, dict[str, Any]]:
        """Records of a run's nodes in one of the states, at the last comparison."""
        found = self._state.get(f"run:{pair.id}:nodes", {})
        return {name: record for name, record in sorted(found.items()) if record["state"] in states}

    def compare(self) -> None:
        """Everything that both have stored."""
        prefixes = self.fast.prefix, self.slow.prefix
        read = [stored(*each) for each in zip(prefixes, self.slow.client.eval(DUMP, 0, *prefixes), strict=True)]
        (fast, fast_live, fast_ttl), (slow, slow_live, slow_ttl) = read
        self._state = slow
        assert fast == slow, different(fast, slow)
        assert fast_live.keys() == slow_live.keys()
        # One that a look has set, which has a fraction, may be up to that much later.
        late = {name for name, at in fast_live.items() if int(at) > slow_live[name] + (LATER_MS if at % 1 else 0)}
        assert late == set(), "the fast path may leave the run's next look as it is, and no more"
        assert fast_ttl.keys() == slow_ttl.keys()
        wrong = {name: (ttl, slow_ttl[name]) for name, ttl in fast_ttl.items() if abs(ttl - slow_ttl[name]) > TTL_MS}
        assert wrong == {}, f"lifetimes differ: {wrong}"

    def pushed(self) -> list[bytes]:
        """Messages that were pushed, the same in both; the queues are emptied."""
        found: list[list[bytes]] = []
        for world in (self.fast, self.slow):
            queue = f"{world.prefix}:queue"
            found.append(world.client.lrange(queue, 0, -1))
            world.client.delete(queue)
        assert found[0] == found[1], "the messages differ"
        return found[1]

    def counted(self) -> Counter[str]:
        """What happened: answers of fast paths, and ends of runs."""
        return self._seen + Counter(self.fields(pair)["status"] for pair in self.runs)

    def close(self) -> None:
        self.slow.client.delete(self._clock)
        self.fast.close()
        self.slow.close()


def same_text(text: str) -> str:
    """The text as it is."""
    return text


def fast_text(name: str, change: Callable[[str], str]) -> str:
    """The text of a script, with a change to its fast paths."""
    fast, library, rest = script_text(name).partition("\n-- The library of every transition")
    return change(fast) + library + rest if name == "commit_and_claim" else fast + library + rest


def slow_text(name: str) -> str:
    """The text of a script without its fast paths."""
    text, count = FAST_PATH.subn("", script_text(name))
    assert count == FAST_PATHS.get(name, 0)
    return text


def plain(answer: Any) -> Any:
    """An answer without claims that are not ready: the fast path has no words for those."""
    if isinstance(answer, tuple) and answer and isinstance(answer[-1], list):
        *others, claimed = answer
        return others, [each for each in claimed if not (isinstance(each, Claimed) and each.outcome == "not ready")]
    return answer


def stored(prefix: str, rows: list[Any]) -> tuple[dict[str, Any], dict[str, float], dict[str, float]]:
    """What is under a prefix, without it, and apart from that the next looks at runs, and lifetimes in ms."""
    found: dict[str, Any] = {}
    lifetimes: dict[str, float] = {}
    live: dict[str, float] = {}
    for key, kind, ttl, value in rows:
        name = key.decode().removeprefix(f"{prefix}:")
        lifetimes[name] = ttl if ttl >= 0 else float("inf")
        if kind == b"stream":
            found[name] = [fields_of(row, prefix) for _, row in value]
        elif name.endswith(":told"):
            found[name] = read_entries(value)
        elif name == "live":
            live = {member.decode(): float(score) for member, score in pairs_of(value)}
        elif kind == b"hash":
            # The order of fields in JSON means nothing.
            fields = fields_of(value, prefix)
            found[name] = {each: json.loads(text) if text.startswith("{") else text for each, text in fields.items()}
        else:
            texts = [each.decode().replace(prefix, "PREFIX") for each in value]
            found[name] = sorted(texts) if kind == b"set" else texts
    return found, live, lifetimes


def pairs_of(flat: list[bytes]) -> list[tuple[bytes, bytes]]:
    return list(zip(flat[::2], flat[1::2], strict=True))


def fields_of(flat: list[bytes], prefix: str) -> dict[str, str]:
    return {name.decode(): text.decode().replace(prefix, "PREFIX") for name, text in pairs_of(flat)}


def different(fast: dict[str, Any], slow: dict[str, Any]) -> str:
    names = {name for name in fast | slow if fast.get(name) != slow.get(name)}
    return "\n".join(
        f"{name}\n  with the fast path    {fast.get(name)}\n  without               {slow.get(name)}" for name in names
    )
