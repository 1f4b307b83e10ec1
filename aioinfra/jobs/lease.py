"""Leases: proof that a claimed job's worker lives, renewed by a thread with a connection of its own.

A thread, because a job that blocks the event loop must not lose its lease: the thread gets its turn whenever the
blocking code gives up the interpreter lock, which pure Python and most libraries do. It stops renewing when the
loop has not moved for ``stall_limit``: then the worker is as good as dead, and its jobs are for others.

Ownership: the loop adds and removes claims; the thread only reads them, and tells the loop of losses through
``call_soon_threadsafe``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from aioinfra.clock import SYSTEM_CLOCK, ThreadClock
from aioinfra.errors import InvalidArgument, StoreError
from aioinfra.jobs.job import Claim
from aioinfra.jobs.store import LeaseStore

logger = logging.getLogger("aioinfra.jobs")

_CHUNK = 500
_RETRY_PAUSE = 0.25
_CLOSE_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class LeaseOptions:
    """How long a silent worker keeps its jobs.

    Attributes:
        duration: seconds; a killed worker's jobs start elsewhere after at most this, plus 2 s.
        stall_limit: seconds of a blocked event loop after which its leases are no longer renewed; native code
            that keeps the interpreter lock for longer than ``duration`` loses them in any case.
    """

    duration: float = 15.0
    stall_limit: float = 60.0

    def __post_init__(self) -> None:
        for name, least in (("duration", 0.5), ("stall_limit", 1.0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= 86_400:
                raise InvalidArgument(name, f"must be {least:g} to 86,400 seconds")


class LeaseKeeper:
    """Keeps the leases of the claims that it is told to hold.

    Args:
        open_store: opens the thread's connection; called in the thread, again after every failure.
        options: see `LeaseOptions`.
        on_lost: told, on the loop, of claims that another worker has taken or that are finished already.
        on_error: told, on the loop, that a renewal failed.
        clock: whose seconds the leases last.
    """

    def __init__(
        self,
        open_store: Callable[[], LeaseStore],
        options: LeaseOptions,
        *,
        on_lost: Callable[[Sequence[Claim]], None],
        on_error: Callable[[], None],
        clock: ThreadClock = SYSTEM_CLOCK,
    ) -> None:
        self._clock = clock
        self._open_store = open_store
        self._options = options
        self._on_lost = on_lost
        self._on_error = on_error
        self._held: dict[str, tuple[float, Claim]] = {}
        self._beat = self._clock.monotonic()
        self._stop = threading.Event()
        self._ended: asyncio.Future[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._last_move = 0.0
        self._stalled = False
        self._failing = False

    # The loop's side

    def hold(self, claims: Sequence[Claim]) -> None:
        """Renew these claims' leases from now on."""
        now = self._clock.monotonic()
        for claim in claims:
            self._held[claim.token] = (now, claim)

    def drop(self, claims: Sequence[Claim]) -> None:
        """Renew them no longer."""
        for claim in claims:
            self._held.pop(claim.token, None)

    def _give_up(self, lost: list[Claim]) -> None:
        lost = [claim for claim in lost if claim.token in self._held]  # others were finished meanwhile
        self.drop(lost)
        if lost:
            self._on_lost(lost)

    def beat(self) -> None:
        """The event loop moves; to be called at least once a second."""
        self._beat = self._clock.monotonic()

    def start(self) -> None:
        """Start the thread, from the loop that it serves."""
        self._loop = asyncio.get_running_loop()
        self.beat()
        ended = self._loop.create_future()
        threading.Thread(target=self._run, args=(ended,), name="aioinfra-leases", daemon=True).start()
        self._ended = ended

    async def aclose(self) -> None:
        """End the thread; waits for the one call to the server that may be under way."""
        self._stop.set()
        if self._ended is not None:  # no join in the default executor, which jobs may have filled
            await asyncio.wait([self._ended], timeout=_CLOSE_TIMEOUT)

    # The thread's side

    def _run(self, ended: asyncio.Future[None]) -> None:
        interval = self._options.duration / 4
        store: LeaseStore | None = None
        pause = interval
        try:
            while not self._clock.wait(self._stop, pause):
                pause = interval
                claims = self._due(interval)
                if not claims:
                    continue
                try:
                    if store is None:
                        store = self._open_store()
                    self._renew(store, claims)
                    self._failing = False
                except Exception as error:  # noqa: BLE001 - whatever it was, the leases need the next attempt
                    self._failed(error)
                    _close(store)
                    store, pause = None, _RETRY_PAUSE
        finally:
            _close(store)
            self._tell(partial(_set, ended))

    def _failed(self, error: Exception) -> None:
        if not self._failing:
            known = isinstance(error, StoreError)
            logger.warning(
                "leases not renewed (%s); trying again",
                type(error).__name__,
                exc_info=None if known else error,
            )
        self._failing = True
        self._tell(self._on_error)

    def _due(self, interval: float) -> list[Claim]:
        """Claims old enough to need renewal; none while the loop is stalled beyond its limit."""
        now = self._clock.monotonic()
        stalled = now - self._beat > self._options.stall_limit
        if stalled and not self._stalled:
            logger.error(
                "the event loop has not moved for %.0f s: %d leases are no longer renewed",
                now - self._beat,
                len(self._held),
            )
        self._stalled = stalled
        if stalled:
            return []
        # list(dict.values()) is one C call: the loop may change the dict meanwhile.
        return [claim for since, claim in list(self._held.values()) if now - since >= interval * 0.9]

    def _renew(self, store: LeaseStore, claims: list[Claim]) -> None:
        """Renew in chunks. Scores move along only every half lease: that wakes every worker of the queue."""
        now = self._clock.monotonic()
        move = now - self._last_move >= self._options.duration / 2 * 0.9
        for at in range(0, len(claims), _CHUNK):
            lost = store.renew(claims[at : at + _CHUNK], self._options.duration, move=move)
            # A claim that was finished while the call was on its way is not lost.
            lost = [claim for claim in lost if claim.token in self._held]
            if lost:
                self._tell(partial(self._give_up, lost))
        if move:
            self._last_move = now

    def _tell(self, callback: Callable[[], None]) -> None:
        if self._loop is not None and not self._loop.is_closed():
            try:
                self._loop.call_soon_threadsafe(callback)
            except RuntimeError:
                logger.debug("the event loop has closed; its leases end by themselves")


def _set(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)


def _close(store: LeaseStore | None) -> None:
    if store is not None:
        with contextlib.suppress(Exception):  # it is being given up
            store.close()
