"""The atomic operations on Redis: one Lua file each, and here one typed function for each.

A function names its arguments, sends keys and units in the order that its script binds them, and turns the small array
that comes back into a named result. What the operations mean for a run is written at the top of each script.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from typing import TYPE_CHECKING, Any

from redis.exceptions import NoScriptError

from orchestrator.definition.plan import node_of
from orchestrator.store.scripts.assembly import argument_names, in_order, script_text
from orchestrator.store.scripts.connection import NOTHING, Packed, Wire
from orchestrator.store.scripts.results import (
    Admitted,
    Answer,
    Call,
    Claimed,
    Done,
    Moved,
    PageEnd,
    Seen,
    Started,
    Values,
    Wanted,
    claimed_of,
    moved_of,
    number_of,
    onward_of,
    text_of,
    union,
    work_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from redis import Redis

    from orchestrator.definition.plan import Plan
    from orchestrator.store.keys import Keys


@cache
def _script_sha(name: str) -> str:
    return hashlib.sha1(script_text(name).encode(), usedforsecurity=False).hexdigest()


class Scripts:
    """The operations over one Redis connection and one prefix.

    Every function may raise `redis.RedisError`; the store names what it means.
    """

    def __init__(self, client: Redis, keys: Keys) -> None:
        self.wire = Wire(client)
        self._keys = keys
        self._pairs: dict[tuple[str, int, int, str], Packed] = {}  # as many as there are neighbours in plans
        self._starts: dict[tuple[str, int, int, bool], Packed] = {}

    def _call(self, name: str, keys: Sequence[str], args: Sequence[Any], fixed: Packed = NOTHING) -> Any:
        try:
            return self.wire.ask("EVALSHA", _script_sha(name), tuple(keys), args, fixed)
        except NoScriptError:
            # With its text in the call: loaded first, it may have been flushed again before it is called.
            return self.wire.ask("EVAL", script_text(name), tuple(keys), args, fixed)

    def _on_run(self, name: str, run_id: str, plan: str, *args: Any) -> Any:
        return self._call(name, self._keys.of_run(run_id, plan), [run_id, *args])

    def send(self, call: Call[Answer]) -> Answer:
        """Carry out one operation."""
        return call.read(self._call(call.script, call.keys, call.args))

    def send_all(self, calls: Sequence[Call[Moved]]) -> list[Moved]:
        """Carry out commits on one run, as one script."""
        if len(calls) == 1:
            return [self.send(calls[0])]
        args = [calls[0].args[0]]
        for call in calls:
            args += [1, len(call.args) - 1, *call.args[1:]]
        answers = self._call(f"{calls[0].script}+claim", calls[0].keys, args)
        return [call.read(answer) for call, answer in zip(calls, answers, strict=True)]

    def send_with_claims(self, first: Call[Answer], claims: Sequence[Call[Claimed]]) -> tuple[Answer, list[Claimed]]:
        """Carry out an operation and then claims on the same run, as one script."""
        run_id, *own = first.args
        args = [run_id, 1, len(own), *own]
        for claim in claims:
            args += [2, len(claim.args) - 1, *claim.args[1:]]
        answer, *answers = self._call(f"{first.script}+claim", first.keys, args)
        return first.read(answer), [claim.read(each) for claim, each in zip(claims, answers, strict=True)]

    def start(
        self,
        run_id: str,
        plan: Plan,
        *,
        send_plan: bool,
        input_json: bytes,
        digest: str,
        tags: Mapping[str, str],
        retention_ms: int,
        history_limit: int,
        chords: bool,
        idempotency_key: str | None,
        scheduled_ms: int | None = None,
        schedule: str = "",
        overlap: str = "allow",
        message: tuple[str, str] = ("", ""),
    ) -> Started:
        """Create a run: start.lua; `message` is the list to push to and what is pushed."""
        keys = list(self._keys.of_start(run_id, plan.hash))
        given: dict[str, Any] = {
            "run_id": run_id,
            "input": input_json,
            "plan_fields": json.dumps(plan.fields()) if send_plan else "",
            "tags": json.dumps(tags),
        }
        if idempotency_key is not None:
            keys.append(self._keys.idempotency(plan.flow, idempotency_key))
            given |= {"idempotency_key": len(keys), "digest": digest}
        if scheduled_ms is not None:
            given["scheduled"] = scheduled_ms
        if schedule:
            keys.append(self._keys.slots)
            given |= {"schedules_key": len(keys), "schedule": schedule, "overlap": overlap}
        queue, text = message
        if text:
            keys.append(queue)
            given |= {"queue_key": len(keys), "message": text}
        fixed = self._fixed_of_start(plan, retention_ms, history_limit, chords=chords)
        names = argument_names("start")[: -len(argument_names("start", first="flow"))]
        answer = self._call("start", keys, in_order(names, given), fixed)
        return Started(text_of(answer[0]), text_of(answer[1]), work_of(answer[2:]))

    def _fixed_of_start(self, plan: Plan, retention_ms: int, history_limit: int, *, chords: bool) -> Packed:
        kind = (plan.hash, retention_ms, history_limit, chords)
        if kind not in self._starts:
            first = plan.steps[0]
            given = {
                "flow": plan.flow,
                "plan_hash": plan.hash,
                "retention": retention_ms,
                "history_limit": history_limit,
                "chords": int(chords),
                "timeout": plan.timeout_ms,
                "limits": json.dumps(_limits(plan)),
                "is_parallel": int(first.kind == "parallel"),
                "is_local": int(first.local),
            }
            self._starts[kind] = Packed([*in_order(argument_names("start", first="flow"), given), *first.nodes])
        return self._starts[kind]

    def claim(self, run_id: str, plan: str, node: str, **options: Any) -> Claimed:
        """Give a node to one attempt; options as of `claim_call`."""
        return self.send(self.claim_call(run_id, plan, node, **options))

    def claim_call(
        self,
        run_id: str,
        plan: str,
        node: str,
        *,
        epoch: int,
        token: str,
        holder: str,
        lease_ms: int,
        arrived: int = 0,
        may_sleep: bool = True,
        reads: Sequence[str] = (),
        plain: Sequence[int] = (),
    ) -> Call[Claimed]:
        """Give a node to one attempt: claim.lua; `plain` is what `Plan.to_claim` says of it."""
        args = [run_id, node, epoch, token, holder, lease_ms, arrived, int(may_sleep), *(plain or ("", "")), *reads]
        return Call("claim", self._keys.of_run(run_id, plan), args, lambda answer: claimed_of(answer, len(reads)))

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

    def commit(self, run_id: str, plan: str, node: str, token: str, **options: Any) -> Moved:
        """Store what a node returned; options as of `commit_call`."""
        return self.send(self.commit_call(run_id, plan, node, token, **options))

    def commit_call(
        self,
        run_id: str,
        plan: str,
        node: str,
        token: str,
        *,
        output: bytes = b"",
        choice: int | None = None,
        follows: bool,
        page: PageEnd | None = None,
        message: tuple[str, str, str] = ("", "", ""),
        plain: Sequence[int | str] = (),
    ) -> Call[Moved]:
        """Store what a node returned: commit.lua; with `page` the output is the items of the last one.

        `message` is what is pushed if one node is to be published, and it is this one: the node, the list, the text;
        `plain` is what `Plan.to_commit` says of the node.
        """
        behind, queue, text = message
        page_args = ("", "") if page is None else (page.count, page.cursor)
        args = [run_id, node, token, output, "" if choice is None else choice, int(follows), *page_args, text, behind]
        args += plain
        return Call("commit", (*self._keys.of_run(run_id, plan), queue), args, moved_of)

    def commit_and_claim(
        self, run_id: str, plan: Plan, done: Sequence[Done], wanted: Sequence[Wanted], *, holder: str
    ) -> list[Values] | None:
        """Commit plain nodes of one position and, behind its last ones, claim all plain ones: commit_and_claim.lua.

        Returns the outputs that each of them asked for, if they are claimed now, else an empty list. None: nothing was
        done, it is for `send_all` or `send_with_claims`.
        """
        position = plan.nodes[done[0].node].step
        behind = [plan.nodes[each.node] for each in wanted]
        reads = [each.reads for each in wanted]
        asked = union(reads)
        pair = (plan.hash, position, behind[0].step if behind else -1, holder)
        if pair not in self._pairs:
            is_local = bool(behind) and plan.steps[behind[0].step].local
            fixed: list[str | int] = [
                plan.hash,
                holder,
                position,
                len(plan.steps[position].nodes),
                pair[2],
                int(is_local),
            ]
            named = [fact for facts in behind for fact in (facts.name, facts.timeout_ms)]
            self._pairs[pair] = Packed([*fixed, *named])
        args = [run_id, len(done), len(wanted), len(asked)]
        for each in done:
            args += (each.node, each.token, plan.nodes[each.node].key, each.output)
        args += [each.token for each in wanted]
        args += asked
        answer = self._call("commit_and_claim", self._keys.of_stretch(run_id), args, self._pairs[pair])
        return None if answer is None else onward_of(answer, reads)

    def next_item(self, run_id: str, plan: Plan, done: Done, *, follower: str, holder: str) -> Claimed | None:
        """Commit a plain item and claim the next one with the token `follower`: next_item.lua.

        None: nothing was done, it is for `send_with_claims`.
        """
        facts = plan.nodes[node_of(done.node)]
        width = plan.steps[facts.step].width
        args = [run_id, done.node, done.token, done.output, follower]
        fixed = [holder, facts.step, facts.name, facts.timeout_ms, width]
        answer = self._call("next_item", self._keys.of_run(run_id, plan.hash), [*args, *fixed])
        if answer is None:
            return None
        index, item, scheduled = answer
        return Claimed("run", 1, 0, number_of(scheduled), index=int(index), item=item)

    def commit_page(self, run_id: str, plan: str, node: str, token: str, **options: Any) -> Moved:
        """Store a page that has more after it; options as of `commit_page_call`."""
        return self.send(self.commit_page_call(run_id, plan, node, token, **options))

    def commit_page_call(
        self, run_id: str, plan: str, node: str, token: str, *, items: bytes, page: PageEnd, goes_on: bool
    ) -> Call[Moved]:
        """Store a page that has more after it: commit_page.lua."""
        args = [run_id, node, token, items, page.count, page.cursor, int(goes_on)]
        return Call("commit_page", self._keys.of_run(run_id, plan), args, moved_of)

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

    def expire_claim(
        self, run_id: str, plan: str, node: str, token: str, *, failure: str, timed_out: bool = False, delay_ms: int = 0
    ) -> Moved:
        """End a claim that nobody will finish: expire_claim.lua."""
        return moved_of(self._on_run("expire_claim", run_id, plan, node, token, failure, int(timed_out), delay_ms))

    def report(self, run_id: str, plan: str, node: str, token: str, detail: str) -> Moved:
        """Store what a running attempt says of its progress: report.lua."""
        return moved_of(self._on_run("report", run_id, plan, node, token, detail))

    def wake(self, run_id: str, plan: str, node: str) -> Moved:
        """Let a parked node be tried again: wake.lua."""
        return moved_of(self._on_run("wake", run_id, plan, node))

    def publish_position(self, run_id: str, plan: str, epoch: int, position: int | str) -> Moved:
        """Ask, once, what nobody has published of a position or of the "saga": publish_position.lua."""
        return moved_of(self._on_run("publish_position", run_id, plan, epoch, position))

    def cancel(self, run_id: str, plan: str, *, verdict: str, failure: str, only_late: bool = False) -> Moved:
        """Give a run its verdict from outside: cancel.lua."""
        return moved_of(self._on_run("cancel", run_id, plan, verdict, failure, int(only_late)))

    def resume(self, run_id: str, plan: str, *, token: str) -> Moved:
        """Take up an ended run again: resume.lua."""
        return moved_of(self._on_run("resume", run_id, plan, token))

    def inspect_run(self, run_id: str, plan: str, *, again_ms: int) -> tuple[int, list[Seen]]:
        """Find what stands still in a run: inspect_run.lua. Returns its epoch and the findings."""
        answer = self._on_run("inspect_run", run_id, plan, again_ms)
        if text_of(answer[0]) == "unknown":
            return 0, []
        epoch, *parts = [text_of(part) for part in answer[1:]]
        return int(epoch), [Seen(*parts[index : index + 3]) for index in range(0, len(parts), 3)]

    def pop_message(self, queue: str, task: str) -> bytes | None:
        """Take the oldest message out of a queue, if it is a plain one for a task: pop_message.lua."""
        text: bytes | None = self._call("pop_message", [queue], [task])
        return text

    def republish(self, run_id: str, plan: str, epoch: int, nodes: Sequence[str]) -> Moved:
        """Publish ready nodes once more, within their back-off: republish.lua."""
        return moved_of(self._on_run("republish", run_id, plan, epoch, *nodes))

    def release(self, bucket: str) -> tuple[int, list[str]]:
        """Let go the head of a bucket's line: release.lua. Returns ms to the next look, or -1, and the members."""
        answer = self._call("release", [self._keys.limits, self._keys.lines], [bucket])
        return int(answer[0]), [text_of(member) for member in answer[1:]]

    def due_timers(self, *, at_most_ms: int, count: int) -> tuple[int, list[str], list[str]]:
        """Find what is due: due_timers.lua. Returns ms to the next due instant, timers, and buckets with a line."""
        wait, timers, *members = self._call("due_timers", [self._keys.timers, self._keys.lines], [at_most_ms, count])
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

    def sweep_tick(self, *, lease_ms: int) -> tuple[int, bool, bool]:
        """Note a sweep: sweep_tick.lua. Returns now in ms, whether leases may be ended, whether time went back."""
        now, may_end, went_back = self._call("sweep_tick", [self._keys.sweep], [lease_ms])
        return int(now), text_of(may_end) == "1", text_of(went_back) == "1"

    def announce_flow(self, plan: Plan, *, retention_ms: int) -> None:
        """Announce a flow: announce_flow.lua."""
        keys = [self._keys.plan(plan.hash), self._keys.flows, self._keys.limits]
        self._call(
            "announce_flow",
            keys,
            [plan.flow, plan.hash, json.dumps(plan.fields()), json.dumps(_limits(plan)), retention_ms],
        )


def _limits(plan: Plan) -> dict[str, str]:
    return {name: numbers_text(numbers) for name, numbers in plan.limits.items()}


def numbers_text(numbers: Sequence[int]) -> str:
    """The numbers of a limit as bucket.lua reads them."""
    return " ".join(map(str, numbers))
