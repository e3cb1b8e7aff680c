"""Page of a list of runs: the runs, their fields as they were read, and where the next page begins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.runs import FlowRun

if TYPE_CHECKING:
    from orchestrator.engine import Engine
    from orchestrator.store.queries import Listed


class RunPage(list[FlowRun]):
    """One page of runs, newest first.

    Attributes:
        rows: All fields of the same runs in the same order, as they were when the page was read.
        cursor: Where the next page begins, for `Orchestrator.runs(cursor=...)`; None if there is nothing older.
        searched_back_to: When the last candidate was started, if the search ended before the page was full and older
            runs are left; else None.
    """

    def __init__(self, engine: Engine, listed: Listed) -> None:
        super().__init__(FlowRun(engine, row.id) for row in listed.rows)
        self.rows = listed.rows
        self.cursor = listed.cursor
        self.searched_back_to = listed.searched_back_to

    def to_json(self) -> dict[str, Any]:
        """Return the page as JSON values."""
        searched = self.searched_back_to
        return {
            "runs": [row.to_json() for row in self.rows],
            "cursor": self.cursor,
            "searched_back_to": searched.isoformat() if searched else None,
        }
