"""Pickle, signed. Opt-in: for trusted processes that share a secret and need types no other codec has.

Unpickling runs code, so bytes are unpickled only after their HMAC-SHA256 (RFC 2104) is found to be made
with one of our keys. Layout: 32 bytes of HMAC, then the pickle. The first key signs, every key verifies, so a
key is rotated by putting the new one first and dropping the old one after the longest TTL.
"""

from __future__ import annotations

import hmac
import pickle
from collections.abc import Sequence
from typing import Any, Final

from aioinfra.codec.codec import SIGNED_PICKLE, decode_error, encode_error
from aioinfra.errors import InvalidArgument, UntrustedPayload

LEAST_KEY_BYTES: Final = 16
_TAG_BYTES: Final = 32
_PURPOSE: Final = b"aioinfra signed pickle 1"

SigningKey = str | bytes | Sequence[str | bytes]


class SignedPickle:
    """Values as HMAC-SHA256 plus pickle (protocol 5)."""

    __slots__ = ("_keys",)

    id = SIGNED_PICKLE
    name = "pickle"

    def __init__(self, signing_key: SigningKey) -> None:
        """``signing_key``: one secret or several, newest first; at least 16 bytes each.

        Raises:
            InvalidArgument: no key, or a short one.
        """
        given = [signing_key] if isinstance(signing_key, str | bytes) else list(signing_key)
        if not given:
            raise InvalidArgument("signing_key", "at least one key is needed")
        # A key for this purpose alone: a signature made elsewhere with the same secret is worth nothing here.
        self._keys = [hmac.digest(_checked(key), _PURPOSE, "sha256") for key in given]

    def encode(self, value: Any) -> bytes:
        """Signed bytes.

        Raises:
            EncodeError: the value cannot be pickled.
        """
        try:
            body = pickle.dumps(value, protocol=5)
        except Exception as error:  # noqa: BLE001 - __reduce__ and __getstate__ are user code
            raise encode_error(self.name, error) from None
        return hmac.digest(self._keys[0], body, "sha256") + body

    def decode(self, payload: bytes) -> Any:
        """The value.

        Raises:
            UntrustedPayload: not signed with one of the keys; nothing was unpickled.
            DecodeError: signed, but it cannot be unpickled here (a class has moved).
        """
        tag, body = payload[:_TAG_BYTES], payload[_TAG_BYTES:]
        if not any(hmac.compare_digest(hmac.digest(key, body, "sha256"), tag) for key in self._keys):
            raise UntrustedPayload("a pickle that is unsigned, tampered with or signed with an unknown key")
        try:
            return pickle.loads(body)  # noqa: S301 - the HMAC proves that we wrote it
        except Exception as error:  # noqa: BLE001 - __setstate__ is user code
            raise decode_error(self.name, error) from None

    def typed(self, annotation: Any) -> SignedPickle:  # noqa: ARG002 - pickle keeps every type by itself
        """Itself: pickle keeps types without an annotation."""
        return self


def _checked(key: object) -> bytes:
    if isinstance(key, str):
        key = key.encode("utf-8", "surrogatepass")
    if not isinstance(key, bytes) or len(key) < LEAST_KEY_BYTES:
        raise InvalidArgument(
            "signing_key", f"each key must be text or bytes of at least {LEAST_KEY_BYTES} bytes"
        )
    return key
