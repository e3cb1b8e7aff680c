"""Servers besides the embedded one as it is: with options, in Sentinel or cluster mode, and behind TLS."""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import redis
import trustme

from orchestrator.server import EmbeddedServer
from tests.harness import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HOST = "127.0.0.1"
PIECE = 65_536


class AppUser(redis.CredentialProvider):
    """Knows the user `app` and its password."""

    def get_credentials(self) -> tuple[str, str]:
        return "app", "pw"


class ServerWith(EmbeddedServer):
    """The embedded server with options of its own behind the usual ones."""

    def __init__(self, directory: Path, *options: str) -> None:
        super().__init__(directory)
        self._options = options

    def _command(self, binary: Path, port: int) -> list[str]:
        return [*super()._command(binary, port), *self._options]

    @property
    def client(self) -> redis.Redis:
        return redis.Redis(HOST, self.port, decode_responses=True, socket_timeout=5)


class Sentinel(EmbeddedServer):
    """A Sentinel that alone decides over a master named `main`; it has to be started after the master.

    Args:
        directory: Where its file is.
        master: The server.
        password: Of the master.
        down_after_ms: How long the master may be mute before a replica takes over.
    """

    def __init__(
        self, directory: Path, master: EmbeddedServer, *, password: str = "", down_after_ms: int = 3000
    ) -> None:
        super().__init__(directory)
        lines = [
            f"sentinel monitor main {HOST} {master.port} 1",
            f"sentinel down-after-milliseconds main {down_after_ms}",
        ]
        lines += ["sentinel failover-timeout main 6000"]
        lines += [f"sentinel auth-pass main {password}"] if password else []
        directory.mkdir(parents=True, exist_ok=True)
        self._file = directory / "sentinel.conf"
        self._file.write_text("\n".join(lines) + "\n")

    def _command(self, binary: Path, port: int) -> list[str]:
        command = super()._command(binary, port)
        own = command[: command.index(str(binary)) + 1]
        where = ["--bind", HOST, "--port", str(port), "--dir", str(self._directory)]
        return [*own, str(self._file), "--sentinel", *where]

    @property
    def client(self) -> redis.Redis:
        return redis.Redis(HOST, self.port, decode_responses=True, socket_timeout=5)

    def wait_for_replicas(self, count: int) -> None:
        def known() -> bool:
            return (
                len([each for each in self.client.sentinel_slaves("main") if each["master-link-status"] == "ok"])
                == count
            )

        wait_until(known, f"{count} replicas are known", timeout=30)


@dataclass(frozen=True)
class Certificates:
    """A private authority, and what it has certified: a server on loopback, and a client.

    Attributes:
        authority: File with the authority's certificate.
        client: File with a client's key and certificates.
        server: What the server shows.
    """

    authority: Path
    client: Path
    server: trustme.LeafCert

    @classmethod
    def make(cls, folder: Path) -> Self:
        folder.mkdir(parents=True, exist_ok=True)
        authority = trustme.CA()
        files = folder / "authority.pem", folder / "client.pem"
        authority.cert_pem.write_to_path(str(files[0]))
        authority.issue_cert("client@test").private_key_and_cert_chain_pem.write_to_path(str(files[1]))
        return cls(*files, authority.issue_cert("localhost", HOST))

    def context(self) -> ssl.SSLContext:
        """What a server with these certificates asks of a client: a certificate of the same authority."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.server.configure_cert(context)
        context.load_verify_locations(self.authority)
        context.verify_mode = ssl.CERT_REQUIRED
        return context


class Behind:
    """A port that speaks TLS in front of one that does not; the embedded server is built without it."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self._target = port
        self._context = context
        self._listener = socket.create_server((HOST, 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, name="tls", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                outside, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(outside,), name="tls-link", daemon=True).start()

    def _serve(self, outside: socket.socket) -> None:
        with contextlib.suppress(OSError), outside, socket.create_connection((HOST, self._target)) as inside:
            outside.settimeout(10)
            with self._context.wrap_socket(outside, server_side=True) as safe, selectors.DefaultSelector() as ready:
                safe.settimeout(None)
                ready.register(safe, selectors.EVENT_READ, (safe.recv, inside.sendall))
                ready.register(inside, selectors.EVENT_READ, (inside.recv, safe.sendall))
                while all(self._pass(key.data, safe) for key, _ in ready.select()):
                    pass

    @staticmethod
    def _pass(way: tuple[Callable[[int], bytes], Callable[[bytes], None]], safe: ssl.SSLSocket) -> bool:
        receive, send = way
        while piece := receive(PIECE):
            send(piece)
            if receive != safe.recv or not safe.pending():
                return True
        return False
