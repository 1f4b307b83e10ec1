"""One client of a `FakeRedis`: its commands go in, in order, and answers come out in that order.

    client -> read: a rule answers   -> a turn with that answer
                    no rule          -> to the real server (or the built-in one) -> a turn that waits for it
    turns, one after another -> client
    messages of subscriptions -> client, between turns

Commands are forwarded as they come, so that a pipeline stays one. Turns that only forward are one turn with a
count: what waits here is bounded by the chosen answers under way, not by the length of a pipeline.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Final

import hiredis

from aioinfra.testing.answers import Answer, ErrorReply
from aioinfra.testing.frames import FrameCutter, NotRespError
from aioinfra.testing.upstream import Upstream

Command = tuple[bytes, ...]

_READ_BYTES: Final = 1 << 16
_REPLIES_WAITING: Final = 256
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
_MESSAGES: Final = (
    b"*3\r\n$7\r\nmessage\r\n",
    b"*4\r\n$8\r\npmessage\r\n",
    b"*3\r\n$8\r\nsmessage\r\n",
)
_NO_RESP3: Final = ErrorReply("NOPROTO unsupported protocol version")
_NOT_FORWARDED: Final = ErrorReply("ERR this command has no single reply: a fake server does not forward it")


class _Turn:
    """What the client gets next. ``waits``: replies of the real server that are still to come."""

    __slots__ = ("answer", "ready", "waits")

    def __init__(self, answer: Answer | None, *, waits: int = 0, ready: bytes = b"") -> None:
        self.answer = answer
        self.waits = waits
        self.ready = ready


class Session:
    """Serves one client until either side goes. The server owns its task.

    Args:
        reader, writer: the client.
        decide: told of every command; the answer of a rule, or None.
        builtin: the reply of a server without data, where there is no upstream.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        decide: Callable[[Command], Answer | None],
        builtin: Callable[[Command], bytes],
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._decide = decide
        self._builtin = builtin
        self._turns: deque[_Turn] = deque()
        self._more = asyncio.Event()
        self._replies: asyncio.Queue[bytes] = asyncio.Queue(_REPLIES_WAITING)
        self._upstream: asyncio.StreamWriter | None = None
        self._ended = False  # by an answer after which nothing comes
        self._channels: dict[bytes, set[bytes]] = {}

    async def run(self, upstream: Upstream | None, greeting: Answer | None) -> None:
        """Serve; returns when the connection is over. Raises nothing of the network's."""
        try:
            if greeting is not None:
                await greeting.play(self, b"")
            await self._serve(upstream)
        except* (_Over, OSError):
            pass

    async def _serve(self, upstream: Upstream | None) -> None:
        if upstream is None:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._read_commands())
                group.create_task(self._play())
            return
        connected = await upstream.connect()
        try:
            reader, self._upstream = await asyncio.open_connection(sock=connected)
        except BaseException:
            connected.close()
            raise
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._read_commands())
                group.create_task(self._read_replies(reader))
                group.create_task(self._play())
        finally:
            self._upstream.transport.abort()

    def abort(self, *, reset: bool = False) -> None:
        """Close the client's connection now."""
        if reset:
            _reset_on_close(self._writer)
        self._writer.transport.abort()

    async def wait_closed(self) -> None:
        """Return when its sockets are closed; after `abort`."""
        for writer in (self._writer, self._upstream):
            if writer is not None:
                with contextlib.suppress(OSError):
                    await writer.wait_closed()

    # Line

    async def send(self, data: bytes) -> None:
        """Send bytes to the client."""
        self._writer.write(data)
        await self._writer.drain()

    async def close(self, *, reset: bool = False) -> None:
        """End the connection after what was sent."""
        if reset:
            _reset_on_close(self._writer)
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
        raise _Over

    async def hang(self) -> None:
        """Wait until the client goes."""
        await asyncio.get_running_loop().create_future()

    # Commands

    async def _read_commands(self) -> None:
        cutter = FrameCutter()
        while data := await self._reader.read(_READ_BYTES):
            try:
                for frame in cutter.feed(data):
                    command = _parse(frame)
                    if command and not self._ended:
                        self._take(command, frame)
            except (NotRespError, hiredis.ProtocolError) as error:
                await self.send(b"-ERR %b\r\n" % str(error).partition("\r")[0].encode())
                await self.close()
            if self._upstream is not None:
                await self._upstream.drain()
        raise _Over

    def _take(self, command: Command, frame: bytes) -> None:
        answer = self._decide(command) or self._refused(command)
        self._ended = answer is not None and answer.ends
        if answer is not None and not answer.runs:
            self._add(_Turn(answer))
        elif self._upstream is None:
            self._add(_Turn(answer, ready=self._builtin(command)))
        else:
            self._upstream.write(frame)
            replies = self._replies_of(command)
            last = self._turns[-1] if self._turns else None
            if answer is None and last is not None and last.answer is None:
                last.waits += replies
            else:
                self._add(_Turn(answer, waits=replies))

    def _add(self, turn: _Turn) -> None:
        self._turns.append(turn)
        self._more.set()

    def _refused(self, command: Command) -> Answer | None:
        """Where replies and commands would no longer pair off."""
        name, word = command[0].upper(), command[1].upper() if len(command) > 1 else b""
        if name == b"HELLO" and word not in (b"", b"2"):
            return _NO_RESP3
        if name in (b"MONITOR", b"SYNC", b"PSYNC") or (name == b"CLIENT" and word == b"REPLY"):
            return _NOT_FORWARDED
        return None

    def _replies_of(self, command: Command) -> int:
        """How many replies a command has: subscribing has one per channel."""
        name, channels = command[0].upper(), command[1:]
        if not name.endswith(b"SUBSCRIBE"):
            return 1
        kind, leaving = name.replace(b"UNSUBSCRIBE", b"SUBSCRIBE"), b"UN" in name
        known = self._channels.setdefault(kind, set())
        replies = len(channels) or (max(1, len(known)) if leaving else 1)
        if not leaving:
            known.update(channels)
        elif channels:
            known.difference_update(channels)
        else:
            known.clear()
        return replies

    # Replies

    async def _read_replies(self, reader: asyncio.StreamReader) -> None:
        cutter = FrameCutter()
        while data := await reader.read(_READ_BYTES):
            for frame in cutter.feed(data):
                if self._channels and frame.startswith(_MESSAGES):
                    await self.send(frame)
                else:
                    await self._replies.put(frame)
        await self._replies.put(b"")  # the server has gone: the client gets what came before, then its end

    async def _play(self) -> None:
        while True:
            while not self._turns:
                self._more.clear()
                await self._more.wait()
            turn = self._turns[0]
            if turn.answer is None:
                await self._pass_on(turn)
            else:
                await turn.answer.play(self, turn.ready + await self._real(turn))
            self._turns.popleft()

    async def _pass_on(self, turn: _Turn) -> None:
        self._writer.write(turn.ready)
        while turn.waits:
            self._writer.write(await self._reply())
            turn.waits -= 1
            if not turn.waits or self._replies.empty():
                await self._writer.drain()

    async def _real(self, turn: _Turn) -> bytes:
        return b"".join([await self._reply() for _ in range(turn.waits)])

    async def _reply(self) -> bytes:
        reply = await self._replies.get()
        if not reply:
            await self.close()
        return reply


class _Over(Exception):
    """Ends the tasks of a session."""


def _parse(frame: bytes) -> Command:
    if not frame.startswith(b"*"):
        return tuple(frame.split())
    reader = hiredis.Reader()
    reader.feed(frame)
    parts = reader.gets()
    if not isinstance(parts, list) or not all(isinstance(part, bytes) for part in parts):
        raise NotRespError("Protocol error: expected an array of bulk strings")
    return tuple(parts)


def _reset_on_close(writer: asyncio.StreamWriter) -> None:
    opened: socket.socket | None = writer.get_extra_info("socket")
    if opened is not None:
        with contextlib.suppress(OSError):
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
