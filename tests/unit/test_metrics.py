"""Collector of metrics: a snapshot that cannot be taken is said and not its end; every running node is counted."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from orchestrator.contrib import prometheus
from orchestrator.errors import StoreUnavailable


def value_of(collector: prometheus.Collector, name: str) -> float:
    (family,) = [each for each in collector.collect() if each.name == name]
    value: float = family.samples[0].value
    return value


@pytest.mark.parametrize("error", [StoreUnavailable("Redis is away"), KeyError("a number that is none"), OSError()])
def test_any_error_of_a_snapshot_means_down_until_the_next_one(error, monkeypatch, caplog):
    orchestrator: Any = None
    collector = prometheus.Collector(orchestrator)

    def fail(_: object) -> prometheus.Samples:
        raise error

    monkeypatch.setattr(prometheus, "take", lambda _: {"orchestrator_timers": {(): 7.0}})
    collector.refresh()
    assert value_of(collector, "orchestrator_up") == 1
    monkeypatch.setattr(prometheus, "take", fail)
    with caplog.at_level(logging.WARNING):
        collector.refresh()
        collector.refresh()
    assert value_of(collector, "orchestrator_up") == 0
    assert value_of(collector, "orchestrator_timers") == 7
    assert len(caplog.records) == 1
    monkeypatch.setattr(prometheus, "take", lambda _: {})
    collector.refresh()
    assert value_of(collector, "orchestrator_up") == 1


def test_a_value_of_a_tag_cannot_break_out_of_its_label(monkeypatch):
    orchestrator: Any = None
    value = 'a"} 1\norchestrator_up 0\r\n# HELP \\" \x1b{'
    collector = prometheus.Collector(orchestrator)
    samples = {"orchestrator_tagged_run_ends": {("f", "failed", "tenant", value): 7.0}}
    monkeypatch.setattr(prometheus, "take", lambda _: samples)
    collector.refresh()
    registry = CollectorRegistry()
    registry.register(collector)
    families = text_string_to_metric_families(generate_latest(registry).decode())
    found = {each.name: [(sample.labels, sample.value) for sample in each.samples] for each in families}
    assert found.keys() == set(prometheus.METRICS)
    labels = {"flow": "f", "status": "failed", "tag": "tenant", "value": value}
    assert found["orchestrator_tagged_run_ends"] == [(labels, 7.0)]
    assert found["orchestrator_up"] == [({}, 1.0)]


def test_every_running_node_counts_for_its_queue(monkeypatch):
    nodes = {"map": SimpleNamespace(queue="big"), "one": SimpleNamespace(queue="small")}
    claims = [SimpleNamespace(run_id=f"r{at}", node="one" if at < 5 else f"map[{at}]") for at in range(25)]
    store = SimpleNamespace(
        claims=lambda *holders: claims if "w1" in holders else [],
        pins=lambda ids: [("", 0) if id == "r7" else ("plan", 1) for id in ids],
        plans=lambda hashes: {each: SimpleNamespace(nodes=nodes) for each in hashes},
    )
    engine: Any = SimpleNamespace(store=store)
    monkeypatch.setattr(prometheus, "AT_ONCE", 10)
    assert prometheus._running_by_queue(engine, ["w1", "w2"]) == {"small": 5, "big": 19}
