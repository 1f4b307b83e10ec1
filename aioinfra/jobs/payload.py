"""How jobs and results are written: arq's dictionary, in JSON.

    job     {"t": try, "f": function, "a": args, "k": kwargs, "et": enqueued ms, "h": headers}
    result  {"t", "f", "a", "k", "et", "s": success, "r": result, "st": start ms, "ft": finish ms, "q": queue,
             "id": job id, "h": headers}

``h`` is ours; arq ignores it. Arguments stay raw bytes until a task wants them, and a result repeats them without
encoding them again. A failure's ``r`` is {"type", "message", "traceback"}.

A payload that is not JSON is refused by its first byte: pickle is never loaded here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import msgspec

from aioinfra.errors import DecodeError, EncodeError, InvalidArgument, PayloadTooLarge, UntrustedPayload
from aioinfra.jobs.job import NO_HEADERS, Claim, ErrorRecord, Failed, Job, Outcome, Succeeded

MAX_PAYLOAD = 16 * 1024 * 1024
"""Largest encoded job or result, bytes."""

_PICKLE_PROTO = 0x80
_EMPTY_ARGS = b"[]"
_EMPTY_KWARGS = b"{}"


class ResultInfo(NamedTuple):
    """A decoded result.

    Attributes:
        success: whether the task returned.
        value: what it returned; for a failure an `ErrorRecord`, or whatever a foreign worker stored.
        function: name of the task.
        attempt: the try that ended it.
        enqueued_ms, started_ms, finished_ms: unix milliseconds.
        queue, job_id: where and what it was.
    """

    success: bool
    value: Any
    function: str
    attempt: int
    enqueued_ms: int
    started_ms: int
    finished_ms: int
    queue: str
    job_id: str


class Run(NamedTuple):
    """What a result says beside the outcome."""

    claim: Claim
    job: Job
    started_ms: int
    finished_ms: int


class JobCodec(Protocol):
    """Bytes to values and back. Implementations: `JsonCodec` here, arq's serialisers in the adapter."""

    def encode_job(
        self,
        function: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        enqueued_ms: int,
        headers: Mapping[str, str],
    ) -> bytes:
        """Raises EncodeError (naming the argument) or PayloadTooLarge."""
        ...

    def decode_job(self, payload: bytes) -> Job:
        """Raises DecodeError; UntrustedPayload when loading it could run code."""
        ...

    def encode_result(self, run: Run, outcome: Outcome) -> tuple[bytes, bool]:
        """The result, and whether it could be encoded as it is (else it is a failure that says so)."""
        ...

    def decode_result(self, payload: bytes) -> ResultInfo:
        """Raises DecodeError."""
        ...


class _WireJob(msgspec.Struct):
    f: str
    a: msgspec.Raw
    k: msgspec.Raw
    et: int
    t: int | None = None
    h: dict[str, str] | None = None


class _WireResult(msgspec.Struct):
    t: int
    f: str
    a: Any
    k: Any
    et: int
    s: bool
    r: Any
    st: int
    ft: int
    q: str = "<unknown>"
    id: str = "<unknown>"
    h: Mapping[str, str] | None = None


class _RawArguments(NamedTuple):
    a: msgspec.Raw
    k: msgspec.Raw


_encoder = msgspec.json.Encoder()
_job_decoder = msgspec.json.Decoder(_WireJob)
_result_decoder = msgspec.json.Decoder(_WireResult)
_decode = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True)
class JsonCodec:
    """JSON by msgspec: also dataclasses, structs, datetimes, UUIDs, decimals, sets; NaN is refused."""

    max_bytes: int = MAX_PAYLOAD

    def encode_job(
        self,
        function: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        enqueued_ms: int,
        headers: Mapping[str, str],
    ) -> bytes:
        wire = {"t": None, "f": function, "a": args, "k": kwargs, "et": enqueued_ms}
        if headers:
            wire["h"] = headers
        try:
            payload = _encoder.encode(wire)
        except (TypeError, ValueError, RecursionError) as error:
            raise _blame(function, args, kwargs) from error
        # msgspec writes NaN and infinities as null; beside the try counter's own null that is worth a look.
        if payload.count(b"null") > 1 and (_holds_nan(args) or _holds_nan(kwargs)):
            raise _blame(function, args, kwargs)
        if len(payload) > self.max_bytes:
            raise InvalidArgument(
                function, f"the encoded job has {len(payload)} bytes, {self.max_bytes} are allowed"
            )
        return payload

    def decode_job(self, payload: bytes) -> Job:
        if len(payload) > self.max_bytes:
            raise PayloadTooLarge(f"a job of {len(payload)} bytes, {self.max_bytes} are allowed")
        if payload[:1] == b"\x80":
            raise UntrustedPayload("a pickle; this worker reads JSON only")
        try:
            wire = _job_decoder.decode(payload)
            raw_args, raw_kwargs = bytes(wire.a), bytes(wire.k)
            args = () if raw_args == _EMPTY_ARGS else tuple(_decode(raw_args))
            kwargs = {} if raw_kwargs == _EMPTY_KWARGS else dict(_decode(raw_kwargs))
        except (msgspec.MsgspecError, TypeError, ValueError, RecursionError):
            raise DecodeError("not a job in JSON") from None
        return Job(wire.f, args, kwargs, wire.et, wire.t, wire.h or NO_HEADERS, _RawArguments(wire.a, wire.k))

    def encode_result(self, run: Run, outcome: Outcome) -> tuple[bytes, bool]:
        value = outcome.value if isinstance(outcome, Succeeded) else error_of(outcome)
        try:
            payload = _encoder.encode(_wire_result(run, isinstance(outcome, Succeeded), value))
            if b"null" in payload and _holds_nan(value):
                raise ValueError("NaN")
            if len(payload) <= self.max_bytes:
                return payload, True
            reason = f"the encoded result has {len(payload)} bytes, {self.max_bytes} are allowed"
        except (TypeError, ValueError, RecursionError) as error:
            reason = f"a result of type {type(value).__qualname__} cannot be encoded ({type(error).__name__})"
        record = ErrorRecord("aioinfra.errors.EncodeError", reason)
        return _encoder.encode(_wire_result(run, False, record)), False

    def decode_result(self, payload: bytes) -> ResultInfo:
        if payload[:1] == b"\x80":
            raise UntrustedPayload("a pickle; this client reads JSON only")
        try:
            wire = _result_decoder.decode(payload)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            raise DecodeError("not a result in JSON") from None
        value = wire.r if wire.s else _error_record(wire.r)
        return ResultInfo(wire.s, value, wire.f, wire.t, wire.et, wire.st, wire.ft, wire.q, wire.id)


def _wire_result(run: Run, success: bool, value: Any) -> _WireResult:
    claim, job, started, finished = run
    args, kwargs = job.raw if isinstance(job.raw, _RawArguments) else (job.args, job.kwargs)
    return _WireResult(
        claim.attempt, job.function, args, kwargs, job.enqueued_ms, success, value, started, finished,
        claim.queue, claim.job_id, job.headers or None,
    )  # fmt: skip


def _error_record(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    try:
        return msgspec.convert(value, ErrorRecord)
    except msgspec.ValidationError:
        return value


def encode_record(record: ErrorRecord) -> bytes:
    """An error record as JSON, for a dead letter."""
    return _encoder.encode(record)


def decode_record(record: bytes) -> ErrorRecord:
    """What `encode_record` wrote; junk becomes a record that says so."""
    try:
        return msgspec.json.decode(record, type=ErrorRecord)
    except msgspec.MsgspecError:
        return ErrorRecord("unknown", "the error record cannot be read")


_MESSAGE_LIMIT = 8_192
_FRAME_LIMIT = 64


def error_record(error: BaseException) -> ErrorRecord:
    """An exception as data. Never raises, also when the exception's own ``__str__`` does."""
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    try:
        message = str(error)
    except Exception as broken:  # noqa: BLE001 - the exception is a user's; its __str__ may raise anything
        message = f"<its text raised {type(broken).__name__}>"
    message = message.encode("utf-8", "backslashreplace").decode("utf-8")
    return ErrorRecord(name, message[:_MESSAGE_LIMIT], _frames(error))


def _frames(error: BaseException) -> tuple[tuple[str, int, str], ...]:
    frames = []
    step = error.__traceback__
    while step is not None:
        code = step.tb_frame.f_code
        frames.append((code.co_filename, step.tb_lineno, code.co_name))
        step = step.tb_next
    return tuple(frames[-_FRAME_LIMIT:])


def error_of(outcome: Outcome) -> ErrorRecord:
    """The error record that stands for an outcome which is not a success."""
    if isinstance(outcome, Failed):
        return error_record(outcome.error)
    return ErrorRecord("aioinfra.errors.JobAborted", "the job was aborted")


def _blame(function: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> EncodeError:
    """Find the argument that cannot be encoded. Values never enter the message."""
    named = [(f"args[{position}]", value) for position, value in enumerate(args)]
    for name, value in [*named, *kwargs.items()]:
        try:
            _encoder.encode(value)
            if _holds_nan(value):
                return EncodeError(name, "NaN and infinities are not JSON")
        except (TypeError, ValueError, RecursionError) as error:
            return EncodeError(
                name, f"{type(value).__qualname__} cannot be encoded as JSON ({type(error).__name__})"
            )
    return EncodeError(function, "the arguments cannot be encoded as JSON")


_NAN_FREE = frozenset({type(None), str, int, bool, bytes})


def _holds_nan(value: Any) -> bool:
    """Whether a value that was encoded, and so is finite in depth, holds a float that JSON has no word for."""
    kind = type(value)
    if kind is float:
        return not math.isfinite(value)
    if kind in _NAN_FREE:
        return False
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, Mapping):
        return any(_holds_nan(item) for item in value.values())
    if isinstance(value, list | tuple | set | frozenset):
        return any(_holds_nan(item) for item in value)
    if isinstance(value, msgspec.Struct) or dataclasses.is_dataclass(value):
        return _holds_nan(msgspec.structs.asdict(value) if isinstance(value, msgspec.Struct) else vars(value))
    return False
