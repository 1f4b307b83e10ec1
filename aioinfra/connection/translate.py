"""From the server's error replies and redis-py's exceptions to ours: the one place.

The first word of an error reply is its code and the only part that is trusted into a message: the rest may
repeat the command's arguments. Five texts of the general code ERR are constants and pass as they are.

    code                                        becomes           reached the data (``sent``)
    LOADING MASTERDOWN CLUSTERDOWN TRYAGAIN     StoreUnavailable  no: refused before it ran
    MOVED ASK                                   StoreUnavailable  no: another node of the Cluster has the key
    READONLY NOREPLICAS MISCONF BUSY            StoreUnavailable  no: writes are refused whole, a script at
                                                                  its first write
    ERR max number of clients reached           StoreUnavailable  no
    OOM                                         StoreFull         no
    NOAUTH WRONGPASS NOPERM DENIED, ERR on AUTH StoreDenied       no
    WRONGTYPE                                   WrongType         no; a script may have written before it
    NOSCRIPT and any other                      ReplyError        unknown: it says what the code says

    connection refused, or lost while opening   StoreUnavailable  no
    no free connection                          PoolExhausted     no
    connection lost later, broken protocol      StoreUnavailable  perhaps
    no answer in time                           DeadlineExceeded  perhaps (no, while opening)

Codes: Redis server sources (server.c ``createSharedObjects``), Redis Cluster specification.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from typing import Final

import redis.exceptions as theirs

from aioinfra.errors import (
    DeadlineExceeded,
    PoolExhausted,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
    WrongType,
)

_UNAVAILABLE: Final = {
    "LOADING": "the server is loading its data",
    "MASTERDOWN": "the replica has lost its primary",
    "CLUSTERDOWN": "the cluster does not serve this slot",
    "TRYAGAIN": "the slot is being moved",
    "MOVED": "another node of the cluster serves this slot; follow it with redis+cluster://host,host/<hash tag>",
    "ASK": "the slot is being moved",
    "READONLY": "the server is a read-only replica",
    "NOREPLICAS": "the primary has too few replicas to accept writes",
    "MISCONF": "the server cannot persist and refuses writes",
    "BUSY": "the server is busy with a script",
}
_DENIED: Final = {
    "NOAUTH": "the server asks for credentials",
    "WRONGPASS": "the server refused the credentials",
    "NOPERM": "the user has no permission for this",
    "DENIED": "the server is in protected mode",
}
_ERR_ON_AUTH: Final = ("AUTH <password> called without", "Client sent AUTH", "invalid password")
_MAX_CLIENTS: Final = "max number of clients reached"
TURNED_AWAY: Final = "ERR: the server accepts no more clients"
"""What StoreUnavailable says when the server, at its limit, has closed a new connection without reading."""
_CONSTANT_TEXTS: Final = frozenset(
    {
        "value is not an integer or out of range",
        "value is not a valid float",
        "increment or decrement would overflow",
        "syntax error",
        "DB index is out of range",
    }
)
_CODE_LENGTH: Final = 40


class ReplyError(StoreError):
    """The server answered with an error that has no class of its own.

    ``code`` is the first word of the answer: ``NOSCRIPT``, ``ERR``, or what a script's
    ``redis.error_reply('STALE ...')`` began with.
    """

    def __init__(self, code: str, text: str | None = None) -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text

    def __str__(self) -> str:
        return f"the server answered {self.code}" + (f": {self.text}" if self.text else "")


def reply_error(reply: str) -> StoreError:
    """Ours for one error reply, without its leading ``-``."""
    code, _, text = reply.partition(" ")
    if code in _UNAVAILABLE:
        return StoreUnavailable(f"{code}: {_UNAVAILABLE[code]}", sent=False)
    if code in _DENIED:
        return StoreDenied(f"{code}: {_DENIED[code]}")
    if code == "OOM":
        return StoreFull("OOM: the server is out of memory and may not evict")
    if code == "WRONGTYPE":
        return WrongType("WRONGTYPE: the key holds a value of another type")
    if code == "ERR":
        return _general_error(text)
    # A code is a short word of capitals; anything else may be data, so it is not repeated.
    return ReplyError(code if code.isupper() and len(code) <= _CODE_LENGTH else "ERR")


def _general_error(text: str) -> StoreError:
    if text.startswith(_ERR_ON_AUTH):
        return StoreDenied("ERR: the server refused the credentials")
    if text.startswith(_MAX_CLIENTS):
        return StoreUnavailable(TURNED_AWAY, sent=False)
    return ReplyError("ERR", text if text in _CONSTANT_TEXTS else None)


def open_error(error: BaseException, location: str) -> StoreError:
    """Ours for a failure while opening a connection to ``location``: nothing of a command was sent."""
    if isinstance(error, TimeoutError | asyncio.TimeoutError | theirs.TimeoutError):
        return DeadlineExceeded(f"{location}: not connected in time", sent=False)
    if isinstance(error, StoreUnavailable):
        return StoreUnavailable(f"{location}: {error}", sent=False)
    if isinstance(error, StoreError):
        return error
    if isinstance(error, OSError):
        return StoreUnavailable(f"{location}: {_reason(error)}", sent=False)
    return translate(error)


def translate(error: BaseException) -> StoreError:
    """Ours for an exception of redis-py, hiredis or the socket; one of ours comes back as it is.

    The result carries no cause: theirs can hold a command's arguments. Raise it ``from None``.
    """
    if isinstance(error, StoreError):
        return error
    if isinstance(error, theirs.RedisError):
        return _from_redis(error)
    if isinstance(error, TimeoutError | asyncio.TimeoutError):
        return DeadlineExceeded("no answer in time")
    if isinstance(error, OSError | EOFError):
        refused = isinstance(error, ConnectionRefusedError | FileNotFoundError)
        return StoreUnavailable(_reason(error), sent=not refused)
    return StoreError(f"unexpected {type(error).__name__}")


# redis-py strips the code of the replies that it has a class for.
_STRIPPED: Final[tuple[tuple[type[theirs.RedisError], str], ...]] = (
    (theirs.BusyLoadingError, "LOADING"),
    (theirs.OutOfMemoryError, "OOM"),
    (theirs.ReadOnlyError, "READONLY"),
    (theirs.NoPermissionError, "NOPERM"),
    (theirs.NoScriptError, "NOSCRIPT"),
    (theirs.ExecAbortError, "EXECABORT"),
    (theirs.MasterDownError, "MASTERDOWN"),
    (theirs.ClusterDownError, "CLUSTERDOWN"),
    (theirs.TryAgainError, "TRYAGAIN"),
    (theirs.AuthenticationError, "WRONGPASS"),
    (theirs.AuthorizationError, "NOPERM"),
)


def _from_redis(error: theirs.RedisError) -> StoreError:
    # A unix socket's handshake and a pipeline wrap the error that tells more.
    inner = error.args[0] if error.args and isinstance(error.args[0], theirs.RedisError) else None
    if inner is not None:
        return _from_redis(inner)
    for kind, code in _STRIPPED:
        if isinstance(error, kind):
            return reply_error(code)
    text = str(error)
    if isinstance(error, theirs.TimeoutError):
        return DeadlineExceeded("no answer in time", sent="connecting" not in text)
    if isinstance(error, theirs.ConnectionError):
        return _from_connection_error(text)
    if isinstance(error, theirs.InvalidResponse):
        return StoreUnavailable("the peer does not speak the Redis protocol")
    if isinstance(error, theirs.ResponseError):
        return _from_response_error(text)
    return StoreError(f"unexpected {type(error).__name__}")


def _from_connection_error(text: str) -> StoreError:
    if text.startswith(("No connection available", "Too many connections")):
        return PoolExhausted("no free connection", sent=False)
    if text.startswith(_MAX_CLIENTS):
        return reply_error(f"ERR {text}")
    opening = " connecting to " in text or text.startswith("Timeout connecting")
    return StoreUnavailable("cannot connect" if opening else "the connection was lost", sent=not opening)


def _from_response_error(text: str) -> StoreError:
    # A pipeline of redis-py says "Command # 3 (SET key value) of pipeline caused error: ('WRONGTYPE ...',)".
    _, found, rest = text.rpartition("of pipeline caused error: ")
    return reply_error(rest.lstrip("('\"").rstrip(",)'\"") if found else text)


def _reason(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate refused: {error.verify_message}"
    number = getattr(error, "errno", None)
    if isinstance(number, int) and not isinstance(error, ssl.SSLError):
        return os.strerror(number)
    return f"the connection failed ({type(error).__name__})"
