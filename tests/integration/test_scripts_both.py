"""Two operations in one script: what one writes the other sees, and a call that is repeated has no second effect."""

from __future__ import annotations

import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from orchestrator import SharedConcurrency
from orchestrator.definition.priority import count_of, first_epoch, priority_of
from orchestrator.store.scripts.commit_and_claim import Claim, Commit
from orchestrator.store.scripts.connection import Wire
from orchestrator.store.scripts.results import PageEnd
from tests.scripts_world import HOLDER, LEASE_MS, fan_plan, flow, line_plan, mapped_run, new_token, node, paged, plan_of

SLOTS = SharedConcurrency("one", 1)


def send(run, commits, claims=(), *, follows=True):
    options = {"epoch": run.epoch, "holder": HOLDER, "lease_ms": LEASE_MS, "follows": follows}
    return run.scripts.commit_and_claim(run.id, run.plan, commits, claims, **options)


def send_both(run, commit, claim):
    (moved,), (claimed,) = send(run, [commit], [claim])
    return moved, claimed


def a_page(name, token):
    return Commit(name, token, b"[1]", page=PageEnd(1, '"c"'), has_more=True)


def test_the_output_is_there_for_the_node_that_is_claimed_with_its_commit(world):
    run = world.run(line_plan("a", "b"))
    first, second = run.hold("a"), new_token()
    calls = Commit("a", first, b'"x"'), Claim("b", second, ("a",))
    moved, claimed = send_both(run, *calls)
    assert (moved.outcome, moved.work.kind, claimed.outcome, claimed.values) == ("stored", "", "run", (b'"x"',))
    assert world.claims() == [(run.id, "b")]
    assert (run.node("a")["state"], run.node("b")["token"]) == ("succeeded", second)
    with world.unchanged():
        moved, claimed = send_both(run, *calls)
        assert (moved.outcome, claimed.outcome, claimed.attempt) == ("stored", "run", 1)
    assert run.commit("b", second).outcome == "stored"
    assert run.status == "succeeded"


def test_a_run_with_a_priority_takes_the_fast_path_like_any_other(world, monkeypatch):
    run = world.run(line_plan("a", "b"), epoch=first_epoch(3))
    run.epoch = first_epoch(3)
    assert (run.epoch, priority_of(run.epoch), count_of(run.epoch)) == (4_000_001, 3, 1)
    first, second = run.hold("a"), new_token()
    with world.unchanged():
        assert run.claim("b", epoch=1).outcome != "run", "a message without the priority is none of this run"
    counts: list[int] = []
    call = run.scripts._call

    def counted(name, keys, *args):
        counts.append(len(keys))
        return call(name, keys, *args)

    monkeypatch.setattr(run.scripts, "_call", counted)
    moved, claimed = send_both(run, Commit("a", first, b'"x"'), Claim("b", second, ("a",)))
    monkeypatch.undo()
    assert counts == [7], "the fast path has answered, which needs no more keys"
    assert (moved.outcome, claimed.outcome, claimed.values) == ("stored", "run", (b'"x"',))
    assert run.cancel().outcome == "ending"
    assert run.fail("b", second).outcome == "failed"
    assert (run.status, run.resume().outcome) == ("cancelled", "resumed")
    assert (run.field("epoch"), priority_of(run.epoch), count_of(run.epoch)) == ("4000002", 3, 2)


def test_a_commit_that_is_fenced_off_leaves_the_next_node_alone(world):
    run = world.run(line_plan("a", "b"))
    run.hold("a")
    moved, claimed = send_both(run, Commit("a", new_token(), b"1"), Claim("b", new_token()))
    assert (moved.outcome, claimed.outcome) == ("fenced", "not ready")
    assert world.claims() == [(run.id, "a")]


def test_the_next_page_of_a_node_is_an_open_claim_of_its_holder(world):
    run = world.run(plan_of(flow().then(paged())))
    token = run.hold("sync")
    for _ in range(3):
        later = new_token()
        calls = a_page("sync", token), Claim("sync", later)
        moved, claimed = send_both(run, *calls)
        assert (moved.outcome, claimed.outcome) == ("turned", "run")
        assert world.claims() == [(run.id, "sync")]
        with world.unchanged():
            moved, claimed = send_both(run, *calls)
            assert (moved.outcome, claimed.outcome) == ("turned", "run")
        token = later
    run.close("sync", token)
    assert world.claims() == []
    assert run.status == "succeeded"


def test_the_next_item_of_a_map_is_claimed_with_the_commit_of_the_one_before(world):
    run = mapped_run(world, 3)
    token = run.hold("item")
    for index in range(2):
        later = new_token()
        name = f"item[{index}]"
        calls = Commit(name, token, b"1"), Claim("item", later)
        moved, claimed = send_both(run, *calls)
        assert (moved.outcome, claimed.outcome, claimed.index) == ("stored", "run", index + 1)
        assert world.claims() == [(run.id, f"item[{index + 1}]")]
        with world.unchanged():
            moved, claimed = send_both(run, *calls)
            assert (moved.outcome, claimed.outcome, claimed.index) == ("stored", "run", index + 1)
        token = later
    assert run.commit("item[2]", token).outcome == "stored"
    assert world.claims() == []


def test_a_slot_that_is_left_is_free_for_the_claim_that_comes_with_it(world):
    run = world.run(plan_of(flow().then(node("a", concurrency=SLOTS)).then(node("b", concurrency=SLOTS))))
    token = run.hold("a")
    moved, claimed = send_both(run, Commit("a", token, b"1"), Claim("b", new_token()))
    assert (moved.outcome, claimed.outcome) == ("stored", "run")


def test_an_answer_that_nobody_read_is_not_taken_for_the_next_one(world):
    """A time limit strikes between question and answer, in an attempt that keeps its connection."""
    run = world.run(line_plan("a", "b"))
    wire = run.scripts.wire

    class Limit(BaseException):
        pass

    def strike(*_args, **_options):
        raise Limit

    with wire.held():
        run.hold("a")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(redis.Connection, "read_response", strike)
            with pytest.raises(Limit):
                run.claim("a")
        assert run.claim("b").outcome == "not ready"


def test_a_connection_is_asked_for_only_when_something_is_asked():
    """Redis may be away when a message begins: that is for the claim to bear."""
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        wire = Wire(redis.Redis(port=taken.getsockname()[1], retry=Retry(NoBackoff(), 0)))
        with wire.held(), pytest.raises(redis.ConnectionError):
            wire.ask("EVAL", "return 1", (), [])
        with wire.held():
            pass


def test_a_forked_process_has_no_share_in_a_connection_that_is_held(world):
    run = world.run(line_plan("a", "b"))
    with run.scripts.wire.held():
        run.hold("a")
        held = run.scripts.wire._held.connection
        if (child := os.fork()) == 0:
            held.send_packed_command = lambda _: os._exit(1)
            run.scripts.wire.ask("EVAL", "return 1", (), [])
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert run.claim("b").outcome == "not ready"


def test_a_forked_process_waits_for_no_lock_that_a_thread_of_the_other_one_holds(world):
    """A worker forks its pool processes while its own threads ask Redis."""
    pool = world.store.client.connection_pool
    with ThreadPoolExecutor(1) as other:
        other.submit(pool._lock.acquire).result()
        try:
            if (child := os.fork()) == 0:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(10)
                os._exit(0 if world.store.now_ms() else 1)
            assert os.waitpid(child, 0)[1] == 0
        finally:
            other.submit(pool._lock.release).result()


def test_commits_that_are_sent_together_are_as_good_as_one_by_one(world):
    run = world.run(fan_plan(3))
    names = ["m-0", "m-1", "m-2"]
    commits = [Commit(name, run.hold(name), b"1") for name in names]
    moved, _ = send(run, commits, follows=False)
    assert [each.outcome for each in moved] == ["stored"] * 3
    assert [each.work.names for each in moved] == [(), (), ("after",)], "the last of them joins"
    assert run.outputs() == dict.fromkeys(names, b"1")
    with world.unchanged():
        again, _ = send(run, commits, follows=False)
    assert [each.outcome for each in again] == ["stored"] * 3
    assert again[-1].work.names == ("after",)


def test_a_commit_that_is_fenced_off_holds_up_no_other_that_is_sent_with_it(world):
    run = world.run(fan_plan(2))
    kept = run.hold("m-1")
    moved, _ = send(run, [Commit("m-0", new_token(), b"1"), Commit("m-1", kept, b"1")])
    assert [each.outcome for each in moved] == ["fenced", "stored"]
    assert run.states()["m-0"] == "ready"
