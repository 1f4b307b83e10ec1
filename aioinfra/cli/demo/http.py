"""The demo's HTTP client: keep-alive connections to one loopback server, each used by one task at a time.

h11 does the parsing; it comes with uvicorn, so the demo needs no client library of its own.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import h11

_READ: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Answer:
    """A response, read to its end. Header names are lowercase."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON.

        Raises:
            ValueError: it is not JSON.
        """
        return json.loads(self.body)


class HttpConnection:
    """One connection, opened at the first request and again after the server closed it."""

    __slots__ = ("_port", "_protocol", "_reader", "_timeout", "_writer")

    def __init__(self, port: int, timeout: float = 10.0) -> None:
        """``timeout``: seconds for one request, connecting included."""
        self._port = port
        self._timeout = timeout
        self._protocol: h11.Connection | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def request(self, method: str, path: str, body: object = None) -> Answer:
        """Send a request, ``body`` as JSON unless it is None, and read the whole answer.

        Raises:
            OSError: no answer: not connected (ConnectionError), not in time (TimeoutError), not HTTP.
        """
        try:
            async with asyncio.timeout(self._timeout):
                return await self._exchange(method, path, b"" if body is None else json.dumps(body).encode())
        except h11.ProtocolError as error:
            self.close()
            raise ConnectionError(f"the server's answer is cut or not HTTP: {error}") from None
        except BaseException:  # also when cancelled: half an answer may still be under way
            self.close()
            raise

    def close(self) -> None:
        """Drop the connection; the next request opens another."""
        if self._writer is not None:
            self._writer.close()
        self._protocol = self._reader = self._writer = None

    async def _exchange(self, method: str, path: str, body: bytes) -> Answer:
        if self._protocol is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
            self._protocol = h11.Connection(h11.CLIENT)
        protocol, reader, writer = self._protocol, self._reader, self._writer
        assert reader is not None and writer is not None  # noqa: S101, PT018 - set together with the protocol
        headers = [("Host", f"127.0.0.1:{self._port}"), ("Content-Length", str(len(body)))]
        if body:
            headers.append(("Content-Type", "application/json"))
        sent = [h11.Request(method=method, target=path, headers=headers), h11.Data(body), h11.EndOfMessage()]
        writer.write(b"".join(protocol.send(event) or b"" for event in sent))
        answer = await _read(protocol, reader)
        if protocol.our_state is h11.DONE and protocol.their_state is h11.DONE:
            protocol.start_next_cycle()
        else:
            self.close()
        return answer


async def _read(protocol: h11.Connection, reader: asyncio.StreamReader) -> Answer:
    response: h11.Response | None = None
    body: list[bytes] = []
    while True:
        event = protocol.next_event()
        if event is h11.NEED_DATA:
            received = await reader.read(_READ)
            if not received and response is None:
                raise ConnectionResetError("the server closed the connection without an answer")
            protocol.receive_data(received)
        elif isinstance(event, h11.Response):
            response = event
        elif isinstance(event, h11.Data):
            body.append(bytes(event.data))
        elif isinstance(event, h11.EndOfMessage) and response is not None:
            break
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in response.headers}
    return Answer(response.status_code, headers, b"".join(body))
