"""Tasks that a service finds in a package: all of its modules, when it opens, and what goes wrong by name."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aioinfra import Service
from aioinfra.errors import ConfigError, InvalidArgument, LifecycleError
from aioinfra.service import ServiceOptions

Write = Callable[[dict[str, str]], str]

TASK = "from aioinfra import task\n\n\n@task\nasync def run() -> None: ...\n"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a package of the given files; answers its name, which no other test has."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    package = f"found_{abs(hash(tmp_path))}"

    def write(files: dict[str, str]) -> str:
        for name, text in files.items():
            path = tmp_path / package / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text.replace("PACKAGE", package), encoding="utf-8")
        importlib.invalidate_caches()
        return package

    yield write
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        del sys.modules[name]


def service_on(url: str, *, autodiscover: tuple[str, ...] = (), include: tuple[str, ...] = ()) -> Service:
    return Service(ServiceOptions(include, redis_url=url, configure_logging=False, autodiscover=autodiscover))


def names(service: Service) -> list[str]:
    return sorted(task.name.split(".", 1)[1] for task in service.tasks)


async def test_every_module_below_a_package_is_searched(valkey_url: str, write: Write) -> None:
    package = write(
        {
            "__init__.py": TASK,
            "mail.py": TASK,
            "reports/__init__.py": "",
            "reports/monthly.py": TASK,
            "reports/deep/__init__.py": "from PACKAGE.mail import run  # another module's task counts once\n",
            "reports/deep/yearly.py": TASK,
            "__main__.py": "raise SystemExit('importing this would run the program')\n",
            "data/values.py": "raise RuntimeError('not a package: it has no __init__.py')\n",
        }
    )
    service = service_on(valkey_url)
    service.autodiscover(package)
    assert f"{package}.mail" not in sys.modules  # an intent: nothing is imported yet
    for _ in range(2):
        async with service:
            assert names(service) == ["mail.run", "reports.deep.yearly.run", "reports.monthly.run", "run"]


async def test_a_plain_module_and_several_names_will_do(valkey_url: str, write: Write) -> None:
    package = write({"__init__.py": "", "mail.py": TASK, "more/__init__.py": TASK, "other.py": TASK})
    service = service_on(valkey_url, autodiscover=(f"{package}.mail",), include=(f"{package}.other",))
    service.autodiscover(f"{package}.more", f"{package}.mail")
    async with service:
        assert names(service) == ["mail.run", "more.run", "other.run"]
    found = Service.from_env(autodiscover=[f"{package}.mail"])
    assert found.tasks == ()


async def test_a_missing_package_is_named(valkey_url: str, write: Write) -> None:
    package = write({"__init__.py": ""})
    for name in (f"{package}.nowhere", f"{package}.nowhere.deeper"):
        with pytest.raises(ConfigError, match=rf"^autodiscover\('{name}'\): .*'{package}.nowhere'"):
            await service_on(valkey_url, autodiscover=(name,)).__aenter__()


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("import a_module_that_is_not_installed\n", ModuleNotFoundError),
        ("from aioinfra import nothing_of_that_name\n", ImportError),
        ("1 / 0\n", ZeroDivisionError),
        ("def broken(:\n", SyntaxError),
    ],
)
async def test_what_a_module_raises_is_raised_as_it_is_and_the_module_named(
    valkey_url: str, write: Write, text: str, error: type[Exception]
) -> None:
    package = write({"__init__.py": "", "good.py": TASK, "sub/__init__.py": "", "sub/broken.py": text})
    for service in (
        service_on(valkey_url, autodiscover=(package,)),
        service_on(valkey_url, include=(f"{package}.sub.broken",)),
    ):
        with pytest.raises(error) as raised:
            await service.__aenter__()
        assert type(raised.value) is error
        [note] = raised.value.__notes__
        assert f"{package}.sub.broken" in note
        assert not service.is_open


async def test_two_tasks_of_one_name_are_refused_with_both_places(valkey_url: str, write: Write) -> None:
    named = TASK.replace("@task", '@task(name="send")')
    package = write({"__init__.py": "", "one.py": named, "two.py": named})
    with pytest.raises(InvalidArgument, match=rf"'send'.*{package}\.one.*{package}\.two"):
        await service_on(valkey_url, autodiscover=(package,)).__aenter__()


async def test_it_is_too_late_once_the_service_is_open(valkey_url: str) -> None:
    async with service_on(valkey_url) as service:
        with pytest.raises(LifecycleError, match="autodiscover"):
            service.autodiscover("json")


@pytest.mark.parametrize("name", ["", ".tasks", "shop..tasks", "shop.", 3, None])
def test_what_is_no_module_name_is_refused_at_once(name: str) -> None:
    with pytest.raises(InvalidArgument, match="autodiscover"):
        Service().autodiscover(name)
    with pytest.raises(InvalidArgument, match="include"):
        ServiceOptions([name])
    with pytest.raises(InvalidArgument, match="autodiscover"):
        Service.from_env(autodiscover=[name])


def test_one_string_is_not_a_list_of_names() -> None:
    with pytest.raises(InvalidArgument, match="autodiscover"):
        ServiceOptions(autodiscover="shop.tasks")
