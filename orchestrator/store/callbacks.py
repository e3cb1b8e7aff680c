"""Text of a callback: who has it may complete the node that waits for it."""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import NamedTuple

from orchestrator.errors import StaleCallback


class Callback(NamedTuple):
    """What the text of a callback stands for.

    Attributes:
        run_id: The run.
        node: The node, or an item of a map.
        generation: The node's generation, which rises when it is compensated.
        iteration: Of a node that repeats: which time.
        secret: 128 random bits in hex, kept in the node's record.
    """

    run_id: str
    node: str
    generation: int
    iteration: int
    secret: str

    @property
    def text(self) -> str:
        """The text, which may stand in a URL."""
        return urlsafe_b64encode("|".join(map(str, self)).encode()).decode().rstrip("=")

    @classmethod
    def of(cls, text: str) -> Callback:
        """Read a text.

        Raises:
            StaleCallback: It is none.
        """
        try:
            run_id, node, generation, iteration, secret = (
                urlsafe_b64decode(f"{text}{'=' * (-len(text) % 4)}").decode().split("|")
            )
            return cls(run_id, node, int(generation), int(iteration), secret)
        except (ValueError, TypeError, AttributeError, binascii.Error):
            raise StaleCallback("this is not the text of a callback") from None
