"""Limits by key on real workers: one key's line holds up nobody else, and a key function's fault ends the node."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tests.harness import load_program, wait_until, workers

KEYS = ["red", "blue", "green"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("keyed")


@pytest.fixture(scope="module")
def keyed(server, folder):
    program = load_program("keyed", server.url)
    options = ["-c", "4", "-Q", "keyed"]
    with workers("tests.programs.keyed", server.url, folder, options=options):
        yield program


def test_each_key_of_a_map_is_limited_on_its_own(keyed, ledger):
    items = [f"{key} {number}" for key in KEYS for number in range(8)]
    first, *others = KEYS
    keyed.orchestrator.freeze_limit("keyed-tenants", datetime.now(UTC) + timedelta(hours=1), key=first)
    run = keyed.orchestrator.start("keyed-items", items)

    def starts(key):
        return sorted(ledger.times("start", f"{run.id} {key}"))

    wait_until(lambda: all(len(starts(key)) == 8 for key in others), "no key waits for another one's end")
    assert starts(first) == []
    keyed.orchestrator.reset_limit("keyed-tenants", key=first)
    assert run.result(list[str], timeout=60) == items
    for key in KEYS:
        assert len(starts(key)) == 8
        assert starts(key)[-1] - starts(key)[0] >= 7 / 5 * 0.9, "five in a second, evenly"


def test_fifty_keys_at_once_take_no_longer_than_one(keyed, ledger):
    items = [f"key{number % 50} {number}" for number in range(200)]
    run = keyed.orchestrator.start("keyed-items", items)
    assert run.result(list[str], timeout=60) == items
    at = [sorted(ledger.times("start", f"{run.id} key{number}")) for number in range(50)]
    assert [len(starts) for starts in at] == [4] * 50
    assert min(starts[-1] - starts[0] for starts in at) >= 3 / 5 * 0.7, "starts are seen by the functions, a bit late"
    whole = max(starts[-1] for starts in at) - min(starts[0] for starts in at)
    assert whole < 50 * 3 / 5 / 3, "the keys do not wait for each other"
    store = keyed.orchestrator._engine.store
    assert not [name for name in store.client.hkeys(store.keys.limits) if b"#" in name]


def test_who_waits_for_its_key_is_explained(keyed, ledger):
    first = keyed.orchestrator.start("keyed-state", "same")
    assert first.result(int, timeout=30) == 1
    run = keyed.orchestrator.start("keyed-state", "same")
    other = keyed.orchestrator.start("keyed-state", "other")
    assert other.result(int, timeout=30) == 1
    (waiting,) = wait_until(lambda: [w for w in run.explain() if w.state == "parked"], "it stands in line")
    assert waiting.reason == "is number 1 in the wait queue of limiter keyed-state.plain for its key"
    assert waiting.until is not None
    run.cancel()
    assert run.wait(timeout=30) == "cancelled"


def test_a_run_that_is_cancelled_while_a_node_asks_for_its_key_is_undone(keyed, ledger, folder):
    run = keyed.orchestrator.start("keyed-cancels")
    assert run.wait(timeout=30) == "cancelled"
    assert ledger.names("undo") == ["before"]
    assert ledger.names("start") == [], "the node was not started"
    logs = [path.read_text() for path in folder.glob("*.log")]
    assert not any(
        "Task keyed-cancels.asked[" in line and "raised" in line for log in logs for line in log.splitlines()
    )


def test_a_refusal_holds_for_its_key_alone(keyed, ledger):
    red = [keyed.orchestrator.start("keyed-refused", "red 1")]
    ledger.wait_for("refused", "red")
    wait_until(lambda: any(event.event == "throttled" for event in red[0].history()), "the refusal is stored")
    red += [keyed.orchestrator.start("keyed-refused", "red 2")]
    blue = keyed.orchestrator.start("keyed-refused", "blue 1")
    assert [run.wait(timeout=30) for run in (blue, *red)] == ["succeeded"] * 3
    (refused,) = ledger.times("refused", "red")
    accepted = sorted(ledger.times("accepted", "red"))
    assert accepted[0] - refused >= 1
    assert ledger.times("accepted", "blue")[0] < accepted[0]


def test_a_key_function_gets_several_parameters_by_name(keyed):
    assert keyed.orchestrator.start("keyed-fields").result(str, timeout=30) == "a0"


@pytest.mark.parametrize(
    ("flow", "kind", "words"),
    [
        ("keyed-raises", "builtins.ZeroDivisionError", "division by zero"),
        (
            "keyed-number",
            "orchestrator.errors.InvalidInput",
            "the key function of limit keyed-number.never returned int",
        ),
        ("keyed-long", "orchestrator.errors.InvalidInput", "returned 1001 characters; return at most 1000"),
    ],
)
def test_a_key_function_that_gives_no_key_ends_the_node(keyed, ledger, flow, kind, words):
    run = keyed.orchestrator.start(flow)
    assert run.wait(timeout=30) == "failed"
    assert run.error.type == kind
    assert words in run.error.message
    assert run.error.attempt == 1
    assert ledger.lines() == []


def test_calls_in_a_loop_share_the_limiter_of_the_flow(keyed, ledger):
    run = keyed.orchestrator.start("keyed-calling", 8)
    assert run.wait(timeout=60) == "succeeded"
    calls = sorted(ledger.times("call", "api"))
    assert len(calls) == 16
    assert calls[-1] - calls[0] >= 15 / 10 * 0.9, "ten in a second, evenly, over both nodes"


def test_a_limiter_that_is_unknown_or_needs_a_key_is_a_clear_error(keyed):
    run = keyed.orchestrator.start("keyed-asking")
    unknown, too_much, missing = run.result(list[str], timeout=30)
    assert unknown.startswith("limit('nothing'): flow keyed-asking has no limiter of this name; it has keyed-calls, ")
    assert too_much == "limit('keyed-calls'): the limiter has no key function; leave the key out"
    assert missing.endswith("the limiter has a bucket for each key, and this node has none; give it a key")


def test_waiting_for_a_token_is_within_the_time_limit(keyed, ledger):
    run = keyed.orchestrator.start("keyed-too-long")
    assert run.wait(timeout=30) == "failed"
    assert run.error.type == "orchestrator.errors.NodeTimeout"
    assert ledger.names("first") == ["slow"]
