"""Fork from here: the form on the page of a run that has ended, what it refuses, and what the fork's page says."""

from __future__ import annotations

import re

import pytest

from tests.flower import basic

HOSTILE = "</textarea><script>alert(1)</script>"


@pytest.fixture
def ended(program, run):
    program.work(run, "reserve-stock", "ship-parcel")
    assert run.status == "succeeded"
    return run


def problem_of(answer):
    return re.findall(r'class="fl-problem" role="alert">(.*?)</p>', answer.text, re.DOTALL)


def test_a_run_is_forked_at_the_node_that_is_looked_at(flower, program, ended):
    page = flower.get(f"/flows/run/{ended.id}?node=ship-parcel").text
    assert f'href="/in/here/flows/run/{ended.id}/fork?at=ship-parcel">Fork from here…</a>' in page
    form = flower.get(f"/flows/run/{ended.id}/fork?at=ship-parcel").text
    assert re.findall(r"<option( selected)?>([^<]+)<", form) == [("", "reserve-stock"), (" selected", "ship-parcel")]

    values = {"at": "ship-parcel", "input": "", "outputs": '{"reserve-stock": "shelf 7"}'}
    answer = flower.post(f"/flows/run/{ended.id}/fork", values)

    (fork,) = ended.forks()
    assert (answer.status, answer.headers["Location"]) == (303, f"/in/here/flows/run/{fork.id}")
    assert fork.output("reserve-stock") == "shelf 7"
    page = flower.get(f"/flows/run/{fork.id}?node=reserve-stock").text
    assert f'fork of <a href="/in/here/flows/run/{ended.id}"><code>{ended.id[:8]}</code></a> at ship-parcel' in page
    assert ">taken over<" in page
    assert "Fork from here" not in page, "it has not ended"
    assert f'forked <a href="/in/here/flows/run/{fork.id}">' in flower.get(f"/flows/run/{ended.id}").text
    program.work(fork, "ship-parcel")
    assert fork.status == "succeeded"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"input": "{" + HOSTILE}, "input: it is no JSON"),
        ({"outputs": "[1]"}, "outputs: it is no JSON object"),
        ({"outputs": '{"nothing": 1}'}, "no node before the fork has the output key"),
        ({"at": "nowhere"}, "nowhere"),
    ],
)
def test_what_is_refused_is_said_and_what_was_typed_is_kept(flower, ended, values, said):
    typed = {"at": "ship-parcel", "input": "", "outputs": ""} | values
    answer = flower.post(f"/flows/run/{ended.id}/fork", typed)
    assert answer.status == 422
    (problem,) = problem_of(answer)
    assert said in problem
    assert "<script>alert" not in answer.text
    assert ended.forks() == []
    if "input" in values:
        assert "{&lt;/textarea&gt;&lt;script&gt;" in answer.text


def test_a_run_that_goes_on_and_a_child_are_not_forked(flower, program, run):
    assert "Only a run that has ended" in flower.get(f"/flows/run/{run.id}/fork?at=ship-parcel").text
    parent = program.orchestrator.start("errand", 7)
    program.work(parent, "print-label")
    (child,) = parent.children()
    program.work(child, "print")
    assert child.status == "succeeded"
    refused = flower.get(f"/flows/run/{child.id}/fork?at=print")
    assert (refused.status, "at the top of its tree" in refused.text) == (409, True)
    page = flower.get(f"/flows/run/{child.id}").text
    assert "Fork from here" not in page
    assert 'value="undo"' not in page


def test_only_who_may_act_forks_and_undoes(flower, guarded, read_only, ended):
    path, values = f"/flows/run/{ended.id}/fork", {"at": "ship-parcel", "input": "", "outputs": ""}
    assert flower.post(path, values, token=False).status == 403
    assert flower.post(path, values, Origin="http://evil.example").status == 403
    assert flower.post(path, values, X_Forwarded_For="10.0.0.1").status == 403
    assert guarded.post(path, values).status in (401, 403)
    assert (read_only.get(path).status, read_only.post(path, values, token=False).status) == (403, 403)
    assert "Fork from here" not in read_only.get(f"/flows/run/{ended.id}").text
    assert ended.forks() == []
    undo = {"op": "undo", "run": ended.id, "confirm": "yes", "reason": "sent back"}
    assert guarded.post("/flows/act", undo, Authorization=basic("ada:secret")).status == 303
    assert ended.status == "cancelled"
    assert "sent back (by ada)" in str(ended.error)
