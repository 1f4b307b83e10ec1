"""Blocks and functions measured into the ready groups. `MetricsCollector` makes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Generic, TypeVar

from aioinfra.codec.bounds import check_whole
from aioinfra.metrics.groups import DatabaseMetrics, ModelMetrics
from aioinfra.metrics.observers import HttpMetrics
from aioinfra.metrics.tracker import End, Tracker

_OK: Final = 200
_FAILED: Final = 500
_CLIENT_GONE: Final = 499

Group = TypeVar("Group")


class GroupTracker(Tracker, Generic[Group]):
    """A tracker whose group is asked for when a block begins: a service may have opened since it was made."""

    def __init__(self, group: Callable[[], Group]) -> None:
        super().__init__()
        self._find = group
        self._group: Group | None = None

    def began(self) -> None:
        self._group = self._find()

    @property
    def group(self) -> Group:
        return self._find() if self._group is None else self._group


class RequestTracker(GroupTracker[HttpMetrics]):
    """One request: its duration in seconds, its status, and that it is being answered.

    The status is 200 until `set_status` says otherwise; 500 when the block raises, 499 when it is cancelled.
    """

    def __init__(self, group: Callable[[], HttpMetrics], endpoint: str, method: str) -> None:
        super().__init__(group)
        self._endpoint, self._method = endpoint, method
        self._status: int | None = None

    def set_status(self, status: int) -> None:
        """Say how the request was answered.

        Raises:
            InvalidArgument: not a status, 100 to 599.
        """
        check_whole("status", status, 100, 599)
        self._status = status

    def began(self) -> None:
        super().began()
        self._status = None
        self.group.request_started()

    def ended(self, end: End) -> None:
        status = self._status or _OK
        if end.error is not None and self._status is None:
            status = _CLIENT_GONE if end.cancelled else _FAILED
        self.group.request_finished(self._method, self._endpoint, status, end.seconds)


class QueryTracker(GroupTracker[DatabaseMetrics]):
    """One query: its duration in seconds, and its outcome."""

    def __init__(self, group: Callable[[], DatabaseMetrics], operation: str, table: str) -> None:
        super().__init__(group)
        self._operation, self._table = operation, table

    def ended(self, end: End) -> None:
        self.group.query(self._operation, self._table, end.outcome, end.seconds)


class ModelTracker(GroupTracker[ModelMetrics]):
    """One request to a model: duration and time to the first streamed item in seconds, outcome, tokens."""

    def __init__(self, group: Callable[[], ModelMetrics], model: str, operation: str) -> None:
        super().__init__(group)
        self._model, self._operation = model, operation
        self._begun = False

    def add_tokens(self, read: int = 0, written: int = 0) -> None:
        """Count tokens of the request and of the answer.

        Raises:
            InvalidArgument: not a whole number, or negative.
        """
        check_whole("read", read, 0, 1 << 53)
        check_whole("written", written, 0, 1 << 53)
        self.group.tokens(self._model, read, written)

    def item(self) -> None:
        """The answer goes on; the first call ends the time to the first item. Made for decorated generators."""
        if not self._begun:
            self._begun = True
            self.group.first_item(self._model, self._operation, self.elapsed)

    def began(self) -> None:
        super().began()
        self._begun = False
        self.group.started(self._model)

    def ended(self, end: End) -> None:
        self.group.left(self._model)
        self.group.finished(self._model, self._operation, end.outcome, end.seconds)
