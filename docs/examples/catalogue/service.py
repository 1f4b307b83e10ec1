"""The one Service of the catalogue. Importing it does no I/O: the environment is read at ``async with``."""

from __future__ import annotations

from aioinfra import Service

service = Service.from_env(
    include=["catalogue.tasks"],
    queues={"email": 3, "reports": 5, "analytics": 2, "cleanup": 1},  # weights: a higher one is served more
)
