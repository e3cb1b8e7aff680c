"""Clockwork: one flow with schedules in a namespace of its own, whose ticks a test calls itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import count

from celery import Celery

from orchestrator import FlowBuilder, Node, Orchestrator, Settings, manual
from orchestrator.engine import engine_of
from orchestrator.schedules import instants, run_id_of, slots_of, start_due

MINUTE = timedelta(minutes=1)
NUMBERS = count()


class Clockwork:
    """One flow with schedules, registered in this process alone, in a namespace of its own."""

    def __init__(self, url: str, *triggers, prefix: str | None = None) -> None:
        self.prefix = prefix or f"clockwork{next(NUMBERS)}"
        self.app = Celery("clockwork", broker=url, backend=url, set_as_current=False)
        self.orchestrator = Orchestrator(self.app, settings=Settings(prefix=self.prefix))
        flow = FlowBuilder("nightly").triggered_by(manual("test"), *triggers).then(Node("only", lambda: None))
        self.orchestrator.register(flow.on_queue("nobody").build())
        self.engine = engine_of(self.app)
        self.store = self.engine.store
        self.entry = self.engine.registry.flows["nightly"]
        self.slots = list(slots_of(self.entry))
        self.cron = slots_of(self.entry)[self.slots[0]].cron if self.slots else ""

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.store.now_ms() / 1000, UTC)

    def set_slot(self, at: datetime) -> None:
        self.store.client.hset(self.store.keys.slots, self.slots[0], round(at.timestamp() * 1000))

    def slot(self) -> datetime:
        return datetime.fromtimestamp(int(self.store.client.hget(self.store.keys.slots, self.slots[0])) / 1000, UTC)

    def tick(self) -> list[str]:
        return start_due(self.engine, self.entry, self.slots[0])

    def tick_after(self, away: timedelta, *, within: timedelta) -> tuple[list[str], list[str]]:
        """Tick after no tick for a while; returns what it started, and the runs of all instants in the last `within`.

        Both are about the same instants: where a minute passes between, it is done again.
        """
        while True:
            start = self.now()
            self.set_slot(start - away)
            started = self.tick()
            end = self.now()
            first, last = (
                list(instants(self.cron, "UTC", after=at - max(within, MINUTE), until=at)) for at in (start, end)
            )
            if first == last:
                return started, [run_id_of(self.prefix, self.slots[0], instant) for instant in first]
            for run_id in started:
                self.orchestrator.get(run_id).cancel()
            self.store.client.delete(*self.store.client.keys(f"{self.prefix}:*"))

    def started(self) -> set[str]:
        return {run.id for run in self.orchestrator.runs(flow="nightly")}
