"""Settings of the engine: every number that is not part of a flow, with its unit and default.

The operator has the last word: an `ORCHESTRATOR_<FIELD>` environment variable overrides the code. The address of Redis
is not a setting; `Orchestrator` finds it.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import TYPE_CHECKING

from orchestrator.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX_PATTERN = re.compile(r"(?=.{1,50}$)[A-Za-z0-9_.-]*(\{[A-Za-z0-9_.-]+\})?[A-Za-z0-9_.-]*")
EVICTING_STORE = ("warn", "refuse")
LEASE_FACTOR = 4
PATCHES = (
    *("partial_reports", "fork_server", "result_connections", "refused_acks", "refused_connections", "greenlet_sleep"),
    *("closed_channels", "dropped_connections", "mute_subscriptions", "held_messages", "unacked_in_memory"),
    *("client_per_channel", "late_handlers", "node_names"),
)
"""Changes of kombu and Celery: that a worker makes while it takes flows; the last two, of an app that has flows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of one orchestrator; all of its processes must have the same.

    Durations are timedeltas here and seconds in an environment variable: `ORCHESTRATOR_LEASE=30`.

    Attributes:
        lease: How long a worker process may be silent before it counts as dead. Default 30 s.
        reconcile_every: Time between two sweeps of the reconciler. Default 1 s; at most a quarter of the lease.
        retention: How long the record of a run is kept after its end. Default 7 days.
        max_depth: How deep runs may start runs; a node that would start a deeper one fails. Default 16.
        max_payload_bytes: Largest input, output, page or item, in bytes of JSON. Default 1 MiB.
        prefix: What every Redis key begins with; 1 to 50 of letters, digits, `_`, `.`, `-`, and a part of it in `{}`
            for a server in cluster mode. Default "orchestrator".
        history_limit: History entries kept of one run. Default 1000.
        shutdown_grace: How long running nodes may go on after SIGTERM. Default 25 s; keep it below the container's
            limit.
        max_throttle: Longest that `RetryLater(freeze=True)` may hold back one node in all. Default 24 h.
        claim_patience: How long a message waits for Redis before it leaves its node to the reconciler. Default 10 s.
        socket_timeout: Limit of one call to Redis. Default 5 s.
        accept_json: Whether a worker that takes flows reads JSON, which the messages of nodes are written in, although
            the app's `accept_content` has none. Default True; if False, `start` refuses with such an app.
        evicting_store: "warn" or "refuse": whether `start` refuses a Redis that may throw keys away, but none of a live
            run, or does not say so. Default "warn".
        allow_eviction: Whether runs are started and begun on a Redis that throws their keys away when it is full.
            Default False; 1 or 0 as a variable.
        fused: Whether all flows run fused, as with `FlowBuilder(...).fused()`. Default False; 1 or 0 as a variable.
        http_callbacks: Whether the tab in Flower completes the node of a callback for anybody who posts its text.
            Default True; 1 or 0 as a variable.
        indexed_tags: Names of tags by which runs are indexed from their start on, so that `runs(tag=...)` finds few
            among many. Default none; as a variable with commas between them.
        metric_tags: Names of some of `indexed_tags` whose values become labels of metrics: the first 50 values of each,
            cut at 64 characters, the others together as "other". Default none; as a variable with commas between them.
        redact: Names of fields whose values are never shown by commands, `--json`, pages, events, traces and logs, nor
            kept in the texts of errors, heartbeats and `ctx.logger`. Default none; as a variable with commas between
            them.
        patches: Names of the patches of kombu and Celery to apply, or to leave out if each begins with `-`; default
            all, see docs/deployments.md. As a variable with commas between them; `none` for none.
    """

    lease: timedelta = timedelta(seconds=30)
    reconcile_every: timedelta = timedelta(seconds=1)
    retention: timedelta = timedelta(days=7)
    max_depth: int = 16
    max_payload_bytes: int = 1024 * 1024
    prefix: str = "orchestrator"
    history_limit: int = 1000
    shutdown_grace: timedelta = timedelta(seconds=25)
    max_throttle: timedelta = timedelta(hours=24)
    claim_patience: timedelta = timedelta(seconds=10)
    socket_timeout: timedelta = timedelta(seconds=5)
    accept_json: bool = True
    evicting_store: str = "warn"
    allow_eviction: bool = False
    fused: bool = False
    http_callbacks: bool = True
    indexed_tags: tuple[str, ...] = ()
    metric_tags: tuple[str, ...] = ()
    redact: tuple[str, ...] = ()
    patches: tuple[str, ...] = PATCHES

    def __post_init__(self) -> None:
        """Read the environment and refuse what cannot work.

        Raises:
            ConfigurationError: With every bad value at once.
        """
        problems: list[str] = []
        for field in fields(self):
            variable = f"ORCHESTRATOR_{field.name.upper()}"
            text = os.environ.get(variable)
            try:
                if text:  # compose files pass an empty variable where none is set
                    object.__setattr__(self, field.name, _parse(text, type(field.default)))
                _require(getattr(self, field.name), type(field.default))
            except (ValueError, OverflowError) as error:
                problems.append(f"{f'{variable}={text!r}' if text else field.name}: {error}")
        if not problems:
            object.__setattr__(self, "patches", _chosen_patches(self.patches, problems))
        if not problems and not PREFIX_PATTERN.fullmatch(self.prefix):
            problems.append("prefix: must be 1 to 50 of letters, digits, '_', '.', '-', and may have one part in {}")
        if not problems and self.evicting_store not in EVICTING_STORE:
            problems.append(f"evicting_store: must be {' or '.join(map(repr, EVICTING_STORE))}")
        if not problems:
            problems += self._tag_faults()
        if not problems and self.lease / LEASE_FACTOR < self.reconcile_every:
            problems.append(
                f"lease: {self.lease} is less than {LEASE_FACTOR} x reconcile_every ({self.reconcile_every}), so that "
                "live workers would be taken for dead; make it longer"
            )
        if problems:
            raise ConfigurationError("; ".join(problems))

    def _tag_faults(self) -> Iterator[str]:
        for name in self.metric_tags:
            if name not in self.indexed_tags:
                yield (
                    f"metric_tags: {name!r} is none of indexed_tags, by which the runs behind a number are found; "
                    "name it there too"
                )
            if name.casefold() in map(str.casefold, self.redact):
                yield f"metric_tags: redact says that values of {name!r} are never shown; leave it out of one of them"


def _parse(text: str, kind: type) -> object:
    if kind is timedelta:
        return timedelta(seconds=float(text))
    if kind is bool:
        if text not in {"0", "1"}:
            raise ValueError("must be 1 or 0")
        return text == "1"
    if kind is tuple:
        return () if text == "none" else tuple(part.strip() for part in text.split(","))
    return int(text) if kind is int else text


def _chosen_patches(names: tuple[str, ...], problems: list[str]) -> tuple[str, ...]:
    """The patches to apply, in order."""
    wanted = {name.removeprefix("-") for name in names}
    if unknown := sorted(wanted.difference(PATCHES)):
        problems.append(f"patches: there is none called {', '.join(unknown)}; they are {', '.join(PATCHES)}")
    left_out = [name for name in names if name.startswith("-")]
    if left_out and len(left_out) < len(names):
        problems.append("patches: name either those to apply or, with '-' before each, those to leave out")
    return tuple(name for name in PATCHES if (name in wanted) != bool(left_out))


def _require(value: object, kind: type) -> None:
    if kind is tuple:
        if not isinstance(value, tuple) or not all(isinstance(name, str) for name in value):
            raise ValueError("must be a tuple of names")
        return
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        wanted = "a timedelta, such as timedelta(seconds=30)" if kind is timedelta else f"of type {kind.__name__}"
        raise ValueError(f"must be {wanted}, not {type(value).__name__}")
    if (isinstance(value, timedelta) and value <= timedelta(0)) or (type(value) is int and value <= 0):
        raise ValueError("must be more than 0")
