"""Iterations of a node that repeats, and items of a map: each can be chosen, with its attempts and what it stored."""

from __future__ import annotations

import re


def panel_of(page):
    return page.partition('id="node"')[2].partition("</aside>")[0]


def test_each_iteration_is_chosen_with_its_output(flower, program):
    run = program.orchestrator.start("counting", 0)
    program.work(run, "count-on")
    assert run.result(int) == 45
    page = panel_of(flower.get(f"/flows/run/{run.id}?node=count-on").text)
    assert "Iterations and their attempts" in page
    chosen = re.findall(r'href="([^"]+attempt=[^"]+)"', page)
    assert [each.rpartition("attempt=")[2] for each in chosen] == [f"{number}.1" for number in range(44, 4, -1)]
    assert "The newest 40 of 45 in the history." in page
    shown = panel_of(flower.get(f"/flows/run/{run.id}?node=count-on&attempt=30.1").text)
    assert '<dt>Output</dt><dd><pre class="fl-pre">31</pre>' in shown
    assert "iteration stored" in shown
    for nonsense in ("30", "30.7", "-1.1", "%3Cscript%3E", "9" * 500):
        page = flower.get(f"/flows/run/{run.id}?node=count-on&attempt={nonsense}")
        assert (page.status, 'aria-expanded="true"' in panel_of(page.text)) == (200, False)


def test_an_item_of_a_map_has_its_attempts(flower, program):
    run = program.orchestrator.start("payments", 3)
    program.work(run, "pay-all.over")
    program.work(run, *["pay-each"] * 3)
    item = panel_of(flower.get(f"/flows/run/{run.id}?node=pay-each%5B2%5D&attempt=1").text)
    assert re.findall(r'<li class="on"><a href="[^"]*node=pay-each%5B2%5D"', item)
    assert "card 2 was declined" in item.partition("<dt>Error</dt>")[2]
