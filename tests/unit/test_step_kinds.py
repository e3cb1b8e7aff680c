"""Kinds of steps are the same on both sides, and one that only newer workers know is left to them."""

from __future__ import annotations

import re
from dataclasses import replace
from importlib.resources import files

from orchestrator import FlowBuilder, Node, manual
from orchestrator.definition.registry import Registry
from orchestrator.definition.step_plan import END, STEP_RULES, StepRules


def act() -> int:
    return 1


def registered():
    flow = FlowBuilder("f").triggered_by(manual("test")).then(Node("a", act)).then(Node("b", act)).build()
    registry = Registry("celery")
    entry = registry.add(flow)
    assert entry is not None
    return registry, entry.plan


def test_the_scripts_know_the_same_kinds():
    text = files("orchestrator.store.scripts").joinpath("library", "step_kinds.lua").read_text()
    table = text[text.rindex("\nreturn {") :]
    assert set(re.findall(r"(?:[{,]\s*)(?:\['(?=\w+'\]))?(\w+)(?:'\])? = ", table)) - {"has_chord", "__index"} == set(
        STEP_RULES
    )


def test_a_node_at_a_step_of_an_unknown_kind_is_left_to_other_workers():
    registry, plan = registered()
    newer = replace(plan, steps=(replace(plan.steps[0], kind="novelty"), plan.steps[1]))

    assert registry.entry_for(plan, plan.nodes["a"]) is not None
    assert registry.entry_for(newer, newer.nodes["a"]) is None
    assert registry.entry_for(newer, newer.nodes["b"]) is not None


def test_an_unknown_kind_has_the_careful_rules():
    _, plan = registered()
    step = replace(plan.steps[0], kind="novelty")

    assert type(step.rules) is StepRules
    assert step.rules.next_position(step, None) == END
    assert not step.rules.commits_fast(step, is_undone=False)
