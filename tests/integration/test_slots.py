"""SharedConcurrency on real workers: never more at work than slots, in all flows and processes."""

from __future__ import annotations

import pytest

from tests.harness import load_program, wait_until, workers


@pytest.fixture(scope="module")
def slotted(server, tmp_path_factory):
    program = load_program("slotted", server.url)
    options = ["-c", "6", "-Q", "slotted"]
    with workers("tests.programs.slotted", server.url, tmp_path_factory.mktemp("slotted"), options=options):
        yield program


def most_at_work(ledger):
    at_work = most = 0
    for kind, _, _, _ in sorted(ledger.lines(), key=lambda line: line[2]):
        at_work += {"start": 1, "end": -1}.get(kind, 0)
        most = max(most, at_work)
    return most


def held(slotted):
    store = slotted.orchestrator._engine.store
    return store.client.zcard(store.keys.held("@slotted-database"))


def test_never_more_at_work_than_slots(slotted, ledger):
    runs = [slotted.orchestrator.start("slotted-map", 8), slotted.orchestrator.start("slotted-map", 4)]
    runs += [slotted.orchestrator.start("slotted-single") for _ in range(4)]
    assert [run.wait(timeout=60) for run in runs] == ["succeeded"] * 6
    assert len(ledger.times("start", "work")) == 16
    assert most_at_work(ledger) == 2
    assert held(slotted) == 0


def test_a_dead_process_leaves_its_slot(slotted, ledger):
    runs = [slotted.orchestrator.start("slotted-dying"), slotted.orchestrator.start("slotted-map", 6)]
    assert [run.wait(timeout=60) for run in runs] == ["succeeded"] * 2
    assert ledger.names("die") == ["once"], "it died while it held a slot"
    assert most_at_work(ledger) <= 2
    assert held(slotted) == 0


def test_who_waits_for_a_slot_holds_no_worker_and_is_explained(slotted, ledger):
    blocking = [slotted.orchestrator.start("slotted-block") for _ in range(2)]
    wait_until(lambda: len(ledger.names("block")) == 2, "both slots are held")
    waiting = [slotted.orchestrator.start("slotted-single") for _ in range(8)]

    def reasons():
        return sorted(each.reason for run in waiting for each in run.explain() if each.state == "parked")

    expected = [f"is number {place} in the wait queue of concurrency slotted-database" for place in range(1, 9)]
    wait_until(lambda: reasons() == expected, "all stand in line, more than there are workers")
    ledger.client.set("go-on", 1)
    assert [run.wait(timeout=60) for run in (*blocking, *waiting)] == ["succeeded"] * 10
