"""Logging set up on a stream that a test can read, and taken down after it."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
import structlog

from aioinfra import context
from aioinfra.logs import Logging, current_logging, setup_logging


class Captured:
    """What was logged. Reading waits for the writer thread."""

    def __init__(self) -> None:
        self.stream = io.StringIO()
        self.logging: Logging

    def setup(self, level: str = "info", log_format: str = "json", **more: Any) -> Captured:
        """Set logging up on this stream."""
        self.logging = setup_logging(level, log_format=log_format, stream=self.stream, **more)
        return self

    @property
    def text(self) -> str:
        assert self.logging.flush(10)
        return self.stream.getvalue()

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [msgspec.json.decode(line) for line in self.text.splitlines()]

    @property
    def line(self) -> dict[str, Any]:
        (line,) = self.lines
        return line


@contextmanager
def isolated_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No variable of the outer environment decides, and what a test sets up does not outlive it."""
    for name in ("LOG_LEVEL", "LOG_FORMAT", "LOG_DIR", "ENVIRONMENT", "SERVICE_NAME", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    token = context.open_scope()
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    try:
        yield
    finally:
        context.close_scope(token)
        present = current_logging()
        if present is not None:
            present.uninstall()
        assert (root.level, root.handlers) == (level, handlers)
        assert not structlog.is_configured()
