"""A master, its replicas and the Sentinels that watch them, to rehearse a failover.

The Sentinels start with each other and the replicas already in their configuration, as it would stand after a
restart: they are ready at once, instead of after the seconds in which they would find one another.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self

from aioinfra.errors import InvalidArgument, LifecycleError, StoreError, StoreUnavailable
from aioinfra.testing.server_process import (
    HOST,
    ServerProcess,
    close_together,
    free_ports,
    server_binary,
    start_together,
    wait_for,
)
from aioinfra.testing.servers import RedisServer, ServerOptions, check_count, check_member, check_time, quoted

_READY = 10.0
_ANSWERS_WITHIN = 1.0  # one of a busy machine must not count as one that is away
# Milliseconds. The ping period stays: a replica whose INFO is older than five of them is not promoted.
_BRISK = ("info-period", 1_000, "publish-period", 200)
_REPLICATION = ("repl-diskless-sync yes", "repl-diskless-sync-delay 0", "repl-ping-replica-period 1")


@dataclass(frozen=True, slots=True)
class SentinelOptions:
    """What a Sentinel setup is made of.

    Attributes:
        master_name: under which the Sentinels know the master.
        replicas, sentinels: how many; the quorum is the Sentinels' majority.
        down_after: seconds of silence after which the master counts as down.
        failover_timeout: seconds; the Sentinels begin no failover within twice as long after the last one.
        min_replicas: replicas that must be at most 2 s behind for the master to accept writes; 0 for none.
        brisk: the Sentinels look around every second and talk five times a second, so that a former master that
            is back becomes a replica within 3 s. As in production it takes 10 to 16 s, in which it accepts writes
            that will be lost.
        server: the data servers' options.
    """

    master_name: str = "mymaster"
    replicas: int = 2
    sentinels: int = 3
    down_after: float = 1.0
    failover_timeout: float = 2.0
    min_replicas: int = 0
    brisk: bool = False
    server: ServerOptions = field(default_factory=ServerOptions)

    def __post_init__(self) -> None:
        if not self.master_name.isascii() or not self.master_name.replace("-", "").isalnum():
            raise InvalidArgument("master_name", "must be letters, digits and '-'")
        check_count("replicas", self.replicas, 1, 8)
        check_count("sentinels", self.sentinels, 1, 9)
        check_count("min_replicas", self.min_replicas, 0, self.replicas)
        check_time("down_after", self.down_after)
        check_time("failover_timeout", self.failover_timeout)
        check_member(self.server)


class SentinelSetup:
    """One master with replicas and Sentinels, for the time of an ``async with`` block.

    Args:
        options: see `SentinelOptions`.

    Raises:
        InvalidArgument: names what does not fit.
        EmbeddedServerError: no server program was found; from the start: one ended, with the end of its log.

    Example::

        async with SentinelSetup() as setup:
            await setup.kill_master()
            await setup.wait_for_new_master()
    """

    def __init__(self, options: SentinelOptions = SentinelOptions()) -> None:
        self.options = options
        self.master_name = options.master_name
        data = options.server.with_lines(*_REPLICATION, *_durability(options))
        ports = free_ports(1 + options.replicas + options.sentinels)
        master, *replicas = ports[: 1 + options.replicas]
        following = data.with_lines(f"replicaof {HOST} {master}")
        self.servers = (
            RedisServer(replace(data, port=master)),
            *(RedisServer(replace(following, port=port)) for port in replicas),
        )
        """The data servers; the first one began as the master."""
        self.sentinel_servers = _sentinels(options, self.servers, ports[1 + options.replicas :])
        self._before = (HOST, master)  # the master that the last fault or failover met

    @property
    def sentinels(self) -> list[tuple[str, int]]:
        """Host and port of each Sentinel, as clients want them."""
        return [(HOST, server.port) for server in self.sentinel_servers]

    # Life

    async def start(self) -> None:
        """Start all; returns when replication and the Sentinels' quorum stand. Usually within 1 s."""
        try:
            await start_together(self.servers)
            await self.wait_ok(_READY)
            await start_together(self.sentinel_servers)
            if self.options.brisk:
                for sentinel in self.sentinel_servers:
                    await sentinel.admin("SENTINEL", "DEBUG", *_BRISK)
            await wait_for(self._watched, _READY, "the Sentinels did not find all servers")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End all. Blocks for milliseconds; may be repeated."""
        close_together((*self.sentinel_servers, *self.servers))

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # What is

    async def master(self) -> tuple[str, int]:
        """Host and port of the master, as most of the Sentinels that answer say now.

        Raises:
            StoreUnavailable: no Sentinel answers.
        """
        votes = Counter(
            answer for answer in await asyncio.gather(*map(self._vote, self.sentinel_servers)) if answer
        )
        if not votes:
            raise StoreUnavailable("no Sentinel answers")
        return votes.most_common(1)[0][0]

    async def master_server(self) -> RedisServer:
        """The server that is the master now. Raises as `master`."""
        _, port = await self.master()
        return next(server for server in self.servers if server.port == port)

    async def _vote(self, sentinel: ServerProcess) -> tuple[str, int] | None:
        if not sentinel.running or sentinel.frozen:
            return None
        try:
            host, port = await sentinel.admin(
                "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.master_name, timeout=_ANSWERS_WITHIN
            )
        except StoreError:
            return None
        return host.decode(), int(port)

    # Faults

    async def kill_master(self) -> RedisServer:
        """SIGKILL the master; returns its server, to be started again later."""
        server = await self._about_to_lose()
        await server.kill()
        return server

    async def freeze_master(self) -> RedisServer:
        """SIGSTOP the master; returns its server, to be thawed later."""
        server = await self._about_to_lose()
        server.freeze()
        return server

    async def failover(self, *, coordinated: bool = False, timeout: float = 10.0) -> tuple[str, int]:
        """A failover on request; returns the new master.

        Args:
            coordinated: the old master pauses writes and hands over; Valkey 9 and later.
            timeout: seconds for all of it.

        Raises:
            StoreError: the Sentinel refuses, as it does while one is under way.
            TimeoutError: there is no new master in time.
        """
        await self._about_to_lose()
        how = ("COORDINATED",) if coordinated else ()
        for sentinel in self.sentinel_servers:
            if sentinel.running:
                await sentinel.admin("SENTINEL", "FAILOVER", self.master_name, *how)
                return await self.wait_for_new_master(timeout)
        raise LifecycleError("no Sentinel runs")

    async def wait_for_new_master(self, timeout: float = 10.0) -> tuple[str, int]:
        """Wait until most Sentinels name another master than the last fault met, and it acts as one.

        Raises:
            TimeoutError: not within ``timeout`` seconds.
        """

        async def changed() -> bool:
            found = await self.master()
            if found == self._before:
                return False
            role = await (await self.master_server()).admin("ROLE", timeout=_ANSWERS_WITHIN)
            return bool(role[0] == b"master")

        await wait_for(changed, timeout, "there was no new master")
        return await self.master()

    async def wait_ok(self, timeout: float = 30.0) -> None:
        """Wait until every server runs and all but one replicate from that one: also a former master that is back.

        All Sentinels that answer name that one: while one of them has not heard of a failover yet, it may still
        turn the new master into a replica of the old one. The Sentinels turn a master that came back into a
        replica; how soon, see `SentinelOptions.brisk`.

        Raises:
            TimeoutError: not within ``timeout`` seconds.
        """
        await wait_for(self._replicating, timeout, "the replicas did not follow one master")

    async def _about_to_lose(self) -> RedisServer:
        server = await self.master_server()
        self._before = (HOST, server.port)
        return server

    async def _replicating(self) -> bool:
        roles = await asyncio.gather(
            *(server.admin("ROLE", timeout=_ANSWERS_WITHIN) for server in self.servers)
        )
        masters = [server.port for server, role in zip(self.servers, roles, strict=True) if _leads(role)]
        followed = [role[2] for role in roles if not _leads(role) and role[3] == b"connected"]
        if len(masters) != 1 or followed != masters * self.options.replicas:
            return False
        votes = await asyncio.gather(*map(self._vote, self.sentinel_servers))
        return all(vote is None or vote == (HOST, masters[0]) for vote in votes)

    async def _watched(self) -> bool:
        answers = await asyncio.gather(
            *(server.admin("SENTINEL", "MASTER", self.master_name) for server in self.sentinel_servers),
            *(server.admin("SENTINEL", "CKQUORUM", self.master_name) for server in self.sentinel_servers),
        )
        for fields in answers[: len(self.sentinel_servers)]:
            found = dict(zip(fields[::2], fields[1::2], strict=True))
            known = (int(found[b"num-slaves"]), int(found[b"num-other-sentinels"]))
            if known != (self.options.replicas, self.options.sentinels - 1) or found[b"flags"] != b"master":
                return False
        return True


def _leads(role: Any) -> bool:
    return bool(role[0] == b"master")


def _durability(options: SentinelOptions) -> tuple[str, ...]:
    if not options.min_replicas:
        return ()
    return (f"min-replicas-to-write {options.min_replicas}", "min-replicas-max-lag 2")


def _sentinels(
    options: SentinelOptions, servers: tuple[RedisServer, ...], ports: list[int]
) -> tuple[ServerProcess, ...]:
    """One process for each Sentinel, its configuration knowing the others; they rewrite it as they go."""
    ids = {port: secrets.token_hex(20) for port in ports}
    binary = server_binary(options.server.binary)
    return tuple(
        ServerProcess(
            binary, _sentinel_config(options, servers, ids, port), port=port, arguments=("--sentinel",)
        )
        for port in ids
    )


def _sentinel_config(
    options: SentinelOptions, servers: tuple[RedisServer, ...], ids: dict[int, str], own: int
) -> list[str]:
    name, (master, *replicas) = options.master_name, servers
    lines = [
        f"sentinel myid {ids[own]}",
        f"sentinel monitor {name} {HOST} {master.port} {options.sentinels // 2 + 1}",
        f"sentinel down-after-milliseconds {name} {int(options.down_after * 1000)}",
        f"sentinel failover-timeout {name} {int(options.failover_timeout * 1000)}",
        f"sentinel parallel-syncs {name} 1",
    ]
    if options.server.password is not None:
        lines.append(f"sentinel auth-pass {name} {quoted(options.server.password)}")
    lines += [f"sentinel known-replica {name} {HOST} {replica.port}" for replica in replicas]
    lines += [f"sentinel known-sentinel {name} {HOST} {port} {ids[port]}" for port in ids if port != own]
    return lines
