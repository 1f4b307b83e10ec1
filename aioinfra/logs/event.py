"""From a call to the event that is rendered: context, names that are taken, redaction, what every line carries."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from aioinfra.context import REQUEST_ID, USER_ID, current
from aioinfra.logs.failures import context_of, find_exception, snapshot
from aioinfra.logs.render import EXCEPTION, RESERVED
from aioinfra.redact import RedactOptions, Redactor

Origin: TypeAlias = tuple[float | None, str, str, str, str, int]
"""Where an event came from: seconds since the epoch (None for now), level, logger, path, function, line."""

_EXC_INFO: Final = "exc_info"
_TAKEN: Final = RESERVED - {REQUEST_ID, USER_ID}
_NOT_PLAIN: Final = _TAKEN | {_EXC_INFO}
_MAX_MODULES: Final = 10_000


class Composer:
    """Makes events. On the path of every line: one dictionary for the fields with their context, one for all."""

    __slots__ = ("_modules", "_redactor", "_service", "_unscanned", "written")

    def __init__(self, service: str, written: Timestamps, options: RedactOptions) -> None:
        self._service = service
        self._redactor = Redactor(options)
        self._unscanned = -1 if options.scan_values else options.max_text
        self._modules: dict[str, str] = {}
        self.written = written

    def text(self, text: str) -> str:
        """A text that others wrote, bounded and without what looks like a secret."""
        return self._redactor.text(text)

    def event(self, origin: Origin, message: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The event of a call; its own fields win over those of the unit of work.

        ``message`` is without secrets where its shape would give them away; here it is bounded, and scanned when
        every text has to be.
        """
        values = current()
        if values:
            fields = {**values, **fields}
        exception = None
        if not _NOT_PLAIN.isdisjoint(fields):
            fields, exception = self._set_apart(dict(fields))
        if len(message) > self._unscanned:
            message = self._redactor.value(message)
        event = self.line(origin, message, self._redactor.mapping(fields))
        if exception is not None:
            event[EXCEPTION] = exception
        return event

    def line(self, origin: Origin, message: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        """What every line carries, first, then fields that are safe."""
        created, level, name, path, function, line = origin
        return {
            "timestamp": self.written(time.time() if created is None else created),
            "level": level,
            "logger_name": name,
            "module": self._modules.get(path) or self._module(path),
            "function_name": function,
            "line_number": line,
            REQUEST_ID: None,
            USER_ID: None,
            "service": self._service,
            "message": message,
            **fields,
        }

    def _set_apart(self, fields: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """Fields under names that are free, and the exception that ``exc_info`` means."""
        error = find_exception(fields.pop(_EXC_INFO, None))
        fields = {_free(name): value for name, value in fields.items()}
        if error is None:
            return fields, None
        if fields.get(REQUEST_ID) is None:  # logged outside the unit of work that it left
            _add_context(fields, context_of(error) or {})
        return fields, snapshot(error, self._redactor.text)

    def _module(self, path: str) -> str:
        if len(self._modules) >= _MAX_MODULES:
            self._modules.clear()
        name = path.rpartition("/")[2].removesuffix(".py") or "<unknown>"
        self._modules[path] = name
        return name


class Timestamps:
    """Writes a time, in UTC to the microsecond or in local time to the millisecond."""

    __slots__ = ("_second", "_utc")

    def __init__(self, *, utc: bool) -> None:
        self._utc = utc
        self._second = (-1, "")

    def __call__(self, moment: float) -> str:
        whole = int(moment)
        second, text = self._second  # one tuple, so that threads see a second and its text together
        if second != whole:
            if self._utc:
                text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
            else:
                text = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(whole))
            self._second = (whole, text)
        # Six digits by way of a seventh: half the cost of a format specification.
        digits = str(int((moment - whole) * 1e6) + 1_000_000)
        return f"{text}.{digits[1:]}Z" if self._utc else f"{text}.{digits[1:4]}"


def _free(name: str) -> str:
    return f"{name}_" if name in _TAKEN else name


def _add_context(fields: dict[str, Any], values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if name in (REQUEST_ID, USER_ID):
            if fields.get(name) is None:
                fields[name] = value
        else:
            fields.setdefault(_free(name), value)
