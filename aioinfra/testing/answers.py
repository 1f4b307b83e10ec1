"""What a `FakeRedis` can answer instead of the truth.

    ErrorReply(text)                    an error, after "-"; the constants below are those of real servers
    Value(...)                          a value in RESP2
    Raw(bytes)                          these bytes, right or wrong
    Truncated(data, keep, hang)         the first bytes of a reply, then the end or silence
    OversizeBulk(size)                  the head of a value that never comes
    Silence()                           nothing, for as long as the client waits
    Delayed(seconds, answer)            an answer, late
    ThenClose(answer, reset)            an answer, and the end of the connection
    LostReply(reset)                    the command is run; its reply never arrives

``Truncated``, ``Delayed`` and ``ThenClose`` without an answer of their own work on the real reply: the
command is run then. Texts: Redis 7.0, server.c ``createSharedObjects`` and acl.c; Valkey 9 has its own name in
three of them and the same codes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from aioinfra.codec.bounds import check_number, check_whole
from aioinfra.errors import InvalidArgument


class Line(Protocol):
    """The way to one client."""

    async def send(self, data: bytes) -> None:
        """Send bytes; waits while the client does not read."""

    async def close(self, *, reset: bool = False) -> None:
        """Send what was written, then close (RST if ``reset``). Does not return."""

    async def hang(self) -> None:
        """Nothing more. Does not return."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Base of all answers. To write one's own: override `play`, and say whether it runs the command."""

    @property
    def runs(self) -> bool:
        """Whether the command is run, so that `play` gets its reply."""
        return False

    @property
    def ends(self) -> bool:
        """Whether nothing comes after it: later commands of the connection are not even read."""
        return False

    async def play(self, line: Line, reply: bytes) -> None:
        """Answer. ``reply`` is the real one, or empty when the command was not run."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Raw(Answer):
    """Bytes as they are."""

    data: bytes

    async def play(self, line: Line, reply: bytes) -> None:  # noqa: ARG002 - the base's signature
        await line.send(self.data)


class Value(Raw):
    """A value in RESP2: None, bool (as 0 or 1), int, str, bytes, or a sequence of these."""

    __slots__ = ()

    def __init__(self, value: Any) -> None:
        super().__init__(encode(value))


@dataclass(frozen=True, slots=True)
class ErrorReply(Answer):
    """An error reply; ``text`` begins with its code: ``"LOADING Redis is ..."``."""

    text: str

    def __post_init__(self) -> None:
        if not self.text or "\r" in self.text or "\n" in self.text:
            raise InvalidArgument("text", "must be one line")

    @property
    def code(self) -> str:
        """The first word."""
        return self.text.partition(" ")[0]

    async def play(self, line: Line, reply: bytes) -> None:  # noqa: ARG002 - the base's signature
        await line.send(b"-" + self.text.encode() + b"\r\n")


@dataclass(frozen=True, slots=True)
class Truncated(Answer):
    """The first ``keep`` bytes of a reply, then the end of the connection, or with ``hang`` silence.

    ``data`` is the reply; None for the real one.
    """

    data: bytes | None = None
    keep: int = 1
    hang: bool = False

    def __post_init__(self) -> None:
        check_whole("keep", self.keep, 0, 1 << 40)

    @property
    def runs(self) -> bool:
        return self.data is None

    @property
    def ends(self) -> bool:
        return True

    async def play(self, line: Line, reply: bytes) -> None:
        await line.send((reply if self.data is None else self.data)[: self.keep])
        if self.hang:
            await line.hang()
        await line.close()


@dataclass(frozen=True, slots=True)
class OversizeBulk(Answer):
    """Announces a value of ``size`` bytes and never sends it."""

    size: int = 1 << 40

    @property
    def ends(self) -> bool:
        return True

    async def play(self, line: Line, reply: bytes) -> None:  # noqa: ARG002 - the base's signature
        await line.send(b"$%d\r\n" % self.size)
        await line.hang()


@dataclass(frozen=True, slots=True)
class Silence(Answer):
    """No answer, and the connection stays open."""

    @property
    def ends(self) -> bool:
        return True

    async def play(self, line: Line, reply: bytes) -> None:  # noqa: ARG002 - the base's signature
        await line.hang()


@dataclass(frozen=True, slots=True)
class Delayed(Answer):
    """``answer``, or the real reply, ``seconds`` late; replies behind it wait too."""

    seconds: float
    answer: Answer | None = None

    def __post_init__(self) -> None:
        check_number("seconds", self.seconds, 0, 86_400)

    @property
    def runs(self) -> bool:
        return self.answer is None or self.answer.runs

    @property
    def ends(self) -> bool:
        return self.answer is not None and self.answer.ends

    async def play(self, line: Line, reply: bytes) -> None:
        await asyncio.sleep(self.seconds)
        await (self.answer or Raw(reply)).play(line, reply)


@dataclass(frozen=True, slots=True)
class ThenClose(Answer):
    """``answer``, or the real reply, and then the end of the connection."""

    answer: Answer | None = None
    reset: bool = False

    @property
    def runs(self) -> bool:
        return self.answer is None or self.answer.runs

    @property
    def ends(self) -> bool:
        return True

    async def play(self, line: Line, reply: bytes) -> None:
        await (self.answer or Raw(reply)).play(line, reply)
        await line.close(reset=self.reset)


@dataclass(frozen=True, slots=True)
class LostReply(Answer):
    """The command is run, and the connection ends in place of its reply: whoever sent it cannot know."""

    reset: bool = False

    @property
    def runs(self) -> bool:
        return True

    @property
    def ends(self) -> bool:
        return True

    async def play(self, line: Line, reply: bytes) -> None:  # noqa: ARG002 - lost
        await line.close(reset=self.reset)


def encode(value: Any) -> bytes:
    """A value in RESP2.

    Raises:
        InvalidArgument: it has no place there.
    """
    if value is None:
        return b"$-1\r\n"
    if isinstance(value, int):
        return b":%d\r\n" % value
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes):
        return b"$%d\r\n%b\r\n" % (len(value), value)
    if isinstance(value, Sequence):
        return b"*%d\r\n" % len(value) + b"".join([encode(item) for item in value])
    raise InvalidArgument("value", "must be None, int, str, bytes or a sequence of these")


OK: Final = Raw(b"+OK\r\n")
JUNK: Final = Raw(b"HTTP/1.1 400 Bad Request\r\n\r\n\x00\xff\xfe")

LOADING: Final = ErrorReply("LOADING Redis is loading the dataset in memory")
READONLY: Final = ErrorReply("READONLY You can't write against a read only replica.")
NOREPLICAS: Final = ErrorReply("NOREPLICAS Not enough good replicas to write.")
MISCONF: Final = ErrorReply(
    "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk. "
    "Commands that may modify the data set are disabled, because this instance is configured to report errors "
    "during writes if RDB snapshotting fails (stop-writes-on-bgsave-error option). Please check the Redis logs "
    "for details about the RDB error."
)
NOAUTH: Final = ErrorReply("NOAUTH Authentication required.")
WRONGPASS: Final = ErrorReply("WRONGPASS invalid username-password pair or user is disabled.")
NOPERM: Final = ErrorReply("NOPERM this user has no permissions to access one of the keys used as arguments")
OOM: Final = ErrorReply("OOM command not allowed when used memory > 'maxmemory'.")
WRONGTYPE: Final = ErrorReply("WRONGTYPE Operation against a key holding the wrong kind of value")
BUSY: Final = ErrorReply(
    "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE."
)
CLUSTERDOWN: Final = ErrorReply("CLUSTERDOWN Hash slot not served")
MASTERDOWN: Final = ErrorReply(
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'."
)
TRYAGAIN: Final = ErrorReply("TRYAGAIN Multiple keys request during rehashing of slot")
NOSCRIPT: Final = ErrorReply("NOSCRIPT No matching script. Please use EVAL.")
MAX_CLIENTS: Final = ErrorReply("ERR max number of clients reached")
