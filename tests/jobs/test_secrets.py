"""What jobs carry may be secret: it is in no repr."""

from __future__ import annotations

from aioinfra import task
from aioinfra.jobs.client import JobClient
from aioinfra.jobs.job import Job, JobRequest, StoredRequest, Succeeded
from tests.jobs.kit import working

SECRET = "hunter2-PLANTED"


def test_what_is_asked_for_and_what_is_stored_hide_the_arguments() -> None:
    request = JobRequest[None]("mail.send", (SECRET,), {"card": SECRET}, "email", headers={"h": SECRET})
    stored = StoredRequest("email", "id7", True, None, 0, 1, "", SECRET.encode())
    job = Job("mail.send", (SECRET,), {"card": SECRET}, 0, headers={"h": SECRET}, raw=SECRET)
    for shown in map(repr, (request, stored, job, Succeeded(SECRET))):
        assert SECRET not in shown
    assert "mail.send" in repr(request)
    assert "id7 on email" in repr(stored)


async def test_handles_results_and_what_is_said_of_them_hide_the_result(
    redis_url: str, client: JobClient, queue: str
) -> None:
    @task(queue=queue)
    async def reveal(secret: str) -> dict[str, str]:
        return {"token": secret}

    async with working(redis_url, reveal):
        job = await reveal.delay(SECRET)
        assert await job.result(timeout=5) == {"token": SECRET}
        info = await job.info()
    assert info is not None
    assert info.value == {"token": SECRET}
    assert SECRET not in repr(info) + str(info) + f"{info}" + repr(job) + repr(reveal.job(SECRET))
    assert f"{job.id} on {queue}: succeeded" in repr(info)
