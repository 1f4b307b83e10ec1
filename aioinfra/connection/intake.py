"""Takes in the bytes of replies, and lets the reader believe a length only as far as the bytes bear it out.

What a head announces is counted for the whole call: each element takes `SMALLEST_ELEMENT` bytes at least, so a
reply whose arrays claim more than has come is held until it has, and one that claims more than ``most`` is
refused. A reply that is what it says is held for no longer than it takes to come.
"""

from __future__ import annotations

from abc import abstractmethod

import hiredis

from aioinfra.connection.heads import MOST_LINE, SMALLEST_ELEMENT, find_suspect, read_head
from aioinfra.errors import ReplyTooLarge, StoreError


class Intake:
    """The part of a connection between its socket and its reader.

    Attributes:
        most: bytes that the replies of one call may have, or announce.
    """

    __slots__ = ("_announced", "_held", "_held_bytes", "_more", "_reader", "_skip", "_wanted", "most")

    def __init__(self, reader: hiredis.Reader, most: int) -> None:
        self.most = most
        self._reader = reader
        self._skip = 0  # bytes that lie within a value, where no head can be
        self._more = False  # whether bytes are at hand that the reader has not got yet
        self._announced = 0  # elements, by the heads of this call
        self._held: list[bytes] = []  # from a head on that must not be read yet
        self._held_bytes = 0
        self._wanted = 0  # bytes without which what is held stays; 0: the end of the line

    @property
    @abstractmethod
    def usable(self) -> bool:
        """Whether nobody has begun to close the connection."""

    @abstractmethod
    def abort(self, error: StoreError | None = None) -> None:
        """Close it at once."""

    @abstractmethod
    def _read(self) -> None:
        """Settle calls with what the reader has."""

    @abstractmethod
    def _received(self) -> int:
        """Bytes since the call under way was sent."""

    def _take_in(self, data: bytes) -> None:
        """Read as much of what has come as may be believed. Raises hiredis.ProtocolError."""
        if self._held:
            self._resume(data)
            return
        if self._skip >= len(data):
            self._skip -= len(data)
        else:
            skip, self._skip = self._skip, 0
            at = find_suspect(data, skip)
            if at >= 0:
                self._read_with_care(data, at)
                return
        self._reader.feed(data)
        self._read()

    def _drop_held(self) -> None:
        self._held = []

    def _read_with_care(self, data: bytes, at: int) -> None:
        """Read up to each candidate for a head, the first being at ``at``, and on as far as its claim holds."""
        reader = self._reader
        begin = 0
        while at >= 0:
            if at > begin:
                self._more = True
                reader.feed(data, begin, at - begin)
                self._read()
                self._more = False
                begin = at
                if not self.usable:
                    return
            if reader.has_data():  # within a value or a line: no head
                at += 1
            elif (at := self._admit(data, at)) < 0:
                return
            if at >= len(data):
                self._skip = at - len(data)
                break
            at = find_suspect(data, at)
        reader.feed(data, begin, len(data) - begin)
        self._read()

    def _admit(self, data: bytes, at: int) -> int:
        """Where to look on behind the head at ``at``; -1 when it is refused, or held until more has come."""
        head = read_head(data, at)
        if head is None:
            if data.find(b"\n", at) >= 0:
                return at + 1
            self._hold(data, at, 0)
            return -1
        if head.size:
            if head.size <= self.most:
                return head.end + head.size + len(b"\r\n")
            self.abort(ReplyTooLarge(self.most))
            return -1
        self._announced += head.elements
        least = self._announced * SMALLEST_ELEMENT
        if least > self.most:
            self.abort(ReplyTooLarge(self.most))
            return -1
        missing = max(least - self._received(), head.elements * SMALLEST_ELEMENT - (len(data) - at))
        if missing > 0:
            self._hold(data, at, len(data) - at + missing)
            return -1
        return head.end

    def _hold(self, data: bytes, at: int, wanted: int) -> None:
        self._held = [data[at:]]
        self._held_bytes = len(data) - at
        self._wanted = wanted

    def _resume(self, data: bytes) -> None:
        """Go on with what is held, once it is complete enough."""
        self._held.append(data)
        self._held_bytes += len(data)
        wanted = self._wanted
        if wanted:
            if self._held_bytes < wanted:
                return
        elif b"\n" not in data:
            if self._held_bytes > MOST_LINE:
                self.abort(ReplyTooLarge(MOST_LINE))
            return
        data = b"".join(self._held)
        self._held = []
        at = find_suspect(data, 1 if wanted else 0)  # a head that was waited for is counted already
        if at >= 0:
            self._read_with_care(data, at)
        else:
            self._reader.feed(data)
            self._read()
