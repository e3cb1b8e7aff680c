"""Every command against a real server with real runs: what it prints, its JSON, its exit code, and what it refuses."""

from __future__ import annotations

import json
import re
import shlex
import sys
from datetime import timedelta

import click
import pytest
import yaml
from click.testing import CliRunner
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

from orchestrator.cli import COMMANDS, flow
from orchestrator.cli.program import program
from orchestrator.cli.schemas import SCHEMAS
from orchestrator.contrib.prometheus import METRICS
from orchestrator.engine import engine_of
from orchestrator.server import EmbeddedServer
from orchestrator.store.keys import bucket_of
from tests.harness import ROOT, environment_for, load_program, wait_until, workers
from tests.terminal import Terminal
from tests.typist import MODULE, Operator
from tests.warm import run_python

LAMP = '{"item": "lamp"}'
# No hexadecimal number: an id, which every page shows, never holds it by chance.
CARD = "pan-0815"
SUFFIXES = {CounterMetricFamily: ["_total"], HistogramMetricFamily: ["_bucket", "_sum", "_count"]}
SAMPLES = {name + suffix for name, metric in METRICS.items() for suffix in SUFFIXES.get(metric.family, [""])}
"""Names that a scrape has, which dashboards and alerts ask for."""
ELSEWHERE = {"dev"}  # tested in test_dev.py, with a terminal of its own


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server of its own: the commands list what there is, and nothing else is on it."""
    with EmbeddedServer(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="module")
def operator(server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("operated")
    with workers(MODULE, server.url, folder, options=["-c", "2"]) as (worker,):
        yield Operator(load_program("operated", server.url), server.url, worker.log)


@pytest.fixture(scope="module")
def run_id(operator):
    return operator.order()


def every_command(group: click.Group = flow, words: tuple[str, ...] = ()) -> dict[tuple[str, ...], click.Command]:
    context = click.Context(group)
    found = {}
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        found[*words, name] = command
        if isinstance(command, click.Group):
            found |= every_command(command, (*words, name))
    return found


EACH = pytest.mark.parametrize("words", every_command(), ids=" ".join)


def typed_words(words: tuple[str, ...], run_id: str) -> list[str]:
    """The example in the help of a command, as a person types it behind `flow`."""
    (example,) = re.findall(r"Example: (.+)", every_command()[words].epilog or "")
    typed = shlex.split(example.replace("3f2a", run_id[:12]))
    typed = typed[typed.index("flow") + 1 :] if typed[0] == "celery" else typed[1:]
    return typed[2:] if typed[0] == "-A" else typed


@pytest.fixture(scope="module")
def examples(operator, run_id):
    """Every example, typed in a process of its own: exit code, output and errors."""
    typed = {words: typed_words(words, run_id) for words in every_command() if words[0] not in ELSEWHERE}
    lines = json.dumps([["-A", MODULE, "flow", *words] for words in typed.values()])
    answer = run_python(["-m", "tests.programs.typed"], environment_for(operator.url), given=lines, timeout=110)
    assert answer.returncode == 0, answer.stderr
    return dict(zip(typed, json.loads(answer.stdout), strict=True))


@EACH
def test_the_example_in_the_help_of_a_command_can_be_typed(examples, words):
    if words[0] in ELSEWHERE:
        assert words[0] == "dev"
        return
    code, _, errors = examples[words]
    # A run that has ended is not to be cancelled or paused and waits for nothing; no worker consumes one of the queues.
    expected = {("cancel",): 1, ("pause",): 1, ("doctor",): 1, ("signal",): 2, ("approve",): 2, ("reject",): 2}
    expected[("complete",)] = 2
    assert code == expected.get(words, 0), errors
    assert tuple(typed_words(words, "0" * 32)[: len(words)]) == words
    assert "Traceback" not in errors


@EACH
def test_every_command_has_a_schema_and_a_sentence(words):
    command = every_command()[words]
    assert command.get_short_help_str(200).endswith(".")
    assert " ".join(words) in SCHEMAS
    assert any(option.name in {"as_json", "is_json"} for option in command.params)


def test_the_table_of_commands_is_in_the_help(operator):
    text = CliRunner().invoke(program, ["--help"]).stdout
    assert [name for name in COMMANDS if not re.search(rf"^  {name} ", text, re.MULTILINE)] == []
    answer = operator.in_process("--help")
    assert answer.returncode == 0
    assert "schedules" in answer.stdout


def test_a_schema_is_json_with_and_without_asking_for_it(operator):
    assert operator.json("schema", "dev")["required"] == ["process", "line"]
    assert json.loads(operator.type("schema", "dev")) == operator.json("schema", "dev")


def test_a_run_is_started_shown_and_read(operator):
    id = operator.type(
        "start", "order", "--input", LAMP, "--key", "k1", "--tag", "shop=west", "--priority", "3"
    ).strip()
    assert operator.type("start", "order", "--input", "-", "--key", "k1", given=LAMP).strip() == id
    operator.orchestrator.get(id).wait(30)
    shown = operator.type("show", id[:10])
    for words in (id, "succeeded", "key k1", "shop=west", "priority 3", "price", "1 x lamp"):
        assert words in shown
    found = operator.json("show", id)
    assert found["run"]["priority"] == 3
    assert "use a whole number from 0 to 9" in operator.type("start", "lonely", "--priority", "10", code=2)
    assert {node["name"]: node["state"] for node in found["nodes"]} == {"price": "succeeded", "pack": "succeeded"}
    assert operator.json("output", id, "pack")["value"] == "1 x lamp"
    assert operator.json("history", id)[0]["event"] == "run-started"
    assert operator.json("explain", id) == []
    assert "run-succeeded" in operator.type("watch", id)
    assert operator.json("start", "order", "--input", LAMP, "--wait")["result"] == "1 x lamp"
    assert operator.json("start", "order", "--input", LAMP)["flow"] == "order"


def test_what_is_redacted_is_shown_nowhere(operator):
    id = operator.order(card=CARD)
    for words in (("show", id), ("show", id, "--json"), ("output", id, "price"), ("runs", "--json"), ("history", id)):
        assert CARD not in operator.type(*words)
    assert "[redacted]" in operator.type("output", id, "price")
    (line,) = operator.json("show", id)["log"]
    assert line["text"] == "price of {'item': 'lamp', 'count': 1, 'card': '[redacted]'}"
    waited = operator.type("start", "carded", "--input", json.dumps({"item": "lamp", "card": CARD}), "--wait", "--json")
    assert (json.loads(waited)["result"], CARD in waited) == ("[redacted]", False)


def test_no_door_shows_a_redacted_value_that_a_node_tells_in_words(operator):
    """A heartbeat, log lines and an error have it in JSON, in a repr and alone in a sentence."""
    given = json.dumps({"item": "slow", "card": CARD})
    run = operator.orchestrator.get(operator.type("start", "leaky", "--input", given).strip())
    operator.module.LEDGER.wait_for("leaking", run.id)
    doors: list[tuple[str, ...]] = [(door, run.id) for door in ("show", "explain", "history")]
    shown = [operator.type(*words, *json_too) for words in doors for json_too in ((), ("--json",))]
    assert "reports" in shown[2]
    (node,) = operator.json("show", run.id)["nodes"]
    assert re.fullmatch(r"\S+@\S+, process \d+", node["worker"])
    assert f"in {node['worker']} since {node['started'][:10]}" in shown[0]
    assert node["holder"] not in shown[0]
    operator.module.LEDGER.note("go", run.id)
    wait_until(lambda: run.explain()[0].state == "parked", "the attempt failed")
    doors += [("runs", "--flow", "leaky")]
    shown += [operator.type(*words, *json_too) for words in doors for json_too in ((), ("--json",))]
    assert "the bank refused [redacted]" in run.explain()[0].reason
    run.cancel()
    run.wait(30)
    shown += [
        operator.type("watch", run.id, code=1),
        operator.type("start", "leaky", "--wait", "--input", given, "--timeout", "0.1", code=2),
    ]
    shown += [repr(run.error), repr(run.failures()), operator.log.read_text()]
    assert [each for each in shown if CARD in each] == []
    assert "charge [redacted]" in shown[1]


def test_what_is_set_aside_is_named_by_show_list_and_doctor(operator):
    id = operator.type("start", "lonely").strip()
    store = engine_of(operator.orchestrator.app).store
    for kind, name in (("run", id), *(("timer", f"no run|{number}") for number in range(6))):
        store.aside.note(kind, name, "damaged\x1b[2J", now_ms=store.now_ms())
    assert f"run {id} is set aside since" in operator.type("show", id)
    (part,) = operator.json("show", id)["set_aside"]
    assert (part["kind"], part["name"]) == ("run", id)
    listed = CliRunner().invoke(program, ["-A", MODULE, "list"]).stderr
    assert f"run {id} is set aside since" in listed
    assert ("and 2 more are set aside" in listed, "\x1b" in listed) == (True, False)
    found = [each["what"] for each in operator.json("doctor", code=1) if each["name"] == "set-aside"]
    assert len(found) == 7
    store.client.hset(store.keys.nodes(id), "alone", "{")
    damaged = operator.type("show", id)
    assert f"run {id} is set aside since" in damaged
    assert "unreadable" in damaged
    for part in store.aside.parts():
        store.aside.clear(part.kind, part.name)
    operator.type("cancel", id)


def test_a_failed_run_is_exit_code_1_and_names_its_error(operator):
    started = operator.json("start", "refused", "--input", LAMP, "--wait", code=1)
    assert "no lamp left" in started["error"]
    assert "no lamp left" in operator.type("show", started["id"])
    operator.type("watch", started["id"], code=1)
    listed = operator.json("runs", "--flow", "refused", "--status", "failed", "--text", "no lamp", "--since", "1h")
    assert started["id"] in [run["id"] for run in listed["runs"]]
    (acted,) = operator.json("resume", started["id"])["runs"]
    assert acted["is_done"]
    operator.orchestrator.get(started["id"]).wait(30)


def test_lists_are_as_their_schemas_say_too(operator):
    for words in (("limits", "list"), ("schedules", "list"), ("schedules",)):
        assert operator.json(*words)
    lines = operator.type("watch", operator.order(), "--json").splitlines()  # an example undoes the common run
    assert [SCHEMAS["watch"].validate_json(line, strict=True, by_alias=True) for line in lines]


def test_runs_come_in_pages(operator, run_id):
    operator.order()
    first = operator.json("runs", "--flow", "order", "--limit", "1")
    second = operator.json("runs", "--flow", "order", "--limit", "1", "--cursor", first["cursor"])
    assert first["runs"][0]["id"] != second["runs"][0]["id"]
    lines = operator.type("runs", "--flow", "order").splitlines()
    assert all(len(line.split("\t")) == 6 for line in lines)


def test_what_has_ended_can_be_deleted(operator):
    id = operator.order()
    assert operator.json("delete", id)["runs"] == [{"id": id, "is_done": True, "message": "", "made": None}]
    assert "is unknown" in operator.type("show", id, code=2)
    id = operator.type("start", "lonely").strip()
    (refused,) = operator.json("delete", id, code=1)["runs"]
    assert "cancel it first" in refused["message"]
    operator.type("cancel", id)


def test_runs_are_done_again_from_a_step_on(operator):
    ids = [operator.type("start", "steps", "--input", LAMP, "--wait").split()[0] for _ in range(2)]
    words = ("fork", ids[0], "--at", "tell", "--output", "count=12")
    (forked,) = operator.json(*words)["runs"]
    fork = operator.orchestrator.get(forked["made"])
    assert (fork.result(str, timeout=30), forked["id"]) == ("12 of them", ids[0])
    assert f"a fork of run {ids[0]} at tell" in operator.type("show", fork.id)
    assert f"forked: {fork.id}" in operator.type("show", ids[0])
    assert operator.json("show", fork.id)["forked_from"] == ids[0]
    assert "forked-from" in operator.type("history", fork.id)
    made = operator.type("fork", ids[1], "--at", "count", "--input", '{"item": "lamp", "count": 3}').split()[-1]
    assert operator.orchestrator.get(made).result(str, timeout=30) == "3 of them"
    done = operator.json("fork", "--flow", "steps", "--at", "tell", "--yes")
    assert done["count"] == 4
    (refused,) = operator.json("fork", ids[0], "--at", "tel", code=1)["runs"]
    assert "did you mean tell?" in refused["message"]
    assert "--output count is no JSON" in operator.type("fork", ids[0], "--at", "tell", "--output", "count=x", code=2)
    assert "item: Field required" in operator.type("fork", ids[0], "--at", "tell", "--input", "{}", code=1)


def test_the_node_of_a_callback_is_completed(operator):
    def asked(*words, given=None):
        run = operator.orchestrator.start("asking")
        callback = wait_until(lambda: operator.module.LEDGER.client.get(f"callback {run.id}"), "the callback is known")
        acted = operator.type("complete", *(each or callback for each in words), given=given and callback)
        assert acted == f"{run.id}  complete: done\n"
        return run, callback

    run, callback = asked("", '"yes"')
    assert run.result(str, timeout=30) == "yes"
    assert "does not wait for this callback any more" in operator.type("complete", callback, '"yes"', code=2)
    run, _ = asked("-", '"read"', given=True)
    assert run.result(str, timeout=30) == "read"
    run, _ = asked("", "--fail", "no such card")
    run.wait(timeout=30)
    assert run.error.message == "no such card"
    assert "not both" in operator.type("complete", "x", "1", "--fail", "no", code=2)
    assert "is not JSON" in operator.type("complete", "x", "{", code=2)


def test_a_filter_counts_first_and_asks_nobody_without_a_terminal(operator):
    ids = {operator.type("start", "lonely").strip() for _ in range(3)}
    refused = operator.type("cancel", "--flow", "lonely", code=2)
    assert "3 runs to cancel" in refused
    assert "add --yes" in refused
    done = operator.json("cancel", "--flow", "lonely", "--yes", "--reason", "nobody is there")
    assert ({each["id"] for each in done["runs"]}, done["count"]) == (ids, 3)
    assert all(operator.orchestrator.get(id).status == "cancelled" for id in ids)
    assert operator.json("cancel", next(iter(ids)), code=1)["runs"][0]["is_done"] is False
    assert "not both" in operator.type("cancel", code=2)


def test_a_parent_is_named_by_the_beginning_of_its_id_too(operator, run_id):
    for name in (run_id, run_id[:12]):
        assert operator.json("runs", "--parent", name)["runs"] == []
        assert operator.json("cancel", "--parent", name, "--yes")["count"] == 0
    for words in (("runs",), ("cancel", "--yes")):
        assert "is unknown" in operator.type(*words, "--parent", "no-run", code=2)


def test_a_run_that_nobody_begins_is_explained(operator):
    id = operator.type("start", "lonely").strip()
    (waiting,) = operator.json("explain", id)
    assert "no worker consumes" in waiting["reason"]
    answer = operator.in_process("start", "lonely", "--wait", "--timeout", "6")
    assert answer.returncode == 2
    assert "no worker answers: alone waits in queue nobody" in answer.stderr
    operator.type("cancel", "--flow", "lonely", "--yes")


def test_flows_and_their_drawings(operator, run_id):
    assert {row["name"] for row in operator.json("list")} >= {"order", "refused", "slow", "lonely", "nightly"}
    assert operator.json("show", "order")["nodes"][0]["limits"] == ["limiter order-api"]
    assert "limiter" not in operator.type("show", "nightly")
    found = operator.json("show", "bounded")
    assert (found["timeout"], found["max_runs"]) == (3600, {"most": 2, "key": None, "when_full": "skip"})
    brief, below = ({node["name"]: node for node in found["nodes"]}[name] for name in ("brief", "below"))
    assert (brief["deadline"], brief["heartbeat_timeout"], brief["child"]) == (120, 5, None)
    assert (below["deadline"], below["heartbeat_timeout"], below["child"]) == (None, None, "lonely")
    told = [line.strip() for line in operator.type("show", "bounded").splitlines() if "limit of" in line]
    assert told == [
        "limit of the flow: a run ends within 1 h",
        "limit of the flow: at most 2 runs of flow bounded at a time; others are skipped",
        "limit of brief: is done within 2 min from when it is ready",
        "limit of brief: an attempt ends that reports nothing for 5.0 s",
    ]
    assert operator.type("graph", "order", "--mermaid").startswith("flowchart LR")
    assert operator.type("graph", "order", "--dot").startswith('digraph "order"')
    assert operator.type("graph", "order", "--svg").startswith("<svg")
    assert "succeeded" in operator.type("graph", run_id, "--svg")
    assert "price: succeeded" in operator.json("graph", run_id, "--mermaid")["text"]


def test_workers_and_limits(operator):
    (worker,) = operator.json("workers")
    assert set(worker["versions"]) >= {"order", "slow"}
    assert "order" in operator.type("workers")
    operator.json("limits", "set", "order-api", "50", "--per", "1s")
    (limit,) = operator.json("limits")
    assert (limit["n"], limit["is_set"]) == (50, True)
    (frozen,) = operator.json("limits", "freeze", "order-api", "--for", "5m")
    assert frozen["frozen_until"]
    (limit,) = operator.json("limits", "reset", "order-api")
    assert (limit["n"], limit["is_set"], limit["frozen_until"]) == (100, False, None)
    assert "near: order-api" in operator.type("limits", "reset", "oder-api", code=2)
    store = engine_of(operator.orchestrator.app).store
    for verb, *span in (("freeze", "--for", "5m"), ("reset",)):
        operator.type("limits", verb, "order-api", "--key", "acme", *span)
        mark = store.keys.bucket(bucket_of("order-api", "acme"))[3]
        assert store.client.exists(mark) == (verb == "freeze")


def test_schedules_are_paused_triggered_and_filled(operator):
    (paused,) = operator.json("schedules", "pause", "nightly", "--note", "move")
    assert (paused["is_paused"], paused["note"], paused["next"]) == (True, "move", None)
    assert "paused: move" in operator.type("schedules")
    (going,) = operator.json("schedules", "unpause", "night")
    assert going["next"] == operator.json("schedules", "next", "nightly", "--count", "2")[0]
    run = operator.orchestrator.get(operator.json("schedules", "trigger", "nightly")["id"])
    assert run.result(str, timeout=30).startswith("20")
    range_ = ("--since", "2026-03-28", "--until", "2026-03-31")
    assert "add --yes" in operator.type("schedules", "backfill", "nightly", *range_, code=2)
    instants = operator.json("schedules", "backfill", "nightly", *range_, "--dry-run")
    filled = operator.json("schedules", "backfill", "nightly", *range_, "--yes")
    assert [each["instant"] for each in filled] == instants
    # The night of the change has no 2:30; it fires when the clock is put forward.
    assert [instant[8:16] for instant in instants] == ["28T01:30", "29T01:00", "30T00:30"]
    assert [each["is_new"] for each in filled] == [True, True, True]
    results = [operator.orchestrator.get(each["run"]).result(str, timeout=30) for each in filled]
    assert results == [instant.replace("T", " ") for instant in instants]
    again = operator.json("schedules", "backfill", "nightly", *range_, "--yes")
    assert [each["is_new"] for each in again] == [False, False, False]
    assert "did you mean" in operator.type("schedules", "pause", "nihgtly", code=2)


def test_the_doctor_names_what_will_hurt(operator):
    findings = operator.json("doctor", code=1)
    assert "no-consumer" in {each["name"] for each in findings}
    assert "nobody" in operator.type("doctor", code=1)


def test_metrics_are_printed_and_served(operator, run_id):
    operator.type("start", "order", "--input", LAMP, "--tag", "tenant=acme", "--tag", "order=88", "--wait")
    samples = operator.samples()
    assert samples["orchestrator_up",] == 1
    assert samples["orchestrator_runs", "order", "succeeded"] >= 1
    measured = "orchestrator_run_ends_total", "order", "succeeded"
    wait_until(lambda: operator.samples()[measured] >= 1, "the leader to count an end")
    tagged = "orchestrator_tagged_run_ends_total", "order", "succeeded", "tenant", "acme"
    wait_until(lambda: operator.samples().get(tagged) == 1, "the leader to count a tag")
    samples = operator.samples()
    assert samples["orchestrator_tagged_run_seconds_total", "order", "tenant", "acme"] > 0
    assert samples["orchestrator_run_duration_seconds_count", "order"] >= 1
    assert samples["orchestrator_run_duration_seconds_sum", "order"] > 0
    assert samples["orchestrator_run_duration_seconds_bucket", "order", "+Inf"] >= 1
    assert samples["orchestrator_node_duration_seconds_count", "order", "price"] >= 1
    assert samples["orchestrator_queue_consumers", "nobody"] == 0
    assert samples["orchestrator_workers", "order"] == 1
    assert run_id not in operator.type("metrics")
    assert "88" not in {label for sample in samples for label in sample}, "only tags that are named"
    assert set(re.findall(r"^(\w+)", operator.type("metrics"), re.MULTILINE)) <= SAMPLES


@pytest.mark.parametrize("file", ["grafana-dashboard.json", "prometheus-alerts.yml", "keda-scaled-object.yml"])
def test_dashboard_alerts_and_autoscaler_name_metrics_that_there_are(file):
    text = (ROOT / "docker" / file).read_text()
    named = set(re.findall(r"\borchestrator_\w+", text))
    assert named
    assert named <= SAMPLES
    assert json.loads(text) if file.endswith(".json") else yaml.safe_load(text)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("start", "oder"), "did you mean 'order'"),
        (("start", "order", "--input", '{"itm": "lamp", "count": "x"}'), "item: Field required; count: "),
        (("start", "order", "--input", "{"), "--input is no JSON"),
        (("start", "lonely", "--delay", "1e300"), "--delay is 1e+300: give a number of seconds"),
        (("start", "lonely", "--delay", "nan"), "--delay is nan: give a number of seconds"),
        (("start", "order", "--input", "@gone.json"), "gone.json cannot be read"),
        (("show", "ordre"), "did you mean 'order'"),
        (("show", "0" * 32), "is unknown"),
        (("runs", "--since", "yesterday"), "is no instant"),
        (("runs", "--since", "99999999w"), "is no instant"),
        (("limits", "freeze", "order-api", "--for", "9999999999999h"), "is no duration"),
        (("runs", "--status", "done"), "'done' is not one of"),
        (("rusn",), "Did you mean runs"),
        (("schema", "nix"), "there is no schema of 'nix'"),
        (("limits", "freeze", "order-api"), "give either --until or --for"),
    ],
)
def test_a_mistake_is_exit_code_2_and_says_what_to_do(operator, words, message):
    assert message in operator.type(*words, code=2)


def test_names_do_not_reach_the_terminal_as_they_are(operator):
    id = operator.order(item="\x1b[31m\nrm -rf")
    for words in (("show", id), ("output", id, "pack"), ("runs",)):
        assert "\x1b" not in operator.type(*words)


@pytest.mark.parametrize(
    ("app", "message"),
    [
        ("nix", "No module named 'nix'"),
        ("tests.refusals", "has no attribute 'celery'"),
        (f"{MODULE}:nix", "No module named"),
    ],
)
def test_what_is_no_app_is_named_with_the_next_step(operator, app, message):
    answer = CliRunner().invoke(program, ["-A", app, "runs"])
    assert answer.exit_code == 2
    assert message in answer.stderr
    assert "Name the module that calls Orchestrator(app), or use `orchestrator dev`" in answer.stderr


def test_watch_repaints_its_lines_on_a_terminal(operator):
    run = operator.orchestrator.start("slow")
    command = [sys.executable, "-m", "celery", "-A", MODULE, "flow", "watch", run.id[:13]]
    environment = environment_for(operator.url) | {"TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    with Terminal(command, folder=ROOT, environment=environment) as terminal:
        terminal.wait_for("running")
        wait_until(lambda: terminal.text.count("\x1b[J") > 1, "it was painted again")
        operator.module.LEDGER.note("go", run.id)
        assert terminal.process.wait(30) == 0
        assert re.search(r"\x1b\[\d+F", terminal.text)
        assert "succeeded" in terminal.text
    assert run.wait(timedelta(seconds=5)) == "succeeded"


def test_check_judges_the_unfinished_runs_by_this_code(operator):
    id = operator.type("start", "lonely").strip()
    groups = operator.json("check", "--against", "live")
    assert {"flow": "lonely", "verdict": "goes on", "reason": "", "runs": [id]} in groups
    assert "flow lonely: 1 run goes on" in operator.type("check", "--against", "live")
    operator.type("cancel", id)


def test_a_beginning_of_an_id_that_several_runs_have_is_refused_with_their_ids(operator):
    ids: dict[str, str] = {}
    while len(ids) == len(set(ids.values())):
        id = operator.type("start", "lonely").strip()
        ids[id] = id[:1]
    first = next(begin for begin in ids.values() if list(ids.values()).count(begin) > 1)
    assert "begins the ids of" in operator.type("show", first, code=2)
    operator.type("cancel", "--flow", "lonely", "--yes")
