# downloads/produce.py
import asyncio
from datetime import timedelta
from typing import Any

from arq import create_pool
from arq.connections import ArqRedis
from arq.jobs import Job, JobStatus
from arq.worker import JobExecutionFailed

from downloads.worker import REDIS


async def outcome(job: Job) -> str:
    try:
        result = await job.result(timeout=20, poll_delay=0.1)
    except (LookupError, JobExecutionFailed) as error:
        result = repr(error)
    info = await job.result_info()
    tries = info.job_try if info else None
    return f"{result!r}, try {tries}, {(await job.status()).value}"


async def enqueue(redis: ArqRedis, function: str, *args: Any, **options: Any) -> Job:
    job = await redis.enqueue_job(function, *args, **options)
    if job is None:
        raise ValueError("there is such a job already")
    return job


async def downloads(redis: ArqRedis) -> None:
    for page in ("home", "missing", "busy"):
        job = await enqueue(redis, "download", f"https://example.org/{page}", _job_id=f"page:{page}")
        print(page, await outcome(job))
    url = "https://example.org/later"
    job = await enqueue(redis, "download", url, _job_id="page:later", _defer_by=timedelta(seconds=0.5))
    print("later:", (await job.status()).value, "then", await outcome(job))
    info = await job.result_info()
    if info is not None:
        print("waited:", (info.start_time - info.enqueue_time).total_seconds() >= 0.5)


async def reports(redis: ArqRedis) -> None:
    job = await enqueue(redis, "report", 1, title="daily", _job_id="report:1")
    print("again:", await redis.enqueue_job("report", 1, title="daily", _job_id="report:1"))
    print("report:", await outcome(job))
    job = await enqueue(redis, "report", 100, _job_id="report:2")
    for _ in range(200):
        if await job.status() is JobStatus.in_progress:
            break
        await asyncio.sleep(0.05)
    print("aborted:", await job.abort(timeout=20, poll_delay=0.1), (await job.status()).value)


async def main() -> None:
    redis = await create_pool(REDIS)
    await downloads(redis)
    await reports(redis)
    print("unknown:", await outcome(await enqueue(redis, "nobody knows this")))
    print("swept:", int(await redis.get("downloads:sweeps")) >= 1)
    await redis.aclose()


if __name__ == "__main__":
    asyncio.run(main())
