"""Pictures of the Flows tab, `make pictures`: every page with real runs, light, dark and narrow, and the one of README.

One run waits, one failed and was undone, one has a map of ten thousand items, one forty steps, one starts others.
"""

from __future__ import annotations

import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.server import EmbeddedServer
from tests.browser import Browser, browser
from tests.flower import flower_process
from tests.harness import ROOT, load_program, wait_until, workers

if TYPE_CHECKING:
    from orchestrator import FlowRun

MODULE = "tests.programs.shown"
WHERE = ROOT / ".orchestrator" / "pictures"
README = ROOT / "docs" / "run.png"
LOOKS = {"light": (1440, False), "dark": (1440, True), "narrow": (390, False), "narrow-dark": (390, True)}


def begin(program: Any) -> dict[str, FlowRun]:
    """Start what the pictures show, and wait until each run is where it is wanted."""
    start = program.orchestrator.start
    for number in range(14):  # a strip to look at
        start("order", tags={"customer": str(4700 + number)})
        start("sync-tickets")
    now = datetime.now(UTC)
    program.orchestrator.backfill("sweep-carts", now - timedelta(days=4), now)
    runs = {
        "waits": start("enrich-issues", 3, tags={"tenant": "acme"}),
        "undone": start("order", tags={"customer": "4711"}, idempotency_key="order-88"),
        "map": start("import-catalogue", 10_000),
        "forty": start("nightly-report"),
        "hostile": start("nasty", {"x": program.HOSTILE}, tags={"evil": program.HOSTILE}),
        "person": start("book-trip"),
        "paused": start("book-trip", delay=timedelta(hours=1)),
        "tree": start("deliver"),
        "exchange": start("exchange"),
    }
    program.orchestrator.set_limit(
        "jira", 12, per=timedelta(hours=1), burst=1
    )  # the page of workers has a finding then
    runs["paused"].pause("the agency is closed until noon")
    (runs["scheduled"],) = program.orchestrator.runs(flow="sweep-carts", limit=1)
    for name in ("enrich-prs", "import-product", "transform-23", "drive"):
        program.LEDGER.wait_for("start", name, timeout=120)
    wait_until(lambda: "waiting" in {each.state for each in runs["person"].explain()}, "the manager is asked")
    wait_until(lambda: runs["exchange"].status.is_final, "the exchange is undone", timeout=60)
    wait_until(lambda: runs["undone"].status.is_final, "the order is undone", timeout=60)
    wait_until(lambda: any(each.state == "parked" for each in runs["waits"].explain()), "enrich-jira waits")
    return runs


def take(page: Browser, address: str, runs: dict[str, FlowRun], folder: Path) -> None:
    """Write the pictures of every page in every look."""
    pages = {"runs": "", "flows": "/flows", "flow": "/flow/enrich-issues", "limits": "/limits"}
    pages |= {"waiting": "/waiting", "schedules": "/schedules", "workers": "/workers"}
    pages |= {f"run-{name}": f"/run/{run.id}" for name, run in runs.items()}
    below = runs["tree"].tree().children
    opened = [each.run.id[:8] for each in (*below, *(deeper for each in below for deeper in each.children))]
    pages["run-opened"] = f"/run/{runs['tree'].id}?open={'.'.join(opened)}&node=ship"
    pages["run-repeated"] = f"/run/{runs['tree'].id}?node=watch-stock"
    pages["fork"] = f"/run/{runs['undone'].id}/fork?at=charge-card"
    pages["run-fork"] = f"/run/{runs['undone'].fork(at='reserve-stock').id}"
    pages["runs-children"] = "?children=1"
    for look, (width, dark) in LOOKS.items():
        for name, path in pages.items():
            page.open(f"{address}/flows{path}", width=width, dark=dark)
            page.picture(folder / f"{name}-{look}.png", width=width)
    for name, (width, dark) in LOOKS.items():
        for where in ("/waiting", "/schedules", "/limits", f"/run/{runs['person'].id}"):
            page.open(f"{address}/flows{where}", width=width, dark=dark)
            page.click(".fl-do summary, .fl-answer summary")
            page.picture(folder / f"asked-{where.split('/')[1]}-{name}.png", width=width)
    page.open(f"{address}/flows/run/{runs['waits'].id}", width=1320, height=830)
    page.driver.save_screenshot(str(README))


def main() -> int:
    """Write the pictures into the given folder."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else WHERE
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, EmbeddedServer(Path(scratch) / "server") as server:
        home = Path(scratch)
        program = load_program("shown", server.url)
        with (
            workers(MODULE, server.url, home, options=["-c", "6"]),
            flower_process(MODULE, server.url, home / "flower") as flower,
            browser(home / "profile") as page,
        ):
            take(page, flower.address, begin(program), folder)
            program.LEDGER.client.set("go", 1)
    print(f"{len(list(folder.glob('*.png')))} pictures in {folder}, and {README.relative_to(ROOT)}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
