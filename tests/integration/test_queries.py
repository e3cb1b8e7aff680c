"""Queries over runs: filters, pages by cursor, all fields in few round trips, limits and workers, redaction."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
import redis
from celery import Celery
from celery.exceptions import Ignore

from orchestrator import (
    FlowBuilder,
    Node,
    Orchestrator,
    Settings,
    SharedConcurrency,
    Terminal,
    UnknownRun,
    approval,
    manual,
)
from orchestrator.contrib.prometheus import take
from orchestrator.engine import engine_of
from orchestrator.server import EmbeddedServer
from orchestrator.web.children import Opened
from orchestrator.web.fleet_pages import read_flows
from orchestrator.web.listing import Filters, read_listing
from orchestrator.web.run_page import Look, read_run

MANY = 120


def fails() -> int:
    raise Terminal("Card 4711 was declined")


def build(name, *nodes):
    builder = FlowBuilder(name).triggered_by(manual("test"))
    for each in nodes:
        builder.then(each)
    return builder.build()


PAY = build("pay", Node("reserve", lambda: {"seat": 1, "token": "t-1"}), Node("charge", fails))
SHIP = build("ship", Node("pack", lambda: 1).with_rate_limit(60, per=timedelta(minutes=1)), Node("send", lambda: 2))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with EmbeddedServer(tmp_path_factory.mktemp("server")) as running:
        yield running


def client_of(server, **settings):
    """A client and worker in one, under a prefix of its own."""
    app = Celery("queries", broker="memory://", backend=server.url, set_as_current=False)
    orchestrator = Orchestrator(app, settings=Settings(**settings))
    for flow in (PAY, SHIP):
        orchestrator.register(flow)
    return orchestrator


def work(orchestrator, run, *names):
    """Call the tasks of some nodes of a run, as its messages would."""
    plan = engine_of(orchestrator.app).registry.flows[run.flow_name].plan
    for name in names:
        orchestrator.app.tasks[f"{plan.flow}.{name}"].run(run.id, 1, plan.hash)


@pytest.fixture(scope="module")
def shop(server):
    """Runs in every place: 40 that failed, 40 that succeeded, 40 that stand in the middle or have not begun."""
    orchestrator = client_of(server, prefix="queries", redact=("token", "secret"))
    runs = []
    for number in range(MANY):
        tags = {"tenant": f"t-{number % 3}", "secret": "s"}
        run = orchestrator.start("pay" if number % 3 == 0 else "ship", idempotency_key=f"Order-{number}", tags=tags)
        if number % 3 == 0:
            work(orchestrator, run, "reserve")
            with pytest.raises(Terminal):
                work(orchestrator, run, "charge")
        elif number % 3 == 1:
            work(orchestrator, run, "pack", "send")
        elif number % 2:
            work(orchestrator, run, "pack")
        runs.append((run.created_at, run.id, number))
    orchestrator.numbers = {run_id: number for _, run_id, number in sorted(runs, reverse=True)}
    return orchestrator


def ids(runs):
    return [run.id for run in runs]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, lambda n: True),
        ({"flow": "pay"}, lambda n: n % 3 == 0),
        ({"flow": "ship", "status": "succeeded"}, lambda n: n % 3 == 1),
        ({"status": "failed"}, lambda n: n % 3 == 0),
        ({"status": ("pending", "running")}, lambda n: n % 3 == 2),
        ({"flow": "ship", "status": "pending"}, lambda n: n % 6 == 2),
        ({"tag": {"tenant": "t-1"}}, lambda n: n % 3 == 1),
        ({"tag": {"tenant": "t-1"}, "status": "failed"}, lambda n: False),
        ({"text": "ORDER-11"}, lambda n: str(n).startswith("11")),
        ({"text": "card 4711"}, lambda n: n % 3 == 0),
        ({"text": "charge"}, lambda n: n % 3 == 0),
        ({"flow": "unknown"}, lambda n: False),
        ({"parent": "00000000-0000-0000-0000-000000000000"}, lambda n: False),
    ],
)
def test_a_page_has_the_runs_that_pass_every_filter_newest_first(shop, filters, expected):
    wanted = [run_id for run_id, number in shop.numbers.items() if expected(number)]
    assert ids(shop.runs(**filters, limit=MANY)) == wanted


@pytest.mark.parametrize("filters", [{}, {"flow": "ship"}, {"status": "failed"}, {"text": "order"}])
def test_pages_by_cursor_have_every_run_once(shop, filters):
    found, cursor = [], None
    while True:
        page = shop.runs(**filters, limit=7, cursor=cursor)
        found += ids(page)
        cursor = page.cursor
        if cursor is None:
            break
    assert found == ids(shop.runs(**filters, limit=MANY))


def test_runs_are_found_by_their_id_and_by_time(shop):
    middle = shop.get(list(shop.numbers)[60])
    assert ids(shop.runs(text=middle.id[:13].upper())) == [middle.id]
    at = middle.created_at
    later, earlier = shop.runs(since=at, limit=MANY), shop.runs(until=at, limit=MANY)
    assert set(ids(later)).isdisjoint(ids(earlier))
    assert ids(later) + ids(earlier) == list(shop.numbers)
    assert middle.id in ids(later)
    span = timedelta(milliseconds=1)
    assert middle.id in ids(shop.runs(since=at, until=at + span))


@pytest.fixture
def trips(shop, monkeypatch):
    """What is sent to the server from here on, as by a process that has just begun."""
    sent = []
    send = redis.Connection.send_packed_command

    def counted(self, *args, **options):
        sent.append(1)
        return send(self, *args, **options)

    shop.runs(limit=1)  # loads the script
    engine_of(shop.app).store._plans.clear()
    monkeypatch.setattr(redis.Connection, "send_packed_command", counted)
    return sent


def test_the_page_of_runs_is_read_in_five_round_trips(shop, trips):
    listing = read_listing(shop, Filters(status="failed", tag="tenant=t-0"))
    assert len(trips) <= 5
    assert (len(listing.runs.rows), listing.counts) == (40, {})
    trips.clear()
    listing = read_listing(shop, Filters())
    assert len(trips) <= 5
    assert (len(listing.runs.rows), sum(listing.counts.values()), listing.counts["failed"]) == (50, MANY, 40)


def test_the_page_of_flows_reads_the_last_runs_of_all_of_them_together(shop, trips):
    rows = read_flows(shop)
    assert len(trips) <= 8  # however many flows there are
    assert [(row.name, len(row.last), row.success) for row in rows] == [("pay", 40, 0.0), ("ship", 50, 1.0)]
    wanted = [run_id for run_id, number in shop.numbers.items() if number % 3]
    assert [run.id for run in rows[1].last] == wanted[:50]


def test_the_page_of_a_run_that_has_ended_is_read_in_eight_round_trips(shop, trips):
    run_id = next(run_id for run_id, number in shop.numbers.items() if number % 3 == 0)
    look = Look("", "", "", Opened((), str, str), lambda _: "", unfold=False)
    page = read_run(shop, run_id, look)
    assert len(trips) <= 8
    assert page.reason is not None
    assert (page.view.run.id, page.reason.node) == (run_id, "charge")
    with pytest.raises(UnknownRun):
        read_run(shop, "00000000-0000-0000-0000-000000000000", look)


def test_all_fields_of_a_page_come_in_three_round_trips(shop, trips):
    rows = shop.runs(limit=50).rows
    assert len(trips) <= 3
    assert len(rows) == 50
    waiting = next(row for row in rows if shop.numbers[row.id] == MANY - 1)
    failed = next(row for row in rows if shop.numbers[row.id] == MANY - 3)
    assert (waiting.status, waiting.steps, waiting.done_steps, waiting.waits_for) == ("running", 2, 1, "send (ready)")
    assert (failed.status, failed.key, failed.error.node_name) == ("failed", f"Order-{MANY - 3}", "charge")
    assert failed.finished >= failed.created
    assert json.dumps(failed.to_json())


def test_what_is_to_be_hidden_is_not_shown(shop):
    failed = shop.runs(status="failed", limit=1)
    assert failed.rows[0].tags == {"tenant": "t-0", "secret": "[redacted]"}
    view = failed[0].show()
    (reserve,) = [node for node in view.nodes if node.name == "reserve"]
    assert json.loads(reserve.output) == {"seat": 1, "token": "[redacted]"}
    assert "t-1" not in json.dumps(view.to_json())
    assert failed[0].output("reserve")["token"] == "t-1"


def test_a_view_shows_every_node(shop):
    view = shop.runs(status="failed", limit=1)[0].show()
    assert [(node.name, node.state, node.attempt) for node in view.nodes] == [
        ("reserve", "succeeded", 1),
        ("charge", "failed", 1),
    ]
    assert view.nodes[1].failure.message == "Card 4711 was declined"
    assert view.run.status == "failed"


@pytest.mark.parametrize(
    "wrong",
    [
        {"status": "done"},
        {"status": ("failed", "done")},
        {"limit": 0},
        {"limit": 1001},
        {"cursor": "yesterday"},
        {"since": datetime(2026, 1, 1)},  # noqa: DTZ001 - naive on purpose
    ],
)
def test_a_filter_that_is_none_is_refused(shop, wrong):
    with pytest.raises(ValueError, match=r"status|limit|cursor|aware"):
        shop.runs(**wrong)


def test_text_in_any_script_is_found_as_it_was_written(server):
    orchestrator = client_of(server, prefix="letters")
    run = orchestrator.start("ship", idempotency_key="Über-Ω-7")
    orchestrator.start("ship", idempotency_key="other")
    assert [ids(orchestrator.runs(text=text)) for text in ("Über", "ÜBER-Ω", "Ω-7")] == [[run.id]] * 3
    assert orchestrator.runs(text="%w") == []


def test_limits_are_shown_set_frozen_and_reset(server):
    orchestrator = client_of(server, prefix="limits")
    engine = engine_of(orchestrator.app)
    slots = SharedConcurrency("printers", 3)
    flow = build("prints", Node("print", lambda: 1).with_concurrency(slots))
    orchestrator.register(flow)
    for entry in engine.registry.flows.values():
        engine.announce(entry)
    pace, printers = orchestrator.limits()[::-1] if orchestrator.limits()[0].kind == "slots" else orchestrator.limits()
    assert (pace.kind, pace.n, pace.per, pace.burst, pace.tokens) == ("rate", 1.0, timedelta(seconds=1), 60, 60)
    assert (printers.kind, printers.n, printers.tokens) == ("slots", 3, 3)

    orchestrator.set_limit(pace.name, 2, per=timedelta(seconds=1), burst=5)
    orchestrator.set_limit(printers.name, 1)
    engine.announce(engine.registry.flows["ship"])  # the same code again: the operator's numbers stand
    shown = {row.name: row for row in orchestrator.limits()}
    assert (shown[pace.name].n, shown[pace.name].burst, shown[pace.name].is_set) == (2, 5, True)
    assert shown[printers.name].tokens == 1

    until = datetime.now(UTC) + timedelta(minutes=5)
    orchestrator.freeze_limit(pace.name, until)
    frozen = {row.name: row for row in orchestrator.limits()}[pace.name]
    assert (frozen.frozen_until, frozen.tokens) == (until, 0)

    orchestrator.reset_limit(pace.name)
    reset = {row.name: row for row in orchestrator.limits()}[pace.name]
    assert (reset.burst, reset.is_set, reset.frozen_until) == (60, False, None)
    json.dumps(reset.to_json())
    with pytest.raises(ValueError, match=r"there is no limit 'pac'"):
        orchestrator.set_limit("pac", 1)
    with pytest.raises(ValueError, match="is a rate"):
        orchestrator.set_limit(pace.name, 1)
    with pytest.raises(ValueError, match="in the future"):
        orchestrator.freeze_limit(pace.name, datetime.now(UTC) - timedelta(minutes=5))


def test_numbers_of_new_code_take_the_place_of_an_operators(server):
    orchestrator = client_of(server, prefix="newer")
    engine = engine_of(orchestrator.app)
    engine.announce(engine.registry.flows["ship"])
    (row,) = orchestrator.limits()
    orchestrator.set_limit(row.name, 1, per=timedelta(seconds=1))
    newer = build(
        "ship", Node("pack", lambda: 1).with_rate_limit(10, per=timedelta(seconds=1)), Node("send", lambda: 2)
    )
    other = Orchestrator(
        Celery("newer", broker="memory://", backend=server.url, set_as_current=False), settings=Settings(prefix="newer")
    )
    other.register(newer)
    engine_of(other.app).announce(engine_of(other.app).registry.flows["ship"])
    (row,) = orchestrator.limits()
    assert (row.n, row.is_set) == (10, False)


def test_a_search_that_finds_too_little_says_how_far_it_came_and_goes_on_from_there(server):
    orchestrator = client_of(server, prefix="far")
    store = engine_of(orchestrator.app).store
    oldest = orchestrator.start("ship", idempotency_key="the oldest")
    fields = store.client.hgetall(store.keys.run(oldest.id)) | {b"key": b"another"}
    created, later = int(fields[b"created"]), 5_500
    pipe = store.client.pipeline(transaction=False)
    for number in range(1, later + 1):
        run_id = f"00000000-0000-0000-0000-{number:012d}"
        pipe.hset(store.keys.run(run_id), mapping=fields | {b"created": created + number})
        pipe.zadd(store.keys.by_flow("ship", "open"), {run_id: created + number})
    pipe.execute()
    page = orchestrator.runs(flow="ship", text="the oldest", limit=10)
    assert (list(page), page.rows) == ([], ())
    assert page.searched_back_to == datetime.fromtimestamp((created + later - 4_999) / 1000, UTC)
    rest = orchestrator.runs(flow="ship", text="the oldest", limit=10, cursor=page.cursor)
    assert ids(rest) == [oldest.id]
    assert (rest.cursor, rest.searched_back_to) == (None, None)
    assert ids(orchestrator.runs(flow="ship", text="the oldest", until=page.searched_back_to)) == [oldest.id]


def test_metrics_count_what_is_paused_and_what_waits_for_somebody(server):
    orchestrator = client_of(server, prefix="stands")
    orchestrator.register(build("trip", approval("manager"), Node("book", lambda: 1)))
    waiting, _, paused = (orchestrator.start(flow) for flow in ("trip", "trip", "ship"))
    paused.pause("no ships")
    found = take(orchestrator)
    assert found["orchestrator_runs_paused"] == {("pay",): 0, ("ship",): 1, ("trip",): 0}
    assert found["orchestrator_runs"]["ship", "open"] == 1
    assert found["orchestrator_nodes_waiting"] == {("approval",): 2, ("signal",): 0, ("callback",): 0}
    assert found["orchestrator_nodes_longest_wait_seconds"]["approval",] != 0
    assert [row.id for row in orchestrator.runs(status="paused").rows] == [paused.id]
    paused.resume()
    waiting.approve("manager", by="ada")
    found = take(orchestrator)
    assert found["orchestrator_runs_paused"]["ship",] == 0
    assert found["orchestrator_nodes_waiting"]["approval",] == 1


def test_counts_are_those_of_what_the_list_shows(server):
    orchestrator = client_of(server, prefix="counted")
    orchestrator.register(build("outing", Node("ship-it", SHIP)))
    engine = engine_of(orchestrator.app)
    engine.announce(engine.registry.flows["ship"])
    alone, first, second = (orchestrator.start(flow) for flow in ("ship", "outing", "outing"))
    for outing in (first, second):
        with pytest.raises(Ignore):  # it waits for its child
            work(orchestrator, outing, "ship-it")
    (child,), (other,) = first.children(), second.children()
    other.pause("no ships")
    work(orchestrator, child, "pack", "send")
    assert first.status == "succeeded"

    for filters, rows in (
        (Filters(), {alone.id, first.id, second.id}),
        (Filters(children="1"), {alone.id, first.id, second.id, child.id, other.id}),
        (Filters(flow="ship"), {alone.id}),
        (Filters(flow="ship", children="1"), {alone.id, child.id, other.id}),
        (Filters(flow="ship", children="1", since="1h"), {alone.id, child.id, other.id}),
        (Filters(until="1h"), set()),
    ):
        listing = read_listing(orchestrator, filters)
        assert {row.id for row in listing.runs.rows} == rows
        assert sum(listing.counts.values()) == len(rows)
    ships = read_listing(orchestrator, Filters(flow="ship", status="paused", children="1"))
    assert ([row.id for row in ships.runs.rows], ships.paused, ships.counts["open"]) == ([other.id], 1, 2)
    assert (orchestrator.totals().open, orchestrator.totals(children=True).open) == (2, 3)
    assert ids(orchestrator.runs(parent=second.id, status="paused")) == [other.id]
    assert take(orchestrator)["orchestrator_runs"]["ship", "open"] == 2
    (flow,) = (row for row in read_flows(orchestrator) if row.name == "ship")
    assert ({row.id for row in flow.last}, flow.counts.succeeded) == ({alone.id, child.id, other.id}, 1)
