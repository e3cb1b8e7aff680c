"""Children on a run's page and in the commands: opened three deep, and undone without a node of its own."""

from __future__ import annotations

import re

import pytest
from click.testing import CliRunner

from orchestrator.cli.program import program as command

MODULE = "tests.programs.tabbed"
HOSTILE = "%22%3E%3Cscript%3Ealert(1)%3C/script%3E"


def graph_of(page):
    return page.partition('class="fl-wide">')[2].partition("</svg>")[0]


def typed(*words):
    answer = CliRunner().invoke(command, ["-A", MODULE, *words])
    assert answer.exit_code == 0, answer.output
    return answer.stdout


@pytest.fixture
def tree(program):
    """A run, its child, that one's child, and the last one's, which stands."""
    run = program.orchestrator.start("journey", 7)
    runs = [run]
    for node in ("go-on-tour", "run-errand", "print-label"):
        program.work(runs[-1], node)
        runs += runs[-1].children()
    assert [each.flow_name for each in runs] == ["journey", "tour", "errand", "label"]
    return runs


def test_a_run_and_its_children_link_each_other(flower, program, run):
    parent = program.orchestrator.start("errand", 7)
    assert "Children" not in flower.get(f"/flows/run/{parent.id}").text
    program.work(parent, "print-label")
    (child,) = parent.children()
    page = flower.get(f"/flows/run/{parent.id}").text
    assert "which is pending, since" in page
    assert f'href="/in/here/flows/run/{child.id}"' in page
    assert f'<a href="/in/here/flows?parent={parent.id}">1 child</a>' in page
    listed = flower.get(f"/flows?parent={parent.id}").text
    assert re.findall(r'id="run-([^"]+)"', listed) == [child.id]
    assert f'child of <a href="/in/here/flows/run/{parent.id}">' in flower.get(f"/flows/run/{child.id}").text
    assert 'name="parent" value=""' in flower.get("/flows").text  # the field is there to be used
    assert "Children" not in flower.get(f"/flows/run/{run.id}").text


def test_children_are_opened_three_deep_in_graph_and_tree(flower, tree):
    run, *below = tree
    first, second, third = (each.id[:8] for each in below)
    closed = flower.get(f"/flows/run/{run.id}").text
    assert f">▸ tour {first}<" in graph_of(closed)
    assert "run-errand" not in graph_of(closed)
    assert re.findall(r'<tr class="d(\d)">', closed) == ["1"]
    assert f'href="/in/here/flows/run/{run.id}?open={first}" data-node=""' in graph_of(closed)

    half = flower.get(f"/flows/run/{run.id}?open={first}").text
    assert f">▸ errand {second}<" in graph_of(half)
    assert f"open={first}.{second}" in graph_of(half)
    assert f'href="/in/here/flows/run/{below[0].id}?node=run-errand"' in graph_of(half)

    whole = flower.get(f"/flows/run/{run.id}?open={first}.{second}.{third}&node=go-on-tour").text
    assert [each in graph_of(whole) for each in (">run-errand<", ">print-label<", ">print<")] == [True, True, True]
    assert re.findall(r'<tr class="d(\d)">', whole) == ["1", "2", "3"]
    assert f'href="/in/here/flows/run/{run.id}?node=go-on-tour&amp;open={first}.{third}"' in graph_of(whole)
    assert f'<a href="/in/here/flows/run/{below[0].id}"><code>{first}</code></a>' in whole.partition('id="node"')[2]
    (leaf,) = re.findall(r'<a class="node[^>]*href="([^"]*node=print)"', graph_of(whole))
    assert leaf == f"/in/here/flows/run/{below[2].id}?node=print"
    assert flower.get(leaf.removeprefix("/in/here")).status == 200

    for nonsense in (HOSTILE, "zzzzzzzz", f"{first}." * 500, "..", "%00"):
        page = flower.get(f"/flows/run/{run.id}?open={nonsense}")
        assert page.status == 200
        assert "<script>alert" not in page.text


def test_commands_name_the_run_below_its_node(program, tree):
    run, child, *_ = tree
    assert f"run {child.id} of flow tour: running" in typed("show", run.id)
    assert f"go-on-tour (flow tour): waiting\n  run {child.id}: running\n" in typed("graph", run.id)
    assert f'-.- n0r(["run {child.id[:8]}: running"])' in typed("graph", run.id, "--mermaid")
    assert f'"go-on-tour" -> "{child.id}"' in typed("graph", run.id, "--dot")
    assert child.id in typed("runs", "--children")
    assert child.id not in typed("runs")
    assert typed("show", child.id[:10]).startswith(f"run {child.id} of flow tour: running")


def test_a_child_that_is_undone_is_a_state_of_its_node(flower, program):
    run = program.orchestrator.start("swap", 7)
    program.work(run, "print-label")
    (child,) = run.children()
    program.work(child, "print")
    program.work(run, "ship")
    assert (run.status, child.status) == ("failed", "cancelled")
    assert run.show().nodes[0].state == "compensated"
    page = flower.get(f"/flows/run/{run.id}?node=print-label").text
    assert "print-label.undo" not in page
    assert "What had succeeded was undone by the rollback of print-label&#x27;s run." in page
    assert "the run that it started was undone" in page
    assert "print-label.undo" not in typed("show", run.id)
    assert f"run {child.id} of flow label: cancelled" in typed("show", run.id)
