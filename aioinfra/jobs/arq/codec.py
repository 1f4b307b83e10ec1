"""arq's own serialisers as the engine's codec."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from arq.jobs import DeserializationError, SerializationError, serialize_job, serialize_result
from arq.worker import JobExecutionFailed

from aioinfra.errors import DecodeError, EncodeError, InvalidArgument, PayloadTooLarge, UnknownTask
from aioinfra.jobs.job import NO_HEADERS, Aborted, ErrorRecord, Failed, Job, Outcome, Run, Succeeded
from aioinfra.jobs.payload import MAX_PAYLOAD, ResultInfo
from aioinfra.jobs.records import error_of, message_of
from aioinfra.jobs.run import JobExpiredError, PoisonJobError


class ArqCodec:
    """arq's own serialisers as a `JobCodec`: pickle unless the application chose others.

    Args:
        serializer, deserializer: as for `arq.Worker`; None is pickle, which runs whatever code a payload names:
            only for servers that nobody else can write to.
    """

    def __init__(
        self,
        serializer: Callable[[dict[str, Any]], bytes] | None = None,
        deserializer: Callable[[bytes], dict[str, Any]] | None = None,
    ) -> None:
        self._serializer = serializer
        self._load: Callable[[bytes], Any] = deserializer or pickle.loads

    def encode_job(
        self,
        function: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        enqueued_ms: int,
        headers: Mapping[str, str],
    ) -> bytes:
        def with_headers(data: dict[str, Any]) -> bytes:
            return (self._serializer or pickle.dumps)({**data, "h": dict(headers)} if headers else data)

        try:
            payload = serialize_job(function, args, dict(kwargs), None, enqueued_ms, serializer=with_headers)
        except SerializationError as error:
            raise EncodeError(function, "the arguments cannot be serialised") from error
        if len(payload) > MAX_PAYLOAD:
            raise InvalidArgument(
                function, f"the encoded job has {len(payload)} bytes, {MAX_PAYLOAD} are allowed"
            )
        return payload

    def decode_job(self, payload: bytes) -> Job:
        if len(payload) > MAX_PAYLOAD:
            raise PayloadTooLarge(f"a job of {len(payload)} bytes, {MAX_PAYLOAD} are allowed")
        try:
            data = self._load(payload)
            return Job(
                str(data["f"]), tuple(data["a"]), dict(data["k"]), int(data["et"]), data["t"],
                _headers(data.get("h")),
            )  # fmt: skip
        except Exception as error:
            raise DecodeError("unable to deserialize job") from error

    def encode_result(self, run: Run, outcome: Outcome) -> tuple[bytes, bool]:
        claim, job = run.claim, run.job
        value: Any = None
        if isinstance(outcome, Succeeded):
            value = outcome.value
        elif isinstance(outcome, Failed):
            value = as_arq_says(outcome.error, job)
        elif isinstance(outcome, Aborted):
            value = asyncio.CancelledError()
        data = serialize_result(
            job.function or "<unknown>", job.args, job.kwargs, claim.attempt, job.enqueued_ms,
            isinstance(outcome, Succeeded), value, run.started_ms, run.finished_ms,
            f"{claim.job_id}:{job.function}", claim.queue, claim.job_id, serializer=self._serializer,
        )  # fmt: skip
        # arq's own stand-in for what cannot be serialised is a plain failed result.
        return data or b"", True

    def decode_result(self, payload: bytes) -> ResultInfo:
        try:
            data = self._load(payload)
            value = data["r"]
            if isinstance(value, asyncio.CancelledError):
                value = error_of(Aborted())
            elif isinstance(value, BaseException):
                value = error_of(Failed(value))
            elif not data["s"]:
                value = ErrorRecord("unknown", str(value))
            return ResultInfo(
                data["s"], value, data["f"], data["t"], data["et"], data["st"], data["ft"],
                data.get("q", "<unknown>"), data.get("id", "<unknown>"),
            )  # fmt: skip
        except Exception as error:
            raise DecodeError("unable to deserialize job result") from error


def _headers(found: Any) -> Mapping[str, str]:
    """What we put beside the arguments; something else of that name is somebody else's."""
    try:
        return msgspec.convert(found, dict[str, str]) if found else NO_HEADERS
    except msgspec.ValidationError:
        return NO_HEADERS


def as_arq_says(error: BaseException, job: Job) -> BaseException:
    """The engine's errors as arq's: a plain arq client has no class of ours to load them with."""
    if isinstance(error, JobExpiredError):
        return JobExecutionFailed("job expired")
    if isinstance(error, UnknownTask):
        return JobExecutionFailed(f"function {job.function!r} not found")
    if isinstance(error, PoisonJobError):
        return JobExecutionFailed(message_of(error))
    if isinstance(error, DecodeError) and not job.function:
        return DeserializationError(message_of(error))
    return error
