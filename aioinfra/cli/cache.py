"""``aioinfra cache``: why a value is not fresh, filling a cache, the dictionaries that it compresses with.

Exit status: 0 done; 1 not done (no value that counts, pairs that failed, too few values, nothing to gain, no answer
from the server); 2 wrong usage or configuration.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn, TypeVar, cast

import typer

from aioinfra.cli import job_views as views

if TYPE_CHECKING:
    from aioinfra.cache.dictionary_training import Comparison, Training
    from aioinfra.cache.explanation import Explanation
    from aioinfra.cache.names import Names
    from aioinfra.cache.warm import WarmReport
    from aioinfra.connection.pool import RedisClient

T = TypeVar("T")
Verb = Callable[["RedisClient", "Names"], Awaitable[T]]

_BUDGET: Final = 2.0  # seconds for one answer of the server

cache = typer.Typer(help="Look after what a cache keeps on its server.", no_args_is_help=True)

Url = Annotated[
    str | None,
    typer.Option("--url", help="The cache's server. Default: the environment (REDIS_URL, ...)."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Namespace = Annotated[
    str | None,
    typer.Option(
        help="What the cache's keys begin with. Default: CACHE_NAMESPACE, else that of CacheManager."
    ),
]


@cache.command()
def train(
    namespace: Namespace = None,
    samples: Annotated[int, typer.Option(help="Values to look at.")] = 5000,
    size: Annotated[int, typer.Option(help="Most KB of the dictionary.")] = 32,
    seconds: Annotated[float, typer.Option(help="Seconds for reading values.")] = 30.0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what it would save, publish nothing.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Publish it even where it saves little.")] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Train a dictionary on the values in a cache, show what it saves on others, and put it to use.

    Running processes take it up at once, and go on reading values of older ones. A dictionary is made of pieces of
    values: it stays on the cache's server.
    """
    from aioinfra.cache.dictionary_store import DictionaryStore
    from aioinfra.cache.dictionary_training import TrainingOptions, train_dictionary

    async def run(client: RedisClient, names: Names) -> tuple[Training, bool]:
        options = TrainingOptions(samples=samples, size=size << 10, seconds=seconds)
        with _bar("reading values", as_json=as_json) as progress:
            found = await train_dictionary(client, names, options, progress=progress)
        publish = not dry_run and (force or found.comparison.saves)
        if publish:
            await DictionaryStore(client, names).publish(found.dictionary)
        return found, publish

    found, published = _ask(url, namespace, run)
    if as_json:
        views.print_json(_training_data(found, published=published))
    else:
        _print_training(found, published=published, dry_run=dry_run)
    if not published and not dry_run:
        raise typer.Exit(1)


@cache.command()
def dictionaries(namespace: Namespace = None, url: Url = None, as_json: Json = False) -> None:
    """The dictionaries on the server, newest first. The current one is what values are compressed with."""
    from aioinfra.cache.dictionary_store import DictionaryStore

    versions = _ask(url, namespace, lambda client, names: DictionaryStore(client, names).versions())
    if as_json:
        fields = ("id", "published", "size", "expires_in", "current")
        views.print_json([{name: getattr(one, name) for name in fields} for one in versions])
        return
    rows = [
        (
            one.id,
            views.moment(one.published),
            one.size,
            round(one.expires_in / 86_400),
            "yes" if one.current else "",
        )
        for one in versions
    ]
    views.print_table(("id", "published", "bytes", "days left", "current"), rows)


@cache.command()
def explain(
    key: Annotated[str, typer.Argument(help="A key within the namespace, as fn.key_for(...) tells it.")],
    namespace: Namespace = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """What the server has under a key, but for the value: age, life, sizes, tags, and why it does not count.

    Whether the value can be decoded depends on who reads it, and is not looked at.
    """
    from aioinfra.cache.epoch import Epoch
    from aioinfra.cache.explain import explain as explain_key
    from aioinfra.cache.explain_sources import Subject
    from aioinfra.cache.keys import check_key
    from aioinfra.clock import SYSTEM_CLOCK

    async def run(client: RedisClient, names: Names) -> Explanation:
        epoch = Epoch(SYSTEM_CLOCK)
        await epoch.learn(client, _BUDGET)
        return await explain_key(Subject(names, client, epoch.now, _BUDGET), check_key(key))

    found = _ask(url, namespace, run)
    if as_json:
        views.print_json(found.as_dict())
    else:
        typer.echo(str(found))
    if found.state in ("absent", "unusable"):
        raise typer.Exit(1)


@cache.command()
def warm(
    source: Annotated[
        str, typer.Argument(help="module:name of a mapping, of pairs, or of a function that gives them.")
    ],
    namespace: Namespace = None,
    ttl: Annotated[float | None, typer.Option(help="Seconds to live. Default: the cache's.")] = None,
    rate: Annotated[float | None, typer.Option(help="Most keys a second.")] = None,
    concurrency: Annotated[int, typer.Option(help="Loaders at the same time.")] = 10,
    serialization: Annotated[
        str, typer.Option(help="json or msgpack, as the cache's readers have it.")
    ] = "json",
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Fill a cache: store every pair of a source; loaders are run. Waits while the server is gone."""
    from aioinfra.cache.manager import CacheManager
    from aioinfra.cache.options import CacheOptions, NearOptions
    from aioinfra.cache.warm import WarmOptions
    from aioinfra.cli.target import load_target

    async def run(client: RedisClient, names: Names) -> WarmReport:
        pairs = load_target(source)
        manager = CacheManager(
            client=client,
            namespace=names.namespace,
            serialization=cast("Any", serialization),  # checked there
            options=CacheOptions(near=NearOptions(enabled=False)),
        )
        async with manager:
            with _bar("warming", as_json=as_json) as told:
                options = WarmOptions(concurrency, rate, lambda found: told(found.done, found.total))
                return await manager.warm_cache(pairs, ttl=ttl, options=options)

    report = _ask(url, namespace, run)
    if as_json:
        views.print_json({name: getattr(report, name) for name in ("stored", "failed", "failures")})
    else:
        typer.echo(f"stored {report.stored}, failed {report.failed}")
        if report.failures:
            views.print_table(("key", "error"), list(report.failures.items()))
    if report.failed:
        raise typer.Exit(1)


# Parts


def _ask(url: str | None, namespace: str | None, verb: Verb[T]) -> T:
    """Run a verb on the cache's server; errors become a line and an exit status."""
    from aioinfra.errors import AioinfraError, ConfigError, InvalidArgument

    try:
        return asyncio.run(_connected(url, namespace, verb))
    except (InvalidArgument, ConfigError) as error:
        _fail(str(error), status=2)
    except (AioinfraError, TimeoutError) as error:
        _fail(str(error))


async def _connected(url: str | None, namespace: str | None, verb: Verb[T]) -> T:
    from aioinfra.cache.keys import check_key, tagged
    from aioinfra.cache.names import Names
    from aioinfra.cache.options import DEFAULT_NAMESPACE
    from aioinfra.config import Settings
    from aioinfra.connection.locate import locate_async
    from aioinfra.connection.pool import PoolOptions, RedisClient

    settings = Settings.from_env()
    chosen = settings.cache_namespace if namespace is None else namespace
    chosen = check_key(DEFAULT_NAMESPACE if chosen is None else chosen, "namespace")
    async with AsyncExitStack() as stack:
        own = settings.own_cache_url() if url is None else None
        located = await locate_async(settings, url=url if own is None else own[0].get_secret_value())
        if located.embedded is not None:
            stack.push_async_callback(located.embedded.aclose)
        client = await stack.enter_async_context(RedisClient(located.url, PoolOptions(max_connections=2)))
        return await verb(client, Names(tagged(chosen, client.hash_tag)))


def _fail(text: str, status: int = 1) -> NoReturn:
    typer.echo(f"aioinfra cache: {views.shown(text)}", err=True)
    raise typer.Exit(status)


@contextmanager
def _bar(what: str, *, as_json: bool) -> Iterator[Callable[[int, int | None], None]]:
    """A bar on a terminal's standard error; elsewhere none. Takes what is done, and of how many."""
    if as_json or not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _bytes_by_means(compared: Comparison) -> list[tuple[str, int]]:
    rows = [
        ("as they are", compared.plain),
        ("without a dictionary", compared.without),
        ("zstd alone, at every size", compared.zstd),
    ]
    if compared.current is not None:
        rows.append(("with the current dictionary", compared.current))
    return [*rows, ("with the new dictionary", compared.dictionary)]


def _print_training(found: Training, *, published: bool, dry_run: bool) -> None:
    compared, dictionary = found.comparison, found.dictionary
    typer.echo(f"{compared.count} values that the training has not seen:\n")
    rows = [(name, size, f"{compared.plain / size:.2f}") for name, size in _bytes_by_means(compared)]
    views.print_table(("stored", "bytes", "ratio"), rows)
    about = f"dictionary {dictionary.id}: {len(dictionary.content)} bytes, from {found.samples} values"
    if published:
        typer.echo(f"\npublished {about}")
    elif dry_run:
        typer.echo(f"\nnot published, a dry run: {about}")
    else:
        typer.echo(f"\nnot published, it saves less than a tenth (see --force): {about}")


def _training_data(found: Training, *, published: bool) -> dict[str, object]:
    compared = found.comparison
    return {
        "id": found.dictionary.id,
        "bytes": len(found.dictionary.content),
        "samples": found.samples,
        "skipped": found.skipped,
        "published": published,
        "held_out": {
            "count": compared.count,
            "plain": compared.plain,
            "without": compared.without,
            "zstd": compared.zstd,
            "current": compared.current,
            "dictionary": compared.dictionary,
        },
        "ratio_without": round(compared.plain / compared.without, 3),
        "ratio": round(compared.plain / compared.dictionary, 3),
    }
