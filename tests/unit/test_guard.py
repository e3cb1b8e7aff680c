"""Name the kinds of what Redis may answer: it is away, it is full, or it refuses, and then what to do."""

from __future__ import annotations

import pytest
import redis
from redis import exceptions

from orchestrator.errors import StoreFull, StoreRefused, StoreUnavailable
from orchestrator.store.guard import Guard

GUARD = Guard("h:6379/0", "result_backend", "shop")


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (redis.ConnectionError("gone"), StoreUnavailable, "Redis at h:6379/0 did not answer: gone"),
        (redis.TimeoutError("slow"), StoreUnavailable, "did not answer: slow"),
        (redis.BusyLoadingError("loading"), StoreUnavailable, "is loading its data: loading. Wait"),
        (redis.ReadOnlyError("no"), StoreUnavailable, "is a replica now: no. Connect to its master, or through Sen"),
        (redis.ConnectionError("max number of clients reached"), StoreUnavailable, "raise maxclients"),
        (redis.ResponseError("BUSYGROUP exists"), StoreRefused, "refused: BUSYGROUP"),
        (
            redis.ResponseError("Error running script (call to f_1): @user_script:7: @user_script: 7: -OOM no memory"),
            StoreFull,
            "is full",
        ),
        (
            redis.ConnectionError("[SSL: WRONG_VERSION_NUMBER]"),
            StoreRefused,
            "Correct the scheme or the ssl_ options of res",
        ),
        (redis.OutOfMemoryError("maxmemory"), StoreFull, "is full: maxmemory. Nothing was written"),
        (
            redis.ResponseError("MISCONF disk"),
            StoreUnavailable,
            "cannot save its snapshot: MISCONF disk. Give its disk",
        ),
        (redis.ResponseError("NOREPLICAS few"), StoreUnavailable, "or lower min-replicas-to-write"),
        (redis.ResponseError("BUSY script"), StoreUnavailable, "SCRIPT KILL ends one"),
        (exceptions.ClusterDownError("down"), StoreUnavailable, "Bring its nodes back"),
        (exceptions.MasterDownError("down"), StoreUnavailable, "a replica without its master"),
        (exceptions.TryAgainError("soon"), StoreUnavailable, "is moving the slot of the runs: soon. Wait"),
        (exceptions.AskError("5 127.0.0.1:7001"), StoreUnavailable, "cannot do it now"),
        (
            redis.AuthenticationError("invalid password."),
            StoreRefused,
            "password: invalid password. Correct them in result",
        ),
        (redis.ResponseError("NOAUTH Authentication required."), StoreRefused, "does not know this user or password"),
        (
            exceptions.NoPermissionError("no rights"),
            StoreRefused,
            "the keys ~shop:*, the channels &shop:* and the commands",
        ),
        (
            redis.ResponseError("The user executing the script can't access it"),
            StoreRefused,
            "Give the user of result_b",
        ),
        (redis.ResponseError("ACL failure in script: no"), StoreRefused, "Give the user of result_backend the keys"),
        (
            redis.ResponseError("WRONGTYPE Operation"),
            StoreRefused,
            "a key that begins with shop:; give Settings(prefix=",
        ),
        (exceptions.MovedError("5 127.0.0.1:7001"), StoreRefused, "set Settings(prefix='{shop}'), the same in every"),
        (exceptions.ClusterCrossSlotError("slots"), StoreRefused, "set Settings(prefix='{shop}')"),
        (
            redis.ResponseError("SELECT is not allowed in cluster mode"),
            StoreRefused,
            "has database 0 only; correct result",
        ),
        (
            redis.ResponseError("DB index is out of range"),
            StoreRefused,
            "It has fewer databases; correct result_backend",
        ),
        (
            redis.ResponseError("unknown command"),
            StoreRefused,
            "See whether its version and its configuration are what",
        ),
    ],
)
def test_an_error_of_redis_has_a_meaning_and_a_remedy(error, kind, said):
    with pytest.raises(kind) as caught, GUARD:
        raise error
    assert type(caught.value) is kind
    assert said in str(caught.value)
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [redis.DataError("None"), ValueError("no"), KeyboardInterrupt()])
def test_what_is_no_answer_of_redis_stays_as_it_is(error):
    with pytest.raises(type(error)) as caught, GUARD:
        raise error
    assert caught.value is error
