"""What a worker and its process children say to each other, and how it is framed.

    worker -> child     Hello once, then a Call at a time
    child  -> worker    Ready once; for each call any number of Progressed, then Returned or Raised

A frame is its length in four bytes, big-endian, and MessagePack. Arguments and results are JSON inside it, as in
the store: nothing is pickled, and neither side runs what the other one sends.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import msgspec

from aioinfra.errors import PayloadTooLarge
from aioinfra.jobs.job import ErrorRecord
from aioinfra.jobs.payload import MAX_PAYLOAD

LENGTH = struct.Struct(">I")
MAX_MESSAGE = MAX_PAYLOAD + (1 << 20)
"""Largest frame, bytes: a payload, and what stands beside it."""


class ChildSetup(msgspec.Struct, frozen=True):
    """What a child does before its first job, such as setting up logging.

    Attributes:
        target: ``package.module:function``; what it returns is flushed after each job if it has a ``flush``.
        arguments: by name; plain values.
    """

    target: str
    arguments: dict[str, Any] = {}


class Hello(msgspec.Struct, tag="hello", frozen=True):
    """How the child finds the tasks, and makes itself ready."""

    path: list[str]
    modules: list[str]
    setup: ChildSetup | None


class Call(msgspec.Struct, tag="call", frozen=True):
    """One job. ``args`` and ``kwargs`` are JSON; ``soft`` is the soft limit in seconds, or None."""

    target: str
    name: str
    job_id: str
    queue: str
    attempt: int
    stalls: int
    enqueued_ms: int
    headers: dict[str, str]
    context: dict[str, str | int | float | bool]
    args: bytes
    kwargs: bytes
    soft: float | None
    wants_result: bool

    def __repr__(self) -> str:  # arguments may be secrets
        return f"<Call of {self.name}, {len(self.args) + len(self.kwargs)} bytes>"


class Ready(msgspec.Struct, tag="ready", frozen=True):
    """The child waits for its first call."""


class Progressed(msgspec.Struct, tag="progressed", frozen=True):
    """The job has said how far it is."""

    done: float
    total: float | None
    message: str


class Returned(msgspec.Struct, tag="returned", frozen=True):
    """The task returned; ``result`` is an encoded result, which says whether the value could be encoded."""

    result: bytes


class Raised(msgspec.Struct, tag="raised", frozen=True):
    """The task raised, and its policy has judged: again in ``retry_in`` seconds, or not when that is None.

    ``error`` is None for a plain Retry. ``judged`` is False where the child has found no task but a function.
    """

    error: ErrorRecord | None
    retry_in: float | None = None
    reason: str = "failed"
    judged: bool = True


Request = Hello | Call
Answer = Ready | Progressed | Returned | Raised

_encoder = msgspec.msgpack.Encoder()
decode_request: Callable[[bytes], Request] = msgspec.msgpack.Decoder(Request).decode
decode_answer: Callable[[bytes], Answer] = msgspec.msgpack.Decoder(Answer).decode


def frame(message: Request | Answer) -> bytes:
    """A message with its length.

    Raises:
        PayloadTooLarge: it has more than `MAX_MESSAGE` bytes.
    """
    body = _encoder.encode(message)
    if len(body) > MAX_MESSAGE:
        raise PayloadTooLarge(f"a message of {len(body)} bytes, {MAX_MESSAGE} are allowed")
    return LENGTH.pack(len(body)) + body


def length_of(header: bytes) -> int:
    """The length that a frame's first bytes announce.

    Raises:
        PayloadTooLarge: more than `MAX_MESSAGE`.
    """
    length: int = LENGTH.unpack(header)[0]
    if length > MAX_MESSAGE:
        raise PayloadTooLarge(f"a message of {length} bytes, {MAX_MESSAGE} are allowed")
    return length
