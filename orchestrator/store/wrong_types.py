"""Keys of a run that hold another type of value than they should: somebody else has written to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import redis

if TYPE_CHECKING:
    from orchestrator.store.run_store import Store


def is_wrong_type(error: BaseException | None) -> bool:
    """Return whether an error of the store comes from a key that holds another type of value."""
    while error is not None and not (isinstance(error, redis.ResponseError) and "WRONGTYPE" in str(error)):
        error = error.__cause__
    return error is not None


def wrong_keys(store: Store, run_id: str) -> list[tuple[str, str, str]]:
    """Return the keys of a run that hold something else: each with the type that it has, and the one that it should."""
    keys = store.keys
    wanted = {keys.run(run_id): "hash", keys.nodes(run_id): "hash", keys.outputs(run_id): "hash"}
    wanted |= {keys.failures(run_id): "hash", keys.history(run_id): "list", keys.older_history(run_id): "stream"}
    with store.guarded():
        pipe = store.client.pipeline(transaction=False)
        for key in wanted:
            pipe.type(key)
        found = [answer.decode() for answer in pipe.execute()]
    return [
        (key, is_, want) for (key, want), is_ in zip(wanted.items(), found, strict=True) if is_ not in {want, "none"}
    ]
