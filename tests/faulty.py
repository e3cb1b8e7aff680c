"""One row of the table of faulty flows, and the functions and nodes that its rows are made of."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pydantic import BaseModel

from orchestrator.definition.builder import FlowBuilder
from orchestrator.definition.node import Node
from orchestrator.definition.state import FlowState
from orchestrator.definition.triggers import manual
from orchestrator.errors import Problem

# Takes whatever there is: what the type checkers refuse has to be refused at run time too.
Change = Callable[[Any], Any]
SECOND = timedelta(seconds=1)


@dataclass(frozen=True)
class Faulty:
    """A flow with one fault, made from a builder that is called like the row and has a trigger.

    Attributes:
        name: Of the row and of the flow.
        change: Gives the builder its steps and its fault.
        code: Of the one problem that `build()` reports; empty where only the run can find it.
        where: Of the problem, after `flow <name>, `; empty for the flow; whole where the flow's name is at fault.
        message: Of the problem; one that ends with "..." goes on in words that are not ours, or said in another row.
        raises: At run time: what the run fails with.
    """

    name: str
    change: Change
    code: str = ""
    where: str = ""
    message: str = ""
    raises: type[BaseException] | None = None

    def problem(self) -> Problem:
        """The one problem that `build()` reports."""
        if self.where.startswith("flow "):
            return Problem(self.where, self.code, self.message)
        return Problem(", ".join(filter(None, (f"flow {self.name}", self.where))), self.code, self.message)

    def builder(self) -> FlowBuilder:
        """The flow, not built yet."""
        made: FlowBuilder = self.change(FlowBuilder(self.name).triggered_by(manual("test")))
        return made


class Order(BaseModel):
    id: int
    lines: list[str] = []


def give() -> int:
    return 1


def take(value: int) -> int:
    return value


def take_both(left: int, right: int) -> int:
    return left + right


def always(_state: FlowState) -> bool:
    return True


def node(name: Any = "a", fn: Any = give, *given: Any, **options: Any) -> Any:
    """A node that is right, but for what it is given."""
    return Node(name, fn, *given, **options)


def reading(name: str, read: Callable[[FlowState], Any]) -> Any:
    """A node whose input function reads."""
    return Node(name, take).with_input_func(read)
