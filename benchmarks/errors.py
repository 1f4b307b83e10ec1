"""What ends a benchmark."""

from __future__ import annotations


class BenchmarkError(Exception):
    """The benchmark could not be run: a server, a worker or a contestant failed."""


class CommandFailedError(BenchmarkError):
    """A contestant failed at a command; its process can take the next one."""


class WrongAnswerError(BenchmarkError):
    """A contestant returned something else than what was stored or computed. Its speed is worth nothing."""
