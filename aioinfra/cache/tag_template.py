"""Tags of a decorated function: texts with the names of its parameters in braces, ``user:{user_id}``."""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping, Sequence
from datetime import date
from decimal import Decimal
from string import Formatter
from typing import Any, Final
from uuid import UUID

from aioinfra.cache.tags import MOST_TAGS
from aioinfra.errors import InvalidArgument

_PLAIN: Final = (str, int, UUID, date, Decimal, enum.Enum)
"""What has one text. A float has several by its history, an object may write its address."""


class TagTemplates:
    """Makes the tags of a call from its arguments.

    Args:
        templates: ``{name}`` stands for an argument, ``{name.attribute}`` and ``{name[key]}`` for a part of it;
            double braces for a brace.
        names: the parameters of the function.

    Raises:
        InvalidArgument: not a collection of texts, malformed, or a name that is no parameter.
    """

    __slots__ = ("_fixed", "_parsed")

    def __init__(self, templates: Collection[str], names: Sequence[str]) -> None:
        if isinstance(templates, str | bytes) or not isinstance(templates, Collection):
            raise InvalidArgument("tags", "must be a collection of texts, not one text")
        if len(templates) > MOST_TAGS:
            raise InvalidArgument("tags", f"are {len(templates)}, the most are {MOST_TAGS}")
        self._parsed = [_parse(template, names) for template in templates]
        parts = [part for parsed in self._parsed for part in parsed]
        fixed = all(field is None for _, field in parts)
        self._fixed = tuple("".join(text for text, _ in parsed) for parsed in self._parsed) if fixed else None

    @property
    def fixed(self) -> tuple[str, ...] | None:
        """The tags, when they are the same for every call."""
        return self._fixed

    def tags(self, arguments: Mapping[str, Any]) -> tuple[str, ...]:
        """The tags of a call.

        Raises:
            InvalidArgument: an argument without one text of its own (a float, an object); names the parameter.
        """
        return tuple(
            "".join([text + _text(field, arguments) for text, field in parsed]) for parsed in self._parsed
        )


def _parse(template: object, names: Sequence[str]) -> list[tuple[str, str | None]]:
    if not isinstance(template, str) or not template:
        raise InvalidArgument("tags", "must be texts that are not empty")
    try:
        parsed = list(Formatter().parse(template))
    except ValueError as error:
        raise InvalidArgument("tags", f"{template!r}: {error}") from None
    for _, field, spec, conversion in parsed:
        if field is None:
            continue
        name = field.replace("[", ".").split(".")[0]
        if name not in names:
            raise InvalidArgument("tags", f"{template!r}: the function has no parameter {name!r}")
        if spec or conversion:
            raise InvalidArgument("tags", f"{template!r}: formats and conversions have no place in a tag")
    return [(text, field) for text, field, _, _ in parsed]


def _text(field: str | None, arguments: Mapping[str, Any]) -> str:
    if field is None:
        return ""
    value, name = Formatter().get_field(field, (), arguments)
    if isinstance(value, enum.Enum):
        value = value.value
    if not isinstance(value, _PLAIN):
        raise InvalidArgument(
            str(name), f"a tag cannot be made of {type(value).__name__}: it has no one text"
        )
    return str(value)
