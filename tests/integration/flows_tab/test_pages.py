"""The Flows tab over HTTP: what may be read and done in a Flower as it is started."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from urllib.parse import unquote, urlencode

import pytest
import redis

from orchestrator.engine import engine_of
from orchestrator.store.keys import Keys, bucket_of
from orchestrator.store.set_aside import AsideList
from tests.flower import PAGES, basic
from tests.harness import wait_until


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_there_and_linked_and_strict(flower, page):
    answer = flower.get(f"/flows{page}")
    assert answer.status == 200, answer.text
    assert '<a class="nav-link active"' in answer.text
    policy = answer.headers["Content-Security-Policy"]
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert answer.headers["Cache-Control"] == "no-store"
    inline = re.findall(r"<script(?![^>]*\ssrc=)|\sstyle=|\son\w+=", answer.text)
    assert inline == []
    elsewhere = [link for link in re.findall(r'(?:src|href|action)="([^"]+)"', answer.text) if "//" in link]
    assert {re.sub(r"^https?://([^/]+).*", r"\1", link) for link in elsewhere} <= {
        "flower.readthedocs.io",
        "github.com",
    }  # where Flower's own bar leads
    assert set(re.findall(r'href="(/[^"]*)"', answer.text)) <= {
        link for link in re.findall(r'href="(/[^"]*)"', answer.text) if link.startswith("/in/here/")
    }


def test_flower_s_own_pages_have_the_tab_and_are_as_they_were(flower):
    answer = flower.get("/workers")
    assert 'href="/in/here/flows"' in answer.text
    assert "Content-Security-Policy" not in answer.headers


def test_our_files_are_served(flower):
    page = flower.get("/flows").text
    for link in re.findall(r'(?:src|href)="(/in/here/flows/static/[^"]+)"', page):
        assert flower.get(link.removeprefix("/in/here")).status == 200, link
    assert flower.get("/flows/static/../templates/flows_run.html").status in (403, 404)


def test_a_run_is_shown_and_its_json(flower, run):
    page = flower.get(f"/flows/run/{run.id}").text
    assert run.id in page
    assert "customer=4711" in page
    assert 'data-node="reserve-stock"' in page
    shown = json.loads(flower.get(f"/flows/api/run/{run.id}").text)
    assert shown["run"]["id"] == run.id
    assert {"run", "steps", "nodes"} <= shown.keys()


def test_a_run_that_is_not_there(flower):
    answer = flower.get("/flows/run/00000000-0000-0000-0000-000000000000")
    assert answer.status == 404
    assert "is unknown" in answer.text
    assert flower.get("/flows/flow/no-such-flow").status == 404
    told = flower.get("/flows/api/run/00000000-0000-0000-0000-000000000000")
    assert "is unknown" in json.loads(told.text)["error"]


@pytest.mark.parametrize("what", ["counts", "findings", "flows", "limits", "schedules", "waiting", "workers"])
def test_lists_as_json(flower, what):
    answer = flower.get(f"/flows/api/{what}")
    assert answer.status == 200, answer.text
    assert isinstance(json.loads(answer.text)[what], list)


def test_a_flow_as_json(flower):
    answer = json.loads(flower.get("/flows/api/flow/import-catalogue").text)
    assert (answer["flow"]["name"], answer["is_here"], answer["input_schema"]["type"]) == (
        "import-catalogue",
        True,
        "integer",
    )
    assert [step["name"] for step in answer["steps"]] == ["download", "import-each.over", "import-each"]
    assert answer["schedules"] == []
    limits = json.loads(flower.get("/flows/api/flow/sync-tickets").text)["limits"]
    assert limits
    text = flower.get("/flows/flow/sync-tickets").text
    assert [each for each in limits if each["limit"] not in text or each["node"] not in text] == []
    assert flower.get("/flows/api/flow/no-such-flow").status == 404


def test_an_open_page_of_a_flow_follows_it_and_leaves_the_box_alone(flower, program):
    run = program.orchestrator.start("sync-tickets")
    page = flower.get("/flows/flow/sync-tickets").text
    assert run.id in page.partition('id="start"')[0]
    refused = flower.post("/flows/flow/sync-tickets/start", {"input": "{", "key": "", "tags": ""})
    assert 'id="start"' in refused.text
    new = program.orchestrator.start("sync-tickets")
    for path in ("", "/start"):  # a page that says what was refused has the second address
        answer = flower.get(f"/flows/flow/sync-tickets{path}?live=-")
        assert (answer.status, new.id in answer.text) == (200, True)
        assert "data-live" in answer.text
        assert "<html" not in answer.text
        assert 'id="start"' not in answer.text
        (version,) = re.findall(r'data-version="([^"]*)"', answer.text)
        assert flower.get(f"/flows/flow/sync-tickets{path}?live={version}").status in (
            200,
            204,
        )  # 200 where ten seconds end


def test_runs_that_failed_are_counted_as_their_link_lists_them(flower, program):
    failed, stuck = program.orchestrator.start("payment", 0), program.orchestrator.start("payment", 1)
    program.work(failed, "pay")
    program.work(stuck, "pay", "ship", "refund")
    assert (failed.status, stuck.status) == ("failed", "compensation_failed")
    page = flower.get("/flows/flows").text
    for run, status in ((failed, "failed"), (stuck, "compensation_failed")):
        ((link, count),) = re.findall(
            rf'href="/in/here(/flows\?flow=payment&amp;children=1&amp;status={status})">(\d+)', page
        )
        listed = re.findall(r'id="run-([^"]+)"', flower.get(link.replace("&amp;", "&")).text)
        assert (len(listed), run.id in listed) == (int(count), True)


def test_the_panel_of_a_node_has_its_input_as_far_as_it_is_stored(flower, program, run):
    paid = program.orchestrator.start("parcel", {"to": {"city": "<b>Köln"}, "items": ["a", "b"]})
    address = f"/flows/run/{paid.id}?node=send"
    assert "not stored yet" in flower.get(address).text
    program.work(paid, "weigh")
    found = re.findall(r"<li><b>(\w+)</b> <code[^>]*>(.*?)</code> <span[^>]*>(.*?)</span>", flower.get(address).text)
    assert found == [
        ("city", "&quot;&lt;b&gt;Köln&quot;", "to.city of the run&#x27;s input"),
        ("first", "&quot;a&quot;", "items.0 of the run&#x27;s input"),
        ("weight", "&quot;done&quot;", "output weigh"),
    ]
    assert "not kept" in flower.get(f"/flows/run/{run.id}?node=reserve-stock").text


def test_every_failed_item_of_a_map_is_reached_and_its_error_is_read(flower, program):
    run = program.orchestrator.start("payments", 45)
    program.work(run, "pay-all.over", *["pay-each"] * 45)
    address, found = f"/flows/run/{run.id}?node=pay-each", []
    while address:
        page = flower.get(address).text
        found += re.findall(r"<b>(\d+)</b> <span class=\"said\">Terminal: card (\d+) was declined", page)
        following = re.findall(r'href="/in/here([^"]+)" data-node="pay-each">Next', page)
        address = following[0].replace("&amp;", "&") if following else ""
    assert found == [(str(number), str(number)) for number in range(0, 45, 2)]
    assert "21 to 23 of 23" in page
    for wrong in ("4400", "-1", "x", "9" * 30):
        assert "Failed items" in flower.get(f"/flows/run/{run.id}?node=pay-each&items={wrong}").text
    item = flower.get(f"/flows/run/{run.id}?node=pay-each%5B44%5D").text
    assert "card 44 was declined" in item.partition('id="fl-h-node"')[2]
    assert "Traceback" in item.partition('id="fl-h-node"')[2]


def test_runs_are_filtered_by_the_address(flower, program, run):
    other = program.orchestrator.start("sync-tickets")
    page = flower.get("/flows?flow=order&tag=customer%3D4711").text
    assert run.id in page
    assert other.id not in page
    found = json.loads(flower.get("/flows/api/runs?flow=sync-tickets").text)["runs"]
    assert other.id in [row["id"] for row in found]
    assert run.id in flower.get(f"/flows?text={run.id[:8]}").text
    assert flower.get("/flows?status=nonsense").status == 400
    assert "no instant" in flower.get("/flows?since=yesterday").text


def test_an_open_page_is_told_nothing_until_something_happens(flower, program):
    run = program.orchestrator.start("order")
    page = flower.get(f"/flows/run/{run.id}").text

    def version(text):
        (found,) = re.findall(r'data-version="([^"]*)"', text)
        return found

    # The version has a part that changes every ten seconds, so that a page is read anew now and then.
    def unchanged():
        nonlocal page
        answer = flower.get(f"/flows/run/{run.id}?live={version(page)}")
        page = answer.text or page
        return answer.status == 204

    wait_until(unchanged, "nothing new")
    run.cancel()
    answer = flower.get(f"/flows/run/{run.id}?live={version(page)}")
    assert answer.status == 200
    assert "cancelled" in answer.text
    assert "<html" not in answer.text


def test_a_run_is_cancelled_and_resumed(flower, run):
    answer = flower.post(
        "/flows/act", {"op": "cancel", "run": run.id, "confirm": "yes", "reason": "not wanted, 100% sure"}
    )
    assert (answer.status, answer.headers["Location"]) == (303, f"/in/here/flows/run/{run.id}")
    assert run.status == "cancelled"
    assert "not wanted, 100% sure" in flower.get(f"/flows/run/{run.id}").text
    assert flower.post("/flows/act", {"op": "resume", "run": run.id, "confirm": "yes"}).status == 303
    assert not run.status.is_final
    again = flower.post("/flows/act", {"op": "resume", "run": run.id, "confirm": "yes"})
    assert again.status == 409
    assert "only a paused, failed" in again.text


def test_a_run_is_paused_and_resumed(flower, run):
    page = flower.get(f"/flows/run/{run.id}").text
    assert 'name="op" value="pause"' in page
    answer = flower.post("/flows/act", {"op": "pause", "run": run.id, "confirm": "yes", "reason": "<b>closed"})
    assert (answer.status, answer.headers["Location"]) == (303, f"/in/here/flows/run/{run.id}")
    assert run.status == "paused"
    page = flower.get(f"/flows/run/{run.id}").text
    assert "This run is paused" in page
    assert "until somebody resumes it: &lt;b&gt;closed" in page
    assert 'name="op" value="pause"' not in page
    listed = flower.get("/flows?status=paused").text
    assert run.id in listed
    assert "somebody to resume it: &lt;b&gt;closed" in listed
    assert flower.post("/flows/act", {"op": "resume", "run": run.id, "confirm": "yes"}).status == 303
    assert not run.status.is_final
    assert run.status != "paused"
    run.cancel()
    refused = flower.post("/flows/act", {"op": "pause", "run": run.id, "confirm": "yes"})
    assert (refused.status, "only a run that is neither ending nor ended" in refused.text) == (409, True)
    assert "None of these runs can be paused" in flower.post("/flows/act", {"op": "pause", "run": run.id}).text


def test_a_run_that_waits_for_a_person_says_so(flower, program):
    run = program.orchestrator.start("trip")
    for page in (flower.get(f"/flows/run/{run.id}").text, flower.get("/flows?flow=trip").text):
        assert "approval" in page
    assert "waits for an approval" in flower.get(f"/flows/run/{run.id}").text
    assert "manager (approval)" in flower.get("/flows?flow=trip").text


def test_approvals_and_signals_are_answered_from_a_page(flower, guarded, program):
    run = program.orchestrator.start("trip")
    page = flower.get("/flows/waiting").text
    assert f'id="wait-{run.id}-manager"' in page
    assert 'name="op" value="approve"' in flower.get(f"/flows/run/{run.id}").text
    vote = {"run": run.id, "name": "manager", "op": "approve", "reason": "<i>fits"}
    assert "who you are" in flower.post("/flows/answer", vote).text
    assert "manager" in [each.node for each in run.explain()]
    answer = flower.post("/flows/answer", vote | {"by": "ann"})
    assert (answer.status, answer.headers["Location"]) == (303, f"/in/here/flows/run/{run.id}")
    (given,) = run.output("manager")["votes"]
    assert (given["by"], given["reason"]) == ("ann", "<i>fits (name not verified)")
    again = flower.post("/flows/answer", vote | {"by": "bob"})
    assert (again.status, "the approval is not open" in again.text) == (409, True)
    assert f'id="wait-{run.id}-visa"' in flower.get("/flows/waiting").text
    signal = {"run": run.id, "name": "visa", "op": "signal"}
    assert "no JSON" in flower.post("/flows/answer", signal | {"value": "{"}).text
    assert flower.post("/flows/answer", signal | {"value": "7"}).status == 409  # it takes a text
    assert flower.post("/flows/answer", signal | {"value": '"granted"'}).status == 303
    assert run.output("visa") == "granted"
    assert run.id not in flower.get("/flows/waiting").text
    other = program.orchestrator.start("trip")
    answer = guarded.post(
        "/flows/answer", vote | {"run": other.id, "op": "reject", "by": "eve"}, Authorization=basic("ada:secret")
    )
    assert answer.status == 303
    assert "ada" in str(other.error)
    assert "eve" not in str(other.error)


def test_a_run_names_the_schedule_that_started_it(flower, program, run):
    scheduled = program.orchestrator.trigger_schedule("nightly-report")
    (link,) = re.findall(
        r'by its schedule <a href="([^"]+)">every day at 02:30', flower.get(f"/flows/run/{scheduled.id}").text
    )
    path, _, place = link.partition("#")
    assert path == "/in/here/flows/schedules"
    assert f'id="{unquote(place)}"' in flower.get("/flows/schedules").text
    assert "schedule <a" not in flower.get(f"/flows/run/{run.id}").text
    filled = program.orchestrator.backfill(
        "nightly-report", datetime.now(UTC) - timedelta(days=2), datetime.now(UTC) - timedelta(days=1)
    )
    page = flower.get(f"/flows/run/{filled[0].run_id}").text
    assert "by its schedule" in page
    assert f'</a> for <time datetime="{filled[0].instant.isoformat(timespec="milliseconds")}"' in page
    for each in filled:
        program.orchestrator.get(each.run_id).cancel()
        program.orchestrator.delete(each.run_id)


@pytest.mark.parametrize("part", ["", ":nodes", ":told"])
def test_a_run_with_something_else_in_its_keys_says_what_and_hides_no_other(flower, server, program, run, part):
    damaged = program.orchestrator.start("order")
    key = f"orchestrator:run:{damaged.id}{part}"
    with redis.Redis.from_url(server.url) as client:
        kept = client.dump(key)
        client.set(key, "something else")
        try:
            told = [flower.get(f"/flows{api}/run/{damaged.id}") for api in ("", "/api")][: 1 if part == ":told" else 2]
            for answer in told:
                assert answer.status == 500
                assert f"its key {key} holds a string and not a {'list' if part == ':told' else 'hash'}" in answer.text
            listed = flower.get("/flows?flow=order")
            assert (listed.status, run.id in listed.text) == (200, True)
        finally:
            client.restore(key, 0, kept, replace=True)
    damaged.cancel()
    assert flower.get(f"/flows/run/{damaged.id}").status == 200


def test_acting_on_a_filter_asks_with_a_count_first(flower, program):
    tags = {"batch": "7"}
    runs = [program.orchestrator.start("sync-tickets", tags=tags) for _ in range(3)]
    asked = flower.post("/flows/act", {"op": "cancel", "tag": "batch=7"})
    assert "Cancel 3 runs?" in asked.text
    assert not any(run.status.is_final for run in runs)
    ids = re.findall(r'name="run" value="([^"]+)"', asked.text)
    assert sorted(ids) == sorted(run.id for run in runs)
    done = flower.post("/flows/act", {"op": "cancel", "run": ids, "confirm": "yes"})
    assert "3 runs cancelled" in done.text
    assert all(run.status == "cancelled" for run in runs)


def test_a_limit_is_frozen_and_set_and_reset(flower, program):
    program.orchestrator.start("sync-tickets")

    def jira():
        return next(row for row in program.orchestrator.limits() if row.name == "jira")

    assert flower.post("/flows/limit", {"name": "jira", "op": "freeze", "until": "5"}).status == 303
    assert jira().frozen_until is not None
    flower.post("/flows/limit", {"name": "jira", "op": "set", "n": "7", "per": "60"})
    assert jira().is_set
    flower.post("/flows/limit", {"name": "jira", "op": "reset"})
    assert (jira().is_set, jira().frozen_until) == (False, None)
    store = engine_of(program.app).store
    for op in ("freeze", "unfreeze"):
        flower.post("/flows/limit", {"name": "jira", "op": op, "until": "5", "key": "acme"})
        assert store.client.exists(store.keys.bucket(bucket_of("jira", "acme"))[3]) == (op == "freeze")
    assert "give+the+key" in flower.post("/flows/limit", {"name": "jira", "op": "unfreeze"}).headers["Location"]
    refused = flower.post("/flows/limit", {"name": "jira", "op": "set", "n": "none", "per": "60"})
    assert "Not+changed" in refused.headers["Location"]


def test_a_limit_says_who_waits_longest(flower, program):
    program.orchestrator.freeze_limit("jira", datetime.now(UTC) + timedelta(minutes=5))
    first, second = (program.orchestrator.start("sync-tickets") for _ in range(2))
    for run in (first, second):
        program.work(run, "call-jira")
    try:
        (row,) = (each for each in program.orchestrator.limits() if each.name == "jira")
        assert (row.waiting, row.first_run, row.first_node) == (2, first.id, "call-jira")
        assert f'href="/in/here/flows/run/{first.id}?node=call-jira"' in flower.get("/flows/limits").text
    finally:
        program.orchestrator.reset_limit("jira")
        for run in (first, second):
            run.cancel()
    (row,) = (each for each in program.orchestrator.limits() if each.name == "jira")
    assert (row.waiting, row.longest_wait, row.first_run, row.first_node) == (0, None, None, None)


def test_a_schedule_is_paused_goes_on_and_is_triggered(flower, program):
    def nightly():
        return next(row for row in program.orchestrator.schedules() if row.flow == "nightly-report")

    name = nightly().id
    assert flower.post("/flows/schedule", {"name": name, "op": "pause", "note": "<b>freeze"}).status == 303
    assert nightly().is_paused
    assert "&lt;b&gt;freeze" in flower.get("/flows/schedules").text
    assert flower.post("/flows/schedule", {"name": name, "op": "unpause"}).status == 303
    assert not nightly().is_paused
    started = flower.post("/flows/schedule", {"name": name, "op": "trigger"})
    run = program.orchestrator.get(started.headers["Location"].rpartition("/")[2])
    assert run.flow_name == "nightly-report"
    refused = flower.post("/flows/schedule", {"name": "none", "op": "pause"})
    assert "Not+changed" in refused.headers["Location"]


def test_flower_s_metrics_have_those_of_runs(flower, run):
    text = flower.get("/metrics").text
    assert "orchestrator_up 1.0" in text
    assert 'orchestrator_runs{flow="order",status="open"}' in text
    assert "flower_" in text
    assert flower.get("/metrics").text.count("# HELP orchestrator_up ") == 1


def test_an_output_is_downloaded_whole(flower, program):
    run = program.orchestrator.start("import-catalogue", 5)
    answer = flower.get(f"/flows/run/{run.id}/output/-input")
    assert answer.text == "5"
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{run.id[:8]}-input.json"'
    assert flower.get(f"/flows/run/{run.id}/output/download").status == 404


def test_hostile_texts_are_texts_on_every_page(flower, program):
    hostile = program.HOSTILE
    run = program.orchestrator.start(
        "nasty", {"x": hostile}, tags={"evil": hostile, hostile: "x"}, idempotency_key=hostile
    )
    run.cancel(hostile)
    for path in (f"/flows/run/{run.id}", "/flows", f"/flows?text={run.id}", "/flows/flow/nasty"):
        text = flower.get(path).text
        assert "<script>alert" not in text
        assert "<img src=x" not in text
        assert "\u202e" not in text
        assert "%%" not in text
    for address in (
        "/flows?text=%3Cscript%3Ealert(1)%3C/script%3E",
        "/flows?flow=%22%3E%3Cscript%3Ealert",
        "/flows/limits?said=%3Cscript%3Ealert(1)",
    ):
        assert "<script>alert" not in flower.get(address).text


def test_what_waits_between_two_instants(flower, program, run):
    since = datetime.now(UTC) - timedelta(minutes=1)
    inside = urlencode({"since": since.isoformat(), "until": (since + timedelta(minutes=2)).isoformat()})
    assert run.id in flower.get(f"/flows?{inside}").text
    assert run.id in flower.get(f"/flows/api/runs?{inside}").text
    before = urlencode({"until": since.isoformat()})
    assert run.id not in flower.get(f"/flows?{before}").text
    assert run.id not in flower.get(f"/flows/api/runs?{before}").text
    assert run.id not in flower.get("/flows?until=1h").text
    page = flower.get(f"/flows?{before}").text
    assert f'name="until" value="{since:%Y-%m-%dT%H:%M:%S}"' in page


def test_a_limit_that_finds_its_pace_says_why_it_cannot_be_set_and_is_frozen(flower, program):
    program.orchestrator.start("sync-issues")
    assert "at most 50 a second" in flower.get("/flows/limits").text
    refused = flower.post("/flows/limit", {"name": "github", "op": "set", "n": "7", "per": "60"})
    assert "finds+its+pace+itself" in refused.headers["Location"]
    flower.post("/flows/limit", {"name": "github", "op": "freeze", "until": "5"})
    (github,) = (row for row in program.orchestrator.limits() if row.name == "github")
    assert github.frozen_until is not None
    assert "End the freeze" in flower.get("/flows/limits").text


def test_a_schedule_in_words_with_its_instants_and_a_backfill_that_counts_first(flower, program):
    page = flower.get("/flows/schedules").text
    assert "every day at 02:30" in page
    (nightly,) = json.loads(flower.get("/flows/api/schedules").text)["schedules"]
    assert (nightly["words"], len(nightly["next_ticks"]), nightly["last_ticks"]) == ("every day at 02:30", 4, [])
    today = datetime.now(UTC)
    values = {"name": nightly["id"], "since": f"{today - timedelta(days=3):%Y-%m-%d}", "until": f"{today:%Y-%m-%d}"}
    asked = flower.post("/flows/backfill", values)
    assert "Start 3 runs of nightly-report?" in asked.text
    confirmed = dict(re.findall(r'<input type="hidden" name="(name|since|until|confirm)" value="([^"]*)"', asked.text))
    done = flower.post("/flows/backfill", confirmed)
    assert "3+runs+started" in done.headers["Location"]
    assert "Every instant of this range has its run" in flower.post("/flows/backfill", values).text
    (nightly,) = json.loads(flower.get("/flows/api/schedules").text)["schedules"]
    assert [tick["status"] for tick in nightly["last_ticks"]][:3] == ["pending"] * 3
    assert f"/flows/run/{nightly['last_ticks'][0]['run_id']}" in flower.get("/flows/schedules").text
    for wrong in ({"since": "yesterday"}, {"until": "2090-01-01"}, {"name": "none"}):
        assert "Nothing+was+started" in flower.post("/flows/backfill", values | wrong).headers["Location"]
    assert flower.post("/flows/backfill", values | {"until": ""}).status == 400


def test_a_run_that_is_set_aside_says_why_and_others_are_listed(flower, program, server, run):
    broken = program.orchestrator.start("order")
    client, keys = redis.Redis.from_url(server.url), Keys("orchestrator")
    client.hset(keys.nodes(broken.id), "reserve-stock", "{no json")
    assert "a record of it cannot be read" in flower.get(f"/flows/run/{broken.id}").text
    AsideList(client, keys).note("run", broken.id, "a record says 100% <b>nonsense", now_ms=1_790_000_000_000)
    page = flower.get(f"/flows/run/{broken.id}").text
    assert "This run is set aside" in page
    assert "a record says 100% &lt;b&gt;nonsense" in page
    assert "cancel it" in page
    assert "Cancel this run" in page
    listed = flower.get("/flows").text
    assert run.id in listed
    assert "set aside" in listed.partition(f'id="run-{broken.id}"')[2].partition("</tr>")[0]
    assert flower.get("/flows/flows").status == 200
    assert flower.post("/flows/act", {"op": "cancel", "run": broken.id, "confirm": "yes"}).status == 303
    assert "Cancelled" in flower.get(f"/flows/run/{broken.id}").text
