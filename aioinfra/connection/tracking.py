"""Server-assisted invalidation: hears of every write under some prefixes, and knows when it may not have.

A connection of its own in RESP2, since redis-py 5.3 with hiredis loses step when pushes mix with replies. It
redirects tracking to itself: CLIENT ID, CLIENT TRACKING ON REDIRECT <id> BCAST PREFIX p.., SUBSCRIBE. A new
connection knows nothing of what was written before, so arming ends with "everything may have changed".

The one proof that nothing is missing is order: a PONG on this connection is delivered after the invalidation
of every write acknowledged before its PING. `confirmed_at` and `barrier` are made of that, and silence counts
as a gap. Invalidations of own writes are not swallowed: the server merges them with foreign ones.

Protocol: https://redis.io/docs/latest/develop/reference/client-side-caching/
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aioinfra.backoff import RECONNECT, Backoff
from aioinfra.clock import SYSTEM_CLOCK, Clock
from aioinfra.connection.dispatch import check_seconds
from aioinfra.connection.pool import RedisClient
from aioinfra.connection.translate import ReplyError
from aioinfra.connection.wire import Argument, PushWire
from aioinfra.errors import InvalidArgument, LifecycleError, StoreDenied, StoreError

logger = logging.getLogger("aioinfra.connection")

_CHANNEL: Final = "__redis__:invalidate"
_NEVER: Final = -math.inf


class TrackingState(enum.Enum):
    """What a near-cache may believe."""

    DOWN = "down"
    """Not connected. Nothing is heard."""
    ARMING = "arming"
    """Connected, tracking not yet confirmed."""
    UP = "up"
    """Every write is heard."""
    STALE = "stale"
    """Connected, but silent for longer than ``silence_limit``: writes may be missing."""
    REFUSED = "refused"
    """The server does not allow tracking (permission, proxy, version). Tried again every ``refused_retry``."""


@dataclass(frozen=True, slots=True)
class TrackingOptions:
    """How the listener watches its connection.

    Attributes:
        ping_interval: seconds between PINGs; the only traffic when nothing is written.
        silence_limit: age in seconds of the last confirmation from which on the state is STALE; more than
            ``ping_interval``.
        reconnect_after: age from which on the connection is given up; at least ``silence_limit``.
        rearm_after_silence: True reconnects as soon as a STALE connection answers, instead of trusting it:
            for servers that may have been replaced meanwhile. With Sentinels it is always so.
        refused_retry: seconds between attempts where tracking is refused.
        reconnect: delays between attempts to connect.
    """

    ping_interval: float = 1.0
    silence_limit: float = 2.0
    reconnect_after: float = 6.0
    rearm_after_silence: bool = False
    refused_retry: float = 30.0
    reconnect: Backoff = RECONNECT

    def __post_init__(self) -> None:
        for name in ("ping_interval", "silence_limit", "reconnect_after", "refused_retry"):
            check_seconds(name, getattr(self, name))
        if self.silence_limit <= self.ping_interval:
            raise InvalidArgument("silence_limit", "must be more than ping_interval")
        if self.reconnect_after < self.silence_limit:
            raise InvalidArgument("reconnect_after", "must be at least silence_limit")


DEFAULT_OPTIONS: Final = TrackingOptions()


class _Probe:
    """One PING under way, answered in order."""

    __slots__ = ("answered", "payload", "sent_at")

    def __init__(self, payload: bytes, sent_at: float, answered: asyncio.Future[bool] | None) -> None:
        self.payload = payload
        self.sent_at = sent_at
        self.answered = answered

    def settle(self, delivered: bool) -> None:
        if self.answered is not None and not self.answered.done():
            self.answered.set_result(delivered)


class TrackingListener:
    """Listens for writes under ``prefixes``. Whoever starts `run` as a task ends it by cancelling.

    Args:
        client: where to connect; owned by the caller.
        prefixes: of the keys to hear of; one that lies within another is left out, as the server demands.
            An empty one means every key.
        on_invalidate: called at once, in the order of the writes, with the keys that changed; with None when
            everything may have changed: FLUSHALL, FLUSHDB, or armed (again). Must not block. If it raises,
            the error is logged once and the listener goes on.
        options: intervals and limits.
        clock: of the intervals and of `confirmed_at`.

    Attributes:
        confirmed_at: reading of the monotonic clock. Everything acknowledged before it has been delivered;
            -inf while not UP. With Sentinels no later than one of them last confirmed the master: what a
            replaced server answers proves nothing.
    """

    def __init__(
        self,
        client: RedisClient,
        prefixes: Sequence[str | bytes],
        on_invalidate: Callable[[Sequence[bytes] | None], None],
        options: TrackingOptions = DEFAULT_OPTIONS,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._client = client
        self._prefixes = shortest_prefixes(prefixes)
        self._on_invalidate = on_invalidate
        self._options = options
        self._rearms = options.rearm_after_silence or client.follows_master
        self._clock = clock
        self._state = TrackingState.DOWN
        self._up = asyncio.Event()
        self._wire: PushWire | None = None
        self._probes: deque[_Probe] = deque()
        self._probe_number = 0
        self._running = False
        self._callback_failed = False
        self.confirmed_at: float = _NEVER
        self.on_confirmed: Callable[[float], None] | None = None
        self._ponged_at = _NEVER  # when the last PING that was answered was sent

    @property
    def state(self) -> TrackingState:
        """What may be believed now; silence shows without waiting for a timer."""
        if self._state is TrackingState.UP and self._age() > self._options.silence_limit:
            return TrackingState.STALE
        return self._state

    async def run(self) -> None:
        """Connect, arm and listen until cancelled. Server faults lead to another attempt, never to an error.

        Raises:
            LifecycleError: it is running already, or the client is closed.
        """
        if self._running:
            raise LifecycleError("the listener is running already")
        self._running = True
        attempt = 0
        try:
            with self._client.vouching(self._advance):
                while True:
                    attempt = 1 if await self._connect_once() else attempt + 1
                    refused = self._state is TrackingState.REFUSED
                    pause = self._options.refused_retry if refused else self._options.reconnect.delay(attempt)
                    await self._clock.sleep(pause)
        finally:
            self._running = False
            self._down(TrackingState.DOWN)

    async def wait_up(self, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds for UP; whether it is."""
        check_seconds("timeout", timeout)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._up.wait()
        return self.state is TrackingState.UP

    async def barrier(self, timeout: float) -> bool:
        """Wait until the invalidations of all writes acknowledged before this call are delivered.

        One round trip. False when that is not certain: not UP, connection lost, or ``timeout`` seconds over.
        """
        check_seconds("timeout", timeout)
        if self._wire is None or self._state is not TrackingState.UP:
            return False
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[bool] = loop.create_future()
        timer = loop.call_later(timeout, _give_up, answered)
        self._probe(self._wire, answered)
        try:
            return await answered
        finally:
            timer.cancel()

    # One connection

    async def _connect_once(self) -> bool:
        """One connection from opening to its end; whether it was UP."""
        try:
            wire = await self._client.open_wire(PushWire)
        except StoreError:
            self._down(TrackingState.DOWN)
            return False
        if self._state is not TrackingState.REFUSED:  # a repeated attempt is no news
            self._state = TrackingState.ARMING
        armed = False
        try:
            await self._arm(wire)
            armed = True
            await self._watch(wire)
            self._down(TrackingState.DOWN)
        except (ReplyError, StoreDenied) as error:
            self._refused(error)
        except StoreError:
            self._down(TrackingState.DOWN)
        finally:
            wire.abort()
            await asyncio.wait([wire.closed], timeout=1.0)
        return armed

    async def _arm(self, wire: PushWire) -> None:
        client_id, _ = await self._ask(wire, ("CLIENT", "ID"), ("PING",))
        prefixes = [part for prefix in self._prefixes for part in (b"PREFIX", prefix)]
        await self._ask(wire, ("CLIENT", "TRACKING", "ON", "REDIRECT", client_id, "BCAST", *prefixes))
        wire.on_push = self._received
        since = self._clock.monotonic()
        await self._ask(wire, ("SUBSCRIBE", _CHANNEL))
        self._report(None)
        self._wire = wire
        self._ponged_at = since
        self._confirm(since)
        self._state = TrackingState.UP
        self._up.set()

    async def _ask(self, wire: PushWire, *commands: tuple[Argument, ...]) -> list[Any]:
        replies = await wire.ask(commands, self._client.options.socket_timeout)
        for reply in replies:
            if isinstance(reply, StoreError):
                raise reply
        return replies

    async def _watch(self, wire: PushWire) -> None:
        """Keep one PING under way, until the connection ends or has been silent for too long."""
        while not wire.closed.done() and self._age() <= self._options.reconnect_after:
            if not self._probes:
                self._probe(wire, None)
            await asyncio.wait([wire.closed], timeout=self._options.ping_interval)

    def _age(self) -> float:
        return self._clock.monotonic() - self.confirmed_at

    def _probe(self, wire: PushWire, answered: asyncio.Future[bool] | None) -> None:
        self._probe_number += 1
        payload = str(self._probe_number).encode()
        self._probes.append(_Probe(payload, self._clock.monotonic(), answered))
        wire.send(("PING", payload))
        self._client.seek_vouch()

    def _received(self, push: Any) -> None:
        match push:
            case [b"message", _, keys]:
                self._report(keys)
            case [b"pong", payload] if self._probes and self._probes[0].payload == payload:
                self._confirmed(self._probes.popleft())
            case _ if self._wire is not None:  # out of step: nothing on this connection proves anything now
                self._wire.abort()

    def _confirmed(self, probe: _Probe) -> None:
        if self._rearms and self.state is TrackingState.STALE and self._wire is not None:
            probe.settle(False)
            self._wire.abort()
            return
        self._ponged_at = probe.sent_at
        self._advance()
        probe.settle(True)

    def _advance(self) -> None:
        """A PONG counts as far as the server is known to have been the right one; both may come last."""
        # What was silent and may have been replaced meanwhile proves nothing more.
        silent = self._rearms and self.state is TrackingState.STALE
        if self._wire is not None and not silent:
            self._confirm(max(self.confirmed_at, min(self._ponged_at, self._client.vouched_at)))

    def _confirm(self, at: float) -> None:
        self.confirmed_at = at
        if self.on_confirmed is not None:
            self.on_confirmed(at)

    def _report(self, keys: Sequence[bytes] | None) -> None:
        try:
            self._on_invalidate(keys)
        except Exception:
            if not self._callback_failed:
                self._callback_failed = True
                logger.exception("an invalidation callback failed; further failures are not logged")

    def _down(self, state: TrackingState) -> None:
        self._state = state
        self._wire = None
        self._confirm(_NEVER)
        self._up.clear()
        while self._probes:
            self._probes.popleft().settle(False)

    def _refused(self, error: StoreError) -> None:
        if self._state is not TrackingState.REFUSED:
            logger.warning("%s refuses client tracking: %s", self._client.location, error)
        self._down(TrackingState.REFUSED)


def shortest_prefixes(prefixes: Sequence[str | bytes]) -> list[bytes]:
    """Without those that lie within another: the server refuses prefixes that overlap.

    Raises:
        InvalidArgument: none at all, or not str or bytes.
    """
    if isinstance(prefixes, str | bytes) or not prefixes:
        raise InvalidArgument("prefixes", "must be a sequence of at least one str or bytes")
    kept: list[bytes] = []
    for prefix in sorted({_encoded(prefix) for prefix in prefixes}):
        if not kept or not prefix.startswith(kept[-1]):
            kept.append(prefix)
    return kept


def _encoded(prefix: object) -> bytes:
    if isinstance(prefix, bytes):
        return prefix
    if isinstance(prefix, str):
        with contextlib.suppress(UnicodeEncodeError):
            return prefix.encode()
    raise InvalidArgument("prefixes", "must hold only bytes and valid text")


def _give_up(answered: asyncio.Future[bool]) -> None:
    if not answered.done():
        answered.set_result(False)
