"""The commands of docker-compose.yml, run as processes: each comes up healthy, writes no file, and ends on TERM."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.server import EmbeddedServer
from tests.harness import wait_until

ROOT = Path(__file__).parents[2]
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]

SAYS = {"worker": " ready.", "beat": "beat: Starting...", "flower": "Visit me at"}
"""What a service writes when it has started."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.parametrize(
    "name", ["worker", *(pytest.param(each, marks=pytest.mark.chaos_long) for each in ("beat", "flower"))]
)
def test_a_service_is_healthy_while_it_runs_and_not_after(name, tmp_path):
    directory = tmp_path / "read-only-in-the-container"
    directory.mkdir()
    with EmbeddedServer(tmp_path / "server") as server:
        environment = os.environ | {
            "ORCHESTRATOR_REDIS_URL": server.url,
            "PYTHONPATH": str(ROOT),
            "FLOWER_PORT": str(free_port()),
        }

        def check() -> "subprocess.CompletedProcess[str]":
            command = [sys.executable, str(ROOT / "docker/health.py"), name]
            return subprocess.run(command, env=environment, cwd=directory, capture_output=True, text=True, check=False)

        with (tmp_path / "log").open("w") as log:
            service = subprocess.Popen(
                [sys.executable, "-m", *(word.replace("0.0.0.0", "127.0.0.1") for word in SERVICES[name]["command"])],
                cwd=directory,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            # A check is a process that costs as much as the service's own start.
            wait_until(lambda: SAYS[name] in (tmp_path / "log").read_text() or service.poll() is not None, "it starts")
            deadline = time.monotonic() + 60
            while (health := check()).returncode != 0:
                assert service.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < deadline, health.stderr + (tmp_path / "log").read_text()
            service.terminate()
            assert service.wait(30) == 0, (tmp_path / "log").read_text()
            assert check().returncode == 1
        finally:
            if service.poll() is None:
                os.killpg(service.pid, 9)
                service.wait(10)
    assert list(directory.iterdir()) == []


def test_a_check_that_does_not_exist_is_refused(tmp_path):
    command = [sys.executable, str(ROOT / "docker/health.py"), "moon"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    answer = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert answer.returncode == 2
    assert "worker|beat|flower" in answer.stderr
