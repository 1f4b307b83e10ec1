"""The Sentinel setup really fails over."""

from __future__ import annotations

import pytest

from aioinfra.errors import InvalidArgument, StoreError
from aioinfra.testing.sentinel import SentinelOptions, SentinelSetup
from aioinfra.testing.servers import ServerOptions
from tests.fair_time import fair_time


async def test_a_killed_master_is_replaced_and_the_other_replica_follows() -> None:
    before = fair_time()
    async with SentinelSetup() as setup:
        assert fair_time() - before < 5
        assert len(setup.sentinels) == 3
        first = await setup.master_server()
        assert await setup.master() == ("127.0.0.1", first.port)
        await first.admin("SET", "key", "value")
        assert await first.admin("WAIT", 2, 1000) == 2
        assert await setup.kill_master() is first
        assert not first.running
        found = await setup.wait_for_new_master(20)
        assert found != ("127.0.0.1", first.port)
        second = await setup.master_server()
        assert found == ("127.0.0.1", second.port)
        assert await second.admin("GET", "key") == b"value"
        await second.admin("SET", "key", "again")
        assert await second.admin("WAIT", 1, 3000) == 1


async def test_a_frozen_master_is_replaced_and_becomes_a_replica_when_it_is_back() -> None:
    async with SentinelSetup(SentinelOptions(brisk=True)) as setup:
        first = await setup.freeze_master()
        found = await setup.wait_for_new_master(20)
        first.thaw()
        assert found != ("127.0.0.1", first.port)
        await setup.wait_ok(20)
        assert (await first.admin("ROLE"))[:3] == [b"slave", b"127.0.0.1", found[1]]


async def test_a_failover_on_request() -> None:
    options = SentinelOptions("shop", server=ServerOptions(password="pass word"))
    async with SentinelSetup(options) as setup:
        before = await setup.master()
        after = await setup.failover()
        assert after != before
        assert await setup.master() == after
        await setup.kill_master()
        with pytest.raises(TimeoutError, match=r"no new master within 0\.1 s"):
            await setup.wait_for_new_master(0.1)


async def test_a_master_without_replicas_refuses_writes_when_told_to() -> None:
    async with SentinelSetup(SentinelOptions(replicas=1, min_replicas=1, down_after=60)) as setup:
        master, replica = setup.servers
        await master.admin("SET", "key", "value")
        await replica.kill()
        with pytest.raises(StoreError, match="NOREPLICAS"):
            await master.admin("SET", "key", "value")


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"master_name": "my master"}, "master_name"),
        ({"master_name": ""}, "master_name"),
        ({"replicas": 0}, "replicas"),
        ({"sentinels": True}, "sentinels"),
        ({"min_replicas": 3}, "min_replicas"),
        ({"down_after": float("nan")}, "down_after"),
        ({"failover_timeout": 0}, "failover_timeout"),
        ({"server": ServerOptions(port=7000)}, "server"),
    ],
)
def test_bad_options_are_named(options: dict[str, object], argument: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        SentinelOptions(**options)  # type: ignore[arg-type]  # that is the point
    assert refused.value.argument == argument
