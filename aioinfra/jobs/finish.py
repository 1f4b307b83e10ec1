"""Recording how jobs ended: finishes are collected, sent in batches, and repeated until the server has them.

One batch is in flight at a time, under a nonce of its own. A repeat after a lost reply carries the same nonce,
and the server answers what it answered before: a job's end counts once.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Sequence
from contextvars import Context

from aioinfra.backoff import Backoff
from aioinfra.errors import LifecycleError, StoreDenied, StoreError, StoreFull, StoreUnavailable
from aioinfra.jobs.job import Claim, Finish
from aioinfra.jobs.observer import JobObserver
from aioinfra.jobs.store import FinishStatus, JobStore

logger = logging.getLogger("aioinfra.jobs")

_RETRY = Backoff(tries=1_000_000, base=0.05, cap=0.5)
_MAX_ITEMS = 500
_MAX_BYTES = 1 << 20
_PASSING = (StoreUnavailable, StoreFull, StoreDenied)
"""What the server may stop answering; a batch waits for that. Anything else is the batch's own fault."""


class Finisher:
    """Sends finishes to the store. Owned by one worker, on one loop.

    Args:
        store: where they go.
        observer: told of batches and errors.
        on_settled: told of the claims of each batch when the store knows of their end, or never will.
    """

    def __init__(
        self,
        store: JobStore,
        observer: JobObserver,
        on_settled: Callable[[Sequence[Claim]], None] = lambda _claims: None,
    ) -> None:
        self._store = store
        self._observer = observer
        self.on_settled = on_settled
        self._worker = uuid.uuid4().hex
        self._batches = 0
        self._waiting: list[Finish] = []
        self._sent: list[Finish] = []
        self._told: dict[str, asyncio.Future[FinishStatus]] = {}
        self._sender: asyncio.Task[None] | None = None
        self._empty = asyncio.Event()
        self._empty.set()
        self._closed = False
        self._give_up = False
        self.troubled = False
        """The last call failed, and is being repeated."""

    @property
    def outstanding(self) -> int:
        """Finishes that the server has not confirmed yet."""
        return len(self._waiting) + len(self._sent)

    def is_under_way(self, claim: Claim) -> bool:
        """Whether a claim's finish has been handed in and not been settled. O(finishes under way)."""
        return any(finish.claim.token == claim.token for finish in (*self._waiting, *self._sent))

    def submit(self, finish: Finish) -> None:
        """Send a finish with the next batch. O(1), no await.

        Raises:
            LifecycleError: closed.
        """
        if self._closed:
            raise LifecycleError("the finisher is closed")
        self._waiting.append(finish)
        if self._sender is None:
            self._empty.clear()
            # In an empty context: a batch belongs to no single job.
            self._sender = asyncio.create_task(self._send_all(), name="aioinfra-finish", context=Context())

    def submit_and_tell(self, finish: Finish) -> asyncio.Future[FinishStatus]:
        """As `submit`; the future tells what became of it. Cancelling the future changes nothing."""
        future: asyncio.Future[FinishStatus] = asyncio.get_running_loop().create_future()
        self.submit(finish)
        self._told[finish.claim.token] = future
        return future

    async def flush(self, timeout: float) -> bool:
        """Wait until everything is recorded, at most ``timeout`` seconds; whether it is."""
        try:
            async with asyncio.timeout(timeout):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    async def aclose(self, timeout: float) -> None:
        """Record what is left, at most ``timeout`` seconds; jobs beyond that run again after their lease."""
        flushed = await self.flush(timeout)
        self._closed = self._give_up = True
        if not flushed and self._sender is not None:
            logger.error("%d finished jobs could not be recorded; they will run again", self.outstanding)
            self._sender.cancel()
            await asyncio.wait([self._sender])

    # The sender

    async def _send_all(self) -> None:
        try:
            while self._waiting:
                batch = self._next_batch()
                self._sent = batch
                await self._send(batch)
                self._sent = []
        finally:
            # No await since the last look at the queue: a submit in between would find nobody to send it.
            self._sender, self._sent, self.troubled = None, [], False
            self._empty.set()
            for future in self._told.values():  # none, unless cancelled
                _tell(future, FinishStatus.LOST)
            self._told.clear()

    def _next_batch(self) -> list[Finish]:
        """What has gathered, within the bounds of one call; at least one."""
        count = size = 0
        for finish in self._waiting[:_MAX_ITEMS]:
            size += len(finish.result) + len(finish.record) + 256
            if size > _MAX_BYTES and count:
                break
            count += 1
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        return batch

    async def _send(self, batch: list[Finish]) -> None:
        self._batches += 1
        try:
            statuses = await self._until_answered(f"{self._worker}-{self._batches}", batch)
        except Exception as error:  # noqa: BLE001 - one finish that cannot be sent must not take the others along
            if len(batch) > 1 and not self._give_up:
                for finish in batch:
                    await self._send([finish])
                return
            logger.error(  # noqa: TRY400 - the store's error is known, its traceback tells nothing
                "%d finished jobs could not be recorded (%s); they will run again",
                len(batch),
                type(error).__name__,
            )
            statuses = [FinishStatus.LOST] * len(batch)
        self._settle(batch, statuses)

    async def _until_answered(self, nonce: str, batch: list[Finish]) -> list[FinishStatus]:
        attempt = 0
        while True:
            attempt += 1
            before = time.perf_counter()
            try:
                statuses = await self._store.finish(self._worker, nonce, batch)
            except StoreError as error:
                self._observer.store_error("finish")
                if self._give_up or not isinstance(error, _PASSING):
                    raise
                if not self.troubled:
                    logger.warning("cannot record finished jobs (%s); trying again", type(error).__name__)
                self.troubled = True
                await asyncio.sleep(_RETRY.delay(attempt))
            else:
                self.troubled = False
                self._observer.recorded(len(batch), time.perf_counter() - before)
                return statuses

    def _settle(self, batch: list[Finish], statuses: Sequence[FinishStatus]) -> None:
        if self._told:
            for finish, status in zip(batch, statuses, strict=True):
                future = self._told.pop(finish.claim.token, None)
                if future is not None:
                    _tell(future, status)
        fenced = statuses.count(FinishStatus.FENCED)
        if fenced:
            logger.warning("%d finishes refused: their jobs were taken over after a lapsed lease", fenced)
        unburied = statuses.count(FinishStatus.UNBURIED)
        if unburied:
            logger.error("%d dead letters refused: has the user a right to aioinfra:dead*?", unburied)
        self.on_settled([finish.claim for finish in batch])


def _tell(future: asyncio.Future[FinishStatus], status: FinishStatus) -> None:
    if not future.done():
        future.set_result(status)
