"""Connection of script calls: packed once, sent and answered on a connection of the client's pool.

The client's own layers for a command cost more than the rest of a node's commit. What they do for a script call is done
here: repeats by the connection's own policy, and a connection that failed is closed.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from functools import lru_cache
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any

from redis.connection import ConnectionPool
from redis.exceptions import NoScriptError, RedisError, ResponseError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from redis import Redis


def packed(arguments: Iterable[bytes | str | int]) -> bytes:
    """Arguments of a command as the server reads them."""
    found = [each if isinstance(each, bytes) else str(each).encode() for each in arguments]
    return b"".join([b"$%d\r\n%b\r\n" % (len(each), each) for each in found])


class Packed:
    """Arguments that are the same in many calls, packed once; they stand in front of the other ones."""

    def __init__(self, arguments: Sequence[bytes | str | int]) -> None:
        self.count = len(arguments)
        self.text = packed(arguments)

    def behind(self, arguments: Sequence[bytes | str | int]) -> Packed:
        """The same with others in front."""
        whole = Packed(arguments)
        whole.count += self.count
        whole.text += self.text
        return whole


NOTHING = Packed(())
# redis-py before 5.3 asks for the name of a command; newer ones warn of it.
_NAME = (
    ("EVALSHA",)
    if signature(ConnectionPool.get_connection).parameters["command_name"].default is Parameter.empty
    else ()
)


@lru_cache(maxsize=256)
def _packed_head(command: str, script: str, keys: tuple[str, ...]) -> bytes:
    return packed((command, script, len(keys), *keys))


def _message(command: str, script: str, keys: tuple[str, ...], args: Sequence[Any], fixed: Packed) -> bytes:
    count = 3 + len(keys) + len(args) + fixed.count
    return b"*%d\r\n" % count + _packed_head(command, script, keys) + fixed.text + packed(args)


class Wire:
    """Script calls over one client's pool; safe to use after a fork and from several threads."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self.begin()

    def begin(self) -> None:
        """Hold no connection, as a process that was just forked."""
        self._held = threading.local()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep one connection for the calls that this thread makes in the block, once it has made the first."""
        if getattr(self._held, "is_wanted", False):  # it does already
            yield
            return
        # Taken out with the first call: the pool looks whether a connection still lives each time it hands one out.
        self._held.is_wanted, self._held.connection = True, None
        try:
            yield
        finally:
            connection = getattr(self._held, "connection", None)
            self._held.is_wanted, self._held.connection = False, None
            if connection is not None:
                self._client.connection_pool.release(connection)

    def ask(
        self, command: str, script: str, keys: tuple[str, ...], args: Sequence[Any], fixed: Packed = NOTHING
    ) -> Any:
        """Send EVALSHA or EVAL and return the answer as it came: numbers, bytes, lists of them.

        Raises:
            redis.RedisError: The server refused it, or did not answer within the tries of the client's retry policy.
        """
        message = _message(command, script, keys, args, fixed)

        def exchange(connection: Any) -> Any:
            connection.send_packed_command([message])
            return connection.read_response()

        return self._with_connection(exchange)

    def ask_all(self, command: str, script: str, calls: Sequence[tuple[tuple[str, ...], Sequence[Any], Packed]]) -> Any:
        """Send calls of one script together: keys, arguments, and those of them that are fixed.

        Returns:
            For each what it answered, or the `ResponseError` by which the server refused it.

        Raises:
            redis.RedisError: The server did not answer all of them within the tries of the retry policy.
        """
        messages = [_message(command, script, *call) for call in calls]

        def exchange(connection: Any) -> list[Any]:
            connection.send_packed_command(messages)
            answers: list[Any] = []
            # Each is read, also behind a refusal: an answer that is left on the connection would be taken for the next
            # call's.
            for _ in messages:
                try:
                    answers.append(connection.read_response())
                except ResponseError as error:
                    answers.append(error)
            return answers

        return self._with_connection(exchange)

    def _with_connection(self, exchange: Callable[[Any], Any]) -> Any:
        is_held = getattr(self._held, "is_wanted", False)
        connection = (self._held.connection if is_held else None) or self._client.connection_pool.get_connection(*_NAME)

        try:
            # By the connection's own policy: a lost answer costs a repeat, which no script takes for a second call.
            return connection.retry.call_with_retry(
                lambda: exchange(connection), lambda _error: connection.disconnect()
            )
        # A refusal was read to its end, so the connection is good for the next call.
        except ResponseError:
            raise
        except BaseException:  # a time limit may strike in the middle: the next call would read this one's answer
            connection.disconnect()
            raise
        finally:
            if is_held:
                self._held.connection = connection
            else:
                self._client.connection_pool.release(connection)


def ask_many(
    client: Any, sha: str, calls: Sequence[tuple[Sequence[str], Sequence[Any]]], ask: Callable[..., Any]
) -> list[Any]:
    """Call a script many times in one round trip, each with its keys and arguments; an error is that call's alone.

    Args:
        client: The client of the store.
        sha: The script.
        calls: What it is called with.
        ask: Calls it once, with its text where the server does not have it.
    """
    answers: list[Any] = [None] * len(calls)
    left = list(range(len(calls)))
    while left:
        pipe = client.pipeline(transaction=False)
        for place in left:
            keys, args = calls[place]
            pipe.evalsha(sha, len(keys), *keys, *args)
        for place, answer in zip(left, pipe.execute(raise_on_error=False), strict=True):
            answers[place] = answer
        left = [place for place in left if isinstance(answers[place], NoScriptError)]
        if left:  # the server has it with the first of them
            first = left.pop(0)
            try:
                answers[first] = ask(*calls[first])
            except RedisError as error:
                answers[first] = error
    return answers
