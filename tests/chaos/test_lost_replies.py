"""The reply to a script is lost after the script has written: the run ends as if nothing had happened.

One world for all: its workers and its client reach the server through a proxy that loses what a test says.
"""

from __future__ import annotations

import hashlib
import os
import signal
import uuid
from collections import Counter
from importlib.resources import files

import pytest
from celery.signals import before_task_publish

from orchestrator import StoreError
from orchestrator.store.keys import Keys
from orchestrator.store.scripts.assembly import script_text
from tests.chaos.world import check_keys, check_run
from tests.harness import wait_until

CHAIN = dict.fromkeys([f"link-{n}" for n in range(5)], 1)
FAN = dict.fromkeys([f"member-{n}" for n in range(8)], 1) | {"join": 1}
NAPS = {"before": 1, "nap": 1, "afterwards": 1}
TRIES = 3
"""So often the engine's client makes a call; when the reply is lost each time, the engine is told of it."""


def script_of(scenario):
    """The script whose replies a scenario loses: the first word of its name."""
    return scenario.partition(" ")[0]


@pytest.fixture
def world(network_world):
    with network_world.lent(work_s=0.02, nap_s=1.5) as lent:
        for name in SCENARIOS:  # so that every call goes by its hash, which is what the proxy looks for
            lent.client.script_load(script_text(script_of(name)))
        yield lent


@pytest.fixture
def lose(world):
    """Lose the first replies to a script, from now on."""

    def lose(name, count):
        sha = hashlib.sha1(script_text(script_of(name)).encode()).hexdigest()
        return world.proxy.lose_reply(sha.encode(), range(1, count + 1))

    yield lose
    world.proxy.lose_nothing()


def surely(call):
    """Call as a careful client does: again until Redis answers."""

    def attempt():
        try:
            return [call()]
        except StoreError:
            return None

    return wait_until(attempt, "Redis answers", timeout=60)[0]


def start(world, name):
    key = uuid.uuid4().hex
    return surely(lambda: world.through.start(name, idempotency_key=key))


def in_its_nap(world):
    """A run whose second node works, and the process that it works in."""
    run = start(world, "naps")
    name = f"{run.id}/nap/1"
    world.ledger.wait_for("start", name)
    (pid,) = [pid for event, other, _, pid in world.ledger.lines() if (event, other) == ("start", name)]
    return run, pid


def runs_a_chain(world):
    return start(world, "chain"), CHAIN


def is_sent_by_nobody(world):
    def listen(**_):
        """Somebody who hears of sending: the start script leaves it to the client, who is not told of its run."""

    before_task_publish.connect(listen)
    try:
        return runs_a_chain(world)
    finally:
        before_task_publish.disconnect(listen)


def runs_a_fan(world):
    return start(world, "fan"), FAN


def waits_behind_others(world):
    *others, last = [start(world, "short") for _ in range(12)]
    assert {run.wait(timeout=60) for run in others} == {"succeeded"}
    return last, {"first": 1, "last": 1}


def runs_a_fused_chain(world):
    return start(world, "fused"), CHAIN


def runs_a_fused_chain_with_a_limit(world):
    return start(world, "joined"), {"first": 1, "call": 1, "last": 1}


def works_on_a_batch(world):
    return start(world, "batch"), {f"each-{number}": 1 for number in range(5)}


def takes_a_nap(world):
    return in_its_nap(world)[0], NAPS


def is_looked_at(world):
    run, _ = in_its_nap(world)
    world.client.zadd(Keys("orchestrator").live, {run.id: 1})  # due now: the next sweep finds it at work
    return run, NAPS


def is_killed(world):
    run, pid = in_its_nap(world)
    os.kill(pid, signal.SIGKILL)
    return run, NAPS | {"nap": 2}


def stumbles(world):
    return start(world, "shaky"), {"shaky": 2, "afterwards": 1}


def tells_how_far_it_is(world):
    return start(world, "telling"), {"tells": 1}


def waits_in_line(world):
    return start(world, "limited"), dict.fromkeys([f"call-{n}" for n in range(6)], 1)


def is_cancelled(world):
    run, _ = in_its_nap(world)
    surely(lambda: run.cancel("enough"))
    return run, {"before": 1, "nap": 1}


def is_mended(world):
    world.ledger.client.delete("mended")
    run = start(world, "mendable")
    assert run.wait(timeout=30) == "failed"
    world.ledger.client.set("mended", 1)
    run.resume()
    return run, {"kept": 1, "helped": 2, "afterwards": 1}


def is_announced_again(world):
    world.client.hdel(Keys("orchestrator").flows, "chain")
    wait_until(lambda: "chain" in world.client.hkeys(Keys("orchestrator").flows), "the flow is announced")
    return runs_a_chain(world)


def asks_by_key(world):
    return start(world, "keyed"), dict.fromkeys([f"call-{n}" for n in range(4)], 1)


def asks_in_a_loop(world):
    return start(world, "looping"), {"loops": 1, "call": 1}


def reads_pages(world):
    world.through.reset_cursor("paged", "origin")
    return start(world, "paged"), {"page-0": 1, "page-1": 1, "page-2": 1}


def begins_elsewhere(world):
    surely(lambda: world.through.reset_cursor("paged", "origin", "1") or True)
    return start(world, "paged"), {"page-1": 1, "page-2": 1}


SCENARIOS = {
    "start": runs_a_chain,
    "commit_and_claim of a chain": runs_a_chain,
    "commit_and_claim of a fan-out": runs_a_fan,
    "commit_and_claim with a limit": runs_a_fused_chain_with_a_limit,
    "commit_and_claim of a fused chain": runs_a_fused_chain,
    "commit_and_claim of a batch": works_on_a_batch,
    "commit_and_claim of pages": reads_pages,
    "pop_message": waits_behind_others,
    "fail": stumbles,
    "expire_claim": is_killed,
    "report": tells_how_far_it_is,
    "wake": stumbles,
    "release": waits_in_line,
    "publish_position": runs_a_fan,
    "cancel": is_cancelled,
    "resume": is_mended,
    "republish": is_sent_by_nobody,
    "announce_flow": is_announced_again,
    "renew": takes_a_nap,
    "forget_holder": is_killed,
    "sweep_tick": takes_a_nap,
    "lead": takes_a_nap,
    "due_holders": takes_a_nap,
    "mend_indexes": takes_a_nap,
    "open_claims": takes_a_nap,
    "announce_worker": is_announced_again,
    "due_timers": stumbles,
    "inspect_run": is_looked_at,
    "due_looks": takes_a_nap,
    "admit": asks_by_key,
    "take_token": asks_in_a_loop,
    "set_cursor": begins_elsewhere,
}

REPEATED_ELSEWHERE = {
    *("abandon", "drop_claim", "note_open_items", "restore_plan"),  # test_lost_keys.py
    *("give_back", "go_on", "keep_log"),  # test_scripts_late.py, test_scripts_portions.py, test_node_logs.py
    *("complete", "defer", "open_callback"),  # test_scripts_waiting.py, test_scripts_callbacks.py
    *("spawn", "end_child"),  # test_scripts_children.py, test_scripts_child_ends.py
    *("fork", "take_over", "take_parts"),  # test_scripts_fork.py
    *("pause", "undo"),  # test_scripts_pause.py, test_scripts_resume.py
    *("delete_run", "list_runs", "freeze_limit", "set_limit"),  # an operator's; no run depends on them
}


def check(world, name, count, lose):
    """Run the scenario of a script while replies to it are lost."""
    rule = lose(name, count)
    if name == "republish":  # the client takes the run for one that somebody else has published
        lose("start", 1)
    run, expected = SCENARIOS[name](world)
    status = "cancelled" if name == "cancel" else "succeeded"
    assert run.wait(timeout=60) == status
    wait_until(lambda: rule.lost >= min(count, TRIES), f"replies to {name} are lost")
    world.proxy.lose_nothing()
    calls = [line.split("/") for line in world.ledger.names("start")]
    assert Counter(node for run_id, node, _ in calls if run_id == run.id) == expected
    check_run(run, status)
    undone = [line for line in world.ledger.names("undo") if line.startswith(run.id)]
    assert len(undone) == (name == "cancel")
    assert world.client.zcard("orchestrator:live") == 0
    check_keys(world.client)
    assert world.deaths == 0


def test_every_script_is_tried():
    scripts = {
        path.name.removesuffix(".lua")
        for path in files("orchestrator.store.scripts").iterdir()
        if path.name.endswith(".lua")
    }
    assert scripts == {*map(script_of, SCENARIOS), *REPEATED_ELSEWHERE}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_lost_reply_has_no_second_effect(name, world, lose):
    check(world, name, 1, lose)


@pytest.mark.chaos_long
@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", [name for name in SCENARIOS if name != "resume"])
def test_lost_replies_in_a_row_have_no_second_effect(name, world, lose):
    check(world, name, TRIES + 1, lose)
