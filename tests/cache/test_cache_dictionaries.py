"""Dictionaries of a cache: found by every process, kept as long as a value may need them, never trusted."""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from aioinfra.cache.dictionaries import CacheDictionaries, DictionaryOptions
from aioinfra.cache.dictionary_store import DictionaryStore
from aioinfra.cache.dictionary_training import TrainingOptions, train_dictionary
from aioinfra.cache.names import Names
from aioinfra.codec.dictionaries import (
    MOST_LIFE,
    MOST_SIZE,
    Dictionaries,
    Dictionary,
    NotTrainable,
    UnknownDictionary,
    train,
)
from aioinfra.codec.envelope import Envelope, EnvelopeOptions
from aioinfra.codec.json import JsonCodec
from aioinfra.codec.layout import Stamp, read_header
from aioinfra.connection.pool import PoolOptions, RedisClient
from aioinfra.errors import DecodeError, InvalidArgument, LifecycleError, StoreUnavailable
from aioinfra.testing import FaultProxy, VirtualClock
from benchmarks.cache_compression import customers

FIRST = train(customers(300), size=4096)
SECOND = train(customers(300, seed=2), size=4096)
RECORD: Any = json.loads(customers(1, seed=3)[0])
MINUTE = Stamp(1000.0, 1060.0)


class Process:
    """What one process has: an envelope, and the dictionaries that go with it."""

    def __init__(self, client: RedisClient, namespace: str, **options: Any) -> None:
        self.envelope = Envelope(JsonCodec())
        self.known = self.envelope.dictionaries
        clock = options.pop("clock", None)
        clocks = {} if clock is None else {"clock": clock}
        self.shared = CacheDictionaries(
            client, Names(namespace), self.known, DictionaryOptions(**options), **clocks
        )


Start = Callable[..., Process]


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[RedisClient]:
    async with RedisClient(redis_url, PoolOptions(max_connections=5)) as opened:
        yield opened


@pytest.fixture
async def start(client: RedisClient, prefix: str) -> AsyncIterator[Start]:
    made: list[Process] = []

    def begin(**options: Any) -> Process:
        process = Process(options.pop("client", client), prefix, **options)
        made.append(process)
        return process

    yield begin
    for process in made:
        await process.shared.aclose()


@pytest.fixture
def key(prefix: str) -> Callable[[object], str]:
    """Keys of the dictionaries, as they are documented."""
    return lambda name: f"aioinfra:cache-meta:{prefix}dict{name}"


Key = Callable[[object], str]


async def test_a_server_without_dictionaries_is_read_once(start: Start, client: RedisClient) -> None:
    process = start()
    before = await calls(client)
    await process.shared.start()
    after = await calls(client)
    assert {name: after[name] - before.get(name, 0) for name in after if after[name] != before.get(name)} == {
        "getrange": 1,
        "info": 1,
    }
    assert process.known.current is None


async def calls(client: RedisClient) -> dict[str, int]:
    """How often the server has run each command."""
    text: bytes = await client.execute("INFO", "commandstats")
    lines = [line.partition(":calls=") for line in text.decode().splitlines() if ":calls=" in line]
    return {name.removeprefix("cmdstat_"): int(rest.partition(",")[0]) for name, _, rest in lines}


async def test_what_one_process_publishes_the_next_one_starts_with(
    start: Start, key: Key, client: RedisClient
) -> None:
    writer, reader = start(), start()
    await writer.shared.publish(FIRST)
    await reader.shared.start()
    assert writer.known.current == reader.known.current == FIRST
    sealed = writer.envelope.seal(RECORD, MINUTE)
    assert read_header(sealed).compression == 2
    assert reader.envelope.open(sealed) == RECORD
    assert await client.execute("GET", key(f":{FIRST.id}")) == FIRST.content
    assert MOST_LIFE < await client.execute("TTL", key(f":{FIRST.id}")) <= 90 * 86_400
    assert await client.execute("TTL", key("-current")) == -1


async def test_a_process_that_runs_learns_of_a_new_one(start: Start, client: RedisClient) -> None:
    writer, reader = start(), start()
    await reader.shared.start()
    await writer.shared.publish(FIRST)
    reader.shared.changed()
    await until(lambda: reader.known.current == FIRST)
    await writer.shared.publish(SECOND)
    await reader.shared.refresh()
    assert reader.known.current == SECOND
    assert FIRST.id in reader.known


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110 - what a server's answer changes sets no event
            await asyncio.sleep(0.005)


async def test_a_value_of_a_rotated_dictionary_opens_after_one_fetch(start: Start) -> None:
    writer, reader = start(), start()
    await writer.shared.publish(FIRST)
    sealed = writer.envelope.seal(RECORD, MINUTE)
    await writer.shared.publish(SECOND)
    await reader.shared.start()
    assert reader.known.current == SECOND
    with pytest.raises(UnknownDictionary) as caught:
        reader.envelope.open(sealed)
    assert await reader.shared.fetch(caught.value.id)
    assert reader.envelope.open(sealed) == RECORD


async def test_what_values_need_is_provided_before_they_are_opened(redis_url: str, start: Start) -> None:
    writer = start()
    sealed: list[bytes | None] = [
        None,
        b"",
        b"\xc1\x02\x01\x02",
        bytes(100),
        writer.envelope.seal(RECORD, MINUTE),
    ]
    for dictionary in (FIRST, SECOND):
        await writer.shared.publish(dictionary)
        sealed.append(writer.envelope.seal(RECORD, MINUTE))
        sealed.append(writer.envelope.seal(RECORD, Stamp(1000.0, 1060.0, tags=(("tag", bytes(8)),))))
    async with FaultProxy(redis_url) as proxy, RedisClient(proxy.url) as watched:
        reader = start(client=watched)
        await reader.shared.provide(sealed)
        assert [reader.envelope.open(data) for data in sealed[4:] if data is not None] == [RECORD] * 5
        before = proxy.figures().bytes_upstream
        await reader.shared.provide(sealed)
        assert proxy.figures().bytes_upstream == before


async def test_a_dictionary_that_is_nowhere_leaves_a_value_unreadable(start: Start) -> None:
    writer, reader = start(), start()
    writer.known.use(FIRST)
    sealed = writer.envelope.seal(RECORD, MINUTE)
    await reader.shared.provide([sealed])
    with pytest.raises(DecodeError):
        reader.envelope.open(sealed)


CHILD = """
import asyncio, sys
from aioinfra.cache.dictionaries import CacheDictionaries
from aioinfra.cache.names import Names
from aioinfra.codec.dictionaries import UnknownDictionary
from aioinfra.codec.envelope import Envelope
from aioinfra.codec.json import JsonCodec
from aioinfra.connection.pool import RedisClient

async def main(url, namespace, key):
    envelope = Envelope(JsonCodec())
    async with RedisClient(url) as client:
        shared = CacheDictionaries(client, Names(namespace), envelope.dictionaries)
        await shared.start()
        data = await client.execute("GET", key)
        try:
            envelope.open(data)
        except UnknownDictionary as unknown:
            assert await shared.fetch(unknown.id)
            print(envelope.codec.encode(envelope.open(data)).decode())
        await shared.aclose()

asyncio.run(main(*sys.argv[1:]))
"""


async def test_another_process_reads_values_of_a_rotated_dictionary(
    start: Start, client: RedisClient, redis_url: str, prefix: str
) -> None:
    writer = start()
    await writer.shared.publish(FIRST)
    await client.execute("SET", f"{prefix}value", writer.envelope.seal(RECORD, MINUTE), "EX", 60)
    await writer.shared.publish(SECOND)
    command = [sys.executable, "-c", CHILD, redis_url, prefix, f"{prefix}value"]
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == RECORD


async def test_many_who_need_a_dictionary_ask_once_and_its_absence_is_remembered(
    redis_url: str, start: Start, key: Key, client: RedisClient
) -> None:
    clock = VirtualClock()
    async with FaultProxy(redis_url) as proxy, RedisClient(proxy.url) as watched:
        reader = start(client=watched, clock=clock, absence=2.0)
        await watched.ping()
        before = proxy.figures().bytes_upstream
        assert await asyncio.gather(*(reader.shared.fetch(FIRST.id) for _ in range(50))) == [False] * 50
        once = proxy.figures().bytes_upstream - before
        assert 0 < once < 300
        assert not await reader.shared.fetch(FIRST.id)
        assert proxy.figures().bytes_upstream - before == once
        await client.execute("SET", key(f":{FIRST.id}"), FIRST.content)
        assert not await reader.shared.fetch(FIRST.id)
        async with clock:
            await clock.advance(2.1)
        assert all(await asyncio.gather(*(reader.shared.fetch(FIRST.id) for _ in range(50))))
        assert FIRST.id in reader.known


async def test_a_caller_who_leaves_takes_nothing_from_the_others(start: Start) -> None:
    writer, reader = start(), start()
    await writer.shared.publish(FIRST)
    leaving = asyncio.create_task(reader.shared.fetch(FIRST.id))
    staying = asyncio.create_task(reader.shared.fetch(FIRST.id))
    await asyncio.sleep(0)
    leaving.cancel()
    assert await staying
    assert leaving.cancelled()


@pytest.mark.parametrize(
    "content",
    [
        b"junk",
        FIRST.content[:-1],
        SECOND.content,
        FIRST.content + b"\0",
        secrets.token_bytes(MOST_SIZE + 5),
    ],
    ids=["junk", "cut", "another", "longer", "huge"],
)
async def test_what_is_not_the_dictionary_is_refused(
    start: Start, key: Key, client: RedisClient, content: bytes
) -> None:
    await client.execute("SET", key(f":{FIRST.id}"), content)
    reader = start()
    assert not await reader.shared.fetch(FIRST.id)
    assert len(reader.known) == 0
    assert reader.shared.refused == 1


async def test_junk_for_the_current_one_changes_nothing(start: Start, key: Key, client: RedisClient) -> None:
    process = start()
    await process.shared.publish(FIRST)
    await client.execute("SET", key("-current"), b"junk")
    await process.shared.refresh()
    assert process.known.current == FIRST
    await client.execute("DEL", key("-current"))
    await client.execute("LPUSH", key("-current"), "a list")
    await process.shared.refresh()
    assert process.known.current == FIRST
    assert process.shared.refused == 2
    other = start()
    await other.shared.start()
    assert other.known.current is None


async def test_one_in_use_is_renewed_and_put_back_when_it_was_evicted(
    start: Start, key: Key, client: RedisClient
) -> None:
    process = start()
    await process.shared.publish(FIRST)
    process.envelope.seal(RECORD, MINUTE)
    await client.execute("EXPIRE", key(f":{FIRST.id}"), 1000)
    await process.shared.renew()
    assert await client.execute("TTL", key(f":{FIRST.id}")) > MOST_LIFE
    process.envelope.open(process.envelope.seal(RECORD, MINUTE))
    await client.execute("DEL", key(f":{FIRST.id}"), key("-current"))
    await process.shared.renew()
    await process.shared.refresh()
    assert await client.execute("GET", key(f":{FIRST.id}")) == FIRST.content
    assert await client.execute("GET", key("-current")) == FIRST.content


async def test_one_that_nobody_uses_is_left_to_expire(start: Start, key: Key, client: RedisClient) -> None:
    process = start()
    await process.shared.publish(FIRST)
    await client.execute("EXPIRE", key(f":{FIRST.id}"), 1000)
    await process.shared.renew()
    assert await client.execute("TTL", key(f":{FIRST.id}")) <= 1000


async def test_renewal_goes_on_by_itself(start: Start, key: Key, client: RedisClient) -> None:
    process = start(renewal=0.05)
    await process.shared.publish(FIRST)
    await process.shared.start()
    process.envelope.seal(RECORD, MINUTE)
    await client.execute("DEL", key(f":{FIRST.id}"), key("-current"))
    async with asyncio.timeout(5):
        while await client.execute("EXISTS", key(f":{FIRST.id}"), key("-current")) < 2:  # noqa: ASYNC110 - a server tells nobody
            await asyncio.sleep(0.01)


async def test_a_put_back_does_not_undo_what_another_process_published(
    start: Start, key: Key, client: RedisClient
) -> None:
    late, publisher = start(), start()
    await late.shared.publish(FIRST)
    await publisher.shared.publish(SECOND)
    late.envelope.seal(RECORD, MINUTE)
    await late.shared.renew()
    await late.shared.refresh()
    assert late.known.current == SECOND
    assert await client.execute("GET", key("-current")) == SECOND.content


async def test_without_a_server_nothing_is_sealed_with_a_dictionary_until_it_is_back(
    redis_url: str, start: Start
) -> None:
    await start().shared.publish(FIRST)
    async with FaultProxy(redis_url) as proxy, RedisClient(proxy.url) as cut:
        proxy.partition()
        process = start(client=cut, budget=0.05)
        await process.shared.start()
        assert process.known.current is None
        with pytest.raises(StoreUnavailable):
            await process.shared.fetch(FIRST.id)
        forgiving = start(client=cut, budget=0.05, fallback=True)
        assert not await forgiving.shared.fetch(FIRST.id)
        proxy.heal()
        await until(lambda: process.known.current == FIRST)
        assert await forgiving.shared.fetch(FIRST.id)  # what an outage hid is not remembered as absent
        await process.shared.aclose()
        await forgiving.shared.aclose()


async def test_closing_ends_a_fetch_that_hangs(redis_url: str, start: Start) -> None:
    async with FaultProxy(redis_url) as proxy, RedisClient(proxy.url) as cut:
        await cut.ping()
        proxy.partition()
        process = start(client=cut, budget=30.0)
        waiting = asyncio.create_task(process.shared.fetch(FIRST.id))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await process.shared.aclose()
        with pytest.raises(LifecycleError):
            await waiting
        with pytest.raises(LifecycleError):
            await process.shared.fetch(FIRST.id)


async def test_versions_are_listed_with_the_current_one(
    start: Start, key: Key, client: RedisClient, prefix: str
) -> None:
    process = start()
    assert await DictionaryStore(client, Names(prefix)).versions() == []
    await process.shared.publish(FIRST)
    await process.shared.publish(SECOND)
    found = {one.id: one for one in await DictionaryStore(client, Names(prefix)).versions()}
    assert set(found) == {FIRST.id, SECOND.id}
    assert found[SECOND.id].current
    assert not found[FIRST.id].current
    assert found[FIRST.id].size == len(FIRST.content)
    assert found[FIRST.id].expires_in > MOST_LIFE
    await process.shared.publish(FIRST)  # back to the older one
    await client.execute("DEL", key(f":{SECOND.id}"))
    await client.execute("ZADD", key("-versions"), 1, "no number")
    assert [(one.id, one.current) for one in await DictionaryStore(client, Names(prefix)).versions()] == [
        (FIRST.id, True)
    ]


# Training


async def fill(client: RedisClient, namespace: str, count: int, envelope: Envelope, size: int = 1) -> None:
    values = [json.loads(record) for record in customers(count * size, seed=7)]
    items = [values[at : at + size] if size > 1 else values[at] for at in range(0, len(values), size)]
    commands = [
        ("SET", f"{namespace}{size}:{at}", envelope.seal(item, MINUTE), "EX", 60)
        for at, item in enumerate(items)
    ]
    for at in range(0, len(commands), 200):
        await client.pipeline(commands[at : at + 200])


async def test_training_reads_values_of_every_form_and_proves_its_worth(
    client: RedisClient, prefix: str, start: Start
) -> None:
    process = start()
    await fill(client, prefix, 300, process.envelope)  # plain
    await fill(client, prefix, 100, process.envelope, size=5)  # zstd
    await process.shared.publish(FIRST)
    values = [json.loads(record) for record in customers(100, seed=8)]
    sealed = [process.envelope.seal(value, MINUTE) for value in values]
    await client.pipeline([("SET", f"{prefix}d{at}", data) for at, data in enumerate(sealed)])
    await client.execute("SET", f"{prefix}junk", "junk")
    await client.execute("LPUSH", f"{prefix}list", "junk")
    await client.execute("SET", f"{prefix}small", process.envelope.seal(1, MINUTE))
    await client.execute("SET", f"{prefix}large", process.envelope.seal("x" * 50_000, MINUTE))
    seen: list[tuple[int, int]] = []
    found = await train_dictionary(
        client, Names(prefix), TrainingOptions(samples=1000), progress=lambda at, of: seen.append((at, of))
    )
    assert found.samples == 400
    assert found.comparison.count == 100
    assert found.skipped == 4
    assert seen[-1] == (500, 1000)
    compared = found.comparison
    assert compared.plain > compared.without > compared.dictionary
    assert compared.plain >= compared.zstd
    assert compared.zstd > 2 * compared.dictionary
    assert compared.current is not None
    assert compared.dictionary < compared.current * 1.1
    assert process.known.current == FIRST  # nothing was published


async def test_training_takes_no_more_than_it_was_told(client: RedisClient, prefix: str) -> None:
    await fill(client, prefix, 500, Envelope(JsonCodec()))
    found = await train_dictionary(client, Names(prefix), TrainingOptions(samples=100, size=2048))
    assert found.samples + found.comparison.count == 100
    assert len(found.dictionary.content) <= 2048
    with pytest.raises(NotTrainable):  # the first step is all that there is time for
        await train_dictionary(
            client, Names(prefix), TrainingOptions(seconds=0.01, keys=1, size=1024, samples=50)
        )


async def test_values_of_an_older_generation_are_no_samples(client: RedisClient, prefix: str) -> None:
    await fill(client, prefix, 100, Envelope(JsonCodec()))
    await client.execute("SET", Names(prefix).generation, secrets.token_bytes(8))
    with pytest.raises(NotTrainable, match="0 samples"):
        await train_dictionary(client, Names(prefix))


async def test_a_name_space_with_glob_characters_is_taken_as_it_is(client: RedisClient, prefix: str) -> None:
    await fill(client, f"{prefix}[ab]*:", 100, Envelope(JsonCodec()))
    await fill(client, f"{prefix}a:", 100, Envelope(JsonCodec()))
    found = await train_dictionary(client, Names(f"{prefix}[ab]*:"))
    assert found.samples + found.comparison.count == 100


@pytest.mark.parametrize(
    "options",
    [{"samples": 49}, {"samples": True}, {"size": 100}, {"seconds": 0}, {"keys": 0}, {"budget": "1"}],
)
def test_senseless_training_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match=next(iter(options))):
        TrainingOptions(**options)


@pytest.mark.parametrize(
    "options", [{"keep": MOST_LIFE}, {"budget": 0}, {"renewal": 86_400}, {"absence": -1}]
)
def test_senseless_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match=next(iter(options))):
        DictionaryOptions(**options)


def test_a_dictionary_from_a_server_may_be_anything_and_is_bounded() -> None:
    with pytest.raises(DecodeError):
        Dictionary(secrets.token_bytes(MOST_SIZE + 1))
    assert len(Dictionaries()) == 0
    assert EnvelopeOptions().dictionary_threshold < 300 < EnvelopeOptions().dictionary_limit
