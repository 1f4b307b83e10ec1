"""What a cache can be told beside its constructor's plain arguments, and what it tells about its health."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

from aioinfra.cache.redis_store import RedisStoreOptions
from aioinfra.codec.bounds import check_whole
from aioinfra.codec.codec import Codec
from aioinfra.codec.envelope import EnvelopeOptions
from aioinfra.codec.json import JsonCodec
from aioinfra.codec.msgpack import MsgpackCodec
from aioinfra.codec.pickle import SignedPickle, SigningKey
from aioinfra.connection.pool import PoolFigures
from aioinfra.errors import InvalidArgument

DEFAULT_NAMESPACE: Final = "aioinfra:cache:"
Serialization = Literal["json", "pickle", "msgpack"]


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
    """

    memory_bytes: int = 64 << 20
    envelope: EnvelopeOptions = field(default_factory=EnvelopeOptions)
    redis: RedisStoreOptions = field(default_factory=RedisStoreOptions)
    fallback: bool = True
    max_remembered: int = 100_000

    def __post_init__(self) -> None:
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
        entries: in memory.
        pool: the connections.
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
