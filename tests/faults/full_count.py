"""How much a test does: all of it in `make chaos` and when a seed is replayed, a sample in `make test`."""

from __future__ import annotations

import pytest


def full_count(config: pytest.Config) -> bool:
    """Whether seeds were asked for, which plain runs of the tests do not."""
    chosen = config.option
    return chosen.aioinfra_seed is not None or len(chosen.aioinfra_seeds) > 1
