"""Find flows in the modules of packages: those that are named, and those in which the app looks for its tasks.

A Django project's packages can be imported only when Django has loaded its models, which is after the module of the
Celery app. Until then packages are remembered; they are searched when a worker or beat has imported its task modules,
and before a flow is started that is not registered.
"""

from __future__ import annotations

import pkgutil
import sys
from importlib import import_module
from threading import RLock
from typing import TYPE_CHECKING

from celery.loaders.base import find_related_module
from celery.signals import import_modules

from orchestrator.definition.flow import Flow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import ModuleType

    from celery import Celery

FLOWS = "flows"


class Discovery:
    """Packages that are searched for flows of one app.

    Attributes:
        register: Registers a flow.
    """

    def __init__(self, app: Celery, register: Callable[[Flow], None]) -> None:
        self._app = app
        self.register = register
        self._waiting: list[tuple[tuple[str, ...], str]] = []
        self._searched: set[str] = set()
        # Reentrant: a module that is imported under it may start a flow, which catches up in its turn.
        self._lock = RLock()

    def search(self, packages: Iterable[str], related_name: str) -> None:
        """Register every flow in `<package>.<related_name>`, later if it is too early to import it.

        Raises:
            ModuleNotFoundError: A package itself does not exist.
        """
        if _is_too_early(self._app):
            self._waiting.append((tuple(packages), related_name))
            return
        self._search_named(packages, related_name)

    def catch_up(self) -> None:
        """Search what was too early, and the `flows` of every package in which Celery looks for tasks."""
        with self._lock:
            while self._waiting:
                self._search_named(*self._waiting[0])
                del self._waiting[0]  # behind them: what cannot be imported is an error each time
            for package in _packages_of_tasks(self._app):
                if package not in self._searched:
                    self._register_from(find_related_module(package, FLOWS))
                    self._searched.add(package)

    def _search_named(self, packages: Iterable[str], related_name: str) -> None:
        for package in packages:
            import_module(package)  # find_related_module would look for a package that is missing one level up
            self._register_from(find_related_module(package, related_name))

    def _register_from(self, module: ModuleType | None) -> None:
        for each in () if module is None else _with_submodules(module):
            for value in list(vars(each).values()):
                if isinstance(value, Flow):
                    self.register(value)


def _with_submodules(module: ModuleType) -> Iterator[ModuleType]:
    yield module
    for found in pkgutil.iter_modules(getattr(module, "__path__", ())):
        yield import_module(f"{module.__name__}.{found.name}")


def _fixups(app: Celery) -> list[object]:
    """What names the packages of a framework: of Django, the installed apps."""
    return [fixup for fixup in app._fixups if hasattr(fixup, "autodiscover_tasks")]  # noqa: SLF001 - Celery names none


def _is_too_early(app: Celery) -> bool:
    """Whether the app is a Django project's, and Django has not loaded its models."""
    django_apps = sys.modules.get("django.apps")
    return bool(_fixups(app)) and not (django_apps and django_apps.apps.models_ready)


def _packages_of_tasks(app: Celery) -> Iterator[str]:
    """The packages of every `app.autodiscover_tasks(...)`: Celery keeps them as receivers of a signal."""
    for _, receiver in list(import_modules.receivers):
        search = getattr(receiver, "fun", None)
        if getattr(search, "__self__", None) is app and getattr(search, "__name__", "") == "_autodiscover_tasks":
            packages = receiver.args[0]
            if callable(packages):
                packages = packages()
            yield from packages or (name for fixup in _fixups(app) for name in fixup.autodiscover_tasks())  # type: ignore[attr-defined]
