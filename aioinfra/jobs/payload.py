"""How jobs and results are written: arq's dictionary, in JSON.

    job     {"t": try, "f": function, "a": args, "k": kwargs, "et": enqueued ms, "h": headers}
    result  {"t", "f", "a", "k", "et", "s": success, "r": result, "st": start ms, "ft": finish ms, "q": queue,
             "id": job id, "h": headers}

``h`` is ours; arq ignores it. Arguments stay raw bytes until a task wants them, and a result repeats them without
encoding them again. A failure's ``r`` is {"type", "message", "traceback"}.

A payload that is not JSON is refused by its first byte: pickle is never loaded here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from functools import lru_cache
from types import NoneType, UnionType
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from aioinfra.codec.bounds import check_json_values
from aioinfra.codec.faithful import faithful, text_keys
from aioinfra.codec.models import is_model, to_json
from aioinfra.errors import DecodeError, EncodeError, InvalidArgument, PayloadTooLarge, UntrustedPayload
from aioinfra.jobs.arguments import ArgumentPlan, restore
from aioinfra.jobs.job import NO_HEADERS, ErrorRecord, Job, Outcome, Run, Succeeded
from aioinfra.jobs.records import error_of, printable, record_of

MAX_PAYLOAD = 16 * 1024 * 1024
"""Largest encoded job or result, bytes."""

_PICKLE_PROTO = 0x80
_EMPTY_ARGS = b"[]"
_EMPTY_KWARGS = b"{}"
_SURE: Final = frozenset({str, int, float, bool, NoneType})
_CONTAINERS: Final = frozenset({dict, list, tuple, set, frozenset})


class ResultInfo(NamedTuple):
    """A decoded result. Its repr leaves the value out: it may be secret.

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

    def __repr__(self) -> str:
        end = "succeeded" if self.success else "failed"
        kind = type(self.value).__qualname__
        return (
            f"<ResultInfo {self.function} {self.job_id} on {self.queue}: {end}, try {self.attempt}, a {kind}>"
        )


class JobCodec(Protocol):
    """Bytes to values and back. Implementations: `JsonCodec` here, arq's serialisers in the adapter.

    Headers appear in the encoded job as they are, so that a nonce among them can be found in the bytes.
    """

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
        """The result, and whether it could be encoded as it is (else it is a failure that says so).

        Never raises. Empty when not even the failure could be encoded.
        """
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


_encoder = msgspec.json.Encoder(enc_hook=to_json)
_decode_job = msgspec.json.Decoder(_WireJob).decode
_decode_result = msgspec.json.Decoder(_WireResult).decode
_decode_args = msgspec.json.Decoder(tuple[Any, ...]).decode
_decode_kwargs = msgspec.json.Decoder(dict[str, Any]).decode


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
            # msgspec writes NaN and infinities as null; beside the try counter's own null that is worth a look.
            if payload.count(b"null") > 1 and (_holds_nan(args) or _holds_nan(kwargs)):
                raise _blame(function, args, kwargs)
        except EncodeError:
            raise
        except Exception as error:
            raise _blame(function, args, kwargs) from error
        if len(payload) > self.max_bytes:
            raise InvalidArgument(
                function, f"the encoded job has {len(payload)} bytes, {self.max_bytes} are allowed"
            )
        try:
            check_json_values(payload)
        except PayloadTooLarge as error:
            raise EncodeError(function, str(error)) from None
        return payload

    def decode_job(self, payload: bytes) -> Job:
        if len(payload) > self.max_bytes:
            raise PayloadTooLarge(f"a job of {len(payload)} bytes, {self.max_bytes} are allowed")
        if payload[:1] == b"\x80":
            raise UntrustedPayload("a pickle; this worker reads JSON only")
        check_json_values(payload)
        try:
            wire = _decode_job(payload)
            raw_args, raw_kwargs = bytes(wire.a), bytes(wire.k)
            args = () if raw_args == _EMPTY_ARGS else _decode_args(raw_args)
            kwargs = {} if raw_kwargs == _EMPTY_KWARGS else _decode_kwargs(raw_kwargs)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            raise DecodeError("not a job in JSON") from None
        return Job(wire.f, args, kwargs, wire.et, wire.t, wire.h or NO_HEADERS, (wire.a, wire.k))

    def encode_result(self, run: Run, outcome: Outcome) -> tuple[bytes, bool]:
        value = outcome.value if isinstance(outcome, Succeeded) else error_of(outcome)
        try:
            payload = _encoder.encode(_wire_result(run, isinstance(outcome, Succeeded), value))
            if value is not None and b"null" in payload and _holds_nan(value):
                raise ValueError("NaN")
            if len(payload) <= self.max_bytes:
                check_json_values(payload)
                return payload, True
            reason = f"the encoded result has {len(payload)} bytes, {self.max_bytes} are allowed"
        except Exception as error:  # noqa: BLE001 - a result of any type at all; the job must end in any case
            reason = f"a result of type {type(value).__qualname__} cannot be encoded ({type(error).__name__})"
        record = ErrorRecord("aioinfra.errors.EncodeError", reason)
        return _encoder.encode(_wire_result(run, False, record)), False

    def decode_result(self, payload: bytes) -> ResultInfo:
        if payload[:1] == b"\x80":
            raise UntrustedPayload("a pickle; this client reads JSON only")
        check_json_values(payload)
        try:
            wire = _decode_result(payload)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            raise DecodeError("not a result in JSON") from None
        value = wire.r if wire.s else record_of(wire.r)
        return ResultInfo(wire.s, value, wire.f, wire.t, wire.et, wire.st, wire.ft, wire.q, wire.id)


def _wire_result(run: Run, success: bool, value: Any) -> _WireResult:
    claim, job = run.claim, run.job
    args, kwargs = job.raw or (job.args, job.kwargs)
    return _WireResult(
        claim.attempt, job.function, args, kwargs, job.enqueued_ms, success, value, run.started_ms,
        run.finished_ms, claim.queue, printable(claim.job_id), job.headers or None,
    )  # fmt: skip


def check_restored(args: tuple[Any, ...], kwargs: Mapping[str, Any], plan: ArgumentPlan | None) -> None:
    """Refuse arguments that the task would be handed as something else, by value or by type.

    What has no annotation arrives as JSON has it; only dict keys that are not text are refused there. Scalars and
    models cost nothing here; everything else is written and read once more, and compared.

    Raises:
        EncodeError: names the argument.
    """
    if plan is not None:
        if not kwargs and len(args) <= len(plan.positional):
            for value, (name, wanted) in zip(args, plan.positional, strict=False):
                if not ((type(value) is wanted and wanted in _SURE) or _is_sure(type(value), wanted)):
                    _check_one(name, value, wanted)
            return
        named = plan.wanted(args, kwargs)
    else:
        named = ((name, value, Any) for name, value in _named(args, kwargs))
    for name, value, wanted in named:
        if not _is_sure(type(value), wanted):
            _check_one(name, value, wanted)


def check_result(value: Any, returns: Any) -> None:
    """As `check_restored`, for what a task returned.

    Raises:
        EncodeError: it would arrive as something else.
    """
    if not _is_sure(type(value), returns):
        _check_one("result", value, returns)


def _is_sure(kind: type, wanted: Any) -> bool:
    """Whether a value of a type is known to come back as it is: told without looking at the value."""
    if wanted is kind:
        return kind in _SURE or hasattr(
            kind, "model_validate_json"
        )  # a model was compared when it was written
    if wanted is Any or wanted is object:
        return kind not in _CONTAINERS
    return kind in _sure_kinds(wanted) if type(wanted) is UnionType else False


@lru_cache(maxsize=4_096)
def _sure_kinds(union: UnionType) -> frozenset[Any]:
    """The types of a union of nothing but scalars, which JSON keeps apart."""
    kinds = frozenset(union.__args__)
    return kinds if kinds <= _SURE else frozenset()


def _check_one(name: str, value: Any, wanted: Any) -> None:
    reason = "its annotation does not restore it: it would arrive as another value, or of another type"
    try:
        back = restore(msgspec.json.decode(_encoder.encode(value)), name, wanted)
        if faithful(value, back, wanted):
            return
        if not text_keys(value):
            reason = "holds dict keys that are not text, and no annotation that restores them is known"
    except RecursionError:
        reason = "nested too deeply"
    except Exception as error:  # noqa: BLE001 - models' and constructors' own code; the value must not be sent
        reason = f"{reason} ({type(error).__name__})"
    raise EncodeError(name, reason)


def _named(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [*((f"args[{position}]", value) for position, value in enumerate(args)), *kwargs.items()]


def _blame(function: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> EncodeError:
    """Find the argument that cannot be encoded. Values never enter the message."""
    for name, value in _named(args, kwargs):
        try:
            _encoder.encode(value)
            if _holds_nan(value):
                return EncodeError(name, "NaN and infinities are not JSON")
        except Exception as error:  # noqa: BLE001 - an argument of any type at all
            return EncodeError(
                name, f"{type(value).__qualname__} cannot be encoded as JSON ({type(error).__name__})"
            )
    return EncodeError(function, "the arguments cannot be encoded as JSON")


def _no_nan(_: Any) -> None:
    """``enc_hook`` for models inside a dataclass."""


def _holds_nan(value: Any) -> bool:
    """Whether a value holds a float that JSON has no word for. The value was encoded, so it is finite in depth."""
    left = [value]
    while left:
        item = left.pop()
        if isinstance(item, float):
            if not math.isfinite(item):
                return True
        elif item is None or isinstance(item, str | int | bytes):
            continue
        elif isinstance(item, dict):
            left += item.values()
        elif isinstance(item, list | tuple | set | frozenset):
            left += item
        elif is_model(type(item)) and not is_dataclass(item):
            continue  # was compared with what it reads back as
        else:  # a dataclass, a struct, an enum: in the builtins that it is written as
            plain = msgspec.to_builtins(item, enc_hook=_no_nan)
            if plain is not item and type(plain) is not type(item):
                left.append(plain)
    return False
