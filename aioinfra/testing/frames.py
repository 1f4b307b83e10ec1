"""Cuts a stream of RESP into whole frames without changing a byte of them.

A frame is one request or one reply, with all that is nested in it. Parsers give values and forget the bytes;
who forwards a reply, or cuts it in half, needs the bytes.

Protocol: https://redis.io/docs/latest/develop/reference/protocol-spec/
"""

from __future__ import annotations

from typing import Final

_BULKS: Final = b"$=!"
_LISTS: Final = b"*~>"
_MOST_BULK: Final = 512 << 20  # bytes; the servers' own default (proto-max-bulk-len)
_MOST_ITEMS: Final = 1 << 20
_MOST_LINE: Final = 1 << 20  # bytes


class NotRespError(ValueError):
    """The bytes are not RESP; the text is what a server would answer."""


class FrameCutter:
    """Frames out of pieces of a stream. Holds at most one incomplete frame.

    A line that begins with no type of RESP is a frame too: requests may be typed by hand ("PING").
    """

    __slots__ = ("_at", "_buffer", "_open")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._at = 0  # up to here the frame at the head of the buffer was looked at
        self._open = 1  # values that are still to come until that frame is whole

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that ``data`` completes, in order. O(bytes), however they are cut.

        Raises:
            NotRespError: a length that is none, or a line without an end.
        """
        self._buffer += data
        frames: list[bytes] = []
        start = 0
        while self._one_value():
            if self._open == 0:
                frames.append(bytes(self._buffer[start : self._at]))
                start = self._at
                self._open = 1
        del self._buffer[:start]
        self._at -= start
        return frames

    def _one_value(self) -> bool:
        """Step over one value, or the head of a list; False when it is not all there."""
        buffer, at = self._buffer, self._at
        end = buffer.find(b"\r\n", at)
        if end < 0:
            if len(buffer) - at > _MOST_LINE:
                raise NotRespError("Protocol error: too big inline request")
            return False
        kind, after = buffer[at], end + 2
        if kind in _BULKS:
            size = _length(buffer[at + 1 : end], _MOST_BULK, "bulk")
            if size >= 0:
                after += size + 2
                if len(buffer) < after:
                    return False
        elif kind in _LISTS:
            self._open += max(0, _length(buffer[at + 1 : end], _MOST_ITEMS, "multibulk"))
        elif kind in b"%|":
            # An attribute stands before the value that it describes, and is none itself.
            self._open += 2 * _length(buffer[at + 1 : end], _MOST_ITEMS, "multibulk") + (kind == ord("|"))
        self._at = after
        self._open -= 1
        return True


def _length(digits: bytearray, most: int, kind: str) -> int:
    try:
        value = int(digits)
    except ValueError:
        raise NotRespError(f"Protocol error: invalid {kind} length") from None
    if not -1 <= value <= most:
        raise NotRespError(f"Protocol error: invalid {kind} length")
    return value
