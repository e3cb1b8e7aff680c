"""Command `metrics`: the metrics of runs once, or for Prometheus on a port."""

from __future__ import annotations

import threading
from typing import Any

import click

from orchestrator.cli.problems import Refusal
from orchestrator.cli.session import Session, command
from orchestrator.cli.text import as_json

try:
    from prometheus_client import CollectorRegistry, generate_latest, start_http_server

    from orchestrator.contrib.prometheus import Collector
except ImportError:  # an extra; the command then says how to get it
    Collector = None  # type: ignore[assignment, misc]


@command("metrics", example="metrics")
@click.option("--port", type=click.IntRange(0, 65535), help="Serve them here until Ctrl-C, rather than print them.")
@click.option("--address", default="127.0.0.1", show_default=True, help="With --port: where to listen.")
def metrics(session: Session, port: int | None, address: str) -> None:
    """Print the metrics, or serve them for Prometheus.

    They are those of runs, nodes, queues, limits, schedules and workers.
    """
    if Collector is None:
        raise Refusal("metrics need prometheus_client: pip install 'celery-orchestrator[metrics]'")
    registry, collector = CollectorRegistry(), Collector(session.orchestrator)
    registry.register(collector)
    if port is None:
        collector.refresh()
        click.echo(
            as_json(_rows(registry)) if session.is_json else generate_latest(registry).decode(), nl=session.is_json
        )
        return
    collector.start()
    server, _ = start_http_server(port, addr=address, registry=registry)
    click.echo(f"http://{address}:{server.server_port}/metrics")
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        collector.stop()
        server.shutdown()


def _rows(registry: CollectorRegistry) -> list[dict[str, Any]]:
    return [
        {"name": sample.name, "labels": sample.labels, "value": sample.value}
        for family in registry.collect()
        for sample in family.samples
    ]
