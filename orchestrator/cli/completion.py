"""Completion of flows' names by a shell: of the app that `-A` names, or of the `orchestrator dev` of this folder."""

from __future__ import annotations

import contextlib
import io

import click
from celery import Celery
from celery.app.utils import find_app
from click.shell_completion import CompletionItem

from orchestrator.cli.dev_state import use_running_dev
from orchestrator.engine import Engine


class FlowName(click.ParamType):  # type: ignore[type-arg] # generic since click 8.2
    """A text that a shell completes with the names of flows."""

    name = "text"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG002 - click's signature
        """Return the names that begin with what was written."""
        return [CompletionItem(name) for name in _flow_names(ctx) if name.startswith(incomplete)]


def _flow_names(ctx: click.Context) -> list[str]:
    """Return the flows of the app; none if it cannot be had: a shell that completes shows no error."""
    given = ctx.find_root().params.get("app") or use_running_dev()
    # What the app's modules print would be taken for names.
    with contextlib.suppress(Exception), contextlib.redirect_stdout(io.StringIO()):
        app = given if isinstance(given, Celery) else find_app(given)
        app.loader.import_default_modules()
        engine: Engine = getattr(app, Engine.ATTRIBUTE)
        engine.discovery.catch_up()
        return sorted(engine.registry.flows)
    return []
