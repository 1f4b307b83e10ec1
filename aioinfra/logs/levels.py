"""Levels: their names, and which one holds for which logger."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from aioinfra.errors import InvalidArgument

LEVELS: Final[Mapping[str, int]] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "exception": logging.ERROR,
    "critical": logging.CRITICAL,
    "fatal": logging.CRITICAL,
}
LABELS: Final[Mapping[int, str]] = {
    logging.DEBUG: "DEBUG",
    logging.INFO: "INFO",
    logging.WARNING: "WARNING",
    logging.ERROR: "ERROR",
    logging.CRITICAL: "CRITICAL",
}


@dataclass(frozen=True, slots=True)
class LevelRules:
    """A default level, and levels of logger names that hold for what lies below them, too."""

    default: int = logging.INFO
    rules: Mapping[str, int] = field(default_factory=dict)

    def level_of(self, name: str) -> int:
        """The level that holds for a logger: the one of the longest name above it. O(dots in the name)."""
        while name:
            level = self.rules.get(name)
            if level is not None:
                return level
            name = name.rpartition(".")[0]
        return self.default


def parse_levels(text: str, argument: str = "log_level") -> LevelRules:
    """``info`` or ``info,aioinfra.cache=debug``: a default level, and exceptions by logger name.

    Raises:
        InvalidArgument: a part is neither a level nor ``name=level``; names ``argument``.
    """
    default, rules = logging.INFO, {}
    for part in text.split(","):
        name, equals, level = part.rpartition("=")
        if not part.strip():
            continue
        number = LEVELS.get(level.strip().lower())
        if number is None or (equals and not name.strip()):
            raise InvalidArgument(
                argument, "must be a level, or levels by logger such as 'info,app.db=debug'"
            )
        if equals:
            rules[name.strip()] = number
        else:
            default = number
    return LevelRules(default, rules)
