"""Seams to Flower: where the Flows tab is put into a Flower that has no plug-ins.

Flower reads a list of handlers and a dict of settings when it makes its app. Both are extended; two of its templates
get a link. Where a Flower is not as expected, that part is left out and one sentence in the log says so.
"""

from __future__ import annotations

import logging
from importlib import metadata
from pathlib import Path
from typing import Any

import flower.urls
from flower.views import monitor
from tornado.template import Loader, Template
from tornado.web import StaticFileHandler, url

from orchestrator.web import actions, callback_door, fork_page, json_api, metrics, pages, waiting_page

logger = logging.getLogger(__name__)

HERE = Path(__file__).parent
RUN = r"([0-9a-f-]{32,36})"
NAME = r"([^/]+)"
TAB = """<li class="nav-item"><a class="nav-link{% if active_tab == 'flows' %} active{% end %}"
  href="{{ reverse_url('flows') }}"{% if active_tab == 'flows' %} aria-current="page"{% end %}>Flows</a></li>
"""
LINK = """{% if flow_run_of(task) %}<a class="btn btn-outline-secondary"
  href="{{ reverse_url('flow-run', flow_run_of(task)) }}">Flow run</a>{% end %}
"""
CHANGED = {
    # Behind Flower's own tabs, which are the first list of the bar; before the buttons of a task.
    "navbar.html": ("</ul>", TAB, True),
    "task.html": ('<div class="detail-actions">', LINK, False),
}
"""Flower's templates that get something: where, what, and whether before that place."""


def add_tab() -> None:
    """Add the pages to Flower's handlers and their link to its templates; a second call changes nothing."""
    try:
        _add()
    except (AttributeError, IndexError, KeyError, TypeError, OSError) as error:
        logger.warning(
            "Flower %s has no Flows tab: it is not as orchestrator.web knows it (%r); Flower itself is as it was",
            metadata.version("flower"),
            error,
        )


def _add() -> None:
    handlers, settings = flower.urls.handlers, flower.urls.settings
    if any(getattr(handler, "name", None) == "flows" for handler in handlers):
        return
    loader = FlowsLoader(settings["template_path"])
    loader.load("base.html")  # what is not there is found now, not when somebody opens a page
    if not isinstance(handlers, list) or "template_loader" in settings:
        raise TypeError("handlers is no list, or somebody else loads templates")
    methods = settings.get("ui_methods") or {}
    settings["ui_methods"] = {**methods, "flow_run_of": flow_run_of}
    settings["template_loader"] = loader
    handlers[:] = [("/metrics", metrics.Metrics) if _is_metrics(each) else each for each in handlers]
    handlers[-1:-1] = addresses()


def _is_metrics(handler: Any) -> bool:
    return isinstance(handler, tuple) and handler[:2] == ("/metrics", monitor.Metrics)


def addresses() -> list[Any]:
    """Return the addresses of the tab."""
    return [
        url(r"/flows", pages.RunsPage, name="flows"),
        url(rf"/flows/run/{RUN}", pages.RunPage, name="flow-run"),
        url(rf"/flows/run/{RUN}/fork", fork_page.Fork, name="flow-fork"),
        url(rf"/flows/run/{RUN}/output/{NAME}", pages.Output, name="flow-output"),
        url(r"/flows/waiting", waiting_page.WaitingPage, name="flows-waiting"),
        url(r"/flows/answer", waiting_page.Answer, name="flows-answer"),
        url(r"/flows/flows", pages.FlowsPage, name="flows-flows"),
        url(rf"/flows/flow/{NAME}", pages.FlowPage, name="flows-flow"),
        url(rf"/flows/flow/{NAME}/start", actions.Start, name="flows-start"),
        url(r"/flows/limits", pages.LimitsPage, name="flows-limits"),
        url(r"/flows/schedules", pages.SchedulesPage, name="flows-schedules"),
        url(r"/flows/workers", pages.WorkersPage, name="flows-workers"),
        url(r"/flows/act", actions.Act, name="flows-act"),
        url(r"/flows/limit", actions.ChangeLimit, name="flows-limit"),
        url(r"/flows/schedule", actions.ChangeSchedule, name="flows-schedule"),
        url(r"/flows/backfill", actions.Backfill, name="flows-backfill"),
        url(r"/flows/api/runs", json_api.Runs, name="flows-api-runs"),
        url(rf"/flows/api/run/{RUN}", json_api.Run, name="flows-api-run"),
        url(rf"/flows/api/flow/{NAME}", json_api.Flow, name="flows-api-flow"),
        url(r"/flows/api/complete/(.*)", callback_door.Complete, name="flows-complete"),
        url(r"/flows/api/([a-z]+)", json_api.Listing, name="flows-api"),
        url(r"/flows/static/(.+)", StaticFileHandler, {"path": str(HERE / "static")}, name="flows-static"),
    ]


def flow_run_of(_handler: Any, task: Any) -> str:
    """Return the run that a task of Flower's belongs to; empty for a task that is none of ours."""
    root = str(getattr(task, "root_id", None) or getattr(task, "uuid", None) or "")
    return root if root and root in str(getattr(task, "args", None) or "") else ""


class FlowsLoader(Loader):
    """Loader of Flower's templates, some with a link of ours inside, and of our own."""

    def resolve_path(self, name: str, parent_path: str | None = None) -> str:
        """Return the name itself: Flower's folder and ours are both flat."""
        del parent_path
        return name

    def _create_template(self, name: str) -> Template:
        path = HERE / "templates" / name if name.startswith("flows_") else Path(self.root) / name
        text = path.read_text(encoding="utf-8")
        if name in CHANGED:
            text = _changed(name, text)
        return Template(text, name=name, loader=self)


def _changed(name: str, text: str) -> str:
    place, addition, is_before = CHANGED[name]
    at = text.find(place)
    if at < 0:
        logger.warning("Flower's %s has no %s, so that it has no link to the flows; they are at /flows", name, place)
        return text
    at += 0 if is_before else len(place)
    return text[:at] + addition + text[at:]
