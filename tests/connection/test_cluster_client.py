"""A Cluster's master of one hash tag: found, followed, and believed only while the others agree."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest

from aioinfra.cache.manager import CacheManager
from aioinfra.connection.address import parse_address
from aioinfra.connection.cluster import SlotMaster, hash_tag, slot_of
from aioinfra.connection.pool import PoolOptions, RedisClient
from aioinfra.errors import InvalidArgument, StoreError, StoreUnavailable
from aioinfra.jobs.redis_store import RedisJobStore
from aioinfra.testing import ClusterOptions, ClusterSetup, RedisServer
from tests.conftest import Deployed
from tests.jobs.kit import until

SECRET = "hunter2-planted"
BACK_WITHIN = (
    15.0  # seconds from a fault: the cluster's own failover, a second of silence first, is most of it
)


def url_of(nodes: list[RedisServer], tag: str = "shop") -> str:
    return f"redis+cluster://{','.join(f'127.0.0.1:{node.port}' for node in nodes)}/{tag}"


@pytest.fixture
async def cluster() -> AsyncIterator[ClusterSetup]:
    async with ClusterSetup(ClusterOptions(node_timeout=0.5)) as setup:
        yield setup


# URLs and slots


@pytest.mark.parametrize(
    ("key", "tag", "slot"),
    [
        ("123456789", None, 0x31C3),  # the specification's own example
        ("foo", None, 12182),
        ("{user1000}.following", "user1000", slot_of("user1000")),
        ("foo{}{bar}", None, 8363),
        ("foo{{bar}}zap", "{bar", slot_of("{bar")),
        ("foo{bar}{zap}", "bar", slot_of("bar")),
        ("a}b{", None, slot_of("a}b{")),
    ],
)
def test_slots_are_those_of_the_specification(key: str, tag: str | None, slot: int) -> None:
    assert (hash_tag(key), slot_of(key)) == (tag, slot)


async def test_the_servers_agree_on_slots(session_cluster: Deployed) -> None:
    async with RedisClient(session_cluster.url) as client:
        for key in ("a", "{tests}:x", "foo{}{bar}", "foo{{bar}}zap", "é", "x" * 1000):
            assert await client.execute("CLUSTER", "KEYSLOT", key) == slot_of(key)


def test_a_cluster_url_has_nodes_a_login_and_a_tag() -> None:
    address = parse_address(f"rediss+cluster://me:{SECRET}@one:7000,two/shop?client_name=x")
    assert [(node.host, node.port, node.password) for node in address.members] == [
        ("one", 7000, SECRET),
        ("two", 6379, SECRET),
    ]
    assert address.location == "rediss+cluster://one:7000,two:6379/shop"
    assert address.cluster is not None
    assert (address.cluster.tag, address.tls is None) == ("shop", False)
    assert SECRET not in repr(address)


@pytest.mark.parametrize(
    "rest", ["h", "h/", "h/a b", "h/{a}", "h/a/b", "/a", "h:0/a", "h:99999/a", "h,,i/a", "h/a?db=1", "h/a#b"]
)
def test_bad_cluster_urls_are_refused_without_repeating_them(rest: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        RedisClient(f"redis+cluster://:{SECRET}@{rest}")
    assert raised.value.argument == "url"
    assert SECRET not in str(raised.value)


NODES = b"""a1 10.0.0.1:7000@17000,,tls-port=0,shard-id=x master - 0 0 7 connected 0-5460
b2 10.0.0.2:7000@17000 master,fail - 0 0 2 disconnected 5461-10922
c3 10.0.0.3:7000@17000 slave b2 0 0 2 connected
d4 :7000@17000,node-4.example myself,master - 0 0 9 connected 10923-16382 16383 [93->-a1]
"""


@pytest.mark.parametrize(
    ("tag", "place", "epoch"), [("b", ("10.0.0.1", 7000), 7), ("a", ("node-4.example", 7000), 9)]
)
def test_the_table_of_nodes_is_read(tag: str, place: tuple[str, int], epoch: int) -> None:
    found = SlotMaster(tag, 1).read([NODES])
    assert (found.place, found.epoch) == (place, epoch)


@pytest.mark.parametrize("table", [b"", b"junk", None, NODES.replace(b"10923-16382", b""), b"\xff \xff"])
def test_a_table_in_which_nobody_serves_the_slot_is_no_answer(table: object) -> None:
    with pytest.raises(StoreUnavailable, match="nobody serves"):
        SlotMaster("a", 1).read([table])


def test_jobs_are_refused_on_a_cluster() -> None:
    with pytest.raises(InvalidArgument, match="jobs do not run on a Cluster"):
        RedisJobStore(RedisClient("redis+cluster://h/a"))


@pytest.mark.parametrize(
    ("namespace", "full"),
    [("aioinfra:cache:", "{shop}:aioinfra:cache:"), ("x{shop}:", "x{shop}:"), ("x{", "{shop}:x{")],
)
def test_a_namespace_gets_the_tag_of_its_cluster(namespace: str, full: str) -> None:
    assert CacheManager("redis+cluster://h/shop", namespace=namespace).namespace == full


def test_a_namespace_with_another_tag_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="another hash tag") as raised:
        CacheManager("redis+cluster://h/shop", namespace="{other}:")
    assert raised.value.argument == "namespace"


# Following


async def test_any_node_leads_to_the_master_of_the_tag(session_cluster: Deployed) -> None:
    nodes = session_cluster.url.removeprefix("redis+cluster://").partition("/")[0].split(",")
    for node in nodes:
        for tag in ("a", "b", "c", "d"):
            async with RedisClient(f"redis+cluster://{node}/{tag}") as client:
                assert await client.execute("SET", f"{{{tag}}}:x", "1", "PX", 1000) == b"OK"
                assert await client.raw.get(f"{{{tag}}}:x") == b"1"


async def test_a_key_of_another_slot_is_an_error_that_says_so(session_cluster: Deployed) -> None:
    async with RedisClient(session_cluster.url) as client:
        foreign = next(key for key in "abcdefgh" if abs(slot_of(key) - slot_of("{tests}")) > 6000)
        with pytest.raises(StoreUnavailable, match="another node of the cluster serves this slot"):
            await client.execute("GET", foreign)
        with pytest.raises(StoreError, match="CROSSSLOT"):
            await client.execute("MGET", "{tests}a", foreign)


async def test_nodes_that_are_gone_are_passed_over(session_cluster: Deployed) -> None:
    url = session_cluster.url.replace("redis+cluster://", "redis+cluster://127.0.0.1:1,")
    async with RedisClient(url) as client:
        await client.ping()


async def test_without_any_node_a_call_ends_in_time() -> None:
    async with RedisClient(
        "redis+cluster://127.0.0.1:1,127.0.0.1:2/a", PoolOptions(connect_timeout=0.5)
    ) as client:
        with pytest.raises(StoreUnavailable, match="name no master"):
            await client.ping()


@pytest.mark.parametrize("fault", ["crash", "handed over"])
async def test_a_cache_follows_its_master_and_nobody_reads_what_is_old(
    cluster: ClusterSetup, fault: str
) -> None:
    """Two caches share the tag; one writes what the other keeps in L1, before and after the master is replaced."""
    url = url_of(list(cluster.nodes))
    async with CacheManager(url) as writer, CacheManager(url) as reader:
        await writer.set("k", 0)
        assert await reader.get("k") == 0
        old = await cluster.node_of("{shop}")
        started = time.monotonic()
        if fault == "crash":
            await old.kill()
        else:
            await hand_over(cluster, old)
        number = 0
        async with asyncio.timeout(BACK_WITHIN):
            while True:
                number += 1
                await writer.set("k", number)  # answered all along
                now = [await cache.health_check() for cache in (writer, reader)]
                if all(state.status == "healthy" and state.l1 == "up" for state in now) and await moved(
                    cluster, old
                ):
                    break
                await asyncio.sleep(0.02)
        for later in range(number, number + 20):
            await writer.set("k", later)
            assert await reader.barrier(5.0)
            assert await reader.get("k") == later
        assert time.monotonic() - started < BACK_WITHIN


async def test_a_slot_that_is_moved_is_an_outage_that_ends_and_its_values_move_along(
    cluster: ClusterSetup,
) -> None:
    """Key by key, as redis-cli does it; half of the keys have moved when the caches are asked again."""
    url = url_of(list(cluster.nodes))
    values = {f"k{number}": number for number in range(40)}
    async with CacheManager(url) as writer, CacheManager(url) as reader:
        await writer.mset(values)
        assert await reader.barrier(5.0)
        assert await reader.mget(values) == values  # now in its L1
        old, new = await moving(cluster)
        slot = slot_of("{shop}")
        keys = await old.admin("CLUSTER", "GETKEYSINSLOT", slot, 1000)
        for half in (keys[::2], keys[1::2]):
            await old.admin("MIGRATE", "127.0.0.1", new.port, "", 0, 5000, "KEYS", *half)
            for cache in (writer, reader):
                await cache.set("touched", "meanwhile")  # answered all along
                found = await cache.mget(values)
                assert found.items() <= values.items()
        assert (await writer.health_check()).status == "degraded"
        for node in (new, old):
            await node.admin("CLUSTER", "SETSLOT", slot, "NODE", await new.admin("CLUSTER", "MYID"))
        async with asyncio.timeout(BACK_WITHIN):
            await asyncio.gather(writer.wait_healthy(), reader.wait_healthy())
        assert await cluster.node_of("{shop}") is new
        for cache in (writer, reader):
            assert await cache.mget(values, consistency="strong") == values
            assert await cache.get("touched", "deleted", consistency="strong") == "deleted"

        async def heard() -> bool:
            return (await reader.health_check()).l1 == "up"

        await until(heard, BACK_WITHIN)
        for number in range(20):  # who writes to the new owner is heard there
            await writer.set("k0", -number)
            assert await reader.barrier(5.0)
            assert await reader.get("k0") == -number


async def moving(cluster: ClusterSetup) -> tuple[RedisServer, RedisServer]:
    """Begin to move the slot to another master: its owner, and who is to be."""
    old = await cluster.node_of("{shop}")
    masters = [node for node in cluster.nodes if (await node.admin("ROLE"))[0] == b"master"]
    new = next(node for node in masters if node is not old)
    slot = slot_of("{shop}")
    await new.admin("CLUSTER", "SETSLOT", slot, "IMPORTING", await old.admin("CLUSTER", "MYID"))
    await old.admin("CLUSTER", "SETSLOT", slot, "MIGRATING", await new.admin("CLUSTER", "MYID"))
    return old, new


async def hand_over(cluster: ClusterSetup, old: RedisServer) -> None:
    """Have a replica of the master take over while the master lives."""
    myself = await old.admin("CLUSTER", "MYID")
    for node in cluster.nodes:
        role = await node.admin("ROLE")
        if role[0] == b"slave" and role[2] == old.port:
            assert myself
            await node.admin("CLUSTER", "FAILOVER")
            return
    raise AssertionError("the master has no replica")


async def moved(cluster: ClusterSetup, old: RedisServer) -> bool:
    with contextlib.suppress(StoreUnavailable):
        return (await cluster.node_of("{shop}")).port != old.port
    return False
