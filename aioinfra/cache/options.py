"""What a cache can be told beside its constructor's plain arguments, and what it tells about its health."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

from aioinfra.cache.redis_store import RedisStoreOptions
from aioinfra.codec.bounds import check_number, check_whole
from aioinfra.codec.codec import Codec
from aioinfra.codec.envelope import EnvelopeOptions
from aioinfra.codec.json import JsonCodec
from aioinfra.codec.msgpack import MsgpackCodec
from aioinfra.codec.pickle import SignedPickle, SigningKey
from aioinfra.connection.pool import PoolFigures
from aioinfra.errors import InvalidArgument

DEFAULT_NAMESPACE: Final = "aioinfra:cache:"
MOST_ENTRIES: Final = 100_000_000  # in memory
MOST_MEMORY_TTL: Final = 86_400 * 366  # seconds in memory during an outage
Serialization = Literal["json", "pickle", "msgpack"]


@dataclass(frozen=True, slots=True)
class NearOptions:
    """L1: decoded values in this process.

    Attributes:
        enabled: False asks the server for every read.
        max_bytes: most bytes of values, by estimate, beside the cache's most entries.
        max_staleness: seconds. No hit is answered when the server has not confirmed for so long that nothing was
            missed.
        copy_on_read: every reader gets an object of its own, decoded anew; else readers share one object.
    """

    enabled: bool = True
    max_bytes: int = 64 << 20
    max_staleness: float = 2.0
    copy_on_read: bool = False

    def __post_init__(self) -> None:
        check_whole("max_bytes", self.max_bytes, 0, 1 << 50)
        check_number("max_staleness", self.max_staleness, 0.05, 3600)


@dataclass(frozen=True, slots=True)
class CacheOptions:
    """The rarely changed settings of a cache.

    Attributes:
        memory_bytes: most bytes of values in memory, beside the most entries.
        envelope: compression and the size bound of values.
        redis: the time budget of a call and the bounds of batches.
        fallback: whether memory answers while the server is unavailable; False raises StoreUnavailable.
        max_remembered: keys remembered during an outage to be deleted after it; beyond, the namespace is
            cleared.
        near: L1.
        lease: seconds that a process which died while it made a value keeps the others waiting; None lets each
            process make values for itself.
    """

    memory_bytes: int = 64 << 20
    envelope: EnvelopeOptions = field(default_factory=EnvelopeOptions)
    redis: RedisStoreOptions = field(default_factory=RedisStoreOptions)
    fallback: bool = True
    max_remembered: int = 100_000
    near: NearOptions = field(default_factory=NearOptions)
    lease: float | None = 5.0

    def __post_init__(self) -> None:
        if self.lease is not None:
            check_number("lease", self.lease, 0.1, 3600)
        check_whole("memory_bytes", self.memory_bytes, 0, 1 << 50)


DEFAULT_OPTIONS: Final = CacheOptions()


@dataclass(frozen=True, slots=True)
class CacheHealth:
    """The state of a cache at one moment.

    Attributes:
        status: "healthy"; "degraded" while memory answers for the server, or keeps what a full one does not
            take; "unhealthy" when nothing does.
        mode: "memory" or "redis".
        location: the server's URL without credentials.
        latency: seconds of one PING; None without an answer.
        outage_seconds: since the server was lost.
        reason: why it is not healthy; holds no values.
        remembered_keys: to be deleted when the server is back.
        entries: of the memory that answers in an outage.
        pool: the connections.
        l1: the state of L1: "off"; "on" in memory mode; else of what vouches for it: "up", or "down", "arming",
            "stale", "refused" while every read goes to the server.
        l1_entries: values in L1.
    """

    status: Literal["healthy", "degraded", "unhealthy"]
    mode: Literal["memory", "redis"]
    location: str | None = None
    latency: float | None = None
    outage_seconds: float | None = None
    reason: str | None = None
    remembered_keys: int = 0
    entries: int = 0
    pool: PoolFigures | None = None
    l1: str = "off"
    l1_entries: int = 0

    def as_dict(self) -> Mapping[str, Any]:
        """For a JSON answer."""
        return asdict(self)


def make_codec(serialization: object, signing_key: SigningKey | None) -> Codec:
    """The codec of a name.

    Raises:
        InvalidArgument: an unknown name, or pickle without a signing key.
    """
    if serialization == "json":
        return JsonCodec()
    if serialization == "msgpack":
        return MsgpackCodec()
    if serialization != "pickle":
        raise InvalidArgument("serialization", 'must be "json", "pickle" or "msgpack"')
    if signing_key is None:
        raise InvalidArgument("signing_key", "pickled values on a server must be signed: give a secret")
    return SignedPickle(signing_key)
