"""Which jobs to take next: the queues' weights turned into shares of each claim call.

Weights are met exactly over time by smooth weighted round-robin (as in nginx's upstream balancer): each turn
every queue gains its weight in credit, the richest queue is picked and pays the sum of all weights. The credit
carries over from call to call, so that a worker that has one free slot at a time is as fair as one with many.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from aioinfra.errors import InvalidArgument, StoreError, StoreUnavailable
from aioinfra.jobs.job import ClaimReply
from aioinfra.jobs.store import ClaimRequest, JobStore, Share


def check_queue_name(argument: str, queue: object) -> None:
    """Raise InvalidArgument unless ``queue`` can be the key of a queue."""
    try:
        usable = isinstance(queue, str) and bool(queue.encode())
    except UnicodeEncodeError:
        usable = False
    if not usable:
        raise InvalidArgument(argument, "queue names must be non-empty strings of valid Unicode")


@dataclass(frozen=True, slots=True)
class QueueOptions:
    """The queues that a worker serves.

    Attributes:
        weights: name to weight (at least 1); under backlog, starts are in proportion to the weights.
        limits: name to the most jobs of that queue which run here at once.
        strict: serve a queue only while all queues of a higher weight are empty.
    """

    weights: Mapping[str, int]
    limits: Mapping[str, int] = field(default_factory=dict)
    strict: bool = False

    def __post_init__(self) -> None:
        if not self.weights:
            raise InvalidArgument("weights", "must name at least one queue")
        for argument, numbers in (("weights", self.weights), ("limits", self.limits)):
            for queue, number in numbers.items():
                check_queue_name(argument, queue)
                if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                    raise InvalidArgument(
                        argument, f"the number of queue {queue!r} must be whole and at least 1"
                    )
        unknown = set(self.limits) - set(self.weights)
        if unknown:
            raise InvalidArgument("limits", f"names queues that are not served: {', '.join(sorted(unknown))}")


class WeightedShares:
    """Turns free slots into shares. Its credit is the only state."""

    def __init__(self, options: QueueOptions) -> None:
        self._weights = dict(sorted(options.weights.items(), key=lambda item: -item[1]))
        self._total = sum(self._weights.values())
        self._credit = dict.fromkeys(self._weights, 0)
        self._limits = options.limits
        self._strict = options.strict

    def of(self, free: int, running: Mapping[str, int]) -> tuple[Share, ...]:
        """Shares of ``free`` slots, most urgent queue first, given how many jobs of each queue run here."""
        limits = {
            queue: max(0, min(free, self._limits.get(queue, free) - running.get(queue, 0)))
            if queue in self._limits
            else free
            for queue in self._weights
        }
        if self._strict or len(self._weights) == 1:
            return tuple(Share(queue, limits[queue], limits[queue]) for queue in self._weights)
        shares = self._turns(free)
        return tuple(
            Share(queue, min(shares[queue], limits[queue]), limits[queue]) for queue in self._weights
        )

    def _turns(self, free: int) -> dict[str, int]:
        """How ``free`` picks of the round-robin fall; whole rounds need no turns of their own."""
        rounds, rest = divmod(free, self._total)
        shares = {queue: rounds * weight for queue, weight in self._weights.items()}
        credit = self._credit
        for _ in range(rest):
            for queue, weight in self._weights.items():
                credit[queue] += weight
            picked = max(credit, key=credit.__getitem__)
            credit[picked] -= self._total
            shares[picked] += 1
        return shares


class Claimer:
    """Asks the store for jobs. One claim call at a time; owned by the worker's loop."""

    def __init__(self, store: JobStore, queues: QueueOptions, *, lease: float, aborts: bool = False) -> None:
        self._store = store
        self._shares = WeightedShares(queues)
        self._lease = lease
        self._aborts = aborts
        self.has_limits = bool(queues.limits)
        self._worker = uuid.uuid4().hex[:12]
        self._calls = 0
        self._unanswered: ClaimRequest | None = None

    async def claim(self, free: int, running: Mapping[str, int], *, sizes: bool) -> ClaimReply:
        """Take up to ``free`` jobs. One round trip. Raises StoreError.

        After a lost reply the same request is made again, whatever is asked for: it may have taken jobs.
        """
        request = self._unanswered or self._next_request(free, running, sizes=sizes)
        self._unanswered = replace(request, repeated=True)
        try:
            reply = await self._store.claim(request)
        except StoreUnavailable as error:
            if not error.sent and not request.repeated:
                self._unanswered = None
            raise
        except StoreError:  # the server's answer: nothing was taken
            self._unanswered = None
            raise
        self._unanswered = None
        return reply

    def _next_request(self, free: int, running: Mapping[str, int], *, sizes: bool) -> ClaimRequest:
        self._calls += 1
        return ClaimRequest(
            shares=self._shares.of(free, running),
            free=free,
            worker=self._worker,
            token=f"{self._worker}-{self._calls}",
            lease=self._lease,
            sizes=sizes,
            aborts=self._aborts,
        )
