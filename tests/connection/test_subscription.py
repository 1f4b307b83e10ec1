"""A subscription that says when it has a gap."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aioinfra.connection import subscription
from aioinfra.connection.pool import RedisClient
from aioinfra.connection.subscription import Subscription
from tests.conftest import OwnServerFactory


class Listener:
    """What a subscription says, and events to wait for it."""

    def __init__(self, client: RedisClient, channel: str) -> None:
        self.subscribed = 0
        self.messages: list[bytes] = []
        self.changed = asyncio.Event()
        self.subscription = Subscription(client, channel, self.told, self.resubscribed)

    def told(self, message: bytes) -> None:
        self.messages.append(message)
        self.changed.set()

    def resubscribed(self) -> None:
        self.subscribed += 1
        self.changed.set()

    async def until(self, holds: Callable[[], Any], timeout: float = 5.0) -> None:
        async with asyncio.timeout(timeout):
            while not holds():
                self.changed.clear()
                try:
                    async with asyncio.timeout(0.05):
                        await self.changed.wait()
                except TimeoutError:
                    continue


@asynccontextmanager
async def listening(client: RedisClient, channel: str) -> AsyncIterator[Listener]:
    listener = Listener(client, channel)
    task = asyncio.create_task(listener.subscription.run())
    try:
        yield listener
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert not listener.subscription.is_up


async def publish(client: RedisClient, channel: str, *messages: str) -> None:
    await client.pipeline([("PUBLISH", channel, message) for message in messages])


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[RedisClient]:
    async with RedisClient(redis_url) as opened:
        yield opened


async def test_messages_arrive_in_order_after_the_subscription_was_told(
    client: RedisClient, prefix: str
) -> None:
    async with listening(client, prefix) as listener:
        await listener.until(lambda: listener.subscription.is_up)
        assert listener.subscribed == 1
        await publish(client, prefix, *map(str, range(100)))
        await publish(client, f"{prefix}other", "not for us")
        await listener.until(lambda: len(listener.messages) == 100)
    assert listener.messages == [str(number).encode() for number in range(100)]


async def test_a_lost_connection_is_replaced_and_the_gap_is_told(client: RedisClient, prefix: str) -> None:
    async with listening(client, prefix) as listener:
        await listener.until(lambda: listener.subscription.is_up)
        await client.execute("CLIENT", "KILL", "TYPE", "pubsub")
        await listener.until(lambda: listener.subscribed == 2)
        await publish(client, prefix, "after")
        await listener.until(lambda: listener.messages)
    assert listener.messages == [b"after"]


async def test_a_dead_server_is_waited_for(own_server: OwnServerFactory, prefix: str) -> None:
    server = own_server(start=False)
    async with RedisClient(server.url) as client, listening(client, prefix) as listener:
        await asyncio.sleep(0.2)
        assert not listener.subscription.is_up
        await asyncio.to_thread(server.start)
        await listener.until(lambda: listener.subscription.is_up)
        await asyncio.to_thread(server.restart)
        await listener.until(lambda: listener.subscribed == 2)
        await publish(client, prefix, "alive")
        await listener.until(lambda: listener.messages)


async def test_silence_ends_the_connection(
    own_server: OwnServerFactory, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription, "PING_INTERVAL", 0.1)
    server = own_server()
    async with RedisClient(server.url) as client, listening(client, prefix) as listener:
        await listener.until(lambda: listener.subscription.is_up)
        await asyncio.sleep(0.35)
        assert listener.subscribed == 1, "an idle connection that answers is kept"
        server.stop_process()
        try:
            await listener.until(lambda: not listener.subscription.is_up)
        finally:
            server.continue_process()
        await listener.until(lambda: listener.subscribed == 2)


async def test_a_refused_channel_is_said_once_and_tried_seldom(
    own_server: OwnServerFactory, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription, "REFUSED_RETRY", 0.05)
    server = own_server()
    async with RedisClient(server.url) as admin:
        await admin.execute("ACL", "SETUSER", "mute", "on", ">secret", "~*", "+@all", "resetchannels")
        url = f"unix://mute:secret@{server.socket_path}?db=0"
        async with RedisClient(url) as client, listening(client, "some-channel") as listener:
            await asyncio.sleep(0.3)
            assert not listener.subscription.is_up
            assert caplog.text.count("refuses the channel some-channel") == 1
            await admin.execute("ACL", "SETUSER", "mute", "allchannels")
            await listener.until(lambda: listener.subscription.is_up)
    assert "secret" not in caplog.text


async def test_cancelling_leaves_no_connection_behind(own_server: OwnServerFactory, prefix: str) -> None:
    server = own_server()

    async def subscribers(client: RedisClient) -> int:
        clients: bytes = await client.execute("CLIENT", "LIST", "TYPE", "pubsub")
        return len(clients.splitlines())

    async with RedisClient(server.url) as client:
        for pause in (0.0, 0.001, 0.003, 0.01, 0.05):
            async with listening(client, prefix):
                await asyncio.sleep(pause)
        await _settles(lambda: subscribers(client))


async def _settles(count: Callable[[], Awaitable[int]]) -> None:
    async with asyncio.timeout(5):
        while await count():  # noqa: ASYNC110 - the server's list sets no event
            await asyncio.sleep(0.01)
