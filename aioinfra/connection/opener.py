"""Opens connections to an address: transport, TLS, greeting."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import TypeVar

from aioinfra.connection.address import Address
from aioinfra.connection.translate import open_error
from aioinfra.connection.wire import Wire
from aioinfra.errors import StoreError, StoreUnavailable

WireT = TypeVar("WireT", bound=Wire)


class Opener:
    """Makes greeted connections to one server. Override `address` where the server can move."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._tls: ssl.SSLContext | None = None
        self._tls_lock = asyncio.Lock()

    @property
    def location(self) -> str:
        """The URL without credentials."""
        return self._address.location

    async def address(self) -> Address:
        """Where to connect now."""
        return self._address

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
        address = await self.address()
        loop = asyncio.get_running_loop()
        _, wire = await address.open(lambda: make(loop), await self._tls_context(address))
        try:
            greeting = address.greeting()
            for reply in await wire.ask(greeting, timeout) if greeting else ():
                if isinstance(reply, StoreError):
                    raise reply
            if not wire.usable:
                raise StoreUnavailable("closed by the server")
        except BaseException:
            wire.abort()
            raise
        return wire

    async def _tls_context(self, address: Address) -> ssl.SSLContext | None:
        if address.tls is None:
            return None
        async with self._tls_lock:
            if self._tls is None:  # reads the certificate store: tens of milliseconds
                self._tls = await asyncio.to_thread(address.tls_context)
            return self._tls
