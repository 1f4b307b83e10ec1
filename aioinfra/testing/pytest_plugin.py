"""pytest plugin: the ``seed`` of fault tests.

Put this into the top-level ``conftest.py``::

    pytest_plugins = ["aioinfra.testing.pytest_plugin"]

A test that takes ``seed`` runs once per seed, and a failure shows its seed and the one command that replays it::

    async def test_orders_survive_a_crash(seed: int) -> None:
        draw = random.Random(seed)
        ...

    pytest                     a few seeds
    pytest --seeds 100         the seeds 1 to 100
    pytest --seeds 101-200     the next hundred
    pytest --seed 12345        exactly this one

It must be asked for: aioinfra registers no entry point, because pytest would load that in every project that has
aioinfra installed, and add these options to their command lines. A test module may name the plugin too
(``pytest_plugins`` in the module); its tests then have their seeds, but the options come too late for pytest to
know them, so the replay command names the plugin with ``-p``.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, Final, TypeVar

import pytest

from aioinfra.errors import InvalidArgument
from aioinfra.testing.seeds import DEFAULT_SEEDS, parse_seed, parse_seeds, replay_command, seed_id

T = TypeVar("T")

_FIXTURE: Final = "seed"
_READ: Final = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--seeds`` and ``--seed``."""
    group = parser.getgroup("aioinfra", "fault tests")
    group.addoption(
        "--seeds",
        dest="aioinfra_seeds",
        metavar="N|A-B",
        type=_option(parse_seeds),
        default=DEFAULT_SEEDS,
        help="run tests that take a seed with the seeds 1 to N, or A to B",
    )
    group.addoption(
        "--seed",
        dest="aioinfra_seed",
        metavar="S",
        type=_option(parse_seed),
        default=None,
        help="run tests that take a seed with this one",
    )


def _option(parse: Callable[[str], T]) -> Callable[[str], T]:
    """pytest tells a UsageError as it is; of others it would tell the option's type."""

    def parsed(text: str) -> T:
        try:
            return parse(text)
        except InvalidArgument as error:
            raise pytest.UsageError(f"--{error}") from None

    return parsed


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Called on plugins that were there when the command line was read, and on no others."""
    config.stash[_READ] = True


def _loaded_early(config: pytest.Config) -> bool:
    """Whether the command line was read with this plugin's options."""
    return config.stash.get(_READ, False)


def _chosen(config: pytest.Config) -> Sequence[int]:
    exactly: int | None = config.option.aioinfra_seed
    if exactly is not None:
        return (exactly,)
    seeds: Sequence[int] = config.option.aioinfra_seeds
    return seeds


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per seed, unless the test or its module has seeds of its own."""
    if _FIXTURE in metafunc.fixturenames and not _has_own_seeds(metafunc):
        metafunc.parametrize(_FIXTURE, _chosen(metafunc.config), ids=seed_id)


def _has_own_seeds(metafunc: pytest.Metafunc) -> bool:
    for mark in metafunc.definition.iter_markers("parametrize"):
        names = mark.args[0] if mark.args else mark.kwargs.get("argnames", "")
        if _FIXTURE in ([name.strip() for name in names.split(",")] if isinstance(names, str) else names):
            return True
    return _FIXTURE in metafunc._arg2fixturedefs  # noqa: SLF001 - there is no public way to ask for a fixture


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the seed of a failure and its command."""
    report = yield
    parameters: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    seed = parameters.get(_FIXTURE)
    if report.failed and isinstance(seed, int):
        command = replay_command(item.nodeid, seed, load_plugin=not _loaded_early(item.config))
        report.sections.append((f"seed {seed}, replay with", command))
    return report
