"""Plain values (what JSON gives) as the types of annotations, and which annotations that works for.

The `JsonCodec` reads whole payloads of one type. Here values of many types lie in one payload, which is read
once, without types, by whoever moves it around.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import Any

import msgspec

from aioinfra.codec.models import is_model, names_model, restore, to_json

Read = Callable[[Any], Any]


def reader(annotation: Any) -> Read:
    """The function that turns plain values into an annotation's type; made once for each annotation.

    The function raises whatever msgspec, pydantic or a user's constructor do. TypeError says that the annotation
    itself cannot be used, by neither library.
    """
    try:
        return _cached_reader(annotation)
    except TypeError:  # not hashable: an Annotated with a list in it, say
        return _reader(annotation)


def _reader(annotation: Any) -> Read:
    # Pydantic knows the unions of models that msgspec refuses; msgspec the structs that pydantic does.
    for make in (_by_pydantic, _by_msgspec) if names_model(annotation) else (_by_msgspec, _by_pydantic):
        with suppress(Exception):  # either refuses an annotation in one of its many ways
            return make(annotation)
    return refuse


_cached_reader = lru_cache(maxsize=4_096)(_reader)


def refuse(_: Any) -> Any:
    """The reader of an annotation that neither library can restore."""
    raise TypeError("neither msgspec nor pydantic can restore this annotation")


def _by_msgspec(annotation: Any) -> Read:
    msgspec.json.Decoder(annotation, dec_hook=_custom)
    return lambda plain: msgspec.convert(plain, annotation, str_keys=True, dec_hook=_custom)


def _by_pydantic(annotation: Any) -> Read:
    """Pydantic, told that bytes are base64, as msgspec writes them; models have their own say."""
    from pydantic import ConfigDict, TypeAdapter

    if is_model(annotation):
        load = TypeAdapter(annotation).validate_json
        return lambda plain: load(_plain_json(plain))
    # In a tuple, because the adapter of a dataclass takes no configuration.
    adapter = TypeAdapter(tuple[annotation], config=ConfigDict(val_json_bytes="base64"))
    return lambda plain: adapter.validate_json(_plain_json((plain,)))[0]


_plain_json = msgspec.json.Encoder(enc_hook=to_json).encode


def _custom(kind: Any, plain: Any) -> Any:
    """msgspec's ``dec_hook``: a model, or an instance that was kept by whatever brought the value here."""
    if isinstance(plain, kind):
        return plain
    return restore(kind, plain)


def unsupported_class(annotation: Any) -> str | None:
    """The name of a class in an annotation whose instances cannot be written as JSON and restored, or None.

    Annotations that are not fully understood (a union of two dataclasses without pydantic) count as supported:
    their values may still be written. O(fields), at any depth.
    """
    try:
        info = msgspec.inspect.type_info(annotation)
    except Exception:  # noqa: BLE001 - unions that pydantic may know, forward references, odd user types
        return None
    return _find_custom(info, set())


def _find_custom(info: Any, seen: set[int]) -> str | None:
    if isinstance(info, tuple | list):
        return next(filter(None, (_find_custom(each, seen) for each in info)), None)
    if isinstance(info, msgspec.inspect.CustomType):
        kind = info.cls
        return None if kind is object or is_model(kind) else getattr(kind, "__qualname__", str(kind))
    if not isinstance(info, msgspec.inspect.Type | msgspec.inspect.Field) or id(info) in seen:
        return None
    seen.add(id(info))
    return _find_custom([getattr(info, name) for name in info.__struct_fields__], seen)
