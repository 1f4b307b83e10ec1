"""A TCP proxy between a service and its server, which breaks the network on demand.

::

    async with FaultProxy("redis://localhost:6379/0", seed=7) as proxy:
        cache = CacheManager(proxy.url)
        with proxy.toxic(Latency(0.05, jitter=0.02)):
            ...
        proxy.partition()
        ...
        proxy.heal()

It knows nothing of what it carries, so it stands before any TCP server; chosen answers of a Redis are the
business of `aioinfra.testing.FakeRedis`. It runs on the event loop of its user, listens on 127.0.0.1 and takes
real time.
"""

from __future__ import annotations

import asyncio
import random
import socket
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from aioinfra.codec.bounds import check_number, check_whole
from aioinfra.errors import LifecycleError
from aioinfra.testing.proxy_connection import Direction, Link, LostReplies, ProxyConnection
from aioinfra.testing.toxics import Toxic
from aioinfra.testing.upstream import LOCALHOST, parse_upstream

__all__ = ["ActiveToxic", "Direction", "FaultProxy", "LostReplies", "ProxyFigures"]

_BACKLOG: Final = 512


@dataclass(frozen=True, slots=True)
class ProxyFigures:
    """What passed a proxy: connections accepted so far and open now, bytes to the server and from it."""

    connections: int
    open: int
    bytes_upstream: int
    bytes_downstream: int


class ActiveToxic:
    """A toxic at work. `remove` it, or use it as a context manager that removes it at its end."""

    __slots__ = ("_proxy", "direction", "number", "toxic", "toxicity")

    def __init__(
        self, proxy: FaultProxy, number: int, toxic: Toxic, direction: Direction, toxicity: float
    ) -> None:
        self._proxy = proxy
        self.number = number
        self.toxic = toxic
        self.direction = direction
        self.toxicity = toxicity

    def remove(self) -> None:
        """Bytes pass without it from now on; those that it held go on at once. Idempotent."""
        self._proxy._remove(self)  # noqa: SLF001 - a part of the proxy

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


class FaultProxy:
    """Proxies one server. Open it with ``async with``; everything else is called while it is open.

    Args:
        upstream: ``redis://``, ``rediss://`` or any other ``scheme://host:port``, or ``unix:///path``.
        port: to listen on; 0 takes a free one.
        seed: of every draw: which connections a toxic meets, jitter, sizes of slices.

    Raises:
        InvalidArgument: the URL names no server. The message does not repeat it.
    """

    def __init__(self, upstream: str, *, port: int = 0, seed: int = 0) -> None:
        self._address = parse_upstream(upstream)
        self.upstream = self._address.upstream
        check_whole("port", port, 0, 65_535)
        self.passing = asyncio.Event()
        self.passing.set()
        self._port = port
        self._seed = seed
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listener: socket.socket | None = None
        self._refusing = False
        self._connections: set[ProxyConnection] = set()
        self._accepted = 0
        self._bytes = {Direction.UPSTREAM: 0, Direction.DOWNSTREAM: 0}
        self._toxics: list[ActiveToxic] = []
        self._toxics_made = 0
        self._lost_replies: list[LostReplies] = []

    def __repr__(self) -> str:
        return f"FaultProxy(port={self._port}, connections={len(self._connections)})"

    @property
    def host(self) -> str:
        """Always 127.0.0.1."""
        return LOCALHOST

    @property
    def port(self) -> int:
        """The port it listens on; stays the same through partitions."""
        return self._port

    @property
    def url(self) -> str:
        """The upstream's URL with this proxy's address in place of the server's; credentials included."""
        return self._address.url(self._port)

    def figures(self) -> ProxyFigures:
        """Totals since it was made, and the connections that are open now."""
        up, down = self._bytes[Direction.UPSTREAM], self._bytes[Direction.DOWNSTREAM]
        return ProxyFigures(self._accepted, len(self._connections), up, down)

    # Faults

    def toxic(
        self, toxic: Toxic, *, direction: Direction = Direction.DOWNSTREAM, toxicity: float = 1.0
    ) -> ActiveToxic:
        """Apply a toxic to the open connections and to those that come, until it is removed.

        Args:
            toxic: see `aioinfra.testing.toxics`.
            direction: the bytes that it meets; as in Toxiproxy those from the server, unless said otherwise.
            toxicity: the share of connections that it meets, 0 to 1, drawn once per connection.

        Raises:
            LifecycleError: the proxy is not open.
        """
        self._opened()
        check_number("toxicity", toxicity, 0, 1)
        active = ActiveToxic(self, self._toxics_made, toxic, direction, toxicity)
        self._toxics_made += 1
        self._toxics.append(active)
        for connection in list(self._connections):
            self._poison(connection, active)
        return active

    def remove_toxics(self) -> None:
        """Remove every toxic."""
        for active in list(self._toxics):
            active.remove()

    def partition(self, *, refuse: bool = False) -> None:
        """No byte passes any more, and nobody is told: no FIN, no RST.

        New connections are accepted and silent (the nearest that loopback has to packets that are dropped), or
        with ``refuse`` refused, as by a host whose server is gone.
        """
        self._opened()
        self.passing.clear()
        if refuse and not self._refusing:
            self._refusing = True
            self._stop_listening()
            # Bound but not listening: connects are refused, and nobody else can take the port.
            self._listener = _bound(self._port)

    def heal(self) -> None:
        """End the partition. What was sent during it arrives now, as TCP would send it again."""
        self._opened()
        if self._refusing:
            self._refusing = False
            self._listen()
        self.passing.set()

    def cut(self, *, reset: bool = False) -> None:
        """Close every open connection, with RSTs if ``reset``. New ones are accepted."""
        for connection in list(self._connections):
            connection.end(reset=reset)

    def lose_reply(self, *, matching: bytes = b"", times: int = 1) -> LostReplies:
        """Lose the replies to the next ``times`` requests that contain ``matching``; b"" is any request.

        The request reaches the server. When the first bytes come back on that connection, it has been served,
        and the connection is closed in their place. With pipelined requests these bytes may answer an earlier
        one: match by command with `FakeRedis` then.
        """
        check_whole("times", times, 1, 1 << 31)
        lost = LostReplies(matching, times)
        self._lost_replies.append(lost)
        return lost

    # Life

    async def __aenter__(self) -> Self:
        if self._loop is not None:
            raise LifecycleError("the proxy was opened before")
        self._loop = asyncio.get_running_loop()
        self._listener = _bound(self._port)
        self._port = self._listener.getsockname()[1]
        self._listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop listening, close every connection and wait for their ends. Idempotent."""
        self._stop_listening()
        closing = list(self._connections)
        for connection in closing:
            connection.end(reset=False)
        if closing:
            await asyncio.wait([connection.task for connection in closing])
        for connection in closing:
            connection.close()

    def _opened(self) -> asyncio.AbstractEventLoop:
        if self._loop is None or self._listener is None:
            raise LifecycleError("the proxy is not open: use it in `async with`")
        return self._loop

    def _listen(self) -> None:
        loop, listener = self._opened(), self._listener
        assert listener is not None  # noqa: S101 - narrows the type
        listener.listen(_BACKLOG)
        loop.add_reader(listener, self._accept, listener)

    def _stop_listening(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None and self._loop is not None:
            self._loop.remove_reader(listener)
            listener.close()

    def _accept(self, listener: socket.socket) -> None:
        # Not sock_accept: an accept that is cancelled at the wrong moment would lose an open socket.
        try:
            client, _ = listener.accept()
        except OSError:  # it went away again, or there is no file descriptor for it
            return
        connection = ProxyConnection(self._accepted, client, self, self._connections.discard)
        self._accepted += 1
        self._connections.add(connection)
        for active in self._toxics:
            self._poison(connection, active)

    # Toxics on connections

    def _poison(self, connection: ProxyConnection, active: ActiveToxic) -> None:
        # A source of its own for each: draws do not depend on which connection is served first.
        draw = random.Random(f"{self._seed}/{active.number}/{connection.number}")  # noqa: S311 - replayable, not secret
        if draw.random() >= active.toxicity:
            return
        for link in connection.links:
            if active.direction.covers(link.direction):
                own = random.Random(f"{draw.random()}/{link.direction.value}")  # noqa: S311 - as above
                link.add(active.number, active.toxic, own)

    def _remove(self, active: ActiveToxic) -> None:
        if active in self._toxics:
            self._toxics.remove(active)
            for connection in list(self._connections):
                for link in connection.links:
                    link.remove(active.number)

    # Traffic, as connections see it

    def arrived(self, link: Link, data: bytes) -> bool:
        """Whether bytes are to be handed on."""
        connection = link.connection
        if link.direction is Direction.DOWNSTREAM and connection.lost_reply is not None:
            connection.lost_reply.lost += 1
            connection.end(reset=False)
            return False
        if link.direction is Direction.UPSTREAM and self._lost_replies:
            self._match(link, data)
        return True

    def sent(self, link: Link, data: bytes) -> None:
        """Count bytes."""
        self._bytes[link.direction] += len(data)

    def _match(self, link: Link, data: bytes) -> None:
        lost = self._lost_replies[0]
        seen = link.tail + data
        link.tail = seen[max(0, len(seen) - max(0, len(lost.matching) - 1)) :]
        if link.connection.lost_reply is None and lost.matching in seen:
            link.connection.lost_reply = lost
            link.tail = b""
            lost.left -= 1
            if not lost.left:
                self._lost_replies.remove(lost)


def _bound(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((LOCALHOST, port))
    except BaseException:
        listener.close()
        raise
    return listener
