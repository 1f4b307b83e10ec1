"""Parts of a bulk that are handed in as one, and what their answers come to."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from aioinfra.errors import EnqueueUncertain, StoreError, StoreUnavailable
from aioinfra.jobs.job import StoredRequest

Answer = bool | BaseException
"""Whether a job is new, or why it is not stored."""

Parcel = tuple[list[StoredRequest], asyncio.Future[list[Answer]]]


async def created_of(parcels: deque[Parcel], first: int, total: int) -> list[bool]:
    """Which requests of the oldest parcel are new; it begins at request ``first`` of ``total``.

    Raises as `_without_errors`, when it is known what became of the other parcels too.
    """
    answers = await _unpack(parcels)
    if any(isinstance(answer, BaseException) for answer in answers):
        while parcels:
            answers += await _unpack(parcels)
    return _without_errors(answers, first, total)


async def _unpack(parcels: deque[Parcel]) -> list[Answer]:
    requests, answers = parcels[0]
    try:
        return await answers
    except EnqueueUncertain as error:
        return [EnqueueUncertain([stored.job_id], error.reason) for stored in requests]
    except Exception as error:  # noqa: BLE001 - each of the parcel's jobs ended with it
        return [error] * len(requests)
    finally:
        parcels.popleft()


def _without_errors(answers: Sequence[Answer], first: int, total: int) -> list[bool]:
    """The answers to a part of a bulk, which begins at request ``first`` of ``total``.

    Raises what the caller must know most, uncertain jobs before refused ones, with how many jobs are stored.
    """
    created = [answer for answer in answers if answer is True or answer is False]
    if len(created) == len(answers):
        return created
    stored = first + sum(not isinstance(answer, BaseException) for answer in answers)
    at = next(at for at, answer in enumerate(answers, first) if isinstance(answer, BaseException))
    more = f"{stored} of {total} jobs are stored; the first that failed is requests[{at}]"
    uncertain = [answer for answer in answers if isinstance(answer, EnqueueUncertain)]
    if uncertain:
        raise EnqueueUncertain([error.job_id for error in uncertain], f"{uncertain[0].reason}; {more}")
    error = answers[at - first]
    if isinstance(error, StoreUnavailable):
        raise type(error)(f"{error}; {more}", sent=False) from None
    if isinstance(error, StoreError):
        raise type(error)(f"{error}; {more}") from None
    assert isinstance(error, BaseException)  # noqa: S101 - narrows the type
    raise error
