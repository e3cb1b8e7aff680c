"""The Flows tab in a real browser, on one server, one worker and one Flower: what is seen, clicked and typed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime

import pytest
from selenium.webdriver.common.keys import Keys

from orchestrator.server import EmbeddedServer
from tests.browser import browser
from tests.flower import CONFIG, flower_process
from tests.harness import load_program, wait_until, workers

MODULE = "tests.programs.shown"
SOON = "from orchestrator.web.pages import FlowPage, RunsPage\nFlowPage.fresh_s = RunsPage.fresh_s = 1\n"
"""An open list is read anew each second, where others wait for longer."""
pytestmark = pytest.mark.browser
FORMS_OUTSIDE = """return [...document.querySelectorAll('.fl-ask')].filter(ask => {
  document.querySelectorAll('.fl-ask[open]').forEach(other => other.open = false);
  ask.open = true;
  const {left, right} = ask.querySelector('.fl-pop').getBoundingClientRect();
  return left < 0 || right > document.documentElement.clientWidth;
}).map(ask => ask.innerText)"""
"""Forms behind buttons that do not fit into the window, opened one after the other."""
FOCUSED = """const e = document.activeElement;
return e.dataset.node || e.parentElement.id || e.innerText || e.tagName"""
WIDTHS = {"wide": 1280, "narrow": 390}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("browser")


@pytest.fixture(scope="module")
def server(folder):
    """A server of its own, for one test stops it."""
    with EmbeddedServer(folder / "server") as started:
        yield started


@pytest.fixture(scope="module")
def world(folder, server):
    """The program with a worker, a Flower behind a prefix and a browser, which start side by side."""
    program = load_program("shown", server.url)
    parts = (
        workers(MODULE, server.url, folder, options=["-c", "2"]),
        flower_process(MODULE, server.url, folder / "flower", prefix="/ops", config=CONFIG + SOON),
        browser(folder / "profile"),
    )
    with ExitStack() as stack:
        with ThreadPoolExecutor(len(parts)) as threads:
            (worker,), flower, chromium = threads.map(stack.enter_context, parts)
        chromium.hurry(5)
        yield program, flower, chromium
        worker.kill()  # it would wait for nodes that wait for the ledger


@pytest.fixture(scope="module")
def program(world):
    return world[0]


@pytest.fixture(scope="module")
def flower(world):
    return world[1]


@pytest.fixture
def page(world):
    """The browser; when the test is over, no page complained, and none asked another host for anything."""
    chromium = world[2]
    chromium.begin()
    yield chromium
    assert chromium.complaints() == []
    assert chromium.hosts() <= {"127.0.0.1"}


@pytest.fixture(scope="module")
def order(program):
    """A run that failed and was undone."""
    run = program.orchestrator.start("order", tags={"customer": "4711"})
    run.wait(timeout=30)
    return run


@pytest.fixture(scope="module")
def nasty(program):
    """A run of which every text is meant to break a page."""
    tags = {"evil": program.HOSTILE, program.HOSTILE: "x"}
    run = program.orchestrator.start("nasty", {"x": program.HOSTILE}, tags=tags)
    run.wait(timeout=30)
    return run


@pytest.fixture(scope="module")
def waiting(program):
    """A run that waits for another attempt and runs a node meanwhile."""
    run = program.orchestrator.start("enrich-issues", 3, tags={"tenant": "acme"})
    program.LEDGER.wait_for("start", "enrich-prs")
    wait_until(lambda: any(each.state == "parked" for each in run.explain()), "enrich-jira waits")
    return run


def address(flower, run) -> str:
    return f"{flower.address}/flows/run/{run.id}"


def test_the_error_is_the_first_thing_and_what_was_undone(page, flower, order):
    page.open(address(flower, order))
    assert page.text(".fl-why").startswith("ship-parcel failed: Terminal: no shoes of size 43")
    assert "undone by cancel-courier, refund-card and release-stock" in page.text(".fl-why")
    assert "Resume" in page.text(".fl-why .fl-acts")
    assert page.text(".fl-title").startswith("ship-parcel")
    drawn = page.run("return [...document.querySelectorAll('.fl-wide a.node')].map(e => e.getAttribute('aria-label'))")
    assert "ship-parcel: failed: Terminal" in drawn
    assert "book-courier: undone" in drawn


def test_what_it_waits_for_is_the_first_thing(page, flower, waiting):
    page.open(address(flower, waiting))
    said = page.text(".fl-why")
    assert said.startswith(("enrich-jira waits 8 min", "enrich-jira waits 7 min"))
    assert "for attempt 2 of 5" in said
    assert "Meanwhile enrich-prs runs" in said
    before = page.text(".fl-why time[data-kind=left]")
    wait_until(lambda: page.text(".fl-why time[data-kind=left]") != before, "the time left runs")


def test_instants_are_in_the_reader_s_zone_with_utc_on_hover(page, flower, order):
    page.call("Emulation.setTimezoneOverride", timezoneId="Asia/Kathmandu")
    try:
        page.open(address(flower, order))
        shown = page.run(
            "const e = document.querySelector('.fl-facts time[data-kind=clock]'); return [e.innerText, e.title]"
        )
        hour, utc = shown[0][-8:-6], shown[1][11:13]
        assert int(hour) != int(utc)
        assert shown[1].endswith(" UTC")
    finally:
        page.call("Emulation.setTimezoneOverride", timezoneId="")


def test_a_node_is_chosen_in_the_graph_and_the_page_stays_where_it_is(page, flower, order):
    page.open(address(flower, order))
    page.run(
        "window.stayed = true; document.querySelector('.fl-wide [data-node=charge-card]').dispatchEvent("
        "new MouseEvent('click', {bubbles: true, cancelable: true}))"
    )
    page.wait_for(".fl-title", "charge-card")
    assert "node=charge-card" in page.driver.current_url
    assert page.run("return window.stayed")
    assert "ConnectionError: the bank closed" in page.text(".fl-attempts")
    assert '"charged"' in page.text(".fl-panel")
    page.driver.back()
    page.wait_for(".fl-title", "ship-parcel")


def test_an_attempt_is_chosen_and_shows_its_error_and_its_worker(page, flower, order):
    page.open(address(flower, order) + "?node=charge-card")
    page.run("window.stayed = true")
    page.click(".fl-attempts li:last-child a")
    page.wait_for(".fl-attempts .on", "w0@")
    assert "ConnectionError: the bank closed the connection" in page.text(".fl-attempts .on .fl-kv")
    assert "attempt=1" in page.driver.current_url
    assert page.run("return window.stayed")
    page.click(".fl-attempts .on a")
    wait_until(lambda: not page.text(".fl-attempts .on"), "the attempt is folded again")


def test_an_open_page_follows_the_run(page, flower, program):
    run = program.orchestrator.start("nightly-report")
    program.LEDGER.wait_for("start", "transform-23")
    page.open(address(flower, run))
    assert page.text(".fl-status") == "running"
    assert "transform-23" in page.text(".fl-why")
    page.run("window.stayed = true; document.getElementById('fl-history').open = true")
    program.LEDGER.client.set("go:transform-23", 1)
    page.wait_for(".fl-status", "succeeded")
    assert page.run("return window.stayed && document.getElementById('fl-history').open")
    assert page.run("return document.querySelector('.fl-why')") is None


def test_forty_steps_fold_and_unfold(page, flower, program):
    run = program.orchestrator.start("nightly-report")
    run.wait(timeout=30)
    page.open(address(flower, run))
    folded = page.run("return document.querySelectorAll('.fl-wide .node').length")
    page.click(".fl-card h2 a")
    page.wait_for(".fl-card h2 a", "fold")
    assert folded < page.run("return document.querySelectorAll('.fl-wide .node').length") == 40


def test_runs_are_filtered_and_the_address_says_how(page, flower, order, waiting):
    page.open(f"{flower.address}/flows")
    assert {order.id, waiting.id} <= set(rows(page))
    page.click(".fl-states a:nth-child(3) ~ a")  # failed
    page.wait_for(".fl-states .active", "Failed")
    assert waiting.id not in rows(page)
    assert "status=failed" in page.driver.current_url
    page.run("document.querySelector('[name=tag]').value = 'customer=4711'")
    page.click(".fl-filters button")
    wait_until(lambda: "tag=customer" in page.driver.current_url, "the filter is in the address")
    assert rows(page) == [order.id]
    assert "order" in page.run("return [...document.querySelectorAll('[name=flow] option')].map(e => e.value)")


def test_runs_between_two_instants_of_the_reader_s_zone(page, flower, order):
    page.call("Emulation.setTimezoneOverride", timezoneId="Asia/Kathmandu")  # 5:45 before UTC
    try:
        page.open(f"{flower.address}/flows")
        choose = "const e = document.querySelector('[name=since]'); e.value = 'between'; "
        page.run(choose + "e.dispatchEvent(new Event('change', {bubbles: true}))")
        page.run("document.querySelector('[name=since]').value = '2026-01-31T08:00'")
        page.run("document.querySelector('[name=until]').value = '2099-01-31T08:00'")
        page.click(".fl-filters button")
        wait_until(lambda: "since=2026-01-31T02%3A15%3A00" in page.driver.current_url, "the address is in UTC")
        assert order.id in rows(page)
        assert page.run("return document.querySelector('[name=since]').value") == "2026-01-31T08:00"
    finally:
        page.call("Emulation.setTimezoneOverride", timezoneId="")


def test_a_schedule_is_backfilled_with_a_count_first(page, flower, program):
    (carts,) = (row for row in program.orchestrator.schedules() if row.flow == "sweep-carts")
    page.open(f"{flower.address}/flows/schedules")
    assert "every 4 hours" in page.text("main")
    form = f"document.getElementById('fl-fill-{carts.id}')"
    page.run(f"{form}.open = true; {form}.querySelector('[name=since]').value = '2026-01-01T00:00'")
    page.run(f"{form}.querySelector('[name=until]').value = '2026-01-02T00:00'; {form}.querySelector('button').click()")
    page.wait_for(".fl-say", "Start 6 runs of sweep-carts?")
    page.click(".fl-acts button")
    page.wait_for(".fl-said", "6 runs started")
    first = datetime(2026, 1, 1, tzinfo=UTC)
    assert not any(each.is_new for each in program.orchestrator.backfill(carts.id, first, first.replace(day=2)))


def rows(page) -> list[str]:
    found = page.run("return [...document.querySelectorAll('[data-rows] > tr')].map(e => e.id)")
    return [each.removeprefix("run-") for each in found]


def test_nothing_jumps_under_the_pointer(page, flower, program, order):
    page.open(f"{flower.address}/flows?flow=order")
    before = rows(page)
    page.run("document.querySelector('[data-rows] input').focus()")
    new = program.orchestrator.start("order")
    page.wait_for("[data-newer]", "newer run")
    assert rows(page) == before
    page.click("[data-show-newer]")
    wait_until(lambda: new.id in rows(page), "the newer run is there")


def test_a_run_is_cancelled_with_a_reason(page, flower, program):
    run = program.orchestrator.start("sync-tickets", tags={"case": "cancel"})
    again = program.orchestrator.start("sync-tickets", tags={"case": "cancel"})
    page.open(address(flower, again))
    page.click(".fl-ask summary")
    page.run("document.querySelector('.fl-ask [name=reason]').value = 'not wanted any more'")
    page.click(".fl-ask button")
    page.wait_for(".fl-why", "not wanted any more")
    assert again.status == "cancelled"
    run.cancel()


def test_what_waits_for_a_person_is_answered_and_nothing_typed_is_lost(page, flower, program):
    first, other = (program.orchestrator.start("book-trip") for _ in range(2))
    wait_until(lambda: len(program.orchestrator.waiting("book-trip")) == 4, "both ask")
    page.open(f"{flower.address}/flows/waiting")
    row = f"[id='wait-{first.id}-visa']"
    page.click(f"{row} summary")
    page.run("document.querySelector(arguments[0]).value = '\"granted\"'", f"{row} textarea")
    other.cancel()
    wait_until(lambda: not page.text(f"[id='wait-{other.id}-visa']"), "the page is read anew")
    assert page.run("return document.querySelector(arguments[0]).value", f"{row} textarea") == '"granted"'
    page.click(f"{row} button")
    page.wait_for(".fl-head h1", "book-trip")
    assert first.output("visa") == "granted"
    page.click(".fl-answer summary")
    page.run("document.querySelector('.fl-answer [name=by]').value = 'ada'")
    page.click(".fl-answer details[open] button")
    page.wait_for(".fl-why", "ada approved it")
    first.cancel()


def test_a_run_is_started_and_its_input_checked(page, flower):
    page.open(f"{flower.address}/flows/flow/import-catalogue")
    page.run("document.querySelector('[name=input]').value = '\"many\"'")
    page.click(".fl-start button")
    page.wait_for(".fl-problem", "valid integer")
    page.run("document.querySelector('[name=input]').value = '3'")
    page.click(".fl-start button")
    page.wait_for(".fl-head h1", "import-catalogue")
    page.wait_for(".fl-status", "succeeded")
    # The refusal was no error of the page: the browser notes the status of the answer all the same.
    assert all("422" in each for each in page.complaints())


def test_an_open_page_of_a_flow_is_current_and_what_is_typed_there_stays(page, flower, program):
    page.open(f"{flower.address}/flows/flow/sweep-carts")
    page.run("window.stayed = true; document.querySelector('[name=input]').value = '[1, 2'")
    page.click("[name=key]")
    run = program.orchestrator.start("sweep-carts")
    wait_until(
        lambda: page.run("return document.querySelector(arguments[0]) !== null", f".fl-strip a[href$='{run.id}']"),
        "the strip has the run",
    )
    assert page.run(
        "return [window.stayed, document.querySelector('[name=input]').value, document.activeElement.name]"
    ) == [True, "[1, 2", "key"]


def test_the_keyboard_alone(page, flower, order):
    page.open(f"{flower.address}/flows?flow=order&status=failed")
    page.keys("/")
    assert page.run("return document.activeElement.name") == "text"
    page.run("document.activeElement.blur()")
    page.keys("j", Keys.ENTER)
    page.wait_for(".fl-head h1", "order")
    focused: list[str] = []
    wanted = {"reserve-stock", "ship-parcel", "Resume", "fl-history"}
    while not wanted <= set(focused):
        page.call("Input.dispatchKeyEvent", type="keyDown", key="Tab", code="Tab", windowsVirtualKeyCode=9)
        focused.append(page.run(FOCUSED))
        assert len(focused) < 100, focused


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_hostile_texts_execute_nothing_and_break_nothing(page, flower, nasty, width, dark):
    run = f"/flows/run/{nasty.id}"
    for path in (run, f"{run}?node=says-it", "/flows?flow=nasty", "/flows/flow/nasty"):
        page.open(flower.address + path, width=width, dark=dark)
        assert page.run("return document.querySelectorAll('main img, main script:not([src])').length") == 0
        assert page.run("return document.documentElement.scrollWidth") <= width
        assert page.run("return document.documentElement.dataset.bsTheme") == ("dark" if dark else "light")
        assert page.faint() == []


def test_a_task_of_flower_s_own_page_leads_to_its_run(page, flower, program):
    run = program.orchestrator.start("order")
    run.wait(timeout=30)
    task = f"{flower.address}/task/{run.id}"
    wait_until(lambda: "Flow run" in flower.get(f"/task/{run.id}").text, "Flower has heard of the run")
    page.open(task)
    page.click(".detail-actions a")
    page.wait_for("#fl-id", run.id)


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize(
    "path", ["", "/flows", "/limits", "/schedules", "/workers", "/waiting", "/flow/order", "/run/{order}"]
)
def test_every_page_fits_its_window(page, flower, order, path, width):
    page.open(f"{flower.address}/flows{path.format(order=order.id)}", width=width)
    assert page.text("main")
    assert page.run("return document.documentElement.scrollWidth") <= width
    outside = page.run(FORMS_OUTSIDE)
    assert outside == [], "what a button opens is beside the window"


def test_while_redis_does_not_answer_pages_say_so_and_come_back(page, flower, server):
    page.open(f"{flower.address}/flows")
    server.stop()
    try:
        page.wait_for("#fl-lost", "Redis does not answer")
        assert rows(page)  # what was read before stays
        paths = ("", "/flows", "/flow/order", "/limits", "/schedules", "/workers")
        with ThreadPoolExecutor(len(paths)) as threads:
            answers = list(threads.map(lambda path: flower.get(f"/flows{path}"), paths))
        for answer in answers:
            assert answer.status == 503
            assert "Redis does not answer" in answer.text
        assert "did not answer" in flower.get("/flows/api/counts").text
        assert flower.get("/tasks").status == 200  # Flower's own
        page.open(f"{flower.address}/flows/limits")
        page.wait_for("[data-retry]", "comes back by itself")
    finally:
        server.restart()
    page.wait_for("main table", "jira")
    assert all("503" in each for each in page.complaints())
