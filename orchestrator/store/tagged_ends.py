"""Ends of runs by the values of the tags that `Settings.metric_tags` names: totals for metrics.

The leading reconciler counts them, as it does durations. A value is a user's text, and there may be as many as runs:
the first ones of a tag are counted on their own, the rest together, so that no tag makes more series than that.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orchestrator.store.standing import RUN_ID
from orchestrator.store.totals import KEPT_S, SUM

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from orchestrator.store.run_store import Store
    from orchestrator.store.totals import RunEnd

MOST_VALUES = 50
"""Values of one tag that are counted on their own; one that no run has ended with for 8 days gives its place away."""
LONGEST_VALUE = 64
"""Characters of a value that are kept; values that begin alike are counted as one."""
OTHER = "other"
"""What stands for all values beyond these; a value of this name is counted among them."""
AT_ONCE = 1000


@dataclass(frozen=True)
class TaggedEnds:
    """Runs that ended with a value of a tag.

    Attributes:
        tag: Name of the tag.
        value: Its value, cut; "other" for all those that are not counted on their own.
        ends: How many ended, by flow and status.
        spent_ms: How long they took together, in ms, by flow.
    """

    tag: str
    value: str
    ends: Counter[tuple[str, str]] = field(default_factory=Counter)
    spent_ms: Counter[str] = field(default_factory=Counter)


def count_tagged_ends(store: Store, ends: Sequence[RunEnd]) -> None:
    """Add runs that have ended to the totals of their tags' values; without `metric_tags` this costs nothing."""
    names = store.settings.metric_tags
    found = [(end, tag, value) for end, tags in _tags_of(store, ends) for tag, value in tags.items()] if names else []
    if not found:
        return
    known = _Known(store)
    counts: dict[str, Counter[str]] = {}
    for end, tag, value in found:
        counted = counts.setdefault(known.pair(tag, value), Counter())
        counted[f"{end.flow}|{end.status}"] += 1
        counted[f"{end.flow}|{SUM}"] += round(end.duration_ms)
    pipe = store.client.pipeline(transaction=False)
    for pair, counted in counts.items():
        key = store.keys.tagged(pair)
        for name, count in counted.items():
            pipe.hincrby(key, name, count)
        pipe.pexpire(key, KEPT_S * 1000)
    pipe.zadd(store.keys.tag_values, dict.fromkeys(counts, known.now_ms))
    pipe.pexpire(store.keys.tag_values, KEPT_S * 1000)
    pipe.execute()


class _Known:
    """Values that have a place of their own, with those that got one just now.

    They are read before they are written: two leaders at once may give away a few places too many, which does no harm.
    """

    def __init__(self, store: Store) -> None:
        self.now_ms = store.now_ms()
        pipe = store.client.pipeline(transaction=False)
        pipe.zremrangebyscore(store.keys.tag_values, "-inf", self.now_ms - KEPT_S * 1000)
        pipe.zrange(store.keys.tag_values, 0, -1)
        self._pairs = {pair.decode() for pair in pipe.execute()[1]}
        self._taken = Counter(tag for pair in self._pairs for tag, value in [json.loads(pair)] if value != OTHER)

    def pair(self, tag: str, value: str) -> str:
        """The pair that a tag's value is counted as, as JSON."""
        pair = json.dumps([tag, value])
        if pair in self._pairs or value == OTHER:
            return pair
        if self._taken[tag] >= MOST_VALUES:
            return json.dumps([tag, OTHER])
        self._taken[tag] += 1
        self._pairs.add(pair)
        return pair


def _tags_of(store: Store, ends: Sequence[RunEnd]) -> Iterator[tuple[RunEnd, dict[str, str]]]:
    """Yield runs that ended, with those of their tags that are counted; a run that is deleted by now has none."""
    known = [end for end in ends if RUN_ID.fullmatch(end.run_id)]
    for at in range(0, len(known), AT_ONCE):
        some = known[at : at + AT_ONCE]
        pipe = store.client.pipeline(transaction=False)
        for end in some:
            pipe.hget(store.keys.run(end.run_id), "tags")
        for end, text in zip(some, pipe.execute(), strict=True):
            tags: Mapping[str, str] = json.loads(text) if text else {}
            yield end, {name: _shown(store, tags[name]) for name in store.settings.metric_tags if name in tags}


def _shown(store: Store, value: str) -> str:
    """A value as a label has it: half of a surrogate pair, which is a legal text, would break every scrape."""
    return store.redaction.prose(value)[:LONGEST_VALUE].encode("utf-8", "replace").decode()


def read_tagged_ends(store: Store, names: Iterable[str]) -> list[TaggedEnds]:
    """Return the totals of tags by value, in two round trips."""
    wanted = set(names)
    if not wanted:
        return []
    with store.guarded():
        pairs: list[str] = [pair.decode() for pair in store.client.zrange(store.keys.tag_values, 0, -1)]
        pipe = store.client.pipeline(transaction=False)
        for pair in pairs:
            pipe.hgetall(store.keys.tagged(pair))
        answers: list[Any] = pipe.execute()
    found = [TaggedEnds(*json.loads(pair)) for pair in pairs]
    for each, counts in zip(found, answers, strict=True):
        for row, count in counts.items():
            flow, _, status = row.decode().rpartition("|")
            if status == SUM:
                each.spent_ms[flow] = int(count)
            else:
                each.ends[flow, status] = int(count)
    return [each for each in found if each.tag in wanted]
