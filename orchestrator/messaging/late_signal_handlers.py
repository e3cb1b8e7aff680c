"""Which handlers of an app's start an orchestrator came before, and when they are called after all.

To register tasks an app has to be configured and finalized; Celery tells that once. A handler connected afterwards,
further down in the same module, is called when a worker or beat has imported everything and is about to use the app.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery.signals import import_modules
from celery.utils.dispatch import Signal

if TYPE_CHECKING:
    from celery import Celery


def call_late_handlers(app: Celery) -> None:
    """Let handlers of `on_after_configure` and `on_after_finalize` be connected after this call too."""
    signals = {app.on_after_configure: {"source": app.conf}, app.on_after_finalize: {}}
    called = {signal: list(signal.receivers) for signal in signals}

    def call(**_: Any) -> None:
        for signal, named in signals.items():
            late = Signal(name=signal.name)
            late.receivers = [receiver for receiver in signal.receivers if receiver not in called[signal]]
            late.send(sender=app, **named)

    import_modules.connect(call, sender=app, weak=False)
