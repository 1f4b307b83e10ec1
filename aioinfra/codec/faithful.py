"""Whether a restored value is the one that was given: the same types throughout, and equal.

``==`` alone would pass 1 for True, an enum's value for its member, and a subclass without its further fields. Two
differences are none: an int where the annotation reads floats, as in PEP 484, and the kind of container where
the annotation is abstract (``Sequence``). Below `Any`, and in containers without an annotation of what they hold, a
value arrives as JSON has it; there only dict keys must be text.
"""

from __future__ import annotations

import dataclasses
import inspect
import marshal
from collections import abc
from collections.abc import Callable, Iterable
from functools import lru_cache
from types import NoneType
from typing import Annotated, Any, Final, Union, get_args, get_origin, get_type_hints, is_typeddict

import msgspec

_SCALARS: Final = frozenset({str, int, float, bool, bytes, NoneType})
_MARSHALLED: Final = frozenset({dict, list, tuple})
_HOLDERS: Final = frozenset({list, tuple, set, frozenset})
_SETS: Final = frozenset({set, frozenset, abc.Set, abc.MutableSet})
_SEQUENCES: Final = frozenset({abc.Sequence, abc.MutableSequence, abc.Collection, abc.Iterable})
_MAPPINGS: Final = frozenset({abc.Mapping, abc.MutableMapping})
_CONTAINERS: Final = _HOLDERS | _SETS | _SEQUENCES | _MAPPINGS | {dict}


def faithful(given: Any, back: Any, annotation: Any) -> bool:
    """Whether ``back`` is ``given`` as far as ``annotation`` promises. O(size).

    Raises what a user's ``__eq__`` does, and RecursionError.
    """
    if type(given) in _MARSHALLED and _same_bytes(given, back):
        return True
    return _within(given, back, annotation) if _loose(annotation) else same(given, back)


def _same_bytes(given: Any, back: Any) -> bool:
    """Whether two plain values are the same for certain: marshal keeps types apart, at thirty times our speed.

    Version 2 of its format has no references, which would differ between equal values.
    """
    try:
        return marshal.dumps(given, 2) == marshal.dumps(back, 2)
    except ValueError:  # it holds more than plain values
        return False


def same(given: Any, back: Any) -> bool:
    """Equal, and of the same types at every depth."""
    kind: type[Any] = type(given)
    if kind is not type(back):
        return kind is int and type(back) is float and bool(given == back)
    if kind in _SCALARS:
        return bool(given == back)
    if kind is list or isinstance(given, tuple):
        kinds = list(map(type, given))
        if kinds == list(map(type, back)) and _SCALARS.issuperset(kinds):
            return bool(given == back)
        return len(given) == len(back) and all(map(same, given, back))
    if kind is dict:
        return _same_pairs(given, back, same)
    if kind is set or kind is frozenset:
        found = {item: item for item in back}
        return bool(given == back) and all(same(item, found[item]) for item in given)
    names = _fields(kind)  # type: ignore[arg-type]  # mypy takes a class for unhashable
    if (names is None or hasattr(kind, "model_fields")) and not bool(given == back):
        return False
    return all(same(getattr(given, name, None), getattr(back, name, None)) for name in names or ())


def text_keys(value: Any) -> bool:
    """Whether the keys of all dicts in a value's own containers are text; classes restore theirs."""
    left = [value]
    while left:
        item = left.pop()
        if isinstance(item, dict):
            if not all(isinstance(key, str) for key in item):
                return False
            left += item.values()
        elif isinstance(item, list | tuple | set | frozenset):
            left += item
    return True


def _same_pairs(given: Any, back: Any, compare: Callable[[Any, Any], bool]) -> bool:
    found = {key: (key, value) for key, value in back.items()}
    if len(given) != len(found):
        return False
    for key, value in given.items():
        pair = found.get(key)
        if pair is None or not same(key, pair[0]) or not compare(value, pair[1]):
            return False
    return True


def _within(given: Any, back: Any, annotation: Any) -> bool:
    """`faithful` for an annotation that promises less than the value's types."""
    if _is_free(annotation):
        return text_keys(given)
    if not _loose(annotation):
        return same(given, back)
    origin, arguments = get_origin(annotation) or annotation, get_args(annotation)
    if origin is Annotated:
        return _within(given, back, arguments[0])
    if _is_union(annotation):
        return any(_within(given, back, one) for one in arguments)
    if origin in _CONTAINERS:
        return _within_container(given, back, origin, arguments)
    hints = _hints(origin)
    if hints is None or type(given) is not type(back):
        return same(given, back)
    if isinstance(given, dict):
        return given.keys() == back.keys() and all(
            _within(value, back[name], hints.get(name, Any)) for name, value in given.items()
        )
    return all(_within(getattr(given, name), getattr(back, name), kind) for name, kind in hints.items())


def _within_container(given: Any, back: Any, origin: Any, arguments: tuple[Any, ...]) -> bool:
    is_mapping = origin in _MAPPINGS or origin is dict
    shapes = abc.Mapping if is_mapping else list | tuple | set | frozenset
    if not isinstance(given, shapes) or not isinstance(back, origin) or len(given) != len(back):
        return False
    if isinstance(origin, type) and not inspect.isabstract(origin) and type(given) is not type(back):
        return False
    if is_mapping:
        keys, values = arguments or (Any, Any)
        if _is_free(keys) or (_is_free(values) and keys is str):
            return text_keys(given)
        return _same_pairs(given, back, lambda one, other: _within(one, other, values))
    kinds: Iterable[Any] = arguments or (Any,)
    if origin is not tuple or Ellipsis in arguments or not arguments:
        if all(map(_is_free, kinds := (*kinds,)[:1])):
            return text_keys(given)
        kinds = kinds * len(given)
    if isinstance(given, set | frozenset) or isinstance(back, set | frozenset):
        return same(set(given), set(back))
    return all(map(_within, given, back, kinds))


def _loose(annotation: Any) -> bool:
    try:
        return _cached_loose(annotation)
    except TypeError:  # not hashable: an Annotated with a list in it, say
        return _find_loose(annotation, frozenset())


@lru_cache(maxsize=4_096)
def _cached_loose(annotation: Any) -> bool:
    return _find_loose(annotation, frozenset())


def _find_loose(annotation: Any, inside: frozenset[Any]) -> bool:
    """Whether Any, a container of unknown things or an abstract container is in an annotation."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _find_loose(arguments[0], inside)
    if _is_union(annotation) or origin in _HOLDERS or origin is dict:
        return not arguments or any(_find_loose(one, inside) for one in arguments)
    if origin is not None and origin not in _CONTAINERS:
        return False
    if origin is not None or _is_free(annotation) or annotation in _CONTAINERS:
        return True
    hints = None if annotation in inside else _hints(annotation)
    return hints is not None and any(_find_loose(one, inside | {annotation}) for one in hints.values())


def _is_free(annotation: Any) -> bool:
    return annotation is Any or annotation is object


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) is Union or isinstance(annotation, _UNION)


_UNION: Final = type(int | str)


@lru_cache(maxsize=4_096)
def _fields(kind: type) -> tuple[str, ...] | None:
    """Names of the fields of a dataclass, struct or pydantic model; None for other classes."""
    if dataclasses.is_dataclass(kind):
        return tuple(field.name for field in dataclasses.fields(kind))
    names = getattr(kind, "__struct_fields__", None) or getattr(kind, "model_fields", None)
    return tuple(names) if isinstance(names, tuple | dict) else None


def _hints(kind: Any) -> dict[str, Any] | None:
    """Annotations of the fields of a dataclass, struct, TypedDict or named tuple; None for others."""
    if not isinstance(kind, type) or hasattr(kind, "__pydantic_core_schema__"):
        return None
    named = issubclass(kind, tuple) and hasattr(kind, "_fields")
    if not (
        named or dataclasses.is_dataclass(kind) or is_typeddict(kind) or issubclass(kind, msgspec.Struct)
    ):
        return None
    try:
        return get_type_hints(kind)
    except Exception:  # noqa: BLE001 - a forward reference that cannot be resolved here: compared strictly
        return None
