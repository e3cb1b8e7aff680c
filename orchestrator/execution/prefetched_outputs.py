"""Outputs that a claim sends along: those that the attempt is known to read and this message has not seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.lazy import lazy
from orchestrator.store.run_store import INPUT

if TYPE_CHECKING:
    from collections.abc import Collection

    from orchestrator.definition.plan import NodePlan, Plan
    from orchestrator.store.scripts.results import Values


class PrefetchedOutputs:
    """What one attempt reads.

    Attributes:
        seen: JSON of outputs by key, as attempts in front of it in this message stored or read them.
    """

    def __init__(self, plan: Plan, node_plan: NodePlan) -> None:
        self._plan = plan
        self._node_plan = node_plan
        self._asked: tuple[str, ...] = ()
        self.seen: dict[str, bytes] = {}

    @lazy
    def keys(self) -> tuple[str, ...]:
        """Output keys that it reads, as far as the plan knows."""
        undone = self._plan.nodes.get(self._node_plan.undoes)
        is_mapped = self._plan.steps[self._node_plan.step].rules.is_map
        if is_mapped and not undone and not self._node_plan.reads:
            return ()
        own = (undone.key,) if undone and not is_mapped else ()
        return tuple(dict.fromkeys((INPUT, *self._node_plan.reads, *own)))

    def to_ask(self, seen: Collection[str] = ()) -> tuple[str, ...]:
        """The output keys that a claim has to send along, if `seen` will be, too, by then."""
        self._asked = tuple(key for key in self.keys if key not in seen and key not in self.seen)
        return self._asked

    def values(self, answered: Values) -> dict[str, bytes | None]:
        """JSON of all that is known by output key, with the answer to what was asked for last; None: there is none."""
        return self.seen | dict(zip(self._asked, answered, strict=True))

    def read(self, answered: Values) -> dict[str, bytes]:
        """Of that, what is there and what it reads: the rest would pile up from node to node."""
        known = self.values(answered)
        return {key: value for key in self.keys if (value := known[key]) is not None}
