"""Deployment: container files and Celery's settings, read as data and held against the code they start."""

import importlib
import json
import pkgutil
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from celery.app.defaults import DEFAULTS

import celeryconfig
from orchestrator.definition.flow import Flow
from orchestrator.settings import Settings

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if "build" in service]
INSTRUCTIONS = [
    (word, rest.strip())
    for word, rest in re.findall(
        r"^([A-Z]+)\s+(.*)$", (ROOT / "docker/Dockerfile").read_text().replace("\\\n", " "), flags=re.MULTILINE
    )
]


def seconds(text: str) -> timedelta:
    return timedelta(seconds=int(text.removesuffix("s")))


def test_the_services_are_those_of_a_whole_deployment():
    assert SERVICES.keys() == {"server", "worker", "beat", "flower"}
    assert OURS == ["worker", "beat", "flower"]


@pytest.mark.parametrize("name", SERVICES)
def test_commands_and_health_checks_have_no_shell(name):
    service = SERVICES[name]
    assert isinstance(service["command"], list)
    check = service["healthcheck"]
    assert isinstance(check["test"], list)
    assert check["test"][0] == "CMD"
    assert check.keys() >= {"interval", "timeout", "retries", "start_period"}
    assert service["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", SERVICES)
def test_nothing_is_writable_that_need_not_be(name):
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["tmpfs"] == ["/tmp"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service


@pytest.mark.parametrize("name", SERVICES)
def test_no_port_is_open_beyond_this_machine(name):
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", []))


@pytest.mark.parametrize("name", OURS)
def test_ours_start_what_is_there(name):
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["depends_on"]["server"]["condition"] == "service_healthy"
    celery, option, application, role = service["command"][:4]
    assert (celery, option, role) == ("celery", "-A", name)
    assert (ROOT / application.replace(".", "/")).with_suffix(".py").is_file()
    assert service["healthcheck"]["test"] == ["CMD", "python", "health.py", name]


def test_a_worker_is_left_to_end_its_nodes_and_give_back_the_rest():
    assert seconds(SERVICES["worker"]["stop_grace_period"]) >= Settings().shutdown_grace + timedelta(seconds=10)
    assert celeryconfig.worker_soft_shutdown_timeout == Settings().shutdown_grace.total_seconds()


def test_every_path_that_compose_names_is_there():
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in COMPOSE["volumes"] or (ROOT / source).is_file()
        if "build" in service:
            assert (ROOT / service["build"]["context"] / service["build"]["dockerfile"]).is_file()


def test_the_server_loses_nothing():
    lines = (line.split(maxsplit=1) for line in (ROOT / "docker/server.conf").read_text().splitlines())
    settings = {line[0]: line[1] for line in lines if line and not line[0].startswith("#")}
    assert settings["appendonly"] == "yes"
    assert settings["appendfsync"] == "everysec"
    assert settings["maxmemory-policy"] == "noeviction"
    (volume,) = (volume for volume in SERVICES["server"]["volumes"] if volume.startswith("server-data"))
    assert volume.split(":")[1] == settings["dir"]


def test_the_image_runs_as_nobody_special_and_without_a_shell():
    words = [word for word, _ in INSTRUCTIONS]
    assert words.count("FROM") == 2, "what builds is not what runs"
    (user,) = (rest for word, rest in INSTRUCTIONS if word == "USER")
    assert int(user.split(":")[0]) >= 10000
    assert words.index("USER") > max(place for place, word in enumerate(words) if word in {"COPY", "RUN"})
    for word, rest in INSTRUCTIONS:
        if word in {"RUN", "CMD", "ENTRYPOINT"}:
            assert isinstance(json.loads(rest), list)
    assert words.count("CMD") == 1


def test_the_image_is_made_of_what_is_there_and_sent_to_the_builder():
    sent = {line[1:].rstrip("/") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for word, rest in INSTRUCTIONS:
        if word == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                path = source.removeprefix("./")
                assert (ROOT / path).exists(), source
                assert path.split("/")[0] in sent, f"{source} is kept from the builder by .dockerignore"


def test_constraints_are_versions_and_nothing_else():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert [pin for pin in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", pin)] == []
    assert not any(pin.startswith("celery-orchestrator") for pin in pins)


def celery_settings() -> dict[str, Any]:
    return {name: value for name, value in vars(celeryconfig).items() if not name.startswith("_") and name != "os"}


def test_every_setting_is_one_that_celery_knows():
    assert celery_settings().keys() - DEFAULTS.keys() == set()


def test_every_setting_has_its_reason_beside_it():
    lines = (ROOT / "celeryconfig.py").read_text().splitlines()
    settings = [at for at, line in enumerate(lines) if re.match(r'([a-z_]+ = |    "[a-z_]+": )', line)]
    bare = [lines[at] for at in settings if not lines[at - 1].lstrip().startswith("#")]
    assert bare == ["broker_transport_options = {"], "whose every option has its own"


def test_only_json_is_read():
    assert celeryconfig.accept_content == ["json"]
    assert DEFAULTS["result_accept_content"] is None, "that is, as accept_content"
    assert celeryconfig.task_serializer == celeryconfig.result_serializer == "json"


def test_late_acknowledgement_is_not_forced_on_other_tasks():
    forced = {"task_acks_late", "task_reject_on_worker_lost", "task_retry_on_worker_lost", "task_time_limit"}
    assert celery_settings().keys() & forced == set()


def test_no_message_comes_back_while_its_node_runs():
    modules = [
        importlib.import_module(found.name)
        for found in pkgutil.walk_packages([str(ROOT / "workers")], prefix="workers.")
        if found.name.startswith("workers.flows.")
    ]
    flows = [value for module in modules for value in vars(module).values() if isinstance(value, Flow)]
    assert flows
    longest = max(node.timeout for flow in flows for node in flow.nodes())
    assert timedelta(seconds=celeryconfig.broker_transport_options["visibility_timeout"]) > longest
