"""Make connections to the Redis of the runs: over TCP, TLS or a socket, through Sentinel, or to a node of a cluster.

An address is only data. Celery's settings are translated into one in `messaging/celery_addresses.py`; which limits a
connection has, and that every script may be repeated, is decided here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from inspect import signature
from typing import TYPE_CHECKING, Any

import redis
import redis.sentinel
from redis.backoff import ExponentialBackoff
from redis.connection import AbstractConnection
from redis.retry import Retry

from orchestrator.errors import ConfigurationError
from orchestrator.lazy import lazy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.settings import Settings

TRIES = 2
"""Repeats of a call whose connection failed: every script may be repeated, see its header."""
HEALTH_CHECK_S = 25
ONLY_TCP = ("socket_connect_timeout", "socket_keepalive", "socket_keepalive_options")
# Any: redis-py's connection classes take other arguments in each version.
Plain: Any = redis.Connection
sentinel: Any = redis.sentinel
QUIET: dict[str, None] = (
    {"driver_info": None}
    if "driver_info" in signature(AbstractConnection.__init__).parameters
    else {"lib_name": None, "lib_version": None}
)
"""Keeps redis-py from naming itself, which would be one more right that a user needs, and two calls a connection."""


@dataclass(frozen=True, eq=False)
class Sentinels:
    """The Sentinels that know which server is the master.

    Attributes:
        nodes: Host and port of each.
        service: Name of the master.
        others: How many others one must know of to be believed.
        options: Keyword arguments of a connection to one of them.
    """

    nodes: tuple[tuple[str, int], ...]
    service: str
    others: int
    options: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Address:
    """A Redis, the user to connect as, and how.

    Attributes:
        setting: What it was read from, for error messages.
        kind: redis-py's class of a connection.
        options: Keyword arguments of a connection; a limit among them comes from the URL and beats `Settings`.
        sentinels: Who knows the server; None where `options` do.
        url: The URL that was given for runs; empty where the app's settings were read.
    """

    setting: str
    kind: Any
    options: Mapping[str, Any] = field(repr=False)
    sentinels: Sentinels | None = field(default=None, repr=False)
    url: str = field(default="", repr=False)

    @lazy
    def server(self) -> tuple[Any, ...]:
        """What tells this server from others."""
        if self.sentinels is not None:
            return (frozenset(self.sentinels.nodes), self.sentinels.service)
        if "path" in self.options:
            return (self.options["path"],)
        return (self.options.get("host"), self.options.get("port"))

    @property
    def database(self) -> int:
        """Number of the database."""
        return int(self.options.get("db") or 0)

    @property
    def place(self) -> str:
        """Server and database for a person to read, without any password."""
        if self.sentinels is not None:
            nodes = ", ".join(f"{host}:{port}" for host, port in self.sentinels.nodes)
            return f"{self.sentinels.service} of Sentinel {nodes}/{self.database}"
        if "path" in self.options:
            return f"{self.options['path']}/{self.database}"
        return f"{self.options.get('host')}:{self.options.get('port')}/{self.database}"

    @lazy
    def user(self) -> str:
        """Name of the user; asks a credential provider."""
        provider = self.options.get("credential_provider")
        if provider is None:
            return self.options.get("username") or "default"
        credentials = provider.get_credentials()
        return str(credentials[0]) if len(credentials) > 1 else "default"

    def is_same(self, other: Address) -> bool:
        """Whether the other one leads to the same database."""
        return (self.server, self.database) == (other.server, other.database)

    def has_rights_of(self, other: Address) -> bool:
        """Whether the other one reaches the same database as the same user."""
        return self.is_same(other) and self.user == other.user

    def new_pool(self, settings: Settings) -> redis.ConnectionPool:
        """A pool of connections, none of which is open yet.

        Raises:
            ConfigurationError: Connections of this kind do not take one of the options.
        """
        # Short: what can wait for Redis for longer repeats the whole call, and a claim must be able to give up.
        options = self._limited(settings) | {"retry": Retry(ExponentialBackoff(cap=0.5, base=0.05), TRIES)}
        kind = self.kind
        if self.sentinels is not None:
            kind = _asking(kind)
        elif "{" in settings.prefix:
            kind = _following(kind)
        try:
            kind(**options | ({"connection_pool": None} if self.sentinels else {}))  # refused now, not at its first use
        except (TypeError, ValueError, redis.RedisError) as error:
            raise ConfigurationError(f"{self.setting} has an option that redis-py does not take: {error}") from error
        pool: redis.ConnectionPool
        if self.sentinels is None:
            pool = redis.ConnectionPool(connection_class=kind, **options)
            return pool
        manager = sentinel.Sentinel(
            self.sentinels.nodes, self.sentinels.others, sentinel_kwargs=self._of_sentinel(options)
        )
        pool = sentinel.SentinelConnectionPool(self.sentinels.service, manager, connection_class=kind, **options)
        return pool

    def _of_sentinel(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Keyword arguments of a connection to a Sentinel: the limits of ours, and what the app says."""
        limits = {name: value for name, value in options.items() if name.startswith("socket_")}
        return limits | dict(self.sentinels.options if self.sentinels else {})

    def _limited(self, settings: Settings) -> dict[str, Any]:
        """The options, with the limits that they do not have."""
        timeout = settings.socket_timeout.total_seconds()
        limits: dict[str, Any] = {
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
            "socket_keepalive": True,
            "health_check_interval": HEALTH_CHECK_S,
        }
        options = QUIET | limits | dict(self.options)
        if "path" in options:
            return {name: value for name, value in options.items() if name not in ONLY_TCP}
        return options


def _asking(kind: Any) -> Any:
    """A class of connections that ask the Sentinels each time they connect, and that all lead to one master.

    redis-py asks when a connection is taken out of its pool, and not when one that is kept connects again before a
    call: that one would look for the old master for ever. During a failover the old master still answers for a moment:
    a process that writes to one and reads from the other would see a run that is half there.
    """
    master: list[Any] = [None]

    class Asking(kind):
        def _connect(self) -> Any:
            master[0] = self.host, self.port = self.connection_pool.get_master_address()
            return super()._connect()

        def send_packed_command(self, *args: Any, **options: Any) -> None:
            # Another connection of the pool has heard of a new master; without a socket redis-py asks and connects
            # before it sends.
            if self._sock is not None and master[0] != (self.host, self.port):
                self.disconnect()
            super().send_packed_command(*args, **options)

        def read_response(self, *args: Any, **options: Any) -> Any:
            try:
                return super().read_response(*args, **options)
            except redis.ResponseError as error:
                if not str(error).startswith("NOREPLICAS"):
                    raise
                self.disconnect()  # as redis-py does for READONLY: a replica may have become the master
                raise redis.ConnectionError(f"the master refuses writes: {error}") from error

    return Asking


class _Owner:
    """The node of a cluster that has the slot of the runs, as the connections of one pool know it."""

    def __init__(self) -> None:
        self._found: tuple[str, int] | None = None

    def point(self, connection: Any) -> None:
        """Let a connection that is about to be made lead there; without knowledge, to the address of the settings."""
        connection.seed = getattr(connection, "seed", (connection.host, connection.port))
        connection.host, connection.port = self._found or connection.seed

    def forget(self) -> None:
        """Ask the address of the settings again: the node does not answer."""
        self._found = None

    def move(self, connection: Any, error: redis.exceptions.MovedError) -> redis.ConnectionError:
        """Note where the slot is; returns the error on which redis-py connects again and repeats the call."""
        self._found = (error.host or connection.host, int(error.port))
        return redis.ConnectionError(f"the slot of the runs is at {error.host}:{error.port} now")


def _following(kind: Any) -> Any:
    """A class of connections that go to the node that has the slot, for a server that may be in cluster mode."""
    owner = _Owner()
    if not issubclass(kind, Plain):  # a socket has no other node behind it
        return kind

    class Following(kind):
        # Not `connect`: a connection that has to connect again before a call goes another way.
        def _connect(self) -> Any:
            owner.point(self)
            try:
                return super()._connect()
            except OSError:
                owner.forget()
                raise

        def read_response(self, *args: Any, **options: Any) -> Any:
            try:
                return super().read_response(*args, **options)
            except redis.exceptions.MovedError as error:
                self.disconnect()
                raise owner.move(self, error) from error

    return Following
