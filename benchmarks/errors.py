"""What ends a benchmark."""

from __future__ import annotations


class BenchmarkError(Exception):
    """The benchmark could not be run: a server, a worker or a contestant failed."""


class WrongAnswerError(BenchmarkError):
    """A contestant returned something else than what was stored or computed. Its speed is worth nothing."""
