"""Seeds of fault tests: which ones run, and the command that runs one again.

A fault test draws everything that is left to chance (when to kill, what to delay) from its seed, so that a
failure can be had again. Events of the operating system stay outside: a replay meets the same faults at the same
points of the test, not the same nanosecond.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Final

from aioinfra.errors import InvalidArgument

DEFAULT_SEEDS: Final = (1, 2)
"""What runs when nobody asks for more: a quick sample."""

_LARGEST: Final = 1 << 63
_MOST: Final = 1_000_000
_PLUGIN: Final = "aioinfra.testing.pytest_plugin"


def parse_seeds(text: str) -> Sequence[int]:
    """``"20"``: the seeds 1 to 20; ``"21-40"``: those, for runs in slices.

    Raises:
        InvalidArgument: neither.
    """
    found = re.fullmatch(r"(?:(\d{1,18})-)?(\d{1,18})", text)
    if found is None:
        raise InvalidArgument("seeds", "must be a count such as 20, or a range such as 21-40")
    first, last = int(found[1] or 1), int(found[2])
    if not 0 < last - first + 1 <= _MOST:
        raise InvalidArgument("seeds", f"must be 1 to {_MOST} seeds")
    return range(first, last + 1)


def parse_seed(text: str) -> int:
    """One seed.

    Raises:
        InvalidArgument: not a whole number from 0 to 2^63 - 1.
    """
    if not re.fullmatch(r"\d{1,19}", text) or int(text) >= _LARGEST:
        raise InvalidArgument("seed", "must be a whole number from 0 to 2^63 - 1")
    return int(text)


def seed_id(seed: int) -> str:
    """How a seed reads in a test's name: ``seed7``."""
    return f"seed{seed}"


def replay_command(node_id: str, seed: int, *, load_plugin: bool = False) -> str:
    """The command that runs one test again with one seed.

    Args:
        node_id: pytest's name of the test that failed, relative to the root directory.
        seed: the seed it had.
        load_plugin: whether the plugin must be named, because no conftest.py loads it early enough.
    """
    # With one seed given, the name of the test holds that seed: the failed one's name fits, and a test that has
    # no other parameters needs none.
    test = node_id.removesuffix(f"[{seed_id(seed)}]")
    plugin = f" -p {_PLUGIN}" if load_plugin else ""
    return f"python -m pytest{plugin} {shlex.quote(test)} --seed {seed}"
