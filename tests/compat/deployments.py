"""Start the servers that deployments have, on free ports of the loopback, and say how a Celery app is set to them."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis

from orchestrator.server import EmbeddedServer
from tests.rabbit import Rabbit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PASSWORD = "p@ss/word"
QUOTED = "p%40ss%2Fword"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def process(command: list[str], ready: Callable[[], object], **options: Any) -> Iterator[None]:
    """Run a program until the block ends."""
    path = Path(options.pop("log"))
    with path.open("wb") as log:
        running = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, **options)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                ready()
                break
            except (OSError, redis.RedisError):
                assert running.poll() is None, f"{command[0]} ended: {path.read_text()[-1000:]}"
                assert time.monotonic() < deadline, f"{command[0]} does not answer"
                time.sleep(0.1)
        yield
    finally:
        running.terminate()
        try:
            running.wait(timeout=30)
        except subprocess.TimeoutExpired:
            running.kill()


@contextmanager
def redis_server(folder: Path, *options: str, client: dict[str, Any] | None = None, port: int = 0) -> Iterator[int]:
    """Debian's redis-server."""
    port = port or free_port()
    folder.mkdir(parents=True, exist_ok=True)
    program = shutil.which("redis-server")
    assert program, "install redis-server"
    command = [
        program,
        "--bind",
        "127.0.0.1",
        "--port",
        str(port),
        "--dir",
        str(folder),
        "--appendonly",
        "yes",
        *options,
    ]
    with process(command, redis.Redis(**{"port": port, **(client or {})}).ping, log=folder / "log"):
        yield port


def embedded(stack: ExitStack, folder: Path) -> dict[str, Any]:
    url = stack.enter_context(EmbeddedServer(folder / "embedded")).url
    return {"broker_url": url, "result_backend": url}


def debian(stack: ExitStack, folder: Path) -> dict[str, Any]:
    url = f"redis://127.0.0.1:{stack.enter_context(redis_server(folder / 'debian'))}/0"
    return {"broker_url": url, "result_backend": url}


def two_servers(stack: ExitStack, folder: Path) -> dict[str, Any]:
    ports = [stack.enter_context(redis_server(folder / name)) for name in ("broker", "store")]
    return {"broker_url": f"redis://127.0.0.1:{ports[0]}/0", "result_backend": f"redis://127.0.0.1:{ports[1]}/1"}


def unix_socket(stack: ExitStack, folder: Path) -> dict[str, Any]:
    path = folder / "redis.sock"
    stack.enter_context(redis_server(folder / "unix", "--unixsocket", str(path)))
    url = f"redis+socket://{path}"
    return {"broker_url": url, "result_backend": url}


def key_prefix(stack: ExitStack, folder: Path) -> dict[str, Any]:
    return debian(stack, folder) | {"broker_transport_options": {"global_keyprefix": "shop:"}}


def password(stack: ExitStack, folder: Path) -> dict[str, Any]:
    client = {"password": PASSWORD}
    port = stack.enter_context(redis_server(folder / "password", "--requirepass", PASSWORD, client=client))
    url = f"redis://:{QUOTED}@127.0.0.1:{port}/0"
    return {"broker_url": url, "result_backend": url}


def certificate(folder: Path) -> tuple[Path, Path]:
    """A key, and a certificate of it for the loopback that is its own authority."""
    key, cert = folder / "key.pem", folder / "cert.pem"
    openssl = shutil.which("openssl")
    assert openssl, "install openssl"
    about = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    made = ["-keyout", str(key), "-out", str(cert), "-days", "2"]
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", *made, *about], check=True, capture_output=True
    )
    return key, cert


def tls(stack: ExitStack, folder: Path) -> dict[str, Any]:
    key, cert = certificate(folder)
    port = free_port()
    options = ["--tls-port", str(port), "--tls-cert-file", str(cert), "--tls-key-file", str(key)]
    options += ["--tls-ca-cert-file", str(cert), "--tls-auth-clients", "no"]
    stack.enter_context(redis_server(folder / "tls", *options))
    url = f"rediss://127.0.0.1:{port}/0?ssl_cert_reqs=required&ssl_ca_certs={cert}"
    return {"broker_url": url, "result_backend": url}


def sentinel_tls(stack: ExitStack, folder: Path) -> dict[str, Any]:
    """Sentinel and its master speak TLS only, and each has a password of its own."""
    key, cert = certificate(folder)
    options = ["--tls-cert-file", str(cert), "--tls-key-file", str(key), "--tls-ca-cert-file", str(cert)]
    options += ["--tls-auth-clients", "no", "--tls-replication", "yes"]
    ports = [free_port(), free_port()]
    trust = {"ssl": True, "ssl_ca_certs": str(cert)}
    own = ["--port", "0", "--tls-port", str(ports[0]), "--requirepass", PASSWORD, *options]
    client = {"port": ports[0], "password": PASSWORD} | trust
    stack.enter_context(redis_server(folder / "secured", *own, client=client))
    folder.joinpath("sentinel.conf").write_text(
        f"bind 127.0.0.1\ndir {folder}\nsentinel monitor main 127.0.0.1 {ports[0]} 1\n"
        f"sentinel auth-pass main {PASSWORD}\nrequirepass of-sentinel\n"
    )
    program = str(shutil.which("redis-server"))
    command = [
        program,
        str(folder / "sentinel.conf"),
        "--sentinel",
        "--port",
        "0",
        "--tls-port",
        str(ports[1]),
        *options,
    ]
    ask = redis.Redis(port=ports[1], password="of-sentinel", **trust).ping  # type: ignore[arg-type]
    stack.enter_context(process(command, ask, log=folder / "sentinel.log"))
    url = f"sentinel://:{QUOTED}@127.0.0.1:{ports[1]}/0"
    ways = {"master_name": "main", "sentinel_kwargs": {"password": "of-sentinel"} | trust}
    secured = {"ssl_cert_reqs": "required", "ssl_ca_certs": str(cert)}
    return {
        "broker_url": url,
        "result_backend": url,
        "broker_transport_options": ways,
        "result_backend_transport_options": ways,
        "broker_use_ssl": secured,
        "redis_backend_use_ssl": secured,
    }


def sentinel(stack: ExitStack, folder: Path) -> dict[str, Any]:
    master = stack.enter_context(redis_server(folder / "master"))
    port = free_port()
    folder.joinpath("sentinel.conf").write_text(
        f"port {port}\nbind 127.0.0.1\ndir {folder}\nsentinel monitor main 127.0.0.1 {master} 1\n"
        "sentinel down-after-milliseconds main 2000\n"
    )
    program = str(shutil.which("redis-server"))
    command = [program, str(folder / "sentinel.conf"), "--sentinel"]
    stack.enter_context(process(command, redis.Redis(port=port).ping, log=folder / "sentinel.log"))
    url, options = f"sentinel://127.0.0.1:{port}/0", {"master_name": "main"}
    return {
        "broker_url": url,
        "result_backend": url,
        "broker_transport_options": options,
        "result_backend_transport_options": options,
    }


def rabbitmq(stack: ExitStack, folder: Path) -> dict[str, Any]:
    rabbit = stack.enter_context(Rabbit(folder / "rabbit", consumer_timeout_ms=20_000))
    return {"broker_url": rabbit.url, "result_backend": debian(stack, folder)["result_backend"]}


DEPLOYMENTS: dict[str, Callable[[ExitStack, Path], dict[str, Any]]] = {
    "Valkey 9 (embedded)": embedded,
    "Redis 7": debian,
    "two Redis servers": two_servers,
    "unix socket": unix_socket,
    "key prefix": key_prefix,
    "password": password,
    "TLS": tls,
    "Sentinel": sentinel,
    "Sentinel over TLS": sentinel_tls,
    "RabbitMQ + Redis": rabbitmq,
}
