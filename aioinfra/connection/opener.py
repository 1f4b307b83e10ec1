"""Opens connections to an address: transport, TLS, greeting."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from aioinfra.connection.address import Address
from aioinfra.connection.translate import open_error
from aioinfra.connection.wire import Argument, Wire
from aioinfra.errors import StoreError, StoreUnavailable

WireT = TypeVar("WireT", bound=Wire)


class Opener:
    """Makes greeted connections to one server."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._tls: ssl.SSLContext | None = None
        self._tls_lock = asyncio.Lock()

    @property
    def location(self) -> str:
        """The URL without credentials."""
        return self._address.location

    def start(self) -> None:
        """Called once on the loop, before the first `open`."""

    async def aclose(self) -> None:
        """End what `start` has begun."""

    async def open(self, make: Callable[[asyncio.AbstractEventLoop], WireT], timeout: float) -> WireT:
        """Connect and greet within ``timeout`` seconds, ``make`` giving the protocol.

        Raises:
            StoreError: not connected; nothing but the greeting was sent.
        """
        try:
            async with asyncio.timeout(timeout):
                return await self._greeted(make, timeout)
        except Exception as error:  # noqa: BLE001 - whatever it is (a host name that IDNA refuses), a caller waits for it
            failure = open_error(error, self.location)
        raise failure  # out here, without the other error as its context

    async def _greeted(self, make: Callable[[asyncio.AbstractEventLoop], WireT], timeout: float) -> WireT:
        wire, _ = await self._connect(self._address, make, timeout)
        return wire

    async def _connect(
        self,
        address: Address,
        make: Callable[[asyncio.AbstractEventLoop], WireT],
        timeout: float,
        then: Sequence[Sequence[Argument]] = (),
    ) -> tuple[WireT, list[Any]]:
        """Connect, greet and, in the same round trip, ask ``then``: the connection and the answers to that."""
        loop = asyncio.get_running_loop()
        _, wire = await address.open(lambda: make(loop), await self._tls_context(address))
        try:
            greeting = address.greeting()
            commands = [*greeting, *then]
            replies = await wire.ask(commands, timeout) if commands else []
            for reply in replies[: len(greeting)]:
                if isinstance(reply, StoreError):
                    raise reply
            if not wire.usable:
                raise StoreUnavailable("closed by the server")
        except BaseException:
            wire.abort()
            raise
        return wire, replies[len(greeting) :]

    async def _tls_context(self, address: Address) -> ssl.SSLContext | None:
        if address.tls is None:
            return None
        async with self._tls_lock:
            if self._tls is None:  # reads the certificate store: tens of milliseconds
                self._tls = await asyncio.to_thread(address.tls_context)
            return self._tls
