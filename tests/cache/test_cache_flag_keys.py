"""Arguments that are flags: members without a name of their own are told apart."""

from __future__ import annotations

import enum

from aioinfra.cache.canonical import canonical


class Access(enum.IntFlag):
    READ = 1
    WRITE = 2


def test_every_combination_of_flags_is_a_key_of_its_own() -> None:
    texts = {canonical(Access(number), "access") for number in range(64)}
    assert len(texts) == 64
