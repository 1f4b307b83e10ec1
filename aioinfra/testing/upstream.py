"""Where an instrument that stands before a server finds that server, and how its own URL reads."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit, urlunsplit

from aioinfra.errors import InvalidArgument

LOCALHOST: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where to connect to: a unix socket's path, or a host and port."""

    path: str | None = None
    host: str = "127.0.0.1"
    port: int = 0

    async def connect(self) -> socket.socket:
        """A connected non-blocking socket. Raises OSError."""
        loop = asyncio.get_running_loop()
        if self.path is not None:
            return await _connect(loop, socket.AF_UNIX, self.path)
        failure: OSError = ConnectionRefusedError("no address")
        for family, _, _, _, address in await loop.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM):
            try:
                return await _connect(loop, family, address)
            except OSError as error:
                failure = error
        raise failure


async def _connect(
    loop: asyncio.AbstractEventLoop, family: int, address: str | tuple[object, ...]
) -> socket.socket:
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setblocking(False)
        send_at_once(opened)
        await loop.sock_connect(opened, address)
    except BaseException:
        opened.close()
        raise
    return opened


def send_at_once(opened: socket.socket) -> None:
    """Without Nagle's algorithm: the pieces of a Slicer are to arrive as they were cut."""
    if opened.family != socket.AF_UNIX:
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


@dataclass(frozen=True, slots=True)
class UpstreamAddress:
    """A server's URL, taken apart."""

    upstream: Upstream
    scheme: str
    credentials: str  # with the @ behind them, or empty
    path: str
    query: str

    def url(self, port: int) -> str:
        """The same URL with this machine's ``port`` in place of the server; credentials included."""
        return urlunsplit((self.scheme, f"{self.credentials}{LOCALHOST}:{port}", self.path, self.query, ""))


def parse_upstream(url: str) -> UpstreamAddress:
    """Read ``scheme://host:port`` or ``unix:///path?db=0``.

    Raises:
        InvalidArgument: it names no server. The message does not repeat it.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except (ValueError, AttributeError, TypeError):
        raise InvalidArgument("upstream", "is not a URL with a port from 0 to 65535") from None
    user, at, _ = parts.netloc.rpartition("@")
    if parts.scheme == "unix":
        if not parts.path:
            raise InvalidArgument("upstream", "unix:// needs the path of a socket")
        database = next(iter(parse_qs(parts.query).get("db", ["0"])))
        return UpstreamAddress(Upstream(path=unquote(parts.path)), "redis", user + at, f"/{database}", "")
    if not parts.scheme or not parts.hostname:
        raise InvalidArgument("upstream", "must be scheme://host:port or unix:///path")
    if port is None and parts.scheme not in ("redis", "rediss"):
        raise InvalidArgument("upstream", "needs a port")
    upstream = Upstream(host=unquote(parts.hostname), port=6379 if port is None else port)
    return UpstreamAddress(upstream, parts.scheme, user + at, parts.path, parts.query)
