"""MessagePack by msgspec: smaller than JSON, and it knows bytes, NaN and keys that are not text.

As with JSON, every encode reads its own output back and compares; see `aioinfra.codec.json`. Integers end at
64 bits.
"""

from __future__ import annotations

from typing import Any

import msgspec

from aioinfra.codec.bounds import check_msgpack_values
from aioinfra.codec.codec import MSGPACK, changed_error, decode_error, encode_error
from aioinfra.codec.models import Dump, Load, msgpack_adapter, names_model, restore, to_plain


class MsgpackCodec:
    """Values of one annotation as MessagePack; without one, of its plain types."""

    __slots__ = ("_dump", "_load")

    id = MSGPACK
    name = "msgpack"

    def __init__(self, annotation: Any = Any) -> None:
        self._dump, self._load = _writer_and_reader(annotation)

    def encode(self, value: Any) -> bytes:
        """MessagePack bytes. O(size), twice: they are read back and compared.

        Raises:
            EncodeError: not writable, or not equal when read back.
        """
        try:
            payload = self._dump(value)
            check_msgpack_values(payload)
            back = self._load(payload)
            same = bool(back == value) or _equal_but_for_nan(back, value)
        except Exception as error:  # noqa: BLE001 - user types run their own code here
            raise encode_error(self.name, error) from None
        if not same:
            raise changed_error(self.name)
        return payload

    def decode(self, payload: bytes) -> Any:
        """The value.

        Raises:
            PayloadTooLarge: more than `MOST_VALUES` values; nothing was decoded.
            DecodeError: not MessagePack, or not of the annotated type.
        """
        check_msgpack_values(payload)
        try:
            return self._load(payload)
        except Exception as error:  # noqa: BLE001 - user types run their own code here
            raise decode_error(self.name, error) from None

    def typed(self, annotation: Any) -> MsgpackCodec:
        """The codec for values of an annotation."""
        return self if annotation is Any else MsgpackCodec(annotation)


def _writer_and_reader(annotation: Any) -> tuple[Dump, Load]:
    if annotation is Any:
        return msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder().decode
    if not names_model(annotation):
        try:
            reader = msgspec.msgpack.Decoder(annotation, dec_hook=restore).decode
        except (TypeError, RecursionError):
            pass  # a union or class that msgspec refuses; pydantic may know it
        else:
            return msgspec.msgpack.Encoder(enc_hook=to_plain).encode, reader
    try:
        return msgpack_adapter(annotation)
    except Exception:  # noqa: BLE001 - neither library can restore it: only plain types pass the comparison
        return _writer_and_reader(Any)


def _equal_but_for_nan(left: Any, right: Any) -> bool:
    """Equality of plain containers in which NaN equals NaN."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(_equal_but_for_nan(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(_equal_but_for_nan, left, right))
    return bool(left == right) or (left != left and right != right)  # only NaN differs from itself
