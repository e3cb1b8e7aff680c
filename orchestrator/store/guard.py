"""Give what redis-py raises its meaning: Redis is away, it is full, or it refuses for good, and what to do about it."""

from __future__ import annotations

import re
from dataclasses import dataclass

import redis

from orchestrator.errors import StoreError, StoreRefused, StoreUnavailable
from orchestrator.store.refusals import refusal_of

AWAY = (redis.ConnectionError, redis.TimeoutError)
NO_TLS = re.compile(r"\[SSL|certificate")


@dataclass(frozen=True)
class Guard:
    """Gives Redis's errors in a block their meaning. A class, for every call of a node enters one.

    Attributes:
        place: Where Redis is, without any password.
        setting: Where its address was read from.
        prefix: What the keys begin with.
    """

    place: str
    setting: str
    prefix: str

    def __enter__(self) -> None:
        """Begin the block."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """End the block.

        Raises:
            StoreFull: Redis refused to write.
            StoreUnavailable: Redis did not answer, or refuses for a while.
            StoreRefused: Redis does not do it as it is set up.
        """
        if isinstance(error, redis.RedisError):
            meant = self.meaning(error)
            if meant is not None:
                raise meant from error

    def meaning(self, error: redis.RedisError) -> StoreError | None:
        """The store's error for one of Redis; None for a mistake of the caller, such as an argument of a wrong type."""
        where, text = f"Redis at {self.place}", str(error).rstrip(".")
        # redis-py takes it for a lost connection, and what is away is asked again without an end.
        if isinstance(error, AWAY) and NO_TLS.search(text):
            return StoreRefused(
                f"{where} and this client do not agree on TLS: {text}. Correct the scheme or the ssl_ options of "
                f"{self.setting}"
            )
        # Before AWAY is asked for: redis-py's errors for LOADING, NOAUTH and too many clients are ConnectionErrors.
        if refusal := refusal_of(error):
            remedy = refusal.remedy.format(setting=self.setting, prefix=self.prefix)
            return refusal.raised(f"{where} {refusal.means}: {text}. {remedy}")
        if isinstance(error, AWAY):
            return StoreUnavailable(f"{where} did not answer: {text}")
        if not isinstance(error, redis.ResponseError):
            return None
        if type(error) is redis.exceptions.AskError:  # for a moment; a MovedError, which is one too, is for good
            return StoreUnavailable(f"{where} cannot do it now: {text}")
        return StoreRefused(f"{where} refused: {text}. {self._remedy(error)}")

    def _remedy(self, error: redis.ResponseError) -> str:
        text = str(error)
        if "WRONGTYPE" in text:  # of a pipeline the command stands before it
            return (
                f"Another program keeps something else in a key that begins with {self.prefix}:; give "
                "Settings(prefix=...) a value of its own, the same in every process"
            )
        if isinstance(error, redis.exceptions.MovedError | redis.exceptions.ClusterCrossSlotError):
            return (
                "It is in cluster mode, where the keys of all runs have to share one slot: set Settings(prefix="
                f"'{{{self.prefix.strip('{}')}}}'), the same in every process"
            )
        if "cluster mode" in text:
            return f"A server in cluster mode has database 0 only; correct {self.setting}"
        if "DB index" in text:
            return f"It has fewer databases; correct {self.setting}"
        return "See whether its version and its configuration are what docs/deployments.md asks for"
