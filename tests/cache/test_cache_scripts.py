"""The scripts by themselves: what they say of themselves, and the values and locks that only a test writes."""

from __future__ import annotations

import asyncio
import re
import struct
from collections.abc import AsyncIterator
from importlib.resources import files
from typing import Any

import pytest

from aioinfra.cache.script_lane import ScriptLane, script
from aioinfra.codec.envelope import Envelope
from aioinfra.codec.json import JsonCodec
from aioinfra.codec.layout import HEADER, SIZE, Stamp, read_header
from aioinfra.connection.batch import BatchLimits
from aioinfra.connection.pool import RedisClient
from aioinfra.connection.translate import ReplyError
from aioinfra.errors import StoreFull, WrongType
from tests.conftest import OwnServerFactory

NAMES = ("incr", "add", "expire", "lock", "renew", "unlock")
HERE = bytes(8)
DAY = 86_400_000
ENVELOPE = Envelope(JsonCodec())


class Scripts:
    """Runs scripts on one key."""

    def __init__(self, client: RedisClient, key: str) -> None:
        self.client = client
        self.key = key
        self.lane = ScriptLane(client, 2.0, BatchLimits())

    async def run(self, name: str, *args: Any) -> Any:
        return await self.lane.run(name, self.key, *args)

    async def on_value(self, name: str, *args: Any, now: int = 0) -> Any:
        return await self.run(name, now, HERE, b"", 0, *args)

    async def command(self, name: str, *args: Any) -> Any:
        return await self.client.execute(name, self.key, *args)


@pytest.fixture
async def scripts(redis_url: str, prefix: str) -> AsyncIterator[Scripts]:
    async with RedisClient(redis_url) as client:
        scripts = Scripts(client, f"{prefix}a")
        yield scripts
        await scripts.lane.aclose()


@pytest.mark.parametrize("name", NAMES)
def test_each_script_says_what_it_takes_and_what_holds(name: str) -> None:
    text = files("aioinfra.cache").joinpath("scripts", f"{name}.lua").read_text(encoding="utf-8")
    header = "".join(re.findall(r"^--.*\n", text.partition("\nlocal ")[0] + "\n", re.MULTILINE))
    for word in ("KEYS", "ARGV", "Reply", "Invariants", "Cost"):
        assert f"-- {word} " in header or f"-- {word}\n" in header, word
    assert script(name) is script(name)
    used = {int(number) for number in re.findall(r"ARGV\[(\d+)\]", text)}
    if name in ("lock", "renew", "unlock"):
        told = {int(number) for number in re.findall(r"^-- (?:ARGV )? +(\d+)  ", header, re.MULTILINE)}
        assert used <= told
    assert "KEYS[2]" not in text  # one key a script: it runs in a cluster


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:-1],
        lambda data: data + b" ",
        lambda data: data[: SIZE - 1],
        lambda data: b"\xc2" + data[1:],
        lambda data: data[:1] + b"\x01" + data[2:],
        lambda data: data[:4] + b"\x08" + data[5:],  # a flag of a later version
        lambda data: b"",
    ],
    ids=["truncated", "trailing", "half a header", "magic", "version", "flag", "empty"],
)
async def test_what_is_no_value_of_this_layout_is_absent(scripts: Scripts, spoil: Any) -> None:
    for script_name, args, reply in (
        ("expire", ("read", ""), -2),
        ("add", (b"", "", 1, ""), None),
    ):
        await scripts.command("SET", spoil(ENVELOPE.seal(41, Stamp(0.0))))
        assert await scripts.on_value(script_name, *args) == reply
    spoilt = spoil(ENVELOPE.seal(41, Stamp(0.0)))
    await scripts.command("SET", spoilt)
    if spoilt[:1] in (b"\xc1", b""):
        assert await scripts.on_value("incr", 1, 5, "") == 6
        return
    with pytest.raises(ReplyError) as caught:  # it may be another program's counter
        await scripts.on_value("incr", 1, 5, "")
    assert caught.value.code == "NOTCOUNTER"
    assert await scripts.command("GET") == spoilt


async def test_what_is_beyond_its_logical_expiry_is_absent_by_the_given_clock(scripts: Scripts) -> None:
    await scripts.command("SET", ENVELOPE.seal(41, Stamp(1000.0, 2000.0)))
    assert await scripts.on_value("expire", "read", "", now=1_999_000) == 1000
    assert await scripts.on_value("expire", "read", "", now=2_000_000) == -2
    assert await scripts.on_value("expire", "read", "") == -2


async def test_a_sum_is_sealed_as_the_layout_says(scripts: Scripts) -> None:
    assert await scripts.on_value("incr", 5, 0, 10_000, now=1_000_500) == 5
    data = await scripts.command("GET")
    assert HEADER.unpack_from(data) == (0xC1, 2, 1, 0, 0, 0, HERE, 1000.5, 1010.5, 0, 1)
    assert ENVELOPE.open(data) == 5
    assert await scripts.on_value("incr", 95, 0, "", now=1_002_000) == 100
    header = read_header(await scripts.command("GET"))
    assert (header.created, header.expires, header.length) == (1002.0, 1010.5, 3)
    assert 9_000 < await scripts.command("PTTL") <= 10_000


async def test_what_is_stored_is_stamped_by_the_script(scripts: Scripts) -> None:
    sealed = ENVELOPE.seal({"a": 1}, Stamp(7.0, 8.0, 0.5))
    assert await scripts.run("add", 1_000_500, b"current.", b"", 0, sealed, 2_500, 0, "") == 1
    header = read_header(await scripts.command("GET"))
    assert (header.generation, header.created, header.expires) == (b"current.", 1000.5, 1003.0)
    assert header.compute_time == 0.5


async def test_doubt_changes_nothing_and_tells_what_to_judge(scripts: Scripts) -> None:
    foreign = ENVELOPE.seal(41, Stamp(0.0, tags=(("t", b"87654321"),), generation=b"foreign."))
    await scripts.command("SET", foreign)
    start = foreign[: -len(b"41")]
    identity = b"foreign." + start[SIZE:]
    for name, args in (
        ("incr", (1, 5, "")),
        ("add", (foreign, "", 1, "")),
        ("expire", ("set", 5_000)),
        ("expire", ("read", "")),
    ):
        assert await scripts.on_value(name, *args) == [start]
        assert await scripts.run(name, 0, HERE, b"another.", 0, *args) == [start]
        assert await scripts.command("GET") == foreign
    assert await scripts.run("incr", 0, HERE, identity, 1, 1, 5, "") == 42
    assert await scripts.run("incr", 0, HERE, identity, 0, 1, 5, "") == 6


async def test_another_type_is_an_error_and_stays(scripts: Scripts) -> None:
    await scripts.command("RPUSH", "x")
    for name, args in (("incr", (1, 0, "")), ("add", (b"s", "", 0, "")), ("expire", ("read", ""))):
        with pytest.raises(WrongType):
            await scripts.on_value(name, *args)
    for name in ("lock", "renew", "unlock"):
        with pytest.raises(WrongType):
            await scripts.run(name, "me", 1_000)
    assert await scripts.command("LLEN") == 1


async def test_errors_of_counters_have_codes(scripts: Scripts) -> None:
    await scripts.command("SET", ENVELOPE.seal("text", Stamp(0.0)))
    with pytest.raises(ReplyError) as caught:
        await scripts.on_value("incr", 1, 0, "")
    assert caught.value.code == "NOTCOUNTER"
    await scripts.command("SET", ENVELOPE.seal(2**53, Stamp(0.0)))
    with pytest.raises(ReplyError) as caught:
        await scripts.on_value("incr", 1, 0, "")
    assert caught.value.code == "RANGE"
    await scripts.command("SET", ENVELOPE.seal_failure("KeyError", [5], Stamp(0.0)))
    with pytest.raises(ReplyError) as caught:
        await scripts.on_value("incr", 1, 0, "")
    assert caught.value.code == "NOTCOUNTER"


async def test_the_time_of_a_large_value_changes_in_place(scripts: Scripts) -> None:
    data = ENVELOPE.seal(b"x" * (8 << 20), Stamp(0.0))
    await scripts.command("SET", data)
    loop = asyncio.get_running_loop()
    started = loop.time()
    for _ in range(200):
        await scripts.on_value("expire", "set", 60_000)
    assert loop.time() - started < 2.0  # 200 copies of 8 MB take longer than that even without the wire
    stored = await scripts.command("GET")
    assert stored[:24] + stored[32:] == data[:24] + data[32:]
    assert struct.unpack_from("<d", stored, 24)[0] > 0


# Locks


async def test_a_fence_rises_over_what_the_key_has_seen(scripts: Scripts) -> None:
    future = 9_000_000_000_000_000
    await scripts.command("SET", f"{future} 0 old")  # as after a clock that was set back
    assert await scripts.run("lock", "me", 10_000) == [future + 1, 0]
    assert await scripts.run("lock", "me", 10_000) == [future + 1, 0]
    assert await scripts.run("unlock", "me") == 1
    assert await scripts.run("lock", "me", 10_000) == [future + 2, 0]
    await scripts.command("DEL")
    seconds = int((await scripts.client.execute("TIME"))[0])
    fence, _ = await scripts.run("lock", "other", 10_000)
    assert fence >= seconds * 1_000_000  # by the clock, when the key is lost


async def test_a_lease_ends_by_the_servers_clock_and_is_not_brought_back(scripts: Scripts) -> None:
    fence, _ = await scripts.run("lock", "me", 60_000)
    nobody, left = await scripts.run("lock", "other", 1_000)
    assert nobody == 0
    assert 50_000 < left <= 60_000
    seconds = int((await scripts.client.execute("TIME"))[0])
    await scripts.command("SET", f"{fence} {seconds * 1_000_000} me")  # the lease is over
    assert (await scripts.run("lock", "other", 60_000))[1] == 0
    assert await scripts.run("renew", "me", 1_000) == 0
    assert await scripts.run("unlock", "me") == 0
    assert await scripts.run("renew", "other", 60_000) == 1
    later, left = await scripts.run("lock", "me", 1_000)
    assert later == 0
    assert 50_000 < left <= 60_000
    assert int((await scripts.command("GET")).split()[0]) > fence
    assert DAY < await scripts.command("PTTL") <= DAY + 60_000


async def test_a_lapsed_lease_that_nobody_took_stays_lapsed(scripts: Scripts) -> None:
    await scripts.command("SET", "5 1000 me")
    assert await scripts.run("renew", "me", 1_000) == 0
    assert await scripts.run("unlock", "me") == 1
    assert await scripts.command("GET") == b"5 0 me"


async def test_a_release_may_be_repeated_until_the_next_holder(scripts: Scripts) -> None:
    await scripts.run("lock", "me", 10_000)
    assert await scripts.run("unlock", "other") == 0
    assert await scripts.run("unlock", "me") == 1
    assert await scripts.run("unlock", "me") == 1
    assert await scripts.run("renew", "me", 1_000) == 0
    assert 0 < await scripts.command("PTTL") <= DAY
    await scripts.run("lock", "other", 10_000)
    assert await scripts.run("unlock", "me") == 0


async def test_what_is_no_lock_is_replaced(scripts: Scripts) -> None:
    for junk in ("junk", "1 2", "a b c", "", "1 99999999999999999 x y"):
        await scripts.command("SET", junk)
        assert await scripts.run("renew", "me", 1_000) == 0
        assert await scripts.run("unlock", "me") == 0
        assert (await scripts.run("lock", "me", 1_000))[1] == 0
        await scripts.command("DEL")


async def test_a_full_server_still_renews_and_frees(own_server: OwnServerFactory) -> None:
    async with RedisClient(own_server().url) as client:
        scripts = Scripts(client, "a")
        await scripts.run("lock", "me", 10_000)
        await client.execute("CONFIG", "SET", "maxmemory", 1)
        with pytest.raises(StoreFull):
            await scripts.run("lock", "me", 10_000)
        assert await scripts.run("renew", "me", 20_000) == 1
        assert await scripts.run("unlock", "me") == 1
        assert await scripts.command("GET") == (await scripts.command("GET")).split()[0] + b" 0 me"
        await scripts.lane.aclose()
