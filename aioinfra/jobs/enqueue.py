"""Storing jobs: checked and encoded before any I/O, sent in batches, repeated while that is safe."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Final, TypeVar

from aioinfra.backoff import Backoff
from aioinfra.connection.batch import Batcher, BatchLimits
from aioinfra.errors import (
    DeadlineExceeded,
    EnqueueUncertain,
    InvalidArgument,
    Overloaded,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
    WrongType,
)
from aioinfra.jobs.checks import check_name
from aioinfra.jobs.due import DueTimes
from aioinfra.jobs.job import JobRequest, StoredRequest
from aioinfra.jobs.middleware import JobMiddleware, check_middleware
from aioinfra.jobs.observer import JobObserver
from aioinfra.jobs.outgoing import RequestEncoder
from aioinfra.jobs.parcels import Answer, Parcel, created_of
from aioinfra.jobs.payload import JobCodec
from aioinfra.jobs.routing import DEFAULT_QUEUE, NO_ROUTES, Routes
from aioinfra.jobs.store import Added, JobStore

_RECONNECT = Backoff(tries=1_000, base=0.02, cap=0.25)
_AHEAD = 2
"""Parcels of a bulk at a time: one on its way, and the next one at hand when its answer comes."""
_DUE_SLACK = 0.02
"""Seconds before it is due in which a request is not sent any more: there would hardly be an answer."""


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """How a client enqueues.

    Attributes:
        default_queue: for requests that name none and match no route.
        routes: queues of requests that name none, by their task's name.
        middleware: stands around every enqueue of the client, the first one outermost.
        timeout: seconds from the call within which an enqueue is stored or raises, its wait behind other
            enqueues and its repeats included.
        batch: bounds of one enqueue script call, and of what may wait behind it.
        replies: whether a job names this client's channel, so that its worker says when it has ended. Without,
            a queued job takes some 60 bytes less, and waiting for a result looks for it every now and then.
    """

    default_queue: str = DEFAULT_QUEUE
    timeout: float = 2.0
    batch: BatchLimits = field(default_factory=lambda: BatchLimits(max_items=500))
    routes: Routes = NO_ROUTES
    middleware: Sequence[JobMiddleware] = ()
    replies: bool = True

    def __post_init__(self) -> None:
        check_name("default_queue", self.default_queue)
        if not isinstance(self.routes, Routes):
            raise InvalidArgument("routes", "must be Routes")
        check_middleware("middleware", self.middleware)
        if not isinstance(self.replies, bool):
            raise InvalidArgument("replies", "must be a bool")
        value: object = self.timeout
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise InvalidArgument("timeout", "must be a finite number of seconds above 0")

    def queue_of(self, task: str) -> str:
        """Where a job goes that names no queue."""
        return self.routes.queue_of(task) or self.default_queue


DEFAULT_OPTIONS: Final = ClientOptions()

T = TypeVar("T")


class Enqueuer:
    """Stores jobs. One per event loop; owned by the client.

    Args:
        store: where they go.
        codec: how they are written.
        options: see `ClientOptions`.
        observer: told of every stored job and store error.
        channel: where the producer hears of a job's end, or None.
    """

    def __init__(
        self,
        store: JobStore,
        codec: JobCodec,
        options: ClientOptions,
        *,
        observer: JobObserver,
        channel: str | None,
    ) -> None:
        self._store = store
        self._encoder = RequestEncoder(codec, options.queue_of, channel)
        self._options = options
        self._observer = observer
        self._batcher: Batcher[_Pending, list[Answer]] = Batcher(
            self._send, options.batch, size_of=itemgetter(3)
        )
        # A job weighs its share of a batch at least, so that parcels of jobs keep to its bound of items too.
        self._least_weight = max(1, options.batch.max_bytes // options.batch.max_items)
        # Ends each request at its own time, in flight or waiting; `_send` keeps to it too.
        self._due_times: DueTimes[_Pending] = DueTimes(self._when_due)
        self._numbers = itertools.count()
        self._newest_sent = -1
        self._last_sent = -math.inf
        self._slack = min(_DUE_SLACK, options.timeout / 10)
        self._in_parcels = 0
        self._bulks_waiting: deque[asyncio.Event] = deque()

    async def one(self, request: JobRequest[Any]) -> tuple[StoredRequest, bool]:
        """Store a job; answers it with whether it is new. Raises as `JobClient.enqueue`."""
        stored = self._encoder.one(request)
        [created] = await self._submit([stored], self._weight(stored))
        if isinstance(created, BaseException):
            raise created
        if created:
            self._observer.enqueued(stored.queue, request.task)
        return stored, created

    async def many(
        self, requests: Sequence[JobRequest[Any]], make: Callable[[JobRequest[Any], StoredRequest, bool], T]
    ) -> list[T]:
        """Store many jobs, in order; what ``make`` makes of each, and of whether it is new.

        Raises as `JobClient.enqueue_many`. A batch is handed in behind the one that the server has at hand, and
        the answers to the one before it are looked at meanwhile.
        """
        stored = self._encoder.many(requests)
        made: list[T] = []
        parcels: deque[Parcel] = deque()
        handed = 0
        try:
            while (done := len(made)) < len(stored):
                handed = await self._hand_in(stored, handed, done, parcels)
                created = await created_of(parcels, done, len(stored))
                for at, new in enumerate(created, done):
                    request, entry = requests[at], stored[at]
                    if new:
                        self._observer.enqueued(entry.queue, request.task)
                    made.append(make(request, entry, new))
        finally:
            for _, answers in parcels:
                answers.cancel()
        return made

    async def _hand_in(
        self, stored: list[StoredRequest], first: int, done: int, parcels: deque[Parcel]
    ) -> int:
        """Submit requests from ``first`` on, in parcels of a batch each; answers where the next parcel begins.

        Each has a timeout of its own, so that a bulk may take as long as its bytes do.
        """
        limits = self._options.batch
        try:
            while first < len(stored) and len(parcels) < _AHEAD:
                room = await self._some_room(wait=not parcels)
                if not room:
                    break
                part = stored[first : first + min(room, limits.max_items)]
                weights = list(itertools.accumulate(map(self._weight, part)))
                fitting = max(1, bisect_right(weights, limits.max_bytes))
                parcels.append(self._parcel(part[:fitting], weights[fitting - 1]))
                first += fitting
        except Overloaded as error:
            raise Overloaded(f"{error}; {done} of {len(stored)} jobs are stored") from None
        return first

    def _parcel(self, requests: list[StoredRequest], weight: int) -> Parcel:
        answers = self._submit(requests, weight)
        self._in_parcels += len(requests)
        answers.add_done_callback(lambda _: self._unpacked(len(requests)))
        return requests, answers

    def _unpacked(self, count: int) -> None:
        self._in_parcels -= count
        self._tell_of_room()

    async def _some_room(self, *, wait: bool) -> int:
        """How many requests a bulk may hand in now; 0 when there is no room, unless it is to ``wait`` for some.

        Bulks take half of the room at most, so that single enqueues find some; and take turns.

        Raises:
            Overloaded: there was none for ``timeout`` seconds.
        """
        if not self._bulks_waiting and (room := self._room()) > 0:
            return room
        if not wait:
            return 0
        turn = asyncio.Event()
        self._bulks_waiting.append(turn)
        try:
            async with asyncio.timeout(self._options.timeout):
                while self._bulks_waiting[0] is not turn or (room := self._room()) < 1:
                    turn.clear()
                    await turn.wait()
        except TimeoutError:
            raise Overloaded(f"{self._waiting()} enqueues wait behind the batch in flight") from None
        finally:
            self._bulks_waiting.remove(turn)
            self._tell_of_room()
        return room

    def _room(self) -> int:
        return max(1, self._options.batch.max_waiting // 2) - self._waiting()

    def _waiting(self) -> int:
        return len(self._batcher) + self._in_parcels

    def _tell_of_room(self) -> None:
        if self._bulks_waiting:
            self._bulks_waiting[0].set()

    async def aclose(self) -> None:
        """Wait for the enqueues under way; then refuse."""
        try:
            await self._batcher.aclose()
        finally:
            self._due_times.close()

    def _weight(self, stored: StoredRequest) -> int:
        return max(self._least_weight, len(stored.payload) + 128)

    def _submit(self, requests: list[StoredRequest], weight: int) -> asyncio.Future[list[Answer]]:
        due = time.monotonic() + self._options.timeout
        pending = (due, next(self._numbers), requests, weight)
        future = self._batcher.submit(pending)
        self._due_times.add(due, pending, future)
        return future

    def _when_due(self, pending: _Pending) -> BaseException:
        """What a caller is told whose time is over, from what may have been sent since the caller came."""
        due, number, requests, _ = pending
        text = f"no answer within {self._options.timeout:g} s"
        if number <= self._newest_sent and self._last_sent >= due - self._options.timeout:
            return EnqueueUncertain([stored.job_id for stored in requests], text)
        return DeadlineExceeded(text, sent=False)

    async def _send(self, batch: list[_Pending]) -> list[list[Answer]]:
        """Store a batch, repeating while that is safe and there is time."""
        self._due_times.forget_done()
        try:
            answers = await self._sent(batch)
        finally:
            self._tell_of_room()
        if len(batch) == 1:
            return [answers]
        rest = iter(answers)
        return [list(itertools.islice(rest, len(requests))) for _, _, requests, _ in batch]

    async def _sent(self, batch: list[_Pending]) -> list[Answer]:
        ends = batch[-1][0]
        requests = [stored for _, _, some, _ in batch for stored in some]
        unknown = False
        failure = StoreUnavailable("its time was over before it could be sent", sent=False)
        attempt = 0
        while True:
            attempt += 1
            # Whoever was told that its job is not stored must not find it stored: what is due is not sent (again).
            now = time.monotonic()
            late = bisect_right(batch, now + self._slack, key=itemgetter(0))
            late = sum(len(some) for _, _, some, _ in batch[:late])
            if late == len(requests):
                return _failures(requests, failure, unknown)
            self._newest_sent = batch[-1][1]
            before, self._last_sent = self._last_sent, math.inf
            try:
                added = await self._store.add(requests[late:], repeated=unknown, deadline=ends - now)
            except StoreUnavailable as error:
                failure, unknown = error, unknown or error.sent
                self._last_sent = time.monotonic() if error.sent else before
            except StoreError as error:
                # The server's answer to this attempt; an earlier one may have been stored all the same.
                self._last_sent = time.monotonic()
                self._observer.store_error("enqueue")
                return _failures(requests, error, unknown or not isinstance(error, _REFUSALS))
            except BaseException:
                self._last_sent = time.monotonic()
                raise
            else:
                self._last_sent = time.monotonic()
                answers = _answers(requests[late:], added)
                return [*_failures(requests[:late], failure, unknown), *answers] if late else answers
            self._observer.store_error("enqueue")
            left = ends - time.monotonic()
            if left <= 2 * self._slack:
                return _failures(requests, failure, unknown)
            await asyncio.sleep(min(_RECONNECT.delay(attempt), left / 2))


_Pending = tuple[float, int, list[StoredRequest], int]
"""Due time, number, requests and weight. When it is due (monotonic), its caller is told, stored or not."""


_REFUSALS = (StoreFull, StoreDenied, WrongType)
"""Errors that the script meets before its first write."""


def _answers(requests: Sequence[StoredRequest], added: Sequence[Added]) -> list[Answer]:
    if len(added) == len(requests) and added.count(Added.STORED) == len(added):
        return [True] * len(added)
    return [_answer(request, what) for request, what in zip(requests, added, strict=True)]


def _answer(request: StoredRequest, added: Added) -> Answer:
    if added is Added.STORED or added is Added.FOUND:
        return True
    if added is Added.TAKEN:
        return False
    if added is Added.WRONG_TYPE:
        return WrongType(f"queue {request.queue!r}: the key holds a value of another type")
    return EnqueueUncertain([request.job_id], "no answer, and the result under its id may be another job's")


def _failures(requests: Sequence[StoredRequest], failure: StoreError, unknown: bool) -> list[Answer]:
    if unknown:
        return [EnqueueUncertain([request.job_id], str(failure)) for request in requests]
    if isinstance(failure, StoreUnavailable):
        return [StoreUnavailable(str(failure), sent=False) for _ in requests]
    return [type(failure)(*failure.args) for _ in requests]
