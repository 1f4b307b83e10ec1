"""The client of one Redis or Valkey server, or of the master that Sentinels or a Cluster's nodes name: a bounded
pool of connections for one event loop.

Every call is detached from its caller: a cancelled caller, or one whose deadline has passed, leaves a sent
command to end by itself, bounded by ``socket_timeout``, and its connection in step. A command that still
waits for a connection is withdrawn instead and never sent.

Nothing is retried here: only the caller knows whether a command may run twice. `StoreUnavailable.sent` tells
whether it may have run once; the table in `aioinfra.connection.translate` says which answers mean what.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import redis
import redis.asyncio
from redis.asyncio.connection import AbstractConnection

from aioinfra.connection.address import parse_address
from aioinfra.connection.dispatch import DEFAULT_OPTIONS, Dispatcher, PoolFigures, PoolOptions, check_seconds
from aioinfra.connection.opener import Opener, WireT
from aioinfra.connection.script import Script
from aioinfra.connection.sentinel import MasterDispatcher, MasterOpener
from aioinfra.connection.translate import ReplyError, translate
from aioinfra.connection.wire import Argument, Call, pack
from aioinfra.errors import DeadlineExceeded, InvalidArgument, LifecycleError, WrongEventLoop

__all__ = ["PoolFigures", "PoolOptions", "RedisClient", "Script", "translate"]


class RedisClient:
    """One server's pool for one event loop. Constructing does no I/O and needs no loop.

    The client belongs to the loop of its first awaited call, and once that loop is closed to that of the next one:
    a stray first use spoils nothing. Close it with `aclose` or ``async with``.

    Args:
        url: ``redis://``, ``rediss://`` (host names are verified) or ``unix:///path?db=0``; with Sentinels
            ``redis+sentinel://host1:26379,host2:26379/<master name>/<db>``, on a Cluster
            ``redis+cluster://host1:6379,host2:6379/<hash tag>``; see `aioinfra.connection.address`.
        options: bounds of the pool.

    Raises:
        InvalidArgument: the URL does not name a server.
    """

    def __init__(self, url: str, options: PoolOptions = DEFAULT_OPTIONS) -> None:
        self._address = parse_address(url)
        self._options = options
        self._master = self._address.new_master()
        self._opener = self._new_opener()
        self._dispatcher: Dispatcher | None = None
        self._raw: redis.asyncio.Redis | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"RedisClient({self.location!r})"

    @property
    def location(self) -> str:
        """The URL without credentials, for logs and health."""
        return self._address.location

    @property
    def hash_tag(self) -> str | None:
        """What all keys must hold in braces; None where they need not: the server is no Cluster's."""
        cluster = self._address.cluster
        return None if cluster is None else cluster.tag

    @property
    def follows_master(self) -> bool:
        """Whether Sentinels or a Cluster's nodes name the server, which may then be another one tomorrow."""
        return self._master is not None

    @property
    def vouched_at(self) -> float:
        """Monotonic time as of which the server was the right one: of a Sentinel's last word; else inf."""
        return math.inf if self._master is None else self._master.vouched_at

    @contextlib.contextmanager
    def vouching(self, told: Callable[[], None]) -> Iterator[None]:
        """For the time of the block call ``told`` when ``vouched_at`` may have advanced."""
        if self._master is None:
            yield
            return
        self._master.on_vouch.add(told)
        try:
            yield
        finally:
            self._master.on_vouch.discard(told)

    def seek_vouch(self) -> None:
        """Have a Sentinel confirm the master now, not only at the next of its turns."""
        if self._master is not None and self._master.seek is not None:
            self._master.seek()

    @property
    def options(self) -> PoolOptions:
        """The bounds given at construction."""
        return self._options

    @property
    def raw(self) -> redis.asyncio.Redis:
        """redis-py's client for the same server, answering bytes.

        It has a `BlockingConnectionPool` of its own with the same bounds, opened by its first use and closed
        with this client. Its errors are redis-py's: see `translate`.
        """
        if self._raw is None:
            kind, arguments = self._address.async_connection(self._master)
            self._raw = redis.asyncio.Redis(
                connection_pool=_RawPool(
                    self,
                    connection_class=kind,
                    max_connections=self._options.max_connections,
                    timeout=self._options.acquire_timeout,
                    **arguments,
                    **self._timeouts(),
                )
            )
        return self._raw

    def figures(self) -> PoolFigures:
        """The pool's state now; connections of `raw` are counted in once it was used."""
        own = (
            self._dispatcher.figures()
            if self._dispatcher
            else PoolFigures(0, 0, 0, self._options.max_connections)
        )
        if self._raw is None:
            return own
        pool = self._raw.connection_pool
        idle, in_use = len(pool._available_connections), len(pool._in_use_connections)  # noqa: SLF001 - no public figure
        return PoolFigures(
            own.size + idle + in_use,
            own.in_use + in_use,
            own.idle + idle,
            own.max_connections * 2,
            own.switches,
        )

    # Calls

    async def ping(self) -> float:
        """Seconds of one PING and its reply. Raises StoreError."""
        loop = asyncio.get_running_loop()
        before = loop.time()
        await self.execute("PING")
        return loop.time() - before

    async def execute(
        self, *command: Argument, deadline: float | None = None, reply_timeout: float | None = None
    ) -> Any:
        """Run one command: one round trip.

        Args:
            command: its name and arguments, ``execute("SET", "key", b"value", "EX", 60)``.
            deadline: seconds that the caller waits; the call itself goes on.
            reply_timeout: seconds for the reply instead of ``socket_timeout``, for commands that block.

        Returns:
            The reply as RESP2 has it: bytes, int, None or a list; no conversion by command.

        Raises:
            InvalidArgument: not a command, or one that would change the state of a shared connection.
            StoreUnavailable: no answer (also as DeadlineExceeded, PoolExhausted); ``sent`` tells whether the
                command may have run.
            StoreDenied, StoreFull, WrongType, ReplyError: the server's answer.
            WrongEventLoop, LifecycleError: not usable here, or closed.
        """
        dispatcher = self._bound()
        data = pack(command)
        timeout = self._options.socket_timeout
        if reply_timeout is not None:
            check_seconds("reply_timeout", reply_timeout)
            timeout = reply_timeout
        call = Call(data, dispatcher.loop.create_future(), timeout)
        if deadline is not None:
            return await _within(deadline, call, dispatcher)
        dispatcher.submit(call)
        return await call.future

    async def pipeline(
        self, commands: Sequence[Sequence[Argument]], deadline: float | None = None
    ) -> list[Any]:
        """Run commands in one round trip, in order but without MULTI: others may run between them.

        A command's own error stands in its place as a StoreError. A lost connection raises, and any of the
        commands may have run. Raises as `execute`.
        """
        dispatcher = self._bound()
        if not commands:
            return []
        replies: list[Any]
        if deadline is not None:
            replies = await _within(deadline, self._pipeline(commands, dispatcher), dispatcher)
        else:
            replies = await self.begin(commands).future
        return replies

    def begin(self, commands: Sequence[Sequence[Argument]]) -> Call:
        """A `pipeline` of at least one command whose call can be watched while it is under way.

        Await ``call.future``. Raises as `execute`, what is wrong here and now at once.
        """
        dispatcher = self._bound()
        call = self._pipeline(commands, dispatcher)
        dispatcher.submit(call)
        return call

    @property
    def crowded(self) -> bool:
        """Whether a call that is not sent yet waits for other calls, not for a connection to be opened."""
        return self._dispatcher is not None and self._dispatcher.crowded

    def _pipeline(self, commands: Sequence[Sequence[Argument]], dispatcher: Dispatcher) -> Call:
        data = b"".join([pack(command) for command in commands])
        return Call(data, dispatcher.loop.create_future(), self._options.socket_timeout, len(commands))

    async def run_script(
        self,
        script: Script,
        keys: Sequence[str | bytes],
        args: Sequence[Argument],
        deadline: float | None = None,
    ) -> Any:
        """Run a script by its name; one round trip, or two when the server does not know it yet.

        ``deadline`` covers all of it. Raises as `execute`.
        """
        loop = asyncio.get_running_loop()
        ends = None if deadline is None else loop.time() + deadline
        try:
            return await self.execute("EVALSHA", script.sha, len(keys), *keys, *args, deadline=deadline)
        except ReplyError as error:
            if error.code != "NOSCRIPT":
                raise
        left = None if ends is None else ends - loop.time()
        return await self.execute("EVAL", script.source, len(keys), *keys, *args, deadline=left)

    # Connections of one's own

    async def open_wire(self, make: Callable[[asyncio.AbstractEventLoop], WireT]) -> WireT:
        """A greeted connection outside the pool. The caller closes it.

        Raises:
            StoreError: not connected within ``connect_timeout``.
        """
        self._bound()
        return await self._opener.open(make, self._options.connect_timeout)

    def new_connection(self) -> AbstractConnection:
        """A redis-py connection outside the pool, not yet connected; RESP2, bytes. The caller closes it."""
        kind, arguments = self._address.async_connection(self._master)
        return kind(**arguments, **self._timeouts())

    def blocking_connection(self) -> redis.Redis:
        """A synchronous client with one connection, for one thread. The caller closes it.

        It connects at its first use, which may be in another thread than this call.
        """
        kind, arguments = self._address.sync_connection(self._master)
        pool = redis.ConnectionPool(connection_class=kind, max_connections=1, **arguments, **self._timeouts())
        return redis.Redis.from_pool(pool)

    def _timeouts(self) -> dict[str, Any]:
        return {
            "socket_timeout": self._options.socket_timeout,
            "socket_connect_timeout": self._options.connect_timeout,
        }

    # Lifecycle

    def _bound(self) -> Dispatcher:
        """The dispatcher, made by the first call on the loop that the client then belongs to."""
        loop = asyncio.get_running_loop()
        if self._dispatcher is not None and loop is self._dispatcher.loop and not self._closed:
            return self._dispatcher
        if self._closed:
            raise LifecycleError(f"the client of {self.location} is closed")
        if self._dispatcher is not None:
            if not self._dispatcher.loop.is_closed():
                raise WrongEventLoop(
                    f"the client of {self.location} belongs to another event loop: make one client per loop"
                )
            # Its connections and calls ended with their loop, and so did those of `raw`; the locks belong to it.
            self._master = self._address.new_master()
            self._opener, self._raw = self._new_opener(), None
        self._dispatcher = self._new_dispatcher(loop)
        self._opener.start()
        return self._dispatcher

    def _new_opener(self) -> Opener:
        if self._master is None:
            return Opener(self._address)
        return MasterOpener(self._address, self._master, self._options.connect_timeout)

    def _new_dispatcher(self, loop: asyncio.AbstractEventLoop) -> Dispatcher:
        if self._master is None:
            return Dispatcher(loop, self._opener, self._options)
        return MasterDispatcher(loop, self._opener, self._options, self._master)

    async def aclose(self) -> None:
        """Refuse new calls, wait for those under way (up to ``socket_timeout``), then close. Idempotent.

        Raises:
            WrongEventLoop: the client belongs to another loop that is still open.
        """
        if self._closed:
            return
        dispatcher = self._dispatcher
        if dispatcher is not None and dispatcher.loop.is_closed():
            self._closed = True  # its connections ended with their loop
            return
        if dispatcher is not None:
            self._bound()
        self._closed = True
        try:
            if dispatcher is not None:
                await dispatcher.aclose(self._options.socket_timeout)
        finally:
            try:
                await self._opener.aclose()
            finally:
                if self._raw is not None:  # cancelled at its beginning it would close none
                    await asyncio.shield(self._raw.connection_pool.disconnect())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


async def _within(deadline: float, call: Call, dispatcher: Dispatcher) -> Any:
    """Submit a call and wait for it at most ``deadline`` seconds."""
    _check_deadline(deadline)
    if deadline <= 0:  # what was left of a budget that is spent
        raise DeadlineExceeded("the deadline had passed", sent=False)
    timer = dispatcher.loop.call_later(deadline, _give_up, call, deadline)
    dispatcher.submit(call)
    try:
        return await call.future
    finally:
        timer.cancel()


def _check_deadline(value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise InvalidArgument("deadline", "must be a number of seconds")


def _give_up(call: Call, deadline: float) -> None:
    call.fail(DeadlineExceeded(f"no answer within {deadline:g} s", sent=call.sent))


class _RawPool(redis.asyncio.BlockingConnectionPool):
    """redis-py's pool under the client's rules of loop and lifecycle."""

    def __init__(self, client: RedisClient, **options: Any) -> None:
        super().__init__(**options)
        self._client = client

    async def get_connection(self, *_: Any, **__: Any) -> Any:
        self._client._bound()  # noqa: SLF001 - the client's own part
        return await super().get_connection()
