"""A service of the tasks for process jobs. Apart from them: their children need not load a service."""

from __future__ import annotations

from aioinfra import Service

service = Service.from_env(include=["tests.jobs.process_tasks"])
