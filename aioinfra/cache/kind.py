"""What is the same for all values of one function: how they are sealed, how long they live and are fresh."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from aioinfra.cache.freshness import PLAIN, Freshness
from aioinfra.cache.store import NO_EXPIRY, Ttl
from aioinfra.cache.ttl import check_ttl
from aioinfra.codec.envelope import Envelope, StoredFailureError
from aioinfra.codec.layout import Stamp, Tags
from aioinfra.errors import InvalidArgument
from aioinfra.qualified_name import qualified_name


def _is_exception(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Exception)


@dataclass(frozen=True, slots=True)
class Failures:
    """How long loads without a value are remembered.

    Attributes:
        none_ttl: seconds to live of None; None for the same as any value.
        errors: exception classes of the loader to store and raise again. An exception is rebuilt from its
            ``args``, which must be plain JSON.
        error_ttl: seconds that these live; None for the same as a value.
    """

    none_ttl: Ttl = None
    errors: tuple[type[Exception], ...] = ()
    error_ttl: Ttl = None

    def __post_init__(self) -> None:
        check_ttl(self.none_ttl, NO_EXPIRY, "none_ttl")
        check_ttl(self.error_ttl, NO_EXPIRY, "error_ttl")
        errors: object = self.errors
        if not isinstance(errors, tuple) or not all(map(_is_exception, errors)):
            raise InvalidArgument("errors", "must be a tuple of exception classes")


NO_FAILURES: Final = Failures()


class _Failed:
    """Stands for the value of a load that failed."""


FAILED: Final = _Failed()


@dataclass(frozen=True, slots=True)
class Kind:
    """What is the same for all values of one function.

    Attributes:
        envelope: how they are sealed.
        ttl: seconds that they are fresh, None for no expiry.
        none_ttl: the same for None.
        errors: exceptions of the loader that are stored and raised again; classes that their ``args`` rebuild.
        error_ttl: seconds that these live.
        freshness: what happens then, and before.
    """

    envelope: Envelope
    ttl: float | None
    none_ttl: float | None
    errors: tuple[type[Exception], ...] = ()
    error_ttl: float | None = None
    freshness: Freshness = PLAIN

    @property
    def longest(self) -> float | None:
        """Seconds that the server keeps a value at most; None for good."""
        return None if self.ttl is None else self.ttl + self.freshness.extra

    def stamp(
        self,
        value: Any,
        created: float,
        compute_time: float = 0.0,
        tags: Tags = (),
        generation: bytes | None = None,
        chance: Callable[[], float] = random.random,
    ) -> Stamp:
        """What is sealed beside a value (`FAILED` for a failure) that began to be made at ``created``."""
        if value is FAILED:
            ttl, extra = self.error_ttl, 0.0
        else:
            ttl, extra = (self.none_ttl if value is None else self.ttl), self.freshness.extra
            ttl = self.freshness.lifetime(ttl, chance)
        # Its life begins when it is there, as the server counts it.
        expires = 0.0 if ttl is None else created + compute_time + ttl
        return Stamp(created, expires, compute_time, bool(extra) and ttl is not None, tags, generation)

    def keep_for(self, stamp: Stamp) -> float | None:
        """Seconds that the server keeps what is sealed with a stamp; None for good."""
        if not stamp.expires:
            return None
        extra = self.freshness.extra if stamp.kept else 0.0
        return stamp.expires - stamp.created - stamp.compute_time + extra

    def rebuilt(self, failure: StoredFailureError) -> Exception | None:
        """The exception that was stored; None when it is not one of these, or cannot be made again."""
        for kind in self.errors:
            if class_name(kind) == failure.name:
                try:
                    return kind(*failure.arguments)
                except Exception:  # noqa: BLE001 - a constructor that takes something else than ``args``
                    return None
        return None


def class_name(kind: type) -> str:
    """What a stored failure calls its class."""
    return qualified_name(kind)
