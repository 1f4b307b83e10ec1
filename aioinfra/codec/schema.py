"""The shape of an annotation as text and as a short digest.

The digest is part of a cached function's key: when a field of a model changes, the function reads and writes
other keys, and old values are simply never seen. The text is made of names and structure only, so that it is
the same in every process.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from aioinfra.qualified_name import module_name


def fingerprint(annotation: Any) -> str:
    """Eight hex digits that change when the shape of the annotation does. O(fields), at any depth."""
    return hashlib.blake2b(describe(annotation).encode(), digest_size=4).hexdigest()


def describe(annotation: Any) -> str:
    """The shape as text: names of classes, their fields and the fields' types, recursively."""
    return _describe(annotation, ())


def _describe(annotation: Any, inside: tuple[type, ...]) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _describe(arguments[0], inside)
    if origin is Literal:
        return f"Literal{list(arguments)!r}"
    if arguments:
        parts = [_describe(argument, inside) for argument in arguments]
        return f"{_name(origin)}[{','.join(parts)}]"
    if isinstance(annotation, type) and annotation not in inside:
        return _name(annotation) + _members(annotation, (*inside, annotation))
    return _name(annotation)


def _members(kind: type, inside: tuple[type, ...]) -> str:
    """The fields of a model class or the members of an enum; nothing for other classes."""
    if issubclass(kind, enum.Enum):
        return "{" + ",".join(f"{member.name}={member.value!r}" for member in kind) + "}"
    names = _field_names(kind)
    if names is None:
        return ""
    try:
        hints = get_type_hints(kind, include_extras=True)
    except Exception:  # noqa: BLE001 - a forward reference that cannot be resolved here; its text stands for it
        hints = dict(kind.__annotations__)
    return "{" + ",".join(f"{name}:{_describe(hints.get(name), inside)}" for name in names) + "}"


def _field_names(kind: type) -> list[str] | None:
    """Names of a dataclass, Struct, TypedDict, named tuple or pydantic model; None for other classes."""
    if dataclasses.is_dataclass(kind):
        return [field.name for field in dataclasses.fields(kind)]
    for attribute in ("__struct_fields__", "model_fields", "_fields", "__required_keys__"):
        names = getattr(kind, attribute, None)
        if isinstance(names, tuple | dict | frozenset):
            more = getattr(kind, "__optional_keys__", ())
            return sorted([*map(str, names), *(f"{name}?" for name in more)])
    return None


def _name(annotation: Any) -> str:
    if annotation is None or annotation is type(None):
        return "None"
    if isinstance(annotation, str):
        return annotation
    name = getattr(annotation, "__qualname__", None) or getattr(annotation, "__name__", None)
    module = module_name(getattr(annotation, "__module__", ""))
    return f"{module}.{name}" if name else type(annotation).__qualname__
