"""Which queue a task goes to when nobody has named one: by patterns on the task's name."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from typing import Final

from aioinfra.errors import InvalidArgument
from aioinfra.jobs.checks import check_name

DEFAULT_QUEUE: Final = "default"
"""Where jobs go that nobody sends elsewhere."""

_MOST_KEPT = 10_000
"""Answers that are kept; a producer's task names are few, but nothing enforces it."""


class Routes:
    """Queues by patterns of task names.

    Args:
        routes: pattern -> queue, in the order in which they are tried; the first that matches the whole name
            wins. ``*`` stands for any text, dots included, ``?`` for one character, ``[ab]`` for one of these;
            upper and lower case differ.

    Raises:
        InvalidArgument: a pattern or a queue is no name.
    """

    __slots__ = ("_kept", "_routes")

    def __init__(self, routes: Mapping[str, str] = {}) -> None:
        given: object = routes
        if not isinstance(given, Mapping):
            raise InvalidArgument("routes", "must be a mapping from patterns to queues")
        for pattern, queue in routes.items():
            _check("a pattern", pattern)
            _check(f"the queue of {pattern!r}", queue)
        self._routes = [(re.compile(fnmatch.translate(pattern)), queue) for pattern, queue in routes.items()]
        self._kept: dict[str, str | None] = {}

    def __bool__(self) -> bool:
        return bool(self._routes)

    def queue_of(self, task: str) -> str | None:
        """The queue of the first pattern that matches, or None. A dictionary look-up after the first call."""
        try:
            return self._kept[task]
        except KeyError:
            found = next((queue for pattern, queue in self._routes if pattern.match(task)), None)
            if len(self._kept) < _MOST_KEPT:
                self._kept[task] = found
            return found


def _check(what: str, value: object) -> None:
    if value is None:
        raise InvalidArgument("routes", f"{what} must be text")
    try:
        check_name("routes", value)
    except InvalidArgument as error:
        raise InvalidArgument("routes", f"{what} {error.reason}") from None


NO_ROUTES: Final = Routes()
