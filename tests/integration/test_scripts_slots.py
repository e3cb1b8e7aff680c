"""SharedConcurrency in the scripts: so many claims hold one at once, and every end of a claim frees its own."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import pytest

from orchestrator import SharedConcurrency, SharedRateLimiter
from orchestrator.definition.planning import make_plan
from orchestrator.definition.registry import Registry
from orchestrator.errors import RegistrationError
from orchestrator.store.keys import bucket_of
from tests.integration.test_scripts_limits import member, tat
from tests.scripts_world import FAILURE, at_once, fan_plan, flow, mapped_run, new_token, node, plan_of

DB = SharedConcurrency("db", 2)
API = SharedRateLimiter("api", 10, per=timedelta(minutes=1))
TENANT = SharedRateLimiter("tenant", 10, per=timedelta(minutes=1), key=str)
RED = bucket_of("tenant", "red")


def slots(world):
    """Nodes of the claims that hold a slot."""
    return [each.split("|")[1] for each in world.members(world.keys.held("@db"))]


def fan(members, limit=2, **options):
    return fan_plan(members, concurrency=SharedConcurrency("db", limit), **options)


def test_no_more_than_so_many_run_at_once_and_the_others_stand_in_line(world):
    run = world.run(fan(4))
    assert [run.claim(f"m-{n}", may_sleep=True).outcome for n in range(4)] == ["run", "run", "parked", "parked"]
    assert slots(world) == ["m-0", "m-1"]
    assert world.line("@db") == [member(run, "m-2"), member(run, "m-3")]
    assert (run.node("m-2")["attempt"], run.field("running"), run.field("detached")) == (0, "2", "1")
    assert world.scripts.release("@db")[1] == [], "nobody is let go while every slot is held"


def test_the_same_token_holds_one_slot(world):
    run = world.run(fan(2))
    token = new_token()
    assert run.claim("m-0", token).outcome == run.claim("m-0", token).outcome == "run"
    assert slots(world) == ["m-0"]


def commit(run, token):
    run.commit("m-0", token)


def fail(run, token):
    run.fail("m-0", token)


def retry(run, token):
    run.fail("m-0", token, delay_ms=3_600_000)


def lose(run, token):
    run.lose("m-0", token)


def time_out(run, token):
    run.lose("m-0", token, timed_out=True, delay_ms=3_600_000)


def throttle(run, token):
    run.scripts.fail(
        run.id, run.plan.hash, "m-0", token, failure=FAILURE, delay_ms=1000, follows=False, max_throttle_ms=10**6
    )


@pytest.mark.parametrize("end", [commit, fail, retry, lose, time_out, throttle], ids=lambda end: end.__name__)
def test_every_end_of_a_claim_frees_its_slot_and_makes_the_line_due(world, end):
    run, other = world.run(fan(1, limit=1, on_failure="continue")), world.run(fan(2, limit=1))
    token = run.hold("m-0")
    assert other.claim("m-0").outcome == "parked"
    world.scripts.release("@db")
    assert world.scripts.due_timers(at_most_ms=100, count=10)[2] == []
    end(run, token)
    assert slots(world) == []
    assert world.scripts.due_timers(at_most_ms=100, count=10)[2] == ["@db"]
    assert world.scripts.release("@db")[1] == [member(other, "m-0")]
    other.wake("m-0")
    other.hold("m-0")
    assert slots(world) == ["m-0"]


def test_a_slot_of_a_flow_that_has_left_the_code_is_free_when_its_claim_ends(world):
    left, other = world.run(fan(1, limit=1)), world.run(plan_of(flow("g").then(node("a", concurrency=DB))))
    token = left.hold("m-0")
    world.publish(plan_of(flow().then(node("new"))))  # the flow has another plan now, without the limit
    assert other.claim("a").outcome == "parked"
    assert left.lose("m-0", token).outcome == "again"
    assert (slots(world), world.scripts.release("@db")[1]) == ([], [member(other, "a")])
    left.cancel()  # nobody has its code
    other.wake("a")
    other.do("a")
    assert (left.status, other.status, slots(world)) == ("cancelled", "succeeded", [])


def test_a_newcomer_stands_behind_the_line_although_a_slot_is_free(world):
    run = world.run(fan(3, limit=1))
    token = run.hold("m-0")
    assert run.claim("m-1").outcome == "parked"
    run.commit("m-0", token)
    assert run.claim("m-2").outcome == "parked"
    assert world.scripts.release("@db")[1] == [member(run, "m-1")]
    assert world.scripts.release("@db")[1] == [], "the slot is for who is on the way"


def test_slots_and_tokens_are_taken_together_or_not_at_all(world):
    run = world.run(fan(3, limit=1, shared_rate_limit=API))
    run.hold("m-0")
    before = tat(world)
    assert run.claim("m-1").outcome == "parked"
    assert tat(world) == before
    assert world.line("@db") == [member(run, "m-1")]


def test_a_node_with_a_key_takes_its_slot_when_it_is_admitted(world):
    run = world.run(fan(3, limit=1, shared_rate_limit=TENANT))
    first, second = run.claim_to_admit("m-0"), run.claim_to_admit("m-1")
    assert slots(world) == []
    assert run.admit("m-0", first, RED, "@db").outcome == "run"
    assert run.admit("m-1", second, RED, "@db").outcome == "parked"
    assert (slots(world), world.line("@db")) == (["m-0"], [member(run, "m-1")])
    run.lose("m-0", first)
    assert slots(world) == []


def test_another_number_holds_at_once(world):
    run = world.run(fan(4, limit=1))
    run.hold("m-0")
    for number in (1, 2, 3):
        run.claim(f"m-{number}")
    world.publish(fan(4, limit=3))
    assert world.scripts.release("@db")[1] == [member(run, "m-1"), member(run, "m-2")]
    world.publish(fan(4, limit=1))
    run.wake("m-1")
    assert run.claim("m-1").outcome == "parked"
    assert world.line("@db") == [member(run, "m-1"), member(run, "m-3")]


def test_a_cancelled_run_frees_its_place_in_queue(world):
    first, run = world.run(fan(2, limit=1)), world.run(fan(1, limit=1))
    token = first.hold("m-0")
    first.claim("m-1")
    run.claim("m-0")
    first.cancel()
    assert world.line("@db") == [member(run, "m-0")]
    first.commit("m-0", token)
    assert world.scripts.release("@db")[1] == [member(run, "m-0")]


def test_items_and_compensations_hold_slots_too(world):
    run = mapped_run(world, 3, slots=SharedConcurrency("db", 1))
    token = new_token()
    assert run.claim("item", token).index == 0
    assert run.claim("item").outcome == "parked"
    run.commit("item[0]", token, b"1")
    assert world.scripts.release("@db")[1] == [member(run, "item[1]")]
    undo = node("undo", concurrency=SharedConcurrency("undo", 1))
    run = world.run(plan_of(flow("g").then(node("a").on_error(undo)).then(node("b"))))
    run.do("a")
    run.break_off("b")
    token = run.hold("undo")
    assert world.members(world.keys.held("@undo")) == [f"{run.id}|undo|{token}"]
    run.commit("undo", token)
    assert world.members(world.keys.held("@undo")) == []


def test_nobody_knows_when_a_slot_is_free(world):
    run = world.run(fan(3, limit=1))
    run.hold("m-0")
    for number in (1, 2):
        run.claim(f"m-{number}")
    assert world.store.place_in_queue("@db", run.id, "m-2") == (1, None)


def test_a_hundred_claims_of_seven_slots_hold_seven(world):
    run = world.run(fan(100, limit=7))
    answers = at_once(lambda n: run.claim(f"m-{n}", may_sleep=n % 2 == 0))
    assert Counter(answer.outcome for answer in answers) == {"run": 7, "parked": 93}
    assert len(slots(world)) == 7
    assert len(world.line("@db")) == 93


def test_a_line_for_slots_is_served_in_the_order_of_arrival_and_to_its_end(world):
    run = world.run(fan(40, limit=3))
    held = {name: token for name in ("m-0", "m-1", "m-2") if (token := run.hold(name))}
    for number in range(3, 40):
        run.claim(f"m-{number}")
    order = []
    for _ in range(100):
        if not held:
            break
        name, token = held.popitem()
        run.commit(name, token)
        for waiting in world.scripts.release("@db")[1]:
            order.append(waiting.split("|")[1])
            run.wake(order[-1])
            held[order[-1]] = run.hold(order[-1])
        assert len(slots(world)) <= 3
    assert order == [f"m-{number}" for number in range(3, 40)]
    assert slots(world) == []


def test_one_registry_refuses_another_number_under_the_name():
    registry = Registry("celery")
    registry.add(flow("f").then(node("a", concurrency=DB)).build())
    with pytest.raises(RegistrationError, match="concurrency db has other numbers in flow f; use one object in both"):
        registry.add(flow("g").then(node("a", concurrency=SharedConcurrency("db", 3))).build())
    assert make_plan(flow("h").then(node("a", concurrency=DB)).build(), "celery").limits == {"@db": (0, 2)}
