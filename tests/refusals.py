"""Refusals of Redis, provoked: each makes a real server answer with it, or the proxy where a lone server never does."""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import redis

from orchestrator import StoreFull, StoreUnavailable
from tests.chaos.proxy import Proxy
from tests.harness import wait_until
from tests.servers import HOST, ServerWith

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from orchestrator.server import EmbeddedServer
    from tests.chaos.world import World

FOREVER = "while true do end"
OPTIONS = ("--enable-debug-command", "yes", "--loading-process-events-interval-bytes", "1024")


class RefusingServer:
    """A server that can be made to refuse, and the proxy through which everybody but a test's own client reaches it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stack = ExitStack()
        self.server: EmbeddedServer
        self.proxy: Proxy
        self.admin: redis.Redis

    def __enter__(self) -> Self:
        self.server = server = self._stack.enter_context(ServerWith(self.folder, *OPTIONS))
        self.proxy = self._stack.enter_context(Proxy(self.server.port))
        self.admin = server.client
        self.admin.ping()  # its connection outlasts every refusal
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @classmethod
    def of(cls, world: World) -> Self:
        """The server of a world that runs."""
        place = cls(world.folder / "server")
        place.server, place.proxy, place.admin = world.server, world.proxy, world.client
        return place

    @property
    def url(self) -> str:
        return self.proxy.url

    def drop_others(self) -> None:
        """Let everybody else connect again."""
        for kind in ("normal", "pubsub"):
            self.admin.client_kill_filter(_type=kind, skipme=True)


@contextmanager
def configured(place: RefusingServer, **options: str | int) -> Iterator[None]:
    before = {name: place.admin.config_get(name)[name] for name in (key.replace("_", "-") for key in options)}
    for name, value in options.items():
        place.admin.config_set(name.replace("_", "-"), value)
    try:
        yield
    finally:
        for name, text in before.items():
            place.admin.config_set(name, text or "")


@contextmanager
def failed_snapshot(place: RefusingServer) -> Iterator[None]:
    """A folder stands where the snapshot's file belongs, so that it cannot be renamed to it."""
    obstacle = place.folder / "dump.rdb"
    obstacle.unlink(missing_ok=True)
    obstacle.mkdir()
    with configured(place, save="3600 1"):
        _snapshot(place, "err")
        try:
            yield
        finally:
            obstacle.rmdir()
            _snapshot(place, "ok")


def _snapshot(place: RefusingServer, status: str) -> None:
    def is_made() -> bool:
        with suppress(redis.ResponseError):  # one is being made
            place.admin.bgsave()
        return bool(place.admin.info("persistence")["rdb_last_bgsave_status"] == status)

    wait_until(is_made, f"the last snapshot is {status}")


@contextmanager
def demoted(place: RefusingServer) -> Iterator[None]:
    place.admin.replicaof(HOST, 1)
    try:
        yield
    finally:
        place.admin.replicaof("NO", "ONE")


@contextmanager
def without_master(place: RefusingServer) -> Iterator[None]:
    with configured(place, replica_serve_stale_data="no"), demoted(place):
        yield


@contextmanager
def busy(place: RefusingServer) -> Iterator[None]:
    """A script that does not end; another one kills it."""
    ended = threading.Event()

    def run() -> None:
        with suppress(redis.RedisError), redis.Redis(HOST, place.server.port, socket_timeout=300) as client:
            client.eval(FOREVER, 0)
        ended.set()

    with configured(place, lua_time_limit=100):
        threading.Thread(target=run, daemon=True).start()
        wait_until(lambda: _refused(place), "a script keeps the server busy")
        try:
            yield
        finally:
            place.admin.script_kill()
            ended.wait(30)


@contextmanager
def loading(place: RefusingServer) -> Iterator[None]:
    """The server reads its snapshot anew, and each of its keys takes time."""
    with place.admin.pipeline(transaction=False) as pipe:
        for number in range(600):
            pipe.set(
                f"filler:{number}", os.urandom(2048), px=600_000
            )  # it looks at its connections after so many bytes
        pipe.execute()
    place.admin.config_set("key-load-delay", 20_000)

    def run() -> None:
        with redis.Redis(HOST, place.server.port, socket_timeout=300) as client:
            client.execute_command("DEBUG", "RELOAD")

    reloading = threading.Thread(target=run, daemon=True)
    reloading.start()
    wait_until(lambda: _refused(place), "the server is loading")
    try:
        yield
    finally:
        place.admin.config_set("key-load-delay", 0)
        reloading.join(30)


def _refused(place: RefusingServer) -> bool:
    try:
        place.admin.get("nothing")
    except (redis.ResponseError, redis.BusyLoadingError):
        return True
    except redis.TimeoutError:
        return False
    return False


@contextmanager
def without_rights(place: RefusingServer) -> Iterator[None]:
    place.admin.acl_setuser("tester", enabled=True, nopass=True, categories=["+@all"], keys=["*"], channels=["*"])
    place.admin.execute_command("AUTH", "tester", "")
    place.admin.execute_command("ACL", "SETUSER", "default", "-@write", "-@scripting")
    try:
        yield
    finally:
        place.admin.execute_command("ACL", "SETUSER", "default", "+@all")


@contextmanager
def too_many_clients(place: RefusingServer) -> Iterator[None]:
    with configured(place, maxclients=1):
        place.drop_others()
        yield


@contextmanager
def other_password(place: RefusingServer) -> Iterator[None]:
    with configured(place, requirepass="changed"):
        place.drop_others()
        yield


@dataclass(frozen=True)
class Refusal:
    """One refusal of Redis.

    Attributes:
        provoked: Makes the server refuse during a block.
        says: What a client is told: the server's word, and what to do.
        kind: What a client gets.
        reads: Whether a read is answered all the same.
        cancels: Whether a run can be cancelled all the same.
    """

    provoked: Callable[[RefusingServer], AbstractContextManager[None]]
    says: str
    kind: type[Exception] = StoreUnavailable
    reads: bool = False
    cancels: bool = False


def answered(text: str) -> Callable[[RefusingServer], AbstractContextManager[None]]:
    """By the proxy, in place of the server."""
    return lambda place: place.proxy.refusing(text)


REFUSALS = {
    "OOM": Refusal(
        lambda place: configured(place, maxmemory=1), "raise maxmemory", StoreFull, reads=True, cancels=True
    ),
    "MISCONF": Refusal(failed_snapshot, "MISCONF.*stop-writes-on-bgsave-error", reads=True),
    "NOREPLICAS": Refusal(
        lambda place: configured(place, min_replicas_to_write=1), "NOREPLICAS.*min-replicas-to-write", reads=True
    ),
    "READONLY": Refusal(demoted, "replica", reads=True),
    "MASTERDOWN": Refusal(without_master, "replica"),
    "BUSY": Refusal(busy, "BUSY.*SCRIPT KILL"),
    "LOADING": Refusal(loading, "loading"),
    "NOPERM": Refusal(without_rights, "the commands that docs/deployments.md lists", reads=True),
    "maxclients": Refusal(too_many_clients, "raise maxclients|did not answer"),
    "password": Refusal(other_password, "password"),
    "CLUSTERDOWN": Refusal(answered("CLUSTERDOWN The cluster is down"), "The cluster is down. Bring its nodes back"),
    "TRYAGAIN": Refusal(answered("TRYAGAIN Multiple keys request during rehashing of slot"), "is moving the slot"),
}
