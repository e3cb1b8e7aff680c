"""Arguments of start.lua: what differs from start to start, behind what a plan and the settings say."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from orchestrator.definition.max_runs import lane_of_schedule
from orchestrator.store.keys import tag_indexes
from orchestrator.store.scripts.assembly import argument_names, in_order
from orchestrator.store.scripts.connection import Packed

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from orchestrator.definition.plan import Plan
    from orchestrator.store.keys import Keys

KEY_SHOWN = 200
"""Characters of an idempotency key that are kept to be shown."""


class Starting:
    """Makes calls of start.lua under one prefix."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._fixed: dict[tuple[str, int, int, bool, int], Packed] = {}

    def call(
        self,
        run_id: str,
        plan: Plan,
        *,
        send_plan: bool,
        input_json: bytes,
        tags: Mapping[str, str],
        retention_ms: int,
        history_limit: int,
        chords: bool,
        idempotency_key: str | None,
        scheduled_ms: int | None = None,
        schedule: str = "",
        overlap: str = "allow",
        message: tuple[str, str] = ("", ""),
        indexed_tags: Collection[str] = (),
        begins: str = "",
        traceparent: str = "",
        epoch: int = 1,
        enters: bool = True,
    ) -> tuple[tuple[str, ...], list[Any], Packed]:
        """Keys and arguments of start.lua; `message` is a list and what is pushed to it.

        Without `enters` another script enters the run, and takes a place in its lane.
        """
        keys = list(self._keys.of_start(run_id, plan.hash))
        given: dict[str, Any] = {"run_id": run_id, "input": input_json, "tags": json.dumps(tags), "begins": begins}
        given |= {"plan_fields": json.dumps(plan.fields()) if send_plan else "", "traceparent": traceparent}
        if idempotency_key is not None:
            keys.append(self._keys.idempotency(plan.flow, idempotency_key))
            # To be shown, so that what cannot be encoded may be replaced; what tells keys apart is a hash of the whole.
            shown = idempotency_key[:KEY_SHOWN].encode("utf-8", "replace")
            digest = hashlib.sha256(input_json).hexdigest()
            given |= {"idempotency_key": len(keys), "digest": digest, "key": shown}
        if scheduled_ms is not None:
            given["scheduled"] = scheduled_ms
        if schedule:
            keys.append(self._keys.slots)
            given |= {"schedules_key": len(keys), "schedule": schedule, "overlap": overlap}
        if enters:
            given["lane"] = lane_of_schedule(schedule) if overlap == "queue" else plan.lane(input_json)
        if indexed := tag_indexes(tags, indexed_tags):
            given["indexes"] = " ".join(indexed)
        if message[1]:
            keys.append(message[0])
            given |= {"queue_key": len(keys), "message": message[1]}
        fixed = self._fixed_of(plan, retention_ms, history_limit, chords=chords, epoch=epoch)
        args = [*in_order(argument_names("start")[fixed.count :], given), *(plan.begun_with if enters else ())]
        return tuple(keys), args, fixed

    def _fixed_of(self, plan: Plan, retention_ms: int, history_limit: int, *, chords: bool, epoch: int) -> Packed:
        kind = (plan.hash, retention_ms, history_limit, chords, epoch)
        if kind not in self._fixed:
            first = plan.steps[0]
            given = {
                "flow": plan.flow,
                "plan_hash": plan.hash,
                "retention": retention_ms,
                "history_limit": history_limit,
                "chords": int(chords),
                "timeout": plan.timeout_ms,
                "limits": json.dumps(plan.limit_texts),
                "is_parallel": int(not first.rules.is_single),
                "is_local": int(first.local or bool(first.gates) or first.waits),
                "undoes": int(bool(plan.sagas)),
                "epoch": epoch,
            }
            self._fixed[kind] = Packed(in_order(argument_names("start")[: len(given)], given))
        return self._fixed[kind]
