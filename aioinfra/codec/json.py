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
from aioinfra.codec.checked import CheckedCodec
from aioinfra.codec.codec import JSON
from aioinfra.codec.models import Dump, Load, json_adapter, restore, to_json


class JsonCodec(CheckedCodec):
    """Values of one annotation as UTF-8 JSON; without one, of the plain JSON types."""

    __slots__ = ()

    id = JSON
    name = "json"
    _check_values = staticmethod(check_json_values)
    _by_pydantic = staticmethod(json_adapter)

    @staticmethod
    def _plain() -> tuple[Dump, Load]:
        return msgspec.json.Encoder().encode, msgspec.json.Decoder().decode

    @staticmethod
    def _by_msgspec(annotation: Any) -> tuple[Dump, Load]:
        reader = msgspec.json.Decoder(annotation, dec_hook=restore).decode
        return msgspec.json.Encoder(enc_hook=to_json).encode, reader
