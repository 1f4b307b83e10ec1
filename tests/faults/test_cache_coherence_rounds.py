"""What L1 answers after faults: 20 rounds each, and in `make chaos` hundreds or a thousand with every seed."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

import pytest

from tests.conftest import OwnServerFactory
from tests.faults import cache_rounds
from tests.faults.cache_rounds import Tally
from tests.faults.full_count import full_count

pytestmark = pytest.mark.timeout(300)

SAMPLE = 20

Rounds = Callable[[str, str, int, random.Random], Awaitable[Tally]]
Show = Callable[[Rounds, int], Awaitable[None]]


@pytest.fixture
def show(
    own_server: OwnServerFactory,
    prefix: str,
    seed: int,
    pytestconfig: pytest.Config,
    request: pytest.FixtureRequest,
) -> Show:
    """Run a sample of some rounds, or so many, on a server of their own; nothing old may be read after them."""

    async def shown(rounds: Rounds, full: int) -> None:
        server = own_server("--appendonly", "no", tcp=True)
        count = full if full_count(pytestconfig) else SAMPLE
        tally = await rounds(server.url, prefix, count, random.Random(f"{rounds.__name__}/{seed}"))
        assert tally.stale == []
        assert tally.rounds >= count
        assert tally.in_l1 >= count / 2, "the faults met values that were not in L1"
        request.node.user_properties.append(("old value seen for, s", round(tally.slowest, 3)))

    return shown


async def test_a_reply_that_is_slower_than_its_invalidation(show: Show) -> None:
    await show(cache_rounds.delayed_replies, 1_000)


async def test_the_connection_that_hears_is_killed(show: Show) -> None:
    await show(cache_rounds.killed_listeners, 1_000)


async def test_the_connection_that_hears_is_partitioned(show: Show) -> None:
    await show(cache_rounds.partitioned_listeners, 200)


async def test_the_server_is_flushed(show: Show) -> None:
    await show(cache_rounds.flushed_servers, 1_000)


async def test_keys_end_without_a_word(show: Show) -> None:
    await show(cache_rounds.short_lives, 1_000)
