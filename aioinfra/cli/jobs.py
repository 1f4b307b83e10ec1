"""``aioinfra jobs``: the controls of a running system.

Exit status: 0 done; 1 something was not done (no such job, a job that runs, a letter that stays, no answer from the
server, a queue that is not drained in time); 2 wrong usage or configuration.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated

import typer

from aioinfra.cli import job_views as views
from aioinfra.cli.job_server import ask, fail

if TYPE_CHECKING:
    from aioinfra.jobs.admin import JobAdmin
    from aioinfra.jobs.job import QueueDepth
    from aioinfra.jobs.letters import RequeueReport

jobs = typer.Typer(help="Look at queues, jobs and dead letters, and control them.", no_args_is_help=True)

Url = Annotated[
    str | None,
    typer.Option("--url", help="The jobs server. Default: the environment (JOBS_REDIS_URL, REDIS_URL, ...)."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Arguments = Annotated[
    bool, typer.Option("--arguments", help="Show the arguments too, redacted by name and by looks.")
]
Queue = Annotated[str, typer.Argument(help="Name of the queue.")]
Queues = Annotated[list[str], typer.Argument(help="Names of queues.")]
JobId = Annotated[str, typer.Argument(help="Id of the job.")]
JobIds = Annotated[list[str] | None, typer.Argument(help="Ids of jobs.")]
Limit = Annotated[int, typer.Option(help="Show at most so many, up to 10,000.")]
Cursor = Annotated[str | None, typer.Option(help="Go on after the page that named this cursor.")]
OfTask = Annotated[str | None, typer.Option("--task", help="Only dead letters of this task.")]
OfReason = Annotated[str | None, typer.Option("--reason", help="Only dead letters with this reason.")]
All = Annotated[
    bool, typer.Option("--all", help="All dead letters of the queue, or those of --task, --reason.")
]


def _confirm(question: str, *, yes: bool) -> None:
    if not yes:
        typer.confirm(question, abort=True, err=True)


# Looking


@jobs.command()
def depths(queues: Queues, url: Url = None, as_json: Json = False) -> None:
    """How full queues are: jobs that are due, due later, and running."""

    async def read(admin: JobAdmin) -> tuple[dict[str, QueueDepth], frozenset[str]]:
        return {queue: await admin.depth(queue) for queue in queues}, await admin.paused()

    found, paused = ask(url, read)
    if as_json:
        views.print_json(
            {
                queue: {
                    "due": depth.queued,
                    "later": depth.deferred,
                    "running": depth.running,
                    "paused": queue in paused,
                }
                for queue, depth in found.items()
            }
        )
        return
    rows = [
        (queue, depth.queued, depth.deferred, depth.running, "yes" if queue in paused else "no")
        for queue, depth in found.items()
    ]
    views.print_table(("queue", "due", "later", "running", "paused"), rows)


@jobs.command("list")
def list_jobs(
    queue: Queue,
    status: Annotated[str | None, typer.Option(help="Only queued, deferred or running ones.")] = None,
    limit: Limit = 50,
    cursor: Annotated[int | None, typer.Option(help="Go on where a page ended.")] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """A queue's jobs in the order in which they are due."""
    page = ask(url, lambda admin: admin.jobs(queue, status, limit=limit, cursor=cursor))
    if as_json:
        views.print_json({"jobs": [views.job_data(one) for one in page.jobs], "cursor": page.cursor})
        return
    views.print_table(views.JOB_COLUMNS, [views.job_row(one) for one in page.jobs])
    if page.cursor is not None:
        typer.echo(f"more: --cursor {page.cursor}")


@jobs.command()
def show(
    queue: Queue, job_id: JobId, arguments: Arguments = False, url: Url = None, as_json: Json = False
) -> None:
    """One job: where it is, and how it ended."""
    details = ask(url, lambda admin: admin.inspect(queue, job_id))
    if as_json:
        views.print_json(views.details_data(details, arguments=arguments))
    else:
        views.print_details(details, arguments=arguments)


@jobs.command()
def dead(
    queue: Queue,
    job_id: Annotated[str | None, typer.Argument(help="Show this letter with its error.")] = None,
    task: OfTask = None,
    reason: OfReason = None,
    limit: Limit = 50,
    cursor: Cursor = None,
    arguments: Arguments = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Dead letters, newest first: jobs that will not run again by themselves."""
    if job_id is not None:
        details = ask(url, lambda admin: admin.dead.inspect(queue, job_id))
        if as_json:
            views.print_json(views.letter_data(details, arguments=arguments))
        else:
            views.print_letter(details, arguments=arguments)
        return
    page = ask(
        url, lambda admin: admin.dead.page(queue, limit=limit, cursor=cursor, task=task, reason=reason)
    )
    if as_json:
        views.print_json({"letters": [views.dead_data(one) for one in page.letters], "cursor": page.cursor})
        return
    views.print_table(views.DEAD_COLUMNS, [views.dead_row(one) for one in page.letters])
    if page.cursor is not None:
        typer.echo(f"more: --cursor '{views.shown(page.cursor)}'")


# Dead letters


@jobs.command()
def requeue(
    queue: Queue,
    job_ids: JobIds = None,
    all_: All = False,
    task: OfTask = None,
    reason: OfReason = None,
    yes: Yes = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Bring dead letters back to their queue: as they were enqueued, with no try made."""
    from aioinfra.jobs.letters import Requeue, RequeueReport

    _check_choice(job_ids, all_=all_, filtered=bool(task or reason))

    async def bring_back(admin: JobAdmin) -> RequeueReport:
        if all_:
            return await admin.dead.requeue_all(queue, task=task, reason=reason)
        answers = [(job_id, await admin.dead.requeue(queue, job_id)) for job_id in job_ids or ()]
        kept = tuple(answer for answer in answers if answer[1] is not Requeue.REQUEUED)
        return RequeueReport(len(answers) - len(kept), kept)

    if all_:
        _confirm(f"Bring back {_which(task, reason)} of queue {views.shown(queue)}?", yes=yes)
    report = ask(url, bring_back)
    if as_json:
        kept = {job_id: answer.name.lower() for job_id, answer in report.kept}
        views.print_json({"requeued": report.requeued, "kept": kept})
    else:
        typer.echo(f"{report.requeued} requeued")
        for job_id, answer in report.kept:
            typer.echo(f"{views.shown(job_id)}: {_WHY_KEPT[answer.name]}", err=True)
    if report.kept:
        raise typer.Exit(1)


_WHY_KEPT = {
    "GONE": "there is no such dead letter",
    "TAKEN": "another job, or its result, has the id; the letter stays",
    "EXPIRED": "its payload had expired before it died; the letter stays",
    "WRONG_TYPE": "the queue's key is not a sorted set; the letter stays",
    "UNREADABLE": "what is stored is no dead letter; it stays",
}


def _check_choice(job_ids: list[str] | None, *, all_: bool, filtered: bool) -> None:
    if all_ == bool(job_ids) or (filtered and not all_):
        fail("name jobs, or give --all, which --task and --reason narrow", status=2)


def _which(task: str | None, reason: str | None) -> str:
    words = ["all dead letters"]
    words += [f"of task {views.shown(task)}"] if task else []
    words += [f"with reason {views.shown(reason)}"] if reason else []
    return " ".join(words)


@jobs.command()
def delete(
    queue: Queue,
    job_ids: JobIds = None,
    of_dead: Annotated[bool, typer.Option("--dead", help="Delete dead letters instead of jobs.")] = False,
    all_: All = False,
    task: OfTask = None,
    reason: OfReason = None,
    yes: Yes = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Delete jobs that wait, or dead letters. A job that runs is left alone."""
    _check_choice(job_ids, all_=all_, filtered=bool(task or reason))
    if all_ and not of_dead:
        fail("--all is for dead letters: give --dead too", status=2)
    if all_:
        _confirm(f"Delete {_which(task, reason)} of queue {views.shown(queue)} for good?", yes=yes)
        count = ask(url, lambda admin: admin.dead.delete_all(queue, task=task, reason=reason))
        _report({"deleted": count}, f"{count} deleted", as_json=as_json)
        return
    verb = _delete_letter if of_dead else _delete_job
    _one_by_one(url, queue, job_ids or [], verb, "deleted", as_json=as_json)


async def _delete_letter(admin: JobAdmin, queue: str, job_id: str) -> str:
    return "" if await admin.dead.delete(queue, job_id) else "there is no such dead letter"


async def _delete_job(admin: JobAdmin, queue: str, job_id: str) -> str:
    return "" if await admin.delete(queue, job_id) else _RUNS


async def _run_now(admin: JobAdmin, queue: str, job_id: str) -> str:
    return "" if await admin.run_now(queue, job_id) else _RUNS


_RUNS = "it is running, and was left alone"


def _one_by_one(
    url: str | None,
    queue: str,
    job_ids: list[str],
    verb: Callable[[JobAdmin, str, str], Awaitable[str]],
    word: str,
    *,
    as_json: bool,
) -> None:
    """Do something to each job; what cannot be done to one does not keep the others from it."""
    from aioinfra.errors import JobNotFound

    async def each(admin: JobAdmin) -> dict[str, str]:
        refused = {}
        for job_id in job_ids:
            try:
                reason = await verb(admin, queue, job_id)
            except JobNotFound:
                reason = "it is not on this queue"
            if reason:
                refused[job_id] = reason
        return refused

    refused = ask(url, each)
    done = len(job_ids) - len(refused)
    _report({word.replace(" ", "_"): done, "refused": refused}, f"{done} {word}", as_json=as_json)
    for job_id, why in refused.items():
        typer.echo(f"{views.shown(job_id)}: {why}", err=True)
    if refused:
        raise typer.Exit(1)


def _report(data: dict[str, object], text: str, *, as_json: bool) -> None:
    if as_json:
        views.print_json(data)
    else:
        typer.echo(text)


# Controls


@jobs.command()
def pause(queues: Queues, url: Url = None, as_json: Json = False) -> None:
    """Let no worker claim from queues. Jobs that run go on; plain arq workers do not know of it."""
    _switch(url, queues, "paused", as_json=as_json, verb=lambda admin, queue: admin.pause(queue))


@jobs.command()
def resume(queues: Queues, url: Url = None, as_json: Json = False) -> None:
    """Let workers claim from queues again."""
    _switch(url, queues, "resumed", as_json=as_json, verb=lambda admin, queue: admin.resume(queue))


def _switch(
    url: str | None,
    queues: list[str],
    word: str,
    *,
    as_json: bool,
    verb: Callable[[JobAdmin, str], Awaitable[bool]],
) -> None:
    async def each(admin: JobAdmin) -> dict[str, bool]:
        return {queue: await verb(admin, queue) for queue in queues}

    changed = ask(url, each)
    if as_json:
        views.print_json({word: changed})
        return
    for queue, was in changed.items():
        typer.echo(f"{views.shown(queue)}: {word if was else f'nothing to do, was {_BEFORE[word]}'}")


_BEFORE = {"paused": "paused already", "resumed": "not paused"}


@jobs.command()
def abort(
    job_id: JobId,
    queue: Annotated[
        str | None, typer.Option(help="Its queue: then a job that waits ends at once, also a deferred one.")
    ] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Abort a job: one that waits ends without running, one that runs is cancelled."""
    asked = ask(url, lambda admin: admin.abort(job_id, queue=queue))
    _report({"requested": asked}, "abort requested" if asked else "it has ended already", as_json=as_json)
    if not asked:
        raise typer.Exit(1)


@jobs.command("run-now")
def run_now(
    queue: Queue,
    job_ids: Annotated[list[str], typer.Argument(help="Ids of jobs.")],
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Make jobs due that are deferred, or wait to be tried again."""
    _one_by_one(url, queue, job_ids, _run_now, "due now", as_json=as_json)


@jobs.command()
def drain(
    queue: Queue,
    timeout: Annotated[float, typer.Option(help="Seconds to wait.")] = 60.0,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Wait until no job of a queue is due or running; of a paused queue, until none runs."""
    left = ask(url, lambda admin: admin.drain(queue, timeout))
    data: dict[str, object] = {"due": left.queued, "later": left.deferred, "running": left.running}
    _report(data, f"drained; {left.queued} due, {left.deferred} later", as_json=as_json)
