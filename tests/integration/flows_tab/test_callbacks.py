"""The open door of the tab: who has the text of a callback completes its node, from anywhere, and nobody else does."""

from __future__ import annotations

import http.client
import json
import socket

import pytest

from orchestrator.store.callbacks import Callback
from tests.flower import basic, flower_process
from tests.harness import wait_until

MODULE = "tests.programs.tabbed"
MOST = 1024 * 1024


@pytest.fixture
def render(program):
    """A run whose node waits for its callback, and the address that completes it."""
    run = program.orchestrator.start("render")
    program.work(run, "order-film")
    return run, f"/flows/api/complete/{program.CALLBACKS[run.id]}"


@pytest.mark.parametrize(
    "headers",
    [{}, {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}, {"X-Forwarded-For": "10.0.0.1"}],
)
def test_who_has_the_text_completes_the_node_once_from_anywhere(flower, guarded, render, headers):
    run, path = render
    for each in (flower, guarded):
        assert each.get(path).status == 405
    assert not run.status.is_final
    done = guarded.ask("POST", path, "90", headers | {"Host": "flower.example"})
    assert (done.status, done.text) == (204, "")
    assert "Access-Control-Allow-Origin" not in done.headers
    assert (run.status, run.result(int)) == ("succeeded", 90)
    again = flower.ask("POST", path, "91", headers)
    assert (again.status, json.loads(again.text)) == (
        410,
        {"error": "Nobody waits for this callback, or not any more."},
    )
    assert run.result(int) == 90


def test_who_has_not_the_whole_text_learns_nothing(flower, render, program, run):
    done, path = render
    text = program.CALLBACKS[done.id]
    other = Callback.of(text)
    wrong = [
        "",
        "x",
        "../../flows",
        text[:-1],
        text * 60,
        other._replace(secret="0" * 32).text,
        other._replace(secret="").text,
        other._replace(run_id=run.id).text,
        other._replace(node="no-node").text,
    ]
    answers = [flower.ask("POST", f"/flows/api/complete/{each}", '"no number"') for each in wrong]
    assert {(each.status, each.text) for each in answers} == {(410, answers[0].text)}
    stale = flower.ask("POST", f"/flows/api/complete/{other._replace(generation=7).text}", "1")
    assert (stale.status, stale.text) == (410, answers[0].text)
    unfit = flower.ask("POST", path, '"no number"')
    assert unfit.status == 422
    assert "order-film" in unfit.text
    assert not done.status.is_final
    assert flower.ask("POST", path, "1").status == 204


@pytest.mark.parametrize("body", ["{", "[" * 100_000, "nonsense", "NaN"])
def test_a_body_that_is_no_json_is_refused(flower, render, body):
    run, path = render
    assert flower.ask("POST", path, body).status in {400, 422}
    assert not run.status.is_final


def test_a_body_is_not_taken_beyond_the_largest_payload(flower, render):
    run, path = render
    # Of the first no byte: the answer to what is left unread could be lost with the connection.
    chunks = (b"10000\r\n" + b" " * 0x10000 + b"\r\n") * 17 + b"0\r\n\r\n"
    for header, sent in ((f"Content-Length: {MOST + 1}", b""), ("Transfer-Encoding: chunked", chunks)):
        with socket.create_connection(("127.0.0.1", flower.port), timeout=20) as connection:
            connection.sendall(f"POST /in/here{path} HTTP/1.1\r\nHost: x\r\n{header}\r\n\r\n".encode() + sent)
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            assert answer.status == 413, header
    assert not run.status.is_final
    assert flower.ask("POST", path, " 5 ").status == 204


def test_read_only_or_by_a_setting_the_door_is_closed(read_only, render, server, folder, monkeypatch):
    run, path = render
    assert read_only.ask("POST", path, "5").status == 403
    monkeypatch.setenv("ORCHESTRATOR_HTTP_CALLBACKS", "0")
    with flower_process(MODULE, server.url, folder / "closed") as closed:
        assert closed.ask("POST", path, "5").status == 404
    assert not run.status.is_final


def test_the_text_of_a_callback_is_in_no_log(server, program, folder):
    run = program.orchestrator.start("render")
    program.work(run, "order-film")
    text = program.CALLBACKS[run.id]
    with flower_process(MODULE, server.url, folder / "logged", "--debug", "--basic-auth=a:b") as logged:
        for method, body in (("GET", ""), ("POST", "{"), ("POST", '"x"'), ("POST", "3"), ("POST", "3"), ("PUT", "")):
            logged.ask(method, f"/flows/api/complete/{text}?x={text}", body)
        logged.get("/flows", Authorization=basic("a:b"))
        wait_until(lambda: "/flows " in logged.process.text or "GET /flows" in logged.process.text, "it logs")
        assert text not in logged.process.text
        assert "/flows/api/complete/***" in logged.process.text
    assert run.result(int) == 3
