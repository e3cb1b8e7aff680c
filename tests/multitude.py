"""Multitudes of runs, made from one by copying its keys: each is as the scripts have left the first."""

from __future__ import annotations

import json
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

AT_ONCE = 1000
COPIES = """
local verb, run, first, last = unpack(ARGV, 1, 4)
local keys, rows = cjson.decode(ARGV[5]), cjson.decode(ARGV[6])
local place = string.gsub(run, '%-', '%%-')
for number = first, last do
  local id = string.format(ARGV[7], number)
  for _, key in ipairs(keys) do
    local other = string.gsub(key, place, id)
    redis.call(unpack(verb == 'make' and {'COPY', key, other} or {'UNLINK', other}))
  end
  for _, row in ipairs(rows) do
    local score, member = row[3] + number * row[4], string.gsub(row[2], place, id)
    redis.call(unpack(verb == 'make' and {'ZADD', row[1], score, member} or {'ZREM', row[1], member}))
  end
end
redis.call('HINCRBY', KEYS[1], 'live', (verb == 'make' and 1 or -1) * (last - first + 1))
"""


@contextmanager
def copies(client: redis.Redis, run_id: str, count: int, *, spread_ms: float = 0.0) -> Iterator[None]:
    """Have so many more runs, in every index in which one is, stand where that one stands, until the block ends.

    Args:
        client: A client of the server.
        run_id: The one that is there.
        count: How many more there will be.
        spread_ms: From the next look at one to the next look at the one after it.
    """
    keys = [key.decode() for key in client.scan_iter(f"orchestrator:run:{run_id}*", count=1000)]
    rows = []
    for key in client.scan_iter("orchestrator:*", count=1000, _type="zset"):
        for member, score in client.zscan_iter(key, f"{run_id}*"):
            step = spread_ms if key == b"orchestrator:live" else 0
            rows.append((key.decode(), member.decode(), score, step))
    plan = client.eval("return redis.call('HGET', KEYS[1], 'plan')", 1, f"orchestrator:run:{run_id}").decode()
    named = f"{uuid.uuid4().hex[:20]}-%06d"

    def act(verb: str) -> None:
        for first in range(1, count + 1, AT_ONCE):
            last = min(first + AT_ONCE - 1, count)
            arguments = (verb, run_id, first, last, json.dumps(keys), json.dumps(rows), named)
            client.eval(COPIES, 1, f"orchestrator:plan:{plan}", *arguments)

    act("make")
    try:
        yield
    finally:
        act("remove")
