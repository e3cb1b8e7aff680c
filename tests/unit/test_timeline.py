"""The timeline of a run: segments from its history, and a scale on which waiting takes little room."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from orchestrator import Event, NodeFailure, NodeRow, RunRow, RunStatus, RunView, Waiting
from orchestrator.store.log_lines import LogLine
from orchestrator.store.run_view import MapCounts
from orchestrator.web.attempts import choose_attempt, read_attempts, worker_of
from orchestrator.web.timeline import MOST_LANES, draw_gaps, draw_lane, place, read_segments, read_timeline
from orchestrator.web.why import reason_of

BEGIN = datetime(2026, 1, 31, 8, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return BEGIN + timedelta(seconds=seconds)


def node(name: str = "n", state: str = "succeeded", **given: Any) -> NodeRow:
    usual: dict[str, Any] = dict.fromkeys(NodeRow.__dataclass_fields__)
    usual |= {"name": name, "kind": "node", "step": 0, "state": state, "attempt": 1, "attempts": 3, "undoes": ""}
    return NodeRow(**(usual | given))


def view(*nodes: NodeRow, finished: datetime | None = None) -> RunView:
    usual: dict[str, Any] = dict.fromkeys(RunRow.__dataclass_fields__)
    status = RunStatus.SUCCEEDED if finished else RunStatus.RUNNING
    run = RunRow(**(usual | {"id": "r", "flow": "f", "status": status, "created": BEGIN, "finished": finished}))
    return RunView(run=run, plan=None, nodes=nodes, input=None, input_size=0, verdict="", log=())


def event(seconds: float, name: str, attempt: int = 1, detail: str = "", node: str = "n") -> Event:
    return Event(at(seconds), name, node, attempt, detail)


def kinds(row: NodeRow, *events: Event, end: float = 60) -> list[tuple[str, str, float, float]]:
    found = read_segments(row, events, at(end))
    return [
        (each.kind, each.tone, (each.begin - BEGIN).total_seconds(), (each.end - BEGIN).total_seconds())
        for each in found
    ]


def test_a_node_that_succeeded_at_once():
    row = node(since=at(0), started=at(1), ended=at(3))
    assert kinds(row, event(1, "started"), event(3, "succeeded")) == [("queue", "", 0, 1), ("run", "ok", 1, 3)]


def test_a_node_whose_history_is_gone_is_drawn_from_its_record():
    row = node(since=at(0), started=at(1), ended=at(3))
    assert kinds(row) == [("queue", "", 0, 1), ("run", "ok", 1, 3)]


def test_a_failed_attempt_a_wait_and_another_attempt():
    row = node(attempt=2, since=at(9), first=at(0), started=at(10), ended=at(12))
    told = [
        event(1, "started"),
        event(2, "retrying", detail="8000"),
        event(10, "started", 2),
        event(12, "succeeded", 2),
    ]
    assert kinds(row, *told) == [
        ("queue", "", 0, 1),
        ("run", "bad", 1, 2),
        ("wait", "", 2, 10),
        ("run", "ok", 10, 12),
    ]


def test_parts_of_one_attempt_are_one_stretch_and_what_is_between_attempts_is_none():
    told = [
        event(1, "started"),
        event(2, "iteration"),
        event(3, "iteration"),
        event(9, "started"),
        event(10, "iteration"),
    ]
    stretches = [("queue", "", 0, 1), ("run", "ok", 1, 3), ("queue", "", 3, 9), ("run", "ok", 9, 10)]
    assert kinds(node(state="parked", since=at(0), started=at(9)), *told) == [*stretches, ("queue", "", 10, 60)]
    assert kinds(node(since=at(0), ended=at(10)), *told, event(10, "succeeded")) == stretches


def test_what_is_open_reaches_to_now():
    waiting = node(state="parked", since=at(0), started=at(1))
    assert kinds(waiting, event(1, "started"), event(2, "retrying"))[-1] == ("wait", "", 2, 60)
    running = node(state="running", since=at(0), started=at(1))
    assert kinds(running, event(1, "started"))[-1] == ("run", "run", 1, 60)
    queued = node(state="ready", attempt=0, since=at(5))
    assert kinds(queued) == [("queue", "", 5, 60)]


def test_an_attempt_that_was_lost_is_red():
    row = node(state="ready", since=at(9), first=at(0))
    assert ("run", "bad", 1, 8) in kinds(row, event(1, "started"), event(8, "lost"))


def test_attempts_are_listed_newest_first():
    row = node(state="running", attempt=2)
    found = read_attempts(row, [event(1, "started"), event(2, "retrying"), event(9, "started", 2)])
    assert [(each.number, each.said, each.ended) for each in found] == [
        (2, "running", None),
        (1, "failed, another follows", at(2)),
    ]


def test_attempts_of_a_node_that_repeats_belong_to_iterations():
    row = node(state="running", attempt=1, pages=2)
    told = [
        event(1, "started"),
        event(2, "retrying"),
        event(3, "started", 2),
        event(5, "iteration", 2, detail="0"),
        event(6, "iteration", 2, detail="1"),
        event(9, "started"),
    ]
    found = read_attempts(row, told, repeats=True)
    assert [(each.key, each.said, each.began, each.ended) for each in found] == [
        ("2.1", "running", at(9), None),
        ("1.2", "iteration stored", at(5), at(6)),
        ("0.2", "iteration stored", at(3), at(5)),
        ("0.1", "failed, another follows", at(1), at(2)),
    ]
    ended = read_attempts(node(state="succeeded", pages=2), [*told[2:5], event(6, "succeeded", 2)], repeats=True)
    assert [each.key for each in ended] == ["1.2", "0.2"]


def test_attempts_with_one_number_are_told_apart():
    told = [event(1, "started"), event(2, "failed"), event(8, "started"), event(9, "failed")]
    first, second = read_attempts(node(state="failed", attempt=1), told)
    assert (first.key, second.key.startswith("1-")) == ("1", True)
    chosen = choose_attempt(node(attempt=1), [first, second], second.key, [LogLine(at(8), "n", 1, "INFO", "x")], {})
    assert chosen is not None
    assert (chosen.attempt, chosen.lines) == (second, [])


def test_of_an_item_the_history_has_only_what_failed():
    row = node(name="n[7]", state="failed", attempt=2, started=at(4), ended=at(5))
    found = read_attempts(row, [event(2, "retrying"), event(5, "failed", 2)])
    assert [(each.key, each.began, each.ended) for each in found] == [("2", at(4), at(5)), ("1", None, at(2))]


def test_an_attempt_that_failed_has_its_error_its_worker_and_its_lines():
    row = node(attempt=2, failure=NodeFailure(flow_name="f", node_name="n", attempt=2, type="x.Boom", message="100%"))
    failed = replace(event(2, "retrying", detail="8000"), holder="abc/7", error="builtins.OSError: 50% of it")
    attempts = read_attempts(row, [event(1, "started"), failed, event(9, "started", 2), event(10, "failed", 2)])
    assert [each.error for each in attempts] == ["", "OSError: 50% of it"]
    log = [LogLine(at(1), "n", number, "INFO", f"line {number}") for number in (1, 2)]
    first = choose_attempt(row, attempts, "1", log, {"abc": "w0@host"})
    assert first is not None
    assert (first.worker, first.failure) == ("w0@host, process 7", None)
    assert [line.text for line in first.lines] == ["line 1"]
    last = choose_attempt(row, attempts, "2", log, {})
    assert last is not None
    assert last.failure is row.failure
    assert choose_attempt(row, attempts, "3", log, {}) is None
    assert worker_of("abc/7", {}) == "a worker that is gone, process 7"


def test_a_long_wait_is_drawn_short_with_its_length():
    row = node(state="succeeded", attempt=2, since=at(0), started=at(3602), ended=at(3604))
    told = [event(0, "started"), event(2, "retrying"), event(3602, "started", 2), event(3604, "succeeded", 2)]
    timeline = read_timeline(view(row, finished=at(3604)), told, at(9999))
    assert [said for _, said, _ in draw_gaps(timeline.pieces)] == ["⋯ 1 h ⋯"]
    assert place(timeline.pieces, at(2)) > 40
    assert place(timeline.pieces, at(3602)) - place(timeline.pieces, at(2)) < 10
    assert place(timeline.pieces, at(3604)) == pytest.approx(100)


@pytest.mark.parametrize(("attempts", "written", "near"), [(3, 2, 1), (5, 4, 2), (30, 5, 3)])
def test_lengths_of_long_waits_are_not_written_over_one_another(attempts, written, near):
    told = [
        event(600 * number + second, name, number + 1)
        for number in range(attempts)
        for second, name in ((0, "started"), (30, "retrying" if number + 1 < attempts else "succeeded"))
    ]
    end = at(600 * attempts - 570)
    row = node(attempt=attempts, attempts=attempts, since=at(0), started=at(600 * attempts - 600), ended=end)
    found = draw_gaps(read_timeline(view(row, finished=end), told, end).pieces)
    assert (len(found), sum(is_near for *_, is_near in found)) == (written, near)


def test_a_run_that_begins_later_waits_and_stands_in_no_queue():
    row = node(state="parked", attempt=0, since=at(0))
    assert kinds(row, end=9) == [("wait", "", 0, 9)]
    assert kinds(replace(row, limit="jira"), end=9) == [("queue", "", 0, 9)]


def test_the_scale_rises_and_is_whole_whatever_the_run_did():
    rows = [
        node(f"n{number}", since=at(number**3), started=at(number**3 + 1), ended=at(number**3 + 2))
        for number in range(12)
    ]
    timeline = read_timeline(view(*rows, finished=at(2000)), [], at(2000))
    places = [place(timeline.pieces, at(second)) for second in range(0, 2001, 20)]
    assert places == sorted(places)
    assert places[0] == 0
    assert places[-1] == pytest.approx(100)
    assert [tick for tick, _ in timeline.ticks] == [0, 25, 50, 75, 100]


@pytest.mark.parametrize("nodes", [(), (node(state="ready", attempt=0, since=BEGIN),)])
def test_a_run_in_which_nothing_has_happened(nodes):
    timeline = read_timeline(view(*nodes), [], BEGIN)
    assert place(timeline.pieces, BEGIN) >= 0


def test_nodes_that_have_not_begun_are_counted_and_compensations_stand_under_their_node():
    rows = (
        node("a", "compensated", since=at(0), started=at(0), ended=at(1)),
        node("b", "pending"),
        node("undo-a", kind="compensation", undoes="a", since=at(2), started=at(2), ended=at(3)),
    )
    timeline = read_timeline(view(*rows), [], at(4))
    assert [lane.node for lane in timeline.lanes] == ["a", "undo-a"]
    assert timeline.to_come == 1


def test_many_nodes_leave_those_that_succeeded_first_away():
    rows = [node(f"n{number}", since=at(number), started=at(number), ended=at(number + 1)) for number in range(100)]
    rows.append(node("now", "running", since=at(100), started=at(100)))
    timeline = read_timeline(view(*rows), [], at(101))
    assert len(timeline.lanes) == MOST_LANES
    assert timeline.lanes[-1].node == "now"
    assert timeline.left_out == 101 - MOST_LANES


def test_a_map_is_one_lane():
    items = MapCounts(10_000, 9_000, 3, 4)
    row = node("item", "running", kind="item", since=None, items=items, attempt=0)
    lost = node("item[7]", "failed", kind="item", since=at(0), started=at(0), ended=at(1))
    timeline = read_timeline(view(row, lost), [], at(4))
    assert [(lane.node, lane.text) for lane in timeline.lanes] == [("item", "9,003 of 10,000 items · 3 failed")]


def test_hostile_texts_stay_texts():
    row = node(state="parked", since=at(0))
    told = [event(1, "waiting", 0, detail="<script>alert(1)</script>")]
    timeline = read_timeline(view(row), told, at(4))
    drawn = draw_lane(timeline.lanes[0], timeline.pieces)
    assert "<script" not in drawn
    assert "&lt;script&gt;" in drawn
    assert not re.search(r"\sstyle=", drawn)


def test_an_item_that_holds_up_its_map_is_told_with_how_far_the_map_is():
    items = MapCounts(count=10_000, done=9_994, failed=5, running=1)
    rows = (node("m", "running", items=items), node("m[7000]", "running"))
    waiting = [Waiting(node="m[7000]", state="running", reason="runs in w0", until=None, attempt=1)]
    reason = reason_of(view(*rows), waiting, {})
    assert reason is not None
    assert (reason.head, reason.rest) == ("m[7000]", "So far 9,999 of 10,000 items have ended, 5 of them failed.")
