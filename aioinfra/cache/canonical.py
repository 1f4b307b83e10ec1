"""The canonical text of an argument: equal text exactly for arguments that mean the same, in every process.

Each type writes itself so that no two different values share a text: 1, True, 1.0 and "1" differ. Types
without a known form are refused instead of falling back to repr, which would put an address into the key and
so make every call a miss.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import PurePath
from typing import Any, Final
from uuid import UUID

from aioinfra.errors import InvalidArgument
from aioinfra.qualified_name import qualified_name

_BY_REPR: Final = frozenset({type(None), bool, int, float, complex, str, bytes, UUID, Decimal, timedelta})
_MOST_DECIMAL_BITS: Final = 2048  # of an int that is written in decimal


def canonical(value: Any, argument: str) -> str:
    """The canonical text of one argument.

    Known are None, numbers, text, bytes, dates and times, UUID, Decimal, enums, paths, classes; tuples,
    lists, sets and mappings of these; dataclasses, msgspec Structs, named tuples and pydantic models of these,
    with all their fields, compared or not, and a model's extra ones; and every object with a method
    ``cache_key()`` that gives one of these.

    Raises:
        InvalidArgument: naming the parameter ``argument``.
    """
    try:
        return _text(value)
    except RecursionError:
        raise InvalidArgument(argument, "is nested too deeply, or contains itself") from None
    except _NoFormError as error:
        raise InvalidArgument(
            argument,
            f"{error} has no canonical form and so cannot be part of a key: give the class a cache_key() "
            f"method, or leave the parameter out with ignore=({argument!r},)",
        ) from None


class _NoFormError(Exception):
    """Carries the name of the type alone."""


def _text(value: Any) -> str:
    kind = type(value)
    if kind in _BY_REPR:
        return _number(value) if kind is int else repr(value)
    if callable(getattr(kind, "cache_key", None)):
        return f"{qualified_name(kind)}({_text(value.cache_key())})"
    for known, write in _WRITERS:
        if isinstance(value, known):
            # A dataclass may derive from a list or a text, and is then both.
            also = dataclasses.is_dataclass(kind) and not isinstance(value, enum.Enum)
            return f"{_fields(value)}{write(value)}" if also else write(value)
    return _fields(value)


def _fields(value: Any) -> str:
    """The class and what its instance holds."""
    kind = type(value)
    names = _field_names(kind)
    fields = ",".join(f"{name}={_text(getattr(value, name))}" for name in names)
    extra = getattr(value, "model_extra", None) if hasattr(kind, "model_fields") else None
    if getattr(kind, "__pydantic_config__", None):  # a pydantic dataclass keeps extra ones beside the others
        extra = {name: item for name, item in vars(value).items() if name not in names}
    return (
        f"{qualified_name(kind)}({fields};{_mapping(extra)})"
        if extra
        else f"{qualified_name(kind)}({fields})"
    )


def _number(value: int) -> str:
    """Decimal; hexadecimal where decimal would take long and Python refuses it."""
    return hex(value) if value.bit_length() > _MOST_DECIMAL_BITS else int.__repr__(value)


def _field_names(kind: type) -> list[str]:
    if dataclasses.is_dataclass(kind):
        return [field.name for field in dataclasses.fields(kind)]
    for attribute in ("__struct_fields__", "model_fields"):
        if hasattr(kind, attribute):
            return list(getattr(kind, attribute))
    raise _NoFormError(qualified_name(kind))


def _mapping(value: Mapping[Any, Any]) -> str:
    return "{" + ",".join(sorted(f"{_text(key)}:{_text(item)}" for key, item in value.items())) + "}"


def _set(value: Any) -> str:
    return "set(" + ",".join(sorted(map(_text, value))) + ")"


def _tuple(value: tuple[Any, ...]) -> str:
    name = qualified_name(type(value)) if type(value) is not tuple else ""
    return f"{name}({','.join(map(_text, value))})"


def _base(base: Any) -> Callable[[Any], str]:
    """For a subclass of a plain type: its class, and the value as the plain type writes it."""
    return lambda value: f"{qualified_name(type(value))}({base.__repr__(value)})"


_WRITERS: Final[tuple[tuple[type, Callable[[Any], str]], ...]] = (
    # Before Enum: members of a flag that have no name of their own would all be called None.
    (enum.Flag, lambda value: f"{qualified_name(type(value))}({value.value})"),
    (enum.Enum, lambda value: f"{qualified_name(type(value))}.{value.name}"),
    (range, lambda value: f"range({','.join(map(_number, (value.start, value.stop, value.step)))})"),
    (list, lambda value: f"[{','.join(map(_text, value))}]"),
    (tuple, _tuple),
    (Mapping, _mapping),
    (set, _set),
    (frozenset, _set),
    (datetime, lambda value: f"datetime({value.isoformat()},{value.fold})"),
    (date, lambda value: f"date({value.isoformat()})"),
    (time, lambda value: f"time({value.isoformat()},{value.fold})"),
    (PurePath, lambda value: f"path({str(value)!r})"),
    (type, lambda value: f"<{qualified_name(value)}>"),
    (int, lambda value: f"{qualified_name(type(value))}({_number(int(value))})"),
    (float, _base(float)),
    (str, _base(str)),
    (bytes, _base(bytes)),
)
