"""The HTTP side: an ordinary Starlette application inside the service's middleware.

uvicorn catalogue.app:app
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from aioinfra import get_logger
from aioinfra.errors import JobError, StoreError
from aioinfra.web import ServiceMiddleware, service_routes
from catalogue import analytics, pages
from catalogue.distributions import canonical
from catalogue.packages import load_listings, load_package
from catalogue.service import service
from catalogue.settings import Settings
from catalogue.tasks import build_report, count_view, remove_old_reports

log = get_logger("catalogue.app")

QUEUES = ("reports", "email", "analytics", "cleanup")
_REPORT_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ADDRESS = re.compile(r"[^@\s]{1,64}@[^@\s]{1,190}")


class ReportRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``POST /reports``."""

    package: str
    email: str


class ReportState(msgspec.Struct):
    """How far a report is. ``done`` of ``total`` steps; ``file`` once it can be opened."""

    id: str
    status: str
    done: float = 0
    total: float = 0
    message: str = ""
    file: str | None = None


async def home(_: Request) -> Response:
    """A page for people: the catalogue, and a button that asks for a report."""
    return Response(pages.home(await load_listings()), media_type="text/html")


async def list_packages(_: Request) -> Response:
    return _json(await load_listings())


async def show_package(request: Request) -> Response:
    package = await load_package(canonical(request.path_params["name"]))
    if package is None:
        raise HTTPException(404, "no such package")
    try:
        await count_view.delay(package.name)
    except (StoreError, JobError) as error:  # the answer is worth more than its count
        log.warning("view not counted", package=package.name, reason=type(error).__name__)
    return _json(package)


async def request_report(request: Request) -> Response:
    """Accept a report: 202 once the job is stored, from then on it is not lost."""
    try:
        wanted = msgspec.json.decode(await request.body(), type=ReportRequest)
    except msgspec.DecodeError as error:
        raise HTTPException(422, str(error)) from None
    if not _ADDRESS.fullmatch(wanted.email):
        raise HTTPException(422, "email: not an address")
    package = await load_package(canonical(wanted.package))
    if package is None:
        raise HTTPException(404, "no such package")
    job = await build_report.delay(package.name, wanted.email)
    headers = {"Location": f"/reports/{job.id}"}
    return _json(ReportState(job.id, "queued"), status_code=202, headers=headers)


async def list_reports(_: Request) -> Response:
    """The ids of the finished reports, the newest first."""
    return _json(await asyncio.to_thread(_finished_reports))


async def show_report(request: Request) -> Response:
    report_id = _report_id(request)
    job = service.jobs.handle(report_id, build_report.task_options.queue)
    status, progress = await asyncio.gather(job.status(), job.progress())
    file = f"/reports/{report_id}/file" if Settings.from_env().report(report_id).exists() else None
    if status == "not_found" and file is None:
        raise HTTPException(404, "no such report")
    state = ReportState(report_id, str(status), file=file)
    if progress is not None:
        state.done, state.total, state.message = progress.done, progress.total or 0, progress.message
    return _json(state)


async def open_report(request: Request) -> Response:
    path = Settings.from_env().report(_report_id(request))
    if not path.exists():
        raise HTTPException(404, "not written yet, or removed")
    return FileResponse(path, media_type="text/html")


async def show_analytics(_: Request) -> Response:
    return _json(await asyncio.to_thread(_totals))


async def request_cleanup(_: Request) -> Response:
    job = await remove_old_reports.delay()
    return _json({"id": job.id}, status_code=202)


async def show_stats(_: Request) -> Response:
    """What a status page needs: the cache's hits and the queues' depths."""
    stats = service.cache.get_stats()
    depths = await service.jobs.depths(QUEUES)
    return _json(
        {
            "cache": {name: stats[name] for name in ("hits", "misses", "hit_rate")},
            "queues": {
                name: {"waiting": depth.queued + depth.deferred, "running": depth.running}
                for name, depth in depths.items()
            },
        }
    )


def _report_id(request: Request) -> str:
    """The id in the path, once it is sure to be one: it becomes part of a file name."""
    report_id: str = request.path_params["id"]
    if not _REPORT_ID.fullmatch(report_id):
        raise HTTPException(404, "no such report")
    return report_id


def _totals() -> dict[str, int]:
    return analytics.opened(Settings.from_env().analytics).totals()


def _finished_reports() -> list[str]:
    paths = Settings.from_env().reports.glob("*.html")
    return [path.stem for path in sorted(paths, key=lambda path: -path.stat().st_mtime)]


def _json(value: object, status_code: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(value), status_code, headers, media_type="application/json")


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    Settings.from_env().create()
    async with service:
        yield


app = ServiceMiddleware(
    Starlette(
        lifespan=lifespan,
        routes=[
            Route("/", home),
            Route("/packages", list_packages),
            Route("/packages/{name}", show_package),
            Route("/reports", request_report, methods=["POST"]),
            Route("/reports", list_reports),
            Route("/reports/{id}", show_report),
            Route("/reports/{id}/file", open_report),
            Route("/analytics", show_analytics),
            Route("/cleanup", request_cleanup, methods=["POST"]),
            Route("/stats", show_stats),
            *service_routes(service),
        ],
    ),
    service,
)
