"""paginate on real workers: page after page, each recorded, retried, limited and gone on from by itself."""

from __future__ import annotations

from collections import Counter

import pytest

from orchestrator import Pages
from tests.harness import lasting_keys, load_program, wait_until, workers


@pytest.fixture(scope="module")
def paged(server, tmp_path_factory):
    program = load_program("paged", server.url)
    folder = tmp_path_factory.mktemp("paged")
    with workers("tests.programs.paged", server.url, folder, options=["-c", "4", "-Q", "paged"]):
        yield program


def start(paged, flow, given=5):
    return paged.orchestrator.start(flow, given)


def fetched(ledger, run):
    """Page to how often it was fetched."""
    return dict(Counter(int(name.split("/")[1]) for name in ledger.names("page") if name.startswith(run.id)))


def whole(last):
    """All pages of the source."""
    items = list(range(2 * last + 2))
    return Pages(items=items, final_cursor=str(last) if last else None, page_count=last + 1, total_items=len(items))


@pytest.mark.parametrize("last", [0, 1, 120])
def test_every_page_is_fetched_once_and_the_items_are_in_order(paged, ledger, last):
    run = start(paged, "plain", last)
    assert run.result(int, timeout=60) == sum(range(2 * last + 2))
    assert run.output("numbers", Pages[int]) == whole(last)
    assert run.state().get(paged.numbers) == whole(last)
    assert fetched(ledger, run) == dict.fromkeys(range(last + 1), 1)
    assert lasting_keys(paged.LEDGER.client, f"*{run.id}*") == {}


def test_an_async_function_fetches_pages_too(paged):
    found = start(paged, "later", 3).result(Pages[int], timeout=30)
    assert (found.items, found.final_cursor) == ([0, 1, 2, 3], "4")


def test_max_pages_ends_it_there(paged, ledger):
    run = start(paged, "few", 100)
    found = run.result(Pages[int], timeout=30)
    assert (found.items, found.final_cursor, found.page_count) == (list(range(6)), "3", 3)
    assert fetched(ledger, run) == {0: 1, 1: 1, 2: 1}


def test_a_crash_repeats_only_the_page_that_was_being_fetched(paged, ledger):
    run = start(paged, "dies", 6)
    assert run.result(Pages[int], timeout=60) == whole(6)
    assert fetched(ledger, run) == {0: 1, 1: 1, 2: 1, 3: 2, 4: 1, 5: 1, 6: 1}
    assert [event.node for event in run.history() if event.event == "lost"] == ["numbers"]


def test_each_page_has_all_its_attempts(paged, ledger):
    run = start(paged, "flakes", 3)
    assert run.result(Pages[int], timeout=60) == whole(3)
    assert fetched(ledger, run) == dict.fromkeys(range(4), 3)


def test_a_page_that_is_told_to_wait_does_so(paged, ledger):
    run = start(paged, "throttles", 4)
    assert run.result(Pages[int], timeout=60) == whole(4)
    assert fetched(ledger, run) == {0: 1, 1: 1, 2: 2, 3: 1, 4: 1}


def test_an_attempt_past_its_timeout_repeats_its_page(paged, ledger):
    run = start(paged, "hangs", 2)
    assert run.result(Pages[int], timeout=60) == whole(2)
    assert fetched(ledger, run) == {0: 1, 1: 2, 2: 1}


def test_resume_goes_on_at_the_page_that_was_missing(paged, ledger):
    run = start(paged, "refuses", 4)
    assert run.wait(timeout=30) == "failed"
    assert (run.error.node_name, run.error.message) == ("numbers", "closed")
    ledger.client.set("open", 1)
    run.resume()
    assert run.result(Pages[int], timeout=30) == whole(4)
    assert fetched(ledger, run) == {0: 1, 1: 1, 2: 2, 3: 1, 4: 1}


def test_a_limit_holds_for_each_page(paged, ledger):
    run = start(paged, "limited", 24)
    assert run.wait(timeout=60) == "succeeded"
    at = sorted(at for kind, name, at, _ in ledger.lines() if kind == "page" and name.startswith(run.id))
    assert len(at) == 25
    assert at[-1] - at[0] > 24 / 20 * 0.9


def test_a_run_is_cancelled_in_the_middle_and_can_go_on(paged, ledger):
    run = start(paged, "limited", 60)
    wait_until(lambda: len(fetched(ledger, run)) > 5, "it is at work")
    run.cancel()
    assert run.wait(timeout=30) == "cancelled"
    before = fetched(ledger, run)
    assert len(before) < 60
    run.resume()
    assert run.result(Pages[int], timeout=60) == whole(60)
    assert fetched(ledger, run) == dict.fromkeys(range(61), 1)


@pytest.mark.parametrize(
    ("what", "kind", "words"),
    [
        ("same", "PaginationError", "comes with the cursor that it was fetched with"),
        ("none", "PaginationError", "comes with no cursor"),
        ("large", "PayloadTooLarge", "page 1 of node numbers is 2000"),
        ("not-json", "InvalidOutput", "NaN"),
    ],
)
def test_a_page_that_cannot_be_used_ends_the_node(paged, ledger, what, kind, words):
    run = start(paged, "wrongs", what)
    assert run.wait(timeout=30) == "failed"
    assert run.error.type == f"orchestrator.errors.{kind}"
    assert words in run.error.message
    assert sorted(ledger.names("page")) == [f"{run.id}/None", f"{run.id}/a"]


def test_a_function_is_told_the_size_and_has_a_key_for_each_page(paged):
    found = start(paged, "contexts").result(Pages[list[object]], timeout=30)
    assert found.items == [[25, 1, "told", "/told/0/0"], [25, 1, "told", "/told/0/1"]]


@pytest.mark.parametrize("last", [3, 60])
def test_in_a_parallel_step_the_join_waits_for_the_last_page(paged, ledger, last):
    run = start(paged, "both", last)
    assert run.result(list[int], timeout=60) == [2 * last + 2] * 2
    assert fetched(ledger, run) == dict.fromkeys(range(last + 1), 2)


def test_a_step_goes_on_without_the_pages_of_a_failed_member(paged):
    assert start(paged, "best", 3).result(list[str], timeout=30) == ["one"]


def test_what_was_fetched_is_undone(paged, ledger):
    run = start(paged, "undone", 3)
    assert run.wait(timeout=30) == "failed"
    other = start(paged, "undone-started", 3)
    assert other.wait(timeout=30) == "failed"
    assert sorted(ledger.names("undo")) == sorted([f"{run.id}=8", f"{other.id}=None"])
    ledger.client.set("open", 1)
    other.resume()
    assert other.result(Pages[int], timeout=30) == whole(3)
    assert fetched(ledger, other) == {0: 2, 1: 2, 2: 2, 3: 1}


def test_a_run_begins_where_the_last_successful_one_ended(paged, ledger):
    def sync():
        run = paged.orchestrator.start("synced")
        run.wait(timeout=30)
        return run

    def cursor():
        return paged.orchestrator.cursor(paged.synced, "feed")

    ledger.client.set("grown", 7)
    assert cursor() is None
    assert (sync().output("news", Pages[int]).items, cursor()) == (list(range(7)), "7")
    assert (sync().output("news", Pages[int]).items, cursor()) == ([], "7")
    ledger.client.set("grown", 9)
    ledger.client.set("broken", 1)
    failed = sync()
    assert (failed.status, cursor()) == ("failed", "7")
    ledger.client.delete("broken")
    assert (sync().output("news", Pages[int]).items, cursor()) == ([7, 8], "9")
    # What failed began before that: its own pages stay, the source is not taken back.
    ledger.client.set("grown", 12)
    failed.resume()
    assert failed.wait(timeout=30) == "succeeded"
    assert (failed.output("news", Pages[int]).items, cursor()) == ([7, 8], "9")
    assert [event.detail for event in failed.history() if event.event == "cursor-kept"] == ["feed"]
    paged.orchestrator.reset_cursor("synced", "feed", "2")
    assert (sync().output("news", Pages[int]).items, cursor()) == (list(range(2, 12)), "12")
    paged.orchestrator.reset_cursor(paged.synced, "feed")
    assert cursor() is None
