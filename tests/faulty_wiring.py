"""Flows with a node whose inputs are wired by name in a way that `build()` refuses."""

from typing import Any

from pydantic import BaseModel

from orchestrator.definition.node import Node
from orchestrator.definition.wiring import const, map_item, run_input
from tests.faulty import Faulty, Order, always, node, take


class Basket(BaseModel):
    order: Order
    gift: Order | None = None
    sizes: dict[str, int]


def take_two(one: int, two: int = 2) -> int:
    return one + two


def take_order(order: Order) -> int:
    return order.id


def give_text() -> str:
    return "text"


def take_sizes(sizes: list[int]) -> int:
    return sum(sizes)


def wired(name: str = "b", fn: Any = take, **inputs: object) -> Any:
    return Node(name, fn).with_inputs(**inputs)


WIRING: tuple[Faulty, ...] = (
    Faulty(
        "wired-unknown",
        lambda b: b.then(node()).then(wired(fn=take_two, one="a", tow=2)),
        "input-mismatch",
        "node b",
        "with_inputs(tow=...): its function has no parameter of this name; did you mean two?",
    ),
    Faulty(
        "wired-nothing",
        lambda b: b.then(wired(fn=give_text, one=1)),
        "input-mismatch",
        "node b",
        "with_inputs(one=...): its function has no parameter of this name; it takes no input",
    ),
    Faulty(
        "wired-left-out",
        lambda b: b.then(wired(fn=take_two, two=1)),
        "input-mismatch",
        "node b",
        "its function takes one, which with_inputs(...) leaves out; name its source, or give the parameter a default",
    ),
    Faulty(
        "wired-field-left-out",
        lambda b: b.then(wired(fn=take_order, lines=["a"])),
        "input-mismatch",
        "node b",
        "its function takes id, which with_inputs(...) leaves out; name its source, or give the parameter a default",
    ),
    Faulty(
        "wired-typo",
        lambda b: b.then(node()).then(wired(fn=take_two, one="aa")),
        "unknown-key",
        "node b",
        "its input one reads the output aa, which no node writes; did you mean a?",
    ),
    Faulty(
        "wired-foreign",
        lambda b: b.then(wired(fn=take_two, one=node("foreign"))),
        "unknown-key",
        "node b",
        "its input one reads the output foreign, which no node writes; known: b",
    ),
    Faulty(
        "wired-later",
        lambda b: b.then(wired("a", take_two, one="b")).then(node("b")),
        "not-yet-written",
        "node a",
        "its input one reads the output b, which b writes only later; read it in a later step",
    ),
    Faulty(
        "wired-sibling",
        lambda b: b.then_parallel("both", node(), wired(fn=take_two, one="a")),
        "sibling-read",
        "node b",
        "its input one reads the output a, a RACE CONDITION: a runs at the same time; read it in a later step",
    ),
    Faulty(
        "wired-branch",
        lambda b: b.when(always).then(node()).end_when().then(wired(fn=take_two, one="a")),
        "maybe-missing",
        "node b",
        "its input one reads the output a, which a may not have written; give the parameter a default",
    ),
    Faulty(
        "wired-continue",
        lambda b: b.then_parallel("both", node(), on_failure="continue").then(wired(fn=take_two, one="a")),
        "maybe-missing",
        "node b",
        "its input one reads the output a, which a may not have written; give the parameter a default",
    ),
    Faulty(
        "wired-type",
        lambda b: b.then(Node("a", give_text)).then(wired(fn=take_two, one="a")),
        "input-mismatch",
        "node b",
        "its input one takes int, but the output of a is str, which does not fit",
    ),
    Faulty(
        "wired-list",
        lambda b: b.then_map("all", wired("a", take, value=map_item), over=lambda s: []).then(
            wired(fn=take_two, one="a")
        ),
        "input-mismatch",
        "node b",
        "its input one takes int, but the output of a is list[int], which does not fit",
    ),
    Faulty(
        "wired-part-type",
        lambda b: b.takes(Basket).then(wired(fn=take_two, one=run_input["order"]["lines"])),
        "input-mismatch",
        "node b",
        "its input one takes int, but order.lines of the run's input is a list, which does not fit",
    ),
    Faulty(
        "wired-input-type",
        lambda b: b.takes(str).then(wired(fn=take_two, one=run_input)),
        "input-mismatch",
        "node b",
        "its input one takes int, but the run's input is str, which does not fit",
    ),
    Faulty(
        "wired-inner-type",
        lambda b: b.takes(list[str]).then(wired(fn=take_sizes, sizes=run_input)),
        "input-mismatch",
        "node b",
        "its input sizes takes list[int], but the run's input is list[str], which does not fit at []",
    ),
    Faulty(
        "wired-path",
        lambda b: b.takes(Basket).then(wired(fn=take_two, one=run_input["order"]["idd"])),
        "input-mismatch",
        "node b",
        (
            "its input one reads order.idd of the run's input, but tests.faulty_wiring.Basket has no 'idd' there; "
            "did you mean id?"
        ),
    ),
    Faulty(
        "wired-path-null",
        lambda b: b.takes(Basket).then(wired(fn=take_two, one=run_input["gift"]["id"])),
        "maybe-missing",
        "node b",
        "its input one reads gift.id of the run's input, which may be missing at 'id'; give the parameter a default",
    ),
    Faulty(
        "wired-constant",
        lambda b: b.then(wired(fn=take_two, one=const("x"))),
        "input-mismatch",
        "node b",
        "its input one: the constant does not fit: a value of type str does not fit int: ...",
    ),
    Faulty(
        "wired-function",
        lambda b: b.then(wired(fn=take_two, one=always)),
        "input-mismatch",
        "node b",
        "its input one: always is a function; use with_input_func(...) for what is computed",
    ),
    Faulty(
        "wired-no-map",
        lambda b: b.then(wired(fn=take_two, one=map_item)),
        "input-mismatch",
        "node b",
        "its input one is map_item, which only the node of a then_map has",
    ),
    Faulty(
        "wired-no-item",
        lambda b: b.then_map("all", wired(fn=take_two, one=1), over=lambda s: []),
        "input-mismatch",
        "node b",
        "it is called for each item of a map, but takes it nowhere; wire a parameter to map_item",
    ),
    Faulty(
        "wired-undo",
        lambda b: b.then(node().on_error(wired("undo", take_two, one="b"))).then(node("b")),
        "not-yet-written",
        "node undo",
        "its input one reads the output b, which b writes only later; read it in a later step",
    ),
)
