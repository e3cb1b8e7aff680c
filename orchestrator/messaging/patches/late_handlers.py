"""Call on_after_configure handlers connected after Orchestrator(app) configured the app.

Registering tasks configures and finalizes the app, and Celery sends these signals only once. Handlers connected
afterwards, further down in the same module or in a task module, are called when a worker or beat has imported them all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery.utils.dispatch import Signal

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery


def call_late_handlers(app: Celery) -> None:
    """Call handlers of `on_after_configure` and `on_after_finalize` that are connected after this call too."""
    signals = {app.on_after_configure: {"source": app.conf}, app.on_after_finalize: {}}
    called = {signal: list(signal.receivers) for signal in signals}

    def call() -> None:
        for signal, named in signals.items():
            late = Signal(name=signal.name)
            late.receivers = [receiver for receiver in signal.receivers if receiver not in called[signal]]
            called[signal] += late.receivers  # Flower and `celery report` import the modules too: once is enough
            late.send(sender=app, **named)

    after_imports(app, call)


def after_imports(app: Celery, act: Callable[[], None]) -> None:
    """Do something when a worker or beat has imported its task modules.

    Not by the signal import_modules: Celery sends it before the modules of `include`, and an app that is autodiscovered
    after its orchestrator connects to it behind us.
    """
    import_modules = app.loader.import_default_modules

    def import_and_act() -> Any:
        modules = import_modules()
        act()
        return modules

    app.loader.import_default_modules = import_and_act
