"""Discovery of flows: in packages that are named, and in those in which the app looks for tasks."""

from __future__ import annotations

import sys
import types

import pytest
from celery import Celery

from orchestrator import FlowBuilder, Orchestrator, RegistrationError, StoreUnavailable
from orchestrator.engine import engine_of

FLOW = """
from orchestrator import FlowBuilder, Node, manual
flow = FlowBuilder("{name}").triggered_by(manual("test")).then(Node("only", lambda: None)).build()
"""


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """One package with a module of flows, one with a package of flows and no tasks, and one with neither."""
    for path, text in {
        "one/__init__.py": "",
        "one/tasks.py": "",
        "one/flows.py": FLOW.format(name="found-one"),
        "two/__init__.py": "",
        "two/flows/__init__.py": FLOW.format(name="found-two"),
        "two/flows/more.py": FLOW.format(name="found-more"),
        "none/__init__.py": "",
        "broken/__init__.py": "",
        "broken/flows.py": "import nowhere_at_all",
    }.items():
        file = tmp_path / "discovered" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (tmp_path / "discovered" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    yield [f"discovered.{name}" for name in ("one", "two", "none")]
    for name in [name for name in sys.modules if name.split(".")[0] == "discovered"]:
        del sys.modules[name]


@pytest.fixture
def app():
    with Celery(
        "discovery", broker="redis://127.0.0.1:1/0", backend="redis://127.0.0.1:1/0", set_as_current=False
    ) as app:
        yield app


def flows(app):
    return sorted(engine_of(app).registry.flows)


ALL = ["found-more", "found-one", "found-two"]


def test_packages_that_are_named_are_searched_at_once(app, packages):
    Orchestrator(app).autodiscover(packages)
    assert flows(app) == ALL


def test_a_package_that_is_missing_and_a_module_that_is_broken_are_errors(app, packages):
    orchestrator = Orchestrator(app)
    with pytest.raises(ModuleNotFoundError, match=r"discovered\.missing"):
        orchestrator.autodiscover(["discovered.missing"])
    with pytest.raises(ModuleNotFoundError, match="nowhere_at_all"):
        orchestrator.autodiscover(["discovered.broken"])


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("related_name", ["tasks", "flows"])
def test_a_worker_finds_flows_where_it_finds_tasks(app, packages, is_first, related_name):
    if is_first:
        app.autodiscover_tasks(packages, related_name)
    Orchestrator(app)
    if not is_first:
        app.autodiscover_tasks(lambda: packages, related_name)
    assert flows(app) == []
    app.loader.init_worker()
    assert flows(app) == ALL
    assert "found-one.only" in app.tasks


def test_another_apps_packages_are_not_searched(app, packages):
    with Celery("other", broker="redis://127.0.0.1:1/0", set_as_current=False) as other:
        other.autodiscover_tasks(packages)
        Orchestrator(app)
        app.loader.init_worker()
    assert flows(app) == []


def test_a_client_searches_when_a_flow_is_not_registered(app, packages):
    orchestrator = Orchestrator(app)
    app.autodiscover_tasks(packages)
    with pytest.raises(StoreUnavailable):  # the flow was found, and there is no Redis
        orchestrator.start("found-one")
    assert flows(app) == ALL


class Fixup:
    """As Celery's for Django: names the installed apps."""

    def __init__(self, names):
        self.names = names

    def autodiscover_tasks(self):
        return self.names


@pytest.fixture
def django_apps(monkeypatch):
    """Django's registry before its models are loaded."""
    registry = types.SimpleNamespace(models_ready=False)
    monkeypatch.setitem(sys.modules, "django.apps", types.SimpleNamespace(apps=registry))
    return registry


def test_a_django_project_is_searched_when_its_models_are_loaded(app, packages, django_apps):
    app._fixups.append(Fixup(packages[1:]))
    orchestrator = Orchestrator(app)
    orchestrator.autodiscover(packages[:1])
    assert flows(app) == []
    app.autodiscover_tasks()
    django_apps.models_ready = True  # Celery's fixup loads them before a worker imports its modules
    app.loader.init_worker()
    assert flows(app) == ALL


def test_a_project_that_is_ready_is_searched_at_once(app, packages, django_apps):
    app._fixups.append(Fixup(packages))
    django_apps.models_ready = True
    Orchestrator(app).autodiscover(packages)
    assert flows(app) == ALL


def test_a_builder_is_refused_with_what_to_do(app):
    with pytest.raises(RegistrationError, match=r"not FlowBuilder; call build\(\)"):
        Orchestrator(app).register(FlowBuilder("forgotten"))  # type: ignore[arg-type]
