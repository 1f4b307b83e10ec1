"""MessagePack by msgspec: smaller than JSON, and it knows bytes, NaN and keys that are not text.

As with JSON, every encode reads its own output back and compares; see `aioinfra.codec.json`. Integers end at
64 bits.
"""

from __future__ import annotations

from typing import Any

import msgspec

from aioinfra.codec.bounds import check_msgpack_values
from aioinfra.codec.checked import CheckedCodec
from aioinfra.codec.codec import MSGPACK
from aioinfra.codec.models import Dump, Load, msgpack_adapter, restore, to_plain


class MsgpackCodec(CheckedCodec):
    """Values of one annotation as MessagePack; without one, of its plain types."""

    __slots__ = ()

    id = MSGPACK
    name = "msgpack"
    _check_values = staticmethod(check_msgpack_values)
    _by_pydantic = staticmethod(msgpack_adapter)

    @staticmethod
    def _differs_by_nan(_back: Any, _value: Any) -> bool:
        return _equal_but_for_nan(_back, _value)

    @staticmethod
    def _plain() -> tuple[Dump, Load]:
        return msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder().decode

    @staticmethod
    def _by_msgspec(annotation: Any) -> tuple[Dump, Load]:
        reader = msgspec.msgpack.Decoder(annotation, dec_hook=restore).decode
        return msgspec.msgpack.Encoder(enc_hook=to_plain).encode, reader


def _equal_but_for_nan(left: Any, right: Any) -> bool:
    """Equality of plain containers in which NaN equals NaN."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(_equal_but_for_nan(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(_equal_but_for_nan, left, right))
    return bool(left == right) or (left != left and right != right)  # only NaN differs from itself
