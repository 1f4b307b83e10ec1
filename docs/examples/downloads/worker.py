# downloads/worker.py
import asyncio
import os
from typing import Any

from arq import Retry, cron, func
from arq.connections import RedisSettings

REDIS = RedisSettings.from_dsn(os.environ.get("REDIS_URL", "redis://localhost:6379"))


class Session:
    """Stands in for an HTTP client's session: a site of two pages, one of which is busy at first."""

    def __init__(self) -> None:
        self.requests = 0

    async def get(self, url: str) -> tuple[int, str]:
        self.requests += 1
        await asyncio.sleep(0.01)
        if url.endswith("/busy") and self.requests < 4:
            return 503, ""
        return (404, "") if url.endswith("/missing") else (200, f"<h1>{url}</h1>")

    async def aclose(self) -> None:
        await asyncio.sleep(0)


async def startup(ctx: dict[Any, Any]) -> None:
    ctx["session"] = Session()


async def shutdown(ctx: dict[Any, Any]) -> None:
    await ctx["session"].aclose()
    await ctx["redis"].set("downloads:requests", ctx["session"].requests)


async def job_started(ctx: dict[Any, Any]) -> None:
    await ctx["redis"].hincrby("downloads:started", ctx["job_id"].partition(":")[0], 1)


async def download(ctx: dict[Any, Any], url: str) -> int:
    status, body = await ctx["session"].get(url)
    if status == 503:
        raise Retry(defer=ctx["job_try"] * 0.1)
    if status != 200:
        raise LookupError(f"{url} answers {status}")
    return len(body)


async def build_report(ctx: dict[Any, Any], pages: int, *, title: str = "report") -> str:
    await asyncio.sleep(pages / 10)
    return f"{title} of {pages} pages by {ctx['job_id']}"


async def sweep(ctx: dict[Any, Any]) -> None:
    await ctx["redis"].incr("downloads:sweeps")


class WorkerSettings:
    functions = (download, func(build_report, name="report", keep_result=60, timeout=20, max_tries=2))
    cron_jobs = (cron(sweep, second={0, 30}, run_at_startup=True),)
    on_startup = startup
    on_shutdown = shutdown
    on_job_start = job_started
    redis_settings = REDIS
    max_jobs = 20
    allow_abort_jobs = True
