"""Events to bytes: one JSON object a line for machines, one readable line for people.

Whatever a field holds, it cannot start a line of its own or move a terminal's cursor: control characters
are written as escapes. A line is bounded; what is too long loses its fields, never its message.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

CORE: Final = (
    "timestamp",
    "level",
    "logger_name",
    "module",
    "function_name",
    "line_number",
    "request_id",
    "user_id",
    "service",
    "message",
)
"""What every line carries, in this order."""

EXCEPTION: Final = "exception"
RESERVED: Final = frozenset({*CORE, EXCEPTION})

_MAX_LINE: Final = 64 << 10  # bytes; characters on the console
_SHORT_TEXT: Final = 1_000
_C1_OR_SEPARATOR: Final = re.compile(rb"\x7f|\xc2[\x80-\x9f]|\xe2\x80[\xa8-\xae]|\xe2\x81[\xa6-\xa9]")
_UNSAFE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_BARE: Final = re.compile(r"[\w.:/@+*%-]+")

_COLOURS: Final = {"DEBUG": "36", "INFO": "32", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}


class JsonLine:
    """The JSON renderer. About a microsecond for fifteen fields."""

    __slots__ = ("_encode",)

    def __init__(self) -> None:
        self._encode = msgspec.json.Encoder(enc_hook=repr).encode

    def __call__(self, event: Mapping[str, Any]) -> bytes:
        line = self._line(event)
        return (line if len(line) <= _MAX_LINE else self._short(event)) + b"\n"

    def _short(self, event: Mapping[str, Any]) -> bytes:
        """The line without its fields, then also without its exception and most of its texts."""
        core: dict[str, Any] = {name: event[name] for name in (*CORE, EXCEPTION) if name in event}
        core["left_out"] = sorted(event.keys() - RESERVED)[:100]
        line = self._line(core)
        if len(line) <= _MAX_LINE:
            return line
        texts = {name: str(core.get(name))[:_SHORT_TEXT] for name in ("request_id", "user_id", "message")}
        return self._line({**core, **texts, EXCEPTION: None, "left_out": "fields and exception"})

    def _line(self, event: Mapping[str, Any]) -> bytes:
        try:
            line = self._encode(event)
        except (TypeError, ValueError, OverflowError, RecursionError):
            line = self._encode(_encodable(event))
        if line.isascii() and b"\x7f" not in line:
            return line
        # JSON escapes C0 by itself. C1 and bidirectional controls are legal in it, but not in a terminal.
        return _C1_OR_SEPARATOR.sub(_json_escape, line)


class ConsoleLine:
    """The readable renderer: time, level, logger, file:line, [request id], message, fields."""

    __slots__ = ("_colours",)

    def __init__(self, *, colours: bool) -> None:
        self._colours = colours

    def __call__(self, event: Mapping[str, Any]) -> bytes:
        level, module = event["level"], event["module"]
        place = (
            f"{module}:{event['line_number']}" if module[:1] == "<" else f"{module}.py:{event['line_number']}"
        )
        words = [
            self._paint("2", event["timestamp"]),
            self._paint(_COLOURS.get(level, "0"), f"{level:<8}"),
            f"{self._paint('1', escape(event['logger_name']))} {self._paint('2', escape(place))}",
        ]
        if event["request_id"] is not None:
            words.append(f"[{escape(_printed(event['request_id']))}]")
        words.append(escape(_printed(event["message"])))
        if event["user_id"] is not None:
            words.append(self._field("user_id", event["user_id"]))
        words += [self._field(key, value) for key, value in event.items() if key not in RESERVED]
        line = " ".join(words)
        if len(line) > _MAX_LINE:
            line = f"{line[:_MAX_LINE]}… ({len(line)} characters)"
        return f"{line}{_traceback(event.get(EXCEPTION))}\n".encode("utf-8", "backslashreplace")

    def _field(self, key: str, value: object) -> str:
        return f"{self._paint('36', escape(key))}={_shown(value)}"

    def _paint(self, colour: str, text: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colours else text


def escape(text: str) -> str:
    """Control characters, line and direction marks as Python escapes; other texts as they are."""
    return text if text.isprintable() else _UNSAFE.sub(_text_escape, text)


def _shown(value: object) -> str:
    safe = escape(_printed(value))
    return f'"{safe}"' if isinstance(value, str) and not _BARE.fullmatch(safe) else safe


def _printed(value: object) -> str:
    try:
        return str(value)
    except Exception as error:  # noqa: BLE001 - an integer of too many digits; whatever a value's __str__ raises
        return f"<unprintable {type(value).__name__}: {type(error).__name__}>"


def _traceback(exception: Mapping[str, Any] | None) -> str:
    """The lines below a console line: innermost last, then what it was raised from."""
    if exception is None:
        return ""
    lines = []
    for link in (exception, *exception.get("chain", ())):
        relation = link.get("relation", "raised")
        lines.append(f"{relation}: {link['type']}: {escape(link['message'])}")
        lines += [f"  {escape(note)}" for note in link.get("notes", ())]
        lines += [f"    {escape(str(file))}:{line} in {escape(name)}" for file, line, name in link["frames"]]
    return "".join(f"\n  {line}" for line in lines)


def _json_escape(found: re.Match[bytes]) -> bytes:
    return b"\\u%04x" % ord(found[0].decode())


def _text_escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def _encodable(value: Any) -> Any:
    """What msgspec refuses in another form: lone surrogates, integers beyond 64 bits, other keys than text."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**64:
        return str(value) if abs(value) < 10**1_000 else "<huge integer>"
    if isinstance(value, Mapping):
        return {_encodable(str(key)): _encodable(member) for key, member in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_encodable(member) for member in value]
    return value
