"""Values of any kind made plain, bounded and safe."""

from __future__ import annotations

import datetime as dt
import decimal
import uuid
from collections import deque
from collections.abc import Callable, Collection, Mapping, Set
from enum import Enum
from itertools import islice
from numbers import Integral, Real
from typing import Any, Final

from aioinfra.redact.keys import KEY_CHARACTERS, SECRET, URL, Keys
from aioinfra.redact.options import MASK, RedactOptions
from aioinfra.redact.texts import Texts

SCALARS: Final = frozenset({int, float, bool, type(None)})
# Written by the renderers as they are.
_KEPT: Final = (dt.date, dt.time, dt.timedelta, uuid.UUID, decimal.Decimal)


class Policy:
    """What to do with one value under one key.

    ``unscanned`` is the length up to which a text under a plain key may stay as it is when it holds no URL; -1 when
    every text is scanned.
    """

    __slots__ = ("decide", "decisions", "options", "texts", "unscanned")

    def __init__(self, options: RedactOptions) -> None:
        keys = Keys(options)
        self.options = options
        self.texts = Texts(keys, options.max_text)
        self.decide = keys.decide
        self.decisions = keys.decisions
        self.unscanned = -1 if options.scan_values else options.max_text

    def member(self, decision: int, value: Any, walk: Walk) -> Any:
        """A value under a key of that decision; the same object when it may stay."""
        if decision == SECRET:
            return value if value is None or type(value) is bool else MASK
        if decision == URL and issubclass(type(value), str):
            return self.texts.cut(self.texts.url(str.__str__(value)))
        return walk.value(value)

    def string(self, text: str) -> str:
        """A text that is some value: bounded, scanned on request or when it holds a URL."""
        suspect = self.options.scan_values or str.__contains__(text, "://")
        return self.texts.text(text) if suspect else self.texts.cut(text)


class Walk:
    """One descent into one nested value: what is left of the budget, and the way back for cycles."""

    __slots__ = ("_left", "_path", "_policy")

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._left = policy.options.max_items
        self._path: list[int] = []

    def value(self, value: Any) -> Any:
        kind = type(value)
        if kind in SCALARS:
            return value
        if kind is str:
            return self._policy.string(value)
        if kind is dict:
            return self._enter(value, self._mapping)
        if kind is list or kind is tuple:
            return self._enter(value, self._members)
        try:
            return self._object(value)
        except Exception as error:  # noqa: BLE001 - what it inherits or overrides may raise anything
            return f"<unreadable {name_of(kind)}: {name_of(type(error))}>"

    def _enter(self, value: Any, step: Callable[[Any], Any]) -> Any:
        if id(value) in self._path:
            return "[cycle]"
        if len(self._path) >= self._policy.options.max_depth:
            return "[too deep]"
        self._path.append(id(value))
        try:
            return step(value)
        except Exception as error:  # noqa: BLE001 - a container whose iteration raises must not end a log line
            return f"<unreadable {name_of(type(value))}: {name_of(type(error))}>"
        finally:
            self._path.pop()

    def _fields(self, value: Any) -> Any:
        return self._mapping({name: getattr(value, name, None) for name in _field_names(value)})

    def _mapping(self, values: Mapping[Any, Any]) -> Mapping[Any, Any]:
        room = self._room(len(values))
        if type(values) is not dict or room < len(values):
            cut = {"…": f"{len(values)} members"} if room < len(values) else {}
            values = dict(islice(values.items(), room)) | cut
        policy, decisions, unscanned = self._policy, self._policy.decisions, self._policy.unscanned
        changed: dict[Any, Any] | None = None
        for key, value in values.items():
            decision = decisions.get(key)
            if decision is None:
                if type(key) is not str or len(key) > KEY_CHARACTERS:
                    return self._mapping({_name(name): member for name, member in values.items()})
                decision = policy.decide(key)
            kind = type(value)
            if not decision and (
                kind in SCALARS or (kind is str and len(value) <= unscanned and "://" not in value)
            ):
                continue
            member = policy.member(decision, value, self)
            if member is not value:
                if changed is None:
                    changed = dict(values)
                changed[key] = member
        return values if changed is None else changed

    def _members(self, values: Collection[Any]) -> Any:
        room = self._room(len(values))
        if room < len(values):
            values = [*islice(values, room), "…"]
        elif type(values) is not list and type(values) is not tuple:
            values = list(values)
        unscanned = self._policy.unscanned
        changed: list[Any] | None = None
        for index, value in enumerate(values):
            kind = type(value)
            if kind in SCALARS or (kind is str and len(value) <= unscanned and "://" not in value):
                continue
            member = self._pair(value) if kind is tuple and len(value) == 2 else self.value(value)
            if member is not value:
                if changed is None:
                    changed = list(values)
                changed[index] = member
        return values if changed is None else changed

    def _pair(self, pair: tuple[Any, Any]) -> Any:
        """A member of two, which may be a key and its value: headers and forms come as lists of such."""
        key, value = pair
        if type(key) is str and self._policy.decide(key[:KEY_CHARACTERS]) == SECRET:
            return [key[:KEY_CHARACTERS], self._policy.member(SECRET, value, self)]
        return self.value(pair)

    def _room(self, members: int) -> int:
        """How many of so many members may be looked at."""
        room = max(0, min(members, self._left))
        self._left -= members
        return room

    def _object(self, value: Any) -> Any:
        if isinstance(value, Enum):
            return self.value(value.value) if isinstance(value.value, str | int) else value.name
        if isinstance(value, str):
            return self._policy.string(value)
        if isinstance(value, _KEPT):
            return value
        if isinstance(value, Real):
            return int(value) if isinstance(value, Integral) else float(value)
        if isinstance(value, bytes | bytearray | memoryview):
            return f"<{len(value)} bytes>"
        if isinstance(value, BaseException):
            return self._policy.texts.text(f"{type(value).__name__}: {describe(value)}")
        if isinstance(value, Mapping):
            return self._enter(value, self._mapping)
        if not isinstance(value, type) and _field_names(value):
            return self._enter(value, self._fields)
        if isinstance(value, list | tuple | Set | deque):
            return self._enter(value, self._members)
        return self._policy.texts.text(_printed(value))


name_of: Final[Callable[[type], str]] = vars(type)["__name__"].__get__
"""A class's name from the slot of type itself: a metaclass may answer for ``__name__`` and raise."""


def describe(error: BaseException) -> str:
    """The text of an exception; never raises, not scanned."""
    try:
        return str.__str__(str(error))  # a subclass of str may override what is done to it next
    except Exception as failure:  # noqa: BLE001 - __str__ may raise anything
        return f"<unprintable: {type(failure).__name__}>"


def _field_names(value: Any) -> tuple[str, ...]:
    """Field names of a dataclass, msgspec.Struct, pydantic model, attrs class or named tuple; else empty."""
    cls = type(value)
    for attribute in ("__dataclass_fields__", "__struct_fields__", "__pydantic_fields__", "_fields"):
        names = getattr(cls, attribute, None)
        if isinstance(names, Mapping | tuple):
            return tuple(name for name in names if isinstance(name, str))
    return tuple(field.name for field in getattr(cls, "__attrs_attrs__", ()))


def _printed(value: Any) -> str:
    try:
        return repr(value)
    except Exception as error:  # noqa: BLE001 - any repr may raise anything
        return f"<unprintable {type(value).__name__}: {type(error).__name__}>"


def _name(key: Any) -> str:
    try:
        return str(key)[:KEY_CHARACTERS]
    except Exception:  # noqa: BLE001 - a key's __str__ may raise anything
        return f"<unprintable {type(key).__name__}>"
