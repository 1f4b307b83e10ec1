"""The cached reads. Each costs tens of milliseconds of disk and processor when it is not in the cache."""

from __future__ import annotations

import asyncio
from itertools import islice

from aioinfra import cached
from catalogue import distributions
from catalogue.distributions import Listing, Package
from catalogue.imports import ImportGraph, modules_of

SOURCES = 5  # modules whose imports an entry shows; a report reads them all


@cached(ttl=60, key_prefix="packages")
async def load_listings() -> list[Listing]:
    return await asyncio.to_thread(distributions.listings)


@cached(ttl=60, key_prefix="package")
async def load_package(name: str) -> Package | None:
    """The entry of one distribution; that there is none is an answer too, and cached like one."""
    return await asyncio.to_thread(_read, name)


def _read(name: str) -> Package | None:
    distribution = distributions.find(name)
    if distribution is None:
        return None
    located = distributions.paths(distribution)
    modules = modules_of(located)
    graph = ImportGraph({module for module, _ in modules})
    graph.read(islice(modules, SOURCES))
    return distributions.describe(distribution, distributions.hashed(located), graph.external)
