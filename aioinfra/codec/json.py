"""JSON by msgspec: the default, readable by every language.

JSON knows fewer types than Python, and writers bend the rest silently: NaN becomes null, a tuple a list, the
key 1 the key "1". So every encode reads its own output back and compares. At 300 bytes this adds about one
microsecond to a write and nothing to a read, and the promise needs no list of special cases.

With an annotation (`typed`) dataclasses, msgspec Structs, pydantic models, TypedDicts, named tuples,
datetimes, UUIDs, Decimals, enums, sets, tuples and bytes are restored.
"""

from __future__ import annotations

from typing import Any

import msgspec

from aioinfra.codec.bounds import check_json_values
from aioinfra.codec.codec import JSON, changed_error, decode_error, encode_error
from aioinfra.codec.models import Dump, Load, json_adapter, names_model, restore, to_json


class JsonCodec:
    """Values of one annotation as UTF-8 JSON; without one, of the plain JSON types."""

    __slots__ = ("_dump", "_load")

    id = JSON
    name = "json"

    def __init__(self, annotation: Any = Any) -> None:
        self._dump, self._load = _writer_and_reader(annotation)

    def encode(self, value: Any) -> bytes:
        """UTF-8 JSON. O(size), twice: it is read back and compared.

        Raises:
            EncodeError: not writable, or not equal when read back.
        """
        try:
            payload = self._dump(value)
            check_json_values(payload)
            same = bool(self._load(payload) == value)
        except Exception as error:  # noqa: BLE001 - user types run their own code here
            raise encode_error(self.name, error) from None
        if not same:
            raise changed_error(self.name)
        return payload

    def decode(self, payload: bytes) -> Any:
        """The value.

        Raises:
            PayloadTooLarge: more than `MOST_VALUES` values; nothing was decoded.
            DecodeError: not JSON, or not of the annotated type.
        """
        check_json_values(payload)
        try:
            return self._load(payload)
        except Exception as error:  # noqa: BLE001 - user types run their own code here
            raise decode_error(self.name, error) from None

    def typed(self, annotation: Any) -> JsonCodec:
        """The codec for values of an annotation."""
        return self if annotation is Any else JsonCodec(annotation)


def _writer_and_reader(annotation: Any) -> tuple[Dump, Load]:
    if annotation is Any:
        return msgspec.json.Encoder().encode, msgspec.json.Decoder().decode
    if not names_model(annotation):
        try:
            reader = msgspec.json.Decoder(annotation, dec_hook=restore).decode
        except (TypeError, RecursionError):
            pass  # a union or class that msgspec refuses; pydantic may know it
        else:
            return msgspec.json.Encoder(enc_hook=to_json).encode, reader
    try:
        return json_adapter(annotation)
    except Exception:  # noqa: BLE001 - neither library can restore it: only what is plain JSON passes the comparison
        return _writer_and_reader(Any)
