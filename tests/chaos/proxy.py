"""A network to break: a TCP proxy on loopback in front of one server.

It passes bytes until a test tells it otherwise: cut the connections, swallow everything, be slow, lose the reply to
a certain request after the server has answered it, or answer every command with an error in place of the server.
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

HOST = "127.0.0.1"
COMMAND = re.compile(rb"\*\d+\r\n\$\d+\r\n[A-Z ]+\r\n")
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST, as a peer does that knows of no connection


@dataclass
class Rule:
    """Which replies are lost.

    Attributes:
        pattern: Bytes of the request.
        loses: Of the nth answered request that has them, from 1, whether its reply is lost.
        answered: Such requests that the server has answered; an error, such as NOSCRIPT, is no answer.
        lost: Replies that were lost.
    """

    pattern: bytes
    loses: Callable[[int], bool]
    answered: int = 0
    lost: int = 0


@dataclass(eq=False)
class Link:
    """One connection of a client and the one made for it to the server."""

    client: socket.socket
    server: socket.socket
    forgotten: bool = False
    asked: list[Rule] = field(default_factory=list)

    def close(self) -> None:
        for side in (self.client, self.server):
            with contextlib.suppress(OSError):
                side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                side.shutdown(socket.SHUT_RDWR)
            side.close()


class Proxy:
    """Forwards connections to a port on loopback until it is closed; every method may be called from any thread."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server((HOST, 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._links: set[Link] = set()
        self._rules: list[Rule] = []
        self._refusing = False
        self._open = threading.Event()  # not set: nothing is forwarded
        self._open.set()
        self._delay_s = 0.0
        self._refusal = b""
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    @property
    def links(self) -> int:
        return len(self._links)

    def is_stalled(self) -> bool:
        return not self._open.is_set()

    def close(self) -> None:
        self._refusing = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._open.set()
        self._close_links()

    def cut(self, seconds: float) -> int:
        """Close every connection and refuse new ones for a while; returns how many were closed."""
        self._refusing = True
        closed = self._close_links()
        time.sleep(seconds)
        self._refusing = False
        return closed

    def stall(self, seconds: float, *, forget: bool) -> int:
        """Accept everything and forward nothing for a while; returns how many connections were there.

        With `forget`, what was connected then stays mute for ever, as behind a router that lost its table; else
        forwarding goes on where it stopped, as after a cable was plugged in again.
        """
        self._open.clear()
        with self._lock:
            held = list(self._links)
        for link in held:
            link.forgotten = forget
        time.sleep(seconds)
        self._open.set()
        return len(held)

    def delay(self, seconds: float) -> None:
        """From now on let every read of bytes take so much longer, each way."""
        self._delay_s = seconds

    def lose_reply(self, pattern: bytes, loses: Callable[[int], bool] | Iterable[int] = (1,)) -> Rule:
        """Let the server act on requests with these bytes, then close the connection instead of passing the reply."""
        rule = Rule(pattern, loses if callable(loses) else set(loses).__contains__)
        with self._lock:
            self._rules.append(rule)
        return rule

    @contextmanager
    def refusing(self, text: str) -> Iterator[None]:
        """Answer every command with this error, and let the server have none."""
        self._refusal = b"-" + text.encode() + b"\r\n"
        try:
            yield
        finally:
            self._refusal = b""

    def lose_nothing(self) -> None:
        with self._lock:
            self._rules = []

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                link = Link(client, socket.create_connection((HOST, self._target), timeout=5))
            except OSError:  # the server is down
                client.close()
                continue
            with self._lock:
                self._links.add(link)
            if self._refusing:
                self._end(link)
                continue
            for side in (link.client, link.server):
                side.settimeout(None)
                side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for ends in ((link.client, link.server), (link.server, link.client)):
                threading.Thread(target=self._pump, args=(link, *ends), daemon=True).start()

    def _pump(self, link: Link, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if self._delay_s:
                    time.sleep(self._delay_s)
                self._open.wait()
                if link.forgotten:
                    continue
                if source is link.client and self._refusal:
                    # A client sends whole commands and waits for their answers, so that a piece begins with one.
                    source.sendall(self._refusal * max(len(COMMAND.findall(data)), 1))
                    continue
                if source is link.client:
                    self._note_request(link, data)
                elif self._is_lost(link, data):
                    break
                sink.sendall(data)
        self._end(link)

    def _note_request(self, link: Link, data: bytes) -> None:
        with self._lock:
            link.asked = [rule for rule in self._rules if rule.pattern in data] or link.asked

    def _is_lost(self, link: Link, data: bytes) -> bool:
        with self._lock:
            rules, link.asked, lost = link.asked, [], False
            if data.startswith(b"-"):
                return False
            for rule in rules:
                rule.answered += 1
                rule.lost += (loses := rule.loses(rule.answered))
                lost = lost or loses
            return lost

    def _end(self, link: Link) -> None:
        link.close()
        with self._lock:
            self._links.discard(link)

    def _close_links(self) -> int:
        with self._lock:
            links = list(self._links)
        for link in links:
            self._end(link)
        return len(links)
