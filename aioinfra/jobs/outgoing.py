"""Requests as the store takes them: checked and encoded before any I/O."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from aioinfra import context as correlation
from aioinfra.jobs.checks import check_is_list, check_request
from aioinfra.jobs.job import (
    NO_HEADERS,
    NONCE_HEADER,
    QUEUE_HEADER,
    REPLY_HEADER,
    JobRequest,
    StoredRequest,
)
from aioinfra.jobs.payload import JobCodec, JsonCodec, check_restored

DAY_MS = 86_400_000
PRIORITY_STEP_MS = 10_000_000_000
"""How far one step of priority moves a job ahead in its queue; 100 steps stay a positive score."""

_ID_BYTES = 16
_ID_DIGITS = 2 * _ID_BYTES
_TEXT_ALONE = {str}


class _Common(NamedTuple):
    """What requests that differ in their arguments alone have in common when they are stored."""

    queue: str
    due_ms: int | None
    offset_ms: int
    lives_ms: int
    headers: Mapping[str, str]


class RequestEncoder:
    """Makes stored requests of requests.

    Args:
        codec: how they are written.
        queue_of: where a job goes that names no queue.
        channel: where the producer hears of a job's end, or None.
    """

    def __init__(self, codec: JobCodec, queue_of: Callable[[str], str], channel: str | None) -> None:
        self._codec = codec
        self._is_json = isinstance(codec, JsonCodec)
        self._queue_of = queue_of
        self._reply = NO_HEADERS if channel is None else {REPLY_HEADER: channel}

    def one(self, request: JobRequest[Any]) -> StoredRequest:
        """Raises InvalidArgument, EncodeError."""
        headers, now = self._headers(), int(time.time() * 1000)
        check_request(request)
        common = self._common(request, headers)
        if request.job_id is None:
            return self._stored(request, common, os.urandom(_ID_BYTES).hex(), now)
        return self._chosen(request, request.job_id, common, now)

    def many(self, requests: Sequence[JobRequest[Any]]) -> list[StoredRequest]:
        """In order. Raises as `one`; all of them are looked at before any is answered."""
        check_is_list(requests)
        headers, now = self._headers(), int(time.time() * 1000)
        ids = os.urandom(_ID_BYTES * len(requests)).hex()
        stored: list[StoredRequest] = []
        last: JobRequest[Any] | None = None
        for at, request in enumerate(requests):
            if last is None or not _alike(request, last):
                check_request(request)
                common, last = self._common(request, headers), request
            if request.job_id is None:
                job_id = ids[at * _ID_DIGITS : (at + 1) * _ID_DIGITS]
                stored.append(self._stored(request, common, job_id, now))
            else:
                stored.append(self._chosen(request, request.job_id, common, now))
        return stored

    def _headers(self) -> Mapping[str, str]:
        here = correlation.current()
        request_id, parent = here.get(correlation.REQUEST_ID), here.get(correlation.TRACEPARENT)
        carried = self._reply if request_id is None else {correlation.REQUEST_ID: request_id, **self._reply}
        if parent is None or correlation.parse_traceparent(parent) is None:
            return carried
        return {**carried, correlation.TRACEPARENT: parent}  # a span's, if the enqueue is in one, replaces it

    def _common(self, request: JobRequest[Any], headers: Mapping[str, str]) -> _Common:
        due = None if request.at is None else int(request.at * 1000)
        late = 0 if request.delay is None else int(request.delay * 1000)
        # A priority moves a job that is due at once ahead of the others; a deferred one keeps its time, since
        # its score is all that keeps it from starting.
        ahead = request.priority * PRIORITY_STEP_MS if due is None and not late else 0
        lives = DAY_MS if request.expires is None else max(1, int(request.expires * 1000))
        if request.headers:
            headers = {**headers, **request.headers}
        return _Common(request.queue or self._queue_of(request.task), due, late - ahead, lives, headers)

    def _chosen(self, request: JobRequest[Any], job_id: str, common: _Common, now: int) -> StoredRequest:
        """A request whose id may be taken: a nonce tells a repeat of it from a stranger's job."""
        nonce = os.urandom(8).hex()
        headers = {**common.headers, NONCE_HEADER: nonce, QUEUE_HEADER: common.queue}
        stored = self._stored(request, common._replace(headers=headers), job_id, now)
        return stored._replace(chosen=True, nonce=nonce)

    def _stored(self, request: JobRequest[Any], common: _Common, job_id: str, now: int) -> StoredRequest:
        queue, due, offset, lives, headers = common
        args, kwargs = request.args, request.kwargs
        payload = self._codec.encode_job(request.task, args, kwargs, now, headers)
        if self._is_json and (args or kwargs):
            check_restored(args, kwargs, request.plan)
        return StoredRequest(queue, job_id, False, due, offset, lives, "", payload)


def _alike(request: JobRequest[Any], checked: JobRequest[Any]) -> bool:
    """Whether a request needs no check of its own: all but its arguments are the very objects of a checked one.

    Only what cannot change since counts: headers of its own and keyword arguments are looked at each time.
    """
    return (
        type(request) is JobRequest
        and request.task is checked.task
        and request.queue is checked.queue
        and request.job_id is None
        and checked.job_id is None
        and request.delay is checked.delay
        and request.at is checked.at
        and request.priority is checked.priority
        and request.expires is checked.expires
        and request.headers is NO_HEADERS
        and checked.headers is NO_HEADERS
        and type(request.args) is tuple
        and type(request.kwargs) is dict
        and (not request.kwargs or set(map(type, request.kwargs)) == _TEXT_ALONE)
    )
