"""Sentinel: who is asked, what is believed, and that every connection ends up at the master."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import redis

from aioinfra.connection.address import parse_address
from aioinfra.connection.master import Master, Sighting, read_sighting
from aioinfra.connection.pool import PoolOptions, RedisClient
from aioinfra.connection.tracking import TrackingOptions, TrackingState
from aioinfra.connection.translate import ReplyError
from aioinfra.connection.wire import PushWire
from aioinfra.errors import InvalidArgument, StoreUnavailable
from aioinfra.testing import (
    CancelledRun,
    ErrorReply,
    FakeRedis,
    RedisServer,
    SentinelOptions,
    SentinelSetup,
    ServerOptions,
    Silence,
    Value,
    cancel_at_each_suspension,
)
from aioinfra.testing.answers import Answer
from aioinfra.testing.server_process import ServerProcess
from tests.conftest import OwnServerFactory, free_port, redis_binary
from tests.connection.test_address import everything_shown
from tests.connection.test_pool import certificate  # noqa: F401 - a fixture
from tests.connection.test_tracking import Heard, listening, until_state
from tests.fair_time import fair_time

SECRET = "hunter2"


def sentinel_url(setup: SentinelSetup, *, query: str = "", login: str = "") -> str:
    hosts = ",".join([f"{host}:{port}" for host, port in setup.sentinels])
    return f"redis+sentinel://{login}{hosts}/{setup.master_name}/0{query}"


async def until(condition: Callable[[], bool], timeout: float = 8.0) -> None:
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110 - figures have no event
            await asyncio.sleep(0.005)


# URLs


@pytest.mark.parametrize(
    ("url", "location"),
    [
        ("redis+sentinel://a:1,b:2,c/shop/3", "redis+sentinel://a:1,b:2,c:26379/shop/3"),
        ("sentinel://a/shop", "redis+sentinel://a:26379/shop/0"),
        ("redis+sentinel://user:hunter2@[::1]:7,b/shop?db=4", "redis+sentinel://[::1]:7,b:26379/shop/4"),
        ("rediss+sentinel://a/shop?sentinel_password=hunter2", "rediss+sentinel://a:26379/shop/0"),
        ("redis+sentinel://a/2?service_name=shop", "redis+sentinel://a:26379/shop/2"),
        (
            "sentinel://:hunter2@a:1;sentinel://:hunter2@b:2;sentinel://c:3/5?master_name=shop",
            "redis+sentinel://a:1,b:2,c:3/shop/5",
        ),
    ],
)
def test_the_usual_forms_are_understood_and_shown_without_credentials(url: str, location: str) -> None:
    assert parse_address(url).location == location
    client = RedisClient(url)
    assert client.location == location
    assert SECRET not in repr(client) + repr(parse_address(url))


def test_the_login_is_the_masters_and_the_sentinels_have_their_own() -> None:
    address = parse_address("redis+sentinel://u:p%40@a,b/shop?sentinel_username=s&sentinel_password=t")
    assert (address.username, address.password) == ("u", "p@")
    assert address.sentinels is not None
    assert {(one.username, one.password) for one in address.sentinels.members} == {("s", "t")}
    tls = parse_address("rediss+sentinel://a/shop?ssl_cert_reqs=none")
    assert tls.sentinels is not None
    assert tls.tls
    assert tls.tls == tls.sentinels.members[0].tls


@pytest.mark.parametrize(
    "url",
    [
        f"redis+sentinel://:{SECRET}@a,b",
        f"redis+sentinel://:{SECRET}@a,,b/shop",
        f"redis+sentinel://:{SECRET}@/shop/0",
        f"redis+sentinel://:{SECRET}@a/shop/one",
        f"redis+sentinel://:{SECRET}@a/shop/1/2",
        f"redis+sentinel://:{SECRET}@a:70000/shop",
        f"redis+sentinel://:{SECRET}@a:0/shop",
        f"redis+sentinel://:{SECRET}@a/my%20shop",
        f"redis+sentinel://:{SECRET}#@a/shop",
        f"redis+sentinel://:x/{SECRET}@a/shop",
        f"redis+sentinel://:1/{SECRET}",
        f"redis+sentinel://a/shop?{SECRET}=1",
        f"redis+sentinel://a/shop?ssl_keyfile={SECRET}",
        f"sentinel://:{SECRET}@a;sentinel://b/0",
    ],
)
def test_a_malformed_url_is_refused_and_nothing_of_it_is_shown(url: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        RedisClient(url)
    assert refused.value.argument == "url"
    assert SECRET not in everything_shown(refused.value).replace(repr(url), "").replace(url, "")


# What is believed


def test_a_sentinel_that_missed_a_failover_is_not_believed() -> None:
    master = Master("shop", 3)
    master.accept(0, Sighting(("old", 1), 4), 10.0)
    master.accept(2, Sighting(("new", 2), 5), 11.0)
    with pytest.raises(StoreUnavailable, match="behind"):
        master.accept(1, Sighting(("old", 1), 4), 12.0)
    assert (master.place, master.switches, master.vouched_at) == (("new", 2), 1, 11.0)
    assert master.order() == [2, 0, 1]


def test_sentinels_that_were_set_up_anew_are_believed_after_a_while() -> None:
    master = Master("shop", 1)
    master.accept(0, Sighting(("old", 1), 7), 10.0)
    master.vouch(20.0)
    with pytest.raises(StoreUnavailable, match="behind"):
        master.accept(0, Sighting(("other", 3), 0), 49.0)
    master.accept(0, Sighting(("other", 3), 0), 51.0)
    assert master.place == ("other", 3)
    master.accept(0, Sighting(("again", 4), 1), 52.0)
    assert master.switches == 2


@pytest.mark.parametrize("reply", [None, [], [b"host"], [b"host", b"port"], b"host", 7])
def test_an_answer_that_names_no_place_is_none(reply: object) -> None:
    with pytest.raises(StoreUnavailable, match="no master of this name"):
        read_sighting([reply, []])


def test_without_the_right_to_ask_for_the_epoch_all_are_one() -> None:
    assert read_sighting([[b"h", b"1"], ReplyError("NOPERM")]) == Sighting(("h", 1), 0)
    assert read_sighting([[b"h", b"1"], [b"config-epoch", b"9", b"odd"]]) == Sighting(("h", 1), 9)


# Against Sentinels that say what they are told


def names(server: RedisServer, epoch: int = 0) -> tuple[Value, Value]:
    place = Value([b"127.0.0.1", str(server.port).encode()])
    return place, Value([b"name", b"shop", b"config-epoch", str(epoch).encode()])


def tell(sentinel: FakeRedis, server: RedisServer, epoch: int = 0) -> None:
    place, fields = names(server, epoch)
    sentinel.answer("SENTINEL GET-MASTER-ADDR-BY-NAME", place)
    sentinel.answer("SENTINEL MASTER", fields)


def url_of(*sentinels: FakeRedis, query: str = "") -> str:
    return f"redis+sentinel://{','.join([f'127.0.0.1:{one.port}' for one in sentinels])}/shop/0{query}"


@pytest.fixture
async def pair() -> AsyncIterator[tuple[RedisServer, RedisServer]]:
    """A master and its replica."""
    async with RedisServer() as master:
        following = ServerOptions(lines=(f"replicaof 127.0.0.1 {master.port}",))
        async with RedisServer(following) as replica:
            yield master, replica


async def test_a_replica_that_is_named_is_refused_and_the_sentinels_are_asked_again(
    pair: tuple[RedisServer, RedisServer],
) -> None:
    master, replica = pair
    async with FakeRedis() as stale, FakeRedis() as sound:
        tell(stale, replica)
        tell(sound, master)
        async with RedisClient(url_of(stale, sound)) as client:
            await client.execute("SET", "key", "value")
            assert await master.admin("GET", "key") == b"value"
        async with RedisClient(url_of(stale), PoolOptions(connect_timeout=0.3)) as client:
            with pytest.raises(StoreUnavailable) as refused:
                await client.execute("SET", "key", "lost")
            assert refused.value.sent is False
            with pytest.raises(redis.ConnectionError, match="not a master"):
                await client.raw.set("key", "lost")
            connection = client.blocking_connection()
            with pytest.raises(redis.ConnectionError, match="not a master"):
                await asyncio.to_thread(connection.set, "key", "lost")
            connection.close()
        assert await master.admin("GET", "key") == b"value"


async def test_a_master_that_became_a_replica_is_left_without_any_announcement(
    pair: tuple[RedisServer, RedisServer],
) -> None:
    first, second = pair
    async with FakeRedis() as sentinel:
        tell(sentinel, first, 1)
        async with RedisClient(url_of(sentinel)) as client:
            await client.execute("SET", "key", 1)
            await second.admin("REPLICAOF", "NO", "ONE")
            tell(sentinel, second, 2)
            await until(lambda: client.figures().switches == 1)
            await client.execute("SET", "key", 2)
            assert await second.admin("GET", "key") == b"2"


async def test_silent_and_absent_sentinels_cost_little(pair: tuple[RedisServer, RedisServer]) -> None:
    master, _ = pair
    async with AsyncExitStack() as stack:
        fakes = [await stack.enter_async_context(FakeRedis()) for _ in range(4)]
        for one in fakes[:3]:
            one.answer("SENTINEL", Silence())
        tell(fakes[3], master)
        absent = f"127.0.0.1:{RedisServer().port}"
        async with RedisClient(url_of(*fakes).replace("//", f"//{absent},", 1)) as client:
            before = fair_time()
            await client.ping()
            assert fair_time() - before < 0.8
            before = fair_time()
            with client.blocking_connection() as connection:
                assert await asyncio.to_thread(connection.ping)
            assert fair_time() - before < 0.3, "who answered last is asked first"


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (Value(None), "no master of this name"),
        (Silence(), "in time"),
        (ErrorReply("NOAUTH Authentication required."), "credentials"),
    ],
)
async def test_why_no_master_is_found_is_said(answer: Answer, text: str) -> None:
    async with FakeRedis() as sentinel:
        sentinel.answer("SENTINEL", answer)
        async with RedisClient(url_of(sentinel), PoolOptions(connect_timeout=0.2)) as client:
            before = fair_time()
            with pytest.raises(StoreUnavailable, match=text) as refused:
                await client.ping()
            assert fair_time() - before < 1.5
            assert refused.value.sent is False


async def test_the_sentinels_password_goes_to_them_alone(pair: tuple[RedisServer, RedisServer]) -> None:
    master, _ = pair
    async with FakeRedis() as sentinel, FakeRedis(master.url) as data:
        place = Value([b"127.0.0.1", str(data.port).encode()])
        sentinel.answer("SENTINEL GET-MASTER-ADDR-BY-NAME", place)
        sentinel.answer("SENTINEL MASTER", Value([b"config-epoch", b"0"]))
        sentinel.answer("AUTH", Value(b"OK"))
        async with RedisClient(url_of(sentinel, query=f"?sentinel_password={SECRET}")) as client:
            await client.ping()
            assert await client.raw.ping()
            with client.blocking_connection() as connection:
                assert await asyncio.to_thread(connection.ping)
        assert sentinel.count("AUTH") >= 3
        assert data.count("AUTH") == 0
        assert set(sentinel.commands) >= {(b"AUTH", SECRET.encode())}


async def test_a_server_that_nobody_vouches_for_proves_nothing(
    pair: tuple[RedisServer, RedisServer], prefix: str
) -> None:
    """It may have been replaced: its own PONGs confirm nothing once the Sentinels are silent."""
    master, _ = pair
    quick = TrackingOptions(ping_interval=0.1, silence_limit=1.0, reconnect_after=3)
    heard = Heard()
    async with FakeRedis() as sentinel:
        tell(sentinel, master)
        async with (
            RedisClient(url_of(sentinel), PoolOptions(connect_timeout=0.2)) as client,
            listening(client, [prefix], heard, quick) as listener,
        ):
            assert await listener.wait_up(2)
            first = listener.confirmed_at
            await until(lambda: listener.confirmed_at > first)
            await client.ping()
            with sentinel.answer("SENTINEL", Silence()):
                await until_state(listener, TrackingState.STALE, TrackingState.DOWN)
                silent_at = time.monotonic()
                await client.execute("SET", f"{prefix}key", 1)  # what was in use just now still is
                await asyncio.sleep(0.5)
                assert listener.state is not TrackingState.UP
                assert listener.confirmed_at < silent_at - 0.9
            assert await listener.wait_up(5)
            assert heard.reports.count(None) == 2, "armed anew"


async def test_a_cancelled_opening_leaves_nothing_behind(pair: tuple[RedisServer, RedisServer]) -> None:
    master, _ = pair
    before = asyncio.all_tasks()
    async with FakeRedis() as silent, FakeRedis() as sentinel:
        silent.answer("SENTINEL", Silence())
        tell(sentinel, master)

        async def use() -> None:
            async with RedisClient(url_of(silent, sentinel)) as client:
                wire = await client.open_wire(PushWire)
                wire.abort()
                await client.ping()

        async def check(_: CancelledRun) -> None:
            await until(
                lambda: not silent._sessions and not sentinel._sessions and asyncio.all_tasks() == before
            )
            async with asyncio.timeout(2):
                while await connected(master):  # noqa: ASYNC110 - the server tells when it is asked
                    await asyncio.sleep(0.005)

        report = await cancel_at_each_suspension(use, check)
        assert report.suspensions > 4
        assert report.findings == ()


async def connected(server: RedisServer) -> list[bytes]:
    """The ordinary clients, but for the one that asks."""
    clients: bytes = await server.admin("CLIENT", "LIST", "TYPE", "normal")
    return clients.splitlines()[1:]


# Against real ones


async def test_tls_leads_to_the_sentinels_and_to_the_master(
    own_server: OwnServerFactory,
    certificate: Path,  # noqa: F811 - the fixture
) -> None:
    port, tls = free_port(), [f"tls-{name}-file {certificate}/{name}.pem" for name in ("cert", "key")]
    files = [part for line in tls for part in f"--{line}".split()]
    own_server("--tls-port", str(port), *files, "--tls-auth-clients", "no", kind="redis")
    lines = [*tls, f"tls-ca-cert-file {certificate}/cert.pem", "tls-replication yes", "tls-auth-clients no"]
    lines += ["sentinel resolve-hostnames yes", "sentinel announce-hostnames yes"]
    lines += [f"sentinel monitor shop localhost {port} 1", f"tls-port {(own := free_port())}"]
    sentinel = ServerProcess(redis_binary(), lines, arguments=("--sentinel",))
    url = f"rediss+sentinel://localhost:{own}/shop/2"
    patient = PoolOptions(connect_timeout=5, acquire_timeout=5)
    try:
        await sentinel.start()
        async with RedisClient(f"{url}?ssl_ca_certs={certificate}/cert.pem", patient) as client:
            await client.execute("SET", "key", "value")
            assert await client.raw.get("key") == b"value"
            with client.blocking_connection() as connection:
                assert await asyncio.to_thread(connection.get, "key") == b"value"
        async with RedisClient(url, patient) as client:
            with pytest.raises(StoreUnavailable, match="certificate refused"):
                await client.ping()
    finally:
        sentinel.close()


async def test_every_kind_of_connection_follows_the_master() -> None:
    async with SentinelSetup(SentinelOptions(server=ServerOptions(password="pass word"))) as setup:
        url = sentinel_url(setup, login=":pass%20word@")
        async with RedisClient(url) as client:
            await client.execute("SET", "key", "before")
            assert await client.raw.get("key") == b"before"
            own = client.new_connection()
            await own.send_command("PING")
            assert await own.read_response() == b"PONG"
            with client.blocking_connection() as connection:
                assert await asyncio.to_thread(connection.get, "key") == b"before"
                await setup.failover()
                await until(lambda: client.figures().switches == 1)
                await client.execute("SET", "key", "after")
                assert await client.raw.get("key") == b"after"
                assert await asyncio.to_thread(connection.get, "key") == b"after"
                with pytest.raises(redis.ConnectionError, match="moved"):
                    await own.send_command("GET", "key")
                await own.disconnect()
                await own.send_command("GET", "key")
                assert await own.read_response() == b"after"
            await own.disconnect()
            new = await setup.master_server()
            assert await new.admin("GET", "key") == b"after"
            assert "pass" not in client.location


async def listened_to(setup: SentinelSetup) -> list[ServerProcess]:
    """The Sentinels that somebody listens to."""
    running = [one for one in setup.sentinel_servers if one.running]
    clients = await asyncio.gather(*(one.admin("CLIENT", "LIST") for one in running))
    return [one for one, found in zip(running, clients, strict=True) if b" sub=2 " in found]


async def the_one_listened_to(setup: SentinelSetup) -> ServerProcess:
    async with asyncio.timeout(5):
        while True:
            found = await listened_to(setup)
            if found:
                assert len(found) == 1
                return found[0]


async def test_the_watch_moves_on_when_its_sentinel_dies_or_falls_silent() -> None:
    setup = SentinelSetup(SentinelOptions(sentinels=5))
    async with setup, RedisClient(sentinel_url(setup)) as client:
        await client.ping()
        await (await the_one_listened_to(setup)).kill()
        second = await the_one_listened_to(setup)
        second.freeze()
        frozen_at = time.monotonic()
        await until(lambda: client.vouched_at > frozen_at + 2.5)
        await setup.kill_master()
        await until(lambda: client.figures().switches == 1)
        await client.execute("SET", "key", "after")
        second.thaw()


async def test_nothing_of_the_client_is_left_after_its_end() -> None:
    before = asyncio.all_tasks()
    async with SentinelSetup() as setup:
        client = RedisClient(sentinel_url(setup))
        assert asyncio.all_tasks() == before, "constructing begins nothing"
        await client.ping()
        assert asyncio.all_tasks() > before
        await client.aclose()
        await client.aclose()
        assert asyncio.all_tasks() == before
        assert await listened_to(setup) == []
