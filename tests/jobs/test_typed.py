"""What annotations restore: arguments and results as instances of the classes that were enqueued."""

from __future__ import annotations

import ipaddress
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from aioinfra import task
from aioinfra.errors import EncodeError, InvalidArgument, JobFailed
from aioinfra.jobs.client import JobClient
from aioinfra.jobs.job import JobRequest, JobStatus
from tests.jobs.kit import working

if TYPE_CHECKING:
    from tests.never_imported import OnlyForCheckers  # type: ignore[import-untyped]  # that is the test


class Colour(Enum):
    RED = "red"


class Address(BaseModel):
    model_config = ConfigDict(strict=True)
    city: str
    since: datetime


class User(BaseModel):
    id: uuid.UUID
    name: str = Field(alias="userName")
    balance: Decimal = Decimal(0)
    colour: Colour = Colour.RED
    home: Address | None = None
    tags: set[str] = set()


class Company(BaseModel):
    title: str


@dataclass
class Team:
    lead: User
    members: dict[int, User]


ADDRESS = Address(city="Paris", since=datetime(2026, 1, 2, tzinfo=UTC))
USER = User(id=uuid.UUID(int=7), userName="Ada", balance=Decimal("9.90"), home=ADDRESS, tags={"a", "b"})
TEAM = Team(USER, {1: USER})


async def test_models_in_any_place_come_back_as_models(redis_url: str, client: JobClient, queue: str) -> None:
    @task(queue=queue)
    async def gather(
        user: User, *more: User, either: User | Company, team: Team, maybe: Address | None = None
    ) -> dict[str, list[User | Company]]:
        assert (user, more, either, team, maybe) == (USER, (USER, USER), Company(title="X"), TEAM, None)
        assert type(team.members[1]) is User
        return {"all": [user, either]}

    async with working(redis_url, gather):
        job = await gather.delay(USER, USER, USER, either=Company(title="X"), team=TEAM)
        assert await job.result(timeout=5) == {"all": [USER, Company(title="X")]}
        [again] = await client.enqueue_many(
            [gather.job(USER, USER, USER, either=Company(title="X"), team=TEAM)]
        )
        assert await again.result(timeout=5) == {"all": [USER, Company(title="X")]}


async def test_a_result_restores_by_the_return_annotation(
    redis_url: str, client: JobClient, queue: str
) -> None:
    @task(queue=queue)
    def newest(number: int) -> User | None:
        return USER if number else None

    async with working(redis_url, newest):
        assert await (await newest.delay(1)).result(timeout=5) == USER
        assert await (await newest.delay(0)).result(timeout=5) is None
        job = await newest.delay(1)
        plain = await client.handle(job.id, queue).result(timeout=5)  # nobody said what it is
        assert (plain["userName"], plain["id"]) == ("Ada", str(USER.id))
        assert await client.handle(job.id, queue, returns=User).result(timeout=5) == USER


async def test_one_annotation_that_cannot_be_resolved_spoils_only_itself(
    redis_url: str, client: JobClient, queue: str
) -> None:
    @task(queue=queue)
    async def show(company: Company, other: OnlyForCheckers) -> str:
        return f"{type(company).__name__} {other}"

    async with working(redis_url, show):
        assert await (await show.delay(Company(title="X"), 3)).result(timeout=5) == "Company 3"


async def test_plain_producers_arguments_become_models_and_misfits_fail_the_job(
    redis_url: str, client: JobClient, queue: str
) -> None:
    @task(queue=queue)
    async def rename(company: Company) -> Company:
        return Company(title=company.title.upper())

    async with working(redis_url, rename):
        job = await client.enqueue(JobRequest[Any](rename.name, ({"title": "x"},), queue=queue))
        assert await job.result(timeout=5) == {"title": "X"}
        bad = await client.enqueue(JobRequest[Any](rename.name, ({"titel": "SECRET"},), queue=queue))
        with pytest.raises(JobFailed, match="company: the stored value does not fit") as caught:
            await bad.result(timeout=5)
        assert "SECRET" not in str(caught.value)


async def test_a_model_that_would_come_back_as_another_is_refused(
    redis_url: str, client: JobClient, queue: str
) -> None:
    class Login(BaseModel):
        password: SecretStr

    @task(queue=queue)
    async def login(who: Login) -> None: ...

    @task(queue=queue)
    async def give() -> Any:
        return Login(password=SecretStr("hunter2-PLANTED"))

    with pytest.raises(EncodeError, match=r"args\[0\]") as refused:
        await login.delay(Login(password=SecretStr("hunter2-PLANTED")))
    assert "PLANTED" not in str(refused.value)
    async with working(redis_url, give):
        job = await give.delay()
        with pytest.raises(JobFailed, match="EncodeError"):
            await job.result(timeout=5)
        assert await job.status() is JobStatus.FAILED


def test_a_return_annotation_that_cannot_be_stored_is_refused_at_the_declaration() -> None:
    class Connection:
        pass

    def nested() -> dict[str, list[ipaddress.IPv4Address | None]]: ...  # type: ignore[empty-body]  # never called

    async def own() -> Connection: ...  # type: ignore[empty-body]  # never called

    own.__annotations__["return"] = Connection  # a local class is no name for annotations
    for function, name in ((nested, "IPv4Address"), (own, "Connection")):
        with pytest.raises(InvalidArgument, match=rf"return annotation: a .*{name} cannot be stored"):
            task(function)
        assert task(keep_result=0)(function).name


@pytest.mark.parametrize(
    "returns", [None, Any, object, User, list[User | Company], Team, Colour, tuple[int, ...], "Later", int]
)
def test_other_return_annotations_are_accepted(returns: Any) -> None:
    async def function(): ...  # type: ignore[no-untyped-def]  # annotated below

    function.__annotations__["return"] = returns
    assert task(function).name


def test_the_wire_stays_plain_json() -> None:
    from aioinfra.jobs.payload import JsonCodec

    payload = JsonCodec().encode_job("t", (USER,), {"team": TEAM}, 1, {})
    wire = msgspec.json.decode(payload)
    assert wire["a"] == [msgspec.json.decode(USER.model_dump_json(by_alias=True))]
    assert wire["k"]["team"]["members"]["1"] == wire["a"][0]
