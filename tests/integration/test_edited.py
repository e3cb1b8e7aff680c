"""A deployment that edits a node of flows that run: kinds of edit at kinds of place, old and new workers mixed.

No run fails that its old code can end. What only old code can do waits, says for whom, can be cancelled, and goes on
when a worker comes whose code fits. Some cells of the matrix run always, all of them in `make chaos`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

from orchestrator.cli.live import GOES_ON, GONE, NO_FIT, judge_live
from orchestrator.server import EmbeddedServer
from tests.harness import load_program, wait_until, workers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from orchestrator import FlowRun
    from tests.harness import WorkerProcess

    Cell: TypeAlias = tuple[str, str]

pytestmark = pytest.mark.timeout(400)  # the story of all cells takes minutes
PLACES = ("chain", "parallel", "branch", "map", "compensation", "fused", "local")
EDITS = ("body", "renamed", "removed", "output", "input", "read", "computed-read")
ALWAYS = {
    *(("chain", edit) for edit in EDITS),
    *(("parallel", "removed"), ("map", "output"), ("local", "input"), ("compensation", "computed-read")),
    ("fused", "read"),
}
CELLS = [
    pytest.param(place, edit, id=f"{place}-{edit}", marks=[] if (place, edit) in ALWAYS else pytest.mark.chaos_long)
    for place in PLACES
    for edit in EDITS
]
LOAD = 2
"""Runs of each cell and version while both have a worker."""
SOON_S = 5.0
"""From when a worker with fitting code is ready to the start of what waits for it; a busy machine takes longer."""


@dataclass
class World:
    """What happened: both versions at work, then the new one alone, then an old worker again.

    Attributes:
        cells: Place and edit of each flow that is looked at.
        versions: The programs, by version.
        mixed: By version, place and edit: the runs while both versions had a worker.
        waiting: A run of the old version of each cell that the new one has for itself.
        reasons: What `explain` says of each of them that waits.
        foretold: What `check --against live` says of each of them by the new code, as soon as it has started.
        judged: The same once it waits.
        cancelled: A run of each cell that waits as they do, and is cancelled.
        back_after: Seconds from the old worker's being ready to the start of what waited for it.
        called: (version, node) of each call, by run.
    """

    cells: list[Cell]
    versions: dict[str, Any]
    mixed: dict[tuple[str, str, str], list[FlowRun]] = field(default_factory=dict)
    waiting: dict[Cell, FlowRun] = field(default_factory=dict)
    reasons: dict[Cell, list[str]] = field(default_factory=dict)
    foretold: dict[Cell, str] = field(default_factory=dict)
    judged: dict[Cell, str] = field(default_factory=dict)
    cancelled: dict[Cell, FlowRun] = field(default_factory=dict)
    back_after: dict[Cell, float] = field(default_factory=dict)
    called: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    def start(self, version: str, cell: Cell) -> FlowRun:
        run: FlowRun = self.versions[version].orchestrator.start("-".join(cell))
        return run

    def run_mixed(self) -> None:
        """Start runs of both versions, and wait for the end of each."""
        for _ in range(LOAD):
            for cell in self.cells:
                for version in self.versions:
                    self.mixed.setdefault((version, *cell), []).append(self.start(version, cell))
        for runs in self.mixed.values():
            for run in runs:
                run.wait(timeout=60)

    def run_without_old(self) -> None:
        """Start runs of the old version until each has ended or waits, and cancel some of them."""
        for cell in self.cells:
            self.waiting[cell], self.cancelled[cell] = self.start("old", cell), self.start("old", cell)
        self.foretold = self.judge()
        for cell in self.cells:
            for run in (self.waiting[cell], self.cancelled[cell]):
                wait_until(partial(has_come_to_rest, run), f"{cell} has ended or waits")
            run = self.waiting[cell]
            self.reasons[cell] = [] if run.status.is_final else [waiting.reason for waiting in run.explain()]
            self.cancelled[cell].cancel()
        self.judged = self.judge()

    def judge(self) -> dict[Cell, str]:
        """Return the verdict of the new code over the run of each cell that has not ended."""
        verdicts = {id: each.verdict for each in judge_live(self.versions["new"].orchestrator) for id in each.runs}
        return {cell: verdicts[run.id] for cell, run in self.waiting.items() if run.id in verdicts}

    def run_with_old_again(self) -> None:
        """Wait for what waits, now that there is a worker of the old version."""
        back = datetime.now(UTC)
        for cell, run in self.waiting.items():
            run.wait(timeout=60)
            starts = [event.at for event in run.history() if event.event == "started" and event.at > back]
            self.back_after[cell] = (min(starts, default=back) - back).total_seconds()
        for run in self.cancelled.values():
            run.wait(timeout=60)
        print(*[f"{seconds:.1f} s {cell}" for cell, seconds in self.back_after.items()], sep="\n")  # noqa: T201 - figures


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="module")
def world(request, server, tmp_path_factory) -> World:
    """The story of the cells that are looked at."""
    wanted = {
        (item.callspec.params["place"], item.callspec.params["edit"])
        for item in request.session.items
        if item.path == request.path
    }
    versions = {name: load_program(f"edited_{name}", server.url).VERSION for name in ("old", "new")}
    told = World(sorted(wanted), versions)
    with worker("new", server.url, tmp_path_factory.mktemp("new")) as (new,):
        with worker("old", server.url, tmp_path_factory.mktemp("old")) as (old,):
            told.run_mixed()
            check_alive(old)
        told.run_without_old()
        with worker("old", server.url, tmp_path_factory.mktemp("old-again")) as (old,):
            told.run_with_old_again()
            check_alive(old)
        check_alive(new)
    ledger = load_program("edited", server.url).LEDGER
    for version in versions:
        for name in ledger.names(version):
            run_id, _, node = name.partition("/")
            told.called.setdefault(run_id, []).append((version, node))
    return told


def worker(version: str, url: str, folder: Path) -> AbstractContextManager[list[WorkerProcess]]:
    options = ["-c", "2", "-Q", "edited"]
    return workers(f"tests.programs.edited_{version}", url, folder, options=options, lease="3", reconcile_every="0.5")


def check_alive(worker: WorkerProcess) -> None:
    assert worker.process.poll() is None, worker.log.read_text()[-4000:]


def has_come_to_rest(run: FlowRun) -> bool:
    """It has ended, or waits for code."""
    return run.status.is_final or any("no code" in waiting.reason for waiting in run.explain())


def is_done_by_new(place: str, edit: str) -> bool:
    """Whether the new version ends a run of the old one: what a compensation returns is not stored."""
    return edit == "body" or (place, edit) == ("compensation", "output")


def may_be_new(place: str, edit: str) -> bool:
    """Whether the new node fits: of a map with other reads, it is the computation of the items that does not."""
    return is_done_by_new(place, edit) or (place == "map" and "read" in edit)


def check_end(run: FlowRun, place: str) -> None:
    assert run.status == ("failed" if place == "compensation" else "succeeded"), run.error
    if place == "compensation":
        assert run.error is not None
        assert run.error.node_name == "last"


def callers(world: World, run: FlowRun, node: str) -> set[str]:
    return {version for version, name in world.called.get(run.id, []) if name.partition("[")[0] == node}


@pytest.mark.parametrize(("place", "edit"), CELLS)
def test_no_run_fails_while_both_versions_have_a_worker(place, edit, world):
    for version in ("old", "new"):
        for run in world.mixed[version, place, edit]:
            check_end(run, place)


@pytest.mark.parametrize(("place", "edit"), CELLS)
def test_the_version_that_a_node_belongs_to_calls_it_once(place, edit, world):
    for run in world.mixed["old", place, edit]:
        assert not {event.event for event in run.history()} & {"retrying", "lost", "timed-out"}
        assert callers(world, run, "edited") == {"old"} or may_be_new(place, edit)
        assert set(Counter(name for _, name in world.called[run.id]).values()) == {1}


@pytest.mark.parametrize(("place", "edit"), CELLS)
def test_what_only_old_code_can_do_waits_and_goes_on_soon_after_it_is_back(place, edit, world):
    run, reasons = world.waiting[place, edit], world.reasons[place, edit]
    check_end(run, place)
    if is_done_by_new(place, edit):
        assert reasons == [], "new code could do it"
        return
    assert any(f"{place}-{edit}." in reason and "no code" in reason for reason in reasons)
    assert callers(world, run, "edited") == {"old"} or may_be_new(place, edit)
    assert world.back_after[place, edit] < 3 * SOON_S


@pytest.mark.parametrize(("place", "edit"), CELLS)
def test_the_check_before_a_deployment_says_what_then_happens(place, edit, world):
    foretold, judged = world.foretold.get((place, edit), GOES_ON), world.judged.get((place, edit), GOES_ON)
    # A read under a computed key, or by a function that another one calls (the map), is found by an attempt alone.
    is_unseen = edit == "computed-read" or (place, edit) == ("map", "read")
    expected = (
        GOES_ON if is_unseen or is_done_by_new(place, edit) else GONE if edit in {"renamed", "removed"} else NO_FIT
    )
    assert judged == expected
    # A compensation counts from when the run is being compensated.
    assert foretold == expected or (place == "compensation" and foretold == GOES_ON)


@pytest.mark.parametrize(("place", "edit"), CELLS)
def test_a_run_that_waits_for_code_can_be_cancelled(place, edit, world):
    run = world.cancelled[place, edit]
    if is_done_by_new(place, edit) or place == "compensation":  # it had its verdict before
        check_end(run, place)
    else:
        assert run.status == "cancelled"
