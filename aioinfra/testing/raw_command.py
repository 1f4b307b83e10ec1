"""One command over a connection of its own, past every pool, proxy and retry: the kit's own way to a server."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import hiredis

from aioinfra.errors import StoreError, StoreUnavailable

Word = str | bytes | int | float
Address = tuple[str, int] | Path
"""Where a server listens: host and port, or a unix socket."""

_CHUNK: Final = 65536


def _packed(commands: Sequence[Sequence[Word]]) -> bytes:
    pack: Any = hiredis.pack_command  # its stub allows one word
    return b"".join(pack(tuple(command)) for command in commands)


class _Replies:
    """Collects the replies to a known number of commands; the last one counts."""

    def __init__(self, count: int) -> None:
        self._reader = hiredis.Reader()
        self._left = count
        self.last: Any = None

    def feed(self, data: bytes) -> bool:
        """Whether all are there. Raises StoreUnavailable at the connection's end, StoreError for an error."""
        if not data:
            raise StoreUnavailable("the server closed the connection")
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            if isinstance(reply, hiredis.ReplyError):
                raise StoreError(str(reply))
            self.last = reply
            self._left -= 1
        return self._left <= 0


def _greeted(password: str | None, command: Sequence[Word]) -> list[Sequence[Word]]:
    return [command] if password is None else [("AUTH", password), command]


async def ask(
    address: Address, command: Sequence[Word], *, password: str | None = None, timeout: float = 2.0
) -> Any:
    """Send one command and return its reply as bytes, int, None or lists of them.

    Raises:
        StoreError: the server answered with an error.
        StoreUnavailable: nobody listens, the connection ended, or no answer within ``timeout`` seconds.
    """
    commands = _greeted(password, command)
    replies = _Replies(len(commands))
    try:
        async with asyncio.timeout(timeout):
            if isinstance(address, Path):
                reader, writer = await asyncio.open_unix_connection(address)
            else:
                reader, writer = await asyncio.open_connection(*address)
            try:
                writer.write(_packed(commands))
                while not replies.feed(await reader.read(_CHUNK)):
                    pass
            finally:
                writer.transport.abort()
    except OSError as error:  # TimeoutError among them
        if isinstance(error, StoreUnavailable):
            raise
        raise StoreUnavailable(f"no answer ({type(error).__name__})") from error
    return replies.last


def ask_blocking(
    address: Address, command: Sequence[Word], *, password: str | None = None, timeout: float = 2.0
) -> Any:
    """As `ask`, blocking the thread; ``timeout`` is for each step of it."""
    commands = _greeted(password, command)
    replies = _Replies(len(commands))
    try:
        with socket.socket(socket.AF_UNIX if isinstance(address, Path) else socket.AF_INET) as connection:
            connection.settimeout(timeout)
            connection.connect(str(address) if isinstance(address, Path) else address)
            connection.sendall(_packed(commands))
            while not replies.feed(connection.recv(_CHUNK)):
                pass
    except OSError as error:
        if isinstance(error, StoreUnavailable):
            raise
        raise StoreUnavailable(f"no answer ({type(error).__name__})") from error
    return replies.last
