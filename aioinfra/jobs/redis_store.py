"""Jobs in Redis or Valkey, on arq's key layout; every change is one Lua script (see scripts/).

Arguments of the scripts are built in flat lists by hand: this is the engine's hot path, and the lists are what
goes over the wire.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, Final

import redis as blocking_redis

from aioinfra.clock import Clock, ServerClock
from aioinfra.connection.pool import RedisClient, Script, translate
from aioinfra.errors import InvalidArgument, StoreError
from aioinfra.jobs.job import Claim, ClaimReply, Finish, JobStatus, QueueDepth, StoredRequest
from aioinfra.jobs.store import AbortAnswer, Added, ClaimRequest, FinishStatus

RESULT_PREFIX = "arq:result:"
IN_PROGRESS_PREFIX = "arq:in-progress:"
PROGRESS_PREFIX = "aioinfra:progress:"
DEAD_PREFIX = "aioinfra:dead:"
DEAD_LETTER_PREFIX = "aioinfra:dead-letter:"
RECEIPT_PREFIX = "aioinfra:finished:"
CLAIMED_PREFIX = "aioinfra:claimed:"
PAUSED_KEY = "aioinfra:paused"
ABORTS_KEY = "arq:abort"


def server_clock() -> int:
    """The scripts' ``now`` when the server's own clock is to be used."""
    return 0


def script_time(clock: Clock) -> Callable[[], int]:
    """What tells scripts the time: the server's own clock, unless a virtual one rules it."""
    return clock.server_ms if isinstance(clock, ServerClock) else server_clock


_LOOK_LIMIT = 2_000
_DEPTH_LOOK = 1_000
_DEAD_KEPT = 10_000
_DEAD_TTL = 30 * 86_400
_PROGRESS_TTL = 86_400


@cache
def script(name: str) -> Script:
    """A script of the engine by name, read once per process."""
    return Script(name, files("aioinfra.jobs").joinpath("scripts", f"{name}.lua").read_text(encoding="utf-8"))


def job_id_bytes(job_id: str) -> bytes:
    """The id as stored. Ids that are not UTF-8 came in as lone surrogates and go out as they were."""
    return job_id.encode("utf-8", "surrogateescape")


def _key(prefix: str, job_id: str) -> bytes:
    return prefix.encode() + job_id_bytes(job_id)


class RedisJobStore:
    """`JobStore` on one server.

    Args:
        client: the pool to use; owned by the caller.
        now_ms: tells the scripts the time, unix milliseconds; the server's own clock unless a virtual one rules.

    Raises:
        InvalidArgument: the client is of a Cluster.
    """

    def __init__(self, client: RedisClient, *, now_ms: Callable[[], int] = server_clock) -> None:
        if client.hash_tag is not None:
            raise InvalidArgument("client", "jobs do not run on a Cluster: their keys lie in many slots")
        self._client = client
        self._now = now_ms

    async def add(self, requests: Sequence[StoredRequest], *, repeated: bool, deadline: float) -> list[Added]:
        queues: dict[str, int] = {}
        args: list[str | bytes | int] = [self._now(), int(repeated)]
        common: tuple[Any, ...] | None = None
        length = 0  # where the length of the run stands
        for queue, job_id, chosen, due, offset, lives, nonce, payload in requests:
            this = (queue, chosen, due, offset, lives)
            if this != common:
                common, length = this, len(args)
                args += (0, queues.setdefault(queue, len(queues) + 1), int(chosen))
                args += ("" if due is None else due, offset, lives)
            args[length] += 1  # type: ignore[operator]  # a number stands there
            args += (job_id, payload, nonce) if chosen else (job_id, payload)
        reply: bytes = await self._client.run_script(script("add"), list(queues), args, deadline)
        if reply.count(_STORED) == len(requests):
            return [Added.STORED] * len(requests)
        return [Added(number - _ZERO) for number in reply]

    async def claim(self, request: ClaimRequest) -> ClaimReply:
        keys = [share.queue for share in request.shares]
        args: list[str | int] = [
            self._now(),
            int(request.lease * 1000),
            request.token,
            request.free,
            _LOOK_LIMIT,
            int(request.sizes),
            int(request.aborts),
            CLAIMED_PREFIX + request.worker,
            int(request.repeated),
        ]
        for _, share, limit in request.shares:
            args += (share, limit)
        reply = await self._client.run_script(script("claim"), keys, args)
        try:
            now, next_due, sizes, wrong, flat, paused = reply
            if type(now) is not int or type(next_due) is not int:
                raise TypeError("times are whole numbers")
            return ClaimReply(
                claims=_claims(keys, request.token, now, flat),
                next_due_ms=None if next_due < 0 else max(0, next_due - now),
                sizes={queue: size for queue, size in zip(keys, sizes, strict=False) if size >= 0},
                wrong=tuple(keys[index - 1] for index in wrong),
                paused=tuple(keys[index - 1] for index in paused),
            )
        except (TypeError, ValueError, AttributeError, IndexError) as error:
            raise StoreError(
                f"the server's answer to a claim has another form ({type(error).__name__})"
            ) from None

    async def begin(self, claim: Claim) -> None:
        await self._client.run_script(script("begin"), [], [job_id_bytes(claim.job_id), claim.token])

    async def finish(self, worker: str, nonce: str, finishes: Sequence[Finish]) -> list[FinishStatus]:
        args: list[str | bytes | int] = [self._now(), nonce, _DEAD_KEPT, _DEAD_TTL]
        for claim, action, result, ttl, number, reply_to, record in finishes:
            args += (claim.queue, job_id_bytes(claim.job_id), claim.token, action.value)
            args += (result, ttl, number, reply_to, record)
        reply: bytes = await self._client.run_script(script("finish"), [RECEIPT_PREFIX + worker], args)
        return [_LETTERS[letter] for letter in reply]

    async def result(self, job_id: str) -> bytes | None:
        value: bytes | None = await self._client.execute("GET", _key(RESULT_PREFIX, job_id))
        return value

    async def status(self, queue: str, job_id: str) -> tuple[JobStatus, bytes | None]:
        replies = await self._client.pipeline(
            [
                ("GET", _key(RESULT_PREFIX, job_id)),
                ("EXISTS", _key(IN_PROGRESS_PREFIX, job_id)),
                ("ZSCORE", queue, job_id_bytes(job_id)),
                ("TIME",),
            ]
        )
        for reply in replies:
            if isinstance(reply, StoreError):
                raise reply
        result, running, score, (seconds, microseconds) = replies
        if result is not None:
            return JobStatus.SUCCEEDED, result
        if score is None:
            return JobStatus.NOT_FOUND, None
        if running:
            return JobStatus.RUNNING, None
        due = float(score) <= int(seconds) * 1000 + int(microseconds) / 1000
        return JobStatus.QUEUED if due else JobStatus.DEFERRED, None

    async def depths(self, queues: Sequence[str]) -> dict[str, QueueDepth]:
        if not queues:
            return {}
        reply = await self._client.run_script(script("depths"), list(queues), [self._now(), _DEPTH_LOOK])
        counts = zip(queues, reply[::3], reply[1::3], reply[2::3], strict=True)
        return {
            queue: QueueDepth(due, deferred, running) for queue, due, deferred, running in counts if due >= 0
        }

    async def abort(self, job_id: str, queue: str | None) -> AbortAnswer:
        args: list[str | bytes | int] = [self._now(), job_id_bytes(job_id), queue or ""]
        return AbortAnswer(await self._client.run_script(script("abort"), [ABORTS_KEY], args))

    async def set_progress(self, job_id: str, progress: bytes) -> None:
        await self._client.execute("SET", _key(PROGRESS_PREFIX, job_id), progress, "EX", _PROGRESS_TTL)

    async def progress(self, job_id: str) -> bytes | None:
        value: bytes | None = await self._client.execute("GET", _key(PROGRESS_PREFIX, job_id))
        return value


_ZERO: Final = ord("0")
_STORED: Final = b"%d" % Added.STORED
_LETTERS = {ord(status.value): status for status in FinishStatus if status.value}
_FIELDS = 5


def _claims(queues: list[str], prefix: str, now: int, flat: list[Any]) -> list[Claim]:
    """The script's flat reply as values; tokens are numbered as it numbers them."""
    claims = []
    fields = iter(flat)
    for number, (queue, job_id, score, payload, past) in enumerate(zip(*[fields] * _FIELDS, strict=True), 1):
        if not queue:
            continue
        attempt, stalls, flags = map(int, past.split()) if past else _NO_PAST
        claims.append(
            Claim(
                queues[queue - 1],
                job_id.decode("utf-8", "surrogateescape"),
                _score(score),
                attempt,
                stalls,
                flags & 1 == 1,
                f"{prefix}.{number}",
                payload,
                now,
                flags & 2 == 2,
            )
        )
    return claims


_NO_PAST = (1, 0, 0)


def _score(text: bytes) -> int:
    """A score as whole milliseconds. Foreign producers may have written fractions and infinities."""
    try:
        return int(text)
    except ValueError:
        score = float(text)
        return int(score) if math.isfinite(score) else 0


class RedisLeaseStore:
    """`LeaseStore` over a synchronous connection; used by the lease thread alone."""

    def __init__(self, connection: blocking_redis.Redis, *, now_ms: Callable[[], int] = server_clock) -> None:
        self._connection = connection
        self._now = now_ms

    def renew(self, claims: Sequence[Claim], lease: float, *, move: bool) -> list[Claim]:
        now = self._now()
        # Time that is handed in runs without the server's: the score alone tells when the lease ends.
        move = move or now != 0
        args: list[str | bytes | int] = [now, int(lease * 1000), int(move)]
        for claim in claims:
            args += (claim.queue, job_id_bytes(claim.job_id), claim.token)
        renew = script("renew")
        try:
            try:
                lost: Any = self._connection.evalsha(renew.sha, 0, *args)  # type: ignore[arg-type]  # stub wants str
            except blocking_redis.exceptions.NoScriptError:
                lost = self._connection.eval(renew.source, 0, *args)  # type: ignore[arg-type]  # stub wants str
        except (blocking_redis.RedisError, OSError) as error:
            raise translate(error) from None
        return [claims[position - 1] for position in lost]

    def close(self) -> None:
        self._connection.close()
