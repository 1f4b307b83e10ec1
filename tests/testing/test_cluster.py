"""The cluster serves every slot, and replicas take over."""

from __future__ import annotations

import random

import pytest

from aioinfra.errors import InvalidArgument, StoreError
from aioinfra.testing.cluster import ClusterOptions, ClusterSetup, slot_of
from aioinfra.testing.raw_command import ask_blocking
from aioinfra.testing.server_process import free_ports
from aioinfra.testing.servers import RedisServer, ServerOptions
from tests.fair_time import fair_time


async def test_every_key_has_its_master_and_a_replica_takes_over_from_a_killed_one() -> None:
    before = fair_time()
    async with ClusterSetup() as cluster:
        assert fair_time() - before < 8
        assert len(cluster.urls) == 6
        keys = [f"key:{n}" for n in range(30)]
        served = {await cluster.node_of(key) for key in keys}
        assert len(served) == 3
        for key in keys:
            await (await cluster.node_of(key)).admin("SET", key, key)
        lost = await cluster.node_of("key:0")
        assert await lost.admin("WAIT", 1, 1000) == 1
        await lost.kill()
        await cluster.wait_ok()
        heir = await cluster.node_of("key:0")
        assert heir is not lost
        for key in keys:
            assert await (await cluster.node_of(key)).admin("GET", key) == key.encode()
        await lost.start()
        await cluster.wait_ok()
        assert (await lost.admin("ROLE"))[0] == b"slave"


async def test_a_frozen_master_is_replaced() -> None:
    options = ClusterOptions(node_timeout=0.5, server=ServerOptions(password="pass word"))
    async with ClusterSetup(options) as cluster:
        lost = await cluster.node_of("key")
        stranger = next(node for node in cluster.nodes if node is not lost)
        with pytest.raises(StoreError, match=f"MOVED .*:{lost.port}"):
            await stranger.admin("SET", "key", "value")
        lost.freeze()
        with pytest.raises(TimeoutError, match=r"did not serve every slot within 0\.1 s"):
            await cluster.wait_ok(0.1)
        await cluster.wait_ok()
        assert await cluster.node_of("key") is not lost


def test_slots_are_the_servers_own() -> None:
    draw = random.Random(7)
    keys: list[bytes] = [b"", b"{}", b"{}a", b"a{b}c", b"{a}{b}", b"a{b", b"}a{b}", b"{{a}}", b"\xff\x00"]
    keys += [draw.randbytes(draw.randrange(12)) for _ in range(100)]
    lines = ("cluster-enabled yes", f"cluster-port {free_ports(1)[0]}")
    with RedisServer(ServerOptions(lines=lines)) as server:
        asked = [ask_blocking(server.address, ("CLUSTER", "KEYSLOT", key)) for key in keys]
    assert asked == [slot_of(key) for key in keys]


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"masters": 2}, "masters"),
        ({"replicas": -1}, "replicas"),
        ({"node_timeout": True}, "node_timeout"),
        ({"server": ServerOptions(unix=True)}, "server"),
    ],
)
def test_bad_options_are_named(options: dict[str, object], argument: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        ClusterOptions(**options)  # type: ignore[arg-type]  # that is the point
    assert refused.value.argument == argument
