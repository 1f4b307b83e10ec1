"""What a client has given up does not reach the server later on."""

from __future__ import annotations

import asyncio
import socket

import pytest

from aioinfra.connection.pool import PoolOptions, RedisClient
from aioinfra.errors import StoreUnavailable

SIZE = 32 << 20  # bytes: more than the buffers of both kernels hold


async def read_to_the_end(connection: socket.socket) -> tuple[int, bool]:
    """Bytes that still come, and whether the stream ended with a reset."""
    loop, received = asyncio.get_running_loop(), 0
    while True:
        try:
            data = await loop.sock_recv(connection, 1 << 20)
        except ConnectionResetError:
            return received, True
        if not data:
            return received, False
        received += len(data)


@pytest.mark.parametrize("how", ["time-out", "closing"])
async def test_the_kernel_sends_no_rest_of_a_write_that_was_given_up(how: str) -> None:
    """The server reads nothing while the client waits, as behind a partition; then it reads all there is."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        options = PoolOptions(socket_timeout=0.3)
        client = RedisClient(f"redis://127.0.0.1:{listener.getsockname()[1]}", options)
        call = asyncio.create_task(client.execute("SET", "key", b"x" * SIZE))
        connection, _ = await loop.sock_accept(listener)
        with connection:
            connection.setblocking(False)
            if how == "closing":
                await asyncio.sleep(0)
                await client.aclose()
            with pytest.raises(StoreUnavailable):
                await call
            await client.aclose()
            received, reset = await read_to_the_end(connection)
    assert reset
    assert received < SIZE
