"""Loss of writes that the store had taken: how much is gone, as far as a worker can tell."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Self


@dataclass(frozen=True)
class SweepMark:
    """What a leading worker leaves in the store with each sweep.

    Attributes:
        number: Of the sweep, from 1, of this worker.
        at: When it was, in ms on Redis's clock.
        events: Starts and ends of runs until then; -1 before Redis 7, which does not count them.
    """

    number: int
    at: int
    events: int

    @classmethod
    def of(cls, value: bytes | str | None) -> Self | None:
        """Read what sweep_tick.lua writes."""
        return cls(*map(int, value.split())) if value else None


@dataclass(frozen=True)
class LostWrites:
    """Writes that are gone.

    Attributes:
        at: The last instant, in ms, at which they were known to be there.
        span_ms: Length of the time before it from which they are gone; None if everything is.
        events: At least so many starts and ends of runs are gone; None if that is not known.
    """

    at: int
    span_ms: int | None
    events: int | None

    def sentence(self) -> str:
        """Say what is gone, and what to do."""
        until = datetime.fromtimestamp(self.at / 1000, UTC).isoformat(timespec="seconds")
        span = "all writes" if self.span_ms is None else f"the writes of {self.span_ms / 1000:.1f} s"
        count = "" if self.events is None else f", with {self.events} or more starts and ends of runs"
        return (
            f"{span} before {until} are gone{count}: a replica that was behind took over, or an older copy was "
            "restored. Runs that were started in that time are unknown: start them again, with the same idempotency "
            "keys; set min-replicas-to-write"
        )

    def text(self) -> str:
        """JSON, as it is stored."""
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, text: bytes | str | None) -> Self | None:
        """Read what `text` made."""
        return cls(**json.loads(text)) if text else None
