"""The graph of a flow or of a run: what is drawn, what folds, and that no name breaks out of the picture."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from orchestrator import FlowBuilder, Node, manual
from orchestrator.definition.plan import Plan
from orchestrator.definition.planning import make_plan
from orchestrator.web.graph import cut, draw_graph, text_width
from orchestrator.web.shapes import MOST_BOXES, Box, Group, Mark, boxes, read_shapes

SVG = "{http://www.w3.org/2000/svg}"


def node(name: str, undo: str = "") -> Node[Any, Any]:
    made: Node[Any, Any] = Node(name, lambda: 1)
    return made.on_error(Node(undo, lambda: None)) if undo else made


def flow(name: str = "flow") -> FlowBuilder:
    return FlowBuilder(name).triggered_by(manual("test"))


def plan_of(builder: FlowBuilder) -> Plan:
    return make_plan(builder.build(), "celery")


def line(count: int) -> Plan:
    builder = flow()
    for number in range(count):
        builder = builder.then(node(f"n{number}"))
    return plan_of(builder)


@pytest.fixture
def tour() -> Plan:
    return plan_of(
        flow("tour")
        .then(node("fetch", "forget"))
        .then_parallel("both", node("left"), node("right"))
        .when(lambda state: True, name="big")
        .then(node("review"))
        .when(lambda state: True, name="inner")
        .then(node("deep"))
        .end_when()
        .else_()
        .then(node("store"))
        .end_when()
        .then_map("each", Node("item", lambda number: number), over=lambda state: [1])
    )


def drawn(svg: str) -> ET.Element:
    return ET.fromstring(svg)


def texts(svg: str) -> list[str]:
    return [each.text or "" for each in drawn(svg).iter(f"{SVG}text")]


def test_a_plan_is_read_back_as_lines_and_groups(tour):
    fetch, both, big, each = read_shapes(tour, {}).parts
    assert isinstance(fetch, Box)
    assert fetch.undo == ("forget", Mark())
    assert isinstance(both, Group)
    assert [arm.line.parts[0].title for arm in both.arms] == ["left", "right"]
    assert isinstance(big, Group)
    yes, no = big.arms
    assert (yes.label, no.label) == ("if", "else")
    _review, inner = yes.line.parts
    assert isinstance(inner, Group)
    assert [box.title for box in boxes(inner)] == ["deep"]
    assert inner.arms[1].line.parts == ()  # no else: the run goes past it
    assert isinstance(each, Box)
    assert (each.title, each.mark.text) == ("item", "for each item")


def test_branches_that_were_not_taken_are_off(tour):
    (*_, big, _) = read_shapes(tour, {"big": Mark("ok", choice=1)}).parts
    assert isinstance(big, Group)
    assert [arm.is_off for arm in big.arms] == [True, False]
    assert {box.title: box.is_off for box in boxes(big)} == {"review": True, "deep": True, "store": False}


def test_a_computing_map_says_so_and_one_with_items_shows_them(tour):
    (*_, each) = read_shapes(tour, {"each.over": Mark("run")}).parts
    assert each.mark.text == "computes its items"
    counts = {"ok": 7, "bad": 1, "run": 2, "none": 9_990}
    svg = draw_graph(tour, {"item": Mark("run", "10,000 items", counts)})
    assert "10,000 items" in texts(svg)
    assert [piece.get("class") for piece in drawn(svg).iter(f"{SVG}rect") if "piece" in (piece.get("class") or "")] == [
        "piece s-ok",
        "piece s-bad",
        "piece s-run",
    ]


def test_a_long_line_folds_around_the_present_position():
    plan = line(60)
    marks = {f"n{number}": Mark("ok") for number in range(41)} | {"n41": Mark("run")}
    parts = read_shapes(plan, marks).parts
    titles = [part.title for part in parts]
    assert titles[0] == "n0"
    assert titles[-1] == "n59"
    assert "n41" in titles
    before, after = (part for part in parts if isinstance(part, Box) and part.is_fold)
    assert before.mark.counts == {"ok": len(before.nodes)}
    assert len(before.nodes) + len(after.nodes) + len(titles) - 2 == 60
    assert before.title == f"{len(before.nodes)} steps"


def test_unfolded_a_line_of_forty_is_whole():
    assert len(read_shapes(line(40), {}, unfold=True).parts) == 40


@pytest.mark.parametrize("unfold", [False, True])
@pytest.mark.parametrize(
    "plan",
    [
        line(500),
        plan_of(flow().then_parallel("many", *(node(f"m{number}") for number in range(50)))),
        plan_of(flow().then(node("n")).then_map("each", Node("item", lambda x: x), over=lambda state: range(10_000))),
    ],
    ids=["500 steps", "50 members", "map"],
)
def test_never_more_than_150_boxes(plan, unfold):
    svg = draw_graph(plan, {}, unfold=unfold)
    count = sum(1 for each in drawn(svg).iter(f"{SVG}g") if "node" in (each.get("class") or ""))
    assert 1 <= count <= MOST_BOXES


def test_never_more_than_150_boxes_in_many_large_groups():
    builder = flow()
    for number in range(40):
        builder = builder.then_parallel(f"p{number}", *(node(f"p{number}-{member}") for member in range(20)))
    shape = read_shapes(plan_of(builder), {}, unfold=True)
    assert sum(1 for _ in boxes(shape)) <= MOST_BOXES


def test_deeply_nested_branches_become_one_box():
    builder = flow()
    for depth in range(12):
        builder = builder.when(lambda state: True, name=f"w{depth}").then(node(f"n{depth}"))
    for _ in range(12):
        builder = builder.end_when()
    shown = [box.title for box in boxes(read_shapes(plan_of(builder), {}))]
    assert "n0" in shown
    assert "n11" not in shown
    assert "w5" in shown


def test_a_folded_box_has_the_state_that_matters_most():
    plan = line(60)
    marks = {f"n{number}": Mark("ok") for number in range(60)} | {"n3": Mark("bad", "ValueError")}
    fold = [box for box in boxes(read_shapes(plan, marks)) if box.is_fold]
    assert all(box.mark.tone == "ok" for box in fold)  # n3 is the present position, and so it is drawn
    assert "n3" in [box.title for box in boxes(read_shapes(plan, marks))]


def test_links_and_the_selected_node(tour):
    svg = draw_graph(tour, {}, link=lambda box: f"?node={box.nodes[0]}&x=1", selected="right")
    links = {link.get("data-node"): link for link in drawn(svg).iter(f"{SVG}a")}
    assert links["right"].get("href") == "?node=right&x=1"
    assert "chosen" in (links["right"].get("class") or "")
    assert "chosen" not in (links["left"].get("class") or "")
    assert links["big"].get("aria-label") == "decision big: to come"
    assert links["item"].get("aria-label") == "item: for each item"


def test_what_is_said_to_those_who_see_no_colour(tour):
    marks = {"fetch": Mark("bad"), "big": Mark("ok", choice=0), "item": Mark("run", "x", {"ok": 2_000, "run": 3})}
    svg = draw_graph(tour, marks, link=lambda box: "?")
    said = {link.get("data-node"): link.get("aria-label") for link in drawn(svg).iter(f"{SVG}a")}
    assert said["fetch"] == "fetch: failed"
    assert said["store"] == "store: not taken"
    assert said["item"] == "item: 2,000 succeeded, 3 running"


HOSTILE = """<script>alert(1)</script>"'&]]><img src=x onerror=alert(1)>"""


def test_hostile_texts_stay_texts(tour):
    marks = {"fetch": Mark("bad", HOSTILE), "forget": Mark("bad", HOSTILE)}
    svg = draw_graph(tour, marks, link=lambda box: HOSTILE)
    kinds = {element.tag.removeprefix(SVG) for element in drawn(svg).iter()}
    assert kinds <= {"svg", "a", "g", "rect", "path", "text", "title"}
    assert not re.search(r"<(script|img)", svg)
    assert not [name for element in drawn(svg).iter() for name in element.attrib if name.startswith("on")]


@pytest.mark.parametrize("width", [1040, 320])
def test_nothing_that_a_strict_policy_forbids_is_inside(tour, width):
    svg = draw_graph(tour, {"fetch": Mark("ok", "1 s")}, width=width)
    assert "style" not in svg
    assert float(drawn(svg).get("width") or 0) > 0


def test_a_picture_of_its_own_brings_its_colours(tour):
    svg = draw_graph(tour, standalone=True)
    assert "<style>" in svg
    assert "--flower-success, #" in svg


def test_a_narrow_picture_is_a_column(tour):
    wide, narrow = (drawn(draw_graph(tour, width=width)) for width in (1040, 320))
    assert float(narrow.get("width") or 0) < 420 < float(wide.get("width") or 0)
    assert float(narrow.get("height") or 0) > float(wide.get("height") or 0)


def test_a_line_comes_to_the_first_box_of_a_column_in_a_frame():
    steps = flow().when(lambda state: True, name="w").then(node("short")).then_parallel("p", node("a"), node("b" * 40))
    svg = draw_graph(plan_of(steps.end_when()), width=320)
    (left,) = re.findall(r'<rect class="box" x="([\d.]+)"[^>]*>(?:(?!<rect class="box").)*>short<', svg)
    ends = re.findall(r'class="edge[^"]*" d="M[^"]*?([\d.]+) [\d.]+"|class="edge[^"]*" d="M[^"]*H([\d.]+)"', svg)
    assert left in {end for pair in ends for end in pair}


def test_a_few_failures_among_many_items_are_seen():
    row = Mark("run", "items", {"ok": 9_994, "bad": 5, "run": 1})
    plan = plan_of(flow().then_map("each", Node("item", lambda number: number), over=lambda state: [1]))
    widths = re.findall(r'class="piece s-(\w+)"[^>]*? width="([\d.]+)"', draw_graph(plan, {"item": row}))
    assert [tone for tone, _ in widths] == ["ok", "bad", "run"]
    assert [width for _, width in widths[1:]] == ["2.5", "2.5"]


def test_long_names_are_cut_in_the_middle_and_fit():
    name = "synchronise-the-" + "very-" * 12 + "long-name"
    short = cut(name, 150)
    assert text_width(short) <= 150
    assert short.startswith("synchronise")
    assert short.endswith("name")
    assert "…" in short
    assert cut("short", 150) == "short"
    assert text_width("漢字") > text_width("ab")


def test_a_run_in_a_flow_without_steps_is_an_empty_picture(tour):
    empty = Plan(flow="none", queue="celery", timeout_ms=0, result_key="", steps=(), nodes={})
    assert texts(draw_graph(empty)) == []
