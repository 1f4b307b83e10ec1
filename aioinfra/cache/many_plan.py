"""What `cached_many` knows of its function: which parameter has the ids, and what the key of each id is made of."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final, get_args, get_origin

from aioinfra.cache.canonical import canonical
from aioinfra.cache.decorator import CachedOptions, _check
from aioinfra.cache.keys import KeyPlan, digest
from aioinfra.cache.tag_template import TagTemplates
from aioinfra.errors import InvalidArgument

ID: Final = "id"
"""What one id is called in a tag."""

_READABLE: Final = 96  # as in `cache.keys`
_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_MOST: Final = 1 << 63


class ManyPlan:
    """How the calls of one function are taken apart, and what its keys are made of.

    Raises:
        InvalidArgument: not an async function, without a parameter for ids, or an option names none of its own.
    """

    __slots__ = ("_after", "_before", "_plan", "at", "name", "tags")

    def __init__(self, function: Callable[..., Any], options: CachedOptions) -> None:
        _check(function)
        self._plan = KeyPlan(function, options.ignore)
        parameters = list(inspect.signature(function).parameters.values())
        self.at = 1 if parameters and parameters[0].name in ("self", "cls") else 0
        if len(parameters) <= self.at or parameters[self.at].kind not in _POSITIONAL:
            raise InvalidArgument("function", f"{function.__qualname__} has no positional parameter for ids")
        self.name = parameters[self.at].name
        names = [name for name in self._plan.names if name != self.name]
        if self.name in options.ignore:
            raise InvalidArgument("ignore", f"{self.name!r} are the ids")
        if ID in names:
            raise InvalidArgument(
                "function", f"the parameter {ID!r} has the name of one id: call it otherwise"
            )
        self._before = [name for name in names[: self.at] if name not in options.ignore]
        self._after = [name for name in names[self.at :] if name not in options.ignore]
        self.tags = TagTemplates(options.tags, [ID, *names])

    def bound(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments by parameter. Raises TypeError as the call would."""
        return self._plan.bound(args, kwargs)

    def texts(self, ids: Collection[Any], arguments: Mapping[str, Any]) -> list[str]:
        """Of each id how it stands in its key, beside the other arguments: printable ASCII, at most 96 characters.

        Raises:
            InvalidArgument: an id or an argument has no canonical form.
        """
        before = "".join([canonical(arguments[name], name) + "," for name in self._before])
        after = "".join(["," + canonical(arguments[name], name) for name in self._after])
        texts = [f"{before}{self._text(item)}{after}" for item in ids]
        return [text if len(text) <= _READABLE and text.isascii() else digest(text) for text in texts]

    def _text(self, item: Any) -> str:
        kind = type(item)
        if kind is str or (kind is int and -_MOST < item < _MOST):
            return repr(item)
        return canonical(item, self.name)


def check_ids(argument: str, ids: object) -> list[Any]:
    """The ids of a call, each once, in order.

    Raises:
        InvalidArgument: not a collection, a text, or an id that cannot be a key of a mapping.
    """
    if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
        raise InvalidArgument(argument, f"must be a collection of ids, not {type(ids).__name__}")
    try:
        return list(dict.fromkeys(ids))
    except TypeError:
        raise InvalidArgument(argument, "must have a hash, each of them") from None


def value_annotation(annotation: Any) -> Any:
    """What a mapping's annotation says of its values; Any when it says nothing."""
    arguments = get_args(annotation)
    origin = get_origin(annotation)
    known = isinstance(origin, type) and issubclass(origin, Mapping) and len(arguments) == 2
    return arguments[1] if known else Any
