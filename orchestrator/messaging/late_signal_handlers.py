"""Call on_after_configure handlers connected after Orchestrator(app) configured the app.

Registering tasks configures and finalizes the app, and Celery sends these signals only once. A handler connected
afterwards, further down in the same module, is called when a worker or beat has imported everything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery.signals import import_modules
from celery.utils.dispatch import Signal

if TYPE_CHECKING:
    from celery import Celery


def call_late_handlers(app: Celery) -> None:
    """Call handlers of `on_after_configure` and `on_after_finalize` that are connected after this call too."""
    signals = {app.on_after_configure: {"source": app.conf}, app.on_after_finalize: {}}
    called = {signal: list(signal.receivers) for signal in signals}

    def call(**_: Any) -> None:
        for signal, named in signals.items():
            late = Signal(name=signal.name)
            late.receivers = [receiver for receiver in signal.receivers if receiver not in called[signal]]
            late.send(sender=app, **named)

    import_modules.connect(call, sender=app, weak=False)
