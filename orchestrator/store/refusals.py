"""Table of what Redis refuses for a while: what each refusal means, and what to do about it.

A refusal is no verdict on a run or on a worker: somebody ends it, and what was refused is tried again. Everything that
has to recognise one asks here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import redis
from redis import exceptions

from orchestrator.errors import StoreError, StoreFull, StoreRefused, StoreUnavailable


@dataclass(frozen=True)
class Refusal:
    """One way in which Redis refuses.

    Attributes:
        code: The first word of the answer, which redis-py takes away where it has a class for it.
        kinds: redis-py's classes for it.
        pattern: Finds it in the text of the answer, where the code does not.
        means: What is the matter, behind "Redis at ...".
        remedy: What to do.
        raised: What a caller gets.
    """

    code: str
    means: str
    remedy: str
    kinds: tuple[type[redis.RedisError], ...] = ()
    pattern: str = ""
    raised: type[StoreError] = StoreUnavailable

    def fits(self, error: redis.RedisError) -> bool:
        """Whether an error is this refusal."""
        # Before Redis 7 the answer of a script that was refused quotes the refusal: "... @user_script: 11: -OOM ...".
        found = self.pattern or rf"(^| -){self.code}\b"
        return isinstance(error, self.kinds) or re.search(found, str(error)) is not None


REFUSALS = (
    Refusal(
        "OOM", "is full", "Nothing was written; free memory or raise maxmemory",
        kinds=(redis.OutOfMemoryError,), raised=StoreFull,
    ),
    Refusal(
        "MISCONF", "cannot save its snapshot",
        'Give its disk room, or set stop-writes-on-bgsave-error no or, with appendonly yes, save ""',
    ),
    Refusal(
        "NOREPLICAS", "has too few replicas that follow",
        "Bring them back, or lower min-replicas-to-write; behind Sentinel the next master takes over by itself",
    ),
    Refusal(
        "READONLY", "is a replica now", "Connect to its master, or through Sentinel, which knows the master",
        kinds=(redis.ReadOnlyError,),
    ),
    Refusal(
        "UNBLOCKED", "has become a replica", "Connect to its master, or through Sentinel, which knows the master",
    ),
    Refusal(
        "MASTERDOWN", "is a replica without its master",
        "Bring the master back, or connect through Sentinel, which knows the master",
        kinds=(exceptions.MasterDownError,),
    ),
    Refusal("BUSY", "is held by a script that does not end", "SCRIPT KILL ends one that has written nothing"),
    Refusal("UNKILLABLE", "is held by a script that does not end", "Wait for its end, or restart the server"),
    Refusal(
        "LOADING", "is loading its data", "Wait until it has", kinds=(redis.BusyLoadingError,),
    ),
    Refusal(
        "CLUSTERDOWN", "is a node of a cluster that has no node for some slots", "Bring its nodes back",
        kinds=(exceptions.ClusterDownError,),
    ),
    Refusal("TRYAGAIN", "is moving the slot of the runs", "Wait until it has", kinds=(exceptions.TryAgainError,)),
    Refusal(
        "maxclients", "lets nobody else in", "Find out who holds connections, or raise maxclients",
        pattern="max number of clients",
    ),
    Refusal(
        "NOPERM", "refused",
        "Give the user of {setting} the keys ~{prefix}:*, the channels &{prefix}:* and the commands that "
        "docs/deployments.md lists",
        kinds=(exceptions.NoPermissionError,),
        pattern=r"NOPERM|no permission|has no .*permissions|executing the script can't|ACL failure in script",
        raised=StoreRefused,
    ),
    Refusal(
        "NOAUTH", "does not know this user or password",
        "Correct them in {setting}; special characters in a URL have to be percent-encoded",
        kinds=(redis.AuthenticationError, exceptions.AuthorizationError),
        pattern="NOAUTH|WRONGPASS",
        raised=StoreRefused,
    ),
)  # fmt: skip
"""In the order in which they are looked for. ASK is none: it is MOVED for the moment, and redis-py follows neither."""


def refusal_of(error: redis.RedisError) -> Refusal | None:
    """The refusal that an error of redis-py is; None where it is another one."""
    return next((refusal for refusal in REFUSALS if refusal.fits(error)), None)


def concerns_all(error: BaseException) -> bool:
    """Whether no other call gets further either: the server is away or refuses, and it is not one key that is wrong."""
    if isinstance(error, StoreRefused):
        return was_refused(error)
    return isinstance(error, StoreError)


def was_refused(error: StoreError) -> bool:
    """Whether the store raised an error because Redis refuses for a while."""
    cause = error.__cause__
    return isinstance(cause, redis.RedisError) and refusal_of(cause) is not None
