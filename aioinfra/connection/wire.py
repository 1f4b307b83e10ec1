"""One connection as an asyncio Protocol: one call at a time, settled by the bytes that come in.

A call belongs to its connection, not to the task that waits for it. Whoever gives up waiting only cancels a
future: the reply is still read and dropped, and the connection stays in step. Cancelling therefore costs no
reconnect, and there is no release that a cancellation could skip.

Protocol: RESP2, https://redis.io/docs/latest/develop/reference/protocol-spec/
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, cast

import hiredis

from aioinfra.connection.intake import Intake
from aioinfra.connection.translate import TURNED_AWAY, reply_error
from aioinfra.errors import DeadlineExceeded, InvalidArgument, ReplyTooLarge, StoreError, StoreUnavailable

Argument = str | bytes | int | float

SLOWEST: Final = 4 << 20
"""Bytes a second that a connection moves at least: large calls may take as much longer as this allows."""
MOST_ALLOWANCE: Final = 10.0
"""Seconds that a call may take longer at most, however much it transfers: bytes that trickle must not hold it."""
MOST_REPLY_BYTES: Final = 512 << 20
"""Default bound of the replies of one call: the server's own bound of one value."""
MOST_PUSH_BYTES: Final = 64 << 20
"""Bound of one message that no call asked for."""

_INCOMPLETE: Final = object()
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 seconds

# Each leaves a pooled connection in a state that the next caller would meet.
_STATEFUL: Final = frozenset(
    {"AUTH", "HELLO", "SELECT", "RESET", "QUIT", "MONITOR", "SYNC", "PSYNC"}
    | {"MULTI", "EXEC", "DISCARD", "WATCH", "UNWATCH"}
    | {"SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE"}
)
_STATEFUL_CLIENT: Final = frozenset({"REPLY", "TRACKING", "CACHING"})


def pack(command: Sequence[Argument]) -> bytes:
    """One command as bytes for the wire.

    Raises:
        InvalidArgument: it is empty, holds something else than str, bytes, int or float, or would change the
            state of a connection that others use next.
    """
    if not command:
        raise InvalidArgument("command", "must not be empty")
    name = _word(command[0])
    if name in _STATEFUL or (name == "CLIENT" and len(command) > 1 and _word(command[1]) in _STATEFUL_CLIENT):
        raise InvalidArgument("command", "changes the state of a shared connection; use one of your own")
    return pack_any(command)


def pack_any(command: Sequence[Argument]) -> bytes:
    """As `pack`, for connections that are not shared."""
    try:
        packed: bytes = hiredis.pack_command(tuple(command))  # type: ignore[arg-type] # its hint says a 1-tuple
    except TypeError:
        raise InvalidArgument("command", "every part must be str, bytes, int or float (not bool)") from None
    except UnicodeEncodeError:
        raise InvalidArgument("command", "holds text that is not valid Unicode") from None
    return packed


def _word(part: Argument) -> str:
    if isinstance(part, str):
        return part.upper()
    if isinstance(part, bytes):
        return part.decode("latin-1").upper()
    raise InvalidArgument("command", "must begin with its name")


class Call:
    """Bytes to send and the future that its replies settle.

    With ``expected`` None the future gets the one reply, or its error raised. With a number it gets the list
    of that many replies, errors standing in their places.
    """

    __slots__ = (
        "data",
        "expected",
        "future",
        "queued_at",
        "received",
        "refusal",
        "replies",
        "sent",
        "timeout",
        "wire",
    )

    def __init__(
        self, data: bytes, future: asyncio.Future[Any], timeout: float, expected: int | None = None
    ) -> None:
        self.data = data
        self.future = future
        self.timeout = timeout
        self.expected = expected
        self.replies: list[Any] = []
        self.received = 0  # bytes
        self.refusal: StoreError | None = None  # of a server that had no room for the connection
        self.sent = False
        self.queued_at = 0.0
        self.wire: Wire | None = None  # once it is sent

    def allowance(self) -> float:
        """Seconds that it may take beyond any timeout, for the bytes that were transferred so far; bounded.

        What was transferred counts, not what is to be: a large call to a dead server is given up as soon as a
        small one.
        """
        if self.wire is None:
            return 0.0
        moved = max(0, len(self.data) - self.wire.unwritten) + self.received
        return min(moved / SLOWEST, MOST_ALLOWANCE)

    def take(self, reply: Any) -> bool:
        """Keep one reply; whether it was the last one."""
        if self.expected is None:
            if not self.future.done():
                if isinstance(reply, StoreError):
                    self.future.set_exception(reply)
                else:
                    self.future.set_result(reply)
            return True
        self.replies.append(reply)
        if len(self.replies) < self.expected:
            return False
        if not self.future.done():
            self.future.set_result(self.replies)
        return True

    def fail(self, error: StoreError) -> None:
        """End with an error, unless the caller has gone or was answered."""
        if not self.future.done():
            self.future.set_exception(error)


class Owner(Protocol):
    """Whom a connection tells that it is free or gone."""

    def free(self, wire: Wire) -> None: ...

    def lost(self, wire: Wire) -> None: ...

    def accepted(self) -> None: ...

    def turned_away(self, wire: Wire, call: Call, error: StoreError) -> None: ...


class Wire(Intake, asyncio.Protocol):
    """One connection. Free while ``owner`` holds it idle, busy from `start` to ``owner.free``."""

    __slots__ = (
        "_call",
        "_expires",
        "_loop",
        "_timer",
        "_transport",
        "_unasked",
        "closed",
        "owner",
        "proven",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        super().__init__(hiredis.Reader(replyError=reply_error, notEnoughData=_INCOMPLETE), MOST_REPLY_BYTES)
        self.proven = False  # whether the server has answered yet
        self._unasked = 0  # bytes since the last complete push
        self._transport: asyncio.Transport | None = None
        self._call: Call | None = None
        self._expires = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.owner: Owner | None = None  # None until the greeting is done
        self.closed: asyncio.Future[None] = loop.create_future()

    @property
    def usable(self) -> bool:
        """Whether a call may be started: connected, and nobody has begun to close it."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def unwritten(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def start(self, call: Call) -> None:
        """Send a call. The wire must be free."""
        transport = self._transport
        if transport is None:
            call.fail(StoreUnavailable("the connection was lost", sent=False))
            return
        self._call = call
        self._announced = 0
        call.sent = True
        call.wire = self
        self._expires = expires = self._loop.time() + call.timeout
        # One timer serves many calls: it re-arms itself, so that a call costs no entry in the loop's heap.
        if self._timer is None:
            self._timer = self._loop.call_at(expires, self._check)
        elif expires < self._timer.when():
            self._timer.cancel()
            self._timer = self._loop.call_at(expires, self._check)
        transport.write(call.data)
        if not self.proven and self.owner is not None and transport.is_closing():
            # The kernel refused all of it: the server had closed the connection already.
            self._call = None
            self.owner.turned_away(self, call, StoreUnavailable("closed by the server", sent=False))

    def ask(self, commands: Sequence[Sequence[Argument]], timeout: float) -> asyncio.Future[list[Any]]:
        """Send commands at once and return a future of their replies, errors in their places."""
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        data = b"".join([pack_any(command) for command in commands])
        self.start(Call(data, future, timeout, len(commands)))
        return future

    def abort(self, error: StoreError | None = None) -> None:
        """Drop the connection at once; a call under way ends with ``error``."""
        call, self._call = self._call, None
        self._drop_held()
        if call is not None:
            self._forsake_unsent()
            call.fail(error or StoreUnavailable("the connection was closed"))
        if self._transport is not None:
            self._transport.abort()

    def _forsake_unsent(self) -> None:
        """Have the kernel drop what the server has not got yet, instead of sending it on after the close.

        Else a write that was given up in a partition would land when the network is back, on newer ones:
        TCP repeats it for minutes. A close with a linger time of zero is a reset (socket(7), RFC 9293 3.10.4).
        """
        sock = self._transport.get_extra_info("socket") if self._transport is not None else None
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            with contextlib.suppress(OSError):  # closed meanwhile
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)

    def send(self, command: Sequence[Argument]) -> None:
        """Write a command whose answer is not awaited as a call."""
        if self._transport is not None:
            self._transport.write(pack_any(command))

    def close(self) -> None:
        """Close a free connection."""
        if self._transport is not None:
            self._transport.close()

    def _check(self) -> None:
        self._timer = None
        if self._call is None:
            return
        expires = self._expires + self._call.allowance()
        if self._loop.time() < expires:
            self._timer = self._loop.call_at(expires, self._check)
            return
        self.abort(DeadlineExceeded(f"no reply within {self._call.timeout:g} s"))

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast: uvloop's transports do not derive from asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        call = self._call
        if call is None:
            if not self._may_push(len(data)):  # out of step, or the server says farewell
                self.abort()
                return
        else:
            call.received += len(data)
            if call.received > self.most:  # before it is kept: the reader holds a reply until it is complete
                self.abort(ReplyTooLarge(self.most))
                return
        try:
            self._take_in(data)
        except hiredis.ProtocolError:
            self.abort(StoreUnavailable("the peer does not speak the Redis protocol"))

    def _received(self) -> int:
        return self._unasked if self._call is None else self._call.received

    def _may_push(self, size: int) -> bool:  # noqa: ARG002 - for those that listen
        """Whether so many bytes may come now that no call asked for."""
        return False

    def _read(self) -> None:
        reader = self._reader
        while (reply := reader.gets()) is not _INCOMPLETE:
            call = self._call
            if call is None:  # nobody asked: the stream is out of step, or the server says farewell
                self.abort()
                return
            if not self.proven and not self._prove(call, reply):
                return
            if call.take(reply):
                self._call = None
                if self._more or reader.has_data():
                    self.abort()
                elif self.owner is not None:
                    self.owner.free(self)
                return
            self._expires = self._loop.time() + call.timeout

    def _prove(self, call: Call, reply: Any) -> bool:
        """The first reply: whether it is one, and not the farewell of a server that takes no more clients."""
        self.proven = True
        if self.owner is None:  # still greeting: whoever opens it reads the reply
            return True
        if not (isinstance(reply, StoreUnavailable) and reply.args[0] == TURNED_AWAY):
            self.owner.accepted()
            return True
        self._call = None
        self.owner.turned_away(self, call, reply)
        self.abort()
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        call, self._call = self._call, None
        if call is not None:
            call.fail(StoreUnavailable("the connection was lost"))
        if not self.closed.done():
            self.closed.set_result(None)
        if self.owner is not None:
            self.owner.lost(self)


class PushWire(Wire):
    """A connection that also listens: what no call asked for goes to ``on_push``, in order and at once.

    It is closed when one such message has more than `MOST_PUSH_BYTES`.
    """

    __slots__ = ("on_push",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.on_push: Callable[[Any], None] | None = None  # until then a push is out of step

    def _may_push(self, size: int) -> bool:
        self._unasked += size
        return self.on_push is not None and self._unasked <= MOST_PUSH_BYTES

    def _read(self) -> None:
        reader = self._reader
        while (reply := reader.gets()) is not _INCOMPLETE:
            if self._call is not None:
                if self._call.take(reply):
                    self._call = None
            elif self.on_push is not None:
                self._announced = self._unasked = 0
                self.on_push(reply)
            else:
                self.abort()
                return
