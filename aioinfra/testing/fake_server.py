"""A Redis that answers as it is told: in front of a real server, or alone.

::

    async with FakeRedis("redis://localhost:6379/0") as fake:        # everything passes to the real server
        cache = CacheManager(fake.url)
        with fake.answer("SET", OOM):                                # but for this
            ...
        fake.answer("EVALSHA", LostReply(), times=1)                 # run, and the answer lost

Alone (``FakeRedis()``) it answers what clients say when they connect, keeps no data, and everything else is
an error unless a rule says otherwise. RESP2 only; RESP3 is refused as by servers before 6.0. It runs on the
event loop of its user and listens on 127.0.0.1.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from aioinfra.codec.bounds import check_whole
from aioinfra.errors import InvalidArgument, LifecycleError
from aioinfra.testing.answers import Answer, encode
from aioinfra.testing.fake_session import Command, Session
from aioinfra.testing.upstream import LOCALHOST, UpstreamAddress, parse_upstream

__all__ = ["Command", "FakeRedis", "Match", "Rule"]

Match = str | Callable[[Command], bool]
"""The first words of a command ("GET", "CLIENT TRACKING", any case), "*" for all, greetings too, or a predicate."""

_REMEMBERED: Final = 10_000
_FOR_EVER: Final = 1 << 62
_INFO: Final = (
    "# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\n# Memory\r\nmaxmemory:0\r\n"
    "maxmemory_policy:noeviction\r\n# Persistence\r\nloading:0\r\naof_enabled:1\r\n# Replication\r\nrole:master\r\n"
)
_SERVER: Final = [
    *("server", "redis", "version", "7.0.15", "proto", 2, "id", 1),
    *("mode", "standalone", "role", "master", "modules", []),
]


class Rule:
    """Which commands get which answer. `remove` it, or use it as a context manager that removes it at its end.

    Attributes:
        used: how many commands it answered.
    """

    __slots__ = ("_left", "_matches", "_remove", "_skip", "answer", "used")

    def __init__(
        self,
        matches: Callable[[Command], bool],
        answer: Answer,
        *,
        skip: int,
        times: int,
        remove: Callable[[Rule], None],
    ) -> None:
        self.answer = answer
        self.used = 0
        self._matches = matches
        self._skip = skip
        self._left = times
        self._remove = remove

    def takes(self, command: Command) -> bool:
        """Whether this command is the rule's; counts it."""
        if not self._left or not self._matches(command):
            return False
        if self._skip:
            self._skip -= 1
            return False
        self._left -= 1
        self.used += 1
        if not self._left:
            self.remove()
        return True

    def remove(self) -> None:
        """Answer no more. Idempotent."""
        self._remove(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


class FakeRedis:
    """A scriptable server. Open it with ``async with``; rules may be made before and at any time.

    Args:
        upstream: URL of the real server, ``redis://`` or ``unix://``; None for none.
        port: to listen on; 0 takes a free one.
        remember: how many of the last commands `commands` keeps.

    Attributes:
        commands: the last commands received, oldest first: tuples of bytes, of all clients. They hold keys,
            values and credentials: for asserting, not for logging.
        connections: how many clients have connected so far.

    Raises:
        InvalidArgument: naming the argument.
    """

    def __init__(self, upstream: str | None = None, *, port: int = 0, remember: int = _REMEMBERED) -> None:
        check_whole("port", port, 0, 65_535)
        check_whole("remember", remember, 0, 1 << 24)
        self._address: UpstreamAddress | None = None if upstream is None else parse_upstream(upstream)
        if self._address is not None and self._address.scheme != "redis":
            raise InvalidArgument("upstream", "must be redis:// or unix://: nothing can be read in TLS")
        self.commands: deque[Command] = deque(maxlen=remember)
        self.connections = 0
        self._port = port
        self._server: asyncio.Server | None = None
        self._sessions: dict[asyncio.Task[None], Session] = {}
        self._rules: list[Rule] = []
        self._greetings: list[Rule] = []

    def __repr__(self) -> str:
        return f"FakeRedis(port={self._port}, rules={len(self._rules)}, clients={len(self._sessions)})"

    @property
    def host(self) -> str:
        """Always 127.0.0.1."""
        return LOCALHOST

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._port

    @property
    def url(self) -> str:
        """For clients: the upstream's URL with this server's address; credentials and database included."""
        return (
            f"redis://{LOCALHOST}:{self._port}/0" if self._address is None else self._address.url(self._port)
        )

    def count(self, match: Match) -> int:
        """How many of the remembered `commands` match."""
        return sum(map(_predicate(match), self.commands))

    # Rules

    def answer(self, match: Match, answer: Answer, *, times: int | None = None, skip: int = 0) -> Rule:
        """Answer commands so from now on. The newest rule that matches a command decides.

        Args:
            match: see `Match`.
            answer: see `aioinfra.testing.answers`.
            times: so often, then the commands are answered as before; None for ever.
            skip: let so many matching commands pass first: ``skip=2, times=1`` is the third.
        """
        rule = self._rule(match, answer, times, skip, self._rules)
        self._rules.insert(0, rule)
        return rule

    def on_connect(self, answer: Answer, *, times: int | None = None) -> Rule:
        """Begin new connections with an answer nobody asked for: ``ThenClose(MAX_CLIENTS)``."""
        rule = self._rule("*", answer, times, 0, self._greetings)
        self._greetings.insert(0, rule)
        return rule

    def remove_rules(self) -> None:
        """Forget every rule."""
        self._rules.clear()
        self._greetings.clear()

    def drop_connections(self, *, reset: bool = False) -> None:
        """Close every client's connection, with RSTs if ``reset``."""
        for session in list(self._sessions.values()):
            session.abort(reset=reset)

    def _rule(self, match: Match, answer: Answer, times: int | None, skip: int, rules: list[Rule]) -> Rule:
        if not isinstance(answer, Answer):
            raise InvalidArgument("answer", "must be an Answer, such as Value(1)")
        check_whole("skip", skip, 0, _FOR_EVER)
        if times is not None:
            check_whole("times", times, 1, _FOR_EVER)

        def remove(rule: Rule) -> None:
            if rule in rules:
                rules.remove(rule)

        return Rule(_predicate(match), answer, skip=skip, times=times or _FOR_EVER, remove=remove)

    def _decide(self, command: Command) -> Answer | None:
        self.commands.append(command)
        return next((rule.answer for rule in list(self._rules) if rule.takes(command)), None)

    # Life

    async def __aenter__(self) -> Self:
        if self._server is not None:
            raise LifecycleError("the server was opened before")
        self._server = await asyncio.start_server(self._serve, LOCALHOST, self._port)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop listening, close every connection and wait for their ends. Idempotent."""
        if self._server is None:
            return
        self._server.close()
        closing = dict(self._sessions)
        for task in closing:
            task.cancel()
        if closing:
            await asyncio.wait(closing)
        for session in closing.values():
            session.abort()
            await session.wait_closed()
        await self._server.wait_closed()

    def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # No coroutine function: the tasks are ours, so that none is left when the server closes.
        self.connections += 1
        session = Session(reader, writer, self._decide, _builtin)
        greeting = next((rule.answer for rule in list(self._greetings) if rule.takes(())), None)
        upstream = None if self._address is None else self._address.upstream
        task = asyncio.create_task(session.run(upstream, greeting), name="aioinfra-fake-redis-session")
        self._sessions[task] = session
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        session = self._sessions.pop(task)
        session.abort()
        if not task.cancelled():
            task.result()  # a fault of a rule's own code is told by the loop, with its traceback


def _predicate(match: Match) -> Callable[[Command], bool]:
    if callable(match):
        return match
    if not isinstance(match, str) or not match.strip():
        raise InvalidArgument("match", 'must be the first words of a command, "*" or a function')
    if match == "*":
        return lambda _: True
    words = tuple(match.upper().encode().split())

    def begins(command: Command) -> bool:
        return tuple(part.upper() for part in command[: len(words)]) == words

    return begins


# A server without data

_ANSWERS: Final[dict[bytes, bytes]] = {
    b"AUTH": b"+OK\r\n",
    b"SELECT": b"+OK\r\n",
    b"QUIT": b"+OK\r\n",
    b"RESET": b"+RESET\r\n",
    b"PING": b"+PONG\r\n",
    b"INFO": encode(_INFO),
    b"HELLO": encode(_SERVER),
    b"COMMAND": b"*0\r\n",
    b"CONFIG GET": b"*0\r\n",
    b"ROLE": encode(["master", 0, []]),
    b"CLIENT ID": b":1\r\n",
    b"CLIENT GETNAME": b"$-1\r\n",
    b"CLIENT": b"+OK\r\n",
}


def _builtin(command: Command) -> bytes:
    words = [part.upper() for part in command[:2]]
    if words[0] == b"ECHO" and len(command) > 1:
        return encode(command[1])
    known = _ANSWERS.get(b" ".join(words)) or _ANSWERS.get(words[0])
    if known is not None:
        return known
    return b"-ERR unknown command '%b', with args beginning with: \r\n" % command[0][:128].translate(
        None, b"\r\n"
    )
