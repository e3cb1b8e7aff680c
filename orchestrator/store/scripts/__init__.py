"""Scripts: the atomic operations on Redis, one Lua file each, and here one typed function for each.

A function names its arguments, sends keys and units in the order that its script binds them, and turns the small array
that comes back into a named result. What the operations mean for a run is written at the top of each script.
"""

from __future__ import annotations

import hashlib
import json
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from redis.exceptions import NoScriptError, RedisError, ResponseError

from orchestrator.store.keys import is_child
from orchestrator.store.log_lines import BYTES, LINES
from orchestrator.store.lost_writes import SweepMark
from orchestrator.store.scripts.assembly import script_text
from orchestrator.store.scripts.children import Children
from orchestrator.store.scripts.commit_and_claim import PlannedCalls, arguments_of, read_answer, reads_of
from orchestrator.store.scripts.connection import NOTHING, Packed, Wire, ask_many
from orchestrator.store.scripts.forking import Forking
from orchestrator.store.scripts.outside import Outside
from orchestrator.store.scripts.results import (
    Admitted,
    Look,
    Moved,
    Started,
    Tick,
    due_of,
    look_of,
    moved_of,
    started_of,
    text_of,
    work_of,
)
from orchestrator.store.scripts.starting import Starting

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from redis import Redis

    from orchestrator.definition.plan import Plan
    from orchestrator.store.keys import Keys
    from orchestrator.store.scripts.commit_and_claim import Claim, Commit
    from orchestrator.store.scripts.results import Claimed, Due

    Listed: TypeAlias = tuple[str, str, bool, list[list[str]]]

Answer = TypeVar("Answer")
MARK_KEPT_MS = 86_400_000
UNFINISHED = ("open", "child_open")  # groups of the index by status that hold runs which have not ended
LONGEST_BACK_OFF_MS = 60_000
"""Longest time between two messages for a ready node that nobody claims."""


class Scripts:
    """The operations over one Redis connection and one prefix.

    Every function may raise `redis.RedisError`; the store names what it means.
    """

    def __init__(self, client: Redis, keys: Keys, text_of: Callable[[str], str] = script_text) -> None:
        """Take a connection pool, the prefix, and where the text of a script comes from."""
        self._client: Any = client
        self.wire = Wire(client)
        self._keys = keys
        self.outside = Outside(self._on_run)
        self._starting = Starting(keys)
        self.children = Children(keys, self._call, self._starting.call)
        self.forking = Forking(keys, self._call, self._starting.call)
        self._text_of = text_of
        self._shas: dict[str, str] = {}
        self._planned_calls = PlannedCalls()

    def _sha(self, name: str) -> str:
        sha = self._shas.get(name)
        if sha is None:
            # Redis's own name for a script, and no protection: an OpenSSL in FIPS mode refuses SHA-1 for that.
            sha = self._shas[name] = hashlib.sha1(self._text_of(name).encode(), usedforsecurity=False).hexdigest()
        return sha

    def _call(self, name: str, keys: Sequence[str], args: Sequence[Any], fixed: Packed = NOTHING) -> Any:
        try:
            return self.wire.ask("EVALSHA", self._sha(name), tuple(keys), args, fixed)
        except NoScriptError:
            # With its text in the call: loaded first, it may have been flushed again before it is called.
            return self.wire.ask("EVAL", self._text_of(name), tuple(keys), args, fixed)

    def _on_run(self, name: str, run_id: str, plan: str, *args: Any) -> Any:
        return self._call(name, self._keys.of_run(run_id, plan), [run_id, *args])

    def start(self, run_id: str, plan: Plan, **options: Any) -> Started:
        """Create a run: start.lua; options as of `Starting.call`."""
        return started_of(self._call("start", *self._starting.call(run_id, plan, **options)))

    def start_many(self, plan: Plan, starts: Mapping[str, Mapping[str, Any]]) -> list[Started | ResponseError]:
        """Create runs in one round trip, each on its own, by id with the options of `start`.

        What the server refuses of one is its error in the list.
        """
        calls = [self._starting.call(run_id, plan, **options) for run_id, options in starts.items()]
        # A script that the server lacks is each one's error here; each is started alone then, with the text.
        answers = self.wire.ask_all("EVALSHA", self._sha("start"), calls)
        return [each if isinstance(each, ResponseError) else started_of(each) for each in answers]

    def commit_and_claim(
        self,
        run_id: str,
        plan: Plan,
        commits: Sequence[Commit],
        claims: Sequence[Claim],
        *,
        epoch: int,
        holder: str = "",
        lease_ms: int = 0,
        arrived: int = 0,
        may_sleep: bool = True,
        follows: bool = False,
        message: tuple[str, str, str] = ("", "", ""),
    ) -> tuple[list[Moved], list[Claimed]]:
        """Store what attempts at one position returned and claim what is behind them, or claim: commit_and_claim.lua.

        Args:
            run_id: The run.
            plan: The plan that it pins.
            commits: What is stored; none with a claim alone.
            claims: What is claimed; none with a commit alone.
            epoch: Epoch of the message that asks for the claims.
            holder: The process that holds them.
            lease_ms: Its lease.
            arrived: First arrival of a claim that has slept, as it was answered.
            may_sleep: Whether the caller sleeps for a token that comes soon.
            follows: Whether Celery or the caller goes on with what is behind.
            message: What is pushed if one node is to be published, and it is this one: the node, the list, the text.

        Returns:
            What became of each commit, and of each claim; no claims while other members of the position are left.
        """
        call, fixed = self._planned_calls.find(plan, commits, claims, holder, lease_ms, is_child=is_child(run_id))
        message_node, queue, text = message
        reads = reads_of(claims)
        args = [run_id, epoch, len(reads), "" if may_sleep else arrived, int(follows)]
        args.append(f"{message_node} {text}" if text else "")
        args += arguments_of(plan, commits, claims, reads)
        answer = None
        # With the seven keys that a fast path needs, for each key costs the server time; no answer means that nothing
        # was done and that what is unusual of the run needs all of them.
        if call.fast_path and commits and claims:
            answer = self._call("commit_and_claim", self._keys.of_fast_path(run_id, plan.hash), args, fixed)
        if answer is None:
            keys = self._keys.of_run(run_id, plan.hash)
            answer = self._call("commit_and_claim", (*keys, queue) if text else keys, args, fixed)
        return read_answer(answer, commits, claims, reads, call)

    def claim(self, run_id: str, plan: Plan, claim: Claim, **options: Any) -> Claimed:
        """Give a node to one attempt; options as of `commit_and_claim`."""
        return self.commit_and_claim(run_id, plan, (), (claim,), **options)[1][0]

    def commit(self, run_id: str, plan: Plan, commit: Commit, **options: Any) -> Moved:
        """Store what a node returned; options as of `commit_and_claim`."""
        return self.commit_and_claim(run_id, plan, (commit,), (), epoch=1, **options)[0][0]

    def admit(
        self,
        run_id: str,
        plan: str,
        node: str,
        token: str,
        *,
        buckets: Sequence[str],
        may_sleep: bool = True,
        follows: bool = False,
    ) -> Admitted:
        """Let a claimed attempt start whose buckets depend on its input: admit.lua."""
        answer = self._on_run("admit", run_id, plan, node, token, int(may_sleep), int(follows), *buckets)
        outcome = text_of(answer[0])
        sleep = int(answer[1]) if outcome == "sleep" else 0
        return Admitted(outcome, sleep, work_of(answer[1:]))

    def take_token(self, run_id: str, plan: str, node: str, token: str, bucket: str) -> tuple[str, int]:
        """Take a token for a running attempt: take_token.lua. Returns the outcome, and with "wait" for how many us."""
        answer = self._on_run("take_token", run_id, plan, node, token, bucket)
        outcome = text_of(answer[0])
        return outcome, int(answer[1]) if outcome == "wait" else 0

    def set_cursor(self, flow: str, source: str, cursor: str) -> None:
        """Say where a source is to be read from: set_cursor.lua; the cursor is JSON."""
        self._call("set_cursor", [self._keys.cursors], [f"{flow}|{source}", cursor])

    def fail(
        self,
        run_id: str,
        plan: str,
        node: str,
        token: str,
        *,
        failure: str,
        delay_ms: int,
        follows: bool,
        max_throttle_ms: int | None = None,
    ) -> Moved:
        """Record that an attempt failed: fail.lua; `delay_ms` -1 means no further attempt."""
        most = "" if max_throttle_ms is None else max_throttle_ms
        return moved_of(self._on_run("fail", run_id, plan, node, token, failure, delay_ms, int(follows), most))

    def give_back(self, run_id: str, plan: str, node: str, token: str, *, own: str, reason: str) -> Moved:
        """Give an attempt back whose worker's code does not fit: give_back.lua; `own` is the worker's plan."""
        return moved_of(self._on_run("give_back", run_id, plan, node, token, own, reason))

    def expire_claim(
        self, run_id: str, plan: str, node: str, token: str, *, failure: str, timed_out: bool = False, delay_ms: int = 0
    ) -> Moved:
        """End a claim that nobody will finish: expire_claim.lua."""
        return moved_of(self._on_run("expire_claim", run_id, plan, node, token, failure, int(timed_out), delay_ms))

    def report(self, run_id: str, plan: str, node: str, token: str, detail: str, *, ends_in_ms: int = 0) -> Moved:
        """Store what a running attempt says of its progress, and when its claim ends if it says no more: report.lua."""
        return moved_of(self._on_run("report", run_id, plan, node, token, detail, ends_in_ms))

    def wake(self, run_id: str, plan: str, node: str) -> Moved:
        """Let a parked node be tried again: wake.lua."""
        return moved_of(self._on_run("wake", run_id, plan, node))

    def publish_position(self, run_id: str, plan: str, epoch: int, position: int | str) -> Moved:
        """Ask, once, what nobody has published of a position or of the "saga": publish_position.lua."""
        return moved_of(self._on_run("publish_position", run_id, plan, epoch, position))

    def cancel(self, run_id: str, plan: str, *, verdict: str, failure: str, only_late: bool = False) -> Moved:
        """Give a run its verdict from outside: cancel.lua."""
        return moved_of(self._on_run("cancel", run_id, plan, verdict, failure, int(only_late)))

    def pause(self, run_id: str, plan: str, *, reason: str) -> str:
        """Hold a run: pause.lua. Returns "paused", "too late" or "unknown"."""
        return text_of(self._on_run("pause", run_id, plan, reason)[0])

    def resume(self, run_id: str, plan: str, *, token: str) -> Moved:
        """Take up a paused or an ended run again: resume.lua."""
        return moved_of(self._on_run("resume", run_id, plan, token))

    def undo(self, run_id: str, plan: str, *, token: str, failure: str) -> Moved:
        """Undo a run that has succeeded: undo.lua."""
        return moved_of(self._on_run("undo", run_id, plan, token, failure))

    def go_on(self, run_id: str, plan: str) -> Moved:
        """Do the next portion of a transition that touches many records: go_on.lua."""
        return moved_of(self._on_run("go_on", run_id, plan))

    def delete_run(self, run_id: str, plan: str) -> str:
        """Forget an ended run: delete_run.lua. Returns "deleted", "not ended", "kept" or "unknown"."""
        return text_of(self._on_run("delete_run", run_id, plan)[0])

    def keep_log(self, run_id: str, lines: str) -> bool:
        """Keep log lines with a run: keep_log.lua. Returns whether there is such a run."""
        keys = [self._keys.run(run_id), self._keys.failures(run_id)]
        return bool(self._call("keep_log", keys, [lines, LINES, BYTES]))

    def inspect_run(self, run_id: str, plan: str, joined_ms: int = 0) -> Look:
        """Find what stands still in a run, and mend what its indexes have lost: inspect_run.lua."""
        return look_of(self._on_run("inspect_run", run_id, plan, joined_ms, 0, ""))

    def look_further(self, run_id: str, plan: str, look: Look, joined_ms: int = 0) -> Look | None:
        """Look at open nodes behind those of an earlier look; None where it saw the last ones."""
        if (more := look.more) is None:
            return None
        return look_of(self._on_run("inspect_run", run_id, plan, joined_ms, more.node, more.detail))

    def due_looks(self, *, count: int, joined_ms: int = 0) -> tuple[bool, list[Due]]:
        """Look at runs that are due: due_looks.lua. Returns whether there may be more, and those that need more.

        Args:
            count: How many at most, oldest first.
            joined_ms: The instant at which a worker came last.
        """
        own = self._keys
        keys = [own.live, own.runs, own.plans, own.timers, own.limits, own.wait_queues, own.index]
        is_full, *rows = self._call("due_looks", keys, [count, joined_ms])
        return text_of(is_full) == "1", [due_of(*row) for row in rows]

    def inspect_runs(self, runs: Sequence[tuple[str, str, int]]) -> list[Look | RedisError]:
        """Look at many runs in one round trip; an error is that run's alone.

        Args:
            runs: Of each the id, the hash of its plan, and the instant at which a worker with its flow came last.
        """
        asked = [(run_id, plan, joined_ms, 0, "") for run_id, plan, joined_ms in runs]
        return self._on_runs("inspect_run", asked, look_of)

    def wake_many(self, nodes: Sequence[tuple[str, str, str]]) -> list[Moved | RedisError]:
        """Wake nodes in one round trip, in their order: of each its run, the hash of the run's plan, and its name."""
        return self._on_runs("wake", nodes, moved_of)

    def _on_runs(
        self, name: str, calls: Sequence[Sequence[Any]], read: Callable[[Any], Answer]
    ) -> list[Answer | RedisError]:
        """Call a script for many runs in one round trip, each with its id, the hash of its plan, and arguments."""
        asked = [(self._keys.of_run(run_id, plan), (run_id, *args)) for run_id, plan, *args in calls]
        answers = ask_many(self._client, self._sha(name), asked, partial(self._call, name))
        return [answer if isinstance(answer, RedisError) else read(answer) for answer in answers]

    def restore_plan(self, plan: Plan) -> bool:
        """Put back a plan that the store has lost: restore_plan.lua. Returns whether it was gone."""
        keys = [self._keys.plan(plan.hash), self._keys.flows]
        return bool(self._call("restore_plan", keys, [plan.flow, plan.hash, json.dumps(plan.fields())]))

    def abandon(
        self, run_id: str, plan: str, nodes: Sequence[str], *, verdict: str, failure: str, is_last: bool
    ) -> str:
        """End nodes of a run that cannot get on, with the last call the run: abandon.lua. Returns the outcome."""
        return text_of(self._on_run("abandon", run_id, plan, verdict, failure, int(is_last), *nodes)[0])

    def note_open_items(self, run_id: str, plan: str, items: Sequence[str]) -> None:
        """Note again which items of a map are open: note_open_items.lua."""
        self._on_run("note_open_items", run_id, plan, *items)

    def drop_claim(self, holder: str, run_id: str, node: str, token: str) -> bool:
        """Take a claim that its run knows nothing of out of the record of its process: drop_claim.lua."""
        return bool(
            self._call("drop_claim", [self._keys.holder(holder), self._keys.limits], [f"{run_id}|{node}", token])
        )

    def pop_message(self, queue: str, task: str) -> bytes | None:
        """Take the oldest message out of a queue, if it is a plain one for a task: pop_message.lua."""
        text: bytes | None = self._call("pop_message", [queue], [task])
        return text

    def republish(
        self,
        run_id: str,
        plan: str,
        epoch: int,
        nodes: Sequence[str],
        *,
        most_ms: int = LONGEST_BACK_OFF_MS,
        joined_ms: int = 0,
    ) -> Moved:
        """Publish ready nodes once more, and not again within a back-off of at most `most_ms`: republish.lua."""
        return moved_of(self._on_run("republish", run_id, plan, epoch, most_ms, joined_ms, *nodes))

    def republish_runs(self, runs: Sequence[Sequence[Any]]) -> list[Moved | RedisError]:
        """Publish nodes of many runs once more, each with what republish.lua takes; an error is that run's alone."""
        return self._on_runs("republish", runs, moved_of)

    def release(self, bucket: str) -> tuple[int, list[str]]:
        """Let go the head of a bucket's line: release.lua. Returns ms to the next look, or -1, and the members."""
        answer = self._call("release", [self._keys.limits, self._keys.wait_queues, self._keys.live], [bucket])
        return int(answer[0]), [text_of(member) for member in answer[1:]]

    def due_timers(self, *, at_most_ms: int, count: int) -> tuple[int, list[str], list[str]]:
        """Find what is due: due_timers.lua. Returns ms to the next due instant, timers, and buckets with a line."""
        wait, timers, *members = self._call(
            "due_timers", [self._keys.timers, self._keys.wait_queues], [at_most_ms, count]
        )
        names = [text_of(member) for member in members]
        return int(wait), names[: int(timers)], names[int(timers) :]

    def renew(self, holders: Sequence[str], *, lease_ms: int) -> None:
        """Renew leases: renew.lua."""
        keys = [self._keys.holders, *map(self._keys.holder, holders)]
        self._call("renew", keys, [lease_ms, *holders])

    def forget_holder(self, holder: str, *, only_late: bool) -> bool:
        """Forget a process without open claims: forget_holder.lua."""
        keys = [self._keys.holders, self._keys.holder(holder)]
        return bool(self._call("forget_holder", keys, [holder, int(only_late)]))

    def sweep_tick(self, *, lease_ms: int, worker: str = "none", number: int = 1) -> Tick:
        """Note a sweep, of so many by this worker: sweep_tick.lua."""
        keys = self._keys
        unfinished = [keys.by_status(status) for status in UNFINISHED]
        named = [keys.sweep, keys.live, keys.sweep_mark(worker), keys.events, keys.expiring, keys.expiring_tags]
        now, *flags, event, before, mark = self._call(
            "sweep_tick", [*named, *unfinished], [lease_ms, number, MARK_KEPT_MS]
        )
        may_end, went_back, has_lost_index, has_looks, has_old = (text_of(flag) == "1" for flag in flags)
        marks = SweepMark.of(before), SweepMark.of(mark)
        return Tick(int(now), may_end, went_back, has_lost_index, *marks, has_looks, has_old, text_of(event))

    def lead(self, worker: str, *, lock_ms: int) -> bool:
        """Take or keep the lead for a while; False if another worker has it: lead.lua."""
        return bool(self._call("lead", [self._keys.leader], [worker, lock_ms]))

    def due_holders(
        self, *, first: int, count: int, margin_ms: int, inline_margin_ms: int, inline: str
    ) -> tuple[int, list[tuple[str, bool]]]:
        """Name processes that have lost their lease, or hold a claim for too long: due_holders.lua.

        Returns how many it looked at, and those, each with whether its lease has ended.
        """
        args = [first, count, margin_ms, inline_margin_ms, inline]
        looked, *found = self._call("due_holders", [self._keys.holders], args)
        texts = [part.decode(errors="replace") for part in found]
        return int(looked), [(holder, is_over == "1") for holder, is_over in zip(texts[::2], texts[1::2], strict=True)]

    def open_claims(self, holders: Sequence[str]) -> list[dict[bytes, bytes]]:
        """Read the open claims of processes, as their records are: open_claims.lua."""
        found = self._call("open_claims", [self._keys.holders], holders)
        return [dict(zip(flat[::2], flat[1::2], strict=True)) for flat in found]

    def announce_worker(self, worker: str, state: str, *, lease_ms: int) -> None:
        """Store what a worker announces of itself, as JSON: announce_worker.lua."""
        self._call("announce_worker", [self._keys.workers, self._keys.worker(worker)], [worker, state, lease_ms])

    def announce_flow(self, plan: Plan, *, retention_ms: int) -> None:
        """Announce a flow: announce_flow.lua."""
        keys = [self._keys.plan(plan.hash), self._keys.flows, self._keys.limits, self._keys.set_limits]
        self._call(
            "announce_flow",
            keys,
            [plan.flow, plan.hash, json.dumps(plan.fields()), json.dumps(plan.limit_texts), retention_ms],
        )

    def list_runs(self, groups: Sequence[Sequence[str]], *, fields: Sequence[str], **options: Any) -> Listed:
        """Walk runs, newest first: list_runs.lua. Returns the last candidate's instant and id, and whether it is over.

        Behind them the runs: each its id and the fields.
        """
        return _listed(self._call("list_runs", *self._listing(groups, fields=fields, **options)), fields)

    def list_runs_of(
        self, flows: Mapping[str, Sequence[Sequence[str]]], *, fields: Sequence[str], **options: Any
    ) -> list[Listed]:
        """Walk the runs of flows as `list_runs` does, in one round trip; each flow has groups of its own.

        Raises:
            redis.RedisError: The server refused one of them, or did not answer.
        """
        asked = [self._listing(groups, flow=flow, fields=fields, **options) for flow, groups in flows.items()]
        answers = ask_many(self._client, self._sha("list_runs"), asked, partial(self._call, "list_runs"))
        refused = [each for each in answers if isinstance(each, RedisError)]
        if refused:
            raise refused[0]
        return [_listed(each, fields) for each in answers]

    def _listing(
        self,
        groups: Sequence[Sequence[str]],
        *,
        candidates: int,
        wanted: int,
        newest: str,
        oldest: str,
        before: str,
        fields: Sequence[str],
        statuses: Sequence[str] = (),
        flow: str = "",
        parent: str = "",
        tags: Mapping[str, str] | None = None,
        text: str = "",
    ) -> tuple[list[str], list[Any]]:
        """Return the keys and arguments of list_runs.lua."""
        keys = [self._keys.runs, *(key for group in groups for key in group)]
        args: list[Any] = [candidates, wanted, newest, oldest, before, f" {' '.join(statuses)} " if statuses else ""]
        args += [flow, parent, json.dumps(tags) if tags else "", text]
        args += [json.dumps([len(group) for group in groups]), json.dumps(fields)]
        return keys, args

    def mend_indexes(self, *, at_most: int) -> int:
        """Put runs that an older version has moved where they belong: mend_indexes.lua. Returns how many it saw."""
        own = self._keys
        return int(self._call("mend_indexes", [own.index, own.live, own.flows, own.runs, own.sweep], [at_most]))

    def set_limit(self, limit: str, numbers: str) -> bool:
        """Set a limit's numbers, or with "" those of the code: set_limit.lua. Returns whether there is such a limit."""
        return bool(self._call("set_limit", [self._keys.limits, self._keys.set_limits], [limit, numbers]))

    def freeze_limit(self, bucket: str, until_us: int) -> bool:
        """Let a bucket grant nothing for a while: freeze_limit.lua. Returns whether it is frozen."""
        return bool(self._call("freeze_limit", [self._keys.limits], [bucket, until_us]))


def _listed(answer: Sequence[Any], fields: Sequence[str]) -> Listed:
    at, last, is_over, *values = map(text_of, answer)
    width = 1 + len(fields)
    return at, last, is_over == "1", [values[each : each + width] for each in range(0, len(values), width)]
