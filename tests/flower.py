"""A Flower process with the Flows tab, and a client that reads its pages and posts to it as a browser would."""

from __future__ import annotations

import http.client
import re
import socket
import time
from base64 import b64encode
from contextlib import contextmanager
from http.cookies import SimpleCookie
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from tests.harness import environment_for, wait_until
from tests.processes import Running, free_port, running

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

PAGES = ("", "/flows", "/limits", "/schedules", "/workers", "/waiting", "/flow/order")
"""Behind `/flows`; `order` is a flow of the program `tabbed`."""
CONFIG = "from orchestrator.web import install\ninstall()\n"


def basic(credentials: str) -> str:
    """The header of `name:password`."""
    return "Basic " + b64encode(credentials.encode()).decode()


class Answer:
    """The status, headers and text of an answer, and how many seconds it took."""

    def __init__(self, answer: http.client.HTTPResponse, took: float) -> None:
        self.status = answer.status
        self.headers = answer.headers
        self.text = answer.read().decode()
        self.took = took


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket, as a proxy in front of Flower speaks it."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=20)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Flower:
    """One Flower; posts carry its cookie and token unless they are told otherwise."""

    unix_socket: Path | None = None

    def __init__(self, port: int, prefix: str, process: Running) -> None:
        self.port = port
        self.prefix = prefix
        self.process = process
        self.cookies: SimpleCookie = SimpleCookie()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.prefix}"

    def ask(self, method: str, path: str, body: str = "", headers: Mapping[str, str] | None = None) -> Answer:
        sent = {"Cookie": "; ".join(f"{name}={each.value}" for name, each in self.cookies.items())} | dict(
            headers or {}
        )
        connection = (
            UnixConnection(self.unix_socket)
            if self.unix_socket
            else http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        )
        try:
            began = time.perf_counter()
            connection.request(method, self.prefix + path, body or None, sent)
            answer = Answer(connection.getresponse(), time.perf_counter() - began)
        finally:
            connection.close()
        for cookie in answer.headers.get_all("Set-Cookie", []):
            self.cookies.load(cookie)
        return answer

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, headers=_named(headers))

    def post(self, path: str, values: Mapping[str, str | list[str]], *, token: bool = True, **headers: str) -> Answer:
        sent = dict(values)
        if token:
            page = self.get("/flows/flow/order", **{k: v for k, v in headers.items() if k == "Authorization"})
            found = re.search(r'name="_xsrf" value="([^"]+)"', page.text)
            sent["_xsrf"] = found[1] if found else ""
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        return self.ask("POST", path, urlencode(sent, doseq=True), form | _named(headers))

    def is_up(self) -> bool:
        assert self.process.process.poll() is None, self.process.text
        try:
            return self.ask("GET", "/healthcheck").text == "OK"
        except OSError:
            return False


def _named(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


@contextmanager
def flower_process(
    module: str,
    url: str,
    folder: Path,
    *options: str,
    prefix: str = "",
    unix_socket: Path | None = None,
    config: str = CONFIG,
) -> Iterator[Flower]:
    """Run Flower with the tab until the block ends, on a port or on a unix socket."""
    folder.mkdir(parents=True, exist_ok=True)
    file, port = folder / "flowerconfig.py", free_port()
    file.write_text(config)
    arguments = ["-m", "celery", "-A", module, "flower", f"--port={port}", "--address=127.0.0.1", f"--conf={file}"]
    if unix_socket:
        arguments.append(f"--unix-socket={unix_socket}")
    if prefix:
        arguments.append(f"--url-prefix={prefix}")
    with running(
        [*arguments, *options], folder=folder / "cwd", log=folder / "flower.log", environment=environment_for(url)
    ) as process:
        shown = Flower(port, prefix, process)
        shown.unix_socket = unix_socket
        wait_until(shown.is_up, "Flower is up", timeout=60)
        yield shown
