"""The seams to Flower: what is added, once, and that a Flower that has changed stays as it is with one sentence."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import flower.urls
import pytest

from orchestrator.web import install, metrics, tab


@pytest.fixture
def urls(monkeypatch):
    """Flower's lists, of which nothing outlives the test."""
    monkeypatch.setattr(flower.urls, "handlers", list(flower.urls.handlers))
    monkeypatch.setattr(flower.urls, "settings", dict(flower.urls.settings))
    return flower.urls


def names(urls) -> list[str]:
    return [name for handler in urls.handlers if (name := getattr(handler, "name", None))]


def test_the_pages_stand_before_the_page_for_what_is_not_found(urls):
    before = len(urls.handlers)
    install()
    assert {"flows", "flow-run", "flows-limits"} <= set(names(urls))
    assert urls.handlers[-1][0] == r".*"
    assert len(urls.handlers) == before + len(tab.addresses())


def test_the_metrics_are_flower_s_and_ours(urls):
    install()
    (found,) = [each[1] for each in urls.handlers if isinstance(each, tuple) and each[0] == "/metrics"]
    assert found is metrics.Metrics


def test_a_second_call_changes_nothing(urls):
    install()
    handlers, loader = list(urls.handlers), urls.settings["template_loader"]
    install()
    assert urls.handlers == handlers
    assert urls.settings["template_loader"] is loader


def test_settings_of_others_are_kept(urls):
    urls.settings["ui_methods"] = {"mine": print}
    install()
    assert urls.settings["ui_methods"].keys() == {"mine", "flow_run_of"}


@pytest.mark.parametrize(
    "change",
    [
        lambda urls: urls.settings.pop("template_path"),
        lambda urls: urls.settings.update(template_path="/not/there"),
        lambda urls: urls.settings.update(template_loader=object()),
        lambda urls: setattr(urls, "handlers", tuple(urls.handlers)),
    ],
    ids=["no templates", "templates elsewhere", "another loader", "handlers no list"],
)
def test_a_flower_that_has_changed_stays_as_it_is(urls, monkeypatch, caplog, change):
    change(urls)
    before, settings = list(urls.handlers), dict(urls.settings)
    with caplog.at_level(logging.WARNING):
        install()
    assert list(urls.handlers) == before
    assert urls.settings == settings
    (record,) = caplog.records
    assert "has no Flows tab" in record.getMessage()


def test_a_template_that_has_changed_stays_as_it_is(urls, monkeypatch, caplog):
    monkeypatch.setitem(tab.CHANGED, "navbar.html", ("<menu>", tab.TAB, True))
    loader = tab.FlowsLoader(urls.settings["template_path"])
    with caplog.at_level(logging.WARNING):
        loader.load("navbar.html")
    (record,) = caplog.records
    assert "they are at /flows" in record.getMessage()


@pytest.mark.parametrize(
    ("task", "run"),
    [
        ({"uuid": "t", "root_id": "r-1", "args": "('r-1',)"}, "r-1"),
        ({"uuid": "r-1", "root_id": None, "args": "('r-1',)"}, "r-1"),
        ({"uuid": "t", "root_id": "other", "args": "(1, 2)"}, ""),
        ({"uuid": "t", "root_id": None, "args": None}, ""),
        ({}, ""),
    ],
)
def test_the_run_of_a_task(task, run):
    assert tab.flow_run_of(None, SimpleNamespace(**task)) == run
