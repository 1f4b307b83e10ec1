"""Pydantic models for msgspec, without importing pydantic until a model is met.

Where the annotation itself names models (``User``, ``list[User] | None``), pydantic's own TypeAdapter reads
and writes the whole. Models further inside (a field of a dataclass) pass through msgspec's hooks.

Pydantic's warnings about values that are not of the type are off: they show the value, and what is written is read
back and compared in any case.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import msgspec

Dump = Callable[[Any], bytes]
Load = Callable[[bytes], Any]


def is_model(kind: object) -> bool:
    """Whether a class is a pydantic model or pydantic dataclass."""
    return isinstance(kind, type) and hasattr(kind, "__pydantic_core_schema__")


def names_model(annotation: Any) -> bool:
    """Whether an annotation, or an argument of it at any depth, is a pydantic model."""
    return is_model(annotation) or any(names_model(argument) for argument in get_args(annotation))


def to_json(value: Any) -> msgspec.Raw:
    """msgspec's ``enc_hook`` for JSON: a model as the JSON that pydantic writes, if pydantic reads it back equal.

    Raises:
        TypeError: not a model.
        ValueError: a model that would come back as another one: secrets that are masked, excluded fields, NaN.
    """
    kind = type(_require_model(value))
    # By name unless the model insists on its aliases. A default would hide that it does: hence the comparison.
    for by_alias in (False, True):
        text = value.model_dump_json(by_alias=by_alias, warnings=False)
        try:
            if kind.model_validate_json(text) == value:
                return msgspec.Raw(text.encode())
        except ValueError:
            continue
    raise ValueError(f"a {kind.__name__} does not read back equal to what is written")


def to_plain(value: Any) -> Any:
    """msgspec's ``enc_hook`` for msgpack: a model as plain values."""
    return _require_model(value).model_dump(mode="json", warnings=False)


def restore(kind: Any, plain: Any) -> Any:
    """msgspec's ``dec_hook``: a model from plain values, in pydantic's JSON mode (strict models work)."""
    if kind is object:  # to msgspec a class like any other; in an annotation it means whatever is there
        return plain
    if not is_model(kind):
        raise NotImplementedError
    return kind.model_validate_json(msgspec.json.encode(plain))


def json_adapter(annotation: Any) -> tuple[Dump, Load]:
    """Writer and reader of JSON by pydantic. Raises whatever pydantic does for an annotation it refuses."""
    from pydantic import TypeAdapter

    adapter: TypeAdapter[Any] = TypeAdapter(annotation)
    return partial(adapter.dump_json, warnings=False), adapter.validate_json


def msgpack_adapter(annotation: Any) -> tuple[Dump, Load]:
    """Writer and reader of msgpack by pydantic's JSON mode."""
    from pydantic import TypeAdapter

    adapter: TypeAdapter[Any] = TypeAdapter(annotation)

    def dump(value: Any) -> bytes:
        return msgspec.msgpack.encode(adapter.dump_python(value, mode="json", warnings=False))

    def load(payload: bytes) -> Any:
        return adapter.validate_json(msgspec.json.encode(msgspec.msgpack.decode(payload)))

    return dump, load


def _require_model(value: Any) -> Any:
    if not is_model(type(value)):
        raise TypeError(f"Encoding objects of type {type(value).__name__} is unsupported")
    return value
